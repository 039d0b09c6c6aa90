//! The recorded log: every step of every durable file below a directory, with the beginnings and ends of operations.

use std::collections::BTreeMap;
use std::io;
use std::path::{Path, PathBuf};
use std::sync::{Arc, Mutex};
use tidegate_tiering::disk::{Step, Watcher};

/// Files by their names below a folder.
pub type Files = BTreeMap<String, Arc<Vec<u8>>>;

/// What happened. Paths are relative to the watched directory; the directory itself is the empty path.
#[derive(Debug, Clone)]
pub enum Event {
    CreateDir(String),
    Create(String),
    Write(String, u64, Arc<Vec<u8>>),
    SetLen(String, u64),
    /// A sync of a file or folder began; what was done before it is covered once it ends.
    SyncBegins(u64, String),
    SyncEnds(u64, String),
    Rename(String, String),
    Remove(String),
    /// sled's folder, as it was; durable when all of it was just synced.
    Index {
        durable: bool,
        files: Arc<Files>,
    },
    /// An operation of the workload was begun, was acknowledged, or was found not to have happened.
    OpBegins(usize),
    OpEnds(usize),
    OpGone(usize),
}

/// Where sled's files are.
pub const SLED: &str = "data/sled";

pub struct Log {
    root: PathBuf,
    events: Mutex<Vec<Event>>,
}

fn files_of(dir: &Path, below: &str, files: &mut Files) {
    for entry in std::fs::read_dir(dir).into_iter().flatten().flatten() {
        let name = format!("{below}{}", entry.file_name().to_string_lossy());
        if entry.path().is_dir() {
            files_of(&entry.path(), &format!("{name}/"), files);
        } else if let Ok(bytes) = std::fs::read(entry.path()) {
            files.insert(name, Arc::new(bytes));
        }
    }
}

impl Log {
    /// A log that goes on after `events`.
    pub fn new(root: &Path, events: Vec<Event>) -> Arc<Log> {
        Arc::new(Log { root: root.to_owned(), events: Mutex::new(events) })
    }

    pub fn push(&self, event: Event) {
        self.events.lock().unwrap().push(event);
    }

    pub fn len(&self) -> usize {
        self.events.lock().unwrap().len()
    }

    pub fn events(&self) -> Vec<Event> {
        self.events.lock().unwrap().clone()
    }

    fn name(&self, path: &Path) -> String {
        path.strip_prefix(&self.root).unwrap_or(path).to_string_lossy().into_owned()
    }

    fn note_index(&self, durable: bool) {
        let mut files = Files::new();
        files_of(&self.root.join(SLED), "", &mut files);
        self.push(Event::Index { durable, files: Arc::new(files) });
    }
}

impl Watcher for Log {
    fn before(&self, step: &Step<'_>) -> io::Result<u64> {
        let name = self.name(step.path());
        let mut events = self.events.lock().unwrap();
        let token = events.len() as u64;
        if matches!(step, Step::Sync(_) | Step::SyncDir(_)) && !name.starts_with(SLED) {
            events.push(Event::SyncBegins(token, name));
        }
        Ok(token)
    }

    fn after(&self, step: &Step<'_>, token: u64) {
        let name = self.name(step.path());
        if name == SLED && matches!(step, Step::SyncDir(_)) {
            return self.note_index(true);
        }
        if name.starts_with(SLED) || name.ends_with(" (deleted)") {
            return;
        }
        if name == "data/index.json.tmp" && matches!(step, Step::Create(_)) {
            self.note_index(false);
        }
        self.push(match *step {
            Step::CreateDir(_) => Event::CreateDir(name),
            Step::Create(_) => Event::Create(name),
            Step::Write(_, at, bytes) => Event::Write(name, at, Arc::new(bytes.to_vec())),
            Step::SetLen(_, len) => Event::SetLen(name, len),
            Step::Sync(_) | Step::SyncDir(_) => Event::SyncEnds(token, name),
            Step::Rename(_, to) => Event::Rename(name, self.name(to)),
            Step::Remove(_) => Event::Remove(name),
        });
    }
}
