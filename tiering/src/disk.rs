//! Every change of a file that must survive a loss of power goes through here: journal, packs, snapshots, `index.json`, the
//! deployment's file, the list of damaged frames. sled's own files do not: nothing rests on them (`docs/adr/0002-journal.md`).
//!
//! The functions do what their names say, no more. A test may [`watch`] a directory: it then hears of each step, in an
//! order in which the steps can be repeated, and may let one fail. That is how `tests/power` knows what a power cut leaves.
//! Without a watcher a step costs one relaxed atomic load.

use std::fs::{File, OpenOptions};
use std::io::{self, IoSlice, Write};
use std::os::fd::AsRawFd;
use std::os::unix::fs::FileExt;
use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError, RwLock};

/// One change, or one promise of the file system.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Step<'a> {
    /// A folder was made.
    CreateDir(&'a Path),
    /// A file was made, or an old one of that name emptied.
    Create(&'a Path),
    /// Bytes were written at an offset.
    Write(&'a Path, u64, &'a [u8]),
    /// The length was changed.
    SetLen(&'a Path, u64),
    /// fsync or fdatasync of a file.
    Sync(&'a Path),
    /// fsync of a folder: the names in it.
    SyncDir(&'a Path),
    /// A file has another name.
    Rename(&'a Path, &'a Path),
    /// A name is gone.
    Remove(&'a Path),
}

impl<'a> Step<'a> {
    /// The file or folder that is meant; of a rename, its old name.
    pub fn path(&self) -> &'a Path {
        match *self {
            Step::CreateDir(path)
            | Step::Create(path)
            | Step::Write(path, ..)
            | Step::SetLen(path, _)
            | Step::Sync(path)
            | Step::SyncDir(path)
            | Step::Rename(path, _)
            | Step::Remove(path) => path,
        }
    }
}

/// Hears of steps. Its methods are called by one thread at a time.
pub trait Watcher: Send + Sync {
    /// Before a step; what it returns is given to [`after`](Self::after), so that the two ends of a sync can be told from others'.
    ///
    /// # Errors
    /// Any: the step is then not done and fails with it.
    fn before(&self, step: &Step<'_>) -> io::Result<u64>;

    /// After a step that succeeded.
    fn after(&self, step: &Step<'_>, token: u64);
}

type Watchers = Vec<(PathBuf, Arc<dyn Watcher>)>;

static WATCHED: AtomicBool = AtomicBool::new(false);
static WATCHERS: RwLock<Watchers> = RwLock::new(Vec::new());
/// Held over every change of a name, and while a step's file is named and noted: so names and steps fit each other.
static ORDER: Mutex<()> = Mutex::new(());

/// Ends the watch when dropped.
#[must_use]
pub struct Watch(PathBuf);

impl std::fmt::Debug for Watch {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_tuple("Watch").field(&self.0).finish()
    }
}

impl Drop for Watch {
    fn drop(&mut self) {
        let mut all = WATCHERS.write().unwrap_or_else(PoisonError::into_inner);
        all.retain(|(root, _)| *root != self.0);
        WATCHED.store(!all.is_empty(), Ordering::SeqCst);
    }
}

/// Lets `watcher` hear of every step below `root`, which is there and has no symbolic link in its path. For tests.
pub fn watch(root: &Path, watcher: Arc<dyn Watcher>) -> Watch {
    let mut all = WATCHERS.write().unwrap_or_else(PoisonError::into_inner);
    all.push((root.to_owned(), watcher));
    WATCHED.store(true, Ordering::SeqCst);
    Watch(root.to_owned())
}

fn order() -> MutexGuard<'static, ()> {
    ORDER.lock().unwrap_or_else(PoisonError::into_inner)
}

fn watcher_of(path: &Path) -> Option<Arc<dyn Watcher>> {
    let all = WATCHERS.read().unwrap_or_else(PoisonError::into_inner);
    all.iter().find(|(root, _)| path.starts_with(root)).map(|(_, watcher)| Arc::clone(watcher))
}

/// A change of a name.
fn named<T>(step: Step<'_>, run: impl FnOnce() -> io::Result<T>) -> io::Result<T> {
    if !WATCHED.load(Ordering::Relaxed) {
        return run();
    }
    let Some(watcher) = watcher_of(step.path()) else { return run() };
    let _order = order();
    let token = watcher.before(&step)?;
    let done = run()?;
    watcher.after(&step, token);
    Ok(done)
}

/// What is done with an open file.
#[derive(Clone, Copy)]
enum Act<'a> {
    Write(u64, &'a [u8]),
    SetLen(u64),
    Sync,
    SyncDir,
}

impl<'a> Act<'a> {
    fn on(self, path: &'a Path) -> Step<'a> {
        match self {
            Act::Write(at, bytes) => Step::Write(path, at, bytes),
            Act::SetLen(len) => Step::SetLen(path, len),
            Act::Sync => Step::Sync(path),
            Act::SyncDir => Step::SyncDir(path),
        }
    }
}

/// A step of an open file, with the name that it has just now.
fn opened<T>(file: &File, act: Act<'_>, run: impl FnOnce() -> io::Result<T>) -> io::Result<T> {
    if !WATCHED.load(Ordering::Relaxed) {
        return run();
    }
    let link = format!("/proc/self/fd/{}", file.as_raw_fd());
    let noted = order();
    let path = std::fs::read_link(&link)?;
    let Some(watcher) = watcher_of(&path) else {
        drop(noted);
        return run();
    };
    let token = watcher.before(&act.on(&path))?;
    drop(noted);
    let done = run()?;
    let _order = order();
    watcher.after(&act.on(&std::fs::read_link(&link)?), token);
    Ok(done)
}

/// Makes a folder and those above it that are missing, durably: each one's name is synced.
pub(crate) fn create_dirs(dir: &Path) -> io::Result<()> {
    if dir.is_dir() {
        return Ok(());
    }
    let above = match dir.parent() {
        Some(above) if !above.as_os_str().is_empty() => above,
        _ => Path::new("."),
    };
    create_dirs(above)?;
    match named(Step::CreateDir(dir), || std::fs::create_dir(dir)) {
        Err(e) if e.kind() != io::ErrorKind::AlreadyExists => Err(e),
        _ => sync_dir(above),
    }
}

/// Makes the names of a folder and of those above it durable. A process that died may have made them without: [`create_dirs`] takes what
/// is there for durable. What may not be opened was not made by this user.
pub(crate) fn sync_above(dir: &Path) -> io::Result<()> {
    for above in dir.ancestors().skip(1) {
        let above = if above.as_os_str().is_empty() { Path::new(".") } else { above };
        match sync_dir(above) {
            Err(e) if e.kind() == io::ErrorKind::PermissionDenied => return Ok(()),
            other => other?,
        }
    }
    Ok(())
}

/// Opens a file to write it; `options` may make or empty it.
pub(crate) fn create(options: &OpenOptions, path: &Path) -> io::Result<File> {
    named(Step::Create(path), || options.open(path))
}

/// Makes or empties a file.
pub(crate) fn create_empty(path: &Path) -> io::Result<File> {
    create(OpenOptions::new().read(true).write(true).create(true).truncate(true), path)
}

/// Writes all of both parts, one after the other, with one `pwritev` if the system takes all at once.
pub(crate) fn write_all_at(file: &File, parts: [&[u8]; 2], offset: u64) -> io::Result<()> {
    let [mut head, mut tail] = parts;
    let mut at = offset;
    while !head.is_empty() || !tail.is_empty() {
        let n = write_some_at(file, [head, tail], at)?;
        at += n as u64;
        let from_head = n.min(head.len());
        head = &head[from_head..];
        tail = &tail[n - from_head..];
    }
    Ok(())
}

/// One `pwritev`. With a watcher only of the first part that has bytes: two would be two steps.
fn write_some_at(file: &File, parts: [&[u8]; 2], at: u64) -> io::Result<usize> {
    let write = || match rustix::io::pwritev(file, &parts.map(IoSlice::new), at) {
        Ok(0) => Err(io::ErrorKind::WriteZero.into()),
        Ok(n) => Ok(n),
        Err(rustix::io::Errno::INTR) => Ok(0),
        Err(e) => Err(e.into()),
    };
    if !WATCHED.load(Ordering::Relaxed) {
        return write();
    }
    let bytes = if parts[0].is_empty() { parts[1] } else { parts[0] };
    opened(file, Act::Write(at, bytes), || file.write_all_at(bytes, at).map(|()| bytes.len()))
}

/// Changes a file's length.
pub(crate) fn set_len(file: &File, len: u64) -> io::Result<()> {
    opened(file, Act::SetLen(len), || file.set_len(len))
}

/// fdatasync: bytes and length.
pub(crate) fn sync_data(file: &File) -> io::Result<()> {
    opened(file, Act::Sync, || Ok(rustix::fs::fdatasync(file)?))
}

/// fsync.
pub(crate) fn sync_all(file: &File) -> io::Result<()> {
    opened(file, Act::Sync, || file.sync_all())
}

/// Makes the names in a folder durable.
pub(crate) fn sync_dir(dir: &Path) -> io::Result<()> {
    sync_open_dir(&File::open(dir)?)
}

/// The same for a folder that is open.
pub(crate) fn sync_open_dir(dir: &File) -> io::Result<()> {
    opened(dir, Act::SyncDir, || dir.sync_all())
}

/// Renames a file within its folder. Not durable before [`sync_dir`].
pub(crate) fn rename(from: &Path, to: &Path) -> io::Result<()> {
    named(Step::Rename(from, to), || std::fs::rename(from, to))
}

/// Deletes a file. Not durable before [`sync_dir`].
pub(crate) fn remove(path: &Path) -> io::Result<()> {
    named(Step::Remove(path), || std::fs::remove_file(path))
}

/// Makes `bytes` the content of a file, durably. Its name is not synced.
pub(crate) fn write_synced(path: &Path, bytes: &[u8]) -> io::Result<()> {
    let file = create_empty(path)?;
    write_all_at(&file, [bytes, &[]], 0)?;
    sync_all(&file)
}

/// A file that is written front to back.
#[derive(Debug)]
pub(crate) struct Appender {
    file: File,
    at: u64,
}

impl Appender {
    /// Goes on at `at`.
    pub(crate) fn new(file: File, at: u64) -> Appender {
        Appender { file, at }
    }

    /// The file.
    pub(crate) fn file(&self) -> &File {
        &self.file
    }
}

impl Write for Appender {
    fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
        write_all_at(&self.file, [bytes, &[]], self.at)?;
        self.at += bytes.len() as u64;
        Ok(bytes.len())
    }

    fn flush(&mut self) -> io::Result<()> {
        Ok(())
    }
}
