//! GetObject, HeadObject, GetObjectMeta: conditions, ranges, the frozen check, compression on the fly.

use crate::blob::Span;
use crate::clock::{SECOND, http_date, parse_http_date};
use crate::error::OssError;
use crate::ledger::Code;
use crate::model::{Class, Kind, Version};
use crate::objects::SYMLINK_TARGET;
use crate::request::{Reply, ReplyBody, Req, decode};
use crate::sim::Sim;
use crate::store::Store;

/// Smallest body that is compressed on the fly.
const GZIP_FROM: u64 = 1024;
/// Content types that are.
const GZIP_TYPES: &[&str] = &[
    "text/html",
    "text/plain",
    "text/css",
    "text/xml",
    "text/javascript",
    "application/javascript",
    "application/x-javascript",
    "application/json",
    "application/xml",
    "application/rss+xml",
];
/// Query parameters that replace response headers.
const OVERRIDES: &[(&str, &str)] = &[
    ("response-content-type", "content-type"),
    ("response-content-language", "content-language"),
    ("response-expires", "expires"),
    ("response-cache-control", "cache-control"),
    ("response-content-disposition", "content-disposition"),
    ("response-content-encoding", "content-encoding"),
];

/// The version that a read is about: links are followed once.
fn target(store: &Store, req: &Req) -> Result<Version, OssError> {
    let version = store.find(req)?;
    if version.kind != Kind::Symlink {
        return Ok(version.clone());
    }
    let target = version.header(SYMLINK_TARGET).and_then(decode).unwrap_or_default();
    let found = store
        .find_named(req.bucket()?, &target, None)
        .map_err(|_| OssError::new(404, "SymlinkTargetNotExist", "The symlink target object does not exist."))?;
    if found.kind == Kind::Symlink {
        return Err(OssError::new(400, "InvalidTargetType", "The target type of the symlink is invalid."));
    }
    Ok(found.clone())
}

/// HeadObject.
///
/// # Errors
/// 404, 405, 412.
pub fn head_object(sim: &Sim, req: &Req) -> Result<Reply, OssError> {
    let store = sim.store();
    let version = target(&store, req)?;
    if let Some(reply) = conditions(req, &version, "if-")? {
        return Ok(reply);
    }
    let mut reply = Reply::empty(200).class(version.class);
    describe(&mut reply, &version, req.now);
    store.name_version(req.bucket()?, version.id, &mut reply);
    reply.set("content-length", version.size.to_string());
    reply.set("accept-ranges", "bytes");
    Ok(reply)
}

/// GetObjectMeta.
///
/// # Errors
/// 404, 405.
pub fn object_meta(sim: &Sim, req: &Req) -> Result<Reply, OssError> {
    let store = sim.store();
    let version = target(&store, req)?;
    let mut reply = Reply::empty(200).class(version.class);
    reply.set("etag", format!("\"{}\"", version.etag));
    reply.set("last-modified", http_date(version.modified));
    reply.set("content-length", version.size.to_string());
    reply.set("x-oss-hash-crc64ecma", version.crc64.to_string());
    store.name_version(req.bucket()?, version.id, &mut reply);
    Ok(reply)
}

/// GetObject.
///
/// # Errors
/// 403 InvalidObjectState for frozen bodies, 404, 405, 412, 416.
pub fn get_object(sim: &Sim, req: &Req) -> Result<Reply, OssError> {
    let mut store = sim.store();
    let version = target(&store, req)?;
    let frozen = version.frozen_at(req.now);
    let direct = frozen && version.class == Class::Archive && store.bucket(req.bucket()?)?.meta.direct_read;
    if frozen && !direct {
        return Err(OssError::frozen(req.key()?).header("x-oss-storage-class", version.class.name()));
    }
    if let Some(reply) = conditions(req, &version, "if-")? {
        return Ok(reply);
    }
    let mut reply = Reply::empty(200).class(version.class);
    describe(&mut reply, &version, req.now);
    for (parameter, header) in OVERRIDES {
        if let Some(value) = req.query.get(parameter) {
            reply.headers.retain(|(name, _)| name != header);
            reply.set(header, value);
        }
    }
    store.name_version(req.bucket()?, version.id, &mut reply);
    reply.set("accept-ranges", "bytes");
    let mut span = Span { start: 0, len: version.size };
    let mut gzip = false;
    if let Some(part) = range(req, version.size)? {
        span = part;
        reply.status = 206;
        let last = part.start + part.len - 1;
        reply.set("content-range", format!("bytes {}-{last}/{}", part.start, version.size));
    } else {
        gzip = wants_gzip(req, &reply, version.size);
    }
    if gzip {
        // The trap for careless clients: no length and no tag to check the body with.
        reply.headers.retain(|(name, _)| name != "etag" && name != "content-md5");
        reply.set("content-encoding", "gzip");
    } else {
        reply.set("content-length", span.len.to_string());
    }
    let code = if direct { Some(Code::RetrievalDataArchiveDirect) } else { None };
    if let Some(code) = code.or((version.class == Class::IA).then_some(Code::RetrievalData)) {
        store.charge(code, version.class, None, u128::from(span.len));
    }
    reply.body = ReplyBody::Stored { body: version.body.clone(), span, gzip };
    Ok(reply)
}

/// The headers that describe a version.
fn describe(reply: &mut Reply, version: &Version, now: u64) {
    reply.set("etag", format!("\"{}\"", version.etag));
    reply.set("last-modified", http_date(version.modified));
    reply.set("x-oss-object-type", version.kind.name());
    reply.set("x-oss-storage-class", version.class.name());
    reply.set("x-oss-hash-crc64ecma", version.crc64.to_string());
    if let Some(md5) = version.content_md5() {
        reply.set("content-md5", md5);
    }
    if version.header("content-type").is_none() {
        reply.set("content-type", "application/octet-stream");
    }
    for (name, value) in version.headers.iter().filter(|(n, _)| &**n != SYMLINK_TARGET) {
        reply.set(name, &**value);
    }
    if version.kind == Kind::Appendable {
        reply.set("x-oss-next-append-position", version.size.to_string());
    }
    if !version.tags.is_empty() {
        reply.set("x-oss-tagging-count", version.tags.len().to_string());
    }
    if version.transition > 0 && version.class >= Class::ColdArchive {
        reply.set("x-oss-transition-time", http_date(version.transition));
    }
    if let Some(text) = version.restore.as_ref().and_then(|r| r.header(now)).filter(|_| version.class.is_frozen()) {
        reply.set("x-oss-restore", text);
    }
}

/// The conditions whose header names start with `prefix`. `Some` is the 304.
///
/// # Errors
/// 412 PreconditionFailed.
pub fn conditions(req: &Req, version: &Version, prefix: &str) -> Result<Option<Reply>, OssError> {
    let header = |name: &str| req.header(&format!("{prefix}{name}"));
    let tag_matches =
        |list: &str| list.split(',').any(|t| t.trim().trim_matches('"') == &*version.etag || t.trim() == "*");
    let modified = version.modified / SECOND * SECOND;
    if header("match").is_some_and(|list| !tag_matches(&list)) {
        return Err(OssError::precondition("If-Match"));
    }
    let date = |name: &str| header(name).and_then(|d| parse_http_date(&d));
    if date("unmodified-since").is_some_and(|at| modified > at) {
        return Err(OssError::precondition("If-Unmodified-Since"));
    }
    let unchanged = match header("none-match") {
        Some(list) => tag_matches(&list),
        None => date("modified-since").is_some_and(|at| modified <= at),
    };
    if !unchanged {
        return Ok(None);
    }
    let mut reply = Reply::empty(304).class(version.class);
    reply.set("etag", format!("\"{}\"", version.etag));
    reply.set("last-modified", http_date(version.modified));
    Ok(Some(reply))
}

/// The range to send: `None` is the whole body, also for a range that makes no sense, unless the client asked for the
/// standard behaviour.
///
/// # Errors
/// 416 InvalidRange, with the standard behaviour only.
fn range(req: &Req, size: u64) -> Result<Option<Span>, OssError> {
    let Some(text) = req.header("range") else { return Ok(None) };
    let standard = req.header("x-oss-range-behavior").is_some_and(|v| v == "standard");
    match parse_range(&text, size) {
        Found::Exact(span) => Ok(Some(span)),
        Found::Trimmed(span) if standard => Ok(Some(span)),
        Found::Outside if standard => {
            Err(OssError::new(416, "InvalidRange", "The requested range cannot be satisfied.")
                .with("ActualObjectSize", size.to_string())
                .with("RangeRequested", text)
                .header("content-range", format!("bytes */{size}")))
        }
        Found::Trimmed(_) | Found::Outside | Found::Malformed => Ok(None),
    }
}

#[derive(Debug, PartialEq, Eq)]
enum Found {
    Exact(Span),
    /// Reaches beyond the end.
    Trimmed(Span),
    Outside,
    Malformed,
}

fn parse_range(text: &str, size: u64) -> Found {
    let Some((first, last)) = text.trim().strip_prefix("bytes=").and_then(|r| r.split_once('-')) else {
        return Found::Malformed;
    };
    let number = |t: &str| t.trim().parse::<u64>().ok();
    if first.trim().is_empty() {
        return match number(last) {
            None => Found::Malformed,
            Some(0) => Found::Outside,
            Some(_) if size == 0 => Found::Outside,
            Some(n) if n > size => Found::Trimmed(Span { start: 0, len: size }),
            Some(n) => Found::Exact(Span { start: size - n, len: n }),
        };
    }
    let Some(first) = number(first) else { return Found::Malformed };
    let end = if last.trim().is_empty() { Some(size.saturating_sub(1)) } else { number(last) };
    match end {
        None => Found::Malformed,
        Some(_) if first >= size => Found::Outside,
        Some(end) if end < first => Found::Malformed,
        Some(end) if end >= size => Found::Trimmed(Span { start: first, len: size - first }),
        Some(end) => Found::Exact(Span { start: first, len: end - first + 1 }),
    }
}

fn wants_gzip(req: &Req, reply: &Reply, size: u64) -> bool {
    let accepts = req.header("accept-encoding").is_some_and(|list| {
        list.split(',').any(|e| e.split(';').next().is_some_and(|name| name.trim().eq_ignore_ascii_case("gzip")))
    });
    let value = |name: &str| reply.headers.iter().find(|(n, _)| n == name).map(|(_, v)| v.as_str());
    let kind = value("content-type").and_then(|t| t.split(';').next()).unwrap_or_default().trim().to_ascii_lowercase();
    accepts && size >= GZIP_FROM && value("content-encoding").is_none() && GZIP_TYPES.contains(&kind.as_str())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn ranges_are_sorted_into_exact_trimmed_outside_and_malformed() {
        let span = |start, len| Span { start, len };
        let table = [
            ("bytes=0-0", Found::Exact(span(0, 1))),
            ("bytes=10-19", Found::Exact(span(10, 10))),
            ("bytes=90-", Found::Exact(span(90, 10))),
            ("bytes=-10", Found::Exact(span(90, 10))),
            ("bytes=-200", Found::Trimmed(span(0, 100))),
            ("bytes=50-200", Found::Trimmed(span(50, 50))),
            ("bytes=100-", Found::Outside),
            ("bytes=100-200", Found::Outside),
            ("bytes=-0", Found::Outside),
            ("bytes=20-10", Found::Malformed),
            ("bytes=a-b", Found::Malformed),
            ("bytes=0-1,3-4", Found::Malformed),
            ("items=0-1", Found::Malformed),
        ];
        for (text, expected) in table {
            assert_eq!(parse_range(text, 100), expected, "{text}");
        }
        assert_eq!(parse_range("bytes=0-", 0), Found::Outside);
    }
}
