"""A standby reads what the primary ships, takes its place when that one is killed, and the old primary comes back behind it."""

import json
import shutil
import subprocess
import time

import oss2
import pytest
from botocore.exceptions import BotoCoreError, ClientError

from harness import DAY, PATIENCE, OSS_KEY, OSS_SECRET, http, put_many, read_body, wait_until
from settings import policy
from test_recovery import Writer

BUCKET = "data"
LAG = "x-tidegate-standby-lag-ms"
FOLLOW = ("standby", "--from", "archive")


def shipped(server):
    def done():
        recovery = server.stats()["recovery"]
        return recovery["term"] > 0 and recovery["lag_records"] == 0

    wait_until("everything to be shipped", done)
    return server.stats()["recovery"]["shipped_sequence"]


def level(primary, standby):
    last = shipped(primary)
    wait_until("the standby to have it", lambda: standby.stats()["standby"]["applied_sequence"] >= last)


def keys(client):
    pages = client.get_paginator("list_objects_v2").paginate(Bucket=BUCKET)
    return {entry["Key"]: entry["ETag"] for page in pages for entry in page.get("Contents", [])}


@pytest.fixture
def pair(gateway, sim, rng):
    """A primary with objects in the cloud and on its disks, and a standby that has all of them."""
    options = {"sim": sim, "policy": policy(BUCKET, prefix="cold/"), "recovery": {"tier": "archive", "rpo": "200ms"}}
    options["standby"] = {"poll": "200ms"}
    primary, standby = gateway(**options).start(), gateway(**options)
    client = primary.client()
    client.create_bucket(Bucket=BUCKET)
    cold = {f"cold/{i:03}": rng.randbytes(rng.randrange(1, 60_000)) for i in range(40)}
    put_many(client, BUCKET, cold)
    client.delete_object(Bucket=BUCKET, Key="cold/000")
    del cold["cold/000"]
    primary.advance(31 * DAY)
    wait_until("all to be cold", lambda: primary.stats()["cold"]["objects"] == len(cold))
    hot = {f"hot/{i:02}": rng.randbytes(20_000) for i in range(8)}
    put_many(client, BUCKET, hot)
    shipped(primary)
    standby.data.mkdir()
    shutil.copy(primary.data / "clock-offset", standby.data)
    standby.start(command=FOLLOW)
    level(primary, standby)
    return primary, standby, cold, hot


def refused(call, status, code):
    with pytest.raises(ClientError) as error:
        call()
    answer = error.value.response
    assert (answer["ResponseMetadata"]["HTTPStatusCode"], answer["Error"]["Code"]) == (status, code), answer
    return answer


def test_a_standby_reads_the_same_and_writes_nothing(pair):
    primary, standby, cold, hot = pair
    client = standby.client()
    assert keys(client) == keys(primary.client())
    for key, body in cold.items():
        answer = client.get_object(Bucket=BUCKET, Key=key)
        assert answer["Body"].read() == body
        assert int(answer["ResponseMetadata"]["HTTPHeaders"][LAG]) < 60_000
    for key in hot:
        assert client.head_object(Bucket=BUCKET, Key=key)["ContentLength"] == 20_000
    refused(lambda: client.get_object(Bucket=BUCKET, Key="hot/00"), 500, "InternalError")
    writes = [
        lambda: client.put_object(Bucket=BUCKET, Key="k", Body=b"x" * 300_000),
        lambda: client.delete_object(Bucket=BUCKET, Key="cold/001"),
        lambda: client.delete_objects(Bucket=BUCKET, Delete={"Objects": [{"Key": "cold/001"}]}),
        lambda: client.copy_object(Bucket=BUCKET, Key="k", CopySource=f"{BUCKET}/cold/001"),
        lambda: client.create_multipart_upload(Bucket=BUCKET, Key="k"),
        lambda: client.restore_object(Bucket=BUCKET, Key="cold/001", RestoreRequest={"Days": 1}),
        lambda: client.create_bucket(Bucket="other"),
        lambda: client.delete_bucket(Bucket=BUCKET),
    ]
    for write in writes:
        answer = refused(write, 405, "MethodNotAllowed")
        assert "standby" in answer["Error"]["Message"] and LAG in answer["ResponseMetadata"]["HTTPHeaders"]
    # What comes later.
    primary.client().put_object(Bucket=BUCKET, Key="later", Body=b"later", Metadata={"a": "b"})
    wait_until("it to come over", lambda: "later" in keys(client))
    assert client.head_object(Bucket=BUCKET, Key="later")["Metadata"] == {"a": "b"}
    assert LAG not in primary.client().head_bucket(Bucket=BUCKET)["ResponseMetadata"]["HTTPHeaders"]
    metrics = standby.metrics()
    assert metrics["tidegate_standby_applied_sequence"] >= 40 and metrics["tidegate_standby_lag_seconds"] < 60
    assert metrics["tidegate_writes_refused"] == 0 and "tidegate_recovery_term" not in metrics
    assert "standby of" in standby.cli("stats").out
    assert standby.cli("gc", check=False).code == 1
    # A primary's command refuses the directory, and the other way round.
    standby.stop()
    wrong = standby.cli("serve", check=False)
    assert wrong.code == 1 and "tidegate standby --from archive" in wrong.err, wrong
    standby.start(command=FOLLOW)
    primary.stop()
    wrong = primary.cli(*FOLLOW, check=False)
    assert wrong.code == 1 and "its claim is the last one" in wrong.err, wrong


def test_the_cloud_is_away_and_the_lag_shows(pair, sim):
    _, standby, _, _ = pair
    sim.stop()
    client = standby.client()

    def lag():
        return int(client.head_bucket(Bucket=BUCKET)["ResponseMetadata"]["HTTPHeaders"][LAG])

    wait_until("the lag to grow", lambda: lag() > 3_000)
    assert standby.stats()["standby"]["last_error"]
    sim.start()
    wait_until("it to catch up", lambda: lag() < 2_000)


def test_the_primary_is_killed_the_standby_takes_over_and_the_old_one_rejoins(pair, capsys):
    primary, standby, cold, hot = pair
    before = keys(primary.client())
    writer = Writer(primary)
    writer.start()
    assert writer.enough.wait(PATIENCE)
    killed = time.monotonic()
    primary.kill()
    writer.join(30)
    asked = standby.cli("promote", check=False)
    assert asked.code == 2 and "--yes" in asked.err and "standby of" in asked.out, asked
    began = time.monotonic()
    result = standby.cli("promote", "--yes", json_output=True)
    took = time.monotonic() - began
    report = result.json
    assert report["term"] == 2 and report["gap"] is None and 0 < report["took_ms"] <= took * 1000 + 1
    client = standby.client()
    client.put_object(Bucket=BUCKET, Key="after", Body=b"after")
    after = keys(client)
    stream = {key for key in after if key.startswith("stream/")}
    assert {k: v for k, v in after.items() if k not in stream and k != "after"} == before, "0 lost, 0 resurrected"
    late = [killed - at for key, at in writer.acknowledged.items() if key not in stream]
    assert max(late, default=0) < 30 and len(stream - set(writer.acknowledged)) <= 1
    for key, body in cold.items():
        assert read_body(client, BUCKET, key) == body
    assert LAG not in client.head_bucket(Bucket=BUCKET)["ResponseMetadata"]["HTTPHeaders"]
    wait_until("what came over to be examined", lambda: "missing_objects" in (standby.data / "promoted.json").read_text())
    missing = [json.loads(line)["key"] for line in (standby.data / "promoted-missing.jsonl").read_text().splitlines()]
    assert set(missing) == set(hot) | stream
    with capsys.disabled():
        print(
            f"\nRPO {max(late, default=0):.2f} s ({len(late)} of {len(writer.acknowledged)} writes), "
            f"RTO {report['took_ms'] / 1000:.2f} s (command {took:.2f} s) for {len(after)} objects"
        )
    # As any server from now on.
    standby.stop()
    standby.start()
    standby.client().put_object(Bucket=BUCKET, Key="again", Body=b"again")

    primary.start()
    warnings = json.loads(http("GET", primary.admin_url + "/readyz")[1])["warnings"]
    assert "another store took this one's place" in warnings[0], warnings
    refused(lambda: primary.client().put_object(Bucket=BUCKET, Key="k", Body=b"x"), 503, "ServiceUnavailable")
    primary.stop()
    primary.start(command=FOLLOW)
    level(standby, primary)
    assert keys(primary.client()) == keys(standby.client())
    lost = {json.loads(line)["key"] for line in (primary.data / "rejoined-lost.jsonl").read_text().splitlines()}
    # One may have been written and not answered.
    assert set(writer.acknowledged) - stream <= lost and len(lost - set(writer.acknowledged)) <= 1
    assert any(entry.name.startswith("aside-") for entry in primary.data.iterdir())
    for key, body in hot.items():
        assert read_body(primary.client(), BUCKET, key) == body, "its packs are still of use"
    assert read_body(primary.client(), BUCKET, "cold/001") == cold["cold/001"]
    # And back again.
    assert primary.cli("promote", "--yes", json_output=True).json["term"] > 2
    primary.client().put_object(Bucket=BUCKET, Key="home", Body=b"home")


@pytest.mark.parametrize("failpoint", ["promote.after_claim", "promote.after_decision", "promote.before_end"])
def test_a_promotion_that_is_killed_goes_on(pair, failpoint):
    primary, standby, cold, _ = pair
    before = keys(primary.client())
    standby.stop()
    standby.start("--failpoint", failpoint, command=FOLLOW)
    killed = standby.cli("promote", "--yes", check=False)
    assert killed.code == 4, killed
    standby.process.wait()
    standby.start(command=FOLLOW)
    client = standby.client()

    def writes():
        try:
            client.put_object(Bucket=BUCKET, Key="after", Body=b"after")
            return True
        except (BotoCoreError, ClientError):
            return False

    wait_until("the promotion to be finished", writes)
    assert keys(client) == {**before, "after": keys(client)["after"]}
    assert read_body(client, BUCKET, "cold/001") == cold["cold/001"]
    wait_until("the old primary to notice", lambda: primary.metrics()["tidegate_recovery_fenced"] == 1)


def test_a_damaged_piece_is_named_and_promotes_nobody_until_it_is_gone(pair, sim):
    primary, standby, cold, _ = pair
    standby.stop()
    for n in range(4):
        primary.client().put_object(Bucket=BUCKET, Key=f"more/{n}", Body=b"x")
        shipped(primary)
    sim.admin("PUT", "/clock", {"skew_check": False})  # the client's clock does not follow the virtual one
    bucket = oss2.Bucket(oss2.Auth(OSS_KEY, OSS_SECRET), sim.endpoint, sim.bucket, is_path_style=True)
    piece = sorted(name for name in sim.objects() if "/journal/" in name)[-2]
    body = bytearray(bucket.get_object(piece).read())
    body[-10] ^= 1
    bucket.put_object(piece, bytes(body))
    standby.start(command=FOLLOW, wait=False)
    base = piece.rsplit("/", 1)[1]
    wait_until("it is named", lambda: base in "".join(standby.process.lines))
    failed = standby.cli("promote", "--yes", check=False)
    assert failed.code == 1 and base in failed.err and "Put it back" in failed.err, failed
    assert primary.metrics()["tidegate_recovery_fenced"] == 0
    primary.stop()
    bucket.delete_object(piece)
    report = standby.cli("promote", "--yes", json_output=True).json
    assert "are not there" in report["gap"], report
    client = standby.client()
    client.put_object(Bucket=BUCKET, Key="after", Body=b"after")
    assert {"more/0", "after"} <= set(keys(client)) and "more/3" not in keys(client)
    assert read_body(client, BUCKET, "cold/001") == cold["cold/001"]


def test_a_wrong_tier_is_named_and_nothing_is_made(gateway, sim):
    server = gateway(sim=sim)
    for tier, words in [("nope", ["configured: archive, deep, ia"]), ("ia", ["recovery.tier: ia"])]:
        wrong = server.cli("standby", "--from", tier, check=False)
        assert wrong.code != 0 and all(word in wrong.err for word in words), wrong
        assert not server.data.exists()


def test_help_names_what_to_do(gateway):
    text = subprocess.run([gateway().binary, "standby", "--help"], capture_output=True, text=True, check=True).stdout
    assert "--from" in text and "promote" in text
