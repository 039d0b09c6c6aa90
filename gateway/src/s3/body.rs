//! Request bodies from s3s to the engine, with the reason when they fail.

use futures::{Stream, StreamExt};
use http::HeaderMap;
use s3s::dto::StreamingBlob;
use s3s::{StdError, TrailingHeaders};
use std::pin::Pin;
use std::sync::Arc;
use std::task::{Context, Poll};
use tidegate_tiering::engine::{BodyError, BodyIn};

use crate::server::request::{BodyFailure, RequestContext};

/// Turns `blob` into the engine's stream. Failures are noted in `context`. A trailer that the headers announce must
/// have come when the body ends: without it the checksum that the client meant to send would silently go unverified.
pub(crate) fn body_in(
    blob: Option<StreamingBlob>,
    headers: &HeaderMap,
    trailing: Option<&TrailingHeaders>,
    context: Option<Arc<RequestContext>>,
) -> BodyIn {
    let Some(blob) = blob else { return futures::stream::empty().boxed() };
    let announced = trailing.and_then(|trailing| {
        let name = headers.get("x-amz-trailer")?.to_str().ok()?.trim().to_ascii_lowercase();
        Some((trailing.clone(), name))
    });
    Box::pin(Checked { blob, announced, context, failed: false })
}

struct Checked {
    blob: StreamingBlob,
    announced: Option<(TrailingHeaders, String)>,
    context: Option<Arc<RequestContext>>,
    failed: bool,
}

impl Checked {
    fn fail(&mut self, failure: BodyFailure) {
        self.failed = true;
        if let Some(context) = &self.context {
            context.fail_body(failure);
        }
    }
}

impl Stream for Checked {
    type Item = Result<bytes::Bytes, BodyError>;

    fn poll_next(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<Option<Self::Item>> {
        if self.failed {
            return Poll::Ready(None);
        }
        match futures::ready!(self.blob.poll_next_unpin(cx)) {
            Some(Ok(piece)) => Poll::Ready(Some(Ok(piece))),
            Some(Err(error)) => {
                let (failure, error) = classify(error);
                self.fail(failure);
                Poll::Ready(Some(Err(error)))
            }
            None => {
                let missing = self.announced.take().filter(|(trailing, name)| {
                    !trailing.read(|headers| headers.contains_key(name.as_str())).unwrap_or(false)
                });
                let Some((_, name)) = missing else { return Poll::Ready(None) };
                self.fail(BodyFailure::MissingTrailer);
                Poll::Ready(Some(Err(BodyError::Malformed(format!("the trailer {name} did not come")))))
            }
        }
    }
}

/// s3s keeps its stream errors' types to itself, so that their text decides. `tests/adapter/operations.rs` provokes each
/// of them through s3s: another wording fails there.
fn classify(error: StdError) -> (BodyFailure, BodyError) {
    let error = match error.downcast::<BodyError>() {
        Ok(ours) => return (BodyFailure::Incomplete, *ours),
        Err(other) => other,
    };
    let text = error.to_string();
    let failure = if text.contains("Sha256Mismatch") {
        BodyFailure::Sha256Mismatch
    } else if text.contains("SignatureMismatch") {
        BodyFailure::SignatureMismatch
    } else if text.contains("Underlying") || text.contains("Incomplete") {
        return (BodyFailure::Incomplete, BodyError::Incomplete(text));
    } else {
        BodyFailure::Malformed
    };
    (failure, BodyError::Malformed(text))
}
