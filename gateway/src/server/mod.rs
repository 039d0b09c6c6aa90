//! PLACEHOLDER with the final signatures; the S3 endpoint's author replaces this folder at the merge.
#![allow(missing_docs, clippy::unused_async)]

use serde::Deserialize;
use std::net::SocketAddr;
use std::time::Duration;
use tidegate_tiering::engine::Engine;

#[derive(Clone, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct AccessKey {
    pub access_key: String,
    pub secret_key: String,
}

impl std::fmt::Debug for AccessKey {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("AccessKey").field("access_key", &self.access_key).finish_non_exhaustive()
    }
}

#[derive(Debug, Clone, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub struct S3Settings {
    pub listen: SocketAddr,
    pub access_keys: Vec<AccessKey>,
    pub region: String,
    pub domains: Vec<String>,
    pub shutdown_timeout: Duration,
}

impl Default for S3Settings {
    fn default() -> Self {
        Self {
            listen: SocketAddr::from(([127, 0, 0, 1], 9000)),
            access_keys: Vec::new(),
            region: "us-east-1".to_owned(),
            domains: Vec::new(),
            shutdown_timeout: Duration::from_secs(30),
        }
    }
}

pub struct S3Server;

impl S3Server {
    pub fn bind(_settings: S3Settings, _engine: Engine, _registry: &prometheus::Registry) -> std::io::Result<Self> {
        Err(std::io::Error::other("placeholder"))
    }

    pub fn addresses(&self) -> Vec<SocketAddr> {
        Vec::new()
    }

    pub async fn run(self, shutdown: impl Future<Output = ()> + Send + 'static) -> std::io::Result<()> {
        shutdown.await;
        Ok(())
    }
}
