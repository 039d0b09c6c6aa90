//! What of the shipped journal and snapshots makes a namespace. Works on names alone.
//!
//! Pieces of journal overlap where a store was recovered to an earlier moment, or where the one that was replaced wrote on
//! for a moment: what a later term shipped counts, and of earlier terms only what is before its first record.

use super::names::{self, PieceName, SnapshotName};
use super::{RecoveryError, list};
use crate::clock::Timestamp;
use crate::mutants::{self, Mutant};
use crate::tier::Tier;
use std::collections::BTreeMap;

/// Moments that are looked at for one that can be had.
const TRIED: usize = 100;

/// Up to where.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Moment {
    /// Everything.
    Latest,
    /// What had been written at this time.
    At(Timestamp),
    /// This record, as an earlier plan found.
    Record(u64),
}

/// A piece of journal and the part of it that counts.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Part {
    pub name: String,
    pub size: u64,
    pub piece: PieceName,
    pub from: u64,
    pub to: u64,
}

/// A shipped snapshot with all its parts.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct WholeSnapshot {
    pub name: SnapshotName,
    /// Name and size of each part, in order.
    pub parts: Vec<(String, u64)>,
}

/// What to fetch.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Plan {
    pub(crate) snapshot: Option<WholeSnapshot>,
    pub(crate) parts: Vec<Part>,
    /// The last record that will be there, unless the time cuts earlier.
    pub last_seq: u64,
    /// When it was written, at the latest.
    pub last_ms: u64,
}

impl Plan {
    /// Objects to fetch.
    pub fn objects(&self) -> u64 {
        (self.parts.len() + self.snapshot.as_ref().map_or(0, |s| s.parts.len())) as u64
    }

    /// Their bytes.
    pub fn bytes(&self) -> u64 {
        let snapshot = self.snapshot.iter().flat_map(|s| &s.parts).map(|(_, size)| size);
        self.parts.iter().map(|p| p.size).chain(snapshot.copied()).sum()
    }

    /// The record that the first piece begins with.
    pub(crate) fn first_seq(&self) -> u64 {
        self.snapshot.as_ref().map_or(1, |s| s.name.start.saturating_add(1))
    }
}

/// What is in the cloud.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub(crate) struct Shipped {
    pub pieces: Vec<(PieceName, String, u64)>,
    pub snapshots: Vec<WholeSnapshot>,
}

impl Shipped {
    pub(crate) async fn read(tier: &dyn Tier, deployment: &str) -> Result<Shipped, RecoveryError> {
        let pieces = list(tier, &names::journal(deployment), None).await?;
        let pieces = pieces
            .into_iter()
            .filter_map(|(name, size)| PieceName::parse(deployment, &name).map(|piece| (piece, name, size)));
        let snapshots = read_snapshots(tier, deployment).await?;
        Ok(Shipped { pieces: pieces.collect(), snapshots })
    }

    /// The last record that counts of each term that shipped any.
    fn ends(&self) -> BTreeMap<u64, u64> {
        let mut firsts: BTreeMap<u64, u64> = BTreeMap::new();
        for (piece, _, _) in &self.pieces {
            let first = firsts.entry(piece.term).or_insert(piece.first);
            *first = (*first).min(piece.first);
        }
        let mut next = u64::MAX;
        let mut ends = BTreeMap::new();
        for (term, first) in firsts.into_iter().rev() {
            let end = if mutants::active(Mutant::RecoverDeadBranch) { u64::MAX } else { next.saturating_sub(1) };
            ends.insert(term, end);
            next = next.min(first);
        }
        ends
    }

    /// The parts of the journal that count, in runs without a gap.
    pub(crate) fn runs(&self) -> Vec<Vec<Part>> {
        let ends = self.ends();
        let mut parts: Vec<Part> = self
            .pieces
            .iter()
            .map(|(piece, name, size)| {
                let to = piece.last.min(ends.get(&piece.term).copied().unwrap_or(u64::MAX));
                Part { name: name.clone(), size: *size, piece: *piece, from: piece.first, to }
            })
            .filter(|part| part.from <= part.to)
            .collect();
        parts.sort_by_key(|part| (part.from, part.to));
        let mut runs: Vec<Vec<Part>> = Vec::new();
        for mut part in parts {
            match runs.last_mut().and_then(|run| run.last().map(|l| l.to).map(|end| (run, end))) {
                Some((_, end)) if part.to <= end => {}
                Some((run, end)) if part.from <= end.saturating_add(1) => {
                    part.from = end.saturating_add(1);
                    run.push(part);
                }
                _ => runs.push(vec![part]),
            }
        }
        runs
    }

    /// What to fetch for a moment; the error says which moments there are.
    pub(crate) fn plan(&self, moment: Moment) -> Result<Plan, RecoveryError> {
        let mut runs = self.runs();
        for run in &mut runs {
            // The piece in which the time lies is cut when it is there.
            let keep = match moment {
                Moment::Latest => run.len(),
                Moment::At(at) => run.iter().position(|p| p.piece.last_ms > at.millis()).map_or(run.len(), |n| n + 1),
                Moment::Record(last) => run.iter().take_while(|p| p.from <= last).count(),
            };
            run.truncate(keep);
            if mutants::active(Mutant::RecoverWithoutLast) && run.len() > 1 {
                run.pop();
            }
            if let (Moment::Record(last), Some(end)) = (moment, run.last_mut()) {
                end.to = end.to.min(last);
            }
        }
        let whole = self.snapshots.iter().filter(|s| self.counts(s)).map(Some).chain([None]);
        let best = whole
            .filter_map(|snapshot| candidate(snapshot, &runs, moment))
            .max_by_key(|plan| (plan.last_seq, plan.snapshot.as_ref().map(|s| s.name.start)));
        best.ok_or_else(|| RecoveryError::Refused(self.nothing(moment)))
    }

    /// Whether a snapshot is of the history that counts: no later term begins before its end. That need not be the next one: a store
    /// that was recovered to an earlier moment begins before terms that come between.
    pub(crate) fn counts(&self, snapshot: &WholeSnapshot) -> bool {
        let later = self.pieces.iter().filter(|(piece, _, _)| piece.term > snapshot.name.term);
        later.map(|(piece, _, _)| piece.first).min().is_none_or(|first| snapshot.name.end < first)
    }

    /// Whether a snapshot is enough for every moment since then, so that what is before it can go. Its age does not say so: its last
    /// record may be in a piece that was shipped much later and is cut by a moment, and then nobody knows from names whether it fits.
    pub(crate) fn serves_since(&self, snapshot: &WholeSnapshot, since: Timestamp) -> bool {
        let runs = self.runs();
        let mut parts = runs.iter().flatten();
        parts.any(|p| p.to >= snapshot.name.end.max(snapshot.name.start) && p.piece.last_ms <= since.millis())
    }

    /// The latest moment that can be had without an object that is damaged. Snapshots apart, only what is before it can.
    pub(crate) fn latest_without(&self, name: &str) -> Option<Timestamp> {
        let of_plan = |plan: &Plan| {
            let snapshot = plan.snapshot.iter().flat_map(|s| &s.parts).any(|(part, _)| part == name);
            snapshot || plan.parts.iter().any(|part| part.name == name)
        };
        let damaged = self.pieces.iter().find(|(_, other, _)| other == name).map_or(u64::MAX, |(p, _, _)| p.first);
        let before = self.pieces.iter().filter(|(p, _, _)| p.last < damaged).map(|(p, _, _)| p.last_ms);
        let made = self.snapshots.iter().map(|s| s.name.created_ms);
        // The piece that a moment cuts is needed as well: so the moment may have to be one before the end of another.
        let mut moments: Vec<u64> = before.chain(made).flat_map(|ms| [ms, ms.saturating_sub(1)]).collect();
        moments.sort_unstable_by(|a, b| b.cmp(a));
        moments.dedup();
        let mut moments = moments.into_iter().take(TRIED).map(Timestamp);
        moments.find(|at| self.plan(Moment::At(*at)).is_ok_and(|plan| !of_plan(&plan)))
    }

    /// Why there is nothing for a moment.
    pub(crate) fn nothing(&self, moment: Moment) -> String {
        let earliest = self.snapshots.iter().map(|s| s.name.created_ms).min();
        let from_start = self.pieces.iter().filter(|(p, _, _)| p.first == 1).map(|(p, _, _)| p.last_ms).min();
        match (moment, from_start.or(earliest)) {
            (Moment::At(at), Some(earliest)) => {
                format!("what is there does not cover {at}; the earliest moment is about {}", Timestamp(earliest))
            }
            _ => {
                "nothing that is there makes a namespace: no snapshot is whole, and the journal does not begin at its \
                  first record; with --from-packs, packs alone give back what had been moved to a tier"
                    .to_owned()
            }
        }
    }
}

pub(crate) async fn read_snapshots(tier: &dyn Tier, deployment: &str) -> Result<Vec<WholeSnapshot>, RecoveryError> {
    let mut found: BTreeMap<SnapshotName, (u64, Vec<(String, u64)>)> = BTreeMap::new();
    for (name, size) in list(tier, &names::snapshots(deployment), None).await? {
        if let Some((snapshot, _, parts)) = SnapshotName::parse(deployment, &name) {
            found.entry(snapshot).or_insert((parts, Vec::new())).1.push((name, size));
        }
    }
    let whole = found.into_iter().filter(|(_, (parts, names))| *parts == names.len() as u64);
    Ok(whole.map(|(name, (_, parts))| WholeSnapshot { name, parts }).collect())
}

/// The plan that begins with this snapshot, or with the first record.
fn candidate(snapshot: Option<&WholeSnapshot>, runs: &[Vec<Part>], moment: Moment) -> Option<Plan> {
    let (start, end, created) = snapshot.map_or((0, 1, 0), |s| (s.name.start, s.name.end, s.name.created_ms));
    let first = start.saturating_add(1);
    let has =
        |run: &&Vec<Part>| run.first().is_some_and(|p| p.from <= first) && run.last().is_some_and(|p| p.to >= first);
    let Some(run) = runs.iter().find(has) else {
        // Nothing was written after it.
        let alone = snapshot.filter(|_| {
            end == start
                && match moment {
                    Moment::Latest => true,
                    Moment::At(at) => created <= at.millis(),
                    Moment::Record(last) => start <= last,
                }
        })?;
        return Some(Plan { snapshot: Some(alone.clone()), parts: Vec::new(), last_seq: start, last_ms: created });
    };
    let mut parts: Vec<Part> = run.iter().filter(|p| p.to >= first).cloned().collect();
    if let Some(part) = parts.first_mut() {
        part.from = first;
    }
    let last = run.last()?;
    let (last_seq, last_ms) = (last.to, last.piece.last_ms);
    // The snapshot is exact only with all that it may hold; in the piece that the time cuts nothing is sure.
    let sure = match moment {
        // No piece tells when the records before the only one were written, but the snapshot does.
        Moment::At(at) if last_ms > at.millis() && run.len() == 1 && created > at.millis() => 0,
        Moment::At(at) if last_ms > at.millis() => last.from.saturating_sub(1),
        _ => last_seq,
    };
    let fits = end.max(start) <= sure || (snapshot.is_none() && last_seq >= 1);
    fits.then(|| Plan { snapshot: snapshot.cloned(), parts, last_seq, last_ms })
}

#[cfg(test)]
mod tests {
    use super::*;

    fn piece(term: u64, first: u64, last: u64) -> (PieceName, String, u64) {
        let piece = PieceName { term, first, last, last_ms: last * 10 };
        (piece, piece.to_name("d"), 100)
    }

    fn snapshot(term: u64, start: u64, end: u64) -> WholeSnapshot {
        let name = SnapshotName { start, end, created_ms: start * 10, term };
        WholeSnapshot { name, parts: vec![(name.part("d", 1, 1), 1000)] }
    }

    fn spans(plan: &Plan) -> Vec<(u64, u64, u64)> {
        plan.parts.iter().map(|p| (p.piece.term, p.from, p.to)).collect()
    }

    #[test]
    fn the_newest_snapshot_that_reaches_the_end_is_taken() {
        let shipped = Shipped {
            pieces: vec![piece(1, 1, 5), piece(1, 6, 9), piece(1, 10, 12)],
            snapshots: vec![snapshot(1, 4, 6), snapshot(1, 8, 11), snapshot(1, 11, 14)],
        };
        let plan = shipped.plan(Moment::Latest).unwrap();
        assert_eq!(plan.snapshot.as_ref().map(|s| s.name.start), Some(8), "the last one may hold more than there is");
        assert_eq!(spans(&plan), [(1, 9, 9), (1, 10, 12)]);
        let plan = shipped.plan(Moment::At(Timestamp(85))).unwrap();
        assert_eq!(plan.snapshot, None, "one that begins within the piece that is cut may be too late");
        let plan = shipped.plan(Moment::At(Timestamp(105))).unwrap();
        assert_eq!(plan.snapshot.as_ref().map(|s| s.name.start), Some(4));
        assert_eq!(spans(&plan), [(1, 5, 5), (1, 6, 9), (1, 10, 12)], "the last one is cut when it is there");
        assert_eq!(shipped.plan(Moment::Record(7)).unwrap().last_seq, 7);
    }

    #[test]
    fn a_later_term_replaces_what_an_earlier_one_wrote_after_it_began() {
        let shipped = Shipped {
            pieces: vec![piece(1, 1, 5), piece(1, 6, 9), piece(2, 8, 8), piece(1, 10, 20), piece(3, 9, 30)],
            snapshots: vec![snapshot(1, 12, 13)],
        };
        let plan = shipped.plan(Moment::Latest).unwrap();
        assert_eq!(plan.snapshot, None, "its records are of a branch that ended");
        assert_eq!(spans(&plan), [(1, 1, 5), (1, 6, 7), (2, 8, 8), (3, 9, 30)]);
    }

    #[test]
    fn a_snapshot_of_a_branch_that_ended_does_not_count_whichever_later_term_ended_it() {
        // Terms 1 and 2 are one history up to record 19; term 4 begins after a recovery to record 13.
        let shipped = Shipped {
            pieces: vec![piece(1, 1, 18), piece(2, 19, 19), piece(4, 14, 26)],
            snapshots: vec![snapshot(1, 12, 12), snapshot(1, 18, 18)],
        };
        let plan = shipped.plan(Moment::Latest).unwrap();
        assert_eq!(plan.snapshot.as_ref().map(|s| s.name.start), Some(12));
        assert_eq!(spans(&plan), [(1, 13, 13), (4, 14, 26)]);
    }

    #[test]
    fn an_old_snapshot_whose_last_record_was_shipped_late_does_not_serve_yet() {
        // The snapshot was made at 50 with two records shipped; the rest of its records came with later ones.
        let mut shipped = Shipped {
            pieces: vec![piece(1, 1, 2), piece(1, 3, 20), piece(1, 21, 30)],
            snapshots: vec![snapshot(1, 5, 5)],
        };
        let within = Moment::At(Timestamp(150));
        assert!(!shipped.serves_since(&shipped.snapshots[0], Timestamp(140)));
        assert_eq!(shipped.plan(within).unwrap().snapshot, None, "so the first piece is needed");
        assert!(shipped.serves_since(&shipped.snapshots[0], Timestamp(200)));
        shipped.pieces.remove(0);
        assert!(shipped.plan(within).is_err());
        for at in 200..310 {
            assert!(shipped.plan(Moment::At(Timestamp(at))).is_ok(), "{at}");
        }
    }

    #[test]
    fn what_begins_with_a_snapshot_does_not_cover_what_was_before_it() {
        let shipped = Shipped { pieces: vec![piece(1, 4, 5), piece(1, 6, 9)], snapshots: vec![snapshot(1, 3, 3)] };
        for early in [0, 29] {
            assert!(
                shipped.plan(Moment::At(Timestamp(early))).unwrap_err().to_string().contains("earliest"),
                "{early}"
            );
        }
        let plan = shipped.plan(Moment::At(Timestamp(30))).unwrap();
        assert_eq!(spans(&plan), [(1, 4, 5)]);
        assert_eq!(shipped.plan(Moment::At(Timestamp(60))).unwrap().parts.len(), 2);
    }

    #[test]
    fn the_way_around_a_damaged_object_does_not_need_it() {
        let shipped = Shipped {
            pieces: vec![piece(1, 1, 5), piece(1, 6, 9), piece(1, 10, 12)],
            snapshots: vec![snapshot(1, 9, 9)],
        };
        let (_, last, _) = &shipped.pieces[2];
        let at = shipped.latest_without(last).unwrap();
        assert_eq!(at, Timestamp(89));
        assert!(shipped.plan(Moment::At(at)).unwrap().parts.iter().all(|part| part.name != *last));
        let (_, first, _) = &shipped.pieces[0];
        assert_eq!(shipped.latest_without(first), Some(Timestamp(90)), "of the snapshot");
        assert_eq!(shipped.latest_without(&shipped.snapshots[0].parts[0].0), Some(Timestamp(89)));
    }

    #[test]
    fn a_gap_is_bridged_by_a_snapshot_only() {
        let mut shipped = Shipped { pieces: vec![piece(1, 1, 5), piece(1, 50, 60)], snapshots: vec![] };
        assert_eq!(shipped.plan(Moment::Latest).unwrap().last_seq, 5);
        shipped.snapshots.push(snapshot(1, 49, 49));
        let plan = shipped.plan(Moment::Latest).unwrap();
        assert_eq!((plan.last_seq, spans(&plan)), (60, vec![(1, 50, 60)]));
        shipped.pieces.clear();
        assert_eq!(shipped.plan(Moment::Latest).unwrap().last_seq, 49, "nothing was written after it");
        assert!(shipped.plan(Moment::At(Timestamp(3))).unwrap_err().to_string().contains("earliest"));
        assert!(Shipped::default().plan(Moment::Latest).is_err());
    }
}
