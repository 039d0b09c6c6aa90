//! What describes an object besides its bytes: metadata, tags, class; checked here, kept by the engine as it came.

use http::{HeaderMap, header};
use s3s::dto::{Metadata, StorageClass};
use s3s::{S3Result, s3_error};
use tidegate_tiering::engine::{ContentHeaders, ObjectAttributes};

use super::tagging;

/// S3's limit on user metadata: names and values together, in UTF-8 bytes.
const MAX_USER_METADATA_BYTES: usize = 2048;

/// The class that S3 does not show.
pub(crate) const STANDARD: &str = "STANDARD";

/// What `headers` say about the object, with what s3s has read of them already: user metadata, `x-amz-tagging`,
/// `x-amz-storage-class`. Content headers are taken from `headers`, exactly as they came. `classes` are those that the
/// engine maps to tiers.
///
/// # Errors
/// `MetadataTooLarge`, `InvalidTag`, `InvalidArgument` for tags that are none, `InvalidStorageClass`.
pub(crate) fn described(
    headers: &HeaderMap,
    metadata: Option<Metadata>,
    tags: Option<&str>,
    class: Option<&StorageClass>,
    classes: &[String],
) -> S3Result<ObjectAttributes> {
    Ok(ObjectAttributes {
        headers: content_headers(headers),
        user_metadata: user_metadata(metadata, headers)?,
        tags: tags.map(tagging::of_header).transpose()?.unwrap_or_default(),
        storage_class: storage_class(class, classes)?,
        ..ObjectAttributes::default()
    })
}

/// [`described`] of an input that begins an object, by a PUT or by an upload. A macro, because the inputs share no trait.
macro_rules! describe {
    ($input:expr, $headers:expr, $classes:expr, $of_new:expr) => {
        $crate::s3::attributes::described(
            $headers,
            $input.metadata,
            $input.tagging.as_deref(),
            $input.storage_class.as_ref(),
            $classes,
        )
        .map(|attributes| $of_new.put_into(attributes))
    };
}
pub(crate) use describe;

fn content_headers(headers: &HeaderMap) -> ContentHeaders {
    let text = |name: header::HeaderName| {
        // White space around a value is not part of it; the tab is ours (`server::form::hide_type`).
        let value = std::str::from_utf8(headers.get(name)?.as_bytes()).ok()?.trim_matches([' ', '\t']);
        (!value.is_empty()).then(|| value.to_owned())
    };
    ContentHeaders {
        content_type: text(header::CONTENT_TYPE),
        cache_control: text(header::CACHE_CONTROL),
        content_disposition: text(header::CONTENT_DISPOSITION),
        content_encoding: text(header::CONTENT_ENCODING).and_then(|value| without_aws_chunked(&value)),
        content_language: text(header::CONTENT_LANGUAGE),
        expires: text(header::EXPIRES),
    }
}

/// `aws-chunked` is how the request travels, not how the object is encoded.
fn without_aws_chunked(value: &str) -> Option<String> {
    let is_transport = |coding: &str| coding.trim().eq_ignore_ascii_case("aws-chunked");
    if !value.split(',').any(is_transport) {
        return Some(value.to_owned());
    }
    let kept: Vec<_> = value.split(',').map(str::trim).filter(|coding| !is_transport(coding)).collect();
    (!kept.is_empty()).then(|| kept.join(","))
}

fn user_metadata(metadata: Option<Metadata>, headers: &HeaderMap) -> S3Result<Vec<(String, String)>> {
    let mut list: Vec<_> = metadata.unwrap_or_default().into_iter().collect();
    for (name, value) in &mut list {
        // s3s leaves out what stands between encoded words of RFC 2047; such a value is none that was encoded.
        let sent = headers.get(format!("x-amz-meta-{name}")).and_then(|sent| std::str::from_utf8(sent.as_bytes()).ok());
        if let Some(sent) = sent.filter(|sent| has_words_and_more(sent)) {
            sent.trim().clone_into(value);
        }
    }
    let bytes: usize = list.iter().map(|(name, value)| name.len() + value.len()).sum();
    if bytes > MAX_USER_METADATA_BYTES {
        return Err(s3_error!(
            MetadataTooLarge,
            "The user metadata has {bytes} bytes, names and values together; {MAX_USER_METADATA_BYTES} are allowed."
        ));
    }
    list.sort();
    Ok(list)
}

fn has_words_and_more(value: &str) -> bool {
    let is_word = |part: &str| part.starts_with("=?") && part.ends_with("?=");
    is_word(value.trim()) && value.split_whitespace().any(is_word) && !value.split_whitespace().all(is_word)
}

/// Checks `x-amz-storage-class`.
///
/// # Errors
/// `InvalidStorageClass` when no tier is mapped to it.
pub(crate) fn storage_class(class: Option<&StorageClass>, classes: &[String]) -> S3Result<Option<String>> {
    let Some(class) = class.map(StorageClass::as_str) else { return Ok(None) };
    if class == STANDARD || classes.iter().any(|known| known == class) {
        return Ok(Some(class.to_owned()));
    }
    Err(s3_error!(
        InvalidStorageClass,
        "The storage class {class} is mapped to no tier here; mapped are: {}.",
        classes.join(", ")
    ))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn content_headers_are_kept_as_they_came_but_for_aws_chunked() {
        let cases = [
            ("gzip", Some("gzip")),
            ("aws-chunked", None),
            ("aws-chunked,gzip", Some("gzip")),
            ("gzip, AWS-chunked, br", Some("gzip,br")),
            ("gzip,  br", Some("gzip,  br")),
        ];
        for (sent, kept) in cases {
            let mut headers = HeaderMap::new();
            headers.insert(header::CONTENT_ENCODING, sent.parse().unwrap());
            headers.insert(header::CONTENT_TYPE, "text/x;  odd=1".parse().unwrap());
            let collected = content_headers(&headers);
            assert_eq!(collected.content_encoding.as_deref(), kept, "{sent}");
            assert_eq!(collected.content_type.as_deref(), Some("text/x;  odd=1"));
        }
    }

    #[test]
    fn user_metadata_is_sorted_and_limited_to_2_kib() {
        let map = |value: usize| Some(Metadata::from([("b".into(), "x".repeat(value)), ("a".into(), String::new())]));
        let list = user_metadata(map(2046), &HeaderMap::new()).unwrap();
        assert_eq!(list[0].0, "a");
        let too_large = user_metadata(map(2047), &HeaderMap::new()).unwrap_err();
        assert_eq!(too_large.code().as_str(), "MetadataTooLarge");
    }

    #[test]
    fn user_metadata_loses_nothing_between_encoded_words() {
        let cases = [
            ("=?UTF-8?Q?a?= plain =?UTF-8?Q?b?=", "=?UTF-8?Q?a?= plain =?UTF-8?Q?b?="),
            ("=?UTF-8?Q?a?= =?UTF-8?Q?b?=", "decoded"),
            ("=?UTF-8?Q?a?=", "decoded"),
            ("plain", "decoded"),
        ];
        for (sent, kept) in cases {
            let mut headers = HeaderMap::new();
            headers.insert("x-amz-meta-k", sent.parse().unwrap());
            let decoded = Metadata::from([("k".into(), "decoded".into())]);
            assert_eq!(user_metadata(Some(decoded), &headers).unwrap()[0].1, kept, "{sent}");
        }
    }

    #[test]
    fn a_class_without_a_tier_is_refused() {
        let known = vec!["GLACIER".to_owned()];
        let class = |name: &'static str| StorageClass::from_static(name);
        assert_eq!(storage_class(None, &known).unwrap(), None);
        assert_eq!(storage_class(Some(&class("STANDARD")), &known).unwrap().as_deref(), Some("STANDARD"));
        assert_eq!(storage_class(Some(&class("GLACIER")), &known).unwrap().as_deref(), Some("GLACIER"));
        let error = storage_class(Some(&class("ONEZONE_IA")), &known).unwrap_err();
        assert_eq!(error.code().as_str(), "InvalidStorageClass");
        assert!(error.message().unwrap().contains("GLACIER"));
    }
}
