"""Packs are enough: with every other file gone, an independent reader extracts each object that was moved, and
`tidegate recover --from-packs` gives a gateway that answers as before."""

import json
import random
import shutil
import sys

import pytest

import formats_world
from formats_world import OSS, SHELF, in_tier, listed
from harness import DAY, ROOT, OssSim, Tidegate, read_body, run, wait_until
from settings import policy

READ_PACK = ROOT / "tests" / "formats" / "read_pack.py"

# What clients see of an object besides its body.
SHOWN = ("ETag", "ContentLength", "LastModified", "Metadata", "ContentType", "CacheControl", "ContentDisposition")
SHOWN += ("ContentEncoding", "ContentLanguage", "ExpiresString", "TagCount", "StorageClass", "PartsCount", "ChecksumType")
SHOWN += ("ChecksumCRC32", "ChecksumCRC32C", "ChecksumCRC64NVME", "ChecksumSHA1", "ChecksumSHA256")


def shown(objects):
    return {name: ({field: e["got"].get(field) for field in SHOWN}, e["body"]) for name, e in objects.items()}


def tags(server):
    return {bucket: server.status(bucket, "described")["tags"] for bucket in (OSS, SHELF)}


@pytest.fixture(scope="module")
def lost(request, tmp_path_factory):
    """Two buckets of all kinds of objects, moved to two tiers; then everything but the tiers' packs is gone."""
    folder = tmp_path_factory.mktemp("packs")
    rng = random.Random(request.config.e2e_seed)
    sim = OssSim(folder / "sim").start()
    server = Tidegate(folder / "gateway", sim=sim, policy=formats_world.rules(), **formats_world.options(folder))
    try:
        client = server.start().client()
        formats_world.fill(client, OSS, rng)
        formats_world.fill(client, SHELF, rng)
        server.advance(31 * DAY)
        cold = len(listed(client, OSS))
        wait_until("two buckets to be cold", lambda: in_tier(server, "ia") == in_tier(server, "shelf") == cold)
        # The same bytes once more: the tier has them, and only learns that they have another name.
        for bucket in (OSS, SHELF):
            body = read_body(client, bucket, "nodes")
            client.put_object(Bucket=bucket, Key="later/same", Body=body, Metadata={"again": "yes"})
            client.put_object(Bucket=bucket, Key="later/empty", Body=b"")
        server.advance(31 * DAY)
        wait_until("all to be cold", lambda: in_tier(server, "ia") == in_tier(server, "shelf") == cold + 2)
        before = shown({**formats_world.seen(client, OSS), **formats_world.seen(client, SHELF)})
        described = tags(server)
        assert server.stop() == 0
        clock = (server.data / "clock-offset").read_text()
        shutil.rmtree(server.data)
        folders = [formats_world.download(server, "ia", folder / "ia"), folder / "shelf"]
        yield {"server": server, "before": before, "tags": described, "clock": clock, "folders": folders}
    finally:
        server.kill()
        sim.kill()


def test_an_independent_reader_extracts_every_object_from_packs_alone(lost, tmp_path):
    done = run([sys.executable, READ_PACK, "--quiet", "--extract", tmp_path, *lost["folders"]])
    before = lost["before"]
    assert f"2 buckets, {len(before)} of {len(before)} objects extracted, 0 older versions left out" in done.stdout
    found = {}
    for line in (tmp_path / "objects.jsonl").read_text().splitlines():
        entry = json.loads(line)
        found[entry["bucket"], entry["key"]] = entry
    assert found.keys() == before.keys()
    for name, (got, body) in before.items():
        entry = found[name]
        assert (tmp_path / entry["file"]).read_bytes() == body, name
        assert (f'"{entry["etag"]}"', entry["size"]) == (got["ETag"], got["ContentLength"]), name
        assert entry["modified"] // 1000 == got["LastModified"].timestamp(), name
        attributes = entry["attributes"]
        assert dict(attributes["metadata"]) == got["Metadata"], name
        assert (attributes["cache_control"], attributes["expires"]) == (got["CacheControl"], got["ExpiresString"]), name
        assert len(attributes["tags"]) == (got["TagCount"] or 0), name
        if entry["checksum"]:
            assert entry["checksum"]["value"] == got[f"Checksum{entry['checksum']['algorithm']}"], name
    assert dict(found[OSS, "described"]["attributes"]["tags"]) == {"team": "dock", "höhe": "5 m"}
    assert found[OSS, "nodes"]["nodes"] == 1 and len(found[OSS, "multi/plain"]["parts"]) == 3


def test_the_reader_names_what_a_missing_or_damaged_pack_had(lost, tmp_path):
    [largest, *others] = sorted(lost["folders"][1].rglob("*.pack"), key=lambda path: -path.stat().st_size)
    out = tmp_path / "out"
    done = run([sys.executable, READ_PACK, "--quiet", "--extract", out, *others], check=False)
    assert done.returncode == 1 and "s3://shelf-data/" in done.stderr and "is in no pack" in done.stderr
    bad = tmp_path / largest.name
    data = bytearray(largest.read_bytes())
    data[100] ^= 4
    bad.write_bytes(data)
    done = run([sys.executable, READ_PACK, "--quiet", "--extract", out, bad, *others], check=False)
    assert done.returncode == 1 and f"damaged: {bad}: offset " in done.stderr


def test_recover_from_packs_gives_a_gateway_that_answers_as_before(lost):
    server, before = lost["server"], lost["before"]
    objects = server.sim.objects()
    recover = ("recover", "--from-packs", "--data-dir", server.data)
    dry = server.cli(*recover, "--dry-run")
    assert not server.data.exists() and "dry run: nothing was made" in dry.out
    text = server.cli("recover", "--from", "ia", "--data-dir", server.data, check=False)
    assert text.code == 1 and "--from-packs" in text.err, "nothing was shipped, and the way out is named"
    result = server.cli(*recover, json_output=True)
    parsed = [json.loads(line) for line in result.out.splitlines()]
    report = parsed[-1]["report"]
    assert len(parsed) == 1 and report["finished"], parsed
    assert (report["found"]["objects"], report["found"]["missing_objects"], report["packs_left"]) == (len(before), 0, 0)
    again = server.cli(*recover, check=False)
    assert again.code == 1 and "not empty" in again.err
    assert server.sim.objects() == objects, "nothing was written there"
    (server.data / "clock-offset").write_text(lost["clock"])  # the test's, not a part of the store
    client = server.start().client()
    after = shown({**formats_world.seen(client, OSS), **formats_world.seen(client, SHELF)})
    assert after.keys() == before.keys()
    for name in before:
        assert after[name] == before[name], name
    assert tags(server) == lost["tags"]
    assert {b["Name"] for b in client.list_buckets()["Buckets"]} == {OSS, SHELF}
    server.cli("gc")
    assert server.sim.objects() == objects, "all that is there is needed"
    server.cli("fsck")
    client.put_object(Bucket=OSS, Key="new", Body=b"new", StorageClass="STANDARD_IA")
    wait_until("the new one to be cold", lambda: server.status(OSS, "new")["residency"] != "hot")
    server.restart()
    assert read_body(server.client(), OSS, "new") == b"new"


def test_archived_packs_are_thawed_when_asked_for(gateway, sim):
    server = gateway(sim=sim, policy=policy(OSS)).start()
    client = server.client()
    client.create_bucket(Bucket=OSS)
    client.put_object(Bucket=OSS, Key="deep", Body=b"deep", StorageClass="GLACIER")
    wait_until("the object to be in the archive", lambda: in_tier(server, "archive") == 1)
    server.stop()
    shutil.rmtree(server.data)
    recover = ("recover", "--from-packs", "--tier", "archive", "--data-dir", server.data)
    dry = server.cli(*recover, "--dry-run")
    assert "archived packs" in dry.out and "  archived" in dry.out
    begun = server.cli(*recover, "--thaw")
    assert "run the same command again" in begun.out
    assert any(o["restore"] for o in sim.admin("GET", f"/objects?bucket={sim.bucket}"))
    sim.advance(DAY / 2)
    done = server.cli(*recover, "--thaw", json_output=True)
    assert json.loads(done.out.splitlines()[-1])["report"]["found"]["objects"] == 1
    server.start()
    assert server.client().head_object(Bucket=OSS, Key="deep")["StorageClass"] == "GLACIER"


def test_what_does_not_go_together_is_refused(gateway):
    server = gateway()
    for wrong in (["--from-packs", "--from", "ia"], ["--from", "ia", "--thaw"], ["--from-packs", "--at", "2026-01-01T00:00:00Z"], []):
        assert server.cli("recover", *wrong, check=False).code == 2, wrong
