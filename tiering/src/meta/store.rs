//! The embedded store: journal, index and snapshots behind [`MetaStore`].

use super::keeper::{Keeper, KeeperParts};
use super::lock::DataLock;
use super::marker::{IndexState, Layout, Marker};
use super::open::{OpenReport, Wish, recover};
use super::snapshot::{self, SnapshotInfo};
use super::{Batch, CommitObserver, Committed, DataSync, Entry, KeyRange, MetaError, MetaSettings, MetaStore, NoData};
use super::{MAX_RECORD_BYTES, Table, Value};
use crate::clock::Clock;
use crate::journal::committer::{Committer, Shared};
use crate::journal::follow::{Follower, Piece};
use crate::journal::list_segments;
use crate::journal::queue::{Queue, Request};
use std::ops::{Bound, ControlFlow};
use std::path::Path;
use std::sync::atomic::Ordering;
use std::sync::{Arc, Mutex, PoisonError};
use std::thread::JoinHandle;

/// Entries read at a time by [`MetaStore::scan_each`].
const WALK_PAGE: usize = 256;

/// The journal with its index. Share it with `Arc`; [`JournaledStore::close`] (or dropping it) leaves it clean.
pub struct JournaledStore {
    shared: Arc<Shared>,
    queue: Arc<Queue>,
    keeper: Arc<Keeper>,
    running: Mutex<Option<Running>>,
}

/// What ends with the store.
struct Running {
    committer: JoinHandle<()>,
    keeper: JoinHandle<()>,
    _lock: DataLock,
}

/// A store whose threads have not begun. Dropping it leaves the mark that says open: the next opening replays the journal.
struct Prepared {
    keeper: Arc<Keeper>,
    committer: Committer,
    lock: DataLock,
    report: OpenReport,
}

/// Sizes and positions, for `stats` and metrics.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct MetaStats {
    /// Latest applied record.
    pub last_seq: u64,
    /// The epoch.
    pub epoch: u64,
    /// Segments on disk.
    pub journal_segments: usize,
    /// Their size in bytes, zeros filled ahead included.
    pub journal_bytes: u64,
    /// Bytes of journal written since the store was opened.
    pub journal_written: u64,
    /// Size of the index on disk, in bytes.
    pub index_bytes: u64,
    /// Snapshots kept.
    pub snapshots: usize,
    /// The newest of them.
    pub newest_snapshot: Option<SnapshotInfo>,
    /// Why writes are refused, if they are.
    pub poisoned: Option<String>,
}

impl JournaledStore {
    /// Opens the store in `dir`, making it when the directory is empty, and begins a new epoch. `data` makes bodies
    /// durable; `observers` hear of every commit from now on (not of those replayed: walk the tables for these).
    /// Blocks while it recovers: call it from a blocking thread.
    ///
    /// # Errors
    /// [`MetaError::Locked`] when another process has it; [`MetaError::Corrupt`] when the journal is damaged beyond a
    /// torn tail; [`MetaError::Io`]; [`MetaError::Invalid`] for settings out of range.
    pub fn open(
        dir: &Path,
        settings: MetaSettings,
        data: Arc<dyn DataSync>,
        observers: Vec<Arc<dyn CommitObserver>>,
        clock: Arc<dyn Clock>,
    ) -> Result<(JournaledStore, OpenReport), MetaError> {
        let mut prepared = Self::prepare(dir, settings, data, observers, clock)?;
        prepared.committer.write_opened()?;
        prepared.report.last_seq = prepared.committer.last_seq;
        prepared.start(dir)
    }

    /// As [`JournaledStore::open`], as a follower of another store's journal: it refuses commits, and begins no epoch. Its
    /// journal grows by [`JournaledStore::append_shipped`] alone, of which the observers hear as of commits.
    ///
    /// # Errors
    /// As [`JournaledStore::open`]; [`MetaError::Invalid`] also when there is no journal to go on with.
    pub(crate) fn open_follower(
        dir: &Path,
        settings: MetaSettings,
        observers: Vec<Arc<dyn CommitObserver>>,
        clock: Arc<dyn Clock>,
    ) -> Result<(JournaledStore, OpenReport), MetaError> {
        let journal = Layout::new(dir).journal;
        if list_segments(&journal)?.is_empty() {
            return Err(MetaError::Invalid(format!("there is no journal in {}", journal.display())));
        }
        let mut prepared = Self::prepare(dir, settings, Arc::new(NoData), observers, clock)?;
        prepared.committer.epoch = prepared.committer.epoch.saturating_sub(1);
        prepared.committer.shared.set_fence("this is a standby, which is read-only".to_owned());
        prepared.start(dir)
    }

    fn prepare(
        dir: &Path,
        settings: MetaSettings,
        data: Arc<dyn DataSync>,
        observers: Vec<Arc<dyn CommitObserver>>,
        clock: Arc<dyn Clock>,
    ) -> Result<Prepared, MetaError> {
        let found = recover(dir, &settings, clock.as_ref(), Wish { rebuild: None, progress: &mut |_| {} })?;
        let shared = Arc::new(Shared::new(found.index, found.last_seq, observers));
        let queue = Arc::new(Queue::new(settings.queue_depth));
        let keeper = Arc::new(Keeper::new(KeeperParts {
            shared: Arc::clone(&shared),
            queue: Arc::clone(&queue),
            layout: found.layout.clone(),
            settings: settings.clone(),
            clock: Arc::clone(&clock),
            generation: found.generation,
            epoch: found.epoch,
        })?);
        let bell = Arc::clone(&keeper);
        let committer = Committer {
            queue: Arc::clone(&queue),
            shared: Arc::clone(&shared),
            data,
            clock,
            settings,
            dir: found.layout.journal,
            last_segment: found.segment.path().to_owned(),
            segment: found.segment,
            epoch: found.epoch,
            last_seq: found.last_seq,
            durable: found.last_seq,
            data_dirty: false,
            after_group: Box::new(move |written| bell.note(written)),
        };
        let report = OpenReport {
            recovery: found.recovery,
            torn_tail: found.torn_tail,
            epoch: found.epoch,
            last_seq: found.last_seq,
            took: found.began.elapsed(),
        };
        Ok(Prepared { keeper, committer, lock: found.lock, report })
    }

    /// Puts records of the followed journal behind what is here; durable and visible when it returns. What does not go on
    /// where this store ends is refused.
    ///
    /// # Errors
    /// [`MetaError::Invalid`] for records that do not fit; otherwise as of a commit.
    pub(crate) async fn append_shipped(&self, piece: Piece) -> Result<Committed, MetaError> {
        if let Some(e) = self.shared.poisoned() {
            return Err(e);
        }
        let (tx, rx) = tokio::sync::oneshot::channel();
        self.queue.push(Request::Append(piece, tx)).await.map_err(|e| self.shared.poisoned().unwrap_or(e))?;
        rx.await.map_err(|_| self.shared.poisoned().unwrap_or(MetaError::Closed))?
    }

    /// Lets `observer` hear of every commit that is answered from now on.
    pub fn add_observer(&self, observer: Arc<dyn CommitObserver>) {
        self.shared.observers.write().unwrap_or_else(PoisonError::into_inner).push(observer);
    }

    /// Returns when everything committed so far is durable; of use with relaxed durability. Blocks.
    pub fn sync(&self) -> Result<u64, MetaError> {
        self.keeper.sync()
    }

    /// Makes the index survive a kill up to now, which shortens the next opening. Blocks.
    pub fn checkpoint(&self) -> Result<(), MetaError> {
        self.keeper.checkpoint()
    }

    /// Writes a snapshot now and retires what it makes superfluous. Commits go on meanwhile. Blocks.
    pub fn snapshot_now(&self) -> Result<SnapshotInfo, MetaError> {
        self.keeper.snapshot()
    }

    /// The latest record known durable.
    pub fn durable_seq(&self) -> u64 {
        self.shared.durable.load(Ordering::Acquire)
    }

    /// From now on journal segments stay until [`JournaledStore::note_shipped`] has been told of their records; but not
    /// more than `max_bytes` of them for that reason alone.
    pub fn hold_journal(&self, max_bytes: u64) {
        self.shared.max_held.store(max_bytes, Ordering::Relaxed);
        self.shared.shipped.store(0, Ordering::Release);
    }

    /// Records up to `seq` are safe elsewhere.
    pub fn note_shipped(&self, seq: u64) {
        self.shared.shipped.store(seq, Ordering::Release);
    }

    /// Refuses commits from now on, because another store has taken this one's place. Reads go on.
    pub fn fence(&self, cause: String) {
        self.shared.set_fence(cause);
    }

    /// Why commits are refused since [`JournaledStore::fence`].
    pub fn fenced(&self) -> Option<MetaError> {
        self.shared.fenced()
    }

    /// A reader of what is durable, from record `next` on.
    pub(crate) fn follow(&self, next: u64) -> Follower {
        Follower::new(&self.keeper.layout.journal, next)
    }

    /// Sizes and positions.
    pub fn stats(&self) -> Result<MetaStats, MetaError> {
        let segments = list_segments(&self.keeper.layout.journal)?;
        let snapshots = snapshot::list(&self.keeper.layout.snapshots)?;
        Ok(MetaStats {
            last_seq: self.last_seq(),
            epoch: self.keeper.epoch,
            journal_segments: segments.len(),
            journal_bytes: segments.iter().map(|s| s.len).sum(),
            journal_written: self.shared.written.load(Ordering::Relaxed),
            index_bytes: self.shared.index()?.size_on_disk()?,
            snapshots: snapshots.len(),
            newest_snapshot: snapshots.into_iter().next(),
            poisoned: self.shared.poisoned().map(|e| e.to_string()),
        })
    }

    /// Why writes are refused, if they are.
    pub fn poisoned(&self) -> Option<MetaError> {
        self.shared.poisoned()
    }

    /// Commits what waits, makes everything durable, leaves the index clean, and gives the lock back. Later calls of
    /// any method answer [`MetaError::Closed`]; closing twice is fine. Blocks.
    pub fn close(&self) -> Result<(), MetaError> {
        let Some(running) = self.running.lock().unwrap_or_else(PoisonError::into_inner).take() else { return Ok(()) };
        self.keeper.stop();
        let keeper_ended = running.keeper.join().is_ok();
        self.queue.close();
        let committer_ended = running.committer.join().is_ok();
        let index = self.shared.index.write().unwrap_or_else(PoisonError::into_inner).take();
        if let Some(e) = self.shared.poisoned() {
            return Err(e); // the marker still says open, so the next opening replays the journal
        }
        if !keeper_ended || !committer_ended {
            return Err(MetaError::Poisoned { cause: "a thread of the store ended by a panic".to_owned() });
        }
        if let Some(index) = index {
            let last = self.last_seq();
            index.set_position(self.keeper.epoch, last)?;
            index.close()?;
            Marker::new(IndexState::Clean, self.keeper.generation, last).save(&self.keeper.layout.root)?;
        }
        Ok(())
    }

    async fn send(&self, batch: Batch) -> Result<Committed, MetaError> {
        let bytes = batch.ops.iter().fold(0usize, |sum, op| {
            sum.saturating_add(16 + op.key.len()).saturating_add(op.value.as_ref().map_or(0, Vec::len))
        });
        if bytes > MAX_RECORD_BYTES {
            return Err(MetaError::Invalid(format!("a batch of {bytes} bytes; the limit is {MAX_RECORD_BYTES}")));
        }
        if let Some(e) = self.shared.poisoned().or_else(|| self.shared.fenced()) {
            return Err(e);
        }
        let (tx, rx) = tokio::sync::oneshot::channel();
        self.queue.push(Request::Commit(batch, tx)).await.map_err(|e| self.shared.poisoned().unwrap_or(e))?;
        rx.await.map_err(|_| self.shared.poisoned().unwrap_or(MetaError::Closed))?
    }
}

impl Prepared {
    /// Starts the threads.
    fn start(self, dir: &Path) -> Result<(JournaledStore, OpenReport), MetaError> {
        let Prepared { keeper, committer, lock, report } = self;
        let (shared, queue, keeper_run) =
            (Arc::clone(&committer.shared), Arc::clone(&committer.queue), Arc::clone(&keeper));
        let running = Running {
            committer: spawn("meta-commit", dir, move || committer.run())?,
            keeper: spawn("meta-keeper", dir, move || keeper_run.run())?,
            _lock: lock,
        };
        Ok((JournaledStore { shared, queue, keeper, running: Mutex::new(Some(running)) }, report))
    }
}

fn spawn(name: &str, dir: &Path, run: impl FnOnce() + Send + 'static) -> Result<JoinHandle<()>, MetaError> {
    let thread = std::thread::Builder::new().name(name.to_owned());
    thread.spawn(run).map_err(|e| MetaError::io("start a thread for", dir, &e))
}

impl std::fmt::Debug for JournaledStore {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("JournaledStore").field("root", &self.keeper.layout.root).finish_non_exhaustive()
    }
}

impl Drop for JournaledStore {
    fn drop(&mut self) {
        if let Err(e) = self.close() {
            tracing::error!(error = %e, "the namespace store was not closed cleanly; the next start replays the journal");
        }
    }
}

#[async_trait::async_trait]
impl MetaStore for JournaledStore {
    async fn commit(&self, batch: Batch) -> Result<Committed, MetaError> {
        self.send(batch).await
    }

    fn commit_blocking(&self, batch: Batch) -> Result<Committed, MetaError> {
        futures::executor::block_on(self.send(batch))
    }

    fn get(&self, table: Table, key: &[u8]) -> Result<Option<Value>, MetaError> {
        // Read under the lock: the committer holds it while it applies a batch.
        let index = self.shared.index.read().unwrap_or_else(PoisonError::into_inner);
        index.as_ref().ok_or(MetaError::Closed)?.get(table, key)
    }

    fn scan(&self, table: Table, range: KeyRange, limit: usize, reverse: bool) -> Result<Vec<Entry>, MetaError> {
        // The lock is taken and given back: a batch that an earlier call saw in part is complete by then. It is not
        // held over the page, or long listings would delay every commit.
        let index = self.shared.index()?;
        index.scan(table, range, limit, reverse)
    }

    fn scan_each(
        &self,
        table: Table,
        (mut from, to): KeyRange,
        visit: &mut dyn FnMut(&[u8], &Value) -> ControlFlow<()>,
    ) -> Result<(), MetaError> {
        loop {
            let page = self.scan(table, (from, to.clone()), WALK_PAGE, false)?;
            for (key, value) in &page {
                if visit(key, value).is_break() {
                    return Ok(());
                }
            }
            match page.into_iter().next_back() {
                Some((last, _)) => from = Bound::Excluded(last),
                None => return Ok(()),
            }
        }
    }

    fn last_seq(&self) -> u64 {
        self.shared.applied.load(Ordering::Acquire)
    }

    fn epoch(&self) -> u64 {
        self.keeper.epoch
    }
}
