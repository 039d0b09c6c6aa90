//! What is wrong with a configuration, where, and the way out.

use serde::Serialize;
use std::fmt;

/// One finding about a configuration.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub struct Problem {
    /// The file, or the name of what was checked.
    pub file: String,
    /// Line, from 1; 0 when the problem has no place in the text.
    pub line: u64,
    /// Column in characters, from 1; 0 when the problem has no place in the text.
    pub column: u64,
    /// Path of the field, such as `tiers.ia.type`; empty for the document itself.
    pub field: String,
    /// What is wrong.
    pub message: String,
    /// The way out.
    pub help: String,
}

impl Problem {
    /// A problem of a field, without a place in the text.
    pub fn of_field(file: &str, field: &str, message: impl Into<String>, help: impl Into<String>) -> Self {
        Self {
            file: file.to_owned(),
            line: 0,
            column: 0,
            field: field.to_owned(),
            message: message.into(),
            help: help.into(),
        }
    }

    /// What the YAML reader said about `field`.
    pub(super) fn of_yaml(file: &str, field: &str, error: &serde_saphyr::Error) -> Self {
        use serde_saphyr::Error as E;
        let error = error.without_snippet();
        let (line, column) = error.location().map_or((0, 0), |l| (l.line(), l.column()));
        let mut field = field.to_owned();
        let (message, help) = match error {
            E::SerdeUnknownField { field: name, expected, .. } => {
                join(&mut field, name);
                (format!("there is no setting {name} here"), known(name, expected))
            }
            E::SerdeUnknownVariant { variant, expected, .. } => {
                (format!("{variant:?} is not one of the values"), known(variant, expected))
            }
            E::SerdeMissingField { field: name, .. } => {
                join(&mut field, name);
                ("this setting is missing".to_owned(), format!("add {name}: <value>"))
            }
            E::DuplicateMappingKey { key, .. } => {
                if let Some(key) = key {
                    join(&mut field, key);
                }
                ("this setting is given twice".to_owned(), "remove one of the two".to_owned())
            }
            E::SerdeInvalidType { unexpected, expected, .. } | E::SerdeInvalidValue { unexpected, expected, .. } => {
                let (unexpected, expected) = (unexpected.to_string(), expected.to_string());
                match expected.contains("tagged enum") {
                    // serde's word for a section of which one setting says what the others are.
                    true => words("expected mapping start", ""),
                    false => (format!("{unexpected} does not fit here"), format!("write {expected}")),
                }
            }
            E::Message { msg, .. } => words(msg, ""),
            other => words(
                first_line(&other.to_string()),
                "check the indentation, the colons and the quotes around this place",
            ),
        };
        Self { file: file.to_owned(), line, column, field, message, help }
    }
}

/// What the parser says in words for programmers, in words for operators; anything else with its own way out, or `hint`.
fn words(message: &str, hint: &str) -> (String, String) {
    const PARSER: [(&str, &str, &str); 6] = [
        ("cannot deserialize null", "this setting has no value", "write one behind the colon, or remove the line"),
        ("duplicate field", "this setting is given twice", "keep one; NAME_file stands for NAME"),
        ("expected sequence start", "a list is expected here", "write one, even of one value: [value]"),
        (
            "multiple YAML documents",
            "several YAML documents are in this file",
            "keep one: remove the line --- and what follows it",
        ),
        ("expected mapping start", "settings are expected here", "write them below, indented, each as name: value"),
        ("invalid socket address", "this is not an address with a port", "write one such as 127.0.0.1:9000"),
    ];
    if let Some((_, what, help)) = PARSER.iter().find(|(said, ..)| message.starts_with(said)) {
        return ((*what).to_owned(), (*help).to_owned());
    }
    let (what, help) = split_help(message);
    let hint = if what.ends_with("too large") || what.ends_with("too long") { "write a smaller one" } else { hint };
    let help = if help.is_empty() { hint.to_owned() } else { help };
    (what, help)
}

/// Our own messages carry their way out behind the first `: ` or `; `, where there is one.
fn split_help(message: &str) -> (String, String) {
    for separator in ["; ", ": write ", ", write "] {
        if let Some((what, help)) = message.split_once(separator) {
            let help = if separator.contains("write") { format!("write {help}") } else { help.to_owned() };
            return (what.to_owned(), help);
        }
    }
    (message.to_owned(), String::new())
}

/// Without the place, which is shown in front of every message.
fn first_line(text: &str) -> &str {
    let line = text.lines().next().unwrap_or_default();
    line.split_once(" at line ").map_or(line, |(message, _)| message)
}

fn join(field: &mut String, name: &str) {
    if !field.is_empty() {
        field.push('.');
    }
    field.push_str(name);
}

/// The known names, the nearest one first.
fn known(wrong: &str, expected: &[&'static str]) -> String {
    if expected.is_empty() {
        return "nothing can be set here".to_owned();
    }
    let nearest = expected.iter().min_by_key(|name| distance(wrong, name)).filter(|name| {
        // A third of the letters may be wrong: enough for typing errors, too little for other words.
        distance(wrong, name) <= (wrong.chars().count() / 3).max(1) || (wrong.len() > 2 && name.starts_with(wrong))
    });
    let list = expected.join(", ");
    match nearest {
        Some(name) => format!("did you mean {name}? Known: {list}"),
        None => format!("known: {list}"),
    }
}

/// Levenshtein distance.
fn distance(a: &str, b: &str) -> usize {
    let b: Vec<char> = b.to_lowercase().chars().collect();
    let mut row: Vec<usize> = (0..=b.len()).collect();
    for (i, ca) in a.to_lowercase().chars().enumerate() {
        let mut diagonal = i;
        row[0] = i + 1;
        for (j, cb) in b.iter().enumerate() {
            let replaced = diagonal + usize::from(ca != *cb);
            diagonal = row[j + 1];
            row[j + 1] = replaced.min(diagonal + 1).min(row[j] + 1);
        }
    }
    row[b.len()]
}

impl fmt::Display for Problem {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.file)?;
        if self.line > 0 {
            write!(f, ":{}:{}", self.line, self.column)?;
        }
        f.write_str(": ")?;
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

impl std::error::Error for Problem {}
