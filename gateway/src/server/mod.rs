//! PLACEHOLDER with the final signatures; the S3 endpoint's author replaces this folder at the merge.
#![allow(missing_docs, clippy::unused_async)]

use serde::Deserialize;
use std::net::SocketAddr;
use tidegate_tiering::engine::Engine;

#[derive(Clone, PartialEq, Eq, Deserialize)]
#[serde(transparent)]
pub struct Secret(String);
impl Secret {
    pub fn new(secret: impl Into<String>) -> Self {
        Self(secret.into())
    }
    pub fn expose(&self) -> &str {
        &self.0
    }
}
impl std::fmt::Debug for Secret {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str("<redacted>")
    }
}

#[derive(Debug, Clone, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct AccessKey {
    pub access_key: String,
    pub secret_key: Secret,
}

#[derive(Debug, Clone, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub struct S3Settings {
    pub listen: SocketAddr,
    pub access_keys: Vec<AccessKey>,
    pub region: String,
    pub domains: Vec<String>,
    pub shutdown_timeout_seconds: u64,
    #[serde(skip)]
    pub storage_classes: Vec<String>,
}

impl Default for S3Settings {
    fn default() -> Self {
        Self {
            listen: SocketAddr::from(([127, 0, 0, 1], 9000)),
            access_keys: Vec::new(),
            region: "us-east-1".to_owned(),
            domains: Vec::new(),
            shutdown_timeout_seconds: 30,
            storage_classes: Vec::new(),
        }
    }
}

impl S3Settings {
    pub fn problem(&self) -> Option<String> {
        None
    }
}

#[derive(Debug, thiserror::Error)]
#[error("placeholder")]
pub struct ServerError;

pub struct S3Server(SocketAddr);

impl S3Server {
    pub fn bind(settings: S3Settings, _engine: Engine, _registry: &prometheus::Registry) -> Result<Self, ServerError> {
        Ok(Self(settings.listen))
    }

    pub fn local_addr(&self) -> SocketAddr {
        self.0
    }

    pub async fn run(self, shutdown: impl Future<Output = ()>) -> Result<(), ServerError> {
        shutdown.await;
        Ok(())
    }
}
