"""Helpers of the S3 suites: error codes, checksums, and requests that no client library would send."""

import base64
import binascii
import hashlib
import http.client
import socket

import crc32c
import pytest
from botocore.exceptions import ClientError

from harness import ACCESS_KEY, REGION, SECRET_KEY

MIB = 1024 * 1024
CRC64_NVME = 0x9A6C9329AC4BC9B5  # CRC-64/NVME: polynomial AD93D23594C93659 reflected


def crc64nvme(data):
    """Slow and plain, from the definition: a second opinion beside botocore's."""
    crc = 0xFFFF_FFFF_FFFF_FFFF
    for byte in data:
        crc ^= byte
        for _ in range(8):
            crc = (crc >> 1) ^ (CRC64_NVME if crc & 1 else 0)
    return crc ^ 0xFFFF_FFFF_FFFF_FFFF


def digest(algorithm, data):
    """Base64 of a checksum as `x-amz-checksum-*` has it."""
    raw = {
        "CRC32": lambda: binascii.crc32(data).to_bytes(4, "big"),
        "CRC32C": lambda: crc32c.crc32c(data).to_bytes(4, "big"),
        "CRC64NVME": lambda: crc64nvme(data).to_bytes(8, "big"),
        "SHA1": lambda: hashlib.sha1(data).digest(),
        "SHA256": lambda: hashlib.sha256(data).digest(),
    }[algorithm]()
    return base64.b64encode(raw).decode()


ALGORITHMS = ["CRC32", "CRC32C", "CRC64NVME", "SHA1", "SHA256"]
FIELD = {a: f"Checksum{a}" for a in ALGORITHMS}


def md5(data):
    return hashlib.md5(data).hexdigest()


class refused:
    """`with refused("NoSuchKey", 404): ...` - the call must be answered with this code and status."""

    def __init__(self, code, status=None):
        self.codes = (code,) if isinstance(code, str) else code
        self.status = status

    def __enter__(self):
        return self

    def __exit__(self, kind, error, trace):
        if error is None:
            pytest.fail(f"expected {self.codes}, but the call succeeded")
        if not isinstance(error, ClientError):
            return False
        self.error = error
        code = error.response["Error"]["Code"]
        status = error.response["ResponseMetadata"]["HTTPStatusCode"]
        assert code in self.codes, f"expected {self.codes}, got {code}: {error}"
        assert self.status in (None, status), f"expected status {self.status}, got {status}: {error}"
        return True


def signed_headers(server, method, path, headers=None, body=b"", payload=None, host=None):
    """Headers of a header-signed request. `payload` is sent and signed as x-amz-content-sha256 whatever the body is:
    client libraries know better and replace it, so this signs by itself."""
    import datetime
    import hmac

    path, _, query = path.partition("?")
    now = datetime.datetime.now(datetime.timezone.utc).strftime("%Y%m%dT%H%M%SZ")
    result = {k.lower(): v for k, v in (headers or {}).items()}
    result["host"] = host or f"127.0.0.1:{server.port}"
    result["x-amz-date"] = now
    result["x-amz-content-sha256"] = payload or hashlib.sha256(body).hexdigest()
    names = ";".join(sorted(result))
    lines = "".join(f"{name}:{result[name]}\n" for name in sorted(result))
    canonical = "\n".join([method, path, query, lines, names, result["x-amz-content-sha256"]])
    scope = f"{now[:8]}/{REGION}/s3/aws4_request"
    text = f"AWS4-HMAC-SHA256\n{now}\n{scope}\n{hashlib.sha256(canonical.encode()).hexdigest()}"
    key = f"AWS4{SECRET_KEY}".encode()
    for step in [now[:8], REGION, "s3", "aws4_request", text]:
        key = hmac.new(key, step.encode(), hashlib.sha256).digest()
    result["authorization"] = (
        f"AWS4-HMAC-SHA256 Credential={ACCESS_KEY}/{scope}, SignedHeaders={names}, Signature={key.hex()}"
    )
    return result


def send(server, method, path, headers=None, body=b"", payload=None, timeout=60):
    """(status, headers, body) of a signed request that is sent as it stands."""
    connection = http.client.HTTPConnection("127.0.0.1", server.port, timeout=timeout)
    try:
        signed = signed_headers(server, method, path, headers, body, payload)
        connection.request(method, path, body=body or None, headers=signed)
        answer = connection.getresponse()
        return answer.status, {k.lower(): v for k, v in answer.getheaders()}, answer.read()
    finally:
        connection.close()


def send_half(server, path, announced, sent):
    """Begins a PUT of `announced` bytes, sends `sent`, and closes the connection. Returns once the server let go of it."""
    headers = signed_headers(server, "PUT", path, {"Content-Length": str(announced)}, payload="UNSIGNED-PAYLOAD")
    head = f"PUT {path} HTTP/1.1\r\nHost: 127.0.0.1:{server.port}\r\n"
    head += "".join(f"{k}: {v}\r\n" for k, v in headers.items() if k.lower() != "host")
    with socket.create_connection(("127.0.0.1", server.port), timeout=60) as connection:
        connection.sendall(head.encode() + b"\r\n" + sent)
        connection.shutdown(socket.SHUT_WR)
        connection.settimeout(60)
        answer = b""
        while piece := connection.recv(65536):
            answer += piece
        return answer


def upload(client, bucket, key, parts, part=None, **more):
    """A whole multipart upload; returns the answer of the completion. `part`, such as a key of the client's, goes with each part and with
    the completion, `more` with the beginning."""
    begun = client.create_multipart_upload(Bucket=bucket, Key=key, **more)
    done = []
    for number, body in parts:
        answer = client.upload_part(
            Bucket=bucket, Key=key, UploadId=begun["UploadId"], PartNumber=number, Body=body, **(part or {})
        )
        done.append({"PartNumber": number, "ETag": answer["ETag"]})
    return client.complete_multipart_upload(
        Bucket=bucket, Key=key, UploadId=begun["UploadId"], MultipartUpload={"Parts": done}, **(part or {})
    )
