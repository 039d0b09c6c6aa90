//! Whether the folder of a directory tier is there.

use std::os::unix::fs::MetadataExt;
use std::path::{Path, PathBuf};
use std::sync::{Mutex, MutexGuard, PoisonError};

/// The folder of a directory tier, known again by device and inode: a share that is unmounted leaves a path at which an
/// empty folder stands, or where one can be made. Writing there would fill the wrong disk with the only copies of objects,
/// and a name that is not found there is no proof that it is gone.
#[derive(Debug)]
pub(super) struct Folder {
    path: PathBuf,
    known: Mutex<Known>,
}

/// By what a folder is known.
#[derive(Debug, Clone)]
enum Known {
    /// Device and inode.
    Identity(u64, u64),
    /// It was not there at the start: it is the one that holds this.
    Holds(String),
}

impl Known {
    fn of(found: &std::fs::Metadata) -> Self {
        Self::Identity(found.dev(), found.ino())
    }
}

impl Folder {
    /// The folder as it stands now.
    pub(super) fn open(path: PathBuf) -> std::io::Result<Self> {
        let known = Mutex::new(Known::of(&std::fs::metadata(&path)?));
        Ok(Self { path, known })
    }

    pub(super) fn path(&self) -> &Path {
        &self.path
    }

    fn known(&self) -> MutexGuard<'_, Known> {
        self.known.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Says what it must hold.
    pub(super) fn expect(&self, held: &str) {
        if !self.path.join(held).is_dir() {
            *self.known() = Known::Holds(held.to_owned());
        }
    }

    /// Why this is not the folder that was opened, if so. A share that hangs must not hold up a thread that serves others.
    pub(super) async fn problem(&self) -> Option<String> {
        let found = match tokio::fs::metadata(&self.path).await {
            Ok(found) => found,
            Err(error) => return Some(format!("{error}; is the share mounted?")),
        };
        let known = self.known().clone();
        match known {
            Known::Identity(device, inode) if (device, inode) == (found.dev(), found.ino()) => None,
            Known::Identity(..) => {
                Some("another directory stands there than at the start; is the share mounted?".to_owned())
            }
            Known::Holds(held) => match tokio::fs::metadata(self.path.join(&held)).await {
                Ok(_) => {
                    *self.known() = Known::of(&found);
                    None
                }
                Err(error) => Some(format!("{held}, which was written there earlier: {error}; is the share mounted?")),
            },
        }
    }
}
