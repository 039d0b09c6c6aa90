//! S3's operations over the engine. Handlers translate: they check what is S3's business (names, limits, conditions,
//! ranges), call the engine once, and write its answer in S3's words.
//!
//! Architecture invariant: nothing here opens a file, keeps state between requests, or reads a clock.

pub(crate) mod access;
mod acl_operations;
mod admit;
mod attributes;
mod authority;
mod body;
mod buckets;
pub(crate) mod checksums;
mod condition_keys;
mod conditions;
mod copy;
pub(crate) mod cors;
mod delete;
mod encryption;
pub mod error;
mod grants;
mod lifecycle;
mod list;
mod listing;
mod lock;
mod multipart;
mod notification;
pub(crate) mod parameters;
pub(crate) mod parsed;
mod policy_operations;
mod ranges;
mod read;
mod stored;
mod tagging;
mod versions;
mod write;

pub(crate) use versions::shown as shown_version;

use authority::Authority;
use s3s::config::{S3Config, StaticConfigProvider};
use s3s::dto;
use s3s::service::{S3Service, S3ServiceBuilder};
use s3s::{S3, S3Request, S3Response, S3Result};
use std::sync::Arc;
use tidegate_tiering::clock::Timestamp;
use tidegate_tiering::engine::{Engine, asked_by};

use crate::auth::identity::IdentitySource;
use crate::server::request::RequestContext;
use crate::server::{S3Settings, ServerError, Transport};
use crate::sts::Sts;
use crate::users::directory::Known;
use crate::users::{Keys, Users};

/// S3 over an engine.
pub struct Gateway {
    engine: Engine,
    authority: Arc<Authority>,
    region: String,
    storage_classes: Vec<String>,
    max_body_bytes: u64,
    max_object_bytes: u64,
    max_parts: u32,
    ssec_over_http: bool,
}

impl Gateway {
    /// S3 over `engine`, with the limits of `settings`; `identities` says whose access keys are whose.
    pub fn new(settings: &S3Settings, engine: Engine, identities: Arc<dyn IdentitySource>) -> Self {
        if settings.ssec_over_http {
            tracing::warn!(
                "s3.ssec_over_http is set: keys of clients (SSE-C) are taken where anybody may listen; for tests only"
            );
        }
        let authority = Authority::new(engine.clone(), identities, settings.default_object_ownership);
        Self {
            engine,
            authority: Arc::new(authority),
            region: settings.region.clone(),
            storage_classes: settings.storage_classes.clone(),
            max_body_bytes: settings.max_body_bytes,
            max_object_bytes: settings.max_object_bytes,
            max_parts: settings.max_parts,
            ssec_over_http: settings.ssec_over_http,
        }
    }

    /// Whether a key of a client's may come with a request: over TLS, or where the settings say that nobody listens.
    fn hides_keys(&self, extensions: &http::Extensions) -> bool {
        self.ssec_over_http || extensions.get::<Transport>().is_some_and(|transport| transport.tls.is_some())
    }
}

/// s3s around a gateway: signatures, host names, the gate that decides who may do what, limits.
///
/// # Errors
/// [`ServerError::Settings`] when a setting is wrong.
pub fn service(settings: &S3Settings, gateway: Gateway, users: Arc<Users>) -> Result<S3Service, ServerError> {
    let authority = Arc::clone(&gateway.authority);
    service_of(settings, gateway, users, Some(authority))
}

/// As [`service`], around another implementation of S3: whoever signs with a root key of the settings may do everything.
///
/// # Errors
/// [`ServerError::Settings`] when a setting is wrong.
pub fn service_for_all(settings: &S3Settings, s3: impl S3) -> Result<S3Service, ServerError> {
    service_of(settings, s3, Arc::new(Users::fixed(Known::of(settings))), None)
}

fn service_of(
    settings: &S3Settings,
    s3: impl S3,
    users: Arc<Users>,
    authority: Option<Arc<Authority>>,
) -> Result<S3Service, ServerError> {
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
    builder.set_auth(Keys(Arc::clone(&users)));
    builder.set_route(Sts::new(Arc::clone(&users)));
    builder.set_access(access::Gate::new(users, authority));
    if !settings.domains.is_empty() {
        builder.set_host(access::Domains::new(&settings.domains));
    }
    Ok(builder.build())
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
                    let unlisted = admit::Unlisted::is(&request);
                    let asking = context(&request);
                    let work = $handler(self, request);
                    let answer = match asking {
                        Some(asking) => asked_by(asking, work).await,
                        None => work.await,
                    };
                    if unlisted { answer.map_err(admit::Unlisted::hide) } else { answer }
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
    put_bucket_lifecycle_configuration => lifecycle::put, PutBucketLifecycleConfigurationInput,
        PutBucketLifecycleConfigurationOutput;
    get_bucket_lifecycle_configuration => lifecycle::get, GetBucketLifecycleConfigurationInput,
        GetBucketLifecycleConfigurationOutput;
    delete_bucket_lifecycle => lifecycle::delete, DeleteBucketLifecycleInput, DeleteBucketLifecycleOutput;
    get_bucket_versioning => versions::setting, GetBucketVersioningInput, GetBucketVersioningOutput;
    put_bucket_versioning => versions::set, PutBucketVersioningInput, PutBucketVersioningOutput;
    list_object_versions => versions::list, ListObjectVersionsInput, ListObjectVersionsOutput;
    get_bucket_tagging => tagging::get_bucket, GetBucketTaggingInput, GetBucketTaggingOutput;
    put_bucket_tagging => tagging::put_bucket, PutBucketTaggingInput, PutBucketTaggingOutput;
    delete_bucket_tagging => tagging::delete_bucket, DeleteBucketTaggingInput, DeleteBucketTaggingOutput;
    get_object_tagging => tagging::get_object, GetObjectTaggingInput, GetObjectTaggingOutput;
    put_object_tagging => tagging::put_object, PutObjectTaggingInput, PutObjectTaggingOutput;
    delete_object_tagging => tagging::delete_object, DeleteObjectTaggingInput, DeleteObjectTaggingOutput;
    put_bucket_cors => cors::put, PutBucketCorsInput, PutBucketCorsOutput;
    get_bucket_cors => cors::get, GetBucketCorsInput, GetBucketCorsOutput;
    delete_bucket_cors => cors::delete, DeleteBucketCorsInput, DeleteBucketCorsOutput;
    get_bucket_encryption => encryption::get_default, GetBucketEncryptionInput, GetBucketEncryptionOutput;
    put_bucket_encryption => encryption::put_default, PutBucketEncryptionInput, PutBucketEncryptionOutput;
    delete_bucket_encryption => encryption::delete_default, DeleteBucketEncryptionInput, DeleteBucketEncryptionOutput;
    get_object_lock_configuration => lock::get_configuration, GetObjectLockConfigurationInput, GetObjectLockConfigurationOutput;
    put_object_lock_configuration => lock::put_configuration, PutObjectLockConfigurationInput, PutObjectLockConfigurationOutput;
    get_object_retention => lock::get_retention, GetObjectRetentionInput, GetObjectRetentionOutput;
    put_object_retention => lock::put_retention, PutObjectRetentionInput, PutObjectRetentionOutput;
    get_object_legal_hold => lock::get_hold, GetObjectLegalHoldInput, GetObjectLegalHoldOutput;
    put_object_legal_hold => lock::put_hold, PutObjectLegalHoldInput, PutObjectLegalHoldOutput;
    get_bucket_notification_configuration => notification::get, GetBucketNotificationConfigurationInput,
        GetBucketNotificationConfigurationOutput;
    put_bucket_notification_configuration => notification::put, PutBucketNotificationConfigurationInput,
        PutBucketNotificationConfigurationOutput;
    get_object => read::get, GetObjectInput, GetObjectOutput;
    head_object => read::head, HeadObjectInput, HeadObjectOutput;
    get_object_attributes => read::attributes, GetObjectAttributesInput, GetObjectAttributesOutput;
    put_object => write::put, PutObjectInput, PutObjectOutput;
    delete_object => delete::object, DeleteObjectInput, DeleteObjectOutput;
    delete_objects => delete::objects, DeleteObjectsInput, DeleteObjectsOutput;
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
    get_bucket_policy => policy_operations::get, GetBucketPolicyInput, GetBucketPolicyOutput;
    put_bucket_policy => policy_operations::put, PutBucketPolicyInput, PutBucketPolicyOutput;
    delete_bucket_policy => policy_operations::delete, DeleteBucketPolicyInput, DeleteBucketPolicyOutput;
    get_bucket_policy_status => policy_operations::status, GetBucketPolicyStatusInput, GetBucketPolicyStatusOutput;
    get_public_access_block => policy_operations::get_block, GetPublicAccessBlockInput, GetPublicAccessBlockOutput;
    put_public_access_block => policy_operations::put_block, PutPublicAccessBlockInput, PutPublicAccessBlockOutput;
    delete_public_access_block => policy_operations::delete_block, DeletePublicAccessBlockInput, DeletePublicAccessBlockOutput;
    get_bucket_ownership_controls => acl_operations::get_ownership, GetBucketOwnershipControlsInput, GetBucketOwnershipControlsOutput;
    put_bucket_ownership_controls => acl_operations::put_ownership, PutBucketOwnershipControlsInput, PutBucketOwnershipControlsOutput;
    delete_bucket_ownership_controls => acl_operations::delete_ownership, DeleteBucketOwnershipControlsInput, DeleteBucketOwnershipControlsOutput;
    get_bucket_acl => acl_operations::get_bucket, GetBucketAclInput, GetBucketAclOutput;
    put_bucket_acl => acl_operations::put_bucket, PutBucketAclInput, PutBucketAclOutput;
    get_object_acl => acl_operations::get_object, GetObjectAclInput, GetObjectAclOutput;
    get_object_torrent => read::torrent, GetObjectTorrentInput, GetObjectTorrentOutput;
    put_object_acl => acl_operations::put_object, PutObjectAclInput, PutObjectAclOutput;
}
