//! Which versions of which keys operations are about; removals, other tags, and what is set for the bucket.

use super::model::{Effect, Object};
use super::plans::{Answer, BUCKET, Plan};
use super::versions::{Judge, LIFECYCLES, Settings, Stack, Version, removed};
use super::world::World;
use futures::FutureExt;
use std::fmt;
use std::sync::Arc;
use tidegate_tiering::clock::Clock;
use tidegate_tiering::engine::*;

/// A version of a key: its place, and how it is asked for.
#[derive(Debug, Clone)]
pub struct At {
    pub key: String,
    pub place: usize,
    pub version: VersionRef,
}

/// Without the id, which is not the seed's.
impl fmt::Display for At {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}, version {}", self.key, self.place)
    }
}

impl World {
    /// Of the names on one prefix each begins the next: whoever skips one in a listing is found out.
    pub fn any_key(&mut self) -> String {
        let prefix = ["a", "b", "c", "h"][self.dice.below(4) as usize];
        format!("{prefix}/{}", "1".repeat(1 + self.dice.below(4) as usize))
    }

    pub fn judge<'a>(&self, key: &'a str) -> Judge<'a> {
        Judge { key, settings: self.model.settings.now, now: self.clock.now() }
    }

    /// The versions of a key, of which rules may have taken some.
    pub fn stack(&self, key: &str) -> Stack {
        self.judge(key).noted(self.model.stack(key).to_vec())
    }

    /// Whether a rule may have made something else of the latest version.
    pub fn may_have_gone(&self, key: &str) -> bool {
        let (judge, stack) = (self.judge(key), self.model.stack(key));
        stack.first().is_some_and(|latest| judge.ended(latest) || judge.may_go(stack, 0))
    }

    pub fn versioning(&self) -> Versioning {
        self.model.settings.now.versioning
    }

    /// Versions that no rule may take away just now, nor put anything on top of.
    fn steady(&self) -> Vec<At> {
        let steady = |(key, place, version): (&str, usize, &Version)| {
            let (judge, stack) = (self.judge(key), self.model.stack(key));
            // What an uncertain latest version leaves behind may be the latest itself.
            let steady = version.id.is_some() && !self.may_have_gone(key) && !judge.may_go(stack, place);
            steady.then(|| At { key: key.to_owned(), place, version: version.named() })
        };
        self.model.versions().filter_map(steady).collect()
    }

    pub fn of(&self, at: &At) -> &Version {
        &self.model.stack(&at.key)[at.place]
    }

    /// One with a body; the latest is mostly asked for as such.
    pub fn existing(&mut self) -> Option<At> {
        let all: Vec<At> = self.steady().into_iter().filter(|at| self.of(at).object.is_some()).collect();
        let mut at = all.get(self.dice.below(all.len() as u64) as usize)?.clone();
        if at.place == 0 && self.dice.below(3) != 0 {
            at.version = VersionRef::Current;
        }
        Some(at)
    }

    /// Takes a version out that is there.
    pub fn remove(&mut self, at: &At) -> Plan {
        let (engine, key, marker) = (self.engine(), at.key.clone(), self.of(at).object.is_none());
        let version = self.of(at).named();
        let delete = DeleteRequest { version, ..DeleteRequest::default() };
        let run = async move {
            let done = engine.delete_object(BUCKET, &key, delete).await?;
            match done.existed && done.marker == marker && done.version.is_some() {
                true => Ok(Answer::Done),
                false => Err(EngineError::Internal(format!("the removal of a version answers {done:?}"))),
            }
        };
        let stack = removed(self.stack(&at.key), at.place);
        Plan::new(format!("remove {at}"), &[&at.key], run.boxed()).with(Effect::Hold { key: at.key.clone(), stack })
    }

    /// Any version or marker.
    pub fn remove_any(&mut self) -> Option<Plan> {
        let all = self.steady();
        let at = all.get(self.dice.below(all.len() as u64) as usize)?;
        Some(self.remove(at))
    }

    /// Other tags for a version, in place.
    pub fn retag(&mut self, at: &At) -> Option<Plan> {
        let was = self.of(at).object.clone()?;
        let tags = vec![("again".to_owned(), self.dice.below(1_000).to_string())];
        let attributes = ObjectAttributes { tags: tags.clone(), ..was.attributes.clone() };
        let (bytes, etags) = (Arc::clone(&was.bytes), was.etags.clone());
        let object =
            Object { bytes, etags, attributes, modified: was.modified, created: was.created, sealed: was.sealed };
        let mut stack = self.stack(&at.key);
        stack[at.place].object = Some(Arc::new(object));
        let (engine, key, version) = (self.engine(), at.key.clone(), at.version);
        let run = async move {
            let change = |attributes: &mut ObjectAttributes| {
                attributes.tags.clone_from(&tags);
                Ok(())
            };
            engine.update_attributes(BUCKET, &key, version, change).await.map(|_| Answer::Done)
        };
        let text = format!("other tags for {at}");
        Some(Plan::new(text, &[&at.key], run.boxed()).with(Effect::Hold { key: at.key.clone(), stack }))
    }

    /// Turns versions on, suspends them, sets another lifecycle.
    pub fn settings_change(&mut self) -> Plan {
        let versioning = match (self.versioning(), self.dice.below(3)) {
            (Versioning::Off, 0) | (Versioning::Enabled, 0 | 1) => Versioning::Suspended,
            _ => Versioning::Enabled,
        };
        let versioning = if self.dice.below(3) == 0 { self.versioning() } else { versioning };
        let lifecycle = LIFECYCLES[self.dice.below(LIFECYCLES.len() as u64) as usize];
        let settings = Settings { versioning, lifecycle };
        let engine = self.engine();
        let run = async move {
            let set = |found: &mut BucketSettings| {
                settings.set(found);
                Ok(())
            };
            engine.configure_bucket(BUCKET, set).await.map(|()| Answer::Done)
        };
        Plan::new(format!("set {settings:?}"), &[], run.boxed()).with(Effect::Set(settings))
    }
}
