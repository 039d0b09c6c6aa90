//! The bounded queue between the callers of `commit` and the one committer.

use super::follow::Piece;
use crate::meta::{Batch, Committed, MetaError};
use std::collections::VecDeque;
use std::sync::{Condvar, Mutex, MutexGuard, PoisonError};
use std::time::{Duration, Instant};
use tokio::sync::{Semaphore, oneshot};

/// Where a commit's answer goes.
pub(crate) type Answer = oneshot::Sender<Result<Committed, MetaError>>;

/// What a caller asks of the committer.
#[derive(Debug)]
pub(crate) enum Request {
    /// Commit this.
    Commit(Batch, Answer),
    /// Put these records of another store's journal behind what is there.
    Append(Piece, Answer),
    /// Make everything committed so far durable, also when durability is relaxed.
    Sync(Answer),
}

impl Request {
    /// Roughly the bytes that the request adds to a group.
    fn weight(&self) -> usize {
        match self {
            Request::Commit(batch, _) => batch.ops.iter().fold(64, |sum: usize, op| {
                sum.saturating_add(8 + op.key.len() + op.value.as_ref().map_or(0, Vec::len))
            }),
            Request::Append(piece, _) => piece.bytes.len(),
            Request::Sync(_) => 0,
        }
    }

    /// Gives the answer; a caller that went away does not matter.
    pub(crate) fn answer(self, result: Result<Committed, MetaError>) {
        let (Request::Commit(_, tx) | Request::Append(_, tx) | Request::Sync(tx)) = self;
        let _ = tx.send(result);
    }
}

/// How much the committer takes at once.
#[derive(Debug, Clone, Copy)]
pub(crate) struct GroupLimit {
    pub(crate) records: usize,
    pub(crate) bytes: usize,
}

#[derive(Debug, Default)]
struct Waiting {
    requests: VecDeque<Request>,
    closed: bool,
    /// The committer sleeps and must be woken: without this mark every push would cost a system call.
    asleep: bool,
}

/// The queue.
#[derive(Debug)]
pub(crate) struct Queue {
    waiting: Mutex<Waiting>,
    wake: Condvar,
    room: Semaphore,
}

impl Queue {
    pub(crate) fn new(depth: usize) -> Queue {
        Queue { waiting: Mutex::default(), wake: Condvar::new(), room: Semaphore::new(depth) }
    }

    fn lock(&self) -> MutexGuard<'_, Waiting> {
        self.waiting.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Adds a request, waiting for room. [`MetaError::Closed`] when nobody will take it.
    pub(crate) async fn push(&self, request: Request) -> Result<(), MetaError> {
        // The committer gives the permit back when it takes the request out.
        self.room.acquire().await.map_err(|_| MetaError::Closed)?.forget();
        let mut waiting = self.lock();
        if waiting.closed {
            return Err(MetaError::Closed);
        }
        waiting.requests.push_back(request);
        let asleep = waiting.asleep;
        drop(waiting);
        if asleep {
            self.wake.notify_one();
        }
        Ok(())
    }

    /// Takes the next group into `group` (emptied before). Sleeps until there is a request, until `until`, or until the
    /// queue is closed; false means closed and empty. `gather` is how many requests to hope for and for how long: the
    /// callers answered by the last group are likely to come back within microseconds, and taking the first of them
    /// alone would make every second group a group of one.
    pub(crate) fn take(
        &self,
        group: &mut Vec<Request>,
        limit: GroupLimit,
        until: Option<Instant>,
        gather: (usize, Duration),
    ) -> bool {
        group.clear();
        let mut waiting = self.lock();
        while waiting.requests.is_empty() {
            if waiting.closed {
                return false;
            }
            waiting.asleep = true;
            waiting = match until.map(|t| t.saturating_duration_since(Instant::now())) {
                Some(left) if left.is_zero() => {
                    waiting.asleep = false;
                    return true;
                }
                Some(left) => self.wake.wait_timeout(waiting, left).unwrap_or_else(PoisonError::into_inner).0,
                None => self.wake.wait(waiting).unwrap_or_else(PoisonError::into_inner),
            };
            waiting.asleep = false;
        }
        let began = Instant::now();
        while waiting.requests.len() < gather.0 && !waiting.closed && began.elapsed() < gather.1 {
            drop(waiting);
            std::thread::yield_now();
            waiting = self.lock();
        }
        let mut bytes = 0usize;
        while let Some(request) = waiting.requests.front() {
            bytes = bytes.saturating_add(request.weight());
            if group.len() >= limit.records || (bytes > limit.bytes && !group.is_empty()) {
                break;
            }
            group.extend(waiting.requests.pop_front());
        }
        drop(waiting);
        self.room.add_permits(group.len());
        true
    }

    /// Refuses further requests; those already waiting are still taken.
    pub(crate) fn close(&self) {
        self.lock().closed = true;
        self.room.close();
        self.wake.notify_all();
    }

    /// Refuses further requests and drops those waiting, so that their callers learn that nobody answers.
    pub(crate) fn abandon(&self) {
        self.close();
        self.lock().requests.clear();
    }
}
