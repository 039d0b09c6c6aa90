//! The active policy, its replacement while running, and the re-index that follows.

use super::protect::validate_protection;
use super::report::ReindexProgress;
use super::{Core, Engine, EngineError};
use crate::clock::Timestamp;
use crate::meta::{Batch, MetaStore, Reason, Table};
use std::collections::BTreeMap;
use std::sync::{Arc, Mutex, PoisonError};
use tidegate_policies::{DAY, Policy};

/// A policy and what follows from it once.
#[derive(Debug)]
pub(crate) struct ActivePolicy {
    pub policy: Policy,
    /// The same in days of 24 hours, when days are shortened for tests.
    calendar: Option<Policy>,
    pub text: String,
    /// Some rule looks at reads.
    pub tracks_access: bool,
    /// The lowest fill level (percent) at which a rule moves anything: each turn of the scheduler asks.
    pub lowest_fill: Option<u8>,
}

impl ActivePolicy {
    /// `day` is the length of a day in milliseconds.
    pub(crate) fn new(policy: Policy, text: String, day: u64) -> Self {
        let calendar = (day != DAY).then(|| policy.clone());
        Self::of(if day == DAY { policy } else { policy.with_day(day) }, calendar, text)
    }

    fn of(policy: Policy, calendar: Option<Policy>, text: String) -> Self {
        let lowest_fill = policy.lowest_fill_trigger();
        let tracks_access = policy.uses_last_access() || lowest_fill.is_some();
        Self { policy, calendar, text, tracks_access, lowest_fill }
    }

    /// With the rules that `add` adds for a length of the day.
    pub(crate) fn joined(&self, add: impl Fn(&Policy, u64) -> Policy, day: u64) -> Self {
        let calendar = self.calendar.as_ref().map(|policy| add(policy, DAY));
        Self::of(add(&self.policy, day), calendar, self.text.clone())
    }

    /// The rules in days of 24 hours: what clients are told.
    pub(crate) fn calendar(&self) -> &Policy {
        self.calendar.as_ref().unwrap_or(&self.policy)
    }

    /// What the due index depends on.
    fn digest(&self, day: u64) -> String {
        let mut hasher = blake3::Hasher::new();
        hasher.update(self.text.as_bytes());
        if day != DAY {
            hasher.update(&day.to_be_bytes());
        }
        hasher.finalize().to_hex().to_string()
    }
}

/// How far a re-index is.
#[derive(Debug, Default)]
pub(crate) struct Progress(Mutex<ReindexProgress>);

impl Progress {
    pub(crate) fn begin(&self, now: Timestamp, total: u64) {
        *self.lock() = ReindexProgress { running: true, done: 0, total, started: Some(now), finished: None };
    }

    pub(crate) fn step(&self) {
        self.lock().done += 1;
    }

    pub(crate) fn end(&self, now: Timestamp) {
        let mut progress = self.lock();
        progress.running = false;
        progress.finished = Some(now);
    }

    fn lock(&self) -> std::sync::MutexGuard<'_, ReindexProgress> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// Whether every tier that the policy names is configured.
///
/// # Errors
/// A sentence that names the first one that is not, and those that are.
pub fn validate_policy_tiers<T>(policy: &Policy, tiers: &BTreeMap<String, T>) -> Result<(), String> {
    match policy.tiers().iter().find(|t| !tiers.contains_key(&t.name)) {
        None => Ok(()),
        Some(unknown) => {
            let known: Vec<&str> = tiers.keys().map(String::as_str).collect();
            Err(format!("the policy names tier {}, the configuration has: {}", unknown.name, known.join(", ")))
        }
    }
}

const DIGEST_KEY: &[u8] = b"policy-digest";

impl Core {
    pub(crate) fn policy(&self) -> Arc<ActivePolicy> {
        self.rules.document()
    }

    /// Re-indexes in the background when the policy is not the one that the due index was made by.
    pub(crate) fn start_reindex_if_changed(self: &Arc<Self>) -> Result<(), EngineError> {
        let day = self.settings.lifecycle.day();
        let digest = self.policy().digest(day);
        let known = self.meta.get(Table::System, DIGEST_KEY)?;
        // While one runs, the due index is made partly by the one policy and partly by the other, whatever is noted.
        if known.as_deref() == Some(digest.as_bytes()) && !self.progress.lock().running {
            return Ok(());
        }
        self.progress.begin(self.clock.now(), self.accounts.objects());
        let core = Arc::clone(self);
        self.jobs.spawn(async move {
            let outcome = async {
                // First the note goes: a crash on the way, and then a start with the old policy, must walk again.
                core.meta.commit(Batch::new(Reason::System).delete(Table::System, DIGEST_KEY)).await?;
                core.reindex(None).await?;
                // Only now: a crash on the way makes the next start re-index again.
                let still_active = core.policy().digest(day) == digest;
                if still_active && !core.stop.is_cancelled() {
                    core.meta.commit(Batch::new(Reason::System).put(Table::System, DIGEST_KEY, digest)).await?;
                }
                Ok::<(), EngineError>(())
            };
            let outcome = outcome.await;
            core.progress.end(core.clock.now());
            if let Err(e) = outcome {
                core.metrics.scheduler_errors.inc();
                tracing::error!(error = %e, "re-index after a change of rules failed; the next start tries again");
            }
        });
        Ok(())
    }
}

impl Engine {
    /// Replaces the policy. Existing versions are re-indexed in the background, see [`Engine::reindex_progress`].
    ///
    /// # Errors
    /// [`EngineError::InvalidArgument`] when it names a tier that is not configured, or protects in one that cannot be read at
    /// once: then nothing changes.
    pub async fn set_policy(&self, policy: Policy, text: String) -> Result<(), EngineError> {
        validate_policy_tiers(&policy, &self.core.tiers)
            .and_then(|()| validate_protection(&policy, &self.core.tiers))
            .map_err(EngineError::InvalidArgument)?;
        self.core.rules.replace(policy, text);
        self.core.start_reindex_if_changed()
    }

    /// The text of the active policy.
    pub fn policy_text(&self) -> String {
        self.core.policy().text.clone()
    }

    /// How far the re-index after the last change of rules is.
    pub fn reindex_progress(&self) -> ReindexProgress {
        *self.core.progress.lock()
    }
}
