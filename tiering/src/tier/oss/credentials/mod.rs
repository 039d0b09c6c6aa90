//! Where the keys come from. One trait, its sources, a chain of them in the vendor's order, and a cache that refreshes
//! ahead of expiry. Nothing here reads the process's environment: the caller passes a function that does.

mod cache;

pub use cache::CachedCredentials;

use super::super::error::{TierError, TierErrorKind};
use super::super::secret::Secret;
use super::settings::OssSettings;
use crate::clock::{Clock, Timestamp};
use async_trait::async_trait;
use serde::Deserialize;
use std::fmt;
use std::sync::Arc;

/// An access key, temporary when it has a token.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Credentials {
    /// The key's id. Not a secret: it is part of every request in the clear.
    pub access_key_id: String,
    /// The key's secret.
    pub access_key_secret: Secret,
    /// The token of a temporary key.
    pub security_token: Option<Secret>,
    /// When the key stops working; `None` for one that does not.
    pub expires: Option<Timestamp>,
}

/// One source of credentials.
#[async_trait]
pub trait CredentialsProvider: Send + Sync + fmt::Debug {
    /// The source's name, for logs and errors.
    fn source(&self) -> &'static str;

    /// Asks the source, without any cache.
    ///
    /// # Errors
    /// `Denied` when the source has none or refuses, `Unavailable` when it cannot be reached, `Invalid` when what it is
    /// configured with is wrong. The message names the source and the way out, and holds no secret.
    async fn fetch(&self) -> Result<Credentials, TierError>;
}

/// How the environment is read: the caller's function from a variable's name to its value.
pub type Environment<'a> = &'a dyn Fn(&str) -> Option<String>;

/// Which source a tier uses.
#[derive(Debug, Clone, Default, Deserialize)]
#[serde(tag = "source", rename_all = "snake_case", deny_unknown_fields)]
pub enum CredentialsSpec {
    /// The vendor's default order: environment, RRSA, CLI configuration, credentials file, ECS role, credentials URI.
    #[default]
    Default,
    /// Written in the configuration.
    Static {
        /// Key id.
        access_key_id: String,
        /// Key secret.
        access_key_secret: Secret,
        /// Token, for a temporary key that somebody else renews.
        #[serde(default)]
        security_token: Option<Secret>,
    },
    /// Variables `ALIBABA_CLOUD_ACCESS_KEY_ID`, `ALIBABA_CLOUD_ACCESS_KEY_SECRET` and `ALIBABA_CLOUD_SECURITY_TOKEN`, or
    /// `OSS_ACCESS_KEY_ID`, `OSS_ACCESS_KEY_SECRET` and `OSS_SESSION_TOKEN`.
    Env,
}

/// A key that does not change.
#[derive(Debug)]
pub struct FixedCredentials {
    source: &'static str,
    credentials: Credentials,
}

impl FixedCredentials {
    /// A key that came from `source`.
    pub fn new(source: &'static str, credentials: Credentials) -> Self {
        Self { source, credentials }
    }

    /// Reads the environment's key.
    ///
    /// # Errors
    /// `Denied` when no complete key is there; the message names the variables.
    pub fn from_environment(env: Environment<'_>) -> Result<Self, TierError> {
        let read = |name: &str| env(name).filter(|v| !v.trim().is_empty());
        for (id, secret, token) in [
            ("ALIBABA_CLOUD_ACCESS_KEY_ID", "ALIBABA_CLOUD_ACCESS_KEY_SECRET", "ALIBABA_CLOUD_SECURITY_TOKEN"),
            ("OSS_ACCESS_KEY_ID", "OSS_ACCESS_KEY_SECRET", "OSS_SESSION_TOKEN"),
        ] {
            if let (Some(id), Some(secret)) = (read(id), read(secret)) {
                let credentials = Credentials {
                    access_key_id: id,
                    access_key_secret: Secret::new(secret),
                    security_token: read(token).map(Secret::new),
                    expires: None,
                };
                return Ok(Self::new("environment", credentials));
            }
        }
        Err(denied(
            "environment",
            "neither ALIBABA_CLOUD_ACCESS_KEY_ID with ALIBABA_CLOUD_ACCESS_KEY_SECRET nor OSS_ACCESS_KEY_ID with \
             OSS_ACCESS_KEY_SECRET is set",
        ))
    }
}

#[async_trait]
impl CredentialsProvider for FixedCredentials {
    fn source(&self) -> &'static str {
        self.source
    }

    async fn fetch(&self) -> Result<Credentials, TierError> {
        Ok(self.credentials.clone())
    }
}

/// Makes the source that `spec` names.
///
/// # Errors
/// `Denied` when the environment is to hold a key and does not, `Invalid` for a wrong setting.
pub(crate) fn build(
    spec: &CredentialsSpec,
    _clock: &Arc<dyn Clock>,
    env: Environment<'_>,
    _settings: &OssSettings,
) -> Result<Box<dyn CredentialsProvider>, TierError> {
    match spec {
        CredentialsSpec::Static { access_key_id, access_key_secret, security_token } => {
            let credentials = Credentials {
                access_key_id: access_key_id.clone(),
                access_key_secret: access_key_secret.clone(),
                security_token: security_token.clone(),
                expires: None,
            };
            Ok(Box::new(FixedCredentials::new("configuration", credentials)))
        }
        CredentialsSpec::Env | CredentialsSpec::Default => Ok(Box::new(FixedCredentials::from_environment(env)?)),
    }
}

fn failed(kind: TierErrorKind, source: &str, message: impl fmt::Display) -> TierError {
    TierError::plain(kind, "credentials", "", format!("{source}: {message}"))
}

fn denied(source: &str, message: impl fmt::Display) -> TierError {
    failed(TierErrorKind::Denied, source, message)
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::collections::HashMap;

    fn environment(list: &[(&str, &str)]) -> impl Fn(&str) -> Option<String> + use<> {
        let map: HashMap<String, String> = list.iter().map(|(k, v)| ((*k).into(), (*v).into())).collect();
        move |name: &str| map.get(name).cloned()
    }

    #[tokio::test]
    async fn the_environment_gives_a_key_under_either_family_of_names() {
        let env =
            environment(&[("OSS_ACCESS_KEY_ID", "a"), ("OSS_ACCESS_KEY_SECRET", "b"), ("OSS_SESSION_TOKEN", "c")]);
        let got = FixedCredentials::from_environment(&env).unwrap().fetch().await.unwrap();
        assert_eq!((got.access_key_id.as_str(), got.access_key_secret.expose()), ("a", "b"));
        assert_eq!(got.security_token, Some(Secret::new("c")));
    }

    #[test]
    fn half_a_key_in_the_environment_is_refused_and_the_variables_are_named() {
        let env = environment(&[("ALIBABA_CLOUD_ACCESS_KEY_ID", "a")]);
        let error = FixedCredentials::from_environment(&env).unwrap_err();
        assert_eq!(error.kind(), TierErrorKind::Denied);
        assert!(error.to_string().contains("ALIBABA_CLOUD_ACCESS_KEY_SECRET"), "{error}");
    }

    #[test]
    fn a_secret_never_shows_in_debug() {
        let spec: CredentialsSpec = serde_json::from_str(
            r#"{"source":"static","access_key_id":"id","access_key_secret":"hush","security_token":"psst"}"#,
        )
        .unwrap();
        let text = format!("{spec:?}");
        assert!(text.contains("id") && !text.contains("hush") && !text.contains("psst"), "{text}");
    }

    #[test]
    fn an_unknown_field_of_a_source_is_refused() {
        let wrong = r#"{"source":"static","access_key_id":"id","access_key_secret":"x","tokn":"y"}"#;
        assert!(serde_json::from_str::<CredentialsSpec>(wrong).is_err());
    }
}
