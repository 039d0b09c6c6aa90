//! The disk limit is a promise: every byte is reserved before it is written.

use super::LocalError;
use serde::{Deserialize, Serialize};
use std::fmt;
use std::io;
use std::path::Path;
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Mutex, PoisonError};
use std::time::{Duration, Instant};

/// Limits of local disk use, in bytes.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct BudgetSettings {
    /// The packs never take more than this (`hot.max_bytes`).
    pub max_bytes: u64,
    /// The file system keeps at least this much free.
    pub free_floor: u64,
    /// Part of `max_bytes` that only compaction may take, so that a full store can still be compacted. Two packs'
    /// worth is enough to make progress. Above the floor as much is left for it, up to a sixteenth of the file system.
    pub compaction_reserve: u64,
}

impl Default for BudgetSettings {
    /// 100 GiB of packs, 1 GiB kept free, two packs' worth for compaction.
    fn default() -> Self {
        Self { max_bytes: 100 << 30, free_floor: 1 << 30, compaction_reserve: 256 << 20 }
    }
}

/// Of a file system of which nothing is known.
const UNKNOWN_DISK: u64 = 100 << 30;
/// No pack is made shorter than this for want of room: thousands of files would not help.
const LEAST_PACK: u64 = 1 << 20;
/// So that a store on a very small file system can be opened at all; the floor still guards what is free.
const LEAST_MAX_BYTES: u64 = 256 << 20;

/// The limit when the operator names none: nine tenths of the size of the file system that holds `path` (or will), less
/// `free_floor`. A tenth is left for the journal, the index and snapshots. The size and not what is free today: the
/// limit shall not shrink with every start of a store that fills. What else is on the disk is the floor's business.
pub fn default_max_bytes(path: &Path, free_floor: u64) -> u64 {
    let there = path.ancestors().find(|p| p.exists());
    let size = there.and_then(|p| rustix::fs::statvfs(p).ok()).map(|s| s.f_blocks.saturating_mul(s.f_frsize));
    size.map_or(UNKNOWN_DISK, |size| (size / 10 * 9).saturating_sub(free_floor).max(LEAST_MAX_BYTES))
}

/// Of the room for clients, what recalled chunks may fill, in percent.
pub const RECALL_PERCENT: u64 = 95;

/// Most of a file system that is left free for compaction above the floor: a sixteenth.
const HEADROOM_SHARE: u64 = 16;

/// Who asks for room.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Purpose {
    /// Chunks from clients.
    Ingest,
    /// Chunks from a tier, which has them still: the last of the room is not for them.
    Recall,
    /// Survivors of compaction: may use the compaction reserve.
    Compaction,
}

/// The file system is asked again after this many reserved bytes...
const PROBE_BYTES: u64 = 64 << 20;
/// ...or after this time.
const PROBE_AGE: Duration = Duration::from_millis(100);

type Probe = Box<dyn Fn() -> io::Result<u64> + Send + Sync>;

/// Counts what the packs take on disk, and refuses what would break a limit.
pub struct DiskBudget {
    settings: BudgetSettings,
    /// What only compaction may take of the room above the floor.
    headroom: u64,
    used: AtomicU64,
    probe: Probe,
    free: Mutex<Free>,
}

struct Free {
    /// What the file system said, minus what was reserved since.
    left: u64,
    reserved_since: u64,
    /// The process's own monotonic time: freshness of an answer of the system is no matter of the logical clock.
    asked: Option<Instant>,
}

impl fmt::Debug for DiskBudget {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("DiskBudget").field("settings", &self.settings).field("used", &self.used()).finish()
    }
}

impl DiskBudget {
    /// A budget on the file system that holds `path`.
    ///
    /// # Errors
    /// [`LocalError::Invalid`] when the reserve is not below the limit.
    pub fn new(path: &Path, settings: BudgetSettings) -> Result<Self, LocalError> {
        let path = path.to_owned();
        let size = rustix::fs::statvfs(&path).map_or(0, |s| s.f_blocks.saturating_mul(s.f_frsize));
        let budget = Self::with_probe(settings, move || {
            let s = rustix::fs::statvfs(&path)?;
            Ok(s.f_bavail.saturating_mul(s.f_frsize))
        })?;
        Ok(budget.with_headroom(size / HEADROOM_SHARE))
    }

    /// Leaves the compaction reserve free above the floor too, up to `most` bytes.
    fn with_headroom(mut self, most: u64) -> Self {
        self.headroom = self.settings.compaction_reserve.min(most);
        self
    }

    /// A budget that asks `probe` for the free bytes of the file system.
    ///
    /// # Errors
    /// [`LocalError::Invalid`] when the reserve is not below the limit.
    pub fn with_probe(
        settings: BudgetSettings,
        probe: impl Fn() -> io::Result<u64> + Send + Sync + 'static,
    ) -> Result<Self, LocalError> {
        if settings.compaction_reserve >= settings.max_bytes {
            return Err(LocalError::Invalid(format!(
                "hot.max_bytes ({}) must be above the compaction reserve ({})",
                settings.max_bytes, settings.compaction_reserve
            )));
        }
        let free = Mutex::new(Free { left: 0, reserved_since: 0, asked: None });
        Ok(Self { settings, headroom: 0, used: AtomicU64::new(0), probe: Box::new(probe), free })
    }

    /// Reserves `bytes`, all or nothing.
    ///
    /// # Errors
    /// [`LocalError::Full`] with the limit that would be broken.
    pub fn try_reserve(&self, bytes: u64, purpose: Purpose) -> Result<(), LocalError> {
        let limit = self.limit(purpose);
        let fits = |used: u64| used.checked_add(bytes).filter(|sum| *sum <= limit);
        let taken = self.used.fetch_update(Ordering::AcqRel, Ordering::Acquire, fits);
        taken.map_err(|used| Self::over_limit(used, limit, bytes, purpose))?;
        self.take_free(bytes, purpose).inspect_err(|_| {
            self.used.fetch_sub(bytes, Ordering::AcqRel);
        })
    }

    /// Whether `bytes` could be reserved now; reserves nothing.
    ///
    /// # Errors
    /// [`LocalError::Full`] with the limit that would be broken.
    pub fn check(&self, bytes: u64, purpose: Purpose) -> Result<(), LocalError> {
        let (used, limit) = (self.used(), self.limit(purpose));
        if used.saturating_add(bytes) > limit {
            return Err(Self::over_limit(used, limit, bytes, purpose));
        }
        let (free, floor) = (self.free_bytes(), self.floor(purpose));
        if free.saturating_sub(bytes) < floor { Err(self.under_floor(free, purpose)) } else { Ok(()) }
    }

    fn limit(&self, purpose: Purpose) -> u64 {
        let for_clients = self.settings.max_bytes - self.settings.compaction_reserve;
        match purpose {
            Purpose::Ingest => for_clients,
            Purpose::Recall => for_clients / 100 * RECALL_PERCENT,
            Purpose::Compaction => self.settings.max_bytes,
        }
    }

    fn floor(&self, purpose: Purpose) -> u64 {
        match purpose {
            Purpose::Ingest | Purpose::Recall => self.settings.free_floor.saturating_add(self.headroom),
            Purpose::Compaction => self.settings.free_floor,
        }
    }

    fn over_limit(used: u64, limit: u64, bytes: u64, purpose: Purpose) -> LocalError {
        let rest = if purpose == Purpose::Recall { "; what is left is for writes" } else { "" };
        let reason = format!("{used} of {limit} bytes are taken, {bytes} more do not fit (hot.max_bytes){rest}");
        LocalError::Full { reason }
    }

    fn under_floor(&self, free: u64, purpose: Purpose) -> LocalError {
        let floor = self.settings.free_floor;
        let also = match purpose {
            Purpose::Ingest | Purpose::Recall if self.headroom > 0 => format!(", and {} for compaction", self.headroom),
            _ => String::new(),
        };
        LocalError::Full {
            reason: format!("{free} bytes are free on the file system, {floor} must stay free{also} (hot.free_floor)"),
        }
    }

    fn take_free(&self, bytes: u64, purpose: Purpose) -> Result<(), LocalError> {
        let mut free = self.free.lock().unwrap_or_else(PoisonError::into_inner);
        let floor = self.floor(purpose);
        let enough = |left: u64| left.checked_sub(bytes).is_some_and(|rest| rest >= floor);
        let fresh = free.asked.is_some_and(|t| t.elapsed() < PROBE_AGE) && free.reserved_since < PROBE_BYTES;
        // A refusal is never given on an old answer.
        if !fresh || !enough(free.left) {
            let left = (self.probe)().map_err(|e| LocalError::Full {
                reason: format!("the file system does not say how much is free: {e}"),
            })?;
            *free = Free { left, reserved_since: 0, asked: Some(Instant::now()) };
        }
        if !enough(free.left) {
            return Err(self.under_floor(free.left, purpose));
        }
        free.left -= bytes;
        free.reserved_since += bytes;
        Ok(())
    }

    /// Counts bytes that are on disk already (at opening), whatever the limits.
    pub fn adopt(&self, bytes: u64) {
        self.used.fetch_add(bytes, Ordering::AcqRel);
    }

    /// Gives back what was reserved or adopted.
    pub fn release(&self, bytes: u64) {
        let gone = self.used.fetch_update(Ordering::AcqRel, Ordering::Acquire, |u| Some(u.saturating_sub(bytes)));
        debug_assert!(gone.is_ok_and(|before| before >= bytes), "released more than was reserved");
    }

    /// Bytes that are reserved or on disk.
    pub fn used(&self) -> u64 {
        self.used.load(Ordering::Acquire)
    }

    /// Bytes that clients may still write before [`LocalError::Full`], as far as `max_bytes` goes.
    pub fn room(&self) -> u64 {
        (self.settings.max_bytes - self.settings.compaction_reserve).saturating_sub(self.used())
    }

    /// Bytes that the file system has free now; 0 when it does not say.
    pub fn free_bytes(&self) -> u64 {
        (self.probe)().unwrap_or(0)
    }

    /// What clients could fill as things stand: less than `max_bytes` where others take the room of the file system.
    pub fn capacity(&self) -> u64 {
        let free = self.free_bytes().saturating_sub(self.floor(Purpose::Ingest));
        (self.settings.max_bytes - self.settings.compaction_reserve).min(self.used().saturating_add(free))
    }

    /// Bytes by which the file system is short of what clients must leave free, plus `margin`.
    pub fn short_of_floor(&self, margin: u64) -> u64 {
        self.floor(Purpose::Ingest).saturating_add(margin).saturating_sub(self.free_bytes())
    }

    /// The longest pack that can be rewritten while the store is full: two of them fit into what is left for compaction.
    /// None when nothing is.
    pub fn longest_pack(&self) -> Option<u64> {
        let reserve = self.settings.compaction_reserve;
        let room = if self.headroom > 0 { reserve.min(self.headroom) } else { reserve };
        (room > 0).then(|| (room / 2).max(LEAST_PACK))
    }

    /// The limits.
    pub fn settings(&self) -> BudgetSettings {
        self.settings
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::sync::Arc;

    const SETTINGS: BudgetSettings = BudgetSettings { max_bytes: 1_000, free_floor: 50, compaction_reserve: 200 };

    #[test]
    fn ingest_stops_before_the_reserve_and_compaction_at_the_limit() {
        let b = DiskBudget::with_probe(SETTINGS, || Ok(u64::MAX)).unwrap();
        b.try_reserve(800, Purpose::Ingest).unwrap();
        let full = b.try_reserve(1, Purpose::Ingest).unwrap_err().to_string();
        assert!(full.contains("800") && full.contains("hot.max_bytes"), "{full}");
        b.try_reserve(200, Purpose::Compaction).unwrap();
        assert!(b.try_reserve(1, Purpose::Compaction).is_err());
        b.release(500);
        assert_eq!((b.used(), b.room()), (500, 300));
    }

    #[test]
    fn the_limit_that_nobody_named_is_a_share_of_the_file_system_and_leaves_the_floor() {
        let dir = tempfile::tempdir().unwrap();
        let all = rustix::fs::statvfs(dir.path()).unwrap();
        let size = all.f_blocks * all.f_frsize;
        let limit = default_max_bytes(dir.path(), 1 << 20);
        assert!(limit < size && limit + (1 << 20) >= size / 10 * 9, "{limit} of {size}");
        assert_eq!(default_max_bytes(&dir.path().join("not/yet"), 1 << 20), limit);
        assert_eq!(default_max_bytes(dir.path(), u64::MAX), LEAST_MAX_BYTES);
        assert_eq!(default_max_bytes(Path::new(""), 0), UNKNOWN_DISK);
    }

    #[test]
    fn the_floor_is_kept_and_a_refusal_reserves_nothing() {
        let free = Arc::new(AtomicU64::new(150));
        let seen = Arc::clone(&free);
        let b = DiskBudget::with_probe(SETTINGS, move || Ok(seen.load(Ordering::Relaxed))).unwrap();
        b.try_reserve(60, Purpose::Ingest).unwrap();
        free.store(90, Ordering::Relaxed);
        assert!(b.try_reserve(60, Purpose::Ingest).unwrap_err().to_string().contains("must stay free"));
        assert_eq!(b.used(), 60);
        free.store(10_000, Ordering::Relaxed);
        b.try_reserve(60, Purpose::Ingest).unwrap();
    }

    #[test]
    fn above_the_floor_room_is_left_for_compaction_and_a_question_reserves_nothing() {
        let free = Arc::new(AtomicU64::new(400));
        let seen = Arc::clone(&free);
        let b = DiskBudget::with_probe(SETTINGS, move || Ok(seen.load(Ordering::Relaxed))).unwrap().with_headroom(100);
        assert_eq!((b.short_of_floor(300), b.short_of_floor(10), b.capacity()), (50, 0, 250));
        b.check(250, Purpose::Ingest).unwrap();
        b.try_reserve(250, Purpose::Ingest).unwrap();
        free.store(150, Ordering::Relaxed);
        for refused in [b.check(1, Purpose::Ingest), b.try_reserve(1, Purpose::Ingest)] {
            let why = refused.unwrap_err().to_string();
            assert!(why.contains("50 must stay free, and 100 for compaction"), "{why}");
        }
        b.check(100, Purpose::Compaction).unwrap();
        assert!(b.check(101, Purpose::Compaction).is_err());
        b.try_reserve(100, Purpose::Compaction).unwrap();
        free.store(50, Ordering::Relaxed);
        assert!(b.try_reserve(1, Purpose::Compaction).is_err());
        assert_eq!(b.used(), 350);
        // A file system that is small compared with the reserve is not given up to it.
        let small = DiskBudget::with_probe(SETTINGS, || Ok(400)).unwrap().with_headroom(20);
        small.try_reserve(330, Purpose::Ingest).unwrap();
    }

    #[test]
    fn threads_together_never_exceed_the_limit() {
        let b = DiskBudget::with_probe(SETTINGS, || Ok(u64::MAX)).unwrap();
        std::thread::scope(|s| {
            for _ in 0..4 {
                s.spawn(|| {
                    for _ in 0..2_000 {
                        if b.try_reserve(7, Purpose::Ingest).is_ok() {
                            assert!(b.used() <= 800);
                            if b.used() > 700 {
                                b.release(7);
                            }
                        }
                    }
                });
            }
        });
        assert!(b.used() <= 800);
    }
}
