//! A tier against the records of its packs. Nothing is taken for missing because a listing lacks it: it is asked for by name,
//! after its record was read again; nothing for an orphan that is not listed a second time.

use super::found::{Found, MAX_REPAIRS};
use super::listing::{Listed, Listing, Records, Whose, whose};
use super::report::{Finding, FindingKind, TierChecked};
use crate::clock::Timestamp;
use crate::engine::doom::RemotePack;
use crate::engine::record::{Record, RemotePackRecord, RemotePackState};
use crate::engine::transition::folder;
use crate::engine::{Core, EngineError, keys};
use crate::meta::{MetaStore, Table};
use crate::pack::PackId;
use crate::tier::Tier;
use std::sync::Arc;
use std::time::Duration;

/// What is younger is left alone: a request of a process that died may still arrive.
pub(super) const OLD: Duration = Duration::from_secs(86_400);

/// Requests for single objects that the listing lacks, or has too much; beyond it a listing's word is reported as such.
const MAX_ASKED: u64 = 1_000;

/// Dangling packs whose objects are looked for.
const MAX_GONE: usize = 100_000;

/// Names between two reports of progress.
const TELL_EVERY: u64 = 1_000;

/// An object without a record that a repair may delete.
#[derive(Debug)]
pub(super) struct Orphan {
    pub name: String,
    pub pack: PackId,
    pub bytes: u64,
}

/// What became of the check of one tier.
#[derive(Debug, Default)]
pub(super) struct Outcome {
    pub checked: TierChecked,
    /// Dangling packs.
    pub gone: Vec<PackId>,
    pub orphans: Vec<Orphan>,
    /// Records of packs that are gone, and of which nobody knew what they were for.
    pub forgettable: Vec<RemotePack>,
    /// The latest epoch that a name in this deployment's folder has.
    pub newest_epoch: u64,
    /// The listing came to its end.
    pub complete: bool,
    /// There are more orphans than [`orphans`](Self::orphans) holds.
    pub more: bool,
}

/// The check of one tier.
pub(super) struct TierCheck<'a> {
    core: &'a Core,
    tier: &'a str,
    handle: Arc<dyn Tier>,
    folder: String,
    now: Timestamp,
    found: &'a mut Found,
    out: Outcome,
    asked: u64,
    gone_full: bool,
}

impl<'a> TierCheck<'a> {
    pub fn new(core: &'a Core, tier: &'a str, handle: &Arc<dyn Tier>, found: &'a mut Found) -> Self {
        let out =
            Outcome { checked: TierChecked { tier: tier.to_owned(), ..Default::default() }, ..Default::default() };
        let (folder, now) = (folder(&core.deployment), core.clock.now());
        Self { core, tier, handle: Arc::clone(handle), folder, now, found, out, asked: 0, gone_full: false }
    }

    /// Compares. What the tier fails with is a finding; so far as it came, the rest is found.
    ///
    /// # Errors
    /// A failure of the index, a shutdown.
    pub async fn run(mut self, versions: bool, progress: &mut (dyn FnMut(u64) + Send)) -> Result<Outcome, EngineError> {
        let mut listing = Listing::new(self.tier, Arc::clone(&self.handle), versions);
        match self.compare_all(&mut listing, progress).await {
            Ok(()) => self.out.complete = true,
            Err(e @ (EngineError::Tier { .. } | EngineError::Corrupt(_))) => {
                self.add(Finding::new(FindingKind::NotChecked, self.tier, format!("the listing failed: {e}")));
            }
            Err(e) => return Err(e),
        }
        self.out.checked.versions = listing.has_versions();
        self.out.checked.asked = self.asked;
        if let Some(note) = listing.note.take() {
            self.add(Finding::new(FindingKind::NotChecked, "versions", note));
        }
        let failing = self.core.tier_error(self.tier).filter(|e| e.starts_with("delete"));
        if let Some(error) = failing.filter(|_| self.out.checked.doomed > 0) {
            let what = format!("{} packs", self.out.checked.doomed);
            self.add(Finding::new(FindingKind::StuckDeletion, what, format!("{error}; it is tried again")));
        }
        Ok(self.out)
    }

    fn add(&mut self, finding: Finding) {
        self.found.add(finding.at(self.tier));
    }

    async fn compare_all(
        &mut self,
        listing: &mut Listing,
        progress: &mut (dyn FnMut(u64) + Send),
    ) -> Result<(), EngineError> {
        let mut records = Records::new(self.core, self.tier);
        let mut seen = 0;
        while let Some(listed) = listing.next().await? {
            if self.core.stop.is_cancelled() {
                return Err(EngineError::Unavailable("shutting down".into()));
            }
            seen += 1;
            if seen % TELL_EVERY == 0 {
                progress(seen);
            }
            let mut matched = false;
            while let Some(pack) = records.pop_upto(Some(&listed.name))? {
                matched = pack.record.name == listed.name;
                if matched {
                    self.listed_ours(&listed);
                    self.compare(&pack, &listed)?;
                    break;
                }
                self.unlisted(pack).await?;
            }
            if !matched {
                self.unmatched(listing, &listed).await?;
            }
        }
        while let Some(pack) = records.pop_upto(None)? {
            self.unlisted(pack).await?;
        }
        Ok(())
    }

    fn listed_ours(&mut self, listed: &Listed) {
        self.out.checked.listed += 1;
        self.out.checked.listed_bytes = self.out.checked.listed_bytes.saturating_add(listed.bytes);
    }

    /// Whether the record still stands as it was read: what a commit changed meanwhile is no finding.
    fn stands(&self, pack: &RemotePack) -> Result<bool, EngineError> {
        Ok(self.core.meta.get(Table::RemotePack, &pack.key)?.is_some_and(|now| now[..] == pack.stored[..]))
    }

    /// A pack that is listed under the name of its record.
    fn compare(&mut self, pack: &RemotePack, listed: &Listed) -> Result<(), EngineError> {
        if !self.count(pack) {
            return Ok(());
        }
        match fault(&pack.record, listed) {
            Some(fault) if self.stands(pack)? => self.dangling(pack, fault),
            Some(_) => {}
            None => self.out.checked.matched += 1,
        }
        let extra = extra_versions(&pack.record, listed);
        if !extra.is_empty() {
            let text =
                "the record names another version; these are billed and nobody reads them: remove them by hand: ";
            let bytes = listed.bytes.saturating_sub(pack.record.bytes);
            let finding = Finding::new(FindingKind::ExtraVersion, &listed.name, format!("{text}{}", extra.join(", ")));
            self.add(finding.sized(bytes).since(pack.record.created));
        }
        Ok(())
    }

    /// Counts a record; true when it must be there.
    fn count(&mut self, pack: &RemotePack) -> bool {
        match pack.record.state {
            RemotePackState::Live => {
                self.out.checked.live += 1;
                true
            }
            RemotePackState::Doomed => {
                self.out.checked.doomed += 1;
                false
            }
            RemotePackState::Uploading => {
                self.out.checked.uploading += 1;
                let record = &pack.record;
                if self.now.since(record.created) >= OLD && !self.core.making.holds(&pack.pack) {
                    let text = "begun more than a day ago, and no job works on it; the next start deletes it";
                    let finding = Finding::new(FindingKind::StuckUpload, &record.name, text);
                    let (bytes, created) = (record.bytes, record.created);
                    self.add(finding.sized(bytes).since(created));
                }
                false
            }
        }
    }

    fn dangling(&mut self, pack: &RemotePack, fault: Fault) {
        let record = &pack.record;
        let finding = Finding::new(FindingKind::DanglingPack, &record.name, &fault.text);
        let finding = finding.sized(record.bytes).since(record.created);
        if fault.absent && self.core.is_untold(pack) {
            self.add(finding.possible());
            match self.out.forgettable.len() < MAX_REPAIRS {
                true => self.out.forgettable.push(pack.clone()),
                false => self.out.more = true,
            }
        } else {
            self.add(finding);
        }
        if fault.readable {
            return;
        }
        if self.out.gone.len() < MAX_GONE {
            self.out.gone.push(pack.pack);
        } else if !std::mem::replace(&mut self.gone_full, true) {
            let text = format!("objects with chunks in dangling packs beyond the first {MAX_GONE} are not looked for");
            self.add(Finding::new(FindingKind::NotChecked, "affected objects", text));
        }
    }

    /// A record whose name did not come where it had to. (Clocks that were set back make names come elsewhere.)
    async fn unlisted(&mut self, pack: RemotePack) -> Result<(), EngineError> {
        if !self.count(&pack) || !self.stands(&pack)? {
            return Ok(());
        }
        let (name, record) = (&pack.record.name, &pack.record);
        let unconfirmed = |why: String| {
            Finding::new(FindingKind::UnconfirmedPack, name, why).sized(record.bytes).since(record.created)
        };
        if self.asked >= MAX_ASKED {
            let text = format!("the listing lacks it; {MAX_ASKED} such were asked for by name, this one was not");
            self.add(unconfirmed(text));
            return Ok(());
        }
        self.asked += 1;
        match self.handle.head(name).await {
            Ok(meta) if meta.size == record.bytes => self.out.checked.matched += 1,
            Ok(meta) if self.stands(&pack)? => self.dangling(&pack, Fault::size(record, meta.size)),
            Err(e) if e.is_not_found() && self.stands(&pack)? => self.dangling(&pack, Fault::absent()),
            Err(e) if !e.is_not_found() => self.add(unconfirmed(format!("the listing lacks it, and asked for: {e}"))),
            _ => {}
        }
        Ok(())
    }

    /// A name that no record had at its place.
    async fn unmatched(&mut self, listing: &Listing, listed: &Listed) -> Result<(), EngineError> {
        let (epoch, pack) = match whose(&self.folder, &listed.name) {
            Whose::Foreign => {
                self.out.checked.foreign += 1;
                self.out.checked.foreign_bytes = self.out.checked.foreign_bytes.saturating_add(listed.bytes);
                return Ok(());
            }
            Whose::Stray => {
                self.listed_ours(listed);
                let text = "no name of a pack: nothing here wrote it; look at it, and remove it by hand";
                self.add(Finding::new(FindingKind::StrayObject, &listed.name, text).sized(listed.bytes));
                return Ok(());
            }
            Whose::Pack { epoch, pack } => (epoch, pack),
        };
        self.listed_ours(listed);
        self.out.newest_epoch = self.out.newest_epoch.max(epoch);
        let key = keys::remote_pack(self.tier, u128::from_be_bytes(pack.0));
        if let Some(stored) = self.core.meta.get(Table::RemotePack, &key)? {
            // Its turn comes, or has come, in the order of records. One that does not decode may be this one's.
            let other = RemotePackRecord::decode(&stored).is_ok_and(|record| record.name != listed.name);
            if other {
                let text = "the record of this pack names another object; look at both";
                self.add(Finding::new(FindingKind::StrayObject, &listed.name, text).sized(listed.bytes));
            }
            return Ok(());
        }
        // A deletion that ended since the page came.
        if self.asked < MAX_ASKED {
            self.asked += 1;
            if !listing.is_there(&listed.name).await? {
                return Ok(());
            }
        }
        self.orphan(listed, epoch, pack);
        Ok(())
    }

    fn orphan(&mut self, listed: &Listed, epoch: u64, pack: PackId) {
        let begun = pack.begun();
        let undecided = match epoch.cmp(&self.core.meta.epoch()) {
            std::cmp::Ordering::Greater => Some(
                "its epoch is later than any that this namespace has seen: was an older copy of the data directory put \
                 back? It may be all that is left of newer objects",
            ),
            std::cmp::Ordering::Equal => Some("written since the last start: it can be told after the next one"),
            std::cmp::Ordering::Less if self.now.since(begun) < OLD => Some("younger than a day"),
            std::cmp::Ordering::Less if self.core.from_packs.is_some_and(|until| epoch <= until) => Some(
                "it was here before this namespace was made of packs alone, and may hold objects that did not come back",
            ),
            std::cmp::Ordering::Less => None,
        };
        let text = format!("no record names it (epoch {epoch})");
        let finding =
            |text: String| Finding::new(FindingKind::OrphanPack, &listed.name, text).sized(listed.bytes).since(begun);
        match undecided {
            Some(why) => self.add(finding(format!("{text}; left: {why}"))),
            None => {
                self.add(finding(text).possible());
                match self.out.orphans.len() < MAX_REPAIRS {
                    true => self.out.orphans.push(Orphan { name: listed.name.clone(), pack, bytes: listed.bytes }),
                    false => self.out.more = true,
                }
            }
        }
    }
}

/// What is wrong with a live pack.
struct Fault {
    text: String,
    /// Its bytes can be read nevertheless.
    readable: bool,
    /// The tier says that it has no such object.
    absent: bool,
}

impl Fault {
    fn absent() -> Self {
        let text = "it is not there. Upload the affected objects again, or put the pack back under its name";
        Fault { text: text.to_owned(), readable: false, absent: true }
    }

    fn size(record: &RemotePackRecord, found: u64) -> Self {
        let text = format!("it has {found} bytes and must have {}. Put the pack back as it was written", record.bytes);
        Fault { text, readable: false, absent: false }
    }
}

/// What is wrong with what is listed under a live record's name.
fn fault(record: &RemotePackRecord, listed: &Listed) -> Option<Fault> {
    let latest = listed.versions.iter().find(|v| v.latest).or(listed.versions.first())?;
    if latest.marker {
        let text = format!("it is hidden behind a marker: remove the marker (version {})", latest.version);
        return Some(Fault { text, readable: false, absent: false });
    }
    if latest.size != record.bytes {
        return Some(Fault::size(record, latest.size));
    }
    // A plain listing names no versions; of a very long one not all are held.
    let named = record.version.as_deref().filter(|_| !latest.version.is_empty());
    let known = |wanted: &str| listed.versions.iter().any(|v| v.version == wanted && !v.marker);
    if let Some(wanted) = named.filter(|wanted| listed.count == listed.versions.len() as u64 && !known(wanted)) {
        let text = format!("version {wanted} is not there, version {} is, of the same size", latest.version);
        return Some(Fault { text, readable: true, absent: false });
    }
    None
}

/// Versions and markers that neither the record names nor a request by name gets.
fn extra_versions(record: &RemotePackRecord, listed: &Listed) -> Vec<String> {
    let ours = |v: &&crate::tier::RemoteVersion| match &record.version {
        Some(wanted) => v.version == *wanted,
        None => v.latest,
    };
    let plain = listed.versions.iter().any(|v| v.version.is_empty());
    let extra = listed.versions.iter().filter(|v| !plain && !ours(v));
    extra.map(|v| if v.marker { format!("{} (marker)", v.version) } else { v.version.clone() }).take(10).collect()
}
