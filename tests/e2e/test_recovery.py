"""The disk is lost: the namespace comes back from the cloud, every byte that was there with it, and the old box is fenced."""

import json
import shutil
import threading
import time

import pytest
from botocore.exceptions import BotoCoreError, ClientError

from harness import DAY, PATIENCE, http, merged, put_many, read_body, wait_until
from s3util import MIB, upload
from settings import policy

BUCKET = "data"


def recovery(server):
    return server.stats()["recovery"]


def shipped(server):
    wait_until("everything to be shipped", lambda: recovery(server)["term"] > 0 and recovery(server)["lag_records"] == 0)


def namespace(client):
    """All that clients see of each key, but its bytes."""
    found = {}
    for page in client.get_paginator("list_objects_v2").paginate(Bucket=BUCKET):
        for entry in page.get("Contents", []):
            key = entry["Key"]
            head = client.head_object(Bucket=BUCKET, Key=key)
            found[key] = (
                entry["ETag"],
                entry["Size"],
                entry["LastModified"].isoformat(),
                head["Metadata"],
                head["ContentType"],
                head.get("TagCount"),
            )
    return found


def lines(result):
    """What `recover --json` prints: the missing objects, and the report."""
    parsed = [json.loads(line) for line in result.out.splitlines()]
    return [line["missing"] for line in parsed if "missing" in line], parsed[-1]["report"]


class Writer(threading.Thread):
    """Writes until the server is gone; knows what was acknowledged when."""

    def __init__(self, server):
        super().__init__(daemon=True)
        self.client = server.client()
        self.acknowledged = {}
        self.enough = threading.Event()

    def run(self):
        for number in range(100_000):
            key = f"stream/{number:05}"
            try:
                self.client.put_object(Bucket=BUCKET, Key=key, Body=key.encode())
            except (BotoCoreError, ClientError, OSError):
                return
            self.acknowledged[key] = time.monotonic()
            if number >= 50:
                self.enough.set()


@pytest.fixture
def lost(gateway, sim, rng, tmp_path):
    """A server with objects in the cloud and on its disk, killed while it was being written to. The data directory is moved away."""
    server = gateway(sim=sim, policy=policy(BUCKET, prefix="cold/"), recovery={"tier": "archive"}).start()
    client = server.client()
    client.create_bucket(Bucket=BUCKET)
    cold = {f"cold/{i:03}": rng.randbytes(rng.randrange(1, 60_000)) for i in range(60)}
    put_many(client, BUCKET, cold)
    client.put_object(
        Bucket=BUCKET, Key="cold/tagged", Body=b"tagged", Metadata={"who": "me"}, ContentType="text/x-a", Tagging="a=1&b=2"
    )
    cold["cold/tagged"] = b"tagged"
    parts = [(1, rng.randbytes(5 * MIB)), (2, rng.randbytes(7 * MIB)), (3, b"tail")]
    upload(client, BUCKET, "cold/multi", parts)
    cold["cold/multi"] = b"".join(part for _, part in parts)
    for i in range(5):
        client.delete_object(Bucket=BUCKET, Key=f"cold/{i:03}")
        del cold[f"cold/{i:03}"]
    server.advance(31 * DAY)
    wait_until("all to be cold", lambda: server.stats()["cold"]["objects"] == len(cold))
    hot = {f"hot/{i:02}": rng.randbytes(20_000) for i in range(10)}
    put_many(client, BUCKET, hot)
    client.delete_object(Bucket=BUCKET, Key="cold/005")
    del cold["cold/005"]
    shipped(server)
    before = namespace(client)
    tags = server.status(BUCKET, "cold/tagged")["tags"]
    writer = Writer(server)
    writer.start()
    assert writer.enough.wait(PATIENCE)
    killed = time.monotonic()
    server.kill()
    writer.join(30)
    aside = tmp_path / "aside"
    shutil.move(server.data, aside)
    shown = {"before": before, "tags": tags, "cold": cold, "hot": hot}
    return {"server": server, "aside": aside, "writer": writer, "killed": killed, **shown}


def test_a_lost_disk_is_recovered_from_the_cloud_alone_and_the_old_box_is_fenced(gateway, sim, lost, capsys):
    server = lost["server"]
    objects = sim.objects()
    dry = server.cli("recover", "--from", "archive", "--data-dir", server.data, "--dry-run", json_output=True)
    missing, report = lines(dry)
    assert {m["key"] for m in missing if m["key"].startswith("hot/")} == set(lost["hot"])
    assert report["dry_run"] and report["term"] == 0
    assert not server.data.exists() and sim.objects() == objects

    began = time.monotonic()
    result = server.cli("recover", "--from", "archive", "--data-dir", server.data, json_output=True)
    missing, report = lines(result)
    shutil.copy(lost["aside"] / "clock-offset", server.data)  # the test's, not a part of the store
    server.start()
    rto = time.monotonic() - began
    client = server.client()
    after = namespace(client)
    stream = {key for key in after if key.startswith("stream/")}
    assert {key: value for key, value in after.items() if key not in stream} == lost["before"]
    assert server.status(BUCKET, "cold/tagged")["tags"] == lost["tags"]
    acknowledged = lost["writer"].acknowledged
    late = [lost["killed"] - acknowledged[key] for key in acknowledged if key not in stream]
    # One may have been written and not answered.
    assert len(stream - set(acknowledged)) <= 1
    assert max(late, default=0) < 30, "what is older than the lag is there"
    for key, body in lost["cold"].items():
        assert read_body(client, BUCKET, key) == body, key
    for key in lost["hot"]:
        with pytest.raises(ClientError) as refused:
            client.get_object(Bucket=BUCKET, Key=key)
        assert refused.value.response["ResponseMetadata"]["HTTPStatusCode"] == 500
    assert {m["key"] for m in missing} == set(lost["hot"]) | stream
    assert len((server.data / "recovered-missing.jsonl").read_text().splitlines()) == len(missing)
    with capsys.disabled():
        print(
            f"\nRPO {max(late, default=0):.2f} s ({len(late)} of {len(acknowledged)} writes after the last look), "
            f"RTO {rto:.2f} s for {report['found']['objects']} objects ({report['fetched_objects']} requested)"
        )

    # The old box wakes up.
    old = gateway(sim=sim, policy=policy(BUCKET, prefix="cold/"), recovery={"tier": "archive"})
    shutil.copytree(lost["aside"], old.data)
    old.start()
    objects = sim.objects()
    status, text = http("GET", old.admin_url + "/readyz")
    assert status == 200 and "another store took this one's place" in json.loads(text)["warnings"][0], text
    assert old.metrics()["tidegate_recovery_fenced"] == 1
    assert old.metrics()["tidegate_writes_refused"] == 1
    wait_until("the log to say so", lambda: "another store took this one's place" in "".join(old.process.lines))
    assert recovery(old)["fenced"]
    with pytest.raises(ClientError) as refused:
        old.client().put_object(Bucket=BUCKET, Key="late", Body=b"late")
    assert refused.value.response["ResponseMetadata"]["HTTPStatusCode"] == 503
    for key, body in lost["hot"].items():
        assert read_body(old.client(), BUCKET, key) == body
    old.advance_own(100 * DAY)
    time_of_turn = old.metrics()["tidegate_scheduler_last_turn_timestamp_seconds"]
    wait_until(
        "a turn", lambda: old.metrics()["tidegate_scheduler_last_turn_timestamp_seconds"] > time_of_turn
    )
    old.stop()
    mine = {name for name in sim.objects() if "/meta/" not in name} - {n for n in objects if "/meta/" not in n}
    assert not mine, "it has written nothing"
    assert recovery(server)["fenced"] is None
    client.put_object(Bucket=BUCKET, Key="hot/00", Body=lost["hot"]["hot/00"])
    assert read_body(client, BUCKET, "hot/00") == lost["hot"]["hot/00"], "the same bytes again heal it"


def test_the_state_of_an_earlier_time_comes_back(gateway, sim, rng):
    server = gateway(sim=sim, recovery={"tier": "ia"}).start()
    client = server.client()
    client.create_bucket(Bucket=BUCKET)
    bodies = {f"k/{i}": rng.randbytes(10_000) for i in range(5)}
    for key, body in bodies.items():
        client.put_object(Bucket=BUCKET, Key=key, Body=body, StorageClass="STANDARD_IA")
    wait_until("all to be cold", lambda: server.stats()["cold"]["objects"] == 5)
    at = server.stats()["time"]
    server.advance_own(60)
    for key in bodies:
        client.delete_object(Bucket=BUCKET, Key=key)
    client.put_object(Bucket=BUCKET, Key="later", Body=b"later")
    server.cli("gc")
    shipped(server)
    server.stop()
    shutil.rmtree(server.data)
    moment = time.strftime("%Y-%m-%dT%H:%M:%S", time.gmtime(at // 1000)) + f".{at % 1000:03}Z"
    result = server.cli("recover", "--from", "ia", "--data-dir", server.data, "--at", moment, json_output=True)
    missing, report = lines(result)
    assert missing == [] and report["until"] <= at, report
    server.start()
    assert {o["Key"] for o in client.list_objects_v2(Bucket=BUCKET)["Contents"]} == set(bodies)
    for key, body in bodies.items():
        assert read_body(client, BUCKET, key) == body
    named = ("recover", "--from", "ia", "--data-dir", server.folder / "x", "--deployment")
    other = server.cli(*named, "f" * 32, check=False)
    assert other.code == 1 and f'deployment "{"f" * 32}"; it has: {report["deployment"]}' in other.err, other
    early = server.cli("recover", "--from", "ia", "--data-dir", server.folder / "x", "--at", "2001-01-01T00:00:00Z", check=False)
    assert early.code == 1 and "earliest" in early.err, early


def test_the_cloud_is_away_for_a_while_and_the_lag_shows(gateway, sim):
    server = gateway(sim=sim, recovery={"tier": "ia", "rpo": "100ms", "warn_after": "1s"}).start()
    client = server.client()
    client.create_bucket(Bucket=BUCKET)
    shipped(server)
    sim.stop()
    for i in range(20):
        client.put_object(Bucket=BUCKET, Key=f"k/{i}", Body=b"x")
    wait_until("the lag to be warned of", lambda: "behind" in http("GET", server.admin_url + "/readyz")[1])
    metrics = server.metrics()
    assert metrics["tidegate_recovery_lag_records"] >= 20 and metrics["tidegate_recovery_lag_seconds"] >= 1
    assert "recovery lag" in server.cli("stats").out
    sim.start()
    shipped(server)
    assert json.loads(http("GET", server.admin_url + "/readyz")[1])["warnings"] == []
    assert server.metrics()["tidegate_recovery_lag_seconds"] == 0


def test_a_directory_as_recovery_tier_and_what_check_says(gateway, tmp_path):
    section = {"tiers": {"nas": {"type": "directory", "path": str(tmp_path / "nas")}}, "recovery": {"tier": "nas"}}
    server = gateway(**section).start()
    client = server.client()
    client.create_bucket(Bucket=BUCKET)
    client.put_object(Bucket=BUCKET, Key="k", Body=b"x")
    shipped(server)
    server.kill()
    shutil.rmtree(server.data)
    assert "tiers without packs" not in server.cli("recover", "--from", "nas", "--data-dir", server.data, "--dry-run").out
    assert "missing  s3://data/k" in server.cli("recover", "--from", "nas", "--data-dir", server.data).out
    server.start()
    assert [o["Key"] for o in client.list_objects_v2(Bucket=BUCKET)["Contents"]] == ["k"]
    wrong = gateway(**merged(section, {"recovery": {"tier": "nos", "rpo": "1ms"}}))
    answer = wrong.cli("check", check=False)
    assert answer.code == 3 and "recovery.tier" in answer.out and "recovery.rpo" in answer.out, answer
