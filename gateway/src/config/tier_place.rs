//! Where exactly the settings of a tier are wrong.
//!
//! One of them, `type`, says what the others are, so that serde gathers all of them first and then knows no places any more.
//! After an error they are read once more from the text, this time as what the type says.

use super::Problem;
use super::reader::{Context, Env, Layer};
use serde::de::{Deserialize, DeserializeSeed, Deserializer, IgnoredAny, MapAccess, Visitor};
use std::fmt;
use std::marker::PhantomData;
use tidegate_tiering::tier::object::{DirectorySettings, S3Settings};
use tidegate_tiering::tier::oss::OssSettings;

/// What is wrong in the settings of the tier at `path`, with its own place; `None` when `path` is no tier or nothing is found.
pub(super) fn find(file: &str, text: &str, path: &str, env: Env<'_>) -> Option<Problem> {
    let name = path.strip_prefix("tiers.")?;
    let below = ["tiers", name];
    let kind = serde_saphyr::with_deserializer_from_str(text, |de| {
        Down { path: &below, seed: PhantomData::<Kind> }.deserialize(de)
    });
    let kind = kind.ok()??.kind;
    let context = Context::of_tier(env, name);
    let seed = Settings { kind: &kind, context: &context };
    serde_saphyr::with_deserializer_from_str(text, |de| Down { path: &below, seed }.deserialize(de))
        .err()
        .map(|error| Problem::of_yaml(file, &context.path(), &error))
}

#[derive(serde::Deserialize)]
struct Kind {
    #[serde(rename = "type")]
    kind: String,
}

/// Reads settings only to see what is wrong with them.
struct Settings<'a, 'c> {
    kind: &'a str,
    context: &'a Context<'c>,
}

impl<'de> DeserializeSeed<'de> for Settings<'_, '_> {
    type Value = ();

    fn deserialize<D: Deserializer<'de>>(self, deserializer: D) -> Result<(), D::Error> {
        let layer = Layer::new(deserializer, self.context);
        match self.kind {
            "oss" => OssSettings::deserialize(layer).map(drop),
            "s3" => S3Settings::deserialize(layer).map(drop),
            "directory" => DirectorySettings::deserialize(layer).map(drop),
            _ => Ok(()),
        }
    }
}

/// Reads only what stands below `path`.
struct Down<'p, S> {
    path: &'p [&'p str],
    seed: S,
}

impl<'de, S: DeserializeSeed<'de>> DeserializeSeed<'de> for Down<'_, S> {
    type Value = Option<S::Value>;

    fn deserialize<D: Deserializer<'de>>(self, deserializer: D) -> Result<Self::Value, D::Error> {
        match self.path {
            [] => self.seed.deserialize(deserializer).map(Some),
            _ => deserializer.deserialize_map(self),
        }
    }
}

impl<'de, S: DeserializeSeed<'de>> Visitor<'de> for Down<'_, S> {
    type Value = Option<S::Value>;

    fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("settings")
    }

    fn visit_map<A: MapAccess<'de>>(self, mut map: A) -> Result<Self::Value, A::Error> {
        let (mut found, mut seed) = (None, Some(self.seed));
        while let Some(key) = map.next_key::<String>()? {
            match (self.path.split_first(), seed.take()) {
                (Some((name, path)), Some(wanted)) if *name == key => {
                    found = map.next_value_seed(Down { path, seed: wanted })?;
                }
                (_, unused) => {
                    seed = unused;
                    map.next_value::<IgnoredAny>()?;
                }
            }
        }
        Ok(found)
    }
}
