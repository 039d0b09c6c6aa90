"""Two accounts and their users: what one may do with the buckets and objects of the other."""

import itertools
import json

import boto3
import pytest
from botocore.config import Config

from harness import REGION, Tidegate, read_body
from s3util import refused, upload

KEYS = {name: (f"{name.upper()}KEY0000000001", f"{name}-secret-for-loopback-only-0001") for name in ["alice", "carol", "dave", "erin"]}
ALL = {"Version": "2012-10-17", "Statement": [{"Effect": "Allow", "Action": "s3:*", "Resource": "*"}]}

_numbers = itertools.count(1)


def key(name):
    return {"access_key": KEYS[name][0], "secret_key": KEYS[name][1]}


@pytest.fixture(scope="module")
def server(tmp_path_factory):
    """Account `tidegate` with user erin (no policy); account `alice` with carol (may do everything) and dave (no policy)."""
    users = {"carol": {"access_keys": [key("carol")], "policies": [{"document": ALL}]}, "dave": {"access_keys": [key("dave")]}}
    accounts = {
        "alice": {"display_name": "Alice A.", "email": "alice@example.com", "access_keys": [key("alice")], "users": users},
        "tidegate": {"users": {"erin": {"access_keys": [key("erin")]}}},
    }
    server = Tidegate(tmp_path_factory.mktemp("accounts") / "gateway", accounts=accounts)
    yield server.start()
    server.kill()


@pytest.fixture(scope="module")
def s3(server):
    return server.client()


@pytest.fixture(scope="module")
def clients(server):
    options = Config(signature_version="s3v4", s3={"addressing_style": "path"}, retries={"max_attempts": 1})
    return {
        name: boto3.client(
            "s3", endpoint_url=server.endpoint, region_name=REGION, aws_access_key_id=pair[0], aws_secret_access_key=pair[1],
            config=options,
        )
        for name, pair in KEYS.items()
    }


@pytest.fixture
def bucket(s3):
    name = f"shared-{next(_numbers):04}"
    s3.create_bucket(Bucket=name)
    return name


@pytest.fixture
def open_bucket(s3):
    name = f"lists-{next(_numbers):04}"
    s3.create_bucket(Bucket=name, ObjectOwnership="ObjectWriter")
    return name


def owner(client):
    return client.list_buckets()["Owner"]


def let(s3, bucket, principal, *actions, effect="Allow"):
    statement = {"Effect": effect, "Principal": principal, "Action": list(actions),
                 "Resource": [f"arn:aws:s3:::{bucket}", f"arn:aws:s3:::{bucket}/*"]}
    s3.put_bucket_policy(Bucket=bucket, Policy=json.dumps({"Version": "2012-10-17", "Statement": [statement]}))


def denied():
    return refused("AccessDenied", 403)


def test_each_account_sees_its_own_buckets_and_names_are_taken_once(s3, clients, bucket):
    alice = clients["alice"]
    alice.create_bucket(Bucket="of-alice")
    assert [one["Name"] for one in alice.list_buckets()["Buckets"]] == ["of-alice"]
    assert owner(alice)["DisplayName"] == "Alice A."
    names = [one["Name"] for one in s3.list_buckets()["Buckets"]]
    assert bucket in names and "of-alice" not in names
    with refused("BucketAlreadyExists", 409):
        alice.create_bucket(Bucket=bucket)
    alice.create_bucket(Bucket="of-alice")
    for call in [
        lambda: s3.list_objects_v2(Bucket="of-alice"),
        lambda: s3.put_object(Bucket="of-alice", Key="k", Body=b"x"),
        lambda: s3.delete_bucket(Bucket="of-alice"),
        lambda: s3.get_bucket_policy(Bucket="of-alice"),
        lambda: s3.put_bucket_acl(Bucket="of-alice", ACL="private"),
    ]:
        with denied():
            call()
    with refused("403", 403):
        s3.head_bucket(Bucket="of-alice")


def test_another_account_needs_the_bucket_policy_and_its_users_a_policy_too(s3, clients, bucket):
    s3.put_object(Bucket=bucket, Key="k", Body=b"x")
    reads = {name: lambda name=name: read_body(clients[name], bucket, "k") for name in clients}

    def readers():
        found = set()
        for name, read in reads.items():
            try:
                read()
                found.add(name)
            except clients[name].exceptions.ClientError as error:
                assert error.response["Error"]["Code"] == "AccessDenied"
        return found

    assert readers() == set()
    let(s3, bucket, {"CanonicalUser": owner(clients["alice"])["ID"]}, "s3:GetObject")
    # dave is of the account, but nothing of its own allows it.
    assert readers() == {"alice", "carol"}
    let(s3, bucket, "*", "s3:GetObject")
    # erin is of the bucket's account: to be meant by name is enough.
    assert readers() == {"alice", "carol", "erin"}
    let(s3, bucket, {"CanonicalUser": owner(s3)["ID"]}, "s3:GetObject")
    assert readers() == set()
    block = {"BlockPublicAcls": False, "IgnorePublicAcls": False, "BlockPublicPolicy": False, "RestrictPublicBuckets": True}
    let(s3, bucket, "*", "s3:GetObject")
    s3.put_public_access_block(Bucket=bucket, PublicAccessBlockConfiguration=block)
    assert readers() == {"erin"}


def test_a_user_may_not_lock_itself_out_by_mistake_and_root_lets_it_in_again(s3, clients):
    alice, carol = clients["alice"], clients["carol"]
    alice.create_bucket(Bucket="locked")
    with refused("MalformedPolicy", 400):
        let(carol, "locked", "*", "s3:*", effect="Deny")
    statement = {"Effect": "Deny", "Principal": "*", "Action": "s3:*", "Resource": "arn:aws:s3:::locked"}
    text = json.dumps({"Version": "2012-10-17", "Statement": [statement]})
    carol.put_bucket_policy(Bucket="locked", Policy=text, ConfirmRemoveSelfBucketAccess=True)
    with denied():
        carol.get_bucket_policy(Bucket="locked")
    alice.delete_bucket_policy(Bucket="locked")
    carol.list_objects_v2(Bucket="locked")


def test_the_writer_owns_what_it_writes_where_it_is_said_so(s3, clients, open_bucket):
    alice, me, her = clients["alice"], owner(s3), owner(clients["alice"])
    s3.put_bucket_acl(Bucket=open_bucket, ACL="public-read-write")
    alice.put_object(Bucket=open_bucket, Key="hers", Body=b"hers")
    s3.put_object(Bucket=open_bucket, Key="mine", Body=b"mine")
    owners = {entry["Key"]: entry["Owner"] for entry in s3.list_objects(Bucket=open_bucket)["Contents"]}
    assert owners == {"hers": her, "mine": me}
    assert read_body(alice, open_bucket, "hers") == b"hers"
    with denied():
        s3.get_object(Bucket=open_bucket, Key="hers")
    with denied():
        s3.get_object_acl(Bucket=open_bucket, Key="hers")
    with denied():
        alice.get_object(Bucket=open_bucket, Key="mine")
    alice.put_object_acl(Bucket=open_bucket, Key="hers", ACL="bucket-owner-read")
    assert read_body(s3, open_bucket, "hers") == b"hers"
    with denied():
        s3.get_object_acl(Bucket=open_bucket, Key="hers")
    upload(alice, open_bucket, "given", [(1, b"x")], ACL="bucket-owner-full-control")
    acl = s3.get_object_acl(Bucket=open_bucket, Key="given")
    assert acl["Owner"] == her and {grant["Grantee"]["ID"] for grant in acl["Grants"]} == {her["ID"], me["ID"]}
    s3.put_bucket_ownership_controls(
        Bucket=open_bucket, OwnershipControls={"Rules": [{"ObjectOwnership": "BucketOwnerPreferred"}]}
    )
    alice.put_object(Bucket=open_bucket, Key="handed over", Body=b"x", ACL="bucket-owner-full-control")
    assert s3.get_object_acl(Bucket=open_bucket, Key="handed over")["Owner"] == me
    # What the bucket's owner writes over is the owner's, and it may delete everything.
    s3.put_object(Bucket=open_bucket, Key="hers", Body=b"now mine", ACL="public-read")
    assert read_body(alice, open_bucket, "hers") == b"now mine"
    for key in ["hers", "given", "handed over"]:
        s3.delete_object(Bucket=open_bucket, Key=key)


def test_grants_name_an_account_by_id_or_address(s3, clients, open_bucket):
    alice, her = clients["alice"], owner(clients["alice"])
    s3.put_object(Bucket=open_bucket, Key="k", Body=b"x", GrantRead=f'id="{her["ID"]}"')
    assert read_body(alice, open_bucket, "k") == b"x"
    # A grant to the account is the account's to pass on.
    assert read_body(clients["carol"], open_bucket, "k") == b"x"
    with denied():
        clients["dave"].get_object(Bucket=open_bucket, Key="k")
    s3.put_bucket_acl(Bucket=open_bucket, GrantFullControl="emailAddress=alice@example.com")
    alice.list_objects_v2(Bucket=open_bucket)
    alice.copy_object(Bucket=open_bucket, Key="copy", CopySource=f"{open_bucket}/k")
    grant = alice.get_bucket_acl(Bucket=open_bucket)["Grants"]
    assert grant == [{"Grantee": {"Type": "CanonicalUser", **her}, "Permission": "FULL_CONTROL"}]
    alice.put_bucket_acl(Bucket=open_bucket, ACL="private")
    with denied():
        alice.list_objects_v2(Bucket=open_bucket)
    s3.put_object(Bucket=open_bucket, Key="k", Body=b"x", ACL="authenticated-read")
    for name in ["alice", "carol", "erin"]:
        assert read_body(clients[name], open_bucket, "k") == b"x"


def test_where_the_owner_owns_everything_a_writer_of_another_account_gives_it_all_or_nothing(s3, clients, bucket):
    allow = {"Effect": "Allow", "Principal": "*", "Action": "s3:PutObject", "Resource": f"arn:aws:s3:::{bucket}/*"}
    s3.put_bucket_policy(Bucket=bucket, Policy=json.dumps({"Version": "2012-10-17", "Statement": [allow]}))
    alice = clients["alice"]
    alice.put_object(Bucket=bucket, Key="plain", Body=b"x")
    alice.put_object(Bucket=bucket, Key="given", Body=b"x", ACL="bucket-owner-full-control")
    for call in (alice.put_object, alice.create_multipart_upload):
        with refused("AccessControlListNotSupported", 400):
            call(Bucket=bucket, Key="kept", ACL="private")
    me = s3.list_buckets()["Owner"]["ID"]
    for key in ("plain", "given"):
        assert s3.get_object_acl(Bucket=bucket, Key=key)["Owner"]["ID"] == me


def test_a_session_gives_lists_to_what_it_writes_only_where_its_policy_allows_it(server, s3, clients, open_bucket):
    let(s3, open_bucket, {"CanonicalUser": owner(clients["alice"])["ID"]}, "s3:PutObject")
    pair = dict(zip(("aws_access_key_id", "aws_secret_access_key"), KEYS["alice"]))
    sts = boto3.client("sts", endpoint_url=server.endpoint, region_name=REGION, **pair)
    for actions, allowed in [(["s3:PutObject"], False), (["s3:PutObject", "s3:PutObjectAcl"], True)]:
        limit = {"Version": "2012-10-17", "Statement": [{"Effect": "Allow", "Action": actions, "Resource": "*"}]}
        keys = sts.assume_role(RoleArn="arn:aws:iam::alice:root", RoleSessionName="writes", Policy=json.dumps(limit))["Credentials"]
        session = boto3.client(
            "s3", endpoint_url=server.endpoint, region_name=REGION, aws_access_key_id=keys["AccessKeyId"],
            aws_secret_access_key=keys["SecretAccessKey"], aws_session_token=keys["SessionToken"],
            config=Config(signature_version="s3v4", s3={"addressing_style": "path"}, retries={"max_attempts": 1}),
        )
        session.put_object(Bucket=open_bucket, Key="plain", Body=b"x")
        if allowed:
            session.put_object(Bucket=open_bucket, Key="listed", Body=b"x", ACL="public-read")
        else:
            with denied():
                session.put_object(Bucket=open_bucket, Key="listed", Body=b"x", ACL="public-read")
