"""Applications that Debian brings: a file system over S3 (s3fs), and a registry of container images that keeps them in S3
(docker-registry, driven by skopeo)."""

import gzip
import hashlib
import io
import json
import os
import pathlib
import shutil
import subprocess
import tarfile

import pytest
import yaml

from harness import ACCESS_KEY, REGION, ROOT, SECRET_KEY, Process, free_port, http, run, wait_until
from s3util import MIB
from test_clients import assert_same_trees, make_tree


def program(name):
    """The program's path; without it the test fails, as tests/setup installs it."""
    own = ROOT / ".tools" / "debian" / "usr" / "bin" / name
    path = str(own) if own.exists() else shutil.which(name)
    assert path, f"{name} is not there; tests/setup installs it"
    return path


def no_fuse():
    """Why no file system can be mounted here, or None."""
    try:
        os.close(os.open("/dev/fuse", os.O_RDWR))
    except OSError as error:
        return f"/dev/fuse cannot be opened ({error.strerror}); a container needs --device /dev/fuse"
    if os.geteuid() == 0 and not can_mount():
        return "this root may not mount; a container needs --cap-add SYS_ADMIN"
    return None


def can_mount():
    capabilities = next(line for line in pathlib.Path("/proc/self/status").read_text().splitlines() if line.startswith("CapEff:"))
    return int(capabilities.split()[1], 16) >> 21 & 1  # CAP_SYS_ADMIN


@pytest.fixture
def mount(shared, bucket, tmp_path):
    """The bucket as a folder."""
    if why := no_fuse():
        pytest.skip(why)
    keys, folder, log = tmp_path / "keys", tmp_path / "mounted", tmp_path / "s3fs.log"
    keys.write_text(f"{ACCESS_KEY}:{SECRET_KEY}")
    keys.chmod(0o600)
    folder.mkdir()
    options = f"passwd_file={keys},url={shared.endpoint},use_path_request_style,endpoint={REGION},retries=1"
    # Small parts and no memory of what was there: each call is a request.
    options += f",multipart_size=5,singlepart_copy_limit=8,max_stat_cache_size=0,use_cache={tmp_path / 'cache'},del_cache"
    process = Process([program("s3fs"), bucket, folder, "-f", "-o", options], log, env={"HOME": str(tmp_path)})
    try:
        wait_until(f"{folder} to be mounted; {process.tail()}", lambda: os.path.ismount(folder) or not process.alive())
        assert process.alive(), process.tail()
        yield folder
    finally:
        unmount = shutil.which("fusermount") or program("fusermount3")
        subprocess.run([unmount, "-u", str(folder)], capture_output=True, check=False)
        process.stop()


def test_a_bucket_is_mounted_and_used_as_a_folder(mount, s3, bucket, tmp_path, rng):
    tree = make_tree(tmp_path / "tree", rng, files=12)
    shutil.copytree(tree, mount / "tree")
    assert_same_trees(tree, mount / "tree")
    assert s3.head_object(Bucket=bucket, Key="tree/large-0.bin")["ETag"].count("-") == 1, "written in parts"
    key = "tree/deep/er/and/deeper/x"
    assert s3.get_object(Bucket=bucket, Key=key)["Body"].read() == (tree / "deep/er/and/deeper/x").read_bytes()
    # Renames are copies and deletions; one by parts, one in one piece, and one of a folder.
    for old, new in [("large-0.bin", "many/large.bin"), ("plain.txt", "ünï/plain.txt"), ("deep/er", "other")]:
        (tree / old).rename(tree / new)
        (mount / "tree" / old).rename(mount / "tree" / new)
    assert_same_trees(tree, mount / "tree")
    for folder in (tree, mount / "tree"):
        with open(folder / "ünï/plain.txt", "ab") as file:
            file.write(b"appended")
        with open(folder / "many/large.bin", "r+b") as file:
            file.seek(7 * MIB)
            file.write(b"in the middle")
        os.truncate(folder / "with space.bin", 100)
        (folder / "plus+amp&.txt").unlink()
        shutil.rmtree(folder / "many" / "3")
    assert_same_trees(tree, mount / "tree")
    assert sorted(os.listdir(mount / "tree")) == sorted(os.listdir(tree))
    # Modes, times and links live in metadata.
    (mount / "tree" / "link").symlink_to("with space.bin")
    assert (mount / "tree" / "link").read_bytes() == (tree / "with space.bin").read_bytes()
    os.chmod(mount / "tree" / "empty", 0o640)
    os.utime(mount / "tree" / "empty", (1_500_000_000, 1_500_000_000))
    status = os.stat(mount / "tree" / "empty")
    assert (status.st_mode & 0o777, int(status.st_mtime), status.st_size) == (0o640, 1_500_000_000, 0)
    # What another client writes and deletes is seen.
    s3.put_object(Bucket=bucket, Key="tree/by boto3", Body=b"seen")
    assert (mount / "tree" / "by boto3").read_bytes() == b"seen"
    s3.delete_object(Bucket=bucket, Key="tree/by boto3")
    assert not (mount / "tree" / "by boto3").exists()
    shutil.rmtree(mount / "tree")
    assert s3.list_objects_v2(Bucket=bucket)["KeyCount"] == 0


def blob(folder, data):
    digest = hashlib.sha256(data).hexdigest()
    (folder / "blobs" / "sha256" / digest).write_bytes(data)
    return {"digest": f"sha256:{digest}", "size": len(data)}


def make_image(folder, files):
    """An OCI layout with one image, a layer for each of `files`; returns the digests of all its blobs."""
    (folder / "blobs" / "sha256").mkdir(parents=True)
    layers, plain = [], []
    for name, data in files.items():
        tar = io.BytesIO()
        with tarfile.open(fileobj=tar, mode="w") as archive:
            info = tarfile.TarInfo(name)
            info.size = len(data)
            archive.addfile(info, io.BytesIO(data))
        plain.append("sha256:" + hashlib.sha256(tar.getvalue()).hexdigest())
        packed = blob(folder, gzip.compress(tar.getvalue(), 1, mtime=0))
        layers.append({"mediaType": "application/vnd.oci.image.layer.v1.tar+gzip", **packed})
    config = {"architecture": "amd64", "os": "linux", "rootfs": {"type": "layers", "diff_ids": plain}, "config": {}}
    config = {"mediaType": "application/vnd.oci.image.config.v1+json", **blob(folder, json.dumps(config).encode())}
    kind = "application/vnd.oci.image.manifest.v1+json"
    manifest = blob(folder, json.dumps({"schemaVersion": 2, "mediaType": kind, "config": config, "layers": layers}).encode())
    named = {"mediaType": kind, **manifest, "annotations": {"org.opencontainers.image.ref.name": "latest"}}
    (folder / "index.json").write_text(json.dumps({"schemaVersion": 2, "manifests": [named]}))
    (folder / "oci-layout").write_text('{"imageLayoutVersion": "1.0.0"}')
    return sorted(path.name for path in (folder / "blobs" / "sha256").iterdir())


def assert_same_blobs(left, right):
    names = sorted(path.name for path in (left / "blobs" / "sha256").iterdir())
    assert names == sorted(path.name for path in (right / "blobs" / "sha256").iterdir())
    for name in names:
        assert hashlib.sha256((right / "blobs" / "sha256" / name).read_bytes()).hexdigest() == name


class Registry:
    def __init__(self, folder, shared, bucket):
        self.folder, self.port = folder, free_port()
        driver = {
            "accesskey": ACCESS_KEY, "secretkey": SECRET_KEY, "region": REGION, "regionendpoint": shared.endpoint, "bucket": bucket,
            "secure": False, "v4auth": True, "rootdirectory": "/images", "chunksize": 5 * MIB,
            # The registry moves a finished upload by parts above this size.
            "multipartcopythresholdsize": 6 * MIB, "multipartcopychunksize": 5 * MIB,
        }  # fmt: skip
        health = {"storagedriver": {"enabled": True, "interval": "1s", "threshold": 1}}
        settings = {"version": 0.1, "storage": {"s3": driver, "delete": {"enabled": True}}, "health": health}
        settings["http"] = {"addr": f"127.0.0.1:{self.port}", "secret": "only for this test"}
        self.config = folder / "registry.yml"
        self.config.write_text(yaml.safe_dump(settings))
        # An AWS_CA_BUNDLE of the machine ends this version of the registry.
        self.env = {"HOME": str(folder), "AWS_CA_BUNDLE": ""}
        self.process = None

    def start(self):
        self.process = Process([program("docker-registry"), "serve", self.config], self.folder / "registry.log", env=self.env)
        wait_until("the registry to answer", self.answers)

    def answers(self):
        assert self.process.alive(), self.process.tail()
        try:
            return http("GET", f"http://127.0.0.1:{self.port}/v2/")[0] == 200
        except OSError:
            return False

    def collect_garbage(self):
        self.process.stop()
        run([program("docker-registry"), "garbage-collect", "--delete-untagged", self.config], env={**os.environ, **self.env})

    def skopeo(self, *args):
        return run([program("skopeo"), "--insecure-policy", *args], env={**os.environ, "HOME": str(self.folder)}).stdout

    def image(self, name):
        return f"docker://127.0.0.1:{self.port}/{name}"


@pytest.fixture
def registry(shared, bucket, tmp_path):
    made = Registry(tmp_path, shared, bucket)
    made.start()
    yield made
    made.process.kill()


def test_a_registry_keeps_images_in_a_bucket(registry, s3, bucket, tmp_path, rng):
    common = rng.randbytes(17 * MIB)
    first, second = tmp_path / "first", tmp_path / "second"
    make_image(first, {"common": common, "own": rng.randbytes(300_000), "empty": b""})
    make_image(second, {"common": common, "other": rng.randbytes(6 * MIB + 1)})
    registry.skopeo("copy", "--dest-tls-verify=false", f"oci:{first}:latest", registry.image("team/app:1"))
    registry.skopeo("copy", "--dest-tls-verify=false", f"oci:{second}:latest", registry.image("team/app:2"))
    registry.skopeo("copy", "--dest-tls-verify=false", f"oci:{second}:latest", registry.image("other/app:latest"))
    assert not s3.list_multipart_uploads(Bucket=bucket).get("Uploads"), "all that was begun is done"
    # The registry sends pulls to presigned URLs of the bucket.
    for image, origin in [("team/app:1", first), ("team/app:2", second), ("other/app:latest", second)]:
        back = tmp_path / image.replace("/", "-").replace(":", "-")
        registry.skopeo("copy", "--src-tls-verify=false", registry.image(image), f"oci:{back}:latest")
        assert_same_blobs(origin, back)
    tags = json.loads(registry.skopeo("list-tags", "--tls-verify=false", registry.image("team/app")))["Tags"]
    assert sorted(tags) == ["1", "2"]
    status, text = http("GET", f"http://127.0.0.1:{registry.port}/v2/_catalog")
    assert (status, json.loads(text)) == (200, {"repositories": ["other/app", "team/app"]})

    # What only the deleted image had is collected; what the others share stays.
    registry.skopeo("delete", "--tls-verify=false", registry.image("team/app:1"))
    before = blobs(s3, bucket)
    registry.collect_garbage()
    after = blobs(s3, bucket)
    gone = {path.name for path in (first / "blobs" / "sha256").iterdir()} - {path.name for path in (second / "blobs" / "sha256").iterdir()}
    assert before - after == gone
    registry.start()
    back = tmp_path / "after"
    registry.skopeo("copy", "--src-tls-verify=false", registry.image("other/app:latest"), f"oci:{back}:latest")
    assert_same_blobs(second, back)


def blobs(s3, bucket):
    pages = s3.get_paginator("list_objects_v2").paginate(Bucket=bucket, Prefix="images/docker/registry/v2/blobs/")
    return {o["Key"].split("/")[-2] for page in pages for o in page["Contents"] if o["Key"].endswith("/data")}
