//! From the tree to a draft: each field by itself.

use super::draft::{Action, At, Draft, DraftRule};
use super::fields::{Fields, list};
use super::node::Node;
use super::{MAX_ACTIONS, MAX_RULES, MAX_TIERS, filter, noncurrent, protect};
use crate::class::Class;
use crate::diagnostic::{Sink, nearest};
use crate::policy::{Fill, Goal, Layout, Since, Tier, Timer};
use crate::units::{parse_duration, parse_percent};

/// The only version of the format.
pub(crate) const API_VERSION: &str = "tidegate/v1";
/// The only kind of document.
pub(crate) const KIND: &str = "LifecyclePolicy";
/// Longest name of a policy or tier and longest rule id, in characters.
const MAX_NAME: usize = 64;

pub(crate) const DOCUMENT_FIELDS: &[&str] = &["apiVersion", "kind", "metadata", "tiers", "protect", "rules"];
pub(crate) const METADATA_FIELDS: &[&str] = &["name"];
pub(crate) const TIER_FIELDS: &[&str] = &["name", "class"];
pub(crate) const RULE_FIELDS: &[&str] = &[
    "id",
    "status",
    "filter",
    "transitions",
    "expiration",
    "noncurrentTransitions",
    "noncurrentExpiration",
    "expiredObjectDeleteMarker",
    "abortIncompleteMultipartUpload",
    "layout",
];
pub(crate) const TRANSITION_FIELDS: &[&str] = &["to", "after", "since", "whenFull"];
pub(crate) const EXPIRATION_FIELDS: &[&str] = &["after", "since"];
pub(crate) const ABORT_FIELDS: &[&str] = &["after"];

const SINCE: &[(&str, Since)] =
    &[("creation", Since::Creation), ("modification", Since::Modification), ("lastAccess", Since::LastAccess)];

/// Reads the whole document. What could not be read is in `sink` and missing in the draft.
pub(crate) fn document(root: &Node, sink: &mut Sink) -> Option<Draft> {
    let fields = Fields::read(root, "", DOCUMENT_FIELDS, sink)?;
    for (field, only) in [("apiVersion", API_VERSION), ("kind", KIND)] {
        fields.required(field, &format!("add `{field}: {only}`"), sink);
        if let Some((at, text)) = fields.text(field, sink)
            && text != only
        {
            sink.error(at, field, format!("{text:?} is not supported"), format!("write `{field}: {only}`"));
        }
    }
    let mut draft = Draft::default();
    if let Some(node) = fields.required("metadata", "add `metadata: { name: ... }`", sink)
        && let Some(metadata) = Fields::read(node, "metadata", METADATA_FIELDS, sink)
    {
        draft.name = name(&metadata, "name", sink).map(|n| n.value).unwrap_or_default();
    }
    if let Some(node) = fields.get("tiers")
        && let Some(items) = list(node, "tiers", MAX_TIERS, sink)
    {
        draft.tiers = items.iter().enumerate().filter_map(|(i, n)| tier(n, &format!("tiers[{i}]"), sink)).collect();
        draft.tiers_broken = draft.tiers.len() < items.len();
    }
    if let Some(node) = fields.get("protect")
        && let Some(items) = list(node, "protect", MAX_RULES, sink)
    {
        let read = |(i, n)| protect::read(n, &format!("protect[{i}]"), &draft.tiers, sink);
        draft.protections = items.iter().enumerate().filter_map(read).collect();
    }
    let help = "add `rules:` with a list of rules, or `rules: []` for a policy that does nothing";
    if let Some(node) = fields.required("rules", help, sink)
        && let Some(items) = list(node, "rules", MAX_RULES, sink)
    {
        for (i, node) in items.iter().enumerate() {
            if let Some(rule) = rule(node, &format!("rules[{i}]"), &draft.tiers, sink) {
                draft.rules.push(rule);
            }
        }
    }
    Some(draft)
}

/// A required field with a name: letters, digits, `-`, `_` and `.`.
fn name(fields: &Fields<'_>, field: &str, sink: &mut Sink) -> Option<At<String>> {
    fields.required(field, &format!("add `{field}:` with a short name"), sink)?;
    let (at, text) = fields.text(field, sink)?;
    let ok = text.bytes().all(|b| b.is_ascii_alphanumeric() || b"-_.".contains(&b));
    if !ok || text.is_empty() || text.len() > MAX_NAME {
        let help = format!("use 1 to {MAX_NAME} letters, digits, `-`, `_` and `.`");
        sink.error(at, &fields.path_of(field), format!("{text:?} is not a usable name"), help);
        return None;
    }
    Some(At { at, value: text.to_owned() })
}

fn tier(node: &Node, path: &str, sink: &mut Sink) -> Option<At<Tier>> {
    let fields = Fields::read(node, path, TIER_FIELDS, sink)?;
    let classes = Class::ALL.map(|c| (c.as_str(), c));
    let class = fields.word("class", &classes, sink).map(|(_, c)| c);
    let name = name(&fields, "name", sink)?;
    if name.value == "hot" {
        let help = "the chain begins after the hot tier: remove this item, or rename the tier";
        sink.error(name.at, &fields.path_of("name"), "`hot` is the gateway's own disk, not a tier of the chain", help);
        return None;
    }
    Some(At { at: name.at, value: Tier { name: name.value, class } })
}

fn rule(node: &Node, path: &str, tiers: &[At<Tier>], sink: &mut Sink) -> Option<DraftRule> {
    let fields = Fields::read(node, path, RULE_FIELDS, sink)?;
    let id = name(&fields, "id", sink);
    let status = fields.word("status", &[("enabled", true), ("disabled", false)], sink);
    let layout = fields.word("layout", &[("packed", Layout::Packed), ("native", Layout::Native)], sink);
    let mut rule = DraftRule {
        path: path.to_owned(),
        broken: id.is_none(),
        id: id.unwrap_or_else(|| At { at: fields.at, value: String::new() }),
        enabled: status.is_none_or(|(_, enabled)| enabled),
        filter: Default::default(),
        max_size_at: fields.at,
        timers: Vec::new(),
        fills: Vec::new(),
        abort_uploads: None,
        layout: layout.map_or(At { at: fields.at, value: Layout::Packed }, |(at, value)| At { at, value }),
    };
    if let Some(node) = fields.get("filter") {
        match filter::read(node, &fields.path_of("filter"), sink) {
            Some((filter, max_size_at)) => (rule.filter, rule.max_size_at) = (filter, max_size_at),
            None => rule.broken = true,
        }
    }
    transitions(&fields, tiers, &mut rule, sink);
    if let Some(node) = fields.get("expiration") {
        let path = fields.path_of("expiration");
        match expiration(node, path, sink) {
            Some(action) => rule.timers.push(action),
            None => rule.broken = true,
        }
    }
    noncurrent::read(&fields, tiers, &mut rule, sink);
    if let Some(node) = fields.get("abortIncompleteMultipartUpload") {
        let path = fields.path_of("abortIncompleteMultipartUpload");
        rule.abort_uploads = abort_uploads(node, path, sink);
        rule.broken |= rule.abort_uploads.is_none();
    }
    Some(rule)
}

fn transitions(fields: &Fields<'_>, tiers: &[At<Tier>], rule: &mut DraftRule, sink: &mut Sink) {
    let Some(node) = fields.get("transitions") else { return };
    let path = fields.path_of("transitions");
    let Some(items) = list(node, &path, MAX_ACTIONS, sink) else {
        rule.broken = true;
        return;
    };
    for (i, node) in items.iter().enumerate() {
        if transition(node, &format!("{path}[{i}]"), tiers, rule, sink).is_none() {
            rule.broken = true;
        }
    }
}

/// The required field `to`: the position of a tier in the chain.
pub(super) fn target(fields: &Fields<'_>, tiers: &[At<Tier>], sink: &mut Sink) -> Option<At<usize>> {
    fields.required("to", "add `to:` with the name of a tier", sink)?;
    let (at, name) = fields.text("to", sink)?;
    let found = tiers.iter().position(|t| t.value.name == name);
    if found.is_none() {
        let known = || tiers.iter().map(|t| t.value.name.as_str());
        let help = match nearest(name, known()) {
            Some(meant) => format!("did you mean `{meant}`?"),
            None if tiers.is_empty() => "list the chain of tiers under `tiers:`".to_owned(),
            None => format!("add it to `tiers:`, or use one of: {}", known().collect::<Vec<_>>().join(", ")),
        };
        sink.error(at, &fields.path_of("to"), format!("there is no tier `{name}` in `tiers`"), help);
    }
    found.map(|value| At { at, value })
}

fn transition(node: &Node, path: &str, tiers: &[At<Tier>], rule: &mut DraftRule, sink: &mut Sink) -> Option<()> {
    let fields = Fields::read(node, path, TRANSITION_FIELDS, sink)?;
    let tier = target(&fields, tiers, sink).map(|to| to.value);
    let after = fields.parsed("after", sink, parse_duration);
    let since = fields.word("since", SINCE, sink);
    let full = fields.parsed("whenFull", sink, parse_percent);
    match (fields.get("after").is_some(), fields.get("whenFull").is_some()) {
        (true, true) => {
            let help = "write two transitions, one with `after` and one with `whenFull`: whichever comes first moves";
            sink.error(fields.key_at("whenFull"), path, "a transition has one trigger, this has two", help);
            return None;
        }
        (false, false) => {
            let help = "add `after: 30d` (age) or `whenFull: 85%` (fill level of the hot disk)";
            sink.error(fields.at, path, "this transition has no trigger, so it never happens", help);
            return None;
        }
        (false, true) if fields.get("since").is_some() => {
            let help = "remove `since`; it belongs to `after`";
            sink.error(fields.key_at("since"), &fields.path_of("since"), "a fill level has no starting point", help);
            return None;
        }
        _ => {}
    }
    let tier = tier?;
    if let Some((at, percent)) = full {
        rule.fills.push(Action { path: path.to_owned(), at, what: Fill { tier, percent } });
        return Some(());
    }
    let (at, after) = after?;
    if fields.get("since").is_some() && since.is_none() {
        return None;
    }
    let since = since.map_or(Since::Creation, |(_, s)| s);
    rule.timers.push(Action { path: path.to_owned(), at, what: Timer::exact(Goal::Tier(tier), after, since) });
    Some(())
}

fn expiration(node: &Node, path: String, sink: &mut Sink) -> Option<Action<Timer>> {
    let fields = Fields::read(node, &path, EXPIRATION_FIELDS, sink)?;
    let since = fields.word("since", SINCE, sink);
    fields.required("after", "add `after: 365d`", sink)?;
    let (at, after) = fields.parsed("after", sink, parse_duration)?;
    if fields.get("since").is_some() && since.is_none() {
        return None;
    }
    let since = since.map_or(Since::Creation, |(_, s)| s);
    Some(Action { path, at, what: Timer::exact(Goal::Expire, after, since) })
}

fn abort_uploads(node: &Node, path: String, sink: &mut Sink) -> Option<Action<u64>> {
    let fields = Fields::read(node, &path, ABORT_FIELDS, sink)?;
    fields.required("after", "add `after: 7d`", sink)?;
    let (at, what) = fields.parsed("after", sink, parse_duration)?;
    Some(Action { path, at, what })
}
