//! Bodies between actix and the rest: what is sent, and the pump of what is received.

use actix_http::Payload;
use actix_http::body::{BodySize, MessageBody};
use bytes::{Bytes, BytesMut};
use futures::{Stream, StreamExt};
use std::fmt;
use std::pin::Pin;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::sync::{Arc, Mutex, PoisonError};
use std::task::{Context, Poll};
use std::time::{Duration, Instant};
use tidegate_tiering::buffer::BufferPool;
use tidegate_tiering::engine::{BodyError, BodyOut};

use super::connections::Running;
use super::expect::Wanted;
use super::metrics::HttpMetrics;
use super::pipe::Writer;
use super::request::{BodyFailure, RequestContext};

/// Bytes of a body that are handed to the connection at a time. The connection copies them behind the response's
/// head, so that larger pieces would make it grow its write buffer and give it back each time; this is the size
/// that actix keeps.
pub(crate) const PIECE_BYTES: usize = 128 * 1024;

/// Bytes of a response after which the connection lets others have its thread. A body in the page cache is always there and a fast
/// client takes all, so that one large answer would hold up every small one of the same worker.
const TURN_BYTES: usize = 2 * 1024 * 1024;

/// Bytes of a request's body that are gathered before the store gets them.
pub(crate) const GATHER_BYTES: usize = 256 * 1024;

/// Free buffers for request bodies that are kept: 16 MiB.
pub(crate) const FREE_BUFFERS: usize = 64;

/// The engine's body on its way through s3s: put into the response's extensions by GetObject, taken out by the
/// adapter. s3s's own stream type would need `Sync`, that is a lock around every piece.
#[derive(Clone)]
pub struct ResponseBody(Arc<Mutex<Option<BodyOut>>>);

impl ResponseBody {
    /// Wraps `body`.
    pub fn new(body: BodyOut) -> Self {
        Self(Arc::new(Mutex::new(Some(body))))
    }

    /// Takes the body out; it can be taken once.
    pub fn take(&self) -> Option<BodyOut> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner).take()
    }
}

impl fmt::Debug for ResponseBody {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("ResponseBody")
    }
}

/// The status of a success, where S3 has more than one: put into the response's extensions by the operation, applied by
/// the adapter. s3s answers each operation with one fixed status, whatever `S3Response::status` says.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct ResponseStatus(pub http::StatusCode);

/// In a response's extensions: its XML shows the ETag without quotes, as S3 does in GetObjectAttributes alone. s3s knows one
/// way to write it.
#[derive(Debug, Clone, Copy)]
pub(crate) struct PlainEtag;

/// In a response's extensions: which entries of a listing of versions are delete markers, in the order of S3, which s3s writes
/// apart from the versions.
#[derive(Debug, Clone)]
pub(crate) struct VersionOrder(pub Vec<bool>);

/// A failure in the middle of a response: breaks the connection.
#[derive(Debug, thiserror::Error)]
#[error("the response body failed: {0}")]
pub struct SendError(String);

/// Counts a request from its head to its response's last byte.
pub(crate) struct InFlight {
    pub(crate) count: Arc<AtomicUsize>,
    pub(crate) metrics: Arc<HttpMetrics>,
    pub(crate) context: Arc<RequestContext>,
    pub(crate) started: Instant,
    pub(crate) status: u16,
    /// Bytes of the response's body so far.
    pub(crate) sent: u64,
    /// What the log says about the request; absent when nobody wants to know.
    pub(crate) line: Option<LogLine>,
    /// Keeps the connection from being taken for idle.
    pub(crate) running: Option<Running>,
}

/// The target of the lines about requests, for filters of the log.
pub(crate) const ACCESS: &str = "tidegate_gateway::access";

/// The part of a request that its line in the log shows. The query stays out: it may hold a signature.
pub(crate) struct LogLine {
    pub(crate) method: actix_http::Method,
    pub(crate) path: String,
    /// S3's code of the error that was answered.
    pub(crate) code: Option<&'static str>,
}

impl LogLine {
    pub(crate) fn new(head: &actix_http::RequestHead) -> Self {
        Self { method: head.method.clone(), path: head.uri.path().to_owned(), code: None }
    }

    fn write(&self, request: &InFlight, elapsed: Duration) {
        let (method, path, operation) = (&self.method, &self.path, request.context.operation().name());
        let (id, status, sent) = (request.context.id(), request.status, request.sent);
        // As a number, not as 128 bits, which JSON would show as text.
        let (code, ms) = (self.code, u64::try_from(elapsed.as_millis()).unwrap_or(u64::MAX));
        macro_rules! line {
            ($level:ident) => {
                tracing::$level!(target: ACCESS, request_id = %id, %method, %path, operation, status, code, bytes = sent, ms)
            };
        }
        // Who reports an error gives its request id: the line must be there with the settings as they come.
        match request.status {
            _ if request.is_failure() => line!(warn),
            400.. => line!(info),
            _ => line!(debug),
        }
    }
}

impl InFlight {
    /// Whether the server failed; an operation that it does not have is no failure.
    pub(crate) fn is_failure(&self) -> bool {
        self.status >= 500 && self.status != 501
    }
}

impl Drop for InFlight {
    fn drop(&mut self) {
        self.count.fetch_sub(1, Ordering::AcqRel);
        self.metrics.in_flight.dec();
        let elapsed = self.started.elapsed();
        self.metrics.answered(self.context.operation(), self.status, elapsed.as_secs_f64());
        if let Some(line) = &self.line {
            line.write(self, elapsed);
        }
    }
}

/// What is left to send.
pub(crate) enum Content {
    /// Nothing, and no length is shown.
    None,
    /// HEAD: the length of what GET would send.
    HeadOf(u64),
    /// All at once.
    Whole(Bytes),
    /// A body of the engine with exactly `left` bytes to come; `turn` bytes were sent since others had their turn.
    Engine { body: BodyOut, piece: Bytes, left: u64, turn: usize },
    /// A body that s3s made, of unknown length.
    S3s(s3s::Body),
}

/// A response body for actix.
pub(crate) struct Outgoing {
    pub(crate) content: Content,
    pub(crate) in_flight: InFlight,
}

impl MessageBody for Outgoing {
    type Error = SendError;

    fn size(&self) -> BodySize {
        match &self.content {
            Content::None => BodySize::None,
            Content::HeadOf(length) => BodySize::Sized(*length),
            Content::Whole(bytes) => BodySize::Sized(bytes.len() as u64),
            Content::Engine { piece, left, .. } => BodySize::Sized(left.saturating_add(piece.len() as u64)),
            Content::S3s(_) => BodySize::Stream,
        }
    }

    fn poll_next(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<Option<Result<Bytes, SendError>>> {
        let this = &mut *self;
        let polled = match &mut this.content {
            Content::None | Content::HeadOf(_) => Poll::Ready(None),
            Content::Whole(bytes) if bytes.is_empty() => Poll::Ready(None),
            Content::Whole(bytes) => Poll::Ready(Some(Ok(std::mem::take(bytes)))),
            Content::Engine { turn, .. } if *turn >= TURN_BYTES => {
                *turn = 0;
                cx.waker().wake_by_ref();
                Poll::Pending
            }
            Content::Engine { body, piece, left, turn } => {
                let polled = poll_engine(body, piece, left, cx);
                *turn = match &polled {
                    Poll::Ready(Some(Ok(sent))) => turn.saturating_add(sent.len()),
                    _ => 0,
                };
                polled
            }
            Content::S3s(body) => {
                Pin::new(body).poll_next(cx).map(|next| next.map(|piece| piece.map_err(|e| SendError(e.to_string()))))
            }
        };
        match &polled {
            Poll::Ready(Some(Ok(piece))) => {
                this.in_flight.metrics.response_bytes.inc_by(piece.len() as u64);
                this.in_flight.sent = this.in_flight.sent.saturating_add(piece.len() as u64);
            }
            Poll::Ready(Some(Err(error))) => {
                tracing::error!(request_id = %this.in_flight.context.id(), %error, "response broken off");
            }
            _ => {}
        }
        polled
    }
}

fn poll_engine(
    body: &mut BodyOut,
    piece: &mut Bytes,
    left: &mut u64,
    cx: &mut Context<'_>,
) -> Poll<Option<Result<Bytes, SendError>>> {
    while piece.is_empty() {
        match futures::ready!(body.as_mut().poll_next(cx)) {
            Some(Ok(next)) => {
                let Some(rest) = left.checked_sub(next.len() as u64) else {
                    return Poll::Ready(Some(Err(SendError("more bytes than announced".into()))));
                };
                *left = rest;
                *piece = next;
            }
            Some(Err(error)) => return Poll::Ready(Some(Err(SendError(error.to_string())))),
            None if *left > 0 => return Poll::Ready(Some(Err(SendError(format!("{left} bytes are missing"))))),
            None => return Poll::Ready(None),
        }
    }
    let size = piece.len().min(PIECE_BYTES);
    Poll::Ready(Some(Ok(piece.split_to(size))))
}

/// Where a request body comes from, and what watches it.
pub(crate) struct Incoming {
    pub(crate) payload: Payload,
    pub(crate) stall: Duration,
    pub(crate) metrics: Arc<HttpMetrics>,
    pub(crate) context: Arc<RequestContext>,
    /// Where [`pump`](Self::pump) gathers the body.
    pub(crate) buffers: BufferPool,
    /// The client sends the body once this was told.
    pub(crate) wanted: Option<Wanted>,
}

impl Incoming {
    /// The next piece; `None` at the end.
    async fn next(&mut self) -> Result<Option<Bytes>, BodyError> {
        match tokio::time::timeout(self.stall, self.payload.next()).await {
            Ok(Some(Ok(piece))) => {
                self.metrics.request_bytes.inc_by(piece.len() as u64);
                Ok(Some(piece))
            }
            Ok(None) => Ok(None),
            Ok(Some(Err(error))) => {
                self.context.fail_body(BodyFailure::Incomplete);
                Err(BodyError::Incomplete(error.to_string()))
            }
            Err(_) => {
                self.context.fail_body(BodyFailure::Stalled);
                Err(BodyError::Incomplete(format!("nothing came for {} s", self.stall.as_secs())))
            }
        }
    }

    /// Takes a body of exactly `length` bytes into memory.
    pub(crate) async fn collect(&mut self, length: usize) -> Result<Bytes, BodyError> {
        let Some(first) = self.next().await? else { return Ok(Bytes::new()) };
        if first.len() >= length {
            return Ok(first);
        }
        let mut all = BytesMut::with_capacity(length);
        all.extend_from_slice(&first);
        while all.len() < length {
            let Some(piece) = self.next().await? else { break };
            all.extend_from_slice(&piece);
        }
        Ok(all.freeze())
    }

    /// Moves the body into a pipe until it ends, fails, or nobody reads it any more.
    ///
    /// Pieces are copied into buffers of ours. Passing them on, the tempting alternative, is dearer: actix can use its
    /// read buffer again only when nobody holds a piece of it. Otherwise it allocates a new one, lets it grow by doubling, and
    /// so copies as much. And the store gets few large pieces in place of many of 8 KiB and up.
    pub(crate) async fn pump(mut self, writer: Writer) {
        if let Some(wanted) = self.wanted.take() {
            if !writer.wanted().await {
                return;
            }
            // Nobody hears it when the client is gone: the payload says so then.
            let _ = wanted.send(());
        }
        let mut buffer = self.buffers.take();
        while writer.ready().await {
            match self.next().await {
                Ok(Some(piece)) => {
                    let mut rest = &piece[..];
                    while !rest.is_empty() {
                        rest = buffer.fill(rest);
                        if buffer.spare().is_empty() {
                            let full = std::mem::replace(&mut buffer, self.buffers.take());
                            writer.push(full.freeze());
                        }
                    }
                }
                Ok(None) => {
                    if !buffer.is_empty() {
                        writer.push(buffer.freeze());
                    }
                    return writer.finish(Ok(()));
                }
                Err(error) => return writer.finish(Err(error)),
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::super::request::RequestIds;
    use super::*;
    use std::sync::atomic::AtomicBool;

    struct Woken(AtomicBool);

    impl std::task::Wake for Woken {
        fn wake(self: Arc<Self>) {
            self.0.store(true, Ordering::SeqCst);
        }
    }

    #[test]
    fn a_large_answer_that_is_always_there_gives_way_and_comes_whole() {
        let size = 9 * TURN_BYTES / 2;
        let pieces = [2, 2, 2, 2, 1].map(|halves| Ok(Bytes::from(vec![b'x'; halves * TURN_BYTES / 2])));
        let body: BodyOut = futures::stream::iter(pieces).boxed();
        let metrics = Arc::new(HttpMetrics::new(&prometheus::Registry::new()).unwrap());
        let in_flight = InFlight {
            count: Arc::new(AtomicUsize::new(1)),
            metrics,
            context: Arc::new(RequestContext::new(RequestIds::default().next())),
            started: Instant::now(),
            status: 200,
            sent: 0,
            line: None,
            running: None,
        };
        let content = Content::Engine { body, piece: Bytes::new(), left: size as u64, turn: 0 };
        let mut outgoing = Outgoing { content, in_flight };
        let woken = Arc::new(Woken(AtomicBool::new(false)));
        let waker = Arc::clone(&woken).into();
        let (mut sent, mut since, mut turns) = (0, 0, 0);
        loop {
            match Pin::new(&mut outgoing).poll_next(&mut Context::from_waker(&waker)) {
                Poll::Ready(Some(piece)) => {
                    let length = piece.unwrap().len();
                    (sent, since) = (sent + length, since + length);
                    assert!(since <= TURN_BYTES);
                }
                Poll::Ready(None) => break,
                Poll::Pending => {
                    assert!(woken.0.swap(false, Ordering::SeqCst), "nobody would ask again");
                    (since, turns) = (0, turns + 1);
                }
            }
        }
        assert_eq!((sent, turns), (size, 4));
    }
}
