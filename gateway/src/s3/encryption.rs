//! Encryption as a request asks for it: keys of the client's own (SSE-C), checked as S3 checks them, and what is refused because it
//! would not be true. Of buckets: the default that is kept and shown, and changes nothing.

use base64::Engine as _;
use base64::engine::general_purpose::STANDARD as BASE64;
use http::{HeaderMap, StatusCode};
use s3s::dto::*;
use s3s::xml::{Deserialize, Deserializer, Serialize, Serializer};
use s3s::{S3Request, S3Response, S3Result, s3_error};
use tidegate_tiering::engine::{BucketSettings, CustomerKey, EngineError};

use super::Gateway;
use super::error::from_engine;
use crate::server::metrics::Operation;

/// The one algorithm of S3 for keys of clients.
const AES256: &str = "AES256";
const PREFIX: &str = "x-amz-server-side-encryption";
const CUSTOMER: &str = "x-amz-server-side-encryption-customer-";

/// What the three headers of a key say.
pub(crate) struct KeyHeaders<'a> {
    pub algorithm: Option<&'a str>,
    pub key: Option<&'a str>,
    pub md5: Option<&'a str>,
}

/// [`KeyHeaders`] of an input of s3s. A macro, because the inputs share no trait.
macro_rules! key_headers {
    ($input:expr) => {
        $crate::s3::encryption::KeyHeaders {
            algorithm: $input.sse_customer_algorithm.as_deref(),
            key: $input.sse_customer_key.as_deref(),
            md5: $input.sse_customer_key_md5.as_deref(),
        }
    };
}
pub(crate) use key_headers;

/// [`KeyHeaders`] of the source of a copy.
macro_rules! source_key_headers {
    ($input:expr) => {
        $crate::s3::encryption::KeyHeaders {
            algorithm: $input.copy_source_sse_customer_algorithm.as_deref(),
            key: $input.copy_source_sse_customer_key.as_deref(),
            md5: $input.copy_source_sse_customer_key_md5.as_deref(),
        }
    };
}
pub(crate) use source_key_headers;

/// Says in an answer which key was used, as S3 does: the algorithm, and the key's MD5.
macro_rules! echo_key {
    ($output:expr, $key:expr) => {
        if let Some(key) = $key {
            $output.sse_customer_algorithm = Some($crate::s3::encryption::algorithm());
            $output.sse_customer_key_md5 = Some($crate::s3::encryption::md5_of(key));
        }
    };
}
pub(crate) use echo_key;

pub(crate) fn algorithm() -> String {
    AES256.to_owned()
}

pub(crate) fn md5_of(key: &CustomerKey) -> String {
    BASE64.encode(key.md5())
}

/// As [`echo_key`], for an output that has no fields for it.
pub(crate) fn tell_key(headers: &mut HeaderMap, key: &CustomerKey) {
    let md5 = md5_of(key);
    for (name, value) in [("algorithm", AES256), ("key-md5", md5.as_str())] {
        let name = http::HeaderName::try_from(format!("{CUSTOMER}{name}"));
        if let (Ok(name), Ok(value)) = (name, http::HeaderValue::from_str(value)) {
            headers.insert(name, value);
        }
    }
}

/// What a key is for: S3 checks it in two ways.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum KeyFor {
    /// All three headers must come.
    Writing,
    /// The MD5 may be left out.
    Reading,
}

impl KeyHeaders<'_> {
    /// The key, when there is one. `private` tells whether the connection hides it from others.
    ///
    /// # Errors
    /// `InvalidRequest` on a connection that anybody may listen to; `InvalidArgument` for a header that is missing or that is not
    /// what it must be; `InvalidEncryptionAlgorithmError`.
    pub(crate) fn key(&self, wanted: KeyFor, private: bool) -> S3Result<Option<CustomerKey>> {
        if (self.algorithm, self.key, self.md5) == (None, None, None) {
            return Ok(None);
        }
        if !private {
            return Err(s3_error!(
                InvalidRequest,
                "Requests specifying Server Side Encryption with Customer provided keys must be made over a secure connection."
            ));
        }
        let missing = |what: &str| {
            s3_error!(
                InvalidArgument,
                "Requests specifying Server Side Encryption with Customer provided keys must provide {what}."
            )
        };
        let algorithm = self.algorithm.ok_or_else(|| missing("a valid encryption algorithm"))?;
        if algorithm != AES256 {
            return Err(s3_error!(
                InvalidEncryptionAlgorithmError,
                "The encryption algorithm {algorithm:?} is not supported; the valid value is {AES256}."
            ));
        }
        let text = self.key.ok_or_else(|| missing("an appropriate secret key"))?;
        if self.md5.is_none() && wanted == KeyFor::Writing {
            return Err(missing("the client calculated MD5 of the secret key"));
        }
        let key = CustomerKey::from_base64(text).ok_or_else(|| {
            s3_error!(
                InvalidArgument,
                "The secret key was invalid for the specified algorithm: it must be the base64 of 32 bytes."
            )
        })?;
        match self.md5 {
            Some(md5) if BASE64.decode(md5).ok().as_deref() != Some(&key.md5()) => Err(s3_error!(
                InvalidArgument,
                "The calculated MD5 hash of the key did not match the hash that was provided."
            )),
            _ => Ok(Some(key)),
        }
    }
}

/// Refuses to encrypt with keys of the server's: there is no such encryption, and a client that asks for it must not believe in it.
///
/// # Errors
/// `NotImplemented` for a request that S3 would take; `InvalidArgument` for one that contradicts itself, or whose operation has no
/// such header.
pub(crate) fn refuse(headers: &HeaderMap, operation: Operation) -> S3Result<()> {
    let managed = |name: &str| name.starts_with(PREFIX) && !name.starts_with(CUSTOMER);
    let Some(first) = headers.keys().map(http::HeaderName::as_str).find(|name| managed(name)) else { return Ok(()) };
    if !matches!(operation, Operation::PutObject | Operation::CreateMultipartUpload | Operation::CopyObject) {
        return Err(s3_error!(InvalidArgument, "{first} header is not supported for this operation."));
    }
    let is_there = |name: &str| headers.contains_key(format!("{PREFIX}{name}"));
    if headers.keys().any(|name| name.as_str().starts_with(CUSTOMER)) {
        return Err(s3_error!(
            InvalidArgument,
            "{first}: Server Side Encryption with Customer provided key is incompatible with the encryption method specified."
        ));
    }
    let names_key = is_there("-aws-kms-key-id") || is_there("-context");
    match headers.get(PREFIX).map(|value| value.as_bytes()) {
        None if names_key => Err(s3_error!(InvalidArgument, "{first} needs {PREFIX} to be aws:kms.")),
        Some(b"AES256") if names_key => {
            Err(s3_error!(InvalidArgument, "{first} needs {PREFIX} to be aws:kms, not AES256."))
        }
        None if headers.get(first).is_some_and(|value| value.as_bytes().eq_ignore_ascii_case(b"false")) => Ok(()),
        None | Some(b"AES256" | b"aws:kms" | b"aws:kms:dsse") => Err(s3_error!(
            NotImplemented,
            "{first}: encryption with keys of the server is not implemented; leave the header out, or bring a key of your own \
             ({CUSTOMER}key)."
        )),
        Some(_) => Err(s3_error!(
            InvalidArgument,
            "{first}: the encryption method specified is not supported; S3 knows AES256, aws:kms and aws:kms:dsse."
        )),
    }
}

/// Under which name a bucket keeps its default.
const DEFAULT: &str = "encryption";

/// Keeps the default of a bucket. It changes nothing: no answer says that an object is encrypted when it is not.
pub(super) async fn put_default(
    gateway: &Gateway,
    request: S3Request<PutBucketEncryptionInput>,
) -> S3Result<S3Response<PutBucketEncryptionOutput>> {
    let input = request.input;
    check_default(&input.server_side_encryption_configuration)?;
    let mut document = Vec::new();
    input
        .server_side_encryption_configuration
        .serialize(&mut Serializer::new(&mut document))
        .map_err(|e| from_engine(EngineError::Internal(format!("write the encryption of a bucket: {e}"))))?;
    let put = |settings: &mut BucketSettings| {
        settings.config.insert(DEFAULT.to_owned(), document.clone());
        Ok(())
    };
    gateway.engine.configure_bucket(&input.bucket, put).await.map_err(from_engine)?;
    Ok(S3Response::new(PutBucketEncryptionOutput {}))
}

/// # Errors
/// `MalformedXML` unless there is one rule, whose algorithm S3 knows; `InvalidArgument` for a key's name beside another.
fn check_default(configuration: &ServerSideEncryptionConfiguration) -> S3Result<()> {
    let [rule] = configuration.rules.as_slice() else {
        let count = configuration.rules.len();
        return Err(s3_error!(MalformedXML, "The encryption of a bucket has one Rule; {count} were given."));
    };
    let Some(default) = &rule.apply_server_side_encryption_by_default else { return Ok(()) };
    match (default.sse_algorithm.as_str(), &default.kms_master_key_id) {
        (AES256, Some(_)) => {
            Err(s3_error!(InvalidArgument, "KMSMasterKeyID needs the SSEAlgorithm aws:kms, not {AES256}."))
        }
        (AES256 | "aws:kms" | "aws:kms:dsse", _) => Ok(()),
        (other, _) => {
            Err(s3_error!(MalformedXML, "The SSEAlgorithm {other:?} is none of {AES256}, aws:kms and aws:kms:dsse."))
        }
    }
}

pub(super) async fn get_default(
    gateway: &Gateway,
    request: S3Request<GetBucketEncryptionInput>,
) -> S3Result<S3Response<GetBucketEncryptionOutput>> {
    let bucket = gateway.engine.bucket(&request.input.bucket).map_err(from_engine)?;
    let document = bucket.settings.config.get(DEFAULT).ok_or_else(|| {
        let mut error = s3_error!(
            ServerSideEncryptionConfigurationNotFoundError,
            "The server side encryption configuration was not found."
        );
        error.set_status_code(StatusCode::NOT_FOUND); // s3s says 400
        error
    })?;
    let configuration = ServerSideEncryptionConfiguration::deserialize(&mut Deserializer::new(document))
        .map_err(|e| from_engine(EngineError::Corrupt(format!("the encryption of a bucket: {e}"))))?;
    Ok(S3Response::new(GetBucketEncryptionOutput { server_side_encryption_configuration: Some(configuration) }))
}

pub(super) async fn delete_default(
    gateway: &Gateway,
    request: S3Request<DeleteBucketEncryptionInput>,
) -> S3Result<S3Response<DeleteBucketEncryptionOutput>> {
    let delete = |settings: &mut BucketSettings| {
        settings.config.remove(DEFAULT);
        Ok(())
    };
    gateway.engine.configure_bucket(&request.input.bucket, delete).await.map_err(from_engine)?;
    Ok(S3Response::new(DeleteBucketEncryptionOutput {}))
}

#[cfg(test)]
mod tests {
    use super::*;

    /// 32 bytes of 1, and its MD5.
    const KEY: &str = "AQEBAQEBAQEBAQEBAQEBAQEBAQEBAQEBAQEBAQEBAQE=";
    const KEY_MD5: &str = "4Funlf7OsLF0HL+vKU+fkg==";

    fn headers<'a>(algorithm: Option<&'a str>, key: Option<&'a str>, md5: Option<&'a str>) -> KeyHeaders<'a> {
        KeyHeaders { algorithm, key, md5 }
    }

    #[test]
    fn the_three_headers_of_a_key_are_checked_as_s3_does() {
        use KeyFor::{Reading, Writing};
        let (aes, key, md5) = (Some("AES256"), Some(KEY), Some(KEY_MD5));
        let cases = [
            (headers(aes, key, md5), Writing, None),
            (headers(aes, key, md5), Reading, None),
            (headers(aes, key, None), Reading, None),
            (headers(aes, key, None), Writing, Some("InvalidArgument")),
            (headers(aes, None, md5), Reading, Some("InvalidArgument")),
            (headers(None, key, md5), Reading, Some("InvalidArgument")),
            (headers(None, None, md5), Writing, Some("InvalidArgument")),
            (headers(Some("AES128"), key, md5), Writing, Some("InvalidEncryptionAlgorithmError")),
            (headers(aes, Some("c2hvcnQ="), md5), Writing, Some("InvalidArgument")),
            (headers(aes, Some("c2hvcnQ="), md5), Reading, Some("InvalidArgument")),
            (headers(aes, Some("no base64!"), md5), Writing, Some("InvalidArgument")),
            (headers(aes, key, Some("1B2M2Y8AsgTpgAmY7PhCfg==")), Reading, Some("InvalidArgument")),
        ];
        for (n, (headers, wanted, code)) in cases.into_iter().enumerate() {
            let answer = headers.key(wanted, true);
            assert_eq!(answer.as_ref().err().map(|error| error.code().as_str()), code, "case {n}");
            if let Ok(key) = answer {
                assert_eq!(md5_of(&key.unwrap()), KEY_MD5);
            }
            assert_eq!(headers.key(wanted, false).err().unwrap().code().as_str(), "InvalidRequest", "case {n}");
        }
        assert!(headers(None, None, None).key(Writing, false).unwrap().is_none());
    }

    #[test]
    fn a_refused_key_does_not_stand_in_the_message() {
        for (algorithm, key, md5) in
            [("AES128", KEY, KEY_MD5), ("AES256", "c2hvcnQ=", KEY_MD5), ("AES256", KEY, "AAAA")]
        {
            let error = headers(Some(algorithm), Some(key), Some(md5)).key(KeyFor::Writing, true).err().unwrap();
            assert!(!error.message().unwrap().contains(key));
        }
    }

    #[test]
    fn encryption_that_would_not_happen_is_refused_and_contradictions_are_named() {
        use Operation::{CopyObject, CreateMultipartUpload, GetObject, PutObject};
        let kms = (PREFIX, "aws:kms");
        let id = ("x-amz-server-side-encryption-aws-kms-key-id", "k");
        let customer = ("x-amz-server-side-encryption-customer-algorithm", "AES256");
        type Given<'a> = &'a [(&'a str, &'a str)];
        let cases: [(Given<'_>, Operation, Option<&str>); 13] = [
            (&[], PutObject, None),
            (&[customer], PutObject, None),
            (&[(PREFIX, "AES256")], PutObject, Some("NotImplemented")),
            (&[kms], CreateMultipartUpload, Some("NotImplemented")),
            (&[kms, id], CopyObject, Some("NotImplemented")),
            (&[(PREFIX, "aws:kms:dsse")], PutObject, Some("NotImplemented")),
            (&[(PREFIX, "aes:kms")], PutObject, Some("InvalidArgument")),
            (&[id], PutObject, Some("InvalidArgument")),
            (&[(PREFIX, "AES256"), id], PutObject, Some("InvalidArgument")),
            (&[(PREFIX, "AES256"), customer], PutObject, Some("InvalidArgument")),
            (&[kms], GetObject, Some("InvalidArgument")),
            (&[("x-amz-server-side-encryption-bucket-key-enabled", "true")], PutObject, Some("NotImplemented")),
            (&[("x-amz-server-side-encryption-bucket-key-enabled", "false")], PutObject, None),
        ];
        for (given, operation, code) in cases {
            let mut headers = HeaderMap::new();
            for (name, value) in given {
                headers.insert(http::HeaderName::try_from(*name).unwrap(), value.parse().unwrap());
            }
            let refused = refuse(&headers, operation).err();
            assert_eq!(refused.as_ref().map(|error| error.code().as_str()), code, "{given:?}");
        }
    }

    #[test]
    fn the_default_of_a_bucket_is_one_rule_that_s3_knows() {
        let rule = |algorithm: &'static str, key: Option<&str>| ServerSideEncryptionRule {
            apply_server_side_encryption_by_default: Some(ServerSideEncryptionByDefault {
                kms_master_key_id: key.map(str::to_owned),
                sse_algorithm: ServerSideEncryption::from_static(algorithm),
            }),
            bucket_key_enabled: None,
        };
        let cases = [
            (vec![rule("AES256", None)], None),
            (vec![rule("aws:kms", Some("k"))], None),
            (vec![], Some("MalformedXML")),
            (vec![rule("AES256", None), rule("AES256", None)], Some("MalformedXML")),
            (vec![rule("AES512", None)], Some("MalformedXML")),
            (vec![rule("AES256", Some("k"))], Some("InvalidArgument")),
        ];
        for (rules, code) in cases {
            let refused = check_default(&ServerSideEncryptionConfiguration { rules }).err();
            assert_eq!(refused.as_ref().map(|error| error.code().as_str()), code);
        }
    }
}
