//! What is damaged, half done or in the way when a namespace is recovered from the cloud.

#![allow(clippy::unwrap_used, clippy::panic)] // helpers of tests, which clippy does not know as such

mod common;

use common::{Bed, DAY, T0, copy_all, list_all, noise, put, residency, shipped, until};
use std::collections::BTreeMap;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::Duration;
use tempfile::TempDir;
use tidegate_tiering::clock::{Clock as _, Timestamp};
use tidegate_tiering::engine::Residency;
use tidegate_tiering::meta::MetaSettings;
use tidegate_tiering::recovery::{RecoverReport, RecoverRequest, RecoveryError, RecoverySettings, recover};
use tidegate_tiering::tier::memory::{MemoryTier, Moment};
use tidegate_tiering::tier::object::{DirectorySettings, ObjectTier};
use tidegate_tiering::tier::{Operation, Tier, TierError, TierErrorKind, TierMetrics};

struct World {
    _store: TempDir,
    tier: TempDir,
    bed: Bed,
    /// When the n-th object was there and the next one was not.
    moments: Vec<Timestamp>,
}

/// The last one comes after the last snapshot.
const OBJECTS: usize = 13;

impl World {
    /// A store that has shipped an object a piece, a second apart, and a snapshot after every fourth.
    async fn new() -> World {
        let (store, tier) = (tempfile::tempdir().unwrap(), tempfile::tempdir().unwrap());
        let place = DirectorySettings { path: tier.path().to_owned() };
        let directory = ObjectTier::directory("ia", &place, TierMetrics::new("ia", None).unwrap()).unwrap();
        let mut bed = Bed::new(store.path(), Arc::new(directory));
        let rpo = Duration::from_millis(20);
        bed.settings.recovery =
            Some(RecoverySettings { rpo, keep: DAY * 7, snapshot_after_objects: 3, ..RecoverySettings::to("ia") });
        let engine = bed.open().await;
        engine.create_bucket("bkt").await.unwrap();
        let mut moments = Vec::new();
        for n in 0..OBJECTS {
            bed.clock.advance(Duration::from_secs(1));
            put(&engine, &format!("k/{n:02}"), b"body").await.unwrap();
            shipped(&engine).await;
            moments.push(bed.clock.now());
            if n % 4 == 3 {
                let snapshots = || files(tier.path(), "snapshots");
                until("a snapshot", || snapshots().len() > n / 4).await;
                // What is shipped before the store knows of it counts for the next one no more.
                let kept = || bed.metric("tidegate_recovery_last_snapshot_timestamp_seconds", None) as u64;
                until("it is known", || kept() >= number(snapshots().last().unwrap(), 2) / 1_000).await;
            }
        }
        engine.shutdown().await.unwrap();
        World { _store: store, tier, bed, moments }
    }

    fn files(&self, kind: &str) -> Vec<PathBuf> {
        files(self.tier.path(), kind)
    }

    async fn recover(&self, to: &Path, at: Option<Timestamp>, dry_run: bool) -> Result<RecoverReport, RecoveryError> {
        recovered(&self.bed, to, at, dry_run).await
    }

    /// The moment that an error names as the way out.
    fn moment_of(&self, error: &str) -> Timestamp {
        let text = error.split("recover --at ").nth(1).unwrap().split('`').next().unwrap();
        let moments = self.moments.iter().chain([&T0]).flat_map(|m| [m.millis(), m.millis() - 1]).map(Timestamp);
        moments.into_iter().find(|at| at.to_string() == text).unwrap()
    }

    /// How many objects a recovery into a new directory brings back.
    async fn back(&self, at: Option<Timestamp>) -> Result<u64, RecoveryError> {
        let to = tempfile::tempdir().unwrap();
        Ok(self.recover(to.path(), at, true).await?.found.objects)
    }
}

async fn recovered(bed: &Bed, to: &Path, at: Option<Timestamp>, dry_run: bool) -> Result<RecoverReport, RecoveryError> {
    let tiers: BTreeMap<String, Arc<dyn Tier>> = [("ia".to_owned(), Arc::clone(&bed.tier))].into();
    let request = RecoverRequest {
        from: "ia".into(),
        tiers: &tiers,
        deployment: None,
        data_dir: to.to_owned(),
        at,
        dry_run,
        settings: MetaSettings::default(),
        clock: Arc::clone(&bed.clock) as _,
    };
    recover(&request, &mut |_| {}, &mut |_| {}).await
}

/// The shipped files of a kind, in the order of their records.
fn files(tier: &Path, kind: &str) -> Vec<PathBuf> {
    let mut found = Vec::new();
    let mut folders = vec![tier.to_owned()];
    while let Some(folder) = folders.pop() {
        for path in std::fs::read_dir(folder).into_iter().flatten().map(|entry| entry.unwrap().path()) {
            let name = path.to_str().unwrap();
            if path.is_dir() {
                folders.push(path);
            } else if name.contains(&format!("/{kind}/")) && !name.contains('#') {
                found.push(path);
            }
        }
    }
    found.sort();
    found
}

fn flip(path: &Path) {
    let mut bytes = std::fs::read(path).unwrap();
    let middle = bytes.len() / 2;
    bytes[middle] ^= 0x10;
    std::fs::write(path, bytes).unwrap();
}

/// The name of a shipped file: of a snapshot, the folder with its parts.
fn name(path: &Path) -> &str {
    let of = if path.extension().is_some_and(|e| e == "snap") { path.parent().unwrap() } else { path };
    of.file_name().unwrap().to_str().unwrap()
}

/// The n-th number in such a name.
fn number(path: &Path, nth: usize) -> u64 {
    name(path).split('-').nth(nth).unwrap().parse().unwrap()
}

#[tokio::test(flavor = "multi_thread")]
async fn damaged_snapshots_are_passed_over_for_older_ones_or_the_journal() {
    let world = World::new().await;
    let snapshots = world.files("snapshots");
    assert!(snapshots.len() >= 3, "{snapshots:?}");
    flip(snapshots.last().unwrap());
    let to = tempfile::tempdir().unwrap();
    let report = world.recover(to.path(), None, true).await.unwrap();
    assert_eq!(report.found.objects, OBJECTS as u64);
    let damaged = name(snapshots.last().unwrap());
    assert!(matches!(report.notes.as_slice(), [note] if note.contains(damaged)), "{:?}", report.notes);
    for file in &snapshots[..snapshots.len() - 1] {
        flip(file);
    }
    let to = to.path().join("new");
    let report = world.recover(&to, None, false).await.unwrap();
    assert_eq!((report.found.objects, report.notes.len(), report.snapshot), (OBJECTS as u64, snapshots.len(), None));
    let engine = Bed::new(&to, Arc::clone(&world.bed.tier)).open().await;
    assert_eq!(list_all(&engine, 100).len(), OBJECTS);
    engine.shutdown().await.unwrap();
}

#[tokio::test(flavor = "multi_thread")]
async fn a_damaged_piece_is_named_with_the_moment_that_can_be_had_without_it() {
    let world = World::new().await;
    let pieces = world.files("journal");
    for snapshot in world.files("snapshots") {
        if number(&snapshot, 1) >= number(pieces.last().unwrap(), 0) {
            std::fs::remove_file(snapshot).unwrap();
        }
    }
    flip(pieces.last().unwrap());
    for dry_run in [true, false] {
        let to = tempfile::tempdir().unwrap();
        let error = world.recover(to.path(), None, dry_run).await.unwrap_err().to_string();
        assert!(error.contains(name(pieces.last().unwrap())), "{error}");
        let at = world.moment_of(&error);
        let without = world.recover(&to.path().join("new"), Some(at), true).await.unwrap();
        assert!(without.until <= at, "{without:?}");
        let back = without.found.objects;
        assert!(back >= OBJECTS as u64 - 2, "{back} with --at {at}");
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_snapshot_that_nothing_replaces_is_named_with_the_way_out() {
    let world = World::new().await;
    // As when the tier was away for so long that part of the journal was given up for a snapshot.
    let snapshots = world.files("snapshots");
    let (first, bridge) = (&snapshots[0], &snapshots[snapshots.len() - 2]);
    for other in snapshots.iter().filter(|file| *file != first && *file != bridge) {
        std::fs::remove_file(other).unwrap();
    }
    let gap = number(first, 0) + 3..=number(bridge, 0);
    for piece in world.files("journal").iter().filter(|piece| gap.contains(&number(piece, 1))) {
        std::fs::remove_file(piece).unwrap();
    }
    assert_eq!(world.back(None).await.unwrap(), OBJECTS as u64);
    flip(bridge);
    let error = world.back(None).await.unwrap_err().to_string();
    assert!(error.contains("/snapshots/"), "{error}");
    let back = world.back(Some(world.moment_of(&error))).await.unwrap();
    assert!(back < OBJECTS as u64, "{back}");
}

#[tokio::test(flavor = "multi_thread")]
async fn moments_are_exact_and_those_before_the_first_are_refused() {
    let world = World::new().await;
    for (n, at) in world.moments.iter().enumerate() {
        assert_eq!(world.back(Some(*at)).await.unwrap(), n as u64 + 1, "{at}");
    }
    assert_eq!(world.back(Some(T0.plus(DAY * 100))).await.unwrap(), OBJECTS as u64, "the future is the latest");
    // What is before a snapshot is not there any more.
    let first = world.files("snapshots")[0].clone();
    for piece in world.files("journal") {
        if number(&piece, 0) <= number(&first, 0) {
            std::fs::remove_file(piece).unwrap();
        }
    }
    let to = tempfile::tempdir().unwrap();
    let target = to.path().join("new");
    let error = world.recover(&target, Some(Timestamp(T0.millis() - 1)), false).await.unwrap_err();
    assert!(matches!(error, RecoveryError::Refused(_)) && error.to_string().contains("earliest"), "{error}");
    assert_eq!(world.files("terms").len(), 1, "nobody is fenced for nothing");
}

#[tokio::test(flavor = "multi_thread")]
async fn a_recovery_that_was_killed_between_snapshot_and_journal_goes_on() {
    let world = World::new().await;
    let whole = tempfile::tempdir().unwrap();
    world.recover(whole.path(), None, false).await.unwrap();
    // The claim is made and the snapshot is in place, and the journal is not.
    let hidden = tempfile::tempdir().unwrap();
    for piece in world.files("journal") {
        flip(&piece);
    }
    world.recover(hidden.path(), None, false).await.unwrap_err();
    for piece in world.files("journal") {
        flip(&piece);
    }
    assert!(hidden.path().join("recover.json").exists());
    std::fs::create_dir(hidden.path().join("snapshots")).unwrap();
    copy_all(&whole.path().join("snapshots"), &hidden.path().join("snapshots"));
    let report = world.recover(hidden.path(), None, false).await.unwrap();
    assert_eq!(report.found.objects, OBJECTS as u64);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_dry_run_touches_nothing_that_is_there() {
    let world = World::new().await;
    let to = tempfile::tempdir().unwrap();
    let target = to.path().join("data");
    let theirs = to.path().join("data.dry-run");
    std::fs::create_dir(&theirs).unwrap();
    std::fs::write(theirs.join("precious"), b"p").unwrap();
    let error = world.recover(&target, None, true).await.unwrap_err();
    assert!(error.to_string().contains("data.dry-run is not empty"), "{error}");
    assert_eq!(std::fs::read(theirs.join("precious")).unwrap(), b"p");
    std::fs::remove_dir_all(&theirs).unwrap();
    // Parents that are missing are not made.
    world.recover(&to.path().join("a/b/c"), None, true).await.unwrap();
    assert_eq!(std::fs::read_dir(to.path()).unwrap().count(), 0);
    std::fs::write(&target, b"a file").unwrap();
    let error = world.recover(&target, None, false).await.unwrap_err();
    assert!(error.to_string().contains("is no directory"), "{error}");
}

#[tokio::test(flavor = "multi_thread")]
async fn two_recoveries_do_not_work_in_one_directory() {
    let world = World::new().await;
    for dry_run in [false, true] {
        let to = tempfile::tempdir().unwrap();
        let target = to.path().join("new");
        let (one, two) = tokio::join!(world.recover(&target, None, dry_run), world.recover(&target, None, dry_run));
        let (good, bad): (Vec<_>, Vec<_>) = [one, two].into_iter().partition(Result::is_ok);
        // They may come one after the other.
        for error in bad.into_iter().filter_map(Result::err) {
            assert!(
                error.to_string().contains("another `tidegate recover`") || error.to_string().contains("not empty"),
                "{error}"
            );
        }
        assert!(!good.is_empty());
        assert!(good.into_iter().flatten().all(|report| report.found.objects == OBJECTS as u64));
        assert!(!target.join("recover.lock").exists());
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_tier_without_its_packs_or_without_an_answer_is_named() {
    let (store, tier) = (tempfile::tempdir().unwrap(), Arc::new(MemoryTier::new().unwrap()));
    let mut bed = Bed::new(store.path(), Arc::clone(&tier) as _);
    bed.settings.recovery = Some(RecoverySettings { rpo: Duration::from_millis(20), ..RecoverySettings::to("ia") });
    let engine = bed.open().await;
    engine.create_bucket("bkt").await.unwrap();
    put(&engine, "cold/1", &noise(1, 30_000)).await.unwrap();
    bed.clock.advance(DAY * 31);
    until("it is cold", || {
        bed.clock.advance(Duration::from_secs(60));
        matches!(residency(&engine, "cold/1"), Some(Residency::Cold { .. }))
    })
    .await;
    shipped(&engine).await;
    engine.shutdown().await.unwrap();

    let to = tempfile::tempdir().unwrap();
    let target = to.path().join("new");
    let report = recovered(&bed, &target, None, true).await.unwrap();
    assert_eq!((report.found.missing_objects, report.found.empty_tiers.len()), (0, 0));
    tier.set_hook(|operation, name, moment| {
        let fails = operation == Operation::ListObjectsV2 && name.starts_with("packs/") && moment == Moment::Before;
        fails.then(|| TierError::plain(TierErrorKind::Unavailable, "list", name, "away"))
    });
    let error = recovered(&bed, &target, None, true).await.unwrap_err().to_string();
    assert!(error.starts_with("tier ia: ") && error.contains("away"), "{error}");
    tier.clear_hook();
    for pack in tier.list("packs/", None, 100).await.unwrap() {
        tier.delete(&pack.name).await.unwrap();
    }
    let report = recovered(&bed, &target, None, true).await.unwrap();
    assert_eq!((report.found.missing_objects, report.found.empty_tiers), (1, vec!["ia".to_owned()]));
}
