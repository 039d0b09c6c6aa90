//! The engine's metrics. Names follow Prometheus's conventions: base units, counters end in `_total`. Handles are
//! resolved once; labels come from configuration (tiers) or from enums, never from keys.

use prometheus::{
    Gauge, GaugeVec, Histogram, HistogramOpts, IntCounter, IntCounterVec, IntGauge, IntGaugeVec, Opts, Registry,
};

macro_rules! metrics {
    ($( $(#[$doc:meta])* $field:ident: $kind:ident($name:literal, $help:literal) ),* $(,)?) => {
        /// See the module.
        pub(crate) struct Metrics { $( $(#[$doc])* pub $field: $kind, )*
            /// Versions by tier and residency.
            pub objects: IntGaugeVec,
            /// Logical bytes by tier and residency.
            pub bytes: IntGaugeVec,
            /// Remote packs' bytes by tier and state.
            pub remote_bytes: IntGaugeVec,
            /// Versions waiting for a transition, a protection or its end, by tier.
            pub queue: IntGaugeVec,
            /// Failed jobs in a row, by tier.
            pub tier_failures: IntGaugeVec,
            /// Records that do not decode, by table.
            pub broken_records: IntCounterVec,
            /// Events that wait, by target.
            pub events_queued: IntGaugeVec,
            /// Age of the oldest event that waits, by target.
            pub events_oldest: GaugeVec,
            /// Events that were not queued, by target.
            pub events_dropped: IntCounterVec,
            /// Time of the journal's sync.
            pub journal_sync: Histogram,
        }

        impl Metrics {
            /// Makes and registers all.
            pub(crate) fn new(registry: &Registry) -> Result<Self, prometheus::Error> {
                let metrics = Self {
                    $( $field: $kind::with_opts(Opts::new($name, $help))?, )*
                    objects: vec("tidegate_objects", "Object versions.", &["tier", "residency"])?,
                    bytes: vec("tidegate_object_bytes", "Logical bytes of object versions.", &["tier", "residency"])?,
                    remote_bytes: vec("tidegate_remote_pack_bytes", "Bytes of packs in tiers.", &["tier", "state"])?,
                    queue: vec("tidegate_transition_queue_versions", "Versions waiting for a transition, a protection or its end.", &["tier"])?,
                    tier_failures: vec("tidegate_tier_consecutive_failures", "Failed jobs in a row.", &["tier"])?,
                    broken_records: IntCounterVec::new(
                        Opts::new("tidegate_unusable_records_total", "Stored records found that cannot be used, each once."),
                        &["table"],
                    )?,
                    events_queued: vec("tidegate_notification_queue_events", "Events that wait for a target of notifications.", &["target"])?,
                    events_oldest: GaugeVec::new(
                        Opts::new("tidegate_notification_oldest_event_age_seconds", "Age of the oldest event that waits for a target; 0 when none does."),
                        &["target"],
                    )?,
                    events_dropped: IntCounterVec::new(
                        Opts::new("tidegate_notification_dropped_events_total", "Events that were lost because as many waited for the target as may."),
                        &["target"],
                    )?,
                    journal_sync: Histogram::with_opts(
                        HistogramOpts::new("tidegate_journal_sync_duration_seconds", "Time of the journal's sync.")
                            .buckets(prometheus::exponential_buckets(0.000_05, 2.0, 16)?),
                    )?,
                };
                $( registry.register(Box::new(metrics.$field.clone()))?; )*
                for family in [&metrics.objects, &metrics.bytes, &metrics.remote_bytes, &metrics.queue, &metrics.tier_failures, &metrics.events_queued] {
                    registry.register(Box::new(family.clone()))?;
                }
                registry.register(Box::new(metrics.broken_records.clone()))?;
                registry.register(Box::new(metrics.events_oldest.clone()))?;
                registry.register(Box::new(metrics.events_dropped.clone()))?;
                registry.register(Box::new(metrics.journal_sync.clone()))?;
                Ok(metrics)
            }
        }
    };
}

fn vec(name: &str, help: &str, labels: &[&str]) -> Result<IntGaugeVec, prometheus::Error> {
    IntGaugeVec::new(Opts::new(name, help), labels)
}

metrics! {
    /// Frames whose digest failed.
    corrupt_frames: IntCounter("tidegate_corrupt_frames_total", "Local frames that failed their digest and were set aside."),
    /// Bytes read back from tiers.
    recalled_bytes: IntCounter("tidegate_recalled_bytes_total", "Bytes read back from tiers."),
    /// Bytes uploaded to tiers.
    transitioned_bytes: IntCounter("tidegate_transitioned_bytes_total", "Bytes of packs written to tiers."),
    /// Versions moved to tiers.
    transitioned_versions: IntCounter("tidegate_transitioned_versions_total", "Object versions moved to tiers."),
    /// Versions protected.
    protected_versions: IntCounter("tidegate_protected_versions_total", "Hot object versions whose bodies were brought to a tier as well."),
    /// Age of the oldest version that waits to be protected.
    protect_lag: Gauge("tidegate_protect_lag_seconds", "Age of the oldest object version of a protected bucket whose body is on local disks only; 0 when there is none."),
    /// How many wait.
    protect_pending_objects: IntGauge("tidegate_protect_pending_objects", "Object versions that wait to be protected."),
    /// Their bytes.
    protect_pending_bytes: IntGauge("tidegate_protect_pending_bytes", "Logical bytes of object versions that wait to be protected."),
    /// Versions restored.
    restored_versions: IntCounter("tidegate_restored_versions_total", "Object versions restored."),
    /// Thaws asked of tiers.
    thaws: IntCounter("tidegate_thaws_total", "Restores of packs asked of tiers."),
    /// Versions deleted by rule.
    expired_versions: IntCounter("tidegate_expired_versions_total", "Object versions deleted by a rule."),
    /// Uploads aborted by rule.
    aborted_uploads: IntCounter("tidegate_aborted_uploads_total", "Unfinished uploads aborted by a rule."),
    /// Local bytes given back.
    reclaimed_bytes: IntCounter("tidegate_reclaimed_bytes_total", "Bytes of local packs given back."),
    /// Failures of the loop itself.
    scheduler_errors: IntCounter("tidegate_scheduler_errors_total", "Turns of the background loop that failed."),
    /// After a failed sync or a failure of the index.
    writes_refused: IntGauge("tidegate_writes_refused", "1 when the store refuses all writes after an I/O error, until it is started again."),
    /// When the loop last came round.
    scheduler_last_turn: Gauge("tidegate_scheduler_last_turn_timestamp_seconds", "When the background loop last came round."),
    /// Lag.
    oldest_due_lag: Gauge("tidegate_oldest_due_lag_seconds", "How late the oldest due action is."),
    /// Age of the oldest data without a copy in a tier.
    oldest_dirty_age: Gauge("tidegate_oldest_dirty_byte_age_seconds", "Age of the oldest object data that is on local disks only, in no tier; 0 when there is none."),
    /// Unique raw bytes.
    unique_bytes: Gauge("tidegate_local_unique_bytes", "Raw bytes of the chunks in local packs, each once. Deduplication: tidegate_object_bytes{residency=\"hot\"} divided by this."),
    /// Stored bytes.
    stored_bytes: Gauge("tidegate_local_stored_bytes", "Bytes of the frames in local packs that are referred to. Compression: tidegate_local_unique_bytes divided by this."),
    /// Pack files.
    pack_bytes: Gauge("tidegate_local_pack_bytes", "Bytes of local pack files."),
    /// Limit.
    max_bytes: Gauge("tidegate_local_max_bytes", "The limit that local packs never exceed."),
    /// What the last mark found missing.
    damaged_objects: IntGauge("tidegate_damaged_objects", "Objects and parts of which the last mark found chunks neither local nor in a tier."),
    /// What the last mark could not read.
    gc_unreadable: IntGauge("tidegate_gc_unreadable", "Manifest nodes and records that the last mark could not read; what they may name is kept."),
    /// A scrub runs.
    scrub_running: IntGauge("tidegate_scrub_running", "1 while a scrub reads local packs."),
    /// Read by scrubs.
    scrub_bytes: IntCounter("tidegate_scrub_bytes_total", "Bytes of local frames that scrubs have read and verified."),
    /// Found by scrubs.
    scrub_damaged: IntCounter("tidegate_scrub_damaged_frames_total", "Frames that scrubs found damaged or unreadable."),
    /// Healed by scrubs.
    scrub_healed: IntCounter("tidegate_scrub_healed_frames_total", "Damaged frames that scrubs replaced, from a tier or from another copy."),
    /// Lost.
    scrub_lost: IntCounter("tidegate_scrub_lost_frames_total", "Damaged frames of which complete passes of scrubs found no other copy."),
    /// How far.
    scrub_position: Gauge("tidegate_scrub_position_ratio", "How much of its pass the scrub has behind it, 0 to 1; an interrupted one too. 0 when none was begun."),
    /// When all was verified.
    scrub_last_complete: Gauge("tidegate_scrub_last_complete_timestamp_seconds", "When a scrub last came to the end of all local packs; 0 when none ever did."),
    /// Memory.
    local_index_bytes: Gauge("tidegate_local_index_bytes", "Memory of the index of local chunks."),
    /// Memory.
    remote_index_bytes: Gauge("tidegate_remote_index_bytes", "Memory of the index of chunks in tiers."),
    /// Age of the oldest restore.
    oldest_restore_age: Gauge("tidegate_oldest_restore_age_seconds", "Age of the oldest restore that is not done."),
    /// Restores on their way.
    restores_open: Gauge("tidegate_restores_open", "Restores that are not done."),
    /// Doomed packs.
    doomed_packs: Gauge("tidegate_remote_packs_doomed", "Remote packs that wait to be deleted."),
}
