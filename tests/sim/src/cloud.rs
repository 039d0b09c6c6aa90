//! The cloud: strongly consistent, as OSS and S3 are, and otherwise as bad as it may be. Requests fail before or after they were done,
//! answers are lost, bodies are cut or damaged on the way, archived objects thaw as the virtual clock goes on.

use super::common::Dice;
use super::life::Life;
use async_trait::async_trait;
use bytes::Bytes;
use futures::StreamExt;
use futures::stream::BoxStream;
use std::collections::BTreeMap;
use std::ops::Range;
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Mutex, MutexGuard};
use std::time::Duration;
use tidegate_tiering::clock::{Clock, ManualClock, Timestamp};
use tidegate_tiering::tier::{
    BodySource, Capabilities, Created, PutReceipt, RemoteMeta, RestorePriority, RestoreReceipt, RestoreState, Tier,
    TierError, TierErrorKind,
};

const THAW: Duration = Duration::from_secs(4 * 3600);
const DAY: Duration = Duration::from_secs(86_400);

#[derive(Debug)]
struct Stored {
    bytes: Bytes,
    /// When a restore was asked for, and for how many days.
    asked: Option<(Timestamp, u32)>,
}

#[derive(Debug, Default)]
struct State {
    objects: BTreeMap<(&'static str, String), Stored>,
    /// The life that claimed the deployment last.
    owner: Option<u64>,
    violations: Vec<String>,
    /// Requests that failed, by kind.
    failed: u64,
    done: u64,
}

/// Of a thousand requests so many fail, and of a thousand reads so many come damaged besides.
pub const fn weather(failing: u32, damaged: u32) -> u64 {
    (failing as u64) << 32 | damaged as u64
}

#[derive(Debug)]
pub struct Cloud {
    clock: Arc<ManualClock>,
    state: Mutex<State>,
    dice: Mutex<Dice>,
    /// See [`weather`].
    weather: AtomicU64,
}

impl Cloud {
    pub fn new(clock: &Arc<ManualClock>, seed: u64) -> Arc<Cloud> {
        let (state, dice) = (Mutex::default(), Mutex::new(Dice(seed)));
        Arc::new(Cloud { clock: Arc::clone(clock), state, dice, weather: AtomicU64::new(0) })
    }

    fn state(&self) -> MutexGuard<'_, State> {
        self.state.lock().unwrap()
    }

    /// Sets the [`weather`]; returns the one before.
    pub fn set_weather(&self, weather: u64) -> u64 {
        self.weather.swap(weather, Ordering::SeqCst)
    }

    pub fn is_calm(&self) -> bool {
        self.weather.load(Ordering::SeqCst) == 0
    }

    /// What must never happen and did.
    pub fn violations(&self) -> Vec<String> {
        self.state().violations.clone()
    }

    /// The life that claimed last.
    pub fn owner(&self) -> Option<u64> {
        self.state().owner
    }

    /// Names of what is in all tiers and begins so.
    pub fn names(&self, prefix: &str) -> Vec<String> {
        let state = self.state();
        state.objects.keys().filter(|(_, name)| name.starts_with(prefix)).map(|(t, n)| format!("{t}: {n}")).collect()
    }

    /// Requests that were done, and that failed.
    pub fn requests(&self) -> (u64, u64) {
        let state = self.state();
        (state.done, state.failed)
    }

    pub fn tier(self: &Arc<Self>, name: &'static str, life: &Arc<Life>) -> Arc<dyn Tier> {
        Arc::new(SimTier { cloud: Arc::clone(self), name, life: Arc::clone(life) })
    }
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Mishap {
    None,
    Before,
    After,
    Short,
    Damaged,
}

#[derive(Debug)]
struct SimTier {
    cloud: Arc<Cloud>,
    name: &'static str,
    life: Arc<Life>,
}

fn gone(operation: &'static str, name: &str) -> TierError {
    TierError::plain(TierErrorKind::Unavailable, operation, name, "the simulation says so")
}

impl SimTier {
    fn is_archive(&self) -> bool {
        self.name == "archive"
    }

    fn key(&self, name: &str) -> (&'static str, String) {
        (self.name, name.to_owned())
    }

    /// What becomes of a request; an error when it does not arrive.
    fn begin(&self, operation: &'static str, name: &str) -> Result<Mishap, TierError> {
        if !self.life.call() {
            return Err(gone(operation, name));
        }
        let weather = self.cloud.weather.load(Ordering::SeqCst);
        let mishap = if weather == 0 {
            Mishap::None
        } else {
            let mut dice = self.cloud.dice.lock().unwrap();
            if dice.below(1000) < weather >> 32 {
                [Mishap::Before, Mishap::After, Mishap::Short, Mishap::Damaged][dice.below(4) as usize]
            } else if operation == "get" && dice.below(1000) < weather & 0xffff {
                Mishap::Damaged
            } else {
                Mishap::None
            }
        };
        let mut state = self.cloud.state();
        state.done += 1;
        state.failed += u64::from(mishap != Mishap::None);
        drop(state);
        match mishap {
            Mishap::Before => Err(gone(operation, name)),
            Mishap::Short | Mishap::Damaged if operation != "get" => Err(TierError::plain(
                TierErrorKind::Throttled { delay: Duration::ZERO },
                operation,
                name,
                "the simulation asks for less",
            )),
            other => Ok(other),
        }
    }

    /// The answer, if it gets there.
    fn end<T>(&self, mishap: Mishap, operation: &'static str, name: &str, answer: T) -> Result<T, TierError> {
        let lost = mishap == Mishap::After || !self.life.call();
        if lost { Err(gone(operation, name)) } else { Ok(answer) }
    }

    /// Only the store that claimed last may change anything.
    fn change(&self, state: &mut State, what: &str, name: &str) {
        let of_another = state.owner.is_some_and(|owner| owner != self.life.number);
        if of_another && !name.contains("/terms/") {
            let owner = state.owner.unwrap_or_default();
            state.violations.push(format!("life {} {what} {name} after life {owner} had claimed", self.life.number));
        }
    }

    async fn read(&self, body: &Arc<dyn BodySource>, name: &str) -> Result<Bytes, TierError> {
        let mut stream = body.open(0..body.len());
        let mut all = Vec::new();
        while let Some(piece) = stream.next().await {
            all.extend_from_slice(&piece.map_err(|e| TierError::local("put", name, e))?);
        }
        if all.len() as u64 != body.len() {
            return Err(TierError::invalid("put", name, "the body has another length than it says"));
        }
        Ok(all.into())
    }

    fn restore_state(&self, stored: &Stored) -> RestoreState {
        let Some((at, days)) = stored.asked.filter(|_| self.is_archive()) else { return RestoreState::None };
        let (ready, until) = (at.plus(THAW), at.plus(THAW + DAY * days));
        match self.cloud.clock.now() {
            now if now < ready => RestoreState::Ongoing,
            now if now < until => RestoreState::Restored { until },
            _ => RestoreState::None,
        }
    }

    fn meta(&self, name: &str, stored: &Stored) -> RemoteMeta {
        let (size, restore) = (stored.bytes.len() as u64, self.restore_state(stored));
        RemoteMeta { name: name.to_owned(), size, class: None, crc64: None, restore }
    }
}

fn not_found(operation: &'static str, name: &str) -> TierError {
    TierError::plain(TierErrorKind::NotFound, operation, name, "nothing is there")
}

#[async_trait]
impl Tier for SimTier {
    fn capabilities(&self) -> Capabilities {
        let online = !self.is_archive();
        Capabilities { online, restore: !online, server_checksum: true, min_billable_bytes: 0, min_duration_days: 0 }
    }

    async fn put(&self, name: &str, body: Arc<dyn BodySource>) -> Result<PutReceipt, TierError> {
        let mishap = self.begin("put", name)?;
        let bytes = self.read(&body, name).await?;
        {
            let mut state = self.cloud.state();
            self.change(&mut state, "put", name);
            let stored = Stored { bytes, asked: None };
            if state.objects.insert(self.key(name), stored).is_some() {
                state.violations.push(format!("{name} was written twice"));
            }
        }
        self.end(mishap, "put", name, PutReceipt { etag: None, crc64: None, version_id: None })
    }

    async fn create(&self, name: &str, body: Arc<dyn BodySource>) -> Result<Created, TierError> {
        let mishap = self.begin("create", name)?;
        let bytes = self.read(&body, name).await?;
        let created = {
            let mut state = self.cloud.state();
            self.change(&mut state, "made", name);
            let key = self.key(name);
            if state.objects.contains_key(&key) {
                Created::Exists
            } else {
                if name.contains("/terms/") {
                    state.owner = Some(self.life.number);
                }
                state.objects.insert(key, Stored { bytes, asked: None });
                Created::New
            }
        };
        self.end(mishap, "create", name, created)
    }

    async fn get(
        &self,
        name: &str,
        range: Range<u64>,
    ) -> Result<BoxStream<'static, Result<Bytes, TierError>>, TierError> {
        let mishap = self.begin("get", name)?;
        let bytes = {
            let state = self.cloud.state();
            let stored = state.objects.get(&self.key(name)).ok_or_else(|| not_found("get", name))?;
            let readable = !self.is_archive() || matches!(self.restore_state(stored), RestoreState::Restored { .. });
            if !readable && !name.starts_with("meta/") {
                return Err(TierError::plain(TierErrorKind::Frozen, "get", name, "not restored"));
            }
            if range.end > stored.bytes.len() as u64 {
                return Err(TierError::invalid("get", name, "a range beyond the end"));
            }
            stored.bytes.slice(range.start as usize..range.end as usize)
        };
        let half = bytes.len() / 2;
        let pieces = match mishap {
            Mishap::Short => vec![Ok(bytes.slice(..half)), Err(gone("get", name))],
            Mishap::Damaged if !bytes.is_empty() => {
                let mut damaged = bytes.to_vec();
                damaged[half] ^= 0xff;
                vec![Ok(damaged.into())]
            }
            _ => vec![Ok(bytes.slice(..half)), Ok(bytes.slice(half..))],
        };
        self.end(mishap, "get", name, futures::stream::iter(pieces).boxed())
    }

    async fn head(&self, name: &str) -> Result<RemoteMeta, TierError> {
        let mishap = self.begin("head", name)?;
        let meta = {
            let state = self.cloud.state();
            let stored = state.objects.get(&self.key(name)).ok_or_else(|| not_found("head", name))?;
            self.meta(name, stored)
        };
        self.end(mishap, "head", name, meta)
    }

    async fn delete(&self, name: &str) -> Result<(), TierError> {
        let mishap = self.begin("delete", name)?;
        {
            let mut state = self.cloud.state();
            self.change(&mut state, "deleted", name);
            state.objects.remove(&self.key(name));
        }
        self.end(mishap, "delete", name, ())
    }

    async fn list(&self, prefix: &str, start_after: Option<&str>, max: usize) -> Result<Vec<RemoteMeta>, TierError> {
        let mishap = self.begin("list", prefix)?;
        let page = {
            let state = self.cloud.state();
            let here = state
                .objects
                .range(self.key(prefix)..)
                .take_while(|((tier, name), _)| *tier == self.name && name.starts_with(prefix));
            let after = here.filter(|((_, name), _)| start_after.is_none_or(|after| name.as_str() > after));
            after.take(max).map(|((_, name), stored)| self.meta(name, stored)).collect()
        };
        self.end(mishap, "list", prefix, page)
    }

    async fn restore(&self, name: &str, days: u32, _: RestorePriority) -> Result<RestoreReceipt, TierError> {
        let mishap = self.begin("restore", name)?;
        let receipt = {
            let mut state = self.cloud.state();
            let now = self.cloud.clock.now();
            let stored = state.objects.get_mut(&self.key(name)).ok_or_else(|| not_found("restore", name))?;
            match self.restore_state(stored) {
                RestoreState::Ongoing => RestoreReceipt::AlreadyRunning,
                RestoreState::Restored { .. } => RestoreReceipt::AlreadyRestored,
                RestoreState::None => {
                    stored.asked = Some((now, days));
                    RestoreReceipt::Started
                }
            }
        };
        self.end(mishap, "restore", name, receipt)
    }
}
