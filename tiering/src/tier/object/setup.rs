//! From settings to tiers on directories and S3-compatible stores.

use super::ObjectTier;
use crate::tier::error::{TierError, TierErrorKind};
use crate::tier::folder::Folder;
use crate::tier::metrics::TierMetrics;
use crate::tier::secret::Secret;
use object_store::aws::AmazonS3Builder;
use object_store::local::LocalFileSystem;
use serde::Deserialize;
use std::path::PathBuf;
use std::sync::Arc;

/// Least bytes of a part of an upload to an S3-compatible store, which refuses smaller ones than 5 MiB. Two are held in
/// memory at a time.
const S3_PIECE: u64 = 8 << 20;
/// Classes whose objects cannot be read without a restore, which `object_store` cannot ask for.
const S3_ARCHIVE_CLASSES: &[&str] = &["GLACIER", "DEEP_ARCHIVE"];

/// A tier in a directory.
#[derive(Debug, Clone, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct DirectorySettings {
    /// The directory; created when it is missing.
    pub path: PathBuf,
}

/// A tier in an S3-compatible store.
#[derive(Debug, Clone, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct S3Settings {
    /// `https://host[:port]`. With plain `http`, bodies and signatures can be read on the way.
    pub endpoint: String,
    /// Region for the signature; most private stores take any.
    #[serde(default = "default_region")]
    pub region: String,
    /// The bucket.
    pub bucket: String,
    /// Put before every name.
    #[serde(default)]
    pub prefix: String,
    /// Sent as `x-amz-storage-class`; the store's default when it is missing. Archive classes are refused: this type
    /// of tier cannot restore.
    #[serde(default)]
    pub storage_class: Option<String>,
    /// Put the bucket in the host's name instead of the path.
    #[serde(default)]
    pub virtual_hosted: bool,
    /// Key id; without it, `AWS_ACCESS_KEY_ID`, `AWS_SECRET_ACCESS_KEY` and `AWS_SESSION_TOKEN` of the environment.
    #[serde(default)]
    pub access_key_id: Option<String>,
    /// Key secret.
    #[serde(default)]
    pub secret_access_key: Option<Secret>,
}

fn default_region() -> String {
    "us-east-1".to_owned()
}

impl ObjectTier {
    /// A tier in a directory. Files and their folders are fsynced before a write counts as done.
    ///
    /// # Errors
    /// `Invalid` when the directory is not there and cannot be created.
    pub fn directory(name: &str, settings: &DirectorySettings, metrics: TierMetrics) -> Result<Self, TierError> {
        let shown = settings.path.display().to_string();
        let refuse = |why: String| TierError::invalid("settings", "", format!("path {shown}: {why}"));
        std::fs::create_dir_all(&settings.path).map_err(|e| refuse(e.to_string()))?;
        let folder = settings.path.canonicalize().map_err(|e| refuse(e.to_string()))?;
        let store = LocalFileSystem::new_with_prefix(&folder).map_err(|e| refuse(e.to_string()))?.with_fsync(true);
        let folder = Folder::open(folder).map_err(|e| refuse(e.to_string()))?;
        Ok(Self { host: shown, folder: Some(folder), sorted: false, ..Self::on(name, Arc::new(store), metrics) })
    }

    /// A tier in an S3-compatible store.
    ///
    /// # Errors
    /// `Invalid` for a wrong setting, `Denied` without a key.
    pub fn s3(
        name: &str,
        settings: &S3Settings,
        env: &dyn Fn(&str) -> Option<String>,
        metrics: TierMetrics,
    ) -> Result<Self, TierError> {
        let refuse = |why: String| TierError::invalid("settings", "", why);
        if let Some(class) = &settings.storage_class
            && S3_ARCHIVE_CLASSES.iter().any(|archive| archive.eq_ignore_ascii_case(class))
        {
            return Err(refuse(format!(
                "storage_class {class}: a tier of type s3 cannot restore archived objects; use a class that is \
                 readable at once, or a tier of type oss"
            )));
        }
        let denied = || {
            let text =
                "no key: set access_key_id and secret_access_key, or AWS_ACCESS_KEY_ID and AWS_SECRET_ACCESS_KEY";
            TierError::plain(TierErrorKind::Denied, "credentials", "", text)
        };
        let (id, secret, token) = match (&settings.access_key_id, &settings.secret_access_key) {
            (Some(id), Some(secret)) => (id.clone(), secret.clone(), None),
            (None, None) => (
                env("AWS_ACCESS_KEY_ID").ok_or_else(denied)?,
                Secret::new(env("AWS_SECRET_ACCESS_KEY").ok_or_else(denied)?),
                env("AWS_SESSION_TOKEN").map(Secret::new),
            ),
            _ => return Err(refuse("access_key_id and secret_access_key belong together, one is missing".to_owned())),
        };
        let mut builder = AmazonS3Builder::new()
            .with_endpoint(&settings.endpoint)
            .with_region(&settings.region)
            .with_bucket_name(&settings.bucket)
            .with_access_key_id(id)
            .with_secret_access_key(secret.expose())
            .with_allow_http(settings.endpoint.starts_with("http://"))
            .with_virtual_hosted_style_request(settings.virtual_hosted);
        if let Some(token) = token {
            builder = builder.with_token(token.expose());
        }
        let store = builder.build().map_err(|e| refuse(e.to_string()))?;
        let prefix = match settings.prefix.trim_matches('/') {
            "" => String::new(),
            bare => format!("{bare}/"),
        };
        Ok(Self {
            host: settings.endpoint.clone(),
            prefix,
            class: settings.storage_class.clone(),
            piece: S3_PIECE,
            ..Self::on(name, Arc::new(store), metrics)
        })
    }
}
