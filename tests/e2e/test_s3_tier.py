"""A cold tier of type `s3` on real servers, `rclone serve s3` and another Tidegate, and one of type `directory`: the same
way down and back as on OSS."""

import pytest

from harness import ACCESS_KEY, DAY, REGION, SECRET_KEY, TOOLS, Process, free_port, put_many, read_body, wait_until
from s3util import MIB, refused
from settings import policy

BUCKET = "data"
CLOUD_BUCKET = "cold-bucket"
KEY, SECRET = "CLOUDKEY000000000001", "cloud-secret-on-loopback-only-00000001"


class Rclone:
    """`rclone serve s3` over a folder; keeps its port and data over `stop()` and `start()`."""

    def __init__(self, folder):
        self.folder, self.port, self.process = folder, free_port(), None
        (folder / "files" / CLOUD_BUCKET).mkdir(parents=True)

    def start(self):
        argv = [TOOLS / "rclone", "serve", "s3", self.folder / "files", "--addr", f"127.0.0.1:{self.port}"]
        argv += ["--auth-key", f"{KEY},{SECRET}", "--config", "/dev/null", "--vfs-cache-mode", "off"]
        self.process = Process(argv, self.folder / "rclone.log")
        wait_until("rclone to listen", lambda: listens(self.port))

    def stop(self):
        if self.process:
            self.process.stop()
            self.process = None

    def tier(self):
        return s3_tier(self.port, KEY, SECRET)

    def files(self):
        return [f for f in (self.folder / "files" / CLOUD_BUCKET).rglob("*") if f.is_file()]


class Directory:
    """A folder; it is away while it has another name."""

    def __init__(self, folder):
        self.path, self.away = folder / "nas", folder / "away"
        self.path.mkdir(parents=True)

    def start(self):
        if self.away.exists():
            self.away.rename(self.path)

    def stop(self):
        if self.path.exists():
            self.path.rename(self.away)

    def tier(self):
        return {"type": "directory", "path": str(self.path)}

    def files(self):
        return [f for f in self.path.rglob("*") if f.is_file()]


class Far:
    """Another Tidegate."""

    def __init__(self, server):
        self.server = server

    def start(self):
        self.server.start()
        names = [b["Name"] for b in self.server.client().list_buckets()["Buckets"]]
        if CLOUD_BUCKET not in names:
            self.server.client().create_bucket(Bucket=CLOUD_BUCKET)

    def stop(self):
        self.server.stop()

    def tier(self):
        return s3_tier(self.server.port, ACCESS_KEY, SECRET_KEY)

    def files(self):
        return self.server.client().list_objects_v2(Bucket=CLOUD_BUCKET).get("Contents", [])


def listens(port):
    import socket

    with socket.socket() as probe:
        return probe.connect_ex(("127.0.0.1", port)) == 0


def s3_tier(port, key, secret):
    return {
        "type": "s3",
        "endpoint": f"http://127.0.0.1:{port}",
        "region": REGION,
        "bucket": CLOUD_BUCKET,
        "prefix": "tidegate",
        "access_key_id": key,
        "secret_access_key": secret,
    }


@pytest.fixture(params=["rclone", "tidegate", "directory"])
def cloud(request, tmp_path, gateway):
    kinds = {
        "rclone": lambda: Rclone(tmp_path / "rclone"),
        "tidegate": lambda: Far(gateway()),
        "directory": lambda: Directory(tmp_path / "directory"),
    }
    made = kinds[request.param]()
    made.start()
    yield made
    made.stop()


def cold_policy():
    rules = policy(BUCKET)
    rules["tiers"] = [{"name": "cluster"}]
    rules["rules"][0]["transitions"] = [{"to": "cluster", "after": "30d"}]
    return rules


def in_cluster(server, keys):
    return all("Cold" in server.status(BUCKET, key)["residency"] for key in keys)


def try_read(client, key):
    from botocore.exceptions import ClientError

    try:
        return read_body(client, BUCKET, key)
    except ClientError:
        return None


def test_objects_go_to_the_tier_are_read_through_and_deleted_there(cloud, gateway, rng):
    server = gateway(
        policy=cold_policy(), tiers={"cluster": cloud.tier()}, classes={"STANDARD": "hot", "STANDARD_IA": "cluster"}
    ).start()
    client = server.client()
    client.create_bucket(Bucket=BUCKET)
    probe = server.cli("tier", "probe", "cluster", json_output=True).json
    assert [s["step"] for s in probe[0]["steps"] if s["ok"]] == ["write", "head", "list", "read", "range", "delete", "gone"]
    assert cloud.files() == [], "a probe leaves nothing behind"

    bodies = {f"small/{i:02}": rng.randbytes(rng.randrange(1, 60_000)) for i in range(20)}
    # In one pack it is more than two parts of an upload.
    bodies["large"] = rng.randbytes(20 * MIB)
    bodies["empty"] = b""
    put_many(client, BUCKET, bodies)
    client.put_object(Bucket=BUCKET, Key="declared", Body=b"cold from the beginning", StorageClass="STANDARD_IA")
    bodies["declared"] = b"cold from the beginning"
    wait_until("the declared object to move", lambda: in_cluster(server, ["declared"]))
    server.advance(31 * DAY)
    wait_until("all objects to move", lambda: in_cluster(server, bodies))
    assert client.head_object(Bucket=BUCKET, Key="large")["StorageClass"] == "STANDARD_IA"

    server.lose_local_packs()
    for key, body in bodies.items():
        assert read_body(client, BUCKET, key) == body, key
    server.lose_local_packs()
    got = client.get_object(Bucket=BUCKET, Key="large", Range="bytes=7000000-8999999")
    assert got["Body"].read() == bodies["large"][7_000_000:9_000_000]
    with refused("InvalidObjectState", 403):
        client.restore_object(Bucket=BUCKET, Key="large", RestoreRequest={"Days": 1})

    for key in bodies:
        client.delete_object(Bucket=BUCKET, Key=key)
    wait_until("the packs to be deleted", lambda: cloud.files() == [])


def test_a_tier_that_is_away_stops_nothing_but_its_own_reads(cloud, gateway, rng):
    server = gateway(
        policy=cold_policy(), tiers={"cluster": cloud.tier()}, store={"tiering": {"recall": "stream"}}
    ).start()
    client = server.client()
    client.create_bucket(Bucket=BUCKET)
    body = rng.randbytes(400_000)
    client.put_object(Bucket=BUCKET, Key="cold", Body=body)
    server.advance(31 * DAY)
    wait_until("the object to move", lambda: in_cluster(server, ["cold"]))
    server.lose_local_packs()
    client.put_object(Bucket=BUCKET, Key="hot", Body=body[:1000])
    cloud.stop()
    server.advance(31 * DAY)
    assert try_read(client, "cold") is None
    assert read_body(client, BUCKET, "hot") == body[:1000]
    client.put_object(Bucket=BUCKET, Key="during", Body=b"written meanwhile")
    assert read_body(client, BUCKET, "during") == b"written meanwhile"
    wait_until(
        "the metrics to tell of failures",
        lambda: server.metrics().get('tidegate_tier_consecutive_failures{tier="cluster"}', 0) > 0,
    )
    assert not in_cluster(server, ["hot"])
    cloud.start()
    wait_until("the waiting object to move", lambda: in_cluster(server, ["hot"]))
    wait_until("the cold object to be readable", lambda: try_read(client, "cold") == body)
