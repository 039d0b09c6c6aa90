//! Following: what another store ships is put behind what is here, so that this one can serve reads, and take over. Nothing is
//! written to any tier meanwhile. See ADR 20; the directory's states are in `recovery/standby.rs`.

mod look;
mod metrics;
mod packs;
mod promote;

pub(crate) use packs::FollowPacks;
pub use promote::PromoteReport;

use super::Core;
use super::error::EngineError;
use crate::clock::Timestamp;
use crate::meta::{MetaError, MetaStore};
use crate::recovery::standby::{StandbyPhase, State};
use crate::recovery::{RecoveryError, StandbySettings};
use crate::tier::Tier;
use look::Work;
use metrics::FollowMetrics;
use serde::{Deserialize, Serialize};
use std::fmt;
use std::path::Path;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;
use tokio::sync::watch;

/// Longest wait after a failure.
const MAX_PAUSE: Duration = Duration::from_secs(5);

/// How long a start waits for the first look.
const FIRST_LOOK: Duration = Duration::from_secs(10);

/// How far a standby is.
#[derive(Debug, Clone, Default, PartialEq, Serialize, Deserialize)]
#[serde(default)]
pub struct StandbyStats {
    /// The tier that is followed.
    pub from: String,
    /// The last record that is here.
    pub applied_sequence: u64,
    /// All that was shipped was here at least once since the start.
    pub caught_up: bool,
    /// How long ago that was last so, in milliseconds: how far this may be behind what was shipped.
    pub lag_ms: u64,
    /// Why the last look failed, if it did.
    pub last_error: Option<String>,
}

/// Why an engine that follows has to be closed.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum FollowEnd {
    /// What is here is not the history any more, or cannot be brought up to it: it is to be fetched anew.
    StartOver(String),
    /// It becomes the primary.
    Promoted,
}

/// Following of one engine.
pub(crate) struct Follow {
    pub settings: StandbySettings,
    tier: Arc<dyn Tier>,
    metrics: FollowMetrics,
    work: tokio::sync::Mutex<Work>,
    end: watch::Sender<Option<FollowEnd>>,
    /// When the last look began after which all that was shipped was here; 0 before.
    caught_up: AtomicU64,
    /// When the last record that is here was written, as far as known; 0 when not.
    newest: AtomicU64,
    last_error: Mutex<Option<String>>,
    warned: AtomicBool,
}

/// Why a look ended early.
enum Failed {
    /// It will be tried again.
    For(RecoveryError),
    /// So will this; something between what is here and what is there is missing.
    Gap(String),
    /// It makes no sense to go on.
    StartOver(String),
}

impl From<RecoveryError> for Failed {
    fn from(error: RecoveryError) -> Self {
        Self::For(error)
    }
}

impl From<MetaError> for Failed {
    fn from(error: MetaError) -> Self {
        Self::For(error.into())
    }
}

impl From<Failed> for RecoveryError {
    fn from(failed: Failed) -> Self {
        match failed {
            Failed::For(e) => e,
            other => Self::Refused(other.to_string()),
        }
    }
}

impl fmt::Display for Failed {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::For(e) => write!(f, "{e}"),
            Self::Gap(what) => f.write_str(what),
            Self::StartOver(why) => write!(f, "the namespace is set aside and fetched anew: {why}"),
        }
    }
}

/// A directory is opened as what it is.
pub(crate) fn check_role(data_dir: &Path, standby: bool) -> Result<(), EngineError> {
    let state = State::load(data_dir).map_err(|e| EngineError::InvalidArgument(e.to_string()))?;
    let is = |state: &State| matches!(state.phase, StandbyPhase::Following | StandbyPhase::Promoting);
    let wrong = match (&state, standby) {
        (None, false) => return Ok(()),
        (Some(state), true) if is(state) => return Ok(()),
        (Some(state), false) => format!(
            "is a standby's: run `tidegate standby --from {}`, and `tidegate promote` to make it the primary",
            state.from
        ),
        (Some(_), true) => "is not ready to be followed in".to_owned(),
        (None, true) => "is no standby's".to_owned(),
    };
    Err(EngineError::InvalidArgument(format!("{} {wrong}", data_dir.display())))
}

impl Follow {
    pub(crate) fn new(
        settings: StandbySettings,
        tier: Arc<dyn Tier>,
        registry: &prometheus::Registry,
    ) -> Result<Self, EngineError> {
        if let Some((name, want)) = settings.problem() {
            return Err(EngineError::InvalidArgument(format!("standby.{name} must be {want}")));
        }
        let metrics = FollowMetrics::new(registry).map_err(|e| EngineError::Internal(e.to_string()))?;
        Ok(Self {
            settings,
            tier,
            metrics,
            work: tokio::sync::Mutex::default(),
            end: watch::Sender::new(None),
            caught_up: AtomicU64::new(0),
            newest: AtomicU64::new(0),
            last_error: Mutex::default(),
            warned: AtomicBool::new(false),
        })
    }

    /// Follows until the engine stops, or until there is nothing more to follow.
    pub(crate) async fn run(self: Arc<Self>, core: Arc<Core>) {
        let mut pause = self.settings.poll;
        while !core.stop.is_cancelled() && self.end.borrow().is_none() {
            let good = tokio::select! {
                good = self.one_look(&core) => good,
                () = core.stop.cancelled() => return,
            };
            pause = if good { self.settings.poll } else { (pause * 2).min(MAX_PAUSE.max(self.settings.poll)) };
            self.watch_lag(&core);
            tokio::select! {
                () = core.stop.cancelled() => {}
                () = tokio::time::sleep(pause) => {}
            }
        }
    }

    /// The first look, within bounds: how far this is behind is known before it serves, if the tier answers.
    pub(crate) async fn begin(&self, core: &Arc<Core>) {
        if tokio::time::timeout(FIRST_LOOK, self.one_look(core)).await.is_err() {
            tracing::warn!(
                tier = self.settings.from,
                "the tier that is followed does not answer yet, or has much that is new"
            );
        }
    }

    /// True when all that was shipped is here now.
    pub(crate) async fn one_look(&self, core: &Arc<Core>) -> bool {
        let mut work = self.work.lock().await;
        self.look(core, &mut work).await.is_ok()
    }

    /// One look; what came of it is kept for people.
    async fn look(&self, core: &Arc<Core>, work: &mut Work) -> Result<(), Failed> {
        let began = core.clock.now();
        let outcome = self.take_new(core, work).await;
        self.metrics.applied.set(i64::try_from(core.meta.last_seq()).unwrap_or(i64::MAX));
        let error = match outcome {
            Ok(()) => {
                self.caught_up.store(began.millis().max(1), Ordering::Release);
                None
            }
            Err(failed) => {
                self.metrics.failures.inc();
                if let Failed::StartOver(why) = &failed {
                    self.end.send_replace(Some(FollowEnd::StartOver(why.clone())));
                }
                tracing::warn!(tier = self.settings.from, error = %failed, "the shipped journal was not followed");
                Some(failed)
            }
        };
        let text = error.as_ref().map(ToString::to_string);
        *self.last_error.lock().unwrap_or_else(PoisonError::into_inner) = text;
        error.map_or(Ok(()), Err)
    }

    /// How far what is here may be behind what was shipped: the time since all that was shipped was here. Before that
    /// happened first, the age of the last record that is here.
    pub(crate) fn lag(&self, now: Timestamp) -> Duration {
        let since = match self.caught_up.load(Ordering::Acquire) {
            0 => self.newest.load(Ordering::Acquire),
            at => at,
        };
        if since == 0 { Duration::MAX } else { now.since(Timestamp(since)) }
    }

    fn watch_lag(&self, core: &Core) {
        let lag = self.lag(core.clock.now());
        self.metrics.lag(lag);
        let late = lag > self.settings.warn_after;
        if late && !self.warned.swap(true, Ordering::AcqRel) {
            tracing::warn!(lag_ms = lag.as_millis(), "the standby is behind by more than standby.warn_after");
        } else if !late && self.warned.swap(false, Ordering::AcqRel) {
            tracing::info!("the standby has caught up");
        }
    }
}

impl Core {
    /// Following, for statistics.
    pub(crate) fn standby_stats(&self) -> Option<StandbyStats> {
        let follow = self.follow.as_ref()?;
        let lag = follow.lag(self.clock.now());
        follow.metrics.lag(lag);
        Some(StandbyStats {
            from: follow.settings.from.clone(),
            applied_sequence: self.meta.last_seq(),
            caught_up: follow.caught_up.load(Ordering::Acquire) > 0,
            lag_ms: u64::try_from(lag.as_millis()).unwrap_or(u64::MAX),
            last_error: follow.last_error.lock().unwrap_or_else(PoisonError::into_inner).clone(),
        })
    }

    /// What an operator should know about following.
    pub(crate) fn standby_warning(&self) -> Option<String> {
        let (follow, stats) = (self.follow.as_ref()?, self.standby_stats()?);
        let error = stats.last_error.map(|e| format!(": {e}")).unwrap_or_default();
        let late = Duration::from_millis(stats.lag_ms) > follow.settings.warn_after;
        let lag = match stats.lag_ms {
            u64::MAX => "it is not known how far the standby is".to_owned(),
            ms => format!("the standby may be {ms} ms"),
        };
        late.then(|| format!("{lag} behind what was shipped{error}"))
    }
}

impl super::Engine {
    /// How far a standby may be behind what was shipped; none when this is no standby.
    pub fn standby_lag(&self) -> Option<Duration> {
        self.core.follow.as_ref().map(|follow| follow.lag(self.core.clock.now()))
    }

    /// Why a standby is not ready to be read from, if it is not.
    pub fn standby_not_ready(&self) -> Option<String> {
        let stats = self.core.standby_stats().filter(|stats| !stats.caught_up)?;
        let error = stats.last_error.map(|e| format!(": {e}")).unwrap_or_default();
        Some(format!("the standby has not caught up yet{error}"))
    }

    /// Resolves when a standby is to be closed, and says what is to be done with its directory then. Never for others.
    pub async fn follow_ended(&self) -> FollowEnd {
        if let Some(follow) = &self.core.follow {
            let mut end = follow.end.subscribe();
            if let Ok(ended) = end.wait_for(Option::is_some).await
                && let Some(ended) = ended.clone()
            {
                return ended;
            }
        }
        std::future::pending().await
    }
}
