//! The lock of a data directory: one process at a time, and a message that says who.

use super::MetaError;
use crate::clock::Clock;
use rustix::fs::FlockOperation;
use std::fs::{File, OpenOptions};
use std::io::{Read, Write};
use std::path::Path;

/// Holds the lock until dropped. The kernel releases it when the process dies, so it is never stale.
#[derive(Debug)]
pub(crate) struct DataLock {
    file: File,
    /// The folder is locked as well: the file may be deleted, and then a second process would make another one.
    folder: File,
}

impl Drop for DataLock {
    /// Closing alone would leave the lock to a child that another thread is just forking: until that child runs its program it
    /// has a duplicate of the descriptor. Unlocking one duplicate unlocks all.
    fn drop(&mut self) {
        // Nothing to do about a failure: the descriptor is closed next.
        let _ = rustix::fs::flock(&self.file, FlockOperation::Unlock);
        let _ = rustix::fs::flock(&self.folder, FlockOperation::Unlock);
    }
}

impl DataLock {
    /// Takes the lock of `root`, or says who has it.
    pub(crate) fn take(root: &Path, clock: &dyn Clock) -> Result<DataLock, MetaError> {
        let path = root.join("lock");
        let mut file = OpenOptions::new()
            .read(true)
            .write(true)
            .create(true)
            .truncate(false)
            .open(&path)
            .map_err(|e| MetaError::io("open", &path, &e))?;
        let folder = File::open(root).map_err(|e| MetaError::io("open", root, &e))?;
        let locked = [&folder, &file]
            .into_iter()
            .try_for_each(|file| rustix::fs::flock(file, FlockOperation::NonBlockingLockExclusive));
        if let Err(e) = locked {
            if e != rustix::io::Errno::WOULDBLOCK {
                return Err(MetaError::io("lock", &path, &e.into()));
            }
            let mut holder = String::new();
            // What the holder wrote is a courtesy: unreadable text changes nothing about the lock.
            let _ = file.read_to_string(&mut holder);
            let (pid, since) = holder.trim().split_once(' ').unwrap_or(("?", "?"));
            return Err(MetaError::Locked { dir: root.to_owned(), pid: pid.to_owned(), since: since.to_owned() });
        }
        file.set_len(0)
            .and_then(|()| writeln!(file, "{} {}", std::process::id(), clock.now()))
            .map_err(|e| MetaError::io("write to", &path, &e))?;
        Ok(DataLock { file, folder })
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::clock::{ManualClock, Timestamp};

    #[test]
    fn a_lock_whose_file_is_deleted_still_holds() {
        let dir = tempfile::tempdir().unwrap();
        let clock = ManualClock::new(Timestamp(0));
        let lock = DataLock::take(dir.path(), &clock).unwrap();
        std::fs::remove_file(dir.path().join("lock")).unwrap();
        assert!(matches!(DataLock::take(dir.path(), &clock), Err(MetaError::Locked { .. })));
        drop(lock);
        DataLock::take(dir.path(), &clock).unwrap();
    }

    #[test]
    fn a_dropped_lock_is_free_even_while_a_duplicate_of_its_descriptor_is_open() {
        let dir = tempfile::tempdir().unwrap();
        let clock = ManualClock::new(Timestamp(0));
        let lock = DataLock::take(dir.path(), &clock).unwrap();
        let duplicate = lock.file.try_clone().unwrap();
        assert!(matches!(DataLock::take(dir.path(), &clock), Err(MetaError::Locked { .. })));
        drop(lock);
        DataLock::take(dir.path(), &clock).unwrap();
        drop(duplicate);
    }
}
