//! Money in whole billionths, so that sums are exact.

use serde::de::{Deserializer, Error, Visitor};
use serde::{Deserialize, Serialize, Serializer};
use std::fmt;
use std::ops::Add;

/// Decimal places of a [`Money`].
const PLACES: usize = 9;
const UNIT: u128 = 1_000_000_000;

/// An amount of the price book's currency, in billionths of it. Never negative. Sums stop at the largest amount instead of
/// overflowing.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Default)]
pub struct Money {
    nanos: u128,
}

impl Money {
    /// Nothing.
    pub const ZERO: Money = Money { nanos: 0 };

    /// From billionths.
    pub const fn from_nanos(nanos: u128) -> Self {
        Self { nanos }
    }

    /// In billionths.
    pub const fn nanos(self) -> u128 {
        self.nanos
    }

    /// Reads `0.12`. `None` for anything but digits and one point, or for more than nine decimal places.
    pub fn parse(text: &str) -> Option<Self> {
        let (whole, fraction) = text.split_once('.').unwrap_or((text, ""));
        let digits = |s: &str| s.bytes().all(|b| b.is_ascii_digit());
        if whole.is_empty() || !digits(whole) || !digits(fraction) || fraction.len() > PLACES {
            return None;
        }
        let whole: u128 = whole.parse().ok()?;
        let fraction: u128 = format!("{fraction:0<PLACES$}").parse().ok()?;
        whole.checked_mul(UNIT)?.checked_add(fraction).map(Self::from_nanos)
    }

    /// This amount times `numerator / denominator`, rounded down. Zero for a denominator of zero.
    pub(crate) fn scale(self, numerator: u128, denominator: u128) -> Self {
        let (Some(whole), Some(rest)) = (numerator.checked_div(denominator), numerator.checked_rem(denominator)) else {
            return Self::ZERO;
        };
        // Split, so that the product of bytes, milliseconds and a price does not overflow on the way.
        let part = self.nanos.saturating_mul(rest) / denominator;
        Self { nanos: self.nanos.saturating_mul(whole).saturating_add(part) }
    }
}

impl Add for Money {
    type Output = Money;

    fn add(self, other: Money) -> Money {
        Money { nanos: self.nanos.saturating_add(other.nanos) }
    }
}

impl std::iter::Sum for Money {
    fn sum<I: Iterator<Item = Money>>(iter: I) -> Money {
        iter.fold(Money::ZERO, Add::add)
    }
}

/// Decimal, without trailing zeros: `0.0825`. Amounts from 0.01 up are shown with at most four places.
impl fmt::Display for Money {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let nanos =
            if self.nanos >= UNIT / 100 { self.nanos.saturating_add(50_000) / 100_000 * 100_000 } else { self.nanos };
        f.write_str(&decimal(nanos))
    }
}

fn decimal(nanos: u128) -> String {
    let text = format!("{}.{:09}", nanos / UNIT, nanos % UNIT);
    text.trim_end_matches('0').trim_end_matches('.').to_owned()
}

impl Serialize for Money {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        serializer.serialize_str(&decimal(self.nanos))
    }
}

impl<'de> Deserialize<'de> for Money {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        deserializer.deserialize_any(MoneyVisitor)
    }
}

struct MoneyVisitor;

impl MoneyVisitor {
    fn read<E: Error>(text: &str) -> Result<Money, E> {
        Money::parse(text).ok_or_else(|| {
            E::custom(format!(
                "{text:?} is not an amount of money: write digits with at most nine places, such as 0.12"
            ))
        })
    }
}

impl Visitor<'_> for MoneyVisitor {
    type Value = Money;

    fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("an amount of money such as 0.12")
    }

    fn visit_str<E: Error>(self, v: &str) -> Result<Money, E> {
        Self::read(v)
    }

    fn visit_u64<E: Error>(self, v: u64) -> Result<Money, E> {
        Self::read(&v.to_string())
    }

    fn visit_i64<E: Error>(self, v: i64) -> Result<Money, E> {
        Self::read(&v.to_string())
    }

    fn visit_f64<E: Error>(self, v: f64) -> Result<Money, E> {
        // The shortest text that reads back as this float is what was written: no rounding error enters.
        Self::read(&v.to_string())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn amounts_are_read_and_shown_exactly() {
        for text in ["0", "0.12", "30", "0.000000001", "0.0075", "1.5"] {
            assert_eq!(Money::parse(text).unwrap().to_string(), text);
        }
        for bad in ["", ".5", "-1", "1e3", "0.0000000001", "1.2.3", "1,5"] {
            assert_eq!(Money::parse(bad), None, "{bad}");
        }
        assert_eq!(serde_json::from_str::<Money>("0.0325").unwrap(), Money::from_nanos(32_500_000));
        assert_eq!(serde_json::to_string(&Money::from_nanos(123_456_789)).unwrap(), "\"0.123456789\"");
        assert_eq!(Money::from_nanos(123_456_789).to_string(), "0.1235");
    }

    #[test]
    fn scaling_does_not_overflow_on_the_way() {
        let price = Money::parse("0.12").unwrap();
        let denominator = (1u128 << 30) * 2_592_000_000;
        assert_eq!(price.scale(denominator * 1_000_000, denominator).to_string(), "120000");
        assert_eq!(price.scale(denominator / 2, denominator).to_string(), "0.06");
        assert_eq!(price.scale(1, 0), Money::ZERO);
    }
}
