"""A store with content of every kind, hot and in tiers, for the tests of its formats: what is put into it, what clients see
of it, and copies of its files after its server was killed and after it was stopped."""

import shutil
import threading

import oss2
from botocore.exceptions import BotoCoreError, ClientError

from harness import DAY, OSS_KEY, OSS_SECRET, wait_until
from s3util import MIB, upload
from settings import policy

HOT, OSS, SHELF, SAFE = "hot-data", "oss-data", "shelf-data", "safe-data"


def text(rng, size):
    words = ["tide", "gate", "lock", "sluice", "weir", "basin", "ebb", "flood", "schleuse", "écluse", "水门"]
    return " ".join(rng.choice(words) for _ in range(size // 4)).encode()[:size]


def fill(client, bucket, rng):
    """Objects of every kind, and one upload that stays open."""
    client.create_bucket(Bucket=bucket)

    def put(key, body, **more):
        client.put_object(Bucket=bucket, Key=key, Body=body, **more)

    put("empty", b"")
    put("small", b"x")
    put("text", text(rng, MIB))
    put("zeros", bytes(3 * MIB))
    put("random", rng.randbytes(300_000))
    put("nodes", rng.randbytes(7 * MIB))  # more than 64 chunks: the list is in a manifest node
    put("folder/ключ 🔑 \u00e9", b"unicode")
    put("folder//../.", b"not a path")
    put("k" * 1024, b"long key")
    put("overwritten", rng.randbytes(200_000))
    put("overwritten", text(rng, 50_000))
    put("deleted", rng.randbytes(100_000))
    client.delete_object(Bucket=bucket, Key="deleted")
    for algorithm in ["CRC32", "CRC32C", "CRC64NVME", "SHA1", "SHA256"]:
        put(f"checksum/{algorithm}", text(rng, 20_000), ChecksumAlgorithm=algorithm)
    put(
        "described",
        text(rng, 100_000),
        ContentType="text/plain; charset=utf-8",
        CacheControl="no-cache",
        ContentDisposition='attachment; filename="tide.txt"',
        ContentEncoding="identity",
        ContentLanguage="de, fr",
        Expires="Wed, 21 Oct 2026 07:28:00 GMT",
        Metadata={"colour": "blue", "empty": ""},
        Tagging="team=dock&h%C3%B6he=5%20m",
    )
    parts = [(1, rng.randbytes(5 * MIB)), (2, text(rng, 5 * MIB + 3)), (7, b"the end")]
    upload(client, bucket, "multi/plain", parts)
    composite(client, bucket, "multi/composite", parts)
    upload(client, bucket, "multi/small", [(1, b"one part")], Metadata={"parts": "1"})
    for source in ["text", "nodes", "described", "multi/plain"]:
        client.copy_object(Bucket=bucket, Key=f"copy/{source}", CopySource={"Bucket": bucket, "Key": source})
    client.copy_object(
        Bucket=bucket,
        Key="copy/replaced",
        CopySource={"Bucket": bucket, "Key": "described"},
        MetadataDirective="REPLACE",
        Metadata={"other": "yes"},
        TaggingDirective="REPLACE",
        Tagging="later=added",
    )
    client.copy_object(  # another checksum: the source is read, the copy has no parts
        Bucket=bucket,
        Key="copy/read again",
        CopySource={"Bucket": bucket, "Key": "multi/plain"},
        ChecksumAlgorithm="SHA1",
    )
    begun = client.create_multipart_upload(Bucket=bucket, Key="unfinished")
    client.upload_part(Bucket=bucket, Key="unfinished", UploadId=begun["UploadId"], PartNumber=3, Body=parts[0][1])


def composite(client, bucket, key, parts):
    """A multipart upload with a checksum of checksums."""
    begun = {"Bucket": bucket, "Key": key}
    begun["UploadId"] = client.create_multipart_upload(**begun, ChecksumAlgorithm="SHA256")["UploadId"]
    done = []
    for number, body in parts:
        answer = client.upload_part(**begun, PartNumber=number, Body=body, ChecksumAlgorithm="SHA256")
        done.append({"PartNumber": number, "ETag": answer["ETag"], "ChecksumSHA256": answer["ChecksumSHA256"]})
    client.complete_multipart_upload(**begun, MultipartUpload={"Parts": done})


def seen(client, bucket):
    """{(bucket, key): what a client sees of the object}."""
    found = {}
    for page in client.get_paginator("list_objects_v2").paginate(Bucket=bucket):
        for entry in page.get("Contents", []):
            got = client.get_object(Bucket=bucket, Key=entry["Key"], ChecksumMode="ENABLED")
            found[bucket, entry["Key"]] = {"got": got, "body": got["Body"].read()}
    return found


class Uploads:
    """Uploads in the background until the server is gone: `tried` has all bodies, `done` the keys that were acknowledged."""

    def __init__(self, client, bucket, rng):
        self.client, self.bucket, self.rng = client, bucket, rng
        self.tried, self.done = {}, []
        self.thread = threading.Thread(target=self._run, daemon=True)
        self.thread.start()

    def _run(self):
        try:
            while True:
                key = f"inflight/{len(self.tried)}"
                self.tried[key] = self.rng.randbytes(self.rng.randrange(1, MIB))
                self.client.put_object(Bucket=self.bucket, Key=key, Body=self.tried[key])
                self.done.append(key)
        except (BotoCoreError, ClientError):
            pass  # the server was killed


def download(server, tier, folder):
    """What the simulator's bucket has under the prefix of `tier`."""
    sim = server.sim
    sim.admin("PUT", "/clock", {"skew_check": False})  # the client's clock does not follow the virtual one
    bucket = oss2.Bucket(oss2.Auth(OSS_KEY, OSS_SECRET), sim.endpoint, sim.bucket, is_path_style=True)
    prefix = f"tidegate/{tier}/"
    names = [name for name in sim.objects() if name.startswith(prefix)]
    if tier == "archive":
        for name in names:
            bucket.restore_object(name)
        server.advance(3600)
    for name in names:
        file = folder / name.removeprefix(prefix)
        file.parent.mkdir(parents=True, exist_ok=True)
        bucket.get_object_to_file(name, str(file))
    return folder


def rules():
    """By age to the OSS tier `ia` and to the directory `shelf`; by the last read and by the fill level, far from now; one bucket
    is protected in `ia`."""
    result = policy(OSS)
    result["protect"] = [{"bucket": SAFE, "to": "ia"}]
    result["tiers"].insert(0, {"name": "shelf"})
    later = [{"to": "shelf", "after": "900d", "since": "lastAccess"}, {"to": "ia", "whenFull": "99%"}]
    for bucket, transitions in [(SHELF, [{"to": "shelf", "after": "30d"}]), (HOT, later)]:
        rule = {"id": bucket, "filter": {"bucket": bucket}, "transitions": transitions}
        result["rules"].append({**rule, "abortIncompleteMultipartUpload": {"after": "800d"}})
    return result


def options(folder):
    """Small packs and snapshots, so that there are sealed and unsealed ones, and a snapshot with records after it."""
    store = {"packs": {"pack_bytes": 8 * MIB}, "journal": {"snapshot_bytes": 64 * 1024}}
    return {"tiers": {"shelf": {"type": "directory", "path": str(folder / "shelf")}}, "store": store}


def build(folder, rng, server):
    """A store as it was after `kill -9` in the midst of uploads and after an orderly stop; what clients saw; what tiers hold."""
    client = server.start().client()
    for bucket in (HOT, OSS, SHELF):
        fill(client, bucket, rng)
    server.advance(31 * DAY)
    cold = len(listed(client, OSS))
    wait_until("two buckets to be cold", lambda: in_tier(server, "ia") == in_tier(server, "shelf") == cold)
    client.put_object(Bucket=OSS, Key="restored", Body=text(rng, 150_000), StorageClass="GLACIER")
    wait_until("an object to be in the archive", lambda: in_tier(server, "archive") == 1)
    restore(client, "restored")
    server.advance(3600)
    wait_until("a restored object", lambda: server.stats()["restored"]["objects"] == 1)
    client.create_bucket(Bucket=SAFE)
    client.put_object(Bucket=SAFE, Key="small", Body=text(rng, 50_000))
    client.put_object(Bucket=SAFE, Key="nodes", Body=rng.randbytes(7 * MIB))
    wait_until("a bucket to be protected", lambda: server.stats()["protected"]["objects"] == 2)
    tiers = {tier: download(server, tier, folder / tier) for tier in ("ia", "archive")}
    world = {"tiers": {"shelf": folder / "shelf", **tiers}}
    before = {**seen(client, HOT), **seen(client, OSS), **seen(client, SHELF), **seen(client, SAFE)}
    uploads = Uploads(server.client(), HOT, rng)
    wait_until("some uploads", lambda: len(uploads.done) >= 5)
    server.kill()
    uploads.thread.join()
    shutil.copytree(server.data, folder / "killed", ignore=shutil.ignore_patterns("sled"))
    world["killed"] = Ended(folder / "killed", before, uploads)

    client = server.start().client()
    client.put_object(Bucket=HOT, Key="after the crash", Body=text(rng, 400_000))
    client.delete_object(Bucket=HOT, Key="random")
    after = {**seen(client, HOT), **seen(client, OSS), **seen(client, SHELF), **seen(client, SAFE)}
    assert server.stop() == 0
    shutil.copytree(server.data, folder / "stopped", ignore=shutil.ignore_patterns("sled"))
    world["stopped"] = Ended(folder / "stopped", after, None)
    return world


class Ended:
    """A data directory without its server; `objects` is what clients saw, `uploads` what ran when the server was killed."""

    def __init__(self, data, objects, uploads):
        self.data, self.objects, self.uploads = data, objects, uploads
        if uploads:
            for key in uploads.done:
                self.objects[HOT, key] = {"got": None, "body": uploads.tried[key]}


def in_tier(server, tier):
    return next(t["objects"] for t in server.stats()["tiers"] if t["name"] == tier)


def listed(client, bucket):
    return client.list_objects_v2(Bucket=bucket)["Contents"]


def restore(client, key):
    request = {"Days": 5, "GlacierJobParameters": {"Tier": "Standard"}}
    client.restore_object(Bucket=OSS, Key=key, RestoreRequest=request)
