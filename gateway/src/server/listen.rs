//! What a worker does with a connection: TLS or not, HTTP/1.1 or HTTP/2.

use actix_http::body::BoxBody;
use actix_http::error::DispatchError;
use actix_http::{HttpService, Request, Response};
use actix_web::dev::{Service, ServiceFactory, fn_factory, fn_service};
use std::net::SocketAddr;
use std::rc::Rc;
use std::sync::Arc;
use std::time::Duration;
use tokio::io::{AsyncRead, AsyncWrite};
use tokio::net::TcpStream;
use tokio::sync::watch;
use tokio_rustls::TlsAcceptor;
use tokio_rustls::server::TlsStream;

use super::adapter::{self, Arrival, Shared};
use super::connections::{Connection, Connections};
use super::request::TlsVersion;
use super::settings::S3Settings;
use super::tls::Certificates;
use super::{body, expect, http2};

/// What all connections need.
#[derive(Clone)]
pub(crate) struct Listening {
    pub(crate) shared: Arc<Shared>,
    pub(crate) settings: Arc<S3Settings>,
    pub(crate) connections: Arc<Connections>,
    /// True once the server is to stop.
    pub(crate) stopping: watch::Receiver<bool>,
}

/// A connection, in actix's data of it.
#[derive(Debug, Clone)]
pub(crate) struct OnConnection {
    pub(crate) watched: Option<Arc<Connection>>,
    pub(crate) tls: Option<TlsVersion>,
}

impl Listening {
    pub(crate) async fn stopped(mut stopping: watch::Receiver<bool>) {
        // An error means that the server is gone.
        let _ = stopping.wait_for(|stop| *stop).await;
    }

    fn http1<T>(
        &self,
        parts: fn(&T) -> (&TcpStream, Option<TlsVersion>),
    ) -> impl ServiceFactory<(T, Option<SocketAddr>), Config = (), Response = (), Error = DispatchError, InitError = ()>
    + use<T>
    where
        T: AsyncRead + AsyncWrite + Unpin + 'static,
    {
        let (calls, expects) = (Arc::clone(&self.shared), Arc::clone(&self.shared));
        let (connections, stopping) = (Arc::clone(&self.connections), self.stopping.clone());
        HttpService::build()
            .keep_alive(Duration::from_secs(self.settings.idle_timeout_seconds))
            .client_request_timeout(Duration::from_secs(self.settings.header_timeout_seconds))
            // What actix-web's own server has: how long a client may take to end what was refused before it was read.
            .client_disconnect_timeout(Duration::from_secs(1))
            .h1_allow_half_closed(true)
            .h1_write_buffer_size(body::PIECE_BYTES)
            .graceful_shutdown_signal(move || Self::stopped(stopping.clone()))
            .expect(fn_service(move |request: Request| expect::go_on(Arc::clone(&expects), request)))
            .on_connect_ext(move |io: &T, data| {
                let (socket, tls) = parts(io);
                data.insert(OnConnection { watched: connections.begun(socket), tls });
            })
            .h1(fn_service(move |mut request: Request| {
                let shared = Arc::clone(&calls);
                async move {
                    let answer = match expect::begun(&mut request) {
                        Some(call) => call.await,
                        None => adapter::handle(shared, Arrival::of_http1(request)).await,
                    };
                    Ok::<_, Response<BoxBody>>(answer)
                }
            }))
    }
}

/// Serves connections without TLS.
pub(crate) fn plain(
    listening: Listening,
) -> impl ServiceFactory<TcpStream, Config = (), Response = (), Error = DispatchError, InitError = ()> {
    fn_factory(move || {
        let http1 = listening.http1(unsecured).new_service(());
        async move {
            let http1 = Rc::new(http1.await?);
            Ok::<_, ()>(fn_service(move |io: TcpStream| {
                let http1 = Rc::clone(&http1);
                async move {
                    let peer = arrived(&io);
                    http1.call((io, peer)).await
                }
            }))
        }
    })
}

/// Serves connections with TLS.
pub(crate) fn tls(
    listening: Listening,
    certificates: &Certificates,
) -> impl ServiceFactory<TcpStream, Config = (), Response = (), Error = DispatchError, InitError = ()> + use<> {
    let acceptor = TlsAcceptor::from(certificates.config());
    fn_factory(move || {
        let (listening, acceptor) = (listening.clone(), acceptor.clone());
        let http1 = listening.http1(secured).new_service(());
        async move {
            let http1 = Rc::new(http1.await?);
            Ok::<_, ()>(fn_service(move |io: TcpStream| {
                let (http1, listening, acceptor) = (Rc::clone(&http1), listening.clone(), acceptor.clone());
                async move {
                    let peer = arrived(&io);
                    let limit = Duration::from_secs(listening.settings.header_timeout_seconds);
                    let stream = match tokio::time::timeout(limit, acceptor.accept(io)).await {
                        Ok(Ok(stream)) => stream,
                        Ok(Err(error)) => {
                            tracing::debug!(%error, "a TLS handshake failed");
                            return Ok(());
                        }
                        Err(_) => return Ok(()),
                    };
                    if stream.get_ref().1.alpn_protocol() == Some(b"h2") {
                        Box::pin(http2::serve(listening, stream, peer)).await;
                        return Ok(());
                    }
                    http1.call((stream, peer)).await
                }
            }))
        }
    })
}

fn unsecured(io: &TcpStream) -> (&TcpStream, Option<TlsVersion>) {
    (io, None)
}

fn secured(io: &TlsStream<TcpStream>) -> (&TcpStream, Option<TlsVersion>) {
    let (socket, tls) = io.get_ref();
    (socket, Some(TlsVersion::of(tls)))
}

/// Head and body of a small answer in one packet, and none of them held back.
fn arrived(io: &TcpStream) -> Option<SocketAddr> {
    let _ = io.set_nodelay(true);
    io.peer_addr().ok()
}
