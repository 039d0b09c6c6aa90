//! The single committer: takes what waits, checks preconditions in order, makes bodies durable, then the records with one
//! write and one fdatasync, applies them to the index, tells the observers, answers.

use super::queue::{Answer, GroupLimit, Queue, Request};
use super::record::{RecordHeader, encode_record};
use super::segment::{SegmentHeader, SegmentWriter};
use crate::clock::Clock;
use crate::failpoint;
use crate::meta::{
    AppliedOp, Batch, CommitObserver, Committed, DataSync, Durability, Expect, GroupStats, Hold, MAX_KEY_BYTES,
    MetaError, MetaSettings, Op, Reason, SledIndex, Table, Value, prefix_range,
};
use crate::mutants::{self, Mutant};
use std::collections::BTreeMap;
use std::ops::Bound;
use std::path::PathBuf;
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Mutex, PoisonError, RwLock};
use std::time::{Duration, Instant};

/// The longest wait for the callers of the last group to come back; see [`Queue::take`].
const MAX_GATHER: Duration = Duration::from_micros(100);

/// What the committer shares with the store's callers.
pub(crate) struct Shared {
    /// The index; `None` once closed. The committer holds it exclusively while it applies one batch, so that whoever
    /// saw a part of a batch sees all of it afterwards.
    pub(crate) index: RwLock<Option<SledIndex>>,
    /// Latest applied record.
    pub(crate) applied: AtomicU64,
    /// Bytes of journal written since the store was opened.
    pub(crate) written: AtomicU64,
    /// Latest record known durable.
    pub(crate) durable: AtomicU64,
    /// Records up to this one are in the cloud; all of them when nobody ships.
    pub(crate) shipped: AtomicU64,
    /// Bytes of journal that may be kept for the cloud alone.
    pub(crate) max_held: AtomicU64,
    poison: Mutex<Option<String>>,
    /// Who replaced this store, when another did.
    fence: Mutex<Option<String>>,
    pub(crate) observers: RwLock<Vec<Arc<dyn CommitObserver>>>,
}

impl Shared {
    pub(crate) fn new(index: SledIndex, applied: u64, observers: Vec<Arc<dyn CommitObserver>>) -> Shared {
        Shared {
            index: RwLock::new(Some(index)),
            applied: AtomicU64::new(applied),
            written: AtomicU64::new(0),
            durable: AtomicU64::new(applied),
            shipped: AtomicU64::new(u64::MAX),
            max_held: AtomicU64::new(u64::MAX),
            poison: Mutex::new(None),
            fence: Mutex::new(None),
            observers: RwLock::new(observers),
        }
    }

    /// A handle to the index.
    pub(crate) fn index(&self) -> Result<SledIndex, MetaError> {
        self.index.read().unwrap_or_else(PoisonError::into_inner).clone().ok_or(MetaError::Closed)
    }

    /// The error that writes are refused with, if they are.
    pub(crate) fn poisoned(&self) -> Option<MetaError> {
        let cause = self.poison.lock().unwrap_or_else(PoisonError::into_inner).clone()?;
        Some(MetaError::Poisoned { cause })
    }

    /// The error that commits are refused with once another store has taken over.
    pub(crate) fn fenced(&self) -> Option<MetaError> {
        let cause = self.fence.lock().unwrap_or_else(PoisonError::into_inner).clone()?;
        Some(MetaError::Fenced { cause })
    }

    /// Refuses commits from now on: another store has taken over. The first cause stays.
    pub(crate) fn set_fence(&self, cause: String) {
        self.fence.lock().unwrap_or_else(PoisonError::into_inner).get_or_insert(cause);
    }

    /// Refuses writes from now on; the first cause stays.
    pub(crate) fn set_poison(&self, cause: String) -> MetaError {
        let mut poison = self.poison.lock().unwrap_or_else(PoisonError::into_inner);
        if poison.is_none() {
            tracing::error!(cause, "the namespace store refuses writes until it is opened again");
        }
        MetaError::Poisoned { cause: poison.get_or_insert(cause).clone() }
    }
}

/// The committer's parts.
pub(crate) struct Committer {
    pub(crate) queue: Arc<Queue>,
    pub(crate) shared: Arc<Shared>,
    pub(crate) data: Arc<dyn DataSync>,
    pub(crate) clock: Arc<dyn Clock>,
    pub(crate) settings: MetaSettings,
    /// The journal folder.
    pub(crate) dir: PathBuf,
    pub(crate) segment: SegmentWriter,
    /// The epoch of this opening; of a follower that of the last record.
    pub(crate) epoch: u64,
    /// The last segment, where a follower appends to it.
    pub(crate) last_segment: PathBuf,
    /// The last record written.
    pub(crate) last_seq: u64,
    /// The last record known durable.
    pub(crate) durable: u64,
    /// Bodies were appended that are not synced yet (relaxed durability).
    pub(crate) data_dirty: bool,
    /// Called after each group with the bytes of journal written since opening.
    pub(crate) after_group: Box<dyn Fn(u64) + Send>,
}

/// A batch whose preconditions hold, encoded.
struct Accepted {
    seq: u64,
    ops: Vec<Op>,
    answer: Option<Answer>,
    /// Until the group is applied and the observers know of it.
    _hold: Hold,
}

/// What a group decided before anything was written.
#[derive(Default)]
struct Plan {
    records: Vec<u8>,
    accepted: Vec<Accepted>,
    /// Answers that wait for the group's outcome: refusals too, since they may rest on its other batches.
    settled: Vec<(Answer, Result<(), MetaError>)>,
    overlay: BTreeMap<(Table, Vec<u8>), Option<Value>>,
    wrote_data: bool,
    force_sync: bool,
    conflicts: usize,
}

/// Empties the queue when the committer ends, however it ends: nobody may wait for an answer that never comes.
struct Abandon<'a>(&'a Queue, &'a Shared);

impl Drop for Abandon<'_> {
    fn drop(&mut self) {
        if std::thread::panicking() {
            self.1.set_poison("the committer stopped unexpectedly".to_owned());
        }
        self.0.abandon();
    }
}

impl Committer {
    /// Serves the queue until it is closed and empty; then everything written is durable, or the store is poisoned.
    pub(crate) fn run(mut self) {
        let (queue, shared) = (Arc::clone(&self.queue), Arc::clone(&self.shared));
        let _abandon = Abandon(&queue, &shared);
        let limit = GroupLimit { records: self.settings.max_group_records, bytes: self.settings.max_group_bytes };
        let mut group = Vec::new();
        let mut gather = (0, Duration::ZERO);
        let mut next_sync = self.next_sync();
        while queue.take(&mut group, limit, next_sync, gather) {
            if next_sync.is_some_and(|t| t <= Instant::now()) {
                self.background_sync();
                next_sync = self.next_sync();
            }
            if group.is_empty() {
                continue;
            }
            let size = group.len();
            let began = Instant::now();
            self.process(&mut group);
            // Waiting costs at most an eighth of what a group costs, and only after a group of several.
            gather = if size > 1 { (size, (began.elapsed() / 8).min(MAX_GATHER)) } else { (0, Duration::ZERO) };
            if next_sync.is_none() {
                next_sync = self.next_sync();
            }
        }
        self.background_sync();
        if let Some(e) = self.data.failed() {
            // Bodies in doubt: what is found at the next opening must be written again, so this end is no clean one.
            self.shared.set_poison(e.to_string());
        }
    }

    /// When relaxed commits must be synced.
    fn next_sync(&self) -> Option<Instant> {
        match self.settings.durability {
            Durability::Relaxed { sync_every } if self.durable < self.last_seq => Some(Instant::now() + sync_every),
            _ => None,
        }
    }

    fn background_sync(&mut self) {
        if self.durable < self.last_seq && self.shared.poisoned().is_none() {
            let mut stats = GroupStats::default();
            if let Err(e) = self.make_durable(&mut stats) {
                self.shared.set_poison(e.to_string());
            }
        }
    }

    /// Writes the record that begins an epoch, durably, whatever the durability.
    pub(crate) fn write_opened(&mut self) -> Result<(), MetaError> {
        let mut records = Vec::new();
        let header = self.header(Reason::Opened, self.last_seq.saturating_add(1));
        encode_record(&mut records, header, &[]).map_err(MetaError::Invalid)?;
        self.make_room(records.len())?;
        self.segment.append(&records)?;
        self.last_seq = header.seq;
        self.shared.applied.store(self.last_seq, Ordering::Release);
        self.make_durable(&mut GroupStats::default())
    }

    fn header(&self, reason: Reason, seq: u64) -> RecordHeader {
        RecordHeader {
            reason: reason.code(),
            body_len: 0,
            ops: 0,
            epoch: self.epoch,
            seq,
            durable: self.durable,
            time_ms: self.clock.now().millis(),
        }
    }

    /// Commits one group and answers every request of it.
    fn process(&mut self, group: &mut Vec<Request>) {
        let bodies = || self.data.failed().map(|e| self.shared.set_poison(e.to_string()));
        if let Some(e) = self.shared.poisoned().or_else(bodies) {
            group.drain(..).for_each(|request| request.answer(Err(e.clone())));
            return;
        }
        let mut plan = Plan::default();
        for request in group.drain(..) {
            match request {
                Request::Commit(batch, answer) => self.plan_one(&mut plan, batch, answer),
                // A follower commits nothing, so nothing of this group stands before it.
                Request::Append(piece, answer) => {
                    let _ = answer.send(self.append(&piece));
                }
                Request::Sync(answer) => {
                    plan.force_sync = true;
                    plan.settled.push((answer, Ok(())));
                }
            }
        }
        let mut stats = GroupStats {
            records: plan.accepted.len(),
            conflicts: plan.conflicts,
            bytes: plan.records.len(),
            ..GroupStats::default()
        };
        if let Err(e) = self.write(&plan, &mut stats) {
            refuse(plan, &e);
            return;
        }
        let began = Instant::now();
        if let Err(e) = self.apply(&mut plan.accepted) {
            // Durable but not visible: only a restart, which replays the journal, can say what holds.
            let e = self.shared.set_poison(e.to_string());
            refuse(plan, &e);
            return;
        }
        stats.apply = began.elapsed();
        for (answer, result) in plan.settled {
            let _ = answer.send(result.map(|()| Committed { seq: self.last_seq }));
        }
        self.shared.observers.read().unwrap_or_else(PoisonError::into_inner).iter().for_each(|o| o.group(&stats));
        (self.after_group)(self.shared.written.load(Ordering::Relaxed));
    }

    /// Checks one batch against the state and the group so far, and encodes it.
    fn plan_one(&self, plan: &mut Plan, batch: Batch, answer: Answer) {
        match self.check(&plan.overlay, &batch) {
            Ok(()) if batch.ops.is_empty() => plan.settled.push((answer, Ok(()))),
            Ok(()) => {
                let seq = self.last_seq + plan.accepted.len() as u64 + 1;
                if let Err(what) = encode_record(&mut plan.records, self.header(batch.reason, seq), &batch.ops) {
                    plan.settled.push((answer, Err(MetaError::Invalid(what))));
                    return;
                }
                for op in &batch.ops {
                    plan.overlay.insert((op.table, op.key.clone()), op.value.as_deref().map(Value::from));
                }
                plan.wrote_data |= batch.wrote_data;
                plan.accepted.push(Accepted { seq, ops: batch.ops, answer: Some(answer), _hold: batch.hold });
            }
            Err(e) => {
                plan.conflicts += usize::from(matches!(e, MetaError::Conflict { .. }));
                plan.settled.push((answer, Err(e)));
            }
        }
    }

    fn check(&self, overlay: &BTreeMap<(Table, Vec<u8>), Option<Value>>, batch: &Batch) -> Result<(), MetaError> {
        if let Some(op) = batch.ops.iter().find(|op| op.key.len() > MAX_KEY_BYTES) {
            let len = op.key.len();
            return Err(MetaError::Invalid(format!("a key of {len} bytes; the limit is {MAX_KEY_BYTES}")));
        }
        if batch.expects.is_empty() {
            return Ok(());
        }
        let index = self.shared.index()?;
        for expect in &batch.expects {
            let (table, key) = expect.target();
            let current = || match overlay.get(&(table, key.to_vec())) {
                Some(value) => Ok(value.clone()),
                None => index.get(table, key),
            };
            let holds = match expect {
                Expect::Absent(..) => current()?.is_none(),
                Expect::Present(..) => current()?.is_some(),
                Expect::Equals(_, _, want) => current()?.is_some_and(|v| *v == want[..]),
                Expect::EqualsDigest(_, _, want) => current()?.is_some_and(|v| blake3::hash(&v) == *want),
                Expect::EmptyPrefix(_, prefix) => is_empty_prefix(&index, overlay, table, prefix)?,
            };
            if !holds {
                return Err(MetaError::Conflict { table, key: key.to_vec() });
            }
        }
        Ok(())
    }

    /// Makes the plan's bodies and then its records durable. After an error nothing of the plan is to be answered as
    /// done; the store is poisoned unless nothing was written.
    fn write(&mut self, plan: &Plan, stats: &mut GroupStats) -> Result<(), MetaError> {
        let strict = self.settings.durability == Durability::Strict || plan.force_sync;
        if !plan.records.is_empty() {
            self.check_room()?;
            self.data_dirty |= plan.wrote_data;
            if strict {
                self.sync_data(stats).map_err(|e| self.shared.set_poison(e.to_string()))?;
            }
            self.make_room(plan.records.len())?;
            failpoint::hit("journal.before_write");
            self.segment.append(&plan.records).map_err(|e| self.shared.set_poison(e.to_string()))?;
            failpoint::hit("journal.after_write");
            self.last_seq += plan.accepted.len() as u64;
            self.shared.written.fetch_add(plan.records.len() as u64, Ordering::Relaxed);
        }
        if strict && self.durable < self.last_seq {
            self.make_durable(stats).map_err(|e| self.shared.set_poison(e.to_string()))?;
            failpoint::hit("journal.after_sync");
        }
        Ok(())
    }

    /// Bodies first: a durable record must never refer to a body that is not.
    fn make_durable(&mut self, stats: &mut GroupStats) -> Result<(), MetaError> {
        self.sync_data(stats)?;
        let began = Instant::now();
        if !mutants::active(Mutant::AckBeforeSync) {
            self.segment.sync()?;
        }
        stats.journal_sync = began.elapsed();
        self.durable = self.last_seq;
        self.shared.durable.store(self.durable, Ordering::Release);
        Ok(())
    }

    fn sync_data(&mut self, stats: &mut GroupStats) -> Result<(), MetaError> {
        if self.data_dirty && !mutants::active(Mutant::RecordBeforeBody) {
            let began = Instant::now();
            self.data.sync().map_err(|e| MetaError::io("sync bodies before", self.segment.path(), &e))?;
            stats.data_sync = began.elapsed();
            self.data_dirty = false;
        }
        Ok(())
    }

    /// Refuses a group while it is still without harm to do so.
    pub(super) fn check_room(&self) -> Result<(), MetaError> {
        let least = self.settings.least_free_bytes;
        match rustix::fs::statvfs(&self.dir).map(|s| s.f_bavail.saturating_mul(s.f_frsize)) {
            Ok(free) if free < least => {
                let what =
                    format!("{free} bytes are free on the file system, {least} are needed (journal.least_free_bytes)");
                let full = std::io::Error::new(std::io::ErrorKind::StorageFull, what);
                Err(MetaError::io("commit to", self.segment.path(), &full))
            }
            // A system that does not say is no reason to stop.
            _ => Ok(()),
        }
    }

    /// Begins a new segment when `len` more bytes do not fit, and fills ahead. Fails without harm when there is no
    /// space; what was written before stays good.
    fn make_room(&mut self, len: usize) -> Result<(), MetaError> {
        let len = len as u64;
        let fits = self.segment.used().saturating_add(len) <= self.settings.segment_bytes;
        if !fits && self.segment.used() > super::SEGMENT_HEADER_BYTES as u64 {
            if self.durable < self.last_seq {
                self.make_durable(&mut GroupStats::default()).map_err(|e| self.shared.set_poison(e.to_string()))?;
            }
            self.segment.seal().map_err(|e| self.shared.set_poison(e.to_string()))?;
            let header = SegmentHeader {
                first_seq: self.last_seq.saturating_add(1),
                epoch: self.epoch,
                created_ms: self.clock.now().millis(),
            };
            let draft = SegmentWriter::draft(&self.dir, header, self.settings.fill_ahead_bytes)?;
            self.segment = draft.named(&self.dir, header).map_err(|e| self.shared.set_poison(e.to_string()))?;
        }
        self.segment.reserve(len)
    }

    /// Applies the group's batches in order; answers each as soon as it is visible and the observers know.
    fn apply(&mut self, accepted: &mut [Accepted]) -> Result<(), MetaError> {
        let Some(last) = accepted.last().map(|a| a.seq) else { return Ok(()) };
        for one in accepted.iter_mut() {
            self.apply_one(one.seq, std::mem::take(&mut one.ops))?;
            if let Some(answer) = one.answer.take() {
                let _ = answer.send(Ok(Committed { seq: one.seq }));
            }
        }
        self.shared.index()?.set_position(self.epoch, last)?;
        failpoint::hit("meta.after_apply");
        Ok(())
    }
}

impl Committer {
    /// Makes one batch visible and tells the observers.
    pub(super) fn apply_one(&self, seq: u64, ops: Vec<Op>) -> Result<(), MetaError> {
        let mut applied = Vec::with_capacity(ops.len());
        {
            let index = self.shared.index.write().unwrap_or_else(PoisonError::into_inner);
            let index = index.as_ref().ok_or(MetaError::Closed)?;
            for op in ops {
                let old = index.apply(op.table, &op.key, op.value.as_deref())?;
                applied.push(AppliedOp { op, old });
            }
            self.shared.applied.store(seq, Ordering::Release);
        }
        let observers = self.shared.observers.read().unwrap_or_else(PoisonError::into_inner);
        observers.iter().for_each(|o| o.applied(seq, &applied));
        Ok(())
    }
}

/// Answers everything that is still open with `e`.
fn refuse(plan: Plan, e: &MetaError) {
    let accepted = plan.accepted.into_iter().filter_map(|a| a.answer);
    for answer in accepted.chain(plan.settled.into_iter().map(|(answer, _)| answer)) {
        let _ = answer.send(Err(e.clone()));
    }
}

/// Whether no key with `prefix` is left, with the group's own changes on top of the index.
fn is_empty_prefix(
    index: &SledIndex,
    overlay: &BTreeMap<(Table, Vec<u8>), Option<Value>>,
    table: Table,
    prefix: &[u8],
) -> Result<bool, MetaError> {
    let first = (table, prefix.to_vec());
    let mine = overlay
        .range((Bound::Included(first), Bound::Unbounded))
        .take_while(|((t, k), _)| *t == table && k.starts_with(prefix));
    let mut removed = 0usize;
    for (_, value) in mine {
        if value.is_some() {
            return Ok(false);
        }
        removed += 1;
    }
    // Every key of the index must be among those that the group removes, so one more than those settles it.
    let there = index.scan(table, prefix_range(prefix), removed.saturating_add(1), false)?;
    Ok(there.iter().all(|(key, _)| matches!(overlay.get(&(table, key.clone())), Some(None))))
}
