//! The input: a real tree of files, and its second version, which is the same tree after some work on it.

use bytes::Bytes;
use std::path::{Path, PathBuf};

/// Every how many files one is changed in the second version.
const CHANGED_EVERY: usize = 12;

/// One file of the tree.
#[derive(Debug, Clone)]
pub struct InputFile {
    /// Where it is read from.
    pub path: PathBuf,
    /// Its name below the root, with slashes.
    pub name: String,
    /// Its number in the tree; decides what the second version does to it.
    pub number: usize,
}

/// A version of the tree.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Version {
    /// As it is.
    First,
    /// Every twelfth file edited: some lines inserted in the middle, so that everything behind them moves.
    Second,
}

impl Version {
    /// Both.
    pub const ALL: [Version; 2] = [Version::First, Version::Second];

    /// The folder in the bucket.
    pub fn folder(self) -> &'static str {
        match self {
            Version::First => "monday",
            Version::Second => "tuesday",
        }
    }
}

impl InputFile {
    /// The key of this file in `version`.
    pub fn key(&self, version: Version) -> String {
        format!("{}/{}", version.folder(), self.name)
    }

    /// The content of this file in `version`, read afresh.
    pub fn content(&self, version: Version) -> Result<Bytes, String> {
        let mut content = std::fs::read(&self.path).map_err(|e| format!("cannot read {}: {e}", self.path.display()))?;
        if version == Version::Second && self.number.is_multiple_of(CHANGED_EVERY) {
            let middle = content.len() / 2;
            let edit = format!("\n// Edited on Tuesday: file {} of the tree.\n", self.number);
            content.splice(middle..middle, edit.bytes());
        }
        Ok(Bytes::from(content))
    }
}

/// The sources that cargo has unpacked on this machine.
pub fn cargo_sources() -> Result<PathBuf, String> {
    let home = std::env::var_os("CARGO_HOME").map(PathBuf::from);
    let home = home.or_else(|| std::env::var_os("HOME").map(|h| PathBuf::from(h).join(".cargo")));
    let sources = home.ok_or("neither CARGO_HOME nor HOME is set; name a tree with --input DIR")?.join("registry/src");
    if sources.is_dir() {
        return Ok(sources);
    }
    Err(format!("{} is not there; name a tree with --input DIR", sources.display()))
}

/// The files below `root` in the order of their names, up to `max_bytes` and `max_files` altogether.
pub fn collect(root: &Path, max_bytes: u64, max_files: usize) -> Result<Vec<InputFile>, String> {
    let mut files = Vec::new();
    let (mut left, mut folders) = (max_bytes, vec![root.to_path_buf()]);
    while let Some(folder) = folders.pop() {
        let unreadable = |e: std::io::Error| format!("cannot read {}: {e}", folder.display());
        let mut entries: Vec<_> = std::fs::read_dir(&folder).map_err(unreadable)?.flatten().collect();
        entries.sort_by_key(std::fs::DirEntry::file_name);
        // The stack gives back the last one first.
        folders.extend(entries.iter().rev().filter(|e| e.file_type().is_ok_and(|t| t.is_dir())).map(|e| e.path()));
        for entry in entries.iter().filter(|e| e.file_type().is_ok_and(|t| t.is_file())) {
            let path = entry.path();
            let size = entry.metadata().map_err(unreadable)?.len();
            let Some(name) = path.strip_prefix(root).ok().and_then(Path::to_str) else { continue };
            if files.len() >= max_files {
                return Ok(files);
            }
            // One file that does not fit ends nothing: smaller ones still may.
            if size > left || name.len() > 900 {
                continue;
            }
            left -= size;
            files.push(InputFile { name: name.to_owned(), number: files.len(), path });
        }
    }
    if files.is_empty() {
        return Err(format!("there is no file below {} that could be uploaded", root.display()));
    }
    Ok(files)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_tree_is_bounded_and_its_second_version_differs_where_it_should() {
        let dir = tempfile::tempdir().unwrap();
        for i in 0..30 {
            std::fs::create_dir_all(dir.path().join(format!("d{}", i % 3))).unwrap();
            std::fs::write(dir.path().join(format!("d{}/f{i:02}", i % 3)), vec![b'x'; 100]).unwrap();
        }
        let files = collect(dir.path(), 2_000, 1_000).unwrap();
        assert_eq!(files.len(), 20);
        assert_eq!(collect(dir.path(), 1 << 20, 7).unwrap().len(), 7);
        let changed = files
            .iter()
            .filter(|f| f.content(Version::First).unwrap() != f.content(Version::Second).unwrap())
            .map(|f| f.number)
            .collect::<Vec<_>>();
        assert_eq!(changed, [0, 12]);
    }
}
