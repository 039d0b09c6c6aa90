//! A standby: follows what is shipped, survives being killed, starts over when it has to, takes over, and comes back.

#![allow(clippy::unwrap_used, clippy::panic)] // helpers of tests, which clippy does not know as such

mod common;

use common::{Bed, DAY, copy_all, get, list_all, noise, put, residency, seen, shipped, until};
use std::collections::BTreeMap;
use std::path::Path;
use std::process::Command;
use std::sync::Arc;
use std::time::Duration;
use tidegate_tiering::clock::Clock;
use tidegate_tiering::engine::{DeleteRequest, Engine, EngineError, FollowEnd, GcRequest, Residency, StandbyStats};
use tidegate_tiering::meta::MetaSettings;
use tidegate_tiering::recovery::{
    LostChange, Prepared, RecoverRequest, RecoveryError, RecoverySettings, StandbyPhase, StandbyRequest,
    StandbySettings, finish_promotion, prepare_standby, recover, restart_standby,
};
use tidegate_tiering::tier::memory::MemoryTier;
use tidegate_tiering::tier::object::{DirectorySettings, ObjectTier};
use tidegate_tiering::tier::{Tier, TierMetrics};

fn memory() -> Arc<dyn Tier> {
    Arc::new(MemoryTier::new().unwrap())
}

/// What `recovery` says in a primary's configuration.
fn ships() -> Option<RecoverySettings> {
    Some(RecoverySettings { rpo: Duration::from_millis(20), ..RecoverySettings::to("ia") })
}

fn follows() -> Option<StandbySettings> {
    let (poll, warn_after) = (Duration::from_millis(20), Duration::from_secs(30));
    Some(StandbySettings { from: "ia".into(), poll, warn_after })
}

fn primary(dir: &Path, tier: &Arc<dyn Tier>) -> Bed {
    let mut bed = Bed::new(dir, Arc::clone(tier));
    bed.settings.recovery = ships();
    bed
}

fn standby(dir: &Path, tier: &Arc<dyn Tier>) -> Bed {
    let mut bed = primary(dir, tier);
    bed.settings.standby = follows();
    bed
}

async fn prepare(bed: &Bed) -> Result<Prepared, RecoveryError> {
    let tiers = BTreeMap::from([("ia".to_owned(), Arc::clone(&bed.tier))]);
    let request = StandbyRequest {
        from: "ia".into(),
        tiers: &tiers,
        deployment: None,
        data_dir: bed.dir.clone(),
        settings: MetaSettings::default(),
        clock: Arc::clone(&bed.clock) as _,
    };
    prepare_standby(&request, &mut |_| {}).await
}

async fn follow(bed: &Bed) -> Engine {
    let prepared = prepare(bed).await.unwrap();
    assert_eq!(prepared.phase, StandbyPhase::Following);
    bed.open().await
}

fn stats(engine: &Engine) -> StandbyStats {
    engine.stats().unwrap().standby.unwrap()
}

/// Waits until the standby has all that the primary has.
async fn level(from: &Engine, to: &Engine) {
    let last = shipped(from).await;
    until("the standby has it", || stats(to).applied_sequence >= last).await;
    assert_eq!(digest(to), digest(from));
}

/// What clients see of each key.
fn digest(engine: &Engine) -> BTreeMap<String, String> {
    list_all(engine, 100).into_iter().map(|o| (o.key.clone(), seen(engine, &o.key))).collect()
}

async fn cool(bed: &Bed, engine: &Engine, keys: &[String]) {
    bed.clock.advance(DAY * 31);
    until("the cold ones are cold", || {
        bed.clock.advance(Duration::from_secs(60));
        keys.iter().all(|key| matches!(residency(engine, key), Some(Residency::Cold { .. })))
    })
    .await;
}

fn cold_keys(range: std::ops::Range<u64>) -> Vec<String> {
    range.map(|n| format!("cold/{n}")).collect()
}

/// Ten objects in the tier, ten on local disks.
async fn load(bed: &Bed) -> Engine {
    let engine = bed.open().await;
    engine.create_bucket("bkt").await.unwrap();
    for n in 0..10 {
        put(&engine, &format!("cold/{n}"), &noise(n, 30_000)).await.unwrap();
        put(&engine, &format!("hot/{n}"), &noise(100 + n, 20_000)).await.unwrap();
    }
    cool(bed, &engine, &cold_keys(0..10)).await;
    engine
}

/// What the command does with a standby whose promotion is decided.
async fn take_over(bed: &mut Bed, engine: Engine) -> Engine {
    assert_eq!(engine.follow_ended().await, FollowEnd::Promoted);
    engine.shutdown().await.unwrap();
    finish_promotion(&bed.dir, bed.clock.as_ref()).unwrap();
    bed.settings.standby = None;
    bed.open().await
}

async fn start_over(bed: &Bed, engine: Engine) -> Engine {
    let FollowEnd::StartOver(_) = engine.follow_ended().await else { panic!("it was not promoted") };
    engine.shutdown().await.unwrap();
    restart_standby(&bed.dir, bed.clock.as_ref()).unwrap();
    follow(bed).await
}

#[tokio::test(flavor = "multi_thread")]
async fn a_standby_shows_what_was_shipped_and_takes_no_writes() {
    let (one, two, tier) = (tempfile::tempdir().unwrap(), tempfile::tempdir().unwrap(), memory());
    let bed = primary(one.path(), &tier);
    let engine = load(&bed).await;
    shipped(&engine).await;
    let reader_bed = standby(two.path(), &tier);
    let reader = follow(&reader_bed).await;
    level(&engine, &reader).await;
    for n in 0..10 {
        assert_eq!(get(&reader, &format!("cold/{n}")).await.unwrap(), noise(n, 30_000));
        let error = get(&reader, &format!("hot/{n}")).await.unwrap_err();
        assert!(error.to_string().contains("on the primary's disks"), "{error}");
    }
    // What comes later: objects, their moves to the tier, deletions.
    for n in 10..15 {
        put(&engine, &format!("cold/{n}"), &noise(n, 30_000)).await.unwrap();
    }
    engine.delete_object("bkt", "hot/0", DeleteRequest::default()).await.unwrap();
    cool(&bed, &engine, &cold_keys(10..15)).await;
    level(&engine, &reader).await;
    assert_eq!(get(&reader, "cold/12").await.unwrap(), noise(12, 30_000), "it knows the new packs");
    let (ours, theirs) = (reader.stats().unwrap(), engine.stats().unwrap());
    assert_eq!((ours.objects, ours.cold.objects, ours.buckets), (theirs.objects, theirs.cold.objects, theirs.buckets));

    let error = put(&reader, "new", b"new").await.unwrap_err();
    assert!(matches!(&error, EngineError::Unavailable(what) if what.contains("standby")), "{error}");
    assert!(reader.gc(GcRequest { dry_run: false }).await.is_err());
    assert!(reader.standby_lag().unwrap() < Duration::from_secs(5) && stats(&reader).caught_up);
    assert_eq!((reader.writes_refused(), reader.standby_not_ready(), engine.standby_lag()), (None, None, None));
    // The primary's own work may add records meanwhile.
    let metric = || reader_bed.metric("tidegate_standby_applied_sequence", None) as u64;
    until("the metric says the same", || metric() == stats(&reader).applied_sequence).await;
    reader_bed.clock.advance(Duration::from_secs(3600));
    until("a look makes it fresh again", || reader.standby_lag().unwrap() < Duration::from_secs(5)).await;

    // Stopped for a while.
    reader.shutdown().await.unwrap();
    put(&engine, "meanwhile", b"meanwhile").await.unwrap();
    let reader = follow(&reader_bed).await;
    level(&engine, &reader).await;
    reader.shutdown().await.unwrap();
    engine.shutdown().await.unwrap();
}

#[tokio::test(flavor = "multi_thread")]
async fn each_directory_is_opened_as_what_it_is() {
    let (one, two, tier) = (tempfile::tempdir().unwrap(), tempfile::tempdir().unwrap(), memory());
    let bed = primary(one.path(), &tier);
    assert!(prepare(&standby(two.path(), &tier)).await.is_err(), "nothing was shipped yet");
    let engine = load(&bed).await;
    shipped(&engine).await;
    let reader = follow(&standby(two.path(), &tier)).await;
    reader.shutdown().await.unwrap();
    let error = primary(two.path(), &tier).try_open().await.unwrap_err().to_string();
    assert!(error.contains("tidegate standby --from ia") && error.contains("promote"), "{error}");
    engine.shutdown().await.unwrap();
    let error = prepare(&standby(one.path(), &tier)).await.unwrap_err().to_string();
    assert!(error.contains("its claim is the last one"), "{error}");
    bed.open().await.shutdown().await.unwrap();
}

#[tokio::test(flavor = "multi_thread")]
async fn a_branch_that_ended_is_left_and_the_history_is_fetched() {
    let (one, two, three) = (tempfile::tempdir().unwrap(), tempfile::tempdir().unwrap(), tempfile::tempdir().unwrap());
    let tier = memory();
    let bed = primary(one.path(), &tier);
    let engine = load(&bed).await;
    bed.clock.advance(Duration::from_secs(60));
    let moment = bed.clock.now();
    bed.clock.advance(Duration::from_secs(60));
    put(&engine, "undone", b"undone").await.unwrap();
    let reader_bed = standby(two.path(), &tier);
    shipped(&engine).await;
    let reader = follow(&reader_bed).await;
    level(&engine, &reader).await;
    assert!(residency(&reader, "undone").is_some());
    // Somebody goes back to an earlier moment, and on from there.
    let tiers = BTreeMap::from([("ia".to_owned(), Arc::clone(&tier))]);
    let request = RecoverRequest {
        from: "ia".into(),
        tiers: &tiers,
        deployment: None,
        data_dir: three.path().to_owned(),
        at: Some(moment),
        dry_run: false,
        settings: MetaSettings::default(),
        clock: Arc::clone(&bed.clock) as _,
    };
    recover(&request, &mut |_| {}, &mut |_| {}).await.unwrap();
    let recovered = primary(three.path(), &tier).open().await;
    put(&recovered, "instead", b"instead").await.unwrap();
    shipped(&recovered).await;
    let reader = start_over(&reader_bed, reader).await;
    level(&recovered, &reader).await;
    assert_eq!(residency(&reader, "undone"), None);
    assert!(
        !std::fs::read_dir(two.path()).unwrap().any(|e| e.unwrap().file_name().to_string_lossy().starts_with("aside"))
    );
    for engine in [reader, recovered, engine] {
        engine.shutdown().await.unwrap();
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn what_was_removed_meanwhile_is_bridged_by_a_snapshot() {
    let (one, two, tier) = (tempfile::tempdir().unwrap(), tempfile::tempdir().unwrap(), memory());
    let mut bed = primary(one.path(), &tier);
    let recovery = bed.settings.recovery.as_mut().unwrap();
    (recovery.keep, recovery.snapshot_after_objects) = (Duration::ZERO, 3);
    let engine = load(&bed).await;
    shipped(&engine).await;
    let reader_bed = standby(two.path(), &tier);
    let reader = follow(&reader_bed).await;
    level(&engine, &reader).await;
    let last = stats(&reader).applied_sequence;
    reader.shutdown().await.unwrap();
    let mut n = 0;
    loop {
        put(&engine, &format!("later/{n}"), &noise(n, 1_000)).await.unwrap();
        shipped(&engine).await;
        bed.clock.advance(Duration::from_secs(700));
        n += 1;
        let there = tier.list("meta/", None, 10_000).await.unwrap();
        let covers = |name: &str| {
            let span = name
                .rsplit_once('/')
                .map(|(_, file)| file.split('-').map(|n| n.parse::<u64>().unwrap_or(0)).collect::<Vec<_>>());
            name.contains("/journal/") && span.is_some_and(|s| s[0] <= last + 1)
        };
        if !there.iter().any(|meta| covers(&meta.name)) {
            break;
        }
        assert!(n < 300, "the old pieces stay");
    }
    assert_eq!(prepare(&reader_bed).await.unwrap().phase, StandbyPhase::Following);
    let reader = start_over(&reader_bed, reader_bed.open().await).await;
    level(&engine, &reader).await;
    reader.shutdown().await.unwrap();
    engine.shutdown().await.unwrap();
}

#[tokio::test(flavor = "multi_thread")]
async fn a_standby_takes_over_another_follows_it_and_the_old_primary_rejoins() {
    let dirs: Vec<_> = (0..3).map(|_| tempfile::tempdir().unwrap()).collect();
    let tier = memory();
    let old_bed = primary(dirs[0].path(), &tier);
    let old = load(&old_bed).await;
    shipped(&old).await;
    let mut new_bed = standby(dirs[1].path(), &tier);
    let other_bed = standby(dirs[2].path(), &tier);
    let (new, other) = (follow(&new_bed).await, follow(&other_bed).await);
    level(&old, &new).await;
    let before = digest(&old);

    let report = new.promote(false).await.unwrap();
    assert!(report.term > 1 && report.gap.is_none(), "{report:?}");
    assert!(new.promote(false).await.unwrap_err().to_string().contains("on its way"));
    let new = take_over(&mut new_bed, new).await;
    assert_eq!(digest(&new), before, "nothing is lost and nothing comes back from the dead");
    put(&new, "after", &noise(7, 5_000)).await.unwrap();
    put(&new, "hot/0", &noise(100, 20_000)).await.unwrap();
    until("the old one notices", || old.writes_refused().is_some()).await;
    old.shutdown().await.unwrap();
    let again = old_bed.open().await;
    assert!(again.writes_refused().is_some_and(|by| by.contains("another store")), "fenced at its start");
    again.shutdown().await.unwrap();
    level(&new, &other).await;
    assert!(residency(&other, "after").is_some());
    until("what came over is examined", || {
        std::fs::read_to_string(dirs[1].path().join("promoted.json")).is_ok_and(|text| text.contains("missing_objects"))
    })
    .await;
    let missing = std::fs::read_to_string(dirs[1].path().join("promoted-missing.jsonl")).unwrap();
    assert!(
        (9..=10).contains(&missing.lines().count()),
        "hot/0 was uploaded again, before or after the look: {missing}"
    );

    // The old one goes on alone for a while, as one that cannot reach the cloud would.
    let mut alone_bed = Bed::new(dirs[0].path(), Arc::clone(&tier));
    alone_bed.settings.recovery = None;
    let alone = alone_bed.open().await;
    put(&alone, "promised", b"promised").await.unwrap();
    put(&alone, "after", b"another one").await.unwrap();
    alone.delete_object("bkt", "hot/5", DeleteRequest::default()).await.unwrap();
    alone.shutdown().await.unwrap();
    let back_bed = standby(dirs[0].path(), &tier);
    let rejoined = prepare(&back_bed).await.unwrap().rejoined.unwrap();
    assert!(rejoined.complete && rejoined.aside.join("journal").is_dir());
    let lost: Vec<LostChange> = std::fs::read_to_string(rejoined.list.unwrap())
        .unwrap()
        .lines()
        .map(|line| serde_json::from_str(line).unwrap())
        .collect();
    let lost: Vec<_> = lost.iter().map(|l| (l.key.as_deref().unwrap(), l.change.as_str())).collect();
    assert_eq!(lost, [("promised", "written"), ("after", "written"), ("hot/5", "deleted")]);
    assert_eq!(rejoined.lost, 3);
    let back = back_bed.open().await;
    level(&new, &back).await;
    assert_eq!(residency(&back, "promised"), None, "nothing comes back from the dead");
    assert_eq!(get(&back, "hot/3").await.unwrap(), noise(103, 20_000), "its packs are still of use");
    for engine in [new, other, back] {
        engine.shutdown().await.unwrap();
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn pieces_that_come_out_of_order_are_waited_for() {
    let (one, two, tier, replica) = (tempfile::tempdir().unwrap(), tempfile::tempdir().unwrap(), memory(), memory());
    let engine = load(&primary(one.path(), &tier)).await;
    let mut last = shipped(&engine).await;
    let copy = async |name: &str| {
        let size = tier.head(name).await.unwrap().size;
        let mut stream = tier.get(name, 0..size).await.unwrap();
        let mut all = Vec::new();
        while let Some(bytes) = futures::StreamExt::next(&mut stream).await {
            all.extend_from_slice(&bytes.unwrap());
        }
        replica.put(name, Arc::new(bytes::Bytes::from(all))).await.unwrap();
    };
    let names =
        async || -> Vec<String> { tier.list("", None, 10_000).await.unwrap().into_iter().map(|m| m.name).collect() };
    for name in names().await {
        copy(&name).await;
    }
    let mut reader_bed = standby(two.path(), &replica);
    // It gives up waiting after so many polls, which must be longer than a busy machine takes to copy the piece.
    reader_bed.settings.standby.as_mut().unwrap().poll = Duration::from_millis(200);
    let reader = follow(&reader_bed).await;
    // What the primary's own work ships after the copying is not in the replica.
    until("the standby has it", || stats(&reader).applied_sequence >= last).await;
    let known: Vec<String> = replica.list("", None, 10_000).await.unwrap().into_iter().map(|m| m.name).collect();
    for n in 0..3 {
        put(&engine, &format!("late/{n}"), b"late").await.unwrap();
        last = shipped(&engine).await;
    }
    let mut fresh: Vec<String> =
        names().await.into_iter().filter(|n| !known.contains(n) && n.contains("/journal/")).collect();
    assert!(fresh.len() > 1);
    let first = fresh.remove(0);
    for name in &fresh {
        copy(name).await;
    }
    until("it says what is missing", || stats(&reader).last_error.is_some_and(|e| e.contains("are not there (yet)")))
        .await;
    assert_eq!(residency(&reader, "late/2"), None);
    copy(&first).await;
    until("the standby has all", || stats(&reader).applied_sequence >= last).await;
    // A promotion does not wait for ever for what will not come.
    let known: Vec<String> = replica.list("", None, 10_000).await.unwrap().into_iter().map(|m| m.name).collect();
    for n in 3..6 {
        put(&engine, &format!("late/{n}"), b"late").await.unwrap();
        shipped(&engine).await;
    }
    let fresh: Vec<String> =
        names().await.into_iter().filter(|n| !known.contains(n) && n.contains("/journal/")).collect();
    for name in &fresh[1..] {
        copy(name).await;
    }
    until("it says what is missing", || stats(&reader).last_error.is_some()).await;
    let report = reader.promote(false).await.unwrap();
    assert!(report.gap.is_some_and(|gap| gap.contains("later ones are")));
    reader.shutdown().await.unwrap();
    engine.shutdown().await.unwrap();
}

const CHILD: &str = "TIDEGATE_STANDBY_CHILD";

fn folder(path: &Path) -> Arc<dyn Tier> {
    let settings = DirectorySettings { path: path.to_owned() };
    Arc::new(ObjectTier::directory("ia", &settings, TierMetrics::new("ia", None).unwrap()).unwrap())
}

/// Not a test of its own: what a killed process did. Follows, and promotes when it is told to.
#[tokio::test(flavor = "multi_thread")]
async fn child() {
    let Ok(text) = std::env::var(CHILD) else { return };
    let [dir, tier, failpoint, promote] = text.split('|').collect::<Vec<_>>().try_into().unwrap();
    tidegate_tiering::failpoint::set_from_text(failpoint).unwrap();
    let mut bed = standby(Path::new(dir), &folder(Path::new(tier)));
    let engine = follow(&bed).await;
    until("it has caught up", || stats(&engine).caught_up).await;
    if promote == "yes" {
        engine.promote(false).await.unwrap();
        let engine = take_over(&mut bed, engine).await;
        put(&engine, "written", b"by the new primary").await.unwrap();
    }
}

/// Runs [`child`] until it is killed at the failpoint; false when it was not met.
fn killed(dir: &Path, tier: &Path, failpoint: &str, promote: bool) -> bool {
    let yes = if promote { "yes" } else { "no" };
    let what = format!("{}|{}|{failpoint}|{yes}", dir.display(), tier.display());
    let mut command = Command::new(std::env::current_exe().unwrap());
    command.args(["child", "--exact", "--nocapture"]).env(CHILD, what);
    let output = command.output().unwrap();
    assert!(
        !output.status.success() || failpoint.is_empty(),
        "{failpoint} was not met: {}",
        String::from_utf8_lossy(&output.stdout)
    );
    !String::from_utf8_lossy(&output.stdout).contains("panicked")
}

#[tokio::test(flavor = "multi_thread")]
async fn a_standby_that_is_killed_anywhere_goes_on() {
    let (one, cloud) = (tempfile::tempdir().unwrap(), tempfile::tempdir().unwrap());
    let tier = folder(cloud.path());
    let bed = primary(one.path(), &tier);
    let engine = load(&bed).await;
    shipped(&engine).await;
    let two = tempfile::tempdir().unwrap();
    // In the first fetch.
    for failpoint in ["standby.after_begin", "standby.after_fetch", "standby.after_place"] {
        assert!(killed(two.path(), cloud.path(), failpoint, false));
    }
    follow(&standby(two.path(), &tier)).await.shutdown().await.unwrap();
    for (n, failpoint) in ["follow.before_rename", "follow.after_rename", "follow.after_apply", "follow.after_apply:2"]
        .into_iter()
        .enumerate()
    {
        for m in 0..3 {
            put(&engine, &format!("more/{n}/{m}"), b"more").await.unwrap();
            shipped(&engine).await;
        }
        assert!(killed(two.path(), cloud.path(), failpoint, false), "{failpoint}");
        let reader = follow(&standby(two.path(), &tier)).await;
        level(&engine, &reader).await;
        reader.shutdown().await.unwrap();
    }
    engine.shutdown().await.unwrap();
}

#[tokio::test(flavor = "multi_thread")]
async fn a_promotion_that_is_killed_anywhere_is_finished_or_was_none() {
    let (one, cloud) = (tempfile::tempdir().unwrap(), tempfile::tempdir().unwrap());
    let tier = folder(cloud.path());
    let engine = load(&primary(one.path(), &tier)).await;
    shipped(&engine).await;
    let before = digest(&engine);
    engine.shutdown().await.unwrap();
    for failpoint in [
        "promote.after_intent",
        "promote.after_claim",
        "promote.after_decision",
        "promote.after_base",
        "promote.before_end",
    ] {
        let (two, own) = (tempfile::tempdir().unwrap(), tempfile::tempdir().unwrap());
        copy_all(cloud.path(), own.path());
        let tier = folder(own.path());
        assert!(killed(two.path(), own.path(), failpoint, true), "{failpoint}");
        let mut bed = standby(two.path(), &tier);
        let phase = prepare(&bed).await.unwrap().phase;
        let claimed = failpoint != "promote.after_intent";
        let promoted = match phase {
            StandbyPhase::Promoting => {
                let engine = bed.open().await;
                let resumed = engine.promote(true).await;
                assert_eq!(resumed.is_ok(), claimed, "{failpoint}: {resumed:?}");
                if claimed {
                    take_over(&mut bed, engine).await
                } else {
                    // Still a standby: ask again.
                    engine.promote(false).await.unwrap();
                    take_over(&mut bed, engine).await
                }
            }
            StandbyPhase::Finishing => {
                assert!(claimed);
                finish_promotion(&bed.dir, bed.clock.as_ref()).unwrap();
                bed.settings.standby = None;
                bed.open().await
            }
            other => panic!("{failpoint}: {other:?}"),
        };
        assert_eq!(digest(&promoted), before, "{failpoint}");
        put(&promoted, "written", b"by the new primary").await.unwrap();
        shipped(&promoted).await;
        promoted.shutdown().await.unwrap();
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_primary_that_is_killed_while_it_rejoins_goes_on() {
    let (one, two, cloud) = (tempfile::tempdir().unwrap(), tempfile::tempdir().unwrap(), tempfile::tempdir().unwrap());
    let tier = folder(cloud.path());
    let old = load(&primary(one.path(), &tier)).await;
    shipped(&old).await;
    let mut bed = standby(two.path(), &tier);
    let new = follow(&bed).await;
    new.promote(false).await.unwrap();
    let new = take_over(&mut bed, new).await;
    old.shutdown().await.unwrap();
    let mut alone_bed = primary(one.path(), &tier);
    alone_bed.settings.recovery = None;
    let alone = alone_bed.open().await;
    put(&alone, "promised", b"promised").await.unwrap();
    alone.shutdown().await.unwrap();
    for failpoint in ["standby.after_begin", "standby.moving_aside", "standby.moving_aside:2", "standby.after_place"] {
        assert!(killed(one.path(), cloud.path(), failpoint, false), "{failpoint}");
        assert!(primary(one.path(), &tier).try_open().await.is_err(), "{failpoint}: it is no primary's any more");
    }
    let back_bed = standby(one.path(), &tier);
    let rejoined = prepare(&back_bed).await.unwrap().rejoined.unwrap();
    assert_eq!((rejoined.lost, rejoined.complete), (1, true));
    for name in ["journal", "index.json", "sled", "term.json"] {
        assert!(rejoined.aside.join(name).exists(), "{name}");
    }
    let back = back_bed.open().await;
    level(&new, &back).await;
    assert_eq!(get(&back, "hot/3").await.unwrap(), noise(103, 20_000));
    back.shutdown().await.unwrap();
    new.shutdown().await.unwrap();
}

#[test]
fn settings_that_cannot_work_are_named() {
    let wrong = StandbySettings { poll: Duration::ZERO, ..StandbySettings::default() };
    assert_eq!(wrong.problem(), Some(("poll", "from 10ms to 1h")));
    assert_eq!(StandbySettings::default().problem(), None);
}
