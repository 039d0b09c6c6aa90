//! Listings.

use super::call::Call;
use super::client::Client;
use super::xml;
use crate::tier::error::{TierError, TierErrorKind};
use crate::tier::metrics::Operation;
use crate::tier::{RemoteMeta, RemoteVersion};
use reqwest::Method;

/// Most keys of one page.
const PAGE: usize = 1000;

impl Client {
    /// ListObjectsV2: up to `max` objects whose names start with `prefix` and sort (by bytes) after `start_after`, in as
    /// many pages as it takes.
    ///
    /// # Errors
    /// See [`TierError`].
    pub async fn list_objects(
        &self,
        prefix: &str,
        start_after: Option<&str>,
        max: usize,
    ) -> Result<Vec<RemoteMeta>, TierError> {
        const OPERATION: Operation = Operation::ListObjectsV2;
        let bad = |why: String| self.error(TierErrorKind::Corrupt, (OPERATION, prefix), why);
        let own_prefix = self.prefix();
        let mut all: Vec<RemoteMeta> = Vec::new();
        let mut token: Option<String> = None;
        while all.len() < max {
            let mut call = Call::new(OPERATION, Method::GET, None)
                .query("list-type", 2)
                .query("encoding-type", "url")
                .query("max-keys", (max - all.len()).min(PAGE))
                .query("prefix", self.key(prefix));
            match (&token, start_after) {
                (Some(token), _) => call = call.query("continuation-token", token),
                (None, Some(name)) => call = call.query("start-after", self.key(name)),
                (None, None) => {}
            }
            let page: xml::ListBucketResult = xml::read(&self.send(&call).await?.body).map_err(bad)?;
            let came = page.contents.len();
            for object in page.contents {
                let key = xml::decode_key(&object.key, &page.encoding_type).map_err(bad)?;
                let Some(name) = key.strip_prefix(&own_prefix) else {
                    return Err(bad(format!("key {key:?} does not start with the prefix asked for")));
                };
                all.push(RemoteMeta {
                    name: name.to_owned(),
                    size: object.size,
                    class: xml::class_name(&object.storage_class),
                    crc64: None,
                    restore: xml::restore_state(&object.restore_info),
                });
            }
            if !page.is_truncated {
                break;
            }
            if came == 0 || page.next_continuation_token.is_empty() {
                return Err(bad("a page says that more follows, but not where".to_owned()));
            }
            token = Some(page.next_continuation_token);
        }
        all.truncate(max);
        Ok(all)
    }

    /// ListObjectVersions: up to `max` versions and markers of names that start with `prefix`, those behind `after`, in as many
    /// pages as it takes. A bucket that never kept versions has one of each object.
    ///
    /// # Errors
    /// See [`TierError`].
    pub async fn list_versions(
        &self,
        prefix: &str,
        after: Option<&RemoteVersion>,
        max: usize,
    ) -> Result<Vec<RemoteVersion>, TierError> {
        const OPERATION: Operation = Operation::ListObjectVersions;
        let bad = |why: String| self.error(TierErrorKind::Corrupt, (OPERATION, prefix), why);
        let own_prefix = self.prefix();
        let mut all: Vec<RemoteVersion> = Vec::new();
        while all.len() < max {
            let mut call = Call::new(OPERATION, Method::GET, None)
                .query("versions", "")
                .query("encoding-type", "url")
                .query("max-keys", (max - all.len()).min(PAGE))
                .query("prefix", self.key(prefix));
            if let Some(last) = all.last().or(after) {
                call = call.query("key-marker", self.key(&last.name)).query("version-id-marker", &last.version);
            }
            let page: xml::VersionsPage = xml::read(&self.send(&call).await?.body).map_err(bad)?;
            let (before, more, encoding) = (all.len(), page.is_truncated(), page.encoding_type());
            for (found, marker) in page.entries.iter().filter_map(xml::VersionsEntry::version) {
                let key = xml::decode_key(&found.key, encoding).map_err(bad)?;
                let Some(name) = key.strip_prefix(&own_prefix) else {
                    return Err(bad(format!("key {key:?} does not start with the prefix asked for")));
                };
                let (name, version) = (name.to_owned(), found.version_id.clone());
                all.push(RemoteVersion { name, version, size: found.size, latest: found.is_latest, marker });
            }
            if !more {
                break;
            }
            if all.len() == before {
                return Err(bad("a page says that more follows, but not where".to_owned()));
            }
        }
        all.truncate(max);
        Ok(all)
    }
}
