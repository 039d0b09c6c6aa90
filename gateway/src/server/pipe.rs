//! The channel that carries a request body from the connection, which cannot leave its thread, to the store, which may
//! read it anywhere. Bounded in bytes: the writer waits for room, the socket is not read, the client slows down.
//!
//! A channel bounded in messages would not do: the pieces of a body have any size from one byte to 128 KiB.

use bytes::Bytes;
use futures::Stream;
use s3s::stream::{ByteStream, RemainingLength};
use std::collections::VecDeque;
use std::pin::Pin;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::task::{Context, Poll, Waker};
use tidegate_tiering::engine::BodyError;

#[derive(Default)]
struct State {
    queue: VecDeque<Bytes>,
    queued_bytes: usize,
    end: Option<Result<(), BodyError>>,
    finished: bool,
    /// The reader has asked for something.
    wanted: bool,
    reader_gone: bool,
    reader: Option<Waker>,
    writer: Option<Waker>,
}

struct Shared {
    capacity: usize,
    state: Mutex<State>,
}

impl Shared {
    fn lock(&self) -> MutexGuard<'_, State> {
        // No code that holds the lock can panic half-way through a change.
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// The connection's end.
pub(crate) struct Writer(Arc<Shared>);

/// The store's end: a stream of the body's pieces.
pub(crate) struct Reader {
    shared: Arc<Shared>,
    remaining: Option<usize>,
}

/// A pipe that holds about `capacity` bytes: a piece is let in while less than that is queued. `length` is the
/// announced length of the body, if any.
pub(crate) fn pipe(capacity: usize, length: Option<u64>) -> (Writer, Reader) {
    let shared = Arc::new(Shared { capacity, state: Mutex::default() });
    let remaining = length.and_then(|length| usize::try_from(length).ok());
    (Writer(Arc::clone(&shared)), Reader { shared, remaining })
}

impl Writer {
    /// Waits for room; false when the reader is gone.
    pub(crate) async fn ready(&self) -> bool {
        std::future::poll_fn(|cx| {
            let mut state = self.0.lock();
            if state.reader_gone {
                return Poll::Ready(false);
            }
            if state.queued_bytes < self.0.capacity {
                return Poll::Ready(true);
            }
            state.writer = Some(cx.waker().clone());
            Poll::Pending
        })
        .await
    }

    /// Waits for the reader's first question; false when the reader is gone without one.
    pub(crate) async fn wanted(&self) -> bool {
        std::future::poll_fn(|cx| {
            let mut state = self.0.lock();
            if state.reader_gone || state.wanted {
                return Poll::Ready(state.wanted);
            }
            state.writer = Some(cx.waker().clone());
            Poll::Pending
        })
        .await
    }

    /// Puts a piece in.
    pub(crate) fn push(&self, piece: Bytes) {
        let mut state = self.0.lock();
        state.queued_bytes = state.queued_bytes.saturating_add(piece.len());
        state.queue.push_back(piece);
        wake(state, |state| &mut state.reader);
    }

    /// Ends the body, well or not.
    pub(crate) fn finish(&self, end: Result<(), BodyError>) {
        let mut state = self.0.lock();
        if !state.finished {
            state.finished = true;
            state.end = Some(end);
            wake(state, |state| &mut state.reader);
        }
    }
}

impl Drop for Writer {
    fn drop(&mut self) {
        self.finish(Err(BodyError::Incomplete("the connection was given up".into())));
    }
}

fn wake(mut state: MutexGuard<'_, State>, who: impl FnOnce(&mut State) -> &mut Option<Waker>) {
    let waker = who(&mut state).take();
    drop(state); // the woken thread must not run into the lock
    if let Some(waker) = waker {
        waker.wake();
    }
}

impl Stream for Reader {
    type Item = Result<Bytes, s3s::StdError>;

    fn poll_next(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<Option<Self::Item>> {
        let mut state = self.shared.lock();
        if let Some(piece) = state.queue.pop_front() {
            let was_full = state.queued_bytes >= self.shared.capacity;
            state.queued_bytes = state.queued_bytes.saturating_sub(piece.len());
            if was_full && state.queued_bytes < self.shared.capacity {
                wake(state, |state| &mut state.writer);
            } else {
                drop(state);
            }
            self.remaining = self.remaining.map(|remaining| remaining.saturating_sub(piece.len()));
            return Poll::Ready(Some(Ok(piece)));
        }
        if state.finished {
            return match state.end.take() {
                Some(Err(error)) => Poll::Ready(Some(Err(Box::new(error)))),
                _ => Poll::Ready(None),
            };
        }
        state.reader = Some(cx.waker().clone());
        if !state.wanted {
            state.wanted = true;
            wake(state, |state| &mut state.writer);
        }
        Poll::Pending
    }
}

impl ByteStream for Reader {
    fn remaining_length(&self) -> RemainingLength {
        self.remaining.map_or_else(RemainingLength::unknown, RemainingLength::new_exact)
    }
}

impl Drop for Reader {
    fn drop(&mut self) {
        let mut state = self.shared.lock();
        state.reader_gone = true;
        state.queue.clear();
        wake(state, |state| &mut state.writer);
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use futures::StreamExt;
    use futures::future::{FutureExt, join};

    #[tokio::test]
    async fn all_bytes_come_through_a_pipe_much_smaller_than_the_body() {
        let (writer, mut reader) = pipe(10, Some(7000));
        let write = async move {
            for n in 0..1000_u32 {
                assert!(writer.ready().await);
                writer.push(Bytes::from(vec![(n % 251) as u8; 7]));
            }
            writer.finish(Ok(()));
        };
        let read = async move {
            let mut got = Vec::new();
            while let Some(piece) = reader.next().await {
                got.extend_from_slice(&piece.unwrap());
                assert!(reader.shared.lock().queued_bytes <= 10 + 7);
            }
            got
        };
        let ((), got) = join(write, read).await;
        assert_eq!(got.len(), 7000);
        assert!(got.chunks(7).enumerate().all(|(n, piece)| piece.iter().all(|b| usize::from(*b) == n % 251)));
    }

    #[tokio::test]
    async fn a_full_pipe_lets_the_writer_wait_until_the_reader_takes_or_leaves() {
        let (writer, mut reader) = pipe(4, None);
        writer.push(Bytes::from_static(b"four"));
        assert!(writer.ready().now_or_never().is_none());
        assert!(reader.next().await.unwrap().is_ok());
        assert_eq!(writer.ready().now_or_never(), Some(true));
        drop(reader);
        assert_eq!(writer.ready().now_or_never(), Some(false));
    }

    #[tokio::test]
    async fn a_writer_dropped_half_way_is_an_incomplete_body() {
        let (writer, mut reader) = pipe(100, Some(10));
        writer.push(Bytes::from_static(b"half"));
        drop(writer);
        assert_eq!(reader.next().await.unwrap().unwrap(), "half");
        let error = reader.next().await.unwrap().unwrap_err();
        assert!(matches!(error.downcast_ref::<BodyError>(), Some(BodyError::Incomplete(_))), "{error}");
        assert!(reader.next().await.is_none());
    }
}
