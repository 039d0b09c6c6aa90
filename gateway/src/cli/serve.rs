//! `tidegate serve`.

use super::args::Serve;
use super::standby::Following;
use super::{Exit, Failure};
use crate::admin::{AdminServer, AdminState, GatewayMetrics, Phase};
use crate::auth::identity::IdentitySource as _;
use crate::config::{Config, access_key, check, read_policy, test_settings};
use crate::logging;
use crate::notify::{Delivery, DeliveryMetrics, Target};
use crate::output::Output;
use crate::server::tls::Certificates;
use crate::server::{AccessKey, Listeners, S3Server, S3Settings, descriptors};
use crate::users::Users;
use crate::users::directory::Known;
use crate::users::seal::SealKeys;
use serde::{Deserialize, Serialize};
use std::collections::BTreeMap;
use std::io::Write;
use std::net::SocketAddr;
use std::os::unix::fs::DirBuilderExt;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use tidegate_policies::{Policy, Severity};
use tidegate_tiering::clock::{Clock, SystemClock};
use tidegate_tiering::engine::{Components, Engine, EngineError, EngineSettings, FollowEnd};
use tidegate_tiering::recovery::StandbySettings;
use tidegate_tiering::tier::{self, Tier};
use tokio::signal::unix::{Signal, SignalKind, signal};
use tokio::sync::watch;
use tokio::task::JoinSet;

/// Where a server listens: what `--ready-file` holds.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Addresses {
    /// `http://host:port` of the S3 endpoint, or `https://` where it speaks TLS alone.
    pub s3: String,
    /// `https://host:port` where TLS has an address of its own.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub s3_tls: Option<String>,
    /// `http://host:port` of the admin listener.
    pub admin: String,
    /// Path of the admin socket.
    pub socket: PathBuf,
    /// Process id.
    pub pid: u32,
}

/// Runs the server until SIGTERM or SIGINT; with `following`, as a standby.
pub fn serve(
    config: Config,
    name: &str,
    (options, following): (&Serve, Option<Following>),
    output: &Output,
) -> Result<Exit, Failure> {
    let (problems, diagnostics) = check(name, &config);
    let wrong = diagnostics.iter().filter(|d| d.severity == Severity::Error).map(ToString::to_string);
    let for_tests = test_settings(name, &config).filter(|_| !options.allow_test_settings);
    let wrong: Vec<String> = problems.iter().chain(&for_tests).map(ToString::to_string).chain(wrong).collect();
    if !wrong.is_empty() {
        return Err(Failure { exit: Exit::Problems, message: wrong.join("\n") });
    }
    logging::start(&config.log).map_err(Failure::new)?;
    for warning in &diagnostics {
        tracing::warn!("{warning}");
    }
    if let Some(seconds) = config.lifecycle.test_day() {
        tracing::warn!(
            "TEST SETTINGS: a day of all lifecycle rules lasts {seconds} seconds (lifecycle.seconds_per_day); objects expire early, \
             for good"
        );
    }
    if let Some((name, nth)) = &options.failpoint {
        tidegate_tiering::failpoint::set(name, *nth);
    }
    if let Some(following) = &following {
        following.check(&config)?;
    }
    make_data_dir(&config.data_dir)?;
    prefer_small_pages();
    raise_file_limit(&config);
    let runtime = tokio::runtime::Builder::new_multi_thread()
        .enable_all()
        .thread_name("tidegate")
        .build()
        .map_err(|e| Failure::new(format!("cannot start a runtime: {e}")))?;
    let outcome = runtime.block_on(Box::pin(run(config, options, following, output)));
    // Everything that matters has been waited for; what is left (a probe, say) must not hold the exit up.
    runtime.shutdown_background();
    outcome
}

/// The allocator asks for huge pages. With them the peak of a load of large bodies was 276 MiB, without them 109 MiB, and
/// nothing became slower: buffers are used again, so that little is gained by clearing memory two megabytes at a time.
fn prefer_small_pages() {
    if let Err(error) = rustix::thread::disable_transparent_huge_pages(true) {
        tracing::debug!(%error, "huge pages stay on");
    }
}

fn raise_file_limit(config: &Config) {
    let needed = descriptors::needed(config.s3.max_connections, config.store.packs.max_open_files);
    let limit = descriptors::raise_limit();
    if let Some(limit) = limit.filter(|limit| *limit < needed) {
        tracing::warn!(
            limit,
            needed,
            "s3.max_connections and store.packs.max_open_files may need more open files than the system allows: lower them, or \
             raise the limit (ulimit -Hn, or LimitNOFILE= of the service)"
        );
    }
}

async fn run(config: Config, options: &Serve, following: Option<Following>, output: &Output) -> Result<Exit, Failure> {
    let clock = SystemClock::kept_in(config.clock_file()).map_err(|e| Failure::new(format!("the clock: {e}")))?;
    let clock = Arc::new(clock);
    if !clock.offset().is_zero() {
        tracing::warn!(ahead_ms = clock.offset().as_millis(), file = %config.clock_file().display(), "the clock was moved");
    }
    let registry = prometheus::Registry::new();
    let certificates = load_certificates(&config, &clock, &registry)?;
    let metrics = GatewayMetrics::new(registry).map_err(Failure::new)?;
    let admin = AdminServer::bind(&config.admin, config.admin_socket()).map_err(Failure::new)?;
    let admin_address = admin.address();
    metrics.test_settings(config.lifecycle.test_day().is_some());
    let state = AdminState::new(config, Arc::clone(&clock), metrics, tokio::runtime::Handle::current());
    let running = admin.run(&state).map_err(Failure::new)?;
    let stop = listen_to_signals(&state, certificates.clone())?;

    let mut server = Serving { state, clock, options, output, admin_address, stop, certificates, listeners: None };
    let outcome = match following {
        Some(following) => Box::pin(super::standby::run(&mut server, &following)).await,
        None => Box::pin(server.serve(Role::Primary)).await.map(drop),
    };
    running.stop().await;
    if let Some(file) = &options.ready_file {
        // Whoever waits for the next start must not find this one's addresses.
        let _ = std::fs::remove_file(file);
    }
    tracing::info!("stopped");
    outcome.map(|()| Exit::Ok)
}

/// The certificate of the S3 endpoint, watched from now on.
fn load_certificates(
    config: &Config,
    clock: &Arc<SystemClock>,
    registry: &prometheus::Registry,
) -> Result<Option<Arc<Certificates>>, Failure> {
    let Some(tls) = config.s3.tls.clone() else { return Ok(None) };
    let clock: Arc<dyn Clock> = Arc::<SystemClock>::clone(clock);
    let certificates = Certificates::load(tls, clock, registry).map_err(|e| Failure::new(format!("s3.tls: {e}")))?;
    tokio::spawn(Arc::clone(&certificates).watch());
    Ok(Some(certificates))
}

/// The tiers of the configuration.
pub(super) fn build_tiers(
    config: &Config,
    clock: &Arc<dyn Clock>,
    registry: Option<&prometheus::Registry>,
) -> Result<BTreeMap<String, Arc<dyn Tier>>, Failure> {
    let env = |name: &str| std::env::var(name).ok();
    let mut tiers: BTreeMap<String, Arc<dyn Tier>> = BTreeMap::new();
    for (name, settings) in &config.tiers {
        let tier = tier::build(name, settings, Arc::clone(clock), &env, registry)
            .map_err(|e| Failure::new(format!("tier {name}: {e}")))?;
        tiers.insert(name.clone(), tier);
    }
    Ok(tiers)
}

async fn open_engine(
    config: &Config,
    standby: Option<StandbySettings>,
    clock: Arc<SystemClock>,
    registry: &prometheus::Registry,
) -> Result<Engine, Failure> {
    let (policy, policy_text) = match &config.policy {
        None => (Policy::none(), String::new()),
        Some(path) => {
            let (policy, text, _) = read_policy(config, path).map_err(Failure::new)?;
            (policy, text)
        }
    };
    let clock: Arc<dyn Clock> = clock;
    let tiers = build_tiers(config, &clock, Some(registry))?;
    let classes = config.classes.clone();
    let components = Components { clock, tiers, classes, policy, policy_text, registry: registry.clone() };
    let settings = EngineSettings { standby, ..config.engine_settings() };
    let named = config.store.hot.max_bytes.is_some();
    tracing::info!(max_bytes = settings.disk.max_bytes, named, free_floor = settings.disk.free_floor, "disk limits");
    let opened = Engine::open(settings, components).await;
    opened.map_err(|e| match e {
        // Clients see this one too, so it does not say where.
        EngineError::SlowDown(what) => Failure::new(format!(
            "{}: {what}. Make room on this disk and start again: nothing is lost",
            config.data_dir.display()
        )),
        other => Failure::new(other),
    })
}

/// As what the data directory is opened.
pub(super) enum Role {
    Primary,
    Standby {
        settings: StandbySettings,
        /// A promotion was cut short.
        resume: bool,
    },
}

/// Why an engine was closed.
pub(super) enum Ended {
    Stopped,
    Follow(FollowEnd),
}

/// What outlives an engine: a standby that is promoted opens another one.
pub(super) struct Serving<'a> {
    pub(super) state: Arc<AdminState>,
    pub(super) clock: Arc<SystemClock>,
    pub(super) output: &'a Output,
    pub(super) stop: watch::Receiver<bool>,
    options: &'a Serve,
    admin_address: SocketAddr,
    certificates: Option<Arc<Certificates>>,
    /// Connections wait here while no engine is open.
    listeners: Option<Listeners>,
}

/// How long the running requests of a standby may take to end when it becomes the primary.
const STANDBY_SHUTDOWN_SECONDS: u64 = 5;

impl Serving<'_> {
    /// Opens the store, serves it and closes it.
    pub(super) async fn serve(&mut self, role: Role) -> Result<Ended, Failure> {
        let registry = prometheus::Registry::new();
        self.state.metrics().of_engine(registry.clone());
        let (standby, resume) = match role {
            Role::Primary => (None, false),
            Role::Standby { settings, resume } => (Some(settings), resume),
        };
        let clock = Arc::clone(&self.clock);
        let opening = Box::pin(open_engine(self.state.config(), standby, clock, &registry));
        let engine = tokio::select! {
            opened = opening => opened?,
            () = stopped(self.stop.clone()) => return Ok(Ended::Stopped),
        };
        if resume {
            let engine = engine.clone();
            tokio::spawn(async move {
                if let Err(error) = engine.promote(true).await {
                    tracing::error!(%error, "a promotion that was cut short did not go on");
                }
            });
        }
        let outcome = Box::pin(self.serve_s3(&engine, &registry)).await;
        self.state.enter(if matches!(outcome, Ok(Ended::Follow(_))) { Phase::Opening } else { Phase::Stopping });
        self.state.closed();
        let closed = engine.shutdown().await.map_err(Failure::new);
        outcome.and_then(|ended| closed.map(|()| ended))
    }

    async fn serve_s3(&mut self, engine: &Engine, registry: &prometheus::Registry) -> Result<Ended, Failure> {
        let config = self.state.config();
        let mut settings = config.s3.clone();
        if settings.access_keys.is_empty() {
            // Only now: the engine holds the lock, so no other server can make another key for this data.
            let (key, made) = access_key::load_or_generate(&config.data_dir).map_err(Failure::new)?;
            if made {
                say_key(self.output, &key, &config.data_dir.join(access_key::FILE_NAME));
            }
            settings.access_keys.push(key);
        }
        if engine.standby_lag().is_some() {
            settings.shutdown_timeout_seconds = settings.shutdown_timeout_seconds.min(STANDBY_SHUTDOWN_SECONDS);
        }
        let listeners = match self.listeners.take() {
            Some(listeners) => listeners,
            None => S3Server::listen(&settings).map_err(Failure::new)?,
        };
        let keep = |e| Failure::new(format!("keep the listener: {e}"));
        self.listeners = Some(listeners.try_clone().map_err(keep)?);
        let tls = listeners.tls_address().map_err(keep)?;
        let users = Arc::new(self.users(engine, &settings)?);
        let both = (engine.clone(), Arc::clone(&users));
        let server = S3Server::bind_to(listeners, settings, both, registry).map_err(Failure::new)?;
        let server = server.with_tls(self.certificates.clone());
        let first_account = users.first_account().id.clone();
        let mut sending = self.send_events(engine, first_account, registry)?;
        self.announce((engine, users), server.local_addr(), tls).await?;
        let (stopping, stop) = (Arc::clone(&self.state), self.stop.clone());
        let mut ended = Ended::Stopped;
        let shutdown = async {
            tokio::select! {
                () = stopped(stop) => stopping.enter(Phase::Stopping),
                end = engine.follow_ended() => {
                    stopping.enter(Phase::Opening);
                    ended = Ended::Follow(end);
                }
            }
        };
        let served = Box::pin(server.run(shutdown)).await.map_err(Failure::new);
        // What is on its way is sent again by the next start.
        sending.shutdown().await;
        served.map(|()| ended)
    }

    /// Begins to send events to the targets of the configuration. A standby sends none: its engine gives none out.
    fn send_events(
        &self,
        engine: &Engine,
        first_account: String,
        registry: &prometheus::Registry,
    ) -> Result<JoinSet<()>, Failure> {
        let config = self.state.config();
        let targets = config.notifications.targets.iter().map(|(name, settings)| {
            Target::new(name, settings).map_err(|e| Failure::new(format!("notifications.targets.{name}.{e}")))
        });
        let targets = targets.collect::<Result<Vec<_>, _>>()?;
        let metrics = DeliveryMetrics::new(registry).map_err(Failure::new)?;
        let (engine, region) = (engine.clone(), config.s3.region.clone());
        Ok(Delivery { engine, region, first_account, metrics }.start(targets))
    }

    /// Those who may sign requests. A standby never makes a seal key: what it follows was sealed with that of the primary.
    fn users(&self, engine: &Engine, settings: &S3Settings) -> Result<Users, Failure> {
        let config = self.state.config();
        let standby = engine.standby_lag().is_some();
        let seal = match &config.users.seal_key {
            Some(text) => SealKeys::parse(text.expose()).map(Some).map_err(|e| format!("users.seal_key: {e}")),
            None => SealKeys::of_directory(&config.data_dir, !standby),
        };
        let known = Known { accounts: config.accounts.clone(), root_keys: settings.access_keys.clone() };
        let users = Users::new(known, seal.map_err(Failure::new)?, engine.clone());
        // What is to be said of them is said at the start.
        users.directory().map_err(Failure::new)?;
        Ok(users)
    }

    /// Tells everybody that requests are served.
    async fn announce(
        &self,
        (engine, users): (&Engine, Arc<Users>),
        s3: SocketAddr,
        tls: Option<SocketAddr>,
    ) -> Result<(), Failure> {
        let config = self.state.config();
        let scheme = if self.certificates.is_some() && tls.is_none() { "https" } else { "http" };
        let addresses = Addresses {
            s3: format!("{scheme}://{s3}"),
            s3_tls: tls.map(|tls| format!("https://{tls}")),
            admin: format!("http://{}", self.admin_address),
            socket: std::path::absolute(config.admin_socket()).unwrap_or_else(|_| config.admin_socket()),
            pid: std::process::id(),
        };
        self.state.opened(engine.clone(), users).await;
        self.state.enter(Phase::Serving);
        let standby = engine.standby_lag().is_some();
        let tls = addresses.s3_tls.as_ref().map(|tls| format!(" s3-tls={tls}")).unwrap_or_default();
        tracing::info!(version = crate::VERSION, s3 = %addresses.s3, %tls, admin = %addresses.admin, standby, "serving");
        self.output
            .say(&addresses, |a| format!("listening s3={}{tls} admin={} socket={}", a.s3, a.admin, a.socket.display()));
        if let Some(file) = &self.options.ready_file {
            write_ready_file(file, &addresses)
                .map_err(|e| Failure::new(format!("cannot write {}: {e}", file.display())))?;
        }
        Ok(())
    }
}

/// Shows a key that was made just now: the one time that a secret leaves the data directory.
fn say_key(output: &Output, key: &AccessKey, file: &Path) {
    let (access, secret) = (&key.access_key, key.secret_key.expose());
    let value = serde_json::json!({ "access_key": access, "secret_key": secret, "file": file });
    output.say(&value, |_| {
        let file = file.display();
        format!("access key {access}\nsecret key {secret}\n(made now and kept in {file}; shown only this once)")
    });
}

/// Whole or not at all: whoever polls for the file never reads half of it.
fn write_ready_file(file: &Path, addresses: &Addresses) -> std::io::Result<()> {
    let fresh = file.with_extension("new");
    let mut text = serde_json::to_string(addresses)?;
    text.push('\n');
    let mut handle = std::fs::File::create(&fresh)?;
    handle.write_all(text.as_bytes())?;
    std::fs::rename(&fresh, file)
}

fn make_data_dir(dir: &Path) -> Result<(), Failure> {
    std::fs::DirBuilder::new()
        .recursive(true)
        .mode(0o700)
        .create(dir)
        .map_err(|e| Failure::new(format!("the data directory {} cannot be made: {e}", dir.display())))
}

/// SIGTERM and SIGINT stop the server; a second one ends the process at once, which the store survives like a crash.
/// SIGHUP reads the policy and the certificate again.
fn listen_to_signals(
    state: &Arc<AdminState>,
    certificates: Option<Arc<Certificates>>,
) -> Result<watch::Receiver<bool>, Failure> {
    let listen = |kind| signal(kind).map_err(|e| Failure::new(format!("cannot listen to signals: {e}")));
    let (mut terminate, mut interrupt) = (listen(SignalKind::terminate())?, listen(SignalKind::interrupt())?);
    let mut hangup: Signal = listen(SignalKind::hangup())?;
    let (stop, stopping) = watch::channel(false);
    tokio::spawn(async move {
        loop {
            tokio::select! {
                _ = terminate.recv() => {}
                _ = interrupt.recv() => {}
            }
            if stop.send_replace(true) {
                tracing::warn!("second signal: ending at once");
                std::process::exit(i32::from(Exit::Failure as u8));
            }
            tracing::info!("stopping; a second signal ends at once");
        }
    });
    let state = Arc::clone(state);
    tokio::spawn(async move {
        while hangup.recv().await.is_some() {
            if let Some(certificates) = &certificates {
                certificates.reload();
            }
            // Logged, counted and shown by /readyz there.
            let _ = state.reload_policy().await;
        }
    });
    Ok(stopping)
}

pub(super) async fn stopped(mut stop: watch::Receiver<bool>) {
    // An error means that the signals are no longer listened to, which only happens when the runtime ends.
    let _ = stop.wait_for(|stop| *stop).await;
}
