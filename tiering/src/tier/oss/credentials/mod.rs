//! Where the keys come from. One trait, its sources, a chain of them in the vendor's order, and a cache that refreshes
//! ahead of expiry. Nothing here reads the process's environment: the caller passes a function that does.

mod cache;
mod chain;
mod metadata;
mod profiles;
mod spec;
mod sts;

pub use cache::CachedCredentials;
pub(crate) use spec::build;
pub use spec::{AssumeRole, CredentialsSpec, RolesAnywhere};

use super::super::error::{TierError, TierErrorKind};
use super::super::secret::Secret;
use super::date;
use crate::clock::{Clock, Timestamp};
use async_trait::async_trait;
use bytes::Bytes;
use serde::Deserialize;
use std::collections::HashMap;
use std::fmt;
use std::sync::Arc;
use std::time::Duration;

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

/// Variables that sources read. Copied once, so that no source needs the caller's function later.
const VARIABLES: &[&str] = &[
    "ALIBABA_CLOUD_ACCESS_KEY_ID",
    "ALIBABA_CLOUD_ACCESS_KEY_SECRET",
    "ALIBABA_CLOUD_SECURITY_TOKEN",
    "OSS_ACCESS_KEY_ID",
    "OSS_ACCESS_KEY_SECRET",
    "OSS_SESSION_TOKEN",
    "ALIBABA_CLOUD_PROFILE",
    "ALIBABA_CLOUD_CREDENTIALS_FILE",
    "ALIBABA_CLOUD_CONFIG_FILE",
    "ALIBABA_CLOUD_CREDENTIALS_URI",
    "ALIBABA_CLOUD_CLI_PROFILE_DISABLED",
    "ALIBABA_CLOUD_ECS_METADATA",
    "ALIBABA_CLOUD_ECS_METADATA_DISABLED",
    "ALIBABA_CLOUD_IMDSV1_DISABLED",
    "ALIBABA_CLOUD_ROLE_ARN",
    "ALIBABA_CLOUD_OIDC_PROVIDER_ARN",
    "ALIBABA_CLOUD_OIDC_TOKEN_FILE",
    "ALIBABA_CLOUD_ROLE_SESSION_NAME",
    "ALIBABA_CLOUD_STS_REGION",
    "ALIBABA_CLOUD_STS_ENDPOINT",
    "ALIBABA_CLOUD_VPC_ENDPOINT_ENABLED",
    "HOME",
];
/// Longest answer that a source may give, in bytes.
const MAX_ANSWER_BYTES: usize = 64 << 10;

/// What the sources share.
#[derive(Clone)]
pub(crate) struct Context {
    /// Follows the tier's proxy, certificates and source address.
    http: reqwest::Client,
    /// For addresses on the machine or its link: never through a proxy.
    direct: reqwest::Client,
    clock: Arc<dyn Clock>,
    timeout: Duration,
    variables: Arc<HashMap<&'static str, Secret>>,
}

impl fmt::Debug for Context {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("Context")
    }
}

impl Context {
    /// A variable that is set and not blank.
    fn variable(&self, name: &str) -> Option<String> {
        self.variables.get(name).map(|v| v.expose().to_owned())
    }

    fn flag(&self, name: &str) -> bool {
        self.variable(name).is_some_and(|v| v.trim().eq_ignore_ascii_case("true") || v.trim() == "1")
    }

    /// Sends `request` and reads the answer, both within the time-out.
    async fn exchange(
        &self,
        source: &str,
        request: reqwest::RequestBuilder,
        timeout: Duration,
    ) -> Result<(u16, Bytes), TierError> {
        let unavailable = |why: &dyn fmt::Display| failed(TierErrorKind::Unavailable, source, why);
        let work = async {
            // The URL is left out: a credentials URI may hold a secret itself.
            let mut response = request.send().await.map_err(|e| unavailable(&e.without_url()))?;
            let mut body = bytes::BytesMut::new();
            while let Some(piece) = response.chunk().await.map_err(|e| unavailable(&e.without_url()))? {
                if body.len().saturating_add(piece.len()) > MAX_ANSWER_BYTES {
                    return Err(unavailable(&format!("the answer is longer than {MAX_ANSWER_BYTES} bytes")));
                }
                body.extend_from_slice(&piece);
            }
            Ok((response.status().as_u16(), body.freeze()))
        };
        match tokio::time::timeout(timeout, work).await {
            Ok(result) => result,
            Err(_) => Err(unavailable(&format!("no answer within {} ms", timeout.as_millis()))),
        }
    }
}

/// Temporary credentials as every service of the vendor writes them.
#[derive(Deserialize)]
#[serde(rename_all = "PascalCase")]
struct Temporary {
    #[serde(default)]
    code: Option<String>,
    #[serde(default)]
    access_key_id: String,
    #[serde(default)]
    access_key_secret: String,
    #[serde(default)]
    security_token: String,
    #[serde(default)]
    expiration: String,
}

impl Temporary {
    fn into_credentials(self, source: &str) -> Result<Credentials, TierError> {
        if let Some(code) = self.code.filter(|code| code != "Success") {
            return Err(denied(source, format!("answered code {code:?}")));
        }
        for (field, value) in [("AccessKeyId", &self.access_key_id), ("AccessKeySecret", &self.access_key_secret)] {
            if value.is_empty() {
                return Err(denied(source, format!("the answer has no {field}")));
            }
        }
        let expires = match self.expiration.as_str() {
            "" => None,
            text => {
                Some(date::parse_iso(text).ok_or_else(|| denied(source, format!("Expiration {text:?} is no time")))?)
            }
        };
        let token = Some(self.security_token).filter(|t| !t.is_empty()).map(Secret::new);
        Ok(Credentials {
            access_key_id: self.access_key_id,
            access_key_secret: Secret::new(self.access_key_secret),
            security_token: token,
            expires,
        })
    }
}

/// Reads credentials from an answer. The reader's own message is dropped: it may quote what it could not read.
fn read_temporary(source: &str, body: &[u8]) -> Result<Credentials, TierError> {
    let temporary: Temporary =
        serde_json::from_slice(body).map_err(|_| denied(source, "the answer holds no credentials (no such JSON)"))?;
    temporary.into_credentials(source)
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
