//! GetObject, HeadObject, GetObjectAttributes.

use http::{HeaderMap, HeaderValue, header};
use s3s::dto::*;
use s3s::{S3Error, S3ErrorCode, S3Request, S3Response, S3Result, s3_error};
use tidegate_tiering::engine::{Checksum as EngineChecksum, ObjectHandle, ObjectInfo, RestoreStatus as Restored};

use super::admit::Found;
use super::attributes::STANDARD;
use super::checksums::{show, type_name};
use super::conditions::{self, Conditions, Verdict, failed, of_read};
use super::encryption::{KeyFor, echo_key, key_headers};
use super::error::{from_engine, http_date};
use super::lifecycle::expiration;
use super::lock::{self, show_lock};
use super::ranges::{self, Selection};
use super::{Gateway, etag, signed, time, versions};
use crate::server::{PlainEtag, ResponseBody, ResponseStatus, S3_MAX_PARTS, Verified};

/// What GET and HEAD are asked for.
struct Wanted<'a> {
    conditions: Conditions<'a>,
    range: Option<Range>,
    part_number: Option<i32>,
    checksum_mode: bool,
}

/// [`Wanted`], out of the input's fields. A macro, because the inputs share no trait.
macro_rules! wanted {
    ($input:expr, $headers:expr, $object:expr) => {
        Wanted {
            conditions: of_read!($input),
            range: $input.range.filter(|_| range_holds($headers, $object)),
            part_number: $input.part_number,
            checksum_mode: wants_checksum($input.checksum_mode.as_ref()),
        }
    };
}

/// The `response-*` parameters of a GET or HEAD.
struct Overrides<'a> {
    values: [Option<&'a str>; 5],
    expires: bool,
}

/// [`Overrides`], out of the input's fields.
macro_rules! overrides {
    ($input:expr) => {
        Overrides {
            values: [
                $input.response_cache_control.as_deref(),
                $input.response_content_disposition.as_deref(),
                $input.response_content_encoding.as_deref(),
                $input.response_content_language.as_deref(),
                $input.response_content_type.as_deref(),
            ],
            expires: $input.response_expires.is_some(),
        }
    };
}

/// The output of a GET or HEAD: what they say about an object is the same. `response-*` parameters are obeyed here for
/// HEAD; s3s does it for GET, to the same effect.
macro_rules! described {
    ($output:ident, $input:expr, $wanted:expr, $selection:expr, $info:expr) => {{
        let headers = &$info.attributes.headers;
        let mut output = $output {
            accept_ranges: Some("bytes".into()),
            cache_control: $input.response_cache_control.clone().or_else(|| headers.cache_control.clone()),
            content_disposition: $input
                .response_content_disposition
                .clone()
                .or_else(|| headers.content_disposition.clone()),
            content_encoding: $input.response_content_encoding.clone().or_else(|| headers.content_encoding.clone()),
            content_language: $input.response_content_language.clone().or_else(|| headers.content_language.clone()),
            content_length: Some(signed($selection.length())),
            content_range: $selection.content_range($info.size),
            content_type: Some($input.response_content_type.clone().unwrap_or_else(|| content_type($info))),
            e_tag: Some(etag(&$info.etag)),
            expiration: expiration($info.expires.as_ref()),
            expires: $input.response_expires.clone(),
            last_modified: Some(time($info.last_modified)),
            metadata: metadata($info),
            parts_count: $wanted.parts_count($info),
            restore: restore($info),
            storage_class: shown_class($info),
            version_id: versions::of_object($info),
            ..Default::default()
        };
        let shown = show!(output, $wanted.checksum($info, &$selection));
        // Also beside a part's checksum it is the whole object's.
        output.checksum_type = shown.map(|own| $info.checksum.as_ref().map_or(own, |whole| type_name(whole.composite)));
        let mut response = S3Response::new(output);
        if $input.response_expires.is_none() {
            add_expires(&mut response.headers, $info);
        }
        // HeadObjectOutput has no field for it.
        add_tag_count(&mut response.headers, $info);
        response
    }};
}

/// The version that a request names, the latest when it names none: as it was looked up already, or looked up now.
fn open(
    gateway: &Gateway,
    extensions: &http::Extensions,
    (bucket, key): (&str, &str),
    version: Option<&str>,
) -> S3Result<ObjectHandle> {
    match Found::take(extensions) {
        Some(object) => Ok(object),
        None => gateway.engine.open_version(bucket, key, versions::named(version)?).map_err(from_engine),
    }
}

pub(super) async fn get(
    gateway: &Gateway,
    request: S3Request<GetObjectInput>,
) -> S3Result<S3Response<GetObjectOutput>> {
    let input = &request.input;
    check_overrides(&overrides!(input), is_anonymous(&request))?;
    let key = key_headers!(input).key(KeyFor::Reading, gateway.hides_keys(&request.extensions))?;
    let mut object = open(gateway, &request.extensions, (&input.bucket, &input.key), input.version_id.as_deref())?;
    object.unlock(key.clone()).map_err(from_engine)?;
    let wanted = wanted!(input, &request.headers, &object);
    let selection = wanted.select(&object)?;
    object.check_readable().map_err(from_engine)?;
    let mut response = described!(GetObjectOutput, input, wanted, selection, object.info());
    show_lock!(response.output, lock::shown(gateway, &request, object.info())?);
    echo_key!(response.output, &key);
    if selection.length() > 0 {
        let body = object.read(selection.range).await.map_err(from_engine)?;
        response.extensions.insert(ResponseBody::new(body));
    }
    Ok(response)
}

pub(super) async fn head(
    gateway: &Gateway,
    request: S3Request<HeadObjectInput>,
) -> S3Result<S3Response<HeadObjectOutput>> {
    let input = &request.input;
    check_overrides(&overrides!(input), is_anonymous(&request))?;
    let key = key_headers!(input).key(KeyFor::Reading, gateway.hides_keys(&request.extensions))?;
    let mut object = open(gateway, &request.extensions, (&input.bucket, &input.key), input.version_id.as_deref())?;
    object.unlock(key.clone()).map_err(from_engine)?;
    let wanted = wanted!(input, &request.headers, &object);
    let selection = wanted.select(&object)?;
    let mut response = described!(HeadObjectOutput, input, wanted, selection, object.info());
    show_lock!(response.output, lock::shown(gateway, &request, object.info())?);
    echo_key!(response.output, &key);
    if selection.partial {
        response.extensions.insert(ResponseStatus(http::StatusCode::PARTIAL_CONTENT));
    }
    Ok(response)
}

/// There are no torrents here: of no object is there one.
pub(super) async fn torrent(
    gateway: &Gateway,
    request: S3Request<GetObjectTorrentInput>,
) -> S3Result<S3Response<GetObjectTorrentOutput>> {
    open(gateway, &request.extensions, (&request.input.bucket, &request.input.key), None)?;
    Err(s3_error!(NoSuchKey, "There is no torrent of this object."))
}

/// Whether a request came without a signature.
fn is_anonymous<T>(request: &S3Request<T>) -> bool {
    request.credentials.is_none() && request.extensions.get::<Verified>().is_none()
}

/// # Errors
/// `InvalidRequest` for a value that no header can have, and for any from a client that nobody knows: as S3, which lets nobody make
/// a public object answer with headers of their own.
fn check_overrides(overrides: &Overrides<'_>, anonymous: bool) -> S3Result<()> {
    if anonymous && (overrides.expires || overrides.values.iter().any(Option::is_some)) {
        return Err(s3_error!(
            InvalidRequest,
            "Request specific response headers cannot be used for anonymous GET requests."
        ));
    }
    let is_header = |value: &&str| HeaderValue::from_str(value).is_ok();
    match overrides.values.into_iter().flatten().find(|value| !is_header(value)) {
        Some(value) => Err(s3_error!(InvalidRequest, "A response- parameter is {value:?}, which no header can have.")),
        None => Ok(()),
    }
}

impl Wanted<'_> {
    fn select(&self, object: &ObjectHandle) -> S3Result<Selection> {
        let info = object.info();
        match self.conditions.judge(&info.etag, info.last_modified.seconds()) {
            Verdict::Proceed => {}
            Verdict::NotModified => return Err(not_modified(info)),
            Verdict::Failed(which) => return Err(failed(which)),
        }
        match (self.range, self.part_number) {
            (None, None) => Ok(Selection::whole(info.size)),
            (Some(range), None) => ranges::by_header(range, info.size),
            (None, Some(number)) => {
                let number = super::multipart::part_number(number, S3_MAX_PARTS)?;
                ranges::by_part(object.part_range(number))
            }
            (Some(_), Some(_)) => {
                Err(s3_error!(InvalidRequest, "Range and partNumber cannot be given in one request."))
            }
        }
    }

    /// A checksum covers an object or a part, never a range.
    fn checksum<'i>(&self, info: &'i ObjectInfo, selection: &Selection) -> Option<&'i EngineChecksum> {
        if !self.checksum_mode || self.range.is_some() {
            return None;
        }
        let part = self
            .part_number
            .and_then(|number| info.parts.iter().find(|part| i64::from(part.number) == i64::from(number)));
        match part {
            Some(part) => part.checksum.as_ref(),
            None => info.checksum.as_ref().filter(|_| selection.length() == info.size),
        }
    }

    fn parts_count(&self, info: &ObjectInfo) -> Option<i32> {
        self.part_number?;
        i32::try_from(info.parts.len()).ok().filter(|count| *count > 0)
    }
}

fn range_holds(headers: &HeaderMap, object: &ObjectHandle) -> bool {
    let info = object.info();
    conditions::range_holds(headers, &info.etag, info.last_modified.seconds())
}

fn wants_checksum(mode: Option<&ChecksumMode>) -> bool {
    mode.is_some_and(|mode| mode.as_str() == ChecksumMode::ENABLED)
}

/// 304 with the headers that a cache needs.
fn not_modified(info: &ObjectInfo) -> S3Error {
    let mut headers = HeaderMap::with_capacity(3);
    if let Ok(value) = HeaderValue::try_from(format!("\"{}\"", info.etag)) {
        headers.insert(header::ETAG, value);
    }
    if let Some(date) = http_date(info.last_modified) {
        headers.insert(header::LAST_MODIFIED, date);
    }
    let mut error = S3Error::new(S3ErrorCode::NotModified);
    error.set_headers(headers);
    error
}

fn content_type(info: &ObjectInfo) -> String {
    info.attributes.headers.content_type.clone().unwrap_or_else(|| "binary/octet-stream".into())
}

/// `Expires` exactly as it came; s3s's own field would rewrite it.
fn add_expires(headers: &mut HeaderMap, info: &ObjectInfo) {
    let value = info.attributes.headers.expires.as_deref().and_then(|text| HeaderValue::from_str(text).ok());
    if let Some(value) = value {
        headers.insert(header::EXPIRES, value);
    }
}

fn metadata(info: &ObjectInfo) -> Option<Metadata> {
    let list = &info.attributes.user_metadata;
    (!list.is_empty()).then(|| list.iter().cloned().collect())
}

fn add_tag_count(headers: &mut HeaderMap, info: &ObjectInfo) {
    let count = info.attributes.tags.len();
    if count > 0 {
        headers.insert("x-amz-tagging-count", HeaderValue::from(count));
    }
}

fn shown_class(info: &ObjectInfo) -> Option<StorageClass> {
    (info.class_shown != STANDARD).then(|| StorageClass::from(info.class_shown.clone()))
}

fn restore(info: &ObjectInfo) -> Option<String> {
    match info.restore? {
        Restored::Ongoing => Some(r#"ongoing-request="true""#.into()),
        Restored::Done { until } => {
            let mut text = br#"ongoing-request="false", expiry-date=""#.to_vec();
            time(until).format(TimestampFormat::HttpDate, &mut text).ok()?;
            text.push(b'"');
            String::from_utf8(text).ok()
        }
    }
}

pub(super) async fn attributes(
    gateway: &Gateway,
    request: S3Request<GetObjectAttributesInput>,
) -> S3Result<S3Response<GetObjectAttributesOutput>> {
    let input = request.input;
    let key = key_headers!(input).key(KeyFor::Reading, gateway.hides_keys(&request.extensions))?;
    let mut object = open(gateway, &request.extensions, (&input.bucket, &input.key), input.version_id.as_deref())?;
    object.unlock(key).map_err(from_engine)?;
    let info = object.info();
    // Clients send the names in one header line or in several.
    let names: Vec<_> =
        input.object_attributes.iter().flat_map(|list| list.as_str().split(',')).map(str::trim).collect();
    if let Some(unknown) = names.iter().find(|name| !KNOWN_ATTRIBUTES.contains(name)) {
        return Err(s3_error!(InvalidArgument, "x-amz-object-attributes: {unknown} is unknown."));
    }
    let wants = |name: &str| names.contains(&name);
    let checksum = info.checksum.as_ref().filter(|_| wants(ObjectAttributes::CHECKSUM)).map(|checksum| {
        let mut shown = Checksum::default();
        shown.checksum_type = show!(shown, Some(checksum));
        shown
    });
    let parts = (wants(ObjectAttributes::OBJECT_PARTS) && !info.parts.is_empty())
        .then(|| object_parts(info, input.part_number_marker, input.max_parts))
        .transpose()?;
    let mut response = S3Response::new(GetObjectAttributesOutput {
        checksum,
        e_tag: wants(ObjectAttributes::ETAG).then(|| etag(&info.etag)),
        last_modified: Some(time(info.last_modified)),
        object_parts: parts,
        object_size: wants(ObjectAttributes::OBJECT_SIZE).then(|| signed(info.size)),
        storage_class: wants(ObjectAttributes::STORAGE_CLASS).then(|| StorageClass::from(info.class_shown.clone())),
        version_id: versions::of_object(info),
        ..Default::default()
    });
    response.extensions.insert(PlainEtag);
    Ok(response)
}

const KNOWN_ATTRIBUTES: [&str; 5] = [
    ObjectAttributes::CHECKSUM,
    ObjectAttributes::ETAG,
    ObjectAttributes::OBJECT_PARTS,
    ObjectAttributes::OBJECT_SIZE,
    ObjectAttributes::STORAGE_CLASS,
];

/// S3 lists the parts themselves only for objects with checksums of parts.
fn object_parts(info: &ObjectInfo, marker: Option<i32>, max: Option<i32>) -> S3Result<GetObjectAttributesParts> {
    let max = super::listing::page_size(max, "x-amz-max-parts")?;
    let after = marker.unwrap_or(0);
    let total = i32::try_from(info.parts.len()).ok();
    if info.parts.iter().all(|part| part.checksum.is_none()) {
        return Ok(GetObjectAttributesParts { total_parts_count: total, ..Default::default() });
    }
    let mut parts: Vec<ObjectPart> = info
        .parts
        .iter()
        .filter(|part| i64::from(part.number) > i64::from(after))
        .map(|part| {
            let mut shown = ObjectPart {
                part_number: i32::try_from(part.number).ok(),
                size: Some(signed(part.size)),
                ..Default::default()
            };
            show!(shown, part.checksum.as_ref());
            shown
        })
        .collect();
    let limit = usize::try_from(max).unwrap_or(0);
    let more = parts.len() > limit;
    parts.truncate(limit);
    Ok(GetObjectAttributesParts {
        is_truncated: Some(more),
        max_parts: Some(max),
        next_part_number_marker: Some(parts.last().and_then(|part| part.part_number).unwrap_or(after)),
        part_number_marker: Some(after),
        parts: Some(parts),
        total_parts_count: total,
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn response_overrides_are_for_signed_requests_and_must_be_headers() {
        let none = || Overrides { values: [None; 5], expires: false };
        let one = |value| Overrides { values: [None, Some(value), None, None, None], expires: false };
        for (overrides, anonymous, allowed) in [
            (none(), true, true),
            (one("inline"), false, true),
            (one("inline"), true, false),
            (Overrides { expires: true, ..none() }, true, false),
            (Overrides { expires: true, ..none() }, false, true),
            (one("a\nb"), false, false),
        ] {
            assert_eq!(check_overrides(&overrides, anonymous).is_ok(), allowed);
        }
    }
}
