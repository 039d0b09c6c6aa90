//! Metrics of the S3 endpoint. Labels come from enums and every handle is resolved once, at start.

use prometheus::{Histogram, HistogramOpts, HistogramVec, IntCounter, IntCounterVec, IntGauge, Opts, Registry};

macro_rules! operations {
    ($($name:ident),+ $(,)?) => {
        /// An S3 operation as the metrics name it.
        #[derive(Debug, Clone, Copy, PartialEq, Eq)]
        #[repr(u8)]
        pub enum Operation {
            /// The request was refused before its operation was known.
            Unknown = 0,
            /// An operation that this server does not implement.
            Other,
            $(
                #[doc = concat!("S3's ", stringify!($name), ".")]
                $name,
            )+
        }

        impl Operation {
            /// All of them, in the order of their codes.
            pub const ALL: &'static [Operation] = &[Self::Unknown, Self::Other, $(Self::$name,)+];

            /// The label's value.
            pub fn name(self) -> &'static str {
                match self {
                    Self::Unknown => "Unknown",
                    Self::Other => "Other",
                    $(Self::$name => stringify!($name),)+
                }
            }

            /// The operation that S3 calls `name`; [`Operation::Other`] for those not implemented here.
            pub fn from_name(name: &str) -> Self {
                match name {
                    $(stringify!($name) => Self::$name,)+
                    _ => Self::Other,
                }
            }
        }
    };
}

operations! {
    GetObject, HeadObject, PutObject, DeleteObject, DeleteObjects, CopyObject, ListObjects, ListObjectsV2,
    CreateBucket, HeadBucket, ListBuckets, DeleteBucket, GetBucketLocation, GetBucketVersioning,
    GetBucketLifecycleConfiguration, PutBucketLifecycleConfiguration, DeleteBucketLifecycle,
    CreateMultipartUpload, UploadPart, UploadPartCopy, ListParts, ListMultipartUploads, CompleteMultipartUpload,
    AbortMultipartUpload, RestoreObject, GetObjectAttributes, PutBucketVersioning, ListObjectVersions,
    PutObjectTagging, GetObjectTagging, DeleteObjectTagging, PutBucketTagging, GetBucketTagging, DeleteBucketTagging,
    GetBucketEncryption, PutBucketEncryption, DeleteBucketEncryption, GetSessionToken, AssumeRole, GetCallerIdentity,
    PutBucketCors, GetBucketCors, DeleteBucketCors, Preflight,
    GetBucketPolicy, PutBucketPolicy, DeleteBucketPolicy, GetBucketPolicyStatus,
    GetPublicAccessBlock, PutPublicAccessBlock, DeletePublicAccessBlock,
    GetBucketOwnershipControls, PutBucketOwnershipControls, DeleteBucketOwnershipControls,
    GetBucketAcl, PutBucketAcl, GetObjectAcl, PutObjectAcl, GetObjectTorrent,
    GetObjectLockConfiguration, PutObjectLockConfiguration, GetObjectRetention, PutObjectRetention,
    GetObjectLegalHold, PutObjectLegalHold,
    GetBucketNotificationConfiguration, PutBucketNotificationConfiguration,
}

impl Operation {
    pub(crate) fn from_code(code: u8) -> Self {
        Self::ALL.get(usize::from(code)).copied().unwrap_or(Self::Unknown)
    }
}

/// The codes of errors that are counted by name: what the handlers, s3s and the adapter answer with. Any other is
/// counted as `Other`, so that the label is bounded whatever s3s makes of a request.
const ERROR_CODES: [&str; 82] = [
    "AccessControlListNotSupported",
    "AccessDenied",
    "AccessForbidden",
    "AuthorizationHeaderMalformed",
    "AuthorizationQueryParametersError",
    "BadDigest",
    "BadRequest",
    "BucketAlreadyExists",
    "BucketAlreadyOwnedByYou",
    "BucketNotEmpty",
    "ConditionalRequestConflict",
    "EntityTooLarge",
    "EntityTooSmall",
    "ExpiredToken",
    "IllegalLocationConstraintException",
    "IllegalVersioningConfigurationException",
    "IncompleteBody",
    "IncorrectNumberOfFilesInPostRequest",
    "InternalError",
    "InvalidAccessKeyId",
    "InvalidAction",
    "InvalidArgument",
    "InvalidBucketAclWithObjectOwnership",
    "InvalidBucketName",
    "InvalidBucketState",
    "InvalidClientTokenId",
    "InvalidDigest",
    "InvalidEncryptionAlgorithmError",
    "InvalidLocationConstraint",
    "InvalidObjectState",
    "InvalidPart",
    "InvalidPartNumber",
    "InvalidPartOrder",
    "InvalidPolicyDocument",
    "InvalidRange",
    "InvalidRequest",
    "InvalidRetentionPeriod",
    "InvalidStorageClass",
    "InvalidTag",
    "InvalidToken",
    "InvalidURI",
    "KeyTooLongError",
    "MalformedACLError",
    "MalformedPOSTRequest",
    "MalformedPolicy",
    "MalformedPolicyDocument",
    "MalformedTrailerError",
    "MalformedXML",
    "MaxMessageLengthExceeded",
    "MaxPostPreDataLengthExceededError",
    "MetadataTooLarge",
    "MethodNotAllowed",
    "MissingContentLength",
    "MissingRequestBodyError",
    "MissingSecurityHeader",
    "NoSuchBucket",
    "NoSuchBucketPolicy",
    "NoSuchCORSConfiguration",
    "NoSuchKey",
    "NoSuchLifecycleConfiguration",
    "NoSuchObjectLockConfiguration",
    "NoSuchPublicAccessBlockConfiguration",
    "NoSuchTagSet",
    "NoSuchUpload",
    "NoSuchVersion",
    "NotImplemented",
    "ObjectLockConfigurationNotFoundError",
    "OwnershipControlsNotFoundError",
    "PolicyTooLarge",
    "PreconditionFailed",
    "RequestHeaderSectionTooLarge",
    "RequestTimeTooSkewed",
    "RequestTimeout",
    "RestoreAlreadyInProgress",
    "ServerSideEncryptionConfigurationNotFoundError",
    "ServiceUnavailable",
    "SignatureDoesNotMatch",
    "SlowDown",
    "UnexpectedContent",
    "UnresolvableGrantByEmailAddress",
    "ValidationError",
    "XAmzContentSHA256Mismatch",
];
/// The code under which all others are counted.
const OTHER_CODE: &str = "Other";

/// The status classes of HTTP.
const CLASSES: [&str; 5] = ["1xx", "2xx", "3xx", "4xx", "5xx"];

/// Upper bounds of the latency buckets, in seconds: from a cached HEAD to a large upload.
const BUCKETS: [f64; 16] =
    [0.0001, 0.00025, 0.0005, 0.001, 0.0025, 0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1.0, 5.0, 30.0, 120.0];

struct PerOperation {
    by_class: [IntCounter; 5],
    duration: Histogram,
}

/// Handles of all HTTP metrics.
pub struct HttpMetrics {
    operations: Vec<PerOperation>,
    errors: Vec<(&'static str, IntCounter)>,
    /// Bytes of request bodies received.
    pub request_bytes: IntCounter,
    /// Bytes of response bodies given to the connection.
    pub response_bytes: IntCounter,
    /// Requests in progress, response bodies included.
    pub in_flight: IntGauge,
}

impl HttpMetrics {
    /// Registers the metrics.
    ///
    /// # Errors
    /// When one of the names is registered already.
    pub fn new(registry: &Registry) -> prometheus::Result<Self> {
        let requests = IntCounterVec::new(
            Opts::new("tidegate_http_requests_total", "S3 requests answered, by operation and status class"),
            &["operation", "status_class"],
        )?;
        let duration = HistogramVec::new(
            HistogramOpts::new(
                "tidegate_http_request_duration_seconds",
                "Time from a request's head to its response's last byte",
            )
            .buckets(BUCKETS.to_vec()),
            &["operation"],
        )?;
        let errors = IntCounterVec::new(
            Opts::new("tidegate_http_errors_total", "Errors that S3 requests were answered with, by S3's code"),
            &["code"],
        )?;
        let metrics = Self {
            errors: ERROR_CODES
                .into_iter()
                .chain([OTHER_CODE])
                .map(|code| (code, errors.with_label_values(&[code])))
                .collect(),
            operations: Operation::ALL
                .iter()
                .map(|operation| PerOperation {
                    by_class: CLASSES.map(|class| requests.with_label_values(&[operation.name(), class])),
                    duration: duration.with_label_values(&[operation.name()]),
                })
                .collect(),
            request_bytes: IntCounter::new("tidegate_http_request_bytes_total", "Bytes of S3 request bodies received")?,
            response_bytes: IntCounter::new("tidegate_http_response_bytes_total", "Bytes of S3 response bodies sent")?,
            in_flight: IntGauge::new("tidegate_http_requests_in_flight", "S3 requests in progress")?,
        };
        registry.register(Box::new(requests))?;
        registry.register(Box::new(duration))?;
        registry.register(Box::new(errors))?;
        registry.register(Box::new(metrics.request_bytes.clone()))?;
        registry.register(Box::new(metrics.response_bytes.clone()))?;
        registry.register(Box::new(metrics.in_flight.clone()))?;
        Ok(metrics)
    }

    /// Counts an error by its code; gives the name that it was counted under.
    pub fn failed(&self, code: &str) -> &'static str {
        // The last one stands for all that have no counter of their own.
        let found = self.errors.iter().find(|(known, _)| *known == code).or(self.errors.last());
        let Some((known, counter)) = found else { return OTHER_CODE };
        counter.inc();
        known
    }

    /// Counts an answered request.
    pub fn answered(&self, operation: Operation, status: u16, seconds: f64) {
        let Some(handles) = self.operations.get(operation as usize) else { return };
        handles.duration.observe(seconds);
        let class = usize::from(status / 100).wrapping_sub(1);
        if let Some(counter) = handles.by_class.get(class) {
            counter.inc();
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_operation_is_found_by_its_name_and_by_its_code() {
        for operation in Operation::ALL.iter().skip(2) {
            assert_eq!(Operation::from_name(operation.name()), *operation);
            assert_eq!(Operation::from_code(*operation as u8), *operation);
        }
        assert_eq!(Operation::from_name("PutBucketWebsite"), Operation::Other);
    }

    /// The text of all sources below `folder`.
    fn sources(folder: &std::path::Path, text: &mut String) {
        for entry in std::fs::read_dir(folder).unwrap() {
            let path = entry.unwrap().path();
            if path.is_dir() {
                sources(&path, text);
            } else {
                text.push_str(&std::fs::read_to_string(&path).unwrap());
            }
        }
    }

    /// The words that follow `start` in `text`, with or without a quote and the name of an error's source before them.
    fn words_after(text: &str, start: &str) -> std::collections::BTreeSet<String> {
        let word = |rest: &str| {
            let rest = rest.trim_start();
            let rest = rest.strip_prefix("e,").or(rest.strip_prefix("error,")).unwrap_or(rest).trim_start();
            let rest = rest.strip_prefix('"').unwrap_or(rest);
            rest.chars().take_while(char::is_ascii_alphanumeric).collect::<String>()
        };
        let found = text.split(start).skip(1).map(word);
        found.filter(|word| word.starts_with(|c: char| c.is_ascii_uppercase())).collect()
    }

    #[test]
    fn every_code_is_in_the_inventory() {
        /// What s3s answers with and nobody here, and what STS has in lists of its own.
        const OTHERS: [&str; 7] = [
            "AuthorizationHeaderMalformed",
            "InvalidAction",
            "InvalidClientTokenId",
            "MalformedPolicyDocument",
            "MissingRequestBodyError",
            "RequestTimeTooSkewed",
            "ValidationError",
        ];
        let root = std::path::Path::new(env!("CARGO_MANIFEST_DIR"));
        let mut text = String::new();
        sources(&root.join("src"), &mut text);
        let mut used = std::collections::BTreeSet::new();
        for start in ["s3_error!(", "S3ErrorCode::", " Code::", "custom("] {
            used.extend(words_after(&text, start));
        }
        // A name for codes that have none there, and a status that is no error and has no body.
        for none in ["Custom", "NotModified"] {
            used.remove(none);
        }
        used.extend(OTHERS.map(String::from));
        let page = std::fs::read_to_string(root.join("../docs/s3-errors.md")).unwrap();
        let rows = page.lines().filter_map(|line| line.strip_prefix("| `")?.split_once("` | "));
        let rows: Vec<(&str, &str)> = rows.map(|(code, rest)| (code, rest.get(..3).unwrap())).collect();
        for (code, status) in &rows {
            // s3s gives this one another status than S3, and the handler S3's.
            let named = Some(code).filter(|code| **code != "ServerSideEncryptionConfigurationNotFoundError");
            let known = named.and_then(|code| s3s::S3ErrorCode::from_bytes(code.as_bytes())?.status_code());
            assert!(known.is_none_or(|known| known.as_str() == *status), "{code}: {status}, s3s says {known:?}");
        }
        let told: std::collections::BTreeSet<_> = rows.iter().map(|(code, _)| (*code).to_owned()).collect();
        assert_eq!(told, used, "docs/s3-errors.md and the code");
        assert!(told.iter().map(String::as_str).eq(ERROR_CODES), "docs/s3-errors.md and the metric");
    }

    #[test]
    fn an_error_is_counted_by_its_code_and_an_unknown_one_as_other() {
        let registry = Registry::new();
        let metrics = HttpMetrics::new(&registry).unwrap();
        assert_eq!(metrics.failed("NoSuchKey"), "NoSuchKey");
        assert_eq!(metrics.failed("made up\n"), "Other");
        let text = prometheus::TextEncoder::new().encode_to_string(&registry.gather()).unwrap();
        for line in [r#"errors_total{code="NoSuchKey"} 1"#, r#"{code="Other"} 1"#, r#"{code="SlowDown"} 0"#] {
            assert!(text.contains(line), "{line}: {text}");
        }
    }

    #[test]
    fn an_answer_is_counted_under_its_operation_and_class() {
        let registry = Registry::new();
        let metrics = HttpMetrics::new(&registry).unwrap();
        metrics.answered(Operation::GetObject, 404, 0.001);
        let text = prometheus::TextEncoder::new().encode_to_string(&registry.gather()).unwrap();
        assert!(text.contains(r#"tidegate_http_requests_total{operation="GetObject",status_class="4xx"} 1"#), "{text}");
        assert!(text.contains(r#"tidegate_http_request_duration_seconds_count{operation="GetObject"} 1"#));
    }
}
