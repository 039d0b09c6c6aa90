//! Signs requests anew: those that were found right in a way that s3s does not know go on to it as requests of signature V4.

use hmac::{Hmac, KeyInit, Mac};
use http::{HeaderValue, header};
use percent_encoding::{AsciiSet, NON_ALPHANUMERIC, percent_decode_str, utf8_percent_encode};
use s3s::auth::SecretKey;
use s3s::{Body, S3Result, s3_error};
use sha2::{Digest, Sha256};
use tidegate_tiering::clock::Timestamp;

/// What is percent-encoded in a query.
pub(crate) const IN_QUERY: &AsciiSet = &NON_ALPHANUMERIC.remove(b'-').remove(b'_').remove(b'.').remove(b'~');
/// The same in a path.
pub(crate) const IN_PATH: &AsciiSet = &IN_QUERY.remove(b'/');

/// The headers that the signature covers, in their order.
const SIGNED: [&str; 4] = ["host", "x-amz-content-sha256", "x-amz-date", "x-amz-security-token"];

/// Who signs, and with what.
pub(crate) struct Signer {
    pub(crate) access_key: String,
    pub(crate) region: String,
    pub(crate) secret: SecretKey,
}

fn hmac(key: &[u8], text: &str) -> S3Result<Vec<u8>> {
    let mut mac = Hmac::<Sha256>::new_from_slice(key).map_err(|_| s3_error!(InternalError))?;
    mac.update(text.as_bytes());
    Ok(mac.finalize().into_bytes().to_vec())
}

/// The key that signs on a day.
///
/// # Errors
/// None in practice: a key of any length is taken.
pub(crate) fn signing_key(secret: &SecretKey, date: &str, region: &str) -> S3Result<Vec<u8>> {
    let first = format!("AWS4{}", secret.expose()).into_bytes();
    [date, region, "s3", "aws4_request"].iter().try_fold(first, |key, part| hmac(&key, part))
}

/// The query as the signature has it: each name with a value, in the order of the names.
fn canonical_query(query: &str) -> String {
    let encoded = |text: &str| {
        let text = text.replace('+', " ");
        utf8_percent_encode(&percent_decode_str(&text).decode_utf8_lossy(), IN_QUERY).to_string()
    };
    let pairs = query.split('&').filter(|pair| !pair.is_empty());
    let pairs = pairs.map(|pair| pair.split_once('=').unwrap_or((pair, "")));
    let mut pairs: Vec<_> = pairs.map(|(name, value)| (encoded(name), encoded(value))).collect();
    pairs.sort_by(|(one, _), (other, _)| one.cmp(other));
    pairs.iter().map(|(name, value)| format!("{name}={value}")).collect::<Vec<_>>().join("&")
}

impl Signer {
    /// Signs a request with this `x-amz-content-sha256`. What signed it before is taken out.
    ///
    /// # Errors
    /// `InvalidURI` for a path that is not UTF-8.
    pub(crate) fn sign(&self, request: &mut http::Request<Body>, payload: HeaderValue, now: Timestamp) -> S3Result<()> {
        let text = now.to_string(); // 2026-01-02T03:04:05.678Z
        let stamp = format!("{}Z", text.get(..19).unwrap_or_default().replace(['-', ':'], ""));
        let date = stamp.get(..8).unwrap_or_default();
        let value = |text: &str| HeaderValue::try_from(text).map_err(|_| s3_error!(InternalError));
        request.headers_mut().insert("x-amz-date", value(&stamp)?);
        request.headers_mut().insert("x-amz-content-sha256", payload.clone());
        let names: Vec<&str> = SIGNED.iter().filter(|name| request.headers().contains_key(**name)).copied().collect();
        let line = |name: &&str| {
            let value = request.headers().get(*name).map(HeaderValue::as_bytes).unwrap_or_default();
            format!("{name}:{}\n", String::from_utf8_lossy(value).trim())
        };
        let (lines, names) = (names.iter().map(line).collect::<String>(), names.join(";"));
        let path = percent_decode_str(request.uri().path()).decode_utf8();
        let path = path.map_err(|_| s3_error!(InvalidURI, "The path is not valid UTF-8 in percent-encoding."))?;
        let path = utf8_percent_encode(&path, IN_PATH);
        let query = canonical_query(request.uri().query().unwrap_or_default());
        let payload = String::from_utf8_lossy(payload.as_bytes());
        let canonical = format!("{}\n{path}\n{query}\n{lines}\n{names}\n{payload}", request.method());
        let scope = format!("{date}/{}/s3/aws4_request", self.region);
        let hash = hex::encode(Sha256::digest(canonical.as_bytes()));
        let key = signing_key(&self.secret, date, &self.region)?;
        let signature = hex::encode(hmac(&key, &format!("AWS4-HMAC-SHA256\n{stamp}\n{scope}\n{hash}"))?);
        let authorization = format!(
            "AWS4-HMAC-SHA256 Credential={}/{scope}, SignedHeaders={names}, Signature={signature}",
            self.access_key
        );
        let mut authorization = value(&authorization)?;
        authorization.set_sensitive(true);
        request.headers_mut().insert(header::AUTHORIZATION, authorization);
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_query_is_written_in_the_order_of_its_names_and_encoded_once() {
        let cases = [
            ("", ""),
            ("uploads", "uploads="),
            ("versionId=a%2Bb&acl", "acl=&versionId=a%2Bb"),
            ("prefix=a+b%20c&&a=1&a=0", "a=1&a=0&prefix=a%20b%20c"),
        ];
        for (query, expected) in cases {
            assert_eq!(canonical_query(query), expected, "{query}");
        }
    }
}
