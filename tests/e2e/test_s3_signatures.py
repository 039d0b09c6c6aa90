"""Signature version 2, which old clients still use, and authorizations that are of no version."""

import base64
import datetime
import hashlib
import hmac
import http.client
import json
import time
import urllib.parse
import xml.etree.ElementTree as etree
from email.utils import formatdate

import boto3
import pytest
import requests
from botocore.config import Config

from harness import ACCESS_KEY, REGION, SECRET_KEY, read_body
from s3util import refused, upload


@pytest.fixture
def old(shared):
    """A client that signs by version 2."""
    return shared.client(signature_version="s3")


def signature(text):
    return base64.b64encode(hmac.new(SECRET_KEY.encode(), text.encode(), hashlib.sha1).digest()).decode()


def ask(server, method, path, headers):
    """(status, code, body) of a request as it is."""
    connection = http.client.HTTPConnection("127.0.0.1", server.port, timeout=20)
    try:
        connection.request(method, path, headers=headers)
        answer = connection.getresponse()
        body = answer.read()
        code = etree.fromstring(body).findtext("Code") if answer.status >= 400 and body else None
        return answer.status, code, body
    finally:
        connection.close()


def signed(method, path, resource=None, date=None, **more):
    """The headers of a request of version 2."""
    date = formatdate(usegmt=True) if date is None else date
    amz = "".join(f"{name}:{value}\n" for name, value in sorted(more.items()))
    text = f"{method}\n\n\n{date}\n{amz}{resource or path}"
    return {"Date": date, "Authorization": f"AWS {ACCESS_KEY}:{signature(text)}", **more}


def test_a_client_of_version_2_does_everything(s3, old):
    bucket = "signed-by-version-2"
    old.create_bucket(Bucket=bucket, ObjectOwnership="ObjectWriter")
    old.put_object(Bucket=bucket, Key="a b/ü+%", Body=b"one", ContentType="text/x-old", Metadata={"a": "b"})
    got = s3.get_object(Bucket=bucket, Key="a b/ü+%")
    assert (got["Body"].read(), got["ContentType"], got["Metadata"]) == (b"one", "text/x-old", {"a": "b"})
    assert read_body(old, bucket, "a b/ü+%") == b"one"
    assert old.get_object(Bucket=bucket, Key="a b/ü+%", ResponseContentType="x/y z")["ContentType"] == "x/y z"
    upload(old, bucket, "parts", [(1, b"p")])
    old.put_object_acl(Bucket=bucket, Key="parts", ACL="public-read")
    old.put_bucket_tagging(Bucket=bucket, Tagging={"TagSet": [{"Key": "k", "Value": "v"}]})
    old.put_bucket_versioning(Bucket=bucket, VersioningConfiguration={"Status": "Enabled"})
    assert [o["Key"] for o in old.list_objects_v2(Bucket=bucket, Prefix="p", Delimiter="/")["Contents"]] == ["parts"]
    assert len(old.list_object_versions(Bucket=bucket)["Versions"]) == 2
    old.copy_object(Bucket=bucket, Key="copy", CopySource={"Bucket": bucket, "Key": "parts"})
    assert old.delete_objects(Bucket=bucket, Delete={"Objects": [{"Key": "copy"}]})["Deleted"][0]["DeleteMarker"]
    assert bucket in [one["Name"] for one in old.list_buckets()["Buckets"]]


def test_a_presigned_url_of_version_2_brings_its_headers(shared, s3, old, bucket):
    put = {"Bucket": bucket, "Key": "k", "ContentType": "text/x-url", "Metadata": {"colour": "blue"}}
    url = old.generate_presigned_url("put_object", Params=put)
    assert "Signature=" in url and "X-Amz-Signature" not in url
    assert requests.put(url, data=b"by url", timeout=30).status_code == 200
    got = s3.get_object(Bucket=bucket, Key="k")
    assert (got["Body"].read(), got["ContentType"], got["Metadata"]) == (b"by url", "text/x-url", {"colour": "blue"})
    url = old.generate_presigned_url("get_object", Params={"Bucket": bucket, "Key": "k"})
    assert requests.get(url, timeout=30).content == b"by url"
    assert requests.get(url.replace("/k?", "/other?"), timeout=30).status_code == 403
    wrong = url.replace("Signature=", "Signature=A")
    assert "<Code>SignatureDoesNotMatch</Code>" in requests.get(wrong, timeout=30).text
    assert requests.get(url, headers={"x-amz-acl": "private"}, timeout=30).status_code == 403, "a header that is not signed"
    expired = old.generate_presigned_url("get_object", Params={"Bucket": bucket, "Key": "k"}, ExpiresIn=-7)
    assert "Request has expired" in requests.get(expired, timeout=30).text
    for broken in [f"/{bucket}/k?Signature=x", f"/{bucket}/k?Signature=x&Expires=soon&AWSAccessKeyId=a"]:
        assert ask(shared, "GET", broken, {})[:2] == (403, "AccessDenied"), broken


@pytest.mark.parametrize(
    "date,code",
    [
        ("Bad Date", "AccessDenied"),
        ("", "AccessDenied"),
        ("Tue, 07 Jul 1950 21:53:04 GMT", "AccessDenied"),
        ("Tue, 07 Jul 2010 21:53:04 GMT", "RequestTimeTooSkewed"),
        ("Tue, 07 Jul 9999 21:53:04 GMT", "RequestTimeTooSkewed"),
        (-16 * 60, "RequestTimeTooSkewed"),
        (20 * 60, "RequestTimeTooSkewed"),
    ],
)
def test_a_request_of_version_2_is_of_now(shared, bucket, date, code):
    path = f"/{bucket}/"
    if isinstance(date, int):  # seconds from now, which is not when the tests were collected
        date = formatdate(time.time() + date, usegmt=True)
    assert ask(shared, "GET", path, signed("GET", path, date=date))[:2] == (403, code)
    more = {"x-amz-date": date}
    assert ask(shared, "GET", path, {**signed("GET", path, date="", **more), "Date": formatdate(usegmt=True)})[:2] == (403, code)


def test_dates_may_have_the_forms_that_s3_takes(shared, bucket):
    path = f"/{bucket}/"
    now = datetime.datetime.now(datetime.timezone.utc)
    assert ask(shared, "GET", path, signed("GET", path))[0] == 200
    assert ask(shared, "GET", path, signed("GET", path, date=now.strftime("%a, %d %b %Y %H:%M:%S +0000")))[0] == 200
    special = {"x-amz-date": now.strftime("%Y%m%dT%H%M%SZ")}
    assert ask(shared, "GET", path, {**signed("GET", path, date="", **special), "Date": "whatever"})[0] == 200


@pytest.mark.parametrize("name", ["encryption", "publicAccessBlock", "ownershipControls", "policyStatus", "acl", "versions"])
def test_what_chooses_an_operation_is_signed(shared, bucket, name):
    path = f"/{bucket}?{name}"
    assert ask(shared, "GET", path, signed("GET", path, resource=f"/{bucket}"))[:2] == (403, "SignatureDoesNotMatch")
    assert ask(shared, "GET", path, signed("GET", path, resource=f"/{bucket}/"))[:2] == (403, "SignatureDoesNotMatch")
    for resource in [path, f"/{bucket}/?{name}"]:
        status, code, _ = ask(shared, "GET", path, signed("GET", path, resource=resource))
        assert status != 403 and code != "NotImplemented", (resource, status, code)


def test_what_is_no_authorization_is_refused(shared, s3, bucket):
    for authorization, expected in [
        ("", (403, "AccessDenied")),
        ("AWS HAHAHA", (400, "InvalidArgument")),
        ("Bearer abc", (400, "InvalidArgument")),
        ("AWS NOSUCHKEY:c2lnbmF0dXJl", (403, "InvalidAccessKeyId")),
        (f"AWS {ACCESS_KEY}:c2lnbmF0dXJl", (403, "SignatureDoesNotMatch")),
        (f"AWS {ACCESS_KEY}:", (403, "SignatureDoesNotMatch")),
    ]:
        headers = {"Authorization": authorization, "Date": formatdate(usegmt=True)}
        assert ask(shared, "PUT", f"/{bucket}/k", headers)[:2] == expected, authorization
    assert "Contents" not in s3.list_objects_v2(Bucket=bucket)


def test_conditions_see_version_2(shared, s3, old, bucket):
    s3.put_object(Bucket=bucket, Key="k", Body=b"x")
    condition = {"StringEquals": {"s3:signatureversion": "AWS"}}
    deny = {"Effect": "Deny", "Principal": "*", "Action": "s3:GetObject", "Resource": f"arn:aws:s3:::{bucket}/*", "Condition": condition}
    s3.put_bucket_policy(Bucket=bucket, Policy=json.dumps({"Version": "2012-10-17", "Statement": [deny]}))
    with refused("AccessDenied", 403):
        old.get_object(Bucket=bucket, Key="k")
    assert read_body(s3, bucket, "k") == b"x"
    condition["StringEquals"]["s3:authType"] = "REST-QUERY-STRING"
    s3.put_bucket_policy(Bucket=bucket, Policy=json.dumps({"Version": "2012-10-17", "Statement": [deny]}))
    assert read_body(old, bucket, "k") == b"x"
    url = old.generate_presigned_url("get_object", Params={"Bucket": bucket, "Key": "k"})
    assert requests.get(url, timeout=30).status_code == 403


def test_version_2_finds_the_bucket_in_the_host(shared, s3, bucket):
    s3.put_object(Bucket=bucket, Key="k", Body=b"by host")
    host = {"Host": f"{bucket}.s3.test.local"}
    assert ask(shared, "GET", "/k", {**signed("GET", "/k", resource=f"/{bucket}/k"), **host})[2] == b"by host"
    assert ask(shared, "GET", "/k", {**signed("GET", "/k"), **host})[0] == 403


def test_temporary_keys_sign_by_version_2(shared, s3, bucket):
    s3.put_object(Bucket=bucket, Key="k", Body=b"x")
    keys = boto3.client(
        "sts", endpoint_url=shared.endpoint, region_name=REGION, aws_access_key_id=ACCESS_KEY, aws_secret_access_key=SECRET_KEY
    ).get_session_token()["Credentials"]
    client = boto3.client(
        "s3",
        endpoint_url=shared.endpoint,
        region_name=REGION,
        aws_access_key_id=keys["AccessKeyId"],
        aws_secret_access_key=keys["SecretAccessKey"],
        aws_session_token=keys["SessionToken"],
        config=Config(signature_version="s3", s3={"addressing_style": "path"}),
    )
    assert read_body(client, bucket, "k") == b"x"
    url = client.generate_presigned_url("get_object", Params={"Bucket": bucket, "Key": "k"})
    assert "x-amz-security-token" in urllib.parse.unquote(url).lower()
    assert requests.get(url, timeout=30).content == b"x"


def signed_url(method, path, **more):
    """A presigned URL of version 2, as path and query."""
    expires = int(time.time()) + 600
    amz = "".join(f"{name}:{value}\n" for name, value in sorted(more.items()))
    fields = {"AWSAccessKeyId": ACCESS_KEY, "Expires": expires, "Signature": signature(f"{method}\n\n\n{expires}\n{amz}{path}"), **more}
    return f"{path}?{urllib.parse.urlencode(fields)}"


def test_a_request_is_signed_in_one_way(shared, s3, old, bucket):
    s3.put_object(Bucket=bucket, Key="k", Body=b"x")
    path = f"/{bucket}/k"
    target = {"Params": {"Bucket": bucket, "Key": "k"}}
    urls = [client.generate_presigned_url("get_object", **target).removeprefix(shared.endpoint) for client in (s3, old)]
    encoded = urls[0].replace("X-Amz-Signature", "X-Amz-Signatur%65")
    for url in [*urls, encoded]:
        assert ask(shared, "GET", url, {})[0] == 200, url
        for headers in [signed("GET", path), {"Authorization": "AWS4-HMAC-SHA256 Credential=x"}, {"Authorization": ""}]:
            status, code, body = ask(shared, "GET", url, headers)
            assert (status, code) == (400, "InvalidArgument") and b"Only one auth mechanism allowed" in body, (url, headers)
    both = f"{urls[0]}&{urls[1].partition('?')[2]}"
    assert ask(shared, "GET", both, {})[:2] == (400, "InvalidArgument")


def test_a_digest_counts_with_version_2(shared, s3, bucket):
    path = f"/{bucket}/k"
    digest = {"x-amz-content-sha256": hashlib.sha256(b"body").hexdigest()}
    for body, expected in [(b"body", 200), (b"eyes", 400)]:
        for url, headers in [(path, signed("PUT", path, **digest)), (signed_url("PUT", path, **digest), {})]:
            assert requests.put(shared.endpoint + url, data=body, headers=headers, timeout=30).status_code == expected, (body, url)
    assert read_body(s3, bucket, "k") == b"body"
    unsigned = {"StringEquals": {"s3:x-amz-content-sha256": "UNSIGNED-PAYLOAD"}}
    deny = {"Effect": "Deny", "Principal": "*", "Action": "s3:PutObject", "Resource": f"arn:aws:s3:::{bucket}/*", "Condition": unsigned}
    s3.put_bucket_policy(Bucket=bucket, Policy=json.dumps({"Version": "2012-10-17", "Statement": [deny]}))
    for more, expected in [(digest, 200), ({}, 403)]:
        headers = signed("PUT", path, **more)
        assert requests.put(shared.endpoint + path, data=b"body", headers=headers, timeout=30).status_code == expected, more


def test_a_checksum_in_the_query_of_version_2_is_ignored(shared, s3, bucket):
    path = f"/{bucket}/k"
    url = signed_url("PUT", path, **{"x-amz-checksum-crc32": "AAAAAA==", "x-amz-sdk-checksum-algorithm": "CRC32"})
    assert requests.put(shared.endpoint + url, data=b"body", timeout=30).status_code == 200
    assert read_body(s3, bucket, "k") == b"body"
    other = url.replace("AAAAAA", "AAAAAB")
    assert requests.put(shared.endpoint + other, data=b"body", timeout=30).status_code == 403, "it is signed"
