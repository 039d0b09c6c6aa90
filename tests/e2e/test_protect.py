"""Protected buckets: bodies are hot and in the cloud as well, so that the loss of the disk loses nothing older than the lag."""

import shutil
import threading
import time

import pytest
from botocore.exceptions import BotoCoreError, ClientError

from harness import DAY, http, put_many, read_body, wait_until
from s3util import MIB, upload
from test_recovery import lines, shipped

PROTECTED, PLAIN = "media-a", "scratch"

POLICY = {
    "apiVersion": "tidegate/v1",
    "kind": "LifecyclePolicy",
    "metadata": {"name": "test"},
    "tiers": [{"name": "ia", "class": "IA"}, {"name": "archive", "class": "Archive"}],
    "protect": [{"bucket": "media-*", "to": "ia"}],
    "rules": [{"id": "cool-down", "filter": {"bucket": PROTECTED}, "transitions": [{"to": "ia", "after": "90d"}]}],
}


def caught_up(server, count):
    def look():
        protect = server.stats()["protect"]
        return protect["pending"]["objects"] == 0 and protect["protected"]["objects"] == count

    wait_until("all to be protected", look)
    assert server.metrics()["tidegate_protect_lag_seconds"] == 0


def packs(sim):
    return {name for name in sim.objects() if name.endswith(".pack")}


class Writer(threading.Thread):
    """Writes bodies until the server is gone; knows what was acknowledged when, and the longest lag that was shown."""

    def __init__(self, server, rng):
        super().__init__(daemon=True)
        self.server, self.client, self.rng = server, server.client(), rng
        self.acknowledged = {}
        self.enough = threading.Event()

    def run(self):
        begin = time.monotonic()
        for number in range(100_000):
            key, body = f"stream/{number:05}", self.rng.randbytes(20_000)
            try:
                self.client.put_object(Bucket=PROTECTED, Key=key, Body=body)
            except (BotoCoreError, ClientError, OSError):
                return
            self.acknowledged[key] = (time.monotonic(), body)
            if time.monotonic() - begin > 6:
                self.enough.set()


def load(server, rng):
    client = server.client()
    for bucket in (PROTECTED, PLAIN):
        client.create_bucket(Bucket=bucket)
    bodies = {f"k/{i:03}": rng.randbytes(rng.randrange(1, 60_000)) for i in range(100)}
    put_many(client, PROTECTED, bodies)
    parts = [(1, rng.randbytes(5 * MIB)), (2, rng.randbytes(6 * MIB)), (3, b"tail")]
    upload(client, PROTECTED, "multi", parts)
    bodies["multi"] = b"".join(part for _, part in parts)
    client.copy_object(Bucket=PROTECTED, Key="copy", CopySource={"Bucket": PROTECTED, "Key": "multi"})
    bodies["copy"] = bodies["multi"]
    return client, bodies


def test_the_loss_of_the_disk_loses_no_protected_body_that_is_older_than_the_lag(gateway, sim, rng, tmp_path, capsys):
    server = gateway(sim=sim, policy=POLICY, recovery={"tier": "archive"}).start()
    client, bodies = load(server, rng)
    plain = {f"p/{i}": rng.randbytes(30_000) for i in range(10)}
    put_many(client, PLAIN, plain)
    caught_up(server, len(bodies))
    head = client.head_object(Bucket=PROTECTED, Key="multi")
    assert "StorageClass" not in head and "Restore" not in head
    assert "protected: on local disks, and in tier ia" in server.cli("object", "status", f"s3://{PROTECTED}/multi").out
    assert "protection lag" in server.cli("stats").out
    shipped(server)

    writer = Writer(server, rng)
    writer.start()
    lags = []
    while not writer.enough.is_set():
        assert writer.is_alive(), "a write was refused"
        lags.append(server.metrics()["tidegate_protect_lag_seconds"])
        time.sleep(0.1)
    killed = time.monotonic()
    server.kill()
    writer.join(30)
    shutil.rmtree(server.data)

    result = server.cli("recover", "--from", "archive", "--data-dir", server.data, json_output=True)
    missing, report = lines(result)
    server.start()
    client = server.client()
    for key, body in bodies.items():
        assert read_body(client, PROTECTED, key) == body, key
    lost = {m["key"] for m in missing if m["bucket"] == PROTECTED}
    assert {m["key"] for m in missing if m["bucket"] == PLAIN} == set(plain), "the bucket beside it is not protected"
    assert not lost & set(bodies)
    late = [0.0]
    for key, (when, body) in writer.acknowledged.items():
        try:
            assert read_body(client, PROTECTED, key) == body, key
        except ClientError:
            late.append(killed - when)
    with capsys.disabled():
        print(
            f"\nprotect RPO {max(late):.2f} s ({len(late) - 1} of {len(writer.acknowledged)} bodies lost); "
            f"lag shown during the load: at most {max(lags):.2f} s"
        )
    assert max(late) < 30, "what is older than the lag is there"
    state = server.stats()
    assert state["protected"]["objects"] >= len(bodies) and state["cold"]["objects"] == 0
    assert report["found"]["missing_packs"] == 0


def test_what_is_protected_moves_and_is_evicted_without_a_second_upload(gateway, sim, rng):
    hot = {"max_bytes": 64 * MIB, "free_floor": 0, "compaction_reserve": 16 * MIB}
    server = gateway(sim=sim, policy=POLICY, store={"hot": hot}).start()
    client, bodies = load(server, rng)
    caught_up(server, len(bodies))
    before = packs(sim)
    server.advance(91 * DAY)
    wait_until("all to be cold", lambda: server.stats()["cold"]["objects"] == len(bodies))
    assert packs(sim) == before, "all of it was there"
    for key in list(bodies):
        client.delete_object(Bucket=PROTECTED, Key=key)

    # More than the disk holds is written: bodies that are protected make room.
    big = {f"big/{i:02}": rng.randbytes(4 * MIB) for i in range(30)}
    for key, body in big.items():

        def taken(key=key, body=body):
            try:
                client.put_object(Bucket=PROTECTED, Key=key, Body=body)
                return True
            except ClientError as e:
                assert e.response["ResponseMetadata"]["HTTPStatusCode"] == 503
                return False

        wait_until(f"{key} to be taken", taken)
    caught_up(server, len(big))
    uploaded = server.metrics()["tidegate_transitioned_bytes_total"]
    evicted = [k for k in big if server.status(PROTECTED, k)["local_chunks"] == 0]
    assert evicted, "some of it left the disk"
    for key, body in big.items():
        assert read_body(client, PROTECTED, key) == body, key
        assert "StorageClass" not in client.head_object(Bucket=PROTECTED, Key=key)
    assert server.metrics()["tidegate_transitioned_bytes_total"] == uploaded


def test_while_the_cloud_is_away_the_lag_grows_and_is_said(gateway, sim, rng):
    tiering = {"protect_warn_ms": 1000}
    server = gateway(sim=sim, policy=POLICY, store={"tiering": tiering}).start()
    client = server.client()
    client.create_bucket(Bucket=PROTECTED)
    sim.stop()
    client.put_object(Bucket=PROTECTED, Key="k", Body=b"body")

    def said():
        status, text = http("GET", server.admin_url + "/readyz")
        return status == 200 and "of protected buckets are on local disks only" in text

    wait_until("the warning", said)
    metrics = server.metrics()
    assert metrics["tidegate_protect_lag_seconds"] >= 1
    assert (metrics["tidegate_protect_pending_objects"], metrics["tidegate_protect_pending_bytes"]) == (1, 4)
    sim.start()
    caught_up(server, 1)
    wait_until("the warning to end", lambda: not said())


def test_a_policy_that_protects_in_an_archive_is_refused_with_its_place(gateway, sim):
    wrong = {**POLICY, "protect": [{"bucket": PROTECTED, "to": "archive"}]}
    server = gateway(sim=sim, policy=wrong)
    result = server.cli("policy", "check", server.policy, check=False, with_config=False)
    assert result.code != 0 and "not readable at once" in result.out + result.err
    assert "protect[0].to" in result.out + result.err
