//! DeleteObject and DeleteObjects.

use s3s::dto::*;
use s3s::{S3Request, S3Response, S3Result, s3_error};
use tidegate_tiering::engine::{DeleteRequest, Deleted, VersionRef};

use super::admit::{Admitted, asking, caller_of};
use super::authority::Place;
use super::condition_keys::Asking;
use super::conditions::{of_delete, of_write};
use super::error::from_engine;
use super::{Gateway, context, versions};
use crate::auth::decide::BucketFacts;
use crate::auth::identity::Caller;
use crate::auth::needs::{Shape, needs};

/// S3's limit for one request.
const MAX_KEYS: usize = 1000;
/// Keys that are judged before others get their turn.
const KEYS_AT_ONCE: usize = 32;

pub(super) async fn object(
    gateway: &Gateway,
    request: S3Request<DeleteObjectInput>,
) -> S3Result<S3Response<DeleteObjectOutput>> {
    let owner = owner_of_marker(gateway, &caller_of(&request.extensions));
    let input = request.input;
    let version = versions::named(input.version_id.as_deref())?;
    let if_match = of_write(input.if_match.as_ref(), None).if_match;
    let if_size = input.if_match_size.map(size).transpose()?;
    let if_modified = input.if_match_last_modified_time.map(second);
    let bypass_governance = input.bypass_governance_retention == Some(true);
    let delete = DeleteRequest { version, if_match, if_size, if_modified, owner, bypass_governance };
    let deleted = gateway.engine.delete_object(&input.bucket, &input.key, delete).await.map_err(from_engine)?;
    Ok(S3Response::new(DeleteObjectOutput {
        delete_marker: deleted.marker.then_some(true),
        // Also of a version that was not there, as S3.
        version_id: input.version_id.or_else(|| made(&deleted)),
        request_charged: None,
    }))
}

/// # Errors
/// `InvalidArgument` for a size that is negative.
fn size(asked: i64) -> S3Result<u64> {
    u64::try_from(asked).map_err(|_| s3_error!(InvalidArgument, "The size {asked} of a condition is negative."))
}

/// The second of a time; none before 1970 is any object's.
fn second(time: Timestamp) -> u64 {
    u64::try_from(time::OffsetDateTime::from(time).unix_timestamp()).unwrap_or(u64::MAX)
}

/// The account that a delete marker is recorded with: whoever asks for it.
fn owner_of_marker(gateway: &Gateway, caller: &Caller) -> Option<String> {
    caller.identity().and_then(|known| gateway.authority.recorded(&known.account.id))
}

/// The id of the delete marker that was made.
fn made(deleted: &Deleted) -> Option<String> {
    deleted.version.filter(|_| deleted.marker).map(|(version, null)| versions::shown(version, null))
}

pub(super) async fn objects(
    gateway: &Gateway,
    request: S3Request<DeleteObjectsInput>,
) -> S3Result<S3Response<DeleteObjectsOutput>> {
    let facts = Admitted::of(&request)?;
    let caller = caller_of(&request.extensions);
    let owner = owner_of_marker(gateway, &caller);
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
    let bypass_governance = input.bypass_governance_retention == Some(true);
    let mut errors = Vec::new();
    let (mut deletes, mut named) = (Vec::with_capacity(objects.len()), Vec::with_capacity(objects.len()));
    for (count, object) in objects.into_iter().enumerate() {
        // Policies may have much to say to each: others are served meanwhile.
        if count % KEYS_AT_ONCE == KEYS_AT_ONCE - 1 {
            tokio::task::yield_now().await;
        }
        let allowed = || allowed(gateway, &asking, &facts, (&input.bucket, &object, bypass_governance));
        match asked(&object).and_then(|delete| allowed().map(|()| delete)) {
            Ok(delete) => {
                deletes.push((object.key, DeleteRequest { owner: owner.clone(), bypass_governance, ..delete }));
                named.push(object.version_id);
            }
            Err(error) => errors.push(failure(object.key, object.version_id, &error)),
        }
    }
    // Also with no key left: a bucket that does not exist is an error of the request.
    let results = gateway.engine.delete_objects(&input.bucket, &deletes).await.map_err(from_engine)?;
    let mut deleted = Vec::with_capacity(if quiet { 0 } else { deletes.len() });
    for (((key, _), version_id), result) in deletes.into_iter().zip(named).zip(results) {
        match result {
            Ok(_) if quiet => {}
            Ok(done) => deleted.push(success(key, version_id, &done)),
            Err(error) => errors.push(failure(key, version_id, &from_engine(error))),
        }
    }
    Ok(S3Response::new(DeleteObjectsOutput { deleted: Some(deleted), errors: Some(errors), request_charged: None }))
}

/// # Errors
/// `AccessDenied` when the caller may not delete one key of DeleteObjects.
fn allowed(
    gateway: &Gateway,
    asking: &Asking<'_>,
    facts: &BucketFacts,
    (bucket, object, bypass): (&str, &ObjectIdentifier, bool),
) -> S3Result<()> {
    let version = object.version_id.as_deref();
    let place = Place { bucket, key: &object.key, version, ..Place::default() };
    let shape = Shape { version: version.is_some(), bypass, ..Shape::default() };
    let needs = needs("DeleteObject", shape).unwrap_or_default();
    needs.iter().try_for_each(|need| gateway.authority.require(asking, need.action, facts, &place))
}

/// What is asked for one key, or why it is not even tried.
fn asked(object: &ObjectIdentifier) -> S3Result<DeleteRequest> {
    if !s3s::path::check_key(&object.key) {
        return Err(s3_error!(KeyTooLongError, "The key is longer than 1024 bytes."));
    }
    let version = match object.version_id.as_deref() {
        None => VersionRef::Current,
        // S3's code here, where one key does not fail the others.
        Some(id) => {
            VersionRef::parse(id).ok_or_else(|| s3_error!(NoSuchVersion, "The specified version does not exist."))?
        }
    };
    Ok(DeleteRequest {
        version,
        if_match: object.e_tag.as_ref().map(of_delete),
        if_size: object.size.map(size).transpose()?,
        if_modified: object.last_modified_time.clone().map(second),
        ..DeleteRequest::default()
    })
}

fn success(key: String, version_id: Option<String>, done: &Deleted) -> DeletedObject {
    DeletedObject {
        delete_marker: done.marker.then_some(true),
        delete_marker_version_id: made(done),
        key: Some(key),
        version_id,
    }
}

fn failure(key: String, version_id: Option<String>, error: &s3s::S3Error) -> Error {
    Error {
        code: Some(error.code().as_str().to_owned()),
        key: Some(key),
        message: error.message().map(str::to_owned),
        version_id,
    }
}
