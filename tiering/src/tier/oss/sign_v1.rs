//! Signature version 1 (HMAC-SHA1), for older private clouds.

use super::credentials::Credentials;
use super::encode;
use super::sign_v4::Signed;

/// Sub-resources that are part of the signature, beside everything that starts with `x-oss-`. Other parameters
/// (`prefix`, `list-type`, `max-keys`) are not: signing them makes the store refuse the request.
const SIGNED_PARAMETERS: &[&str] = &[
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

fn is_signed(parameter: &str) -> bool {
    parameter.starts_with("x-oss-") || SIGNED_PARAMETERS.contains(&parameter)
}

fn resource(what: &Signed<'_>) -> String {
    let mut text = match (what.bucket, what.key) {
        (Some(bucket), Some(key)) => format!("/{bucket}/{key}"),
        (Some(bucket), None) => format!("/{bucket}/"),
        (None, _) => "/".to_owned(),
    };
    let mut signed: Vec<&(String, String)> = what.query.iter().filter(|(k, _)| is_signed(k)).collect();
    signed.sort();
    for (index, (key, value)) in signed.into_iter().enumerate() {
        text.push(if index == 0 { '?' } else { '&' });
        text.push_str(key);
        if !value.is_empty() {
            text.push('=');
            text.push_str(value);
        }
    }
    text
}

/// The text that is signed; `date` is the `Date` header, or the expiry in Unix seconds of a signed URL.
pub(crate) fn string_to_sign(what: &Signed<'_>, date: &str) -> String {
    let header = |name: &str| what.headers.iter().find(|(n, _)| n == name).map_or("", |(_, v)| v.trim());
    let mut text = format!("{}\n{}\n{}\n{date}\n", what.method, header("content-md5"), header("content-type"));
    let mut own: Vec<&(String, String)> = what.headers.iter().filter(|(n, _)| n.starts_with("x-oss-")).collect();
    own.sort();
    for (name, value) in own {
        text.push_str(&format!("{name}:{}\n", value.trim()));
    }
    text.push_str(&resource(what));
    text
}

/// The signature itself, base64.
pub(crate) fn signature(string_to_sign: &str, secret: &str) -> String {
    encode::base64(&encode::hmac_sha1(secret.as_bytes(), string_to_sign.as_bytes()))
}

/// The value of the `Authorization` header.
pub(crate) fn authorization(what: &Signed<'_>, credentials: &Credentials, date: &str) -> String {
    let text = string_to_sign(what, date);
    format!("OSS {}:{}", credentials.access_key_id, signature(&text, credentials.access_key_secret.expose()))
}

/// The query parameters of a signed URL; `what.query` holds the request's own.
pub(crate) fn presign_query(what: &Signed<'_>, credentials: &Credentials, expires_unix: u64) -> Vec<(String, String)> {
    let mut query = what.query.to_vec();
    if let Some(token) = &credentials.security_token {
        query.push(("security-token".to_owned(), token.expose().to_owned()));
    }
    let expires = expires_unix.to_string();
    let text = string_to_sign(&Signed { query: &query, ..*what }, &expires);
    let signature = signature(&text, credentials.access_key_secret.expose());
    query.push(("Expires".to_owned(), expires));
    query.push(("OSSAccessKeyId".to_owned(), credentials.access_key_id.clone()));
    query.push(("Signature".to_owned(), signature));
    query
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::tier::oss::vectors::{credentials, pairs, vectors};

    #[test]
    fn every_header_vector_gives_its_string_and_signature() {
        let list = vectors("oss_v1_header");
        assert_eq!(list.len(), 4);
        let date = "Wed, 28 Dec 2022 10:27:41 GMT";
        let put = pairs(&[
            ("x-oss-meta-magic", "abracadabra"),
            ("content-md5", "eB5eJF1ptWaXm4bijSPyxw=="),
            ("content-type", "text/html"),
            ("x-oss-date", date),
            ("x-oss-meta-author", " alice"),
        ]);
        let get = pairs(&[("x-oss-date", date)]);
        let requests = [
            ("PUT", Some("nelson"), pairs(&[]), &put),
            ("PUT", Some("nelson"), pairs(&[("acl", "")]), &put),
            ("GET", None, pairs(&[("resourceGroup", ""), ("prefix", "x")]), &get),
            ("GET", None, pairs(&[("resourceGroup", ""), ("acl", ""), ("non-resource", "null")]), &get),
        ];
        for (vector, (method, key, query, headers)) in list.iter().zip(requests) {
            let what = Signed { method, bucket: Some("examplebucket"), key, query: &query, headers, additional: &[] };
            assert_eq!(string_to_sign(&what, date), vector["string_to_sign"].as_str().unwrap());
            let expected = format!("OSS ak:{}", vector["expected"].as_str().unwrap());
            assert_eq!(authorization(&what, &credentials(vector, None), date), expected);
        }
    }

    #[test]
    fn every_presign_vector_gives_its_string_and_signature() {
        let list = vectors("oss_v1_presign");
        assert_eq!(list.len(), 2);
        let query = pairs(&[("versionId", "versionId")]);
        for (vector, (key, expires, token)) in
            list.iter().zip([("key", 1_699_807_420, None), ("key+123", 1_699_808_204, Some("token"))])
        {
            let what = Signed {
                method: "GET",
                bucket: Some("bucket"),
                key: Some(key),
                query: &query,
                headers: &[],
                additional: &[],
            };
            let signed = presign_query(&what, &credentials(vector, token), expires);
            let value = |name: &str| signed.iter().find(|(k, _)| k == name).map(|(_, v)| v.clone());
            assert_eq!(value("Signature").as_deref(), vector["expected"].as_str());
            assert_eq!(value("Expires"), Some(expires.to_string()));
            assert_eq!(value("security-token").as_deref(), token);
        }
    }
}
