//! Events: what a bucket's notifications tell of its changes, in a durable queue for each target.
//!
//! A bucket's settings hold its rules ([`NotificationRule`], as JSON, under [`SETTING`]). A commit that a rule asks to be told of
//! writes the event into the table Event as one of its own operations. So an event is durable exactly when its change is: a kill
//! loses neither alone, and nothing is told of a change that was never committed. Whoever sends the events
//! ([`Engine::events`](super::Engine::events)) takes them out once they have arrived, and after a crash sends again what was not
//! taken out yet.
//!
//! Order: the id of an event is drawn after its change has looked at what it changes, and the change is a compare-and-swap on
//! that. So of two changes of a version the one that was committed later has the greater id. Ids are the term of shipping, the epoch
//! of the store and a count, so that they grow over restarts too, and over recoveries and promotions: those begin with an epoch that
//! may have been used, but with a new term.
//!
//! Bounds: a target's queue holds as many events as its setting says. What comes when it is full is not queued, is counted, and
//! warned of. Buckets without rules cost a look at one flag.

mod queue;
mod rules;

pub use queue::{EventQueueStats, QueuedEvent};
pub use rules::{Destination, NotificationRule, SETTING, is_covered};

pub(crate) use queue::Queues;
pub(crate) use rules::Subscriptions;

use super::Core;
use super::buckets::Versioning;
use super::error::EngineError;
use super::keys;
use super::record::{ObjectRecord, Record};
use super::types::{ObjectAttributes, Residency, VersionId};
use crate::clock::Timestamp;
use crate::meta::{Batch, MetaError, MetaStore, Reason, Table};
use crate::recovery::claim::held_term;
use serde::{Deserialize, Serialize};
use std::collections::BTreeMap;
use std::path::Path;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};

/// What an event takes (bytes) in a commit besides names and keys: ETag, class, numbers, and its place in the journal.
const EVENT_BYTES: usize = 512;

/// What happened. The order is part of the stored form: new ones come last.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
pub enum EventKind {
    /// Rules were set; nothing happened to an object.
    Test,
    /// PutObject.
    CreatedPut,
    /// A form.
    CreatedPost,
    /// CopyObject.
    CreatedCopy,
    /// CompleteMultipartUpload.
    CreatedMultipart,
    /// A client deleted a version for good.
    RemovedDelete,
    /// A client made a delete marker.
    RemovedMarker,
    /// A restore was asked for.
    RestorePost,
    /// A restored copy can be read.
    RestoreCompleted,
    /// A restored copy is gone.
    RestoreDelete,
    /// A rule moved a version to a tier.
    Transition,
    /// A rule deleted a version for good.
    ExpirationDelete,
    /// A rule made a delete marker.
    ExpirationMarker,
    /// A version was given tags.
    TaggingPut,
    /// A version has no tags any more.
    TaggingDelete,
    /// The access control list of a version changed.
    AclPut,
}

impl EventKind {
    /// As S3 names it.
    pub const fn name(self) -> &'static str {
        match self {
            Self::Test => "s3:TestEvent",
            Self::CreatedPut => "s3:ObjectCreated:Put",
            Self::CreatedPost => "s3:ObjectCreated:Post",
            Self::CreatedCopy => "s3:ObjectCreated:Copy",
            Self::CreatedMultipart => "s3:ObjectCreated:CompleteMultipartUpload",
            Self::RemovedDelete => "s3:ObjectRemoved:Delete",
            Self::RemovedMarker => "s3:ObjectRemoved:DeleteMarkerCreated",
            Self::RestorePost => "s3:ObjectRestore:Post",
            Self::RestoreCompleted => "s3:ObjectRestore:Completed",
            Self::RestoreDelete => "s3:ObjectRestore:Delete",
            Self::Transition => "s3:LifecycleTransition",
            Self::ExpirationDelete => "s3:LifecycleExpiration:Delete",
            Self::ExpirationMarker => "s3:LifecycleExpiration:DeleteMarkerCreated",
            Self::TaggingPut => "s3:ObjectTagging:Put",
            Self::TaggingDelete => "s3:ObjectTagging:Delete",
            Self::AclPut => "s3:ObjectAcl:Put",
        }
    }

    /// What a deletion is, by who deletes and what is left.
    pub(crate) fn of_deletion(reason: Reason, marker: bool) -> Self {
        match (reason == Reason::Expire, marker) {
            (false, false) => Self::RemovedDelete,
            (false, true) => Self::RemovedMarker,
            (true, false) => Self::ExpirationDelete,
            (true, true) => Self::ExpirationMarker,
        }
    }

    /// Whether the event tells the size of the object, and its ETag.
    fn tells(self) -> (bool, bool) {
        match self {
            Self::CreatedPut
            | Self::CreatedPost
            | Self::CreatedCopy
            | Self::CreatedMultipart
            | Self::RestorePost
            | Self::RestoreCompleted
            | Self::RestoreDelete
            | Self::Transition => (true, true),
            Self::TaggingPut | Self::TaggingDelete | Self::AclPut => (false, true),
            Self::Test
            | Self::RemovedDelete
            | Self::RemovedMarker
            | Self::ExpirationDelete
            | Self::ExpirationMarker => (false, false),
        }
    }
}

/// Who asked for a change; all empty for what the store does itself.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Origin {
    /// Who signed the request.
    pub principal: String,
    /// The address that it came from.
    pub address: String,
    /// Its id.
    pub request: String,
}

/// Knows who asks. It is questioned only when there is an event to be told.
pub trait Asks: Send + Sync {
    /// Who it is.
    fn origin(&self) -> Origin;
    /// Whether an object comes by a form.
    fn is_form(&self) -> bool;
}

tokio::task_local! {
    static ASKING: Arc<dyn Asks>;
}

/// Does `work` for the one who asks: events of what it changes say so. Handed along with the task rather than through every call, as
/// nothing but events depends on it.
pub async fn asked_by<F: Future>(asking: Arc<dyn Asks>, work: F) -> F::Output {
    ASKING.scope(asking, work).await
}

/// An event, as it is stored.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Event {
    /// What happened.
    pub kind: EventKind,
    /// When.
    pub at: Timestamp,
    /// Where.
    pub bucket: String,
    /// The account that owns the bucket, by its canonical id; none: the first account.
    pub owner: Option<String>,
    /// Id of the rule that asked.
    pub rule: String,
    /// To which object; empty for [`EventKind::Test`].
    pub key: String,
    /// Its bytes, where the event tells of them.
    pub size: Option<u64>,
    /// Its ETag, where the event tells of it.
    pub etag: Option<String>,
    /// The version, and whether clients know it as `null`; none in a bucket that gives no version ids.
    pub version: Option<(VersionId, bool)>,
    /// Who asked for it.
    pub origin: Origin,
    /// When a restored copy ends.
    pub until: Option<Timestamp>,
    /// The storage class that a version was moved to or restored from.
    pub class: Option<String>,
}

impl Record for Event {
    const NAME: &'static str = "event";
}

/// What notifications need to be told, and what is queued.
#[derive(Debug)]
pub(crate) struct Events {
    pub subscriptions: Arc<Subscriptions>,
    pub queues: Arc<Queues>,
    /// Ids given in this epoch.
    given: AtomicU64,
    /// The last term that was claimed from this directory before it was opened: until the next is claimed, ids go on from it.
    term: u64,
}

impl Events {
    pub(crate) fn new(targets: &BTreeMap<String, u64>, data_dir: &Path) -> Self {
        let term = held_term(data_dir).unwrap_or_else(|error| {
            tracing::warn!(%error, "until a term is claimed, the sequencers of events may be lower than before");
            0
        });
        let queues = Arc::new(Queues::new(targets));
        Self { subscriptions: Arc::default(), queues, given: AtomicU64::new(0), term }
    }

    /// Reads rules and counts what waits.
    pub(crate) fn load(&self, meta: &dyn MetaStore) -> Result<(), MetaError> {
        self.subscriptions.load(meta)?;
        self.queues.load(meta)
    }
}

impl Core {
    /// Adds to a commit the events that tell of what it does to a version. `record` is the version as the commit leaves it, or
    /// removes it.
    ///
    /// # Errors
    /// An event that cannot be encoded.
    pub(crate) fn tell(
        &self,
        batch: &mut Batch,
        kind: EventKind,
        (bucket, key): (&str, &str),
        record: &ObjectRecord,
    ) -> Result<(), EngineError> {
        let Some(subscribed) = self.events.subscriptions.of(bucket) else { return Ok(()) };
        for rule in subscribed.rules.iter().filter(|rule| rule.wants(kind, key)) {
            // Gone together with its bucket: then nobody knows of versions.
            let versioned = || self.versioning(bucket).is_ok_and(|setting| setting != Versioning::Off);
            let (size, etag) = kind.tells();
            let until = match &record.residency {
                Residency::Restored { until, .. } if kind == EventKind::RestoreCompleted => Some(*until),
                _ => None,
            };
            let event = Event {
                kind,
                at: self.clock.now(),
                bucket: bucket.to_owned(),
                owner: subscribed.owner.clone(),
                rule: rule.id.clone(),
                key: key.to_owned(),
                size: size.then_some(record.size),
                etag: etag.then(|| record.etag.clone()),
                version: (!record.null || versioned()).then_some((record.version, record.null)),
                origin: ASKING.try_with(|asking| asking.origin()).unwrap_or_default(),
                until,
                class: (until.is_some() || kind == EventKind::Transition).then(|| self.class_shown(record)),
            };
            self.enqueue(batch, &rule.target, &event)?;
        }
        Ok(())
    }

    /// As [`tell`](Self::tell), of what a new version came by.
    pub(crate) fn tell_created(
        &self,
        batch: &mut Batch,
        name: (&str, &str),
        record: &ObjectRecord,
    ) -> Result<(), EngineError> {
        let kind = match batch.reason {
            Reason::CopyObject => EventKind::CreatedCopy,
            Reason::CompleteUpload => EventKind::CreatedMultipart,
            _ if ASKING.try_with(|asking| asking.is_form()).unwrap_or(false) => EventKind::CreatedPost,
            _ => EventKind::CreatedPut,
        };
        self.tell(batch, kind, name, record)
    }

    /// As [`tell`](Self::tell), of a change of what describes a version.
    pub(crate) fn tell_updated(
        &self,
        batch: &mut Batch,
        name: (&str, &str),
        (old, new): (&ObjectAttributes, &ObjectRecord),
    ) -> Result<(), EngineError> {
        if old.tags != new.attributes.tags {
            let gone = new.attributes.tags.is_empty();
            self.tell(batch, if gone { EventKind::TaggingDelete } else { EventKind::TaggingPut }, name, new)?;
        }
        if old.acl != new.attributes.acl {
            self.tell(batch, EventKind::AclPut, name, new)?;
        }
        Ok(())
    }

    /// As [`tell`](Self::tell), of a move to a tier; not when it only brings a version to the class that its client declared.
    pub(crate) fn tell_moved(
        &self,
        batch: &mut Batch,
        name: (&str, &str),
        record: &ObjectRecord,
    ) -> Result<(), EngineError> {
        let declared = self.classes.tier_of(record.attributes.storage_class.as_deref());
        if declared.is_some() && declared == record.residency.tier() {
            return Ok(());
        }
        self.tell(batch, EventKind::Transition, name, record)
    }

    /// Bytes that [`tell_moved`](Self::tell_moved) adds to a commit for a version, at most.
    pub(crate) fn moved_event_bytes(&self, (bucket, key): (&str, &str)) -> usize {
        let Some(subscribed) = self.events.subscriptions.of(bucket) else { return 0 };
        let owner = subscribed.owner.as_ref().map_or(0, String::len);
        let wants = subscribed.rules.iter().filter(|rule| rule.wants(EventKind::Transition, key));
        wants.map(|rule| bucket.len() + key.len() + owner + rule.id.len() + rule.target.len() + EVENT_BYTES).sum()
    }

    /// Adds to the commit that sets the rules of a bucket an event for each target that they name: it shows that they arrive.
    pub(super) fn tell_of_rules(
        &self,
        batch: &mut Batch,
        (bucket, owner): (&str, Option<&String>),
        rules: &[NotificationRule],
    ) -> Result<(), EngineError> {
        for (at, rule) in rules.iter().enumerate() {
            if rules.iter().take(at).any(|earlier| earlier.target == rule.target) {
                continue;
            }
            let event = Event {
                kind: EventKind::Test,
                at: self.clock.now(),
                bucket: bucket.to_owned(),
                owner: owner.cloned(),
                rule: rule.id.clone(),
                key: String::new(),
                size: None,
                etag: None,
                version: None,
                origin: ASKING.try_with(|asking| asking.origin()).unwrap_or_default(),
                until: None,
                class: None,
            };
            self.enqueue(batch, &rule.target, &event)?;
        }
        Ok(())
    }

    fn enqueue(&self, batch: &mut Batch, target: &str, event: &Event) -> Result<(), EngineError> {
        if !self.events.queues.has_room(target, batch) {
            self.metrics.events_dropped.with_label_values(&[target]).inc();
            return Ok(());
        }
        let id = self.next_event_id()?;
        let (key, value) = (keys::event(target, id), Some(event.encode()?));
        batch.ops.push(crate::meta::Op { table: Table::Event, key, value });
        Ok(())
    }

    fn next_event_id(&self) -> Result<u128, EngineError> {
        let claimed = self.ship.as_ref().map_or(0, |ship| ship.term());
        let count = self.events.given.fetch_add(1, Ordering::AcqRel);
        event_id(claimed.max(self.events.term), self.meta.epoch(), count)
    }
}

/// Term (32 bits), epoch (32), count (64).
fn event_id(term: u64, epoch: u64, count: u64) -> Result<u128, EngineError> {
    let (Ok(high), Ok(low)) = (u32::try_from(term), u32::try_from(epoch)) else {
        return Err(EngineError::Internal(format!(
            "ids of events have 32 bits each for term {term} and epoch {epoch}"
        )));
    };
    Ok((u128::from(high) << 96) | (u128::from(low) << 64) | u128::from(count))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn ids_grow_with_the_term_then_the_epoch_then_the_count() {
        assert_eq!(format!("{:032X}", event_id(2, 3, 10).unwrap()), "0000000200000003000000000000000A");
        let most = u64::from(u32::MAX);
        let ids =
            [(0, 1, u64::MAX), (0, 2, 0), (0, most, u64::MAX), (1, 1, 0)].map(|(t, e, c)| event_id(t, e, c).unwrap());
        assert!(ids.windows(2).all(|pair| pair[0] < pair[1]));
        assert!(event_id(most + 1, 1, 0).is_err() && event_id(1, most + 1, 0).is_err());
    }

    #[test]
    fn records_are_as_documented() {
        let event = crate::engine::fuzzing::sample_event();
        let expected = concat!(
            "01",                 // version
            "08",                 // s3:ObjectRestore:Completed
            "01",                 // at
            "0162",               // bucket
            "00",                 // the first account
            "0172",               // rule
            "016b",               // key
            "0105",               // size
            "010165",             // ETag
            "010900",             // version 9, not null
            "017001610171",       // principal, address, request
            "0102",               // until 2
            "0107474c4143494552"  // class
        );
        assert_eq!(hex::encode(event.encode().unwrap()), expected);
        assert_eq!(Event::decode(&hex::decode(expected).unwrap()).unwrap(), event);
    }
}
