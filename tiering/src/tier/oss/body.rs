//! Bodies on their way out: counted and hashed while they stream.

use crate::tier::BodySource;
use bytes::Bytes;
use crc_fast::{CrcAlgorithm, Digest};
use futures::stream::{BoxStream, StreamExt};
use std::io;
use std::ops::Range;
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Mutex, PoisonError};

/// CRC-64 with the ECMA-182 polynomial, reflected: what the service computes of every object.
pub(crate) const CRC64: CrcAlgorithm = CrcAlgorithm::Crc64Xz;

/// The CRC-64 of a body made of two, from theirs and the second one's length in bytes.
pub(crate) fn combine_crc64(first: u64, second: u64, second_len: u64) -> u64 {
    crc_fast::checksum_combine(CRC64, first, second, second_len)
}

struct State {
    digest: Digest,
    failure: Option<io::Error>,
}

/// What has been sent of one body.
#[derive(Clone)]
pub(crate) struct Sent {
    bytes: Arc<AtomicU64>,
    state: Arc<Mutex<State>>,
}

impl Sent {
    /// Nothing yet.
    pub(crate) fn new() -> Self {
        let state = State { digest: Digest::new(CRC64), failure: None };
        Self { bytes: Arc::default(), state: Arc::new(Mutex::new(state)) }
    }

    /// Bytes handed to the connection so far.
    pub(crate) fn bytes(&self) -> u64 {
        self.bytes.load(Ordering::Relaxed)
    }

    /// CRC-64 of them.
    pub(crate) fn crc64(&self) -> u64 {
        self.state.lock().unwrap_or_else(PoisonError::into_inner).digest.finalize()
    }

    /// The error of our own body, when that is what ended the request.
    pub(crate) fn take_failure(&self) -> Option<io::Error> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner).failure.take()
    }

    fn add(&self, piece: &Bytes) -> u64 {
        self.state.lock().unwrap_or_else(PoisonError::into_inner).digest.update(piece);
        let len = piece.len() as u64;
        self.bytes.fetch_add(len, Ordering::Relaxed).saturating_add(len)
    }

    fn fail(&self, error: io::Error) -> io::Error {
        let told = io::Error::new(error.kind(), "the body to send failed");
        self.state.lock().unwrap_or_else(PoisonError::into_inner).failure = Some(error);
        told
    }

    /// The stream of `range` of `body`, watched. It fails when it would be shorter or longer than the range: the
    /// Content-Length has been sent by then, and a store that waits for the rest would hold the connection.
    ///
    /// It waits once before it begins, which lets the connection send the head: a request that our own body breaks off is
    /// then one that the store has seen, always, and both sides count it.
    pub(crate) fn watch(&self, body: &dyn BodySource, range: Range<u64>) -> BoxStream<'static, io::Result<Bytes>> {
        let expected = range.end.saturating_sub(range.start);
        let state = (body.open(range), self.clone());
        let pieces = futures::stream::try_unfold(state, move |(mut inner, sent)| async move {
            match inner.next().await {
                Some(Ok(piece)) if sent.add(&piece) <= expected => Ok(Some((piece, (inner, sent)))),
                Some(Ok(_)) => {
                    let text = format!("the body is longer than the {expected} bytes announced");
                    Err(sent.fail(io::Error::new(io::ErrorKind::InvalidData, text)))
                }
                Some(Err(error)) => Err(sent.fail(error)),
                None if sent.bytes() == expected => Ok(None),
                None => {
                    let text = format!("the body ended after {} of {expected} bytes", sent.bytes());
                    Err(sent.fail(io::Error::new(io::ErrorKind::UnexpectedEof, text)))
                }
            }
        });
        futures::stream::once(async move {
            tokio::task::yield_now().await;
            pieces
        })
        .flatten()
        .boxed()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_crc_vector_matches_and_parts_combine() {
        let list = crate::tier::oss::vectors::vectors("crc64");
        assert_eq!(list.len(), 4);
        for vector in list {
            let name = vector["name"].as_str().unwrap();
            let expected: u64 = vector["expected"].as_str().unwrap().parse().unwrap();
            let got = match name {
                "123456789" => crc_fast::checksum(CRC64, b"123456789"),
                "chained 1234+56789" => {
                    combine_crc64(crc_fast::checksum(CRC64, b"1234"), crc_fast::checksum(CRC64, b"56789"), 5)
                }
                "empty" => crc_fast::checksum(CRC64, b""),
                "hello world (computed)" => crc_fast::checksum(CRC64, b"hello world"),
                other => panic!("no input is known for vector {other}"),
            };
            assert_eq!(got, expected, "{name}");
        }
    }

    #[tokio::test]
    async fn a_body_that_is_too_short_is_our_own_error() {
        struct Short;
        impl BodySource for Short {
            fn len(&self) -> u64 {
                10
            }
            fn open(&self, _: Range<u64>) -> BoxStream<'static, io::Result<Bytes>> {
                futures::stream::iter([Ok(Bytes::from_static(b"abc"))]).boxed()
            }
        }
        let sent = Sent::new();
        let pieces: Vec<io::Result<Bytes>> = sent.watch(&Short, 0..10).collect().await;
        assert!(pieces[0].is_ok() && pieces[1].is_err() && pieces.len() == 2);
        assert!(sent.take_failure().unwrap().to_string().contains("3 of 10"));
    }
}
