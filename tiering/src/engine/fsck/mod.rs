//! `tidegate fsck`: the namespace, the local packs and what the tiers list, against each other.
//!
//! Order: what it costs, tiers (`remote`), files, tables (`tables`), one walk over all names, repair (`repair`). The walk is that
//! of a dry run of [`Engine::gc`], told which packs are gone, so that it names who suffers; it comes after the tiers because
//! it needs their dangling packs, and before the repair because a namespace with gaps decides nothing about orphans.
//!
//! Nothing is held of all names: both sides come in pages in the order of names and are merged (`listing`); findings are
//! counted, and named up to a bound (`found`). Without `repair` nothing stored is changed.

mod found;
mod listing;
mod remote;
mod repair;
mod report;
mod tables;

pub use report::{
    Finding, FindingKind, FsckCost, FsckEstimate, FsckProgress, FsckReport, FsckRequest, FsckTotal, Repair, TierChecked,
};

use super::doom::RemotePack;
use super::walk::Gone;
use super::{Core, Engine, EngineError};
use crate::local::PackFiles;
use found::Found;
use remote::{Orphan, Outcome, TierCheck};
use std::collections::BTreeMap;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Duration;
use tables::{Mending, Tables};
use tidegate_policies::{Class, Money, Request};

/// How often work on a thread of its own is looked at for its progress.
const LOOK_EVERY: Duration = Duration::from_millis(250);

/// Objects that one request of a listing gives.
const LISTED_AT_A_TIME: u64 = 1_000;

/// What a check hears while it runs.
pub(super) type Progress<'a> = &'a mut (dyn FnMut(FsckProgress) + Send);

/// What the repair needs to know of a check.
#[derive(Default)]
struct Checked {
    orphans: Vec<(String, Vec<Orphan>)>,
    /// Records of packs that are gone, and of which nobody knew what they were for.
    forgettable: Vec<RemotePack>,
    /// The latest epoch that a name in a tier has.
    newest_epoch: u64,
    mendings: Vec<Mending>,
    /// There is more to repair than one run does.
    more: bool,
    gone: Gone,
    /// Why nothing can be said about orphans: something that the namespace should know is missing.
    gaps: Option<String>,
}

/// Packs that the records name in a tier.
#[derive(Default, Clone, Copy)]
struct Recorded {
    packs: u64,
    versions: bool,
}

impl Engine {
    /// What a check costs. Asks no tier. `class` says which class of OSS a tier is billed as, if it is.
    ///
    /// # Errors
    /// A tier that is not configured, a failure of the index.
    pub fn fsck_estimate(
        &self,
        request: &FsckRequest,
        class: impl Fn(&str) -> Option<Class>,
    ) -> Result<FsckEstimate, EngineError> {
        let core = &self.core;
        let prices = &core.settings.prices;
        let mut estimate = FsckEstimate { currency: prices.currency.clone(), ..FsckEstimate::default() };
        if request.wants_local() {
            estimate.objects = core.accounts.totals().places.values().map(|amount| amount.objects).sum();
        }
        if !request.wants_remote() {
            return Ok(estimate);
        }
        let recorded = core.recorded()?;
        let mut sum = Money::ZERO;
        for tier in core.tiers_to_check(request)? {
            let of = recorded.get(&tier).copied().unwrap_or_default();
            let versions = of.versions || core.tier(&tier)?.keeps_versions();
            let list_requests = of.packs.div_ceil(LISTED_AT_A_TIME).max(1);
            // Listings are billed as writes of the bucket, in Standard, whatever the class of the objects.
            let cost = class(&tier).and_then(|_| prices.requests(Class::Standard, Request::Put, list_requests));
            sum = sum + cost.unwrap_or(Money::ZERO);
            let cost = cost.map(number);
            estimate.tiers.push(FsckCost { tier, packs: of.packs, versions, list_requests, cost });
        }
        estimate.cost = number(sum);
        Ok(estimate)
    }

    /// Checks, and repairs what is decidable when that is asked for. `progress` hears how far it is.
    ///
    /// # Errors
    /// A failure of the index or of the local disk, a shutdown. What a tier fails with is a finding.
    pub async fn fsck(
        &self,
        request: &FsckRequest,
        estimate: FsckEstimate,
        mut progress: impl FnMut(FsckProgress) + Send,
    ) -> Result<FsckReport, EngineError> {
        let core = &self.core;
        let time = core.clock.now();
        let mut report = FsckReport { time, repair: request.repair, estimate, ..FsckReport::default() };
        let (mut found, mut checked) = (Found::default(), Checked::default());
        if request.wants_remote() {
            core.check_tiers(request, (&mut report, &mut found, &mut checked), &mut progress).await?;
        }
        if request.wants_local() {
            let files = core.check_files(&mut found, &mut progress).await?;
            report.local_packs = files.packs;
            checked.gone.files = files.short.iter().map(|s| (s.pack, s.found.unwrap_or(0))).collect();
        }
        core.check_tables(request, (&mut report, &mut found, &mut checked), &mut progress).await?;
        // Without dangling packs or orphans, the names say nothing about the tiers.
        let names = request.wants_local() || !checked.gone.packs.is_empty() || !checked.orphans.is_empty();
        if names {
            core.check_names(request, (&mut report, &mut found, &mut checked), &mut progress).await?;
        }
        core.mend(request, checked, (&mut report, &mut found), &mut progress).await?;
        found.end(&mut report);
        Ok(report)
    }
}

#[cfg(test)]
mod tests;

/// Billionths to the number that a report shows.
#[allow(clippy::cast_precision_loss)] // a report's figure; sums are integers
fn number(money: Money) -> f64 {
    money.nanos() as f64 / 1e9
}

fn stage(progress: Progress<'_>, stage: &str, done: u64, total: u64) {
    progress(FsckProgress { stage: stage.to_owned(), done, total });
}

/// Where findings go.
type Sinks<'a> = (&'a mut FsckReport, &'a mut Found, &'a mut Checked);

impl Core {
    fn tiers_to_check(&self, request: &FsckRequest) -> Result<Vec<String>, EngineError> {
        let known = || self.tiers.keys().map(String::as_str).collect::<Vec<_>>().join(", ");
        if let Some(unknown) = request.tiers.iter().find(|tier| !self.tiers.contains_key(*tier)) {
            return Err(EngineError::InvalidArgument(format!("there is no tier {unknown:?}; configured: {}", known())));
        }
        let wanted = |tier: &&String| request.tiers.is_empty() || request.tiers.contains(tier);
        Ok(self.tiers.keys().filter(wanted).cloned().collect())
    }

    /// What the records have in each tier.
    fn recorded(&self) -> Result<BTreeMap<String, Recorded>, EngineError> {
        let mut all: BTreeMap<String, Recorded> = BTreeMap::new();
        self.each_remote_pack(|pack| {
            let of = all.entry(pack.tier).or_default();
            of.packs += 1;
            of.versions |= pack.record.version.is_some();
        })?;
        Ok(all)
    }

    async fn check_tiers(
        &self,
        request: &FsckRequest,
        (report, found, checked): Sinks<'_>,
        progress: Progress<'_>,
    ) -> Result<(), EngineError> {
        let recorded = self.recorded()?;
        for (tier, of) in recorded.iter().filter(|(tier, _)| !self.tiers.contains_key(*tier)) {
            let text = format!("{} packs are there, and the configuration does not name it any more", of.packs);
            found.add(Finding::new(FindingKind::NotChecked, tier, text).at(tier));
        }
        for tier in self.tiers_to_check(request)? {
            let Recorded { packs, versions } = recorded.get(&tier).copied().unwrap_or_default();
            let handle = self.tier(&tier)?;
            let versions = versions || handle.keeps_versions();
            let name = format!("tier {tier}");
            stage(progress, &name, 0, packs);
            let check = TierCheck::new(self, &tier, handle, found);
            let outcome = check.run(versions, &mut |done| stage(progress, &name, done, packs)).await?;
            let Outcome { checked: counts, gone, orphans, forgettable, newest_epoch, complete, more } = outcome;
            checked.forgettable.extend(forgettable);
            checked.more |= more;
            report.tiers.push(counts);
            checked.newest_epoch = checked.newest_epoch.max(newest_epoch);
            checked.gone.packs.extend(gone.into_iter().map(|pack| (tier.clone(), pack)));
            if complete && !orphans.is_empty() {
                checked.orphans.push((tier, orphans));
            } else if !complete {
                found.leave(&tier, FindingKind::OrphanPack, "the listing did not come to its end");
            }
        }
        Ok(())
    }

    async fn check_files(
        self: &Arc<Self>,
        found: &mut Found,
        progress: Progress<'_>,
    ) -> Result<PackFiles, EngineError> {
        stage(progress, "files", 0, 0);
        // A sweep deletes files before it forgets them.
        let no_sweep = Arc::clone(&self.gc_running).lock_owned().await;
        let core = Arc::clone(self);
        let task = tokio::task::spawn_blocking(move || core.local.check_files());
        let files = task.await.map_err(|e| EngineError::Internal(format!("look at the packs: {e}")))??;
        drop(no_sweep);
        for short in &files.short {
            let chunks = short.chunks;
            let (kind, text) = match short.found {
                None => (
                    FindingKind::MissingPack,
                    format!(
                        "its file is gone, with {chunks} chunks. Put it back; else restart the server, so that what tiers \
                         have is read from there, and uploads store the rest anew"
                    ),
                ),
                Some(len) => (
                    FindingKind::ShortPack,
                    format!(
                        "{len} of {} bytes are there; tidegate scrub finds what is lost and repairs it",
                        short.expected
                    ),
                ),
            };
            let finding = Finding::new(kind, short.pack.to_string(), text);
            found.add(finding.sized(short.expected).since(short.pack.begun()));
        }
        for file in &files.unknown {
            // A pack is made before the table knows it.
            if self.clock.now().since(file.pack.begun()) < Duration::from_secs(60) {
                continue;
            }
            let text = "the index does not know it: the next start reads what is in it";
            let finding = Finding::new(FindingKind::UnknownPack, &file.name, text);
            found.add(finding.sized(file.bytes).since(file.pack.begun()));
        }
        Ok(files)
    }

    async fn check_tables(
        self: &Arc<Self>,
        request: &FsckRequest,
        (report, found, checked): Sinks<'_>,
        progress: Progress<'_>,
    ) -> Result<(), EngineError> {
        let (core, request) = (Arc::clone(self), request.clone());
        let done = Arc::new(AtomicU64::new(0));
        let count = Arc::clone(&done);
        let mut mine = std::mem::take(found);
        let task = tokio::task::spawn_blocking(move || {
            let mut tables = Tables::new(&core, &mut mine, &count);
            let outcome = tables.packs().and_then(|()| if request.wants_local() { tables.local() } else { Ok(()) });
            let (mendings, more) = (std::mem::take(&mut tables.mendings), tables.more);
            outcome.map(|()| (mendings, more, mine))
        });
        let outcome = watched("namespace", task, &done, progress).await?;
        let more;
        (checked.mendings, more, *found) = outcome;
        checked.more |= more;
        report.records = done.load(Ordering::Relaxed);
        if found.has(FindingKind::Unreadable) || found.has(FindingKind::MissingFooter) {
            checked.gaps = Some("records cannot be read, and may be of these packs".to_owned());
        }
        Ok(())
    }

    /// The walk over all versions and parts: what cannot be read in full, and what names chunks of dangling packs.
    async fn check_names(
        self: &Arc<Self>,
        request: &FsckRequest,
        (report, found, checked): Sinks<'_>,
        progress: Progress<'_>,
    ) -> Result<(), EngineError> {
        stage(progress, "chunks", 0, 0);
        let (walked, affected) = self.examine(std::mem::take(&mut checked.gone)).await?;
        for body in &affected.named {
            let text = format!("{} of its chunks are in dangling packs", body.chunks);
            found.add(Finding::new(FindingKind::AffectedObject, &body.what, text));
        }
        found.add_unnamed(FindingKind::AffectedObject, affected.count.saturating_sub(affected.named.len() as u64));
        if walked.lossy_total > 0 || walked.unreadable_total > 0 {
            checked.gaps =
                Some("objects have lost chunks, or cannot be read, and these packs may have them".to_owned());
        }
        // A check of tiers alone says what of it is their fault.
        if !request.wants_local() && affected.count == 0 {
            return Ok(());
        }
        for body in &walked.lossy {
            let text = format!("{} chunks are nowhere; upload the same bytes again, or delete it", body.chunks);
            found.add(Finding::new(FindingKind::LostChunks, &body.what, text));
        }
        found.add_unnamed(FindingKind::LostChunks, walked.lossy_total.saturating_sub(walked.lossy.len() as u64));
        for record in &walked.unreadable {
            found.add(Finding::new(FindingKind::Unreadable, &record.what, &record.detail));
        }
        let unnamed = walked.unreadable_total.saturating_sub(walked.unreadable.len() as u64);
        found.add_unnamed(FindingKind::Unreadable, unnamed);
        if walked.unreadable_total > 0 {
            report.notes.push("what cannot be read may hide more findings; tidegate gc fetches manifests from the tiers that have them".to_owned());
        }
        Ok(())
    }
}

/// Waits for work on a thread of its own and tells how far it is.
async fn watched<T>(
    name: &str,
    mut task: tokio::task::JoinHandle<Result<T, EngineError>>,
    done: &AtomicU64,
    progress: Progress<'_>,
) -> Result<T, EngineError> {
    loop {
        stage(progress, name, done.load(Ordering::Relaxed), 0);
        tokio::select! {
            outcome = &mut task => return outcome.map_err(|e| EngineError::Internal(format!("{name}: {e}")))?,
            () = tokio::time::sleep(LOOK_EVERY) => {}
        }
    }
}
