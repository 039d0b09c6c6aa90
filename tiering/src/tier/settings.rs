//! Settings of tiers, and tiers from settings.

use super::Tier;
use super::error::TierError;
use super::metrics::TierMetrics;
use super::object::{DirectorySettings, ObjectTier, S3Settings};
use super::oss::{OssSettings, OssTier};
use crate::clock::Clock;
use prometheus::Registry;
use serde::Deserialize;
use std::sync::Arc;

/// One tier of the configuration, told apart by `type`. Unknown fields are refused.
#[derive(Debug, Clone, Deserialize)]
#[serde(tag = "type", rename_all = "lowercase")]
pub enum TierSettings {
    /// Alibaba Cloud OSS, natively.
    Oss(Box<OssSettings>),
    /// An S3-compatible store.
    S3(S3Settings),
    /// A directory: another disk, or a mounted share.
    Directory(DirectorySettings),
}

/// Makes the tier called `name`. Stores are not asked yet; a directory is created when it is missing. `env` reads the
/// process's environment, which this crate does not.
///
/// # Errors
/// `Invalid` for a wrong setting, `Denied` when a key is to come from the environment and does not.
pub fn build(
    name: &str,
    settings: &TierSettings,
    clock: Arc<dyn Clock>,
    env: &dyn Fn(&str) -> Option<String>,
    registry: Option<&Registry>,
) -> Result<Arc<dyn Tier>, TierError> {
    let metrics = TierMetrics::new(name, registry)?;
    Ok(match settings {
        TierSettings::Oss(settings) => Arc::new(OssTier::new(name, settings, clock, env, metrics)?),
        TierSettings::S3(settings) => Arc::new(ObjectTier::s3(name, settings, env, metrics)?),
        TierSettings::Directory(settings) => Arc::new(ObjectTier::directory(name, settings, metrics)?),
    })
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::clock::SystemClock;

    fn parse(text: &str) -> Result<TierSettings, serde_json::Error> {
        serde_json::from_str(text)
    }

    #[test]
    fn each_type_is_read_and_unknown_fields_are_refused() {
        let oss = r#"{"type":"oss","endpoint":"oss-cn-hangzhou.aliyuncs.com","region":"cn-hangzhou","bucket":"cold",
            "storage_class":"ColdArchive","credentials":{"source":"static","access_key_id":"i","access_key_secret":"s"}}"#;
        assert!(matches!(parse(oss).unwrap(), TierSettings::Oss(_)));
        assert!(matches!(parse(r#"{"type":"directory","path":"/x"}"#).unwrap(), TierSettings::Directory(_)));
        let s3 = r#"{"type":"s3","endpoint":"http://h","bucket":"b","region":"r"}"#;
        assert!(matches!(parse(s3).unwrap(), TierSettings::S3(_)));
        for wrong in [
            r#"{"type":"directory","path":"/x","colour":1}"#,
            r#"{"type":"oss","endpoint":"e","bucket":"cold","storageclass":"IA"}"#,
            r#"{"type":"s3","endpoint":"http://h","bucket":"b","region":"r","tls":true}"#,
            r#"{"type":"tape"}"#,
        ] {
            assert!(parse(wrong).is_err(), "{wrong}");
        }
    }

    #[test]
    fn tiers_are_built_and_a_missing_key_is_told() {
        let clock: Arc<dyn Clock> = Arc::new(SystemClock::default());
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("cold").display().to_string();
        let directory = parse(&format!(r#"{{"type":"directory","path":{path:?}}}"#)).unwrap();
        assert!(build("d", &directory, clock.clone(), &|_| None, None).unwrap().capabilities().online);
        let oss =
            r#"{"type":"oss","endpoint":"e.example","region":"r","bucket":"cold","credentials":{"source":"env"}}"#;
        let error = build("o", &parse(oss).unwrap(), clock, &|_| None, None).unwrap_err();
        assert!(error.to_string().contains("ALIBABA_CLOUD_ACCESS_KEY_ID"), "{error}");
    }
}
