#!/usr/bin/env python3
"""Kills the server with SIGKILL again and again during a load of uploads, and shows that nothing acknowledged is lost.

    tests/e2e/crash_load.py --seconds 30 --seed 7

Writers put, overwrite, copy, delete and upload in parts; each writes down what was acknowledged before it goes on. After
each restart every key is read: it must hold the last acknowledged content, or that of an operation which was under way
when the server died (that one may or may not have happened, but never in part). Exit code 0: nothing lost.
"""

import argparse
import hashlib
import pathlib
import random
import shutil
import sys
import tempfile
import threading
import time

sys.path.insert(0, str(pathlib.Path(__file__).parent))

from botocore.exceptions import BotoCoreError, ClientError  # noqa: E402

from harness import Tidegate  # noqa: E402

BUCKET = "crash"
PART = 5 * 1024 * 1024
SIZES = [0, 10, 4096, 40_000, 300_000, 2_000_000]


class Writer(threading.Thread):
    """Owns some keys. `may_be[key]` is the set of digests that the key may have now; None stands for no object."""

    def __init__(self, number, seed, server):
        super().__init__(daemon=True)
        self.number = number
        self.random = random.Random(f"{seed} writer {number}")
        self.server = server
        self.keys = [f"w{number}/k{i}" for i in range(12)]
        self.may_be = {key: {None} for key in self.keys}
        self.acknowledged = 0
        self.halt = False
        self.error = None

    def run(self):
        client = self.server.client()
        while not self.halt:
            key = self.random.choice(self.keys)
            try:
                self.step(client, key)
                self.acknowledged += 1
            except (BotoCoreError, ClientError, OSError) as error:
                if isinstance(error, ClientError) and error.response["ResponseMetadata"]["HTTPStatusCode"] < 500:
                    self.error = error
                return

    def body(self):
        size = self.random.choice(SIZES)
        # Half of it repeats what others write: deduplicated chunks must survive as well.
        return random.Random(self.random.randrange(6)).randbytes(size // 2) + self.random.randbytes(size - size // 2)

    def step(self, client, key):
        choice = self.random.random()
        if choice < 0.7:
            body = self.body()
            self.change(key, digest(body), lambda: client.put_object(Bucket=BUCKET, Key=key, Body=body))
        elif choice < 0.8:
            self.change(key, None, lambda: client.delete_object(Bucket=BUCKET, Key=key))
        elif choice < 0.9:
            source = self.random.choice(self.keys)
            known = self.may_be[source]
            if source != key and len(known) == 1 and None not in known:
                copy = {"Bucket": BUCKET, "Key": source}
                self.change(key, next(iter(known)), lambda: client.copy_object(Bucket=BUCKET, Key=key, CopySource=copy))
        else:
            self.multipart(client, key)

    def multipart(self, client, key):
        parts = [self.random.randbytes(PART), self.random.randbytes(1000)]
        upload = client.create_multipart_upload(Bucket=BUCKET, Key=key)["UploadId"]
        done = []
        for number, body in enumerate(parts, 1):
            tag = client.upload_part(Bucket=BUCKET, Key=key, UploadId=upload, PartNumber=number, Body=body)["ETag"]
            done.append({"PartNumber": number, "ETag": tag})
        self.change(
            key,
            digest(b"".join(parts)),
            lambda: client.complete_multipart_upload(
                Bucket=BUCKET, Key=key, UploadId=upload, MultipartUpload={"Parts": done}
            ),
        )

    def change(self, key, becomes, call):
        """Until the call is answered both contents are possible; afterwards only the new one."""
        self.may_be[key] = self.may_be[key] | {becomes}
        call()
        self.may_be[key] = {becomes}


def digest(body):
    return hashlib.sha256(body).hexdigest()


def content(client, key):
    try:
        return digest(client.get_object(Bucket=BUCKET, Key=key)["Body"].read())
    except ClientError as error:
        if error.response["Error"]["Code"] == "NoSuchKey":
            return None
        raise


def verify(server, writers):
    """Every key has one of its possible contents, and the listing agrees. Settles what was open."""
    client = server.client()
    listed = set()
    for page in client.get_paginator("list_objects_v2").paginate(Bucket=BUCKET):
        listed |= {o["Key"] for o in page.get("Contents", [])}
    lost = []
    for writer in writers:
        for key, possible in writer.may_be.items():
            found = content(client, key)
            if found not in possible:
                lost.append(f"{key}: found {found}, but only {sorted(map(str, possible))} were written")
            if (found is not None) != (key in listed):
                lost.append(f"{key}: read and listing disagree")
            writer.may_be[key] = {found}
    return lost


def run(server, seconds, seed, writers=6, say=print):
    """Rounds of load, kill, restart, verify. Returns (rounds, acknowledged operations, list of losses)."""
    chance = random.Random(f"{seed} kills")
    server.start()
    server.client().create_bucket(Bucket=BUCKET)
    state = [Writer(n, seed, server) for n in range(writers)]
    end = time.monotonic() + seconds
    rounds, total = 0, 0
    # Twice at least, however slow the machine is.
    while rounds < 2 or time.monotonic() < end:
        rounds += 1
        fresh = []
        for old in state:
            writer = Writer(old.number, f"{seed} {rounds}", server)
            writer.may_be = old.may_be
            fresh.append(writer)
        state = fresh
        goal = chance.randrange(20, 200)
        for writer in state:
            writer.start()
        limit = time.monotonic() + 20
        # The moment of the kill is a number of acknowledged operations: it lies anywhere within some other operation.
        while sum(w.acknowledged for w in state) < goal and time.monotonic() < limit and any(w.is_alive() for w in state):
            time.sleep(0.001)
        server.kill()
        for writer in state:
            writer.halt = True
            writer.join(30)
            if writer.error:
                return rounds, total, [f"a request was refused: {writer.error}"]
        done = sum(w.acknowledged for w in state)
        total += done
        server.start()
        lost = verify(server, state)
        say(f"round {rounds}: killed after {done} acknowledged operations; {len(lost)} lost")
        if lost:
            return rounds, total, lost
    server.stop()
    return rounds, total, []


def main():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--seconds", type=float, default=30, help="how long (default 30)")
    parser.add_argument("--seed", type=int, default=None, help="repeats a run's choices; drawn and printed by default")
    parser.add_argument("--keep", action="store_true", help="keep the store and the logs")
    args = parser.parse_args()
    seed = random.SystemRandom().randrange(2**32) if args.seed is None else args.seed
    folder = pathlib.Path(tempfile.mkdtemp(prefix="tidegate-crash-"))
    print(f"seed {seed}, store in {folder}")
    server = Tidegate(folder)
    try:
        rounds, total, lost = run(server, args.seconds, seed)
    finally:
        server.kill()
    for line in lost:
        print("LOST", line)
    print(f"{rounds} kills, {total} acknowledged operations, {len(lost)} lost")
    if lost or args.keep:
        print(f"the store and its log are in {folder}")
    else:
        shutil.rmtree(folder, ignore_errors=True)
    return 1 if lost else 0


if __name__ == "__main__":
    sys.exit(main())
