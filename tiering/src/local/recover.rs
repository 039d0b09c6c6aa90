//! Opening after a clean stop, a kill or a power cut: which packs are there, and what of the open ones is whole.

use super::index::{Location, SHARDS};
use super::lanes::OpenPack;
use super::packs::{FILE_SLACK, Pack};
use super::snapshot::Snapshot;
use super::store::Inner;
use super::{LocalError, damage};
use crate::chunk::ChunkId;
use crate::disk;
use crate::pack::format::{ENTRY_LEN, FooterEntry, HEADER_LEN, TRAILER_LEN};
use crate::pack::reader::{ReadError, read_sealed, scan};
use crate::pack::writer::{PackWriter, open_path, sealed_path};
use crate::pack::{FormatError, PackHeader, PackId};
use serde::Serialize;
use std::collections::{HashMap, HashSet};
use std::fs::{self, File, OpenOptions};
use std::io;
use std::os::unix::fs::FileExt;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::sync::{Arc, Once};

/// How the process before this one left the packs.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum LastEnd {
    /// Its last sync succeeded.
    Clean,
    /// Not known: open packs are written again, so that the next sync means them.
    Unknown,
}

/// Bytes of an open pack that are written again at a time.
const AGAIN_BYTES: usize = 1 << 20;

/// What opening found and did.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize)]
pub struct RecoveryReport {
    /// Sealed packs with a good footer.
    pub sealed_packs: u64,
    /// Packs that were open and have been recovered.
    pub open_packs: u64,
    /// Bytes cut off the ends of open packs: written, but never synced.
    pub torn_bytes: u64,
    /// Chunks in the index.
    pub chunks: u64,
    /// What the index snapshot was good for; none when there was no snapshot.
    pub snapshot: Option<String>,
    /// Packs that are damaged: file names, with what was found. Their whole frames are in the index.
    pub damaged: Vec<String>,
}

/// Frames that are known to be damaged.
type Damaged = HashSet<(PackId, u32)>;

/// Threads that read footers at opening, at most.
const MAX_THREADS: usize = 8;

/// Packs whose footers a thread reads before it adds what they hold: some 3 MB of entries at 32 KiB a chunk.
const GROUP: usize = 32;

/// A pack and its frames.
type ReadPack = (Arc<Pack>, Vec<FooterEntry>);

/// True for an open pack whose header is cut short or all zeros: a kill or a power cut came before its first sync, which
/// would have covered the header too. So nothing in it was ever promised.
fn never_synced(file: &File, error: &FormatError) -> bool {
    let mut head = [0; HEADER_LEN];
    let zeros = file.read_exact_at(&mut head, 0).is_ok() && head.iter().all(|b| *b == 0);
    zeros || matches!(error, FormatError::Short { .. })
}

/// Writes a file's first `len` bytes where they are. They may be in the page cache only, marked clean by a sync that failed: a later
/// sync would then report a success that is none, and whoever relies on one of these frames would be answered too early.
fn write_again(file: &File, len: u64) -> io::Result<()> {
    let mut buffer = vec![0; AGAIN_BYTES];
    let mut at = 0;
    while at < len {
        let n = usize::try_from(len - at).unwrap_or(AGAIN_BYTES).min(AGAIN_BYTES);
        file.read_exact_at(&mut buffer[..n], at)?;
        disk::write_all_at(file, [&buffer[..n], &[]], at)?;
        at += n as u64;
    }
    Ok(())
}

fn place_of(pack: &Pack, e: &FooterEntry) -> Location {
    Location {
        slot: pack.slot,
        offset: e.offset,
        stored_len: e.stored_len,
        kind: e.kind,
        codec: e.codec,
        freq: 0,
        colour: false,
        cached: false,
        spared: false,
        doubted: false,
    }
}

/// Most chunks for which room is made before they are read: some 100 MB of tables.
const MAX_RESERVED: usize = 16 << 20;

impl Inner {
    /// Fills pack table, lanes and index from the folder.
    pub(super) fn recover(&self, last_end: LastEnd) -> Result<RecoveryReport, LocalError> {
        let mut report = RecoveryReport::default();
        let (sealed, open) = self.list_packs()?;
        let dir = &self.packs.dir;
        let mut known = damage::load(dir).map_err(|e| LocalError::io("read the damage list in", dir, e))?;
        let before = known.len();
        known.retain(|(pack, _)| sealed.binary_search(pack).is_ok() || open.binary_search(pack).is_ok());
        if known.len() < before {
            damage::keep(dir, known.iter().copied()).map_err(|e| LocalError::io("write the damage list in", dir, e))?;
        }
        let covered = self.load_snapshot(&sealed, &known, &mut report)?;
        let rest: Vec<PackId> = sealed.into_iter().filter(|id| !covered.contains(id)).collect();
        self.recover_footers(&rest, &known, &mut report)?;
        for id in open {
            self.recover_open(id, last_end, &known, &mut report)?;
        }
        report.chunks = self.index.len();
        Ok(report)
    }

    /// Ids of (sealed, open) packs, sorted.
    fn list_packs(&self) -> Result<(Vec<PackId>, Vec<PackId>), LocalError> {
        let dir = &self.packs.dir;
        let (mut sealed, mut open) = (Vec::new(), Vec::new());
        for entry in fs::read_dir(dir).map_err(|e| LocalError::io("list", dir, e))? {
            let name = entry.map_err(|e| LocalError::io("list", dir, e))?.file_name();
            let Some((stem, extension)) = name.to_str().and_then(|n| n.rsplit_once('.')) else { continue };
            match (stem.parse::<PackId>(), extension) {
                (Ok(id), "pack") => sealed.push(id),
                (Ok(id), "open") => open.push(id),
                _ => {}
            }
        }
        sealed.sort_unstable();
        open.sort_unstable();
        Ok((sealed, open))
    }

    /// Loads what the index snapshot says of packs that are as it knew them. Answers which.
    fn load_snapshot(
        &self,
        sealed: &[PackId],
        known: &Damaged,
        report: &mut RecoveryReport,
    ) -> Result<HashSet<PackId>, LocalError> {
        let dir = &self.packs.dir;
        let snapshot = match Snapshot::open(dir) {
            Ok(Some(snapshot)) => snapshot,
            Ok(None) => return Ok(HashSet::new()),
            Err(e) => {
                report.snapshot = Some(format!("not used: {e}"));
                return Ok(HashSet::new());
            }
        };
        let (mut covered, mut by_ordinal) = (HashSet::new(), HashMap::new());
        for id in sealed {
            let Some(was) = snapshot.packs.get(id) else { continue };
            let path = sealed_path(dir, *id);
            let mut head = [0; HEADER_LEN];
            let file = File::open(&path).map_err(|e| LocalError::io("open", &path, e))?;
            let len = file.metadata().map_err(|e| LocalError::io("read", &path, e))?.len();
            let header = file.read_exact_at(&mut head, 0).ok().and_then(|()| PackHeader::decode(&head).ok());
            let Some(header) = header.filter(|h| len == was.len && h.id == *id) else { continue };
            let pack = self.packs.add(*id, header.class)?;
            pack.set_sealed(len);
            pack.charged.store(len + FILE_SLACK, Ordering::Release);
            self.budget.adopt(len + FILE_SLACK);
            pack.frames.store(was.frames, Ordering::Relaxed);
            pack.raw_total.store(was.raw_total, Ordering::Relaxed);
            pack.stored_total.store(was.stored_total, Ordering::Relaxed);
            by_ordinal.insert(was.ordinal, pack);
            covered.insert(*id);
        }
        let loaded = snapshot.read_shards(|n, entries| self.load_shard(n, entries, &by_ordinal));
        match loaded {
            Ok(()) => report.snapshot = Some(format!("covers {} packs", covered.len())),
            Err(e) => {
                // What was loaded is right, but what is missing is only known to the footers.
                report.snapshot = Some(format!("used in part: {e}"));
                for pack in by_ordinal.values() {
                    self.add_footer(pack, known)?;
                }
            }
        }
        report.sealed_packs += covered.len() as u64;
        Ok(covered)
    }

    fn load_shard(
        &self,
        n: u8,
        entries: &mut dyn Iterator<Item = (ChunkId, Location)>,
        packs: &HashMap<u32, Arc<Pack>>,
    ) -> Result<(), LocalError> {
        let mut shard = self.index.lock_shard(n);
        shard.reserve(entries.size_hint().0);
        for (id, place) in entries {
            let Some(pack) = packs.get(&place.slot) else { continue };
            if shard.find(&id).is_none() {
                shard.insert(&id, Location { slot: pack.slot, ..place })?;
                pack.add_live(place.frame_len());
            }
        }
        Ok(())
    }

    /// Adds what a pack's footer knows and the index does not.
    fn add_footer(&self, pack: &Arc<Pack>, known: &Damaged) -> Result<(), LocalError> {
        let Some(file) = self.packs.file(pack)? else { return Ok(()) };
        let (entries, _) = self.entries_of(pack, &file)?;
        let mut good = entries.iter().filter(|e| !known.contains(&(pack.id, e.offset)));
        good.try_for_each(|e| self.insert_or_touch(&e.id, place_of(pack, e), pack).map(|_| ()))
    }

    /// Reads footers with several threads, whatever the number of cores: most of the time they wait for the disk.
    fn recover_footers(
        &self,
        sealed: &[PackId],
        known: &Damaged,
        report: &mut RecoveryReport,
    ) -> Result<(), LocalError> {
        let groups: Vec<&[PackId]> = sealed.chunks(GROUP).collect();
        let (next, reserved) = (AtomicUsize::new(0), Once::new());
        let work = || -> Result<RecoveryReport, LocalError> {
            let mut part = RecoveryReport::default();
            while let Some(group) = groups.get(next.fetch_add(1, Ordering::Relaxed)) {
                let mut read = Vec::with_capacity(group.len());
                for id in *group {
                    read.extend(self.read_sealed_pack(*id, &mut part)?);
                }
                reserved.call_once(|| self.reserve_index(&read, group.len(), sealed.len()));
                self.insert_all(&read, known)?;
            }
            Ok(part)
        };
        let parts = std::thread::scope(|scope| {
            let running: Vec<_> = (0..MAX_THREADS.min(groups.len())).map(|_| scope.spawn(work)).collect();
            running
                .into_iter()
                .map(|t| t.join().unwrap_or_else(|_| Err(LocalError::Invalid("a recovery thread panicked".into()))))
                .collect::<Result<Vec<_>, _>>()
        })?;
        for part in parts {
            report.sealed_packs += part.sealed_packs;
            report.damaged.extend(part.damaged);
        }
        Ok(())
    }

    /// A sealed pack with what its footer (or, failing that, a scan) says of it. None when nothing of it can be read.
    fn read_sealed_pack(&self, id: PackId, report: &mut RecoveryReport) -> Result<Option<ReadPack>, LocalError> {
        let path = sealed_path(&self.packs.dir, id);
        let file = File::open(&path).map_err(|e| LocalError::io("open", &path, e))?;
        let len = file.metadata().map_err(|e| LocalError::io("read", &path, e))?.len();
        let (header, entries) = match read_sealed(&file, id) {
            Ok(found) => {
                report.sealed_packs += 1;
                found
            }
            Err(ReadError::Io(e)) => return Err(LocalError::io("read", &path, e)),
            Err(ReadError::Format(e)) => {
                // The footer is only a table of contents: what it would say is found frame by frame.
                report.damaged.push(format!("{}: {e}", path.display()));
                match scan(&file, id) {
                    Ok(found) => (found.header, found.entries),
                    Err(ReadError::Io(e)) => return Err(LocalError::io("read", &path, e)),
                    Err(ReadError::Format(e)) => {
                        // Kept on disk for a human, and counted.
                        report.damaged.push(format!("{}: {e}; nothing of it can be read", path.display()));
                        self.budget.adopt(len + FILE_SLACK);
                        return Ok(None);
                    }
                }
            }
        };
        let pack = self.packs.add(id, header.class)?;
        pack.set_sealed(len);
        self.charge(&pack, len + FILE_SLACK, &entries);
        Ok(Some((pack, entries)))
    }

    /// Makes room for as many chunks as all packs will have if they are like the first ones: otherwise each entry is
    /// moved about eight times while the tables grow. The first ones may be unlike the others, so no more than
    /// [`MAX_RESERVED`] are believed: beyond it the tables grow by themselves.
    fn reserve_index(&self, read: &[ReadPack], of: usize, all: usize) {
        let seen: usize = read.iter().map(|(_, entries)| entries.len()).sum();
        let each = (seen.saturating_mul(all) / of.max(1)).min(MAX_RESERVED) / SHARDS;
        (0..=255u8).for_each(|n| self.index.lock_shard(n).reserve(each));
    }

    /// Adds the frames of some packs, shard by shard: one lock and warm pages for all that goes into the same table.
    fn insert_all(&self, read: &[ReadPack], known: &Damaged) -> Result<(), LocalError> {
        let mut by_shard: Vec<Vec<(&Arc<Pack>, &FooterEntry)>> = vec![Vec::new(); SHARDS];
        for (pack, entries) in read {
            let good = entries.iter().filter(|e| known.is_empty() || !known.contains(&(pack.id, e.offset)));
            good.for_each(|e| by_shard[usize::from(e.id.0[0])].push((pack, e)));
        }
        for (n, entries) in (0..=255u8).zip(by_shard) {
            let mut shard = self.index.lock_shard(n);
            for (pack, e) in entries {
                if shard.find(&e.id).is_none() {
                    let place = place_of(pack, e);
                    shard.insert(&e.id, place)?;
                    pack.add_live(place.frame_len());
                }
            }
        }
        Ok(())
    }

    fn charge(&self, pack: &Pack, bytes: u64, entries: &[FooterEntry]) {
        pack.charged.store(bytes, Ordering::Release);
        self.budget.adopt(bytes);
        pack.count_entries(entries);
    }

    fn recover_open(
        &self,
        id: PackId,
        last_end: LastEnd,
        known: &Damaged,
        report: &mut RecoveryReport,
    ) -> Result<(), LocalError> {
        let path = open_path(&self.packs.dir, id);
        let fail = |what, e| LocalError::io(what, &path, e);
        let file = OpenOptions::new().read(true).write(true).open(&path).map_err(|e| fail("open", e))?;
        let len = file.metadata().map_err(|e| fail("read", e))?.len();
        let found = match scan(&file, id) {
            Ok(found) => found,
            Err(ReadError::Io(e)) => return Err(fail("read", e)),
            Err(ReadError::Format(e)) if never_synced(&file, &e) => {
                report.torn_bytes += len;
                return disk::remove(&path).map_err(|e| fail("delete", e));
            }
            Err(ReadError::Format(e)) => {
                // Something else has changed it. Deleting is for those who know.
                report.damaged.push(format!("{}: {e}; nothing of it can be read", path.display()));
                self.budget.adopt(len + FILE_SLACK);
                return Ok(());
            }
        };
        report.open_packs += 1;
        report.torn_bytes += len - found.valid_end;
        if found.valid_end < len {
            disk::set_len(&file, found.valid_end).map_err(|e| fail("truncate", e))?;
        }
        if last_end == LastEnd::Unknown {
            write_again(&file, found.valid_end).map_err(|e| fail("write again", e))?;
        }
        if let Some(damage) = &found.header_damage {
            report.damaged.push(format!("{}: {damage}; it is written anew, its frames are whole", path.display()));
            disk::write_all_at(&file, [&found.header.encode(), &[]], 0).map_err(|e| fail("write the header of", e))?;
        }
        if found.holes {
            report.damaged.push(format!("{}: damaged bytes between whole frames", path.display()));
        }
        let pack = self.packs.add(id, found.header.class)?;
        let file = Arc::new(file);
        self.packs.track(&pack, Arc::clone(&file), found.valid_end);
        let footer = (found.entries.len() * ENTRY_LEN + TRAILER_LEN) as u64;
        self.charge(&pack, found.valid_end + footer + FILE_SLACK, &found.entries);
        let read = [(pack, found.entries)];
        self.insert_all(&read, known)?;
        let [(pack, entries)] = read;
        let resumable = !found.holes && found.valid_end < self.settings.pack_bytes;
        debug_assert!(found.valid_end >= HEADER_LEN as u64);
        let writer = PackWriter::resume(file, found.header, entries, found.valid_end);
        let open = OpenPack { pack, writer };
        let left = if resumable { self.lanes.resume(open) } else { Some(open) };
        if left.is_some() {
            self.complete(&mut { left })?;
        }
        Ok(())
    }
}
