"""PostObject: forms of browsers, their policies, and what they may not do."""

import base64
import datetime
import hashlib
import hmac
import json
import socket
import urllib.parse
import xml.etree.ElementTree as etree

import pytest
import requests

from harness import ACCESS_KEY, SECRET_KEY, read_body
from s3util import MIB, refused


def policy(given, minutes=10, **over):
    ends = datetime.datetime.now(datetime.timezone.utc) + datetime.timedelta(minutes=minutes)
    document = {"expiration": ends.strftime("%Y-%m-%dT%H:%M:%SZ"), "conditions": given, **over}
    return {name: value for name, value in document.items() if value is not None}


def usual(bucket):
    return [
        {"bucket": bucket},
        ["starts-with", "$key", "foo"],
        {"acl": "private"},
        ["starts-with", "$Content-Type", "text/plain"],
        ["content-length-range", 0, 1024],
    ]


def form(document, fields=(), secret=SECRET_KEY, access=ACCESS_KEY):
    """The fields of a form with a signature of version 2."""
    packed = base64.b64encode(json.dumps(document).encode()).decode()
    signature = base64.b64encode(hmac.new(secret.encode(), packed.encode(), hashlib.sha1).digest()).decode()
    result = {"key": "foo.txt", "AWSAccessKeyId": access, "acl": "private", "signature": signature, "policy": packed}
    result |= {"Content-Type": "text/plain"} | dict(fields)
    return {name: value for name, value in result.items() if value is not None}


def post(server, bucket, fields, body=b"bar", name="foo.txt", **more):
    parts = [(field, (None, value)) for field, value in fields.items()] + [("file", (name, body))]
    return requests.post(f"{server.endpoint}/{bucket}", files=parts, timeout=60, **more)


def code(answer):
    return etree.fromstring(answer.content).findtext("Code")


@pytest.mark.parametrize("style", ["s3v4", "s3"])
def test_what_boto3_makes_of_a_post_is_accepted(shared, s3, bucket, style):
    client = shared.client(signature_version=style)
    made = client.generate_presigned_post(
        bucket,
        "dir/${filename}",
        Fields={"x-amz-meta-colour": "blue", "Content-Type": "text/x-test"},
        Conditions=[{"x-amz-meta-colour": "blue"}, ["starts-with", "$Content-Type", "text/"], ["content-length-range", 1, 9 * MIB]],
    )
    body = b"0123456789" * 500_000
    answer = requests.post(made["url"], data=made["fields"], files={"file": ("C:\\a\\b c.bin", body)}, timeout=60)
    assert (answer.status_code, answer.content) == (204, b""), answer.text
    assert answer.headers["ETag"] == f'"{hashlib.md5(body).hexdigest()}"'
    got = s3.get_object(Bucket=bucket, Key="dir/b c.bin")
    assert (got["Body"].read(), got["Metadata"], got["ContentType"]) == (body, {"colour": "blue"}, "text/x-test")


def test_answers_as_the_form_wishes(shared, s3, bucket):
    def with_condition(*more):
        return policy([*usual(bucket), *more])

    status = ["starts-with", "$success_action_status", ""]
    for wish, expected in [("200", 200), ("201", 201), ("204", 204), ("404", 204)]:
        answer = post(shared, bucket, form(with_condition(status), {"success_action_status": wish}))
        assert answer.status_code == expected, answer.text
        if expected == 201:
            told = etree.fromstring(answer.content)
            assert (told.tag, told.findtext("Bucket"), told.findtext("Key")) == ("PostResponse", bucket, "foo.txt")
            assert told.findtext("ETag") == answer.headers["ETag"]
            assert told.findtext("Location") == answer.headers["Location"] == f"{shared.endpoint}/{bucket}/foo.txt"
        else:
            assert answer.content == b""
    redirect = ["eq", "$success_action_redirect", "http://example.test/done?a=1"]
    answer = post(
        shared, bucket, form(with_condition(redirect), {"success_action_redirect": redirect[2]}), allow_redirects=False
    )
    assert answer.status_code == 303
    etag = urllib.parse.quote(answer.headers["ETag"], safe="")
    assert answer.headers["Location"] == f"http://example.test/done?a=1&bucket={bucket}&key=foo.txt&etag={etag}"
    assert read_body(s3, bucket, "foo.txt") == b"bar"


def test_fields_become_what_describes_the_object(shared, s3, bucket):
    tags = "<Tagging><TagSet><Tag><Key>a b</Key><Value>1 +2=</Value></Tag></TagSet></Tagging>"
    extra = {
        "Cache-Control": "no-cache", "Content-Disposition": "inline", "x-amz-meta-a": "1", "tagging": tags,
        "x-ignore-me": "x", "x-amz-checksum-crc32": "dv+MqQ==",
    }  # fmt: skip
    # A checksum need not be named: it allows nothing.
    named = [name for name in extra if name not in ("x-ignore-me", "x-amz-checksum-crc32")]
    conditions = [["starts-with", f"${name}", ""] for name in named]
    answer = post(shared, bucket, form(policy([*usual(bucket), *conditions]), extra))
    assert answer.status_code in (204, 400), answer.text
    if answer.status_code == 400:
        assert code(answer) == "BadDigest", answer.text
    extra["x-amz-checksum-crc32"] = base64.b64encode(__import__("binascii").crc32(b"bar").to_bytes(4, "big")).decode()
    assert post(shared, bucket, form(policy([*usual(bucket), *conditions]), extra)).status_code == 204
    got = s3.get_object(Bucket=bucket, Key="foo.txt", ChecksumMode="ENABLED")
    assert (got["CacheControl"], got["ContentDisposition"], got["Metadata"], got["TagCount"]) == (
        "no-cache", "inline", {"a": "1"}, 1,
    )  # fmt: skip
    assert got["ChecksumCRC32"] == extra["x-amz-checksum-crc32"]


def test_case_and_odd_characters(shared, s3, bucket):
    conditions = [
        {"bUcKeT": bucket}, ["StArTs-WiTh", "$KeY", "\\$foo"], {"AcL": "private"},
        ["StArTs-WiTh", "$CoNtEnT-TyPe", "text/plain"], ["content-length-range", 0, 1024],
    ]  # fmt: skip
    fields = form(policy(conditions), {"key": "\\$foo.txt"})
    fields["kEy"] = fields.pop("key")
    assert post(shared, bucket, fields).status_code == 204
    assert read_body(s3, bucket, "\\$foo.txt") == b"bar"


def without(conditions, index):
    return [c for at, c in enumerate(conditions) if at != index]


REFUSED = {
    "bad signature": (lambda b: form(policy(usual(b)), {"signature": base64.b64encode(b"x" * 20).decode()}), 403, "SignatureDoesNotMatch"),
    "bad secret": (lambda b: form(policy(usual(b)), secret="other"), 403, "SignatureDoesNotMatch"),
    "bad key id": (lambda b: form(policy(usual(b)), access="NOSUCHKEY"), 403, "InvalidAccessKeyId"),
    "no signature": (lambda b: form(policy(usual(b)), {"signature": None}), 400, "InvalidArgument"),
    "no policy": (lambda b: form(policy(usual(b)), {"policy": None}), 400, "InvalidArgument"),
    "nothing signed": (lambda b: {"key": "foo.txt"}, 403, "AccessDenied"),
    "no key": (lambda b: form(policy(usual(b)), {"key": None}), 400, "InvalidArgument"),
    "expired": (lambda b: form(policy(usual(b), minutes=-10)), 403, "AccessDenied"),
    "odd date": (lambda b: form(policy(usual(b), expiration="2999-01-01 00:00:00+00:00")), 400, "InvalidPolicyDocument"),
    "no expiration": (lambda b: form(policy(usual(b), expiration=None)), 400, "InvalidPolicyDocument"),
    "no conditions": (lambda b: form(policy(usual(b), conditions=None)), 400, "InvalidPolicyDocument"),
    "CONDITIONS": (lambda b: form(policy(usual(b), conditions=None, CONDITIONS=usual(b))), 400, "InvalidPolicyDocument"),
    "EXPIRATION": (lambda b: form(policy(usual(b), expiration=None, EXPIRATION="2999-01-01T00:00:00Z")), 400, "InvalidPolicyDocument"),
    "empty condition": (lambda b: form(policy([{}])), 400, "InvalidPolicyDocument"),
    "range without end": (lambda b: form(policy([*usual(b)[:4], ["content-length-range", 0]])), 400, "InvalidPolicyDocument"),
    "range below zero": (lambda b: form(policy([*usual(b)[:4], ["content-length-range", -1, 0]])), 400, "InvalidPolicyDocument"),
    "not json": (lambda b: form(policy(usual(b))) | {"policy": "bm90IGpzb24="}, 403, "SignatureDoesNotMatch"),
    "bucket not named": (lambda b: form(policy(without(usual(b), 0))), 403, "AccessDenied"),
    "other bucket": (lambda b: form(policy([{"bucket": b + "x"}, *usual(b)[1:]])), 403, "AccessDenied"),
    "other key": (lambda b: form(policy(usual(b)), {"key": "bar.txt"}), 403, "AccessDenied"),
    "no field for a condition": (lambda b: form(policy([*usual(b), ["starts-with", "$x-amz-meta-foo", "bar"]])), 403, "AccessDenied"),
    "a wrong value": (lambda b: form(policy([*usual(b), ["eq", "$x-amz-meta-foo", ""]]), {"x-amz-meta-foo": "barclamp"}), 403, "AccessDenied"),
    "an extra field": (lambda b: form(policy(usual(b)), {"x-amz-meta-foo": "x"}), 403, "AccessDenied"),
    "another type": (lambda b: form(policy(usual(b)), {"Content-Type": "text/plain,image/png"}), 403, "AccessDenied"),
    "too large": (lambda b: form(policy([*usual(b)[:4], ["content-length-range", 0, 2]])), 400, "EntityTooLarge"),
    "too small": (lambda b: form(policy([*usual(b)[:4], ["content-length-range", 4, 1000]])), 400, "EntityTooSmall"),
    "too much before": (lambda b: form(policy(usual(b)), {"x-ignore-a": "y" * 21_000}), 400, "MaxPostPreDataLengthExceededError"),
}  # fmt: skip


@pytest.mark.parametrize("case", REFUSED)
def test_what_a_policy_does_not_allow_is_refused_and_nothing_is_stored(shared, s3, bucket, case):
    fields, status, expected = REFUSED[case]
    answer = post(shared, bucket, fields(bucket))
    assert (answer.status_code, code(answer)) == (status, expected), answer.text
    assert s3.list_objects_v2(Bucket=bucket)["KeyCount"] == 0


def test_a_large_file_that_is_too_large_is_stopped_on_its_way(shared, s3, bucket):
    document = policy([*usual(bucket)[:4], ["content-length-range", 0, MIB]])
    # The answer may overtake the rest of the file.
    try:
        answer = post(shared, bucket, form(document), body=b"x" * 20 * MIB)
        assert code(answer) == "EntityTooLarge"
    except requests.exceptions.ConnectionError:
        pass
    assert s3.list_objects_v2(Bucket=bucket)["KeyCount"] == 0
    assert post(shared, bucket, form(document), body=b"x" * MIB).status_code == 204
    assert read_body(s3, bucket, "foo.txt") == b"x" * MIB


def raw(server, bucket, body, kind="multipart/form-data; boundary=xyz"):
    with socket.create_connection(("127.0.0.1", server.port), timeout=60) as connection:
        head = f"POST /{bucket} HTTP/1.1\r\nHost: 127.0.0.1:{server.port}\r\nContent-Type: {kind}\r\n"
        connection.sendall(f"{head}Content-Length: {len(body)}\r\nConnection: close\r\n\r\n".encode() + body)
        answer = b""
        while piece := connection.recv(65536):
            answer += piece
        return answer


def part(name, value):
    return b'--xyz\r\nContent-Disposition: form-data; name="%s"\r\n\r\n%s\r\n' % (name, value)


def test_malformed_forms_are_refused(shared, s3, bucket):
    fields = form(policy(usual(bucket)))
    before = b"".join(part(name.encode(), value.encode()) for name, value in fields.items())
    file = b'--xyz\r\nContent-Disposition: form-data; name="file"; filename="f"\r\n\r\n'
    for body, kind, expected in [
        (before + file + b"bar\r\n--xyz--\r\n", "multipart/form-data", b"MalformedPOSTRequest"),
        (before + b"--xyz--\r\n", "multipart/form-data; boundary=xyz", b"IncorrectNumberOfFilesInPostRequest"),
        (before + file + b"bar", "multipart/form-data; boundary=xyz", b"MalformedPOSTRequest"),
        (before[:-9], "multipart/form-data; boundary=xyz", b"MalformedPOSTRequest"),
        (b"no form at all", "multipart/form-data; boundary=xyz", b"MalformedPOSTRequest"),
        (before + part(b"KEY", b"foo2") + file + b"bar\r\n--xyz--\r\n", "multipart/form-data; boundary=xyz", b"InvalidArgument"),
    ]:
        answer = raw(shared, bucket, body, kind)
        assert answer.startswith(b"HTTP/1.1 400") and b"<Code>" + expected + b"</Code>" in answer, answer
    assert s3.list_objects_v2(Bucket=bucket)["KeyCount"] == 0
    # What follows the file is nobody's business; what only looks like a boundary belongs to it.
    body = b"a\r\n--xy\r\n--\r\nz"
    answer = raw(shared, bucket, before + file + body + b"\r\n" + part(b"submit", b"Send") + b"--xyz--\r\n")
    assert answer.startswith(b"HTTP/1.1 204"), answer
    assert read_body(s3, bucket, "foo.txt") == body
    with refused("404", 404):
        s3.head_object(Bucket=bucket, Key="foo2")
