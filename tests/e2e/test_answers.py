"""What is damaged or gone on the box, and the answer: the table of docs/durability.md, each line against the real program.

Two stores are made once, one whose journal begins with record 1 and one whose beginning only snapshots have, each stopped
cleanly and killed. Each test damages a copy of one of them."""

import json
import shutil
import subprocess
from pathlib import Path

import pytest
from botocore.exceptions import BotoCoreError, ClientError

from harness import DAY, Process, Tidegate, http, put_many, read_body, wait_until
from s3util import MIB
from settings import policy
from test_formats import packs
from test_tiering import wait_tier

BUCKET = "data"
# Of an object whose first chunk is there the answer begins, and is broken off.
UNREADABLE = (ClientError, BotoCoreError)


class World:
    """A store on disk with a directory that is its cold and its recovery tier, as one kind of end left it."""

    def __init__(self, folder, bodies):
        self.folder = folder
        self.bodies = bodies


def options(folder):
    rules = policy(BUCKET, prefix="logs/")
    rules["tiers"] = [{"name": "nas"}]
    rules["rules"][0]["transitions"] = [{"to": "nas", "after": "30d"}]
    return {
        "policy": rules,
        "tiers": {"nas": {"type": "directory", "path": str(folder / "nas")}},
        "recovery": {"tier": "nas", "rpo": "100ms"},
        "store": {"journal": {"segment_bytes": 16384, "fill_ahead_bytes": 4096}, "packs": {"pack_bytes": MIB}},
    }


def shipped(server):
    wait_until("all is shipped", lambda: server.stats()["recovery"]["term"] > 0 and server.stats()["recovery"]["lag_records"] == 0)


def build(folder, rng, snapshots):
    """{end: World}"""
    server = Tidegate(folder / "made", **options(folder / "made")).start()
    client = server.client()
    client.create_bucket(Bucket=BUCKET)
    bodies = {f"logs/{i}": rng.randbytes(40_000) for i in range(3)}
    put_many(client, BUCKET, bodies)
    server.advance(31 * DAY)
    wait_tier(server, list(bodies), "nas")
    for round_ in range(3):
        more = {f"k{round_}/{i:03}": rng.randbytes(rng.randrange(30_000)) for i in range(60)}
        put_many(client, BUCKET, more)
        bodies |= more
        if snapshots:
            shipped(server)  # else the snapshot must leave the journal as it is
            status, text = socket_post(server, "/snapshot")
            assert status == 200, text
    server.cli("scrub", "--rate", "0")  # seals
    late = {f"late/{i:03}": rng.randbytes(9_000) for i in range(90)}
    put_many(client, BUCKET, late)
    bodies |= late
    shipped(server)
    server.kill()
    worlds = {"kill": World(copy(server.folder, folder / "kill"), bodies)}
    server.start()
    shipped(server)
    server.stop()
    worlds["stop"] = World(copy(server.folder, folder / "stop"), bodies)
    for world in worlds.values():
        assert len(segments(world.folder / "data")) >= 3, "long enough to lose a segment in the middle"
        assert (names(segments(world.folder / "data"))[0] == 1) is not snapshots
    return worlds


def socket_post(server, path):
    done = subprocess.run(
        ["curl", "-sS", "-w", "\n%{http_code}", "--unix-socket", str(server.socket), "-X", "POST", f"http://tidegate{path}"],
        capture_output=True, text=True, timeout=60, check=True,
    )
    text, status = done.stdout.rsplit("\n", 1)
    return int(status), text


def copy(source, target):
    shutil.copytree(source, target, ignore=shutil.ignore_patterns("*.sock", "*.log"))
    return target


def segments(data):
    return sorted((data / "journal").glob("*.seg"))


def names(files):
    return [int(file.stem) for file in files]


def snapshots_of(data):
    return sorted((data / "snapshots").glob("*.snap"))


@pytest.fixture(scope="module")
def worlds(request, tmp_path_factory):
    import random

    rng = random.Random(request.config.e2e_seed)
    folder = tmp_path_factory.mktemp("answers")
    made = {}
    for name in ("long", "snapped"):
        made[name] = build(folder / name, rng, name == "snapped")
    yield made
    shutil.rmtree(folder, ignore_errors=True)


@pytest.fixture
def store(worlds, gateway, tmp_path):
    """`store(kind, end)`: (a server that is not started, on a copy of that store; what is in it)."""

    def make(kind="long", end="stop"):
        world = worlds[kind][end]
        folder = tmp_path / f"{kind}-{end}"
        shutil.rmtree(folder, ignore_errors=True)
        server = gateway(**options(folder))
        copy(world.folder / "data", server.data)
        copy(world.folder / "nas", folder / "nas")
        return server, world.bodies

    return make


def only_here(server):
    """(pack file, frame) of a chunk that is in no tier, and in no other pack as all bodies are random."""
    tier = Path(server.settings["tiers"]["nas"]["path"])
    there = {frame.id for file in tier.rglob("*.pack") for frame in packs.Pack(file).frames()}
    assert there
    for file in sorted((server.data / "packs").glob("*.pack")):
        for frame in packs.Pack(file).frames():
            if frame.kind == packs.CHUNK and frame.stored_length > 1000 and frame.id not in there:
                return file, frame
    raise AssertionError("all chunks are in the tier")


def flip(file, at=None):
    data = bytearray(file.read_bytes())
    data[len(data) // 2 if at is None else at] ^= 0x10
    file.write_bytes(data)


def assert_whole(server, bodies):
    """Everything is there, it goes on taking writes, and a check finds nothing."""
    client = server.client()
    found = {o["Key"] for page in client.get_paginator("list_objects_v2").paginate(Bucket=BUCKET) for o in page["Contents"]}
    assert found == set(bodies)
    for key, body in bodies.items():
        assert read_body(client, BUCKET, key) == body, key
    client.put_object(Bucket=BUCKET, Key="new", Body=b"new")
    client.delete_object(Bucket=BUCKET, Key="new")
    assert server.cli("fsck", "--local").code == 0


def log_of(server):
    return (server.folder / "tidegate.log").read_text()


def refused(server, *words):
    server.start(wait=False)
    code = server.process.wait()
    text = server.process.tail()
    server.process = None
    assert code != 0, text
    for word in words:
        assert word in text, f"{word!r} is not in:\n{text}"
    return text


def recovered(server, bodies, gateway):
    """The way out by the recovery tier: all names, and the bytes of what was in the cloud."""
    target = server.folder / "recovered"
    result = server.cli("recover", "--from", "nas", "--data-dir", target)
    assert result.code == 0, result
    server.settings["data_dir"] = str(target)
    server.data = target
    server.write_config()
    server.start()
    client = server.client()
    found = {o["Key"] for page in client.get_paginator("list_objects_v2").paginate(Bucket=BUCKET) for o in page["Contents"]}
    assert found == set(bodies)
    for key in (key for key in bodies if key.startswith("logs/")):
        assert read_body(client, BUCKET, key) == bodies[key], key


# What is repaired at the start, with nothing lost. Each takes the data directory.


def sled_gone(data):
    shutil.rmtree(data / "sled")


def sled_half_gone(data):
    file = max((f for f in (data / "sled").rglob("*") if f.is_file()), key=lambda f: f.stat().st_size)
    with file.open("r+b") as opened:
        opened.truncate(file.stat().st_size // 2)


def sled_garbage(data):
    for file in (f for f in (data / "sled").rglob("*") if f.is_file()):
        file.write_bytes(b"\x5a" * file.stat().st_size)


def index_json_gone(data):
    (data / "index.json").unlink()


def index_json_garbage(data):
    (data / "index.json").write_text("{")


def index_json_behind(data):
    marker = json.loads((data / "index.json").read_text())
    (data / "index.json").write_text(json.dumps({**marker, "seq": marker["seq"] // 2}))


def index_json_of_another_index(data):
    marker = json.loads((data / "index.json").read_text())
    (data / "index.json").write_text(json.dumps({**marker, "generation": "0" * 32}))


def chunk_index_gone(data):
    (data / "packs/index.snap").unlink(missing_ok=True)


def chunk_index_flipped(data):
    if (data / "packs/index.snap").exists():
        flip(data / "packs/index.snap")


def chunk_index_cut(data):
    if (data / "packs/index.snap").exists():
        (data / "packs/index.snap").write_bytes((data / "packs/index.snap").read_bytes()[:1000])


def torn_end(data):
    """What a write that a crash cut short leaves: part of a record behind the last one."""
    last = segments(data)[-1]
    bytes_ = last.read_bytes()
    end = len(bytes_.rstrip(b"\0")) + 7 & ~7
    last.write_bytes(bytes_[:end] + b"TGJR" + b"\x01" * 40)


def damaged_list_garbage(data):
    (data / "packs/damaged.list").write_bytes(b"garbage" * 100)


def scrub_garbage(data):
    (data / "packs/scrub.json").write_text("garbage")


def scrub_gone(data):
    (data / "packs/scrub.json").unlink()


def lock_gone(data):
    (data / "lock").unlink()


def reach_gone(data):
    (data / "journal/reach").unlink()


def reach_garbage(data):
    (data / "journal/reach").write_bytes(b"\xff\xfe")


def deployment_gone(data):
    (data / "deployment").unlink()


def deployment_garbage(data):
    (data / "deployment").write_bytes(b"\xffnot an id")


REPAIRED = [
    sled_gone, sled_half_gone, sled_garbage, index_json_gone, index_json_garbage, index_json_behind,
    index_json_of_another_index, chunk_index_gone, chunk_index_flipped, chunk_index_cut, torn_end, damaged_list_garbage,
    scrub_garbage, scrub_gone, lock_gone, reach_gone, reach_garbage, deployment_gone, deployment_garbage,
]  # fmt: skip


@pytest.mark.parametrize("end", ["stop", "kill"])
@pytest.mark.parametrize("damage", REPAIRED, ids=lambda f: f.__name__)
def test_this_is_repaired_and_nothing_is_lost(store, damage, end):
    for kind in ("long", "snapped") if damage in REPAIRED[:4] else ("long",):
        server, bodies = store(kind, end)
        before = (server.data / "deployment").read_text()
        damage(server.data)
        server.start()
        assert_whole(server, bodies)
        assert (server.data / "deployment").read_text() == before
        server.stop()


def test_snapshots_that_are_gone_or_damaged_are_not_missed_while_others_or_the_journal_do(store):
    for kind, damage in [
        ("snapped", lambda files: files[-1].unlink()),
        ("snapped", lambda files: flip(files[-1])),
        ("snapped", lambda files: [f.unlink() for f in files]),
        ("snapped", lambda files: [flip(f) for f in files]),
    ]:
        # With a good index none is needed.
        server, bodies = store(kind)
        damage(snapshots_of(server.data))
        server.start()
        assert_whole(server, bodies)
        server.stop()
    for damage in (lambda file: file.unlink(), flip):
        # Without one, the older snapshot and the journal behind it do.
        server, bodies = store("snapped")
        damage(snapshots_of(server.data)[-1])
        sled_gone(server.data)
        server.start()
        assert_whole(server, bodies)
        server.stop()


def test_without_index_and_snapshots_a_journal_that_begins_later_is_refused_with_both_ways_out(store, gateway):
    for gone in (True, False):
        server, bodies = store("snapped")
        sled_gone(server.data)
        kept = server.folder / "kept"
        shutil.copytree(server.data / "snapshots", kept)
        for file in snapshots_of(server.data):
            file.unlink() if gone else flip(file)
        text = refused(server, "snapshot", "tidegate recover --from nas")
        assert "Bring a snapshot file back" in text if gone else ".snap is damaged at byte" in text
        for file in kept.iterdir():
            shutil.copy(file, server.data / "snapshots" / file.name)
        server.start()
        assert_whole(server, bodies)
        server.stop()
        for file in snapshots_of(server.data):
            file.unlink()
        sled_gone(server.data)
        refused(server, "snapshot")
        recovered(server, bodies, gateway)
        server.stop()


@pytest.mark.parametrize("end", ["stop", "kill"])
def test_a_last_segment_that_is_gone_is_refused_by_name(store, gateway, end):
    server, bodies = store("long", end)
    last = segments(server.data)[-1]
    kept = last.rename(server.folder / "kept")
    # The index knows better or not: the answer is the same.
    refused(server, last.name, "tidegate index rebuild", "tidegate recover --from nas")
    sled_gone(server.data)
    index_json_gone(server.data)
    refused(server, last.name, "this segment is gone")
    shutil.copy(kept, last)
    server.start()
    assert_whole(server, bodies)
    server.stop()
    # Going on without it is a decision of the operator, and loses only what came last. What is taken away has keys for sure.
    first = [file for file in segments(server.data) if b"late/" in file.read_bytes()][-1]
    for file in segments(server.data):
        if int(file.stem) >= int(first.stem):
            file.unlink()
    refused(server, "tidegate index rebuild")
    server.cli("index", "rebuild")
    server.start()
    client = server.client()
    found = {o["Key"] for page in client.get_paginator("list_objects_v2").paginate(Bucket=BUCKET) for o in page["Contents"]}
    assert found < set(bodies) and {key for key in bodies if key.startswith("k0/")} <= found
    for key in found:
        assert read_body(client, BUCKET, key) == bodies[key], key


@pytest.mark.parametrize("gone", [True, False], ids=["gone", "flipped"])
def test_a_middle_segment_that_is_gone_or_damaged_is_refused_when_it_is_needed(store, gateway, gone):
    server, bodies = store("long")
    middle = segments(server.data)[1]
    kept = server.folder / "kept"
    shutil.copy(middle, kept)
    middle.unlink() if gone else flip(middle)
    server.start()
    assert_whole(server, bodies)  # the index has what stood there
    server.stop()
    sled_gone(server.data)
    third = segments(server.data)[1 if gone else 2]
    named = third.name if gone else middle.name
    refused(server, named, "tidegate recover --from nas")
    shutil.copy(kept, middle)
    server.start()
    assert_whole(server, bodies)
    server.stop()
    middle.unlink() if gone else flip(middle)
    sled_gone(server.data)
    refused(server, named)
    recovered(server, bodies, gateway)


@pytest.mark.parametrize("end", ["stop", "kill"])
def test_a_journal_that_is_gone_is_never_taken_for_a_new_store(store, gateway, end):
    server, bodies = store("long", end)
    (server.data / "journal").rename(server.folder / "kept")
    refused(server, "the journal is gone, but the store was in use", "tidegate recover --from nas")
    index_json_gone(server.data)
    refused(server, "the journal is gone, but the store was in use")
    (server.data / "snapshots").rename(server.folder / "snapshots")
    refused(server, "the namespace is gone", "data_dir")
    assert not segments(server.data)
    shutil.rmtree(server.data / "journal", ignore_errors=True)
    (server.folder / "kept").rename(server.data / "journal")
    shutil.rmtree(server.data / "snapshots", ignore_errors=True)
    (server.folder / "snapshots").rename(server.data / "snapshots")
    server.start()
    assert_whole(server, bodies)


def test_an_index_json_that_knows_more_than_the_journal_is_refused(store):
    server, bodies = store("long")
    marker = json.loads((server.data / "index.json").read_text())
    (server.data / "index.json").write_text(json.dumps({**marker, "seq": marker["seq"] + 1000}))
    refused(server, f"record {marker['seq'] + 1000} had been committed", "tidegate index rebuild")
    server.cli("index", "rebuild")
    server.start()
    assert_whole(server, bodies)


def test_a_pack_that_is_gone_or_cut_short_is_named_by_key_and_comes_back(store):
    for cut in (False, True):
        server, bodies = store("long")
        pack = max((server.data / "packs").glob("*.pack"), key=lambda file: file.stat().st_size)
        kept = server.folder / "kept"
        shutil.copy(pack, kept)
        pack.unlink()
        if cut:
            pack.write_bytes(kept.read_bytes()[: kept.stat().st_size // 2])
        server.start()
        result = server.cli("scrub", "--rate", "0", json_output=True, check=False)
        assert result.code == 3 and result.json["lossy_total"] > 0, result
        lost = {line["what"].split(" / ", 1)[1] for line in result.json["lossy"]}
        client = server.client()
        for key, body in bodies.items():
            if key in lost:
                with pytest.raises(UNREADABLE):
                    read_body(client, BUCKET, key)
            elif len(lost) == result.json["lossy_total"]:
                assert read_body(client, BUCKET, key) == body, key
        server.stop()
        for file in (server.data / "packs").glob("index.snap"):
            file.unlink()
        (server.data / "packs/damaged.list").unlink(missing_ok=True)
        shutil.copy(kept, pack)
        server.start()
        assert_whole(server, bodies)
        server.stop()


def test_a_list_of_damaged_frames_that_is_gone_only_means_that_they_are_found_again(store):
    server, bodies = store("long")
    pack, frame = only_here(server)
    flip(pack, frame.end - 1)
    server.start()
    assert server.cli("scrub", "--rate", "0", check=False).code == 3
    server.stop()
    (server.data / "packs/damaged.list").unlink()
    server.start()
    result = server.cli("scrub", "--rate", "0", json_output=True, check=False)
    assert result.code == 3 and result.json["lossy_total"] == 1, result
    key = result.json["lossy"][0]["what"].split(" / ", 1)[1]
    with pytest.raises(UNREADABLE):
        read_body(server.client(), BUCKET, key)
    server.client().put_object(Bucket=BUCKET, Key=key, Body=bodies[key])
    assert_whole(server, bodies)


def test_a_deployment_that_no_name_of_a_pack_tells_is_refused_while_records_are_in_the_cloud(gateway, tmp_path):
    server = gateway(**options(tmp_path / "one")).start()
    server.client().create_bucket(Bucket=BUCKET)
    shipped(server)
    server.stop()
    deployment = (server.data / "deployment").read_text()
    (server.data / "deployment").unlink()
    refused(server, "deployment does not hold", "meta/<deployment>")
    assert not (server.data / "deployment").exists()
    found = {path.name for path in (tmp_path / "one/nas").rglob("meta/*")}
    assert found == {deployment}, "the way out: it is in the names there"
    (server.data / "deployment").write_text(found.pop())
    server.start()
    server.client().put_object(Bucket=BUCKET, Key="k", Body=b"k")
    shipped(server)


def test_without_term_json_nothing_is_written_until_the_operator_says_whose_the_claims_are(store):
    server, bodies = store("long")
    (server.data / "term.json").unlink()
    server.start()
    wait_until("it is fenced", lambda: server.stats()["recovery"]["fenced"])
    why = server.stats()["recovery"]["fenced"]
    assert "term.json is not there" in why and "write this into it" in why, why
    client = server.client()
    with pytest.raises(ClientError) as failed:
        client.put_object(Bucket=BUCKET, Key="new", Body=b"new")
    assert failed.value.response["ResponseMetadata"]["HTTPStatusCode"] == 503
    for key, body in bodies.items():
        assert read_body(client, BUCKET, key) == body, key
    server.stop()
    (server.data / "term.json").write_text(why.rsplit("restart: ", 1)[1])
    server.start()
    shipped(server)
    assert_whole(server, bodies)


def test_a_term_json_that_makes_no_sense_is_named(store):
    server, bodies = store("long")
    (server.data / "term.json").write_text("{")
    server.start()
    wait_until("it is said", lambda: "term.json is damaged" in log_of(server))
    server.stop()
    (server.data / "term.json").unlink()
    server.start()
    wait_until("it is fenced", lambda: server.stats()["recovery"]["fenced"])


def without_privilege(server):
    """A start that file modes count for, also when the tests are run by root."""
    drop = "-dac_override,-dac_read_search"
    argv = ["setpriv", "--bounding-set", drop, "--inh-caps", drop, str(server.binary), "serve", "--config", str(server.config)]
    return Process(argv, server.folder / "tidegate.log")


@pytest.mark.parametrize("what", [".", "journal", "packs", "sled", "journal/*.seg", "packs/*.pack", "index.json", "lock"])
def test_what_may_not_be_read_or_written_is_named_and_nothing_is_lost(store, what):
    if not shutil.which("setpriv"):
        pytest.skip("setpriv is not there")
    server, bodies = store("long")
    files = sorted(server.data.glob(what)) if what != "." else [server.data]
    modes = {file: file.stat().st_mode for file in files}
    for mode in (0o000, 0o500 if files[0].is_dir() else 0o400):
        for file in files:
            file.chmod(mode)
        server.process = without_privilege(server)
        ended = {}

        def decided():
            if not server.process.alive():
                ended["code"] = server.process.wait(10)
                return True
            try:
                return http("GET", server.admin_url + "/readyz", timeout=2)[0] == 200
            except OSError:
                return False

        wait_until("it serves or refuses", decided)
        if ended:
            text = server.process.tail()
            assert ended["code"] != 0 and "ermission denied" in text, text
            assert any(str(Path(server.data, what.split("/")[0])) in line for line in text.splitlines()), text
            server.process = None
        else:
            server.stop()
        for file, before in modes.items():
            if file.exists():
                file.chmod(before)
    server.start()
    assert_whole(server, bodies)
