//! What can go wrong at a cold tier, sorted by what the caller has to do about it.

use std::fmt;
use std::time::Duration;

/// What the caller has to do.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum TierErrorKind {
    /// Nothing is under that name: do not ask again.
    NotFound,
    /// The object is archived (`InvalidObjectState`): restore it first.
    Frozen,
    /// The store asks for less: come back after `delay`.
    Throttled {
        /// The shortest wait that the store asked for; zero when it named none.
        delay: Duration,
    },
    /// Network, time-out or an error on the store's side: come back later.
    Unavailable,
    /// Credentials are missing, wrong, expired, or not allowed to do this: an operator must act.
    Denied,
    /// A checksum or a length differs. Once, it was the transfer: repeat it. Again on a read, the remote copy is damaged.
    Corrupt,
    /// The configuration or the request is wrong: repeating it cannot help.
    Invalid,
    /// Our own body could not be read: look at the local disk, not at the store.
    Local,
}

/// Where it happened and what the store said.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct ErrorDetails {
    /// The operation, by the store's name for it (`PutObject`).
    pub operation: &'static str,
    /// The object's name below the tier's prefix; empty for operations on the bucket.
    pub name: String,
    /// Host that was asked.
    pub host: String,
    /// HTTP status; 0 when there was no answer.
    pub status: u16,
    /// The store's error code (`NoSuchKey`).
    pub code: String,
    /// The store's fine-grained error code (`0026-00000001`), which its documentation is indexed by.
    pub ec: String,
    /// The store's id of the request, which its support asks for.
    pub request_id: String,
    /// What happened, in words. Never holds a secret.
    pub message: String,
}

/// An error of a cold tier. [`TierError::kind`] tells what to do, [`TierError::details`] what happened.
#[derive(Debug, thiserror::Error)]
#[error("{}", self.describe())]
pub struct TierError {
    kind: TierErrorKind,
    details: Box<ErrorDetails>,
    #[source]
    source: Option<std::io::Error>,
}

impl TierError {
    /// An error with its details.
    pub fn new(kind: TierErrorKind, details: ErrorDetails) -> Self {
        Self { kind, details: Box::new(details), source: None }
    }

    /// An error that no store answered: only an operation, a name and a message.
    pub fn plain(kind: TierErrorKind, operation: &'static str, name: &str, message: impl fmt::Display) -> Self {
        let message = message.to_string();
        Self::new(kind, ErrorDetails { operation, name: name.to_owned(), message, ..ErrorDetails::default() })
    }

    /// Our own body failed.
    pub fn local(operation: &'static str, name: &str, source: std::io::Error) -> Self {
        let mut error = Self::plain(TierErrorKind::Local, operation, name, "cannot read the body to send");
        error.source = Some(source);
        error
    }

    /// A wrong setting or request.
    pub fn invalid(operation: &'static str, name: &str, message: impl fmt::Display) -> Self {
        Self::plain(TierErrorKind::Invalid, operation, name, message)
    }

    /// What the caller has to do.
    pub fn kind(&self) -> TierErrorKind {
        self.kind
    }

    /// Where it happened and what the store said.
    pub fn details(&self) -> &ErrorDetails {
        &self.details
    }

    /// True when the same call may succeed later without anybody doing anything. The only question about retries.
    pub fn is_retryable(&self) -> bool {
        match self.kind {
            TierErrorKind::Throttled { .. } | TierErrorKind::Unavailable | TierErrorKind::Corrupt => true,
            TierErrorKind::NotFound
            | TierErrorKind::Frozen
            | TierErrorKind::Denied
            | TierErrorKind::Invalid
            | TierErrorKind::Local => false,
        }
    }

    /// True for [`TierErrorKind::NotFound`].
    pub fn is_not_found(&self) -> bool {
        self.kind == TierErrorKind::NotFound
    }

    /// True for [`TierErrorKind::Frozen`].
    pub fn is_frozen(&self) -> bool {
        self.kind == TierErrorKind::Frozen
    }

    /// The shortest wait that the store asked for, zero when it asked for none.
    pub fn delay(&self) -> Duration {
        match self.kind {
            TierErrorKind::Throttled { delay } => delay,
            _ => Duration::ZERO,
        }
    }

    fn describe(&self) -> String {
        let d = &self.details;
        let mut text = d.operation.to_owned();
        if !d.name.is_empty() {
            text.push_str(&format!(" of {:?}", d.name));
        }
        text.push_str(match self.kind {
            TierErrorKind::NotFound => ": not found",
            TierErrorKind::Frozen => ": archived, restore it first",
            TierErrorKind::Throttled { .. } => ": the store asks for fewer requests",
            TierErrorKind::Unavailable => ": the store cannot be reached or failed",
            TierErrorKind::Denied => ": denied",
            TierErrorKind::Corrupt => ": damaged on the way or at the store",
            TierErrorKind::Invalid => ": refused",
            TierErrorKind::Local => ": local read failed",
        });
        if !d.message.is_empty() {
            text.push_str(&format!(": {}", d.message));
        }
        if let Some(source) = &self.source {
            text.push_str(&format!(": {source}"));
        }
        let facts = [("code", &d.code), ("EC", &d.ec), ("request id", &d.request_id), ("host", &d.host)];
        let mut facts: Vec<String> =
            facts.iter().filter(|(_, v)| !v.is_empty()).map(|(k, v)| format!("{k} {v}")).collect();
        if d.status != 0 {
            facts.insert(0, format!("status {}", d.status));
        }
        if !facts.is_empty() {
            text.push_str(&format!(" ({})", facts.join(", ")));
        }
        text
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_error_tells_operation_name_reason_and_the_ids_that_support_asks_for() {
        let error = TierError::new(
            TierErrorKind::Frozen,
            ErrorDetails {
                operation: "GetObject",
                name: "a/b".into(),
                host: "h.example".into(),
                status: 403,
                code: "InvalidObjectState".into(),
                ec: "0016-00000404".into(),
                request_id: "5C3D".into(),
                message: "not valid".into(),
            },
        );
        assert_eq!(
            error.to_string(),
            "GetObject of \"a/b\": archived, restore it first: not valid (status 403, code InvalidObjectState, \
             EC 0016-00000404, request id 5C3D, host h.example)"
        );
        assert!(!error.is_retryable());
    }

    #[test]
    fn a_failure_of_our_own_body_is_not_retried_and_names_its_cause() {
        let error = TierError::local("PutObject", "n", std::io::Error::other("bad sector"));
        assert!(!error.is_retryable());
        assert!(error.to_string().contains("bad sector"), "{error}");
    }
}
