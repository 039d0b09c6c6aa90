//! Reading: record, manifest range, frames, verify, stream. What is in the page cache is read by the thread that sends it;
//! the rest with one batch of read-ahead. Chunks that are not local come from the tier. A chunk whose local frame fails its
//! digest is fetched again where another copy exists; wrong bytes are never served.

use super::Core;
use super::body::{BodyRef, ChunkRef, NODE_CHUNKS, NodeRef, decode_node, overlap};
use super::cipher::{CustomerKey, Opener, check_key};
use super::error::EngineError;
use super::record::ObjectRecord;
use super::types::{BodyOut, ObjectInfo, Residency, RestoreStatus};
use crate::buffer::{Buffer, BufferPool};
use crate::chunk::ChunkId;
use crate::local::LocalError;
use bytes::Bytes;
use futures::{FutureExt, StreamExt};
use std::collections::{BTreeMap, VecDeque};
use std::fmt;
use std::future::poll_fn;
use std::ops::Range;
use std::pin::Pin;
use std::sync::{Arc, Mutex, PoisonError};
use std::task::{Context, Poll};

/// Bytes of a piece of a body that is read from the page cache, at most: it stays in the second-level cache of the core that
/// reads, verifies and sends it.
const PIECE_BYTES: usize = 256 << 10;

/// Pieces of up to this many bytes are allocated as long as they are; larger ones are pooled buffers.
const SMALL_PIECE: u64 = 16 << 10;

/// Free buffers that are kept: 16 MiB.
const FREE_PIECES: usize = 64;

/// Bytes that are read ahead of the client, per request, once a chunk had to come from the disk or from a tier.
const BATCH_BYTES: u64 = 1 << 20;

/// Bytes that the disk is asked for before they are read, per request that reads from the disk. Enough to keep a disk busy
/// while a batch is verified and sent.
const ANNOUNCED_BYTES: u64 = 4 << 20;

/// Where pieces are read into.
#[derive(Debug, Clone)]
pub(crate) struct Pieces(BufferPool);

impl Default for Pieces {
    fn default() -> Self {
        Self(BufferPool::new(PIECE_BYTES, FREE_PIECES))
    }
}

/// Bodies that are being read: a mark counts their chunks as live, so that reads win over reclamation.
#[derive(Debug, Default)]
pub(crate) struct ReadLeases {
    inner: Mutex<(u64, BTreeMap<u64, Arc<ObjectRecord>>)>,
}

/// Held as long as a body is being read.
#[derive(Debug)]
pub(crate) struct Lease {
    core: Arc<Core>,
    id: u64,
}

impl ReadLeases {
    pub(crate) fn take(core: &Arc<Core>, record: &Arc<ObjectRecord>) -> Lease {
        let mut inner = core.reads.inner.lock().unwrap_or_else(PoisonError::into_inner);
        inner.0 += 1;
        let id = inner.0;
        inner.1.insert(id, Arc::clone(record));
        Lease { core: Arc::clone(core), id }
    }

    /// What is being read now.
    pub(crate) fn current(&self) -> Vec<Arc<ObjectRecord>> {
        self.inner.lock().unwrap_or_else(PoisonError::into_inner).1.values().cloned().collect()
    }
}

impl Drop for Lease {
    fn drop(&mut self) {
        self.core.reads.inner.lock().unwrap_or_else(PoisonError::into_inner).1.remove(&self.id);
    }
}

/// An object found; reading it later reads exactly this version.
pub struct ObjectHandle {
    core: Arc<Core>,
    record: Arc<ObjectRecord>,
    info: ObjectInfo,
    key: Option<CustomerKey>,
}

impl fmt::Debug for ObjectHandle {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("ObjectHandle").field("info", &self.info).finish_non_exhaustive()
    }
}

impl ObjectHandle {
    pub(crate) fn new(core: Arc<Core>, (bucket, key): (&str, &str), record: ObjectRecord, versioned: bool) -> Self {
        let info = ObjectInfo { versioned, ..core.info(bucket, key, &record) };
        Self { core, record: Arc::new(record), info, key: None }
    }

    /// Takes the client's key (SSE-C), without which an encrypted object cannot be read, and with which no other can.
    ///
    /// # Errors
    /// [`EngineError::WrongKey`]; [`EngineError::InvalidRequest`] for a key that is missing, or that nothing was encrypted
    /// with.
    pub fn unlock(&mut self, key: Option<CustomerKey>) -> Result<(), EngineError> {
        check_key(self.record.attributes.encryption.as_ref(), key.as_ref())?;
        self.key = key;
        Ok(())
    }

    /// Everything that HEAD shows.
    pub fn info(&self) -> &ObjectInfo {
        &self.info
    }

    pub(crate) fn record(&self) -> &ObjectRecord {
        &self.record
    }

    /// Whether the bytes can be read now.
    ///
    /// # Errors
    /// [`EngineError::InvalidObjectState`] for an archived version that is not restored.
    pub fn check_readable(&self) -> Result<(), EngineError> {
        match &self.record.residency {
            Residency::Cold { tier } if !self.core.tier_is_online(tier) => {
                Err(EngineError::InvalidObjectState { class: self.info.class_shown.clone() })
            }
            _ => Ok(()),
        }
    }

    /// Where the bytes of a part lie (`?partNumber=`); an object of a single PUT has one part, number 1.
    pub fn part_range(&self, number: u32) -> Option<Range<u64>> {
        if self.record.parts.is_empty() {
            return (number == 1).then_some(0..self.record.size);
        }
        let mut at = 0u64;
        for part in &self.record.parts {
            let end = at.saturating_add(part.size);
            if part.number == number {
                return Some(at..end);
            }
            at = end;
        }
        None
    }

    /// Streams `range` (bytes, within the object). Resolves when the first bytes are at hand, so that an error still
    /// gets a status of its own.
    ///
    /// # Errors
    /// [`EngineError::InvalidObjectState`], [`EngineError::InvalidRange`], [`EngineError::Tier`],
    /// [`EngineError::Corrupt`], [`EngineError::InvalidRequest`] for an encrypted object that was not
    /// [unlocked](Self::unlock); later errors come in the stream.
    pub async fn read(&self, range: Range<u64>) -> Result<BodyOut, EngineError> {
        let opener = Opener::new(&self.record, self.key.as_ref(), range.start)?;
        let stored = self.read_stored(range).await?;
        Ok(match opener {
            None => stored,
            Some(opener) => opener.open(stored),
        })
    }

    /// As [`read`](Self::read), the bytes as they are stored.
    async fn read_stored(&self, range: Range<u64>) -> Result<BodyOut, EngineError> {
        self.check_readable()?;
        if range.start > range.end || range.end > self.record.size {
            return Err(EngineError::InvalidRange { size: self.record.size });
        }
        if self.core.recovered && !self.core.has_all(&self.record) {
            let place = match self.core.follow {
                Some(_) => "are on the primary's disks, and not in a tier yet: read it there",
                None => "were on the disk that was lost, and nowhere else: upload it again, or delete it",
            };
            return Err(EngineError::Corrupt(format!("the bytes of this version {place}")));
        }
        // Nothing counts from the last read of what is not visible.
        if self.record.noncurrent_since.is_none() {
            self.core.note_access(&self.info.bucket, &self.info.key);
        }
        if range.is_empty() {
            return Ok(futures::stream::empty().boxed());
        }
        let mut body =
            Body { state: State::Cached(Reader::new(&self.core, &self.record, range)), ready: VecDeque::new() };
        // An error of the first piece is the answer; a body that fits one piece is finished here.
        let first = poll_fn(|cx| body.poll_piece(cx)).await;
        let Some(first) = first.transpose()? else { return Ok(futures::stream::empty().boxed()) };
        let first = futures::stream::iter([Ok(first)]);
        Ok(if body.is_done() { first.boxed() } else { first.chain(body).boxed() })
    }
}

/// A body on its way to a client.
struct Body {
    state: State,
    /// Pieces that are at hand.
    ready: VecDeque<Bytes>,
}

enum State {
    /// Everything so far was in the page cache: pieces are read when they are asked for, by the thread that sends them.
    /// Another thread would have to be woken for each, and would leave the bytes in another core's cache.
    Cached(Reader),
    /// A chunk was not: one batch is read while the client takes the one before, up to the end of the body.
    Ahead(Batch),
    Done,
}

/// A batch that is being read; the reader comes back with it.
type Batch = tokio::task::JoinHandle<(Reader, Result<Vec<Bytes>, EngineError>)>;

impl Body {
    fn is_done(&self) -> bool {
        matches!(self.state, State::Done) && self.ready.is_empty()
    }

    fn poll_piece(&mut self, cx: &mut Context<'_>) -> Poll<Option<Result<Bytes, EngineError>>> {
        loop {
            if let Some(piece) = self.ready.pop_front() {
                return Poll::Ready(Some(Ok(piece)));
            }
            self.state = match std::mem::replace(&mut self.state, State::Done) {
                State::Done => return Poll::Ready(None),
                State::Cached(mut reader) => match reader.cached_piece() {
                    Some(piece) => {
                        self.ready.push_back(piece);
                        if reader.is_done() { State::Done } else { State::Cached(reader) }
                    }
                    None => reader.ahead(),
                },
                State::Ahead(mut batch) => match batch.poll_unpin(cx) {
                    Poll::Pending => {
                        self.state = State::Ahead(batch);
                        return Poll::Pending;
                    }
                    Poll::Ready(Err(e)) => {
                        return Poll::Ready(Some(Err(EngineError::Internal(format!("read ahead: {e}")))));
                    }
                    Poll::Ready(Ok((reader, pieces))) => match pieces {
                        Err(e) => return Poll::Ready(Some(Err(e))),
                        Ok(pieces) => {
                            self.ready.extend(pieces);
                            reader.ahead()
                        }
                    },
                },
            };
        }
    }
}

impl futures::Stream for Body {
    type Item = Result<Bytes, EngineError>;

    fn poll_next(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<Option<Self::Item>> {
        self.poll_piece(cx)
    }
}

impl Drop for Body {
    fn drop(&mut self) {
        if let State::Ahead(batch) = &self.state {
            batch.abort();
        }
    }
}

/// The chunks of one read, in order.
struct Reader {
    core: Arc<Core>,
    record: Arc<ObjectRecord>,
    nodes: VecDeque<(NodeRef, Range<u64>)>,
    pieces: VecDeque<(ChunkRef, Range<u64>)>,
    /// So many of the first pieces have been announced to the disk.
    announced: usize,
    _lease: Lease,
}

impl Reader {
    fn new(core: &Arc<Core>, record: &Arc<ObjectRecord>, range: Range<u64>) -> Self {
        let (nodes, pieces) = match &record.body {
            BodyRef::Inline(chunks) => (VecDeque::new(), overlap(chunks, range, |c| u64::from(c.len)).collect()),
            BodyRef::Nodes(nodes) => (overlap(nodes, range, |n| n.bytes).collect(), VecDeque::new()),
        };
        let lease = ReadLeases::take(core, record);
        Self { core: Arc::clone(core), record: Arc::clone(record), nodes, pieces, announced: 0, _lease: lease }
    }

    fn is_done(&self) -> bool {
        self.nodes.is_empty() && self.pieces.is_empty()
    }

    /// As many of the next chunks as fit a piece and can be had without waiting; none when the first one cannot, or does
    /// not fit.
    fn cached_piece(&mut self) -> Option<Bytes> {
        if self.pieces.is_empty() {
            self.cached_node()?;
        }
        let mut left = 0;
        let more = self.pieces.iter().any(|(chunk, _)| {
            left += u64::from(chunk.len);
            left > SMALL_PIECE
        });
        let mut piece = if more { self.core.pieces.0.take() } else { Buffer::alone(usize::try_from(left).ok()?) };
        let (mut skip, mut cut) = (0, 0);
        while let Some((chunk, range)) = self.pieces.front() {
            let length = chunk.len as usize;
            let Some(room) = piece.spare().get_mut(..length) else { break };
            if !self.core.local.read_cached(&chunk.id, room) {
                break;
            }
            // Only the first chunk of a read can begin late, and only the last one end early.
            if piece.is_empty() {
                skip = usize::try_from(range.start).ok()?;
            }
            cut = length.saturating_sub(usize::try_from(range.end).ok()?);
            piece.advance(length);
            self.pieces.pop_front();
        }
        let end = piece.len().saturating_sub(cut);
        (!piece.is_empty()).then(|| piece.freeze().slice(skip.min(end)..end))
    }

    /// The chunks of the next node, if it can be had without waiting.
    fn cached_node(&mut self) -> Option<()> {
        let (node, range) = self.nodes.front()?;
        // No node is longer; a number that is too large would be asked from the allocator.
        if node.chunks as usize > NODE_CHUNKS {
            return None;
        }
        let mut raw = vec![0; usize::try_from(super::body::node_len(node.chunks)).ok()?];
        if !self.core.local.read_cached(&node.id, &mut raw) {
            return None;
        }
        // What cannot be decoded is left to `next_batch`, which says so.
        let chunks = decode_node(&raw).ok()?;
        self.pieces = overlap(&chunks, range.clone(), |c| u64::from(c.len)).collect();
        self.nodes.pop_front();
        Some(())
    }

    /// Reads on beside the client.
    fn ahead(mut self) -> State {
        if self.is_done() {
            return State::Done;
        }
        let runtime = self.core.runtime.clone();
        State::Ahead(runtime.spawn(async move {
            let batch = self.next_batch().await;
            (self, batch)
        }))
    }

    async fn next_batch(&mut self) -> Result<Vec<Bytes>, EngineError> {
        while self.pieces.is_empty() {
            let Some((node, range)) = self.nodes.pop_front() else { return Ok(Vec::new()) };
            let chunks = self.core.node(&node, self.tier()).await?;
            self.pieces = overlap(&chunks, range, |c| u64::from(c.len)).collect();
        }
        let soon = self.announce();
        let mut batch = Vec::new();
        let mut bytes = 0u64;
        while bytes < BATCH_BYTES
            && let Some((chunk, range)) = self.pieces.pop_front()
        {
            bytes += range.end - range.start;
            batch.push((chunk, range));
        }
        self.announced = self.announced.saturating_sub(batch.len());
        // A protected body is to be local: what was evicted, or set aside as damaged, comes back for good.
        let keep = matches!(self.record.residency, Residency::Protected { .. });
        let wanted = Wanted { chunks: batch.iter().map(|(c, _)| *c).collect(), soon, keep };
        let raw = self.core.chunks(wanted, self.tier()).await?;
        batch.iter().zip(raw).map(|((_, range), raw)| cut(&raw, range)).collect()
    }

    /// The chunks that come next and that the disk was not asked for yet.
    fn announce(&mut self) -> Vec<ChunkId> {
        let mut bytes = 0u64;
        let within = self.pieces.iter().take_while(|(chunk, _)| {
            bytes += u64::from(chunk.len);
            bytes <= ANNOUNCED_BYTES
        });
        let end = within.count();
        let soon = self.pieces.iter().take(end).skip(self.announced).map(|(chunk, _)| chunk.id).collect();
        self.announced = self.announced.max(end);
        soon
    }

    /// The tier that has the bytes too, if any.
    fn tier(&self) -> Option<String> {
        self.record.residency.tier().map(str::to_owned)
    }
}

fn cut(raw: &Bytes, range: &Range<u64>) -> Result<Bytes, EngineError> {
    let (Ok(start), Ok(end)) = (usize::try_from(range.start), usize::try_from(range.end)) else {
        return Err(EngineError::Internal("a chunk larger than memory".into()));
    };
    if end > raw.len() {
        return Err(EngineError::Corrupt(format!("a chunk of {} bytes where the manifest says {end}", raw.len())));
    }
    Ok(raw.slice(start..end))
}

/// Chunks to read.
pub(crate) struct Wanted {
    /// Now, in this order.
    pub chunks: Vec<ChunkRef>,
    /// These or later ones, soon: the disk may begin with them.
    pub soon: Vec<ChunkId>,
    /// What comes from a tier is kept, whatever the setting says.
    pub keep: bool,
}

impl Core {
    /// What HEAD shows of a record.
    pub(crate) fn info(&self, bucket: &str, key: &str, record: &ObjectRecord) -> ObjectInfo {
        ObjectInfo {
            bucket: bucket.to_owned(),
            key: key.to_owned(),
            version: record.version,
            null: record.null,
            versioned: !record.null,
            size: record.size,
            etag: record.etag.clone(),
            last_modified: record.modified,
            attributes: record.attributes.clone(),
            checksum: record.checksum.clone(),
            parts: record.parts.clone(),
            residency: record.residency.clone(),
            class_shown: self.class_shown(record),
            restore: restore_status(record),
            expires: self.expiry(bucket, key, record),
        }
    }

    /// The class that S3 shows: of the tier that the version is in, else the declared one.
    pub(crate) fn class_shown(&self, record: &ObjectRecord) -> String {
        match &record.residency {
            Residency::Cold { tier } | Residency::Restored { tier, .. } => {
                let fallback = if self.tier_is_online(tier) { "STANDARD_IA" } else { "GLACIER" };
                self.classes.class_of(tier).unwrap_or(fallback).to_owned()
            }
            Residency::Hot | Residency::Protected { .. } => {
                record.attributes.storage_class.clone().unwrap_or_else(|| "STANDARD".to_owned())
            }
        }
    }

    /// One chunk from local packs; None when it is not there. A damaged frame counts as not there: it has been set
    /// aside and logged, and the caller looks for another copy.
    pub(crate) fn read_local(&self, chunk: &ChunkRef) -> Result<Option<Bytes>, EngineError> {
        match self.local.read(&chunk.id) {
            Ok(Some(raw)) if raw.len() as u64 == u64::from(chunk.len) => Ok(Some(raw)),
            Ok(Some(raw)) => Err(EngineError::Corrupt(format!(
                "chunk {} has {} bytes where the manifest says {}",
                chunk.id,
                raw.len(),
                chunk.len
            ))),
            Ok(None) => Ok(None),
            Err(LocalError::Corrupt { .. }) => {
                self.metrics.corrupt_frames.inc();
                tracing::error!(chunk = %chunk.id, "a local frame failed its digest and was set aside");
                Ok(None)
            }
            Err(other) => Err(other.into()),
        }
    }

    /// Raw chunks in order: local ones from packs, the others from `tier`, or from any tier that has them.
    pub(crate) async fn chunks(
        self: &Arc<Self>,
        wanted: Wanted,
        tier: Option<String>,
    ) -> Result<Vec<Bytes>, EngineError> {
        let core = Arc::clone(self);
        let Wanted { chunks: wanted, soon, keep } = wanted;
        let task = tokio::task::spawn_blocking(move || {
            core.local.will_read(&soon);
            let found: Result<Vec<_>, _> = wanted.iter().map(|chunk| core.read_local(chunk)).collect();
            found.map(|found| (wanted, found))
        });
        let (wanted, found) = task.await.map_err(|e| EngineError::Internal(format!("read chunks: {e}")))??;
        if found.iter().all(Option::is_some) {
            return Ok(found.into_iter().flatten().collect());
        }
        let missing: Vec<ChunkRef> = wanted.iter().zip(&found).filter(|(_, f)| f.is_none()).map(|(c, _)| *c).collect();
        let fetched = self.recall(&missing, tier.as_deref(), keep).await?;
        wanted
            .iter()
            .zip(found)
            .map(|(chunk, local)| {
                local.or_else(|| fetched.get(&chunk.id).cloned()).ok_or_else(|| {
                    EngineError::Corrupt(format!("chunk {} is neither in a local pack nor in a tier", chunk.id))
                })
            })
            .collect()
    }

    /// The chunks of one node of a manifest.
    pub(crate) async fn node(
        self: &Arc<Self>,
        node: &NodeRef,
        tier: Option<String>,
    ) -> Result<Vec<ChunkRef>, EngineError> {
        let len = u32::try_from(super::body::node_len(node.chunks))
            .map_err(|_| EngineError::Corrupt("a manifest node of impossible size".into()))?;
        let wanted = Wanted { chunks: vec![ChunkRef { id: node.id, len }], soon: Vec::new(), keep: false };
        let raw = self.chunks(wanted, tier).await?;
        decode_node(raw.first().map_or(&[][..], |b| b))
    }
}

/// What `x-amz-restore` says of a record.
pub(crate) fn restore_status(record: &ObjectRecord) -> Option<RestoreStatus> {
    match (&record.residency, record.restoring) {
        (Residency::Restored { until, .. }, _) => Some(RestoreStatus::Done { until: *until }),
        (_, Some(_)) => Some(RestoreStatus::Ongoing),
        _ => None,
    }
}
