//! The decision about one object at one time.
//!
//! # The total order of precedence
//! Every enabled rule whose filter matches contributes its actions. Of the actions that are due, one wins:
//!
//! 1. expiration before any transition;
//! 2. the colder tier before the warmer one;
//! 3. the action that came due first;
//! 4. the rule that stands first in the document;
//! 5. the action that stands first in its rule.
//!
//! When none is due, protection has its say: a hot object of a protected bucket is brought to the tier that protects it, at
//! once, and one that is protected without need is released.
//!
//! Only actions that lead on count: a transition to the object's tier or to a warmer one is done, not due. An object
//! in a tier that is not in the chain (the chain was edited) does not move, as nothing says what is colder than it; it
//! still expires.
//!
//! Each action is about some versions of a key: the current one, noncurrent ones, or a delete marker that is the only version
//! left. The expiration of current versions takes such a marker away as well, once it is old enough. What is about other
//! versions than the one at hand is as if it were not there.
//!
//! What follows from the order: as time passes over unchanged facts, the decision only grows colder; an object for which
//! several transitions are due jumps to the coldest at once; a rule that does not match changes nothing; and once a
//! rule has given a decision, it stays the one named until the decision itself changes.

use crate::Millis;
use crate::parse::MAX_TIERS;
use crate::policy::{Decision, Goal, ObjectFacts, Policy, RuleRef, Since, Timer, Verdict};

/// Most tiers in a chain: those of the document, and those that the lifecycle of a bucket adds.
pub(crate) const MAX_CHAIN: usize = 2 * MAX_TIERS;

/// How far an object has come along the chain.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Standing {
    Hot,
    In(usize),
    /// In a tier that the chain does not know.
    Elsewhere,
}

impl Standing {
    /// True when reaching `goal` would move the object on.
    pub fn leads_on(self, goal: Goal) -> bool {
        match (self, goal) {
            (_, Goal::Expire) | (Standing::Hot, _) => true,
            (Standing::In(here), Goal::Tier(there)) => there > here,
            (Standing::Elsewhere, Goal::Tier(_)) => false,
        }
    }
}

/// The best due action found so far.
struct Best {
    goal: Goal,
    at: Millis,
    rule: usize,
}

/// Position of a goal in a table by coldness.
fn slot(goal: Goal) -> usize {
    match goal {
        Goal::Tier(tier) => tier,
        Goal::Expire => MAX_CHAIN,
    }
}

impl Policy {
    /// What is due for an object with these `facts` at `now`, by the order in `docs/policies.md`, and when to ask again.
    /// Allocates nothing, except that the first use of a pattern may set its matcher up.
    pub fn evaluate(&self, facts: &ObjectFacts<'_>, now: Millis) -> Verdict<'_> {
        let standing = self.standing(facts);
        let mut best: Option<Best> = None;
        // The first future time of each goal, so that one pass over the rules finds both the decision and the next time.
        let mut future = [None; MAX_CHAIN + 1];
        self.for_each_timer(facts, |rule, timer, at| {
            if !standing.leads_on(timer.goal) {
                return;
            }
            if at > now {
                if let Some(first) = future.get_mut(slot(timer.goal)) {
                    *first = Some(first.map_or(at, |f: Millis| f.min(at)));
                }
            } else if best.as_ref().is_none_or(|b| timer.goal > b.goal || (timer.goal == b.goal && at < b.at)) {
                // Strictly better only: of equals the first in the document stays.
                best = Some(Best { goal: timer.goal, at, rule });
            }
        });
        // Only what leads beyond the decision can change it.
        let beyond = best.as_ref().map_or(0, |b| slot(b.goal) + 1);
        Verdict {
            decision: best.as_ref().map_or_else(|| self.protection(facts), |b| self.decision(b.goal)),
            rule: best.map(|b| self.rule_ref(b.rule)),
            next: future.iter().skip(beyond).flatten().min().copied(),
        }
    }

    /// What protection asks for when nothing else is due.
    fn protection(&self, facts: &ObjectFacts<'_>) -> Decision<'_> {
        if facts.current_tier.is_some() || facts.is_marker() {
            return Decision::Keep;
        }
        match (self.protects(facts.bucket), facts.protected_in) {
            (Some(tier), here) if here != Some(tier) => Decision::Protect { tier },
            (None, Some(_)) => Decision::Release,
            _ => Decision::Keep,
        }
    }

    pub(crate) fn standing(&self, facts: &ObjectFacts<'_>) -> Standing {
        match facts.current_tier {
            None => Standing::Hot,
            Some(name) => self.tiers.iter().position(|t| t.name == name).map_or(Standing::Elsewhere, Standing::In),
        }
    }

    fn for_each_timer(&self, facts: &ObjectFacts<'_>, mut each: impl FnMut(usize, &Timer, Millis)) {
        for (index, rule) in self.rules.iter().enumerate() {
            if !rule.enabled || rule.timers.is_empty() || rule.filter.mismatch(facts).is_some() {
                continue;
            }
            for timer in &rule.timers {
                if let Some(at) = timer.due_at(facts) {
                    each(index, timer, at);
                }
            }
        }
    }

    /// When an unfinished upload of `key` that was begun at `initiated` ends, and the rule that says so. The earliest time
    /// of all matching rules; of equals, the rule that stands first. Tests only bucket and key: an unfinished upload has no
    /// size, and rules that filter by more are refused when they abort uploads.
    pub fn abort_uploads_at(&self, bucket: &str, key: &str, initiated: Millis) -> Option<(Millis, RuleRef<'_>)> {
        self.rules
            .iter()
            .enumerate()
            .filter(|(_, r)| r.enabled)
            .filter_map(|(i, r)| r.abort_uploads.and_then(|abort| abort.at(initiated)).map(|at| (at, i, r)))
            .filter(|(_, _, r)| r.filter.upload_mismatch(bucket, key).is_none())
            .min_by_key(|(at, i, _)| (*at, *i))
            .map(|(at, i, _)| (at, self.rule_ref(i)))
    }

    /// When an object with these `facts` is deleted if nothing changes, and the rule that does it: the earliest expiration of
    /// all matching rules, due already or still to come; of equals, the rule that stands first. Rules that count from the last
    /// access are left out, as the next read moves their time.
    pub fn expires_at(&self, facts: &ObjectFacts<'_>) -> Option<(Millis, RuleRef<'_>)> {
        let mut first: Option<(Millis, usize)> = None;
        self.for_each_timer(facts, |rule, timer, at| {
            let counts = timer.goal == Goal::Expire && timer.since != Since::LastAccess;
            if counts && first.is_none_or(|(earliest, _)| at < earliest) {
                first = Some((at, rule));
            }
        });
        first.map(|(at, rule)| (at, self.rule_ref(rule)))
    }

    /// The tier to which a hot object may move because the hot disk is `fill_percent` full, and the rule that says so.
    /// Of several the colder tier wins, then the lower fill level, then the rule that stands first. Objects that are not
    /// hot are never candidates, as moving them frees no hot disk, and protected ones neither: they leave it without a move.
    pub fn capacity_candidates(&self, fill_percent: u8, facts: &ObjectFacts<'_>) -> Option<(&str, RuleRef<'_>)> {
        if facts.current_tier.is_some() || facts.protected_in.is_some() || facts.is_marker() {
            return None;
        }
        let mut best: Option<(usize, u8, usize)> = None;
        for (index, rule) in self.rules.iter().enumerate() {
            let lit = |percent: u8| percent <= fill_percent;
            if !rule.enabled || !rule.fills.iter().any(|f| lit(f.percent)) || rule.filter.mismatch(facts).is_some() {
                continue;
            }
            for fill in rule.fills.iter().filter(|f| lit(f.percent)) {
                if best.is_none_or(|(t, p, _)| fill.tier > t || (fill.tier == t && fill.percent < p)) {
                    best = Some((fill.tier, fill.percent, index));
                }
            }
        }
        best.map(|(tier, _, index)| (self.tier_name(tier), self.rule_ref(index)))
    }

    /// The lowest fill level (percent of the hot disk) at which an enabled rule moves anything.
    pub fn lowest_fill_trigger(&self) -> Option<u8> {
        self.rules.iter().filter(|r| r.enabled).flat_map(|r| &r.fills).map(|f| f.percent).min()
    }
}
