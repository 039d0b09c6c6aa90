//! Multipart uploads.

use s3s::dto::*;
use s3s::{S3Request, S3Response, S3Result, s3_error};
use tidegate_tiering::engine::{
    ChecksumAlgorithm as Algorithm, CompleteUpload, CompletedPart as EnginePart, CreateUpload, Encryption, EngineError,
    ListUploads, UploadPart,
};

use super::admit::Admitted;
use super::attributes::{STANDARD, describe};
use super::authority::Owners;
use super::body::body_in;
use super::checksums::{announced, by_name, given, name, show, type_name};
use super::conditions::of_write;
use super::encryption::{KeyFor, echo_key, key_headers, tell_key};
use super::error::{from_engine, from_engine_with_body};
use super::grants::OfNew;
use super::lifecycle::{add_abort, expiration};
use super::listing::{Encoding, delimiter, page_size};
use super::{Gateway, context, etag, signed, time, versions};

pub(super) async fn create(
    gateway: &Gateway,
    request: S3Request<CreateMultipartUploadInput>,
) -> S3Result<S3Response<CreateMultipartUploadOutput>> {
    let of_new = OfNew::of_request(gateway, &request)?;
    let input = request.input;
    let key = key_headers!(input).key(KeyFor::Writing, gateway.hides_keys(&request.extensions))?;
    let mut attributes = describe!(input, &request.headers, &gateway.storage_classes, of_new)?;
    attributes.encryption = key.as_ref().map(Encryption::customer).transpose().map_err(from_engine)?;
    let algorithm = input.checksum_algorithm.map(|algorithm| by_name(algorithm.as_str())).transpose()?;
    let checksum = checksum_plan(algorithm, input.checksum_type.as_ref().map(ChecksumType::as_str))?;
    let create = CreateUpload { bucket: input.bucket.clone(), key: input.key.clone(), attributes, checksum };
    let upload_id = gateway.engine.create_upload(create).await.map_err(from_engine)?;
    // Whoever has aborted it meanwhile needs no date.
    let ending = gateway.engine.upload_ending(&input.bucket, &input.key, &upload_id).ok().flatten();
    let mut output = CreateMultipartUploadOutput {
        bucket: Some(input.bucket),
        key: Some(input.key),
        upload_id: Some(upload_id),
        checksum_algorithm: checksum.map(|(algorithm, _)| ChecksumAlgorithm::from_static(name(algorithm))),
        checksum_type: checksum.map(|(_, composite)| type_name(composite)),
        ..Default::default()
    };
    echo_key!(output, &key);
    let mut response = S3Response::new(output);
    add_abort(&mut response.headers, ending.as_ref());
    Ok(response)
}

/// Which checksum the object gets, and whether it is composite: SHA-1 and SHA-256 cannot be joined from parts, CRC-64
/// always is.
fn checksum_plan(algorithm: Option<Algorithm>, kind: Option<&str>) -> S3Result<Option<(Algorithm, bool)>> {
    let Some(algorithm) = algorithm else {
        return match kind {
            None => Ok(None),
            Some(_) => Err(s3_error!(InvalidRequest, "x-amz-checksum-type needs x-amz-checksum-algorithm.")),
        };
    };
    let composite = match kind {
        None => algorithm != Algorithm::Crc64Nvme,
        Some(ChecksumType::COMPOSITE) => true,
        Some(ChecksumType::FULL_OBJECT) => false,
        Some(other) => return Err(s3_error!(InvalidRequest, "The checksum type {other} is unknown.")),
    };
    let possible = match algorithm {
        Algorithm::Sha1 | Algorithm::Sha256 => composite,
        Algorithm::Crc64Nvme => !composite,
        Algorithm::Crc32 | Algorithm::Crc32c => true,
    };
    if !possible {
        return Err(s3_error!(
            InvalidRequest,
            "The checksum type {} cannot be used with {}.",
            type_name(composite).as_str(),
            name(algorithm)
        ));
    }
    Ok(Some((algorithm, composite)))
}

/// # Errors
/// `InvalidArgument` outside of 1 to `max`.
pub(super) fn part_number(number: i32, max: u32) -> S3Result<u32> {
    u32::try_from(number)
        .ok()
        .filter(|number| (1..=max).contains(number))
        .ok_or_else(|| s3_error!(InvalidArgument, "The part number is {number}; it must be from 1 to {max}."))
}

pub(super) async fn upload_part(
    gateway: &Gateway,
    request: S3Request<UploadPartInput>,
) -> S3Result<S3Response<UploadPartOutput>> {
    let context = context(&request);
    let trailing = request.trailing_headers;
    let headers = request.headers;
    let input = request.input;
    let number = part_number(input.part_number, gateway.max_parts)?;
    let key = key_headers!(input).key(KeyFor::Writing, gateway.hides_keys(&request.extensions))?;
    let mut expect = announced!(input, &headers, trailing.as_ref(), gateway.max_body_bytes).expectation()?;
    expect.customer_key.clone_from(&key);
    let body = body_in(input.body, &headers, trailing.as_ref(), context.clone());
    let part = UploadPart { bucket: input.bucket, key: input.key, upload_id: input.upload_id, number, expect };
    let part =
        gateway.engine.upload_part(part, body).await.map_err(|e| from_engine_with_body(e, context.as_deref()))?;
    let mut output = UploadPartOutput { e_tag: Some(etag(&part.etag)), ..Default::default() };
    show!(output, part.checksum.as_ref());
    echo_key!(output, &key);
    Ok(S3Response::new(output))
}

pub(super) async fn complete(
    gateway: &Gateway,
    request: S3Request<CompleteMultipartUploadInput>,
) -> S3Result<S3Response<CompleteMultipartUploadOutput>> {
    let input = request.input;
    let listed = input.multipart_upload.and_then(|upload| upload.parts).unwrap_or_default();
    if listed.is_empty() {
        return Err(s3_error!(MalformedXML, "CompleteMultipartUpload needs at least one part."));
    }
    if u32::try_from(listed.len()).map_or(true, |count| count > gateway.max_parts) {
        return Err(s3_error!(
            InvalidArgument,
            "{} parts are listed; {} are allowed.",
            listed.len(),
            gateway.max_parts
        ));
    }
    let parts = listed.into_iter().map(|part| completed_part(part, gateway.max_parts)).collect::<S3Result<Vec<_>>>()?;
    let expect_size = input
        .mpu_object_size
        .map(|size| u64::try_from(size).map_err(|_| s3_error!(InvalidArgument, "x-amz-mp-object-size is negative.")))
        .transpose()?;
    if let Some(size) = expect_size.filter(|size| *size > gateway.max_object_bytes) {
        return Err(s3_error!(
            EntityTooLarge,
            "The object has {size} bytes; {} are allowed.",
            gateway.max_object_bytes
        ));
    }
    let customer_key = key_headers!(input).key(KeyFor::Reading, gateway.hides_keys(&request.extensions))?;
    let named = (input.bucket.as_str(), input.key.as_str(), input.upload_id.as_str());
    gateway.engine.check_upload_key(named, customer_key.as_ref()).map_err(from_engine)?;
    if let Some(kind) = &input.checksum_type {
        check_type(gateway, (&input.bucket, &input.key, &input.upload_id), kind)?;
    }
    let complete = CompleteUpload {
        bucket: input.bucket.clone(),
        key: input.key.clone(),
        upload_id: input.upload_id,
        parts,
        expect_checksum: given!(input)?,
        expect_size,
        condition: of_write(input.if_match.as_ref(), input.if_none_match.as_ref()),
    };
    let written = gateway.engine.complete_upload(complete).await.map_err(from_engine)?;
    let location = format!("/{}/{}", input.bucket, Encoding::Url.apply(input.key.clone()));
    let mut output = CompleteMultipartUploadOutput {
        bucket: Some(input.bucket),
        key: Some(input.key),
        location: Some(location),
        e_tag: Some(etag(&written.etag)),
        expiration: expiration(written.expires.as_ref()),
        version_id: versions::of_written(&written),
        ..Default::default()
    };
    output.checksum_type = show!(output, written.checksum.as_ref());
    let mut response = S3Response::new(output);
    if let Some(key) = &customer_key {
        tell_key(&mut response.headers, key);
    }
    Ok(response)
}

/// The type that a completion names must be the upload's.
fn check_type(gateway: &Gateway, (bucket, key, id): (&str, &str, &str), named: &ChecksumType) -> S3Result<()> {
    let page = match gateway.engine.list_parts(bucket, key, id, 0, 0) {
        // It may have been completed before: that is for the completion itself to say.
        Err(EngineError::NoSuchUpload(_)) => return Ok(()),
        other => other.map_err(from_engine)?,
    };
    match page.upload.checksum.map(|(_, composite)| type_name(composite)) {
        Some(begun) if begun.as_str() != named.as_str() => Err(s3_error!(
            InvalidRequest,
            "x-amz-checksum-type is {}, but the upload was begun with {}.",
            named.as_str(),
            begun.as_str()
        )),
        _ => Ok(()),
    }
}

fn completed_part(part: CompletedPart, max: u32) -> S3Result<EnginePart> {
    let number = part.part_number.ok_or_else(|| s3_error!(MalformedXML, "A part has no PartNumber."))?;
    let checksum = given!(part)?;
    let etag = part.e_tag.ok_or_else(|| s3_error!(MalformedXML, "Part {number} has no ETag."))?;
    Ok(EnginePart { number: part_number(number, max)?, etag: etag.into_value(), checksum })
}

pub(super) async fn abort(
    gateway: &Gateway,
    request: S3Request<AbortMultipartUploadInput>,
) -> S3Result<S3Response<AbortMultipartUploadOutput>> {
    let input = request.input;
    gateway.engine.abort_upload(&input.bucket, &input.key, &input.upload_id).await.map_err(from_engine)?;
    Ok(S3Response::new(AbortMultipartUploadOutput::default()))
}

pub(super) async fn list_parts(
    gateway: &Gateway,
    request: S3Request<ListPartsInput>,
) -> S3Result<S3Response<ListPartsOutput>> {
    let mut owners = Owners::new(&gateway.authority, Admitted::of(&request)?);
    let input = request.input;
    let max = page_size(input.max_parts, "max-parts")?;
    let marker = input.part_number_marker.unwrap_or(0);
    let after = u32::try_from(marker)
        .map_err(|_| s3_error!(InvalidArgument, "part-number-marker is {marker}; it must not be negative."))?;
    let limit = usize::try_from(max).unwrap_or(0);
    let page =
        gateway.engine.list_parts(&input.bucket, &input.key, &input.upload_id, after, limit).map_err(from_engine)?;
    let parts = page.parts.into_iter().map(|part| {
        let mut shown = Part {
            e_tag: Some(ETag::Strong(part.etag)),
            last_modified: Some(time(part.modified)),
            part_number: i32::try_from(part.number).ok(),
            size: Some(signed(part.size)),
            ..Default::default()
        };
        show!(shown, part.checksum.as_ref());
        shown
    });
    let ending = gateway.engine.upload_ending(&input.bucket, &input.key, &input.upload_id).map_err(from_engine)?;
    let upload = page.upload;
    // A page of none is never truncated: whoever asked for the next would ask for ever.
    let next = page.next.filter(|_| limit > 0);
    let mut response = S3Response::new(ListPartsOutput {
        bucket: Some(input.bucket),
        key: Some(input.key),
        upload_id: Some(input.upload_id),
        checksum_algorithm: upload.checksum.map(|(algorithm, _)| ChecksumAlgorithm::from_static(name(algorithm))),
        checksum_type: upload.checksum.map(|(_, composite)| type_name(composite)),
        initiator: Some(owners.initiator(upload.owner.as_ref())),
        owner: Some(owners.of(upload.owner.as_ref())),
        is_truncated: Some(next.is_some()),
        max_parts: Some(max),
        next_part_number_marker: next.and_then(|next| i32::try_from(next).ok()),
        part_number_marker: Some(marker),
        parts: Some(parts.collect()),
        storage_class: Some(StorageClass::from(upload.storage_class.unwrap_or_else(|| STANDARD.into()))),
        ..Default::default()
    });
    add_abort(&mut response.headers, ending.as_ref());
    Ok(response)
}

pub(super) async fn list_uploads(
    gateway: &Gateway,
    request: S3Request<ListMultipartUploadsInput>,
) -> S3Result<S3Response<ListMultipartUploadsOutput>> {
    let mut owners = Owners::new(&gateway.authority, Admitted::of(&request)?);
    let input = request.input;
    let encoding = Encoding::new(input.encoding_type.as_ref())?;
    let max = page_size(input.max_uploads, "max-uploads")?;
    // S3 ignores an upload-id-marker without a key-marker.
    let after = input
        .key_marker
        .clone()
        .filter(|key| !key.is_empty())
        .map(|key| (key, input.upload_id_marker.clone().filter(|id| !id.is_empty())));
    let list = ListUploads {
        bucket: input.bucket,
        prefix: input.prefix.unwrap_or_default(),
        delimiter: delimiter(input.delimiter.as_ref()),
        after,
        max_uploads: usize::try_from(max).unwrap_or(0),
    };
    let page = gateway.engine.list_uploads(&list).map_err(from_engine)?;
    let uploads = page.uploads.into_iter().map(|upload| MultipartUpload {
        checksum_algorithm: upload.checksum.map(|(algorithm, _)| ChecksumAlgorithm::from_static(name(algorithm))),
        checksum_type: upload.checksum.map(|(_, composite)| type_name(composite)),
        initiated: Some(time(upload.initiated)),
        initiator: Some(owners.initiator(upload.owner.as_ref())),
        key: Some(encoding.apply(upload.key)),
        owner: Some(owners.of(upload.owner.as_ref())),
        storage_class: Some(StorageClass::from(upload.storage_class.unwrap_or_else(|| STANDARD.into()))),
        upload_id: Some(upload.upload_id),
    });
    let truncated = page.next.is_some();
    let (next_key, next_id) = page.next.map_or((None, None), |(key, id)| (Some(encoding.apply(key)), id));
    Ok(S3Response::new(ListMultipartUploadsOutput {
        bucket: Some(list.bucket),
        uploads: Some(uploads.collect()),
        common_prefixes: encoding.common_prefixes(page.common_prefixes),
        delimiter: list.delimiter.map(|delimiter| encoding.apply(delimiter)),
        encoding_type: input.encoding_type,
        is_truncated: Some(truncated),
        key_marker: Some(encoding.apply(input.key_marker.unwrap_or_default())),
        max_uploads: Some(max),
        next_key_marker: next_key,
        next_upload_id_marker: next_id,
        prefix: Some(encoding.apply(list.prefix)),
        request_charged: None,
        upload_id_marker: input.upload_id_marker,
    }))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_checksum_type_follows_s3s_table() {
        use Algorithm::{Crc32, Crc64Nvme, Sha256};
        let cases = [
            (None, None, Ok(None)),
            (Some(Crc32), None, Ok(Some((Crc32, true)))),
            (Some(Crc32), Some("FULL_OBJECT"), Ok(Some((Crc32, false)))),
            (Some(Crc64Nvme), None, Ok(Some((Crc64Nvme, false)))),
            (Some(Crc64Nvme), Some("COMPOSITE"), Err(())),
            (Some(Sha256), None, Ok(Some((Sha256, true)))),
            (Some(Sha256), Some("FULL_OBJECT"), Err(())),
            (None, Some("COMPOSITE"), Err(())),
            (Some(Crc32), Some("OTHER"), Err(())),
        ];
        for (algorithm, kind, expected) in cases {
            assert_eq!(checksum_plan(algorithm, kind).map_err(|_| ()), expected, "{algorithm:?} {kind:?}");
        }
    }

    #[test]
    fn part_numbers_are_from_1_to_the_limit() {
        assert_eq!(part_number(1, 10_000).unwrap(), 1);
        assert_eq!(part_number(10_000, 10_000).unwrap(), 10_000);
        for bad in [0, -1, 10_001] {
            assert_eq!(part_number(bad, 10_000).unwrap_err().code().as_str(), "InvalidArgument");
        }
    }
}
