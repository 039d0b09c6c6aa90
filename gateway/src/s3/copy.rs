//! CopyObject and UploadPartCopy.

use http::HeaderMap;
use s3s::dto::*;
use s3s::{S3Request, S3Response, S3Result, s3_error};
use tidegate_tiering::engine::{
    CopyKeys, CopyObject, CustomerKey, EngineError, ObjectHandle, ObjectInfo, UploadPartCopy,
};

use super::admit::{Admitted, asking, caller_of};
use super::attributes::{STANDARD, described, storage_class};
use super::authority::Place;
use super::checksums::{by_name, show};
use super::conditions::{Conditions, of_source, of_write};
use super::encryption::{KeyFor, echo_key, key_headers, source_key_headers};
use super::error::from_engine;
use super::grants::OfNew;
use super::lifecycle::expiration;
use super::multipart::part_number;
use super::ranges::of_copy_source;
use super::{Gateway, context, etag, tagging, time, versions};

/// What the header names, as S3 reads it: a plus is a space there, as in a form, and `%2B` is a plus. s5cmd sends spaces so.
fn as_in_forms(header: &str) -> String {
    header.replace('+', "%20")
}

/// The source that the header names; none where there is none, or what it says is no source.
pub(super) fn named_source(headers: &HeaderMap) -> Option<CopySource> {
    let header = headers.get("x-amz-copy-source").and_then(|value| value.to_str().ok());
    header.and_then(|header| CopySource::parse(&as_in_forms(header)).ok())
}

/// The source of a copy: s3s, which read the header, takes a plus for a plus.
fn source_of(headers: &HeaderMap, read: &CopySource) -> CopySource {
    named_source(headers).unwrap_or_else(|| read.clone())
}

/// Opens the source of a copy, for reading exactly this version.
fn open(
    gateway: &Gateway,
    source: &CopySource,
    conditions: &Conditions<'_>,
    key: Option<CustomerKey>,
) -> S3Result<ObjectHandle> {
    let CopySource::Bucket { bucket, key: name, version_id } = source else {
        return Err(s3_error!(NotImplemented, "x-amz-copy-source by access point is not implemented."));
    };
    let version = versions::named(version_id.as_deref())?;
    let mut object = gateway.engine.open_version(bucket, name, version).map_err(|error| match error {
        EngineError::DeleteMarker { named: true, .. } => s3_error!(
            InvalidRequest,
            "The source of a copy request may not specifically refer to a delete marker by version id."
        ),
        other => from_engine(other),
    })?;
    object.unlock(key).map_err(from_engine)?;
    conditions.require(object.info())?;
    object.check_readable().map_err(from_engine)?;
    Ok(object)
}

fn is_replace(directive: Option<&str>, header: &str) -> S3Result<bool> {
    match directive {
        None | Some(MetadataDirective::COPY) => Ok(false),
        Some(MetadataDirective::REPLACE) => Ok(true),
        Some(other) => Err(s3_error!(InvalidArgument, "{header} is {other}; it must be COPY or REPLACE.")),
    }
}

/// Whether the tags of the source may be read, and given to the copy.
fn copies_tags(gateway: &Gateway, request: &S3Request<CopyObjectInput>) -> S3Result<()> {
    let input = &request.input;
    let CopySource::Bucket { bucket, key, version_id } = &input.copy_source else { return Ok(()) };
    let caller = caller_of(&request.extensions);
    let context = context(request);
    let query = request.uri.query().unwrap_or_default();
    let authority = &gateway.authority;
    let asking = asking(authority, &caller, context.as_deref(), (&request.headers, query));
    let source = Place { bucket, key, version: version_id.as_deref(), ..Place::default() };
    let read = if version_id.is_some() { "s3:GetObjectVersionTagging" } else { "s3:GetObjectTagging" };
    authority.require(&asking, read, authority.bucket(bucket)?.as_ref(), &source)?;
    let target = Place { bucket: &input.bucket, key: &input.key, is_new: true, ..Place::default() };
    authority.require(&asking, "s3:PutObjectTagging", Admitted::of(request)?.as_ref(), &target)
}

pub(super) async fn object(
    gateway: &Gateway,
    mut request: S3Request<CopyObjectInput>,
) -> S3Result<S3Response<CopyObjectOutput>> {
    request.input.copy_source = source_of(&request.headers, &request.input.copy_source);
    let of_new = OfNew::of_request(gateway, &request)?;
    let may_tag = copies_tags(gateway, &request);
    let headers = request.headers;
    let input = request.input;
    let replace =
        is_replace(input.metadata_directive.as_ref().map(MetadataDirective::as_str), "x-amz-metadata-directive")?;
    let replace_tags =
        is_replace(input.tagging_directive.as_ref().map(TaggingDirective::as_str), "x-amz-tagging-directive")?;
    let private = gateway.hides_keys(&request.extensions);
    let keys = CopyKeys {
        source: source_key_headers!(input).key(KeyFor::Reading, private)?,
        target: key_headers!(input).key(KeyFor::Writing, private)?,
    };
    let source = open(gateway, &input.copy_source, &of_source!(input), keys.source.clone())?;
    let info = source.info();
    check_size(gateway, info)?;
    let class = storage_class(input.storage_class.as_ref(), &gateway.storage_classes)?;
    let same_class = class.as_deref().unwrap_or(STANDARD) == info.class_shown;
    if (info.bucket.as_str(), info.key.as_str()) == (&*input.bucket, &*input.key)
        && !(replace || replace_tags)
        && same_class
        && keys.target.as_ref().or(keys.source.as_ref()).is_none()
        && is_latest(gateway, info)
    {
        return Err(s3_error!(
            InvalidRequest,
            "This copy of an object to itself changes neither metadata, tags, storage class nor encryption."
        ));
    }
    if !replace_tags && !info.attributes.tags.is_empty() {
        may_tag?;
    }
    let attributes = match replace {
        true => described(&headers, input.metadata, None, None, &gateway.storage_classes)?,
        false => info.attributes.clone(),
    };
    let copy = CopyObject {
        source_bucket: info.bucket.clone(),
        source_key: info.key.clone(),
        source_version: info.version,
        bucket: input.bucket,
        key: input.key,
        // Also when they are the source's: a copy has an owner and an access control list of its own.
        replace_attributes: Some(of_new.put_into(attributes)),
        replace_tags: replace_tags
            .then(|| tagging::of_header(input.tagging.as_deref().unwrap_or_default()))
            .transpose()?,
        storage_class: class,
        checksum: input.checksum_algorithm.map(|algorithm| by_name(algorithm.as_str())).transpose()?,
        condition: condition_of_target(&headers)?,
    };
    let copy_source_version_id = versions::of_object(info);
    let written = gateway.engine.copy_object_with_keys(copy, &keys).await.map_err(from_engine)?;
    let mut result = CopyObjectResult {
        e_tag: Some(etag(&written.etag)),
        last_modified: Some(time(written.last_modified)),
        ..Default::default()
    };
    result.checksum_type = show!(result, written.checksum.as_ref());
    let mut output = CopyObjectOutput {
        copy_object_result: Some(result),
        expiration: expiration(written.expires.as_ref()),
        copy_source_version_id,
        version_id: versions::of_written(&written),
        ..Default::default()
    };
    echo_key!(output, &keys.target);
    Ok(S3Response::new(output))
}

fn check_size(gateway: &Gateway, source: &ObjectInfo) -> S3Result<()> {
    if source.size <= gateway.max_body_bytes {
        return Ok(());
    }
    Err(s3_error!(
        InvalidRequest,
        "The source has {} bytes; CopyObject takes {}. Use UploadPartCopy.",
        source.size,
        gateway.max_body_bytes
    ))
}

/// Whether a version is what its key shows: a copy of an older one onto its key brings that one back.
fn is_latest(gateway: &Gateway, info: &ObjectInfo) -> bool {
    let latest = gateway.engine.open_object(&info.bucket, &info.key);
    latest.is_ok_and(|latest| latest.info().version == info.version)
}

/// s3s's CopyObject has no fields for If-Match and If-None-Match on the target.
fn condition_of_target(headers: &http::HeaderMap) -> S3Result<tidegate_tiering::engine::WriteCondition> {
    let parse = |name: http::HeaderName| -> S3Result<Option<ETagCondition>> {
        let Some(value) = headers.get(&name) else { return Ok(None) };
        ETagCondition::parse_http_header(value.as_bytes())
            .map(Some)
            .map_err(|_| s3_error!(InvalidArgument, "{name} is not an ETag."))
    };
    let (if_match, if_none_match) = (parse(http::header::IF_MATCH)?, parse(http::header::IF_NONE_MATCH)?);
    Ok(of_write(if_match.as_ref(), if_none_match.as_ref()))
}

pub(super) async fn part(
    gateway: &Gateway,
    request: S3Request<UploadPartCopyInput>,
) -> S3Result<S3Response<UploadPartCopyOutput>> {
    let input = request.input;
    let number = part_number(input.part_number, gateway.max_parts)?;
    let private = gateway.hides_keys(&request.extensions);
    let source_key = source_key_headers!(input).key(KeyFor::Reading, private)?;
    let key = key_headers!(input).key(KeyFor::Writing, private)?;
    let from = source_of(&request.headers, &input.copy_source);
    let source = open(gateway, &from, &of_source!(input), source_key)?;
    let range = of_copy_source(input.copy_source_range.as_deref(), source.info().size)?;
    let size = range.end.saturating_sub(range.start);
    if size > gateway.max_body_bytes {
        return Err(s3_error!(EntityTooLarge, "The part has {size} bytes; {} are allowed.", gateway.max_body_bytes));
    }
    let copy_source_version_id = versions::of_object(source.info());
    let copy = UploadPartCopy {
        bucket: input.bucket,
        key: input.key,
        upload_id: input.upload_id,
        number,
        source,
        range,
        customer_key: key.clone(),
    };
    let part = gateway.engine.upload_part_copy(copy).await.map_err(from_engine)?;
    let mut result = CopyPartResult {
        e_tag: Some(etag(&part.etag)),
        last_modified: Some(time(part.modified)),
        ..Default::default()
    };
    show!(result, part.checksum.as_ref());
    let mut output =
        UploadPartCopyOutput { copy_part_result: Some(result), copy_source_version_id, ..Default::default() };
    echo_key!(output, &key);
    Ok(S3Response::new(output))
}
