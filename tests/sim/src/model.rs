//! What must be there: a map of keys and one of uploads. With each change stands between which records of the journal it was
//! committed, so that the state at any record can be told; and what was under way when the process ended may have happened.

use std::collections::BTreeMap;
use std::fmt;
use std::sync::Arc;
use std::time::Duration;
use tidegate_tiering::clock::Timestamp;
use tidegate_tiering::engine::ObjectAttributes;

const DAY: Duration = Duration::from_secs(86_400);

pub struct Object {
    pub bytes: Arc<Vec<u8>>,
    /// One of these; a copy of a multipart object may keep the ETag of its parts or get one of its own.
    pub etags: Vec<String>,
    pub modified: Timestamp,
    /// What rules count from.
    pub created: Timestamp,
    pub attributes: ObjectAttributes,
}

impl fmt::Debug for Object {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(
            f,
            "{} bytes, etag {:?}, modified {}, {:?}",
            self.bytes.len(),
            self.etags,
            self.modified,
            self.attributes
        )
    }
}

pub type Held = Option<Arc<Object>>;

/// A state of a key, from a commit that is one of the records after `from` and up to `to`.
#[derive(Debug, Clone)]
pub struct Past {
    pub from: u64,
    pub to: u64,
    pub held: Held,
}

#[derive(Debug, Clone, Default)]
pub struct Slot {
    pub now: Held,
    /// What was under way when the process ended, and the last record before it.
    pub maybe: Vec<(u64, Held)>,
    pub past: Vec<Past>,
    /// Its bytes were on a disk that was lost: a read may say so.
    pub lost: bool,
}

#[derive(Debug, Clone)]
pub struct Part {
    pub etag: String,
    pub bytes: Arc<Vec<u8>>,
}

#[derive(Debug, Clone)]
pub struct Upload {
    pub key: String,
    pub initiated: Timestamp,
    pub attributes: ObjectAttributes,
    pub began: (u64, u64),
    pub ended: Option<(u64, u64)>,
    /// An end that was under way: the last record before it, and the object that it makes, or none.
    pub maybe_ended: Option<(u64, Held)>,
    pub parts: BTreeMap<u32, Part>,
    pub maybe_parts: Vec<(u32, Part)>,
    /// Every part that there ever was.
    pub past: Vec<(u32, Part)>,
}

impl Upload {
    pub fn new(key: &str, initiated: Timestamp, attributes: ObjectAttributes, began: (u64, u64)) -> Upload {
        let (ended, maybe_ended, parts, key) = (None, None, BTreeMap::new(), key.to_owned());
        let (maybe_parts, past) = (Vec::new(), Vec::new());
        Upload { key, initiated, attributes, began, ended, maybe_ended, parts, maybe_parts, past }
    }

    pub fn whole(&self) -> Vec<u8> {
        self.parts.values().flat_map(|p| p.bytes.iter().copied()).collect()
    }
}

/// What an operation changes.
#[derive(Debug, Clone)]
pub enum Effect {
    Hold { key: String, held: Held },
    Begin { key: String, initiated: Timestamp, attributes: Box<ObjectAttributes> },
    Part { id: String, number: u32, part: Part },
    End { id: String, makes: Held },
}

#[derive(Debug, Clone, Default)]
pub struct Model {
    /// The record up to which the bucket was made.
    pub bucket: Option<u64>,
    pub slots: BTreeMap<String, Slot>,
    pub uploads: BTreeMap<String, Upload>,
    /// Uploads that were being begun.
    pub maybe_begun: Vec<(u64, Upload)>,
    /// Records that were durable at some times.
    pub marks: Vec<(u64, Timestamp)>,
    /// The last record that was known to be in the cloud.
    pub shipped: u64,
}

/// Whether the policy has put an end to an object, if somebody has looked.
pub fn is_expired(key: &str, created: Timestamp, now: Timestamp) -> bool {
    key.starts_with("c/") && created.plus(DAY * 60) <= now
}

pub fn is_abandoned(upload: &Upload, now: Timestamp) -> bool {
    upload.key.starts_with("c/") && upload.initiated.plus(DAY * 7) <= now
}

impl Model {
    pub fn slot(&mut self, key: &str) -> &mut Slot {
        self.slots.entry(key.to_owned()).or_default()
    }

    pub fn held(&self, key: &str) -> Held {
        self.slots.get(key).and_then(|slot| slot.now.clone())
    }

    pub fn is_lost(&self, key: &str) -> bool {
        self.slots.get(key).is_some_and(|slot| slot.lost)
    }

    /// Keys that hold something.
    pub fn keys(&self) -> Vec<String> {
        self.slots.iter().filter(|(_, slot)| slot.now.is_some()).map(|(key, _)| key.clone()).collect()
    }

    /// Ids of uploads under way.
    pub fn open_uploads(&self) -> Vec<String> {
        self.uploads.iter().filter(|(_, u)| u.ended.is_none()).map(|(id, _)| id.clone()).collect()
    }

    /// An acknowledged change. `id` is that of a new upload.
    pub fn apply(&mut self, effect: &Effect, (from, to): (u64, u64), id: Option<&str>) {
        match effect {
            Effect::Hold { key, held } => {
                let slot = self.slot(key);
                slot.now.clone_from(held);
                slot.past.push(Past { from, to, held: held.clone() });
            }
            Effect::Begin { key, initiated, attributes } => {
                let id = id.unwrap_or_default().to_owned();
                self.uploads.insert(id, Upload::new(key, *initiated, (**attributes).clone(), (from, to)));
            }
            Effect::Part { id, number, part } => {
                if let Some(upload) = self.uploads.get_mut(id) {
                    upload.parts.insert(*number, part.clone());
                    upload.past.push((*number, part.clone()));
                }
            }
            Effect::End { id, .. } => {
                if let Some(upload) = self.uploads.get_mut(id) {
                    upload.ended = Some((from, to));
                }
            }
        }
    }

    /// A change of which it is not known whether it happened.
    pub fn doubt(&mut self, effect: &Effect, from: u64) {
        match effect {
            Effect::Hold { key, held } => self.slot(key).maybe.push((from, held.clone())),
            Effect::Begin { key, initiated, attributes } => {
                let upload = Upload::new(key, *initiated, (**attributes).clone(), (from, u64::MAX));
                self.maybe_begun.push((from, upload));
            }
            Effect::Part { id, number, part } => {
                if let Some(upload) = self.uploads.get_mut(id) {
                    upload.maybe_parts.push((*number, part.clone()));
                    upload.past.push((*number, part.clone()));
                }
            }
            Effect::End { id, makes } => {
                if let Some(upload) = self.uploads.get_mut(id) {
                    upload.maybe_ended = Some((from, makes.clone()));
                }
            }
        }
    }

    /// Goes back to the state at record `last`: what may be there becomes what may have been under way.
    pub fn rewind(&mut self, last: u64) {
        self.bucket = self.bucket.filter(|made| *made <= last);
        for slot in self.slots.values_mut() {
            slot.maybe.clear();
            let past = std::mem::take(&mut slot.past);
            slot.now = None;
            for one in past {
                if one.to <= last {
                    slot.now.clone_from(&one.held);
                    slot.past.push(one);
                } else if one.from < last {
                    slot.maybe.push((one.from, one.held));
                }
            }
        }
        self.maybe_begun.clear();
        self.uploads.retain(|_, upload| upload.began.0 < last);
        for upload in self.uploads.values_mut() {
            upload.maybe_ended = None;
            let makes = |ended: (u64, u64)| ended.0 < last && ended.1 > last;
            match upload.ended {
                Some(ended) if makes(ended) => (upload.ended, upload.maybe_ended) = (None, Some((ended.0, None))),
                Some(ended) if ended.0 >= last => upload.ended = None,
                _ => {}
            }
        }
        self.marks.retain(|(seq, _)| *seq <= last);
        self.shipped = self.shipped.min(last);
    }
}
