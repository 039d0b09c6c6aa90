//! The directory that a recovery makes: files are got into a folder of their own and put into place when all are there; what was
//! got stays over an interruption. Until the end a file says that the directory is not to be served from.

use super::claim::{Claimant, Held, verify};
use super::{RecoveryError, local, read_json, write_json};
use crate::clock::{Clock, Timestamp};
use crate::engine::examine::{Examination, MissingObject};
use crate::journal::sync_dir;
use crate::meta::{JournaledStore, MetaSettings, NoData};
use crate::tier::Tier;
use rustix::fs::FlockOperation;
use serde::{Deserialize, Serialize};
use std::fs::{DirEntry, File, OpenOptions};
use std::io::{BufWriter, Write};
use std::os::unix::fs::MetadataExt;
use std::path::{Path, PathBuf};
use std::sync::Arc;

/// The file in a data directory whose recovery is not finished.
pub const UNFINISHED: &str = "recover.json";
/// The file in one whose recovery is: what came of it.
pub(crate) const FINISHED: &str = "recovered.json";
/// The list of what is missing, an object a line.
pub(super) const MISSING: &str = "recovered-missing.jsonl";
/// Held by whoever works in the directory.
const LOCK: &str = "recover.lock";
/// The folder that files are got into.
pub(super) const FETCHED: &str = "recover";

/// What an interrupted recovery left to know.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub(super) struct State {
    version: u32,
    /// The tier, or those whose packs are read.
    pub from: String,
    pub deployment: String,
    pub at: Option<Timestamp>,
    /// From packs alone.
    #[serde(default)]
    pub packs: bool,
    /// The claim, once it is made.
    pub held: Option<Held>,
    /// The last record that the plan had then.
    pub last: Option<u64>,
}

impl State {
    pub(super) fn new(from: String, deployment: String, (at, packs): (Option<Timestamp>, bool)) -> Self {
        Self { version: 1, from, deployment, at, packs, held: None, last: None }
    }

    fn load(dir: &Path) -> Result<Option<State>, RecoveryError> {
        read_json(&dir.join(UNFINISHED))
    }

    pub(super) fn save(&self, dir: &Path) -> Result<(), RecoveryError> {
        write_json(&dir.join(UNFINISHED), self)
    }

    /// What goes on from here, if the same is asked for; `wanted` is how it would begin.
    pub(super) fn resume(known: Option<State>, wanted: State, dir: &Path) -> Result<State, RecoveryError> {
        let Some(known) = known else { return Ok(wanted) };
        let what = |s: &State| (s.from.clone(), s.deployment.clone(), s.at, s.packs);
        if what(&known) == what(&wanted) {
            return Ok(known);
        }
        let until = known.at.map_or("the end".to_owned(), |at| at.to_string());
        let (deployment, from) = (&known.deployment, &known.from);
        let of = match known.packs {
            true => format!("deployment {deployment} from the packs in {from}"),
            false => format!("deployment {deployment} from {from}, to {until}"),
        };
        Err(RecoveryError::Refused(format!(
            "{} has an unfinished recovery of {of}: ask for the same again, or name another directory",
            dir.display()
        )))
    }

    /// Fences whoever wrote before, once.
    pub(super) async fn take_over(
        &mut self,
        dir: &Path,
        tier: &dyn Tier,
        clock: &dyn Clock,
    ) -> Result<(), RecoveryError> {
        self.save(dir)?;
        if let Some(held) = &self.held {
            return verify(tier, &self.deployment, held).await;
        }
        let claimant = Claimant { tier, deployment: &self.deployment, data_dir: dir, clock, by: "recover" };
        self.held = Some(claimant.claim(true).await?);
        self.save(dir)
    }
}

/// The directory to work in, and what an earlier attempt knew.
pub(super) fn open(target: &Path, dry_run: bool) -> Result<(PathBuf, Option<State>), RecoveryError> {
    let dir = if dry_run { beside(target) } else { target.to_owned() };
    if dir.exists() && !dir.is_dir() {
        let what = "is no directory; name one that is not there yet";
        return Err(RecoveryError::Refused(format!("{} {what}", dir.display())));
    }
    let mut known = State::load(&dir)?;
    if dry_run && known.is_some() {
        // Of a dry run that was killed: only these have the file there.
        let _lock = lock(&dir)?;
        std::fs::remove_dir_all(&dir).map_err(|e| local("remove", &dir, &e))?;
        known = None;
    }
    let other = |entry: std::io::Result<DirEntry>| entry.map_or(true, |entry| entry.file_name() != LOCK);
    if known.is_none() && std::fs::read_dir(&dir).is_ok_and(|mut entries| entries.any(other)) {
        return Err(RecoveryError::Refused(format!(
            "{} is not empty; name a directory that is not there yet",
            dir.display()
        )));
    }
    Ok((dir, known))
}

/// Held while a recovery works in its directory: two would put files into each other's way.
#[derive(Debug)]
pub(super) struct Alone {
    file: File,
    path: PathBuf,
}

impl Alone {
    /// Begins to work in the directory that [`open`] found to be right for it, and makes it when it is missing.
    pub(super) fn begin(target: &Path, dir: &Path, state: &State, dry_run: bool) -> Result<Alone, RecoveryError> {
        std::fs::create_dir_all(dir).map_err(|e| local("create", dir, &e))?;
        let (path, file) = (dir.join(LOCK), lock(dir)?);
        if dry_run {
            // So that the next one knows that what is here may go.
            state.save(dir)?;
        } else if open(target, false)?.1.is_some_and(|now| now != *state) {
            return Err(busy(dir));
        }
        Ok(Alone { file, path })
    }
}

fn lock(dir: &Path) -> Result<File, RecoveryError> {
    let path = dir.join(LOCK);
    let file = OpenOptions::new().write(true).create(true).truncate(false).open(&path);
    let file = file.map_err(|e| local("open", &path, &e))?;
    match rustix::fs::flock(&file, FlockOperation::NonBlockingLockExclusive) {
        Ok(()) => {}
        Err(e) if e == rustix::io::Errno::WOULDBLOCK => return Err(busy(dir)),
        Err(e) => return Err(local("lock", &path, &e.into())),
    }
    // Whoever had it before removes it, and a third one may have made another.
    match (path.metadata(), file.metadata()) {
        (Ok(there), Ok(mine)) if there.ino() == mine.ino() => Ok(file),
        _ => Err(busy(dir)),
    }
}

fn busy(dir: &Path) -> RecoveryError {
    let what = "is being worked in by another `tidegate recover`: wait for it";
    RecoveryError::Refused(format!("{} {what}", dir.display()))
}

impl Drop for Alone {
    fn drop(&mut self) {
        // Nothing to do about a failure: the file alone is in nobody's way.
        let _ = std::fs::remove_file(&self.path);
        let _ = rustix::fs::flock(&self.file, FlockOperation::Unlock);
    }
}

/// Where a dry run works: on the same disk, and nothing of the way there has to be made.
fn beside(target: &Path) -> PathBuf {
    let mut whole = target;
    while let Some(parent) = whole.parent().filter(|p| !p.as_os_str().is_empty() && !p.exists()) {
        whole = parent;
    }
    let mut name = whole.as_os_str().to_owned();
    name.push(".dry-run");
    PathBuf::from(name)
}

/// Puts the files of `folder` where a store has them: the snapshot first, so that a journal is never without it.
pub(super) fn place(dir: &Path, folder: &Path) -> Result<(), RecoveryError> {
    for name in ["snapshots", "journal"] {
        let (from, to) = (folder.join(name), dir.join(name));
        if from.exists() {
            sync_dir(&from)?;
            // Of an attempt that was interrupted right here: it had put the snapshot in place and not the journal.
            if to.exists() {
                std::fs::remove_dir_all(&to).map_err(|e| local("remove", &to, &e))?;
            }
            std::fs::rename(&from, &to).map_err(|e| local("rename", &from, &e))?;
        }
    }
    sync_dir(dir)?;
    std::fs::remove_dir_all(folder).map_err(|e| local("remove", folder, &e))
}

/// The end: from here on the directory may be served from.
pub(super) fn finish(dir: &Path, report: &impl Serialize) -> Result<(), RecoveryError> {
    write_json(&dir.join(FINISHED), report)?;
    let unfinished = dir.join(UNFINISHED);
    std::fs::remove_file(&unfinished).map_err(|e| local("remove", &unfinished, &e))?;
    Ok(sync_dir(dir)?)
}

pub(super) fn open_store(
    dir: &Path,
    settings: &MetaSettings,
    clock: &Arc<dyn Clock>,
) -> Result<JournaledStore, RecoveryError> {
    Ok(JournaledStore::open(dir, settings.clone(), Arc::new(NoData), Vec::new(), Arc::clone(clock))?.0)
}

/// Looks through a namespace, and writes the list of what is missing.
pub(super) async fn examine(
    dir: &Path,
    examination: &mut Examination<'_>,
    missing: &mut dyn FnMut(&MissingObject),
    progress: &mut dyn FnMut(u64),
) -> Result<(), RecoveryError> {
    let list = dir.join(MISSING);
    let mut out = BufWriter::new(File::create(&list).map_err(|e| local("create", &list, &e))?);
    let mut lost = |object: &MissingObject| {
        missing(object);
        let line = serde_json::to_string(object).map_err(|e| RecoveryError::Local(e.to_string()))?;
        writeln!(out, "{line}").map_err(|e| local("write", &list, &e))
    };
    examination.run(&mut lost, progress).await?;
    out.flush().and_then(|()| out.get_ref().sync_all()).map_err(|e| local("write", &list, &e))
}
