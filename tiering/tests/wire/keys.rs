//! What the tests of credentials share: a store, a tier whose keys come from somewhere, and grants of such keys.

use super::{Recorded, Reply, Server};
use bytes::Bytes;
use std::sync::Arc;
use std::time::Duration;
use tidegate_tiering::clock::{Clock, SystemClock, Timestamp};
use tidegate_tiering::tier::oss::credentials::CredentialsSpec;
use tidegate_tiering::tier::oss::{OssSettings, OssTier};
use tidegate_tiering::tier::{Tier, TierError, TierMetrics};

pub fn spec(text: &str) -> CredentialsSpec {
    serde_json::from_str(text).unwrap()
}

pub fn tier(endpoint: &str, spec: CredentialsSpec, env: &dyn Fn(&str) -> Option<String>) -> (OssTier, TierMetrics) {
    let mut settings = OssSettings::new(endpoint, "cn-hangzhou", "bucket");
    settings.credentials = spec;
    settings.read_timeout_ms = 60_000;
    settings.max_attempts = 1;
    let metrics = TierMetrics::new("cold", None).unwrap();
    let clock: Arc<dyn Clock> = Arc::new(SystemClock::default());
    (OssTier::new("cold", &settings, clock, env, metrics.clone()).unwrap(), metrics)
}

/// `2023-12-16T16:20:57Z`, whole seconds.
pub fn iso(when: Timestamp) -> String {
    format!("{}Z", when.to_string().split_once('.').unwrap().0)
}

pub fn grant(id: &str, life: Duration) -> String {
    let expires = iso(SystemClock::default().now().plus(life));
    format!(
        r#"{{"Code":"Success","AccessKeyId":"{id}","AccessKeySecret":"shh","SecurityToken":"token-{id}","Expiration":"{expires}"}}"#
    )
}

/// A store that takes everything.
pub async fn store() -> Server {
    Server::start(|_, _| Reply::new(200)).await
}

pub async fn put(tier: &OssTier) -> Result<(), TierError> {
    tier.put("a", Arc::new(Bytes::from_static(b"x"))).await.map(|_| ())
}

/// The id of the key that the last request to `store` was signed with.
pub fn key_of(store: &Server) -> String {
    let request = store.requests().pop().unwrap();
    let rest = request.header("authorization").split_once("Credential=").unwrap().1.to_owned();
    rest.split_once('/').unwrap().0.to_owned()
}

/// Parameters of a form.
pub fn form(request: &Recorded) -> std::collections::HashMap<String, String> {
    request.text().split('&').filter_map(|p| p.split_once('=')).map(|(k, v)| (k.to_owned(), v.to_owned())).collect()
}

pub const HOUR: Duration = Duration::from_secs(3600);
