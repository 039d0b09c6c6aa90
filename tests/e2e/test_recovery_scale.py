"""A hundred thousand objects come back from the cloud alone after the disk is lost: how long it takes, and how many requests.

`RECOVER_OBJECTS` sets another number.
"""

import hashlib
import http.client
import json
import os
import random
import shutil
import time
from concurrent.futures import ProcessPoolExecutor

import pytest

from harness import DAY, wait_until
from s3util import signed_headers
from settings import policy

BUCKET = "data"
COUNT = int(os.environ.get("RECOVER_OBJECTS", "100000"))
# Where a dry run measures what a recovery would take, while the store grows: the slope comes from them.
POINTS = [COUNT // 4, COUNT // 2, COUNT]
ROUND_TRIP_MS = 50
GOAL_OBJECTS = 10_000_000
PROCESSES = 3


class Address:
    """What `signed_headers` wants to know of a server, without its process."""

    def __init__(self, port):
        self.port = port


def key(i):
    return f"{i % 64:02}/{i:07}"


def body(i):
    return random.Random(i).randbytes(20 + i % 400)


def each(port, numbers, method):
    """Puts or gets objects over one connection; returns what was wrong. Not by boto3, whose own time would be most of it."""
    server, wrong = Address(port), []
    connection = http.client.HTTPConnection("127.0.0.1", port, timeout=300)
    for i in numbers:
        path, content = f"/{BUCKET}/{key(i)}", body(i)
        sent = content if method == "PUT" else b""
        connection.request(method, path, body=sent or None, headers=signed_headers(server, method, path, None, sent))
        answer = connection.getresponse()
        got = answer.read()
        if answer.status != 200 or answer.headers["ETag"] != f'"{hashlib.md5(content).hexdigest()}"':
            wrong.append((i, answer.status, got[:200]))
        elif method == "GET" and got != content:
            wrong.append((i, "other bytes", got[:20]))
    return wrong


def all_of(server, numbers, method):
    with ProcessPoolExecutor(PROCESSES * 2) as pool:
        slices = [list(numbers)[n :: PROCESSES * 2] for n in range(PROCESSES * 2)]
        jobs = [pool.submit(each, server.port, part, method) for part in slices]
        wrong = [w for job in jobs for w in job.result()]
    assert not wrong, f"{len(wrong)} of {method}: {wrong[:3]}"


def namespace(client):
    """One digest of all keys, sizes, ETags and times, by their listing."""
    digest, count = hashlib.sha256(), 0
    for page in client.get_paginator("list_objects_v2").paginate(Bucket=BUCKET):
        for o in page.get("Contents", []):
            digest.update(f"{o['Key']} {o['Size']} {o['ETag']} {o['LastModified'].isoformat()} {o['StorageClass']}\n".encode())
            count += 1
    return count, digest.hexdigest()


def requests(sim):
    return sum(r["count"] for r in sim.admin("GET", "/requests"))


def recovered(server, sim, *flags):
    """A recovery with the round trip of a real cloud: its report, its seconds and its requests."""
    sim.admin("PUT", "/faults", {"seed": 1, "rules": [{"kind": "slow", "delay_ms": ROUND_TRIP_MS}]})
    before, began = requests(sim), time.monotonic()
    result = server.cli("recover", "--from", "ia", "--data-dir", server.folder / "back", *flags, json_output=True, timeout=1800)
    took = time.monotonic() - began
    asked = requests(sim) - before
    sim.admin("PUT", "/faults", {"seed": 1, "rules": []})
    return json.loads(result.out.splitlines()[-1])["report"], took, asked


def shipped(server):
    wait_until("everything to be shipped", lambda: server.stats()["recovery"]["lag_records"] == 0)


@pytest.mark.slow
def test_a_hundred_thousand_objects_are_recovered(gateway, sim, capsys):
    section = {"tier": "ia", "snapshot_interval": "30s"}
    server = gateway(sim=sim, policy=policy(BUCKET, archive_after="3650d"), recovery=section).start()
    client = server.client()
    client.create_bucket(Bucket=BUCKET)
    measured, done = [], 0
    for point in POINTS:
        all_of(server, range(done, point), "PUT")
        done = point
        server.advance(31 * DAY)
        wait_until("all to be in IA", lambda: server.stats()["cold"]["objects"] == point, 900, every=0.5)  # noqa: B023
        # Those that were deleted must not come back.
        for i in range(10):
            client.put_object(Bucket=BUCKET, Key=f"gone/{point}/{i}", Body=b"gone")
            client.delete_object(Bucket=BUCKET, Key=f"gone/{point}/{i}")
        shipped(server)
        report, took, asked = recovered(server, sim, "--dry-run")
        assert report["found"]["objects"] == point and report["found"]["missing_objects"] == 0, report
        measured.append((point, took, asked))
    before = namespace(client)
    assert before[0] == COUNT
    server.kill()
    shutil.rmtree(server.data)

    report, took, asked = recovered(server, sim)
    assert report["found"]["objects"] == COUNT and report["found"]["missing_objects"] == 0, report
    shutil.move(server.folder / "back", server.data)
    server.start()
    assert namespace(client) == before, "0 lost, 0 resurrected"
    all_of(server, range(COUNT), "GET")
    (few, took_few, _), (many, took_many, _) = measured[0], measured[-1]
    slope = (took_many - took_few) / (many - few)
    minutes = (took_many + slope * (GOAL_OBJECTS - many)) / 60
    with capsys.disabled():
        print()
        for point, seconds, made in measured:
            print(f"{point:>9} objects: dry run in {seconds:.2f} s, {made} requests of {ROUND_TRIP_MS} ms")
        print(f"{COUNT:>9} objects: recovered in {took:.2f} s, {asked} requests; every byte equal")
        print(f"slope {slope * 1e6:.1f} us an object: {GOAL_OBJECTS} objects would take {minutes:.1f} min (aim: 10 min)")
