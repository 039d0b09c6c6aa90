//! From the stored lifecycle to S3's document: what was given, in its order.

use s3s::dto::*;
use std::time::{Duration, SystemTime};
use tidegate_policies::bucket::{BucketFilter, BucketRule, Conditions, Expiration as End, Noncurrent, When};

use crate::s3::signed;

pub(super) fn rule(rule: BucketRule) -> LifecycleRule {
    let status = if rule.enabled { ExpirationStatus::ENABLED } else { ExpirationStatus::DISABLED };
    let (prefix, filter) = filter(rule.filter);
    LifecycleRule {
        id: Some(rule.id),
        status: ExpirationStatus::from_static(status),
        prefix,
        filter,
        expiration: rule.expiration.map(expiration),
        transitions: list(rule.transitions, |(class, when)| Transition {
            date: date(when),
            days: days(when),
            storage_class: Some(TransitionStorageClass::from(class)),
        }),
        noncurrent_version_transitions: list(rule.noncurrent_transitions, |(class, when)| {
            NoncurrentVersionTransition {
                newer_noncurrent_versions: when.newer.map(count),
                noncurrent_days: Some(count(when.days)),
                storage_class: Some(TransitionStorageClass::from(class)),
            }
        }),
        noncurrent_version_expiration: rule.noncurrent_expiration.map(|Noncurrent { days, newer }| {
            NoncurrentVersionExpiration {
                noncurrent_days: Some(count(days)),
                newer_noncurrent_versions: newer.map(count),
            }
        }),
        abort_incomplete_multipart_upload: rule
            .abort_days
            .map(|days| AbortIncompleteMultipartUpload { days_after_initiation: Some(count(days)) }),
    }
}

/// An empty list is left out.
fn list<A, B>(items: Vec<A>, show: impl Fn(A) -> B) -> Option<Vec<B>> {
    (!items.is_empty()).then(|| items.into_iter().map(show).collect())
}

fn filter(filter: BucketFilter) -> (Option<Prefix>, Option<LifecycleRuleFilter>) {
    let tags = |tags: Vec<(String, String)>| list(tags, |(key, value)| Tag { key: Some(key), value: Some(value) });
    match filter {
        BucketFilter::Prefix(prefix) => (Some(prefix), None),
        BucketFilter::One(Conditions { prefix, tags: has, larger, smaller }) => {
            let one = LifecycleRuleFilter {
                prefix,
                tag: tags(has).and_then(|mut tags| tags.pop()),
                object_size_greater_than: larger.map(signed),
                object_size_less_than: smaller.map(signed),
                and: None,
            };
            (None, Some(one))
        }
        BucketFilter::And(Conditions { prefix, tags: has, larger, smaller }) => {
            let and = LifecycleRuleAndOperator {
                prefix,
                tags: tags(has),
                object_size_greater_than: larger.map(signed),
                object_size_less_than: smaller.map(signed),
            };
            (None, Some(LifecycleRuleFilter { and: Some(and), ..Default::default() }))
        }
    }
}

fn expiration(end: End) -> LifecycleExpiration {
    match end {
        End::At(when) => LifecycleExpiration { date: date(when), days: days(when), expired_object_delete_marker: None },
        End::DeleteMarker(goes) => {
            LifecycleExpiration { expired_object_delete_marker: Some(goes), ..Default::default() }
        }
    }
}

fn days(when: When) -> Option<i32> {
    match when {
        When::Days(days) => Some(count(days)),
        When::Date(_) => None,
    }
}

fn date(when: When) -> Option<Timestamp> {
    match when {
        When::Days(_) => None,
        When::Date(millis) => Some((SystemTime::UNIX_EPOCH + Duration::from_millis(millis)).into()),
    }
}

fn count(number: u32) -> i32 {
    i32::try_from(number).unwrap_or(i32::MAX)
}
