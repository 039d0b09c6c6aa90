//! Bounds the chunks of a body in `aws-chunked` framing.
//!
//! s3s holds a chunk in memory as a whole before it passes any of it on, and a chunk may have 4 GiB: some clients frame a
//! whole part as one. So a large chunk is made into several on its way to s3s. Where each chunk carries a signature of its
//! content that cannot be done, and a large one is refused.
//!
//! Data is never copied: what goes on are slices of what came, with new chunk headers between them. Framing that s3s refuses
//! goes on as it is, so that s3s gives the reason. What counts as a chunk header is therefore what s3s takes for one.

use bytes::{Buf, Bytes};
use futures::{Stream, ready};
use s3s::stream::{ByteStream, RemainingLength};
use std::pin::Pin;
use std::sync::Arc;
use std::task::{Context, Poll};
use tidegate_tiering::engine::BodyError;

use super::request::{BodyFailure, RequestContext};

/// Larger chunks are split: 1 MiB, far above what a header for each costs.
const SPLIT_ABOVE: usize = 1 << 20;

/// Larger chunks with a signature are refused: 16 MiB. SDKs sign chunks of 64 KiB to 1 MiB.
pub(crate) const MAX_SIGNED_CHUNK: usize = 16 << 20;

/// The longest chunk header that s3s takes.
const MAX_LINE: usize = 1024;

/// A request's body whose chunks are bounded.
pub(crate) struct Rechunked<S> {
    inner: S,
    input: Bytes,
    framing: Framing,
    context: Arc<RequestContext>,
    ended: bool,
}

impl<S> Rechunked<S> {
    /// Bounds the chunks of `inner`; a chunk that is refused is noted in `context`.
    pub(crate) fn new(inner: S, context: Arc<RequestContext>) -> Self {
        let framing = Framing::new(SPLIT_ABOVE, MAX_SIGNED_CHUNK);
        Self { inner, input: Bytes::new(), framing, context, ended: false }
    }
}

impl<S: Stream<Item = Result<Bytes, s3s::StdError>> + Unpin> Stream for Rechunked<S> {
    type Item = Result<Bytes, s3s::StdError>;

    fn poll_next(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<Option<Self::Item>> {
        let this = &mut *self;
        loop {
            if this.ended {
                return Poll::Ready(None);
            }
            match this.framing.next(&mut this.input) {
                Ok(piece) if !piece.is_empty() => return Poll::Ready(Some(Ok(piece))),
                Ok(_) if this.framing.insert.is_some() || !this.input.is_empty() => continue,
                Ok(_) => {}
                Err(ChunkTooLarge(size)) => {
                    this.ended = true;
                    this.context.fail_body(BodyFailure::SignedChunkTooLarge);
                    let error = BodyError::Malformed(format!("a signed chunk of {size} bytes"));
                    return Poll::Ready(Some(Err(Box::new(error))));
                }
            }
            match ready!(Pin::new(&mut this.inner).poll_next(cx)) {
                Some(Ok(piece)) => this.input = piece,
                Some(Err(error)) => return Poll::Ready(Some(Err(error))),
                None => {
                    this.ended = true;
                    return Poll::Ready(this.framing.end().map(Ok));
                }
            }
        }
    }
}

impl<S: Stream<Item = Result<Bytes, s3s::StdError>> + Unpin + Send + Sync> ByteStream for Rechunked<S> {
    /// Unknown: chunk headers come in. s3s goes by `x-amz-decoded-content-length`.
    fn remaining_length(&self) -> RemainingLength {
        RemainingLength::unknown()
    }
}

#[derive(Debug, PartialEq, Eq)]
struct ChunkTooLarge(usize);

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum At {
    /// In a chunk's header.
    Line,
    /// In a chunk's data: `run` bytes until a header is put in or the chunk ends, `after` bytes of the chunk behind it.
    Data { run: usize, after: usize },
    /// Behind a chunk's data, with so many bytes of its line end seen.
    LineEnd(usize),
    /// In the trailers, or behind a fault: all is passed on.
    Rest,
}

struct Framing {
    split_above: usize,
    refuse_above: usize,
    at: At,
    /// A header that has not come whole.
    line: Vec<u8>,
    /// What comes next, before any more of the input.
    insert: Option<Bytes>,
}

impl Framing {
    fn new(split_above: usize, refuse_above: usize) -> Self {
        Self { split_above, refuse_above, at: At::Line, line: Vec::new(), insert: None }
    }

    /// Takes bytes off the front of `input` and gives those that take their place; none when more input is needed, or when
    /// `insert` has been set.
    fn next(&mut self, input: &mut Bytes) -> Result<Bytes, ChunkTooLarge> {
        if let Some(insert) = self.insert.take() {
            return Ok(insert);
        }
        let mut passed = 0;
        while self.insert.is_none() {
            let Some(rest) = input.get(passed..).filter(|rest| !rest.is_empty()) else { break };
            match self.at {
                At::Rest => passed = input.len(),
                At::Data { run, after } => {
                    let taken = run.min(rest.len());
                    passed += taken;
                    self.took(run - taken, after);
                }
                At::LineEnd(seen) => match (seen, rest.first()) {
                    (0, Some(b'\r')) => (passed, self.at) = (passed + 1, At::LineEnd(1)),
                    (1, Some(b'\n')) => (passed, self.at) = (passed + 1, At::Line),
                    _ => self.at = At::Rest,
                },
                At::Line if self.line.is_empty() => match line_end(rest) {
                    Some(end) => {
                        let header = self.header(rest.get(..end).unwrap_or_default())?;
                        if header.is_none() {
                            passed += end;
                            continue;
                        }
                        let before = input.split_to(passed);
                        input.advance(end);
                        self.insert = header;
                        return Ok(before);
                    }
                    None if rest.len() > MAX_LINE => self.at = At::Rest,
                    None => {
                        self.line.extend_from_slice(rest);
                        let before = input.split_to(passed);
                        input.clear();
                        return Ok(before);
                    }
                },
                At::Line => return self.complete_line(input),
            }
        }
        Ok(input.split_to(passed))
    }

    /// Goes on with a header whose beginning came before `input`.
    fn complete_line(&mut self, input: &mut Bytes) -> Result<Bytes, ChunkTooLarge> {
        let end = line_end(input);
        let more = end.unwrap_or(input.len());
        if self.line.len().saturating_add(more) > MAX_LINE {
            self.at = At::Rest;
            return Ok(std::mem::take(&mut self.line).into());
        }
        self.line.extend_from_slice(&input.split_to(more));
        if end.is_none() {
            return Ok(Bytes::new());
        }
        let line = std::mem::take(&mut self.line);
        Ok(self.header(&line)?.unwrap_or_else(|| line.into()))
    }

    /// Reads a whole header. Gives another to put in its place, if its chunk is split.
    fn header(&mut self, line: &[u8]) -> Result<Option<Bytes>, ChunkTooLarge> {
        let Some((size, signed)) = parse(line).filter(|_| line.len() <= MAX_LINE) else {
            self.at = At::Rest;
            return Ok(None);
        };
        if size == 0 {
            self.at = At::Rest;
        } else if signed && size > self.refuse_above {
            return Err(ChunkTooLarge(size));
        } else if signed || size <= self.split_above {
            self.at = At::Data { run: size, after: 0 };
        } else {
            let run = self.split_above;
            self.at = At::Data { run, after: size - run };
            return Ok(Some(format!("{run:x}\r\n").into()));
        }
        Ok(None)
    }

    fn took(&mut self, run: usize, after: usize) {
        self.at = match (run, after) {
            (0, 0) => At::LineEnd(0),
            (0, after) => {
                let run = after.min(self.split_above);
                self.insert = Some(format!("\r\n{run:x}\r\n").into());
                At::Data { run, after: after - run }
            }
            (run, after) => At::Data { run, after },
        };
    }

    /// What is left when the input has ended.
    fn end(&mut self) -> Option<Bytes> {
        Some(std::mem::take(&mut self.line)).filter(|line| !line.is_empty()).map(Bytes::from)
    }
}

/// Where the first line ends, its end included; not looked for further than a header may reach.
fn line_end(bytes: &[u8]) -> Option<usize> {
    bytes.iter().take(MAX_LINE).position(|byte| *byte == b'\n').map(|at| at + 1)
}

/// A chunk's size, and whether it has a signature; `None` for what s3s refuses. Like s3s it takes eight hex digits at most for
/// the size, and does not mind what follows them: another reading than s3s's would let a chunk through unbounded.
fn parse(line: &[u8]) -> Option<(usize, bool)> {
    let (size, rest) = line.split_at(line.iter().position(|byte| matches!(byte, b';' | b'\r'))?);
    let digits = size.iter().take(8).take_while(|byte| byte.is_ascii_hexdigit()).count();
    let size = std::str::from_utf8(size.get(..digits)?).ok()?;
    let size = usize::try_from(u32::from_str_radix(size, 16).ok()?).ok()?;
    if rest == b"\r\n" {
        return Some((size, false));
    }
    let signature = rest.strip_prefix(b";chunk-signature=")?.strip_suffix(b"\r\n")?;
    (signature.len() == 64).then_some((size, true))
}

#[cfg(test)]
#[path = "rechunk_tests.rs"]
mod tests;
