//! Temporary keys by AWS's STS: its query API (version 2011-06-15) on `POST /` of the S3 endpoint.
//!
//! s3s finds the signature right, which has to be for the service `sts`; what is here reads the form and answers. A session rests on the
//! key that asked for it, see [`crate::users::session`].

mod answer;
mod call;

use crate::server::metrics::Operation;
use crate::server::request::RequestContext;
use crate::users::Users;
use answer::StsError;
use http::header::CONTENT_TYPE;
use http::{Extensions, HeaderMap, Method, Response, StatusCode, Uri};
use s3s::route::S3Route;
use s3s::{Body, S3Request, S3Response, S3Result};
use std::sync::Arc;

/// Longest form that is read, in bytes; s3s takes no longer one either.
const MAX_FORM_BYTES: usize = 8192;

/// Whether a request is one to STS: S3 has no `POST /`.
pub(crate) fn is_call(method: &Method, uri: &Uri, headers: &HeaderMap) -> bool {
    let form = b"application/x-www-form-urlencoded";
    let is_form = |value: &[u8]| value.get(..form.len()).is_some_and(|start| start.eq_ignore_ascii_case(form));
    *method == Method::POST
        && uri.path() == "/"
        // In virtual-hosted style DeleteObjects is sent there too, with a query.
        && uri.query().is_none_or(str::is_empty)
        && headers.get(CONTENT_TYPE).is_some_and(|value| is_form(value.as_bytes()))
}

/// An error that s3s has written as S3 does, as STS writes it; any other answer comes back as it is.
pub(crate) fn as_of_sts(answer: Response<Body>, request_id: &str) -> Response<Body> {
    let xml = answer.body().bytes().filter(|_| answer.status().as_u16() >= 400);
    let said = xml.as_deref().and_then(answer::said_by_s3);
    match said {
        None => answer,
        Some((code, message)) => StsError::of_s3(&code, &message, answer.status()).into_response(request_id),
    }
}

/// The route.
pub(crate) struct Sts {
    users: Arc<Users>,
}

impl Sts {
    pub(crate) fn new(users: Arc<Users>) -> Self {
        Self { users }
    }
}

#[async_trait::async_trait]
impl S3Route for Sts {
    fn is_match(&self, method: &Method, uri: &Uri, headers: &HeaderMap, _: &mut Extensions) -> bool {
        is_call(method, uri, headers)
    }

    async fn check_access(&self, _: &mut S3Request<Body>) -> S3Result<()> {
        // `call` says so in the words of STS.
        Ok(())
    }

    async fn call(&self, mut request: S3Request<Body>) -> S3Result<S3Response<Body>> {
        let context = request.extensions.get::<Arc<RequestContext>>().cloned();
        let id = context.as_ref().map(|context| context.id().to_string()).unwrap_or_default();
        let read = request.input.store_all_limited(MAX_FORM_BYTES).await;
        let answered = match read {
            Ok(form) => {
                let form = call::Form::parse(&form);
                if let Some(context) = &context {
                    context.set_operation(Operation::from_name(form.get("Action").unwrap_or_default()));
                }
                call::answer(&self.users, &request, &form)
            }
            Err(_) => Err(StsError::sender(
                "ValidationError",
                StatusCode::BAD_REQUEST,
                format!("The form cannot be read, or has more than {MAX_FORM_BYTES} bytes."),
            )),
        };
        let answer = match answered {
            Ok(answer) => answer.into_response(&id),
            Err(error) => error.into_response(&id),
        };
        let (parts, body) = answer.into_parts();
        let mut response = S3Response::new(body);
        response.status = Some(parts.status);
        response.headers = parts.headers;
        Ok(response)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_form_to_the_root_is_a_call_and_nothing_else() {
        let headers = |value: &'static str| HeaderMap::from_iter([(CONTENT_TYPE, value.parse().unwrap())]);
        let form = headers("application/x-www-form-urlencoded; charset=utf-8");
        let root = Uri::from_static("/");
        assert!(is_call(&Method::POST, &root, &form));
        assert!(!is_call(&Method::GET, &root, &form));
        assert!(!is_call(&Method::POST, &Uri::from_static("/b"), &form));
        assert!(!is_call(&Method::POST, &root, &headers("application/xml")));
        assert!(!is_call(&Method::POST, &root, &HeaderMap::new()));
    }
}
