//! Bucket operations: make, drop, info, location, statistics, access control, versioning, direct read, lifecycle.

use crate::clock::iso;
use crate::error::OssError;
use crate::model::{BucketMeta, Class, Versioning};
use crate::request::{Reply, Req};
use crate::server::Payload;
use crate::sim::Sim;
use crate::xml::{self, Node, Writer};

/// Largest settings document.
const MAX_DOCUMENT: usize = 1 << 20;
const ACLS: [&str; 3] = ["private", "public-read", "public-read-write"];

async fn document(payload: &mut Payload, root: &str) -> Result<Node, OssError> {
    let node = xml::parse(&payload.document(MAX_DOCUMENT).await?).map_err(|e| OssError::malformed_xml(&e))?;
    if node.name == root { Ok(node) } else { Err(OssError::malformed_xml(&format!("the root node is not {root}"))) }
}

fn check_name(name: &str) -> Result<(), OssError> {
    let ok = (3..=63).contains(&name.len())
        && name.bytes().all(|b| b.is_ascii_lowercase() || b.is_ascii_digit() || b == b'-')
        && !name.starts_with('-')
        && !name.ends_with('-');
    if ok {
        return Ok(());
    }
    Err(OssError::new(400, "InvalidBucketName", "The specified bucket is not valid.").with("BucketName", name))
}

/// PutBucket. A bucket that exists already belongs to the caller here, so only its access control changes.
///
/// # Errors
/// 400 for the name, class or document; 409 for another class.
pub async fn put_bucket(sim: &Sim, req: &Req, payload: &mut Payload) -> Result<Reply, OssError> {
    let name = req.bucket()?;
    check_name(name)?;
    let bytes = payload.document(MAX_DOCUMENT).await?;
    let mut class = Class::Standard;
    if !bytes.is_empty() {
        let root = xml::parse(&bytes).map_err(|e| OssError::malformed_xml(&e))?;
        if let Some(text) = root.text_of("StorageClass") {
            class = Class::parse(text.trim())
                .ok_or_else(|| OssError::invalid_argument("The storage class is not valid.", "StorageClass", text))?;
        }
    }
    let acl = acl_of(req)?;
    let mut store = sim.store();
    if let Ok(bucket) = store.bucket(name) {
        if bucket.meta.class != class {
            return Err(OssError::new(409, "BucketAlreadyExists", "The requested bucket name is not available.")
                .with("BucketName", name));
        }
        store.change_bucket(name, |meta| meta.acl = acl)?;
    } else {
        let mut meta = BucketMeta::new(class, req.now);
        meta.acl = acl;
        store.put_bucket(name, meta);
    }
    Ok(Reply::empty(200))
}

fn acl_of(req: &Req) -> Result<String, OssError> {
    let acl = req.header("x-oss-acl").unwrap_or_else(|| "private".to_string());
    if ACLS.contains(&acl.as_str()) {
        return Ok(acl);
    }
    Err(OssError::invalid_argument("no such bucket access control exists", "x-oss-acl", &acl))
}

/// PutBucketAcl.
///
/// # Errors
/// 404, 400.
pub fn put_acl(sim: &Sim, req: &Req) -> Result<Reply, OssError> {
    let acl = acl_of(req)?;
    sim.store().change_bucket(req.bucket()?, |meta| meta.acl = acl)?;
    Ok(Reply::empty(200))
}

/// GetBucketAcl, and GetObjectAcl when a key is named.
///
/// # Errors
/// 404.
pub fn get_acl(sim: &Sim, req: &Req) -> Result<Reply, OssError> {
    let store = sim.store();
    let grant = match &req.key {
        Some(_) => store.find(req).map(|_| "default".to_string())?,
        None => store.bucket(req.bucket()?)?.meta.acl.clone(),
    };
    let mut out = Writer::new("AccessControlPolicy");
    out.open("Owner");
    out.text("ID", "1000000000000001");
    out.text("DisplayName", "1000000000000001");
    out.close();
    out.open("AccessControlList");
    out.text("Grant", &grant);
    Ok(Reply::xml(out.finish()))
}

/// DeleteBucket.
///
/// # Errors
/// 404, 409 BucketNotEmpty.
pub fn delete_bucket(sim: &Sim, req: &Req) -> Result<Reply, OssError> {
    sim.store().remove_bucket(req.bucket()?)?;
    Ok(Reply::empty(204))
}

/// Whether the bucket exists.
///
/// # Errors
/// 404.
pub fn head_bucket(sim: &Sim, req: &Req) -> Result<Reply, OssError> {
    let store = sim.store();
    let bucket = store.bucket(req.bucket()?)?;
    let mut reply = Reply::empty(200);
    reply.set("x-oss-bucket-region", format!("oss-{}", sim.region));
    reply.set("x-oss-bucket-storage-class", bucket.meta.class.name());
    Ok(reply)
}

/// GetBucketInfo.
///
/// # Errors
/// 404.
pub fn info(sim: &Sim, req: &Req) -> Result<Reply, OssError> {
    let name = req.bucket()?;
    let store = sim.store();
    let meta = &store.bucket(name)?.meta;
    let mut out = Writer::new("BucketInfo");
    out.open("Bucket");
    out.text("AccessMonitor", "Disabled");
    out.text("CreationDate", &iso(meta.created));
    out.text("DataRedundancyType", "LRS");
    out.text("ExtranetEndpoint", &format!("oss-{}.aliyuncs.com", sim.region));
    out.text("IntranetEndpoint", &format!("oss-{}-internal.aliyuncs.com", sim.region));
    out.text("Location", &format!("oss-{}", sim.region));
    out.text("Name", name);
    out.text("StorageClass", meta.class.name());
    out.text("TransferAcceleration", "Disabled");
    if let Some(state) = meta.versioning {
        out.text("Versioning", &format!("{state:?}"));
    }
    out.open("Owner");
    out.text("ID", "1000000000000001");
    out.text("DisplayName", "1000000000000001");
    out.close();
    out.open("AccessControlList");
    out.text("Grant", &meta.acl);
    out.close();
    Ok(Reply::xml(out.finish()))
}

/// GetBucketLocation.
///
/// # Errors
/// 404.
pub fn location(sim: &Sim, req: &Req) -> Result<Reply, OssError> {
    sim.store().bucket(req.bucket()?)?;
    let mut out = Writer::new("LocationConstraint");
    out.raw_text(&format!("oss-{}", sim.region));
    Ok(Reply::xml(out.finish()))
}

/// GetBucketStat: bytes and counts, by class.
///
/// # Errors
/// 404.
pub fn stat(sim: &Sim, req: &Req) -> Result<Reply, OssError> {
    let store = sim.store();
    let bucket = store.bucket(req.bucket()?)?;
    let mut sums = [(0u64, 0u64); 5];
    for version in bucket.objects.values().flatten().filter(|v| !v.delete_marker) {
        let sum = &mut sums[version.class as usize];
        *sum = (sum.0 + 1, sum.1 + version.size);
    }
    let parts = bucket.uploads.values().flat_map(|u| u.parts.values()).map(|p| p.size).sum::<u64>();
    let mut out = Writer::new("BucketStat");
    out.text("Storage", &(sums.iter().map(|s| s.1).sum::<u64>() + parts).to_string());
    out.text("ObjectCount", &sums.iter().map(|s| s.0).sum::<u64>().to_string());
    out.text("MultipartUploadCount", &bucket.uploads.len().to_string());
    out.text("LiveChannelCount", "0");
    out.text("LastModifiedTime", &(req.now / 1000).to_string());
    let names = ["Standard", "InfrequentAccess", "Archive", "ColdArchive", "DeepColdArchive"];
    for ((class, name), (count, bytes)) in Class::ALL.into_iter().zip(names).zip(sums) {
        out.text(&format!("{name}Storage"), &bytes.to_string());
        if class != Class::Standard {
            out.text(&format!("{name}RealStorage"), &bytes.to_string());
        }
        out.text(&format!("{name}ObjectCount"), &count.to_string());
    }
    Ok(Reply::xml(out.finish()))
}

/// PutBucketVersioning.
///
/// # Errors
/// 404, 400.
pub async fn put_versioning(sim: &Sim, req: &Req, payload: &mut Payload) -> Result<Reply, OssError> {
    let root = document(payload, "VersioningConfiguration").await?;
    let state = match root.text_of("Status").unwrap_or_default().trim() {
        "Enabled" => Versioning::Enabled,
        "Suspended" => Versioning::Suspended,
        other => return Err(OssError::malformed_xml(&format!("Status {other:?} is neither Enabled nor Suspended"))),
    };
    sim.store().change_bucket(req.bucket()?, |meta| meta.versioning = Some(state))?;
    Ok(Reply::empty(200))
}

/// GetBucketVersioning.
///
/// # Errors
/// 404.
pub fn get_versioning(sim: &Sim, req: &Req) -> Result<Reply, OssError> {
    let store = sim.store();
    let mut out = Writer::new("VersioningConfiguration");
    if let Some(state) = store.bucket(req.bucket()?)?.meta.versioning {
        out.text("Status", &format!("{state:?}"));
    }
    Ok(Reply::xml(out.finish()))
}

/// PutBucketArchiveDirectRead.
///
/// # Errors
/// 404, 400.
pub async fn put_direct_read(sim: &Sim, req: &Req, payload: &mut Payload) -> Result<Reply, OssError> {
    let root = document(payload, "ArchiveDirectReadConfiguration").await?;
    let on = match root.text_of("Enabled").unwrap_or_default().trim() {
        "true" => true,
        "false" => false,
        other => return Err(OssError::malformed_xml(&format!("Enabled {other:?} is neither true nor false"))),
    };
    sim.store().change_bucket(req.bucket()?, |meta| meta.direct_read = on)?;
    Ok(Reply::empty(200))
}

/// GetBucketArchiveDirectRead.
///
/// # Errors
/// 404.
pub fn get_direct_read(sim: &Sim, req: &Req) -> Result<Reply, OssError> {
    let store = sim.store();
    let mut out = Writer::new("ArchiveDirectReadConfiguration");
    out.text("Enabled", if store.bucket(req.bucket()?)?.meta.direct_read { "true" } else { "false" });
    Ok(Reply::xml(out.finish()))
}

/// PutBucketLifecycle: replaces the whole configuration.
///
/// # Errors
/// 404, 400.
pub async fn put_lifecycle(sim: &Sim, req: &Req, payload: &mut Payload) -> Result<Reply, OssError> {
    let bytes = payload.document(MAX_DOCUMENT).await?;
    let rules = crate::lifecycle::parse(&bytes)?;
    let text = String::from_utf8_lossy(&bytes).into_owned();
    sim.store().change_bucket(req.bucket()?, |meta| {
        meta.lifecycle = Some(rules);
        meta.lifecycle_document = text;
    })?;
    Ok(Reply::empty(200))
}

/// GetBucketLifecycle.
///
/// # Errors
/// 404 NoSuchLifecycle.
pub fn get_lifecycle(sim: &Sim, req: &Req) -> Result<Reply, OssError> {
    let store = sim.store();
    let meta = &store.bucket(req.bucket()?)?.meta;
    if meta.lifecycle.is_none() {
        return Err(
            OssError::new(404, "NoSuchLifecycle", "No Row found in Lifecycle Table.").with("BucketName", req.bucket()?)
        );
    }
    Ok(Reply::xml(meta.lifecycle_document.clone()))
}

/// DeleteBucketLifecycle.
///
/// # Errors
/// 404 NoSuchBucket.
pub fn delete_lifecycle(sim: &Sim, req: &Req) -> Result<Reply, OssError> {
    sim.store().change_bucket(req.bucket()?, |meta| {
        meta.lifecycle = None;
        meta.lifecycle_document = String::new();
    })?;
    Ok(Reply::empty(204))
}
