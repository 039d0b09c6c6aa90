//! Stored bodies on their way out: read piece by piece, damaged as the fault plan says, compressed on the fly.

use crate::blob::{Body, flipped};
use bytes::Bytes;
use flate2::Compression;
use flate2::write::GzEncoder;
use futures::Stream;
use hyper::body::Frame;
use std::io::{self, Write};

/// What a body fault does to a GET.
#[derive(Debug, Clone, Copy, Default)]
pub struct Damage {
    /// End the connection after so many bytes.
    pub torn_at: Option<u64>,
    /// Invert a bit of this byte.
    pub flip_at: Option<u64>,
}

/// A stored body being sent.
#[derive(Debug)]
pub struct Source {
    /// What is sent.
    pub body: Body,
    /// How far it has been sent.
    pub at: u64,
    /// Its length.
    pub len: u64,
    /// What goes wrong on the way.
    pub damage: Damage,
}

impl Source {
    /// The next piece, damaged as planned; `None` at the end.
    fn next(&mut self) -> Option<io::Result<Bytes>> {
        if self.at >= self.len {
            return None;
        }
        if self.damage.torn_at.is_some_and(|torn| self.at >= torn) {
            return Some(Err(io::ErrorKind::ConnectionReset.into()));
        }
        let piece = match self.body.read_at(self.at) {
            Ok(piece) if piece.is_empty() => return Some(Err(io::ErrorKind::UnexpectedEof.into())),
            Ok(piece) => piece,
            Err(error) => return Some(Err(error)),
        };
        let piece = self.damaged(piece);
        self.at += piece.len() as u64;
        Some(Ok(piece))
    }

    fn damaged(&self, piece: Bytes) -> Bytes {
        let inside =
            |at: u64| at.checked_sub(self.at).and_then(|n| usize::try_from(n).ok()).filter(|n| *n < piece.len());
        if let Some(torn) = self.damage.torn_at.and_then(inside) {
            return piece.slice(..torn.max(1));
        }
        if let Some(flip) = self.damage.flip_at.and_then(inside) {
            return flipped(&piece, flip);
        }
        piece
    }
}

/// The frames of a body, compressed when there is an encoder. Pieces are read when the connection asks for them.
pub fn stream(source: Source, gzip: bool) -> impl Stream<Item = io::Result<Frame<Bytes>>> {
    let encoder = gzip.then(|| GzEncoder::new(Vec::new(), Compression::fast()));
    futures::stream::try_unfold((source, encoder), |(mut source, mut encoder)| async move {
        loop {
            let next = source.next();
            if matches!(next, Some(Err(_))) {
                // Lets the connection send what it has: a body that breaks off has had a head, and some bytes, before.
                tokio::task::yield_now().await;
            }
            let piece = next.transpose()?;
            let Some(gz) = encoder.as_mut() else {
                return Ok(piece.map(|p| (Frame::data(p), (source, encoder))));
            };
            match piece {
                Some(piece) => {
                    gz.write_all(&piece)?;
                    let out = std::mem::take(gz.get_mut());
                    if !out.is_empty() {
                        return Ok(Some((Frame::data(Bytes::from(out)), (source, encoder))));
                    }
                }
                None => {
                    // The last frame: what the encoder still holds. Afterwards the source stays at its end, without encoder.
                    let Some(gz) = encoder.take() else { return Ok(None) };
                    let out = gz.finish()?;
                    return Ok(Some((Frame::data(Bytes::from(out)), (source, None))));
                }
            }
        }
    })
}
