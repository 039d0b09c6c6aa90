//! A document that was read field by field, before the checks across fields; every part knows its place.

use crate::Millis;
use crate::diagnostic::Place;
use crate::filter::{Filter, Pattern};
use crate::policy::{Abort, Fill, Layout, Policy, Protection, Rule, Tier, Timer};

/// A value and where it stands.
#[derive(Debug, Clone)]
pub(crate) struct At<T> {
    pub at: Place,
    pub value: T,
}

#[derive(Debug, Default)]
pub(crate) struct Draft {
    pub name: String,
    pub tiers: Vec<At<Tier>>,
    /// A tier could not be read: positions in `tiers` are not those of the document.
    pub tiers_broken: bool,
    pub protections: Vec<DraftProtection>,
    pub rules: Vec<DraftRule>,
}

#[derive(Debug)]
pub(crate) struct DraftProtection {
    /// Path, such as `protect[0]`.
    pub path: String,
    pub bucket: At<Pattern>,
    /// Position in the chain.
    pub tier: At<usize>,
    pub enabled: bool,
}

#[derive(Debug)]
pub(crate) struct DraftRule {
    /// Path, such as `rules[2]`.
    pub path: String,
    pub id: At<String>,
    pub enabled: bool,
    pub filter: Filter,
    pub max_size_at: Place,
    /// Transitions by age, then the expiration, then what is about noncurrent versions and delete markers; each with its
    /// path below the rule.
    pub timers: Vec<Action<Timer>>,
    pub fills: Vec<Action<Fill>>,
    pub abort_uploads: Option<Action<Millis>>,
    pub layout: At<Layout>,
    /// A part could not be read: findings that would only follow from its absence are left out.
    pub broken: bool,
}

/// An action of a rule with its place.
#[derive(Debug, Clone)]
pub(crate) struct Action<T> {
    /// Path, such as `rules[2].transitions[0]`.
    pub path: String,
    /// Place of the value that says when.
    pub at: Place,
    pub what: T,
}

impl Draft {
    /// The compiled policy. Only for drafts without errors.
    pub fn compile(self) -> Policy {
        let rule = |r: DraftRule| Rule {
            id: r.id.value,
            enabled: r.enabled,
            filter: r.filter,
            timers: r.timers.into_iter().map(|a| a.what).collect(),
            fills: r.fills.into_iter().map(|a| a.what).collect(),
            abort_uploads: r.abort_uploads.map(|a| Abort { after: a.what, midnight: false }),
            layout: r.layout.value,
            bucket: None,
        };
        Policy {
            name: self.name,
            tiers: self.tiers.into_iter().map(|t| t.value).collect(),
            protections: self
                .protections
                .into_iter()
                .map(|p| Protection { bucket: p.bucket.value, tier: p.tier.value, enabled: p.enabled })
                .collect(),
            rules: self.rules.into_iter().map(rule).collect(),
        }
    }
}
