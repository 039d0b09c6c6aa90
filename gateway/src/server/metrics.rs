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
    GetBucketEncryption, PutBucketEncryption, DeleteBucketEncryption,
    AbortMultipartUpload, RestoreObject, GetObjectAttributes, GetSessionToken, AssumeRole, GetCallerIdentity,
    GetBucketPolicy, PutBucketPolicy, DeleteBucketPolicy, GetBucketPolicyStatus,
    GetPublicAccessBlock, PutPublicAccessBlock, DeletePublicAccessBlock,
    GetBucketOwnershipControls, PutBucketOwnershipControls, DeleteBucketOwnershipControls,
    GetBucketAcl, PutBucketAcl, GetObjectAcl, PutObjectAcl,
}

impl Operation {
    pub(crate) fn from_code(code: u8) -> Self {
        Self::ALL.get(usize::from(code)).copied().unwrap_or(Self::Unknown)
    }
}

/// The codes of errors that are counted by name: what the handlers, s3s and the adapter answer with. Any other is
/// counted as `Other`, so that the label is bounded whatever s3s makes of a request.
const ERROR_CODES: [&str; 68] = [
    "AccessControlListNotSupported",
    "AccessDenied",
    "AuthorizationHeaderMalformed",
    "AuthorizationQueryParametersError",
    "BadDigest",
    "BucketAlreadyExists",
    "BucketAlreadyOwnedByYou",
    "BucketNotEmpty",
    "ConditionalRequestConflict",
    "EntityTooLarge",
    "EntityTooSmall",
    "ExpiredToken",
    "IllegalLocationConstraintException",
    "IncompleteBody",
    "InternalError",
    "InvalidAccessKeyId",
    "InvalidAction",
    "InvalidArgument",
    "InvalidBucketAclWithObjectOwnership",
    "InvalidBucketName",
    "InvalidClientTokenId",
    "InvalidDigest",
    "InvalidEncryptionAlgorithmError",
    "InvalidObjectState",
    "InvalidPart",
    "InvalidPartNumber",
    "InvalidPartOrder",
    "InvalidRange",
    "InvalidRequest",
    "InvalidStorageClass",
    "InvalidTag",
    "InvalidToken",
    "InvalidURI",
    "KeyTooLongError",
    "MalformedACLError",
    "MalformedPolicy",
    "MalformedPolicyDocument",
    "MalformedTrailerError",
    "MalformedXML",
    "MaxMessageLengthExceeded",
    "MetadataTooLarge",
    "MethodNotAllowed",
    "MissingContentLength",
    "MissingRequestBodyError",
    "MissingSecurityHeader",
    "NoSuchBucket",
    "NoSuchBucketPolicy",
    "NoSuchKey",
    "NoSuchLifecycleConfiguration",
    "NoSuchPublicAccessBlockConfiguration",
    "NoSuchUpload",
    "NoSuchVersion",
    "NotImplemented",
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
