//! Documents of the protocol: read into structs, written by hand.

use super::settings::StorageClass;
use crate::tier::RestoreState;
use percent_encoding::percent_decode_str;
use serde::Deserialize;

/// Reads a document.
pub(crate) fn read<T: serde::de::DeserializeOwned>(body: &[u8]) -> Result<T, String> {
    let text = std::str::from_utf8(body).map_err(|e| format!("the answer is not UTF-8: {e}"))?;
    quick_xml::de::from_str(text).map_err(|e| format!("the answer cannot be read: {e}"))
}

/// Text for an element.
pub(crate) fn escape(text: &str) -> String {
    quick_xml::escape::escape(text).into_owned()
}

/// A key or prefix as it stands in a listing with `encoding-type=url`.
pub(crate) fn decode_key(text: &str, encoding: &str) -> Result<String, String> {
    if encoding != "url" {
        return Ok(text.to_owned());
    }
    // A plus is a space in this encoding; a plus itself comes as %2B.
    percent_decode_str(&text.replace('+', "%20"))
        .decode_utf8()
        .map(|t| t.into_owned())
        .map_err(|e| format!("key {text:?} is not UTF-8: {e}"))
}

/// Answer of ListObjectsV2.
#[derive(Debug, Default, Deserialize)]
#[serde(rename_all = "PascalCase", default)]
pub(crate) struct ListBucketResult {
    pub encoding_type: String,
    pub is_truncated: bool,
    pub next_continuation_token: String,
    pub contents: Vec<Contents>,
}

/// One object of a listing.
#[derive(Debug, Default, Deserialize)]
#[serde(rename_all = "PascalCase", default)]
pub(crate) struct Contents {
    pub key: String,
    pub size: u64,
    pub storage_class: String,
    pub restore_info: String,
}

/// Answer of ListObjectVersions, of at most one entry: in longer ones versions and markers take turns.
#[derive(Debug, Default, Deserialize)]
#[serde(rename_all = "PascalCase", default)]
pub(crate) struct ListVersionsResult {
    pub encoding_type: String,
    pub version: Vec<ListedVersion>,
    pub delete_marker: Vec<ListedVersion>,
}

/// A version of an object, or a marker that hides those before it.
#[derive(Debug, Default, Deserialize)]
#[serde(rename_all = "PascalCase", default)]
pub(crate) struct ListedVersion {
    pub key: String,
    pub version_id: String,
    pub is_latest: bool,
    pub size: u64,
}

/// Answer of ListObjectVersions of any length: its elements in their order.
#[derive(Debug, Default, Deserialize)]
#[serde(default)]
pub(crate) struct VersionsPage {
    #[serde(rename = "$value")]
    pub entries: Vec<VersionsEntry>,
}

/// One element of that answer.
#[derive(Debug, Deserialize)]
pub(crate) enum VersionsEntry {
    EncodingType(String),
    IsTruncated(bool),
    Version(ListedVersion),
    DeleteMarker(ListedVersion),
    #[serde(other)]
    Other,
}

impl VersionsEntry {
    /// The version, and whether it is a marker.
    pub fn version(&self) -> Option<(&ListedVersion, bool)> {
        match self {
            VersionsEntry::Version(found) => Some((found, false)),
            VersionsEntry::DeleteMarker(found) => Some((found, true)),
            _ => None,
        }
    }
}

impl VersionsPage {
    pub fn is_truncated(&self) -> bool {
        self.entries.iter().any(|e| matches!(e, VersionsEntry::IsTruncated(true)))
    }

    pub fn encoding_type(&self) -> &str {
        let encoding = self.entries.iter().find_map(|e| match e {
            VersionsEntry::EncodingType(name) => Some(name.as_str()),
            _ => None,
        });
        encoding.unwrap_or("")
    }
}

/// Answer of InitiateMultipartUpload.
#[derive(Debug, Deserialize)]
#[serde(rename_all = "PascalCase")]
pub(crate) struct InitiateMultipartUploadResult {
    pub upload_id: String,
}

/// Answer of CompleteMultipartUpload, CopyObject and UploadPartCopy.
#[derive(Debug, Default, Deserialize)]
#[serde(rename_all = "PascalCase", default)]
pub(crate) struct EtagResult {
    #[serde(rename = "ETag")]
    pub etag: String,
}

/// Answer of ListMultipartUploads.
#[derive(Debug, Default, Deserialize)]
#[serde(rename_all = "PascalCase", default)]
pub(crate) struct ListMultipartUploadsResult {
    pub encoding_type: String,
    pub is_truncated: bool,
    pub next_key_marker: String,
    pub next_upload_id_marker: String,
    pub upload: Vec<Upload>,
}

/// One unfinished upload.
#[derive(Debug, Default, Deserialize)]
#[serde(rename_all = "PascalCase", default)]
pub(crate) struct Upload {
    pub key: String,
    pub upload_id: String,
}

/// Answer of ListParts.
#[derive(Debug, Default, Deserialize)]
#[serde(rename_all = "PascalCase", default)]
pub(crate) struct ListPartsResult {
    pub is_truncated: bool,
    pub next_part_number_marker: String,
    pub part: Vec<ListedPart>,
}

/// One part of an unfinished upload.
#[derive(Debug, Default, Deserialize)]
#[serde(rename_all = "PascalCase", default)]
pub(crate) struct ListedPart {
    pub part_number: u32,
    #[serde(rename = "ETag")]
    pub etag: String,
    pub size: u64,
    pub hash_crc64ecma: String,
}

/// Answer of DeleteMultipleObjects.
#[derive(Debug, Default, Deserialize)]
#[serde(rename_all = "PascalCase", default)]
pub(crate) struct DeleteResult {
    pub encoding_type: String,
    pub deleted: Vec<Deleted>,
}

/// One deleted object.
#[derive(Debug, Default, Deserialize)]
#[serde(rename_all = "PascalCase", default)]
pub(crate) struct Deleted {
    pub key: String,
}

/// Tags of an object.
#[derive(Debug, Default, Deserialize)]
#[serde(rename_all = "PascalCase", default)]
pub(crate) struct Tagging {
    pub tag_set: TagSet,
}

/// Their list.
#[derive(Debug, Default, Deserialize)]
#[serde(rename_all = "PascalCase", default)]
pub(crate) struct TagSet {
    pub tag: Vec<Tag>,
}

/// One of them.
#[derive(Debug, Default, Deserialize)]
#[serde(rename_all = "PascalCase", default)]
pub(crate) struct Tag {
    pub key: String,
    pub value: String,
}

/// Answer of GetBucketInfo.
#[derive(Debug, Default, Deserialize)]
#[serde(rename_all = "PascalCase", default)]
pub(crate) struct BucketInfoResult {
    pub bucket: BucketElement,
}

/// Its only element.
#[derive(Debug, Default, Deserialize)]
#[serde(rename_all = "PascalCase", default)]
pub(crate) struct BucketElement {
    pub name: String,
    pub location: String,
    pub storage_class: String,
    pub data_redundancy_type: String,
    pub versioning: String,
}

/// Reads `x-oss-restore` or `RestoreInfo`.
pub(crate) fn restore_state(text: &str) -> RestoreState {
    if text.contains("ongoing-request=\"true\"") {
        return RestoreState::Ongoing;
    }
    let until = text
        .split_once("expiry-date=\"")
        .and_then(|(_, rest)| rest.split_once('"'))
        .and_then(|(date, _)| super::date::parse_http(date));
    match until {
        Some(until) if text.contains("ongoing-request=\"false\"") => RestoreState::Restored { until },
        _ => RestoreState::None,
    }
}

/// The class as this crate writes it, or as the store wrote it when it is not known.
pub(crate) fn class_name(text: &str) -> Option<String> {
    let known = StorageClass::parse(text).map(|class| class.name().to_owned());
    known.or_else(|| (!text.is_empty()).then(|| text.to_owned()))
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::clock::Timestamp;

    #[test]
    fn a_listing_is_read_with_its_optional_elements_and_its_namespace() {
        let text = r#"<?xml version="1.0" encoding="UTF-8"?>
<ListBucketResult xmlns="http://doc.oss-cn-hangzhou.aliyuncs.com"><Name>b</Name><Prefix></Prefix><MaxKeys>2</MaxKeys>
<EncodingType>url</EncodingType><IsTruncated>true</IsTruncated><NextContinuationToken>CgJiYw--</NextContinuationToken>
<Contents><Key>a%2B%20b</Key><LastModified>2020-05-18T05:45:43.000Z</LastModified><ETag>"X"</ETag><Type>Normal</Type>
<Size>7</Size><StorageClass>Archive</StorageClass><RestoreInfo>ongoing-request="true"</RestoreInfo></Contents>
<Contents><Key>c</Key><Size>0</Size><StorageClass>STANDARD</StorageClass></Contents><KeyCount>2</KeyCount></ListBucketResult>"#;
        let list: ListBucketResult = read(text.as_bytes()).unwrap();
        assert!(list.is_truncated);
        assert_eq!(list.contents.len(), 2);
        assert_eq!(decode_key(&list.contents[0].key, &list.encoding_type).unwrap(), "a+ b");
        assert_eq!(restore_state(&list.contents[0].restore_info), RestoreState::Ongoing);
        assert_eq!(class_name(&list.contents[1].storage_class).as_deref(), Some("Standard"));
        let empty: ListBucketResult = read(b"<ListBucketResult/>").unwrap();
        assert!(empty.contents.is_empty() && !empty.is_truncated);
    }

    #[test]
    fn the_restore_header_has_three_states() {
        assert_eq!(restore_state(""), RestoreState::None);
        assert_eq!(restore_state("ongoing-request=\"true\""), RestoreState::Ongoing);
        let done = "ongoing-request=\"false\", expiry-date=\"Sun, 16 Apr 2017 08:12:33 GMT\"";
        assert_eq!(restore_state(done), RestoreState::Restored { until: Timestamp(1_492_330_353_000) });
    }
}
