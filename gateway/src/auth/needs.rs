//! Which actions an operation needs: the one table of it.

use super::acl::Permission;

/// What an action is asked for on.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum On {
    /// Everything: the service.
    Service,
    /// The bucket of the request.
    Bucket,
    /// The object of the request.
    Object,
    /// The object that is copied from.
    Source,
}

/// An action that must be allowed.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Need {
    /// Such as `s3:GetObject`.
    pub action: &'static str,
    /// On what.
    pub on: On,
}

/// What of a request decides about its needs.
#[derive(Debug, Clone, Copy, Default)]
pub struct Shape {
    /// It names a version of the object.
    pub version: bool,
    /// It names a version of the source.
    pub source_version: bool,
    /// It brings tags.
    pub tags: bool,
    /// It brings an access control list other than the private one.
    pub acl: bool,
    /// It chooses the ownership of the objects.
    pub ownership: bool,
    /// It brings a retention.
    pub retention: bool,
    /// It brings a legal hold.
    pub legal_hold: bool,
    /// It wants to bypass a retention.
    pub bypass: bool,
    /// It wants a bucket with object lock.
    pub lock: bool,
}

/// What the operation that S3 calls `name` needs; `None` when it is not in the table, and nobody may do it. DeleteObjects needs
/// nothing here: each key is asked for by itself.
pub fn needs(name: &str, shape: Shape) -> Option<Vec<Need>> {
    let Shape { version, .. } = shape;
    let bucket = |action| vec![Need { action, on: On::Bucket }];
    let object = |plain, versioned| vec![Need { action: if version { versioned } else { plain }, on: On::Object }];
    let needs = match name {
        "ListBuckets" => vec![Need { action: "s3:ListAllMyBuckets", on: On::Service }],
        "CreateBucket" => of_create(shape),
        "GetObject" | "HeadObject" | "SelectObjectContent" => object("s3:GetObject", "s3:GetObjectVersion"),
        "GetObjectAttributes" => {
            let mut needs = object("s3:GetObject", "s3:GetObjectVersion");
            needs.extend(object("s3:GetObjectAttributes", "s3:GetObjectVersionAttributes"));
            needs
        }
        "GetObjectAcl" => object("s3:GetObjectAcl", "s3:GetObjectVersionAcl"),
        "PutObjectAcl" => object("s3:PutObjectAcl", "s3:PutObjectVersionAcl"),
        "GetObjectTagging" => object("s3:GetObjectTagging", "s3:GetObjectVersionTagging"),
        "PutObjectTagging" => object("s3:PutObjectTagging", "s3:PutObjectVersionTagging"),
        "DeleteObjectTagging" => object("s3:DeleteObjectTagging", "s3:DeleteObjectVersionTagging"),
        "GetObjectTorrent" => object("s3:GetObjectTorrent", "s3:GetObjectVersionTorrent"),
        "DeleteObject" => {
            let mut needs = object("s3:DeleteObject", "s3:DeleteObjectVersion");
            needs.extend(bypass(shape));
            needs
        }
        "DeleteObjects" => Vec::new(),
        "PutObject" | "PostObject" | "CreateMultipartUpload" => of_write(shape),
        "UploadPart" | "CompleteMultipartUpload" => object("s3:PutObject", "s3:PutObject"),
        "CopyObject" | "UploadPartCopy" => {
            let action = if shape.source_version { "s3:GetObjectVersion" } else { "s3:GetObject" };
            let mut needs = vec![Need { action, on: On::Source }];
            needs.extend(if name == "CopyObject" { of_write(shape) } else { object("s3:PutObject", "s3:PutObject") });
            needs
        }
        "AbortMultipartUpload" => object("s3:AbortMultipartUpload", "s3:AbortMultipartUpload"),
        "ListParts" => object("s3:ListMultipartUploadParts", "s3:ListMultipartUploadParts"),
        "RestoreObject" => object("s3:RestoreObject", "s3:RestoreObject"),
        "GetObjectRetention" => object("s3:GetObjectRetention", "s3:GetObjectRetention"),
        "GetObjectLegalHold" => object("s3:GetObjectLegalHold", "s3:GetObjectLegalHold"),
        "PutObjectLegalHold" => object("s3:PutObjectLegalHold", "s3:PutObjectLegalHold"),
        "PutObjectRetention" => {
            let mut needs = object("s3:PutObjectRetention", "s3:PutObjectRetention");
            needs.extend(bypass(shape));
            needs
        }
        other => return of_bucket(other).map(bucket),
    };
    Some(needs)
}

/// The one action that an operation on a bucket needs.
fn of_bucket(name: &str) -> Option<&'static str> {
    Some(match name {
        "HeadBucket" | "ListObjects" | "ListObjectsV2" => "s3:ListBucket",
        "ListObjectVersions" => "s3:ListBucketVersions",
        "ListMultipartUploads" => "s3:ListBucketMultipartUploads",
        "DeleteBucket" => "s3:DeleteBucket",
        "GetBucketLocation" => "s3:GetBucketLocation",
        "GetBucketVersioning" => "s3:GetBucketVersioning",
        "PutBucketVersioning" => "s3:PutBucketVersioning",
        "GetBucketAcl" => "s3:GetBucketAcl",
        "PutBucketAcl" => "s3:PutBucketAcl",
        "GetBucketPolicy" => "s3:GetBucketPolicy",
        "PutBucketPolicy" => "s3:PutBucketPolicy",
        "DeleteBucketPolicy" => "s3:DeleteBucketPolicy",
        "GetBucketPolicyStatus" => "s3:GetBucketPolicyStatus",
        "GetPublicAccessBlock" => "s3:GetBucketPublicAccessBlock",
        "PutPublicAccessBlock" | "DeletePublicAccessBlock" => "s3:PutBucketPublicAccessBlock",
        "GetBucketOwnershipControls" => "s3:GetBucketOwnershipControls",
        "PutBucketOwnershipControls" | "DeleteBucketOwnershipControls" => "s3:PutBucketOwnershipControls",
        "GetBucketCors" => "s3:GetBucketCORS",
        "PutBucketCors" | "DeleteBucketCors" => "s3:PutBucketCORS",
        "GetBucketTagging" => "s3:GetBucketTagging",
        "PutBucketTagging" | "DeleteBucketTagging" => "s3:PutBucketTagging",
        "GetBucketLifecycleConfiguration" => "s3:GetLifecycleConfiguration",
        "PutBucketLifecycleConfiguration" | "DeleteBucketLifecycle" => "s3:PutLifecycleConfiguration",
        "GetBucketEncryption" => "s3:GetEncryptionConfiguration",
        "PutBucketEncryption" | "DeleteBucketEncryption" => "s3:PutEncryptionConfiguration",
        "GetBucketNotificationConfiguration" => "s3:GetBucketNotification",
        "PutBucketNotificationConfiguration" => "s3:PutBucketNotification",
        "GetObjectLockConfiguration" => "s3:GetBucketObjectLockConfiguration",
        "PutObjectLockConfiguration" => "s3:PutBucketObjectLockConfiguration",
        "GetBucketAccelerateConfiguration" => "s3:GetAccelerateConfiguration",
        "PutBucketAccelerateConfiguration" => "s3:PutAccelerateConfiguration",
        "GetBucketLogging" => "s3:GetBucketLogging",
        "PutBucketLogging" => "s3:PutBucketLogging",
        "GetBucketReplication" => "s3:GetReplicationConfiguration",
        "PutBucketReplication" | "DeleteBucketReplication" => "s3:PutReplicationConfiguration",
        "GetBucketRequestPayment" => "s3:GetBucketRequestPayment",
        "PutBucketRequestPayment" => "s3:PutBucketRequestPayment",
        "GetBucketWebsite" => "s3:GetBucketWebsite",
        "PutBucketWebsite" => "s3:PutBucketWebsite",
        "DeleteBucketWebsite" => "s3:DeleteBucketWebsite",
        _ => return None,
    })
}

fn of_create(shape: Shape) -> Vec<Need> {
    let also = [
        (true, "s3:CreateBucket"),
        (shape.acl, "s3:PutBucketAcl"),
        (shape.ownership, "s3:PutBucketOwnershipControls"),
        (shape.lock, "s3:PutBucketObjectLockConfiguration"),
        (shape.lock, "s3:PutBucketVersioning"),
    ];
    also.into_iter().filter(|(needed, _)| *needed).map(|(_, action)| Need { action, on: On::Bucket }).collect()
}

fn of_write(shape: Shape) -> Vec<Need> {
    let also = [
        (true, "s3:PutObject"),
        (shape.tags, "s3:PutObjectTagging"),
        (shape.acl, "s3:PutObjectAcl"),
        (shape.retention, "s3:PutObjectRetention"),
        (shape.legal_hold, "s3:PutObjectLegalHold"),
    ];
    also.into_iter().filter(|(needed, _)| *needed).map(|(_, action)| Need { action, on: On::Object }).collect()
}

fn bypass(shape: Shape) -> Option<Need> {
    shape.bypass.then_some(Need { action: "s3:BypassGovernanceRetention", on: On::Object })
}

/// The permission of access control lists that an action falls under.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Governed {
    /// By the bucket's list.
    Bucket(Permission),
    /// By the object's list.
    Object(Permission),
    /// By none.
    No,
}

/// What access control lists say an action is.
pub fn governed(action: &str) -> Governed {
    use Permission as P;
    match action {
        "s3:ListBucket" | "s3:ListBucketVersions" | "s3:ListBucketMultipartUploads" => Governed::Bucket(P::Read),
        "s3:PutObject" | "s3:DeleteObject" | "s3:AbortMultipartUpload" | "s3:ListMultipartUploadParts" => {
            Governed::Bucket(P::Write)
        }
        "s3:GetBucketAcl" => Governed::Bucket(P::ReadAcp),
        "s3:PutBucketAcl" => Governed::Bucket(P::WriteAcp),
        "s3:GetObject"
        | "s3:GetObjectVersion"
        | "s3:GetObjectTorrent"
        | "s3:GetObjectAttributes"
        | "s3:GetObjectVersionAttributes" => Governed::Object(P::Read),
        "s3:GetObjectAcl" | "s3:GetObjectVersionAcl" => Governed::Object(P::ReadAcp),
        "s3:PutObjectAcl" | "s3:PutObjectVersionAcl" => Governed::Object(P::WriteAcp),
        _ => Governed::No,
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::server::metrics::Operation;

    #[test]
    fn every_operation_that_is_served_is_in_the_table() {
        // Those of STS do not come to the gate, as who signed is all that they are about; a preflight needs no right.
        let without = ["AssumeRole", "GetCallerIdentity", "GetSessionToken", "Preflight"];
        for name in Operation::ALL.iter().skip(2).map(|operation| operation.name()) {
            assert!(needs(name, Shape::default()).is_some() != without.contains(&name), "{name}");
        }
        assert_eq!(needs("MakeTea", Shape::default()), None);
    }

    #[test]
    fn what_a_request_brings_needs_actions_of_its_own() {
        let actions = |name, shape| -> Vec<_> {
            needs(name, shape).unwrap().into_iter().map(|need: Need| (need.action, need.on)).collect()
        };
        let versioned = Shape { version: true, ..Shape::default() };
        assert_eq!(actions("GetObject", versioned), [("s3:GetObjectVersion", On::Object)]);
        assert_eq!(actions("DeleteObject", versioned), [("s3:DeleteObjectVersion", On::Object)]);
        let copy = Shape { source_version: true, tags: true, acl: true, ..Shape::default() };
        assert_eq!(
            actions("CopyObject", copy),
            [
                ("s3:GetObjectVersion", On::Source),
                ("s3:PutObject", On::Object),
                ("s3:PutObjectTagging", On::Object),
                ("s3:PutObjectAcl", On::Object)
            ]
        );
        let locked = Shape { lock: true, ..Shape::default() };
        assert_eq!(actions("CreateBucket", locked).len(), 3);
        assert_eq!(actions("ListObjectVersions", Shape::default()), [("s3:ListBucketVersions", On::Bucket)]);
    }
}
