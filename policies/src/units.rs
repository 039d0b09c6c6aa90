//! Durations, sizes and percentages as a policy writes them.

use crate::Millis;

const SECOND: Millis = 1000;
const MINUTE: Millis = 60 * SECOND;
const HOUR: Millis = 60 * MINUTE;

/// One day in milliseconds. A day is 24 hours, always: times are exact and never rounded to midnight.
pub const DAY: Millis = 24 * HOUR;

/// Longest duration a policy may name: 100 years of 365 days. Keeps every sum of times far from overflow.
pub(crate) const MAX_DURATION: Millis = 100 * 365 * DAY;

/// What a duration looks like, for the schema.
pub(crate) const DURATION_PATTERN: &str = "^0*[1-9][0-9]*(d|h|m|s)$";
/// What a size looks like, for the schema.
pub(crate) const SIZE_PATTERN: &str = "^[0-9]+(B|KiB|MiB|GiB|TiB)$";
/// What a fill level looks like, for the schema.
pub(crate) const PERCENT_PATTERN: &str = "^0*[1-9][0-9]?%$";

/// Why a text is not a quantity, and the way out.
pub(crate) type UnitError = (String, String);

fn split(text: &str) -> (&str, &str) {
    text.split_at(text.bytes().take_while(u8::is_ascii_digit).count())
}

/// Parses `30d`, `12h`, `90m` or `45s` into milliseconds. Zero is refused: it would act on every object at once.
pub(crate) fn parse_duration(text: &str) -> Result<Millis, UnitError> {
    let (digits, unit) = split(text);
    let scale = match unit {
        "d" => DAY,
        "h" => HOUR,
        "m" => MINUTE,
        "s" => SECOND,
        _ => {
            let help = "write a whole number and one unit: 30d, 12h, 90m or 45s (a month is 30d, a year 365d)";
            return Err((format!("{text:?} is not a duration"), help.to_owned()));
        }
    };
    if digits.is_empty() {
        return Err((format!("{text:?} is not a duration"), format!("put a number before the unit: 30{unit}")));
    }
    let millis = digits.parse::<u64>().ok().and_then(|n| n.checked_mul(scale)).filter(|m| *m <= MAX_DURATION);
    match millis {
        None => Err((format!("the duration {text} is too long"), "the longest is 36500d (100 years)".to_owned())),
        Some(0) => Err((
            format!("the duration {text} is zero, so the rule would act on every object the moment it is written"),
            "write at least 1s; to stop a rule, set status: disabled".to_owned(),
        )),
        Some(m) => Ok(m),
    }
}

/// Parses `0B`, `64KiB`, `5MiB`, `1GiB` or `2TiB` into bytes.
pub(crate) fn parse_size(text: &str) -> Result<u64, UnitError> {
    let (digits, unit) = split(text);
    let scale = match unit {
        "B" => 1u64,
        "KiB" => 1 << 10,
        "MiB" => 1 << 20,
        "GiB" => 1 << 30,
        "TiB" => 1 << 40,
        _ => {
            let help = match nearest_binary_unit(unit) {
                Some(binary) if !digits.is_empty() => format!("sizes are binary: write {digits}{binary}"),
                _ => "write a whole number and one unit: 512B, 64KiB, 5MiB, 1GiB or 2TiB".to_owned(),
            };
            return Err((format!("{text:?} is not a size"), help));
        }
    };
    if digits.is_empty() {
        return Err((format!("{text:?} is not a size"), format!("put a number before the unit: 64{unit}")));
    }
    digits
        .parse::<u64>()
        .ok()
        .and_then(|n| n.checked_mul(scale))
        .ok_or_else(|| (format!("the size {text} is too large"), "the largest object is 5TiB".to_owned()))
}

fn nearest_binary_unit(unit: &str) -> Option<&'static str> {
    match unit.to_ascii_lowercase().as_str() {
        "k" | "kb" | "ki" | "kib" => Some("KiB"),
        "m" | "mb" | "mi" | "mib" => Some("MiB"),
        "g" | "gb" | "gi" | "gib" => Some("GiB"),
        "t" | "tb" | "ti" | "tib" => Some("TiB"),
        "b" | "" => Some("B"),
        _ => None,
    }
}

/// Parses `85%` into 85. Only 1 to 99: at 0 everything would move for ever, at 100 the disk is already full.
pub(crate) fn parse_percent(text: &str) -> Result<u8, UnitError> {
    let help = "write a whole percentage from 1% to 99%, such as 85%".to_owned();
    let (digits, unit) = split(text);
    if unit != "%" || digits.is_empty() {
        return Err((format!("{text:?} is not a fill level"), help));
    }
    match digits.parse::<u8>() {
        Ok(n @ 1..=99) => Ok(n),
        _ => Err((format!("the fill level {text} is outside 1% to 99%"), help)),
    }
}

/// `after` with days of `day` milliseconds instead of [`DAY`]; never nothing unless it was.
pub(crate) fn scaled(after: Millis, day: Millis) -> Millis {
    let shrunk = u128::from(after) * u128::from(day) / u128::from(DAY);
    u64::try_from(shrunk).unwrap_or(u64::MAX).max(after.min(1))
}

/// A duration in the largest unit that is exact: `30d`, `36h`.
pub(crate) fn format_duration(millis: Millis) -> String {
    for (scale, unit) in [(DAY, "d"), (HOUR, "h"), (MINUTE, "m"), (SECOND, "s")] {
        if millis.is_multiple_of(scale) {
            return format!("{}{unit}", millis / scale);
        }
    }
    format!("{millis}ms")
}

/// A size in the largest unit that is exact: `64KiB`, `100B`.
pub(crate) fn format_size(bytes: u64) -> String {
    for (shift, unit) in [(40, "TiB"), (30, "GiB"), (20, "MiB"), (10, "KiB")] {
        if bytes > 0 && bytes.is_multiple_of(1 << shift) {
            return format!("{}{unit}", bytes >> shift);
        }
    }
    format!("{bytes}B")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn durations_are_exact_and_printed_as_written() {
        for (text, millis) in [("30d", 2_592_000_000), ("12h", 43_200_000), ("90m", 5_400_000), ("45s", 45_000)] {
            assert_eq!(parse_duration(text), Ok(millis));
            assert_eq!(format_duration(millis), text);
        }
        for bad in ["", "30", "d", "1.5d", "-1d", "30 d", "1w", "0d", "0s", "36501d", "99999999999999999999d", "1d12h"]
        {
            assert!(parse_duration(bad).is_err(), "{bad}");
        }
    }

    #[test]
    fn sizes_are_binary_and_decimal_units_are_explained() {
        for (text, bytes) in [("0B", 0), ("64KiB", 65_536), ("5GiB", 5 << 30), ("2TiB", 2 << 40), ("1000B", 1000)] {
            assert_eq!(parse_size(text), Ok(bytes));
            assert_eq!(format_size(bytes), text);
        }
        assert_eq!(parse_size("5GB").unwrap_err().1, "sizes are binary: write 5GiB");
        assert_eq!(parse_size("5").unwrap_err().1, "sizes are binary: write 5B");
        assert!(parse_size("99999999999TiB").unwrap_err().0.contains("too large"));
        assert!(parse_size("KiB").is_err());
    }

    #[test]
    fn percentages_are_between_one_and_ninety_nine() {
        assert_eq!(parse_percent("85%"), Ok(85));
        for bad in ["0%", "100%", "85", "%", "8.5%", "300%"] {
            assert!(parse_percent(bad).is_err(), "{bad}");
        }
    }
}
