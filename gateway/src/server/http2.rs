//! HTTP/2, over TLS only.
//!
//! Not actix's own: it bounds neither the streams of a connection nor their headers. All streams of a connection are futures of
//! one task, so that the end of the connection ends them all.

use actix_http::body::MessageBody;
use actix_http::error::PayloadError;
use actix_http::{Payload, Request, Response};
use bytes::Bytes;
use futures::StreamExt;
use futures::stream::FuturesUnordered;
use h2::server::SendResponse;
use h2::{Reason, RecvStream, SendStream};
use http::header;
use std::future::poll_fn;
use std::net::SocketAddr;
use std::pin::{Pin, pin};
use std::sync::Arc;
use std::task::Poll;
use std::time::Duration;
use tidegate_tiering::clock::{Clock, SystemClock};
use tokio::net::TcpStream;
use tokio::sync::oneshot;
use tokio_rustls::server::TlsStream;

use super::adapter::{self, Arrival, Transport};
use super::body::Outgoing;
use super::connections::Connection;
use super::convert;
use super::listen::Listening;
use super::request::TlsVersion;
use super::settings::PARSER_HEADER_BYTES;

/// Bytes of a request's body that a client may send before the store takes them.
const STREAM_WINDOW_BYTES: u32 = 512 * 1024;
/// The same for all streams of a connection.
const CONNECTION_WINDOW_BYTES: u32 = 1024 * 1024;
/// Bytes of an answer that wait for the connection.
const SEND_BUFFER_BYTES: usize = 128 * 1024;
/// Bytes of an answer in one go: small ones of other streams go between.
const FRAME_BYTES: usize = 16 * 1024;

/// Serves the streams of a connection until it ends.
pub(crate) async fn serve(listening: Listening, io: TlsStream<TcpStream>, peer: Option<SocketAddr>) {
    let (socket, tls) = io.get_ref();
    let (watched, tls) = (listening.connections.begun(socket), TlsVersion::of(tls));
    let settings = &listening.settings;
    let mut builder = h2::server::Builder::new();
    builder
        .max_concurrent_streams(settings.max_streams_per_connection)
        // As much as HTTP/1.1 takes, so that the same limit decides and the same error tells.
        .max_header_list_size(u32::try_from(PARSER_HEADER_BYTES).unwrap_or(u32::MAX))
        .initial_window_size(STREAM_WINDOW_BYTES)
        .initial_connection_window_size(CONNECTION_WINDOW_BYTES)
        .max_send_buffer_size(SEND_BUFFER_BYTES);
    let limit = Duration::from_secs(settings.header_timeout_seconds);
    let Ok(Ok(mut connection)) = tokio::time::timeout(limit, builder.handshake::<_, Bytes>(io)).await else { return };
    let mut streams = FuturesUnordered::new();
    let mut stopping = pin!(Listening::stopped(listening.stopping.clone()));
    let mut told = false;
    loop {
        tokio::select! {
            accepted = connection.accept() => match accepted {
                Some(Ok((request, respond))) => {
                    streams.push(Box::pin(stream(listening.clone(), request, respond, (watched.clone(), peer, tls))));
                }
                // Nothing comes or goes any more.
                Some(Err(_)) | None => return,
            },
            Some(()) = streams.next() => {}
            () = &mut stopping, if !told => {
                told = true;
                connection.graceful_shutdown();
            }
        }
    }
}

/// One request and its answer.
async fn stream(
    listening: Listening,
    request: http::Request<RecvStream>,
    mut respond: SendResponse<Bytes>,
    (connection, peer, tls): (Option<Arc<Connection>>, Option<SocketAddr>, TlsVersion),
) {
    let is_head = request.method() == http::Method::HEAD;
    let expects = request
        .headers()
        .get(header::EXPECT)
        .is_some_and(|value| value.as_bytes().eq_ignore_ascii_case(b"100-continue"));
    let (wanted, mut asked) = oneshot::channel();
    let Some(arrival) = arrival(request, connection, (peer, tls), expects.then_some(wanted)) else {
        return respond.send_reset(Reason::PROTOCOL_ERROR);
    };
    let mut call = Box::pin(adapter::handle(Arc::clone(&listening.shared), arrival));
    let mut waiting = expects;
    let answer = loop {
        tokio::select! {
            biased;
            answer = &mut call => break answer,
            // Also when the connection is gone.
            _ = poll_fn(|cx| respond.poll_reset(cx)) => return,
            asked = &mut asked, if waiting => {
                waiting = false;
                if asked.is_ok() {
                    let mut go_on = http::Response::new(());
                    *go_on.status_mut() = http::StatusCode::CONTINUE;
                    let _ = respond.send_informational(go_on);
                }
            }
        }
    };
    let limit = Duration::from_secs(listening.settings.write_timeout_seconds);
    send(answer, respond, is_head, limit).await;
}

/// The request as the adapter takes it.
fn arrival(
    request: http::Request<RecvStream>,
    connection: Option<Arc<Connection>>,
    (peer, tls): (Option<SocketAddr>, TlsVersion),
    wanted: Option<oneshot::Sender<()>>,
) -> Option<Arrival> {
    let (parts, body) = request.into_parts();
    let unsized_body = !body.is_end_stream() && !parts.headers.contains_key(header::CONTENT_LENGTH);
    let body = Incoming(body);
    let mut request = Request::with_payload(Payload::Stream { payload: Box::pin(body) as Pin<Box<_>> });
    let head = request.head_mut();
    head.method = actix_http::Method::from_bytes(parts.method.as_str().as_bytes()).ok()?;
    head.uri = actix_http::Uri::try_from(parts.uri.to_string()).ok()?;
    head.version = actix_http::Version::HTTP_2;
    head.peer_addr = peer;
    convert::request_headers(&parts.headers, &mut head.headers)?;
    let transport = Transport { tls: Some(tls), version: http::Version::HTTP_2 };
    Some(Arrival { request, transport, connection, wanted, unsized_body })
}

/// A request's body; what was taken makes room for more.
struct Incoming(RecvStream);

impl futures::Stream for Incoming {
    type Item = Result<Bytes, PayloadError>;

    fn poll_next(mut self: Pin<&mut Self>, cx: &mut std::task::Context<'_>) -> Poll<Option<Self::Item>> {
        let polled = futures::ready!(self.0.poll_data(cx));
        Poll::Ready(polled.map(|piece| {
            let piece = piece.map_err(broken)?;
            self.0.flow_control().release_capacity(piece.len()).map_err(broken)?;
            Ok(piece)
        }))
    }
}

fn broken(error: h2::Error) -> PayloadError {
    PayloadError::Incomplete(Some(std::io::Error::other(error)))
}

/// Sends an answer. What fails in the middle of it resets the stream: a client never takes a part for the whole.
async fn send(answer: Response<Outgoing>, mut respond: SendResponse<Bytes>, is_head: bool, limit: Duration) {
    let (answer, body) = answer.into_parts();
    let size = body.size();
    let head = head_of(&answer, size);
    let ends = is_head || size.is_eof();
    let Ok(mut stream) = respond.send_response(head, ends) else { return };
    if ends {
        return;
    }
    let mut body = pin!(body);
    loop {
        let next = tokio::select! {
            biased;
            _ = poll_fn(|cx| stream.poll_reset(cx)) => return,
            next = poll_fn(|cx| body.as_mut().poll_next(cx)) => next,
        };
        match next {
            None => {
                let _ = stream.send_data(Bytes::new(), true);
                return;
            }
            // Logged where it arose.
            Some(Err(_)) => return stream.send_reset(Reason::INTERNAL_ERROR),
            Some(Ok(piece)) => {
                if !send_piece(&mut stream, piece, limit).await {
                    return;
                }
            }
        }
    }
}

/// False when nobody takes it.
async fn send_piece(stream: &mut SendStream<Bytes>, mut piece: Bytes, limit: Duration) -> bool {
    while !piece.is_empty() {
        stream.reserve_capacity(piece.len().min(FRAME_BYTES));
        match tokio::time::timeout(limit, poll_fn(|cx| stream.poll_capacity(cx))).await {
            Ok(Some(Ok(room))) => {
                let part = piece.split_to(room.min(piece.len()));
                if !part.is_empty() && stream.send_data(part, false).is_err() {
                    return false;
                }
            }
            Ok(_) => return false,
            Err(_) => {
                stream.send_reset(Reason::CANCEL);
                return false;
            }
        }
    }
    true
}

fn head_of(answer: &Response<()>, size: actix_http::body::BodySize) -> http::Response<()> {
    let mut head = http::Response::new(());
    *head.status_mut() = http::StatusCode::from_u16(answer.status().as_u16()).unwrap_or_default();
    convert::answer_headers(answer.headers(), head.headers_mut());
    if let actix_http::body::BodySize::Sized(length) = size {
        head.headers_mut().insert(header::CONTENT_LENGTH, length.into());
    }
    let now = httpdate::fmt_http_date(SystemClock::default().now().to_system_time());
    if let Ok(now) = http::HeaderValue::try_from(now) {
        head.headers_mut().entry(header::DATE).or_insert(now);
    }
    head
}
