//! Checks across fields and across rules, on a draft whose fields are fine by themselves.

mod cost;
mod protect;
mod reach;
mod rules;

use crate::diagnostic::{Sink, nearest};
use crate::parse::{At, CheckOptions, ConfiguredTier, Draft, DraftRule};
use crate::policy::Tier;

/// Runs all checks; the findings go to `sink`.
pub(crate) fn draft(draft: &Draft, options: &CheckOptions, sink: &mut Sink) {
    if !draft.tiers_broken {
        tiers(&draft.tiers, options.configured_tiers.as_deref(), sink);
    }
    protect::all(&draft.protections, &draft.tiers, sink);
    rules::ids(&draft.rules, sink);
    for (i, rule) in draft.rules.iter().enumerate() {
        // The sums of a rule that contradicts itself mean nothing.
        if rules::rule(rule, &draft.tiers, sink) {
            let covering: Vec<&DraftRule> = reach::covering(&draft.rules, i).map(|(_, rule)| rule).collect();
            cost::rule(rule, &covering, &draft.tiers, &options.prices, sink);
        }
    }
    reach::rules(&draft.rules, &draft.tiers, sink);
}

fn tiers(tiers: &[At<Tier>], configured: Option<&[ConfiguredTier]>, sink: &mut Sink) {
    for (i, tier) in tiers.iter().enumerate() {
        let path = format!("tiers[{i}]");
        let earlier = tiers.get(..i).unwrap_or_default();
        let name = &tier.value.name;
        if let Some(first) = earlier.iter().find(|t| t.value.name == *name) {
            let message = format!("the tier `{name}` is in the chain twice (first in line {})", first.at.line);
            sink.error(tier.at, &format!("{path}.name"), message, "keep one of the two");
        }
        // Warmest for a tier without a class: it is online and has no minimums.
        let coldness = |t: &Tier| t.class.unwrap_or(crate::Class::Standard);
        if let Some(colder) = earlier.iter().rev().find(|t| coldness(&t.value) > coldness(&tier.value)) {
            let of = |t: &Tier| t.class.map_or("no class, so online".to_owned(), |c| c.to_string());
            let message = format!(
                "the chain goes from hot to cold, but `{name}` ({}) is warmer than `{}` ({}) before it",
                of(&tier.value),
                colder.value.name,
                of(&colder.value)
            );
            sink.error(tier.at, &path, message, format!("put `{name}` before `{}`", colder.value.name));
        }
        if let Some(configured) = configured {
            against_configuration(tier, &path, configured, sink);
        }
    }
}

fn against_configuration(tier: &At<Tier>, path: &str, configured: &[ConfiguredTier], sink: &mut Sink) {
    let name = &tier.value.name;
    let Some(real) = configured.iter().find(|c| c.name == *name) else {
        let known = configured.iter().map(|c| c.name.as_str());
        let help = match nearest(name, known.clone()) {
            Some(meant) => format!("did you mean `{meant}`?"),
            None if configured.is_empty() => "add the tier to the gateway's configuration".to_owned(),
            None => format!(
                "add it to the gateway's configuration, or use one of: {}",
                known.collect::<Vec<_>>().join(", ")
            ),
        };
        let message = format!("the gateway's configuration has no tier `{name}`");
        sink.error(tier.at, &format!("{path}.name"), message, help);
        return;
    };
    if real.class != tier.value.class {
        let (message, help) = match (tier.value.class, real.class) {
            (_, Some(real)) => {
                (format!("the gateway's configuration says that `{name}` is {real}"), format!("write `class: {real}`"))
            }
            (_, None) => (
                format!("in the gateway's configuration `{name}` has no class"),
                "remove `class`, or give the tier a class in the configuration".to_owned(),
            ),
        };
        sink.error(tier.at, &format!("{path}.class"), message, help);
    }
}
