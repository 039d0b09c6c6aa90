//! How chunks are read back from the tiers: by ranges of packs, neighbours in one request, one
//! request for all who want the same chunk at the same time, every frame verified.

use super::Core;
use super::body::ChunkRef;
use super::error::EngineError;
use super::remote_index::Located;
use super::settings::Recall;
use crate::chunk::{ChunkId, Codec};
use crate::mutants::{self, Mutant};
use crate::pack::Frame;
use crate::pack::PackClass;
use crate::pack::format::{FRAME_HEADER_LEN, decode_frame};
use crate::tier::{TierError, TierErrorKind};
use bytes::{Bytes, BytesMut};
use futures::future::{BoxFuture, Shared};
use futures::{FutureExt, StreamExt};
use std::collections::{BTreeMap, HashMap};
use std::sync::{Arc, Mutex, PoisonError};

/// What the readers of one ranged request share.
type Fetch = Shared<BoxFuture<'static, Result<Arc<HashMap<ChunkId, Arc<Frame>>>, Arc<EngineError>>>>;

/// Requests on their way, by tier and chunk.
#[derive(Default)]
pub(crate) struct InFlight(Mutex<HashMap<(String, ChunkId), Fetch>>);

/// Takes a request's chunks out of the table when it ends, however it ends: one that stayed there would be the answer to
/// every later reader.
struct Leaving {
    core: Arc<Core>,
    ids: Vec<(String, ChunkId)>,
}

impl Drop for Leaving {
    fn drop(&mut self) {
        let mut inflight = self.core.inflight.0.lock().unwrap_or_else(PoisonError::into_inner);
        self.ids.iter().for_each(|id| drop(inflight.remove(id)));
    }
}

/// Neighbouring frames of one pack, read by one request.
struct Span {
    name: Arc<str>,
    frames: Vec<(ChunkRef, Located)>,
}

impl Span {
    fn start(&self) -> u64 {
        self.frames.first().map_or(0, |(_, at)| u64::from(at.offset))
    }

    fn end(&self) -> u64 {
        self.frames.last().map_or(0, |(_, at)| frame_end(at))
    }
}

fn frame_end(at: &Located) -> u64 {
    u64::from(at.offset) + FRAME_HEADER_LEN as u64 + u64::from(at.stored_len)
}

impl Core {
    /// Raw chunks from `tier` (or, when it is None or lacks one, from any tier, online ones first). They are kept locally as
    /// cache when `keep` or the setting says so, but never by a standby, which writes nothing into local packs.
    pub(crate) async fn recall(
        self: &Arc<Self>,
        wanted: &[ChunkRef],
        tier: Option<&str>,
        keep: bool,
    ) -> Result<HashMap<ChunkId, Bytes>, EngineError> {
        let keep = self.follow.is_none() && (keep || self.settings.tiering.recall == Recall::Promote);
        let frames = self.recall_frames(wanted, tier, keep).await?;
        frames
            .into_iter()
            .map(|(id, frame)| {
                let raw = frame.verify(&id).map_err(|e| EngineError::Corrupt(format!("recalled chunk {id}: {e}")))?;
                Ok((id, raw))
            })
            .collect()
    }

    /// Frames from the tiers, verified. With `keep`, they are stored locally as cache.
    pub(crate) async fn recall_frames(
        self: &Arc<Self>,
        wanted: &[ChunkRef],
        tier: Option<&str>,
        keep: bool,
    ) -> Result<HashMap<ChunkId, Arc<Frame>>, EngineError> {
        let mut by_tier: BTreeMap<String, Vec<(ChunkRef, Located)>> = BTreeMap::new();
        for chunk in wanted {
            let (name, at) = self.find_remote(&chunk.id, tier)?;
            by_tier.entry(name).or_default().push((*chunk, at));
        }
        let mut fetches = Vec::new();
        for (name, places) in by_tier {
            fetches.extend(self.join_fetches(&name, places, keep));
        }
        let mut out = HashMap::with_capacity(wanted.len());
        for fetch in fetches {
            let frames = fetch.await.map_err(|e| share_error(&e))?;
            out.extend(frames.iter().map(|(id, frame)| (*id, Arc::clone(frame))));
        }
        Ok(out)
    }

    fn find_remote(&self, id: &ChunkId, tier: Option<&str>) -> Result<(String, Located), EngineError> {
        if let Some(tier) = tier
            && let Some(at) = self.remote.locate(tier, id)
        {
            return Ok((tier.to_owned(), at));
        }
        self.tiers_to_ask(id)
            .into_iter()
            .find_map(|name| self.remote.locate(&name, id).map(|at| (name, at)))
            .ok_or_else(|| EngineError::Corrupt(format!("chunk {id} is neither in a local pack nor in a tier")))
    }

    /// Tiers that have a chunk. An archive is the last resort: it answers once the pack has been thawed.
    pub(super) fn tiers_to_ask(&self, id: &ChunkId) -> Vec<String> {
        let (mut online, archives): (Vec<_>, Vec<_>) =
            self.remote.tiers_with(id).into_iter().partition(|name| self.tier_is_online(name));
        online.extend(archives);
        online
    }

    /// Joins requests that are on their way and starts the missing ones.
    fn join_fetches(self: &Arc<Self>, tier: &str, mut places: Vec<(ChunkRef, Located)>, keep: bool) -> Vec<Fetch> {
        let mut fetches = Vec::new();
        let mut inflight = self.inflight.0.lock().unwrap_or_else(PoisonError::into_inner);
        places.retain(|(chunk, _)| match inflight.get(&(tier.to_owned(), chunk.id)) {
            Some(running) => {
                fetches.push(running.clone());
                false
            }
            None => true,
        });
        for span in spans(places, self.settings.tiering.coalesce_gap, self.settings.tiering.coalesce_max) {
            let ids: Vec<_> = span.frames.iter().map(|(c, _)| (tier.to_owned(), c.id)).collect();
            let name = tier.to_owned();
            let leaving = Leaving { core: Arc::clone(self), ids: ids.clone() };
            // Spawned, so that it ends (and leaves the table) even when every reader has gone.
            let task = self.runtime.spawn(async move {
                let result = leaving.core.fetch_span(&name, &span, keep).await;
                result.map(Arc::new).map_err(Arc::new)
            });
            let fetch: Fetch = async move {
                task.await.unwrap_or_else(|e| Err(Arc::new(EngineError::Internal(format!("fetch: {e}")))))
            }
            .boxed()
            .shared();
            for id in ids {
                inflight.insert(id, fetch.clone());
            }
            fetches.push(fetch);
        }
        fetches
    }

    /// One ranged request; every frame verified. A damaged answer is asked for once more: the transfer may be to blame.
    async fn fetch_span(
        self: &Arc<Self>,
        tier: &str,
        span: &Span,
        keep: bool,
    ) -> Result<HashMap<ChunkId, Arc<Frame>>, EngineError> {
        let mut last = None;
        for _ in 0..2 {
            let bytes = self.read_range(tier, &span.name, span.start()..span.end()).await?;
            match decode_span(span, &bytes) {
                Ok(frames) => {
                    self.metrics.recalled_bytes.inc_by(bytes.len() as u64);
                    if keep && self.has_room_to_recall(bytes.len() as u64) {
                        self.keep_frames(&frames).await;
                    }
                    return Ok(frames);
                }
                Err(e) => {
                    tracing::warn!(tier, pack = %span.name, error = %e, "a recalled range is damaged");
                    last = Some(e);
                }
            }
        }
        Err(last.unwrap_or_else(|| EngineError::Internal("no attempt was made".into())))
    }

    async fn read_range(&self, tier: &str, name: &str, range: std::ops::Range<u64>) -> Result<Bytes, EngineError> {
        let failed = |source| EngineError::Tier { tier: tier.to_owned(), source };
        let remote = self.tier(tier)?;
        let length = usize::try_from(range.end - range.start)
            .map_err(|_| EngineError::Internal("a range larger than memory".into()))?;
        let mut stream = remote.get(name, range).await.map_err(failed)?;
        let mut joined = BytesMut::with_capacity(length);
        while let Some(piece) = stream.next().await {
            let piece = piece.map_err(failed)?;
            if joined.len() + piece.len() > length {
                break;
            }
            joined.extend_from_slice(&piece);
        }
        if joined.len() != length {
            let message = format!("{} of {length} bytes came", joined.len());
            return Err(failed(TierError::plain(TierErrorKind::Corrupt, "get", name, message)));
        }
        Ok(joined.freeze())
    }

    /// Stores recalled frames as cache. Without room they are simply not kept: the read goes on.
    pub(crate) async fn keep_frames(self: &Arc<Self>, frames: &HashMap<ChunkId, Arc<Frame>>) {
        let core = Arc::clone(self);
        let frames: Vec<_> = frames.iter().map(|(id, frame)| (*id, Arc::clone(frame))).collect();
        let kept = tokio::task::spawn_blocking(move || {
            let mut session = core.local.begin();
            frames.iter().try_for_each(|(id, frame)| session.put_frame(*id, frame, PackClass::Cache).map(drop))
        });
        match kept.await {
            Ok(Ok(())) => {}
            Ok(Err(e)) => tracing::debug!(error = %e, "recalled chunks are not kept"),
            Err(e) => tracing::warn!(error = %e, "keep recalled chunks"),
        }
    }
}

/// Groups places into ranges of one pack each.
fn spans(mut places: Vec<(ChunkRef, Located)>, gap: u64, max: u64) -> Vec<Span> {
    places.sort_by_key(|(_, at)| (at.pack, at.offset));
    places.dedup_by_key(|(chunk, _)| chunk.id);
    let mut out: Vec<Span> = Vec::new();
    for (chunk, at) in places {
        if let Some(span) = out.last_mut()
            && span.name == at.name
            && u64::from(at.offset) <= span.end() + gap
            && frame_end(&at) - span.start() <= max
        {
            span.frames.push((chunk, at));
        } else {
            out.push(Span { name: Arc::clone(&at.name), frames: vec![(chunk, at)] });
        }
    }
    out
}

fn decode_span(span: &Span, bytes: &Bytes) -> Result<HashMap<ChunkId, Arc<Frame>>, EngineError> {
    let corrupt = |id: &ChunkId, e: &dyn std::fmt::Display| EngineError::Corrupt(format!("recalled chunk {id}: {e}"));
    span.frames
        .iter()
        .map(|(chunk, at)| {
            let start = u64::from(at.offset) - span.start();
            let end = frame_end(at) - span.start();
            let (Ok(start), Ok(end)) = (usize::try_from(start), usize::try_from(end)) else {
                return Err(corrupt(&chunk.id, &"a frame larger than memory"));
            };
            let (header, frame) = decode_frame(&bytes.slice(start..end)).map_err(|e| corrupt(&chunk.id, &e))?;
            if header.id != chunk.id {
                return Err(corrupt(&chunk.id, &"another chunk stands in its place"));
            }
            if !mutants::active(Mutant::TrustTier) {
                frame.verify(&chunk.id).map_err(|e| corrupt(&chunk.id, &e))?;
            }
            Ok((chunk.id, Arc::new(frame)))
        })
        .collect()
}

/// An error for each of those who shared a request.
fn share_error(error: &EngineError) -> EngineError {
    match error {
        EngineError::Tier { tier, source } => {
            EngineError::Tier { tier: tier.clone(), source: TierError::new(source.kind(), source.details().clone()) }
        }
        EngineError::Corrupt(what) => EngineError::Corrupt(what.clone()),
        EngineError::Unavailable(why) => EngineError::Unavailable(why.clone()),
        EngineError::SlowDown(why) => EngineError::SlowDown(why.clone()),
        other => EngineError::Internal(other.to_string()),
    }
}

/// Stored length says the codec: zstd is kept only when it saves something.
pub(crate) fn codec_of(raw_len: u32, stored_len: u32) -> Codec {
    if raw_len == stored_len { Codec::Raw } else { Codec::Zstd }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::pack::PackId;

    fn at(pack: u8, offset: u32) -> (ChunkRef, Located) {
        let chunk = ChunkRef { id: ChunkId::of(&[pack, (offset % 251) as u8, (offset / 251) as u8]), len: 100 };
        let name: Arc<str> = format!("p{pack}").into();
        (chunk, Located { pack: PackId([pack; 16]), name, offset, stored_len: 100 })
    }

    #[test]
    fn neighbours_are_read_by_one_request_and_distant_frames_by_another() {
        let spans = spans(vec![at(2, 40), at(1, 5_000), at(1, 40), at(1, 192)], 64, 4096);
        let shape: Vec<_> = spans.iter().map(|s| (s.name.to_string(), s.frames.len(), s.start(), s.end())).collect();
        assert_eq!(
            shape,
            vec![("p1".to_owned(), 2, 40, 344), ("p1".to_owned(), 1, 5_000, 5_152), ("p2".to_owned(), 1, 40, 192)]
        );
    }
}
