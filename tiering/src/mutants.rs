//! Bugs on purpose. With the feature `mutants`, which no shipped build has, the simulation of the whole system (`tests/sim`) makes the engine forget one
//! precaution at a time and must find that out. Each place asks `active` in one line; without the feature the answer is a
//! constant `false`, and nothing of this is left.

/// A precaution that is forgotten.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Mutant {
    /// Records are written although the packs with their bodies were not synced.
    RecordBeforeBody,
    /// Commits are answered although the journal was not synced.
    AckBeforeSync,
    /// The index is trusted after the machine was restarted.
    TrustIndexAfterPowerCut,
    /// A snapshot says that it has one record more than it has.
    SnapshotOneTooFar,
    /// A sweep deletes a pack before the copies of its chunks are synced.
    UnlinkBeforeCopiesSynced,
    /// A mark does not hear of commits that come while it runs.
    MarkWithoutBarrier,
    /// A mark does not count what is being read.
    MarkWithoutReaders,
    /// A mark does not count the parts of unfinished uploads.
    MarkWithoutUploads,
    /// A mark takes the packs of restored copies for unneeded.
    MarkWithoutRestored,
    /// The local copy of a hot chunk can go as soon as any pack of a tier has it.
    EvictHot,
    /// A pack is deleted in its tier before the commit that dooms it.
    DeleteBeforeDoom,
    /// A pack is deleted in its tier before its doom was shipped.
    DeleteBeforeShipped,
    /// A transition is committed without comparing what it was planned on.
    TransitionWithoutCompare,
    /// A transition changes when the object was modified.
    TransitionModifies,
    /// An upload to a tier that failed counts as done.
    FailedUploadCounts,
    /// What comes from a tier is taken as it comes.
    TrustTier,
    /// Uploads to tiers that a crash cut short stay for ever.
    KeepOrphans,
    /// Two parts with the same bytes are joined as one.
    EqualPartsOnce,
    /// The next page of a listing begins one key too late.
    ListingSkips,
    /// A write over an object forgets when something is due for it.
    OverwriteForgetsDue,
    /// A recovery leaves the last piece of the journal out.
    RecoverWithoutLast,
    /// A recovery takes what another branch of the history has written.
    RecoverDeadBranch,
    /// A store that was replaced writes on in the cloud.
    WriteThoughFenced,
    /// A version `null` that is written leaves the one before where it is.
    NullStays,
    /// In a bucket with versions a deletion makes no delete marker.
    DeleteWithoutMarker,
    /// What is superseded is not put among the older versions.
    OverwriteLosesVersion,
    /// When the latest version is removed, the next does not take its place.
    RemovalPromotesNothing,
    /// Rules that spare the newest versions take all for old.
    NewerAreMany,
    /// A version that is superseded has nobody look at those behind it.
    NeighboursForgotten,
    /// A mark counts what is visible only.
    MarkWithoutVersions,
}

impl Mutant {
    /// All of them.
    pub const ALL: [Mutant; 30] = [
        Mutant::RecordBeforeBody,
        Mutant::AckBeforeSync,
        Mutant::TrustIndexAfterPowerCut,
        Mutant::SnapshotOneTooFar,
        Mutant::UnlinkBeforeCopiesSynced,
        Mutant::MarkWithoutBarrier,
        Mutant::MarkWithoutReaders,
        Mutant::MarkWithoutUploads,
        Mutant::MarkWithoutRestored,
        Mutant::EvictHot,
        Mutant::DeleteBeforeDoom,
        Mutant::DeleteBeforeShipped,
        Mutant::TransitionWithoutCompare,
        Mutant::TransitionModifies,
        Mutant::FailedUploadCounts,
        Mutant::TrustTier,
        Mutant::KeepOrphans,
        Mutant::EqualPartsOnce,
        Mutant::ListingSkips,
        Mutant::OverwriteForgetsDue,
        Mutant::RecoverWithoutLast,
        Mutant::RecoverDeadBranch,
        Mutant::WriteThoughFenced,
        Mutant::NullStays,
        Mutant::DeleteWithoutMarker,
        Mutant::OverwriteLosesVersion,
        Mutant::RemovalPromotesNothing,
        Mutant::NewerAreMany,
        Mutant::NeighboursForgotten,
        Mutant::MarkWithoutVersions,
    ];

    /// The mutant of this name.
    pub fn named(name: &str) -> Option<Mutant> {
        Self::ALL.into_iter().find(|mutant| format!("{mutant:?}") == name)
    }
}

#[cfg(feature = "mutants")]
mod chosen {
    use super::Mutant;
    use std::sync::atomic::{AtomicUsize, Ordering};

    /// One more than the number of the mutant; 0 for none.
    static CHOSEN: AtomicUsize = AtomicUsize::new(0);

    /// Makes this process's engines forget one precaution, or none.
    pub fn choose(mutant: Option<Mutant>) {
        CHOSEN.store(mutant.map_or(0, |m| m as usize + 1), Ordering::SeqCst);
    }

    /// Whether the precaution is forgotten.
    #[inline]
    pub(crate) fn active(mutant: Mutant) -> bool {
        CHOSEN.load(Ordering::Relaxed) == mutant as usize + 1
    }
}

#[cfg(feature = "mutants")]
pub(crate) use chosen::active;
#[cfg(feature = "mutants")]
pub use chosen::choose;

/// Whether the precaution is forgotten: never in this build.
#[cfg(not(feature = "mutants"))]
#[inline(always)]
pub(crate) const fn active(_: Mutant) -> bool {
    false
}
