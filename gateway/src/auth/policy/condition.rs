//! Conditions of statements: operators, keys and their values.

use std::fmt;
use std::net::IpAddr;
use time::format_description::well_known::Rfc3339;
use time::{Date, OffsetDateTime, macros::format_description};

use super::document::{PolicyError, malformed, texts};
use super::json::Json;
use super::pattern::Pattern;

/// The name of a condition key. Letters of either case are the same, except in a tag's key.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Key {
    name: String,
    part: Option<String>,
}

impl Key {
    /// A key as policies write it, such as `s3:ExistingObjectTag/project`.
    pub fn new(text: &str) -> Self {
        match text.split_once('/') {
            Some((name, part)) => Self { name: name.to_ascii_lowercase(), part: Some(part.to_owned()) },
            None => Self { name: text.to_ascii_lowercase(), part: None },
        }
    }

    /// The name in lower case, without the tag's key.
    pub fn name(&self) -> &str {
        &self.name
    }

    /// What stands after the slash: a tag's key.
    pub fn part(&self) -> Option<&str> {
        self.part.as_deref()
    }
}

impl fmt::Display for Key {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.name)?;
        self.part.iter().try_for_each(|part| write!(f, "/{part}"))
    }
}

/// What a request says under condition keys.
pub trait Context {
    /// The values of a key; `None` when the request has none. They are asked for only when a policy needs them.
    fn values(&self, key: &Key) -> Option<Vec<String>>;
}

/// Which of several values must fit.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Of {
    One,
    All,
    Any,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Compare {
    Equal,
    Less,
    LessOrEqual,
    Greater,
    GreaterOrEqual,
}

impl Compare {
    fn holds<T: PartialOrd>(self, left: &T, right: &T) -> bool {
        match self {
            Self::Equal => left == right,
            Self::Less => left < right,
            Self::LessOrEqual => left <= right,
            Self::Greater => left > right,
            Self::GreaterOrEqual => left >= right,
        }
    }
}

/// What a value is compared with.
#[derive(Debug, Clone, PartialEq)]
enum Test {
    /// Equal or like: the patterns have wildcards, or have not.
    Text(Vec<Pattern>),
    TextIgnoringCase(Vec<Pattern>),
    Arn(Vec<Pattern>),
    Number(Compare, Vec<f64>),
    /// Nanoseconds of Unix time.
    Date(Compare, Vec<i128>),
    Bool(Vec<bool>),
    Address(Vec<Network>),
    /// Whether the key has no value.
    Null(Vec<bool>),
}

/// One operator with one key.
#[derive(Debug, Clone, PartialEq)]
pub(super) struct Condition {
    of: Of,
    if_exists: bool,
    negated: bool,
    pub(super) key: Key,
    test: Test,
    /// As the policy has them.
    pub(super) values: Vec<String>,
}

// Numbers of policies are never NaN: see `number`.
impl Eq for Condition {}

/// The keys of S3 that a bucket policy may use; those of tags have a part.
const S3_KEYS: [&str; 40] = [
    "s3:accessgrantsinstancearn",
    "s3:authtype",
    "s3:dataaccesspointaccount",
    "s3:dataaccesspointarn",
    "s3:accesspointnetworkorigin",
    "s3:delimiter",
    "s3:existingobjecttag",
    "s3:if-match",
    "s3:if-none-match",
    "s3:inventoryaccessibleoptionalfields",
    "s3:jobsuspendedcause",
    "s3:locationconstraint",
    "s3:max-keys",
    "s3:object-lock-legal-hold",
    "s3:object-lock-mode",
    "s3:object-lock-remaining-retention-days",
    "s3:object-lock-retain-until-date",
    "s3:objectcreationoperation",
    "s3:prefix",
    "s3:requestobjecttag",
    "s3:requestobjecttagkeys",
    "s3:resourceaccount",
    "s3:signatureage",
    "s3:signatureversion",
    "s3:tlsversion",
    "s3:versionid",
    "s3:x-amz-acl",
    "s3:x-amz-content-sha256",
    "s3:x-amz-copy-source",
    "s3:x-amz-grant-full-control",
    "s3:x-amz-grant-read",
    "s3:x-amz-grant-read-acp",
    "s3:x-amz-grant-write",
    "s3:x-amz-grant-write-acp",
    "s3:x-amz-metadata-directive",
    "s3:x-amz-object-ownership",
    "s3:x-amz-server-side-encryption",
    "s3:x-amz-server-side-encryption-aws-kms-key-id",
    "s3:x-amz-server-side-encryption-customer-algorithm",
    "s3:x-amz-storage-class",
];

impl Condition {
    pub(super) fn read_all(json: &Json, of_bucket: bool, variables: bool) -> Result<Vec<Self>, PolicyError> {
        let Json::Object(operators) = json else { return Err(malformed("Condition must be an object")) };
        let mut conditions = Vec::new();
        for (operator, keys) in operators {
            let Json::Object(keys) = keys else {
                return Err(malformed(format!("Condition: {operator} must be an object")));
            };
            for (name, values) in keys {
                let key = Key::new(name);
                let known = S3_KEYS.contains(&key.name()) || key.name().starts_with("aws:") || !of_bucket;
                if !known || !key.name().contains(':') {
                    return Err(malformed(format!("Policy has an invalid condition key: {name}")));
                }
                let values = texts(values, &format!("Condition: the value of {name}"))?;
                conditions.push(Self::read(operator, key, values, variables)?);
            }
        }
        Ok(conditions)
    }

    fn read(operator: &str, key: Key, values: Vec<String>, variables: bool) -> Result<Self, PolicyError> {
        let (of, name) = match operator.split_once(':') {
            None => (Of::One, operator),
            Some(("ForAllValues", name)) => (Of::All, name),
            Some(("ForAnyValue", name)) => (Of::Any, name),
            Some(_) => return Err(malformed(format!("Invalid Condition type : {operator}"))),
        };
        let (name, if_exists) = name.strip_suffix("IfExists").map_or((name, false), |name| (name, true));
        let (test, negated) = Test::read(name, &values, variables)
            .map_err(|value| malformed(format!("Condition: {operator} of {key} has the invalid value {value}")))?
            .filter(|(test, _)| !(if_exists && matches!(test, Test::Null(_))))
            .ok_or_else(|| malformed(format!("Invalid Condition type : {operator}")))?;
        Ok(Self { of, if_exists, negated, key, test, values })
    }

    pub(super) fn holds(&self, context: &dyn Context) -> bool {
        let found = context.values(&self.key);
        if let Test::Null(wanted) = &self.test {
            return wanted.contains(&found.is_none());
        }
        let Some(values) = found else {
            return match self.of {
                _ if self.if_exists => true,
                Of::One => self.negated,
                Of::All => true,
                Of::Any => false,
            };
        };
        let mut holds = values.iter().map(|value| self.test.fits(value, context) != self.negated);
        match self.of {
            // Of several values without a word on which, a denial by inequality means all of them.
            Of::One if self.negated => holds.all(|holds| holds),
            Of::One | Of::Any => holds.any(|holds| holds),
            Of::All => holds.all(|holds| holds),
        }
    }

    /// Whether it limits `key` to values that are written out, so that not everybody can have them.
    pub(super) fn fixes_values(&self) -> bool {
        if self.negated || self.if_exists || self.of == Of::All {
            return false;
        }
        match &self.test {
            Test::Text(patterns) | Test::TextIgnoringCase(patterns) | Test::Arn(patterns) => {
                patterns.iter().all(|pattern| !pattern.is_open())
            }
            Test::Address(networks) => networks.iter().all(|network| network.is_narrow()),
            _ => false,
        }
    }
}

impl Test {
    /// The test and whether it is negated; `None` when there is no such operator, an error is the wrong value.
    fn read<'v>(name: &str, values: &'v [String], variables: bool) -> Result<Option<(Self, bool)>, &'v str> {
        let patterns = |wildcards| all(values, |value| Pattern::new(value, wildcards, variables).ok());
        let numbers = |compare| all(values, number).map(|numbers| Self::Number(compare, numbers));
        let dates = |compare| all(values, date).map(|dates| Self::Date(compare, dates));
        let (name, negated) = match name {
            "NotIpAddress" => ("IpAddress", true),
            name => match name.split_once("Not") {
                Some((kind, rest)) => match (kind, rest) {
                    ("String", "Equals") => ("StringEquals", true),
                    ("String", "EqualsIgnoreCase") => ("StringEqualsIgnoreCase", true),
                    ("String", "Like") => ("StringLike", true),
                    ("Numeric", "Equals") => ("NumericEquals", true),
                    ("Date", "Equals") => ("DateEquals", true),
                    ("Arn", "Equals" | "Like") => ("ArnLike", true),
                    _ => return Ok(None),
                },
                None => (name, false),
            },
        };
        let test = match name {
            "StringEquals" | "BinaryEquals" => Self::Text(patterns(false)?),
            "StringEqualsIgnoreCase" => Self::TextIgnoringCase(patterns(false)?),
            "StringLike" => Self::Text(patterns(true)?),
            "ArnEquals" | "ArnLike" => Self::Arn(patterns(true)?),
            "NumericEquals" => numbers(Compare::Equal)?,
            "NumericLessThan" => numbers(Compare::Less)?,
            "NumericLessThanEquals" => numbers(Compare::LessOrEqual)?,
            "NumericGreaterThan" => numbers(Compare::Greater)?,
            "NumericGreaterThanEquals" => numbers(Compare::GreaterOrEqual)?,
            "DateEquals" => dates(Compare::Equal)?,
            "DateLessThan" => dates(Compare::Less)?,
            "DateLessThanEquals" => dates(Compare::LessOrEqual)?,
            "DateGreaterThan" => dates(Compare::Greater)?,
            "DateGreaterThanEquals" => dates(Compare::GreaterOrEqual)?,
            "Bool" => Self::Bool(all(values, boolean)?),
            "Null" => Self::Null(all(values, boolean)?),
            "IpAddress" => Self::Address(all(values, Network::read)?),
            _ => return Ok(None),
        };
        Ok(Some((test, negated)))
    }

    fn fits(&self, value: &str, context: &dyn Context) -> bool {
        match self {
            Self::Text(patterns) => patterns.iter().any(|pattern| pattern.matches(value, context)),
            Self::TextIgnoringCase(patterns) => {
                patterns.iter().any(|pattern| pattern.matches_ignoring_case(value, context))
            }
            Self::Arn(patterns) => patterns.iter().any(|pattern| pattern.matches_arn(value, context)),
            Self::Number(compare, numbers) => {
                number(value).is_some_and(|value| numbers.iter().any(|n| compare.holds(&value, n)))
            }
            Self::Date(compare, dates) => {
                date(value).is_some_and(|value| dates.iter().any(|date| compare.holds(&value, date)))
            }
            Self::Bool(wanted) => boolean(value).is_some_and(|value| wanted.contains(&value)),
            Self::Address(networks) => {
                value.parse().is_ok_and(|address: IpAddr| networks.iter().any(|network| network.has(address)))
            }
            Self::Null(_) => false,
        }
    }
}

/// Reads all values, or gives the first that is wrong.
fn all<T>(values: &[String], read: impl Fn(&str) -> Option<T>) -> Result<Vec<T>, &str> {
    values.iter().map(|value| read(value).ok_or(value.as_str())).collect()
}

fn number(text: &str) -> Option<f64> {
    text.parse().ok().filter(|number: &f64| number.is_finite())
}

fn boolean(text: &str) -> Option<bool> {
    match text.to_ascii_lowercase().as_str() {
        "true" => Some(true),
        "false" => Some(false),
        _ => None,
    }
}

/// A date of ISO 8601, or seconds of Unix time, in nanoseconds of Unix time.
fn date(text: &str) -> Option<i128> {
    if let Ok(seconds) = text.parse::<i64>() {
        return Some(i128::from(seconds).saturating_mul(1_000_000_000));
    }
    let at = OffsetDateTime::parse(text, &Rfc3339).ok().or_else(|| {
        let date = Date::parse(text, format_description!("[year]-[month]-[day]")).ok()?;
        Some(date.midnight().assume_utc())
    })?;
    Some(at.unix_timestamp_nanos())
}

/// A range of addresses.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
struct Network {
    address: IpAddr,
    prefix: u8,
}

impl Network {
    fn read(text: &str) -> Option<Self> {
        let (address, prefix) = text.split_once('/').map_or((text, None), |(address, prefix)| (address, Some(prefix)));
        let address: IpAddr = address.parse().ok()?;
        let bits = if address.is_ipv4() { 32 } else { 128 };
        let prefix = match prefix {
            None => bits,
            Some(text) => text.parse().ok().filter(|prefix| *prefix <= bits)?,
        };
        Some(match address {
            // A range of addresses of version 4, written as those of version 6.
            IpAddr::V6(v6) if prefix >= 96 && v6.to_ipv4_mapped().is_some() => {
                Self { address: address.to_canonical(), prefix: prefix - 96 }
            }
            _ => Self { address, prefix },
        })
    }

    fn has(&self, address: IpAddr) -> bool {
        match (self.address, address.to_canonical()) {
            (IpAddr::V4(net), IpAddr::V4(address)) => {
                let mask = u32::MAX.checked_shl(32 - u32::from(self.prefix)).unwrap_or(0);
                u32::from(net) & mask == u32::from(address) & mask
            }
            (IpAddr::V6(net), IpAddr::V6(address)) => {
                let mask = u128::MAX.checked_shl(128 - u32::from(self.prefix)).unwrap_or(0);
                u128::from(net) & mask == u128::from(address) & mask
            }
            _ => false,
        }
    }

    /// S3 takes a policy for public whose ranges are wider than this.
    fn is_narrow(&self) -> bool {
        self.prefix >= if self.address.is_ipv4() { 8 } else { 32 }
    }
}
