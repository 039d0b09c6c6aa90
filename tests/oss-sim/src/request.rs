//! A request as the rest of the simulator sees it, and the answer.

use crate::blob::{Body, Span};
use crate::error::OssError;
use crate::model::Class;
use bytes::Bytes;
use http::{HeaderMap, Method};
use percent_encoding::{AsciiSet, NON_ALPHANUMERIC, percent_decode_str, utf8_percent_encode};

/// Everything but the unreserved characters of RFC 3986.
pub const STRICT: &AsciiSet = &NON_ALPHANUMERIC.remove(b'-').remove(b'.').remove(b'_').remove(b'~');
/// The same, keeping the slash: paths of V4's canonical request.
pub const PATH: &AsciiSet = &STRICT.remove(b'/');

/// Percent-encodes with upper-case hex, keeping only unreserved characters.
pub fn encode(text: &str) -> String {
    utf8_percent_encode(text, STRICT).to_string()
}

/// Percent-decodes a path or a header value ("+" stays "+").
///
/// # Errors
/// `None` when the result is not UTF-8.
pub fn decode(text: &str) -> Option<String> {
    percent_decode_str(text).decode_utf8().ok().map(|s| s.into_owned())
}

/// Query parameters in the order sent, decoded ("+" is a space in a query).
#[derive(Debug, Default, Clone)]
pub struct Query(pub Vec<(String, String)>);

impl Query {
    /// Reads a raw query string.
    ///
    /// # Errors
    /// 400 InvalidArgument when a part is not UTF-8.
    pub fn parse(raw: &str) -> Result<Query, OssError> {
        let one = |text: &str| {
            decode(&text.replace('+', "%20"))
                .ok_or_else(|| OssError::invalid_argument("The query is not valid UTF-8.", "query", text))
        };
        let mut pairs = Vec::new();
        for part in raw.split('&').filter(|p| !p.is_empty()) {
            let (name, value) = part.split_once('=').unwrap_or((part, ""));
            pairs.push((one(name)?, one(value)?));
        }
        Ok(Query(pairs))
    }

    /// The first value of that name.
    pub fn get(&self, name: &str) -> Option<&str> {
        self.0.iter().find(|(n, _)| n == name).map(|(_, v)| v.as_str())
    }

    /// Whether the name is present, with or without a value.
    pub fn has(&self, name: &str) -> bool {
        self.get(name).is_some()
    }

    /// A number, or `default` when absent or empty.
    ///
    /// # Errors
    /// 400 InvalidArgument naming the parameter.
    pub fn number(&self, name: &str, default: usize, range: (usize, usize)) -> Result<usize, OssError> {
        let Some(text) = self.get(name).filter(|t| !t.is_empty()) else { return Ok(default) };
        match text.parse::<usize>() {
            Ok(n) if (range.0..=range.1).contains(&n) => Ok(n),
            _ => Err(OssError::invalid_argument(
                format!("Argument {name} must be an integer between {} and {}.", range.0, range.1),
                name,
                text,
            )),
        }
    }
}

/// A parsed request without its body.
#[derive(Debug)]
pub struct Req {
    /// HTTP method.
    pub method: Method,
    /// The bucket, from the host or the path.
    pub bucket: Option<String>,
    /// The decoded key.
    pub key: Option<String>,
    /// Query parameters.
    pub query: Query,
    /// Headers.
    pub headers: HeaderMap,
    /// The Host header as sent (for error documents).
    pub host: String,
    /// Virtual time of arrival.
    pub now: u64,
    /// AccessKeyId of who asks; empty until the signature was checked.
    pub caller: String,
}

impl Req {
    /// A header as text; values that are not visible ASCII are decoded as UTF-8 leniently.
    pub fn header(&self, name: &str) -> Option<String> {
        header(&self.headers, name)
    }

    /// The bucket's name.
    ///
    /// # Errors
    /// 400 when the request names none.
    pub fn bucket(&self) -> Result<&str, OssError> {
        self.bucket.as_deref().ok_or_else(|| OssError::new(400, "InvalidBucketName", "The request names no bucket."))
    }

    /// The object's key.
    ///
    /// # Errors
    /// 400 when the request names none.
    pub fn key(&self) -> Result<&str, OssError> {
        self.key.as_deref().ok_or_else(|| OssError::new(400, "InvalidObjectName", "The request names no object."))
    }

    /// The declared length of the body.
    pub fn content_length(&self) -> Option<u64> {
        self.header("content-length")?.parse().ok()
    }
}

/// A header of a map as text.
pub fn header(headers: &HeaderMap, name: &str) -> Option<String> {
    headers.get(name).map(|v| String::from_utf8_lossy(v.as_bytes()).trim().to_string())
}

/// What an answer's body is.
#[derive(Debug)]
pub enum ReplyBody {
    /// Nothing.
    Empty,
    /// A document.
    Bytes(Bytes),
    /// A part of a stored body, compressed on the way when `gzip`.
    Stored {
        /// The body.
        body: Body,
        /// Which bytes.
        span: Span,
        /// Compress on the fly.
        gzip: bool,
    },
}

/// An answer.
#[derive(Debug)]
pub struct Reply {
    /// HTTP status.
    pub status: u16,
    /// Headers (names in lower case).
    pub headers: Vec<(String, String)>,
    /// Body.
    pub body: ReplyBody,
    /// Billed requests: class and how many. Empty means one request of class Standard.
    pub billed: Vec<(Class, u64)>,
}

impl Reply {
    /// An answer without body.
    pub fn empty(status: u16) -> Reply {
        Reply { status, headers: Vec::new(), body: ReplyBody::Empty, billed: Vec::new() }
    }

    /// 200 with an XML document.
    pub fn xml(document: String) -> Reply {
        let mut reply = Reply::empty(200);
        reply.set("content-type", "application/xml");
        reply.body = ReplyBody::Bytes(Bytes::from(document));
        reply
    }

    /// Adds a header.
    pub fn set(&mut self, name: &str, value: impl Into<String>) {
        self.headers.push((name.to_string(), value.into()));
    }

    /// The same answer, billed as one request of `class`.
    pub fn class(mut self, class: Class) -> Reply {
        self.billed = vec![(class, 1)];
        self
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn queries_decode_plus_as_space_and_keep_empty_values() {
        let query = Query::parse("restore=&a=b+c&d=%2B&uploads").unwrap();
        assert_eq!(query.get("restore"), Some(""));
        assert_eq!(query.get("a"), Some("b c"));
        assert_eq!(query.get("d"), Some("+"));
        assert!(query.has("uploads") && !query.has("upload"));
        assert!(query.number("a", 1, (1, 10)).is_err());
    }
}
