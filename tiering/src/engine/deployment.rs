//! The deployment's id, which makes names in the tiers this store's own; and what must not be opened as if it were a new store.

use super::error::EngineError;
use super::keys;
use super::record::{Record, RemotePackRecord};
use crate::clock::Timestamp;
use crate::disk;
use crate::meta::{MetaError, MetaStore, Table};
use crate::recovery::RecoverySettings;
use std::collections::BTreeSet;
use std::ops::{Bound, ControlFlow};
use std::path::Path;

/// A folder with packs or an id but without a journal was robbed of it. Opened as a new store it would take every chunk for
/// garbage.
pub(crate) fn refuse_robbed(data_dir: &Path) -> Result<(), EngineError> {
    let any = |folder: &str, endings: &[&str]| {
        let ends = |entry: std::fs::DirEntry| {
            entry.path().extension().is_some_and(|e| endings.iter().any(|ending| e == *ending))
        };
        std::fs::read_dir(data_dir.join(folder)).is_ok_and(|mut found| found.any(|entry| entry.is_ok_and(ends)))
    };
    let used = data_dir.join("deployment").exists() || any("packs", &["pack", "open"]);
    if !used || any("journal", &["seg"]) || any("snapshots", &["snap"]) {
        return Ok(());
    }
    Err(EngineError::Corrupt(format!(
        "{} has no segment, but {} has a deployment's id or packs: the namespace is gone. Bring the folders journal and snapshots \
         back from a backup. To begin with an empty store instead, name another data_dir",
        data_dir.join("journal").display(),
        data_dir.display()
    )))
}

/// Adds to an error of opening that the namespace can be had from the recovery tier.
pub(crate) fn with_recovery(error: MetaError, recovery: Option<&RecoverySettings>) -> MetaError {
    match (error, recovery) {
        (MetaError::Corrupt { file, offset, what, help }, Some(recovery)) => {
            let tier = &recovery.tier;
            let help = format!(
                "{help}. What was shipped can be had back by `tidegate recover --from {tier} --data-dir NEW`: see first with \
                 --dry-run which bytes are on this disk only"
            );
            MetaError::Corrupt { file, offset, what, help }
        }
        (other, _) => other,
    }
}

/// The deployment's id; made once. One that is gone is found in the names of the packs that the namespace has in tiers.
pub(crate) fn deployment_id(data_dir: &Path, meta: &dyn MetaStore, now: Timestamp) -> Result<String, EngineError> {
    let path = data_dir.join("deployment");
    let failed = |what: &str, e: std::io::Error| EngineError::Internal(format!("{what} {}: {e}", path.display()));
    let text = match std::fs::read(&path) {
        Ok(bytes) => Some(String::from_utf8_lossy(&bytes).trim().to_owned()),
        Err(e) if e.kind() == std::io::ErrorKind::NotFound => None,
        Err(e) => return Err(failed("read", e)),
    };
    if let Some(id) = text.as_deref().filter(|text| is_id(text)) {
        return Ok(id.to_owned());
    }
    let shipped = data_dir.join("term.json").exists();
    let known = ids_in_names(meta)?;
    let id = match (known.len(), known.into_iter().next(), &text) {
        (1, Some(id), _) => {
            tracing::warn!(file = %path.display(), id, "the deployment's id was gone; it is that in the names of its packs");
            id
        }
        (0, None, None) if !shipped => format!("{:032x}", keys::fresh_id(now)),
        _ => {
            return Err(EngineError::Corrupt(format!(
                "{} does not hold the 32 hex digits of a deployment's id, without which this store's packs and records in the tiers \
                 are nobody's: bring it back from a backup, or from the names in the tiers (packs/<deployment>/..., \
                 meta/<deployment>/...)",
                path.display()
            )));
        }
    };
    let temporary = data_dir.join("deployment.tmp");
    disk::write_synced(&temporary, id.as_bytes()).map_err(|e| failed("write", e))?;
    disk::rename(&temporary, &path).map_err(|e| failed("rename to", e))?;
    disk::sync_dir(data_dir).map_err(|e| failed("sync the folder of", e))?;
    Ok(id)
}

fn is_id(text: &str) -> bool {
    text.len() == 32 && text.bytes().all(|b| b.is_ascii_hexdigit())
}

/// Deployments in the names of packs; two are enough to know that the names do not tell.
fn ids_in_names(meta: &dyn MetaStore) -> Result<BTreeSet<String>, EngineError> {
    let mut found = BTreeSet::new();
    meta.scan_each(Table::RemotePack, (Bound::Unbounded, Bound::Unbounded), &mut |_, value| {
        let record = RemotePackRecord::decode(value).ok();
        let id = record.and_then(|r| r.name.strip_prefix("packs/")?.split('/').next().map(str::to_owned));
        found.extend(id.filter(|id| is_id(id)));
        if found.len() > 1 { ControlFlow::Break(()) } else { ControlFlow::Continue(()) }
    })?;
    Ok(found)
}
