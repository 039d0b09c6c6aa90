//! Operations on buckets.

use s3s::dto::*;
use s3s::{S3Request, S3Response, S3Result, s3_error};
use tidegate_tiering::engine::{BucketLock, BucketSettings, EngineError, Versioning};

use super::acl_operations::with_acls;
use super::admit::caller_of;
use super::authority::{ACL, OWNERSHIP};
use super::error::from_engine;
use super::grants::of_headers;
use super::{Gateway, time};
use crate::auth::settings::{Ownership, OwnershipControls};

/// S3's name for the absence of a location constraint.
const DEFAULT_REGION: &str = "us-east-1";

pub(super) async fn create(
    gateway: &Gateway,
    request: S3Request<CreateBucketInput>,
) -> S3Result<S3Response<CreateBucketOutput>> {
    let caller = caller_of(&request.extensions);
    let headers = request.headers;
    let input = request.input;
    if !s3s::path::check_bucket_name(&input.bucket) {
        return Err(s3_error!(InvalidBucketName, "The bucket name {} breaks S3's naming rules.", input.bucket));
    }
    let constraint = input.create_bucket_configuration.and_then(|configuration| configuration.location_constraint);
    if let Some(constraint) = constraint.as_ref().map(BucketLocationConstraint::as_str)
        && !constraint.is_empty()
        && constraint != gateway.region
    {
        if !is_region(constraint) {
            return Err(s3_error!(InvalidLocationConstraint, "The location constraint {constraint} is not valid."));
        }
        return Err(s3_error!(
            IllegalLocationConstraintException,
            "The location constraint is {constraint}; this server's region is {}.",
            gateway.region
        ));
    }
    let Some(identity) = caller.identity() else {
        return Err(s3_error!(
            AccessDenied,
            "Access Denied: a bucket needs an owner, so that this request must be signed."
        ));
    };
    let mut settings = settings(gateway, &identity.account.id, &headers)?;
    if input.object_lock_enabled_for_bucket == Some(true) {
        settings.versioning = Versioning::Enabled;
        settings.set_object_lock(BucketLock::default()).map_err(from_engine)?;
    }
    match gateway.engine.create_bucket_with(&input.bucket, settings).await {
        Err(EngineError::BucketExists(name)) => return Err(exists(gateway, &name, &identity.account.id)),
        other => other.map_err(from_engine)?,
    }
    Ok(S3Response::new(CreateBucketOutput { location: Some(format!("/{}", input.bucket)) }))
}

/// Whether a constraint has the form of a region's name, such as `eu-west-1`; `EU` is the old name of one.
fn is_region(constraint: &str) -> bool {
    let mut parts = constraint.split('-');
    let is_word = |part: &str| !part.is_empty() && part.bytes().all(|b| b.is_ascii_lowercase());
    let area = parts.next().is_some_and(|part| part.len() == 2 && is_word(part));
    let number = parts.next_back().is_some_and(|part| !part.is_empty() && part.bytes().all(|b| b.is_ascii_digit()));
    constraint == "EU" || area && number && parts.clone().next().is_some() && parts.all(is_word)
}

/// What is set for a new bucket: its owner, who owns the objects in it, and its access control list.
fn settings(gateway: &Gateway, owner: &str, headers: &http::HeaderMap) -> S3Result<BucketSettings> {
    let authority = &gateway.authority;
    let ownership = match headers.get("x-amz-object-ownership").map(|value| String::from_utf8_lossy(value.as_bytes())) {
        None => authority.default_ownership,
        Some(name) => Ownership::by_name(&name)
            .ok_or_else(|| s3_error!(InvalidArgument, "x-amz-object-ownership is {name}, which S3 does not know."))?,
    };
    let acl = of_headers(headers, authority.identities(), owner, owner)?.filter(|acl| !acl.is_private(owner));
    if acl.is_some() && !ownership.has_acls() {
        return Err(with_acls());
    }
    let acl = acl.map(|acl| (ACL.to_owned(), acl.to_text().into_bytes()));
    // Buckets whose writers own what they write had no controls before there were others.
    let is_old = !headers.contains_key("x-amz-object-ownership") && ownership == Ownership::ObjectWriter;
    let ownership = (OWNERSHIP.to_owned(), OwnershipControls::bytes((!is_old).then_some(ownership)));
    let config = acl.into_iter().chain([ownership]).collect();
    Ok(BucketSettings { owner: authority.recorded(owner), config, ..BucketSettings::default() })
}

/// The error for a name that is taken, by the caller's account or by another.
fn exists(gateway: &Gateway, name: &str, account: &str) -> s3s::S3Error {
    match gateway.authority.bucket(name) {
        Ok(bucket) if bucket.owner != account => s3_error!(
            BucketAlreadyExists,
            "The requested bucket name is not available: another account owns the bucket {name}."
        ),
        // Also when it was deleted a moment ago.
        _ => from_engine(EngineError::BucketExists(name.to_owned())),
    }
}

pub(super) async fn head(
    gateway: &Gateway,
    request: S3Request<HeadBucketInput>,
) -> S3Result<S3Response<HeadBucketOutput>> {
    gateway.engine.bucket(&request.input.bucket).map_err(from_engine)?;
    Ok(S3Response::new(HeadBucketOutput { bucket_region: Some(gateway.region.clone()), ..Default::default() }))
}

pub(super) async fn delete(
    gateway: &Gateway,
    request: S3Request<DeleteBucketInput>,
) -> S3Result<S3Response<DeleteBucketOutput>> {
    gateway.engine.delete_bucket(&request.input.bucket).await.map_err(from_engine)?;
    Ok(S3Response::new(DeleteBucketOutput {}))
}

pub(super) async fn list(
    gateway: &Gateway,
    request: S3Request<ListBucketsInput>,
) -> S3Result<S3Response<ListBucketsOutput>> {
    /// S3's largest page of buckets.
    const MAX_BUCKETS: i32 = 10_000;
    let Some(account) = caller_of(&request.extensions).identity().map(|identity| identity.account.id.clone()) else {
        return Err(s3_error!(AccessDenied, "Access Denied: this request must be signed."));
    };
    let input = request.input;
    let max = match input.max_buckets {
        Some(asked) if !(1..=MAX_BUCKETS).contains(&asked) => {
            return Err(s3_error!(InvalidArgument, "max-buckets is {asked}; it must be from 1 to {MAX_BUCKETS}."));
        }
        asked => usize::try_from(asked.unwrap_or(MAX_BUCKETS)).unwrap_or(usize::MAX),
    };
    let after = input.continuation_token.as_deref().map(super::listing::key_of_token).transpose()?;
    let mut all = gateway.engine.buckets().map_err(from_engine)?;
    all.sort_by(|a, b| a.name.cmp(&b.name));
    all.retain(|bucket| {
        gateway.authority.owner_id(bucket.settings.owner.as_ref()) == account
            && input.prefix.as_ref().is_none_or(|prefix| bucket.name.starts_with(prefix))
            && after.as_ref().is_none_or(|after| bucket.name > *after)
    });
    let more = all.len() > max;
    all.truncate(max);
    let token = all.last().filter(|_| more).map(|bucket| super::listing::token(&bucket.name));
    let buckets = all
        .into_iter()
        .map(|bucket| Bucket {
            name: Some(bucket.name),
            creation_date: Some(time(bucket.created)),
            bucket_region: Some(gateway.region.clone()),
        })
        .collect();
    Ok(S3Response::new(ListBucketsOutput {
        buckets: Some(buckets),
        owner: Some(gateway.authority.shown(&account)),
        continuation_token: token,
        prefix: input.prefix,
    }))
}

pub(super) async fn location(
    gateway: &Gateway,
    request: S3Request<GetBucketLocationInput>,
) -> S3Result<S3Response<GetBucketLocationOutput>> {
    gateway.engine.bucket(&request.input.bucket).map_err(from_engine)?;
    let region = (gateway.region != DEFAULT_REGION).then(|| BucketLocationConstraint::from(gateway.region.clone()));
    Ok(S3Response::new(GetBucketLocationOutput { location_constraint: region }))
}

#[cfg(test)]
mod tests {
    use super::is_region;

    #[test]
    fn regions_have_a_form() {
        for name in ["us-east-1", "eu-west-2", "us-gov-west-1", "ap-southeast-10", "EU"] {
            assert!(is_region(name), "{name}");
        }
        for name in ["", "here", "us-east", "us-1", "US-EAST-1", "us--1", "eu-west-1a", "-"] {
            assert!(!is_region(name), "{name}");
        }
    }
}
