"""More clients that people use: s3cmd, s5cmd, minio-py, and AWS's SDK for JavaScript. What comes with Python is in test_apps_data.py,
what the system must have in test_apps_system.py."""

import datetime
import hashlib
import io
import json
import sys

import boto3
import pytest
import requests
from botocore.config import Config

from harness import ACCESS_KEY, REGION, ROOT, SECRET_KEY, TOOLS, run
from s3util import MIB, refused
from test_clients import assert_same_trees, make_tree
from test_oss_clients import node


@pytest.fixture(params=["V4", "V2"])
def s3cmd(request, shared, tmp_path):
    """s3cmd, with each of the two signatures."""
    config = tmp_path / "s3cfg"
    config.write_text(
        f"[default]\naccess_key = {ACCESS_KEY}\nsecret_key = {SECRET_KEY}\nbucket_location = {REGION}\n"
        f"host_base = 127.0.0.1:{shared.port}\nhost_bucket = 127.0.0.1:{shared.port}\nuse_https = False\n"
        f"signature_v2 = {request.param == 'V2'}\nmultipart_chunk_size_mb = 5\nmax_retries = 1\n"
    )

    def call(*args, **more):
        argv = [sys.executable, TOOLS / "s3cmd", "--config", config, "--no-progress", *args]
        return run(argv, env=shared.client_env(), **more).stdout

    call.signature = request.param
    return call


def test_s3cmd_syncs_trees_and_uploads_in_parts(s3cmd, s3, bucket, tmp_path, rng):
    tree = make_tree(tmp_path / "tree", rng, files=20)
    s3cmd("sync", f"{tree}/", f"s3://{bucket}/tree/")
    assert s3.head_object(Bucket=bucket, Key="tree/large-0.bin")["ETag"].endswith('-4"')
    assert "upload:" not in s3cmd("sync", f"{tree}/", f"s3://{bucket}/tree/"), "nothing changed, nothing to copy"
    (tree / "plain.txt").unlink()
    (tree / "with space.bin").write_bytes(b"changed")
    s3cmd("sync", "--delete-removed", f"{tree}/", f"s3://{bucket}/tree/")
    (tmp_path / "back").mkdir()
    s3cmd("sync", f"s3://{bucket}/tree/", f"{tmp_path}/back/")
    assert_same_trees(tree, tmp_path / "back")
    total, objects = s3cmd("du", f"s3://{bucket}/tree/").split()[:2]
    files = [path for path in tree.rglob("*") if path.is_file()]
    assert (int(total), int(objects)) == (sum(path.stat().st_size for path in files), len(files))
    assert f"s3://{bucket}/tree/large-0.bin" in s3cmd("ls", "--recursive", f"s3://{bucket}")
    assert "DIR" in s3cmd("ls", f"s3://{bucket}/tree/")
    s3cmd("del", "--recursive", "--force", f"s3://{bucket}")
    assert s3.list_objects_v2(Bucket=bucket)["KeyCount"] == 0
    s3cmd("rb", f"s3://{bucket}")


def test_s3cmd_changes_objects_and_settings_of_buckets(s3cmd, s3, bucket, tmp_path):
    (tmp_path / "file").write_bytes(b"by s3cmd")
    made = f"made-by-s3cmd-{s3cmd.signature.lower()}"
    s3cmd("mb", f"s3://{made}")
    assert f"s3://{made}" in s3cmd("ls")
    s3cmd("put", "--mime-type", "text/x-f", "--add-header", "x-amz-meta-own: value", tmp_path / "file", f"s3://{bucket}/ä +&/k")
    s3cmd("cp", f"s3://{bucket}/ä +&/k", f"s3://{made}/copied")
    s3cmd("mv", f"s3://{made}/copied", f"s3://{made}/moved")
    s3cmd("modify", "--add-header", "Cache-Control: max-age=7", f"s3://{made}/moved")
    head = s3.head_object(Bucket=made, Key="moved")
    assert (head["ContentType"], head["CacheControl"], head["Metadata"].get("own")) == ("text/x-f", "max-age=7", "value")
    info = s3cmd("info", f"s3://{made}/moved")
    assert "text/x-f" in info and hashlib.md5(b"by s3cmd").hexdigest() in info
    url = s3cmd("signurl", f"s3://{made}/moved", "+60").strip()
    assert requests.get(url, timeout=10).content == b"by s3cmd"
    s3cmd("settagging", f"s3://{made}/moved", "a=1&b=2")
    assert s3.get_object_tagging(Bucket=made, Key="moved")["TagSet"] == [{"Key": "a", "Value": "1"}, {"Key": "b", "Value": "2"}]
    statement = {"Effect": "Allow", "Principal": "*", "Action": "s3:GetObject", "Resource": f"arn:aws:s3:::{made}/*"}
    (tmp_path / "policy").write_text(json.dumps({"Version": "2012-10-17", "Statement": [statement]}))
    s3cmd("setpolicy", tmp_path / "policy", f"s3://{made}")
    assert requests.get(f"{s3.meta.endpoint_url}/{made}/moved", timeout=10).content == b"by s3cmd"
    s3cmd("delpolicy", f"s3://{made}")
    assert requests.get(f"{s3.meta.endpoint_url}/{made}/moved", timeout=10).status_code == 403
    s3cmd("expire", "--expiry-days=3", "--expiry-prefix=tmp/", f"s3://{made}")
    assert s3.get_bucket_lifecycle_configuration(Bucket=made)["Rules"][0]["Expiration"] == {"Days": 3}
    upload = s3.create_multipart_upload(Bucket=made, Key="left")["UploadId"]
    assert upload in s3cmd("multipart", f"s3://{made}")
    s3cmd("abortmp", f"s3://{made}/left", upload)
    s3cmd("rb", "--recursive", "--force", f"s3://{made}")


def test_s5cmd_copies_syncs_and_removes(shared, s3, bucket, tmp_path, rng):
    tree = make_tree(tmp_path / "tree", rng)

    def s5cmd(*args, **more):
        argv = [TOOLS / "s5cmd", "--endpoint-url", shared.endpoint, "--retry-count", "0", "--stat", *args]
        return run(argv, env=shared.client_env(), **more).stdout

    s5cmd("cp", "--part-size", "5", f"{tree}/", f"s3://{bucket}/tree/")
    assert s3.head_object(Bucket=bucket, Key="tree/large-0.bin")["ETag"].endswith('-4"')
    s5cmd("cp", "--part-size", "5", f"s3://{bucket}/tree/*", f"{tmp_path}/back/")
    assert_same_trees(tree, tmp_path / "back")
    (tree / "plain.txt").unlink()
    (tree / "new").write_bytes(b"new")
    s5cmd("sync", "--delete", f"{tree}/", f"s3://{bucket}/tree/")
    s5cmd("sync", "--delete", f"s3://{bucket}/tree/*", f"{tmp_path}/back/")
    assert_same_trees(tree, tmp_path / "back")
    s5cmd("mv", f"s3://{bucket}/tree/new", f"s3://{bucket}/moved & + renamed")
    assert s5cmd("cat", f"s3://{bucket}/moved & + renamed").startswith("new")
    s5cmd("pipe", f"s3://{bucket}/piped", stdin="from a pipe")
    assert s3.get_object(Bucket=bucket, Key="piped")["Body"].read() == b"from a pipe"
    s5cmd("rm", f"s3://{bucket}/*")
    assert s3.list_objects_v2(Bucket=bucket)["KeyCount"] == 0
    s5cmd("rb", f"s3://{bucket}")


@pytest.fixture
def minio(shared):
    from minio import Minio

    return Minio(f"127.0.0.1:{shared.port}", access_key=ACCESS_KEY, secret_key=SECRET_KEY, secure=False)


def test_minio_py_streams_composes_and_reads_ranges(minio, bucket, tmp_path, rng):
    from minio.commonconfig import ComposeSource, CopySource
    from minio.deleteobjects import DeleteObject

    body = rng.randbytes(12 * MIB + 3)
    made = minio.put_object(bucket, "ä/stream + &", io.BytesIO(body), -1, part_size=5 * MIB, metadata={"own": "value"})
    assert made.etag.endswith("-3")
    stat = minio.stat_object(bucket, "ä/stream + &")
    assert (stat.size, stat.metadata["x-amz-meta-own"]) == (len(body), "value")
    (tmp_path / "small").write_bytes(body[:1000])
    minio.fput_object(bucket, "small", str(tmp_path / "small"), content_type="text/x-f")
    minio.copy_object(bucket, "copied", CopySource(bucket, "ä/stream + &", offset=0, length=6 * MIB))
    sources = [ComposeSource(bucket, "copied"), ComposeSource(bucket, "ä/stream + &"), ComposeSource(bucket, "small")]
    minio.compose_object(bucket, "composed", sources)
    minio.fget_object(bucket, "composed", str(tmp_path / "composed"))
    assert (tmp_path / "composed").read_bytes() == body[: 6 * MIB] + body + body[:1000]
    with minio.get_object(bucket, "ä/stream + &", offset=7 * MIB, length=100) as answer:
        assert answer.read() == body[7 * MIB : 7 * MIB + 100]
    names = [o.object_name for o in minio.list_objects(bucket, recursive=True)]
    assert names == ["composed", "copied", "small", "ä/stream + &"]
    assert [o.object_name for o in minio.list_objects(bucket) if o.is_dir] == ["ä/"]
    assert not list(minio.remove_objects(bucket, [DeleteObject(name) for name in names]))
    minio.remove_bucket(bucket)
    assert not minio.bucket_exists(bucket)


def test_minio_py_sets_buckets_up(minio, bucket):
    from minio.commonconfig import ENABLED, Filter, Tags
    from minio.lifecycleconfig import Expiration, LifecycleConfig, Rule
    from minio.versioningconfig import VersioningConfig

    minio.set_bucket_versioning(bucket, VersioningConfig(ENABLED))
    first = minio.put_object(bucket, "k", io.BytesIO(b"first"), 5).version_id
    minio.put_object(bucket, "k", io.BytesIO(b"second"), 6)
    minio.remove_object(bucket, "k")
    listed = list(minio.list_objects(bucket, include_version=True))
    assert sorted((o.is_delete_marker, o.is_latest == "true") for o in listed) == [(False, False), (False, False), (True, True)]
    assert first in [o.version_id for o in listed]
    assert minio.get_object(bucket, "k", version_id=first).read() == b"first"
    tags = Tags.new_object_tags()
    tags["a"] = "b"
    minio.set_object_tags(bucket, "k", tags, version_id=first)
    assert dict(minio.get_object_tags(bucket, "k", version_id=first)) == {"a": "b"}
    rule = Rule(ENABLED, rule_filter=Filter(prefix="logs/"), rule_id="r", expiration=Expiration(days=9))
    minio.set_bucket_lifecycle(bucket, LifecycleConfig([rule]))
    assert minio.get_bucket_lifecycle(bucket).rules[0].expiration.days == 9
    minio.delete_bucket_lifecycle(bucket)
    assert minio.get_bucket_lifecycle(bucket) is None


def test_minio_py_signs_urls_and_forms(minio, shared, bucket):
    from minio.datatypes import PostPolicy

    day = datetime.timedelta(days=1)
    put = minio.presigned_put_object(bucket, "ö +", expires=day)
    assert requests.put(put, data=b"presigned", timeout=10).status_code == 200
    assert requests.get(minio.presigned_get_object(bucket, "ö +", expires=day), timeout=10).content == b"presigned"
    policy = PostPolicy(bucket, datetime.datetime.now(datetime.timezone.utc) + day)
    policy.add_starts_with_condition("key", "form/")
    policy.add_content_length_range_condition(1, 100)
    fields = {**minio.presigned_post_policy(policy), "key": "form/k"}
    answer = requests.post(f"{shared.endpoint}/{bucket}", data=fields, files={"file": b"by a form"}, timeout=10)
    assert answer.status_code == 204, answer.text
    assert minio.get_object(bucket, "form/k").read() == b"by a form"


def test_signatures_of_version_2_of_buckets_with_and_without_a_slash(shared, s3, bucket, tmp_path):
    # boto3 asks for /bucket and signs /bucket/; rclone signs the path that it sends.
    client = shared.client(signature_version="s3")
    client.create_bucket(Bucket=f"{bucket}-v2")
    client.put_object(Bucket=bucket, Key="ä +k", Body=b"x")
    assert client.list_objects_v2(Bucket=bucket, Prefix="ä +")["KeyCount"] == 1
    assert client.list_multipart_uploads(Bucket=bucket).get("Uploads") is None
    url = client.generate_presigned_url("list_objects_v2", Params={"Bucket": bucket}, ExpiresIn=60)
    assert "<KeyCount>1</KeyCount>" in requests.get(url, timeout=10).text
    client.put_bucket_tagging(Bucket=bucket, Tagging={"TagSet": [{"Key": "a", "Value": "b"}]})
    assert client.get_bucket_tagging(Bucket=bucket)["TagSet"] == [{"Key": "a", "Value": "b"}]
    assert "Errors" not in client.delete_objects(Bucket=bucket, Delete={"Objects": [{"Key": "ä +k"}]})
    client.delete_bucket(Bucket=f"{bucket}-v2")
    wrong = boto3.client(
        "s3", endpoint_url=shared.endpoint, region_name=REGION, aws_access_key_id=ACCESS_KEY, aws_secret_access_key="wrong",
        config=Config(signature_version="s3", s3={"addressing_style": "path"}, retries={"max_attempts": 0}),
    )  # fmt: skip
    with refused("SignatureDoesNotMatch", 403):
        wrong.list_objects_v2(Bucket=bucket)

    (tmp_path / "f").write_bytes(b"by rclone")
    (tmp_path / "conf").write_text(
        f"[t]\ntype = s3\nprovider = Other\nendpoint = {shared.endpoint}\nregion = other-v2-signature\nv2_auth = true\n"
        f"access_key_id = {ACCESS_KEY}\nsecret_access_key = {SECRET_KEY}\nforce_path_style = true\n"
    )
    rclone = [TOOLS / "rclone", "--config", tmp_path / "conf", "--retries", "1", "--low-level-retries", "1"]
    run([*rclone, "copyto", tmp_path / "f", f"t:{bucket}/a/f"], env=shared.client_env())
    assert sorted(run([*rclone, "lsf", "-R", f"t:{bucket}"], env=shared.client_env()).stdout.split()) == ["a/", "a/f"]
    run([*rclone, "purge", f"t:{bucket}/a"], env=shared.client_env())
    assert s3.list_objects_v2(Bucket=bucket)["KeyCount"] == 0


def test_the_javascript_sdk_streams_lists_and_copies(shared, bucket, tmp_path):
    env = {**shared.client_env(), "NODE_PATH": str(ROOT / ".tools" / "node" / "node_modules")}
    done = run([node(), ROOT / "tests" / "e2e" / "node" / "sdk.cjs", shared.endpoint, bucket], env=env, cwd=tmp_path)
    assert done.stdout.count("ok ") == 6, done.stdout
