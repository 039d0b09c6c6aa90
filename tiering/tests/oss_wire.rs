//! What the native client puts on the wire, and how it takes what comes back.

#![allow(clippy::unwrap_used)] // helpers of tests, which clippy does not know as such

mod wire;

use bytes::Bytes;
use std::sync::Arc;
use std::time::Duration;
use tidegate_tiering::clock::{Clock, ManualClock, Timestamp};
use tidegate_tiering::tier::contract::{SeededBody, read};
use tidegate_tiering::tier::oss::credentials::CredentialsSpec;
use tidegate_tiering::tier::oss::{OssSettings, OssTier, SignatureVersion, StorageClass};
use tidegate_tiering::tier::secret::Secret;
use tidegate_tiering::tier::{
    BodySource, Operation, Outcome, RestorePriority, RestoreReceipt, RestoreState, Tier, TierErrorKind, TierMetrics,
};
use wire::{Recorded, Reply, Server};

/// 2023-12-16T16:20:57Z.
const NOW: Timestamp = Timestamp(1_702_743_657_000);

fn crc64(bytes: &[u8]) -> u64 {
    crc_fast::checksum(crc_fast::CrcAlgorithm::Crc64Xz, bytes)
}

fn settings(endpoint: &str) -> OssSettings {
    let mut settings = OssSettings::new(endpoint, "cn-hangzhou", "bucket");
    settings.prefix = "tide".into();
    settings.storage_class = StorageClass::IA;
    settings.read_timeout_ms = 60_000;
    settings.credentials = CredentialsSpec::Static {
        access_key_id: "ak".into(),
        access_key_secret: Secret::new("very-secret"),
        security_token: Some(Secret::new("hush-token")),
    };
    settings
}

fn tier_with(settings: &OssSettings) -> (OssTier, TierMetrics) {
    let clock: Arc<dyn Clock> = Arc::new(ManualClock::new(NOW));
    let metrics = TierMetrics::new("cold", None).unwrap();
    (OssTier::new("cold", settings, clock, &|_| None, metrics.clone()).unwrap(), metrics)
}

fn tier(server: &Server) -> OssTier {
    tier_with(&settings(&server.address)).0
}

/// Answers a write as the service does.
fn stored(request: &Recorded) -> Reply {
    Reply::new(200).header("ETag", "\"ABC\"").header("x-oss-hash-crc64ecma", crc64(&request.body))
}

#[tokio::test]
async fn a_put_streams_its_body_with_a_length_a_class_and_a_v4_signature() {
    let server = Server::start(|_, request| stored(request)).await;
    let body = SeededBody { seed: 1, len: 1_000_000 };
    let receipt = tier(&server).put("a/b", Arc::new(body)).await.unwrap();
    let request = server.requests().remove(0);
    assert_eq!(request.line(), "PUT /bucket/tide/a/b");
    assert_eq!(request.body, body.bytes(0..1_000_000));
    assert_eq!(receipt.crc64, Some(crc64(&request.body)));
    assert_eq!(receipt.etag.as_deref(), Some("ABC"));
    assert_eq!(request.header("content-length"), "1000000");
    assert_eq!(request.header("transfer-encoding"), "");
    assert_eq!(request.header("x-oss-storage-class"), "IA");
    assert_eq!(request.header("x-oss-date"), "20231216T162057Z");
    assert_eq!(request.header("x-oss-content-sha256"), "UNSIGNED-PAYLOAD");
    assert_eq!(request.header("x-oss-security-token"), "hush-token");
    assert_eq!(request.header("accept-encoding"), "identity");
    let authorization = request.header("authorization");
    let start = "OSS4-HMAC-SHA256 Credential=ak/20231216/cn-hangzhou/oss/aliyun_v4_request,Signature=";
    assert!(authorization.starts_with(start) && authorization.len() == start.len() + 64, "{authorization}");
}

#[tokio::test]
async fn the_signature_is_the_same_for_virtual_hosts_and_domains_and_v1_is_an_option() {
    // A proxy shows the whole URL, so that any host can be asked for.
    let proxy = Server::start(|_, request| stored(request)).await;
    let mut signatures = Vec::new();
    for (endpoint, cname) in [("http://oss-cn-hangzhou.aliyuncs.com", false), ("http://cold.example.com", true)] {
        let mut settings = settings(endpoint);
        settings.cname = cname;
        settings.proxy = Some(Secret::new(proxy.address.clone()));
        tier_with(&settings).0.put("k", Arc::new(Bytes::from_static(b"x"))).await.unwrap();
        signatures.push(proxy.requests().last().unwrap().header("authorization").to_owned());
    }
    assert_eq!(
        proxy.lines(),
        ["PUT http://bucket.oss-cn-hangzhou.aliyuncs.com/tide/k", "PUT http://cold.example.com/tide/k"]
    );
    assert_eq!(signatures[0], signatures[1]);
    let mut settings = settings(&proxy.address);
    settings.signature = SignatureVersion::V1;
    tier_with(&settings).0.put("k", Arc::new(Bytes::from_static(b"x"))).await.unwrap();
    let request = proxy.requests().pop().unwrap();
    assert!(request.header("authorization").starts_with("OSS ak:"));
    assert_eq!((request.header("x-oss-date"), request.header("date")), ("", "Sat, 16 Dec 2023 16:20:57 GMT"));
}

#[tokio::test]
async fn a_checksum_that_differs_is_sent_again_and_then_reported() {
    let server =
        Server::start(
            |number, request| {
                if number == 0 { Reply::new(200).header("x-oss-hash-crc64ecma", 7) } else { stored(request) }
            },
        )
        .await;
    tier(&server).put("a", Arc::new(Bytes::from_static(b"body"))).await.unwrap();
    assert_eq!(server.requests().len(), 2);
    let wrong = Server::start(|_, _| Reply::new(200).header("x-oss-hash-crc64ecma", 7)).await;
    let mut settings = settings(&wrong.address);
    settings.max_attempts = 2;
    let (tier, metrics) = tier_with(&settings);
    let error = tier.put("a", Arc::new(Bytes::from_static(b"body"))).await.unwrap_err();
    assert_eq!(error.kind(), TierErrorKind::Corrupt);
    assert_eq!(metrics.count(Operation::PutObject, Outcome::Corrupt), 2);
}

#[tokio::test]
async fn a_throttled_request_waits_as_asked_and_succeeds() {
    let server = Server::start(|number, request| match number {
        0 => Reply::error(503, "UploadTrafficRateLimitExceeded").header("x-oss-qos-delay-time", 300),
        1 => Reply::dropped(),
        _ => stored(request),
    })
    .await;
    let (tier, metrics) = tier_with(&settings(&server.address));
    tier.put("a", Arc::new(Bytes::from_static(b"body"))).await.unwrap();
    assert_eq!(metrics.retry_wait.get_sample_count(), 2);
    assert!(metrics.retry_wait.get_sample_sum() >= 0.3, "the first wait is at least what was asked for");
    assert_eq!(server.requests().len(), 3);
}

#[tokio::test]
async fn refusals_are_not_repeated_and_say_what_happened_without_secrets() {
    let server = Server::start(|_, _| {
        Reply::error(403, "AccessDenied").header("x-oss-request-id", "RID").header("x-oss-ec", "0003-1")
    })
    .await;
    let tier = tier(&server);
    let error = tier.put("a", Arc::new(Bytes::from_static(b"x"))).await.unwrap_err();
    assert_eq!(server.requests().len(), 1);
    let text = format!("{error} {error:?} {tier:?}");
    for part in ["PutObject", "AccessDenied", "RID", "127.0.0.1"] {
        assert!(text.contains(part), "{part}: {text}");
    }
    assert!(!text.contains("very-secret") && !text.contains("hush-token"), "{text}");
}

#[tokio::test]
async fn a_wrong_clock_is_corrected_from_the_stores_date() {
    let server = Server::start(|number, request| match number {
        0 => Reply::error(403, "RequestTimeTooSkewed").header("Date", "Sun, 17 Dec 2023 16:20:57 GMT"),
        _ => stored(request),
    })
    .await;
    let tier = tier(&server);
    for _ in 0..2 {
        tier.put("a", Arc::new(Bytes::from_static(b"x"))).await.unwrap();
    }
    let dates: Vec<String> = server.requests().iter().map(|r| r.header("x-oss-date").to_owned()).collect();
    assert_eq!(dates, ["20231216T162057Z", "20231217T162057Z", "20231217T162057Z"]);
}

fn range_of(request: &Recorded) -> (usize, usize) {
    let (first, last) = request.header("range").strip_prefix("bytes=").unwrap().split_once('-').unwrap();
    (first.parse().unwrap(), last.parse::<usize>().unwrap() + 1)
}

fn part_of(body: &[u8], request: &Recorded) -> Reply {
    let (start, end) = range_of(request);
    Reply::new(206)
        .header("Content-Range", format!("bytes {start}-{}/{}", end - 1, body.len()))
        .header("x-oss-hash-crc64ecma", crc64(body))
        .body(&body[start..end])
}

#[tokio::test]
async fn a_download_goes_on_where_it_broke() {
    let body = SeededBody { seed: 5, len: 200_000 }.bytes(0..200_000);
    let copy = body.clone();
    let server = Server::start(move |number, request| {
        let reply = part_of(&copy, request);
        if number == 0 { Reply { cut: Some(70_000), ..reply } } else { reply }
    })
    .await;
    assert_eq!(read(&tier(&server), "a", 0..200_000).await.unwrap(), body);
    let requests = server.requests();
    assert_eq!(requests.len(), 2);
    assert_eq!(requests[0].header("x-oss-range-behavior"), "standard");
    let resumed = range_of(&requests[1]).0;
    assert!(resumed > 0 && resumed <= 70_000, "{resumed}");
}

#[tokio::test]
async fn a_flipped_byte_of_a_whole_object_is_found_and_of_a_range_it_cannot_be() {
    let body = SeededBody { seed: 6, len: 1000 }.bytes(0..1000);
    let server = Server::start(move |_, request| {
        let mut reply = part_of(&body, request);
        reply.body[10] ^= 1;
        reply
    })
    .await;
    let error = read(&tier(&server), "a", 0..1000).await.unwrap_err();
    assert_eq!(error.kind(), TierErrorKind::Corrupt);
    assert!(read(&tier(&server), "a", 0..999).await.is_ok());
}

#[tokio::test]
async fn bytes_of_another_range_than_asked_for_are_never_given_out() {
    for reply in [
        Reply::new(200).body(vec![0; 1000]),
        Reply::new(206).header("Content-Range", "bytes 0-99/1000").body(vec![0; 100]),
        Reply::new(206).header("Content-Range", "nonsense").body(vec![0; 100]),
    ] {
        let server = Server::start(move |_, _| reply.clone()).await;
        let error = read(&tier(&server), "a", 100..200).await.unwrap_err();
        assert_eq!(error.kind(), TierErrorKind::Corrupt, "{error}");
    }
    let short = Server::start(|_, _| Reply::error(416, "InvalidRange")).await;
    assert_eq!(read(&tier(&short), "a", 100..200).await.unwrap_err().kind(), TierErrorKind::Invalid);
}

#[tokio::test]
async fn head_tells_class_checksum_and_restore_and_reads_errors_from_their_header() {
    let server = Server::start(|number, _| match number {
        0 => Reply::new(200)
            .header("Content-Length", 12)
            .header("x-oss-storage-class", "ColdArchive")
            .header("x-oss-hash-crc64ecma", u64::MAX)
            .header("x-oss-restore", "ongoing-request=\"false\", expiry-date=\"Sun, 16 Apr 2017 08:12:33 GMT\""),
        _ => Reply::new(404).header("x-oss-err", "PEVycm9yPjxDb2RlPk5vU3VjaEtleTwvQ29kZT48L0Vycm9yPg=="),
    })
    .await;
    let tier = tier(&server);
    let meta = tier.head("a").await.unwrap();
    assert_eq!((meta.size, meta.class.as_deref(), meta.crc64), (12, Some("ColdArchive"), Some(u64::MAX)));
    assert_eq!(meta.restore, RestoreState::Restored { until: Timestamp(1_492_330_353_000) });
    let error = tier.head("a").await.unwrap_err();
    assert!(error.is_not_found() && error.details().code == "NoSuchKey", "{error}");
}

#[tokio::test]
async fn a_restore_tells_its_four_outcomes_and_is_not_repeated_blindly() {
    let server = Server::start(|number, _| match number {
        0 => Reply::new(202),
        1 => Reply::error(409, "RestoreAlreadyInProgress"),
        2 => Reply::new(200),
        3 => Reply::error(400, "OperationNotSupported"),
        4 => Reply::error(503, "TotalQpsLimitExceeded"),
        5 => Reply::new(202),
        _ => Reply::dropped(),
    })
    .await;
    let mut settings = settings(&server.address);
    settings.storage_class = StorageClass::Archive;
    let (tier, _) = tier_with(&settings);
    for expected in [
        RestoreReceipt::Started,
        RestoreReceipt::AlreadyRunning,
        RestoreReceipt::AlreadyRestored,
        RestoreReceipt::NotNeeded,
        RestoreReceipt::Started,
    ] {
        assert_eq!(tier.restore("a", 3, RestorePriority::Expedited).await.unwrap(), expected);
    }
    let error = tier.restore("a", 3, RestorePriority::Bulk).await.unwrap_err();
    assert_eq!(error.kind(), TierErrorKind::Unavailable);
    let requests = server.requests();
    assert_eq!(requests.len(), 7, "a lost answer is not asked for again by itself");
    assert_eq!(requests[0].line(), "POST /bucket/tide/a?restore");
    assert!(requests[0].text().contains("<Days>3</Days>") && !requests[0].text().contains("JobParameters"));
}

/// A store that knows one upload at a time; `lost` says whose answer is lost after it was applied.
fn multipart(lost: &'static str) -> impl Fn(usize, &Recorded) -> Reply + Send + Sync {
    let parts = std::sync::Mutex::new(std::collections::BTreeMap::<u32, Vec<u8>>::new());
    let state = std::sync::Mutex::new((0, false));
    move |_, request| {
        let mut parts = parts.lock().unwrap();
        let mut state = state.lock().unwrap();
        let whole: Vec<u8> = parts.values().flatten().copied().collect();
        let reply = match (request.method.as_str(), request.target.split_once('?').unwrap_or((&request.target, ""))) {
            ("POST", (_, "uploads")) => {
                state.0 += 1;
                Reply::new(200).body(format!(
                    "<InitiateMultipartUploadResult><UploadId>U{}</UploadId></InitiateMultipartUploadResult>",
                    state.0
                ))
            }
            ("PUT", (_, query)) => {
                let number = query.split(['=', '&']).nth(1).unwrap().parse().unwrap();
                parts.insert(number, request.body.clone());
                stored(request)
            }
            ("POST", _) if state.1 => Reply::error(404, "NoSuchUpload"),
            ("POST", _) => {
                state.1 = true;
                Reply::new(200)
                    .header("x-oss-hash-crc64ecma", crc64(&whole))
                    .body("<CompleteMultipartUploadResult><ETag>\"E-3\"</ETag></CompleteMultipartUploadResult>")
            }
            ("HEAD", _) => {
                Reply::new(200).header("Content-Length", whole.len()).header("x-oss-hash-crc64ecma", crc64(&whole))
            }
            ("GET", _) => Reply::new(200).body(
                "<ListMultipartUploadsResult><EncodingType>url</EncodingType><IsTruncated>false</IsTruncated><Upload>\
                 <Key>tide%2Fbig</Key><UploadId>U1</UploadId></Upload><Upload><Key>tide%2Fbigger</Key>\
                 <UploadId>X</UploadId></Upload></ListMultipartUploadsResult>",
            ),
            _ => Reply::new(204),
        };
        let first = match lost {
            "initiate" => request.target.ends_with("?uploads") && state.0 == 1,
            "complete" => request.text().contains("<CompleteMultipartUpload>") && reply.status == 200,
            _ => false,
        };
        if first { Reply::dropped() } else { reply }
    }
}

fn in_parts(server: &Server) -> OssTier {
    let mut settings = settings(&server.address);
    settings.part_size_bytes = 100 << 10;
    settings.multipart_threshold_bytes = 200 << 10;
    tier_with(&settings).0
}

#[tokio::test]
async fn a_large_body_goes_in_parts_and_the_whole_is_checked() {
    let server = Server::start(multipart("nothing")).await;
    let body = SeededBody { seed: 9, len: 250 << 10 };
    let receipt = in_parts(&server).put("big", Arc::new(body)).await.unwrap();
    assert_eq!(receipt.crc64, Some(crc64(&body.bytes(0..body.len()))));
    assert_eq!(receipt.etag.as_deref(), Some("E-3"));
    let requests = server.requests();
    assert_eq!(requests.len(), 5);
    assert_eq!(requests[0].line(), "POST /bucket/tide/big?uploads");
    assert_eq!(requests[0].header("x-oss-storage-class"), "IA");
    let last = requests[4].text();
    assert!(last.contains("<Part><PartNumber>1</PartNumber><ETag>\"ABC\"</ETag></Part><Part><PartNumber>2<"), "{last}");
}

#[tokio::test]
async fn an_initiation_whose_answer_is_lost_leaves_no_upload_behind() {
    let server = Server::start(multipart("initiate")).await;
    in_parts(&server).put("big", Arc::new(SeededBody { seed: 9, len: 250 << 10 })).await.unwrap();
    let lines = server.lines();
    assert!(lines[1].starts_with("GET /bucket/?uploads"), "{lines:?}");
    assert_eq!(lines[2], "DELETE /bucket/tide/big?uploadId=U1");
    assert!(!lines.iter().any(|line| line.contains("uploadId=X")), "another name's upload is left alone");
    assert!(lines.last().unwrap().ends_with("?uploadId=U2"));
}

#[tokio::test]
async fn a_completion_whose_answer_is_lost_is_found_to_have_been_applied() {
    let server = Server::start(multipart("complete")).await;
    let body = SeededBody { seed: 9, len: 250 << 10 };
    let receipt = in_parts(&server).put("big", Arc::new(body)).await.unwrap();
    assert_eq!(receipt.crc64, Some(crc64(&body.bytes(0..body.len()))));
    assert!(server.lines().last().unwrap().starts_with("HEAD "));
}

#[tokio::test]
async fn deleting_a_name_also_aborts_its_unfinished_uploads() {
    let server = Server::start(multipart("nothing")).await;
    tier(&server).delete("big").await.unwrap();
    let lines = server.lines();
    assert_eq!(lines[0], "DELETE /bucket/tide/big");
    assert_eq!(lines[2], "DELETE /bucket/tide/big?uploadId=U1");
    assert_eq!(lines.len(), 3);
}

#[tokio::test]
async fn a_store_that_never_answers_is_given_up() {
    let server = Server::start(|_, _| Reply::hanging()).await;
    let mut settings = settings(&server.address);
    settings.read_timeout_ms = 100;
    settings.max_attempts = 1;
    let (tier, metrics) = tier_with(&settings);
    let error = tier.head("a").await.unwrap_err();
    assert_eq!(error.kind(), TierErrorKind::Unavailable);
    assert!(error.to_string().contains("nothing moved for 100 ms"), "{error}");
    assert_eq!(metrics.in_flight.get(), 0);
}

#[tokio::test]
async fn many_names_are_deleted_at_once_and_those_that_are_gone_are_told() {
    let server = Server::start(|_, _| {
        Reply::new(200).body(
            "<DeleteResult><EncodingType>url</EncodingType><Deleted><Key>tide%2Fa%26b</Key></Deleted></DeleteResult>",
        )
    })
    .await;
    let gone = tier(&server).client().delete_objects(&["a&b".into(), "c".into()]).await.unwrap();
    assert_eq!(gone, ["a&b"]);
    let request = server.requests().remove(0);
    assert_eq!(request.line(), "POST /bucket/?delete&encoding-type=url");
    assert!(!request.header("content-md5").is_empty());
    assert!(request.text().contains("<Key>tide/a&amp;b</Key>"), "{}", request.text());
}

#[tokio::test]
async fn presigned_urls_carry_the_signature_and_the_token() {
    let mut settings = settings("https://oss-cn-hangzhou.aliyuncs.com");
    let (tier, _) = tier_with(&settings);
    let url = tier.client().presign_get("a b", Duration::from_secs(599)).await.unwrap();
    assert!(
        url.starts_with("https://bucket.oss-cn-hangzhou.aliyuncs.com/tide/a%20b?x-oss-signature-version="),
        "{url}"
    );
    for part in ["x-oss-expires=599", "x-oss-date=20231216T162057Z", "x-oss-security-token=", "x-oss-signature="] {
        assert!(url.contains(part), "{part}: {url}");
    }
    assert!(tier.client().presign_get("a", Duration::from_secs(8 * 86_400)).await.is_err());
    settings.signature = SignatureVersion::V1;
    let (url, headers) = tier_with(&settings).0.client().presign_put("a", Duration::from_secs(60)).await.unwrap();
    assert!(url.contains("Expires=1702743717&OSSAccessKeyId=ak&Signature="), "{url}");
    assert!(headers.contains(&("x-oss-storage-class".into(), "IA".into())));
}
