//! One request of the suite, sent as it is, and its answer, kept as it came: no error is sorted, nothing is repeated but what
//! never reached the service.

use super::super::body::Sent;
use super::super::call::{Body, Call};
use super::super::client::{Client, MAX_ANSWER_BYTES, Signing};
use super::super::credentials::Credentials;
use super::super::fault;
use super::tree::Node;
use crate::tier::error::TierError;
use crate::tier::metrics::Operation;
use crate::tier::secret::Secret;
use bytes::Bytes;
use reqwest::Method;
use reqwest::header::{CONTENT_LENGTH, HeaderMap, HeaderName, HeaderValue};
use std::time::Duration;

/// How far off the clock of [`Auth::Skewed`] is, in milliseconds: the service allows 15 minutes.
const SKEW_MS: u64 = 20 * 60 * 1000;
/// Validity of signed URLs, in seconds.
const URL_SECONDS: u64 = 300;
/// Answers that say nothing about the request: load, or a failure on the way. 501 is not among them, for it is an answer.
const PASSING: &[u16] = &[408, 429, 500, 502, 503, 504];

/// How a request is signed.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Auth {
    /// As all others.
    Own,
    /// With another secret.
    WrongSecret,
    /// With a key id that nobody has.
    UnknownKey,
    /// With a security token that nobody issued.
    WrongToken,
    /// As of twenty minutes ago.
    Skewed,
    /// For another region (V4 only).
    WrongRegion,
    /// Not at all.
    Anonymous,
    /// By a signed URL.
    Url,
    /// By a signed URL whose time is over.
    ExpiredUrl,
}

/// A request of the suite. Names in `call` are below the tier's prefix.
pub(super) struct Ask {
    pub call: Call,
    pub auth: Auth,
    /// Elements of the answer's document that are compared; [`super::answer::LEAVES`] unless told.
    pub leaves: Option<&'static [&'static str]>,
}

impl Ask {
    pub(super) fn new(operation: Operation, method: Method, name: Option<&str>) -> Self {
        Self { call: Call::new(operation, method, name), auth: Auth::Own, leaves: None }
    }

    pub(super) fn query(mut self, name: &str, value: impl ToString) -> Self {
        self.call = self.call.query(name, value);
        self
    }

    pub(super) fn header(mut self, name: &str, value: impl ToString) -> Self {
        self.call = self.call.header(name, value);
        self
    }

    pub(super) fn body(mut self, bytes: impl Into<Bytes>) -> Self {
        self.call.body = Body::Document(bytes.into());
        self
    }

    pub(super) fn auth(mut self, auth: Auth) -> Self {
        self.auth = auth;
        self
    }

    pub(super) fn leaves(mut self, leaves: &'static [&'static str]) -> Self {
        self.leaves = Some(leaves);
        self
    }
}

/// An answer as it came.
pub(super) struct Raw {
    pub status: u16,
    pub headers: HeaderMap,
    pub body: Bytes,
}

impl Raw {
    pub(super) fn header(&self, name: &str) -> &str {
        fault::header(&self.headers, name)
    }

    pub(super) fn is_success(&self) -> bool {
        (200..300).contains(&self.status)
    }

    /// The document of the answer; of an error to HEAD, the one in its header.
    pub(super) fn document(&self) -> Option<Node> {
        match super::super::encode::from_base64(self.header("x-oss-err")) {
            Some(document) if self.body.is_empty() => Node::parse(&document),
            _ => Node::parse(&self.body),
        }
    }

    fn code(&self) -> String {
        self.document().and_then(|node| node.text_of("Code").map(str::to_owned)).unwrap_or_default()
    }
}

impl Client {
    /// Sends `ask` until an answer comes that is one.
    pub(super) async fn ask(&self, ask: &Ask) -> Result<Raw, TierError> {
        let mut attempt = 0;
        let mut corrected = false;
        loop {
            attempt += 1;
            let last = attempt >= self.settings.max_attempts;
            match self.ask_once(ask).await {
                // Our own clock is off; the suite is not about that.
                Ok(raw) if ask.auth == Auth::Own && !corrected && raw.code() == "RequestTimeTooSkewed" => {
                    corrected = true;
                    self.learn_time(&raw.headers);
                    continue;
                }
                Ok(raw) if last || !PASSING.contains(&raw.status) => return Ok(raw),
                Err(error) if last || !error.is_retryable() => return Err(error),
                Ok(_) | Err(_) => {}
            }
            self.pause(attempt, Duration::ZERO).await;
        }
    }

    async fn ask_once(&self, ask: &Ask) -> Result<Raw, TierError> {
        let own = self.credentials.get().await?;
        let call = &ask.call;
        let request = match ask.auth {
            Auth::Url | Auth::ExpiredUrl => self.by_url(ask, &own)?,
            auth => {
                let credentials = disguised(&own, auth);
                let skew = if auth == Auth::Skewed { SKEW_MS } else { 0 };
                let signing = Signing {
                    credentials: (auth != Auth::Anonymous).then_some(&credentials),
                    now: crate::clock::Timestamp(self.now().millis().saturating_sub(skew)),
                    region: if auth == Auth::WrongRegion { "no-such-region" } else { &self.settings.region },
                };
                self.request(call, &signing, &Sent::new())?
            }
        };
        let place = || self.place(call.operation, call.name());
        let response = match tokio::time::timeout(self.idle(), self.http.execute(request)).await {
            Ok(Ok(response)) => response,
            Ok(Err(error)) => return Err(fault::of_transport(error, place()).error),
            Err(_) => return Err(self.stalled(place()).error),
        };
        let (status, headers) = (response.status().as_u16(), response.headers().clone());
        let body = self.read(response, MAX_ANSWER_BYTES, call).await.map_err(|fault| fault.error)?;
        Ok(Raw { status, headers, body })
    }

    fn by_url(&self, ask: &Ask, own: &Credentials) -> Result<reqwest::Request, TierError> {
        let call = &ask.call;
        let age = if ask.auth == Auth::ExpiredUrl { 2 * URL_SECONDS } else { 0 };
        let signed_at = crate::clock::Timestamp(self.now().millis().saturating_sub(age * 1000));
        let url = self.presign_at(call.method.as_str(), call.name(), &call.headers, (own, signed_at, URL_SECONDS))?;
        let refuse = |why: String| TierError::invalid(call.operation.name(), call.name(), why);
        let url = reqwest::Url::parse(&url).map_err(|e| refuse(e.to_string()))?;
        let mut request = reqwest::Request::new(call.method.clone(), url);
        for (name, value) in &call.headers {
            let name = HeaderName::from_bytes(name.as_bytes()).map_err(|e| refuse(e.to_string()))?;
            let value = HeaderValue::from_str(value).map_err(|e| refuse(e.to_string()))?;
            request.headers_mut().insert(name, value);
        }
        if let Body::Document(bytes) = &call.body {
            request.headers_mut().insert(CONTENT_LENGTH, HeaderValue::from(bytes.len()));
            *request.body_mut() = Some(reqwest::Body::from(bytes.clone()));
        }
        Ok(request)
    }
}

/// The key that a request is signed with.
fn disguised(own: &Credentials, auth: Auth) -> Credentials {
    let mut credentials = own.clone();
    match auth {
        Auth::WrongSecret => credentials.access_key_secret = Secret::new("not-the-secret-of-this-key"),
        Auth::UnknownKey => {
            credentials.access_key_id = "LTAI0000000000000000".to_owned();
            credentials.security_token = None;
        }
        Auth::WrongToken => credentials.security_token = Some(Secret::new("no-such-token")),
        _ => {}
    }
    credentials
}
