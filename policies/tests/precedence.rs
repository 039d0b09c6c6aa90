//! The order of precedence and the promise of `next`, on random policies, objects and times.

#![allow(clippy::unwrap_used, clippy::panic)]

use proptest::prelude::*;
use std::time::Instant;
use tidegate_policies::{ActionState, DAY, Decision, Millis, ObjectFacts, Policy, Severity, Verdict, check, parse};

const TIERS: [&str; 3] = ["one", "two", "three"];
const SINCE: [&str; 3] = ["creation", "modification", "lastAccess"];
const PREFIXES: [&str; 4] = ["", "a", "ab", "x"];

/// One action: goal (a tier, or 3 for expiration), days, clock.
type Act = (usize, u64, usize);

/// A rule of one action, so that no rule contradicts itself: prefix, enabled, action.
type RuleSpec = (usize, bool, Act);

fn specs() -> impl Strategy<Value = Vec<RuleSpec>> {
    let act = (0..4usize, 1..40u64, 0..3usize);
    prop::collection::vec((0..PREFIXES.len(), prop::bool::weighted(0.9), act), 0..7)
}

fn text(rules: &[RuleSpec]) -> String {
    let mut out = "apiVersion: tidegate/v1\nkind: LifecyclePolicy\nmetadata: { name: t }\n".to_owned();
    out.push_str("tiers: [{ name: one }, { name: two }, { name: three }]\nrules:");
    if rules.is_empty() {
        out.push_str(" []");
    }
    for (i, (prefix, enabled, (goal, days, since))) in rules.iter().enumerate() {
        let status = if *enabled { "enabled" } else { "disabled" };
        let head = format!("\n  - {{ id: r{i}, status: {status}, filter: {{ prefix: '{}' }}, ", PREFIXES[*prefix]);
        let when = format!("after: {days}d, since: {}", SINCE[*since]);
        let body = match TIERS.get(*goal) {
            Some(tier) => format!("transitions: [{{ to: {tier}, {when} }}] }}"),
            None => format!("expiration: {{ {when} }} }}"),
        };
        out.push_str(&(head + &body));
    }
    out
}

/// The rules that survive the reach check, so that any set of specs makes a policy: rules reported as never reached
/// are taken out until none is left.
fn policy(rules: &[RuleSpec]) -> (Policy, Vec<RuleSpec>) {
    let mut rules = rules.to_vec();
    loop {
        let report = check("t", &text(&rules), &Default::default());
        if let Some(policy) = report.policy {
            return (policy, rules);
        }
        let error = report.diagnostics.iter().find(|d| d.severity == Severity::Error).unwrap();
        assert!(error.message.contains("never reached"), "{error}");
        let index: usize = error.field.trim_start_matches("rules[").trim_end_matches(']').parse().unwrap();
        rules.remove(index);
    }
}

#[derive(Debug, Clone)]
struct Object {
    key: &'static str,
    created: Millis,
    modified: Millis,
    accessed: Millis,
    tier: Option<usize>,
}

impl Object {
    fn facts(&self) -> ObjectFacts<'_> {
        ObjectFacts {
            bucket: "bucket",
            key: self.key,
            created: self.created,
            modified: self.modified,
            last_access: self.accessed,
            current_tier: self.tier.map(|t| TIERS[t]),
            ..ObjectFacts::default()
        }
    }

    fn origin(&self, since: usize) -> Millis {
        [self.created, self.modified, self.accessed][since]
    }
}

fn objects() -> impl Strategy<Value = Object> {
    let key = prop::sample::select(vec!["abc", "ax", "xyz", "other"]);
    (key, 0..20u64, 0..20u64, 0..20u64, prop::option::of(0..3usize)).prop_map(|(key, c, m, a, tier)| Object {
        key,
        created: c * DAY,
        modified: (c + m) * DAY,
        accessed: (c + a) * DAY,
        tier,
    })
}

/// The order of precedence written a second time, naively, with a sort.
fn reference(rules: &[RuleSpec], object: &Object, now: Millis) -> (Option<usize>, Option<String>) {
    let mut due: Vec<(usize, Millis, usize)> = rules
        .iter()
        .enumerate()
        .filter(|(_, (prefix, enabled, _))| *enabled && object.key.starts_with(PREFIXES[*prefix]))
        .map(|(i, (_, _, (goal, days, since)))| (*goal, object.origin(*since) + days * DAY, i))
        .filter(|(goal, at, _)| *at <= now && (*goal == 3 || object.tier.is_none_or(|t| *goal > t)))
        .collect();
    due.sort_by_key(|(goal, at, i)| (std::cmp::Reverse(*goal), *at, *i));
    (due.first().map(|d| d.0), due.first().map(|d| format!("r{}", d.2)))
}

fn rank(decision: Decision<'_>) -> Option<usize> {
    match decision {
        Decision::Keep | Decision::Protect { .. } | Decision::Release => None,
        Decision::Transition { tier } => TIERS.iter().position(|t| *t == tier),
        Decision::Expire => Some(3),
    }
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 400, failure_persistence: None, ..ProptestConfig::default() })]

    #[test]
    fn the_decision_is_the_first_of_the_written_order(specs in specs(), object in objects(), day in 0..90u64, off in 0..3u64) {
        let (policy, rules) = policy(&specs);
        // Just before, at, and just after whole days, where everything happens.
        let now = (day * DAY + off).saturating_sub(1);
        let verdict = policy.evaluate(&object.facts(), now);
        let (goal, rule) = reference(&rules, &object, now);
        prop_assert_eq!(rank(verdict.decision), goal);
        prop_assert_eq!(verdict.rule.map(|r| r.id.to_owned()), rule);
        prop_assert_eq!(policy.evaluate(&object.facts(), now), verdict);
    }

    #[test]
    fn nothing_changes_before_next_and_something_changes_at_next(specs in specs(), object in objects(), day in 0..90u64, part in 0.0..1.0f64) {
        let (policy, _) = policy(&specs);
        let facts = object.facts();
        let now = day * DAY;
        let Verdict { decision, rule, next } = policy.evaluate(&facts, now);
        let end = next.unwrap_or(400 * DAY);
        prop_assert!(end > now);
        for t in [now, now + ((end - 1 - now) as f64 * part) as u64, end - 1] {
            let then = policy.evaluate(&facts, t);
            prop_assert_eq!((then.decision, then.rule, then.next), (decision, rule, next));
        }
        if let Some(next) = next {
            prop_assert_ne!(policy.evaluate(&facts, next).decision, decision);
        }
    }

    #[test]
    fn decisions_only_grow_colder_with_time(specs in specs(), object in objects(), a in 0..90u64, b in 0..90u64) {
        let (policy, _) = policy(&specs);
        let at = |day: u64| rank(policy.evaluate(&object.facts(), day * DAY).decision);
        prop_assert!(at(a.min(b)) <= at(a.max(b)));
    }

    #[test]
    fn rules_that_do_not_match_change_nothing(specs in specs(), object in objects(), day in 0..90u64) {
        let (with, rules) = policy(&specs);
        let kept: Vec<RuleSpec> =
            rules.into_iter().filter(|(p, enabled, _)| *enabled && object.key.starts_with(PREFIXES[*p])).collect();
        let without = parse("t", &text(&kept)).unwrap();
        let (a, b) = (with.evaluate(&object.facts(), day * DAY), without.evaluate(&object.facts(), day * DAY));
        prop_assert_eq!((rank(a.decision), a.next), (rank(b.decision), b.next));
    }

    #[test]
    fn following_the_decisions_ends_and_skips_nothing(specs in specs(), object in objects()) {
        let (policy, _) = policy(&specs);
        let mut object = object;
        let mut now = 0;
        // Each step moves on along the chain or in time: goals and actions bound the number of steps.
        for _ in 0..32 {
            let verdict = policy.evaluate(&object.facts(), now);
            match (rank(verdict.decision), verdict.next) {
                (Some(3), _) => return Ok(()),
                (Some(tier), _) => object.tier = Some(tier),
                (None, Some(next)) => now = next,
                (None, None) => return Ok(()),
            }
        }
        prop_assert!(false, "the decisions never end");
    }

    #[test]
    fn the_explanation_marks_exactly_the_action_that_decides(specs in specs(), object in objects(), day in 0..90u64) {
        let (policy, rules) = policy(&specs);
        let facts = object.facts();
        let verdict = policy.evaluate(&facts, day * DAY);
        let explained = policy.explain(&facts, day * DAY);
        prop_assert_eq!(explained.len(), rules.len());
        let deciding: Vec<_> = explained
            .iter()
            .flat_map(|e| e.actions.iter().map(move |a| (e.rule, a)))
            .filter(|(_, a)| a.state == ActionState::Decides)
            .collect();
        prop_assert_eq!(deciding.len(), usize::from(verdict.rule.is_some()));
        if let Some((rule, action)) = deciding.first() {
            prop_assert_eq!(Some(*rule), verdict.rule);
            prop_assert_eq!(action.decision, verdict.decision);
        }
    }
}

fn example() -> Policy {
    parse("backup.yaml", include_str!("../examples/backup.yaml")).unwrap()
}

#[test]
fn a_day_is_exact_to_the_millisecond() {
    let policy = example();
    let facts = ObjectFacts { bucket: "backups", key: "k", created: 1_000_123, ..ObjectFacts::default() };
    let due = 1_000_123 + 14 * DAY;
    let before = policy.evaluate(&facts, due - 1);
    assert_eq!((before.decision, before.next), (Decision::Keep, Some(due)));
    let then = policy.evaluate(&facts, due);
    assert_eq!(then.decision, Decision::Transition { tier: "ia" });
    assert_eq!(then.next, Some(1_000_123 + 60 * DAY));
}

#[test]
fn an_object_that_is_late_jumps_to_the_coldest_due_tier() {
    let policy = example();
    let mut facts = ObjectFacts { bucket: "backups", key: "k", ..ObjectFacts::default() };
    assert_eq!(policy.evaluate(&facts, 100 * DAY).decision, Decision::Transition { tier: "archive" });
    facts.current_tier = Some("archive");
    let verdict = policy.evaluate(&facts, 100 * DAY);
    assert_eq!((verdict.decision, verdict.next), (Decision::Keep, Some(365 * DAY)));
    assert_eq!(policy.evaluate(&facts, 365 * DAY).decision, Decision::Expire);
}

#[test]
fn an_object_in_a_tier_outside_the_chain_stays_but_still_expires() {
    let policy = example();
    let facts = ObjectFacts { bucket: "backups", key: "k", current_tier: Some("removed"), ..ObjectFacts::default() };
    assert_eq!(policy.evaluate(&facts, 100 * DAY).decision, Decision::Keep);
    assert_eq!(policy.evaluate(&facts, 365 * DAY).decision, Decision::Expire);
}

#[test]
fn times_beyond_the_end_of_time_never_come() {
    let facts = ObjectFacts { bucket: "backups", key: "k", created: u64::MAX - 5, ..ObjectFacts::default() };
    let policy = example();
    assert_eq!(policy.evaluate(&facts, u64::MAX).next, None);
    assert_eq!(Policy::none().evaluate(&facts, 0).decision, Decision::Keep);
}

#[test]
fn uploads_are_aborted_by_the_shortest_matching_time() {
    let policy = parse("logs.yaml", include_str!("../examples/logs.yaml")).unwrap();
    let (at, rule) = policy.abort_uploads_at("logs", "app/x", 5).unwrap();
    assert_eq!((at, rule.id), (5 + DAY, "abandoned-uploads"));
    assert_eq!(policy.abort_uploads_at("other", "app/x", 5), None);
}

#[test]
fn a_full_disk_moves_hot_objects_that_match() {
    let policy = parse("data-lake.yaml", include_str!("../examples/data-lake.yaml")).unwrap();
    assert_eq!(policy.lowest_fill_trigger(), Some(80));
    assert!(policy.uses_last_access() && !example().uses_last_access());
    let metadata = [("Source".to_owned(), "replayable".to_owned())];
    let mut facts =
        ObjectFacts { bucket: "lake", key: "raw/f", size: 64 << 20, metadata: &metadata, ..ObjectFacts::default() };
    assert_eq!(policy.capacity_candidates(79, &facts), None);
    let (tier, rule) = policy.capacity_candidates(80, &facts).unwrap();
    assert_eq!((tier, rule.id), ("nas", "raw-input"));
    facts.size -= 1;
    assert_eq!(policy.capacity_candidates(95, &facts), None);
    facts.size += 1;
    facts.current_tier = Some("nas");
    assert_eq!(policy.capacity_candidates(95, &facts), None);
}

#[test]
fn a_million_evaluations_take_about_a_second_at_most() {
    let policy = parse("logs.yaml", include_str!("../examples/logs.yaml")).unwrap();
    let facts = ObjectFacts {
        bucket: "logs",
        key: "app/web/2024/11/20/access-0001.log.gz",
        size: 20_000,
        content_type: Some("application/gzip"),
        ..ObjectFacts::default()
    };
    let start = Instant::now();
    let rounds = 200_000u64;
    let moved = (0..rounds).filter(|i| policy.evaluate(&facts, i % 50 * DAY).decision != Decision::Keep).count();
    let rate = rounds as f64 / start.elapsed().as_secs_f64();
    println!("{rate:.0} evaluations/s");
    assert!(moved > 0);
    // Tests run unoptimized and beside others: a tenth of the target tells a real loss from noise.
    assert!(rate > 100_000.0, "{rate:.0} evaluations/s");
}
