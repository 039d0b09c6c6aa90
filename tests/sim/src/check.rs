//! The comparison: what the engine shows against what the model allows.

use super::body::open;
use super::common::read;
use super::model::{Object, is_abandoned};
use super::plans::BUCKET;
use super::versions::{Shown, Stack, Version};
use super::world::World;
use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;
use tidegate_tiering::clock::Clock;
use tidegate_tiering::engine::*;
use tidegate_tiering::tier::TierErrorKind;

/// A version as it was found.
struct Found {
    entry: VersionEntry,
    /// None of a delete marker.
    info: Option<ObjectInfo>,
    bytes: Result<Vec<u8>, EngineError>,
}

impl Shown for Found {
    fn shown(&self) -> Version {
        let VersionEntry { version, null, modified, .. } = self.entry;
        let object = self.info.as_ref().map(|info| {
            let (etags, attributes) = (vec![info.etag.clone()], info.attributes.clone());
            let bytes = Arc::new(Vec::new());
            Arc::new(Object { bytes, etags, modified, created: modified, attributes, sealed: false })
        });
        Version { id: Some(version), null, ..Version::new(object, modified) }
    }
}

struct Everything {
    /// The versions of each key, the newest first.
    objects: BTreeMap<String, Vec<Found>>,
    /// Id, what is said of the upload, its parts.
    uploads: BTreeMap<String, (UploadInfo, Vec<PartInfo>)>,
    settings: Option<BucketSettings>,
}

fn list(engine: &Engine, page: usize) -> Result<Vec<ListedObject>, EngineError> {
    let mut list = ListObjects { bucket: BUCKET.into(), max_keys: page, ..Default::default() };
    let mut all = Vec::new();
    loop {
        let found = engine.list_objects(&list)?;
        all.extend(found.objects);
        match found.next {
            Some(next) => list.after = Some(next),
            None => return Ok(all),
        }
    }
}

fn list_versions(engine: &Engine, page: usize) -> Result<Vec<VersionEntry>, EngineError> {
    let mut list = ListVersions { bucket: BUCKET.into(), max: page, ..Default::default() };
    let mut all = Vec::new();
    loop {
        let found = engine.list_versions(&list)?;
        all.extend(found.entries);
        match found.next {
            Some((key, version)) => (list.key_marker, list.version_marker) = (Some(key), version),
            None => return Ok(all),
        }
    }
}

fn wrong(what: String) -> EngineError {
    EngineError::Internal(what)
}

async fn look_at(engine: &Engine, entry: VersionEntry) -> Result<Found, EngineError> {
    if entry.marker {
        return Ok(Found { entry, info: None, bytes: Ok(Vec::new()) });
    }
    let version = if entry.null { VersionRef::Null } else { VersionRef::Id(entry.version) };
    let handle = open(engine, &entry.key, version)?;
    let info = handle.info().clone();
    let listed = (entry.version, entry.size, &entry.etag, entry.modified);
    if listed != (info.version, info.size, &info.etag, info.last_modified) {
        return Err(wrong(format!("{entry:?} is listed, and found as {info:?}")));
    }
    let bytes = match handle.read(0..info.size).await {
        Ok(stream) => read(stream).await,
        Err(e) => Err(e),
    };
    Ok(Found { entry, info: Some(info), bytes })
}

/// That the latest of a key is what is found without naming a version.
fn look_for(engine: &Engine, key: &str, latest: Option<&VersionEntry>) -> Result<(), EngineError> {
    let is = latest.map(|latest| (latest.version, latest.marker));
    let found = match engine.open_object(BUCKET, key) {
        Ok(handle) => Some((handle.info().version, false)),
        Err(EngineError::DeleteMarker { version, .. }) => Some((version, true)),
        Err(EngineError::NoSuchKey { .. }) => None,
        Err(e) => return Err(e),
    };
    if is == found { Ok(()) } else { Err(wrong(format!("{key} is {found:?}; listed is {is:?}"))) }
}

async fn look(engine: Engine, keys: Vec<String>, page: usize) -> Result<Everything, EngineError> {
    let mut objects: BTreeMap<String, Vec<Found>> = BTreeMap::new();
    for entry in list_versions(&engine, page)? {
        let found = look_at(&engine, entry).await?;
        objects.entry(found.entry.key.clone()).or_default().push(found);
    }
    for stack in objects.values() {
        let falling = stack.is_sorted_by(|newer, older| newer.entry.version > older.entry.version);
        if !falling || stack.iter().enumerate().any(|(place, found)| found.entry.latest != (place == 0)) {
            let entries: Vec<_> = stack.iter().map(|found| &found.entry).collect();
            return Err(wrong(format!("these are the versions of a key: {entries:?}")));
        }
    }
    for key in &keys {
        look_for(&engine, key, objects.get(key).and_then(|stack| stack.first()).map(|found| &found.entry))?;
    }
    let visible = objects.values().filter_map(|stack| stack.first()).map(|found| &found.entry).filter(|e| !e.marker);
    let visible: Vec<_> = visible.map(|e| (e.key.clone(), e.size, e.etag.clone(), e.modified)).collect();
    let listed = list(&engine, page)?.into_iter().map(|o| (o.key, o.size, o.etag, o.last_modified));
    let listed: Vec<_> = listed.collect();
    if listed != visible {
        return Err(wrong(format!("the listing has {listed:?}; visible is {visible:?}")));
    }
    let all = ListUploads { bucket: BUCKET.into(), max_uploads: 1000, ..Default::default() };
    let mut uploads = BTreeMap::new();
    for upload in engine.list_uploads(&all)?.uploads {
        let parts = engine.list_parts(BUCKET, &upload.key, &upload.upload_id, 0, 100)?.parts;
        uploads.insert(upload.upload_id.clone(), (upload, parts));
    }
    Ok(Everything { objects, uploads, settings: Some(engine.bucket(BUCKET)?.settings) })
}

/// Whether what was found is this version.
fn is(found: &Found, version: &Version) -> bool {
    let entry = &found.entry;
    let same = version.id.is_none_or(|id| id == entry.version) && version.null == entry.null;
    let (info, object) = match (&found.info, &version.object) {
        (Some(info), Some(object)) => (info, object),
        (info, object) => return same && info.is_none() && object.is_none() && version.modified == entry.modified,
    };
    let attributes = ObjectAttributes { encryption: None, ..info.attributes.clone() };
    same && object.may_have(&info.etag)
        && info.size == object.bytes.len() as u64
        && info.last_modified == object.modified
        && attributes == object.attributes
        && info.attributes.encryption.is_some() == object.sealed
        && found.bytes.as_ref().is_ok_and(|bytes| *bytes == *object.bytes) | found.bytes.is_err()
}

fn describe(found: &Found) -> String {
    let Found { entry, info, bytes } = found;
    let id = if entry.null { format!("null {}", entry.version) } else { entry.version.to_string() };
    let Some(info) = info else { return format!("[marker {id} of {}]", entry.modified) };
    let bytes = bytes.as_ref().map(|b| format!("{} bytes", b.len())).unwrap_or_else(|e| format!("error: {e}"));
    format!(
        "[{id}: {} bytes, etag {}, modified {}, {:?}, {:?}, read: {bytes}]",
        info.size, info.etag, info.last_modified, info.attributes, info.residency
    )
}

impl World {
    /// Compares everything, in good weather and out of the story. What was in doubt is known afterwards.
    pub fn compare(&mut self) -> Result<(), String> {
        let weather = self.cloud.set_weather(0);
        self.process().life.hold(true);
        let keys = self.model.slots.keys().cloned().collect();
        let page = 1 + self.dice.below(12) as usize;
        let looked = self.process().run(look(self.engine(), keys, page));
        let looked = match looked {
            Err(EngineError::NoSuchBucket(_)) if self.model.bucket.is_none() => {
                Ok(Everything { objects: BTreeMap::new(), uploads: BTreeMap::new(), settings: None })
            }
            other => other.map_err(|e| format!("looking: {e}")),
        };
        let done = looked.and_then(|found| {
            let seq = self.seq();
            self.compare_settings(&found, seq)
                .and_then(|()| self.compare_uploads(&found, seq))
                .and_then(|()| self.compare_objects(&found, seq))
                .and_then(|()| self.joint())
        });
        self.model.maybe_begun.clear();
        let checked = done.and_then(|()| if self.dice.below(3) == 0 { self.fsck() } else { Ok(()) });
        self.process().life.hold(false);
        self.cloud.set_weather(weather);
        checked?;
        match self.cloud.violations().first() {
            Some(violation) => Err(violation.clone()),
            None => Ok(()),
        }
    }

    fn compare_settings(&mut self, all: &Everything, seq: u64) -> Result<(), String> {
        let Some(found) = &all.settings else { return Ok(()) };
        let slot = &mut self.model.settings;
        let maybe = std::mem::take(&mut slot.maybe);
        if slot.now.are(found) {
            return Ok(());
        }
        let Some((from, settings)) = maybe.iter().find(|(_, settings)| settings.are(found)) else {
            return Err(format!("set is {found:?}; allowed is {:?} or one of {maybe:?}", slot.now));
        };
        slot.found(*settings, Some(*from), seq);
        Ok(())
    }

    fn count_found(&mut self, all: &Everything) {
        for (place, found) in all.objects.values().flat_map(|stack| stack.iter().enumerate()) {
            self.count(match found.info.as_ref().map(|info| &info.residency) {
                None => "markers",
                Some(Residency::Hot) => "hot",
                Some(Residency::Cold { .. }) => "cold",
                Some(Residency::Restored { .. }) => "restored",
                Some(Residency::Protected { .. }) => "protected",
            });
            if place > 0 {
                self.count("noncurrent");
            }
            if found.bytes.as_ref().is_err_and(|e| matches!(e, EngineError::Corrupt(_))) {
                self.count("lost");
            }
        }
    }

    fn compare_objects(&mut self, all: &Everything, seq: u64) -> Result<(), String> {
        self.count_found(all);
        let keys: BTreeSet<String> = all.objects.keys().chain(self.model.slots.keys()).cloned().collect();
        for key in keys {
            let found: &[Found] = all.objects.get(&key).map_or(&[], |stack| stack);
            let judge = self.judge(&key);
            let slot = self.model.slot(&key);
            let maybe = std::mem::take(&mut slot.maybe);
            let candidates = maybe.into_iter().map(|(from, stack)| (Some(from), stack));
            let candidates: Vec<_> = [(None, slot.now.clone())].into_iter().chain(candidates).collect();
            let adopted = |(from, stack): &(Option<u64>, Stack)| {
                let adopted = judge.adopt(stack, found, is)?;
                let other = |(now, was): (&Version, &Version)| was.id.is_some() && was.id != now.id;
                let by_rules = adopted.len() != stack.len() || adopted.iter().zip(stack).any(other);
                Some((*from, by_rules, adopted))
            };
            let fits: Vec<_> = candidates.iter().filter_map(adopted).collect();
            let exact = fits.iter().find(|(_, by_rules, _)| !by_rules).or_else(|| fits.first());
            let Some((from, by_rules, adopted)) = exact.cloned() else {
                let found: Vec<_> = found.iter().map(describe).collect();
                return Err(format!("{key} holds {found:?} at {}; allowed is one of {candidates:#?}", judge.now));
            };
            match from.is_some() || by_rules {
                true => slot.found(adopted, from, seq),
                false => slot.now = adopted,
            }
            for (place, found) in found.iter().enumerate() {
                self.compare_version(&key, place, found)?;
            }
        }
        Ok(())
    }

    fn compare_version(&mut self, key: &str, place: usize, found: &Found) -> Result<(), String> {
        let (judge, follows) = (self.judge(key), self.engine().standby_lag().is_some());
        let (at_rest, recovered, stack) = (self.at_rest, self.recovered, &mut self.model.slot(key).now);
        if at_rest && judge.overdue(stack, place) {
            return Err(format!("{key}: a rule ends {}, and it is there at {}: {stack:?}", describe(found), judge.now));
        }
        let Some(info) = &found.info else { return Ok(()) };
        if at_rest && info.residency.is_hot() && judge.must_be_cold(stack, place) {
            return Err(format!("{key}: a rule moves {}, and it is hot at {}", describe(found), judge.now));
        }
        match &found.bytes {
            Ok(_) => Ok(()),
            Err(EngineError::InvalidObjectState { .. }) if matches!(&info.residency, Residency::Cold { tier } if tier == "archive") => {
                Ok(())
            }
            Err(EngineError::Corrupt(_)) if stack[place].lost => Ok(()),
            // Its bytes were on the lost disk, and the same bytes are in an archive.
            Err(EngineError::Tier { source, .. })
                if recovered && info.residency == Residency::Hot && source.kind() == TierErrorKind::Frozen =>
            {
                stack[place].lost = true;
                Ok(())
            }
            // A restored copy is on the primary's disk.
            Err(EngineError::Tier { source, .. }) if follows && source.kind() == TierErrorKind::Frozen => Ok(()),
            Err(e) => Err(format!("{key} cannot be read: {e}; it is {}", describe(found))),
        }
    }

    fn compare_uploads(&mut self, all: &Everything, seq: u64) -> Result<(), String> {
        let (now, lost_a_disk) = (self.clock.now(), self.lost_a_disk);
        for (id, (info, _)) in &all.uploads {
            if !self.model.uploads.contains_key(id) {
                let begun = |(_, u): &(u64, super::model::Upload)| u.key == info.key && u.initiated == info.initiated;
                let Some(at) = self.model.maybe_begun.iter().position(begun) else {
                    return Err(format!("an upload to {} that nobody began: {id}", info.key));
                };
                let (from, mut upload) = self.model.maybe_begun.swap_remove(at);
                upload.began = (from, seq);
                self.model.uploads.insert(id.clone(), upload);
            }
        }
        for (id, upload) in &mut self.model.uploads {
            let found = all.uploads.get(id);
            let maybe = upload.maybe_ended.take();
            let maybe_parts = std::mem::take(&mut upload.maybe_parts);
            let Some((_, parts)) = found else {
                let unsure = maybe.is_some() || is_abandoned(upload, now) || upload.began.1 > seq;
                if upload.ended.is_none() {
                    if !unsure {
                        return Err(format!("the upload to {} is gone: {id}", upload.key));
                    }
                    let from = maybe.as_ref().map_or(upload.began.1.min(seq), |(from, _)| *from);
                    upload.ended = Some((from, seq));
                }
                continue;
            };
            if upload.ended.is_some() {
                return Err(format!("the upload to {} had ended and is there: {id}", upload.key));
            }
            upload.began.1 = upload.began.1.min(seq);
            let mut known = BTreeMap::new();
            for part in parts {
                let allowed = upload.parts.iter().map(|(n, p)| (*n, p)).chain(maybe_parts.iter().map(|(n, p)| (*n, p)));
                let past = upload.past.iter().map(|(n, p)| (*n, p)).filter(|_| lost_a_disk);
                let mut fits = allowed
                    .chain(past)
                    .filter(|(n, p)| *n == part.number && p.etag == part.etag && p.bytes.len() as u64 == part.size);
                let Some((_, fit)) = fits.next() else {
                    return Err(format!("part {} of the upload to {} is none that was sent", part.number, upload.key));
                };
                known.insert(part.number, fit.clone());
            }
            if let Some(number) = upload.parts.keys().find(|n| !known.contains_key(n)).filter(|_| !lost_a_disk) {
                return Err(format!("part {number} of the upload to {} is gone", upload.key));
            }
            upload.parts = known;
            self.joints.extend(maybe.map(|(_, makes)| (id.clone(), makes)));
        }
        self.lost_a_disk = false;
        Ok(())
    }

    /// A completion that did not take the upload away must not have made the object.
    fn joint(&mut self) -> Result<(), String> {
        for (id, makes) in std::mem::take(&mut self.joints) {
            let Some(makes) = makes else { continue };
            let key = &self.model.uploads[&id].key;
            let is = |version: &Version| version.object.as_ref().is_some_and(|held| Arc::ptr_eq(held, &makes));
            if self.model.stack(key).iter().any(is) {
                return Err(format!("the upload to {key} has made its object and is there still"));
            }
        }
        Ok(())
    }

    /// The engine's own check finds nothing wrong.
    pub fn fsck(&mut self) -> Result<(), String> {
        let engine = self.engine();
        let checking = async move { engine.fsck(&FsckRequest::default(), FsckEstimate::default(), |_| {}).await };
        let report = self.process().run(checking).map_err(|e| format!("fsck: {e}"))?;
        // Parts of uploads are on the primary's disk.
        let follows = self.engine().standby_lag().is_some();
        let lossy = follows || self.model.versions().any(|(_, _, version)| version.lost);
        for finding in report.findings {
            let fine = match finding.kind {
                FindingKind::OrphanPack => self.recovered,
                FindingKind::StuckUpload | FindingKind::StuckDeletion => true,
                FindingKind::LostChunks | FindingKind::Unreadable => lossy,
                _ => false,
            };
            if !fine {
                return Err(format!(
                    "fsck finds {:?} {:?}: {}: {}",
                    finding.kind, finding.tier, finding.what, finding.detail
                ));
            }
        }
        Ok(())
    }
}
