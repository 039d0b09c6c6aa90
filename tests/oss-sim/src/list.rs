//! ListObjects, ListObjectsV2, ListObjectVersions, ListBuckets. Lists seek in the ordered map: a page costs its own length,
//! whatever the bucket holds.

use crate::clock::iso;
use crate::error::OssError;
use crate::model::{Bucket, Version, parse_version_id};
use crate::request::{Reply, Req, encode};
use crate::sim::Sim;
use crate::xml::Writer;
use base64::Engine;
use std::ops::Bound;
use std::sync::atomic::{AtomicU64, Ordering};

/// Account name in Owner nodes.
const OWNER: &str = "1000000000000001";
const TOKENS: base64::engine::general_purpose::GeneralPurpose = base64::engine::general_purpose::URL_SAFE;

/// Percent-encoded when the client asked for it.
pub fn url_or_plain(url: bool, text: &str) -> String {
    if url { encode(text) } else { text.to_string() }
}

/// The common prefix that a key falls under, if any.
pub fn group_of<'a>(key: &'a str, prefix: &str, delimiter: &str) -> Option<&'a str> {
    if delimiter.is_empty() {
        return None;
    }
    let at = key.get(prefix.len()..)?.find(delimiter)?;
    key.get(..prefix.len() + at + delimiter.len())
}

/// What a page holds, in order.
#[derive(Debug)]
enum Item<'a> {
    Object(&'a str, &'a [Version]),
    Group(&'a str),
}

impl<'a> Item<'a> {
    fn name(&self) -> &'a str {
        match self {
            Item::Object(key, _) => key,
            Item::Group(group) => group,
        }
    }
}

/// A page of current objects and groups after `after`; and whether there is more. Adds to `looked` each key that it looks at.
fn page<'a>(bucket: &'a Bucket, req: &'a Req, after: &str, max: usize, looked: &AtomicU64) -> (Vec<Item<'a>>, bool) {
    let prefix = req.query.get("prefix").unwrap_or_default();
    let delimiter = req.query.get("delimiter").unwrap_or_default();
    let mut from: Bound<String> = if after >= prefix && !after.is_empty() {
        Bound::Excluded(after.into())
    } else {
        Bound::Included(prefix.into())
    };
    // A marker inside a group, or equal to it, means that the group has been listed.
    if let Some(group) = group_of(after, prefix, delimiter).filter(|_| after.starts_with(prefix)) {
        from = past(group);
    }
    let mut items = Vec::new();
    loop {
        let next = bucket.objects.range::<String, _>((from.clone(), Bound::Unbounded)).find(|(_, v)| {
            looked.fetch_add(1, Ordering::Relaxed);
            is_current(v)
        });
        let Some((key, versions)) = next.filter(|(k, _)| k.starts_with(prefix)) else { return (items, false) };
        if items.len() == max {
            return (items, true);
        }
        match group_of(key, prefix, delimiter) {
            Some(group) => {
                items.push(Item::Group(group));
                from = past(group);
            }
            None => {
                items.push(Item::Object(key, versions));
                from = Bound::Excluded(key.clone());
            }
        }
    }
}

fn is_current(versions: &[Version]) -> bool {
    versions.last().is_some_and(|v| !v.delete_marker)
}

/// Behind every key that starts with `group`: its last character is raised.
fn past(group: &str) -> Bound<String> {
    let mut text = group.to_string();
    while let Some(last) = text.pop() {
        let next = (last as u32 + 1..=char::MAX as u32).find_map(char::from_u32);
        if let Some(next) = next {
            text.push(next);
            return Bound::Included(text);
        }
    }
    Bound::Excluded(group.to_string())
}

fn owner(out: &mut Writer) {
    out.open("Owner");
    out.text("ID", OWNER);
    out.text("DisplayName", OWNER);
    out.close();
}

fn describe(out: &mut Writer, key: &str, version: &Version, now: u64) {
    out.text("Key", key);
    if version.transition > 0 {
        out.text("TransitionTime", &iso(version.transition));
    }
    out.text("LastModified", &iso(version.modified));
    out.text("ETag", &format!("\"{}\"", version.etag));
    out.text("Type", version.kind.name());
    out.text("Size", &version.size.to_string());
    out.text("StorageClass", version.class.name());
    if let Some(text) = version.restore.as_ref().and_then(|r| r.header(now)) {
        out.text("RestoreInfo", &text);
    }
}

fn contents(out: &mut Writer, items: &[Item<'_>], url: bool, with_owner: bool, now: u64) {
    for item in items {
        if let Item::Object(key, versions) = item
            && let Some(version) = versions.last()
        {
            out.open("Contents");
            describe(out, &url_or_plain(url, key), version, now);
            if with_owner {
                owner(out);
            }
            out.close();
        }
    }
    for item in items {
        if let Item::Group(group) = item {
            out.open("CommonPrefixes");
            out.text("Prefix", &url_or_plain(url, group));
            out.close();
        }
    }
}

fn encoding(req: &Req) -> Result<bool, OssError> {
    match req.query.get("encoding-type") {
        None | Some("") => Ok(false),
        Some("url") => Ok(true),
        Some(other) => {
            Err(OssError::invalid_argument("Invalid Encoding Method specified in Request.", "encoding-type", other))
        }
    }
}

/// ListObjectsV2.
///
/// # Errors
/// 404 NoSuchBucket, 400 for the parameters.
pub fn list_v2(sim: &Sim, req: &Req) -> Result<Reply, OssError> {
    let max = req.query.number("max-keys", 100, (1, 1000))?;
    let url = encoding(req)?;
    let get = |name: &str| req.query.get(name).unwrap_or_default();
    let token = get("continuation-token");
    let bad_token = || OssError::invalid_argument("The continuation token is not valid.", "continuation-token", token);
    let after = if token.is_empty() {
        get("start-after").to_string()
    } else {
        String::from_utf8(TOKENS.decode(token).map_err(|_| bad_token())?).map_err(|_| bad_token())?
    };
    let store = sim.store();
    let bucket = store.bucket(req.bucket()?)?;
    let (items, truncated) = page(bucket, req, &after, max, &sim.looked);
    let mut out = Writer::new("ListBucketResult");
    out.text("Name", req.bucket()?);
    out.text("Prefix", &url_or_plain(url, get("prefix")));
    if req.query.has("start-after") {
        out.text("StartAfter", &url_or_plain(url, get("start-after")));
    }
    out.text("MaxKeys", &max.to_string());
    out.text("Delimiter", &url_or_plain(url, get("delimiter")));
    if url {
        out.text("EncodingType", "url");
    }
    out.text("IsTruncated", if truncated { "true" } else { "false" });
    if !token.is_empty() {
        out.text("ContinuationToken", token);
    }
    if truncated {
        out.text("NextContinuationToken", &TOKENS.encode(items.last().map_or("", |i| i.name())));
    }
    out.text("KeyCount", &items.len().to_string());
    contents(&mut out, &items, url, get("fetch-owner") == "true", req.now);
    Ok(Reply::xml(out.finish()))
}

/// ListObjects (version 1).
///
/// # Errors
/// 404 NoSuchBucket, 400 for the parameters.
pub fn list_v1(sim: &Sim, req: &Req) -> Result<Reply, OssError> {
    let max = req.query.number("max-keys", 100, (1, 1000))?;
    let url = encoding(req)?;
    let get = |name: &str| req.query.get(name).unwrap_or_default();
    let store = sim.store();
    let (items, truncated) = page(store.bucket(req.bucket()?)?, req, get("marker"), max, &sim.looked);
    let mut out = Writer::new("ListBucketResult");
    out.text("Name", req.bucket()?);
    out.text("Prefix", &url_or_plain(url, get("prefix")));
    out.text("Marker", &url_or_plain(url, get("marker")));
    out.text("MaxKeys", &max.to_string());
    out.text("Delimiter", &url_or_plain(url, get("delimiter")));
    if url {
        out.text("EncodingType", "url");
    }
    out.text("IsTruncated", if truncated { "true" } else { "false" });
    if truncated {
        out.text("NextMarker", &url_or_plain(url, items.last().map_or("", |i| i.name())));
    }
    contents(&mut out, &items, url, true, req.now);
    Ok(Reply::xml(out.finish()))
}

/// ListObjectVersions: newest first within a key.
///
/// # Errors
/// 404 NoSuchBucket, 400 for the parameters.
pub fn list_versions(sim: &Sim, req: &Req) -> Result<Reply, OssError> {
    let max = req.query.number("max-keys", 100, (1, 1000))?;
    let url = encoding(req)?;
    let get = |name: &str| req.query.get(name).unwrap_or_default();
    let (prefix, delimiter, key_marker) = (get("prefix"), get("delimiter"), get("key-marker"));
    let id_marker = parse_version_id(get("version-id-marker"));
    let store = sim.store();
    let bucket = store.bucket(req.bucket()?)?;
    let start = if key_marker > prefix { key_marker } else { prefix };
    let (mut rows, mut groups, mut truncated) = (Vec::new(), Vec::new(), false);
    let keys = bucket.objects.range::<str, _>((Bound::Included(start), Bound::Unbounded));
    'keys: for (key, versions) in keys.take_while(|(k, _)| k.starts_with(prefix)) {
        let group = group_of(key, prefix, delimiter);
        if group.is_some_and(|g| groups.last() == Some(&g) || g <= key_marker) {
            continue;
        }
        let mut passed = key != key_marker;
        for (i, version) in versions.iter().enumerate().rev() {
            if !passed {
                // Within the marker's key, what comes after the marked version; all of it is passed without one.
                passed = id_marker == Some(version.id);
                continue;
            }
            if rows.len() + groups.len() == max {
                truncated = true;
                break 'keys;
            }
            match group {
                Some(group) => {
                    groups.push(group);
                    break;
                }
                None => rows.push((key, version, i + 1 == versions.len())),
            }
        }
    }
    let mut out = Writer::new("ListVersionsResult");
    out.text("Name", req.bucket()?);
    out.text("Prefix", &url_or_plain(url, prefix));
    out.text("KeyMarker", &url_or_plain(url, key_marker));
    out.text("VersionIdMarker", get("version-id-marker"));
    out.text("MaxKeys", &max.to_string());
    out.text("Delimiter", &url_or_plain(url, delimiter));
    if url {
        out.text("EncodingType", "url");
    }
    out.text("IsTruncated", if truncated { "true" } else { "false" });
    if truncated {
        let last = rows.last().map(|(k, v, _)| (k.as_str(), v.version_id()));
        let group = groups.last().map(|g| (*g, String::new()));
        let (key, id) = last.into_iter().chain(group).max_by(|a, b| a.0.cmp(b.0)).unwrap_or_default();
        out.text("NextKeyMarker", &url_or_plain(url, key));
        out.text("NextVersionIdMarker", &id);
    }
    for (key, version, latest) in rows {
        describe_version(&mut out, &url_or_plain(url, key), version, (latest, req.now));
    }
    for group in groups {
        out.open("CommonPrefixes");
        out.text("Prefix", &url_or_plain(url, group));
        out.close();
    }
    Ok(Reply::xml(out.finish()))
}

fn describe_version(out: &mut Writer, key: &str, version: &Version, (latest, now): (bool, u64)) {
    out.open(if version.delete_marker { "DeleteMarker" } else { "Version" });
    out.text("VersionId", &version.version_id());
    out.text("IsLatest", if latest { "true" } else { "false" });
    if version.delete_marker {
        out.text("Key", key);
        out.text("LastModified", &iso(version.modified));
    } else {
        describe(out, key, version, now);
    }
    owner(out);
    out.close();
}

/// ListBuckets.
///
/// # Errors
/// None.
pub fn list_buckets(sim: &Sim, req: &Req) -> Result<Reply, OssError> {
    let prefix = req.query.get("prefix").unwrap_or_default();
    let store = sim.store();
    let mut out = Writer::new("ListAllMyBucketsResult");
    owner(&mut out);
    out.open("Buckets");
    for (name, bucket) in store.buckets.iter().filter(|(name, _)| name.starts_with(prefix)) {
        out.open("Bucket");
        out.text("CreationDate", &iso(bucket.meta.created));
        out.text("ExtranetEndpoint", &format!("oss-{}.aliyuncs.com", sim.region));
        out.text("IntranetEndpoint", &format!("oss-{}-internal.aliyuncs.com", sim.region));
        out.text("Location", &format!("oss-{}", sim.region));
        out.text("Name", name);
        out.text("Region", &sim.region);
        out.text("StorageClass", bucket.meta.class.name());
        out.close();
    }
    Ok(Reply::xml(out.finish()))
}
