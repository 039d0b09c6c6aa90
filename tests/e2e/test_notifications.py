"""Notifications: webhooks are real HTTP servers, events come of real requests, and the server is killed in between."""

import http.server
import json
import ssl
import threading
import time

import pytest
import requests

from harness import DAY, wait_until
from s3util import refused, send
from settings import policy
from test_s3_post import form
from test_s3_post import policy as post_policy
from test_tls import Authority

BUCKET = "data"


class Webhook:
    """A web server that keeps what it is sent. `status` is what it answers, `slow` how long it takes."""

    def __init__(self, port=0, tls=None):
        self.requests = []
        self.status, self.slow, self.refuse = 200, 0, lambda request: False
        hook = self

        class Handler(http.server.BaseHTTPRequestHandler):
            protocol_version = "HTTP/1.1"

            def do_POST(self):
                body = self.rfile.read(int(self.headers["Content-Length"]))
                request = {"path": self.path, "headers": {k.lower(): v for k, v in self.headers.items()}, "body": json.loads(body)}
                time.sleep(hook.slow)
                status = 400 if hook.refuse(request) else hook.status
                hook.requests.append((status, request))
                self.send_response(status)
                if status == 302:
                    self.send_header("Location", f"http://127.0.0.1:{hook.port}/elsewhere")
                self.send_header("Content-Length", "0")
                self.end_headers()

            def log_message(self, *_):
                pass

        self.server = http.server.ThreadingHTTPServer(("127.0.0.1", port), Handler)
        self.server.daemon_threads = True
        if tls:
            context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
            context.load_cert_chain(*tls)
            self.server.socket = context.wrap_socket(self.server.socket, server_side=True)
        self.port = self.server.server_address[1]
        self.url = f"{'https' if tls else 'http'}://127.0.0.1:{self.port}/hook?in=path-secret"
        threading.Thread(target=self.server.serve_forever, daemon=True).start()

    def close(self):
        self.server.shutdown()
        self.server.server_close()

    def taken(self):
        return [request for status, request in list(self.requests) if status == 200]

    def records(self):
        """What was taken, without test events."""
        return [record for request in self.taken() for record in request["body"].get("Records", [])]

    def tests(self):
        return [request["body"] for request in self.taken() if request["body"].get("Event") == "s3:TestEvent"]

    def names(self, key=None):
        return [record["eventName"] for record in self.records() if key in (None, record["s3"]["object"]["key"])]

    def wait_names(self, names, key=None, timeout=30):
        wait_until(f"{names} of {key}", lambda: self.names(key)[: len(names)] == names or None, timeout)


@pytest.fixture
def hook():
    made = Webhook()
    yield made
    made.close()


def target(hook, **more):
    return {"url": hook.url, "timeout": "2s", "retry_min": "50ms", "retry_max": "300ms", **more}


def arn(name="hook"):
    return f"arn:tidegate:sqs::{name}:webhook"


def rule(*events, name="hook", **filters):
    made = {"QueueArn": arn(name), "Events": list(events)}
    if filters:
        made["Filter"] = {"Key": {"FilterRules": [{"Name": k, "Value": v} for k, v in filters.items()]}}
    return made


ALL = [
    "s3:ObjectCreated:*", "s3:ObjectRemoved:*", "s3:ObjectRestore:*", "s3:LifecycleTransition", "s3:LifecycleExpiration:*",
    "s3:ObjectTagging:*", "s3:ObjectAcl:Put",
]  # fmt: skip


def subscribe(client, *rules, bucket=BUCKET, **more):
    client.put_bucket_notification_configuration(
        Bucket=bucket, NotificationConfiguration={"QueueConfigurations": list(rules)}, **more
    )


def started(gateway, hook, **more):
    targets = {"hook": target(hook, **more.pop("target", {}))} | more.pop("targets", {})
    server = gateway(notifications={"targets": targets}, **more).start()
    client = server.client()
    client.create_bucket(Bucket=BUCKET, ObjectOwnership="ObjectWriter")
    return server, client


def test_what_clients_do_is_told_as_s3_tells_it(gateway, hook):
    server, client = started(gateway, hook, target={"token": "topsecrettoken", "headers": {"X-Key": "headersecret"}})
    subscribe(client, rule(*ALL))
    wait_until("the test event", hook.tests)
    assert hook.tests()[0]["Bucket"] == BUCKET and hook.tests()[0]["Service"] == "Amazon S3"

    put = client.put_object(Bucket=BUCKET, Key="a b/ü+1.txt", Body=b"hello")
    hook.wait_names(["ObjectCreated:Put"])
    record, request = hook.records()[0], hook.taken()[-1]
    assert request["headers"]["content-type"] == "application/json"
    assert request["headers"]["authorization"] == "Bearer topsecrettoken" and request["headers"]["x-key"] == "headersecret"
    assert request["headers"]["x-tidegate-event-id"] == record["s3"]["object"]["sequencer"]
    assert record["eventSource"] == "aws:s3" and record["eventVersion"].startswith("2.") and record["awsRegion"] == "us-east-1"
    assert record["requestParameters"] == {"sourceIPAddress": "127.0.0.1"} and record["userIdentity"]["principalId"].startswith("AWS:")
    assert record["responseElements"]["x-amz-request-id"] == put["ResponseMetadata"]["RequestId"]
    assert record["s3"]["bucket"]["name"] == BUCKET and record["s3"]["bucket"]["arn"] == f"arn:aws:s3:::{BUCKET}"
    assert record["s3"]["bucket"]["ownerIdentity"]["principalId"] == client.list_buckets()["Owner"]["ID"]
    thing = record["s3"]["object"]
    assert (thing["key"], thing["size"], thing["eTag"]) == ("a+b/%C3%BC%2B1.txt", 5, put["ETag"].strip('"'))
    assert "versionId" not in thing and record["s3"]["configurationId"]

    client.copy_object(Bucket=BUCKET, Key="k", CopySource=f"{BUCKET}/a b/ü+1.txt")
    client.put_object_tagging(Bucket=BUCKET, Key="k", Tagging={"TagSet": [{"Key": "t", "Value": "1"}]})
    client.put_object_tagging(Bucket=BUCKET, Key="k", Tagging={"TagSet": [{"Key": "t", "Value": "1"}]})  # changes nothing
    client.delete_object_tagging(Bucket=BUCKET, Key="k")
    client.put_object_acl(Bucket=BUCKET, Key="k", ACL="public-read")
    client.delete_object(Bucket=BUCKET, Key="k")
    client.delete_object(Bucket=BUCKET, Key="k")  # nothing is there
    upload = client.create_multipart_upload(Bucket=BUCKET, Key="k")["UploadId"]
    part = client.upload_part(Bucket=BUCKET, Key="k", UploadId=upload, PartNumber=1, Body=b"part")
    parts = {"Parts": [{"PartNumber": 1, "ETag": part["ETag"]}]}
    client.complete_multipart_upload(Bucket=BUCKET, Key="k", UploadId=upload, MultipartUpload=parts)
    fields = form(post_policy([{"bucket": BUCKET}, {"key": "k"}]), {"key": "k", "acl": None, "Content-Type": None})
    answer = requests.post(f"{server.endpoint}/{BUCKET}", files=[(n, (None, v)) for n, v in fields.items()] + [("file", ("f", b"form"))])
    assert answer.status_code == 204, answer.text
    expected = [
        "ObjectCreated:Copy", "ObjectTagging:Put", "ObjectTagging:Delete", "ObjectAcl:Put", "ObjectRemoved:Delete",
        "ObjectCreated:CompleteMultipartUpload", "ObjectCreated:Post",
    ]  # fmt: skip
    hook.wait_names(expected, "k")

    client.put_bucket_versioning(Bucket=BUCKET, VersioningConfiguration={"Status": "Enabled"})
    version = client.put_object(Bucket=BUCKET, Key="v", Body=b"1")["VersionId"]
    marker = client.delete_object(Bucket=BUCKET, Key="v")["VersionId"]
    client.delete_object(Bucket=BUCKET, Key="v", VersionId=marker)
    client.delete_objects(Bucket=BUCKET, Delete={"Objects": [{"Key": "v", "VersionId": version}]})
    hook.wait_names(["ObjectCreated:Put", "ObjectRemoved:DeleteMarkerCreated", "ObjectRemoved:Delete", "ObjectRemoved:Delete"], "v")
    versions = [r["s3"]["object"]["versionId"] for r in hook.records() if r["s3"]["object"]["key"] == "v"]
    assert versions == [version, marker, marker, version]
    client.delete_object(Bucket=BUCKET, Key="v")
    for key in ("k", "v"):
        order = [r["s3"]["object"]["sequencer"] for r in hook.records() if r["s3"]["object"]["key"] == key]
        assert order == sorted(order) and len(set(order)) == len(order)
    wait_until("the queue to be empty", lambda: server.stats()["notifications"][0]["queued"] == 0)
    metrics = server.metrics()
    assert metrics['tidegate_notification_sent_events_total{target="hook"}'] == len(hook.taken())
    assert metrics['tidegate_notification_queue_events{target="hook"}'] == 0
    log = server.process.log.read_text()
    assert not any(secret in log for secret in ("topsecrettoken", "headersecret", "path-secret"))


def test_restores_and_what_rules_do_are_told(gateway, sim, hook):
    # `short/` ends a day after it was written, `cold/` moves twice: after 30 days and after 90.
    rules = policy(BUCKET, prefix="cold/")
    rules["rules"].append({"id": "end", "filter": {"bucket": BUCKET, "prefix": "short/"}, "expiration": {"after": "1d", "since": "creation"}})
    server, client = started(gateway, hook, sim=sim, policy=rules)
    subscribe(client, rule("s3:ObjectRestore:*", "s3:LifecycleTransition", "s3:LifecycleExpiration:*"))
    for key in ("cold/k", "short/k"):
        client.put_object(Bucket=BUCKET, Key=key, Body=b"x" * 1000)
    client.put_object(Bucket=BUCKET, Key="declared", Body=b"x", StorageClass="GLACIER")
    wait_until("the declared class", lambda: server.status(BUCKET, "declared")["residency"] != "hot")
    server.advance(31 * DAY)
    hook.wait_names(["LifecycleTransition"], "cold/k", 60)
    hook.wait_names(["LifecycleExpiration:Delete"], "short/k", 60)
    server.advance(60 * DAY)
    hook.wait_names(["LifecycleTransition"] * 2, "cold/k", 60)
    moved = [r["lifecycleEventData"]["transitionEventData"]["destinationStorageClass"] for r in hook.records() if "lifecycleEventData" in r]
    assert moved == ["STANDARD_IA", "GLACIER"]
    assert all(r["userIdentity"]["principalId"] == "s3.amazonaws.com" for r in hook.records())
    client.restore_object(Bucket=BUCKET, Key="cold/k", RestoreRequest={"Days": 1})
    hook.wait_names(["LifecycleTransition"] * 2 + ["ObjectRestore:Post"], "cold/k")
    server.advance(12 * 3600)
    restored = ["LifecycleTransition"] * 2 + ["ObjectRestore:Post", "ObjectRestore:Completed"]
    hook.wait_names(restored, "cold/k", 60)
    data = hook.records()[-1]["glacierEventData"]["restoreEventData"]
    assert data["lifecycleRestoreStorageClass"] == "GLACIER" and data["lifecycleRestorationExpiryTime"].endswith("Z")
    server.advance(2 * DAY)
    hook.wait_names([*restored, "ObjectRestore:Delete"], "cold/k", 60)
    assert hook.names("declared") == []


def test_rules_with_versions_leave_markers(gateway, hook):
    rules = policy(BUCKET, prefix="none/")
    rules["rules"] = [{"id": "end", "filter": {"bucket": BUCKET}, "expiration": {"after": "1d", "since": "creation"}}]
    rules.pop("tiers", None)
    server, client = started(gateway, hook, policy=rules)
    client.put_bucket_versioning(Bucket=BUCKET, VersioningConfiguration={"Status": "Enabled"})
    subscribe(client, rule("s3:LifecycleExpiration:*"))
    client.put_object(Bucket=BUCKET, Key="k", Body=b"x")
    server.advance_own(DAY + 60)
    hook.wait_names(["LifecycleExpiration:DeleteMarkerCreated"], "k", 60)


def test_filters_choose_keys_and_targets(gateway, hook):
    other = Webhook()
    try:
        _, client = started(gateway, hook, targets={"other": target(other)})
        jpg, png = {"Prefix": "in/", "SUFFIX": ".jpg"}, {"prefix": "in/", "suffix": ".png"}
        subscribe(client, rule("s3:ObjectCreated:*", **jpg), rule("s3:ObjectCreated:Put", name="other", **png))
        for key in ("in/a.jpg", "in/b.png", "out/a.jpg", "in/a.txt", "in/c.jpg"):
            client.put_object(Bucket=BUCKET, Key=key, Body=b"")
        client.create_bucket(Bucket="silent")
        client.put_object(Bucket="silent", Key="in/a.jpg", Body=b"")
        client.delete_object(Bucket=BUCKET, Key="in/a.jpg")
        client.copy_object(Bucket=BUCKET, Key="in/d.png", CopySource=f"{BUCKET}/in/b.png")
        client.copy_object(Bucket=BUCKET, Key="in/z.jpg", CopySource=f"{BUCKET}/in/b.png")
        client.put_object(Bucket=BUCKET, Key="in/z.png", Body=b"")
        wait_until("the last", lambda: hook.names("in/z.jpg") and other.names("in/z.png"))
        keys = [sorted(r["s3"]["object"]["key"] for r in one.records()) for one in (hook, other)]
        assert keys == [["in/a.jpg", "in/c.jpg", "in/z.jpg"], ["in/b.png", "in/z.png"]]
    finally:
        other.close()


def test_a_configuration_comes_back_and_what_s3_refuses_is_refused(gateway, hook):
    server, client = started(gateway, hook)
    get = lambda: {k: v for k, v in client.get_bucket_notification_configuration(Bucket=BUCKET).items() if k != "ResponseMetadata"}
    assert get() == {}
    whole = {
        "QueueConfigurations": [{"Id": "q", **rule("s3:ObjectCreated:Put", Prefix="in/", suffix=".jpg")}],
        "TopicConfigurations": [{"Id": "t", "TopicArn": "arn:tidegate:sns::hook:webhook", "Events": ["s3:ObjectRemoved:*"]}],
        "LambdaFunctionConfigurations": [
            {"Id": "f", "LambdaFunctionArn": "arn:tidegate:lambda:us-east-1:hook:webhook", "Events": ["s3:ObjectTagging:Put", "s3:Replication:*"]}
        ],
    }
    put = lambda given, **more: client.put_bucket_notification_configuration(Bucket=BUCKET, NotificationConfiguration=given, **more)
    put(whole)
    assert get() == whole
    wait_until("one test event, as there is one target", hook.tests)
    server.restart()
    assert get() == whole

    created = rule("s3:ObjectCreated:*")
    wrong = [
        [rule("s3:ObjectCreated:*", name="nobody")],
        [{**created, "QueueArn": "arn:aws:sqs:us-east-1:123456789012:hook"}],
        [rule("s3:ObjectEaten:*")],
        [rule("s3:TestEvent")],
        [created, rule("s3:ObjectCreated:Put")],
        [rule("s3:ObjectCreated:Put", prefix="a"), rule("s3:ObjectCreated:Put", prefix="ab")],
        [{"Id": "x", **created}, {"Id": "x", **rule("s3:ObjectRemoved:*")}],
        [{**created, "Filter": {"Key": {"FilterRules": [{"Name": "prefix", "Value": "a"}, {"Name": "Prefix", "Value": "b"}]}}}],
        [rule("s3:ObjectCreated:*", middle="a")],
        [{"Id": "x" * 256, **created}],
        [rule("s3:ObjectCreated:Put", prefix=f"{n:01000}/") for n in range(70)],
    ]
    for rules in wrong:
        with refused("InvalidArgument", 400):
            put({"QueueConfigurations": rules})
    with refused("NotImplemented", 501):
        put({"EventBridgeConfiguration": {}})
    assert get() == whole
    for call in (client.get_bucket_notification_configuration, lambda Bucket: subscribe(client, created, bucket=Bucket)):
        with refused("NoSuchBucket", 404):
            call(Bucket="no-such-bucket")

    put({"QueueConfigurations": [rule(*["s3:ObjectCreated:*", "s3:ObjectTagging:Put"] * 50)]}, SkipDestinationValidation=True)
    assert get()["QueueConfigurations"][0]["Events"] == ["s3:ObjectCreated:*", "s3:ObjectTagging:Put"]
    before = len(hook.tests())
    put({"QueueConfigurations": [created]}, SkipDestinationValidation=True)
    assert len(get()["QueueConfigurations"][0]["Id"]) > 8
    client.put_object(Bucket=BUCKET, Key="k", Body=b"")
    hook.wait_names(["ObjectCreated:Put"], "k")
    assert len(hook.tests()) == before
    put({})
    assert get() == {}
    client.put_object(Bucket=BUCKET, Key="k", Body=b"")
    put({"QueueConfigurations": [created]})
    wait_until("the test event", lambda: len(hook.tests()) > before)
    assert hook.names("k") == ["ObjectCreated:Put"]


def test_a_document_that_is_not_the_one_that_was_meant_is_refused(gateway, hook):
    server, _ = started(gateway, hook)
    xml = b"<NotificationConfiguration></NotificationConfiguration>"
    for headers, body in [({"Content-MD5": "AAAAAAAAAAAAAAAAAAAAAA=="}, xml), ({}, xml[:-3])]:
        status, _, text = send(server, "PUT", f"/{BUCKET}?notification=", headers, body)
        assert status == 400, text


def test_a_kill_between_a_change_and_its_delivery_loses_no_event(gateway, hook):
    port, hook.status = hook.port, 503
    server, client = started(gateway, hook)
    subscribe(client, rule("s3:ObjectCreated:*"), SkipDestinationValidation=True)
    for n in range(40):
        client.put_object(Bucket=BUCKET, Key=f"k{n % 20}", Body=str(n).encode())
    server.kill()
    server.start()
    assert server.stats()["notifications"][0]["queued"] == 40
    warned = wait_until("a failure", lambda: server.metrics().get('tidegate_notification_failed_requests_total{target="hook"}'))
    assert warned >= 1
    hook.status = 200
    wait_until("all", lambda: len(hook.records()) >= 40)
    # Killed while events are on their way: those may come twice, none is missing.
    hook.slow = 0.05
    for n in range(40):
        client.put_object(Bucket=BUCKET, Key=f"m{n}", Body=b"")
    server.kill()
    hook.close()
    server.start()
    server.client().put_object(Bucket=BUCKET, Key="down", Body=b"")
    again = Webhook(port)
    try:
        wanted = {f"m{n}" for n in range(40)} | {"down"}
        seen = lambda: {r["s3"]["object"]["key"] for one in (hook, again) for r in one.records()}
        wait_until("all keys", lambda: wanted <= seen(), 60)
        for key in [f"k{n}" for n in range(20)]:
            ids = [r["s3"]["object"]["sequencer"] for r in hook.records() if r["s3"]["object"]["key"] == key]
            assert ids == sorted(ids) and len(set(ids)) == 2
        wait_until("the queue to be empty", lambda: server.stats()["notifications"][0]["queued"] == 0)
    finally:
        again.close()


def test_a_target_that_is_down_or_slow_holds_up_no_other(gateway, hook):
    dead = Webhook()
    dead.close()
    slow = Webhook()
    slow.slow = 1.0
    try:
        server, client = started(gateway, hook, targets={"dead": target(dead), "slow": target(slow, concurrency=1)})
        rules = [rule("s3:ObjectCreated:*", name=name, prefix=name) for name in ("dead", "slow", "hook")]
        subscribe(client, *rules)
        for n in range(30):
            for name in ("dead", "slow", "hook"):
                client.put_object(Bucket=BUCKET, Key=f"{name}{n}", Body=b"")
        wait_until("the one that is well", lambda: len(hook.records()) == 30)
        assert len(slow.records()) < 30 and dead.records() == []
        queues = {queue["target"]: queue for queue in server.stats()["notifications"]}
        assert queues["dead"]["queued"] == 31 and queues["dead"]["oldest_age_ms"] > 0
        assert "notifications" in server.cli("stats").out
        server.stop()  # is not held up either
    finally:
        slow.close()


def test_one_event_that_is_refused_holds_up_its_own_key_only(gateway, hook):
    _, client = started(gateway, hook)
    subscribe(client, rule("s3:ObjectCreated:*"))
    bad = lambda request: any(r["s3"]["object"]["key"] == "bad" for r in request["body"].get("Records", []))
    hook.refuse = bad
    for key in ("bad", "bad", "good", "fine"):
        client.put_object(Bucket=BUCKET, Key=key, Body=b"")
    wait_until("the others", lambda: hook.names("good") and hook.names("fine"))
    wait_until("another try", lambda: len([1 for status, _ in hook.requests if status == 400]) > 1)
    hook.refuse = lambda request: False
    hook.wait_names(["ObjectCreated:Put"] * 2, "bad")


def test_a_page_full_of_refused_events_holds_up_no_other_key_and_what_is_refused_for_a_day_is_given_up(gateway, hook):
    server, client = started(gateway, hook)
    about = lambda request: [r["s3"]["object"] for r in request["body"].get("Records", [])]
    hook.refuse = lambda request: any(o["key"] == "bad" and o["size"] == 1 for o in about(request))
    subscribe(client, rule("s3:ObjectCreated:*"), SkipDestinationValidation=True)
    client.put_object(Bucket=BUCKET, Key="bad", Body=b"1")
    for _ in range(260):  # more than a page
        client.put_object(Bucket=BUCKET, Key="bad", Body=b"22")
    client.put_object(Bucket=BUCKET, Key="good", Body=b"")
    hook.wait_names(["ObjectCreated:Put"], "good")
    tries = lambda: len([1 for status, _ in hook.requests if status == 400])
    before = tries()
    wait_until("another try", lambda: tries() > before)
    assert hook.names("bad") == [] and server.stats()["notifications"][0]["queued"] == 261
    server.advance_own(DAY + 60)
    wait_until("the later ones", lambda: len(hook.names("bad")) == 260)
    order = [thing["sequencer"] for request in hook.taken() for thing in about(request) if thing["key"] == "bad"]
    assert order == sorted(order)
    wait_until("the queue to be empty", lambda: server.stats()["notifications"][0]["queued"] == 0)
    assert server.metrics()['tidegate_notification_given_up_events_total{target="hook"}'] == 1
    assert any("AN EVENT IS LOST" in line for line in server.process.lines)


def test_redirects_are_not_followed(gateway, hook):
    server, client = started(gateway, hook)
    hook.status = 302
    subscribe(client, rule("s3:ObjectCreated:*"))
    wait_until("two tries", lambda: len(hook.requests) > 1)
    assert {request["path"] for _, request in hook.requests} == {"/hook?in=path-secret"}
    assert server.stats()["notifications"][0]["queued"] == 1


def test_a_full_queue_is_said_and_counted_and_goes_on_afterwards(gateway, hook):
    server, client = started(gateway, hook, target={"max_queued": 5})
    hook.status = 500
    subscribe(client, rule("s3:ObjectCreated:*"), SkipDestinationValidation=True)
    for n in range(8):
        client.put_object(Bucket=BUCKET, Key=f"k{n}", Body=b"")
    queue = server.stats()["notifications"][0]
    assert (queue["queued"], queue["dropped"]) == (5, 3)
    assert server.metrics()['tidegate_notification_dropped_events_total{target="hook"}'] == 3
    assert any("EVENTS ARE LOST" in line for line in server.process.lines)
    assert "5 events wait for target hook" in requests.get(server.admin_url + "/readyz", timeout=5).text
    hook.status = 200
    wait_until("all that were queued", lambda: len(hook.records()) == 5)
    wait_until("the queue to be empty", lambda: server.stats()["notifications"][0]["queued"] == 0)
    client.put_object(Bucket=BUCKET, Key="after", Body=b"")
    hook.wait_names(["ObjectCreated:Put"], "after")


def test_events_of_a_target_that_is_configured_no_more_wait_for_it(gateway, hook):
    server, client = started(gateway, hook)
    hook.status = 500
    subscribe(client, rule("s3:ObjectCreated:*"), SkipDestinationValidation=True)
    client.put_object(Bucket=BUCKET, Key="k", Body=b"")
    server.stop()
    targets = server.settings.pop("notifications")
    server.write_config()
    server.start()
    client.put_object(Bucket=BUCKET, Key="lost", Body=b"")
    queue = server.stats()["notifications"][0]
    assert (queue["queued"], queue["configured"], queue["dropped"]) == (1, False, 1)
    server.stop()
    server.settings["notifications"] = targets
    server.write_config()
    hook.status = 200
    server.start()
    hook.wait_names(["ObjectCreated:Put"], "k")


def test_tls_with_an_authority_of_ones_own(gateway, tmp_path):
    authority = Authority(tmp_path / "authority")
    certificate, key, _ = authority.issue()
    (tmp_path / "hook.pem").write_bytes(certificate)
    (tmp_path / "hook.key").write_bytes(key)
    secure = Webhook(tls=(tmp_path / "hook.pem", tmp_path / "hook.key"))
    try:
        targets = {"hook": target(secure, ca_file=str(authority.file)), "stranger": target(secure)}
        server = gateway(notifications={"targets": targets}).start()
        client = server.client()
        client.create_bucket(Bucket=BUCKET)
        subscribe(client, rule("s3:ObjectCreated:*"), rule("s3:ObjectRemoved:*", name="stranger"))
        wait_until("the test event of the one that trusts", secure.tests)
        failed = 'tidegate_notification_failed_requests_total{target="stranger"}'
        wait_until("a refused certificate", lambda: server.metrics().get(failed))
        assert len(secure.tests()) == 1
    finally:
        secure.close()


def test_check_finds_targets_that_cannot_work(gateway):
    targets = {
        "Bad Name": {"url": "http://h/"},
        "none": {},
        "odd": {"url": "ftp://h/path-secret"},
        "user": {"url": "https://me:path-secret@h/"},
        "ca": {"url": "https://h/", "ca_file": "/no/such.pem"},
        "short": {"url": "https://h/", "timeout": "1ms"},
    }
    answer = gateway(notifications={"targets": targets}).cli("check", check=False)
    assert answer.code != 0
    text = answer.out + answer.err
    for setting in ("Bad Name", "none.url", "odd.url", "user.url", "ca.ca_file", "short.timeout"):
        assert f"notifications.targets.{setting}" in text, text
    assert "path-secret" not in text


def test_a_standby_sends_nothing_and_its_promotion_sends_the_rest(gateway, sim, hook):
    hook.status = 503
    recovery = {"recovery": {"tier": "archive", "rpo": "200ms"}, "standby": {"poll": "200ms"}, "sim": sim}
    primary, client = started(gateway, hook, **recovery)
    own = Webhook()
    try:
        standby = gateway(notifications={"targets": {"hook": target(own)}}, **recovery)
        subscribe(client, rule("s3:ObjectCreated:*"), SkipDestinationValidation=True)
        for n in range(5):
            client.put_object(Bucket=BUCKET, Key=f"k{n}", Body=b"")

        def shipped():
            found = primary.stats()["recovery"]
            return found["term"] > 0 and found["lag_records"] == 0 and found["shipped_sequence"]

        last = wait_until("all to be shipped", shipped)
        standby.start(command=("standby", "--from", "archive"))
        wait_until("the standby to have it", lambda: standby.stats()["standby"]["applied_sequence"] >= last)
        assert standby.stats()["notifications"][0]["queued"] == 5
        assert own.requests == []
        primary.kill()
        standby.cli("promote", "--yes", timeout=120)
        wait_until("the new primary to send", lambda: len(own.records()) == 5, 60)
        assert {r["s3"]["object"]["key"] for r in own.records()} == {f"k{n}" for n in range(5)}
    finally:
        own.close()
