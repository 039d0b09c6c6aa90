//! A process, and its end. The end is a moment after which neither the disk nor the cloud hears of it any more: every step and every
//! request is refused from then on, whoever makes it. What it still does in its own memory is nobody's business.

use super::log::Log;
use rustix::io::Errno;
use std::io;
use std::pin::Pin;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::sync::{Arc, Mutex};
use std::task::{Context, Poll};
use tidegate_tiering::disk::{Step, Watcher};

/// What ends a life by itself.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Fuse {
    Never,
    /// Before the nth step of the disk.
    Steps(u64),
    /// Before the nth request to the cloud, or after it and before its answer.
    Calls(u64),
}

#[derive(Debug)]
pub struct Life {
    pub number: u64,
    fuse: Fuse,
    dead: AtomicBool,
    /// While this is set no fuse burns: a comparison is no part of the story.
    held: AtomicBool,
    steps: AtomicU64,
    calls: AtomicU64,
}

impl Life {
    pub fn new(number: u64, fuse: Fuse) -> Arc<Life> {
        let (dead, held) = (AtomicBool::new(false), AtomicBool::new(false));
        Arc::new(Life { number, fuse, dead, held, steps: AtomicU64::new(0), calls: AtomicU64::new(0) })
    }

    pub fn is_dead(&self) -> bool {
        self.dead.load(Ordering::SeqCst)
    }

    pub fn die(&self) {
        self.dead.store(true, Ordering::SeqCst);
    }

    pub fn hold(&self, held: bool) {
        self.held.store(held, Ordering::SeqCst);
    }

    /// Steps of the disk and requests to the cloud so far.
    pub fn counts(&self) -> (u64, u64) {
        (self.steps.load(Ordering::SeqCst), self.calls.load(Ordering::SeqCst))
    }

    fn count(&self, counter: &AtomicU64, limit: Option<u64>) -> bool {
        if self.is_dead() {
            return false;
        }
        if !self.held.load(Ordering::SeqCst) {
            let before = counter.fetch_add(1, Ordering::SeqCst);
            if limit.is_some_and(|limit| before >= limit) {
                self.die();
            }
        }
        !self.is_dead()
    }

    fn step(&self) -> bool {
        let limit = if let Fuse::Steps(n) = self.fuse { Some(n) } else { None };
        self.count(&self.steps, limit)
    }

    /// Whether a request to the cloud still gets there.
    pub fn call(&self) -> bool {
        let limit = if let Fuse::Calls(n) = self.fuse { Some(n) } else { None };
        self.count(&self.calls, limit)
    }
}

/// The disk of a life: everything is written down, and refused after the end.
pub struct SimDisk {
    pub log: Arc<Log>,
    life: Mutex<Arc<Life>>,
}

impl SimDisk {
    pub fn new(log: Arc<Log>, life: &Arc<Life>) -> Arc<SimDisk> {
        Arc::new(SimDisk { log, life: Mutex::new(Arc::clone(life)) })
    }

    pub fn reborn(&self, life: &Arc<Life>) {
        *self.life.lock().unwrap() = Arc::clone(life);
    }
}

impl Watcher for SimDisk {
    fn before(&self, step: &Step<'_>) -> io::Result<u64> {
        if !self.life.lock().unwrap().step() {
            return Err(Errno::IO.into());
        }
        self.log.before(step)
    }

    fn after(&self, step: &Step<'_>, token: u64) {
        self.log.after(step, token);
    }
}

/// A future that is dropped at its nth poll.
pub struct Dropped<F> {
    pub inner: Pin<Box<F>>,
    pub left: Option<u64>,
}

impl<F: Future> Future for Dropped<F> {
    type Output = Option<F::Output>;

    fn poll(mut self: Pin<&mut Self>, context: &mut Context<'_>) -> Poll<Self::Output> {
        if self.left == Some(0) {
            return Poll::Ready(None);
        }
        self.left = self.left.map(|left| left - 1);
        self.inner.as_mut().poll(context).map(Some)
    }
}
