//! The directory that a recovery makes: files are got into a folder of their own and put into place when all are there; what was
//! got stays over an interruption. Until the end a file says that the directory is not to be served from.

use super::claim::{Claimant, Held, verify};
use super::{RecoveryError, local, read_json, write_json};
use crate::clock::{Clock, Timestamp};
use crate::engine::examine::{Examination, MissingObject};
use crate::journal::sync_dir;
use crate::meta::{JournaledStore, MetaSettings, NoData};
use crate::tier::Tier;
use serde::{Deserialize, Serialize};
use std::fs::File;
use std::io::{BufWriter, Write};
use std::path::{Path, PathBuf};
use std::sync::Arc;

/// The file in a data directory whose recovery is not finished.
pub const UNFINISHED: &str = "recover.json";
/// The file in one whose recovery is: what came of it.
pub(crate) const FINISHED: &str = "recovered.json";
/// The list of what is missing, an object a line.
pub(super) const MISSING: &str = "recovered-missing.jsonl";
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
    let mut dir = target.to_owned();
    if dry_run {
        let mut name = target.as_os_str().to_owned();
        name.push(".dry-run");
        dir = PathBuf::from(name);
        if dir.exists() {
            std::fs::remove_dir_all(&dir).map_err(|e| local("remove", &dir, &e))?;
        }
    }
    let known = State::load(&dir)?;
    if known.is_none() && std::fs::read_dir(&dir).is_ok_and(|mut entries| entries.next().is_some()) {
        return Err(RecoveryError::Refused(format!(
            "{} is not empty; name a directory that is not there yet",
            dir.display()
        )));
    }
    Ok((dir, known))
}

/// Puts the files of `folder` where a store has them: the snapshot first, so that a journal is never without it.
pub(super) fn place(dir: &Path, folder: &Path) -> Result<(), RecoveryError> {
    for name in ["snapshots", "journal"] {
        let (from, to) = (folder.join(name), dir.join(name));
        if from.exists() {
            sync_dir(&from)?;
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
