//! Settings of the S3 endpoint: plain data, read from the configuration file's `s3` section.

use serde::{Deserialize, Serialize};
use std::fmt;
use std::net::{Ipv4Addr, SocketAddr};

use crate::auth::settings::Ownership;

/// A secret that never shows in `Debug`, logs or serialized settings.
#[derive(Clone, PartialEq, Eq, Deserialize)]
#[serde(transparent)]
pub struct Secret(String);

impl Secret {
    /// Wraps a secret.
    pub fn new(secret: impl Into<String>) -> Self {
        Self(secret.into())
    }

    /// The secret itself; for signing only.
    pub fn expose(&self) -> &str {
        &self.0
    }
}

impl fmt::Debug for Secret {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("<redacted>")
    }
}

impl Serialize for Secret {
    fn serialize<S: serde::Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        serializer.serialize_str("<redacted>")
    }
}

/// One pair of S3 credentials.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct AccessKey {
    /// The access key id.
    pub access_key: String,
    /// The secret access key.
    pub secret_key: Secret,
}

/// The S3 endpoint's settings. Sizes are in bytes, times in seconds.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields, default)]
pub struct S3Settings {
    /// Address and port to listen on; port 0 takes a free one.
    pub listen: SocketAddr,
    /// Root keys of the account `tidegate`: they may do everything with what is its. Without any, `serve` makes one.
    pub access_keys: Vec<AccessKey>,
    /// The region that GetBucketLocation and HeadBucket show and LocationConstraint must name.
    pub region: String,
    /// Domains for virtual-hosted style: `bucket.<domain>`. Other host names are taken as path style.
    pub domains: Vec<String>,
    /// Worker threads; 0 takes one per processor.
    pub workers: usize,
    /// Open connections, all workers together; more wait in the kernel's queue.
    pub max_connections: usize,
    /// Requests in progress, all workers together; more get 503 `SlowDown`.
    pub max_concurrent_requests: usize,
    /// Request line and headers together; more get `RequestHeaderSectionTooLarge`. At most 128 KiB (and 96 headers),
    /// which is the limit of the HTTP parser.
    pub max_header_bytes: usize,
    /// Body of one PutObject or UploadPart (S3: 5 GiB).
    pub max_body_bytes: u64,
    /// An object made of parts (S3: 5 TiB).
    pub max_object_bytes: u64,
    /// Parts of an upload (S3: 10,000).
    pub max_parts: u32,
    /// XML bodies (DeleteObjects, CompleteMultipartUpload, ...).
    pub max_xml_bytes: usize,
    /// How long a connection may stay open without a request.
    pub idle_timeout_seconds: u64,
    /// How long the first request's head may take to arrive.
    pub header_timeout_seconds: u64,
    /// How long a request body may bring nothing before it is given up.
    pub body_read_timeout_seconds: u64,
    /// How long a client may take nothing of an answer before its connection is ended.
    pub write_timeout_seconds: u64,
    /// Bytes of a request body waiting between the socket and the store; the back-pressure.
    pub body_channel_bytes: usize,
    /// How long requests in progress may take to end after a shutdown was asked for.
    pub shutdown_timeout_seconds: u64,
    /// Takes keys of clients (SSE-C) over connections that anybody may listen to. For tests only.
    pub ssec_over_http: bool,
    /// The object ownership of new buckets that are made without `x-amz-object-ownership`: `BucketOwnerEnforced`, as S3 has
    /// it, or `ObjectWriter` (or `BucketOwnerPreferred`) for clients that use access control lists without asking for them.
    pub default_object_ownership: Ownership,
    /// Storage classes that `x-amz-storage-class` may name: those that the engine maps to tiers. Not read from the
    /// file; the configuration fills it from the mapping.
    #[serde(skip, default = "default_storage_classes")]
    pub storage_classes: Vec<String>,
}

fn default_storage_classes() -> Vec<String> {
    ["STANDARD", "STANDARD_IA", "GLACIER", "DEEP_ARCHIVE"].map(String::from).to_vec()
}

/// The HTTP parser's own limit on a request head (actix-http's `MAX_BUFFER_SIZE`).
pub(crate) const PARSER_HEADER_BYTES: usize = 128 * 1024;

/// The longest write timeout: Linux takes milliseconds in an `int` (`TCP_USER_TIMEOUT`, tcp(7)).
const MAX_WRITE_TIMEOUT_SECONDS: u64 = i32::MAX as u64 / 1000;

/// S3's limit for one PUT: 5 GiB.
const S3_MAX_PUT: u64 = 5 << 30;
/// S3's limit for an object: 5 TiB.
const S3_MAX_OBJECT: u64 = 5 << 40;
/// S3's limit for parts of an upload.
pub(crate) const S3_MAX_PARTS: u32 = 10_000;

impl Default for S3Settings {
    fn default() -> Self {
        Self {
            listen: SocketAddr::from((Ipv4Addr::LOCALHOST, 9000)),
            access_keys: Vec::new(),
            region: "us-east-1".into(),
            domains: Vec::new(),
            workers: 0,
            max_connections: 8192,
            max_concurrent_requests: 1024,
            max_header_bytes: 32 * 1024,
            max_body_bytes: S3_MAX_PUT,
            max_object_bytes: S3_MAX_OBJECT,
            max_parts: S3_MAX_PARTS,
            max_xml_bytes: 8 << 20,
            idle_timeout_seconds: 75,
            header_timeout_seconds: 15,
            body_read_timeout_seconds: 30,
            write_timeout_seconds: 120,
            body_channel_bytes: 512 << 10,
            shutdown_timeout_seconds: 30,
            ssec_over_http: false,
            default_object_ownership: Ownership::default(),
            storage_classes: default_storage_classes(),
        }
    }
}

impl S3Settings {
    /// Says what is wrong with these settings: the field, its value, the way out. `None` when they are fine.
    pub fn problem(&self) -> Option<String> {
        if self.access_keys.is_empty() {
            return Some("access_keys is empty: add at least one pair of access_key and secret_key".into());
        }
        for (at, key) in self.access_keys.iter().enumerate() {
            if key.access_key.is_empty() || key.secret_key.expose().is_empty() {
                return Some(format!("access_keys[{at}] has an empty access_key or secret_key: give both"));
            }
            if self.access_keys.iter().take(at).any(|other| other.access_key == key.access_key) {
                return Some(format!("access_keys[{at}] repeats the access_key {}: keep one", key.access_key));
            }
        }
        if self.max_header_bytes > PARSER_HEADER_BYTES || self.max_header_bytes < 1024 {
            return Some(format!(
                "max_header_bytes is {}: choose from 1024 to {PARSER_HEADER_BYTES}",
                self.max_header_bytes
            ));
        }
        if !(1..=S3_MAX_PARTS).contains(&self.max_parts) {
            return Some(format!("max_parts is {}: choose from 1 to {S3_MAX_PARTS}", self.max_parts));
        }
        if self.write_timeout_seconds > MAX_WRITE_TIMEOUT_SECONDS {
            return Some(format!(
                "write_timeout_seconds is {}: choose from 1 to {MAX_WRITE_TIMEOUT_SECONDS} (24 days), which is what the system takes",
                self.write_timeout_seconds
            ));
        }
        let at_least_one = [
            ("max_connections", self.max_connections as u64),
            ("max_concurrent_requests", self.max_concurrent_requests as u64),
            ("max_body_bytes", self.max_body_bytes),
            ("max_object_bytes", self.max_object_bytes),
            ("max_xml_bytes", self.max_xml_bytes as u64),
            ("idle_timeout_seconds", self.idle_timeout_seconds),
            ("header_timeout_seconds", self.header_timeout_seconds),
            ("body_read_timeout_seconds", self.body_read_timeout_seconds),
            ("write_timeout_seconds", self.write_timeout_seconds),
            ("body_channel_bytes", self.body_channel_bytes as u64),
            ("shutdown_timeout_seconds", self.shutdown_timeout_seconds),
        ];
        at_least_one.into_iter().find(|(_, value)| *value == 0).map(|(name, _)| format!("{name} is 0: give at least 1"))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_secret_shows_neither_in_debug_nor_when_serialized() {
        let key = AccessKey { access_key: "id".into(), secret_key: Secret::new("hunter2") };
        assert!(!format!("{key:?}").contains("hunter2"));
        assert!(!serde_json::to_string(&key).unwrap().contains("hunter2"));
    }

    #[test]
    fn unknown_fields_are_refused_and_missing_ones_have_defaults() {
        let settings: S3Settings =
            serde_json::from_str(r#"{"access_keys": [{"access_key": "a", "secret_key": "b"}]}"#).unwrap();
        assert_eq!(settings.region, "us-east-1");
        assert_eq!(settings.problem(), None);
        let error = serde_json::from_str::<S3Settings>(r#"{"listne": "1.2.3.4:5"}"#).unwrap_err();
        assert!(error.to_string().contains("listne"));
    }

    #[test]
    fn a_bad_setting_is_named() {
        let keys = vec![AccessKey { access_key: "a".into(), secret_key: Secret::new("b") }];
        let good = S3Settings { access_keys: keys.clone(), ..S3Settings::default() };
        let cases = [
            (S3Settings::default(), "access_keys"),
            (S3Settings { access_keys: [keys.clone(), keys].concat(), ..good.clone() }, "repeats"),
            (S3Settings { max_header_bytes: 1 << 20, ..good.clone() }, "max_header_bytes"),
            (S3Settings { max_parts: 0, ..good.clone() }, "max_parts"),
            (S3Settings { body_channel_bytes: 0, ..good.clone() }, "body_channel_bytes"),
            (S3Settings { write_timeout_seconds: 30 * 86_400, ..good.clone() }, "write_timeout_seconds"),
        ];
        for (settings, word) in cases {
            assert!(settings.problem().unwrap().contains(word), "{word}");
        }
        assert_eq!(S3Settings { write_timeout_seconds: MAX_WRITE_TIMEOUT_SECONDS, ..good }.problem(), None);
    }
}
