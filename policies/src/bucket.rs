//! The lifecycle that S3 clients set for one bucket: a lossless model of S3's document without its XML, and the rules it
//! makes beside those of the policy document.

use crate::Millis;
use crate::class::Class;
use crate::evaluate::MAX_CHAIN;
use crate::filter::Filter;
use crate::policy::{Abort, Goal, Layout, Policy, Rule, Since, Tier, Timer};
use crate::units::DAY;
use serde::{Deserialize, Serialize};

/// Objects below this many bytes do not move where the client asked for S3's default.
const SMALLEST_MOVED: u64 = 128 << 10;

/// The lifecycle of one bucket, as the client gave it.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct BucketLifecycle {
    /// The rules in their order.
    pub rules: Vec<BucketRule>,
    /// Which small objects stay where they are; `None` when the client did not say: none.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub small_objects: Option<SmallObjects>,
}

/// What `x-amz-transition-default-minimum-object-size` says.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub enum SmallObjects {
    /// Below 128 KiB nothing moves, unless the rule's filter names a size.
    AllStay,
    /// The same, except to `GLACIER` and `DEEP_ARCHIVE`.
    StayUnlessArchived,
}

/// One rule.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct BucketRule {
    /// Its id: 1 to 255 characters.
    pub id: String,
    /// Whether it is in force.
    pub enabled: bool,
    /// Which objects it is about.
    pub filter: BucketFilter,
    /// The end of current versions.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub expiration: Option<Expiration>,
    /// Moves of current versions: the storage class as the client named it, and when.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub transitions: Vec<(String, When)>,
    /// Moves of noncurrent versions.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub noncurrent_transitions: Vec<(String, Noncurrent)>,
    /// The end of noncurrent versions.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub noncurrent_expiration: Option<Noncurrent>,
    /// Days after which unfinished uploads end.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub abort_days: Option<u32>,
}

/// The conditions of a rule, in the form in which the client gave them.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub enum BucketFilter {
    /// `Prefix` in the rule itself: the old form.
    Prefix(String),
    /// `Filter` with at most one condition.
    One(Conditions),
    /// `Filter` with `And`.
    And(Conditions),
}

/// What must hold.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields, default)]
pub struct Conditions {
    /// How the key begins.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub prefix: Option<String>,
    /// Tags that the object has.
    #[serde(skip_serializing_if = "Vec::is_empty")]
    pub tags: Vec<(String, String)>,
    /// It has more bytes.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub larger: Option<u64>,
    /// It has fewer bytes.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub smaller: Option<u64>,
}

/// The end of current versions.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub enum Expiration {
    /// At a time.
    At(When),
    /// `ExpiredObjectDeleteMarker`: whether delete markers go that are the only version left.
    DeleteMarker(bool),
}

/// When an action is due.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub enum When {
    /// So many days after the version was written, put off to the next midnight (UTC).
    Days(u32),
    /// From this time on (milliseconds since the epoch), for whatever is there.
    Date(Millis),
}

/// When an action on noncurrent versions is due.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Noncurrent {
    /// Days since the version became noncurrent, put off to the next midnight (UTC).
    pub days: u32,
    /// So many newer noncurrent versions are spared.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub newer: Option<u32>,
}

impl BucketFilter {
    fn conditions(&self) -> Conditions {
        match self {
            Self::Prefix(prefix) => Conditions { prefix: Some(prefix.clone()), ..Conditions::default() },
            Self::One(conditions) | Self::And(conditions) => conditions.clone(),
        }
    }
}

impl Policy {
    /// The rules of this policy, and behind them those of a bucket's own lifecycle; both count, by the one order of precedence.
    /// `day` is the length of a day in milliseconds: with another one than [`DAY`] nothing is put off to midnight. `tier_of` names
    /// the tier that a storage class means: none for the hot disk, and for a class that the configuration does not have any more,
    /// to which nothing moves. A tier that is not in the chain is put behind those that are not colder.
    #[must_use]
    pub fn with_lifecycle(
        &self,
        bucket: &str,
        lifecycle: &BucketLifecycle,
        day: Millis,
        tier_of: &dyn Fn(&str) -> Option<Tier>,
    ) -> Policy {
        let mut joined = self.clone();
        let mut classes: Vec<(&str, Tier)> = Vec::new();
        for rule in &lifecycle.rules {
            let current = rule.transitions.iter().map(|(class, _)| class.as_str());
            for class in current.chain(rule.noncurrent_transitions.iter().map(|(class, _)| class.as_str())) {
                if !classes.iter().any(|(known, _)| *known == class)
                    && let Some(tier) = tier_of(class)
                    && joined.chain_has(class, &tier)
                {
                    classes.push((class, tier));
                }
            }
        }
        let compiling =
            Compiling { bucket, day, small_objects: lifecycle.small_objects, chain: &joined.tiers, classes: &classes };
        let rules: Vec<Rule> = lifecycle.rules.iter().flat_map(|rule| compiling.rule(rule)).collect();
        joined.rules.extend(rules);
        joined
    }

    /// True when the chain has the tier, or has room for it.
    fn chain_has(&mut self, class: &str, tier: &Tier) -> bool {
        if self.tiers.iter().any(|t| t.name == tier.name) {
            return true;
        }
        if self.tiers.len() >= MAX_CHAIN {
            return false;
        }
        let cold = coldness(tier).max(tier.class.map_or(coldness_of(class), |_| Class::Standard));
        let at = self.tiers.iter().rposition(|t| coldness(t) <= cold).map_or(0, |last| last + 1);
        self.tiers.insert(at, tier.clone());
        let moved = |index: &mut usize| *index += usize::from(*index >= at);
        self.protections.iter_mut().for_each(|p| moved(&mut p.tier));
        for rule in &mut self.rules {
            rule.fills.iter_mut().for_each(|fill| moved(&mut fill.tier));
            for timer in &mut rule.timers {
                if let Goal::Tier(index) = &mut timer.goal {
                    moved(index);
                }
            }
        }
        true
    }
}

fn coldness(tier: &Tier) -> Class {
    tier.class.unwrap_or(Class::Standard)
}

/// How cold S3 itself means a storage class: where a tier stands that nobody bills by class.
fn coldness_of(class: &str) -> Class {
    match class {
        "DEEP_ARCHIVE" => Class::DeepColdArchive,
        "GLACIER" => Class::Archive,
        "STANDARD_IA" | "ONEZONE_IA" | "GLACIER_IR" | "INTELLIGENT_TIERING" => Class::Ia,
        _ => Class::Standard,
    }
}

/// What the rules of one bucket are compiled with.
struct Compiling<'a> {
    bucket: &'a str,
    day: Millis,
    small_objects: Option<SmallObjects>,
    chain: &'a [Tier],
    classes: &'a [(&'a str, Tier)],
}

impl Compiling<'_> {
    /// One rule, and a second one with the same id for moves that leave small objects where they are.
    fn rule(&self, rule: &BucketRule) -> Vec<Rule> {
        let conditions = rule.filter.conditions();
        let sized = conditions.larger.is_some() || conditions.smaller.is_some();
        let filter = Filter {
            bucket: Some(self.bucket.to_owned()),
            prefix: conditions.prefix,
            tags: conditions.tags,
            min_size: conditions.larger.map(|size| size.saturating_add(1)),
            max_size: conditions.smaller.map(|size| size.saturating_sub(1)),
            ..Filter::default()
        };
        let (mut timers, mut of_large) = (Vec::new(), Vec::new());
        for (class, timer) in self.moves(rule) {
            let stays = !sized && self.small_stay(class);
            if stays { &mut of_large } else { &mut timers }.push(timer);
        }
        match rule.expiration {
            Some(Expiration::At(when)) => timers.push(self.timer(Goal::Expire, when)),
            Some(Expiration::DeleteMarker(true)) => {
                timers.push(Timer::exact(Goal::Expire, 0, Since::DeleteMarker));
            }
            Some(Expiration::DeleteMarker(false)) | None => {}
        }
        timers.extend(rule.noncurrent_expiration.map(|noncurrent| self.noncurrent(Goal::Expire, noncurrent)));
        let abort_uploads = rule.abort_days.map(|days| Abort { after: self.length(days), midnight: self.rounds() });
        let large = Filter { min_size: Some(SMALLEST_MOVED), ..filter.clone() };
        let mut rules = vec![self.made(rule, filter, timers)];
        rules.iter_mut().for_each(|made| made.abort_uploads = abort_uploads);
        if !of_large.is_empty() {
            rules.push(self.made(rule, large, of_large));
        }
        rules
    }

    fn made(&self, rule: &BucketRule, filter: Filter, timers: Vec<Timer>) -> Rule {
        Rule {
            id: rule.id.clone(),
            enabled: rule.enabled,
            filter,
            timers,
            fills: Vec::new(),
            abort_uploads: None,
            layout: Layout::Packed,
            bucket: Some(self.bucket.to_owned()),
        }
    }

    /// All moves of a rule, with their storage classes.
    fn moves<'r>(&'r self, rule: &'r BucketRule) -> impl Iterator<Item = (&'r str, Timer)> {
        let current = rule
            .transitions
            .iter()
            .filter_map(|(class, when)| Some((class.as_str(), self.timer(self.goal(class)?, *when))));
        let noncurrent = rule
            .noncurrent_transitions
            .iter()
            .filter_map(|(class, when)| Some((class.as_str(), self.noncurrent(self.goal(class)?, *when))));
        current.chain(noncurrent)
    }

    fn goal(&self, class: &str) -> Option<Goal> {
        let (_, tier) = self.classes.iter().find(|(known, _)| *known == class)?;
        self.chain.iter().position(|t| t.name == tier.name).map(Goal::Tier)
    }

    fn small_stay(&self, class: &str) -> bool {
        match self.small_objects {
            None => false,
            Some(SmallObjects::AllStay) => true,
            Some(SmallObjects::StayUnlessArchived) => !matches!(class, "GLACIER" | "DEEP_ARCHIVE"),
        }
    }

    fn timer(&self, goal: Goal, when: When) -> Timer {
        match when {
            // S3 counts from the time that it shows as Last-Modified.
            When::Days(days) => {
                Timer { midnight: self.rounds(), ..Timer::exact(goal, self.length(days), Since::Modification) }
            }
            When::Date(at) => Timer::exact(goal, at, Since::Date),
        }
    }

    fn noncurrent(&self, goal: Goal, when: Noncurrent) -> Timer {
        let timer = Timer::exact(goal, self.length(when.days), Since::Noncurrent);
        Timer { newer: when.newer.unwrap_or(0), midnight: self.rounds(), ..timer }
    }

    fn length(&self, days: u32) -> Millis {
        Millis::from(days).saturating_mul(self.day)
    }

    fn rounds(&self) -> bool {
        self.day == DAY
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::{Decision, ObjectFacts, Version, parse};

    const DOCUMENT: &str = "apiVersion: tidegate/v1\nkind: LifecyclePolicy\nmetadata: { name: t }\n\
        tiers: [{ name: std }, { name: archive, class: Archive }]\nprotect: [{ bucket: safe, to: std }]\n\
        rules: [{ id: doc, transitions: [{ to: archive, after: 90d }, { to: std, whenFull: 80% }], expiration: { after: 400d } }]\n";

    fn tier_of(class: &str) -> Option<Tier> {
        let tier = |name: &str, class| Some(Tier { name: name.into(), class });
        match class {
            "STANDARD_IA" => tier("ia", Some(Class::Ia)),
            "GLACIER" => tier("archive", Some(Class::Archive)),
            "DEEP_ARCHIVE" => tier("tape", None),
            _ => None,
        }
    }

    fn rule(id: &str) -> BucketRule {
        BucketRule {
            id: id.into(),
            enabled: true,
            filter: BucketFilter::One(Conditions::default()),
            expiration: None,
            transitions: Vec::new(),
            noncurrent_transitions: Vec::new(),
            noncurrent_expiration: None,
            abort_days: None,
        }
    }

    fn joined(rules: Vec<BucketRule>, small_objects: Option<SmallObjects>, day: Millis) -> Policy {
        let document = parse("p.yaml", DOCUMENT).unwrap();
        document.with_lifecycle("b", &BucketLifecycle { rules, small_objects }, day, &tier_of)
    }

    fn facts(created: Millis) -> ObjectFacts<'static> {
        ObjectFacts { bucket: "b", key: "k", created, modified: created, last_access: created, ..Default::default() }
    }

    #[test]
    fn days_end_at_the_next_midnight_and_shortened_ones_exactly() {
        let expiring = BucketRule { expiration: Some(Expiration::At(When::Days(3))), abort_days: Some(1), ..rule("x") };
        let policy = joined(vec![expiring.clone()], None, DAY);
        let (at, by) = policy.expires_at(&facts(DAY + 5)).unwrap();
        assert_eq!((at, by.to_string().as_str()), (5 * DAY, "lifecycle of bucket b, rule x"));
        assert_eq!(policy.expires_at(&facts(2 * DAY)).unwrap().0, 5 * DAY, "midnight is not put off");
        assert_eq!(policy.evaluate(&facts(DAY + 5), 5 * DAY - 1).next, Some(5 * DAY));
        assert_eq!(policy.evaluate(&facts(DAY + 5), 5 * DAY).decision, Decision::Expire);
        assert_eq!(policy.abort_uploads_at("b", "k", 7).unwrap().0, 2 * DAY);
        assert_eq!(policy.abort_uploads_at("c", "k", 7), None);
        let short = joined(vec![expiring], None, 10_000);
        assert_eq!(short.expires_at(&facts(5)).unwrap().0, 30_005);
        assert_eq!(short.abort_uploads_at("b", "k", 7).unwrap().0, 10_007);
        let other = ObjectFacts { bucket: "c", ..facts(0) };
        assert_eq!(policy.expires_at(&other).unwrap().1.to_string(), "doc", "other buckets have the document only");
    }

    #[test]
    fn both_sources_count_by_one_order_and_the_chain_takes_new_tiers_by_coldness() {
        let moving = BucketRule {
            transitions: vec![
                ("STANDARD_IA".into(), When::Days(10)),
                ("DEEP_ARCHIVE".into(), When::Days(200)),
                ("UNKNOWN".into(), When::Days(1)),
            ],
            ..rule("move")
        };
        let policy = joined(vec![moving], None, DAY);
        let names: Vec<&str> = policy.tiers().iter().map(|t| t.name.as_str()).collect();
        assert_eq!(names, ["std", "ia", "archive", "tape"]);
        let ask = |days: u64| policy.evaluate(&facts(0), days * DAY).decision;
        assert_eq!(ask(5), Decision::Keep);
        assert_eq!(ask(10), Decision::Transition { tier: "ia" });
        assert_eq!(ask(90), Decision::Transition { tier: "archive" }, "the document's, as it is colder");
        assert_eq!(ask(200), Decision::Transition { tier: "tape" });
        assert_eq!(ask(400), Decision::Expire);
        assert_eq!(policy.protects("safe"), Some("std"));
        assert_eq!(policy.capacity_candidates(85, &facts(0)).unwrap().0, "std");
        assert_eq!(policy.evaluate(&facts(0), 10 * DAY).rule.unwrap().bucket, Some("b"));
    }

    #[test]
    fn a_date_is_for_whatever_is_there_and_the_earliest_end_counts() {
        let dated = BucketRule { expiration: Some(Expiration::At(When::Date(50 * DAY))), ..rule("date") };
        let later = BucketRule { expiration: Some(Expiration::At(When::Days(60))), ..rule("later") };
        let policy = joined(vec![later, dated], None, DAY);
        assert_eq!(policy.expires_at(&facts(0)).map(|(at, rule)| (at, rule.id)), Some((50 * DAY, "date")));
        let verdict = policy.evaluate(&facts(70 * DAY), 70 * DAY);
        assert_eq!((verdict.decision, verdict.rule.unwrap().id), (Decision::Expire, "date"));
    }

    #[test]
    fn filters_are_those_of_s3_and_small_objects_stay_where_that_is_asked_for() {
        let conditions = Conditions {
            prefix: Some("a/".into()),
            tags: vec![("t".into(), "1".into())],
            larger: Some(10),
            smaller: Some(20),
        };
        let end = Some(Expiration::At(When::Days(1)));
        let policy =
            joined(vec![BucketRule { filter: BucketFilter::And(conditions), expiration: end, ..rule("f") }], None, DAY);
        let tags = [("t".to_owned(), "1".to_owned())];
        let object = ObjectFacts { key: "a/k", tags: &tags, size: 11, ..facts(0) };
        let ends = |facts: &ObjectFacts<'_>| policy.expires_at(facts).unwrap().0 == DAY;
        assert!(ends(&object) && ends(&ObjectFacts { size: 19, ..object }));
        for other in [
            ObjectFacts { size: 10, ..object },
            ObjectFacts { size: 20, ..object },
            ObjectFacts { key: "b", ..object },
            ObjectFacts { tags: &[], ..object },
        ] {
            assert!(!ends(&other), "{other:?}");
        }

        let moving = BucketRule {
            transitions: vec![("STANDARD_IA".into(), When::Days(1)), ("GLACIER".into(), When::Days(2))],
            ..rule("m")
        };
        let at = |small_objects, size, days: u64| {
            let policy = joined(vec![moving.clone()], small_objects, DAY);
            let verdict = policy.evaluate(&ObjectFacts { size, ..facts(0) }, days * DAY);
            match verdict.decision {
                Decision::Transition { tier } => tier.to_owned(),
                _ => String::new(),
            }
        };
        assert_eq!((at(None, 1, 1).as_str(), at(None, 1, 2).as_str()), ("ia", "archive"));
        let (all, some) = (Some(SmallObjects::AllStay), Some(SmallObjects::StayUnlessArchived));
        assert_eq!((at(all, 131_071, 2).as_str(), at(all, 131_072, 1).as_str()), ("", "ia"));
        assert_eq!((at(some, 1, 1).as_str(), at(some, 1, 2).as_str()), ("", "archive"));
    }

    #[test]
    fn noncurrent_versions_and_delete_markers_have_their_times() {
        let noncurrent = Noncurrent { days: 5, newer: Some(2) };
        let kept = BucketRule {
            noncurrent_transitions: vec![("GLACIER".into(), Noncurrent { days: 1, newer: None })],
            noncurrent_expiration: Some(noncurrent),
            expiration: Some(Expiration::DeleteMarker(true)),
            ..rule("n")
        };
        let policy = joined(vec![kept], None, DAY);
        let old = |newer| ObjectFacts { version: Version::Noncurrent { since: 7, newer, marker: false }, ..facts(0) };
        assert_eq!(policy.evaluate(&old(0), 0).next, Some(2 * DAY));
        assert_eq!(policy.evaluate(&old(1), 100 * DAY).decision, Decision::Transition { tier: "archive" });
        assert_eq!(policy.evaluate(&old(2), 6 * DAY).decision, Decision::Expire);
        let marker = ObjectFacts { version: Version::DeleteMarker { only: true }, ..facts(0) };
        assert_eq!(policy.evaluate(&marker, 0).decision, Decision::Expire);
    }

    #[test]
    fn the_stored_form_is_as_documented() {
        let full = BucketRule {
            filter: BucketFilter::And(Conditions {
                prefix: Some("a/".into()),
                tags: vec![("k".into(), "v".into())],
                ..Conditions::default()
            }),
            expiration: Some(Expiration::At(When::Date(86_400_000))),
            transitions: vec![("GLACIER".into(), When::Days(30))],
            noncurrent_expiration: Some(Noncurrent { days: 9, newer: Some(3) }),
            abort_days: Some(7),
            ..rule("r")
        };
        let lifecycle = BucketLifecycle { rules: vec![full], small_objects: Some(SmallObjects::AllStay) };
        let text = concat!(
            r#"{"rules":[{"id":"r","enabled":true,"filter":{"and":{"prefix":"a/","tags":[["k","v"]]}},"#,
            r#""expiration":{"at":{"date":86400000}},"transitions":[["GLACIER",{"days":30}]],"#,
            r#""noncurrent_expiration":{"days":9,"newer":3},"abort_days":7}],"small_objects":"allStay"}"#,
        );
        assert_eq!(serde_json::to_string(&lifecycle).unwrap(), text);
        assert_eq!(serde_json::from_str::<BucketLifecycle>(text).unwrap(), lifecycle);
    }
}
