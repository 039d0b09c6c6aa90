//! The compiled policy: what the engine asks.

use crate::Millis;
use crate::class::Class;
use crate::filter::{Filter, Pattern};
use serde::Serialize;

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
    pub(crate) abort_uploads: Option<Millis>,
    pub(crate) layout: Layout,
}

/// What moves an object to a tier, or ends it, at a time.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct Timer {
    pub goal: Goal,
    pub after: Millis,
    pub since: Since,
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
}

impl Since {
    /// As the document spells it.
    pub fn as_str(self) -> &'static str {
        match self {
            Since::Creation => "creation",
            Since::Modification => "modification",
            Since::LastAccess => "lastAccess",
        }
    }
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
}

impl ObjectFacts<'_> {
    pub(crate) fn origin(&self, since: Since) -> Millis {
        match since {
            Since::Creation => self.created,
            Since::Modification => self.modified,
            Since::LastAccess => self.last_access,
        }
    }
}

/// Names the rule behind an answer.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, Serialize)]
pub struct RuleRef<'p> {
    /// Position in the document, from 0.
    pub index: usize,
    /// Its id.
    pub id: &'p str,
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

    pub(crate) fn rule_ref(&self, index: usize) -> RuleRef<'_> {
        RuleRef { index, id: self.rules.get(index).map_or("", |r| r.id.as_str()) }
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
