//! What a request sends: bytes at hand, or random ones that are made while they are sent. A part of 16 MiB made beforehand would
//! push everything out of the processor's caches that the server, on the same cores, has there.

use crate::data::Random;
use bytes::Bytes;
use hyper::body::{Body, Frame, SizeHint};
use std::convert::Infallible;
use std::pin::Pin;
use std::task::{Context, Poll};

/// Bytes that are made at a time.
const PIECE: usize = 64 << 10;

/// A request's body, of known length.
pub enum Payload {
    /// Bytes at hand; empty when they are sent.
    Whole(Bytes),
    /// So many bytes of a stream.
    Made(Random, u64),
}

impl Payload {
    /// No body.
    pub const EMPTY: Payload = Payload::Whole(Bytes::new());

    /// Bytes that are still to be sent.
    pub fn len(&self) -> u64 {
        match self {
            Payload::Whole(bytes) => bytes.len() as u64,
            Payload::Made(_, left) => *left,
        }
    }
}

impl Body for Payload {
    type Data = Bytes;
    type Error = Infallible;

    fn poll_frame(self: Pin<&mut Self>, _: &mut Context<'_>) -> Poll<Option<Result<Frame<Bytes>, Infallible>>> {
        let piece = match self.get_mut() {
            Payload::Whole(bytes) => std::mem::take(bytes),
            Payload::Made(random, left) => {
                let piece = random.take((*left).min(PIECE as u64) as usize);
                *left -= piece.len() as u64;
                piece
            }
        };
        Poll::Ready((!piece.is_empty()).then_some(Ok(Frame::data(piece))))
    }

    fn is_end_stream(&self) -> bool {
        self.len() == 0
    }

    fn size_hint(&self) -> SizeHint {
        SizeHint::with_exact(self.len())
    }
}
