//! Names of packs in tiers.

use crate::engine::Core;
use crate::meta::MetaStore;
use crate::pack::PackId;

impl Core {
    /// Names in a tier are fresh: deployment, epoch, pack. An orphan can be told from its name alone.
    pub(super) fn remote_name(&self, id: &PackId) -> String {
        format!("{}/{:08}/{id}.pack", folder(&self.deployment), self.meta.epoch())
    }
}

/// Where a deployment's packs are in a tier.
pub(crate) fn folder(deployment: &str) -> String {
    format!("packs/{deployment}")
}

/// Epoch and pack of a name in a deployment's folder, exactly as it is written: what only looks alike is not ours to judge.
pub(crate) fn split_name(folder: &str, name: &str) -> Option<(u64, PackId)> {
    let rest = name.strip_prefix(folder)?.strip_prefix('/')?;
    let (epoch, file) = rest.split_once('/')?;
    let (epoch, pack): (u64, PackId) = (epoch.parse().ok()?, file.strip_suffix(".pack")?.parse().ok()?);
    (rest == format!("{epoch:08}/{pack}.pack")).then_some((epoch, pack))
}
