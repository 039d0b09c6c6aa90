//! What a check is asked and what it answers.

use crate::clock::Timestamp;
use serde::{Deserialize, Serialize};

/// Asks for a check.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields, default)]
pub struct FsckRequest {
    /// Namespace, local packs, due index. With neither this nor `remote`: both.
    pub local: bool,
    /// What is in the tiers.
    pub remote: bool,
    /// Of `remote`, only these tiers; all when empty.
    pub tiers: Vec<String>,
    /// Do what is decidable.
    pub repair: bool,
    /// Only say what it costs; asks no tier.
    pub estimate: bool,
}

impl FsckRequest {
    /// Whether local things are checked.
    pub fn wants_local(&self) -> bool {
        self.local || !self.remote
    }

    /// Whether tiers are checked.
    pub fn wants_remote(&self) -> bool {
        self.remote || !self.local
    }
}

/// What a check costs, before it begins.
#[derive(Debug, Clone, Default, PartialEq, Serialize, Deserialize)]
#[serde(default)]
pub struct FsckEstimate {
    /// The price book's, such as `CNY`.
    pub currency: String,
    /// Of each tier that is checked.
    pub tiers: Vec<FsckCost>,
    /// Versions that are walked.
    pub objects: u64,
    /// All of it, as far as prices are known.
    pub cost: f64,
}

/// What the check of one tier costs.
#[derive(Debug, Clone, Default, PartialEq, Serialize, Deserialize)]
#[serde(default)]
pub struct FsckCost {
    /// Name of the tier.
    pub tier: String,
    /// Records of packs there.
    pub packs: u64,
    /// Versions of objects are listed, too.
    pub versions: bool,
    /// Requests of a listing, if the tier has exactly these packs: each of up to a thousand objects.
    pub list_requests: u64,
    /// Their price; `None` where nobody bills by class, or a price is not known.
    pub cost: Option<f64>,
}

/// How far a check has come.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(default)]
pub struct FsckProgress {
    /// What is being done: `tier NAME`, `files`, `namespace`, `chunks`, `repair`.
    pub stage: String,
    /// Packs, records or findings looked at.
    pub done: u64,
    /// To look at, as far as known.
    pub total: u64,
}

/// Kinds of findings.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum FindingKind {
    /// A live pack that its tier does not have, or not as it was written.
    DanglingPack,
    /// A live pack that the listing lacks, of which it could not be found out whether it is there.
    UnconfirmedPack,
    /// A body with chunks in a dangling pack.
    AffectedObject,
    /// An object of this deployment in a tier that no record names.
    OrphanPack,
    /// An object in this deployment's folder of a tier whose name is no pack's.
    StrayObject,
    /// A version or marker beside the one that the record of its pack names.
    ExtraVersion,
    /// An upload to a tier that was begun long ago and that nobody is working on.
    StuckUpload,
    /// A pack whose deletion fails.
    StuckDeletion,
    /// A tier that could not be checked, or not all of it.
    NotChecked,
    /// A local pack whose file is missing.
    MissingPack,
    /// A local pack whose file is shorter than it must be.
    ShortPack,
    /// A local pack file that the index does not know.
    UnknownPack,
    /// A body that cannot be read in full.
    LostChunks,
    /// A record, or a manifest, that cannot be read.
    Unreadable,
    /// A live pack of a tier without its footer.
    MissingFooter,
    /// A record whose entry in the due index is missing: nothing would happen to it in time.
    DueMissing,
    /// An entry of the due index that no record stands for.
    DueStray,
    /// A part whose upload is no more.
    OrphanPart,
}

impl FindingKind {
    /// As tables show it.
    pub const fn name(self) -> &'static str {
        match self {
            FindingKind::DanglingPack => "dangling pack",
            FindingKind::UnconfirmedPack => "unconfirmed pack",
            FindingKind::AffectedObject => "affected object",
            FindingKind::OrphanPack => "orphan pack",
            FindingKind::StrayObject => "stray object",
            FindingKind::ExtraVersion => "extra version",
            FindingKind::StuckUpload => "stuck upload",
            FindingKind::StuckDeletion => "stuck deletion",
            FindingKind::NotChecked => "not checked",
            FindingKind::MissingPack => "missing pack",
            FindingKind::ShortPack => "short pack",
            FindingKind::UnknownPack => "unknown pack",
            FindingKind::LostChunks => "lost chunks",
            FindingKind::Unreadable => "unreadable",
            FindingKind::MissingFooter => "missing footer",
            FindingKind::DueMissing => "due entry missing",
            FindingKind::DueStray => "due entry stray",
            FindingKind::OrphanPart => "orphan part",
        }
    }
}

/// What a repair does about a finding.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Repair {
    /// Nothing: it is not decidable. `detail` says what people can do.
    #[default]
    No,
    /// `--repair` would act.
    Possible,
    /// It was repaired.
    Done,
    /// The repair was tried and did not come to its end; it goes on by itself, or with the next one.
    Begun,
}

/// One finding.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Finding {
    /// What kind of thing.
    pub kind: FindingKind,
    /// The tier; `None` for what is on local disks.
    pub tier: Option<String>,
    /// Name of the pack or object, bucket and key, table and key.
    pub what: String,
    /// Its bytes, where it has any.
    pub bytes: Option<u64>,
    /// When it was begun, where the name or the record tells.
    pub since: Option<Timestamp>,
    /// What is wrong, and the way out.
    pub detail: String,
    /// What a repair does about it.
    pub repair: Repair,
}

/// How many findings there are of a kind at a place.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct FsckTotal {
    /// What kind of thing.
    pub kind: FindingKind,
    /// The tier; `None` for what is on local disks.
    pub tier: Option<String>,
    /// All of them, whether or not they are named.
    pub count: u64,
    /// Their bytes.
    pub bytes: u64,
    /// Of them, repaired.
    pub repaired: u64,
}

/// What was looked at in a tier.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(default)]
pub struct TierChecked {
    /// Name of the tier.
    pub tier: String,
    /// Versions and markers were listed, too.
    pub versions: bool,
    /// Live packs by the records.
    pub live: u64,
    /// Packs that are being uploaded.
    pub uploading: u64,
    /// Packs that wait for their deletion.
    pub doomed: u64,
    /// Live packs that the tier has as they were written.
    pub matched: u64,
    /// Objects in this deployment's folder.
    pub listed: u64,
    /// Their bytes.
    pub listed_bytes: u64,
    /// Objects of other deployments.
    pub foreign: u64,
    /// Their bytes.
    pub foreign_bytes: u64,
    /// Live packs that were asked for one by one, because the listing lacked them.
    pub asked: u64,
}

/// What a check found.
#[derive(Debug, Clone, Default, PartialEq, Serialize, Deserialize)]
#[serde(default)]
pub struct FsckReport {
    /// When it began.
    pub time: Timestamp,
    /// Whether it was to repair.
    pub repair: bool,
    /// What it was expected to cost.
    pub estimate: FsckEstimate,
    /// Records of the namespace looked at.
    pub records: u64,
    /// Local packs looked at.
    pub local_packs: u64,
    /// The tiers.
    pub tiers: Vec<TierChecked>,
    /// How much there is of what.
    pub totals: Vec<FsckTotal>,
    /// The first of each kind and place.
    pub findings: Vec<Finding>,
    /// Findings that are not repaired.
    pub remaining: u64,
    /// What else is to be said, such as why something was left.
    pub notes: Vec<String>,
}
