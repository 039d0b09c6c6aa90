use super::*;
use crate::chunk::ChunkId;
use crate::clock::{Clock, ManualClock, Timestamp};
use crate::engine::body::NodeRef;
use crate::engine::types::{ObjectAttributes, VersionId};
use crate::engine::{Components, Engine, EngineSettings};
use crate::tier::Tier;
use crate::tier::memory::MemoryTier;
use std::collections::BTreeMap;

const POLICY: &str = "
apiVersion: tidegate/v1
kind: LifecyclePolicy
metadata: { name: test }
tiers:
  - name: ia
rules:
  - { id: cool, filter: { bucket: bkt }, transitions: [{ to: ia, after: 30d, since: creation }] }
";

async fn open(dir: &std::path::Path) -> Engine {
    let clock = Arc::new(ManualClock::new(Timestamp(1_800_000_000_000)));
    let mut settings = EngineSettings { data_dir: dir.to_owned(), ..Default::default() };
    settings.disk.free_floor = 0;
    settings.tiering.gc_interval_ms = 0;
    settings.notifications = [("hook".to_owned(), 100_000)].into();
    let tier: Arc<dyn Tier> = Arc::new(MemoryTier::new().unwrap());
    let components = Components {
        clock: clock as Arc<dyn Clock>,
        tiers: [("ia".to_owned(), tier)].into(),
        classes: BTreeMap::new(),
        policy: tidegate_policies::parse("policy.yaml", POLICY).unwrap(),
        policy_text: POLICY.to_owned(),
        registry: prometheus::Registry::new(),
    };
    let engine = Engine::open(settings, components).await.unwrap();
    engine.create_bucket("bkt").await.unwrap();
    engine
}

/// Records of `count` live packs in the tier; no bytes.
async fn packs(core: &Core, count: u32) -> BTreeSet<PackId> {
    let ids: Vec<PackId> = (0..count).map(|n| PackId((u128::from(n) << 64 | 7).to_be_bytes())).collect();
    for group in ids.chunks(10_000) {
        let mut batch = Batch::new(Reason::RemotePack);
        for id in group {
            let record = RemotePackRecord {
                name: core.remote_name(id),
                state: RemotePackState::Live,
                bytes: 48 << 20,
                chunks: 1_500,
                created: core.clock.now(),
                crc64: Some(u64::MAX),
                etag: Some("0123456789ABCDEF0123456789ABCDEF".into()),
                references: 0,
                version: None,
            };
            let key = keys::remote_pack("ia", u128::from_be_bytes(id.0));
            batch = batch.put(Table::RemotePack, key, record.encode().unwrap());
        }
        core.meta.commit(batch).await.unwrap();
    }
    ids.into_iter().collect()
}

/// A version of `nodes` manifest nodes of 128 MiB each.
async fn version(core: &Core, nodes: u32) -> Member {
    let node = |n: u32| NodeRef { id: ChunkId::of(&n.to_le_bytes()), chunks: 4_096, bytes: 128 << 20 };
    let mut record = ObjectRecord {
        version: VersionId(7),
        size: u64::from(nodes) * (128 << 20),
        etag: "5d41402abc4b2a76b9719d911017c592-10000".into(),
        created: core.clock.now(),
        modified: core.clock.now(),
        attributes: ObjectAttributes::default(),
        checksum: None,
        parts: Vec::new(),
        body: BodyRef::Nodes((0..nodes).map(node).collect()),
        residency: Residency::Hot,
        restoring: None,
        due: None,
        idle: None,
        waiting: None,
        manifest: None,
        null: true,
        marker: false,
        noncurrent_since: None,
        retell: false,
    };
    let mut batch = Batch::new(Reason::PutObject);
    core.put_version(&mut batch, &keys::object("bkt", "large"), (None, Look::AsPlanned), &mut record).unwrap();
    core.meta.commit(batch).await.unwrap();
    let (subject, stored) = (keys::object("bkt", "large"), record.encode().unwrap());
    Member { subject, stored, record, packs: BTreeSet::new(), in_draft: false, manifest: None }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_version_of_five_tebibytes_becomes_cold_and_refers_to_all_its_packs() {
    let dir = tempfile::tempdir().unwrap();
    let engine = open(dir.path()).await;
    let core = &engine.core;
    let mut member = version(core, ((5u64 << 40) / (128 << 20)) as u32).await;
    member.packs = packs(core, (5u64 << 40).div_ceil(48 << 20) as u32).await;
    let mut job = Transition::new(core, &Aim::new(Work::Move, "ia"));
    job.commit(vec![member]).await.unwrap();
    assert_eq!(job.moved.versions, 1);
    let stored = core.meta.get(Table::Object, &keys::object("bkt", "large")).unwrap().unwrap();
    assert_eq!(ObjectRecord::decode(&stored).unwrap().residency, Residency::Cold { tier: "ia".into() });
    let live = core.remote_packs(RemotePackState::Live).unwrap();
    assert!(live.len() > 109_000 && live.iter().all(|p| p.record.references == 1));
    engine.shutdown().await.unwrap();
}

#[tokio::test(flavor = "multi_thread")]
async fn a_mark_that_listed_packs_before_a_large_version_became_cold_dooms_none_of_them_after_it() {
    let dir = tempfile::tempdir().unwrap();
    let engine = open(dir.path()).await;
    let core = &engine.core;
    let packs = packs(core, 3).await;
    let member = version(core, 1).await;
    let mut batch = Batch::new(Reason::Transition);
    assert!(core.refer_ahead(&mut batch, "ia", &packs).await.unwrap());
    // The mark's list has the counters as they stay: only the fence tells it of what follows.
    let (mut listed, fence) = (core.remote_packs(RemotePackState::Live).unwrap(), core.fence("ia").unwrap());
    let mut record = member.record.clone();
    record.residency = Residency::Cold { tier: "ia".into() };
    let old = (Some(&member.record), Look::AsPlanned);
    core.put_version(&mut batch, &member.subject, old, &mut record).unwrap();
    core.meta.commit(batch).await.unwrap();
    assert!(!core.doom_marked(listed.remove(0), fence.as_ref()).await.unwrap());
    // And the other way round: what is doomed first makes the commit fail.
    let mut batch = Batch::new(Reason::Transition);
    assert!(core.refer_ahead(&mut batch, "ia", &packs).await.unwrap());
    let (mut listed, fence) = (core.remote_packs(RemotePackState::Live).unwrap(), core.fence("ia").unwrap());
    assert!(core.doom_marked(listed.remove(1), fence.as_ref()).await.unwrap());
    assert!(matches!(core.meta.commit(batch).await, Err(MetaError::Conflict { .. })));
    engine.shutdown().await.unwrap();
}

#[tokio::test(flavor = "multi_thread")]
async fn a_version_whose_record_is_older_than_this_code_is_copied_and_deleted_like_any_other() {
    let dir = tempfile::tempdir().unwrap();
    let engine = open(dir.path()).await;
    let core = &engine.core;
    let mut record = version(core, 1).await.record;
    (record.body, record.size) = (BodyRef::Inline(Vec::new()), 0);
    // As version 1 was: no owner, no ACL, no encryption, and the end before `waiting`.
    let (front, told) =
        ((record.version, record.size, &record.etag, record.created, record.modified), &record.attributes);
    let told = (&told.headers, &told.user_metadata, &told.tags, &told.storage_class);
    let end = (&record.residency, record.restoring, record.due, record.idle);
    let version_1 = (front, told, &record.checksum, &record.parts, &record.body, end);
    let stored = postcard::to_extend(&version_1, vec![1]).unwrap();
    assert_eq!(ObjectRecord::decode(&stored).unwrap(), record);
    core.meta
        .commit(Batch::new(Reason::PutObject).put(Table::Object, keys::object("bkt", "old"), stored))
        .await
        .unwrap();
    let copy = |to: &str| crate::engine::CopyObject {
        source_bucket: "bkt".into(),
        source_key: "old".into(),
        source_version: record.version,
        bucket: "bkt".into(),
        key: to.into(),
        replace_attributes: None,
        replace_tags: None,
        storage_class: None,
        checksum: None,
        condition: Default::default(),
    };
    engine.copy_object(copy("copy")).await.unwrap();
    engine.copy_object(copy("old")).await.unwrap();
    for key in ["copy", "old"] {
        assert!(engine.delete_object("bkt", key, crate::engine::DeleteRequest::default()).await.unwrap().existed);
    }
    engine.shutdown().await.unwrap();
}

#[tokio::test(flavor = "multi_thread")]
async fn a_queued_move_is_not_made_when_its_rule_has_gone() {
    let dir = tempfile::tempdir().unwrap();
    let engine = open(dir.path()).await;
    let core = &engine.core;
    let subject = keys::object("bkt", "large");
    let mut version = version(core, 1).await.record;
    // Old enough for the rule, and with no bytes to move.
    (version.body, version.size) = (BodyRef::Inline(Vec::new()), 0);
    version.created = Timestamp(core.clock.now().millis() - 31 * 86_400_000);
    let claim = |fill| Claim { subject: subject.clone(), version: version.version, size: 0, frees: 0, fill };
    let cold = Residency::Cold { tier: "ia".into() };
    let whenever = POLICY.replace("after: 30d, since: creation", "whenFull: 80%");
    let never = POLICY.replace("30d", "90d");
    for (policy, fill, moves) in [
        (POLICY, None, true),
        (&never, None, false),
        (&whenever, None, false),
        (&whenever, Some(85), true),
        (&whenever, Some(75), false),
        (POLICY, Some(85), false),
    ] {
        core.meta
            .commit(Batch::new(Reason::PutObject).put(Table::Object, subject.clone(), version.encode().unwrap()))
            .await
            .unwrap();
        let parsed = tidegate_policies::parse("policy.yaml", policy).unwrap();
        core.rules.replace(parsed, policy.to_owned());
        let done = Transition::new(core, &Aim::new(Work::Move, "ia")).run(&mut vec![claim(fill)]).await.unwrap();
        assert_eq!((done.moved.versions, done.moved.skipped), if moves { (1, 0) } else { (0, 1) }, "{policy} {fill:?}");
        let stored = core.meta.get(Table::Object, &subject).unwrap().unwrap();
        assert_eq!(ObjectRecord::decode(&stored).unwrap().residency == cold, moves);
    }
    engine.shutdown().await.unwrap();
}

#[tokio::test(flavor = "multi_thread")]
async fn versions_with_long_keys_and_many_events_fit_into_the_journal() {
    const VERSIONS: usize = 1_200;
    const RULES: usize = 10;
    let dir = tempfile::tempdir().unwrap();
    let engine = open(dir.path()).await;
    let core = &engine.core;
    let rule = |n| crate::engine::NotificationRule {
        id: format!("{n}{}", "i".repeat(250)),
        destination: crate::engine::Destination::Queue,
        arn: String::new(),
        target: "hook".into(),
        events: vec!["s3:LifecycleTransition".into()],
        filter: None,
    };
    engine.set_notifications("bkt", &(0..RULES).map(rule).collect::<Vec<_>>(), false).await.unwrap();
    let first = version(core, 1).await.record;
    let mut job = Transition::new(core, &Aim::new(Work::Move, "ia"));
    let mut batch = Batch::new(Reason::PutObject);
    for n in 0..VERSIONS {
        let mut record = ObjectRecord { body: BodyRef::Inline(Vec::new()), size: 0, due: None, ..first.clone() };
        let subject = keys::object("bkt", &format!("{n:04}{}", "k".repeat(1_000)));
        core.put_version(&mut batch, &subject, (None, Look::AsPlanned), &mut record).unwrap();
        let stored = record.encode().unwrap();
        job.ready.push(Member { subject, stored, record, packs: BTreeSet::new(), in_draft: false, manifest: None });
    }
    core.meta.commit(batch).await.unwrap();
    let told: usize = job.ready.iter().map(|member| job.told_bytes(member)).sum();
    assert!(told > crate::meta::MAX_RECORD_BYTES, "{told} bytes would fit anyway");
    job.seal().await.unwrap();
    assert_eq!(job.moved.versions, VERSIONS as u64);
    let events = core.meta.scan(Table::Event, keys::prefix(&keys::events_of("hook")), usize::MAX, false).unwrap();
    assert_eq!(events.len(), VERSIONS * RULES);
    // What was reckoned with is no less than what it was.
    let were: usize = events.iter().map(|(key, value)| key.len() + value.len() + 16).sum();
    assert!(were <= told && told < were * 2, "{were} bytes of events, reckoned with {told}");
    engine.shutdown().await.unwrap();
}
