//! What HTTP asks of a server beside the operations.

use crate::support::*;
use tokio::io::{AsyncReadExt, AsyncWriteExt};

/// All that comes back to `bytes` until the server closes.
async fn all_of(server: &Running, bytes: &[u8]) -> String {
    let mut stream = server.connect().await;
    stream.write_all(bytes).await.unwrap();
    stream.shutdown().await.unwrap();
    let mut all = Vec::new();
    let read = tokio::time::timeout(PATIENCE, stream.read_to_end(&mut all)).await.expect("the connection stays open");
    drop(read); // what came before a reset counts
    String::from_utf8_lossy(&all).into_owned()
}

#[tokio::test]
async fn a_request_that_is_refused_is_not_asked_for_its_body() {
    let server = start(settings());
    let address = server.address.to_string();
    for (size, what) in [("10", "small"), ("1000000", "large")] {
        let extra = [("Content-Length", size), ("Expect", "100-continue")];
        let unsigned = format!(
            "PUT /bucket/k HTTP/1.1\r\nHost: {address}\r\nContent-Length: {size}\r\nExpect: 100-continue\r\n\r\n"
        );
        for head in [sign(&address, "PUT", "/bucket/k", &extra, "another secret"), unsigned] {
            let mut stream = server.connect().await;
            stream.write_all(head.as_bytes()).await.unwrap();
            let answer = read_response(&mut stream, true).await.unwrap();
            assert_eq!(answer.status, 403, "{what}: {}", answer.text());
            assert!(answer.text().contains("<RequestId>"));
            // The body may come all the same: the connection ends, so that it is not taken for a request.
            assert_eq!(answer.headers.get("connection").map(String::as_str), Some("close"));
            assert!(read_head(&mut stream).await.is_none());
        }
    }
    assert_eq!(server.stored("k"), None);
    // Of an empty body there is nothing to ask for; botocore wants to be asked all the same.
    let mut stream = server.connect().await;
    let extra = [("Content-Length", "0"), ("Expect", "100-continue")];
    stream.write_all(server.head("PUT", "/bucket/empty", &extra).as_bytes()).await.unwrap();
    assert_eq!(read_head(&mut stream).await.unwrap().0, 100);
    assert_eq!(read_response(&mut stream, true).await.unwrap().status, 200);
    stream.write_all(server.head("GET", "/bucket/small", &[]).as_bytes()).await.unwrap();
    assert_eq!(read_response(&mut stream, true).await.unwrap().body, b"xxxxx");
}

#[tokio::test]
async fn a_connection_goes_on_after_an_error_whose_body_was_read() {
    let server = start(settings());
    let mut stream = server.connect().await;
    for (method, target) in [("GET", "/bucket/none"), ("HEAD", "/no"), ("DELETE", "/bucket/k?unheard-of")] {
        stream.write_all(server.head(method, target, &[]).as_bytes()).await.unwrap();
        let answer = read_response(&mut stream, method != "HEAD").await.unwrap();
        assert!(answer.status >= 400 && answer.headers.contains_key("date"), "{method} {target}");
    }
    stream.write_all(server.head("GET", "/bucket/small", &[]).as_bytes()).await.unwrap();
    assert_eq!(read_response(&mut stream, true).await.unwrap().body, b"xxxxx");
}

#[tokio::test]
async fn methods_that_s3_has_not_are_refused_in_its_words() {
    let server = start(settings());
    for method in ["TRACE", "BREW", "PATCH", "PROPFIND"] {
        let answer = exchange(&server, &server.head(method, "/bucket/k", &[]), b"").await;
        assert_eq!(answer.status, 405, "{method}");
        assert!(answer.text().contains("<Code>MethodNotAllowed</Code>"), "{}", answer.text());
        assert!(answer.headers["allow"].contains("DELETE"));
    }
    let connect = all_of(&server, b"CONNECT elsewhere:443 HTTP/1.1\r\nHost: elsewhere:443\r\n\r\n").await;
    assert!(connect.starts_with("HTTP/1.1 405") && connect.contains("MethodNotAllowed"), "{connect}");
}

#[tokio::test]
async fn one_request_is_never_taken_for_two() {
    let server = start(settings());
    let inner = server.head("GET", "/bucket/small", &[]);
    let inner_length = inner.len().to_string();
    let outer = |lines: &[(&str, &str)], body: &str| server.head("PUT", "/bucket/k", lines) + body;
    let chunked = ("Transfer-Encoding", "chunked");
    let cases = [
        ("length and chunks", outer(&[("Content-Length", "4"), chunked], &format!("0\r\n\r\n{inner}"))),
        ("two lengths", outer(&[("Content-Length", "0"), ("Content-Length", &inner_length)], &inner)),
        ("a list of lengths", outer(&[("Content-Length", "0, 5")], &inner)),
        ("a signed length", outer(&[("Content-Length", "+0")], &inner)),
        ("another coding", outer(&[("Transfer-Encoding", "xchunked")], &format!("0\r\n\r\n{inner}"))),
        ("a coding after chunks", outer(&[("Transfer-Encoding", "chunked, identity")], &format!("0\r\n\r\n{inner}"))),
        ("no number as size", outer(&[chunked], &format!("zz\r\n\r\n{inner}"))),
        ("a huge size", outer(&[chunked], &format!("ffffffffffffffffff\r\n\r\n{inner}"))),
        ("a space in a name", format!("GET /bucket/small HTTP/1.1\r\nHost : x\r\n\r\n{inner}")),
        ("a folded line", format!("GET /bucket/small HTTP/1.1\r\nHost: x\r\n y: z\r\n\r\n{inner}")),
    ];
    for (what, bytes) in cases {
        let answer = all_of(&server, bytes.as_bytes()).await;
        assert!(!answer.contains("xxxxx"), "{what}: {answer}");
        assert!(answer.matches("HTTP/1.1 ").count() <= 1, "{what}: {answer}");
        assert!(answer.is_empty() || answer.starts_with("HTTP/1.1 4"), "{what}: {answer}");
        assert_eq!(server.stored("k"), None, "{what}");
    }
}

#[tokio::test]
async fn one_host_counts() {
    let server = start(settings());
    let address = server.address.to_string();
    let absolute = |host: &str, signed: &str| {
        let head = sign(signed, "GET", "/bucket/small", &[], "SK");
        head.replacen("GET /", &format!("GET http://{host}/"), 1)
    };
    for (what, head, status) in [
        ("the target's", absolute(&address, &address), 200),
        ("the target's, whatever Host says", absolute(&address, "elsewhere"), 403),
        ("two", server.head("GET", "/bucket/small", &[("Host", "elsewhere")]), 400),
        ("none", "GET /bucket/small HTTP/1.1\r\nx-a: b\r\n\r\n".to_owned(), 400),
    ] {
        let answer = exchange(&server, &head, b"").await;
        assert_eq!(answer.status, status, "{what}: {}", answer.text());
    }
}

#[tokio::test]
async fn keys_come_as_they_were_encoded() {
    let server = start(settings());
    for (path, signed, key) in [
        // No SDK sends a slash so, and S3 signs it as one.
        ("a%2Fb", "a/b", "a/b"),
        ("a%2Bb", "a%2Bb", "a+b"),
        ("a+b", "a%2Bb", "a+b"),
        ("a//b", "a//b", "a//b"),
        ("a/./b/../c", "a/./b/../c", "a/./b/../c"),
        ("..", "..", ".."),
        ("%20", "%20", " "),
        ("%E6%BD%AE", "%E6%BD%AE", "\u{6f6e}"),
        ("%25", "%25", "%"),
    ] {
        let head = server.head("GET", &format!("/bucket/{signed}"), &[]);
        let head = head.replacen(&format!("/bucket/{signed} "), &format!("/bucket/{path} "), 1);
        let answer = exchange(&server, &head, b"").await;
        assert_eq!(answer.status, 404, "{path}: {}", answer.text());
        assert!(answer.text().contains(&format!("<Message>no {key}</Message>")), "{path}: {}", answer.text());
    }
    for path in ["%FF", "a%C3", "%E6%BD"] {
        let answer = exchange(&server, &server.head("GET", &format!("/bucket/{path}"), &[]), b"").await;
        assert_eq!(answer.status, 400, "{path}");
        assert!(answer.text().contains("<Code>InvalidURI</Code>"), "{}", answer.text());
    }
}
