//! The section `notifications`: whom buckets may have told of their events.

use super::{Config, Problem};
use crate::notify::Target;
use crate::server::Secret;
use serde::Deserialize;
use std::collections::BTreeMap;
use std::path::PathBuf;
use std::time::Duration;

/// Longest name of a target, in bytes: it is a metric label and part of ARNs and of keys.
const MAX_NAME: usize = 63;
/// Most targets: each has a task and connections of its own.
const MAX_TARGETS: usize = 64;
/// Most requests to one target at a time.
const MAX_CONCURRENCY: usize = 256;
/// Most events that may wait for one target: some 5 GB of them.
const MAX_QUEUED: u64 = 10_000_000;

/// Whom buckets may have told of their events.
#[derive(Debug, Clone, Default, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub struct NotificationsSection {
    /// The targets by name.
    pub targets: BTreeMap<String, TargetSection>,
}

/// A webhook.
#[derive(Debug, Clone, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub struct TargetSection {
    /// Where events are sent by POST; `http` or `https`. Kept like a secret, as the path of many webhooks is one.
    pub url: Secret,
    /// Bearer token of the header `Authorization`.
    pub token: Option<Secret>,
    /// Further headers.
    pub headers: BTreeMap<String, Secret>,
    /// Authorities (PEM) that the target's certificate may come from besides those of the system.
    pub ca_file: Option<PathBuf>,
    /// How long a request may take in all.
    pub timeout: Duration,
    /// Requests that are sent at a time. Events of one key are sent one after the other whatever this says.
    pub concurrency: usize,
    /// Events that may wait; what comes when there are as many is lost, and counted.
    pub max_queued: u64,
    /// The first wait after a failure; doubled each time.
    pub retry_min: Duration,
    /// The longest wait.
    pub retry_max: Duration,
}

impl Default for TargetSection {
    fn default() -> Self {
        Self {
            url: Secret::new(""),
            token: None,
            headers: BTreeMap::new(),
            ca_file: None,
            timeout: Duration::from_secs(10),
            concurrency: 4,
            max_queued: 100_000,
            retry_min: Duration::from_secs(1),
            retry_max: Duration::from_secs(300),
        }
    }
}

impl TargetSection {
    /// The first setting that cannot work, and what it may be.
    fn problem(&self) -> Option<(&'static str, &'static str)> {
        let (milli, hour) = (Duration::from_millis(1), Duration::from_secs(3600));
        [
            ("timeout", self.timeout < milli * 10 || self.timeout > hour, "from 10ms to 1h"),
            ("concurrency", !(1..=MAX_CONCURRENCY).contains(&self.concurrency), "from 1 to 256"),
            ("max_queued", !(1..=MAX_QUEUED).contains(&self.max_queued), "from 1 to 10000000"),
            ("retry_min", self.retry_min < milli * 10 || self.retry_min > hour, "from 10ms to 1h"),
            ("retry_max", self.retry_max < self.retry_min || self.retry_max > hour * 24, "from retry_min to 24h"),
        ]
        .into_iter()
        .find_map(|(name, wrong, want)| wrong.then_some((name, want)))
    }
}

pub(super) fn check(file: &str, config: &Config, problems: &mut Vec<Problem>) {
    let targets = &config.notifications.targets;
    if targets.len() > MAX_TARGETS {
        let message = format!("there are {} targets; {MAX_TARGETS} are possible", targets.len());
        problems.push(Problem::of_field(file, "notifications.targets", message, "remove some"));
    }
    for (name, target) in targets {
        let field = format!("notifications.targets.{name}");
        let fits = |c: char| c.is_ascii_lowercase() || c.is_ascii_digit() || c == '-' || c == '_';
        if name.is_empty() || name.len() > MAX_NAME || !name.chars().all(fits) {
            let help = "use 1 to 63 lower case letters, digits, - and _";
            problems.push(Problem::of_field(file, &field, format!("{name:?} is not a name for a target"), help));
        }
        if let Some((setting, want)) = target.problem() {
            let field = format!("{field}.{setting}");
            problems.push(Problem::of_field(file, &field, "this value cannot work", format!("write {want}")));
        } else if let Err(wrong) = Target::new(name, target) {
            problems.push(Problem::of_field(file, &format!("{field}.{}", wrong.setting), wrong.what, wrong.help));
        }
    }
}
