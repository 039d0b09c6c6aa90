//! Credentials over plain HTTP: the metadata service of an ECS instance, and a credentials URI.

use super::{Context, Credentials, CredentialsProvider, denied, failed, read_temporary};
use crate::tier::error::{TierError, TierErrorKind};
use crate::tier::secret::Secret;
use async_trait::async_trait;
use std::time::Duration;

/// Where the metadata service is, on every instance.
const METADATA: &str = "http://100.100.100.200";
/// It answers from the machine's own link: longer waits only delay machines that are not instances.
const TIMEOUT: Duration = Duration::from_secs(1);
/// Life of a metadata token in seconds: the longest that is possible.
const TOKEN_TTL: &str = "21600";
const ROLE_PATH: &str = "/latest/meta-data/ram/security-credentials/";

/// The role of an ECS instance.
#[derive(Debug)]
pub(super) struct EcsRole {
    context: Context,
    role: Option<String>,
    disable_v1: bool,
    endpoint: String,
}

impl EcsRole {
    pub(super) fn new(context: Context, role: Option<String>, disable_v1: bool, endpoint: Option<&str>) -> Self {
        let role = role.or_else(|| context.variable("ALIBABA_CLOUD_ECS_METADATA"));
        let disable_v1 = disable_v1 || context.flag("ALIBABA_CLOUD_IMDSV1_DISABLED");
        let endpoint = endpoint.unwrap_or(METADATA).trim_end_matches('/').to_owned();
        Self { context, role, disable_v1, endpoint }
    }

    /// A token of the newer protocol; `None` when only the older one is there and allowed.
    async fn token(&self) -> Result<Option<Secret>, TierError> {
        let url = format!("{}/latest/api/token", self.endpoint);
        let request =
            self.context.direct.put(url).header("x-aliyun-ecs-metadata-token-ttl-seconds", TOKEN_TTL).body("");
        let result = self.context.exchange(self.source(), request, TIMEOUT).await;
        match result {
            Ok((200, body)) => Ok(Some(Secret::new(String::from_utf8_lossy(&body).trim()))),
            Ok((status, _)) if self.disable_v1 => {
                let text = format!("the metadata service gave no token (status {status}), and v1 is disabled");
                Err(denied(self.source(), text))
            }
            Ok(_) => Ok(None),
            Err(error) => Err(error),
        }
    }

    async fn read(&self, path: &str, token: Option<&Secret>) -> Result<bytes::Bytes, TierError> {
        let mut request = self.context.direct.get(format!("{}{path}", self.endpoint));
        if let Some(token) = token {
            request = request.header("x-aliyun-ecs-metadata-token", token.expose());
        }
        match self.context.exchange(self.source(), request, TIMEOUT).await? {
            (200, body) => Ok(body),
            (404, _) => Err(denied(self.source(), format!("{path}: not found; has the instance a RAM role?"))),
            (status, _) if status >= 500 => {
                Err(failed(TierErrorKind::Unavailable, self.source(), format!("{path}: status {status}")))
            }
            (status, _) => Err(denied(self.source(), format!("{path}: status {status}"))),
        }
    }
}

#[async_trait]
impl CredentialsProvider for EcsRole {
    fn source(&self) -> &'static str {
        "ECS role"
    }

    async fn fetch(&self) -> Result<Credentials, TierError> {
        let token = self.token().await?;
        let role = match &self.role {
            Some(role) => role.clone(),
            None => {
                let body = self.read(ROLE_PATH, token.as_ref()).await?;
                let text = String::from_utf8_lossy(&body).trim().to_owned();
                let plain = text.bytes().all(|b| b.is_ascii_alphanumeric() || b"-_.".contains(&b));
                if text.is_empty() || !plain {
                    return Err(denied(self.source(), "the metadata service named no role"));
                }
                text
            }
        };
        let body = self.read(&format!("{ROLE_PATH}{role}"), token.as_ref()).await?;
        read_temporary(self.source(), &body)
    }
}

/// A URL that answers with credentials.
#[derive(Debug)]
pub(super) struct CredentialsUri {
    context: Context,
    uri: Secret,
}

impl CredentialsUri {
    pub(super) fn new(context: Context, uri: Secret) -> Self {
        Self { context, uri }
    }
}

#[async_trait]
impl CredentialsProvider for CredentialsUri {
    fn source(&self) -> &'static str {
        "credentials URI"
    }

    async fn fetch(&self) -> Result<Credentials, TierError> {
        let request = self.context.direct.get(self.uri.expose());
        match self.context.exchange(self.source(), request, self.context.timeout).await? {
            (200, body) => read_temporary(self.source(), &body),
            (status, _) if status >= 500 => {
                Err(failed(TierErrorKind::Unavailable, self.source(), format!("status {status}")))
            }
            (status, _) => Err(denied(self.source(), format!("status {status}"))),
        }
    }
}
