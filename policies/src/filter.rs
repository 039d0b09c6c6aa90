//! Which objects a rule is about.

use crate::ObjectFacts;
use globset::{Candidate, GlobBuilder, GlobMatcher};

/// A pattern compiled once, when the policy is read.
#[derive(Debug, Clone)]
pub(crate) struct Pattern {
    pub text: String,
    matcher: GlobMatcher,
    /// No wildcard in it: it matches only itself.
    pub literal: bool,
}

impl Pattern {
    /// A pattern over keys: `*` and `?` stop at `/`, `**` does not; case matters.
    pub fn for_keys(text: &str) -> Result<Self, globset::Error> {
        Self::build(text, GlobBuilder::new(text).literal_separator(true).backslash_escape(true))
    }

    /// A pattern over media types: case does not matter, `*` matches everything, so that `*` alone means any type.
    pub fn for_content_types(text: &str) -> Result<Self, globset::Error> {
        Self::build(text, GlobBuilder::new(text).literal_separator(false).case_insensitive(true).backslash_escape(true))
    }

    fn build(text: &str, builder: &GlobBuilder<'_>) -> Result<Self, globset::Error> {
        let matcher = builder.build()?.compile_matcher();
        let literal = !text.contains(['*', '?', '[', ']', '{', '}', '\\', '!']);
        Ok(Self { text: text.to_owned(), matcher, literal })
    }

    /// What every key that matches begins and ends with; `None` when an escape makes that hard to tell.
    pub fn fixed_ends(&self) -> Option<(&str, &str)> {
        if self.text.contains('\\') {
            return None;
        }
        let first = self.text.find(['*', '?', '[', '{']).unwrap_or(self.text.len());
        let last = self.text.rfind(['*', '?', ']', '}']).map_or(0, |at| at + 1);
        Some((&self.text[..first], &self.text[last.max(first)..]))
    }

    /// How many `/` every key that matches has; `None` when that is not fixed.
    pub fn folders(&self) -> Option<usize> {
        let fixed = !self.text.contains("**") && !self.text.contains(['[', '{', '\\']);
        fixed.then(|| slashes(&self.text))
    }

    pub fn matches(&self, text: &str) -> bool {
        self.matcher.is_match_candidate(&Candidate::new(text))
    }
}

/// How deep a key or a pattern goes.
pub(crate) fn slashes(text: &str) -> usize {
    text.bytes().filter(|b| *b == b'/').count()
}

/// The conditions of a rule: all that are given must hold. The default matches every object.
#[derive(Debug, Clone, Default)]
pub(crate) struct Filter {
    pub bucket: Option<String>,
    pub prefix: Option<String>,
    pub suffix: Option<String>,
    pub glob: Option<Pattern>,
    pub tags: Vec<(String, String)>,
    pub min_size: Option<u64>,
    pub max_size: Option<u64>,
    pub content_type: Option<Pattern>,
    /// Names are lower-case.
    pub metadata: Vec<(String, String)>,
}

/// The fields of a filter, in the order in which they are tested: cheapest first.
#[derive(Debug, Clone, Copy, PartialEq, Eq, serde::Serialize)]
#[serde(rename_all = "camelCase")]
pub enum FilterField {
    /// The bucket's name.
    Bucket,
    /// How the key begins.
    Prefix,
    /// How the key ends.
    Suffix,
    /// The size range.
    Size,
    /// The object's tags.
    Tags,
    /// The user metadata.
    Metadata,
    /// The media type.
    ContentType,
    /// The pattern over the key.
    Glob,
}

impl Filter {
    /// The first field that `facts` fail, or `None` for a match. Allocates nothing.
    pub fn mismatch(&self, facts: &ObjectFacts<'_>) -> Option<FilterField> {
        if let Some(field) = self.name_mismatch(facts.bucket, facts.key) {
            return Some(field);
        }
        if self.min_size.is_some_and(|min| facts.size < min) || self.max_size.is_some_and(|max| facts.size > max) {
            return Some(FilterField::Size);
        }
        let has = |(k, v): &(String, String)| facts.tags.iter().any(|(fk, fv)| fk == k && fv == v);
        if !self.tags.iter().all(has) {
            return Some(FilterField::Tags);
        }
        let has =
            |(k, v): &(String, String)| facts.metadata.iter().any(|(fk, fv)| fk.eq_ignore_ascii_case(k) && fv == v);
        if !self.metadata.iter().all(has) {
            return Some(FilterField::Metadata);
        }
        if let Some(pattern) = &self.content_type
            && !facts.content_type.is_some_and(|t| pattern.matches(media_type(t)))
        {
            return Some(FilterField::ContentType);
        }
        self.glob_mismatch(facts.key)
    }

    /// As [`Filter::mismatch`], for what is known of an unfinished upload: bucket and key.
    pub fn upload_mismatch(&self, bucket: &str, key: &str) -> Option<FilterField> {
        self.name_mismatch(bucket, key).or_else(|| self.glob_mismatch(key))
    }

    fn name_mismatch(&self, bucket: &str, key: &str) -> Option<FilterField> {
        if self.bucket.as_ref().is_some_and(|b| b != bucket) {
            return Some(FilterField::Bucket);
        }
        if self.prefix.as_ref().is_some_and(|p| !key.starts_with(p.as_str())) {
            return Some(FilterField::Prefix);
        }
        if self.suffix.as_ref().is_some_and(|s| !key.ends_with(s.as_str())) {
            return Some(FilterField::Suffix);
        }
        None
    }

    fn glob_mismatch(&self, key: &str) -> Option<FilterField> {
        self.glob.as_ref().filter(|g| !g.matches(key)).map(|_| FilterField::Glob)
    }

    /// True only when every object that `other` matches is matched by `self` too. Conservative: `false` means
    /// "not proven", never "proven not".
    pub fn covers(&self, other: &Filter) -> bool {
        let same = |a: &Option<String>, b: &Option<String>| a.is_none() || a == b;
        let prefix = self
            .prefix
            .as_ref()
            .is_none_or(|p| p.is_empty() || other.prefix.as_ref().is_some_and(|o| o.starts_with(p.as_str())));
        let suffix = self
            .suffix
            .as_ref()
            .is_none_or(|s| s.is_empty() || other.suffix.as_ref().is_some_and(|o| o.ends_with(s.as_str())));
        let glob = self.glob.as_ref().is_none_or(|g| {
            matches!(g.text.as_str(), "**" | "**/*") || other.glob.as_ref().is_some_and(|o| o.text == g.text)
        });
        let content_type = self.content_type.as_ref().is_none_or(|p| {
            other.content_type.as_ref().is_some_and(|o| o.text == p.text || (o.literal && p.matches(&o.text)))
        });
        let min = self.min_size.is_none_or(|m| other.min_size.unwrap_or(0) >= m);
        let max = self.max_size.is_none_or(|m| other.max_size.is_some_and(|o| o <= m));
        same(&self.bucket, &other.bucket)
            && prefix
            && suffix
            && glob
            && content_type
            && min
            && max
            && self.tags.iter().all(|t| other.tags.contains(t))
            && self.metadata.iter().all(|m| other.metadata.contains(m))
    }
}

/// `text/html; charset=utf-8` without its parameters.
fn media_type(content_type: &str) -> &str {
    content_type.split(';').next().unwrap_or(content_type).trim()
}

#[cfg(test)]
mod tests {
    use super::*;

    fn facts<'a>(key: &'a str, content_type: Option<&'a str>) -> ObjectFacts<'a> {
        ObjectFacts { bucket: "b", key, content_type, ..ObjectFacts::default() }
    }

    #[test]
    fn a_star_stops_at_a_slash_and_two_stars_do_not() {
        let f = Filter { glob: Some(Pattern::for_keys("app/*.gz").unwrap()), ..Filter::default() };
        assert_eq!(f.mismatch(&facts("app/x.gz", None)), None);
        assert_eq!(f.mismatch(&facts("app/y/x.gz", None)), Some(FilterField::Glob));
        let f = Filter { glob: Some(Pattern::for_keys("**/*.gz").unwrap()), ..Filter::default() };
        assert_eq!(f.mismatch(&facts("app/y/x.gz", None)), None);
        assert_eq!(f.mismatch(&facts("x.gz", None)), None);
    }

    #[test]
    fn media_types_ignore_case_and_parameters() {
        let f = Filter { content_type: Some(Pattern::for_content_types("text/*").unwrap()), ..Filter::default() };
        assert_eq!(f.mismatch(&facts("k", Some("Text/HTML; charset=utf-8"))), None);
        assert_eq!(f.mismatch(&facts("k", Some("image/png"))), Some(FilterField::ContentType));
        assert_eq!(f.mismatch(&facts("k", None)), Some(FilterField::ContentType));
    }

    #[test]
    fn coverage_is_proven_field_by_field() {
        let narrow = Filter {
            bucket: Some("logs".into()),
            prefix: Some("app/web/".into()),
            suffix: Some(".log.gz".into()),
            min_size: Some(10),
            max_size: Some(20),
            content_type: Some(Pattern::for_content_types("text/plain").unwrap()),
            ..Filter::default()
        };
        let wide = Filter {
            prefix: Some("app/".into()),
            suffix: Some(".gz".into()),
            max_size: Some(30),
            content_type: Some(Pattern::for_content_types("text/*").unwrap()),
            ..Filter::default()
        };
        assert!(wide.covers(&narrow) && !narrow.covers(&wide));
        assert!(Filter::default().covers(&narrow) && !narrow.covers(&Filter::default()));
        assert!(narrow.covers(&narrow));
    }
}
