//! AppendObject, tagging, symlinks.

use crate::blob::{Body, crc64_combine};
use crate::error::OssError;
use crate::model::{Class, Kind, Version};
use crate::objects::{SYMLINK_TARGET, Spec, check_tags, commit, new_version, receive_checked, write_spec};
use crate::request::{Reply, Req};
use crate::server::Payload;
use crate::sim::Sim;
use crate::xml::{self, Writer};
use md5::{Digest, Md5};

/// AppendObject.
///
/// # Errors
/// 409 for a wrong position or an object of another kind, and those of a PUT.
pub async fn append_object(sim: &Sim, req: &Req, payload: &mut Payload) -> Result<Reply, OssError> {
    let spec = write_spec(sim, req)?;
    let text = req.query.get("position").unwrap_or_default();
    let position = text
        .parse::<u64>()
        .map_err(|_| OssError::invalid_argument("The position must be a non-negative integer.", "position", text))?;
    let received = receive_checked(sim, req, payload).await?;
    let (bucket, key) = (req.bucket()?, req.key()?);
    let mut store = sim.store();
    let old = store.bucket(bucket)?.current(key).filter(|v| !v.delete_marker).cloned();
    if old.as_ref().is_some_and(|v| v.kind != Kind::Appendable) {
        return Err(OssError::new(409, "ObjectNotAppendable", "The object is not appendable.").with("Key", key));
    }
    let length = old.as_ref().map_or(0, |v| v.size);
    if position != length {
        return Err(OssError::new(409, "PositionNotEqualToLength", "Position is not equal to file length.")
            .header("x-oss-next-append-position", length.to_string()));
    }
    let now = sim.clock.now();
    let (mut spec, mut body, mut crc) = (spec, Body::default(), 0);
    if let Some(old) = &old {
        // Class, headers and tags are those of the first append.
        spec = Spec { class: old.class, headers: old.headers.clone(), tags: old.tags.clone() };
        (body, crc) = (old.body.clone(), old.crc64);
    }
    body.extend(&received.body);
    crc = crc64_combine(crc, received.crc64, received.size);
    let etag = format!("{:016X}{:016X}", crc, body.len());
    let class = spec.class;
    let version = new_version(spec, Kind::Appendable, body, (etag.clone(), crc), now);
    let size = version.size;
    match &old {
        // The same version grows. Its storage line is closed, no minimum duration is missed.
        Some(old) => {
            store.settle_growth(old, now);
            store.update(bucket, key, old.id, |v| *v = Version { id: old.id, ..version })?;
        }
        None => {
            store.insert(bucket, key, version, now)?;
        }
    }
    let mut reply = Reply::empty(200).class(class);
    reply.set("etag", format!("\"{etag}\""));
    reply.set("x-oss-hash-crc64ecma", crc.to_string());
    reply.set("x-oss-next-append-position", size.to_string());
    Ok(reply)
}

/// PutObjectTagging.
///
/// # Errors
/// 404 for the object, 400 for the document.
pub async fn put_tagging(sim: &Sim, req: &Req, payload: &mut Payload) -> Result<Reply, OssError> {
    let root = xml::parse(&payload.document(64 * 1024).await?).map_err(|e| OssError::malformed_xml(&e))?;
    let set = root.child("TagSet").filter(|_| root.name == "Tagging");
    let set = set.ok_or_else(|| OssError::malformed_xml("expected Tagging with a TagSet"))?;
    let text = |tag: &xml::Node, name: &str| tag.text_of(name).unwrap_or_default().to_string();
    let tags = check_tags(set.all("Tag").map(|t| (text(t, "Key"), text(t, "Value"))).collect())?;
    set_tags(sim, req, tags, 200)
}

/// DeleteObjectTagging.
///
/// # Errors
/// 404 for the object.
pub fn delete_tagging(sim: &Sim, req: &Req) -> Result<Reply, OssError> {
    set_tags(sim, req, Vec::new(), 204)
}

fn set_tags(sim: &Sim, req: &Req, tags: Vec<(String, String)>, status: u16) -> Result<Reply, OssError> {
    let mut store = sim.store();
    let (id, class) = store.find(req).map(|v| (v.id, v.class))?;
    store.update(req.bucket()?, req.key()?, id, |v| v.tags = tags)?;
    let mut reply = Reply::empty(status).class(class);
    store.name_version(req.bucket()?, id, &mut reply);
    Ok(reply)
}

/// GetObjectTagging.
///
/// # Errors
/// 404 for the object.
pub fn get_tagging(sim: &Sim, req: &Req) -> Result<Reply, OssError> {
    let store = sim.store();
    let version = store.find(req)?;
    let mut out = Writer::new("Tagging");
    out.open("TagSet");
    for (key, value) in &version.tags {
        out.open("Tag");
        out.text("Key", key);
        out.text("Value", value);
        out.close();
    }
    let mut reply = Reply::xml(out.finish()).class(version.class);
    store.name_version(req.bucket()?, version.id, &mut reply);
    Ok(reply)
}

/// PutSymlink.
///
/// # Errors
/// 400 without a target, and those of a PUT.
pub fn put_symlink(sim: &Sim, req: &Req) -> Result<Reply, OssError> {
    let mut spec = write_spec(sim, req)?;
    let target = req.header(SYMLINK_TARGET).filter(|t| !t.is_empty());
    let target = target.ok_or_else(|| OssError::invalid_argument("The symlink has no target.", SYMLINK_TARGET, ""))?;
    if spec.class >= Class::ColdArchive {
        return Err(OssError::invalid_argument(
            "A symlink cannot have this class.",
            "x-oss-storage-class",
            spec.class.name(),
        ));
    }
    spec.headers.push((SYMLINK_TARGET.into(), target.as_str().into()));
    let etag = hex::encode_upper(Md5::digest(target.as_bytes()));
    commit(sim, req, new_version(spec, Kind::Symlink, Body::default(), (etag, 0), req.now))
}

/// GetSymlink.
///
/// # Errors
/// 404 for the object, 400 when it is no link.
pub fn get_symlink(sim: &Sim, req: &Req) -> Result<Reply, OssError> {
    let store = sim.store();
    let version = store.find(req)?;
    let target = version.header(SYMLINK_TARGET).filter(|_| version.kind == Kind::Symlink);
    let target = target.ok_or_else(|| OssError::new(400, "NotSymlink", "The object is not a symlink."))?;
    let mut reply = Reply::empty(200).class(version.class);
    reply.set(SYMLINK_TARGET, target);
    reply.set("etag", format!("\"{}\"", version.etag));
    Ok(reply)
}
