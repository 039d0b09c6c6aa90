//! Headers of reads that S3 takes more kindly than s3s does.
//!
//! A `Range` that is not one well-formed range of bytes means nothing to S3: it sends the whole object. Nor does a condition whose
//! date is none, and dates have older forms that count (RFC 9110, 5.6.7 and 13.1.3). s3s refuses such requests instead, so that the
//! header is rewritten or taken out before s3s sees it. A signed header has to stay, or the signature would no longer fit; when
//! s3s has found the signature right and refused the header, the request is asked again with the header changed and without a signature.

use http::header::{self, HeaderName};
use http::{HeaderMap, HeaderValue, Method, Request, Response, Uri};
use s3s::Body;
use s3s::dto::{Timestamp, TimestampFormat};

use super::convert::contains;
use super::hoisted::{OF_SIGNATURE, is_presigned};

const NAMES: [HeaderName; 3] = [header::RANGE, header::IF_MODIFIED_SINCE, header::IF_UNMODIFIED_SINCE];

/// In a request's extensions: its signature was found right before it was taken out.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Verified;

/// The same request with its headers as S3 reads them and without its signature, for the case that the latter, if there is one, is
/// right and only the former are refused.
pub(crate) fn without(request: &Request<Body>) -> Option<Request<Body>> {
    let is_read = [Method::GET, Method::HEAD].contains(request.method());
    if !is_read || NAMES.iter().all(|name| reading(request.headers(), name) == Reading::AsItIs) {
        return None;
    }
    let mut again = Request::new(Body::empty());
    *again.method_mut() = request.method().clone();
    *again.uri_mut() = unsigned(request.uri())?;
    *again.headers_mut() = request.headers().clone();
    for name in &NAMES {
        apply(again.headers_mut(), name);
    }
    again.headers_mut().remove(header::AUTHORIZATION);
    *again.extensions_mut() = request.extensions().clone();
    if request.headers().contains_key(header::AUTHORIZATION) || is_presigned(request.uri().query()) {
        again.extensions_mut().insert(Verified);
    }
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

/// Whether s3s refused nothing but one of these headers. It says so in words only; `tests/adapter` asks for them.
pub(crate) fn is_refused(answer: &Response<Body>) -> bool {
    let names_one =
        |xml: &[u8]| NAMES.iter().any(|name| contains(xml, format!("<Message>invalid header: {name}: ").as_bytes()));
    answer.status() == http::StatusCode::BAD_REQUEST && answer.body().bytes().is_some_and(|xml| names_one(&xml))
}

/// Changes the headers that S3 reads in another way than s3s and that the request's signature does not cover.
pub(crate) fn make_plain(headers: &mut HeaderMap, query: Option<&str>) {
    for name in &NAMES {
        if headers.contains_key(name) && !is_signed(headers, query, name) {
            apply(headers, name);
        }
    }
}

/// What S3 takes a header for.
#[derive(Debug, PartialEq, Eq)]
enum Reading {
    AsItIs,
    Another(HeaderValue),
    Nothing,
}

fn apply(headers: &mut HeaderMap, name: &HeaderName) {
    match reading(headers, name) {
        Reading::AsItIs => {}
        Reading::Another(value) => drop(headers.insert(name, value)),
        Reading::Nothing => drop(headers.remove(name)),
    }
}

fn reading(headers: &HeaderMap, name: &HeaderName) -> Reading {
    let mut lines = headers.get_all(name).iter();
    let line = match (lines.next(), lines.next()) {
        (None, _) => return Reading::AsItIs,
        (Some(line), None) => line,
        _ => return Reading::Nothing,
    };
    let another = if *name == header::RANGE {
        if is_range(line) {
            return Reading::AsItIs;
        }
        line.to_str().ok().and_then(within_bounds)
    } else {
        let Ok(text) = line.to_str() else { return Reading::Nothing };
        if Timestamp::parse(TimestampFormat::HttpDate, text).is_ok() {
            return Reading::AsItIs;
        }
        httpdate::parse_http_date(text).ok().map(httpdate::fmt_http_date)
    };
    another.and_then(|text| HeaderValue::try_from(text).ok()).map_or(Reading::Nothing, Reading::Another)
}

/// A range with numbers that s3s takes, in place of one with larger ones: no object has so many bytes.
fn within_bounds(range: &str) -> Option<String> {
    let (first, last) = range.strip_prefix("bytes=")?.split_once('-')?;
    let number = |digits: &str| {
        let is_number = !digits.is_empty() && digits.bytes().all(|byte| byte.is_ascii_digit());
        is_number.then(|| digits.parse().unwrap_or(u64::MAX).min(i64::MAX.unsigned_abs()))
    };
    Some(match (first, last) {
        ("", last) => format!("bytes=-{}", number(last)?),
        (first, "") => format!("bytes={}-", number(first)?),
        (first, last) => {
            let (first, last) = (number(first)?, number(last)?);
            (first <= last).then(|| format!("bytes={first}-{last}"))?
        }
    })
}

/// As s3s reads it, but for `bytes=-`, which s3s takes for the last 0 bytes.
fn is_range(line: &http::HeaderValue) -> bool {
    line.to_str().is_ok_and(|text| s3s::dto::Range::parse(text).is_ok() && text != "bytes=-")
}

/// Whether the signature covers the header: only version 4 signs headers by a list.
fn is_signed(headers: &HeaderMap, query: Option<&str>, name: &HeaderName) -> bool {
    let names_it = |list: &str, separator: &str| {
        list.split(separator).any(|signed| signed.trim().eq_ignore_ascii_case(name.as_str()))
    };
    let in_header = headers
        .get_all(header::AUTHORIZATION)
        .iter()
        .filter_map(|value| value.to_str().ok()?.split_once("SignedHeaders="))
        .any(|(_, rest)| names_it(rest.split(',').next().unwrap_or(rest), ";"));
    let in_query = query
        .into_iter()
        .flat_map(|query| query.split('&'))
        .filter_map(|pair| pair.split_once('='))
        .filter(|(name, _)| name.eq_ignore_ascii_case("X-Amz-SignedHeaders"))
        .any(|(_, list)| names_it(&list.replace("%3B", ";").replace("%3b", ";"), ";"));
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
            make_plain(&mut headers, query);
            assert_eq!(headers.contains_key(header::RANGE), stays, "{range} with {authorization:?} and {query:?}");
        }
        let mut twice = HeaderMap::new();
        twice.append(header::RANGE, "bytes=0-1".parse().unwrap());
        twice.append(header::RANGE, "bytes=3-4".parse().unwrap());
        make_plain(&mut twice, None);
        assert!(!twice.contains_key(header::RANGE));
    }

    #[test]
    fn only_what_was_signed_counts_as_verified() {
        let cases = [
            ("/b/k?X-Amz-SignedHeaders=range", None, false),
            ("/b/k?X-Amz-SignedHeaders=range&X-Amz-Signature=s", None, true),
            ("/b/k", Some("AWS4-HMAC-SHA256 Credential=AK/x,SignedHeaders=range,Signature=0"), true),
        ];
        for (uri, authorization, expected) in cases {
            let mut request = Request::builder().uri(uri).header(header::RANGE, "bytes=5-2");
            if let Some(authorization) = authorization {
                request = request.header(header::AUTHORIZATION, authorization);
            }
            let again = without(&request.body(Body::empty()).unwrap()).unwrap();
            assert_eq!(again.extensions().get::<Verified>().is_some(), expected, "{uri}");
            assert!(!again.headers().contains_key(header::AUTHORIZATION));
        }
    }

    #[test]
    fn a_range_beyond_all_objects_keeps_its_meaning() {
        let cases = [
            ("bytes=0-18446744073709551615", Some("bytes=0-9223372036854775807")),
            ("bytes=5-99999999999999999999999", Some("bytes=5-9223372036854775807")),
            ("bytes=99999999999999999999999-", Some("bytes=9223372036854775807-")),
            ("bytes=-99999999999999999999999", Some("bytes=-9223372036854775807")),
            ("bytes=5-2", None),
            ("bytes=-", None),
            ("bytes=+1-2", None),
        ];
        for (range, expected) in cases {
            assert_eq!(within_bounds(range).as_deref(), expected, "{range}");
        }
    }

    #[test]
    fn a_condition_counts_with_a_date_of_any_form_and_not_without_one() {
        let sixth = "Sun, 06 Nov 1994 08:49:37 GMT";
        let cases = [
            (sixth, Reading::AsItIs),
            ("Sunday, 06-Nov-94 08:49:37 GMT", Reading::Another(HeaderValue::from_static(sixth))),
            ("Sun Nov  6 08:49:37 1994", Reading::Another(HeaderValue::from_static(sixth))),
            ("yesterday", Reading::Nothing),
            ("", Reading::Nothing),
        ];
        for (date, expected) in cases {
            let mut headers = HeaderMap::new();
            headers.insert(header::IF_MODIFIED_SINCE, date.parse().unwrap());
            assert_eq!(reading(&headers, &header::IF_MODIFIED_SINCE), expected, "{date}");
            assert_eq!(reading(&headers, &header::IF_UNMODIFIED_SINCE), Reading::AsItIs);
        }
    }
}
