//! Why an object is where it is: every rule, and what it says about the object.

use crate::Millis;
use crate::filter::FilterField;
use crate::policy::{Decision, Goal, ObjectFacts, Policy, RuleRef, Since};
use serde::Serialize;

/// What one rule says about one object.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
#[serde(rename_all = "camelCase")]
pub struct RuleExplanation<'p> {
    /// The rule.
    pub rule: RuleRef<'p>,
    /// False for `status: disabled`: the rest then shows what the rule would say.
    pub enabled: bool,
    /// The first filter field that the object fails; `None` when the rule matches.
    pub mismatch: Option<FilterField>,
    /// The rule's actions with their times, in document order; empty when the rule does not match.
    pub actions: Vec<ActionExplanation<'p>>,
}

/// What one action of a matching rule says about one object.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
#[serde(rename_all = "camelCase")]
pub struct ActionExplanation<'p> {
    /// Transition or expiration.
    pub decision: Decision<'p>,
    /// What makes it happen.
    pub trigger: Trigger,
    /// Where it stands.
    pub state: ActionState,
}

/// What makes an action happen.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize)]
#[serde(rename_all = "camelCase", tag = "kind")]
pub enum Trigger {
    /// An age.
    Age {
        /// Milliseconds.
        after: Millis,
        /// From when it counts.
        since: Since,
        /// The time at which it is due, in milliseconds since the epoch; `None` when that is beyond all time.
        at: Option<Millis>,
    },
    /// A fill level of the hot disk.
    Fill {
        /// Percent.
        percent: u8,
    },
}

/// Where an action stands.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, Serialize)]
#[serde(rename_all = "camelCase")]
pub enum ActionState {
    /// Due, and the one that decides.
    Decides,
    /// Due, but an action that comes before it in the order of precedence decides.
    Overruled,
    /// Would be due, but the rule is disabled.
    Disabled,
    /// In the future.
    Waiting,
    /// The object is in this tier or a colder one already (or in a tier outside the chain). For a fill level also: a tier has
    /// it as well, so that it leaves the hot disk without a move.
    Done,
    /// Waits for the hot disk to fill.
    WaitsForFill,
    /// About other versions than this one, or this one is among the newer ones that are spared.
    OtherVersions,
}

impl Policy {
    /// What every rule says about an object, in document order. The action marked [`ActionState::Decides`] is the one
    /// that [`Policy::evaluate`] answers with.
    pub fn explain(&self, facts: &ObjectFacts<'_>, now: Millis) -> Vec<RuleExplanation<'_>> {
        let verdict = self.evaluate(facts, now);
        let mut undecided = verdict.rule.is_some();
        let standing = self.standing(facts);
        let mut explanations = Vec::with_capacity(self.rules.len());
        for (index, rule) in self.rules.iter().enumerate() {
            let mismatch = rule.filter.mismatch(facts);
            let mut actions = Vec::new();
            if mismatch.is_none() {
                let decides_here = rule.enabled && verdict.rule.is_some_and(|r| r.index == index);
                // Within a rule the earliest of the actions to the winning goal decides.
                let decisive = rule
                    .timers
                    .iter()
                    .filter(|t| decides_here && self.decision(t.goal) == verdict.decision)
                    .filter_map(|t| t.due_at(facts))
                    .min();
                for timer in &rule.timers {
                    let at = timer.due_at(facts);
                    let decision = self.decision(timer.goal);
                    let state = if !timer.is_about(facts.version) {
                        ActionState::OtherVersions
                    } else if !standing.leads_on(timer.goal) {
                        ActionState::Done
                    } else if at.is_none_or(|at| at > now) {
                        ActionState::Waiting
                    } else if !rule.enabled {
                        ActionState::Disabled
                    } else if undecided && decision == verdict.decision && at == decisive {
                        undecided = false;
                        ActionState::Decides
                    } else {
                        ActionState::Overruled
                    };
                    let trigger = Trigger::Age { after: timer.after, since: timer.since, at };
                    actions.push(ActionExplanation { decision, trigger, state });
                }
                for fill in &rule.fills {
                    let waits = facts.current_tier.is_none() && facts.protected_in.is_none();
                    let state = if facts.is_marker() {
                        ActionState::OtherVersions
                    } else if waits {
                        ActionState::WaitsForFill
                    } else {
                        ActionState::Done
                    };
                    let decision = self.decision(Goal::Tier(fill.tier));
                    actions.push(ActionExplanation {
                        decision,
                        trigger: Trigger::Fill { percent: fill.percent },
                        state,
                    });
                }
            }
            explanations.push(RuleExplanation { rule: self.rule_ref(index), enabled: rule.enabled, mismatch, actions });
        }
        explanations
    }

    pub(crate) fn decision(&self, goal: Goal) -> Decision<'_> {
        match goal {
            Goal::Tier(tier) => Decision::Transition { tier: self.tier_name(tier) },
            Goal::Expire => Decision::Expire,
        }
    }
}
