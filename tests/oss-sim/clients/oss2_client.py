"""Drives the simulator with oss2 (the first official Python SDK), V1 and V4 signatures."""
import urllib.request

import oss2
from oss2.models import PartInfo, RestoreConfiguration, RestoreJobParameters

from common import KEY_ID, REGION, SECRET, main


def expect(status, code, run):
    try:
        run()
    except oss2.exceptions.OssError as error:
        assert (error.status, error.code) == (status, code), (error.status, error.code, error.body)
        return error
    raise AssertionError(f"expected {status} {code}")


def cases(sim):
    found = []
    for version in ("v1", "v4"):
        make = oss2.Auth if version == "v1" else oss2.AuthV4
        bucket = oss2.Bucket(make(KEY_ID, SECRET), sim.endpoint, f"oss2-{version}", region=REGION)
        found += [(f"oss2 {version} {name}", run) for name, run in case_list(sim, bucket, make)]
    # Presigned URLs expire by the virtual clock: the cases that move it come last.
    yield from sorted(found, key=lambda case: "restore" in case[0])


def case_list(sim, bucket, make):
    body = bytes(range(256)) * 2000

    def put_get():
        bucket.create_bucket()
        result = bucket.put_object("dir/a b+c%&?中.bin", body, headers={"x-oss-meta-author": "alice"})
        assert result.status == 200 and result.request_id
        got = bucket.get_object("dir/a b+c%&?中.bin")
        assert got.read() == body and got.headers["x-oss-meta-author"] == "alice"
        head = bucket.head_object("dir/a b+c%&?中.bin")
        assert head.content_length == len(body) and head.object_type == "Normal" and head.server_crc == result.crc
        meta = bucket.get_object_meta("dir/a b+c%&?中.bin")
        assert meta.content_length == len(body)
        assert not bucket.object_exists("nothing")
        expect(404, "NoSuchKey", lambda: bucket.get_object("nothing"))

    def ranges():
        bucket.put_object("range", body)
        assert bucket.get_object("range", byte_range=(10, 99)).read() == body[10:100]
        assert bucket.get_object("range", byte_range=(None, 7)).read() == body[-7:]
        whole = bucket.get_object("range", byte_range=(len(body) + 5, len(body) + 9))
        assert whole.status == 200 and whole.read() == body
        expect(416, "InvalidRange", lambda: bucket.get_object(
            "range", byte_range=(len(body) + 5, len(body) + 9), headers={"x-oss-range-behavior": "standard"}))

    def multipart():
        upload = bucket.init_multipart_upload("multi").upload_id
        parts = []
        for number, size in ((1, 200 * 1024), (2, 100 * 1024), (3, 5)):
            data = bytes([number]) * size
            result = bucket.upload_part("multi", upload, number, data)
            parts.append(PartInfo(number, result.etag, size=size, part_crc=result.crc))
        assert [p.part_number for p in bucket.list_parts("multi", upload).parts] == [1, 2, 3]
        assert [u.upload_id for u in bucket.list_multipart_uploads(prefix="multi").upload_list] == [upload]
        result = bucket.complete_multipart_upload("multi", upload, parts)
        assert result.etag.endswith("-3")
        assert bucket.get_object("multi").read() == b"\1" * 204800 + b"\2" * 102400 + b"\3" * 5
        aborted = bucket.init_multipart_upload("aborted").upload_id
        bucket.abort_multipart_upload("aborted", aborted)
        expect(404, "NoSuchUpload", lambda: bucket.list_parts("aborted", aborted))

    def copy():
        bucket.put_object("source", body, headers={"x-oss-meta-a": "1"})
        bucket.copy_object(bucket.bucket_name, "source", "copied", headers={"x-oss-storage-class": "IA"})
        head = bucket.head_object("copied")
        assert head.headers["x-oss-storage-class"] == "IA" and head.headers["x-oss-meta-a"] == "1"
        assert bucket.get_object("copied").read() == body

    def listing():
        for name in ("l/a", "l/b/1", "l/b/2", "l/c 中"):
            bucket.put_object(name, b"x")
        assert [o.key for o in oss2.ObjectIterator(bucket, prefix="l/", max_keys=2)] == ["l/a", "l/b/1", "l/b/2", "l/c 中"]
        assert [o.key for o in oss2.ObjectIteratorV2(bucket, prefix="l/", max_keys=1)] == ["l/a", "l/b/1", "l/b/2", "l/c 中"]
        page = bucket.list_objects_v2(prefix="l/", delimiter="/")
        assert page.prefix_list == ["l/b/"] and [o.key for o in page.object_list] == ["l/a", "l/c 中"]

    def delete_many():
        for name in ("d/1 &<>", "d/2"):
            bucket.put_object(name, b"x")
        result = bucket.batch_delete_objects(["d/1 &<>", "d/2", "d/none"])
        assert sorted(result.deleted_keys) == ["d/1 &<>", "d/2", "d/none"]
        assert not bucket.list_objects(prefix="d/").object_list

    def append_tag_symlink():
        result = bucket.append_object("log", 0, b"hello ")
        bucket.append_object("log", result.next_position, b"world", init_crc=result.crc)
        assert bucket.get_object("log").read() == b"hello world"
        expect(409, "PositionNotEqualToLength", lambda: bucket.append_object("log", 3, b"x"))
        rule = oss2.models.TaggingRule()
        rule.add("k", "v 1")
        bucket.put_object_tagging("log", oss2.models.Tagging(rule))
        assert bucket.get_object_tagging("log").tag_set.tagging_rule == {"k": "v 1"}
        bucket.put_symlink("log", "link")
        assert bucket.get_symlink("link").target_key == "log" and bucket.get_object("link").read() == b"hello world"

    def restore_archive():
        bucket.put_object("arc", body, headers={"x-oss-storage-class": "Archive"})
        expect(403, "InvalidObjectState", lambda: bucket.get_object("arc"))
        assert bucket.restore_object("arc").status == 202
        expect(409, "RestoreAlreadyInProgress", lambda: bucket.restore_object("arc"))
        assert bucket.head_object("arc").headers["x-oss-restore"] == 'ongoing-request="true"'
        sim.advance(61)
        assert bucket.restore_object("arc").status == 200
        assert 'ongoing-request="false", expiry-date="' in bucket.head_object("arc").headers["x-oss-restore"]
        assert bucket.get_object("arc").read() == body

    def restore_cold():
        bucket.put_object("cold", body, headers={"x-oss-storage-class": "ColdArchive"})
        job = RestoreConfiguration(2, RestoreJobParameters(oss2.models.RESTORE_TIER_EXPEDITED))
        assert bucket.restore_object("cold", input=job).status == 202
        sim.advance(3599)
        expect(403, "InvalidObjectState", lambda: bucket.get_object("cold"))
        sim.advance(2)
        assert bucket.get_object("cold").read() == body
        sim.advance(2 * 86400)
        expect(403, "InvalidObjectState", lambda: bucket.get_object("cold"))

    def refused():
        wrong = oss2.Bucket(make(KEY_ID, "wrong"), sim.endpoint, bucket.bucket_name, region=REGION)
        error = expect(403, "SignatureDoesNotMatch", lambda: wrong.put_object("x", b"x"))
        assert error.details["StringToSign"]
        unknown = oss2.Bucket(make("nobody", SECRET), sim.endpoint, bucket.bucket_name, region=REGION)
        expect(403, "InvalidAccessKeyId", lambda: unknown.get_object("range"))

    def presigned():
        url = bucket.sign_url("PUT", "pre/signed key", 3600, headers={"Content-Type": "text/plain"}, slash_safe=True)
        request = urllib.request.Request(url, data=b"by url", method="PUT", headers={"Content-Type": "text/plain"})
        assert urllib.request.urlopen(request).status == 200
        url = bucket.sign_url("GET", "pre/signed key", 3600, params={"response-content-type": "x/y"}, slash_safe=True)
        with urllib.request.urlopen(url) as answer:
            assert answer.read() == b"by url" and answer.headers["Content-Type"] == "x/y"

    def bucket_features():
        info = bucket.get_bucket_info()
        assert info.name == bucket.bucket_name and info.storage_class == "Standard"
        assert bucket.get_bucket_location().location == "oss-" + REGION
        assert bucket.get_bucket_stat().object_count > 0
        rule = oss2.models.LifecycleRule("r", "life/", storage_transitions=[
            oss2.models.StorageTransition(days=1, storage_class="IA")], expiration=oss2.models.LifecycleExpiration(days=3))
        bucket.put_bucket_lifecycle(oss2.models.BucketLifecycle([rule]))
        assert bucket.get_bucket_lifecycle().rules[0].storage_transitions[0].storage_class == "IA"
        bucket.delete_bucket_lifecycle()
        expect(404, "NoSuchLifecycle", bucket.get_bucket_lifecycle)

    def versions():
        other = oss2.Bucket(bucket.auth, sim.endpoint, bucket.bucket_name + "-ver", region=REGION)
        other.create_bucket()
        config = oss2.models.BucketVersioningConfig()
        config.status = oss2.BUCKET_VERSIONING_ENABLE
        other.put_bucket_versioning(config)
        one = other.put_object("k", b"1").versionid
        two = other.put_object("k", b"2").versionid
        assert one != two and other.get_object("k", params={"versionId": one}).read() == b"1"
        marker = other.delete_object("k")
        assert marker.delete_marker and marker.versionid
        expect(404, "NoSuchKey", lambda: other.get_object("k"))
        listed = other.list_object_versions()
        assert [v.versionid for v in listed.versions] == [two, one] and len(listed.delete_marker) == 1
        other.delete_object("k", params={"versionId": marker.versionid})
        assert other.get_object("k").read() == b"2"

    yield from {
        "put get head": put_get, "presigned": presigned, "range": ranges, "multipart": multipart, "copy": copy,
        "list": listing, "delete many": delete_many, "append tag symlink": append_tag_symlink, "refused": refused,
        "bucket features": bucket_features, "versions": versions, "restore Archive": restore_archive,
        "restore ColdArchive": restore_cold,
    }.items()


main(cases)
