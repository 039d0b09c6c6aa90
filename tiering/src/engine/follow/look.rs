//! One look at what was shipped: which pieces come next, whether what is here is still the history, and what to do when
//! something between is missing.

use super::{Core, Failed, Follow};
use crate::journal::follow::{Piece, Taken, cut};
use crate::meta::MetaStore;
use crate::recovery::names::{self, PieceName};
use crate::recovery::plan::{Moment, Part, Shipped};
use crate::recovery::{RecoveryError, fetch, list};
use futures::StreamExt;
use std::sync::Arc;
use std::sync::atomic::Ordering;
use std::time::{Duration, Instant};

/// Pieces that are fetched at a time; each has some 8 MiB at most.
const SIDE_BY_SIDE: usize = 4;
/// A gap is looked at with a listing of everything at most so often.
const WHOLE_EVERY: Duration = Duration::from_secs(5);
/// A gap that lasts for so many looks is bridged by fetching a snapshot: pieces may come out of order where buckets are
/// replicated.
const PATIENCE: u32 = 30;

/// What the one who follows knows.
#[derive(Default)]
pub(super) struct Work {
    /// The piece that the last record here came from.
    at: Option<(PieceName, String, u64)>,
    gap_since: Option<Instant>,
    whole: Option<Instant>,
}

impl Follow {
    /// Applies all that is new.
    pub(super) async fn take_new(&self, core: &Arc<Core>, work: &mut Work) -> Result<(), Failed> {
        if self.end.borrow().is_some() {
            return Ok(());
        }
        if work.at.is_none() {
            return self.find_place(core, work).await;
        }
        let shipped = self.after(core, work).await?;
        let last = core.meta.last_seq();
        self.check_history(core, &shipped, work).await?;
        let next = next_parts(&shipped, last);
        let beyond = shipped.pieces.iter().any(|(piece, _, _)| piece.last > last);
        if !next.is_empty() || !beyond {
            work.gap_since = None;
            return self.apply(core, work, next).await;
        }
        self.bridge(core, work).await
    }

    /// The first look of a process: a listing of everything.
    async fn find_place(&self, core: &Arc<Core>, work: &mut Work) -> Result<(), Failed> {
        let shipped = Shipped::read(self.tier.as_ref(), &core.deployment).await?;
        let last = core.meta.last_seq();
        self.check_history(core, &shipped, work).await?;
        if let (0, Some(piece)) = (self.newest.load(Ordering::Acquire), core.own_record(last).await?) {
            self.newest.store(piece.last_ms, Ordering::Release);
        }
        // A tier that has nothing at all is no reason to throw away what is here: that is an error.
        let plan = shipped.plan(Moment::Latest)?;
        if work.at.is_none() && !begins_at(&shipped, last) {
            return Err(Failed::StartOver(format!(
                "it cannot be told from what is shipped (up to record {}) whether record {last} here is of the history",
                plan.last_seq
            )));
        }
        self.apply(core, work, next_parts(&shipped, last)).await
    }

    /// The piece that this store is at, and all that sort after it: later pieces of its term, and those of later terms.
    async fn after(&self, core: &Arc<Core>, work: &Work) -> Result<Shipped, RecoveryError> {
        let name = work.at.as_ref().map(|(_, name, _)| name.as_str());
        let found = list(self.tier.as_ref(), &names::journal(&core.deployment), name).await?;
        let found = found
            .into_iter()
            .filter_map(|(name, size)| PieceName::parse(&core.deployment, &name).map(|piece| (piece, name, size)));
        Ok(Shipped { pieces: work.at.clone().into_iter().chain(found).collect(), snapshots: Vec::new() })
    }

    /// Compares the last record here that the history has too. Where it is another one, what is here is of a branch that ended.
    async fn check_history(&self, core: &Arc<Core>, shipped: &Shipped, work: &mut Work) -> Result<(), Failed> {
        let last = core.meta.last_seq();
        let parts = shipped.runs().into_iter().flatten().filter(|part| part.from <= last);
        let Some(part) = parts.max_by_key(|part| part.from) else { return Ok(()) };
        if work.at.as_ref().is_some_and(|(piece, _, _)| *piece == part.piece) && part.to >= last {
            return Ok(());
        }
        let seq = last.min(part.to);
        let theirs = self.piece(&part, seq, seq).await?;
        let ours = core.own_record(seq).await?;
        let same = match &ours {
            Some(ours) => ours.bytes == theirs.bytes,
            // Of a namespace that is a snapshot and nothing after it there is no record to compare. The journal that was shipped may
            // end before it: a snapshot does not wait for its records.
            None => begins_at(shipped, last),
        };
        if !same {
            return Err(Failed::StartOver(format!("record {seq} here is not the one of the history")));
        }
        if part.to >= last {
            work.at = Some((part.piece, part.name, part.size));
        }
        Ok(())
    }

    /// Something between is missing: it is looked for everywhere, and given up after a while.
    async fn bridge(&self, core: &Arc<Core>, work: &mut Work) -> Result<(), Failed> {
        let since = *work.gap_since.get_or_insert_with(Instant::now);
        let patience = self.settings.poll * PATIENCE;
        let last = core.meta.last_seq();
        let gap = || format!("the pieces after record {last} are not there (yet), later ones are");
        if work.whole.is_some_and(|at| at.elapsed() < WHOLE_EVERY.min(patience)) {
            return Err(Failed::Gap(gap()));
        }
        work.whole = Some(Instant::now());
        let shipped = Shipped::read(self.tier.as_ref(), &core.deployment).await?;
        let next = next_parts(&shipped, last);
        if !next.is_empty() {
            work.gap_since = None;
            return self.apply(core, work, next).await;
        }
        let later = shipped.plan(Moment::Latest).is_ok_and(|plan| plan.last_seq > last);
        if later && since.elapsed() >= patience {
            return Err(Failed::StartOver(format!(
                "the pieces after record {last} are gone; a later snapshot is there"
            )));
        }
        Err(Failed::Gap(gap()))
    }

    async fn apply(&self, core: &Arc<Core>, work: &mut Work, parts: Vec<Part>) -> Result<(), Failed> {
        let from = core.meta.last_seq().saturating_add(1);
        let fetches = parts.into_iter().map(|part| async move {
            let piece = self.piece(&part, part.from.max(from), part.to).await;
            piece.map(|piece| (part, piece))
        });
        let mut fetches = futures::stream::iter(fetches).buffered(SIDE_BY_SIDE);
        while let Some(fetched) = fetches.next().await {
            let (part, piece) = fetched?;
            let (bytes, written) = (piece.bytes.len() as u64, piece.last_ms);
            core.meta.append_shipped(piece).await?;
            self.newest.store(written, Ordering::Release);
            self.metrics.pieces.inc();
            self.metrics.bytes.inc_by(bytes);
            work.at = Some((part.piece, part.name, part.size));
            if core.stop.is_cancelled() {
                return Err(RecoveryError::Local("the standby stops".to_owned()).into());
            }
        }
        Ok(())
    }

    /// The records `from` to `to` of a shipped piece, verified.
    async fn piece(&self, part: &Part, from: u64, to: u64) -> Result<Piece, RecoveryError> {
        let bytes = fetch(self.tier.as_ref(), &part.name, part.size).await?;
        let damaged = |what: String| {
            RecoveryError::Damaged(format!(
                "{} in the recovery tier is damaged: {what}. Put it back as it was; once it is deleted there, a later snapshot is taken \
                 instead, or a promotion goes on without what was written from there on",
                part.name
            ))
        };
        let piece = cut(&bytes, from, to, u64::MAX).map_err(damaged)?;
        let fits = piece.filter(|piece| piece.first == from && piece.last == to);
        fits.ok_or_else(|| damaged(format!("it has not all records from {from} to {to}")))
    }
}

/// Whether a shipped snapshot that counts is all that there is of the history up to record `last`.
fn begins_at(shipped: &Shipped, last: u64) -> bool {
    let plan = shipped.plan(Moment::Record(last));
    plan.is_ok_and(|plan| plan.last_seq == last && plan.snapshot.is_some_and(|s| s.name.start == last))
}

/// The parts that go on after record `last`, without a gap.
fn next_parts(shipped: &Shipped, last: u64) -> Vec<Part> {
    let next = last.saturating_add(1);
    let has = |run: &Vec<Part>| run.iter().any(|part| part.from <= next && part.to >= next);
    let run = shipped.runs().into_iter().find(has).unwrap_or_default();
    run.into_iter().filter(|part| part.to >= next).collect()
}

impl Core {
    /// A record of the journal here, as a segment; none when it is not kept any more.
    async fn own_record(self: &Arc<Self>, seq: u64) -> Result<Option<Piece>, RecoveryError> {
        let mut follower = self.meta.follow(seq);
        let taken = tokio::task::spawn_blocking(move || follower.take(seq, 1)).await;
        match taken.map_err(|e| RecoveryError::Local(format!("read the journal: {e}")))?? {
            Taken::Piece(piece) => Ok(Some(piece)),
            Taken::Nothing | Taken::Gone => Ok(None),
        }
    }
}
