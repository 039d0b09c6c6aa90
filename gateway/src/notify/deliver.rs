//! One task for each target: takes the oldest events that wait, sends them, takes those that arrived out of the queue.
//!
//! Events of one key go out one after the other; those of several keys side by side. A target that takes nothing is left alone for
//! a while that grows with each failure; one that refuses a single event gets the others, and that one again later.

use futures::StreamExt;
use prometheus::{IntCounter, IntCounterVec, Opts, Registry};
use std::collections::HashMap;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Duration;
use tidegate_tiering::clock::{Clock, Timestamp};
use tidegate_tiering::engine::{Engine, EngineError, QueuedEvent};
use tokio::task::JoinSet;

use super::{Target, message};

/// Events that one round takes.
const PAGE: usize = 256;
/// Most events that leave the queue in one commit.
const TAKEN_OUT: usize = 64;
/// How often the queue and the clock are looked at when nobody says that something came.
const POLL: Duration = Duration::from_millis(500);

/// What was sent.
#[derive(Debug, Clone)]
pub struct DeliveryMetrics {
    sent: IntCounterVec,
    failed: IntCounterVec,
}

impl DeliveryMetrics {
    /// Registers them.
    ///
    /// # Errors
    /// A name is taken.
    pub fn new(registry: &Registry) -> Result<Self, prometheus::Error> {
        let count = |name, help| IntCounterVec::new(Opts::new(name, help), &["target"]);
        let sent = count("tidegate_notification_sent_events_total", "Events that a target has taken.")?;
        let failed = count("tidegate_notification_failed_requests_total", "Requests that a target did not take.")?;
        for family in [&sent, &failed] {
            registry.register(Box::new(family.clone()))?;
        }
        Ok(Self { sent, failed })
    }
}

/// What all targets share.
#[derive(Clone)]
pub struct Delivery {
    /// Where events wait.
    pub engine: Engine,
    /// The region that messages name.
    pub region: String,
    /// The canonical id of the account that owns buckets whose record names no owner.
    pub first_account: String,
    /// Counts.
    pub metrics: DeliveryMetrics,
}

impl Delivery {
    /// Sends to all targets until the set is shut down.
    pub fn start(self, targets: Vec<Target>) -> JoinSet<()> {
        let mut tasks = JoinSet::new();
        for target in targets {
            let (sent, failed) = (&self.metrics.sent, &self.metrics.failed);
            let name = [target.name.as_str()];
            let line = Line {
                sent: sent.with_label_values(&name),
                failed: failed.with_label_values(&name),
                clock: self.engine.clock(),
                delivery: self.clone(),
                target,
            };
            tasks.spawn(line.run());
        }
        tasks
    }
}

/// What a round came to.
enum Round {
    /// There was nothing to send.
    Empty,
    /// All that was taken was sent.
    Sent,
    /// Something was not; why.
    Failed(String),
}

struct Line {
    target: Target,
    delivery: Delivery,
    clock: Arc<dyn Clock>,
    sent: IntCounter,
    failed: IntCounter,
}

impl Line {
    async fn run(self) {
        let mut arrivals = self.delivery.engine.event_arrivals();
        let (mut failures, mut not_before) = (0_u32, self.clock.now());
        loop {
            // Before the queue is looked at: what comes meanwhile is seen by the next look.
            arrivals.borrow_and_update();
            let resting = self.clock.now() < not_before;
            let round = if resting { Round::Empty } else { self.round().await };
            match round {
                Round::Sent => {
                    if failures > 0 {
                        tracing::info!(to = self.target.name, failures, "the target takes events again");
                    }
                    failures = 0;
                    continue;
                }
                Round::Failed(why) => {
                    failures = failures.saturating_add(1);
                    not_before = self.rest(failures);
                    if failures == 1 {
                        tracing::warn!(to = self.target.name, why, "events wait: their target does not take them");
                    } else {
                        tracing::debug!(to = self.target.name, why, failures, "events still wait");
                    }
                }
                Round::Empty => {}
            }
            // While it rests, what arrives changes nothing; the clock may be moved.
            let came = async {
                if self.clock.now() < not_before || arrivals.changed().await.is_err() {
                    std::future::pending::<()>().await;
                }
            };
            let wait = not_before.since(self.clock.now());
            let wait = if wait.is_zero() { POLL } else { wait.min(POLL) };
            let _ = tokio::time::timeout(wait, came).await;
        }
    }

    /// When to try again: doubled each time, and some of it random, so that many gateways do not come back at once.
    fn rest(&self, failures: u32) -> Timestamp {
        let settings = &self.target.settings;
        let step = settings.retry_min.saturating_mul(1_u32.checked_shl(failures - 1).unwrap_or(u32::MAX));
        let most = u64::try_from(step.min(settings.retry_max).as_millis()).unwrap_or(u64::MAX);
        self.clock.now().plus(Duration::from_millis(rand::random_range(most / 2..=most)))
    }

    async fn round(&self) -> Round {
        let page = match self.delivery.engine.events(&self.target.name, PAGE) {
            Ok(page) if page.is_empty() => return Round::Empty,
            Ok(page) => page,
            Err(error) => return Round::Failed(error.to_string()),
        };
        match self.send_all(page).await {
            Ok(None) => Round::Sent,
            Ok(Some(why)) => Round::Failed(why),
            // The store refuses writes: what was sent will be sent again.
            Err(error) => Round::Failed(format!("what was sent stays in the queue: {error}")),
        }
    }

    /// Sends a page. Gives why something was not taken, if so.
    async fn send_all(&self, page: Vec<QueuedEvent>) -> Result<Option<String>, EngineError> {
        let down = AtomicBool::new(false);
        let keys = by_key(page).into_iter().map(|events| self.send_in_order(events, &down));
        let mut outcomes =
            futures::stream::iter(keys).buffer_unordered(self.target.settings.concurrency).ready_chunks(TAKEN_OUT);
        let mut refused = None;
        while let Some(outcomes) = outcomes.next().await {
            let mut arrived = Vec::new();
            for (ids, why) in outcomes {
                arrived.extend(ids);
                refused = refused.or(why);
            }
            self.delivery.engine.events_sent(&self.target.name, &arrived).await?;
            self.sent.inc_by(arrived.len() as u64);
        }
        Ok(refused)
    }

    /// Sends the events of one key. Gives those that arrived, and why the others did not.
    async fn send_in_order(&self, events: Vec<QueuedEvent>, down: &AtomicBool) -> (Vec<u128>, Option<String>) {
        let mut arrived = Vec::new();
        for queued in events {
            // Why, the one says who has found it.
            if down.load(Ordering::Acquire) {
                return (arrived, None);
            }
            let id = message::sequencer(&queued);
            let body = match message::of(&queued, &self.delivery.region, &self.delivery.first_account) {
                Ok(body) => body,
                Err(error) => return (arrived, Some(error.to_string())),
            };
            if let Err(refusal) = self.target.send(&id, body).await {
                self.failed.inc();
                down.fetch_or(refusal.down, Ordering::AcqRel);
                return (arrived, Some(refusal.why));
            }
            arrived.push(queued.id);
        }
        (arrived, None)
    }
}

/// The events of each key, in order; keys in the order of their first.
fn by_key(page: Vec<QueuedEvent>) -> Vec<Vec<QueuedEvent>> {
    let mut places: HashMap<(String, String), usize> = HashMap::new();
    let mut keys: Vec<Vec<QueuedEvent>> = Vec::new();
    for queued in page {
        let name = (queued.event.bucket.clone(), queued.event.key.clone());
        let at = *places.entry(name).or_insert(keys.len());
        match keys.get_mut(at) {
            Some(events) => events.push(queued),
            None => keys.push(vec![queued]),
        }
    }
    keys
}
