//! The end of remote packs: those that nobody needs are doomed by a commit, and then deleted by a durable job.

use super::Core;
use super::error::EngineError;
use super::keys;
use super::record::{Record, RemoteFooter, RemotePackRecord, RemotePackState};
use super::transition::{MAX_REFERRED, folder, split_name};
use crate::clock::Timestamp;
use crate::failpoint;
use crate::meta::{Batch, Expect, MetaError, MetaStore, Op, Reason, Table, Value};
use crate::mutants::{self, Mutant};
use crate::pack::PackId;
use crate::tier::TierErrorKind;
use std::collections::{BTreeMap, BTreeSet};
use std::ops::{Bound, ControlFlow};
use std::sync::Arc;

/// A pack of a tier as the namespace knows it.
#[derive(Debug, Clone)]
pub(crate) struct RemotePack {
    pub key: Vec<u8>,
    pub tier: String,
    pub pack: PackId,
    /// The record's bytes as they are stored: what a compare-and-swap has to name. Encoding `record` anew may give others,
    /// when an older version wrote them.
    pub stored: Value,
    pub record: RemotePackRecord,
}

impl RemotePack {
    pub(crate) fn read(key: &[u8], stored: &Value) -> Result<Self, EngineError> {
        let (tier, pack) = keys::split_remote_pack(key)
            .ok_or_else(|| EngineError::Corrupt("a remote pack's key does not come apart".into()))?;
        let (tier, pack) = (tier.to_owned(), PackId(pack.to_be_bytes()));
        Ok(Self { key: key.to_vec(), tier, pack, stored: stored.clone(), record: RemotePackRecord::decode(stored)? })
    }
}

/// How often a commit is tried again after conflicts.
const MAX_RACES: usize = 32;

/// Whether a request failed because its tier does not answer, or is not configured: the next would fail alike.
pub(super) fn is_silence(e: &EngineError) -> bool {
    match e {
        EngineError::Unavailable(_) => true,
        EngineError::Tier { source, .. } => {
            matches!(source.kind(), TierErrorKind::Throttled { .. } | TierErrorKind::Unavailable)
        }
        _ => false,
    }
}

fn fence_count(stored: &[u8]) -> u64 {
    stored.try_into().map_or(0, u64::from_le_bytes)
}

fn expect_fence(tier: &str, fence: Option<&Value>) -> Expect {
    match fence {
        Some(value) => Expect::Equals(Table::System, keys::fence(tier), value.to_vec()),
        None => Expect::Absent(Table::System, keys::fence(tier)),
    }
}

/// The latest epoch of the packs that the namespace was made of, when it was made of packs alone.
pub(super) fn from_packs(meta: &dyn MetaStore) -> Result<Option<u64>, EngineError> {
    let Some(stored) = meta.get(Table::System, keys::FROM_PACKS)? else { return Ok(None) };
    let epoch = stored.as_ref().try_into().map(u64::from_le_bytes);
    epoch.map(Some).map_err(|_| EngineError::Corrupt("the epoch of a recovery from packs has not 8 bytes".into()))
}

impl Core {
    /// Whether nobody knows what a pack is for: the namespace was made of packs alone, and neither did this one tell of objects
    /// nor did any that was found need it. Objects may be in it of which nothing was found.
    pub(crate) fn is_untold(&self, found: &RemotePack) -> bool {
        let epoch = split_name(&folder(&self.deployment), &found.record.name).map(|(epoch, _)| epoch);
        found.record.references == 0 && self.from_packs.is_some_and(|until| epoch.is_none_or(|epoch| epoch <= until))
    }

    /// Calls `visit` with every remote pack whose record can be read, in the order of keys. The others are reported.
    pub(crate) fn each_remote_pack(&self, mut visit: impl FnMut(RemotePack)) -> Result<(), EngineError> {
        self.meta.scan_each(Table::RemotePack, (Bound::Unbounded, Bound::Unbounded), &mut |key, value| {
            if let Some(found) = self.usable(Table::RemotePack, key, RemotePack::read(key, value)) {
                visit(found);
            }
            ControlFlow::Continue(())
        })?;
        Ok(())
    }

    /// Remote packs in a state, in the order of keys.
    pub(crate) fn remote_packs(&self, state: RemotePackState) -> Result<Vec<RemotePack>, EngineError> {
        let mut out = Vec::new();
        self.each_remote_pack(|pack| {
            if pack.record.state == state {
                out.push(pack);
            }
        })?;
        Ok(out)
    }

    /// How many packs wait to be deleted remotely.
    pub(crate) fn doomed_packs(&self) -> Result<u64, EngineError> {
        let mut count = 0;
        self.each_remote_pack(|pack| count += u64::from(pack.record.state == RemotePackState::Doomed))?;
        Ok(count)
    }

    /// What was being uploaded when the last process ended is an orphan: its name is never used again.
    pub(crate) async fn doom_orphans(&self) -> Result<u64, EngineError> {
        let mut count = 0;
        if mutants::active(Mutant::KeepOrphans) {
            return Ok(count);
        }
        for pack in self.remote_packs(RemotePackState::Uploading)? {
            self.doom_pack(pack).await?;
            count += 1;
        }
        Ok(count)
    }

    pub(crate) async fn doom_if_unreferenced(&self, tier: &str, pack: PackId) -> Result<(), EngineError> {
        let Some(found) = self.remote_pack(tier, &pack)? else { return Ok(()) };
        if found.record.references > 0 || found.record.state == RemotePackState::Doomed {
            return Ok(());
        }
        self.doom_pack(found).await.map(drop)
    }

    /// Makes `batch` raise the reference counters of live packs, so that a doom decided before this commit fails.
    /// False when one of them is not live any more.
    pub(crate) fn refer_to_packs<'a>(
        &self,
        batch: &mut Batch,
        tier: &str,
        packs: impl IntoIterator<Item = &'a PackId>,
    ) -> Result<bool, EngineError> {
        for pack in packs {
            let Some(RemotePack { key, stored, mut record, .. }) = self.remote_pack(tier, pack)? else {
                return Ok(false);
            };
            if record.state != RemotePackState::Live {
                return Ok(false);
            }
            record.references = record.references.saturating_add(1);
            batch.expects.push(Expect::Equals(Table::RemotePack, key.clone(), stored.to_vec()));
            batch.ops.push(Op { table: Table::RemotePack, key, value: Some(record.encode()?) });
        }
        Ok(true)
    }

    fn remote_pack(&self, tier: &str, pack: &PackId) -> Result<Option<RemotePack>, EngineError> {
        let key = keys::remote_pack(tier, u128::from_be_bytes(pack.0));
        self.meta.get(Table::RemotePack, &key)?.map(|stored| RemotePack::read(&key, &stored)).transpose()
    }

    /// As [`refer_to_packs`](Self::refer_to_packs) for more packs than one commit can raise. Counters that stand at zero are
    /// raised by commits of their own, so that no job takes the pack for its own failure; `batch` only states the
    /// records. A mark that listed them before `batch` could doom them right after it without noticing, so `batch` also
    /// moves the tier's fence, which a doom by a mark states.
    pub(crate) async fn refer_ahead(
        &self,
        batch: &mut Batch,
        tier: &str,
        packs: &BTreeSet<PackId>,
    ) -> Result<bool, EngineError> {
        let unreferred = |pack: &&PackId| match self.remote_pack(tier, pack) {
            Ok(Some(found)) => found.record.references == 0,
            _ => true,
        };
        let new: Vec<&PackId> = packs.iter().filter(unreferred).collect();
        for group in new.chunks(MAX_REFERRED) {
            let mut races = 0;
            loop {
                let mut raise = Batch::new(Reason::RemotePack);
                if !self.refer_to_packs(&mut raise, tier, group.iter().copied())? {
                    return Ok(false);
                }
                match self.meta.commit(raise).await {
                    Err(MetaError::Conflict { .. }) if races < MAX_RACES => races += 1,
                    other => {
                        other?;
                        break;
                    }
                }
            }
        }
        for pack in packs {
            match self.remote_pack(tier, pack)? {
                Some(RemotePack { key, stored, record, .. }) if record.state == RemotePackState::Live => {
                    batch.expects.push(Expect::Equals(Table::RemotePack, key, stored.to_vec()));
                }
                _ => return Ok(false),
            }
        }
        let fence = self.fence(tier)?;
        let (key, count) = (keys::fence(tier), fence.as_deref().map_or(0, fence_count));
        batch.expects.push(expect_fence(tier, fence.as_ref()));
        batch.ops.push(Op { table: Table::System, key, value: Some((count + 1).to_le_bytes().to_vec()) });
        Ok(true)
    }

    /// The tier's fence as it stands: none before the first move that needed it.
    pub(crate) fn fence(&self, tier: &str) -> Result<Option<Value>, EngineError> {
        Ok(self.meta.get(Table::System, &keys::fence(tier))?)
    }

    /// As [`doom_pack`](Self::doom_pack), for what a mark found: false also when a large version became cold since `fence`
    /// was read, which may refer to the pack.
    pub(crate) async fn doom_marked(&self, found: RemotePack, fence: Option<&Value>) -> Result<bool, EngineError> {
        let expect = expect_fence(&found.tier, fence);
        self.doom(found, Some(expect)).await
    }

    /// Marks a pack as doomed if its record is still as it was found; the deletion itself is a durable job. False when a
    /// version has come to refer to it meanwhile.
    pub(crate) async fn doom_pack(&self, found: RemotePack) -> Result<bool, EngineError> {
        self.doom(found, None).await
    }

    async fn doom(&self, found: RemotePack, also: Option<Expect>) -> Result<bool, EngineError> {
        let RemotePack { key, tier, pack, stored, mut record } = found;
        record.state = RemotePackState::Doomed;
        // Before the commit: from then on the deletion may come first, and takes the footer with it.
        let footer = self.meta.get(Table::Manifest, &key)?;
        let footer = footer.and_then(|f| self.usable(Table::Manifest, &key, RemoteFooter::decode(&f)));
        let mut batch = Batch::new(Reason::RemotePack)
            .expect(Expect::Equals(Table::RemotePack, key.clone(), stored.to_vec()))
            .put(Table::RemotePack, key, record.encode()?);
        if self.ship.is_some() {
            let now = self.clock.now().millis().to_le_bytes();
            batch = batch.put(Table::System, keys::doomed(&tier, u128::from_be_bytes(pack.0)), now);
        }
        batch.expects.extend(also);
        if mutants::active(Mutant::DeleteBeforeDoom) {
            let _ = self.tier(&tier)?.delete(&record.name).await;
        }
        match self.meta.commit(batch).await {
            Err(MetaError::Conflict { .. }) => return Ok(false),
            other => other?,
        };
        failpoint::hit("remote.after_doom");
        self.remote.remove(&tier, pack, footer.as_ref())?;
        self.doomed_wanted.store(true, std::sync::atomic::Ordering::Release);
        self.wake.notify_one();
        Ok(true)
    }

    /// Deletes doomed packs remotely, then their records. Deleting again after a crash is harmless. A pack that cannot be
    /// deleted holds up no other; a tier that does not answer is left alone for this round.
    ///
    /// # Errors
    /// The first failure, once all others have been tried. Each tier's first is noted.
    async fn delete_doomed(&self, doomed: &[RemotePack]) -> Result<u64, EngineError> {
        let mut deleted = 0;
        let mut failed: BTreeMap<&str, u64> = BTreeMap::new();
        let mut silent: BTreeSet<&str> = BTreeSet::new();
        let mut first = None;
        for pack in doomed {
            if self.stop.is_cancelled() {
                break;
            }
            if silent.contains(pack.tier.as_str()) {
                continue;
            }
            let Err(e) = self.delete_one(pack).await else {
                deleted += 1;
                continue;
            };
            if is_silence(&e) {
                silent.insert(&pack.tier);
            }
            let count = failed.entry(&pack.tier).or_default();
            *count += 1;
            if *count == 1 {
                self.note_tier_error(&pack.tier, "delete", &e);
                first.get_or_insert(e);
            }
        }
        for (tier, packs) in failed.iter().filter(|(_, packs)| **packs > 1) {
            tracing::warn!(tier, packs, "so many packs could not be deleted and will be tried again");
        }
        first.map_or(Ok(deleted), Err)
    }

    async fn delete_one(&self, pack: &RemotePack) -> Result<(), EngineError> {
        let RemotePack { tier, key, record, .. } = pack;
        let failed = |source| EngineError::Tier { tier: tier.clone(), source };
        self.may_write_remotely().await?;
        let deleted = match &record.version {
            Some(version) => self.tier(tier)?.delete_version(&record.name, version).await,
            None => self.tier(tier)?.delete(&record.name).await,
        };
        deleted.map_err(failed)?;
        failpoint::hit("remote.after_delete");
        let batch = Batch::new(Reason::RemotePack)
            .delete(Table::RemotePack, key.clone())
            .delete(Table::Manifest, key.clone())
            .delete(Table::Thaw, key.clone());
        let batch = if self.ship.is_some() {
            batch.delete(Table::System, keys::doomed(tier, u128::from_be_bytes(pack.pack.0)))
        } else {
            batch
        };
        Ok(self.meta.commit(batch).await.map(drop)?)
    }

    /// Those that no moment that can be recovered needs any more.
    fn past_keeping(&self, doomed: &[RemotePack]) -> Result<Vec<RemotePack>, EngineError> {
        let Some(ship) = &self.ship else { return Ok(doomed.to_vec()) };
        let now = self.clock.now();
        let mut past = Vec::new();
        for pack in doomed {
            let since = self.meta.get(Table::System, &keys::doomed(&pack.tier, u128::from_be_bytes(pack.pack.0)))?;
            // Without a time it was doomed before anything was shipped.
            let since = since.and_then(|s| s.as_ref().try_into().ok()).map(u64::from_le_bytes);
            if since.is_none_or(|at| now.since(Timestamp(at)) >= ship.settings.keep) {
                past.push(pack.clone());
            }
        }
        Ok(past)
    }

    /// Deletes doomed packs once the commits that doomed them are on disk: with relaxed durability a power cut could
    /// bring versions back whose packs are gone.
    pub(crate) async fn delete_doomed_durably(self: &Arc<Self>, doomed: &[RemotePack]) -> Result<(), EngineError> {
        let core = Arc::clone(self);
        let synced = tokio::task::spawn_blocking(move || core.meta.sync());
        let synced = synced.await.map_err(|e| EngineError::Internal(format!("sync the journal: {e}")))??;
        let doomed = self.past_keeping(doomed)?;
        if doomed.is_empty() {
            return Ok(());
        }
        // A store that is recovered without them would name what is gone.
        if !mutants::active(Mutant::DeleteBeforeShipped) {
            self.is_shipped(synced).await?;
        }
        self.delete_doomed(&doomed).await.map(drop)
    }
}
