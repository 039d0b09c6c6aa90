//! A cache in front of a source: refreshes ahead of expiry, one refresh at a time.

use super::{Credentials, CredentialsProvider, denied};
use crate::clock::{Clock, Timestamp};
use crate::tier::error::TierError;
use prometheus::IntCounter;
use std::fmt;
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

/// A key is renewed when less than this is left of its life (the vendor's clients use the same), or when half of it is
/// gone if that is later.
const REFRESH_AHEAD: Duration = Duration::from_secs(180);
/// After a failed refresh of a key that still works, the source is left alone for this long.
const RETRY_AFTER: Duration = Duration::from_secs(1);

#[derive(Debug, Clone)]
struct Held {
    credentials: Arc<Credentials>,
    refresh_at: Timestamp,
}

/// Credentials of one source, renewed in time. A failing refresh keeps the key that still works, is logged and counted,
/// and is shown by [`CachedCredentials::last_error`].
pub struct CachedCredentials {
    inner: Box<dyn CredentialsProvider>,
    clock: Arc<dyn Clock>,
    held: Mutex<Option<Held>>,
    refreshing: tokio::sync::Mutex<()>,
    last_error: Mutex<Option<String>>,
    failures: IntCounter,
}

impl fmt::Debug for CachedCredentials {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("CachedCredentials").field("inner", &self.inner).finish_non_exhaustive()
    }
}

fn lock<T>(mutex: &Mutex<T>) -> std::sync::MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}

impl CachedCredentials {
    /// A cache of `inner`, which counts failed refreshes in `failures`.
    pub fn new(inner: Box<dyn CredentialsProvider>, clock: Arc<dyn Clock>, failures: IntCounter) -> Self {
        Self {
            inner,
            clock,
            held: Mutex::new(None),
            refreshing: tokio::sync::Mutex::new(()),
            last_error: Mutex::new(None),
            failures,
        }
    }

    /// A key that works now.
    ///
    /// # Errors
    /// The source's error when there is no key that still works.
    pub async fn get(&self) -> Result<Arc<Credentials>, TierError> {
        let valid = match self.valid() {
            Some(held) if self.clock.now() < held.refresh_at => return Ok(held.credentials),
            valid => valid,
        };
        // While somebody else renews a key that still works, it is used: only without one must everybody wait.
        let _guard = match valid {
            Some(held) => match self.refreshing.try_lock() {
                Ok(guard) => guard,
                Err(_) => return Ok(held.credentials),
            },
            None => self.refreshing.lock().await,
        };
        if let Some(held) = self.valid().filter(|held| self.clock.now() < held.refresh_at) {
            return Ok(held.credentials);
        }
        self.refresh().await
    }

    /// Forgets `refused`, which the store said has expired, unless it was replaced in the meantime.
    pub fn invalidate(&self, refused: &Credentials) {
        let mut held = lock(&self.held);
        if held.as_ref().is_some_and(|h| *h.credentials == *refused) {
            *held = None;
        }
    }

    /// Why the last refresh failed; `None` when it did not.
    pub fn last_error(&self) -> Option<String> {
        lock(&self.last_error).clone()
    }

    fn valid(&self) -> Option<Held> {
        let now = self.clock.now();
        lock(&self.held).clone().filter(|h| h.credentials.expires.is_none_or(|expires| now < expires))
    }

    async fn refresh(&self) -> Result<Arc<Credentials>, TierError> {
        let fetched = self.inner.fetch().await.and_then(|credentials| self.accept(credentials));
        match fetched {
            Ok(credentials) => {
                *lock(&self.last_error) = None;
                Ok(credentials)
            }
            Err(error) => {
                self.failures.inc();
                *lock(&self.last_error) = Some(error.to_string());
                let Some(mut held) = self.valid() else { return Err(error) };
                tracing::warn!(source = self.inner.source(), %error, "cannot renew credentials, the old ones still work");
                held.refresh_at = self.clock.now().plus(RETRY_AFTER);
                *lock(&self.held) = Some(held.clone());
                Ok(held.credentials)
            }
        }
    }

    fn accept(&self, credentials: Credentials) -> Result<Arc<Credentials>, TierError> {
        let now = self.clock.now();
        let refresh_at = match credentials.expires {
            None => Timestamp::MAX,
            Some(expires) if expires <= now => {
                return Err(denied(
                    self.inner.source(),
                    format!("gave credentials that expired at {expires}, it is {now}: check the source and the clock"),
                ));
            }
            Some(expires) => {
                let ahead = REFRESH_AHEAD.min(expires.since(now) / 2);
                now.plus(expires.since(now).saturating_sub(ahead))
            }
        };
        let credentials = Arc::new(credentials);
        *lock(&self.held) = Some(Held { credentials: credentials.clone(), refresh_at });
        Ok(credentials)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::clock::ManualClock;
    use crate::tier::error::TierErrorKind;
    use crate::tier::secret::Secret;
    use async_trait::async_trait;
    use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};

    #[derive(Debug)]
    struct Source {
        clock: Arc<ManualClock>,
        calls: Arc<AtomicU64>,
        broken: Arc<AtomicBool>,
        lifetime: Duration,
    }

    #[async_trait]
    impl CredentialsProvider for Source {
        fn source(&self) -> &'static str {
            "test"
        }

        async fn fetch(&self) -> Result<Credentials, TierError> {
            let call = self.calls.fetch_add(1, Ordering::SeqCst) + 1;
            tokio::task::yield_now().await;
            if self.broken.load(Ordering::SeqCst) {
                return Err(denied("test", "broken"));
            }
            Ok(Credentials {
                access_key_id: format!("key-{call}"),
                access_key_secret: Secret::new("s"),
                security_token: None,
                expires: Some(self.clock.now().plus(self.lifetime)),
            })
        }
    }

    struct Bench {
        clock: Arc<ManualClock>,
        calls: Arc<AtomicU64>,
        broken: Arc<AtomicBool>,
        cache: Arc<CachedCredentials>,
    }

    fn bench(lifetime: Duration) -> Bench {
        let clock = Arc::new(ManualClock::new(Timestamp(1_000_000)));
        let calls = Arc::new(AtomicU64::new(0));
        let broken = Arc::new(AtomicBool::new(false));
        let source = Source { clock: clock.clone(), calls: calls.clone(), broken: broken.clone(), lifetime };
        let failures = IntCounter::new("f", "f").unwrap();
        let cache = Arc::new(CachedCredentials::new(Box::new(source), clock.clone(), failures));
        Bench { clock, calls, broken, cache }
    }

    #[tokio::test]
    async fn many_callers_without_a_key_cause_one_fetch() {
        let b = bench(Duration::from_secs(3600));
        let all = (0..50).map(|_| {
            let cache = b.cache.clone();
            tokio::spawn(async move { cache.get().await.unwrap().access_key_id.clone() })
        });
        for id in futures::future::join_all(all).await {
            assert_eq!(id.unwrap(), "key-1");
        }
        assert_eq!(b.calls.load(Ordering::SeqCst), 1);
    }

    #[tokio::test]
    async fn a_key_is_renewed_ahead_of_its_expiry() {
        let b = bench(Duration::from_secs(3600));
        assert_eq!(b.cache.get().await.unwrap().access_key_id, "key-1");
        b.clock.advance(Duration::from_secs(3419));
        assert_eq!(b.cache.get().await.unwrap().access_key_id, "key-1");
        b.clock.advance(Duration::from_secs(2));
        assert_eq!(b.cache.get().await.unwrap().access_key_id, "key-2");
    }

    #[tokio::test]
    async fn a_failing_refresh_keeps_the_working_key_and_is_visible() {
        let b = bench(Duration::from_secs(100));
        b.cache.get().await.unwrap();
        b.broken.store(true, Ordering::SeqCst);
        b.clock.advance(Duration::from_secs(60));
        assert_eq!(b.cache.get().await.unwrap().access_key_id, "key-1");
        assert!(b.cache.last_error().unwrap().contains("broken"));
        assert_eq!(b.cache.failures.get(), 1);
        b.cache.get().await.unwrap();
        assert_eq!(b.calls.load(Ordering::SeqCst), 2, "the source is left alone for a moment");
        b.clock.advance(Duration::from_secs(41));
        assert_eq!(b.cache.get().await.unwrap_err().kind(), TierErrorKind::Denied);
        b.broken.store(false, Ordering::SeqCst);
        b.cache.get().await.unwrap();
        assert_eq!(b.cache.last_error(), None);
    }

    #[tokio::test]
    async fn a_key_that_has_expired_already_is_refused_with_a_hint() {
        let b = bench(Duration::ZERO);
        let error = b.cache.get().await.unwrap_err();
        assert!(error.to_string().contains("check the source and the clock"), "{error}");
    }

    #[tokio::test]
    async fn a_key_that_the_store_refused_is_fetched_again_once() {
        let b = bench(Duration::from_secs(3600));
        let first = b.cache.get().await.unwrap();
        b.cache.invalidate(&first);
        let second = b.cache.get().await.unwrap();
        assert_eq!(second.access_key_id, "key-2");
        b.cache.invalidate(&first);
        assert_eq!(b.cache.get().await.unwrap().access_key_id, "key-2");
    }
}
