//! Query parameters that an operation does not have.
//!
//! s3s finds the operation by the subresources that it knows and lets the others pass: a `PUT /b/k?renameObject` would
//! then replace the object by an empty one, and `DELETE /b/k?annotation` delete it. So what changes something takes no
//! parameter that it does not know.

use http::{Method, Uri};
use s3s::{S3Error, S3Result, s3_error};

use crate::server::metrics::Operation;

/// Operations of S3 that s3s has no route for: method, subresource, name.
const UNROUTED: [(&str, &str, &str); 14] = [
    ("GET", "abac", "GetBucketAbac"),
    ("PUT", "abac", "PutBucketAbac"),
    ("GET", "annotationName", "GetObjectAnnotation"),
    ("GET", "annotation", "ListObjectAnnotations"),
    ("PUT", "annotation", "PutObjectAnnotation"),
    ("DELETE", "annotation", "DeleteObjectAnnotation"),
    ("PUT", "encryption", "UpdateObjectEncryption"),
    ("GET", "metadataConfiguration", "GetBucketMetadataConfiguration"),
    ("POST", "metadataConfiguration", "CreateBucketMetadataConfiguration"),
    ("DELETE", "metadataConfiguration", "DeleteBucketMetadataConfiguration"),
    ("PUT", "metadataAnnotationTable", "UpdateBucketMetadataAnnotationTableConfiguration"),
    ("PUT", "metadataInventoryTable", "UpdateBucketMetadataInventoryTableConfiguration"),
    ("PUT", "metadataJournalTable", "UpdateBucketMetadataJournalTableConfiguration"),
    ("PUT", "renameObject", "RenameObject"),
];

/// Parameters of signatures of version 2. Those of version 4, `x-id`, and what clients write into the server's log all
/// begin with `x-`.
const SIGNATURE_V2: [&str; 3] = ["AWSAccessKeyId", "Expires", "Signature"];

/// Headers that the AWS SDK for JavaScript 2 puts into the query of a presigned URL. They say nothing there: the
/// request's own headers count. With signature V2, `Content-MD5` and `Content-Type` do count, and are headers by now (`sig_v2`).
const HEADERS_IN_QUERY: [&str; 8] = [
    "Cache-Control",
    "Content-Disposition",
    "Content-Encoding",
    "Content-Language",
    "Content-Length",
    "Content-MD5",
    "Content-Type",
    "Expires",
];

fn names(uri: &Uri) -> impl Iterator<Item = &str> {
    let pairs = uri.query().unwrap_or_default().split('&').filter(|pair| !pair.is_empty());
    pairs.map(|pair| pair.split_once('=').map_or(pair, |(name, _)| name))
}

/// The parameters of an operation that changes something; `None` for those that only read.
fn of_write(operation: Operation) -> Option<&'static [&'static str]> {
    use Operation as O;
    Some(match operation {
        O::PutObject | O::CopyObject | O::CreateBucket | O::DeleteBucket => &[],
        O::PutBucketEncryption | O::DeleteBucketEncryption => &["encryption"],
        O::DeleteObject => &["versionId"],
        O::DeleteObjects => &["delete"],
        O::CreateMultipartUpload => &["uploads"],
        O::UploadPart | O::UploadPartCopy => &["partNumber", "uploadId"],
        O::CompleteMultipartUpload | O::AbortMultipartUpload => &["uploadId"],
        O::PutBucketLifecycleConfiguration | O::DeleteBucketLifecycle => &["lifecycle"],
        O::RestoreObject => &["restore", "versionId"],
        O::PutBucketVersioning => &["versioning"],
        O::PutBucketTagging | O::DeleteBucketTagging => &["tagging"],
        O::PutObjectTagging | O::DeleteObjectTagging => &["tagging", "versionId"],
        O::PutBucketCors | O::DeleteBucketCors => &["cors"],
        O::PutBucketNotificationConfiguration => &["notification"],
        O::PutBucketPolicy | O::DeleteBucketPolicy => &["policy"],
        O::PutPublicAccessBlock | O::DeletePublicAccessBlock => &["publicAccessBlock"],
        O::PutBucketOwnershipControls | O::DeleteBucketOwnershipControls => &["ownershipControls"],
        O::PutBucketAcl => &["acl"],
        O::PutObjectAcl => &["acl", "versionId"],
        O::PutObjectLockConfiguration => &["object-lock"],
        O::PutObjectRetention => &["retention", "versionId"],
        O::PutObjectLegalHold => &["legal-hold", "versionId"],
        _ => return None,
    })
}

/// Whether a parameter may stand with every operation: of signatures, of presigned headers, or of a client's own log.
fn is_common(name: &str) -> bool {
    SIGNATURE_V2.contains(&name)
        || HEADERS_IN_QUERY.iter().any(|header| header.eq_ignore_ascii_case(name))
        || name.get(..2).is_some_and(|x| x.eq_ignore_ascii_case("x-"))
}

/// Whether a PUT names a subresource. Its body is a document then, not the bytes of an object or a part.
pub(crate) fn name_subresource(uri: &Uri) -> bool {
    names(uri).any(|name| !is_common(name) && !["partNumber", "uploadId"].contains(&name))
}

/// # Errors
/// `NotImplemented`, by the operation's name where it has one.
pub(crate) fn refuse(method: &Method, uri: &Uri, operation: Operation) -> S3Result<()> {
    let known = of_write(operation);
    for name in names(uri) {
        let refused = match known {
            Some(known) => !is_common(name) && !known.contains(&name),
            // As in S3, a read takes no notice of parameters that mean nothing.
            None => unrouted(method, std::iter::once(name)).is_some(),
        };
        if refused {
            return Err(not_implemented(method, uri));
        }
    }
    Ok(())
}

/// The name of the operation that a request with one of these parameters is.
fn unrouted<'n>(method: &Method, names: impl Iterator<Item = &'n str>) -> Option<&'static str> {
    let names: Vec<&str> = names.collect();
    UNROUTED
        .iter()
        .find(|(of, parameter, _)| *method == *of && names.contains(parameter))
        .map(|(.., operation)| *operation)
}

/// The error for a request that is none of S3's operations as far as this server knows.
pub(crate) fn not_implemented(method: &Method, uri: &Uri) -> S3Error {
    if let Some(operation) = unrouted(method, names(uri)) {
        return s3_error!(NotImplemented, "{operation} is not implemented.");
    }
    let parameters: Vec<&str> = names(uri).filter(|name| name.len() < 64).collect();
    let query = if parameters.is_empty() { String::new() } else { format!(" with ?{}", parameters.join("&")) };
    s3_error!(NotImplemented, "{method} {}{query} is not an operation of S3 that this server knows.", uri.path())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_put_of_a_subresource_is_known_by_its_parameter() {
        let cases = [
            ("/b?versioning", true),
            ("/b/k?tagging=&X-Amz-Date=d", true),
            ("/b/k", false),
            ("/b/k?partNumber=1&uploadId=u&x-id=UploadPart", false),
            ("/b/k?AWSAccessKeyId=a&Signature=b&Expires=1", false),
            ("/b/k?Content-Type=text%2Fplain&X-Amz-Signature=a", false),
            ("/b/k?X-Amz-Signature=a&x-amz-meta-a=b", false),
        ];
        for (uri, is_one) in cases {
            assert_eq!(name_subresource(&uri.parse().unwrap()), is_one, "{uri}");
        }
    }

    #[test]
    fn a_write_takes_no_parameter_that_is_not_its_own() {
        use Operation as O;
        let cases = [
            ("PUT", "/b/k?renameObject", O::PutObject, Some("RenameObject")),
            ("DELETE", "/b/k?annotation&annotationName=a", O::DeleteObject, Some("DeleteObjectAnnotation")),
            ("DELETE", "/b?metadataConfiguration=", O::DeleteBucket, Some("DeleteBucketMetadataConfiguration")),
            ("DELETE", "/b/k?acl", O::DeleteObject, Some("?acl")),
            ("PUT", "/b/k?encryption", O::PutObject, Some("UpdateObjectEncryption")),
            ("PUT", "/b/k?uploadId=1", O::PutObject, Some("?uploadId")),
            ("PUT", "/b/k?uploadId=1&partNumber=1&x-id=UploadPart", O::UploadPart, None),
            ("DELETE", "/b/k?versionId=null", O::DeleteObject, None),
            ("PUT", "/b/k?versionId=null", O::PutObject, Some("?versionId")),
            ("PUT", "/b/k?tagging&versionId=null", O::PutObjectTagging, None),
            ("DELETE", "/b?tagging&versionId=null", O::DeleteBucketTagging, Some("versionId")),
            ("PUT", "/b/k?X-Amz-Signature=a&x-amz-meta-a=b&x-my-log=1", O::PutObject, None),
            ("PUT", "/b/k?AWSAccessKeyId=a&Signature=b&Expires=1", O::PutObject, None),
            ("PUT", "/b/k?Content-Type=a%2Fb&Content-MD5=c&cache-control=d&X-Amz-Signature=e", O::PutObject, None),
            ("PUT", "/b/k?Content-Typo=a", O::PutObject, Some("?Content-Typo")),
            ("GET", "/b?abac", O::ListObjects, Some("GetBucketAbac")),
            ("GET", "/b/k?annotation", O::GetObject, Some("ListObjectAnnotations")),
            ("GET", "/b/k?annotation&annotationName=a", O::GetObject, Some("GetObjectAnnotation")),
            ("GET", "/b/k?1234&cache=no", O::GetObject, None),
            ("GET", "/b?list-type=2&&prefix=abac", O::ListObjectsV2, None),
        ];
        for (method, uri, operation, named) in cases {
            let refused = refuse(&method.parse().unwrap(), &uri.parse().unwrap(), operation);
            let message = refused.err().map(|error| error.message().unwrap().to_owned());
            assert_eq!(message.is_some(), named.is_some(), "{method} {uri}: {message:?}");
            assert!(message.unwrap_or_default().contains(named.unwrap_or_default()), "{method} {uri}");
        }
    }
}
