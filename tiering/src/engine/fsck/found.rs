//! Findings as they come: counted all, named up to a bound.

use super::report::{Finding, FindingKind, FsckReport, FsckTotal, Repair};
use crate::clock::Timestamp;
use std::collections::BTreeMap;

/// Findings of one kind at one place that are named.
pub(super) const MAX_NAMED: usize = 1_000;

/// Things of one kind that one run repairs.
pub(super) const MAX_REPAIRS: usize = 10_000;

type Place = (Option<String>, FindingKind);

/// See the module. In memory: some 300 bytes for each that is named, at most [`MAX_NAMED`] times the kinds and tiers.
#[derive(Debug, Default)]
pub(super) struct Found {
    named: BTreeMap<Place, Vec<Finding>>,
    totals: BTreeMap<Place, FsckTotal>,
}

impl Finding {
    pub(super) fn new(kind: FindingKind, what: impl Into<String>, detail: impl Into<String>) -> Self {
        let (what, detail) = (what.into(), detail.into());
        Finding { kind, tier: None, what, bytes: None, since: None, detail, repair: Repair::No }
    }

    pub(super) fn at(self, tier: &str) -> Self {
        Finding { tier: Some(tier.to_owned()), ..self }
    }

    pub(super) fn sized(self, bytes: u64) -> Self {
        Finding { bytes: Some(bytes), ..self }
    }

    pub(super) fn since(self, at: Timestamp) -> Self {
        Finding { since: Some(at), ..self }
    }

    pub(super) fn possible(self) -> Self {
        Finding { repair: Repair::Possible, ..self }
    }
}

impl Found {
    pub fn add(&mut self, finding: Finding) {
        let place = (finding.tier.clone(), finding.kind);
        let (kind, tier) = (finding.kind, finding.tier.clone());
        let total =
            self.totals.entry(place.clone()).or_insert(FsckTotal { kind, tier, count: 0, bytes: 0, repaired: 0 });
        total.count += 1;
        total.bytes = total.bytes.saturating_add(finding.bytes.unwrap_or(0));
        let named = self.named.entry(place).or_default();
        if named.len() < MAX_NAMED {
            named.push(finding);
        }
    }

    /// So many more of a kind, which are not named.
    pub fn add_unnamed(&mut self, kind: FindingKind, count: u64) {
        if count > 0 {
            let empty = FsckTotal { kind, tier: None, count: 0, bytes: 0, repaired: 0 };
            self.totals.entry((None, kind)).or_insert(empty).count += count;
        }
    }

    pub fn has(&self, kind: FindingKind) -> bool {
        self.totals.keys().any(|(_, of)| *of == kind)
    }

    /// Notes what became of a repair.
    pub fn repaired(&mut self, (tier, kind): (Option<&str>, FindingKind), what: &str, repair: Repair) {
        let place = (tier.map(str::to_owned), kind);
        if let Some(total) = self.totals.get_mut(&place) {
            total.repaired += u64::from(repair == Repair::Done);
        }
        let named = self.named.get_mut(&place).into_iter().flatten();
        named.filter(|f| f.what == what).for_each(|f| f.repair = repair);
    }

    /// Says of everything of a kind in a tier why it is left.
    pub fn leave(&mut self, tier: &str, kind: FindingKind, why: &str) {
        let named = self.named.get_mut(&(Some(tier.to_owned()), kind)).into_iter().flatten();
        for finding in named.filter(|f| f.repair == Repair::Possible) {
            finding.repair = Repair::No;
            finding.detail = format!("{}; left: {why}", finding.detail);
        }
    }

    pub fn end(self, report: &mut FsckReport) {
        report.totals = self.totals.into_values().collect();
        report.findings = self.named.into_values().flatten().collect();
        report.remaining = report.totals.iter().map(|t| t.count.saturating_sub(t.repaired)).sum();
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn all_are_counted_the_first_are_named_and_repairs_are_taken_off() {
        let mut found = Found::default();
        for n in 0..MAX_NAMED + 5 {
            found.add(Finding::new(FindingKind::OrphanPack, format!("p{n}"), "").at("ia").sized(2).possible());
        }
        found.repaired((Some("ia"), FindingKind::OrphanPack), "p3", Repair::Done);
        found.leave("ia", FindingKind::OrphanPack, "because");
        found.add_unnamed(FindingKind::LostChunks, 2);
        let mut report = FsckReport::default();
        found.end(&mut report);
        assert_eq!(report.findings.len(), MAX_NAMED);
        assert_eq!((report.findings[3].repair, report.findings[4].repair), (Repair::Done, Repair::No));
        assert!(report.findings[4].detail.ends_with("left: because"));
        let orphans = report.totals.iter().find(|t| t.kind == FindingKind::OrphanPack).unwrap();
        assert_eq!((orphans.count, orphans.bytes, orphans.repaired), (1_005, 2_010, 1));
        assert_eq!(report.remaining, 1_006);
    }
}
