//! Listings come from the local index only: no tier is ever asked.

use super::Engine;
use super::error::EngineError;
use super::keys;
use super::listings::{ListObjects, ListPage, ListUploads, ListedObject, UploadPage};
use super::read::restore_status;
use super::record::{ObjectRecord, Record, UploadRecord};
use super::types::UploadInfo;
use crate::meta::{MetaStore, Table};
use crate::mutants::{self, Mutant};
use std::ops::Bound;

/// Entries that one look into the index takes at most.
const SCAN_PAGE: usize = 1_000;

/// How many entries the next look takes. With a delimiter, what lies below a common prefix is jumped over, so that all but the first
/// entry may have been read for nothing: looks are short behind a jump, and grow while none comes.
struct Looks(usize);

impl Looks {
    const SHORT: usize = 2;

    fn new(delimiter: Option<&str>) -> Self {
        Self(if delimiter.is_some() { Self::SHORT } else { SCAN_PAGE })
    }

    /// For a page that takes `left` entries more; one beyond them tells whether there is another page.
    fn entries(&self, left: usize) -> usize {
        self.0.min(left.saturating_add(1))
    }

    fn next(&mut self, jumped: bool) {
        self.0 = if jumped { Self::SHORT } else { self.0.saturating_mul(4).min(SCAN_PAGE) };
    }
}

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
        let mut looks = Looks::new(list.delimiter.as_deref());
        loop {
            let want = looks.entries(list.max_keys.saturating_sub(count));
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
                    owner: record.attributes.owner,
                });
                start = Bound::Excluded(key);
            }
            if exhausted && !jumped {
                return Ok(page);
            }
            looks.next(jumped);
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
        let mut looks = Looks::new(list.delimiter.as_deref());
        loop {
            let want = looks.entries(list.max_uploads.saturating_sub(count));
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
                    encryption: record.attributes.encryption,
                    owner: record.attributes.owner,
                });
                start = Bound::Excluded(stored_key);
            }
            if exhausted && !jumped {
                page.next = None;
                return Ok(page);
            }
            looks.next(jumped);
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
    fn looks_are_short_behind_a_jump_and_grow_to_a_page_while_none_comes() {
        let mut looks = Looks::new(Some("/"));
        let mut seen = Vec::new();
        for jumped in [false, false, false, false, false, true, true] {
            seen.push(looks.entries(1_000));
            looks.next(jumped);
        }
        assert_eq!(seen, [2, 8, 32, 128, 512, 1_000, 2]);
        assert_eq!((Looks::new(None).entries(1_000), Looks::new(None).entries(10)), (1_000, 11));
    }

    #[test]
    fn a_common_prefix_ends_with_the_first_delimiter_behind_the_prefix() {
        assert_eq!(common_prefix("a/b/c", "", Some("/")), Some("a/"));
        assert_eq!(common_prefix("a/b/c", "a/", Some("/")), Some("a/b/"));
        assert_eq!(common_prefix("a/b/c", "a/b/", Some("/")), None);
        assert_eq!(common_prefix("a--b--c", "a", Some("--")), Some("a--"));
        assert_eq!(common_prefix("a/b", "", None), None);
    }
}
