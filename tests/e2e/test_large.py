"""One very large object and very many small ones, through every tier and back, in bounded memory."""

import hashlib
import random
from concurrent.futures import ThreadPoolExecutor

import pytest

from harness import DAY, wait_until
from s3util import MIB
from settings import policy

BUCKET = "data"
RSS_LIMIT_MIB = 512


def small_body(i):
    return random.Random(i).randbytes(64 + i % 4000)


class Stream:
    """`size` bytes that are a function of the seed, made while they are read; boto3 sees a file."""

    def __init__(self, seed, size):
        self.random, self.left, self.hash = random.Random(seed), size, hashlib.sha256()

    def read(self, count=-1):
        count = self.left if count < 0 else min(count, self.left)
        self.left -= count
        piece = self.random.randbytes(count)
        self.hash.update(piece)
        return piece


def put_large(client, key, size, part=16 * MIB):
    source = Stream(1, size)
    upload_id = client.create_multipart_upload(Bucket=BUCKET, Key=key)["UploadId"]
    parts, number = [], 0
    while source.left:
        number += 1
        tag = client.upload_part(
            Bucket=BUCKET, Key=key, UploadId=upload_id, PartNumber=number, Body=source.read(part)
        )["ETag"]
        parts.append({"PartNumber": number, "ETag": tag})
    client.complete_multipart_upload(Bucket=BUCKET, Key=key, UploadId=upload_id, MultipartUpload={"Parts": parts})
    return source.hash.hexdigest()


def get_large(client, key):
    digest = hashlib.sha256()
    for piece in client.get_object(Bucket=BUCKET, Key=key)["Body"].iter_chunks(MIB):
        digest.update(piece)
    return digest.hexdigest()


def go_round(server, sim, count, size, timeout):
    client = server.client(max_pool_connections=16)
    client.create_bucket(Bucket=BUCKET)
    keys = [f"small/{i:06}" for i in range(count)]
    with ThreadPoolExecutor(16) as pool:
        list(pool.map(lambda i: client.put_object(Bucket=BUCKET, Key=keys[i], Body=small_body(i)), range(count)))
    digest = put_large(client, "large", size)
    everything = count + 1

    def in_tier(tier):
        return next((t["objects"] for t in server.stats()["tiers"] if t["name"] == tier), 0)

    def check():
        with ThreadPoolExecutor(16) as pool:
            read = lambda i: client.get_object(Bucket=BUCKET, Key=keys[i])["Body"].read() == small_body(i)  # noqa: E731
            assert all(pool.map(read, range(count)))
        assert get_large(client, "large") == digest

    server.advance(31 * DAY)
    wait_until("everything to be in IA", lambda: in_tier("ia") == everything, timeout, every=0.5)
    check()
    server.advance(60 * DAY)
    wait_until("everything to be in Archive", lambda: in_tier("archive") == everything, timeout, every=0.5)
    request = {"Days": 7, "GlacierJobParameters": {"Tier": "Standard"}}
    with ThreadPoolExecutor(16) as pool:
        list(pool.map(lambda k: client.restore_object(Bucket=BUCKET, Key=k, RestoreRequest=request), [*keys, "large"]))

    def restored():
        return server.stats()["restored"]["objects"] == everything

    server.advance(3600)
    wait_until("everything to be restored", restored, timeout, every=0.5)
    check()
    peak = server.process.rss_mib()
    assert peak < RSS_LIMIT_MIB, f"{peak:.0f} MiB at the peak"
    return peak


@pytest.mark.slow
def test_a_hundred_megabytes_and_three_thousand_objects_go_round(gateway, sim):
    go_round(gateway(sim=sim, policy=policy(BUCKET)).start(), sim, 3_000, 100 * MIB, 600)


@pytest.mark.full
def test_a_gigabyte_and_a_hundred_thousand_objects_go_round(gateway, sim):
    go_round(gateway(sim=sim, policy=policy(BUCKET)).start(), sim, 100_000, 1024 * MIB, 1800)
