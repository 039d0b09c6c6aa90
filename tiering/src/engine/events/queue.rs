//! The queues of events: what waits for each target.

use super::{Event, NotificationRule, SETTING};
use crate::engine::error::EngineError;
use crate::engine::record::Record;
use crate::engine::{Core, Engine, keys};
use crate::meta::{AppliedOp, Batch, CommitObserver, KeyRange, MetaError, MetaStore, Reason, Table};
use std::collections::BTreeMap;
use std::ops::{Bound, ControlFlow};
use std::sync::{Mutex, MutexGuard, PoisonError};
use tokio::sync::watch;

/// An event that waits.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct QueuedEvent {
    /// Its place in the order of all events of this store.
    pub id: u128,
    /// What is to be told.
    pub event: Event,
}

/// A queue, for statistics.
#[derive(Debug, Clone, Default, PartialEq, Eq, serde::Serialize, serde::Deserialize)]
#[serde(default)]
pub struct EventQueueStats {
    /// The target.
    pub target: String,
    /// The configuration names it.
    pub configured: bool,
    /// Events that wait.
    pub queued: u64,
    /// How many may wait.
    pub max_queued: u64,
    /// The age of the oldest, in milliseconds; 0 when none waits.
    pub oldest_age_ms: u64,
    /// Events that were not queued since the start because the queue was full.
    pub dropped: u64,
}

/// How many events wait for each target. Counts along by observing commits.
#[derive(Debug)]
pub(crate) struct Queues {
    lines: Mutex<BTreeMap<String, Line>>,
    arrived: watch::Sender<u64>,
}

#[derive(Debug, Default)]
struct Line {
    /// `None`: the configuration does not name the target.
    most: Option<u64>,
    queued: u64,
    /// It was said that it is full.
    full: bool,
}

impl Queues {
    /// `targets`: how many events may wait for each.
    pub(crate) fn new(targets: &BTreeMap<String, u64>) -> Self {
        let lines = targets.iter().map(|(name, most)| (name.clone(), Line { most: Some(*most), ..Line::default() }));
        Self { lines: Mutex::new(lines.collect()), arrived: watch::Sender::new(0) }
    }

    /// Counts what waits already.
    pub(crate) fn load(&self, meta: &dyn MetaStore) -> Result<(), MetaError> {
        let mut lines = self.lock();
        meta.scan_each(Table::Event, (Bound::Unbounded, Bound::Unbounded), &mut |key, _| {
            if let Some((target, _)) = keys::split_event(key) {
                lines.entry(target.to_owned()).or_default().queued += 1;
            }
            ControlFlow::Continue(())
        })?;
        for (target, line) in lines.iter().filter(|(_, line)| line.most.is_none()) {
            tracing::warn!(
                to = target,
                queued = line.queued,
                "events wait for a target that the configuration does not name any more: put it back, and they are sent"
            );
        }
        Ok(())
    }

    fn lock(&self) -> MutexGuard<'_, BTreeMap<String, Line>> {
        self.lines.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Whether one more event may wait for a target, besides those that `batch` has already. Commits that run side by side may each be
    /// told so: the queue can grow past its limit by what they bring.
    pub(super) fn has_room(&self, target: &str, batch: &Batch) -> bool {
        let mut lines = self.lock();
        let line = lines.entry(target.to_owned()).or_default();
        let most = line.most.unwrap_or(0);
        let room = most.saturating_sub(line.queued);
        // Only a queue that is nearly full needs a count.
        if room > batch.ops.len() as u64 || room > added(batch, target) {
            return true;
        }
        if !std::mem::replace(&mut line.full, true) {
            tracing::error!(
                to = target,
                queued = line.queued,
                max_queued = most,
                configured = line.most.is_some(),
                "EVENTS ARE LOST: as many wait for this target as may; what happens until some were sent will not be told"
            );
        }
        false
    }

    fn is_known(&self, target: &str) -> bool {
        self.lock().get(target).is_some_and(|line| line.most.is_some())
    }
}

/// Events for a target that a commit adds.
fn added(batch: &Batch, target: &str) -> u64 {
    let events = batch.ops.iter().filter(|op| op.table == Table::Event && op.value.is_some());
    events.filter(|op| keys::split_event(&op.key).is_some_and(|(to, _)| to == target)).count() as u64
}

impl CommitObserver for Queues {
    fn applied(&self, _seq: u64, ops: &[AppliedOp]) {
        let mut arrived = false;
        for AppliedOp { op, old } in ops.iter().filter(|applied| applied.op.table == Table::Event) {
            let Some((target, _)) = keys::split_event(&op.key) else { continue };
            let mut lines = self.lock();
            let line = lines.entry(target.to_owned()).or_default();
            match (old.is_some(), op.value.is_some()) {
                (false, true) => {
                    line.queued += 1;
                    arrived = true;
                }
                (true, false) => line.queued = line.queued.saturating_sub(1),
                _ => {}
            }
            // Said again only after it was half empty, or each event that is sent would let the log say it once more.
            line.full &= line.queued > line.most.unwrap_or(0) / 2;
        }
        if arrived {
            self.arrived.send_modify(|count| *count = count.wrapping_add(1));
        }
    }
}

impl Engine {
    /// Whether the configuration names a target of events.
    pub fn has_event_target(&self, target: &str) -> bool {
        self.core.events.queues.is_known(target)
    }

    /// Changes whenever an event was queued.
    pub fn event_arrivals(&self) -> watch::Receiver<u64> {
        self.core.events.queues.arrived.subscribe()
    }

    /// The oldest events that wait for a target, at most `limit`. None while this store is a standby, or another has taken its
    /// place: then that one tells them. Records that do not decode are reported and passed over.
    ///
    /// # Errors
    /// A failure of the index.
    pub fn events(&self, target: &str, limit: usize) -> Result<Vec<QueuedEvent>, EngineError> {
        self.events_of(keys::prefix(&keys::events_of(target)), limit)
    }

    /// As [`events`](Self::events), of those behind the one with this id.
    ///
    /// # Errors
    /// A failure of the index.
    pub fn events_after(&self, target: &str, id: u128, limit: usize) -> Result<Vec<QueuedEvent>, EngineError> {
        let (_, end) = keys::prefix(&keys::events_of(target));
        self.events_of((Bound::Excluded(keys::event(target, id)), end), limit)
    }

    fn events_of(&self, (mut start, end): KeyRange, limit: usize) -> Result<Vec<QueuedEvent>, EngineError> {
        let mut found = Vec::new();
        if self.core.is_fenced() {
            return Ok(found);
        }
        while found.len() < limit {
            let page = self.core.meta.scan(Table::Event, (start, end.clone()), limit, false)?;
            for (key, value) in &page {
                let event = self.core.usable(Table::Event, key, Event::decode(value));
                if let (Some((_, id)), Some(event)) = (keys::split_event(key), event) {
                    found.push(QueuedEvent { id, event });
                }
            }
            match page.last() {
                Some((key, _)) if page.len() == limit => start = Bound::Excluded(key.clone()),
                _ => break,
            }
        }
        found.truncate(limit);
        Ok(found)
    }

    /// Takes events out that have arrived at their target, or that it will never get.
    ///
    /// # Errors
    /// A failed commit: they are sent again.
    pub async fn events_sent(&self, target: &str, ids: &[u128]) -> Result<(), EngineError> {
        if ids.is_empty() {
            return Ok(());
        }
        let gone = |batch: Batch, id: &u128| batch.delete(Table::Event, keys::event(target, *id));
        let batch = ids.iter().fold(Batch::new(Reason::EventsSent), gone);
        Ok(self.core.meta.commit(batch).await.map(drop)?)
    }

    /// The queues of all targets that are configured, or for which events wait.
    ///
    /// # Errors
    /// A failure of the index.
    pub fn event_queues(&self) -> Result<Vec<EventQueueStats>, EngineError> {
        let core = &self.core;
        let now = core.clock.now();
        let mut all: Vec<_> = {
            let lines = core.events.queues.lock();
            let shown = |(target, line): (&String, &Line)| EventQueueStats {
                target: target.clone(),
                configured: line.most.is_some(),
                queued: line.queued,
                max_queued: line.most.unwrap_or(0),
                oldest_age_ms: 0,
                dropped: core.metrics.events_dropped.with_label_values(&[target]).get(),
            };
            lines.iter().map(shown).filter(|line| line.configured || line.queued > 0 || line.dropped > 0).collect()
        };
        for line in &mut all {
            let oldest = core.meta.scan(Table::Event, keys::prefix(&keys::events_of(&line.target)), 1, false)?;
            if let Some(Ok(event)) = oldest.first().map(|(_, value)| Event::decode(value)) {
                line.oldest_age_ms = u64::try_from(now.since(event.at).as_millis()).unwrap_or(u64::MAX);
            }
        }
        Ok(all)
    }

    /// Sets the rules of a bucket's notifications, none to have none. With `test`, the same commit queues an
    /// [`EventKind::Test`](super::EventKind::Test) for each target that they name.
    ///
    /// # Errors
    /// [`EngineError::NoSuchBucket`].
    pub async fn set_notifications(
        &self,
        bucket: &str,
        rules: &[NotificationRule],
        test: bool,
    ) -> Result<(), EngineError> {
        let json =
            serde_json::to_vec(rules).map_err(|e| EngineError::Internal(format!("encode notifications: {e}")))?;
        let set = |settings: &mut crate::engine::BucketSettings| {
            match rules.is_empty() {
                true => settings.config.remove(SETTING),
                false => settings.config.insert(SETTING.to_owned(), json.clone()),
            };
            Ok(())
        };
        let tested = if test { rules } else { &[] };
        self.configure_and_test(bucket, set, tested).await
    }
}

impl Core {
    /// What an operator should know about events that do not arrive.
    pub(crate) fn event_warning(&self) -> Option<String> {
        let lines = self.events.queues.lock();
        let problems: Vec<String> = lines
            .iter()
            .filter_map(|(target, line)| match line.most {
                None if line.queued > 0 => Some(format!(
                    "{} events wait for target {target}, which the configuration does not name",
                    line.queued
                )),
                Some(most) if line.queued >= most => Some(format!(
                    "{} events wait for target {target}: no more fit, and further ones are lost",
                    line.queued
                )),
                _ => None,
            })
            .collect();
        (!problems.is_empty()).then(|| format!("notifications: {}", problems.join("; ")))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_commit_of_many_events_stops_at_the_limit() {
        let queues = Queues::new(&[("a".to_owned(), 3), ("b".to_owned(), 3)].into());
        let mut batch = Batch::new(Reason::Transition);
        for id in 0..3 {
            // Other changes and other targets are not counted.
            batch = batch.put(Table::Object, format!("o{id}"), "").put(Table::Event, keys::event("b", id), "");
            assert!(queues.has_room("a", &batch), "{id} wait");
            batch = batch.put(Table::Event, keys::event("a", id), "");
        }
        assert!(!queues.has_room("a", &batch));
        assert!(queues.has_room("a", &Batch::new(Reason::Transition)), "it was not committed");
    }
}
