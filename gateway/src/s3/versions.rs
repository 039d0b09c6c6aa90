//! Versions of objects: their ids in requests and answers, the setting of a bucket, their listing.

use s3s::dto::*;
use s3s::{S3Request, S3Response, S3Result, s3_error};
use tidegate_tiering::engine::{
    ListVersions, ObjectInfo, VersionEntry, VersionId, VersionRef, Versioning, VersionsPage, Written,
};

use super::admit::Admitted;
use super::authority::Owners;
use super::error::from_engine;
use super::list::{restore_status, wants_restore};
use super::listing::{Encoding, delimiter, page_size};
use super::{Gateway, checksums, signed, time};
use crate::server::VersionOrder;

/// The version that a request names.
///
/// # Errors
/// `InvalidArgument` for what cannot be an id.
pub(crate) fn named(id: Option<&str>) -> S3Result<VersionRef> {
    match id {
        None => Ok(VersionRef::Current),
        Some("") => Err(s3_error!(InvalidArgument, "Version id cannot be the empty string")),
        Some(id) => parse(id),
    }
}

fn parse(id: &str) -> S3Result<VersionRef> {
    VersionRef::parse(id).ok_or_else(|| s3_error!(InvalidArgument, "Invalid version id specified"))
}

/// The id of a version as clients see it.
pub(crate) fn shown(version: VersionId, null: bool) -> String {
    if null { VersionRef::Null.to_string() } else { version.to_string() }
}

/// The id in answers about an object: where its bucket has, or had, versions.
pub(crate) fn of_object(info: &ObjectInfo) -> Option<String> {
    info.versioned.then(|| shown(info.version, info.null))
}

/// The id in answers to a write: S3 shows one only where it gave one, so that `null` is never told.
pub(crate) fn of_written(written: &Written) -> Option<String> {
    (!written.null).then(|| written.version.to_string())
}

pub(super) async fn setting(
    gateway: &Gateway,
    request: S3Request<GetBucketVersioningInput>,
) -> S3Result<S3Response<GetBucketVersioningOutput>> {
    let info = gateway.engine.bucket(&request.input.bucket).map_err(from_engine)?;
    let status = match info.settings.versioning {
        Versioning::Off => None,
        Versioning::Enabled => Some(BucketVersioningStatus::from_static(BucketVersioningStatus::ENABLED)),
        Versioning::Suspended => Some(BucketVersioningStatus::from_static(BucketVersioningStatus::SUSPENDED)),
    };
    Ok(S3Response::new(GetBucketVersioningOutput { status, mfa_delete: None }))
}

pub(super) async fn set(
    gateway: &Gateway,
    request: S3Request<PutBucketVersioningInput>,
) -> S3Result<S3Response<PutBucketVersioningOutput>> {
    let input = request.input;
    let configuration = input.versioning_configuration;
    let versioning = match configuration.status.as_ref().map(BucketVersioningStatus::as_str) {
        Some(BucketVersioningStatus::ENABLED) => Versioning::Enabled,
        Some(BucketVersioningStatus::SUSPENDED) => Versioning::Suspended,
        Some(_) => return Err(s3_error!(MalformedXML, "The Status of versioning is Enabled or Suspended.")),
        None => {
            return Err(s3_error!(IllegalVersioningConfigurationException, "The Versioning element must be specified"));
        }
    };
    match configuration.mfa_delete.as_ref().map(MFADelete::as_str) {
        None | Some(MFADelete::DISABLED) => {}
        // S3's answer to a device that it does not know; here none is known.
        Some(MFADelete::ENABLED) => {
            return Err(s3_error!(
                AccessDenied,
                "Mfa Authentication must be used for this request, and this server knows no device for it: leave MfaDelete out."
            ));
        }
        Some(_) => return Err(s3_error!(MalformedXML, "MfaDelete is Enabled or Disabled.")),
    }
    gateway.engine.set_versioning(&input.bucket, versioning).await.map_err(from_engine)?;
    Ok(S3Response::new(PutBucketVersioningOutput {}))
}

pub(super) async fn list(
    gateway: &Gateway,
    request: S3Request<ListObjectVersionsInput>,
) -> S3Result<S3Response<ListObjectVersionsOutput>> {
    let owners = Owners::new(&gateway.authority, Admitted::of(&request)?);
    let input = request.input;
    let encoding = Encoding::new(input.encoding_type.as_ref())?;
    let max_keys = page_size(input.max_keys, "max-keys")?;
    let list = ListVersions {
        version_marker: version_marker(input.key_marker.as_deref(), input.version_id_marker.as_deref())?,
        key_marker: input.key_marker.clone().filter(|key| !key.is_empty()),
        bucket: input.bucket,
        prefix: input.prefix.unwrap_or_default(),
        delimiter: delimiter(input.delimiter.as_ref()),
        max: usize::try_from(max_keys).unwrap_or(0),
    };
    let page = page(gateway, &list)?;
    let restore = wants_restore(input.optional_object_attributes.as_ref());
    let mut show = Show { encoding, owners, restore };
    let order = VersionOrder(page.entries.iter().map(|entry| entry.marker).collect());
    let (markers, versions): (Vec<_>, Vec<_>) = page.entries.into_iter().partition(|entry| entry.marker);
    let truncated = page.next.is_some();
    let (next_key, next_version) = match page.next {
        Some((key, version)) => (Some(encoding.apply(key)), version.map(|version| version.to_string())),
        None => (None, None),
    };
    let mut response = S3Response::new(ListObjectVersionsOutput {
        name: Some(list.bucket),
        prefix: Some(encoding.apply(list.prefix)),
        key_marker: Some(encoding.apply(input.key_marker.unwrap_or_default())),
        version_id_marker: Some(input.version_id_marker.unwrap_or_default()),
        max_keys: Some(max_keys),
        is_truncated: Some(truncated),
        versions: (!versions.is_empty()).then(|| versions.into_iter().map(|entry| show.version(entry)).collect()),
        delete_markers: (!markers.is_empty()).then(|| markers.into_iter().map(|entry| show.marker(entry)).collect()),
        common_prefixes: encoding.common_prefixes(page.common_prefixes),
        delimiter: list.delimiter.map(|delimiter| encoding.apply(delimiter)),
        next_key_marker: next_key,
        next_version_id_marker: next_version,
        encoding_type: input.encoding_type,
        request_charged: None,
    });
    response.extensions.insert(order);
    Ok(response)
}

/// The version of the key marker behind which a listing begins.
fn version_marker(key: Option<&str>, version: Option<&str>) -> S3Result<Option<VersionRef>> {
    match (key.filter(|key| !key.is_empty()), version) {
        (_, None) => Ok(None),
        (_, Some("")) => Err(s3_error!(InvalidArgument, "A version-id marker cannot be empty.")),
        (None, Some(_)) => {
            Err(s3_error!(InvalidArgument, "A version-id marker cannot be specified without a key marker."))
        }
        (Some(_), Some(version)) => parse(version).map(Some),
    }
}

/// Asks the engine; a page of no keys only checks the bucket, and is never "truncated", as in S3.
fn page(gateway: &Gateway, list: &ListVersions) -> S3Result<VersionsPage> {
    if list.max == 0 {
        gateway.engine.bucket(&list.bucket).map_err(from_engine)?;
        return Ok(VersionsPage::default());
    }
    gateway.engine.list_versions(list).map_err(from_engine)
}

/// How versions are shown.
struct Show<'a> {
    encoding: Encoding,
    owners: Owners<'a>,
    restore: bool,
}

impl Show<'_> {
    fn version(&mut self, entry: VersionEntry) -> ObjectVersion {
        ObjectVersion {
            checksum_algorithm: entry
                .checksum
                .map(|(algorithm, _)| vec![ChecksumAlgorithm::from_static(checksums::name(algorithm))]),
            checksum_type: entry.checksum.map(|(_, composite)| checksums::type_name(composite)),
            e_tag: Some(ETag::Strong(entry.etag)),
            is_latest: Some(entry.latest),
            key: Some(self.encoding.apply(entry.key)),
            last_modified: Some(time(entry.modified)),
            owner: Some(self.owners.of(entry.owner.as_ref())),
            restore_status: entry.restore.filter(|_| self.restore).map(restore_status),
            size: Some(signed(entry.size)),
            storage_class: Some(ObjectVersionStorageClass::from(entry.class_shown)),
            version_id: Some(shown(entry.version, entry.null)),
        }
    }

    fn marker(&mut self, entry: VersionEntry) -> DeleteMarkerEntry {
        DeleteMarkerEntry {
            is_latest: Some(entry.latest),
            key: Some(self.encoding.apply(entry.key)),
            last_modified: Some(time(entry.modified)),
            owner: Some(self.owners.of(entry.owner.as_ref())),
            version_id: Some(shown(entry.version, entry.null)),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const ID: &str = "0123456789abcdef0123456789abcdef";

    #[test]
    fn a_version_is_named_by_its_32_digits_or_by_null() {
        assert_eq!(named(None).unwrap(), VersionRef::Current);
        assert_eq!(named(Some("null")).unwrap(), VersionRef::Null);
        let id = VersionId(0x0123_4567_89ab_cdef_0123_4567_89ab_cdef);
        assert_eq!(named(Some(ID)).unwrap(), VersionRef::Id(id));
        assert_eq!(shown(id, false), ID);
        assert_eq!(shown(id, true), "null");
        for bad in ["", "NULL", "0", &ID[1..], &format!("{ID}0"), &ID.to_uppercase(), &format!("+{}", &ID[1..])] {
            assert_eq!(named(Some(bad)).unwrap_err().code().as_str(), "InvalidArgument", "{bad}");
        }
    }

    #[test]
    fn a_listing_begins_behind_a_key_or_behind_one_of_its_versions() {
        for key in [None, Some(""), Some("k")] {
            assert_eq!(version_marker(key, None).unwrap(), None);
        }
        assert_eq!(version_marker(Some("k"), Some("null")).unwrap(), Some(VersionRef::Null));
        assert_eq!(version_marker(Some("k"), Some(ID)).unwrap(), Some(named(Some(ID)).unwrap()));
        for (key, version) in [(None, ID), (Some(""), "null"), (Some("k"), ""), (Some("k"), "nonsense")] {
            let refused = version_marker(key, Some(version)).unwrap_err();
            assert_eq!(refused.code().as_str(), "InvalidArgument", "{key:?} {version}");
        }
    }
}
