//! Settings of shipping.

use serde::{Deserialize, Serialize};
use std::time::Duration;

/// The section `recovery` of the configuration.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct RecoverySettings {
    /// The tier that the namespace is shipped to.
    pub tier: String,
    /// How far behind the cloud may be while it answers.
    #[serde(default = "defaults::rpo")]
    pub rpo: Duration,
    /// A lag above this is warned of.
    #[serde(default = "defaults::warn_after")]
    pub warn_after: Duration,
    /// How far back a moment can be recovered. Packs in tiers that are needed no more are kept as long.
    #[serde(default = "defaults::keep")]
    pub keep: Duration,
    /// A snapshot is shipped when the last one is older than this and something was shipped since.
    #[serde(default = "defaults::snapshot_interval")]
    pub snapshot_interval: Duration,
    /// A snapshot is shipped when so many objects of journal were shipped since the last one: a recovery reads them all.
    #[serde(default = "defaults::snapshot_after_objects")]
    pub snapshot_after_objects: u64,
    /// Bytes of journal that stay on the local disk only because they were not shipped yet.
    #[serde(default = "defaults::max_backlog_bytes")]
    pub max_backlog_bytes: u64,
}

mod defaults {
    use std::time::Duration;

    pub(super) fn rpo() -> Duration {
        Duration::from_secs(1)
    }
    pub(super) fn warn_after() -> Duration {
        Duration::from_secs(30)
    }
    pub(super) fn keep() -> Duration {
        Duration::from_secs(7 * 86_400)
    }
    pub(super) fn snapshot_interval() -> Duration {
        Duration::from_secs(86_400)
    }
    pub(super) fn snapshot_after_objects() -> u64 {
        10_000
    }
    pub(super) fn max_backlog_bytes() -> u64 {
        1 << 30
    }
}

impl RecoverySettings {
    /// The defaults, to the tier called `tier`.
    pub fn to(tier: &str) -> Self {
        Self {
            tier: tier.to_owned(),
            rpo: defaults::rpo(),
            warn_after: defaults::warn_after(),
            keep: defaults::keep(),
            snapshot_interval: defaults::snapshot_interval(),
            snapshot_after_objects: defaults::snapshot_after_objects(),
            max_backlog_bytes: defaults::max_backlog_bytes(),
        }
    }

    /// The first setting that cannot work, and what it may be.
    pub fn problem(&self) -> Option<(&'static str, &'static str)> {
        let milli = Duration::from_millis(1);
        [
            ("rpo", self.rpo < milli * 10 || self.rpo > Duration::from_secs(3600), "from 10ms to 1h"),
            ("warn_after", self.warn_after < self.rpo, "at least rpo"),
            ("snapshot_interval", self.snapshot_interval < Duration::from_secs(1), "at least 1s"),
            ("snapshot_after_objects", self.snapshot_after_objects == 0, "at least 1"),
        ]
        .into_iter()
        .find_map(|(name, wrong, want)| wrong.then_some((name, want)))
    }
}

/// The section `standby` of the configuration: how `tidegate standby` follows.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields, default)]
pub struct StandbySettings {
    /// The tier that is followed; given on the command line.
    #[serde(skip)]
    pub from: String,
    /// How often it is looked for something new.
    pub poll: Duration,
    /// A lag above this is warned of.
    pub warn_after: Duration,
}

impl Default for StandbySettings {
    fn default() -> Self {
        Self { from: String::new(), poll: Duration::from_secs(1), warn_after: Duration::from_secs(30) }
    }
}

impl StandbySettings {
    /// What to say where the section `recovery` does not name the tier that is followed.
    pub fn needs_recovery(&self) -> String {
        format!(
            "write recovery.tier: {} into the standby's configuration: once promoted it ships there, and only so is the next one \
             fenced off",
            self.from
        )
    }

    /// The first setting that cannot work, and what it may be.
    pub fn problem(&self) -> Option<(&'static str, &'static str)> {
        [
            ("poll", self.poll < Duration::from_millis(10) || self.poll > Duration::from_secs(3600), "from 10ms to 1h"),
            ("warn_after", self.warn_after < self.poll, "at least poll"),
        ]
        .into_iter()
        .find_map(|(name, wrong, want)| wrong.then_some((name, want)))
    }
}
