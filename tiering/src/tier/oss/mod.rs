//! Alibaba Cloud OSS by its native protocol: a thin client, and the tier on top of it.
//!
//! A request (`call`) goes through [`Client`]: built and signed (`sign_v4`, `sign_v1`), sent over one pool of connections
//! (`transport`), bodies streamed and hashed on the way (`body`), refusals sorted (`fault`), repeated when that is right. What a
//! request means is in `ops_*`; what permission it needs in `ram`.
//!
//! Architecture invariant: nothing outside this module knows that OSS exists.

mod body;
mod call;
mod client;
pub mod conformance;
pub mod credentials;
mod date;
mod encode;
mod endpoint;
mod fault;
mod ops_bucket;
mod ops_list;
mod ops_multipart;
mod ops_object;
mod ops_restore;
mod ops_version;
mod presign;
mod ram;
#[cfg(feature = "oss-sdk")]
mod sdk_presign;
mod settings;
mod sign_v1;
mod sign_v4;
mod transport;
#[cfg(test)]
mod vectors;
mod xml;

pub use client::Client;
pub use ops_bucket::BucketInfo;
pub use ops_multipart::{Part, UnfinishedUpload};
pub use ops_object::MAX_DELETE_NAMES;
pub use ram::{RamPolicy, RamPurpose, RamStatement, operations_of};
pub use settings::{OssSettings, SignatureVersion, StorageClass};

use super::error::TierError;
use super::metrics::TierMetrics;
use super::{
    BodySource, Capabilities, Created, PutReceipt, RemoteMeta, RemoteVersion, RestorePriority, RestoreReceipt, Tier,
};
use crate::clock::Clock;
use async_trait::async_trait;
use bytes::Bytes;
use credentials::{CachedCredentials, Environment};
use futures::stream::BoxStream;
use std::ops::Range;
use std::sync::Arc;

/// A tier on OSS.
#[derive(Debug)]
pub struct OssTier {
    name: String,
    client: Arc<Client>,
}

impl OssTier {
    /// The tier called `name`. Asks nobody anything yet.
    ///
    /// # Errors
    /// `Invalid` for wrong settings, `Denied` when the environment is to hold a key and does not.
    pub fn new(
        name: &str,
        settings: &OssSettings,
        clock: Arc<dyn Clock>,
        env: Environment<'_>,
        metrics: TierMetrics,
    ) -> Result<Self, TierError> {
        settings.check()?;
        let source = credentials::build(settings, &clock, env)?;
        let cache = CachedCredentials::new(source, clock.clone(), metrics.credential_failures.clone());
        let client = Arc::new(Client::new(settings.clone(), cache, clock, metrics)?);
        Ok(Self { name: name.to_owned(), client })
    }

    /// The tier's name in the configuration.
    pub fn name(&self) -> &str {
        &self.name
    }

    /// The client, for operations that other tiers do not have.
    pub fn client(&self) -> &Arc<Client> {
        &self.client
    }
}

#[async_trait]
impl Tier for OssTier {
    fn capabilities(&self) -> Capabilities {
        let settings = &self.client.settings;
        let class = settings.storage_class;
        let direct = class == StorageClass::Archive && settings.archive_direct_read;
        Capabilities {
            online: !class.is_archive() || direct,
            restore: class.is_archive(),
            server_checksum: true,
            min_billable_bytes: class.min_billable_bytes(),
            min_duration_days: class.min_duration_days(),
        }
    }

    async fn put(&self, name: &str, body: Arc<dyn BodySource>) -> Result<PutReceipt, TierError> {
        if body.len() >= self.client.settings.multipart_threshold_bytes {
            self.client.put_multipart(name, body).await
        } else {
            self.client.put_object(name, body).await
        }
    }

    async fn create(&self, name: &str, body: Arc<dyn BodySource>) -> Result<Created, TierError> {
        self.client.create_object(name, body).await
    }

    async fn get(
        &self,
        name: &str,
        range: Range<u64>,
    ) -> Result<BoxStream<'static, Result<Bytes, TierError>>, TierError> {
        self.client.get_object(name, range).await
    }

    async fn head(&self, name: &str) -> Result<RemoteMeta, TierError> {
        self.client.head_object(name).await
    }

    async fn delete(&self, name: &str) -> Result<(), TierError> {
        self.client.delete_all_versions(name).await?;
        self.client.abort_all(name).await
    }

    async fn delete_version(&self, name: &str, version: &str) -> Result<(), TierError> {
        self.client.delete_object_version(name, version).await?;
        self.client.abort_all(name).await
    }

    async fn list(&self, prefix: &str, start_after: Option<&str>, max: usize) -> Result<Vec<RemoteMeta>, TierError> {
        self.client.list_objects(prefix, start_after, max).await
    }

    async fn list_versions(
        &self,
        prefix: &str,
        after: Option<&RemoteVersion>,
        max: usize,
    ) -> Result<Option<Vec<RemoteVersion>>, TierError> {
        self.client.list_versions(prefix, after, max).await.map(Some)
    }

    fn keeps_versions(&self) -> bool {
        self.client.keeps_versions()
    }

    async fn restore(&self, name: &str, days: u32, priority: RestorePriority) -> Result<RestoreReceipt, TierError> {
        let class = self.client.settings.storage_class;
        if !class.is_archive() {
            return Ok(RestoreReceipt::NotNeeded);
        }
        self.client.restore_object(name, class, days, priority).await
    }
}
