"""The inventory of errors (docs/s3-errors.md): each that can be provoked has its code, status, resource and ids."""

import re
import socket
import xml.etree.ElementTree as etree

import pytest

from harness import ROOT, wait_until
from s3util import send, signed_headers

TABLE = dict(re.findall(r"^\| `(\w+)` \| (\d+) \|", (ROOT / "docs" / "s3-errors.md").read_text(), re.M))

# Provoked by other tests, with a server of their own, or by nothing that a client does.
ELSEWHERE = {
    "BucketAlreadyExists": "test_access, test_users",
    "ConditionalRequestConflict": "a race of two writers",
    "EntityTooSmall": "test_s3_post, test_s3_multipart",
    "ExpiredToken": "session tokens",
    "IncorrectNumberOfFilesInPostRequest": "test_s3_post",
    "InternalError": "a failing store",
    "InvalidAction": "test_users",
    "InvalidBucketAclWithObjectOwnership": "test_access",
    "InvalidClientTokenId": "test_users",
    "InvalidEncryptionAlgorithmError": "test_s3_encryption",
    "InvalidBucketState": "test_s3_lock",
    "InvalidRetentionPeriod": "test_s3_lock",
    "NoSuchObjectLockConfiguration": "test_s3_lock",
    "ObjectLockConfigurationNotFoundError": "test_s3_lock",
    "InvalidToken": "test_users",
    "MalformedACLError": "test_access",
    "MalformedPolicy": "test_access",
    "MalformedPolicyDocument": "test_users",
    "IllegalVersioningConfigurationException": "test_s3_versions",
    "NoSuchBucketPolicy": "test_access",
    "NoSuchLifecycleConfiguration": "test_s3_lifecycle",
    "NoSuchTagSet": "test_s3_tagging",
    "NoSuchPublicAccessBlockConfiguration": "test_access",
    "OwnershipControlsNotFoundError": "test_access",
    "PolicyTooLarge": "test_access",
    "ServerSideEncryptionConfigurationNotFoundError": "test_s3_encryption",
    "UnexpectedContent": "test_access",
    "UnresolvableGrantByEmailAddress": "test_access",
    "ValidationError": "test_users",
    "AccessControlListNotSupported": "test_access",
    "InvalidObjectState": "test_tiering",
    "InvalidPolicyDocument": "test_s3_post",
    "MalformedPOSTRequest": "test_s3_post",
    "MalformedTrailerError": "test_s3_integrity",
    "MaxMessageLengthExceeded": "test_s3_protocol",
    "MaxPostPreDataLengthExceededError": "test_s3_post",
    "RequestTimeout": "adapter/main.rs",
    "RestoreAlreadyInProgress": "test_tiering",
    "ServiceUnavailable": "a tier that is away",
    "SlowDown": "adapter/main.rs",
}

XML = b"<CreateBucketConfiguration><LocationConstraint>%s</LocationConstraint></CreateBucketConfiguration>"
COMPLETE = b"<CompleteMultipartUpload>%s</CompleteMultipartUpload>"
PART = b"<Part><PartNumber>%d</PartNumber><ETag>x</ETag></Part>"
ZERO = {"x-amz-checksum-crc32": "AAAAAA=="}

# code: method, path (B stands for the bucket, U for an upload), headers, body
CASES = {
    "BadDigest": ("PUT", "/B/k", ZERO, b"x"),
    "BucketAlreadyOwnedByYou": ("PUT", "/B", {}, b""),
    "BucketNotEmpty": ("DELETE", "/B", {}, b""),
    "IllegalLocationConstraintException": ("PUT", "/B-new", {}, XML % b"eu-west-1"),
    "InvalidLocationConstraint": ("PUT", "/B-new", {}, XML % b"nowhere"),
    "InvalidArgument": ("GET", "/?max-buckets=0", {}, b""),
    "InvalidBucketName": ("PUT", "/A", {}, b""),
    "InvalidDigest": ("PUT", "/B/k", {"content-md5": "x"}, b"x"),
    "InvalidPart": ("POST", "/B/k?uploadId=U", {}, COMPLETE % (PART % 1)),
    "InvalidPartOrder": ("POST", "/B/k?uploadId=U", {}, COMPLETE % (PART % 2 + PART % 1)),
    "InvalidPartNumber": ("GET", "/B/there?partNumber=9", {}, b""),
    "InvalidRange": ("GET", "/B/there", {"range": "bytes=100-200"}, b""),
    "InvalidRequest": ("PUT", "/B/k", {"x-amz-trailer": "x-amz-checksum-crc32"}, b"x"),
    "InvalidStorageClass": ("PUT", "/B/k", {"x-amz-storage-class": "WARM"}, b"x"),
    "InvalidTag": ("PUT", "/B/k", {"x-amz-tagging": "a=%s" % ("x" * 257)}, b"x"),
    "InvalidURI": ("GET", "/B/%FF", {}, b""),
    "KeyTooLongError": ("GET", "/B/" + "k" * 1025, {}, b""),
    "MalformedXML": ("POST", "/B?delete=", {}, b"<Delete>"),
    "MetadataTooLarge": ("PUT", "/B/k", {"x-amz-meta-a": "y" * 2100}, b"x"),
    "MethodNotAllowed": ("PATCH", "/B/k", {}, b""),
    "NoSuchBucket": ("GET", "/no-such-bucket", {}, b""),
    "NoSuchCORSConfiguration": ("GET", "/B?cors=", {}, b""),
    "NoSuchKey": ("GET", "/B/none%26%3C", {}, b""),
    "NoSuchUpload": ("DELETE", "/B/k?uploadId=none", {}, b""),
    "NoSuchVersion": ("GET", f"/B/there?versionId={'0' * 32}", {}, b""),
    "NotImplemented": ("PUT", "/B/k?renameObject=", {}, b""),
    "PreconditionFailed": ("GET", "/B/there", {"if-match": '"x"'}, b""),
    "RequestHeaderSectionTooLarge": ("GET", "/B/k", {"x-long": "y" * 33_000}, b""),
}  # fmt: skip


@pytest.fixture(scope="module")
def place(shared, s3):
    s3.create_bucket(Bucket="inventory")
    s3.put_object(Bucket="inventory", Key="there", Body=b"0123456789")
    upload = s3.create_multipart_upload(Bucket="inventory", Key="k")["UploadId"]
    return lambda path: path.replace("B", "inventory", 1).replace("=U", f"={upload}")


def check(shared, code, path, status, headers, body):
    error = etree.fromstring(body)
    assert (error.tag, error.findtext("Code"), status) == ("Error", code, int(TABLE[code])), body
    assert error.findtext("Message"), body
    assert error.findtext("Resource") == path.partition("?")[0], body
    assert error.findtext("RequestId") == headers["x-amz-request-id"]
    assert error.findtext("HostId") == headers["x-amz-id-2"]
    assert headers["content-type"] == "application/xml" and "date" in headers
    # Who reports an error gives its id.
    wait_until("the request in the log", lambda: any(headers["x-amz-request-id"] in x for x in shared.process.lines))


@pytest.mark.parametrize("code", CASES)
def test_an_error_has_all_that_s3_says(shared, place, code):
    method, path, headers, body = CASES[code]
    path = place(path)
    status, answer, told = send(shared, method, path, headers, body)
    check(shared, code, path, status, answer, told)


def raw(shared, head, body=b""):
    with socket.create_connection(("127.0.0.1", shared.port), timeout=60) as connection:
        connection.sendall(head.encode() + b"\r\n" + body)
        connection.shutdown(socket.SHUT_WR)
        answer = b""
        while piece := connection.recv(65536):
            answer += piece
    top, _, told = answer.partition(b"\r\n\r\n")
    lines = top.decode().split("\r\n")
    return int(lines[0].split()[1]), {k.lower(): v for k, v in (line.split(": ", 1) for line in lines[1:])}, told


def head(shared, method, path, signed, extra=()):
    lines = {k: v for k, v in signed.items() if k != "host"} | dict(extra)
    return f"{method} {path} HTTP/1.1\r\nHost: 127.0.0.1:{shared.port}\r\n" + "".join(f"{k}: {v}\r\n" for k, v in lines.items())


def by_hand(shared):
    """{code: (method, path, headers, body)} of requests that are not simply signed."""
    good = signed_headers(shared, "PUT", "/inventory/k", payload="UNSIGNED-PAYLOAD")
    old = {**good, "x-amz-date": "20200101T000000Z"}
    old["authorization"] = re.sub(r"/\d{8}/", "/20200101/", old["authorization"])
    cors = {"Origin": "a", "Access-Control-Request-Method": "GET"}
    week = "/inventory/there?X-Amz-Expires=604801&X-Amz-Signature=0"
    return {
        "AccessDenied": ("GET", "/inventory/there", {}, b""),
        "AccessForbidden": ("OPTIONS", "/inventory/there", cors, b""),
        "AuthorizationQueryParametersError": ("GET", week, {}, b""),
        "BadRequest": ("OPTIONS", "/inventory/there", {}, b""),
        "EntityTooLarge": ("PUT", "/inventory/k", {**good, "content-length": str(6 << 30)}, b"x"),
        "IncompleteBody": ("PUT", "/inventory/k", {**good, "content-length": "10"}, b"x"),
        "InvalidAccessKeyId": ("GET", "/inventory/there", {**good, "authorization": good["authorization"].replace("TESTACCESS", "NOSUCH")}, b""),
        "MissingContentLength": ("PUT", "/inventory/k", {**good, "transfer-encoding": "chunked"}, b"1\r\nx\r\n0\r\n\r\n"),
        "RequestTimeTooSkewed": ("PUT", "/inventory/k", {**old, "content-length": "1"}, b"x"),
        "SignatureDoesNotMatch": ("PUT", "/inventory/other", {**good, "content-length": "1"}, b"x"),
        "XAmzContentSHA256Mismatch": ("PUT", "/inventory/k", {**signed_headers(shared, "PUT", "/inventory/k", payload="0" * 64), "content-length": "1"}, b"x"),
    }  # fmt: skip


HAND = [
    "AccessDenied", "AccessForbidden", "AuthorizationQueryParametersError", "BadRequest", "EntityTooLarge", "IncompleteBody",
    "InvalidAccessKeyId", "MissingContentLength", "RequestTimeTooSkewed", "SignatureDoesNotMatch",
    "XAmzContentSHA256Mismatch",
]  # fmt: skip


@pytest.mark.parametrize("code", HAND)
def test_an_error_of_a_request_that_no_client_sends(shared, place, code):
    method, path, headers, body = by_hand(shared)[code]
    status, answer, told = raw(shared, head(shared, method, path, headers), body)
    check(shared, code, path, status, answer, told)


def test_every_code_of_the_inventory_is_provoked_somewhere():
    unprovoked = set(TABLE) - set(CASES) - set(HAND) - set(ELSEWHERE)
    assert unprovoked == {"AuthorizationHeaderMalformed", "MissingRequestBodyError", "MissingSecurityHeader"}
    assert not (set(CASES) | set(HAND) | set(ELSEWHERE)) - set(TABLE)
