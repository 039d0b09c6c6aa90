"""Object lock: the configuration of buckets, retention and legal hold of versions, what they forbid and to whom, and that lifecycle,
restarts and recovery honour them."""

import datetime
import json

import pytest
import urllib3

from harness import DAY, read_body, wait_until
from s3util import refused, send, upload
from settings import policy
from test_users import add, client

UTC = datetime.timezone.utc
FAR = datetime.datetime(2199, 1, 1, tzinfo=UTC)
FARTHER = datetime.datetime(2199, 1, 3, tzinfo=UTC)
GOVERNANCE, COMPLIANCE = "GOVERNANCE", "COMPLIANCE"


def lock(s3, bucket, **default):
    """Object lock for a versioned bucket, with a default retention if one is given."""
    rule = {"Rule": {"DefaultRetention": default}} if default else {}
    configuration = {"ObjectLockEnabled": "Enabled", **rule}
    s3.put_object_lock_configuration(Bucket=bucket, ObjectLockConfiguration=configuration)
    return configuration


@pytest.fixture
def locked(s3, bucket):
    s3.create_bucket(Bucket=bucket + "-locked", ObjectLockEnabledForBucket=True)
    return bucket + "-locked"


def put(s3, bucket, key="k", body=b"body", **more):
    return s3.put_object(Bucket=bucket, Key=key, Body=body, **more)["VersionId"]


def retain(s3, bucket, mode, until, key="k", **more):
    retention = {"Mode": mode, "RetainUntilDate": until} if mode else {}
    s3.put_object_retention(Bucket=bucket, Key=key, Retention=retention, **more)


def hold(s3, bucket, status, key="k", **more):
    s3.put_object_legal_hold(Bucket=bucket, Key=key, LegalHold={"Status": status}, **more)


# --- buckets ---


def test_a_bucket_may_be_made_with_object_lock_and_keeps_it(s3, bucket, locked):
    assert s3.get_bucket_versioning(Bucket=locked)["Status"] == "Enabled"
    answer = s3.get_object_lock_configuration(Bucket=locked)
    assert answer["ObjectLockConfiguration"] == {"ObjectLockEnabled": "Enabled"}
    for default in ({"Mode": GOVERNANCE, "Days": 1}, {"Mode": COMPLIANCE, "Years": 100}, {"Mode": GOVERNANCE, "Days": 36500}, {}):
        configuration = lock(s3, locked, **default)
        assert s3.get_object_lock_configuration(Bucket=locked)["ObjectLockConfiguration"] == configuration
    with refused("InvalidBucketState", 409):
        s3.put_bucket_versioning(Bucket=locked, VersioningConfiguration={"Status": "Suspended"})
    s3.put_bucket_versioning(Bucket=locked, VersioningConfiguration={"Status": "Enabled"})
    assert s3.get_bucket_versioning(Bucket=locked)["Status"] == "Enabled"
    s3.create_bucket(Bucket=bucket + "-plain", ObjectLockEnabledForBucket=False)
    assert "Status" not in s3.get_bucket_versioning(Bucket=bucket + "-plain")


def test_a_bucket_with_versions_may_get_object_lock_later(s3, bucket):
    with refused("ObjectLockConfigurationNotFoundError", 404):
        s3.get_object_lock_configuration(Bucket=bucket)
    for status in (None, "Enabled", "Suspended"):
        if status:
            s3.put_bucket_versioning(Bucket=bucket, VersioningConfiguration={"Status": status})
        if status != "Enabled":
            with refused("InvalidBucketState", 409):
                lock(s3, bucket, Mode=GOVERNANCE, Days=1)
    s3.put_bucket_versioning(Bucket=bucket, VersioningConfiguration={"Status": "Enabled"})
    configuration = lock(s3, bucket, Mode=GOVERNANCE, Days=1)
    assert s3.get_object_lock_configuration(Bucket=bucket)["ObjectLockConfiguration"] == configuration
    for call in (s3.get_object_lock_configuration, lambda Bucket: lock(s3, Bucket)):
        with refused("NoSuchBucket", 404):
            call(Bucket=bucket + "-nowhere")


@pytest.mark.parametrize(
    "code, configuration",
    [
        ("MalformedXML", {}),
        ("MalformedXML", {"ObjectLockEnabled": "Disabled"}),
        ("MalformedXML", {"ObjectLockEnabled": "Enabled", "Rule": {}}),
        ("MalformedXML", {"ObjectLockEnabled": "Enabled", "Rule": {"DefaultRetention": {"Mode": GOVERNANCE}}}),
        ("MalformedXML", {"ObjectLockEnabled": "Enabled", "Rule": {"DefaultRetention": {"Days": 1}}}),
        ("MalformedXML", {"ObjectLockEnabled": "Enabled", "Rule": {"DefaultRetention": {"Mode": "governance", "Days": 1}}}),
        ("MalformedXML", {"ObjectLockEnabled": "Enabled", "Rule": {"DefaultRetention": {"Mode": GOVERNANCE, "Days": 1, "Years": 1}}}),
        ("InvalidRetentionPeriod", {"ObjectLockEnabled": "Enabled", "Rule": {"DefaultRetention": {"Mode": GOVERNANCE, "Days": 0}}}),
        ("InvalidRetentionPeriod", {"ObjectLockEnabled": "Enabled", "Rule": {"DefaultRetention": {"Mode": GOVERNANCE, "Years": -1}}}),
        ("InvalidArgument", {"ObjectLockEnabled": "Enabled", "Rule": {"DefaultRetention": {"Mode": GOVERNANCE, "Days": 36501}}}),
        ("InvalidArgument", {"ObjectLockEnabled": "Enabled", "Rule": {"DefaultRetention": {"Mode": GOVERNANCE, "Years": 101}}}),
    ],
)
def test_what_is_no_configuration_is_refused_and_changes_nothing(s3, locked, code, configuration):
    before = lock(s3, locked, Mode=COMPLIANCE, Days=3)
    with refused(code, 400):
        s3.put_object_lock_configuration(Bucket=locked, ObjectLockConfiguration=configuration)
    assert s3.get_object_lock_configuration(Bucket=locked)["ObjectLockConfiguration"] == before


def test_documents_are_compared_with_their_digests(shared, s3, locked):
    put(s3, locked)
    xml = b"<LegalHold><Status>ON</Status></LegalHold>"
    for path in (f"/{locked}?object-lock=", f"/{locked}/k?retention=", f"/{locked}/k?legal-hold="):
        status, _, answer = send(shared, "PUT", path, {"Content-MD5": "1B2M2Y8AsgTpgAmY7PhCfg=="}, body=xml)
        assert status == 400 and b"<Code>BadDigest</Code>" in answer, answer
        status, _, answer = send(shared, "PUT", path, body=b"")
        assert status == 400 and b"<Code>MalformedXML</Code>" in answer, answer
    with refused("NoSuchObjectLockConfiguration", 404):
        s3.get_object_legal_hold(Bucket=locked, Key="k")


# --- versions ---


def test_a_retention_is_put_shown_and_extended(s3, locked):
    version = put(s3, locked)
    with refused("NoSuchObjectLockConfiguration", 404):
        s3.get_object_retention(Bucket=locked, Key="k")
    assert "ObjectLockMode" not in s3.head_object(Bucket=locked, Key="k")
    retain(s3, locked, GOVERNANCE, FAR)
    for answer in (s3.get_object_retention(Bucket=locked, Key="k"), s3.get_object_retention(Bucket=locked, Key="k", VersionId=version)):
        assert answer["Retention"] == {"Mode": GOVERNANCE, "RetainUntilDate": FAR}
    for answer in (s3.head_object(Bucket=locked, Key="k"), s3.get_object(Bucket=locked, Key="k", VersionId=version)):
        assert (answer["ObjectLockMode"], answer["ObjectLockRetainUntilDate"]) == (GOVERNANCE, FAR)
        assert "ObjectLockLegalHoldStatus" not in answer
    newer = put(s3, locked, body=b"newer")
    retain(s3, locked, GOVERNANCE, FARTHER, VersionId=version)
    assert s3.get_object_retention(Bucket=locked, Key="k", VersionId=version)["Retention"]["RetainUntilDate"] == FARTHER
    with refused("NoSuchObjectLockConfiguration", 404):
        s3.get_object_retention(Bucket=locked, Key="k", VersionId=newer)
    for mode, until in ((GOVERNANCE, FAR), (COMPLIANCE, FARTHER), (None, None)):
        with refused("AccessDenied", 403):
            retain(s3, locked, mode, until, VersionId=version)
    retain(s3, locked, GOVERNANCE, FAR, VersionId=version, BypassGovernanceRetention=True)
    retain(s3, locked, None, None, VersionId=version, BypassGovernanceRetention=True)
    with refused("NoSuchObjectLockConfiguration", 404):
        s3.get_object_retention(Bucket=locked, Key="k", VersionId=version)
    assert s3.delete_object(Bucket=locked, Key="k", VersionId=version)["ResponseMetadata"]["HTTPStatusCode"] == 204


def test_governance_is_bypassed_and_compliance_is_not(s3, locked):
    for mode in (GOVERNANCE, COMPLIANCE):
        version = put(s3, locked, mode, ObjectLockMode=mode, ObjectLockRetainUntilDate=FAR)
        with refused("AccessDenied", 403) as denied:
            s3.delete_object(Bucket=locked, Key=mode, VersionId=version)
        assert "object protected by object lock" in str(denied.error)
        one = {"Objects": [{"Key": mode, "VersionId": version}, {"Key": "other"}]}
        answer = s3.delete_objects(Bucket=locked, Delete=one)
        assert [(e["Key"], e["VersionId"], e["Code"]) for e in answer["Errors"]] == [(mode, version, "AccessDenied")]
        assert [d["Key"] for d in answer["Deleted"]] == ["other"]
        marker = s3.delete_object(Bucket=locked, Key=mode)
        assert marker["DeleteMarker"]
        assert read_body(s3, locked, mode, VersionId=version) == b"body"
        answer = s3.delete_objects(Bucket=locked, Delete=one, BypassGovernanceRetention=True)
        assert [e["Code"] for e in answer.get("Errors", [])] == ([] if mode == GOVERNANCE else ["AccessDenied"])
        if mode == COMPLIANCE:
            for until in (FAR - datetime.timedelta(days=1), None):
                with refused("AccessDenied", 403):
                    retain(s3, locked, until and COMPLIANCE, until, mode, VersionId=version, BypassGovernanceRetention=True)
            with refused("AccessDenied", 403):
                retain(s3, locked, GOVERNANCE, FARTHER, mode, VersionId=version, BypassGovernanceRetention=True)
            retain(s3, locked, COMPLIANCE, FARTHER, mode, VersionId=version)
            with refused("BucketNotEmpty", 409):
                s3.delete_bucket(Bucket=locked)


def test_a_legal_hold_stands_until_it_is_lifted(s3, locked):
    version = put(s3, locked)
    hold(s3, locked, "ON")
    assert s3.get_object_legal_hold(Bucket=locked, Key="k")["LegalHold"] == {"Status": "ON"}
    assert s3.head_object(Bucket=locked, Key="k")["ObjectLockLegalHoldStatus"] == "ON"
    for bypass in (False, True):
        with refused("AccessDenied", 403):
            s3.delete_object(Bucket=locked, Key="k", VersionId=version, BypassGovernanceRetention=bypass)
    put(s3, locked, body=b"newer")
    hold(s3, locked, "OFF", VersionId=version)
    assert s3.get_object_legal_hold(Bucket=locked, Key="k", VersionId=version)["LegalHold"] == {"Status": "OFF"}
    assert s3.get_object(Bucket=locked, Key="k", VersionId=version)["ObjectLockLegalHoldStatus"] == "OFF"
    s3.delete_object(Bucket=locked, Key="k", VersionId=version)
    with refused("NoSuchVersion", 404):
        hold(s3, locked, "ON", VersionId=version)


def test_mistakes_about_locks_have_the_codes_of_s3(shared, s3, bucket, locked):
    past = datetime.datetime(2001, 1, 1, tzinfo=UTC)
    s3.put_object(Bucket=bucket, Key="k", Body=b"")
    for call in (
        lambda: retain(s3, bucket, GOVERNANCE, FAR),
        lambda: hold(s3, bucket, "ON"),
        lambda: s3.get_object_retention(Bucket=bucket, Key="k"),
        lambda: s3.get_object_legal_hold(Bucket=bucket, Key="k"),
        lambda: put(s3, bucket, ObjectLockLegalHoldStatus="ON"),
        lambda: s3.create_multipart_upload(Bucket=bucket, Key="k", ObjectLockMode=GOVERNANCE, ObjectLockRetainUntilDate=FAR),
        lambda: s3.copy_object(Bucket=bucket, Key="c", CopySource=f"{bucket}/k", ObjectLockLegalHoldStatus="OFF"),
    ):
        with refused("InvalidRequest", 400) as missing:
            call()
        assert "Bucket is missing Object Lock Configuration" in str(missing.error)
    put(s3, locked)
    for mode, until, code in (("governance", FAR, "MalformedXML"), (GOVERNANCE, past, "InvalidArgument")):
        with refused(code, 400):
            retain(s3, locked, mode, until)
    for half in ({"Mode": GOVERNANCE}, {"RetainUntilDate": FAR}):
        with refused("MalformedXML", 400):
            s3.put_object_retention(Bucket=locked, Key="k", Retention=half)
    for status in ("abc", "on", ""):
        with refused("MalformedXML", 400):
            hold(s3, locked, status)
    for more in (
        {"ObjectLockMode": GOVERNANCE},
        {"ObjectLockRetainUntilDate": FAR},
        {"ObjectLockMode": "abc", "ObjectLockRetainUntilDate": FAR},
        {"ObjectLockMode": GOVERNANCE, "ObjectLockRetainUntilDate": past},
        {"ObjectLockLegalHoldStatus": "abc"},
    ):
        with refused("InvalidArgument", 400):
            put(s3, locked, **more)
    with refused("NoSuchKey", 404):
        retain(s3, locked, GOVERNANCE, FAR, "nowhere")
    marker = s3.delete_object(Bucket=locked, Key="k")["VersionId"]
    with refused("MethodNotAllowed", 405):
        hold(s3, locked, "ON", VersionId=marker)
    line = {"x-amz-object-lock-legal-hold": "ON"}
    status, _, answer = send(shared, "PUT", f"/{locked}/k", line, body=b"x")
    assert status == 400 and b"<Code>InvalidRequest</Code>" in answer and b"Content-MD5" in answer, answer
    status, _, answer = send(shared, "PUT", f"/{locked}/k?tagging=", line, body=b"<Tagging><TagSet/></Tagging>")
    assert status == 400 and b"<Code>InvalidArgument</Code>" in answer, answer


def test_every_way_to_make_an_object_takes_a_lock(shared, s3, locked):
    more = {"ObjectLockMode": COMPLIANCE, "ObjectLockRetainUntilDate": FAR, "ObjectLockLegalHoldStatus": "ON"}

    def shown(key):
        head = s3.head_object(Bucket=locked, Key=key)
        return tuple(head.get(name) for name in ("ObjectLockMode", "ObjectLockRetainUntilDate", "ObjectLockLegalHoldStatus"))

    put(s3, locked, "put", **more)
    upload(s3, locked, "parts", [(1, b"part")], **more)
    s3.copy_object(Bucket=locked, Key="copy", CopySource=f"{locked}/put", **more)
    fields = {"x-amz-object-lock-mode": COMPLIANCE, "x-amz-object-lock-retain-until-date": "2199-01-01T00:00:00Z", "x-amz-object-lock-legal-hold": "ON"}
    form = s3.generate_presigned_post(locked, "form", Fields=fields, Conditions=[{name: value} for name, value in fields.items()])
    answer = urllib3.request("POST", form["url"], fields={**form["fields"], "file": ("f", b"file")})
    assert answer.status == 204, answer.data
    for key in ("put", "parts", "copy", "form"):
        assert shown(key) == (COMPLIANCE, FAR, "ON"), key
    s3.copy_object(Bucket=locked, Key="plain", CopySource=f"{locked}/put")
    assert shown("plain") == (None, None, None)
    lock(s3, locked, Mode=GOVERNANCE, Days=2)
    put(s3, locked, "put")
    upload(s3, locked, "parts", [(1, b"part")])
    s3.copy_object(Bucket=locked, Key="copy", CopySource=f"{locked}/plain")
    for key in ("put", "parts", "copy"):
        head = s3.head_object(Bucket=locked, Key=key)
        until = head["ObjectLockRetainUntilDate"] - head["LastModified"]
        assert head["ObjectLockMode"] == GOVERNANCE and abs(until - datetime.timedelta(days=2)).total_seconds() < 2, key
    put(s3, locked, "own", ObjectLockMode=COMPLIANCE, ObjectLockRetainUntilDate=FAR)
    assert shown("own") == (COMPLIANCE, FAR, None)


# --- who may ---


def test_policies_decide_about_locks(gateway, sim):
    server = gateway(sim=sim).start()
    root = server.client()
    root.create_bucket(Bucket="data", ObjectLockEnabledForBucket=True)
    writer = client(server, add(server, "writer"))
    arn = "arn:aws:s3:::data"

    def allow(*actions, **condition):
        allowed = {"Effect": "Allow", "Principal": "*", "Action": ["s3:PutObject", "s3:GetObject*", "s3:DeleteObject*", *actions], "Resource": [f"{arn}/*"]}
        denied = [{"Effect": "Deny", "Principal": "*", "Resource": f"{arn}/*", "Action": "s3:PutObjectRetention", "Condition": condition}] if condition else []
        statements = [allowed, {"Effect": "Allow", "Principal": "*", "Action": "s3:ListBucket", "Resource": arn}, *denied]
        root.put_bucket_policy(Bucket="data", Policy=json.dumps({"Version": "2012-10-17", "Statement": statements}))

    allow()
    version = put(writer, "data")
    for call in (
        lambda: retain(writer, "data", GOVERNANCE, FAR),
        lambda: hold(writer, "data", "ON"),
        lambda: put(writer, "data", ObjectLockMode=GOVERNANCE, ObjectLockRetainUntilDate=FAR),
        lambda: put(writer, "data", ObjectLockLegalHoldStatus="ON"),
        lambda: writer.get_object_lock_configuration(Bucket="data"),
        lambda: lock(writer, "data"),
    ):
        with refused("AccessDenied", 403):
            call()
    allow("s3:PutObjectRetention")
    retain(writer, "data", GOVERNANCE, FAR)
    for bypassed in (
        lambda: writer.delete_object(Bucket="data", Key="k", VersionId=version, BypassGovernanceRetention=True),
        lambda: retain(writer, "data", None, None, BypassGovernanceRetention=True),
    ):
        with refused("AccessDenied", 403):
            bypassed()
    one = {"Objects": [{"Key": "k", "VersionId": version}]}
    answer = writer.delete_objects(Bucket="data", Delete=one, BypassGovernanceRetention=True)
    assert [e["Code"] for e in answer["Errors"]] == ["AccessDenied"]
    # Conditions look at headers and at documents alike.
    soon = datetime.datetime.now(UTC) + datetime.timedelta(days=5)
    allow("s3:PutObjectRetention", NumericGreaterThan={"s3:object-lock-remaining-retention-days": "10"})
    with refused("AccessDenied", 403):
        put(writer, "data", "n", ObjectLockMode=GOVERNANCE, ObjectLockRetainUntilDate=FAR)
    put(writer, "data", "n", ObjectLockMode=GOVERNANCE, ObjectLockRetainUntilDate=soon)
    with refused("AccessDenied", 403):
        retain(writer, "data", GOVERNANCE, FAR, "n")
    retain(writer, "data", GOVERNANCE, soon + datetime.timedelta(days=1), "n")
    allow("s3:PutObjectRetention", StringEquals={"s3:object-lock-mode": COMPLIANCE})
    with refused("AccessDenied", 403):
        retain(writer, "data", COMPLIANCE, FAR, "n")
    allow("s3:BypassGovernanceRetention")
    writer.delete_object(Bucket="data", Key="k", VersionId=version, BypassGovernanceRetention=True)
    # Who may not ask for a lock is not shown one.
    put(root, "data", "shown", ObjectLockMode=GOVERNANCE, ObjectLockRetainUntilDate=FAR, ObjectLockLegalHoldStatus="ON")
    statements = [{"Effect": "Allow", "Principal": "*", "Action": "s3:GetObject", "Resource": f"{arn}/*"}]
    root.put_bucket_policy(Bucket="data", Policy=json.dumps({"Version": "2012-10-17", "Statement": statements}))
    head = writer.head_object(Bucket="data", Key="shown")
    assert not [name for name in head if name.startswith("ObjectLock")]
    assert root.head_object(Bucket="data", Key="shown")["ObjectLockLegalHoldStatus"] == "ON"
    hold(root, "data", "OFF", "shown")


# --- time, lifecycle, restarts ---


def test_lifecycle_restarts_and_time_honour_locks(gateway, sim):
    server = gateway(sim=sim, policy=policy(bucket="data")).start()
    s3 = server.client()
    s3.create_bucket(Bucket="data", ObjectLockEnabledForBucket=True)
    lock(s3, "data", Mode=COMPLIANCE, Days=20)
    rule = {"ID": "r", "Status": "Enabled", "Filter": {"Prefix": ""}, "NoncurrentVersionExpiration": {"NoncurrentDays": 2}}
    s3.put_bucket_lifecycle_configuration(Bucket="data", LifecycleConfiguration={"Rules": [rule]})
    old = put(s3, "data", body=b"old")
    held = put(s3, "data", "held", b"held", ObjectLockLegalHoldStatus="ON")
    put(s3, "data", body=b"newer")
    put(s3, "data", "held", b"newer")
    status = server.status("data", "k")
    assert status["retention"]["mode"] == COMPLIANCE and status["legal_hold"] is False
    server.advance(10 * DAY)
    server.kill()
    server.restart()
    s3 = server.client()
    server.cli("gc")
    server.cli("fsck", "--repair")

    def there(key, version):
        return version in [v["VersionId"] for v in s3.list_object_versions(Bucket="data", Prefix=key).get("Versions", [])]

    assert read_body(s3, "data", "k", VersionId=old) == b"old"
    with refused("AccessDenied", 403):
        s3.delete_object(Bucket="data", Key="k", VersionId=old, BypassGovernanceRetention=True)
    server.advance(11 * DAY)
    wait_until("the rule takes what was retained", lambda: not there("k", old))
    assert read_body(s3, "data", "held", VersionId=held) == b"held"
    hold(s3, "data", "OFF", "held", VersionId=held)
    wait_until("the rule takes what was held", lambda: not there("held", held))
