"""Small things that clients rely on: checksums without asking, through parts and copies; parts by number; odd keys; full requests."""

import re
from concurrent.futures import ThreadPoolExecutor
from urllib.parse import quote, unquote_plus

import pytest

from harness import put_many, read_body
from s3util import FIELD, MIB, digest, md5, refused, send, upload

PART = 5 * MIB
SHORT = 40_000  # the slow and plain checksum of the tests is for short bodies


def put_plain(server, path, body):
    status, headers, answer = send(server, "PUT", path, body=body)
    assert status == 200, answer
    return headers


def test_an_object_gets_a_crc64nvme_when_nobody_asks_for_a_checksum(shared, s3, bucket, rng):
    body = rng.randbytes(SHORT)
    answer = put_plain(shared, f"/{bucket}/k", body)
    assert answer["x-amz-checksum-crc64nvme"] == digest("CRC64NVME", body)
    assert answer["x-amz-checksum-type"] == "FULL_OBJECT"
    head = s3.head_object(Bucket=bucket, Key="k", ChecksumMode="ENABLED")
    assert (head["ChecksumCRC64NVME"], head["ChecksumType"]) == (digest("CRC64NVME", body), "FULL_OBJECT")
    listed = s3.list_objects_v2(Bucket=bucket)["Contents"][0]
    assert (listed["ChecksumAlgorithm"], listed["ChecksumType"]) == (["CRC64NVME"], "FULL_OBJECT")
    s3.copy_object(Bucket=bucket, Key="copy", CopySource={"Bucket": bucket, "Key": "k"})
    assert s3.head_object(Bucket=bucket, Key="copy", ChecksumMode="ENABLED")["ChecksumCRC64NVME"] == digest("CRC64NVME", body)


def test_parts_without_checksums_make_an_object_with_one(shared, s3, bucket, rng):
    status, _, answer = send(shared, "POST", f"/{bucket}/k?uploads=")
    assert status == 200
    upload_id = re.search(rb"<UploadId>(.*)</UploadId>", answer)[1].decode()
    s3.put_object(Bucket=bucket, Key="source", Body=rng.randbytes(PART))
    body = rng.randbytes(SHORT)
    first = s3.upload_part_copy(
        Bucket=bucket, Key="k", UploadId=upload_id, PartNumber=1, CopySource={"Bucket": bucket, "Key": "source"}
    )["CopyPartResult"]
    second = put_plain(shared, f"/{bucket}/k?partNumber=2&uploadId={upload_id}", body)
    assert second["x-amz-checksum-crc64nvme"] == digest("CRC64NVME", body)
    parts = [{"PartNumber": 1, "ETag": first["ETag"]}, {"PartNumber": 2, "ETag": second["etag"]}]
    done = s3.complete_multipart_upload(Bucket=bucket, Key="k", UploadId=upload_id, MultipartUpload={"Parts": parts})
    assert done["ChecksumType"] == "FULL_OBJECT"
    again = s3.put_object(Bucket=bucket, Key="again", Body=read_body(s3, bucket, "k"), ChecksumAlgorithm="CRC64NVME")
    assert done["ChecksumCRC64NVME"] == again["ChecksumCRC64NVME"]
    attributes = s3.get_object_attributes(Bucket=bucket, Key="k", ObjectAttributes=["Checksum", "ObjectParts"])
    assert attributes["Checksum"] == {"ChecksumCRC64NVME": done["ChecksumCRC64NVME"], "ChecksumType": "FULL_OBJECT"}
    assert [p["ChecksumCRC64NVME"] for p in attributes["ObjectParts"]["Parts"]][1] == digest("CRC64NVME", body)


@pytest.mark.parametrize("algorithm", ["CRC32", "CRC32C", "CRC64NVME"])
def test_a_checksum_of_the_whole_comes_of_its_parts_and_stays_with_copies(s3, bucket, rng, algorithm):
    bodies = [rng.randbytes(PART), rng.randbytes(SHORT)]
    named = {"Bucket": bucket, "Key": "k"}
    begun = s3.create_multipart_upload(**named, ChecksumAlgorithm=algorithm, ChecksumType="FULL_OBJECT")
    assert (begun["ChecksumAlgorithm"], begun["ChecksumType"]) == (algorithm, "FULL_OBJECT")
    named["UploadId"] = begun["UploadId"]
    parts = []
    for number, body in enumerate(bodies, 1):
        part = s3.upload_part(**named, PartNumber=number, Body=body, ChecksumAlgorithm=algorithm)
        parts.append({"PartNumber": number, "ETag": part["ETag"], FIELD[algorithm]: part[FIELD[algorithm]]})
    listed = s3.list_parts(**named)
    assert (listed["ChecksumAlgorithm"], listed["ChecksumType"]) == (algorithm, "FULL_OBJECT")
    assert [p[FIELD[algorithm]] for p in listed["Parts"]] == [p[FIELD[algorithm]] for p in parts]
    uploads = s3.list_multipart_uploads(Bucket=bucket)["Uploads"]
    assert [(u["ChecksumAlgorithm"], u["ChecksumType"]) for u in uploads] == [(algorithm, "FULL_OBJECT")]
    done = s3.complete_multipart_upload(**named, MultipartUpload={"Parts": parts}, ChecksumType="FULL_OBJECT")
    again = s3.put_object(Bucket=bucket, Key="again", Body=b"".join(bodies), ChecksumAlgorithm=algorithm)
    assert (done[FIELD[algorithm]], done["ChecksumType"]) == (again[FIELD[algorithm]], "FULL_OBJECT")
    copied = s3.copy_object(Bucket=bucket, Key="copy", CopySource={"Bucket": bucket, "Key": "k"})["CopyObjectResult"]
    assert (copied[FIELD[algorithm]], copied["ChecksumType"]) == (done[FIELD[algorithm]], "FULL_OBJECT")
    other = s3.copy_object(
        Bucket=bucket, Key="other", CopySource={"Bucket": bucket, "Key": "k"}, ChecksumAlgorithm="SHA256"
    )["CopyObjectResult"]
    assert (other["ChecksumSHA256"], other["ChecksumType"]) == (digest("SHA256", b"".join(bodies)), "FULL_OBJECT")


def test_a_part_of_an_object_says_where_it_lies(shared, s3, bucket, rng):
    bodies = [rng.randbytes(PART), rng.randbytes(321)]
    upload(s3, bucket, "k", [(3, bodies[0]), (9, bodies[1])])
    s3.put_object(Bucket=bucket, Key="single", Body=b"0123456789")
    s3.put_object(Bucket=bucket, Key="empty", Body=b"")
    size, cases = PART + 321, []
    cases.append(("k", 3, 206, f"bytes 0-{PART - 1}/{size}", "2"))
    cases.append(("k", 9, 206, f"bytes {PART}-{size - 1}/{size}", "2"))
    cases.append(("single", 1, 206, "bytes 0-9/10", None))
    cases.append(("empty", 1, 200, None, None))
    for key, number, status, span, count in cases:
        for method in ("GET", "HEAD"):
            got, headers, _ = send(shared, method, f"/{bucket}/{key}?partNumber={number}")
            assert (got, headers.get("content-range"), headers.get("x-amz-mp-parts-count")) == (status, span, count)
    for key, number in [("k", 1), ("single", 2)]:
        with refused(("InvalidPartNumber", "416"), 416):
            s3.head_object(Bucket=bucket, Key=key, PartNumber=number)
    with refused("InvalidRequest", 400):
        s3.get_object(Bucket=bucket, Key="k", PartNumber=3, Range="bytes=0-1")


def test_attributes_of_an_object_of_one_piece_and_their_mistakes(s3, bucket):
    tag = s3.put_object(Bucket=bucket, Key="k", Body=b"x", StorageClass="STANDARD")["ETag"]
    answer = s3.get_object_attributes(Bucket=bucket, Key="k", ObjectAttributes=["ETag", "ObjectParts", "StorageClass"])
    assert (answer["ETag"], answer["StorageClass"]) == (tag.strip('"'), "STANDARD")
    assert "ObjectParts" not in answer and "ObjectSize" not in answer and "Checksum" not in answer
    with refused("InvalidArgument", 400):
        s3.get_object_attributes(Bucket=bucket, Key="k", ObjectAttributes=["Colour"])
    with refused("NoSuchKey", 404):
        s3.get_object_attributes(Bucket=bucket, Key="nothing", ObjectAttributes=["ETag"])


def test_the_announced_size_of_a_whole_is_compared(s3, bucket):
    begun = s3.create_multipart_upload(Bucket=bucket, Key="k")["UploadId"]
    tag = s3.upload_part(Bucket=bucket, Key="k", UploadId=begun, PartNumber=1, Body=b"12345")["ETag"]
    named = {"Bucket": bucket, "Key": "k", "UploadId": begun}
    named["MultipartUpload"] = {"Parts": [{"PartNumber": 1, "ETag": tag}]}
    with refused("InvalidRequest", 400):
        s3.complete_multipart_upload(**named, MpuObjectSize=6)
    s3.complete_multipart_upload(**named, MpuObjectSize=5)
    assert read_body(s3, bucket, "k") == b"12345"


ODD = [".", "..", "a/./b", "a/../b", "//", "a//", " ", " a ", "+", "a%2Fb", "%", "?", "#", "\t", "a\nb", "\x01\x1f", "\x7f",
       "é", "e\u0301", "\u2028", "🔑" * 256, "a" * 1023 + "/"]


@pytest.mark.parametrize("key", ODD, ids=lambda k: ascii(k)[:20])
def test_odd_keys_are_kept_listed_and_deleted(shared, s3, bucket, key):
    # boto3 makes another key of some of these paths.
    path = f"/{bucket}/{quote(key)}"
    put_plain(shared, path, b"odd")
    assert send(shared, "GET", path)[2] == b"odd"
    for more in ("", "&list-type=2"):
        status, _, page = send(shared, "GET", f"/{bucket}?encoding-type=url{more}")
        (shown,) = re.findall(rb"<Key>(.*?)</Key>", page, re.S)
        assert (status, unquote_plus(shown.decode())) == (200, key)
    assert [o["Key"] for o in s3.list_objects_v2(Bucket=bucket)["Contents"]] == [key]
    assert [o["Key"] for o in s3.list_objects_v2(Bucket=bucket, Prefix=key)["Contents"]] == [key]
    assert send(shared, "DELETE", path)[0] == 204
    assert send(shared, "GET", path)[0] == 404


def test_a_bucket_of_deep_prefixes_is_walked_level_by_level(s3, bucket):
    deep = "d/" * 500 + "leaf"
    put_many(s3, bucket, {deep: b"x", "d/" * 250 + "twig": b"y"})
    prefix, levels = "", 0
    while True:
        page = s3.list_objects_v2(Bucket=bucket, Prefix=prefix, Delimiter="/")
        if "CommonPrefixes" not in page:
            break
        assert [o["Key"] for o in page.get("Contents", [])] == ([prefix + "twig"] if levels == 250 else [])
        (prefix,), levels = [p["Prefix"] for p in page["CommonPrefixes"]], levels + 1
    assert (levels, [o["Key"] for o in page["Contents"]]) == (500, [deep])


def test_a_thousand_keys_are_deleted_by_one_request(s3, bucket):
    keys = [f"many/{n:04}" for n in range(1000)]
    put_many(s3, bucket, {key: b"x" for key in keys})
    answer = s3.delete_objects(Bucket=bucket, Delete={"Objects": [{"Key": key} for key in keys]})
    assert [d["Key"] for d in answer["Deleted"]] == keys and "Errors" not in answer
    assert "Contents" not in s3.list_objects_v2(Bucket=bucket)


def test_uploads_are_listed_with_every_parameter_together(s3, bucket):
    made = {}
    for key in ("a/1", "a/2", "b/x/1", "b/x/2", "b/y", "ü +"):
        made.setdefault(key, []).append(s3.create_multipart_upload(Bucket=bucket, Key=key)["UploadId"])
    made["a/1"].append(s3.create_multipart_upload(Bucket=bucket, Key="a/1")["UploadId"])

    def page(**more):
        found = s3.list_multipart_uploads(Bucket=bucket, **more)
        uploads = [(u["Key"], u["UploadId"]) for u in found.get("Uploads", [])]
        return uploads, [p["Prefix"] for p in found.get("CommonPrefixes", [])], found

    first, second = made["a/1"]
    uploads, prefixes, found = page(Prefix="b/", Delimiter="/", MaxUploads=1)
    assert (uploads, prefixes, found["IsTruncated"], found["NextKeyMarker"]) == ([], ["b/x/"], True, "b/x/")
    uploads, prefixes, found = page(Prefix="b/", Delimiter="/", MaxUploads=1, KeyMarker="b/x/")
    assert (uploads, prefixes, found["IsTruncated"]) == ([("b/y", made["b/y"][0])], [], False)
    assert page(KeyMarker="a/1", UploadIdMarker=first, MaxUploads=1)[0] == [("a/1", second)]
    assert page(KeyMarker="a/1", MaxUploads=1)[0] == [("a/2", made["a/2"][0])]
    uploads, _, found = page(Prefix="ü", EncodingType="url")
    assert uploads == [("%C3%BC%20%2B", made["ü +"][0])] and found["Prefix"] == "%C3%BC"
    uploads, prefixes, found = page(MaxUploads=0)
    assert (uploads, prefixes, found["IsTruncated"]) == ([], [], False)
    with refused("InvalidArgument", 400):
        page(MaxUploads=-1)


def test_an_empty_object_is_an_object(shared, s3, bucket):
    tag = s3.put_object(Bucket=bucket, Key="empty", Body=b"")["ETag"]
    assert tag == f'"{md5(b"")}"' and read_body(s3, bucket, "empty") == b""
    status, headers, _ = send(shared, "GET", f"/{bucket}/empty")
    assert (status, headers["content-length"]) == (200, "0")
    with refused("InvalidRange", 416):
        s3.get_object(Bucket=bucket, Key="empty", Range="bytes=0-0")
    upload(s3, bucket, "of-parts", [(1, b"")])
    assert s3.head_object(Bucket=bucket, Key="of-parts")["ContentLength"] == 0
    s3.copy_object(Bucket=bucket, Key="copy", CopySource={"Bucket": bucket, "Key": "empty"})
    assert s3.head_object(Bucket=bucket, Key="copy")["ETag"] == tag


@pytest.mark.slow
def test_ten_thousand_parts_are_listed_by_pages_and_aborted_at_once(gateway):
    server = gateway().start()
    client = server.client(max_pool_connections=16)
    client.create_bucket(Bucket="data")
    named = {"Bucket": "data", "Key": "k", "UploadId": client.create_multipart_upload(Bucket="data", Key="k")["UploadId"]}

    def put(number):
        return client.upload_part(**named, PartNumber=number, Body=b"%d" % number)["ETag"]

    with ThreadPoolExecutor(16) as pool:
        tags = list(pool.map(put, range(1, 10_001)))
    seen, marker = [], 0
    while True:
        page = client.list_parts(**named, PartNumberMarker=marker)
        seen += [(p["PartNumber"], p["ETag"]) for p in page["Parts"]]
        if not page["IsTruncated"]:
            break
        marker = page["NextPartNumberMarker"]
    assert seen == list(enumerate(tags, 1))
    parts = [{"PartNumber": number, "ETag": tag} for number, tag in seen]
    with refused("EntityTooSmall", 400):
        client.complete_multipart_upload(**named, MultipartUpload={"Parts": parts})
    client.abort_multipart_upload(**named)
    with refused("NoSuchUpload", 404):
        client.list_parts(**named)
