//! The recorded log: every step of every durable file below a directory, with the beginnings and ends of operations.

use rustix::io::Errno;
use std::collections::BTreeMap;
use std::io;
use std::os::unix::fs::FileExt;
use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicU64, Ordering};
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
    /// A sync failed: the system forgets what it could not write.
    SyncFails(String),
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

/// What the disk refuses.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Refused {
    CreateFile,
    Write,
    /// A write of which the first half is done.
    ShortWrite,
    SetLen,
    Sync,
    SyncDir,
    Rename,
    Remove,
}

/// An error that the disk gives to steps of one kind in one place.
#[derive(Debug, Clone, Copy)]
pub struct Fault {
    pub refused: Refused,
    /// Where: the beginning of a name.
    pub place: &'static str,
    pub error: Errno,
    /// After how many such steps, and whether once or from then on.
    pub after: u64,
    pub once: bool,
}

impl Fault {
    fn meets(&self, step: &Step<'_>, name: &str) -> bool {
        let kind = match step {
            Step::CreateDir(_) => return false,
            Step::Create(_) => self.refused == Refused::CreateFile,
            Step::Write(..) => matches!(self.refused, Refused::Write | Refused::ShortWrite),
            Step::SetLen(..) => self.refused == Refused::SetLen,
            Step::Sync(_) => self.refused == Refused::Sync,
            Step::SyncDir(_) => self.refused == Refused::SyncDir,
            Step::Rename(..) => self.refused == Refused::Rename,
            Step::Remove(_) => self.refused == Refused::Remove,
        };
        kind && name.starts_with(self.place)
    }
}

pub struct Log {
    root: PathBuf,
    events: Mutex<Vec<Event>>,
    fault: Mutex<Option<Fault>>,
    /// Steps that were refused.
    pub refusals: AtomicU64,
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
        Arc::new(Log {
            root: root.to_owned(),
            events: Mutex::new(events),
            fault: Mutex::default(),
            refusals: AtomicU64::new(0),
        })
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

    /// Lets the disk fail from now on, or no more.
    pub fn set_fault(&self, fault: Option<Fault>) {
        *self.fault.lock().unwrap() = fault;
    }

    fn refuse(&self, step: &Step<'_>, name: &str) -> io::Result<()> {
        let mut armed = self.fault.lock().unwrap();
        let Some(fault) = armed.as_mut().filter(|fault| fault.meets(step, name)) else { return Ok(()) };
        if fault.after > 0 {
            fault.after -= 1;
            return Ok(());
        }
        let (error, refused) = (fault.error, fault.refused);
        if fault.once {
            *armed = None;
        }
        drop(armed);
        self.refusals.fetch_add(1, Ordering::SeqCst);
        match *step {
            Step::Write(path, at, bytes) if refused == Refused::ShortWrite => {
                let half = &bytes[..bytes.len() / 2];
                std::fs::File::options().write(true).open(path)?.write_all_at(half, at)?;
                self.push(Event::Write(name.to_owned(), at, Arc::new(half.to_vec())));
            }
            Step::Sync(_) => self.push(Event::SyncFails(name.to_owned())),
            _ => {}
        }
        Err(error.into())
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
        self.refuse(step, &name)?;
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
