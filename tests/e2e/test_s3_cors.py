"""CORS: the configuration of a bucket, preflights, and headers beside answers."""

import pytest
import requests

from s3util import refused, send, signed_headers

RULES = [
    {"AllowedMethods": ["GET"], "AllowedOrigins": ["*suffix"]},
    {"AllowedMethods": ["GET"], "AllowedOrigins": ["start*end"]},
    {"AllowedMethods": ["GET"], "AllowedOrigins": ["prefix*"]},
    {"AllowedMethods": ["PUT"], "AllowedOrigins": ["*.put"]},
]


def test_a_configuration_comes_back_as_it_was_put(gateway):
    server = gateway().start()
    s3 = server.client()
    s3.create_bucket(Bucket="cors")
    with refused("NoSuchCORSConfiguration", 404):
        s3.get_bucket_cors(Bucket="cors")
    rules = [
        {
            "ID": "first", "AllowedHeaders": ["x-*", "content-type"], "AllowedMethods": ["GET", "PUT"],
            "AllowedOrigins": ["https://*.example.com", "http://localhost"], "ExposeHeaders": ["ETag"], "MaxAgeSeconds": 300,
        },
        {"AllowedMethods": ["GET"], "AllowedOrigins": ["*"]},
    ]  # fmt: skip
    s3.put_bucket_cors(Bucket="cors", CORSConfiguration={"CORSRules": rules})
    assert s3.get_bucket_cors(Bucket="cors")["CORSRules"] == rules
    server.restart()
    assert s3.get_bucket_cors(Bucket="cors")["CORSRules"] == rules
    s3.delete_bucket_cors(Bucket="cors")
    s3.delete_bucket_cors(Bucket="cors")
    with refused("NoSuchCORSConfiguration", 404):
        s3.get_bucket_cors(Bucket="cors")
    for call in (s3.get_bucket_cors, s3.delete_bucket_cors):
        with refused("NoSuchBucket", 404):
            call(Bucket="no-such-bucket")


@pytest.mark.parametrize("rule, code", [
    ({"AllowedMethods": ["PATCH"], "AllowedOrigins": ["*"]}, "InvalidRequest"),
    ({"AllowedMethods": ["GET"], "AllowedOrigins": ["*a*"]}, "InvalidRequest"),
    ({"AllowedMethods": ["GET"], "AllowedOrigins": ["a"], "AllowedHeaders": ["*-*"]}, "InvalidRequest"),
    ({"AllowedMethods": ["GET"], "AllowedOrigins": ["a"], "ExposeHeaders": ["*"]}, "InvalidRequest"),
])  # fmt: skip
def test_a_configuration_that_s3_refuses_is_refused(s3, bucket, rule, code):
    with refused(code, 400):
        s3.put_bucket_cors(Bucket=bucket, CORSConfiguration={"CORSRules": [rule]})
    with refused("InvalidRequest", 400):
        good = {"AllowedMethods": ["GET"], "AllowedOrigins": ["*"]}
        s3.put_bucket_cors(Bucket=bucket, CORSConfiguration={"CORSRules": [good] * 101})
    with refused("NoSuchCORSConfiguration", 404):
        s3.get_bucket_cors(Bucket=bucket)


def test_a_configuration_that_is_not_the_one_that_was_meant_is_refused(shared, s3, bucket):
    xml = b"<CORSConfiguration><CORSRule><AllowedMethod>GET</AllowedMethod><AllowedOrigin>*</AllowedOrigin></CORSRule></CORSConfiguration>"
    for headers, body in [({"Content-MD5": "AAAAAAAAAAAAAAAAAAAAAA=="}, xml), ({}, xml[:-3])]:
        status, _, answer = send(shared, "PUT", f"/{bucket}?cors=", headers, body)
        assert status == 400 and (b"BadDigest" in answer or b"MalformedXML" in answer), answer
    with refused("NoSuchCORSConfiguration", 404):
        s3.get_bucket_cors(Bucket=bucket)


def asked(server, method, path, headers, signed=False):
    headers = dict(headers or {})
    if signed:
        headers = signed_headers(server, method, path, headers)
    answer = requests.request(method, server.endpoint + path, headers=headers, timeout=60)
    told = answer.headers
    return answer.status_code, told.get("access-control-allow-origin"), told.get("access-control-allow-methods")


def test_origins_and_methods(shared, s3, bucket):
    s3.put_bucket_cors(Bucket=bucket, CORSConfiguration={"CORSRules": RULES})
    url, key = f"/{bucket}", f"/{bucket}/bar"
    method = "Access-Control-Request-Method"
    for verb, path, headers, expected in [
        ("GET", url, None, (200, None, None)),
        ("GET", url, {"Origin": "foo.suffix"}, (200, "foo.suffix", "GET")),
        ("GET", url, {"Origin": "foo.bar"}, (200, None, None)),
        ("GET", url, {"Origin": "foo.suffix.get"}, (200, None, None)),
        ("GET", url, {"Origin": "startend"}, (200, "startend", "GET")),
        ("GET", url, {"Origin": "start1end"}, (200, "start1end", "GET")),
        ("GET", url, {"Origin": "0start12end"}, (200, None, None)),
        ("GET", url, {"Origin": "prefix.suffix"}, (200, "prefix.suffix", "GET")),
        ("GET", key, {"Origin": "foo.suffix"}, (404, "foo.suffix", "GET")),
        ("HEAD", key, {"Origin": "foo.suffix", method: "GET"}, (404, "foo.suffix", "GET")),
    ]:
        assert asked(shared, verb, path, headers, signed=True) == expected, (verb, path, headers)
    for verb, path, headers, expected in [
        ("PUT", key, {"Origin": "foo.suffix", method: "GET"}, (403, "foo.suffix", "GET")),
        ("PUT", key, {"Origin": "foo.suffix", method: "PUT"}, (403, None, None)),
        ("PUT", key, {"Origin": "foo.suffix", method: "DELETE"}, (403, None, None)),
        ("PUT", key, {"Origin": "foo.suffix"}, (403, None, None)),
        ("PUT", key, {"Origin": "foo.put"}, (403, "foo.put", "PUT")),
        ("OPTIONS", url, None, (400, None, None)),
        ("OPTIONS", url, {"Origin": "foo.suffix"}, (400, None, None)),
        ("OPTIONS", url, {"Origin": "foo.suffix", method: "PATCH"}, (400, None, None)),
        ("OPTIONS", key, {"Origin": "foo.suffix", method: "GET"}, (200, "foo.suffix", "GET")),
        ("OPTIONS", url, {"Origin": "foo.bar", method: "GET"}, (403, None, None)),
        ("OPTIONS", url, {"Origin": "start1end", method: "GET"}, (200, "start1end", "GET")),
        ("OPTIONS", url, {"Origin": "start1end", method: "PUT"}, (403, None, None)),
        ("OPTIONS", "/no-such-bucket", {"Origin": "a", method: "GET"}, (403, None, None)),
    ]:
        assert asked(shared, verb, path, headers) == expected, (verb, path, headers)


def test_what_a_preflight_tells(shared, s3, bucket):
    preflight = {"Origin": "https://a.example.com", "Access-Control-Request-Method": "PUT"}
    refusal = requests.options(f"{shared.endpoint}/{bucket}/k", headers=preflight, timeout=60)
    assert refusal.status_code == 403 and b"CORS is not enabled" in refusal.content
    assert b"<Code>AccessForbidden</Code>" in refusal.content
    rule = {
        "AllowedHeaders": ["x-amz-*"], "AllowedMethods": ["PUT", "GET"], "AllowedOrigins": ["https://*.example.com"],
        "ExposeHeaders": ["ETag", "x-amz-request-id"], "MaxAgeSeconds": 77,
    }  # fmt: skip
    anybody = {"AllowedMethods": ["HEAD"], "AllowedOrigins": ["*"]}
    s3.put_bucket_cors(Bucket=bucket, CORSConfiguration={"CORSRules": [rule, anybody]})
    headers = {"Access-Control-Request-Headers": "X-Amz-Date, x-amz-meta-a"}
    told = requests.options(f"{shared.endpoint}/{bucket}/k?X-Amz-Signature=0", headers=preflight | headers, timeout=60)
    shown = {k.lower(): v for k, v in told.headers.items() if k.lower().startswith(("access-", "vary"))}
    assert told.status_code == 200 and shown == {
        "access-control-allow-origin": "https://a.example.com",
        "access-control-allow-credentials": "true",
        "access-control-allow-methods": "PUT, GET",
        "access-control-allow-headers": "x-amz-date, x-amz-meta-a",
        "access-control-expose-headers": "ETag, x-amz-request-id",
        "access-control-max-age": "77",
        "vary": "Origin, Access-Control-Request-Headers, Access-Control-Request-Method",
    }
    other = {"Access-Control-Request-Headers": "content-type"}
    assert requests.options(f"{shared.endpoint}/{bucket}/k", headers=preflight | other, timeout=60).status_code == 403
    told = requests.options(
        f"{shared.endpoint}/{bucket}/k", headers={"Origin": "null", "Access-Control-Request-Method": "HEAD"}, timeout=60
    )
    assert told.headers["access-control-allow-origin"] == "*" and "access-control-allow-credentials" not in told.headers
    # By the bucket in the host too.
    host = {"Host": f"{bucket}.s3.test.local"}
    assert requests.options(f"{shared.endpoint}/k", headers=preflight | host, timeout=60).status_code == 200
