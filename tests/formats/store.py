"""A whole store by docs/formats.md: its namespace decoded, its packs and its tiers' packs found, its bodies put together."""

import dataclasses
import pathlib
import re
from collections.abc import Callable, Iterator, Set
from typing import TypeVar

import beside
import records
from damage import Damage
from digests import BodyCheck
from journal import Operation, State, read_state
from packs import Frame, NeverWritten, Pack
from records import BadValue, Body, Bucket, Object, Part, RemotePack, Table

K = TypeVar("K")
T = TypeVar("T")
RemoteFooter = list[tuple[bytes, int, int]]


class Missing(Exception):
    """A chunk that no pack at hand has in good order."""


def decoded(operation: Operation, read: Callable[..., T], *data: bytes) -> T:
    """What `read` makes of a key or value; what it refuses becomes damage at the operation's place."""
    try:
        return read(*data)
    except (BadValue, UnicodeDecodeError) as error:
        what = f"table {operation.table}, key {operation.key!r}: {error}"
        raise Damage(operation.path, operation.offset, what) from None


class Namespace:
    """Every record of every table, decoded."""

    def __init__(self, state: State, damage: list[Damage]):
        self.places: dict[int, Operation] = {}
        self.buckets: dict[str, Bucket] = {}
        self.objects: dict[tuple[str, str], Object] = {}
        self.versions: dict[tuple[str, str, int], Object] = {}
        self.uploads: dict[tuple[str, str, str], records.Upload] = {}
        self.parts: dict[tuple[str, int], Part] = {}
        self.due: list[records.Due] = []
        self.jobs: dict[int, records.Job] = {}
        self.remote: dict[tuple[str, bytes], RemotePack] = {}
        self.access: dict[tuple[str, str], int] = {}
        self.thaws: dict[tuple[str, bytes], records.Thaw] = {}
        self.footers: dict[tuple[str, bytes], RemoteFooter] = {}
        self.accounts: dict[str, records.Account] = {}
        self.users: dict[tuple[str, str], records.User] = {}
        self.key_owners: dict[str, tuple[str, str]] = {}
        self.events: dict[tuple[str, bytes], records.Event] = {}
        self.system: dict[str, str | int] = {}
        for number, table in sorted(state.tables.items()):
            for key, operation in sorted(table.items()):
                try:
                    self._add(number, key, operation)
                except Damage as found:
                    damage.append(found)

    def bodies(self) -> dict[tuple[str, ...], Object]:
        """Every version that has a body: the visible ones by bucket and key, the others with their ids in hexadecimal."""
        others = {(b, k, f"{v:032x}"): o for (b, k, v), o in self.versions.items() if not o.marker}
        return {**self.objects, **others}

    def _add(self, number: int, key: bytes, operation: Operation) -> None:
        value = operation.value or b""

        def put(into: dict[K, T], read_key: Callable[[bytes], K], read_value: Callable[[bytes], T]) -> None:
            into[decoded(operation, read_key, key)] = decoded(operation, read_value, value)

        match number:
            case Table.SYSTEM:
                self.system[decoded(operation, bytes.decode, key)] = decoded(operation, records.read_system, key, value)
            case Table.BUCKET:
                put(self.buckets, bytes.decode, records.read_bucket)
            case Table.OBJECT:
                put(self.objects, records.bucket_and_key, records.read_object)
            case Table.VERSION:
                put(self.versions, records.version_key, records.read_object)
            case Table.UPLOAD:
                put(self.uploads, records.upload_key, records.read_upload)
            case Table.PART:
                put(self.parts, records.part_key, records.read_part)
            case Table.DUE:
                self.due.append(decoded(operation, records.due_key, key))
                if value:
                    raise Damage(operation.path, operation.offset, f"{key!r} is due with a value")
            case Table.JOB:
                put(self.jobs, records.job_key, records.read_job)
            case Table.REMOTE_PACK:
                put(self.remote, records.tier_and_pack, records.read_remote_pack)
            case Table.ACCESS:
                put(self.access, records.bucket_and_key, records.read_access)
            case Table.THAW:
                put(self.thaws, records.tier_and_pack, records.read_thaw)
            case Table.MANIFEST:
                put(self.footers, records.tier_and_pack, records.read_remote_footer)
            case Table.USER:
                kind, *names = decoded(operation, records.user_key, key)
                if kind == "account":
                    self.accounts[names[0]] = decoded(operation, records.read_account, value)
                elif kind == "user":
                    self.users[names[0], names[1]] = decoded(operation, records.read_user, value)
                else:
                    self.key_owners[names[0]] = decoded(operation, records.read_key_owner, value)
            case Table.EVENT:
                put(self.events, records.tier_and_pack, records.read_event)
            case _:
                raise Damage(operation.path, operation.offset, f"table {number} is not known")


class Chunks:
    """Where chunks are: every frame of every pack at hand, by chunk id. Local packs are asked first."""

    def __init__(self, damage: list[Damage], notes: list[str]):
        self.damage, self.notes = damage, notes
        self.places: dict[bytes, list[tuple[Pack, Frame]]] = {}
        self.packs: dict[pathlib.Path, Pack] = {}

    def add(self, path: pathlib.Path, known_bad: Set[tuple[bytes, int]] = frozenset()) -> Pack | None:
        try:
            pack = Pack(path)
        except NeverWritten as found:
            self.notes.append(f"pack without content: {found}")
            return None
        except Damage as found:
            self.damage.append(found)
            return None
        self.packs[path] = pack
        frames = pack.frames()
        self.damage += pack.damage
        if pack.torn:
            self.notes.append(f"torn end of a pack, cut off: {pack.torn}")
        for frame in frames:
            if (pack.id, frame.offset) not in known_bad:
                self.places.setdefault(frame.id, []).append((pack, frame))
        return pack

    def read(self, chunk_id: bytes) -> bytes:
        for pack, frame in list(self.places.get(chunk_id, [])):
            try:
                return pack.chunk(frame)
            except Damage as found:
                self.damage.append(found)
                self.places[chunk_id].remove((pack, frame))
        raise Missing(f"chunk {chunk_id.hex()} is in no pack")

    def body(self, body: Body) -> Iterator[bytes]:
        yield from self._list(body.chunks)
        for node in body.nodes:
            chunks = decode_node(self.read(node.id), node)
            yield from self._list(chunks)

    def _list(self, chunks: list[tuple[bytes, int]]) -> Iterator[bytes]:
        for chunk_id, length in chunks:
            raw = self.read(chunk_id)
            if len(raw) != length:
                raise Missing(f"chunk {chunk_id.hex()} has {len(raw)} bytes, its list says {length}")
            yield raw


def decode_node(raw: bytes, node: records.Node) -> list[tuple[bytes, int]]:
    try:
        chunks = records.read_node(raw)
    except BadValue as error:
        raise Missing(f"node {node.id.hex()}: {error}") from None
    size = sum(length for _, length in chunks)
    if (len(chunks), size) != (node.chunks, node.size):
        raise Missing(
            f"node {node.id.hex()} has {len(chunks)} chunks of {size} bytes, not {node.chunks} of {node.size}"
        )
    return chunks


@dataclasses.dataclass
class Counts:
    """For the summary."""

    objects: int = 0
    bytes: int = 0
    parts: int = 0
    unreadable: int = 0


class Store:
    """A stopped server's data directory, and folders with what its tiers hold under their prefixes."""

    def __init__(self, data_dir: pathlib.Path, tiers: dict[str, pathlib.Path]):
        self.damage: list[Damage] = []
        self.notes: list[str] = []
        self.counts = Counts()
        self.data_dir = data_dir
        self.state = read_state(data_dir)
        self.damage += self.state.damage
        if self.state.torn:
            self.notes.append(f"torn end of the journal, cut off: {self.state.torn}")
        self.names = Namespace(self.state, self.damage)
        self.chunks = Chunks(self.damage, self.notes)
        self.deployment = beside.read_deployment(data_dir / "deployment")
        self._add_local(data_dir / "packs")
        marker = self._try(beside.read_marker, data_dir / "index.json")
        if marker and marker["seq"] > self.state.seq:
            what = f"the index has record {marker['seq']}, the journal ends with {self.state.seq}"
            self.damage.append(Damage(data_dir / "index.json", 0, what))
        for tier, folder in tiers.items():
            self._add_tier(tier, folder)

    def _try(self, read: Callable[[pathlib.Path], T], path: pathlib.Path) -> T | None:
        """What `read` finds in a file that nothing depends on."""
        try:
            return read(path)
        except Damage as found:
            self.damage.append(found)
            return None

    def _add_local(self, folder: pathlib.Path) -> None:
        bad = beside.read_damaged_list(folder / "damaged.list")
        for path in sorted([*folder.glob("*.pack"), *folder.glob("*.open")]):
            pack = self.chunks.add(path, bad)
            if pack and path.stem != pack.id.hex():
                self.damage.append(Damage(path, 12, f"the header is of pack {pack.id.hex()}"))
        here = {pack.id for pack in self.chunks.packs.values()}
        _, chunks = self._try(beside.read_index, folder / "index.snap") or ([], [])
        for chunk in chunks:
            found = [(pack.id, frame) for pack, frame in self.chunks.places.get(chunk.id, [])]
            if chunk.pack.id in here and (chunk.pack.id, chunk.offset) not in bad and not chunk.is_among(found):
                self.damage.append(Damage(folder / "index.snap", 0, f"{chunk} is not there"))

    def _add_tier(self, tier: str, folder: pathlib.Path) -> None:
        known = set()
        name = re.compile(f"packs/{self.deployment}/[0-9]{{8,}}/[0-9a-f]{{32}}[.]pack")
        for (its_tier, pack_id), record in self.names.remote.items():
            if its_tier != tier:
                continue
            if not name.fullmatch(record.name):
                self.damage.append(Damage(folder, 0, f"{record.name} is no name of a pack of this deployment"))
                continue
            path = folder / record.name
            known.add(path)
            if not path.is_file():
                if record.state == "Live":
                    self.damage.append(Damage(path, 0, f"tier {tier} does not have this pack"))
                continue
            if pack := self.chunks.add(path):
                self._check_remote(pack, pack_id, record, self.names.footers.get((tier, pack_id)))
        for path in sorted(folder.rglob("*.pack")):
            if path not in known:
                owner = path.relative_to(folder).parts[1:2]
                whose = "an orphan of this deployment" if owner == (self.deployment,) else "of another deployment"
                self.notes.append(f"{path}: no record names this pack, {whose}")

    def _check_remote(self, pack: Pack, pack_id: bytes, record: RemotePack, footer: RemoteFooter | None) -> None:
        """What the namespace says about a tier's pack is what the pack says."""
        path = pack.path
        if pack.id != pack_id or path.stem != pack_id.hex() or pack.kind != "remote" or not pack.sealed:
            self.damage.append(
                Damage(path, 0, f"pack {pack.id.hex()} of class {pack.kind} is not {pack_id.hex()}, sealed")
            )
        if record.size != pack.size:
            self.damage.append(Damage(path, 0, f"{pack.size} bytes, its record says {record.size}"))
        if pack.footer is not None and record.chunks != len(pack.footer):
            self.damage.append(
                Damage(path, pack.frames_end, f"{len(pack.footer)} frames, the record says {record.chunks}")
            )
        said = [(frame.id, frame.offset, frame.stored_length) for frame in pack.footer or []]
        if record.state == "Live" and footer != said:
            self.damage.append(Damage(path, pack.frames_end, "the namespace's copy of the footer is another"))

    def extract(self, record: Object, sink: Callable[[bytes], object]) -> list[str]:
        """Gives the body of an object to `sink`; returns what is wrong with it."""
        self.counts.objects += 1
        encrypted = record.attributes.encryption is not None
        check = BodyCheck(record.size, record.etag, record.checksum, record.parts, encrypted)
        return self._pass(record.body, check, sink)

    def check_part(self, part: Part) -> list[str]:
        """Reads a part of an upload that is not complete; returns what is wrong with it."""
        self.counts.parts += 1
        info = part.info
        check = BodyCheck(info.size, info.etag, info.checksum, [], info.nonce is not None)
        return self._pass(part.body, check, lambda _: None)

    def _pass(self, body: Body, check: BodyCheck, sink: Callable[[bytes], object]) -> list[str]:
        try:
            for piece in self.chunks.body(body):
                self.counts.bytes += len(piece)
                check.update(piece)
                sink(piece)
        except Missing as missing:
            self.counts.unreadable += 1
            return [str(missing)]
        wrong = check.wrong()
        self.counts.unreadable += bool(wrong)
        return wrong
