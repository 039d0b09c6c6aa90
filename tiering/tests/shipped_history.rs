//! A store whose journal is another than what it had shipped: it must not go on in the cloud.

#![allow(clippy::unwrap_used, clippy::panic)] // helpers of tests, which clippy does not know as such

mod common;

use common::{Bed, list_all, put, shipped, until};
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Duration;
use tidegate_tiering::engine::{Engine, RecoveryStats};
use tidegate_tiering::meta::{MetaSettings, rebuild};
use tidegate_tiering::recovery::RecoverySettings;
use tidegate_tiering::tier::memory::{MemoryTier, Moment};
use tidegate_tiering::tier::{Tier, TierError, TierErrorKind};

fn stats(engine: &Engine) -> RecoveryStats {
    engine.stats().unwrap().recovery.unwrap()
}

fn last_segment(dir: &Path) -> PathBuf {
    let names = std::fs::read_dir(dir.join("journal")).unwrap().map(|e| e.unwrap().path());
    names.filter(|p| p.extension().is_some_and(|e| e == "seg")).max().unwrap()
}

async fn journal(tier: &MemoryTier) -> Vec<String> {
    let found = tier.list("meta/", None, 1000).await.unwrap();
    found.into_iter().map(|m| m.name).filter(|name| name.contains("/journal/")).collect()
}

#[tokio::test(flavor = "multi_thread")]
async fn a_journal_that_was_cut_behind_what_it_shipped_and_grew_again_is_fenced() {
    let (dir, tier) = (tempfile::tempdir().unwrap(), Arc::new(MemoryTier::new().unwrap()));
    let mut bed = Bed::new(dir.path(), Arc::clone(&tier) as _);
    bed.settings.recovery = Some(RecoverySettings { rpo: Duration::from_millis(20), ..RecoverySettings::to("ia") });
    let engine = bed.open().await;
    engine.create_bucket("bkt").await.unwrap();
    for n in 0..10 {
        put(&engine, &format!("k/{n}"), b"body").await.unwrap();
    }
    shipped(&engine).await;
    engine.shutdown().await.unwrap();
    let engine = bed.open().await;
    shipped(&engine).await;
    let position = stats(&engine).shipped_sequence;
    assert_eq!(engine.writes_refused(), None, "the same journal goes on");
    engine.shutdown().await.unwrap();

    let before = journal(&tier).await;
    // Damage near the end; what is before it is gone on with, while the cloud is away.
    let segment = last_segment(dir.path());
    let bytes = std::fs::read(&segment).unwrap();
    let ninth = bytes.windows(3).rposition(|w| w == b"k/7").unwrap();
    std::fs::write(&segment, &bytes[..ninth]).unwrap();
    rebuild(dir.path(), &MetaSettings::default(), bed.clock.as_ref(), &mut |_| {}).unwrap();
    let away = Arc::new(AtomicBool::new(true));
    let is_away = Arc::clone(&away);
    tier.set_hook(move |_, name, moment| {
        let fails = is_away.load(Ordering::SeqCst) && moment == Moment::Before;
        fails.then(|| TierError::plain(TierErrorKind::Unavailable, "any", name, "away"))
    });
    let engine = bed.open().await;
    assert!(list_all(&engine, 100).len() < 10, "acknowledged writes are lost, as the operator accepted");
    let mut n = 0;
    // Nothing is known of the cloud yet, so all counts as not shipped.
    while stats(&engine).lag_records <= position {
        put(&engine, &format!("new/{n}"), b"body").await.unwrap();
        n += 1;
    }
    away.store(false, Ordering::SeqCst);
    until("it is fenced", || stats(&engine).fenced.is_some()).await;
    let why = stats(&engine).fenced.unwrap();
    assert!(why.contains("another than the one that was shipped"), "{why}");
    assert!(put(&engine, "later", b"x").await.is_err());
    assert_eq!(journal(&tier).await, before, "it has shipped nothing");
    engine.shutdown().await.unwrap();
}
