//! One task for each target: takes the oldest events that wait, sends them, takes those that arrived out of the queue.
//!
//! Events of one key go out one after the other; those of several keys side by side. A target that takes nothing is left alone for
//! a while that grows with each failure. One that refuses a single event gets those of other keys, and that one again later, until
//! it is given up: see [`HeldKeys`].

use futures::StreamExt;
use prometheus::{IntCounter, IntCounterVec, Opts, Registry};
use std::collections::HashMap;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Duration;
use tidegate_tiering::clock::{Clock, Timestamp};
use tidegate_tiering::engine::{Engine, EngineError, QueuedEvent};
use tokio::task::JoinSet;

use super::held::{GIVE_UP, HeldKeys, Name, Verdict};
use super::target::Refusal;
use super::{Target, message};

/// Events that one round takes.
const PAGE: usize = 256;
/// Most events that leave the queue in one commit.
const TAKEN_OUT: usize = 64;
/// How often the queue and the clock are looked at when nobody says that something came.
const POLL: Duration = Duration::from_millis(500);
/// From the end of a pass over a queue some of whose keys are held to the next.
const BETWEEN_PASSES: Duration = Duration::from_secs(2);
/// How long nothing is done when the store refuses to take out what was sent.
const STUCK: Duration = Duration::from_secs(1);

/// What was sent.
#[derive(Debug, Clone)]
pub struct DeliveryMetrics {
    sent: IntCounterVec,
    failed: IntCounterVec,
    given_up: IntCounterVec,
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
        let given_up = count(
            "tidegate_notification_given_up_events_total",
            "Events that are lost as a target refused them for too long.",
        )?;
        for family in [&sent, &failed, &given_up] {
            registry.register(Box::new(family.clone()))?;
        }
        Ok(Self { sent, failed, given_up })
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
            let DeliveryMetrics { sent, failed, given_up } = &self.metrics;
            let name = [target.name.as_str()];
            let line = Line {
                sent: sent.with_label_values(&name),
                failed: failed.with_label_values(&name),
                given_up: given_up.with_label_values(&name),
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
    /// A page was dealt with; whether any of it arrived.
    Page(bool),
    /// The target takes nothing: why, and whether something arrived before.
    Failed(String, bool),
    /// The store does not give or let go of events: why. It is not the target's fault.
    Stuck(String),
}

/// What came of the events of one key.
struct Outcome {
    name: Name,
    arrived: Vec<u128>,
    /// The event that was not taken.
    refused: Option<(u128, Refusal)>,
}

/// How far the sending of a queue has come.
#[derive(Default)]
struct Progress {
    held: HeldKeys,
    /// The pass goes on behind this event; none: a pass begins.
    cursor: Option<u128>,
    /// When the pass began.
    began: Timestamp,
    /// When the next begins, once this one has seen all that waited as it began.
    next: Option<Timestamp>,
    /// Events that arrived and are still in the queue; at most a page.
    arrived: Vec<u128>,
    /// Events that were given up, likewise.
    given_up: Vec<u128>,
}

impl Progress {
    /// Begins a pass where there is none, and where one is over.
    fn look(&mut self, now: Timestamp) {
        let over = self.next.is_some_and(|next| next <= now);
        if self.cursor.is_none() || self.held.is_empty() || over {
            self.held.begin(now, self.next.is_some());
            (self.cursor, self.began, self.next) = (None, now, None);
        }
    }

    /// Notes a page that is dealt with next.
    fn note(&mut self, page: &[QueuedEvent], now: Timestamp) {
        let Some(last) = page.last() else {
            self.next.get_or_insert(now.plus(BETWEEN_PASSES));
            return;
        };
        self.cursor = Some(last.id);
        if page.len() < PAGE || last.event.at >= self.began {
            self.next.get_or_insert(now.plus(BETWEEN_PASSES));
        }
    }
}

struct Line {
    target: Target,
    delivery: Delivery,
    clock: Arc<dyn Clock>,
    sent: IntCounter,
    failed: IntCounter,
    given_up: IntCounter,
}

impl Line {
    async fn run(self) {
        let mut arrivals = self.delivery.engine.event_arrivals();
        let (mut failures, mut stuck, mut not_before) = (0_u32, false, self.clock.now());
        let mut progress = Progress::default();
        loop {
            // Before the queue is looked at: what comes meanwhile is seen by the next look.
            arrivals.borrow_and_update();
            let resting = self.clock.now() < not_before;
            let round = if resting { Round::Empty } else { self.round(&mut progress).await };
            stuck &= resting || matches!(round, Round::Stuck(_));
            match round {
                Round::Page(arrived) => {
                    if arrived && failures > 0 {
                        tracing::info!(to = self.target.name, failures, "the target takes events again");
                    }
                    failures = if arrived { 0 } else { failures };
                    // Pages that are passed over wait for nothing.
                    tokio::task::yield_now().await;
                    continue;
                }
                Round::Failed(why, arrived) => {
                    failures = if arrived { 1 } else { failures.saturating_add(1) };
                    not_before = self.rest(failures);
                    if failures == 1 {
                        tracing::warn!(to = self.target.name, why, "events wait: their target does not take them");
                    } else {
                        tracing::debug!(to = self.target.name, why, failures, "events still wait");
                    }
                }
                Round::Stuck(why) => {
                    not_before = self.clock.now().plus(STUCK);
                    if !std::mem::replace(&mut stuck, true) {
                        tracing::error!(
                            to = self.target.name,
                            why,
                            "events are not sent: this store does not let go of them"
                        );
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
        let doubled = 1_u32.checked_shl(failures.saturating_sub(1)).unwrap_or(u32::MAX);
        let step = settings.retry_min.saturating_mul(doubled);
        let most = u64::try_from(step.min(settings.retry_max).as_millis()).unwrap_or(u64::MAX);
        self.clock.now().plus(Duration::from_millis(rand::random_range(most / 2..=most)))
    }

    async fn round(&self, progress: &mut Progress) -> Round {
        // What arrived leaves the queue before anything is read: it would be sent again.
        if let Err(error) = self.take_out(progress).await {
            return Round::Stuck(format!("what was sent stays in the queue: {error}"));
        }
        let now = self.clock.now();
        progress.look(now);
        let (engine, name) = (&self.delivery.engine, &self.target.name);
        let page = match progress.cursor {
            None => engine.events(name, PAGE),
            Some(id) => engine.events_after(name, id, PAGE),
        };
        match page {
            Ok(page) => {
                progress.note(&page, now);
                if page.is_empty() { Round::Empty } else { self.send_all(page, progress).await }
            }
            Err(error) => Round::Stuck(error.to_string()),
        }
    }

    /// Takes what arrived or was given up out of the queue.
    async fn take_out(&self, progress: &mut Progress) -> Result<(), EngineError> {
        let (engine, name) = (&self.delivery.engine, &self.target.name);
        for (ids, count) in [(&mut progress.arrived, &self.sent), (&mut progress.given_up, &self.given_up)] {
            while !ids.is_empty() {
                let oldest = ids.get(..TAKEN_OUT).unwrap_or(ids);
                engine.events_sent(name, oldest).await?;
                count.inc_by(oldest.len() as u64);
                ids.drain(..ids.len().min(TAKEN_OUT));
            }
        }
        Ok(())
    }

    /// Sends a page, without the keys that are passed over.
    async fn send_all(&self, page: Vec<QueuedEvent>, progress: &mut Progress) -> Round {
        let stop = AtomicBool::new(false);
        let keys = by_key(page).into_iter().filter(|(name, _)| !progress.held.passes_over(name));
        let keys: Vec<_> = keys.map(|(name, events)| self.send_in_order(name, events, &stop)).collect();
        let mut outcomes =
            futures::stream::iter(keys).buffer_unordered(self.target.settings.concurrency).ready_chunks(TAKEN_OUT);
        let (mut any, mut down, mut stuck) = (false, None, None);
        while let Some(outcomes) = outcomes.next().await {
            for outcome in outcomes {
                any |= !outcome.arrived.is_empty();
                if let Some(why) = self.settle(outcome, progress) {
                    stop.store(true, Ordering::Release);
                    down.get_or_insert(why);
                }
            }
            // What is on its way already is waited for, as it may arrive; nothing new is sent.
            if stuck.is_none()
                && let Err(error) = self.take_out(progress).await
            {
                stop.store(true, Ordering::Release);
                stuck = Some(format!("what was sent stays in the queue: {error}"));
            }
        }
        if stop.load(Ordering::Acquire) {
            // Some of the page was not tried: the pass ends here.
            (progress.cursor, progress.next) = (None, None);
        }
        match (stuck, down) {
            (Some(why), _) => Round::Stuck(why),
            (None, Some(why)) => Round::Failed(why, any),
            (None, None) => Round::Page(any),
        }
    }

    /// Notes what came of a key. Gives why the target is to be left alone, if so.
    fn settle(&self, outcome: Outcome, progress: &mut Progress) -> Option<String> {
        let Outcome { name, arrived, refused } = outcome;
        if !arrived.is_empty() {
            progress.held.arrived(&name);
            progress.arrived.extend(arrived);
        }
        let (id, Refusal { why, down }) = refused?;
        if down {
            return Some(why);
        }
        let (to, first) = (&self.target.name, progress.held.is_empty());
        let (bucket, key) = name.clone();
        match progress.held.refused(name, id, self.clock.now(), |failures| self.rest(failures)) {
            Verdict::Held if first => {
                tracing::warn!(to, bucket, key, why, "an event is refused: it and the later ones of its key wait");
            }
            Verdict::Held => tracing::debug!(to, bucket, key, why, "an event is refused"),
            Verdict::GivenUp => {
                let hours = GIVE_UP.as_secs() / 3600;
                tracing::error!(
                    to,
                    bucket,
                    key,
                    why,
                    hours,
                    "AN EVENT IS LOST: its target has refused it for too long"
                );
                progress.given_up.push(id);
            }
            Verdict::Full => return Some(format!("events of too many keys are refused; of the last: {why}")),
        }
        None
    }

    /// Sends the events of one key until one is not taken, or all are to stop.
    async fn send_in_order(&self, name: Name, events: Vec<QueuedEvent>, stop: &AtomicBool) -> Outcome {
        let mut outcome = Outcome { name, arrived: Vec::new(), refused: None };
        for queued in events {
            // Why, the one says who has found it.
            if stop.load(Ordering::Acquire) {
                break;
            }
            let refusal = match message::of(&queued, &self.delivery.region, &self.delivery.first_account) {
                Ok(body) => {
                    self.target.send(&message::sequencer(&queued), body).await.inspect_err(|_| self.failed.inc())
                }
                Err(error) => Err(Refusal { why: error.to_string(), down: false }),
            };
            if let Err(refusal) = refusal {
                stop.fetch_or(refusal.down, Ordering::AcqRel);
                outcome.refused = Some((queued.id, refusal));
                break;
            }
            outcome.arrived.push(queued.id);
        }
        outcome
    }
}

/// The events of each key, in order; keys in the order of their first.
fn by_key(page: Vec<QueuedEvent>) -> Vec<(Name, Vec<QueuedEvent>)> {
    let mut places: HashMap<Name, usize> = HashMap::new();
    let mut keys: Vec<(Name, Vec<QueuedEvent>)> = Vec::new();
    for queued in page {
        let name = (queued.event.bucket.clone(), queued.event.key.clone());
        let at = *places.entry(name.clone()).or_insert(keys.len());
        match keys.get_mut(at) {
            Some((_, events)) => events.push(queued),
            None => keys.push((name, vec![queued])),
        }
    }
    keys
}
