"""The lifecycle of a bucket over S3: what put gave is what get gives, what S3 refuses is refused, and rules do what their headers
say, in days of the calendar (the clock is moved) and in days that are shortened for tests."""

import datetime
import email.utils
import re
import time
import urllib.request

from harness import DAY, http, wait_until
from s3util import MIB, refused
from settings import policy

BUCKET = "data"


def rule(name, **parts):
    return {"ID": name, "Status": "Enabled", "Filter": {"Prefix": ""}, **parts}


def put(client, *rules, bucket=BUCKET, **more):
    return client.put_bucket_lifecycle_configuration(
        Bucket=bucket, LifecycleConfiguration={"Rules": list(rules)}, **more
    )


def keys(client, bucket=BUCKET):
    return {o["Key"] for o in client.list_objects_v2(Bucket=bucket).get("Contents", [])}


def parsed(header):
    """Time and rule of an `x-amz-expiration`."""
    found = re.fullmatch(r'expiry-date="([^"]+)", rule-id="([^"]+)"', header)
    assert found, header
    return email.utils.parsedate_to_datetime(found.group(1)), found.group(2)


def midnight_after(at, days):
    """S3's rule: the days are added, then the time goes on to the next midnight."""
    end = at + datetime.timedelta(days=days)
    midnight = end.replace(hour=0, minute=0, second=0, microsecond=0)
    return midnight if midnight == end else midnight + datetime.timedelta(days=1)


def test_what_put_gave_is_what_get_gives(gateway, sim):
    client = gateway(sim=sim).start().client()
    client.create_bucket(Bucket=BUCKET)
    with refused("NoSuchLifecycleConfiguration", 404):
        client.get_bucket_lifecycle_configuration(Bucket=BUCKET)
    date = datetime.datetime(2031, 1, 2, tzinfo=datetime.timezone.utc)
    tags = [{"Key": "b", "Value": "2"}, {"Key": "a", "Value": "1"}]
    rules = [
        rule("days", Expiration={"Days": 365}),
        rule("off", Status="Disabled", Expiration={"Date": date}),
        rule("tag", Filter={"Tag": tags[0]}, Expiration={"Days": 2}),
        rule("large", Filter={"ObjectSizeGreaterThan": 0}, Expiration={"Days": 3}),
        rule("small", Filter={"ObjectSizeLessThan": 5}, Expiration={"Days": 3}),
        rule(
            "and",
            Filter={"And": {"Prefix": "x/", "Tags": tags, "ObjectSizeGreaterThan": 1, "ObjectSizeLessThan": 9}},
            Transitions=[{"Days": 90, "StorageClass": "GLACIER"}, {"Days": 30, "StorageClass": "STANDARD_IA"}],
        ),
        rule("dated", Transitions=[{"Date": date, "StorageClass": "DEEP_ARCHIVE"}]),
        rule(
            "noncurrent",
            NoncurrentVersionTransitions=[
                {"NoncurrentDays": 1, "StorageClass": "GLACIER", "NewerNoncurrentVersions": 2}
            ],
            NoncurrentVersionExpiration={"NoncurrentDays": 5, "NewerNoncurrentVersions": 3},
            Expiration={"ExpiredObjectDeleteMarker": True},
            AbortIncompleteMultipartUpload={"DaysAfterInitiation": 7},
        ),
    ]
    put(client, *rules)
    answer = client.get_bucket_lifecycle_configuration(Bucket=BUCKET)
    assert answer["Rules"] == rules
    assert "TransitionDefaultMinimumObjectSize" not in answer
    put(client, rules[0], TransitionDefaultMinimumObjectSize="varies_by_storage_class")
    answer = client.get_bucket_lifecycle_configuration(Bucket=BUCKET)
    assert answer["Rules"] == rules[:1]
    assert answer["TransitionDefaultMinimumObjectSize"] == "varies_by_storage_class"

    # Conditions beside each other are taken like those in And, and come back there.
    beside = rule("beside", Filter={"Prefix": "x/", "Tag": tags[0], "And": {"Prefix": "x", "Tags": [tags[1]]}}, Expiration={"Days": 1})
    put(client, beside)
    found = client.get_bucket_lifecycle_configuration(Bucket=BUCKET)["Rules"]
    assert found == [{**beside, "Filter": {"And": {"Prefix": "x/", "Tags": tags}}}]

    old = {"Prefix": "old/", "Status": "Enabled", "Expiration": {"Days": 1}}
    client.put_bucket_lifecycle_configuration(Bucket=BUCKET, LifecycleConfiguration={"Rules": [old, old]})
    answer = client.get_bucket_lifecycle_configuration(Bucket=BUCKET)["Rules"]
    ids = [found.pop("ID") for found in answer]
    assert answer == [old, old] and len(set(ids)) == 2 and all(ids)

    client.delete_bucket_lifecycle(Bucket=BUCKET)
    client.delete_bucket_lifecycle(Bucket=BUCKET)
    with refused("NoSuchLifecycleConfiguration", 404):
        client.get_bucket_lifecycle_configuration(Bucket=BUCKET)
    with refused("NoSuchBucket", 404):
        put(client, rules[0], bucket="not-there")


def test_what_s3_refuses_is_refused_and_changes_nothing(gateway, sim):
    client = gateway(sim=sim).start().client()
    client.create_bucket(Bucket=BUCKET)
    good = rule("good", Expiration={"Days": 1})
    put(client, good)
    noon = datetime.datetime(2031, 1, 2, 12, tzinfo=datetime.timezone.utc)
    cases = [
        ("InvalidArgument", [good, good]),
        ("InvalidArgument", [rule("x" * 256, Expiration={"Days": 1})]),
        ("MalformedXML", [rule("x", Status="enabled", Expiration={"Days": 1})]),
        ("InvalidArgument", [rule("x", Expiration={"Days": 0})]),
        ("InvalidArgument", [rule("x", Expiration={"Date": noon})]),
        ("MalformedXML", [rule("x", Expiration={"Days": 1, "ExpiredObjectDeleteMarker": True})]),
        ("InvalidRequest", [rule("x")]),
        ("MalformedXML", [{"ID": "x", "Status": "Enabled", "Expiration": {"Days": 1}}]),
        ("MalformedXML", [rule("x", Transitions=[{"Days": 1, "StorageClass": "COLD"}])]),
        ("InvalidStorageClass", [rule("x", Transitions=[{"Days": 1, "StorageClass": "ONEZONE_IA"}])]),
        (
            "InvalidArgument",
            [rule("x", Expiration={"Days": 2}, Transitions=[{"Days": 2, "StorageClass": "GLACIER"}])],
        ),
        ("InvalidRequest", [rule(str(n), Expiration={"Days": 1}) for n in range(1001)]),
    ]
    for code, rules in cases:
        with refused(code, 400):
            put(client, *rules)
    assert client.get_bucket_lifecycle_configuration(Bucket=BUCKET)["Rules"] == [good]
    put(client, *[rule(str(n), Expiration={"Days": 1}) for n in range(1000)])
    assert len(client.get_bucket_lifecycle_configuration(Bucket=BUCKET)["Rules"]) == 1000


def test_objects_end_at_the_midnight_that_the_header_names(gateway, sim):
    server = gateway(sim=sim).start()
    client = server.client()
    client.create_bucket(Bucket=BUCKET)
    client.put_object(Bucket=BUCKET, Key="tmp/before", Body=b"x")
    put(
        client,
        rule("tmp rule", Filter={"Prefix": "tmp/"}, Expiration={"Days": 1}),
        rule("uploads", Filter={"Prefix": "up/"}, AbortIncompleteMultipartUpload={"DaysAfterInitiation": 2}),
    )
    written = client.put_object(Bucket=BUCKET, Key="tmp/a", Body=b"x")
    head = client.head_object(Bucket=BUCKET, Key="tmp/a")
    wanted = midnight_after(head["LastModified"], 1)
    copied = client.copy_object(Bucket=BUCKET, Key="tmp/copy", CopySource=f"{BUCKET}/tmp/a")
    upload = client.create_multipart_upload(Bucket=BUCKET, Key="tmp/parts")["UploadId"]
    part = client.upload_part(Bucket=BUCKET, Key="tmp/parts", UploadId=upload, PartNumber=1, Body=b"p")
    completed = client.complete_multipart_upload(
        Bucket=BUCKET,
        Key="tmp/parts",
        UploadId=upload,
        MultipartUpload={"Parts": [{"PartNumber": 1, "ETag": part["ETag"]}]},
    )
    got = client.get_object(Bucket=BUCKET, Key="tmp/before")
    for answer in [written, head, copied, completed, got]:
        at, name = parsed(answer["Expiration"])
        assert name == "tmp%20rule" and abs((at - wanted).days) <= 1 and (at.hour, at.minute, at.second) == (0, 0, 0)
    assert parsed(head["Expiration"])[0] == wanted
    client.put_object(Bucket=BUCKET, Key="keep", Body=b"x")
    assert "Expiration" not in client.head_object(Bucket=BUCKET, Key="keep")

    begun = client.create_multipart_upload(Bucket=BUCKET, Key="up/x")
    assert begun["AbortRuleId"] == "uploads" and begun["AbortDate"].hour == 0
    parts = client.list_parts(Bucket=BUCKET, Key="up/x", UploadId=begun["UploadId"])
    assert (parts["AbortDate"], parts["AbortRuleId"]) == (begun["AbortDate"], "uploads")

    now = datetime.datetime.now(datetime.timezone.utc)
    # The shared midnight of all is ahead; an hour before it everything is there.
    server.advance(int((wanted - now).total_seconds()) - 3600)
    assert keys(client) == {"tmp/before", "tmp/a", "tmp/copy", "tmp/parts", "keep"}
    server.advance(3600 + DAY + 5)
    wait_until("what has expired to go", lambda: keys(client) == {"keep"})
    server.advance(2 * DAY)
    wait_until("the upload to go", lambda: not client.list_multipart_uploads(Bucket=BUCKET).get("Uploads"))


def test_rules_of_both_kinds_count_and_are_named(gateway, sim):
    server = gateway(sim=sim, policy=policy(BUCKET, expire_after="200d")).start()
    client = server.client()
    client.create_bucket(Bucket=BUCKET)
    client.put_object(Bucket=BUCKET, Key="logs/a", Body=b"x" * 1000)
    assert parsed(client.head_object(Bucket=BUCKET, Key="logs/a")["Expiration"])[1] == "cool-down"
    put(
        client,
        rule("early", Expiration={"Days": 100}, Transitions=[{"Days": 5, "StorageClass": "STANDARD_IA"}]),
    )
    assert parsed(client.head_object(Bucket=BUCKET, Key="logs/a")["Expiration"])[1] == "early", "the earliest counts"
    wait_until("the bucket to be walked", lambda: "lifecycle_walks" not in server.stats())
    status = server.cli("object", "status", f"s3://{BUCKET}/logs/a").out
    assert f"lifecycle of bucket {BUCKET}, rule early" in status and "cool-down" in status
    plan = server.cli("policy", "plan", "--horizon", "400d", json_output=True).json
    named = {a["rule"]: a["decision"] for a in plan["actions"]}
    assert f"lifecycle of bucket {BUCKET}, rule early" in named and "cool-down" in named, plan

    def tier():
        residency = server.status(BUCKET, "logs/a")["residency"]
        return residency if isinstance(residency, str) else next(iter(residency.values()))["tier"]

    server.advance(7 * DAY)
    wait_until("the rule of the bucket to move it", lambda: tier() == "ia")
    server.advance(85 * DAY)
    wait_until("the policy to move it on", lambda: tier() == "archive")
    server.advance(10 * DAY)
    wait_until("the rule of the bucket to end it", lambda: not keys(client))


def test_a_lifecycle_survives_restarts_and_reaches_what_was_there_before(gateway, sim):
    server = gateway(sim=sim).start()
    client = server.client()
    client.create_bucket(Bucket=BUCKET)
    for n in range(300):
        client.put_object(Bucket=BUCKET, Key=f"k{n:03}", Body=b"x")
    put(client, rule("all", Expiration={"Days": 1}))
    # In the midst of the walk, or before it.
    server.kill()
    server.start()
    client = server.client()
    assert client.get_bucket_lifecycle_configuration(Bucket=BUCKET)["Rules"][0]["ID"] == "all"
    wait_until("the bucket to be walked", lambda: "lifecycle_walks" not in server.stats())
    server.advance(2 * DAY + 5)
    wait_until("all to expire", lambda: not keys(client))
    client.delete_bucket_lifecycle(Bucket=BUCKET)
    client.put_object(Bucket=BUCKET, Key="stays", Body=b"x")
    assert "Expiration" not in client.head_object(Bucket=BUCKET, Key="stays")
    server.advance(5 * DAY)
    assert keys(client) == {"stays"}


SHORT = {"lifecycle": {"seconds_per_day": 2}}


def test_shortened_days_are_refused_unless_asked_for(gateway):
    server = gateway(**SHORT)
    server.start(wait=False)
    assert server.process.wait() != 0
    said = "".join(server.process.lines)
    line = 1 + next(n for n, text in enumerate(server.config.read_text().splitlines()) if "seconds_per_day" in text)
    assert f"tidegate.yaml:{line}:" in said and "lifecycle.seconds_per_day" in said, said
    assert "--allow-test-settings" in said


def test_with_shortened_days_rules_act_within_about_a_day_and_everybody_can_see_it(gateway, sim):
    server = gateway(sim=sim, policy=policy(BUCKET, "40d", "90d", suffix=".never"), **SHORT)
    server.start("--allow-test-settings")
    client = server.client()
    assert any("TEST SETTINGS" in line and "WARN" in line for line in server.process.lines)
    assert "TEST SETTINGS" in server.cli("stats").out
    status, text = http("GET", f"{server.admin_url}/metrics")
    assert status == 200 and "\ntidegate_test_settings 1" in text
    with urllib.request.urlopen(f"{server.admin_url}/livez") as answer:
        assert answer.headers["x-tidegate-test-settings"] == "lifecycle.seconds_per_day=2"

    client.create_bucket(Bucket=BUCKET)
    put(
        client,
        rule("one", Filter={"Prefix": "one/"}, Expiration={"Days": 1}),
        rule("five", Filter={"Prefix": "five/"}, Expiration={"Days": 20}),
        rule("cool", Filter={"Prefix": "cool/"}, Transitions=[{"Days": 1, "StorageClass": "STANDARD_IA"}]),
        rule("up", Filter={"Prefix": "up/"}, AbortIncompleteMultipartUpload={"DaysAfterInitiation": 1}),
    )
    written = client.put_object(Bucket=BUCKET, Key="one/a", Body=b"x")
    at, _ = parsed(written["Expiration"])
    left = at - datetime.datetime.now(datetime.timezone.utc)
    assert datetime.timedelta(days=1) <= left + datetime.timedelta(seconds=60) and left.days <= 2, "clients see whole days"
    five = time.monotonic()
    client.put_object(Bucket=BUCKET, Key="five/a", Body=b"x")
    client.put_object(Bucket=BUCKET, Key="cool/a", Body=b"x" * MIB)
    client.create_multipart_upload(Bucket=BUCKET, Key="up/x")
    wait_until("one day to pass", lambda: "one/a" not in keys(client))
    wait_until("the upload to go", lambda: not client.list_multipart_uploads(Bucket=BUCKET).get("Uploads"))
    wait_until(
        "the object to be in IA",
        lambda: client.head_object(Bucket=BUCKET, Key="cool/a").get("StorageClass") == "STANDARD_IA",
    )
    wait_until("twenty days to pass", lambda: keys(client) == {"cool/a"})
    assert time.monotonic() - five >= 39, "twenty days were not over"
