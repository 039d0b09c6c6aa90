"""The small files beside journal and packs, by docs/formats.md: index.json, deployment, damaged.list, index.snap."""

import dataclasses
import json
import pathlib
import re
import struct
import zlib
from typing import Any

from damage import Damage
from packs import Frame

DAMAGED = struct.Struct("<16sII")
PACK = struct.Struct("<16sQQQQ")
ENTRY = struct.Struct("<31sI3s3sB")
STATES = ("open", "clean", "rebuilding")


def read_deployment(path: pathlib.Path) -> str:
    text = path.read_text(errors="replace")
    if not re.fullmatch("[0-9a-f]{32}", text):
        raise Damage(path, 0, f"{text!r} are not 32 hexadecimal digits")
    return text


def read_marker(path: pathlib.Path) -> dict[str, Any] | None:
    """index.json, which says what the index is worth; None when there is none."""
    if not path.exists():
        return None
    try:
        marker = json.loads(path.read_text())
    except ValueError as error:
        raise Damage(path, 0, f"not JSON: {error}") from None
    kinds = {"version": int, "state": str, "boot_id": str, "generation": str, "seq": int}
    if not isinstance(marker, dict) or {name: type(value) for name, value in marker.items()} != kinds:
        raise Damage(path, 0, f"not the fields that it must have: {marker}")
    if (
        marker["version"] != 1
        or marker["state"] not in STATES
        or not re.fullmatch("[0-9a-f]{32}", marker["generation"])
    ):
        raise Damage(path, 0, f"values that are not known: {marker}")
    return marker


def read_damaged_list(path: pathlib.Path) -> set[tuple[bytes, int]]:
    """(pack id, offset) of the frames that the server found damaged. Lines that are not good are passed over."""
    found: set[tuple[bytes, int]] = set()
    data = path.read_bytes() if path.exists() else b""
    for pack_id, offset, crc in DAMAGED.iter_unpack(data[: len(data) - len(data) % DAMAGED.size]):
        if crc == zlib.crc32(DAMAGED.pack(pack_id, offset, 0)[:20]):
            found.add((pack_id, offset))
    return found


@dataclasses.dataclass(frozen=True)
class IndexedPack:
    id: bytes
    length: int
    frames: int
    raw_bytes: int
    stored_bytes: int


@dataclasses.dataclass(frozen=True)
class IndexedChunk:
    id: bytes
    pack: IndexedPack
    offset: int
    stored_length: int
    kind: int
    codec: int

    def is_among(self, places: list[tuple[bytes, Frame]]) -> bool:
        """Whether one of (pack id, frame) is what this says."""
        said = (self.pack.id, self.offset, self.stored_length, self.kind, self.codec)
        return any(said == (pack_id, f.offset, f.stored_length, f.kind, f.codec) for pack_id, f in places)


def read_index(path: pathlib.Path) -> tuple[list[IndexedPack], list[IndexedChunk]]:
    """index.snap: the packs that it covers and where it says that chunks are; nothing when there is none."""
    if not path.exists():
        return [], []
    data = path.read_bytes()

    def number(at: int) -> int:
        if at + 4 > len(data):
            raise Damage(path, at, "the file ends too early")
        return int.from_bytes(data[at : at + 4], "little")

    def check(start: int, end: int) -> None:
        if number(end) != zlib.crc32(data[start:end]):
            raise Damage(path, start, "the CRC does not fit")

    if data[:8] != b"TGINDX1\n":
        raise Damage(path, 0, "the magic of the chunk index is missing")
    at = 12 + PACK.size * number(8)
    check(0, at)
    packs = [IndexedPack(*fields) for fields in PACK.iter_unpack(data[12:at])]
    chunks = []
    at += 4
    for first in range(256):
        end = at + 4 + ENTRY.size * number(at)
        check(at, end)
        for rest, offset, stored, ordinal, flags in ENTRY.iter_unpack(data[at + 4 : end]):
            if (place := int.from_bytes(ordinal, "little")) >= len(packs):
                raise Damage(path, at, f"an entry of pack {place}, there are {len(packs)}")
            stored_length = int.from_bytes(stored, "little")
            chunk_id = bytes([first]) + rest
            kind = flags & 3 or 1  # 0 is a chunk that evictions spare
            chunks.append(IndexedChunk(chunk_id, packs[place], offset, stored_length, kind, flags >> 2 & 1))
        at = end + 4
    if data[at:] != b"TGIXEND\n":
        raise Damage(path, at, "the end of the chunk index is missing")
    return packs, chunks
