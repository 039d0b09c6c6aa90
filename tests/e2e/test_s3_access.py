"""Who may do what: bucket policies, access control lists, ownership controls, public access blocks, anonymous requests."""

import itertools
import json

import boto3
import pytest
from botocore import UNSIGNED
from botocore.config import Config
from botocore.exceptions import ClientError

from harness import REGION, TOOLS, run
from s3util import refused, send, upload

PUBLIC = "http://acs.amazonaws.com/groups/global/AllUsers"
SIGNED = "http://acs.amazonaws.com/groups/global/AuthenticatedUsers"

_numbers = itertools.count(1)


@pytest.fixture
def anonymous(shared):
    """A client that signs nothing."""
    return nobody(shared)


@pytest.fixture
def open_bucket(s3):
    """A fresh bucket in which access control lists count."""
    name = f"acl-{next(_numbers):04}"
    s3.create_bucket(Bucket=name, ObjectOwnership="ObjectWriter")
    return name


def nobody(server):
    options = Config(signature_version=UNSIGNED, s3={"addressing_style": "path"}, retries={"max_attempts": 1})
    return boto3.client("s3", endpoint_url=server.endpoint, region_name=REGION, config=options)


def statement(effect, action, *resources, condition=None, principal="*"):
    result = {"Effect": effect, "Principal": principal, "Action": action}
    result["Resource"] = [f"arn:aws:s3:::{resource}" for resource in resources]
    return {**result, "Condition": condition} if condition else result


def policy(*statements):
    return json.dumps({"Version": "2012-10-17", "Statement": list(statements)})


def denied():
    return refused("AccessDenied", 403)


def test_nothing_is_public_unless_it_is_said_to_be(s3, anonymous, bucket):
    s3.put_object(Bucket=bucket, Key="k", Body=b"x")
    calls = [
        lambda: anonymous.get_object(Bucket=bucket, Key="k"),
        lambda: anonymous.get_object(Bucket=bucket, Key="missing"),
        lambda: anonymous.list_objects_v2(Bucket=bucket),
        lambda: anonymous.put_object(Bucket=bucket, Key="k", Body=b"y"),
        lambda: anonymous.delete_object(Bucket=bucket, Key="k"),
        lambda: anonymous.get_bucket_policy(Bucket=bucket),
        lambda: anonymous.put_bucket_acl(Bucket=bucket, ACL="public-read"),
        lambda: anonymous.delete_bucket(Bucket=bucket),
        lambda: anonymous.create_bucket(Bucket="not-by-nobody"),
        lambda: anonymous.list_buckets(),
        lambda: anonymous.create_multipart_upload(Bucket=bucket, Key="m"),
        lambda: anonymous.put_bucket_website(
            Bucket=bucket, WebsiteConfiguration={"IndexDocument": {"Suffix": "i"}}
        ),
    ]
    for call in calls:
        with denied():
            call()
    with refused("403", 403):
        anonymous.head_object(Bucket=bucket, Key="k")
    with refused("NoSuchBucket", 404):
        anonymous.list_objects_v2(Bucket="there-is-no-such-bucket")
    answer = anonymous.delete_objects(Bucket=bucket, Delete={"Objects": [{"Key": "k"}]})
    assert [error["Code"] for error in answer["Errors"]] == ["AccessDenied"]
    assert s3.get_object(Bucket=bucket, Key="k")["Body"].read() == b"x"


def test_a_policy_comes_back_as_it_was_put(s3, bucket):
    with refused("NoSuchBucketPolicy", 404):
        s3.get_bucket_policy(Bucket=bucket)
    text = ' {"Version":  "2012-10-17",\n "Statement": [' + json.dumps(statement("Allow", "s3:GetObject", f"{bucket}/*")) + "]}\n"
    s3.put_bucket_policy(Bucket=bucket, Policy=text)
    assert s3.get_bucket_policy(Bucket=bucket)["Policy"] == text
    assert s3.get_bucket_policy_status(Bucket=bucket)["PolicyStatus"]["IsPublic"] is True
    s3.delete_bucket_policy(Bucket=bucket)
    with refused("NoSuchBucketPolicy", 404):
        s3.get_bucket_policy(Bucket=bucket)
    s3.delete_bucket_policy(Bucket=bucket)
    assert s3.get_bucket_policy_status(Bucket=bucket)["PolicyStatus"]["IsPublic"] is False


def test_what_is_no_policy_is_refused_and_changes_nothing(s3, bucket):
    good = policy(statement("Deny", "s3:GetObject", f"{bucket}/secret/*"))
    s3.put_bucket_policy(Bucket=bucket, Policy=good)
    cases = {
        "not json": "first byte",
        policy({**statement("Allow", "s3:GetObject", f"{bucket}/*"), "Effect": "Perhaps"}): "effect",
        policy(statement("Allow", "s3:GetObject", "another/*")): "resource",
        policy(statement("Allow", "s3:Fly", f"{bucket}/*")): "action",
        policy(statement("Allow", "s3:GetObject", f"{bucket}/*", principal={"AWS": "me"})): "principal",
    }
    for text, word in cases.items():
        with refused("MalformedPolicy", 400) as failed:
            s3.put_bucket_policy(Bucket=bucket, Policy=text)
        assert word in failed.error.response["Error"]["Message"]
    with refused("PolicyTooLarge", 400):
        s3.put_bucket_policy(Bucket=bucket, Policy=good[:-1] + " " * 20480 + "}")
    assert s3.get_bucket_policy(Bucket=bucket)["Policy"] == good


def test_a_policy_lets_anybody_read_and_a_missing_key_shows_only_with_listing(shared, s3, anonymous, bucket):
    s3.put_object(Bucket=bucket, Key="open/k", Body=b"hello")
    s3.put_object(Bucket=bucket, Key="closed/k", Body=b"x")
    s3.put_bucket_policy(Bucket=bucket, Policy=policy(statement("Allow", "s3:GetObject", f"{bucket}/open/*")))
    assert anonymous.get_object(Bucket=bucket, Key="open/k")["Body"].read() == b"hello"
    assert anonymous.head_object(Bucket=bucket, Key="open/k")["ContentLength"] == 5
    # Not one well-formed range: the whole object, also for those who do not sign.
    status, _, body = plain(shared, "GET", f"/{bucket}/open/k", {"Range": "bytes=x"})
    assert (status, body) == (200, b"hello")
    for key in ["closed/k", "open/missing", "closed/missing"]:
        with denied():
            anonymous.get_object(Bucket=bucket, Key=key)
    both = policy(
        statement("Allow", "s3:GetObject", f"{bucket}/open/*"),
        statement("Allow", "s3:ListBucket", bucket, condition={"StringLike": {"s3:prefix": "open/*"}}),
        statement("Allow", "s3:ListBucket", bucket, condition={"Null": {"s3:prefix": "true"}}),
    )
    s3.put_bucket_policy(Bucket=bucket, Policy=both)
    with refused("NoSuchKey", 404):
        anonymous.get_object(Bucket=bucket, Key="open/missing")
    with denied():
        anonymous.get_object(Bucket=bucket, Key="closed/k")
    listed = anonymous.list_objects_v2(Bucket=bucket, Prefix="open/")
    assert [entry["Key"] for entry in listed["Contents"]] == ["open/k"]
    with denied():
        anonymous.list_objects_v2(Bucket=bucket, Prefix="closed/")
    env = {k: v for k, v in shared.client_env().items() if not k.startswith("AWS_ACCESS") and not k.startswith("AWS_SECRET")}
    aws = [TOOLS / "aws", "--no-sign-request", "--endpoint-url", shared.endpoint, "s3"]
    assert run([*aws, "cp", f"s3://{bucket}/open/k", "-"], env=env).stdout == "hello"
    assert run([*aws, "cp", f"s3://{bucket}/closed/k", "-"], env=env, check=False).returncode != 0


def plain(server, method, path, headers=None):
    """An unsigned request as it stands."""
    import http.client

    connection = http.client.HTTPConnection("127.0.0.1", server.port, timeout=60)
    try:
        connection.request(method, path, headers=headers or {})
        answer = connection.getresponse()
        return answer.status, dict(answer.getheaders()), answer.read()
    finally:
        connection.close()


def test_a_denial_wins_also_against_the_owner_who_can_still_change_the_policy(s3, bucket):
    s3.put_object(Bucket=bucket, Key="k", Body=b"x")
    text = policy(statement("Deny", "s3:*", bucket, f"{bucket}/*"), statement("Allow", "s3:*", bucket, f"{bucket}/*"))
    s3.put_bucket_policy(Bucket=bucket, Policy=text)
    for call in [
        lambda: s3.get_object(Bucket=bucket, Key="k"),
        lambda: s3.list_objects_v2(Bucket=bucket),
        lambda: s3.put_object(Bucket=bucket, Key="k", Body=b"y"),
        lambda: s3.delete_object(Bucket=bucket, Key="k"),
    ]:
        with denied():
            call()
    assert s3.get_bucket_policy(Bucket=bucket)["Policy"] == text
    s3.put_bucket_policy(Bucket=bucket, Policy=text)
    s3.delete_bucket_policy(Bucket=bucket)
    assert s3.get_object(Bucket=bucket, Key="k")["Body"].read() == b"x"


def test_conditions_look_at_the_request(s3, anonymous, bucket):
    s3.put_object(Bucket=bucket, Key="k", Body=b"x", Tagging="kind=public")
    s3.put_object(Bucket=bucket, Key="other", Body=b"x", Tagging="kind=private")

    def reads(condition, key="k"):
        s3.put_bucket_policy(Bucket=bucket, Policy=policy(statement("Allow", "s3:GetObject", f"{bucket}/*", condition=condition)))
        try:
            anonymous.get_object(Bucket=bucket, Key=key)
            return True
        except ClientError as error:
            assert error.response["Error"]["Code"] == "AccessDenied"
            return False

    assert reads({"IpAddress": {"aws:SourceIp": "127.0.0.0/8"}})
    assert not reads({"IpAddress": {"aws:SourceIp": "10.0.0.0/8"}})
    assert not reads({"Bool": {"aws:SecureTransport": "true"}})
    assert reads({"StringLike": {"aws:UserAgent": "*oto3*"}})
    assert reads({"DateGreaterThan": {"aws:CurrentTime": "2020-01-01T00:00:00Z"}})
    assert reads({"StringEquals": {"s3:ExistingObjectTag/kind": "public"}})
    assert not reads({"StringEquals": {"s3:ExistingObjectTag/kind": "public"}}, key="other")
    assert not reads({"StringEquals": {"s3:authType": "REST-HEADER"}})


def test_conditions_look_at_what_is_written(s3, bucket):
    resource = f"{bucket}/*"
    text = policy(
        statement("Deny", "s3:PutObject", resource, condition={"StringEquals": {"s3:x-amz-storage-class": "STANDARD"}}),
        statement("Deny", "s3:PutObject", resource, condition={"StringEquals": {"s3:RequestObjectTag/level": "secret"}}),
        statement("Deny", "s3:PutObjectTagging", f"{bucket}/untagged/*"),
        statement("Deny", "s3:PutObject", f"{bucket}/copies/*", condition={
            "StringNotLike": {"s3:x-amz-copy-source": f"{bucket}/allowed/*"}}),
        statement("Deny", "s3:DeleteObject", f"{bucket}/kept/*"),
        statement("Deny", "s3:GetObjectTagging", f"{bucket}/allowed/tagged"),
    )
    s3.put_bucket_policy(Bucket=bucket, Policy=text)
    s3.put_object(Bucket=bucket, Key="allowed/a", Body=b"x")
    s3.put_object(Bucket=bucket, Key="allowed/tagged", Body=b"x", Tagging="a=b")
    s3.put_object(Bucket=bucket, Key="kept/a", Body=b"x", Tagging="level=plain")
    for more in [{"StorageClass": "STANDARD"}, {"Tagging": "level=secret"}]:
        with denied():
            s3.put_object(Bucket=bucket, Key="k", Body=b"x", **more)
        with denied():
            s3.create_multipart_upload(Bucket=bucket, Key="k", **more)
    with denied():
        s3.put_object(Bucket=bucket, Key="untagged/k", Body=b"x", Tagging="a=b")
    s3.copy_object(Bucket=bucket, Key="copies/a", CopySource={"Bucket": bucket, "Key": "allowed/a"})
    with denied():
        s3.copy_object(Bucket=bucket, Key="copies/b", CopySource={"Bucket": bucket, "Key": "kept/a"})
    with denied():
        s3.copy_object(Bucket=bucket, Key="copies/c", CopySource={"Bucket": bucket, "Key": "allowed/tagged"})
    s3.copy_object(
        Bucket=bucket, Key="copies/c", CopySource={"Bucket": bucket, "Key": "allowed/tagged"}, TaggingDirective="REPLACE"
    )
    answer = s3.delete_objects(Bucket=bucket, Delete={"Objects": [{"Key": "kept/a"}, {"Key": "allowed/a"}]})
    assert [entry["Key"] for entry in answer["Deleted"]] == ["allowed/a"]
    assert [(entry["Key"], entry["Code"]) for entry in answer["Errors"]] == [("kept/a", "AccessDenied")]


def test_a_copy_needs_the_source(s3, bucket):
    s3.put_object(Bucket=bucket, Key="secret/k", Body=b"x")
    s3.put_bucket_policy(Bucket=bucket, Policy=policy(statement("Deny", "s3:GetObject", f"{bucket}/secret/*")))
    with denied():
        s3.copy_object(Bucket=bucket, Key="k", CopySource={"Bucket": bucket, "Key": "secret/k"})
    begun = s3.create_multipart_upload(Bucket=bucket, Key="k")
    with denied():
        s3.upload_part_copy(
            Bucket=bucket, Key="k", UploadId=begun["UploadId"], PartNumber=1, CopySource={"Bucket": bucket, "Key": "secret/k"}
        )


def test_conditions_see_the_source_that_the_copy_reads(shared, s3, bucket):
    for key in ["secret/k", "open/k"]:
        s3.put_object(Bucket=bucket, Key=key, Body=b"x")
    condition = {"StringLike": {"s3:x-amz-copy-source": f"{bucket}/secret/*"}}
    denial = statement("Deny", "s3:PutObject", f"{bucket}/*", condition=condition)
    s3.put_bucket_policy(Bucket=bucket, Policy=policy(statement("Allow", ["s3:GetObject", "s3:PutObject"], f"{bucket}/*"), denial))
    for source in ["{}/k", "/{}/k", "%2F{}/k", "%2F{}%2Fk"]:
        for place, expected in [("secret", 403), ("open", 200)]:
            header = {"x-amz-copy-source": source.format(f"{bucket}/{place}"), "Content-Length": "0"}
            assert plain(shared, "PUT", f"/{bucket}/k", header)[0] == expected, header


def test_an_unsigned_read_has_no_headers_of_its_own_whatever_it_claims_to_sign(shared, s3, bucket):
    s3.put_object(Bucket=bucket, Key="k", Body=b"x")
    s3.put_bucket_policy(Bucket=bucket, Policy=policy(statement("Allow", "s3:GetObject", f"{bucket}/*")))
    claim = f"/{bucket}/k?X-Amz-SignedHeaders=range"
    assert plain(shared, "GET", claim, {"Range": "bytes=5-2"})[::2] == (200, b"x")
    status, _, body = plain(shared, "GET", f"{claim}&response-content-type=a/b", {"Range": "bytes=5-2"})
    assert status == 400 and b"<Code>InvalidRequest</Code>" in body


def test_a_public_access_block_refuses_and_ignores_what_is_public(s3, anonymous, open_bucket):
    bucket = open_bucket
    with refused("NoSuchPublicAccessBlockConfiguration", 404):
        s3.get_public_access_block(Bucket=bucket)
    readable = policy(statement("Allow", "s3:GetObject", f"{bucket}/by-policy"))
    s3.put_bucket_policy(Bucket=bucket, Policy=readable)
    s3.put_object(Bucket=bucket, Key="by-policy", Body=b"x")
    s3.put_object(Bucket=bucket, Key="by-acl", Body=b"x", ACL="public-read")
    for key in ["by-policy", "by-acl"]:
        anonymous.get_object(Bucket=bucket, Key=key)

    def block(**flags):
        names = ["BlockPublicAcls", "IgnorePublicAcls", "BlockPublicPolicy", "RestrictPublicBuckets"]
        wanted = {name: flags.get(name, False) for name in names}
        s3.put_public_access_block(Bucket=bucket, PublicAccessBlockConfiguration=wanted)
        assert s3.get_public_access_block(Bucket=bucket)["PublicAccessBlockConfiguration"] == wanted

    block(IgnorePublicAcls=True)
    with denied():
        anonymous.get_object(Bucket=bucket, Key="by-acl")
    anonymous.get_object(Bucket=bucket, Key="by-policy")
    block(RestrictPublicBuckets=True)
    with denied():
        anonymous.get_object(Bucket=bucket, Key="by-policy")
    anonymous.get_object(Bucket=bucket, Key="by-acl")
    assert s3.get_bucket_policy_status(Bucket=bucket)["PolicyStatus"]["IsPublic"] is False
    block(BlockPublicPolicy=True)
    with denied():
        s3.put_bucket_policy(Bucket=bucket, Policy=readable)
    s3.put_bucket_policy(Bucket=bucket, Policy=policy(
        statement("Allow", "s3:GetObject", f"{bucket}/*", condition={"IpAddress": {"aws:SourceIp": "127.0.0.1/32"}})))
    block(BlockPublicAcls=True)
    for call in [
        lambda: s3.put_bucket_acl(Bucket=bucket, ACL="public-read"),
        lambda: s3.put_object_acl(Bucket=bucket, Key="by-acl", ACL="authenticated-read"),
        lambda: s3.put_object(Bucket=bucket, Key="new", Body=b"x", ACL="public-read"),
        lambda: s3.put_object(Bucket=bucket, Key="new", Body=b"x", GrantRead=f"uri={PUBLIC}"),
        lambda: s3.copy_object(Bucket=bucket, Key="new", CopySource=f"{bucket}/by-acl", ACL="public-read"),
        lambda: s3.create_multipart_upload(Bucket=bucket, Key="new", ACL="public-read"),
    ]:
        with denied():
            call()
    s3.put_object(Bucket=bucket, Key="new", Body=b"x", ACL="private")
    s3.delete_public_access_block(Bucket=bucket)
    with refused("NoSuchPublicAccessBlockConfiguration", 404):
        s3.get_public_access_block(Bucket=bucket)
    s3.put_object_acl(Bucket=bucket, Key="new", ACL="public-read")


def test_where_the_bucket_owner_owns_everything_lists_are_off(s3, anonymous, bucket):
    controls = s3.get_bucket_ownership_controls(Bucket=bucket)["OwnershipControls"]
    assert controls == {"Rules": [{"ObjectOwnership": "BucketOwnerEnforced"}]}
    for harmless in ["private", "bucket-owner-full-control"]:
        s3.put_object(Bucket=bucket, Key="k", Body=b"x", ACL=harmless)
    s3.put_object_acl(Bucket=bucket, Key="k", ACL="bucket-owner-full-control")
    s3.put_bucket_acl(Bucket=bucket, ACL="bucket-owner-full-control")
    for call in [
        lambda: s3.put_object_acl(Bucket=bucket, Key="k", ACL="private"),
        lambda: s3.put_bucket_acl(Bucket=bucket, ACL="private"),
        lambda: s3.put_object(Bucket=bucket, Key="k", Body=b"y", ACL="public-read"),
        lambda: s3.put_object_acl(Bucket=bucket, Key="k", ACL="public-read"),
        lambda: s3.put_bucket_acl(Bucket=bucket, ACL="public-read"),
        lambda: s3.put_bucket_acl(Bucket=bucket, GrantRead=f"uri={PUBLIC}"),
    ]:
        with refused("AccessControlListNotSupported", 400):
            call()
    with refused("InvalidBucketAclWithObjectOwnership", 400):
        s3.create_bucket(Bucket="never-public", ACL="public-read")
    assert s3.get_object(Bucket=bucket, Key="k")["Body"].read() == b"x"
    me = s3.list_buckets()["Owner"]
    for acl in [s3.get_bucket_acl(Bucket=bucket), s3.get_object_acl(Bucket=bucket, Key="k")]:
        assert acl["Owner"] == me
        assert acl["Grants"] == [{"Grantee": {"Type": "CanonicalUser", **me}, "Permission": "FULL_CONTROL"}]


def test_a_missing_key_is_told_to_those_who_may_list_its_place(s3, anonymous, bucket):
    allow = statement("Allow", "s3:ListBucket", bucket, condition={"StringLike": {"s3:prefix": "public/*"}})
    s3.put_bucket_policy(Bucket=bucket, Policy=policy(allow))
    with refused(("NoSuchKey", "404"), 404):
        anonymous.head_object(Bucket=bucket, Key="public/missing")
    with refused(("AccessDenied", "403"), 403):
        anonymous.head_object(Bucket=bucket, Key="private/missing")


def test_policies_see_the_tags_in_the_body_of_put_object_tagging(s3, anonymous, bucket):
    s3.put_object(Bucket=bucket, Key="k", Body=b"x")

    def tag(**tags):
        tag_set = [{"Key": key, "Value": value} for key, value in tags.items()]
        anonymous.put_object_tagging(Bucket=bucket, Key="k", Tagging={"TagSet": tag_set})

    few = {"ForAllValues:StringEquals": {"s3:RequestObjectTagKeys": ["kind", "team"]}}
    kind = {"StringEquals": {"s3:RequestObjectTag/kind": "open"}, **few}
    s3.put_bucket_policy(Bucket=bucket, Policy=policy(statement("Allow", "s3:PutObjectTagging", f"{bucket}/*", condition=kind)))
    tag(kind="open", team="a")
    for tags in ({"kind": "closed"}, {"team": "a"}, {"kind": "open", "other": "1"}):
        with denied():
            tag(**tags)
    assert len(s3.get_object_tagging(Bucket=bucket, Key="k")["TagSet"]) == 2


def test_whom_a_list_lets_write_may_bring_tags(s3, anonymous, open_bucket):
    with denied():
        anonymous.put_object(Bucket=open_bucket, Key="k", Body=b"x", Tagging="a=1")
    s3.put_bucket_acl(Bucket=open_bucket, ACL="public-read-write")
    anonymous.put_object(Bucket=open_bucket, Key="k", Body=b"x", Tagging="a=1")
    assert s3.get_object_tagging(Bucket=open_bucket, Key="k")["TagSet"] == [{"Key": "a", "Value": "1"}]
    with denied():
        anonymous.put_object_tagging(Bucket=open_bucket, Key="k", Tagging={"TagSet": []})


def test_ownership_controls_are_put_read_and_deleted(s3, bucket):
    def put(ownership):
        s3.put_bucket_ownership_controls(Bucket=bucket, OwnershipControls={"Rules": [{"ObjectOwnership": ownership}]})

    for ownership in ["ObjectWriter", "BucketOwnerPreferred"]:
        put(ownership)
        rules = s3.get_bucket_ownership_controls(Bucket=bucket)["OwnershipControls"]["Rules"]
        assert rules == [{"ObjectOwnership": ownership}]
    s3.put_bucket_acl(Bucket=bucket, ACL="public-read")
    with refused("InvalidBucketAclWithObjectOwnership", 400):
        put("BucketOwnerEnforced")
    s3.put_bucket_acl(Bucket=bucket, ACL="private")
    put("BucketOwnerEnforced")
    with refused("MalformedXML", 400):
        put("Nobody")
    s3.delete_bucket_ownership_controls(Bucket=bucket)
    with refused("OwnershipControlsNotFoundError", 404):
        s3.get_bucket_ownership_controls(Bucket=bucket)
    # Without controls, lists count.
    s3.put_bucket_acl(Bucket=bucket, ACL="public-read")
    with refused("InvalidArgument", 400):
        s3.create_bucket(Bucket="never-made", ObjectOwnership="Nobody")


def grants(answer):
    """{grantee: permissions}; the owner is `me`."""
    result = {}
    for grant in answer["Grants"]:
        grantee = grant["Grantee"]
        name = "me" if grantee.get("ID") == answer["Owner"]["ID"] else grantee.get("URI", grantee.get("ID"))
        result.setdefault(name, []).append(grant["Permission"])
    return result


@pytest.mark.parametrize(
    "canned,expected",
    [
        ("private", {}),
        ("public-read", {PUBLIC: ["READ"]}),
        ("public-read-write", {PUBLIC: ["READ", "WRITE"]}),
        ("authenticated-read", {SIGNED: ["READ"]}),
        ("bucket-owner-read", {}),
        ("bucket-owner-full-control", {}),
    ],
)
def test_canned_lists_of_objects(s3, anonymous, open_bucket, canned, expected):
    bucket, expected = open_bucket, {"me": ["FULL_CONTROL"], **expected}
    s3.put_object(Bucket=bucket, Key="put", Body=b"x", ACL=canned)
    s3.put_object(Bucket=bucket, Key="set", Body=b"x")
    before = s3.head_object(Bucket=bucket, Key="set")
    s3.put_object_acl(Bucket=bucket, Key="set", ACL=canned)
    after = s3.head_object(Bucket=bucket, Key="set")
    assert (before["ETag"], before["LastModified"]) == (after["ETag"], after["LastModified"])
    s3.copy_object(Bucket=bucket, Key="copied", CopySource=f"{bucket}/set", ACL=canned)
    upload(s3, bucket, "uploaded", [(1, b"x")], ACL=canned)
    for key in ["put", "set", "copied", "uploaded"]:
        assert grants(s3.get_object_acl(Bucket=bucket, Key=key)) == expected, key
        if PUBLIC in expected:
            assert anonymous.get_object(Bucket=bucket, Key=key)["Body"].read() == b"x"
        else:
            with denied():
                anonymous.get_object(Bucket=bucket, Key=key)
    # A copy has a list of its own, and so has what is written again.
    s3.copy_object(Bucket=bucket, Key="plain-copy", CopySource=f"{bucket}/set")
    s3.put_object(Bucket=bucket, Key="put", Body=b"x")
    for key in ["plain-copy", "put"]:
        assert grants(s3.get_object_acl(Bucket=bucket, Key=key)) == {"me": ["FULL_CONTROL"]}


def test_lists_of_buckets_let_anybody_list_and_write(s3, anonymous, open_bucket):
    bucket = open_bucket
    s3.put_object(Bucket=bucket, Key="k", Body=b"x")
    s3.put_bucket_acl(Bucket=bucket, ACL="public-read")
    assert grants(s3.get_bucket_acl(Bucket=bucket)) == {"me": ["FULL_CONTROL"], PUBLIC: ["READ"]}
    assert s3.get_bucket_policy_status(Bucket=bucket)["PolicyStatus"]["IsPublic"] is True
    assert [entry["Key"] for entry in anonymous.list_objects_v2(Bucket=bucket)["Contents"]] == ["k"]
    with denied():
        anonymous.get_object(Bucket=bucket, Key="k")
    with refused("NoSuchKey", 404):
        anonymous.get_object(Bucket=bucket, Key="missing")
    with denied():
        anonymous.put_object(Bucket=bucket, Key="new", Body=b"x")
    with denied():
        anonymous.get_bucket_acl(Bucket=bucket)
    s3.put_bucket_acl(Bucket=bucket, ACL="public-read-write")
    anonymous.put_object(Bucket=bucket, Key="new", Body=b"from nobody")
    assert s3.get_object(Bucket=bucket, Key="new")["Body"].read() == b"from nobody"
    anonymous.delete_object(Bucket=bucket, Key="new")
    anonymous.put_object(Bucket=bucket, Key="new", Body=b"x", ACL="public-read")
    assert anonymous.get_object(Bucket=bucket, Key="new")["Body"].read() == b"x"
    with denied():
        anonymous.put_object_acl(Bucket=bucket, Key="new", ACL="private")
    may_put = policy(statement("Allow", "s3:PutObject", f"{bucket}/*"))
    s3.put_bucket_policy(Bucket=bucket, Policy=may_put)
    s3.put_bucket_acl(Bucket=bucket, ACL="private")
    anonymous.put_object(Bucket=bucket, Key="new", Body=b"x")
    with denied():
        anonymous.put_object(Bucket=bucket, Key="new", Body=b"x", ACL="public-read")
    s3.delete_bucket_policy(Bucket=bucket)
    s3.put_bucket_acl(Bucket=bucket, ACL="log-delivery-write")
    assert grants(s3.get_bucket_acl(Bucket=bucket))["http://acs.amazonaws.com/groups/s3/LogDelivery"] == ["WRITE", "READ_ACP"]
    with denied():
        anonymous.list_objects_v2(Bucket=bucket)
    s3.create_bucket(Bucket=f"{bucket}-made", ACL="public-read", ObjectOwnership="BucketOwnerPreferred")
    assert "Contents" not in anonymous.list_objects_v2(Bucket=f"{bucket}-made")


def test_groups_stand_before_the_owner_in_canned_lists(s3, open_bucket):
    for canned, groups in [("public-read-write", [("READ", PUBLIC), ("WRITE", PUBLIC)]), ("authenticated-read", [("READ", SIGNED)])]:
        s3.put_bucket_acl(Bucket=open_bucket, ACL=canned)
        shown = s3.get_bucket_acl(Bucket=open_bucket)
        expected = [*groups, ("FULL_CONTROL", shown["Owner"]["ID"])]
        assert [(g["Permission"], g["Grantee"].get("URI", g["Grantee"].get("ID"))) for g in shown["Grants"]] == expected


def test_grants_in_headers_and_in_xml(s3, anonymous, open_bucket):
    bucket = open_bucket
    s3.put_object(Bucket=bucket, Key="k", Body=b"x")
    me = s3.list_buckets()["Owner"]
    s3.put_object_acl(Bucket=bucket, Key="k", GrantRead=f'uri="{PUBLIC}", id="{me["ID"]}"', GrantFullControl=f'id={me["ID"]}')
    assert grants(s3.get_object_acl(Bucket=bucket, Key="k")) == {"me": ["READ", "FULL_CONTROL"], PUBLIC: ["READ"]}
    anonymous.get_object(Bucket=bucket, Key="k")
    owner = {"Grantee": {"Type": "CanonicalUser", "ID": me["ID"]}, "Permission": "FULL_CONTROL"}
    reader = {"Grantee": {"Type": "Group", "URI": SIGNED}, "Permission": "READ_ACP"}
    wanted = {"Owner": me, "Grants": [owner, reader]}
    for put, get in [
        (lambda **more: s3.put_object_acl(Bucket=bucket, Key="k", **more), lambda: s3.get_object_acl(Bucket=bucket, Key="k")),
        (lambda **more: s3.put_bucket_acl(Bucket=bucket, **more), lambda: s3.get_bucket_acl(Bucket=bucket)),
    ]:
        put(AccessControlPolicy=wanted)
        assert grants(get()) == {"me": ["FULL_CONTROL"], SIGNED: ["READ_ACP"]}
        stranger = {"Grantee": {"Type": "CanonicalUser", "ID": "f" * 64}, "Permission": "READ"}
        email = {"Grantee": {"Type": "AmazonCustomerByEmail", "EmailAddress": "no@where.test"}, "Permission": "READ"}
        with refused("InvalidArgument", 400):
            put(AccessControlPolicy={"Owner": me, "Grants": [stranger]})
        with refused("UnresolvableGrantByEmailAddress", 400):
            put(AccessControlPolicy={"Owner": me, "Grants": [email]})
        with denied():
            put(AccessControlPolicy={"Owner": {"ID": "f" * 64}, "Grants": [owner]})
        with refused("MalformedACLError", 400):
            put(AccessControlPolicy={"Grants": [owner]})
        with refused("InvalidRequest", 400):
            put(ACL="private", GrantRead=f"uri={PUBLIC}")
        with refused("InvalidArgument", 400):
            put(ACL="secret")
        with refused("UnexpectedContent", 400):
            put(ACL="private", AccessControlPolicy=wanted)
        assert grants(get()) == {"me": ["FULL_CONTROL"], SIGNED: ["READ_ACP"]}
    with denied():
        anonymous.get_object(Bucket=bucket, Key="k")


def test_an_owner_that_takes_its_own_grants_away_keeps_the_list(s3, open_bucket):
    bucket = open_bucket
    s3.put_object(Bucket=bucket, Key="k", Body=b"x")
    before = s3.get_bucket_acl(Bucket=bucket)
    s3.put_bucket_acl(Bucket=bucket, AccessControlPolicy={"Owner": before["Owner"], "Grants": []})
    assert s3.get_object(Bucket=bucket, Key="k")["Body"].read() == b"x"
    with denied():
        s3.put_object(Bucket=bucket, Key="new", Body=b"x")
    assert s3.get_bucket_acl(Bucket=bucket)["Grants"] == []
    s3.put_bucket_acl(Bucket=bucket, AccessControlPolicy={"Owner": before["Owner"], "Grants": before["Grants"]})
    s3.put_object(Bucket=bucket, Key="new", Body=b"x")


def test_the_expected_owner_must_be_the_owner(s3, bucket):
    me = s3.list_buckets()["Owner"]["ID"]
    s3.put_object(Bucket=bucket, Key="k", Body=b"x", ExpectedBucketOwner=me)
    s3.list_objects_v2(Bucket=bucket, ExpectedBucketOwner=me)
    for call in [
        lambda other: s3.list_objects_v2(Bucket=bucket, ExpectedBucketOwner=other),
        lambda other: s3.put_object(Bucket=bucket, Key="k", Body=b"y", ExpectedBucketOwner=other),
        lambda other: s3.copy_object(Bucket=bucket, Key="c", CopySource=f"{bucket}/k", ExpectedBucketOwner=other),
        lambda other: s3.copy_object(Bucket=bucket, Key="c", CopySource=f"{bucket}/k", ExpectedSourceBucketOwner=other),
        lambda other: s3.delete_bucket(Bucket=bucket, ExpectedBucketOwner=other),
    ]:
        with denied():
            call("123456789012")
    s3.copy_object(
        Bucket=bucket, Key="c", CopySource=f"{bucket}/k", ExpectedBucketOwner=me, ExpectedSourceBucketOwner=me
    )


def test_owners_are_shown_in_listings(s3, bucket):
    me = s3.list_buckets()["Owner"]
    assert len(me["ID"]) == 64 and me["DisplayName"] == "tidegate"
    s3.put_object(Bucket=bucket, Key="k", Body=b"x")
    s3.create_multipart_upload(Bucket=bucket, Key="m")
    assert s3.list_objects(Bucket=bucket)["Contents"][0]["Owner"] == me
    assert s3.list_objects_v2(Bucket=bucket, FetchOwner=True)["Contents"][0]["Owner"] == me
    begun = s3.list_multipart_uploads(Bucket=bucket)["Uploads"][0]
    assert (begun["Owner"], begun["Initiator"]) == (me, me)
    assert s3.list_parts(Bucket=bucket, Key="m", UploadId=begun["UploadId"])["Owner"] == me


def test_a_document_that_is_not_the_one_that_was_sent_is_refused(shared, s3, bucket):
    text = policy(statement("Allow", "s3:GetObject", f"{bucket}/*")).encode()
    status, _, body = send(shared, "PUT", f"/{bucket}?policy=", {"Content-MD5": "AAAAAAAAAAAAAAAAAAAAAA=="}, text)
    assert status == 400 and b"BadDigest" in body, body
    with refused("NoSuchBucketPolicy", 404):
        s3.get_bucket_policy(Bucket=bucket)


def test_what_is_set_survives_a_restart_and_the_default_ownership_is_a_setting(gateway):
    server = gateway(s3={"default_object_ownership": "ObjectWriter"}).start()
    s3, anonymous = server.client(), nobody(server)
    s3.create_bucket(Bucket="data", ACL="public-read")
    # As buckets were before there were controls.
    with refused("OwnershipControlsNotFoundError", 404):
        s3.get_bucket_ownership_controls(Bucket="data")
    s3.put_object(Bucket="data", Key="open", Body=b"x", ACL="public-read")
    s3.put_object(Bucket="data", Key="closed", Body=b"x")
    s3.put_bucket_policy(Bucket="data", Policy=policy(statement("Allow", "s3:GetObject", "data/by-policy")))
    s3.put_object(Bucket="data", Key="by-policy", Body=b"x")
    server.kill()
    server.start()
    assert len(anonymous.list_objects_v2(Bucket="data")["Contents"]) == 3
    for key in ["open", "by-policy"]:
        anonymous.get_object(Bucket="data", Key=key)
    with denied():
        anonymous.get_object(Bucket="data", Key="closed")
