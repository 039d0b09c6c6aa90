//! The keeper: one background thread that checkpoints the index and writes snapshots when enough journal has been
//! written, and retires what they make superfluous.

use super::marker::{IndexState, Layout, Marker};
use super::snapshot::{self, SnapshotInfo, Start};
use super::{MetaError, MetaSettings};
use crate::clock::Clock;
use crate::disk;
use crate::failpoint;
use crate::journal::committer::Shared;
use crate::journal::queue::{Queue, Request};
use crate::journal::{list_segments, sync_dir};
use crate::mutants::{self, Mutant};
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::sync::{Arc, Condvar, Mutex, MutexGuard, PoisonError};

/// What the keeper works with, shared with the store.
pub(crate) struct Keeper {
    pub(crate) shared: Arc<Shared>,
    pub(crate) queue: Arc<Queue>,
    pub(crate) layout: Layout,
    pub(crate) settings: MetaSettings,
    pub(crate) clock: Arc<dyn Clock>,
    pub(crate) generation: u128,
    pub(crate) epoch: u64,
    /// Journal bytes (as counted by `Shared::written`) at which the next checkpoint is due.
    checkpoint_at: AtomicU64,
    /// The same for the next snapshot.
    snapshot_at: AtomicU64,
    /// One checkpoint or snapshot at a time.
    working: Mutex<()>,
    bell: Mutex<bool>,
    wake: Condvar,
    stop: AtomicBool,
}

fn lock<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}

/// The parts of a keeper that come from opening.
pub(crate) struct KeeperParts {
    pub(crate) shared: Arc<Shared>,
    pub(crate) queue: Arc<Queue>,
    pub(crate) layout: Layout,
    pub(crate) settings: MetaSettings,
    pub(crate) clock: Arc<dyn Clock>,
    pub(crate) generation: u128,
    pub(crate) epoch: u64,
}

impl Keeper {
    /// A keeper that counts the journal already written since the last snapshot.
    pub(crate) fn new(parts: KeeperParts) -> Result<Keeper, MetaError> {
        let newest = snapshot::list(&parts.layout.snapshots)?.into_iter().next();
        let since = newest.as_ref().map_or(0, |s| s.start_seq);
        let carried: u64 =
            list_segments(&parts.layout.journal)?.iter().filter(|s| s.first_seq > since).map(|s| s.len).sum();
        let goal = parts.settings.snapshot_bytes.max(newest.map_or(0, |s| s.bytes));
        Ok(Keeper {
            checkpoint_at: AtomicU64::new(parts.settings.checkpoint_bytes),
            snapshot_at: AtomicU64::new(goal.saturating_sub(carried)),
            shared: parts.shared,
            queue: parts.queue,
            layout: parts.layout,
            settings: parts.settings,
            clock: parts.clock,
            generation: parts.generation,
            epoch: parts.epoch,
            working: Mutex::new(()),
            bell: Mutex::new(false),
            wake: Condvar::new(),
            stop: AtomicBool::new(false),
        })
    }

    /// Called by the committer after each group: rings when something is due.
    pub(crate) fn note(&self, written: u64) {
        if written >= self.checkpoint_at.load(Ordering::Relaxed) || written >= self.snapshot_at.load(Ordering::Relaxed)
        {
            let mut bell = lock(&self.bell);
            if !*bell {
                *bell = true;
                self.wake.notify_one();
            }
        }
    }

    /// Ends [`Keeper::work`].
    pub(crate) fn stop(&self) {
        self.stop.store(true, Ordering::Release);
        *lock(&self.bell) = true;
        self.wake.notify_one();
    }

    /// [`Keeper::work`], and no silent end of it: without checkpoints and snapshots the journal grows until the disk is full, so a
    /// panic refuses writes, as one of the committer does.
    pub(crate) fn run(&self) {
        struct Panicked<'a>(&'a Shared);
        impl Drop for Panicked<'_> {
            fn drop(&mut self) {
                if std::thread::panicking() {
                    self.0.set_poison("the keeper of checkpoints and snapshots stopped unexpectedly".to_owned());
                }
            }
        }
        let _panicked = Panicked(&self.shared);
        self.work();
    }

    /// Works until stopped. Failures are logged and tried again when as much journal has been written once more: the
    /// journal keeps everything meanwhile.
    fn work(&self) {
        loop {
            let mut bell = lock(&self.bell);
            while !*bell {
                bell = self.wake.wait(bell).unwrap_or_else(PoisonError::into_inner);
            }
            *bell = false;
            drop(bell);
            if self.stop.load(Ordering::Acquire) {
                return;
            }
            let written = self.shared.written.load(Ordering::Relaxed);
            let done = if written >= self.snapshot_at.load(Ordering::Relaxed) {
                self.snapshot().map(drop)
            } else if written >= self.checkpoint_at.load(Ordering::Relaxed) {
                self.checkpoint()
            } else {
                Ok(())
            };
            if let Err(e) = done {
                self.checkpoint_at.store(written.saturating_add(self.settings.checkpoint_bytes), Ordering::Relaxed);
                let again = written.saturating_add(self.settings.snapshot_bytes);
                self.snapshot_at.fetch_max(again, Ordering::Relaxed);
                tracing::error!(error = %e, "the index could not be checkpointed; the journal keeps everything");
            }
        }
    }

    /// Everything committed so far is durable when this returns, also when durability is relaxed.
    pub(crate) fn sync(&self) -> Result<u64, MetaError> {
        let (tx, rx) = tokio::sync::oneshot::channel();
        futures::executor::block_on(async {
            self.queue.push(Request::Sync(tx)).await?;
            rx.await.map_err(|_| self.shared.poisoned().unwrap_or(MetaError::Closed))?
        })
        .map(|committed| committed.seq)
    }

    /// Makes the index survive a kill up to the latest record, and notes that.
    pub(crate) fn checkpoint(&self) -> Result<(), MetaError> {
        let _working = lock(&self.working);
        self.checkpoint_locked()
    }

    fn checkpoint_locked(&self) -> Result<(), MetaError> {
        let written = self.shared.written.load(Ordering::Relaxed);
        // Also with strict durability a checkpoint must not be ahead of the journal; there this costs nothing.
        let seq = self.sync()?;
        self.shared.index()?.flush()?;
        Marker::new(IndexState::Open, self.generation, seq).save(&self.layout.root)?;
        self.checkpoint_at.store(written.saturating_add(self.settings.checkpoint_bytes), Ordering::Relaxed);
        Ok(())
    }

    /// Writes a snapshot while commits go on, reads it back, then retires older snapshots and the journal that only
    /// they needed.
    pub(crate) fn snapshot(&self) -> Result<SnapshotInfo, MetaError> {
        let _working = lock(&self.working);
        let written = self.shared.written.load(Ordering::Relaxed);
        let index = self.shared.index()?;
        let start = Start {
            seq: self.shared.applied.load(Ordering::Acquire) + u64::from(mutants::active(Mutant::SnapshotOneTooFar)),
            epoch: self.epoch,
            created_ms: self.clock.now().millis(),
        };
        let info = snapshot::write(&self.layout.snapshots, &index, start, || self.sync())?;
        drop(index);
        snapshot::read(&info.path, &mut |_, _, _| Ok(()))?;
        self.checkpoint_locked()?;
        self.retire()?;
        let goal = self.settings.snapshot_bytes.max(info.bytes);
        self.snapshot_at.store(written.saturating_add(goal), Ordering::Relaxed);
        Ok(info)
    }

    /// Removes snapshots beyond those to keep, and segments wholly before the oldest kept one. While fewer snapshots
    /// than wanted exist, the journal stays from its beginning.
    fn retire(&self) -> Result<(), MetaError> {
        let snapshots = snapshot::list(&self.layout.snapshots)?;
        let Some(oldest) = snapshots.get(self.settings.keep_snapshots.saturating_sub(1)) else { return Ok(()) };
        for old in snapshots.iter().skip(self.settings.keep_snapshots) {
            disk::remove(&old.path).map_err(|e| MetaError::io("remove", &old.path, &e))?;
        }
        sync_dir(&self.layout.snapshots)?;
        let segments = list_segments(&self.layout.journal)?;
        // A segment ends where the next begins; the last one is never removed.
        let ended = segments.windows(2).filter_map(|pair| match pair {
            [old, next] if next.first_seq <= oldest.start_seq.saturating_add(1) => Some((old, next.first_seq)),
            _ => None,
        });
        let ended: Vec<_> = ended.collect();
        // What the cloud has not got yet stays, up to a bound: the disk must not fill because the cloud is away.
        let shipped = self.shared.shipped.load(Ordering::Acquire);
        let waits = |next: u64| next.saturating_sub(1) > shipped;
        let mut held: u64 = ended.iter().filter(|(_, next)| waits(*next)).map(|(old, _)| old.len).sum();
        for (old, next) in ended {
            if waits(next) {
                if held <= self.shared.max_held.load(Ordering::Relaxed) {
                    break;
                }
                held = held.saturating_sub(old.len);
                tracing::warn!(
                    segment = %old.path.display(),
                    "the cloud has been away for too long: a journal segment goes before it was shipped, and with it the moments \
                     that it covers; a snapshot will be shipped instead"
                );
            }
            disk::remove(&old.path).map_err(|e| MetaError::io("remove", &old.path, &e))?;
            // One by one and in order, so that a crash leaves no gap.
            sync_dir(&self.layout.journal)?;
        }
        failpoint::hit("snapshot.after_retire");
        Ok(())
    }
}
