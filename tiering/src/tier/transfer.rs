//! Bodies on their way to and from an `object_store`: cut into payloads, and cut to what was asked for.

use super::error::{ErrorDetails, TierError, TierErrorKind};
use super::metrics::Operation;
use bytes::{Bytes, BytesMut};
use futures::stream::{BoxStream, StreamExt};
use object_store::PutPayload;

/// What is taken of a body that is being read.
pub(super) struct Cut {
    /// Bytes before those that are wanted.
    pub skip: u64,
    /// Wanted bytes that have not come yet.
    pub left: u64,
    /// More may come than is wanted: the object is read whole.
    pub forgives_more: bool,
    pub received: prometheus::IntCounter,
    /// Whose errors they are.
    pub place: ErrorDetails,
}

impl Cut {
    pub fn broken(&self, message: String) -> TierError {
        TierError::new(TierErrorKind::Unavailable, ErrorDetails { message, ..self.place.clone() })
    }

    /// The wanted part of the next piece; maybe nothing.
    pub fn take(&mut self, mut piece: Bytes) -> Result<Bytes, TierError> {
        self.received.inc_by(piece.len() as u64);
        let before = usize::try_from(self.skip).unwrap_or(usize::MAX).min(piece.len());
        self.skip -= before as u64;
        let mut wanted = piece.split_off(before);
        if wanted.len() as u64 > self.left {
            if !self.forgives_more {
                return Err(self.broken("too many bytes came".to_owned()));
            }
            wanted.truncate(usize::try_from(self.left).unwrap_or(usize::MAX));
        }
        self.left -= wanted.len() as u64;
        Ok(wanted)
    }

    /// The body ended, or no more of it is wanted.
    pub fn end(&self) -> Result<(), TierError> {
        if self.left == 0 { Ok(()) } else { Err(self.broken(format!("the body ended {} bytes early", self.left))) }
    }
}

/// Cuts a body into payloads.
pub(super) struct Gather<'a> {
    pub stream: &'a mut BoxStream<'static, std::io::Result<Bytes>>,
    pub rest: BytesMut,
    pub left: u64,
    pub name: &'a str,
}

impl Gather<'_> {
    fn local(&self, kind: std::io::ErrorKind, text: &str) -> TierError {
        TierError::local(Operation::PutObject.name(), self.name, std::io::Error::new(kind, text.to_owned()))
    }

    /// The next `max` bytes, or what is left.
    pub async fn next(&mut self, max: u64) -> Result<PutPayload, TierError> {
        let want = usize::try_from(max.min(self.left))
            .map_err(|_| self.local(std::io::ErrorKind::InvalidInput, "a piece does not fit into memory"))?;
        while self.rest.len() < want {
            match self.stream.next().await {
                Some(Ok(piece)) => self.rest.extend_from_slice(&piece),
                Some(Err(error)) => return Err(TierError::local(Operation::PutObject.name(), self.name, error)),
                None => return Err(self.local(std::io::ErrorKind::UnexpectedEof, "the body ended early")),
            }
        }
        self.left -= want as u64;
        Ok(PutPayload::from(self.rest.split_to(want).freeze()))
    }

    /// Makes sure that nothing follows.
    pub async fn finish(&mut self) -> Result<(), TierError> {
        while self.rest.is_empty() {
            match self.stream.next().await {
                Some(Ok(piece)) => self.rest.extend_from_slice(&piece),
                Some(Err(error)) => return Err(TierError::local(Operation::PutObject.name(), self.name, error)),
                None => return Ok(()),
            }
        }
        Err(self.local(std::io::ErrorKind::InvalidData, "the body is longer than it says"))
    }
}

#[cfg(test)]
mod tests {
    use super::super::TierMetrics;
    use super::*;

    fn cut(skip: u64, left: u64, forgives_more: bool) -> Cut {
        let received = TierMetrics::new("t", None).unwrap().received_bytes.clone();
        Cut { skip, left, forgives_more, received, place: ErrorDetails::default() }
    }

    #[test]
    fn of_a_body_that_is_read_whole_exactly_the_wanted_bytes_are_taken() {
        for piece in 1..=10 {
            let mut cut = cut(3, 4, true);
            let body = Bytes::from_static(b"0123456789");
            let pieces = (0..10).step_by(piece).map(|at| body.slice(at..(at + piece).min(10)));
            let got: Vec<u8> = pieces.flat_map(|p| cut.take(p).unwrap()).collect();
            assert_eq!(got, b"3456", "in pieces of {piece}");
            cut.end().unwrap();
        }
        let mut early = cut(3, 4, true);
        assert_eq!(early.take(Bytes::from_static(b"01234")).unwrap(), "34");
        assert!(early.end().is_err());
    }

    #[test]
    fn more_bytes_than_a_range_has_are_an_error() {
        let mut exact = cut(0, 4, false);
        assert_eq!(exact.take(Bytes::from_static(b"0123")).unwrap(), "0123");
        exact.end().unwrap();
        assert!(exact.take(Bytes::from_static(b"4")).is_err());
    }
}
