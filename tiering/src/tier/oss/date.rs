//! The date formats of the protocol.

use crate::clock::Timestamp;
use time::macros::format_description;
use time::{OffsetDateTime, PrimitiveDateTime, UtcDateTime};

fn at(when: Timestamp) -> OffsetDateTime {
    i64::try_from(when.seconds())
        .ok()
        .and_then(|s| OffsetDateTime::from_unix_timestamp(s).ok())
        .unwrap_or(OffsetDateTime::UNIX_EPOCH)
}

/// `Wed, 28 Dec 2022 10:27:41 GMT`: the `Date` header.
pub(crate) fn http(when: Timestamp) -> String {
    let format =
        format_description!("[weekday repr:short], [day] [month repr:short] [year] [hour]:[minute]:[second] GMT");
    at(when).format(format).unwrap_or_default()
}

/// Reads what [`http()`] writes.
pub(crate) fn parse_http(text: &str) -> Option<Timestamp> {
    let format =
        format_description!("[weekday repr:short], [day] [month repr:short] [year] [hour]:[minute]:[second] GMT");
    to_timestamp(PrimitiveDateTime::parse(text.trim(), format).ok()?.as_utc())
}

/// `20231216T162057Z`: `x-oss-date`.
pub(crate) fn compact(when: Timestamp) -> String {
    at(when).format(format_description!("[year][month][day]T[hour][minute][second]Z")).unwrap_or_default()
}

/// `2023-12-16T16:20:57Z`: time stamps of RPC calls.
pub(crate) fn iso(when: Timestamp) -> String {
    at(when).format(format_description!("[year]-[month]-[day]T[hour]:[minute]:[second]Z")).unwrap_or_default()
}

/// Reads `2023-12-16T16:20:57Z` with or without a fraction.
pub(crate) fn parse_iso(text: &str) -> Option<Timestamp> {
    let parsed = OffsetDateTime::parse(text.trim(), &time::format_description::well_known::Rfc3339).ok()?;
    to_timestamp(parsed.to_utc())
}

fn to_timestamp(when: UtcDateTime) -> Option<Timestamp> {
    u64::try_from(when.unix_timestamp_nanos() / 1_000_000).ok().map(Timestamp)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn dates_are_written_and_read_as_the_service_writes_them() {
        let when = Timestamp(1_702_743_657_000);
        assert_eq!(compact(when), "20231216T162057Z");
        assert_eq!(http(when), "Sat, 16 Dec 2023 16:20:57 GMT");
        assert_eq!(iso(when), "2023-12-16T16:20:57Z");
        assert_eq!(parse_http("Sat, 16 Dec 2023 16:20:57 GMT"), Some(when));
        assert_eq!(parse_iso("2023-12-16T16:20:57Z"), Some(when));
        assert_eq!(parse_iso("2023-12-16T16:20:57.000Z"), Some(when));
        assert_eq!(parse_http("yesterday"), None);
    }
}
