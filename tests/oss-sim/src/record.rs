//! The record of exchanges: what became of each request, one by one, so that a client's own account can be compared with it
//! to the last one. Kept only when asked for, since it grows with each request.

use crate::error::OssError;
use crate::ledger::is_get_type;
use crate::model::Class;
use crate::request::{Reply, ReplyBody};
use serde::Serialize;

/// Most exchanges that are kept; of later ones only the number is known.
pub const MAX_EXCHANGES: usize = 1 << 20;

/// One request and what became of it.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub struct Exchange {
    /// Operation, as in the vendor's API.
    pub operation: &'static str,
    /// The bucket, when one was named.
    pub bucket: Option<String>,
    /// The key, when one was named.
    pub key: Option<String>,
    /// HTTP status; 0 when the connection was reset before anything was done.
    pub status: u16,
    /// The code of the error; empty for a success.
    pub code: String,
    /// Whether the client was sent an answer. A reset takes it away, before or after the request had its effect.
    pub answered: bool,
    /// The request's body did not come to its announced end: the client broke off.
    pub broken_off: bool,
    /// The kind of fault that struck and had an effect, by its name in a plan.
    pub fault: Option<&'static str>,
    /// Whether it is billed as a GET; else as a PUT.
    pub get_type: bool,
    /// Requests on the bill, by class. Empty when nothing is billed.
    pub billed: Vec<(Class, u64)>,
    /// Bytes of a stored body that the answer announced.
    pub bytes: u64,
}

/// What happened so far.
#[derive(Debug, Default)]
pub struct Exchanges {
    /// In the order of their ends.
    list: Vec<Exchange>,
    left_out: u64,
}

impl Exchange {
    /// A request that ended with `result`.
    pub fn of(operation: &'static str, place: (Option<&str>, Option<&str>), result: &Result<Reply, OssError>) -> Self {
        let (status, code) = match result {
            Ok(reply) => (reply.status, String::new()),
            Err(error) => (error.status, error.code.to_string()),
        };
        let bytes = match result.as_ref().map(|reply| &reply.body) {
            Ok(ReplyBody::Stored { span, .. }) => span.len,
            _ => 0,
        };
        let broken_off = code == "RequestTimeout";
        Self { status, code, broken_off, billed: billed(result), bytes, ..Self::reset(operation, place) }
    }

    /// A request whose connection was reset before it had an effect.
    pub fn reset(operation: &'static str, (bucket, key): (Option<&str>, Option<&str>)) -> Self {
        Self {
            operation,
            bucket: bucket.map(str::to_owned),
            key: key.map(str::to_owned),
            status: 0,
            code: String::new(),
            answered: true,
            broken_off: false,
            fault: None,
            get_type: is_get_type(operation),
            billed: Vec::new(),
            bytes: 0,
        }
    }
}

/// Requests on the bill: only what succeeded, and a request without a class as one of class Standard.
pub fn billed(result: &Result<Reply, OssError>) -> Vec<(Class, u64)> {
    match result {
        Err(_) => Vec::new(),
        Ok(reply) if reply.billed.is_empty() => vec![(Class::Standard, 1)],
        Ok(reply) => reply.billed.clone(),
    }
}

impl Exchanges {
    /// Keeps one more.
    pub fn push(&mut self, exchange: Exchange) {
        if self.list.len() < MAX_EXCHANGES {
            self.list.push(exchange);
        } else {
            self.left_out += 1;
        }
    }

    /// All that are kept, and how many are not.
    pub fn all(&self) -> (Vec<Exchange>, u64) {
        (self.list.clone(), self.left_out)
    }
}
