//! Protection: which buckets, in which tier, and what comes before it; what is refused, and where.

#![allow(clippy::unwrap_used, clippy::panic)]

use tidegate_policies::{ActionState, CheckOptions, DAY, Decision, ObjectFacts, Policy, Severity, check, parse};

const HEAD: &str = "\
apiVersion: tidegate/v1
kind: LifecyclePolicy
metadata: { name: t }
tiers:
  - { name: std }
  - { name: ia, class: IA }
  - { name: archive, class: Archive }
";

const POLICY: &str = "\
protect:
  - { bucket: not-this, to: ia, status: disabled }
  - { bucket: photos-new, to: std }
  - { bucket: 'photos-*', to: ia }
rules:
  - id: cool
    transitions: [{ to: ia, after: 90d }, { to: archive, whenFull: 80% }]
";

fn policy() -> Policy {
    parse("p.yaml", &format!("{HEAD}{POLICY}")).unwrap_or_else(|d| panic!("{d:?}"))
}

fn facts<'a>(bucket: &'a str, tier: Option<&'a str>, protected: Option<&'a str>) -> ObjectFacts<'a> {
    ObjectFacts { bucket, key: "k", current_tier: tier, protected_in: protected, ..ObjectFacts::default() }
}

#[test]
fn the_first_item_in_force_that_names_a_bucket_counts() {
    let policy = policy();
    assert_eq!(policy.protects("photos-new"), Some("std"));
    assert_eq!(policy.protects("photos-old"), Some("ia"));
    assert_eq!((policy.protects("not-this"), policy.protects("photos")), (None, None));
    assert_eq!(policy.protecting_tiers().collect::<Vec<_>>(), ["std", "ia"]);
    assert_eq!(Policy::none().protects("photos-new"), None);
}

#[test]
fn a_hot_object_is_protected_at_once_and_a_transition_or_an_end_comes_before_it() {
    let policy = policy();
    let decide = |facts: &ObjectFacts<'_>, now| policy.evaluate(facts, now).decision;
    let hot = facts("photos-a", None, None);
    let verdict = policy.evaluate(&hot, 0);
    assert_eq!((verdict.decision, verdict.rule), (Decision::Protect { tier: "ia" }, None));
    assert_eq!(verdict.next, Some(90 * DAY), "the rule's time is still to come");
    assert_eq!(decide(&hot, 90 * DAY), Decision::Transition { tier: "ia" });
    assert_eq!(decide(&facts("photos-a", None, Some("ia")), 0), Decision::Keep);
    assert_eq!(decide(&facts("photos-a", None, Some("std")), 0), Decision::Protect { tier: "ia" }, "in another tier");
    assert_eq!(decide(&facts("photos-a", None, Some("ia")), 90 * DAY), Decision::Transition { tier: "ia" });
    assert_eq!(decide(&facts("other", None, Some("ia")), 0), Decision::Release);
    assert_eq!(decide(&facts("other", None, None), 0), Decision::Keep);
    for tier in ["ia", "archive", "gone"] {
        assert_eq!(decide(&facts("photos-a", Some(tier), None), 0), Decision::Keep, "{tier} has it");
    }
}

#[test]
fn a_fill_level_moves_no_protected_object_and_the_explanation_says_so() {
    let policy = policy();
    assert!(policy.capacity_candidates(90, &facts("photos-a", None, None)).is_some());
    assert!(policy.capacity_candidates(90, &facts("photos-a", None, Some("ia"))).is_none());
    let state = |protected| policy.explain(&facts("photos-a", None, protected), 0)[0].actions[1].state;
    assert_eq!((state(None), state(Some("ia"))), (ActionState::WaitsForFill, ActionState::Done));
}

/// Each case is the section `protect`, with `§` before the place of its only finding, and words of it.
#[test]
fn what_cannot_protect_is_refused_with_its_place_and_the_way_out() {
    let cases: [(&str, &[&str]); 10] = [
        ("  - { bucket: photos, to: §archive }\n", &["not readable at once", "Standard or IA"]),
        ("  - { bucket: photos, to: §iaa }\n", &["no tier `iaa`", "did you mean `ia`"]),
        ("  - §{ bucket: photos }\n", &["`to` is missing"]),
        ("  - §{ to: ia }\n", &["`bucket` is missing", "media-*"]),
        ("  - { bucket: §Photos, to: ia }\n", &["not a bucket name"]),
        ("  - { bucket: §'', to: ia }\n", &["empty pattern"]),
        ("  - { bucket: §'a[', to: ia }\n", &["not a valid pattern"]),
        ("  - { bucket: photos, to: ia, §on: true }\n", &["unknown field `on`", "status"]),
        ("  - { bucket: photos, to: ia, status: §on }\n", &["enabled, disabled"]),
        ("  - { bucket: 'p*', to: ia }\n  - { bucket: §photos, to: std }\n", &["never counts", "line 9", "before"]),
    ];
    for (section, words) in cases {
        let text = format!("{HEAD}protect:\n{section}rules: []\n");
        let mark = text.find('§').unwrap();
        let before = &text[..mark];
        let place = (before.matches('\n').count() + 1, before.rsplit('\n').next().unwrap_or_default().len() + 1);
        let found = check("p.yaml", &text.replacen('§', "", 1), &CheckOptions::default()).diagnostics;
        let shown: String = found.iter().map(|d| format!("{d}\n")).collect();
        assert_eq!(found.len(), 1, "{shown}in\n{text}");
        assert_eq!((found[0].line as usize, found[0].column as usize), place, "{shown}in\n{text}");
        assert_eq!(found[0].severity, Severity::Error);
        for word in words {
            assert!(shown.contains(word), "{word:?} is not in\n{shown}");
        }
    }
}
