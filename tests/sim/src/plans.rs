//! Operations of clients: what is asked, what it changes, and what the answer must be.

use super::body::{any_body, etag, etag_of_parts, open, secret};
use super::changes::At;
use super::common::{body, read};
use super::model::{Effect, Object, Part, is_abandoned};
use super::versions::{Version, deleted, written};
use super::world::World;
use futures::FutureExt;
use futures::future::BoxFuture;
use std::sync::Arc;
use tidegate_tiering::clock::Clock;
use tidegate_tiering::engine::*;
use tidegate_tiering::tier::RestorePriority;

pub const BUCKET: &str = "bkt";

/// What an operation answered.
#[derive(Debug)]
pub enum Answer {
    Done,
    /// The id of an upload.
    Upload(String),
    /// Of a part.
    Etag(String),
    /// Of an object, and the version's id.
    Wrote(String, VersionId),
    /// The id of a delete marker.
    Marked(VersionId),
    /// Bytes of a range.
    Bytes(Vec<u8>),
    /// The object is archived, and so was said.
    Archived,
    /// Nothing was changed, rightly.
    Refused,
}

impl Answer {
    fn wrote(written: Written) -> Answer {
        Answer::Wrote(written.etag, written.version)
    }
}

pub type Outcome = Result<Answer, EngineError>;

/// An operation, ready to be run.
pub struct Plan {
    pub text: String,
    /// Keys that nobody else may touch meanwhile.
    pub keys: Vec<String>,
    pub effects: Vec<Effect>,
    /// What a read must give.
    pub bytes: Option<Arc<Vec<u8>>>,
    /// The cloud may be asked, and fail.
    pub cloud: bool,
    /// Bytes that were on a lost disk may be asked for.
    pub lost: bool,
    pub run: BoxFuture<'static, Outcome>,
}

impl Plan {
    pub fn new(text: String, keys: &[&str], run: BoxFuture<'static, Outcome>) -> Plan {
        let keys = keys.iter().map(|k| (*k).to_owned()).collect();
        Plan { text, keys, effects: Vec::new(), bytes: None, cloud: false, lost: false, run }
    }

    pub fn with(mut self, effect: Effect) -> Plan {
        self.effects.push(effect);
        self
    }
}

impl World {
    /// A version on top of what a key has.
    fn hold(&self, key: &str, (object, lost): (Object, bool)) -> Effect {
        let new = Version { lost, ..Version::new(Some(Arc::new(object)), self.clock.now()) };
        Effect::Hold { key: key.to_owned(), stack: written(self.stack(key), self.versioning(), new) }
    }

    fn attributes(&mut self) -> ObjectAttributes {
        let class = [None, None, None, None, Some("STANDARD_IA"), Some("GLACIER")][self.dice.below(6) as usize];
        let tags = (0..self.dice.below(3)).map(|n| (format!("tag{n}"), self.dice.below(10).to_string())).collect();
        ObjectAttributes {
            user_metadata: vec![("roll".into(), self.dice.below(100).to_string())],
            storage_class: class.map(str::to_owned),
            tags,
            ..Default::default()
        }
    }

    pub fn put(&mut self, key: &str, bytes: Arc<Vec<u8>>) -> Plan {
        self.put_with(key, bytes, (false, WriteCondition::default()))
    }

    pub fn put_with(&mut self, key: &str, bytes: Arc<Vec<u8>>, (sealed, condition): (bool, WriteCondition)) -> Plan {
        let (attributes, now, engine) = (self.attributes(), self.clock.now(), self.engine());
        let length = (self.dice.below(4) != 0).then_some(bytes.len() as u64);
        let expect = BodyExpectation { length, customer_key: sealed.then(secret), ..Default::default() };
        let told = if condition == WriteCondition::default() { "" } else { ", with a condition" };
        let text = format!("put {key}, {} bytes, class {:?}{told}", bytes.len(), attributes.storage_class);
        let put =
            PutObject { bucket: BUCKET.into(), key: key.to_owned(), attributes: attributes.clone(), expect, condition };
        let etags = if sealed { Vec::new() } else { vec![etag(&bytes)] };
        let sent = Arc::clone(&bytes);
        let run = async move { engine.put_object(put, body(&sent)).await.map(Answer::wrote) };
        let object = Object { bytes, etags, modified: now, created: now, attributes, sealed };
        let effect = self.hold(key, (object, false));
        Plan::new(text, &[key], run.boxed()).with(effect)
    }

    /// A write with a condition: that nothing is there, or this very object.
    pub fn put_if(&mut self, key: &str) -> Plan {
        let there = self.model.held(key).filter(|_| !self.may_have_gone(key));
        let bytes = any_body(&mut self.dice);
        let Some(there) = there else {
            return self.put(key, bytes);
        };
        let engine = self.engine();
        let condition = match self.dice.below(3) {
            0 => {
                let etag = there.etags.first().filter(|_| there.etags.len() == 1).cloned();
                let if_match = Some(etag.unwrap_or_else(|| "*".to_owned()));
                return self.put_with(key, bytes, (false, WriteCondition { if_match, ..Default::default() }));
            }
            1 => WriteCondition { if_match: Some("another".into()), ..Default::default() },
            _ => WriteCondition { if_none_match: vec!["*".into()], ..Default::default() },
        };
        let text = format!("put {key} with {condition:?}, which does not hold");
        let put = PutObject {
            bucket: BUCKET.into(),
            key: key.to_owned(),
            attributes: ObjectAttributes::default(),
            expect: BodyExpectation::default(),
            condition,
        };
        let run = async move {
            match engine.put_object(put, body(&bytes)).await {
                Err(EngineError::PreconditionFailed(_)) => Ok(Answer::Refused),
                Err(e) => Err(e),
                Ok(_) => Err(EngineError::Internal("a write that must be refused was not".into())),
            }
        };
        Plan::new(text, &[key], run.boxed())
    }

    /// Without the name of a version.
    pub fn delete(&mut self, key: &str) -> Plan {
        let (engine, held, now) = (self.engine(), self.model.held(key), self.clock.now());
        let unsure = self.may_have_gone(key);
        let (named, there, versions) = (key.to_owned(), held.is_some(), self.versioning() != Versioning::Off);
        let run = async move {
            let done = engine.delete_object(BUCKET, &named, DeleteRequest::default()).await?;
            let answer = match done.version {
                Some((id, _)) if versions && done.marker => Answer::Marked(id),
                None if !versions => Answer::Done,
                other => return Err(EngineError::Internal(format!("a delete answers {other:?}"))),
            };
            if done.existed == there || unsure {
                return Ok(answer);
            }
            Err(EngineError::Internal(format!("a delete says that something was there: {}", done.existed)))
        };
        let stack = deleted(self.stack(key), self.versioning(), now);
        Plan::new(format!("delete {key}"), &[key], run.boxed()).with(Effect::Hold { key: key.to_owned(), stack })
    }

    /// A copy, or a change of metadata in place.
    pub fn copy(&mut self, from: &At, to: &str) -> Option<Plan> {
        let (source, lost) = (self.of(from).object.clone()?, self.of(from).lost);
        let engine = self.engine();
        let replace = (self.dice.below(2) == 0).then(|| self.attributes());
        let classes =
            [None, source.attributes.storage_class.clone(), Some("STANDARD_IA".into()), Some("GLACIER".into())];
        let class = classes[self.dice.below(4) as usize].clone();
        let attributes = replace.clone().unwrap_or_else(|| source.attributes.clone());
        let tags = (self.dice.below(3) == 0).then(|| vec![("copied".to_owned(), self.dice.below(100).to_string())]);
        let told = tags.clone().unwrap_or_else(|| source.attributes.tags.clone());
        let attributes = ObjectAttributes { storage_class: class.clone(), tags: told, ..attributes };
        let now = self.clock.now();
        let created = if from.key == to && from.place == 0 { source.created } else { now };
        let mut etags = source.etags.clone();
        etags.push(etag(&source.bytes));
        if source.sealed {
            etags.clear();
        }
        let (bytes, sealed) = (Arc::clone(&source.bytes), source.sealed);
        let object = Object { bytes, etags, modified: now, created, attributes, sealed };
        let (source_key, version, key) = (from.key.clone(), from.version, to.to_owned());
        let run = async move {
            let opened = engine.open_version(BUCKET, &source_key, version)?;
            let archived =
                |e: &Engine| e.open_version(BUCKET, &source_key, version).is_ok_and(|h| h.check_readable().is_err());
            let was_archived = opened.check_readable().is_err();
            let copy = CopyObject {
                source_bucket: BUCKET.into(),
                source_key: source_key.clone(),
                source_version: opened.info().version,
                bucket: BUCKET.into(),
                key,
                replace_attributes: replace,
                replace_tags: tags,
                storage_class: class,
                checksum: None,
                condition: WriteCondition::default(),
            };
            let keys = CopyKeys { source: sealed.then(secret), target: sealed.then(secret) };
            match engine.copy_object_with_keys(copy, &keys).await {
                Err(EngineError::InvalidObjectState { .. }) if was_archived || archived(&engine) => {
                    Ok(Answer::Archived)
                }
                done => done.map(Answer::wrote),
            }
        };
        let text = format!("copy {from} to {to}");
        let effect = self.hold(to, (object, lost));
        let mut plan = Plan::new(text, &[&from.key, to], run.boxed()).with(effect);
        (plan.cloud, plan.lost) = (true, lost);
        Some(plan)
    }

    pub fn begin_upload(&mut self, key: &str) -> Plan {
        let (attributes, engine, now) = (self.attributes(), self.engine(), self.clock.now());
        let create =
            CreateUpload { bucket: BUCKET.into(), key: key.to_owned(), attributes: attributes.clone(), checksum: None };
        let run = async move { engine.create_upload(create).await.map(Answer::Upload) };
        let effect = Effect::Begin { key: key.to_owned(), initiated: now, attributes: Box::new(attributes) };
        Plan::new(format!("begin an upload to {key}"), &[key], run.boxed()).with(effect)
    }

    /// Something with an upload that is under way.
    pub fn go_on_with_upload(&mut self) -> Option<Plan> {
        let now = self.clock.now();
        let open: Vec<_> =
            self.model.open_uploads().into_iter().filter(|id| !is_abandoned(&self.model.uploads[id], now)).collect();
        let id = open.get(self.dice.below(open.len() as u64) as usize)?.clone();
        let (key, parts) = (self.model.uploads[&id].key.clone(), self.model.uploads[&id].parts.len());
        match self.dice.below(8) {
            0 => Some(self.abort(&key, &id)),
            1..=3 if parts > 0 => Some(self.complete(&key, &id)),
            _ => Some(self.upload_part(&key, &id)),
        }
    }

    fn upload_part(&mut self, key: &str, id: &str) -> Plan {
        let number = 1 + self.dice.below(5) as u32;
        // Now and then the same bytes as the part before.
        let before = self.model.uploads[id].parts.get(&(number - 1)).map(|p| Arc::clone(&p.bytes));
        let bytes = before.filter(|_| self.dice.below(3) == 0).unwrap_or_else(|| any_body(&mut self.dice));
        self.part(key, id, (number, bytes))
    }

    pub fn part(&mut self, key: &str, id: &str, (number, bytes): (u32, Arc<Vec<u8>>)) -> Plan {
        let part = Part { etag: etag(&bytes), bytes: Arc::clone(&bytes) };
        let engine = self.engine();
        let asked = UploadPart {
            bucket: BUCKET.into(),
            key: key.to_owned(),
            upload_id: id.to_owned(),
            number,
            expect: BodyExpectation { length: Some(bytes.len() as u64), ..Default::default() },
        };
        let run = async move { engine.upload_part(asked, body(&bytes)).await.map(|info| Answer::Etag(info.etag)) };
        let text = format!("part {number} of the upload to {key}, {} bytes", part.bytes.len());
        Plan::new(text, &[key], run.boxed()).with(Effect::Part { id: id.to_owned(), number, part })
    }

    pub fn complete(&mut self, key: &str, id: &str) -> Plan {
        let (engine, now, upload) = (self.engine(), self.clock.now(), &self.model.uploads[id]);
        let etags = vec![etag_of_parts(upload.parts.values().map(|p| p.etag.as_str()))];
        let (bytes, attributes) = (Arc::new(upload.whole()), upload.attributes.clone());
        let part = |(n, part): (&u32, &Part)| CompletedPart { number: *n, etag: part.etag.clone(), checksum: None };
        let complete = CompleteUpload {
            bucket: BUCKET.into(),
            key: key.to_owned(),
            upload_id: id.to_owned(),
            parts: upload.parts.iter().map(part).collect(),
            expect_checksum: None,
            expect_size: None,
            condition: WriteCondition::default(),
        };
        let run = async move { engine.complete_upload(complete).await.map(Answer::wrote) };
        let object = Arc::new(Object { bytes, etags, modified: now, created: now, attributes, sealed: false });
        let text = format!("complete the upload to {key}, {} parts", upload.parts.len());
        let new = Version::new(Some(Arc::clone(&object)), now);
        let stack = written(self.stack(key), self.versioning(), new);
        Plan::new(text, &[key], run.boxed())
            .with(Effect::Hold { key: key.to_owned(), stack })
            .with(Effect::End { id: id.to_owned(), makes: Some(object) })
    }

    pub fn abort(&mut self, key: &str, id: &str) -> Plan {
        let (engine, named, upload) = (self.engine(), key.to_owned(), id.to_owned());
        let run = async move { engine.abort_upload(BUCKET, &named, &upload).await.map(|()| Answer::Done) };
        let effect = Effect::End { id: id.to_owned(), makes: None };
        Plan::new(format!("abort the upload to {key}"), &[key], run.boxed()).with(effect)
    }

    /// A range of an object, or all of it.
    pub fn get(&mut self, at: &At) -> Option<Plan> {
        let (object, lost) = (self.of(at).object.clone()?, self.of(at).lost);
        let size = object.bytes.len() as u64;
        let range = match self.dice.below(2) {
            0 => 0..size,
            _ => {
                let from = self.dice.below(size + 1);
                from..from + self.dice.below(size - from + 1)
            }
        };
        let want = object.bytes[range.start as usize..range.end as usize].to_vec();
        let (engine, key, version, asked) = (self.engine(), at.key.clone(), at.version, range.clone());
        let run = async move {
            let handle = open(&engine, &key, version)?;
            match handle.read(asked).await {
                Err(EngineError::InvalidObjectState { .. }) if handle.check_readable().is_err() => Ok(Answer::Archived),
                stream => read(stream?).await.map(Answer::Bytes),
            }
        };
        let mut plan = Plan::new(format!("get {at} {range:?}"), &[&at.key], run.boxed());
        (plan.bytes, plan.cloud, plan.lost) = (Some(Arc::new(want)), true, lost);
        Some(plan)
    }

    pub fn restore(&mut self, at: &At) -> Plan {
        let (engine, days) = (self.engine(), 1 + self.dice.below(20) as u32);
        let request = RestoreRequest {
            bucket: BUCKET.into(),
            key: at.key.clone(),
            version: at.version,
            days,
            priority: RestorePriority::Standard,
        };
        let run = async move {
            match engine.restore_object(request).await {
                Ok(_) => Ok(Answer::Done),
                Err(EngineError::RestoreInProgress | EngineError::NotArchived { .. }) => Ok(Answer::Refused),
                Err(e) => Err(e),
            }
        };
        Plan::new(format!("restore {at} for {days} days"), &[&at.key], run.boxed())
    }
}

impl Plan {
    /// What is wrong with an answer.
    pub fn judge(&self, answer: &Answer) -> Result<(), String> {
        match answer {
            Answer::Bytes(bytes) if self.bytes.as_ref().is_some_and(|want| **want != *bytes) => {
                Err(format!("{}: wrong bytes: {} came", self.text, bytes.len()))
            }
            Answer::Wrote(etag, _) | Answer::Etag(etag) => {
                let right = self.effects.iter().any(|effect| match effect {
                    Effect::Hold { stack, .. } => newest(stack).is_some_and(|o| o.may_have(etag)),
                    Effect::Part { part, .. } => part.etag == *etag,
                    _ => false,
                });
                if right { Ok(()) } else { Err(format!("{}: a wrong ETag: {etag}", self.text)) }
            }
            _ => Ok(()),
        }
    }

    /// Whether an error is in order.
    pub fn tolerates(&self, error: &EngineError, calm: bool) -> bool {
        match error {
            EngineError::Tier { .. } => self.cloud && (self.lost || !calm),
            EngineError::Corrupt(_) | EngineError::Body(_) => (self.cloud && !calm) || self.lost,
            _ => false,
        }
    }

    /// What is changed by this answer.
    pub fn changes(&self, answer: &Answer) -> Vec<Effect> {
        match answer {
            Answer::Archived | Answer::Refused => Vec::new(),
            Answer::Wrote(etag, id) => self.effects.iter().map(|effect| named(effect, *id, Some(etag))).collect(),
            Answer::Marked(id) => self.effects.iter().map(|effect| named(effect, *id, None)).collect(),
            _ => self.effects.clone(),
        }
    }
}

fn newest(stack: &[Version]) -> Option<&Arc<Object>> {
    stack.first().and_then(|version| version.object.as_ref())
}

/// With the id that was answered, and the ETag as the only one.
fn named(effect: &Effect, id: VersionId, etag: Option<&String>) -> Effect {
    let Effect::Hold { key, stack } = effect else { return effect.clone() };
    let mut stack = stack.clone();
    if let Some(new) = stack.first_mut() {
        new.id = Some(id);
        if let (Some(o), Some(etag)) = (&new.object, etag) {
            let (bytes, attributes, etags) = (Arc::clone(&o.bytes), o.attributes.clone(), vec![etag.clone()]);
            let (modified, created, sealed) = (o.modified, o.created, o.sealed);
            new.object = Some(Arc::new(Object { bytes, etags, modified, created, attributes, sealed }));
        }
    }
    Effect::Hold { key: key.clone(), stack }
}
