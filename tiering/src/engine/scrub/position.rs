//! Where the scrub stands: `packs/scrub.json`, so that a restart goes on where the process before it was.
//!
//! It is about this disk's files and nothing else. A record in the namespace, the tempting alternative, would be shipped to the
//! recovery tier and come back on another disk, where it means nothing, and would make each step a commit. Losing the
//! file costs reading some packs again, so one that does not decode is as good as none.

use super::report::ScrubStats;
use crate::clock::Timestamp;
use crate::disk;
use crate::local::ScrubCursor;
use crate::pack::PackId;
use serde::{Deserialize, Serialize};
use std::io;
use std::path::{Path, PathBuf};
use std::sync::{Mutex, MutexGuard, PoisonError};

const VERSION: u32 = 1;

/// Bytes of packs between two notes of the position: what a kill makes the next scrub read again, and one small file a pack
/// written.
const NOTE_EVERY: u64 = 1 << 20;

/// The file.
#[derive(Debug, Clone, Default, Serialize, Deserialize)]
struct Noted {
    version: u32,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pass: Option<Pass>,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    last: Option<Complete>,
}

/// A pass that has not come to its end.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
pub(super) struct Pass {
    /// When it was begun.
    pub started: Timestamp,
    /// The pack that it ends with.
    until: String,
    /// The pack and the offset where it goes on; none at the beginning.
    at: Option<(String, u32)>,
    /// Packs that are done.
    pub packs: u64,
    /// Chunks verified.
    pub chunks: u64,
    /// Their bytes.
    pub bytes: u64,
    /// Bytes of packs that are done.
    pub passed: u64,
    /// Frames found damaged.
    pub damaged: u64,
    /// Of those, replaced.
    pub repaired: u64,
    /// Of those, the ones that no tier has.
    pub lost: u64,
    /// Packs that were copied because of their header or footer.
    pub rewritten: u64,
}

impl Pass {
    pub(super) fn new(started: Timestamp, until: PackId) -> Self {
        Self { started, until: until.to_string(), ..Self::default() }
    }

    pub(super) fn until(&self) -> Option<PackId> {
        self.until.parse().ok()
    }

    pub(super) fn cursor(&self) -> Option<ScrubCursor> {
        let (pack, offset) = self.at.as_ref()?;
        Some(ScrubCursor { pack: pack.parse().ok()?, offset: *offset })
    }

    pub(super) fn go_to(&mut self, at: ScrubCursor) {
        self.at = Some((at.pack.to_string(), at.offset));
    }

    /// Whether the names in it are some.
    fn is_whole(&self) -> bool {
        self.until().is_some() && (self.at.is_none() || self.cursor().is_some())
    }
}

/// The last pass that came to its end.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Serialize, Deserialize)]
struct Complete {
    finished: Timestamp,
    damaged: u64,
    lost: u64,
}

/// The scrub of one engine.
#[derive(Debug)]
pub(crate) struct ScrubState {
    file: PathBuf,
    /// One at a time.
    pub(super) one: tokio::sync::Mutex<()>,
    held: Mutex<Held>,
}

#[derive(Debug, Default)]
struct Held {
    noted: Noted,
    running: bool,
    /// Bytes of the whole pass.
    total: u64,
    /// [`Pass::passed`] when the file was written last.
    written: u64,
}

impl ScrubState {
    /// Reads the file in the folder of the packs.
    pub(crate) fn load(packs: &Path) -> Self {
        let file = packs.join("scrub.json");
        let noted = match read(&file) {
            Ok(noted) => noted,
            Err(error) => {
                tracing::warn!(file = %file.display(), %error, "where the scrub was is not known; it begins anew");
                Noted::default()
            }
        };
        let total = noted.pass.as_ref().map_or(0, |pass| pass.passed);
        Self { file, one: tokio::sync::Mutex::default(), held: Mutex::new(Held { noted, total, ..Held::default() }) }
    }

    fn held(&self) -> MutexGuard<'_, Held> {
        self.held.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// The pass that was interrupted.
    pub(super) fn interrupted(&self) -> Option<Pass> {
        self.held().noted.pass.clone()
    }

    pub(super) fn set_running(&self, running: bool) {
        self.held().running = running;
    }

    /// Takes the state after a step. Writes it down now and then, and at the end of a step that found something.
    pub(super) fn step(&self, pass: &Pass, total: u64, found: bool) {
        let mut held = self.held();
        held.noted.pass = Some(pass.clone());
        held.total = total;
        if found || pass.passed < held.written || pass.passed - held.written >= NOTE_EVERY {
            held.written = pass.passed;
            self.write(&held.noted);
        }
    }

    /// The pass has come to its end.
    pub(super) fn complete(&self, pass: &Pass, finished: Timestamp) {
        let mut held = self.held();
        let last = Some(Complete { finished, damaged: pass.damaged, lost: pass.lost });
        held.noted = Noted { version: VERSION, pass: None, last };
        (held.total, held.written) = (0, 0);
        self.write(&held.noted);
    }

    fn write(&self, noted: &Noted) {
        let written = serde_json::to_vec(&Noted { version: VERSION, ..noted.clone() })
            .map_err(io::Error::other)
            .and_then(|bytes| {
                let temporary = self.file.with_extension("json.tmp");
                disk::write_synced(&temporary, &bytes)?;
                disk::rename(&temporary, &self.file)
            });
        if let Err(error) = written {
            tracing::warn!(file = %self.file.display(), %error, "cannot note where the scrub is");
        }
    }

    /// For `stats`.
    pub(crate) fn stats(&self) -> ScrubStats {
        let held = self.held();
        let pass = held.noted.pass.clone().unwrap_or_default();
        let last = held.noted.last;
        ScrubStats {
            running: held.running,
            pass_started: held.noted.pass.as_ref().map(|pass| pass.started),
            bytes_done: pass.passed,
            bytes_total: held.total,
            damaged: pass.damaged,
            repaired: pass.repaired,
            last_complete: last.map(|last| last.finished),
            last_damaged: last.map_or(0, |last| last.damaged),
            last_lost: last.map_or(0, |last| last.lost),
        }
    }
}

fn read(file: &Path) -> io::Result<Noted> {
    let bytes = match std::fs::read(file) {
        Ok(bytes) => bytes,
        Err(e) if e.kind() == io::ErrorKind::NotFound => return Ok(Noted::default()),
        Err(e) => return Err(e),
    };
    let noted: Noted = serde_json::from_slice(&bytes)?;
    if noted.version != VERSION {
        return Err(io::Error::other(format!("version {}, this program reads {VERSION}", noted.version)));
    }
    if noted.pass.as_ref().is_some_and(|pass| !pass.is_whole()) {
        return Err(io::Error::other("names that are no packs"));
    }
    Ok(noted)
}

#[cfg(test)]
mod tests {
    use super::*;

    /// The example of docs/formats.md.
    const SAMPLE: &str = r#"{"version":1,"pass":{"started":1800000000000,"until":"01a3185c500000020011223344556677","at":["01a3185c500000010011223344556677",4194344],"packs":1,"chunks":1200,"bytes":56000000,"passed":71303208,"damaged":1,"repaired":1,"lost":0,"rewritten":0},"last":{"finished":1799000000000,"damaged":0,"lost":0}}"#;

    #[test]
    fn the_sample_of_the_documentation_is_read_and_written() {
        assert!(include_str!("../../../../docs/formats.md").contains(SAMPLE));
        let folder = tempfile::tempdir().unwrap();
        std::fs::write(folder.path().join("scrub.json"), SAMPLE).unwrap();
        let state = ScrubState::load(folder.path());
        let pass = state.interrupted().unwrap();
        assert_eq!(pass.cursor().unwrap().offset, 4_194_344);
        assert_eq!(state.stats().last_complete, Some(Timestamp(1_799_000_000_000)));
        state.step(&pass, 100, true);
        assert_eq!(std::fs::read_to_string(folder.path().join("scrub.json")).unwrap(), SAMPLE);
    }

    #[test]
    fn a_file_that_makes_no_sense_is_as_good_as_none() {
        for text in ["", "{", "[]", r#"{"version":2}"#, &SAMPLE.replace("0002", "zz")] {
            let folder = tempfile::tempdir().unwrap();
            std::fs::write(folder.path().join("scrub.json"), text).unwrap();
            let state = ScrubState::load(folder.path());
            assert_eq!((state.interrupted(), state.stats()), (None, ScrubStats::default()), "{text}");
        }
    }
}
