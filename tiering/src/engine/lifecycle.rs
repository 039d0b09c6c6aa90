//! The lifecycles of buckets, which S3 clients set, beside the policy that the operator sets: which rules count for a
//! bucket, and the walk over its keys after they changed.
//!
//! A bucket's settings hold its lifecycle ([`BucketLifecycle`], as JSON, under [`SETTING`]). [`Rules`] keeps it joined with
//! the policy, and learns of changes by observing commits, so that it is right on a standby as well.
//!
//! Why no due time is lost: the commit that changes a lifecycle also marks the bucket as one to be walked
//! (`lifecycle/BUCKET` in the table of the system), and only a walk that has ended by these very rules replaces the mark
//! by their digest. What a start finds marked, or with another digest than its own, it walks. A write that was planned by older
//! rules than those in force when it has committed is evaluated again (`commit_version`).

use super::due::facts;
use super::error::EngineError;
use super::keys;
use super::policy::ActivePolicy;
use super::record::{BucketRecord, ObjectRecord, Record, UploadRecord};
use super::settings::{ClassMap, LifecycleSettings};
use super::{Core, Engine};
use crate::clock::Timestamp;
use crate::meta::{AppliedOp, Batch, CommitObserver, Expect, MetaError, MetaStore, Reason, Table};
use std::collections::{BTreeMap, BTreeSet, HashMap};
use std::ops::Bound;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError, RwLock};
use tidegate_policies::bucket::BucketLifecycle;
use tidegate_policies::{DAY, Policy, Tier, Version};

/// The entry of a bucket's settings.
pub const SETTING: &str = "lifecycle";

/// In the table of the system, before a bucket's name: by which rules its keys were walked.
const WALKED: &[u8] = b"lifecycle/";

/// The mark of a bucket that is to be walked.
const TO_WALK: &[u8] = b"walk";

/// How often the end of a walk is noted again because other settings of the bucket changed meanwhile.
const MAX_RACES: usize = 32;

/// When something ends by a rule, and its id, as headers of S3 tell it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Ending {
    /// The time. In days of 24 hours, whatever [`LifecycleSettings::day_ms`] says.
    pub at: Timestamp,
    /// Id of the rule.
    pub rule: String,
}

/// Walks over buckets whose lifecycle changed.
#[derive(Debug, Clone, Default, PartialEq, Eq, serde::Serialize, serde::Deserialize)]
pub struct LifecycleWalks {
    /// The bucket that is walked now.
    pub bucket: Option<String>,
    /// Objects of it that have been looked at.
    pub done: u64,
    /// Buckets that wait.
    pub waiting: usize,
}

/// The rules in force: the policy, and joined with it the lifecycle of each bucket that has one.
#[derive(Debug)]
pub(crate) struct Rules {
    inner: RwLock<Inner>,
    classes: ClassMap,
    settings: LifecycleSettings,
}

#[derive(Debug)]
struct Inner {
    document: Arc<ActivePolicy>,
    buckets: HashMap<String, Joined>,
}

#[derive(Debug)]
struct Joined {
    lifecycle: BucketLifecycle,
    active: Arc<ActivePolicy>,
}

impl Rules {
    pub(crate) fn new(policy: Policy, text: String, classes: ClassMap, settings: LifecycleSettings) -> Self {
        let document = Arc::new(ActivePolicy::new(policy, text, settings.day()));
        Self { inner: RwLock::new(Inner { document, buckets: HashMap::new() }), classes, settings }
    }

    /// Reads the lifecycles of all buckets.
    pub(crate) fn load(&self, meta: &dyn MetaStore) -> Result<(), MetaError> {
        for (name, value) in meta.scan(Table::Bucket, (Bound::Unbounded, Bound::Unbounded), usize::MAX, false)? {
            self.note(&name, Some(&value));
        }
        Ok(())
    }

    /// The policy of the operator.
    pub(crate) fn document(&self) -> Arc<ActivePolicy> {
        Arc::clone(&self.inner.read().unwrap_or_else(PoisonError::into_inner).document)
    }

    /// What counts for the objects of a bucket.
    pub(crate) fn of(&self, bucket: &str) -> Arc<ActivePolicy> {
        let inner = self.inner.read().unwrap_or_else(PoisonError::into_inner);
        Arc::clone(inner.buckets.get(bucket).map_or(&inner.document, |joined| &joined.active))
    }

    /// Another policy; the lifecycles stay.
    pub(crate) fn replace(&self, policy: Policy, text: String) {
        let mut inner = self.inner.write().unwrap_or_else(PoisonError::into_inner);
        inner.document = Arc::new(ActivePolicy::new(policy, text, self.settings.day()));
        let Inner { document, buckets } = &mut *inner;
        for (bucket, joined) in buckets {
            joined.active = Arc::new(self.join(document, bucket, &joined.lifecycle));
        }
    }

    /// A bucket's record as it is now; `None`: the bucket is gone.
    fn note(&self, name: &[u8], value: Option<&[u8]>) {
        let name = String::from_utf8_lossy(name);
        // A record that cannot be read is reported by whoever needs it.
        let lifecycle =
            value.and_then(|value| BucketRecord::decode(value).ok()).and_then(|bucket| decode(&name, &bucket));
        let mut inner = self.inner.write().unwrap_or_else(PoisonError::into_inner);
        match lifecycle {
            None => drop(inner.buckets.remove(name.as_ref())),
            Some(lifecycle) => {
                if inner.buckets.get(name.as_ref()).is_some_and(|joined| joined.lifecycle == lifecycle) {
                    return;
                }
                let active = Arc::new(self.join(&inner.document, &name, &lifecycle));
                inner.buckets.insert(name.into_owned(), Joined { lifecycle, active });
            }
        }
    }

    fn join(&self, document: &ActivePolicy, bucket: &str, lifecycle: &BucketLifecycle) -> ActivePolicy {
        let tier_of = |class: &str| {
            let name = self.classes.tier_of(Some(class))?;
            Some(Tier { name: name.to_owned(), class: self.settings.tiers.get(name).copied().flatten() })
        };
        let with = |policy: &Policy, day| policy.with_lifecycle(bucket, lifecycle, day, &tier_of);
        document.joined(|policy, day| with(policy, day), self.settings.day())
    }

    /// What a walk by the lifecycle of this bucket is noted with; `None` without one.
    fn digest(&self, bucket: &BucketRecord) -> Option<Vec<u8>> {
        let text = bucket.settings.config.get(SETTING)?;
        let mut hasher = blake3::Hasher::new();
        hasher.update(text).update(&self.settings.day().to_be_bytes());
        // Which tier a class means decides as well.
        for (class, tier) in &self.classes.0 {
            hasher.update(class.as_bytes()).update(b"\0").update(tier.as_bytes()).update(b"\0");
        }
        Some(hasher.finalize().to_hex().as_bytes().to_vec())
    }
}

impl CommitObserver for Rules {
    fn applied(&self, _seq: u64, ops: &[AppliedOp]) {
        for AppliedOp { op, .. } in ops.iter().filter(|applied| applied.op.table == Table::Bucket) {
            self.note(&op.key, op.value.as_deref());
        }
    }
}

/// The lifecycle in a bucket's settings. What does not decode counts as none and is said in the log: it must not stop the
/// bucket's requests.
fn decode(name: &str, bucket: &BucketRecord) -> Option<BucketLifecycle> {
    let text = bucket.settings.config.get(SETTING)?;
    serde_json::from_slice(text)
        .inspect_err(|error| tracing::error!(bucket = name, %error, "the lifecycle of a bucket cannot be read and is not followed"))
        .ok()
}

fn mark_of(bucket: &str) -> Vec<u8> {
    [WALKED, bucket.as_bytes()].concat()
}

/// Adds to the commit that changes a bucket what a changed lifecycle needs. True when its keys are to be walked then.
pub(crate) fn mark_if_changed(batch: &mut Batch, name: &str, old: &BucketRecord, new: &BucketRecord) -> bool {
    let changed = old.settings.config.get(SETTING) != new.settings.config.get(SETTING);
    if changed {
        batch.ops.push(crate::meta::Op { table: Table::System, key: mark_of(name), value: Some(TO_WALK.to_vec()) });
    }
    changed
}

/// Takes the mark out in the commit that deletes a bucket.
pub(crate) fn forget(batch: Batch, name: &str) -> Batch {
    batch.delete(Table::System, mark_of(name))
}

/// Buckets that wait to be walked.
#[derive(Debug, Default)]
pub(crate) struct Walks(Mutex<Queue>);

#[derive(Debug, Default)]
struct Queue {
    waiting: BTreeSet<String>,
    /// The bucket that is walked, and how many of its objects have been looked at.
    running: Option<(String, u64)>,
}

impl Walks {
    fn lock(&self) -> MutexGuard<'_, Queue> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }

    pub(crate) fn step(&self) {
        if let Some((_, done)) = &mut self.lock().running {
            *done += 1;
        }
    }

    /// The next bucket becomes the running one; `None` when none waits, and then nobody walks.
    fn next(&self) -> Option<String> {
        let mut queue = self.lock();
        let next = queue.waiting.pop_first();
        queue.running = next.clone().map(|bucket| (bucket, 0));
        next
    }

    fn waits(&self, bucket: &str) -> bool {
        self.lock().waiting.contains(bucket)
    }
}

impl Core {
    /// What counts for the objects of a bucket: the policy and the bucket's own lifecycle.
    pub(crate) fn rules_of(&self, bucket: &str) -> Arc<ActivePolicy> {
        self.rules.of(bucket)
    }

    /// When a current version ends by a rule.
    pub(crate) fn expiry(&self, bucket: &str, key: &str, record: &ObjectRecord) -> Option<Ending> {
        if record.noncurrent_since.is_some() {
            return None;
        }
        let rules = self.rules_of(bucket);
        let kept_until = self.kept_until(bucket, record, Version::Current).ok()?;
        let facts = facts((bucket, key), record, None, Version::Current, kept_until);
        let (at, rule) = rules.calendar().expires_at(&facts)?;
        Some(Ending { at: Timestamp(at), rule: rule.id.to_owned() })
    }

    /// Walks what the last process left to be walked, and what the rules of this one differ for.
    pub(crate) fn start_walks(self: &Arc<Self>) -> Result<(), EngineError> {
        let all = (Bound::Unbounded, Bound::Unbounded);
        let mut wanted = BTreeMap::new();
        for (name, value) in self.meta.scan(Table::Bucket, all, usize::MAX, false)? {
            if let (Ok(name), Ok(bucket)) = (String::from_utf8(name), BucketRecord::decode(&value)) {
                wanted.extend(self.rules.digest(&bucket).map(|digest| (name, digest)));
            }
        }
        let mut walks: BTreeSet<String> = wanted.keys().cloned().collect();
        for (key, mark) in self.meta.scan(Table::System, keys::prefix(WALKED), usize::MAX, false)? {
            let Some(Ok(name)) = key.strip_prefix(WALKED).map(|name| String::from_utf8(name.to_vec())) else {
                continue;
            };
            if wanted.get(&name).is_some_and(|digest| digest[..] == mark[..]) {
                walks.remove(&name);
            } else {
                walks.insert(name);
            }
        }
        walks.into_iter().for_each(|bucket| self.walk_bucket(bucket));
        Ok(())
    }

    /// Walks a bucket in the background, one bucket at a time.
    pub(crate) fn walk_bucket(self: &Arc<Self>, bucket: String) {
        let mut queue = self.walks.lock();
        queue.waiting.insert(bucket);
        if queue.running.is_some() {
            return;
        }
        queue.running = Some((String::new(), 0));
        drop(queue);
        let core = Arc::clone(self);
        self.jobs.spawn(async move {
            while let Some(bucket) = core.walks.next() {
                if core.stop.is_cancelled() {
                    continue;
                }
                if let Err(error) = core.walk(&bucket).await {
                    core.metrics.scheduler_errors.inc();
                    tracing::error!(bucket, %error, "the walk after a change of a lifecycle failed; the next start tries again");
                }
            }
        });
    }

    async fn walk(self: &Arc<Self>, name: &str) -> Result<(), EngineError> {
        let digest = |core: &Core| -> Result<_, EngineError> {
            let stored = core.meta.get(Table::Bucket, name.as_bytes())?;
            let bucket = stored.as_deref().map(BucketRecord::decode).transpose()?;
            Ok((stored, bucket.and_then(|bucket| core.rules.digest(&bucket))))
        };
        let (_, walked_by) = digest(self)?;
        self.reindex(Some(name)).await?;
        for _ in 0..MAX_RACES {
            let (stored, now) = digest(self)?;
            // Another walk comes, and it ends by the newer rules.
            if self.stop.is_cancelled() || now != walked_by || self.walks.waits(name) {
                return Ok(());
            }
            let mut batch = Batch::new(Reason::System).expect(match stored {
                Some(stored) => Expect::Equals(Table::Bucket, name.into(), stored.to_vec()),
                None => Expect::Absent(Table::Bucket, name.into()),
            });
            batch = match now {
                Some(digest) => batch.put(Table::System, mark_of(name), digest),
                None => batch.delete(Table::System, mark_of(name)),
            };
            match self.meta.commit(batch).await {
                Err(MetaError::Conflict { .. }) => {}
                other => return Ok(other.map(drop)?),
            }
        }
        Err(EngineError::Conflict)
    }
}

impl Engine {
    /// Which buckets are walked because their lifecycle changed.
    pub fn lifecycle_walks(&self) -> LifecycleWalks {
        let queue = self.core.walks.lock();
        let (bucket, done) = queue.running.clone().unzip();
        LifecycleWalks {
            bucket: bucket.filter(|bucket| !bucket.is_empty()),
            done: done.unwrap_or(0),
            waiting: queue.waiting.len(),
        }
    }

    /// When an unfinished upload is aborted by a rule.
    ///
    /// # Errors
    /// [`EngineError::NoSuchUpload`].
    pub fn upload_ending(&self, bucket: &str, key: &str, upload_id: &str) -> Result<Option<Ending>, EngineError> {
        let upload = self.core.upload(&keys::upload(bucket, key, upload_id), upload_id)?;
        let rules = self.core.rules_of(bucket);
        let ending = rules.calendar().abort_uploads_at(bucket, key, upload.initiated.millis());
        Ok(ending.map(|(at, rule)| Ending { at: Timestamp(at), rule: rule.id.to_owned() }))
    }

    /// The length of a day of the rules in seconds when it was shortened for tests.
    pub fn test_day_seconds(&self) -> Option<u64> {
        let day = self.core.settings.lifecycle.day();
        (day != DAY).then_some(day / 1000)
    }
}

impl Core {
    /// When an upload stands in the due index.
    pub(crate) fn upload_due(&self, bucket: &str, key: &str, upload: &UploadRecord) -> Option<Timestamp> {
        let rules = self.rules_of(bucket);
        rules.policy.abort_uploads_at(bucket, key, upload.initiated.millis()).map(|(at, _)| Timestamp(at))
    }
}
