//! Between actix's types (http 0.2) and s3s's (http 1).

use actix_http::header as old;
use bytes::Bytes;
use http::{HeaderMap, HeaderName, HeaderValue, Method, Uri};

/// Bytes of the request line and the headers, as they were sent (without separators' exact spelling).
pub(crate) fn head_bytes(head: &actix_http::RequestHead) -> usize {
    let target = head.uri.path_and_query().map_or(1, |target| target.as_str().len());
    // ": " and CRLF of each line
    head.headers.iter().fold(target, |sum, (name, value)| sum + name.as_str().len() + value.len() + 4)
}

pub(crate) fn method(method: &actix_http::Method) -> Option<Method> {
    Method::from_bytes(method.as_str().as_bytes()).ok()
}

/// Path and query only: S3 takes no meaning from an absolute form, the bucket's host is in `Host`.
pub(crate) fn uri(uri: &actix_http::Uri) -> Option<Uri> {
    uri.path_and_query().map_or(Some(Uri::from_static("/")), |target| Uri::try_from(target.as_str()).ok())
}

pub(crate) fn headers(from: &old::HeaderMap) -> Option<HeaderMap> {
    let mut to = HeaderMap::with_capacity(from.len());
    for (name, value) in from {
        let name = HeaderName::from_bytes(name.as_str().as_bytes()).ok()?;
        let value = HeaderValue::from_bytes(value.as_bytes()).ok()?;
        to.append(name, value);
    }
    Some(to)
}

/// Copies the headers of a request of HTTP/2.
pub(crate) fn request_headers(from: &HeaderMap, to: &mut old::HeaderMap) -> Option<()> {
    for (name, value) in from {
        let name = old::HeaderName::from_bytes(name.as_str().as_bytes()).ok()?;
        to.append(name, old::HeaderValue::from_bytes(value.as_bytes()).ok()?);
    }
    Some(())
}

/// Copies the headers of an answer for HTTP/2.
pub(crate) fn answer_headers(from: &old::HeaderMap, to: &mut HeaderMap) {
    for (name, value) in from {
        let name = HeaderName::from_bytes(name.as_str().as_bytes());
        if let (Ok(name), Ok(value)) = (name, HeaderValue::from_bytes(value.as_bytes())) {
            to.append(name, value);
        }
    }
}

/// Copies the response's headers, except those that the connection writes by itself.
pub(crate) fn response_headers(from: &HeaderMap, to: &mut old::HeaderMap) {
    for (name, value) in from {
        if matches!(*name, http::header::CONTENT_LENGTH | http::header::TRANSFER_ENCODING | http::header::CONNECTION) {
            continue;
        }
        let name = old::HeaderName::from_bytes(name.as_str().as_bytes());
        let value = old::HeaderValue::from_bytes(value.as_bytes());
        if let (Ok(name), Ok(value)) = (name, value) {
            to.append(name, value);
        }
    }
}

/// What clients are told where s3s gives a code alone; without a message they show "Unknown" or nothing.
const MESSAGES: [(&[u8], &str); 8] = [
    (
        b"<Code>SignatureDoesNotMatch<",
        "The signature does not fit the request: check the secret key, the clock, and what changes requests on the way.",
    ),
    (b"<Code>InvalidURI<", "The request's path or query is not valid UTF-8 in percent-encoding."),
    (b"<Code>InvalidBucketName<", "The bucket name breaks S3's naming rules."),
    (b"<Code>KeyTooLongError<", "The key is longer than 1024 bytes."),
    (b"<Code>MalformedXML<", "The XML in the body is not well-formed or not what this operation takes."),
    (b"<Code>MissingRequestBodyError<", "The operation needs a body."),
    (b"<Code>MaxMessageLengthExceeded<", "The XML in the body is larger than this server allows."),
    (b"<Code>MethodNotAllowed<", "The method is not allowed on this resource."),
];

pub(crate) fn contains(haystack: &[u8], needle: &[u8]) -> bool {
    haystack.windows(needle.len()).any(|window| window == needle)
}

fn is_control(byte: u8) -> bool {
    byte < b' ' && !matches!(byte, b'\t' | b'\n' | b'\r')
}

/// The same XML with what is no plain text in it as references, as S3 writes them. A parser makes a line feed of a carriage return
/// that stands for itself, and the key of the answer another than the object's.
pub(crate) fn refer_to_controls(xml: Bytes) -> Bytes {
    let is_odd = |byte: u8| is_control(byte) || byte == b'\r';
    // By blocks without a branch inside, which the compiler makes vectors of: a page of a listing has 300 KB.
    if !xml.chunks(256).any(|block| block.iter().fold(false, |found, byte| found | is_odd(*byte))) {
        return xml;
    }
    let mut out = Vec::with_capacity(xml.len() + 64);
    for byte in xml {
        if is_odd(byte) {
            out.extend_from_slice(format!("&#{byte};").as_bytes());
        } else {
            out.push(byte);
        }
    }
    out.into()
}

/// The same XML with its ETag out of the quotes.
pub(crate) fn plain_etag(xml: &[u8]) -> String {
    let text = String::from_utf8_lossy(xml);
    text.replacen("<ETag>\"", "<ETag>", 1).replacen("\"</ETag>", "</ETag>", 1)
}

/// The same listing of versions with its entries in the order of S3, versions and delete markers as they follow: `markers` says of
/// each whether it is one. s3s writes them apart, all markers first. `None` when that is no such listing.
pub(crate) fn versions_in_order(xml: &[u8], markers: &[bool]) -> Option<String> {
    const END: &str = "</ListVersionsResult>";
    let text = std::str::from_utf8(xml).ok()?.strip_suffix(END)?;
    let (marked, rest) = take_elements(text, "<DeleteMarker>", "</DeleteMarker>")?;
    let (versions, mut out) = take_elements(&rest, "<Version>", "</Version>")?;
    let (mut marked, mut versions) = (marked.into_iter(), versions.into_iter());
    for is_marker in markers {
        out.push_str(if *is_marker { marked.next()? } else { versions.next()? });
    }
    out.push_str(END);
    Some(out)
}

/// The elements with this tag, and the text without them. No text in XML looks like a tag.
fn take_elements<'x>(xml: &'x str, open: &str, close: &str) -> Option<(Vec<&'x str>, String)> {
    let (mut found, mut rest, mut left) = (Vec::new(), String::with_capacity(xml.len()), xml);
    while let Some(begin) = left.find(open) {
        let (before, from) = left.split_at(begin);
        let (element, after) = from.split_at(from.find(close)?.checked_add(close.len())?);
        found.push(element);
        rest.push_str(before);
        left = after;
    }
    rest.push_str(left);
    Some((found, rest))
}

/// The code in an error's XML.
pub(crate) fn error_code(xml: &[u8]) -> Option<&str> {
    let text = std::str::from_utf8(xml).ok()?;
    Some(text.split_once("<Code>")?.1.split_once("</Code>")?.0)
}

/// Completes an error's XML with the resource and the request's ids; anything else comes back unchanged.
pub(crate) fn complete_error_xml(xml: &[u8], resource: &str, request_id: &str, host_id: &str) -> Vec<u8> {
    const END: &[u8] = b"</Error>";
    let Some(body) = xml.strip_suffix(END) else { return xml.to_vec() };
    // A message may quote a key, and a key may hold what XML cannot: no parser would take the answer.
    let body = &body.iter().map(|byte| if is_control(*byte) { b'?' } else { *byte }).collect::<Vec<u8>>()[..];
    let mut out = Vec::with_capacity(xml.len() + resource.len() + 128);
    out.extend_from_slice(body);
    let message = MESSAGES.iter().find(|(code, _)| !contains(body, b"<Message>") && contains(body, code));
    if let Some((_, message)) = message {
        out.extend_from_slice(format!("<Message>{message}</Message>").as_bytes());
    }
    for (tag, text) in [("Resource", resource), ("RequestId", request_id), ("HostId", host_id)] {
        out.extend_from_slice(format!("<{tag}>").as_bytes());
        for byte in text.bytes() {
            match byte {
                b'&' => out.extend_from_slice(b"&amp;"),
                b'<' => out.extend_from_slice(b"&lt;"),
                b'>' => out.extend_from_slice(b"&gt;"),
                other => out.push(other),
            }
        }
        out.extend_from_slice(format!("</{tag}>").as_bytes());
    }
    out.extend_from_slice(END);
    out
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_error_gets_its_resource_and_ids() {
        let xml = b"<Error><Code>NoSuchKey</Code></Error>";
        let out = String::from_utf8(complete_error_xml(xml, "/b/k&<", "00AB", "host")).unwrap();
        assert_eq!(
            out,
            "<Error><Code>NoSuchKey</Code><Resource>/b/k&amp;&lt;</Resource><RequestId>00AB</RequestId>\
             <HostId>host</HostId></Error>"
        );
        let odd = complete_error_xml(b"<Error><Message>a\x00b</Message></Error>", "/", "1", "h");
        assert!(contains(&odd, b"<Message>a?b</Message>"));
        assert_eq!(complete_error_xml(b"<a/>", "/", "1", "h"), b"<a/>");
        let bare = complete_error_xml(b"<Error><Code>InvalidBucketName</Code></Error>", "/", "1", "h");
        assert!(contains(&bare, b"<Message>The bucket name breaks"));
        assert_eq!(error_code(&bare), Some("InvalidBucketName"));
        assert_eq!(error_code(b"<ListBucketResult/>"), None);
        let told = b"<Error><Code>MalformedXML</Code><Message>m</Message></Error>";
        assert!(!contains(&complete_error_xml(told, "/", "1", "h"), b"well-formed"));
    }

    #[test]
    fn versions_and_markers_are_put_into_one_order() {
        let marker = |id: u8| format!("<DeleteMarker><VersionId>{id}</VersionId></DeleteMarker>");
        let version = |id: u8| format!("<Version><Key>&lt;Version&gt;</Key><VersionId>{id}</VersionId></Version>");
        let xml = format!(
            "<?xml?><ListVersionsResult x=\"y\">{}{}<Name>b</Name>{}{}{}</ListVersionsResult>",
            marker(1),
            marker(2),
            version(3),
            version(4),
            version(5)
        );
        let expected = format!(
            "<?xml?><ListVersionsResult x=\"y\"><Name>b</Name>{}{}{}{}{}</ListVersionsResult>",
            version(3),
            marker(1),
            marker(2),
            version(4),
            version(5)
        );
        let order = [false, true, true, false, false];
        assert_eq!(versions_in_order(xml.as_bytes(), &order).as_deref(), Some(expected.as_str()));
        assert_eq!(versions_in_order(xml.as_bytes(), &[true; 3]), None);
        assert_eq!(versions_in_order(b"<Error/>", &order), None);
        let empty = "<ListVersionsResult><Name>b</Name></ListVersionsResult>";
        assert_eq!(versions_in_order(empty.as_bytes(), &[]).as_deref(), Some(empty));
    }

    #[test]
    fn controls_in_xml_become_references() {
        let plain = Bytes::from_static(b"<Key>a\n\tb</Key>");
        assert_eq!(refer_to_controls(plain.clone()), plain);
        let odd = Bytes::from_static(b"<Key>a\r\n\x01b\x1f</Key>");
        assert_eq!(refer_to_controls(odd), "<Key>a&#13;\n&#1;b&#31;</Key>");
    }

    #[test]
    fn odd_keys_survive_the_conversion_of_the_target() {
        for target in ["/b/a//b", "/b/../x", "/b/a+b%20c%2F?x=1&y", "/", "/b/%E6%BD%AE"] {
            let old = actix_http::Uri::try_from(target).unwrap();
            assert_eq!(uri(&old).unwrap().to_string(), target);
        }
    }
}
