//! The walk of a mark: everything that names chunks, and through it the chunks.

use super::Core;
use super::blind::{Blind, Lost, MAX_RECALLS};
use super::body::{BodyRef, ChunkRef, NodeRef, decode_node};
use super::error::EngineError;
use super::keys;
use super::ops::describe_key;
use super::record::{ObjectRecord, PartRecord, Record};
use super::types::Residency;
use crate::chunk::ChunkId;
use crate::failpoint;
use crate::local::Mark;
use crate::meta::{MetaStore, Table};
use crate::mutants::{self, Mutant};
use crate::pack::{PackClass, PackId};
use std::collections::{BTreeMap, HashMap, HashSet};
use std::ops::{Bound, ControlFlow};
use std::sync::Arc;

/// Values walked between two looks at what was written meanwhile.
const LISTEN_EVERY: usize = 1024;

/// Live bytes by tier and pack.
pub(super) type LivePacks = BTreeMap<(String, PackId), u64>;

/// Whose body is walked, and where its chunks must be.
#[derive(Clone, Copy)]
struct Owner<'a> {
    table: Table,
    key: &'a [u8],
    /// Its chunks must stay on local disks.
    keep: bool,
    /// They shall stay while there is anything else to evict.
    spare: bool,
    /// The tier that has them all.
    tier: Option<&'a str>,
}

/// What an examination takes for gone although the indexes still name it. Empty for a mark that is swept.
#[derive(Debug, Default)]
pub(super) struct Gone {
    /// Local packs whose files are missing or too short, with the bytes that are there.
    pub files: HashMap<PackId, u64>,
    /// Packs that a tier does not have, or not whole.
    pub packs: HashSet<(String, PackId)>,
    /// Chunks that the disk could not read the last time.
    pub suspects: bool,
}

/// One walk: what it marks locally and what it counts remotely.
pub(super) struct Walk<'a> {
    core: &'a Arc<Core>,
    mark: &'a Mark,
    /// Asks no tier.
    dry_run: bool,
    /// Packs that something in a tier lives in, with the bytes that live: each chunk counts once in a pack.
    remote: BTreeMap<(u32, PackId), u64>,
    /// Tiers met on the way. Not those of the configuration: a tier that is missing there for a while must not
    /// look empty, or all its packs would be taken for dead.
    tiers: Vec<String>,
    blind: Blind,
    lost: Lost,
    gone: &'a Gone,
    /// Bodies with chunks in packs of tiers that are gone.
    affected: Lost,
    /// Chunks met so far that are nowhere.
    missing: u64,
    /// Chunks met so far that a pack has which is gone.
    touched: u64,
    recalls: usize,
}

/// What a walk came to.
pub(super) struct Walked {
    /// What lives in the tiers.
    pub live: LivePacks,
    /// What could not be looked into.
    pub blind: Blind,
    /// What can be named, but is not there.
    pub lost: Lost,
    /// What names chunks of packs that are gone, whether or not another place has them.
    pub affected: Lost,
}

impl<'a> Walk<'a> {
    pub(super) fn new(core: &'a Arc<Core>, mark: &'a Mark, (dry_run, gone): (bool, &'a Gone)) -> Self {
        let (remote, tiers, blind) = (BTreeMap::new(), Vec::new(), Blind::default());
        let (lost, affected) = (Lost::default(), Lost::default());
        Self { core, mark, dry_run, remote, tiers, blind, lost, gone, affected, missing: 0, touched: 0, recalls: 0 }
    }

    /// Every version and every part of an unfinished upload.
    pub(super) fn everything(&mut self) -> Result<(), EngineError> {
        let mut walked = 0usize;
        for table in [Table::Object, Table::Version, Table::Part] {
            let mut failed = None;
            let core = Arc::clone(self.core);
            core.meta.scan_each(table, (Bound::Unbounded, Bound::Unbounded), &mut |key, value| {
                walked += 1;
                failpoint::hit("gc.walk");
                let forgotten = match table {
                    Table::Part => mutants::active(Mutant::MarkWithoutUploads),
                    Table::Version => mutants::active(Mutant::MarkWithoutVersions),
                    _ => false,
                };
                if !forgotten {
                    self.value(table, key, value);
                }
                let mut step = Ok(());
                if walked.is_multiple_of(LISTEN_EVERY) {
                    step = self.listen();
                }
                if step.is_ok() && core.stop.is_cancelled() {
                    step = Err(EngineError::Unavailable("shutting down".into()));
                }
                match step {
                    Ok(()) => ControlFlow::Continue(()),
                    Err(e) => {
                        failed = Some(e);
                        ControlFlow::Break(())
                    }
                }
            })?;
            if let Some(e) = failed {
                return Err(e);
            }
        }
        Ok(())
    }

    /// Marks what was committed since the last look.
    pub(super) fn listen(&mut self) -> Result<(), EngineError> {
        let heard = self.core.barrier.take()?;
        for op in heard.into_iter().filter(|_| !mutants::active(Mutant::MarkWithoutBarrier)) {
            self.value(op.table, &op.key, op.value.as_deref().unwrap_or_default());
        }
        Ok(())
    }

    /// Bodies that are being read, whether or not their versions are still there: reads win.
    pub(super) fn readers(&mut self) -> Result<(), EngineError> {
        let reading = self.core.reads.current();
        for record in reading.into_iter().filter(|_| !mutants::active(Mutant::MarkWithoutReaders)) {
            self.record(b"(being read)", &record);
        }
        Ok(())
    }

    pub(super) fn end(self) -> Walked {
        let name = |number: u32| self.tiers.get(number as usize).cloned().unwrap_or_default();
        let live = self.remote.iter().map(|((tier, pack), bytes)| ((name(*tier), *pack), *bytes)).collect();
        Walked { live, blind: self.blind, lost: self.lost, affected: self.affected }
    }

    fn value(&mut self, table: Table, key: &[u8], value: &[u8]) {
        match table {
            Table::Object | Table::Version => match ObjectRecord::decode(value) {
                Ok(record) => self.record(key, &record),
                Err(e) => self.unreadable_record(table, key, value, &e),
            },
            _ => match PartRecord::decode(value) {
                Ok(part) => self.body(&part.body, Owner { table, key, keep: true, spare: false, tier: None }),
                Err(e) => self.unreadable_record(table, key, value, &e),
            },
        }
    }

    fn unreadable_record(&mut self, table: Table, key: &[u8], value: &[u8], error: &EngineError) {
        self.core.broken.report(table, key, error);
        self.blind.record(ChunkId::of(value), describe_key(table, key), error);
    }

    fn record(&mut self, key: &[u8], record: &ObjectRecord) {
        let keep = match &record.residency {
            Residency::Hot | Residency::Restored { .. } => true,
            Residency::Protected { .. } => false,
            // What a restore has brought so far must not be taken away again under its hands.
            Residency::Cold { .. } => record.restoring.is_some(),
        };
        let (spare, mut tier) = (record.residency.is_hot(), record.residency.tier());
        if matches!(record.residency, Residency::Restored { .. }) && mutants::active(Mutant::MarkWithoutRestored) {
            tier = None;
        }
        if let (Some(tier), Some(manifest)) = (tier, &record.manifest) {
            // It keeps its pack; that it is gone is no loss of anybody's bytes.
            let touched = self.touched;
            self.count(manifest, tier);
            self.touched = touched;
        }
        self.body(&record.body, Owner { table: keys::table_of(key), key, keep, spare, tier });
    }

    fn body(&mut self, body: &BodyRef, owner: Owner<'_>) {
        let (before, touched) = (self.missing, self.touched);
        self.body_chunks(body, owner);
        if self.touched > touched {
            self.affected.note(|| describe_key(owner.table, owner.key), self.touched - touched);
        }
        if self.missing > before {
            self.lost.note(|| describe_key(owner.table, owner.key), self.missing - before);
        }
    }

    fn body_chunks(&mut self, body: &BodyRef, owner: Owner<'_>) {
        match body {
            BodyRef::Inline(chunks) => self.chunks(chunks, owner),
            BodyRef::Nodes(nodes) => {
                for node in nodes {
                    let read = self.read_node(node, owner.tier);
                    // Manifests stay local for ever: they are metadata. After the read: a rotten one is set aside by it.
                    self.chunk(&node.id, Owner { keep: true, ..owner });
                    match read {
                        Ok(chunks) => self.chunks(&chunks, owner),
                        Err(e) => self.unreadable_node(node, owner, &e),
                    }
                }
            }
        }
    }

    fn unreadable_node(&mut self, node: &NodeRef, owner: Owner<'_>, error: &EngineError) {
        let what = format!("{}: manifest node {}", describe_key(owner.table, owner.key), node.id);
        match owner.tier.filter(|tier| !owner.keep && self.core.remote.is_complete(tier)) {
            Some(tier) => self.blind.node_in_tier(node.id, tier, what, error),
            None => self.blind.record(node.id, what, error),
        }
    }

    fn chunks(&mut self, chunks: &[ChunkRef], owner: Owner<'_>) {
        chunks.iter().for_each(|chunk| self.chunk(&chunk.id, owner));
    }

    fn chunk(&mut self, id: &ChunkId, owner: Owner<'_>) {
        let in_tier = owner.tier.is_some_and(|tier| self.count(id, tier));
        let elsewhere = owner.keep && mutants::active(Mutant::EvictHot) && !self.core.remote.tiers_with(id).is_empty();
        if (!owner.keep && in_tier) || elsewhere {
            if owner.spare {
                self.mark.spare(id)
            } else {
                self.mark.cached(id)
            };
            return;
        }
        // What no known pack has, the local copy must serve. What is not local either (set aside as damaged), any tier
        // that happens to have it.
        if !self.is_here(id) && !in_tier {
            let elsewhere = self.core.remote.tiers_with(id);
            let mut found = false;
            for tier in elsewhere.iter().filter(|tier| owner.tier != Some(tier.as_str())) {
                found |= self.count(id, tier);
            }
            self.missing += u64::from(!found);
        }
    }

    /// Whether a local pack has the chunk; it is marked then.
    fn is_here(&self, id: &ChunkId) -> bool {
        let Gone { files, suspects, .. } = self.gone;
        let local = &self.core.local;
        self.mark.live(id) && (files.is_empty() || !local.is_beyond(id, files)) && !(*suspects && local.is_suspect(id))
    }

    /// Notes that every pack of `tier` with this chunk is needed: which of them a job gives up in the end is not known
    /// yet. False when there is none.
    fn count(&mut self, id: &ChunkId, tier: &str) -> bool {
        let number = self.tiers.iter().position(|t| t == tier).unwrap_or_else(|| {
            self.tiers.push(tier.to_owned());
            self.tiers.len() - 1
        });
        let number = u32::try_from(number).unwrap_or(u32::MAX);
        let (mut found, mut gone) = (false, false);
        self.core.remote.count(tier, id, |pack, bytes| {
            *self.remote.entry((number, pack)).or_default() += bytes;
            let is_gone = !self.gone.packs.is_empty() && self.gone.packs.contains(&(tier.to_owned(), pack));
            (found, gone) = (found | !is_gone, gone | is_gone);
        });
        self.touched += u64::from(gone);
        found
    }

    /// The chunks of a node: from local packs, else from a tier, and then the node is put back to where it belongs.
    fn read_node(&mut self, node: &NodeRef, tier: Option<&str>) -> Result<Vec<ChunkRef>, EngineError> {
        let local = self.core.local_node(node);
        if let Ok(Some(chunks)) = local {
            return Ok(chunks);
        }
        if self.dry_run || self.recalls >= MAX_RECALLS {
            return Err(EngineError::Corrupt("it is not local".into()));
        }
        self.recalls += 1;
        let len = u32::try_from(super::body::node_len(node.chunks)).unwrap_or(u32::MAX);
        let wanted = [ChunkRef { id: node.id, len }];
        let found = self.core.runtime.block_on(self.core.recall_frames(&wanted, tier, false)).inspect_err(|e| {
            // A tier that is down shall not be waited for once for each node; that a pack is archived is told at once.
            if matches!(e, EngineError::Tier { source, .. } if !source.is_frozen()) {
                self.recalls = MAX_RECALLS;
            }
        })?;
        let frame = found.get(&node.id).ok_or_else(|| EngineError::Corrupt("it did not come".into()))?;
        let raw = frame.verify(&node.id).map_err(|e| EngineError::Corrupt(e.to_string()))?;
        let kept = self.core.local.begin().put_frame(node.id, frame, PackClass::Hot);
        match kept {
            Ok(_) => tracing::info!(node = %node.id, "a manifest node that was not local came back from a tier"),
            Err(e) => tracing::warn!(node = %node.id, error = %e, "a manifest node from a tier is not kept"),
        }
        decode_node(&raw)
    }
}
