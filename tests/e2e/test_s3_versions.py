"""Versions of objects: enabling and suspending, null versions, delete markers, listing, and every operation that takes a
version."""

import xml.etree.ElementTree as ET
from concurrent.futures import ThreadPoolExecutor
from urllib.parse import unquote

import pytest
import urllib3

from harness import DAY, read_body, wait_until
from s3util import refused, send, upload
from settings import policy

UNKNOWN = "0123456789abcdef0123456789abcdef"


def versioning(s3, bucket, status):
    s3.put_bucket_versioning(Bucket=bucket, VersioningConfiguration={"Status": status})


@pytest.fixture
def versioned(s3, bucket):
    versioning(s3, bucket, "Enabled")
    return bucket


def put(s3, bucket, body, key="k", **more):
    return s3.put_object(Bucket=bucket, Key=key, Body=body, **more).get("VersionId")


SPACE = "{http://s3.amazonaws.com/doc/2006-03-01/}"


def listed(s3, bucket, **more):
    """[(key, version id, is latest, is a marker)] in the order of the document, which client libraries do not show."""
    url = s3.generate_presigned_url("list_object_versions", Params={"Bucket": bucket, **more})
    answer = urllib3.request("GET", url)
    assert answer.status == 200, answer.data
    found = []
    for entry in ET.fromstring(answer.data):
        if entry.tag in (f"{SPACE}Version", f"{SPACE}DeleteMarker"):
            key, version, latest = (entry.findtext(f"{SPACE}{name}") for name in ("Key", "VersionId", "IsLatest"))
            found.append((unquote(key), version, latest == "true", entry.tag.endswith("DeleteMarker")))
    return found


# --- the setting of a bucket ---


def test_a_bucket_is_versioned_when_it_is_asked_for(s3, bucket):
    assert "Status" not in s3.get_bucket_versioning(Bucket=bucket)
    for status in ("Enabled", "Suspended", "Suspended", "Enabled", "Enabled"):
        versioning(s3, bucket, status)
        answer = s3.get_bucket_versioning(Bucket=bucket)
        assert answer["Status"] == status
        assert "MFADelete" not in answer


def test_versioning_may_be_suspended_before_it_was_ever_enabled(s3, bucket):
    versioning(s3, bucket, "Suspended")
    assert s3.get_bucket_versioning(Bucket=bucket)["Status"] == "Suspended"


def test_mistakes_about_versioning_have_the_codes_of_s3(shared, s3, bucket):
    for call, more in ((s3.get_bucket_versioning, {}), (s3.put_bucket_versioning, {"VersioningConfiguration": {"Status": "Enabled"}})):
        with refused("NoSuchBucket", 404):
            call(Bucket=bucket + "-nowhere", **more)
    with refused("NoSuchBucket", 404):
        s3.list_object_versions(Bucket=bucket + "-nowhere")
    with refused("IllegalVersioningConfigurationException", 400):
        s3.put_bucket_versioning(Bucket=bucket, VersioningConfiguration={})
    with refused("MalformedXML", 400):
        versioning(s3, bucket, "enabled")
    with refused("AccessDenied", 403):
        s3.put_bucket_versioning(Bucket=bucket, VersioningConfiguration={"Status": "Enabled", "MFADelete": "Enabled"})
    assert "Status" not in s3.get_bucket_versioning(Bucket=bucket)
    xml = b"<VersioningConfiguration><Status>Enabled</Status></VersioningConfiguration>"
    status, _, answer = send(shared, "PUT", f"/{bucket}?versioning=", {"Content-MD5": "1B2M2Y8AsgTpgAmY7PhCfg=="}, body=xml)
    assert status == 400 and b"<Code>BadDigest</Code>" in answer, answer
    assert "Status" not in s3.get_bucket_versioning(Bucket=bucket)
    s3.put_bucket_versioning(Bucket=bucket, VersioningConfiguration={"Status": "Enabled", "MFADelete": "Disabled"})
    assert s3.get_bucket_versioning(Bucket=bucket)["Status"] == "Enabled"


def test_without_versioning_no_answer_tells_of_versions(s3, bucket):
    assert put(s3, bucket, b"1") is None
    assert "VersionId" not in upload(s3, bucket, "u", [(1, b"part")])
    copied = s3.copy_object(Bucket=bucket, Key="c", CopySource={"Bucket": bucket, "Key": "k"})
    assert "VersionId" not in copied and "CopySourceVersionId" not in copied
    for answer in (s3.head_object(Bucket=bucket, Key="k"), s3.get_object(Bucket=bucket, Key="k")):
        assert "VersionId" not in answer
    deleted = s3.delete_object(Bucket=bucket, Key="k")
    assert "VersionId" not in deleted and "DeleteMarker" not in deleted
    answer = s3.delete_objects(Bucket=bucket, Delete={"Objects": [{"Key": "c"}]})
    assert answer["Deleted"] == [{"Key": "c"}]
    with refused("404", 404) as failed:
        s3.head_object(Bucket=bucket, Key="k")
    assert failed.error.response["ResponseMetadata"]["HTTPHeaders"]["x-amz-delete-marker"] == "false"
    assert listed(s3, bucket) == [("u", "null", True, False)]


# --- writing and reading versions ---


def test_every_write_makes_a_version_that_stays(s3, versioned):
    ids = [put(s3, versioned, b"body %d" % n, Metadata={"n": str(n)}) for n in range(5)]
    assert len(set(ids)) == 5 and None not in ids
    assert listed(s3, versioned) == [("k", i, n == 0, False) for n, i in enumerate(reversed(ids))]
    current = s3.get_object(Bucket=versioned, Key="k")
    assert (current["VersionId"], current["Body"].read()) == (ids[4], b"body 4")
    for n, i in enumerate(ids):
        got = s3.get_object(Bucket=versioned, Key="k", VersionId=i)
        assert (got["VersionId"], got["Body"].read(), got["Metadata"]) == (i, b"body %d" % n, {"n": str(n)})
        head = s3.head_object(Bucket=versioned, Key="k", VersionId=i)
        assert (head["VersionId"], head["ETag"]) == (i, got["ETag"])
        part = s3.get_object(Bucket=versioned, Key="k", VersionId=i, Range="bytes=5-5")
        assert (part["VersionId"], part["Body"].read()) == (i, b"%d" % n)
    assert [o["Key"] for o in s3.list_objects_v2(Bucket=versioned)["Contents"]] == ["k"]


def test_every_way_to_write_tells_the_version(s3, versioned):
    first = put(s3, versioned, b"put")
    second = upload(s3, versioned, "k", [(1, b"upload")])["VersionId"]
    copied = s3.copy_object(Bucket=versioned, Key="k", CopySource={"Bucket": versioned, "Key": "k", "VersionId": first})
    assert copied["CopySourceVersionId"] == first
    third = copied["VersionId"]
    assert listed(s3, versioned) == [("k", third, True, False), ("k", second, False, False), ("k", first, False, False)]
    assert read_body(s3, versioned, "k") == b"put"
    assert read_body(s3, versioned, "k", VersionId=second) == b"upload"


def test_many_writers_make_a_version_each(s3, versioned):
    with ThreadPoolExecutor(8) as pool:
        ids = list(pool.map(lambda n: (n, put(s3, versioned, b"body %d" % n)), range(32)))
    assert len({i for _, i in ids}) == 32
    assert {i for _, i, _, _ in listed(s3, versioned)} == {i for _, i in ids}
    for n, i in ids:
        assert read_body(s3, versioned, "k", VersionId=i) == b"body %d" % n


def test_versions_that_are_not_there(s3, bucket):
    put(s3, bucket, b"body")

    def calls(version):
        named = {"Bucket": bucket, "Key": "k", "VersionId": version}
        yield lambda: s3.get_object(**named)
        yield lambda: s3.get_object_attributes(**named, ObjectAttributes=["ETag"])
        yield lambda: s3.get_object_tagging(**named)
        yield lambda: s3.put_object_tagging(**named, Tagging={"TagSet": []})
        yield lambda: s3.delete_object_tagging(**named)
        yield lambda: s3.restore_object(**named, RestoreRequest={"Days": 1})
        yield lambda: s3.copy_object(Bucket=bucket, Key="c", CopySource=named)

    for status in (None, "Enabled", "Suspended"):
        if status:
            versioning(s3, bucket, status)
        for call in calls(UNKNOWN):
            with refused("NoSuchVersion", 404):
                call()
        with refused("404", 404):
            s3.head_object(Bucket=bucket, Key="k", VersionId=UNKNOWN)
        with refused("NoSuchVersion", 404):
            s3.get_object(Bucket=bucket, Key="other", VersionId="null")
        for version in ("nonsense", UNKNOWN[:-1], UNKNOWN + "0", UNKNOWN[:-1] + "g", "NULL"):
            for call in calls(version):
                with refused("InvalidArgument", 400) as failed:
                    call()
                assert failed.error.response["Error"]["Message"] == "Invalid version id specified"
            with refused("400", 400):
                s3.head_object(Bucket=bucket, Key="k", VersionId=version)
            with refused("InvalidArgument", 400):
                s3.delete_object(Bucket=bucket, Key="k", VersionId=version)
    assert read_body(s3, bucket, "k", VersionId="null") == b"body"


def test_an_empty_version_id_is_none(shared, s3, bucket):
    put(s3, bucket, b"body")
    for method in ("GET", "DELETE"):
        status, _, answer = send(shared, method, f"/{bucket}/k?versionId=")
        assert status == 400 and b"<Code>InvalidArgument</Code>" in answer, answer
        assert b"Version id cannot be the empty string" in answer
    assert read_body(s3, bucket, "k") == b"body"


# --- deleting ---


def test_a_delete_hides_the_object_behind_a_marker(s3, versioned):
    first = put(s3, versioned, b"body")
    answer = s3.delete_object(Bucket=versioned, Key="k")
    assert answer["DeleteMarker"] is True and answer["ResponseMetadata"]["HTTPStatusCode"] == 204
    marker = answer["VersionId"]
    with refused("NoSuchKey", 404) as failed:
        s3.get_object(Bucket=versioned, Key="k")
    headers = failed.error.response["ResponseMetadata"]["HTTPHeaders"]
    assert (headers["x-amz-delete-marker"], headers["x-amz-version-id"]) == ("true", marker)
    with refused("404", 404) as failed:
        s3.head_object(Bucket=versioned, Key="k")
    headers = failed.error.response["ResponseMetadata"]["HTTPHeaders"]
    assert (headers["x-amz-delete-marker"], headers["x-amz-version-id"]) == ("true", marker)
    assert "Contents" not in s3.list_objects_v2(Bucket=versioned)
    assert "Contents" not in s3.list_objects(Bucket=versioned)
    assert listed(s3, versioned) == [("k", marker, True, True), ("k", first, False, False)]
    assert read_body(s3, versioned, "k", VersionId=first) == b"body"

    answer = s3.delete_object(Bucket=versioned, Key="k", VersionId=marker)
    assert (answer["DeleteMarker"], answer["VersionId"]) == (True, marker)
    assert read_body(s3, versioned, "k") == b"body"
    assert listed(s3, versioned) == [("k", first, True, False)]


def test_a_marker_can_only_be_deleted(s3, versioned):
    put(s3, versioned, b"body")
    marker = s3.delete_object(Bucket=versioned, Key="k")["VersionId"]
    named = {"Bucket": versioned, "Key": "k", "VersionId": marker}
    with refused("MethodNotAllowed", 405) as failed:
        s3.get_object(**named)
    headers = failed.error.response["ResponseMetadata"]["HTTPHeaders"]
    assert headers["x-amz-delete-marker"] == "true" and headers["allow"] == "DELETE"
    assert headers["x-amz-version-id"] == marker and "last-modified" in headers
    assert failed.error.response["Error"]["Message"] == "The specified method is not allowed against this resource."
    with refused("405", 405) as failed:
        s3.head_object(**named)
    assert failed.error.response["ResponseMetadata"]["HTTPHeaders"]["x-amz-delete-marker"] == "true"
    with refused("MethodNotAllowed", 405):
        s3.get_object_attributes(**named, ObjectAttributes=["ETag"])
    with refused("MethodNotAllowed", 405):
        s3.restore_object(**named, RestoreRequest={"Days": 1})
    with refused("InvalidRequest", 400):
        s3.copy_object(Bucket=versioned, Key="c", CopySource=named)
    with refused("NoSuchKey", 404):
        s3.copy_object(Bucket=versioned, Key="c", CopySource={"Bucket": versioned, "Key": "k"})
    with refused("NoSuchKey", 404):
        s3.get_object_attributes(Bucket=versioned, Key="k", ObjectAttributes=["ETag"])


def test_every_delete_makes_a_marker_also_of_what_was_never_there(s3, versioned):
    markers = [s3.delete_object(Bucket=versioned, Key="never")["VersionId"] for _ in range(3)]
    assert listed(s3, versioned) == [("never", m, n == 0, True) for n, m in enumerate(reversed(markers))]
    answer = s3.delete_objects(Bucket=versioned, Delete={"Objects": [{"Key": "other"}]})
    deleted = answer["Deleted"][0]
    assert (deleted["Key"], deleted["DeleteMarker"]) == ("other", True) and "VersionId" not in deleted
    assert listed(s3, versioned, Prefix="other") == [("other", deleted["DeleteMarkerVersionId"], True, True)]


def test_a_version_is_deleted_for_good(s3, versioned):
    ids = [put(s3, versioned, b"%d" % n) for n in range(4)]
    answer = s3.delete_object(Bucket=versioned, Key="k", VersionId=ids[1])
    assert answer["VersionId"] == ids[1] and "DeleteMarker" not in answer
    with refused("NoSuchVersion", 404):
        s3.get_object(Bucket=versioned, Key="k", VersionId=ids[1])
    assert read_body(s3, versioned, "k") == b"3"
    # Without the current one, the one before it is current.
    s3.delete_object(Bucket=versioned, Key="k", VersionId=ids[3])
    assert s3.get_object(Bucket=versioned, Key="k")["VersionId"] == ids[2]
    assert listed(s3, versioned) == [("k", ids[2], True, False), ("k", ids[0], False, False)]
    # Again, as a client that lost the answer does.
    answer = s3.delete_object(Bucket=versioned, Key="k", VersionId=ids[3])
    assert answer["ResponseMetadata"]["HTTPStatusCode"] == 204 and answer["VersionId"] == ids[3]
    assert s3.delete_object(Bucket=versioned, Key="never", VersionId=UNKNOWN)["VersionId"] == UNKNOWN
    for i in (ids[0], ids[2]):
        s3.delete_object(Bucket=versioned, Key="k", VersionId=i)
    assert listed(s3, versioned) == []
    with refused("NoSuchKey", 404) as failed:
        s3.get_object(Bucket=versioned, Key="k")
    assert failed.error.response["ResponseMetadata"]["HTTPHeaders"]["x-amz-delete-marker"] == "false"


def test_a_version_may_be_deleted_under_a_condition(s3, versioned):
    first = s3.put_object(Bucket=versioned, Key="k", Body=b"first")
    second = s3.put_object(Bucket=versioned, Key="k", Body=b"second")
    named = {"Bucket": versioned, "Key": "k", "VersionId": first["VersionId"]}
    with refused("PreconditionFailed", 412):
        s3.delete_object(**named, IfMatch=second["ETag"])
    assert read_body(s3, versioned, "k", VersionId=first["VersionId"]) == b"first"
    for _ in range(2):
        s3.delete_object(**named, IfMatch=first["ETag"])
    assert listed(s3, versioned) == [("k", second["VersionId"], True, False)]


def test_many_versions_are_deleted_at_once(s3, versioned):
    ids = [put(s3, versioned, b"%d" % n) for n in range(3)]
    marker = s3.delete_object(Bucket=versioned, Key="k")["VersionId"]
    put(s3, versioned, b"stays", key="other")
    objects = [{"Key": "k", "VersionId": i} for i in [*ids, marker]]
    # Twice: deleting what is gone succeeds.
    for round in range(2):
        answer = s3.delete_objects(Bucket=versioned, Delete={"Objects": objects})
        assert "Errors" not in answer
        by_id = {d["VersionId"]: d for d in answer["Deleted"]}
        assert set(by_id) == {*ids, marker}
        assert not any("DeleteMarker" in by_id[i] for i in ids)
        if round == 0:
            assert by_id[marker]["DeleteMarker"] is True and by_id[marker]["DeleteMarkerVersionId"] == marker
    assert [e[0] for e in listed(s3, versioned)] == ["other"]
    bad = s3.delete_objects(Bucket=versioned, Delete={"Objects": [{"Key": "other", "VersionId": "nonsense"}]})
    error = bad["Errors"][0]
    assert (error["Key"], error["VersionId"], error["Code"]) == ("other", "nonsense", "NoSuchVersion")
    quiet = s3.delete_objects(Bucket=versioned, Delete={"Objects": [{"Key": "other"}], "Quiet": True})
    assert "Deleted" not in quiet and "Errors" not in quiet


def test_a_bucket_with_versions_is_not_empty(s3, versioned):
    version = put(s3, versioned, b"body")
    marker = s3.delete_object(Bucket=versioned, Key="k")["VersionId"]
    with refused("BucketNotEmpty", 409):
        s3.delete_bucket(Bucket=versioned)
    s3.delete_object(Bucket=versioned, Key="k", VersionId=version)
    with refused("BucketNotEmpty", 409):
        s3.delete_bucket(Bucket=versioned)
    s3.delete_object(Bucket=versioned, Key="k", VersionId=marker)
    s3.delete_bucket(Bucket=versioned)
    s3.create_bucket(Bucket=versioned)
    assert "Status" not in s3.get_bucket_versioning(Bucket=versioned)


# --- null versions ---


def test_what_was_there_before_is_the_null_version(s3, bucket):
    put(s3, bucket, b"plain")
    versioning(s3, bucket, "Enabled")
    got = s3.get_object(Bucket=bucket, Key="k")
    assert (got["VersionId"], got["Body"].read()) == ("null", b"plain")
    second = put(s3, bucket, b"second")
    assert listed(s3, bucket) == [("k", second, True, False), ("k", "null", False, False)]
    assert read_body(s3, bucket, "k", VersionId="null") == b"plain"
    s3.delete_object(Bucket=bucket, Key="k", VersionId=second)
    assert read_body(s3, bucket, "k") == b"plain"
    answer = s3.delete_object(Bucket=bucket, Key="k", VersionId="null")
    assert answer["VersionId"] == "null"
    assert listed(s3, bucket) == []
    with refused("NoSuchKey", 404):
        s3.get_object(Bucket=bucket, Key="k")


def test_while_suspended_there_is_one_null_version(s3, bucket):
    put(s3, bucket, b"plain")
    versioning(s3, bucket, "Enabled")
    kept = put(s3, bucket, b"kept")
    versioning(s3, bucket, "Suspended")
    # S3 tells a version only where it gave one.
    assert put(s3, bucket, b"null 1") is None
    assert put(s3, bucket, b"null 2") is None
    assert listed(s3, bucket) == [("k", "null", True, False), ("k", kept, False, False)]
    assert s3.head_object(Bucket=bucket, Key="k")["VersionId"] == "null"
    assert read_body(s3, bucket, "k", VersionId="null") == b"null 2"
    assert read_body(s3, bucket, "k", VersionId=kept) == b"kept"
    assert "VersionId" not in upload(s3, bucket, "k", [(1, b"null 3")])
    assert listed(s3, bucket) == [("k", "null", True, False), ("k", kept, False, False)]
    # A marker takes the place of the null version, and is one.
    answer = s3.delete_object(Bucket=bucket, Key="k")
    assert (answer["DeleteMarker"], answer["VersionId"]) == (True, "null")
    assert listed(s3, bucket) == [("k", "null", True, True), ("k", kept, False, False)]
    with refused("404", 404) as failed:
        s3.head_object(Bucket=bucket, Key="k")
    assert failed.error.response["ResponseMetadata"]["HTTPHeaders"]["x-amz-delete-marker"] == "true"
    answer = s3.delete_objects(Bucket=bucket, Delete={"Objects": [{"Key": "k"}]})
    assert answer["Deleted"] == [{"Key": "k", "DeleteMarker": True, "DeleteMarkerVersionId": "null"}]
    assert listed(s3, bucket) == [("k", "null", True, True), ("k", kept, False, False)]
    s3.delete_object(Bucket=bucket, Key="k", VersionId="null")
    assert read_body(s3, bucket, "k") == b"kept"
    # Enabled again: the null version of the middle is a version like any other.
    put(s3, bucket, b"null 4")
    versioning(s3, bucket, "Enabled")
    last = put(s3, bucket, b"last")
    assert listed(s3, bucket) == [("k", last, True, False), ("k", "null", False, False), ("k", kept, False, False)]
    versioning(s3, bucket, "Suspended")
    assert put(s3, bucket, b"null 5") is None
    assert listed(s3, bucket) == [("k", "null", True, False), ("k", last, False, False), ("k", kept, False, False)]


def test_without_versioning_null_names_the_object(s3, bucket):
    put(s3, bucket, b"body")
    assert read_body(s3, bucket, "k", VersionId="null") == b"body"
    s3.delete_object(Bucket=bucket, Key="k", VersionId="null")
    with refused("NoSuchKey", 404):
        s3.get_object(Bucket=bucket, Key="k")
    assert s3.delete_object(Bucket=bucket, Key="k", VersionId="null")["ResponseMetadata"]["HTTPStatusCode"] == 204
    assert s3.delete_object(Bucket=bucket, Key="k", VersionId=UNKNOWN)["ResponseMetadata"]["HTTPStatusCode"] == 204


# --- copies ---


def test_an_old_version_is_brought_back_by_a_copy(s3, versioned):
    old = put(s3, versioned, b"old", ContentType="text/x", Metadata={"m": "1"})
    current = put(s3, versioned, b"new")
    source = {"Bucket": versioned, "Key": "k", "VersionId": old}
    answer = s3.copy_object(Bucket=versioned, Key="k", CopySource=source)
    assert answer["CopySourceVersionId"] == old
    got = s3.get_object(Bucket=versioned, Key="k")
    assert (got["VersionId"], got["Body"].read()) == (answer["VersionId"], b"old")
    assert (got["ContentType"], got["Metadata"]) == ("text/x", {"m": "1"})
    assert [e[1] for e in listed(s3, versioned)] == [answer["VersionId"], current, old]
    with refused("InvalidRequest", 400):
        s3.copy_object(Bucket=versioned, Key="k", CopySource={"Bucket": versioned, "Key": "k"})


def test_versions_are_copied_between_buckets_of_every_kind(s3, versioned):
    plain, target = versioned + "-plain", versioned + "-target"
    s3.create_bucket(Bucket=plain)
    s3.create_bucket(Bucket=target)
    versioning(s3, target, "Enabled")
    key = "odd key?versionId=x&+é"
    first, _ = put(s3, versioned, b"first", key=key), put(s3, versioned, b"second", key=key)
    source = {"Bucket": versioned, "Key": key, "VersionId": first}
    answer = s3.copy_object(Bucket=target, Key="k", CopySource=source)
    assert (answer["CopySourceVersionId"], "VersionId" in answer) == (first, True)
    answer = s3.copy_object(Bucket=plain, Key="k", CopySource=source)
    assert (answer["CopySourceVersionId"], "VersionId" in answer) == (first, False)
    assert read_body(s3, target, "k") == read_body(s3, plain, "k") == b"first"
    answer = s3.copy_object(Bucket=target, Key="k", CopySource={"Bucket": plain, "Key": "k"})
    assert "CopySourceVersionId" not in answer and answer["VersionId"]
    s3.delete_object(Bucket=versioned, Key=key, VersionId=first)
    assert read_body(s3, target, "k") == read_body(s3, plain, "k") == b"first"


def test_a_part_may_be_a_range_of_an_old_version(s3, versioned):
    old, _ = put(s3, versioned, b"0123456789"), put(s3, versioned, b"new")
    upload_id = s3.create_multipart_upload(Bucket=versioned, Key="u")["UploadId"]
    source = {"Bucket": versioned, "Key": "k", "VersionId": old}
    named = {"Bucket": versioned, "Key": "u", "UploadId": upload_id}
    answer = s3.upload_part_copy(**named, PartNumber=1, CopySource=source, CopySourceRange="bytes=2-5")
    assert answer["CopySourceVersionId"] == old
    parts = {"Parts": [{"PartNumber": 1, "ETag": answer["CopyPartResult"]["ETag"]}]}
    version = s3.complete_multipart_upload(**named, MultipartUpload=parts)["VersionId"]
    assert read_body(s3, versioned, "u", VersionId=version) == b"2345"
    with refused("NoSuchVersion", 404):
        s3.upload_part_copy(**named, PartNumber=1, CopySource={**source, "VersionId": UNKNOWN})


def test_conditions_look_at_the_version_that_is_named(s3, versioned):
    put(s3, versioned, b"old")
    old = s3.head_object(Bucket=versioned, Key="k")
    put(s3, versioned, b"new")
    new = s3.head_object(Bucket=versioned, Key="k")
    named = {"Bucket": versioned, "Key": "k", "VersionId": old["VersionId"]}
    assert s3.get_object(**named, IfMatch=old["ETag"])["Body"].read() == b"old"
    with refused("PreconditionFailed", 412):
        s3.get_object(**named, IfMatch=new["ETag"])
    with refused("304", 304):
        s3.get_object(**named, IfNoneMatch=old["ETag"])
    with refused("PreconditionFailed", 412):
        s3.copy_object(Bucket=versioned, Key="c", CopySource=named, CopySourceIfMatch=new["ETag"])
    s3.copy_object(Bucket=versioned, Key="c", CopySource=named, CopySourceIfMatch=old["ETag"])


def test_the_attributes_of_a_version(s3, versioned):
    old, new = put(s3, versioned, b"old one"), put(s3, versioned, b"new")
    wanted = ["ETag", "ObjectSize"]
    answer = s3.get_object_attributes(Bucket=versioned, Key="k", VersionId=old, ObjectAttributes=wanted)
    assert (answer["VersionId"], answer["ObjectSize"]) == (old, 7)
    answer = s3.get_object_attributes(Bucket=versioned, Key="k", ObjectAttributes=wanted)
    assert (answer["VersionId"], answer["ObjectSize"]) == (new, 3)


# --- listing ---


@pytest.fixture
def family(s3, versioned):
    """Keys with one to three versions and markers; [(key, version id, is latest, is a marker)]."""
    entries = []
    for key, history in (("a", "vv"), ("a/1", "v"), ("a/2", "vm"), ("b", "m"), ("b/x/1", "vmv"), ("c é+&", "v")):
        made = []
        for n, what in enumerate(history):
            if what == "v":
                made.append((put(s3, versioned, b"%d" % n, key=key), False))
            else:
                made.append((s3.delete_object(Bucket=versioned, Key=key)["VersionId"], True))
        entries += [(key, i, n == 0, is_marker) for n, (i, is_marker) in enumerate(reversed(made))]
    return entries


def test_a_listing_has_versions_and_markers_in_the_order_of_s3(s3, versioned, family):
    assert listed(s3, versioned) == family
    page = s3.list_object_versions(Bucket=versioned)
    assert (page["Name"], page["Prefix"], page["KeyMarker"], page["VersionIdMarker"]) == (versioned, "", "", "")
    assert (page["IsTruncated"], page["MaxKeys"]) == (False, 1000)
    assert "NextKeyMarker" not in page and "NextVersionIdMarker" not in page
    for version in page["Versions"]:
        head = s3.head_object(Bucket=versioned, Key=version["Key"], VersionId=version["VersionId"])
        assert (version["ETag"], version["Size"]) == (head["ETag"], head["ContentLength"])
        assert version["LastModified"].replace(microsecond=0) == head["LastModified"]
        assert version["StorageClass"] == "STANDARD" and version["Owner"]["ID"]
    for marker in page["DeleteMarkers"]:
        assert marker["Owner"]["ID"] and marker["LastModified"]
        assert not {"ETag", "Size", "StorageClass"} & set(marker)


@pytest.mark.parametrize("size", [1, 2, 3, 1000])
def test_a_listing_is_paged_between_versions_of_a_key(s3, versioned, family, size):
    seen, more = [], {}
    for _ in range(len(family) + 1):
        page = s3.list_object_versions(Bucket=versioned, MaxKeys=size, **more)
        count = len(page.get("Versions", [])) + len(page.get("DeleteMarkers", []))
        assert count == size or not page["IsTruncated"]
        seen += listed(s3, versioned, MaxKeys=size, **more)
        if not page["IsTruncated"]:
            break
        more = {"KeyMarker": page["NextKeyMarker"], "VersionIdMarker": page["NextVersionIdMarker"]}
        assert (more["KeyMarker"], more["VersionIdMarker"]) == seen[-1][:2]
    assert seen == family
    pages = s3.get_paginator("list_object_versions").paginate(Bucket=versioned, PaginationConfig={"PageSize": size})
    ids = [e["VersionId"] for page in pages for e in page.get("Versions", []) + page.get("DeleteMarkers", [])]
    assert sorted(ids) == sorted(i for _, i, _, _ in family)


def test_a_listing_is_paged_over_null_versions(s3, bucket):
    for key in ("a", "b"):
        put(s3, bucket, b"null", key=key)
    versioning(s3, bucket, "Enabled")
    expected = []
    for key in ("a", "b"):
        newer = [put(s3, bucket, b"n", key=key) for _ in range(2)]
        expected += [(key, newer[1]), (key, newer[0]), (key, "null")]
    pages = s3.get_paginator("list_object_versions").paginate(Bucket=bucket, PaginationConfig={"PageSize": 1})
    assert [(v["Key"], v["VersionId"]) for page in pages for v in page.get("Versions", [])] == expected
    after = s3.list_object_versions(Bucket=bucket, KeyMarker="a", VersionIdMarker="null")
    assert [v["Key"] for v in after["Versions"]] == ["b"] * 3


def test_a_listing_takes_prefix_delimiter_and_key_marker(s3, versioned, family):
    assert listed(s3, versioned, Prefix="a/") == [e for e in family if e[0].startswith("a/")]
    page = s3.list_object_versions(Bucket=versioned, Delimiter="/")
    assert [p["Prefix"] for p in page["CommonPrefixes"]] == ["a/", "b/"]
    assert page["Delimiter"] == "/"
    assert listed(s3, versioned, Delimiter="/") == [e for e in family if "/" not in e[0]]
    page = s3.list_object_versions(Bucket=versioned, Prefix="b/", Delimiter="/")
    assert [p["Prefix"] for p in page["CommonPrefixes"]] == ["b/x/"] and "Versions" not in page
    assert listed(s3, versioned, KeyMarker="a/1") == [e for e in family if e[0] > "a/1"]
    assert listed(s3, versioned, KeyMarker="b/", Delimiter="/") == [e for e in family if e[0] > "b/" and "/" not in e[0]]
    assert listed(s3, versioned, KeyMarker="zzz") == []
    # Through pages that end with a common prefix as well.
    keys, prefixes, more = [], [], {}
    for _ in range(20):
        page = s3.list_object_versions(Bucket=versioned, Delimiter="/", MaxKeys=1, **more)
        keys += [e["Key"] for e in page.get("Versions", []) + page.get("DeleteMarkers", [])]
        prefixes += [p["Prefix"] for p in page.get("CommonPrefixes", [])]
        if not page["IsTruncated"]:
            break
        more = {"KeyMarker": page["NextKeyMarker"]}
        if "NextVersionIdMarker" in page:
            more["VersionIdMarker"] = page["NextVersionIdMarker"]
    assert (keys, prefixes) == ([e[0] for e in family if "/" not in e[0]], ["a/", "b/"])


def test_a_listing_of_no_keys_and_one_with_encoded_keys(shared, s3, versioned, family):
    page = s3.list_object_versions(Bucket=versioned, MaxKeys=0)
    assert (page["IsTruncated"], page["MaxKeys"]) == (False, 0)
    assert "Versions" not in page and "DeleteMarkers" not in page
    status, _, body = send(shared, "GET", f"/{versioned}?encoding-type=url&prefix=c%20&versions=")
    assert status == 200 and b"<Key>c%20%C3%A9%2B%26</Key>" in body and b"<Prefix>c%20</Prefix>" in body
    assert b"<EncodingType>url</EncodingType>" in body


def test_mistakes_in_a_listing_have_the_codes_of_s3(shared, s3, versioned):
    put(s3, versioned, b"body")
    cases = [
        (f"/{versioned}?version-id-marker={UNKNOWN}&versions=", b"A version-id marker cannot be specified without a key marker."),
        (f"/{versioned}?key-marker=k&version-id-marker=nonsense&versions=", b"Invalid version id specified"),
        (f"/{versioned}?key-marker=k&version-id-marker=&versions=", b"A version-id marker cannot be empty."),
        (f"/{versioned}?max-keys=-1&versions=", b"max-keys"),
        (f"/{versioned}?encoding-type=base64&versions=", b"encoding-type"),
    ]
    for path, message in cases:
        status, _, answer = send(shared, "GET", path)
        assert status == 400 and b"<Code>InvalidArgument</Code>" in answer and message in answer, (path, answer)
    assert listed(s3, versioned, KeyMarker="k", VersionIdMarker=UNKNOWN) is not None


# --- over time ---


def test_versions_outlive_a_kill(gateway):
    server = gateway().start()
    client = server.client()
    client.create_bucket(Bucket="data")
    put(client, "data", b"null")
    versioning(client, "data", "Enabled")
    first, second = put(client, "data", b"first"), put(client, "data", b"second")
    marker = client.delete_object(Bucket="data", Key="k")["VersionId"]
    expected = [("k", marker, True, True), ("k", second, False, False), ("k", first, False, False), ("k", "null", False, False)]
    assert listed(client, "data") == expected
    server.kill()
    server.start()
    assert listed(client, "data") == expected
    assert client.get_bucket_versioning(Bucket="data")["Status"] == "Enabled"
    for version, body in ((first, b"first"), (second, b"second"), ("null", b"null")):
        assert read_body(client, "data", "k", VersionId=version) == body


def test_a_version_is_restored_by_its_id(sim, gateway):
    """An old version in an archive class comes back without the current one, and its answers say so."""
    server = gateway(sim=sim).start()
    client = server.client()
    client.create_bucket(Bucket="data")
    versioning(client, "data", "Enabled")
    old = put(client, "data", b"old" * 1000, StorageClass="GLACIER")
    new = put(client, "data", b"new" * 1000)

    def head(version):
        return client.head_object(Bucket="data", Key="k", VersionId=version)

    def archived():
        try:
            client.get_object(Bucket="data", Key="k", VersionId=old)
        except client.exceptions.InvalidObjectState:
            return True
        return False

    wait_until("the old version to be archived", archived)
    assert head(old)["StorageClass"] == "GLACIER" and "StorageClass" not in head(new)
    versions = {v["VersionId"]: v["StorageClass"] for v in client.list_object_versions(Bucket="data")["Versions"]}
    assert versions == {old: "GLACIER", new: "STANDARD"}
    asked = {"Days": 3, "GlacierJobParameters": {"Tier": "Expedited"}}
    with refused("InvalidObjectState", 403):
        client.restore_object(Bucket="data", Key="k", RestoreRequest=asked)
    answer = client.restore_object(Bucket="data", Key="k", VersionId=old, RestoreRequest=asked)
    assert answer["ResponseMetadata"]["HTTPStatusCode"] == 202
    # How far it is, is for the simulator to say.
    assert "ongoing-request=" in head(old)["Restore"] and "Restore" not in head(new)
    shown = client.list_object_versions(Bucket="data", OptionalObjectAttributes=["RestoreStatus"])["Versions"]
    assert {v["VersionId"]: "RestoreStatus" in v for v in shown} == {old: True, new: False}
    server.advance(DAY)
    wait_until("the old version to be restored", lambda: 'ongoing-request="false"' in head(old)["Restore"])
    assert read_body(client, "data", "k", VersionId=old) == b"old" * 1000
    assert read_body(client, "data", "k") == b"new" * 1000


def test_versions_in_the_tier_are_read_copied_and_deleted_each_by_its_id(sim, gateway, rng):
    """Each was moved while it was the latest: what follows it does not touch its remote copy."""
    server = gateway(sim=sim, policy=policy("data", ia_after="30d", archive_after="3000d")).start()
    client = server.client()
    client.create_bucket(Bucket="data")
    versioning(client, "data", "Enabled")
    bodies, ids = [rng.randbytes(50_000) for _ in range(3)], []

    def classes():
        return [v["StorageClass"] for v in client.list_object_versions(Bucket="data")["Versions"]]

    for body in bodies:
        ids.append(put(client, "data", body))
        server.advance(31 * DAY)
        wait_until("the version to be in the tier", lambda: classes() == ["STANDARD_IA"] * len(ids))
    marker = client.delete_object(Bucket="data", Key="k")["VersionId"]
    server.lose_local_packs()
    for version, body in zip(ids, bodies):
        assert read_body(client, "data", "k", VersionId=version) == body
    client.delete_object(Bucket="data", Key="k", VersionId=marker)
    source = {"Bucket": "data", "Key": "k", "VersionId": ids[0]}
    ids.append(client.copy_object(Bucket="data", Key="k", CopySource=source, StorageClass="STANDARD_IA")["VersionId"])
    assert read_body(client, "data", "k") == bodies[0]
    server.lose_local_packs()
    assert read_body(client, "data", "k") == bodies[0]
    for version in ids:
        client.delete_object(Bucket="data", Key="k", VersionId=version)
    assert listed(client, "data") == []
