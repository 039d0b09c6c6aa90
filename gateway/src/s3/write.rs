//! PutObject, DeleteObject, DeleteObjects, RestoreObject.

use s3s::dto::*;
use s3s::{S3Request, S3Response, S3Result, s3_error};
use tidegate_tiering::engine::{DeleteRequest, PutObject, RestoreOutcome, RestoreRequest as Restore, VersionRef};
use tidegate_tiering::tier::RestorePriority;

use super::admit::{Admitted, asking, caller_of};
use super::attributes::describe;
use super::authority::Place;
use super::body::body_in;
use super::checksums::{announced, show};
use super::condition_keys::Asking;
use super::conditions::of_write;
use super::encryption::{KeyFor, echo_key, key_headers};
use super::error::{from_engine, from_engine_with_body};
use super::grants::OfNew;
use super::lifecycle::expiration;
use super::{Gateway, context, etag, only_null_version};
use crate::auth::decide::BucketFacts;
use crate::auth::needs::{Shape, needs};
use crate::server::ResponseStatus;

pub(super) async fn put(
    gateway: &Gateway,
    request: S3Request<PutObjectInput>,
) -> S3Result<S3Response<PutObjectOutput>> {
    let context = context(&request);
    let of_new = OfNew::of_request(gateway, &request)?;
    let trailing = request.trailing_headers;
    let headers = request.headers;
    let input = request.input;
    let key = key_headers!(input).key(KeyFor::Writing, gateway.hides_keys(&request.extensions))?;
    let mut expect = announced!(input, &headers, trailing.as_ref(), gateway.max_body_bytes).expectation()?;
    expect.customer_key.clone_from(&key);
    let attributes = describe!(input, &headers, &gateway.storage_classes, of_new)?;
    let condition = of_write(input.if_match.as_ref(), input.if_none_match.as_ref())?;
    let body = body_in(input.body, &headers, trailing.as_ref(), context.clone());
    let put = PutObject { bucket: input.bucket, key: input.key, attributes, expect, condition };
    let written =
        gateway.engine.put_object(put, body).await.map_err(|e| from_engine_with_body(e, context.as_deref()))?;
    let mut output = PutObjectOutput {
        e_tag: Some(etag(&written.etag)),
        expiration: expiration(written.expires.as_ref()),
        ..Default::default()
    };
    output.checksum_type = show!(output, written.checksum.as_ref());
    echo_key!(output, &key);
    Ok(S3Response::new(output))
}

pub(super) async fn delete(
    gateway: &Gateway,
    request: S3Request<DeleteObjectInput>,
) -> S3Result<S3Response<DeleteObjectOutput>> {
    let input = request.input;
    only_null_version(input.version_id.as_deref())?;
    if input.if_match_last_modified_time.is_some() || input.if_match_size.is_some() {
        return Err(s3_error!(
            NotImplemented,
            "x-amz-if-match-last-modified-time and -size are not implemented; use If-Match."
        ));
    }
    let condition = of_write(input.if_match.as_ref(), None)?;
    let delete =
        DeleteRequest { version: named(input.version_id.as_deref()), if_match: condition.if_match, owner: None };
    gateway.engine.delete_object(&input.bucket, &input.key, delete).await.map_err(from_engine)?;
    Ok(S3Response::new(DeleteObjectOutput::default()))
}

pub(super) async fn delete_many(
    gateway: &Gateway,
    request: S3Request<DeleteObjectsInput>,
) -> S3Result<S3Response<DeleteObjectsOutput>> {
    /// S3's limit for one request.
    const MAX_KEYS: usize = 1000;
    let bucket = Admitted::of(&request)?;
    let caller = caller_of(&request.extensions);
    let context = context(&request);
    let S3Request { input, headers, uri, .. } = request;
    let query = uri.query().unwrap_or_default();
    let asking = asking(&gateway.authority, &caller, context.as_deref(), (&headers, query));
    let objects = input.delete.objects;
    if objects.is_empty() || objects.len() > MAX_KEYS {
        return Err(s3_error!(MalformedXML, "DeleteObjects takes 1 to {MAX_KEYS} keys, {} were given.", objects.len()));
    }
    if objects.iter().any(|object| object.key.is_empty()) {
        return Err(s3_error!(MalformedXML, "An Object of DeleteObjects has an empty Key."));
    }
    let quiet = input.delete.quiet.unwrap_or(false);
    let mut errors = Vec::new();
    let mut keys = Vec::with_capacity(objects.len());
    for object in objects {
        match refused(&object).or_else(|| not_allowed(gateway, &asking, &bucket, (&input.bucket, &object))) {
            None => {
                let version = named(object.version_id.as_deref());
                keys.push((object.key, DeleteRequest { version, ..DeleteRequest::default() }));
            }
            Some(error) => errors.push(delete_error(object.key, &error)),
        }
    }
    // Also with no key left: a bucket that does not exist is an error of the request.
    let results = gateway.engine.delete_objects(&input.bucket, &keys).await.map_err(from_engine)?;
    let mut deleted = Vec::with_capacity(if quiet { 0 } else { keys.len() });
    for ((key, _), result) in keys.into_iter().zip(results) {
        match result {
            Ok(_) if quiet => {}
            Ok(_) => deleted.push(DeletedObject { key: Some(key), ..Default::default() }),
            Err(error) => errors.push(delete_error(key, &from_engine(error))),
        }
    }
    Ok(S3Response::new(DeleteObjectsOutput { deleted: Some(deleted), errors: Some(errors), request_charged: None }))
}

/// The version that a request names.
fn named(version: Option<&str>) -> VersionRef {
    if version.is_some() { VersionRef::Null } else { VersionRef::Current }
}

/// Why the caller may not delete one key of DeleteObjects.
fn not_allowed(
    gateway: &Gateway,
    asking: &Asking<'_>,
    facts: &BucketFacts,
    (bucket, object): (&str, &ObjectIdentifier),
) -> Option<s3s::S3Error> {
    let version = object.version_id.as_deref().filter(|version| !version.is_empty());
    let place = Place { bucket, key: &object.key, version, is_new: false };
    let shape = Shape { version: version.is_some(), ..Shape::default() };
    let needs = needs("DeleteObject", shape).unwrap_or_default();
    needs.iter().find_map(|need| gateway.authority.require(asking, need.action, facts, &place).err())
}

/// Why one key of DeleteObjects is not even tried.
fn refused(object: &ObjectIdentifier) -> Option<s3s::S3Error> {
    if object.e_tag.is_some() || object.last_modified_time.is_some() || object.size.is_some() {
        return Some(s3_error!(NotImplemented, "Conditions in DeleteObjects are not implemented; use DeleteObject."));
    }
    if !s3s::path::check_key(&object.key) {
        return Some(s3_error!(KeyTooLongError, "The key is longer than 1024 bytes."));
    }
    only_null_version(object.version_id.as_deref()).err()
}

fn delete_error(key: String, error: &s3s::S3Error) -> Error {
    Error {
        code: Some(error.code().as_str().to_owned()),
        key: Some(key),
        message: error.message().map(str::to_owned),
        version_id: None,
    }
}

pub(super) async fn restore(
    gateway: &Gateway,
    request: S3Request<RestoreObjectInput>,
) -> S3Result<S3Response<RestoreObjectOutput>> {
    let input = request.input;
    only_null_version(input.version_id.as_deref())?;
    let version = named(input.version_id.as_deref());
    let Some(asked) = input.restore_request else {
        return Err(s3_error!(MalformedXML, "RestoreObject needs a RestoreRequest with Days."));
    };
    if asked.select_parameters.is_some() || asked.output_location.is_some() || asked.type_.is_some() {
        return Err(s3_error!(NotImplemented, "SELECT restores are not implemented."));
    }
    let days = asked
        .days
        .and_then(|days| u32::try_from(days).ok())
        .filter(|days| *days > 0)
        .ok_or_else(|| s3_error!(MalformedXML, "RestoreRequest needs Days of at least 1."))?;
    let tier = asked.glacier_job_parameters.map(|parameters| parameters.tier).or(asked.tier);
    let priority = priority(tier.as_ref().map(Tier::as_str))?;
    let restore = Restore { bucket: input.bucket, key: input.key, version, days, priority };
    let status = match gateway.engine.restore_object(restore).await.map_err(from_engine)? {
        RestoreOutcome::Accepted => http::StatusCode::ACCEPTED,
        RestoreOutcome::Extended => http::StatusCode::OK,
    };
    let mut response = S3Response::new(RestoreObjectOutput::default());
    response.extensions.insert(ResponseStatus(status));
    Ok(response)
}

fn priority(tier: Option<&str>) -> S3Result<RestorePriority> {
    match tier {
        None | Some(Tier::STANDARD) => Ok(RestorePriority::Standard),
        Some(Tier::BULK) => Ok(RestorePriority::Bulk),
        Some(Tier::EXPEDITED) => Ok(RestorePriority::Expedited),
        Some(other) => Err(s3_error!(MalformedXML, "The restore tier {other} is unknown.")),
    }
}
