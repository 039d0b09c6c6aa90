//! Tags of objects, and what concerns the bucket.

use super::call::Call;
use super::client::Client;
use super::encode;
use super::xml;
use crate::tier::error::{TierError, TierErrorKind};
use crate::tier::metrics::Operation;
use md5::{Digest as _, Md5};
use reqwest::Method;

/// What GetBucketInfo tells.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct BucketInfo {
    /// The bucket's name.
    pub name: String,
    /// Its region, with the `oss-` prefix.
    pub location: String,
    /// Class of objects that are written without one.
    pub storage_class: String,
    /// `LRS` or `ZRS`.
    pub redundancy: String,
    /// `Enabled`, `Suspended`, or nothing.
    pub versioning: String,
}

/// Most tags of an object.
const MAX_TAGS: usize = 10;

impl Client {
    /// PutObjectTagging: replaces all tags.
    ///
    /// # Errors
    /// See [`TierError`]; `Invalid` for more than ten tags.
    pub async fn put_object_tagging(&self, name: &str, tags: &[(String, String)]) -> Result<(), TierError> {
        const OPERATION: Operation = Operation::PutObjectTagging;
        if tags.len() > MAX_TAGS {
            let text = format!("{} tags, at most {MAX_TAGS} are possible", tags.len());
            return Err(self.error(TierErrorKind::Invalid, (OPERATION, name), text));
        }
        let mut text = "<?xml version=\"1.0\" encoding=\"UTF-8\"?><Tagging><TagSet>".to_owned();
        for (key, value) in tags {
            let (key, value) = (xml::escape(key), xml::escape(value));
            text.push_str(&format!("<Tag><Key>{key}</Key><Value>{value}</Value></Tag>"));
        }
        text.push_str("</TagSet></Tagging>");
        let call = Call::new(OPERATION, Method::PUT, Some(name)).query("tagging", "").document(text);
        self.send(&call).await.map(|_| ())
    }

    /// GetObjectTagging.
    ///
    /// # Errors
    /// See [`TierError`].
    pub async fn get_object_tagging(&self, name: &str) -> Result<Vec<(String, String)>, TierError> {
        const OPERATION: Operation = Operation::GetObjectTagging;
        let answer = self.send(&Call::new(OPERATION, Method::GET, Some(name)).query("tagging", "")).await?;
        let tagging: xml::Tagging =
            xml::read(&answer.body).map_err(|why| self.error(TierErrorKind::Corrupt, (OPERATION, name), why))?;
        Ok(tagging.tag_set.tag.into_iter().map(|tag| (tag.key, tag.value)).collect())
    }

    /// DeleteObjectTagging.
    ///
    /// # Errors
    /// See [`TierError`].
    pub async fn delete_object_tagging(&self, name: &str) -> Result<(), TierError> {
        let call = Call::new(Operation::DeleteObjectTagging, Method::DELETE, Some(name)).query("tagging", "");
        self.send(&call).await.map(|_| ())
    }

    /// GetBucketInfo.
    ///
    /// # Errors
    /// See [`TierError`].
    pub async fn bucket_info(&self) -> Result<BucketInfo, TierError> {
        const OPERATION: Operation = Operation::GetBucketInfo;
        let answer = self.send(&Call::new(OPERATION, Method::GET, None).query("bucketInfo", "")).await?;
        let info: xml::BucketInfoResult =
            xml::read(&answer.body).map_err(|why| self.error(TierErrorKind::Corrupt, (OPERATION, ""), why))?;
        let bucket = info.bucket;
        Ok(BucketInfo {
            name: bucket.name,
            location: bucket.location,
            storage_class: xml::class_name(&bucket.storage_class).unwrap_or_default(),
            redundancy: bucket.data_redundancy_type,
            versioning: bucket.versioning,
        })
    }

    /// GetBucketLifecycle: the document as it is, `None` when the bucket has no rules.
    ///
    /// # Errors
    /// See [`TierError`].
    pub async fn bucket_lifecycle(&self) -> Result<Option<String>, TierError> {
        const OPERATION: Operation = Operation::GetBucketLifecycle;
        match self.send(&Call::new(OPERATION, Method::GET, None).query("lifecycle", "")).await {
            Ok(answer) => String::from_utf8(answer.body.to_vec())
                .map(Some)
                .map_err(|why| self.error(TierErrorKind::Corrupt, (OPERATION, ""), why)),
            Err(error) if error.is_not_found() => Ok(None),
            Err(error) => Err(error),
        }
    }

    /// PutBucketLifecycle: replaces all rules of the bucket by those of `document`.
    ///
    /// # Errors
    /// See [`TierError`].
    pub async fn put_bucket_lifecycle(&self, document: &str) -> Result<(), TierError> {
        let call = Call::new(Operation::PutBucketLifecycle, Method::PUT, None)
            .query("lifecycle", "")
            .header("content-md5", encode::base64(&Md5::digest(document.as_bytes())))
            .document(document.to_owned());
        self.send(&call).await.map(|_| ())
    }
}
