//! A tiny S3 behind a real server, a signer, and a client of bare sockets: what goes over the wire is what is tested.

use futures::StreamExt;
use hmac::{Hmac, KeyInit, Mac};
use s3s::dto::*;
use s3s::{S3, S3Request, S3Response, S3Result, s3_error};
use sha2::{Digest, Sha256};
use std::collections::HashMap;
use std::net::SocketAddr;
use std::sync::{Arc, Mutex};
use std::thread::JoinHandle;
use std::time::Duration;
use tidegate_gateway::server::tls::Certificates;
use tidegate_gateway::server::{AccessKey, ResponseBody, S3Server, S3Settings, Secret, ServerError};
use tidegate_tiering::clock::{Clock, SystemClock};
use tidegate_tiering::engine::EngineError;
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::TcpStream;
use tokio::sync::{Semaphore, oneshot};

/// Longer than anything here takes; only reached by a failing test.
pub const PATIENCE: Duration = Duration::from_secs(180);

#[derive(Default)]
pub struct Seen {
    pub stored: Mutex<HashMap<String, usize>>,
    pub failed: Mutex<Vec<String>>,
}

/// GET of `gate` waits for `open`, GET of `endless` flows until it is dropped and then releases `dropped`.
#[derive(Clone)]
pub struct TinyS3 {
    pub seen: Arc<Seen>,
    pub open: Arc<Semaphore>,
    pub entered: Arc<Semaphore>,
    pub dropped: Arc<Semaphore>,
    pub bodies_ended: Arc<Semaphore>,
}

struct OnDrop(Arc<Semaphore>);

impl Drop for OnDrop {
    fn drop(&mut self) {
        self.0.add_permits(1);
    }
}

/// Size of the object `large`, more than any socket buffers.
pub const LARGE: usize = 16 << 20;

#[async_trait::async_trait]
impl S3 for TinyS3 {
    async fn put_object(&self, request: S3Request<PutObjectInput>) -> S3Result<S3Response<PutObjectOutput>> {
        let _ended = OnDrop(Arc::clone(&self.bodies_ended));
        let mut body = request.input.body.ok_or_else(|| s3_error!(IncompleteBody))?;
        let mut size = 0;
        while let Some(piece) = body.next().await {
            match piece {
                Ok(piece) => size += piece.len(),
                Err(error) => {
                    self.seen.failed.lock().unwrap().push(error.to_string());
                    return Err(s3_error!(InternalError, "{error}"));
                }
            }
        }
        self.seen.stored.lock().unwrap().insert(request.input.key, size);
        Ok(S3Response::new(PutObjectOutput { e_tag: Some(ETag::Strong("e".into())), ..Default::default() }))
    }

    async fn head_object(&self, _: S3Request<HeadObjectInput>) -> S3Result<S3Response<HeadObjectOutput>> {
        let content_length = Some(123_456_789_012);
        Ok(S3Response::new(HeadObjectOutput { content_length, ..Default::default() }))
    }

    async fn get_object(&self, request: S3Request<GetObjectInput>) -> S3Result<S3Response<GetObjectOutput>> {
        let piece = |size: usize| Ok::<_, EngineError>(bytes::Bytes::from(vec![b'x'; size]));
        let (length, body) = match request.input.key.as_str() {
            "gate" => {
                self.entered.add_permits(1);
                self.open.acquire().await.map_err(|_| s3_error!(InternalError))?.forget();
                (4, futures::stream::iter([piece(4)]).boxed())
            }
            "small" => (5, futures::stream::iter([piece(2), piece(3)]).boxed()),
            "panic" => panic!("a test asked for it"),
            "large" => (LARGE, futures::stream::iter([piece(LARGE)]).boxed()),
            "broken" => {
                let error = Err(EngineError::Corrupt("a chunk".into()));
                (1 << 20, futures::stream::iter([piece(1000), error]).boxed())
            }
            "short" => (1 << 20, futures::stream::iter([piece(1000)]).boxed()),
            "endless" => {
                let held = OnDrop(Arc::clone(&self.dropped));
                let pieces = futures::stream::repeat_with(move || {
                    let _ = &held;
                    piece(65536)
                });
                (1 << 40, pieces.boxed())
            }
            key => return Err(s3_error!(NoSuchKey, "no {key}")),
        };
        let content_length = i64::try_from(length).ok();
        let mut response = S3Response::new(GetObjectOutput { content_length, ..Default::default() });
        response.extensions.insert(ResponseBody::new(body));
        Ok(response)
    }
}

pub struct Running {
    pub address: SocketAddr,
    pub s3: TinyS3,
    pub registry: prometheus::Registry,
    stop: Option<oneshot::Sender<()>>,
    thread: Option<JoinHandle<Result<(), ServerError>>>,
}

/// Time-outs of requests that a machine that is slow and busy does not come to; tests of time-outs have settings of their own.
/// At the end of a test a client's connection may still be there that nobody reads from any more: that is not waited for long.
pub fn settings() -> S3Settings {
    S3Settings {
        listen: SocketAddr::from(([127, 0, 0, 1], 0)),
        access_keys: vec![AccessKey { access_key: "AK".into(), secret_key: Secret::new("SK") }],
        workers: 2,
        body_read_timeout_seconds: 60,
        shutdown_timeout_seconds: 5,
        ..S3Settings::default()
    }
}

pub fn start(settings: S3Settings) -> Running {
    start_with(settings, None)
}

/// As [`start`], with TLS.
pub fn start_with(settings: S3Settings, certificates: Option<Arc<Certificates>>) -> Running {
    let s3 = TinyS3 {
        seen: Arc::default(),
        open: Arc::new(Semaphore::new(0)),
        entered: Arc::new(Semaphore::new(0)),
        dropped: Arc::new(Semaphore::new(0)),
        bodies_ended: Arc::new(Semaphore::new(0)),
    };
    let registry = prometheus::Registry::new();
    let service = tidegate_gateway::s3::service_for_all(&settings, s3.clone()).unwrap();
    let server = S3Server::bind_service(settings, service, &registry).unwrap().with_tls(certificates);
    let address = server.local_addr();
    let (stop, thread) = serve(server);
    Running { address, s3, registry, stop: Some(stop), thread: Some(thread) }
}

/// Runs `server` on a thread of its own until the sender is dropped.
pub fn serve(server: S3Server) -> (oneshot::Sender<()>, JoinHandle<Result<(), ServerError>>) {
    let (stop, stopped) = oneshot::channel();
    let thread = std::thread::spawn(move || {
        let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().unwrap();
        runtime.block_on(server.run(async {
            let _ = stopped.await;
        }))
    });
    (stop, thread)
}

impl Running {
    pub fn ask_to_stop(&mut self) {
        drop(self.stop.take());
    }

    pub fn join(mut self) -> Result<(), ServerError> {
        self.ask_to_stop();
        self.thread.take().unwrap().join().unwrap()
    }

    pub async fn connect(&self) -> TcpStream {
        TcpStream::connect(self.address).await.unwrap()
    }

    /// A signed request head, ready to be followed by a body.
    pub fn head(&self, method: &str, target: &str, extra: &[(&str, &str)]) -> String {
        sign(&self.address.to_string(), method, target, extra, "SK")
    }

    pub fn stored(&self, key: &str) -> Option<usize> {
        self.s3.seen.stored.lock().unwrap().get(key).copied()
    }
}

impl Drop for Running {
    fn drop(&mut self) {
        self.ask_to_stop();
        if let Some(thread) = self.thread.take() {
            let _ = thread.join();
        }
    }
}

/// Waits until a permit of `semaphore` was given.
pub async fn given(semaphore: &Semaphore) {
    tokio::time::timeout(PATIENCE, semaphore.acquire()).await.expect("it did not happen").unwrap().forget();
}

fn hmac(key: &[u8], data: &str) -> Vec<u8> {
    let mut mac = Hmac::<Sha256>::new_from_slice(key).unwrap();
    mac.update(data.as_bytes());
    mac.finalize().into_bytes().to_vec()
}

/// How a request is signed.
pub struct Signer<'a> {
    pub host: &'a str,
    pub secret: &'a str,
    /// `x-amz-content-sha256`.
    pub payload: &'a str,
    /// Headers that are signed along with the usual ones.
    pub signed: &'a [(&'a str, &'a str)],
}

/// A signed head, and what signs the chunks of its body.
pub struct Signed {
    pub head: String,
    signature: String,
    key: Vec<u8>,
    stamp: String,
    scope: String,
}

impl Signer<'_> {
    /// `target` must be in canonical form already; `extra` is sent unsigned.
    pub fn sign(&self, method: &str, target: &str, extra: &[(&str, &str)]) -> Signed {
        let now = SystemClock::default().now().to_string(); // 2026-01-02T03:04:05.678Z
        let stamp = format!("{}Z", now[..19].replace(['-', ':'], ""));
        let day = &stamp[..8];
        let (path, query) = target.split_once('?').unwrap_or((target, ""));
        let query = if query.is_empty() || query.contains('=') { query.to_owned() } else { format!("{query}=") };
        let mut headers = vec![("host", self.host), ("x-amz-content-sha256", self.payload), ("x-amz-date", &stamp)];
        headers.extend(self.signed);
        headers.sort_unstable();
        let names = headers.iter().map(|(name, _)| *name).collect::<Vec<_>>().join(";");
        let lines: String = headers.iter().map(|(name, value)| format!("{name}:{value}\n")).collect();
        let canonical = format!("{method}\n{path}\n{query}\n{lines}\n{names}\n{}", self.payload);
        let scope = format!("{day}/us-east-1/s3/aws4_request");
        let hash = hex::encode(Sha256::digest(canonical.as_bytes()));
        let to_sign = format!("AWS4-HMAC-SHA256\n{stamp}\n{scope}\n{hash}");
        let key = [day, "us-east-1", "s3", "aws4_request"]
            .iter()
            .fold(format!("AWS4{}", self.secret).into_bytes(), |key, part| hmac(&key, part));
        let signature = hex::encode(hmac(&key, &to_sign));
        let mut head = format!(
            "{method} {target} HTTP/1.1\r\nAuthorization: AWS4-HMAC-SHA256 Credential=AK/{scope}, \
             SignedHeaders={names}, Signature={signature}\r\n"
        );
        for (name, value) in headers.iter().chain(extra) {
            head.push_str(&format!("{name}: {value}\r\n"));
        }
        head.push_str("\r\n");
        Signed { head, signature, key, stamp, scope }
    }
}

impl Signed {
    /// `pieces` as signed chunks, the empty last one included.
    pub fn chunks(&self, pieces: &[&[u8]]) -> Vec<u8> {
        let mut before = self.signature.clone();
        let mut out = Vec::new();
        for piece in pieces.iter().copied().chain([&b""[..]]) {
            let (nothing, hash) = (hex::encode(Sha256::digest(b"")), hex::encode(Sha256::digest(piece)));
            let to_sign =
                format!("AWS4-HMAC-SHA256-PAYLOAD\n{}\n{}\n{before}\n{nothing}\n{hash}", self.stamp, self.scope);
            before = hex::encode(hmac(&self.key, &to_sign));
            out.extend_from_slice(format!("{:x};chunk-signature={before}\r\n", piece.len()).as_bytes());
            out.extend_from_slice(piece);
            out.extend_from_slice(b"\r\n");
        }
        out
    }
}

/// Signs with SigV4 and an unsigned payload.
pub fn sign(host: &str, method: &str, target: &str, extra: &[(&str, &str)], secret: &str) -> String {
    Signer { host, secret, payload: "UNSIGNED-PAYLOAD", signed: &[] }.sign(method, target, extra).head
}

/// A response as it came.
#[derive(Debug)]
pub struct Response {
    pub status: u16,
    pub headers: HashMap<String, String>,
    pub body: Vec<u8>,
    /// The connection ended before the announced length.
    pub broken: bool,
}

impl Response {
    pub fn text(&self) -> String {
        String::from_utf8_lossy(&self.body).into_owned()
    }
}

/// Reads bytes up to an empty line.
pub async fn read_head(stream: &mut TcpStream) -> Option<(u16, HashMap<String, String>)> {
    let mut head = Vec::new();
    while !head.ends_with(b"\r\n\r\n") {
        let mut byte = [0];
        let read = tokio::time::timeout(PATIENCE, stream.read(&mut byte)).await.expect("no answer");
        if !matches!(read, Ok(1)) {
            return None;
        }
        head.push(byte[0]);
    }
    let text = String::from_utf8(head).unwrap();
    let mut lines = text.lines();
    let status = lines.next().unwrap().split(' ').nth(1).unwrap().parse().unwrap();
    let headers = lines
        .filter_map(|line| line.split_once(": "))
        .map(|(name, value)| (name.to_ascii_lowercase(), value.to_owned()))
        .collect();
    Some((status, headers))
}

/// Reads a response; `with_body` is false for the answer to a HEAD.
pub async fn read_response(stream: &mut TcpStream, with_body: bool) -> Option<Response> {
    let (status, headers) = read_head(stream).await?;
    let length = headers.get("content-length").map_or(0, |length| length.parse().unwrap());
    let mut body = Vec::new();
    let mut broken = false;
    while with_body && body.len() < length && !broken {
        let mut buffer = vec![0; (length - body.len()).min(1 << 16)];
        let read = tokio::time::timeout(PATIENCE, stream.read(&mut buffer)).await.expect("the body stalls");
        match read {
            Ok(size) if size > 0 => body.extend_from_slice(&buffer[..size]),
            _ => broken = true,
        }
    }
    Some(Response { status, headers, body, broken })
}

/// One request on a connection of its own.
pub async fn exchange(server: &Running, head: &str, body: &[u8]) -> Response {
    exchange_at(server.address, head, body).await
}

/// As [`exchange`], with any server.
pub async fn exchange_at(address: SocketAddr, head: &str, body: &[u8]) -> Response {
    let mut stream = TcpStream::connect(address).await.unwrap();
    stream.write_all(head.as_bytes()).await.unwrap();
    stream.write_all(body).await.unwrap();
    read_response(&mut stream, !head.starts_with("HEAD")).await.unwrap()
}
