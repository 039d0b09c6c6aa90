//! Listings come from the local index only: no tier is ever asked.

use super::Engine;
use super::error::EngineError;
use super::keys;
use super::read::restore_status;
use super::record::{ObjectRecord, Record, UploadRecord};
use super::types::{ListObjects, ListPage, ListUploads, ListedObject, UploadInfo, UploadPage};
use crate::meta::{MetaStore, Table};
use crate::mutants::{self, Mutant};
use std::ops::Bound;

/// Entries that one look into the index takes.
const SCAN_PAGE: usize = 1_000;

impl Engine {
    /// One page of a listing. With a delimiter, a common prefix costs one seek, however many keys lie below it.
    ///
    /// # Errors
    /// [`EngineError::NoSuchBucket`].
    pub fn list_objects(&self, list: &ListObjects) -> Result<ListPage, EngineError> {
        self.bucket(&list.bucket)?;
        let mut page = ListPage::default();
        let base = keys::object(&list.bucket, "");
        let prefix = keys::object(&list.bucket, &list.prefix);
        let end = keys::prefix_end(&prefix);
        let mut start = first_bound(&base, &prefix, list);
        let mut count = 0usize;
        loop {
            let want = SCAN_PAGE.min(list.max_keys.saturating_sub(count).saturating_add(1));
            let entries = self.core.meta.scan(Table::Object, (start.clone(), end.clone()), want, false)?;
            let exhausted = entries.len() < want;
            let mut jumped = false;
            for (key, value) in entries {
                let (_, name) = keys::split_object(&key).ok_or_else(|| broken_key("object"))?;
                if count == list.max_keys {
                    page.next = last_of(&page);
                    return Ok(page);
                }
                count += 1;
                if let Some(common) = common_prefix(name, &list.prefix, list.delimiter.as_deref()) {
                    // All keys below a common prefix are skipped by a seek, not by reading them.
                    start = after_prefix(&keys::object(&list.bucket, common));
                    page.common_prefixes.push(common.to_owned());
                    jumped = true;
                    break;
                }
                let record = ObjectRecord::decode(&value)?;
                page.objects.push(ListedObject {
                    key: name.to_owned(),
                    size: record.size,
                    class_shown: self.core.class_shown(&record),
                    restore: restore_status(&record),
                    etag: record.etag,
                    last_modified: record.modified,
                    checksum: record.checksum.map(|c| (c.algorithm, c.composite)),
                });
                start = Bound::Excluded(key);
            }
            if exhausted && !jumped {
                return Ok(page);
            }
        }
    }

    /// One page of unfinished uploads, by key and time of creation (upload ids are time-ordered).
    ///
    /// # Errors
    /// [`EngineError::NoSuchBucket`].
    pub fn list_uploads(&self, list: &ListUploads) -> Result<UploadPage, EngineError> {
        self.bucket(&list.bucket)?;
        let mut page = UploadPage::default();
        let prefix = keys::object(&list.bucket, &list.prefix);
        let end = keys::prefix_end(&prefix);
        let mut start = first_upload(prefix, list);
        let mut count = 0usize;
        loop {
            let want = SCAN_PAGE.min(list.max_uploads.saturating_sub(count).saturating_add(1));
            let entries = self.core.meta.scan(Table::Upload, (start.clone(), end.clone()), want, false)?;
            let exhausted = entries.len() < want;
            let mut jumped = false;
            for (stored_key, value) in entries {
                let (_, key, id) = keys::split_upload(&stored_key).ok_or_else(|| broken_key("upload"))?;
                if count == list.max_uploads {
                    return Ok(page);
                }
                count += 1;
                if let Some(common) = common_prefix(key, &list.prefix, list.delimiter.as_deref()) {
                    start = after_prefix(&keys::object(&list.bucket, common));
                    page.next = Some((common.to_owned(), None));
                    page.common_prefixes.push(common.to_owned());
                    jumped = true;
                    break;
                }
                let record = UploadRecord::decode(&value)?;
                page.next = Some((key.to_owned(), Some(id.to_owned())));
                page.uploads.push(UploadInfo {
                    bucket: list.bucket.clone(),
                    key: key.to_owned(),
                    upload_id: id.to_owned(),
                    initiated: record.initiated,
                    storage_class: record.attributes.storage_class,
                    checksum: record.checksum,
                });
                start = Bound::Excluded(stored_key);
            }
            if exhausted && !jumped {
                page.next = None;
                return Ok(page);
            }
        }
    }
}

pub(super) fn broken_key(what: &str) -> EngineError {
    EngineError::Corrupt(format!("the key of an {what} record does not come apart"))
}

/// Where a listing begins. A start that is itself a common prefix of an earlier page skips all below it.
fn first_bound(base: &[u8], prefix: &[u8], list: &ListObjects) -> Bound<Vec<u8>> {
    let Some(after) = list.after.as_deref() else { return Bound::Included(prefix.to_vec()) };
    let mut start = base.to_vec();
    start.extend_from_slice(after.as_bytes());
    if start.as_slice() < prefix {
        return Bound::Included(prefix.to_vec());
    }
    let is_common = list
        .delimiter
        .as_deref()
        .is_some_and(|d| common_prefix(after, &list.prefix, Some(d)).is_some_and(|common| common == after));
    if mutants::active(Mutant::ListingSkips) {
        start.push(b'~');
    }
    if is_common { after_prefix(&start) } else { Bound::Excluded(start) }
}

/// The first key that does not start with `prefix`, as an inclusive start.
pub(super) fn after_prefix(prefix: &[u8]) -> Bound<Vec<u8>> {
    match keys::prefix_end(prefix) {
        Bound::Excluded(end) => Bound::Included(end),
        other => other,
    }
}

/// Where a listing of uploads begins: never before the prefix, and behind all uploads of the key after which it goes on, or behind all that
/// lies below it when it is a common prefix of an earlier page.
fn first_upload(prefix: Vec<u8>, list: &ListUploads) -> Bound<Vec<u8>> {
    let Some((key, upload_id)) = &list.after else { return Bound::Included(prefix) };
    let start = match upload_id {
        Some(upload_id) => Bound::Excluded(keys::upload(&list.bucket, key, upload_id)),
        None if common_prefix(key, &list.prefix, list.delimiter.as_deref()) == Some(key.as_str()) => {
            after_prefix(&keys::object(&list.bucket, key))
        }
        None => {
            let mut all_of_key = keys::object(&list.bucket, key);
            all_of_key.push(0);
            after_prefix(&all_of_key)
        }
    };
    match start {
        Bound::Included(early) | Bound::Excluded(early) if early < prefix => Bound::Included(prefix),
        start => start,
    }
}

/// The part of `key` up to and with the first delimiter behind the prefix.
pub(super) fn common_prefix<'a>(key: &'a str, prefix: &str, delimiter: Option<&str>) -> Option<&'a str> {
    let delimiter = delimiter.filter(|d| !d.is_empty())?;
    let at = key.get(prefix.len()..)?.find(delimiter)?;
    key.get(..prefix.len() + at + delimiter.len())
}

fn last_of(page: &ListPage) -> Option<String> {
    let object = page.objects.last().map(|o| o.key.as_str());
    let common = page.common_prefixes.last().map(String::as_str);
    object.max(common).map(str::to_owned)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_common_prefix_ends_with_the_first_delimiter_behind_the_prefix() {
        assert_eq!(common_prefix("a/b/c", "", Some("/")), Some("a/"));
        assert_eq!(common_prefix("a/b/c", "a/", Some("/")), Some("a/b/"));
        assert_eq!(common_prefix("a/b/c", "a/b/", Some("/")), None);
        assert_eq!(common_prefix("a--b--c", "a", Some("--")), Some("a--"));
        assert_eq!(common_prefix("a/b", "", None), None);
    }
}
