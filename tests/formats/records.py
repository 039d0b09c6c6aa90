"""Values and keys of the namespace by docs/formats.md, chapter "Records": postcard into dataclasses."""

import dataclasses
import enum
from collections.abc import Callable
from typing import TypeVar

T = TypeVar("T")

CHUNK_ID = 32
NODE_ENTRY = CHUNK_ID + 4
MAX_INLINE, MAX_NODE = 64, 4096


class Table(enum.IntEnum):
    SYSTEM = 1
    BUCKET = 2
    OBJECT = 3
    UPLOAD = 4
    PART = 5
    DUE = 6
    JOB = 7
    REMOTE_PACK = 8
    ACCESS = 9
    THAW = 10
    MANIFEST = 11
    VERSION = 12
    USER = 13
    EVENT = 14


ALGORITHMS = ("CRC32", "CRC32C", "CRC64NVME", "SHA1", "SHA256")
PRIORITIES = ("Bulk", "Standard", "Expedited")
STATES = ("Uploading", "Live", "Doomed")
VERSIONING = ("Off", "Enabled", "Suspended")
DUE_KINDS = {1: "action", 2: "abort", 3: "idle", 4: "protect"}


class BadValue(Exception):
    """A key or a value that is not what its table says; `offset` counts from its first byte."""

    def __init__(self, offset: int, what: str):
        super().__init__(what)
        self.offset = offset


class Reader:
    """Takes postcard's pieces from the front of a value."""

    def __init__(self, data: bytes, versions: tuple[int, ...] = (1,)):
        self.data = data
        self.at = 0
        self.version = self.take(1)[0]
        if self.version not in versions:
            raise BadValue(0, f"version {self.version} of the record is not known")

    def take(self, count: int) -> bytes:
        piece = self.data[self.at : self.at + count]
        if len(piece) != count:
            raise BadValue(self.at, f"the value ends within a field of {count} bytes")
        self.at += count
        return piece

    def varint(self, bits: int) -> int:
        start, value, shift = self.at, 0, 0
        while True:
            byte = self.take(1)[0]
            value |= (byte & 0x7F) << shift
            shift += 7
            if byte < 0x80:
                break
        if value >> bits:
            raise BadValue(start, f"{value} does not fit into {bits} bits")
        return value

    def u32(self) -> int:
        return self.varint(32)

    def u64(self) -> int:
        return self.varint(64)

    def u128(self) -> int:
        return self.varint(128)

    def text(self) -> str:
        start = self.at
        try:
            return self.take(self.u64()).decode()
        except UnicodeDecodeError as error:
            raise BadValue(start, f"text that is not UTF-8: {error}") from None

    def octets(self) -> bytes:
        return self.take(self.u64())

    def choice(self, cases: int) -> int:
        start, case = self.at, self.u32()
        if case >= cases:
            raise BadValue(start, f"case {case} of {cases}")
        return case

    def flag(self) -> bool:
        return bool(self.choice(2))

    def optional(self, read: Callable[[], T]) -> T | None:
        return read() if self.flag() else None

    def many(self, read: Callable[[], T]) -> list[T]:
        return [read() for _ in range(self.u64())]

    def pair(self) -> tuple[str, str]:
        return self.text(), self.text()

    def chunk_id(self) -> bytes:
        return self.take(CHUNK_ID)

    def end(self, value: T) -> T:
        if self.at != len(self.data):
            raise BadValue(self.at, f"{len(self.data) - self.at} bytes behind the last field")
        return value


@dataclasses.dataclass(frozen=True)
class Attributes:
    content_type: str | None
    cache_control: str | None
    content_disposition: str | None
    content_encoding: str | None
    content_language: str | None
    expires: str | None
    metadata: list[tuple[str, str]]
    tags: list[tuple[str, str]]
    storage_class: str | None
    owner: str | None = None
    acl: str | None = None
    encryption: tuple[bytes, bytes] | None = None
    retention: tuple[str, int] | None = None
    legal_hold: bool | None = None


@dataclasses.dataclass(frozen=True)
class Checksum:
    algorithm: str
    value: str
    composite: bool


@dataclasses.dataclass(frozen=True)
class PartInfo:
    number: int
    size: int
    etag: str
    modified: int
    checksum: Checksum | None
    nonce: bytes | None = None


@dataclasses.dataclass(frozen=True)
class Node:
    id: bytes
    chunks: int
    size: int


@dataclasses.dataclass(frozen=True)
class Body:
    """Either chunks, (id, length) each, or the nodes that name them; the other list is empty."""

    chunks: list[tuple[bytes, int]]
    nodes: list[Node]


@dataclasses.dataclass(frozen=True)
class Residency:
    state: str
    tier: str | None = None
    until: int | None = None


@dataclasses.dataclass(frozen=True)
class Object:
    version: int
    size: int
    etag: str
    created: int
    modified: int
    attributes: Attributes
    checksum: Checksum | None
    parts: list[PartInfo]
    body: Body
    residency: Residency
    restoring: int | None
    due: int | None
    idle: int | None
    waiting: int | None = None
    manifest: bytes | None = None
    null: bool = True
    marker: bool = False
    noncurrent_since: int | None = None
    retell: bool = False


@dataclasses.dataclass(frozen=True)
class Bucket:
    created: int
    owner: str | None = None
    versioning: str = "Off"
    settings: list[tuple[str, bytes]] = dataclasses.field(default_factory=list)


@dataclasses.dataclass(frozen=True)
class Upload:
    initiated: int
    attributes: Attributes
    checksum: tuple[str, bool] | None
    due: int | None


@dataclasses.dataclass(frozen=True)
class Part:
    info: PartInfo
    body: Body


@dataclasses.dataclass(frozen=True)
class Job:
    bucket: str
    key: str
    version: int
    tier: str
    days: int
    priority: str
    requested: int


@dataclasses.dataclass(frozen=True)
class RemotePack:
    name: str
    state: str
    size: int
    chunks: int
    created: int
    crc64: int | None
    etag: str | None
    references: int
    version: str | None


@dataclasses.dataclass(frozen=True)
class Thaw:
    requested: int
    priority: str


def attributes(r: Reader, later: bool) -> Attributes:
    kind, cache, disposition, encoding, language, expires = (r.optional(r.text) for _ in range(6))
    metadata, tags, storage_class = r.many(r.pair), r.many(r.pair), r.optional(r.text)
    new = ()
    if later:
        new = (r.optional(r.text), r.optional(r.text), r.optional(lambda: encryption(r)))
        new += (r.optional(lambda: retention(r)), r.optional(r.flag))
    return Attributes(kind, cache, disposition, encoding, language, expires, metadata, tags, storage_class, *new)


def retention(r: Reader) -> tuple[str, int]:
    """(mode, until)"""
    return ("governance", "compliance")[r.choice(2)], r.u64()


def encryption(r: Reader) -> tuple[bytes, bytes]:
    """(verifier of the customer's key, salt)"""
    r.choice(1)
    return r.take(32), r.take(16)


def checksum(r: Reader) -> Checksum:
    return Checksum(ALGORITHMS[r.choice(len(ALGORITHMS))], r.text(), r.flag())


def part_info(r: Reader, later: bool) -> PartInfo:
    old = (r.u32(), r.u64(), r.text(), r.u64(), r.optional(lambda: checksum(r)))
    return PartInfo(*old, r.optional(lambda: r.take(16)) if later else None)


def body(r: Reader) -> Body:
    start = r.at
    if r.choice(2):
        return Body([], r.many(lambda: Node(r.chunk_id(), r.u32(), r.u64())))
    chunks = r.many(lambda: (r.chunk_id(), r.u32()))
    if len(chunks) > MAX_INLINE:
        raise BadValue(start, f"{len(chunks)} chunks inline")
    return Body(chunks, [])


def residency(r: Reader) -> Residency:
    match r.choice(4 if r.version > 1 else 3):
        case 0:
            return Residency("Hot")
        case 1:
            return Residency("Cold", r.text())
        case 2:
            return Residency("Restored", r.text(), r.u64())
        case _:
            return Residency("Protected", r.text())


def read_object(data: bytes) -> Object:
    r = Reader(data, versions=(1, 2, 3))
    new = r.version > 2
    head = (r.u128(), r.u64(), r.text(), r.u64(), r.u64(), attributes(r, new), r.optional(lambda: checksum(r)))
    parts = r.many(lambda: part_info(r, new))
    tail = (body(r), residency(r), r.optional(r.u128), r.optional(r.u64), r.optional(r.u64))
    later = (r.optional(r.u64), r.optional(r.chunk_id)) if r.version > 1 else (None, None)
    kind = (r.flag(), r.flag(), r.optional(r.u64), r.flag()) if new else (True, False, None, False)
    return r.end(Object(*head, parts, *tail, *later, *kind))


def read_upload(data: bytes) -> Upload:
    r = Reader(data, versions=(1, 2))
    initiated, given = r.u64(), attributes(r, r.version > 1)
    promised = r.optional(lambda: (ALGORITHMS[r.choice(len(ALGORITHMS))], r.flag()))
    return r.end(Upload(initiated, given, promised, r.optional(r.u64)))


def read_part(data: bytes) -> Part:
    r = Reader(data, versions=(1, 2))
    return r.end(Part(part_info(r, r.version > 1), body(r)))


def read_job(data: bytes) -> Job:
    r = Reader(data)
    where = (r.text(), r.text(), r.u128(), r.text(), r.u32())
    return r.end(Job(*where, PRIORITIES[r.choice(len(PRIORITIES))], r.u64()))


def read_remote_pack(data: bytes) -> RemotePack:
    r = Reader(data, versions=(1, 2))
    head = (r.text(), STATES[r.choice(len(STATES))], r.u64(), r.u32(), r.u64())
    tail = (r.optional(r.u64), r.optional(r.text), r.u64())
    return r.end(RemotePack(*head, *tail, r.optional(r.text) if r.version > 1 else None))


def read_remote_footer(data: bytes) -> list[tuple[bytes, int, int]]:
    """(chunk id, offset, stored length) of each entry."""
    r = Reader(data)
    return r.end(r.many(lambda: (r.chunk_id(), r.u32(), r.u32())))


def read_thaw(data: bytes) -> Thaw:
    r = Reader(data)
    return r.end(Thaw(r.u64(), PRIORITIES[r.choice(len(PRIORITIES))]))


def read_bucket(data: bytes) -> Bucket:
    r = Reader(data, versions=(1, 2))
    created = r.u64()
    if r.version < 2:
        return r.end(Bucket(created))
    owner, versioning = r.optional(r.text), VERSIONING[r.choice(len(VERSIONING))]
    return r.end(Bucket(created, owner, versioning, r.many(lambda: (r.text(), r.octets()))))


@dataclasses.dataclass(frozen=True)
class Account:
    created: int
    id: str
    display_name: str
    email: str | None


@dataclasses.dataclass(frozen=True)
class AccessKey:
    access_key: str
    created: int
    ends: int | None
    sealed: bytes


@dataclasses.dataclass(frozen=True)
class User:
    created: int
    changed: int
    disabled: bool
    keys: list[AccessKey]
    policies: list[tuple[str, str]]


def user_key(key: bytes) -> tuple[str, ...]:
    """What it is of ("account", "user", "access key"), and its names, of the table User."""
    parts = [part.decode() for part in key.split(b"\0")]
    for letter, kind, count in (("a", "account", 2), ("u", "user", 3), ("k", "access key", 2)):
        if parts[0] == letter and len(parts) == count:
            return (kind, *parts[1:])
    raise BadValue(0, f"{key!r} is neither an account nor a user nor an access key")


def read_account(data: bytes) -> Account:
    r = Reader(data)
    account = Account(r.u64(), r.text(), r.text(), r.optional(r.text))
    if len(account.id) != 64 or set(account.id) - set("0123456789abcdef"):
        raise BadValue(2, f"{account.id!r} is no owner id")
    return r.end(account)


def access_key(r: Reader) -> AccessKey:
    return AccessKey(r.text(), r.u64(), r.optional(r.u64), r.take(r.u64()))


def read_user(data: bytes) -> User:
    r = Reader(data)
    return r.end(User(r.u64(), r.u64(), r.flag(), r.many(lambda: access_key(r)), r.many(r.pair)))


def read_key_owner(data: bytes) -> tuple[str, str]:
    """(account, user) of an access key."""
    r = Reader(data)
    return r.end(r.pair())


EVENTS = (
    "s3:TestEvent", "s3:ObjectCreated:Put", "s3:ObjectCreated:Post", "s3:ObjectCreated:Copy",
    "s3:ObjectCreated:CompleteMultipartUpload", "s3:ObjectRemoved:Delete", "s3:ObjectRemoved:DeleteMarkerCreated",
    "s3:ObjectRestore:Post", "s3:ObjectRestore:Completed", "s3:ObjectRestore:Delete", "s3:LifecycleTransition",
    "s3:LifecycleExpiration:Delete", "s3:LifecycleExpiration:DeleteMarkerCreated", "s3:ObjectTagging:Put",
    "s3:ObjectTagging:Delete", "s3:ObjectAcl:Put",
)  # fmt: skip


@dataclasses.dataclass(frozen=True)
class Event:
    kind: str
    at: int
    bucket: str
    owner: str | None
    rule: str
    key: str
    size: int | None
    etag: str | None
    version: tuple[int, bool] | None
    principal: str
    address: str
    request: str
    until: int | None
    storage_class: str | None


def read_event(data: bytes) -> Event:
    r = Reader(data)
    head = (EVENTS[r.choice(len(EVENTS))], r.u64(), r.text(), r.optional(r.text), r.text(), r.text())
    what = (r.optional(r.u64), r.optional(r.text), r.optional(lambda: (r.u128(), r.flag())))
    return r.end(Event(*head, *what, r.text(), r.text(), r.text(), r.optional(r.u64), r.optional(r.text)))


def read_access(data: bytes) -> int:
    """The time of the last read."""
    r = Reader(data)
    return r.end(r.u64())


def read_system(key: bytes, data: bytes) -> str | int:
    if key.startswith(b"lifecycle/") and data == b"walk":
        return data.decode()
    if key.startswith((b"policy-digest", b"lifecycle/")) and len(data) == 64:
        return data.decode()
    if (key.startswith((b"fence/", b"doomed/")) or key == b"recovery/floor") and len(data) == 8:
        return int.from_bytes(data, "little")
    raise BadValue(0, f"{key!r} with {len(data)} bytes")


def read_node(data: bytes) -> list[tuple[bytes, int]]:
    """The chunks of a manifest node, (id, length) each."""
    if data[:1] != b"\1" or len(data) % NODE_ENTRY != 1 or len(data) // NODE_ENTRY > MAX_NODE:
        raise BadValue(0, f"a manifest node of {len(data)} bytes that begins with {data[:1].hex()}")
    entries = [data[at : at + NODE_ENTRY] for at in range(1, len(data), NODE_ENTRY)]
    return [(entry[:CHUNK_ID], int.from_bytes(entry[CHUNK_ID:], "little")) for entry in entries]


@dataclasses.dataclass(frozen=True)
class Due:
    kind: str
    time: int
    subject: bytes


def bucket_and_key(key: bytes) -> tuple[str, str]:
    """Of the tables Object and Access."""
    bucket, nul, name = key.partition(b"\0")
    if not nul:
        raise BadValue(0, f"no NUL in {key!r}")
    return bucket.decode(), name.decode()


def version_key(key: bytes) -> tuple[str, str, int]:
    """(bucket, key, version id) of the table Version."""
    if len(key) < 17 or key[-17] != 0 or key[:-17].count(0) != 1:
        raise BadValue(0, f"no NUL before the version in {key!r}")
    return *bucket_and_key(key[:-17]), (1 << 128) - 1 - int.from_bytes(key[-16:], "big")


def version_subject(bucket: str, key: str, version: int) -> bytes:
    """The key in the table Version."""
    return f"{bucket}\0{key}\0".encode() + ((1 << 128) - 1 - version).to_bytes(16, "big")


def upload_key(key: bytes) -> tuple[str, str, str]:
    """(bucket, key, upload id) of the table Upload."""
    if key[-33:-32] != b"\0":
        raise BadValue(0, f"no NUL before the upload id in {key!r}")
    return *bucket_and_key(key[:-33]), key[-32:].decode()


def part_key(key: bytes) -> tuple[str, int]:
    """(upload id, number) of the table Part."""
    if len(key) != 36:
        raise BadValue(0, f"a part's key of {len(key)} bytes")
    return key[:32].decode(), int.from_bytes(key[32:], "big")


def due_key(key: bytes) -> Due:
    if len(key) < 9 or key[0] not in DUE_KINDS:
        raise BadValue(0, f"{key!r} is not due")
    return Due(DUE_KINDS[key[0]], int.from_bytes(key[1:9], "big"), key[9:])


def job_key(key: bytes) -> int:
    if len(key) != 16:
        raise BadValue(0, f"a job's key of {len(key)} bytes")
    return int.from_bytes(key, "big")


def tier_and_pack(key: bytes) -> tuple[str, bytes]:
    """(tier, pack id) of the tables RemotePack, Thaw and Manifest."""
    if len(key) < 17 or key[-17] != 0:
        raise BadValue(0, f"no NUL before the pack's id in {key!r}")
    return key[:-17].decode(), key[-16:]
