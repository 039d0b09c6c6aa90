//! A request's head: what s3s does not check, and its conversion.

use actix_http::RequestHead;
use http::{Method, header};
use s3s::{Body, S3Error, s3_error};

use super::convert;
use super::hoisted;
use super::range;

/// What a head is measured by.
pub(crate) struct Limits {
    pub(crate) max_header_bytes: usize,
}

/// The methods that S3 has; others are answered without a look at the rest.
const METHODS: [Method; 6] = [Method::GET, Method::HEAD, Method::PUT, Method::POST, Method::DELETE, Method::OPTIONS];

/// Checks what s3s does not, and converts the head.
pub(crate) fn checked(
    limits: &Limits,
    head: &RequestHead,
    unsized_body: bool,
) -> Result<(http::Request<Body>, BodyLength), S3Error> {
    if convert::head_bytes(head) > limits.max_header_bytes {
        let limit = limits.max_header_bytes;
        return Err(s3_error!(
            RequestHeaderSectionTooLarge,
            "The request line and headers have more than {limit} bytes."
        ));
    }
    let method = convert::method(&head.method).filter(|method| METHODS.contains(method));
    let method = method.ok_or_else(|| method_not_allowed(head.method.as_str()))?;
    let uri = convert::uri(&head.uri).ok_or_else(|| s3_error!(InvalidURI, "The request target is not a valid URI."))?;
    let mut headers = convert::headers(&head.headers)
        .ok_or_else(|| s3_error!(InvalidRequest, "A request header is not valid HTTP."))?;
    settle_host(head, &mut headers)?;
    if hoisted::lives_too_long(uri.query()) {
        return Err(crate::s3::error::custom(
            "AuthorizationQueryParametersError",
            http::StatusCode::BAD_REQUEST,
            "X-Amz-Expires must be less than a week (in seconds) that is 604800.",
        ));
    }
    if hoisted::never_lived(uri.query()) {
        return Err(s3_error!(AccessDenied, "Request has expired"));
    }
    if let Some(name) = hoisted::not_signed(&headers, uri.query()) {
        return Err(s3_error!(AccessDenied, "There were headers present in the request which were not signed: {name}"));
    }
    hoisted::put_back(&mut headers, uri.query());
    range::make_plain(&mut headers, uri.query());
    let length = if unsized_body { BodyLength::Unknown } else { body_length(&headers)? };
    let mut to_s3s = http::Request::new(Body::empty());
    *to_s3s.method_mut() = method;
    *to_s3s.uri_mut() = uri;
    *to_s3s.headers_mut() = headers;
    Ok((to_s3s, length))
}

fn method_not_allowed(method: &str) -> S3Error {
    let mut error = s3_error!(MethodNotAllowed, "S3 has no method {method}.");
    let mut headers = http::HeaderMap::with_capacity(2);
    headers.insert(header::CONTENT_TYPE, http::HeaderValue::from_static("application/xml"));
    headers.insert(header::ALLOW, http::HeaderValue::from_static("GET, HEAD, PUT, POST, DELETE, OPTIONS"));
    error.set_headers(headers);
    error
}

/// One host: the target's when it has one (RFC 9112, 3.2.2; in HTTP/2 it is `:authority`), else the only `Host`. Which of several
/// counts, two servers in a row may see differently.
fn settle_host(head: &RequestHead, headers: &mut http::HeaderMap) -> Result<(), S3Error> {
    if headers.get_all(header::HOST).iter().count() > 1 {
        return Err(s3_error!(InvalidRequest, "The request has more than one Host header."));
    }
    let Some(authority) = head.uri.authority() else {
        let needs_host = head.version == actix_http::Version::HTTP_11 || head.version == actix_http::Version::HTTP_2;
        return match headers.contains_key(header::HOST) || !needs_host {
            true => Ok(()),
            false => Err(s3_error!(InvalidRequest, "The request has no Host header.")),
        };
    };
    let value = http::HeaderValue::try_from(authority.as_str())
        .map_err(|_| s3_error!(InvalidURI, "The host of the request target is not valid."))?;
    if head.version == actix_http::Version::HTTP_2 && headers.get(header::HOST).is_some_and(|host| *host != value) {
        return Err(s3_error!(InvalidRequest, "Host and :authority name different hosts."));
    }
    headers.insert(header::HOST, value);
    Ok(())
}

#[derive(Clone, Copy)]
pub(crate) enum BodyLength {
    Known(u64),
    Unknown,
}

fn body_length(headers: &http::HeaderMap) -> Result<BodyLength, S3Error> {
    if headers.contains_key(header::TRANSFER_ENCODING) {
        return Ok(BodyLength::Unknown);
    }
    let Some(value) = headers.get(header::CONTENT_LENGTH) else { return Ok(BodyLength::Known(0)) };
    value
        .to_str()
        .ok()
        .and_then(|text| text.trim().parse().ok())
        .map(BodyLength::Known)
        .ok_or_else(|| s3_error!(InvalidRequest, "Content-Length is not a number."))
}
