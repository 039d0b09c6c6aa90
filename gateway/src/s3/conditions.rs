//! Conditional requests, with S3's precedence (RFC 9110, 13.2.2).

use s3s::dto::{ETag, ETagCondition, Timestamp, TimestampFormat};
use s3s::{S3Error, S3Result, s3_error};
use tidegate_tiering::engine::{ObjectInfo, WriteCondition};

/// The conditions of a read, or of a copy's source.
#[derive(Default)]
pub(crate) struct Conditions<'a> {
    pub if_match: Option<&'a ETagCondition>,
    pub if_none_match: Option<&'a ETagCondition>,
    pub if_modified_since: Option<&'a Timestamp>,
    pub if_unmodified_since: Option<&'a Timestamp>,
}

/// The conditions of a read, out of the input's fields. A macro, because the inputs share no trait.
macro_rules! of_read {
    ($input:expr) => {
        $crate::s3::conditions::Conditions {
            if_match: $input.if_match.as_ref(),
            if_none_match: $input.if_none_match.as_ref(),
            if_modified_since: $input.if_modified_since.as_ref(),
            if_unmodified_since: $input.if_unmodified_since.as_ref(),
        }
    };
}
pub(crate) use of_read;

/// The conditions on a copy's source, out of the input's fields.
macro_rules! of_source {
    ($input:expr) => {
        $crate::s3::conditions::Conditions {
            if_match: $input.copy_source_if_match.as_ref(),
            if_none_match: $input.copy_source_if_none_match.as_ref(),
            if_modified_since: $input.copy_source_if_modified_since.as_ref(),
            if_unmodified_since: $input.copy_source_if_unmodified_since.as_ref(),
        }
    };
}
pub(crate) use of_source;

/// What conditions say.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Verdict {
    Proceed,
    NotModified,
    Failed(&'static str),
}

impl Conditions<'_> {
    /// Judges an object with this ETag (without quotes) and time of last modification (Unix seconds; HTTP dates have
    /// no fractions).
    pub(crate) fn judge(&self, etag: &str, modified: u64) -> Verdict {
        match (self.if_match, self.if_unmodified_since) {
            (Some(condition), _) if !matches(condition, etag) => return Verdict::Failed("If-Match"),
            // If-Match that holds makes If-Unmodified-Since void.
            (None, Some(since)) if modified_after(modified, since) => return Verdict::Failed("If-Unmodified-Since"),
            _ => {}
        }
        match (self.if_none_match, self.if_modified_since) {
            (Some(condition), _) if matches(condition, etag) => Verdict::NotModified,
            // If-None-Match, whatever it says, makes If-Modified-Since void.
            (None, Some(since)) if !modified_after(modified, since) => Verdict::NotModified,
            _ => Verdict::Proceed,
        }
    }

    /// For the source of a copy, where nothing is "not modified": the copy is refused.
    pub(crate) fn require(&self, info: &ObjectInfo) -> S3Result<()> {
        match self.judge(&info.etag, info.last_modified.seconds()) {
            Verdict::Proceed => Ok(()),
            Verdict::NotModified => Err(failed("x-amz-copy-source-if-none-match or -if-modified-since")),
            Verdict::Failed(which) => Err(failed(which)),
        }
    }
}

/// The error of a condition that does not hold.
pub(crate) fn failed(which: &str) -> S3Error {
    s3_error!(PreconditionFailed, "The precondition {which} does not hold.")
}

fn modified_after(modified: u64, since: &Timestamp) -> bool {
    let since = time::OffsetDateTime::from(since.clone()).unix_timestamp();
    i64::try_from(modified).is_ok_and(|modified| modified > since)
}

/// Whether a `Range` may be applied to an object with this ETag and time of last modification: without `If-Range`, or when
/// it names exactly this object (RFC 9110, 13.1.5). Otherwise the client holds bytes of another version, and a part of
/// this one would be joined to them.
pub(crate) fn range_holds(headers: &http::HeaderMap, etag: &str, modified: u64) -> bool {
    let Some(value) = headers.get(http::header::IF_RANGE) else { return true };
    let Ok(text) = value.to_str().map(str::trim) else { return false };
    if let Some(tag) = text.strip_prefix('"') {
        return tag.strip_suffix('"') == Some(etag);
    }
    Timestamp::parse(TimestampFormat::HttpDate, text).is_ok_and(|date| {
        i64::try_from(modified).is_ok_and(|modified| time::OffsetDateTime::from(date).unix_timestamp() == modified)
    })
}

/// Whether a condition names `etag`; s3s leaves a list of several ETags in one piece.
fn matches(condition: &ETagCondition, etag: &str) -> bool {
    condition.as_etag().is_none_or(|listed| etags(listed).any(|one| one == etag))
}

/// The ETags of a list.
fn etags(listed: &ETag) -> impl Iterator<Item = &str> {
    listed.value().split(',').map(|one| one.trim().trim_start_matches("W/").trim_matches('"'))
}

/// What an `If-Match` of a write names.
enum IfMatch<'a> {
    Any,
    Etag(&'a str),
    /// No object can fit.
    Nothing,
}

impl<'a> IfMatch<'a> {
    fn of(condition: &'a ETagCondition) -> Self {
        match condition.as_etag() {
            None => Self::Any,
            // No object has that ETag, and the engine would take it for any.
            Some(etag) => etag.as_strong().filter(|etag| *etag != "*").map_or(Self::Nothing, Self::Etag),
        }
    }
}

/// To the engine, an ETag that no object has: ETags are given without quotes there.
const NO_ETAG: &str = "\"\"";

/// The conditions of a write. `If-Match: *` asks for any object to be there; a quoted star is an ETag like any other. A weak
/// ETag matches nothing in `If-Match` (RFC 9110, 13.1.1: the comparison is strong): two that are equal may stand for other bytes.
/// In `If-None-Match` it matches (13.1.2), and several ETags may stand, separated by commas. S3 takes only the star there.
pub(crate) fn of_write(if_match: Option<&ETagCondition>, if_none_match: Option<&ETagCondition>) -> WriteCondition {
    let if_none_match = if_none_match.map_or_else(Vec::new, |condition| match condition.as_etag() {
        None => vec!["*".to_owned()],
        Some(listed) => etags(listed).map(|etag| if etag == "*" { NO_ETAG } else { etag }.to_owned()).collect(),
    });
    let if_match = if_match.map(|condition| match IfMatch::of(condition) {
        IfMatch::Any => "*".to_owned(),
        IfMatch::Etag(etag) => etag.to_owned(),
        IfMatch::Nothing => NO_ETAG.to_owned(),
    });
    WriteCondition { if_match, if_none_match }
}

/// The condition on one key of DeleteObjects: in its XML a star stands for any object.
pub(crate) fn of_delete(etag: &ETag) -> String {
    etag.as_strong().unwrap_or(NO_ETAG).to_owned()
}

#[cfg(test)]
mod tests {
    use super::*;

    fn tag(text: &str) -> ETagCondition {
        text.parse().unwrap()
    }

    fn at(seconds: i64) -> Timestamp {
        time::OffsetDateTime::from_unix_timestamp(seconds).unwrap().into()
    }

    #[test]
    fn the_verdict_follows_s3s_precedence() {
        use Verdict::{Failed, NotModified, Proceed};
        let (yes, no, any, list) = (tag("\"e\""), tag("\"x\""), tag("*"), tag("\"a\", W/\"e\""));
        let (before, same, after) = (at(99), at(100), at(101));
        // if-match, if-none-match, if-modified-since, if-unmodified-since
        let cases = [
            (None, None, None, None, Proceed),
            (Some(&yes), None, None, None, Proceed),
            (Some(&any), None, None, None, Proceed),
            (Some(&list), None, None, None, Proceed),
            (Some(&no), None, None, None, Failed("If-Match")),
            (None, Some(&yes), None, None, NotModified),
            (None, Some(&any), None, None, NotModified),
            (None, Some(&list), None, None, NotModified),
            (None, Some(&no), None, None, Proceed),
            (None, None, Some(&before), None, Proceed),
            (None, None, Some(&same), None, NotModified),
            (None, None, Some(&after), None, NotModified),
            (None, None, None, Some(&before), Failed("If-Unmodified-Since")),
            (None, None, None, Some(&same), Proceed),
            // S3: If-Match true and If-Unmodified-Since false is 200
            (Some(&yes), None, None, Some(&before), Proceed),
            // S3: If-None-Match false and If-Modified-Since true is 304
            (None, Some(&yes), Some(&before), None, NotModified),
            (None, Some(&no), Some(&after), None, Proceed),
            (Some(&no), Some(&yes), None, None, Failed("If-Match")),
        ];
        for (n, (if_match, if_none_match, if_modified_since, if_unmodified_since, verdict)) in
            cases.into_iter().enumerate()
        {
            let conditions = Conditions { if_match, if_none_match, if_modified_since, if_unmodified_since };
            assert_eq!(conditions.judge("e", 100), verdict, "case {n}");
        }
    }

    #[test]
    fn a_range_is_applied_only_to_the_version_that_if_range_names() {
        let cases = [
            (None, true),
            (Some("\"e\""), true),
            (Some("\"x\""), false),
            (Some("W/\"e\""), false),
            (Some("e"), false),
            (Some("Thu, 01 Jan 1970 00:01:40 GMT"), true),
            (Some("Thu, 01 Jan 1970 00:01:41 GMT"), false),
            (Some("Thu, 01 Jan 1970 00:01:39 GMT"), false),
        ];
        for (value, holds) in cases {
            let mut headers = http::HeaderMap::new();
            if let Some(value) = value {
                headers.insert(http::header::IF_RANGE, value.parse().unwrap());
            }
            assert_eq!(range_holds(&headers, "e", 100), holds, "{value:?}");
        }
    }

    #[test]
    fn a_write_takes_an_etag_or_a_star_where_s3_does() {
        assert_eq!(of_write(None, None), WriteCondition::default());
        assert_eq!(of_write(Some(&tag("\"e\"")), None).if_match.as_deref(), Some("e"));
        assert_eq!(of_write(Some(&tag("*")), None).if_match.as_deref(), Some("*"));
        for never in ["\"*\"", "W/\"e\"", "W/\"*\""] {
            assert_eq!(of_write(Some(&tag(never)), None).if_match.as_deref(), Some(NO_ETAG), "{never}");
        }
        let unless = |text: &str| of_write(None, Some(&tag(text))).if_none_match;
        assert_eq!(unless("*"), ["*"]);
        assert_eq!(unless("\"e\""), ["e"]);
        assert_eq!(unless("W/\"e\", \"f\""), ["e", "f"]);
        assert_eq!(unless("\"*\""), [NO_ETAG]);
    }
}
