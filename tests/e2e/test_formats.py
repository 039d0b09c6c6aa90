"""docs/formats.md suffices: a reader that was written from it alone (tests/formats) finds in the files of a stopped server
exactly what S3 clients saw."""

import dataclasses
import json
import os
import random
import re
import shutil
import sys

import pytest
from blake3 import blake3

import formats_world
from formats_world import HOT, OSS, SHELF, in_tier, restore, text
from harness import ROOT, OssSim, Tidegate, run, wait_until
from s3util import MIB, md5
from settings import policy

FOLDER = ROOT / "tests" / "formats"
sys.path.insert(0, str(FOLDER))

import beside  # noqa: E402
import digests  # noqa: E402
import journal  # noqa: E402
import packs  # noqa: E402
import records  # noqa: E402
from store import Store  # noqa: E402

ATTRIBUTES = {
    "ContentType": "content_type",
    "CacheControl": "cache_control",
    "ContentDisposition": "content_disposition",
    "ContentEncoding": "content_encoding",
    "ContentLanguage": "content_language",
}


def tool(name, *args, check=True):
    return run([sys.executable, FOLDER / name, *args], check=check)


@pytest.fixture(scope="module")
def world(request, tmp_path_factory):
    """See `formats_world.build`."""
    folder = tmp_path_factory.mktemp("formats")
    rng = random.Random(request.config.e2e_seed)
    sim = OssSim(folder / "sim").start()
    server = Tidegate(folder / "gateway", sim=sim, policy=formats_world.rules(), **formats_world.options(folder))
    try:
        yield formats_world.build(folder, rng, server)
    finally:
        server.kill()
        sim.kill()


def read(data, tiers, out=None, check=True):
    """Runs the reader; returns the run and {(bucket, key): its record with the body}."""
    args = [f"--tier={name}={folder}" for name, folder in tiers.items()]
    done = tool("read_store.py", data, *args, *(["--extract", out] if out else []), check=check)
    found = {}
    if out:
        for line in (out / "objects.jsonl").read_text().splitlines():
            entry = json.loads(line)
            entry["body"] = entry["file"] and (out / entry["file"]).read_bytes()
            found[entry["bucket"], entry["key"]] = entry
    return done, found


# What the reader finds.


@pytest.mark.parametrize("end", ["killed", "stopped"])
def test_the_reader_finds_exactly_what_clients_saw(world, tmp_path, end):
    store = world[end]
    done, found = read(store.data, world["tiers"], tmp_path)
    unseen = found.keys() - store.objects.keys()
    if store.uploads:
        # What was under way may be there or not; when it is, in whole.
        assert all(found[name]["body"] == store.uploads.tried[name[1]] for name in unseen)
    else:
        assert not unseen
    assert not store.objects.keys() - found.keys()
    for name, entry in store.objects.items():
        assert found[name]["body"] == entry["body"], name
        if entry["got"]:
            assert_described(found[name], entry["got"])
    # Clients are only told how many tags there are.
    assert dict(found[OSS, "described"]["attributes"]["tags"]) == {"team": "dock", "höhe": "5 m"}
    assert found[OSS, "copy/replaced"]["attributes"]["tags"] == [["later", "added"]]
    assert f"{len(found)} objects and 3 parts" in done.stdout, done.stdout


def assert_described(record, got):
    """The record says what the headers of the answer said."""
    name = (record["bucket"], record["key"])
    assert (record["size"], f'"{record["etag"]}"') == (got["ContentLength"], got["ETag"]), name
    assert record["modified"] // 1000 == got["LastModified"].timestamp(), name
    attributes = record["attributes"]
    for header, field in ATTRIBUTES.items():
        default = "binary/octet-stream" if header == "ContentType" else None
        assert (attributes[field] or default) == got.get(header), (name, header)
    assert attributes["expires"] == got.get("ExpiresString"), name
    assert dict(attributes["metadata"]) == got["Metadata"], name
    assert len(attributes["tags"]) == got.get("TagCount", 0), name
    if record["checksum"]:
        assert record["checksum"]["value"] == got[f"Checksum{record['checksum']['algorithm']}"], name
        assert record["checksum"]["composite"] == (got["ChecksumType"] == "COMPOSITE"), name
    shown = {None: None, "shelf": "STANDARD_IA", "ia": "STANDARD_IA", "archive": "GLACIER"}
    state, tier = record["residency"]["state"], record["residency"]["tier"]
    assert (None if state == "Protected" else shown[tier]) == got.get("StorageClass"), name
    restoring = 'ongoing-request="false"' if state == "Restored" else None
    if record["restoring"]:
        restoring = 'ongoing-request="true"'
    assert (got.get("Restore") or "").split(",")[0] == (restoring or ""), name


def test_the_store_had_what_the_format_has(world):
    """Otherwise the comparison above proves less than it seems to."""
    crashed, ended = (Store(world[end].data, world["tiers"]) for end in ("killed", "stopped"))
    names = ended.names
    assert {len(o.body.nodes) for o in names.objects.values()} >= {0, 1, 3}
    assert {o.residency.state for o in names.objects.values()} == {"Hot", "Cold", "Restored", "Protected"}
    assert {due.kind for due in names.due} == {"action", "abort", "idle"}
    assert names.access and names.uploads and names.parts and names.system
    assert {tier for tier, _ in names.remote} == {"ia", "archive", "shelf"}
    assert any(record.crc64 for record in names.remote.values())
    frames = [frame for pack in ended.chunks.packs.values() for frame in pack.frames()]
    assert {(frame.kind, frame.codec) for frame in frames} >= {(1, 0), (1, 1), (2, 0)}
    for store in (crashed, ended):
        assert {pack.sealed for pack in store.chunks.packs.values()} == {True, False}
        assert {pack.kind for pack in store.chunks.packs.values()} >= {"hot", "remote"}
    assert any(store.state.snapshot and store.state.seq > store.state.snapshot.start for store in (crashed, ended))
    assert ended.state.epoch == crashed.state.epoch + 1
    assert beside.read_index(ended.data_dir / "packs" / "index.snap")[1]


def test_what_the_indexes_say_is_what_the_records_say(world):
    names = Store(world["stopped"].data, {}).names
    subjects = {"action": set(), "abort": set(), "idle": set(), "protect": set()}
    for due in names.due:
        subjects[due.kind].add((due.time, due.subject))
    objects = {f"{bucket}\0{key}".encode(): record for (bucket, key), record in names.objects.items()}
    objects |= {records.version_subject(*name): record for name, record in names.versions.items()}
    assert subjects["action"] == {(o.due, name) for name, o in objects.items() if o.due is not None}
    assert subjects["idle"] == {(o.idle, name) for name, o in objects.items() if o.idle is not None}
    assert subjects["protect"] == {(o.waiting, name) for name, o in objects.items() if o.waiting is not None}
    uploads = {"\0".join(name).encode(): upload for name, upload in names.uploads.items()}
    assert subjects["abort"] == {(u.due, name) for name, u in uploads.items() if u.due is not None}


def test_a_restore_under_way_is_found(gateway, sim, rng, tmp_path):
    server = gateway(sim=sim, policy=policy(OSS)).start()
    server.client().create_bucket(Bucket=OSS)
    server.client().put_object(Bucket=OSS, Key="k", Body=text(rng, 100_000), StorageClass="GLACIER")
    wait_until("the object to be in the archive", lambda: in_tier(server, "archive") == 1)
    server.lose_local_packs()
    restore(server.client(), "k")
    wait_until(
        "the tier to be asked", lambda: any(o["restore"] for o in sim.admin("GET", f"/objects?bucket={sim.bucket}"))
    )
    server.kill()
    names = Store(server.data, {}).names
    record = names.objects[OSS, "k"]
    job = names.jobs[record.restoring]
    assert (job.bucket, job.key, job.version, job.tier, job.days) == (OSS, "k", record.version, "archive", 5)
    assert names.thaws.keys() == names.remote.keys()
    assert {thaw.priority for thaw in names.thaws.values()} == {job.priority} == {"Standard"}
    done, found = read(server.data, {}, tmp_path, check=False)
    assert done.returncode == 1 and found[OSS, "k"]["body"] is None
    assert f"s3://{OSS}/k (in tier archive): chunk " in done.stderr


def test_cold_objects_are_read_from_the_tiers_alone(world, tmp_path):
    """Without a single local pack, and after a restart of nothing: the namespace and the tiers' packs are enough."""
    data = without_packs(world["stopped"].data, tmp_path)
    done, found = read(data, world["tiers"], tmp_path / "out", check=False)
    assert done.returncode == 1 and f"s3://{HOT}/nodes: chunk" in done.stderr, "what is hot was local only"
    cold = {name: e for name, e in world["stopped"].objects.items() if name[0] in (OSS, SHELF)}
    assert {name for name in cold if found[name]["body"] != cold[name]["body"]} == set()


def test_the_crc_of_a_pack_is_the_one_that_oss_computes(world):
    names = Store(world["stopped"].data, {}).names
    [record] = [record for (tier, _), record in names.remote.items() if tier == "archive"]
    crc = digests.ReflectedCrc(0xC96C5795D7870F42, 8)
    crc.update((world["tiers"]["archive"] / record.name).read_bytes())
    assert int.from_bytes(crc.digest(), "big") == record.crc64


def test_the_chunks_of_packs_are_extracted(world, tmp_path):
    files = [*local_packs(world["stopped"].data), *world["tiers"]["shelf"].rglob("*.pack")]
    done = tool("read_pack.py", "--chunks", tmp_path, *files)
    assert done.stdout.count(": pack ") == len(files)
    chunks = {file.name for file in tmp_path.iterdir()}
    assert len(chunks) > 300 and {name.partition(".")[2] for name in chunks} == {"", "node", "manifests"}
    for file in tmp_path.iterdir():
        assert blake3(file.read_bytes()).hexdigest() == file.name.partition(".")[0]
    assert all(f" {chunk.partition('.')[0]}" in done.stdout for chunk in chunks)


def copied(folder, to, *without):
    """A copy that shares its files with the original until `rewrite` replaces one."""
    return shutil.copytree(folder, to, ignore=shutil.ignore_patterns(*without), copy_function=os.link)


def rewrite(file, data):
    file.unlink()
    file.write_bytes(data)


def without_packs(data, folder):
    return copied(data, folder / "data", "*.pack", "*.open", "index.snap")


def local_packs(data, suffix=None):
    return [p for p in sorted((data / "packs").iterdir()) if p.suffix in ([suffix] if suffix else [".pack", ".open"])]


# What is damaged is named, what is torn is not damage.


def needed(data, tiers, bucket):
    """A frame of a sealed pack that the object `nodes` of the bucket needs, and its pack."""
    store = Store(data, tiers)
    [node] = store.names.objects[bucket, "nodes"].body.nodes
    chunks = records.read_node(store.chunks.read(node.id))
    places = [place for chunk_id, _ in chunks for place in store.chunks.places[chunk_id]]
    return next((pack, frame) for pack, frame in places if pack.sealed)


# Where a byte is flipped in a sealed pack, and the offset that must be named.
PLACES = {
    "header": lambda pack, frame: (20, 0),
    "frame header": lambda pack, frame: (frame.offset + 9, frame.offset),
    "stored chunk": lambda pack, frame: (frame.end - 1, frame.offset),
    "footer": lambda pack, frame: (pack.frames_end + 50, pack.frames_end),
    "trailer": lambda pack, frame: (pack.size - 30, pack.size - 40),
    "last magic": lambda pack, frame: (pack.size - 1, pack.size - 40),
}


@pytest.mark.parametrize("place", PLACES)
@pytest.mark.parametrize("where", ["local", "tier"])
def test_a_flipped_byte_in_a_pack_is_named(world, tmp_path, place, where):
    objects = world["stopped"].objects
    if where == "local":
        data, tiers, bucket = copied(world["stopped"].data, tmp_path / "data"), {}, HOT
    else:
        data, bucket = without_packs(world["stopped"].data, tmp_path), SHELF
        tiers = {"shelf": copied(world["tiers"]["shelf"], tmp_path / "shelf")}
    pack, frame = needed(data, tiers, bucket)
    at, offset = PLACES[place](pack, frame)
    flip(pack.path, at)
    named = f"damaged: {pack.path}: offset {offset}: "
    alone = tool("read_pack.py", "--quiet", pack.path, check=False)
    assert alone.returncode == 1 and named in alone.stderr, alone.stderr
    everything, found = read(data, tiers, tmp_path / "out", check=False)
    assert everything.returncode == 1 and named in everything.stderr, everything.stderr
    lost = {name for name, entry in found.items() if name[0] == bucket and entry["body"] is None}
    wrong = {name for name, entry in found.items() if entry["body"] not in (None, objects[name]["body"])}
    assert not wrong
    if place in ("frame header", "stored chunk"):
        assert lost == {(bucket, "nodes"), (bucket, "copy/nodes")}
        assert f"s3://{bucket}/nodes" in everything.stderr
    elif place != "header":
        assert not lost, "frames are found without the footer"


def flip(file, at):
    data = bytearray(file.read_bytes())
    data[at] ^= 0x10
    rewrite(file, data)


def test_frames_that_a_scrub_found_damaged_are_listed(gateway, rng):
    server = gateway(store={"packs": {"pack_bytes": 8 * MIB}}).start()
    server.client().create_bucket(Bucket=HOT)
    server.client().put_object(Bucket=HOT, Key="nodes", Body=rng.randbytes(12 * MIB))
    server.stop()
    pack = packs.Pack(local_packs(server.data, ".pack")[0])
    frame = max(pack.frames(), key=lambda frame: frame.stored_length)
    flip(pack.path, frame.end - 1)
    server.start()
    assert server.cli("scrub", check=False).code == 3
    server.stop()
    assert beside.read_damaged_list(server.data / "packs" / "damaged.list") == {(pack.id, frame.offset)}
    done = tool("read_store.py", server.data, check=False)
    assert done.returncode == 1 and f"s3://{HOT}/nodes: chunk {frame.id.hex()} is in no pack" in done.stderr


@pytest.mark.parametrize("content", [b"", b"TGPACK1", bytes(5000)])
def test_an_unsealed_pack_without_a_header_is_no_damage(world, tmp_path, content):
    data = copied(world["killed"].data, tmp_path / "data")
    file = data / "packs" / f"{0xABC:032x}.open"
    file.write_bytes(content)
    for done in (tool("read_pack.py", file), read(data, world["tiers"])[0]):
        assert f"pack without content: {file}: offset 0: " in done.stdout


@pytest.mark.parametrize("torn", ["half a header", "half a chunk", "garbage"])
def test_the_torn_end_of_an_unsealed_pack_is_no_damage(world, tmp_path, torn):
    data = copied(world["killed"].data, tmp_path / "data")
    file = max(local_packs(data, ".open"), key=lambda path: path.stat().st_size)
    pack = packs.Pack(file)
    frames = pack.frames()
    whole = file.read_bytes()
    end = frames[-1].end
    frame = whole[frames[-1].offset : end]
    more = {"half a header": frame[:30], "half a chunk": frame[: packs.FRAME.size + 1], "garbage": b"\xff" * 99}[torn]
    rewrite(file, whole[:end] + more + bytes(5000))
    done = tool("read_pack.py", file)
    assert f"{file}: offset {end}: " in done.stdout and f"{len(frames)} good frames" in done.stdout
    done, found = read(data, world["tiers"], tmp_path / "out")
    assert f"torn end of a pack, cut off: {file}: offset {end}: " in done.stdout
    assert all(found[name]["body"] == entry["body"] for name, entry in world["killed"].objects.items())


def test_the_torn_end_of_the_journal_is_cut_off(world, tmp_path):
    data = copied(world["killed"].data, tmp_path / "data")
    [*_, last] = journal.read_journal(data / "journal", journal.State(), 0)
    file = sorted((data / "journal").glob("*.seg"))[-1]
    rewrite(file, file.read_bytes()[: last.end - 20] + bytes(4096))
    done = tool("read_store.py", data, *[f"--tier={n}={f}" for n, f in world["tiers"].items()])
    assert "torn end of the journal, cut off: " in done.stdout and f"record {last.seq - 1} of" in done.stdout


def test_a_damaged_snapshot_is_named_and_the_one_before_is_used(world, tmp_path):
    data = copied(world["stopped"].data, tmp_path / "data")
    newest = sorted((data / "snapshots").iterdir())[-1]
    flip(newest, 64 + 40)
    done, found = read(data, world["tiers"], tmp_path / "out", check=False)
    assert done.returncode == 1 and f"damaged: {newest}: offset 64: " in done.stderr
    assert f"snapshot at record {int(newest.stem)}" not in done.stdout
    objects = world["stopped"].objects
    assert {name: entry["body"] for name, entry in found.items()} == {name: e["body"] for name, e in objects.items()}


@pytest.mark.parametrize("what", ["a record", "the segment's header"])
def test_damage_of_the_journal_is_named(world, tmp_path, what):
    data = without_packs(world["stopped"].data, tmp_path)
    file = sorted((data / "journal").glob("*.seg"))[-1]
    at, offset = {"a record": (64 + 20, 64), "the segment's header": (30, 0)}[what]
    flip(file, at)
    done = tool("read_store.py", data, check=False)
    assert done.returncode == 1 and f"damaged: {file}: offset {offset}: " in done.stderr, done.stderr


# The samples of the document.


def sample(phrase):
    """The bytes of each line of the indented block that follows `phrase` in the document."""
    _, _, rest = (ROOT / "docs" / "formats.md").read_text().partition(phrase)
    block = re.search(r"\n\n((?:    [0-9a-f ]+\n)+)", rest)
    assert block, f"no sample after {phrase!r}"
    return [bytes.fromhex(line) for line in block[1].splitlines()]


def test_the_samples_of_journal_and_snapshot(tmp_path):
    segment = tmp_path / "00000000000000000007.seg"
    segment.write_bytes(b"".join(sample("Sample (first record 7") + sample("Sample (reason 4")))
    assert journal.read_header(journal.SEGMENT, b"TGJSEG1\n", segment.read_bytes(), segment) == (
        7,
        3,
        1_700_000_000_000,
    )
    [record] = journal.read_journal(tmp_path, journal.State(), 6)
    assert (record.reason, record.epoch, record.seq, record.durable, record.time) == (4, 3, 7, 6, 1_700_000_000_000)
    operations = [(o.table, o.key, o.value) for o in record.operations]
    assert operations == [(3, b"b/k", b"v1"), (6, b"d", None)]
    assert record.end == segment.stat().st_size

    file = tmp_path / "00000000000000000007.snap"
    file.write_bytes(b"".join(sample("Sample (start 7, end 8")))
    snapshot = journal.read_snapshot(file)
    assert (snapshot.start, snapshot.end, snapshot.epoch) == (7, 8, 3)
    assert [(o.table, o.key, o.value) for o in snapshot.entries] == [(2, b"b", b"x"), (3, b"b/k", b"v1")]


HELLO = blake3(b"hello").digest()


def test_the_samples_of_records():
    record = records.read_object(b"".join(sample("Sample of Object, version 1")))
    assert (record.version, record.size, record.etag, record.created, record.modified) == (7, 5, md5(b"hello"), 1, 2)
    assert record.attributes == records.Attributes(*[None] * 6, [], [], None)
    assert record.body == records.Body([(HELLO, 5)], [])
    assert record.residency == records.Residency("Cold", "ia")
    assert (record.checksum, record.parts, record.restoring, record.due, record.idle) == (None, [], None, 3, None)
    protected = records.read_object(b"".join(sample("Sample of Object, version 2")))
    there = records.Residency("Protected", "ia")
    assert protected == dataclasses.replace(record, residency=there, waiting=2, manifest=blake3(b"told").digest())
    assert records.read_object(b"".join(sample("Sample of Object, version 3"))) == record
    account, user, owner = sample("Samples of Account, User and Key owner")
    assert records.read_account(account) == records.Account(1, "ab" * 32, "Al", "a@b")
    key = records.AccessKey("AK", 1, 3, bytes([1, 2, 255]))
    assert records.read_user(user) == records.User(1, 2, True, [key], [("p", "{}")])
    assert records.read_key_owner(owner) == ("a", "u")
    event = records.read_event(b"".join(sample("Sample of Event")))
    told = ("s3:ObjectRestore:Completed", 1, "b", None, "r", "k", 5, "e", (9, False), "p", "a", "q", 2, "GLACIER")
    assert event == records.Event(*told)
    old, new = map(records.read_bucket, sample("Sample of Bucket"))
    assert (old, new) == (records.Bucket(9), records.Bucket(9, "o", "Suspended", [("cors", b"<x/>")]))
    old, new = map(records.read_remote_pack, sample("Sample of Remote pack"))
    assert old == records.RemotePack("pack/1", "Live", 48 * MIB, 1500, 1, 9, "x", 3, None)
    assert new == dataclasses.replace(old, version="CAE")


def test_the_samples_of_keys():
    text = (ROOT / "docs" / "formats.md").read_text()
    found = re.search(r"object `k` of bucket `b`: `([0-9a-f ]+)`. .*Its action due at time 1: `([0-9a-f ]+)`", text)
    name, due = map(bytes.fromhex, found.groups())
    assert records.bucket_and_key(name) == ("b", "k")
    assert records.due_key(due) == records.Due("action", 1, name)
    number = bytes.fromhex(re.search(r"32 characters, then `([0-9a-f]+)`", text)[1])
    assert records.part_key(b"0" * 32 + number) == ("0" * 32, 2)


def test_the_sample_of_a_pack(tmp_path):
    file = tmp_path / "hello.pack"
    file.write_bytes(b"".join(sample("### Sample, version 1")))
    pack = packs.Pack(file)
    assert (pack.id, pack.kind, pack.sealed, pack.verify().damage) == (b"0123456789abcdef", "hot", True, [])
    [frame] = pack.frames()
    assert (frame.kind, frame.codec, frame.id, pack.chunk(frame)) == (packs.CHUNK, packs.RAW, HELLO, b"hello")


def test_the_sample_of_a_pack_in_a_tier(tmp_path):
    file = tmp_path / "told.pack"
    file.write_bytes(b"".join(sample("### Sample, version 2")))
    pack = packs.Pack(file)
    assert (pack.kind, pack.sealed, pack.verify().damage) == ("remote", True, [])
    assert [frame.kind for frame in pack.frames()] == [packs.CHUNK, packs.MANIFESTS]
    done = tool("read_pack.py", "--extract", tmp_path / "out", tmp_path)
    assert "1 buckets, 1 of 1 objects extracted" in done.stdout
    [line] = (tmp_path / "out" / "objects.jsonl").read_text().splitlines()
    entry = json.loads(line)
    assert (entry["bucket"], entry["key"], entry["residency"]["tier"]) == ("b", "k", "ia")
    assert (tmp_path / "out" / entry["file"]).read_bytes() == b"hello"
