//! What a namespace that came from the cloud is worth: which bytes are in the tiers, and which were on the lost disk only.

use super::body::{BodyRef, ChunkRef, NodeRef, decode_node};
use super::broken::Broken;
use super::doom::RemotePack;
use super::error::EngineError;
use super::keys;
use super::record::{ObjectRecord, PartRecord, Record, RemotePackState};
use super::remote_index::RemoteIndex;
use super::types::Residency;
use crate::chunk::ChunkId;
use crate::clock::Timestamp;
use crate::local::LocalStore;
use crate::meta::{Batch, Expect, JournaledStore, MetaError, MetaStore, Reason, Table};
use crate::pack::PackId;
use crate::pack::format::{FRAME_HEADER_LEN, decode_frame};
use crate::recovery::{RecoveryError, fetch_range, list};
use crate::tier::Tier;
use serde::{Deserialize, Serialize};
use std::collections::{BTreeMap, BTreeSet};
use std::ops::{Bound, ControlFlow};
use std::sync::{Arc, Mutex, PoisonError};

/// Records looked at between two commits or reports.
const PAGE: usize = 256;
/// How often a record is looked at again that others write.
const MAX_RACES: usize = 100;

/// An object whose bytes are gone.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct MissingObject {
    /// Bucket.
    pub bucket: String,
    /// Key.
    pub key: String,
    /// Version.
    pub version: String,
    /// Bytes of the whole object.
    pub size: u64,
    /// ETag.
    pub etag: String,
    /// Last-Modified.
    pub modified: Timestamp,
}

/// What there is and what is not.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(default)]
pub struct Examined {
    /// Buckets.
    pub buckets: u64,
    /// Objects, those without bytes included.
    pub objects: u64,
    /// Their logical bytes.
    pub bytes: u64,
    /// Objects whose bytes, or some of them, are nowhere any more: they were on the lost disk only.
    pub missing_objects: u64,
    /// Their logical bytes.
    pub missing_bytes: u64,
    /// Objects of which it is not known: lists of their chunks lie in an archive, or their tier is not configured.
    pub unknown_objects: u64,
    /// Restored copies that were on the lost disk: these objects are archived again.
    pub restored_again_cold: u64,
    /// Uploads under way.
    pub uploads: u64,
    /// Parts of them whose bytes are gone: these parts are not listed any more, the uploads are.
    pub missing_parts: u64,
    /// Restore jobs that go on.
    pub restore_jobs: u64,
    /// Packs that the namespace has in tiers.
    pub packs: u64,
    /// Packs that it has and a tier has not.
    pub missing_packs: u64,
    /// Tiers in use that the configuration does not name.
    pub unknown_tiers: Vec<String>,
    /// Tiers in use that have none of their packs: they may be the wrong ones, or not mounted.
    pub empty_tiers: Vec<String>,
    /// Records that cannot be decoded.
    pub unreadable_records: u64,
}

/// Looks through a namespace.
pub(crate) struct Examination<'a> {
    pub meta: &'a JournaledStore,
    pub tiers: &'a BTreeMap<String, Arc<dyn Tier>>,
    pub deployment: &'a str,
    /// Take back what the lost disk had besides: restored copies, parts of uploads.
    pub repair: bool,
    /// Local packs, where there are any.
    pub local: Option<&'a LocalStore>,
    pub index: RemoteIndex,
    pub found: Examined,
    /// Tiers of which packs are missing.
    pub holed: BTreeSet<String>,
    /// Look into all lists of chunks, although no pack is known to be missing: what is there is all that is known.
    pub deep: bool,
    /// The packs that were found to be needed.
    needed: Mutex<BTreeSet<(String, PackId)>>,
}

/// Whether bytes are there.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Bytes {
    There,
    Gone,
    Unknown,
}

fn failed(e: &EngineError) -> RecoveryError {
    RecoveryError::Damaged(e.to_string())
}

impl<'a> Examination<'a> {
    pub(crate) fn new(
        meta: &'a JournaledStore,
        tiers: &'a BTreeMap<String, Arc<dyn Tier>>,
        deployment: &'a str,
        repair: bool,
    ) -> Self {
        let (index, found, holed) = (RemoteIndex::default(), Examined::default(), BTreeSet::new());
        Self {
            meta,
            tiers,
            deployment,
            repair,
            local: None,
            index,
            found,
            holed,
            deep: false,
            needed: Mutex::default(),
        }
    }

    /// Whether a pack has something that an object was found to need.
    pub(crate) fn needs(&self, tier: &str, pack: PackId) -> bool {
        self.needed.lock().unwrap_or_else(PoisonError::into_inner).contains(&(tier.to_owned(), pack))
    }

    /// Looks at everything; `missing` hears of each object without bytes, `progress` of the objects so far.
    pub(crate) async fn run(
        &mut self,
        missing: &mut dyn FnMut(&MissingObject) -> Result<(), RecoveryError>,
        progress: &mut dyn FnMut(u64),
    ) -> Result<(), RecoveryError> {
        self.packs().await?;
        self.found.buckets = self.count(Table::Bucket)?;
        self.found.uploads = self.count(Table::Upload)?;
        self.found.restore_jobs = self.count(Table::Job)?;
        for table in [Table::Object, Table::Version] {
            self.table(table, missing, progress).await?;
        }
        self.parts().await
    }

    async fn table(
        &mut self,
        table: Table,
        missing: &mut dyn FnMut(&MissingObject) -> Result<(), RecoveryError>,
        progress: &mut dyn FnMut(u64),
    ) -> Result<(), RecoveryError> {
        let mut from = Bound::Unbounded;
        loop {
            let page = self.meta.scan(table, (from, Bound::Unbounded), PAGE, false)?;
            let Some((last, _)) = page.last() else { return Ok(()) };
            from = Bound::Excluded(last.clone());
            for (subject, stored) in &page {
                match ObjectRecord::decode(stored) {
                    Ok(record) if record.marker => {}
                    Ok(record) => self.object(subject, stored, record, missing).await?,
                    Err(_) => self.found.unreadable_records += 1,
                }
            }
            progress(self.found.objects);
        }
    }

    fn count(&self, table: Table) -> Result<u64, RecoveryError> {
        let mut count = 0;
        self.meta.scan_each(table, (Bound::Unbounded, Bound::Unbounded), &mut |_, _| {
            count += 1;
            ControlFlow::Continue(())
        })?;
        Ok(count)
    }

    /// The packs that the namespace knows, less those that their tier does not list.
    async fn packs(&mut self) -> Result<(), RecoveryError> {
        let counter = prometheus::IntCounterVec::new(prometheus::Opts::new("unusable", "Records."), &["table"]);
        let broken = Broken::new(counter.map_err(|e| RecoveryError::Local(e.to_string()))?);
        self.index.load(self.meta as &dyn MetaStore, &broken).map_err(|e| failed(&e))?;
        let mut expected: BTreeMap<String, Vec<(String, PackId)>> = BTreeMap::new();
        self.meta.scan_each(Table::RemotePack, (Bound::Unbounded, Bound::Unbounded), &mut |key, value| {
            if let Ok(pack) = RemotePack::read(key, value)
                && pack.record.state == RemotePackState::Live
            {
                expected.entry(pack.tier).or_default().push((pack.record.name, pack.pack));
            }
            ControlFlow::Continue(())
        })?;
        for (name, packs) in expected {
            self.found.packs += packs.len() as u64;
            let Some(tier) = self.tiers.get(&name) else {
                self.found.unknown_tiers.push(name);
                continue;
            };
            let there = list(tier.as_ref(), &format!("{}/", super::transition::folder(self.deployment)), None).await;
            let there = there.map_err(|e| match e {
                RecoveryError::Tier(e) => RecoveryError::Packs(name.clone(), e),
                other => other,
            })?;
            if there.is_empty() {
                self.found.empty_tiers.push(name.clone());
            }
            let there: BTreeSet<String> = there.into_iter().map(|(name, _)| name).collect();
            for (pack_name, pack) in packs.iter().filter(|(pack_name, _)| !there.contains(pack_name)) {
                tracing::warn!(tier = name, pack = pack_name, "a pack that the namespace has is not in its tier");
                self.found.missing_packs += 1;
                self.holed.insert(name.clone());
                self.index.remove(&name, *pack, None).map_err(|e| failed(&e))?;
            }
        }
        Ok(())
    }

    async fn object(
        &mut self,
        subject: &[u8],
        stored: &[u8],
        record: ObjectRecord,
        missing: &mut dyn FnMut(&MissingObject) -> Result<(), RecoveryError>,
    ) -> Result<(), RecoveryError> {
        self.found.objects += 1;
        self.found.bytes = self.found.bytes.saturating_add(record.size);
        let state = match record.residency.tier() {
            None => self.body(&record.body, true).await?,
            Some(tier) if !self.tiers.contains_key(tier) => Bytes::Unknown,
            // What was protected is there as what was cold is.
            Some(tier) => self.body(&record.body, self.deep || self.holed.contains(tier)).await?,
        };
        match state {
            Bytes::There => {}
            Bytes::Unknown => self.found.unknown_objects += 1,
            Bytes::Gone => {
                self.found.missing_objects += 1;
                self.found.missing_bytes = self.found.missing_bytes.saturating_add(record.size);
                let (bucket, key) = keys::split_object(subject).unwrap_or_default();
                missing(&MissingObject {
                    bucket: bucket.to_owned(),
                    key: key.to_owned(),
                    version: record.version.to_string(),
                    size: record.size,
                    etag: record.etag.clone(),
                    modified: record.modified,
                })?;
            }
        }
        self.take_back(subject, stored.to_vec()).await
    }

    /// A restored copy that is nowhere any more: its object is archived again. Others may write the record meanwhile, such as the walk
    /// after a change of the policy; then it is looked at again.
    async fn take_back(&mut self, subject: &[u8], mut stored: Vec<u8>) -> Result<(), RecoveryError> {
        for _ in 0..MAX_RACES {
            let record = ObjectRecord::decode(&stored).map_err(|e| failed(&e))?;
            let Residency::Restored { tier, .. } = &record.residency else { return Ok(()) };
            if self.is_local(&record.body) {
                return Ok(());
            }
            let residency = Residency::Cold { tier: tier.clone() };
            // Its due time stays: what is to be done then is decided then.
            let next = ObjectRecord { residency, ..record }.encode().map_err(|e| failed(&e))?;
            let batch = Batch::new(Reason::RestoreExpired)
                .expect(Expect::Equals(keys::table_of(subject), subject.to_vec(), stored))
                .put(keys::table_of(subject), subject, next);
            if self.commit(batch).await? {
                self.found.restored_again_cold += 1;
                return Ok(());
            }
            match self.meta.get(keys::table_of(subject), subject)? {
                Some(now) => stored = now.to_vec(),
                None => return Ok(()),
            }
        }
        let key = super::ops::describe_key(keys::table_of(subject), subject);
        Err(RecoveryError::Local(format!("{key} changes again and again")))
    }

    /// False when somebody else was quicker.
    async fn commit(&self, batch: Batch) -> Result<bool, RecoveryError> {
        if !self.repair {
            return Ok(true);
        }
        match self.meta.commit(batch).await {
            Ok(_) => Ok(true),
            Err(MetaError::Conflict { .. }) => Ok(false),
            Err(e) => Err(e.into()),
        }
    }

    /// Parts are on local disks only until their upload is complete.
    async fn parts(&mut self) -> Result<(), RecoveryError> {
        let mut from = Bound::Unbounded;
        loop {
            let page = self.meta.scan(Table::Part, (from, Bound::Unbounded), PAGE, false)?;
            let Some((last, _)) = page.last() else { return Ok(()) };
            from = Bound::Excluded(last.clone());
            for (key, stored) in &page {
                let Ok(part) = PartRecord::decode(stored) else {
                    self.found.unreadable_records += 1;
                    continue;
                };
                if self.body(&part.body, true).await? == Bytes::Gone {
                    self.found.missing_parts += 1;
                    // It may have been uploaded again meanwhile.
                    let batch = Batch::new(Reason::AbortUpload)
                        .expect(Expect::Equals(Table::Part, key.clone(), stored.to_vec()))
                        .delete(Table::Part, key.clone());
                    self.commit(batch).await?;
                }
            }
        }
    }

    fn has(&self, id: &ChunkId) -> bool {
        let tiers = self.index.tiers_with(id);
        for tier in tiers.iter().filter(|_| self.deep) {
            if let Some(at) = self.index.locate(tier, id) {
                self.needed.lock().unwrap_or_else(PoisonError::into_inner).insert((tier.clone(), at.pack));
            }
        }
        self.has_local(id) || !tiers.is_empty()
    }

    fn has_local(&self, id: &ChunkId) -> bool {
        self.local.is_some_and(|local| local.pack_of(id).is_some())
    }

    /// Whether all that a record names is on local disks; of lists of chunks, the lists.
    fn is_local(&self, body: &BodyRef) -> bool {
        match body {
            BodyRef::Inline(chunks) => chunks.iter().all(|chunk| self.has_local(&chunk.id)),
            BodyRef::Nodes(nodes) => nodes.iter().all(|node| self.has_local(&node.id)),
        }
    }

    /// Whether all chunks are in tiers; `deep` looks into lists of chunks, which costs a request each.
    async fn body(&self, body: &BodyRef, deep: bool) -> Result<Bytes, RecoveryError> {
        let all = |chunks: &[ChunkRef]| chunks.iter().all(|chunk| self.has(&chunk.id));
        let nodes = match body {
            BodyRef::Inline(chunks) => return Ok(if all(chunks) { Bytes::There } else { Bytes::Gone }),
            BodyRef::Nodes(nodes) => nodes,
        };
        if !nodes.iter().all(|node| self.has(&node.id)) {
            return Ok(Bytes::Gone);
        }
        let mut state = Bytes::There;
        for node in nodes.iter().filter(|_| deep) {
            match self.node(node).await? {
                Some(chunks) if !all(&chunks) => return Ok(Bytes::Gone),
                Some(_) => {}
                None => state = Bytes::Unknown,
            }
        }
        Ok(state)
    }

    /// The chunks of a node; none when it lies in archives only.
    async fn node(&self, node: &NodeRef) -> Result<Option<Vec<ChunkRef>>, RecoveryError> {
        if let Some(raw) = self.local.and_then(|local| local.read(&node.id).ok().flatten()) {
            return decode_node(&raw).map(Some).map_err(|e| failed(&e));
        }
        for name in self.index.tiers_with(&node.id) {
            let online = self.tiers.get(&name).filter(|tier| tier.capabilities().online);
            let (Some(tier), Some(at)) = (online, self.index.locate(&name, &node.id)) else { continue };
            let start = u64::from(at.offset);
            let end = start + FRAME_HEADER_LEN as u64 + u64::from(at.stored_len);
            let bytes = fetch_range(tier.as_ref(), &at.name, start..end).await?;
            let frame = decode_frame(&bytes).map_err(|e| RecoveryError::Damaged(e.to_string()))?.1;
            let raw = frame.verify(&node.id).map_err(|e| RecoveryError::Damaged(e.to_string()))?;
            return decode_node(&raw).map(Some).map_err(|e| failed(&e));
        }
        Ok(None)
    }
}

impl super::Core {
    /// Whether all that a version's record names is somewhere.
    pub(crate) fn has_all(&self, record: &ObjectRecord) -> bool {
        let has = |id: &ChunkId| self.local.pack_of(id).is_some() || !self.remote.tiers_with(id).is_empty();
        match &record.body {
            BodyRef::Inline(chunks) => chunks.iter().all(|c| has(&c.id)),
            BodyRef::Nodes(nodes) => nodes.iter().all(|n| has(&n.id)),
        }
    }
}
