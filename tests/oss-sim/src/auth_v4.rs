//! Signature V4: HMAC-SHA256 with a derived key. The canonical path always holds the bucket, whatever the addressing style.

use crate::auth::{Claim, Form, hmac_sha256, malformed};
use crate::clock::{SECOND, parse_compact};
use crate::error::OssError;
use crate::request::{PATH, Req, encode};
use percent_encoding::utf8_percent_encode;
use sha2::{Digest, Sha256};

const ALGORITHM: &str = "OSS4-HMAC-SHA256";
/// Longest life of a presigned URL: seven days, in seconds.
const MAX_EXPIRES_S: u64 = 604_800;

/// What a V4 signature covers besides the request itself.
#[derive(Debug)]
pub struct Scope {
    /// `x-oss-date`.
    pub date_time: String,
    /// `YYYYMMDD`.
    pub date: String,
    /// Region without the `oss-` prefix.
    pub region: String,
    /// `oss` or `oss-cloudbox`.
    pub product: String,
    /// Additional signed headers: lower case, sorted.
    pub additional: Vec<String>,
    /// Signed by query parameters.
    pub presigned: bool,
}

/// Reads the Authorization header: parts separated by commas, with or without spaces.
///
/// # Errors
/// 400 InvalidArgument when it cannot be read or names another region.
pub fn header_claim(req: &Req, text: &str, region: &str) -> Result<Claim, OssError> {
    let rest = text.strip_prefix(ALGORITHM).unwrap_or(text);
    let (mut credential, mut signature, mut additional) = (None, None, "");
    for part in rest.split(',').map(str::trim) {
        match part.split_once('=') {
            Some(("Credential", value)) => credential = Some(value),
            Some(("Signature", value)) => signature = Some(value),
            Some(("AdditionalHeaders", value)) => additional = value,
            _ => return Err(malformed(&format!("unknown part {part:?}"))),
        }
    }
    let credential = credential.ok_or_else(|| malformed("Credential is missing"))?;
    let signature = signature.ok_or_else(|| malformed("Signature is missing"))?;
    // GMT dates in x-oss-date are the V1 form; V4 takes the compact one and falls back to Date.
    let date_time = match req.header("x-oss-date") {
        Some(text) => text,
        None => req
            .header("date")
            .and_then(|d| crate::clock::parse_http_date(&d))
            .map(crate::clock::compact)
            .unwrap_or_default(),
    };
    let (id, scope) = scope_of(credential, &date_time, additional, false, region)?;
    Ok(Claim {
        id,
        signature: signature.to_string(),
        date: parse_compact(&date_time),
        expires: None,
        token: req.header("x-oss-security-token"),
        form: Form::V4(scope),
    })
}

/// Reads the query form.
///
/// # Errors
/// 400 InvalidArgument for what is missing or out of range.
pub fn query_claim(req: &Req, region: &str) -> Result<Claim, OssError> {
    let need = |name: &str| {
        req.query.get(name).ok_or_else(|| {
            OssError::invalid_argument("Query-string authentication version 4 requires this parameter.", name, "")
        })
    };
    let version = need("x-oss-signature-version")?;
    if version != ALGORITHM {
        return Err(OssError::invalid_argument("Unknown signature version.", "x-oss-signature-version", version));
    }
    let date_time = need("x-oss-date")?;
    let expires = need("x-oss-expires")?;
    let seconds = expires.parse::<u64>().ok().filter(|s| (1..=MAX_EXPIRES_S).contains(s)).ok_or_else(|| {
        OssError::invalid_argument("x-oss-expires must be between 1 and 604800 seconds.", "x-oss-expires", expires)
    })?;
    let additional = req.query.get("x-oss-additional-headers").unwrap_or_default();
    let (id, scope) = scope_of(need("x-oss-credential")?, date_time, additional, true, region)?;
    let date = parse_compact(date_time)
        .ok_or_else(|| OssError::access_denied("x-oss-date is not a valid date.").ec("0002-00000905"))?;
    Ok(Claim {
        id,
        signature: need("x-oss-signature")?.to_string(),
        date: Some(date),
        expires: Some(date.saturating_add(seconds.saturating_mul(SECOND))),
        token: req.query.get("x-oss-security-token").map(str::to_string),
        form: Form::V4(scope),
    })
}

fn scope_of(
    credential: &str,
    date_time: &str,
    additional: &str,
    presigned: bool,
    expected_region: &str,
) -> Result<(String, Scope), OssError> {
    let parts: Vec<&str> = credential.split('/').collect();
    let [id, date, region, product, "aliyun_v4_request"] = parts.as_slice() else {
        return Err(malformed("Credential must be AccessKeyId/YYYYMMDD/region/product/aliyun_v4_request"));
    };
    if *product != "oss" && *product != "oss-cloudbox" {
        return Err(malformed("the product in Credential must be oss or oss-cloudbox"));
    }
    if *region != expected_region && *product == "oss" {
        return Err(OssError::invalid_argument("Invalid signing region in Credential.", "region", region)
            .with("Region", expected_region));
    }
    // A date that cannot be read is not compared: it is refused for that.
    if parse_compact(date_time).is_some() && !date_time.starts_with(date) {
        return Err(malformed("the date in Credential differs from x-oss-date"));
    }
    let mut additional: Vec<String> =
        additional.split(';').map(|h| h.trim().to_ascii_lowercase()).filter(|h| !h.is_empty()).collect();
    additional.sort();
    let scope = Scope {
        date_time: date_time.to_string(),
        date: (*date).to_string(),
        region: (*region).to_string(),
        product: (*product).to_string(),
        additional,
        presigned,
    };
    Ok(((*id).to_string(), scope))
}

fn default_signed(name: &str) -> bool {
    name == "content-type" || name == "content-md5" || name.starts_with("x-oss-")
}

/// The canonical request.
pub fn canonical_request(req: &Req, scope: &Scope) -> String {
    let path = match (&req.bucket, &req.key) {
        (Some(bucket), key) => format!("/{bucket}/{}", key.as_deref().unwrap_or_default()),
        (None, _) => "/".to_string(),
    };
    let mut query: Vec<(String, String)> = req
        .query
        .0
        .iter()
        .filter(|(name, _)| !(scope.presigned && name == "x-oss-signature"))
        .map(|(name, value)| (encode(name), encode(value)))
        .collect();
    query.sort();
    let query: Vec<String> =
        query.into_iter().map(|(n, v)| if v.is_empty() { n } else { format!("{n}={v}") }).collect();
    let additional: Vec<&str> =
        scope.additional.iter().map(String::as_str).filter(|name| !default_signed(name)).collect();
    let mut headers: Vec<(String, String)> = req
        .headers
        .iter()
        .filter(|(name, _)| default_signed(name.as_str()) || additional.contains(&name.as_str()))
        .map(|(name, value)| (name.to_string(), String::from_utf8_lossy(value.as_bytes()).trim().to_string()))
        .collect();
    headers.sort();
    let headers: String = headers.iter().map(|(n, v)| format!("{n}:{v}\n")).collect();
    let payload = req.header("x-oss-content-sha256").filter(|_| !scope.presigned);
    format!(
        "{}\n{}\n{}\n{}\n{}\n{}",
        req.method,
        utf8_percent_encode(&path, PATH),
        query.join("&"),
        headers,
        additional.join(";"),
        payload.as_deref().unwrap_or("UNSIGNED-PAYLOAD")
    )
}

/// The string to sign.
pub fn string_to_sign(canonical_request: &str, scope: &Scope) -> String {
    format!(
        "{ALGORITHM}\n{}\n{}/{}/{}/aliyun_v4_request\n{}",
        scope.date_time,
        scope.date,
        scope.region,
        scope.product,
        hex::encode(Sha256::digest(canonical_request.as_bytes()))
    )
}

/// The signature.
pub fn sign(secret: &str, scope: &Scope, string_to_sign: &str) -> String {
    let key = hmac_sha256(format!("aliyun_v4{secret}").as_bytes(), &scope.date);
    let key = hmac_sha256(&key, &scope.region);
    let key = hmac_sha256(&key, &scope.product);
    let key = hmac_sha256(&key, "aliyun_v4_request");
    hex::encode(hmac_sha256(&key, string_to_sign))
}
