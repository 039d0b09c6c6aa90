//! A request before it is signed, and the answer to one that succeeded.

use super::fault;
use crate::tier::BodySource;
use crate::tier::metrics::Operation;
use bytes::Bytes;
use reqwest::header::HeaderMap;
use reqwest::{Method, StatusCode};
use std::ops::Range;
use std::sync::Arc;
use tokio::sync::OwnedSemaphorePermit;

/// What a request carries.
#[derive(Clone)]
pub(crate) enum Body {
    /// Nothing.
    Empty,
    /// A small document.
    Document(Bytes),
    /// A range of a body, streamed and hashed.
    Source(Arc<dyn BodySource>, Range<u64>),
}

/// May a request whose fate is unknown be sent again?
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Repeat {
    /// Yes: twice is the same as once.
    Always,
    /// Only when the store refused it: twice would leave two uploads, or extend a restore twice.
    IfRefused,
}

/// One request, before it is signed.
#[derive(Clone)]
pub(crate) struct Call {
    pub operation: Operation,
    pub method: Method,
    /// Name below the tier's prefix; `None` for the bucket.
    pub name: Option<String>,
    pub query: Vec<(String, String)>,
    /// Names in lower case.
    pub headers: Vec<(String, String)>,
    pub body: Body,
    pub repeat: Repeat,
}

impl Call {
    pub(crate) fn new(operation: Operation, method: Method, name: Option<&str>) -> Self {
        let name = name.map(str::to_owned);
        let (query, headers) = (Vec::new(), Vec::new());
        Self { operation, method, name, query, headers, body: Body::Empty, repeat: Repeat::Always }
    }

    pub(crate) fn query(mut self, name: &str, value: impl ToString) -> Self {
        self.query.push((name.to_owned(), value.to_string()));
        self
    }

    pub(crate) fn header(mut self, name: &str, value: impl ToString) -> Self {
        self.headers.push((name.to_owned(), value.to_string()));
        self
    }

    pub(crate) fn document(mut self, text: String) -> Self {
        self.body = Body::Document(Bytes::from(text));
        self.header("content-type", "application/xml")
    }

    pub(crate) fn source(mut self, body: Arc<dyn BodySource>, range: Range<u64>) -> Self {
        self.body = Body::Source(body, range);
        self.header("content-type", "application/octet-stream")
    }

    pub(crate) fn once(mut self) -> Self {
        self.repeat = Repeat::IfRefused;
        self
    }

    /// The name; empty for the bucket.
    pub(crate) fn name(&self) -> &str {
        self.name.as_deref().unwrap_or_default()
    }
}

/// A 2xx answer.
pub(crate) struct Answer {
    pub status: StatusCode,
    pub headers: HeaderMap,
    /// The body, read whole; empty for GetObject.
    pub body: Bytes,
    /// CRC-64 of what was sent from a [`Body::Source`].
    pub sent_crc64: Option<u64>,
    /// An attempt before this one may have been carried out, too: its answer was lost.
    pub repeated: bool,
    /// GetObject: the body, and the permit that its transfer holds.
    pub stream: Option<(reqwest::Response, OwnedSemaphorePermit)>,
}

impl Answer {
    /// A header as text; empty when it is missing.
    pub(crate) fn header(&self, name: &str) -> &str {
        fault::header(&self.headers, name)
    }

    /// The store's CRC-64 of the whole object.
    pub(crate) fn crc64(&self) -> Option<u64> {
        self.header("x-oss-hash-crc64ecma").trim().parse().ok()
    }
}
