"""Programs that people use: aws CLI, rclone, restic."""

import filecmp
import hashlib
import os
import pathlib
import shutil

import pytest
import requests

from harness import ACCESS_KEY, REGION, SECRET_KEY, TOOLS, run
from s3util import MIB


def make_tree(folder, rng, files=40, large=1):
    """A folder of files with awkward names and sizes; repeated content, so that there is something to deduplicate."""
    folder = pathlib.Path(folder)
    common = rng.randbytes(300_000)
    names = ["plain.txt", "with space.bin", "ünï/ключ.dat", "deep/er/and/deeper/x", "plus+amp&.txt", "empty"]
    names += [f"many/{i % 7}/file-{i:03}.bin" for i in range(files)]
    for name in names:
        path = folder / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_bytes(b"" if name == "empty" else common[: rng.randrange(1, 200_000)] + rng.randbytes(rng.randrange(9000)))
    for i in range(large):
        (folder / f"large-{i}.bin").write_bytes(rng.randbytes(18 * MIB + 7))
    return folder


def assert_same_trees(left, right):
    def listing(folder):
        return sorted(str(p.relative_to(folder)) for p in pathlib.Path(folder).rglob("*") if p.is_file())

    assert listing(left) == listing(right)
    for name in listing(left):
        assert filecmp.cmp(pathlib.Path(left) / name, pathlib.Path(right) / name, shallow=False), name


@pytest.fixture
def aws(shared):
    def call(*args, **more):
        return run([TOOLS / "aws", "--endpoint-url", shared.endpoint, *args], env=shared.client_env(), **more)

    return call


def test_aws_cp_sync_mv_and_rm(aws, s3, bucket, tmp_path, rng):
    tree = make_tree(tmp_path / "tree", rng)
    aws("s3", "sync", tree, f"s3://{bucket}/backup")
    aws("s3", "sync", f"s3://{bucket}/backup", tmp_path / "back")
    assert_same_trees(tree, tmp_path / "back")
    assert aws("s3", "sync", tree, f"s3://{bucket}/backup").stdout.strip() == "", "nothing changed, nothing to copy"
    (tree / "plain.txt").unlink()
    (tree / "new.txt").write_text("new")
    aws("s3", "sync", "--delete", tree, f"s3://{bucket}/backup")
    shutil.rmtree(tmp_path / "back")
    aws("s3", "cp", "--recursive", f"s3://{bucket}/backup", tmp_path / "back")
    assert_same_trees(tree, tmp_path / "back")
    aws("s3", "mv", f"s3://{bucket}/backup/new.txt", f"s3://{bucket}/moved/new.txt")
    assert aws("s3", "cp", f"s3://{bucket}/moved/new.txt", "-").stdout == "new"
    aws("s3", "cp", f"s3://{bucket}/backup/large-0.bin", f"s3://{bucket}/copied.bin")
    aws("s3", "cp", f"s3://{bucket}/copied.bin", tmp_path / "copied.bin")
    assert filecmp.cmp(tmp_path / "copied.bin", tree / "large-0.bin", shallow=False)
    assert "large-0.bin" in aws("s3", "ls", f"s3://{bucket}/backup/").stdout
    aws("s3", "rm", "--recursive", f"s3://{bucket}")
    assert s3.list_objects_v2(Bucket=bucket).get("KeyCount") == 0
    aws("s3", "rb", f"s3://{bucket}")


def test_aws_makes_buckets_and_presigned_urls(aws, tmp_path):
    aws("s3", "mb", "s3://made-by-aws")
    (tmp_path / "f").write_bytes(b"presigned by the command line")
    aws("s3", "cp", tmp_path / "f", "s3://made-by-aws/f", "--content-type", "text/x-f", "--metadata", "a=b")
    url = aws("s3", "presign", "s3://made-by-aws/f", "--expires-in", "60").stdout.strip()
    answer = requests.get(url, timeout=60)
    assert (answer.status_code, answer.content) == (200, b"presigned by the command line")
    assert answer.headers["x-amz-meta-a"] == "b"
    aws("s3", "rb", "--force", "s3://made-by-aws")


@pytest.mark.parametrize("algorithm", ["CRC32", "SHA256", "CRC64NVME"])
def test_aws_s3api_sends_and_checks_checksums(aws, bucket, tmp_path, rng, algorithm):
    body = rng.randbytes(100_000)
    (tmp_path / "f").write_bytes(body)
    aws("s3api", "put-object", "--bucket", bucket, "--key", "k", "--body", tmp_path / "f", "--checksum-algorithm", algorithm)
    aws("s3api", "get-object", "--bucket", bucket, "--key", "k", "--checksum-mode", "ENABLED", tmp_path / "back")
    assert (tmp_path / "back").read_bytes() == body


@pytest.fixture
def rclone(shared, tmp_path):
    config = tmp_path / "rclone.conf"
    config.write_text(
        f"[t]\ntype = s3\nprovider = Other\nendpoint = {shared.endpoint}\nregion = {REGION}\n"
        f"access_key_id = {ACCESS_KEY}\nsecret_access_key = {SECRET_KEY}\nforce_path_style = true\n"
        "chunk_size = 5M\nupload_cutoff = 10M\n"
    )

    def call(*args, **more):
        argv = [TOOLS / "rclone", "--config", config, "--retries", "1", "--low-level-retries", "2", *args]
        return run(argv, env=shared.client_env(), **more)

    return call


def test_rclone_copies_checks_and_syncs(rclone, s3, bucket, tmp_path, rng):
    tree = make_tree(tmp_path / "tree", rng, files=60)
    rclone("copy", tree, f"t:{bucket}/tree")
    rclone("check", "--download", tree, f"t:{bucket}/tree")
    rclone("check", tree, f"t:{bucket}/tree")
    mtime = 1_500_000_000
    os.utime(tree / "plain.txt", (mtime, mtime))
    (tree / "with space.bin").unlink()
    (tree / "many" / "0" / "file-000.bin").write_bytes(b"changed")
    rclone("sync", tree, f"t:{bucket}/tree")
    rclone("check", "--download", tree, f"t:{bucket}/tree")
    rclone("sync", f"t:{bucket}/tree", tmp_path / "back")
    assert_same_trees(tree, tmp_path / "back")
    assert int((tmp_path / "back" / "plain.txt").stat().st_mtime) == mtime, "modification times live in metadata"
    rclone("copyto", f"t:{bucket}/tree/plain.txt", f"t:{bucket}/server-side-copy")
    assert rclone("lsf", "-R", "--files-only", f"t:{bucket}/tree").stdout.count("\n") == sum(
        1 for p in tree.rglob("*") if p.is_file()
    )
    assert hashlib.md5((tree / "large-0.bin").read_bytes()).hexdigest() in rclone(
        "hashsum", "md5", "--download", f"t:{bucket}/tree/large-0.bin"
    ).stdout
    rclone("purge", f"t:{bucket}/tree")
    assert not s3.list_objects_v2(Bucket=bucket, Prefix="tree/").get("Contents")


def test_rclone_shows_old_versions_and_removes_what_is_hidden(rclone, s3, bucket, tmp_path):
    rclone("backend", "versioning", f"t:{bucket}", "Enabled")
    assert s3.get_bucket_versioning(Bucket=bucket)["Status"] == "Enabled"
    bodies = {f"body {n}" for n in range(3)}
    for body in sorted(bodies):
        (tmp_path / "file.txt").write_text(body)
        rclone("copyto", "--ignore-times", tmp_path / "file.txt", f"t:{bucket}/file.txt")
    rclone("deletefile", f"t:{bucket}/file.txt")
    assert rclone("lsf", f"t:{bucket}").stdout == ""
    names = rclone("--s3-versions", "lsf", f"t:{bucket}").stdout.split()
    assert len(names) == 3
    assert {rclone("--s3-versions", "cat", f"t:{bucket}/{name}").stdout for name in names} == bodies
    rclone("backend", "cleanup-hidden", f"t:{bucket}")
    listed = s3.list_object_versions(Bucket=bucket)
    assert "Versions" not in listed
    rclone("backend", "versioning", f"t:{bucket}", "Suspended")
    assert s3.get_bucket_versioning(Bucket=bucket)["Status"] == "Suspended"


def test_aws_lists_tags_and_brings_back_versions(aws, s3, bucket, tmp_path):
    def ask(*args):
        return aws("s3api", *args, "--bucket", bucket, "--output", "text").stdout.strip()

    ask("put-bucket-versioning", "--versioning-configuration", "Status=Enabled")
    (tmp_path / "file").write_text("first")
    aws("s3", "cp", tmp_path / "file", f"s3://{bucket}/k")
    first = ask("list-object-versions", "--query", "Versions[0].VersionId")
    ask("put-object-tagging", "--key", "k", "--version-id", first, "--tagging", "TagSet=[{Key=a,Value=b}]")
    aws("s3", "rm", f"s3://{bucket}/k")
    assert ask("list-object-versions", "--query", "DeleteMarkers[0].IsLatest") == "True"
    assert ask("get-object-tagging", "--key", "k", "--version-id", first, "--query", "TagSet[0].Value") == "b"
    ask("copy-object", "--key", "k", "--copy-source", f"{bucket}/k?versionId={first}")
    aws("s3", "cp", f"s3://{bucket}/k", tmp_path / "back")
    assert (tmp_path / "back").read_text() == "first"



@pytest.mark.slow
def test_a_restic_backup_is_restored_and_checked(shared, bucket, tmp_path, rng):
    tree = make_tree(tmp_path / "tree", rng, files=80, large=2)
    env = {
        **shared.client_env(),
        "RESTIC_REPOSITORY": f"s3:{shared.endpoint}/{bucket}/repository",
        "RESTIC_PASSWORD": "only for this test",
        "RESTIC_CACHE_DIR": str(tmp_path / "cache"),
    }

    def restic(*args):
        return run(["restic", *args], env=env, cwd=tmp_path)

    restic("init")
    restic("backup", "tree")
    (tree / "plain.txt").write_text("the second version")
    (tree / "large-1.bin").unlink()
    restic("backup", "tree")
    restic("check", "--read-data")
    restic("restore", "latest", "--target", "back")
    assert_same_trees(tree, tmp_path / "back" / "tree")
    restic("forget", "--keep-last", "1", "--prune")
    restic("check", "--read-data")
    restic("restore", "latest", "--target", "again")
    assert_same_trees(tree, tmp_path / "again" / "tree")
