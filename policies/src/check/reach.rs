//! Rules that can never decide anything, because another rule always comes first.

use crate::diagnostic::{Place, Sink};
use crate::parse::{At, DraftRule};
use crate::policy::{Fill, Goal, Tier, Timer};
use crate::units::format_duration;

/// Anything that a rule does.
enum Act<'a> {
    Timer(&'a Timer),
    Fill(&'a Fill),
    Abort(u64),
}

/// The actions of a rule with the place and path of each.
fn acts(rule: &DraftRule) -> impl Iterator<Item = (Act<'_>, Place, &str)> {
    let timers = rule.timers.iter().map(|a| (Act::Timer(&a.what), a.at, a.path.as_str()));
    let fills = rule.fills.iter().map(|a| (Act::Fill(&a.what), a.at, a.path.as_str()));
    let aborts = rule.abort_uploads.iter().map(|a| (Act::Abort(a.what), a.at, a.path.as_str()));
    timers.chain(fills).chain(aborts)
}

/// True when `by` decides whenever `act` would, for an object that both rules match. `first`: the rule of `by` stands first.
fn overrules(by: &Act<'_>, act: &Act<'_>, first: bool) -> bool {
    match (by, act) {
        (Act::Timer(b), Act::Timer(a)) => {
            b.never_later(a) && (b.goal > a.goal || (b.goal == a.goal && (b.after < a.after || first)))
        }
        (Act::Fill(b), Act::Fill(a)) => {
            b.percent <= a.percent && (b.tier > a.tier || (b.tier == a.tier && (b.percent < a.percent || first)))
        }
        (Act::Abort(b), Act::Abort(a)) => b < a || (b == a && first),
        _ => false,
    }
}

fn describe(act: &Act<'_>, tiers: &[At<Tier>]) -> String {
    let tier = |i: usize| tiers.get(i).map_or("", |t| t.value.name.as_str());
    match act {
        Act::Timer(timer) => match timer.goal {
            Goal::Expire => format!("expires it after {}", timer.when()),
            Goal::Tier(t) => format!("moves it to `{}` after {}", tier(t), timer.when()),
        },
        Act::Fill(f) => format!("moves it to `{}` when the hot disk is {}% full", tier(f.tier), f.percent),
        Act::Abort(after) => format!("aborts its unfinished uploads after {}", format_duration(*after)),
    }
}

/// The other rules in force that match whatever the one at `index` matches, with their positions; none for a rule that is
/// not in force itself.
pub(super) fn covering(rules: &[DraftRule], index: usize) -> impl Iterator<Item = (usize, &DraftRule)> {
    let subject = rules.get(index).filter(|r| r.enabled && !r.broken);
    let covers = move |r: &DraftRule| subject.is_some_and(|rule| r.filter.covers(&rule.filter));
    rules.iter().enumerate().filter(move |(j, r)| *j != index && r.enabled && !r.broken && covers(r))
}

/// Reports rules that never decide anything (errors) and single actions that never do (warnings). Only what one other rule
/// covers entirely is proven; nothing is said about rules that several others cover together.
pub(super) fn rules(rules: &[DraftRule], tiers: &[At<Tier>], sink: &mut Sink) {
    for (i, rule) in rules.iter().enumerate().filter(|(_, r)| r.enabled && !r.broken) {
        let covering: Vec<(usize, &DraftRule)> = covering(rules, i).collect();
        if covering.is_empty() {
            continue;
        }
        let mut dead = Vec::new();
        let mut total = 0;
        for (act, at, path) in acts(rule) {
            total += 1;
            let by = covering.iter().find_map(|(j, r)| {
                acts(r).find(|(by, _, _)| overrules(by, &act, *j < i)).map(|(by, _, _)| (*r, describe(&by, tiers)))
            });
            if let Some((other, what)) = by {
                dead.push((at, path, other, what));
            }
        }
        report(rule, total, &dead, sink);
    }
}

fn report(rule: &DraftRule, total: usize, dead: &[(Place, &str, &DraftRule, String)], sink: &mut Sink) {
    let help = |other: &DraftRule| {
        format!(
            "remove it, or narrow the filter of `{}` (for example by `prefix` or `tags`), or make it later",
            other.id.value
        )
    };
    let because = |other: &DraftRule, what: &str| {
        format!("whatever it matches, `{}` (line {}) matches too and {what}", other.id.value, other.id.at.line)
    };
    match dead.first() {
        Some((_, _, other, what)) if dead.len() == total => {
            let message = format!("the rule `{}` is never reached: {}", rule.id.value, because(other, what));
            sink.error(rule.id.at, &rule.path, message, help(other));
        }
        _ => {
            for (at, path, other, what) in dead {
                sink.warning(*at, path, format!("never happens: {}", because(other, what)), help(other));
            }
        }
    }
}
