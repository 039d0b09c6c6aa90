//! A small S3 client: header-signed requests in path style, whole bodies in memory. Enough for the demo, and independent
//! of everything under test.

use bytes::Bytes;
use hmac::{Hmac, KeyInit, Mac};
use percent_encoding::{AsciiSet, NON_ALPHANUMERIC, utf8_percent_encode};
use reqwest::{Method, StatusCode};
use sha2::{Digest, Sha256};
use std::time::{Duration, SystemTime};
use time::OffsetDateTime;
use time::macros::format_description;

/// What a key keeps unescaped in a path.
const PATH: &AsciiSet = &NON_ALPHANUMERIC.remove(b'-').remove(b'_').remove(b'.').remove(b'~').remove(b'/');
/// The same for queries, where a slash is escaped too.
const QUERY: &AsciiSet = &PATH.add(b'/');

/// Connects to one endpoint with one key.
#[derive(Clone)]
pub struct S3 {
    http: reqwest::Client,
    endpoint: String,
    access_key: String,
    secret_key: String,
    region: String,
}

/// What came back.
pub struct Answer {
    /// Status.
    pub status: StatusCode,
    /// Headers.
    pub headers: reqwest::header::HeaderMap,
    /// The whole body.
    pub body: Bytes,
}

impl Answer {
    /// A header's text, empty when absent.
    pub fn header(&self, name: &str) -> &str {
        self.headers.get(name).and_then(|v| v.to_str().ok()).unwrap_or("")
    }

    /// `<Code>` of an error document, empty when there is none.
    pub fn code(&self) -> String {
        let text = String::from_utf8_lossy(&self.body);
        let code = text.split_once("<Code>").and_then(|(_, rest)| rest.split_once("</Code>"));
        code.map(|(code, _)| code.to_owned()).unwrap_or_default()
    }

    /// This answer if it is of the 2xx kind.
    pub fn ok(self, what: &str) -> Result<Answer, String> {
        if self.status.is_success() {
            return Ok(self);
        }
        Err(format!("{what}: {} {}", self.status, String::from_utf8_lossy(&self.body)))
    }
}

impl S3 {
    /// A client of `endpoint` (`http://127.0.0.1:9000`).
    pub fn new(endpoint: &str, access_key: &str, secret_key: &str, region: &str) -> Result<S3, String> {
        let http = reqwest::Client::builder()
            .timeout(Duration::from_secs(60))
            .no_proxy()
            .tcp_nodelay(true)
            .build()
            .map_err(|e| format!("cannot make an HTTP client: {e}"))?;
        let [endpoint, access_key, secret_key, region] = [endpoint, access_key, secret_key, region].map(str::to_owned);
        Ok(S3 { http, endpoint, access_key, secret_key, region })
    }

    /// Sends one request; `query` is sorted by name.
    pub async fn call(
        &self,
        method: Method,
        path: &str,
        query: &[(&str, &str)],
        headers: &[(&str, &str)],
        body: Bytes,
    ) -> Result<Answer, String> {
        let path = utf8_percent_encode(path, PATH).to_string();
        let encode = |text: &str| utf8_percent_encode(text, QUERY).to_string();
        let query: Vec<String> = query.iter().map(|(k, v)| format!("{}={}", encode(k), encode(v))).collect();
        let query = query.join("&");
        let host = self.endpoint.split_once("://").map_or(self.endpoint.as_str(), |(_, host)| host);
        let digest = hex::encode(Sha256::digest(&body));
        let now = timestamp();
        let mut signed = vec![("host", host), ("x-amz-content-sha256", digest.as_str()), ("x-amz-date", now.as_str())];
        signed.extend_from_slice(headers);
        signed.sort_unstable();
        let authorization = self.authorization(method.as_str(), &path, &query, &signed);
        let question = if query.is_empty() { "" } else { "?" };
        let url = format!("{}{path}{question}{query}", self.endpoint);
        let mut request = self.http.request(method.clone(), url).header("authorization", authorization);
        for (name, value) in signed.into_iter().filter(|(name, _)| *name != "host") {
            request = request.header(name, value);
        }
        if method == Method::PUT || method == Method::POST {
            // Without a body the client library would leave it out, and S3 insists on it.
            request = request.header("content-length", body.len());
        }
        let answer = request.body(body).send().await.map_err(|e| format!("{method} {path}: {e}"))?;
        let (status, headers) = (answer.status(), answer.headers().clone());
        let body = answer.bytes().await.map_err(|e| format!("{method} {path}: {e}"))?;
        Ok(Answer { status, headers, body })
    }

    /// Signature version 4 of a request whose headers are sorted and whose payload digest is among them.
    fn authorization(&self, method: &str, path: &str, query: &str, headers: &[(&str, &str)]) -> String {
        let find = |name: &str| headers.iter().find(|(n, _)| *n == name).map_or("", |(_, v)| *v);
        let (now, digest) = (find("x-amz-date"), find("x-amz-content-sha256"));
        let names: Vec<&str> = headers.iter().map(|(name, _)| *name).collect();
        let names = names.join(";");
        let lines: String = headers.iter().map(|(name, value)| format!("{name}:{}\n", value.trim())).collect();
        let canonical = format!("{method}\n{path}\n{query}\n{lines}\n{names}\n{digest}");
        let day = now.get(..8).unwrap_or(now);
        let scope = format!("{day}/{}/s3/aws4_request", self.region);
        let text = format!("AWS4-HMAC-SHA256\n{now}\n{scope}\n{}", hex::encode(Sha256::digest(canonical)));
        let mut key = hmac(format!("AWS4{}", self.secret_key).as_bytes(), day);
        for step in [self.region.as_str(), "s3", "aws4_request", text.as_str()] {
            key = hmac(&key, step);
        }
        let signature = hex::encode(key);
        format!("AWS4-HMAC-SHA256 Credential={}/{scope}, SignedHeaders={names}, Signature={signature}", self.access_key)
    }

    /// PutObject.
    pub async fn put(&self, bucket: &str, key: &str, body: Bytes) -> Result<(), String> {
        self.call(Method::PUT, &format!("/{bucket}/{key}"), &[], &[], body).await?.ok(key).map(drop)
    }

    /// GetObject, whatever the status.
    pub async fn get(&self, bucket: &str, key: &str) -> Result<Answer, String> {
        self.call(Method::GET, &format!("/{bucket}/{key}"), &[], &[], Bytes::new()).await
    }

    /// HeadObject.
    pub async fn head(&self, bucket: &str, key: &str) -> Result<Answer, String> {
        self.call(Method::HEAD, &format!("/{bucket}/{key}"), &[], &[], Bytes::new()).await?.ok(key)
    }

    /// RestoreObject, for a week.
    pub async fn restore(&self, bucket: &str, key: &str) -> Result<StatusCode, String> {
        let request = "<RestoreRequest xmlns=\"http://s3.amazonaws.com/doc/2006-03-01/\"><Days>7</Days>\
                       <GlacierJobParameters><Tier>Standard</Tier></GlacierJobParameters></RestoreRequest>";
        let body = Bytes::from_static(request.as_bytes());
        let answer = self.call(Method::POST, &format!("/{bucket}/{key}"), &[("restore", "")], &[], body).await?;
        answer.ok(key).map(|answer| answer.status)
    }
}

fn hmac(key: &[u8], text: &str) -> Vec<u8> {
    // An HMAC takes a key of any length, so the error cannot happen; without it the signature would just be wrong.
    let Ok(mut mac) = Hmac::<Sha256>::new_from_slice(key) else { return Vec::new() };
    mac.update(text.as_bytes());
    mac.finalize().into_bytes().to_vec()
}

/// `20260102T030405Z`. The demo is a client of its own: it signs with the machine's time, as any client does.
#[allow(clippy::disallowed_methods)]
fn timestamp() -> String {
    let format = format_description!("[year][month][day]T[hour][minute][second]Z");
    OffsetDateTime::from(SystemTime::now()).format(format).unwrap_or_default()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_signature_of_the_published_example_is_reproduced() {
        // "GET Object" of the signature examples in the S3 API reference.
        let s3 = S3::new(
            "https://examplebucket.s3.amazonaws.com",
            "AKIAIOSFODNN7EXAMPLE",
            "wJalrXUtnFEMI/K7MDENG/bPxRfiCYEXAMPLEKEY",
            "us-east-1",
        )
        .unwrap();
        let empty = "e3b0c44298fc1c149afbf4c8996fb92427ae41e4649b934ca495991b7852b855";
        let headers = [
            ("host", "examplebucket.s3.amazonaws.com"),
            ("range", "bytes=0-9"),
            ("x-amz-content-sha256", empty),
            ("x-amz-date", "20130524T000000Z"),
        ];
        let authorization = s3.authorization("GET", "/test.txt", "", &headers);
        assert!(
            authorization.ends_with("Signature=f0e8bdb87c964420e857bd35b5d6ed310bd44f0170aba48dd91039c6036bdb41"),
            "{authorization}"
        );
    }
}
