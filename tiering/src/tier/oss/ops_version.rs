//! Buckets that keep versions: a deletion that names none only hides the object behind a marker, and both stay on the bill.

use super::call::Call;
use super::client::Client;
use super::xml;
use crate::tier::error::{TierError, TierErrorKind};
use crate::tier::metrics::Operation;
use reqwest::Method;

/// Versions of one name that one deletion removes at most. Names are fresh: there is one, and a marker for each deletion
/// that named no version.
const MAX_VERSIONS: usize = 1000;

impl Client {
    /// DeleteObject of one version. A version that is not there counts as deleted.
    ///
    /// # Errors
    /// See [`TierError`].
    pub async fn delete_object_version(&self, name: &str, version: &str) -> Result<(), TierError> {
        let call = Call::new(Operation::DeleteObject, Method::DELETE, Some(name)).query("versionId", version);
        match self.send(&call).await {
            Err(error) if !error.is_not_found() => Err(error),
            _ => Ok(()),
        }
    }

    /// Deletes what is under exactly this name: with DeleteObject, and where the bucket keeps versions, every version and
    /// marker. Once that is known nothing is deleted without its version: each such attempt would add a marker, also when
    /// the versions themselves cannot be deleted.
    ///
    /// # Errors
    /// See [`TierError`].
    pub async fn delete_all_versions(&self, name: &str) -> Result<(), TierError> {
        if !self.keeps_versions() {
            let call = Call::new(Operation::DeleteObject, Method::DELETE, Some(name));
            match self.send(&call).await {
                Err(error) if !error.is_not_found() => return Err(error),
                _ if !self.keeps_versions() => return Ok(()),
                _ => {}
            }
        }
        for _ in 0..MAX_VERSIONS {
            match self.first_version(name).await? {
                Some(version) => self.delete_object_version(name, &version).await?,
                None => return Ok(()),
            }
        }
        let text = format!("more than {MAX_VERSIONS} versions; what is left goes with the next attempt");
        Err(self.error(TierErrorKind::Unavailable, (Operation::ListObjectVersions, name), text))
    }

    /// The newest version or marker of exactly `name`. One at a time: each is deleted before the next is asked for.
    async fn first_version(&self, name: &str) -> Result<Option<String>, TierError> {
        const OPERATION: Operation = Operation::ListObjectVersions;
        let bad = |why: String| self.error(TierErrorKind::Corrupt, (OPERATION, name), why);
        let call = Call::new(OPERATION, Method::GET, None)
            .query("versions", "")
            .query("encoding-type", "url")
            .query("max-keys", 1)
            .query("prefix", self.key(name));
        let page: xml::ListVersionsResult = xml::read(&self.send(&call).await?.body).map_err(bad)?;
        let Some(first) = page.version.into_iter().chain(page.delete_marker).next() else { return Ok(None) };
        // The exact name sorts before all others that begin with it.
        let key = xml::decode_key(&first.key, &page.encoding_type).map_err(bad)?;
        Ok((key == self.key(name)).then_some(first.version_id))
    }
}
