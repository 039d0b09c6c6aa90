//! Metrics of shipping; they are there only where the configuration asks for it.

use prometheus::{Gauge, IntCounter, IntGauge, Registry};
use std::time::Duration;

/// See the module.
pub(crate) struct ShipMetrics {
    lag_seconds: Gauge,
    lag_records: IntGauge,
    pub shipped_seq: IntGauge,
    pub term: IntGauge,
    pub fenced: IntGauge,
    pub last_snapshot: IntGauge,
    pub objects: IntCounter,
    pub bytes: IntCounter,
    pub failures: IntCounter,
}

impl ShipMetrics {
    pub(crate) fn new(registry: &Registry) -> Result<Self, prometheus::Error> {
        let gauge = |name: &str, help: &str| IntGauge::new(format!("tidegate_recovery_{name}"), help);
        let counter = |name: &str, help: &str| IntCounter::new(format!("tidegate_recovery_{name}"), help);
        let metrics = Self {
            lag_seconds: Gauge::new(
                "tidegate_recovery_lag_seconds",
                "Age of the oldest durable record that is not in the recovery tier.",
            )?,
            lag_records: gauge("lag_records", "Durable records that are not in the recovery tier.")?,
            shipped_seq: gauge("shipped_sequence", "The last record in the recovery tier.")?,
            term: gauge("term", "The term that this store claimed; 0 before.")?,
            fenced: gauge("fenced", "1 when another store took this one's place, else 0.")?,
            last_snapshot: gauge(
                "last_snapshot_timestamp_seconds",
                "When the last snapshot that was shipped by this process began, in seconds since the epoch.",
            )?,
            objects: counter("shipped_objects_total", "Objects of journal written to the recovery tier.")?,
            bytes: counter("shipped_bytes_total", "Their bytes.")?,
            failures: counter("failures_total", "Turns of shipping that failed.")?,
        };
        registry.register(Box::new(metrics.lag_seconds.clone()))?;
        let gauges =
            [&metrics.lag_records, &metrics.shipped_seq, &metrics.term, &metrics.fenced, &metrics.last_snapshot];
        for gauge in gauges {
            registry.register(Box::new(gauge.clone()))?;
        }
        for counter in [&metrics.objects, &metrics.bytes, &metrics.failures] {
            registry.register(Box::new(counter.clone()))?;
        }
        Ok(metrics)
    }

    pub(crate) fn lag(&self, records: u64, age: Duration) {
        self.lag_records.set(i64::try_from(records).unwrap_or(i64::MAX));
        self.lag_seconds.set(age.as_secs_f64());
    }
}
