//! What a check may do: due entries and parts by single commits that state what they were decided on, orphans by the way of
//! every remote deletion: a durable record first (`Doomed`), then the request, then the record goes.

use super::found::{Found, MAX_REPAIRS};
use super::remote::Orphan;
use super::report::{FindingKind, FsckReport, FsckRequest, Repair};
use super::tables::Mending;
use super::{Checked, Progress, stage};
use crate::engine::doom::RemotePack;
use crate::engine::record::{Record, RemotePackRecord, RemotePackState};
use crate::engine::{Core, EngineError, keys};
use crate::meta::{Batch, Expect, MetaError, MetaStore, Reason, Table};
use std::sync::Arc;
use std::sync::atomic::Ordering;

/// Orphans that are deleted between two reports of progress.
const GROUP: usize = 64;

impl Core {
    /// Repairs when that is asked for; says what is left and why in any case.
    pub(super) async fn mend(
        self: &Arc<Self>,
        request: &FsckRequest,
        checked: Checked,
        (report, found): (&mut FsckReport, &mut Found),
        progress: Progress<'_>,
    ) -> Result<(), EngineError> {
        let Checked { orphans, forgettable, newest_epoch, mendings, more, gaps, .. } = checked;
        let rewound = (newest_epoch > self.meta.epoch()).then(|| {
            "a tier has objects of an epoch that this namespace has not seen: an older copy of the data directory was put \
             back, and what seems an orphan may be all that is left of newer objects"
                .to_owned()
        });
        let kept = rewound.or(gaps);
        if let Some(why) = &kept {
            for (tier, _) in &orphans {
                found.leave(tier, FindingKind::OrphanPack, why);
            }
            if !orphans.is_empty() {
                report.notes.push(format!("no orphan is deleted: {why}"));
            }
        }
        if !request.repair {
            return Ok(());
        }
        if more {
            report.notes.push(format!("of each kind {MAX_REPAIRS} are repaired at a time; repeat it for the rest"));
        }
        let orphans = if kept.is_some() { Vec::new() } else { orphans };
        let total = (mendings.len() + orphans.iter().map(|(_, of)| of.len()).sum::<usize>()) as u64;
        let mut done = 0;
        for mending in mendings {
            if done % 100 == 0 {
                stage(progress, "repair", done, total);
            }
            done += 1;
            self.mend_one(mending, found).await?;
        }
        for pack in forgettable {
            let (tier, name) = (pack.tier.clone(), pack.record.name.clone());
            // It goes the way of every pack that nobody needs; that the tier has it no more is no error there.
            let repair = if self.doom_pack(pack).await? { Repair::Begun } else { Repair::Done };
            found.repaired((Some(&tier), FindingKind::DanglingPack), &name, repair);
        }
        self.wake.notify_one();
        for (tier, orphans) in &orphans {
            for group in orphans.chunks(GROUP) {
                stage(progress, "repair", done, total);
                done += group.len() as u64;
                self.delete_orphans(tier, group, (report, found)).await?;
            }
        }
        Ok(())
    }

    async fn mend_one(&self, mending: Mending, found: &mut Found) -> Result<(), EngineError> {
        let Mending { kind, what, batch } = mending;
        match self.meta.commit(batch).await {
            // What it was decided on has changed meanwhile: the commit that changed it set its entries anew.
            Ok(_) | Err(MetaError::Conflict { .. }) => found.repaired((None, kind), &what, Repair::Done),
            Err(e) => return Err(e.into()),
        }
        tracing::info!(kind = kind.name(), what, "repaired");
        Ok(())
    }

    async fn delete_orphans(
        self: &Arc<Self>,
        tier: &str,
        group: &[Orphan],
        (report, found): (&mut FsckReport, &mut Found),
    ) -> Result<(), EngineError> {
        if self.stop.is_cancelled() {
            return Err(EngineError::Unavailable("shutting down".into()));
        }
        let mut doomed = Vec::new();
        for orphan in group {
            let key = keys::remote_pack(tier, u128::from_be_bytes(orphan.pack.0));
            // Without a version: where there are any, all of them and the markers go.
            let record = RemotePackRecord {
                name: orphan.name.clone(),
                state: RemotePackState::Doomed,
                bytes: orphan.bytes,
                chunks: 0,
                created: orphan.pack.begun(),
                crc64: None,
                etag: None,
                references: 0,
                version: None,
            };
            let batch = Batch::new(Reason::RemotePack).expect(Expect::Absent(Table::RemotePack, key.clone())).put(
                Table::RemotePack,
                key.clone(),
                record.encode()?,
            );
            match self.meta.commit(batch).await {
                // A record has come: then it is no orphan.
                Err(MetaError::Conflict { .. }) => continue,
                other => other?,
            };
            tracing::info!(tier, name = orphan.name, "an orphan is deleted");
            if let Some(stored) = self.meta.get(Table::RemotePack, &key)? {
                doomed.push(RemotePack::read(&key, &stored)?);
            }
        }
        if let Err(error) = self.delete_doomed_durably(&doomed).await {
            // The scheduler goes on with what is left of them.
            self.doomed_wanted.store(true, Ordering::Release);
            self.wake.notify_one();
            report.notes.push(format!("tier {tier}: {error}; the deletion is in the queue and is tried again"));
        }
        for pack in doomed {
            let gone = self.meta.get(Table::RemotePack, &pack.key)?.is_none();
            let repair = if gone { Repair::Done } else { Repair::Begun };
            found.repaired((Some(tier), FindingKind::OrphanPack), &pack.record.name, repair);
        }
        Ok(())
    }
}
