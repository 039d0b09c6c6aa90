//! Tags: of objects and their versions, of buckets, and in `x-amz-tagging`.

use s3s::dto::*;
use s3s::{S3Request, S3Response, S3Result, s3_error};
use tidegate_tiering::engine::{ObjectAttributes, VersionRef};

use super::error::{custom, from_engine};
use super::{Gateway, stored, versions};

/// S3's limits on tags.
const MAX_OBJECT_TAGS: usize = 10;
const MAX_BUCKET_TAGS: usize = 50;
const MAX_KEY_CHARS: usize = 128;
const MAX_VALUE_CHARS: usize = 256;
/// Only the provider of a service may begin a tag's key so.
const RESERVED: &str = "aws:";

/// What S3 says to a header that is no list of tags.
const MALFORMED_HEADER: &str = "The header 'x-amz-tagging' shall be encoded as UTF-8 then URLEncoded URL query parameters \
                                without tag name duplicates.";

/// The subresource of a bucket that has its tags.
const SUBRESOURCE: &str = "tagging";

type Tags = Vec<(String, String)>;

/// Parses `x-amz-tagging`: URL query syntax.
///
/// # Errors
/// `InvalidArgument` when it is none or a key comes twice, `InvalidTag` when a tag or their number is not allowed.
pub(crate) fn of_header(header: &str) -> S3Result<Tags> {
    let mut tags = Vec::new();
    for pair in header.split('&').filter(|pair| !pair.is_empty()) {
        let (key, value) = pair.split_once('=').unwrap_or((pair, ""));
        tags.push((query_decode(key)?, query_decode(value)?));
    }
    tags.sort();
    if comes_twice(&tags) {
        return Err(s3_error!(InvalidArgument, "{MALFORMED_HEADER}"));
    }
    check_object(&tags)?;
    Ok(tags)
}

fn query_decode(text: &str) -> S3Result<String> {
    let malformed = || s3_error!(InvalidArgument, "{MALFORMED_HEADER}");
    let mut out = Vec::with_capacity(text.len());
    let mut bytes = text.bytes();
    while let Some(byte) = bytes.next() {
        match byte {
            b'+' => out.push(b' '),
            b'%' => {
                let digit = |byte: Option<u8>| byte.and_then(|b| char::from(b).to_digit(16)).ok_or_else(malformed);
                let value = digit(bytes.next())? * 16 + digit(bytes.next())?;
                out.push(u8::try_from(value).map_err(|_| malformed())?);
            }
            other => out.push(other),
        }
    }
    String::from_utf8(out).map_err(|_| malformed())
}

/// The tags of a document, in its order.
///
/// # Errors
/// `MalformedXML` for a tag without key or value.
fn of_document(tagging: Tagging) -> S3Result<Tags> {
    let tag = |tag: Tag| match (tag.key, tag.value) {
        (Some(key), Some(value)) => Ok((key, value)),
        _ => Err(s3_error!(MalformedXML, "A Tag needs a Key and a Value.")),
    };
    tagging.tag_set.into_iter().map(tag).collect()
}

fn to_document(tags: impl IntoIterator<Item = (String, String)>) -> TagSet {
    tags.into_iter().map(|(key, value)| Tag { key: Some(key), value: Some(value) }).collect()
}

/// Whether a key comes twice; `tags` are in the order of keys.
fn comes_twice(tags: &[(String, String)]) -> bool {
    tags.windows(2).any(|pair| matches!(pair, [(a, _), (b, _)] if a == b))
}

/// # Errors
/// `InvalidTag`.
fn check_object(tags: &[(String, String)]) -> S3Result<()> {
    if tags.len() > MAX_OBJECT_TAGS {
        return Err(s3_error!(InvalidTag, "Object tags cannot be greater than {MAX_OBJECT_TAGS}"));
    }
    check_each(tags, "Your TagKey cannot be prefixed with aws:")
}

/// # Errors
/// `BadRequest` for too many, `InvalidTag` for a tag that is not allowed, both as S3.
fn check_bucket(tags: &[(String, String)]) -> S3Result<()> {
    if tags.len() > MAX_BUCKET_TAGS {
        return Err(custom("BadRequest", http::StatusCode::BAD_REQUEST, "Bucket tag count cannot be greater than 50"));
    }
    check_each(tags, "System tags cannot be added/updated by requester")
}

fn check_each(tags: &[(String, String)], reserved: &str) -> S3Result<()> {
    let mut sorted = tags.to_vec();
    sorted.sort();
    if comes_twice(&sorted) {
        return Err(s3_error!(InvalidTag, "Cannot provide multiple Tags with the same key"));
    }
    for (key, value) in tags {
        if key.starts_with(RESERVED) {
            return Err(s3_error!(InvalidTag, "{reserved}"));
        }
        if key.is_empty() || key.chars().count() > MAX_KEY_CHARS || !key.chars().all(is_allowed) {
            return Err(s3_error!(InvalidTag, "The TagKey you have provided is invalid"));
        }
        if value.chars().count() > MAX_VALUE_CHARS || !value.chars().all(is_allowed) {
            return Err(s3_error!(InvalidTag, "The TagValue you have provided is invalid"));
        }
    }
    Ok(())
}

/// S3 takes letters, digits and spaces of any script, and some signs.
fn is_allowed(c: char) -> bool {
    c.is_alphanumeric() || (c.is_whitespace() && !c.is_control()) || "_.:/=+-@".contains(c)
}

pub(super) async fn put_object(
    gateway: &Gateway,
    request: S3Request<PutObjectTaggingInput>,
) -> S3Result<S3Response<PutObjectTaggingOutput>> {
    let input = request.input;
    let version = versions::named(input.version_id.as_deref())?;
    let mut tags = of_document(input.tagging)?;
    check_object(&tags)?;
    tags.sort();
    let version_id = retag(gateway, (&input.bucket, &input.key), version, tags).await?;
    Ok(S3Response::new(PutObjectTaggingOutput { version_id }))
}

pub(super) async fn delete_object(
    gateway: &Gateway,
    request: S3Request<DeleteObjectTaggingInput>,
) -> S3Result<S3Response<DeleteObjectTaggingOutput>> {
    let input = request.input;
    let version = versions::named(input.version_id.as_deref())?;
    let version_id = retag(gateway, (&input.bucket, &input.key), version, Vec::new()).await?;
    Ok(S3Response::new(DeleteObjectTaggingOutput { version_id }))
}

/// Gives a version other tags; its id as S3 shows it.
async fn retag(
    gateway: &Gateway,
    (bucket, key): (&str, &str),
    version: VersionRef,
    tags: Tags,
) -> S3Result<Option<String>> {
    let set = |attributes: &mut ObjectAttributes| {
        attributes.tags.clone_from(&tags);
        Ok(())
    };
    let info = gateway.engine.update_attributes(bucket, key, version, set).await.map_err(from_engine)?;
    Ok(versions::of_object(&info))
}

pub(super) async fn get_object(
    gateway: &Gateway,
    request: S3Request<GetObjectTaggingInput>,
) -> S3Result<S3Response<GetObjectTaggingOutput>> {
    let input = request.input;
    let version = versions::named(input.version_id.as_deref())?;
    let object = gateway.engine.open_version(&input.bucket, &input.key, version).map_err(from_engine)?;
    let info = object.info();
    Ok(S3Response::new(GetObjectTaggingOutput {
        tag_set: to_document(info.attributes.tags.iter().cloned()),
        version_id: versions::of_object(info),
    }))
}

pub(super) async fn put_bucket(
    gateway: &Gateway,
    request: S3Request<PutBucketTaggingInput>,
) -> S3Result<S3Response<PutBucketTaggingOutput>> {
    let input = request.input;
    let tags = of_document(input.tagging)?;
    check_bucket(&tags)?;
    let document = (!tags.is_empty()).then(|| Tagging { tag_set: to_document(tags) });
    stored::put(gateway, &input.bucket, SUBRESOURCE, document.as_ref()).await?;
    // 200 as in the operation's description. The example beside it has 204, which minio-js takes for an error.
    Ok(S3Response::new(PutBucketTaggingOutput {}))
}

pub(super) async fn get_bucket(
    gateway: &Gateway,
    request: S3Request<GetBucketTaggingInput>,
) -> S3Result<S3Response<GetBucketTaggingOutput>> {
    match stored::get::<Tagging>(gateway, &request.input.bucket, SUBRESOURCE)? {
        Some(tagging) => Ok(S3Response::new(GetBucketTaggingOutput { tag_set: tagging.tag_set })),
        None => Err(s3_error!(NoSuchTagSet, "The TagSet does not exist")),
    }
}

pub(super) async fn delete_bucket(
    gateway: &Gateway,
    request: S3Request<DeleteBucketTaggingInput>,
) -> S3Result<S3Response<DeleteBucketTaggingOutput>> {
    stored::put(gateway, &request.input.bucket, SUBRESOURCE, None::<&Tagging>).await?;
    Ok(S3Response::new(DeleteBucketTaggingOutput {}))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn pair(key: &str, value: &str) -> (String, String) {
        (key.to_owned(), value.to_owned())
    }

    #[test]
    fn tags_of_a_header_are_decoded_and_checked() {
        assert_eq!(of_header("b=2&a=x%20y+z").unwrap(), [pair("a", "x y z"), pair("b", "2")]);
        assert_eq!(of_header("%E6%BD%AE=&k").unwrap(), [pair("k", ""), pair("潮", "")]);
        let eleven: Vec<_> = (0..11).map(|n| format!("k{n}=v")).collect();
        let cases = [
            ("=v", "InvalidTag"),
            ("a=1&a=2", "InvalidArgument"),
            ("a=%zz", "InvalidArgument"),
            ("a=%ff", "InvalidArgument"),
            (&eleven.join("&"), "InvalidTag"),
            (&format!("k={}", "x".repeat(257)), "InvalidTag"),
            (&format!("{}=v", "x".repeat(129)), "InvalidTag"),
            ("aws:x=1", "InvalidTag"),
            ("a%21=1", "InvalidTag"),
            ("a=%0A", "InvalidTag"),
        ];
        for (bad, code) in cases {
            assert_eq!(of_header(bad).unwrap_err().code().as_str(), code, "{bad}");
        }
    }

    #[test]
    fn a_bucket_may_have_more_tags_than_an_object() {
        let tags: Vec<_> = (0..50).map(|n| pair(&format!("k{n}"), "a b_.:/=+-@")).collect();
        check_bucket(&tags).unwrap();
        assert_eq!(check_object(&tags).unwrap_err().code().as_str(), "InvalidTag");
        let mut more = tags.clone();
        more.push(pair("k50", ""));
        assert_eq!(check_bucket(&more).unwrap_err().code().as_str(), "BadRequest");
        let apart = [pair("k", "1"), pair("a", "1"), pair("k", "2")];
        assert_eq!(check_bucket(&apart).unwrap_err().code().as_str(), "InvalidTag");
        assert_eq!(check_bucket(&[pair("aws:k", "")]).unwrap_err().code().as_str(), "InvalidTag");
    }
}
