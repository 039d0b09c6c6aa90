"""Objects on their way down and back: policy, clock, the simulated cloud, restores, deletes, a cloud that is down."""

import hashlib

import pytest
from botocore.exceptions import ClientError

from harness import DAY, PATIENCE, put_many, read_body, wait_until
from s3util import MIB, refused, upload
from settings import policy

BUCKET = "data"


@pytest.fixture
def tiered(gateway, sim):
    """A running gateway with tiers ia, archive, deep on the simulator and a policy that cools bucket `data` down."""

    def start(**options):
        server = gateway(sim=sim, policy=options.pop("policy", policy(BUCKET)), **options).start()
        server.client().create_bucket(Bucket=BUCKET)
        return server

    return start


def tier_of(server, key, bucket=BUCKET):
    """`hot`, or the name of the tier that has the object."""
    residency = server.status(bucket, key)["residency"]
    if isinstance(residency, str):
        return residency.lower()
    kind, details = next(iter(residency.items()))
    return details["tier"]


def wait_tier(server, keys, tier, timeout=PATIENCE):
    wait_until(f"{len(keys)} objects to be in {tier}", lambda: all(tier_of(server, k) == tier for k in keys), timeout)


def shown_class(client, key):
    return client.head_object(Bucket=BUCKET, Key=key).get("StorageClass", "STANDARD")


def make_objects(client, rng, count=12):
    bodies = {f"logs/{i:03}": rng.randbytes(rng.randrange(1, 150_000)) for i in range(count)}
    bodies["empty"] = b""
    bodies["large"] = rng.randbytes(6 * MIB)
    put_many(client, BUCKET, bodies)
    return bodies


def test_objects_go_to_ia_then_archive_and_come_back(tiered, sim, rng):
    server = tiered()
    client = server.client()
    bodies = make_objects(client, rng)
    before = {k: client.head_object(Bucket=BUCKET, Key=k) for k in bodies}
    assert sim.objects() == {}, "nothing leaves before its time"

    server.advance(31 * DAY)
    wait_tier(server, bodies, "ia")
    remote = sim.objects()
    assert 0 < len(remote) < len(bodies), "small objects share packs"
    assert all(shown_class(client, k) == "STANDARD_IA" for k in bodies)
    server.lose_local_packs()
    for key, body in bodies.items():
        assert read_body(client, BUCKET, key) == body
    got = client.get_object(Bucket=BUCKET, Key="large", Range="bytes=1000000-1999999")
    assert got["Body"].read() == bodies["large"][1_000_000:2_000_000]

    server.advance(60 * DAY)
    wait_tier(server, bodies, "archive")
    assert all(shown_class(client, k) == "GLACIER" for k in bodies)
    for key in bodies:
        with refused("InvalidObjectState", 403):
            client.get_object(Bucket=BUCKET, Key=key)
        after = client.head_object(Bucket=BUCKET, Key=key)
        for field in ("ETag", "LastModified", "ContentLength", "ContentType", "Metadata"):
            assert after[field] == before[key][field], f"moving an object changed its {field}"
        assert "Restore" not in after
    wait_until("the packs in IA to be deleted", lambda: not any("/ia/" in name for name in sim.objects()))

    server.lose_local_packs()
    restore_and_check(server, client, bodies)


def restore_and_check(server, client, bodies, days=3):
    def ask(key):
        return client.restore_object(
            Bucket=BUCKET, Key=key, RestoreRequest={"Days": days, "GlacierJobParameters": {"Tier": "Standard"}}
        )["ResponseMetadata"]["HTTPStatusCode"]

    key = next(iter(bodies))
    assert ask(key) == 202
    assert 'ongoing-request="true"' in client.head_object(Bucket=BUCKET, Key=key)["Restore"]
    with refused("RestoreAlreadyInProgress", 409):
        ask(key)
    with refused("InvalidObjectState", 403):
        client.get_object(Bucket=BUCKET, Key=key)
    for other in list(bodies)[1:]:
        assert ask(other) == 202
    server.restart()  # a restore that was promised survives this
    assert 'ongoing-request="true"' in client.head_object(Bucket=BUCKET, Key=key)["Restore"]
    server.advance(3600)

    def restored(key):
        return 'ongoing-request="false"' in client.head_object(Bucket=BUCKET, Key=key).get("Restore", "")

    wait_until("all objects to be restored", lambda: all(restored(k) for k in bodies))
    for name, body in bodies.items():
        got = client.get_object(Bucket=BUCKET, Key=name)
        assert got["Body"].read() == body
        assert "expiry-date=" in got["Restore"]
    assert shown_class(client, key) == "GLACIER", "a restored object is still of its class"
    assert ask(key) == 200, "a second request extends the copy"

    server.advance((days + 2) * DAY)
    wait_until("the restored copies to expire", lambda: "Restore" not in client.head_object(Bucket=BUCKET, Key=key))
    with refused("InvalidObjectState", 403):
        client.get_object(Bucket=BUCKET, Key=key)
    # Expiry drops the local copy only: a second restore finds the same bytes (at once, when they are cached still).
    assert ask(key) in (200, 202)
    server.advance(3600)
    wait_until("the object to be restored again", lambda: restored(key))
    assert read_body(client, BUCKET, key) == bodies[key]


def test_a_restore_of_what_needs_none_is_refused(tiered, rng):
    server = tiered()
    client = server.client()
    client.put_object(Bucket=BUCKET, Key="hot", Body=b"x")
    request = {"Days": 1, "GlacierJobParameters": {"Tier": "Standard"}}
    with refused("InvalidObjectState", 403):
        client.restore_object(Bucket=BUCKET, Key="hot", RestoreRequest=request)
    with refused("NoSuchKey", 404):
        client.restore_object(Bucket=BUCKET, Key="nothing", RestoreRequest=request)


def test_a_put_into_a_cold_class_is_moved_at_once(tiered, sim, rng):
    server = tiered()
    client = server.client()
    body = rng.randbytes(400_000)
    client.put_object(Bucket=BUCKET, Key="direct", Body=body, StorageClass="GLACIER")
    wait_tier(server, ["direct"], "archive")
    assert any("/archive/" in name for name in sim.objects())
    with refused("InvalidObjectState", 403):
        client.get_object(Bucket=BUCKET, Key="direct")
    with refused("InvalidStorageClass", 400):
        client.put_object(Bucket=BUCKET, Key="unknown", Body=b"", StorageClass="REDUCED_REDUNDANCY")


def test_a_multipart_object_keeps_its_parts_and_etag_in_the_cloud(tiered, rng):
    server = tiered()
    client = server.client()
    parts = [(1, rng.randbytes(5 * MIB)), (2, rng.randbytes(5 * MIB + 3)), (3, rng.randbytes(10))]
    done = upload(client, BUCKET, "k", parts)
    server.advance(31 * DAY)
    wait_tier(server, ["k"], "ia")
    assert client.head_object(Bucket=BUCKET, Key="k")["ETag"] == done["ETag"]
    for number, body in parts:
        got = client.get_object(Bucket=BUCKET, Key="k", PartNumber=number)
        assert (got["Body"].read(), got["PartsCount"]) == (body, 3)


def test_deletes_and_overwrites_free_the_cloud(tiered, sim, rng):
    server = tiered()
    client = server.client()
    bodies = make_objects(client, rng)
    server.advance(31 * DAY)
    wait_tier(server, bodies, "ia")
    assert sim.objects()
    keep = "large"
    for key in bodies:
        if key != keep:
            client.delete_object(Bucket=BUCKET, Key=key)
    assert read_body(client, BUCKET, keep) == bodies[keep]
    client.put_object(Bucket=BUCKET, Key=keep, Body=b"overwritten")
    wait_until("remote packs without objects to be deleted", lambda: sim.objects() == {})
    assert read_body(client, BUCKET, keep) == b"overwritten"


def test_objects_expire_by_rule(tiered, sim, rng):
    server = tiered(policy=policy(BUCKET, expire_after="200d"))
    client = server.client()
    bodies = make_objects(client, rng, count=4)
    for days in (31, 60, 115):
        server.advance(days * DAY)
    wait_until("all objects to expire", lambda: "Contents" not in client.list_objects_v2(Bucket=BUCKET))
    for key in bodies:
        with refused("NoSuchKey", 404):
            client.get_object(Bucket=BUCKET, Key=key)
    wait_until("the remote packs to go", lambda: sim.objects() == {})


def test_a_copy_of_a_cold_object_outlives_it(tiered, sim, rng):
    server = tiered()
    client = server.client()
    body = rng.randbytes(300_000)
    client.put_object(Bucket=BUCKET, Key="original", Body=body)
    server.advance(31 * DAY)
    wait_tier(server, ["original"], "ia")
    client.copy_object(Bucket=BUCKET, Key="copy", CopySource={"Bucket": BUCKET, "Key": "original"})
    client.delete_object(Bucket=BUCKET, Key="original")
    server.restart()
    assert read_body(client, BUCKET, "copy") == body


def test_with_the_cloud_down_hot_data_is_served_and_jobs_wait(tiered, sim, rng):
    server = tiered()
    client = server.client()
    bodies = make_objects(client, rng, count=5)
    sim.stop()
    server.advance_own(31 * DAY)

    def failing():
        words = ("error", "failure", "failed")
        return any(
            v > 0
            for k, v in server.metrics().items()
            if any(w in k for w in words) and any(w in k for w in ("tier", "job", "scheduler", "oss"))
        )

    wait_until("the metrics to tell of the tier's errors", failing)
    assert all(tier_of(server, key) == "hot" for key in bodies)
    for key, body in bodies.items():
        assert read_body(client, BUCKET, key) == body
    client.put_object(Bucket=BUCKET, Key="during", Body=b"written while the cloud is down")
    assert read_body(client, BUCKET, "during") == b"written while the cloud is down"
    assert any(v > 0 for k, v in server.metrics().items() if "due_lag" in k), "the lag of the oldest due action"
    sim.start()
    sim.advance(31 * DAY)
    wait_tier(server, bodies, "ia")
    assert sim.objects()
    for key, body in bodies.items():
        assert read_body(client, BUCKET, key) == body


def test_a_read_of_cold_data_with_the_cloud_down_fails_and_lies_not(tiered, sim, rng):
    server = tiered(store={"tiering": {"recall": "stream"}})
    client = server.client()
    body = rng.randbytes(500_000)
    client.put_object(Bucket=BUCKET, Key="k", Body=body)
    server.advance(31 * DAY)
    wait_tier(server, ["k"], "ia")
    server.lose_local_packs()
    sim.stop()
    try:
        read_body(client, BUCKET, "k")
        pytest.fail("there is no copy that could have been read")
    except ClientError as error:
        assert error.response["ResponseMetadata"]["HTTPStatusCode"] in (500, 503), error
    sim.start()
    wait_until("the read to work again", lambda: try_read(client, "k") == body)


def try_read(client, key):
    try:
        return read_body(client, BUCKET, key)
    except ClientError:
        return None


def test_the_same_content_in_many_objects_is_stored_once_in_the_cloud(tiered, sim, rng):
    server = tiered()
    client = server.client()
    body = rng.randbytes(2 * MIB)
    keys = [f"same/{i}" for i in range(10)]
    put_many(client, BUCKET, {k: body for k in keys})
    server.advance(31 * DAY)
    wait_tier(server, keys, "ia")
    assert sum(sim.objects().values()) < 2 * len(body)
    assert {hashlib.md5(read_body(client, BUCKET, k)).digest() for k in keys} == {hashlib.md5(body).digest()}


def test_a_policy_is_reloaded_and_a_broken_one_changes_nothing(tiered, sim, rng):
    import os
    import signal

    import yaml

    server = tiered(policy=policy(BUCKET, ia_after="300d", archive_after="400d"))
    client = server.client()
    client.put_object(Bucket=BUCKET, Key="k", Body=rng.randbytes(10_000))
    server.policy.write_text("apiVersion: tidegate/v1\nkind: LifecyclePolicy\nrules: 7\n")
    os.kill(server.process.pid, signal.SIGHUP)
    server.advance(31 * DAY)
    assert tier_of(server, "k") == "hot"
    server.policy.write_text(yaml.safe_dump(policy(BUCKET)))
    os.kill(server.process.pid, signal.SIGHUP)
    wait_tier(server, ["k"], "ia")
