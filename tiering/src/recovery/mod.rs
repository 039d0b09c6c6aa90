//! The namespace in the cloud: what is shipped there and under which names, who may write there, and how a store is built
//! from it. The shipping itself is in `engine/ship/`, the following in `engine/follow/`; names and bytes are in `docs/formats.md`, reasons in ADR 17 and 20.

pub(crate) mod claim;
mod directory;
mod from_packs;
mod lost;
pub(crate) mod names;
pub(crate) mod plan;
mod recover;
mod settings;
pub(crate) mod standby;

pub use crate::engine::examine::{Examined, MissingObject};
pub use directory::UNFINISHED;
pub use from_packs::{FromPacks, FromPacksReport, News, OddPack, recover_from_packs};
pub use lost::LostChange;
pub use plan::{Moment, Plan};
pub use recover::{RecoverProgress, RecoverReport, RecoverRequest, recover};
pub use settings::{RecoverySettings, StandbySettings};
pub use standby::{
    Prepared, Promoted, Rejoined, STANDBY, StandbyPhase, StandbyRequest, finish as finish_promotion,
    prepare as prepare_standby, start_over as restart_standby,
};

use crate::disk;
use crate::meta::MetaError;
use crate::tier::{Tier, TierError, TierErrorKind};
use bytes::{Bytes, BytesMut};
use futures::StreamExt;
use serde::Serialize;
use serde::de::DeserializeOwned;
use std::ops::Range;
use std::path::Path;

/// Why something about the namespace in the cloud failed.
#[derive(Debug, thiserror::Error)]
pub enum RecoveryError {
    /// Another store has taken this one's place.
    #[error("{0}")]
    Fenced(String),
    /// The tier failed.
    #[error("the recovery tier: {0}")]
    Tier(#[from] TierError),
    /// A tier with packs failed.
    #[error("tier {0}: {1}")]
    Packs(String, TierError),
    /// The namespace on the local disk failed.
    #[error("{0}")]
    Meta(#[from] MetaError),
    /// A local file failed.
    #[error("{0}")]
    Local(String),
    /// What is asked for cannot be done; the message says why and what can.
    #[error("{0}")]
    Refused(String),
    /// What the cloud has does not fit together.
    #[error("{0}")]
    Damaged(String),
    /// An object of the tier does not hold what its name says.
    #[error("{name} in the recovery tier is damaged: {what}")]
    DamagedObject {
        /// Its name.
        name: String,
        /// What is wrong.
        what: String,
    },
}

/// Whether what a directory has came from the cloud, so that bytes that are nowhere are no surprise.
pub(crate) fn bytes_may_be_missing(dir: &Path) -> bool {
    [directory::FINISHED, standby::PROMOTED].iter().any(|file| dir.join(file).exists())
}

pub(crate) fn local(what: &str, path: &Path, e: &std::io::Error) -> RecoveryError {
    RecoveryError::Local(format!("cannot {what} {}: {e}", path.display()))
}

/// Names asked for by one listing.
const LIST_PAGE: usize = 1000;

/// All names below `prefix` that sort after `after`, with their sizes.
pub(crate) async fn list(
    tier: &dyn Tier,
    prefix: &str,
    after: Option<&str>,
) -> Result<Vec<(String, u64)>, RecoveryError> {
    let mut found: Vec<(String, u64)> = Vec::new();
    loop {
        let last = found.last().map(|(name, _)| name.clone());
        let page = tier.list(prefix, last.as_deref().or(after), LIST_PAGE).await?;
        let full = page.len() >= LIST_PAGE;
        found.extend(page.into_iter().map(|meta| (meta.name, meta.size)));
        if !full {
            return Ok(found);
        }
    }
}

/// The deployments that have something below `root`.
pub(crate) async fn deployments(tier: &dyn Tier, root: &str) -> Result<Vec<String>, RecoveryError> {
    let mut found: Vec<String> = Vec::new();
    loop {
        // `0` comes right after `/`: behind everything of the one before.
        let after = found.last().map(|d| format!("{root}{d}0"));
        let next = tier.list(root, after.as_deref(), 1).await?;
        let Some(meta) = next.first() else { return Ok(found) };
        let rest = meta.name.strip_prefix(root).unwrap_or_default();
        let Some((deployment, _)) = rest.split_once('/') else { return Ok(found) };
        found.push(deployment.to_owned());
    }
}

/// A whole object of known size.
pub(crate) async fn fetch(tier: &dyn Tier, name: &str, size: u64) -> Result<Bytes, RecoveryError> {
    fetch_range(tier, name, 0..size).await
}

/// A range of an object.
pub(crate) async fn fetch_range(tier: &dyn Tier, name: &str, range: Range<u64>) -> Result<Bytes, RecoveryError> {
    let size = range.end.saturating_sub(range.start);
    let mut all = BytesMut::with_capacity(usize::try_from(size).unwrap_or(0));
    let mut stream = tier.get(name, range).await?;
    while let Some(piece) = stream.next().await {
        all.extend_from_slice(&piece?);
    }
    if all.len() as u64 != size {
        let message = format!("{} of {size} bytes came", all.len());
        return Err(TierError::plain(TierErrorKind::Corrupt, "get", name, message).into());
    }
    Ok(all.freeze())
}

/// Writes a file whole or not at all, durable with its name.
pub(crate) fn write_file(path: &Path, bytes: &[u8]) -> Result<(), RecoveryError> {
    let mut tmp = path.as_os_str().to_owned();
    tmp.push(".tmp");
    let tmp = Path::new(&tmp);
    let write = || {
        disk::write_synced(tmp, bytes)?;
        disk::rename(tmp, path)?;
        path.parent().map_or(Ok(()), disk::sync_dir)
    };
    write().map_err(|e| local("write", path, &e))
}

/// What a small file says; none when it is not there.
pub(crate) fn read_json<T: DeserializeOwned>(path: &Path) -> Result<Option<T>, RecoveryError> {
    match std::fs::read(path) {
        Ok(text) => serde_json::from_slice(&text)
            .map(Some)
            .map_err(|e| RecoveryError::Local(format!("{} is damaged: {e}", path.display()))),
        Err(e) if e.kind() == std::io::ErrorKind::NotFound => Ok(None),
        Err(e) => Err(local("read", path, &e)),
    }
}

/// Replaces such a file, durably.
pub(crate) fn write_json(path: &Path, value: &impl Serialize) -> Result<(), RecoveryError> {
    let text = serde_json::to_vec_pretty(value).map_err(|e| RecoveryError::Local(e.to_string()))?;
    write_file(path, &text)
}
