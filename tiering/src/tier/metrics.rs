//! Counters of one cold tier. Labels come from enums, so that their number is bounded.

use super::error::{TierError, TierErrorKind};
use prometheus::core::Collector;
use prometheus::{Histogram, HistogramOpts, HistogramVec, IntCounter, IntCounterVec, IntGauge, Opts, Registry};
use std::time::Duration;

/// Every kind of request that is made of a store.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
#[allow(missing_docs)] // the names are the store's own
pub enum Operation {
    PutObject,
    GetObject,
    HeadObject,
    GetObjectMeta,
    DeleteObject,
    DeleteMultipleObjects,
    CopyObject,
    InitiateMultipartUpload,
    UploadPart,
    UploadPartCopy,
    CompleteMultipartUpload,
    AbortMultipartUpload,
    ListParts,
    ListMultipartUploads,
    ListObjectsV2,
    ListObjectVersions,
    RestoreObject,
    CleanRestoredObject,
    PutObjectTagging,
    GetObjectTagging,
    DeleteObjectTagging,
    GetBucketInfo,
    PutBucketLifecycle,
    GetBucketLifecycle,
    PresignObject,
}

impl Operation {
    /// All of them, in the order of their declaration.
    pub const ALL: [Operation; 25] = [
        Operation::PutObject,
        Operation::GetObject,
        Operation::HeadObject,
        Operation::GetObjectMeta,
        Operation::DeleteObject,
        Operation::DeleteMultipleObjects,
        Operation::CopyObject,
        Operation::InitiateMultipartUpload,
        Operation::UploadPart,
        Operation::UploadPartCopy,
        Operation::CompleteMultipartUpload,
        Operation::AbortMultipartUpload,
        Operation::ListParts,
        Operation::ListMultipartUploads,
        Operation::ListObjectsV2,
        Operation::ListObjectVersions,
        Operation::RestoreObject,
        Operation::CleanRestoredObject,
        Operation::PutObjectTagging,
        Operation::GetObjectTagging,
        Operation::DeleteObjectTagging,
        Operation::GetBucketInfo,
        Operation::PutBucketLifecycle,
        Operation::GetBucketLifecycle,
        Operation::PresignObject,
    ];

    /// The store's name of the operation.
    pub const fn name(self) -> &'static str {
        match self {
            Operation::PutObject => "PutObject",
            Operation::GetObject => "GetObject",
            Operation::HeadObject => "HeadObject",
            Operation::GetObjectMeta => "GetObjectMeta",
            Operation::DeleteObject => "DeleteObject",
            Operation::DeleteMultipleObjects => "DeleteMultipleObjects",
            Operation::CopyObject => "CopyObject",
            Operation::InitiateMultipartUpload => "InitiateMultipartUpload",
            Operation::UploadPart => "UploadPart",
            Operation::UploadPartCopy => "UploadPartCopy",
            Operation::CompleteMultipartUpload => "CompleteMultipartUpload",
            Operation::AbortMultipartUpload => "AbortMultipartUpload",
            Operation::ListParts => "ListParts",
            Operation::ListMultipartUploads => "ListMultipartUploads",
            Operation::ListObjectsV2 => "ListObjectsV2",
            Operation::ListObjectVersions => "ListObjectVersions",
            Operation::RestoreObject => "RestoreObject",
            Operation::CleanRestoredObject => "CleanRestoredObject",
            Operation::PutObjectTagging => "PutObjectTagging",
            Operation::GetObjectTagging => "GetObjectTagging",
            Operation::DeleteObjectTagging => "DeleteObjectTagging",
            Operation::GetBucketInfo => "GetBucketInfo",
            Operation::PutBucketLifecycle => "PutBucketLifecycle",
            Operation::GetBucketLifecycle => "GetBucketLifecycle",
            Operation::PresignObject => "PresignObject",
        }
    }
}

/// What came of one request. Each attempt counts, as it does on the bill: those that were answered with success (`Ok`,
/// `Corrupt`) are billed, those that were refused are not, and of those without an answer only the store knows.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub enum Outcome {
    /// 2xx.
    Ok,
    /// See [`TierErrorKind::NotFound`].
    NotFound,
    /// See [`TierErrorKind::Frozen`].
    Frozen,
    /// See [`TierErrorKind::Throttled`].
    Throttled,
    /// See [`TierErrorKind::Unavailable`]; the store said so.
    Unavailable,
    /// See [`TierErrorKind::Denied`].
    Denied,
    /// 2xx, but a checksum, a length or the answer itself was wrong: see [`TierErrorKind::Corrupt`].
    Corrupt,
    /// See [`TierErrorKind::Invalid`].
    Invalid,
    /// See [`TierErrorKind::Local`]: broken off by us while the body was sent. The store may have seen a part of it.
    Local,
    /// Sent, at least in part, and never answered: the connection broke, or nothing moved for too long. It may have been done.
    NoAnswer,
    /// Never sent: there was no connection, or the request could not be put together.
    NotSent,
    /// Who asked went away (a shutdown that would not wait) while it was on its way. It may have been done.
    Abandoned,
}

impl Outcome {
    /// All of them.
    pub const ALL: [Outcome; 12] = [
        Outcome::Ok,
        Outcome::NotFound,
        Outcome::Frozen,
        Outcome::Throttled,
        Outcome::Unavailable,
        Outcome::Denied,
        Outcome::Corrupt,
        Outcome::Invalid,
        Outcome::Local,
        Outcome::NoAnswer,
        Outcome::NotSent,
        Outcome::Abandoned,
    ];

    /// The label's value.
    pub const fn name(self) -> &'static str {
        match self {
            Outcome::Ok => "ok",
            Outcome::NotFound => "not_found",
            Outcome::Frozen => "frozen",
            Outcome::Throttled => "throttled",
            Outcome::Unavailable => "unavailable",
            Outcome::Denied => "denied",
            Outcome::Corrupt => "corrupt",
            Outcome::Invalid => "invalid",
            Outcome::Local => "local",
            Outcome::NoAnswer => "no_answer",
            Outcome::NotSent => "not_sent",
            Outcome::Abandoned => "abandoned",
        }
    }
}

impl From<&TierError> for Outcome {
    fn from(error: &TierError) -> Self {
        match error.kind() {
            TierErrorKind::NotFound => Outcome::NotFound,
            TierErrorKind::Frozen => Outcome::Frozen,
            TierErrorKind::Throttled { .. } => Outcome::Throttled,
            TierErrorKind::Unavailable => Outcome::Unavailable,
            TierErrorKind::Denied => Outcome::Denied,
            TierErrorKind::Corrupt => Outcome::Corrupt,
            TierErrorKind::Invalid => Outcome::Invalid,
            TierErrorKind::Local => Outcome::Local,
        }
    }
}

/// Counters of one tier; the tier's name is a constant label of each.
#[derive(Debug, Clone)]
pub struct TierMetrics {
    requests: IntCounterVec,
    duration: HistogramVec,
    /// Bytes of bodies sent, retries included.
    pub sent_bytes: IntCounter,
    /// Bytes of bodies received, retries included.
    pub received_bytes: IntCounter,
    /// Bytes that answers to GETs announced, whether or not all of them came: what a class with a price for reads bills.
    pub retrieved_bytes: IntCounter,
    /// Requests running now.
    pub in_flight: IntGauge,
    /// Wait between attempts, in seconds.
    pub retry_wait: Histogram,
    /// Failed refreshes of credentials.
    pub credential_failures: IntCounter,
}

impl TierMetrics {
    /// The counters of the tier called `tier`, registered in `registry` when there is one. Counters of an earlier tier
    /// of that name are replaced, so that a reloaded configuration can build its tiers again.
    ///
    /// # Errors
    /// `Invalid` when the registry refuses them, which means that other code uses these names with other labels.
    pub fn new(tier: &str, registry: Option<&Registry>) -> Result<Self, TierError> {
        Self::create(tier, registry)
            .map_err(|e| TierError::invalid("metrics", "", format!("cannot register metrics of tier {tier:?}: {e}")))
    }

    fn create(tier: &str, registry: Option<&Registry>) -> prometheus::Result<Self> {
        let opts = |name: &str, help: &str| Opts::new(name, help).const_label("tier", tier);
        let times = |name: &str, help: &str| {
            HistogramOpts::new(name, help)
                .const_label("tier", tier)
                .buckets(vec![0.005, 0.02, 0.05, 0.1, 0.25, 0.5, 1.0, 2.5, 5.0, 10.0, 30.0, 120.0])
        };
        let metrics = Self {
            requests: IntCounterVec::new(
                opts("tidegate_tier_requests_total", "Requests to the tier's store, each attempt counted."),
                &["operation", "outcome"],
            )?,
            duration: HistogramVec::new(
                times("tidegate_tier_request_duration_seconds", "Time until the store's answer, per attempt."),
                &["operation"],
            )?,
            sent_bytes: IntCounter::with_opts(opts("tidegate_tier_sent_bytes_total", "Body bytes sent."))?,
            received_bytes: IntCounter::with_opts(opts("tidegate_tier_received_bytes_total", "Body bytes received."))?,
            retrieved_bytes: IntCounter::with_opts(opts(
                "tidegate_tier_retrieved_bytes_total",
                "Body bytes that the store agreed to send, as it bills them.",
            ))?,
            in_flight: IntGauge::with_opts(opts("tidegate_tier_requests_in_flight", "Requests running now."))?,
            retry_wait: Histogram::with_opts(times("tidegate_tier_retry_wait_seconds", "Waits between attempts."))?,
            credential_failures: IntCounter::with_opts(opts(
                "tidegate_tier_credential_failures_total",
                "Failed refreshes of the tier's credentials.",
            ))?,
        };
        if let Some(registry) = registry {
            register(registry, &metrics.requests)?;
            register(registry, &metrics.duration)?;
            register(registry, &metrics.sent_bytes)?;
            register(registry, &metrics.received_bytes)?;
            register(registry, &metrics.retrieved_bytes)?;
            register(registry, &metrics.in_flight)?;
            register(registry, &metrics.retry_wait)?;
            register(registry, &metrics.credential_failures)?;
        }
        Ok(metrics)
    }

    /// Counts one attempt.
    pub fn observe(&self, operation: Operation, outcome: Outcome, took: Duration) {
        self.requests.with_label_values(&[operation.name(), outcome.name()]).inc();
        self.duration.with_label_values(&[operation.name()]).observe(took.as_secs_f64());
    }

    /// How often `operation` came to `outcome`.
    pub fn count(&self, operation: Operation, outcome: Outcome) -> u64 {
        self.requests.with_label_values(&[operation.name(), outcome.name()]).get()
    }
}

fn register<C: Collector + Clone + 'static>(registry: &Registry, collector: &C) -> prometheus::Result<()> {
    match registry.register(Box::new(collector.clone())) {
        Err(prometheus::Error::AlreadyReg) => {
            registry.unregister(Box::new(collector.clone()))?;
            registry.register(Box::new(collector.clone()))
        }
        other => other,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_list_of_operations_holds_each_at_its_place() {
        for (place, operation) in Operation::ALL.into_iter().enumerate() {
            assert_eq!(operation as usize, place, "{}", operation.name());
        }
        // The last one of the declaration.
        assert_eq!(Operation::PresignObject as usize + 1, Operation::ALL.len());
    }

    #[test]
    fn two_tiers_and_a_rebuilt_one_share_a_registry() {
        let registry = Registry::new();
        let _a = TierMetrics::new("a", Some(&registry)).unwrap();
        let _b = TierMetrics::new("b", Some(&registry)).unwrap();
        let again = TierMetrics::new("a", Some(&registry)).unwrap();
        again.observe(Operation::PutObject, Outcome::Ok, Duration::from_millis(3));
        let families = registry.gather();
        let requests = families.iter().find(|f| f.name() == "tidegate_tier_requests_total").unwrap();
        assert_eq!(requests.get_metric().len(), 1);
        let labels: Vec<(&str, &str)> =
            requests.get_metric()[0].get_label().iter().map(|l| (l.name(), l.value())).collect();
        assert_eq!(labels, [("operation", "PutObject"), ("outcome", "ok"), ("tier", "a")]);
    }
}
