//! From a request body to durable-to-be chunks: cut, BLAKE3, look up, compress, append; MD5 and checksums alongside.
//! Nothing here is visible before the caller commits a record that refers to it; a body that ends early leaves only
//! unreferenced chunks, which the next mark reclaims.

use super::Core;
use super::body::{BodyBuilder, BodyRef, ChunkRef};
use super::cipher::Sealer;
use super::digest::{BodyDigest, Md5Of, Verified};
use super::error::EngineError;
use super::types::{BodyError, BodyExpectation, BodyIn};
use crate::chunk::{ChunkId, Cutter};
use crate::local::Ingest;
use crate::pack::FrameKind;
use bytes::{Bytes, BytesMut};
use futures::StreamExt;
use md5::Md5;
use std::cell::RefCell;
use std::rc::Rc;
use std::sync::Arc;
use tokio_util::sync::CancellationToken;

/// A body that is in packs and verified, but referred to by nothing yet. Its chunks stay pinned as long as `pins` lives:
/// give it to the batch that refers to them, which outlives a caller that is cancelled.
pub(crate) struct Ingested {
    pub body: BodyRef,
    pub verified: Verified,
    /// MD5 of the body, or what stands for it when the body was encrypted.
    pub etag: [u8; 16],
    pub pins: Arc<Ingest>,
}

/// Bodies up to this size (bytes) are collected and ingested on the caller's thread: cheaper than a hop.
const SMALL_BODY: u64 = 256 * 1024;

/// Ingests a body of at most `limit` bytes; with a sealer, encrypted.
pub(crate) async fn ingest(
    core: &Arc<Core>,
    expect: BodyExpectation,
    limit: u64,
    sealer: Option<Sealer>,
    body: BodyIn,
) -> Result<Ingested, EngineError> {
    match expect.length {
        Some(length) if length > limit => Err(EngineError::TooLarge { size: length, limit }),
        Some(length) if length <= SMALL_BODY => {
            let bytes = collect(body, length).await?;
            let mut pipeline = Pipeline::new(core, BodyDigest::new(expect, Md5Of::Here(Md5::default())), limit);
            pipeline.sealer = sealer;
            pipeline.push(bytes)?;
            pipeline.finish()
        }
        _ => ingest_streaming(core, expect, limit, sealer, body).await,
    }
}

async fn collect(mut body: BodyIn, length: u64) -> Result<Bytes, EngineError> {
    let mut first: Option<Bytes> = None;
    let mut joined = BytesMut::new();
    while let Some(piece) = body.next().await {
        let piece = piece?;
        match (&first, joined.is_empty()) {
            (None, true) => first = Some(piece),
            _ => {
                if let Some(head) = first.take() {
                    joined.reserve(usize::try_from(length).unwrap_or(0));
                    joined.extend_from_slice(&head);
                }
                joined.extend_from_slice(&piece);
            }
        }
        let have = first.as_ref().map_or(joined.len(), Bytes::len) as u64;
        if have > length {
            return Err(BodyError::Malformed(format!("more than the announced {length} bytes came")).into());
        }
    }
    Ok(first.unwrap_or_else(|| joined.freeze()))
}

/// Takes the body piece by piece on a blocking thread, which asks the stream itself: a channel between the two would only
/// add a hop and a queue. The stream ends with an error when the body is cut; the announced length is the second check. When
/// the caller is dropped, the thread stops at the next piece.
async fn ingest_streaming(
    core: &Arc<Core>,
    expect: BodyExpectation,
    limit: u64,
    sealer: Option<Sealer>,
    mut body: BodyIn,
) -> Result<Ingested, EngineError> {
    let core = Arc::clone(core);
    let runtime = core.runtime.clone();
    let gone = CancellationToken::new();
    let _guard = gone.clone().drop_guard();
    let worker = tokio::task::spawn_blocking(move || {
        let digest = BodyDigest::new(expect, Md5Of::Beside(core.md5.begin()));
        let mut pipeline = Pipeline::new(&core, digest, limit);
        pipeline.sealer = sealer;
        // A body of a client ends with its connection; one of ours (a copy of a cold object) would be read to its end.
        let mut next = async || match gone.run_until_cancelled(body.next()).await {
            Some(piece) => Ok(piece),
            None => Err(EngineError::Internal("ingest a body: nobody waits for it any more".into())),
        };
        while let Some(piece) = runtime.block_on(next())? {
            pipeline.push(piece?)?;
        }
        pipeline.finish()
    });
    worker.await.map_err(|e| EngineError::Internal(format!("ingest a body: {e}")))?
}

/// Ingests bytes that are at hand (nodes of a completed upload, recalled bodies).
pub(crate) struct Pipeline {
    cutter: Cutter,
    digest: BodyDigest,
    sealer: Option<Sealer>,
    sink: Sink,
    limit: u64,
    seen: u64,
}

struct Sink {
    session: Rc<RefCell<Ingest>>,
    #[allow(clippy::type_complexity)]
    builder: BodyBuilder<Box<dyn FnMut(Vec<u8>) -> Result<ChunkId, EngineError>>>,
}

impl Sink {
    fn new(core: &Arc<Core>) -> Self {
        let session = Rc::new(RefCell::new(core.local.begin()));
        let for_nodes = Rc::clone(&session);
        let builder = BodyBuilder::new(Box::new(move |node: Vec<u8>| put_node(&mut for_nodes.borrow_mut(), node)) as _);
        Self { session, builder }
    }

    fn chunk(&mut self, raw: &Bytes) -> Result<(), EngineError> {
        let id = ChunkId::of(raw);
        self.session.borrow_mut().put(FrameKind::Chunk, id, raw)?;
        let len =
            u32::try_from(raw.len()).map_err(|_| EngineError::Internal(format!("a chunk of {} bytes", raw.len())))?;
        self.builder.chunk(ChunkRef { id, len })
    }

    fn finish(self) -> Result<(BodyRef, Ingest), EngineError> {
        let body = self.builder.finish()?;
        let session = Rc::into_inner(self.session)
            .ok_or_else(|| EngineError::Internal("an ingest session is still shared".into()))?;
        Ok((body, session.into_inner()))
    }
}

/// Stores one node of a manifest.
pub(crate) fn put_node(session: &mut Ingest, node: Vec<u8>) -> Result<ChunkId, EngineError> {
    let raw = Bytes::from(node);
    let id = ChunkId::of(&raw);
    session.put(FrameKind::ManifestNode, id, &raw)?;
    Ok(id)
}

impl Pipeline {
    pub(crate) fn new(core: &Arc<Core>, digest: BodyDigest, limit: u64) -> Self {
        Self { cutter: Cutter::new(&core.settings.chunks), digest, sealer: None, sink: Sink::new(core), limit, seen: 0 }
    }

    pub(crate) fn push(&mut self, bytes: Bytes) -> Result<(), EngineError> {
        self.seen = self.seen.saturating_add(bytes.len() as u64);
        if self.seen > self.limit {
            return Err(EngineError::TooLarge { size: self.seen, limit: self.limit });
        }
        self.digest.update(&bytes);
        self.cutter.push(match &mut self.sealer {
            None => bytes,
            Some(sealer) => sealer.seal(&bytes)?,
        });
        while let Some(raw) = self.cutter.next_chunk() {
            self.sink.chunk(&raw)?;
        }
        Ok(())
    }

    pub(crate) fn finish(mut self) -> Result<Ingested, EngineError> {
        if let Some(raw) = self.cutter.finish() {
            self.sink.chunk(&raw)?;
        }
        let verified = self.digest.verify()?;
        let (body, pins) = self.sink.finish()?;
        let etag = self.sealer.map_or(verified.md5, |sealer| sealer.etag(&verified.md5));
        Ok(Ingested { body, verified, etag, pins: Arc::new(pins) })
    }
}

/// Joins the bodies of parts, writing the nodes that the joint list needs. The returned session pins those nodes.
pub(crate) fn join_bodies(core: &Arc<Core>, bodies: &[BodyRef]) -> Result<(BodyRef, Ingest), EngineError> {
    let mut sink = Sink::new(core);
    bodies.iter().try_for_each(|body| sink.builder.body(body))?;
    sink.finish()
}
