//! `Expect: 100-continue`: the client is asked for the body when somebody wants to read it, and not before.
//!
//! A request that is refused by its head alone (its signature, its rights, its bucket) gets its final answer, and the body never
//! travels. So the request is handled up to the first read of its body; then actix says 100, and the same call goes on.

use actix_http::body::{BoxBody, MessageBody};
use actix_http::{HttpMessage, Request, Response};
use std::pin::Pin;
use std::sync::Arc;
use tokio::sync::oneshot;

use super::adapter::{self, Arrival, Shared};
use super::body::Outgoing;

/// Told when the body is wanted.
pub(crate) type Wanted = oneshot::Sender<()>;

/// A request that is being handled.
pub(crate) type Call = Pin<Box<dyn Future<Output = Response<Outgoing>>>>;

struct Begun(Call);

/// Handles a request up to the first read of its body. What comes back has the rest of the call in it, see [`begun`].
///
/// An empty body is asked for too, whatever the answer is: the connection goes on, and botocore, which was told another status in
/// place of 100, takes that one for the status of the connection's next request as well.
///
/// # Errors
/// The answer of a request that ended without its body.
pub(crate) async fn go_on(shared: Arc<Shared>, request: Request) -> Result<Request, Response<BoxBody>> {
    let (wanted, asked) = oneshot::channel();
    let is_empty = request.headers().get(http::header::CONTENT_LENGTH.as_str()).is_some_and(|length| length == "0");
    let arrival = Arrival { wanted: Some(wanted), ..Arrival::of_http1(request) };
    let mut call: Call = Box::pin(adapter::handle(shared, arrival));
    tokio::select! {
        biased;
        answer = &mut call => {
            if !is_empty {
                return Err(answer.map_body(|_, body| body.boxed()));
            }
            call = Box::pin(std::future::ready(answer));
        }
        Ok(()) = asked => {}
    }
    let request = Request::new();
    request.extensions_mut().insert(Begun(call));
    Ok(request)
}

/// The call that [`go_on`] has begun.
pub(crate) fn begun(request: &mut Request) -> Option<Call> {
    request.extensions_mut().remove::<Begun>().map(|begun| begun.0)
}
