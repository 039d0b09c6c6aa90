//! The gateway's own metrics. Those of the engine, the tiers and the S3 endpoint are registered where they are counted.

use prometheus::{Encoder, IntCounterVec, IntGauge, IntGaugeVec, Opts, Registry, TextEncoder};
use std::sync::{PoisonError, RwLock};
use tidegate_tiering::clock::Timestamp;

/// Handles, resolved once.
#[derive(Debug)]
pub struct GatewayMetrics {
    registry: Registry,
    /// What belongs to the engine that is open: a standby that is promoted opens another one.
    engine: RwLock<Registry>,
    reloads: IntCounterVec,
    reload_ok: IntGauge,
    reload_time: IntGauge,
    ready: IntGauge,
    test_settings: IntGauge,
    start_time: IntGauge,
    resident: IntGauge,
    open_files: IntGauge,
}

impl GatewayMetrics {
    /// Registers the gateway's metrics.
    ///
    /// # Errors
    /// A name is taken.
    pub fn new(registry: Registry) -> Result<Self, prometheus::Error> {
        let gauge = |name: &str, help: &str| -> Result<IntGauge, prometheus::Error> {
            let gauge = IntGauge::new(name, help)?;
            registry.register(Box::new(gauge.clone()))?;
            Ok(gauge)
        };
        let build =
            IntGaugeVec::new(Opts::new("tidegate_build_info", "1, with the version as a label."), &["version"])?;
        registry.register(Box::new(build.clone()))?;
        build.with_label_values(&[crate::VERSION]).set(1);
        let reloads = IntCounterVec::new(
            Opts::new("tidegate_policy_reloads_total", "Reloads of the lifecycle policy, by result."),
            &["result"],
        )?;
        registry.register(Box::new(reloads.clone()))?;
        for result in ["ok", "failed"] {
            reloads.with_label_values(&[result]);
        }
        let metrics = Self {
            reloads,
            reload_ok: gauge(
                "tidegate_policy_last_reload_successful",
                "1 when the policy in force is the one in the file as it was last read, else 0.",
            )?,
            reload_time: gauge(
                "tidegate_policy_last_reload_timestamp_seconds",
                "When the policy in force was read, in seconds since the epoch; 0 without a policy.",
            )?,
            test_settings: gauge(
                "tidegate_test_settings",
                "1 while settings that are for tests only are in force, else 0.",
            )?,
            ready: gauge("tidegate_ready", "1 while S3 requests are served, else 0.")?,
            start_time: gauge("tidegate_start_time_seconds", "When the process began, in seconds since the epoch.")?,
            resident: gauge("process_resident_memory_bytes", "Resident memory in bytes.")?,
            open_files: gauge("process_open_fds", "Open file descriptors.")?,
            registry,
            engine: RwLock::default(),
        };
        metrics.reload_ok.set(1);
        Ok(metrics)
    }

    /// Shows the metrics of `registry` too, in place of the one that was given before.
    pub fn of_engine(&self, registry: Registry) {
        *self.engine.write().unwrap_or_else(PoisonError::into_inner) = registry;
    }

    /// Notes when the process began.
    pub fn started(&self, now: Timestamp) {
        self.start_time.set(clamp(now.seconds()));
    }

    /// Notes whether settings that are for tests only are in force.
    pub fn test_settings(&self, in_force: bool) {
        self.test_settings.set(i64::from(in_force));
    }

    /// Notes that the policy in force was read.
    pub fn policy_read(&self, now: Timestamp) {
        self.reload_time.set(clamp(now.seconds()));
    }

    /// Notes a reload of the policy.
    pub fn reloaded(&self, ok: bool, now: Timestamp) {
        self.reloads.with_label_values(&[if ok { "ok" } else { "failed" }]).inc();
        self.reload_ok.set(i64::from(ok));
        if ok {
            self.policy_read(now);
        }
    }

    /// Notes whether S3 requests are served.
    pub fn ready(&self, ready: bool) {
        self.ready.set(i64::from(ready));
    }

    /// The page that Prometheus reads.
    ///
    /// # Errors
    /// A metric cannot be written as text.
    pub fn render(&self) -> Result<Vec<u8>, prometheus::Error> {
        if let Some(bytes) = resident_bytes() {
            self.resident.set(clamp(bytes));
        }
        if let Ok(entries) = std::fs::read_dir("/proc/self/fd") {
            self.open_files.set(clamp(entries.count() as u64));
        }
        let mut page = Vec::with_capacity(64 * 1024);
        let mut families = self.registry.gather();
        families.extend(self.engine.read().unwrap_or_else(PoisonError::into_inner).gather());
        TextEncoder::new().encode(&families, &mut page)?;
        Ok(page)
    }
}

fn clamp(value: u64) -> i64 {
    i64::try_from(value).unwrap_or(i64::MAX)
}

/// `VmRSS` of `/proc/self/status`, which is in kB whatever the size of a page.
fn resident_bytes() -> Option<u64> {
    let status = std::fs::read_to_string("/proc/self/status").ok()?;
    let line = status.lines().find_map(|l| l.strip_prefix("VmRSS:"))?;
    line.trim().strip_suffix("kB")?.trim().parse::<u64>().ok()?.checked_mul(1024)
}
