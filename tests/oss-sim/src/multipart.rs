//! Multipart uploads: initiate, parts, part copies, complete with all its checks, abort, and the two lists.

use crate::blob::{Body, crc64_combine};
use crate::clock::iso;
use crate::copy::{charge_read, part_span, readable, source};
use crate::error::OssError;
use crate::list::url_or_plain;
use crate::model::{Kind, Part, Upload};
use crate::objects::{Spec, commit, fail_callback, new_version, receive_checked, write_spec};
use crate::request::{Reply, ReplyBody, Req};
use crate::server::Payload;
use crate::sim::Sim;
use crate::xml::{self, Node, Writer};
use bytes::Bytes;
use md5::{Digest, Md5};
use std::collections::BTreeSet;

/// Smallest part but the last: 100 KB.
const MIN_PART: u64 = 100 * 1024;
/// Most parts.
const MAX_PARTS: usize = 10_000;
/// Largest Complete document: 10,000 parts of under 200 bytes.
const MAX_DOCUMENT: usize = 2 << 20;

/// InitiateMultipartUpload.
///
/// # Errors
/// Those of a PUT.
pub fn initiate(sim: &Sim, req: &Req) -> Result<Reply, OssError> {
    let spec = write_spec(sim, req)?;
    let (bucket, key) = (req.bucket()?, req.key()?);
    let id = format!("{:016X}{:016X}", sim.random(), sim.random());
    let class = spec.class;
    let upload = Upload {
        initiated: req.now,
        class,
        headers: spec.headers,
        tags: spec.tags,
        parts: std::collections::BTreeMap::new(),
    };
    sim.store().open_upload(bucket, key, &id, upload)?;
    let url = req.query.get("encoding-type") == Some("url");
    let mut out = Writer::new("InitiateMultipartUploadResult");
    if url {
        out.text("EncodingType", "url");
    }
    out.text("Bucket", bucket);
    out.text("Key", &url_or_plain(url, key));
    out.text("UploadId", &id);
    Ok(Reply::xml(out.finish()).class(class))
}

fn upload_id(req: &Req) -> &str {
    req.query.get("uploadId").unwrap_or_default()
}

fn part_number(req: &Req) -> Result<u16, OssError> {
    let text = req.query.get("partNumber").unwrap_or_default();
    text.parse::<u16>().ok().filter(|n| (1..=MAX_PARTS).contains(&usize::from(*n))).ok_or_else(|| {
        OssError::invalid_argument("Part number must be an integer between 1 and 10000.", "partNumber", text)
    })
}

/// UploadPart.
///
/// # Errors
/// 404 NoSuchUpload, and those of a body.
pub async fn upload_part(sim: &Sim, req: &Req, payload: &mut Payload) -> Result<Reply, OssError> {
    let number = part_number(req)?;
    let class = sim.store().upload(req.bucket()?, req.key()?, upload_id(req))?.class;
    let received = receive_checked(sim, req, payload).await?;
    let part = Part {
        size: received.size,
        etag: hex::encode_upper(received.md5).into(),
        md5: received.md5,
        crc64: received.crc64,
        modified: sim.clock.now(),
        body: received.body,
    };
    let mut reply = Reply::empty(200).class(class);
    reply.set("etag", format!("\"{}\"", part.etag));
    reply.set("x-oss-hash-crc64ecma", part.crc64.to_string());
    sim.store().put_part(req, upload_id(req), number, part)?;
    Ok(reply)
}

/// UploadPartCopy.
///
/// # Errors
/// 403 for a frozen source, 404, 412, 416.
pub fn upload_part_copy(sim: &Sim, req: &Req) -> Result<Reply, OssError> {
    let number = part_number(req)?;
    let source = source(req)?;
    let mut store = sim.store();
    let class = store.upload(req.bucket()?, req.key()?, upload_id(req))?.class;
    let version = readable(&mut store, req, &source)?;
    let span = part_span(req, version.size)?;
    charge_read(&mut store, &version, span.len, req.now);
    let body = version.body.slice(span);
    let (md5, crc64) = digest(&body)?;
    let etag = hex::encode_upper(md5);
    let part = Part { size: span.len, etag: etag.as_str().into(), md5, crc64, modified: req.now, body };
    store.put_part(req, upload_id(req), number, part)?;
    let mut out = Writer::new("CopyPartResult");
    out.text("LastModified", &iso(req.now));
    out.text("ETag", &format!("\"{etag}\""));
    let mut reply = Reply::xml(out.finish()).class(class);
    reply.set("etag", format!("\"{etag}\""));
    reply.set("x-oss-hash-crc64ecma", crc64.to_string());
    Ok(reply)
}

fn digest(body: &Body) -> Result<([u8; 16], u64), OssError> {
    let (mut md5, mut crc, mut at) = (Md5::new(), 0u64, 0u64);
    loop {
        let chunk = body.read_at(at)?;
        if chunk.is_empty() {
            return Ok((md5.finalize().into(), crc));
        }
        md5.update(&chunk);
        crc = crc64_combine(crc, crate::blob::crc64(&chunk), chunk.len() as u64);
        at += chunk.len() as u64;
    }
}

/// CompleteMultipartUpload.
///
/// # Errors
/// 400 InvalidPart, InvalidPartOrder, EntityTooSmall, MalformedXML; 404 NoSuchUpload; 409 for a forbidden overwrite.
pub async fn complete(sim: &Sim, req: &Req, payload: &mut Payload) -> Result<Reply, OssError> {
    let (bucket, key, id) = (req.bucket()?, req.key()?, upload_id(req));
    let document = payload.document(MAX_DOCUMENT).await?;
    let upload = sim.store().upload(bucket, key, id)?.clone();
    let wanted = if req.header("x-oss-complete-all").is_some_and(|v| v == "yes") {
        if !document.is_empty() {
            return Err(OssError::invalid_argument(
                "The body must be empty with x-oss-complete-all.",
                "x-oss-complete-all",
                "yes",
            )
            .ec("0042-00000216"));
        }
        upload.parts.keys().copied().collect()
    } else {
        wanted_parts(&document, &upload)?
    };
    let (body, md5s, crc) = join(&upload, &wanted)?;
    let etag = format!("{}-{}", hex::encode_upper(Md5::digest(&md5s)), wanted.len());
    let spec = Spec { class: upload.class, headers: upload.headers.clone(), tags: upload.tags.clone() };
    let version = new_version(spec, Kind::Multipart, body, (etag.clone(), crc), req.now);
    let mut reply = commit(sim, req, version)?;
    sim.store().close_upload(bucket, key, id, sim.clock.now())?;
    let url = req.query.get("encoding-type") == Some("url");
    let mut out = Writer::new("CompleteMultipartUploadResult");
    if url {
        out.text("EncodingType", "url");
    }
    out.text("Location", &format!("http://{}/{}", req.host, crate::request::encode(key)));
    out.text("Bucket", bucket);
    out.text("Key", &url_or_plain(url, key));
    out.text("ETag", &format!("\"{etag}\""));
    reply.body = ReplyBody::Bytes(Bytes::from(out.finish()));
    reply.set("content-type", "application/xml");
    fail_callback(req, &mut reply);
    Ok(reply)
}

/// The part numbers of a Complete document, checked against what was uploaded.
fn wanted_parts(document: &[u8], upload: &Upload) -> Result<Vec<u16>, OssError> {
    let root = xml::parse(document).map_err(|e| OssError::malformed_xml(&e))?;
    let parts: Vec<&Node> = root.all("Part").collect();
    if root.name != "CompleteMultipartUpload" || parts.is_empty() || parts.len() > MAX_PARTS {
        return Err(OssError::malformed_xml("CompleteMultipartUpload must hold 1 to 10000 Part nodes"));
    }
    let mut out: Vec<u16> = Vec::with_capacity(parts.len());
    for part in parts {
        let number = part.text_of("PartNumber").and_then(|n| n.trim().parse::<u16>().ok());
        let number = number.ok_or_else(|| OssError::malformed_xml("a Part has no valid PartNumber"))?;
        if out.last().is_some_and(|last| *last >= number) {
            return Err(OssError::new(
                400,
                "InvalidPartOrder",
                "The list of parts was not in ascending order. Parts list must specified in order by part number.",
            ));
        }
        let etag = part.text_of("ETag").unwrap_or_default().trim().trim_matches('"').to_ascii_uppercase();
        if upload.parts.get(&number).is_none_or(|p| *p.etag != *etag) {
            return Err(OssError::new(
                400,
                "InvalidPart",
                "One or more of the specified parts could not be found or the specified entity tag might not have matched the part's entity tag.",
            )
            .with("PartNumber", number.to_string())
            .with("ETag", etag));
        }
        out.push(number);
    }
    Ok(out)
}

fn join(upload: &Upload, wanted: &[u16]) -> Result<(Body, Vec<u8>, u64), OssError> {
    let (mut body, mut md5s, mut crc) = (Body::default(), Vec::new(), 0);
    for (i, number) in wanted.iter().enumerate() {
        let Some(part) = upload.parts.get(number) else { continue };
        if part.size < MIN_PART && i + 1 < wanted.len() {
            return Err(OssError::new(
                400,
                "EntityTooSmall",
                "Your proposed upload smaller than the minimum allowed size.",
            )
            .with("MinSizeAllowed", MIN_PART.to_string())
            .with("ProposedSize", part.size.to_string())
            .with("PartNumber", number.to_string()));
        }
        body.extend(&part.body);
        md5s.extend_from_slice(&part.md5);
        crc = crc64_combine(crc, part.crc64, part.size);
    }
    Ok((body, md5s, crc))
}

/// AbortMultipartUpload.
///
/// # Errors
/// 404 NoSuchUpload.
pub fn abort(sim: &Sim, req: &Req) -> Result<Reply, OssError> {
    let upload = sim.store().close_upload(req.bucket()?, req.key()?, upload_id(req), req.now)?;
    Ok(Reply::empty(204).class(upload.class))
}

/// ListParts.
///
/// # Errors
/// 404 NoSuchUpload, 400 for the parameters.
pub fn list_parts(sim: &Sim, req: &Req) -> Result<Reply, OssError> {
    let (bucket, key, id) = (req.bucket()?, req.key()?, upload_id(req));
    let max = req.query.number("max-parts", 1000, (1, 1000))?;
    let marker = req.query.number("part-number-marker", 0, (0, MAX_PARTS))?;
    let store = sim.store();
    let upload = store.upload(bucket, key, id)?;
    let url = req.query.get("encoding-type") == Some("url");
    let rest: Vec<_> = upload.parts.iter().filter(|(n, _)| usize::from(**n) > marker).take(max + 1).collect();
    let page = rest.get(..max.min(rest.len())).unwrap_or_default();
    let mut out = Writer::new("ListPartsResult");
    if url {
        out.text("EncodingType", "url");
    }
    out.text("Bucket", bucket);
    out.text("Key", &url_or_plain(url, key));
    out.text("UploadId", id);
    out.text("StorageClass", upload.class.name());
    out.text("PartNumberMarker", &marker.to_string());
    if let Some((last, _)) = page.last() {
        out.text("NextPartNumberMarker", &last.to_string());
    }
    out.text("MaxParts", &max.to_string());
    out.text("IsTruncated", if rest.len() > max { "true" } else { "false" });
    for (number, part) in page {
        out.open("Part");
        out.text("PartNumber", &number.to_string());
        out.text("LastModified", &iso(part.modified));
        out.text("ETag", &format!("\"{}\"", part.etag));
        out.text("HashCrc64ecma", &part.crc64.to_string());
        out.text("Size", &part.size.to_string());
        out.close();
    }
    Ok(Reply::xml(out.finish()).class(upload.class))
}

/// ListMultipartUploads.
///
/// # Errors
/// 404 NoSuchBucket, 400 for the parameters.
pub fn list_uploads(sim: &Sim, req: &Req) -> Result<Reply, OssError> {
    let max = req.query.number("max-uploads", 1000, (1, 1000))?;
    let get = |name: &str| req.query.get(name).unwrap_or_default();
    let (prefix, delimiter) = (get("prefix"), get("delimiter"));
    let (key_marker, id_marker) = (get("key-marker"), get("upload-id-marker"));
    let url = get("encoding-type") == "url";
    let store = sim.store();
    let bucket = store.bucket(req.bucket()?)?;
    let after = |key: &str, id: &str| {
        key_marker.is_empty() || key > key_marker || (key == key_marker && !id_marker.is_empty() && id > id_marker)
    };
    let (mut uploads, mut groups, mut truncated) = (Vec::new(), BTreeSet::new(), false);
    for ((key, id), upload) in bucket.uploads.iter().filter(|((k, i), _)| k.starts_with(prefix) && after(k, i)) {
        let group = crate::list::group_of(key, prefix, delimiter);
        if group.is_some_and(|g| groups.contains(g) || g == key_marker) {
            continue;
        }
        if uploads.len() + groups.len() == max {
            truncated = true;
            break;
        }
        match group {
            Some(group) => {
                groups.insert(group);
            }
            None => uploads.push((key, id, upload)),
        }
    }
    let mut out = Writer::new("ListMultipartUploadsResult");
    if url {
        out.text("EncodingType", "url");
    }
    out.text("Bucket", req.bucket()?);
    out.text("KeyMarker", &url_or_plain(url, key_marker));
    out.text("UploadIdMarker", id_marker);
    // Both nodes are there on the last page as well: a client reads them without asking whether there is more.
    let last_group = groups.last().copied().unwrap_or_default();
    let (key, id) = uploads.last().map_or(("", ""), |(k, i, _)| (k.as_str(), i.as_str()));
    let (key, id) = if key >= last_group { (key, id) } else { (last_group, "") };
    out.text("NextKeyMarker", &if truncated { url_or_plain(url, key) } else { String::new() });
    out.text("NextUploadIdMarker", if truncated { id } else { "" });
    out.text("Delimiter", &url_or_plain(url, delimiter));
    out.text("Prefix", &url_or_plain(url, prefix));
    out.text("MaxUploads", &max.to_string());
    out.text("IsTruncated", if truncated { "true" } else { "false" });
    for (key, id, upload) in uploads {
        out.open("Upload");
        out.text("Key", &url_or_plain(url, key));
        out.text("UploadId", id);
        out.text("StorageClass", upload.class.name());
        out.text("Initiated", &iso(upload.initiated));
        out.close();
    }
    for group in groups {
        out.open("CommonPrefixes");
        out.text("Prefix", &url_or_plain(url, group));
        out.close();
    }
    Ok(Reply::xml(out.finish()))
}
