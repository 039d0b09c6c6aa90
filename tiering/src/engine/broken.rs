//! Stored records that do not decode. One of them never stops the others: whoever meets it says so here, passes on, and
//! leaves it where it is. It may be of a newer version of this program, or damaged, and only people can tell.

use super::Core;
use super::error::EngineError;
use super::ops::describe_key;
use crate::meta::Table;
use prometheus::IntCounterVec;
use std::collections::BTreeSet;
use std::sync::{Mutex, PoisonError};

/// Records that are remembered, so that each is logged and counted once and not with every look at it. Of those beyond,
/// each look is logged and none counted.
const MAX_REMEMBERED: usize = 10_000;

/// Which records were found broken since the start.
pub(crate) struct Broken {
    found: Mutex<BTreeSet<(Table, Vec<u8>)>>,
    counter: IntCounterVec,
}

impl Broken {
    pub(crate) fn new(counter: IntCounterVec) -> Self {
        Self { found: Mutex::default(), counter }
    }

    /// Notes that the record at `key` cannot be used.
    pub(crate) fn report(&self, table: Table, key: &[u8], error: &EngineError) {
        let mut found = self.found.lock().unwrap_or_else(PoisonError::into_inner);
        let full = found.len() >= MAX_REMEMBERED;
        if full && found.contains(&(table, key.to_vec())) || !full && !found.insert((table, key.to_vec())) {
            return;
        }
        drop(found);
        let name = table_name(table);
        if !full {
            self.counter.with_label_values(&[name]).inc();
        }
        tracing::error!(
            table = name,
            key = describe_key(table, key),
            %error,
            "a stored record cannot be used; it is left as it is, and everything else goes on"
        );
    }
}

impl Core {
    /// The value, or a report and nothing.
    pub(crate) fn usable<T>(&self, table: Table, key: &[u8], decoded: Result<T, EngineError>) -> Option<T> {
        decoded.inspect_err(|e| self.broken.report(table, key, e)).ok()
    }
}

/// As metrics and the journal's dump name a table.
fn table_name(table: Table) -> &'static str {
    match table {
        Table::System => "system",
        Table::Bucket => "bucket",
        Table::Object => "object",
        Table::Upload => "upload",
        Table::Part => "part",
        Table::Due => "due",
        Table::Job => "job",
        Table::RemotePack => "remote_pack",
        Table::Access => "access",
        Table::Thaw => "thaw",
        Table::Manifest => "manifest",
        Table::Version => "version",
        Table::User => "user",
        Table::Event => "event",
    }
}
