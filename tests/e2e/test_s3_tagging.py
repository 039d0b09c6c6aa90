"""Tags of objects, of their versions and of buckets: as operations, in headers, through copies, and seen by policies."""

import base64
import hashlib
from concurrent.futures import ThreadPoolExecutor
from urllib.parse import urlencode

import pytest

from harness import DAY, read_body, wait_until
from s3util import refused, send, upload
from settings import policy


def tag_set(**tags):
    return {"TagSet": [{"Key": key, "Value": value} for key, value in tags.items()]}


def pairs(*list_of_pairs):
    return {"TagSet": [{"Key": key, "Value": value} for key, value in list_of_pairs]}


def tags_of(s3, bucket, key="k", **more):
    return {tag["Key"]: tag["Value"] for tag in s3.get_object_tagging(Bucket=bucket, Key=key, **more)["TagSet"]}


def test_tags_of_an_object_are_set_replaced_and_removed(s3, bucket):
    s3.put_object(Bucket=bucket, Key="k", Body=b"body")
    assert s3.get_object_tagging(Bucket=bucket, Key="k")["TagSet"] == []
    answer = s3.put_object_tagging(Bucket=bucket, Key="k", Tagging=tag_set(team="blue", kind="log"))
    assert answer["ResponseMetadata"]["HTTPStatusCode"] == 200
    assert "VersionId" not in answer
    assert tags_of(s3, bucket) == {"team": "blue", "kind": "log"}
    assert s3.head_object(Bucket=bucket, Key="k")["TagCount"] == 2
    s3.put_object_tagging(Bucket=bucket, Key="k", Tagging=tag_set(team="red"))
    assert tags_of(s3, bucket) == {"team": "red"}
    answer = s3.delete_object_tagging(Bucket=bucket, Key="k")
    assert answer["ResponseMetadata"]["HTTPStatusCode"] == 204
    assert tags_of(s3, bucket) == {}
    assert "TagCount" not in s3.head_object(Bucket=bucket, Key="k")
    s3.put_object_tagging(Bucket=bucket, Key="k", Tagging=tag_set(team="red"))
    s3.put_object_tagging(Bucket=bucket, Key="k", Tagging={"TagSet": []})
    assert tags_of(s3, bucket) == {}


def test_tagging_changes_nothing_else(s3, bucket):
    s3.put_object(
        Bucket=bucket, Key="k", Body=b"body", ContentType="text/x", Metadata={"m": "1"}, ChecksumAlgorithm="SHA256"
    )
    shown = ("ETag", "LastModified", "ContentType", "ContentLength", "Metadata", "ChecksumSHA256")

    def described():
        head = s3.head_object(Bucket=bucket, Key="k", ChecksumMode="ENABLED")
        return {name: head[name] for name in shown}, s3.list_objects_v2(Bucket=bucket)["Contents"]

    before = described()
    s3.put_object_tagging(Bucket=bucket, Key="k", Tagging=tag_set(a="b"))
    assert described() == before
    assert read_body(s3, bucket, "k") == b"body"
    s3.delete_object_tagging(Bucket=bucket, Key="k")
    assert described() == before


LONG_KEY, LONG_VALUE = "k" * 128, "v" * 256


@pytest.mark.parametrize(
    "tags",
    [
        [(str(n), str(n)) for n in range(10)],
        [(LONG_KEY, LONG_VALUE)],
        [("ключ 鍵", "Wert é 値")],
        [("a b", "c+d-e=f._:/@g")],
        [("empty", "")],
    ],
    ids=["ten", "long", "unicode", "signs", "empty"],
)
def test_tags_may_be_all_that_s3_allows(s3, bucket, tags):
    s3.put_object(Bucket=bucket, Key="k", Body=b"body")
    s3.put_object_tagging(Bucket=bucket, Key="k", Tagging=pairs(*tags))
    assert tags_of(s3, bucket) == dict(tags)
    s3.put_object(Bucket=bucket, Key="h", Body=b"body", Tagging=urlencode(tags))
    assert tags_of(s3, bucket, "h") == dict(tags)


BAD_TAGS = {
    "eleven": [(str(n), "") for n in range(11)],
    "key too long": [(LONG_KEY + "k", "v")],
    "value too long": [("k", LONG_VALUE + "v")],
    "twice": [("k", "1"), ("k", "2")],
    "reserved": [("aws:k", "v")],
    "sign in key": [("k!", "v")],
    "sign in value": [("k", "v;")],
}


@pytest.mark.parametrize("tags", BAD_TAGS.values(), ids=BAD_TAGS)
def test_tags_that_s3_refuses_are_refused_and_change_nothing(s3, bucket, tags):
    s3.put_object(Bucket=bucket, Key="k", Body=b"body", Tagging="old=1")
    with refused("InvalidTag", 400):
        s3.put_object_tagging(Bucket=bucket, Key="k", Tagging=pairs(*tags))
    assert tags_of(s3, bucket) == {"old": "1"}
    with refused(("InvalidTag", "InvalidArgument"), 400):
        s3.put_object(Bucket=bucket, Key="new", Body=b"body", Tagging=urlencode(tags))
    with refused("404", 404):
        s3.head_object(Bucket=bucket, Key="new")


def test_tagging_mistakes_have_the_codes_of_s3(shared, s3, bucket):
    for call in (s3.get_object_tagging, s3.delete_object_tagging):
        with refused("NoSuchKey", 404):
            call(Bucket=bucket, Key="nothing")
        with refused("NoSuchBucket", 404):
            call(Bucket=bucket + "-nowhere", Key="nothing")
    with refused("NoSuchKey", 404):
        s3.put_object_tagging(Bucket=bucket, Key="nothing", Tagging=tag_set(a="b"))
    s3.put_object(Bucket=bucket, Key="k", Body=b"body")
    for xml in (
        b"<Tagging><TagSet><Tag><Key>k</Key></Tag></TagSet></Tagging>",
        b"<Tagging><TagSet><Tag><Value>v</Value></Tag></TagSet></Tagging>",
        b"<Tagging><Tag><Key>k</Key><Value>v</Value></Tag></Tagging>",
        b"<Tagging><TagSet><Tag><Key>k</Key><Value>v</Value></Tag></TagSet>",
        b"no xml at all",
    ):
        status, _, answer = send(shared, "PUT", f"/{bucket}/k?tagging=", body=xml)
        assert status == 400 and b"<Code>MalformedXML</Code>" in answer, (xml, answer)
    status, _, answer = send(shared, "PUT", f"/{bucket}/k?tagging=", body=b"")
    assert status == 400, answer


@pytest.mark.parametrize("path", ["{bucket}/k?tagging=", "{bucket}?tagging="])
def test_tags_that_arrived_wrong_are_not_set(shared, s3, bucket, path):
    """The digests of the body are compared, as a PUT of tags that arrives wrong would be obeyed."""
    s3.put_object(Bucket=bucket, Key="k", Body=b"body", Tagging="old=1")
    xml = b"<Tagging><TagSet><Tag><Key>k</Key><Value>v</Value></Tag></TagSet></Tagging>"
    path = "/" + path.format(bucket=bucket)
    right, wrong = (base64.b64encode(hashlib.md5(body).digest()).decode() for body in (xml, b"other"))
    cases = [
        ({"Content-MD5": wrong}, None, b"BadDigest"),
        ({"x-amz-checksum-crc32": "AAAAAA=="}, None, b"BadDigest"),
        ({}, hashlib.sha256(b"other").hexdigest(), b"XAmzContentSHA256Mismatch"),
        ({"Content-MD5": "nonsense"}, None, b"InvalidDigest"),
    ]
    for headers, payload, code in cases:
        status, _, answer = send(shared, "PUT", path, headers, body=xml, payload=payload)
        assert status == 400 and b"<Code>%s</Code>" % code in answer, (headers, answer)
    assert tags_of(s3, bucket) == {"old": "1"}
    status, _, answer = send(shared, "PUT", path, {"Content-MD5": right}, body=xml)
    assert status in (200, 204), answer


def test_tags_come_with_a_put_an_upload_and_a_copy(s3, bucket):
    s3.put_object(Bucket=bucket, Key="put", Body=b"body", Tagging="foo=bar&bar")
    assert tags_of(s3, bucket, "put") == {"foo": "bar", "bar": ""}
    upload(s3, bucket, "upload", [(1, b"body")], Tagging="Hello=World&foo=bar")
    assert tags_of(s3, bucket, "upload") == {"Hello": "World", "foo": "bar"}
    source = {"Bucket": bucket, "Key": "put"}
    s3.copy_object(Bucket=bucket, Key="kept", CopySource=source)
    assert tags_of(s3, bucket, "kept") == {"foo": "bar", "bar": ""}
    s3.copy_object(Bucket=bucket, Key="kept", CopySource=source, MetadataDirective="REPLACE", Metadata={"m": "1"})
    assert tags_of(s3, bucket, "kept") == {"foo": "bar", "bar": ""}
    s3.copy_object(Bucket=bucket, Key="new", CopySource=source, TaggingDirective="REPLACE", Tagging="a=b")
    assert tags_of(s3, bucket, "new") == {"a": "b"}
    s3.copy_object(Bucket=bucket, Key="none", CopySource=source, TaggingDirective="REPLACE")
    assert tags_of(s3, bucket, "none") == {}
    with refused("InvalidArgument", 400):
        s3.copy_object(Bucket=bucket, Key="bad", CopySource=source, TaggingDirective="KEEP")
    s3.put_object(Bucket=bucket, Key="put", Body=b"again")
    assert tags_of(s3, bucket, "put") == {}, "tags belong to what was written, not to the key"


def test_each_version_has_tags_of_its_own(s3, bucket):
    s3.put_object(Bucket=bucket, Key="k", Body=b"0", Tagging="n=0")
    s3.put_bucket_versioning(Bucket=bucket, VersioningConfiguration={"Status": "Enabled"})
    first = s3.put_object(Bucket=bucket, Key="k", Body=b"1", Tagging="n=1")["VersionId"]
    second = s3.put_object(Bucket=bucket, Key="k", Body=b"2", Tagging="n=2")["VersionId"]
    assert tags_of(s3, bucket, VersionId="null") == {"n": "0"}
    assert tags_of(s3, bucket, VersionId=first) == {"n": "1"}
    assert s3.get_object_tagging(Bucket=bucket, Key="k")["VersionId"] == second
    answer = s3.put_object_tagging(Bucket=bucket, Key="k", VersionId=first, Tagging=tag_set(n="1", more="x"))
    assert answer["VersionId"] == first
    s3.put_object_tagging(Bucket=bucket, Key="k", VersionId="null", Tagging=tag_set(n="null"))
    answer = s3.put_object_tagging(Bucket=bucket, Key="k", Tagging=tag_set(n="two"))
    assert answer["VersionId"] == second
    assert tags_of(s3, bucket, VersionId=first) == {"n": "1", "more": "x"}
    assert tags_of(s3, bucket, VersionId="null") == {"n": "null"}
    assert tags_of(s3, bucket) == tags_of(s3, bucket, VersionId=second) == {"n": "two"}
    assert s3.head_object(Bucket=bucket, Key="k", VersionId=first)["TagCount"] == 2
    assert s3.delete_object_tagging(Bucket=bucket, Key="k", VersionId=first)["VersionId"] == first
    assert tags_of(s3, bucket, VersionId=first) == {}
    assert tags_of(s3, bucket) == {"n": "two"}
    versions = [v["VersionId"] for v in s3.list_object_versions(Bucket=bucket)["Versions"]]
    assert versions == [second, first, "null"], "tagging makes no version"


def test_a_delete_marker_has_no_tags(s3, bucket):
    s3.put_bucket_versioning(Bucket=bucket, VersioningConfiguration={"Status": "Enabled"})
    version = s3.put_object(Bucket=bucket, Key="k", Body=b"1", Tagging="n=1")["VersionId"]
    marker = s3.delete_object(Bucket=bucket, Key="k")["VersionId"]
    calls = {
        s3.get_object_tagging: {},
        s3.delete_object_tagging: {},
        s3.put_object_tagging: {"Tagging": tag_set(a="b")},
    }
    for call, more in calls.items():
        with refused("NoSuchKey", 404):
            call(Bucket=bucket, Key="k", **more)
        with refused("MethodNotAllowed", 405):
            call(Bucket=bucket, Key="k", VersionId=marker, **more)
    assert tags_of(s3, bucket, VersionId=version) == {"n": "1"}


def test_many_who_tag_at_once_leave_the_tags_of_one(s3, bucket):
    etag = s3.put_object(Bucket=bucket, Key="k", Body=b"body")["ETag"]

    def tag(number):
        s3.put_object_tagging(Bucket=bucket, Key="k", Tagging=tag_set(a=str(number), b=str(number)))

    with ThreadPoolExecutor(8) as pool:
        list(pool.map(tag, range(24)))
    tags = tags_of(s3, bucket)
    assert tags["a"] == tags["b"]
    assert s3.head_object(Bucket=bucket, Key="k")["ETag"] == etag


def test_tags_outlive_a_restart_and_a_kill(gateway):
    server = gateway().start()
    client = server.client()
    client.create_bucket(Bucket="data")
    client.put_object(Bucket="data", Key="k", Body=b"body")
    client.put_object_tagging(Bucket="data", Key="k", Tagging=tag_set(a="b"))
    client.put_bucket_tagging(Bucket="data", Tagging=tag_set(of="bucket"))
    server.kill()
    server.start()
    assert tags_of(client, "data") == {"a": "b"}
    assert client.get_bucket_tagging(Bucket="data")["TagSet"] == tag_set(of="bucket")["TagSet"]


def test_a_policy_sees_changed_tags(sim, gateway):
    """Both ways: tags that make a rule hold, and tags that make it hold no more, without a write of the object."""
    server = gateway(sim=sim, policy=policy("data", ia_after="30d", archive_after="3000d", tags={"cool": "yes"})).start()
    client = server.client()
    client.create_bucket(Bucket="data")
    for key, tags in (("gets", ""), ("keeps", "cool=yes"), ("loses", "cool=yes"), ("never", "")):
        client.put_object(Bucket="data", Key=key, Body=key.encode() * 100, Tagging=tags)
    server.advance(10 * DAY)
    client.put_object_tagging(Bucket="data", Key="gets", Tagging=tag_set(cool="yes"))
    client.delete_object_tagging(Bucket="data", Key="loses")
    server.advance(21 * DAY)

    def cold(key):
        return "Cold" in str(server.status("data", key)["residency"])

    wait_until("the tagged objects to move", lambda: cold("gets") and cold("keeps"))
    assert not cold("loses") and not cold("never")
    # A tag of what is cold moves no byte, and changes nothing but itself.
    client.put_object_tagging(Bucket="data", Key="keeps", Tagging=tag_set(cool="no"))
    assert cold("keeps") and tags_of(client, "data", "keeps") == {"cool": "no"}
    # What was due long ago is due at once.
    client.put_object_tagging(Bucket="data", Key="loses", Tagging=tag_set(cool="yes"))
    wait_until("the object that is tagged again to move", lambda: cold("loses"))
    assert read_body(client, "data", "loses") == b"loses" * 100
    assert not cold("never")


def test_tags_of_a_bucket(s3, bucket):
    with refused("NoSuchTagSet", 404):
        s3.get_bucket_tagging(Bucket=bucket)
    tags = pairs(("z", "1"), ("Hello", "World"), ("a", ""))
    answer = s3.put_bucket_tagging(Bucket=bucket, Tagging=tags)
    assert answer["ResponseMetadata"]["HTTPStatusCode"] == 204
    assert s3.get_bucket_tagging(Bucket=bucket)["TagSet"] == tags["TagSet"], "as they were given"
    s3.put_bucket_tagging(Bucket=bucket, Tagging=tag_set(only="this"))
    assert s3.get_bucket_tagging(Bucket=bucket)["TagSet"] == tag_set(only="this")["TagSet"]
    assert s3.delete_bucket_tagging(Bucket=bucket)["ResponseMetadata"]["HTTPStatusCode"] == 204
    with refused("NoSuchTagSet", 404):
        s3.get_bucket_tagging(Bucket=bucket)
    s3.delete_bucket_tagging(Bucket=bucket)
    s3.put_bucket_tagging(Bucket=bucket, Tagging={"TagSet": []})
    with refused("NoSuchTagSet", 404):
        s3.get_bucket_tagging(Bucket=bucket)


def test_a_bucket_has_up_to_fifty_tags(s3, bucket):
    fifty = [(f"k{n:02}", "v" * 256) for n in range(50)]
    s3.put_bucket_tagging(Bucket=bucket, Tagging=pairs(*fifty))
    assert len(s3.get_bucket_tagging(Bucket=bucket)["TagSet"]) == 50
    with refused("BadRequest", 400):
        s3.put_bucket_tagging(Bucket=bucket, Tagging=pairs(*fifty, ("k50", "")))
    for name, tags in BAD_TAGS.items():
        if name != "eleven":
            with refused("InvalidTag", 400):
                s3.put_bucket_tagging(Bucket=bucket, Tagging=pairs(*tags))
    assert len(s3.get_bucket_tagging(Bucket=bucket)["TagSet"]) == 50
    for call in (s3.get_bucket_tagging, s3.delete_bucket_tagging):
        with refused("NoSuchBucket", 404):
            call(Bucket=bucket + "-nowhere")
    with refused("NoSuchBucket", 404):
        s3.put_bucket_tagging(Bucket=bucket + "-nowhere", Tagging=tag_set(a="b"))


def test_tags_of_a_bucket_end_with_it(s3):
    s3.create_bucket(Bucket="tagged-and-gone")
    s3.put_bucket_tagging(Bucket="tagged-and-gone", Tagging=tag_set(a="b"))
    s3.delete_bucket(Bucket="tagged-and-gone")
    s3.create_bucket(Bucket="tagged-and-gone")
    with refused("NoSuchTagSet", 404):
        s3.get_bucket_tagging(Bucket="tagged-and-gone")
