//! A part of a snapshot's file as a body to send.

use crate::tier::BodySource;
use bytes::Bytes;
use futures::StreamExt;
use futures::stream::BoxStream;
use std::fs::File;
use std::ops::Range;
use std::os::unix::fs::FileExt;
use std::sync::Arc;

/// Bytes of a part: what some tiers hold in memory while they write it.
pub(crate) const PART_BYTES: u64 = 64 << 20;
const PIECE: u64 = 1 << 20;

/// Bytes of a file, which may lose its name meanwhile.
pub(crate) struct FilePart {
    file: Arc<File>,
    start: u64,
    len: u64,
}

impl FilePart {
    pub(crate) fn new(file: Arc<File>, start: u64, len: u64) -> Self {
        Self { file, start, len }
    }

    pub(crate) fn length(&self) -> u64 {
        self.len
    }
}

impl BodySource for FilePart {
    fn len(&self) -> u64 {
        self.len
    }

    fn open(&self, range: Range<u64>) -> BoxStream<'static, std::io::Result<Bytes>> {
        let (file, base) = (Arc::clone(&self.file), self.start);
        let pieces = (range.start..range.end).step_by(PIECE as usize);
        let end = range.end;
        futures::stream::iter(pieces)
            .then(move |at| {
                let file = Arc::clone(&file);
                async move {
                    let len = usize::try_from((end - at).min(PIECE)).map_err(std::io::Error::other)?;
                    let read = tokio::task::spawn_blocking(move || {
                        let mut bytes = vec![0; len];
                        file.read_exact_at(&mut bytes, base + at)?;
                        Ok(Bytes::from(bytes))
                    });
                    read.await.map_err(std::io::Error::other)?
                }
            })
            .boxed()
    }
}
