"""Drives the simulator with alibabacloud-oss-v2 (the second official Python SDK), V1 and V4 signatures."""
import datetime
import http.client
import urllib.parse
import urllib.request

import alibabacloud_oss_v2 as oss

from common import KEY_ID, REGION, SECRET, main


def client_of(sim, version, secret=SECRET):
    config = oss.config.load_default()
    config.credentials_provider = oss.credentials.StaticCredentialsProvider(KEY_ID, secret)
    config.region, config.endpoint, config.signature_version = REGION, sim.endpoint, version
    config.retry_max_attempts = 1
    return oss.Client(config)


def expect(status, code, run):
    try:
        run()
    except oss.exceptions.OperationError as error:
        found = error.unwrap()
        assert (found.status_code, found.code) == (status, code), str(found)
        return found
    raise AssertionError(f"expected {status} {code}")


def cases(sim):
    found = []
    for version in ("v1", "v4"):
        found += [(f"oss-v2 {version} {name}", run) for name, run in case_list(sim, version)]
    yield from sorted(found, key=lambda case: "restore" in case[0])


def case_list(sim, version):
    client, bucket = client_of(sim, version), f"ossv2-{version}"
    body = bytes(range(256)) * 2000

    def put(key, data=body, **more):
        return client.put_object(oss.PutObjectRequest(bucket=bucket, key=key, body=data, **more))

    def get(key, **more):
        return client.get_object(oss.GetObjectRequest(bucket=bucket, key=key, **more))

    def head(key):
        return client.head_object(oss.HeadObjectRequest(bucket=bucket, key=key))

    def put_get():
        client.put_bucket(oss.PutBucketRequest(bucket=bucket))
        key = "dir/a b+c%&?中.bin"
        result = put(key, metadata={"author": "alice"})
        assert result.status_code == 200 and result.request_id and result.hash_crc64
        assert get(key).body.content == body
        found = head(key)
        assert found.content_length == len(body) and found.metadata["author"] == "alice"
        assert found.storage_class == "Standard" and found.object_type == "Normal"
        meta = client.get_object_meta(oss.GetObjectMetaRequest(bucket=bucket, key=key))
        assert meta.content_length == len(body)
        expect(404, "NoSuchKey", lambda: get("nothing"))
        expect(404, "NoSuchKey", lambda: head("nothing"))

    def ranges():
        put("range")
        assert get("range", range_header="bytes=10-99").body.content == body[10:100]
        assert get("range", range_header=f"bytes={len(body) + 1}-").status_code == 200
        expect(416, "InvalidRange", lambda: get(
            "range", range_header=f"bytes={len(body) + 1}-", range_behavior="standard"))

    def multipart():
        upload = client.initiate_multipart_upload(
            oss.InitiateMultipartUploadRequest(bucket=bucket, key="multi 中")).upload_id
        parts = []
        for number, size in ((1, 200 * 1024), (2, 5)):
            result = client.upload_part(oss.UploadPartRequest(
                bucket=bucket, key="multi 中", upload_id=upload, part_number=number, body=bytes([number]) * size))
            parts.append(oss.UploadPart(part_number=number, etag=result.etag))
        listed = client.list_parts(oss.ListPartsRequest(bucket=bucket, key="multi 中", upload_id=upload))
        assert [p.part_number for p in listed.parts] == [1, 2]
        uploads = client.list_multipart_uploads(oss.ListMultipartUploadsRequest(bucket=bucket))
        assert [(u.key, u.upload_id) for u in uploads.uploads] == [("multi 中", upload)]
        done = client.complete_multipart_upload(oss.CompleteMultipartUploadRequest(
            bucket=bucket, key="multi 中", upload_id=upload,
            complete_multipart_upload=oss.CompleteMultipartUpload(parts=parts)))
        assert done.hash_crc64 and get("multi 中").body.content == b"\1" * 204800 + b"\2" * 5
        upload = client.initiate_multipart_upload(
            oss.InitiateMultipartUploadRequest(bucket=bucket, key="copied")).upload_id
        client.upload_part_copy(oss.UploadPartCopyRequest(
            bucket=bucket, key="copied", upload_id=upload, part_number=1, source_key="multi 中",
            source_range="bytes=204798-204804"))
        client.complete_multipart_upload(oss.CompleteMultipartUploadRequest(
            bucket=bucket, key="copied", upload_id=upload, complete_all="yes"))
        assert get("copied").body.content == b"\1\1" + b"\2" * 5

    def copy():
        put("source", metadata={"a": "1"})
        client.copy_object(oss.CopyObjectRequest(bucket=bucket, key="copy", source_key="source", storage_class="IA"))
        found = head("copy")
        assert found.storage_class == "IA" and found.metadata["a"] == "1" and get("copy").body.content == body

    def listing():
        for name in ("l/a", "l/b/1", "l/b/2", "l/c 中"):
            put(name, b"x")
        pages = client.list_objects_v2_paginator(limit=1).iter_page(oss.ListObjectsV2Request(bucket=bucket, prefix="l/"))
        assert [o.key for page in pages for o in page.contents or []] == ["l/a", "l/b/1", "l/b/2", "l/c 中"]
        pages = client.list_objects_paginator(limit=2).iter_page(oss.ListObjectsRequest(bucket=bucket, prefix="l/"))
        assert [o.key for page in pages for o in page.contents or []] == ["l/a", "l/b/1", "l/b/2", "l/c 中"]
        page = client.list_objects_v2(oss.ListObjectsV2Request(bucket=bucket, prefix="l/", delimiter="/"))
        assert [p.prefix for p in page.common_prefixes] == ["l/b/"] and page.key_count == 3

    def delete_many():
        put("d/1 &<>", b"x")
        result = client.delete_multiple_objects(oss.DeleteMultipleObjectsRequest(
            bucket=bucket, objects=[oss.DeleteObject(key="d/1 &<>"), oss.DeleteObject(key="d/none")]))
        assert [d.key for d in result.deleted_objects] == ["d/1 &<>", "d/none"]
        expect(404, "NoSuchKey", lambda: head("d/1 &<>"))
        assert client.delete_object(oss.DeleteObjectRequest(bucket=bucket, key="d/none")).status_code == 204

    def append_tags():
        one = client.append_object(oss.AppendObjectRequest(bucket=bucket, key="log", position=0, body=b"hello "))
        client.append_object(oss.AppendObjectRequest(
            bucket=bucket, key="log", position=one.next_position, body=b"world", init_hash_crc64=one.hash_crc64))
        assert get("log").body.content == b"hello world"
        tags = oss.Tagging(tag_set=oss.TagSet(tags=[oss.Tag(key="k", value="v 1")]))
        client.put_object_tagging(oss.PutObjectTaggingRequest(bucket=bucket, key="log", tagging=tags))
        found = client.get_object_tagging(oss.GetObjectTaggingRequest(bucket=bucket, key="log"))
        assert [(t.key, t.value) for t in found.tag_set.tags] == [("k", "v 1")]

    def refused():
        wrong = client_of(sim, version, "wrong")
        expect(403, "SignatureDoesNotMatch", lambda: wrong.head_object(oss.HeadObjectRequest(bucket=bucket, key="range")))

    def presigned():
        put("pre signed", b"by url")
        url = client.presign(oss.GetObjectRequest(bucket=bucket, key="pre signed"), expires=datetime.timedelta(hours=1)).url
        with urllib.request.urlopen(url) as answer:
            assert answer.read() == b"by url"
        signed = client.presign(oss.PutObjectRequest(bucket=bucket, key="put by url"))
        # Not urllib: it adds a Content-Type of its own, which is part of what is signed.
        url = urllib.parse.urlsplit(signed.url)
        connection = http.client.HTTPConnection(url.netloc)
        connection.request("PUT", f"{url.path}?{url.query}", b"1", dict(signed.signed_headers or {}))
        answer = connection.getresponse()
        assert answer.status == 200, answer.read()

    def restore_archive():
        put("arc", storage_class="Archive")
        expect(403, "InvalidObjectState", lambda: get("arc"))
        request = oss.RestoreObjectRequest(bucket=bucket, key="arc")
        assert client.restore_object(request).status_code == 202
        expect(409, "RestoreAlreadyInProgress", lambda: client.restore_object(request))
        sim.advance(61)
        assert client.restore_object(request).status_code == 200
        assert head("arc").restore.startswith('ongoing-request="false"') and get("arc").body.content == body

    def restore_cold():
        put("cold", storage_class="ColdArchive")
        job = oss.RestoreRequest(days=2, job_parameters=oss.JobParameters(tier="Expedited"))
        request = oss.RestoreObjectRequest(bucket=bucket, key="cold", restore_request=job)
        result = client.restore_object(request)
        assert result.status_code == 202 and result.restore_priority == "Expedited"
        sim.advance(3601)
        assert get("cold").body.content == body
        client.clean_restored_object(oss.CleanRestoredObjectRequest(bucket=bucket, key="cold"))
        expect(403, "InvalidObjectState", lambda: get("cold"))

    yield from {
        "put get head": put_get, "presigned": presigned, "range": ranges, "multipart": multipart, "copy": copy,
        "list": listing, "delete many": delete_many, "append tags": append_tags, "refused": refused,
        "restore Archive": restore_archive, "restore ColdArchive": restore_cold,
    }.items()


main(cases)
