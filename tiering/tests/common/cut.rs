//! A disk with a volatile cache, as harsh as POSIX allows: of what was not synced any part may be there, in any order, torn at
//! the sectors; a name is there for sure only after a sync of its folder.

use super::common::Dice;
use super::log::{Event, Files};
use std::collections::{BTreeMap, BTreeSet, HashMap};
use std::path::{Path, PathBuf};
use std::sync::Arc;
use tempfile::TempDir;

#[derive(Debug, Clone)]
enum Change {
    Write(u64, Arc<Vec<u8>>),
    SetLen(u64),
}

/// A file's content.
#[derive(Debug, Clone, Default)]
struct Inode {
    durable: Vec<u8>,
    /// Changes that `durable` has already.
    synced: usize,
    pending: Vec<Change>,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Node {
    Dir,
    File(usize),
}

#[derive(Debug, Clone)]
enum NameChange {
    Make(String, Node),
    /// With what is renamed: its new name may be kept and its first name not.
    Rename(String, String, Node),
    Remove(String),
}

type Names = BTreeMap<String, Node>;

/// What is on a disk, by name; None is a folder.
pub type Image = BTreeMap<String, Option<Vec<u8>>>;

/// How much of what was not synced a cut leaves.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Style {
    /// All: the process died, the machine did not.
    Killed,
    /// Nothing.
    Nothing,
    /// All names and no content; the reverse.
    NamesOnly,
    ContentOnly,
    /// All but little: a sector here and there.
    Nearly,
    /// What the dice say, file by file and sector by sector.
    Any,
}

#[derive(Debug, Clone, Default)]
pub struct Disk {
    inodes: Vec<Inode>,
    now: Names,
    durable: Names,
    pending: Vec<(u64, NameChange)>,
    next_name: u64,
    /// Of running syncs: what they will have covered.
    syncs: HashMap<u64, (Option<usize>, u64)>,
    index_durable: Arc<Files>,
    index_seen: Arc<Files>,
}

fn change(content: &mut Vec<u8>, change: &Change) {
    match change {
        Change::Write(at, bytes) => {
            let (at, end) = (*at as usize, *at as usize + bytes.len());
            if content.len() < end {
                content.resize(end, 0);
            }
            content[at..end].copy_from_slice(bytes);
        }
        Change::SetLen(len) => content.resize(*len as usize, 0),
    }
}

fn rename(names: &mut Names, change: &NameChange) {
    match change {
        NameChange::Make(name, node) => drop(names.insert(name.clone(), *node)),
        NameChange::Remove(name) => drop(names.remove(name)),
        NameChange::Rename(from, to, node) => {
            names.remove(from);
            names.insert(to.clone(), *node);
        }
    }
}

fn folder(name: &str) -> &str {
    name.rsplit_once('/').map_or("", |(folder, _)| folder)
}

impl NameChange {
    fn folder(&self) -> &str {
        match self {
            NameChange::Make(name, _) | NameChange::Remove(name) | NameChange::Rename(name, ..) => folder(name),
        }
    }
}

impl Inode {
    fn volatile(&self) -> Vec<u8> {
        let mut content = self.durable.clone();
        self.pending.iter().for_each(|c| change(&mut content, c));
        content
    }

    /// Content after a cut: each sector as it was after one of the changes that touched it, and a length that the file had.
    fn torn(&self, dice: &mut Dice, sector: u64, style: Style) -> Vec<u8> {
        let whole = match style {
            Style::Killed | Style::ContentOnly => 0,
            Style::Nothing | Style::NamesOnly => 1,
            Style::Nearly => dice.below(2) * 2,
            Style::Any => dice.below(5),
        };
        match whole {
            0 => return self.volatile(),
            1 => return self.durable.clone(),
            _ => {}
        }
        // Cuts of the length are made in order, and what is behind one is only there after it.
        let shrinks: Vec<(usize, u64)> = self.shrinks();
        let made = dice.below(shrinks.len() as u64 + 1) as usize;
        let allowed = |at: u64, n: usize| {
            let later = shrinks[..made].iter().all(|(i, len)| at + sector <= *len || n > *i);
            later && shrinks[made..].iter().all(|(i, len)| at + sector <= *len || n <= *i)
        };
        // Version 0 is the durable one, version n that after the nth change.
        let mut touched: BTreeMap<u64, Vec<usize>> = BTreeMap::new();
        let mut len = self.durable.len() as u64;
        let mut lengths = vec![(0, len)];
        for (n, c) in (1..).zip(&self.pending) {
            let (from, to) = match c {
                Change::Write(at, bytes) => (*at, *at + bytes.len() as u64),
                Change::SetLen(to) => ((*to).min(len), (*to).max(len)),
            };
            len = if let Change::SetLen(to) = c { *to } else { len.max(to) };
            lengths.push((n, len));
            for s in from / sector..to.div_ceil(sector) {
                touched.entry(s * sector).or_insert_with(|| vec![0]).push(n);
            }
        }
        lengths.retain(|(n, _)| allowed(u64::MAX / 2, *n));
        let rare = style == Style::Nearly || dice.below(2) == 0;
        let mut chosen: BTreeMap<u64, usize> = BTreeMap::new();
        for (at, versions) in touched {
            let versions: Vec<usize> = versions.into_iter().filter(|n| allowed(at, *n)).collect();
            let last = versions.len().saturating_sub(1);
            let pick = if rare && dice.below(16) != 0 { last } else { dice.below(versions.len() as u64) as usize };
            chosen.insert(at, versions.get(pick).copied().unwrap_or(0));
        }
        let size = lengths[if rare { lengths.len() - 1 } else { dice.below(lengths.len() as u64) as usize }].1;
        self.compose(&chosen, size as usize, sector as usize)
    }

    /// Where the length was cut: after which change, to what.
    fn shrinks(&self) -> Vec<(usize, u64)> {
        let mut len = self.durable.len() as u64;
        let mut found = Vec::new();
        for (n, c) in self.pending.iter().enumerate() {
            match c {
                Change::SetLen(to) => {
                    if *to < len {
                        found.push((n, *to));
                    }
                    len = *to;
                }
                Change::Write(at, bytes) => len = len.max(*at + bytes.len() as u64),
            }
        }
        found
    }

    fn compose(&self, chosen: &BTreeMap<u64, usize>, size: usize, sector: usize) -> Vec<u8> {
        let mut out = self.durable.clone();
        out.resize(size, 0);
        let mut by_version: BTreeMap<usize, Vec<usize>> = BTreeMap::new();
        chosen.iter().for_each(|(at, n)| by_version.entry(*n).or_default().push(*at as usize));
        let mut content = self.durable.clone();
        for n in 0..=self.pending.len() {
            if n > 0 {
                change(&mut content, &self.pending[n - 1]);
            }
            for at in by_version.get(&n).into_iter().flatten() {
                let end = (*at + sector).min(size);
                if *at >= end {
                    continue;
                }
                out[*at..end].fill(0);
                if let Some(had) = content.get(*at..end.min(content.len())) {
                    out[*at..*at + had.len()].copy_from_slice(had);
                }
            }
        }
        out
    }
}

impl Disk {
    /// The disk after `events`.
    pub fn after(events: &[Event]) -> Disk {
        let mut disk = Disk::default();
        events.iter().for_each(|e| disk.apply(e));
        disk
    }

    fn name(&mut self, change: NameChange) {
        rename(&mut self.now, &change);
        self.pending.push((self.next_name, change));
        self.next_name += 1;
    }

    fn file(&mut self, name: &str) -> &mut Inode {
        match self.now.get(name) {
            Some(Node::File(n)) => &mut self.inodes[*n],
            other => panic!("the log speaks of the file {name}, which is {other:?}"),
        }
    }

    pub fn apply(&mut self, event: &Event) {
        match event {
            Event::CreateDir(name) => self.name(NameChange::Make(name.clone(), Node::Dir)),
            Event::Create(name) if self.now.contains_key(name) => self.file(name).pending.push(Change::SetLen(0)),
            Event::Create(name) => {
                self.inodes.push(Inode::default());
                self.name(NameChange::Make(name.clone(), Node::File(self.inodes.len() - 1)));
            }
            Event::Write(name, at, bytes) => self.file(name).pending.push(Change::Write(*at, Arc::clone(bytes))),
            Event::SetLen(name, len) => self.file(name).pending.push(Change::SetLen(*len)),
            Event::Rename(from, to) => match self.now.get(from) {
                Some(node) => self.name(NameChange::Rename(from.clone(), to.clone(), *node)),
                None => panic!("the log renames {from}, which is not there"),
            },
            Event::Remove(name) => self.name(NameChange::Remove(name.clone())),
            Event::SyncBegins(token, name) => {
                let covers = match self.now.get(name) {
                    Some(Node::File(n)) => (Some(*n), (self.inodes[*n].synced + self.inodes[*n].pending.len()) as u64),
                    _ => (None, self.next_name),
                };
                self.syncs.insert(*token, covers);
            }
            Event::SyncEnds(token, name) => self.synced(*token, name),
            Event::SyncFails(name) => {
                let inode = self.file(name);
                inode.synced += inode.pending.len();
                inode.pending.clear();
            }
            Event::Index { durable, files } => {
                self.index_seen = Arc::clone(files);
                if *durable {
                    self.index_durable = Arc::clone(files);
                }
            }
            Event::OpBegins(_) | Event::OpEnds(_) | Event::OpGone(_) => {}
        }
    }

    fn synced(&mut self, token: u64, name: &str) {
        match self.syncs.remove(&token) {
            Some((Some(n), upto)) => {
                let inode = &mut self.inodes[n];
                let covered = (upto as usize).saturating_sub(inode.synced);
                for c in inode.pending.drain(..covered) {
                    change(&mut inode.durable, &c);
                }
                inode.synced += covered;
            }
            Some((None, upto)) => {
                let pending = std::mem::take(&mut self.pending);
                for (n, c) in pending {
                    if n < upto && c.folder() == name {
                        rename(&mut self.durable, &c);
                    } else {
                        self.pending.push((n, c));
                    }
                }
            }
            None => {}
        }
    }

    /// What a cut leaves, by name; None is a folder.
    pub fn image(&self, dice: &mut Dice, style: Style) -> Image {
        let mut names = self.durable.clone();
        // A folder's changes in order up to some place, or any of them.
        let upto = self.next_name - dice.below(self.pending.len() as u64 + 1).min(self.next_name);
        let in_order = dice.below(2) == 0;
        for (n, c) in &self.pending {
            let kept = match style {
                Style::Killed | Style::NamesOnly => true,
                Style::Nothing | Style::ContentOnly => false,
                Style::Nearly => dice.below(4) != 0,
                Style::Any if in_order => *n < upto,
                Style::Any => dice.below(2) == 0,
            };
            if kept {
                rename(&mut names, c);
            }
        }
        let folders: BTreeSet<String> =
            names.iter().filter(|(_, n)| **n == Node::Dir).map(|(n, _)| n.clone()).collect();
        let reachable = |name: &str| {
            let mut at = folder(name);
            while !at.is_empty() {
                if !folders.contains(at) {
                    return false;
                }
                at = folder(at);
            }
            true
        };
        let sector = if dice.below(2) == 0 { 512 } else { 4096 };
        let mut image = BTreeMap::new();
        for (name, node) in names.iter().filter(|(name, _)| reachable(name)) {
            let content = match node {
                Node::Dir => None,
                Node::File(n) => Some(self.inodes[*n].torn(dice, sector, style)),
            };
            image.insert(name.clone(), content);
        }
        image
    }

    /// sled's folder: gone, as it was last made durable, as it was last seen, or a mixture of both.
    pub fn index(&self, dice: &mut Dice) -> Files {
        match dice.below(4) {
            0 => Files::new(),
            1 => (*self.index_durable).clone(),
            2 => (*self.index_seen).clone(),
            _ => {
                let mut mixed = (*self.index_durable).clone();
                for (name, bytes) in self.index_seen.iter() {
                    if dice.below(2) == 0 {
                        mixed.insert(name.clone(), Arc::clone(bytes));
                    }
                }
                mixed
            }
        }
    }

    /// The last seen state of sled's folder.
    pub fn index_seen(&self) -> &Files {
        &self.index_seen
    }
}

/// Writes an image to a directory.
pub fn write_image(root: &Path, image: &Image, sled: &Files) {
    for (name, content) in image {
        match content {
            None => std::fs::create_dir_all(root.join(name)).unwrap(),
            Some(bytes) => std::fs::write(root.join(name), bytes).unwrap(),
        }
    }
    if image.contains_key("data") {
        for (name, bytes) in sled {
            let path = root.join(super::log::SLED).join(name);
            std::fs::create_dir_all(path.parent().unwrap()).unwrap();
            std::fs::write(path, &**bytes).unwrap();
        }
    }
}

/// A log that makes an image durably.
pub fn as_events(image: &Image) -> Vec<Event> {
    let mut events = Vec::new();
    let sync = |events: &mut Vec<Event>, name: &str| {
        let token = u64::MAX - events.len() as u64;
        events.extend([Event::SyncBegins(token, name.to_owned()), Event::SyncEnds(token, name.to_owned())]);
    };
    for (name, content) in image {
        match content {
            None => events.push(Event::CreateDir(name.clone())),
            Some(bytes) => {
                events.push(Event::Create(name.clone()));
                events.push(Event::Write(name.clone(), 0, Arc::new(bytes.clone())));
                sync(&mut events, name);
            }
        }
    }
    sync(&mut events, "");
    image.iter().filter(|(_, content)| content.is_none()).for_each(|(name, _)| sync(&mut events, name));
    events
}

/// After a power cut the machine has another boot id than the one that is recorded.
pub fn other_boot(image: &mut Image) {
    let boot = std::fs::read_to_string("/proc/sys/kernel/random/boot_id").unwrap_or_default();
    let boot = boot.trim();
    for name in ["data/index.json", "data/index.json.tmp"] {
        if let Some(Some(bytes)) = image.get_mut(name)
            && !boot.is_empty()
            && let Some(at) = bytes.windows(boot.len()).position(|w| w == boot.as_bytes())
        {
            bytes[at..at + boot.len()].fill(b'0');
        }
    }
}

/// In memory where there is such a place: thousands of images are made.
pub fn temporary() -> TempDir {
    let memory = Path::new("/dev/shm");
    let builder = |dir: &Path| tempfile::Builder::new().prefix("tidegate-disk-").tempdir_in(dir);
    if memory.is_dir() { builder(memory) } else { builder(&std::env::temp_dir()) }.unwrap()
}

pub fn root_of(dir: &TempDir) -> PathBuf {
    dir.path().canonicalize().unwrap()
}

/// Every image that some hundred throws of the dice make.
#[cfg(test)]
fn images(events: &[Event]) -> Vec<Image> {
    let (disk, mut dice) = (Disk::after(events), Dice(7));
    let styles = [Style::Nothing, Style::NamesOnly, Style::ContentOnly, Style::Nearly, Style::Any, Style::Killed];
    (0..600).map(|n| disk.image(&mut dice, styles[n % styles.len()])).collect()
}

#[test]
fn what_was_synced_is_in_every_image_and_of_the_rest_any_sector_may_be() {
    let name = || "f".to_owned();
    let write = |at: u64, byte: u8| Event::Write(name(), at, Arc::new(vec![byte; 4096]));
    let mut events = vec![Event::Create(name()), write(0, 1), Event::SyncBegins(1, name()), write(4096, 2)];
    events.extend([Event::SyncEnds(1, name()), Event::SyncBegins(2, String::new()), Event::SyncEnds(2, String::new())]);
    // The second write came after the sync had begun, and the third changes what the first has made.
    events.push(write(2048, 3));
    let (mut old_before_new, mut torn, mut short) = (0, 0, 0);
    for image in images(&events) {
        let content = image["f"].as_ref().unwrap();
        assert!(content.len() >= 4096 && content[..2048].iter().all(|b| *b == 1));
        let sectors: Vec<u8> = content.chunks(512).map(|s| s[0]).collect();
        assert!(sectors[4..8].iter().all(|b| [1, 3].contains(b)), "{sectors:?}");
        torn += usize::from(sectors[4..8].contains(&1) && sectors[4..8].contains(&3));
        old_before_new += usize::from(sectors[4..8] == [1; 4] && sectors.get(8) == Some(&3));
        short += usize::from(content.len() < 8192);
    }
    assert!(old_before_new > 0 && torn > 0 && short > 0, "{old_before_new} {torn} {short}");
}

#[test]
fn a_rename_is_whole_or_not_at_all_and_certain_after_a_sync_of_its_folder() {
    let name = |n: &str| n.to_owned();
    let mut events = vec![Event::Create(name("t")), Event::Write(name("t"), 0, Arc::new(vec![1; 8]))];
    events.extend([Event::SyncBegins(1, name("t")), Event::SyncEnds(1, name("t"))]);
    events.push(Event::Rename(name("t"), name("f")));
    let found: BTreeSet<Vec<String>> = images(&events).iter().map(|image| image.keys().cloned().collect()).collect();
    assert_eq!(found, BTreeSet::from([vec![], vec![name("f")], vec![name("t")]]));
    events.extend([Event::SyncBegins(2, String::new()), Event::SyncEnds(2, String::new())]);
    assert!(images(&events).iter().all(|image| image.len() == 1 && image["f"] == Some(vec![1; 8])));
}
