//! What `tidegate fsck` says to people.

use super::render::finish;
use super::table;
use crate::config::units::{show_duration, show_size};
use std::fmt::Write;
use tidegate_tiering::engine::{FsckEstimate, FsckReport, Repair};

/// What a check costs.
pub fn fsck_estimate(estimate: &FsckEstimate) -> String {
    let mut text = String::new();
    for tier in &estimate.tiers {
        let price = match tier.cost {
            Some(cost) => format!("{cost:.6} {}", estimate.currency),
            None => "not billed by class".to_owned(),
        };
        let what = if tier.versions { "versions of objects" } else { "objects" };
        let _ = writeln!(
            text,
            "tier {}: {} packs on record, some {} requests that list {what}: {price}",
            tier.tier, tier.packs, tier.list_requests
        );
    }
    if !estimate.tiers.is_empty() {
        text += "(other deployments' objects below packs/ are listed, too: one request more for each thousand. What the listing lacks \
                 or has too much is asked for by name, at most 1000 times for each tier.)\n";
    }
    if estimate.objects > 0 {
        let _ = writeln!(text, "{} objects are walked", estimate.objects);
    }
    if text.is_empty() {
        text += "no tier is asked, and there are no objects\n";
    }
    text
}

/// What a check found.
pub fn fsck(report: &FsckReport) -> String {
    let mut text = String::new();
    if !report.findings.is_empty() {
        let mut findings = table(["finding", "place", "what", "size", "age", "repair", "detail"]);
        for found in &report.findings {
            let age = found.since.map(|at| show_duration(report.time.since(at)));
            findings.add_row([
                found.kind.name().to_owned(),
                found.tier.clone().unwrap_or_else(|| "local".to_owned()),
                found.what.clone(),
                found.bytes.map_or_else(|| "-".to_owned(), show_size),
                age.unwrap_or_else(|| "-".to_owned()),
                repair(found.repair).to_owned(),
                found.detail.clone(),
            ]);
        }
        text += &finish(findings, &[3, 4]);
    }
    if !report.tiers.is_empty() {
        let mut tiers = table(["tier", "live", "as written", "uploading", "doomed", "listed", "size", "foreign"]);
        for tier in &report.tiers {
            tiers.add_row([
                tier.tier.clone(),
                tier.live.to_string(),
                tier.matched.to_string(),
                tier.uploading.to_string(),
                tier.doomed.to_string(),
                tier.listed.to_string(),
                show_size(tier.listed_bytes),
                tier.foreign.to_string(),
            ]);
        }
        text += &finish(tiers, &[1, 2, 3, 4, 5, 6, 7]);
    }
    if !report.totals.is_empty() {
        let mut totals = table(["finding", "place", "found", "size", "repaired"]);
        for total in &report.totals {
            totals.add_row([
                total.kind.name().to_owned(),
                total.tier.clone().unwrap_or_else(|| "local".to_owned()),
                total.count.to_string(),
                show_size(total.bytes),
                total.repaired.to_string(),
            ]);
        }
        text += &finish(totals, &[2, 3, 4]);
    }
    for note in &report.notes {
        let _ = writeln!(text, "note: {note}");
    }
    let (records, packs, remaining) = (report.records, report.local_packs, report.remaining);
    let _ = match remaining {
        0 => writeln!(text, "{records} records, {packs} local packs: clean"),
        _ => writeln!(text, "{records} records, {packs} local packs: {remaining} findings remain"),
    };
    if !report.repair && report.findings.iter().any(|f| f.repair == Repair::Possible) {
        text += "tidegate fsck --repair acts on what says \"possible\"\n";
    }
    text
}

fn repair(repair: Repair) -> &'static str {
    match repair {
        Repair::No => "no",
        Repair::Possible => "possible",
        Repair::Done => "done",
        Repair::Begun => "begun",
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use tidegate_tiering::clock::Timestamp;
    use tidegate_tiering::engine::{Finding, FindingKind, FsckCost, FsckTotal};

    #[test]
    fn findings_are_listed_with_age_and_what_a_repair_does() {
        let finding = Finding {
            kind: FindingKind::OrphanPack,
            tier: Some("ia".into()),
            what: "packs/d/1/a.pack".into(),
            bytes: Some(2048),
            since: Some(Timestamp(0)),
            detail: "no record names it".into(),
            repair: Repair::Possible,
        };
        let total = FsckTotal { kind: FindingKind::OrphanPack, tier: None, count: 3, bytes: 2048, repaired: 1 };
        let report = FsckReport {
            time: Timestamp(2 * 86_400_000),
            findings: vec![finding],
            totals: vec![total],
            remaining: 2,
            ..FsckReport::default()
        };
        let text = fsck(&report);
        for part in ["orphan pack", "packs/d/1/a.pack", "2.00 KiB", "2d", "possible", "2 findings remain", "--repair"] {
            assert!(text.contains(part), "{part}: {text}");
        }
        assert!(fsck(&FsckReport::default()).ends_with("clean\n"));
    }

    #[test]
    fn an_estimate_has_requests_and_their_price() {
        let tier =
            FsckCost { tier: "ia".into(), packs: 2_500, list_requests: 3, cost: Some(0.000_03), ..FsckCost::default() };
        let text = fsck_estimate(&FsckEstimate { currency: "CNY".into(), tiers: vec![tier], ..Default::default() });
        assert!(text.contains("some 3 requests") && text.contains("0.000030 CNY"), "{text}");
    }
}
