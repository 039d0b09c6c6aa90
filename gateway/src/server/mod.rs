//! The HTTP server: actix carries HTTP/1.1, `http2` HTTP/2, s3s speaks S3 over both.
//!
//! actix's routing is left out on purpose: S3 has no routes that its router could tell apart, and the connection calls
//! `adapter` directly.

mod adapter;
mod body;
mod connections;
mod convert;
mod cors;
pub mod descriptors;
mod expect;
mod form;
mod head;
mod hoisted;
mod http2;
mod listen;
pub mod metrics;
mod pipe;
mod range;
mod rechunk;
pub mod request;
mod settings;
mod sig_v2;
mod signer;
pub mod tls;
mod validity;
mod xml;

pub(crate) use adapter::ReadOnly;
pub use adapter::Transport;
pub(crate) use body::{PlainEtag, VersionOrder};
pub use body::{ResponseBody, ResponseStatus, SendError};
pub(crate) use form::FromForm;
pub(crate) use range::Verified;
pub(crate) use rechunk::MAX_SIGNED_CHUNK;
pub(crate) use settings::S3_MAX_PARTS;
pub use settings::{AccessKey, S3Settings, Secret};

use crate::auth::identity::IdentitySource;
use crate::users::directory::Known;
use crate::users::{Keys, Users};
use actix_web::dev::Server;
use adapter::Shared;
use connections::Connections;
use cors::Cors;
use listen::Listening;
use metrics::HttpMetrics;
use s3s::service::S3Service;
use std::future::Future;
use std::net::{SocketAddr, TcpListener};
use std::sync::Arc;
use std::time::Duration;
use tidegate_tiering::engine::Engine;
use tls::{Certificates, TlsError};
use tokio::sync::watch;

/// Why the S3 endpoint could not start or run.
#[derive(Debug, thiserror::Error)]
pub enum ServerError {
    /// A setting is wrong; the message names it and the way out.
    #[error("s3 settings: {0}")]
    Settings(String),
    /// The address cannot be listened on.
    #[error("cannot listen on {address}: {source}; is another server running there?")]
    Listen {
        /// The address from the settings.
        address: SocketAddr,
        /// What the system said.
        source: std::io::Error,
    },
    /// A metric's name is taken in the registry.
    #[error("cannot register the metrics of the S3 endpoint: {0}")]
    Metrics(#[from] prometheus::Error),
    /// The certificate cannot be used.
    #[error("s3.tls: {0}")]
    Tls(#[from] TlsError),
    /// The server failed while it was running.
    #[error("the S3 endpoint failed: {0}")]
    Run(std::io::Error),
}

/// A bound S3 endpoint: connections queue up in the kernel from now on and are served by [`S3Server::run`].
pub struct S3Server {
    listeners: Listeners,
    address: SocketAddr,
    settings: S3Settings,
    shared: Arc<Shared>,
    certificates: Option<Arc<Certificates>>,
}

/// The sockets of an endpoint.
#[derive(Debug)]
pub struct Listeners {
    main: TcpListener,
    /// TLS beside the plain one.
    tls: Option<TcpListener>,
}

impl Listeners {
    /// Other handles of the same sockets: connections wait in them while no server runs.
    ///
    /// # Errors
    /// The system has no descriptor left.
    pub fn try_clone(&self) -> std::io::Result<Self> {
        let tls = self.tls.as_ref().map(TcpListener::try_clone).transpose()?;
        Ok(Self { main: self.main.try_clone()?, tls })
    }

    /// The address of TLS beside the plain one, with the real port.
    ///
    /// # Errors
    /// The system does not tell it.
    pub fn tls_address(&self) -> std::io::Result<Option<SocketAddr>> {
        self.tls.as_ref().map(TcpListener::local_addr).transpose()
    }
}

impl S3Server {
    /// Checks the settings, listens, registers the metrics. Those who may sign requests are the root keys in the settings.
    ///
    /// # Errors
    /// [`ServerError::Settings`], [`ServerError::Listen`], [`ServerError::Metrics`].
    pub fn bind(settings: S3Settings, engine: Engine, registry: &prometheus::Registry) -> Result<Self, ServerError> {
        let listeners = Self::listen(&settings)?;
        let users = Users::new(Known::of(&settings), None, engine.clone());
        Self::bind_to(listeners, settings, (engine, Arc::new(users)), registry)
    }

    /// As [`S3Server::bind`], for `users`, on listeners of [`S3Server::listen`]. A duplicate of them keeps connections waiting while another
    /// engine is opened.
    ///
    /// # Errors
    /// As [`S3Server::bind`].
    pub fn bind_to(
        listeners: Listeners,
        settings: S3Settings,
        (engine, users): (Engine, Arc<Users>),
        registry: &prometheus::Registry,
    ) -> Result<Self, ServerError> {
        let standby = engine.standby_lag().is_some().then(|| engine.clone());
        let cors = Cors::new(&settings, engine.clone());
        let auth = Arc::new(Keys(Arc::clone(&users)));
        let gateway = crate::s3::Gateway::new(&settings, engine, Arc::clone(&users) as Arc<dyn IdentitySource>);
        let service = crate::s3::service(&settings, gateway, users)?;
        let mut shared = Shared::new(&settings, service, HttpMetrics::new(registry)?, auth).with_cors(cors);
        if let Some(engine) = standby {
            shared = shared.of_standby(engine);
        }
        Self::on(listeners, settings, shared)
    }

    /// Listens as the settings say.
    ///
    /// # Errors
    /// [`ServerError::Settings`], [`ServerError::Listen`].
    pub fn listen(settings: &S3Settings) -> Result<Listeners, ServerError> {
        if let Some(problem) = settings.problem() {
            return Err(ServerError::Settings(problem));
        }
        // Accepted connections inherit it. The kernel has to watch: while a client takes nothing, actix polls neither the
        // response's body nor a timer of ours.
        let write_timeout = settings.write_timeout_seconds.saturating_mul(1000);
        let write_timeout = u32::try_from(write_timeout).unwrap_or(u32::MAX);
        let listen = |address: SocketAddr| {
            let listen_error = |source| ServerError::Listen { address, source };
            let listener = TcpListener::bind(address).map_err(listen_error)?;
            rustix::net::sockopt::set_tcp_user_timeout(&listener, write_timeout).map_err(|e| listen_error(e.into()))?;
            Ok::<_, ServerError>(listener)
        };
        let tls = settings.tls.as_ref().and_then(|tls| tls.listen).map(listen).transpose()?;
        Ok(Listeners { main: listen(settings.listen)?, tls })
    }

    fn on(listeners: Listeners, settings: S3Settings, shared: Shared) -> Result<Self, ServerError> {
        let listen_error = |source| ServerError::Listen { address: settings.listen, source };
        let address = listeners.main.local_addr().map_err(listen_error)?;
        Ok(Self { listeners, address, settings, shared: Arc::new(shared), certificates: None })
    }

    /// With TLS, as the settings' `tls` says.
    #[must_use]
    pub fn with_tls(self, certificates: Option<Arc<Certificates>>) -> Self {
        Self { certificates, ..self }
    }

    /// As [`S3Server::bind`], with another implementation of S3 behind it (see [`crate::s3::service_for_all`]).
    ///
    /// # Errors
    /// As [`S3Server::bind`].
    pub fn bind_service(
        settings: S3Settings,
        service: S3Service,
        registry: &prometheus::Registry,
    ) -> Result<Self, ServerError> {
        let listeners = Self::listen(&settings)?;
        let keys = Arc::new(s3s::auth::SimpleAuth::new());
        let shared = Shared::new(&settings, service, HttpMetrics::new(registry)?, keys);
        Self::on(listeners, settings, shared)
    }

    /// The address that is listened on, with the real port.
    pub fn local_addr(&self) -> SocketAddr {
        self.address
    }

    /// Serves until `shutdown` resolves, then stops accepting, finishes what runs (at most
    /// `shutdown_timeout_seconds`) and returns. Signals are left to the caller.
    ///
    /// Must be polled inside a tokio runtime (an actix `System` is not needed): the workers are threads of their
    /// own, each with a single-threaded runtime, and the engine's methods are called on them. The future is not `Send`.
    ///
    /// # Errors
    /// [`ServerError::Run`].
    pub async fn run(self, shutdown: impl Future<Output = ()>) -> Result<(), ServerError> {
        let settings = Arc::new(self.settings);
        let workers = match settings.workers {
            0 => std::thread::available_parallelism().map_or(1, usize::from),
            workers => workers,
        };
        let connections = Arc::new(Connections::default());
        let (stop, stopping) = watch::channel(false);
        let listening = Listening {
            shared: Arc::clone(&self.shared),
            settings: Arc::clone(&settings),
            connections: Arc::clone(&connections),
            stopping,
        };
        let mut server = Server::build()
            .workers(workers)
            // actix gives all workers together 512 threads for blocking work, and a large upload holds one until it ends:
            // so many slow clients would stop all others. Threads are made when they are needed. Twice, because a request that
            // holds one may for a moment wait for another.
            .worker_max_blocking_threads(settings.max_concurrent_requests.saturating_mul(2))
            .max_concurrent_connections(settings.max_connections.div_ceil(workers))
            .shutdown_timeout(settings.shutdown_timeout_seconds)
            .disable_signals();
        let plain = listening.clone();
        let Listeners { main, tls } = self.listeners;
        server = match (self.certificates, tls) {
            (None, _) => server.listen("s3", main, move || listen::plain(plain.clone())),
            (Some(certificates), None) => {
                server.listen("s3", main, move || listen::tls(listening.clone(), &certificates))
            }
            (Some(certificates), Some(tls)) => server
                .listen("s3", main, move || listen::plain(plain.clone()))
                .and_then(|server| server.listen("s3-tls", tls, move || listen::tls(listening.clone(), &certificates))),
        }
        .map_err(ServerError::Run)?;
        let server = server.run();
        let handle = server.handle();
        let without_request = settings.idle_timeout_seconds.saturating_add(settings.header_timeout_seconds);
        let mut watch = std::pin::pin!(connections.watch(Duration::from_secs(without_request)));
        let mut server = std::pin::pin!(server);
        let mut shutdown = std::pin::pin!(shutdown);
        tokio::select! {
            ended = &mut server => return ended.map_err(ServerError::Run),
            () = &mut watch => {} // it never ends
            () = &mut shutdown => {}
        }
        tracing::info!(in_flight = self.shared.in_flight(), "S3 endpoint stops accepting");
        stop.send_replace(true);
        let ((), ended) = futures::join!(handle.stop(true), server);
        ended.map_err(ServerError::Run)
    }
}
