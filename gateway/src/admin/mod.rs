//! The admin listener, apart from S3: `/metrics`, `/livez` and `/readyz` for everybody who reaches it, and a JSON API for
//! the command line and for operators.
//!
//! Who may use the API: the owner of the process by way of the Unix socket (mode 0600), and, when `admin.token` is set,
//! whoever shows that token on TCP. Without a token, TCP has the three open paths and nothing else.

pub mod api;
mod error;
mod fsck;
mod metrics;
mod state;
pub mod users;

pub use error::{ApiError, ErrorBody, POLICY};
pub use metrics::GatewayMetrics;
pub use state::{AdminState, Phase, Readiness, Reloaded};

use crate::config::AdminSettings;
use crate::server::Secret;
use actix_web::body::MessageBody;
use actix_web::dev::{Server, ServerHandle, ServiceRequest, ServiceResponse};
use actix_web::http::header::AUTHORIZATION;
use actix_web::middleware::{DefaultHeaders, Next, from_fn};
use actix_web::{App, HttpRequest, HttpResponse, HttpServer, web};
use sha2::{Digest, Sha256};
use std::net::{SocketAddr, TcpListener};
use std::os::unix::net::{UnixListener, UnixStream};
use std::path::{Path, PathBuf};
use std::sync::Arc;

/// Largest request body of the API, in bytes.
const MAX_BODY_BYTES: usize = 64 * 1024;
/// Longest path of a Unix socket in bytes: `sun_path` of Linux without its final zero.
pub const MAX_SOCKET_PATH: usize = 107;
/// How long running admin requests may take to end at shutdown.
const SHUTDOWN_SECONDS: u64 = 5;

/// Why the admin listener could not start.
#[derive(Debug, thiserror::Error)]
pub enum AdminError {
    /// The TCP address cannot be listened on.
    #[error("the admin address {0} cannot be listened on: {1}; set admin.listen to another one")]
    Address(SocketAddr, std::io::Error),
    /// The socket cannot be made.
    #[error("the admin socket {0} cannot be made: {1}; set admin.socket to another path")]
    Socket(PathBuf, std::io::Error),
    /// Somebody answers there.
    #[error("{1} serves this data: it answers at {0}; stop it first, or name another data_dir and admin.socket")]
    Running(PathBuf, String),
}

/// Who may use the API on a listener.
#[derive(Debug, Clone)]
enum Access {
    /// Everybody who reaches it: the socket's mode has decided.
    All,
    /// Who shows the token with this digest.
    Token([u8; 32]),
    /// Nobody.
    None,
}

/// A bound admin listener.
#[derive(Debug)]
pub struct AdminServer {
    tcp: TcpListener,
    unix: UnixListener,
    address: SocketAddr,
    socket: PathBuf,
    token: Option<Secret>,
}

impl AdminServer {
    /// Binds both listeners. A socket file that nobody answers at is replaced.
    ///
    /// # Errors
    /// An address that is taken, a path that cannot be used, a server that is running.
    pub fn bind(settings: &AdminSettings, socket: PathBuf) -> Result<Self, AdminError> {
        // First: of two servers with one configuration the second should hear of the first, not of an address.
        not_running(&socket)?;
        let at = |e| AdminError::Address(settings.listen, e);
        let tcp = TcpListener::bind(settings.listen).map_err(at)?;
        let address = tcp.local_addr().map_err(at)?;
        let unix = bind_socket(&socket)?;
        Ok(Self { tcp, unix, address, socket, token: settings.token.clone() })
    }

    /// The TCP address, with the real port.
    pub fn address(&self) -> SocketAddr {
        self.address
    }

    /// Serves until the returned handle is stopped. Must be called inside a tokio runtime.
    ///
    /// # Errors
    /// The listeners cannot be used.
    pub fn run(self, state: &Arc<AdminState>) -> Result<RunningAdmin, AdminError> {
        let access = match &self.token {
            Some(token) => Access::Token(digest(token.expose())),
            None => Access::None,
        };
        let (address, path) = (self.address, self.socket.clone());
        let tcp = serve(state, access, Listener::Tcp(self.tcp)).map_err(|e| AdminError::Address(address, e))?;
        let unix = serve(state, Access::All, Listener::Unix(self.unix)).map_err(|e| AdminError::Socket(path, e))?;
        Ok(RunningAdmin { socket: self.socket, handles: [tcp, unix].map(spawn) })
    }
}

enum Listener {
    Tcp(TcpListener),
    Unix(UnixListener),
}

fn serve(state: &Arc<AdminState>, access: Access, listener: Listener) -> std::io::Result<Server> {
    let state = web::Data::from(Arc::clone(state));
    let test_day = state.config().lifecycle.test_day();
    let server = HttpServer::new(move || {
        let mut headers = DefaultHeaders::new();
        if let Some(seconds) = test_day {
            headers = headers.add(("x-tidegate-test-settings", format!("lifecycle.seconds_per_day={seconds}")));
        }
        App::new()
            .wrap(headers)
            .app_data(state.clone())
            .app_data(web::PayloadConfig::new(MAX_BODY_BYTES))
            .app_data(web::QueryConfig::default().error_handler(|e, _| ApiError::invalid(e.to_string()).into()))
            .app_data(access.clone())
            .configure(api::open)
            .service(web::scope("").wrap(from_fn(authorize)).configure(api::guarded).default_service(web::to(nothing)))
    })
    .workers(1)
    .shutdown_timeout(SHUTDOWN_SECONDS)
    .disable_signals();
    let server = match listener {
        Listener::Tcp(listener) => server.listen(listener)?,
        Listener::Unix(listener) => server.listen_uds(listener)?,
    };
    Ok(server.run())
}

async fn nothing(request: HttpRequest) -> Result<HttpResponse, ApiError> {
    Err(ApiError::not_found(format!("there is no {} {} here", request.method(), request.path())))
}

/// Lets a request pass, or answers 401.
async fn authorize(
    request: ServiceRequest,
    next: Next<impl MessageBody + 'static>,
) -> Result<ServiceResponse<impl MessageBody>, actix_web::Error> {
    let allowed = match request.app_data::<Access>() {
        Some(Access::All) => Ok(()),
        Some(Access::Token(expected)) => match bearer(&request) {
            // Digests are compared, so that the time tells nothing about the token.
            Some(token) if digest(token) == *expected => Ok(()),
            _ => Err(ApiError::unauthorized("this needs the header authorization: Bearer <admin.token>")),
        },
        Some(Access::None) | None => {
            let message =
                "on TCP this needs admin.token to be set; without it, use the admin socket in the data directory";
            Err(ApiError::unauthorized(message))
        }
    };
    // A path that does not exist is no secret: it gets its 404.
    if request.match_pattern().is_some() {
        allowed?;
    }
    next.call(request).await
}

fn bearer(request: &ServiceRequest) -> Option<&str> {
    request.headers().get(AUTHORIZATION)?.to_str().ok()?.strip_prefix("Bearer ").map(str::trim)
}

fn spawn(server: Server) -> ServerHandle {
    let handle = server.handle();
    tokio::spawn(async move {
        if let Err(error) = server.await {
            tracing::error!(%error, "the admin listener failed");
        }
    });
    handle
}

/// Listeners at work.
pub struct RunningAdmin {
    socket: PathBuf,
    handles: [ServerHandle; 2],
}

impl RunningAdmin {
    /// Finishes running requests (bounded), closes the listeners, removes the socket.
    pub async fn stop(self) {
        futures::future::join_all(self.handles.iter().map(|h| h.stop(true))).await;
        if let Err(error) = std::fs::remove_file(&self.socket) {
            tracing::warn!(%error, socket = %self.socket.display(), "the admin socket was not removed");
        }
    }
}

/// An error that says who listens at `path`; else the path itself when a process that was killed has left a socket there.
fn not_running(path: &Path) -> Result<Option<&Path>, AdminError> {
    match UnixStream::connect(path) {
        Ok(stream) => {
            let peer = rustix::net::sockopt::socket_peercred(&stream);
            let who =
                peer.map_or("another process".to_owned(), |peer| format!("process {}", peer.pid.as_raw_nonzero()));
            Err(AdminError::Running(path.to_owned(), who))
        }
        Err(e) => Ok((e.kind() == std::io::ErrorKind::ConnectionRefused).then_some(path)),
    }
}

fn bind_socket(path: &Path) -> Result<UnixListener, AdminError> {
    let failed = |e| AdminError::Socket(path.to_owned(), e);
    let length = path.as_os_str().len();
    if length > MAX_SOCKET_PATH {
        let message = format!("its path has {length} bytes and may have {MAX_SOCKET_PATH}");
        return Err(failed(std::io::Error::new(std::io::ErrorKind::InvalidInput, message)));
    }
    if let Some(leftover) = not_running(path)? {
        std::fs::remove_file(leftover).map_err(failed)?;
    }
    // With a mode set after binding there would be a moment in which others may connect.
    let before = rustix::process::umask(rustix::fs::Mode::from_raw_mode(0o177));
    let bound = UnixListener::bind(path);
    rustix::process::umask(before);
    bound.map_err(failed)
}

fn digest(token: &str) -> [u8; 32] {
    Sha256::digest(token.as_bytes()).into()
}

#[cfg(test)]
mod tests;
