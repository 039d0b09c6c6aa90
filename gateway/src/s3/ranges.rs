//! Which bytes a GET or HEAD means.

use http::StatusCode;
use s3s::{S3Result, s3_error};
use std::ops::Range;

use super::error::{custom, from_engine};
use tidegate_tiering::engine::EngineError;

/// The bytes of an answer.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Selection {
    /// The bytes.
    pub range: Range<u64>,
    /// 206 with `Content-Range`, even when the range covers everything.
    pub partial: bool,
}

impl Selection {
    /// The whole object.
    pub(crate) fn whole(size: u64) -> Self {
        Self { range: 0..size, partial: false }
    }

    /// `Content-Range` of a partial answer.
    pub(crate) fn content_range(&self, size: u64) -> Option<String> {
        self.partial.then(|| format!("bytes {}-{}/{size}", self.range.start, self.range.end.saturating_sub(1)))
    }

    /// Bytes in the answer.
    pub(crate) fn length(&self) -> u64 {
        self.range.end.saturating_sub(self.range.start)
    }
}

/// Applies a `Range` header.
///
/// # Errors
/// 416 `InvalidRange` when no byte of the object is in the range.
pub(crate) fn by_header(range: s3s::dto::Range, size: u64) -> S3Result<Selection> {
    let unsatisfiable = || from_engine(EngineError::InvalidRange { size });
    // A suffix of an empty object: there is no last byte.
    if size == 0 {
        return Err(unsatisfiable());
    }
    let range = range.check(size).map_err(|_| unsatisfiable())?;
    Ok(Selection { range, partial: true })
}

/// Applies `partNumber`; `part` is the range of that part, if it exists.
///
/// # Errors
/// 416 `InvalidPartNumber` when it does not.
pub(crate) fn by_part(part: Option<Range<u64>>) -> S3Result<Selection> {
    let range = part.ok_or_else(|| {
        custom("InvalidPartNumber", StatusCode::RANGE_NOT_SATISFIABLE, "The object has no part of this number.")
    })?;
    // Content-Range cannot express an empty range.
    let partial = !range.is_empty();
    Ok(Selection { range, partial })
}

/// The bytes that `x-amz-copy-source-range` means: `bytes=first-last`, both given and inside the source.
///
/// # Errors
/// `InvalidArgument` for another form, `InvalidRange` outside of the source.
pub(crate) fn of_copy_source(header: Option<&str>, size: u64) -> S3Result<Range<u64>> {
    let Some(text) = header else { return Ok(0..size) };
    let malformed = || {
        s3_error!(
            InvalidArgument,
            "x-amz-copy-source-range is {text}; it must be bytes=first-last, both counted from 0."
        )
    };
    let (first, last) = text.strip_prefix("bytes=").and_then(|rest| rest.split_once('-')).ok_or_else(malformed)?;
    let first: u64 = first.parse().map_err(|_| malformed())?;
    let last: u64 = last.parse().map_err(|_| malformed())?;
    if first > last {
        return Err(malformed());
    }
    if last >= size {
        return Err(s3_error!(
            InvalidRange,
            "x-amz-copy-source-range ends at byte {last}, the source has {size} bytes."
        ));
    }
    Ok(first..last.saturating_add(1))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_range_header_selects_what_rfc_9110_says() {
        let cases = [
            ("bytes=0-4", 10, Some((0..5, "bytes 0-4/10"))),
            ("bytes=0-", 10, Some((0..10, "bytes 0-9/10"))),
            ("bytes=5-100", 10, Some((5..10, "bytes 5-9/10"))),
            ("bytes=9-9", 10, Some((9..10, "bytes 9-9/10"))),
            ("bytes=-3", 10, Some((7..10, "bytes 7-9/10"))),
            ("bytes=-100", 10, Some((0..10, "bytes 0-9/10"))),
            ("bytes=10-", 10, None),
            ("bytes=-0", 10, None),
            ("bytes=0-", 0, None),
            ("bytes=-1", 0, None),
        ];
        for (header, size, expected) in cases {
            let selected = by_header(s3s::dto::Range::parse(header).unwrap(), size);
            match expected {
                Some((range, shown)) => {
                    let selected = selected.unwrap();
                    assert_eq!(selected.length(), range.end - range.start);
                    assert_eq!(selected.content_range(size).as_deref(), Some(shown), "{header}");
                    assert_eq!(selected.range, range, "{header}");
                }
                None => assert_eq!(selected.unwrap_err().code().as_str(), "InvalidRange", "{header} of {size}"),
            }
        }
    }

    #[test]
    fn a_copy_range_must_be_complete_and_inside_the_source() {
        assert_eq!(of_copy_source(None, 10).unwrap(), 0..10);
        assert_eq!(of_copy_source(Some("bytes=2-9"), 10).unwrap(), 2..10);
        for (text, code) in [
            ("bytes=2-10", "InvalidRange"),
            ("bytes=2-", "InvalidArgument"),
            ("bytes=-2", "InvalidArgument"),
            ("bytes=5-4", "InvalidArgument"),
            ("2-4", "InvalidArgument"),
        ] {
            assert_eq!(of_copy_source(Some(text), 10).unwrap_err().code().as_str(), code, "{text}");
        }
    }

    #[test]
    fn a_part_that_is_not_there_is_416() {
        assert_eq!(by_part(Some(5..9)).unwrap(), Selection { range: 5..9, partial: true });
        assert_eq!(by_part(Some(0..0)).unwrap(), Selection { range: 0..0, partial: false });
        let error = by_part(None).unwrap_err();
        assert_eq!(error.status_code().unwrap(), StatusCode::RANGE_NOT_SATISFIABLE);
    }
}
