//! `Range` headers that S3 ignores.
//!
//! A `Range` that is not one well-formed range of bytes means nothing to S3: it sends the whole object. s3s refuses such
//! a request instead, so that the header is taken out before s3s sees it. A signed header has to stay, or the
//! signature would no longer fit; when s3s has found the signature right and refused the header, the request is asked again
//! without both.

use http::{HeaderMap, Method, Request, Response, Uri, header};
use s3s::Body;
use std::sync::Arc;

use super::convert::contains;
use super::hoisted::OF_SIGNATURE;
use super::request::RequestContext;

/// In a request's extensions: its signature was found right before it was taken out.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Verified;

/// The same request without its meaningless `Range` and without its signature, for the case that the latter is right and
/// only the former refused.
pub(crate) fn without(request: &Request<Body>) -> Option<Request<Body>> {
    let is_read = [Method::GET, Method::HEAD].contains(request.method());
    if !is_read || !request.headers().contains_key(header::RANGE) || is_one_range(request.headers()) {
        return None;
    }
    let mut again = Request::new(Body::empty());
    *again.method_mut() = request.method().clone();
    *again.uri_mut() = unsigned(request.uri())?;
    *again.headers_mut() = request.headers().clone();
    again.headers_mut().remove(header::RANGE);
    again.headers_mut().remove(header::AUTHORIZATION);
    if let Some(context) = request.extensions().get::<Arc<RequestContext>>() {
        again.extensions_mut().insert(Arc::clone(context));
    }
    again.extensions_mut().insert(Verified);
    Some(again)
}

fn unsigned(uri: &Uri) -> Option<Uri> {
    let is_of_signature = |pair: &&str| {
        let name = pair.split_once('=').map_or(*pair, |(name, _)| name).to_ascii_lowercase();
        OF_SIGNATURE.contains(&name.as_str())
    };
    let kept: Vec<&str> = uri.query().unwrap_or_default().split('&').filter(|pair| !is_of_signature(pair)).collect();
    Uri::try_from(format!("{}?{}", uri.path(), kept.join("&"))).ok()
}

/// Whether s3s refused nothing but the `Range`. It says so in words only; `tests/adapter` asks for one.
pub(crate) fn is_refused(answer: &Response<Body>) -> bool {
    answer.status() == http::StatusCode::BAD_REQUEST
        && answer.body().bytes().is_some_and(|xml| contains(&xml, b"<Message>invalid header: range: "))
}

/// Takes `Range` out when S3 would ignore it and the request's signature does not cover it.
pub(crate) fn drop_meaningless(headers: &mut HeaderMap, query: Option<&str>) {
    if headers.contains_key(header::RANGE) && !is_one_range(headers) && !is_signed(headers, query) {
        headers.remove(header::RANGE);
    }
}

fn is_one_range(headers: &HeaderMap) -> bool {
    let mut lines = headers.get_all(header::RANGE).iter();
    match (lines.next(), lines.next()) {
        (Some(line), None) => is_range(line),
        _ => false,
    }
}

/// As s3s reads it, but for `bytes=-`, which s3s takes for the last 0 bytes.
fn is_range(line: &http::HeaderValue) -> bool {
    line.to_str().is_ok_and(|text| s3s::dto::Range::parse(text).is_ok() && text != "bytes=-")
}

/// Whether the signature covers `Range`: only version 4 signs headers by a list.
fn is_signed(headers: &HeaderMap, query: Option<&str>) -> bool {
    let names_range =
        |list: &str, separator: &str| list.split(separator).any(|name| name.trim().eq_ignore_ascii_case("range"));
    let in_header = headers
        .get_all(header::AUTHORIZATION)
        .iter()
        .filter_map(|value| value.to_str().ok()?.split_once("SignedHeaders="))
        .any(|(_, rest)| names_range(rest.split(',').next().unwrap_or(rest), ";"));
    let in_query = query
        .into_iter()
        .flat_map(|query| query.split('&'))
        .filter_map(|pair| pair.split_once('='))
        .filter(|(name, _)| name.eq_ignore_ascii_case("X-Amz-SignedHeaders"))
        .any(|(_, list)| names_range(&list.replace("%3B", ";").replace("%3b", ";"), ";"));
    in_header || in_query
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_range_that_means_nothing_goes_unless_it_is_signed() {
        const UNSIGNED: &str = "AWS4-HMAC-SHA256 Credential=AK/x, SignedHeaders=host;x-amz-date, Signature=range";
        const SIGNED: &str = "AWS4-HMAC-SHA256 Credential=AK/x,SignedHeaders=host;range;x-amz-date,Signature=0";
        const V2: &str = "AWS AK:c2ln";
        let cases = [
            ("bytes=0-4", UNSIGNED, None, true),
            ("bytes=5-", UNSIGNED, None, true),
            ("bytes=-3", V2, None, true),
            ("bytes=-0", UNSIGNED, None, true),
            ("bytes=0-4", SIGNED, None, true),
            ("bytes=5-2", UNSIGNED, None, false),
            ("bytes=0-1,3-4", UNSIGNED, None, false),
            ("items=1-2", V2, None, false),
            ("bytes=", UNSIGNED, None, false),
            ("bytes=-", UNSIGNED, None, false),
            ("bytes=a-b", UNSIGNED, None, false),
            ("0-4", UNSIGNED, None, false),
            ("bytes=5-2", SIGNED, None, true),
            ("items=1-2", SIGNED, None, true),
            ("bytes=5-2", "", Some("X-Amz-SignedHeaders=host&X-Amz-Date=range"), false),
            ("bytes=5-2", "", Some("X-Amz-SignedHeaders=host%3Brange"), true),
            ("bytes=5-2", "", Some("a=1&X-Amz-SignedHeaders=host%3brange%3bx-amz-date"), true),
            ("bytes=5-2", "", Some("X-Amz-SignedHeaders=range"), true),
            ("bytes=5-2", "", None, false),
        ];
        for (range, authorization, query, stays) in cases {
            let mut headers = HeaderMap::new();
            headers.insert(header::RANGE, range.parse().unwrap());
            headers.insert(header::AUTHORIZATION, authorization.parse().unwrap());
            drop_meaningless(&mut headers, query);
            assert_eq!(headers.contains_key(header::RANGE), stays, "{range} with {authorization:?} and {query:?}");
        }
        let mut twice = HeaderMap::new();
        twice.append(header::RANGE, "bytes=0-1".parse().unwrap());
        twice.append(header::RANGE, "bytes=3-4".parse().unwrap());
        drop_meaningless(&mut twice, None);
        assert!(!twice.contains_key(header::RANGE));
    }
}
