//! Who is asking: finds the form of the signature, checks times and keys, and compares.

use crate::clock::{MINUTE, VirtualClock, http_date, iso};
use crate::error::OssError;
use crate::request::Req;
use crate::{auth_v1, auth_v4};
use base64::Engine;
use hmac::{Hmac, KeyInit, Mac};
use std::fmt;

/// Largest difference between a request's date and the server's: 15 minutes.
pub const MAX_SKEW_MS: u64 = 15 * MINUTE;

/// One access key.
#[derive(Clone)]
pub struct AccessKey {
    /// AccessKeyId.
    pub id: String,
    /// AccessKeySecret.
    pub secret: String,
    /// The STS token that must come with it, for temporary keys.
    pub token: Option<String>,
    /// When the token expires (virtual milliseconds since the Unix epoch).
    pub expires: Option<u64>,
}

impl AccessKey {
    /// A permanent key.
    pub fn new(id: impl Into<String>, secret: impl Into<String>) -> AccessKey {
        AccessKey { id: id.into(), secret: secret.into(), token: None, expires: None }
    }
}

impl fmt::Debug for AccessKey {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("AccessKey").field("id", &self.id).field("expires", &self.expires).finish_non_exhaustive()
    }
}

/// What one form of signature says about a request, before comparing.
#[derive(Debug)]
pub struct Claim {
    /// AccessKeyId.
    pub id: String,
    /// The signature sent.
    pub signature: String,
    /// The request's date, for the skew check (header forms).
    pub date: Option<u64>,
    /// When the request ceases to be valid (query forms), in virtual milliseconds.
    pub expires: Option<u64>,
    /// The token sent.
    pub token: Option<String>,
    /// Form and what only it needs.
    pub form: Form,
}

/// The forms of signature.
#[derive(Debug)]
pub enum Form {
    /// HMAC-SHA1; the text of the Date slot.
    V1 {
        /// Content of the Date line of the string to sign.
        date_slot: String,
    },
    /// HMAC-SHA256.
    V4(auth_v4::Scope),
}

/// Checks a request. Returns the AccessKeyId.
///
/// # Errors
/// The answers of OSS for each way of being wrong.
pub fn check(req: &Req, keys: &[AccessKey], clock: &VirtualClock, region: &str) -> Result<String, OssError> {
    let header = req.header("authorization");
    let query_v4 = req.query.has("x-oss-signature") || req.query.has("x-oss-signature-version");
    let query_v1 = req.query.has("Signature") && req.query.has("OSSAccessKeyId");
    let claim = match (header, query_v4 || query_v1) {
        (Some(_), true) => {
            return Err(OssError::new(
                400,
                "InvalidArgument",
                "Only one auth mechanism allowed; only the query string or the Authorization header should be specified.",
            ));
        }
        (Some(text), false) if text.starts_with("OSS4-HMAC-SHA256") => auth_v4::header_claim(req, &text, region)?,
        (Some(text), false) if text.starts_with("OSS ") => auth_v1::header_claim(req, &text)?,
        (Some(text), false) => return Err(malformed(&format!("unknown scheme in {:?}", scheme_of(&text)))),
        (None, true) if query_v4 => auth_v4::query_claim(req, region)?,
        (None, true) => auth_v1::query_claim(req)?,
        (None, false) => {
            return Err(
                OssError::access_denied("Anonymous access is forbidden for this operation.").ec("0003-00000201")
            );
        }
    };
    check_times(&claim, req.now, clock.skew_check())?;
    let key = keys.iter().find(|k| k.id == claim.id).ok_or_else(|| {
        OssError::new(403, "InvalidAccessKeyId", "The OSS Access Key Id you provided does not exist in our records.")
            .with("OSSAccessKeyId", &claim.id)
    })?;
    check_token(&claim, key, req.now)?;
    compare(&claim, key, req)?;
    Ok(claim.id)
}

/// 400 for an Authorization that cannot be read.
pub fn malformed(why: &str) -> OssError {
    OssError::new(400, "InvalidArgument", format!("Authorization header is invalid: {why}."))
}

fn scheme_of(text: &str) -> &str {
    text.split([' ', ':']).next().unwrap_or_default()
}

fn check_times(claim: &Claim, now: u64, skew_check: bool) -> Result<(), OssError> {
    if let Some(expires) = claim.expires {
        if now > expires {
            return Err(OssError::access_denied("Request has expired.")
                .ec("0002-00000069")
                .with("Expires", iso(expires))
                .with("ServerTime", iso(now)));
        }
        return Ok(());
    }
    let date = claim
        .date
        .ok_or_else(|| OssError::access_denied("OSS authentication requires a valid Date.").ec("0002-00000905"))?;
    if skew_check && now.abs_diff(date) > MAX_SKEW_MS {
        return Err(too_skewed(date, now));
    }
    Ok(())
}

/// 403 RequestTimeTooSkewed.
pub fn too_skewed(date: u64, now: u64) -> OssError {
    OssError::new(
        403,
        "RequestTimeTooSkewed",
        "The difference between the request time and the current time is too large.",
    )
    .with("MaxAllowedSkewMilliseconds", MAX_SKEW_MS.to_string())
    .with("RequestTime", iso(date))
    .with("ServerTime", iso(now))
    .header("date", http_date(now))
}

fn check_token(claim: &Claim, key: &AccessKey, now: u64) -> Result<(), OssError> {
    if claim.token != key.token {
        return Err(OssError::new(403, "InvalidSecurityToken", "The security token you provided is invalid."));
    }
    if key.expires.is_some_and(|at| now >= at) {
        return Err(OssError::new(403, "SecurityTokenExpired", "The security token you provided has expired."));
    }
    Ok(())
}

fn compare(claim: &Claim, key: &AccessKey, req: &Req) -> Result<(), OssError> {
    let (string_to_sign, canonical, expected) = match &claim.form {
        Form::V1 { date_slot } => {
            let text = auth_v1::string_to_sign(req, date_slot);
            let expected = auth_v1::sign(&key.secret, &text);
            (text, None, expected)
        }
        Form::V4(scope) => {
            let canonical = auth_v4::canonical_request(req, scope);
            let text = auth_v4::string_to_sign(&canonical, scope);
            let expected = auth_v4::sign(&key.secret, scope, &text);
            (text, Some(canonical), expected)
        }
    };
    if same(expected.as_bytes(), claim.signature.as_bytes()) {
        return Ok(());
    }
    let bytes: Vec<String> = string_to_sign.bytes().map(|b| format!("{b:02X}")).collect();
    let mut error = OssError::new(
        403,
        "SignatureDoesNotMatch",
        "The request signature we calculated does not match the signature you provided. Check your key and signing method.",
    )
    .with("OSSAccessKeyId", &claim.id)
    .with("SignatureProvided", &claim.signature)
    .with("StringToSign", &string_to_sign)
    .with("StringToSignBytes", bytes.join(" "));
    if let Some(canonical) = canonical {
        error = error.with("CanonicalRequest", canonical);
    }
    Err(error)
}

/// Comparison that takes the same time wherever the difference is.
fn same(a: &[u8], b: &[u8]) -> bool {
    a.len() == b.len() && a.iter().zip(b).fold(0u8, |acc, (x, y)| acc | (x ^ y)) == 0
}

/// base64 of HMAC-SHA1.
pub fn hmac_sha1_base64(secret: &str, text: &str) -> String {
    match Hmac::<sha1::Sha1>::new_from_slice(secret.as_bytes()) {
        Ok(mut mac) => {
            mac.update(text.as_bytes());
            base64::engine::general_purpose::STANDARD.encode(mac.finalize().into_bytes())
        }
        // HMAC takes keys of any length; an empty text never equals a signature.
        Err(_) => String::new(),
    }
}

/// HMAC-SHA256.
pub fn hmac_sha256(key: &[u8], text: &str) -> Vec<u8> {
    match Hmac::<sha2::Sha256>::new_from_slice(key) {
        Ok(mut mac) => {
            mac.update(text.as_bytes());
            mac.finalize().into_bytes().to_vec()
        }
        Err(_) => Vec::new(),
    }
}
