//! The file of a form, as a stream that ends where the file does.

use bytes::Bytes;
use futures::{Stream, StreamExt, ready};
use s3s::stream::{ByteStream, RemainingLength};
use std::pin::Pin;
use std::sync::Arc;
use std::task::{Context, Poll};
use tidegate_tiering::engine::BodyError;

use super::super::request::{BodyFailure, RequestContext};
use super::fields::Parts;

/// What follows the file is read and left out up to so many bytes, so that the connection can be used again.
const MAX_BYTES_AFTER_FILE: usize = 64 * 1024;

/// How many bytes the file may have.
#[derive(Debug, Clone, Copy)]
pub(super) struct Range {
    pub(super) min: u64,
    pub(super) max: u64,
}

impl Default for Range {
    fn default() -> Self {
        Self { min: 0, max: u64::MAX }
    }
}

impl Range {
    pub(super) fn at_most(self, limit: u64) -> Self {
        Self { max: self.max.min(limit), ..self }
    }
}

enum State {
    File,
    After(usize),
    Ended,
}

/// The file. One that is too large or too small fails at its end at the latest, so that nothing of it is stored.
pub(super) struct Upload<S> {
    parts: Parts<S>,
    range: Range,
    context: Arc<RequestContext>,
    size: u64,
    state: State,
}

impl<S> Upload<S> {
    pub(super) fn new(parts: Parts<S>, range: Range, context: Arc<RequestContext>) -> Self {
        Self { parts, range, context, size: 0, state: State::File }
    }

    fn fail(&mut self, failure: BodyFailure, what: &str) -> Poll<Option<Result<Bytes, s3s::StdError>>> {
        self.context.fail_body(failure);
        self.state = State::Ended;
        Poll::Ready(Some(Err(Box::new(BodyError::Malformed(what.into())))))
    }

    /// The part of the buffer that is known to belong to the file, and whether the file ends after it.
    fn known(&mut self) -> Option<(Bytes, bool)> {
        let buffer = &mut self.parts.buffer;
        if let Some(at) = self.parts.delimiter.find(buffer) {
            return Some((buffer.split_to(at).freeze(), true));
        }
        let sure = buffer.len().saturating_sub(self.parts.delimiter.needle().len().saturating_sub(1));
        (sure > 0).then(|| (buffer.split_to(sure).freeze(), false))
    }
}

impl<S: ByteStream<Item = Result<Bytes, s3s::StdError>> + Unpin> Stream for Upload<S> {
    type Item = Result<Bytes, s3s::StdError>;

    fn poll_next(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<Option<Self::Item>> {
        let this = &mut *self;
        loop {
            match this.state {
                State::Ended => return Poll::Ready(None),
                State::After(seen) => match ready!(this.parts.source.poll_next_unpin(cx)) {
                    Some(Ok(piece)) if seen.saturating_add(piece.len()) <= MAX_BYTES_AFTER_FILE => {
                        this.state = State::After(seen.saturating_add(piece.len()));
                    }
                    Some(Err(error)) => {
                        this.state = State::Ended;
                        return Poll::Ready(Some(Err(error)));
                    }
                    _ => this.state = State::Ended,
                },
                State::File => {
                    let Some((piece, ends)) = this.known() else {
                        match ready!(this.parts.source.poll_next_unpin(cx)) {
                            Some(Ok(piece)) => this.parts.buffer.extend_from_slice(&piece),
                            Some(Err(error)) => {
                                this.state = State::Ended;
                                return Poll::Ready(Some(Err(error)));
                            }
                            None => return this.fail(BodyFailure::FormCut, "the form ends in its file"),
                        }
                        continue;
                    };
                    this.size = this.size.saturating_add(piece.len() as u64);
                    if this.size > this.range.max {
                        return this.fail(BodyFailure::FileTooLarge, "the file is too large");
                    }
                    if ends && this.size < this.range.min {
                        return this.fail(BodyFailure::FileTooSmall, "the file is too small");
                    }
                    if ends {
                        this.state = State::After(0);
                    }
                    if !piece.is_empty() {
                        return Poll::Ready(Some(Ok(piece)));
                    }
                }
            }
        }
    }
}

impl<S: ByteStream<Item = Result<Bytes, s3s::StdError>> + Unpin> ByteStream for Upload<S> {
    fn remaining_length(&self) -> RemainingLength {
        RemainingLength::unknown()
    }
}
