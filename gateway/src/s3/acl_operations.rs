//! Access control lists and ownership controls: PutBucketAcl, PutObjectAcl, PutBucketOwnershipControls and what reads them.

use s3s::dto::*;
use s3s::{S3Request, S3Response, S3Result, s3_error};
use tidegate_tiering::engine::{BucketSettings, EngineError};

use super::admit::Admitted;
use super::authority::{ACL, OWNERSHIP};
use super::error::from_engine;
use super::grants::{admissible, of_put, settable, shown};
use super::{Gateway, versions};
use crate::auth::acl::Acl;
use crate::auth::settings::{Ownership, OwnershipControls as Controls};

/// Sets or takes away one document of a bucket.
pub(super) async fn keep(gateway: &Gateway, bucket: &str, name: &'static str, bytes: Option<Vec<u8>>) -> S3Result<()> {
    let change = |settings: &mut BucketSettings| {
        match &bytes {
            Some(bytes) => settings.config.insert(name.to_owned(), bytes.clone()),
            None => settings.config.remove(name),
        };
        Ok(())
    };
    gateway.engine.configure_bucket(bucket, change).await.map_err(from_engine)
}

pub(super) async fn put_bucket(
    gateway: &Gateway,
    request: S3Request<PutBucketAclInput>,
) -> S3Result<S3Response<PutBucketAclOutput>> {
    let facts = Admitted::of(&request)?;
    settable(&facts, &request.headers)?;
    let input = request.input;
    let owner = facts.owner.as_str();
    let identities = gateway.authority.identities();
    let acl = of_put(&request.headers, input.access_control_policy, identities, (owner, owner))?;
    let kept = admissible(&facts, acl, owner)?.map(String::into_bytes);
    keep(gateway, &input.bucket, ACL, kept).await?;
    Ok(S3Response::new(PutBucketAclOutput {}))
}

pub(super) async fn get_bucket(
    gateway: &Gateway,
    request: S3Request<GetBucketAclInput>,
) -> S3Result<S3Response<GetBucketAclOutput>> {
    let facts = Admitted::of(&request)?;
    let acl = facts.acl.as_ref().filter(|_| facts.controls.ownership.has_acls());
    Ok(S3Response::new(GetBucketAclOutput {
        grants: Some(shown(&gateway.authority, acl, &facts.owner)),
        owner: Some(gateway.authority.shown(&facts.owner)),
    }))
}

pub(super) async fn put_object(
    gateway: &Gateway,
    request: S3Request<PutObjectAclInput>,
) -> S3Result<S3Response<PutObjectAclOutput>> {
    let facts = Admitted::of(&request)?;
    let input = request.input;
    let version = versions::named(input.version_id.as_deref())?;
    let object = gateway.engine.open_version(&input.bucket, &input.key, version).map_err(from_engine)?;
    let owner = gateway.authority.object_facts(&facts, &object.info().attributes)?.owner;
    settable(&facts, &request.headers)?;
    let identities = gateway.authority.identities();
    let acl = of_put(&request.headers, input.access_control_policy, identities, (&owner, &facts.owner))?;
    let kept = admissible(&facts, acl, &owner)?;
    if !facts.controls.ownership.has_acls() {
        return Ok(S3Response::new(PutObjectAclOutput::default()));
    }
    let recorded = object.info().attributes.owner.clone();
    let change = |attributes: &mut tidegate_tiering::engine::ObjectAttributes| {
        if attributes.owner != recorded {
            // Another account has written the key meanwhile.
            return Err(EngineError::Conflict);
        }
        attributes.acl.clone_from(&kept);
        Ok(())
    };
    gateway.engine.update_attributes(&input.bucket, &input.key, version, change).await.map_err(from_engine)?;
    Ok(S3Response::new(PutObjectAclOutput::default()))
}

pub(super) async fn get_object(
    gateway: &Gateway,
    request: S3Request<GetObjectAclInput>,
) -> S3Result<S3Response<GetObjectAclOutput>> {
    let facts = Admitted::of(&request)?;
    let input = request.input;
    let version = versions::named(input.version_id.as_deref())?;
    let object = gateway.engine.open_version(&input.bucket, &input.key, version).map_err(from_engine)?;
    let object = gateway.authority.object_facts(&facts, &object.info().attributes)?;
    Ok(S3Response::new(GetObjectAclOutput {
        grants: Some(shown(&gateway.authority, object.acl.as_ref(), &object.owner)),
        owner: Some(gateway.authority.shown(&object.owner)),
        request_charged: None,
    }))
}

pub(super) async fn put_ownership(
    gateway: &Gateway,
    request: S3Request<PutBucketOwnershipControlsInput>,
) -> S3Result<S3Response<PutBucketOwnershipControlsOutput>> {
    let facts = Admitted::of(&request)?;
    let input = request.input;
    let [rule] = input.ownership_controls.rules.as_slice() else {
        return Err(s3_error!(MalformedXML, "OwnershipControls must have exactly one Rule."));
    };
    let ownership = Ownership::by_name(rule.object_ownership.as_str()).ok_or_else(|| {
        s3_error!(MalformedXML, "ObjectOwnership is {}, which S3 does not know.", rule.object_ownership.as_str())
    })?;
    let grants_others = |acl: &Acl| !acl.is_private(&facts.owner);
    if !ownership.has_acls() && facts.controls.ownership.has_acls() && facts.acl.as_ref().is_some_and(grants_others) {
        return Err(with_acls());
    }
    keep(gateway, &input.bucket, OWNERSHIP, Some(Controls::bytes(Some(ownership)))).await?;
    Ok(S3Response::new(PutBucketOwnershipControlsOutput {}))
}

/// The error of an access control list beside `BucketOwnerEnforced`.
pub(super) fn with_acls() -> s3s::S3Error {
    s3_error!(
        InvalidBucketAclWithObjectOwnership,
        "Bucket cannot have ACLs set with ObjectOwnership's BucketOwnerEnforced setting"
    )
}

pub(super) async fn get_ownership(
    _: &Gateway,
    request: S3Request<GetBucketOwnershipControlsInput>,
) -> S3Result<S3Response<GetBucketOwnershipControlsOutput>> {
    let controls = Admitted::of(&request)?.controls;
    if controls.deleted {
        return Err(s3_error!(OwnershipControlsNotFoundError, "The bucket ownership controls were not found"));
    }
    let rule = OwnershipControlsRule { object_ownership: ObjectOwnership::from_static(controls.ownership.name()) };
    Ok(S3Response::new(GetBucketOwnershipControlsOutput {
        ownership_controls: Some(OwnershipControls { rules: vec![rule] }),
    }))
}

pub(super) async fn delete_ownership(
    gateway: &Gateway,
    request: S3Request<DeleteBucketOwnershipControlsInput>,
) -> S3Result<S3Response<DeleteBucketOwnershipControlsOutput>> {
    keep(gateway, &request.input.bucket, OWNERSHIP, Some(Controls::bytes(None))).await?;
    Ok(S3Response::new(DeleteBucketOwnershipControlsOutput {}))
}
