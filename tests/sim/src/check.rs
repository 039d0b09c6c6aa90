//! The comparison: what the engine shows against what the model allows.

use super::common::read;
use super::model::{Held, Object, Past, is_abandoned, is_expired};
use super::plans::BUCKET;
use super::world::World;
use std::collections::BTreeMap;
use std::sync::Arc;
use tidegate_tiering::clock::Clock;
use tidegate_tiering::engine::*;
use tidegate_tiering::tier::TierErrorKind;

/// An object as it was found.
struct Found {
    info: ObjectInfo,
    listed: ListedObject,
    bytes: Result<Vec<u8>, EngineError>,
}

struct Everything {
    objects: BTreeMap<String, Found>,
    /// Id, what is said of the upload, its parts.
    uploads: BTreeMap<String, (UploadInfo, Vec<PartInfo>)>,
}

async fn list(engine: &Engine, page: usize) -> Result<Vec<ListedObject>, EngineError> {
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

async fn look(engine: Engine, keys: Vec<String>, page: usize) -> Result<Everything, EngineError> {
    let mut objects = BTreeMap::new();
    let mut listed: BTreeMap<_, _> = list(&engine, page).await?.into_iter().map(|o| (o.key.clone(), o)).collect();
    for key in keys {
        let handle = match engine.open_object(BUCKET, &key) {
            Err(EngineError::NoSuchKey { .. }) => continue,
            handle => handle?,
        };
        let Some(listed) = listed.remove(&key) else {
            return Err(EngineError::Internal(format!("{key} is there, but not listed")));
        };
        let info = handle.info().clone();
        let bytes = match handle.read(0..info.size).await {
            Ok(stream) => read(stream).await,
            Err(e) => Err(e),
        };
        objects.insert(key, Found { info, listed, bytes });
    }
    if let Some(key) = listed.keys().next() {
        return Err(EngineError::Internal(format!("{key} is listed, but not there")));
    }
    let all = ListUploads { bucket: BUCKET.into(), max_uploads: 1000, ..Default::default() };
    let mut uploads = BTreeMap::new();
    for upload in engine.list_uploads(&all)?.uploads {
        let parts = engine.list_parts(BUCKET, &upload.key, &upload.upload_id, 0, 100)?.parts;
        uploads.insert(upload.upload_id.clone(), (upload, parts));
    }
    Ok(Everything { objects, uploads })
}

/// Whether what was found is this object.
fn is(found: &Found, object: &Object) -> bool {
    let (info, listed) = (&found.info, &found.listed);
    object.etags.contains(&info.etag)
        && info.size == object.bytes.len() as u64
        && info.last_modified == object.modified
        && info.attributes == object.attributes
        && (listed.size, &listed.etag, listed.last_modified) == (info.size, &info.etag, info.last_modified)
        && found.bytes.as_ref().is_ok_and(|bytes| *bytes == *object.bytes) | found.bytes.is_err()
}

fn describe(found: Option<&Found>) -> String {
    let Some(Found { info, bytes, .. }) = found else { return "nothing".to_owned() };
    let bytes = bytes.as_ref().map(|b| format!("{} bytes", b.len())).unwrap_or_else(|e| format!("error: {e}"));
    format!(
        "{} bytes, etag {}, modified {}, {:?}, {:?}, read: {bytes}",
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
                Ok(Everything { objects: BTreeMap::new(), uploads: BTreeMap::new() })
            }
            other => other.map_err(|e| format!("looking: {e}")),
        };
        let done = looked.and_then(|found| {
            let seq = self.seq();
            self.compare_uploads(&found, seq)
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

    fn compare_objects(&mut self, all: &Everything, seq: u64) -> Result<(), String> {
        let (now, follows) = (self.clock.now(), self.engine().standby_lag().is_some());
        for found in all.objects.values() {
            self.count(match &found.info.residency {
                Residency::Hot => "hot",
                Residency::Cold { .. } => "cold",
                Residency::Restored { .. } => "restored",
                Residency::Protected { .. } => "protected",
            });
            if found.bytes.as_ref().is_err_and(|e| matches!(e, EngineError::Corrupt(_))) {
                self.count("lost");
            }
        }
        for (key, slot) in &mut self.model.slots {
            let found = all.objects.get(key);
            let maybe = std::mem::take(&mut slot.maybe);
            let candidates = maybe.iter().map(|(from, held)| (Some(*from), held.clone()));
            let mut candidates: Vec<(Option<u64>, Held)> =
                [(None, slot.now.clone())].into_iter().chain(candidates).collect();
            if candidates.iter().flat_map(|(_, held)| held).any(|o| is_expired(key, o.created, now)) {
                let last = slot.past.last().map_or(0, |p| p.to);
                candidates.push((Some(last), None));
            }
            let fits = |held: &Held| match (held, found) {
                (None, None) => true,
                (Some(object), Some(found)) => is(found, object),
                _ => false,
            };
            let Some((from, held)) = candidates.iter().find(|(_, held)| fits(held)) else {
                let allowed: Vec<_> = candidates.iter().map(|(_, held)| held).collect();
                return Err(format!("{key} holds {}; allowed is one of {allowed:?}", describe(found)));
            };
            if let Some(from) = from {
                slot.past.push(Past { from: *from, to: seq, held: held.clone() });
                slot.now.clone_from(held);
            }
            let Some(found) = found else {
                slot.lost = false;
                continue;
            };
            match &found.bytes {
                Ok(_) => {}
                Err(EngineError::InvalidObjectState { .. }) if matches!(&found.info.residency, Residency::Cold { tier } if tier == "archive") =>
                    {}
                Err(EngineError::Corrupt(_)) if slot.lost => {}
                // Its bytes were on the lost disk, and the same bytes are in an archive.
                Err(EngineError::Tier { source, .. })
                    if self.recovered
                        && found.info.residency == Residency::Hot
                        && source.kind() == TierErrorKind::Frozen =>
                {
                    slot.lost = true;
                }
                // A restored copy is on the primary's disk.
                Err(EngineError::Tier { source, .. }) if follows && source.kind() == TierErrorKind::Frozen => {}
                Err(e) => return Err(format!("{key} cannot be read: {e}; it is {}", describe(Some(found)))),
            }
        }
        Ok(())
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
            if self.model.held(key).is_some_and(|held| Arc::ptr_eq(&held, &makes)) {
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
        let lossy = follows || self.model.slots.values().any(|slot| slot.lost);
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
