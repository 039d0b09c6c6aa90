//! The signature of a form's policy, and that of the PutObject which the form becomes.

use base64::Engine as _;
use base64::engine::general_purpose::STANDARD as BASE64;
use hmac::{Hmac, KeyInit, Mac};
use http::{HeaderValue, header};
use percent_encoding::{AsciiSet, NON_ALPHANUMERIC};
use s3s::auth::SecretKey;
use s3s::{Body, S3Result, s3_error};
use sha1::Sha1;
use sha2::{Digest, Sha256};
use tidegate_tiering::clock::Timestamp;

use super::fields::Fields;
use super::invalid;

/// What is percent-encoded in a query.
pub(super) const IN_QUERY: &AsciiSet = &NON_ALPHANUMERIC.remove(b'-').remove(b'_').remove(b'.').remove(b'~');
/// The same in a path.
pub(super) const IN_PATH: &AsciiSet = &IN_QUERY.remove(b'/');

/// How a policy is signed, as the form says it.
enum Version {
    V2,
    /// Date, region.
    V4(String, String),
}

/// What the form says about its signature.
pub(super) struct Claim {
    access_key: String,
    version: Version,
    signature: String,
}

/// A signature that was found right: whose it is, and what signs for them.
pub(super) struct Signature {
    access_key: String,
    region: String,
    secret: SecretKey,
}

fn hmac(key: &[u8], text: &str) -> S3Result<Vec<u8>> {
    let mut mac = Hmac::<Sha256>::new_from_slice(key).map_err(|_| s3_error!(InternalError))?;
    mac.update(text.as_bytes());
    Ok(mac.finalize().into_bytes().to_vec())
}

/// The key that signs on a day.
fn signing_key(secret: &SecretKey, date: &str, region: &str) -> S3Result<Vec<u8>> {
    let first = format!("AWS4{}", secret.expose()).into_bytes();
    [date, region, "s3", "aws4_request"].iter().try_fold(first, |key, part| hmac(&key, part))
}

impl Signature {
    /// What the form says about its signature.
    ///
    /// # Errors
    /// `InvalidArgument` for a field that is missing or malformed.
    pub(super) fn of(fields: &Fields) -> S3Result<Claim> {
        let needed = |name: &str| {
            let value = fields.get(name).filter(|value| !value.is_empty());
            value.ok_or_else(|| invalid(format!("Bucket POST must contain a field named '{name}'.")))
        };
        if fields.get("awsaccesskeyid").is_some() || fields.get("signature").is_some() {
            let (access_key, signature) = (needed("awsaccesskeyid")?.to_owned(), needed("signature")?.to_owned());
            return Ok(Claim { access_key, version: Version::V2, signature });
        }
        let signature = needed("x-amz-signature")?.to_owned();
        if needed("x-amz-algorithm")? != "AWS4-HMAC-SHA256" {
            return Err(invalid("The field x-amz-algorithm must be AWS4-HMAC-SHA256."));
        }
        let credential: Vec<&str> = needed("x-amz-credential")?.split('/').collect();
        let [access_key @ .., date, region, "s3", "aws4_request"] = credential.as_slice() else {
            return Err(invalid("The field x-amz-credential must be KEY/DATE/REGION/s3/aws4_request."));
        };
        if !needed("x-amz-date")?.starts_with(date) || date.len() != 8 {
            return Err(invalid("The field x-amz-date must be of the day that x-amz-credential names."));
        }
        let version = Version::V4((*date).to_owned(), (*region).to_owned());
        Ok(Claim { access_key: access_key.join("/"), version, signature })
    }

    /// Signs a request without a body's digest.
    pub(super) fn sign(&self, request: &mut http::Request<Body>, now: Timestamp) -> S3Result<()> {
        let text = now.to_string(); // 2026-01-02T03:04:05.678Z
        let stamp = format!("{}Z", text.get(..19).unwrap_or_default().replace(['-', ':'], ""));
        let date = stamp.get(..8).unwrap_or_default();
        let value = |text: &str| HeaderValue::try_from(text).map_err(|_| s3_error!(InternalError));
        request.headers_mut().insert("x-amz-date", value(&stamp)?);
        request.headers_mut().insert("x-amz-content-sha256", HeaderValue::from_static("UNSIGNED-PAYLOAD"));
        let names = ["host", "x-amz-content-sha256", "x-amz-date", "x-amz-security-token"];
        let there = |name: &&&str| request.headers().contains_key(**name);
        let names: Vec<&str> = names.iter().filter(there).copied().collect();
        let line = |name: &&str| {
            let value = request.headers().get(*name).map(HeaderValue::as_bytes).unwrap_or_default();
            format!("{name}:{}\n", String::from_utf8_lossy(value).trim())
        };
        let (lines, names) = (names.iter().map(line).collect::<String>(), names.join(";"));
        let canonical = format!("PUT\n{}\n\n{lines}\n{names}\nUNSIGNED-PAYLOAD", request.uri().path());
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

impl Claim {
    pub(super) fn access_key(&self) -> &str {
        &self.access_key
    }

    /// # Errors
    /// `SignatureDoesNotMatch`.
    pub(super) fn verified(self, policy: &str, secret: SecretKey) -> S3Result<Signature> {
        // Compared in a time that tells nothing about the right one.
        let (right, region) = match &self.version {
            Version::V2 => {
                let mac = Hmac::<Sha1>::new_from_slice(secret.expose().as_bytes()).map(|mac| mac.chain_update(policy));
                let given = BASE64.decode(self.signature.trim()).unwrap_or_default();
                (mac.is_ok_and(|mac| mac.verify_slice(&given).is_ok()), "us-east-1".to_owned())
            }
            Version::V4(date, region) => {
                let key = signing_key(&secret, date, region)?;
                let mac = Hmac::<Sha256>::new_from_slice(&key).map(|mac| mac.chain_update(policy));
                let given = hex::decode(self.signature.trim()).unwrap_or_default();
                (mac.is_ok_and(|mac| mac.verify_slice(&given).is_ok()), region.clone())
            }
        };
        if !right {
            return Err(s3_error!(SignatureDoesNotMatch, "The signature does not fit the policy of the form."));
        }
        Ok(Signature { access_key: self.access_key, region, secret })
    }
}
