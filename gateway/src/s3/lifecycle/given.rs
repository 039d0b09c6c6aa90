//! From S3's document to the lifecycle that is stored: everything that S3 refuses is refused, with its code.

use s3s::dto::*;
use s3s::{S3Error, S3Result, s3_error};
use std::collections::HashSet;
use tidegate_policies::bucket::{BucketFilter, BucketRule, Conditions, Expiration as End, Noncurrent, When};

/// S3's limits.
const MAX_RULES: usize = 1000;
const MAX_ID: usize = 255;
const MAX_NEWER: i32 = 100;
const MAX_TAGS: usize = 10;
const DAY_MS: u64 = 24 * 60 * 60 * 1000;
/// The classes in S3's order of coldness: a rule's transitions go down this list.
const CLASSES: [&str; 6] =
    ["STANDARD_IA", "INTELLIGENT_TIERING", "ONEZONE_IA", "GLACIER_IR", "GLACIER", "DEEP_ARCHIVE"];

pub(super) fn malformed(why: &str) -> S3Error {
    s3_error!(
        MalformedXML,
        "The XML you provided was not well-formed or did not validate against our published schema: {why}"
    )
}

/// All rules, with ids for those that have none. `configured` are the storage classes of the configuration.
pub(super) fn rules(given: Vec<LifecycleRule>, configured: &[String]) -> S3Result<Vec<BucketRule>> {
    if given.is_empty() {
        return Err(malformed("there is no Rule."));
    }
    if given.len() > MAX_RULES {
        return Err(s3_error!(
            InvalidRequest,
            "The number of lifecycle rules must not exceed the allowed limit of {MAX_RULES} rules"
        ));
    }
    let old_form = given.iter().filter(|rule| rule.filter.is_none()).count();
    if old_form > 0 && old_form < given.len() && given.iter().all(|rule| rule.filter.is_some() != rule.prefix.is_some())
    {
        return Err(s3_error!(InvalidRequest, "Filter element can only be used in Lifecycle V2."));
    }
    let rules = given.into_iter().map(|given| rule(given, configured)).collect::<S3Result<Vec<_>>>()?;
    let mut ids = HashSet::new();
    if let Some(twice) = rules.iter().find(|rule| !ids.insert(rule.id.as_str())) {
        return Err(s3_error!(
            InvalidArgument,
            "Rule ID must be unique. Found same ID for more than one rule: {}",
            twice.id
        ));
    }
    Ok(rules)
}

fn rule(given: LifecycleRule, configured: &[String]) -> S3Result<BucketRule> {
    let enabled = match given.status.as_str() {
        ExpirationStatus::ENABLED => true,
        ExpirationStatus::DISABLED => false,
        other => return Err(malformed(&format!("Status is {other:?}; it must be Enabled or Disabled."))),
    };
    let filter = filter(given.filter, given.prefix)?;
    let expiration = given.expiration.map(expiration).transpose()?;
    let transitions = given.transitions.unwrap_or_default();
    let transitions =
        transitions.into_iter().map(|given| transition(given, configured)).collect::<S3Result<Vec<_>>>()?;
    let moves = given.noncurrent_version_transitions.unwrap_or_default();
    let noncurrent_transitions =
        moves.into_iter().map(|given| noncurrent_transition(given, configured)).collect::<S3Result<Vec<_>>>()?;
    let noncurrent_expiration = given.noncurrent_version_expiration.map(noncurrent_expiration).transpose()?;
    let abort_days = given.abort_incomplete_multipart_upload.map(abort_days).transpose()?;
    let rule = BucketRule {
        id: id(given.id)?,
        enabled,
        filter,
        expiration,
        transitions,
        noncurrent_transitions,
        noncurrent_expiration,
        abort_days,
    };
    together(&rule)?;
    Ok(rule)
}

/// S3 makes an id where there is none.
fn id(given: Option<String>) -> S3Result<String> {
    match given.filter(|id| !id.is_empty()) {
        None => Ok(format!("{:032x}", rand::random::<u128>())),
        Some(id) if id.chars().count() > MAX_ID => {
            Err(s3_error!(InvalidArgument, "ID length should not exceed allowed limit of {MAX_ID}"))
        }
        Some(id) => Ok(id),
    }
}

fn filter(given: Option<LifecycleRuleFilter>, prefix: Option<Prefix>) -> S3Result<BucketFilter> {
    let given = match (given, prefix) {
        (Some(_), Some(_)) => return Err(malformed("a rule has both Filter and Prefix.")),
        (None, None) => return Err(malformed("a rule has neither Filter nor Prefix.")),
        (None, Some(prefix)) => return Ok(BucketFilter::Prefix(checked_prefix(prefix)?)),
        (Some(filter), None) => filter,
    };
    let LifecycleRuleFilter { and, object_size_greater_than, object_size_less_than, prefix, tag } = given;
    let named = [prefix.is_some(), object_size_greater_than.is_some(), object_size_less_than.is_some(), tag.is_some()];
    let beside = named.iter().filter(|named| **named).count();
    let in_and = and.is_some() || beside > 1;
    // S3 takes one condition, or an And. Several beside each other, which others take, say as clearly what is meant.
    let and = and.unwrap_or_default();
    let larger = object_size_greater_than.into_iter().chain(and.object_size_greater_than);
    let smaller = object_size_less_than.into_iter().chain(and.object_size_less_than);
    let larger = larger.map(|size| self::size(size, "ObjectSizeGreaterThan")).collect::<S3Result<Vec<_>>>()?;
    let smaller = smaller.map(|size| self::size(size, "ObjectSizeLessThan")).collect::<S3Result<Vec<_>>>()?;
    let conditions = Conditions {
        prefix: both_prefixes(prefix, and.prefix)?,
        tags: self::tags(tag.into_iter().chain(and.tags.into_iter().flatten()).collect())?,
        larger: larger.into_iter().max(),
        smaller: smaller.into_iter().min(),
    };
    if conditions.smaller == Some(0) {
        return Err(s3_error!(
            InvalidRequest,
            "'ObjectSizeLessThan' must be positive: nothing is smaller than 0 bytes"
        ));
    }
    if let (Some(larger), Some(smaller)) = (conditions.larger, conditions.smaller)
        && smaller <= larger.saturating_add(1)
    {
        return Err(s3_error!(
            InvalidRequest,
            "'ObjectSizeLessThan' must be greater than 'ObjectSizeGreaterThan' by more than one byte"
        ));
    }
    if !in_and {
        return Ok(BucketFilter::One(conditions));
    }
    // One that two prefixes make stays where it is.
    if beside > 0 {
        return Ok(BucketFilter::And(conditions));
    }
    let count = [conditions.prefix.is_some(), conditions.larger.is_some(), conditions.smaller.is_some()];
    if count.iter().filter(|named| **named).count() + conditions.tags.len() < 2 {
        return Err(malformed("And has fewer than two conditions."));
    }
    Ok(BucketFilter::And(conditions))
}

/// The prefix of what begins with both.
fn both_prefixes(one: Option<Prefix>, other: Option<Prefix>) -> S3Result<Option<String>> {
    let longer = match (one, other) {
        (Some(one), Some(other)) if one.starts_with(&other) => Some(one),
        (Some(one), Some(other)) if other.starts_with(&one) => Some(other),
        (Some(_), Some(_)) => return Err(malformed("no key begins with both prefixes of the Filter.")),
        (one, other) => one.or(other),
    };
    longer.map(checked_prefix).transpose()
}

fn checked_prefix(prefix: String) -> S3Result<String> {
    if prefix.len() > 1024 {
        return Err(s3_error!(InvalidRequest, "The maximum size of a prefix is 1024."));
    }
    Ok(prefix)
}

fn tags(given: Vec<Tag>) -> S3Result<Vec<(String, String)>> {
    if given.len() > MAX_TAGS {
        return Err(s3_error!(InvalidRequest, "A filter has {} tags; an object has at most {MAX_TAGS}.", given.len()));
    }
    let mut tags: Vec<(String, String)> = Vec::with_capacity(given.len());
    for Tag { key, value } in given {
        let (Some(key), Some(value)) = (key, value) else { return Err(malformed("a Tag has no Key, or no Value.")) };
        if key.is_empty() || key.chars().count() > 128 {
            return Err(s3_error!(InvalidTag, "The TagKey you have provided is invalid"));
        }
        if value.chars().count() > 256 {
            return Err(s3_error!(InvalidTag, "The TagValue you have provided is invalid"));
        }
        if tags.iter().any(|(known, _)| *known == key) {
            return Err(s3_error!(InvalidRequest, "Duplicate Tag Keys are not allowed."));
        }
        tags.push((key, value));
    }
    Ok(tags)
}

fn size(given: i64, field: &str) -> S3Result<u64> {
    u64::try_from(given).map_err(|_| s3_error!(InvalidRequest, "'{field}' should be a non-negative number"))
}

fn expiration(given: LifecycleExpiration) -> S3Result<End> {
    let LifecycleExpiration { date, days, expired_object_delete_marker } = given;
    match (days, date, expired_object_delete_marker) {
        (Some(days), None, None) => match u32::try_from(days) {
            Ok(days) if days > 0 => Ok(End::At(When::Days(days))),
            _ => Err(s3_error!(InvalidArgument, "'Days' for Expiration action must be a positive integer")),
        },
        (None, Some(date), None) => Ok(End::At(When::Date(midnight(date)?))),
        (None, None, Some(goes)) => Ok(End::DeleteMarker(goes)),
        _ => Err(malformed("Expiration has exactly one of Days, Date and ExpiredObjectDeleteMarker.")),
    }
}

/// Milliseconds since the epoch.
fn midnight(date: Timestamp) -> S3Result<u64> {
    u64::try_from(time::OffsetDateTime::from(date).unix_timestamp_nanos())
        .ok()
        .filter(|nanos| nanos.is_multiple_of(DAY_MS * 1_000_000))
        .map(|nanos| nanos / 1_000_000)
        .ok_or_else(|| s3_error!(InvalidArgument, "'Date' must be at midnight GMT"))
}

/// A class that objects can move to: S3 has the others for objects, not for transitions.
fn class(given: Option<TransitionStorageClass>, configured: &[String]) -> S3Result<String> {
    let class = given.ok_or_else(|| malformed("a transition has no StorageClass."))?;
    let class = class.as_str();
    if !CLASSES.contains(&class) {
        return Err(malformed(&format!("{class:?} is no StorageClass of a transition.")));
    }
    if !configured.iter().any(|known| known == class) {
        return Err(s3_error!(
            InvalidStorageClass,
            "The storage class {class} has no tier here; this server has: {}",
            configured.join(", ")
        ));
    }
    Ok(class.to_owned())
}

fn transition(given: Transition, configured: &[String]) -> S3Result<(String, When)> {
    let class = class(given.storage_class, configured)?;
    let when = match (given.days, given.date) {
        (Some(days), None) => When::Days(
            u32::try_from(days)
                .map_err(|_| s3_error!(InvalidArgument, "'Days' in Transition action must be nonnegative"))?,
        ),
        (None, Some(date)) => When::Date(midnight(date)?),
        _ => return Err(malformed("a Transition has exactly one of Days and Date.")),
    };
    Ok((class, when))
}

fn newer(given: Option<i32>) -> S3Result<Option<u32>> {
    match given {
        None => Ok(None),
        Some(newer) => {
            u32::try_from(newer).ok().filter(|_| (1..=MAX_NEWER).contains(&newer)).map(Some).ok_or_else(|| {
                s3_error!(InvalidArgument, "'NewerNoncurrentVersions' must be between 1 and {MAX_NEWER}, inclusive")
            })
        }
    }
}

fn noncurrent_transition(given: NoncurrentVersionTransition, configured: &[String]) -> S3Result<(String, Noncurrent)> {
    let class = class(given.storage_class, configured)?;
    let days =
        given.noncurrent_days.ok_or_else(|| malformed("a NoncurrentVersionTransition has no NoncurrentDays."))?;
    let days = u32::try_from(days).map_err(|_| {
        s3_error!(InvalidArgument, "'NoncurrentDays' in NoncurrentVersionTransition action must be nonnegative")
    })?;
    Ok((class, Noncurrent { days, newer: newer(given.newer_noncurrent_versions)? }))
}

fn noncurrent_expiration(given: NoncurrentVersionExpiration) -> S3Result<Noncurrent> {
    let days = given.noncurrent_days.ok_or_else(|| malformed("NoncurrentVersionExpiration has no NoncurrentDays."))?;
    let days = u32::try_from(days).ok().filter(|days| *days > 0).ok_or_else(|| {
        s3_error!(InvalidArgument, "'NoncurrentDays' for NoncurrentVersionExpiration action must be a positive integer")
    })?;
    Ok(Noncurrent { days, newer: newer(given.newer_noncurrent_versions)? })
}

fn abort_days(given: AbortIncompleteMultipartUpload) -> S3Result<u32> {
    let days = given
        .days_after_initiation
        .ok_or_else(|| malformed("AbortIncompleteMultipartUpload has no DaysAfterInitiation."))?;
    u32::try_from(days).ok().filter(|days| *days > 0).ok_or_else(|| {
        s3_error!(
            InvalidArgument,
            "'DaysAfterInitiation' for AbortIncompleteMultipartUpload action must be a positive integer"
        )
    })
}

/// What the parts of a rule must be to each other.
fn together(rule: &BucketRule) -> S3Result<()> {
    let nothing = rule.expiration.is_none()
        && rule.transitions.is_empty()
        && rule.noncurrent_transitions.is_empty()
        && rule.noncurrent_expiration.is_none()
        && rule.abort_days.is_none();
    if nothing {
        return Err(s3_error!(InvalidRequest, "At least one action needs to be specified in a rule: {}", rule.id));
    }
    bare_names(rule)?;
    let end = match rule.expiration {
        Some(End::At(when)) => Some(when),
        _ => None,
    };
    let whens = || rule.transitions.iter().map(|(_, when)| *when).chain(end);
    if whens().any(|when| matches!(when, When::Days(_))) && whens().any(|when| matches!(when, When::Date(_))) {
        return Err(s3_error!(
            InvalidRequest,
            "Found mixed 'Date' and 'Days' based Expiration and Transition actions in lifecycle rule {}",
            rule.id
        ));
    }
    // One scale: days, or dates; they are not mixed.
    let scale = |when: When| match when {
        When::Days(days) => u64::from(days),
        When::Date(at) => at,
    };
    let moves: Vec<(&str, u64)> = rule.transitions.iter().map(|(class, when)| (class.as_str(), scale(*when))).collect();
    in_order(&moves, end.map(scale), ("Days", "Transition", "Expiration"))?;
    let moves: Vec<(&str, u64)> =
        rule.noncurrent_transitions.iter().map(|(class, when)| (class.as_str(), u64::from(when.days))).collect();
    let end = rule.noncurrent_expiration.map(|when| u64::from(when.days));
    in_order(&moves, end, ("NoncurrentDays", "NoncurrentVersionTransition", "NoncurrentVersionExpiration"))
}

/// Unfinished uploads and delete markers have no tags and no size.
fn bare_names(rule: &BucketRule) -> S3Result<()> {
    let conditions = match &rule.filter {
        BucketFilter::Prefix(_) => return Ok(()),
        BucketFilter::One(conditions) | BucketFilter::And(conditions) => conditions,
    };
    let what = match (conditions.tags.is_empty(), conditions.larger.is_none() && conditions.smaller.is_none()) {
        (false, _) => "Tags",
        (true, false) => "Object Size",
        (true, true) => return Ok(()),
    };
    if rule.abort_days.is_some() {
        return Err(s3_error!(InvalidRequest, "AbortIncompleteMultipartUpload cannot be specified with {what}."));
    }
    if matches!(rule.expiration, Some(End::DeleteMarker(_))) {
        return Err(s3_error!(InvalidRequest, "ExpiredObjectDeleteMarker cannot be specified with {what}."));
    }
    Ok(())
}

/// Each class once, the colder one later, the end last.
fn in_order(moves: &[(&str, u64)], end: Option<u64>, (field, name, end_name): (&str, &str, &str)) -> S3Result<()> {
    let coldness = |class: &str| CLASSES.iter().position(|known| *known == class);
    for (i, (class, at)) in moves.iter().enumerate() {
        for (other, other_at) in moves.iter().take(i) {
            if class == other {
                return Err(s3_error!(
                    InvalidRequest,
                    "'StorageClass' must be different for '{name}' actions in same 'Rule'"
                ));
            }
            let (colder, later) = (coldness(class) > coldness(other), at > other_at);
            if colder != later || at == other_at {
                return Err(s3_error!(
                    InvalidArgument,
                    "'{field}' in the {name} actions for StorageClass '{class}' and '{other}' must grow from the warmer class to the \
                     colder one"
                ));
            }
        }
        if end.is_some_and(|end| end <= *at) {
            return Err(s3_error!(
                InvalidArgument,
                "'{field}' in the {end_name} action must be greater than '{field}' in the {name} action"
            ));
        }
    }
    Ok(())
}

#[cfg(test)]
mod tests;
