//! Metrics of a standby; they are there only while it is one.

use prometheus::{Gauge, IntCounter, IntGauge, Registry};
use std::time::Duration;

/// See the module.
pub(super) struct FollowMetrics {
    lag_seconds: Gauge,
    pub applied: IntGauge,
    pub pieces: IntCounter,
    pub bytes: IntCounter,
    pub failures: IntCounter,
}

impl FollowMetrics {
    pub(super) fn new(registry: &Registry) -> Result<Self, prometheus::Error> {
        let counter = |name: &str, help: &str| IntCounter::new(format!("tidegate_standby_{name}"), help);
        let metrics = Self {
            lag_seconds: Gauge::new(
                "tidegate_standby_lag_seconds",
                "Time since all that was shipped was here; how far the standby may be behind.",
            )?,
            applied: IntGauge::new("tidegate_standby_applied_sequence", "The last record that is here.")?,
            pieces: counter("pieces_total", "Pieces of shipped journal that were applied.")?,
            bytes: counter("bytes_total", "Their bytes.")?,
            failures: counter("failures_total", "Looks at the tier that failed.")?,
        };
        registry.register(Box::new(metrics.lag_seconds.clone()))?;
        registry.register(Box::new(metrics.applied.clone()))?;
        for counter in [&metrics.pieces, &metrics.bytes, &metrics.failures] {
            registry.register(Box::new(counter.clone()))?;
        }
        Ok(metrics)
    }

    pub(super) fn lag(&self, lag: Duration) {
        self.lag_seconds.set(lag.as_secs_f64());
    }
}
