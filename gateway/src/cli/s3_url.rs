//! `s3://bucket/key` as people write objects.

use std::str::FromStr;

/// A bucket and a key.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct S3Url {
    /// Bucket.
    pub bucket: String,
    /// Key: everything behind the slash, as it is; nothing is decoded.
    pub key: String,
}

impl FromStr for S3Url {
    type Err = String;

    fn from_str(text: &str) -> Result<Self, String> {
        text.strip_prefix("s3://")
            .and_then(|rest| rest.split_once('/'))
            .filter(|(bucket, key)| !bucket.is_empty() && !key.is_empty())
            .map(|(bucket, key)| Self { bucket: bucket.to_owned(), key: key.to_owned() })
            .ok_or_else(|| "write s3://bucket/key".to_owned())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_key_is_taken_as_it_is() {
        let url: S3Url = "s3://b/a//b%20c ?".parse().unwrap();
        assert_eq!((url.bucket.as_str(), url.key.as_str()), ("b", "a//b%20c ?"));
        for bad in ["b/k", "s3://", "s3://b", "s3://b/", "s3:///k"] {
            assert!(bad.parse::<S3Url>().is_err(), "{bad}");
        }
    }
}
