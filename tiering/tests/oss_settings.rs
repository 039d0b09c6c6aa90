//! Settings of the connection do what they say: certificates, source address, proxy, limits, waits.
#![allow(clippy::unwrap_used, clippy::panic)] // helpers of tests, which clippy does not know as such

mod wire;

use bytes::Bytes;
use rcgen::{BasicConstraints, CertificateParams, IsCa, Issuer, KeyPair, KeyUsagePurpose};
use std::net::{IpAddr, Ipv4Addr};
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::Duration;
use tidegate_tiering::clock::{Clock, SystemClock};
use tidegate_tiering::tier::contract::{SeededBody, read};
use tidegate_tiering::tier::oss::credentials::CredentialsSpec;
use tidegate_tiering::tier::oss::{OssSettings, OssTier};
use tidegate_tiering::tier::secret::Secret;
use tidegate_tiering::tier::{BodySource, Tier, TierError, TierErrorKind, TierMetrics};
use tokio::sync::Semaphore;
use tokio_rustls::rustls;
use wire::{Recorded, Reply, Server};

fn settings(endpoint: &str) -> OssSettings {
    let mut settings = OssSettings::new(endpoint, "cn-hangzhou", "bucket");
    settings.max_attempts = 1;
    settings.credentials = CredentialsSpec::Static {
        access_key_id: "ak".into(),
        access_key_secret: Secret::new("very-secret"),
        security_token: None,
    };
    settings
}

fn try_tier(settings: &OssSettings) -> Result<(OssTier, TierMetrics), TierError> {
    let clock: Arc<dyn Clock> = Arc::new(SystemClock::default());
    let metrics = TierMetrics::new("cold", None).unwrap();
    OssTier::new("cold", settings, clock, &|_| None, metrics.clone()).map(|tier| (tier, metrics))
}

fn tier(settings: &OssSettings) -> OssTier {
    try_tier(settings).unwrap().0
}

async fn put(tier: &OssTier) -> Result<(), TierError> {
    tier.put("a", Arc::new(Bytes::from_static(b"x"))).await.map(|_| ())
}

/// Waits for a condition that the server's tasks make true.
async fn until(what: &str, holds: impl Fn() -> bool) {
    let waited = tokio::time::timeout(Duration::from_secs(180), async {
        while !holds() {
            tokio::time::sleep(Duration::from_millis(2)).await;
        }
    });
    assert!(waited.await.is_ok(), "gave up waiting until {what}");
}

/// An authority of our own, in a file, and a certificate for 127.0.0.1 that it signed.
fn authority(folder: &Path, name: &str) -> (PathBuf, Arc<rustls::ServerConfig>) {
    let mut params = CertificateParams::new(Vec::new()).unwrap();
    params.distinguished_name.push(rcgen::DnType::CommonName, name);
    params.is_ca = IsCa::Ca(BasicConstraints::Unconstrained);
    params.key_usages = vec![KeyUsagePurpose::KeyCertSign];
    let key = KeyPair::generate().unwrap();
    let file = folder.join(format!("{name}.pem"));
    std::fs::write(&file, params.self_signed(&key).unwrap().pem()).unwrap();
    let issuer = Issuer::new(params, key);
    let own = KeyPair::generate().unwrap();
    let leaf = CertificateParams::new(vec!["127.0.0.1".to_owned()]).unwrap().signed_by(&own, &issuer).unwrap();
    let key = rustls::pki_types::PrivateKeyDer::try_from(own.serialize_der()).unwrap();
    let provider = Arc::new(rustls::crypto::aws_lc_rs::default_provider());
    let config = rustls::ServerConfig::builder_with_provider(provider)
        .with_safe_default_protocol_versions()
        .unwrap()
        .with_no_client_auth()
        .with_single_cert(vec![leaf.der().clone()], key)
        .unwrap();
    (file, Arc::new(config))
}

#[tokio::test]
async fn a_certificate_of_an_authority_of_our_own_is_trusted_when_its_file_is_named() {
    let folder = tempfile::tempdir().unwrap();
    let (file, config) = authority(folder.path(), "ours");
    let server = Server::start_tls(config, |_, _| Reply::new(200)).await;
    let mut settings = settings(&server.address);
    settings.ca_file = Some(file);
    put(&tier(&settings)).await.unwrap();
    assert_eq!(server.lines(), ["PUT /bucket/a"]);
}

#[tokio::test]
async fn a_certificate_that_nobody_vouches_for_is_refused_and_the_way_out_is_named() {
    let folder = tempfile::tempdir().unwrap();
    let (_, config) = authority(folder.path(), "theirs");
    let (other, _) = authority(folder.path(), "other");
    let server = Server::start_tls(config, |_, _| Reply::new(200)).await;
    for ca_file in [None, Some(other)] {
        let settings = OssSettings { ca_file, ..settings(&server.address) };
        let error = put(&tier(&settings)).await.unwrap_err();
        assert_eq!(error.kind(), TierErrorKind::Unavailable);
        let text = error.to_string();
        assert!(text.contains("certificate") && text.contains("ca_file"), "{text}");
    }
    assert!(server.requests().is_empty(), "not a byte of a request was sent");
}

#[tokio::test]
async fn a_file_of_authorities_that_is_missing_or_holds_none_is_refused_before_any_request() {
    let folder = tempfile::tempdir().unwrap();
    let text = folder.path().join("no.pem");
    std::fs::write(&text, "no certificate").unwrap();
    for (file, word) in [(folder.path().join("gone.pem"), "No such file"), (text, "no PEM certificate")] {
        let shown = file.display().to_string();
        let settings = OssSettings { ca_file: Some(file), ..settings("https://127.0.0.1:1") };
        let error = try_tier(&settings).map(|_| ()).unwrap_err();
        assert_eq!(error.kind(), TierErrorKind::Invalid);
        assert!(error.to_string().contains(&shown) && error.to_string().contains(word), "{error}");
    }
}

#[tokio::test]
async fn requests_leave_from_the_address_that_is_set() {
    let server = Server::start(|_, _| Reply::new(200)).await;
    for last in [2, 3] {
        let address = IpAddr::V4(Ipv4Addr::new(127, 0, 0, last));
        let settings = OssSettings { source_address: Some(address), ..settings(&server.address) };
        put(&tier(&settings)).await.unwrap();
        assert_eq!(server.requests().last().unwrap().peer, address);
    }
}

#[tokio::test]
async fn a_proxy_is_used_with_its_password_which_no_error_shows() {
    let proxy = Server::start(|number, _| if number == 0 { Reply::new(200) } else { Reply::new(403) }).await;
    let with_password = proxy.address.replace("http://", "http://user:hush-password@");
    let mut settings = settings("http://oss-cn-hangzhou.aliyuncs.com");
    settings.proxy = Some(Secret::new(with_password));
    put(&tier(&settings)).await.unwrap();
    let request = proxy.requests().remove(0);
    assert_eq!(request.line(), "PUT http://bucket.oss-cn-hangzhou.aliyuncs.com/a");
    // base64 of user:hush-password
    assert_eq!(request.header("proxy-authorization"), "Basic dXNlcjpodXNoLXBhc3N3b3Jk");
    // With TLS the proxy sees a tunnel only; a refused one is no answer of the store.
    settings.endpoint = "https://oss-cn-hangzhou.aliyuncs.com".into();
    let tier = tier(&settings);
    let error = put(&tier).await.unwrap_err();
    assert_eq!(error.kind(), TierErrorKind::Unavailable);
    assert_eq!(proxy.lines()[1], "CONNECT bucket.oss-cn-hangzhou.aliyuncs.com:443");
    let text = format!("{error} {error:?} {tier:?} {settings:?}");
    assert!(!text.contains("hush-password") && !text.contains("dXNlcjpodXNoLXBhc3N3b3Jk"), "{text}");
}

/// Answers as the service does, to whatever moves a body.
fn moved(request: &Recorded) -> Reply {
    match (request.method.as_str(), request.target.contains("uploads")) {
        ("POST", true) => Reply::new(200)
            .body("<InitiateMultipartUploadResult><UploadId>U</UploadId></InitiateMultipartUploadResult>"),
        ("POST", false) => {
            Reply::new(200).body("<CompleteMultipartUploadResult><ETag>\"E\"</ETag></CompleteMultipartUploadResult>")
        }
        ("PUT", _) => {
            Reply::new(200).header("ETag", "\"ABC\"").body("<CopyObjectResult><ETag>\"E\"</ETag></CopyObjectResult>")
        }
        ("HEAD", _) => Reply::new(200).header("Content-Length", 10),
        ("GET", _) => Reply::new(206).header("Content-Range", "bytes 0-9/10").body(vec![7; 10]),
        _ => Reply::new(204),
    }
}

#[tokio::test]
async fn the_traffic_limit_goes_with_every_body_and_with_nothing_else() {
    let server = Server::start(|_, request| moved(request)).await;
    let mut settings = settings(&server.address);
    settings.traffic_limit_bits_per_second = Some(1_000_000);
    settings.part_size_bytes = 100 << 10;
    settings.multipart_threshold_bytes = 150 << 10;
    let tier = tier(&settings);
    put(&tier).await.unwrap();
    tier.put("large", Arc::new(SeededBody { seed: 1, len: 200 << 10 })).await.unwrap();
    assert_eq!(read(&tier, "a", 0..10).await.unwrap().len(), 10);
    tier.client().copy_object("a", "b").await.unwrap();
    tier.head("a").await.unwrap();
    for request in server.requests() {
        let body = matches!(request.method.as_str(), "PUT" | "GET");
        let expected = if body { "1000000" } else { "" };
        assert_eq!(request.header("x-oss-traffic-limit"), expected, "{}", request.line());
    }
    assert_eq!(server.requests().iter().filter(|r| r.method == "PUT").count(), 4);
}

#[test]
fn the_traffic_limit_is_held_to_the_bounds_of_the_service() {
    for (limit, fits) in
        [(245_759, false), (245_760, true), (838_860_800, true), (838_860_801, false), (0, false), (u64::MAX, false)]
    {
        let settings = OssSettings { traffic_limit_bits_per_second: Some(limit), ..settings("http://127.0.0.1:1") };
        let result = try_tier(&settings).map(|_| ());
        assert_eq!(result.is_ok(), fits, "{limit}");
        if let Err(error) = result {
            assert!(error.to_string().contains(&limit.to_string()), "{error}");
        }
    }
}

#[tokio::test]
async fn never_more_requests_run_than_the_limit_allows_and_all_come_through() {
    let gate = Arc::new(Semaphore::new(0));
    let behind = Arc::clone(&gate);
    let server = Server::start(move |_, _| Reply::new(200).behind(&behind)).await;
    let settings = OssSettings { concurrency: 3, ..settings(&server.address) };
    let (tier, metrics) = try_tier(&settings).unwrap();
    let tier = Arc::new(tier);
    let all: Vec<_> = (0..10)
        .map(|_| {
            let tier = Arc::clone(&tier);
            tokio::spawn(async move { put(&tier).await })
        })
        .collect();
    for answered in 0..8 {
        // What has come and is not answered runs: three, until there are fewer left.
        until("three requests run", || server.requests().len() == answered + 3).await;
        assert_eq!(metrics.in_flight.get(), 3);
        gate.add_permits(1);
    }
    gate.add_permits(10);
    for one in all {
        one.await.unwrap().unwrap();
    }
    assert_eq!((server.requests().len(), metrics.in_flight.get()), (10, 0));
}

#[tokio::test]
async fn parts_of_one_body_are_held_to_their_own_limit() {
    let gate = Arc::new(Semaphore::new(0));
    let behind = Arc::clone(&gate);
    let server = Server::start(move |_, request| match request.method.as_str() {
        "PUT" => moved(request).behind(&behind),
        _ => moved(request),
    })
    .await;
    let mut settings = settings(&server.address);
    settings.part_size_bytes = 100 << 10;
    settings.multipart_threshold_bytes = 150 << 10;
    settings.part_concurrency = 2;
    let tier = tier(&settings);
    let body = SeededBody { seed: 1, len: 600 << 10 };
    let upload = tokio::spawn(async move { tier.put("large", Arc::new(body) as Arc<dyn BodySource>).await });
    let parts = || server.requests().iter().filter(|r| r.method == "PUT").count();
    for answered in 0..5 {
        until("two parts are under way", || parts() == answered + 2).await;
        gate.add_permits(1);
    }
    gate.add_permits(5);
    upload.await.unwrap().unwrap();
    assert_eq!(parts(), 6);
}

#[tokio::test]
async fn a_store_that_does_not_accept_is_given_up_after_the_time_to_connect() {
    // A queue of connections that is full: the kernel answers no further one.
    let socket = tokio::net::TcpSocket::new_v4().unwrap();
    socket.bind("127.0.0.1:0".parse().unwrap()).unwrap();
    let listener = socket.listen(1).unwrap();
    let address = listener.local_addr().unwrap();
    let mut held = Vec::new();
    let mut refused = 0;
    // Twice in a row, so that a busy machine is not taken for a full queue.
    while refused < 2 {
        match tokio::time::timeout(Duration::from_millis(300), tokio::net::TcpStream::connect(address)).await {
            Ok(stream) => {
                held.push(stream.unwrap());
                refused = 0;
            }
            Err(_) => refused += 1,
        }
        assert!(held.len() < 100, "the queue does not fill");
    }
    let mut settings = settings(&format!("http://{address}"));
    settings.connect_timeout_ms = 200;
    // Neither this nor the kernel's own time-out, of minutes, ends it.
    settings.read_timeout_ms = 600_000;
    let work = tokio::time::timeout(Duration::from_secs(180), async { put(&tier(&settings)).await });
    let error = work.await.expect("it waited for ever").unwrap_err();
    assert_eq!(error.kind(), TierErrorKind::Unavailable);
    assert!(error.to_string().contains("(Connect)"), "{error}");
    drop(held);
}

#[tokio::test]
async fn a_body_that_stops_moving_is_given_up_and_one_that_moves_slowly_is_not() {
    // Each piece comes when the one before it has gone: in all longer than the time-out, never silent for as long.
    let body = SeededBody { seed: 3, len: 40 };
    let bytes = body.bytes(0..40);
    let listener = tokio::net::TcpListener::bind("127.0.0.1:0").await.unwrap();
    let address = listener.local_addr().unwrap();
    tokio::spawn(async move {
        use tokio::io::{AsyncReadExt, AsyncWriteExt};
        let mut number = 0;
        while let Ok((mut stream, _)) = listener.accept().await {
            let mut head = [0u8; 4096];
            let _ = stream.read(&mut head).await.unwrap();
            let answer = "HTTP/1.1 206 X\r\ncontent-range: bytes 0-39/40\r\ncontent-length: 40\r\n\r\n";
            stream.write_all(answer.as_bytes()).await.unwrap();
            let pieces = if number == 0 { 40 } else { 10 };
            for piece in bytes.chunks(1).take(pieces) {
                stream.write_all(piece).await.unwrap();
                tokio::time::sleep(Duration::from_millis(60)).await;
            }
            number += 1;
            if number > 1 {
                std::future::pending::<()>().await;
            }
        }
    });
    let mut settings = settings(&format!("http://{address}"));
    settings.read_timeout_ms = 2000;
    let slow = read(&tier(&settings), "a", 0..40).await.unwrap();
    assert_eq!(slow, body.bytes(0..40));
    let error = read(&tier(&settings), "a", 0..40).await.unwrap_err();
    assert_eq!(error.kind(), TierErrorKind::Unavailable);
    assert!(error.to_string().contains("stalled after 10 of 40 bytes"), "{error}");
}

#[tokio::test]
async fn a_delay_that_the_store_asks_for_is_kept_however_the_dice_fall() {
    for (status, code) in [(503, "DownloadTrafficRateLimitExceeded"), (503, "ServiceUnavailable"), (429, "TooMany")] {
        let server = Server::start(move |number, _| match number {
            0 => Reply::error(status, code).header("x-oss-qos-delay-time", 250),
            _ => Reply::new(200),
        })
        .await;
        let settings = OssSettings { max_attempts: 2, ..settings(&server.address) };
        let (tier, metrics) = try_tier(&settings).unwrap();
        put(&tier).await.unwrap();
        assert_eq!(metrics.retry_wait.get_sample_count(), 1);
        // The dice alone wait at most 200 ms before the second attempt.
        assert!(metrics.retry_wait.get_sample_sum() >= 0.25, "{code}");
    }
}
