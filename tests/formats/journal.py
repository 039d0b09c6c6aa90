"""Journal and snapshots by docs/formats.md, chapters "Journal" and "Snapshot": from files to the state of the tables."""

import dataclasses
import pathlib
import struct
from collections.abc import Iterator

from blake3 import blake3

from damage import Damage

SEGMENT = struct.Struct("<8sHHIQQQQ16s")
RECORD = struct.Struct("<4sBBHIIQQQQ16s")
OPERATION = struct.Struct("<BBHI")
SNAPSHOT = struct.Struct("<8sHHIQQQQ16s")
BLOCK = struct.Struct("<4sIII16s")
TRAILER = struct.Struct("<4sIQQQ32s")
MAX_BODY, MAX_BLOCK, MAX_KEY = 16 << 20, 32 << 20, 8192


@dataclasses.dataclass(frozen=True)
class Operation:
    """What is at a key: `value` None removes it. `path` and `offset` say where this stands."""

    table: int
    key: bytes
    value: bytes | None
    path: pathlib.Path
    offset: int


@dataclasses.dataclass(frozen=True)
class Record:
    """A record whose checksum is right. `body_at` and `end` are offsets in the segment."""

    reason: int
    epoch: int
    seq: int
    durable: int
    time: int
    count: int
    body: bytes
    path: pathlib.Path
    body_at: int
    end: int

    @property
    def operations(self) -> list[Operation]:
        return operations(self.body, self.count, self.path, self.body_at)


@dataclasses.dataclass(frozen=True)
class Snapshot:
    path: pathlib.Path
    start: int
    end: int
    epoch: int
    entries: list[Operation]


class State:
    """The tables after snapshot and journal: {table: {key: the operation that wrote it}}."""

    def __init__(self) -> None:
        self.tables: dict[int, dict[bytes, Operation]] = {}
        self.snapshot: Snapshot | None = None
        self.seq = 0
        self.epoch = 0
        self.torn: Damage | None = None
        self.damage: list[Damage] = []

    def apply(self, operation: Operation) -> None:
        table = self.tables.setdefault(operation.table, {})
        if operation.value is None:
            table.pop(operation.key, None)
        else:
            table[operation.key] = operation

    def table(self, number: int) -> dict[bytes, Operation]:
        return self.tables.get(number, {})


def checksum(*pieces: bytes) -> bytes:
    digest = blake3()
    for piece in pieces:
        digest.update(piece)
    return digest.digest()[:16]


def operations(body: bytes, count: int | None, path: pathlib.Path, base: int) -> list[Operation]:
    """The operations of a record's or block's body, which begins at `base` of the file and must be used up. `count` is how many the
    header says, where one does."""
    found: list[Operation] = []
    at = 0
    while at < len(body):
        if at + OPERATION.size > len(body):
            raise Damage(path, base + at, "the body ends within an operation")
        table, kind, key_length, value_length = OPERATION.unpack_from(body, at)
        key_at = at + OPERATION.size
        value_at = key_at + key_length
        end = value_at + value_length
        if kind > 1 or key_length > MAX_KEY or end > len(body) or (kind == 0 and value_length):
            raise Damage(path, base + at, f"operation of kind {kind}, lengths {key_length} and {value_length}")
        value = body[value_at:end] if kind else None
        found.append(Operation(table, body[key_at:value_at], value, path, base + at))
        at = end
    if count is not None and len(found) != count:
        raise Damage(path, base, f"{len(found)} operations, the header says {count}")
    return found


def read_record(data: bytes, at: int, path: pathlib.Path) -> Record:
    """The record at `at`. What its place in the sequence demands is checked by the caller."""
    if at + RECORD.size > len(data):
        raise Damage(path, at, "the file ends within a record's header")
    magic, version, _, reason, length, count, epoch, seq, durable, time, check = RECORD.unpack_from(data, at)
    if magic != b"TGJ1":
        raise Damage(path, at, f"the magic of a record is missing, there is {magic!r}")
    body_at = at + RECORD.size
    if length > MAX_BODY or body_at + length + -length % 8 > len(data):
        raise Damage(path, at, f"a body of {length} bytes does not fit")
    body = data[body_at : body_at + length]
    if checksum(data[at : at + 48], body) != check:
        raise Damage(path, at, "the record's checksum does not fit")
    if version != 1:
        raise Damage(path, at + 4, f"version {version} of the record format is not known")
    end = body_at + length
    return Record(reason, epoch, seq, durable, time, count, body, path, body_at, end + -end % 8)


def read_header(layout: struct.Struct, magic: bytes, data: bytes, path: pathlib.Path) -> tuple[int, int, int]:
    """(number in the name, epoch, creation) of a segment's or snapshot's header; both are laid out alike."""
    if len(data) < layout.size:
        raise Damage(path, 0, f"{len(data)} bytes are no header")
    found, version, length, _, number, epoch, created, _, check = layout.unpack_from(data)
    if found != magic:
        raise Damage(path, 0, f"the magic {magic!r} is missing, there is {found!r}")
    if checksum(data[:48]) != check:
        raise Damage(path, 0, "the header's checksum does not fit")
    if version != 1 or length != layout.size:
        raise Damage(path, 8, f"version {version} with a header of {length} bytes is not known")
    if path.stem != f"{number:020}":
        raise Damage(path, 16, f"the header is of {number:020}")
    return number, epoch, created


def cut_off(data: bytes, damage: Damage, missing: int, path: pathlib.Path) -> bool:
    """Whether an invalid record is the unfinished write of a crash: no later record knew `missing` to be durable."""
    at = damage.offset
    while (at := data.find(b"TGJ1", at + 1)) >= 0:
        if at % 8 == 0:
            try:
                if read_record(data, at, path).durable >= missing:
                    return False
            except Damage:
                pass
    return True


def read_journal(folder: pathlib.Path, state: State, after: int) -> Iterator[Record]:
    """The records from the segment on that has the record behind `after`, in order. Leaves the unfinished end in
    `state.torn`; damage is raised."""
    segments = sorted(folder.glob("*.seg"))
    before = [path for path in segments if int(path.stem) <= after + 1]
    segments = segments[max(len(before) - 1, 0) :]
    seq, epoch = None, 0
    for number, path in enumerate(segments):
        data = path.read_bytes()
        first, segment_epoch, _ = read_header(SEGMENT, b"TGJSEG1\n", data, path)
        if seq is None:
            if first > after + 1:
                raise Damage(path, 16, f"records {after + 1} to {first - 1} are missing")
            seq = first
        elif first != seq:
            raise Damage(path, 16, f"the segment begins with record {first}, the one before ends with {seq - 1}")
        if segment_epoch < epoch:
            raise Damage(path, 24, f"epoch {segment_epoch} after {epoch}")
        epoch = segment_epoch
        at = SEGMENT.size
        while at < len(data) and (any(data[at : at + RECORD.size]) or any(data[at:])):
            start = at
            try:
                record = read_record(data, at, path)
                if record.seq != seq:
                    raise Damage(path, at + 24, f"record {record.seq} stands where {seq} is due")
                if record.epoch < epoch:
                    raise Damage(path, at + 16, f"epoch {record.epoch} after {epoch}")
            except Damage as damage:
                if number + 1 < len(segments) or not cut_off(data, Damage(path, start, ""), seq, path):
                    raise
                state.torn = damage
                return
            yield record
            seq, epoch, at = seq + 1, record.epoch, record.end


def read_snapshot(path: pathlib.Path) -> Snapshot:
    data = path.read_bytes()
    start, epoch, _ = read_header(SNAPSHOT, b"TGSNAP1\n", data, path)
    at, entries = SNAPSHOT.size, []
    while data[at : at + 4] == b"TGSB" and at + BLOCK.size <= len(data):
        _, length, count, _, check = BLOCK.unpack_from(data, at)
        body_at = at + BLOCK.size
        body = data[body_at : body_at + length]
        if length > MAX_BLOCK or len(body) != length or checksum(data[at : at + 16], body) != check:
            raise Damage(path, at, f"a block of {length} bytes is cut off, or its checksum does not fit")
        entries += operations(body, count, path, body_at)
        at = body_at + length
    if len(data) - at != TRAILER.size:
        raise Damage(path, at, "neither a block nor the trailer")
    magic, _, count, end, before, digest = TRAILER.unpack_from(data, at)
    if magic != b"TGSE" or before != at or count != len(entries):
        raise Damage(
            path, at, f"the trailer {magic!r} is of {count} entries in {before} bytes, there are {len(entries)} in {at}"
        )
    if digest != blake3(data[:-32]).digest():
        raise Damage(path, at + 32, "the file's BLAKE3 does not fit")
    keys = [(entry.table, entry.key) for entry in entries]
    if any(entry.value is None for entry in entries) or keys != sorted(set(keys)):
        raise Damage(path, SNAPSHOT.size, "an entry removes a key, or entries are out of order")
    return Snapshot(path, start, end, epoch, entries)


def replay(data_dir: pathlib.Path, snapshot: Snapshot | None) -> State:
    """The state by a snapshot and the journal from the record after its start; without one by the journal alone."""
    state = State()
    if snapshot:
        state.snapshot, state.seq, state.epoch = snapshot, snapshot.start, snapshot.epoch
        for entry in snapshot.entries:
            state.apply(entry)
    for record in read_journal(data_dir / "journal", state, state.seq):
        if record.seq > state.seq:
            state.seq, state.epoch = record.seq, record.epoch
            for operation in record.operations:
                state.apply(operation)
    return state


def read_state(data_dir: pathlib.Path) -> State:
    """By the newest good snapshot that the journal continues, and whose end it reaches."""
    oldest = min((int(path.stem) for path in (data_dir / "journal").glob("*.seg")), default=1)
    refused: list[Damage] = []
    for path in sorted((data_dir / "snapshots").glob("*.snap"), reverse=True):
        try:
            snapshot = read_snapshot(path)
        except Damage as damage:
            refused.append(damage)
            continue
        if snapshot.start + 1 < oldest:
            continue
        state = replay(data_dir, snapshot)
        if state.seq >= snapshot.end:
            state.damage = refused
            return state
        refused.append(Damage(path, 0, f"needs record {snapshot.end}, the journal ends with {state.seq}"))
    if refused and oldest > 1:
        raise refused[0]
    state = replay(data_dir, None)
    state.damage = refused
    return state
