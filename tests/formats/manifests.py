"""Objects by packs alone, by docs/formats.md, chapter "Manifests": what frames of kind 3 tell, and the bodies to it."""

import dataclasses
import pathlib
from collections.abc import Callable

import records
from damage import Damage
from digests import BodyCheck
from journal import Operation, operations
from packs import FRAME, MANIFESTS, Frame, Pack
from records import BadValue, Object, Table
from store import Chunks, Missing


def told(pack: Pack, frame: Frame) -> list[Operation]:
    """The operations that a frame of manifests holds."""
    raw = pack.chunk(frame)
    found = operations(raw, None, pack.path, frame.offset + FRAME.size)
    for operation in found:
        if operation.table not in (Table.BUCKET, Table.OBJECT, Table.VERSION) or operation.value is None:
            raise Damage(pack.path, frame.offset, f"an operation on table {operation.table} has no place there")
    return found


class Manifests:
    """Packs, and the versions that they tell of: of each key the newest, and by their ids the others."""

    def __init__(self, paths: list[pathlib.Path]):
        self.damage: list[Damage] = []
        self.notes: list[str] = []
        self.chunks = Chunks(self.damage, self.notes)
        self.buckets: dict[str, int] = {}
        self.told: dict[tuple[str, str, int | None], Object] = {}
        self.older = 0
        opened = [pack for path in paths if (pack := self.chunks.add(path))]
        # Of two that tell of one version the later pack has it now.
        for pack in sorted(opened, key=lambda pack: pack.id):
            for frame in pack.frames():
                if frame.kind == MANIFESTS:
                    self._add(pack, frame)
        self.objects: dict[tuple[str, str], Object] = {}
        self.versions: dict[tuple[str, str, int], Object] = {}
        for (bucket, key, _), record in sorted(self.told.items(), key=lambda item: item[1].version):
            older = self.objects.get((bucket, key))
            if older:
                self.versions[bucket, key, older.version] = older
            self.objects[bucket, key] = record

    def _add(self, pack: Pack, frame: Frame) -> None:
        try:
            for operation in told(pack, frame):
                if operation.table == Table.BUCKET:
                    name, created = operation.key.decode(), records.read_bucket(operation.value or b"").created
                    self.buckets[name] = max(created, self.buckets.get(name, 0))
                else:
                    record = records.read_object(operation.value or b"")
                    read_key = records.bucket_and_key if operation.table == Table.OBJECT else records.version_key
                    bucket, key, *_ = read_key(operation.key)
                    self._object((bucket, key, None if record.null else record.version), record, frame)
        except (BadValue, UnicodeDecodeError) as error:
            self.damage.append(Damage(pack.path, frame.offset, f"what is told does not decode: {error}"))
        except Damage as damage:
            self.damage.append(damage)

    def _object(self, name: tuple[str, str, int | None], record: Object, frame: Frame) -> None:
        """A version `null` replaces the one before; any other is one of its own."""
        known = self.told.get(name)
        age = (record.modified, record.version)
        if known and (known.modified, known.version) != age:
            self.older += 1
        if not known or (known.modified, known.version) <= age:
            self.told[name] = dataclasses.replace(record, manifest=frame.id)

    def bodies(self) -> dict[tuple[str, ...], Object]:
        """Every version that was told of: the newest ones by bucket and key, the others with their ids in hexadecimal."""
        return {**self.objects, **{(b, k, f"{v:032x}"): o for (b, k, v), o in self.versions.items()}}

    def extract(self, record: Object, sink: Callable[[bytes], object]) -> list[str]:
        """Gives the body of an object to `sink`; returns what is wrong with it."""
        encrypted = record.attributes.encryption is not None
        check = BodyCheck(record.size, record.etag, record.checksum, record.parts, encrypted)
        try:
            for piece in self.chunks.body(record.body):
                check.update(piece)
                sink(piece)
        except Missing as missing:
            return [str(missing)]
        return check.wrong()
