//! Signature version 4 (`OSS4-HMAC-SHA256`), of requests by header and of URLs by query.

use super::credentials::Credentials;
use super::date;
use super::encode;
use crate::clock::Timestamp;
use sha2::{Digest, Sha256};

const ALGORITHM: &str = "OSS4-HMAC-SHA256";
const TERMINATOR: &str = "aliyun_v4_request";
/// Bodies are not part of the signature: they are streamed, and their CRC-64 is compared afterwards.
pub(crate) const UNSIGNED_PAYLOAD: &str = "UNSIGNED-PAYLOAD";
/// Longest validity of a signed URL, in seconds (seven days).
pub(crate) const MAX_EXPIRES_SECONDS: u64 = 604_800;

/// Whose and where: the part of the scope that is configured.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Scope<'a> {
    /// Region without the `oss-` prefix, or the id of a CloudBox.
    pub region: &'a str,
    /// `oss`, or `oss-cloudbox`.
    pub product: &'a str,
}

/// What is signed. The bucket is always part of it, whether or not the URL shows it. No `Debug`: the headers may hold a
/// security token.
#[derive(Clone, Copy)]
pub(crate) struct Signed<'a> {
    /// HTTP method in capitals.
    pub method: &'a str,
    /// Bucket, when the request has one.
    pub bucket: Option<&'a str>,
    /// Key, not encoded.
    pub key: Option<&'a str>,
    /// Query parameters, not encoded; an empty value means none.
    pub query: &'a [(String, String)],
    /// Headers, names in lower case.
    pub headers: &'a [(String, String)],
    /// Names of headers that are signed though the rules do not demand it.
    pub additional: &'a [&'a str],
}

/// The two texts on the way to a signature: for the `Authorization` header, and for tests.
pub(crate) struct Signature {
    /// Hashed into `string_to_sign`.
    #[cfg_attr(not(test), allow(dead_code))]
    pub canonical_request: String,
    /// Signed.
    #[cfg_attr(not(test), allow(dead_code))]
    pub string_to_sign: String,
    /// Names of the additional headers, joined.
    pub additional: String,
    /// Lower-case hex.
    pub hex: String,
}

/// `<day>/<region>/<product>/aliyun_v4_request`.
fn scope_text(scope: Scope<'_>, now: Timestamp) -> String {
    let stamp = date::compact(now);
    let day = stamp.get(..8).unwrap_or_default();
    format!("{day}/{}/{}/{TERMINATOR}", scope.region, scope.product)
}

fn signed_by_default(name: &str) -> bool {
    name == "content-type" || name == "content-md5" || name.starts_with("x-oss-")
}

/// Signs `what` at `now`. `x-oss-date` and `x-oss-content-sha256` must be among the headers (or, for a URL, the query).
pub(crate) fn sign(what: &Signed<'_>, scope: Scope<'_>, secret: &str, now: Timestamp) -> Signature {
    let mut additional: Vec<String> = what.additional.iter().map(|h| h.to_ascii_lowercase()).collect();
    additional.retain(|name| !signed_by_default(name) && what.headers.iter().any(|(h, _)| h == name));
    additional.sort();
    additional.dedup();
    let mut headers: Vec<(&str, &str)> = what
        .headers
        .iter()
        .filter(|(name, _)| signed_by_default(name) || additional.contains(name))
        .map(|(name, value)| (name.as_str(), value.trim()))
        .collect();
    headers.sort_unstable();
    let mut query: Vec<(String, String)> =
        what.query.iter().map(|(k, v)| (encode::strict(k), encode::strict(v))).collect();
    query.sort_unstable();
    let query: Vec<String> =
        query.into_iter().map(|(k, v)| if v.is_empty() { k } else { format!("{k}={v}") }).collect();
    let additional = additional.join(";");
    let mut canonical = format!("{}\n{}\n{}\n", what.method, canonical_uri(what), query.join("&"));
    for (name, value) in headers {
        canonical.push_str(&format!("{name}:{value}\n"));
    }
    canonical.push_str(&format!("\n{additional}\n{UNSIGNED_PAYLOAD}"));
    let stamp = date::compact(now);
    let string_to_sign = format!(
        "{ALGORITHM}\n{stamp}\n{}\n{}",
        scope_text(scope, now),
        hex::encode(Sha256::digest(canonical.as_bytes()))
    );
    let day = stamp.get(..8).unwrap_or_default();
    let mut signing_key = encode::hmac_sha256(format!("aliyun_v4{secret}").as_bytes(), day.as_bytes());
    for piece in [scope.region, scope.product, TERMINATOR] {
        signing_key = encode::hmac_sha256(&signing_key, piece.as_bytes());
    }
    let hex = hex::encode(encode::hmac_sha256(&signing_key, string_to_sign.as_bytes()));
    Signature { canonical_request: canonical, string_to_sign, additional, hex }
}

fn canonical_uri(what: &Signed<'_>) -> String {
    match (what.bucket, what.key) {
        (Some(bucket), Some(key)) => encode::path(&format!("/{bucket}/{key}")),
        (Some(bucket), None) => encode::path(&format!("/{bucket}/")),
        (None, _) => "/".to_owned(),
    }
}

/// The value of the `Authorization` header.
pub(crate) fn authorization(what: &Signed<'_>, scope: Scope<'_>, credentials: &Credentials, now: Timestamp) -> String {
    let signature = sign(what, scope, credentials.access_key_secret.expose(), now);
    let additional = match signature.additional.as_str() {
        "" => String::new(),
        names => format!(",AdditionalHeaders={names}"),
    };
    format!(
        "{ALGORITHM} Credential={}/{}{additional},Signature={}",
        credentials.access_key_id,
        scope_text(scope, now),
        signature.hex
    )
}

/// The query parameters of a signed URL, in the order of their addition; `what.query` holds the request's own.
pub(crate) fn presign_query(
    what: &Signed<'_>,
    scope: Scope<'_>,
    credentials: &Credentials,
    now: Timestamp,
    expires_seconds: u64,
) -> (Vec<(String, String)>, Signature) {
    let mut query = what.query.to_vec();
    let mut add = |name: &str, value: String| query.push((name.to_owned(), value));
    add("x-oss-signature-version", ALGORITHM.to_owned());
    add("x-oss-credential", format!("{}/{}", credentials.access_key_id, scope_text(scope, now)));
    add("x-oss-date", date::compact(now));
    add("x-oss-expires", expires_seconds.to_string());
    if let Some(token) = &credentials.security_token {
        add("x-oss-security-token", token.expose().to_owned());
    }
    let mut names: Vec<String> = what.additional.iter().map(|n| n.to_ascii_lowercase()).collect();
    names.retain(|name| !signed_by_default(name));
    names.sort();
    names.dedup();
    if !names.is_empty() {
        add("x-oss-additional-headers", names.join(";"));
    }
    let signature = sign(&Signed { query: &query, ..*what }, scope, credentials.access_key_secret.expose(), now);
    query.push(("x-oss-signature".to_owned(), signature.hex.clone()));
    (query, signature)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::tier::oss::vectors::{credentials, pairs, vectors};
    use serde_json::Value;

    fn own_query() -> Vec<(String, String)> {
        pairs(&[
            ("param1", "value1"),
            ("+param1", "value3"),
            ("|param1", "value4"),
            ("+param2", ""),
            ("|param2", ""),
            ("param2", ""),
        ])
    }

    struct Case {
        value: Value,
        now: Timestamp,
        credentials: Credentials,
        additional: Vec<&'static str>,
    }

    fn case(value: Value) -> Case {
        let name = value["name"].as_str().unwrap();
        let token = name.contains("STS").then_some("token");
        let additional = if name.contains("additional") { vec!["ZAbc", "abc"] } else { vec![] };
        Case {
            now: Timestamp(value["unix_time"].as_u64().unwrap() * 1000),
            credentials: credentials(&value, token),
            additional,
            value,
        }
    }

    #[test]
    fn every_header_vector_gives_its_canonical_request_and_signature() {
        let list = vectors("oss_v4_header");
        assert_eq!(list.len(), 4);
        for value in list {
            let case = case(value);
            let mut headers =
                pairs(&[("abc", "value"), ("xyz", "value"), ("zabc", "value"), ("x-oss-head1", " value ")]);
            headers.extend(pairs(&[("content-type", "text/plain"), ("x-oss-content-sha256", UNSIGNED_PAYLOAD)]));
            headers.push(("x-oss-date".into(), date::compact(case.now)));
            if let Some(token) = &case.credentials.security_token {
                headers.push(("x-oss-security-token".into(), token.expose().into()));
            }
            let scope = Scope {
                region: case.value["region"].as_str().unwrap(),
                product: case.value["product"].as_str().unwrap(),
            };
            let query = own_query();
            let what = Signed {
                method: "PUT",
                bucket: Some("bucket"),
                key: Some("1234+-/123/1.txt"),
                query: &query,
                headers: &headers,
                additional: &case.additional,
            };
            let signature = sign(&what, scope, case.credentials.access_key_secret.expose(), case.now);
            assert_eq!(signature.canonical_request, case.value["canonical_request"].as_str().unwrap());
            assert_eq!(signature.string_to_sign, case.value["string_to_sign"].as_str().unwrap());
            assert_eq!(signature.hex, case.value["expected"].as_str().unwrap());
            let header = authorization(&what, scope, &case.credentials, case.now);
            assert!(header.ends_with(&format!(",Signature={}", signature.hex)));
            assert_eq!(header.contains("AdditionalHeaders=abc;zabc,"), !case.additional.is_empty());
        }
    }

    #[test]
    fn every_presign_vector_gives_its_canonical_request_and_signature() {
        let list = vectors("oss_v4_presign");
        assert_eq!(list.len(), 3);
        for value in list {
            let case = case(value);
            let headers = pairs(&[
                ("abc", "value"),
                ("xyz", "value"),
                ("zabc", "value"),
                ("x-oss-head1", "value"),
                ("content-type", "application/octet-stream"),
            ]);
            let query = own_query();
            let what = Signed {
                method: "PUT",
                bucket: Some("bucket"),
                key: Some("1234+-/123/1.txt"),
                query: &query,
                headers: &headers,
                additional: &case.additional,
            };
            let scope = Scope { region: "cn-hangzhou", product: "oss" };
            let (_, signature) = presign_query(&what, scope, &case.credentials, case.now, 599);
            assert_eq!(signature.canonical_request, case.value["canonical_request"].as_str().unwrap());
            assert_eq!(signature.string_to_sign, case.value["string_to_sign"].as_str().unwrap());
            assert_eq!(signature.hex, case.value["expected"].as_str().unwrap());
        }
    }

    #[test]
    fn bucket_and_service_have_their_own_canonical_paths() {
        let what = Signed { method: "GET", bucket: None, key: None, query: &[], headers: &[], additional: &[] };
        assert_eq!(canonical_uri(&what), "/");
        assert_eq!(canonical_uri(&Signed { bucket: Some("b"), ..what }), "/b/");
    }
}
