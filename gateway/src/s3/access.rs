//! Who may do what, which operations are counted, and which headers are refused rather than ignored.

use http::HeaderMap;
use s3s::access::{S3Access, S3AccessContext};
use s3s::dto::{CreateBucketInput, PutObjectTaggingInput};
use s3s::host::{S3Host, VirtualHost};
use s3s::{S3Request, S3Result, s3_error};
use std::sync::Arc;

use super::admit::{admit, admit_bucket, admit_tags, caller_of};
use super::authority::Authority;
use super::checksums::{ChecksumsOf, of_xml};
use crate::server::metrics::Operation;
use crate::server::request::RequestContext;
use crate::server::{ReadOnly, Verified};
use crate::users::{Users, token_of};

/// Finds the bucket in the host name for virtual-hosted style. A host outside the configured domains is path style:
/// s3s's own parser takes it for a bucket, which breaks every client that uses another name of the machine.
pub(crate) struct Domains(Vec<String>);

impl Domains {
    pub(crate) fn new(domains: &[String]) -> Self {
        let mut domains: Vec<_> = domains.iter().map(|domain| domain.trim_matches('.').to_ascii_lowercase()).collect();
        // The longest first: of `s3.lan` and `lan`, `b.s3.lan` belongs to the former.
        domains.sort_by_key(|domain| std::cmp::Reverse(domain.len()));
        Self(domains)
    }
}

impl S3Host for Domains {
    fn parse_host_header<'a>(&'a self, host: &'a str) -> S3Result<VirtualHost<'a>> {
        let name = match host.rsplit_once(':') {
            Some((name, port)) if port.bytes().all(|b| b.is_ascii_digit()) => name,
            _ => host,
        };
        let name = name.trim_end_matches('.').to_ascii_lowercase();
        for domain in &self.0 {
            if name == *domain {
                break;
            }
            if let Some(bucket) = name.strip_suffix(domain.as_str()).and_then(|rest| rest.strip_suffix('.')) {
                return Ok(VirtualHost::new(domain).with_bucket(bucket.to_owned()));
            }
        }
        Ok(VirtualHost::new(host))
    }
}

/// Checks every understood request before its operation runs.
pub(crate) struct Gate {
    users: Arc<Users>,
    /// Who decides. Without it, as in tests of the HTTP side, whoever signs may do everything.
    authority: Option<Arc<Authority>>,
}

impl Gate {
    pub(crate) fn new(users: Arc<Users>, authority: Option<Arc<Authority>>) -> Self {
        Self { users, authority }
    }

    /// Notes who signed the request. One that was asked again without its signature has been looked at before.
    fn identify(&self, cx: &mut S3AccessContext<'_>) -> S3Result<()> {
        let Some(credentials) = cx.credentials() else { return Ok(()) };
        let token = token_of(cx.headers(), cx.uri().query());
        let signer = self.users.signer(&credentials.access_key, token.as_deref())?;
        if let Some(context) = cx.extensions_mut().get::<Arc<RequestContext>>() {
            context.set_identity(signer.identity);
        }
        Ok(())
    }

    fn decide(&self, cx: &mut S3AccessContext<'_>) -> S3Result<()> {
        match &self.authority {
            Some(authority) => {
                let caller = caller_of(cx.extensions_mut());
                admit(authority, cx, &caller)
            }
            None => Ok(()),
        }
    }
}

#[async_trait::async_trait]
impl S3Access for Gate {
    async fn check(&self, cx: &mut S3AccessContext<'_>) -> S3Result<()> {
        let operation = Operation::from_name(cx.s3_op().name());
        if let Some(context) = cx.extensions_mut().get::<Arc<RequestContext>>() {
            context.set_operation(operation);
        }
        self.identify(cx)?;
        let is_anonymous = cx.credentials().is_none() && cx.extensions_mut().get::<Verified>().is_none();
        if is_anonymous && (operation == Operation::Other || self.authority.is_none()) {
            return Err(s3_error!(AccessDenied, "Access Denied: this request must be signed."));
        }
        if operation == Operation::Other {
            // s3s would say so too, but only after it has read the body and found no fault with it.
            return Err(s3_error!(NotImplemented, "{} is not implemented.", cx.s3_op().name()));
        }
        if cx.extensions_mut().get::<ReadOnly>().is_some() && !reads(operation) {
            // Not 503: clients would try again and again, and no wait makes a standby the primary.
            return Err(s3_error!(
                MethodNotAllowed,
                "This is a standby, which is read-only: send writes to the primary."
            ));
        }
        self.decide(cx)?;
        super::parameters::refuse(cx.method(), cx.uri(), operation)?;
        match operation {
            // Compared with the XML as it is read.
            Operation::DeleteObjects
            | Operation::RestoreObject
            | Operation::PutBucketLifecycleConfiguration
            | Operation::PutBucketVersioning
            | Operation::PutBucketTagging
            | Operation::PutObjectTagging
            | Operation::PutBucketCors
            | Operation::PutBucketNotificationConfiguration
            | Operation::PutBucketAcl
            | Operation::PutObjectAcl
            | Operation::PutBucketPolicy
            | Operation::PutPublicAccessBlock
            | Operation::PutObjectLockConfiguration
            | Operation::PutObjectRetention
            | Operation::PutObjectLegalHold
            | Operation::PutBucketOwnershipControls => of_xml(cx.headers(), ChecksumsOf::Body).map(drop)?,
            Operation::CompleteMultipartUpload => of_xml(cx.headers(), ChecksumsOf::Object).map(drop)?,
            _ => {}
        }
        super::encryption::refuse(cx.headers(), operation)?;
        super::lock::refuse(cx.headers(), operation)?;
        refuse_headers(cx.headers())
    }

    async fn put_object_tagging(&self, request: &mut S3Request<PutObjectTaggingInput>) -> S3Result<()> {
        self.authority.as_ref().map_or(Ok(()), |authority| admit_tags(authority, request))
    }

    async fn create_bucket(&self, request: &mut S3Request<CreateBucketInput>) -> S3Result<()> {
        self.authority.as_ref().map_or(Ok(()), |authority| admit_bucket(authority, request))
    }
}

/// Whether an operation changes nothing.
fn reads(operation: Operation) -> bool {
    use Operation as O;
    matches!(
        operation,
        O::GetObject
            | O::HeadObject
            | O::GetObjectAttributes
            | O::ListObjects
            | O::ListObjectsV2
            | O::HeadBucket
            | O::ListBuckets
            | O::GetBucketLocation
            | O::GetBucketVersioning
            | O::GetBucketLifecycleConfiguration
            | O::GetBucketTagging
            | O::GetObjectTagging
            | O::ListObjectVersions
            | O::GetBucketCors
            | O::GetBucketNotificationConfiguration
            | O::GetBucketEncryption
            | O::ListParts
            | O::ListMultipartUploads
            | O::GetBucketPolicy
            | O::GetBucketPolicyStatus
            | O::GetPublicAccessBlock
            | O::GetBucketOwnershipControls
            | O::GetBucketAcl
            | O::GetObjectAcl
            | O::GetObjectTorrent
            | O::GetObjectLockConfiguration
            | O::GetObjectRetention
            | O::GetObjectLegalHold
    )
}

/// Refuses what would be dangerous to ignore.
fn refuse_headers(headers: &HeaderMap) -> S3Result<()> {
    for (name, value) in headers {
        let Some(rest) = name.as_str().strip_prefix("x-amz-") else { continue };
        if rest.starts_with("meta-") && is_broken_word(value) {
            return Err(s3_error!(InvalidArgument, "{name} is no encoded word of RFC 2047."));
        }
        if rest == "website-redirect-location" || rest == "write-offset-bytes" {
            return Err(s3_error!(NotImplemented, "{name} is not implemented; leave the header out."));
        }
    }
    Ok(())
}

/// `=?=` begins and ends like an encoded word of RFC 2047 and is too short to be one: s3s, which decodes metadata, panics on it.
fn is_broken_word(value: &http::HeaderValue) -> bool {
    value.as_bytes().split(u8::is_ascii_whitespace).any(|word| word == b"=?=")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn headers_that_must_not_be_ignored_are_refused_by_name() {
        let cases = [
            ("x-amz-website-redirect-location", "/", Some("NotImplemented")),
            ("x-amz-acl", "public-read", None),
            ("x-amz-meta-acl", "public", None),
            ("x-amz-meta-a", "=?=", Some("InvalidArgument")),
            ("x-amz-meta-a", "=?UTF-8?Q?a?= =?=", Some("InvalidArgument")),
            ("x-amz-meta-a", "a=?=b", None),
            ("x-amz-date", "20260101T000000Z", None),
        ];
        for (name, value, expected) in cases {
            let mut headers = HeaderMap::new();
            headers.insert(name, value.parse().unwrap());
            let refused = refuse_headers(&headers).err();
            assert_eq!(refused.as_ref().map(|error| error.code().as_str()), expected, "{name}: {value}");
            if let Some(error) = refused {
                assert!(error.message().unwrap().contains(name));
            }
        }
    }

    #[test]
    fn the_bucket_is_found_below_the_longest_domain_and_other_hosts_are_path_style() {
        let domains = Domains::new(&["s3.lan".into(), "lan".into()]);
        let cases = [
            ("b.s3.lan", Some("b")),
            ("B.S3.lan:9000", Some("b")),
            ("a.b.s3.lan", Some("a.b")),
            ("s3.lan:9000", None),
            ("c.lan", Some("c")),
            ("localhost:9000", None),
            ("notlan", None),
        ];
        for (host, bucket) in cases {
            assert_eq!(domains.parse_host_header(host).unwrap().bucket(), bucket, "{host}");
        }
    }
}
