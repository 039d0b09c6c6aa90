"""What lies below the operations: addressing styles, limits, connections, restarts."""

import http.client
import socket
import threading
import time

import pytest
import urllib3
from botocore.exceptions import ClientError

from harness import read_body, wait_until
from s3util import MIB, refused, send, signed_headers


def test_virtual_hosted_style_names_the_bucket_in_the_host(shared, s3, bucket):
    s3.put_object(Bucket=bucket, Key="folder/k", Body=b"by path")
    # The name resolves nowhere: the connection goes to the server, the Host header names the bucket.
    host = f"{bucket}.s3.test.local"

    def request(method, path, body=b""):
        headers = signed_headers(shared, method, path, {}, body, host=host)
        connection = http.client.HTTPConnection("127.0.0.1", shared.port, timeout=60)
        connection.request(method, path, body=body or None, headers=headers)
        answer = connection.getresponse()
        return answer.status, answer.read()

    assert request("GET", "/folder/k") == (200, b"by path")
    assert request("PUT", "/made", b"by host")[0] == 200
    assert read_body(s3, bucket, "made") == b"by host"
    status, listing = request("GET", "/?list-type=2")
    assert status == 200 and b"<Key>folder/k</Key>" in listing


def test_headers_beyond_the_limit_are_refused_and_the_server_goes_on(shared, s3, bucket):
    with socket.create_connection(("127.0.0.1", shared.port), timeout=60) as connection:
        try:
            connection.sendall(b"GET /" + bucket.encode() + b" HTTP/1.1\r\nHost: x\r\n")
            for i in range(3000):
                connection.sendall(b"x-filler-%d: %s\r\n" % (i, b"y" * 1000))
            answer = connection.recv(100)
        except (ConnectionResetError, BrokenPipeError):
            answer = b""
    assert answer == b"" or answer.split()[1][:1] == b"4", answer
    s3.put_object(Bucket=bucket, Key="k", Body=b"still here")
    assert read_body(s3, bucket, "k") == b"still here"


def test_user_metadata_beyond_two_kilobytes_is_refused(s3, bucket):
    with refused("MetadataTooLarge", 400):
        s3.put_object(Bucket=bucket, Key="k", Body=b"", Metadata={"a": "x" * 2100})


def test_a_body_above_the_limit_is_refused_before_it_is_read(shared, bucket):
    headers = signed_headers(
        shared, "PUT", f"/{bucket}/k", {"Content-Length": str(6 * 1024 * MIB)}, payload="UNSIGNED-PAYLOAD"
    )
    head = f"PUT /{bucket}/k HTTP/1.1\r\nHost: 127.0.0.1:{shared.port}\r\n"
    head += "".join(f"{k}: {v}\r\n" for k, v in headers.items() if k.lower() != "host")
    with socket.create_connection(("127.0.0.1", shared.port), timeout=60) as connection:
        connection.sendall(head.encode() + b"\r\n")
        answer = b""
        while b"</Error>" not in answer and (piece := connection.recv(65536)):
            answer += piece
    assert answer.split()[1] in (b"400", b"413"), answer
    assert b"EntityTooLarge" in answer, answer


def test_garbage_instead_of_http_does_no_harm(shared, s3, bucket):
    for garbage in (b"\x16\x03\x01\x02\x00\x01\x00", b"GET\r\n\r\n", b"\x00" * 1000, b"PUT / HTTP/9.9\r\n\r\n"):
        with socket.create_connection(("127.0.0.1", shared.port), timeout=60) as connection:
            connection.sendall(garbage)
            connection.shutdown(socket.SHUT_WR)
            while connection.recv(4096):
                pass
    s3.put_object(Bucket=bucket, Key="k", Body=b"fine")
    assert read_body(s3, bucket, "k") == b"fine"


def test_malformed_xml_is_refused(shared, s3, bucket):
    s3.put_object(Bucket=bucket, Key="k", Body=b"x")
    status, _, body = send(shared, "POST", f"/{bucket}?delete=", {}, b"<Delete><Object><Key>k</Key>")
    assert status == 400 and b"MalformedXML" in body, body
    assert read_body(s3, bucket, "k") == b"x"


def test_many_small_requests_share_a_connection(shared, bucket):
    connection = http.client.HTTPConnection("127.0.0.1", shared.port, timeout=60)
    for i in range(50):
        path = f"/{bucket}/k{i % 5}"
        body = b"%d" % i
        connection.request("PUT", path, body=body, headers=signed_headers(shared, "PUT", path, {}, body))
        answer = connection.getresponse()
        answer.read()
        assert answer.status == 200
        connection.request("GET", path, headers=signed_headers(shared, "GET", path))
        answer = connection.getresponse()
        assert (answer.status, answer.read()) == (200, body)
    connection.close()


def test_an_answer_to_a_small_get_does_not_stall(shared, s3, bucket):
    """Two peers wait 40 ms here, each time: head and body in two packets, Nagle's algorithm on. A slow machine takes long now
    and then."""
    s3.put_object(Bucket=bucket, Key="k", Body=b"x" * 4096)
    rounds = []
    while not rounds or (rounds[-1] >= 0.035 and len(rounds) < 10):
        times = gets(shared, f"/{bucket}/k")
        # The first answers on a connection are acknowledged at once, whatever they are.
        rounds.append(sorted(times[10:])[5])
    assert rounds[-1] < 0.035, rounds


def gets(shared, path):
    """The seconds that each of 30 GETs on one connection took."""
    connection = http.client.HTTPConnection("127.0.0.1", shared.port, timeout=60)
    times = []
    for _ in range(30):
        headers = signed_headers(shared, "GET", path)
        start = time.perf_counter()
        connection.request("GET", path, headers=headers)
        assert len(connection.getresponse().read()) == 4096
        times.append(time.perf_counter() - start)
    connection.close()
    return times


def test_a_graceful_stop_finishes_what_runs_and_loses_nothing(gateway, rng):
    server = gateway().start()
    client = server.client()
    client.create_bucket(Bucket="stopping")
    body = rng.randbytes(4 * MIB)
    path = "/stopping/slow"
    headers = signed_headers(server, "PUT", path, {"Content-Length": str(len(body))}, payload="UNSIGNED-PAYLOAD")
    head = f"PUT {path} HTTP/1.1\r\nHost: 127.0.0.1:{server.port}\r\n"
    head += "".join(f"{k}: {v}\r\n" for k, v in headers.items() if k.lower() != "host")
    connection = socket.create_connection(("127.0.0.1", server.port), timeout=60)
    connection.sendall(head.encode() + b"\r\n" + body[: MIB])
    # The server has the first half before it is told to stop.
    process = server.process
    codes = []
    stopper = threading.Thread(target=lambda: codes.append(server.stop(60)))
    wait_until("the request to be running", lambda: requests_running(server) >= 1)
    stopper.start()
    wait_until("the listener to close", lambda: not accepts(server.port))
    connection.sendall(body[MIB:])
    answer = connection.recv(65536)
    connection.close()
    assert answer.split()[1] == b"200", answer
    stopper.join(60)
    assert codes == [0], process.tail()
    server.start()
    assert read_body(server.client(), "stopping", "slow") == body


def requests_running(server):
    metrics = server.metrics()
    found = [v for k, v in metrics.items() if "in_flight" in k or "inflight" in k]
    assert found, sorted(metrics)
    return sum(found)


def accepts(port):
    try:
        socket.create_connection(("127.0.0.1", port), timeout=1).close()
        return True
    except OSError:
        return False


def test_everything_is_there_after_a_restart(gateway, rng):
    server = gateway().start()
    client = server.client()
    client.create_bucket(Bucket="kept")
    bodies = {f"k{i}": rng.randbytes(rng.randrange(200_000)) for i in range(40)}
    for key, body in bodies.items():
        client.put_object(Bucket="kept", Key=key, Body=body, Metadata={"n": key})
    begun = client.create_multipart_upload(Bucket="kept", Key="late")["UploadId"]
    tag = client.upload_part(Bucket="kept", Key="late", UploadId=begun, PartNumber=1, Body=b"part")["ETag"]
    before = client.list_objects_v2(Bucket="kept")["Contents"]
    assert server.stop() == 0
    server.start()
    assert client.list_objects_v2(Bucket="kept")["Contents"] == before
    for key, body in bodies.items():
        got = client.get_object(Bucket="kept", Key=key)
        assert (got["Body"].read(), got["Metadata"]) == (body, {"n": key})
    client.complete_multipart_upload(
        Bucket="kept", Key="late", UploadId=begun, MultipartUpload={"Parts": [{"PartNumber": 1, "ETag": tag}]}
    )
    assert read_body(client, "kept", "late") == b"part"


def test_a_parameter_of_an_operation_that_is_not_there_never_reaches_the_object(shared, s3, bucket):
    """Without its parameter each of these is another operation, which overwrites or deletes."""
    s3.create_bucket(Bucket=f"{bucket}-empty")
    s3.put_object(Bucket=bucket, Key="k", Body=b"kept")
    for method, path, name in [
        ("PUT", f"/{bucket}/k?renameObject=", b"RenameObject"),
        ("PUT", f"/{bucket}/k?annotation=&annotationName=a", b"PutObjectAnnotation"),
        ("DELETE", f"/{bucket}/k?annotation=&annotationName=a", b"DeleteObjectAnnotation"),
        ("PUT", f"/{bucket}/k?encryption=", b"UpdateObjectEncryption"),
        ("DELETE", f"/{bucket}/k?acl=", b"?acl"),
        ("DELETE", f"/{bucket}-empty?metadataConfiguration=", b"DeleteBucketMetadataConfiguration"),
        ("DELETE", f"/{bucket}-empty?unheard-of=", b"?unheard-of"),
        ("PUT", f"/{bucket}-new?abac=", b"PutBucketAbac"),
        ("GET", f"/{bucket}?abac=", b"GetBucketAbac"),
    ]:
        status, _, answer = send(shared, method, path)
        assert (status, b"<Code>NotImplemented<" in answer, name in answer) == (501, True, True), (method, path, answer)
    assert read_body(s3, bucket, "k") == b"kept"
    s3.head_bucket(Bucket=f"{bucket}-empty")
    with refused("404", 404):
        s3.head_bucket(Bucket=f"{bucket}-new")
    # What is nobody's operation, a read ignores, and what begins with x- belongs to the client.
    assert send(shared, "GET", f"/{bucket}/k?1234=")[2] == b"kept"
    assert send(shared, "PUT", f"/{bucket}/k?x-my-log=1", body=b"new")[0] == 200


HERE = {
    "AbortMultipartUpload", "CompleteMultipartUpload", "CopyObject", "CreateBucket", "CreateMultipartUpload",
    "DeleteBucket", "DeleteBucketCors", "DeleteObject", "DeleteObjects", "GetBucketCors", "GetBucketLocation", "GetBucketVersioning", "GetObject",
    "GetObjectAttributes", "HeadBucket", "HeadObject", "ListBuckets", "ListMultipartUploads", "ListObjects",
    "ListObjectsV2", "ListParts", "PutBucketCors", "PutObject", "RestoreObject", "UploadPart", "UploadPartCopy",
    "PutBucketVersioning", "ListObjectVersions", "GetObjectTagging", "PutObjectTagging", "DeleteObjectTagging",
    "GetBucketTagging", "PutBucketTagging", "DeleteBucketTagging",
    "DeleteBucketEncryption", "GetBucketEncryption", "PutBucketEncryption",
    "DeleteBucketLifecycle", "GetBucketLifecycle", "GetBucketLifecycleConfiguration", "PutBucketLifecycle",
    "PutBucketLifecycleConfiguration",
    "DeleteBucketOwnershipControls", "DeleteBucketPolicy", "DeletePublicAccessBlock", "GetBucketAcl",
    "GetBucketOwnershipControls", "GetBucketPolicy", "GetBucketPolicyStatus", "GetObjectAcl", "GetObjectTorrent", "GetPublicAccessBlock",
    "GetObjectLegalHold", "GetObjectLockConfiguration", "GetObjectRetention",
    "PutObjectLegalHold", "PutObjectLockConfiguration", "PutObjectRetention",
    "PutBucketAcl", "PutBucketOwnershipControls", "PutBucketPolicy", "PutObjectAcl", "PutPublicAccessBlock",
    "GetBucketNotification", "GetBucketNotificationConfiguration", "PutBucketNotification",
    "PutBucketNotificationConfiguration",
}  # fmt: skip
# Sent to another service or host, or refused by the SDK itself.
ELSEWHERE = {"ListDirectoryBuckets", "UpdateObjectEncryption", "WriteGetObjectResponse"}


def example(shape, bucket, depth=0):
    """The least input of this shape that the SDK sends."""
    kind = shape.type_name
    if kind == "structure":
        named = {"Bucket": bucket, "Key": "k"}
        return {
            name: named.get(name) or example(member, bucket, depth + 1)
            for name, member in shape.members.items()
            if name in shape.required_members or (0 < depth < 3 and member.type_name == "string")
        }
    if kind == "list":
        return [example(shape.member, bucket, depth + 1)]
    if kind == "string":
        return (getattr(shape, "enum", None) or ["x"])[0]
    return {"map": {}, "blob": b"x", "boolean": True}.get(kind, 1)


def test_every_operation_of_the_sdk_is_there_or_refused_by_its_name(s3, bucket):
    from botocore import xform_name

    s3.put_object(Bucket=bucket, Key="k", Body=b"kept")
    model = s3.meta.service_model
    wrong = []
    for name in sorted(set(model.operation_names) - HERE - ELSEWHERE):
        shape = model.operation_model(name).input_shape
        try:
            getattr(s3, xform_name(name))(**(example(shape, bucket) if shape else {}))
            wrong.append((name, "succeeded"))
        except ClientError as error:
            told = error.response["Error"]
            status = error.response["ResponseMetadata"]["HTTPStatusCode"]
            if (told["Code"], status) != ("NotImplemented", 501) or name not in told["Message"]:
                wrong.append((name, status, told))
    assert not wrong
    assert read_body(s3, bucket, "k") == b"kept"


def test_headers_in_the_query_of_a_presigned_url_count(shared, s3, bucket):
    """Several SDKs move them there."""
    from botocore.auth import S3SigV4QueryAuth
    from botocore.awsrequest import AWSRequest
    from botocore.credentials import Credentials

    from harness import ACCESS_KEY, REGION, SECRET_KEY

    def presigned(query):
        request = AWSRequest("PUT", f"{shared.endpoint}/{bucket}/k?{query}")
        S3SigV4QueryAuth(Credentials(ACCESS_KEY, SECRET_KEY), "s3", REGION, expires=60).add_auth(request)
        return request.url

    # The checksum of an empty body, from an SDK that signed before it knew the body: S3 takes no notice of it.
    checksum = "x-amz-checksum-crc32=AAAAAA%3D%3D&x-amz-sdk-checksum-algorithm=CRC32"
    url = presigned(f"x-amz-meta-colour=dark%20blue&x-amz-tagging=a%3D1&x-id=PutObject&{checksum}")
    assert urllib3.request("PUT", url, body=b"body").status == 200
    got = s3.get_object(Bucket=bucket, Key="k")
    assert (got["Body"].read(), got["Metadata"], got["TagCount"]) == (b"body", {"colour": "dark blue"}, 1)
    refused_answer = urllib3.request("PUT", presigned("x-amz-server-side-encryption=AES256"), body=b"other")
    assert refused_answer.status == 501, refused_answer.data
    touched = urllib3.request("PUT", url.replace("dark", "light"), body=b"other")
    assert touched.status == 403, touched.data
    assert read_body(s3, bucket, "k") == b"body"


def test_a_presigned_url_takes_no_headers_that_it_does_not_sign(s3, bucket):
    """Else who is given one for a PUT could copy with the rights of its signer."""
    s3.put_object(Bucket=bucket, Key="secret", Body=b"secret")
    url = s3.generate_presigned_url("put_object", Params={"Bucket": bucket, "Key": "mine"})
    for headers in (
        {"x-amz-copy-source": f"/{bucket}/secret"}, {"x-amz-tagging": "a=1"}, {"x-amz-storage-class": "STANDARD"},
        {"x-amz-acl": "public-read"}, {"x-amz-meta-a": "b"},
    ):  # fmt: skip
        for spelled in (url, url.replace("X-Amz-Signature=", "X-Amz-Signatur%65=")):
            answer = urllib3.request("PUT", spelled, body=b"", headers=headers)
            assert answer.status == 403 and b"<Code>AccessDenied</Code>" in answer.data, (headers, answer.data)
    with pytest.raises(ClientError):
        s3.head_object(Bucket=bucket, Key="mine")
    signed = s3.generate_presigned_url("put_object", Params={"Bucket": bucket, "Key": "mine", "Metadata": {"a": "b"}})
    assert urllib3.request("PUT", signed, body=b"body", headers={"x-amz-meta-a": "b"}).status == 200
    assert s3.head_object(Bucket=bucket, Key="mine")["Metadata"] == {"a": "b"}


def test_an_error_about_a_key_that_xml_cannot_hold_is_xml_all_the_same(shared, bucket):
    import xml.etree.ElementTree as etree

    status, _, answer = send(shared, "GET", f"/{bucket}/a%00b%01")
    assert status == 404
    assert etree.fromstring(answer).findtext("Code") == "NoSuchKey"


@pytest.mark.parametrize("value", ["=?=", "=?UTF-8?Q?a?= =?="])
def test_metadata_that_only_looks_encoded_is_answered(shared, s3, bucket, value):
    status, _, answer = send(shared, "PUT", f"/{bucket}/k", {"x-amz-meta-a": value}, b"x")
    assert (status, b"<Code>InvalidArgument</Code>" in answer) == (400, True), answer
    status, _, answer = send(shared, "POST", f"/{bucket}/k?uploads=", {"x-amz-meta-a": value})
    assert (status, b"<Code>InvalidArgument</Code>" in answer) == (400, True), answer


def test_metadata_loses_nothing_between_encoded_words(shared, s3, bucket):
    mixed = "=?UTF-8?Q?a?= plain =?UTF-8?Q?b?="
    for sent, kept in ((mixed, mixed), ("=?UTF-8?Q?=C3=BC?=", "=?UTF-8?B?w7w=?="), ("=?x", "=?x")):
        assert send(shared, "PUT", f"/{bucket}/k", {"x-amz-meta-a": sent}, b"x")[0] == 200
        assert s3.head_object(Bucket=bucket, Key="k")["Metadata"] == {"a": kept}


def test_cdata_is_refused_rather_than_left_out(shared, s3, bucket):
    """The key would be another one."""
    for key in ("a", "ab", "k"):
        s3.put_object(Bucket=bucket, Key=key, Body=b"kept")
    for key in ("a<![CDATA[b]]>", "<![CDATA[k]]>", ""):
        body = f"<Delete><Object><Key>{key}</Key></Object></Delete>".encode()
        status, _, answer = send(shared, "POST", f"/{bucket}?delete=", {}, body)
        assert (status, b"<Code>MalformedXML</Code>" in answer) == (400, True), answer
    assert [o["Key"] for o in s3.list_objects_v2(Bucket=bucket)["Contents"]] == ["a", "ab", "k"]


def test_xml_beyond_the_limit_is_refused_by_its_name(shared, bucket):
    body = b"<Delete>" + b" " * (8 * MIB) + b"<Object><Key>k</Key></Object></Delete>"
    status, _, answer = send(shared, "POST", f"/{bucket}?delete=", {}, body)
    assert (status, b"<Code>MaxMessageLengthExceeded</Code>" in answer) == (400, True), answer


def test_a_key_with_a_carriage_return_is_the_same_in_every_answer(s3, bucket):
    key = "a\rb\r\nc"
    s3.put_object(Bucket=bucket, Key=key, Body=b"x")
    begun = s3.create_multipart_upload(Bucket=bucket, Key=key)
    assert begun["Key"] == key
    assert [u["Key"] for u in s3.list_multipart_uploads(Bucket=bucket)["Uploads"]] == [key]
    s3.abort_multipart_upload(Bucket=bucket, Key=key, UploadId=begun["UploadId"])
    assert [o["Key"] for o in s3.list_objects_v2(Bucket=bucket)["Contents"]] == [key]
    assert s3.delete_objects(Bucket=bucket, Delete={"Objects": [{"Key": key}]})["Deleted"] == [{"Key": key}]


@pytest.mark.parametrize("method", ["GET", "HEAD"])
def test_a_response_override_that_no_header_can_have_is_refused(shared, s3, bucket, method):
    s3.put_object(Bucket=bucket, Key="k", Body=b"x")
    for value in ("a%0D%0Ax-evil%3A1", "%01"):
        for name in ("content-disposition", "content-type", "cache-control", "content-encoding", "content-language"):
            status, headers, _ = send(shared, method, f"/{bucket}/k?response-{name}={value}")
            assert status == 400 and "x-evil" not in headers, (name, value)


@pytest.mark.parametrize("method", ["GET", "HEAD"])
def test_conditions_with_dates_of_any_form_count_and_others_do_not(shared, s3, bucket, method):
    s3.put_object(Bucket=bucket, Key="k", Body=b"x")
    cases = [
        ("if-modified-since", "Sunday, 06-Nov-94 08:49:37 GMT", 200),
        ("if-modified-since", "Friday, 31-Dec-60 08:49:37 GMT", 304),
        ("if-modified-since", "yesterday", 200),
        ("if-unmodified-since", "Sunday, 06-Nov-94 08:49:37 GMT", 412),
        ("if-unmodified-since", "2020-01-01T00:00:00Z", 200),
    ]
    for name, date, status in cases:
        assert send(shared, method, f"/{bucket}/k", {name: date})[0] == status, (name, date)
        # The same, not covered by the signature.
        headers = {**signed_headers(shared, method, f"/{bucket}/k"), name: date}
        connection = http.client.HTTPConnection("127.0.0.1", shared.port, timeout=60)
        connection.request(method, f"/{bucket}/k", headers=headers)
        assert connection.getresponse().status == status, (name, date)
        connection.close()
