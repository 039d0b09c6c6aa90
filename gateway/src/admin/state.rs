//! What the admin listener and `serve` share: the engine once it is open, the phase of the server, the policy's file.

use super::error::ApiError;
use super::metrics::GatewayMetrics;
use crate::config::{Config, read_policy};
use serde::{Deserialize, Serialize};
use std::path::PathBuf;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex, PoisonError, RwLock};
use std::time::Instant;
use tidegate_tiering::clock::{Clock, SystemClock};
use tidegate_tiering::engine::{Engine, EngineError, PromoteReport};
use tokio::sync::watch;

use crate::users::Users;
use crate::users::manage::UserError;

/// Where the server stands.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum Phase {
    /// The store is being opened and recovered.
    Opening,
    /// S3 requests are served.
    Serving,
    /// Running requests are being finished.
    Stopping,
}

/// The body of `/readyz`.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Readiness {
    /// Whether S3 requests are served.
    pub ready: bool,
    /// Where the server stands.
    pub phase: Phase,
    /// Why it is not ready.
    pub reasons: Vec<String>,
    /// What an operator should look at although requests are served.
    pub warnings: Vec<String>,
}

/// The answer to a reload of the policy.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Reloaded {
    /// The policy's name.
    pub policy: String,
    /// Findings that do not stop it.
    pub warnings: Vec<String>,
}

/// Shared by the handlers, `serve` and its signals.
#[derive(Debug)]
pub struct AdminState {
    config: Config,
    clock: Arc<SystemClock>,
    metrics: GatewayMetrics,
    engine: RwLock<Option<Engine>>,
    users: RwLock<Option<Arc<Users>>>,
    /// Whether the engine that was opened last is a standby; none while there is none.
    opened: watch::Sender<Option<bool>>,
    promoting: tokio::sync::Mutex<()>,
    phase: Mutex<Phase>,
    policy_error: Mutex<Option<String>>,
    /// One reload at a time. True when one was asked for while the store was being opened.
    reloading: tokio::sync::Mutex<bool>,
    scrubbing: AtomicBool,
    checking: AtomicBool,
    runtime: tokio::runtime::Handle,
}

impl AdminState {
    /// The state of a server that is opening its store. `runtime` runs the engine's work: that of the process, not of a
    /// listener, so that work survives the listener's thread.
    pub fn new(
        config: Config,
        clock: Arc<SystemClock>,
        metrics: GatewayMetrics,
        runtime: tokio::runtime::Handle,
    ) -> Arc<Self> {
        metrics.started(clock.now());
        Arc::new(Self {
            config,
            clock,
            metrics,
            engine: RwLock::default(),
            users: RwLock::default(),
            opened: watch::Sender::new(None),
            promoting: tokio::sync::Mutex::default(),
            phase: Mutex::new(Phase::Opening),
            policy_error: Mutex::new(None),
            reloading: tokio::sync::Mutex::new(false),
            scrubbing: AtomicBool::new(false),
            checking: AtomicBool::new(false),
            runtime,
        })
    }

    /// The configuration.
    pub fn config(&self) -> &Config {
        &self.config
    }

    /// The clock.
    pub fn clock(&self) -> &SystemClock {
        &self.clock
    }

    /// The metrics.
    pub fn metrics(&self) -> &GatewayMetrics {
        &self.metrics
    }

    /// Gives the engine to the API, and reads the policy again when that was asked for in the meantime: the engine may
    /// have been opened with an older text.
    pub async fn opened(&self, engine: Engine, users: Arc<Users>) {
        let standby = engine.standby_lag().is_some();
        *self.users.write().unwrap_or_else(PoisonError::into_inner) = Some(users);
        *self.engine.write().unwrap_or_else(PoisonError::into_inner) = Some(engine);
        self.opened.send_replace(Some(standby));
        if self.config.policy.is_some() {
            self.metrics.policy_read(self.clock.now());
        }
        let missed = std::mem::take(&mut *self.reloading.lock().await);
        if missed {
            // Logged, counted and shown by `/readyz` there.
            let _ = self.reload_policy().await;
        }
    }

    /// Takes the engine back: another one will come, or the server ends.
    pub fn closed(&self) {
        *self.users.write().unwrap_or_else(PoisonError::into_inner) = None;
        *self.engine.write().unwrap_or_else(PoisonError::into_inner) = None;
        self.opened.send_replace(None);
    }

    /// Makes this standby the primary; answers when writes are taken.
    ///
    /// # Errors
    /// 400 when this is no standby, 409 while another promotion runs, 503 when the tier does not answer.
    pub async fn promote(&self) -> Result<PromoteReport, ApiError> {
        let _one = self.promoting.try_lock().map_err(|_| ApiError::busy("a promotion is running; wait for it"))?;
        let began = Instant::now();
        let engine = self.engine()?;
        // From here on its own: a client that goes away leaves no half promotion.
        let mut report = self.spawn(async move { engine.promote(false).await }).await?;
        let mut opened = self.opened.subscribe();
        let writable = opened.wait_for(|standby| *standby == Some(false)).await;
        writable.map_err(|e| ApiError::internal(format!("wait for the promoted store: {e}")))?;
        report.took_ms = u64::try_from(began.elapsed().as_millis()).unwrap_or(u64::MAX);
        tracing::info!(?report, "promoted");
        Ok(report)
    }

    /// Notes where the server stands.
    pub fn enter(&self, phase: Phase) {
        *self.phase.lock().unwrap_or_else(PoisonError::into_inner) = phase;
        self.metrics.ready(phase == Phase::Serving);
    }

    /// The engine.
    ///
    /// # Errors
    /// 503 while the store is being opened.
    pub fn engine(&self) -> Result<Engine, ApiError> {
        self.current().ok_or_else(|| ApiError::unavailable("the store is being opened; try again in a moment"))
    }

    /// The users.
    ///
    /// # Errors
    /// 503 while the store is being opened.
    pub fn users(&self) -> Result<Arc<Users>, ApiError> {
        let users = self.users.read().unwrap_or_else(PoisonError::into_inner).clone();
        users.ok_or_else(|| ApiError::unavailable("the store is being opened; try again in a moment"))
    }

    fn current(&self) -> Option<Engine> {
        self.engine.read().unwrap_or_else(PoisonError::into_inner).clone()
    }

    /// Runs blocking work of the engine beside the listener.
    ///
    /// # Errors
    /// What the engine says; 500 when the work panicked.
    pub async fn blocking<T, F>(&self, work: F) -> Result<T, ApiError>
    where
        T: Send + 'static,
        F: FnOnce(Engine) -> Result<T, EngineError> + Send + 'static,
    {
        let engine = self.engine()?;
        match self.runtime.spawn_blocking(move || work(engine)).await {
            Ok(result) => Ok(result?),
            Err(e) => Err(ApiError::internal(format!("the work was lost: {e}"))),
        }
    }

    /// Runs asynchronous work of the engine on the process's runtime. It goes on when the client leaves.
    ///
    /// # Errors
    /// What the engine says; 500 when the work panicked.
    pub async fn spawn<T, F>(&self, work: F) -> Result<T, ApiError>
    where
        T: Send + 'static,
        F: Future<Output = Result<T, EngineError>> + Send + 'static,
    {
        match self.runtime.spawn(work).await {
            Ok(result) => Ok(result?),
            Err(e) => Err(ApiError::internal(format!("the work was lost: {e}"))),
        }
    }

    /// Runs a change of users on the process's runtime. It goes on when the client leaves.
    ///
    /// # Errors
    /// What it says; 500 when it panicked.
    pub async fn doing<T: Send + 'static>(
        &self,
        work: impl Future<Output = Result<T, UserError>> + Send + 'static,
    ) -> Result<T, ApiError> {
        match self.runtime.spawn(work).await {
            Ok(result) => Ok(result?),
            Err(e) => Err(ApiError::internal(format!("the work was lost: {e}"))),
        }
    }

    /// Runs `work` on the process's runtime and does not wait.
    pub fn detach(&self, work: impl Future<Output = ()> + Send + 'static) {
        self.runtime.spawn(work);
    }

    /// True for the one caller that may scrub now; give it back with [`AdminState::scrubbed`].
    pub fn may_scrub(&self) -> bool {
        !self.scrubbing.swap(true, Ordering::AcqRel)
    }

    /// The scrub ended.
    pub fn scrubbed(&self) {
        self.scrubbing.store(false, Ordering::Release);
    }

    /// True for the one caller that may check now; give it back with [`AdminState::checked`].
    pub fn may_check(&self) -> bool {
        !self.checking.swap(true, Ordering::AcqRel)
    }

    /// The check ended.
    pub fn checked(&self) {
        self.checking.store(false, Ordering::Release);
    }

    /// Whether requests are served, and what is to be said about it.
    pub fn readiness(&self) -> Readiness {
        let phase = *self.phase.lock().unwrap_or_else(PoisonError::into_inner);
        let engine = self.current();
        let mut reasons = Vec::new();
        match phase {
            Phase::Opening => reasons.push("the store is being opened".to_owned()),
            Phase::Stopping => reasons.push("the server is stopping".to_owned()),
            Phase::Serving => {
                if let Some(Err(e)) = engine.as_ref().map(Engine::buckets) {
                    reasons.push(e.to_string());
                }
                reasons.extend(engine.as_ref().and_then(Engine::standby_not_ready));
            }
        }
        let policy_error = self.policy_error.lock().unwrap_or_else(PoisonError::into_inner);
        let mut warnings: Vec<_> = policy_error.iter().map(|e| format!("the policy was not reloaded: {e}")).collect();
        warnings.extend(engine.as_ref().and_then(Engine::writes_refused));
        warnings.extend(engine.as_ref().map(Engine::warnings).unwrap_or_default());
        if let Ok(Ok(directory)) = self.users().map(|users| users.directory()) {
            warnings.extend(directory.warnings().iter().cloned());
        }
        Readiness { ready: reasons.is_empty(), phase, reasons, warnings }
    }

    /// Reads the policy's file again and puts it in force. A broken file changes nothing: the old policy stays, the error
    /// is logged, counted, and shown by `/readyz` until a reload works.
    ///
    /// # Errors
    /// Why it was not put in force.
    pub async fn reload_policy(&self) -> Result<Reloaded, ApiError> {
        // One at a time: of two files read, the later must win.
        let mut missed = self.reloading.lock().await;
        let Some(path) = self.config.policy.clone() else {
            tracing::warn!("the policy is to be reloaded, but the configuration names none");
            return Err(ApiError::invalid("no policy is configured; set policy: FILE and start again"));
        };
        let engine = match self.engine() {
            Ok(engine) => engine,
            Err(error) => {
                *missed = true;
                tracing::info!("the policy will be reloaded once the store is open");
                return Err(error);
            }
        };
        let outcome = self.try_reload(engine, path).await;
        let now = self.clock.now();
        match &outcome {
            Ok(reloaded) => {
                tracing::info!(policy = %reloaded.policy, warnings = reloaded.warnings.len(), "policy reloaded");
                self.metrics.reloaded(true, now);
            }
            Err(error) => {
                tracing::error!(%error, "the policy was not reloaded; the old one stays in force");
                self.metrics.reloaded(false, now);
            }
        }
        let error = outcome.as_ref().err().map(ToString::to_string);
        *self.policy_error.lock().unwrap_or_else(PoisonError::into_inner) = error;
        outcome
    }

    async fn try_reload(&self, engine: Engine, path: PathBuf) -> Result<Reloaded, ApiError> {
        let config = self.config.clone();
        let read = self.runtime.spawn_blocking(move || read_policy(&config, &path)).await;
        let (policy, text, warnings) = read
            .map_err(|e| ApiError::internal(format!("the work was lost: {e}")))?
            .map_err(|e| ApiError::policy(e.to_string()))?;
        let name = policy.name().to_owned();
        self.spawn(async move { engine.set_policy(policy, text).await }).await?;
        Ok(Reloaded { policy: name, warnings: warnings.iter().map(ToString::to_string).collect() })
    }
}
