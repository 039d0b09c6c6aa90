//! Bucket policies and public access blocks.

use s3s::dto::*;
use s3s::{S3Request, S3Response, S3Result, s3_error};
use std::sync::Arc;

use super::Gateway;
use super::acl_operations::keep;
use super::admit::{Admitted, asking, caller_of};
use super::authority::{Look, POLICY, PUBLIC_ACCESS_BLOCK, Place};
use super::error::{custom, from_engine};
use crate::auth::decide::{BucketFacts, Decision};
use crate::auth::policy::PolicyDocument;
use crate::auth::settings::PublicAccessBlock;

/// S3's limit.
const MAX_POLICY_BYTES: usize = 20 * 1024;

pub(super) async fn put(
    gateway: &Gateway,
    request: S3Request<PutBucketPolicyInput>,
) -> S3Result<S3Response<PutBucketPolicyOutput>> {
    let facts = Admitted::of(&request)?;
    let input = &request.input;
    if input.policy.len() > MAX_POLICY_BYTES {
        return Err(custom(
            "PolicyTooLarge",
            http::StatusCode::BAD_REQUEST,
            "The policy has more than 20480 bytes, which is the limit.",
        ));
    }
    let policy = PolicyDocument::of_bucket(&input.policy, &input.bucket)
        .map_err(|error| s3_error!(MalformedPolicy, "{error}"))?;
    if facts.block.block_public_policy && policy.is_public() {
        return Err(s3_error!(
            AccessDenied,
            "Access Denied: the bucket's public access block refuses public policies."
        ));
    }
    if input.confirm_remove_self_bucket_access != Some(true) {
        keeps_access(gateway, &request, &facts, policy)?;
    }
    keep(gateway, &input.bucket, POLICY, Some(input.policy.clone().into_bytes())).await?;
    Ok(S3Response::new(PutBucketPolicyOutput {}))
}

/// Whoever takes from itself the right to change the policy has to say that it is meant.
fn keeps_access(
    gateway: &Gateway,
    request: &S3Request<PutBucketPolicyInput>,
    facts: &BucketFacts,
    policy: PolicyDocument,
) -> S3Result<()> {
    let caller = caller_of(&request.extensions);
    let context = super::context(request);
    let query = request.uri.query().unwrap_or_default();
    let asking = asking(&gateway.authority, &caller, context.as_deref(), (&request.headers, query));
    let then = BucketFacts { policy: Some(Arc::new(policy)), ..facts.clone() };
    let place = Place { bucket: &request.input.bucket, ..Place::default() };
    match gateway.authority.decide(&asking, "s3:PutBucketPolicy", &then, &Look::new(&gateway.authority, place))? {
        Decision::Denied => Err(s3_error!(
            MalformedPolicy,
            "The new policy denies you to change it again. Send x-amz-confirm-remove-self-bucket-access: true if that is meant."
        )),
        _ => Ok(()),
    }
}

/// The text exactly as it was put.
pub(super) async fn get(
    gateway: &Gateway,
    request: S3Request<GetBucketPolicyInput>,
) -> S3Result<S3Response<GetBucketPolicyOutput>> {
    let bucket = gateway.engine.bucket(&request.input.bucket).map_err(from_engine)?;
    let policy = bucket.settings.config.get(POLICY).and_then(|bytes| String::from_utf8(bytes.clone()).ok());
    let policy = policy.ok_or_else(|| s3_error!(NoSuchBucketPolicy, "The bucket policy does not exist"))?;
    let mut response = S3Response::new(GetBucketPolicyOutput { policy: Some(policy) });
    response.headers.insert(http::header::CONTENT_TYPE, http::HeaderValue::from_static("application/json"));
    Ok(response)
}

pub(super) async fn delete(
    gateway: &Gateway,
    request: S3Request<DeleteBucketPolicyInput>,
) -> S3Result<S3Response<DeleteBucketPolicyOutput>> {
    keep(gateway, &request.input.bucket, POLICY, None).await?;
    Ok(S3Response::new(DeleteBucketPolicyOutput {}))
}

/// Whether the bucket is public, by its policy or by its access control list.
pub(super) async fn status(
    _: &Gateway,
    request: S3Request<GetBucketPolicyStatusInput>,
) -> S3Result<S3Response<GetBucketPolicyStatusOutput>> {
    let facts = Admitted::of(&request)?;
    let by_policy =
        !facts.block.restrict_public_buckets && facts.policy.as_ref().is_some_and(|policy| policy.is_public());
    let counts = facts.controls.ownership.has_acls() && !facts.block.ignore_public_acls;
    let by_acl = counts && facts.acl.as_ref().is_some_and(crate::auth::acl::Acl::is_public);
    let status = PolicyStatus { is_public: Some(by_policy || by_acl) };
    Ok(S3Response::new(GetBucketPolicyStatusOutput { policy_status: Some(status) }))
}

pub(super) async fn put_block(
    gateway: &Gateway,
    request: S3Request<PutPublicAccessBlockInput>,
) -> S3Result<S3Response<PutPublicAccessBlockOutput>> {
    let input = request.input;
    let asked = input.public_access_block_configuration;
    let block = PublicAccessBlock {
        block_public_acls: asked.block_public_acls.unwrap_or(false),
        ignore_public_acls: asked.ignore_public_acls.unwrap_or(false),
        block_public_policy: asked.block_public_policy.unwrap_or(false),
        restrict_public_buckets: asked.restrict_public_buckets.unwrap_or(false),
    };
    keep(gateway, &input.bucket, PUBLIC_ACCESS_BLOCK, Some(block.bytes())).await?;
    Ok(S3Response::new(PutPublicAccessBlockOutput {}))
}

pub(super) async fn get_block(
    gateway: &Gateway,
    request: S3Request<GetPublicAccessBlockInput>,
) -> S3Result<S3Response<GetPublicAccessBlockOutput>> {
    let bucket = gateway.engine.bucket(&request.input.bucket).map_err(from_engine)?;
    if !bucket.settings.config.contains_key(PUBLIC_ACCESS_BLOCK) {
        return Err(custom(
            "NoSuchPublicAccessBlockConfiguration",
            http::StatusCode::NOT_FOUND,
            "The public access block configuration was not found",
        ));
    }
    let block = gateway.authority.facts(&bucket)?.block;
    Ok(S3Response::new(GetPublicAccessBlockOutput {
        public_access_block_configuration: Some(PublicAccessBlockConfiguration {
            block_public_acls: Some(block.block_public_acls),
            ignore_public_acls: Some(block.ignore_public_acls),
            block_public_policy: Some(block.block_public_policy),
            restrict_public_buckets: Some(block.restrict_public_buckets),
        }),
    }))
}

pub(super) async fn delete_block(
    gateway: &Gateway,
    request: S3Request<DeletePublicAccessBlockInput>,
) -> S3Result<S3Response<DeletePublicAccessBlockOutput>> {
    keep(gateway, &request.input.bucket, PUBLIC_ACCESS_BLOCK, None).await?;
    Ok(S3Response::new(DeletePublicAccessBlockOutput {}))
}
