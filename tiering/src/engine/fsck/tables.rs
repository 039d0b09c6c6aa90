//! The tables of the namespace against each other: records that do not decode, the due index, parts, footers.

use super::found::{Found, MAX_REPAIRS};
use super::report::{Finding, FindingKind};
use crate::clock::Timestamp;
use crate::engine::events::Event;
use crate::engine::keys::{self, DueKind};
use crate::engine::ops::describe_key;
use crate::engine::record::{
    AccessRecord, BucketRecord, ObjectRecord, Record, RemoteFooter, RemotePackState, RestoreJob, ThawRecord,
    UploadRecord,
};
use crate::engine::{Core, EngineError, doom::RemotePack};
use crate::meta::{Batch, Expect, MetaStore, Reason, Table, Value};
use std::collections::BTreeSet;
use std::ops::{Bound, ControlFlow};
use std::sync::atomic::{AtomicU64, Ordering};

/// Uploads whose parts are looked at together: one pass over the table of uploads for each so many.
const UPLOADS_AT_A_TIME: usize = 10_000;

/// Something that a repair does in one commit.
pub(super) struct Mending {
    pub kind: FindingKind,
    pub what: String,
    pub batch: Batch,
}

/// The look at the tables.
pub(super) struct Tables<'a> {
    core: &'a Core,
    found: &'a mut Found,
    /// What a repair would do.
    pub mendings: Vec<Mending>,
    /// There is more of it than `mendings` holds.
    pub more: bool,
    /// Records read.
    done: &'a AtomicU64,
}

fn all() -> (Bound<Vec<u8>>, Bound<Vec<u8>>) {
    (Bound::Unbounded, Bound::Unbounded)
}

fn unchanged(table: Table, key: &[u8], stored: &Value) -> Expect {
    Expect::EqualsDigest(table, key.to_vec(), *blake3::hash(stored).as_bytes())
}

impl<'a> Tables<'a> {
    pub fn new(core: &'a Core, found: &'a mut Found, done: &'a AtomicU64) -> Self {
        Self { core, found, mendings: Vec::new(), more: false, done }
    }

    /// All that `local` asks for but the chunks. Objects and parts that do not decode are the walk's to find.
    pub fn local(&mut self) -> Result<(), EngineError> {
        self.decodable::<BucketRecord>(Table::Bucket)?;
        self.decodable::<UploadRecord>(Table::Upload)?;
        self.decodable::<RestoreJob>(Table::Job)?;
        self.decodable::<AccessRecord>(Table::Access)?;
        self.decodable::<ThawRecord>(Table::Thaw)?;
        self.decodable::<Event>(Table::Event)?;
        self.each(Table::Object, |t, key, stored| t.object(key, stored))?;
        self.each(Table::Version, |t, key, stored| t.version(key, stored))?;
        self.each(Table::Upload, |t, key, stored| t.upload(key, stored))?;
        self.each(Table::Due, |t, key, _| t.due(key))?;
        self.parts()
    }

    /// The records of packs in tiers and their footers.
    pub fn packs(&mut self) -> Result<(), EngineError> {
        self.each(Table::RemotePack, |t, key, stored| {
            let found = match RemotePack::read(key, stored) {
                Ok(found) => found,
                Err(e) => {
                    t.unreadable(Table::RemotePack, key, &e);
                    return Ok(());
                }
            };
            if found.record.state != RemotePackState::Live {
                return Ok(());
            }
            match t.core.meta.get(Table::Manifest, key)? {
                Some(footer) => {
                    let footer = RemoteFooter::decode(&footer).and_then(|f| f.check());
                    footer.unwrap_or_else(|e| t.unreadable(Table::Manifest, key, &e));
                }
                None if t.core.meta.get(Table::RemotePack, key)?.is_some_and(|now| now[..] == stored[..]) => {
                    let text = "what is in this pack is not known: its chunks count as not there";
                    t.found.add(Finding::new(FindingKind::MissingFooter, &found.record.name, text).at(&found.tier));
                }
                None => {}
            }
            Ok(())
        })
    }

    fn unreadable(&mut self, table: Table, key: &[u8], error: &EngineError) {
        self.core.broken.report(table, key, error);
        let what = format!("{table:?} {}", describe_key(table, key));
        self.found.add(Finding::new(FindingKind::Unreadable, what, error.to_string()));
    }

    fn decodable<R: Record>(&mut self, table: Table) -> Result<(), EngineError> {
        self.each(table, |t, key, stored| {
            if let Err(e) = R::decode(stored) {
                t.unreadable(table, key, &e);
            }
            Ok(())
        })
    }

    /// Calls `visit` with every entry of a table.
    fn each(
        &mut self,
        table: Table,
        mut visit: impl FnMut(&mut Self, &[u8], &Value) -> Result<(), EngineError>,
    ) -> Result<(), EngineError> {
        let mut failed = None;
        let core = self.core;
        core.meta.scan_each(table, all(), &mut |key, stored| {
            self.done.fetch_add(1, Ordering::Relaxed);
            let step = match core.stop.is_cancelled() {
                true => Err(EngineError::Unavailable("shutting down".into())),
                false => visit(self, key, stored),
            };
            match step {
                Ok(()) => ControlFlow::Continue(()),
                Err(e) => {
                    failed = Some(e);
                    ControlFlow::Break(())
                }
            }
        })?;
        failed.map_or(Ok(()), Err)
    }

    fn mend(&mut self, kind: FindingKind, what: String, batch: Batch) {
        match self.mendings.len() < MAX_REPAIRS {
            true => self.mendings.push(Mending { kind, what, batch }),
            false => self.more = true,
        }
    }

    fn object(&mut self, key: &[u8], stored: &Value) -> Result<(), EngineError> {
        let Ok(record) = ObjectRecord::decode(stored) else { return Ok(()) };
        for (kind, at) in
            [(DueKind::Object, record.due), (DueKind::Idle, record.idle), (DueKind::Protect, record.waiting)]
        {
            if let Some(at) = at {
                self.is_due((keys::table_of(key), key, stored), kind, at)?;
            }
        }
        Ok(())
    }

    fn version(&mut self, key: &[u8], stored: &Value) -> Result<(), EngineError> {
        if keys::split_version(key).is_none() {
            let error = EngineError::Corrupt("its key does not come apart".into());
            self.unreadable(Table::Version, key, &error);
            return Ok(());
        }
        self.object(key, stored)
    }

    fn upload(&mut self, key: &[u8], stored: &Value) -> Result<(), EngineError> {
        match UploadRecord::decode(stored) {
            Ok(UploadRecord { due: Some(at), .. }) => self.is_due((Table::Upload, key, stored), DueKind::Upload, at),
            _ => Ok(()),
        }
    }

    /// Whether the due index has the entry that a record says.
    fn is_due(
        &mut self,
        (table, key, stored): (Table, &[u8], &Value),
        kind: DueKind,
        at: Timestamp,
    ) -> Result<(), EngineError> {
        let entry = keys::due(kind, at, key);
        // An entry and its record change in one commit, so that only what is missing beside the same record is missing.
        let missing = self.core.meta.get(Table::Due, &entry)?.is_none()
            && self.core.meta.get(table, key)?.is_some_and(|now| now[..] == stored[..])
            && self.core.meta.get(Table::Due, &entry)?.is_none();
        if missing {
            let what = format!("{} ({kind:?} at {at})", describe_key(table, key));
            let finding = Finding::new(FindingKind::DueMissing, &what, "nothing would happen to it in time");
            self.found.add(finding.since(at).possible());
            let batch = Batch::new(Reason::Reindex).expect(unchanged(table, key, stored));
            self.mend(FindingKind::DueMissing, what, batch.put(Table::Due, entry, Vec::new()));
        }
        Ok(())
    }

    /// Whether an entry of the due index stands for a record.
    fn due(&mut self, entry: &[u8]) -> Result<(), EngineError> {
        let kind = match entry.first() {
            Some(&k) if k == DueKind::Object as u8 => DueKind::Object,
            Some(&k) if k == DueKind::Upload as u8 => DueKind::Upload,
            Some(&k) if k == DueKind::Idle as u8 => DueKind::Idle,
            Some(&k) if k == DueKind::Protect as u8 => DueKind::Protect,
            _ => {
                self.unreadable(Table::Due, entry, &EngineError::Corrupt("it is of no known kind".into()));
                return Ok(());
            }
        };
        let Some((at, subject)) = keys::split_due(entry) else {
            self.unreadable(Table::Due, entry, &EngineError::Corrupt("it is too short".into()));
            return Ok(());
        };
        let table = if kind == DueKind::Upload { Table::Upload } else { keys::table_of(subject) };
        let stored = self.core.meta.get(table, subject)?;
        let stands = stored.as_ref().map(|stored| match kind {
            DueKind::Upload => UploadRecord::decode(stored).map(|r| r.due == Some(at)),
            DueKind::Object => ObjectRecord::decode(stored).map(|r| r.due == Some(at)),
            DueKind::Idle => ObjectRecord::decode(stored).map(|r| r.idle == Some(at)),
            DueKind::Protect => ObjectRecord::decode(stored).map(|r| r.waiting == Some(at)),
        });
        let expect = match (stands, &stored) {
            // Of a record that does not decode nobody can say; it is reported as such.
            (Some(Ok(true) | Err(_)), _) => return Ok(()),
            (Some(Ok(false)), Some(stored)) => unchanged(table, subject, stored),
            _ => Expect::Absent(table, subject.to_vec()),
        };
        if self.core.meta.get(Table::Due, entry)?.is_some() {
            let what = format!("{kind:?} {}", describe_key(Table::Due, entry));
            let finding = Finding::new(FindingKind::DueStray, &what, "no record says that this is due");
            self.found.add(finding.since(at).possible());
            let batch = Batch::new(Reason::Reindex).expect(expect).delete(Table::Due, entry.to_vec());
            self.mend(FindingKind::DueStray, what, batch);
        }
        Ok(())
    }

    /// Parts whose uploads are no more. Ids of uploads never come again, and an upload is there before its parts: what is not
    /// found after its part was seen has ended.
    fn parts(&mut self) -> Result<(), EngineError> {
        let mut start: Bound<Vec<u8>> = Bound::Unbounded;
        loop {
            let (mut ids, mut next) = (BTreeSet::new(), None);
            self.core.meta.scan_each(Table::Part, (start, Bound::Unbounded), &mut |key, _| {
                let Some(id) = key.get(..keys::UPLOAD_ID_LEN) else { return ControlFlow::Continue(()) };
                if ids.len() == UPLOADS_AT_A_TIME && !ids.contains(id) {
                    next = Some(id.to_vec());
                    return ControlFlow::Break(());
                }
                ids.insert(id.to_vec());
                ControlFlow::Continue(())
            })?;
            let mut unknown = false;
            if !ids.is_empty() {
                self.each(Table::Upload, |_, key, _| {
                    match keys::split_upload(key) {
                        Some((_, _, id)) => drop(ids.remove(id.as_bytes())),
                        None => unknown = true,
                    }
                    Ok(())
                })?;
            }
            if unknown {
                let error =
                    EngineError::Corrupt("a key does not come apart: whose parts they are cannot be told".into());
                self.found.add(Finding::new(FindingKind::NotChecked, "parts of uploads", error.to_string()));
                return Ok(());
            }
            ids.iter().try_for_each(|id| self.orphan_parts(id))?;
            let Some(id) = next else { return Ok(()) };
            start = Bound::Included(id);
        }
    }

    fn orphan_parts(&mut self, id: &[u8]) -> Result<(), EngineError> {
        for (key, _) in self.core.meta.scan(Table::Part, keys::prefix(id), MAX_REPAIRS, false)? {
            let what = describe_key(Table::Part, &key);
            let finding =
                Finding::new(FindingKind::OrphanPart, &what, "its upload is no more; it keeps its chunks alive");
            self.found.add(finding.possible());
            let batch = Batch::new(Reason::AbortUpload).expect(Expect::Present(Table::Part, key.clone()));
            self.mend(FindingKind::OrphanPart, what, batch.delete(Table::Part, key));
        }
        Ok(())
    }
}
