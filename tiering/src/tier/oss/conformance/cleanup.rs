//! What a run removes at its end: everything below its folder, whatever has failed before, and nothing else.

use super::tree::Node;
use super::{Conformance, ConformanceCleanup};
use crate::tier::error::{TierError, TierErrorKind};
use crate::tier::metrics::Operation;
use crate::tier::oss::call::Call;
use crate::tier::oss::xml::decode_key;
use reqwest::Method;
use std::collections::BTreeSet;
use std::sync::PoisonError;

/// Most objects that are looked for; a run writes fewer than fifty.
const MAX_LEFT: usize = 10_000;
/// Most pages of versions, of at most a thousand each: as many as there are objects.
const MAX_PAGES: usize = 10;

/// A version of a name, or a marker of its deletion.
struct Kept {
    name: String,
    version: String,
}

impl Conformance {
    /// Removes everything below the run's folder, with all versions when the bucket is known to keep them, or is found to.
    pub(super) async fn clean(&self, versioned: bool) -> ConformanceCleanup {
        let mut cleanup = ConformanceCleanup::default();
        let mut names = self.written.lock().unwrap_or_else(PoisonError::into_inner).clone();
        match self.client.list_objects(&self.folder, None, MAX_LEFT).await {
            Ok(found) => names.extend(found.into_iter().map(|object| object.name)),
            Err(error) => cleanup.errors.push(error.to_string()),
        }
        let undeleted = self.delete(&names, &mut cleanup).await;
        self.abort(&mut cleanup).await;
        match self.client.list_objects(&self.folder, None, MAX_LEFT).await {
            Ok(left) => cleanup.left.extend(left.into_iter().map(|object| self.client.key(&object.name))),
            Err(error) => {
                cleanup.errors.push(error.to_string());
                cleanup.left.extend(undeleted);
            }
        }
        // That the deletions above kept something is told by their answers, too.
        if versioned || self.client.keeps_versions() {
            self.delete_versions(&mut cleanup).await;
        }
        cleanup.errors.dedup();
        cleanup
    }

    /// Deletes `names`; returns the keys that this was not possible for. What the listings say is checked, for nothing outside
    /// of the folder may ever be deleted.
    async fn delete(&self, names: &BTreeSet<String>, cleanup: &mut ConformanceCleanup) -> Vec<String> {
        let mut undeleted = Vec::new();
        for name in names.iter().filter(|name| name.starts_with(&self.folder)) {
            match self.client.delete_object(name).await {
                Ok(()) => cleanup.deleted += 1,
                Err(error) => {
                    undeleted.push(self.client.key(name));
                    cleanup.errors.push(error.to_string());
                }
            }
        }
        undeleted
    }

    async fn abort(&self, cleanup: &mut ConformanceCleanup) {
        let found = match self.client.list_uploads(&self.folder).await {
            Ok(found) => found,
            Err(error) => return cleanup.errors.push(error.to_string()),
        };
        for upload in found.into_iter().filter(|upload| upload.name.starts_with(&self.folder)) {
            match self.client.abort_multipart(&upload.name, &upload.upload_id).await {
                Ok(()) => cleanup.aborted += 1,
                Err(error) => cleanup.errors.push(error.to_string()),
            }
        }
    }

    /// Deletes every version and marker below the folder, and tells those that stay.
    async fn delete_versions(&self, cleanup: &mut ConformanceCleanup) {
        for _ in 0..MAX_PAGES {
            let found = match self.versions().await {
                Ok(found) => found,
                Err(error) => return cleanup.errors.push(error.to_string()),
            };
            let mut stays = false;
            for kept in found.iter().filter(|kept| kept.name.starts_with(&self.folder)) {
                match self.client.delete_object_version(&kept.name, &kept.version).await {
                    Ok(()) => cleanup.versions += 1,
                    Err(error) => {
                        stays = true;
                        cleanup.left.push(format!("{}?versionId={}", self.client.key(&kept.name), kept.version));
                        cleanup.errors.push(error.to_string());
                    }
                }
            }
            if found.is_empty() || stays {
                return;
            }
        }
        cleanup.errors.push(format!("more versions than {MAX_PAGES} pages have"));
    }

    /// The first page of ListObjectVersions below the folder.
    async fn versions(&self) -> Result<Vec<Kept>, TierError> {
        const OPERATION: Operation = Operation::ListObjectVersions;
        let bad = |why: String| self.client.error(TierErrorKind::Corrupt, (OPERATION, &self.folder), why);
        let call = Call::new(OPERATION, Method::GET, None)
            .query("versions", "")
            .query("encoding-type", "url")
            .query("max-keys", 1000)
            .query("prefix", self.client.key(&self.folder));
        let answer = self.client.send(&call).await?;
        let root = Node::parse(&answer.body).ok_or_else(|| bad("the answer cannot be read".to_owned()))?;
        let encoding = root.text_of("EncodingType").unwrap_or_default();
        let entries = root.children.iter().filter(|node| matches!(node.name.as_str(), "Version" | "DeleteMarker"));
        entries
            .map(|node| {
                let key = decode_key(node.text_of("Key").unwrap_or_default(), encoding).map_err(bad)?;
                let version = node.text_of("VersionId").unwrap_or_default().to_owned();
                let name = key.strip_prefix(&self.client.prefix()).unwrap_or(&key).to_owned();
                Ok(Kept { name, version })
            })
            .collect()
    }
}
