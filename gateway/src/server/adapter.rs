//! One HTTP request through s3s and back.
//!
//! The s3s call is polled on the connection's own worker: a GET or HEAD never changes threads. A request body is
//! pumped by the same task while the call waits, so that nothing is spawned and a closed connection drops both.

use actix_http::{Request, Response, StatusCode};
use bytes::Bytes;
use futures::FutureExt;
use http::header;
use s3s::auth::S3Auth;
use s3s::service::S3Service;
use s3s::stream::DynByteStream;
use s3s::{Body, S3Error, s3_error};
use sha2::{Digest, Sha256};
use std::future::{Future, poll_fn};
use std::net::IpAddr;
use std::panic::AssertUnwindSafe;
use std::pin::{Pin, pin};
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::time::{Duration, Instant};
use tidegate_tiering::buffer::BufferPool;
use tidegate_tiering::engine::Engine;
use tracing::Instrument;

use super::body::{
    ACCESS, Content, FREE_BUFFERS, GATHER_BYTES, InFlight, Incoming, LogLine, Outgoing, PlainEtag, ResponseBody,
    ResponseStatus, VersionOrder,
};
use super::connections::Connection;
use super::convert;
use super::cors::Cors;
use super::expect::Wanted;
use super::form::{self, Forms};
use super::head::{self, BodyLength, Limits};
use super::listen::OnConnection;
use super::metrics::{HttpMetrics, Operation};
use super::pipe::pipe;
use super::range;
use super::rechunk::Rechunked;
use super::request::{BodyFailure, RequestContext, RequestIds, TlsVersion, random};
use super::settings::S3Settings;
use super::sig_v2;
use super::xml::{self, Whole};
use crate::s3::access::Domains;
use crate::sts;

/// Bodies up to this many bytes are taken in whole before the call: one piece in most cases, and no pipe.
const INLINE_BODY_BYTES: u64 = 64 * 1024;

/// The status under which a request is counted whose client went away before it was answered (as nginx has it): nothing
/// that the server did wrong.
const CLIENT_GONE: u16 = 499;

/// How a request came: in the extensions of requests to s3s, for rules that ask for it.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Transport {
    /// The version of TLS to this very server; none without: what a proxy says in `x-forwarded-proto` is not believed.
    pub tls: Option<TlsVersion>,
    /// The version of HTTP.
    pub version: http::Version,
}

/// A request as it came in.
pub(crate) struct Arrival {
    pub(crate) request: Request,
    pub(crate) transport: Transport,
    pub(crate) connection: Option<Arc<Connection>>,
    /// The client sends the body once this was told.
    pub(crate) wanted: Option<Wanted>,
    /// The body ends where its stream does, and no header says so.
    pub(crate) unsized_body: bool,
}

impl Arrival {
    pub(crate) fn of_http1(request: Request) -> Self {
        let on = request.conn_data::<OnConnection>();
        let version = match request.version() {
            actix_http::Version::HTTP_10 => http::Version::HTTP_10,
            _ => http::Version::HTTP_11,
        };
        let transport = Transport { tls: on.and_then(|on| on.tls), version };
        let connection = on.and_then(|on| on.watched.clone());
        Self { request, transport, connection, wanted: None, unsized_body: false }
    }
}

/// What all workers share.
pub(crate) struct Shared {
    service: S3Service,
    metrics: Arc<HttpMetrics>,
    in_flight: Arc<AtomicUsize>,
    ids: RequestIds,
    host_id: String,
    host_id_header: actix_http::header::HeaderValue,
    max_in_flight: usize,
    limits: Limits,
    max_xml_bytes: usize,
    body_channel_bytes: usize,
    buffers: BufferPool,
    stall: Duration,
    forms: Forms,
    auth: Arc<dyn S3Auth>,
    domains: Domains,
    /// None where no engine is behind the service.
    cors: Option<Cors>,
    /// The engine of a standby: what it answers may be old, and it takes no writes.
    standby: Option<Engine>,
}

/// In the extensions of requests to a standby.
#[derive(Debug, Clone, Copy)]
pub(crate) struct ReadOnly;

/// By how many milliseconds the answer of a standby may be behind what was shipped.
const STANDBY_LAG: actix_http::header::HeaderName =
    actix_http::header::HeaderName::from_static("x-tidegate-standby-lag-ms");

impl Shared {
    /// `auth` knows the keys of forms and of signatures that s3s does not check.
    pub(crate) fn new(settings: &S3Settings, service: S3Service, metrics: HttpMetrics, auth: Arc<dyn S3Auth>) -> Self {
        let host_id = format!("{:016x}{:016x}", random(), random());
        Self {
            service,
            metrics: Arc::new(metrics),
            in_flight: Arc::new(AtomicUsize::new(0)),
            ids: RequestIds::default(),
            host_id_header: actix_http::header::HeaderValue::from_str(&host_id)
                .unwrap_or_else(|_| actix_http::header::HeaderValue::from_static("-")),
            host_id,
            max_in_flight: settings.max_concurrent_requests,
            limits: Limits { max_header_bytes: settings.max_header_bytes },
            max_xml_bytes: settings.max_xml_bytes,
            body_channel_bytes: settings.body_channel_bytes,
            buffers: BufferPool::new(GATHER_BYTES, FREE_BUFFERS),
            stall: Duration::from_secs(settings.body_read_timeout_seconds),
            forms: Forms::new(settings, Arc::clone(&auth)),
            auth,
            domains: Domains::new(&settings.domains),
            cors: None,
            standby: None,
        }
    }

    /// The same with the rules of the engine's buckets for pages of other origins.
    pub(crate) fn with_cors(self, cors: Cors) -> Self {
        Self { cors: Some(cors), ..self }
    }

    /// The same for a standby.
    pub(crate) fn of_standby(self, engine: Engine) -> Self {
        Self { standby: Some(engine), ..self }
    }

    /// The header that says how old an answer may be; `unknown` before the first look at the tier.
    fn lag(&self) -> Option<actix_http::header::HeaderValue> {
        let lag = self.standby.as_ref()?.standby_lag()?;
        Some(match u64::try_from(lag.as_millis()) {
            Ok(ms) if lag < Duration::MAX => ms.into(),
            _ => actix_http::header::HeaderValue::from_static("unknown"),
        })
    }

    /// Requests in progress.
    pub(crate) fn in_flight(&self) -> usize {
        self.in_flight.load(Ordering::Acquire)
    }

    fn enter(&self, peer: Option<IpAddr>, tls: Option<TlsVersion>) -> (InFlight, bool) {
        let before = self.in_flight.fetch_add(1, Ordering::AcqRel);
        self.metrics.in_flight.inc();
        let context = Arc::new(RequestContext::new(self.ids.next()).from_peer(peer, tls));
        let in_flight = InFlight {
            count: Arc::clone(&self.in_flight),
            metrics: Arc::clone(&self.metrics),
            context,
            started: Instant::now(),
            status: CLIENT_GONE,
            sent: 0,
            line: None,
            running: None,
        };
        (in_flight, before < self.max_in_flight)
    }
}

/// Answers a request.
pub(crate) async fn handle(shared: Arc<Shared>, arrival: Arrival) -> Response<Outgoing> {
    let Arrival { mut request, transport, connection, wanted, unsized_body } = arrival;
    let (mut in_flight, admitted) = shared.enter(request.head().peer_addr.map(|peer| peer.ip()), transport.tls);
    if tracing::enabled!(target: ACCESS, tracing::Level::DEBUG) {
        in_flight.line = Some(LogLine::new(request.head()));
    }
    in_flight.running = connection.as_ref().map(Connection::request);
    let context = Arc::clone(&in_flight.context);
    let span = tracing::info_span!("s3", request_id = %context.id());
    let payload = request.take_payload();
    let incoming = Incoming {
        payload,
        stall: shared.stall,
        metrics: Arc::clone(&shared.metrics),
        context: Arc::clone(&context),
        buffers: shared.buffers.clone(),
        wanted,
    };
    let answer = if admitted {
        call(&shared, &request, (transport, unsized_body), incoming).instrument(span).await
    } else {
        let mut error = s3_error!(SlowDown, "Too many requests are in progress; reduce the rate.");
        error.set_headers(retry_after());
        error_response(error)
    };
    let is_head = *request.method() == actix_http::Method::HEAD;
    finish(&shared, answer, in_flight, request.head(), is_head)
}

fn retry_after() -> http::HeaderMap {
    let mut headers = http::HeaderMap::new();
    headers.insert(header::RETRY_AFTER, http::HeaderValue::from_static("1"));
    headers.insert(header::CONTENT_TYPE, http::HeaderValue::from_static("application/xml"));
    headers
}

fn error_response(error: S3Error) -> http::Response<Body> {
    error.to_http_response().unwrap_or_else(|_| {
        let mut response = http::Response::new(Body::empty());
        *response.status_mut() = http::StatusCode::INTERNAL_SERVER_ERROR;
        response
    })
}

async fn call(
    shared: &Shared,
    request: &Request,
    (transport, unsized_body): (Transport, bool),
    incoming: Incoming,
) -> http::Response<Body> {
    match head::checked(&shared.limits, request.head(), unsized_body) {
        Ok((mut to_s3s, length)) => {
            to_s3s.extensions_mut().insert(transport);
            to_s3s.extensions_mut().insert(Arc::clone(&incoming.context));
            if shared.standby.is_some() {
                to_s3s.extensions_mut().insert(ReadOnly);
            }
            if let Some(cors) = shared.cors.as_ref().filter(|_| *to_s3s.method() == http::Method::OPTIONS) {
                incoming.context.set_operation(Operation::Preflight);
                return cors.preflight(&to_s3s).unwrap_or_else(error_response);
            }
            let beside = shared.cors.as_ref().and_then(|cors| cors.beside(&to_s3s));
            let (method, uri) = (to_s3s.method().clone(), to_s3s.uri().clone());
            let context = Arc::clone(&incoming.context);
            let is_sts = sts::is_call(&method, &uri, to_s3s.headers());
            let answering = AssertUnwindSafe(with_body(shared, to_s3s, length, incoming));
            let answer = answering.catch_unwind().await.unwrap_or_else(|_| panicked());
            let answer = explain_body_failure(answer, &context);
            let mut answer = match is_sts {
                true => sts::as_of_sts(answer, &context.id().to_string()),
                false => explain_unknown(answer, &method, &uri),
            };
            answer.headers_mut().extend(beside.into_iter().flatten());
            answer
        }
        Err(error) => error_response(error),
    }
}

/// No panic is part of a plan, but s3s has some for odd requests: one ends its request, not the connection with all that wait on it.
fn panicked() -> http::Response<Body> {
    tracing::error!("the request made the server panic; where, stands before this line");
    error_response(s3_error!(InternalError, "The server failed; its log has the reason under this request id."))
}

async fn with_body(
    shared: &Shared,
    mut request: http::Request<Body>,
    length: BodyLength,
    mut incoming: Incoming,
) -> http::Response<Body> {
    if form::is_form(request.method(), request.uri(), request.headers()) {
        return with_form(shared, request, incoming).await;
    }
    if let Err(error) = sig_v2::refuse_second_way(request.uri(), request.headers()) {
        return error_response(error);
    }
    if sig_v2::is_concerned(request.uri(), request.headers()) {
        let anew = sig_v2::signed_anew(request, &*shared.auth, &shared.domains, &incoming.context).await;
        request = match anew {
            Ok(anew) => anew,
            Err(error) => return error_response(error),
        };
    }
    let method = request.method().clone();
    form::hide_type(&method, request.headers_mut());
    let announced = match length {
        BodyLength::Known(0) => {
            drop(incoming);
            let without_range = range::without(&request);
            let answer = respond(shared.service.call(request).await);
            return match without_range {
                // s3s reads headers only once it has found the signature right.
                Some(again) if range::is_refused(&answer) => respond(shared.service.call(again).await),
                _ => answer,
            };
        }
        // A client that waits to be asked is asked when s3s reads, which only the pipe can tell.
        BodyLength::Known(length) if length <= INLINE_BODY_BYTES && incoming.wanted.is_none() => {
            let expected = usize::try_from(length).unwrap_or(usize::MAX);
            return match incoming.collect(expected).await {
                Ok(bytes) => with_small_body(shared, request, bytes, &incoming.context).await,
                Err(error) => error_response(s3_error!(IncompleteBody, "{error}")),
            };
        }
        BodyLength::Known(length) => Some(length),
        BodyLength::Unknown => None,
    };
    let (writer, reader) = pipe(shared.body_channel_bytes, announced);
    let context = Arc::clone(&incoming.context);
    let body: DynByteStream = match xml::Announced::of(&request, shared.max_xml_bytes) {
        _ if is_aws_chunked(request.headers()) => Box::pin(Rechunked::new(reader, context)),
        Some(xml) => Box::pin(Whole::new(reader, xml, context)),
        None => Box::pin(reader),
    };
    *request.body_mut() = Body::from(body);
    let answered = both(incoming.pump(writer), shared.service.call(request)).await;
    respond(answered)
}

/// A form is read up to its file, and goes on as the PutObject that it describes.
async fn with_form(shared: &Shared, request: http::Request<Body>, incoming: Incoming) -> http::Response<Body> {
    let (writer, reader) = pipe(shared.body_channel_bytes, None);
    let context = Arc::clone(&incoming.context);
    let tls = request.extensions().get::<Transport>().is_some_and(|transport| transport.tls.is_some());
    let answering = async {
        let (mut put, wish) = match shared.forms.put((&request, tls), reader, context).await {
            Ok(put) => put,
            Err(error) => return error_response(error),
        };
        let mut extensions = request.extensions().clone();
        extensions.extend(std::mem::take(put.extensions_mut()));
        *put.extensions_mut() = extensions;
        wish.answer(respond(shared.service.call(put).await))
    };
    both(incoming.pump(writer), answering).await
}

async fn with_small_body(
    shared: &Shared,
    mut request: http::Request<Body>,
    bytes: Bytes,
    context: &Arc<RequestContext>,
) -> http::Response<Body> {
    let xml = xml::Announced::of(&request, shared.max_xml_bytes).filter(|_| !is_aws_chunked(request.headers()));
    if let Some(xml) = xml {
        let body: DynByteStream = Box::pin(Whole::new(futures::stream::iter([Ok(bytes)]), xml, Arc::clone(context)));
        *request.body_mut() = Body::from(body);
        return respond(shared.service.call(request).await);
    }
    let hash = request.headers().get("x-amz-content-sha256").cloned();
    *request.body_mut() = Body::from(bytes.clone());
    explain_other_body(respond(shared.service.call(request).await), hash.as_ref(), &bytes)
}

/// Whether s3s takes the body for one in `aws-chunked` framing. With another signature than that of version 4 in a header it
/// does not, and the body is left as it is.
fn is_aws_chunked(headers: &http::HeaderMap) -> bool {
    let starts = |name: &str, with: &[u8]| headers.get(name).is_some_and(|value| value.as_bytes().starts_with(with));
    starts("x-amz-content-sha256", b"STREAMING-") && starts("authorization", b"AWS4-HMAC-SHA256")
}

/// Polls the pump along with the call and gives what the call gives.
async fn both<T>(pump: impl Future<Output = ()>, call: impl Future<Output = T>) -> T {
    let mut pump = pin!(pump);
    let mut call: Pin<Box<_>> = Box::pin(call);
    let mut pumping = true;
    poll_fn(|cx| {
        if pumping && pump.as_mut().poll(cx).is_ready() {
            pumping = false;
        }
        let polled = call.as_mut().poll(cx);
        if polled.is_pending() && pumping && pump.as_mut().poll(cx).is_ready() {
            // The call may just have made room.
            pumping = false;
            return call.as_mut().poll(cx);
        }
        polled
    })
    .await
}

fn respond(answered: Result<http::Response<Body>, s3s::HttpError>) -> http::Response<Body> {
    answered.unwrap_or_else(|error| {
        tracing::error!(?error, "the answer could not be written as XML");
        error_response(s3_error!(InternalError))
    })
}

/// s3s says "unknown operation" and no more where it has no route.
fn explain_unknown(answer: http::Response<Body>, method: &http::Method, uri: &http::Uri) -> http::Response<Body> {
    let unknown = answer.status() == http::StatusCode::NOT_IMPLEMENTED
        && answer.body().bytes().is_some_and(|xml| convert::contains(&xml, b"<Message>Unknown operation<"));
    if unknown { error_response(crate::s3::parameters::not_implemented(method, uri)) } else { answer }
}

/// s3s reports an XML body that is not the one that was signed as an internal error.
fn explain_other_body(
    answer: http::Response<Body>,
    hash: Option<&http::HeaderValue>,
    bytes: &[u8],
) -> http::Response<Body> {
    let signed = hash.map(http::HeaderValue::as_bytes).filter(|hash| hash.len() == 64);
    match signed {
        Some(hash) if answer.status() == http::StatusCode::INTERNAL_SERVER_ERROR => {
            let real: String = Sha256::digest(bytes).iter().map(|byte| format!("{byte:02x}")).collect();
            if hash.eq_ignore_ascii_case(real.as_bytes()) {
                return answer;
            }
            error_response(crate::s3::error::body_failure(BodyFailure::Sha256Mismatch))
        }
        _ => answer,
    }
}

/// s3s reports a body that it could not read as an internal error; the client deserves the real reason.
fn explain_body_failure(answer: http::Response<Body>, context: &RequestContext) -> http::Response<Body> {
    match context.body_failure() {
        Some(failure) if answer.status().is_server_error() || context.operation() == Operation::Unknown => {
            error_response(crate::s3::error::body_failure(failure))
        }
        _ => answer,
    }
}

fn finish(
    shared: &Shared,
    answer: http::Response<Body>,
    mut in_flight: InFlight,
    head: &actix_http::RequestHead,
    is_head: bool,
) -> Response<Outgoing> {
    let (mut parts, body) = answer.into_parts();
    if let Some(ResponseStatus(status)) = parts.extensions.remove().filter(|_| parts.status.is_success()) {
        parts.status = status;
    }
    let status = parts.status.as_u16();
    let id = in_flight.context.id().to_string();
    in_flight.status = status;
    if status >= 400 {
        let code = body.bytes().and_then(|xml| convert::error_code(&xml).map(|code| shared.metrics.failed(code)));
        in_flight.line.get_or_insert_with(|| LogLine::new(head)).code = code;
    }
    let content = content(shared, &parts, body, is_head, (head.uri.path(), &id));
    let status = StatusCode::from_u16(status).unwrap_or(StatusCode::INTERNAL_SERVER_ERROR);
    let mut response = Response::with_body(status, Outgoing { content, in_flight });
    let headers = response.headers_mut();
    convert::response_headers(&parts.headers, headers);
    if let Ok(value) = actix_http::header::HeaderValue::from_str(&id) {
        headers.insert(actix_http::header::HeaderName::from_static("x-amz-request-id"), value);
    }
    headers.insert(actix_http::header::HeaderName::from_static("x-amz-id-2"), shared.host_id_header.clone());
    if let Some(lag) = shared.lag() {
        headers.insert(STANDBY_LAG, lag);
    }
    response
}

fn content(
    shared: &Shared,
    parts: &http::response::Parts,
    body: Body,
    is_head: bool,
    (path, id): (&str, &str),
) -> Content {
    let announced = parts.headers.get(header::CONTENT_LENGTH).and_then(|value| value.to_str().ok()?.parse().ok());
    if is_head {
        return match announced {
            Some(length) if parts.status.is_success() => Content::HeadOf(length),
            _ if parts.status.is_success() => Content::HeadOf(0),
            _ => Content::None,
        };
    }
    if matches!(parts.status.as_u16(), 204 | 304) {
        return Content::None;
    }
    if let Some(body) = parts.extensions.get::<ResponseBody>().and_then(ResponseBody::take) {
        return Content::Engine { body, piece: Bytes::new(), left: announced.unwrap_or(0), turn: 0 };
    }
    match body.bytes() {
        Some(xml) if parts.status.as_u16() >= 400 => {
            Content::Whole(convert::complete_error_xml(&xml, path, id, &shared.host_id).into())
        }
        Some(xml) if parts.extensions.get::<PlainEtag>().is_some() => Content::Whole(convert::plain_etag(&xml).into()),
        Some(xml) => {
            let order = parts.extensions.get::<VersionOrder>().map(|VersionOrder(markers)| markers.as_slice());
            let xml = order.and_then(|markers| convert::versions_in_order(&xml, markers)).map_or(xml, Bytes::from);
            Content::Whole(convert::refer_to_controls(xml))
        }
        None => Content::S3s(body),
    }
}
