"""kill -9, failpoints, a lost index: acknowledged is durable, and nothing else appears."""

import re
import shutil

import pytest
from botocore.exceptions import BotoCoreError, ClientError

import crash_load
from harness import DAY, ROOT, put_many, read_body, wait_until
from s3util import MIB, upload
from settings import policy

BUCKET = "data"


def failpoints():
    """Every failpoint of the engine, from its source."""
    names = set()
    for file in (ROOT / "tiering" / "src").rglob("*.rs"):
        names |= set(re.findall(r'failpoint::hit\(\s*"([^"]+)"', file.read_text()))
    return sorted(names)


@pytest.mark.slow
def test_kill_nine_during_uploads_loses_nothing(gateway, request):
    lines = []
    rounds, total, lost = crash_load.run(gateway(), 25, request.config.e2e_seed, say=lines.append)
    assert not lost, "\n".join(lines + lost)
    assert rounds >= 2 and total > 0


def quiet(call):
    """The answer, or None when the server died on it."""
    try:
        return call()
    except (BotoCoreError, ClientError, OSError):
        return None


# Steps that a run this short does not come to: packs do not fill up, the journal stays short, local copies stay. The
# engine's own crash tests (tiering/tests/crash.rs; standby.rs for standbys and promotions) die at every failpoint and fail
# when one is never reached.
NOT_REACHED = ("compaction.", "index.", "pack.created", "pack.footer", "pack.retired", "pack.sealed", "snapshot.")
NOT_REACHED += ("follow.", "promote.", "standby.")


@pytest.mark.parametrize(
    "name", [n for n in failpoints() if not n.startswith(NOT_REACHED) and n != "restore.after_thaw_intent"]
)
def test_a_crash_after_this_durable_step_loses_nothing(gateway, sim, rng, name):
    server = gateway(sim=sim, policy=policy(BUCKET)).start()
    client = server.client()
    client.create_bucket(Bucket=BUCKET)
    bodies = {f"old/{i}": rng.randbytes(rng.randrange(1, 60_000)) for i in range(6)}
    put_many(client, BUCKET, bodies)
    server.stop()

    # Work of every kind goes on until the failpoint is hit: writes, transitions, restores, deletes, collections.
    server.start("--failpoint", name, wait=False)
    try:
        server.wait_ready()
    except RuntimeError:
        pass  # hit during recovery already
    possible = {key: {body} for key, body in bodies.items()}
    doomed = server.process

    def attempt(key, body, call):
        possible[key] = possible.get(key, {None}) | {body}
        if doomed.alive() and quiet(call) is not None:
            possible[key] = {body}

    for i in range(8):
        body = rng.randbytes(rng.randrange(1, 100_000))
        attempt(f"new/{i}", body, lambda: client.put_object(Bucket=BUCKET, Key=f"new/{i}", Body=body))
    attempt("old/0", None, lambda: client.delete_object(Bucket=BUCKET, Key="old/0"))
    parts = [(1, rng.randbytes(5 * MIB)), (2, b"tail")]
    attempt("multi", b"".join(b for _, b in parts), lambda: upload(client, BUCKET, "multi", parts))
    for days, tier in ((31, "ia"), (60, "archive")):
        if doomed.alive():
            quiet(lambda: server.advance(days * DAY))
            quiet_cli(server, "gc")
            settle(doomed, lambda: all_in(server, tier))
    if doomed.alive():
        request = {"Days": 1, "GlacierJobParameters": {"Tier": "Standard"}}
        for key in list(possible):
            quiet(lambda: client.restore_object(Bucket=BUCKET, Key=key, RestoreRequest=request))
        quiet_cli(server, "clock", "advance", "3600s")
        sim.advance(3600)
        settle(doomed, lambda: False)
    reached = not doomed.alive()
    server.kill()

    server.start()
    client = server.client()
    check(server, sim, client, possible)
    assert reached, f"{name} was not reached: this run proves nothing about it"


def quiet_cli(server, *args):
    try:
        server.cli(*args, check=False, timeout=30)
    except Exception:  # noqa: BLE001 - the server dies while it answers: that is the point
        pass


def all_in(server, tier):
    try:
        stats = server.stats()
    except Exception:  # noqa: BLE001 - the server dies while it answers
        return False
    return any(t["name"] == tier and t["objects"] == stats["objects"] for t in stats["tiers"])


def settle(process, done):
    """Gives background work time to reach the failpoint; ends when it did, or when what it had to do is done."""
    try:
        wait_until("the failpoint", lambda: not process.alive() or done(), 90)
    except TimeoutError:
        pass


def check(server, sim, client, possible):
    """Each key has one of its possible contents; cold ones are restored first."""
    request = {"Days": 1, "GlacierJobParameters": {"Tier": "Standard"}}

    def content(key):
        try:
            return read_body(client, BUCKET, key)
        except ClientError as error:
            code = error.response["Error"]["Code"]
            if code == "NoSuchKey":
                return None
            if code == "InvalidObjectState":
                quiet(lambda: client.restore_object(Bucket=BUCKET, Key=key, RestoreRequest=request))
                server.advance(600)
                return ...
            if error.response["ResponseMetadata"]["HTTPStatusCode"] == 503:
                return ...
            raise

    for key, contents in possible.items():
        found = []

        def readable():
            found[:] = [content(key)]
            return found[0] is not ...

        wait_until(f"{key} to be readable", readable, every=0.2)
        assert found[0] in contents, f"{key} has neither its old nor its new content"
    listed = {o["Key"] for o in client.list_objects_v2(Bucket=BUCKET).get("Contents", [])}
    assert listed <= set(possible), "an object that nobody wrote"


def fill(client, rng):
    client.create_bucket(Bucket=BUCKET)
    bodies = {f"k{i:03}": rng.randbytes(rng.randrange(120_000)) for i in range(60)}
    put_many(client, BUCKET, bodies)
    client.delete_object(Bucket=BUCKET, Key="k000")
    del bodies["k000"]
    parts = [(1, rng.randbytes(5 * MIB)), (2, rng.randbytes(10))]
    upload(client, BUCKET, "multi", parts)
    return {**bodies, "multi": b"".join(body for _, body in parts)}


def assert_all(client, bodies):
    for key, body in bodies.items():
        assert read_body(client, BUCKET, key) == body, key
    listed = [o["Key"] for o in client.list_objects_v2(Bucket=BUCKET)["Contents"]]
    assert listed == sorted(bodies)


@pytest.mark.parametrize("end", ["stop", "kill"])
def test_a_deleted_index_loses_nothing(gateway, rng, end):
    server = gateway().start()
    bodies = fill(server.client(), rng)
    getattr(server, end)()
    shutil.rmtree(server.data / "sled")
    server.start()
    assert_all(server.client(), bodies)


def test_a_damaged_index_is_rebuilt(gateway, rng):
    server = gateway().start()
    bodies = fill(server.client(), rng)
    server.stop()
    for file in (server.data / "sled").rglob("*"):
        if file.is_file() and file.stat().st_size > 4096:
            data = bytearray(file.read_bytes())
            for at in range(0, len(data), 1000):
                data[at] ^= 0x55
            file.write_bytes(data)
    server.start()
    assert_all(server.client(), bodies)


def test_index_rebuild_works_while_stopped_and_is_refused_while_serving(gateway, rng):
    server = gateway().start()
    bodies = fill(server.client(), rng)
    busy = server.cli("index", "rebuild", check=False)
    assert busy.code != 0 and str(server.process.pid) in busy.err, busy
    server.stop()
    server.cli("index", "rebuild")
    server.start()
    assert_all(server.client(), bodies)


def test_two_servers_never_share_a_store(gateway):
    first = gateway().start()
    second = gateway(data_dir=str(first.data))
    second.start(wait=False)
    code = second.process.wait()
    assert code != 0
    assert str(first.process.pid) in second.process.tail(), "the message says who holds the store"


def test_a_flipped_byte_on_disk_is_never_served(gateway, rng):
    server = gateway().start()
    client = server.client()
    client.create_bucket(Bucket=BUCKET)
    body = rng.randbytes(3 * MIB)
    client.put_object(Bucket=BUCKET, Key="k", Body=body)
    server.stop()
    packs = [p for p in (server.data / "packs").iterdir() if p.stat().st_size > MIB]
    assert packs
    for pack in packs:
        data = bytearray(pack.read_bytes())
        data[len(data) // 2] ^= 1
        pack.write_bytes(data)
    server.start()
    got = quiet(lambda: client.get_object(Bucket=BUCKET, Key="k")["Body"].read())
    assert got is None or got == body, "wrong bytes were served"
    assert got is None


def test_a_full_disk_is_refused_with_the_reason_and_reads_go_on(gateway, rng):
    server = gateway(store={"hot": {"max_bytes": 48 * MIB, "compaction_reserve": 8 * MIB}, "packs": {"pack_bytes": 8 * MIB}}).start()
    client = server.client()
    client.create_bucket(Bucket=BUCKET)
    stored = {}
    with pytest.raises(ClientError) as failed:
        for i in range(60):
            body = rng.randbytes(2 * MIB)
            client.put_object(Bucket=BUCKET, Key=f"k{i}", Body=body)
            stored[f"k{i}"] = body
    assert failed.value.response["Error"]["Code"] == "SlowDown"
    assert failed.value.response["ResponseMetadata"]["HTTPStatusCode"] == 503
    used = sum(f.stat().st_blocks * 512 for f in (server.data / "packs").iterdir())
    assert used <= 48 * MIB
    for key, body in stored.items():
        assert read_body(client, BUCKET, key) == body
    for key in stored:
        client.delete_object(Bucket=BUCKET, Key=key)
    server.cli("gc")
    wait_until("room after a collection", lambda: quiet(
        lambda: client.put_object(Bucket=BUCKET, Key="again", Body=rng.randbytes(MIB))), 30)
