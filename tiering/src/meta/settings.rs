//! Settings of the namespace store.

use super::MetaError;
use std::time::Duration;

/// The longest key, in bytes: an S3 key (1,024) behind a bucket name (63) and ids, with room.
pub const MAX_KEY_BYTES: usize = 8 * 1024;
/// The largest batch, in bytes of its record: a quarter of the default segment.
pub const MAX_RECORD_BYTES: usize = 16 * 1024 * 1024;
/// The smallest segment that [`MetaSettings::check`] accepts, in bytes.
pub const MIN_SEGMENT_BYTES: u64 = 4 * 1024;

/// When a commit counts as done.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Durability {
    /// After fdatasync: survives power loss.
    Strict,
    /// After the write: survives the death of the process, but power loss takes up to `sync_every` of commits.
    Relaxed {
        /// The longest time between a commit and its fdatasync.
        sync_every: Duration,
    },
}

/// Settings of the namespace store. Plain data; [`Default`] is meant for production.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct MetaSettings {
    /// When a commit counts as done.
    pub durability: Durability,
    /// Commits that may wait for the committer; further callers wait for room.
    pub queue_depth: usize,
    /// Most batches in one group commit.
    pub max_group_records: usize,
    /// Most bytes in one group commit; a single larger batch makes a group of its own.
    pub max_group_bytes: usize,
    /// Size at which a journal segment is closed and the next begun, in bytes.
    pub segment_bytes: u64,
    /// How far ahead of the records a segment is filled with zeros, in bytes: inside written blocks fdatasync has no
    /// file size and no extent to write.
    pub fill_ahead_bytes: u64,
    /// Memory for the index's page cache, in bytes.
    pub index_cache_bytes: u64,
    /// Journal written between two checkpoints of the index, in bytes: bounds the replay after a kill.
    pub checkpoint_bytes: u64,
    /// Least journal written between two snapshots, in bytes: bounds (with the size of the last snapshot) the
    /// replay of a rebuild and the size of the journal folder.
    pub snapshot_bytes: u64,
    /// Snapshots kept, the newest included, each with the journal after it: with 2, one damaged snapshot is survived.
    pub keep_snapshots: usize,
    /// Commits are refused while the file system has less than this free, in bytes. sled does not survive a full disk: after one
    /// write that fails it has to be opened again.
    pub least_free_bytes: u64,
}

impl Default for MetaSettings {
    fn default() -> Self {
        Self {
            durability: Durability::Strict,
            queue_depth: 4096,
            max_group_records: 1024,
            max_group_bytes: 4 << 20,
            segment_bytes: 64 << 20,
            fill_ahead_bytes: 1 << 20,
            index_cache_bytes: 64 << 20,
            checkpoint_bytes: 32 << 20,
            snapshot_bytes: 64 << 20,
            keep_snapshots: 2,
            least_free_bytes: 8 << 20,
        }
    }
}

impl MetaSettings {
    /// Refuses values that cannot work, naming the setting.
    pub fn check(&self) -> Result<(), MetaError> {
        let max = u64::from(u32::MAX);
        let bad = [
            ("queue_depth", self.queue_depth == 0 || self.queue_depth > 1 << 20, "between 1 and 1048576"),
            ("max_group_records", self.max_group_records == 0, "at least 1"),
            ("max_group_bytes", self.max_group_bytes == 0 || self.max_group_bytes > 1 << 30, "between 1 and 1 GiB"),
            (
                "segment_bytes",
                self.segment_bytes < MIN_SEGMENT_BYTES || self.segment_bytes > max,
                "between 4 KiB and 4 GiB",
            ),
            ("fill_ahead_bytes", self.fill_ahead_bytes > self.segment_bytes, "at most segment_bytes"),
            ("keep_snapshots", self.keep_snapshots == 0, "at least 1"),
            (
                "durability.sync_every",
                matches!(self.durability, Durability::Relaxed { sync_every } if sync_every.is_zero()),
                "above zero",
            ),
        ];
        match bad.iter().find(|(_, wrong, _)| *wrong) {
            Some((name, _, want)) => Err(MetaError::Invalid(format!("meta setting {name} must be {want}"))),
            None => Ok(()),
        }
    }
}
