"""Packs by docs/formats.md, chapter "Packs": header, frames, footer, trailer; sealed, unsealed and torn ones."""

import dataclasses
import mmap
import pathlib
import struct
import zlib

import zstandard
from blake3 import blake3

from damage import Damage

HEADER = struct.Struct("<8sHBB16sQI")
FRAME = struct.Struct("<4sBBHII32sI")
ENTRY = struct.Struct("<32sIIIBBH")
TRAILER = struct.Struct("<III16sI8s")
MAGIC, FRAME_MAGIC, END_MAGIC = b"TGPACK1\n", b"TGFR", b"TGPKEND\n"
CLASSES = ("hot", "cache", "main", "remote")
CHUNK, NODE, MANIFESTS = 1, 2, 3
KINDS = {CHUNK: "chunk", NODE: "node", MANIFESTS: "manifests"}
VERSIONS = (1, 2)
RAW, ZSTD = 0, 1
CODECS = {RAW: "raw", ZSTD: "zstd"}
MAX_LENGTH = 1 << 24


@dataclasses.dataclass(frozen=True)
class Frame:
    """Where a chunk is in its pack, and how it is stored; what frame headers and footer entries say alike."""

    offset: int
    kind: int
    codec: int
    raw_length: int
    stored_length: int
    id: bytes

    @property
    def end(self) -> int:
        return self.offset + FRAME.size + self.stored_length


@dataclasses.dataclass
class Scan:
    """What a walk over the frames found. `torn` is the unfinished end of an unsealed pack, which is no damage."""

    frames: list[Frame]
    damage: list[Damage]
    torn: Damage | None = None


class NeverWritten(Damage):
    """An unsealed pack whose header is not there: a crash came before the first bytes were durable. No damage."""


class Pack:
    """One pack file. Opening reads the header and, when it is there, the footer; both must be good.

    `footer` is None for an unsealed pack."""

    def __init__(self, path: pathlib.Path):
        self.path = path
        with open(path, "rb") as file:
            self.size = path.stat().st_size
            if self.size < HEADER.size:
                kind = NeverWritten if path.suffix == ".open" else Damage
                raise kind(path, 0, f"{self.size} bytes are no pack")
            self.data = mmap.mmap(file.fileno(), 0, access=mmap.ACCESS_READ)
        magic, version, kind, _, self.id, self.created, crc = HEADER.unpack_from(self.data)
        if path.suffix == ".open" and not any(self.data[: HEADER.size]):
            raise NeverWritten(path, 0, "zeros where the header is due")
        if magic != MAGIC:
            raise Damage(path, 0, f"the magic of a pack is missing, there is {magic!r}")
        if crc != zlib.crc32(self.data[: HEADER.size - 4]):
            raise Damage(path, 0, "the header's CRC does not fit")
        if version not in VERSIONS:
            raise Damage(path, 8, f"version {version} of the pack format is not known")
        if kind >= len(CLASSES):
            raise Damage(path, 10, f"class {kind} is not known")
        self.kind = CLASSES[kind]
        self.frames_end = self.size
        self.damage: list[Damage] = []
        self.torn: Damage | None = None
        self.footer: list[Frame] | None = None
        try:
            self.footer = self._read_footer()
        except Damage as damage:
            self.damage.append(damage)

    def _read_footer(self) -> list[Frame] | None:
        at = self.size - TRAILER.size
        if at < HEADER.size or self.data[self.size - 8 :] != END_MAGIC:
            if self.path.suffix == ".pack":
                raise Damage(self.path, max(at, 0), "no trailer at the end of a sealed pack")
            return None
        count, length, entries_crc, pack_id, crc, _ = TRAILER.unpack_from(self.data, at)
        if crc != zlib.crc32(self.data[at : at + 28]):
            raise Damage(self.path, at, "the trailer's CRC does not fit")
        if pack_id != self.id:
            raise Damage(self.path, at + 12, f"the trailer is of pack {pack_id.hex()}, the header of {self.id.hex()}")
        start = at - length
        if length != count * ENTRY.size or start < HEADER.size:
            raise Damage(self.path, at, f"{count} entries cannot take {length} bytes")
        entries = self.data[start:at]
        if entries_crc != zlib.crc32(entries):
            raise Damage(self.path, start, "the CRC of the footer's entries does not fit")
        self.frames_end = start
        frames = []
        for chunk_id, offset, stored, raw, kind, codec, _ in ENTRY.iter_unpack(entries):
            frames.append(Frame(offset, kind, codec, raw, stored, chunk_id))
        return frames

    @property
    def sealed(self) -> bool:
        return self.footer is not None

    def frame_at(self, at: int) -> Frame:
        """The frame whose header stands at `at`, without its bytes."""
        if at + FRAME.size > self.frames_end:
            raise Damage(self.path, at, "the frames end within a frame's header")
        magic, kind, codec, flags, raw, stored, chunk_id, crc = FRAME.unpack_from(self.data, at)
        if magic != FRAME_MAGIC:
            raise Damage(self.path, at, f"the magic of a frame is missing, there is {magic!r}")
        if crc != zlib.crc32(self.data[at : at + FRAME.size - 4]):
            raise Damage(self.path, at, "the frame header's CRC does not fit")
        if kind not in KINDS or codec not in CODECS or flags or max(raw, stored) >= MAX_LENGTH:
            raise Damage(self.path, at, f"kind {kind}, codec {codec}, flags {flags}, lengths {raw} and {stored}")
        frame = Frame(at, kind, codec, raw, stored, chunk_id)
        if frame.end > self.frames_end:
            raise Damage(self.path, at, f"the frames end within a chunk of {stored} bytes")
        return frame

    def chunk(self, frame: Frame) -> bytes:
        """The raw chunk of a frame: its header is as `frame` says, its length and digest are right."""
        found = self.frame_at(frame.offset)
        if found != frame:
            raise Damage(self.path, frame.offset, f"the frame is {found}, the footer says {frame}")
        raw = self.data[frame.offset + FRAME.size : frame.end]
        if frame.codec == ZSTD:
            try:
                unpack = zstandard.ZstdDecompressor()
                raw = unpack.decompress(raw, max_output_size=max(frame.raw_length, 1), allow_extra_data=False)
            except zstandard.ZstdError as error:
                raise Damage(self.path, frame.offset, f"chunk {frame.id.hex()} does not decompress: {error}") from None
        if len(raw) != frame.raw_length:
            raise Damage(
                self.path, frame.offset, f"chunk {frame.id.hex()} has {len(raw)} bytes, not {frame.raw_length}"
            )
        if blake3(raw).digest() != frame.id:
            raise Damage(self.path, frame.offset, f"chunk {frame.id.hex()} does not have its BLAKE3")
        return raw

    def scan(self) -> Scan:
        """Walks all frames and verifies each, whatever the footer says."""
        result = Scan([], [])
        at = HEADER.size
        while at < self.frames_end:
            try:
                frame = self.frame_at(at)
            except Damage as damage:
                if not self.sealed and not any(self.data[at:]):
                    break  # zeros that were written ahead
                following = self._next_good(at + 1)
                if following is None and not self.sealed:
                    result.torn = damage
                    break
                result.damage.append(damage)
                at = self.frames_end if following is None else following
                continue
            try:
                self.chunk(frame)
                result.frames.append(frame)
            except Damage as damage:
                if not self.sealed and self._next_good(frame.end) is None:
                    result.torn = damage
                    break
                result.damage.append(damage)
            at = frame.end
        return result

    def _next_good(self, at: int) -> int | None:
        """The next place that has a good frame: header and digest."""
        while (at := self.data.find(FRAME_MAGIC, at, self.frames_end)) >= 0:
            try:
                self.chunk(self.frame_at(at))
                return at
            except Damage:
                at += 1
        return None

    def verify(self) -> Scan:
        """The walk, and whether the footer says the same."""
        scan = self.scan()
        if self.footer is None:
            scan.damage[:0] = self.damage
            return scan
        by_offset = {frame.offset: frame for frame in scan.frames}
        known = by_offset.keys() | {damage.offset for damage in scan.damage}
        for number, entry in enumerate(self.footer):
            if entry.offset not in known or by_offset.get(entry.offset, entry) != entry:
                where = self.frames_end + number * ENTRY.size
                scan.damage.append(Damage(self.path, where, f"entry {number} of the footer is {entry}, no such frame"))
        missing = by_offset.keys() - {entry.offset for entry in self.footer}
        scan.damage += [
            Damage(self.path, offset, "the footer has no entry of this frame") for offset in sorted(missing)
        ]
        if [entry.offset for entry in self.footer] != sorted(entry.offset for entry in self.footer):
            scan.damage.append(Damage(self.path, self.frames_end, "the footer is not in the order of the frames"))
        return scan

    def frames(self) -> list[Frame]:
        """The frames by the footer; without one by a walk, whose findings are kept in `damage` and `torn`."""
        if self.footer is not None:
            return self.footer
        scan = self.scan()
        self.damage += scan.damage
        self.torn = scan.torn
        return scan.frames
