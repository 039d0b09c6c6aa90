//! Ends connections that do not come to a whole request.
//!
//! actix bounds the time for the head of a connection's first request, and the time between requests. Between the first
//! byte of a later head and its last it has no limit, so that a client could hold a connection for ever with a byte.

use rustix::net::Shutdown;
use std::os::fd::{AsFd, OwnedFd};
use std::sync::{Arc, Mutex, PoisonError, Weak};
use std::time::{Duration, Instant};

/// The open connections of all workers.
#[derive(Debug, Default)]
pub(crate) struct Connections(Mutex<Vec<Weak<Connection>>>);

/// One connection.
#[derive(Debug)]
pub(crate) struct Connection {
    /// A descriptor of our own: with the connection's, a number could name another connection by now.
    socket: OwnedFd,
    state: Mutex<State>,
}

#[derive(Debug)]
struct State {
    running: usize,
    /// When the connection began, or when its last request ended.
    since: Instant,
}

/// While this lives, a request of the connection runs.
#[derive(Debug)]
pub(crate) struct Running(Arc<Connection>);

impl Connections {
    /// Notes a new connection.
    pub(crate) fn begun(&self, socket: &tokio::net::TcpStream) -> Option<Arc<Connection>> {
        let socket = match socket.as_fd().try_clone_to_owned() {
            Ok(socket) => socket,
            Err(error) => {
                tracing::warn!(%error, "a connection is not watched: its descriptor cannot be duplicated");
                return None;
            }
        };
        let state = Mutex::new(State { running: 0, since: Instant::now() });
        let connection = Arc::new(Connection { socket, state });
        self.0.lock().unwrap_or_else(PoisonError::into_inner).push(Arc::downgrade(&connection));
        Some(connection)
    }

    /// Ends what has been without a request for longer than `limit`, and forgets what is closed.
    fn sweep(&self, limit: Duration) {
        let live: Vec<_> = {
            let mut all = self.0.lock().unwrap_or_else(PoisonError::into_inner);
            all.retain(|connection| connection.strong_count() > 0);
            all.iter().filter_map(Weak::upgrade).collect()
        };
        for connection in live.iter().filter(|connection| connection.is_stale(limit)) {
            // For reading only: actix finds the end of the stream, sends what is left of an answer, and closes.
            let _ = rustix::net::shutdown(&connection.socket, Shutdown::Read);
        }
    }

    /// Sweeps for ever.
    pub(crate) async fn watch(&self, limit: Duration) {
        let mut turns = tokio::time::interval((limit / 4).clamp(Duration::from_millis(100), Duration::from_secs(10)));
        loop {
            turns.tick().await;
            self.sweep(limit);
        }
    }
}

impl Connection {
    /// A request has come.
    pub(crate) fn request(self: &Arc<Self>) -> Running {
        self.state.lock().unwrap_or_else(PoisonError::into_inner).running += 1;
        Running(Arc::clone(self))
    }

    fn is_stale(&self, limit: Duration) -> bool {
        let state = self.state.lock().unwrap_or_else(PoisonError::into_inner);
        state.running == 0 && state.since.elapsed() > limit
    }
}

impl Drop for Running {
    fn drop(&mut self) {
        let mut state = self.0.state.lock().unwrap_or_else(PoisonError::into_inner);
        state.running = state.running.saturating_sub(1);
        state.since = Instant::now();
    }
}
