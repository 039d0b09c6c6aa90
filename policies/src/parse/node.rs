//! A YAML document as a tree in which every key and value knows its place.
//!
//! Why a tree and not derived structs: a derived deserializer stops at the first mistake, and checks across fields
//! (contradictions, costs) come after the places are gone. A tree keeps the places and lets one run show all mistakes.

use crate::diagnostic::{Place, Sink};
use serde::de::{Deserialize, Deserializer, MapAccess, SeqAccess, Visitor};
use serde_saphyr::Spanned;
use std::fmt;

/// A value and the place where it starts.
#[derive(Debug, Clone)]
pub(crate) struct Node {
    pub at: Place,
    pub value: Value,
}

/// What YAML can say. Numbers are kept as text: few fields of a policy are bare numbers.
#[derive(Debug, Clone)]
pub(crate) enum Value {
    Null,
    Bool(bool),
    Number(String),
    Text(String),
    List(Vec<Node>),
    Map(Vec<Entry>),
}

/// One `key: value` of a map.
#[derive(Debug, Clone)]
pub(crate) struct Entry {
    pub key: String,
    pub key_at: Place,
    pub node: Node,
}

impl Node {
    /// What this is, for messages: `a list`, `the number 30`.
    pub fn describe(&self) -> String {
        match &self.value {
            Value::Null => "nothing".to_owned(),
            Value::Bool(b) => format!("the boolean {b}"),
            Value::Number(n) => format!("the number {n}"),
            Value::Text(t) => format!("the text {t:?}"),
            Value::List(_) => "a list".to_owned(),
            Value::Map(_) => "a map".to_owned(),
        }
    }
}

impl<'de> Deserialize<'de> for Node {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        let spanned = Spanned::<Value>::deserialize(deserializer)?;
        Ok(Self { at: place(&spanned.referenced), value: spanned.value })
    }
}

impl<'de> Deserialize<'de> for Value {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        deserializer.deserialize_any(ValueVisitor)
    }
}

struct ValueVisitor;

impl<'de> Visitor<'de> for ValueVisitor {
    type Value = Value;

    fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("a YAML value")
    }

    fn visit_bool<E>(self, v: bool) -> Result<Value, E> {
        Ok(Value::Bool(v))
    }

    fn visit_i64<E>(self, v: i64) -> Result<Value, E> {
        Ok(Value::Number(v.to_string()))
    }

    fn visit_u64<E>(self, v: u64) -> Result<Value, E> {
        Ok(Value::Number(v.to_string()))
    }

    fn visit_i128<E>(self, v: i128) -> Result<Value, E> {
        Ok(Value::Number(v.to_string()))
    }

    fn visit_u128<E>(self, v: u128) -> Result<Value, E> {
        Ok(Value::Number(v.to_string()))
    }

    fn visit_f64<E>(self, v: f64) -> Result<Value, E> {
        Ok(Value::Number(v.to_string()))
    }

    fn visit_str<E>(self, v: &str) -> Result<Value, E> {
        Ok(Value::Text(v.to_owned()))
    }

    fn visit_unit<E>(self) -> Result<Value, E> {
        Ok(Value::Null)
    }

    fn visit_none<E>(self) -> Result<Value, E> {
        Ok(Value::Null)
    }

    fn visit_some<D: Deserializer<'de>>(self, deserializer: D) -> Result<Value, D::Error> {
        Value::deserialize(deserializer)
    }

    fn visit_seq<A: SeqAccess<'de>>(self, mut seq: A) -> Result<Value, A::Error> {
        let mut items = Vec::new();
        while let Some(item) = seq.next_element()? {
            items.push(item);
        }
        Ok(Value::List(items))
    }

    fn visit_map<A: MapAccess<'de>>(self, mut map: A) -> Result<Value, A::Error> {
        let mut entries = Vec::new();
        while let Some(key) = map.next_key::<Spanned<String>>()? {
            let mut node: Node = map.next_value()?;
            let key_at = place(&key.referenced);
            if matches!(node.value, Value::Null) {
                // A value that is not there has no place of its own.
                node.at = key_at;
            }
            entries.push(Entry { key: key.value, key_at, node });
        }
        Ok(Value::Map(entries))
    }
}

fn place(location: &serde_saphyr::Location) -> Place {
    Place { line: location.line(), column: location.column() }
}

/// Reads `text` into a tree; YAML that does not parse is one error in `sink`.
pub(crate) fn read(text: &str, sink: &mut Sink) -> Option<Node> {
    // Repeated keys pass through: the decoder reports each of them with its own place.
    let options = serde_saphyr::options! {
        duplicate_keys: serde_saphyr::options::DuplicateKeyPolicy::PassThrough,
        emit_comments: false,
    };
    match serde_saphyr::from_str_with_options::<Node>(text, options) {
        Ok(node) => Some(node),
        Err(error) => {
            let at = error.location().map(|l| place(&l)).unwrap_or_default();
            let message = error.without_snippet().to_string();
            // The parser appends the place, which the diagnostic already carries.
            let message = message.lines().next().and_then(|l| l.split(" at line ").next()).unwrap_or_default();
            let (message, help) = if message.contains("multiple YAML documents") {
                (
                    "several YAML documents are in this file".to_owned(),
                    "keep one: remove the line `---` and what follows it",
                )
            } else {
                let help = "check the indentation, the colons and the quotes around this place";
                (format!("this is not valid YAML: {message}"), help)
            };
            sink.error(at, "", message, help);
            None
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_key_and_value_knows_its_place() {
        let mut sink = Sink::new("t");
        let node = read("a: 1\nb:\n  - {c: x, d: 30d}\n  - ~\n", &mut sink).unwrap();
        let Value::Map(entries) = &node.value else { panic!("not a map") };
        assert_eq!((entries[1].key.as_str(), entries[1].key_at), ("b", Place { line: 2, column: 1 }));
        let Value::List(items) = &entries[1].node.value else { panic!("not a list") };
        let Value::Map(inner) = &items[0].value else { panic!("not a map") };
        assert_eq!(inner[1].key_at, Place { line: 3, column: 12 });
        assert_eq!(inner[1].node.at, Place { line: 3, column: 15 });
        assert!(matches!(&inner[1].node.value, Value::Text(t) if t == "30d"));
        assert!(matches!(items[1].value, Value::Null));
    }

    #[test]
    fn broken_yaml_is_one_error_with_a_place() {
        for text in ["a: [1, 2\nb: 3\n", "a: *nowhere\n", "a: b: c\n", "a: 1\n---\nb: 2\n"] {
            let mut sink = Sink::new("t");
            assert!(read(text, &mut sink).is_none(), "{text:?}");
            let found = sink.finish();
            println!("{}", found[0]);
            assert_eq!(found.len(), 1);
            assert!(found[0].line >= 1, "{text:?}");
        }
    }
}
