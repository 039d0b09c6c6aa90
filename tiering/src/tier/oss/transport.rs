//! The connection pool, and how long things may take.

use super::fault;
use super::settings::OssSettings;
use crate::tier::error::{ErrorDetails, TierError};
use std::time::Duration;

/// Bound of the back-off: as the vendor's clients have it.
pub(crate) const BACKOFF_MAX: Duration = Duration::from_secs(20);
/// Idle connections are dropped before the service does it (60 s), which spares a failed request.
const POOL_IDLE: Duration = Duration::from_secs(45);

/// The connection pool that `settings` describe.
pub(crate) fn http_client(settings: &OssSettings) -> Result<reqwest::Client, TierError> {
    let refuse = |what: &str, why: String| TierError::invalid("settings", "", format!("{what}: {why}"));
    let mut builder = reqwest::Client::builder()
        .user_agent(concat!("tidegate/", env!("CARGO_PKG_VERSION")))
        .redirect(reqwest::redirect::Policy::none())
        .retry(reqwest::retry::never())
        .http1_only()
        .no_proxy()
        .tcp_nodelay(true)
        .pool_idle_timeout(POOL_IDLE)
        .pool_max_idle_per_host(settings.concurrency)
        .local_address(settings.source_address)
        .connect_timeout(Duration::from_millis(settings.connect_timeout_ms));
    if let Some(proxy) = &settings.proxy {
        // The proxy's URL may hold a password, so it is not repeated in the error.
        builder = builder
            .proxy(reqwest::Proxy::all(proxy.expose()).map_err(|e| refuse("proxy", e.without_url().to_string()))?);
    }
    if let Some(path) = &settings.ca_file {
        let what = format!("ca_file {}", path.display());
        let pem = std::fs::read(path).map_err(|e| refuse(&what, e.to_string()))?;
        let list = reqwest::Certificate::from_pem_bundle(&pem).map_err(|e| refuse(&what, e.to_string()))?;
        if list.is_empty() {
            return Err(refuse(&what, "there is no PEM certificate in it".to_owned()));
        }
        builder = builder.tls_certs_merge(list);
    }
    builder.build().map_err(|e| {
        let fault = fault::of_transport(e, ErrorDetails::default());
        refuse("connection settings", fault.error.details().message.clone())
    })
}

/// Wait before attempt `attempt + 1`: full jitter, at least what the store asked for.
pub(crate) fn backoff(base: Duration, attempt: u32, asked: Duration) -> Duration {
    let step = base.saturating_mul(1u32.checked_shl(attempt.saturating_sub(1)).unwrap_or(u32::MAX));
    let cap = u64::try_from(step.min(BACKOFF_MAX).as_millis()).unwrap_or(u64::MAX);
    asked.min(BACKOFF_MAX).max(Duration::from_millis(rand::random_range(0..=cap)))
}

/// Waits for `future` as long as `progress` grows within each `idle`.
pub(crate) async fn while_it_moves<F: Future>(
    future: F,
    progress: impl Fn() -> u64,
    idle: Duration,
) -> Option<F::Output> {
    let mut future = std::pin::pin!(future);
    let mut seen = progress();
    loop {
        match tokio::time::timeout(idle, &mut future).await {
            Ok(output) => return Some(output),
            Err(_) if progress() == seen => return None,
            Err(_) => seen = progress(),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_wait_is_jittered_bounded_and_never_below_what_was_asked_for() {
        let base = Duration::from_millis(200);
        for attempt in 1..200 {
            assert!(backoff(base, attempt, Duration::ZERO) <= BACKOFF_MAX);
        }
        assert!((0..100).all(|_| backoff(base, 1, Duration::ZERO) <= base));
        assert!(backoff(base, 1, Duration::from_secs(3)) >= Duration::from_secs(3));
        assert!(backoff(base, 1, Duration::from_secs(300)) <= BACKOFF_MAX);
    }
}
