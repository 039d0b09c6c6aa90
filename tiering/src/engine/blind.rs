//! What a mark could not look into, what it may name, and what is kept for its sake. The proof is in
//! `docs/adr/0008-marking-not-counting.md`.
//!
//! - A manifest node of a **cold** version: every chunk that it names is in the version's tier, because a version becomes cold
//!   only when its tier has all of it. So no pack of that tier is doomed, and nothing else is held back.
//! - A node of anything that must be **local**, or a **record** that does not decode: it may name any chunk that was here when
//!   the walk met it, and for want of a local copy any pack. So those chunks stay ([`Doubt`]), and no pack at all is doomed.

use super::Core;
use super::error::EngineError;
use super::report::{GcReport, LossyBody, Unreadable};
use crate::chunk::ChunkId;
use crate::local::Doubt;
use crate::tier::RestorePriority;
use std::collections::BTreeSet;
use std::sync::PoisonError;

/// Nodes that one walk asks tiers for: the others are taken for unreadable until the next.
pub(super) const MAX_RECALLS: usize = 64;

/// What is unreadable or lost is named up to this number, and counted beyond it.
const MAX_NAMED: usize = 100;

/// What is unreadable is told apart up to this number. Beyond it each walk takes it for something new, so that nothing
/// local is removed.
const MAX_TOLD_APART: usize = 10_000;

/// See the module.
#[derive(Debug, Default)]
pub(super) struct Blind {
    /// Digests of what may name local chunks: of nodes, and of records.
    local: BTreeSet<ChunkId>,
    /// There is more of it than `local` holds.
    more: bool,
    /// Nodes whose chunks are all in these tiers.
    in_tiers: BTreeSet<String>,
    /// Nodes that a thaw may bring back.
    frozen: BTreeSet<(String, ChunkId)>,
    named: Vec<Unreadable>,
    count: u64,
    /// Frames that had been set aside when the walk ended.
    set_aside: u64,
}

impl Blind {
    /// A record, or a node whose chunks may be on local disks only.
    pub(super) fn record(&mut self, digest: ChunkId, what: String, error: &EngineError) {
        if self.local.len() < MAX_TOLD_APART {
            self.local.insert(digest);
        } else {
            self.more |= !self.local.contains(&digest);
        }
        self.name(what, error);
    }

    /// A node of a version that is in `tier`.
    pub(super) fn node_in_tier(&mut self, node: ChunkId, tier: &str, what: String, error: &EngineError) {
        self.in_tiers.insert(tier.to_owned());
        if self.frozen.len() < MAX_RECALLS {
            self.frozen.insert((tier.to_owned(), node));
        }
        self.name(what, error);
    }

    fn name(&mut self, what: String, error: &EngineError) {
        self.count += 1;
        if self.named.len() < MAX_NAMED {
            self.named.push(Unreadable { what, detail: error.to_string() });
        }
    }

    /// Whether something unreadable may need a pack of `tier`.
    pub(super) fn may_need(&self, tier: &str) -> bool {
        !self.local.is_empty() || self.in_tiers.contains(tier)
    }
}

/// Bodies of which chunks are nowhere to be found.
#[derive(Debug, Default)]
pub(super) struct Lost {
    pub(super) named: Vec<LossyBody>,
    pub(super) count: u64,
}

impl Lost {
    pub(super) fn note(&mut self, what: impl FnOnce() -> String, chunks: u64) {
        self.count += 1;
        if self.named.len() < MAX_NAMED {
            self.named.push(LossyBody { what: what(), chunks });
        }
    }
}

/// What the last sweep was in doubt of, and how many frames had been set aside by then. A frame that is set aside later may be
/// a node that was there, rotted, was stored anew with new chunks, and has rotted again: that is another doubt.
#[derive(Debug, Default)]
pub(crate) struct LastDoubt(BTreeSet<ChunkId>, u64);

impl Core {
    pub(super) fn doubt_of(&self, blind: &mut Blind) -> Doubt {
        let last = self.last_doubt.lock().unwrap_or_else(PoisonError::into_inner);
        blind.set_aside = self.local.set_aside_count();
        if blind.local.is_empty() {
            Doubt::None
        } else if blind.more || blind.set_aside != last.1 || !blind.local.is_subset(&last.0) {
            Doubt::New
        } else {
            Doubt::Known
        }
    }

    pub(super) fn remember_doubt(&self, blind: &Blind) {
        let last = LastDoubt(blind.local.clone(), blind.set_aside);
        *self.last_doubt.lock().unwrap_or_else(PoisonError::into_inner) = last;
    }

    /// Says what could not be read: in the report, in the log, by a metric. (A dry run asks no tier: what a real one would
    /// bring back is only in its report.)
    pub(super) fn tell_blind(&self, blind: &Blind, report: &mut GcReport) {
        if !report.dry_run {
            self.metrics.gc_unreadable.set(super::ops::gauge(blind.count));
            for unreadable in &blind.named {
                tracing::error!(what = unreadable.what, error = unreadable.detail, "a mark could not look into this");
            }
        }
        if blind.count == 0 {
            return;
        }
        report.unreadable_total = blind.count;
        report.unreadable = blind.named.clone();
        let tiers: Vec<&str> = blind.in_tiers.iter().map(String::as_str).collect();
        report.notes.push(match blind.local.is_empty() {
            true => format!("no pack of {} is deleted until what cannot be read can be", tiers.join(", ")),
            false => {
                "no remote pack is deleted, and no local chunk that was here when this was first noticed since the \
                      start, until what cannot be read is mended (upload the object again) or deleted"
                    .to_owned()
            }
        });
    }

    /// Says which bodies cannot be read in full: in the report, in the log, by a metric.
    pub(super) fn tell_lost(&self, lost: Lost, report: &mut GcReport) {
        self.metrics.damaged_objects.set(super::ops::gauge(lost.count));
        for body in &lost.named {
            tracing::error!(what = body.what, chunks = body.chunks, "chunks are neither in a local pack nor in a tier");
        }
        (report.lossy_total, report.lossy) = (lost.count, lost.named);
    }

    /// Asks archives for the packs of nodes that the walk missed, so that a later walk can read them.
    pub(super) async fn thaw_for_walk(&self, blind: &Blind) {
        for (tier, node) in &blind.frozen {
            let Some(at) = self.remote.locate(tier, node).filter(|_| !self.tier_is_online(tier)) else { continue };
            match self.thaw(tier, at.pack, &at.name, RestorePriority::Bulk).await {
                Ok(ready) => tracing::info!(tier, pack = %at.name, ready, "a pack is thawed for a manifest node"),
                Err(e) => self.note_tier_error(tier, "thaw for a manifest node", &e),
            }
        }
    }
}
