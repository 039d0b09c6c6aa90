//! The re-index after a change of rules: the only walk over the namespace that looks for work, and only then.

use super::Core;
use super::due::{Look, Orders, names};
use super::error::EngineError;
use super::keys::{self, DueKind};
use super::record::{ObjectRecord, Record, UploadRecord};
use crate::meta::{Batch, Expect, MetaError, MetaStore, Reason, Table, Value};
use futures::StreamExt;
use std::ops::Bound;
use std::sync::Arc;

/// Entries read at a time.
const PAGE: usize = 500;

/// Entries of a page that are worked on at a time: their commits share the journal's syncs.
const SIDE_BY_SIDE: usize = 64;

/// How often one version is evaluated again because another commit came between.
const MAX_RACES: usize = 8;

impl Core {
    /// Recomputes every due time, of one bucket or of all. One record that cannot be read does not keep the others from being
    /// evaluated.
    ///
    /// # Errors
    /// A failure of the index, or (at the end) the last record that could not be evaluated.
    pub(crate) async fn reindex(self: &Arc<Self>, bucket: Option<&str>) -> Result<(), EngineError> {
        let mut failed = None;
        let range = || match bucket {
            Some(bucket) => keys::prefix(&keys::object(bucket, "")),
            None => (Bound::Unbounded, Bound::Unbounded),
        };
        for table in [Table::Object, Table::Version, Table::Upload] {
            let (mut start, end) = range();
            loop {
                let page = self.meta.scan(table, (start, end.clone()), PAGE, false)?;
                let Some((last, _)) = page.last() else { break };
                start = Bound::Excluded(last.clone());
                if self.stop.is_cancelled() {
                    return Ok(());
                }
                let work = page.into_iter().map(|(key, stored)| self.reindex_one((table, bucket), key, stored));
                let mut outcomes = futures::stream::iter(work).buffer_unordered(SIDE_BY_SIDE);
                while let Some(outcome) = outcomes.next().await {
                    match outcome {
                        Ok(()) => {}
                        Err(e @ EngineError::Unavailable(_)) => return Err(e),
                        Err(e) => {
                            tracing::error!(error = %e, "a record could not be evaluated by the new rules");
                            failed = Some(e);
                        }
                    }
                }
            }
        }
        self.wake.notify_one();
        failed.map_or(Ok(()), Err)
    }

    async fn reindex_one(
        &self,
        (table, only): (Table, Option<&str>),
        key: Vec<u8>,
        stored: Value,
    ) -> Result<(), EngineError> {
        match table {
            Table::Object | Table::Version => {
                match only {
                    Some(_) => self.walks.step(),
                    None => self.progress.step(),
                }
                self.reindex_object(&key, stored).await
            }
            _ => self.reindex_upload(&key, &stored).await,
        }
    }

    /// Evaluates one version by the active rules. A commit that comes between may have been planned by the old ones, so
    /// the version is then looked at again.
    pub(crate) async fn reindex_object(&self, subject: &[u8], mut stored: Value) -> Result<(), EngineError> {
        for _ in 0..MAX_RACES {
            let record = ObjectRecord::decode(&stored)?;
            let (bucket, _) = names(subject)?;
            let now = self.clock.now();
            let due = self.next_look(subject, (Some(&record), Look::AsPlanned), &record, now)?;
            let stands = Orders { idle: record.idle.is_some(), waiting: record.waiting.is_some() };
            if due == record.due && stands == self.orders(bucket, &record) {
                return Ok(());
            }
            match self.replace((subject, &stored, &record), record.clone(), (Reason::Reindex, Look::AsPlanned)).await? {
                Ok(()) => return Ok(()),
                Err(MetaError::Conflict { .. }) => {}
                Err(other) => return Err(other.into()),
            }
            match self.meta.get(keys::table_of(subject), subject)? {
                Some(now_stored) => stored = now_stored,
                None => return Ok(()),
            }
        }
        Err(EngineError::Conflict)
    }

    pub(crate) async fn reindex_upload(&self, subject: &[u8], stored: &[u8]) -> Result<(), EngineError> {
        let mut record = UploadRecord::decode(stored)?;
        let Some((bucket, key, _)) = keys::split_upload(subject) else { return Ok(()) };
        let due = self.upload_due(bucket, key, &record);
        if due == record.due {
            return Ok(());
        }
        let mut batch =
            Batch::new(Reason::Reindex).expect(Expect::Equals(Table::Upload, subject.to_vec(), stored.to_vec()));
        if let Some(at) = record.due {
            batch = batch.delete(Table::Due, keys::due(DueKind::Upload, at, subject));
        }
        if let Some(at) = due {
            batch = batch.put(Table::Due, keys::due(DueKind::Upload, at, subject), Vec::new());
        }
        record.due = due;
        match self.meta.commit(batch.put(Table::Upload, subject, record.encode()?)).await {
            Ok(_) | Err(MetaError::Conflict { .. }) => Ok(()),
            Err(other) => Err(other.into()),
        }
    }
}
