//! The one clock (D8). Everything that reads the time takes a [`Clock`]; a lint forbids the real one elsewhere, so that
//! years of lifecycle run in seconds in tests and in the demo.

use serde::{Deserialize, Serialize};
use std::fmt;
use std::fs::File;
use std::io::{self, Write};
use std::path::PathBuf;
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Mutex, PoisonError};
use std::time::{Duration, SystemTime, UNIX_EPOCH};

/// A point in time: whole milliseconds since the Unix epoch, UTC.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Default, Serialize, Deserialize)]
#[serde(transparent)]
pub struct Timestamp(pub u64);

impl Timestamp {
    /// The latest representable point: "never" in due times.
    pub const MAX: Timestamp = Timestamp(u64::MAX);

    /// Milliseconds since the Unix epoch.
    pub const fn millis(self) -> u64 {
        self.0
    }

    /// Whole seconds since the Unix epoch.
    pub const fn seconds(self) -> u64 {
        self.0 / 1000
    }

    /// This point plus `duration`, saturating at [`Timestamp::MAX`].
    pub fn plus(self, duration: Duration) -> Timestamp {
        Timestamp(self.0.saturating_add(u64::try_from(duration.as_millis()).unwrap_or(u64::MAX)))
    }

    /// The time from `earlier` to this point; zero when `earlier` is later.
    pub fn since(self, earlier: Timestamp) -> Duration {
        Duration::from_millis(self.0.saturating_sub(earlier.0))
    }

    /// As a [`SystemTime`].
    pub fn to_system_time(self) -> SystemTime {
        UNIX_EPOCH + Duration::from_millis(self.0)
    }
}

impl fmt::Display for Timestamp {
    /// RFC 3339 in UTC with milliseconds, or `never` for [`Timestamp::MAX`].
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let format =
            time::macros::format_description!("[year]-[month]-[day]T[hour]:[minute]:[second].[subsecond digits:3]Z");
        let nanos = i128::from(self.0) * 1_000_000;
        match time::OffsetDateTime::from_unix_timestamp_nanos(nanos).ok().and_then(|t| t.format(format).ok()) {
            Some(text) => f.write_str(&text),
            None => f.write_str("never"),
        }
    }
}

/// Where the time comes from.
pub trait Clock: Send + Sync + fmt::Debug {
    /// Now.
    fn now(&self) -> Timestamp;
}

/// The machine's clock, moved forward by an offset that an operator of a test system may raise
/// (`debug.adjustable_clock`). The offset is zero unless [`SystemClock::advance`] is called.
#[derive(Debug, Default)]
pub struct SystemClock {
    offset_ms: AtomicU64,
    /// The file that keeps the offset; held while it is raised.
    kept_in: Mutex<Option<PathBuf>>,
}

impl SystemClock {
    /// The machine's clock with the offset that `file` keeps; no file, no offset. A store whose clock was moved goes on with
    /// it after a restart: what it has written would otherwise lie in the future, and due times and restored copies with it.
    ///
    /// # Errors
    /// Of reading; `InvalidData` when the file holds no number of milliseconds.
    pub fn kept_in(file: PathBuf) -> io::Result<Self> {
        let offset = match std::fs::read_to_string(&file) {
            Ok(text) => text.trim().parse().map_err(|e| {
                let what =
                    format!("{} does not hold the milliseconds by which the clock is ahead: {e}", file.display());
                io::Error::new(io::ErrorKind::InvalidData, what)
            })?,
            Err(e) if e.kind() == io::ErrorKind::NotFound => 0,
            Err(e) => return Err(e),
        };
        Ok(Self { offset_ms: AtomicU64::new(offset), kept_in: Mutex::new(Some(file)) })
    }

    /// How far this clock is ahead of the machine's.
    pub fn offset(&self) -> Duration {
        Duration::from_millis(self.offset_ms.load(Ordering::SeqCst))
    }

    /// Moves this clock forward; it never goes back. Returns the new total offset, which is durable first where the clock
    /// has a file.
    ///
    /// # Errors
    /// Of writing the file; the clock is then not moved.
    pub fn advance(&self, by: Duration) -> io::Result<Duration> {
        let kept_in = self.kept_in.lock().unwrap_or_else(PoisonError::into_inner);
        let by = u64::try_from(by.as_millis()).unwrap_or(u64::MAX);
        let offset = self.offset_ms.load(Ordering::SeqCst).saturating_add(by);
        if let Some(file) = kept_in.as_deref() {
            let temporary = file.with_extension("tmp");
            let mut out = File::create(&temporary)?;
            writeln!(out, "{offset}")?;
            out.sync_all()?;
            std::fs::rename(&temporary, file)?;
            file.parent().map_or(Ok(()), |dir| File::open(dir)?.sync_all())?;
        }
        self.offset_ms.store(offset, Ordering::SeqCst);
        Ok(Duration::from_millis(offset))
    }
}

impl Clock for SystemClock {
    #[allow(clippy::disallowed_methods)] // the one place that may read the machine's clock
    fn now(&self) -> Timestamp {
        let real = SystemTime::now().duration_since(UNIX_EPOCH).unwrap_or_default();
        let real = u64::try_from(real.as_millis()).unwrap_or(u64::MAX);
        Timestamp(real.saturating_add(self.offset_ms.load(Ordering::SeqCst)))
    }
}

/// A clock that stands still until it is moved: for tests.
#[derive(Debug)]
pub struct ManualClock {
    now_ms: AtomicU64,
}

impl ManualClock {
    /// A clock that shows `start`.
    pub fn new(start: Timestamp) -> Self {
        Self { now_ms: AtomicU64::new(start.0) }
    }

    /// Moves the clock forward.
    pub fn advance(&self, by: Duration) {
        self.now_ms.fetch_add(u64::try_from(by.as_millis()).unwrap_or(u64::MAX), Ordering::SeqCst);
    }
}

impl Clock for ManualClock {
    fn now(&self) -> Timestamp {
        Timestamp(self.now_ms.load(Ordering::SeqCst))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_clock_that_was_moved_is_as_far_ahead_after_a_restart() {
        let dir = tempfile::tempdir().unwrap();
        let file = dir.path().join("clock-offset");
        let clock = SystemClock::kept_in(file.clone()).unwrap();
        assert_eq!(clock.offset(), Duration::ZERO);
        clock.advance(Duration::from_secs(3)).unwrap();
        assert_eq!(clock.advance(Duration::from_secs(4)).unwrap(), Duration::from_secs(7));
        let before = clock.now();
        let again = SystemClock::kept_in(file.clone()).unwrap();
        assert_eq!(again.offset(), Duration::from_secs(7));
        assert!(again.now() >= before);
        std::fs::write(&file, "soon").unwrap();
        assert!(SystemClock::kept_in(file).unwrap_err().to_string().contains("clock-offset"));
    }

    #[test]
    fn a_clock_whose_offset_cannot_be_kept_does_not_move() {
        let dir = tempfile::tempdir().unwrap();
        let clock = SystemClock::kept_in(dir.path().join("missing/clock-offset")).unwrap();
        assert!(clock.advance(Duration::from_secs(1)).is_err());
        assert_eq!(clock.offset(), Duration::ZERO);
    }
}
