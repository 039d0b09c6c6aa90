//! Subresources of buckets as they are kept among the bucket's settings: as the XML of their document.

use s3s::xml::{Deserialize, Deserializer, Serialize, Serializer};
use s3s::{S3Error, S3Result, s3_error};

use super::Gateway;
use super::error::from_engine;

/// The document of a bucket's subresource, if it has one.
///
/// # Errors
/// `NoSuchBucket`; `InternalError` for one that cannot be read.
pub(super) fn get<T: for<'xml> Deserialize<'xml>>(
    gateway: &Gateway,
    bucket: &str,
    subresource: &str,
) -> S3Result<Option<T>> {
    let info = gateway.engine.bucket(bucket).map_err(from_engine)?;
    let Some(xml) = info.settings.config.get(subresource) else { return Ok(None) };
    T::deserialize(&mut Deserializer::new(xml)).map(Some).map_err(|error| {
        tracing::error!(bucket, subresource, ?error, "a stored document cannot be read");
        s3_error!(InternalError, "The stored document cannot be read; the server's log has the reason.")
    })
}

/// Sets a bucket's subresource, or removes it.
///
/// # Errors
/// `NoSuchBucket`.
pub(super) async fn put<T: Serialize>(
    gateway: &Gateway,
    bucket: &str,
    subresource: &str,
    document: Option<&T>,
) -> S3Result<()> {
    let xml = document.map(to_xml).transpose()?;
    let change = |settings: &mut tidegate_tiering::engine::BucketSettings| {
        match &xml {
            Some(xml) => settings.config.insert(subresource.to_owned(), xml.clone()),
            None => settings.config.remove(subresource),
        };
        Ok(())
    };
    gateway.engine.configure_bucket(bucket, change).await.map_err(from_engine)
}

fn to_xml<T: Serialize>(document: &T) -> S3Result<Vec<u8>> {
    let mut xml = Vec::new();
    document.serialize(&mut Serializer::new(&mut xml)).map_err(S3Error::internal_error)?;
    Ok(xml)
}
