//! An engine without timers: somebody else says when its background work takes a turn. Simulations do, so that what happens between
//! two operations is theirs to choose.

use super::Engine;
use super::scheduler::Scheduler;
use std::sync::Arc;
use tokio::sync::Mutex;

/// The scheduler of an engine without timers. Outside the core, which it holds.
#[derive(Clone)]
pub(super) struct Driven(Arc<Mutex<Scheduler>>);

/// Background work that takes a turn.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Step {
    /// One look of the scheduler at everything: what is due, jobs, deletions, restores.
    Schedule,
    /// What is durable and not shipped yet goes to the recovery tier.
    Ship,
    /// What another store has shipped is put behind what is here, where this is a standby.
    Follow,
}

impl Driven {
    pub(super) fn new(scheduler: Scheduler) -> Self {
        Self(Arc::new(Mutex::new(scheduler)))
    }
}

impl Engine {
    /// With [`EngineSettings::driven`](super::EngineSettings::driven): takes one turn and waits for all jobs that it began. True when
    /// there is more to do at once, of shipping and following when the turn did what it could. Without that setting nothing happens.
    ///
    /// A deletion in a tier that must wait for its records to be shipped ships them itself.
    pub async fn step(&self, step: Step) -> bool {
        let Some(driven) = &self.driven else { return false };
        // Held over the wait: of two that close the tracker, one would open it under the other.
        let mut scheduler = driven.0.lock().await;
        let more = match (step, self.core.ship.clone()) {
            (Step::Schedule, _) => scheduler.turn().await,
            (Step::Ship, Some(ship)) => ship.turn(&self.core).await,
            (Step::Follow, _) => match &self.core.follow {
                Some(follow) => follow.one_look(&self.core).await,
                None => false,
            },
            (Step::Ship, None) => false,
        };
        self.core.jobs.close();
        self.core.jobs.wait().await;
        self.core.jobs.reopen();
        more
    }
}
