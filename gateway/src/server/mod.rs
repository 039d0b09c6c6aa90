//! The HTTP server: actix-web carries HTTP/1.1, s3s speaks S3 over it.
//!
//! actix's routing is left out on purpose: S3 has no routes that its router could tell apart, and the connection calls
//! `adapter` directly.

mod adapter;
mod body;
mod connections;
mod convert;
pub mod descriptors;
mod hoisted;
pub mod metrics;
mod pipe;
mod range;
mod rechunk;
pub mod request;
mod settings;
mod xml;

pub(crate) use adapter::ReadOnly;
pub(crate) use body::PlainEtag;
pub use body::{ResponseBody, ResponseStatus, SendError};
pub(crate) use range::Verified;
pub(crate) use rechunk::MAX_SIGNED_CHUNK;
pub(crate) use settings::S3_MAX_PARTS;
pub use settings::{AccessKey, S3Settings, Secret};

use crate::auth::identity::IdentitySource;
use crate::users::Users;
use crate::users::directory::Known;
use adapter::Shared;
use connections::Connections;
use metrics::HttpMetrics;
use s3s::service::S3Service;
use std::convert::Infallible;
use std::future::Future;
use std::net::{SocketAddr, TcpListener};
use std::sync::Arc;
use std::time::Duration;
use tidegate_tiering::engine::Engine;

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
    /// The server failed while it was running.
    #[error("the S3 endpoint failed: {0}")]
    Run(std::io::Error),
}

/// A bound S3 endpoint: connections queue up in the kernel from now on and are served by [`S3Server::run`].
pub struct S3Server {
    listener: TcpListener,
    address: SocketAddr,
    settings: S3Settings,
    shared: Arc<Shared>,
}

impl S3Server {
    /// Checks the settings, listens, registers the metrics. Those who may sign requests are the root keys in the settings.
    ///
    /// # Errors
    /// [`ServerError::Settings`], [`ServerError::Listen`], [`ServerError::Metrics`].
    pub fn bind(settings: S3Settings, engine: Engine, registry: &prometheus::Registry) -> Result<Self, ServerError> {
        let listener = Self::listen(&settings)?;
        let users = Users::new(Known::of(&settings), None, engine.clone());
        Self::bind_to(listener, settings, (engine, Arc::new(users)), registry)
    }

    /// As [`S3Server::bind`], for `users`, on a listener of [`S3Server::listen`]. A duplicate of it keeps connections waiting while another
    /// engine is opened.
    ///
    /// # Errors
    /// As [`S3Server::bind`].
    pub fn bind_to(
        listener: TcpListener,
        settings: S3Settings,
        (engine, users): (Engine, Arc<Users>),
        registry: &prometheus::Registry,
    ) -> Result<Self, ServerError> {
        let standby = engine.standby_lag().is_some().then(|| engine.clone());
        let gateway = crate::s3::Gateway::new(&settings, engine, Arc::clone(&users) as Arc<dyn IdentitySource>);
        let service = crate::s3::service(&settings, gateway, users)?;
        let mut shared = Shared::new(&settings, service, HttpMetrics::new(registry)?);
        if let Some(engine) = standby {
            shared = shared.of_standby(engine);
        }
        Self::on(listener, settings, shared)
    }

    /// Listens as the settings say.
    ///
    /// # Errors
    /// [`ServerError::Settings`], [`ServerError::Listen`].
    pub fn listen(settings: &S3Settings) -> Result<TcpListener, ServerError> {
        if let Some(problem) = settings.problem() {
            return Err(ServerError::Settings(problem));
        }
        let listen_error = |source| ServerError::Listen { address: settings.listen, source };
        let listener = TcpListener::bind(settings.listen).map_err(listen_error)?;
        // Accepted connections inherit it. The kernel has to watch: while a client takes nothing, actix polls neither the
        // response's body nor a timer of ours.
        let write_timeout = settings.write_timeout_seconds.saturating_mul(1000);
        let write_timeout = u32::try_from(write_timeout).unwrap_or(u32::MAX);
        rustix::net::sockopt::set_tcp_user_timeout(&listener, write_timeout).map_err(|e| listen_error(e.into()))?;
        Ok(listener)
    }

    fn on(listener: TcpListener, settings: S3Settings, shared: Shared) -> Result<Self, ServerError> {
        let listen_error = |source| ServerError::Listen { address: settings.listen, source };
        let address = listener.local_addr().map_err(listen_error)?;
        Ok(Self { listener, address, settings, shared: Arc::new(shared) })
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
        let listener = Self::listen(&settings)?;
        let shared = Shared::new(&settings, service, HttpMetrics::new(registry)?);
        Self::on(listener, settings, shared)
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
        let shared = Arc::clone(&self.shared);
        let settings = &self.settings;
        let workers = match settings.workers {
            0 => std::thread::available_parallelism().map_or(1, usize::from),
            workers => workers,
        };
        let factory = move || {
            let shared = Arc::clone(&shared);
            actix_web::dev::fn_service(move |request: actix_http::Request| {
                let shared = Arc::clone(&shared);
                async move { Ok::<_, Infallible>(adapter::handle(shared, request).await) }
            })
        };
        let connections = Arc::new(Connections::default());
        let begun = Arc::clone(&connections);
        let server = actix_web::HttpServer::new(factory)
            .on_connect(move |socket, data| {
                if let Some(connection) = begun.begun(socket) {
                    data.insert(connection);
                }
            })
            .workers(workers)
            // actix gives all workers together 512 threads for blocking work, and a large upload holds one until it ends:
            // so many slow clients would stop all others. Threads are made when they are needed. Twice, because a request that
            // holds one may for a moment wait for another.
            .worker_max_blocking_threads(settings.max_concurrent_requests.saturating_mul(2))
            .max_connections(settings.max_connections.div_ceil(workers))
            .keep_alive(Duration::from_secs(settings.idle_timeout_seconds))
            .client_request_timeout(Duration::from_secs(settings.header_timeout_seconds))
            .shutdown_timeout(settings.shutdown_timeout_seconds)
            .h1_write_buffer_size(body::PIECE_BYTES)
            .tcp_nodelay(true)
            .disable_signals()
            .listen(self.listener)
            .map_err(ServerError::Run)?
            .run();
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
        let ((), ended) = futures::join!(handle.stop(true), server);
        ended.map_err(ServerError::Run)
    }
}
