//! MD5 of many bodies at a time, beside the rest of their ingest.
//!
//! S3's ETag of a PUT is an MD5, and MD5 is a chain: one core gives 0.7 to 0.9 GB/s, whatever its width, and that is
//! more than cutting, naming and storing a body take together. So pieces of bodies are hashed by threads of their own while
//! the ingesting thread goes on, and what waits at the same time goes through the vector unit side by side ([`lanes`]).
//! The busier the server, the more waits, the less each costs; a thread even lets a piece wait a little while more bodies
//! are on their way, because a lane that is left empty costs as much as a full one.
//!
//! The threads are not those of the runtime: a writer waits for its digest, so writers could take every thread
//! that the digests need.

mod lanes;

use bytes::Bytes;
use lanes::{Hash, LANES};
use std::collections::VecDeque;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Condvar, Mutex, MutexGuard, PoisonError};

/// Bytes of one body that may wait for their digest; the writer waits with more.
const MAX_WAITING_BYTES: usize = 768 << 10;

/// With so many bytes of one body waiting, no thread waits for company any longer. Less than [`MAX_WAITING_BYTES`] by a piece, so
/// that a thread that is as fast as the writer never stops for it.
const PRESSING_BYTES: usize = 512 << 10;

fn lock<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}

/// The threads that hash. They end when this is dropped.
#[derive(Debug)]
pub(crate) struct Md5Pool {
    queue: Arc<Queue>,
    /// Threads that could be started; without any, writers hash for themselves.
    threads: usize,
}

#[derive(Debug, Default)]
struct Queue {
    bodies: Mutex<Waiting>,
    more: Condvar,
}

#[derive(Debug, Default)]
struct Waiting {
    ready: VecDeque<Arc<Body>>,
    /// Bodies that were begun and are not complete.
    open: usize,
    closed: bool,
}

/// A body that is being hashed.
#[derive(Debug, Default)]
struct Body {
    state: Mutex<State>,
    done: Condvar,
    /// Its writer waits, or soon will.
    pressing: AtomicBool,
}

#[derive(Debug, Default)]
struct State {
    hash: Hash,
    pieces: VecDeque<Bytes>,
    waiting_bytes: usize,
    /// It is in the queue, or a thread has its hash.
    queued: bool,
    /// The writer waits for the digest.
    finishing: bool,
}

impl Md5Pool {
    /// A pool with a thread for every two processors: more would find fewer bodies waiting, and hash more of them alone.
    pub(crate) fn for_this_machine() -> Self {
        Self::new(std::thread::available_parallelism().map_or(1, |n| n.get().div_ceil(2)))
    }

    /// Starts up to `threads` threads.
    pub(crate) fn new(threads: usize) -> Self {
        let queue = Arc::new(Queue::default());
        let start = |_: &usize| {
            let queue = Arc::clone(&queue);
            let thread = std::thread::Builder::new().name("md5".into());
            thread.spawn(move || queue.work()).inspect_err(|e| tracing::warn!("a thread for MD5: {e}")).is_ok()
        };
        let threads = (0..threads).take_while(start).count();
        Self { queue, threads }
    }

    /// A digest at its start.
    pub(crate) fn begin(&self) -> Md5Stream {
        let queue = (self.threads > 0).then(|| Arc::clone(&self.queue));
        if let Some(queue) = &queue {
            lock(&queue.bodies).open += 1;
        }
        Md5Stream { queue, body: Arc::default() }
    }
}

impl Drop for Md5Pool {
    fn drop(&mut self) {
        lock(&self.queue.bodies).closed = true;
        self.queue.more.notify_all();
    }
}

/// The MD5 of one body whose pieces come one after the other.
pub(crate) struct Md5Stream {
    queue: Option<Arc<Queue>>,
    body: Arc<Body>,
}

impl Md5Stream {
    /// Adds a piece. Waits while much of the body is still to be hashed.
    pub(crate) fn update(&mut self, piece: Bytes) {
        let mut state = lock(&self.body.state);
        let Some(queue) = &self.queue else {
            return state.hash.update(&piece);
        };
        while state.waiting_bytes >= MAX_WAITING_BYTES {
            state = self.body.done.wait(state).unwrap_or_else(PoisonError::into_inner);
        }
        state.waiting_bytes += piece.len();
        state.pieces.push_back(piece);
        let presses = self.body.note_pressing(&state);
        let news = !std::mem::replace(&mut state.queued, true);
        drop(state);
        if news {
            queue.push(Arc::clone(&self.body));
        } else if presses {
            queue.look_again();
        }
    }

    /// The digest, once all of the body is hashed.
    pub(crate) fn finish(self) -> [u8; 16] {
        let mut state = lock(&self.body.state);
        state.finishing = true;
        self.body.note_pressing(&state);
        if let (true, Some(queue)) = (state.queued, &self.queue) {
            drop(state);
            queue.look_again();
            state = lock(&self.body.state);
        }
        while state.queued {
            state = self.body.done.wait(state).unwrap_or_else(PoisonError::into_inner);
        }
        std::mem::take(&mut state.hash).finish()
    }
}

impl Drop for Md5Stream {
    fn drop(&mut self) {
        if let Some(queue) = &self.queue {
            lock(&queue.bodies).open -= 1;
            queue.more.notify_one();
        }
    }
}

impl Waiting {
    /// Whether hashing now is better than waiting for more bodies: no more will come, all lanes are full, or a writer waits.
    fn is_worth_it(&self) -> bool {
        let full = self.closed || self.ready.len() >= self.open.min(LANES);
        full || self.ready.iter().any(|body| body.pressing.load(Ordering::Relaxed))
    }
}

impl Queue {
    fn push(&self, body: Arc<Body>) {
        lock(&self.bodies).ready.push_back(body);
        self.more.notify_one();
    }

    /// Wakes a thread for a body that has come to press. The lock makes sure that none is between its look and its sleep.
    fn look_again(&self) {
        drop(lock(&self.bodies));
        self.more.notify_one();
    }

    /// Hashes what waits, a piece of up to [`LANES`] bodies at a time, until the pool is closed. Bodies are taken in turns.
    fn work(&self) {
        loop {
            let mut waiting = lock(&self.bodies);
            while waiting.ready.is_empty() || !waiting.is_worth_it() {
                if waiting.closed {
                    return;
                }
                waiting = self.more.wait(waiting).unwrap_or_else(PoisonError::into_inner);
            }
            let count = waiting.ready.len().min(LANES);
            let bodies: Vec<Arc<Body>> = waiting.ready.drain(..count).collect();
            drop(waiting);
            let mut work: Vec<(Hash, Bytes)> = bodies.iter().map(|body| body.take()).collect();
            lanes::update(&mut work);
            for (body, (hash, piece)) in bodies.into_iter().zip(work) {
                if body.give_back(hash, piece) {
                    self.push(body);
                }
            }
        }
    }
}

impl Body {
    /// Whether the writer waits or soon will, which threads read without the lock on the state.
    fn note_pressing(&self, state: &State) -> bool {
        let presses = state.finishing || state.waiting_bytes >= PRESSING_BYTES;
        self.pressing.store(presses, Ordering::Relaxed);
        presses
    }

    fn take(&self) -> (Hash, Bytes) {
        let mut state = lock(&self.state);
        (std::mem::take(&mut state.hash), state.pieces.pop_front().unwrap_or_default())
    }

    /// True when more of it waits. The piece is given up before the writer goes on, so that its buffer can be used again.
    fn give_back(&self, hash: Hash, piece: Bytes) -> bool {
        let length = piece.len();
        drop(piece);
        let mut state = lock(&self.state);
        state.hash = hash;
        state.waiting_bytes = state.waiting_bytes.saturating_sub(length);
        state.queued = !state.pieces.is_empty();
        self.note_pressing(&state);
        self.done.notify_one();
        state.queued
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use md5::{Digest, Md5};
    use proptest::prelude::*;

    fn body(seed: u64, len: usize) -> Bytes {
        let mut out = vec![0; len];
        blake3::Hasher::new().update(&seed.to_le_bytes()).finalize_xof().fill(&mut out);
        out.into()
    }

    fn streamed(pool: &Md5Pool, whole: &Bytes, step: usize) -> [u8; 16] {
        let mut stream = pool.begin();
        let mut rest = whole.clone();
        while !rest.is_empty() {
            let piece = rest.split_to(step.clamp(1, rest.len()));
            stream.update(piece);
        }
        stream.finish()
    }

    proptest! {
        #![proptest_config(ProptestConfig::with_cases(24))]
        #[test]
        fn bodies_hashed_side_by_side_get_the_digest_that_each_has_alone(
            shapes in prop::collection::vec((0usize..3_000_000, 1usize..400_000), 1..24), threads in 0usize..3
        ) {
            let pool = Md5Pool::new(threads);
            let got: Vec<_> = std::thread::scope(|scope| {
                let running: Vec<_> = shapes.iter().enumerate().map(|(seed, (len, step))| {
                    let pool = &pool;
                    // So small a step for so large a body would only measure the queue.
                    scope.spawn(move || streamed(pool, &body(seed as u64, *len), (*step).max(len / 1_000)))
                }).collect();
                running.into_iter().map(|t| t.join().unwrap()).collect()
            });
            for (seed, ((len, _), got)) in shapes.iter().zip(got).enumerate() {
                let want: [u8; 16] = Md5::digest(body(seed as u64, *len)).into();
                prop_assert_eq!(got, want, "{} bytes", len);
            }
        }
    }

    #[test]
    fn an_empty_body_has_the_digest_of_nothing() {
        assert_eq!(hex::encode(Md5Pool::new(1).begin().finish()), "d41d8cd98f00b204e9800998ecf8427e");
    }

    #[test]
    fn a_body_of_which_nothing_comes_holds_up_no_other() {
        let pool = Md5Pool::new(1);
        let (idle, mut slow) = (pool.begin(), pool.begin());
        slow.update(body(1, 1_000));
        let whole = body(2, 3_000_000);
        let want: [u8; 16] = Md5::digest(&whole).into();
        assert_eq!(streamed(&pool, &whole, 256 << 10), want);
        assert_eq!(slow.finish(), <[u8; 16]>::from(Md5::digest(body(1, 1_000))));
        drop(idle);
    }

    #[test]
    fn a_stream_that_is_given_up_leaves_the_threads_to_others() {
        let pool = Md5Pool::new(1);
        let mut given_up = pool.begin();
        given_up.update(body(1, 300_000));
        drop(given_up);
        let whole = body(2, 100_000);
        let want: [u8; 16] = Md5::digest(&whole).into();
        assert_eq!(streamed(&pool, &whole, 7_777), want);
    }
}
