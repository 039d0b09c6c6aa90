"""Conditions on writes: If-Match and If-None-Match on puts, completions, copies and deletes, in buckets with and without
versions, also while many ask at once; and the conditions on the source of a copy."""

import datetime
from concurrent.futures import ThreadPoolExecutor
from threading import Barrier

import pytest
from botocore.exceptions import ClientError

from harness import read_body
from s3util import refused, send

WRONG = '"00000000000000000000000000000000"'
RACERS = 12


@pytest.fixture(params=["unversioned", "versioned"])
def place(request, s3, bucket):
    """A bucket, with and without versions: conditions look at the current object in both."""
    if request.param == "versioned":
        s3.put_bucket_versioning(Bucket=bucket, VersioningConfiguration={"Status": "Enabled"})
    return bucket


def put(s3, bucket, key, body, **conditions):
    return s3.put_object(Bucket=bucket, Key=key, Body=body, **conditions)["ETag"]


def complete(s3, bucket, key, body, **conditions):
    upload_id = s3.create_multipart_upload(Bucket=bucket, Key=key)["UploadId"]
    part = s3.upload_part(Bucket=bucket, Key=key, UploadId=upload_id, PartNumber=1, Body=body)["ETag"]
    parts = {"Parts": [{"PartNumber": 1, "ETag": part}]}
    return s3.complete_multipart_upload(
        Bucket=bucket, Key=key, UploadId=upload_id, MultipartUpload=parts, **conditions
    )["ETag"]


def copy(s3, bucket, key, body, **conditions):
    source = f"source/{key}/{body.decode()}"
    s3.put_object(Bucket=bucket, Key=source, Body=body)
    answer = s3.copy_object(Bucket=bucket, Key=key, CopySource={"Bucket": bucket, "Key": source}, **conditions)
    return answer["CopyObjectResult"]["ETag"]


ways = pytest.mark.parametrize("write", [put, complete, copy])


@ways
def test_if_none_match_star_writes_only_where_nothing_is(s3, place, write):
    write(s3, place, "k", b"first", IfNoneMatch="*")
    with refused("PreconditionFailed", 412) as failed:
        write(s3, place, "k", b"second", IfNoneMatch="*")
    assert "If-None-Match" in failed.error.response["Error"]["Message"]
    assert read_body(s3, place, "k") == b"first"
    s3.delete_object(Bucket=place, Key="k")
    write(s3, place, "k", b"third", IfNoneMatch="*")
    assert read_body(s3, place, "k") == b"third"


@ways
def test_if_match_writes_only_over_what_the_client_knows(s3, place, write):
    etag = put(s3, place, "k", b"first")
    with refused("PreconditionFailed", 412):
        write(s3, place, "k", b"second", IfMatch=WRONG)
    assert read_body(s3, place, "k") == b"first"
    # Clients send ETags with and without quotes.
    second = write(s3, place, "k", b"second", IfMatch=etag.strip('"'))
    with refused("PreconditionFailed", 412):
        write(s3, place, "k", b"third", IfMatch=etag)
    write(s3, place, "k", b"third", IfMatch=second)
    assert read_body(s3, place, "k") == b"third"


@ways
@pytest.mark.parametrize("condition", [WRONG, "*"])
def test_if_match_where_nothing_is_finds_no_key(s3, place, write, condition):
    with refused("NoSuchKey", 404):
        write(s3, place, "k", b"body", IfMatch=condition)
    put(s3, place, "k", b"body")
    s3.delete_object(Bucket=place, Key="k")
    with refused("NoSuchKey", 404):
        write(s3, place, "k", b"body", IfMatch=condition)
    assert "Contents" not in s3.list_objects_v2(Bucket=place, Prefix="k")


@ways
def test_if_none_match_with_an_etag_writes_over_everything_else(s3, place, write):
    write(s3, place, "k", b"first", IfNoneMatch=WRONG)
    etag = s3.head_object(Bucket=place, Key="k")["ETag"]
    for condition in (etag, etag.strip('"'), f"W/{etag}", f'"other", {etag}'):
        with refused("PreconditionFailed", 412):
            write(s3, place, "k", b"never", IfNoneMatch=condition)
    assert read_body(s3, place, "k") == b"first"
    write(s3, place, "k", b"second", IfNoneMatch=WRONG)
    assert read_body(s3, place, "k") == b"second"


def test_a_completion_that_is_refused_may_be_tried_again(s3, bucket):
    etag = put(s3, bucket, "k", b"first")
    upload_id = s3.create_multipart_upload(Bucket=bucket, Key="k")["UploadId"]
    part = s3.upload_part(Bucket=bucket, Key="k", UploadId=upload_id, PartNumber=1, Body=b"second")["ETag"]
    named = {"Bucket": bucket, "Key": "k", "UploadId": upload_id}
    parts = {"Parts": [{"PartNumber": 1, "ETag": part}]}
    with refused("PreconditionFailed", 412):
        s3.complete_multipart_upload(**named, MultipartUpload=parts, IfNoneMatch="*")
    s3.complete_multipart_upload(**named, MultipartUpload=parts, IfMatch=etag)
    assert read_body(s3, bucket, "k") == b"second"


@pytest.mark.parametrize("if_match", ["etag", "*"])
def test_a_conditional_delete_deletes_only_what_it_names(s3, place, if_match):
    etag = put(s3, place, "k", b"body")
    with refused("PreconditionFailed", 412):
        s3.delete_object(Bucket=place, Key="k", IfMatch=WRONG)
    assert read_body(s3, place, "k") == b"body"
    s3.delete_object(Bucket=place, Key="k", IfMatch=etag if if_match == "etag" else "*")
    with refused("NoSuchKey", 404):
        s3.get_object(Bucket=place, Key="k")
    # Nothing is there, or a delete marker, which counts as nothing.
    for condition in (etag, WRONG, "*"):
        with refused("NoSuchKey", 404):
            s3.delete_object(Bucket=place, Key="k", IfMatch=condition)
        with refused("NoSuchKey", 404):
            s3.delete_object(Bucket=place, Key="never", IfMatch=condition)
    versions = s3.list_object_versions(Bucket=place)
    assert len(versions.get("DeleteMarkers", [])) <= 1, "a refused delete leaves no marker"


def test_delete_objects_takes_an_etag_for_each_key(s3, place):
    good, star, bad = (put(s3, place, key, key.encode()) for key in ("good", "star", "bad"))
    objects = [
        {"Key": "good", "ETag": good},
        {"Key": "star", "ETag": "*"},
        {"Key": "bad", "ETag": good},
        {"Key": "gone", "ETag": bad},
        {"Key": "unasked"},
    ]
    answer = s3.delete_objects(Bucket=place, Delete={"Objects": objects})
    assert sorted(d["Key"] for d in answer["Deleted"]) == ["good", "star", "unasked"]
    failures = {e["Key"]: e["Code"] for e in answer["Errors"]}
    assert failures == {"bad": "PreconditionFailed", "gone": "NoSuchKey"}
    assert [o["Key"] for o in s3.list_objects_v2(Bucket=place)["Contents"]] == ["bad"]


def test_a_delete_may_name_size_and_time_of_what_it_deletes(s3, place):
    put(s3, place, "k", b"body")
    when = s3.head_object(Bucket=place, Key="k")["LastModified"]
    never = datetime.datetime(2015, 1, 1, tzinfo=datetime.timezone.utc)
    for wrong in ({"IfMatchSize": 1}, {"IfMatchLastModifiedTime": never}, {"IfMatchSize": 4, "IfMatchLastModifiedTime": never}):
        with refused("PreconditionFailed", 412):
            s3.delete_object(Bucket=place, Key="k", **wrong)
    objects = [{"Key": "k", "Size": 1}, {"Key": "k", "LastModifiedTime": never}]
    answer = s3.delete_objects(Bucket=place, Delete={"Objects": objects})
    assert [e["Code"] for e in answer["Errors"]] == ["PreconditionFailed"] * 2
    assert read_body(s3, place, "k") == b"body"
    objects = [{"Key": "k", "Size": 4, "LastModifiedTime": when}, {"Key": "never", "Size": 1}]
    answer = s3.delete_objects(Bucket=place, Delete={"Objects": objects})
    assert [d["Key"] for d in answer["Deleted"]] == ["k", "never"], "of nothing they ask nothing"
    assert "Contents" not in s3.list_objects_v2(Bucket=place)
    put(s3, place, "k", b"other")
    s3.delete_object(Bucket=place, Key="k", IfMatchSize=5)
    with refused("NoSuchKey", 404):
        s3.get_object(Bucket=place, Key="k")


def race(work):
    """Runs `work(n)` for each racer at the same moment; gives who succeeded, and the codes of the others."""
    barrier = Barrier(RACERS)

    def run(number):
        barrier.wait()
        try:
            work(number)
            return number, None
        except ClientError as error:
            return number, error.response["Error"]["Code"]

    with ThreadPoolExecutor(RACERS) as pool:
        results = list(pool.map(run, range(RACERS)))
    return [n for n, code in results if code is None], [code for _, code in results if code is not None]


LOSERS = {"PreconditionFailed", "ConditionalRequestConflict"}


@ways
def test_of_twelve_writers_of_nothing_exactly_one_wins(s3, place, write):
    for attempt in range(4):
        key = f"once-{attempt}"
        winners, losers = race(lambda n: write(s3, place, key, b"racer %d" % n, IfNoneMatch="*"))
        assert len(winners) == 1, (winners, losers)
        assert set(losers) <= LOSERS, losers
        assert read_body(s3, place, key) == b"racer %d" % winners[0]
        if "Versions" in (listed := s3.list_object_versions(Bucket=place, Prefix=key)):
            assert len(listed["Versions"]) == 1


@ways
def test_of_twelve_writers_over_the_same_etag_exactly_one_wins(s3, place, write):
    etag = put(s3, place, "k", b"first")
    winners, losers = race(lambda n: write(s3, place, "k", b"racer %d" % n, IfMatch=etag))
    assert len(winners) == 1, (winners, losers)
    assert set(losers) <= LOSERS, losers
    assert read_body(s3, place, "k") == b"racer %d" % winners[0]


def test_of_twelve_conditional_deletes_exactly_one_wins(s3, place):
    etag = put(s3, place, "k", b"body")
    winners, losers = race(lambda _: s3.delete_object(Bucket=place, Key="k", IfMatch=etag))
    assert len(winners) == 1, (winners, losers)
    assert set(losers) <= LOSERS | {"NoSuchKey"}, losers
    assert len(s3.list_object_versions(Bucket=place).get("DeleteMarkers", [])) <= 1


def test_a_counter_under_if_match_loses_no_step(s3, place):
    """Each racer reads, adds one and writes back until it wins: the sum is right only when no two win over the same ETag."""
    put(s3, place, "counter", b"0")

    def add_one(_):
        for _ in range(200):
            got = s3.get_object(Bucket=place, Key="counter")
            number = int(got["Body"].read())
            try:
                put(s3, place, "counter", b"%d" % (number + 1), IfMatch=got["ETag"])
                return
            except ClientError as error:
                assert error.response["Error"]["Code"] in LOSERS, error
        raise AssertionError("never won")

    winners, losers = race(add_one)
    assert (len(winners), losers) == (RACERS, [])
    assert read_body(s3, place, "counter") == b"%d" % RACERS


@pytest.mark.parametrize("operation", ["copy_object", "upload_part_copy"])
def test_conditions_on_the_source_of_a_copy(s3, place, operation):
    etag = put(s3, place, "from", b"body")
    when = s3.head_object(Bucket=place, Key="from")["LastModified"]
    before, after = when - datetime.timedelta(hours=1), when + datetime.timedelta(hours=1)
    more = {}
    if operation == "upload_part_copy":
        more = {"UploadId": s3.create_multipart_upload(Bucket=place, Key="to")["UploadId"], "PartNumber": 1}

    def ask(**conditions):
        source = {"Bucket": place, "Key": "from"}
        getattr(s3, operation)(Bucket=place, Key="to", CopySource=source, **more, **conditions)

    holds = [
        {"CopySourceIfMatch": etag},
        {"CopySourceIfNoneMatch": WRONG},
        {"CopySourceIfModifiedSince": before},
        {"CopySourceIfUnmodifiedSince": after},
        # S3: the ETag decides, whatever the date says.
        {"CopySourceIfMatch": etag, "CopySourceIfUnmodifiedSince": before},
    ]
    for conditions in holds:
        ask(**conditions)
    fails = [
        {"CopySourceIfMatch": WRONG},
        {"CopySourceIfNoneMatch": etag},
        {"CopySourceIfModifiedSince": when},
        {"CopySourceIfUnmodifiedSince": before},
        {"CopySourceIfNoneMatch": etag, "CopySourceIfModifiedSince": before},
    ]
    for conditions in fails:
        with refused("PreconditionFailed", 412):
            ask(**conditions)


def test_a_refused_write_leaves_nothing_behind(shared, s3, bucket):
    put(s3, bucket, "k", b"first")
    body = b"x" * 300_000
    status, _, answer = send(shared, "PUT", f"/{bucket}/k", {"If-None-Match": "*"}, body)
    assert status == 412 and b"<Code>PreconditionFailed</Code>" in answer
    assert read_body(s3, bucket, "k") == b"first"
