//! Sizes and lengths of time as people write them.

use std::time::Duration;

/// Units of sizes, all binary. `B` last, so that it does not match the end of the others.
const SIZES: [(&str, u32); 5] = [("KiB", 10), ("MiB", 20), ("GiB", 30), ("TiB", 40), ("B", 0)];

/// Units of time in milliseconds. A day is 24 hours, always. `ms` first, so that `s` does not match its end.
const TIMES: [(&str, u64); 5] = [("ms", 1), ("s", 1000), ("m", 60_000), ("h", 3_600_000), ("d", 86_400_000)];

/// Parses `512B`, `64KiB`, `8MiB`, `100GiB`, `2TiB` into bytes.
///
/// # Errors
/// What is wrong, and how to write it.
pub fn parse_size(text: &str) -> Result<u64, String> {
    let text = text.trim();
    for (unit, shift) in SIZES {
        // `64MB` ends in B too, but is no number of bytes.
        let foreign = |number: &&str| unit != "B" || !number.ends_with(|c: char| c.is_ascii_alphabetic());
        if let Some(number) = text.strip_suffix(unit).filter(foreign) {
            let number: u64 = whole_number(number, text)?;
            return number.checked_mul(1 << shift).ok_or_else(|| format!("the size {text} is too large"));
        }
    }
    let digits = text.bytes().take_while(u8::is_ascii_digit).count();
    let (number, unit) = text.split_at(digits);
    let binary = unit.trim().chars().next().map(|c| c.to_ascii_uppercase());
    match binary {
        Some(c @ ('K' | 'M' | 'G' | 'T')) if digits > 0 => {
            Err(format!("{text:?} is not a size: sizes are binary here, write {number}{c}iB"))
        }
        _ => Err(format!("{text:?} is not a size: write a whole number and B, KiB, MiB, GiB or TiB, such as 64MiB")),
    }
}

/// Parses `250ms`, `30s`, `5m`, `12h`, `30d`.
///
/// # Errors
/// What is wrong, and how to write it.
pub fn parse_duration(text: &str) -> Result<Duration, String> {
    let text = text.trim();
    for (unit, millis) in TIMES {
        if let Some(number) = text.strip_suffix(unit) {
            let number: u64 = whole_number(number, text)?;
            return number
                .checked_mul(millis)
                .map(Duration::from_millis)
                .ok_or_else(|| format!("the duration {text} is too long"));
        }
    }
    Err(format!("{text:?} is not a duration: write a whole number and ms, s, m, h or d, such as 30s"))
}

/// The unit of time that a numeric setting counts, in milliseconds, as its name says; `None`: it counts something else.
pub fn time_unit(setting: &str) -> Option<u64> {
    let unit = setting.rsplit('_').next().unwrap_or_default();
    match unit {
        "ms" | "millis" => Some(1),
        "seconds" | "secs" => Some(1000),
        "minutes" => Some(60_000),
        "hours" => Some(3_600_000),
        "days" => Some(86_400_000),
        _ => None,
    }
}

/// Parses what the numeric setting called `setting` may be: a plain whole number in its own unit, a duration when its
/// name says that it counts time, a size otherwise.
///
/// # Errors
/// What is wrong, and how to write it.
pub fn parse_quantity(setting: &str, text: &str) -> Result<u64, String> {
    let digits: String = text.trim().chars().filter(|c| *c != '_').collect();
    if !digits.is_empty() && digits.bytes().all(|b| b.is_ascii_digit()) {
        return digits.parse().map_err(|_| format!("the number {text} is too large"));
    }
    let Some(unit) = time_unit(setting) else {
        return parse_size(text).map_err(|message| match message.contains("binary") {
            true => message,
            false => format!("{text:?} does not fit here: write a whole number, or a size such as 64MiB"),
        });
    };
    let millis = u64::try_from(parse_duration(text)?.as_millis()).map_err(|_| format!("{text} is too long"))?;
    if millis.is_multiple_of(unit) {
        Ok(millis / unit)
    } else {
        Err(format!("{text} is not a whole number of {}", setting.rsplit('_').next().unwrap_or_default()))
    }
}

/// Whether `text` is a whole number with a unit of size.
pub fn is_size(text: &str) -> bool {
    parse_size(text).is_ok()
}

fn whole_number(number: &str, text: &str) -> Result<u64, String> {
    number.trim().parse().map_err(|_| {
        format!("{text:?} needs a whole number that is not negative before its unit, such as 64MiB or 30s")
    })
}

/// Bytes for a person: `0 B`, `1.50 KiB`, `64.0 MiB`.
pub fn show_size(bytes: u64) -> String {
    const UNITS: [&str; 6] = ["KiB", "MiB", "GiB", "TiB", "PiB", "EiB"];
    if bytes < 1024 {
        return format!("{bytes} B");
    }
    let mut value = bytes as f64 / 1024.0;
    let mut unit = UNITS[0];
    for next in &UNITS[1..] {
        if value < 1023.95 {
            break;
        }
        value /= 1024.0;
        unit = next;
    }
    let decimals = if value < 10.0 { 2 } else { 1 };
    format!("{value:.decimals$} {unit}")
}

/// A length of time for a person: `0s`, `450ms`, `1d 2h`. Two units at most.
pub fn show_duration(duration: Duration) -> String {
    let mut left = u64::try_from(duration.as_millis()).unwrap_or(u64::MAX);
    if left == 0 {
        return "0s".to_owned();
    }
    let mut parts: Vec<String> = Vec::new();
    for (unit, millis) in TIMES.iter().rev().map(|(unit, millis)| (*unit, *millis)) {
        let count = left / millis;
        if count > 0 {
            parts.push(format!("{count}{unit}"));
            left %= millis;
        } else if !parts.is_empty() {
            break;
        }
        if parts.len() == 2 || (unit == "s" && !parts.is_empty()) {
            break;
        }
    }
    parts.join(" ")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn sizes_and_durations_are_read_exactly() {
        for (text, bytes) in
            [("0B", 0), ("64KiB", 65_536), ("64MiB", 64 << 20), ("100GiB", 100 << 30), ("2 TiB", 2 << 40)]
        {
            assert_eq!(parse_size(text), Ok(bytes), "{text}");
            assert_eq!(parse_quantity("max_bytes", text), Ok(bytes), "{text}");
        }
        for (text, millis) in
            [("250ms", 250), ("30s", 30_000), ("5m", 300_000), ("12h", 43_200_000), ("1d", 86_400_000)]
        {
            assert_eq!(parse_duration(text), Ok(Duration::from_millis(millis)), "{text}");
            assert_eq!(parse_quantity("linger_ms", text), Ok(millis), "{text}");
        }
        assert_eq!(parse_quantity("any", "1_000_000"), Ok(1_000_000));
        assert_eq!(parse_quantity("idle_timeout_seconds", "2m"), Ok(120));
        assert_eq!(parse_quantity("days", "2d"), Ok(2));
    }

    #[test]
    fn wrong_quantities_say_how_to_write_them() {
        assert!(parse_size("64MB").unwrap_err().contains("write 64MiB"));
        assert!(parse_quantity("x", "64mb").unwrap_err().contains("write 64MiB"));
        assert!(parse_quantity("x", "30s").unwrap_err().contains("such as 64MiB"));
        assert!(parse_quantity("timeout_seconds", "1500ms").unwrap_err().contains("whole number of seconds"));
        assert!(parse_quantity("timeout_seconds", "64MiB").is_err());
        assert!(parse_size("64").unwrap_err().contains("such as 64MiB"));
        assert!(parse_size("99999999999999TiB").unwrap_err().contains("too large"));
        assert!(parse_size("-1KiB").unwrap_err().contains("not negative"));
        assert!(parse_duration("30").unwrap_err().contains("such as 30s"));
        assert!(parse_duration("1.5h").unwrap_err().contains("whole number"));
        assert!(parse_quantity("x", "many").unwrap_err().contains("whole number"));
        assert!(parse_quantity("x", "99999999999999999999").unwrap_err().contains("too large"));
    }

    #[test]
    fn quantities_are_shown_short() {
        assert_eq!(show_size(0), "0 B");
        assert_eq!(show_size(1023), "1023 B");
        assert_eq!(show_size(1536), "1.50 KiB");
        assert_eq!(show_size(64 << 20), "64.0 MiB");
        assert_eq!(show_size((1 << 30) - 1), "1.00 GiB");
        assert_eq!(show_size(u64::MAX), "16.0 EiB");
        assert_eq!(show_duration(Duration::ZERO), "0s");
        assert_eq!(show_duration(Duration::from_millis(450)), "450ms");
        assert_eq!(show_duration(Duration::from_millis(1450)), "1s");
        assert_eq!(show_duration(Duration::from_secs(93_784)), "1d 2h");
        assert_eq!(show_duration(Duration::from_secs(3_600)), "1h");
    }
}
