//! Events of notifications: what is told, in which order, how much may wait; and that nothing of it outlives or precedes its change.
#![allow(clippy::unwrap_used, clippy::panic)] // helpers of tests, which clippy does not know as such

mod common;

use common::{Bed, DAY, copy, put, put_parts, shipped, until};
use std::sync::Arc;
use std::time::Duration;
use tidegate_tiering::clock::Clock;
use tidegate_tiering::engine::*;
use tidegate_tiering::meta::MetaSettings;
use tidegate_tiering::recovery::{RecoverRequest, RecoverySettings, recover};
use tidegate_tiering::tier::memory::MemoryTier;

fn bed(dir: &std::path::Path, most: u64) -> Bed {
    let mut bed = Bed::new(dir, Arc::new(MemoryTier::new().unwrap()));
    bed.settings.limits.min_part_bytes = 1;
    bed.settings.tiering.linger_ms = 0;
    bed.settings.notifications = [("hook".to_owned(), most)].into();
    bed
}

fn rule(target: &str, events: &[&str]) -> NotificationRule {
    NotificationRule {
        id: "r".into(),
        destination: Destination::Queue,
        arn: String::new(),
        target: target.into(),
        events: events.iter().map(|event| (*event).to_owned()).collect(),
        filter: None,
    }
}

const ALL: [&str; 4] = ["s3:ObjectCreated:*", "s3:ObjectRemoved:*", "s3:ObjectTagging:*", "s3:Lifecycle*"];

fn told(engine: &Engine) -> Vec<(&'static str, String)> {
    let events = engine.events("hook", 1000).unwrap();
    assert!(events.windows(2).all(|pair| pair[0].id < pair[1].id));
    events.into_iter().map(|queued| (queued.event.kind.name(), queued.event.key)).collect()
}

struct Ann;

impl Asks for Ann {
    fn origin(&self) -> Origin {
        Origin { principal: "ann".into(), address: "10.0.0.1".into(), request: "1".into() }
    }

    fn is_form(&self) -> bool {
        true
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn changes_are_told_in_order_once_and_until_they_are_taken_out() {
    let dir = tempfile::tempdir().unwrap();
    let bed = bed(dir.path(), 1000);
    let engine = bed.open().await;
    engine.create_bucket("bkt").await.unwrap();
    put(&engine, "before", b"x").await.unwrap();
    engine.set_notifications("bkt", &[rule("hook", &ALL)], true).await.unwrap();
    put(&engine, "k", b"one").await.unwrap();
    Box::pin(asked_by(Arc::new(Ann), put(&engine, "k", b"two"))).await.unwrap();
    copy(&engine, "k", "copy", None).await.unwrap();
    put_parts(&engine, "parts", &[b"part".to_vec()]).await.unwrap();
    let tag = |attributes: &mut ObjectAttributes| {
        attributes.tags = vec![("a".into(), "b".into())];
        Ok(())
    };
    for _ in 0..2 {
        engine.update_attributes("bkt", "k", VersionRef::Current, tag).await.unwrap();
    }
    engine.delete_object("bkt", "k", DeleteRequest::default()).await.unwrap();
    engine.delete_object("bkt", "k", DeleteRequest::default()).await.unwrap();
    let expected = [
        ("s3:TestEvent", ""),
        ("s3:ObjectCreated:Put", "k"),
        ("s3:ObjectCreated:Post", "k"),
        ("s3:ObjectCreated:Copy", "copy"),
        ("s3:ObjectCreated:CompleteMultipartUpload", "parts"),
        ("s3:ObjectTagging:Put", "k"),
        ("s3:ObjectRemoved:Delete", "k"),
    ]
    .map(|(kind, key)| (kind, key.to_owned()));
    assert_eq!(told(&engine), expected);
    let events = engine.events("hook", 3).unwrap();
    assert_eq!((events.len(), events[1].event.size, events[1].event.version), (3, Some(3), None));
    assert_eq!((&events[1].event.origin, events[2].event.origin.principal.as_str()), (&Origin::default(), "ann"));

    let ids: Vec<u128> = events.iter().map(|queued| queued.id).collect();
    engine.events_sent("hook", &ids).await.unwrap();
    assert_eq!(told(&engine), expected[3..]);
    engine.shutdown().await.unwrap();
    let engine = bed.open().await;
    assert_eq!(told(&engine), expected[3..]);
    assert_eq!(engine.event_queues().unwrap()[0].queued, 4);
    // Later than all of the process before.
    put(&engine, "k", b"again").await.unwrap();
    assert_eq!(told(&engine).last().unwrap(), &("s3:ObjectCreated:Put", "k".to_owned()));
    engine.set_notifications("bkt", &[], true).await.unwrap();
    put(&engine, "k", b"silent").await.unwrap();
    assert_eq!(told(&engine).len(), 5);
    engine.shutdown().await.unwrap();
}

#[tokio::test(flavor = "multi_thread")]
async fn what_rules_do_is_told_and_moves_to_a_declared_class_are_not() {
    let dir = tempfile::tempdir().unwrap();
    let bed = bed(dir.path(), 1000);
    let engine = bed.open().await;
    engine.create_bucket("bkt").await.unwrap();
    engine.set_notifications("bkt", &[rule("hook", &["s3:Lifecycle*"])], false).await.unwrap();
    put(&engine, "cold/k", b"cold").await.unwrap();
    put(&engine, "short/k", b"short").await.unwrap();
    common::put_class(&engine, "declared", b"cold", Some("STANDARD_IA")).await.unwrap();
    until("the declared class", || matches!(common::residency(&engine, "declared"), Some(Residency::Cold { .. })))
        .await;
    assert_eq!(told(&engine), []);
    bed.clock.advance(DAY * 31);
    until("both", || told(&engine).len() == 2).await;
    let mut all = told(&engine);
    all.sort();
    let expected = [("s3:LifecycleExpiration:Delete", "short/k"), ("s3:LifecycleTransition", "cold/k")];
    assert_eq!(all, expected.map(|(kind, key)| (kind, key.to_owned())));
    let events = engine.events("hook", 9).unwrap();
    let moved = events.iter().find(|queued| queued.event.kind == EventKind::Transition).unwrap();
    assert_eq!(moved.event.class.as_deref(), Some("STANDARD_IA"));
    engine.shutdown().await.unwrap();
}

#[tokio::test(flavor = "multi_thread")]
async fn versions_are_named_and_ids_of_a_key_follow_its_commits() {
    let dir = tempfile::tempdir().unwrap();
    let bed = bed(dir.path(), 1_000_000);
    let engine = bed.open().await;
    engine.create_bucket("bkt").await.unwrap();
    engine.set_versioning("bkt", Versioning::Enabled).await.unwrap();
    engine.set_notifications("bkt", &[rule("hook", &ALL)], false).await.unwrap();
    let writers = (0..8).map(|n: u8| {
        let engine = engine.clone();
        tokio::spawn(async move {
            for _ in 0..20 {
                match put(&engine, "k", &[n; 100]).await {
                    Ok(_) | Err(EngineError::Conflict) => {}
                    Err(e) => panic!("{e}"),
                }
            }
        })
    });
    for writer in writers.collect::<Vec<_>>() {
        writer.await.unwrap();
    }
    let deleted = engine.delete_object("bkt", "k", DeleteRequest::default()).await.unwrap();
    let events = engine.events("hook", 1000).unwrap();
    // Versions of a key have ids in the order of their commits.
    let versions: Vec<_> = events.iter().map(|queued| queued.event.version.unwrap().0).collect();
    assert!(versions.len() > 1 && versions.windows(2).all(|pair| pair[0] < pair[1]));
    assert_eq!(events.last().unwrap().event.kind, EventKind::RemovedMarker);
    assert_eq!(events.last().unwrap().event.version, deleted.version);
    engine.shutdown().await.unwrap();
}

#[tokio::test(flavor = "multi_thread")]
async fn a_queue_is_bounded_and_says_what_it_loses() {
    let dir = tempfile::tempdir().unwrap();
    let mut bed = bed(dir.path(), 3);
    let engine = bed.open().await;
    engine.create_bucket("bkt").await.unwrap();
    engine.set_notifications("bkt", &[rule("hook", &ALL)], false).await.unwrap();
    for n in 0..5 {
        put(&engine, &format!("k{n}"), b"x").await.unwrap();
    }
    let queue = engine.event_queues().unwrap().remove(0);
    assert_eq!((queue.queued, queue.max_queued, queue.dropped), (3, 3, 2));
    assert_eq!(bed.metric("tidegate_notification_dropped_events_total", Some("hook")), 2.0);
    assert!(engine.warnings().iter().any(|warning| warning.contains("hook")));
    let ids: Vec<u128> = engine.events("hook", 9).unwrap().iter().map(|queued| queued.id).collect();
    engine.events_sent("hook", &ids).await.unwrap();
    put(&engine, "after", b"x").await.unwrap();
    assert_eq!(told(&engine), [("s3:ObjectCreated:Put", "after".to_owned())]);
    engine.shutdown().await.unwrap();

    // A target that is not configured: what waits stays, nothing is added, no write fails.
    bed.settings.notifications.clear();
    let engine = bed.open().await;
    assert!(!engine.has_event_target("hook"));
    put(&engine, "unknown", b"x").await.unwrap();
    assert_eq!(told(&engine).len(), 1);
    assert!(engine.warnings().iter().any(|warning| warning.contains("hook")));
    engine.shutdown().await.unwrap();
}

#[tokio::test(flavor = "multi_thread")]
async fn after_a_recovery_to_an_earlier_moment_ids_are_greater_than_all_before() {
    let (dir, new_dir) = (tempfile::tempdir().unwrap(), tempfile::tempdir().unwrap());
    let mut bed = bed(dir.path(), 1000);
    bed.settings.recovery = Some(RecoverySettings { rpo: Duration::from_millis(20), ..RecoverySettings::to("ia") });
    let engine = bed.open().await;
    engine.create_bucket("bkt").await.unwrap();
    engine.set_notifications("bkt", &[rule("hook", &ALL)], false).await.unwrap();
    put(&engine, "k", b"one").await.unwrap();
    let at = bed.clock.now();
    shipped(&engine).await;
    engine.shutdown().await.unwrap();
    bed.clock.advance(Duration::from_secs(10));
    // More epochs than the recovered store has seen.
    let mut ids = Vec::new();
    for n in 0..3 {
        let engine = bed.open().await;
        put(&engine, "k", &[n]).await.unwrap();
        ids = engine.events("hook", 9).unwrap().iter().map(|queued| queued.id).collect();
        shipped(&engine).await;
        engine.shutdown().await.unwrap();
    }
    assert!(ids.len() == 4 && ids.windows(2).all(|pair| pair[0] < pair[1]));

    let request = RecoverRequest {
        from: "ia".into(),
        tiers: &[("ia".to_owned(), Arc::clone(&bed.tier))].into(),
        deployment: None,
        data_dir: new_dir.path().to_owned(),
        at: Some(at),
        dry_run: false,
        settings: MetaSettings::default(),
        clock: Arc::clone(&bed.clock) as _,
    };
    recover(&request, &mut |_| {}, &mut |_| {}).await.unwrap();
    bed.settings.data_dir = new_dir.path().to_owned();
    let engine = bed.open().await;
    assert_eq!(told(&engine).len(), 1);
    put(&engine, "k", b"branch").await.unwrap();
    let events = engine.events("hook", 9).unwrap();
    assert_eq!((events.len(), events[0].id), (2, ids[0]));
    assert!(events[1].id > ids[3], "{:x} {:x}", events[1].id, ids[3]);
    assert_eq!(engine.events_after("hook", events[0].id, 9).unwrap(), events[1..]);
    engine.shutdown().await.unwrap();
}
