//! Encodings that the signatures and URLs share.

use hmac::{Hmac, KeyInit, Mac};
use percent_encoding::{AsciiSet, NON_ALPHANUMERIC, utf8_percent_encode};
use sha1::Sha1;
use sha2::Sha256;

/// RFC 3986: everything but the unreserved characters.
const STRICT: &AsciiSet = &NON_ALPHANUMERIC.remove(b'-').remove(b'.').remove(b'_').remove(b'~');
const PATH: &AsciiSet = &STRICT.remove(b'/');

/// RFC 3986 encoding of a query key or value.
pub(crate) fn strict(text: &str) -> String {
    utf8_percent_encode(text, STRICT).to_string()
}

/// Encoding of a path whose slashes stay.
pub(crate) fn path(text: &str) -> String {
    utf8_percent_encode(text, PATH).to_string()
}

/// Encoding of an object's key in a URL. A key with `.` or `..` segments has its slashes encoded too: URL parsers
/// resolve such segments, in their percent-encoded form as well, and would ask for another object. The store decodes
/// both forms to the same key.
pub(crate) fn key_in_url(key: &str) -> String {
    if key.split('/').any(|segment| segment == "." || segment == "..") { strict(key) } else { path(key) }
}

/// Bytes of an HMAC-SHA256.
pub(crate) fn hmac_sha256(key: &[u8], text: &[u8]) -> Vec<u8> {
    // An HMAC takes a key of any length, so there is no error to pass on.
    match Hmac::<Sha256>::new_from_slice(key) {
        Ok(mac) => mac.chain_update(text).finalize().into_bytes().to_vec(),
        Err(_) => Vec::new(),
    }
}

/// Bytes of an HMAC-SHA1.
pub(crate) fn hmac_sha1(key: &[u8], text: &[u8]) -> Vec<u8> {
    match Hmac::<Sha1>::new_from_slice(key) {
        Ok(mac) => mac.chain_update(text).finalize().into_bytes().to_vec(),
        Err(_) => Vec::new(),
    }
}

/// Standard base64 with padding.
pub(crate) fn base64(bytes: &[u8]) -> String {
    use base64::Engine;
    base64::engine::general_purpose::STANDARD.encode(bytes)
}

/// Decodes standard base64.
pub(crate) fn from_base64(text: &str) -> Option<Vec<u8>> {
    use base64::Engine;
    base64::engine::general_purpose::STANDARD.decode(text.trim()).ok()
}
