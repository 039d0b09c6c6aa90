"""Listings against a model: every page of v1 and v2, with prefixes, delimiters, markers and odd keys."""

import pytest

from harness import put_many
from s3util import refused

ALPHABET = ["a", "b", "/", "//", "-", ".", " ", "+", "%", "é", "鍵", "😀", "Z", "0", "~", "\u00a0", "ﬀ"]


def test_the_prefix_is_shown_as_it_was_asked_for(s3, bucket):
    """boto3 decodes it in the second version only."""
    s3.put_object(Bucket=bucket, Key="a b/ü\nc", Body=b"x")
    for call in [s3.list_objects, s3.list_objects_v2]:
        assert call(Bucket=bucket, Prefix="a b/ü\n")["Prefix"] == "a b/ü\n"
        assert call(Bucket=bucket, Prefix="\n")["Prefix"] == "\n"


def expected(keys, prefix="", delimiter="", after=""):
    """What S3 lists: [(kind, name)] in the byte order of UTF-8. `after` is StartAfter or Marker."""
    entries, seen = [], set()
    for key in sorted(keys, key=lambda k: k.encode()):
        if not key.startswith(prefix) or key.encode() <= after.encode():
            continue
        rest = key[len(prefix):]
        if delimiter and delimiter in rest:
            common = prefix + rest[: rest.index(delimiter) + len(delimiter)]
            # A marker inside or at a common prefix means that the whole group was listed already.
            # A listing goes on behind a common prefix that it ended with; one that starts inside of it shows it for the rest.
            if common in seen or common == after:
                continue
            seen.add(common)
            entries.append(("prefix", common))
        else:
            entries.append(("key", key))
    return entries


def page_entries(page):
    entries = [("key", o["Key"]) for o in page.get("Contents", [])]
    entries += [("prefix", p["Prefix"]) for p in page.get("CommonPrefixes", [])]
    return sorted(entries, key=lambda e: e[1].encode())


def walk_v2(s3, bucket, max_keys, **more):
    entries, token, pages = [], None, 0
    while True:
        page = s3.list_objects_v2(Bucket=bucket, MaxKeys=max_keys, **more, **({"ContinuationToken": token} if token else {}))
        got = page_entries(page)
        assert len(got) <= max_keys and page["KeyCount"] == len(got)
        entries += got
        pages += 1
        assert pages < 10_000
        if not page["IsTruncated"]:
            assert "NextContinuationToken" not in page
            return entries
        assert got, "a truncated page must bring something"
        token = page["NextContinuationToken"]


def walk_v1(s3, bucket, max_keys, **more):
    entries, pages = [], 0
    while True:
        page = s3.list_objects(Bucket=bucket, MaxKeys=max_keys, **more)
        got = page_entries(page)
        assert len(got) <= max_keys
        entries += got
        pages += 1
        assert pages < 10_000
        if not page["IsTruncated"]:
            return entries
        assert got, "a truncated page must bring something"
        # Without a delimiter S3 gives no NextMarker: the last key is the marker.
        more["Marker"] = page["NextMarker"] if "NextMarker" in page else got[-1][1]


@pytest.fixture
def tree(s3, bucket, rng):
    keys = {"a", "a/", "a/b", "a/b/", "a/b/c", "a-b", "a.b", "ab", "b/1", "b/2", "b//1", "c"}
    keys |= {"".join(rng.choice(ALPHABET) for _ in range(rng.randrange(1, 9))) for _ in range(180)}
    keys = {k for k in keys if not k.startswith("/")}
    put_many(s3, bucket, {k: b"x" for k in keys})
    return bucket, keys


def test_every_listing_equals_the_model(s3, tree, rng):
    bucket, keys = tree
    prefixes = ["", "a", "a/", "a/b", "b/", "nothing", "é", "鍵", "a/b/c"] + rng.sample(sorted(keys), 4)
    for prefix in prefixes:
        for delimiter in ("", "/", "-", "//", "b/"):
            more = {"Prefix": prefix} | ({"Delimiter": delimiter} if delimiter else {})
            want = expected(keys, prefix, delimiter)
            for max_keys in (rng.choice([1, 2, 3]), rng.randrange(4, 40), 1000):
                if max_keys < 3 and len(want) > 40:
                    continue
                assert walk_v2(s3, bucket, max_keys, **more) == want, (prefix, delimiter, max_keys)
                assert walk_v1(s3, bucket, max_keys, **more) == want, (prefix, delimiter, max_keys)


def test_start_after_and_marker_equal_the_model(s3, tree, rng):
    bucket, keys = tree
    for after in rng.sample(sorted(keys), 12) + ["a/", "zzzz", "\x01"]:
        for delimiter in ("", "/"):
            more = {"Delimiter": delimiter} if delimiter else {}
            want = expected(keys, "", delimiter, after)
            assert walk_v2(s3, bucket, 7, StartAfter=after, **more) == want, (after, delimiter)
            if after != "\x01":
                assert walk_v1(s3, bucket, 7, Marker=after, **more) == want, (after, delimiter)


def test_a_listing_shows_size_etag_and_class(s3, bucket):
    tag = s3.put_object(Bucket=bucket, Key="k", Body=b"12345")["ETag"]
    entry = s3.list_objects_v2(Bucket=bucket)["Contents"][0]
    assert (entry["Size"], entry["ETag"], entry["StorageClass"]) == (5, tag, "STANDARD")


def test_max_keys_is_capped_at_a_thousand_and_zero_gives_nothing(s3, bucket):
    put_many(s3, bucket, {f"{i:05}": b"" for i in range(1003)}, threads=16)
    page = s3.list_objects_v2(Bucket=bucket, MaxKeys=5000)
    assert (page["KeyCount"], page["IsTruncated"]) == (1000, True)
    rest = s3.list_objects_v2(Bucket=bucket, ContinuationToken=page["NextContinuationToken"])
    assert [o["Key"] for o in rest["Contents"]] == ["01000", "01001", "01002"]
    empty = s3.list_objects_v2(Bucket=bucket, MaxKeys=0)
    assert (empty["KeyCount"], empty["IsTruncated"]) == (0, False)


def test_a_made_up_continuation_token_is_refused(s3, bucket):
    with refused("InvalidArgument", 400):
        s3.list_objects_v2(Bucket=bucket, ContinuationToken="made up!")


def test_a_listing_sees_each_write_at_once(s3, bucket, rng):
    keys = set()
    for _ in range(60):
        key = f"k{rng.randrange(20)}"
        if key in keys and rng.random() < 0.5:
            s3.delete_object(Bucket=bucket, Key=key)
            keys.discard(key)
        else:
            s3.put_object(Bucket=bucket, Key=key, Body=b"")
            keys.add(key)
        listed = [o["Key"] for o in s3.list_objects_v2(Bucket=bucket).get("Contents", [])]
        assert listed == sorted(keys)


def test_uploads_are_listed_within_the_prefix_and_behind_the_marker(s3, bucket):
    keys = ["a", "a/", "a/x", "a/y/z", "aa", "b", "b1", "c"]
    ids = {key: s3.create_multipart_upload(Bucket=bucket, Key=key)["UploadId"] for key in keys}

    def listed(**more):
        page = s3.list_multipart_uploads(Bucket=bucket, **more)
        assert not page["IsTruncated"]
        return [u["Key"] for u in page.get("Uploads", [])], [p["Prefix"] for p in page.get("CommonPrefixes", [])]

    assert listed(Prefix="b", KeyMarker="a") == (["b", "b1"], [])
    assert listed(Prefix="b", KeyMarker="a", UploadIdMarker=ids["a"]) == (["b", "b1"], [])
    assert listed(Prefix="b", KeyMarker="b") == (["b1"], [])
    assert listed(Prefix="b", KeyMarker="z") == ([], [])
    assert listed(KeyMarker="a") == (keys[1:], [])
    # Within the prefix the marker is a key, above it what its page made of all that lies below.
    assert listed(Prefix="a/", Delimiter="/", KeyMarker="a/") == (["a/x"], ["a/y/"])
    assert listed(Prefix="a/", Delimiter="/", KeyMarker="a/y/") == ([], [])
    assert listed(Delimiter="/", KeyMarker="a/") == (["aa", "b", "b1", "c"], [])
    for key in keys:
        s3.abort_multipart_upload(Bucket=bucket, Key=key, UploadId=ids[key])
