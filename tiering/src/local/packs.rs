//! The pack files of a store, and what of them is not yet durable.

use super::{DiskBudget, LocalError};
use crate::disk;
use crate::failpoint;
use crate::pack::writer::{open_path, sealed_path};
use crate::pack::{FooterEntry, PackClass, PackId};
use std::collections::VecDeque;
use std::fs::File;
use std::io;
use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, OnceLock, PoisonError, RwLock};

/// On-disk rounding of a file, reserved with every pack so that what the file system counts stays within the budget.
pub(crate) const FILE_SLACK: u64 = 4096;

pub(crate) fn lock<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}

/// A sync of less than this (bytes) is paid for by metadata rather than by data.
const SMALL_SYNC: u64 = 256 << 10;

/// One pack file.
#[derive(Debug)]
pub(crate) struct Pack {
    pub id: PackId,
    pub class: PackClass,
    pub slot: u32,
    /// Always there while the pack is not sealed; opened on demand afterwards.
    file: Mutex<Option<Arc<File>>>,
    /// Read since the list of open files last looked at it.
    touched: AtomicBool,
    /// The footer is written: nothing more will be appended.
    pub complete: AtomicBool,
    sealed: AtomicBool,
    /// Length of the file, and how much of it a sync has covered.
    pub appended: AtomicU64,
    synced: AtomicU64,
    /// The last sync found little to do: zeros are written ahead, which makes the next ones cheap.
    pub small_syncs: AtomicBool,
    /// What the budget holds for those zeros.
    pub fill_charge: AtomicU64,
    /// What the budget holds for this pack.
    pub charged: AtomicU64,
    /// Frames (headers included) that the index points to. Recomputed at every opening, and only used to choose what to
    /// compact: whether a chunk is needed is decided by marking.
    pub live_bytes: AtomicU64,
    pub live_count: AtomicU64,
    /// Frames that were appended and are not in the index yet; see [`super::lanes::Appended`].
    pub pending: AtomicU64,
    /// All frames ever appended, dead ones included.
    pub frames: AtomicU64,
    pub raw_total: AtomicU64,
    pub stored_total: AtomicU64,
}

impl Pack {
    pub fn new(id: PackId, class: PackClass, slot: u32) -> Self {
        Self {
            id,
            class,
            slot,
            file: Mutex::new(None),
            touched: AtomicBool::new(false),
            complete: AtomicBool::new(false),
            sealed: AtomicBool::new(false),
            appended: AtomicU64::new(0),
            synced: AtomicU64::new(0),
            small_syncs: AtomicBool::new(false),
            fill_charge: AtomicU64::new(0),
            charged: AtomicU64::new(0),
            live_bytes: AtomicU64::new(0),
            live_count: AtomicU64::new(0),
            pending: AtomicU64::new(0),
            frames: AtomicU64::new(0),
            raw_total: AtomicU64::new(0),
            stored_total: AtomicU64::new(0),
        }
    }

    pub fn is_sealed(&self) -> bool {
        self.sealed.load(Ordering::Acquire)
    }

    /// Marks a pack found sealed at opening.
    pub fn set_sealed(&self, len: u64) {
        self.appended.store(len, Ordering::Release);
        self.synced.store(len, Ordering::Release);
        self.complete.store(true, Ordering::Release);
        self.sealed.store(true, Ordering::Release);
    }

    pub fn set_file(&self, file: Arc<File>) {
        *lock(&self.file) = Some(file);
    }

    pub fn count_frame(&self, raw_len: u32, stored_len: u32) {
        self.frames.fetch_add(1, Ordering::Relaxed);
        self.raw_total.fetch_add(u64::from(raw_len), Ordering::Relaxed);
        self.stored_total.fetch_add(u64::from(stored_len), Ordering::Relaxed);
    }

    pub fn count_entries(&self, entries: &[FooterEntry]) {
        for e in entries {
            self.count_frame(e.raw_len, e.stored_len);
        }
    }

    pub fn add_live(&self, frame_len: u64) {
        self.live_bytes.fetch_add(frame_len, Ordering::Relaxed);
        self.live_count.fetch_add(1, Ordering::AcqRel);
    }

    pub fn remove_live(&self, frame_len: u64) {
        self.live_bytes.fetch_sub(frame_len, Ordering::Relaxed);
        self.live_count.fetch_sub(1, Ordering::AcqRel);
    }

    pub fn path(&self, dir: &Path) -> PathBuf {
        if self.is_sealed() { sealed_path(dir, self.id) } else { open_path(dir, self.id) }
    }
}

/// All packs, by their number in this run.
#[derive(Debug)]
pub(crate) struct PackSet {
    pub dir: PathBuf,
    dir_file: File,
    slots: RwLock<Vec<Option<Arc<Pack>>>>,
    /// Packs that are not sealed and durable; a pack enters at creation, before anything can point to it, and leaves
    /// only when it is both. So a sync cannot miss one that is just changing its state.
    unsynced: Mutex<Vec<Arc<Pack>>>,
    /// Creations of files, and how many of them a sync of the folder has covered.
    created: AtomicU64,
    dir_synced: AtomicU64,
    /// Sealed packs whose files are open, oldest first.
    open_files: Mutex<VecDeque<Arc<Pack>>>,
    max_open_files: usize,
    poisoned: OnceLock<String>,
}

impl PackSet {
    pub fn new(dir: &Path, max_open_files: usize) -> Result<Self, LocalError> {
        let dir_file = File::open(dir).map_err(|e| LocalError::io("open", dir, e))?;
        Ok(Self {
            dir: dir.to_owned(),
            dir_file,
            slots: RwLock::default(),
            unsynced: Mutex::default(),
            // A killed process may have created files without syncing the folder.
            created: AtomicU64::new(1),
            dir_synced: AtomicU64::new(0),
            open_files: Mutex::default(),
            max_open_files: max_open_files.max(8),
            poisoned: OnceLock::new(),
        })
    }

    /// Numbers a new pack and adds it to the table.
    pub fn add(&self, id: PackId, class: PackClass) -> Result<Arc<Pack>, LocalError> {
        let mut slots = self.slots.write().unwrap_or_else(PoisonError::into_inner);
        let slot = u32::try_from(slots.len()).unwrap_or(u32::MAX);
        if slot > super::index::MAX_SLOT {
            return Err(LocalError::Full { reason: "16 million packs in one run of the process, restart it".into() });
        }
        let pack = Arc::new(Pack::new(id, class, slot));
        slots.push(Some(Arc::clone(&pack)));
        Ok(pack)
    }

    pub fn get(&self, slot: u32) -> Option<Arc<Pack>> {
        self.slots.read().unwrap_or_else(PoisonError::into_inner).get(slot as usize)?.clone()
    }

    /// All packs, by creation in this run; those found at opening come first, by id.
    pub fn all(&self) -> Vec<Arc<Pack>> {
        self.slots.read().unwrap_or_else(PoisonError::into_inner).iter().flatten().cloned().collect()
    }

    /// A pack that may hold unsynced bytes. `file` stays open until it is sealed.
    pub fn track(&self, pack: &Arc<Pack>, file: Arc<File>, len: u64) {
        pack.set_file(file);
        pack.appended.store(len, Ordering::Release);
        self.created.fetch_add(1, Ordering::AcqRel);
        lock(&self.unsynced).push(Arc::clone(pack));
    }

    /// The file of a pack, opened when it is not. None when the pack is gone: look the chunk up again.
    pub fn file(&self, pack: &Arc<Pack>) -> Result<Option<Arc<File>>, LocalError> {
        let mut slot = lock(&pack.file);
        if let Some(file) = slot.as_ref() {
            pack.touched.store(true, Ordering::Relaxed);
            return Ok(Some(Arc::clone(file)));
        }
        let path = sealed_path(&self.dir, pack.id);
        let file = match File::open(&path) {
            Ok(file) => Arc::new(file),
            Err(e) if e.kind() == io::ErrorKind::NotFound => return Ok(None),
            Err(e) => return Err(LocalError::io("open", &path, e)),
        };
        *slot = Some(Arc::clone(&file));
        drop(slot);
        self.limit_open_files(pack);
        Ok(Some(file))
    }

    /// Puts a sealed pack on the list of open files and closes one that was not read lately when there are too many.
    fn limit_open_files(&self, pack: &Arc<Pack>) {
        let mut open = lock(&self.open_files);
        open.push_back(Arc::clone(pack));
        // Each turn closes one or clears one mark, so this ends.
        let mut turns = open.len() * 2;
        while open.len() > self.max_open_files && turns > 0 {
            turns -= 1;
            let Some(oldest) = open.pop_front() else { break };
            if oldest.touched.swap(false, Ordering::Relaxed) {
                open.push_back(oldest);
            } else if let Ok(mut slot) = oldest.file.try_lock() {
                // A reader that holds the Arc goes on undisturbed.
                *slot = None;
            } else {
                open.push_back(oldest);
            }
        }
    }

    /// Everything appended before this call is durable when it returns; complete packs are sealed on the way.
    pub fn sync(&self) -> Result<(), LocalError> {
        self.check_writable()?;
        let unsynced = lock(&self.unsynced).clone();
        for pack in &unsynced {
            self.sync_pack(pack)?;
        }
        self.sync_dir()?;
        // A rename needs no sync of its own: after a crash the pack is found by either name.
        unsynced.iter().filter(|p| p.complete.load(Ordering::Acquire)).try_for_each(|p| self.finish(p))
    }

    /// Makes one pack durable, its name included.
    pub fn sync_one(&self, pack: &Arc<Pack>) -> Result<(), LocalError> {
        self.check_writable()?;
        self.sync_pack(pack)?;
        self.sync_dir()?;
        if pack.complete.load(Ordering::Acquire) { self.finish(pack) } else { Ok(()) }
    }

    fn sync_pack(&self, pack: &Arc<Pack>) -> Result<(), LocalError> {
        let target = pack.appended.load(Ordering::Acquire);
        if pack.synced.load(Ordering::Acquire) >= target {
            return Ok(());
        }
        let Some(file) = lock(&pack.file).clone() else { return Ok(()) };
        disk::sync_data(&file).map_err(|e| self.poison("sync", &pack.path(&self.dir), e))?;
        // Raised only after the sync returned, and by maximum: two syncs at a time each wait for their own.
        let before = pack.synced.fetch_max(target, Ordering::AcqRel);
        pack.small_syncs.store(target.saturating_sub(before) < SMALL_SYNC, Ordering::Release);
        failpoint::hit("pack.synced");
        Ok(())
    }

    fn sync_dir(&self) -> Result<(), LocalError> {
        let target = self.created.load(Ordering::Acquire);
        if self.dir_synced.load(Ordering::Acquire) < target {
            disk::sync_open_dir(&self.dir_file).map_err(|e| self.poison("sync", &self.dir, e))?;
            self.dir_synced.fetch_max(target, Ordering::AcqRel);
        }
        Ok(())
    }

    /// Renames a complete pack once all of it is synced.
    fn finish(&self, pack: &Arc<Pack>) -> Result<(), LocalError> {
        let synced = pack.synced.load(Ordering::Acquire) >= pack.appended.load(Ordering::Acquire);
        if !synced {
            return Ok(());
        }
        let mut list = lock(&self.unsynced);
        if pack.is_sealed() {
            return Ok(());
        }
        let from = open_path(&self.dir, pack.id);
        failpoint::hit("pack.sealed.before_rename");
        disk::rename(&from, &sealed_path(&self.dir, pack.id)).map_err(|e| self.poison("rename", &from, e))?;
        pack.sealed.store(true, Ordering::Release);
        list.retain(|p| p.slot != pack.slot);
        drop(list);
        self.limit_open_files(pack);
        failpoint::hit("pack.sealed");
        Ok(())
    }

    /// Number of packs that are complete but wait for their sync.
    pub fn waiting_to_seal(&self) -> usize {
        lock(&self.unsynced).iter().filter(|p| p.complete.load(Ordering::Acquire)).count()
    }

    /// Deletes the file of a sealed pack that nothing points to any more, and gives its room back. Readers that hold
    /// the file go on.
    pub fn retire(&self, pack: &Arc<Pack>, budget: &DiskBudget) -> Result<u64, LocalError> {
        let path = sealed_path(&self.dir, pack.id);
        match disk::remove(&path) {
            // Somebody was faster; a sweep must not stop at it for ever.
            Err(e) if e.kind() != io::ErrorKind::NotFound => return Err(LocalError::io("delete", &path, e)),
            _ => {}
        }
        if let Some(slot) = self.slots.write().unwrap_or_else(PoisonError::into_inner).get_mut(pack.slot as usize) {
            *slot = None;
        }
        lock(&self.open_files).retain(|p| p.slot != pack.slot);
        *lock(&pack.file) = None;
        let freed = pack.charged.swap(0, Ordering::AcqRel);
        budget.release(freed);
        failpoint::hit("pack.retired");
        Ok(freed)
    }

    fn poison(&self, what: &'static str, path: &Path, source: io::Error) -> LocalError {
        let error = LocalError::Io { what, path: path.to_owned(), source };
        let _ = self.poisoned.set(error.to_string());
        error
    }

    /// Refuses writes after a failed sync: the kernel forgets what it could not write, so a second sync that succeeds
    /// proves nothing.
    pub fn check_writable(&self) -> Result<(), LocalError> {
        match self.poisoned.get() {
            Some(reason) => Err(LocalError::Poisoned { reason: reason.clone() }),
            None => Ok(()),
        }
    }
}
