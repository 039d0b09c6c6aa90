"""Accounts, users and temporary keys: the command line makes and changes them, boto3 signs with them."""

import json
import shutil
import subprocess

import boto3
import pytest
from botocore.config import Config
from botocore.exceptions import ClientError

import harness
from harness import read_body, wait_until
from settings import policy

BUCKET = "data"
FOLLOW = ("standby", "--from", "archive")
ALICE_KEY, ALICE_SECRET = "ALICEROOTKEY00000001", "alice/root+secret/for/loopback/only00001"
CAROL_KEY, CAROL_SECRET = "CAROLKEY000000000001", "carol/secret+for/loopback/only/0000000001"
ALLOW_READS = {"Version": "2012-10-17", "Statement": [{"Effect": "Allow", "Action": ["s3:Get*", "s3:List*"], "Resource": "*"}]}


def client(server, keys, service="s3"):
    """A client that signs with the keys: (access key, secret) or, with a token behind them, those of a session."""
    options = {"s3": {"addressing_style": "path"}, "signature_version": "s3v4"} if service == "s3" else {}
    return boto3.client(
        service,
        endpoint_url=server.endpoint,
        region_name=harness.REGION,
        aws_access_key_id=keys[0],
        aws_secret_access_key=keys[1],
        aws_session_token=keys[2] if len(keys) > 2 else None,
        config=Config(connect_timeout=5, read_timeout=60, retries={"max_attempts": 1, "mode": "standard"}, **options),
    )


def sts(server, keys=(harness.ACCESS_KEY, harness.SECRET_KEY)):
    return client(server, keys, "sts")


def refused(call, *args, **kwargs):
    """(code, status) of what is refused."""
    with pytest.raises(ClientError) as error:
        call(*args, **kwargs)
    answer = error.value.response
    return answer["Error"]["Code"], answer["ResponseMetadata"]["HTTPStatusCode"]


def add(server, name, *options):
    made = server.cli("user", "add", name, *options, json_output=True).json
    return made["access_key"], made["secret_key"]


def of_session(answer):
    found = answer["Credentials"]
    return found["AccessKeyId"], found["SecretAccessKey"], found["SessionToken"]


@pytest.fixture
def server(gateway):
    server = gateway().start()
    root = server.client()
    root.create_bucket(Bucket=BUCKET)
    root.put_object(Bucket=BUCKET, Key="k", Body=b"body")
    return server


def files_with(folder, secret):
    """Files below the folder, logs among them, that hold the secret in plain."""
    return [file for file in folder.rglob("*") if file.is_file() and secret.encode() in file.read_bytes()]


def test_a_user_signs_until_it_is_disabled_and_again_when_enabled(server):
    keys = add(server, "bob", "--readwrite")
    assert (len(keys[0]), len(keys[1])) == (20, 40)
    s3 = client(server, keys)
    s3.put_object(Bucket=BUCKET, Key="of bob", Body=b"hello")
    assert read_body(s3, BUCKET, "of bob") == b"hello"
    assert refused(client(server, (keys[0], "x" * 40)).list_buckets) == ("SignatureDoesNotMatch", 403)
    shown = server.cli("user", "disable", "bob", json_output=True).json
    assert shown["disabled"] and shown["access_keys"][0]["state"] == "disabled"
    assert refused(s3.get_object, Bucket=BUCKET, Key="k") == ("InvalidAccessKeyId", 403)
    server.cli("user", "enable", "bob")
    assert read_body(s3, BUCKET, "k") == b"body"
    server.cli("user", "remove", "bob")
    assert refused(s3.get_object, Bucket=BUCKET, Key="k") == ("InvalidAccessKeyId", 403)
    missing = server.cli("user", "show", "bob", check=False)
    assert missing.code == 1 and 'no user "bob"' in missing.err


def test_what_the_command_line_shows_and_refuses(server, tmp_path):
    file = tmp_path / "reads.json"
    file.write_text(json.dumps(ALLOW_READS))
    secret = tmp_path / "secret"
    secret.write_text("a secret of an operator\n")
    made = server.cli("user", "add", "ann", "--policy", file, "--access-key", "ANNKEY01", "--secret-file", secret)
    assert "ANNKEY01" in made.out and "a secret of" not in made.out
    assert read_body(client(server, ("ANNKEY01", "a secret of an operator")), BUCKET, "k") == b"body"
    shown = server.cli("user", "show", "ann", json_output=True).json
    assert [p["name"] for p in shown["policies"]] == ["reads"] and json.loads(shown["policies"][0]["document"]) == ALLOW_READS
    assert shown["arn"].endswith(":user/ann") and shown["source"] == "journal"
    listed = server.cli("user", "list").out
    assert "ann" in listed and "ANNKEY01" in listed and "a secret of" not in listed
    server.cli("user", "policy", "ann", "--readonly")
    assert server.cli("user", "show", "ann", json_output=True).json["policies"][0]["name"] == "readonly"
    file.write_text('{"Statement": [{"Effect": "Perhaps"}]}')
    short = tmp_path / "short"
    short.write_text("short")
    for arguments, code, words in [
        (["add", "ann"], 1, "there is a user ann"),
        (["add", "eve", "--account", "nobody"], 1, "no account"),
        (["add", "a/b"], 1, "cannot be the name"),
        (["add", "eve", "--policy", file], 3, "Effect"),
        (["add", "eve", "--access-key", "ANNKEY01", "--secret-file", secret], 1, "is taken"),
        (["add", "eve", "--access-key", harness.ACCESS_KEY, "--secret-file", secret], 1, "is taken"),
        (["add", "eve", "--access-key", "EVEKEY01", "--secret-file", short], 1, "too short"),
        (["add", "eve", "--access-key", "ASIAEVEKEY01", "--secret-file", secret], 1, "sessions"),
        (["rotate", "eve"], 1, "no user"),
        (["rotate", "ann", "--grace", "1000d"], 1, "90d"),
    ]:
        answer = server.cli("user", *arguments, check=False)
        assert answer.code == code and words in answer.err, (arguments, answer)


def test_a_rotated_key_ends_at_once_or_after_its_grace(server):
    first = add(server, "bob", "--readwrite")
    made = server.cli("user", "rotate", "bob", "--grace", "1h", json_output=True).json
    second = made["access_key"], made["secret_key"]
    assert second[0] != first[0] and made["old_keys_end"] > 0
    for keys in (first, second):
        assert read_body(client(server, keys), BUCKET, "k") == b"body"
    server.advance(3601)
    assert refused(client(server, first).list_buckets) == ("InvalidAccessKeyId", 403)
    assert read_body(client(server, second), BUCKET, "k") == b"body"
    third = server.cli("user", "rotate", "bob", json_output=True).json
    assert refused(client(server, second).list_buckets) == ("InvalidAccessKeyId", 403)
    assert read_body(client(server, (third["access_key"], third["secret_key"])), BUCKET, "k") == b"body"


def test_users_and_sessions_outlive_a_stop_and_a_kill_and_secrets_are_nowhere_in_plain(server):
    keys = add(server, "bob", "--readwrite")
    session = of_session(sts(server, keys).get_session_token(DurationSeconds=900))
    server.kill()
    server.start()
    last = add(server, "ann", "--readwrite")
    server.kill()
    server.start()
    for who in (keys, session, last):
        assert read_body(client(server, who), BUCKET, "k") == b"body"
    assert server.stop() == 0
    for secret in (keys[1], last[1], session[1], session[2]):
        assert files_with(server.folder, secret) == []
    dump = server.cli("journal", "dump").out
    assert keys[0] in dump and not any(secret in dump for secret in (keys[1], last[1]))
    server.start()
    assert read_body(client(server, keys), BUCKET, "k") == b"body"


def test_without_the_seal_key_users_need_new_secrets_and_all_else_works(server):
    keys = add(server, "bob", "--readwrite")
    session = of_session(sts(server).get_session_token())
    server.stop()
    kept = (server.data / "seal-key").read_text()
    (server.data / "seal-key").unlink()
    server.start()
    assert read_body(server.client(), BUCKET, "k") == b"body"
    assert refused(client(server, keys).list_buckets) == ("InvalidAccessKeyId", 403)
    assert refused(client(server, session).list_buckets)[0] in ("InvalidAccessKeyId", "InvalidToken")
    warnings = json.loads(harness.http("GET", server.admin_url + "/readyz")[1])["warnings"]
    assert any("tidegate/bob" in warning and "unsealed" in warning for warning in warnings), warnings
    assert server.cli("user", "show", "bob", json_output=True).json["access_keys"][0]["state"] == "sealed"
    made = server.cli("user", "rotate", "bob", json_output=True).json
    fresh = made["access_key"], made["secret_key"]
    assert read_body(client(server, fresh), BUCKET, "k") == b"body"
    # The old key behind the new one: what was sealed with either is open again.
    server.stop()
    with open(server.data / "seal-key", "a") as file:
        file.write(kept)
    server.start()
    assert read_body(client(server, fresh), BUCKET, "k") == b"body"
    assert read_body(client(server, session), BUCKET, "k") == b"body"


def test_a_standby_knows_the_users_of_its_primary_and_changes_none(gateway, sim):
    options = {"sim": sim, "policy": policy(BUCKET), "recovery": {"tier": "archive", "rpo": "200ms"}, "standby": {"poll": "200ms"}}
    primary, standby = gateway(**options).start(), gateway(**options)
    primary.client().create_bucket(Bucket=BUCKET)
    keys = add(primary, "bob", "--readwrite")
    recovery = lambda: primary.stats()["recovery"]  # noqa: E731
    wait_until("everything to be shipped", lambda: recovery()["term"] > 0 and recovery()["lag_records"] == 0)
    standby.data.mkdir()
    shutil.copy(primary.data / "seal-key", standby.data)
    standby.start(command=FOLLOW)
    listing = {"Bucket": BUCKET}

    def reads(who):
        try:
            return client(standby, who).list_objects_v2(**listing)["KeyCount"] == 0
        except ClientError:
            return False

    wait_until("the standby to know bob", lambda: reads(keys))
    late = add(primary, "late", "--readonly")
    wait_until("the standby to know who came later", lambda: reads(late))
    session = of_session(sts(primary, keys).get_session_token())
    assert reads(session) and reads(of_session(sts(standby, keys).get_session_token()))
    refusal = standby.cli("user", "add", "eve", check=False)
    assert refusal.code == 1 and "standby" in refusal.err
    primary.cli("user", "disable", "bob")
    wait_until("the standby to know that bob is disabled", lambda: not reads(keys))
    assert not reads(session)
    for secret in (keys[1], late[1]):
        assert files_with(standby.folder, secret) == [] and files_with(sim.folder, secret) == []


@pytest.mark.slow
def test_a_store_recovered_from_the_cloud_has_the_users_and_needs_the_seal_key(gateway, sim):
    server = gateway(sim=sim, recovery={"tier": "archive", "rpo": "100ms"}).start()
    keys = add(server, "bob", "--readwrite")
    account = server.cli("account", "add", "dora", json_output=True).json
    recovery = lambda: server.stats()["recovery"]  # noqa: E731
    wait_until("everything to be shipped", lambda: recovery()["term"] > 0 and recovery()["lag_records"] == 0)
    server.kill()
    kept = (server.data / "seal-key").read_text()
    for secret in (keys[1], kept.split()[-1]):
        assert files_with(sim.folder, secret) == []
    shutil.rmtree(server.data)
    server.cli("recover", "--from", "archive", "--data-dir", server.data)
    server.start()
    assert account in server.cli("account", "list", json_output=True).json
    assert server.client().list_buckets()["Buckets"] == []
    assert refused(client(server, keys).list_buckets) == ("InvalidAccessKeyId", 403)
    assert "tidegate/bob" in harness.http("GET", server.admin_url + "/readyz")[1]
    server.stop()
    (server.data / "seal-key").write_text(kept)
    server.start()
    client(server, keys).list_buckets()


# Accounts of the configuration.


@pytest.fixture
def accounts(gateway, tmp_path):
    file = tmp_path / "reads.json"
    file.write_text(json.dumps(ALLOW_READS))
    server = gateway(
        accounts={
            "alice": {
                "display_name": "Alice A.",
                "email": "alice@example.com",
                "access_keys": [{"access_key": ALICE_KEY, "secret_key": ALICE_SECRET}],
                "users": {
                    "carol": {
                        "access_keys": [{"access_key": CAROL_KEY, "secret_key": CAROL_SECRET}],
                        "policies": [{"file": str(file)}, {"document": ALLOW_READS}, {"canned": "readonly"}],
                    }
                },
            },
            "tidegate": {"display_name": "The first"},
        }
    ).start()
    return server


def test_accounts_of_the_configuration_and_of_the_journal(accounts):
    assert sts(accounts, (ALICE_KEY, ALICE_SECRET)).get_caller_identity()["Arn"].endswith(":root")
    assert sts(accounts, (CAROL_KEY, CAROL_SECRET)).get_caller_identity()["Arn"].endswith(":user/carol")
    made = accounts.cli("account", "add", "dora", "--email", "dora@example.com", json_output=True).json
    listed = {a["name"]: a for a in accounts.cli("account", "list", json_output=True).json}
    assert set(listed) == {"alice", "tidegate", "dora"} and listed["dora"] == made
    assert listed["alice"]["display_name"] == "Alice A." and listed["tidegate"]["display_name"] == "The first"
    assert len({a["id"] for a in listed.values()}) == 3 and all(len(a["id"]) == 64 for a in listed.values())
    dan = add(accounts, "dan", "--account", "dora", "--readwrite")
    identity = sts(accounts, dan).get_caller_identity()
    assert identity["Arn"] == f"arn:aws:iam::{made['number']}:user/dan" and identity["Account"] == made["number"]
    accounts.restart()
    assert sts(accounts, dan).get_caller_identity() | {"ResponseMetadata": 0} == identity | {"ResponseMetadata": 0}
    for arguments, words in [
        (["account", "add", "dora"], "already"),
        (["account", "add", "erin", "--id", made["id"]], "owner id"),
        (["account", "add", "erin", "--email", "ALICE@example.com"], "e-mail"),
        (["user", "rotate", "carol", "--account", "alice"], "configuration"),
    ]:
        answer = accounts.cli(*arguments, check=False)
        assert answer.code == 1 and words in answer.err, (arguments, answer)


def test_wrong_accounts_are_refused_with_their_place(accounts, tmp_path):
    keys = [{"access_key": ALICE_KEY, "secret_key": ALICE_SECRET}]
    for section, field, words in [
        ({"a": {"access_keys": [{"access_key": "AKEY", "secret_key": "short"}]}}, "accounts.a.access_keys[0].secret_key", "too short"),
        ({"a": {"access_keys": keys}, "b": {"access_keys": keys}}, "accounts.b.access_keys[0].access_key", "same access key"),
        ({"a": {"access_keys": [{"access_key": harness.ACCESS_KEY, "secret_key": ALICE_SECRET}]}}, "accounts.a.access_keys[0]", "s3.access_keys[0]"),
        ({"a": {"id": "xyz"}}, "accounts.a.id", "owner id"),
        ({"a/b": {}}, "accounts.a/b", "name"),
        ({"a": {"users": {"u": {"policies": [{"file": "/nowhere.json"}]}}}}, "accounts.a.users.u.policies[0].file", "/nowhere.json"),
        ({"a": {"users": {"u": {"policies": [{"document": {"Statement": 1}}]}}}}, "accounts.a.users.u.policies[0].document", "Statement"),
        ({"a": {"users": {"u": {"policies": [{}]}}}}, "accounts.a.users.u.policies[0]", "which policy"),
        ({"a": {"email": "x@y"}, "b": {"email": "X@Y"}}, "accounts.b.email", "same address"),
        ({"a": {"key": 1}}, "accounts.a.key", "no setting"),
    ]:
        accounts.settings["accounts"] = section
        accounts.write_config()
        answer = accounts.cli("check", check=False)
        assert answer.code == 3, answer
        said = answer.out + answer.err
        assert field in said and words in said and ".yaml:" in said, said
        assert "short\n" not in said and ALICE_SECRET not in said


def test_a_configured_seal_key_is_used_and_a_wrong_one_refused(gateway, tmp_path):
    file = tmp_path / "seal"
    file.write_text("ab" * 32 + "\n")
    server = gateway(users={"seal_key_file": str(file)}).start()
    keys = add(server, "bob", "--readonly")
    server.restart()
    client(server, keys).list_buckets()
    assert not (server.data / "seal-key").exists()
    server.stop()
    file.write_text("ab" * 31)
    answer = server.cli("check", check=False)
    assert answer.code == 3 and "users.seal_key" in answer.out + answer.err and "ab" * 31 not in answer.out + answer.err


# Sessions.


def test_sessions_of_users_and_of_the_account(server):
    keys = add(server, "bob", "--readwrite")
    answer = sts(server, keys).get_session_token(DurationSeconds=3600)
    session = of_session(answer)
    assert session[0].startswith("ASIA") and len(session[0]) == 20 and len(session[1]) == 40
    s3 = client(server, session)
    s3.put_object(Bucket=BUCKET, Key="by session", Body=b"x")
    url = s3.generate_presigned_url("get_object", Params={"Bucket": BUCKET, "Key": "by session"})
    assert "X-Amz-Security-Token" in url and harness.http("GET", url) == (200, "x")
    assert sts(server, session).get_caller_identity()["Arn"].endswith(":user/bob")
    # Neither without its token, nor with that of another, nor a plain key with one.
    other = of_session(sts(server, keys).get_session_token())
    assert refused(client(server, session[:2]).list_buckets) == ("InvalidAccessKeyId", 403)
    assert refused(client(server, (*session[:2], other[2])).list_buckets) == ("InvalidToken", 400)
    assert refused(client(server, (*session[:2], "nonsense")).list_buckets) == ("InvalidToken", 400)
    assert refused(client(server, (*keys, session[2])).list_buckets) == ("InvalidToken", 400)
    assert harness.http("GET", url.replace("X-Amz-Security-Token=", "X-Amz-Security-Token=A"))[0] in (400, 403)
    assert refused(sts(server, session).get_session_token) == ("AccessDenied", 403)
    server.advance(3601)
    assert refused(client(server, session).list_buckets) == ("ExpiredToken", 400)
    assert refused(sts(server, session).get_caller_identity) == ("ExpiredToken", 403)
    assert read_body(client(server, other), BUCKET, "k") == b"body"
    # That of the account itself ends after an hour.
    root = of_session(sts(server).get_session_token(DurationSeconds=43200))
    client(server, root).list_buckets()
    server.advance(3601)
    assert refused(client(server, root).list_buckets) == ("ExpiredToken", 400)


def test_what_ends_a_key_ends_its_sessions(server):
    keys = add(server, "bob", "--readwrite")
    session = of_session(sts(server, keys).get_session_token())
    server.cli("user", "disable", "bob")
    assert refused(client(server, session).list_buckets) == ("InvalidToken", 400)
    server.cli("user", "enable", "bob")
    client(server, session).list_buckets()
    server.cli("user", "rotate", "bob", "--grace", "1h")
    client(server, session).list_buckets()
    server.advance(3601)
    assert refused(client(server, session).list_buckets) == ("InvalidToken", 400)


def test_assume_role(server):
    keys = add(server, "bob", "--readwrite")
    number = sts(server, keys).get_caller_identity()["Account"]
    bob = f"arn:aws:iam::{number}:role/bob"
    answer = sts(server, keys).assume_role(RoleArn=bob, RoleSessionName="job-1", DurationSeconds=900)
    assert answer["AssumedRoleUser"]["Arn"] == f"arn:aws:sts::{number}:assumed-role/bob/job-1"
    session = of_session(answer)
    assert read_body(client(server, session), BUCKET, "k") == b"body"
    assert sts(server, session).get_caller_identity()["Arn"] == answer["AssumedRoleUser"]["Arn"]
    # The account may be any of its users; a user may be itself alone.
    root = of_session(sts(server).assume_role(RoleArn="arn:aws:iam::tidegate:user/bob", RoleSessionName="root"))
    assert read_body(client(server, root), BUCKET, "k") == b"body"
    add(server, "ann")
    for who, arn in [(keys, f"arn:aws:iam::{number}:user/ann"), (keys, "arn:aws:iam::999999999999:role/bob"), (keys, f"arn:aws:iam::{number}:root")]:
        assert refused(sts(server, who).assume_role, RoleArn=arn, RoleSessionName="job") == ("AccessDenied", 403)
    nobody = f"arn:aws:iam::{number}:user/nobody"
    assert refused(sts(server).assume_role, RoleArn=nobody, RoleSessionName="job") == ("AccessDenied", 403)
    call = {"RoleArn": bob, "RoleSessionName": "job"}
    assert refused(sts(server, keys).assume_role, **call, DurationSeconds=43201) == ("ValidationError", 400)
    assert refused(sts(server, keys).assume_role, **call, Policy="{}") == ("MalformedPolicyDocument", 400)
    assert refused(sts(server, keys).assume_role, **call, Tags=[{"Key": "a", "Value": "b"}]) == ("ValidationError", 400)
    assert refused(sts(server, (keys[0], "x" * 40)).get_caller_identity) == ("SignatureDoesNotMatch", 403)
    assert refused(sts(server, ("NOBODY", "x" * 40)).get_caller_identity) == ("InvalidClientTokenId", 403)
    assert refused(sts(server, keys).get_access_key_info, AccessKeyId=keys[0]) == ("InvalidAction", 400)
    server.cli("user", "disable", "bob")
    assert refused(client(server, root).list_buckets) == ("InvalidToken", 400)


def test_policies_limit_users_and_sessions(server):
    """What the words of a policy mean is tested where policies are; here, that the right ones are asked."""
    reader = add(server, "reader", "--readonly")
    assert read_body(client(server, reader), BUCKET, "k") == b"body"
    assert refused(client(server, reader).put_object, Bucket=BUCKET, Key="x", Body=b"") == ("AccessDenied", 403)
    nobody = add(server, "nobody")
    assert refused(client(server, nobody).get_object, Bucket=BUCKET, Key="k") == ("AccessDenied", 403)
    server.cli("user", "policy", "nobody", "--readwrite")
    client(server, nobody).put_object(Bucket=BUCKET, Key="now", Body=b"")
    writer = add(server, "writer", "--readwrite")
    number = sts(server, writer).get_caller_identity()["Account"]
    call = {"RoleArn": f"arn:aws:iam::{number}:user/writer", "RoleSessionName": "reads"}
    limited = of_session(sts(server, writer).assume_role(**call, Policy=json.dumps(ALLOW_READS)))
    assert read_body(client(server, limited), BUCKET, "k") == b"body"
    assert refused(client(server, limited).put_object, Bucket=BUCKET, Key="x", Body=b"") == ("AccessDenied", 403)
    # A session takes away, and gives nothing.
    call = {"RoleArn": f"arn:aws:iam::{number}:user/reader", "RoleSessionName": "writes"}
    allow_all = {"Version": "2012-10-17", "Statement": [{"Effect": "Allow", "Action": "s3:*", "Resource": "*"}]}
    wider = of_session(sts(server, reader).assume_role(**call, Policy=json.dumps(allow_all)))
    assert refused(client(server, wider).put_object, Bucket=BUCKET, Key="x", Body=b"") == ("AccessDenied", 403)


def test_policies_see_the_region_that_a_new_bucket_names(server, tmp_path):
    names = {"StringEquals": {"s3:LocationConstraint": harness.REGION}}
    make = {"Effect": "Allow", "Action": "s3:CreateBucket", "Resource": "*", "Condition": names}
    (file := tmp_path / "make.json").write_text(json.dumps({"Version": "2012-10-17", "Statement": [make]}))
    maker = client(server, add(server, "maker", "--policy", file))
    assert refused(maker.create_bucket, Bucket="no-region") == ("AccessDenied", 403)
    where = {"LocationConstraint": harness.REGION}
    maker.create_bucket(Bucket="with-region", CreateBucketConfiguration=where)
    assert "with-region" in [b["Name"] for b in server.client().list_buckets()["Buckets"]]


def test_the_aws_command_line_takes_sessions(server):
    aws = harness.TOOLS / "aws"
    env = server.client_env()
    done = subprocess.run(
        [aws, "--endpoint-url", server.endpoint, "sts", "get-session-token", "--output", "json"], env=env, capture_output=True, text=True, timeout=120
    )
    assert done.returncode == 0, done.stderr
    keys = json.loads(done.stdout)["Credentials"]
    env |= {"AWS_ACCESS_KEY_ID": keys["AccessKeyId"], "AWS_SECRET_ACCESS_KEY": keys["SecretAccessKey"], "AWS_SESSION_TOKEN": keys["SessionToken"]}
    done = subprocess.run([aws, "--endpoint-url", server.endpoint, "s3", "cp", f"s3://{BUCKET}/k", "-"], env=env, capture_output=True, text=True, timeout=120)
    assert (done.returncode, done.stdout) == (0, "body"), done.stderr
