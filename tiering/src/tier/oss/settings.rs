//! Settings of a tier on the native service: plain data.

use super::credentials::CredentialsSpec;
use crate::tier::error::TierError;
use crate::tier::secret::Secret;
use serde::{Deserialize, Serialize};
use std::net::IpAddr;
use std::path::PathBuf;

/// Largest body of one PUT, in bytes (5 GiB).
pub(crate) const MAX_PUT_BYTES: u64 = 5 << 30;
/// Smallest part of a multipart upload but the last, in bytes (100 KiB).
pub(crate) const MIN_PART_BYTES: u64 = 100 << 10;
/// Most parts of a multipart upload.
pub(crate) const MAX_PARTS: u64 = 10_000;
/// Bounds of the traffic limit, in bits per second, both as the service documents them.
const TRAFFIC_LIMIT: std::ops::RangeInclusive<u64> = 245_760..=838_860_800;

/// Storage classes, written as the service writes them.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, Serialize, Deserialize)]
#[allow(missing_docs)] // the names are the service's own
pub enum StorageClass {
    Standard,
    IA,
    Archive,
    ColdArchive,
    DeepColdArchive,
}

impl StorageClass {
    /// The header's value.
    pub const fn name(self) -> &'static str {
        match self {
            StorageClass::Standard => "Standard",
            StorageClass::IA => "IA",
            StorageClass::Archive => "Archive",
            StorageClass::ColdArchive => "ColdArchive",
            StorageClass::DeepColdArchive => "DeepColdArchive",
        }
    }

    /// Reads a name in any case: one version of the listing answers in capitals.
    pub fn parse(text: &str) -> Option<Self> {
        [Self::Standard, Self::IA, Self::Archive, Self::ColdArchive, Self::DeepColdArchive]
            .into_iter()
            .find(|class| class.name().eq_ignore_ascii_case(text.trim()))
    }

    /// Days for which an object of this class is billed at least.
    pub const fn min_duration_days(self) -> u32 {
        match self {
            StorageClass::Standard => 0,
            StorageClass::IA => 30,
            StorageClass::Archive => 60,
            StorageClass::ColdArchive | StorageClass::DeepColdArchive => 180,
        }
    }

    /// Smallest size, in bytes, that an object of this class is billed as.
    pub const fn min_billable_bytes(self) -> u64 {
        match self {
            StorageClass::Standard => 0,
            _ => 64 << 10,
        }
    }

    /// True for classes whose objects must be restored before they are read.
    pub const fn is_archive(self) -> bool {
        matches!(self, StorageClass::Archive | StorageClass::ColdArchive | StorageClass::DeepColdArchive)
    }
}

/// How requests are signed.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum SignatureVersion {
    /// HMAC-SHA256 with a scope: the service's current scheme.
    #[default]
    V4,
    /// HMAC-SHA1, for older private clouds.
    V1,
}

/// A tier on Alibaba Cloud OSS, a CloudBox, or a private cloud with its protocol.
#[derive(Debug, Clone, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct OssSettings {
    /// `https://oss-cn-hangzhou.aliyuncs.com`, a VPC or accelerated endpoint, or with `cname` the bucket's own domain.
    /// Without a scheme, `https`. IP addresses and `localhost` are addressed in path style.
    pub endpoint: String,
    /// Region without the `oss-` prefix (`cn-hangzhou`), or the id of a CloudBox. Part of V4 signatures.
    #[serde(default)]
    pub region: String,
    /// `oss`, or `oss-cloudbox` for a CloudBox. Part of V4 signatures.
    #[serde(default = "default_product")]
    pub product: String,
    /// The bucket.
    pub bucket: String,
    /// Put before every name; a slash is added when it ends without one. Empty: none.
    #[serde(default)]
    pub prefix: String,
    /// Class of everything that is written.
    #[serde(default = "default_class")]
    pub storage_class: StorageClass,
    /// The bucket reads objects of class Archive without a restore (`bucketArchiveDirectRead`).
    #[serde(default)]
    pub archive_direct_read: bool,
    /// The endpoint is a domain that points at the bucket.
    #[serde(default)]
    pub cname: bool,
    /// Signature version.
    #[serde(default)]
    pub signature: SignatureVersion,
    /// Where the key comes from.
    #[serde(default)]
    pub credentials: CredentialsSpec,
    /// Size of a part in bytes, at least 100 KiB; raised for bodies that would need more than 10,000 parts.
    #[serde(default = "default_part_size")]
    pub part_size_bytes: u64,
    /// Bodies of this many bytes or more are sent in parts; at most 5 GiB.
    #[serde(default = "default_threshold")]
    pub multipart_threshold_bytes: u64,
    /// Parts of one body under way at a time.
    #[serde(default = "default_part_concurrency")]
    pub part_concurrency: usize,
    /// Requests under way at a time, bodies that are being read included.
    #[serde(default = "default_concurrency")]
    pub concurrency: usize,
    /// Time to connect, in milliseconds.
    #[serde(default = "default_connect_timeout")]
    pub connect_timeout_ms: u64,
    /// Time without any progress of a request or a body after which it is given up, in milliseconds.
    #[serde(default = "default_read_timeout")]
    pub read_timeout_ms: u64,
    /// Limit of one request's traffic in bits per second (245,760 to 838,860,800), which the service enforces.
    #[serde(default)]
    pub traffic_limit_bits_per_second: Option<u64>,
    /// `http://[user:password@]host:port` of a proxy. The environment's proxy settings are not used.
    #[serde(default)]
    pub proxy: Option<Secret>,
    /// PEM file of certificates to trust beside the system's.
    #[serde(default)]
    pub ca_file: Option<PathBuf>,
    /// Local address to connect from.
    #[serde(default)]
    pub source_address: Option<IpAddr>,
    /// Attempts of one request, the first one included.
    #[serde(default = "default_attempts")]
    pub max_attempts: u32,
    /// Bound of the random wait after the first attempt, in milliseconds, doubled for each further one up to 20 s.
    #[serde(default = "default_retry_base")]
    pub retry_base_ms: u64,
}

fn default_product() -> String {
    "oss".to_owned()
}

fn default_class() -> StorageClass {
    StorageClass::Standard
}

fn default_part_size() -> u64 {
    16 << 20
}

fn default_threshold() -> u64 {
    64 << 20
}

fn default_part_concurrency() -> usize {
    4
}

fn default_concurrency() -> usize {
    32
}

fn default_connect_timeout() -> u64 {
    10_000
}

fn default_read_timeout() -> u64 {
    30_000
}

fn default_attempts() -> u32 {
    4
}

/// As the vendor's clients have it.
fn default_retry_base() -> u64 {
    200
}

impl OssSettings {
    /// Settings with every default, for `bucket` at `endpoint`.
    pub fn new(endpoint: &str, region: &str, bucket: &str) -> Self {
        Self {
            endpoint: endpoint.to_owned(),
            region: region.to_owned(),
            product: default_product(),
            bucket: bucket.to_owned(),
            prefix: String::new(),
            storage_class: default_class(),
            archive_direct_read: false,
            cname: false,
            signature: SignatureVersion::default(),
            credentials: CredentialsSpec::default(),
            part_size_bytes: default_part_size(),
            multipart_threshold_bytes: default_threshold(),
            part_concurrency: default_part_concurrency(),
            concurrency: default_concurrency(),
            connect_timeout_ms: default_connect_timeout(),
            read_timeout_ms: default_read_timeout(),
            traffic_limit_bits_per_second: None,
            proxy: None,
            ca_file: None,
            source_address: None,
            max_attempts: default_attempts(),
            retry_base_ms: default_retry_base(),
        }
    }

    /// Checks what can be checked without asking anybody.
    ///
    /// # Errors
    /// `Invalid`, naming the setting, its value and what is allowed.
    pub fn check(&self) -> Result<(), TierError> {
        let refuse = |text: String| Err(TierError::invalid("settings", "", text));
        let bucket_ok = (3..=63).contains(&self.bucket.len())
            && self.bucket.bytes().all(|b| b.is_ascii_lowercase() || b.is_ascii_digit() || b == b'-')
            && !self.bucket.starts_with('-')
            && !self.bucket.ends_with('-');
        if !bucket_ok {
            return refuse(format!(
                "bucket {:?}: 3 to 63 lower-case letters, digits and inner hyphens are allowed",
                self.bucket
            ));
        }
        if self.signature == SignatureVersion::V4 && (self.region.is_empty() || self.region.starts_with("oss-")) {
            return refuse(format!(
                "region {:?}: signature v4 needs the region without \"oss-\", for instance \"cn-hangzhou\"",
                self.region
            ));
        }
        if self.prefix.starts_with(['/', '\\']) {
            return refuse(format!("prefix {:?}: keys must not start with a slash", self.prefix));
        }
        if !(MIN_PART_BYTES..=MAX_PUT_BYTES).contains(&self.part_size_bytes) {
            return refuse(format!("part_size_bytes {}: 102400 to 5368709120 are allowed", self.part_size_bytes));
        }
        if !(1..=MAX_PUT_BYTES).contains(&self.multipart_threshold_bytes) {
            return refuse(format!(
                "multipart_threshold_bytes {}: 1 to 5368709120 are allowed",
                self.multipart_threshold_bytes
            ));
        }
        self.check_limits()
    }

    fn check_limits(&self) -> Result<(), TierError> {
        let refuse = |text: String| Err(TierError::invalid("settings", "", text));
        if !(1..=1000).contains(&self.concurrency) || !(1..=100).contains(&self.part_concurrency) {
            return refuse(format!(
                "concurrency {} (1 to 1000) or part_concurrency {} (1 to 100) is out of bounds",
                self.concurrency, self.part_concurrency
            ));
        }
        if !(1..=20).contains(&self.max_attempts) {
            return refuse(format!("max_attempts {}: 1 to 20 are allowed", self.max_attempts));
        }
        if !(1..=20_000).contains(&self.retry_base_ms) {
            return refuse(format!("retry_base_ms {}: 1 to 20000 are allowed", self.retry_base_ms));
        }
        if self.connect_timeout_ms == 0 || self.read_timeout_ms == 0 {
            return refuse("connect_timeout_ms and read_timeout_ms must not be 0".to_owned());
        }
        match self.traffic_limit_bits_per_second {
            Some(limit) if !TRAFFIC_LIMIT.contains(&limit) => {
                refuse(format!("traffic_limit_bits_per_second {limit}: 245760 to 838860800 are allowed"))
            }
            _ => Ok(()),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn each_wrong_setting_is_named_with_what_is_allowed() {
        let good = || OssSettings::new("oss-cn-hangzhou.aliyuncs.com", "cn-hangzhou", "bucket");
        good().check().unwrap();
        type Change = fn(&mut OssSettings);
        let wrong: [(&str, Change); 8] = [
            ("bucket", |s| s.bucket = "Bucket".into()),
            ("region", |s| s.region = "oss-cn-hangzhou".into()),
            ("prefix", |s| s.prefix = "/x".into()),
            ("part_size_bytes", |s| s.part_size_bytes = 1),
            ("multipart_threshold_bytes", |s| s.multipart_threshold_bytes = 6 << 30),
            ("max_attempts", |s| s.max_attempts = 0),
            ("retry_base_ms", |s| s.retry_base_ms = 0),
            ("traffic_limit_bits_per_second", |s| s.traffic_limit_bits_per_second = Some(1)),
        ];
        for (name, change) in wrong {
            let mut settings = good();
            change(&mut settings);
            let error = settings.check().unwrap_err().to_string();
            assert!(error.contains(name), "{name}: {error}");
        }
    }

    #[test]
    fn classes_are_read_in_any_case() {
        assert_eq!(StorageClass::parse("STANDARD"), Some(StorageClass::Standard));
        assert_eq!(StorageClass::parse("ColdArchive"), Some(StorageClass::ColdArchive));
        assert_eq!(StorageClass::parse("Glacier"), None);
    }
}
