//! Shipping: what is durable in the local journal goes to the recovery tier, at most `rpo` behind while it answers, and
//! snapshots from time to time. Commits never wait for it. It is also where this store learns that another has taken its
//! place. See ADR 17.

mod gate;

use super::Core;
use super::error::EngineError;
use super::shipmetrics::ShipMetrics;
use super::snapshots::{FilePart, PART_BYTES};
use crate::clock::Timestamp;
use crate::journal::follow::{Follower, Piece, Taken};
use crate::meta::{Batch, MetaStore, Reason, Table, snapshot};
use crate::recovery::claim::{Claimant, Held, base, verify};
use crate::recovery::names::{self, PieceName, SnapshotName};
use crate::recovery::plan::{Shipped, WholeSnapshot};
use crate::recovery::{RecoveryError, RecoverySettings, list};
use crate::tier::Tier;
use bytes::Bytes;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::sync::{Arc, Mutex, PoisonError};
use std::time::{Duration, Instant};
use tokio::sync::watch;

/// Where a shipped piece ends, in bytes.
const PIECE_BYTES: usize = 8 << 20;
/// How often the claim is looked at when there is nothing to ship.
const VERIFY_EVERY: Duration = Duration::from_secs(5);
/// How often it is asked what is too old to be kept.
const PRUNE_EVERY: Duration = Duration::from_secs(600);
/// Old objects that are deleted between two looks at the claim.
const DELETIONS: usize = 64;
/// How long a start waits for the claim, an end for the last records, and a deletion for its records.
const PATIENCE: Duration = Duration::from_secs(10);
/// Longest wait after a failure.
const MAX_PAUSE: Duration = Duration::from_secs(5);
/// How long a snapshot or a removal that failed is left alone.
const REST: Duration = Duration::from_secs(30);
/// The key in the table System below whose record (8 bytes, little endian) nothing is kept in the cloud.
pub(crate) const FLOOR_KEY: &[u8] = b"recovery/floor";

/// Shipping of one engine.
pub(crate) struct Ship {
    pub settings: RecoverySettings,
    tier: Arc<dyn Tier>,
    metrics: ShipMetrics,
    work: tokio::sync::Mutex<Work>,
    shipped: watch::Sender<u64>,
    held: Mutex<Option<Held>>,
    /// When the oldest record was written that is known not to be shipped; 0 when there is none.
    oldest_pending: AtomicU64,
    last_snapshot: AtomicU64,
    last_error: Mutex<Option<String>>,
    warned: AtomicBool,
}

/// What the one who ships knows.
#[derive(Default)]
struct Work {
    follower: Option<Follower>,
    /// What is being shipped: the piece, and its bytes, which each attempt shares.
    pending: Option<(Piece, Bytes)>,
    /// Pieces shipped since the last snapshot.
    pieces: u64,
    snapshots: Vec<WholeSnapshot>,
    verified: Option<Instant>,
    looked_for_old: Option<Timestamp>,
    /// What is being removed: everything below the first, once the second is shipped.
    removing: Option<(u64, u64)>,
    /// What takes longer runs beside the shipping.
    beside: Option<tokio::task::JoinHandle<Result<Done, RecoveryError>>>,
    /// When that failed last.
    failed: Option<Instant>,
}

/// What came of work beside the shipping.
enum Done {
    Snapshot(WholeSnapshot),
    /// Everything below this record is gone.
    Removed(u64),
}

impl Ship {
    pub(crate) fn new(
        settings: RecoverySettings,
        tier: Arc<dyn Tier>,
        registry: &prometheus::Registry,
    ) -> Result<Self, EngineError> {
        if let Some((name, want)) = settings.problem() {
            return Err(EngineError::InvalidArgument(format!("recovery.{name} must be {want}")));
        }
        let metrics = ShipMetrics::new(registry).map_err(|e| EngineError::Internal(e.to_string()))?;
        Ok(Self {
            settings,
            tier,
            metrics,
            work: tokio::sync::Mutex::default(),
            shipped: watch::Sender::new(0),
            held: Mutex::default(),
            oldest_pending: AtomicU64::new(0),
            last_snapshot: AtomicU64::new(0),
            last_error: Mutex::default(),
            warned: AtomicBool::new(false),
        })
    }

    /// Ships until the engine stops. `began` is the first turn, which the start has waited for.
    pub(crate) async fn run(self: Arc<Self>, core: Arc<Core>) {
        let tick = (self.settings.rpo / 4).clamp(Duration::from_millis(5), Duration::from_secs(1));
        let mut pause = tick;
        while !core.stop.is_cancelled() && !core.is_fenced() {
            pause = if self.turn(&core).await { tick } else { (pause * 2).min(MAX_PAUSE) };
            self.watch_lag(&core);
            tokio::select! {
                () = core.stop.cancelled() => {}
                () = tokio::time::sleep(pause) => {}
            }
        }
    }

    /// The first turn, within bounds: whether this store may write is known before it serves, if the tier answers.
    pub(crate) async fn begin(&self, core: &Arc<Core>) {
        if tokio::time::timeout(PATIENCE, self.turn(core)).await.is_err() {
            tracing::warn!(
                tier = self.settings.tier,
                "the recovery tier does not answer; nothing is shipped until it does"
            );
        }
    }

    /// What is left at the end, within bounds.
    pub(crate) async fn finish(&self, core: &Arc<Core>) {
        if !core.is_fenced() && !matches!(tokio::time::timeout(PATIENCE, self.turn(core)).await, Ok(true)) {
            tracing::warn!("the last records could not be shipped; the next start goes on with them");
        }
    }

    /// One turn; false when it failed.
    pub(super) async fn turn(&self, core: &Arc<Core>) -> bool {
        let outcome = self.work(core).await;
        let error = match outcome {
            Ok(()) => None,
            Err(RecoveryError::Fenced(by)) => {
                if !core.is_fenced() {
                    tracing::error!("{by}");
                    core.meta.fence(by.clone());
                    self.metrics.fenced.set(1);
                }
                Some(by)
            }
            Err(e) => {
                self.metrics.failures.inc();
                tracing::warn!(tier = self.settings.tier, error = %e, "the journal was not shipped; it will be tried again");
                Some(e.to_string())
            }
        };
        let failed = error.is_some();
        *self.last_error.lock().unwrap_or_else(PoisonError::into_inner) = error;
        !failed
    }

    async fn work(&self, core: &Arc<Core>) -> Result<(), RecoveryError> {
        let mut work = self.work.lock().await;
        let work = &mut *work;
        if work.follower.is_none() {
            self.claim(core, work).await?;
        }
        loop {
            if work.pending.is_none() {
                match self.take(core, work).await? {
                    Taken::Piece(mut piece) => {
                        let body = Bytes::from(std::mem::take(&mut piece.bytes));
                        self.oldest_pending.store(piece.first_ms.max(1), Ordering::Release);
                        work.pending = Some((piece, body));
                    }
                    Taken::Nothing => break,
                    Taken::Gone => {
                        let made = self.snapshot(core).await?;
                        work.follower = Some(core.meta.follow(made.name.start.saturating_add(1)));
                        self.note(core, made.name.start);
                        self.keep(work, made);
                    }
                }
            }
            if let Some((piece, body)) = &work.pending {
                self.verify(core).await?;
                work.verified = Some(Instant::now());
                self.put(core, piece, body.clone()).await?;
                work.pending = None;
                work.pieces += 1;
            }
        }
        self.oldest_pending.store(0, Ordering::Release);
        if work.verified.is_none_or(|at| at.elapsed() >= VERIFY_EVERY) {
            self.verify(core).await?;
            work.verified = Some(Instant::now());
        }
        self.beside(core, work).await
    }

    /// Takes in what came of work beside the shipping, and starts what is to be done next, one at a time.
    async fn beside(&self, core: &Arc<Core>, work: &mut Work) -> Result<(), RecoveryError> {
        if let Some(task) = work.beside.take_if(|task| task.is_finished()) {
            match task.await.unwrap_or_else(|e| Err(RecoveryError::Local(format!("work beside: {e}")))) {
                Ok(Done::Snapshot(made)) => self.keep(work, made),
                Ok(Done::Removed(below)) => {
                    work.snapshots.retain(|s| s.name.start >= below);
                    work.removing = None;
                }
                Err(e) => {
                    work.failed = Some(Instant::now());
                    return Err(e);
                }
            }
        }
        let resting = work.failed.is_some_and(|at| at.elapsed() < REST);
        let (Some(ship), false) = (core.ship.clone(), work.beside.is_some() || resting || core.stop.is_cancelled())
        else {
            return Ok(());
        };
        let its = Arc::clone(core);
        if self.snapshot_is_due(core, work) {
            let task = async move { ship.snapshot(&its).await.map(Done::Snapshot) };
            work.beside = Some(core.jobs.spawn(task));
        } else if let Some(below) = self.to_remove(core, work).await? {
            let task = async move { ship.remove(&its, below).await.map(|()| Done::Removed(below)) };
            work.beside = Some(core.jobs.spawn(task));
        }
        Ok(())
    }

    fn keep(&self, work: &mut Work, made: WholeSnapshot) {
        self.last_snapshot.store(made.name.created_ms, Ordering::Release);
        self.metrics.last_snapshot.set(gauge(made.name.created_ms / 1000));
        work.snapshots.push(made);
        work.pieces = 0;
        work.looked_for_old = None;
    }

    /// Takes the next term, and finds out what has been shipped.
    async fn claim(&self, core: &Arc<Core>, work: &mut Work) -> Result<(), RecoveryError> {
        let data_dir = &core.settings.data_dir;
        let claimant = Claimant {
            tier: self.tier.as_ref(),
            deployment: &core.deployment,
            data_dir,
            clock: core.clock.as_ref(),
            by: "serve",
        };
        let held = claimant.claim(false).await?;
        let (term, began) = base(data_dir)?;
        let shipped = Shipped::read(self.tier.as_ref(), &core.deployment).await?;
        // What earlier terms than the recovery's shipped is on another branch from there on.
        let mine = shipped.pieces.iter().filter(|(piece, _, _)| piece.term > term);
        let newest = mine.max_by_key(|(piece, _, _)| (piece.term, piece.last));
        let position = newest.map_or(began, |(piece, _, _)| piece.last);
        if position > core.meta.last_seq() {
            return Err(RecoveryError::Fenced(format!(
                "the cloud has this store's records up to {position}, but this disk ends at {}: it is an older copy, and must not \
                 write; recover into a new directory instead",
                core.meta.last_seq()
            )));
        }
        if let Some((_, name, size)) = newest {
            self.is_own_history(core, position, (name, *size)).await?;
        }
        // Those of a branch that a recovery left are no reason to make none, or to remove what is before them.
        let on_branch = |s: &WholeSnapshot| s.name.term > term || s.name.end <= began;
        work.snapshots = shipped.snapshots.iter().filter(|s| on_branch(s) && shipped.counts(s)).cloned().collect();
        let since = work.snapshots.iter().map(|s| s.name.start).max().unwrap_or(0);
        work.pieces = shipped.pieces.iter().filter(|(piece, _, _)| piece.first > since).count() as u64;
        let newest = work.snapshots.iter().map(|s| s.name.created_ms).max().unwrap_or(0);
        self.last_snapshot.store(newest, Ordering::Release);
        work.follower = Some(core.meta.follow(position.saturating_add(1)));
        work.verified = Some(Instant::now());
        // A removal that was decided and not finished.
        work.removing = floor(core)?.map(|floor| (floor, core.meta.durable_seq()));
        tracing::info!(tier = self.settings.tier, term = held.term, position, "the journal is shipped from here on");
        self.metrics.term.set(gauge(held.term));
        *self.held.lock().unwrap_or_else(PoisonError::into_inner) = Some(held);
        self.note(core, position);
        Ok(())
    }

    async fn take(&self, core: &Arc<Core>, work: &mut Work) -> Result<Taken, RecoveryError> {
        let Some(mut follower) = work.follower.take() else { return Ok(Taken::Nothing) };
        let next = follower.next();
        let durable = core.meta.durable_seq();
        let task = tokio::task::spawn_blocking(move || {
            let taken = follower.take(durable, PIECE_BYTES);
            (follower, taken)
        });
        let Ok((follower, taken)) = task.await else {
            work.follower = Some(core.meta.follow(next));
            return Err(RecoveryError::Local("reading the journal was cut off".to_owned()));
        };
        // After an error the place in the file may be anywhere.
        work.follower = Some(if taken.is_ok() { follower } else { core.meta.follow(next) });
        Ok(taken?)
    }

    async fn put(&self, core: &Arc<Core>, piece: &Piece, body: Bytes) -> Result<(), RecoveryError> {
        let name = PieceName { term: self.term(), first: piece.first, last: piece.last, last_ms: piece.last_ms };
        let bytes = body.len() as u64;
        // Where it is there, an attempt of this process was answered and the answer lost: nobody else has this term.
        self.tier.create(&name.to_name(&core.deployment), Arc::new(body)).await?;
        self.metrics.objects.inc();
        self.metrics.bytes.inc_by(bytes);
        self.note(core, piece.last);
        Ok(())
    }

    fn note(&self, core: &Arc<Core>, seq: u64) {
        core.meta.note_shipped(seq);
        self.metrics.shipped_seq.set(gauge(seq));
        self.shipped.send_replace(seq);
    }

    fn held(&self) -> Option<Held> {
        self.held.lock().unwrap_or_else(PoisonError::into_inner).clone()
    }

    /// The term that was claimed; 0 before.
    pub(super) fn term(&self) -> u64 {
        self.held.lock().unwrap_or_else(PoisonError::into_inner).as_ref().map_or(0, |held| held.term)
    }

    /// Whether this store may still write.
    async fn verify(&self, core: &Core) -> Result<(), RecoveryError> {
        match self.held() {
            Some(held) => verify(self.tier.as_ref(), &core.deployment, &held).await,
            None => Err(RecoveryError::Refused("no term has been claimed yet".to_owned())),
        }
    }

    fn snapshot_is_due(&self, core: &Core, work: &Work) -> bool {
        let age = core.clock.now().since(Timestamp(self.last_snapshot.load(Ordering::Acquire)));
        let newest = work.snapshots.iter().map(|s| s.name.end).max().unwrap_or(0);
        // A few records (an opening) are no reason.
        let written = core.meta.last_seq() > newest.saturating_add(2);
        work.pieces >= self.settings.snapshot_after_objects || (written && age >= self.settings.snapshot_interval)
    }

    /// Writes a snapshot and ships it.
    async fn snapshot(&self, core: &Arc<Core>) -> Result<WholeSnapshot, RecoveryError> {
        self.verify(core).await?;
        let store = Arc::clone(core);
        let made = tokio::task::spawn_blocking(move || {
            let info = store.meta.snapshot_now()?;
            let file =
                std::fs::File::open(&info.path).map_err(|e| crate::meta::MetaError::io("open", &info.path, &e))?;
            let ends = snapshot::read(&info.path, &mut |_, _, _| Ok(()))?;
            Ok::<_, crate::meta::MetaError>((info, file, ends))
        });
        let made = made.await.map_err(|e| RecoveryError::Local(format!("snapshot: {e}")))?;
        let (info, file, (start, end)) = made?;
        let name = SnapshotName {
            start: start.seq,
            end: end.end_seq.max(start.seq),
            created_ms: start.created_ms,
            term: self.term(),
        };
        let file = Arc::new(file);
        let parts = info.bytes.div_ceil(PART_BYTES).max(1);
        let mut shipped = Vec::new();
        for part in 1..=parts {
            let at = (part - 1) * PART_BYTES;
            let body = FilePart::new(Arc::clone(&file), at, (info.bytes - at).min(PART_BYTES));
            let part_name = name.part(&core.deployment, part, parts);
            shipped.push((part_name.clone(), body.length()));
            self.verify(core).await?;
            self.tier.create(&part_name, Arc::new(body)).await?;
        }
        tracing::info!(record = name.start, bytes = info.bytes, "a snapshot was shipped");
        Ok(WholeSnapshot { name, parts: shipped })
    }

    /// The record below which no moment within `keep` needs anything: decided by a commit, and told once that is shipped.
    async fn to_remove(&self, core: &Arc<Core>, work: &mut Work) -> Result<Option<u64>, RecoveryError> {
        if let Some((below, seq)) = work.removing {
            return Ok((*self.shipped.borrow() >= seq).then_some(below));
        }
        let now = core.clock.now();
        if work.looked_for_old.is_some_and(|at| now.since(at) < PRUNE_EVERY) {
            return Ok(None);
        }
        work.looked_for_old = Some(now);
        work.snapshots.sort_by_key(|s| s.name.start);
        // The two newest stay whatever their age: one of them may be damaged.
        let old = work.snapshots.len().saturating_sub(1);
        let floor = floor(core)?;
        let newer = |s: &&WholeSnapshot| floor.is_none_or(|floor| floor < s.name.start);
        let aged = |s: &&WholeSnapshot| now.since(Timestamp(s.name.created_ms)) >= self.settings.keep;
        let mut candidates = work.snapshots.iter().take(old).rev().filter(newer).filter(aged).peekable();
        if candidates.peek().is_none() {
            return Ok(None);
        }
        let shipped = Shipped::read(self.tier.as_ref(), &core.deployment).await?;
        let keep = u64::try_from(self.settings.keep.as_millis()).unwrap_or(u64::MAX);
        let since = Timestamp(now.millis().saturating_sub(keep));
        let Some(below) = candidates.find(|s| shipped.serves_since(s, since)).map(|s| s.name.start) else {
            return Ok(None);
        };
        let batch = Batch::new(Reason::System).put(Table::System, FLOOR_KEY, below.to_le_bytes());
        let committed = core.meta.commit(batch).await?;
        work.removing = Some((below, committed.seq));
        Ok(None)
    }

    async fn remove(&self, core: &Arc<Core>, below: u64) -> Result<(), RecoveryError> {
        let (deployment, tier) = (&core.deployment, self.tier.as_ref());
        let pieces = list(tier, &names::journal(deployment), None).await?.into_iter().map(|(name, _)| name);
        let old_piece = |name: &String| PieceName::parse(deployment, name).is_some_and(|piece| piece.last <= below);
        let snapshots = list(tier, &names::snapshots(deployment), None).await?.into_iter().map(|(name, _)| name);
        let old_snapshot =
            |name: &String| SnapshotName::parse(deployment, name).is_some_and(|(found, _, _)| found.start < below);
        let old: Vec<String> = pieces.filter(old_piece).chain(snapshots.filter(old_snapshot)).collect();
        for group in old.chunks(DELETIONS) {
            if core.stop.is_cancelled() {
                return Err(RecoveryError::Local("the removal goes on after the next start".to_owned()));
            }
            self.verify(core).await?;
            for name in group {
                tier.delete(name).await?;
            }
        }
        tracing::info!(record = below, objects = old.len(), "what was shipped before this record was removed");
        Ok(())
    }

    /// How far the cloud is behind: records, and the age of the oldest of them.
    pub(crate) fn lag(&self, core: &Core) -> (u64, Duration) {
        let records = core.meta.durable_seq().saturating_sub(*self.shipped.borrow());
        let oldest = self.oldest_pending.load(Ordering::Acquire);
        let age = if records == 0 || oldest == 0 { Duration::ZERO } else { core.clock.now().since(Timestamp(oldest)) };
        (records, age)
    }

    fn watch_lag(&self, core: &Core) {
        let (records, age) = self.lag(core);
        self.metrics.lag(records, age);
        let late = age > self.settings.warn_after;
        if late && !self.warned.swap(true, Ordering::AcqRel) {
            tracing::warn!(
                records,
                lag_ms = age.as_millis(),
                "the cloud is behind by more than recovery.warn_after: the loss of this disk would lose these records"
            );
        } else if !late && self.warned.swap(false, Ordering::AcqRel) {
            tracing::info!("the cloud has caught up");
        }
    }

    /// Waits until a record is in the cloud.
    async fn has(&self, core: &Arc<Core>, seq: u64) -> Result<(), EngineError> {
        let mut shipped = self.shipped.subscribe();
        if core.settings.driven && *shipped.borrow() < seq {
            self.turn(core).await;
        }
        let wait = tokio::time::timeout(core.patience(), shipped.wait_for(|at| *at >= seq));
        match wait.await {
            Ok(Ok(_)) => Ok(()),
            _ => Err(EngineError::Unavailable(format!("record {seq} has not been shipped to the recovery tier yet"))),
        }
    }
}

fn gauge(value: u64) -> i64 {
    i64::try_from(value).unwrap_or(i64::MAX)
}

fn floor(core: &Core) -> Result<Option<u64>, RecoveryError> {
    let stored = core.meta.get(Table::System, FLOOR_KEY)?;
    Ok(stored.and_then(|bytes| bytes.as_ref().try_into().ok()).map(u64::from_le_bytes))
}
