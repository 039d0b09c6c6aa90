//! Bodies of XML, before s3s reads them.
//!
//! s3s compares such a body with `x-amz-content-sha256` and no other digest, passes CDATA sections over, and calls a body that
//! it could not take an internal error. A list of keys to delete must not be acted upon that is not the one that was sent.

use bytes::{Bytes, BytesMut};
use futures::{Stream, ready};
use http::{HeaderMap, Method, Request};
use s3s::Body;
use s3s::stream::{ByteStream, RemainingLength};
use sha2::{Digest, Sha256};
use std::pin::Pin;
use std::sync::Arc;
use std::task::{Context, Poll};
use tidegate_tiering::engine::BodyError;

use super::convert::contains;
use super::request::{BodyFailure, RequestContext};
use crate::s3::checksums::{ChecksumsOf, of_xml};

/// The subresources whose PUT has a document for a body.
const DOCUMENTS: [&str; 4] = ["acl", "ownershipControls", "policy", "publicAccessBlock"];

/// What a body of XML must be.
pub(crate) struct Announced {
    headers: HeaderMap,
    about: ChecksumsOf,
    limit: usize,
}

impl Announced {
    /// For a request whose body is XML, or the JSON of a policy: every POST, as forms are refused before, and the PUTs of
    /// documents.
    pub(crate) fn of(request: &Request<Body>, limit: usize) -> Option<Self> {
        let is_document = || {
            let mut names = request.uri().query().unwrap_or_default().split('&').map(|pair| pair.split('=').next());
            names.any(|name| name.is_some_and(|name| DOCUMENTS.contains(&name)))
        };
        if *request.method() != Method::POST && !(*request.method() == Method::PUT && is_document()) {
            return None;
        }
        let completes = request.uri().query().unwrap_or_default().split('&').any(|pair| pair.starts_with("uploadId="));
        let about = if completes { ChecksumsOf::Object } else { ChecksumsOf::Body };
        Some(Self { headers: request.headers().clone(), about, limit })
    }

    fn failure(&self, body: &Bytes) -> Option<BodyFailure> {
        let hash = self.headers.get("x-amz-content-sha256").map(http::HeaderValue::as_bytes);
        if let Some(hash) = hash.filter(|hash| hash.len() == 64) {
            let real: String = Sha256::digest(body).iter().map(|byte| format!("{byte:02x}")).collect();
            if !hash.eq_ignore_ascii_case(real.as_bytes()) {
                return Some(BodyFailure::Sha256Mismatch);
            }
        }
        // Values that are none are refused by name, once the signature was found right.
        let expect = of_xml(&self.headers, self.about).unwrap_or_default();
        if expect.check(body).is_err() {
            return Some(BodyFailure::BadDigest);
        }
        contains(body, b"<![CDATA[").then_some(BodyFailure::Cdata)
    }
}

/// A body of XML in one piece, once it was found to be what was announced. Nothing is read before s3s asks, that is before it has
/// found the signature right.
pub(crate) struct Whole<S> {
    inner: S,
    announced: Announced,
    context: Arc<RequestContext>,
    gathered: BytesMut,
    ended: bool,
}

impl<S> Whole<S> {
    pub(crate) fn new(inner: S, announced: Announced, context: Arc<RequestContext>) -> Self {
        Self { inner, announced, context, gathered: BytesMut::new(), ended: false }
    }

    fn fail(&mut self, failure: BodyFailure) -> Poll<Option<Result<Bytes, s3s::StdError>>> {
        self.ended = true;
        self.context.fail_body(failure);
        Poll::Ready(Some(Err(Box::new(BodyError::Malformed("it is not the XML that was announced".into())))))
    }
}

impl<S: Stream<Item = Result<Bytes, s3s::StdError>> + Unpin> Stream for Whole<S> {
    type Item = Result<Bytes, s3s::StdError>;

    fn poll_next(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<Option<Self::Item>> {
        let this = &mut *self;
        while !this.ended {
            match ready!(Pin::new(&mut this.inner).poll_next(cx)) {
                Some(Ok(piece)) if this.gathered.len().saturating_add(piece.len()) > this.announced.limit => {
                    return this.fail(BodyFailure::XmlTooLarge);
                }
                Some(Ok(piece)) => this.gathered.extend_from_slice(&piece),
                Some(Err(error)) => return Poll::Ready(Some(Err(error))),
                None => {
                    let whole = std::mem::take(&mut this.gathered).freeze();
                    if let Some(failure) = this.announced.failure(&whole) {
                        return this.fail(failure);
                    }
                    this.ended = true;
                    return Poll::Ready(Some(Ok(whole)));
                }
            }
        }
        Poll::Ready(None)
    }
}

impl<S: Stream<Item = Result<Bytes, s3s::StdError>> + Unpin + Send + Sync> ByteStream for Whole<S> {
    /// Unknown, as it does not matter: s3s goes by Content-Length.
    fn remaining_length(&self) -> RemainingLength {
        RemainingLength::unknown()
    }
}
