//! Reading what a rule does with noncurrent versions and with delete markers.

use super::MAX_ACTIONS;
use super::decode::target;
use super::draft::{Action, At, DraftRule};
use super::fields::{Fields, list};
use super::node::Node;
use crate::diagnostic::Sink;
use crate::policy::{Goal, Since, Tier, Timer};
use crate::units::parse_duration;

pub(crate) const TRANSITION_FIELDS: &[&str] = &["to", "after", "newerNoncurrentVersions"];
pub(crate) const EXPIRATION_FIELDS: &[&str] = &["after", "newerNoncurrentVersions"];

/// Most newer versions that a rule can spare; S3 has the same limit.
pub(crate) const MAX_NEWER: u32 = 100;

/// Adds the actions to `rule`; what could not be read makes it broken.
pub(super) fn read(fields: &Fields<'_>, tiers: &[At<Tier>], rule: &mut DraftRule, sink: &mut Sink) {
    if let Some(node) = fields.get("noncurrentTransitions") {
        let path = fields.path_of("noncurrentTransitions");
        let items = list(node, &path, MAX_ACTIONS, sink);
        rule.broken |= items.is_none();
        for (i, node) in items.unwrap_or_default().iter().enumerate() {
            add(rule, transition(node, format!("{path}[{i}]"), tiers, sink));
        }
    }
    if let Some(node) = fields.get("noncurrentExpiration") {
        let path = fields.path_of("noncurrentExpiration");
        let action = Fields::read(node, &path, EXPIRATION_FIELDS, sink)
            .and_then(|fields| action(&fields, Some(Goal::Expire), sink));
        add(rule, action);
    }
    if fields.get("expiredObjectDeleteMarker").is_some() {
        match fields.flag("expiredObjectDeleteMarker", sink) {
            Some((at, true)) => {
                let path = fields.path_of("expiredObjectDeleteMarker");
                let what = Timer::exact(Goal::Expire, 0, Since::DeleteMarker);
                rule.timers.push(Action { path, at, what });
            }
            Some((_, false)) => {}
            None => rule.broken = true,
        }
    }
}

fn add(rule: &mut DraftRule, action: Option<Action<Timer>>) {
    rule.broken |= action.is_none();
    rule.timers.extend(action);
}

fn transition(node: &Node, path: String, tiers: &[At<Tier>], sink: &mut Sink) -> Option<Action<Timer>> {
    let fields = Fields::read(node, &path, TRANSITION_FIELDS, sink)?;
    let goal = target(&fields, tiers, sink).map(|to| Goal::Tier(to.value));
    action(&fields, goal, sink)
}

/// What both have: how long a version has been noncurrent, and how many newer ones there must be.
fn action(fields: &Fields<'_>, goal: Option<Goal>, sink: &mut Sink) -> Option<Action<Timer>> {
    fields.required("after", "add `after: 30d`, counted from when the version stopped being the current one", sink);
    let after = fields.parsed("after", sink, parse_duration);
    let newer = fields.count("newerNoncurrentVersions", MAX_NEWER, sink);
    if fields.get("newerNoncurrentVersions").is_some() && newer.is_none() {
        return None;
    }
    let ((at, after), newer) = (after?, newer.map_or(0, |(_, n)| n));
    let what = Timer { newer, ..Timer::exact(goal?, after, Since::Noncurrent) };
    Some(Action { path: fields.path.clone(), at, what })
}
