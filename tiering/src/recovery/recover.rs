//! A working data directory from the namespace that was shipped to a tier.

use super::claim::note_base;
use super::directory::{self, Alone, FETCHED, MISSING, State};
use super::plan::{Moment, Part, Plan, Shipped, WholeSnapshot};
use super::{RecoveryError, deployments, fetch, local, names, write_file};
use crate::clock::{Clock, Timestamp};
use crate::engine::examine::{Examination, Examined, MissingObject};
use crate::journal::follow::{cut, empty_segment};
use crate::journal::segment_name;
use crate::meta::{self, MetaError, MetaSettings, RebuildProgress};
use crate::tier::Tier;
use futures::StreamExt;
use serde::{Deserialize, Serialize};
use std::collections::{BTreeMap, BTreeSet};
use std::fs::File;
use std::path::{Path, PathBuf};
use std::sync::Arc;

/// Requests at a time.
const SIDE_BY_SIDE: usize = 16;
/// Parts of a snapshot at a time: each is held in memory whole, 64 MiB.
const SNAPSHOT_PARTS: usize = 4;

/// What to recover.
pub struct RecoverRequest<'a> {
    /// The name of the tier that the namespace was shipped to.
    pub from: String,
    /// All configured tiers.
    pub tiers: &'a BTreeMap<String, Arc<dyn Tier>>,
    /// Which deployment, where the tier has several.
    pub deployment: Option<String>,
    /// The directory to make.
    pub data_dir: PathBuf,
    /// Up to when; everything when left out.
    pub at: Option<Timestamp>,
    /// Only say what would come back: claims nothing, leaves nothing.
    pub dry_run: bool,
    /// Settings of the namespace.
    pub settings: MetaSettings,
    /// The clock.
    pub clock: Arc<dyn Clock>,
}

/// How far it is.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum RecoverProgress {
    /// So much is to be fetched.
    Planned {
        /// Objects.
        objects: u64,
        /// Bytes.
        bytes: u64,
    },
    /// So much more was fetched, or was here from an earlier attempt.
    Fetched {
        /// Bytes.
        bytes: u64,
    },
    /// The index is being made.
    Index(RebuildProgress),
    /// Of a recovery from packs: so many of the packs have told what is in them.
    Packs {
        /// Packs.
        done: u64,
        /// All of them.
        of: u64,
    },
    /// So many objects have been looked at.
    Examined {
        /// Objects.
        objects: u64,
    },
}

/// What came of it.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct RecoverReport {
    /// Nothing was made.
    pub dry_run: bool,
    /// The deployment.
    pub deployment: String,
    /// The tier that it came from.
    pub from: String,
    /// The directory.
    pub data_dir: PathBuf,
    /// When the last record that came back was written: later changes are lost.
    pub until: Timestamp,
    /// Its number.
    pub last_sequence: u64,
    /// The snapshot that it began with.
    pub snapshot: Option<u64>,
    /// Objects that were fetched.
    pub fetched_objects: u64,
    /// Their bytes.
    pub fetched_bytes: u64,
    /// The term that was claimed; 0 in a dry run.
    pub term: u64,
    /// What is there and what is missing.
    pub found: Examined,
    /// The file with what is missing, an object a line.
    pub missing_list: Option<PathBuf>,
    /// What else is to be said.
    #[serde(default)]
    pub notes: Vec<String>,
    /// How long it took, in milliseconds.
    pub took_ms: u64,
}

/// Hears how far it is.
type OnProgress<'a> = &'a mut dyn FnMut(RecoverProgress);
/// Hears of each object without bytes.
type OnMissing<'a> = &'a mut dyn FnMut(&MissingObject);

/// Builds a data directory from the cloud. `missing` hears of each object whose bytes are gone. Blocks the thread at times.
///
/// # Errors
/// What the tier or the disk says; [`RecoveryError::Refused`] when the directory is in use or the moment is not covered.
pub async fn recover(
    request: &RecoverRequest<'_>,
    progress: &mut dyn FnMut(RecoverProgress),
    missing: &mut dyn FnMut(&MissingObject),
) -> Result<RecoverReport, RecoveryError> {
    let began = request.clock.now();
    let tier = request.tiers.get(&request.from).ok_or_else(|| {
        let known: Vec<&str> = request.tiers.keys().map(String::as_str).collect();
        RecoveryError::Refused(format!("there is no tier {:?}; configured: {}", request.from, known.join(", ")))
    })?;
    let work = Work { request, tier: tier.as_ref() };
    let (dir, mut state, alone) = work.begin().await?;
    let outcome = Box::pin(work.run(&dir, &mut state, progress, missing)).await;
    if request.dry_run {
        drop(alone);
        std::fs::remove_dir_all(&dir).map_err(|e| local("remove", &dir, &e))?;
    }
    let mut report = outcome?;
    report.took_ms = u64::try_from(request.clock.now().since(began).as_millis()).unwrap_or(u64::MAX);
    if !request.dry_run {
        directory::finish(&dir, &report)?;
    }
    Ok(report)
}

pub(super) struct Work<'a> {
    pub(super) request: &'a RecoverRequest<'a>,
    pub(super) tier: &'a dyn Tier,
}

impl Work<'_> {
    /// The directory to work in, and what an earlier attempt knew.
    async fn begin(&self) -> Result<(PathBuf, State, Alone), RecoveryError> {
        let (dir, known) = directory::open(&self.request.data_dir, self.request.dry_run)?;
        let deployment = match (&self.request.deployment, &known) {
            (Some(named), _) => self.named(named).await?,
            (None, Some(state)) => state.deployment.clone(),
            (None, None) => self.only_deployment().await?,
        };
        let wanted = State::new(self.request.from.clone(), deployment, (self.request.at, false));
        let state = State::resume(known, wanted, &dir)?;
        let alone = Alone::begin(&self.request.data_dir, &dir, &state, self.request.dry_run)?;
        Ok((dir, state, alone))
    }

    /// A deployment that was asked for, if the tier has it.
    pub(super) async fn named(&self, named: &str) -> Result<String, RecoveryError> {
        let found = deployments(self.tier, names::ROOT).await?;
        if found.iter().any(|deployment| deployment == named) {
            return Ok(named.to_owned());
        }
        let others = if found.is_empty() { "none".to_owned() } else { found.join(", ") };
        let tier = &self.request.from;
        Err(RecoveryError::Refused(format!("tier {tier} has no namespace of deployment {named:?}; it has: {others}")))
    }

    /// The deployment of a tier that has one.
    pub(super) async fn only_deployment(&self) -> Result<String, RecoveryError> {
        let found = deployments(self.tier, names::ROOT).await?;
        match found.as_slice() {
            [one] => Ok(one.clone()),
            [] => Err(RecoveryError::Refused(format!(
                "tier {} has no namespace in it; with --from-packs, packs alone give back what had been moved to a tier",
                self.request.from
            ))),
            many => Err(RecoveryError::Refused(format!(
                "tier {} has the namespaces of {} deployments; name one with --deployment: {}",
                self.request.from,
                many.len(),
                many.join(", ")
            ))),
        }
    }

    async fn run(
        &self,
        dir: &Path,
        state: &mut State,
        progress: &mut dyn FnMut(RecoverProgress),
        missing: &mut dyn FnMut(&MissingObject),
    ) -> Result<RecoverReport, RecoveryError> {
        // What cannot be done must not fence the store that is there.
        self.check(state).await?;
        if !self.request.dry_run {
            state.take_over(dir, self.tier, self.request.clock.as_ref()).await?;
        }
        let mut shipped = Shipped::read(self.tier, &state.deployment).await?;
        let mut plan = shipped.plan(self.moment(state))?;
        if !self.request.dry_run {
            state.last.get_or_insert(plan.last_seq);
            state.save(dir)?;
        }
        let mut notes = Vec::new();
        if !dir.join("journal").exists() {
            (plan, notes) = self.fetch(dir, &mut shipped, self.moment(state), progress).await?;
            directory::place(dir, &dir.join(FETCHED))?;
        }
        write_file(&dir.join("deployment"), state.deployment.as_bytes())?;
        let clock = self.request.clock.as_ref();
        let made = meta::rebuild(dir, &self.request.settings, clock, &mut |at| progress(RecoverProgress::Index(at)))?;
        let term = state.held.as_ref().map_or(0, |h| h.term);
        // Before the store is opened, which writes records of its own: these are not in the cloud yet.
        let last_sequence = note_base(dir, term, made.last_seq)?;
        let until = time_of(dir, last_sequence)?
            .unwrap_or(Timestamp(plan.last_ms).min(state.at.unwrap_or(Timestamp(u64::MAX))));
        let found = self.examine(dir, state, (progress, missing)).await?;
        let missing_list = (!self.request.dry_run && found.missing_objects > 0).then(|| dir.join(MISSING));
        Ok(RecoverReport {
            dry_run: self.request.dry_run,
            deployment: state.deployment.clone(),
            from: state.from.clone(),
            data_dir: self.request.data_dir.clone(),
            until,
            last_sequence,
            snapshot: made.snapshot,
            fetched_objects: plan.objects(),
            fetched_bytes: plan.bytes(),
            term,
            found,
            missing_list,
            notes,
            took_ms: 0,
        })
    }

    /// Whether there is anything at the moment that is asked for.
    async fn check(&self, state: &State) -> Result<(), RecoveryError> {
        let shipped = Shipped::read(self.tier, &state.deployment).await?;
        let plan = shipped.plan(self.moment(state))?;
        // The names tell when a piece ends: of one that begins the journal and is cut, nothing may be left.
        if let (Some(at), None, [only]) = (state.at, &plan.snapshot, plan.parts.as_slice()) {
            let bytes = fetch(self.tier, &only.name, only.size).await?;
            match cut(&bytes, only.from, only.to, at.millis()) {
                Ok(Some(_)) => {}
                Ok(None) => return Err(RecoveryError::Refused(shipped.nothing(Moment::At(at)))),
                Err(what) => {
                    let error = RecoveryError::DamagedObject { name: only.name.clone(), what };
                    return Err(without(&error, shipped.latest_without(&only.name)));
                }
            }
        }
        Ok(())
    }

    fn moment(&self, state: &State) -> Moment {
        match (state.at, state.last) {
            (Some(at), _) => Moment::At(at),
            (None, Some(last)) => Moment::Record(last),
            (None, None) => Moment::Latest,
        }
    }

    /// Gets what makes the namespace at a moment; returns what that was, and notes of what was passed over. A snapshot is a
    /// short cut only: where it is damaged, an older one or the journal alone is taken, if these go as far.
    pub(super) async fn fetch(
        &self,
        dir: &Path,
        shipped: &mut Shipped,
        moment: Moment,
        progress: &mut dyn FnMut(RecoverProgress),
    ) -> Result<(Plan, Vec<String>), RecoveryError> {
        let mut plan = shipped.plan(moment)?;
        let mut notes = Vec::new();
        loop {
            progress(RecoverProgress::Planned { objects: plan.objects(), bytes: plan.bytes() });
            let error = match self.fetch_plan(dir, &plan, progress).await {
                Err(error @ RecoveryError::DamagedObject { .. }) => error,
                other => return other.map(|()| (plan, notes)),
            };
            let RecoveryError::DamagedObject { name, .. } = &error else { return Err(error) };
            let way_out = shipped.latest_without(name);
            let damaged = plan.snapshot.as_ref().filter(|s| s.parts.iter().any(|(part, _)| part == name));
            let damaged = damaged.map(|s| s.name);
            shipped.snapshots.retain(|s| Some(s.name) != damaged);
            match damaged.and_then(|_| shipped.plan(moment).ok()) {
                Some(other) if other.last_seq >= plan.last_seq => plan = other,
                _ => return Err(without(&error, way_out)),
            }
            notes.push(format!("{error}; it was not needed, as older ones and the journal are there"));
        }
    }

    async fn fetch_plan(
        &self,
        dir: &Path,
        plan: &Plan,
        progress: &mut dyn FnMut(RecoverProgress),
    ) -> Result<(), RecoveryError> {
        let (journal, snapshots) = (dir.join(FETCHED).join("journal"), dir.join(FETCHED).join("snapshots"));
        for folder in [&journal, &snapshots] {
            std::fs::create_dir_all(folder).map_err(|e| local("create", folder, &e))?;
        }
        // An earlier attempt may have planned otherwise.
        let wanted: BTreeSet<String> = plan.parts.iter().map(|part| segment_name(part.from)).collect();
        keep_only(&journal, &|name| wanted.contains(name))?;
        let wanted = plan.snapshot.as_ref().map(|s| format!("{:020}.", s.name.start));
        keep_only(&snapshots, &|name| wanted.as_ref().is_some_and(|start| name.starts_with(start)))?;
        let mut epoch = 0;
        if let Some(snapshot) = &plan.snapshot {
            epoch = self.fetch_snapshot(&snapshots, snapshot, progress).await?;
        }
        let until = self.request.at.map_or(u64::MAX, Timestamp::millis);
        let fetches = plan.parts.iter().map(|part| self.fetch_piece(&journal, part, until));
        let mut fetches = futures::stream::iter(fetches).buffer_unordered(SIDE_BY_SIDE);
        while let Some(bytes) = fetches.next().await {
            progress(RecoverProgress::Fetched { bytes: bytes? });
        }
        // A journal without a segment would be taken for a new store.
        let first = journal.join(segment_name(plan.first_seq()));
        if !first.exists() {
            write_file(&first, &empty_segment(plan.first_seq(), epoch, plan.last_ms))?;
        }
        Ok(())
    }

    async fn fetch_piece(&self, folder: &Path, part: &Part, until: u64) -> Result<u64, RecoveryError> {
        let path = folder.join(segment_name(part.from));
        if path.exists() {
            return Ok(part.size);
        }
        let bytes = fetch(self.tier, &part.name, part.size).await?;
        let damaged = |what: String| RecoveryError::DamagedObject { name: part.name.clone(), what };
        let Some(piece) = cut(&bytes, part.from, part.to, until).map_err(damaged)? else { return Ok(part.size) };
        if piece.first != part.from || (piece.last != part.to && until == u64::MAX) {
            let what =
                format!("it has records {} to {} instead of {} to {}", piece.first, piece.last, part.from, part.to);
            return Err(damaged(what));
        }
        write_file(&path, &piece.bytes)?;
        Ok(part.size)
    }

    /// Returns the epoch that it began in.
    async fn fetch_snapshot(
        &self,
        folder: &Path,
        snapshot: &WholeSnapshot,
        progress: &mut dyn FnMut(RecoverProgress),
    ) -> Result<u64, RecoveryError> {
        let path = folder.join(format!("{:020}.snap", snapshot.name.start));
        let part_path = |n: usize| folder.join(format!("{:020}.part{n:05}", snapshot.name.start));
        let whole: Vec<PathBuf> = (0..snapshot.parts.len()).map(part_path).collect();
        let fetches = whole.iter().zip(&snapshot.parts).map(|(part, (name, size))| {
            let here = path.exists() || part.exists();
            async move {
                if !here {
                    write_file(part, &fetch(self.tier, name, *size).await?)?;
                }
                Ok::<u64, RecoveryError>(*size)
            }
        });
        let mut fetches = futures::stream::iter(fetches).buffer_unordered(SNAPSHOT_PARTS);
        while let Some(bytes) = fetches.next().await {
            progress(RecoverProgress::Fetched { bytes: bytes? });
        }
        let epoch = match path.exists() {
            true => meta::snapshot::read(&path, &mut |_, _, _| Ok(()))?.0.epoch,
            false => put_together(&whole, &path).map_err(|e| match e {
                RecoveryError::Damaged(what) => {
                    let name = snapshot.parts.first().map(|(name, _)| name.clone()).unwrap_or_default();
                    RecoveryError::DamagedObject { name, what }
                }
                other => other,
            })?,
        };
        remove_all(&whole)?;
        Ok(epoch)
    }

    async fn examine(
        &self,
        dir: &Path,
        state: &State,
        (progress, missing): (OnProgress<'_>, OnMissing<'_>),
    ) -> Result<Examined, RecoveryError> {
        let store = directory::open_store(dir, &self.request.settings, &self.request.clock)?;
        let mut examination = Examination::new(&store, self.request.tiers, &state.deployment, !self.request.dry_run);
        let mut looked_at = |objects| progress(RecoverProgress::Examined { objects });
        directory::examine(dir, &mut examination, missing, &mut looked_at).await?;
        let found = std::mem::take(&mut examination.found);
        store.close()?;
        Ok(found)
    }
}

/// Makes a snapshot of its parts. Returns the epoch that it began in.
fn put_together(parts: &[PathBuf], path: &Path) -> Result<u64, RecoveryError> {
    let tmp = path.with_extension("snap.tmp");
    join(parts, &tmp).map_err(|e| local("write", &tmp, &e))?;
    match meta::snapshot::read(&tmp, &mut |_, _, _| Ok(())) {
        Ok((start, _)) => {
            std::fs::rename(&tmp, path).map_err(|e| local("rename", &tmp, &e))?;
            Ok(start.epoch)
        }
        Err(e) => {
            // The way here may be to blame: what is kept would be found again by every later attempt.
            remove_all(parts)?;
            match e {
                MetaError::Corrupt { what, offset, .. } => {
                    Err(RecoveryError::Damaged(format!("{what}, at byte {offset} of its parts together")))
                }
                other => Err(other.into()),
            }
        }
    }
}

/// The error of an object that cannot be done without, with what can be had.
fn without(error: &RecoveryError, at: Option<Timestamp>) -> RecoveryError {
    RecoveryError::Damaged(match at {
        Some(at) => format!(
            "{error}. Put it back as it was; else `tidegate recover --at {at}` brings back what had been written until then"
        ),
        None => format!(
            "{error}. Put it back as it was; else `tidegate recover --from-packs` gives back what had been moved to a tier"
        ),
    })
}

fn keep_only(folder: &Path, wanted: &dyn Fn(&str) -> bool) -> Result<(), RecoveryError> {
    let failed = |e: &std::io::Error| local("clear", folder, e);
    for entry in std::fs::read_dir(folder).map_err(|e| failed(&e))? {
        let entry = entry.map_err(|e| failed(&e))?;
        if !entry.file_name().to_str().is_some_and(wanted) {
            std::fs::remove_file(entry.path()).map_err(|e| failed(&e))?;
        }
    }
    Ok(())
}

fn remove_all(parts: &[PathBuf]) -> Result<(), RecoveryError> {
    for part in parts.iter().filter(|part| part.exists()) {
        std::fs::remove_file(part).map_err(|e| local("remove", part, &e))?;
    }
    Ok(())
}

fn join(parts: &[PathBuf], to: &Path) -> std::io::Result<()> {
    let mut out = File::create(to)?;
    for part in parts {
        std::io::copy(&mut File::open(part)?, &mut out)?;
    }
    out.sync_all()
}

/// When a record was written.
fn time_of(dir: &Path, seq: u64) -> Result<Option<Timestamp>, RecoveryError> {
    let mut time = None;
    meta::dump(dir, seq, &mut |record| {
        if record.seq == seq {
            time = Some(record.time);
        }
    })?;
    Ok(time)
}
