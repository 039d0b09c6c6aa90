//! Places in the engine (`failpoint`) where something happens to a thread: it is held up, or its process ends.

use super::life::Life;
use std::pin::Pin;
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Condvar, Mutex};
use std::task::{Context, Poll, Waker};
use std::time::Duration;
use tidegate_tiering::failpoint;

/// Longest wait of a thread that is held up.
const PATIENCE: Duration = Duration::from_secs(20);

/// What becomes of operations before they end.
#[derive(Debug, Clone, Copy)]
pub enum Cut {
    /// The process ends at the nth place that any thread of it comes to.
    Dies(u64),
    /// The clients go away while the committer stands at a place.
    Leaves(&'static str),
}

#[derive(Default)]
struct State {
    visits_left: u64,
    reached: bool,
    open: bool,
    waker: Option<Waker>,
}

/// Holds the thread that comes to a place for the nth time until it is let go.
pub struct Gate {
    state: Mutex<State>,
    moved: Condvar,
}

impl Gate {
    pub fn at(place: &'static str, nth: u64) -> Arc<Gate> {
        let state = State { visits_left: nth, ..State::default() };
        let gate = Arc::new(Gate { state: Mutex::new(state), moved: Condvar::new() });
        let its = Arc::clone(&gate);
        failpoint::listen(Some(Arc::new(move |name| {
            if name == place {
                its.come();
            }
        })));
        gate
    }

    fn come(&self) {
        let mut state = self.state.lock().unwrap();
        state.visits_left = state.visits_left.saturating_sub(1);
        if state.visits_left == 0 && !state.open {
            state.reached = true;
            if let Some(waker) = state.waker.take() {
                waker.wake();
            }
            drop(self.moved.wait_timeout_while(state, PATIENCE, |state| !state.open));
        }
    }

    /// Whether somebody stands here; if not, the task is woken when somebody does.
    fn poll_reached(&self, context: &Context<'_>) -> bool {
        let mut state = self.state.lock().unwrap();
        state.waker = Some(context.waker().clone());
        state.reached
    }

    pub fn is_reached(&self) -> bool {
        self.state.lock().unwrap().reached
    }

    fn open(&self) {
        self.state.lock().unwrap().open = true;
        self.moved.notify_all();
    }
}

/// Opens the gate however its user ends.
pub struct Opened(pub Arc<Gate>);

impl Drop for Opened {
    fn drop(&mut self) {
        failpoint::listen(None);
        self.0.open();
    }
}

/// Ends a life at the nth place, while this is kept.
pub struct Deadly;

impl Deadly {
    pub fn at(nth: u64, life: &Arc<Life>) -> Deadly {
        let (life, visits) = (Arc::clone(life), AtomicU64::new(0));
        failpoint::listen(Some(Arc::new(move |place| {
            // The committer comes there after it has answered, when it likes.
            if place != "meta.after_apply" && visits.fetch_add(1, Ordering::SeqCst) + 1 == nth {
                life.die();
            }
        })));
        Deadly
    }
}

impl Drop for Deadly {
    fn drop(&mut self) {
        failpoint::listen(None);
    }
}

/// A future that is dropped once somebody stands at the gate.
pub struct Left<F> {
    pub inner: Pin<Box<F>>,
    pub gate: Arc<Gate>,
}

impl<F: Future> Future for Left<F> {
    type Output = Option<F::Output>;

    fn poll(mut self: Pin<&mut Self>, context: &mut Context<'_>) -> Poll<Self::Output> {
        if self.gate.poll_reached(context) {
            return Poll::Ready(None);
        }
        self.inner.as_mut().poll(context).map(Some)
    }
}
