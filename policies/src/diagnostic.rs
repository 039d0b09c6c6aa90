//! What is wrong with a policy, where, and the way out.

use serde::Serialize;
use std::fmt;

/// How bad a [`Diagnostic`] is.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize)]
#[serde(rename_all = "lowercase")]
pub enum Severity {
    /// The policy is refused; nothing changes.
    Error,
    /// The policy is accepted, but the writer should look.
    Warning,
}

/// One finding about a policy document, with its place in the text.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub struct Diagnostic {
    /// Error or warning.
    pub severity: Severity,
    /// The name of the source that the caller gave, usually a file name.
    pub file: String,
    /// Line, from 1. 0 when the place is unknown.
    pub line: u64,
    /// Column in characters, from 1. 0 when the place is unknown.
    pub column: u64,
    /// Path of the field, such as `rules[0].transitions[1].after`. Empty for the document as a whole.
    pub field: String,
    /// What is wrong, naming the value.
    pub message: String,
    /// The way out.
    pub help: String,
}

impl fmt::Display for Diagnostic {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}:{}:{}: ", self.file, self.line, self.column)?;
        if self.severity == Severity::Warning {
            f.write_str("warning: ")?;
        }
        if !self.field.is_empty() {
            write!(f, "{}: ", self.field)?;
        }
        f.write_str(&self.message)?;
        if !self.help.is_empty() {
            write!(f, "\n  help: {}", self.help)?;
        }
        Ok(())
    }
}

impl std::error::Error for Diagnostic {}

/// A place in the text: line and column, both from 1.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Default)]
pub(crate) struct Place {
    pub line: u64,
    pub column: u64,
}

/// Collects findings while a document is read, so that one run shows them all.
#[derive(Debug)]
pub(crate) struct Sink {
    file: String,
    found: Vec<Diagnostic>,
}

/// A document that is wrong everywhere (another kind of file altogether) says so in this many lines, not thousands.
const MAX_DIAGNOSTICS: usize = 100;

impl Sink {
    pub fn new(file: &str) -> Self {
        Self { file: file.to_owned(), found: Vec::new() }
    }

    pub fn error(&mut self, at: Place, field: &str, message: impl Into<String>, help: impl Into<String>) {
        self.push(Severity::Error, at, field, message.into(), help.into());
    }

    pub fn warning(&mut self, at: Place, field: &str, message: impl Into<String>, help: impl Into<String>) {
        self.push(Severity::Warning, at, field, message.into(), help.into());
    }

    fn push(&mut self, severity: Severity, at: Place, field: &str, message: String, help: String) {
        self.found.push(Diagnostic {
            severity,
            file: self.file.clone(),
            line: at.line,
            column: at.column,
            field: field.to_owned(),
            message,
            help,
        });
    }

    pub fn has_errors(&self) -> bool {
        self.found.iter().any(|d| d.severity == Severity::Error)
    }

    /// All findings in the order of the text; of a crowd, the errors first, then cut to a bounded number.
    pub fn finish(mut self) -> Vec<Diagnostic> {
        if self.found.len() > MAX_DIAGNOSTICS {
            self.found.sort_by_key(|d| d.severity);
            self.found.truncate(MAX_DIAGNOSTICS);
        }
        self.found.sort_by_key(|d| (d.line, d.column, d.severity));
        self.found
    }
}

/// The known name nearest to `wrong`, when it is near enough to be what was meant.
pub(crate) fn nearest<'a>(wrong: &str, known: impl IntoIterator<Item = &'a str>) -> Option<&'a str> {
    let lower = wrong.to_lowercase();
    // A third of the letters may be wrong: enough for typing errors and plurals, too little for other words.
    let limit = (wrong.chars().count() / 3).max(1);
    known
        .into_iter()
        .map(|k| (edit_distance(&lower, &k.to_lowercase()), k))
        .filter(|(d, k)| *d <= limit || k.to_lowercase().starts_with(&lower) && lower.len() >= 3)
        .min_by_key(|(d, _)| *d)
        .map(|(_, k)| k)
}

/// Levenshtein distance by rows.
fn edit_distance(a: &str, b: &str) -> usize {
    let b: Vec<char> = b.chars().collect();
    let mut row: Vec<usize> = (0..=b.len()).collect();
    for (i, ca) in a.chars().enumerate() {
        let mut diagonal = row[0];
        row[0] = i + 1;
        for (j, cb) in b.iter().enumerate() {
            let substitute = diagonal + usize::from(ca != *cb);
            diagonal = row[j + 1];
            row[j + 1] = substitute.min(row[j] + 1).min(diagonal + 1);
        }
    }
    row[b.len()]
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_nearest_name_is_found_only_when_it_is_near() {
        let known = ["transitions", "expiration", "filter", "status"];
        assert_eq!(nearest("transition", known), Some("transitions"));
        assert_eq!(nearest("expirations", known), Some("expiration"));
        assert_eq!(nearest("Filter", known), Some("filter"));
        assert_eq!(nearest("zebra", known), None);
        assert_eq!(edit_distance("kitten", "sitting"), 3);
    }
}
