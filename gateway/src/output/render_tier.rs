//! Reports about tiers as text for people.

use super::render::{finish, pairs};
use super::table;
use std::collections::BTreeMap;
use std::fmt::Write;
use tidegate_tiering::tier::oss::conformance::{ConformancePlan, ConformanceReport, ConformanceStep, Outcome};

/// What `tidegate tier conformance` says before it begins.
pub fn conformance_plan(plan: &ConformancePlan) -> String {
    format!(
        "tier {}: {} requests to bucket {}.\n\
         Written, and removed at the end: {} small objects below {}, among them one of class IA, one of class\n\
         Archive and one of class ColdArchive, which are billed for their minimum durations. Nothing else is touched; settings of the\n\
         bucket are only read. Cost: at most {} {} by list prices of {}.\n\n",
        plan.tier, plan.requests, plan.bucket, plan.objects, plan.prefix, plan.cost, plan.currency, plan.prices_as_of
    )
}

/// `tidegate tier conformance`: every step with its outcome, then both answers wherever they differ, then the sum.
pub fn conformance(report: &ConformanceReport) -> String {
    let mut steps = table(["step", "outcome", "request"]);
    for step in &report.steps {
        steps.add_row([step.step.as_str(), outcome(step.outcome), step.request.as_str()]);
    }
    let mut text = finish(steps, &[]);
    for step in report.steps.iter().filter(|step| step.outcome == Outcome::Different) {
        text += &details(step);
    }
    text += &not_asked(report);
    let mut facts: Vec<(&str, String)> =
        report.facts.iter().map(|(name, value)| (name.as_str(), value.clone())).collect();
    facts.push(("bucket", format!("{} at {}", report.bucket, report.host)));
    let mut removed = format!("{} objects, {} uploads", report.cleanup.deleted, report.cleanup.aborted);
    if report.cleanup.versions > 0 {
        let _ = write!(removed, ", {} versions", report.cleanup.versions);
    }
    facts.push(("removed", removed));
    text += &pairs(facts);
    for warning in &report.warnings {
        let _ = writeln!(text, "warning: {warning}");
    }
    for error in &report.cleanup.errors {
        let _ = writeln!(text, "not removed: {error}");
    }
    for key in &report.cleanup.left {
        let _ = writeln!(text, "left behind: {key}");
    }
    if let Some(error) = &report.error {
        let _ = writeln!(text, "the run ended before its end: {error}");
    }
    let _ = writeln!(text, "{} same, {} different, {} not asked", report.same, report.different, report.skipped);
    text
}

fn outcome(outcome: Outcome) -> &'static str {
    match outcome {
        Outcome::Same => "same",
        Outcome::Different => "DIFFERENT",
        Outcome::Skipped => "not asked",
    }
}

fn details(step: &ConformanceStep) -> String {
    let mut text = format!("{}: {}\n", step.step, step.request);
    for difference in &step.differences {
        let _ = writeln!(text, "  {}", difference.what);
        let _ = writeln!(text, "    simulator: {}", indented(&difference.simulator));
        let _ = writeln!(text, "    store:     {}", indented(&difference.store));
    }
    text.push('\n');
    text
}

/// One line for each reason.
fn not_asked(report: &ConformanceReport) -> String {
    let mut reasons: BTreeMap<&str, Vec<&str>> = BTreeMap::new();
    for step in report.steps.iter().filter(|step| step.outcome == Outcome::Skipped) {
        reasons.entry(step.why.as_str()).or_default().push(step.step.as_str());
    }
    reasons.iter().map(|(why, steps)| format!("not asked, because {why}: {}\n\n", steps.join(", "))).collect()
}

/// Documents have lines of their own.
fn indented(text: &str) -> String {
    if text.is_empty() { "(nothing)".to_owned() } else { text.replace('\n', "\n               ") }
}

#[cfg(test)]
mod tests {
    use super::*;
    use tidegate_tiering::tier::oss::conformance::{ConformanceCleanup, Difference};

    #[test]
    fn a_difference_shows_both_answers_and_what_is_left_is_told() {
        let step = |name: &str, outcome, differences| ConformanceStep {
            step: name.to_owned(),
            request: "PUT {prefix}x".to_owned(),
            outcome,
            differences,
            why: "no region".to_owned(),
        };
        let differences = vec![Difference { what: "status".into(), simulator: "400".into(), store: "501".into() }];
        let report = ConformanceReport {
            same: 1,
            different: 1,
            skipped: 1,
            steps: vec![
                step("put", Outcome::Same, Vec::new()),
                step("put-if-match", Outcome::Different, differences),
                step("wrong-region", Outcome::Skipped, Vec::new()),
            ],
            cleanup: ConformanceCleanup { left: vec!["p/x".into()], ..ConformanceCleanup::default() },
            ..ConformanceReport::default()
        };
        let text = conformance(&report);
        for part in [
            "simulator: 400",
            "store:     501",
            "not asked, because no region: wrong-region",
            "left behind: p/x",
            "1 same, 1 different, 1 not asked",
        ] {
            assert!(text.contains(part), "{part}: {text}");
        }
        assert!(!text.contains("put: PUT"), "what is the same needs no details: {text}");
    }
}
