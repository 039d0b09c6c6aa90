//! Names below a tier's prefix. All numbers have leading zeros, so that a listing is in order; none is ever used twice.

/// Everything of all deployments.
pub(crate) const ROOT: &str = "meta/";

/// The claims of a deployment.
pub(crate) fn terms(deployment: &str) -> String {
    format!("{ROOT}{deployment}/terms/")
}

/// One claim.
pub(crate) fn term(deployment: &str, term: u64) -> String {
    format!("{}{term:08}", terms(deployment))
}

/// The journal of a deployment.
pub(crate) fn journal(deployment: &str) -> String {
    format!("{ROOT}{deployment}/journal/")
}

/// The snapshots of a deployment.
pub(crate) fn snapshots(deployment: &str) -> String {
    format!("{ROOT}{deployment}/snapshots/")
}

/// A shipped piece of journal.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub(crate) struct PieceName {
    /// The term that it was shipped in.
    pub term: u64,
    pub first: u64,
    pub last: u64,
    /// When the last record was written.
    pub last_ms: u64,
}

impl PieceName {
    pub(crate) fn to_name(self, deployment: &str) -> String {
        let Self { term, first, last, last_ms } = self;
        format!("{}{term:08}/{first:020}-{last:020}-{last_ms:013}.seg", journal(deployment))
    }

    pub(crate) fn parse(deployment: &str, name: &str) -> Option<Self> {
        let (term, rest) = name.strip_prefix(&journal(deployment))?.split_once('/')?;
        let [first, last, last_ms] = numbers(rest.strip_suffix(".seg")?)?;
        (first <= last).then_some(Self { term: term.parse().ok()?, first, last, last_ms })
    }
}

/// A shipped snapshot. It lies there in parts.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub(crate) struct SnapshotName {
    /// Every record up to this one is in it.
    pub start: u64,
    /// Later ones may be, up to this one: without them it is worth nothing.
    pub end: u64,
    pub created_ms: u64,
    pub term: u64,
}

impl SnapshotName {
    pub(crate) fn part(self, deployment: &str, part: u64, parts: u64) -> String {
        let Self { start, end, created_ms, term } = self;
        let folder = format!("{}{term:08}/{start:020}-{end:020}-{created_ms:013}", snapshots(deployment));
        format!("{folder}/{part:05}-of-{parts:05}.snap")
    }

    /// The snapshot, the number of the part and how many there are.
    pub(crate) fn parse(deployment: &str, name: &str) -> Option<(Self, u64, u64)> {
        let rest = name.strip_prefix(&snapshots(deployment))?;
        let (term, rest) = rest.split_once('/')?;
        let (numbers_of, part) = rest.split_once('/')?;
        let [start, end, created_ms] = numbers(numbers_of)?;
        let (part, parts) = part.strip_suffix(".snap")?.split_once("-of-")?;
        let (part, parts): (u64, u64) = (part.parse().ok()?, parts.parse().ok()?);
        let name = Self { start, end, created_ms, term: term.parse().ok()? };
        (start <= end && (1..=parts).contains(&part)).then_some((name, part, parts))
    }
}

fn numbers(text: &str) -> Option<[u64; 3]> {
    let mut parts = text.split('-').map(|n| n.parse::<u64>().ok());
    let found = [parts.next()??, parts.next()??, parts.next()??];
    parts.next().is_none().then_some(found)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn names_are_as_written_down_and_come_apart_again() {
        let piece = PieceName { term: 3, first: 7, last: 42, last_ms: 1_700_000_000_000 };
        let name = piece.to_name("d1");
        assert_eq!(name, "meta/d1/journal/00000003/00000000000000000007-00000000000000000042-1700000000000.seg");
        assert_eq!(PieceName::parse("d1", &name), Some(piece));
        let snapshot = SnapshotName { start: 5, end: 9, created_ms: 1_700_000_000_000, term: 3 };
        let name = snapshot.part("d1", 1, 2);
        let folder = "00000000000000000005-00000000000000000009-1700000000000";
        assert_eq!(name, format!("meta/d1/snapshots/00000003/{folder}/00001-of-00002.snap"));
        assert_eq!(SnapshotName::parse("d1", &name), Some((snapshot, 1, 2)));
        assert_eq!(term("d1", 12), "meta/d1/terms/00000012");
        for wrong in ["meta/d1/journal/3/7-6-1.seg", "meta/d1/journal/3/7.seg", "meta/d2/journal/3/7-8-1.seg"] {
            assert_eq!(PieceName::parse("d1", wrong), None, "{wrong}");
        }
    }
}
