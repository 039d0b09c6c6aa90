//! PutObject, DeleteObject, DeleteMultipleObjects, and what all writes share.

use crate::blob::{Body, Received, receive};
use crate::error::OssError;
use crate::model::{BucketMeta, Class, Headers, Kind, Version, Versioning, parse_version_id};
use crate::request::{Query, Reply, ReplyBody, Req};
use crate::server::Payload;
use crate::sim::Sim;
use crate::xml::{self, Writer};
use base64::Engine;
use md5::{Digest, Md5};
use std::collections::BTreeMap;

/// Largest body of one PUT, part or append: 5 GiB.
pub const MAX_PUT: u64 = 5 << 30;
/// Longest key in bytes.
const MAX_KEY: usize = 1023;
/// Total of user metadata, names and values.
const MAX_META: usize = 8 * 1024;
/// Most tags of an object.
const MAX_TAGS: usize = 10;
/// Most keys of one DeleteMultipleObjects.
const MAX_DELETE: usize = 1000;
/// Largest document of DeleteMultipleObjects.
const MAX_DELETE_DOCUMENT: usize = 2 << 20;
/// Bounds of `x-oss-traffic-limit` in bit/s.
const TRAFFIC_LIMIT: (u64, u64) = (245_760, 838_860_800);
/// Where a symlink's target is kept among the headers.
pub const SYMLINK_TARGET: &str = "x-oss-symlink-target";

/// Headers that are stored with an object besides `x-oss-meta-*`.
const STORED: &[&str] = &[
    "cache-control",
    "content-disposition",
    "content-encoding",
    "content-language",
    "content-type",
    "expires",
    "x-oss-server-side-encryption",
    "x-oss-server-side-encryption-key-id",
    "x-oss-server-side-data-encryption",
];

/// What a write says about the object besides its body.
#[derive(Debug, Clone)]
pub struct Spec {
    /// Class.
    pub class: Class,
    /// Stored headers.
    pub headers: Headers,
    /// Tags.
    pub tags: Vec<(String, String)>,
}

/// Checks a write's request and reads what it says, before its body is read.
///
/// # Errors
/// The 400s of names, metadata and values; NotImplemented for conditional writes; 409 for a forbidden overwrite.
pub fn write_spec(sim: &Sim, req: &Req) -> Result<Spec, OssError> {
    let key = req.key()?;
    check_key(key)?;
    for header in ["if-match", "if-none-match", "if-modified-since", "if-unmodified-since"] {
        if req.headers.contains_key(header) {
            return Err(OssError::new(
                400,
                "NotImplemented",
                "A header you provided implies functionality that is not implemented.",
            )
            .with("Header", header));
        }
    }
    check_traffic_limit(req)?;
    let store = sim.store();
    let bucket = store.bucket(req.bucket()?)?;
    let class = class_of(req, &bucket.meta)?;
    if forbids_overwrite(req) && bucket.meta.versioning.is_none() && bucket.current(key).is_some() {
        return Err(already_exists(key));
    }
    Ok(Spec { class, headers: stored_headers(req)?, tags: header_tags(req)? })
}

/// Whether the request refuses to replace.
pub fn forbids_overwrite(req: &Req) -> bool {
    req.header("x-oss-forbid-overwrite").is_some_and(|v| v.eq_ignore_ascii_case("true"))
}

/// 409 FileAlreadyExists.
pub fn already_exists(key: &str) -> OssError {
    OssError::new(409, "FileAlreadyExists", "The object you specified already exists and can not be overwritten.")
        .with("Key", key)
        .ec("0026-00000003")
}

/// Refuses names that OSS refuses.
///
/// # Errors
/// 400 InvalidObjectName.
pub fn check_key(key: &str) -> Result<(), OssError> {
    if key.is_empty() || key.len() > MAX_KEY || key.starts_with(['/', '\\']) {
        return Err(
            OssError::new(400, "InvalidObjectName", "The specified object is not valid.").with("ObjectName", key)
        );
    }
    Ok(())
}

fn check_traffic_limit(req: &Req) -> Result<(), OssError> {
    let Some(text) = req.header("x-oss-traffic-limit") else { return Ok(()) };
    let ok = text.parse::<u64>().is_ok_and(|n| (TRAFFIC_LIMIT.0..=TRAFFIC_LIMIT.1).contains(&n));
    if ok {
        return Ok(());
    }
    Err(OssError::invalid_argument("The traffic limit is out of range.", "x-oss-traffic-limit", &text))
}

/// The class that a request asks for, or the bucket's.
///
/// # Errors
/// 400 InvalidArgument for an unknown name.
pub fn class_of(req: &Req, bucket: &BucketMeta) -> Result<Class, OssError> {
    match req.header("x-oss-storage-class") {
        None => Ok(bucket.class),
        Some(name) => Class::parse(&name).ok_or_else(|| {
            OssError::invalid_argument("The specified storage class is not valid.", "x-oss-storage-class", &name)
        }),
    }
}

/// The headers of a request that are stored with the object.
///
/// # Errors
/// 400 InvalidArgument for a bad metadata name, too much metadata, or an unknown encryption.
pub fn stored_headers(req: &Req) -> Result<Headers, OssError> {
    let mut out: Headers = Vec::new();
    let mut meta = 0;
    for (name, value) in &req.headers {
        let name = name.as_str();
        let is_meta = name.starts_with("x-oss-meta-");
        if !is_meta && !STORED.contains(&name) {
            continue;
        }
        let value = String::from_utf8_lossy(value.as_bytes()).trim().to_string();
        if is_meta {
            meta += name.len() + value.len();
            let rest = &name["x-oss-meta-".len()..];
            if rest.is_empty() || !rest.bytes().all(|b| b.is_ascii_lowercase() || b.is_ascii_digit() || b == b'-') {
                return Err(OssError::invalid_argument("The metadata name is not valid.", name, &value));
            }
        }
        if name == "x-oss-server-side-encryption" && !["AES256", "KMS", "SM4"].contains(&value.as_str()) {
            return Err(OssError::new(
                400,
                "InvalidEncryptionAlgorithmError",
                "The encryption algorithm is not valid.",
            )
            .with("Method", value));
        }
        out.push((name.into(), value.into()));
    }
    if meta > MAX_META {
        return Err(OssError::invalid_argument(
            format!("The user metadata is longer than {MAX_META} bytes."),
            "x-oss-meta-*",
            &meta.to_string(),
        ));
    }
    Ok(out)
}

fn header_tags(req: &Req) -> Result<Vec<(String, String)>, OssError> {
    match req.header("x-oss-tagging") {
        None => Ok(Vec::new()),
        Some(text) => check_tags(Query::parse(&text)?.0),
    }
}

/// Checks number, lengths and uniqueness of tags.
///
/// # Errors
/// 400 InvalidTag.
pub fn check_tags(tags: Vec<(String, String)>) -> Result<Vec<(String, String)>, OssError> {
    let bad = |why: &str, tag: &str| OssError::new(400, "InvalidTag", why.to_string()).with("Tag", tag);
    if tags.len() > MAX_TAGS {
        return Err(bad("An object has at most 10 tags.", &tags.len().to_string()));
    }
    let mut seen = BTreeMap::new();
    for (key, value) in &tags {
        if key.is_empty() || key.chars().count() > 128 || value.chars().count() > 256 {
            return Err(bad("A tag's key has 1 to 128 characters and its value at most 256.", key));
        }
        if seen.insert(key, ()).is_some() {
            return Err(bad("The tag keys are not unique.", key));
        }
    }
    Ok(tags)
}

/// Compares the digests that a client announced with those of what arrived.
///
/// # Errors
/// 400 InvalidDigest or InvalidCRC64.
pub fn check_digests(req: &Req, received: &Received) -> Result<(), OssError> {
    let md5 = base64::engine::general_purpose::STANDARD.encode(received.md5);
    if let Some(sent) = req.header("content-md5").filter(|sent| *sent != md5) {
        return Err(OssError::new(400, "InvalidDigest", "The Content-MD5 you specified was invalid.")
            .with("Content-MD5", sent)
            .with("CalculatedMD5", md5));
    }
    if let Some(sent) = req.header("x-oss-hash-crc64ecma").filter(|s| *s != received.crc64.to_string()) {
        return Err(OssError::new(400, "InvalidCRC64", "The CRC64 you specified does not match.")
            .with("ClientCRC", sent)
            .with("ServerCRC", received.crc64.to_string()));
    }
    Ok(())
}

/// Receives the body of an object or part.
///
/// # Errors
/// 411 without a length, and those of [`receive`] and [`check_digests`].
pub async fn receive_checked(sim: &Sim, req: &Req, payload: &mut Payload) -> Result<Received, OssError> {
    let chunked = req.header("transfer-encoding").is_some();
    let announced = req.content_length();
    if announced.is_none() && !chunked {
        return Err(OssError::new(411, "MissingContentLength", "You must provide the Content-Length HTTP header."));
    }
    let damaged_at = announced.and_then(|len| payload.damaged_at(len));
    let received = receive(payload.take()?, &sim.blobs, announced, MAX_PUT, damaged_at).await?;
    check_digests(req, &received)?;
    Ok(received)
}

/// PutObject.
///
/// # Errors
/// See [`write_spec`] and [`receive_checked`].
pub async fn put_object(sim: &Sim, req: &Req, payload: &mut Payload) -> Result<Reply, OssError> {
    let spec = write_spec(sim, req)?;
    let received = receive_checked(sim, req, payload).await?;
    let etag = hex::encode_upper(received.md5);
    let version = new_version(spec, Kind::Normal, received.body, (etag, received.crc64), req.now);
    let md5 = version.content_md5().unwrap_or_default();
    let mut reply = commit(sim, req, version)?;
    reply.set("content-md5", md5);
    fail_callback(req, &mut reply);
    Ok(reply)
}

/// A callback that a write asked for. The simulator reaches no other server, so it always fails, as it does at the service
/// when the caller's server does not answer: 203, and the object is stored.
pub fn fail_callback(req: &Req, reply: &mut Reply) {
    if req.headers.contains_key("x-oss-callback") {
        let error = OssError::new(203, "CallbackFailed", "Error status : -1.");
        reply.status = 203;
        reply.set("x-oss-ec", error.ec);
        reply.set("content-type", "application/xml");
        reply.body = ReplyBody::Bytes(error.document("", &req.host).into());
    }
}

/// A version from its parts; `digests` are the entity tag and the CRC.
pub fn new_version(spec: Spec, kind: Kind, body: Body, digests: (String, u64), now: u64) -> Version {
    Version {
        id: 0,
        delete_marker: false,
        kind,
        class: spec.class,
        size: body.len(),
        etag: digests.0.into(),
        crc64: digests.1,
        modified: now,
        transition: 0,
        headers: spec.headers,
        tags: spec.tags,
        restore: None,
        body,
    }
}

/// Stores a version and answers with its tag, CRC and version id. The overwrite check is repeated under the lock: two
/// writers may have passed the first one while their bodies were on the way.
///
/// # Errors
/// 404 NoSuchBucket, 409 FileAlreadyExists.
pub fn commit(sim: &Sim, req: &Req, version: Version) -> Result<Reply, OssError> {
    let (bucket, key) = (req.bucket()?, req.key()?);
    let mut store = sim.store();
    let meta = &store.bucket(bucket)?.meta;
    if forbids_overwrite(req) && meta.versioning.is_none() && store.bucket(bucket)?.current(key).is_some() {
        return Err(already_exists(key));
    }
    let mut reply = Reply::empty(200).class(version.class);
    reply.set("etag", format!("\"{}\"", version.etag));
    reply.set("x-oss-hash-crc64ecma", version.crc64.to_string());
    for name in ["x-oss-server-side-encryption", "x-oss-server-side-encryption-key-id"] {
        if let Some(value) = version.header(name) {
            reply.set(name, value);
        }
    }
    // The time of the commit, not of the request's arrival: a slow upload is as old as its end.
    let now = sim.clock.now();
    let id = store.insert(bucket, key, Version { modified: now, ..version }, now)?;
    store.name_version(bucket, id, &mut reply);
    Ok(reply)
}

/// DeleteObject.
///
/// # Errors
/// 404 NoSuchBucket, 400 for a bad version id.
pub fn delete_object(sim: &Sim, req: &Req) -> Result<Reply, OssError> {
    let gone = delete_one(sim, req.bucket()?, req.key()?, req.query.get("versionId"), req.now)?;
    let mut reply = Reply::empty(204).class(gone.class);
    if gone.marker_made || gone.marker_removed {
        reply.set("x-oss-delete-marker", "true");
    }
    if let Some(id) = gone.version_id {
        reply.set("x-oss-version-id", id);
    }
    Ok(reply)
}

/// What a delete did.
#[derive(Debug)]
pub struct Deleted {
    class: Class,
    version_id: Option<String>,
    marker_made: bool,
    marker_removed: bool,
}

/// Deletes one object or version.
///
/// # Errors
/// 404 NoSuchBucket, 400 for a bad version id.
pub fn delete_one(sim: &Sim, bucket: &str, key: &str, id: Option<&str>, now: u64) -> Result<Deleted, OssError> {
    let mut store = sim.store();
    let meta = store.bucket(bucket)?.meta.clone();
    let mut out = Deleted { class: meta.class, version_id: None, marker_made: false, marker_removed: false };
    if let Some(text) = id {
        let id = parse_version_id(text)
            .ok_or_else(|| OssError::invalid_argument("Invalid version id specified", "versionId", text))?;
        if let Some(version) = store.remove(bucket, key, id, now)? {
            out.class = version.class;
            out.marker_removed = version.delete_marker;
        }
        out.version_id = Some(text.to_string());
        return Ok(out);
    }
    if let Some(version) = store.bucket(bucket)?.current(key) {
        out.class = version.class;
    }
    if meta.versioning.is_none() {
        store.remove(bucket, key, 0, now)?;
        return Ok(out);
    }
    if meta.versioning == Some(Versioning::Suspended) {
        store.remove(bucket, key, 0, now)?;
    }
    let spec = Spec { class: Class::Standard, headers: Vec::new(), tags: Vec::new() };
    let mut marker = new_version(spec, Kind::Normal, Body::default(), (String::new(), 0), now);
    marker.delete_marker = true;
    let made = store.insert(bucket, key, marker, now)?;
    out.version_id = Some(crate::model::version_id(made));
    out.marker_made = true;
    Ok(out)
}

/// DeleteMultipleObjects. Billed as one request per key.
///
/// # Errors
/// 400 without Content-MD5, for a wrong one, and for a document that is too long or not of the schema.
pub async fn delete_many(sim: &Sim, req: &Req, payload: &mut Payload) -> Result<Reply, OssError> {
    let sent = req.header("content-md5").ok_or_else(|| {
        OssError::new(400, "InvalidArgument", "Missing Some Required Arguments.").with("ArgumentName", "Content-MD5")
    })?;
    let document = payload.document(MAX_DELETE_DOCUMENT).await?;
    if base64::engine::general_purpose::STANDARD.encode(Md5::digest(&document)) != sent {
        return Err(OssError::new(400, "InvalidDigest", "The Content-MD5 you specified was invalid."));
    }
    let root = xml::parse(&document).map_err(|e| OssError::malformed_xml(&e))?;
    let count = root.all("Object").count();
    if root.name != "Delete" || count == 0 || count > MAX_DELETE {
        return Err(OssError::malformed_xml("Delete must hold 1 to 1000 Object nodes"));
    }
    // All or nothing: a refusal half-way would leave it unclear what was deleted.
    for object in root.all("Object") {
        let key = object.text_of("Key").unwrap_or_default();
        let of_version = object.text_of("VersionId").is_some_and(|v| !v.is_empty());
        let action = if of_version { "oss:DeleteObjectVersion" } else { "oss:DeleteObject" };
        crate::ram::permit(sim, req, action, (req.bucket()?, Some(key)))?;
    }
    let quiet = root.text_of("Quiet").is_some_and(|q| q.trim() == "true");
    let url = req.query.get("encoding-type") == Some("url");
    let mut out = Writer::new("DeleteResult");
    if url {
        out.text("EncodingType", "url");
    }
    let mut billed: BTreeMap<Class, u64> = BTreeMap::new();
    for object in root.all("Object") {
        let key = object.text_of("Key").unwrap_or_default();
        let id = object.text_of("VersionId").filter(|v| !v.is_empty());
        let gone = delete_one(sim, req.bucket()?, key, id, req.now)?;
        *billed.entry(gone.class).or_default() += 1;
        out.open("Deleted");
        out.text("Key", &if url { crate::request::encode(key) } else { key.to_string() });
        if let Some(id) = id {
            out.text("VersionId", id);
        }
        if gone.marker_made || gone.marker_removed {
            out.text("DeleteMarker", "true");
            out.text("DeleteMarkerVersionId", gone.version_id.as_deref().unwrap_or("null"));
        }
        out.close();
    }
    let mut reply = if quiet { Reply::empty(200) } else { Reply::xml(out.finish()) };
    reply.billed = billed.into_iter().collect();
    Ok(reply)
}
