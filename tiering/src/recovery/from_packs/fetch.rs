//! The packs of the tiers, and the end of each: fetched once and kept, so that a recovery that is asked for again goes on.

use super::tail::{self, Read, Tail};
use super::{FromPacks, OddPack};
use crate::engine::transition::{folder, split_name};
use crate::pack::PackId;
use crate::pack::format::TRAILER_LEN;
use crate::recovery::{LIST_PAGE, RecoveryError, fetch_range, local};
use crate::tier::{RestorePriority, Tier, TierErrorKind};
use bytes::{Bytes, BytesMut};
use futures::StreamExt;
use std::path::{Path, PathBuf};

/// Packs asked at a time.
const SIDE_BY_SIDE: usize = 32;

/// Bytes of a pack's end that are asked for first: footer and manifests of most packs.
const FIRST: u64 = 256 << 10;

/// Days for which a pack that is asked for can be read.
const THAW_DAYS: u32 = 3;

/// A pack as it is listed.
#[derive(Debug, Clone)]
pub(super) struct Listed {
    pub tier: String,
    pub name: String,
    pub pack: PackId,
    pub size: u64,
    pub crc64: Option<u64>,
}

/// What became of asking a pack.
#[derive(Debug)]
pub(super) enum Asked {
    /// Its end is at hand.
    Here,
    /// It is an archive; true when it is being thawed.
    Archived(bool),
    /// It cannot be read at all.
    Odd(String),
}

/// The packs of a deployment in all tiers that are asked for, oldest first, and the latest epoch in any name.
pub(super) async fn packs(
    request: &FromPacks<'_>,
    deployment: &str,
    notes: &mut Vec<String>,
) -> Result<(Vec<Listed>, u64), RecoveryError> {
    let folder = folder(deployment);
    let (mut found, mut newest) = (Vec::new(), 0);
    for (name, tier) in request.tiers {
        let wanted = request.wants(name);
        let listed = match list_all(tier.as_ref(), &format!("{folder}/")).await {
            Ok(listed) => listed,
            // Only its epochs are of interest.
            Err(e) if !wanted => {
                notes.push(format!("tier {name}, which was left out, does not answer: {e}"));
                continue;
            }
            Err(e) => return Err(e),
        };
        for (pack_name, size, crc64) in listed {
            let Some((epoch, pack)) = split_name(&folder, &pack_name) else { continue };
            newest = newest.max(epoch);
            if wanted {
                found.push(Listed { tier: name.clone(), name: pack_name, pack, size, crc64 });
            }
        }
    }
    found.sort_by(|a, b| (a.pack, &a.tier).cmp(&(b.pack, &b.tier)));
    Ok((found, newest))
}

/// Names, sizes and checksums.
async fn list_all(tier: &dyn Tier, prefix: &str) -> Result<Vec<(String, u64, Option<u64>)>, RecoveryError> {
    let mut found: Vec<(String, u64, Option<u64>)> = Vec::new();
    loop {
        let page = tier.list(prefix, found.last().map(|(name, _, _)| name.as_str()), LIST_PAGE).await?;
        let full = page.len() >= LIST_PAGE;
        found.extend(page.into_iter().map(|meta| (meta.name, meta.size, meta.crc64)));
        if !full {
            return Ok(found);
        }
    }
}

/// The ends of packs that are at hand.
pub(super) struct Ends(PathBuf);

impl Ends {
    pub(super) fn new(folder: PathBuf, request: &FromPacks<'_>) -> Result<Self, RecoveryError> {
        for tier in request.tiers.keys().filter(|name| request.wants(name)) {
            let folder = folder.join(tier);
            std::fs::create_dir_all(&folder).map_err(|e| local("create", &folder, &e))?;
        }
        Ok(Self(folder))
    }

    fn path(&self, pack: &Listed) -> PathBuf {
        self.0.join(&pack.tier).join(pack.pack.to_string())
    }

    /// What a pack says, if it was fetched whole.
    pub(super) fn get(&self, pack: &Listed) -> Option<Tail> {
        let bytes = Bytes::from(std::fs::read(self.path(pack)).ok()?);
        match tail::read(pack.pack, pack.size, &bytes) {
            Ok(Read::Whole(tail)) => Some(tail),
            _ => None,
        }
    }

    /// Asks all packs; `each` hears what became of each, in no order.
    ///
    /// # Errors
    /// When a tier does not answer, or refuses.
    pub(super) async fn fetch(
        &self,
        request: &FromPacks<'_>,
        packs: &[Listed],
        mut each: impl FnMut(&Listed, Asked, u64),
    ) -> Result<(), RecoveryError> {
        let ask = |pack| async move { self.ask(request, pack).await.map(|(asked, bytes)| (pack, asked, bytes)) };
        let mut answers = futures::stream::iter(packs.iter().map(ask)).buffer_unordered(SIDE_BY_SIDE);
        while let Some(answer) = answers.next().await {
            let (pack, asked, bytes) = answer?;
            each(pack, asked, bytes);
        }
        Ok(())
    }

    async fn ask(&self, request: &FromPacks<'_>, pack: &Listed) -> Result<(Asked, u64), RecoveryError> {
        if self.get(pack).is_some() {
            return Ok((Asked::Here, 0));
        }
        let tier = request.tier(&pack.tier)?;
        let mut fetched = 0;
        let mut why = String::new();
        // What came wrong once may have been the transfer.
        for _ in 0..2 {
            match end(tier, pack, &mut fetched).await {
                Ok(bytes) => {
                    keep(&self.path(pack), &bytes)?;
                    return Ok((Asked::Here, fetched));
                }
                Err(RecoveryError::Tier(e)) if e.is_frozen() => {
                    let thaw = request.thaw && !request.dry_run;
                    if thaw {
                        tier.restore(&pack.name, THAW_DAYS, RestorePriority::Standard).await?;
                    }
                    return Ok((Asked::Archived(thaw), fetched));
                }
                Err(RecoveryError::Tier(e)) if e.is_not_found() => return Ok((Asked::Odd(e.to_string()), fetched)),
                Err(RecoveryError::Tier(e)) if e.kind() != TierErrorKind::Corrupt => return Err(e.into()),
                Err(e) => why = e.to_string(),
            }
        }
        Ok((Asked::Odd(why), fetched))
    }
}

/// The end of a pack, no more of it than is needed, verified.
async fn end(tier: &dyn Tier, pack: &Listed, fetched: &mut u64) -> Result<Bytes, RecoveryError> {
    let mut from = pack.size.saturating_sub(FIRST);
    if pack.size < TRAILER_LEN as u64 {
        return Err(RecoveryError::Damaged(format!("{} bytes are no pack", pack.size)));
    }
    let mut bytes = fetch_range(tier, &pack.name, from..pack.size).await?;
    loop {
        *fetched += bytes.len() as u64;
        match tail::read(pack.pack, pack.size, &bytes).map_err(|e| RecoveryError::Damaged(e.to_string()))? {
            Read::Whole(tail) => {
                let skip = usize::try_from(tail.from.saturating_sub(from)).unwrap_or(0);
                return Ok(bytes.slice(skip.min(bytes.len())..));
            }
            // Each step is strictly further in front.
            Read::From(at) => {
                let front = fetch_range(tier, &pack.name, at..from).await?;
                let mut whole = BytesMut::with_capacity(front.len() + bytes.len());
                whole.extend_from_slice(&front);
                whole.extend_from_slice(&bytes);
                *fetched -= bytes.len() as u64;
                (from, bytes) = (at, whole.freeze());
            }
        }
    }
}

/// Keeps what was fetched. It need not be durable: whoever reads it verifies it.
fn keep(path: &Path, bytes: &[u8]) -> Result<(), RecoveryError> {
    let tmp = path.with_extension("tmp");
    std::fs::write(&tmp, bytes).map_err(|e| local("write", &tmp, &e))?;
    std::fs::rename(&tmp, path).map_err(|e| local("rename", &tmp, &e))
}

impl Listed {
    pub(super) fn odd(&self, why: impl Into<String>) -> OddPack {
        OddPack { tier: self.tier.clone(), name: self.name.clone(), bytes: self.size, why: why.into() }
    }
}
