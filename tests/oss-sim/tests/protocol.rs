//! The protocol, table by table, over real sockets.

mod common;

use base64::Engine;
use common::{DAY, START, builder, client, start};
use oss_sim::{AccessKey, Class};
use std::io::Read;

#[test]
fn put_get_head_and_delete_carry_the_documented_headers() {
    let sim = start();
    let c = client(&sim);
    let put = c.put("a/b c+d%", b"hello world", &[("x-oss-meta-who", "me"), ("content-type", "x/y")]).is(200);
    assert_eq!(put.header("etag"), Some("\"5EB63BBBE01EEED093CB22BB8F5ACDC3\""));
    assert_eq!(put.header("x-oss-hash-crc64ecma"), Some("5981764153023615706"));
    assert_eq!(put.header("content-md5"), Some("XrY7u+Ae7tCTyyK7j1rNww=="));
    assert_eq!(put.header("server"), Some("AliyunOSS"));
    let id = put.header("x-oss-request-id").unwrap();
    assert!(id.len() == 24 && id.bytes().all(|b| b.is_ascii_hexdigit()), "{id}");
    let get = c.get("a/b c+d%").is(200);
    assert_eq!(get.body, b"hello world");
    let head = c.call("HEAD", "a/b c+d%", &[], b"").is(200);
    for (name, value) in [
        ("content-length", "11"),
        ("content-type", "x/y"),
        ("x-oss-meta-who", "me"),
        ("x-oss-object-type", "Normal"),
        ("x-oss-storage-class", "Standard"),
        ("last-modified", "Fri, 01 Mar 2024 00:30:00 GMT"),
        ("date", "Fri, 01 Mar 2024 00:30:00 GMT"),
    ] {
        assert_eq!(head.header(name), Some(value), "{name}");
    }
    c.call("DELETE", "a/b c+d%", &[], b"").is(204);
    c.call("DELETE", "a/b c+d%", &[], b"").is(204);
    c.get("a/b c+d%").fails(404, "NoSuchKey", "0026-00000001");
}

#[test]
fn a_head_error_is_in_headers() {
    let sim = start();
    let head = client(&sim).call("HEAD", "none", &[], b"").is(404);
    assert!(head.body.is_empty());
    assert_eq!(head.header("x-oss-ec"), Some("0026-00000001"));
    let xml = base64::engine::general_purpose::STANDARD.decode(head.header("x-oss-err").unwrap()).unwrap();
    assert!(String::from_utf8(xml).unwrap().contains("<Code>NoSuchKey</Code>"));
}

#[test]
fn wrong_signatures_keys_and_dates_get_their_own_answers() {
    let sim = start();
    let mut c = client(&sim);
    c.secret = "wrong";
    let bad = c.get("k");
    bad.fails(403, "SignatureDoesNotMatch", "0002-00000040");
    assert!(bad.node("StringToSign").unwrap().starts_with("OSS4-HMAC-SHA256\n20240301T003000Z\n"));
    assert!(bad.node("StringToSignBytes").unwrap().starts_with("4F 53 53 34 "));
    assert!(bad.node("CanonicalRequest").unwrap().starts_with("GET\n/b/k\n"));
    c.secret = "sk";
    c.date_shift_s = 901;
    let skewed = c.get("k");
    skewed.fails(403, "RequestTimeTooSkewed", "");
    assert_eq!(skewed.node("MaxAllowedSkewMilliseconds").as_deref(), Some("900000"));
    c.date_shift_s = -899;
    c.get("k").fails(404, "NoSuchKey", "");
    let anonymous = c.raw("GET", "/b/k", &[], b"");
    anonymous.fails(403, "AccessDenied", "");
    let both = [("authorization".to_string(), "OSS a:b".to_string())];
    c.raw("GET", "/b/k?Signature=x&OSSAccessKeyId=ak&Expires=1", &both, b"").fails(400, "InvalidArgument", "");
    c.raw("GET", "/b/k?Signature=x&OSSAccessKeyId=ak&Expires=1", &[], b"").fails(403, "AccessDenied", "");
    let scope = "OSS4-HMAC-SHA256 Credential=ak/20240301/cn-hangzhou/oss/aliyun_v4_request,Signature=00";
    let without_date = [("authorization".to_string(), scope.to_string())];
    c.raw("GET", "/b/k", &without_date, b"").fails(403, "AccessDenied", "");
    let unreadable = [without_date[0].clone(), ("x-oss-date".to_string(), "yesterday".to_string())];
    c.raw("GET", "/b/k", &unreadable, b"").fails(403, "AccessDenied", "");
    let basic = [("authorization".to_string(), "Basic abc".to_string())];
    c.raw("GET", "/b/k", &basic, b"").fails(400, "InvalidArgument", "");
}

#[test]
fn temporary_keys_need_their_token_and_expire() {
    let key =
        AccessKey { id: "ak".into(), secret: "sk".into(), token: Some("tok".into()), expires: Some(START + 60_000) };
    let sim = builder().start_blocking().unwrap();
    sim.sim().put_key(key);
    let c = client(&sim);
    c.get("k").fails(403, "InvalidSecurityToken", "0002-00000008");
    c.call("GET", "k", &[("x-oss-security-token", "tok")], b"").fails(404, "NoSuchKey", "");
    sim.advance_seconds(60);
    c.call("GET", "k", &[("x-oss-security-token", "tok")], b"").fails(403, "SecurityTokenExpired", "0002-00000007");
}

#[test]
fn hosts_decide_where_a_request_goes() {
    let sim = builder().cname("cold.example.com", "b").start_blocking().unwrap();
    let c = client(&sim);
    c.put("k", b"x", &[]).is(200);
    let get = |host: &str, path: &str| {
        // An unsigned request is refused after routing: the code tells how far it came.
        c.raw("GET", path, &[("host".to_string(), host.to_string())], b"").code()
    };
    assert_eq!(get("b.oss-cn-hangzhou.aliyuncs.com", "/k"), "AccessDenied");
    assert_eq!(get("cold.example.com", "/k"), "AccessDenied");
    assert_eq!(get("oss-cn-hangzhou.aliyuncs.com", "/b/k"), "SecondLevelDomainForbidden");
    assert_eq!(get("other.example.com", "/k"), "NoSuchCname");
}

#[test]
fn bodies_are_checked_against_what_the_client_announced() {
    let sim = start();
    let c = client(&sim);
    c.put("k", b"x", &[("content-md5", "XrY7u+Ae7tCTyyK7j1rNww==")]).fails(400, "InvalidDigest", "");
    c.put("k", b"x", &[("x-oss-hash-crc64ecma", "1")]).fails(400, "InvalidCRC64", "");
    c.put("k", b"hello world", &[("x-oss-hash-crc64ecma", "5981764153023615706")]).is(200);
    c.put("short", b"abc", &[("content-length", "10")]).fails(400, "RequestTimeout", "");
    c.get("short").fails(404, "NoSuchKey", "");
    let long = c.put("long", b"0123456789", &[("content-length", "4")]);
    assert_eq!(long.status, 200);
    assert_eq!(c.get("long").body, b"0123");
    c.put("chunked", b"3\r\nabc\r\n0\r\n\r\n", &[("transfer-encoding", "chunked")]).is(200);
    assert_eq!(c.get("chunked").body, b"abc");
}

#[test]
fn writes_refuse_what_oss_refuses() {
    let sim = start();
    let c = client(&sim);
    c.put("k", b"1", &[("x-oss-forbid-overwrite", "true")]).is(200);
    c.put("k", b"2", &[("x-oss-forbid-overwrite", "true")]).fails(409, "FileAlreadyExists", "");
    let conditional = c.put("k", b"2", &[("if-none-match", "*")]);
    conditional.fails(400, "NotImplemented", "");
    assert_eq!(conditional.node("Header").as_deref(), Some("if-none-match"));
    c.put("k", b"2", &[("x-oss-storage-class", "STANDARD")]).fails(400, "InvalidArgument", "");
    c.put("k", b"2", &[("x-oss-meta-a_b", "x")]).fails(400, "InvalidArgument", "");
    c.put("k", b"2", &[("x-oss-meta-a", &"x".repeat(8200))]).fails(400, "InvalidArgument", "");
    c.put("k", b"2", &[("x-oss-traffic-limit", "1000")]).fails(400, "InvalidArgument", "");
    c.put("/k", b"2", &[]).fails(400, "InvalidObjectName", "");
    c.put(&"k".repeat(1024), b"2", &[]).fails(400, "InvalidObjectName", "");
    assert_eq!(c.get("k").body, b"1");
    let nowhere = common::Client { bucket: "none", ..client(&sim) };
    nowhere.put("k", b"x", &[]).fails(404, "NoSuchBucket", "0015-00000101");
}

#[test]
fn a_callback_that_fails_leaves_the_object() {
    let sim = start();
    let c = client(&sim);
    let failed = c.put("k", b"1", &[("x-oss-callback", "e30=")]);
    failed.fails(203, "CallbackFailed", "");
    assert_eq!(c.get("k").is(200).body, b"1");
}

#[test]
fn ranges_follow_the_standard_only_when_asked() {
    let sim = start();
    let c = client(&sim);
    c.put("k", b"0123456789", &[]).is(200);
    let get = |range: &str, standard: bool| {
        let mut headers = vec![("range", range)];
        if standard {
            headers.push(("x-oss-range-behavior", "standard"));
        }
        c.call("GET", "k", &headers, b"")
    };
    let part = get("bytes=2-4", false).is(206);
    assert_eq!((part.body.as_slice(), part.header("content-range")), (&b"234"[..], Some("bytes 2-4/10")));
    assert_eq!(part.header("x-oss-hash-crc64ecma"), c.get("k").header("x-oss-hash-crc64ecma"), "of the whole");
    for range in ["bytes=10-11", "bytes=5-20", "bytes=4-2", "bytes=0-1,3-4", "lines=1-2"] {
        assert_eq!(get(range, false).is(200).body, b"0123456789", "{range}");
    }
    get("bytes=10-11", true).fails(416, "InvalidRange", "");
    assert_eq!(get("bytes=5-20", true).is(206).body, b"56789");
}

#[test]
fn conditions_give_304_and_412() {
    let sim = start();
    let c = client(&sim);
    let etag = c.put("k", b"x", &[]).header("etag").unwrap().to_string();
    let get = |name: &str, value: &str| c.call("GET", "k", &[(name, value)], b"").status;
    let (before, after) = ("Fri, 01 Mar 2024 00:29:59 GMT", "Fri, 01 Mar 2024 00:30:00 GMT");
    assert_eq!(get("if-match", &etag), 200);
    assert_eq!(get("if-match", "\"other\""), 412);
    assert_eq!(get("if-none-match", &etag), 304);
    assert_eq!(get("if-none-match", "\"other\""), 200);
    assert_eq!(get("if-modified-since", after), 304);
    assert_eq!(get("if-modified-since", before), 200);
    assert_eq!(get("if-unmodified-since", before), 412);
    assert_eq!(get("if-unmodified-since", after), 200);
}

#[test]
fn careless_clients_get_gzip_without_length_and_tag() {
    let sim = start();
    let c = client(&sim);
    let body = "cold ".repeat(100_000);
    c.put("k.txt", body.as_bytes(), &[("content-type", "text/plain")]).is(200);
    let zipped = c.call("GET", "k.txt", &[("accept-encoding", "gzip, deflate")], b"").is(200);
    assert_eq!(zipped.header("content-encoding"), Some("gzip"));
    assert_eq!((zipped.header("etag"), zipped.header("content-length")), (None, None));
    let mut plain = String::new();
    flate2::read::GzDecoder::new(&zipped.body[..]).read_to_string(&mut plain).unwrap();
    assert_eq!(plain, body);
    let honest = c.call("GET", "k.txt", &[("accept-encoding", "identity")], b"").is(200);
    assert_eq!(honest.header("content-length"), Some("500000"));
    c.put("k.bin", body.as_bytes(), &[]).is(200);
    assert!(c.call("GET", "k.bin", &[("accept-encoding", "gzip")], b"").header("etag").is_some());
}

fn restore(days: u64, tier: &str) -> String {
    format!("<RestoreRequest><Days>{days}</Days><JobParameters><Tier>{tier}</Tier></JobParameters></RestoreRequest>")
}

#[test]
fn frozen_objects_are_restored_step_by_step() {
    let sim = start();
    let c = client(&sim);
    c.put("k", b"body", &[("x-oss-storage-class", "ColdArchive")]).is(200);
    c.get("k").fails(403, "InvalidObjectState", "0016-00000404");
    c.put("copy", b"", &[("x-oss-copy-source", "/b/k")]).fails(403, "InvalidObjectState", "0016-00000404");
    assert_eq!(c.call("HEAD", "k", &[], b"").is(200).header("x-oss-restore"), None);
    let post = |tier: &str| c.call("POST", "k?restore", &[], restore(2, tier).as_bytes());
    let first = post("Standard").is(202);
    assert_eq!(first.header("x-oss-object-restore-priority"), Some("Standard"));
    post("Bulk").fails(409, "RestoreAlreadyInProgress", "0026-00000011");
    post("Expedited").is(202);
    let state = || c.call("HEAD", "k", &[], b"").header("x-oss-restore").map(str::to_string);
    assert_eq!(state().as_deref(), Some("ongoing-request=\"true\""));
    c.call("POST", "k?cleanRestoredObject", &[], b"").fails(409, "ArchiveRestoreNotFinished", "0016-00000719");
    sim.advance_seconds(3599);
    c.get("k").fails(403, "InvalidObjectState", "");
    sim.advance_seconds(1);
    assert_eq!(c.get("k").is(200).body, b"body");
    let expected = "ongoing-request=\"false\", expiry-date=\"Sun, 03 Mar 2024 01:30:00 GMT\"";
    assert_eq!(state().as_deref(), Some(expected));
    post("Bulk").is(200);
    c.call("POST", "k?cleanRestoredObject", &[], b"").is(204);
    c.get("k").fails(403, "InvalidObjectState", "");
    c.call("POST", "k?cleanRestoredObject", &[], b"").fails(409, "ArchiveRestoreFileStale", "0016-00000718");
    c.put("warm", b"x", &[("x-oss-storage-class", "IA")]).is(200);
    c.call("POST", "warm?restore", &[], b"").fails(400, "OperationNotSupported", "0016-00000702");
    c.call("POST", "none?restore", &[], b"").fails(404, "NoSuchKey", "0026-00000001");
}

#[test]
fn archive_is_read_directly_when_the_bucket_says_so() {
    let sim = start();
    let c = client(&sim);
    c.put("k", b"body", &[("x-oss-storage-class", "Archive")]).is(200);
    let on = b"<ArchiveDirectReadConfiguration><Enabled>true</Enabled></ArchiveDirectReadConfiguration>";
    c.call("PUT", "?bucketArchiveDirectRead", &[], on).is(200);
    assert_eq!(c.get("k").is(200).body, b"body");
    assert!(c.call("GET", "?bucketArchiveDirectRead", &[], b"").text().contains("<Enabled>true</Enabled>"));
    c.put("d", b"body", &[("x-oss-storage-class", "DeepColdArchive")]).is(200);
    c.get("d").fails(403, "InvalidObjectState", "");
}

fn parts(list: &[(u16, &str)]) -> String {
    let inner: String =
        list.iter().map(|(n, e)| format!("<Part><PartNumber>{n}</PartNumber><ETag>{e}</ETag></Part>")).collect();
    format!("<CompleteMultipartUpload>{inner}</CompleteMultipartUpload>")
}

#[test]
fn multipart_checks_everything_at_complete() {
    let sim = start();
    let c = client(&sim);
    let id = c.call("POST", "k?uploads", &[("x-oss-storage-class", "IA")], b"").is(200).node("UploadId").unwrap();
    let (big, small) = (vec![7u8; 102_400], vec![8u8; 102_399]);
    let up = |n: u16, body: &[u8]| {
        let answer = c.put(&format!("k?partNumber={n}&uploadId={id}"), body, &[]).is(200);
        answer.header("etag").unwrap().to_string()
    };
    let complete = |list: &[(u16, &str)]| c.call("POST", &format!("k?uploadId={id}"), &[], parts(list).as_bytes());
    let (one, two, three) = (up(1, &big), up(2, &small), up(3, b"end"));
    complete(&[(1, &one), (2, &two), (3, &three)]).fails(400, "EntityTooSmall", "");
    complete(&[(2, &two), (1, &one)]).fails(400, "InvalidPartOrder", "");
    complete(&[(1, &two)]).fails(400, "InvalidPart", "");
    complete(&[(4, &one)]).fails(400, "InvalidPart", "");
    c.call("POST", &format!("k?uploadId={id}"), &[], b"<x>").fails(400, "MalformedXML", "");
    c.put("k?partNumber=10001&uploadId=x", b"", &[]).fails(400, "InvalidArgument", "");
    c.put("k?partNumber=1&uploadId=x", b"", &[]).fails(404, "NoSuchUpload", "");
    let two = up(2, &big);
    let listed = c.get(&format!("k?uploadId={id}&max-parts=2")).is(200);
    assert_eq!(listed.node("NextPartNumberMarker").as_deref(), Some("2"));
    assert_eq!(listed.node("IsTruncated").as_deref(), Some("true"));
    let all = c.call("POST", &format!("k?uploadId={id}"), &[("x-oss-complete-all", "yes")], b"<a/>");
    all.fails(400, "InvalidArgument", "0042-00000216");
    let done = complete(&[(1, &one), (2, &two), (3, &three)]).is(200);
    let whole = [&big[..], &big[..], b"end"].concat();
    assert_eq!(done.header("x-oss-hash-crc64ecma"), Some(oss_sim::crc64(&whole).to_string().as_str()));
    assert!(done.node("ETag").unwrap().ends_with("-3&quot;"));
    let get = c.get("k").is(200);
    assert!(get.body == whole && get.header("x-oss-object-type") == Some("Multipart"));
    assert_eq!(get.header("x-oss-storage-class"), Some("IA"));
    complete(&[(1, &one)]).fails(404, "NoSuchUpload", "");
}

#[test]
fn parts_are_copied_from_ranges() {
    let sim = start();
    let c = client(&sim);
    c.put("src", &[b'a'; 1000], &[]).is(200);
    let id = c.call("POST", "k?uploads", &[], b"").node("UploadId").unwrap();
    let target = format!("k?partNumber=1&uploadId={id}");
    let copy = [("x-oss-copy-source", "/b/src"), ("x-oss-copy-source-range", "bytes=10-19")];
    c.put(&target, b"", &copy).is(200);
    c.call("POST", &format!("k?uploadId={id}"), &[("x-oss-complete-all", "yes")], b"").is(200);
    assert_eq!(c.get("k").body, b"aaaaaaaaaa");
}

#[test]
fn copies_change_class_and_metadata() {
    let sim = start();
    let c = client(&sim);
    c.put("a b", b"body", &[("x-oss-meta-x", "1"), ("content-type", "t/p")]).is(200);
    let source = ("x-oss-copy-source", "/b/a%20b");
    c.put("c", b"", &[source, ("x-oss-storage-class", "Archive")]).is(200);
    let head = c.call("HEAD", "c", &[], b"");
    assert_eq!((head.header("x-oss-storage-class"), head.header("x-oss-meta-x")), (Some("Archive"), Some("1")));
    c.put("d", b"", &[source, ("x-oss-metadata-directive", "REPLACE"), ("x-oss-meta-y", "2")]).is(200);
    let head = c.call("HEAD", "d", &[], b"");
    assert_eq!((head.header("x-oss-meta-x"), head.header("x-oss-meta-y")), (None, Some("2")));
    assert_eq!(head.header("content-type"), Some("application/octet-stream"));
    c.put("d", b"", &[source, ("x-oss-metadata-directive", "MOVE")]).fails(400, "InvalidArgument", "");
    c.put("d", b"", &[source, ("x-oss-copy-source-if-match", "\"no\"")]).fails(412, "PreconditionFailed", "");
    c.put("d", b"", &[("x-oss-copy-source", "/b/none")]).fails(404, "NoSuchKey", "");
}

#[test]
fn lists_page_group_and_encode() {
    let sim = start();
    let c = client(&sim);
    for key in ["a", "d/1", "d/2", "d/3", "e f", "z/1"] {
        c.put(key, b"x", &[]).is(200);
    }
    let (mut seen, mut token) = (Vec::new(), String::new());
    loop {
        let query = format!("?continuation-token={token}&delimiter=%2F&encoding-type=url&list-type=2&max-keys=2");
        let query = if token.is_empty() { query.replace("continuation-token=&", "") } else { query };
        let page = c.get(&query).is(200).text();
        for (open, close) in [("<Key>", "</Key>"), ("<CommonPrefixes><Prefix>", "</Prefix>")] {
            seen.extend(page.split(open).skip(1).map(|p| p.split(close).next().unwrap().to_string()));
        }
        let Some(next) = page.split("<NextContinuationToken>").nth(1) else { break };
        token = common::encode(next.split('<').next().unwrap(), "");
    }
    assert_eq!(seen, ["a", "d%2F", "e%20f", "z%2F"]);
    let after = c.get("?list-type=2&prefix=d%2F&start-after=d%2F1").is(200);
    assert_eq!(after.node("KeyCount").as_deref(), Some("2"));
    let v1 = c.get("?marker=d%2F3&max-keys=1").is(200);
    assert_eq!((v1.node("Key").as_deref(), v1.node("NextMarker").as_deref()), (Some("e f"), Some("e f")));
    c.get("?list-type=2&max-keys=1001").fails(400, "InvalidArgument", "");
    c.get("?continuation-token=%21&list-type=2").fails(400, "InvalidArgument", "");
}

#[test]
fn deleting_many_needs_a_digest() {
    let sim = start();
    let c = client(&sim);
    c.put("a&b", b"x", &[]).is(200);
    let document =
        b"<Delete><Quiet>false</Quiet><Object><Key>a&amp;b</Key></Object><Object><Key>n</Key></Object></Delete>";
    c.call("POST", "?delete", &[], document).fails(400, "InvalidArgument", "");
    let md5 = |d: &[u8]| base64::engine::general_purpose::STANDARD.encode(<md5::Md5 as md5::Digest>::digest(d));
    let answer = c.call("POST", "?delete", &[("content-md5", &md5(document))], document).is(200);
    assert!(answer.text().contains("<Deleted><Key>a&amp;b</Key></Deleted><Deleted><Key>n</Key></Deleted>"));
    let quiet = b"<Delete><Quiet>true</Quiet><Object><Key>n</Key></Object></Delete>";
    assert!(c.call("POST", "?delete", &[("content-md5", &md5(quiet))], quiet).is(200).body.is_empty());
    c.call("POST", "?delete", &[("content-md5", &md5(b"other"))], quiet).fails(400, "InvalidDigest", "");
}

#[test]
fn versions_and_delete_markers_behave() {
    let sim = start();
    let c = client(&sim);
    c.put("k", b"0", &[]).is(200);
    let set = |s: &str| {
        let d = format!("<VersioningConfiguration><Status>{s}</Status></VersioningConfiguration>");
        c.call("PUT", "?versioning", &[], d.as_bytes()).is(200);
    };
    set("Enabled");
    let one = c.put("k", b"1", &[]).is(200).header("x-oss-version-id").unwrap().to_string();
    assert_eq!(c.get("k?versionId=null").is(200).body, b"0");
    let gone = c.call("DELETE", "k", &[], b"").is(204);
    assert_eq!(gone.header("x-oss-delete-marker"), Some("true"));
    let marker = gone.header("x-oss-version-id").unwrap().to_string();
    let current = c.get("k");
    current.fails(404, "NoSuchKey", "");
    assert_eq!(current.header("x-oss-delete-marker"), Some("true"));
    let named = c.get(&format!("k?versionId={marker}"));
    named.fails(405, "MethodNotAllowed", "");
    assert_eq!(named.header("allow"), Some("DELETE"));
    c.call("DELETE", &format!("k?versionId={marker}"), &[], b"").is(204);
    assert_eq!(c.get("k").is(200).header("x-oss-version-id"), Some(one.as_str()));
    set("Suspended");
    c.put("k", b"2", &[]).is(200);
    assert_eq!(sim.objects("b").len(), 2, "the null version was replaced");
    assert_eq!(c.get(&format!("k?versionId={one}")).is(200).body, b"1");
    c.get("k?versionId=abc").fails(400, "InvalidArgument", "");
}

#[test]
fn lifecycle_acts_at_midnight_utc_and_aborts_uploads() {
    let sim = start();
    let c = client(&sim);
    c.put("x/k", b"body", &[]).is(200);
    c.call("POST", "x/u?uploads", &[], b"").is(200);
    let rule = "<LifecycleConfiguration><Rule><ID>r</ID><Prefix>x/</Prefix><Status>Enabled</Status>\
        <Transition><Days>2</Days><StorageClass>IA</StorageClass></Transition>\
        <Transition><Days>10</Days><StorageClass>ColdArchive</StorageClass></Transition>\
        <Expiration><Days>300</Days></Expiration><AbortMultipartUpload><Days>1</Days></AbortMultipartUpload>\
        </Rule></LifecycleConfiguration>";
    c.call("PUT", "?lifecycle", &[], rule.as_bytes()).is(200);
    assert!(c.call("GET", "?lifecycle", &[], b"").text().contains("<ID>r</ID>"));
    let etag = sim.objects("b")[0].etag.clone();
    // Written at 00:30 on March 1st: two days are over at 00:30 on the 3rd, the next run is at midnight of the 4th.
    sim.advance_seconds(3 * DAY - 1801);
    assert_eq!(sim.objects("b")[0].class, Class::Standard);
    sim.advance_seconds(1);
    let object = sim.objects("b").remove(0);
    assert_eq!((object.class, object.etag, object.modified), (Class::IA, etag, START));
    assert!(!c.get("?uploads").text().contains("<Upload>"));
    sim.advance_seconds(100 * DAY);
    let head = c.call("HEAD", "x/k", &[], b"").is(200);
    assert_eq!(head.header("x-oss-storage-class"), Some("ColdArchive"));
    assert_eq!(head.header("x-oss-transition-time"), Some("Tue, 12 Mar 2024 00:00:00 GMT"));
    sim.advance_seconds(300 * DAY);
    assert!(sim.objects("b").is_empty());
}

#[test]
fn tags_are_kept_counted_and_bounded() {
    let sim = start();
    let c = client(&sim);
    c.put("k", b"x", &[("x-oss-tagging", "a=1&b=%26")]).is(200);
    assert_eq!(c.call("HEAD", "k", &[], b"").header("x-oss-tagging-count"), Some("2"));
    assert!(c.get("k?tagging").is(200).text().contains("<Tag><Key>b</Key><Value>&amp;</Value></Tag>"));
    let set = |n: usize| {
        let tags: String = (0..n).map(|n| format!("<Tag><Key>k{n}</Key><Value>v</Value></Tag>")).collect();
        c.call("PUT", "k?tagging", &[], format!("<Tagging><TagSet>{tags}</TagSet></Tagging>").as_bytes())
    };
    set(11).fails(400, "InvalidTag", "");
    set(10).is(200);
    c.call("DELETE", "k?tagging", &[], b"").is(204);
    assert_eq!(c.call("HEAD", "k", &[], b"").header("x-oss-tagging-count"), None);
}

#[test]
fn links_are_followed_once_and_cannot_be_of_the_coldest_classes() {
    let sim = start();
    let c = client(&sim);
    c.put("real", b"body", &[]).is(200);
    c.put("link?symlink", b"", &[("x-oss-symlink-target", "real")]).is(200);
    let got = c.get("link").is(200);
    assert_eq!(got.body, b"body");
    assert_eq!(c.get("link?symlink").is(200).header("x-oss-symlink-target"), Some("real"));
    c.put("second?symlink", b"", &[("x-oss-symlink-target", "link")]).is(200);
    c.get("second").fails(400, "InvalidTargetType", "");
    c.put("dangling?symlink", b"", &[("x-oss-symlink-target", "none")]).is(200);
    c.get("dangling").fails(404, "SymlinkTargetNotExist", "");
    let cold = [("x-oss-symlink-target", "real"), ("x-oss-storage-class", "ColdArchive")];
    c.put("cold?symlink", b"", &cold).fails(400, "InvalidArgument", "");
}

#[test]
fn appends_grow_and_check_the_position() {
    let sim = start();
    let c = client(&sim);
    c.call("POST", "log?append&position=0", &[], b"1234").is(200);
    let second = c.call("POST", "log?append&position=4", &[], b"56789").is(200);
    assert_eq!(second.header("x-oss-hash-crc64ecma"), Some("11051210869376104954"));
    assert_eq!(second.header("x-oss-next-append-position"), Some("9"));
    c.call("POST", "log?append&position=4", &[], b"x").fails(409, "PositionNotEqualToLength", "0026-00000016");
    c.put("k", b"x", &[]).is(200);
    c.call("POST", "k?append&position=1", &[], b"x").fails(409, "ObjectNotAppendable", "");
    assert_eq!(c.get("log").body, b"123456789");
}
