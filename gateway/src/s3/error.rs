//! The one place where errors become S3 codes and statuses.

use http::{HeaderMap, HeaderName, HeaderValue, StatusCode, header};
use s3s::dto::TimestampFormat;
use s3s::{S3Error, S3ErrorCode, s3_error};
use tidegate_tiering::clock::Timestamp;
use tidegate_tiering::engine::EngineError;

use super::versions;
use crate::server::MAX_SIGNED_CHUNK;
use crate::server::request::{BodyFailure, RequestContext};

/// Seconds that clients are asked to wait when the server is busy.
const RETRY_AFTER_SECONDS: HeaderValue = HeaderValue::from_static("1");

/// What S3 says to `error`.
pub fn from_engine(error: EngineError) -> S3Error {
    use S3ErrorCode as Code;
    let message = match &error {
        EngineError::DeleteMarker { named: true, .. } => {
            "The specified method is not allowed against this resource.".to_owned()
        }
        _ => error.to_string(),
    };
    let code = match &error {
        EngineError::NoSuchBucket(_) => Code::NoSuchBucket,
        // Where another account owns it, CreateBucket says so.
        EngineError::BucketExists(_) => Code::BucketAlreadyOwnedByYou,
        EngineError::BucketNotEmpty(_) => Code::BucketNotEmpty,
        EngineError::NoSuchKey { .. } => Code::NoSuchKey,
        EngineError::NoSuchVersion { .. } => Code::NoSuchVersion,
        EngineError::DeleteMarker { named: false, .. } => Code::NoSuchKey,
        EngineError::DeleteMarker { named: true, .. } => Code::MethodNotAllowed,
        EngineError::NoSuchUpload(_) => Code::NoSuchUpload,
        EngineError::InvalidPart { .. } => Code::InvalidPart,
        EngineError::InvalidPartOrder => Code::InvalidPartOrder,
        EngineError::PartTooSmall { .. } => Code::EntityTooSmall,
        EngineError::TooLarge { .. } => Code::EntityTooLarge,
        EngineError::PreconditionFailed(_) => Code::PreconditionFailed,
        EngineError::Conflict => Code::ConditionalRequestConflict,
        EngineError::BadDigest { .. } => Code::BadDigest,
        EngineError::Body(_) => Code::IncompleteBody,
        EngineError::WrongKey => Code::InvalidRequest,
        EngineError::Locked(_) => Code::AccessDenied,
        EngineError::InvalidBucketState(_) => Code::InvalidBucketState,
        EngineError::InvalidObjectState { .. } => Code::InvalidObjectState,
        EngineError::RestoreInProgress => Code::RestoreAlreadyInProgress,
        // S3's own answer to RestoreObject on a class that needs none.
        EngineError::NotArchived { .. } => Code::InvalidObjectState,
        EngineError::InvalidRange { .. } => Code::InvalidRange,
        EngineError::InvalidArgument(_) => Code::InvalidArgument,
        EngineError::InvalidRequest(_) => Code::InvalidRequest,
        EngineError::SlowDown(_) => Code::SlowDown,
        EngineError::Tier { .. } if error.is_retryable() => Code::SlowDown,
        EngineError::Tier { .. } => Code::ServiceUnavailable,
        EngineError::Unavailable(_) => Code::ServiceUnavailable,
        EngineError::Corrupt(_) | EngineError::Internal(_) => Code::InternalError,
    };
    let mut s3 = if code == Code::InternalError {
        // Paths and internals stay in the log; the request id leads there.
        tracing::error!(%error, "the store failed");
        s3_error!(InternalError, "The store failed; the server's log has the reason under this request id.")
    } else {
        S3Error::with_message(code, message)
    };
    if let EngineError::NoSuchKey { .. } = error {
        s3.set_headers(xml_headers(
            HeaderName::from_static("x-amz-delete-marker"),
            Some(HeaderValue::from_static("false")),
        ));
    } else if let EngineError::DeleteMarker { version, null, modified, named } = error {
        s3.set_headers(of_marker(&versions::shown(version, null), modified, named));
    } else if let EngineError::InvalidRange { size } = error {
        s3.set_headers(xml_headers(header::CONTENT_RANGE, HeaderValue::try_from(format!("bytes */{size}")).ok()));
    } else if matches!(s3.code(), Code::SlowDown | Code::ServiceUnavailable) {
        s3.set_headers(xml_headers(header::RETRY_AFTER, Some(RETRY_AFTER_SECONDS)));
    }
    s3
}

/// What S3 tells of a delete marker: which it is, and of one that was named also when it was made and that it can be deleted.
fn of_marker(version: &str, modified: Timestamp, named: bool) -> HeaderMap {
    let mut headers = xml_headers(HeaderName::from_static("x-amz-version-id"), HeaderValue::from_str(version).ok());
    headers.insert(HeaderName::from_static("x-amz-delete-marker"), HeaderValue::from_static("true"));
    if named {
        headers.insert(header::ALLOW, HeaderValue::from_static("DELETE"));
        if let Some(date) = http_date(modified) {
            headers.insert(header::LAST_MODIFIED, date);
        }
    }
    headers
}

/// A time as HTTP writes it.
pub(super) fn http_date(at: Timestamp) -> Option<HeaderValue> {
    let mut date = Vec::with_capacity(29); // the length of an HTTP date
    super::time(at).format(TimestampFormat::HttpDate, &mut date).ok()?;
    HeaderValue::from_bytes(&date).ok()
}

/// As [`from_engine`], with the precise reason when the request's body failed.
pub fn from_engine_with_body(error: EngineError, context: Option<&RequestContext>) -> S3Error {
    match (&error, context.and_then(RequestContext::body_failure)) {
        (EngineError::Body(_), Some(failure)) => body_failure(failure),
        _ => from_engine(error),
    }
}

/// What S3 says when a request's body could not be taken.
pub fn body_failure(failure: BodyFailure) -> S3Error {
    match failure {
        BodyFailure::Incomplete => {
            s3_error!(IncompleteBody, "The body has fewer bytes than the request announced.")
        }
        BodyFailure::Stalled => {
            s3_error!(RequestTimeout, "The body brought nothing for too long; the request was given up.")
        }
        BodyFailure::Sha256Mismatch => custom(
            "XAmzContentSHA256Mismatch",
            StatusCode::BAD_REQUEST,
            "The x-amz-content-sha256 header does not fit the body.",
        ),
        BodyFailure::SignatureMismatch => {
            s3_error!(SignatureDoesNotMatch, "The signature of a chunk or of the trailer does not fit the body.")
        }
        BodyFailure::Malformed => s3_error!(InvalidRequest, "The chunked framing of the body is broken."),
        BodyFailure::SignedChunkTooLarge => s3_error!(
            InvalidRequest,
            "A signed chunk of the body has more than {MAX_SIGNED_CHUNK} bytes, which is the most that is taken: send smaller \
             chunks, or unsigned ones (STREAMING-UNSIGNED-PAYLOAD-TRAILER), or a body without chunks."
        ),
        BodyFailure::BadDigest => {
            s3_error!(BadDigest, "Content-MD5 or the x-amz-checksum- header does not fit the XML in the body.")
        }
        BodyFailure::Cdata => {
            s3_error!(MalformedXML, "The XML has a CDATA section: write its text with &amp; and &lt;.")
        }
        BodyFailure::XmlTooLarge => {
            s3_error!(MaxMessageLengthExceeded, "The XML in the body is larger than this server allows.")
        }
        BodyFailure::FileTooLarge => {
            s3_error!(EntityTooLarge, "Your proposed upload exceeds the maximum allowed object size.")
        }
        BodyFailure::FileTooSmall => {
            s3_error!(EntityTooSmall, "Your proposed upload is smaller than the minimum allowed object size.")
        }
        BodyFailure::FormCut => s3_error!(MalformedPOSTRequest, "The form ends in the middle of its file."),
        BodyFailure::MissingTrailer => {
            custom("MalformedTrailerError", StatusCode::BAD_REQUEST, "A trailer that x-amz-trailer names did not come.")
        }
    }
}

/// A code that s3s has no name for.
pub(crate) fn custom(code: &'static str, status: StatusCode, message: &'static str) -> S3Error {
    let mut error = S3Error::with_message(S3ErrorCode::Custom(code.into()), message);
    error.set_status_code(status);
    error
}

/// An error's headers replace all that s3s sets, so that the content type is given again.
fn xml_headers(name: header::HeaderName, value: Option<HeaderValue>) -> HeaderMap {
    let mut headers = HeaderMap::with_capacity(2);
    headers.insert(header::CONTENT_TYPE, HeaderValue::from_static("application/xml"));
    if let Some(value) = value {
        headers.insert(name, value);
    }
    headers
}

#[cfg(test)]
mod tests {
    use super::*;
    use tidegate_tiering::engine::{BodyError, VersionId};

    fn text() -> String {
        "x".into()
    }

    fn marker(named: bool) -> EngineError {
        EngineError::DeleteMarker { version: VersionId(1), null: !named, modified: Timestamp(1000), named }
    }

    #[test]
    fn a_delete_marker_is_told_in_headers() {
        let shown = |named| {
            let headers = from_engine(marker(named)).headers().unwrap().clone();
            ["x-amz-delete-marker", "x-amz-version-id", "allow", "last-modified", "content-type"]
                .map(|name| headers.get(name).map(|value| value.to_str().unwrap().to_owned()).unwrap_or_default())
        };
        assert_eq!(shown(false), ["true", "null", "", "", "application/xml"]);
        let id = format!("{:032x}", 1);
        assert_eq!(shown(true), ["true", &id, "DELETE", "Thu, 01 Jan 1970 00:00:01 GMT", "application/xml"]);
    }

    #[test]
    fn every_engine_error_has_its_s3_code_and_status() {
        let cases = [
            (EngineError::NoSuchBucket(text()), "NoSuchBucket", 404),
            (EngineError::BucketExists(text()), "BucketAlreadyOwnedByYou", 409),
            (EngineError::BucketNotEmpty(text()), "BucketNotEmpty", 409),
            (EngineError::NoSuchKey { bucket: text(), key: text() }, "NoSuchKey", 404),
            (EngineError::NoSuchVersion { bucket: text(), key: text(), version: text() }, "NoSuchVersion", 404),
            (marker(false), "NoSuchKey", 404),
            (marker(true), "MethodNotAllowed", 405),
            (EngineError::NoSuchUpload(text()), "NoSuchUpload", 404),
            (EngineError::InvalidPart { number: 1 }, "InvalidPart", 400),
            (EngineError::InvalidPartOrder, "InvalidPartOrder", 400),
            (EngineError::PartTooSmall { number: 1, size: 1, min: 5 }, "EntityTooSmall", 400),
            (EngineError::TooLarge { size: 2, limit: 1 }, "EntityTooLarge", 400),
            (EngineError::PreconditionFailed("If-Match"), "PreconditionFailed", 412),
            (EngineError::Conflict, "ConditionalRequestConflict", 409),
            (EngineError::BadDigest { what: "Content-MD5", expected: text(), computed: text() }, "BadDigest", 400),
            (EngineError::Body(BodyError::Incomplete(text())), "IncompleteBody", 400),
            (EngineError::WrongKey, "InvalidRequest", 400),
            (EngineError::Locked(text()), "AccessDenied", 403),
            (EngineError::InvalidBucketState(text()), "InvalidBucketState", 409),
            (EngineError::InvalidObjectState { class: text() }, "InvalidObjectState", 403),
            (EngineError::RestoreInProgress, "RestoreAlreadyInProgress", 409),
            (EngineError::NotArchived { class: text() }, "InvalidObjectState", 403),
            (EngineError::InvalidRange { size: 7 }, "InvalidRange", 416),
            (EngineError::InvalidArgument(text()), "InvalidArgument", 400),
            (EngineError::InvalidRequest(text()), "InvalidRequest", 400),
            (EngineError::SlowDown(text()), "SlowDown", 503),
            (EngineError::Corrupt(text()), "InternalError", 500),
            (EngineError::Unavailable(text()), "ServiceUnavailable", 503),
            (EngineError::Internal(text()), "InternalError", 500),
        ];
        for (error, code, status) in cases {
            let shown = format!("{error:?}");
            let s3 = from_engine(error);
            assert_eq!(s3.code().as_str(), code, "{shown}");
            assert_eq!(s3.status_code().unwrap().as_u16(), status, "{shown}");
        }
    }

    #[test]
    fn a_busy_store_says_when_to_come_back_and_a_range_error_says_the_size() {
        let busy = from_engine(EngineError::SlowDown("the disk is full".into()));
        assert_eq!(busy.headers().unwrap()[header::RETRY_AFTER], "1");
        assert!(busy.message().unwrap().contains("the disk is full"));
        let range = from_engine(EngineError::InvalidRange { size: 7 });
        assert_eq!(range.headers().unwrap()[header::CONTENT_RANGE], "bytes */7");
    }

    #[test]
    fn internals_stay_out_of_the_answer() {
        let s3 = from_engine(EngineError::Internal("/var/lib/secret.pack: I/O error".into()));
        assert!(!s3.message().unwrap().contains("secret.pack"));
    }

    #[test]
    fn a_failed_body_names_its_reason() {
        let cases = [
            (BodyFailure::Incomplete, "IncompleteBody", 400),
            (BodyFailure::Stalled, "RequestTimeout", 400),
            (BodyFailure::Sha256Mismatch, "XAmzContentSHA256Mismatch", 400),
            (BodyFailure::SignatureMismatch, "SignatureDoesNotMatch", 403),
            (BodyFailure::Malformed, "InvalidRequest", 400),
            (BodyFailure::MissingTrailer, "MalformedTrailerError", 400),
            (BodyFailure::SignedChunkTooLarge, "InvalidRequest", 400),
            (BodyFailure::BadDigest, "BadDigest", 400),
            (BodyFailure::Cdata, "MalformedXML", 400),
            (BodyFailure::XmlTooLarge, "MaxMessageLengthExceeded", 400),
            (BodyFailure::FileTooLarge, "EntityTooLarge", 400),
            (BodyFailure::FileTooSmall, "EntityTooSmall", 400),
            (BodyFailure::FormCut, "MalformedPOSTRequest", 400),
        ];
        for (failure, code, status) in cases {
            let s3 = body_failure(failure);
            assert_eq!((s3.code().as_str(), s3.status_code().unwrap().as_u16()), (code, status));
        }
    }
}
