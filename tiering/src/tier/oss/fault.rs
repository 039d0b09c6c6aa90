//! From a refused request to an error that tells what to do.

use super::encode;
use crate::tier::error::{ErrorDetails, TierError, TierErrorKind};
use crate::tier::metrics::Outcome;
use reqwest::StatusCode;
use reqwest::header::HeaderMap;
use serde::Deserialize;
use std::time::Duration;

/// Codes of status 503 by which the service asks for fewer requests.
const THROTTLES: &[&str] = &[
    "DownloadTrafficRateLimitExceeded",
    "UploadTrafficRateLimitExceeded",
    "MetaOperationQpsLimitExceeded",
    "TotalQpsLimitExceeded",
    "ActiveRequestLimitExceeded",
    "CpuLimitExceeded",
    "QpsLimitExceeded",
];
/// Codes and fine-grained codes of a temporary key that the service does not take any more.
const STALE_KEYS: &[&str] =
    &["SecurityTokenExpired", "InvalidSecurityToken", "0002-00000006", "0002-00000007", "0002-00000008"];
/// Code of a request whose time is more than 15 minutes off.
const SKEWED: &str = "RequestTimeTooSkewed";

/// How rustls begins every complaint about a server's certificate.
const BAD_CERTIFICATE: &str = "invalid peer certificate";

/// The error document.
#[derive(Debug, Default, Deserialize)]
#[serde(rename_all = "PascalCase", default)]
struct Document {
    code: String,
    message: String,
    request_id: String,
    #[serde(rename = "EC")]
    ec: String,
    endpoint: String,
}

/// A request that did not succeed.
#[derive(Debug)]
pub(crate) struct Fault {
    /// What came of it.
    pub error: TierError,
    /// It is certain that nothing was applied.
    pub refused: bool,
}

impl Fault {
    /// The store's clock and ours differ too much.
    pub(crate) fn is_skewed(&self) -> bool {
        self.error.details().code == SKEWED
    }

    /// What it counts as. An error's status is 0 when no answer came.
    pub(crate) fn outcome(&self) -> Outcome {
        let status = self.error.details().status;
        match (self.error.kind(), status) {
            (TierErrorKind::Unavailable, 0) if !self.refused => Outcome::NoAnswer,
            (TierErrorKind::Unavailable | TierErrorKind::Invalid, 0) => Outcome::NotSent,
            (TierErrorKind::Unavailable, 200..300) => Outcome::Corrupt,
            (TierErrorKind::Corrupt, 300..) => Outcome::Invalid,
            _ => Outcome::from(&self.error),
        }
    }

    /// The temporary key must be replaced.
    pub(crate) fn is_stale_key(&self) -> bool {
        let d = self.error.details();
        STALE_KEYS.iter().any(|known| *known == d.code || *known == d.ec)
    }
}

/// A header as text; empty when it is missing.
pub(crate) fn header<'a>(headers: &'a HeaderMap, name: &str) -> &'a str {
    headers.get(name).and_then(|v| v.to_str().ok()).unwrap_or_default()
}

/// Wait that the service asked for, bounded by `cap`.
pub(crate) fn asked_delay(headers: &HeaderMap, cap: Duration) -> Duration {
    let millis = header(headers, "x-oss-qos-delay-time").trim().parse::<u64>().unwrap_or(0);
    Duration::from_millis(millis).min(cap)
}

/// Makes the error of an answer. `place` has operation, name and host filled in.
pub(crate) fn of_answer(
    status: StatusCode,
    headers: &HeaderMap,
    body: &[u8],
    place: ErrorDetails,
    delay: Duration,
) -> Fault {
    // Answers to HEAD have no body: the document comes in a header.
    let from_header = encode::from_base64(header(headers, "x-oss-err"));
    let text = if body.is_empty() { from_header.unwrap_or_default() } else { body.to_vec() };
    let document: Document = quick_xml::de::from_str(&String::from_utf8_lossy(&text)).unwrap_or_default();
    let or = |value: String, name: &str| if value.is_empty() { header(headers, name).to_owned() } else { value };
    let mut message = document.message;
    if !document.endpoint.is_empty() {
        message.push_str(&format!(" Use endpoint {}.", document.endpoint));
    }
    let details = ErrorDetails {
        status: status.as_u16(),
        code: document.code,
        ec: or(document.ec, "x-oss-ec"),
        request_id: or(document.request_id, "x-oss-request-id"),
        message,
        ..place
    };
    let kind = kind_of(status, &details.code, delay);
    // A 5xx may come after the store has done its work; everything below 500 and a refusal for load comes before.
    let refused = status.is_client_error() || matches!(kind, TierErrorKind::Throttled { .. });
    Fault { error: TierError::new(kind, details), refused }
}

fn kind_of(status: StatusCode, code: &str, delay: Duration) -> TierErrorKind {
    match (status.as_u16(), code) {
        (_, "InvalidObjectState") => TierErrorKind::Frozen,
        (_, "InvalidDigest" | "InvalidCRC64") => TierErrorKind::Corrupt,
        (_, "RequestTimeout" | "BadRequest") => TierErrorKind::Unavailable,
        (404, "NoSuchBucket") => TierErrorKind::Invalid,
        (404, _) => TierErrorKind::NotFound,
        (401 | 403, _) => TierErrorKind::Denied,
        (408, _) => TierErrorKind::Unavailable,
        (429, _) => TierErrorKind::Throttled { delay },
        (503, code) if THROTTLES.contains(&code) || !delay.is_zero() => TierErrorKind::Throttled { delay },
        (500.., _) => TierErrorKind::Unavailable,
        _ => TierErrorKind::Invalid,
    }
}

/// Makes the error of a request without an answer.
pub(crate) fn of_transport(error: reqwest::Error, place: ErrorDetails) -> Fault {
    let refused = error.is_connect() || error.is_builder();
    let kind = if error.is_builder() { TierErrorKind::Invalid } else { TierErrorKind::Unavailable };
    let mut message = error.to_string();
    let mut source = std::error::Error::source(&error);
    while let Some(cause) = source {
        message.push_str(&format!(": {cause}"));
        source = cause.source();
    }
    if message.contains(BAD_CERTIFICATE) {
        message.push_str(". Certificates to trust beside the system's are named by the setting ca_file");
    }
    Fault { error: TierError::new(kind, ErrorDetails { message, ..place }), refused }
}

#[cfg(test)]
mod tests {
    use super::*;
    use reqwest::header::HeaderValue;

    fn answer(status: u16, code: &str) -> Fault {
        let body =
            format!("<?xml version=\"1.0\"?><Error><Code>{code}</Code><Message>m</Message><Extra>x</Extra></Error>");
        let status = StatusCode::from_u16(status).unwrap();
        of_answer(status, &HeaderMap::new(), body.as_bytes(), ErrorDetails::default(), Duration::ZERO)
    }

    #[test]
    fn each_answer_tells_what_to_do() {
        for (status, code, kind) in [
            (404, "NoSuchKey", TierErrorKind::NotFound),
            (404, "NoSuchBucket", TierErrorKind::Invalid),
            (403, "InvalidObjectState", TierErrorKind::Frozen),
            (403, "AccessDenied", TierErrorKind::Denied),
            (400, "InvalidArgument", TierErrorKind::Invalid),
            (400, "InvalidCRC64", TierErrorKind::Corrupt),
            (400, "RequestTimeout", TierErrorKind::Unavailable),
            (500, "InternalError", TierErrorKind::Unavailable),
            (503, "ServiceUnavailable", TierErrorKind::Unavailable),
            (503, "TotalQpsLimitExceeded", TierErrorKind::Throttled { delay: Duration::ZERO }),
        ] {
            assert_eq!(answer(status, code).error.kind(), kind, "{code}");
        }
        assert!(answer(403, SKEWED).is_skewed());
        assert!(answer(503, "CpuLimitExceeded").refused);
        assert!(!answer(500, "InternalError").refused);
    }

    #[test]
    fn what_was_answered_and_what_was_not_is_counted_apart() {
        let fault = |kind, status, refused| {
            let error = TierError::new(kind, ErrorDetails { status, ..ErrorDetails::default() });
            Fault { error, refused }.outcome()
        };
        assert_eq!(fault(TierErrorKind::Unavailable, 0, false), Outcome::NoAnswer);
        assert_eq!(fault(TierErrorKind::Unavailable, 0, true), Outcome::NotSent);
        assert_eq!(fault(TierErrorKind::Invalid, 0, true), Outcome::NotSent);
        assert_eq!(fault(TierErrorKind::Unavailable, 500, false), Outcome::Unavailable);
        assert_eq!(fault(TierErrorKind::Unavailable, 200, false), Outcome::Corrupt, "the answer broke off");
        assert_eq!(fault(TierErrorKind::Corrupt, 0, false), Outcome::Corrupt, "answered, and then found wrong");
        assert_eq!(fault(TierErrorKind::Corrupt, 400, true), Outcome::Invalid, "refused, so not billed");
        assert_eq!(fault(TierErrorKind::Local, 0, false), Outcome::Local);
        let names: std::collections::BTreeSet<_> = Outcome::ALL.iter().map(|o| o.name()).collect();
        assert_eq!(names.len(), Outcome::ALL.len());
    }

    #[test]
    fn the_error_of_a_head_is_read_from_its_header() {
        let mut headers = HeaderMap::new();
        let document = "<Error><Code>InvalidObjectState</Code><RequestId>R</RequestId><EC>0016-00000404</EC></Error>";
        headers.insert("x-oss-err", HeaderValue::from_str(&encode::base64(document.as_bytes())).unwrap());
        let fault = of_answer(StatusCode::FORBIDDEN, &headers, b"", ErrorDetails::default(), Duration::ZERO);
        assert_eq!(fault.error.kind(), TierErrorKind::Frozen);
        let d = fault.error.details();
        assert_eq!((d.ec.as_str(), d.request_id.as_str()), ("0016-00000404", "R"));
    }

    #[test]
    fn an_answer_that_is_no_document_still_gives_an_error() {
        let mut headers = HeaderMap::new();
        headers.insert("x-oss-request-id", HeaderValue::from_static("RID"));
        let fault = of_answer(StatusCode::BAD_GATEWAY, &headers, b"<html>", ErrorDetails::default(), Duration::ZERO);
        assert_eq!(fault.error.kind(), TierErrorKind::Unavailable);
        assert_eq!(fault.error.details().request_id, "RID");
    }

    #[test]
    fn a_delay_that_the_store_asks_for_is_bounded() {
        let mut headers = HeaderMap::new();
        headers.insert("x-oss-qos-delay-time", HeaderValue::from_static("999999999"));
        assert_eq!(asked_delay(&headers, Duration::from_secs(20)), Duration::from_secs(20));
    }
}
