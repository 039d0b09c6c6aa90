//! ListObjects, both versions.

use s3s::dto::*;
use s3s::{S3Request, S3Response, S3Result};
use tidegate_tiering::engine::{ListObjects, ListPage, ListedObject, RestoreStatus as Restored};

use super::admit::Admitted;
use super::authority::Owners;
use super::error::from_engine;
use super::listing::{Encoding, delimiter, key_of_token, page_size, token};
use super::{Gateway, checksums, signed, time};

/// Asks the engine; a page of no keys only checks the bucket, and is never "truncated", as in S3.
fn page(gateway: &Gateway, list: &ListObjects) -> S3Result<ListPage> {
    if list.max_keys == 0 {
        gateway.engine.bucket(&list.bucket).map_err(from_engine)?;
        return Ok(ListPage::default());
    }
    gateway.engine.list_objects(list).map_err(from_engine)
}

/// How objects are shown.
struct Show<'a> {
    encoding: Encoding,
    owners: Option<Owners<'a>>,
    restore: bool,
}

impl Show<'_> {
    fn objects(&mut self, objects: Vec<ListedObject>) -> Option<Vec<Object>> {
        (!objects.is_empty()).then(|| objects.into_iter().map(|object| self.object(object)).collect())
    }

    fn object(&mut self, object: ListedObject) -> Object {
        Object {
            checksum_algorithm: object
                .checksum
                .map(|(algorithm, _)| vec![ChecksumAlgorithm::from_static(checksums::name(algorithm))]),
            checksum_type: object.checksum.map(|(_, composite)| checksums::type_name(composite)),
            e_tag: Some(ETag::Strong(object.etag)),
            key: Some(self.encoding.apply(object.key)),
            last_modified: Some(time(object.last_modified)),
            owner: self.owners.as_mut().map(|owners| owners.of(object.owner.as_ref())),
            restore_status: object.restore.filter(|_| self.restore).map(restore_status),
            size: Some(signed(object.size)),
            storage_class: Some(ObjectStorageClass::from(object.class_shown)),
        }
    }
}

/// How far a restore is, as listings show it.
pub(super) fn restore_status(status: Restored) -> RestoreStatus {
    match status {
        Restored::Ongoing => RestoreStatus { is_restore_in_progress: Some(true), restore_expiry_date: None },
        Restored::Done { until } => {
            RestoreStatus { is_restore_in_progress: Some(false), restore_expiry_date: Some(time(until)) }
        }
    }
}

/// Whether a listing is asked to tell of restores.
pub(super) fn wants_restore(attributes: Option<&OptionalObjectAttributesList>) -> bool {
    attributes.is_some_and(|list| list.iter().any(|one| one.as_str() == OptionalObjectAttributes::RESTORE_STATUS))
}

pub(super) async fn v1(
    gateway: &Gateway,
    request: S3Request<ListObjectsInput>,
) -> S3Result<S3Response<ListObjectsOutput>> {
    let owners = Owners::new(&gateway.authority, Admitted::of(&request)?);
    let input = request.input;
    let encoding = Encoding::new(input.encoding_type.as_ref())?;
    let max_keys = page_size(input.max_keys, "max-keys")?;
    let list = ListObjects {
        bucket: input.bucket,
        prefix: input.prefix.unwrap_or_default(),
        delimiter: delimiter(input.delimiter.as_ref()),
        after: input.marker.clone().filter(|marker| !marker.is_empty()),
        max_keys: usize::try_from(max_keys).unwrap_or(0),
    };
    let page = page(gateway, &list)?;
    let mut show =
        Show { encoding, owners: Some(owners), restore: wants_restore(input.optional_object_attributes.as_ref()) };
    let truncated = page.next.is_some();
    // Without a delimiter the last key is the marker, and S3 leaves NextMarker out.
    let next_marker = page.next.filter(|_| list.delimiter.is_some()).map(|next| encoding.apply(next));
    Ok(S3Response::new(ListObjectsOutput {
        name: Some(list.bucket),
        prefix: Some(encoding.apply_where_needed(list.prefix)),
        marker: Some(encoding.apply(input.marker.unwrap_or_default())),
        max_keys: Some(max_keys),
        is_truncated: Some(truncated),
        contents: show.objects(page.objects),
        common_prefixes: encoding.common_prefixes(page.common_prefixes),
        delimiter: list.delimiter.map(|delimiter| encoding.apply(delimiter)),
        next_marker,
        encoding_type: input.encoding_type,
        request_charged: None,
    }))
}

pub(super) async fn v2(
    gateway: &Gateway,
    request: S3Request<ListObjectsV2Input>,
) -> S3Result<S3Response<ListObjectsV2Output>> {
    let owners = Owners::new(&gateway.authority, Admitted::of(&request)?);
    let input = request.input;
    let encoding = Encoding::new(input.encoding_type.as_ref())?;
    let max_keys = page_size(input.max_keys, "max-keys")?;
    // The token wins over start-after: it comes from a later page.
    let after = match &input.continuation_token {
        Some(token) => Some(key_of_token(token)?),
        None => input.start_after.clone().filter(|start| !start.is_empty()),
    };
    let list = ListObjects {
        bucket: input.bucket,
        prefix: input.prefix.unwrap_or_default(),
        delimiter: delimiter(input.delimiter.as_ref()),
        after,
        max_keys: usize::try_from(max_keys).unwrap_or(0),
    };
    let page = page(gateway, &list)?;
    let mut show = Show {
        encoding,
        owners: input.fetch_owner.unwrap_or(false).then_some(owners),
        restore: wants_restore(input.optional_object_attributes.as_ref()),
    };
    let count = page.objects.len().saturating_add(page.common_prefixes.len());
    Ok(S3Response::new(ListObjectsV2Output {
        name: Some(list.bucket),
        prefix: Some(encoding.apply(list.prefix)),
        max_keys: Some(max_keys),
        key_count: i32::try_from(count).ok(),
        continuation_token: input.continuation_token,
        is_truncated: Some(page.next.is_some()),
        next_continuation_token: page.next.as_deref().map(token),
        contents: show.objects(page.objects),
        common_prefixes: encoding.common_prefixes(page.common_prefixes),
        delimiter: list.delimiter.map(|delimiter| encoding.apply(delimiter)),
        encoding_type: input.encoding_type,
        start_after: input.start_after.map(|start| encoding.apply(start)),
        request_charged: None,
    }))
}
