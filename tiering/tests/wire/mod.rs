//! A server that answers what a test tells it to and records what it was asked.
#![allow(dead_code, clippy::unwrap_used)] // each test binary uses a part of it

pub mod keys;

use std::collections::HashMap;
use std::net::IpAddr;
use std::sync::{Arc, Mutex};
use tokio::io::{AsyncBufReadExt, AsyncRead, AsyncReadExt, AsyncWrite, AsyncWriteExt, BufReader};
use tokio::net::TcpListener;
use tokio::sync::Semaphore;
use tokio_rustls::TlsAcceptor;

/// One request as it came.
#[derive(Debug, Clone)]
pub struct Recorded {
    pub method: String,
    pub target: String,
    pub headers: HashMap<String, String>,
    pub body: Vec<u8>,
    /// Where it came from.
    pub peer: IpAddr,
}

impl Recorded {
    pub fn header(&self, name: &str) -> &str {
        self.headers.get(name).map(String::as_str).unwrap_or_default()
    }

    pub fn text(&self) -> String {
        String::from_utf8_lossy(&self.body).into_owned()
    }

    pub fn line(&self) -> String {
        format!("{} {}", self.method, self.target)
    }
}

/// What is answered.
#[derive(Debug, Clone, Default)]
pub struct Reply {
    pub status: u16,
    pub headers: Vec<(String, String)>,
    pub body: Vec<u8>,
    /// Send only so many bytes of the body, then close.
    pub cut: Option<usize>,
    /// Close without an answer.
    pub drop: bool,
    /// Never answer.
    pub hang: bool,
    /// Answer only when there is a permit, and take it.
    pub gate: Option<Arc<Semaphore>>,
}

impl Reply {
    pub fn new(status: u16) -> Self {
        Self { status, ..Self::default() }
    }

    pub fn body(mut self, body: impl Into<Vec<u8>>) -> Self {
        self.body = body.into();
        self
    }

    pub fn header(mut self, name: &str, value: impl ToString) -> Self {
        self.headers.push((name.into(), value.to_string()));
        self
    }

    pub fn error(status: u16, code: &str) -> Self {
        Self::new(status).body(format!("<Error><Code>{code}</Code><Message>m</Message><EC>1-2</EC></Error>"))
    }

    pub fn dropped() -> Self {
        Self { drop: true, ..Self::default() }
    }

    /// Waits for a permit of `gate`.
    pub fn behind(mut self, gate: &Arc<Semaphore>) -> Self {
        self.gate = Some(Arc::clone(gate));
        self
    }

    pub fn hanging() -> Self {
        Self { hang: true, ..Self::default() }
    }
}

type Handler = Arc<dyn Fn(usize, &Recorded) -> Reply + Send + Sync>;

/// The server; it lives as long as the test's runtime.
#[derive(Clone)]
pub struct Server {
    pub address: String,
    requests: Arc<Mutex<Vec<Recorded>>>,
}

impl Server {
    /// Starts one that answers with `handler`, which is given the request and its number from 0.
    pub async fn start(handler: impl Fn(usize, &Recorded) -> Reply + Send + Sync + 'static) -> Self {
        Self::listen(None, Arc::new(handler)).await
    }

    /// The same behind TLS.
    pub async fn start_tls(
        tls: Arc<tokio_rustls::rustls::ServerConfig>,
        handler: impl Fn(usize, &Recorded) -> Reply + Send + Sync + 'static,
    ) -> Self {
        Self::listen(Some(TlsAcceptor::from(tls)), Arc::new(handler)).await
    }

    async fn listen(tls: Option<TlsAcceptor>, handler: Handler) -> Self {
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let scheme = if tls.is_some() { "https" } else { "http" };
        let address = format!("{scheme}://{}", listener.local_addr().unwrap());
        let server = Self { address, requests: Arc::default() };
        let requests = server.requests.clone();
        tokio::spawn(async move {
            while let Ok((stream, peer)) = listener.accept().await {
                let (requests, handler, tls) = (requests.clone(), handler.clone(), tls.clone());
                tokio::spawn(async move {
                    match tls {
                        None => serve(stream, peer.ip(), requests, handler).await,
                        // A client that trusts nobody ends the handshake.
                        Some(tls) => {
                            if let Ok(stream) = tls.accept(stream).await {
                                serve(stream, peer.ip(), requests, handler).await;
                            }
                        }
                    }
                });
            }
        });
        server
    }

    pub fn requests(&self) -> Vec<Recorded> {
        self.requests.lock().unwrap().clone()
    }

    pub fn lines(&self) -> Vec<String> {
        self.requests().iter().map(Recorded::line).collect()
    }
}

async fn read_request<S: AsyncRead + Unpin>(reader: &mut BufReader<S>, peer: IpAddr) -> Option<Recorded> {
    let mut line = String::new();
    reader.read_line(&mut line).await.ok().filter(|n| *n > 0)?;
    let mut words = line.split_whitespace().map(str::to_owned);
    let (method, target) = (words.next()?, words.next()?);
    let mut headers = HashMap::new();
    loop {
        let mut line = String::new();
        reader.read_line(&mut line).await.ok().filter(|n| *n > 0)?;
        match line.trim_end().split_once(':') {
            Some((name, value)) => headers.insert(name.to_ascii_lowercase(), value.trim().to_owned()),
            None => break,
        };
    }
    let len = headers.get("content-length").and_then(|v| v.parse().ok()).unwrap_or(0);
    let mut body = vec![0; len];
    reader.read_exact(&mut body).await.ok()?;
    Some(Recorded { method, target, headers, body, peer })
}

async fn serve<S: AsyncRead + AsyncWrite + Unpin>(
    stream: S,
    peer: IpAddr,
    requests: Arc<Mutex<Vec<Recorded>>>,
    handler: Handler,
) {
    let mut reader = BufReader::new(stream);
    while let Some(request) = read_request(&mut reader, peer).await {
        let number = {
            let mut all = requests.lock().unwrap();
            all.push(request.clone());
            all.len() - 1
        };
        let reply = handler(number, &request);
        if reply.hang {
            std::future::pending::<()>().await;
        }
        if let Some(gate) = &reply.gate {
            gate.acquire().await.unwrap().forget();
        }
        if reply.drop {
            return;
        }
        let mut text = format!("HTTP/1.1 {} X\r\n", reply.status);
        for (name, value) in &reply.headers {
            text.push_str(&format!("{name}: {value}\r\n"));
        }
        if !reply.headers.iter().any(|(name, _)| name.eq_ignore_ascii_case("content-length")) {
            text.push_str(&format!("content-length: {}\r\n", reply.body.len()));
        }
        text.push_str("\r\n");
        let mut out = text.into_bytes();
        if request.method != "HEAD" {
            out.extend_from_slice(&reply.body[..reply.cut.unwrap_or(reply.body.len())]);
        }
        if reader.get_mut().write_all(&out).await.is_err() || reader.get_mut().flush().await.is_err() {
            return;
        }
        if reply.cut.is_some() {
            return;
        }
    }
}
