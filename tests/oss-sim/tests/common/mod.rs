//! A small OSS client of the tests' own: V4 signatures, one connection per request, answers as they came.
// Helpers of tests: clippy sees the attribute of tests only on the functions that call them.
#![allow(dead_code, missing_docs, clippy::unwrap_used)]

use hmac::{Hmac, KeyInit, Mac};
use oss_sim::{Builder, Class, OssSim, Running};
use sha2::{Digest, Sha256};
use std::io::{self, Read, Write};
use std::net::{SocketAddr, TcpStream};

pub const DAY: u64 = 86_400;
/// 2024-03-01T00:30:00Z.
pub const START: u64 = 1_709_253_000_000;

pub fn builder() -> Builder {
    OssSim::builder().access_key("ak", "sk").bucket("b", Class::Standard).frozen_clock().clock_start(START)
}

pub fn start() -> Running {
    builder().start_blocking().unwrap()
}

#[derive(Debug)]
pub struct Answer {
    pub status: u16,
    pub headers: Vec<(String, String)>,
    pub body: Vec<u8>,
    /// The connection ended before the announced end.
    pub cut: bool,
}

impl Answer {
    pub fn header(&self, name: &str) -> Option<&str> {
        self.headers.iter().find(|(n, _)| n == name).map(|(_, v)| v.as_str())
    }

    pub fn text(&self) -> String {
        String::from_utf8_lossy(&self.body).into_owned()
    }

    /// The text of the first node of that name.
    pub fn node(&self, name: &str) -> Option<String> {
        let text = self.text();
        let from = text.find(&format!("<{name}>"))? + name.len() + 2;
        Some(text[from..from + text[from..].find(&format!("</{name}>"))?].to_string())
    }

    pub fn code(&self) -> String {
        self.node("Code").unwrap_or_default()
    }

    #[track_caller]
    pub fn is(self, status: u16) -> Answer {
        assert_eq!(self.status, status, "{}", self.text());
        self
    }

    #[track_caller]
    pub fn fails(&self, status: u16, code: &str, ec: &str) {
        assert_eq!((self.status, self.code().as_str()), (status, code), "{}", self.text());
        if !ec.is_empty() {
            assert_eq!(self.header("x-oss-ec"), Some(ec));
            assert_eq!(self.node("EC").as_deref(), Some(ec));
        }
    }
}

pub fn encode(text: &str, keep: &str) -> String {
    text.bytes()
        .map(|b| match b {
            b'A'..=b'Z' | b'a'..=b'z' | b'0'..=b'9' | b'-' | b'.' | b'_' | b'~' => (b as char).to_string(),
            b if keep.contains(b as char) => (b as char).to_string(),
            b => format!("%{b:02X}"),
        })
        .collect()
}

fn hmac(key: &[u8], text: &str) -> Vec<u8> {
    let mut mac = Hmac::<Sha256>::new_from_slice(key).unwrap();
    mac.update(text.as_bytes());
    mac.finalize().into_bytes().to_vec()
}

/// `20240301T003000Z` of virtual milliseconds.
pub fn compact(ms: u64) -> String {
    let at = time::OffsetDateTime::from_unix_timestamp(i64::try_from(ms / 1000).unwrap()).unwrap();
    let f = time::macros::format_description!("[year][month][day]T[hour][minute][second]Z");
    at.format(&f).unwrap()
}

pub struct Client<'a> {
    pub sim: &'a Running,
    pub bucket: &'a str,
    pub secret: &'a str,
    pub date_shift_s: i64,
}

pub fn client(sim: &Running) -> Client<'_> {
    Client { sim, bucket: "b", secret: "sk", date_shift_s: 0 }
}

/// Who is asked, and with which secret of the key `ak`.
pub struct Target<'a> {
    pub addr: SocketAddr,
    pub bucket: &'a str,
    pub secret: &'a str,
}

/// One request, signed for `date` (compact form). `target` is `key?query` with a raw key and an encoded query.
pub fn call_at(
    to: &Target<'_>,
    date: &str,
    (method, target): (&str, &str),
    headers: &[(&str, &str)],
    body: &[u8],
) -> Answer {
    let (key, query) = target.split_once('?').unwrap_or((target, ""));
    let mut all: Vec<(String, String)> =
        headers.iter().map(|(n, v)| (n.to_ascii_lowercase(), (*v).to_string())).collect();
    all.push(("x-oss-date".into(), date.into()));
    all.push(("x-oss-content-sha256".into(), "UNSIGNED-PAYLOAD".into()));
    let mut signed: Vec<_> = all
        .iter()
        .filter(|(n, _)| n.starts_with("x-oss-") || n == "content-type" || n == "content-md5")
        .cloned()
        .collect();
    signed.sort();
    let signed: String = signed.iter().map(|(n, v)| format!("{n}:{v}\n")).collect();
    let mut sorted: Vec<&str> = query.split('&').filter(|p| !p.is_empty()).map(|p| p.trim_end_matches('=')).collect();
    sorted.sort_unstable();
    let path = encode(&format!("/{}/{key}", to.bucket), "/");
    let canonical = format!("{method}\n{path}\n{}\n{signed}\n\nUNSIGNED-PAYLOAD", sorted.join("&"));
    let scope = format!("{}/cn-hangzhou/oss/aliyun_v4_request", &date[..8]);
    let hash = hex::encode(Sha256::digest(canonical.as_bytes()));
    let mut key_bytes = format!("aliyun_v4{}", to.secret).into_bytes();
    for part in scope.split('/') {
        key_bytes = hmac(&key_bytes, part);
    }
    let signature = hex::encode(hmac(&key_bytes, &format!("OSS4-HMAC-SHA256\n{date}\n{scope}\n{hash}")));
    all.push(("authorization".into(), format!("OSS4-HMAC-SHA256 Credential=ak/{scope}, Signature={signature}")));
    let uri = if query.is_empty() { path } else { format!("{path}?{query}") };
    send_raw(to.addr, (method, &uri), &all, body)
}

/// Sends exactly this; adds Host, Connection and, unless one is given, Content-Length.
pub fn send_raw(addr: SocketAddr, (method, uri): (&str, &str), headers: &[(String, String)], body: &[u8]) -> Answer {
    let mut head = format!("{method} {uri} HTTP/1.1\r\nConnection: close\r\n");
    for (name, value) in headers {
        head.push_str(&format!("{name}: {value}\r\n"));
    }
    let has = |name: &str| headers.iter().any(|(n, _)| n == name);
    if !has("host") {
        head.push_str(&format!("Host: {addr}\r\n"));
    }
    if !has("content-length") && !has("transfer-encoding") && (method == "PUT" || method == "POST") {
        head.push_str(&format!("Content-Length: {}\r\n", body.len()));
    }
    head.push_str("\r\n");
    let mut bytes = Vec::new();
    let mut exchange = || -> io::Result<()> {
        let mut socket = TcpStream::connect(addr)?;
        socket.write_all(&[head.as_bytes(), body].concat())?;
        socket.shutdown(std::net::Shutdown::Write)?;
        socket.read_to_end(&mut bytes).map(drop)
    };
    let broken = exchange().is_err();
    parse(&bytes, method == "HEAD", broken)
}

impl Client<'_> {
    /// `target` is `key?query` with a raw key and an encoded query.
    pub fn call(&self, method: &str, target: &str, headers: &[(&str, &str)], body: &[u8]) -> Answer {
        let date = compact(self.sim.now_ms().saturating_add_signed(self.date_shift_s * 1000));
        let to = Target { addr: self.sim.addr(), bucket: self.bucket, secret: self.secret };
        call_at(&to, &date, (method, target), headers, body)
    }

    /// Sends exactly this; adds Host, Connection and, unless one is given, Content-Length.
    pub fn raw(&self, method: &str, uri: &str, headers: &[(String, String)], body: &[u8]) -> Answer {
        send_raw(self.sim.addr(), (method, uri), headers, body)
    }

    pub fn put(&self, key: &str, body: &[u8], headers: &[(&str, &str)]) -> Answer {
        self.call("PUT", key, headers, body)
    }

    pub fn get(&self, key: &str) -> Answer {
        self.call("GET", key, &[], b"")
    }
}

fn parse(bytes: &[u8], is_head: bool, broken: bool) -> Answer {
    let Some(end) = bytes.windows(4).position(|w| w == b"\r\n\r\n") else {
        return Answer { status: 0, headers: Vec::new(), body: Vec::new(), cut: true };
    };
    let head = String::from_utf8_lossy(&bytes[..end]).into_owned();
    let mut lines = head.split("\r\n");
    let status = lines.next().unwrap().split(' ').nth(1).unwrap().parse().unwrap();
    let headers: Vec<(String, String)> = lines
        .map(|l| l.split_once(": ").unwrap_or((l.trim_end_matches(':'), "")))
        .map(|(n, v)| (n.to_ascii_lowercase(), v.to_string()))
        .collect();
    let mut answer = Answer { status, headers, body: bytes[end + 4..].to_vec(), cut: broken };
    if answer.header("transfer-encoding") == Some("chunked") {
        answer.body = dechunk(&answer.body);
    } else if let Some(length) = answer.header("content-length").filter(|_| !is_head) {
        answer.cut |= answer.body.len() < length.parse::<usize>().unwrap();
    }
    answer
}

fn dechunk(mut bytes: &[u8]) -> Vec<u8> {
    let mut out = Vec::new();
    while let Some(at) = bytes.windows(2).position(|w| w == b"\r\n") {
        let length = usize::from_str_radix(std::str::from_utf8(&bytes[..at]).unwrap(), 16).unwrap();
        if length == 0 {
            break;
        }
        out.extend_from_slice(&bytes[at + 2..at + 2 + length]);
        bytes = &bytes[at + 2 + length + 2..];
    }
    out
}
