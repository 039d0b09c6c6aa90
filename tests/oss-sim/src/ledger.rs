//! The bill, computed here from the requests and the stored bytes alone, so that a client's own account can be compared
//! with it. Quantities are exact integers; prices are not the ledger's business.
//!
//! Storage is not ticked by the hour: a line is closed when a version changes class or goes, and what is open is added when
//! the ledger is read. Both give the same integral of size over time.

use crate::clock::HOUR;
use crate::model::{Class, Version};
use crate::restore::Tier;
use serde::{Deserialize, Serialize};
use std::collections::BTreeMap;

/// Billing codes. Where the vendor's name is not published, the variant says so.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize)]
pub enum Code {
    /// Storage of class Standard.
    Storage,
    /// Storage of IA and Archive.
    ChargedDatasize,
    /// Storage of ColdArchive.
    ChargedDatasizeCA,
    /// Storage of DeepColdArchive.
    ChargedDatasizeDeepCA,
    /// Shortfall of the minimum duration, IA and Archive.
    LessthanMonthDatasize,
    /// Shortfall of the minimum duration, ColdArchive.
    EarlyDeletionCA,
    /// Shortfall of the minimum duration, DeepColdArchive (our name).
    EarlyDeletionDeepCA,
    /// Temporary replica of a restored ColdArchive or DeepColdArchive object.
    TempStorageCAStd,
    /// Bytes read from IA, or restored from Archive.
    RetrievalData,
    /// Bytes read from Archive directly.
    RetrievalDataArchiveDirect,
    /// Bytes restored from ColdArchive or DeepColdArchive (our name).
    RetrievalDataCold,
    /// Restore jobs of ColdArchive and DeepColdArchive.
    DataRetrievalRequest,
    /// Requests of PUT type: writes, deletes, lists.
    PutRequest,
    /// Requests of GET type.
    GetRequest,
}

impl Code {
    /// The code as in a bill.
    pub fn name(self) -> String {
        format!("{self:?}")
    }

    /// The storage code of a class.
    pub fn storage(class: Class) -> Code {
        match class {
            Class::Standard => Code::Storage,
            Class::IA | Class::Archive => Code::ChargedDatasize,
            Class::ColdArchive => Code::ChargedDatasizeCA,
            Class::DeepColdArchive => Code::ChargedDatasizeDeepCA,
        }
    }

    /// The early-deletion code of a class.
    pub fn early_deletion(class: Class) -> Option<Code> {
        match class {
            Class::Standard => None,
            Class::IA | Class::Archive => Some(Code::LessthanMonthDatasize),
            Class::ColdArchive => Some(Code::EarlyDeletionCA),
            Class::DeepColdArchive => Some(Code::EarlyDeletionDeepCA),
        }
    }

    /// The unit of its quantity.
    pub fn unit(self) -> &'static str {
        match self {
            Code::PutRequest | Code::GetRequest | Code::DataRetrievalRequest => "requests",
            Code::RetrievalData | Code::RetrievalDataArchiveDirect | Code::RetrievalDataCold => "bytes",
            _ => "byte_hours",
        }
    }
}

/// One line of the bill.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct Line {
    /// Billing code.
    pub code: Code,
    /// Storage class.
    pub class: Class,
    /// Restore priority, for restores of the two cold classes.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub tier: Option<Tier>,
    /// How much.
    pub quantity: f64,
    /// `byte_hours`, `bytes` or `requests`.
    pub unit: String,
}

type LineKey = (Code, Class, Option<Tier>);

/// Closed amounts. Time-based ones are in byte-milliseconds.
#[derive(Debug, Default, Clone)]
pub struct Ledger {
    amounts: BTreeMap<LineKey, u128>,
    /// Storage before this time is not on this bill (it was reset).
    pub(crate) from: u64,
}

impl Ledger {
    /// An empty bill that begins at `from`.
    pub fn since(from: u64) -> Ledger {
        Ledger { amounts: BTreeMap::new(), from }
    }

    /// Adds to a line.
    pub fn add(&mut self, code: Code, class: Class, tier: Option<Tier>, amount: u128) {
        if amount > 0 {
            let line = self.amounts.entry((code, class, tier)).or_default();
            *line = line.saturating_add(amount);
        }
    }

    /// Starts a new bill at `now`.
    pub fn reset(&mut self, now: u64) {
        self.amounts.clear();
        self.from = now;
    }

    /// The closed amounts, for storing them.
    pub(crate) fn amounts(&self) -> impl Iterator<Item = (LineKey, u128)> {
        self.amounts.iter().map(|(k, v)| (*k, *v))
    }

    /// Storage of a version up to `until`.
    pub fn add_storage(&mut self, version: &Version, until: u64) {
        if version.delete_marker {
            return;
        }
        let since = version.stored_since().max(self.from);
        let ms = u128::from(until.saturating_sub(since));
        let class = version.class;
        self.add(Code::storage(class), class, None, u128::from(class.billable(version.size)) * ms);
    }

    /// The temporary replica of a version up to `until`.
    pub fn add_replica(&mut self, version: &Version, until: u64) {
        let Some(restore) = version.restore.as_deref().filter(|_| version.class >= Class::ColdArchive) else { return };
        let ms = u128::from(restore.replica_ms(self.from, until));
        self.add(Code::TempStorageCAStd, version.class, None, u128::from(version.size) * ms);
    }

    /// The shortfall of the minimum duration when a version leaves its class at `now`.
    pub fn add_early_deletion(&mut self, version: &Version, now: u64) {
        let Some(code) = Code::early_deletion(version.class).filter(|_| !version.delete_marker) else { return };
        let stored = now.saturating_sub(version.minimum_since());
        let missing = version.class.min_duration().saturating_sub(stored);
        self.add(code, version.class, None, u128::from(version.class.billable(version.size)) * u128::from(missing));
    }

    /// Storage of a part of an open upload up to `until`; no minimum size applies to parts.
    pub fn add_part(&mut self, class: Class, size: u64, since: u64, until: u64) {
        let ms = u128::from(until.saturating_sub(since.max(self.from)));
        self.add(Code::storage(class), class, None, u128::from(size) * ms);
    }

    /// The lines.
    pub fn lines(&self) -> Vec<Line> {
        let line = |(&(code, class, tier), &amount): (&LineKey, &u128)| {
            let unit = code.unit();
            let quantity = if unit == "byte_hours" { amount as f64 / HOUR as f64 } else { amount as f64 };
            Line { code, class, tier, quantity, unit: unit.to_string() }
        };
        self.amounts.iter().map(line).collect()
    }
}

/// Whether an operation is billed as a GET; everything else, lists and deletes included, is of PUT type.
pub fn is_get_type(operation: &str) -> bool {
    operation.starts_with("Get") || operation.starts_with("Head")
}
