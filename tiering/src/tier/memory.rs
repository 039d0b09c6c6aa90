//! A tier in memory, with hooks that make chosen calls fail: for tests of what stands on top.

use super::error::TierError;
use super::metrics::{Operation, TierMetrics};
use super::object::ObjectTier;
use super::{BodySource, Capabilities, Created, PutReceipt, RemoteMeta, RestorePriority, RestoreReceipt, Tier};
use async_trait::async_trait;
use bytes::Bytes;
use futures::stream::BoxStream;
use object_store::memory::InMemory;
use std::fmt;
use std::ops::Range;
use std::sync::{Arc, Mutex, PoisonError};

/// When a hook is asked.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Moment {
    /// Nothing has been done: an error means that the call never arrived.
    Before,
    /// It has been done: an error means that the answer was lost.
    After,
}

type Hook = Arc<dyn Fn(Operation, &str, Moment) -> Option<TierError> + Send + Sync>;

/// A tier in memory.
pub struct MemoryTier {
    inner: ObjectTier,
    hook: Mutex<Option<Hook>>,
}

impl fmt::Debug for MemoryTier {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("MemoryTier").field("inner", &self.inner).finish_non_exhaustive()
    }
}

impl MemoryTier {
    /// An empty tier.
    ///
    /// # Errors
    /// `Invalid` when its counters cannot be made.
    pub fn new() -> Result<Self, TierError> {
        let metrics = TierMetrics::new("memory", None)?;
        Ok(Self { inner: ObjectTier::on("memory", Arc::new(InMemory::new()), metrics), hook: Mutex::new(None) })
    }

    /// Asks `hook` before and after every call; what it returns is what the call returns. (`list` gives the prefix as the
    /// name.)
    #[doc(hidden)]
    pub fn set_hook(&self, hook: impl Fn(Operation, &str, Moment) -> Option<TierError> + Send + Sync + 'static) {
        *self.hook.lock().unwrap_or_else(PoisonError::into_inner) = Some(Arc::new(hook));
    }

    /// Removes the hook.
    #[doc(hidden)]
    pub fn clear_hook(&self) {
        *self.hook.lock().unwrap_or_else(PoisonError::into_inner) = None;
    }

    fn ask(&self, operation: Operation, name: &str, moment: Moment) -> Result<(), TierError> {
        let hook = self.hook.lock().unwrap_or_else(PoisonError::into_inner).clone();
        hook.and_then(|hook| hook(operation, name, moment)).map_or(Ok(()), Err)
    }

    async fn hooked<T>(
        &self,
        operation: Operation,
        name: &str,
        work: impl Future<Output = Result<T, TierError>>,
    ) -> Result<T, TierError> {
        self.ask(operation, name, Moment::Before)?;
        let result = work.await?;
        self.ask(operation, name, Moment::After)?;
        Ok(result)
    }
}

#[async_trait]
impl Tier for MemoryTier {
    fn capabilities(&self) -> Capabilities {
        self.inner.capabilities()
    }

    async fn put(&self, name: &str, body: Arc<dyn BodySource>) -> Result<PutReceipt, TierError> {
        self.hooked(Operation::PutObject, name, self.inner.put(name, body)).await
    }

    async fn create(&self, name: &str, body: Arc<dyn BodySource>) -> Result<Created, TierError> {
        self.hooked(Operation::PutObject, name, self.inner.create(name, body)).await
    }

    async fn get(
        &self,
        name: &str,
        range: Range<u64>,
    ) -> Result<BoxStream<'static, Result<Bytes, TierError>>, TierError> {
        self.hooked(Operation::GetObject, name, self.inner.get(name, range)).await
    }

    async fn head(&self, name: &str) -> Result<RemoteMeta, TierError> {
        self.hooked(Operation::HeadObject, name, self.inner.head(name)).await
    }

    async fn delete(&self, name: &str) -> Result<(), TierError> {
        self.hooked(Operation::DeleteObject, name, self.inner.delete(name)).await
    }

    async fn list(&self, prefix: &str, start_after: Option<&str>, max: usize) -> Result<Vec<RemoteMeta>, TierError> {
        self.hooked(Operation::ListObjectsV2, prefix, self.inner.list(prefix, start_after, max)).await
    }

    async fn restore(&self, name: &str, days: u32, priority: RestorePriority) -> Result<RestoreReceipt, TierError> {
        self.hooked(Operation::RestoreObject, name, self.inner.restore(name, days, priority)).await
    }
}
