//! CopyObject and the source of UploadPartCopy.

use crate::blob::Span;
use crate::clock::iso;
use crate::error::OssError;
use crate::get::conditions;
use crate::ledger::Code;
use crate::model::{Class, Headers, Kind, Version};
use crate::objects::{MAX_PUT, Spec, commit, new_version, write_spec};
use crate::request::{Query, Reply, ReplyBody, Req, decode};
use crate::sim::Sim;
use crate::store::Store;
use crate::xml::Writer;
use bytes::Bytes;

/// Where a copy comes from.
#[derive(Debug, PartialEq, Eq)]
pub struct Source {
    bucket: String,
    key: String,
    version: Option<String>,
}

impl Source {
    /// Whether it is a certain version of the object.
    pub fn names_a_version(&self) -> bool {
        self.version.is_some()
    }

    /// Bucket and key.
    pub fn into_names(self) -> (String, String) {
        (self.bucket, self.key)
    }
}

/// Reads `x-oss-copy-source: /bucket/url-encoded-key[?versionId=…]`.
///
/// # Errors
/// 400 InvalidArgument.
pub fn source(req: &Req) -> Result<Source, OssError> {
    let text = req.header("x-oss-copy-source").unwrap_or_default();
    let bad = || {
        OssError::invalid_argument("Copy Source must mention the source bucket and key.", "x-oss-copy-source", &text)
    };
    let (path, query) = text.split_once('?').unwrap_or((&text, ""));
    let path = decode(path).ok_or_else(bad)?;
    let (bucket, key) = path.strip_prefix('/').unwrap_or(&path).split_once('/').ok_or_else(bad)?;
    if bucket.is_empty() || key.is_empty() {
        return Err(bad());
    }
    let version = Query::parse(query)?.get("versionId").map(str::to_string);
    Ok(Source { bucket: bucket.to_string(), key: key.to_string(), version })
}

/// The version to copy from, checked for conditions and for being readable. Copying bytes out of a class is a retrieval.
///
/// # Errors
/// 403 for frozen sources, 404, 412.
pub fn readable(store: &mut Store, req: &Req, source: &Source) -> Result<Version, OssError> {
    let version = store.find_named(&source.bucket, &source.key, source.version.as_deref())?.clone();
    if let Some(_not_modified) = conditions(req, &version, "x-oss-copy-source-if-")? {
        return Err(OssError::precondition("x-oss-copy-source-if-none-match"));
    }
    if version.frozen_at(req.now) {
        let direct = version.class == Class::Archive && store.bucket(&source.bucket)?.meta.direct_read;
        if !direct {
            return Err(OssError::frozen(&source.key));
        }
    }
    Ok(version)
}

/// Bills the bytes that a copy reads.
pub fn charge_read(store: &mut Store, version: &Version, bytes: u64, now: u64) {
    let code = match version.class {
        Class::IA => Code::RetrievalData,
        Class::Archive if version.frozen_at(now) => Code::RetrievalDataArchiveDirect,
        _ => return,
    };
    store.charge(code, version.class, None, u128::from(bytes));
}

/// CopyObject.
///
/// # Errors
/// 400 for directives and sizes, 403 for frozen sources, 404, 409, 412.
pub fn copy_object(sim: &Sim, req: &Req) -> Result<Reply, OssError> {
    let mut spec = write_spec(sim, req)?;
    let source = source(req)?;
    let replace_meta = directive(req, "x-oss-metadata-directive", ["COPY", "REPLACE"])?;
    let replace_tags = directive(req, "x-oss-tagging-directive", ["COPY", "REPLACE"])?;
    let version = {
        let mut store = sim.store();
        let version = readable(&mut store, req, &source)?;
        let onto_itself = source.bucket == req.bucket()? && source.key == req.key()?;
        let meta = &store.bucket(req.bucket()?)?.meta;
        // A copy onto itself in a bucket without versioning always takes the new metadata.
        let replaces = replace_meta || (onto_itself && meta.versioning.is_none());
        let same_class = spec.class == version.class && source.bucket == req.bucket()?;
        if version.size > MAX_PUT && !same_class {
            return Err(OssError::new(
                400,
                "EntityTooLarge",
                "The object is too large to copy in one request; use parts.",
            ));
        }
        charge_read(&mut store, &version, version.size, req.now);
        spec = Spec {
            class: spec.class,
            headers: if replaces { spec.headers } else { inherited(&version, spec.headers) },
            tags: if replace_tags { spec.tags } else { version.tags.clone() },
        };
        version
    };
    let kind = if version.kind == Kind::Appendable { Kind::Normal } else { version.kind };
    let digests = (version.etag.to_string(), version.crc64);
    let copy = new_version(spec, kind, version.body.clone(), digests, req.now);
    let etag = copy.etag.clone();
    let mut reply = commit(sim, req, copy)?;
    let mut out = Writer::new("CopyObjectResult");
    out.text("ETag", &format!("\"{etag}\""));
    out.text("LastModified", &iso(req.now));
    reply.body = ReplyBody::Bytes(Bytes::from(out.finish()));
    reply.set("content-type", "application/xml");
    if let Some(id) = source.version {
        reply.set("x-oss-copy-source-version-id", id);
    }
    Ok(reply)
}

/// The source's headers without its encryption, and the encryption that the request asks for.
fn inherited(version: &Version, asked: Headers) -> Headers {
    let is_sse = |name: &str| name.starts_with("x-oss-server-side");
    let kept = version.headers.iter().filter(|(n, _)| !is_sse(n)).cloned();
    kept.chain(asked.into_iter().filter(|(n, _)| is_sse(n))).collect()
}

/// Whether a directive says REPLACE.
fn directive(req: &Req, name: &str, allowed: [&str; 2]) -> Result<bool, OssError> {
    let Some(text) = req.header(name) else { return Ok(false) };
    let upper = text.to_ascii_uppercase();
    if !allowed.contains(&upper.as_str()) {
        return Err(OssError::invalid_argument("The directive must be COPY or REPLACE.", name, &text));
    }
    Ok(upper == "REPLACE")
}

/// The bytes that UploadPartCopy takes: all, or `x-oss-copy-source-range: bytes=a-b`.
///
/// # Errors
/// 400 InvalidArgument for another form, 416 beyond the end.
pub fn part_span(req: &Req, size: u64) -> Result<Span, OssError> {
    let Some(text) = req.header("x-oss-copy-source-range") else { return Ok(Span { start: 0, len: size }) };
    let bad = || OssError::invalid_argument("The source range is not valid.", "x-oss-copy-source-range", &text);
    let (first, last) = text.strip_prefix("bytes=").and_then(|r| r.split_once('-')).ok_or_else(bad)?;
    let first: u64 = first.trim().parse().map_err(|_| bad())?;
    let last: u64 =
        if last.trim().is_empty() { size.saturating_sub(1) } else { last.trim().parse().map_err(|_| bad())? };
    if first >= size || last >= size {
        return Err(OssError::new(416, "InvalidRange", "The requested range cannot be satisfied."));
    }
    if last < first {
        return Err(bad());
    }
    Ok(Span { start: first, len: last - first + 1 })
}
