use super::super::shown;
use super::*;
use std::time::{Duration, SystemTime};

fn base(id: &str) -> LifecycleRule {
    LifecycleRule {
        id: Some(id.into()),
        status: ExpirationStatus::from_static(ExpirationStatus::ENABLED),
        filter: Some(LifecycleRuleFilter { prefix: Some("a/".into()), ..Default::default() }),
        expiration: Some(LifecycleExpiration { days: Some(3), ..Default::default() }),
        abort_incomplete_multipart_upload: None,
        noncurrent_version_expiration: None,
        noncurrent_version_transitions: None,
        prefix: None,
        transitions: None,
    }
}

fn configured() -> Vec<String> {
    ["STANDARD", "STANDARD_IA", "GLACIER"].map(str::to_owned).to_vec()
}

fn refused(rule: LifecycleRule) -> (String, String) {
    let error = rules(vec![rule], &configured()).expect_err("it was accepted");
    (error.code().as_str().to_owned(), error.message().unwrap_or_default().to_owned())
}

fn at(days: u64) -> Timestamp {
    (SystemTime::UNIX_EPOCH + Duration::from_secs(days * 86_400)).into()
}

fn moving(days: Option<i32>, date: Option<Timestamp>, class: &'static str) -> Transition {
    Transition { days, date, storage_class: Some(TransitionStorageClass::from_static(class)) }
}

fn tag(key: &str) -> Tag {
    Tag { key: Some(key.into()), value: Some("v".into()) }
}

#[test]
fn every_form_comes_back_as_it_was_given() {
    let filter = |filter| LifecycleRule { filter: Some(filter), ..base("x") };
    let forms = vec![
        base("prefix"),
        LifecycleRule { filter: None, prefix: Some(String::new()), ..base("old form") },
        LifecycleRule { status: ExpirationStatus::from_static(ExpirationStatus::DISABLED), ..base("disabled") },
        filter(LifecycleRuleFilter::default()),
        filter(LifecycleRuleFilter { prefix: Some(String::new()), ..Default::default() }),
        filter(LifecycleRuleFilter { tag: Some(tag("k")), ..Default::default() }),
        filter(LifecycleRuleFilter { object_size_greater_than: Some(0), ..Default::default() }),
        filter(LifecycleRuleFilter { object_size_less_than: Some(9), ..Default::default() }),
        filter(LifecycleRuleFilter {
            and: Some(LifecycleRuleAndOperator {
                prefix: Some("p".into()),
                tags: Some(vec![tag("b"), tag("a")]),
                object_size_greater_than: Some(1),
                object_size_less_than: Some(10),
            }),
            ..Default::default()
        }),
        LifecycleRule {
            expiration: Some(LifecycleExpiration { date: Some(at(20_000)), ..Default::default() }),
            transitions: Some(vec![moving(None, Some(at(19_000)), "GLACIER")]),
            ..base("dates")
        },
        LifecycleRule {
            expiration: Some(LifecycleExpiration { expired_object_delete_marker: Some(false), ..Default::default() }),
            transitions: Some(vec![moving(Some(5), None, "GLACIER"), moving(Some(0), None, "STANDARD_IA")]),
            noncurrent_version_transitions: Some(vec![NoncurrentVersionTransition {
                newer_noncurrent_versions: Some(2),
                noncurrent_days: Some(1),
                storage_class: Some(TransitionStorageClass::from_static("GLACIER")),
            }]),
            noncurrent_version_expiration: Some(NoncurrentVersionExpiration {
                newer_noncurrent_versions: None,
                noncurrent_days: Some(4),
            }),
            abort_incomplete_multipart_upload: Some(AbortIncompleteMultipartUpload { days_after_initiation: Some(7) }),
            filter: Some(LifecycleRuleFilter::default()),
            ..base("all")
        },
    ];
    for given in forms {
        let stored = rules(vec![given.clone()], &configured()).unwrap_or_else(|e| panic!("{given:?}: {e:?}"));
        let json = serde_json::to_string(&stored).unwrap();
        let mut read: Vec<BucketRule> = serde_json::from_str(&json).unwrap();
        assert_eq!(shown::rule(read.remove(0)), given, "{json}");
    }
}

#[test]
fn a_rule_without_an_id_gets_one_of_its_own() {
    let unnamed = || LifecycleRule { id: None, ..base("") };
    let made = rules(vec![unnamed(), unnamed()], &configured()).unwrap();
    assert!(made.iter().all(|rule| rule.id.len() == 32) && made[0].id != made[1].id);
}

fn ending(days: Option<i32>, date: Option<Timestamp>, marker: Option<bool>) -> LifecycleRule {
    LifecycleRule {
        expiration: Some(LifecycleExpiration { days, date, expired_object_delete_marker: marker }),
        ..base("x")
    }
}

fn moves(transitions: Vec<Transition>) -> LifecycleRule {
    LifecycleRule { transitions: Some(transitions), expiration: None, ..base("x") }
}

fn filtered(filter: LifecycleRuleFilter) -> LifecycleRule {
    LifecycleRule { filter: Some(filter), ..base("x") }
}

fn sizes(greater: Option<i64>, less: Option<i64>) -> LifecycleRule {
    let and = LifecycleRuleAndOperator {
        object_size_greater_than: greater,
        object_size_less_than: less,
        ..Default::default()
    };
    filtered(LifecycleRuleFilter { and: Some(and), ..Default::default() })
}

fn tagged() -> Option<LifecycleRuleFilter> {
    Some(LifecycleRuleFilter { tag: Some(tag("k")), ..Default::default() })
}

#[test]
fn conditions_beside_each_other_count_together_like_those_in_and() {
    let and = LifecycleRuleAndOperator {
        prefix: Some("days".into()),
        tags: Some(vec![tag("b")]),
        object_size_greater_than: Some(1),
        ..Default::default()
    };
    let beside = LifecycleRuleFilter {
        prefix: Some("days/".into()),
        tag: Some(tag("a")),
        object_size_greater_than: Some(2),
        and: Some(and),
        ..Default::default()
    };
    let expected = LifecycleRuleAndOperator {
        prefix: Some("days/".into()),
        tags: Some(vec![tag("a"), tag("b")]),
        object_size_greater_than: Some(2),
        ..Default::default()
    };
    let read = rules(vec![filtered(beside)], &configured()).unwrap().pop().unwrap();
    let shown = super::super::shown::rule(read).filter.unwrap();
    assert_eq!(shown, LifecycleRuleFilter { and: Some(expected), ..Default::default() });
}

/// Each rule is refused with its code, and a message that has the word.
fn assert_refused(cases: Vec<(LifecycleRule, &str, &str)>) {
    for (rule, code, word) in cases {
        let shown = format!("{rule:?}");
        let (found, message) = refused(rule);
        assert_eq!(found, code, "{shown}: {message}");
        assert!(message.contains(word), "{shown}: {message}");
    }
}

#[test]
fn rules_and_expirations_that_s3_refuses_are_refused_with_its_code() {
    let noon = (SystemTime::UNIX_EPOCH + Duration::from_secs(43_200)).into();
    assert_refused(vec![
        (LifecycleRule { id: Some("x".repeat(256)), ..base("") }, "InvalidArgument", "255"),
        (LifecycleRule { status: ExpirationStatus::from_static("enabled"), ..base("x") }, "MalformedXML", "Enabled"),
        (ending(Some(0), None, None), "InvalidArgument", "positive integer"),
        (ending(Some(-1), None, None), "InvalidArgument", "positive integer"),
        (ending(None, Some(noon), None), "InvalidArgument", "midnight"),
        (ending(Some(1), Some(at(1)), None), "MalformedXML", "exactly one"),
        (ending(Some(1), None, Some(true)), "MalformedXML", "exactly one"),
        (ending(None, None, None), "MalformedXML", "exactly one"),
        (LifecycleRule { expiration: None, ..base("x") }, "InvalidRequest", "At least one action"),
        (LifecycleRule { prefix: Some("p".into()), ..base("x") }, "MalformedXML", "both"),
        (LifecycleRule { filter: None, ..base("x") }, "MalformedXML", "neither"),
        (
            filtered(LifecycleRuleFilter {
                prefix: Some("p".into()),
                and: Some(LifecycleRuleAndOperator { prefix: Some("q".into()), ..Default::default() }),
                ..Default::default()
            }),
            "MalformedXML",
            "both prefixes",
        ),
        (sizes(Some(1), None), "MalformedXML", "fewer than two"),
        (sizes(Some(5), Some(5)), "InvalidRequest", "ObjectSizeLessThan"),
        (sizes(Some(-1), Some(5)), "InvalidRequest", "non-negative"),
    ]);
}

#[test]
fn transitions_that_s3_refuses_are_refused_with_its_code() {
    assert_refused(vec![
        (moves(vec![moving(Some(-1), None, "GLACIER")]), "InvalidArgument", "nonnegative"),
        (moves(vec![moving(Some(1), Some(at(1)), "GLACIER")]), "MalformedXML", "exactly one"),
        (moves(vec![moving(Some(1), None, "COLD")]), "MalformedXML", "COLD"),
        (moves(vec![moving(Some(1), None, "DEEP_ARCHIVE")]), "InvalidStorageClass", "STANDARD_IA"),
        (
            moves(vec![moving(Some(1), None, "GLACIER"), moving(Some(2), None, "GLACIER")]),
            "InvalidRequest",
            "different",
        ),
        (
            moves(vec![moving(Some(1), None, "GLACIER"), moving(Some(2), None, "STANDARD_IA")]),
            "InvalidArgument",
            "must grow",
        ),
        (
            LifecycleRule { transitions: Some(vec![moving(Some(3), None, "GLACIER")]), ..base("x") },
            "InvalidArgument",
            "must be greater",
        ),
        (
            LifecycleRule { transitions: Some(vec![moving(None, Some(at(1)), "GLACIER")]), ..base("x") },
            "InvalidRequest",
            "mixed",
        ),
    ]);
}

#[test]
fn other_actions_that_s3_refuses_are_refused_with_its_code() {
    assert_refused(vec![
        (
            LifecycleRule {
                filter: tagged(),
                abort_incomplete_multipart_upload: Some(AbortIncompleteMultipartUpload {
                    days_after_initiation: Some(1),
                }),
                ..base("x")
            },
            "InvalidRequest",
            "Tags",
        ),
        (LifecycleRule { filter: tagged(), ..ending(None, None, Some(true)) }, "InvalidRequest", "Tags"),
        (
            LifecycleRule {
                abort_incomplete_multipart_upload: Some(AbortIncompleteMultipartUpload {
                    days_after_initiation: Some(0),
                }),
                ..base("x")
            },
            "InvalidArgument",
            "DaysAfterInitiation",
        ),
        (
            LifecycleRule {
                noncurrent_version_expiration: Some(NoncurrentVersionExpiration {
                    noncurrent_days: Some(1),
                    newer_noncurrent_versions: Some(101),
                }),
                ..base("x")
            },
            "InvalidArgument",
            "NewerNoncurrentVersions",
        ),
    ]);
}

#[test]
fn the_rules_together_are_checked() {
    let code = |rules: Vec<LifecycleRule>| {
        super::rules(rules, &configured()).expect_err("accepted").code().as_str().to_owned()
    };
    assert_eq!(code(Vec::new()), "MalformedXML");
    assert_eq!(code(vec![base("x"), base("x")]), "InvalidArgument");
    assert_eq!(code((0..1001).map(|i| base(&i.to_string())).collect()), "InvalidRequest");
    let old = LifecycleRule { filter: None, prefix: Some("p".into()), ..base("old") };
    assert_eq!(code(vec![old, base("new")]), "InvalidRequest");
    assert_eq!(super::rules((0..1000).map(|i| base(&i.to_string())).collect(), &configured()).unwrap().len(), 1000);
}
