//! S3's operations over the engine. Handlers translate: they check what is S3's business (names, limits, conditions,
//! ranges), call the engine once, and write its answer in S3's words.
//!
//! Architecture invariant: nothing here opens a file, keeps state between requests, or reads a clock.

pub(crate) mod access;
mod attributes;
mod body;
mod buckets;
pub(crate) mod checksums;
mod conditions;
mod copy;
pub(crate) mod cors;
pub mod error;
mod list;
mod listing;
mod multipart;
pub(crate) mod parameters;
mod ranges;
mod read;
mod write;

use s3s::config::{S3Config, StaticConfigProvider};
use s3s::dto;
use s3s::service::{S3Service, S3ServiceBuilder};
use s3s::{S3, S3Request, S3Response, S3Result, s3_error};
use std::sync::Arc;
use tidegate_tiering::clock::Timestamp;
use tidegate_tiering::engine::Engine;

use crate::server::request::RequestContext;
use crate::server::{S3Settings, ServerError};

/// S3 over an engine.
pub struct Gateway {
    engine: Engine,
    region: String,
    storage_classes: Vec<String>,
    max_body_bytes: u64,
    max_object_bytes: u64,
    max_parts: u32,
}

impl Gateway {
    /// S3 over `engine`, with the limits of `settings`.
    pub fn new(settings: &S3Settings, engine: Engine) -> Self {
        Self {
            engine,
            region: settings.region.clone(),
            storage_classes: settings.storage_classes.clone(),
            max_body_bytes: settings.max_body_bytes,
            max_object_bytes: settings.max_object_bytes,
            max_parts: settings.max_parts,
        }
    }
}

/// s3s around an implementation of S3: signatures, host names, the gate that names operations, limits.
///
/// # Errors
/// [`ServerError::Settings`] when a setting is wrong.
pub fn service(settings: &S3Settings, s3: impl S3) -> Result<S3Service, ServerError> {
    if let Some(problem) = settings.problem() {
        return Err(ServerError::Settings(problem));
    }
    let mut config = S3Config::default();
    config.xml_max_body_size = settings.max_xml_bytes;
    // Forms never come to s3s as such (`server/form`); these keep it so should that ever change.
    config.post_object_max_file_size = 0;
    config.form_max_fields_size = 0;
    let mut builder = S3ServiceBuilder::new(s3);
    builder.set_config(Arc::new(StaticConfigProvider::new(Arc::new(config))));
    builder.set_auth(access::Keys::new(&settings.access_keys));
    builder.set_access(access::Gate);
    if !settings.domains.is_empty() {
        builder.set_host(access::Domains::new(&settings.domains));
    }
    Ok(builder.build())
}

/// The owner of everything: there is one, whatever the access key.
const OWNER: &str = "tidegate";

fn owner() -> dto::Owner {
    dto::Owner { id: Some(OWNER.into()), display_name: Some(OWNER.into()) }
}

fn initiator() -> dto::Initiator {
    dto::Initiator { id: Some(OWNER.into()), display_name: Some(OWNER.into()) }
}

fn time(at: Timestamp) -> dto::Timestamp {
    at.to_system_time().into()
}

fn etag(plain: &str) -> dto::ETag {
    dto::ETag::Strong(plain.to_owned())
}

fn context<T>(request: &S3Request<T>) -> Option<Arc<RequestContext>> {
    request.extensions.get::<Arc<RequestContext>>().cloned()
}

/// Sizes and counts in S3's signed types; beyond them there is no object.
fn signed(size: u64) -> i64 {
    i64::try_from(size).unwrap_or(i64::MAX)
}

/// Versions are not kept apart for clients: `null` names the one there is.
///
/// # Errors
/// `NoSuchVersion` for any other.
fn only_null_version(version: Option<&str>) -> S3Result<()> {
    match version {
        None | Some("" | "null") => Ok(()),
        Some(other) => {
            Err(s3_error!(NoSuchVersion, "The version {other} does not exist: versioning is not implemented."))
        }
    }
}

/// Writes the trait's methods, which all look the same: `operation => module::handler(Input) -> Output`.
macro_rules! operations {
    ($($operation:ident => $handler:path, $input:ident, $output:ident;)+) => {
        #[async_trait::async_trait]
        impl S3 for Gateway {
            $(
                async fn $operation(
                    &self,
                    request: S3Request<dto::$input>,
                ) -> S3Result<S3Response<dto::$output>> {
                    $handler(self, request).await
                }
            )+
        }
    };
}

operations! {
    create_bucket => buckets::create, CreateBucketInput, CreateBucketOutput;
    head_bucket => buckets::head, HeadBucketInput, HeadBucketOutput;
    delete_bucket => buckets::delete, DeleteBucketInput, DeleteBucketOutput;
    list_buckets => buckets::list, ListBucketsInput, ListBucketsOutput;
    get_bucket_location => buckets::location, GetBucketLocationInput, GetBucketLocationOutput;
    get_bucket_versioning => buckets::versioning, GetBucketVersioningInput, GetBucketVersioningOutput;
    put_bucket_cors => cors::put, PutBucketCorsInput, PutBucketCorsOutput;
    get_bucket_cors => cors::get, GetBucketCorsInput, GetBucketCorsOutput;
    delete_bucket_cors => cors::delete, DeleteBucketCorsInput, DeleteBucketCorsOutput;
    get_object => read::get, GetObjectInput, GetObjectOutput;
    head_object => read::head, HeadObjectInput, HeadObjectOutput;
    get_object_attributes => read::attributes, GetObjectAttributesInput, GetObjectAttributesOutput;
    put_object => write::put, PutObjectInput, PutObjectOutput;
    delete_object => write::delete, DeleteObjectInput, DeleteObjectOutput;
    delete_objects => write::delete_many, DeleteObjectsInput, DeleteObjectsOutput;
    restore_object => write::restore, RestoreObjectInput, RestoreObjectOutput;
    copy_object => copy::object, CopyObjectInput, CopyObjectOutput;
    upload_part_copy => copy::part, UploadPartCopyInput, UploadPartCopyOutput;
    list_objects => list::v1, ListObjectsInput, ListObjectsOutput;
    list_objects_v2 => list::v2, ListObjectsV2Input, ListObjectsV2Output;
    create_multipart_upload => multipart::create, CreateMultipartUploadInput, CreateMultipartUploadOutput;
    upload_part => multipart::upload_part, UploadPartInput, UploadPartOutput;
    list_parts => multipart::list_parts, ListPartsInput, ListPartsOutput;
    list_multipart_uploads => multipart::list_uploads, ListMultipartUploadsInput, ListMultipartUploadsOutput;
    complete_multipart_upload => multipart::complete, CompleteMultipartUploadInput, CompleteMultipartUploadOutput;
    abort_multipart_upload => multipart::abort, AbortMultipartUploadInput, AbortMultipartUploadOutput;
}
