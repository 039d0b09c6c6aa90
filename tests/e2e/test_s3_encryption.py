"""Keys of the client's own (SSE-C) from end to end, and what is refused because it would not be true."""

import base64
import hashlib
import hmac
import json
import sys

import pytest
from Crypto.Cipher import AES

from harness import DAY, ROOT, run, wait_until
from s3util import MIB, digest, md5, refused, send, upload
from settings import policy
from test_tiering import wait_tier

PART = 5 * MIB


class Key:
    """A customer's key in the forms that requests carry it in."""

    def __init__(self, byte):
        raw = bytes([byte]) * 32
        self.key = base64.b64encode(raw).decode()
        self.md5 = base64.b64encode(hashlib.md5(raw).digest()).decode()
        # With the MD5 given, boto3 sends the key as it is; it does not encode it for all operations.
        self.args = {"SSECustomerAlgorithm": "AES256", "SSECustomerKey": self.key, "SSECustomerKeyMD5": self.md5}
        self.source = {f"CopySource{name}": value for name, value in self.args.items()}
        prefix = "x-amz-server-side-encryption-customer-"
        self.headers = {prefix + "algorithm": "AES256", prefix + "key": self.key, prefix + "key-md5": self.md5}


ONE, TWO = Key(1), Key(2)


@pytest.fixture(scope="module")
def server(request, tmp_path_factory):
    """A server that takes keys over plain HTTP."""
    from conftest import _end, _track
    from harness import Tidegate

    server = _track(request.session, Tidegate(tmp_path_factory.mktemp("ssec") / "gateway", s3={"ssec_over_http": True}))
    server.start()
    server.client().create_bucket(Bucket="data")
    yield server
    _end(request.session, server)


@pytest.fixture(scope="module")
def client(server):
    return server.client()


def echoed(answer, key):
    return (answer.get("SSECustomerAlgorithm"), answer.get("SSECustomerKeyMD5")) == ("AES256", key.md5)


@pytest.mark.parametrize("size", [0, 1, 13, 1024, 300_001, 9 * MIB + 17])
def test_an_object_comes_back_with_its_key_only(client, rng, size):
    body = rng.randbytes(size)
    put = client.put_object(Bucket="data", Key="k", Body=body, ContentMD5=base64.b64encode(hashlib.md5(body).digest()).decode(), **ONE.args)
    assert echoed(put, ONE) and "ServerSideEncryption" not in put
    assert len(put["ETag"]) == 34 and put["ETag"] != f'"{md5(body)}"', "the ETag tells nothing of the body"
    head = client.head_object(Bucket="data", Key="k", **ONE.args)
    assert (head["ContentLength"], head["ETag"]) == (size, put["ETag"]) and echoed(head, ONE)
    got = client.get_object(Bucket="data", Key="k", **ONE.args)
    assert got["Body"].read() == body and echoed(got, ONE)
    for call in (client.get_object, client.head_object):
        with refused(("InvalidRequest", "400"), 400):
            call(Bucket="data", Key="k")
        with refused(("InvalidRequest", "400"), 400):
            call(Bucket="data", Key="k", **TWO.args)
    with refused("InvalidRequest", 400):
        client.get_object_attributes(Bucket="data", Key="k", ObjectAttributes=["ETag"])
    attributes = client.get_object_attributes(Bucket="data", Key="k", ObjectAttributes=["ETag", "ObjectSize"], **ONE.args)
    assert (attributes["ETag"], attributes["ObjectSize"]) == (put["ETag"].strip('"'), size)
    client.put_object(Bucket="data", Key="plain", Body=body)
    with refused(("InvalidRequest", "400"), 400):
        client.get_object(Bucket="data", Key="plain", **ONE.args)
    listed = {o["Key"]: o for o in client.list_objects_v2(Bucket="data")["Contents"]}
    assert (listed["k"]["Size"], listed["k"]["ETag"]) == (size, put["ETag"])
    client.delete_object(Bucket="data", Key="k")


def test_nothing_of_the_body_or_the_key_is_on_the_disk(server, client, rng):
    # So short that it is stored without compression.
    secret, opened, key = rng.randbytes(100), rng.randbytes(100), Key(77)
    client.put_object(Bucket="data", Key="secret", Body=secret, **key.args)
    client.put_object(Bucket="data", Key="open", Body=opened)
    server.stop()
    stored = b"".join(path.read_bytes() for path in server.data.rglob("*") if path.is_file())
    assert opened in stored and md5(opened).encode() in stored, "it was looked for in the right way"
    raw_md5 = base64.b64decode(key.md5)
    for trace in (secret, md5(secret).encode(), bytes([77]) * 32, key.key.encode(), raw_md5, raw_md5.hex().encode()):
        assert trace not in stored
    assert key.key not in (server.folder / "tidegate.log").read_text()
    server.start()
    assert client.get_object(Bucket="data", Key="secret", **key.args)["Body"].read() == secret


def derived(raw, salt, purpose):
    """HKDF-SHA256, as docs/formats.md says."""
    extracted = hmac.digest(salt, raw, "sha256")
    return hmac.digest(extracted, b"tidegate sse-c 1 " + purpose + b"\x01", "sha256")


def test_the_documented_format_is_enough_to_decrypt_what_is_stored(server, client, rng, tmp_path):
    raw, key = bytes([42]) * 32, Key(42)
    whole, parts = rng.randbytes(100_003), [rng.randbytes(PART), rng.randbytes(33)]
    client.put_object(Bucket="data", Key="format/whole", Body=whole, ChecksumAlgorithm="SHA256", **key.args)
    upload(client, "data", "format/parts", list(enumerate(parts, 1)), part=key.args, **key.args)
    server.stop()
    run([sys.executable, ROOT / "tests" / "formats" / "read_store.py", server.data, "--extract", tmp_path])
    server.start()
    found = {}
    for line in (tmp_path / "objects.jsonl").read_text().splitlines():
        entry = json.loads(line)
        found[entry["key"]] = entry

    def opened(entry, body, salt):
        verifier, of_object = map(bytes.fromhex, entry["attributes"]["encryption"])
        assert verifier == derived(raw, of_object, b"verifier")
        cipher = AES.new(derived(raw, salt or of_object, b"body"), AES.MODE_CTR, nonce=b"", initial_value=0)
        return cipher.decrypt(body)

    entry = found["format/whole"]
    assert opened(entry, (tmp_path / entry["file"]).read_bytes(), None) == whole
    entry = found["format/parts"]
    stored = (tmp_path / entry["file"]).read_bytes()
    for part, body in zip(entry["parts"], parts):
        assert opened(entry, stored[: len(body)], bytes.fromhex(part["nonce"])) == body
        stored = stored[len(body) :]


def test_equal_bodies_are_stored_as_different_bytes(server, client):
    body = b"\x00" * 200_000
    tags = {client.put_object(Bucket="data", Key=f"same{n}", Body=body, **ONE.args)["ETag"] for n in range(2)}
    assert len(tags) == 2
    for n in range(2):
        assert client.get_object(Bucket="data", Key=f"same{n}", **ONE.args)["Body"].read() == body


def test_ranges_and_conditions_of_an_encrypted_object(client, rng):
    body = rng.randbytes(2 * MIB + 5)
    tag = client.put_object(Bucket="data", Key="k", Body=body, **ONE.args)["ETag"]
    ranges = [(0, 0), (1, 1), (15, 17), (0, len(body) - 1), (len(body) - 1, len(body) - 1)]
    ranges += [tuple(sorted(rng.randrange(len(body)) for _ in range(2))) for _ in range(40)]
    for start, end in ranges:
        got = client.get_object(Bucket="data", Key="k", Range=f"bytes={start}-{end}", **ONE.args)
        assert got["Body"].read() == body[start : end + 1], (start, end)
        assert got["ContentRange"] == f"bytes {start}-{end}/{len(body)}" and echoed(got, ONE)
    assert client.get_object(Bucket="data", Key="k", Range="bytes=-3", **ONE.args)["Body"].read() == body[-3:]
    assert client.get_object(Bucket="data", Key="k", PartNumber=1, **ONE.args)["Body"].read() == body
    client.get_object(Bucket="data", Key="k", IfMatch=tag, **ONE.args)
    with refused("304", 304):
        client.get_object(Bucket="data", Key="k", IfNoneMatch=tag, **ONE.args)
    with refused("InvalidRequest", 400):
        client.get_object(Bucket="data", Key="k", Range="bytes=0-1")


def test_digests_are_of_what_was_sent(client, rng):
    body = rng.randbytes(400_000)
    for algorithm in ("CRC32", "CRC64NVME", "SHA256"):
        put = client.put_object(Bucket="data", Key="k", Body=body, **{f"Checksum{algorithm}": digest(algorithm, body)}, **ONE.args)
        assert put[f"Checksum{algorithm}"] == digest(algorithm, body)
        head = client.head_object(Bucket="data", Key="k", ChecksumMode="ENABLED", **ONE.args)
        assert head[f"Checksum{algorithm}"] == digest(algorithm, body)
    with refused("BadDigest", 400):
        client.put_object(Bucket="data", Key="k", Body=b"other", ChecksumCRC32=digest("CRC32", body), **ONE.args)
    with refused("BadDigest", 400):
        client.put_object(Bucket="data", Key="k", Body=b"other", ContentMD5=base64.b64encode(hashlib.md5(body).digest()).decode(), **ONE.args)
    assert client.get_object(Bucket="data", Key="k", **ONE.args)["Body"].read() == body


def test_an_upload_in_parts_has_one_key(client, rng):
    bodies = [rng.randbytes(PART), rng.randbytes(PART + 3), rng.randbytes(777)]
    begun = client.create_multipart_upload(Bucket="data", Key="parts", ChecksumAlgorithm="CRC32", **ONE.args)
    assert echoed(begun, ONE)
    named = {"Bucket": "data", "Key": "parts", "UploadId": begun["UploadId"]}
    with refused("InvalidRequest", 400):
        client.upload_part(**named, PartNumber=1, Body=b"no key")
    with refused("InvalidRequest", 400):
        client.upload_part(**named, PartNumber=1, Body=b"another key", **TWO.args)
    client.upload_part(**named, PartNumber=1, Body=bodies[0], **ONE.args)
    parts = []
    for number, body in enumerate(bodies, 1):
        # The first part is sent a second time: it must get a keystream of its own.
        answer = client.upload_part(**named, PartNumber=number, Body=body, **ONE.args)
        assert echoed(answer, ONE) and answer["ETag"] != f'"{md5(body)}"'
        parts.append({"PartNumber": number, "ETag": answer["ETag"], "ChecksumCRC32": answer["ChecksumCRC32"]})
    assert [p["Size"] for p in client.list_parts(**named)["Parts"]] == [len(b) for b in bodies]
    # Parts with checksums are joined for whoever has their key only, as in S3.
    for wrong in ({}, TWO.args):
        with refused("InvalidRequest", 400):
            client.complete_multipart_upload(**named, MultipartUpload={"Parts": parts}, **wrong)
    done = client.complete_multipart_upload(**named, MultipartUpload={"Parts": parts}, **ONE.args)
    assert done["ETag"].endswith('-3"') and done["ChecksumType"] == "COMPOSITE"
    told = done["ResponseMetadata"]["HTTPHeaders"]
    assert told["x-amz-server-side-encryption-customer-algorithm"] == "AES256"
    whole = b"".join(bodies)
    got = client.get_object(Bucket="data", Key="parts", **ONE.args)
    assert got["Body"].read() == whole
    for number, body in enumerate(bodies, 1):
        got = client.get_object(Bucket="data", Key="parts", PartNumber=number, **ONE.args)
        assert got["Body"].read() == body and got["PartsCount"] == 3
        assert client.head_object(Bucket="data", Key="parts", PartNumber=number, **ONE.args)["ContentLength"] == len(body)
    for start, end in [(PART - 1, PART), (PART - 20, PART + 20), (PART, 2 * PART + 3), (2 * PART + 2, 2 * PART + 4)]:
        got = client.get_object(Bucket="data", Key="parts", Range=f"bytes={start}-{end}", **ONE.args)
        assert got["Body"].read() == whole[start : end + 1], (start, end)
    with refused("InvalidRequest", 400):
        client.get_object(Bucket="data", Key="parts", **TWO.args)
    attributes = client.get_object_attributes(Bucket="data", Key="parts", ObjectAttributes=["ObjectParts"], **ONE.args)
    assert [p["Size"] for p in attributes["ObjectParts"]["Parts"]] == [len(b) for b in bodies]


def test_a_plain_upload_takes_no_key(client):
    begun = client.create_multipart_upload(Bucket="data", Key="k")["UploadId"]
    with refused("InvalidRequest", 400):
        client.upload_part(Bucket="data", Key="k", UploadId=begun, PartNumber=1, Body=b"x", **ONE.args)
    client.abort_multipart_upload(Bucket="data", Key="k", UploadId=begun)


def test_copies_change_and_keep_keys(client, rng):
    body = rng.randbytes(700_001)
    client.put_object(Bucket="data", Key="from", Body=body, Metadata={"m": "1"}, ChecksumAlgorithm="SHA256", **ONE.args)
    client.put_object(Bucket="data", Key="plain", Body=body)
    source = {"Bucket": "data", "Key": "from"}
    with refused("InvalidRequest", 400):
        client.copy_object(Bucket="data", Key="to", CopySource=source)
    with refused("InvalidRequest", 400):
        client.copy_object(Bucket="data", Key="to", CopySource=source, **TWO.source)
    with refused("InvalidRequest", 400):
        client.copy_object(Bucket="data", Key="to", CopySource={"Bucket": "data", "Key": "plain"}, **ONE.source)

    def get(key, **args):
        return client.get_object(Bucket="data", Key=key, **args)

    same = client.copy_object(Bucket="data", Key="same", CopySource=source, **ONE.source, **ONE.args)
    assert echoed(same, ONE)
    other = client.copy_object(Bucket="data", Key="other", CopySource=source, **ONE.source, **TWO.args)
    assert echoed(other, TWO)
    opened = client.copy_object(Bucket="data", Key="opened", CopySource=source, **ONE.source)
    assert "SSECustomerAlgorithm" not in opened and opened["CopyObjectResult"]["ETag"] == f'"{md5(body)}"'
    client.copy_object(Bucket="data", Key="sealed", CopySource={"Bucket": "data", "Key": "plain"}, **TWO.args)
    for key, args in [("same", ONE.args), ("other", TWO.args), ("opened", {}), ("sealed", TWO.args)]:
        assert get(key, **args)["Body"].read() == body, key
    for key in ("same", "other", "sealed"):
        with refused("InvalidRequest", 400):
            get(key)
    head = client.head_object(Bucket="data", Key="other", ChecksumMode="ENABLED", **TWO.args)
    assert (head["Metadata"], head["ChecksumSHA256"]) == ({"m": "1"}, digest("SHA256", body))


def test_a_copy_in_place_changes_metadata_with_the_keys_only_or_the_key_itself(client, rng):
    body = rng.randbytes(300_000)
    tag = client.put_object(Bucket="data", Key="k", Body=body, **ONE.args)["ETag"]
    again = {"Bucket": "data", "Key": "k", "CopySource": {"Bucket": "data", "Key": "k"}}
    with refused("InvalidRequest", 400):
        client.copy_object(**again, MetadataDirective="REPLACE", Metadata={"a": "1"})
    client.copy_object(**again, MetadataDirective="REPLACE", Metadata={"a": "1"}, **ONE.source, **ONE.args)
    head = client.head_object(Bucket="data", Key="k", **ONE.args)
    assert (head["Metadata"], head["ETag"]) == ({"a": "1"}, tag), "no byte was moved"
    client.copy_object(**again, **ONE.source, **TWO.args)
    got = client.get_object(Bucket="data", Key="k", **TWO.args)
    assert (got["Body"].read(), got["Metadata"]) == (body, {"a": "1"})
    with refused("InvalidRequest", 400):
        client.get_object(Bucket="data", Key="k", **ONE.args)


def test_parts_are_copied_between_keys(client, rng):
    body = rng.randbytes(PART + 100_000)
    client.put_object(Bucket="data", Key="from", Body=body, **ONE.args)
    begun = client.create_multipart_upload(Bucket="data", Key="joined", **TWO.args)["UploadId"]
    named = {"Bucket": "data", "Key": "joined", "UploadId": begun, "CopySource": {"Bucket": "data", "Key": "from"}}
    with refused("InvalidRequest", 400):
        client.upload_part_copy(**named, PartNumber=1, **TWO.args)
    with refused("InvalidRequest", 400):
        client.upload_part_copy(**named, PartNumber=1, **ONE.source)
    parts = []
    for number, (start, end) in enumerate([(0, PART), (PART + 7, len(body))], 1):
        span = f"bytes={start}-{end - 1}"
        answer = client.upload_part_copy(**named, PartNumber=number, CopySourceRange=span, **ONE.source, **TWO.args)
        assert echoed(answer, TWO)
        parts.append({"PartNumber": number, "ETag": answer["CopyPartResult"]["ETag"]})
    client.complete_multipart_upload(Bucket="data", Key="joined", UploadId=begun, MultipartUpload={"Parts": parts})
    assert client.get_object(Bucket="data", Key="joined", **TWO.args)["Body"].read() == body[:PART] + body[PART + 7 :]


def test_headers_of_a_key_are_checked(server, client):
    def put(**change):
        headers = {k: v for k, v in {**ONE.headers, **change}.items() if v is not None}
        status, _, answer = send(server, "PUT", "/data/checked", headers, b"body")
        return status, answer

    name = "x-amz-server-side-encryption-customer-"
    for change, code in [
        ({name + "algorithm": None}, b"InvalidArgument"),
        ({name + "algorithm": "AES128"}, b"InvalidEncryptionAlgorithmError"),
        ({name + "key": None}, b"InvalidArgument"),
        ({name + "key": "c2hvcnQ="}, b"InvalidArgument"),
        ({name + "key-md5": None}, b"InvalidArgument"),
        ({name + "key-md5": TWO.md5}, b"InvalidArgument"),
        ({"x-amz-server-side-encryption": "AES256"}, b"InvalidArgument"),
        ({"x-amz-server-side-encryption": "aws:kms"}, b"InvalidArgument"),
    ]:
        status, answer = put(**change)
        assert (status, b"<Code>" + code + b"</Code>" in answer) == (400, True), (change, answer)
        assert ONE.key.encode() not in answer
    with refused(("NoSuchKey", "404"), 404):
        client.head_object(Bucket="data", Key="checked")
    assert put()[0] == 200
    # A read may leave the MD5 out, as in S3.
    headers = {k: v for k, v in ONE.headers.items() if not k.endswith("md5")}
    status, answer, body = send(server, "GET", "/data/checked", headers)
    assert (status, body, answer[name + "key-md5"]) == (200, b"body", ONE.md5)


def test_a_key_over_plain_http_is_refused_without_the_setting(s3, bucket):
    s3.put_object(Bucket=bucket, Key="k", Body=b"x")
    for call in (
        lambda: s3.put_object(Bucket=bucket, Key="sealed", Body=b"x", **ONE.args),
        lambda: s3.get_object(Bucket=bucket, Key="k", **ONE.args),
        lambda: s3.create_multipart_upload(Bucket=bucket, Key="k", **ONE.args),
        lambda: s3.copy_object(Bucket=bucket, Key="c", CopySource={"Bucket": bucket, "Key": "k"}, **ONE.args),
    ):
        with refused("InvalidRequest", 400) as answer:
            call()
        assert "secure connection" in str(answer.error)
    assert [o["Key"] for o in s3.list_objects_v2(Bucket=bucket)["Contents"]] == ["k"]


def test_encryption_with_keys_of_the_server_is_refused_rather_than_pretended(s3, bucket):
    for more in ({"ServerSideEncryption": "AES256"}, {"ServerSideEncryption": "aws:kms"}, {"ServerSideEncryption": "aws:kms", "SSEKMSKeyId": "k"}):
        with refused("NotImplemented", 501):
            s3.put_object(Bucket=bucket, Key="k", Body=b"x", **more)
        with refused("NotImplemented", 501):
            s3.create_multipart_upload(Bucket=bucket, Key="k", **more)
    for more in ({"SSEKMSKeyId": "k"}, {"ServerSideEncryption": "AES256", "SSEKMSKeyId": "k"}):
        with refused("InvalidArgument", 400):
            s3.put_object(Bucket=bucket, Key="k", Body=b"x", **more)
    assert "Contents" not in s3.list_objects_v2(Bucket=bucket)


def test_the_default_of_a_bucket_is_kept_and_claims_nothing(s3, bucket):
    with refused("ServerSideEncryptionConfigurationNotFoundError", 404):
        s3.get_bucket_encryption(Bucket=bucket)
    for default in ({"SSEAlgorithm": "AES256"}, {"SSEAlgorithm": "aws:kms", "KMSMasterKeyID": "arn:aws:kms:x"}):
        configuration = {"Rules": [{"ApplyServerSideEncryptionByDefault": default, "BucketKeyEnabled": True}]}
        s3.put_bucket_encryption(Bucket=bucket, ServerSideEncryptionConfiguration=configuration)
        assert s3.get_bucket_encryption(Bucket=bucket)["ServerSideEncryptionConfiguration"] == configuration
    put = s3.put_object(Bucket=bucket, Key="k", Body=b"x")
    head = s3.head_object(Bucket=bucket, Key="k")
    assert "ServerSideEncryption" not in put and "ServerSideEncryption" not in head
    with refused("MalformedXML", 400):
        s3.put_bucket_encryption(
            Bucket=bucket,
            ServerSideEncryptionConfiguration={"Rules": [{"ApplyServerSideEncryptionByDefault": {"SSEAlgorithm": "ROT13"}}]},
        )
    s3.delete_bucket_encryption(Bucket=bucket)
    with refused("ServerSideEncryptionConfigurationNotFoundError", 404):
        s3.get_bucket_encryption(Bucket=bucket)
    with refused("NoSuchBucket", 404):
        s3.get_bucket_encryption(Bucket="there-is-no-such-bucket")


def test_encrypted_objects_go_to_the_cloud_and_come_back_without_their_key(gateway, sim, rng):
    server = gateway(sim=sim, policy=policy("data"), s3={"ssec_over_http": True}).start()
    client = server.client()
    client.create_bucket(Bucket="data")
    bodies = {"small": rng.randbytes(70_001), "empty": b""}
    for key, body in bodies.items():
        client.put_object(Bucket="data", Key=key, Body=body, **ONE.args)
    bodies["parts"] = rng.randbytes(PART + 999)
    upload(client, "data", "parts", [(1, bodies["parts"][:PART]), (2, bodies["parts"][PART:])], part=ONE.args, **ONE.args)

    server.advance(31 * DAY)
    wait_tier(server, bodies, "ia")
    server.lose_local_packs()
    for key, body in bodies.items():
        assert client.get_object(Bucket="data", Key=key, **ONE.args)["Body"].read() == body
    source = {"CopySource": {"Bucket": "data", "Key": "parts"}, **ONE.source}
    client.copy_object(Bucket="data", Key="copy", **source, **TWO.args)
    assert client.get_object(Bucket="data", Key="copy", **TWO.args)["Body"].read() == bodies["parts"]

    server.advance(60 * DAY)
    wait_tier(server, bodies, "archive")
    server.lose_local_packs()
    for key in bodies:
        with refused("InvalidObjectState", 403):
            client.get_object(Bucket="data", Key=key, **ONE.args)
        client.restore_object(Bucket="data", Key=key, RestoreRequest={"Days": 3})
    server.advance(3600)

    def restored(key):
        return 'ongoing-request="false"' in client.head_object(Bucket="data", Key=key, **ONE.args).get("Restore", "")

    wait_until("all objects to be restored", lambda: all(restored(key) for key in bodies))
    for key, body in bodies.items():
        assert client.get_object(Bucket="data", Key=key, **ONE.args)["Body"].read() == body
        with refused("InvalidRequest", 400):
            client.get_object(Bucket="data", Key=key, **TWO.args)
