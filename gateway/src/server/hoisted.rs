//! Headers that a presigned URL carries in its query.
//!
//! Several SDKs move every `x-amz-*` header of a presigned request into its query, where S3 takes them for headers. s3s
//! does not look there: metadata and storage class would silently be lost. The query is part of what is signed, so that
//! nothing is believed here that the signature does not cover.

use http::{HeaderMap, HeaderName, HeaderValue};
use std::borrow::Cow;

/// Parameters of the signature itself.
pub(crate) const OF_SIGNATURE: [&str; 8] = [
    "x-amz-algorithm",
    "x-amz-content-sha256",
    "x-amz-credential",
    "x-amz-date",
    "x-amz-expires",
    "x-amz-security-token",
    "x-amz-signature",
    "x-amz-signedheaders",
];

/// What an SDK computes over the body. How checksums are asked for (`x-amz-checksum-mode`, `-algorithm`, `-type`) is not
/// among it.
pub(crate) const OF_BODY: [&str; 6] = [
    "x-amz-checksum-crc32",
    "x-amz-checksum-crc32c",
    "x-amz-checksum-crc64nvme",
    "x-amz-checksum-sha1",
    "x-amz-checksum-sha256",
    "x-amz-sdk-checksum-algorithm",
];

/// The parameters of a query, by their decoded names as s3s knows them; values as they stand. A name in another spelling
/// (`X-Amz-Signatur%65`) is the same parameter, and must not hide it from what is checked here.
fn parameters(query: Option<&str>) -> impl Iterator<Item = (Cow<'_, str>, &str)> {
    let pairs = query.unwrap_or_default().split('&').map(|pair| pair.split_once('=').unwrap_or((pair, "")));
    pairs.map(|(name, value)| (percent_encoding::percent_decode_str(name).decode_utf8_lossy(), value))
}

/// Whether s3s looks for the signature in the query.
pub(crate) fn is_presigned(query: Option<&str>) -> bool {
    parameters(query).any(|(name, _)| name == "X-Amz-Signature")
}

/// A header `x-amz-*` that the signature of a presigned URL leaves out, if there is one. Who holds the URL could turn a PUT into a copy
/// with the rights of its signer. What the signature itself is about is covered by it anyway.
pub(crate) fn not_signed<'h>(headers: &'h HeaderMap, query: Option<&str>) -> Option<&'h HeaderName> {
    const COVERED: [&str; 2] = ["x-amz-content-sha256", "x-amz-date"];
    if !is_presigned(query) {
        return None;
    }
    let signed = parameters(query).find(|(name, _)| name == "X-Amz-SignedHeaders").unwrap_or_default().1;
    let signed = percent_encoding::percent_decode_str(signed).decode_utf8_lossy();
    headers.keys().find(|name| {
        let name = name.as_str();
        name.starts_with("x-amz-") && !COVERED.contains(&name) && !signed.split(';').any(|known| known == name)
    })
}

/// Adds the headers that the query of a presigned URL carries. A header that is there already stays as it is.
///
/// The values of checksums are left where they are, as S3 does: an SDK that signs without knowing the body puts that of an empty one
/// there, and every upload would fail.
pub(crate) fn put_back(headers: &mut HeaderMap, query: Option<&str>) {
    if !is_presigned(query) {
        return;
    }
    for (name, value) in parameters(query) {
        let name = name.to_ascii_lowercase();
        let stays = |names: &[&str]| names.contains(&name.as_str());
        if !name.starts_with("x-amz-") || stays(&OF_BODY) || stays(&OF_SIGNATURE) {
            continue;
        }
        let value: Vec<u8> = percent_encoding::percent_decode_str(value).collect();
        if let (Ok(name), Ok(value)) = (HeaderName::try_from(name), HeaderValue::from_bytes(&value)) {
            headers.entry(name).or_insert(value);
        }
    }
}

/// For how many seconds a presigned URL asks to be good.
fn lifetimes(query: Option<&str>) -> impl Iterator<Item = i128> {
    let values = parameters(query).filter(|(name, _)| name == "X-Amz-Expires").map(|(_, value)| value);
    values.filter_map(|value| percent_encoding::percent_decode_str(value).decode_utf8_lossy().parse().ok())
}

/// Whether a presigned URL asks to be good for longer than S3 allows any, a week.
pub(crate) fn lives_too_long(query: Option<&str>) -> bool {
    const WEEK_SECONDS: i128 = 7 * 86_400;
    lifetimes(query).any(|seconds| seconds > WEEK_SECONDS)
}

/// Whether a presigned URL was over before it was made.
pub(crate) fn never_lived(query: Option<&str>) -> bool {
    lifetimes(query).any(|seconds| seconds < 0)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn headers_come_out_of_the_query_of_a_presigned_url_only() {
        let query = "X-Amz-Date=d&x-amz-meta-a=b%20c&X-Amz-Storage-Class=GLACIER&x-amz-acl=private&other=1\
                     &x-amz-checksum-crc32=AAAAAA%3D%3D&x-amz-sdk-checksum-algorithm=CRC32&x-amz-checksum-sha256=x\
                     &x-amz-checksum-mode=ENABLED&x-amz-checksum-algorithm=SHA256&X-Amz-Checksum-Type=COMPOSITE";
        let mut plain = HeaderMap::new();
        put_back(&mut plain, Some(query));
        assert!(plain.is_empty());
        let mut presigned = HeaderMap::new();
        presigned.insert("x-amz-acl", HeaderValue::from_static("sent"));
        put_back(&mut presigned, Some(&format!("{query}&X-Amz-Signature=s")));
        let shown: Vec<_> = presigned.iter().map(|(name, value)| (name.as_str(), value.to_str().unwrap())).collect();
        let expected = [
            ("x-amz-acl", "sent"),
            ("x-amz-meta-a", "b c"),
            ("x-amz-storage-class", "GLACIER"),
            ("x-amz-checksum-mode", "ENABLED"),
            ("x-amz-checksum-algorithm", "SHA256"),
            ("x-amz-checksum-type", "COMPOSITE"),
        ];
        assert_eq!(shown, expected);
    }

    #[test]
    fn what_a_signature_leaves_out_is_found() {
        let url = "X-Amz-SignedHeaders=host%3Bx-amz-acl&X-Amz-Signature=s";
        let cases = [
            (Some(url), "x-amz-acl", false),
            (Some(url), "x-amz-copy-source", true),
            (Some("X-Amz-Signature=s"), "x-amz-tagging", true),
            (Some(url), "x-amz-content-sha256", false),
            (Some(url), "content-type", false),
            (Some("X-Amz-SignedHeaders=host&X-Amz-Signatur%65=s"), "x-amz-copy-source", true),
            (Some("X-Amz-Signed%48eaders=x-amz-acl&X-Amz-Signature=s"), "x-amz-acl", false),
            (Some("list-type=2"), "x-amz-tagging", false),
            (None, "x-amz-tagging", false),
        ];
        for (query, name, left_out) in cases {
            let mut headers = HeaderMap::new();
            headers.insert(HeaderName::from_static(name), HeaderValue::from_static("v"));
            let found = not_signed(&headers, query).map(HeaderName::as_str);
            assert_eq!(found, left_out.then_some(name), "{query:?} {name}");
        }
    }

    #[test]
    fn a_presigned_url_lives_for_a_week_at_most() {
        for (query, too_long) in [
            ("X-Amz-Expires=604800&X-Amz-Date=d", false),
            ("X-Amz-Date=d&X-Amz-Expires=604801", true),
            ("X-Amz-Expire%73=604801", true),
            ("X-Amz-Expires=60480%31", true),
            ("Expires=99999999999&Signature=s", false),
            ("", false),
        ] {
            assert_eq!(lives_too_long(Some(query)), too_long, "{query}");
            assert!(!never_lived(Some(query)));
        }
        assert!(never_lived(Some("X-Amz-Date=d&X-Amz-Expires=-7")));
    }
}
