//! Where each setting stands in the text, for what is found wrong only after reading.

use serde::de::{Deserialize, Deserializer, IgnoredAny, MapAccess, SeqAccess, Visitor};
use serde_saphyr::Spanned;
use std::collections::BTreeMap;
use std::fmt;

/// Line and column, both from 1.
type Place = (u64, u64);

/// The places of a document's settings by their paths, such as `tiers.ia.prefix` or `s3.access_keys[0]`. A setting with others
/// below it stands where its name does, any other where its value does.
#[derive(Debug, Clone, Default)]
pub struct Places(BTreeMap<String, Place>);

impl Places {
    /// Of `text`, which was read as a configuration before.
    pub(super) fn of(text: &str) -> Self {
        let mut places = Self::default();
        if let Ok(root) = serde_saphyr::from_str::<Tree>(text) {
            places.note("", &root);
        }
        places
    }

    fn note(&mut self, path: &str, tree: &Tree) {
        for (name, at, below) in &tree.below {
            let path = match (path, name.starts_with('[')) {
                ("", _) => name.clone(),
                (_, true) => format!("{path}{name}"),
                (_, false) => format!("{path}.{name}"),
            };
            self.note(&path, below);
            self.0.insert(path, *at);
        }
    }

    /// Whether the text has the setting at `path`.
    pub(super) fn has(&self, path: &str) -> bool {
        self.0.contains_key(path)
    }

    /// The place of the setting at `path`, or of what it is a part of; `None` when the text has nothing of it.
    pub(super) fn get(&self, path: &str) -> Option<Place> {
        let mut path = path;
        loop {
            if let Some(place) = self.0.get(path) {
                return Some(*place);
            }
            path = &path[..path.rfind(['.', '['])?];
        }
    }
}

/// A map or list with its parts: name, place, what is below. Any other value has none.
#[derive(Default)]
struct Tree {
    below: Vec<(String, Place, Tree)>,
}

impl<'de> Deserialize<'de> for Tree {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        deserializer.deserialize_any(TreeVisitor)
    }
}

struct TreeVisitor;

impl TreeVisitor {
    fn add(tree: &mut Tree, name: String, own: Option<Place>, value: Spanned<Tree>) {
        let at = own.filter(|_| !value.value.below.is_empty()).unwrap_or_else(|| place(&value.referenced));
        tree.below.push((name, at, value.value));
    }
}

macro_rules! leaves {
    ($($method:ident: $type:ty)*) => {$(
        fn $method<E>(self, _: $type) -> Result<Tree, E> {
            Ok(Tree::default())
        }
    )*};
}

impl<'de> Visitor<'de> for TreeVisitor {
    type Value = Tree;

    fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("a YAML value")
    }

    leaves! { visit_bool: bool visit_i64: i64 visit_u64: u64 visit_i128: i128 visit_u128: u128 visit_f64: f64 visit_str: &str }

    fn visit_unit<E>(self) -> Result<Tree, E> {
        Ok(Tree::default())
    }

    fn visit_none<E>(self) -> Result<Tree, E> {
        Ok(Tree::default())
    }

    fn visit_some<D: Deserializer<'de>>(self, deserializer: D) -> Result<Tree, D::Error> {
        Tree::deserialize(deserializer)
    }

    fn visit_newtype_struct<D: Deserializer<'de>>(self, deserializer: D) -> Result<Tree, D::Error> {
        IgnoredAny::deserialize(deserializer).map(|_| Tree::default())
    }

    fn visit_seq<A: SeqAccess<'de>>(self, mut seq: A) -> Result<Tree, A::Error> {
        let mut tree = Tree::default();
        while let Some(item) = seq.next_element::<Spanned<Tree>>()? {
            let name = format!("[{}]", tree.below.len());
            Self::add(&mut tree, name, None, item);
        }
        Ok(tree)
    }

    fn visit_map<A: MapAccess<'de>>(self, mut map: A) -> Result<Tree, A::Error> {
        let mut tree = Tree::default();
        while let Some(key) = map.next_key::<Spanned<String>>()? {
            let own = place(&key.referenced);
            Self::add(&mut tree, key.value, Some(own), map.next_value()?);
        }
        Ok(tree)
    }
}

fn place(location: &serde_saphyr::Location) -> Place {
    (location.line(), location.column())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_setting_has_its_place_and_what_is_missing_that_of_its_section() {
        let places = Places::of(
            "data_dir: /x\ns3:\n  max_parts: 0\n  access_keys:\n    - {access_key: a, secret_key: b}\nlog: {}\n",
        );
        for (path, place) in [
            ("data_dir", Some((1, 11))),
            ("s3", Some((2, 1))),
            ("s3.max_parts", Some((3, 14))),
            ("s3.access_keys[0]", Some((5, 7))),
            ("s3.access_keys[0].secret_key", Some((5, 35))),
            ("s3.access_keys[7]", Some((4, 3))),
            ("s3.region", Some((2, 1))),
            ("log", Some((6, 6))),
            ("policy", None),
        ] {
            assert_eq!(places.get(path), place, "{path}");
        }
    }
}
