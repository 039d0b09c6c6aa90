//! What must be there: a map of keys with their versions, one of uploads, and what is set for the bucket. With each change stands
//! between which records of the journal it was committed, so that the state at any record can be told; and what was under way when the
//! process ended may have happened.

use super::versions::{Settings, Stack, Version};
use std::collections::BTreeMap;
use std::fmt;
use std::sync::Arc;
use std::time::Duration;
use tidegate_tiering::clock::Timestamp;
use tidegate_tiering::engine::{ObjectAttributes, VersionId};

const DAY: Duration = Duration::from_secs(86_400);

pub struct Object {
    pub bytes: Arc<Vec<u8>>,
    /// One of these, or any where there is none; a copy of a multipart object may keep the ETag of its parts or get one of its own.
    pub etags: Vec<String>,
    pub modified: Timestamp,
    /// What rules count from.
    pub created: Timestamp,
    pub attributes: ObjectAttributes,
    /// With the key of a client.
    pub sealed: bool,
}

impl Object {
    pub fn may_have(&self, etag: &str) -> bool {
        self.etags.is_empty() || self.etags.iter().any(|its| its == etag)
    }
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

/// A state, from a commit that is one of the records after `from` and up to `to`.
#[derive(Debug, Clone)]
pub struct Past<T> {
    pub from: u64,
    pub to: u64,
    pub state: T,
}

/// What something is, may be and was.
#[derive(Debug, Clone, Default)]
pub struct Slot<T> {
    pub now: T,
    /// What was under way when the process ended, and the last record before it.
    pub maybe: Vec<(u64, T)>,
    pub past: Vec<Past<T>>,
}

impl<T: Clone + Default> Slot<T> {
    fn set(&mut self, state: &T, (from, to): (u64, u64)) {
        self.now.clone_from(state);
        self.past.push(Past { from, to, state: state.clone() });
    }

    /// What was found, which was under way after the record `from`, or was brought about by rules since the last change.
    pub fn found(&mut self, state: T, from: Option<u64>, seq: u64) {
        let from = from.unwrap_or_else(|| self.past.last().map_or(0, |past| past.to));
        self.set(&state, (from, seq));
    }

    fn rewind(&mut self, last: u64) {
        self.maybe.clear();
        self.now = T::default();
        for one in std::mem::take(&mut self.past) {
            if one.to <= last {
                self.now.clone_from(&one.state);
                self.past.push(one);
            } else if one.from < last {
                self.maybe.push((one.from, one.state));
            }
        }
    }
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
    Hold { key: String, stack: Stack },
    Set(Settings),
    Begin { key: String, initiated: Timestamp, attributes: Box<ObjectAttributes> },
    Part { id: String, number: u32, part: Part },
    End { id: String, makes: Held },
}

#[derive(Debug, Clone, Default)]
pub struct Model {
    /// The record up to which the bucket was made.
    pub bucket: Option<u64>,
    pub settings: Slot<Settings>,
    pub slots: BTreeMap<String, Slot<Stack>>,
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
    pub fn slot(&mut self, key: &str) -> &mut Slot<Stack> {
        self.slots.entry(key.to_owned()).or_default()
    }

    /// All versions of a key.
    pub fn stack(&self, key: &str) -> &[Version] {
        self.slots.get(key).map_or(&[], |slot| &slot.now)
    }

    /// What is visible.
    pub fn held(&self, key: &str) -> Held {
        self.stack(key).first().and_then(|version| version.object.clone())
    }

    /// Every version of every key, with its place.
    pub fn versions(&self) -> impl Iterator<Item = (&str, usize, &Version)> {
        self.slots.iter().flat_map(|(key, slot)| {
            slot.now.iter().enumerate().map(move |(place, version)| (key.as_str(), place, version))
        })
    }

    /// Notes whose bytes were on a disk that is lost.
    pub fn lose(&mut self, is_lost: impl Fn(&str, Option<VersionId>) -> bool) {
        for (key, slot) in &mut self.slots {
            for version in slot.now.iter_mut().chain(slot.maybe.iter_mut().flat_map(|(_, stack)| stack)) {
                version.lost = version.object.is_some() && is_lost(key, version.id);
            }
        }
    }

    /// Ids of uploads under way.
    pub fn open_uploads(&self) -> Vec<String> {
        self.uploads.iter().filter(|(_, u)| u.ended.is_none()).map(|(id, _)| id.clone()).collect()
    }

    /// An acknowledged change. `id` is that of a new upload.
    pub fn apply(&mut self, effect: &Effect, (from, to): (u64, u64), id: Option<&str>) {
        match effect {
            Effect::Hold { key, stack } => self.slot(key).set(stack, (from, to)),
            Effect::Set(settings) => self.settings.set(settings, (from, to)),
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
            Effect::Hold { key, stack } => self.slot(key).maybe.push((from, stack.clone())),
            Effect::Set(settings) => self.settings.maybe.push((from, *settings)),
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
        self.settings.rewind(last);
        self.slots.values_mut().for_each(|slot| slot.rewind(last));
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
