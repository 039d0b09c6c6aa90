//! Reading maps, lists and texts out of the tree, with the errors that go with it.

use super::node::{Entry, Node, Value};
use crate::diagnostic::{Place, Sink, nearest};

/// The fields of one map of the document.
pub(crate) struct Fields<'a> {
    /// Path of the map, empty for the document.
    pub path: String,
    /// Where the map starts.
    pub at: Place,
    entries: &'a [Entry],
}

/// Joins a path and a field.
pub(crate) fn join(path: &str, field: &str) -> String {
    if path.is_empty() { field.to_owned() } else { format!("{path}.{field}") }
}

impl<'a> Fields<'a> {
    /// Reads `node` as a map that may have the fields `known` and no others.
    pub fn read(node: &'a Node, path: &str, known: &[&str], sink: &mut Sink) -> Option<Self> {
        let entries = entries(node, path, sink)?;
        for entry in entries {
            if !known.contains(&entry.key.as_str()) {
                let list = known.join(", ");
                let help = match nearest(&entry.key, known.iter().copied()) {
                    Some(meant) => format!("did you mean `{meant}`? Fields here: {list}"),
                    None => format!("remove it, or use one of the fields here: {list}"),
                };
                sink.error(entry.key_at, &join(path, &entry.key), format!("unknown field `{}`", entry.key), help);
            }
        }
        Some(Self { path: path.to_owned(), at: node.at, entries })
    }

    pub fn get(&self, field: &str) -> Option<&'a Node> {
        self.entries.iter().find(|e| e.key == field).map(|e| &e.node)
    }

    /// Where the key of `field` stands, or the map when it is not there.
    pub fn key_at(&self, field: &str) -> Place {
        self.entries.iter().find(|e| e.key == field).map_or(self.at, |e| e.key_at)
    }

    pub fn path_of(&self, field: &str) -> String {
        join(&self.path, field)
    }

    /// A field that must be there.
    pub fn required(&self, field: &str, help: &str, sink: &mut Sink) -> Option<&'a Node> {
        let found = self.get(field);
        if found.is_none() {
            sink.error(self.at, &self.path_of(field), format!("the field `{field}` is missing"), help);
        }
        found
    }

    /// A text field, when it is there.
    pub fn text(&self, field: &str, sink: &mut Sink) -> Option<(Place, &'a str)> {
        let node = self.get(field)?;
        text(node, &self.path_of(field), sink).map(|t| (node.at, t))
    }

    /// A text field read by `parse`, whose error becomes a finding at the value.
    pub fn parsed<T>(
        &self,
        field: &str,
        sink: &mut Sink,
        parse: impl Fn(&str) -> Result<T, crate::units::UnitError>,
    ) -> Option<(Place, T)> {
        let node = self.get(field)?;
        let path = self.path_of(field);
        // A bare number is a quantity without its unit; let the parser of the quantity say so.
        let text = match &node.value {
            Value::Number(n) => n.as_str(),
            _ => text(node, &path, sink)?,
        };
        match parse(text) {
            Ok(value) => Some((node.at, value)),
            Err((message, help)) => {
                sink.error(node.at, &path, message, help);
                None
            }
        }
    }

    /// `true` or `false`.
    pub fn flag(&self, field: &str, sink: &mut Sink) -> Option<(Place, bool)> {
        let node = self.get(field)?;
        if let Value::Bool(flag) = node.value {
            return Some((node.at, flag));
        }
        let message = format!("expected true or false, found {}", node.describe());
        sink.error(node.at, &self.path_of(field), message, "write true or false, without quotes");
        None
    }

    /// A whole number from 1 to `most`.
    pub fn count(&self, field: &str, most: u32, sink: &mut Sink) -> Option<(Place, u32)> {
        let node = self.get(field)?;
        if let Value::Number(text) = &node.value
            && let Ok(number) = text.parse::<u32>()
            && (1..=most).contains(&number)
        {
            return Some((node.at, number));
        }
        let message = format!("expected a whole number from 1 to {most}, found {}", node.describe());
        sink.error(node.at, &self.path_of(field), message, "write such a number without quotes, or remove the line");
        None
    }

    /// One of a few words.
    pub fn word<T: Copy>(&self, field: &str, words: &[(&str, T)], sink: &mut Sink) -> Option<(Place, T)> {
        let node = self.get(field)?;
        let list = words.iter().map(|(w, _)| *w).collect::<Vec<_>>().join(", ");
        let Value::Text(text) = &node.value else {
            // YAML reads `on` and `yes` as booleans: the words that are meant help more than a hint at quotes.
            let message = format!("expected a word, found {}", node.describe());
            sink.error(node.at, &self.path_of(field), message, format!("use one of: {list}"));
            return None;
        };
        if let Some((_, value)) = words.iter().find(|(w, _)| w == text) {
            return Some((node.at, *value));
        }
        let help = match nearest(text, words.iter().map(|(w, _)| *w)) {
            Some(meant) => format!("did you mean `{meant}`? Known: {list}"),
            None => format!("use one of: {list}"),
        };
        sink.error(node.at, &self.path_of(field), format!("{text:?} is not known here"), help);
        None
    }
}

/// The entries of a map without repeated keys.
pub(crate) fn entries<'a>(node: &'a Node, path: &str, sink: &mut Sink) -> Option<&'a [Entry]> {
    let Value::Map(entries) = &node.value else {
        let help = match &node.value {
            _ if path.is_empty() => {
                "a policy begins with `apiVersion: tidegate/v1`, `kind: LifecyclePolicy`, `metadata:` and `rules:`"
            }
            Value::Null => "give it fields, or remove the line",
            _ => "write `field: value` lines here",
        };
        sink.error(node.at, path, format!("expected a map of fields, found {}", node.describe()), help);
        return None;
    };
    for (i, entry) in entries.iter().enumerate() {
        if let Some(first) = entries.iter().take(i).find(|e| e.key == entry.key) {
            let message = format!("`{}` is given twice (first in line {})", entry.key, first.key_at.line);
            sink.error(entry.key_at, &join(path, &entry.key), message, "keep one of the two");
        }
    }
    Some(entries)
}

/// The items of a list of at most `max` items.
pub(crate) fn list<'a>(node: &'a Node, path: &str, max: usize, sink: &mut Sink) -> Option<&'a [Node]> {
    let Value::List(items) = &node.value else {
        let message = format!("expected a list, found {}", node.describe());
        sink.error(node.at, path, message, "write a list: one line per item, each starting with `- `");
        return None;
    };
    if items.len() > max {
        let message = format!("{} items are too many, the limit is {max}", items.len());
        sink.error(node.at, path, message, "merge items, or remove those that are not needed");
        return None;
    }
    Some(items)
}

/// A text; numbers and booleans are not silently taken for one.
pub(crate) fn text<'a>(node: &'a Node, path: &str, sink: &mut Sink) -> Option<&'a str> {
    let help = match &node.value {
        Value::Text(text) => return Some(text),
        Value::Number(_) | Value::Bool(_) => "put it in quotes",
        Value::Null => "give it a value, or remove the line",
        Value::List(_) | Value::Map(_) => "write a single value here",
    };
    sink.error(node.at, path, format!("expected a text, found {}", node.describe()), help);
    None
}
