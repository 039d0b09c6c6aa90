//! `tidegate recover --from-packs`: a working data directory from the packs in the tiers alone, when disk and shipped namespace are
//! gone. What the packs tell is the state of each object when it was moved; deletions they cannot tell.

mod assemble;
mod fetch;
mod tail;

use super::claim::note_base;
use super::directory::{self, Alone, FETCHED, MISSING, State};
use super::plan::Shipped;
use super::recover::RecoverProgress;
use super::{RecoveryError, deployments, local, write_file};
use crate::clock::Clock;
use crate::engine::doom::RemotePack;
use crate::engine::examine::{Examination, Examined, MissingObject};
use crate::engine::record::Record;
use crate::meta::{self, Batch, JournaledStore, MetaSettings, MetaStore, Reason, Table};
use crate::tier::Tier;
use assemble::Assembly;
use fetch::{Asked, Ends, Listed};
use serde::{Deserialize, Serialize};
use std::collections::BTreeMap;
use std::io::Write;
use std::ops::Bound;
use std::path::{Path, PathBuf};
use std::sync::Arc;

/// The list of packs of which something is to be said, one a line.
const PACKS: &str = "recovered-packs.jsonl";
/// Everything below which packs are.
const ROOT: &str = "packs/";
/// Records changed by one commit.
const PAGE: usize = 1000;

/// What to recover.
pub struct FromPacks<'a> {
    /// All configured tiers.
    pub tiers: &'a BTreeMap<String, Arc<dyn Tier>>,
    /// Those whose packs are read; all when empty.
    pub only: Vec<String>,
    /// The name of the recovery tier, if there is one: whoever shipped there is fenced.
    pub recovery: Option<String>,
    /// Which deployment, where the tiers have packs of several.
    pub deployment: Option<String>,
    /// The directory to make.
    pub data_dir: PathBuf,
    /// Only say what would come back: claims nothing, leaves nothing.
    pub dry_run: bool,
    /// Ask for the restore of archived packs, which costs money. Then the recovery waits for them, to be asked for again.
    pub thaw: bool,
    /// Settings of the namespace.
    pub settings: MetaSettings,
    /// The clock.
    pub clock: Arc<dyn Clock>,
}

impl FromPacks<'_> {
    fn wants(&self, tier: &str) -> bool {
        self.only.is_empty() || self.only.iter().any(|name| name == tier)
    }

    fn tier(&self, name: &str) -> Result<&dyn Tier, RecoveryError> {
        self.tiers.get(name).map(AsRef::as_ref).ok_or_else(|| {
            let known: Vec<&str> = self.tiers.keys().map(String::as_str).collect();
            RecoveryError::Refused(format!("there is no tier {name:?}; configured: {}", known.join(", ")))
        })
    }
}

/// A pack of which something is to be said.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct OddPack {
    /// Tier.
    pub tier: String,
    /// Name below the tier's prefix.
    pub name: String,
    /// Length in bytes.
    pub bytes: u64,
    /// What is to be said.
    pub why: String,
}

/// What is told while it runs.
#[derive(Debug)]
pub enum News<'a> {
    /// How far it is.
    Progress(RecoverProgress),
    /// An object of which bytes are in no pack.
    Missing(&'a MissingObject),
    /// A pack of which something is to be said.
    Pack(&'a OddPack),
}

type Tell<'a> = &'a mut dyn FnMut(News<'_>);

/// What came of it.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct FromPacksReport {
    /// Nothing was made.
    pub dry_run: bool,
    /// False: archived packs are being thawed, and nothing was made yet. Ask for the same again when that is done.
    pub finished: bool,
    /// The deployment.
    pub deployment: String,
    /// The tiers whose packs were read.
    pub tiers: Vec<String>,
    /// The directory.
    pub data_dir: PathBuf,
    /// The term that was claimed in the recovery tier; 0 without one.
    pub term: u64,
    /// Packs of the deployment that the tiers list.
    pub packs: u64,
    /// Their bytes.
    pub pack_bytes: u64,
    /// Packs that tell of no object: parts of large objects, and those of an earlier version, which told of none.
    pub packs_without_manifests: u64,
    /// Those among them that nothing needs that was found. They stay in their tiers until somebody deletes them there.
    pub packs_left: u64,
    /// Packs that cannot be read without a restore. What they tell of did not come back; they stay in their tiers.
    pub archived_packs: u64,
    /// Those among them whose restore was asked for.
    pub thaws: u64,
    /// Packs that are damaged. They stay in their tiers.
    pub unreadable_packs: u64,
    /// Bytes fetched, this time.
    pub fetched_bytes: u64,
    /// Versions of objects that a later one of the same key replaced.
    pub older_versions: u64,
    /// What is there and what is missing.
    pub found: Examined,
    /// The file with objects of which bytes are missing, one a line.
    pub missing_list: Option<PathBuf>,
    /// The file with packs that are archived, damaged or left, one a line.
    pub packs_list: Option<PathBuf>,
    /// What else is to be said.
    pub notes: Vec<String>,
    /// How long it took, in milliseconds.
    pub took_ms: u64,
}

/// Builds a data directory from packs alone. Blocks the thread at times.
///
/// # Errors
/// What the tiers or the disk say; [`RecoveryError::Refused`] when the directory is in use, or there are no packs.
pub async fn recover_from_packs(
    request: &FromPacks<'_>,
    tell: &mut dyn FnMut(News<'_>),
) -> Result<FromPacksReport, RecoveryError> {
    let began = request.clock.now();
    for name in request.only.iter().chain(&request.recovery) {
        request.tier(name)?;
    }
    let (dir, known) = directory::open(&request.data_dir, request.dry_run)?;
    let deployment = match (&request.deployment, &known) {
        (Some(named), _) => named.clone(),
        (None, Some(state)) => state.deployment.clone(),
        (None, None) => only_deployment(request).await?,
    };
    let tiers: Vec<String> = request.tiers.keys().filter(|name| request.wants(name)).cloned().collect();
    let state = State::resume(known, State::new(tiers.join(", "), deployment.clone(), (None, true)), &dir)?;
    let alone = Alone::begin(&request.data_dir, &dir, &state, request.dry_run)?;
    let report = FromPacksReport {
        dry_run: request.dry_run,
        deployment,
        tiers,
        data_dir: request.data_dir.clone(),
        ..Default::default()
    };
    let work = Work { request, dir: dir.clone(), state, report, odd: Vec::new() };
    let outcome = Box::pin(work.run(tell)).await;
    if request.dry_run {
        drop(alone);
        std::fs::remove_dir_all(&dir).map_err(|e| local("remove", &dir, &e))?;
    }
    let mut report = outcome?;
    report.took_ms = u64::try_from(request.clock.now().since(began).as_millis()).unwrap_or(u64::MAX);
    if !request.dry_run && report.finished {
        directory::finish(&dir, &report)?;
        // Of no use any more, and in nobody's way if it stays.
        let fetched = dir.join(FETCHED);
        std::fs::remove_dir_all(&fetched).map_err(|e| local("remove", &fetched, &e))?;
    }
    Ok(report)
}

/// The deployment of which there are packs, if it is only one.
async fn only_deployment(request: &FromPacks<'_>) -> Result<String, RecoveryError> {
    let mut found: Vec<String> = Vec::new();
    for (name, tier) in request.tiers.iter().filter(|(name, _)| request.wants(name)) {
        let more = deployments(tier.as_ref(), ROOT).await?;
        tracing::debug!(tier = name, deployments = more.len(), "packs in a tier");
        found.extend(more);
    }
    found.sort();
    found.dedup();
    match found.as_slice() {
        [one] => Ok(one.clone()),
        [] => {
            Err(RecoveryError::Refused("there are no packs in the tiers: are they the right ones, and mounted?".into()))
        }
        many => Err(RecoveryError::Refused(format!(
            "the tiers have packs of {} deployments; name one with --deployment: {}",
            many.len(),
            many.join(", ")
        ))),
    }
}

struct Work<'a> {
    request: &'a FromPacks<'a>,
    dir: PathBuf,
    state: State,
    report: FromPacksReport,
    odd: Vec<OddPack>,
}

impl Work<'_> {
    async fn run(mut self, tell: Tell<'_>) -> Result<FromPacksReport, RecoveryError> {
        let (packs, epoch) = fetch::packs(self.request, &self.state.deployment, &mut self.report.notes).await?;
        if packs.is_empty() {
            // What cannot be done must not fence the store that is there.
            let text = format!("the tiers have no packs of deployment {}", self.state.deployment);
            return Err(RecoveryError::Refused(text));
        }
        self.report.packs = packs.len() as u64;
        self.report.pack_bytes = packs.iter().map(|pack| pack.size).sum();
        let start = if self.request.dry_run { 1 } else { self.take_over().await? };
        let ends = Ends::new(self.dir.join(FETCHED).join("packs"), self.request)?;
        self.fetch(&ends, &packs, tell).await?;
        if self.report.thaws > 0 {
            return Ok(self.report);
        }
        self.assemble(&ends, &packs, (start, epoch))?;
        let clock = self.request.clock.as_ref();
        let mut progress = |at| tell(News::Progress(RecoverProgress::Index(at)));
        meta::rebuild(&self.dir, &self.request.settings, clock, &mut progress)?;
        self.examine(tell).await?;
        self.report.finished = true;
        if !self.request.dry_run && !self.odd.is_empty() {
            let list = self.dir.join(PACKS);
            write_list(&list, &self.odd)?;
            self.report.packs_list = Some(list);
        }
        Ok(self.report)
    }

    /// Fences whoever ships to the recovery tier, if that answers. Returns the record before the first of the new journal.
    async fn take_over(&mut self) -> Result<u64, RecoveryError> {
        let Some(name) = &self.request.recovery else {
            self.state.save(&self.dir)?;
            return Ok(1);
        };
        let tier = self.request.tier(name)?;
        match self.state.take_over(&self.dir, tier, self.request.clock.as_ref()).await {
            Ok(()) => {}
            Err(RecoveryError::Tier(e)) if self.state.held.is_none() => {
                self.report.notes.push(format!(
                    "the recovery tier {name} does not answer, so nobody was fenced: the old store, if it runs, still writes. This \
                     one may not write while `recovery` is configured; ask for the recovery again when the tier answers ({e})"
                ));
                return Ok(1);
            }
            Err(other) => return Err(other),
        }
        self.report.term = self.state.held.as_ref().map_or(0, |held| held.term);
        // Nothing of this journal is in the cloud. It begins behind all that is, with a gap: the two must never be joined.
        note_base(&self.dir, self.report.term, 0)?;
        let shipped = Shipped::read(tier, &self.state.deployment).await?;
        let ends =
            shipped.pieces.iter().map(|(piece, _, _)| piece.last).chain(shipped.snapshots.iter().map(|s| s.name.end));
        Ok(ends.max().unwrap_or(0).saturating_add(1))
    }

    async fn fetch(&mut self, ends: &Ends, packs: &[Listed], tell: Tell<'_>) -> Result<(), RecoveryError> {
        let (report, odd) = (&mut self.report, &mut self.odd);
        let mut done = 0;
        let mut each = |pack: &Listed, asked, bytes| {
            done += 1;
            report.fetched_bytes += bytes;
            let why = match asked {
                Asked::Here => None,
                Asked::Archived(thawing) => {
                    report.archived_packs += 1;
                    report.thaws += u64::from(thawing);
                    Some(if thawing { "archived; it is being restored" } else { "archived" }.to_owned())
                }
                Asked::Odd(why) => {
                    report.unreadable_packs += 1;
                    Some(format!("unreadable: {why}"))
                }
            };
            if let Some(why) = why {
                let found = pack.odd(why);
                tell(News::Pack(&found));
                odd.push(found);
            }
            tell(News::Progress(RecoverProgress::Packs { done, of: packs.len() as u64 }));
        };
        ends.fetch(self.request, packs, &mut each).await
    }

    /// Makes snapshot and journal. What an interrupted attempt made is made anew.
    fn assemble(&mut self, ends: &Ends, packs: &[Listed], from: (u64, u64)) -> Result<(), RecoveryError> {
        let fetched = self.dir.join(FETCHED);
        let made = fetched.join("made");
        for folder in [&made, &self.dir.join("journal"), &self.dir.join("snapshots")] {
            match std::fs::remove_dir_all(folder) {
                Err(e) if e.kind() != std::io::ErrorKind::NotFound => return Err(local("remove", folder, &e)),
                _ => {}
            }
        }
        let index = fetched.join("index");
        let mut assembly = Assembly::begin(&index, self.request.settings.index_cache_bytes)?;
        for pack in packs {
            let tail = ends.get(pack);
            self.report.packs_without_manifests += u64::from(tail.as_ref().is_some_and(|t| t.told.is_empty()));
            assembly.pack(pack, tail.as_ref())?;
        }
        self.report.older_versions = assembly.older;
        self.report.found.unreadable_records = assembly.unreadable;
        assembly.write(&made, from, self.request.clock.now())?;
        directory::place(&self.dir, &made)?;
        std::fs::remove_dir_all(&index).map_err(|e| local("remove", &index, &e))?;
        write_file(&self.dir.join("deployment"), self.state.deployment.as_bytes())
    }

    async fn examine(&mut self, tell: Tell<'_>) -> Result<(), RecoveryError> {
        let store = directory::open_store(&self.dir, &self.request.settings, &self.request.clock)?;
        let mut examination = Examination::new(&store, self.request.tiers, &self.state.deployment, false);
        examination.deep = true;
        let tell = std::cell::RefCell::new(tell);
        let mut missing = |object: &MissingObject| tell.borrow_mut()(News::Missing(object));
        let mut progress = |objects| tell.borrow_mut()(News::Progress(RecoverProgress::Examined { objects }));
        directory::examine(&self.dir, &mut examination, &mut missing, &mut progress).await?;
        for pack in refer(&store, &examination).await? {
            self.report.packs_left += 1;
            let why = match examination.found.unknown_objects {
                0 => "tells of no object, and nothing that was found needs it".to_owned(),
                n => format!("tells of no object; {n} found objects, whose lists cannot be read here, may need it"),
            };
            let RemotePack { tier, record, .. } = pack;
            let found = OddPack { tier, name: record.name, bytes: record.bytes, why };
            tell.borrow_mut()(News::Pack(&found));
            self.odd.push(found);
        }
        let unreadable = self.report.found.unreadable_records;
        self.report.found = std::mem::take(&mut examination.found);
        self.report.found.unreadable_records += unreadable;
        if !self.request.dry_run && self.report.found.missing_objects > 0 {
            self.report.missing_list = Some(self.dir.join(MISSING));
        }
        Ok(store.close()?)
    }
}

/// Notes which packs are needed by what was found; returns those of which nobody knows what for.
async fn refer(store: &JournaledStore, examination: &Examination<'_>) -> Result<Vec<RemotePack>, RecoveryError> {
    let mut left = Vec::new();
    let mut from = Bound::Unbounded;
    loop {
        let page = store.scan(Table::RemotePack, (from, Bound::Unbounded), PAGE, false)?;
        let Some((last, _)) = page.last() else { return Ok(left) };
        from = Bound::Excluded(last.clone());
        let mut batch = Batch::new(Reason::RemotePack);
        for (key, stored) in &page {
            let mut pack = RemotePack::read(key, stored)?;
            if pack.record.references > 0 {
                continue;
            }
            if examination.needs(&pack.tier, pack.pack) {
                pack.record.references = 1;
                batch = batch.put(Table::RemotePack, key.clone(), pack.record.encode()?);
            } else if store.get(Table::Manifest, key)?.is_some() {
                left.push(pack);
            }
        }
        if !batch.ops.is_empty() {
            store.commit(batch).await?;
        }
    }
}

fn write_list(path: &Path, packs: &[OddPack]) -> Result<(), RecoveryError> {
    let mut text = Vec::new();
    for pack in packs {
        let line = serde_json::to_string(pack).map_err(|e| RecoveryError::Local(e.to_string()))?;
        writeln!(text, "{line}").map_err(|e| local("write", path, &e))?;
    }
    write_file(path, &text)
}
