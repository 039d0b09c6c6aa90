//! The parts together: clock, store, blobs, faults, keys.

use crate::auth::AccessKey;
use crate::blob::Blobs;
use crate::clock::VirtualClock;
use crate::error::OssError;
use crate::faults::{Faults, mix};
use crate::ledger::{Code, Line, is_get_type};
use crate::model::Class;
use crate::persist::Record;
use crate::ram::Policy;
use crate::record::{Exchange, Exchanges, billed};
use crate::request::Reply;
use crate::store::Store;
use serde::Serialize;
use std::collections::BTreeMap;
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Mutex, MutexGuard, PoisonError};

/// One simulated region.
#[derive(Debug)]
pub struct Sim {
    /// The virtual clock.
    pub clock: VirtualClock,
    pub(crate) blobs: Blobs,
    pub(crate) region: String,
    pub(crate) keys: Mutex<Vec<AccessKey>>,
    /// RAM policies by access key; a key without one may do everything.
    pub(crate) policies: Mutex<BTreeMap<String, Policy>>,
    pub(crate) cname: BTreeMap<String, String>,
    pub(crate) store: Mutex<Store>,
    pub(crate) faults: Mutex<Faults>,
    pub(crate) counts: Mutex<BTreeMap<Outcome, u64>>,
    /// None unless it was asked for.
    pub(crate) exchanges: Option<Mutex<Exchanges>>,
    /// Keys that listings have looked at.
    pub(crate) looked: AtomicU64,
    pub(crate) sequence: AtomicU64,
    pub(crate) seed: u64,
}

/// How often an operation ended with a status.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub struct Count {
    /// Operation, as in the vendor's API.
    pub operation: String,
    /// HTTP status; 0 for a connection that was reset on purpose.
    pub status: u16,
    /// Code of the error; none for a success and for a connection that was reset.
    pub code: Option<&'static str>,
    /// How often.
    pub count: u64,
}

/// Operation, status and code.
type Outcome = (String, u16, Option<&'static str>);

/// A stored version as an inspector sees it.
#[derive(Debug, Clone, Serialize)]
pub struct ObjectState {
    /// Key.
    pub key: String,
    /// Version on the wire; `null` without versioning.
    pub version_id: String,
    /// Whether it is the current one.
    pub is_latest: bool,
    /// Whether it is a delete marker.
    pub delete_marker: bool,
    /// Class.
    pub class: Class,
    /// Bytes.
    pub size: u64,
    /// Entity tag.
    pub etag: String,
    /// CRC-64.
    pub crc64: u64,
    /// Last-Modified, virtual milliseconds.
    pub modified: u64,
    /// Last lifecycle conversion; 0 = never.
    pub transition: u64,
    /// `x-oss-restore` now.
    pub restore: Option<String>,
    /// Whether a GET would be refused now.
    pub frozen: bool,
}

/// Takes a lock whose holder may have panicked: the data is replaced in whole steps, so it is usable.
pub(crate) fn lock<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}

impl Sim {
    /// The state, locked. Never held across an await.
    pub fn store(&self) -> MutexGuard<'_, Store> {
        lock(&self.store)
    }

    /// A fresh number, different at every call, the same in every run with the same seed and order.
    pub(crate) fn random(&self) -> u64 {
        mix(self.seed ^ self.sequence.fetch_add(1, Ordering::SeqCst).wrapping_mul(0x2545_F491_4F6C_DD1D))
    }

    /// 24 hex digits.
    pub(crate) fn request_id(&self) -> String {
        let random = self.random();
        format!("{:016X}{:08X}", random, mix(random) as u32)
    }

    /// Moves the clock forward by `ms`, then runs what became due. Returns the new time.
    pub fn advance(&self, ms: u64) -> u64 {
        let now = self.clock.advance_ms(ms);
        self.store().write(&Record::Clock(self.clock.offset()));
        crate::lifecycle::catch_up(self, now);
        now
    }

    /// The bill now.
    pub fn bill(&self) -> Vec<Line> {
        let now = self.clock.now();
        crate::lifecycle::catch_up(self, now);
        self.store().bill(now).lines()
    }

    /// Starts a new bill now.
    pub fn reset_bill(&self) {
        let now = self.clock.now();
        crate::lifecycle::catch_up(self, now);
        self.store().reset_bill(now);
    }

    /// Counts a request and bills it when it succeeded.
    pub(crate) fn account(&self, operation: &str, result: &Result<Reply, OssError>) {
        match result {
            Ok(reply) => self.count(operation, reply.status, None),
            Err(error) => self.count(operation, error.status, Some(error.code)),
        }
        let code = if is_get_type(operation) { Code::GetRequest } else { Code::PutRequest };
        let mut store = self.store();
        for (class, count) in billed(result) {
            store.charge(code, class, None, u128::from(count));
        }
    }

    /// Counts a request; status 0 is one that was reset before it had an effect.
    pub(crate) fn count(&self, operation: &str, status: u16, code: Option<&'static str>) {
        *lock(&self.counts).entry((operation.to_string(), status, code)).or_default() += 1;
    }

    /// Keeps an exchange, when a record was asked for.
    pub(crate) fn record(&self, exchange: Exchange) {
        if let Some(exchanges) = &self.exchanges {
            lock(exchanges).push(exchange);
        }
    }

    /// Requests by operation, status and code.
    pub fn counts(&self) -> Vec<Count> {
        let counts = lock(&self.counts);
        let one = |((operation, status, code), count): (&Outcome, &u64)| Count {
            operation: operation.clone(),
            status: *status,
            code: *code,
            count: *count,
        };
        counts.iter().map(one).collect()
    }

    /// Every version of a bucket, by key, newest last. Empty for an unknown bucket.
    pub fn objects(&self, bucket: &str) -> Vec<ObjectState> {
        let now = self.clock.now();
        crate::lifecycle::catch_up(self, now);
        let store = self.store();
        let Some(bucket) = store.buckets.get(bucket) else { return Vec::new() };
        let mut out = Vec::new();
        for (key, versions) in &bucket.objects {
            for (i, v) in versions.iter().enumerate() {
                out.push(ObjectState {
                    key: key.clone(),
                    version_id: v.version_id(),
                    is_latest: i + 1 == versions.len(),
                    delete_marker: v.delete_marker,
                    class: v.class,
                    size: v.size,
                    etag: v.etag.to_string(),
                    crc64: v.crc64,
                    modified: v.modified,
                    transition: v.transition,
                    restore: v.restore.as_ref().and_then(|r| r.header(now)),
                    frozen: v.frozen_at(now),
                });
            }
        }
        out
    }

    /// Adds an access key, or replaces the one of the same id (rotation of temporary keys).
    pub fn put_key(&self, key: AccessKey) {
        let mut keys = lock(&self.keys);
        keys.retain(|k| k.id != key.id);
        keys.push(key);
    }

    /// From now on the key may do what `policy` allows and nothing else; without a policy, everything.
    pub fn set_policy(&self, id: &str, policy: Option<Policy>) {
        let mut policies = lock(&self.policies);
        match policy {
            Some(policy) => policies.insert(id.to_string(), policy),
            None => policies.remove(id),
        };
    }

    /// Removes an access key.
    pub fn remove_key(&self, id: &str) {
        lock(&self.keys).retain(|k| k.id != id);
    }
}
