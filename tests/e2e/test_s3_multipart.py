"""Multipart uploads: the whole set of operations, their order rules, checksums and leftovers."""

import hashlib

import pytest

from harness import read_body
from s3util import FIELD, MIB, digest, md5, refused, send, upload

PART = 5 * MIB


def combined_etag(bodies):
    joined = b"".join(hashlib.md5(b).digest() for b in bodies)
    return f'"{hashlib.md5(joined).hexdigest()}-{len(bodies)}"'


def test_parts_in_any_order_make_the_object(s3, bucket, rng):
    bodies = {7: rng.randbytes(PART), 2: rng.randbytes(PART + 11), 9: rng.randbytes(3)}
    begun = s3.create_multipart_upload(Bucket=bucket, Key="k", ContentType="text/m", Metadata={"x": "y"})
    tags = {}
    for number in (9, 2, 7):
        answer = s3.upload_part(
            Bucket=bucket, Key="k", UploadId=begun["UploadId"], PartNumber=number, Body=bodies[number]
        )
        assert answer["ETag"] == f'"{md5(bodies[number])}"'
        tags[number] = answer["ETag"]
    with refused("NoSuchKey"):
        s3.get_object(Bucket=bucket, Key="k")
    done = s3.complete_multipart_upload(
        Bucket=bucket, Key="k", UploadId=begun["UploadId"],
        MultipartUpload={"Parts": [{"PartNumber": n, "ETag": tags[n]} for n in sorted(tags)]},
    )
    ordered = [bodies[n] for n in sorted(bodies)]
    assert done["ETag"] == combined_etag(ordered)
    got = s3.get_object(Bucket=bucket, Key="k")
    assert got["Body"].read() == b"".join(ordered)
    assert (got["ContentType"], got["Metadata"]) == ("text/m", {"x": "y"})


def test_a_part_that_is_sent_again_counts_once(s3, bucket, rng):
    begun = s3.create_multipart_upload(Bucket=bucket, Key="k")["UploadId"]
    s3.upload_part(Bucket=bucket, Key="k", UploadId=begun, PartNumber=1, Body=rng.randbytes(1000))
    second = rng.randbytes(2000)
    tag = s3.upload_part(Bucket=bucket, Key="k", UploadId=begun, PartNumber=1, Body=second)["ETag"]
    s3.complete_multipart_upload(
        Bucket=bucket, Key="k", UploadId=begun, MultipartUpload={"Parts": [{"PartNumber": 1, "ETag": tag}]}
    )
    assert read_body(s3, bucket, "k") == second


def test_only_the_named_parts_are_used(s3, bucket, rng):
    begun = s3.create_multipart_upload(Bucket=bucket, Key="k")["UploadId"]
    one, two = rng.randbytes(100), rng.randbytes(200)
    s3.upload_part(Bucket=bucket, Key="k", UploadId=begun, PartNumber=1, Body=one)
    tag = s3.upload_part(Bucket=bucket, Key="k", UploadId=begun, PartNumber=2, Body=two)["ETag"]
    s3.complete_multipart_upload(
        Bucket=bucket, Key="k", UploadId=begun, MultipartUpload={"Parts": [{"PartNumber": 2, "ETag": tag}]}
    )
    assert read_body(s3, bucket, "k") == two


def test_completion_mistakes_have_the_codes_of_s3(s3, bucket, rng):
    begun = s3.create_multipart_upload(Bucket=bucket, Key="k")["UploadId"]
    tags = {
        n: s3.upload_part(Bucket=bucket, Key="k", UploadId=begun, PartNumber=n, Body=rng.randbytes(1000))["ETag"]
        for n in (1, 2)
    }

    def complete(parts, upload_id=begun):
        return s3.complete_multipart_upload(
            Bucket=bucket, Key="k", UploadId=upload_id,
            MultipartUpload={"Parts": [{"PartNumber": n, "ETag": t} for n, t in parts]},
        )

    with refused("InvalidPart", 400):
        complete([(1, '"00000000000000000000000000000000"')])
    with refused("InvalidPart", 400):
        complete([(1, tags[1]), (3, tags[2])])
    with refused("InvalidPartOrder", 400):
        complete([(2, tags[2]), (1, tags[1])])
    with refused("EntityTooSmall", 400):
        complete([(1, tags[1]), (2, tags[2])])
    with refused("NoSuchUpload", 404):
        complete([(1, tags[1])], upload_id="no-such-upload")
    with refused("MalformedXML", 400):
        complete([])
    complete([(2, tags[2])])


def test_part_numbers_end_at_ten_thousand(s3, bucket):
    begun = s3.create_multipart_upload(Bucket=bucket, Key="k")["UploadId"]
    s3.upload_part(Bucket=bucket, Key="k", UploadId=begun, PartNumber=10_000, Body=b"x")
    for number in (0, 10_001):
        with refused("InvalidArgument", 400):
            s3.upload_part(Bucket=bucket, Key="k", UploadId=begun, PartNumber=number, Body=b"x")


def test_parts_are_listed_by_pages(s3, bucket):
    begun = s3.create_multipart_upload(Bucket=bucket, Key="k")["UploadId"]
    for number in range(1, 12):
        s3.upload_part(Bucket=bucket, Key="k", UploadId=begun, PartNumber=number, Body=b"x" * number)
    seen, marker = [], 0
    for _ in range(10):
        page = s3.list_parts(Bucket=bucket, Key="k", UploadId=begun, MaxParts=4, PartNumberMarker=marker)
        seen += [(p["PartNumber"], p["Size"]) for p in page["Parts"]]
        if not page["IsTruncated"]:
            break
        marker = page["NextPartNumberMarker"]
    assert seen == [(n, n) for n in range(1, 12)]


def test_a_page_of_no_parts_is_complete(s3, bucket):
    begun = s3.create_multipart_upload(Bucket=bucket, Key="k")["UploadId"]
    s3.upload_part(Bucket=bucket, Key="k", UploadId=begun, PartNumber=1, Body=b"x")
    page = s3.list_parts(Bucket=bucket, Key="k", UploadId=begun, MaxParts=0)
    assert (page.get("Parts"), page["IsTruncated"]) == (None, False)


def test_uploads_are_listed_by_pages_and_abort_ends_them(s3, bucket):
    made = [(f"folder{i % 3}/k{i}", s3.create_multipart_upload(Bucket=bucket, Key=f"folder{i % 3}/k{i}")["UploadId"])
            for i in range(9)]
    again = s3.create_multipart_upload(Bucket=bucket, Key="folder0/k0")["UploadId"]
    made.append(("folder0/k0", again))
    seen, more = [], {}
    for _ in range(20):
        page = s3.list_multipart_uploads(Bucket=bucket, MaxUploads=2, **more)
        seen += [(u["Key"], u["UploadId"]) for u in page.get("Uploads", [])]
        if not page["IsTruncated"]:
            break
        more = {"KeyMarker": page["NextKeyMarker"], "UploadIdMarker": page["NextUploadIdMarker"]}
    assert sorted(seen) == sorted(made)
    assert [k for k, _ in seen] == sorted(k for k, _ in made)
    page = s3.list_multipart_uploads(Bucket=bucket, Delimiter="/")
    assert [p["Prefix"] for p in page["CommonPrefixes"]] == ["folder0/", "folder1/", "folder2/"]
    for key, upload_id in made:
        s3.abort_multipart_upload(Bucket=bucket, Key=key, UploadId=upload_id)
    assert not s3.list_multipart_uploads(Bucket=bucket).get("Uploads")
    with refused("NoSuchUpload", 404):
        s3.upload_part(Bucket=bucket, Key="folder0/k0", UploadId=again, PartNumber=1, Body=b"x")
    with refused("NoSuchUpload", 404):
        s3.list_parts(Bucket=bucket, Key="folder0/k0", UploadId=again)


def test_parts_can_be_copied_from_objects(s3, bucket, rng):
    body = rng.randbytes(12 * MIB)
    s3.put_object(Bucket=bucket, Key="source", Body=body)
    begun = s3.create_multipart_upload(Bucket=bucket, Key="k")["UploadId"]
    source = {"Bucket": bucket, "Key": "source"}
    parts = []
    for number, (start, end) in enumerate([(0, PART), (7 * MIB + 3, 12 * MIB + 0)], 1):
        answer = s3.upload_part_copy(
            Bucket=bucket, Key="k", UploadId=begun, PartNumber=number, CopySource=source,
            CopySourceRange=f"bytes={start}-{end - 1}",
        )
        assert answer["CopyPartResult"]["ETag"] == f'"{md5(body[start:end])}"'
        parts.append({"PartNumber": number, "ETag": answer["CopyPartResult"]["ETag"]})
    with refused(("InvalidRange", "InvalidArgument")):
        s3.upload_part_copy(
            Bucket=bucket, Key="k", UploadId=begun, PartNumber=3, CopySource=source,
            CopySourceRange=f"bytes=0-{len(body)}",
        )
    s3.complete_multipart_upload(Bucket=bucket, Key="k", UploadId=begun, MultipartUpload={"Parts": parts})
    assert read_body(s3, bucket, "k") == body[:PART] + body[7 * MIB + 3 :]


def test_a_part_of_a_finished_object_can_be_read_by_number(s3, bucket, rng):
    bodies = [rng.randbytes(PART), rng.randbytes(PART), rng.randbytes(77)]
    upload(s3, bucket, "k", list(enumerate(bodies, 1)))
    for number, body in enumerate(bodies, 1):
        got = s3.get_object(Bucket=bucket, Key="k", PartNumber=number)
        assert got["Body"].read() == body
        assert got["PartsCount"] == 3
    assert s3.head_object(Bucket=bucket, Key="k", PartNumber=3)["ContentLength"] == 77
    for number in (0, -1, 10_001):
        with refused("InvalidArgument", 400):
            s3.get_object(Bucket=bucket, Key="k", PartNumber=number)
    with refused("InvalidPartNumber", 416):
        s3.get_object(Bucket=bucket, Key="k", PartNumber=4)
    attributes = s3.get_object_attributes(Bucket=bucket, Key="k", ObjectAttributes=["ObjectParts", "ObjectSize"])
    assert attributes["ObjectParts"]["TotalPartsCount"] == 3
    assert attributes["ObjectSize"] == 2 * PART + 77


@pytest.mark.parametrize("algorithm", ["CRC32", "CRC32C", "SHA1", "SHA256"])
def test_part_checksums_give_a_composite_checksum(s3, bucket, rng, algorithm):
    import base64

    bodies = [rng.randbytes(PART), rng.randbytes(1000)]
    begun = s3.create_multipart_upload(Bucket=bucket, Key="k", ChecksumAlgorithm=algorithm)["UploadId"]
    parts = []
    for number, body in enumerate(bodies, 1):
        value = digest(algorithm, body)
        answer = s3.upload_part(
            Bucket=bucket, Key="k", UploadId=begun, PartNumber=number, Body=body, **{FIELD[algorithm]: value}
        )
        assert answer[FIELD[algorithm]] == value
        parts.append({"PartNumber": number, "ETag": answer["ETag"], FIELD[algorithm]: value})
    done = s3.complete_multipart_upload(Bucket=bucket, Key="k", UploadId=begun, MultipartUpload={"Parts": parts})
    whole = digest(algorithm, b"".join(base64.b64decode(digest(algorithm, b)) for b in bodies)) + "-2"
    assert done[FIELD[algorithm]] == whole
    head = s3.head_object(Bucket=bucket, Key="k", ChecksumMode="ENABLED")
    assert (head[FIELD[algorithm]], head["ChecksumType"]) == (whole, "COMPOSITE")


def test_a_wrong_part_checksum_leaves_no_part(s3, bucket):
    begun = s3.create_multipart_upload(Bucket=bucket, Key="k", ChecksumAlgorithm="SHA256")["UploadId"]
    with refused(("BadDigest", "XAmzContentChecksumMismatch"), 400):
        s3.upload_part(
            Bucket=bucket, Key="k", UploadId=begun, PartNumber=1, Body=b"right", ChecksumSHA256=digest("SHA256", b"wrong")
        )
    assert not s3.list_parts(Bucket=bucket, Key="k", UploadId=begun).get("Parts")


def test_a_conditional_completion_loses_to_an_existing_object(s3, bucket):
    s3.put_object(Bucket=bucket, Key="k", Body=b"first")
    begun = s3.create_multipart_upload(Bucket=bucket, Key="k")["UploadId"]
    tag = s3.upload_part(Bucket=bucket, Key="k", UploadId=begun, PartNumber=1, Body=b"second")["ETag"]
    with refused("PreconditionFailed", 412):
        s3.complete_multipart_upload(
            Bucket=bucket, Key="k", UploadId=begun, IfNoneMatch="*",
            MultipartUpload={"Parts": [{"PartNumber": 1, "ETag": tag}]},
        )
    assert read_body(s3, bucket, "k") == b"first"


def test_what_contradicts_the_upload_is_an_invalid_request(s3, bucket):
    begun = s3.create_multipart_upload(
        Bucket=bucket, Key="k", ChecksumAlgorithm="CRC32", ChecksumType="FULL_OBJECT"
    )["UploadId"]
    named = {"Bucket": bucket, "Key": "k", "UploadId": begun}
    with refused("InvalidRequest", 400):
        s3.upload_part(**named, PartNumber=1, Body=b"body", ChecksumSHA1=digest("SHA1", b"body"))
    tag = s3.upload_part(**named, PartNumber=1, Body=b"body", ChecksumCRC32=digest("CRC32", b"body"))["ETag"]
    named["MultipartUpload"] = {"Parts": [{"PartNumber": 1, "ETag": tag}]}
    with refused("InvalidRequest", 400):
        s3.complete_multipart_upload(**named, ChecksumType="COMPOSITE")
    with refused("InvalidRequest", 400):
        s3.complete_multipart_upload(**named, MpuObjectSize=5)
    with refused("BadDigest", 400):
        s3.complete_multipart_upload(**named, ChecksumCRC32=digest("CRC32", b"other"))
    done = s3.complete_multipart_upload(
        **named, ChecksumType="FULL_OBJECT", MpuObjectSize=4, ChecksumCRC32=digest("CRC32", b"body")
    )
    assert (done["ChecksumCRC32"], done["ChecksumType"]) == (digest("CRC32", b"body"), "FULL_OBJECT")


def test_attributes_of_parts_come_by_pages(s3, bucket, rng):
    bodies = [rng.randbytes(PART), rng.randbytes(PART), b"end"]
    begun = s3.create_multipart_upload(Bucket=bucket, Key="k", ChecksumAlgorithm="SHA256")["UploadId"]
    parts = []
    for number, body in zip((1, 7, 10_000), bodies):
        value = digest("SHA256", body)
        tag = s3.upload_part(
            Bucket=bucket, Key="k", UploadId=begun, PartNumber=number, Body=body, ChecksumSHA256=value
        )["ETag"]
        parts.append({"PartNumber": number, "ETag": tag, "ChecksumSHA256": value})
    s3.complete_multipart_upload(Bucket=bucket, Key="k", UploadId=begun, MultipartUpload={"Parts": parts})
    seen, marker = [], 0
    while True:
        page = s3.get_object_attributes(
            Bucket=bucket, Key="k", ObjectAttributes=["ObjectParts"], MaxParts=2, PartNumberMarker=marker
        )["ObjectParts"]
        assert (page["TotalPartsCount"], page["MaxParts"], page["PartNumberMarker"]) == (3, 2, marker)
        seen += [(p["PartNumber"], p["Size"], p["ChecksumSHA256"]) for p in page["Parts"]]
        if not page["IsTruncated"]:
            break
        marker = page["NextPartNumberMarker"]
    assert seen == [(p["PartNumber"], len(b), p["ChecksumSHA256"]) for p, b in zip(parts, bodies)]


def test_an_object_of_the_type_of_forms_is_uploaded_in_parts(shared, s3, bucket):
    kind = "multipart/form-data; boundary=xyz"
    for client in [s3, shared.client(signature_version="s3")]:
        upload(client, bucket, "k", [(1, b"part")], ContentType=kind)
        got = s3.get_object(Bucket=bucket, Key="k")
        assert (got["ContentType"], got["Body"].read()) == (kind, b"part")
    status, _, _ = send(shared, "POST", f"/{bucket}/bare?uploads=", {"Content-Type": "multipart/form-data"})
    assert status == 200
    assert len(s3.list_multipart_uploads(Bucket=bucket)["Uploads"]) == 1
