//! Packs alone: disk, journal, snapshots and what was shipped are gone, and what was moved comes back.

#![allow(clippy::unwrap_used, clippy::panic)] // helpers of tests, which clippy does not know as such

mod back;
#[path = "../common/mod.rs"]
mod common;
mod odd;

use bytes::Bytes;
use common::{
    Bed, DAY, FrozenTier, body, copy, get, list_all, noise, put, put_class, put_parts, residency, seen, until,
};
use std::collections::{BTreeMap, BTreeSet};
use std::path::Path;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Duration;
use tidegate_tiering::chunk::{ChunkId, Codec};
use tidegate_tiering::engine::*;
use tidegate_tiering::meta::MetaSettings;
use tidegate_tiering::pack::format::FRAME_HEADER_LEN;
use tidegate_tiering::pack::{FrameKind, PackClass, PackHeader, PackId, PlannedFrame, RemotePackPlan};
use tidegate_tiering::recovery::{
    FromPacks, FromPacksReport, MissingObject, News, OddPack, RecoverRequest, RecoveryError, RecoverySettings, recover,
    recover_from_packs,
};
use tidegate_tiering::tier::memory::{MemoryTier, Moment};
use tidegate_tiering::tier::{Operation, Tier, TierError, TierErrorKind};

const IA: Option<&str> = Some("STANDARD_IA");
const ARCHIVE: Option<&str> = Some("GLACIER");

struct Clouds {
    ia: Arc<MemoryTier>,
    archive: Arc<MemoryTier>,
}

fn clouds() -> Clouds {
    Clouds { ia: Arc::new(MemoryTier::new().unwrap()), archive: Arc::new(MemoryTier::new().unwrap()) }
}

/// Small chunks and packs, so that little makes many.
fn bed(dir: &Path, clouds: &Clouds) -> Bed {
    let mut bed = Bed::new(dir, Arc::clone(&clouds.ia) as _);
    bed.others = BTreeMap::from([("archive".to_owned(), Arc::clone(&clouds.archive) as _)]);
    let settings = &mut bed.settings;
    settings.chunks.min = 1 << 10;
    settings.chunks.avg = 8 << 10;
    settings.chunks.max = 32 << 10;
    settings.limits.min_part_bytes = 0;
    settings.tiering.linger_ms = 0;
    settings.tiering.pack_bytes = 512 << 10;
    bed
}

async fn open(bed: &Bed) -> Engine {
    let engine = bed.open().await;
    if engine.buckets().unwrap().is_empty() {
        engine.create_bucket("bkt").await.unwrap();
    }
    engine
}

async fn is_cold(engine: &Engine, key: &str) {
    until(&format!("{key} is cold"), || matches!(residency(engine, key), Some(Residency::Cold { .. }))).await;
}

async fn put_cold(engine: &Engine, key: &str, bytes: &[u8], class: Option<&str>) {
    put_class(engine, key, bytes, class).await.unwrap();
    is_cold(engine, key).await;
}

/// Key to what clients see and the bytes.
async fn everything(engine: &Engine) -> BTreeMap<String, (String, Vec<u8>)> {
    let mut all = BTreeMap::new();
    for object in list_all(engine, 100) {
        let bytes = get(engine, &object.key).await.unwrap();
        all.insert(object.key.clone(), (seen(engine, &object.key), bytes));
    }
    all
}

struct Recovery<'a> {
    bed: &'a Bed,
    to: &'a Path,
    only: Vec<String>,
    dry_run: bool,
    thaw: bool,
    recovery: Option<String>,
}

type Outcome = (FromPacksReport, Vec<MissingObject>, Vec<OddPack>);

impl<'a> Recovery<'a> {
    fn new(bed: &'a Bed, to: &'a Path) -> Self {
        Self { bed, to, only: Vec::new(), dry_run: false, thaw: false, recovery: None }
    }

    async fn run(&self) -> Result<Outcome, RecoveryError> {
        let mut tiers = self.bed.others.clone();
        tiers.insert("ia".to_owned(), Arc::clone(&self.bed.tier));
        let request = FromPacks {
            tiers: &tiers,
            only: self.only.clone(),
            recovery: self.recovery.clone(),
            deployment: None,
            data_dir: self.to.to_owned(),
            dry_run: self.dry_run,
            thaw: self.thaw,
            settings: MetaSettings::default(),
            clock: Arc::clone(&self.bed.clock) as _,
        };
        let (mut missing, mut packs) = (Vec::new(), Vec::new());
        let mut tell = |news: News<'_>| match news {
            News::Progress(_) => {}
            News::Missing(object) => missing.push(object.clone()),
            News::Pack(pack) => packs.push(pack.clone()),
        };
        let report = recover_from_packs(&request, &mut tell).await?;
        Ok((report, missing, packs))
    }
}

async fn names(tier: &dyn Tier) -> BTreeSet<String> {
    tier.list("packs/", None, 10_000).await.unwrap().into_iter().map(|m| m.name).collect()
}

async fn collect(engine: &Engine) -> u64 {
    let doomed = engine.gc(GcRequest::default()).await.unwrap().remote_packs_doomed;
    until("what is doomed is deleted", || {
        let states = ["ia", "archive"].map(|tier| engine.tier_packs(tier, None, usize::MAX).unwrap());
        states.iter().flatten().all(|p| p.state == "live")
    })
    .await;
    doomed
}
