//! The vendor's published answers, for the tests of whoever signs. What is for signatures of other services than those that are
//! asked here is checked by the functions that all of them are made of.

use super::credentials::Credentials;
use super::encode;
use crate::tier::secret::Secret;
use serde_json::Value;

/// The vectors of one kind.
pub(crate) fn vectors(group: &str) -> Vec<Value> {
    let all: Value = serde_json::from_str(include_str!("../../../tests/data/oss-vectors.json")).unwrap();
    all[group].as_array().unwrap().clone()
}

/// The key of a vector.
pub(crate) fn credentials(vector: &Value, token: Option<&str>) -> Credentials {
    Credentials {
        access_key_id: vector["ak"].as_str().unwrap().into(),
        access_key_secret: Secret::new(vector["sk"].as_str().unwrap()),
        security_token: token.map(Secret::new),
        expires: None,
    }
}

pub(crate) fn pairs(list: &[(&str, &str)]) -> Vec<(String, String)> {
    list.iter().map(|(k, v)| ((*k).to_owned(), (*v).to_owned())).collect()
}

/// Checks every vector of a kind by what `make` makes of its secret and of the text under `input`.
fn check(group: &str, count: usize, input: &str, make: impl Fn(&[u8], &str) -> String) {
    let list = vectors(group);
    assert_eq!(list.len(), count, "{group}");
    for vector in list {
        let secret = vector["sk"].as_str().unwrap_or_default();
        let made = make(secret.as_bytes(), vector[input].as_str().unwrap());
        assert_eq!(made, vector["expected"].as_str().unwrap(), "{group}: {}", vector["name"]);
    }
}

#[test]
fn the_vendors_other_services_come_out_of_the_same_functions() {
    use md5::{Digest, Md5};
    use sha2::Sha256;
    check("sls_v1", 2, "string_to_sign", |key, text| encode::base64(&encode::hmac_sha1(key, text.as_bytes())));
    check("cms_http", 1, "string_to_sign", |key, text| hex::encode_upper(encode::hmac_sha1(key, text.as_bytes())));
    check("cdn_url_auth", 3, "md5_input", |_, text| hex::encode(Md5::digest(text.as_bytes())));
    check("acs3", 1, "canonical_request", |key, text| {
        let text = format!("ACS3-HMAC-SHA256\n{}", hex::encode(Sha256::digest(text.as_bytes())));
        hex::encode(encode::hmac_sha256(key, text.as_bytes()))
    });
}
