//! The published answers of `vectors.json` against the code that verifies requests.

use crate::auth::hmac_sha1_base64;
use crate::auth_v4::{self, Scope};
use crate::request::{Query, Req};
use crate::{auth_v1, blob};
use http::{HeaderMap, HeaderName, HeaderValue};
use serde_json::Value;

fn vectors(group: &str) -> Vec<Value> {
    let all: Value = serde_json::from_str(include_str!("../vectors.json")).unwrap();
    let found = all[group].as_array().unwrap().clone();
    assert!(!found.is_empty());
    found
}

fn text<'a>(vector: &'a Value, name: &str) -> &'a str {
    vector[name].as_str().unwrap()
}

fn req(method: &str, bucket: &str, key: &str, query: Query, headers: &[(&str, &str)]) -> Req {
    let mut map = HeaderMap::new();
    for (name, value) in headers {
        map.insert(HeaderName::from_bytes(name.as_bytes()).unwrap(), HeaderValue::from_str(value).unwrap());
    }
    let some = |t: &str| Some(t.to_string()).filter(|t| !t.is_empty());
    let method = method.parse().unwrap();
    let (host, caller) = (String::new(), String::new());
    Req { method, bucket: some(bucket), key: some(key), query, headers: map, host, now: 0, caller }
}

/// The request that a V1 string to sign describes.
fn request_of(string_to_sign: &str) -> (Req, String) {
    let lines: Vec<&str> = string_to_sign.split('\n').collect();
    let (resource, query) = lines[lines.len() - 1].split_once('?').unwrap_or((lines[lines.len() - 1], ""));
    let (bucket, key) = resource[1..].split_once('/').unwrap();
    let mut headers: Vec<(&str, &str)> =
        lines[4..lines.len() - 1].iter().map(|line| line.split_once(':').unwrap()).collect();
    headers.extend([("content-md5", lines[1]), ("content-type", lines[2])].iter().filter(|(_, v)| !v.is_empty()));
    (req(lines[0], bucket, key, Query::parse(query).unwrap(), &headers), lines[3].to_string())
}

#[test]
fn v1_strings_and_signatures_are_the_published_ones() {
    for group in ["oss_v1_header", "oss_v1_presign"] {
        for vector in vectors(group) {
            let expected = text(&vector, "string_to_sign");
            let (req, date) = request_of(expected);
            let found = auth_v1::string_to_sign(&req, &date);
            assert_eq!(found, expected);
            assert_eq!(auth_v1::sign("sk", &found), text(&vector, "expected"), "{}", text(&vector, "name"));
            assert_ne!(hmac_sha1_base64("sk2", &found), text(&vector, "expected"));
        }
    }
}

#[test]
fn v4_requests_strings_and_signatures_are_the_published_ones() {
    for group in ["oss_v4_header", "oss_v4_presign"] {
        for vector in vectors(group) {
            check_v4(&vector, group == "oss_v4_presign");
        }
    }
}

fn check_v4(vector: &Value, presigned: bool) {
    let (name, expected) = (text(vector, "name"), text(vector, "canonical_request"));
    let lines: Vec<&str> = expected.split('\n').collect();
    let from = text(vector, "string_to_sign").split('\n').collect::<Vec<_>>();
    let scope_parts: Vec<&str> = from[2].split('/').collect();
    let mut headers: Vec<(&str, &str)> =
        lines[3..lines.len() - 3].iter().filter_map(|line| line.split_once(':')).collect();
    // Headers that are not declared as additional must not be signed.
    headers.extend([("abc", "value"), ("zabc", "value"), ("xyz", "value")]);
    let mut query = Query::parse(lines[2]).unwrap();
    query.0.reverse();
    if presigned {
        query.0.push(("x-oss-signature".into(), text(vector, "expected").into()));
    }
    let req = req(lines[0], "bucket", "1234+-/123/1.txt", query, &headers);
    let scope = Scope {
        date_time: from[1].into(),
        date: scope_parts[0].into(),
        region: scope_parts[1].into(),
        product: scope_parts[2].into(),
        additional: lines[lines.len() - 2].split(';').filter(|h| !h.is_empty()).map(str::to_string).collect(),
        presigned,
    };
    let canonical = auth_v4::canonical_request(&req, &scope);
    assert_eq!(canonical, expected, "{name}");
    let string_to_sign = auth_v4::string_to_sign(&canonical, &scope);
    assert_eq!(string_to_sign, text(vector, "string_to_sign"), "{name}");
    assert_eq!(auth_v4::sign("sk", &scope, &string_to_sign), text(vector, "expected"), "{name}");
    assert_eq!(scope.date_time, crate::clock::compact(vector["unix_time"].as_u64().unwrap() * 1000), "{name}");
}

#[test]
fn crc64_is_the_published_one() {
    for vector in vectors("crc64") {
        let expected: u64 = text(&vector, "expected").parse().unwrap();
        let found = match text(&vector, "name") {
            "123456789" => blob::crc64(b"123456789"),
            "chained 1234+56789" => blob::crc64_combine(blob::crc64(b"1234"), blob::crc64(b"56789"), 5),
            "empty" => blob::crc64(b""),
            "hello world (computed)" => blob::crc64(b"hello world"),
            other => panic!("unknown vector {other}"),
        };
        assert_eq!(found, expected);
    }
}
