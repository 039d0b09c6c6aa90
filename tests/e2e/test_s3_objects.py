"""Buckets and single objects over boto3: contents, headers, ranges, conditions, copies, deletes."""

import datetime
import hashlib
import re
import socket

import pytest
import urllib3

from harness import read_body
from s3util import MIB, md5, refused


def test_a_bucket_is_created_listed_found_and_deleted(s3):
    s3.create_bucket(Bucket="made-once")
    assert s3.head_bucket(Bucket="made-once")["ResponseMetadata"]["HTTPStatusCode"] == 200
    listed = {b["Name"]: b["CreationDate"] for b in s3.list_buckets()["Buckets"]}
    assert isinstance(listed["made-once"], datetime.datetime)
    s3.delete_bucket(Bucket="made-once")
    with refused("404", 404):
        s3.head_bucket(Bucket="made-once")
    assert "made-once" not in {b["Name"] for b in s3.list_buckets()["Buckets"]}


def test_a_bucket_is_made_again_by_its_owner_in_the_oldest_region_only(s3, bucket, gateway):
    s3.put_object(Bucket=bucket, Key="k", Body=b"kept")
    s3.create_bucket(Bucket=bucket)
    assert read_body(s3, bucket, "k") == b"kept"
    s3.create_bucket(Bucket="made-with-a-list", ACL="public-read", ObjectOwnership="ObjectWriter")
    for mistake in [{}, {"ACL": "authenticated-read", "ObjectOwnership": "ObjectWriter"}]:
        with refused(("BucketAlreadyExists", "BucketAlreadyOwnedByYou"), 409):
            s3.create_bucket(Bucket="made-with-a-list", **mistake)
    assert len(s3.get_bucket_acl(Bucket="made-with-a-list")["Grants"]) == 2
    elsewhere = gateway(s3={"region": "eu-west-1"}).start().client()
    elsewhere.create_bucket(Bucket=bucket)
    with refused("BucketAlreadyOwnedByYou", 409):
        elsewhere.create_bucket(Bucket=bucket)


def test_bucket_mistakes_have_the_codes_of_s3(s3, bucket):
    with refused("NoSuchBucket", 404):
        s3.delete_bucket(Bucket="there-is-no-such-bucket")
    with refused("NoSuchBucket", 404):
        s3.put_object(Bucket="there-is-no-such-bucket", Key="k", Body=b"x")
    with refused("NoSuchBucket", 404):
        s3.get_object(Bucket="there-is-no-such-bucket", Key="k")
    with refused("NoSuchBucket", 404):
        s3.list_objects_v2(Bucket="there-is-no-such-bucket")
    s3.put_object(Bucket=bucket, Key="k", Body=b"x")
    with refused("BucketNotEmpty", 409):
        s3.delete_bucket(Bucket=bucket)


def test_unfinished_uploads_do_not_keep_a_bucket(s3):
    s3.create_bucket(Bucket="half-done")
    for key in ("a", "b"):
        upload = s3.create_multipart_upload(Bucket="half-done", Key=key)["UploadId"]
        s3.upload_part(Bucket="half-done", Key=key, UploadId=upload, PartNumber=1, Body=b"part")
    s3.put_object(Bucket="half-done", Key="k", Body=b"x")
    with refused("BucketNotEmpty", 409):
        s3.delete_bucket(Bucket="half-done")
    assert len(s3.list_multipart_uploads(Bucket="half-done")["Uploads"]) == 2, "a refusal aborts nothing"
    s3.delete_object(Bucket="half-done", Key="k")
    s3.delete_bucket(Bucket="half-done")
    s3.create_bucket(Bucket="half-done")
    assert "Uploads" not in s3.list_multipart_uploads(Bucket="half-done")
    s3.delete_bucket(Bucket="half-done")


def test_no_object_has_a_torrent(s3, bucket):
    s3.put_object(Bucket=bucket, Key="k", Body=b"x")
    for key in ("k", "missing"):
        with refused("NoSuchKey", 404):
            s3.get_object_torrent(Bucket=bucket, Key=key)


def test_what_is_not_there_is_no_delete_marker(s3, bucket):
    with refused(("NoSuchKey", "404"), 404) as error:
        s3.head_object(Bucket=bucket, Key="missing")
    assert error.error.response["ResponseMetadata"]["HTTPHeaders"]["x-amz-delete-marker"] == "false"


@pytest.mark.parametrize("name", ["UPPER", "under_score", "..dots", "192.168.1.1"])
def test_a_bad_bucket_name_is_refused(shared, name):
    from s3util import send

    status, _, body = send(shared, "PUT", f"/{name}")
    assert status == 400 and b"InvalidBucketName" in body, body


@pytest.mark.parametrize("size", [0, 1, 4095, 65_536, 1_000_003, 9 * MIB + 17])
def test_an_object_comes_back_byte_for_byte(s3, bucket, rng, size):
    body = rng.randbytes(size)
    put = s3.put_object(Bucket=bucket, Key="folder/object.bin", Body=body)
    assert put["ETag"] == f'"{md5(body)}"'
    head = s3.head_object(Bucket=bucket, Key="folder/object.bin")
    assert (head["ContentLength"], head["ETag"]) == (size, put["ETag"])
    assert head["AcceptRanges"] == "bytes"
    got = s3.get_object(Bucket=bucket, Key="folder/object.bin")
    assert got["Body"].read() == body
    assert got["ETag"] == put["ETag"]


def test_an_overwrite_replaces_body_and_description(s3, bucket):
    s3.put_object(Bucket=bucket, Key="k", Body=b"first", ContentType="text/plain", Metadata={"a": "1"})
    s3.put_object(Bucket=bucket, Key="k", Body=b"second", Metadata={"b": "2"})
    got = s3.get_object(Bucket=bucket, Key="k")
    assert got["Body"].read() == b"second"
    assert got["Metadata"] == {"b": "2"}
    assert got["ContentType"] != "text/plain"


def test_a_missing_key_has_the_codes_of_s3(s3, bucket):
    with refused("NoSuchKey", 404):
        s3.get_object(Bucket=bucket, Key="nothing")
    with refused("404", 404):
        s3.head_object(Bucket=bucket, Key="nothing")
    assert s3.delete_object(Bucket=bucket, Key="nothing")["ResponseMetadata"]["HTTPStatusCode"] == 204


def test_errors_carry_a_request_id_that_answers_carry_too(s3, bucket):
    assert s3.list_objects_v2(Bucket=bucket)["ResponseMetadata"]["RequestId"]
    with refused("NoSuchKey") as failed:
        s3.get_object(Bucket=bucket, Key="nothing")
    assert failed.error.response["ResponseMetadata"]["RequestId"]


def test_content_headers_and_metadata_are_kept_exactly(s3, bucket):
    expires = datetime.datetime(2040, 1, 2, 3, 4, 5, tzinfo=datetime.timezone.utc)
    given = {
        "ContentType": "text/x-thing; charset=utf-8",
        "CacheControl": "max-age=60, private",
        "ContentDisposition": 'attachment; filename="a b.txt"',
        "ContentEncoding": "gzip",
        "ContentLanguage": "de, en",
    }
    metadata = {"plain": "value", "with-dash": "a, b; c=d", "number": "17", "empty-ish": "x"}
    s3.put_object(Bucket=bucket, Key="k", Body=b"b", Expires=expires, Metadata=metadata, **given)
    for answer in (s3.head_object(Bucket=bucket, Key="k"), s3.get_object(Bucket=bucket, Key="k")):
        assert {name: answer[name] for name in given} == given
        assert answer["Metadata"] == metadata
        assert answer["ExpiresString"].startswith("Mon, 02 Jan 2040 03:04:05")


def test_last_modified_is_the_same_in_head_get_and_list(s3, bucket):
    s3.put_object(Bucket=bucket, Key="k", Body=b"b")
    head = s3.head_object(Bucket=bucket, Key="k")["LastModified"]
    assert s3.get_object(Bucket=bucket, Key="k")["LastModified"] == head
    listed = s3.list_objects_v2(Bucket=bucket)["Contents"][0]["LastModified"]
    assert listed.replace(microsecond=0) == head
    assert abs((datetime.datetime.now(datetime.timezone.utc) - head).total_seconds()) < 60


KEYS = [
    "plain", "with space", "a+b&c=d?e#f", "percent%20sign", "trailing/", "//double//slash", "ünïcödé/ключ/鍵", "emoji-😀",
    "quote'\"<>&", "dots/../and/./more", "tilde~(paren)*!", "x" * 1024, "back\\slash", "semi;colon,comma@at",
]


@pytest.mark.parametrize("key", KEYS, ids=lambda k: repr(k)[:24])
def test_any_key_is_kept_as_it_is(s3, bucket, key):
    body = key.encode()
    s3.put_object(Bucket=bucket, Key=key, Body=body)
    assert read_body(s3, bucket, key) == body
    assert [o["Key"] for o in s3.list_objects_v2(Bucket=bucket)["Contents"]] == [key]
    assert [o["Key"] for o in s3.list_objects(Bucket=bucket)["Contents"]] == [key]
    s3.copy_object(Bucket=bucket, Key="copy", CopySource={"Bucket": bucket, "Key": key})
    assert read_body(s3, bucket, "copy") == body
    gone = s3.delete_objects(Bucket=bucket, Delete={"Objects": [{"Key": key}]})
    assert [d["Key"] for d in gone["Deleted"]] == [key]
    with refused("NoSuchKey"):
        s3.get_object(Bucket=bucket, Key=key)


def test_a_key_that_is_too_long_is_refused(s3, bucket):
    with refused("KeyTooLongError", 400):
        s3.put_object(Bucket=bucket, Key="x" * 1025, Body=b"")


def test_ranges_give_the_bytes_that_were_asked_for(s3, bucket, rng):
    size = 3 * MIB + 123
    body = rng.randbytes(size)
    s3.put_object(Bucket=bucket, Key="k", Body=body)
    cases = [("bytes=0-0", 0, 1), ("bytes=0-99", 0, 100), (f"bytes={size - 1}-", size - 1, size), ("bytes=-7", size - 7, size)]
    cases += [(f"bytes=0-{size * 2}", 0, size), (f"bytes=-{size * 2}", 0, size), ("bytes=1000-", 1000, size)]
    for _ in range(25):
        a = rng.randrange(size)
        b = rng.randrange(a, size)
        cases.append((f"bytes={a}-{b}", a, b + 1))
    for text, start, end in cases:
        got = s3.get_object(Bucket=bucket, Key="k", Range=text)
        assert got["Body"].read() == body[start:end], text
        assert got["ResponseMetadata"]["HTTPStatusCode"] == 206
        assert got["ContentRange"] == f"bytes {start}-{end - 1}/{size}"
        assert got["ContentLength"] == end - start
    with refused("InvalidRange", 416):
        s3.get_object(Bucket=bucket, Key="k", Range=f"bytes={size}-")
    head = s3.head_object(Bucket=bucket, Key="k", Range="bytes=5-9")
    assert head["ContentLength"] == 5


def test_a_range_that_makes_no_sense_is_ignored_as_http_says(s3, bucket):
    s3.put_object(Bucket=bucket, Key="k", Body=b"0123456789")
    # boto3 signs the header, a URL leaves it unsigned.
    for text in ("bytes=5-2", "lines=1-2", "bytes=0-1,3-4"):
        got = s3.get_object(Bucket=bucket, Key="k", Range=text)
        assert (got["ResponseMetadata"]["HTTPStatusCode"], got["Body"].read()) == (200, b"0123456789")
        assert s3.head_object(Bucket=bucket, Key="k", Range=text)["ContentLength"] == 10
    url = s3.generate_presigned_url("get_object", Params={"Bucket": bucket, "Key": "k"})
    for text in ("bytes=5-2", "lines=1-2", "bytes=0-1,3-4"):
        got = urllib3.request("GET", url, headers={"Range": text})
        assert (got.status, got.data) == (200, b"0123456789")


def test_a_range_to_beyond_all_objects_is_a_range(s3, bucket):
    s3.put_object(Bucket=bucket, Key="k", Body=b"0123456789")
    for text, part in (("bytes=4-18446744073709551615", b"456789"), ("bytes=-99999999999999999999", b"0123456789")):
        got = s3.get_object(Bucket=bucket, Key="k", Range=text)
        assert (got["ResponseMetadata"]["HTTPStatusCode"], got["Body"].read()) == (206, part)
    with refused("InvalidRange", 416):
        s3.get_object(Bucket=bucket, Key="k", Range="bytes=99999999999999999999-")


def test_conditional_reads(s3, bucket):
    tag = s3.put_object(Bucket=bucket, Key="k", Body=b"body")["ETag"]
    when = s3.head_object(Bucket=bucket, Key="k")["LastModified"]
    hour = datetime.timedelta(hours=1)
    for call in (s3.get_object, s3.head_object):
        assert call(Bucket=bucket, Key="k", IfMatch=tag)["ETag"] == tag
        assert call(Bucket=bucket, Key="k", IfNoneMatch='"other"')["ETag"] == tag
        assert call(Bucket=bucket, Key="k", IfModifiedSince=when - hour)["ETag"] == tag
        assert call(Bucket=bucket, Key="k", IfUnmodifiedSince=when + hour)["ETag"] == tag
        with refused(("PreconditionFailed", "412"), 412):
            call(Bucket=bucket, Key="k", IfMatch='"other"')
        with refused(("NotModified", "304"), 304):
            call(Bucket=bucket, Key="k", IfNoneMatch=tag)
        with refused(("NotModified", "304"), 304):
            call(Bucket=bucket, Key="k", IfModifiedSince=when)
        with refused(("PreconditionFailed", "412"), 412):
            call(Bucket=bucket, Key="k", IfUnmodifiedSince=when - hour)


def test_conditional_writes_have_one_winner(s3, bucket):
    tag = s3.put_object(Bucket=bucket, Key="k", Body=b"1", IfNoneMatch="*")["ETag"]
    with refused("PreconditionFailed", 412):
        s3.put_object(Bucket=bucket, Key="k", Body=b"2", IfNoneMatch="*")
    with refused("PreconditionFailed", 412):
        s3.put_object(Bucket=bucket, Key="k", Body=b"2", IfMatch='"00000000000000000000000000000000"')
    s3.put_object(Bucket=bucket, Key="k", Body=b"3", IfMatch=tag)
    assert read_body(s3, bucket, "k") == b"3"


def test_of_many_concurrent_creations_exactly_one_wins(shared, s3, bucket):
    from concurrent.futures import ThreadPoolExecutor

    from botocore.exceptions import ClientError

    def create(number):
        try:
            s3.put_object(Bucket=bucket, Key="once", Body=b"%d" % number, IfNoneMatch="*")
            return number
        except ClientError as error:
            assert error.response["Error"]["Code"] in ("PreconditionFailed", "ConditionalRequestConflict"), error
            return None

    with ThreadPoolExecutor(8) as pool:
        winners = [n for n in pool.map(create, range(24)) if n is not None]
    assert len(winners) == 1
    assert read_body(s3, bucket, "once") == b"%d" % winners[0]


def test_response_overrides_change_this_answer_only(s3, bucket):
    s3.put_object(Bucket=bucket, Key="k", Body=b"b", ContentType="text/plain")
    got = s3.get_object(
        Bucket=bucket, Key="k", ResponseContentType="application/x-other", ResponseCacheControl="no-store",
        ResponseContentDisposition="inline", ResponseContentEncoding="identity", ResponseContentLanguage="fr",
    )
    assert got["ContentType"] == "application/x-other"
    assert (got["CacheControl"], got["ContentDisposition"], got["ContentLanguage"]) == ("no-store", "inline", "fr")
    assert s3.get_object(Bucket=bucket, Key="k")["ContentType"] == "text/plain"


def test_delete_objects_answers_for_each_key(s3, bucket):
    keys = [f"k{i:04}" for i in range(250)]
    for key in keys[:20]:
        s3.put_object(Bucket=bucket, Key=key, Body=b"x")
    answer = s3.delete_objects(Bucket=bucket, Delete={"Objects": [{"Key": k} for k in keys]})
    assert sorted(d["Key"] for d in answer["Deleted"]) == keys
    assert "Contents" not in s3.list_objects_v2(Bucket=bucket)
    s3.put_object(Bucket=bucket, Key="q", Body=b"x")
    quiet = s3.delete_objects(Bucket=bucket, Delete={"Objects": [{"Key": "q"}], "Quiet": True})
    assert not quiet.get("Deleted") and not quiet.get("Errors")


def test_delete_objects_of_more_than_a_thousand_keys_is_refused(s3, bucket):
    with refused("MalformedXML", 400):
        s3.delete_objects(Bucket=bucket, Delete={"Objects": [{"Key": str(i)} for i in range(1001)]})


def test_a_copy_keeps_or_replaces_the_description(s3, bucket, rng):
    body = rng.randbytes(700_000)
    put = s3.put_object(Bucket=bucket, Key="from", Body=body, ContentType="text/a", Metadata={"m": "old"})
    s3.create_bucket(Bucket=bucket + "-other")
    source = {"Bucket": bucket, "Key": "from"}
    kept = s3.copy_object(Bucket=bucket + "-other", Key="kept", CopySource=source)
    assert kept["CopyObjectResult"]["ETag"] == put["ETag"]
    got = s3.get_object(Bucket=bucket + "-other", Key="kept")
    assert (got["Body"].read(), got["ContentType"], got["Metadata"]) == (body, "text/a", {"m": "old"})
    s3.copy_object(
        Bucket=bucket, Key="new", CopySource=source, MetadataDirective="REPLACE", ContentType="text/b", Metadata={"n": "new"}
    )
    got = s3.get_object(Bucket=bucket, Key="new")
    assert (got["Body"].read(), got["ContentType"], got["Metadata"]) == (body, "text/b", {"n": "new"})
    s3.delete_object(Bucket=bucket, Key="from")
    assert hashlib.md5(read_body(s3, bucket, "new")).hexdigest() == put["ETag"].strip('"')


def test_a_plus_in_the_source_of_a_copy_is_a_space(shared, bucket):
    """S3 reads the header as a form; s5cmd writes spaces so. What was meant to be a plus comes as `%2B`."""
    s3 = shared.client()
    s3.put_object(Bucket=bucket, Key="a b", Body=b"space")
    s3.put_object(Bucket=bucket, Key="a+b", Body=b"plus")
    upload = s3.create_multipart_upload(Bucket=bucket, Key="parts")["UploadId"]
    source = {}

    def exactly(params, **_):
        params["headers"]["x-amz-copy-source"] = source["header"]

    s3.meta.events.register("before-call.s3.CopyObject", exactly)
    s3.meta.events.register("before-call.s3.UploadPartCopy", exactly)
    for written, body in [("a+b", b"space"), ("a%20b", b"space"), ("a%2Bb", b"plus")]:
        source["header"] = f"{bucket}/{written}"
        s3.copy_object(Bucket=bucket, Key="copy", CopySource="replaced/above")
        assert read_body(s3, bucket, "copy") == body, written
        part = {"Bucket": bucket, "Key": "parts", "UploadId": upload, "PartNumber": 1}
        etag = s3.upload_part_copy(**part, CopySource="replaced/above")["CopyPartResult"]["ETag"]
        assert etag == f'"{md5(body)}"', written


def test_an_empty_body_is_expected_too(shared, bucket):
    """botocore keeps the status of an answer without a 100 for the next request of the connection, which then hangs."""
    url = shared.client().generate_presigned_url("put_object", Params={"Bucket": bucket, "Key": "empty"})
    target = url.removeprefix(shared.endpoint)
    head = f"PUT {target} HTTP/1.1\r\nHost: 127.0.0.1:{shared.port}\r\nContent-Length: 0\r\nExpect: 100-continue\r\n\r\n"
    with socket.create_connection(("127.0.0.1", shared.port), timeout=10) as connection:
        for _ in range(2):
            connection.sendall(head.encode())
            answer = b""
            while answer.count(b"\r\n\r\n") < 2:
                piece = connection.recv(4096)
                assert piece, answer
                answer += piece
            assert answer.startswith(b"HTTP/1.1 100 Continue\r\n\r\nHTTP/1.1 200 OK\r\n"), answer


def test_headers_in_the_query_of_a_presigned_url_are_no_subresources(shared, bucket):
    """The AWS SDK for JavaScript 2 writes the headers of its call there."""
    s3 = shared.client()

    def add(request, **_):
        request.params.update({"Content-Type": "text/plain", "Cache-Control": "no-cache", "Content-MD5": "x"})

    s3.meta.events.register("before-sign.s3.PutObject", add)
    url = s3.generate_presigned_url("put_object", Params={"Bucket": bucket, "Key": "k"})
    assert "Content-Type=text%2Fplain" in url
    answer = urllib3.request("PUT", url, body=b"body", headers={"Content-Type": "text/html"})
    assert answer.status == 200, answer.data
    assert read_body(s3, bucket, "k") == b"body"
    assert s3.head_object(Bucket=bucket, Key="k")["ContentType"] == "text/html"


def test_copy_mistakes_have_the_codes_of_s3(s3, bucket):
    tag = s3.put_object(Bucket=bucket, Key="k", Body=b"x")["ETag"]
    source = {"Bucket": bucket, "Key": "k"}
    with refused("InvalidRequest", 400):
        s3.copy_object(Bucket=bucket, Key="k", CopySource=source)
    with refused("NoSuchKey", 404):
        s3.copy_object(Bucket=bucket, Key="c", CopySource={"Bucket": bucket, "Key": "nothing"})
    with refused("PreconditionFailed", 412):
        s3.copy_object(Bucket=bucket, Key="c", CopySource=source, CopySourceIfNoneMatch=tag)
    with refused("PreconditionFailed", 412):
        s3.copy_object(Bucket=bucket, Key="c", CopySource=source, CopySourceIfMatch='"no"')
    s3.copy_object(Bucket=bucket, Key="c", CopySource=source, CopySourceIfMatch=tag)
    s3.copy_object(Bucket=bucket, Key="k", CopySource=source, MetadataDirective="REPLACE", Metadata={"again": "1"})
    assert s3.head_object(Bucket=bucket, Key="k")["Metadata"] == {"again": "1"}


def test_get_object_attributes(s3, bucket):
    s3.put_object(Bucket=bucket, Key="k", Body=b"0123456789", ChecksumAlgorithm="SHA256")
    answer = s3.get_object_attributes(
        Bucket=bucket, Key="k", ObjectAttributes=["ETag", "ObjectSize", "StorageClass", "Checksum", "ObjectParts"]
    )
    assert answer["ObjectSize"] == 10
    assert re.fullmatch("[0-9a-f]{32}", answer["ETag"]), "as S3: without quotes here"
    assert answer["StorageClass"] == "STANDARD"
    assert answer["Checksum"]["ChecksumSHA256"]


def test_an_object_may_carry_tags_that_copies_keep(s3, bucket):
    s3.put_object(Bucket=bucket, Key="k", Body=b"x", Tagging="team=blue&kind=log")
    assert s3.head_object(Bucket=bucket, Key="k").get("TagCount", 2) == 2


def test_if_match_star_asks_for_any_object_to_be_there(s3, bucket):
    with refused("NoSuchKey", 404):
        s3.put_object(Bucket=bucket, Key="k", Body=b"new", IfMatch="*")
    s3.put_object(Bucket=bucket, Key="k", Body=b"first")
    s3.put_object(Bucket=bucket, Key="k", Body=b"second", IfMatch="*")
    assert read_body(s3, bucket, "k") == b"second"
    s3.delete_object(Bucket=bucket, Key="k", IfMatch="*")
    with refused(("NoSuchKey", "404"), 404):
        s3.head_object(Bucket=bucket, Key="k")
