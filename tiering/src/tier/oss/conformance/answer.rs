//! What is compared of an answer: what a client depends on, without what differs from one run to the next.

use super::super::date;
use super::super::encode;
use super::super::xml::decode_key;
use super::exchange::{Ask, Raw};
use super::tree::Node;
use reqwest::Method;
use serde::{Deserialize, Serialize};
use std::collections::BTreeMap;

/// Headers of a success that are compared.
const HEADERS: &[&str] = &[
    "content-encoding",
    "content-length",
    "content-md5",
    "content-range",
    "content-type",
    "etag",
    "last-modified",
    "x-oss-hash-crc64ecma",
    "x-oss-meta-purpose",
    "x-oss-object-restore-priority",
    "x-oss-object-type",
    "x-oss-restore",
    "x-oss-storage-class",
    "x-oss-tagging-count",
    "x-oss-version-id",
];
/// Headers of a refusal that are compared.
const ERROR_HEADERS: &[&str] = &["content-range", "etag", "x-oss-err"];
/// Elements of documents that are compared, unless the step says otherwise: what the client reads, and what tells pages,
/// parts and classes apart.
pub(super) const LEAVES: &[&str] = &[
    "Bucket",
    "Delimiter",
    "ETag",
    "EncodingType",
    "HashCrc64ecma",
    "IsTruncated",
    "Key",
    "KeyCount",
    "LastModified",
    "MaxKeys",
    "Name",
    "NextContinuationToken",
    "PartNumber",
    "Prefix",
    "Size",
    "StorageClass",
    "Type",
    "UploadId",
    "Value",
];
/// The simulator's fine-grained code where no source gives the service's.
const UNKNOWN_EC: &str = "0016-00000000";
/// Elements that `encoding-type=url` encodes.
const ENCODED: &[&str] = &["Delimiter", "Key", "Prefix"];

/// An answer, as far as it is compared.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Answer {
    /// HTTP status.
    pub status: u16,
    /// The error's code.
    #[serde(default, skip_serializing_if = "String::is_empty")]
    pub code: String,
    /// The error's fine-grained code; where the simulator has none, it is not compared.
    #[serde(default, skip_serializing_if = "String::is_empty")]
    pub ec: String,
    /// Headers that matter.
    #[serde(default, skip_serializing_if = "BTreeMap::is_empty")]
    pub headers: BTreeMap<String, String>,
    /// An object's bytes: their number and CRC-64.
    #[serde(default, skip_serializing_if = "String::is_empty")]
    pub bytes: String,
    /// The document: the root's elements sorted, then one line for each element with children.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub document: Vec<String>,
}

/// Where two answers to one request differ.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Difference {
    /// `status`, `code`, `ec`, `bytes`, `document`, or a header's name.
    pub what: String,
    /// What the simulator answers; empty for nothing.
    pub simulator: String,
    /// What was answered; empty for nothing.
    pub store: String,
}

impl Answer {
    /// What differs between the simulator's answer (`self`) and the store's.
    pub(super) fn differences(&self, store: &Answer) -> Vec<Difference> {
        let mut pairs = vec![
            ("status".to_owned(), self.status.to_string(), store.status.to_string()),
            ("code".to_owned(), self.code.clone(), store.code.clone()),
            ("bytes".to_owned(), self.bytes.clone(), store.bytes.clone()),
            ("document".to_owned(), self.document.join("\n"), store.document.join("\n")),
        ];
        if !self.ec.is_empty() {
            pairs.push(("ec".to_owned(), self.ec.clone(), store.ec.clone()));
        }
        let header = |answer: &Answer, name: &str| answer.headers.get(name).cloned().unwrap_or_default();
        let mut names: Vec<&String> = self.headers.keys().chain(store.headers.keys()).collect();
        names.sort();
        names.dedup();
        pairs.extend(names.into_iter().map(|name| (name.clone(), header(self, name), header(store, name))));
        pairs
            .into_iter()
            .filter(|(_, simulator, store)| simulator != store)
            .map(|(what, simulator, store)| Difference { what, simulator, store })
            .collect()
    }
}

/// Replaces what belongs to one run.
#[derive(Debug)]
pub(super) struct Normaliser {
    bucket: String,
    /// Texts and their placeholders, the longest first.
    places: Vec<(String, &'static str)>,
}

impl Normaliser {
    /// For a run whose names all start with `folder`, and its keys with `prefix`, which ends with `folder`.
    pub(super) fn new(bucket: &str, prefix: &str, folder: &str) -> Self {
        let places = [prefix.to_owned(), encode::path(prefix), encode::strict(prefix), folder.to_owned()];
        let places = places.into_iter().map(|text| (text, "{prefix}")).collect();
        Self { bucket: bucket.to_owned(), places }
    }

    /// From now on `text` is shown as `place`.
    pub(super) fn hide(&mut self, text: &str, place: &'static str) {
        if !text.is_empty() {
            self.places.push((text.to_owned(), place));
            self.places.sort_by_key(|(text, _)| std::cmp::Reverse(text.len()));
        }
    }

    /// `text` with placeholders.
    pub(super) fn text(&self, text: &str) -> String {
        let mut text = text.replace(&format!("/{}/", self.bucket), "/{bucket}/");
        for (find, place) in &self.places {
            text = text.replace(find, place);
        }
        text
    }

    /// The request in one line: method, name, query, and the headers that the step sets.
    pub(super) fn request(&self, ask: &Ask) -> String {
        let call = &ask.call;
        let mut line = format!("{} {}", call.method, self.text(call.name.as_deref().unwrap_or("(bucket)")));
        for (index, (name, value)) in call.query.iter().enumerate() {
            line.push(if index == 0 { '?' } else { '&' });
            line.push_str(name);
            if !value.is_empty() {
                line.push_str(&format!("={}", self.text(value)));
            }
        }
        for (name, value) in &call.headers {
            line.push_str(&format!(" {name}:{}", self.text(value)));
        }
        line
    }

    /// What is compared of `raw`.
    pub(super) fn answer(&self, ask: &Ask, raw: &Raw) -> Answer {
        let document = raw.document();
        let error = document.as_ref().filter(|_| !raw.is_success());
        let of_error = |name: &str| error.and_then(|e| e.text_of(name)).unwrap_or_default().to_owned();
        let names = if raw.is_success() { HEADERS } else { ERROR_HEADERS };
        let ec = match of_error("EC") {
            ec if ec.is_empty() && !raw.is_success() => raw.header("x-oss-ec").to_owned(),
            ec if ec == UNKNOWN_EC => String::new(),
            ec => ec,
        };
        let is_object = raw.is_success() && matches!(ask.call.method, Method::GET | Method::HEAD);
        let is_object = is_object && (document.is_none() || raw.body.is_empty());
        let about_bytes = ["content-length", "content-type"];
        let headers = names
            .iter()
            .filter(|name| is_object || !about_bytes.contains(name))
            .filter_map(|name| Some((*name, raw.headers.get(*name)?.to_str().ok()?)))
            .map(|(name, value)| (name.to_owned(), self.header(name, value)))
            .collect();
        let lines = match (&document, raw.is_success()) {
            (Some(node), true) => self.document(node, ask.leaves.unwrap_or(LEAVES)),
            _ => Vec::new(),
        };
        let bytes = match (is_object && ask.call.method == Method::GET, raw.header("content-encoding")) {
            (false, _) => String::new(),
            (true, "") => format!("{} bytes, CRC-64 {}", raw.body.len(), crc64(&raw.body)),
            (true, _) => "encoded".to_owned(),
        };
        Answer { status: raw.status, code: of_error("Code"), ec, headers, bytes, document: lines }
    }

    fn header(&self, name: &str, value: &str) -> String {
        match name {
            "last-modified" if date::parse_http(value).is_some() => "{date}".to_owned(),
            "etag" => etag(value),
            "x-oss-err" if encode::from_base64(value).is_some_and(|d| Node::parse(&d).is_some()) => {
                "{document}".to_owned()
            }
            "x-oss-restore" => restore(value),
            "x-oss-version-id" if value != "null" => "{version}".to_owned(),
            _ => self.text(value),
        }
    }

    fn document(&self, root: &Node, leaves: &[&str]) -> Vec<String> {
        let url = root.text_of("EncodingType") == Some("url");
        let mut lines = vec![root.name.clone()];
        lines.extend(self.leaves(root, leaves, url));
        self.containers(root, leaves, url, &mut lines);
        lines
    }

    /// The leaves of one element, sorted.
    fn leaves(&self, node: &Node, leaves: &[&str], url: bool) -> Vec<String> {
        let mut lines: Vec<String> = node
            .children
            .iter()
            .filter(|child| child.children.is_empty() && leaves.contains(&child.name.as_str()))
            // An empty element and none are the same to every reader.
            .filter(|child| !child.text.is_empty())
            .map(|child| format!("{}={}", child.name, self.leaf(child, url)))
            .collect();
        lines.sort();
        lines
    }

    fn containers(&self, node: &Node, leaves: &[&str], url: bool, lines: &mut Vec<String>) {
        for child in node.children.iter().filter(|child| !child.children.is_empty()) {
            let inner = self.leaves(child, leaves, url);
            if !inner.is_empty() {
                lines.push(format!("{}: {}", child.name, inner.join(" ")));
            }
            self.containers(child, leaves, url, lines);
        }
    }

    fn leaf(&self, node: &Node, url: bool) -> String {
        let name = node.name.as_str();
        match name {
            "LastModified" | "Initiated" if date::parse_iso(&node.text).is_some() => "{date}".to_owned(),
            "NextContinuationToken" => "{token}".to_owned(),
            "ETag" => etag(&node.text),
            "Name" | "Bucket" if node.text == self.bucket => "{bucket}".to_owned(),
            _ if url && ENCODED.contains(&name) => {
                self.text(&decode_key(&node.text, "url").unwrap_or_else(|_| node.text.clone()))
            }
            _ => self.text(&node.text),
        }
    }
}

fn crc64(bytes: &[u8]) -> u64 {
    crc_fast::checksum(super::super::body::CRC64, bytes)
}

/// The ETag of an upload in parts is no digest of anything that is documented: only its form is compared.
fn etag(value: &str) -> String {
    let hex = |text: &str| text.len() == 32 && text.bytes().all(|b| b.is_ascii_digit() || (b'A'..=b'F').contains(&b));
    match value.trim_matches('"').split_once('-') {
        Some((digest, parts)) if hex(digest) => {
            value.replace(&format!("{digest}-{parts}"), &format!("{{hex}}-{parts}"))
        }
        _ => value.to_owned(),
    }
}

fn restore(value: &str) -> String {
    let Some((before, after)) = value.split_once("expiry-date=\"") else { return value.to_owned() };
    match after.split_once('"') {
        Some((expiry, rest)) if date::parse_http(expiry).is_some() => format!("{before}expiry-date=\"{{date}}\"{rest}"),
        _ => value.to_owned(),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_belongs_to_one_run_is_replaced() {
        let mut normaliser = Normaliser::new("bkt", "a b/run/", "run/");
        normaliser.hide("UPLOAD", "{upload}");
        assert_eq!(normaliser.text("/bkt/a%20b/run/x?U=UPLOAD"), "/{bucket}/{prefix}x?U={upload}");
        assert_eq!(normaliser.text("a%20b%2Frun%2Fx"), "{prefix}x");
        assert_eq!(normaliser.text("run/x"), "{prefix}x");
        assert_eq!(etag("\"ABCDEF0123456789ABCDEF0123456789-12\""), "\"{hex}-12\"");
        assert_eq!(etag("\"abcdef0123456789abcdef0123456789-12\""), "\"abcdef0123456789abcdef0123456789-12\"");
        let done = "ongoing-request=\"false\", expiry-date=\"Sun, 16 Apr 2017 08:12:33 GMT\"";
        assert_eq!(restore(done), "ongoing-request=\"false\", expiry-date=\"{date}\"");
        assert_eq!(restore("ongoing-request=\"true\""), "ongoing-request=\"true\"");
    }

    #[test]
    fn a_listing_becomes_lines_in_an_order_of_its_own_whatever_else_is_in_it() {
        let normaliser = Normaliser::new("bkt", "p/", "p/");
        let text = "<L><Delimiter/><Prefix>p%2F</Prefix><New>1</New><Name>bkt</Name><EncodingType>url</EncodingType>\
                    <Contents><Size>1</Size><Key>p%2Fa%2Bb</Key><Owner><ID>7</ID></Owner></Contents></L>";
        let node = Node::parse(text.as_bytes()).unwrap();
        let lines = normaliser.document(&node, LEAVES);
        assert_eq!(
            lines,
            ["L", "EncodingType=url", "Name={bucket}", "Prefix={prefix}", "Contents: Key={prefix}a+b Size=1"]
        );
    }

    #[test]
    fn differences_name_what_differs_and_both_sides() {
        let headers = |etag: &str| BTreeMap::from([("etag".to_owned(), etag.to_owned())]);
        let base = Answer {
            status: 200,
            code: String::new(),
            ec: String::new(),
            headers: headers("a"),
            bytes: String::new(),
            document: Vec::new(),
        };
        assert!(base.differences(&base).is_empty());
        let told = Answer { ec: "0026-1".to_owned(), ..base.clone() };
        assert!(base.differences(&told).is_empty(), "what the simulator does not know is not compared");
        assert_eq!(told.differences(&base)[0].what, "ec");
        let other = Answer { status: 501, headers: headers("b"), ..base.clone() };
        let found: Vec<String> =
            base.differences(&other).iter().map(|d| format!("{}: {} {}", d.what, d.simulator, d.store)).collect();
        assert_eq!(found, ["status: 200 501", "etag: a b"]);
    }
}
