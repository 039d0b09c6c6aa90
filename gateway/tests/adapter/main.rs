//! The HTTP side of the S3 endpoint, on real sockets, over an S3 of a few lines.

#![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic)] // a test fails by panicking

mod http2;
mod operations;
mod protocol;
mod slow;
mod support;
mod tier;
mod world;

use support::*;
use tokio::io::{AsyncReadExt, AsyncWriteExt};

/// More than is taken in before the call: goes through the pipe.
const PIPED: usize = 1 << 20;

#[tokio::test]
async fn a_head_shows_the_length_of_the_object_and_sends_no_byte_of_it() {
    let server = start(settings());
    let mut stream = server.connect().await;
    for _ in 0..3 {
        stream.write_all(server.head("HEAD", "/bucket/k", &[]).as_bytes()).await.unwrap();
        let response = read_response(&mut stream, false).await.unwrap();
        assert_eq!(response.status, 200);
        assert_eq!(response.headers["content-length"], "123456789012");
        assert!(!response.headers.contains_key("transfer-encoding"));
    }
}

#[tokio::test]
async fn pipelined_requests_are_answered_in_order_on_one_connection() {
    let server = start(settings());
    let mut stream = server.connect().await;
    let (small, missing) = (server.head("GET", "/bucket/small", &[]), server.head("GET", "/bucket/missing", &[]));
    stream.write_all(format!("{small}{missing}{small}").as_bytes()).await.unwrap();
    assert_eq!(read_response(&mut stream, true).await.unwrap().text(), "xxxxx");
    assert_eq!(read_response(&mut stream, true).await.unwrap().status, 404);
    assert_eq!(read_response(&mut stream, true).await.unwrap().text(), "xxxxx");
}

#[tokio::test]
async fn bodies_of_any_size_arrive_whole_and_a_large_one_is_sent_whole() {
    let server = start(settings());
    for size in [0, 1, 65_536, 65_537, 3 << 20] {
        let key = format!("k{size}");
        let head = server.head("PUT", &format!("/bucket/{key}"), &[("Content-Length", &size.to_string())]);
        assert_eq!(exchange(&server, &head, &vec![b'y'; size]).await.status, 200);
        assert_eq!(server.stored(&key), Some(size));
    }
    let large = exchange(&server, &server.head("GET", "/bucket/large", &[]), b"").await;
    assert_eq!((large.status, large.body.len(), large.broken), (200, LARGE, false));
    assert_eq!(large.headers["content-length"], LARGE.to_string());
}

#[tokio::test]
async fn a_half_sent_body_leaves_no_object() {
    let server = start(settings());
    let size = PIPED.to_string();
    let mut stream = server.connect().await;
    let head = server.head("PUT", "/bucket/half", &[("Content-Length", &size)]);
    stream.write_all(head.as_bytes()).await.unwrap();
    stream.write_all(&vec![0; 200_000]).await.unwrap();
    drop(stream);
    given(&server.s3.bodies_ended).await;
    assert_eq!(server.stored("half"), None);
    assert!(server.s3.seen.failed.lock().unwrap()[0].contains("ended early"));

    let mut stream = server.connect().await;
    stream.write_all(server.head("PUT", "/bucket/tiny", &[("Content-Length", "1000")]).as_bytes()).await.unwrap();
    stream.write_all(b"only this").await.unwrap();
    stream.shutdown().await.unwrap();
    // The client still listens: it hears the reason.
    let response = read_response(&mut stream, true).await;
    assert!(response.is_none_or(|response| response.text().contains("<Code>IncompleteBody</Code>")));
    assert_eq!(server.stored("tiny"), None);
}

#[tokio::test]
async fn a_stalled_body_is_given_up_after_the_timeout() {
    let server = start(tidegate_gateway::server::S3Settings { body_read_timeout_seconds: 1, ..settings() });
    for (key, size) in [("tiny", 1000), ("piped", PIPED)] {
        let mut stream = server.connect().await;
        let head = server.head("PUT", &format!("/bucket/{key}"), &[("Content-Length", &size.to_string())]);
        stream.write_all(head.as_bytes()).await.unwrap();
        stream.write_all(b"a beginning").await.unwrap();
        let response = read_response(&mut stream, true).await.unwrap();
        assert_eq!(response.status, 400, "{}", response.text());
        assert!(response.text().contains("<Code>RequestTimeout</Code>"), "{}", response.text());
        assert_eq!(server.stored(key), None);
    }
}

#[tokio::test]
async fn a_client_that_expects_100_continue_gets_it_before_it_sends() {
    let server = start(settings());
    let mut stream = server.connect().await;
    for (key, size) in [("a", 10), ("b", PIPED)] {
        let length = size.to_string();
        let extra = [("Content-Length", length.as_str()), ("Expect", "100-continue")];
        stream.write_all(server.head("PUT", &format!("/bucket/{key}"), &extra).as_bytes()).await.unwrap();
        assert_eq!(read_head(&mut stream).await.unwrap().0, 100);
        stream.write_all(&vec![0; size]).await.unwrap();
        assert_eq!(read_response(&mut stream, true).await.unwrap().status, 200);
        assert_eq!(server.stored(key), Some(size));
    }
}

#[tokio::test]
async fn a_client_that_leaves_in_the_middle_of_a_response_frees_its_body() {
    let server = start(settings());
    let mut stream = server.connect().await;
    stream.write_all(server.head("GET", "/bucket/endless", &[]).as_bytes()).await.unwrap();
    let mut some = vec![0; 100_000];
    stream.read_exact(&mut some).await.unwrap();
    drop(stream);
    given(&server.s3.dropped).await;
}

#[tokio::test]
async fn a_client_that_takes_nothing_of_a_response_loses_its_connection() {
    let server = start(tidegate_gateway::server::S3Settings { write_timeout_seconds: 1, ..settings() });
    let mut stream = server.connect().await;
    stream.write_all(server.head("GET", "/bucket/endless", &[]).as_bytes()).await.unwrap();
    given(&server.s3.dropped).await;
}

#[tokio::test]
async fn a_later_head_that_never_ends_loses_its_connection_however_slowly_it_grows() {
    let server = start(tidegate_gateway::server::S3Settings {
        idle_timeout_seconds: 1,
        header_timeout_seconds: 1,
        ..settings()
    });
    for drips in [false, true] {
        let mut stream = server.connect().await;
        stream.write_all(server.head("GET", "/bucket/small", &[]).as_bytes()).await.unwrap();
        assert_eq!(read_response(&mut stream, true).await.unwrap().status, 200);
        stream.write_all(b"GET /bucket/small HTTP/1.1\r\nX-Slow: ").await.unwrap();
        let (mut reading, mut writing) = stream.into_split();
        let drip = async {
            loop {
                tokio::time::sleep(std::time::Duration::from_millis(50)).await;
                if drips && writing.write_all(b"x").await.is_err() {
                    return;
                }
            }
        };
        let closed = async {
            tokio::select! {
                () = drip => {}
                end = reading.read_u8() => assert!(end.is_err(), "{end:?}"),
            }
        };
        tokio::time::timeout(PATIENCE, closed).await.expect("the connection stays open");
    }
}

#[tokio::test]
async fn a_later_head_may_come_in_pieces() {
    let server = start(settings());
    let mut stream = server.connect().await;
    for at in [0, 40, 120] {
        let head = server.head("GET", "/bucket/small", &[]);
        let (first, rest) = head.split_at(at);
        stream.write_all(first.as_bytes()).await.unwrap();
        tokio::task::yield_now().await;
        stream.write_all(rest.as_bytes()).await.unwrap();
        assert_eq!(read_response(&mut stream, true).await.unwrap().body, b"xxxxx");
    }
}

#[tokio::test]
async fn a_body_that_fails_half_way_breaks_the_connection() {
    let server = start(settings());
    for key in ["broken", "short"] {
        let mut stream = server.connect().await;
        stream.write_all(server.head("GET", &format!("/bucket/{key}"), &[]).as_bytes()).await.unwrap();
        // The failure may come before the head has left; then there is no answer at all.
        if let Some(response) = read_response(&mut stream, true).await {
            assert_eq!(response.headers["content-length"], "1048576");
            assert!(response.broken && response.body.len() < 1 << 20, "{key}: {} bytes", response.body.len());
        }
        assert!(matches!(stream.read(&mut [0]).await, Ok(0) | Err(_)), "the connection stays open");
    }
}

#[tokio::test]
async fn more_requests_than_allowed_are_told_to_slow_down() {
    let server = start(tidegate_gateway::server::S3Settings { max_concurrent_requests: 1, ..settings() });
    let mut waiting = server.connect().await;
    waiting.write_all(server.head("GET", "/bucket/gate", &[]).as_bytes()).await.unwrap();
    given(&server.s3.entered).await;
    let refused = exchange(&server, &server.head("GET", "/bucket/small", &[]), b"").await;
    assert_eq!(refused.status, 503);
    assert_eq!(refused.headers["retry-after"], "1");
    assert!(refused.text().contains("<Code>SlowDown</Code>"));
    server.s3.open.add_permits(1);
    assert_eq!(read_response(&mut waiting, true).await.unwrap().text(), "xxxx");
    // The place is free again once the answer's last byte is sent.
    let freed =
        async { while exchange(&server, &server.head("GET", "/bucket/small", &[]), b"").await.status != 200 {} };
    tokio::time::timeout(PATIENCE, freed).await.unwrap();
}

#[tokio::test]
async fn shutdown_finishes_what_runs_and_accepts_no_more() {
    let mut server = start(tidegate_gateway::server::S3Settings { shutdown_timeout_seconds: 60, ..settings() });
    let mut idle = server.connect().await;
    let mut running = server.connect().await;
    running.write_all(server.head("GET", "/bucket/gate", &[]).as_bytes()).await.unwrap();
    given(&server.s3.entered).await;
    server.ask_to_stop();
    let mut byte = [0];
    let closed = tokio::time::timeout(PATIENCE, idle.read(&mut byte)).await.expect("idle connections stay open");
    assert!(matches!(closed, Ok(0) | Err(_)));
    server.s3.open.add_permits(1);
    assert_eq!(read_response(&mut running, true).await.unwrap().text(), "xxxx");
    let address = server.address;
    let joined = tokio::task::spawn_blocking(move || server.join());
    tokio::time::timeout(PATIENCE, joined).await.expect("the server does not end").unwrap().unwrap();
    assert!(tokio::net::TcpStream::connect(address).await.is_err());
}

#[tokio::test]
async fn every_answer_carries_ids_and_an_errors_xml_repeats_them() {
    let server = start(settings());
    let cases = [
        (server.head("GET", "/bucket/missing", &[]), 404, "NoSuchKey"),
        (sign(&server.address.to_string(), "GET", "/bucket/k", &[], "wrong"), 403, "SignatureDoesNotMatch"),
        ("GET /bucket/k HTTP/1.1\r\nHost: x\r\n\r\n".to_owned(), 403, "AccessDenied"),
        (server.head("GET", "/bucket?acl", &[]), 501, "NotImplemented"),
        (server.head("GET", "/bucket/k?tagging", &[]), 501, "NotImplemented"),
    ];
    for (head, status, code) in cases {
        let response = exchange(&server, &head, b"").await;
        let text = response.text();
        assert_eq!(response.status, status, "{text}");
        assert!(text.contains(&format!("<Code>{code}</Code>")), "{text}");
        let id = &response.headers["x-amz-request-id"];
        assert!(id.len() >= 16 && id.bytes().all(|b| b.is_ascii_hexdigit()));
        assert!(text.contains(&format!("<RequestId>{id}</RequestId>")), "{text}");
        assert!(text.contains(&format!("<HostId>{}</HostId>", response.headers["x-amz-id-2"])), "{text}");
    }
    let refused = exchange(&server, &server.head("GET", "/bucket?acl", &[]), b"").await;
    assert!(refused.text().contains("GetBucketAcl"), "{}", refused.text());
    let good = exchange(&server, &server.head("GET", "/bucket/small", &[]), b"").await;
    assert_eq!(good.headers["x-amz-request-id"].len(), 16);
    let head = exchange(&server, &server.head("HEAD", "/bucket?acl", &[]), b"").await;
    assert!(head.body.is_empty());
}

#[tokio::test]
async fn a_panic_ends_its_request_and_not_its_connection() {
    let server = start(settings());
    let mut stream = server.connect().await;
    for (key, status) in [("panic", 500), ("small", 200)] {
        let head = server.head("GET", &format!("/bucket/{key}"), &[]);
        stream.write_all(head.as_bytes()).await.unwrap();
        let answer = read_response(&mut stream, true).await.unwrap();
        assert_eq!(answer.status, status, "{}", answer.text());
        assert_eq!(answer.text().contains("<Code>InternalError</Code>"), status == 500);
        assert!(answer.headers.contains_key("x-amz-request-id"));
    }
}

#[tokio::test]
async fn encryption_and_what_is_no_form_are_refused_rather_than_ignored() {
    let server = start(settings());
    let extra = [("Content-Length", "1"), ("x-amz-server-side-encryption", "AES256")];
    let response = exchange(&server, &server.head("PUT", "/bucket/k", &extra), b"x").await;
    assert_eq!(response.status, 501);
    assert!(response.text().contains("x-amz-server-side-encryption"));
    assert_eq!(server.stored("k"), None);
    let extra = [("Content-Length", "1"), ("Content-Type", "Multipart/form-data; boundary=b")];
    let response = exchange(&server, &server.head("POST", "/bucket", &extra), b"x").await;
    assert_eq!(response.status, 400);
    assert!(response.text().contains("<Code>MalformedPOSTRequest</Code>"), "{}", response.text());
}

#[tokio::test]
async fn a_head_that_is_too_large_is_refused() {
    let server = start(settings());
    let long = "v".repeat(33_000);
    let response = exchange(&server, &server.head("GET", "/bucket/small", &[("x-long", &long)]), b"").await;
    assert_eq!(response.status, 400);
    assert!(response.text().contains("RequestHeaderSectionTooLarge"));
    let mut stream = server.connect().await;
    let many: String = (0..200).map(|n| format!("x-{n}: v\r\n")).collect();
    stream.write_all(format!("GET / HTTP/1.1\r\nHost: x\r\n{many}\r\n").as_bytes()).await.unwrap();
    assert_eq!(read_head(&mut stream).await.unwrap().0, 431);
}

#[tokio::test]
async fn requests_are_counted_by_operation_with_their_bytes() {
    let server = start(settings());
    let head = server.head("PUT", "/bucket/k", &[("Content-Length", "10")]);
    exchange(&server, &head, &[0; 10]).await;
    exchange(&server, &server.head("GET", "/bucket/small", &[]), b"").await;
    exchange(&server, &server.head("GET", "/bucket/missing", &[]), b"").await;
    let wanted = [
        r#"tidegate_http_requests_total{operation="PutObject",status_class="2xx"} 1"#,
        r#"tidegate_http_requests_total{operation="GetObject",status_class="2xx"} 1"#,
        r#"tidegate_http_requests_total{operation="GetObject",status_class="4xx"} 1"#,
        r#"tidegate_http_request_duration_seconds_count{operation="GetObject"} 2"#,
        "tidegate_http_request_bytes_total 10",
        "tidegate_http_requests_in_flight 0",
    ];
    // A request is counted when its last byte is written, which may be just after the client has it.
    let text = || prometheus::TextEncoder::new().encode_to_string(&server.registry.gather()).unwrap();
    let counted = async {
        while !wanted.iter().all(|line| text().contains(line)) {
            tokio::task::yield_now().await;
        }
    };
    assert!(tokio::time::timeout(PATIENCE, counted).await.is_ok(), "{}", text());
}

/// What was logged about requests, by all tests of this process.
static LOG: std::sync::Mutex<Vec<u8>> = std::sync::Mutex::new(Vec::new());

struct ToLog;

impl std::io::Write for ToLog {
    fn write(&mut self, bytes: &[u8]) -> std::io::Result<usize> {
        LOG.lock().unwrap().extend_from_slice(bytes);
        Ok(bytes.len())
    }
    fn flush(&mut self) -> std::io::Result<()> {
        Ok(())
    }
}

#[tokio::test]
async fn a_request_is_one_line_in_the_log_without_its_query_or_signature() {
    let level = Some("info,tidegate_gateway::access=debug".to_owned());
    let filter = tidegate_gateway::logging::filter(&tidegate_gateway::config::LogSettings {
        format: tidegate_gateway::config::LogFormat::Text,
        level,
    });
    let log = tracing_subscriber::fmt().with_env_filter(filter.unwrap()).with_ansi(false).with_writer(|| ToLog);
    log.try_init().unwrap();
    let server = start(settings());
    let got = exchange(&server, &server.head("GET", "/bucket/small?X-Hidden=secret", &[]), b"").await;
    let refused = sign(&server.address.to_string(), "GET", "/bucket/small?X-Hidden=secret", &[], "wrong");
    let refused = exchange(&server, &refused, b"").await;
    let text = || String::from_utf8(LOG.lock().unwrap().clone()).unwrap();
    for (answer, wanted) in [
        (got, "operation=\"GetObject\" status=200 bytes=5 ms="),
        (refused, "status=403 code=\"SignatureDoesNotMatch\" bytes="),
    ] {
        let id = answer.headers["x-amz-request-id"].clone();
        // The line is written with the answer's last byte, which may be just after the client has it.
        let logged = async {
            while !text().contains(&id) {
                tokio::task::yield_now().await;
            }
        };
        tokio::time::timeout(PATIENCE, logged).await.unwrap();
        let text = text();
        let lines: Vec<_> = text.lines().filter(|line| line.contains(&id)).collect();
        assert_eq!(lines.len(), 1, "{lines:?}");
        assert!(lines[0].contains("method=GET path=/bucket/small ") && lines[0].contains(wanted), "{}", lines[0]);
    }
    let text = text();
    for hidden in ["secret", "Signature=", "AWS4-HMAC"] {
        assert!(!text.contains(hidden), "{text}");
    }
}
