//! The signature of a form's policy.

use base64::Engine as _;
use base64::engine::general_purpose::STANDARD as BASE64;
use hmac::{Hmac, KeyInit, Mac};
use s3s::auth::SecretKey;
use s3s::{S3Result, s3_error};
use sha1::Sha1;
use sha2::Sha256;

use super::super::request::Signed;
use super::super::signer::{Signer, signing_key};
use super::fields::Fields;
use super::invalid;

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

impl Claim {
    /// What the form says about its signature.
    ///
    /// # Errors
    /// `InvalidArgument` for a field that is missing or malformed.
    pub(super) fn of(fields: &Fields) -> S3Result<Self> {
        let needed = |name: &str| {
            let value = fields.get(name).filter(|value| !value.is_empty());
            value.ok_or_else(|| invalid(format!("Bucket POST must contain a field named '{name}'.")))
        };
        if fields.get("awsaccesskeyid").is_some() || fields.get("signature").is_some() {
            let (access_key, signature) = (needed("awsaccesskeyid")?.to_owned(), needed("signature")?.to_owned());
            return Ok(Self { access_key, version: Version::V2, signature });
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
        Ok(Self { access_key: access_key.join("/"), version, signature })
    }

    pub(super) fn access_key(&self) -> &str {
        &self.access_key
    }

    /// How conditions of policies see it.
    pub(super) fn signed(&self) -> Signed {
        match self.version {
            Version::V2 => ("POST", "AWS"),
            Version::V4(..) => ("POST", "AWS4-HMAC-SHA256"),
        }
    }

    /// # Errors
    /// `SignatureDoesNotMatch`.
    pub(super) fn verified(self, policy: &str, secret: SecretKey) -> S3Result<Signer> {
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
        Ok(Signer { access_key: self.access_key, region, secret })
    }
}
