"""Checksums, Content-MD5, signatures, presigned URLs: what must be verified before anything is stored."""

import base64
import hashlib
import http.client
import zlib

import pytest
import requests
from botocore.exceptions import ClientError

from harness import ACCESS_KEY, read_body
from s3util import ALGORITHMS, FIELD, MIB, digest, refused, send, send_half, signed_headers


@pytest.mark.parametrize("algorithm", ALGORITHMS)
def test_a_checksum_in_a_header_is_verified_kept_and_returned(s3, bucket, rng, algorithm):
    body = rng.randbytes(20_000)
    value = digest(algorithm, body)
    put = s3.put_object(Bucket=bucket, Key="k", Body=body, **{FIELD[algorithm]: value})
    assert put[FIELD[algorithm]] == value
    got = s3.get_object(Bucket=bucket, Key="k", ChecksumMode="ENABLED")
    assert got[FIELD[algorithm]] == value
    assert got["Body"].read() == body
    head = s3.head_object(Bucket=bucket, Key="k", ChecksumMode="ENABLED")
    assert head[FIELD[algorithm]] == value
    attributes = s3.get_object_attributes(Bucket=bucket, Key="k", ObjectAttributes=["Checksum"])
    assert attributes["Checksum"][FIELD[algorithm]] == value


@pytest.mark.parametrize("algorithm", ALGORITHMS)
def test_a_wrong_checksum_in_a_header_leaves_no_object(s3, bucket, algorithm):
    with refused(("BadDigest", "XAmzContentChecksumMismatch"), 400):
        s3.put_object(Bucket=bucket, Key="k", Body=b"right", **{FIELD[algorithm]: digest(algorithm, b"wrong")})
    with refused("NoSuchKey"):
        s3.get_object(Bucket=bucket, Key="k")


def chunked(body, pieces, trailer=None):
    """An aws-chunked body with unsigned chunks and, if given, a trailer line."""
    out, size = b"", max(1, len(body) // pieces)
    for start in range(0, len(body), size):
        piece = body[start : start + size]
        out += b"%x\r\n" % len(piece) + piece + b"\r\n"
    return out + b"0\r\n" + (trailer.encode() + b"\r\n" if trailer else b"") + b"\r\n"


def put_with_trailer(shared, bucket, body, algorithm, value):
    name = f"x-amz-checksum-{algorithm.lower()}"
    headers = {"Content-Encoding": "aws-chunked", "x-amz-decoded-content-length": str(len(body)), "x-amz-trailer": name}
    sent = chunked(body, 3, f"{name}:{value}")
    return send(shared, "PUT", f"/{bucket}/trailed", headers, sent, payload="STREAMING-UNSIGNED-PAYLOAD-TRAILER")


@pytest.mark.parametrize("algorithm", ALGORITHMS)
def test_a_checksum_in_a_trailer_is_verified_and_kept(shared, s3, bucket, rng, algorithm):
    body = rng.randbytes(50_000)
    status, _, text = put_with_trailer(shared, bucket, body, algorithm, digest(algorithm, body))
    assert status == 200, text
    got = s3.get_object(Bucket=bucket, Key="trailed", ChecksumMode="ENABLED")
    assert got["Body"].read() == body
    assert got[FIELD[algorithm]] == digest(algorithm, body)
    assert "aws-chunked" not in got.get("ContentEncoding", "")


@pytest.mark.parametrize("algorithm", ALGORITHMS)
def test_a_wrong_checksum_in_a_trailer_leaves_no_object(shared, s3, bucket, algorithm):
    status, _, text = put_with_trailer(shared, bucket, b"right" * 1000, algorithm, digest(algorithm, b"wrong"))
    assert status == 400, text
    with refused("NoSuchKey"):
        s3.get_object(Bucket=bucket, Key="trailed")


@pytest.mark.parametrize("algorithm", ["CRC32", "CRC32C", "SHA1", "SHA256"])
def test_a_client_library_computes_each_algorithm_that_it_knows(s3, bucket, rng, algorithm):
    body = rng.randbytes(3 * MIB)
    put = s3.put_object(Bucket=bucket, Key="k", Body=body, ChecksumAlgorithm=algorithm)
    assert put[FIELD[algorithm]] == digest(algorithm, body)
    assert s3.get_object(Bucket=bucket, Key="k", ChecksumMode="ENABLED")["Body"].read() == body


def test_content_md5_is_verified(s3, bucket):
    good = base64.b64encode(hashlib.md5(b"body").digest()).decode()
    s3.put_object(Bucket=bucket, Key="good", Body=b"body", ContentMD5=good)
    with refused("BadDigest", 400):
        s3.put_object(Bucket=bucket, Key="bad", Body=b"other", ContentMD5=good)
    with refused("InvalidDigest", 400):
        s3.put_object(Bucket=bucket, Key="bad", Body=b"other", ContentMD5="not base64 of 16 bytes")
    with refused("NoSuchKey"):
        s3.get_object(Bucket=bucket, Key="bad")


def test_a_body_other_than_the_signed_one_is_refused(shared, s3, bucket):
    signed = hashlib.sha256(b"signed body").hexdigest()
    status, _, text = send(shared, "PUT", f"/{bucket}/k", {}, b"sent  body!", payload=signed)
    assert status in (400, 403), text
    assert b"XAmzContentSHA256Mismatch" in text or b"SignatureDoesNotMatch" in text or b"BadDigest" in text, text
    with refused("NoSuchKey"):
        s3.get_object(Bucket=bucket, Key="k")


@pytest.mark.parametrize("announced, sent", [(1000, 10), (5 * MIB, MIB), (200_000, 0)])
def test_a_half_sent_body_leaves_no_object(shared, s3, bucket, rng, announced, sent):
    s3.put_object(Bucket=bucket, Key="before", Body=b"old")
    for key in ("half", "before"):
        send_half(shared, f"/{bucket}/{key}", announced, rng.randbytes(sent))
    assert [o["Key"] for o in s3.list_objects_v2(Bucket=bucket)["Contents"]] == ["before"]
    assert read_body(s3, bucket, "before") == b"old"


def test_a_wrong_secret_is_refused(shared, bucket):
    import boto3
    from botocore.config import Config

    def client(key, secret):
        return boto3.client(
            "s3", endpoint_url=shared.endpoint, region_name="us-east-1", aws_access_key_id=key,
            aws_secret_access_key=secret, config=Config(s3={"addressing_style": "path"}),
        )

    with refused("SignatureDoesNotMatch", 403):
        client(ACCESS_KEY, "wrong").list_objects_v2(Bucket=bucket)
    with refused("InvalidAccessKeyId", 403):
        client("UNKNOWN", "wrong").list_objects_v2(Bucket=bucket)


def test_an_unsigned_request_is_refused(shared, s3, bucket):
    s3.put_object(Bucket=bucket, Key="k", Body=b"x")
    for method in ("GET", "HEAD", "PUT", "DELETE"):
        assert requests.request(method, f"{shared.endpoint}/{bucket}/k", timeout=60).status_code == 403
    assert read_body(s3, bucket, "k") == b"x"


def test_presigned_urls_work_until_they_are_touched(s3, bucket):
    params = {"Bucket": bucket, "Key": "a key/with spaces+and ünicode"}
    put = s3.generate_presigned_url("put_object", Params=params, ExpiresIn=300)
    assert requests.put(put, data=b"presigned", timeout=60).status_code == 200
    get = s3.generate_presigned_url("get_object", Params=params, ExpiresIn=300)
    answer = requests.get(get, timeout=60)
    assert (answer.status_code, answer.content) == (200, b"presigned")
    assert requests.get(get, headers={"Range": "bytes=3-5"}, timeout=60).content == b"sig"
    flipped = get[:-1] + ("0" if get[-1] != "0" else "1")
    assert requests.get(flipped, timeout=60).status_code == 403
    assert requests.get(get.replace("X-Amz-Expires=300", "X-Amz-Expires=301"), timeout=60).status_code == 403
    delete = s3.generate_presigned_url("delete_object", Params=params, ExpiresIn=300)
    assert requests.get(delete, timeout=60).status_code == 403, "a URL for DELETE must not allow GET"
    assert requests.delete(delete, timeout=60).status_code == 204


def test_an_expired_presigned_url_is_refused(s3, bucket):
    from harness import wait_until

    s3.put_object(Bucket=bucket, Key="k", Body=b"x")
    url = s3.generate_presigned_url("get_object", Params={"Bucket": bucket, "Key": "k"}, ExpiresIn=1)
    wait_until("the URL to expire", lambda: requests.get(url, timeout=60).status_code == 403)


def test_a_presigned_url_overrides_response_headers(s3, bucket):
    s3.put_object(Bucket=bucket, Key="k", Body=b"x")
    params = {"Bucket": bucket, "Key": "k", "ResponseContentDisposition": 'attachment; filename="ü.txt"'}
    url = s3.generate_presigned_url("get_object", Params=params)
    assert "attachment" in requests.get(url, timeout=60).headers["Content-Disposition"]


def test_a_large_streamed_body_is_stored_whole(s3, bucket, rng):
    import io

    body = rng.randbytes(24 * MIB)
    s3.upload_fileobj(io.BytesIO(body), bucket, "streamed")
    assert s3.get_object(Bucket=bucket, Key="streamed")["Body"].read() == body
    sink = io.BytesIO()
    s3.download_fileobj(bucket, "streamed", sink)
    assert sink.getvalue() == body


def test_operations_that_are_not_there_say_so_by_name(s3, bucket):
    calls = {
        "PutBucketWebsite": lambda: s3.put_bucket_website(
            Bucket=bucket, WebsiteConfiguration={"IndexDocument": {"Suffix": "i"}}
        ),
        "PutBucketAccelerateConfiguration": lambda: s3.put_bucket_accelerate_configuration(
            Bucket=bucket, AccelerateConfiguration={"Status": "Enabled"}
        ),
    }
    s3.put_object(Bucket=bucket, Key="k", Body=b"x")
    for name, call in calls.items():
        with pytest.raises(ClientError) as failed:
            call()
        error = failed.value.response
        assert error["Error"]["Code"] == "NotImplemented", (name, error)
        assert error["ResponseMetadata"]["HTTPStatusCode"] == 501, (name, error)
        assert name in error["Error"]["Message"], (name, error)
    assert read_body(s3, bucket, "k") == b"x"


def test_a_body_in_one_huge_chunk_is_stored_without_being_held(gateway, rng):
    """Some SDKs frame a whole part as one chunk."""
    server = gateway().start()
    client = server.client()
    client.create_bucket(Bucket="data")
    client.put_object(Bucket="data", Key="first", Body=rng.randbytes(4 * MIB))
    before = server.process.rss_mib()
    pieces = [rng.randbytes(4 * MIB) for _ in range(50)]
    size, crc, sha = 200 * MIB, 0, hashlib.sha256()
    for piece in pieces:
        crc = zlib.crc32(piece, crc)
        sha.update(piece)
    trailer = base64.b64encode(crc.to_bytes(4, "big")).decode()
    framed = [b"%x\r\n" % size, *pieces, f"\r\n0\r\nx-amz-checksum-crc32:{trailer}\r\n\r\n".encode()]
    headers = {
        "Content-Length": str(sum(map(len, framed))),
        "x-amz-decoded-content-length": str(size),
        "x-amz-trailer": "x-amz-checksum-crc32",
    }
    payload = "STREAMING-UNSIGNED-PAYLOAD-TRAILER"
    connection = http.client.HTTPConnection("127.0.0.1", server.port, timeout=120)
    signed = signed_headers(server, "PUT", "/data/k", headers, payload=payload)
    connection.request("PUT", "/data/k", body=iter(framed), headers=signed)
    answer = connection.getresponse()
    assert answer.status == 200, answer.read()
    assert answer.getheader("x-amz-checksum-crc32") == trailer
    connection.close()
    grown = server.process.rss_mib() - before
    assert grown < 64, f"{grown:.0f} MiB more"
    stored = hashlib.sha256()
    for piece in client.get_object(Bucket="data", Key="k")["Body"].iter_chunks(MIB):
        stored.update(piece)
    assert stored.digest() == sha.digest()


def delete_xml(key, more=0):
    objects = "".join(f"<Object><Key>{name}</Key></Object>" for name in [key, *(f"{i:0300}" for i in range(more))])
    return f"<Delete>{objects}</Delete>".encode()


# One body that is taken in whole, and one that passes through a pipe.
@pytest.mark.parametrize("more", [0, 700])
@pytest.mark.parametrize("algorithm", ["MD5", *ALGORITHMS])
def test_a_list_of_keys_that_is_not_the_one_that_was_sent_deletes_nothing(shared, s3, bucket, algorithm, more):
    def value(data):
        return base64.b64encode(hashlib.md5(data).digest()).decode() if algorithm == "MD5" else digest(algorithm, data)

    name = "content-md5" if algorithm == "MD5" else f"x-amz-checksum-{algorithm.lower()}"
    body = delete_xml("k", more)
    s3.put_object(Bucket=bucket, Key="k", Body=b"kept")
    status, _, answer = send(shared, "POST", f"/{bucket}?delete=", {name: value(b"other")}, body)
    assert (status, b"<Code>BadDigest</Code>" in answer) == (400, True), answer
    status, _, answer = send(shared, "POST", f"/{bucket}?delete=", {name: "no digest"}, body)
    bad = b"<Code>InvalidDigest</Code>" if algorithm == "MD5" else b"<Code>BadDigest</Code>"
    assert status == 400 and bad in answer, answer
    assert read_body(s3, bucket, "k") == b"kept"
    status, _, answer = send(shared, "POST", f"/{bucket}?delete=", {name: value(body)}, body)
    assert (status, b"<Deleted>" in answer) == (200, True), answer
    with refused("NoSuchKey"):
        s3.get_object(Bucket=bucket, Key="k")


@pytest.mark.parametrize("more", [0, 700])
def test_xml_other_than_the_signed_one_is_the_clients_error_of_any_size(shared, s3, bucket, more):
    s3.put_object(Bucket=bucket, Key="k", Body=b"kept")
    wrong = hashlib.sha256(b"other").hexdigest()
    status, _, answer = send(shared, "POST", f"/{bucket}?delete=", {}, delete_xml("k", more), payload=wrong)
    assert (status, b"<Code>XAmzContentSHA256Mismatch</Code>" in answer) == (400, True), answer
    assert read_body(s3, bucket, "k") == b"kept"


def test_a_digest_is_not_told_to_who_cannot_sign(shared, bucket):
    headers = signed_headers(shared, "POST", f"/{bucket}?delete=", {"content-md5": "AAAAAAAAAAAAAAAAAAAAAA=="})
    headers["authorization"] = headers["authorization"][:-1] + ("0" if headers["authorization"][-1] != "0" else "1")
    connection = http.client.HTTPConnection("127.0.0.1", shared.port, timeout=60)
    connection.request("POST", f"/{bucket}?delete=", body=delete_xml("k"), headers=headers)
    answer = connection.getresponse()
    assert (answer.status, b"SignatureDoesNotMatch" in answer.read()) == (403, True)
    connection.close()


def test_a_presigned_url_lives_for_a_week_at_most(s3, bucket):
    s3.put_object(Bucket=bucket, Key="k", Body=b"x")
    for seconds, status in ((604_800, 200), (604_801, 400)):
        url = s3.generate_presigned_url("get_object", Params={"Bucket": bucket, "Key": "k"}, ExpiresIn=seconds)
        answer = requests.get(url, timeout=60)
        assert answer.status_code == status, answer.text
    assert "<Code>AuthorizationQueryParametersError</Code>" in answer.text


@pytest.mark.parametrize("date", ["2026112/T000000Z", "2026 128T000000Z", "1999", "%" * 16])
def test_a_date_that_is_none_is_refused(shared, s3, bucket, date):
    s3.put_object(Bucket=bucket, Key="k", Body=b"x")
    headers = signed_headers(shared, "GET", f"/{bucket}/k")
    in_scope = headers["authorization"].replace(headers["x-amz-date"][:8], date[:8], 1)
    url = s3.generate_presigned_url("get_object", Params={"Bucket": bucket, "Key": "k"})
    presigned = url.replace(url.split("X-Amz-Date=")[1].split("&")[0], requests.utils.quote(date, safe=""))
    for target, sent in (
        (f"{shared.endpoint}/{bucket}/k", {**headers, "x-amz-date": date}),
        (f"{shared.endpoint}/{bucket}/k", {**headers, "authorization": in_scope}),
        (presigned, {}),
    ):
        answer = requests.get(target, headers=sent, timeout=60)
        assert answer.status_code in (400, 403), answer.text
