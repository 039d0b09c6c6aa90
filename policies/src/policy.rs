//! The compiled policy: what the engine asks.

use crate::Millis;
use crate::class::Class;
use crate::filter::{Filter, Pattern};
use crate::units::{DAY, format_duration, scaled};
use serde::Serialize;
use std::fmt;

/// A checked, compiled policy. Made by [`crate::parse()`]; cheap to share behind an `Arc`.
#[derive(Debug, Clone)]
pub struct Policy {
    pub(crate) name: String,
    pub(crate) tiers: Vec<Tier>,
    pub(crate) protections: Vec<Protection>,
    pub(crate) rules: Vec<Rule>,
}

/// Which buckets' bodies are also uploaded at once, and where to.
#[derive(Debug, Clone)]
pub(crate) struct Protection {
    pub bucket: Pattern,
    /// Position in [`Policy::tiers`].
    pub tier: usize,
    pub enabled: bool,
}

/// One tier of the chain. Its position is its coldness.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub struct Tier {
    /// Its name in the gateway's configuration.
    pub name: String,
    /// Its storage class. `None` for tiers that nobody bills by class (directories, S3-compatible clusters): no minimum
    /// size, no minimum duration, no price.
    pub class: Option<Class>,
}

/// One compiled rule.
#[derive(Debug, Clone)]
pub struct Rule {
    pub(crate) id: String,
    pub(crate) enabled: bool,
    pub(crate) filter: Filter,
    pub(crate) timers: Vec<Timer>,
    pub(crate) fills: Vec<Fill>,
    pub(crate) abort_uploads: Option<Abort>,
    pub(crate) layout: Layout,
    /// The bucket whose own lifecycle the rule is from; `None` for a rule of the document.
    pub(crate) bucket: Option<String>,
}

/// What moves an object to a tier, or ends it, at a time.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct Timer {
    pub goal: Goal,
    pub after: Millis,
    pub since: Since,
    /// With [`Since::Noncurrent`]: that many newer noncurrent versions are spared.
    pub newer: u32,
    /// The time is put off to the next midnight (UTC), as S3 does.
    pub midnight: bool,
}

/// When unfinished uploads end.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct Abort {
    pub after: Millis,
    /// As in [`Timer::midnight`].
    pub midnight: bool,
}

/// `at`, or the first midnight (UTC) after it. `None` beyond all time.
fn rounded(at: Millis, midnight: bool) -> Option<Millis> {
    if midnight { at.div_ceil(DAY).checked_mul(DAY) } else { Some(at) }
}

impl Timer {
    /// A timer of the document: exact, and about the current version.
    pub fn exact(goal: Goal, after: Millis, since: Since) -> Self {
        Self { goal, after, since, newer: 0, midnight: false }
    }

    /// When this is due for `facts`; `None` when it is not about such a version, or beyond the end of time.
    pub fn due_at(&self, facts: &ObjectFacts<'_>) -> Option<Millis> {
        if !self.is_about(facts.version) {
            return None;
        }
        let at = rounded(facts.origin(self.since).checked_add(self.after)?, self.midnight)?;
        match facts.kept_until.filter(|_| self.goal == Goal::Expire) {
            Some(Millis::MAX) => None,
            Some(kept_until) => Some(at.max(kept_until)),
            None => Some(at),
        }
    }

    /// True when the timer is about versions such as this one.
    pub fn is_about(&self, version: Version) -> bool {
        match (version, self.since.versions()) {
            (Version::Current, of) => of == Versions::Current,
            (Version::DeleteMarker { only }, of) => only && of != Versions::Noncurrent && self.goal == Goal::Expire,
            (Version::Noncurrent { newer, marker, .. }, of) => {
                of == Versions::Noncurrent && newer >= self.newer && (!marker || self.goal == Goal::Expire)
            }
        }
    }

    /// True when this is never due after `other`, whatever the version.
    pub fn never_later(&self, other: &Timer) -> bool {
        self.goes_with(other) && self.after <= other.after
    }

    /// True when the difference of the ages is the longest by which this is due after `other`: about the same versions, and
    /// on the same clock or from creation, which is never after the other two.
    pub fn goes_with(&self, other: &Timer) -> bool {
        let comparable = self.since == other.since || self.since == Since::Creation;
        comparable && self.since.versions() == other.since.versions() && self.newer <= other.newer
    }

    /// `30d since creation`, for messages.
    pub fn when(&self) -> String {
        let after = format_duration(self.after);
        match (self.since, self.newer) {
            (Since::Noncurrent, 0) => format!("{after} as a noncurrent version"),
            (Since::Noncurrent, newer) => format!("{after} as a noncurrent version with {newer} newer ones"),
            (Since::DeleteMarker, _) => "being the only version left".to_owned(),
            (since, _) => format!("{after} since {}", since.as_str()),
        }
    }
}

impl Abort {
    /// When an upload that was begun at `initiated` ends; `None` beyond all time.
    pub fn at(&self, initiated: Millis) -> Option<Millis> {
        rounded(initiated.checked_add(self.after)?, self.midnight)
    }
}

/// Where an action leads. The order is the order of precedence: a colder tier above a warmer one, expiry above all.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub(crate) enum Goal {
    /// Position in [`Policy::tiers`].
    Tier(usize),
    Expire,
}

/// Moves objects to a tier when the hot disk is this full.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct Fill {
    pub tier: usize,
    pub percent: u8,
}

/// From which moment an age counts.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, Default, Serialize)]
#[serde(rename_all = "camelCase")]
pub enum Since {
    /// When this object was first written.
    #[default]
    Creation,
    /// When its current content was written.
    Modification,
    /// When it was last read.
    LastAccess,
    /// The epoch: the age is a date. Only in the lifecycle of a bucket.
    Date,
    /// When this version stopped being the current one. About noncurrent versions only.
    Noncurrent,
    /// When this delete marker was written. About delete markers that are the only version left.
    DeleteMarker,
}

/// Which versions a moment is about.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Versions {
    Current,
    Noncurrent,
    DeleteMarkers,
}

impl Since {
    /// As the document and answers spell it.
    pub fn as_str(self) -> &'static str {
        match self {
            Since::Creation => "creation",
            Since::Modification => "modification",
            Since::LastAccess => "lastAccess",
            Since::Date => "date",
            Since::Noncurrent => "noncurrent",
            Since::DeleteMarker => "deleteMarker",
        }
    }

    pub(crate) fn versions(self) -> Versions {
        match self {
            Since::Noncurrent => Versions::Noncurrent,
            Since::DeleteMarker => Versions::DeleteMarkers,
            Since::Creation | Since::Modification | Since::LastAccess | Since::Date => Versions::Current,
        }
    }
}

/// Which version of its key an object is.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, Default, Serialize)]
#[serde(rename_all = "camelCase", tag = "kind")]
pub enum Version {
    /// The one that is read without naming a version.
    #[default]
    Current,
    /// A delete marker that is current: the key reads as not there.
    DeleteMarker {
        /// It is the only version left of its key.
        only: bool,
    },
    /// One that another version, or a delete marker, has replaced.
    Noncurrent {
        /// When that happened: the creation of the version that came next.
        since: Millis,
        /// How many noncurrent versions of the key are newer than this one.
        newer: u32,
        /// It is a delete marker.
        marker: bool,
    },
}

/// How cold objects lie in the tier.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, Default, Serialize)]
#[serde(rename_all = "camelCase")]
pub enum Layout {
    /// Chunks of many objects in packs.
    #[default]
    Packed,
    /// One remote object per object, readable by every tool. Not in this version.
    Native,
}

/// What is known of one object version. Times are milliseconds since the epoch, the size is in bytes.
#[derive(Debug, Clone, Copy, Default)]
pub struct ObjectFacts<'a> {
    /// Bucket name.
    pub bucket: &'a str,
    /// Object key.
    pub key: &'a str,
    /// Logical size in bytes, before deduplication and compression.
    pub size: u64,
    /// `Content-Type`, parameters allowed.
    pub content_type: Option<&'a str>,
    /// Tags.
    pub tags: &'a [(String, String)],
    /// User metadata: names without `x-amz-meta-`, in any case.
    pub metadata: &'a [(String, String)],
    /// When the object was first written.
    pub created: Millis,
    /// When this content was written.
    pub modified: Millis,
    /// When it was last read; the engine gives `modified` where it does not know.
    pub last_access: Millis,
    /// The tier it is in; `None` is hot.
    pub current_tier: Option<&'a str>,
    /// The tier that has a hot object's body as well.
    pub protected_in: Option<&'a str>,
    /// Which version of its key it is.
    pub version: Version,
    /// No rule may end it before; [`Millis::MAX`]: none ever.
    pub kept_until: Option<Millis>,
}

impl ObjectFacts<'_> {
    pub(crate) fn origin(&self, since: Since) -> Millis {
        match since {
            Since::Creation => self.created,
            Since::Modification => self.modified,
            Since::LastAccess => self.last_access,
            Since::Date => 0,
            Since::Noncurrent => match self.version {
                Version::Noncurrent { since, .. } => since,
                Version::Current | Version::DeleteMarker { .. } => self.created,
            },
            Since::DeleteMarker => self.created,
        }
    }

    /// True for delete markers, which have no body that could be anywhere.
    pub(crate) fn is_marker(&self) -> bool {
        matches!(self.version, Version::DeleteMarker { .. } | Version::Noncurrent { marker: true, .. })
    }
}

/// Names the rule behind an answer. Shown as the id, and for a rule of a bucket's lifecycle with the bucket before it.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, Serialize)]
pub struct RuleRef<'p> {
    /// Position from 0: first the rules of the document, then those of the bucket's lifecycle.
    pub index: usize,
    /// Its id.
    pub id: &'p str,
    /// The bucket whose own lifecycle the rule is from; `None` for a rule of the document.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub bucket: Option<&'p str>,
}

impl fmt::Display for RuleRef<'_> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self.bucket {
            Some(bucket) => write!(f, "lifecycle of bucket {bucket}, rule {}", self.id),
            None => f.write_str(self.id),
        }
    }
}

/// What is to be done with an object now.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, Serialize)]
#[serde(rename_all = "camelCase", tag = "action")]
pub enum Decision<'p> {
    /// Nothing.
    Keep,
    /// Move it to this tier.
    Transition {
        /// Name of the tier.
        tier: &'p str,
    },
    /// Delete it.
    Expire,
    /// Bring its body to this tier as well; it stays hot. Due at once, unless anything else is.
    Protect {
        /// Name of the tier.
        tier: &'p str,
    },
    /// It shall not be protected any more: the tier's copy goes, the hot one stays.
    Release,
}

/// A decision, the rule it comes from, and when to ask again.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize)]
pub struct Verdict<'p> {
    /// What is due now.
    pub decision: Decision<'p>,
    /// The rule that decided; `None` for [`Decision::Keep`], [`Decision::Protect`] and [`Decision::Release`].
    pub rule: Option<RuleRef<'p>>,
    /// The earliest future time (milliseconds since the epoch) at which the decision differs for unchanged facts.
    /// `None`: never.
    pub next: Option<Millis>,
}

impl Policy {
    /// The policy that does nothing.
    pub fn none() -> Self {
        Self { name: "none".to_owned(), tiers: Vec::new(), protections: Vec::new(), rules: Vec::new() }
    }

    /// `metadata.name`.
    pub fn name(&self) -> &str {
        &self.name
    }

    /// The chain of tiers, hottest first. The hot tier itself is not in it.
    pub fn tiers(&self) -> &[Tier] {
        &self.tiers
    }

    /// All rules in document order, the disabled ones too.
    pub fn rules(&self) -> &[Rule] {
        &self.rules
    }

    /// The tier in which hot objects of a bucket are to be as well. The first item that names the bucket counts.
    pub fn protects(&self, bucket: &str) -> Option<&str> {
        let found = self.protections.iter().find(|p| p.enabled && p.bucket.matches(bucket));
        found.map(|p| self.tier_name(p.tier))
    }

    /// The tiers that protect anything, each once, in the order of the chain.
    pub fn protecting_tiers(&self) -> impl Iterator<Item = &str> {
        let used = |i: usize| self.protections.iter().any(|p| p.enabled && p.tier == i);
        self.tiers.iter().enumerate().filter(move |(i, _)| used(*i)).map(|(_, t)| t.name.as_str())
    }

    /// True when an enabled rule counts from the last access: only then must reads be tracked.
    pub fn uses_last_access(&self) -> bool {
        self.rules.iter().any(|r| r.enabled && r.timers.iter().any(|t| t.since == Since::LastAccess))
    }

    /// Whether an enabled rule asks how many newer noncurrent versions there are.
    pub fn counts_newer_versions(&self) -> bool {
        self.rules.iter().filter(|r| r.enabled).flat_map(|r| &r.timers).any(|t| t.newer > 0)
    }

    /// The same rules with days of another length, for tests: every age shrinks in proportion (to no less than a
    /// millisecond). `day` is in milliseconds; dates stay.
    #[must_use]
    pub fn with_day(mut self, day: Millis) -> Self {
        for rule in &mut self.rules {
            rule.timers.iter_mut().filter(|t| t.since != Since::Date).for_each(|t| t.after = scaled(t.after, day));
            rule.abort_uploads.iter_mut().for_each(|abort| abort.after = scaled(abort.after, day));
        }
        self
    }

    pub(crate) fn rule_ref(&self, index: usize) -> RuleRef<'_> {
        let rule = self.rules.get(index);
        RuleRef { index, id: rule.map_or("", |r| r.id.as_str()), bucket: rule.and_then(|r| r.bucket.as_deref()) }
    }

    pub(crate) fn tier_name(&self, tier: usize) -> &str {
        self.tiers.get(tier).map_or("", |t| t.name.as_str())
    }
}

impl Default for Policy {
    fn default() -> Self {
        Self::none()
    }
}

impl Rule {
    /// The rule's id.
    pub fn id(&self) -> &str {
        &self.id
    }

    /// False for `status: disabled`.
    pub fn enabled(&self) -> bool {
        self.enabled
    }

    /// How this rule lays objects out in a tier.
    pub fn layout(&self) -> Layout {
        self.layout
    }
}
