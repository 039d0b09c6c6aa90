//! Pages: tokens, limits, and how keys are written in XML.

use base64::Engine as _;
use base64::engine::general_purpose::URL_SAFE_NO_PAD;
use s3s::dto::{CommonPrefix, EncodingType};
use s3s::{S3Result, s3_error};
use std::fmt::Write;

/// S3's largest page.
pub(crate) const MAX_PAGE: i32 = 1000;

/// The page size that a request asks for.
///
/// # Errors
/// `InvalidArgument` below zero.
pub(crate) fn page_size(asked: Option<i32>, parameter: &str) -> S3Result<i32> {
    match asked.unwrap_or(MAX_PAGE) {
        negative if negative < 0 => {
            Err(s3_error!(InvalidArgument, "{parameter} is {negative}; it must be from 0 to 2147483647."))
        }
        asked => Ok(asked.min(MAX_PAGE)),
    }
}

/// A continuation token for the page after `key`. Opaque to clients, so that its form may change.
pub(crate) fn token(key: &str) -> String {
    URL_SAFE_NO_PAD.encode(key)
}

/// The key in a continuation token.
///
/// # Errors
/// `InvalidArgument` for what no page gave.
pub(crate) fn key_of_token(token: &str) -> S3Result<String> {
    URL_SAFE_NO_PAD
        .decode(token)
        .ok()
        .and_then(|bytes| String::from_utf8(bytes).ok())
        .ok_or_else(|| s3_error!(InvalidArgument, "The continuation token is not one that a page gave."))
}

/// How keys are written: as they are, or percent-encoded for `encoding-type=url`.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Encoding {
    Plain,
    Url,
}

impl Encoding {
    /// # Errors
    /// `InvalidArgument` for another type than `url`.
    pub(crate) fn new(asked: Option<&EncodingType>) -> S3Result<Self> {
        match asked.map(EncodingType::as_str) {
            None => Ok(Self::Plain),
            Some(EncodingType::URL) => Ok(Self::Url),
            Some(other) => Err(s3_error!(InvalidArgument, "encoding-type is {other}; only url is known.")),
        }
    }

    /// A space becomes `%20`, not `+`: every client decodes the former.
    pub(crate) fn apply(self, text: String) -> String {
        let plain = |byte: u8| byte.is_ascii_alphanumeric() || matches!(byte, b'-' | b'_' | b'.' | b'~' | b'/' | b'*');
        if self == Self::Plain || text.bytes().all(plain) {
            return text;
        }
        let mut out = String::with_capacity(text.len() + text.len() / 2);
        for byte in text.bytes() {
            if plain(byte) {
                out.push(char::from(byte));
            } else {
                let _ = write!(out, "%{byte:02X}"); // writing to a String cannot fail
            }
        }
        out
    }

    /// As [`Encoding::apply`], but only where decoding would change the text, or XML could not hold it. boto3 does not decode the `Prefix` of
    /// ListObjects, other clients do: so all of them see what was asked for.
    pub(crate) fn apply_where_needed(self, text: String) -> String {
        let stays = |c: char| !matches!(c, '%' | '+' | '\u{fffe}' | '\u{ffff}') && (c == '\n' || !c.is_control());
        if text.chars().all(stays) { text } else { self.apply(text) }
    }

    pub(crate) fn common_prefixes(self, prefixes: Vec<String>) -> Option<Vec<CommonPrefix>> {
        let list: Vec<_> =
            prefixes.into_iter().map(|prefix| CommonPrefix { prefix: Some(self.apply(prefix)) }).collect();
        (!list.is_empty()).then_some(list)
    }
}

/// An empty delimiter is none.
pub(crate) fn delimiter(given: Option<&String>) -> Option<String> {
    given.filter(|delimiter| !delimiter.is_empty()).cloned()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_token_gives_its_key_back_and_garbage_is_refused() {
        for key in ["", "a", "a/b c+d%", "潮汐/闸", "//..//"] {
            assert_eq!(key_of_token(&token(key)).unwrap(), key);
        }
        for garbage in ["*", "a b", "_w"] {
            assert_eq!(key_of_token(garbage).unwrap_err().code().as_str(), "InvalidArgument", "{garbage}");
        }
    }

    #[test]
    fn page_sizes_are_bounded_as_in_s3() {
        for (asked, size) in [(None, 1000), (Some(0), 0), (Some(7), 7), (Some(1000), 1000), (Some(i32::MAX), 1000)] {
            assert_eq!(page_size(asked, "max-keys").unwrap(), size);
        }
        assert!(page_size(Some(-1), "max-keys").is_err());
    }

    #[test]
    fn keys_are_percent_encoded_on_request_only() {
        let url = Encoding::new(Some(&EncodingType::from_static("url"))).unwrap();
        assert_eq!(url.apply("a b+c%d/ü\u{1}~*".into()), "a%20b%2Bc%25d/%C3%BC%01~*");
        assert_eq!(Encoding::Plain.apply("a b".into()), "a b");
        for (text, expected) in
            [("a b/ü\n", "a b/ü\n"), ("a+b", "a%2Bb"), ("50%", "50%25"), ("\u{1}", "%01"), ("\r", "%0D")]
        {
            assert_eq!(url.apply_where_needed(text.into()), expected);
        }
        assert_eq!(Encoding::Plain.apply_where_needed("a+b".into()), "a+b");
        assert!(Encoding::new(Some(&EncodingType::from_static("base64"))).is_err());
    }
}
