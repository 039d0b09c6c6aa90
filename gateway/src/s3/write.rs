//! PutObject, RestoreObject.

use s3s::dto::*;
use s3s::{S3Request, S3Response, S3Result, s3_error};
use tidegate_tiering::engine::{PutObject, RestoreOutcome, RestoreRequest as Restore};
use tidegate_tiering::tier::RestorePriority;

use super::attributes::describe;
use super::body::body_in;
use super::checksums::{announced, show};
use super::conditions::of_write;
use super::encryption::{KeyFor, echo_key, key_headers};
use super::error::{from_engine, from_engine_with_body};
use super::grants::OfNew;
use super::lifecycle::expiration;
use super::{Gateway, context, etag, lock, versions};
use crate::server::{FromForm, ResponseStatus};

pub(super) async fn put(
    gateway: &Gateway,
    request: S3Request<PutObjectInput>,
) -> S3Result<S3Response<PutObjectOutput>> {
    let context = context(&request);
    let from_form = request.extensions.get::<FromForm>().is_some();
    let of_new = OfNew::of_request(gateway, &request)?;
    let trailing = request.trailing_headers;
    let headers = request.headers;
    if !from_form {
        lock::require_digest(&headers)?;
    }
    let input = request.input;
    let key = key_headers!(input).key(KeyFor::Writing, gateway.hides_keys(&request.extensions))?;
    let announced = announced!(input, &headers, trailing.as_ref(), gateway.max_body_bytes);
    let mut expect = if from_form { announced.expectation_without_length()? } else { announced.expectation()? };
    expect.customer_key.clone_from(&key);
    let attributes = describe!(input, &headers, &gateway.storage_classes, of_new)?;
    let condition = of_write(input.if_match.as_ref(), input.if_none_match.as_ref());
    let body = body_in(input.body, &headers, trailing.as_ref(), context.clone());
    let put = PutObject { bucket: input.bucket, key: input.key, attributes, expect, condition };
    let written =
        gateway.engine.put_object(put, body).await.map_err(|e| from_engine_with_body(e, context.as_deref()))?;
    let mut output = PutObjectOutput {
        e_tag: Some(etag(&written.etag)),
        expiration: expiration(written.expires.as_ref()),
        version_id: versions::of_written(&written),
        ..Default::default()
    };
    output.checksum_type = show!(output, written.checksum.as_ref());
    echo_key!(output, &key);
    Ok(S3Response::new(output))
}

pub(super) async fn restore(
    gateway: &Gateway,
    request: S3Request<RestoreObjectInput>,
) -> S3Result<S3Response<RestoreObjectOutput>> {
    let input = request.input;
    let version = versions::named(input.version_id.as_deref())?;
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
