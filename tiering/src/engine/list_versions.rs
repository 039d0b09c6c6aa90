//! Listings of versions: the tables Object and Version side by side, in the order of keys and the newest of a key first.

use super::error::EngineError;
use super::keys;
use super::list::{after_prefix, broken_key, common_prefix};
use super::listings::{ListVersions, VersionEntry, VersionsPage};
use super::read::restore_status;
use super::record::{ObjectRecord, Record};
use super::types::{VersionId, VersionRef};
use super::{Core, Engine};
use crate::meta::{Entry, MetaStore, Table};
use std::collections::VecDeque;
use std::ops::Bound;

/// Entries of one table that one look into the index takes, at most. With a delimiter it begins with few: what lies below a common
/// prefix is not wanted.
const SCAN_PAGE: usize = 1_000;
const FEW: usize = 8;

/// One table, read a page at a time.
struct Stream {
    table: Table,
    start: Bound<Vec<u8>>,
    end: Bound<Vec<u8>>,
    page: VecDeque<Entry>,
    size: usize,
    ended: bool,
}

impl Stream {
    fn new(table: Table, start: Bound<Vec<u8>>, end: Bound<Vec<u8>>, size: usize) -> Self {
        Self { table, start, end, page: VecDeque::new(), size, ended: false }
    }

    fn front(&mut self, core: &Core, want: usize) -> Result<Option<&Entry>, EngineError> {
        if self.page.is_empty() && !self.ended {
            let want = want.min(self.size);
            self.size = self.size.saturating_mul(2).min(SCAN_PAGE);
            let page = core.meta.scan(self.table, (self.start.clone(), self.end.clone()), want, false)?;
            self.ended = page.len() < want;
            if let Some((last, _)) = page.last() {
                self.start = Bound::Excluded(last.clone());
            }
            self.page = page.into();
        }
        Ok(self.page.front())
    }

    /// Goes on behind all that begins with `prefix`.
    fn skip(&mut self, prefix: &[u8]) {
        self.page.retain(|(key, _)| !key.starts_with(prefix));
        if self.page.is_empty() && !self.ended {
            self.start = after_prefix(prefix);
            self.size = FEW;
        }
    }
}

impl Engine {
    /// One page of versions and delete markers. With a delimiter, a common prefix costs one seek, however many keys lie below it; a
    /// page that begins in the middle of a key's versions reads none of those before.
    ///
    /// # Errors
    /// [`EngineError::NoSuchBucket`].
    pub fn list_versions(&self, list: &ListVersions) -> Result<VersionsPage, EngineError> {
        let core = &self.core;
        core.versioning(&list.bucket)?;
        let (mut objects, mut versions) = core.streams(list)?;
        let mut page = VersionsPage::default();
        let mut count = 0usize;
        loop {
            let want = list.max.saturating_sub(count).saturating_add(1);
            let object = objects.front(core, want)?.map(|(key, _)| key.clone());
            let version = versions.front(core, want)?.map(|(key, _)| keys::object_of(key).to_vec());
            let is_object = match (&object, &version) {
                (None, None) => {
                    page.next = None;
                    return Ok(page);
                }
                (Some(object), Some(version)) => object <= version,
                (object, _) => object.is_some(),
            };
            if count == list.max {
                return Ok(page);
            }
            let stream = if is_object { &mut objects } else { &mut versions };
            let Some((subject, stored)) = stream.page.pop_front() else { continue };
            let (_, key) = keys::split_object(&subject).ok_or_else(|| broken_key("version"))?;
            if let Some(common) = common_prefix(key, &list.prefix, list.delimiter.as_deref()) {
                count += 1;
                let below = keys::object(&list.bucket, common);
                objects.skip(&below);
                versions.skip(&below);
                page.next = Some((common.to_owned(), None));
                page.common_prefixes.push(common.to_owned());
                continue;
            }
            let record = ObjectRecord::decode(&stored)?;
            // Superseded since the page of the visible ones was read: it is there already.
            if page.entries.last().is_some_and(|last| last.version == record.version && last.key == key) {
                continue;
            }
            count += 1;
            let named = if record.null { VersionRef::Null } else { VersionRef::Id(record.version) };
            page.next = Some((key.to_owned(), Some(named)));
            page.entries.push(core.version_entry(key, record));
        }
    }
}

impl Core {
    fn version_entry(&self, key: &str, record: ObjectRecord) -> VersionEntry {
        VersionEntry {
            key: key.to_owned(),
            version: record.version,
            null: record.null,
            latest: record.noncurrent_since.is_none(),
            marker: record.marker,
            size: record.size,
            class_shown: self.class_shown(&record),
            restore: restore_status(&record),
            etag: record.etag,
            modified: record.modified,
            owner: record.attributes.owner,
            checksum: record.checksum.map(|c| (c.algorithm, c.composite)),
        }
    }

    /// Both tables from where a listing begins: never before the prefix.
    fn streams(&self, list: &ListVersions) -> Result<(Stream, Stream), EngineError> {
        let prefix = keys::object(&list.bucket, &list.prefix);
        let end = keys::prefix_end(&prefix);
        let (object, version) = match &list.key_marker {
            None => (Bound::Included(prefix.clone()), Bound::Included(prefix.clone())),
            Some(key) => self.starts(list, key)?,
        };
        let [object, version] = [object, version].map(|start| match start {
            Bound::Included(early) | Bound::Excluded(early) if early < prefix => Bound::Included(prefix.clone()),
            start => start,
        });
        let size = if list.delimiter.is_some() { FEW } else { SCAN_PAGE };
        Ok((Stream::new(Table::Object, object, end.clone(), size), Stream::new(Table::Version, version, end, size)))
    }

    fn starts(&self, list: &ListVersions, key: &str) -> Result<keys::KeyRange, EngineError> {
        let object = keys::object(&list.bucket, key);
        let behind = match list.version_marker {
            None | Some(VersionRef::Current) => {
                let is_common = common_prefix(key, &list.prefix, list.delimiter.as_deref()) == Some(key);
                if is_common {
                    return Ok((after_prefix(&object), after_prefix(&object)));
                }
                let versions = after_prefix(&keys::versions_of(&object));
                return Ok((Bound::Excluded(object), versions));
            }
            Some(VersionRef::Id(id)) => Some(id),
            // One that is there no more says nothing of where it was: the key is listed again rather than left out.
            Some(VersionRef::Null) => self.null_version(&list.bucket, key)?.map(|null| null.record.version),
        };
        let Some(behind) = behind else {
            let versions = keys::versions_of(&object);
            return Ok((Bound::Included(object), Bound::Included(versions)));
        };
        // The visible version may have become that since the last page: then it is older than the marker and still to come.
        let current = self.meta.get(Table::Object, &object)?.map(|stored| ObjectRecord::decode(&stored)).transpose()?;
        let is_older = |record: ObjectRecord| record.version < behind;
        let first = match current.is_some_and(is_older) {
            true => Bound::Included(object),
            false => Bound::Excluded(object),
        };
        Ok((first, Bound::Excluded(keys::version(&list.bucket, key, VersionId(behind.0)))))
    }
}
