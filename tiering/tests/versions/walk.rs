//! Random operations against a simple list of versions for each key.

use super::common::{Dice, seed};
use super::*;

#[derive(Debug, Clone)]
struct Version {
    id: VersionId,
    null: bool,
    /// None: a delete marker.
    bytes: Option<Vec<u8>>,
}

/// Newest first.
type Model = BTreeMap<String, Vec<Version>>;

fn write(model: &mut Model, key: &str, versioning: Versioning, version: Version) {
    let all = model.entry(key.to_owned()).or_default();
    if versioning != Versioning::Enabled {
        all.retain(|v| !v.null);
    }
    all.insert(0, version);
}

async fn check(engine: &Engine, model: &Model, what: &str) {
    let entries = versions(engine, 7);
    let listed: Vec<_> = entries.iter().map(|v| (v.key.as_str(), v.version, v.null, v.marker, v.latest)).collect();
    let expected: Vec<_> = model
        .iter()
        .flat_map(|(key, all)| {
            all.iter().enumerate().map(move |(n, v)| (key.as_str(), v.id, v.null, v.bytes.is_none(), n == 0))
        })
        .collect();
    assert_eq!(listed, expected, "{what}");
    let visible: Vec<&String> =
        model.iter().filter(|(_, all)| all.first().is_some_and(|v| v.bytes.is_some())).map(|(key, _)| key).collect();
    assert_eq!(list_all(engine, 3).iter().map(|o| &o.key).collect::<Vec<_>>(), visible, "{what}");
    for (key, all) in model {
        for version in all {
            let named = if version.null { VersionRef::Null } else { id(version.id) };
            match &version.bytes {
                Some(bytes) => assert_eq!(get_version(engine, key, named).await.unwrap(), *bytes, "{what}"),
                None => assert!(is_marker(get_version(engine, key, named).await, true), "{what}"),
            }
        }
        match all.first().map(|v| &v.bytes) {
            Some(Some(bytes)) => assert_eq!(get(engine, key).await.unwrap(), *bytes, "{what}"),
            Some(None) => assert!(is_marker(get(engine, key).await, false), "{what}"),
            None => assert!(matches!(get(engine, key).await, Err(EngineError::NoSuchKey { .. })), "{what}"),
        }
    }
}

fn copy(key: &str, version: VersionId, to: &str) -> CopyObject {
    CopyObject {
        source_bucket: "bkt".into(),
        source_key: key.into(),
        source_version: version,
        bucket: "bkt".into(),
        key: to.into(),
        replace_attributes: None,
        replace_tags: None,
        storage_class: None,
        checksum: None,
        condition: WriteCondition::default(),
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn whatever_the_order_the_versions_are_those_of_a_simple_list() {
    let (seed, _) = seed();
    let dir = tempfile::tempdir().unwrap();
    let mut bed = bed(dir.path());
    bed.settings.local.pack_bytes = 128 << 10;
    let mut engine = bed.open().await;
    engine.create_bucket("bkt").await.unwrap();
    let (mut dice, mut model, mut versioning) = (Dice(seed), Model::new(), Versioning::Off);
    for step in 0..400u64 {
        let what = format!("TIDEGATE_SEED={seed}, step {step}");
        let key = ["a", "a/b", "b", "c"][dice.below(4) as usize];
        let off = versioning == Versioning::Off;
        match dice.below(20) {
            0 if step > 20 => {
                versioning =
                    if versioning == Versioning::Enabled { Versioning::Suspended } else { Versioning::Enabled };
                engine.set_versioning("bkt", versioning).await.unwrap();
            }
            1 => {
                engine.shutdown().await.unwrap();
                engine = bed.open().await;
            }
            2 => drop(engine.gc(GcRequest { dry_run: false }).await.unwrap()),
            3..=10 => {
                let bytes = noise(dice.below(30), 1 + dice.below(30_000) as usize);
                let w = put(&engine, key, &bytes).await.unwrap();
                assert_eq!((w.null, w.versioned), (versioning != Versioning::Enabled, !off), "{what}");
                write(&mut model, key, versioning, Version { id: w.version, null: w.null, bytes: Some(bytes) });
            }
            11..=13 => {
                let had = model.get(key).and_then(|all| all.first()).is_some_and(|v| v.bytes.is_some());
                let deleted = delete(&engine, key).await;
                assert_eq!(deleted.existed, had, "{what}");
                match deleted.version {
                    None => drop(model.remove(key)),
                    Some((id, null)) => write(&mut model, key, versioning, Version { id, null, bytes: None }),
                }
            }
            14..=17 => {
                let Some(all) = model.get_mut(key).filter(|all| !all.is_empty()) else { continue };
                let gone = all.remove(dice.below(all.len() as u64) as usize);
                let named = if gone.null { VersionRef::Null } else { id(gone.id) };
                let expected =
                    Deleted { existed: true, version: Some((gone.id, gone.null)), marker: gone.bytes.is_none() };
                assert_eq!(remove(&engine, key, named).await, expected, "{what}");
            }
            _ => {
                let Some(all) = model.get(key).filter(|all| !all.is_empty()) else { continue };
                let source = all[dice.below(all.len() as u64) as usize].clone();
                let Some(bytes) = source.bytes else { continue };
                let to = ["a", "a/b", "b", "c"][dice.below(4) as usize];
                let copy = copy(key, source.id, to);
                let w = engine.copy_object(copy).await.unwrap();
                write(&mut model, to, versioning, Version { id: w.version, null: w.null, bytes: Some(bytes) });
            }
        }
        model.retain(|_, all| !all.is_empty());
        if step % 10 == 0 {
            check(&engine, &model, &what).await;
        }
    }
    check(&engine, &model, &format!("TIDEGATE_SEED={seed}, the end")).await;
    assert_clean(&engine).await;
    engine.shutdown().await.unwrap();
}
