//! One S3 connection: HTTP/1.1 on one TCP connection with TCP_NODELAY, header-signed requests, unsigned payloads.

use crate::payload::Payload;
use bytes::Bytes;
use hmac::{Hmac, KeyInit, Mac};
use http_body_util::BodyExt;
use hyper::body::Incoming;
use hyper::client::conn::http1::{SendRequest, handshake};
use hyper::header::HeaderMap;
use hyper::{Method, Request, Response};
use hyper_util::rt::TokioIo;
use sha2::{Digest, Sha256};
use std::sync::Arc;
use std::time::SystemTime;
use time::OffsetDateTime;
use time::macros::format_description;
use tokio::net::TcpStream;

/// Where requests go and how they are signed.
#[derive(Debug, Clone)]
pub struct Target {
    /// `127.0.0.1:9000`.
    pub address: String,
    /// Access key.
    pub access: String,
    /// Secret key.
    pub secret: String,
    /// Region.
    pub region: String,
    /// Bucket.
    pub bucket: String,
}

/// A connection that reconnects when the server closed it.
pub struct Connection {
    target: Arc<Target>,
    sender: Option<SendRequest<Payload>>,
    /// Key of the signature, and the day it is for.
    key: (String, Vec<u8>),
}

/// A whole answer.
pub struct Answer {
    /// Headers.
    pub headers: HeaderMap,
    /// Body.
    pub body: Bytes,
}

fn hmac(key: &[u8], text: &str) -> Vec<u8> {
    // An HMAC takes a key of any length, so there is no error to handle.
    let Ok(mut mac) = Hmac::<Sha256>::new_from_slice(key) else { return Vec::new() };
    mac.update(text.as_bytes());
    mac.finalize().into_bytes().to_vec()
}

impl Connection {
    /// A connection that is opened with its first request.
    pub fn new(target: Arc<Target>) -> Connection {
        Connection { target, sender: None, key: (String::new(), Vec::new()) }
    }

    async fn sender(&mut self) -> Result<&mut SendRequest<Payload>, String> {
        if self.sender.as_ref().is_none_or(SendRequest::is_closed) {
            let stream = TcpStream::connect(&self.target.address).await;
            let stream = stream.map_err(|e| format!("cannot connect to {}: {e}", self.target.address))?;
            stream.set_nodelay(true).map_err(|e| format!("cannot set TCP_NODELAY: {e}"))?;
            let (sender, driver) = handshake(TokioIo::new(stream)).await.map_err(|e| e.to_string())?;
            tokio::spawn(driver);
            self.sender = Some(sender);
        }
        let sender = self.sender.as_mut().ok_or("no connection")?;
        sender.ready().await.map_err(|e| format!("the connection broke: {e}"))?;
        Ok(sender)
    }

    /// Sends a request and takes the whole answer. `key` and `query` consist of unreserved characters, `/` apart, and `query`
    /// is sorted: nothing needs escaping.
    pub async fn call(&mut self, method: Method, key: &str, query: &str, body: Payload) -> Result<Answer, String> {
        let answer = self.send(method, key, query, None, body).await?;
        let headers = answer.headers().clone();
        let body = answer.into_body().collect().await.map_err(|e| format!("{key}: {e}"))?.to_bytes();
        Ok(Answer { headers, body })
    }

    /// Reads an object, or a range of it, piece by piece, and compares it with `expected` when that is given. Gives its length.
    pub async fn read(&mut self, key: &str, range: Option<(u64, u64)>, expected: Option<Bytes>) -> Result<u64, String> {
        let mut body = self.send(Method::GET, key, "", range, Payload::EMPTY).await?.into_body();
        let mut length = 0usize;
        while let Some(frame) = body.frame().await {
            let frame = frame.map_err(|e| format!("{key}: {e}"))?;
            let Ok(piece) = frame.into_data() else { continue };
            let end = length + piece.len();
            if expected.as_ref().is_some_and(|whole| whole.get(length..end) != Some(&piece[..])) {
                return Err(format!("{key}: wrong bytes between {length} and {end}"));
            }
            length = end;
        }
        match expected {
            Some(whole) if whole.len() != length => Err(format!("{key}: {length} bytes instead of {}", whole.len())),
            _ => Ok(length as u64),
        }
    }

    async fn send(
        &mut self,
        method: Method,
        key: &str,
        query: &str,
        range: Option<(u64, u64)>,
        body: Payload,
    ) -> Result<Response<Incoming>, String> {
        let path =
            if key.is_empty() { format!("/{}", self.target.bucket) } else { format!("/{}/{key}", self.target.bucket) };
        let now = timestamp();
        let authorization = self.authorization(method.as_str(), &path, query, &now);
        let uri = if query.is_empty() { path } else { format!("{path}?{query}") };
        let mut request = Request::builder()
            .method(method)
            .uri(&uri)
            .header("host", &self.target.address)
            .header("x-amz-content-sha256", "UNSIGNED-PAYLOAD")
            .header("x-amz-date", now)
            .header("authorization", authorization);
        if let Some((first, last)) = range {
            request = request.header("range", format!("bytes={first}-{last}"));
        }
        let request = request.body(body).map_err(|e| e.to_string())?;
        let answer = self.sender().await?.send_request(request).await.map_err(|e| format!("{uri}: {e}"))?;
        let status = answer.status().as_u16();
        if status >= 300 {
            let body = answer.into_body().collect().await.map_err(|e| format!("{uri}: {e}"))?.to_bytes();
            return Err(format!("{uri}: {status} {}", String::from_utf8_lossy(&body)));
        }
        Ok(answer)
    }

    fn authorization(&mut self, method: &str, path: &str, query: &str, now: &str) -> String {
        let target = &self.target;
        let day = now.get(..8).unwrap_or(now);
        if self.key.0 != day {
            let mut key = hmac(format!("AWS4{}", target.secret).as_bytes(), day);
            for step in [target.region.as_str(), "s3", "aws4_request"] {
                key = hmac(&key, step);
            }
            self.key = (day.to_owned(), key);
        }
        let names = "host;x-amz-content-sha256;x-amz-date";
        let canonical = format!(
            "{method}\n{path}\n{query}\nhost:{}\nx-amz-content-sha256:UNSIGNED-PAYLOAD\nx-amz-date:{now}\n\n{names}\nUNSIGNED-PAYLOAD",
            target.address
        );
        let scope = format!("{day}/{}/s3/aws4_request", target.region);
        let text = format!("AWS4-HMAC-SHA256\n{now}\n{scope}\n{}", hex::encode(Sha256::digest(canonical)));
        let signature = hex::encode(hmac(&self.key.1, &text));
        format!("AWS4-HMAC-SHA256 Credential={}/{scope},SignedHeaders={names},Signature={signature}", target.access)
    }
}

/// A load generator is a client of its own: it signs with the machine's time.
#[allow(clippy::disallowed_methods)]
fn timestamp() -> String {
    let format = format_description!("[year][month][day]T[hour][minute][second]Z");
    OffsetDateTime::from(SystemTime::now()).format(format).unwrap_or_default()
}
