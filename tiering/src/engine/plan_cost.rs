//! What a plan costs by the price book. Logical bytes count, before deduplication and compression, and what leaves a tier
//! counts as read from there: upper bounds. What packs tell of their objects (some 40 bytes a chunk, compressed) is not
//! counted, but for the one pack that even a move without any byte makes. Sums are integers until the report.

use super::Core;
use super::body::BodyRef;
use super::record::ObjectRecord;
use super::report::PlanCost;
use crate::clock::Timestamp;
use std::collections::BTreeMap;
use tidegate_policies::{Class, GB, MONTH, Money, PriceBook, Request, RetrievalSpeed};

/// Where a version lies: a tier by name, or the hot disk.
type Place = Option<String>;

/// The way of one version through a plan.
pub(super) struct Way {
    size: u64,
    origin: (Place, Option<String>),
    place: Place,
    /// The tier that protects it where it is hot.
    copy: Option<String>,
    /// Since when a tier has it.
    since: Timestamp,
}

impl Way {
    /// The tier that is billed for it.
    fn tier(&self) -> Option<&str> {
        self.place.as_deref().or(self.copy.as_deref())
    }
}

/// Adds what is stored of a version: where it lies, and its copy.
fn places(sums: &mut BTreeMap<Place, u64>, (place, copy): &(Place, Option<String>), size: u64) {
    add(sums.entry(place.clone()).or_default(), size);
    if copy.is_some() {
        add(sums.entry(copy.clone()).or_default(), size);
    }
}

/// Sums over the ways of all versions.
pub(super) struct Costs<'a> {
    /// Tiers that are known here, and the class that each is billed by.
    tiers: BTreeMap<String, Option<Class>>,
    prices: &'a PriceBook,
    pack_bytes: u64,
    before: BTreeMap<Place, u64>,
    after: BTreeMap<Place, u64>,
    written: BTreeMap<String, u64>,
    read: BTreeMap<String, u64>,
    /// Bytes times the milliseconds of the minimum duration that are not over.
    early: BTreeMap<Class, u128>,
}

impl<'a> Costs<'a> {
    pub fn new(tiers: BTreeMap<String, Option<Class>>, prices: &'a PriceBook, pack_bytes: u64) -> Self {
        let (before, after, written, read, early) = Default::default();
        Self { tiers, prices, pack_bytes: pack_bytes.max(1), before, after, written, read, early }
    }

    /// The version moves to `tier` at `now`.
    pub fn moves(&mut self, way: &mut Way, tier: &str, now: Timestamp) {
        if way.copy.take_if(|copy| copy.as_str() == tier).is_some() {
            // All of it is there already.
            way.place = Some(tier.to_owned());
            return;
        }
        self.leaves(way, now);
        if let Some(from) = &way.place {
            add(self.read.entry(from.clone()).or_default(), way.size);
        }
        add(self.written.entry(tier.to_owned()).or_default(), way.size);
        (way.place, way.copy, way.since) = (Some(tier.to_owned()), None, now);
    }

    /// A hot version gets a copy in a tier, in another one, or loses it.
    pub fn copies(&mut self, way: &mut Way, tier: Option<&str>, now: Timestamp) {
        self.leaves(way, now);
        if let Some(tier) = tier {
            add(self.written.entry(tier.to_owned()).or_default(), way.size);
        }
        (way.copy, way.since) = (tier.map(str::to_owned), now);
    }

    /// The version is deleted at `now`.
    pub fn expires(&mut self, way: &Way, now: Timestamp) {
        self.leaves(way, now);
        places(&mut self.before, &way.origin, way.size);
    }

    /// The version stays where it came to, if it went anywhere.
    pub fn stays(&mut self, way: Way) {
        let end = (way.place, way.copy);
        if end != way.origin {
            places(&mut self.before, &way.origin, way.size);
            places(&mut self.after, &end, way.size);
        }
    }

    fn leaves(&mut self, way: &Way, now: Timestamp) {
        let Some(class) = way.tier().and_then(|tier| self.class(tier)).flatten() else { return };
        let stored = u64::try_from(now.since(way.since).as_millis()).unwrap_or(u64::MAX);
        let rest = self.prices.min_duration(class).saturating_sub(stored);
        let early = self.early.entry(class).or_default();
        *early = early.saturating_add(u128::from(way.size) * u128::from(rest));
    }

    /// The class of a tier, which may have none; `None` for a tier of which nothing is known here.
    fn class(&self, tier: &str) -> Option<Option<Class>> {
        self.tiers.get(tier).copied()
    }

    /// `None` when nothing of it is billed by class, or a price is not known.
    pub fn total(&self) -> Option<PlanCost> {
        let tiers = self.before.keys().chain(self.after.keys()).flatten().chain(self.written.keys());
        let classes: Option<Vec<Option<Class>>> = tiers.map(|tier| self.class(tier)).collect();
        classes?.iter().any(Option::is_some).then_some(())?;
        let packs = |bytes: u64| bytes.div_ceil(self.pack_bytes);
        let speed = RetrievalSpeed::Normal;
        let requests =
            self.sum(&self.written, |class, n| self.prices.requests(class, Request::Put, packs(n).max(1)))?;
        let retrieval = self.sum(&self.read, |class, n| self.prices.retrieval(class, speed, n, packs(n)))?;
        let mut early_deletion = Money::ZERO;
        for (class, byte_millis) in &self.early {
            let millis = u64::try_from(byte_millis / u128::from(GB)).unwrap_or(u64::MAX);
            early_deletion = early_deletion + self.prices.storage(*class, GB, millis)?;
        }
        Some(PlanCost {
            currency: self.prices.currency.clone(),
            requests: number(requests),
            retrieval: number(retrieval),
            early_deletion: number(early_deletion),
            storage_month_before: number(self.month(&self.before)?),
            storage_month_after: number(self.month(&self.after)?),
        })
    }

    /// A month's storage of what lies at each place.
    fn month(&self, places: &BTreeMap<Place, u64>) -> Option<Money> {
        let mut sum = Money::ZERO;
        for (place, bytes) in places {
            sum = sum
                + match place {
                    None => self.prices.hot_storage(*bytes, MONTH)?,
                    Some(tier) => match self.class(tier)? {
                        None => Money::ZERO,
                        Some(class) => self.prices.storage(class, *bytes, MONTH)?,
                    },
                };
        }
        Some(sum)
    }

    /// What is billed for the bytes of each tier; tiers that nobody bills by class cost nothing.
    fn sum(&self, bytes: &BTreeMap<String, u64>, price: impl Fn(Class, u64) -> Option<Money>) -> Option<Money> {
        let mut sum = Money::ZERO;
        for (tier, bytes) in bytes {
            if let Some(class) = self.class(tier)? {
                sum = sum + price(class, *bytes)?;
            }
        }
        Some(sum)
    }
}

impl Core {
    /// Where a version begins its way at `now`.
    pub(super) fn way(&self, record: &ObjectRecord, now: Timestamp) -> Way {
        let tier = record.residency.tier().map(str::to_owned);
        let since = tier.as_deref().and_then(|tier| self.in_tier_since(record, tier)).unwrap_or(now);
        let (place, copy) = if record.residency.is_hot() { (None, tier) } else { (tier, None) };
        Way { size: record.size, origin: (place.clone(), copy.clone()), place, copy, since }
    }

    /// When the youngest pack in which `tier` has this version was begun: from then on its bytes are billed.
    fn in_tier_since(&self, record: &ObjectRecord, tier: &str) -> Option<Timestamp> {
        let begun = |id| self.remote.locate(tier, id).map(|at| at.pack.begun());
        match &record.body {
            BodyRef::Inline(chunks) => chunks.iter().filter_map(|chunk| begun(&chunk.id)).max(),
            BodyRef::Nodes(nodes) => nodes.iter().filter_map(|node| begun(&node.id)).max(),
        }
    }
}

fn add(sum: &mut u64, bytes: u64) {
    *sum = sum.saturating_add(bytes);
}

/// Integer billionths to the number that a report shows.
#[allow(clippy::cast_precision_loss)] // a report's figure; sums are integers
fn number(money: Money) -> f64 {
    money.nanos() as f64 / 1e9
}
