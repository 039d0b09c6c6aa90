//! Moving versions to a tier, or protecting them in one: plan packs, upload, verify, commit by compare-and-swap.
//!
//! ```text
//! due ── claim ── group (linger) ── draft pack ── intent ── upload ── Live + footer ── Hot→Cold, or Hot→Protected
//!                                                  │          │                          │
//!                                   crash here:    └ orphan, doomed at start ┘           └ lost race: member skipped
//! ```
//!
//! The last step is a compare-and-swap. What was protected in the tier has all of its chunks there, and becomes cold without
//! an upload. The due index keeps its entries until the last step, so a crash anywhere only means that the versions are found due
//! again. A pack is streamed from local frames: nothing is spooled, and a job holds one draft at a time, whatever
//! the size of the object.

mod draft;
mod names;

pub(crate) use names::{folder, split_name};

use draft::{Draft, Member};

use super::Core;
use super::body::{BodyRef, ChunkRef};
use super::claims::{Aim, Claim, Work};
use super::due::{Action, Look, names};
use super::error::EngineError;
use super::keys;
use super::manifests::Telling;
use super::packbody::PackBody;
use super::record::{ObjectRecord, Record, RemoteEntry, RemoteFooter, RemotePackRecord, RemotePackState};
use super::remote::codec_of;
use super::restore::Thawed;
use super::types::Residency;
use crate::failpoint;
use crate::meta::{Batch, Expect, MetaError, MetaStore, Reason, Table};
use crate::mutants::{self, Mutant};
use crate::pack::format::FRAME_HEADER_LEN;
use crate::pack::{FrameKind, PackClass, PackHeader, PackId, PlannedFrame, RemotePackPlan};
use crate::tier::{PutReceipt, RestorePriority};
use std::collections::{BTreeSet, HashSet};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

/// How often a group's commit is tried again after conflicts.
const MAX_RACES: usize = 32;

/// Records (bytes) of versions that wait for the pack of a job: beyond it the job takes no more. In memory they take some three
/// times as much.
const READY_BYTES: usize = 8 << 20;

/// Most packs whose counters one commit raises: at some 300 bytes each that is 3 of the 16 MiB that a record of the journal
/// may have. An object of 5 TiB refers to more than 100,000 packs.
pub(super) const MAX_REFERRED: usize = 10_000;

/// What a transition job did.
#[derive(Debug, Default, Clone, PartialEq, Eq)]
pub(crate) struct Moved {
    pub versions: u64,
    pub skipped: u64,
    pub packs: u64,
    pub bytes: u64,
}

/// What came of a job.
#[derive(Debug)]
pub(crate) struct Done {
    pub moved: Moved,
    /// Versions that wait for a thaw.
    pub waiting: Vec<Claim>,
    /// Versions that cannot be moved now, for a reason of their own.
    pub resting: Vec<Claim>,
}

/// So many versions of a job may fail by themselves before the whole job counts as failed: a source that is down
/// shall not be asked for each of thousands.
pub(super) const MAX_RESTING: usize = 16;

/// Packs that running jobs have made and not referred to yet: a mark leaves them alone.
#[derive(Debug, Default)]
pub(crate) struct Making(Mutex<HashSet<PackId>>);

impl Making {
    fn lock(&self) -> MutexGuard<'_, HashSet<PackId>> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }

    pub(crate) fn holds(&self, pack: &PackId) -> bool {
        self.lock().contains(pack)
    }
}

/// One job: moves a group of versions to one tier, or protects them there.
pub(crate) struct Transition {
    core: Arc<Core>,
    aim: Aim,
    tier: String,
    draft: Draft,
    ready: Vec<Member>,
    made: Vec<PackId>,
    moved: Moved,
    /// What this job has learnt of thaws.
    thawed: Thawed,
    /// Versions whose packs are being thawed.
    waiting: Vec<Claim>,
    /// Versions that failed by themselves.
    resting: Vec<Claim>,
}

impl Transition {
    pub(crate) fn new(core: &Arc<Core>, aim: &Aim) -> Self {
        Self {
            core: Arc::clone(core),
            aim: aim.clone(),
            tier: aim.tier.clone(),
            draft: Draft::default(),
            ready: Vec::new(),
            made: Vec::new(),
            moved: Moved::default(),
            thawed: Thawed::default(),
            waiting: Vec::new(),
            resting: Vec::new(),
        }
    }

    /// Runs the job to its end. After an error, what was committed stays; the rest is found due again. One version that
    /// cannot be read does not hold up the others.
    ///
    /// Whether its versions fill a pack is only known once they are planned: they may compress well, or be in the tier already.
    /// While they do not, `claims` grows by what else waits.
    pub(crate) async fn run(mut self, claims: &mut Vec<Claim>) -> Result<Done, EngineError> {
        // Before any intent: a tier that is not configured would gather intents that nobody can clear away.
        self.core.tier(&self.tier)?;
        let mut outcome = Ok(());
        let mut planned = 0;
        while outcome.is_ok()
            && let Some(claim) = claims.get(planned)
        {
            planned += 1;
            match self.add(claim).await {
                Ok(()) => {}
                Err(e) if self.is_its_own(&e) && self.resting.len() < MAX_RESTING => {
                    self.core.note_tier_error(&self.tier, "transition or protection of one version", &e);
                    self.resting.push(claim.clone());
                }
                Err(e) => outcome = Err(e),
            }
            if planned == claims.len() && outcome.is_ok() {
                claims.extend(self.more());
            }
        }
        if outcome.is_ok() {
            outcome = self.seal().await;
        }
        let doomed = self.doom_unreferenced().await;
        self.core.making.lock().retain(|pack| !self.made.contains(pack));
        outcome.and(doomed).map(|()| Done { moved: self.moved, waiting: self.waiting, resting: self.resting })
    }

    /// More versions while the pack is less than two thirds full, as far as memory allows.
    fn more(&self) -> Vec<Claim> {
        let settings = self.core.settings.tiering;
        let full = settings.pack_bytes / 3 * 2;
        let held: usize = self.ready.iter().map(|m| m.subject.len() + m.stored.len()).sum();
        if self.draft.bytes >= full || held >= READY_BYTES {
            return Vec::new();
        }
        self.core.claims().more(&self.aim, settings.max_group, settings.pack_bytes - self.draft.bytes)
    }

    /// Whether only the version that was being planned is concerned: its bytes are damaged, or the tier that they come
    /// from (not the one that they go to) does not answer.
    fn is_its_own(&self, e: &EngineError) -> bool {
        match e {
            EngineError::Corrupt(_) => true,
            EngineError::Tier { tier, .. } => *tier != self.tier,
            _ => false,
        }
    }

    /// Plans one version: every chunk of it is in the tier, or goes into a draft.
    async fn add(&mut self, claim: &Claim) -> Result<(), EngineError> {
        let Some(stored) = self.core.meta.get(keys::table_of(&claim.subject), &claim.subject)? else {
            self.moved.skipped += 1;
            return Ok(());
        };
        let record = ObjectRecord::decode(&stored)?;
        if self.aim.work == Work::Tell {
            self.add_told(claim, stored.to_vec(), record);
            return Ok(());
        }
        let already = match &record.residency {
            Residency::Cold { tier } => self.protects() || *tier == self.tier,
            Residency::Protected { tier } => self.protects() && *tier == self.tier,
            Residency::Hot | Residency::Restored { .. } => false,
        };
        // A copy that was restored since the version was claimed has been asked for: it stays its days.
        let asked_for = record.restoring.is_some() || matches!(record.residency, Residency::Restored { .. });
        if record.version != claim.version || already || asked_for || self.is_overtaken(claim, &record)? {
            self.moved.skipped += 1;
            return Ok(());
        }
        let source = record.residency.tier().map(str::to_owned);
        if let Some(tier) = &source
            && !self.core.tier_is_online(tier)
            && !self.core.all_thawed(&record, (tier, RestorePriority::Bulk), &mut self.thawed).await?
        {
            self.waiting.push(claim.clone());
            return Ok(());
        }
        // What was protected in this tier has been told of there.
        let manifest = record.manifest.filter(|_| source.as_deref() == Some(self.tier.as_str()) && !record.retell);
        let mut member = Member {
            subject: claim.subject.clone(),
            stored: stored.to_vec(),
            record,
            packs: BTreeSet::new(),
            in_draft: false,
            manifest,
        };
        match member.record.body.clone() {
            BodyRef::Inline(chunks) => self.place_all(&mut member, &chunks, FrameKind::Chunk, &source).await?,
            BodyRef::Nodes(nodes) => {
                for node in nodes {
                    let chunks = self.core.node(&node, source.clone()).await?;
                    self.place_all(&mut member, &chunks, FrameKind::Chunk, &source).await?;
                    let len = u32::try_from(super::body::node_len(node.chunks)).unwrap_or(u32::MAX);
                    let node = ChunkRef { id: node.id, len };
                    self.place_all(&mut member, &[node], FrameKind::ManifestNode, &source).await?;
                }
            }
        }
        self.ready.push(member);
        Ok(())
    }

    /// Plans to tell of a version that is in the tier already: of its bytes nothing is needed.
    fn add_told(&mut self, claim: &Claim, stored: Vec<u8>, record: ObjectRecord) {
        let is_there = match &record.residency {
            Residency::Cold { tier } | Residency::Protected { tier } => *tier == self.tier,
            Residency::Hot | Residency::Restored { .. } => false,
        };
        if record.version != claim.version || !record.retell || record.restoring.is_some() || !is_there {
            self.moved.skipped += 1;
            return;
        }
        let (subject, packs) = (claim.subject.clone(), BTreeSet::new());
        self.ready.push(Member { subject, stored, record, packs, in_draft: false, manifest: None });
    }

    /// Whether what a version was claimed for is wanted no more: rules have changed while it waited, or something else has come to
    /// be due for it.
    fn is_overtaken(&self, claim: &Claim, record: &ObjectRecord) -> Result<bool, EngineError> {
        if let Some(fill) = claim.fill {
            let wanted = self.core.tier_by_capacity(&claim.subject, record, (&self.core.policy(), fill))?;
            return Ok(wanted.as_deref() != Some(&self.tier));
        }
        let plan = self.core.plan(&claim.subject, record, self.core.clock.now())?;
        Ok(match plan.action {
            Action::Protect { tier } => !self.protects() || tier != self.tier,
            Action::Transition { tier, .. } => self.protects() || tier != self.tier,
            _ => true,
        })
    }

    fn protects(&self) -> bool {
        self.aim.work == Work::Protect
    }

    /// What a version is to be.
    fn aimed(&self, record: &ObjectRecord) -> Residency {
        let tier = self.tier.clone();
        match self.aim.work {
            Work::Protect => Residency::Protected { tier },
            Work::Tell => record.residency.clone(),
            Work::Move | Work::Release => Residency::Cold { tier },
        }
    }

    async fn place_all(
        &mut self,
        member: &mut Member,
        chunks: &[ChunkRef],
        kind: FrameKind,
        source: &Option<String>,
    ) -> Result<(), EngineError> {
        for chunk in chunks {
            if self.draft.ids.contains(&chunk.id) {
                member.in_draft = true;
            } else if let Some(at) = self.core.remote.locate(&self.tier, &chunk.id) {
                member.packs.insert(at.pack);
            } else {
                let stored_len = self.stored_len(chunk, source)?;
                let frame = FRAME_HEADER_LEN as u64 + u64::from(stored_len);
                if self.draft.bytes > 0 && self.draft.bytes + frame > self.core.settings.tiering.pack_bytes {
                    self.seal_with(Some(member)).await?;
                }
                let codec = codec_of(chunk.len, stored_len);
                let planned = PlannedFrame { id: chunk.id, kind, codec, raw_len: chunk.len, stored_len };
                self.draft.frames.push(planned);
                self.draft.ids.insert(chunk.id);
                if let Some(source) = source {
                    self.draft.sources.insert(chunk.id, source.clone());
                }
                self.draft.bytes += frame;
                member.in_draft = true;
            }
        }
        Ok(())
    }

    /// Length of the frame that will be sent: the local one, else that in the source tier.
    fn stored_len(&self, chunk: &ChunkRef, source: &Option<String>) -> Result<u32, EngineError> {
        if let Some(len) = self.core.local.stored_len(&chunk.id) {
            return Ok(len);
        }
        source
            .iter()
            .cloned()
            .chain(self.core.remote.tiers_with(&chunk.id))
            .find_map(|tier| self.core.remote.locate(&tier, &chunk.id))
            .map(|at| at.stored_len)
            .ok_or_else(|| EngineError::Corrupt(format!("chunk {} is neither in a local pack nor in a tier", chunk.id)))
    }

    async fn seal(&mut self) -> Result<(), EngineError> {
        self.seal_with(None).await
    }

    /// Uploads the draft and commits the versions that are complete with it. `growing` is the version that is still
    /// being planned. The pack tells of all that are complete, so there is one even when the tier has all their chunks; but none
    /// for what was protected there.
    async fn seal_with(&mut self, growing: Option<&mut Member>) -> Result<(), EngineError> {
        let (mut draft, mut ready) = (std::mem::take(&mut self.draft), std::mem::take(&mut self.ready));
        self.tell(&mut draft, &mut ready).await?;
        if !draft.frames.is_empty() {
            let pack = self.upload(draft).await?;
            if let Some(growing) = growing
                && std::mem::take(&mut growing.in_draft)
            {
                growing.packs.insert(pack);
            }
            for member in ready.iter_mut().filter(|member| member.in_draft) {
                member.packs.insert(pack);
            }
        }
        while !ready.is_empty() {
            let rest = ready.split_off(draft::fitting(&ready, |member| self.told_bytes(member)));
            self.commit(std::mem::replace(&mut ready, rest)).await?;
        }
        Ok(())
    }

    /// Bytes of the events that [`commit`](Self::commit) adds for a version, at most.
    fn told_bytes(&self, member: &Member) -> usize {
        match (self.aim.work, names(&member.subject)) {
            (Work::Move, Ok(name)) => self.core.moved_event_bytes(name),
            _ => 0,
        }
    }

    /// Adds the frames to a draft that tell of `members`.
    async fn tell(&self, draft: &mut Draft, members: &mut [Member]) -> Result<(), EngineError> {
        let mut telling = Telling::default();
        for member in members.iter().filter(|member| member.manifest.is_none()) {
            let bucket = |name: &[u8]| Ok(self.core.meta.get(Table::Bucket, name)?.map(|v| v.to_vec()));
            telling.object(&member.subject, (&member.record, self.aimed(&member.record)), bucket)?;
        }
        let level = self.core.settings.chunks.zstd_level;
        let frames = tokio::task::spawn_blocking(move || telling.frames(level));
        let frames = frames.await.map_err(|e| EngineError::Internal(format!("compress manifests: {e}")))??;
        let mut untold = members.iter_mut().filter(|member| member.manifest.is_none());
        for told in frames {
            for member in untold.by_ref().take(told.objects) {
                (member.manifest, member.in_draft) = (Some(told.id), true);
            }
            draft.frames.push(told.planned());
            draft.told.insert(told.id, told.frame);
        }
        Ok(())
    }

    /// Intent, upload, confirmation.
    async fn upload(&mut self, draft: Draft) -> Result<PackId, EngineError> {
        let core = Arc::clone(&self.core);
        let now = core.clock.now();
        let id = PackId::fresh(now.millis());
        let header = PackHeader { id, class: PackClass::Remote, created_ms: now.millis() };
        let plan = RemotePackPlan::new(header, &draft.frames).map_err(|e| EngineError::Internal(e.to_string()))?;
        let key = keys::remote_pack(&self.tier, u128::from_be_bytes(id.0));
        let mut record = RemotePackRecord {
            name: core.remote_name(&id),
            state: RemotePackState::Uploading,
            bytes: plan.total_len(),
            chunks: u32::try_from(draft.frames.len()).unwrap_or(u32::MAX),
            created: now,
            crc64: None,
            etag: None,
            references: 0,
            version: None,
        };
        core.may_write_remotely().await?;
        let intent = record.encode()?;
        self.made.push(id);
        core.making.lock().insert(id);
        let batch = Batch::new(Reason::TransitionIntent).expect(Expect::Absent(Table::RemotePack, key.clone())).put(
            Table::RemotePack,
            key.clone(),
            intent.clone(),
        );
        core.meta.commit(batch).await?;
        failpoint::hit("transition.after_intent");

        let entries: Vec<_> = plan
            .entries()
            .iter()
            .map(|e| RemoteEntry { id: e.id, offset: e.offset, stored_len: e.stored_len })
            .collect();
        let body = Arc::new(PackBody::new(&core, plan, (draft.sources, draft.told)));
        let failed = |source| EngineError::Tier { tier: self.tier.clone(), source };
        let receipt = match core.tier(&self.tier)?.put(&record.name, body).await {
            Err(_) if mutants::active(Mutant::FailedUploadCounts) => {
                PutReceipt { etag: None, crc64: None, version_id: None }
            }
            done => done.map_err(failed)?,
        };
        failpoint::hit("transition.after_upload");

        record.state = RemotePackState::Live;
        record.crc64 = receipt.crc64;
        record.etag = receipt.etag;
        record.version = receipt.version_id;
        let footer = RemoteFooter { entries };
        let batch = Batch::new(Reason::RemotePack)
            .expect(Expect::Equals(Table::RemotePack, key.clone(), intent))
            .put(Table::RemotePack, key.clone(), record.encode()?)
            .put(Table::Manifest, key, footer.encode()?);
        core.meta.commit(batch).await?;
        failpoint::hit("transition.after_live");
        core.remote.add(&self.tier, id, &record.name, &footer)?;
        self.moved.packs += 1;
        self.moved.bytes += record.bytes;
        core.metrics.transitioned_bytes.inc_by(record.bytes);
        Ok(id)
    }

    /// Hot to Cold (or to Protected, or told of anew) for all members at once; those that changed meanwhile drop out, which is not an error.
    async fn commit(&mut self, mut members: Vec<Member>) -> Result<(), EngineError> {
        for _ in 0..MAX_RACES {
            if members.is_empty() {
                return Ok(());
            }
            let mut batch = Batch::new(match self.aim.work {
                Work::Protect => Reason::Protect,
                Work::Tell => Reason::TellLocks,
                Work::Move | Work::Release => Reason::Transition,
            });
            let mut packs = BTreeSet::new();
            for member in &members {
                packs.extend(member.packs.iter().copied());
                if !mutants::active(Mutant::TransitionWithoutCompare) {
                    let (table, subject) = (keys::table_of(&member.subject), member.subject.clone());
                    batch.expects.push(Expect::Equals(table, subject, member.stored.clone()));
                }
                let mut record = member.record.clone();
                if mutants::active(Mutant::TransitionModifies) {
                    record.modified = self.core.clock.now();
                }
                record.residency = self.aimed(&member.record);
                record.manifest = member.manifest;
                record.retell = false;
                let old = (Some(&member.record), Look::AsPlanned);
                self.core.put_version(&mut batch, &member.subject, old, &mut record)?;
                if self.aim.work == Work::Move {
                    self.core.tell_moved(&mut batch, names(&member.subject)?, &record)?;
                }
            }
            let referred = match packs.len() > MAX_REFERRED {
                true => self.core.refer_ahead(&mut batch, &self.tier, &packs).await?,
                false => self.core.refer_to_packs(&mut batch, &self.tier, &packs)?,
            };
            if !referred {
                // A pack was doomed between planning and now: the members are found due again and planned anew.
                self.moved.skipped += members.len() as u64;
                return Ok(());
            }
            match self.core.meta.commit(batch).await {
                Ok(_) => {
                    failpoint::hit("transition.after_commit");
                    self.moved.versions += members.len() as u64;
                    let metrics = &self.core.metrics;
                    match self.aim.work {
                        Work::Protect => metrics.protected_versions.inc_by(members.len() as u64),
                        Work::Tell => {}
                        Work::Move | Work::Release => metrics.transitioned_versions.inc_by(members.len() as u64),
                    }
                    return Ok(());
                }
                Err(MetaError::Conflict { table: Table::Object | Table::Version, key }) => {
                    members.retain(|m| m.subject != key);
                    self.moved.skipped += 1;
                }
                Err(MetaError::Conflict { .. }) => {}
                Err(other) => return Err(other.into()),
            }
        }
        Err(EngineError::Conflict)
    }

    /// Packs of this job that no version refers to in the end (failed uploads, lost races) become deletes.
    async fn doom_unreferenced(&self) -> Result<(), EngineError> {
        for id in &self.made {
            self.core.doom_if_unreferenced(&self.tier, *id).await?;
        }
        Ok(())
    }
}

#[cfg(test)]
#[path = "transition_tests.rs"]
mod tests;
