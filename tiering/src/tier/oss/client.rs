//! One request: built, signed, sent, watched, judged, and repeated when that is right.

use super::body::Sent;
use super::call::{Answer, Body, Call, Repeat};
use super::credentials::{CachedCredentials, Credentials};
use super::endpoint::Endpoint;
use super::fault::{self, Fault};
use super::settings::{OssSettings, SignatureVersion};
use super::transport::{BACKOFF_MAX, backoff, http_client, while_it_moves};
use super::{date, sign_v1, sign_v4};
use crate::clock::{Clock, Timestamp};
use crate::tier::error::{ErrorDetails, TierError, TierErrorKind};
use crate::tier::metrics::{Operation, Outcome, TierMetrics};
use bytes::{Bytes, BytesMut};
use reqwest::Method;
use reqwest::header::{HeaderMap, HeaderName, HeaderValue};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicI64, Ordering};
use std::time::{Duration, Instant};
use tokio::sync::{OwnedSemaphorePermit, Semaphore};

/// Bound of an answer that is read whole: a listing of 1,000 keys of 1,023 bytes, percent-encoded, is below it.
pub(crate) const MAX_ANSWER_BYTES: usize = 8 << 20;
/// Bound of an error document.
const MAX_ERROR_BYTES: usize = 64 << 10;
/// How often one call may be sent again at once because its time or its key had to be replaced. More than once, since
/// the store's clock may jump or a key be replaced while the call is repeated.
const MAX_REPAIRS: u32 = 3;

/// Counts an attempt, as running and by its outcome; one whose future is dropped half-way counts as abandoned.
struct Running<'a> {
    metrics: &'a TierMetrics,
    operation: Operation,
    outcome: Outcome,
    started: Instant,
}

impl<'a> Running<'a> {
    fn new(metrics: &'a TierMetrics, operation: Operation) -> Self {
        metrics.in_flight.inc();
        Self { metrics, operation, outcome: Outcome::Abandoned, started: Instant::now() }
    }
}

impl Drop for Running<'_> {
    fn drop(&mut self) {
        // Counted first: who sees that nothing is running finds everything counted.
        self.metrics.observe(self.operation, self.outcome, self.started.elapsed());
        self.metrics.in_flight.dec();
    }
}

/// Who signs a request, and as of when.
#[derive(Clone, Copy)]
pub(crate) struct Signing<'a> {
    /// Nobody: the request goes out without a signature.
    pub credentials: Option<&'a Credentials>,
    /// By the store's clock.
    pub now: Timestamp,
    /// Region of the scope.
    pub region: &'a str,
}

/// The client of one tier.
pub struct Client {
    pub(crate) http: reqwest::Client,
    pub(crate) endpoint: Endpoint,
    pub(crate) settings: OssSettings,
    pub(crate) credentials: CachedCredentials,
    clock: Arc<dyn Clock>,
    /// Milliseconds that the store's clock is ahead of ours, as far as it matters.
    skew_ms: AtomicI64,
    /// An answer told that the bucket keeps versions, which no bucket ever unlearns.
    keeps_versions: AtomicBool,
    permits: Arc<Semaphore>,
    pub(crate) metrics: TierMetrics,
}

impl std::fmt::Debug for Client {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Client")
            .field("endpoint", &self.endpoint)
            .field("settings", &self.settings)
            .finish_non_exhaustive()
    }
}

impl Client {
    /// A client for `settings`, which must have been checked.
    pub(crate) fn new(
        settings: OssSettings,
        credentials: CachedCredentials,
        clock: Arc<dyn Clock>,
        metrics: TierMetrics,
    ) -> Result<Self, TierError> {
        let endpoint = Endpoint::new(&settings.endpoint, &settings.bucket, settings.cname)?;
        let http = http_client(&settings)?;
        let permits = Arc::new(Semaphore::new(settings.concurrency));
        let (skew_ms, keeps_versions) = (AtomicI64::new(0), AtomicBool::new(false));
        Ok(Self { http, endpoint, settings, credentials, clock, skew_ms, keeps_versions, permits, metrics })
    }

    /// Now, by the store's clock.
    pub(crate) fn now(&self) -> Timestamp {
        Timestamp(self.clock.now().millis().saturating_add_signed(self.skew_ms.load(Ordering::Relaxed)))
    }

    /// Whether an answer told so far that the bucket keeps versions.
    pub(crate) fn keeps_versions(&self) -> bool {
        self.keeps_versions.load(Ordering::Relaxed)
    }

    /// The prefix with its slash.
    pub(crate) fn prefix(&self) -> String {
        match self.settings.prefix.as_str() {
            "" => String::new(),
            p if p.ends_with('/') => p.to_owned(),
            p => format!("{p}/"),
        }
    }

    /// The key of `name`.
    pub(crate) fn key(&self, name: &str) -> String {
        format!("{}{name}", self.prefix())
    }

    /// How long nothing may move.
    pub(crate) fn idle(&self) -> Duration {
        Duration::from_millis(self.settings.read_timeout_ms)
    }

    /// Place of an error.
    pub(crate) fn place(&self, operation: Operation, name: &str) -> ErrorDetails {
        let (operation, host) = (operation.name(), self.endpoint.host.clone());
        ErrorDetails { operation, name: name.to_owned(), host, ..ErrorDetails::default() }
    }

    /// An error with this client's host in it.
    pub(crate) fn error(&self, kind: TierErrorKind, call: (Operation, &str), message: impl ToString) -> TierError {
        TierError::new(kind, ErrorDetails { message: message.to_string(), ..self.place(call.0, call.1) })
    }

    /// Sends `call` until it succeeds, cannot succeed, or has used up its attempts.
    pub(crate) async fn send(&self, call: &Call) -> Result<Answer, TierError> {
        let mut attempt = 0;
        let mut repairs = 0;
        let mut repeated = false;
        loop {
            attempt += 1;
            let credentials = self.credentials.get().await?;
            let fault = match self.attempt(call, &credentials).await {
                Ok(answer) => return Ok(Answer { repeated, ..answer }),
                Err(fault) => fault,
            };
            if fault.is_stale_key() && credentials.expires.is_some() {
                self.credentials.invalidate(&credentials);
            }
            let repairable = fault.is_skewed() || (fault.is_stale_key() && credentials.expires.is_some());
            if repairable && repairs < MAX_REPAIRS {
                repairs += 1;
                continue;
            }
            let known = call.repeat == Repeat::Always || fault.refused;
            if attempt >= self.settings.max_attempts || !fault.error.is_retryable() || !known {
                return Err(fault.error);
            }
            repeated |= !fault.refused;
            self.pause(attempt, fault.error.delay()).await;
            tracing::debug!(attempt, error = %fault.error, "the request is repeated");
        }
    }

    /// Waits before the next attempt.
    pub(crate) async fn pause(&self, attempt: u32, asked: Duration) {
        let wait = backoff(Duration::from_millis(self.settings.retry_base_ms), attempt, asked);
        self.metrics.retry_wait.observe(wait.as_secs_f64());
        tokio::time::sleep(wait).await;
    }

    async fn attempt(&self, call: &Call, credentials: &Credentials) -> Result<Answer, Fault> {
        let permit = self.permits.clone().acquire_owned().await.map_err(|_| {
            let error = self.error(TierErrorKind::Unavailable, (call.operation, call.name()), "the tier is closed");
            Fault { error, refused: true }
        })?;
        let mut running = Running::new(&self.metrics, call.operation);
        let result = self.exchange(call, credentials, permit).await;
        running.outcome = result.as_ref().map_or_else(Fault::outcome, |_| Outcome::Ok);
        result
    }

    async fn exchange(
        &self,
        call: &Call,
        credentials: &Credentials,
        permit: OwnedSemaphorePermit,
    ) -> Result<Answer, Fault> {
        let place = || self.place(call.operation, call.name());
        let sent = Sent::new();
        let signing = Signing { credentials: Some(credentials), now: self.now(), region: &self.settings.region };
        let request = self.request(call, &signing, &sent).map_err(|error| Fault { error, refused: true })?;
        let outcome = while_it_moves(self.http.execute(request), || sent.bytes(), self.idle()).await;
        self.metrics.sent_bytes.inc_by(sent.bytes());
        if let Some(error) = sent.take_failure() {
            let error = TierError::local(call.operation.name(), call.name(), error);
            return Err(Fault { error, refused: false });
        }
        let response = match outcome {
            Some(Ok(response)) => response,
            Some(Err(error)) => return Err(fault::of_transport(error, place())),
            None => return Err(self.stalled(place())),
        };
        let (status, headers) = (response.status(), response.headers().clone());
        if !status.is_success() {
            let body = self.read(response, MAX_ERROR_BYTES, call).await.unwrap_or_default();
            let fault = fault::of_answer(status, &headers, &body, place(), fault::asked_delay(&headers, BACKOFF_MAX));
            if fault.is_skewed() {
                self.learn_time(&headers);
            }
            return Err(fault);
        }
        if ["x-oss-version-id", "x-oss-delete-marker"].iter().any(|name| headers.contains_key(*name)) {
            self.keeps_versions.store(true, Ordering::Relaxed);
        }
        let mut answer =
            Answer { status, headers, body: Bytes::new(), sent_crc64: None, repeated: false, stream: None };
        if call.operation == Operation::GetObject {
            answer.stream = Some((response, permit));
            return Ok(answer);
        }
        answer.body = self.read(response, MAX_ANSWER_BYTES, call).await?;
        if matches!(call.body, Body::Source(..)) {
            self.compare(call, &sent, &mut answer)?;
        }
        Ok(answer)
    }

    /// The store's CRC-64 of what it stored against ours of what was sent.
    fn compare(&self, call: &Call, sent: &Sent, answer: &mut Answer) -> Result<(), Fault> {
        let ours = sent.crc64();
        answer.sent_crc64 = Some(ours);
        match answer.crc64() {
            Some(theirs) if theirs != ours => {
                let text = format!("the store computed CRC-64 {theirs}, {ours} was sent");
                let error = self.error(TierErrorKind::Corrupt, (call.operation, call.name()), text);
                Err(Fault { error, refused: false })
            }
            _ => Ok(()),
        }
    }

    pub(crate) fn stalled(&self, place: ErrorDetails) -> Fault {
        let message = format!("nothing moved for {} ms", self.settings.read_timeout_ms);
        let error = TierError::new(TierErrorKind::Unavailable, ErrorDetails { message, ..place });
        Fault { error, refused: false }
    }

    /// The rest of an answer, at most `limit` bytes.
    pub(crate) async fn read(
        &self,
        mut response: reqwest::Response,
        limit: usize,
        call: &Call,
    ) -> Result<Bytes, Fault> {
        let mut body = BytesMut::new();
        let status = response.status().as_u16();
        let place = || ErrorDetails { status, ..self.place(call.operation, call.name()) };
        loop {
            match tokio::time::timeout(self.idle(), response.chunk()).await {
                Ok(Ok(Some(piece))) if body.len().saturating_add(piece.len()) <= limit => {
                    body.extend_from_slice(&piece)
                }
                Ok(Ok(Some(_))) => {
                    let text = format!("the answer is longer than {limit} bytes");
                    let error = self.error(TierErrorKind::Corrupt, (call.operation, call.name()), text);
                    return Err(Fault { error, refused: false });
                }
                Ok(Ok(None)) => return Ok(body.freeze()),
                Ok(Err(error)) => {
                    let fault = fault::of_transport(error, place());
                    return Err(Fault { refused: false, ..fault });
                }
                Err(_) => return Err(self.stalled(place())),
            }
        }
    }

    /// From now on requests follow the clock that answered.
    pub(crate) fn learn_time(&self, headers: &HeaderMap) {
        let Some(theirs) = date::parse_http(fault::header(headers, "date")) else { return };
        let ours = self.clock.now().millis();
        let skew = i64::try_from(i128::from(theirs.millis()) - i128::from(ours)).unwrap_or(0);
        self.skew_ms.store(skew, Ordering::Relaxed);
        tracing::warn!(
            skew_ms = skew,
            host = self.endpoint.host,
            "our clock and the store's differ; requests follow the store's"
        );
    }

    /// The request that `call` means, signed; `sent` watches its body.
    pub(crate) fn request(
        &self,
        call: &Call,
        signing: &Signing<'_>,
        sent: &Sent,
    ) -> Result<reqwest::Request, TierError> {
        let key = call.name.as_deref().map(|name| self.key(name));
        let url = self.endpoint.url(key.as_deref(), &call.query)?;
        let headers = self.signed_headers(call, key.as_deref(), signing);
        let mut map = HeaderMap::with_capacity(headers.len() + 2);
        for (name, value) in headers {
            let bad =
                |why: String| TierError::invalid(call.operation.name(), call.name(), format!("header {name}: {why}"));
            let header = HeaderName::from_bytes(name.as_bytes()).map_err(|e| bad(e.to_string()))?;
            let mut text = HeaderValue::from_str(&value).map_err(|e| bad(e.to_string()))?;
            text.set_sensitive(matches!(name.as_str(), "authorization" | "x-oss-security-token"));
            map.append(header, text);
        }
        let body = match &call.body {
            Body::Empty if matches!(call.method, Method::PUT | Method::POST) => Some((0, reqwest::Body::from(""))),
            Body::Empty => None,
            Body::Document(bytes) => Some((bytes.len() as u64, reqwest::Body::from(bytes.clone()))),
            Body::Source(source, range) => {
                let stream = sent.watch(source.as_ref(), range.clone());
                Some((range.end.saturating_sub(range.start), reqwest::Body::wrap_stream(stream)))
            }
        };
        let mut request = reqwest::Request::new(call.method.clone(), url);
        if let Some((len, body)) = body {
            map.insert(reqwest::header::CONTENT_LENGTH, HeaderValue::from(len));
            *request.body_mut() = Some(body);
        }
        *request.headers_mut() = map;
        Ok(request)
    }

    fn signed_headers(&self, call: &Call, key: Option<&str>, signing: &Signing<'_>) -> Vec<(String, String)> {
        let now = signing.now;
        let encoding = call.headers.iter().any(|(name, _)| name == "accept-encoding");
        let mut headers = call.headers.clone();
        let mut add = |name: &str, value: String| headers.push((name.to_owned(), value));
        add("date", date::http(now));
        if !encoding {
            // Otherwise text is compressed on the fly, without a length and without an ETag.
            add("accept-encoding", "identity".to_owned());
        }
        let Some(credentials) = signing.credentials else { return headers };
        if let Some(token) = &credentials.security_token {
            add("x-oss-security-token", token.expose().to_owned());
        }
        if self.settings.signature == SignatureVersion::V4 {
            add("x-oss-date", date::compact(now));
            add("x-oss-content-sha256", sign_v4::UNSIGNED_PAYLOAD.to_owned());
        }
        let what = sign_v4::Signed {
            method: call.method.as_str(),
            bucket: Some(&self.settings.bucket),
            key,
            query: &call.query,
            headers: &headers,
            additional: &[],
        };
        let authorization = match self.settings.signature {
            SignatureVersion::V4 => {
                let scope = sign_v4::Scope { region: signing.region, ..self.scope() };
                sign_v4::authorization(&what, scope, credentials, now)
            }
            SignatureVersion::V1 => sign_v1::authorization(&what, credentials, &date::http(now)),
        };
        headers.push(("authorization".to_owned(), authorization));
        headers
    }

    /// Scope of V4 signatures.
    pub(crate) fn scope(&self) -> sign_v4::Scope<'_> {
        sign_v4::Scope { region: &self.settings.region, product: &self.settings.product }
    }

    /// Adds the traffic limit, where bodies move.
    pub(crate) fn limited(&self, call: Call) -> Call {
        match self.settings.traffic_limit_bits_per_second {
            Some(limit) => call.header("x-oss-traffic-limit", limit),
            None => call,
        }
    }
}
