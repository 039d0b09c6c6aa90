//! The versions of a key: how writes change them, what rules may do to them, and whether what is found is what may be there.

use super::model::{Held, is_expired};
use std::time::Duration;
use tidegate_tiering::clock::Timestamp;
use tidegate_tiering::engine::{BucketSettings, LIFECYCLE_SETTING, VersionId, VersionRef, Versioning};

const DAY: Duration = Duration::from_secs(86_400);

/// A version, or a delete marker.
#[derive(Debug, Clone)]
pub struct Version {
    /// None until it is known.
    pub id: Option<VersionId>,
    pub null: bool,
    /// None: a delete marker.
    pub object: Held,
    pub modified: Timestamp,
    /// When something came on top of it, at the latest.
    pub since: Option<Timestamp>,
    /// A rule may have taken it away since the last comparison.
    pub may_go: bool,
    /// Its bytes were on a disk that was lost: a read may say so.
    pub lost: bool,
}

impl Version {
    pub fn new(object: Held, modified: Timestamp) -> Version {
        Version { id: None, null: true, object, modified, since: None, may_go: false, lost: false }
    }

    /// As clients name it.
    pub fn named(&self) -> VersionRef {
        match self.id {
            _ if self.null => VersionRef::Null,
            Some(id) => VersionRef::Id(id),
            None => VersionRef::Current,
        }
    }
}

/// All versions of a key, the newest first.
pub type Stack = Vec<Version>;

/// Puts a version on top.
pub fn written(mut stack: Stack, versioning: Versioning, mut new: Version) -> Stack {
    new.null = versioning != Versioning::Enabled;
    match versioning {
        Versioning::Off => stack.clear(),
        Versioning::Enabled => {}
        Versioning::Suspended => stack.retain(|version| !version.null),
    }
    if let Some(top) = stack.first_mut() {
        top.since.get_or_insert(new.modified);
    }
    stack.insert(0, new);
    stack
}

/// Makes the key look deleted.
pub fn deleted(mut stack: Stack, versioning: Versioning, now: Timestamp) -> Stack {
    if versioning == Versioning::Off {
        stack.clear();
        return stack;
    }
    written(stack, versioning, Version::new(None, now))
}

/// Takes one out.
pub fn removed(mut stack: Stack, place: usize) -> Stack {
    stack.remove(place);
    if let Some(top) = stack.first_mut() {
        top.since = None;
    }
    stack
}

/// A lifecycle of the bucket: days, and how many newer versions are spared.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Lifecycle {
    pub ends: Option<(u32, u32)>,
    pub moves: Option<(u32, u32)>,
    /// Whether delete markers end that are alone.
    pub markers: bool,
}

/// What stories choose from.
pub const LIFECYCLES: [Option<Lifecycle>; 6] = [
    None,
    Some(Lifecycle { ends: Some((5, 0)), moves: None, markers: true }),
    Some(Lifecycle { ends: Some((3, 2)), moves: None, markers: false }),
    Some(Lifecycle { ends: Some((30, 1)), moves: Some((2, 0)), markers: true }),
    Some(Lifecycle { ends: None, moves: Some((3, 1)), markers: false }),
    Some(Lifecycle { ends: None, moves: None, markers: true }),
];

impl Lifecycle {
    fn document(&self) -> String {
        let noncurrent = |(days, newer)| format!(r#"{{"days":{days},"newer":{newer}}}"#);
        let mut rule = r#""id":"versions","enabled":true,"filter":{"one":{}}"#.to_owned();
        if self.markers {
            rule += r#","expiration":{"deleteMarker":true}"#;
        }
        if let Some(moves) = self.moves {
            rule += &format!(r#","noncurrent_transitions":[["GLACIER",{}]]"#, noncurrent(moves));
        }
        if let Some(ends) = self.ends {
            rule += &format!(r#","noncurrent_expiration":{}"#, noncurrent(ends));
        }
        format!(r#"{{"rules":[{{{rule}}}]}}"#)
    }
}

/// What is set for the bucket.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct Settings {
    pub versioning: Versioning,
    pub lifecycle: Option<Lifecycle>,
}

impl Settings {
    pub fn set(&self, settings: &mut BucketSettings) {
        settings.versioning = self.versioning;
        settings.config.remove(LIFECYCLE_SETTING);
        if let Some(lifecycle) = self.lifecycle {
            settings.config.insert(LIFECYCLE_SETTING.to_owned(), lifecycle.document().into_bytes());
        }
    }

    pub fn are(&self, found: &BucketSettings) -> bool {
        let mut wanted = found.clone();
        self.set(&mut wanted);
        wanted == *found
    }
}

/// What the rules say of the versions of a key now.
#[derive(Debug, Clone, Copy)]
pub struct Judge<'a> {
    pub key: &'a str,
    pub settings: Settings,
    pub now: Timestamp,
}

impl Judge<'_> {
    /// Whether the policy ends the object, once somebody looks, if it is the latest.
    pub fn ended(&self, version: &Version) -> bool {
        version.object.as_ref().is_some_and(|object| is_expired(self.key, object.created, self.now))
    }

    fn lifecycle(&self) -> Option<Lifecycle> {
        self.settings.lifecycle
    }

    fn marker_ends(&self, marker: &Version) -> bool {
        marker.object.is_none()
            && (self.lifecycle().is_some_and(|l| l.markers) || is_expired(self.key, marker.modified, self.now))
    }

    /// Whether a rule may have taken a version away.
    pub fn may_go(&self, stack: &[Version], place: usize) -> bool {
        let version = &stack[place];
        if version.may_go || (self.settings.versioning == Versioning::Off && place == 0) {
            return version.may_go || self.ended(version);
        }
        // The policy may have put a marker on top of it that nobody has seen yet, and that is `null` without versions.
        let ended = version.object.as_ref().filter(|_| self.ended(version)).map(|o| o.created.plus(DAY * 60));
        let since = if place == 0 { ended } else { version.since.into_iter().chain(ended).min() };
        let newer = (place > 0).then(|| place - 1 + stack[..=place].iter().filter(|v| self.ended(v)).count());
        let ends = since.zip(self.lifecycle().and_then(|l| l.ends)).is_some_and(|(since, (days, spared))| {
            since.plus(DAY * days) <= self.now && newer.unwrap_or(0) >= spared as usize
        });
        let replaced = self.settings.versioning == Versioning::Suspended && version.null && self.ended(&stack[0]);
        let alone = place == 0 && self.marker_ends(version) && (1..stack.len()).all(|n| self.may_go(stack, n));
        ends || replaced || alone
    }

    /// The same versions, with what rules may have taken away of them.
    pub fn noted(&self, mut stack: Stack) -> Stack {
        let go: Vec<bool> = (0..stack.len()).map(|place| self.may_go(&stack, place)).collect();
        stack.iter_mut().zip(go).for_each(|(version, go)| version.may_go = go);
        stack
    }

    fn noncurrent_for(&self, stack: &[Version], place: usize, (days, spared): (u32, u32)) -> bool {
        let Some(since) = stack[place].since.filter(|_| place > 0) else { return false };
        // To the next midnight.
        let at = since.plus(DAY * days).millis().div_ceil(DAY.as_millis() as u64) * DAY.as_millis() as u64;
        at <= self.now.millis() && place > spared as usize
    }

    /// Whether a rule must have taken a version away once all that was due is done.
    pub fn overdue(&self, stack: &[Version], place: usize) -> bool {
        let (version, ends) = (&stack[place], self.lifecycle().and_then(|l| l.ends));
        (place == 0 && self.ended(version))
            || (stack.len() == 1 && self.marker_ends(version))
            || ends.is_some_and(|ends| self.noncurrent_for(stack, place, ends))
    }

    /// Whether a version must have been moved.
    pub fn must_be_cold(&self, stack: &[Version], place: usize) -> bool {
        let moves = self.lifecycle().and_then(|l| l.moves);
        stack[place].object.is_some() && moves.is_some_and(|moves| self.noncurrent_for(stack, place, moves))
    }

    /// What is found, if it is what `stack` may have become. `is` tells whether something found is a version.
    pub fn adopt<F>(&self, stack: &[Version], found: &[F], is: impl Fn(&F, &Version) -> bool) -> Option<Stack>
    where
        F: Shown,
    {
        let mut adopted = Stack::new();
        let mut rest = found.iter().peekable();
        for (place, version) in stack.iter().enumerate() {
            let by_policy = |found: &F| found.shown().object.is_none() && !is(found, version);
            if self.ended(version)
                && let Some(marker) = rest.next_if(|found| by_policy(found))
            {
                adopted.push(marker.shown());
            }
            match rest.next_if(|found| is(found, version)) {
                Some(found) => adopted.push(Version { id: found.shown().id, may_go: false, ..version.clone() }),
                None if self.may_go(stack, place) => {}
                None => return None,
            }
        }
        if rest.next().is_some() {
            return None;
        }
        let mut above = None;
        for version in &mut adopted {
            version.since = above.map(|above| version.since.unwrap_or(above));
            above = Some(version.modified);
        }
        Some(adopted)
    }
}

/// Something that was found.
pub trait Shown {
    /// As far as it tells of itself: an object without what it holds.
    fn shown(&self) -> Version;
}
