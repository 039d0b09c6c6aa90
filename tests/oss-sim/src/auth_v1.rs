//! Signature V1: HMAC-SHA1 over method, MD5, type, date, `x-oss-*` headers and the resource.

use crate::auth::{Claim, Form, hmac_sha1_base64, malformed};
use crate::clock::{SECOND, parse_http_date};
use crate::error::OssError;
use crate::request::Req;
use http::HeaderMap;

/// Query names that are part of the resource: the union of the vendor's documentation and its SDKs. Names that start with
/// `x-oss-` are signed as well.
const SIGNED: &[&str] = &[
    "accessmonitor",
    "acl",
    "append",
    "asyncFetch",
    "bucketArchiveDirectRead",
    "bucketInfo",
    "callback",
    "callback-var",
    "cleanRestoredObject",
    "cloudboxes",
    "cname",
    "comp",
    "continuation-token",
    "cors",
    "delete",
    "encryption",
    "endTime",
    "httpsConfig",
    "img",
    "inventory",
    "inventoryId",
    "lifecycle",
    "live",
    "location",
    "logging",
    "objectInfo",
    "objectMeta",
    "partNumber",
    "policy",
    "policyStatus",
    "position",
    "publicAccessBlock",
    "qos",
    "qosInfo",
    "referer",
    "regionList",
    "replication",
    "replicationLocation",
    "replicationProgress",
    "requestPayment",
    "resourceGroup",
    "response-cache-control",
    "response-content-disposition",
    "response-content-encoding",
    "response-content-language",
    "response-content-type",
    "response-expires",
    "restore",
    "rtc",
    "seal",
    "security-token",
    "sequential",
    "startTime",
    "stat",
    "status",
    "style",
    "styleName",
    "symlink",
    "tagging",
    "transferAcceleration",
    "uploadId",
    "uploads",
    "versionId",
    "versioning",
    "versions",
    "vod",
    "website",
    "worm",
    "wormExtend",
    "wormId",
];

/// Reads `OSS <id>:<signature>`.
///
/// # Errors
/// 400 InvalidArgument when it has another form.
pub fn header_claim(req: &Req, text: &str) -> Result<Claim, OssError> {
    let rest = text.strip_prefix("OSS ").unwrap_or(text);
    let (id, signature) = rest.split_once(':').ok_or_else(|| malformed("expected OSS AccessKeyId:Signature"))?;
    // The only date that some clients can set is x-oss-date; it then stands in the Date line as well.
    let date_slot = req.header("x-oss-date").or_else(|| req.header("date")).unwrap_or_default();
    Ok(Claim {
        id: id.trim().to_string(),
        signature: signature.trim().to_string(),
        date: parse_http_date(&date_slot),
        expires: None,
        token: req.header("x-oss-security-token"),
        form: Form::V1 { date_slot },
    })
}

/// Reads the query form.
///
/// # Errors
/// 403 AccessDenied when `Expires` is missing or not a number.
pub fn query_claim(req: &Req) -> Result<Claim, OssError> {
    let get = |name: &str| req.query.get(name).map(str::to_string);
    let date_slot = get("Expires").unwrap_or_default();
    let expires = date_slot.parse::<u64>().map_err(|_| {
        OssError::access_denied("Query-string authentication requires a valid Expires.").ec("0002-00000201")
    })?;
    Ok(Claim {
        id: get("OSSAccessKeyId").unwrap_or_default(),
        signature: get("Signature").unwrap_or_default(),
        date: None,
        expires: Some(expires.saturating_mul(SECOND)),
        token: get("security-token").or_else(|| req.header("x-oss-security-token")),
        form: Form::V1 { date_slot },
    })
}

/// The string to sign of a request.
pub fn string_to_sign(req: &Req, date_slot: &str) -> String {
    format!(
        "{}\n{}\n{}\n{}\n{}{}",
        req.method,
        req.header("content-md5").unwrap_or_default(),
        req.header("content-type").unwrap_or_default(),
        date_slot,
        canonical_headers(&req.headers),
        canonical_resource(req)
    )
}

fn canonical_headers(headers: &HeaderMap) -> String {
    let mut lines: Vec<(String, String)> = headers
        .iter()
        .filter(|(name, _)| name.as_str().starts_with("x-oss-"))
        .map(|(name, value)| (name.to_string(), String::from_utf8_lossy(value.as_bytes()).trim().to_string()))
        .collect();
    lines.sort();
    lines.iter().map(|(name, value)| format!("{name}:{value}\n")).collect()
}

fn canonical_resource(req: &Req) -> String {
    let mut out = match &req.bucket {
        Some(bucket) => format!("/{bucket}/{}", req.key.as_deref().unwrap_or_default()),
        None => "/".to_string(),
    };
    let mut signed: Vec<&(String, String)> = req.query.0.iter().filter(|(name, _)| is_signed(name)).collect();
    signed.sort();
    for (i, (name, value)) in signed.into_iter().enumerate() {
        out.push(if i == 0 { '?' } else { '&' });
        out.push_str(name);
        if !value.is_empty() {
            out.push('=');
            out.push_str(value);
        }
    }
    out
}

fn is_signed(name: &str) -> bool {
    name.starts_with("x-oss-") || SIGNED.contains(&name)
}

/// The signature.
pub fn sign(secret: &str, string_to_sign: &str) -> String {
    hmac_sha1_base64(secret, string_to_sign)
}
