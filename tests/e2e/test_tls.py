"""TLS, HTTP/2, and the change of a certificate, with clients that are not ours."""

import datetime
import signal
import socket
import ssl
import subprocess

import boto3
import pytest
from botocore.config import Config

from harness import ACCESS_KEY, REGION, SECRET_KEY, free_port, read_body, run, wait_until
from s3util import MIB, refused, signed_headers
from test_s3_access import denied, policy, statement
from test_s3_encryption import ONE


class Authority:
    """Makes certificates for 127.0.0.1."""

    def __init__(self, folder):
        from cryptography import x509
        from cryptography.hazmat.primitives.asymmetric import ec
        from cryptography.x509.oid import NameOID

        self.folder = folder
        folder.mkdir()
        self.key = ec.generate_private_key(ec.SECP256R1())
        self.name = x509.Name([x509.NameAttribute(NameOID.COMMON_NAME, "Authority of the tests")])
        self.file = folder / "ca.pem"
        self.serial = 0
        certificate = self._sign(self.name, self.key.public_key(), x509.BasicConstraints(ca=True, path_length=0), 30, [])
        self.file.write_bytes(certificate)

    def _sign(self, subject, public_key, constraints, days, names):
        from cryptography import x509
        from cryptography.hazmat.primitives import hashes, serialization

        now = datetime.datetime.now(datetime.timezone.utc)
        self.serial += 1
        builder = (
            x509.CertificateBuilder()
            .subject_name(subject)
            .issuer_name(self.name)
            .public_key(public_key)
            .serial_number(self.serial)
            .not_valid_before(now - datetime.timedelta(days=3))
            .not_valid_after(now + datetime.timedelta(days=days))
            .add_extension(constraints, critical=True)
            .add_extension(x509.SubjectKeyIdentifier.from_public_key(public_key), critical=False)
            .add_extension(x509.AuthorityKeyIdentifier.from_issuer_public_key(self.key.public_key()), critical=False)
        )
        if names:
            builder = builder.add_extension(x509.SubjectAlternativeName(names), critical=False)
        return builder.sign(self.key, hashes.SHA256()).public_bytes(serialization.Encoding.PEM)

    def issue(self, days=60):
        """(certificate, key) in PEM, and the certificate's serial number."""
        import ipaddress

        from cryptography import x509
        from cryptography.hazmat.primitives import serialization
        from cryptography.hazmat.primitives.asymmetric import ec
        from cryptography.x509.oid import NameOID

        key = ec.generate_private_key(ec.SECP256R1())
        subject = x509.Name([x509.NameAttribute(NameOID.COMMON_NAME, "localhost")])
        names = [x509.DNSName("localhost"), x509.IPAddress(ipaddress.ip_address("127.0.0.1"))]
        pem = self._sign(subject, key.public_key(), x509.BasicConstraints(ca=False, path_length=None), days, names)
        private = key.private_bytes(
            serialization.Encoding.PEM, serialization.PrivateFormat.PKCS8, serialization.NoEncryption()
        )
        return pem, private, self.serial


class Secure:
    """A server with TLS on an address of its own."""

    def __init__(self, gateway, folder, **tls):
        self.authority = Authority(folder / "ca")
        self.cert, self.key = folder / "cert.pem", folder / "key.pem"
        self.serial = self.put(*self.authority.issue())
        self.port = free_port()
        section = {"listen": f"127.0.0.1:{self.port}", "cert_file": str(self.cert), "key_file": str(self.key), **tls}
        self.server = gateway(s3={"tls": section}).start()
        self.url = f"https://127.0.0.1:{self.port}"

    def put(self, cert, key, serial):
        self.cert.write_bytes(cert)
        self.key.write_bytes(key)
        return serial

    def client(self):
        return boto3.client(
            "s3",
            endpoint_url=self.url,
            region_name=REGION,
            aws_access_key_id=ACCESS_KEY,
            aws_secret_access_key=SECRET_KEY,
            verify=str(self.authority.file),
            config=Config(s3={"addressing_style": "path"}, retries={"max_attempts": 1, "mode": "standard"}),
        )

    def connect(self):
        context = ssl.create_default_context(cafile=str(self.authority.file))
        raw = socket.create_connection(("127.0.0.1", self.port), timeout=60)
        return context.wrap_socket(raw, server_hostname="127.0.0.1")

    def shown_serial(self):
        with self.connect() as connection:
            return int(connection.getpeercert()["serialNumber"], 16)

    def curl(self, *args, check=True):
        return run(["curl", "-sS", "--cacert", self.authority.file, "--max-time", "30", *args], check=check)

    def signed(self, method, path, headers=None, body=b"", payload=None):
        host = f"127.0.0.1:{self.port}"
        signed = signed_headers(self.server, method, path, headers, body, payload, host=host)
        return [part for k, v in signed.items() if k != "host" for part in ("-H", f"{k}: {v}")]


@pytest.fixture
def secure(gateway, tmp_path):
    return Secure(gateway, tmp_path)


def test_boto3_over_tls_and_without_on_two_addresses_at_once(secure, rng):
    client = secure.client()
    client.create_bucket(Bucket="both")
    body = rng.randbytes(6 * MIB)
    client.put_object(Bucket="both", Key="k", Body=body)
    assert read_body(client, "both", "k") == body
    assert read_body(secure.server.client(), "both", "k") == body
    assert secure.server.process.wait_line(r"s3-tls=(\S+)").group(1) == secure.url


def test_tls_alone_on_the_main_address(gateway, tmp_path):
    authority = Authority(tmp_path / "ca")
    cert, key = tmp_path / "cert.pem", tmp_path / "key.pem"
    pem, private, _ = authority.issue()
    cert.write_bytes(pem)
    key.write_bytes(private)
    server = gateway(s3={"tls": {"cert_file": str(cert), "key_file": str(key), "min_version": "1.3"}}).start()
    url = f"https://127.0.0.1:{server.port}"
    assert run(["curl", "-sS", "--cacert", authority.file, "-o", "/dev/null", "-w", "%{http_code}", url]).stdout == "403"
    refused = run(["curl", "-sS", "--cacert", authority.file, "--tls-max", "1.2", url], check=False)
    assert refused.returncode == 35, refused
    # Who speaks plain HTTP to it gets no answer that could be taken for one.
    assert run(["curl", "-sS", f"http://127.0.0.1:{server.port}"], check=False).returncode != 0


@pytest.mark.parametrize("version, shown", [("--http2", "2"), ("--http1.1", "1.1")])
def test_curl_speaks_both_versions(secure, tmp_path, rng, version, shown):
    secure.client().create_bucket(Bucket="versions")
    body = tmp_path / "body"
    body.write_bytes(rng.randbytes(9 * MIB))
    url = secure.url + "/versions/k"
    write = ["-o", tmp_path / "answer", "-w", "%{http_version} %{http_code}"]
    headers = secure.signed("PUT", "/versions/k", payload="UNSIGNED-PAYLOAD")
    put = secure.curl(version, *headers, "-T", body, *write, url)
    assert put.stdout == f"{shown} 200", (tmp_path / "answer").read_text()
    got = secure.curl(version, *secure.signed("GET", "/versions/k"), *write, url)
    assert got.stdout == f"{shown} 200"
    assert (tmp_path / "answer").read_bytes() == body.read_bytes()
    head = secure.curl(version, "-I", *secure.signed("HEAD", "/versions/k"), url).stdout.lower()
    assert f"content-length: {9 * MIB}" in head and "\ndate: " in head and "x-amz-request-id" in head, head
    none = secure.url + "/versions/none"
    missing = secure.curl(version, "-I", *secure.signed("HEAD", "/versions/none"), none).stdout
    assert f"HTTP/{shown} 404" in missing
    # No body, an error's neither.
    gone = secure.curl(version, *secure.signed("GET", "/versions/none"), *write, none)
    assert gone.stdout == f"{shown} 404" and b"<Code>NoSuchKey</Code>" in (tmp_path / "answer").read_bytes()
    removed = secure.curl(version, "-X", "DELETE", *secure.signed("DELETE", "/versions/k"), *write, url)
    assert removed.stdout == f"{shown} 204"


def test_a_refused_upload_over_http2_is_answered_and_the_connection_goes_on(secure, tmp_path, rng):
    secure.client().create_bucket(Bucket="refused")
    body = tmp_path / "body"
    body.write_bytes(rng.randbytes(5 * MIB))
    bad = [h.replace("Signature=", "Signature=0") for h in secure.signed("PUT", "/refused/k", payload="UNSIGNED-PAYLOAD")]
    good = secure.signed("GET", "/refused")
    args = ["--http2", *bad, "-T", body, "-o", tmp_path / "a", "-w", "%{http_code} %{num_connects}\n", f"{secure.url}/refused/k"]
    args += ["--next", "-sS", "--http2", "--cacert", secure.authority.file, *good, "-o", tmp_path / "b"]
    args += ["-w", "%{http_code} %{num_connects}\n", f"{secure.url}/refused"]
    answers = secure.curl(*args).stdout.split("\n")
    assert answers[:2] == ["403 1", "200 0"], answers
    assert b"<Code>SignatureDoesNotMatch</Code>" in (tmp_path / "a").read_bytes()


def test_a_new_certificate_counts_for_new_connections_and_breaks_none(secure):
    client = secure.client()
    client.create_bucket(Bucket="renewed")
    old = secure.connect()
    assert secure.shown_serial() == secure.serial
    ends = secure.server.metrics()["tidegate_tls_certificate_expiry_timestamp_seconds"]
    fresh = secure.put(*secure.authority.issue(days=90))
    secure.server.process.popen.send_signal(signal.SIGHUP)
    wait_until("the new certificate", lambda: secure.shown_serial() == fresh)
    expiry = "tidegate_tls_certificate_expiry_timestamp_seconds"
    wait_until("its end to be shown", lambda: secure.server.metrics()[expiry] > ends + 29 * 86_400)
    head = "".join(f"{k}: {v}\r\n" for k, v in signed_headers(secure.server, "GET", "/", host="h").items())
    old.sendall(f"GET / HTTP/1.1\r\n{head}\r\n".encode())
    assert old.recv(65536).startswith(b"HTTP/1.1 200"), "the connection from before the change"
    old.close()
    # Without a signal too.
    again = secure.put(*secure.authority.issue())
    wait_until("the certificate to be seen", lambda: secure.shown_serial() == again)


def test_a_bad_certificate_is_refused_and_the_old_one_stays(secure):
    client = secure.client()
    client.create_bucket(Bucket="kept")
    pem, _, _ = secure.authority.issue()
    for change, word in [
        (lambda: secure.cert.write_bytes(pem), "cannot be used"),
        (lambda: secure.cert.write_bytes(b"nothing"), "no certificate"),
        (lambda: secure.cert.unlink(), "cannot be read"),
        (lambda: secure.put(*secure.authority.issue(days=-1)), "ended"),
    ]:
        before = secure.server.metrics()['tidegate_tls_reloads_total{result="failed"}']
        said = len(secure.server.process.lines)
        change()
        secure.server.process.popen.send_signal(signal.SIGHUP)
        wait_until(
            "the refusal", lambda: secure.server.metrics()['tidegate_tls_reloads_total{result="failed"}'] > before
        )
        wait_until("the reason", lambda: any(word in line for line in secure.server.process.lines[said:]))
        assert secure.shown_serial() == secure.serial
        client.head_bucket(Bucket="kept")


def test_a_certificate_that_cannot_be_used_is_found_by_check(gateway, tmp_path):
    server = gateway(s3={"tls": {"cert_file": str(tmp_path / "none.pem"), "key_file": str(tmp_path / "none.key")}})
    found = server.cli("check", check=False)
    assert found.code != 0 and "s3.tls" in found.out + found.err and "none.pem" in found.out + found.err, found


def test_openssl_sees_the_protocols(secure):
    for offered, chosen in [("h2,http/1.1", "h2"), ("http/1.1", "http/1.1")]:
        argv = ["openssl", "s_client", "-connect", f"127.0.0.1:{secure.port}", "-alpn", offered]
        argv += ["-CAfile", secure.authority.file]
        # Frames of HTTP/2 may stand between its lines.
        told = subprocess.run(argv, input=b"", capture_output=True, timeout=60).stdout.decode(errors="replace")
        assert f"ALPN protocol: {chosen}" in told and "Verify return code: 0" in told, told


def test_keys_of_clients_travel_over_tls_alone(secure):
    client, plain = secure.client(), secure.server.client()
    client.create_bucket(Bucket="keys")
    client.put_object(Bucket="keys", Key="k", Body=b"secret", **ONE.args)
    assert client.get_object(Bucket="keys", Key="k", **ONE.args)["Body"].read() == b"secret"
    with refused("InvalidRequest", 400):
        plain.put_object(Bucket="keys", Key="k", Body=b"overheard", **ONE.args)
    with refused("InvalidRequest", 400):
        plain.get_object(Bucket="keys", Key="k", **ONE.args)
    assert client.get_object(Bucket="keys", Key="k", **ONE.args)["Body"].read() == b"secret"


def test_a_policy_tells_tls_from_plain_connections(secure):
    client, plain = secure.client(), secure.server.client()
    client.create_bucket(Bucket="tls-only")
    client.put_object(Bucket="tls-only", Key="k", Body=b"body")
    insecure = {"Bool": {"aws:SecureTransport": "false"}}
    client.put_bucket_policy(
        Bucket="tls-only", Policy=policy(statement("Deny", "s3:GetObject", "tls-only/*", condition=insecure))
    )
    assert read_body(client, "tls-only", "k") == b"body"
    with denied():
        plain.get_object(Bucket="tls-only", Key="k")
    old = {"NumericLessThan": {"s3:TlsVersion": "1.3"}}
    client.put_bucket_policy(Bucket="tls-only", Policy=policy(statement("Deny", "s3:GetObject", "tls-only/*", condition=old)))
    assert read_body(client, "tls-only", "k") == b"body", "this client speaks TLS 1.3"
    some = {"NumericGreaterThanEquals": {"s3:TlsVersion": "1.2"}}
    client.put_bucket_policy(Bucket="tls-only", Policy=policy(statement("Deny", "s3:GetObject", "tls-only/*", condition=some)))
    with denied():
        client.get_object(Bucket="tls-only", Key="k")
    assert read_body(plain, "tls-only", "k") == b"body", "without TLS there is no version"
