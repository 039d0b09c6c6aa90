//! Contradictions within one rule.

use crate::diagnostic::Sink;
use crate::parse::{Action, At, DraftRule};
use crate::policy::{Fill, Goal, Layout, Since, Tier, Timer};
use crate::units::format_duration;
use std::collections::HashMap;

/// Ids must differ: they are what answers and logs name.
pub(super) fn ids(rules: &[DraftRule], sink: &mut Sink) {
    let mut first_lines = HashMap::new();
    for rule in rules.iter().filter(|r| !r.id.value.is_empty()) {
        if let Some(line) = first_lines.insert(rule.id.value.as_str(), rule.id.at.line) {
            let message = format!("another rule has the id `{}` (line {line})", rule.id.value);
            sink.error(rule.id.at, &format!("{}.id", rule.path), message, "give each rule an id of its own");
        }
    }
}

/// All checks of one rule that need more than one of its fields. False when its times contradict each other.
pub(super) fn rule(rule: &DraftRule, tiers: &[At<Tier>], sink: &mut Sink) -> bool {
    if rule.timers.is_empty() && rule.fills.is_empty() && rule.abort_uploads.is_none() && !rule.broken {
        let help = "add `transitions`, `expiration`, `noncurrentTransitions`, `noncurrentExpiration`, \
                    `expiredObjectDeleteMarker` or `abortIncompleteMultipartUpload`, or remove the rule";
        sink.error(rule.id.at, &rule.path, format!("the rule `{}` does nothing", rule.id.value), help);
    }
    if rule.layout.value == Layout::Native {
        let help = "write `layout: packed`, or remove the line";
        sink.error(rule.layout.at, &format!("{}.layout", rule.path), "`native` is not available in this version", help);
    }
    bare_names(rule, sink);
    let mut consistent = true;
    for (i, later) in rule.timers.iter().enumerate() {
        // One finding an action is enough.
        consistent &= !rule.timers.iter().take(i).any(|earlier| timers(earlier, later, tiers, sink));
    }
    for (i, later) in rule.fills.iter().enumerate() {
        consistent &= !rule.fills.iter().take(i).any(|earlier| fills(earlier, later, tiers, sink));
    }
    consistent
}

/// An unfinished upload and a delete marker have a bucket and a key, nothing else that a filter could test.
fn bare_names(rule: &DraftRule, sink: &mut Sink) {
    let abort = rule.abort_uploads.iter().map(|a| (a.at, &a.path, "an unfinished upload has no"));
    let markers = rule.timers.iter().filter(|t| t.what.since == Since::DeleteMarker);
    let markers = markers.map(|a| (a.at, &a.path, "a delete marker has no"));
    let filter = &rule.filter;
    let used = [
        ("tags", !filter.tags.is_empty()),
        ("size", filter.min_size.is_some() || filter.max_size.is_some()),
        ("contentType", filter.content_type.is_some()),
        ("metadata", !filter.metadata.is_empty()),
    ];
    let Some((field, _)) = used.iter().find(|(_, used)| *used) else { return };
    for (at, path, subject) in abort.chain(markers) {
        let message = format!("{subject} {field}, but the filter asks for it");
        let help = "put this into a rule of its own that filters by bucket, prefix, suffix or glob only";
        sink.error(at, path, message, help);
    }
}

fn goal_name(goal: Goal, tiers: &[At<Tier>]) -> String {
    match goal {
        Goal::Tier(tier) => tiers.get(tier).map(|t| t.value.name.clone()).unwrap_or_default(),
        Goal::Expire => "expiration".to_owned(),
    }
}

/// Two timers of one rule, `later` below `earlier` in the text. True when they contradict each other.
fn timers(earlier: &Action<Timer>, later: &Action<Timer>, tiers: &[At<Tier>], sink: &mut Sink) -> bool {
    let (a, b) = (&earlier.what, &later.what);
    let text = Timer::when;
    let (name_a, name_b) = (goal_name(a.goal, tiers), goal_name(b.goal, tiers));
    if a.goal == b.goal && a.since == b.since {
        let message =
            format!("`{name_b}` is the target twice with the same starting point (first in line {})", earlier.at.line);
        sink.error(later.at, &later.path, message, "keep the shorter of the two");
    } else if b.goal == Goal::Expire && b.never_later(a) {
        let message = format!(
            "expires after {}, but the transition to `{name_a}` is due no sooner than {}: it never happens",
            text(b),
            text(a)
        );
        let help = format!("expire later than {}, or remove the transition", format_duration(a.after));
        sink.error(later.at, &later.path, message, help);
    } else if b.goal < a.goal && a.never_later(b) {
        let message = format!(
            "`{name_b}` after {} would be a transition to a warmer tier: the object is in `{name_a}` after {}",
            text(b),
            text(a)
        );
        let help = format!(
            "objects only grow colder: make this shorter than {}, or remove one of the two",
            format_duration(a.after)
        );
        sink.error(later.at, &later.path, message, help);
    } else if b.goal > a.goal && b.never_later(a) {
        let message = format!(
            "`{name_b}` after {} is due no later than the warmer `{name_a}` after {}, which is never reached",
            text(b),
            text(a)
        );
        let help = format!(
            "times grow along the chain: make this longer than {}, or remove one of the two",
            format_duration(a.after)
        );
        sink.error(later.at, &later.path, message, help);
    } else {
        return false;
    }
    true
}

/// Two fill levels of one rule. True when they contradict each other.
fn fills(earlier: &Action<Fill>, later: &Action<Fill>, tiers: &[At<Tier>], sink: &mut Sink) -> bool {
    let (a, b) = (&earlier.what, &later.what);
    let name = |f: &Fill| goal_name(Goal::Tier(f.tier), tiers);
    let (message, help) = if a.tier == b.tier {
        (format!("`{}` has two fill levels", name(b)), "keep the lower of the two".to_owned())
    } else {
        let (warm, cold) = if a.tier < b.tier { (a, b) } else { (b, a) };
        if warm.percent < cold.percent {
            return false;
        }
        let message = format!(
            "at {}% everything goes to the colder `{}`, so `{}` at {}% never happens",
            cold.percent,
            name(cold),
            name(warm),
            warm.percent
        );
        (message, "fill levels grow along the chain: raise the one of the colder tier, or remove one".to_owned())
    };
    sink.error(later.at, &later.path, message, help);
    true
}
