//! When a certificate ends: the one field of X.509 that rustls shows to nobody.
//!
//! A certificate is DER (X.690): a sequence whose first part is a sequence of version (tagged 0, may be missing), serial number,
//! algorithm, issuer, validity (RFC 5280, 4.1). Validity is two times.

/// An element's tag and content, and what follows it.
fn element(der: &[u8]) -> Option<(u8, &[u8], &[u8])> {
    let (&tag, rest) = der.split_first()?;
    let (&first, mut rest) = rest.split_first()?;
    let mut length = usize::from(first);
    if first >= 0x80 {
        let count = usize::from(first & 0x7F);
        if !(1..=4).contains(&count) {
            return None;
        }
        let (bytes, after) = rest.split_at_checked(count)?;
        length = bytes.iter().fold(0, |sum, byte| sum << 8 | usize::from(*byte));
        rest = after;
    }
    let (content, after) = rest.split_at_checked(length)?;
    Some((tag, content, after))
}

const SEQUENCE: u8 = 0x30;
const VERSION: u8 = 0xA0;
const UTC_TIME: u8 = 0x17;
const GENERALIZED_TIME: u8 = 0x18;

fn sequence(der: &[u8]) -> Option<(&[u8], &[u8])> {
    element(der).filter(|(tag, ..)| *tag == SEQUENCE).map(|(_, content, after)| (content, after))
}

/// When the certificate ends, in seconds since the epoch; 0 for a time before it.
pub(crate) fn not_after(certificate: &[u8]) -> Option<u64> {
    let (mut rest, _) = sequence(sequence(certificate)?.0)?;
    if let Some((VERSION, _, after)) = element(rest) {
        rest = after;
    }
    rest = element(rest)?.2; // serial number
    rest = sequence(rest)?.1; // algorithm
    rest = sequence(rest)?.1; // issuer
    let (times, _) = sequence(rest)?;
    let (tag, text, _) = element(element(times)?.2)?;
    seconds(tag, std::str::from_utf8(text).ok()?)
}

/// `YYMMDDhhmmssZ` or `YYYYMMDDhhmmssZ`.
fn seconds(tag: u8, text: &str) -> Option<u64> {
    let digits = text.strip_suffix('Z').filter(|digits| digits.bytes().all(|byte| byte.is_ascii_digit()))?;
    let long = match (tag, digits.len()) {
        // RFC 5280, 4.1.2.5.1: two digits mean 1950 to 2049.
        (UTC_TIME, 12) => format!("{}{digits}", if digits < "50" { "20" } else { "19" }),
        (GENERALIZED_TIME, 14) => digits.to_owned(),
        _ => return None,
    };
    let number = |from: usize, to: usize| long.get(from..to)?.parse::<u8>().ok();
    let month = time::Month::try_from(number(4, 6)?).ok()?;
    let date = time::Date::from_calendar_date(long.get(..4)?.parse().ok()?, month, number(6, 8)?).ok()?;
    let at = time::Time::from_hms(number(8, 10)?, number(10, 12)?, number(12, 14)?).ok()?;
    Some(u64::try_from(time::PrimitiveDateTime::new(date, at).assume_utc().unix_timestamp()).unwrap_or(0))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_end_of_a_certificate_is_read() {
        for (year, expected) in [(2031, 1_924_992_000 + 365 * 86_400 - 31_536_000), (2060, 2_840_140_800)] {
            let mut params = rcgen::CertificateParams::new(vec!["localhost".into()]).unwrap();
            params.not_after = rcgen::date_time_ymd(year, 1, 1);
            let made = params.self_signed(&rcgen::KeyPair::generate().unwrap()).unwrap();
            assert_eq!(not_after(made.der()), Some(expected), "{year}");
            for cut in 0..made.der().len().min(200) {
                // Nothing to see but that it does not panic.
                let _ = not_after(&made.der()[..cut]);
            }
        }
        assert_eq!(seconds(UTC_TIME, "700101000010Z"), Some(10));
        assert_eq!(seconds(UTC_TIME, "490101000000Z"), seconds(GENERALIZED_TIME, "20490101000000Z"));
        for (tag, text) in [
            (UTC_TIME, "7001010000Z"),
            (GENERALIZED_TIME, "20700101000010"),
            (UTC_TIME, "701301000010Z"),
            (4, "700101000010Z"),
        ] {
            assert_eq!(seconds(tag, text), None, "{text}");
        }
    }
}
