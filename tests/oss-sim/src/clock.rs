//! The simulator's own clock: real time plus an offset, or standing still, moved by the administrator.

use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use time::format_description::FormatItem;
use time::macros::format_description;
use time::{OffsetDateTime, PrimitiveDateTime};

/// One second, in the unit of this crate (milliseconds).
pub const SECOND: u64 = 1000;
/// One minute in milliseconds.
pub const MINUTE: u64 = 60 * SECOND;
/// One hour in milliseconds.
pub const HOUR: u64 = 60 * MINUTE;
/// One day in milliseconds.
pub const DAY: u64 = 24 * HOUR;

/// The virtual clock. Cheap to read, shared by reference.
#[derive(Debug)]
pub struct VirtualClock {
    /// Milliseconds added to the base.
    offset: AtomicU64,
    /// The base when the clock stands still; unused otherwise.
    frozen_at: u64,
    frozen: bool,
    skew_check: AtomicBool,
}

impl VirtualClock {
    /// A clock that shows `start` (milliseconds since the Unix epoch; `None` = the real time) now, and then flows with
    /// real time, or stands still when `frozen`.
    pub fn new(start: Option<u64>, frozen: bool, skew_check: bool) -> VirtualClock {
        let real = real_now();
        let start = start.unwrap_or(real);
        let offset = if frozen { 0 } else { start.wrapping_sub(real) };
        VirtualClock {
            offset: AtomicU64::new(offset),
            frozen_at: start,
            frozen,
            skew_check: AtomicBool::new(skew_check),
        }
    }

    /// Virtual milliseconds since the Unix epoch.
    pub fn now(&self) -> u64 {
        let base = if self.frozen { self.frozen_at } else { real_now() };
        // Wrapping: a start in the past is stored as a "negative" offset.
        base.wrapping_add(self.offset.load(Ordering::SeqCst))
    }

    /// Moves the clock forward by `ms` and returns the new time. It never goes back.
    pub fn advance_ms(&self, ms: u64) -> u64 {
        self.offset.fetch_add(ms, Ordering::SeqCst);
        self.now()
    }

    /// The offset, to be stored.
    pub(crate) fn offset(&self) -> u64 {
        self.offset.load(Ordering::SeqCst)
    }

    /// Takes a stored offset.
    pub(crate) fn set_offset(&self, offset: u64) {
        self.offset.store(offset, Ordering::SeqCst);
    }

    /// Whether a request whose date is more than 15 minutes off is refused.
    pub fn skew_check(&self) -> bool {
        self.skew_check.load(Ordering::SeqCst)
    }

    /// Turns the 15-minute check on or off (clients that cannot correct their clock need it off after a jump).
    pub fn set_skew_check(&self, on: bool) {
        self.skew_check.store(on, Ordering::SeqCst);
    }
}

/// The only reader of real time in this crate.
#[allow(clippy::disallowed_methods)]
fn real_now() -> u64 {
    let since = std::time::SystemTime::now().duration_since(std::time::UNIX_EPOCH).unwrap_or_default();
    u64::try_from(since.as_millis()).unwrap_or(u64::MAX)
}

const HTTP_DATE: &[FormatItem<'static>] =
    format_description!("[weekday repr:short], [day] [month repr:short] [year] [hour]:[minute]:[second] GMT");
const ISO: &[FormatItem<'static>] = format_description!("[year]-[month]-[day]T[hour]:[minute]:[second].000Z");
const COMPACT: &[FormatItem<'static>] = format_description!("[year][month][day]T[hour][minute][second]Z");
const ISO_IN: &[FormatItem<'static>] =
    format_description!("[year]-[month]-[day]T[hour]:[minute]:[second][optional [.[subsecond]]]Z");

fn utc(ms: u64) -> OffsetDateTime {
    let seconds = i64::try_from(ms / SECOND).unwrap_or(i64::MAX);
    OffsetDateTime::from_unix_timestamp(seconds).unwrap_or(OffsetDateTime::UNIX_EPOCH)
}

/// `Sun, 16 Apr 2017 08:12:33 GMT`.
pub fn http_date(ms: u64) -> String {
    utc(ms).format(HTTP_DATE).unwrap_or_default()
}

/// `2018-12-28T09:41:56.000Z`, the form of OSS's XML documents.
pub fn iso(ms: u64) -> String {
    utc(ms).format(ISO).unwrap_or_default()
}

/// `20231216T162057Z`, the form of V4 signatures.
pub fn compact(ms: u64) -> String {
    utc(ms).format(COMPACT).unwrap_or_default()
}

/// Reads an RFC 1123 date in GMT.
pub fn parse_http_date(text: &str) -> Option<u64> {
    parse(text, HTTP_DATE)
}

/// Reads the date form of V4 signatures.
pub fn parse_compact(text: &str) -> Option<u64> {
    parse(text, COMPACT)
}

/// Reads `2021-12-30T00:00:00.000Z`, with or without fractions.
pub fn parse_iso(text: &str) -> Option<u64> {
    parse(text, ISO_IN)
}

fn parse(text: &str, format: &[FormatItem<'static>]) -> Option<u64> {
    let at = PrimitiveDateTime::parse(text.trim(), format).ok()?.assume_utc();
    u64::try_from(at.unix_timestamp()).ok()?.checked_mul(SECOND)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn dates_are_written_and_read_in_the_three_forms() {
        let at = 1_702_743_657_000;
        assert_eq!(http_date(at), "Sat, 16 Dec 2023 16:20:57 GMT");
        assert_eq!(compact(at), "20231216T162057Z");
        assert_eq!(iso(at), "2023-12-16T16:20:57.000Z");
        assert_eq!(parse_http_date(&http_date(at)), Some(at));
        assert_eq!(parse_compact(&compact(at)), Some(at));
        assert_eq!(parse_iso(&iso(at)), Some(at));
        assert_eq!(parse_iso("2023-12-16T16:20:57Z"), Some(at));
        assert_eq!(parse_http_date("yesterday"), None);
    }

    #[test]
    fn a_frozen_clock_moves_only_when_told() {
        let clock = VirtualClock::new(Some(5 * DAY), true, true);
        assert_eq!(clock.now(), 5 * DAY);
        assert_eq!(clock.advance_ms(HOUR), 5 * DAY + HOUR);
    }
}
