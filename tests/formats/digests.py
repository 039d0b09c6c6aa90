"""ETags and checksums of a body, computed while it passes, against what its record says."""

import base64
import functools
import hashlib
import zlib
from collections.abc import Callable
from typing import Protocol

from records import Checksum, PartInfo


class Hash(Protocol):
    def update(self, data: bytes, /) -> None: ...

    def digest(self) -> bytes: ...


class Crc32:
    def __init__(self) -> None:
        self.crc = 0

    def update(self, data: bytes) -> None:
        self.crc = zlib.crc32(data, self.crc)

    def digest(self) -> bytes:
        return self.crc.to_bytes(4, "big")


@functools.cache
def crc_table(polynomial: int) -> list[int]:
    table = []
    for value in range(256):
        for _ in range(8):
            value = (value >> 1) ^ (polynomial if value & 1 else 0)
        table.append(value)
    return table


class ReflectedCrc:
    """A reflected CRC with all bits set before and flipped after; plain, and slow."""

    def __init__(self, polynomial: int, size: int):
        self.size = size
        self.crc = self.ones = (1 << 8 * size) - 1
        self.table = crc_table(polynomial)

    def update(self, data: bytes) -> None:
        crc, table = self.crc, self.table
        for byte in data:
            crc = (crc >> 8) ^ table[(crc ^ byte) & 0xFF]
        self.crc = crc

    def digest(self) -> bytes:
        return (self.crc ^ self.ones).to_bytes(self.size, "big")


def new(algorithm: str) -> Hash:
    match algorithm:
        case "CRC32":
            return Crc32()
        case "CRC32C":
            return ReflectedCrc(0x82F63B78, 4)
        case "CRC64NVME":
            return ReflectedCrc(0x9A6C9329AC4BC9B5, 8)
        case _:
            return hashlib.new(algorithm)


def base64_text(data: bytes) -> str:
    return base64.b64encode(data).decode()


class Stretch:
    """A stretch of `size` bytes whose MD5 and checksum are known; either may be None."""

    def __init__(self, name: str, size: int, md5: str | None, checksum: Checksum | None):
        self.name, self.left = name, size
        self.expected: list[tuple[str, Hash, Callable[[bytes], str], str]] = []
        if md5 is not None:
            self.expected.append(("MD5", hashlib.md5(), bytes.hex, md5))
        if checksum:
            self.expected.append((checksum.algorithm, new(checksum.algorithm), base64_text, checksum.value))

    def update(self, data: bytes) -> None:
        self.left -= len(data)
        for _, digest, _, _ in self.expected:
            digest.update(data)

    def wrong(self) -> list[str]:
        if self.left:
            return [f"{self.name} lacks {self.left} bytes"]
        return [
            f"{name} of {self.name} is {text(digest.digest())}, its record says {said}"
            for name, digest, text, said in self.expected
            if text(digest.digest()) != said
        ]


class BodyCheck:
    """Takes a body piece by piece, and says in the end what of its record does not fit. Of an encrypted one only the length can
    be compared: its digests are those of what the client sent."""

    def __init__(self, size: int, etag: str, checksum: Checksum | None, parts: list[PartInfo], encrypted: bool = False):
        self.size, self.etag, self.checksum, self.parts = size, etag, checksum, parts
        of_all = None if encrypted or checksum and checksum.composite else checksum
        self.whole = Stretch("the body", size, None if encrypted or "-" in etag else etag, of_all)
        self.stretches = [
            Stretch(f"part {part.number}", part.size, *((None, None) if encrypted else (part.etag, part.checksum)))
            for part in parts
        ]
        self.current = 0

    def update(self, data: bytes) -> None:
        self.whole.update(data)
        while data and self.current < len(self.stretches):
            stretch = self.stretches[self.current]
            piece, data = data[: stretch.left], data[stretch.left :]
            stretch.update(piece)
            if not stretch.left:
                self.current += 1

    def wrong(self) -> list[str]:
        found = [line for stretch in [self.whole, *self.stretches] for line in stretch.wrong()]
        if self.parts and sum(part.size for part in self.parts) != self.size:
            found.append("the parts' sizes are not the body's")
        try:
            if "-" in self.etag:
                digests = [bytes.fromhex(part.etag) for part in self.parts]
                found += self._composite("ETag", hashlib.md5(), digests, bytes.hex, self.etag)
            if self.checksum and self.checksum.composite:
                digests = [base64.b64decode(part.checksum.value) for part in self.parts if part.checksum]
                digest = new(self.checksum.algorithm)
                found += self._composite("checksum", digest, digests, base64_text, self.checksum.value)
        except ValueError as error:
            found.append(f"a part's ETag or checksum: {error}")
        return found

    def _composite(
        self, name: str, digest: Hash, pieces: list[bytes], text: Callable[[bytes], str], said: str
    ) -> list[str]:
        """The digest of the parts' digests, `-`, and the number of parts."""
        digest.update(b"".join(pieces))
        computed = f"{text(digest.digest())}-{len(self.parts)}"
        return [] if said == computed else [f"the {name} by the parts is {computed}, the record says {said}"]
