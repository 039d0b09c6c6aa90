//! The bytes of a planned pack, streamed from local frames (or, for a version that is cold already, from its tier).

use super::Core;
use super::body::ChunkRef;
use crate::chunk::ChunkId;
use crate::pack::format::{FRAME_HEADER_LEN, FooterEntry, HEADER_LEN};
use crate::pack::{Frame, FrameKind, RemotePackPlan};
use crate::tier::BodySource;
use bytes::{Bytes, BytesMut};
use futures::StreamExt;
use futures::stream::BoxStream;
use std::collections::{BTreeMap, HashMap};
use std::io;
use std::ops::Range;
use std::sync::Arc;

/// Bytes that are put together at a time.
const PIECE_BYTES: usize = 1 << 20;

/// See the module.
#[derive(Clone)]
pub(crate) struct PackBody {
    core: Arc<Core>,
    plan: Arc<RemotePackPlan>,
    /// The tier of a chunk that is not local.
    sources: Arc<HashMap<ChunkId, String>>,
    /// The frames of manifests, which are nowhere but here.
    told: Arc<HashMap<ChunkId, Arc<Frame>>>,
}

impl PackBody {
    pub(crate) fn new(
        core: &Arc<Core>,
        plan: RemotePackPlan,
        (sources, told): (HashMap<ChunkId, String>, HashMap<ChunkId, Arc<Frame>>),
    ) -> Self {
        Self { core: Arc::clone(core), plan: Arc::new(plan), sources: Arc::new(sources), told: Arc::new(told) }
    }

    /// Some of the pack's bytes from `at`: up to a piece, always whole frames, cut to `end` by the caller.
    async fn piece(&self, at: u64, end: u64) -> io::Result<Bytes> {
        if at < HEADER_LEN as u64 {
            return Ok(Bytes::copy_from_slice(&self.plan.header_bytes()[to_usize(at)?..]));
        }
        if at >= self.plan.footer_offset() {
            let from = to_usize(at - self.plan.footer_offset())?;
            return Ok(Bytes::copy_from_slice(&self.plan.footer_bytes()[from..]));
        }
        let entries = self.plan.entries();
        let first = entries.partition_point(|e| frame_end(e) <= at);
        let mut count = 0;
        let mut bytes = 0usize;
        for entry in &entries[first..] {
            if bytes >= PIECE_BYTES || u64::from(entry.offset) >= end {
                break;
            }
            bytes += FRAME_HEADER_LEN + entry.stored_len as usize;
            count += 1;
        }
        let frames = self.frames(&entries[first..first + count]).await?;
        let mut joined = BytesMut::with_capacity(bytes);
        for (n, frame) in frames.iter().enumerate() {
            let header = self.plan.frame_header_bytes(first + n).ok_or_else(|| other("a frame past the plan"))?;
            joined.extend_from_slice(&header);
            joined.extend_from_slice(&frame.stored);
        }
        let skip = to_usize(at - u64::from(entries[first].offset))?;
        Ok(joined.freeze().slice(skip..))
    }

    /// The planned frames, each verified and exactly as planned.
    async fn frames(&self, entries: &[FooterEntry]) -> io::Result<Vec<Arc<Frame>>> {
        let core = Arc::clone(&self.core);
        let wanted: Vec<FooterEntry> = entries.to_vec();
        let local = tokio::task::spawn_blocking(move || {
            let read = |e: &FooterEntry| if is_told(e) { Ok(None) } else { core.local.read_frame(&e.id) };
            wanted.iter().map(read).collect::<Result<Vec<_>, _>>()
        });
        let local = local.await.map_err(other)?.map_err(other)?;
        let mut missing: BTreeMap<Option<&str>, Vec<ChunkRef>> = BTreeMap::new();
        for (entry, _) in entries.iter().zip(&local).filter(|(e, frame)| frame.is_none() && !is_told(e)) {
            let source = self.sources.get(&entry.id).map(String::as_str);
            missing.entry(source).or_default().push(ChunkRef { id: entry.id, len: entry.raw_len });
        }
        let mut recalled = HashMap::new();
        for (source, chunks) in missing {
            recalled.extend(self.core.recall_frames(&chunks, source, false).await.map_err(other)?);
        }
        entries
            .iter()
            .zip(local)
            .map(|(entry, frame)| {
                let frame = frame
                    .map(Arc::new)
                    .or_else(|| if is_told(entry) { &*self.told } else { &recalled }.get(&entry.id).cloned())
                    .ok_or_else(|| other(format!("chunk {} has gone", entry.id)))?;
                if frame.stored.len() != entry.stored_len as usize || frame.codec != entry.codec {
                    return Err(other(format!("chunk {} is stored in another way than planned", entry.id)));
                }
                Ok(frame)
            })
            .collect()
    }
}

fn is_told(entry: &FooterEntry) -> bool {
    entry.kind == FrameKind::Manifests
}

fn frame_end(entry: &FooterEntry) -> u64 {
    u64::from(entry.offset) + FRAME_HEADER_LEN as u64 + u64::from(entry.stored_len)
}

fn to_usize(n: u64) -> io::Result<usize> {
    usize::try_from(n).map_err(other)
}

fn other(error: impl Into<Box<dyn std::error::Error + Send + Sync>>) -> io::Error {
    io::Error::other(error)
}

impl BodySource for PackBody {
    fn len(&self) -> u64 {
        self.plan.total_len()
    }

    fn open(&self, range: Range<u64>) -> BoxStream<'static, io::Result<Bytes>> {
        let body = self.clone();
        futures::stream::try_unfold(range.start, move |at| {
            let body = body.clone();
            async move {
                if at >= range.end {
                    return Ok(None);
                }
                let mut piece = body.piece(at, range.end).await?;
                let left = to_usize(range.end - at)?;
                piece.truncate(left);
                let next = at + piece.len() as u64;
                Ok(Some((piece, next)))
            }
        })
        .boxed()
    }
}
