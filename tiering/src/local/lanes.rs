//! Open packs ("lanes"): where frames are appended.

use super::packs::{FILE_SLACK, Pack, lock};
use super::store::Inner;
use super::{LocalError, Purpose};
use crate::failpoint;
use crate::pack::format::{ENTRY_LEN, FrameHeader, HEADER_LEN, TRAILER_LEN};
use crate::pack::writer::{PackWriter, open_path};
use crate::pack::{PackClass, PackHeader, PackId};
use std::sync::atomic::Ordering;
use std::sync::{Arc, Mutex, MutexGuard};

/// Complete packs that may wait for the next sync; with more, the writer itself syncs.
const MAX_WAITING_TO_SEAL: usize = 6;

/// Bytes that a pack takes besides its frames and their footer entries.
pub(crate) const PACK_OVERHEAD: u64 = HEADER_LEN as u64 + TRAILER_LEN as u64 + FILE_SLACK;

/// Most zeros (bytes) that are written ahead of small appends: as many as the journal's. Small packs get a sixteenth.
const MAX_FILL_BYTES: u64 = 1 << 20;

#[derive(Debug)]
pub(crate) struct OpenPack {
    pub pack: Arc<Pack>,
    pub writer: PackWriter,
}

/// A frame that was appended and is not in the index yet. While one exists its pack is neither swept nor covered by an
/// index snapshot: both would take the frame for dead, and the entry that follows would name a file that is gone.
#[derive(Debug)]
pub(crate) struct Appended {
    pub pack: Arc<Pack>,
    pub offset: u32,
}

impl Drop for Appended {
    fn drop(&mut self) {
        self.pack.pending.fetch_sub(1, Ordering::AcqRel);
    }
}

/// One place for an open pack of one class.
pub(crate) type Lane = Mutex<Option<OpenPack>>;

#[derive(Debug)]
pub(crate) struct Lanes {
    hot: Vec<Lane>,
    cache: Lane,
    main: Lane,
}

impl Lanes {
    pub fn new(hot: usize) -> Self {
        Self { hot: (0..hot.max(1)).map(|_| Lane::default()).collect(), cache: Lane::default(), main: Lane::default() }
    }

    /// A lane of `class`: the first free one, so that few writers make few packs dirty; else the one that this thread
    /// always waits for.
    fn pick(&self, class: PackClass) -> MutexGuard<'_, Option<OpenPack>> {
        let lane = match class {
            PackClass::Cache => &self.cache,
            PackClass::Main => &self.main,
            PackClass::Hot | PackClass::Remote => {
                if let Some(free) = self.hot.iter().find_map(|l| l.try_lock().ok()) {
                    return free;
                }
                thread_local!(static TURN: usize = rand::random::<u16>() as usize);
                &self.hot[TURN.with(|t| t % self.hot.len())]
            }
        };
        lock(lane)
    }

    /// Gives a recovered pack to a free lane of its class, or back when there is none.
    pub fn resume(&self, open: OpenPack) -> Option<OpenPack> {
        let lanes = match open.pack.class {
            PackClass::Hot => &self.hot[..],
            PackClass::Cache => std::slice::from_ref(&self.cache),
            PackClass::Main => std::slice::from_ref(&self.main),
            PackClass::Remote => &[],
        };
        for lane in lanes {
            let mut lane = lock(lane);
            if lane.is_none() {
                *lane = Some(open);
                return None;
            }
        }
        Some(open)
    }

    /// All lanes.
    pub fn all(&self) -> impl Iterator<Item = &Lane> {
        self.hot.iter().chain([&self.cache, &self.main])
    }
}

impl Inner {
    /// Appends a frame to an open pack of `class`. Not durable before the next sync; not in the index.
    pub(crate) fn append(
        &self,
        class: PackClass,
        header: &FrameHeader,
        stored: &[u8],
        purpose: Purpose,
    ) -> Result<Appended, LocalError> {
        self.packs.check_writable()?;
        let cost = header.frame_len() + ENTRY_LEN as u64;
        let mut lane = self.lanes.pick(class);
        if lane.as_ref().is_some_and(|o| !o.writer.is_empty() && o.writer.len() + cost > self.settings.pack_bytes) {
            self.complete(&mut lane)?;
        }
        self.budget.try_reserve(cost, purpose)?;
        let done = self.append_to(&mut lane, class, header, stored, purpose);
        match &done {
            Ok(appended) => {
                appended.pack.charged.fetch_add(cost, Ordering::AcqRel);
            }
            Err(_) => self.budget.release(cost),
        }
        done
    }

    fn append_to(
        &self,
        lane: &mut Option<OpenPack>,
        class: PackClass,
        header: &FrameHeader,
        stored: &[u8],
        purpose: Purpose,
    ) -> Result<Appended, LocalError> {
        let open = match lane {
            Some(open) => open,
            None => lane.insert(self.create_pack(class, purpose)?),
        };
        if open.pack.small_syncs.load(Ordering::Acquire) {
            self.fill_ahead(open, header.frame_len(), purpose);
        }
        match open.writer.append(header, stored) {
            Ok(offset) => {
                // Before the lane is free: whoever completes the pack next must see that this one is pending.
                open.pack.pending.fetch_add(1, Ordering::AcqRel);
                open.pack.appended.store(open.writer.len(), Ordering::Release);
                open.pack.count_frame(header.raw_len, header.stored_len);
                open.writer.start_writeback(self.settings.writeback_bytes);
                failpoint::hit("frame.appended");
                Ok(Appended { pack: Arc::clone(&open.pack), offset })
            }
            Err(e) => {
                let path = open_path(&self.packs.dir, open.pack.id);
                if open.writer.is_broken() {
                    self.budget.release(open.pack.fill_charge.swap(0, Ordering::AcqRel));
                    // Its whole frames stay readable and are synced as before; the next opening repairs the rest.
                    *lane = None;
                }
                Err(LocalError::io("append to", &path, e))
            }
        }
    }

    /// Only a help: without room, or after an error, the frame is appended to a file that grows.
    fn fill_ahead(&self, open: &mut OpenPack, frame_len: u64, purpose: Purpose) {
        let bytes = (self.settings.pack_bytes / 16).min(MAX_FILL_BYTES);
        if open.pack.fill_charge.load(Ordering::Acquire) == 0 {
            if self.budget.try_reserve(bytes, purpose).is_err() {
                return;
            }
            open.pack.fill_charge.store(bytes, Ordering::Release);
        }
        if let Err(e) = open.writer.fill_ahead(frame_len, bytes) {
            tracing::debug!(error = %e, pack = %open.pack.id, "zeros are not written ahead");
        }
    }

    fn create_pack(&self, class: PackClass, purpose: Purpose) -> Result<OpenPack, LocalError> {
        let overhead = PACK_OVERHEAD;
        self.budget.try_reserve(overhead, purpose)?;
        let now = self.clock.now().millis();
        let header = PackHeader { id: PackId::fresh(now), class, created_ms: now };
        let created = PackWriter::create(&self.packs.dir, header)
            .map_err(|e| LocalError::io("create", &open_path(&self.packs.dir, header.id), e))
            .and_then(|writer| Ok((self.packs.add(header.id, class)?, writer)));
        let (pack, writer) = created.inspect_err(|_| self.budget.release(overhead))?;
        pack.charged.store(overhead, Ordering::Release);
        self.packs.track(&pack, Arc::clone(writer.file()), writer.len());
        failpoint::hit("pack.created");
        Ok(OpenPack { pack, writer })
    }

    /// Writes the footer of the lane's pack and leaves the lane empty. The next sync seals the pack: doing it here
    /// would make one client wait for the disk on behalf of all the others.
    pub(crate) fn complete(&self, lane: &mut Option<OpenPack>) -> Result<Option<Arc<Pack>>, LocalError> {
        let Some(mut open) = lane.take() else { return Ok(None) };
        if let Err(e) = open.writer.write_footer() {
            let error = LocalError::io("write the footer of", &open_path(&self.packs.dir, open.pack.id), e);
            self.budget.release(open.pack.fill_charge.swap(0, Ordering::AcqRel));
            if !open.writer.is_broken() {
                // Tried again by the next one who needs room: a pack that nobody completes can never be swept.
                *lane = Some(open);
            }
            return Err(error);
        }
        self.budget.release(open.pack.fill_charge.swap(0, Ordering::AcqRel));
        open.pack.appended.store(open.writer.len(), Ordering::Release);
        open.pack.complete.store(true, Ordering::Release);
        failpoint::hit("pack.footer_written");
        if self.packs.waiting_to_seal() > MAX_WAITING_TO_SEAL {
            self.packs.sync_one(&open.pack)?;
        }
        Ok(Some(open.pack))
    }
}
