//! Reading: record, manifest range, frames, verify, stream, with one batch of read-ahead. Chunks that are not local come
//! from the tier. A chunk whose local frame fails its digest is fetched again where another copy exists; wrong bytes
//! are never served.

use super::Core;
use super::body::{BodyRef, ChunkRef, NodeRef, decode_node, overlap};
use super::error::EngineError;
use super::record::ObjectRecord;
use super::types::{BodyOut, ObjectInfo, Residency, RestoreStatus};
use crate::local::LocalError;
use bytes::{Bytes, BytesMut};
use futures::StreamExt;
use std::collections::{BTreeMap, VecDeque};
use std::ops::Range;
use std::sync::{Arc, Mutex, PoisonError};

/// Bytes that are read ahead of the client, per request.
const BATCH_BYTES: u64 = 1 << 20;

/// Reads up to this size happen on the caller's thread: from the page cache they cost less than a hop.
const INLINE_READ: u64 = 128 << 10;

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
    fn take(core: &Arc<Core>, record: &Arc<ObjectRecord>) -> Lease {
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
#[derive(Debug)]
pub struct ObjectHandle {
    core: Arc<Core>,
    record: Arc<ObjectRecord>,
    info: ObjectInfo,
}

impl ObjectHandle {
    pub(crate) fn new(core: Arc<Core>, bucket: &str, key: &str, record: ObjectRecord) -> Self {
        let info = core.info(bucket, key, &record);
        Self { core, record: Arc::new(record), info }
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
    /// [`EngineError::Corrupt`]; later errors come in the stream.
    pub async fn read(&self, range: Range<u64>) -> Result<BodyOut, EngineError> {
        self.check_readable()?;
        if range.start > range.end || range.end > self.record.size {
            return Err(EngineError::InvalidRange { size: self.record.size });
        }
        self.core.note_access(&self.info.bucket, &self.info.key);
        if range.is_empty() {
            return Ok(futures::stream::empty().boxed());
        }
        let length = range.end - range.start;
        let mut reader = Reader::new(&self.core, &self.record, range);
        if length <= INLINE_READ
            && let Some(bytes) = reader.try_inline()?
        {
            return Ok(futures::stream::once(async move { Ok(bytes) }).boxed());
        }
        let first = reader.next_batch().await?;
        let rest = futures::stream::try_unfold(Ahead::new(reader), Ahead::step);
        let first = futures::stream::iter(first.into_iter().map(Ok));
        Ok(first.chain(rest.map(|r: Result<Vec<Bytes>, EngineError>| r).flat_map(split_batch)).boxed())
    }
}

fn split_batch(batch: Result<Vec<Bytes>, EngineError>) -> impl futures::Stream<Item = Result<Bytes, EngineError>> {
    let items: Vec<_> = match batch {
        Ok(pieces) => pieces.into_iter().map(Ok).collect(),
        Err(e) => vec![Err(e)],
    };
    futures::stream::iter(items)
}

/// Keeps one batch of read-ahead running while the client takes the one before.
struct Ahead {
    running: Option<Batch>,
}

/// A batch that is being read; the reader comes back with it.
type Batch = tokio::task::JoinHandle<(Reader, Result<Vec<Bytes>, EngineError>)>;

impl Ahead {
    fn new(reader: Reader) -> Self {
        Self { running: Self::start(reader) }
    }

    fn start(mut reader: Reader) -> Option<Batch> {
        if reader.is_done() {
            return None;
        }
        let runtime = reader.core.runtime.clone();
        Some(runtime.spawn(async move {
            let batch = reader.next_batch().await;
            (reader, batch)
        }))
    }

    async fn step(mut self) -> Result<Option<(Vec<Bytes>, Self)>, EngineError> {
        let Some(running) = self.running.take() else { return Ok(None) };
        let (reader, batch) = running.await.map_err(|e| EngineError::Internal(format!("read ahead: {e}")))?;
        let batch = batch?;
        Ok(Some((batch, Self::new(reader))))
    }
}

impl Drop for Ahead {
    fn drop(&mut self) {
        if let Some(running) = self.running.take() {
            running.abort();
        }
    }
}

/// The chunks of one read, in order.
struct Reader {
    core: Arc<Core>,
    record: Arc<ObjectRecord>,
    nodes: VecDeque<(NodeRef, Range<u64>)>,
    pieces: VecDeque<(ChunkRef, Range<u64>)>,
    _lease: Lease,
}

impl Reader {
    fn new(core: &Arc<Core>, record: &Arc<ObjectRecord>, range: Range<u64>) -> Self {
        let (nodes, pieces) = match &record.body {
            BodyRef::Inline(chunks) => (VecDeque::new(), overlap(chunks, range, |c| u64::from(c.len)).collect()),
            BodyRef::Nodes(nodes) => (overlap(nodes, range, |n| n.bytes).collect(), VecDeque::new()),
        };
        let lease = ReadLeases::take(core, record);
        Self { core: Arc::clone(core), record: Arc::clone(record), nodes, pieces, _lease: lease }
    }

    fn is_done(&self) -> bool {
        self.nodes.is_empty() && self.pieces.is_empty()
    }

    /// The whole read at once, when all of it is local and needs no node.
    fn try_inline(&mut self) -> Result<Option<Bytes>, EngineError> {
        if !self.nodes.is_empty() {
            return Ok(None);
        }
        let mut joined = BytesMut::new();
        for (chunk, range) in &self.pieces {
            let Some(raw) = self.core.read_local(chunk)? else { return Ok(None) };
            let piece = cut(&raw, range)?;
            if self.pieces.len() == 1 {
                return Ok(Some(piece));
            }
            joined.extend_from_slice(&piece);
        }
        Ok(Some(joined.freeze()))
    }

    async fn next_batch(&mut self) -> Result<Vec<Bytes>, EngineError> {
        while self.pieces.is_empty() {
            let Some((node, range)) = self.nodes.pop_front() else { return Ok(Vec::new()) };
            let chunks = self.core.node(&node, self.tier()).await?;
            self.pieces = overlap(&chunks, range, |c| u64::from(c.len)).collect();
        }
        let mut batch = Vec::new();
        let mut bytes = 0u64;
        while bytes < BATCH_BYTES
            && let Some((chunk, range)) = self.pieces.pop_front()
        {
            bytes += range.end - range.start;
            batch.push((chunk, range));
        }
        let raw = self.core.chunks(batch.iter().map(|(c, _)| *c).collect(), self.tier()).await?;
        batch.iter().zip(raw).map(|((_, range), raw)| cut(&raw, range)).collect()
    }

    /// The tier that has the bytes too, if any.
    fn tier(&self) -> Option<String> {
        match &self.record.residency {
            Residency::Hot => None,
            Residency::Cold { tier } | Residency::Restored { tier, .. } => Some(tier.clone()),
        }
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

impl Core {
    /// What HEAD shows of a record.
    pub(crate) fn info(&self, bucket: &str, key: &str, record: &ObjectRecord) -> ObjectInfo {
        ObjectInfo {
            bucket: bucket.to_owned(),
            key: key.to_owned(),
            version: record.version,
            size: record.size,
            etag: record.etag.clone(),
            last_modified: record.modified,
            attributes: record.attributes.clone(),
            checksum: record.checksum.clone(),
            parts: record.parts.clone(),
            residency: record.residency.clone(),
            class_shown: self.class_shown(record),
            restore: restore_status(record),
        }
    }

    /// The class that S3 shows: of the tier that the version is in, else the declared one.
    pub(crate) fn class_shown(&self, record: &ObjectRecord) -> String {
        match &record.residency {
            Residency::Cold { tier } | Residency::Restored { tier, .. } => {
                let fallback = if self.tier_is_online(tier) { "STANDARD_IA" } else { "GLACIER" };
                self.classes.class_of(tier).unwrap_or(fallback).to_owned()
            }
            Residency::Hot => record.attributes.storage_class.clone().unwrap_or_else(|| "STANDARD".to_owned()),
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
        wanted: Vec<ChunkRef>,
        tier: Option<String>,
    ) -> Result<Vec<Bytes>, EngineError> {
        let core = Arc::clone(self);
        let task = tokio::task::spawn_blocking(move || {
            let found: Result<Vec<_>, _> = wanted.iter().map(|chunk| core.read_local(chunk)).collect();
            found.map(|found| (wanted, found))
        });
        let (wanted, found) = task.await.map_err(|e| EngineError::Internal(format!("read chunks: {e}")))??;
        if found.iter().all(Option::is_some) {
            return Ok(found.into_iter().flatten().collect());
        }
        let missing: Vec<ChunkRef> = wanted.iter().zip(&found).filter(|(_, f)| f.is_none()).map(|(c, _)| *c).collect();
        let fetched = self.recall(&missing, tier.as_deref()).await?;
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
        let raw = self.chunks(vec![ChunkRef { id: node.id, len }], tier).await?;
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
