//! Noncurrent versions and delete markers: what is due for them and when, against a second, naive evaluator; what is refused.

#![allow(clippy::unwrap_used, clippy::panic)]

use proptest::prelude::*;
use tidegate_policies::{ActionState, DAY, Decision, Millis, ObjectFacts, Policy, Version, check, parse};

const HEAD: &str = "apiVersion: tidegate/v1\nkind: LifecyclePolicy\nmetadata: { name: t }\n\
                    tiers: [{ name: ia, class: IA }, { name: archive, class: Archive }]\nrules:\n";

fn policy(rules: &str) -> Policy {
    parse("p.yaml", &format!("{HEAD}{rules}")).unwrap_or_else(|d| panic!("{d:?}"))
}

fn version(version: Version, created: Millis) -> ObjectFacts<'static> {
    ObjectFacts {
        bucket: "docs",
        key: "k",
        created,
        modified: created,
        last_access: created,
        version,
        ..Default::default()
    }
}

fn noncurrent(since: Millis, newer: u32) -> ObjectFacts<'static> {
    version(Version::Noncurrent { since, newer, marker: false }, 0)
}

const KEEP: &str = "  - id: old
    expiration: { after: 400d }
    noncurrentTransitions: [{ to: ia, after: 10d }, { to: archive, after: 60d, newerNoncurrentVersions: 2 }]
    noncurrentExpiration: { after: 150d, newerNoncurrentVersions: 3 }
    expiredObjectDeleteMarker: true
";

#[test]
fn noncurrent_versions_move_and_end_by_their_own_times_and_the_newest_are_spared() {
    let policy = policy(KEEP);
    let ask = |since, newer, now| {
        let verdict = policy.evaluate(&noncurrent(since, newer), now);
        (verdict.decision, verdict.next)
    };
    let (ia, archive) = (Decision::Transition { tier: "ia" }, Decision::Transition { tier: "archive" });
    let start = 5 * DAY;
    assert_eq!(ask(start, 0, start), (Decision::Keep, Some(start + 10 * DAY)));
    assert_eq!(ask(start, 0, start + 500 * DAY), (ia, None), "one of the two newest never goes further");
    assert_eq!(ask(start, 2, start + 60 * DAY), (archive, None), "the third newest is kept");
    assert_eq!(ask(start, 3, start + 60 * DAY), (archive, Some(start + 150 * DAY)));
    assert_eq!(ask(start, 3, start + 150 * DAY), (Decision::Expire, None));
    let current = policy.evaluate(&version(Version::Current, 0), 399 * DAY);
    assert_eq!((current.decision, current.next), (Decision::Keep, Some(400 * DAY)), "about the current version only");
}

#[test]
fn a_delete_marker_goes_when_nothing_is_left_behind_it() {
    let marker = |only| version(Version::DeleteMarker { only }, 7 * DAY);
    let cleaned = policy(KEEP);
    assert_eq!(cleaned.evaluate(&marker(true), 7 * DAY).decision, Decision::Expire);
    let verdict = cleaned.evaluate(&marker(false), 7 * DAY);
    assert_eq!((verdict.decision, verdict.next), (Decision::Keep, None), "its versions go first");

    let aged = policy("  - { id: a, expiration: { after: 30d } }\n");
    let verdict = aged.evaluate(&marker(true), 36 * DAY);
    assert_eq!((verdict.decision, verdict.next), (Decision::Keep, Some(37 * DAY)), "the age of the marker counts");
    assert_eq!(aged.evaluate(&marker(true), 37 * DAY).decision, Decision::Expire);
    assert_eq!(aged.evaluate(&marker(false), 900 * DAY).decision, Decision::Keep);

    let old = ObjectFacts { version: Version::Noncurrent { since: 0, newer: 5, marker: true }, ..marker(true) };
    assert_eq!(cleaned.evaluate(&old, 20 * DAY).decision, Decision::Keep, "a marker has no body that could move");
    assert_eq!(cleaned.evaluate(&old, 150 * DAY).decision, Decision::Expire);
    let idle = policy("  - { id: a, transitions: [{ to: ia, after: 1d }, { to: archive, whenFull: 80% }] }\n");
    assert_eq!(idle.evaluate(&marker(true), 20 * DAY).decision, Decision::Keep);
    assert_eq!(idle.capacity_candidates(99, &marker(true)), None);
}

#[test]
fn an_explanation_says_what_is_about_other_versions() {
    let policy = policy(KEEP);
    let states = |facts: &ObjectFacts<'_>, now| -> Vec<ActionState> {
        policy.explain(facts, now)[0].actions.iter().map(|a| a.state).collect()
    };
    use ActionState::{Decides, OtherVersions, Overruled, Waiting};
    let old = noncurrent(0, 2);
    assert_eq!(states(&old, 70 * DAY), [OtherVersions, Overruled, Decides, OtherVersions, OtherVersions]);
    let current = version(Version::Current, 0);
    assert_eq!(states(&current, 0), [Waiting, OtherVersions, OtherVersions, OtherVersions, OtherVersions]);
}

#[test]
fn a_shorter_day_shrinks_every_age_in_proportion() {
    let policy = policy(KEEP).with_day(10_000);
    assert_eq!(policy.evaluate(&noncurrent(0, 0), 0).next, Some(100_000));
    let current = version(Version::Current, 1);
    assert_eq!(policy.expires_at(&current).map(|(at, rule)| (at, rule.id)), Some((4_000_001, "old")));
    let hours = parse("p.yaml", &format!("{HEAD}  - {{ id: a, expiration: {{ after: 12h }} }}\n")).unwrap();
    assert_eq!(hours.clone().with_day(10_000).expires_at(&current).unwrap().0, 5_001);
    assert_eq!(hours.with_day(1).expires_at(&current).unwrap().0, 2, "never at once");
}

/// Each case: rules with one finding, and words of it.
#[test]
fn what_contradicts_itself_or_is_about_nothing_is_refused() {
    let cases: [(&str, &[&str]); 14] = [
        ("{ id: a, noncurrentExpiration: { } }", &["`after` is missing", "add `after: 30d`"]),
        ("{ id: a, noncurrentExpiration: { after: 0d } }", &["the duration 0d is zero"]),
        ("{ id: a, noncurrentExpiration: { days: 3d, after: 1d } }", &["unknown field `days`"]),
        ("{ id: a, noncurrentExpiration: { after: 1d, newerNoncurrentVersions: 0 } }", &["from 1 to 100", "number 0"]),
        ("{ id: a, noncurrentExpiration: { after: 1d, newerNoncurrentVersions: '3' } }", &["the text \"3\""]),
        ("{ id: a, noncurrentExpiration: { after: 1d, newerNoncurrentVersions: 101 } }", &["from 1 to 100"]),
        ("{ id: a, noncurrentTransitions: [{ after: 1d, to: iaa }] }", &["no tier `iaa`", "did you mean `ia`"]),
        ("{ id: a, expiredObjectDeleteMarker: 'yes' }", &["expected true or false", "without quotes"]),
        ("{ id: a, expiredObjectDeleteMarker: false }", &["does nothing", "noncurrentExpiration"]),
        (
            "{ id: a, filter: { tags: { a: b } }, expiredObjectDeleteMarker: true }",
            &["a delete marker has no tags", "rule of its own"],
        ),
        (
            "{ id: a, noncurrentTransitions: [{ to: ia, after: 90d }], noncurrentExpiration: { after: 80d } }",
            &["expires after 80d as a noncurrent version", "never happens"],
        ),
        (
            "{ id: a, noncurrentTransitions: [{ to: archive, after: 9d }, { to: ia, after: 90d }] }",
            &["warmer tier", "archive"],
        ),
        (
            "{ id: a, noncurrentTransitions: [{ to: archive, after: 1d }], noncurrentExpiration: { after: 2d } }",
            &["can only lose money", "to expire 1d later"],
        ),
        (
            "{ id: a, noncurrentExpiration: { after: 5d } }\n  - { id: b, noncurrentExpiration: { after: 9d, newerNoncurrentVersions: 2 } }",
            &["`b` is never reached", "`a`"],
        ),
    ];
    for (rules, words) in cases {
        let report = check("p.yaml", &format!("{HEAD}  - {rules}\n"), &Default::default());
        let shown: String = report.diagnostics.iter().map(|d| format!("{d}\n")).collect();
        assert!(report.policy.is_none() && report.diagnostics.len() == 1, "one error expected for {rules}:\n{shown}");
        assert!(report.diagnostics[0].line >= 6, "{shown}");
        words.iter().for_each(|word| assert!(shown.contains(word), "{word:?} is not in\n{shown}"));
    }
    for fine in [
        "{ id: a, expiration: { after: 5d }, noncurrentTransitions: [{ to: ia, after: 30d }] }",
        "{ id: a, expiration: { after: 5d }, expiredObjectDeleteMarker: true }",
        "{ id: a, noncurrentTransitions: [{ to: ia, after: 90d }], noncurrentExpiration: { after: 80d, newerNoncurrentVersions: 2 } }",
        "{ id: a, noncurrentExpiration: { after: 9d, newerNoncurrentVersions: 2 } }\n  - { id: b, noncurrentExpiration: { after: 99d } }",
    ] {
        let report = check("p.yaml", &format!("{HEAD}  - {fine}\n"), &Default::default());
        assert!(report.policy.is_some() && report.diagnostics.is_empty(), "{fine}: {:?}", report.diagnostics);
    }
}

/// Tier (2 is expiration), days, newer ones spared; each in a rule of its own.
type Act = (usize, u64, u32);

proptest! {
    #![proptest_config(ProptestConfig { cases: 300, failure_persistence: None, ..ProptestConfig::default() })]

    #[test]
    fn decisions_about_noncurrent_versions_agree_with_a_naive_reading(
        acts in prop::collection::vec((0..3usize, 1..300u64, 0..4u32), 1..5),
        since in 0..50u64, newer in 0..5u32, marker: bool, tier in prop::option::of(0..2usize), now in 0..400u64,
    ) {
        let mut text = String::new();
        for (i, (goal, days, newer)) in acts.iter().enumerate() {
            let spared = if *newer == 0 { String::new() } else { format!(", newerNoncurrentVersions: {newer}") };
            text += &match goal {
                2 => format!("  - {{ id: r{i}, noncurrentExpiration: {{ after: {days}d{spared} }} }}\n"),
                t => format!("  - {{ id: r{i}, noncurrentTransitions: [{{ to: {}, after: {days}d{spared} }}] }}\n", ["ia", "archive"][*t]),
            };
        }
        // What the check refuses (never reached, loses money) is no policy.
        let Ok(policy) = parse("p.yaml", &format!("{HEAD}{text}")) else { return Ok(()) };
        let (since, now) = (since * DAY, now * DAY);
        let facts = ObjectFacts {
            current_tier: tier.map(|t| ["ia", "archive"][t]),
            version: Version::Noncurrent { since, newer, marker },
            ..version(Version::Current, 0)
        };
        let at_time = |now: Millis| acts.iter().filter(|(goal, days, spared): &&Act| {
            since + days * DAY <= now && newer >= *spared && (*goal == 2 || (!marker && tier.is_none_or(|t| *goal > t)))
        }).map(|(goal, ..)| *goal).max();
        let rank = |decision| match decision {
            Decision::Expire => Some(2),
            Decision::Transition { tier } => Some(usize::from(tier == "archive")),
            _ => None,
        };
        let verdict = policy.evaluate(&facts, now);
        prop_assert_eq!(rank(verdict.decision), at_time(now));
        let later = (now / DAY + 1..500).map(|d| d * DAY).find(|at| at_time(*at) != at_time(now));
        prop_assert_eq!(verdict.next, later, "the promised time");
    }
}

#[test]
fn what_is_kept_ends_no_earlier_and_still_moves() {
    let rule = "  - id: r
    noncurrentTransitions: [{ to: ia, after: 100d }, { to: archive, after: 160d }]
    noncurrentExpiration: { after: 300d }
";
    let policy = policy(rule);
    let old = |kept_until| ObjectFacts { kept_until, ..noncurrent(0, 0) };
    let ask = |kept_until, day| {
        let facts = old(kept_until);
        let verdict = policy.evaluate(&facts, day * DAY);
        (format!("{:?}", verdict.decision), verdict.next.map(|at| at / DAY))
    };
    let archived = || "Transition { tier: \"archive\" }".to_owned();
    assert_eq!(ask(Some(3 * DAY), 170), (archived(), Some(300)), "it is over before");
    assert_eq!(ask(Some(500 * DAY), 0), ("Keep".to_owned(), Some(100)));
    assert_eq!(ask(Some(500 * DAY), 310), (archived(), Some(500)));
    assert_eq!(ask(Some(500 * DAY), 500), ("Expire".to_owned(), None));
    assert_eq!(ask(Some(Millis::MAX), 310), (archived(), None), "a hold has no end");
    assert_eq!(policy.expires_at(&old(Some(500 * DAY))).map(|(at, _)| at), Some(500 * DAY));
    assert_eq!(policy.expires_at(&old(Some(Millis::MAX))), None);
}
