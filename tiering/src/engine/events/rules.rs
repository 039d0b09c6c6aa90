//! Which events a bucket's notifications ask for.

use super::EventKind;
use crate::engine::record::{BucketRecord, Record};
use crate::meta::{AppliedOp, CommitObserver, MetaError, MetaStore, Table};
use serde::{Deserialize, Serialize};
use std::collections::HashMap;
use std::ops::Bound;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, PoisonError, RwLock};

/// The entry of a bucket's settings.
pub const SETTING: &str = "notification";

/// What a rule calls the one that it tells; to Tidegate they are the same.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum Destination {
    /// A queue.
    Queue,
    /// A topic.
    Topic,
    /// A function.
    Function,
}

/// Asks to be told of some events of a bucket.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct NotificationRule {
    /// Its id within the bucket.
    pub id: String,
    /// In which words it was given.
    pub destination: Destination,
    /// The target's ARN, as it was given.
    pub arn: String,
    /// The target's name in the configuration.
    pub target: String,
    /// Names of S3's events, with `*` at the end for all of a kind.
    pub events: Vec<String>,
    /// `prefix` and `suffix` of keys with their values, in any case and order; none: there was no filter.
    pub filter: Option<Vec<(String, String)>>,
}

/// Whether the event called `name` is among those that `pattern` means.
pub fn is_covered(name: &str, pattern: &str) -> bool {
    match pattern.strip_suffix('*') {
        Some(front) => name.starts_with(front),
        None => name == pattern,
    }
}

impl NotificationRule {
    /// The value of a part of the filter; empty without one.
    pub fn filter_by(&self, part: &str) -> &str {
        let parts = self.filter.iter().flatten();
        parts.filter(|(name, _)| name.eq_ignore_ascii_case(part)).map(|(_, value)| value.as_str()).next().unwrap_or("")
    }

    pub(super) fn wants(&self, kind: EventKind, key: &str) -> bool {
        self.events.iter().any(|pattern| is_covered(kind.name(), pattern))
            && key.starts_with(self.filter_by("prefix"))
            && key.ends_with(self.filter_by("suffix"))
    }

    /// The rules in a bucket's settings.
    ///
    /// # Errors
    /// They do not decode.
    pub fn decode(json: &[u8]) -> Result<Vec<NotificationRule>, serde_json::Error> {
        serde_json::from_slice(json)
    }
}

/// The rules of a bucket that has some.
#[derive(Debug, PartialEq, Eq)]
pub(crate) struct Subscribed {
    pub owner: Option<String>,
    pub rules: Vec<NotificationRule>,
}

/// The rules of all buckets. Learns of changes by observing commits, before whoever makes them is answered.
#[derive(Debug, Default)]
pub(crate) struct Subscriptions {
    /// Some bucket has rules.
    any: AtomicBool,
    buckets: RwLock<HashMap<String, Arc<Subscribed>>>,
}

impl Subscriptions {
    /// Reads the rules of all buckets.
    pub(crate) fn load(&self, meta: &dyn MetaStore) -> Result<(), MetaError> {
        for (name, value) in meta.scan(Table::Bucket, (Bound::Unbounded, Bound::Unbounded), usize::MAX, false)? {
            self.note(&name, Some(&value));
        }
        Ok(())
    }

    /// The rules of a bucket, if it has any.
    pub(super) fn of(&self, bucket: &str) -> Option<Arc<Subscribed>> {
        if !self.any.load(Ordering::Acquire) {
            return None;
        }
        self.buckets.read().unwrap_or_else(PoisonError::into_inner).get(bucket).map(Arc::clone)
    }

    /// A bucket's record as it is now; `None`: the bucket is gone.
    fn note(&self, name: &[u8], value: Option<&[u8]>) {
        let name = String::from_utf8_lossy(name);
        // A record that cannot be read is reported by whoever needs it.
        let subscribed = value.and_then(|value| BucketRecord::decode(value).ok()).and_then(|b| subscribed(&name, b));
        let mut buckets = self.buckets.write().unwrap_or_else(PoisonError::into_inner);
        match subscribed {
            Some(subscribed) => drop(buckets.insert(name.into_owned(), Arc::new(subscribed))),
            None => drop(buckets.remove(name.as_ref())),
        }
        self.any.store(!buckets.is_empty(), Ordering::Release);
    }
}

/// What does not decode counts as none and is said in the log: it must not stop the bucket's requests.
fn subscribed(name: &str, bucket: BucketRecord) -> Option<Subscribed> {
    let json = bucket.settings.config.get(SETTING)?;
    let rules = NotificationRule::decode(json).inspect_err(
        |error| tracing::error!(bucket = name, %error, "the notifications of a bucket cannot be read, and nothing is told"),
    );
    Some(Subscribed { owner: bucket.settings.owner, rules: rules.ok()? }).filter(|found| !found.rules.is_empty())
}

impl CommitObserver for Subscriptions {
    fn applied(&self, _seq: u64, ops: &[AppliedOp]) {
        for AppliedOp { op, .. } in ops.iter().filter(|applied| applied.op.table == Table::Bucket) {
            self.note(&op.key, op.value.as_deref());
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn rules_want_events_by_name_and_keys_by_both_ends() {
        let rule = NotificationRule {
            id: "i".into(),
            destination: Destination::Queue,
            arn: String::new(),
            target: "t".into(),
            events: vec!["s3:ObjectRemoved:*".into(), "s3:ObjectCreated:Put".into()],
            filter: Some(vec![("Suffix".into(), ".jpg".into()), ("PREFIX".into(), "in/".into())]),
        };
        let cases = [
            (EventKind::CreatedPut, "in/a.jpg", true),
            (EventKind::CreatedCopy, "in/a.jpg", false),
            (EventKind::RemovedMarker, "in/a.jpg", true),
            (EventKind::RemovedDelete, "in/.jpg", true),
            (EventKind::RemovedDelete, "a.jpg", false),
            (EventKind::RemovedDelete, "in/a.png", false),
            (EventKind::Test, "in/a.jpg", false),
        ];
        for (kind, key, wanted) in cases {
            assert_eq!(rule.wants(kind, key), wanted, "{kind:?} {key}");
        }
        assert!(NotificationRule { filter: None, ..rule }.wants(EventKind::CreatedPut, ""));
    }

    #[test]
    fn rules_are_stored_as_documented() {
        let json = concat!(
            r#"[{"id":"i","destination":"queue","arn":"arn:tidegate:sqs::hook:webhook","target":"hook","#,
            r#""events":["s3:ObjectCreated:*"],"filter":[["Prefix","in/"]]}]"#
        );
        let rules = NotificationRule::decode(json.as_bytes()).unwrap();
        assert_eq!(rules[0].filter_by("prefix"), "in/");
        assert_eq!(serde_json::to_string(&rules).unwrap(), json);
    }
}
