//! HTTP/2 over TLS, with a client that shows its frames' consequences.

use crate::support::*;
use bytes::Bytes;
use h2::client::SendRequest;
use h2::{Reason, RecvStream};
use http::{Request, Response};
use std::sync::Arc;
use std::time::Duration;
use tidegate_gateway::server::S3Settings;
use tidegate_gateway::server::tls::{Certificates, MinVersion, TlsSettings};
use tidegate_tiering::clock::SystemClock;
use tokio::net::TcpStream;

struct Secure {
    server: Running,
    roots: rustls::RootCertStore,
    _folder: tempfile::TempDir,
}

fn secure(settings: S3Settings) -> Secure {
    let folder = tempfile::tempdir().unwrap();
    let (cert_file, key_file) = (folder.path().join("cert.pem"), folder.path().join("key.pem"));
    let key = rcgen::KeyPair::generate().unwrap();
    let cert = rcgen::CertificateParams::new(vec!["localhost".into()]).unwrap().self_signed(&key).unwrap();
    std::fs::write(&cert_file, cert.pem()).unwrap();
    std::fs::write(&key_file, key.serialize_pem()).unwrap();
    let mut roots = rustls::RootCertStore::empty();
    roots.add(cert.der().clone()).unwrap();
    let tls = TlsSettings { listen: None, cert_file, key_file, min_version: MinVersion::Tls12 };
    let clock = Arc::new(SystemClock::default());
    let certificates = Certificates::load(tls.clone(), clock, &prometheus::Registry::new()).unwrap();
    let server = start_with(S3Settings { tls: Some(tls), ..settings }, Some(certificates));
    Secure { server, roots, _folder: folder }
}

impl Secure {
    async fn connect(&self) -> SendRequest<Bytes> {
        let provider = Arc::new(rustls::crypto::aws_lc_rs::default_provider());
        let mut config = rustls::ClientConfig::builder_with_provider(provider)
            .with_safe_default_protocol_versions()
            .unwrap()
            .with_root_certificates(self.roots.clone())
            .with_no_client_auth();
        config.alpn_protocols = vec![b"h2".to_vec()];
        let io = TcpStream::connect(self.server.address).await.unwrap();
        let name = "localhost".try_into().unwrap();
        let io = tokio_rustls::TlsConnector::from(Arc::new(config)).connect(name, io).await.unwrap();
        let (client, connection) = h2::client::handshake(io).await.unwrap();
        tokio::spawn(async move {
            let _ = connection.await;
        });
        client.ready().await.unwrap()
    }

    /// A signed request.
    fn request(&self, method: &str, target: &str, extra: &[(&str, &str)]) -> Request<()> {
        let head = self.server.head(method, target, extra);
        let mut request = Request::builder().method(method).uri(format!("https://{}{target}", self.server.address));
        for (name, value) in head.lines().skip(1).filter_map(|line| line.split_once(": ")) {
            if !name.eq_ignore_ascii_case("host") {
                request = request.header(name, value);
            }
        }
        request.body(()).unwrap()
    }
}

async fn soon<T>(what: impl Future<Output = T>) -> T {
    tokio::time::timeout(PATIENCE, what).await.expect("it did not happen")
}

async fn ask(client: &mut SendRequest<Bytes>, request: Request<()>, body: Option<&[u8]>) -> Response<RecvStream> {
    let (answer, mut sending) = client.send_request(request, body.is_none()).unwrap();
    if let Some(body) = body {
        sending.send_data(Bytes::copy_from_slice(body), true).unwrap();
    }
    soon(answer).await.unwrap()
}

/// The body, and whether it was broken off.
async fn read(body: &mut RecvStream) -> (Vec<u8>, Option<Reason>) {
    let mut all = Vec::new();
    loop {
        match soon(body.data()).await {
            None => return (all, None),
            Some(Err(error)) => return (all, error.reason()),
            Some(Ok(piece)) => {
                all.extend_from_slice(&piece);
                body.flow_control().release_capacity(piece.len()).unwrap();
            }
        }
    }
}

#[tokio::test]
async fn requests_are_answered_as_over_http1() {
    let secure = secure(settings());
    let mut client = secure.connect().await;
    let mut answer = ask(&mut client, secure.request("GET", "/bucket/small", &[]), None).await;
    assert_eq!(answer.status(), 200);
    assert_eq!(answer.headers()["content-length"], "5");
    assert!(answer.headers().contains_key("date") && answer.headers().contains_key("x-amz-request-id"));
    assert_eq!(read(answer.body_mut()).await, (b"xxxxx".to_vec(), None));

    let mut answer = ask(&mut client, secure.request("HEAD", "/bucket/small", &[]), None).await;
    assert_eq!(answer.headers()["content-length"], "123456789012");
    assert_eq!(read(answer.body_mut()).await, (Vec::new(), None));

    let body = vec![b'x'; 300_000];
    let length = body.len().to_string();
    for extra in
        [vec![("Content-Length", length.as_str())], vec![("Content-Length", &length), ("Expect", "100-continue")]]
    {
        let request = secure.request("PUT", "/bucket/k", &extra);
        assert_eq!(ask(&mut client, request, Some(&body)).await.status(), 200);
        assert_eq!(secure.server.stored("k"), Some(body.len()));
    }
    let mut answer = ask(&mut client, secure.request("GET", "/bucket/large", &[]), None).await;
    assert_eq!(read(answer.body_mut()).await.0.len(), LARGE);
}

#[tokio::test]
async fn a_body_that_fails_half_way_resets_its_stream_and_no_other() {
    let secure = secure(settings());
    let mut client = secure.connect().await;
    for key in ["broken", "short"] {
        let request = secure.request("GET", &format!("/bucket/{key}"), &[]);
        // The reset may overtake what was not sent yet, the head too.
        let reason = match soon(client.send_request(request, true).unwrap().0).await {
            Err(error) => error.reason(),
            Ok(mut answer) => {
                let (body, reason) = read(answer.body_mut()).await;
                assert!(body.len() <= 1000);
                reason
            }
        };
        assert_eq!(reason, Some(Reason::INTERNAL_ERROR), "{key}");
    }
    assert_eq!(ask(&mut client, secure.request("GET", "/bucket/small", &[]), None).await.status(), 200);
}

#[tokio::test]
async fn a_client_that_leaves_frees_what_it_asked_for() {
    let secure = secure(settings());
    let mut client = secure.connect().await;
    let answer = ask(&mut client, secure.request("GET", "/bucket/endless", &[]), None).await;
    drop(answer);
    given(&secure.server.s3.dropped).await;
    let answer = ask(&mut client, secure.request("GET", "/bucket/endless", &[]), None).await;
    drop(client);
    drop(answer);
    given(&secure.server.s3.dropped).await;
}

#[tokio::test]
async fn slow_clients_lose_their_streams() {
    let secure = secure(S3Settings { write_timeout_seconds: 1, body_read_timeout_seconds: 1, ..settings() });
    let mut client = secure.connect().await;
    // It takes what its window holds and no more.
    let mut answer = ask(&mut client, secure.request("GET", "/bucket/large", &[]), None).await;
    let reason = loop {
        match soon(answer.body_mut().data()).await {
            Some(Ok(_)) => {}
            Some(Err(error)) => break error.reason(),
            None => panic!("it came whole"),
        }
    };
    assert_eq!(reason, Some(Reason::CANCEL));
    // On a connection of its own: the window of the first is used up.
    let mut client = secure.connect().await;
    let request = secure.request("PUT", "/bucket/slow", &[("Content-Length", "1000000")]);
    let (answer, mut sending) = client.send_request(request, false).unwrap();
    sending.send_data(Bytes::from_static(b"a beginning"), false).unwrap();
    let mut answer = soon(answer).await.unwrap();
    assert_eq!(answer.status(), 400);
    let text = String::from_utf8(read(answer.body_mut()).await.0).unwrap();
    assert!(text.contains("<Code>RequestTimeout</Code>"), "{text}");
    assert_eq!(secure.server.stored("slow"), None);
}

#[tokio::test]
async fn streams_headers_and_requests_are_bounded() {
    let bounded = S3Settings { max_streams_per_connection: 3, max_concurrent_requests: 2, ..settings() };
    let secure = secure(bounded);
    let mut client = secure.connect().await;
    let long = "v".repeat(33_000);
    let mut answer = ask(&mut client, secure.request("GET", "/bucket/small", &[("x-long", &long)]), None).await;
    assert_eq!(answer.status(), 400);
    let text = String::from_utf8(read(answer.body_mut()).await.0).unwrap();
    assert!(text.contains("RequestHeaderSectionTooLarge"), "{text}");
    assert_eq!(client.current_max_send_streams(), 3);
    let waiting: Vec<_> =
        (0..2).map(|_| client.send_request(secure.request("GET", "/bucket/gate", &[]), true).unwrap().0).collect();
    given(&secure.server.s3.entered).await;
    given(&secure.server.s3.entered).await;
    let answer = ask(&mut client, secure.request("GET", "/bucket/small", &[]), None).await;
    assert_eq!(answer.status(), 503);
    secure.server.s3.open.add_permits(2);
    for answer in waiting {
        assert_eq!(soon(answer).await.unwrap().status(), 200);
    }
}

#[tokio::test]
async fn two_hosts_in_one_request_are_refused() {
    let secure = secure(settings());
    let mut client = secure.connect().await;
    let mut request = secure.request("GET", "/bucket/small", &[]);
    request.headers_mut().insert("host", "elsewhere".parse().unwrap());
    let mut answer = ask(&mut client, request, None).await;
    assert_eq!(answer.status(), 400);
    let text = String::from_utf8(read(answer.body_mut()).await.0).unwrap();
    assert!(text.contains("<Code>InvalidRequest</Code>"), "{text}");
}

#[tokio::test]
async fn shutdown_finishes_what_runs() {
    let mut secure = secure(S3Settings { shutdown_timeout_seconds: 60, ..settings() });
    let mut client = secure.connect().await;
    let (answer, _) = client.send_request(secure.request("GET", "/bucket/gate", &[]), true).unwrap();
    given(&secure.server.s3.entered).await;
    secure.server.ask_to_stop();
    // Told by GOAWAY: no new stream begins.
    soon(async {
        while client.clone().ready().await.is_ok() {
            tokio::time::sleep(Duration::from_millis(10)).await;
        }
    })
    .await;
    secure.server.s3.open.add_permits(1);
    let mut answer = soon(answer).await.unwrap();
    assert_eq!(read(answer.body_mut()).await, (b"xxxx".to_vec(), None));
    drop(client);
    secure.server.join().unwrap();
}

#[tokio::test]
async fn a_connection_without_a_stream_is_ended() {
    let secure = secure(S3Settings { idle_timeout_seconds: 1, header_timeout_seconds: 1, ..settings() });
    let mut client = secure.connect().await;
    // One that works is left alone, however long.
    let (answer, _) = client.send_request(secure.request("GET", "/bucket/gate", &[]), true).unwrap();
    given(&secure.server.s3.entered).await;
    tokio::time::sleep(Duration::from_secs(4)).await;
    secure.server.s3.open.add_permits(1);
    assert_eq!(soon(answer).await.unwrap().status(), 200);
    soon(async {
        while client.clone().ready().await.is_ok() {
            tokio::time::sleep(Duration::from_millis(50)).await;
        }
    })
    .await;
}
