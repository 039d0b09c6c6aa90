//! The policy document as plain data: what its JSON Schema is made of, and what tools that write policies can serialize.
//!
//! [`crate::parse()`] does not read through these types, because a derived reader stops at the first mistake; a test holds the
//! two together.

use crate::class::Class;
use crate::units::{DURATION_PATTERN, PERCENT_PATTERN, SIZE_PATTERN};
use schemars::JsonSchema;
use serde::{Deserialize, Serialize};
use serde_json::{Value, json};
use std::collections::BTreeMap;

/// What a name looks like.
const NAME_PATTERN: &str = "^[A-Za-z0-9._-]{1,64}$";
/// What a bucket's name looks like.
const BUCKET_PATTERN: &str = "^[a-z0-9.-]{3,63}$";

/// Lifecycle rules of a Tidegate gateway: which objects become cold, where they go, and when they end.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
#[schemars(title = "Tidegate lifecycle policy")]
pub struct Document {
    /// Version of this format.
    pub api_version: ApiVersion,
    /// Kind of this document.
    pub kind: Kind,
    /// What this document is called.
    pub metadata: Metadata,
    /// The chain of tiers below the hot disk, hottest first. Names refer to tiers of the gateway's configuration.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    #[schemars(length(max = 16))]
    pub tiers: Vec<DocumentTier>,
    /// Buckets whose bodies are also uploaded soon after each write, and stay on the hot disk. The first item that names a
    /// bucket counts.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    #[schemars(length(max = 1000))]
    pub protect: Vec<DocumentProtection>,
    /// The rules. All that match an object count: expiration before transitions, colder before warmer.
    #[schemars(length(max = 1000))]
    pub rules: Vec<DocumentRule>,
}

/// Version of the format.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
pub enum ApiVersion {
    /// The only version.
    #[serde(rename = "tidegate/v1")]
    V1,
}

/// Kind of a document.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
pub enum Kind {
    /// The only kind.
    LifecyclePolicy,
}

/// What a document is called.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
pub struct Metadata {
    /// A short name, shown in logs and answers.
    #[schemars(regex(pattern = NAME_PATTERN))]
    pub name: String,
}

/// One tier of the chain.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
pub struct DocumentTier {
    /// Name of the tier in the gateway's configuration. `hot` is reserved for the gateway's own disk.
    #[schemars(regex(pattern = NAME_PATTERN))]
    pub name: String,
    /// Storage class of the tier; left out for directories and S3-compatible clusters, which have no minimum size or duration.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub class: Option<Class>,
}

/// A bucket, or a pattern of buckets, whose hot bodies are in a tier as well.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
pub struct DocumentProtection {
    /// A bucket's name, or a pattern over names: `*` is any text, `?` one letter, `[abc]`, `{a,b}`.
    pub bucket: String,
    /// Name of a tier in `tiers` that reads at once: of the class Standard or IA, or without a class.
    pub to: String,
    /// Whether the item is in force.
    #[serde(default)]
    pub status: Status,
}

/// One rule: a filter, and what happens to the objects that match it.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
pub struct DocumentRule {
    /// A short name of its own, shown wherever the rule decides.
    #[schemars(regex(pattern = NAME_PATTERN))]
    pub id: String,
    /// Whether the rule is in force.
    #[serde(default)]
    pub status: Status,
    /// Which objects the rule is about. All conditions must hold; without a filter, all objects match.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub filter: Option<DocumentFilter>,
    /// Moves along the chain of tiers.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    #[schemars(length(max = 64))]
    pub transitions: Vec<DocumentTransition>,
    /// When objects are deleted.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub expiration: Option<DocumentExpiration>,
    /// Moves of noncurrent versions along the chain of tiers.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    #[schemars(length(max = 64))]
    pub noncurrent_transitions: Vec<DocumentNoncurrentTransition>,
    /// When noncurrent versions are deleted for good.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub noncurrent_expiration: Option<DocumentNoncurrentExpiration>,
    /// Whether a delete marker goes once it is the only version left. Not together with `tags`, `size`, `contentType` or
    /// `metadata`.
    #[serde(default, skip_serializing_if = "std::ops::Not::not")]
    pub expired_object_delete_marker: bool,
    /// When unfinished multipart uploads are aborted. Not together with `tags`, `size`, `contentType` or `metadata`.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub abort_incomplete_multipart_upload: Option<DocumentAbort>,
    /// How cold objects lie in the tier. `native` is planned and refused in this version.
    #[serde(default)]
    pub layout: DocumentLayout,
}

/// Whether a rule, or a protection, is in force.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "camelCase")]
pub enum Status {
    /// In force.
    #[default]
    Enabled,
    /// Checked, but without effect.
    Disabled,
}

/// Conditions on an object.
#[derive(Debug, Clone, PartialEq, Eq, Default, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "camelCase", deny_unknown_fields, default)]
pub struct DocumentFilter {
    /// One bucket, by its name.
    #[serde(skip_serializing_if = "Option::is_none")]
    #[schemars(regex(pattern = BUCKET_PATTERN))]
    pub bucket: Option<String>,
    /// How the key begins.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub prefix: Option<String>,
    /// How the key ends.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub suffix: Option<String>,
    /// A pattern over the whole key: `*` is any text up to a `/`, `**` any folders, `?` one letter, `[abc]`, `{a,b}`.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub glob: Option<String>,
    /// Tags that the object must have, by name and value.
    #[serde(skip_serializing_if = "BTreeMap::is_empty")]
    pub tags: BTreeMap<String, String>,
    /// Sizes, both ends included.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub size: Option<SizeRange>,
    /// A media type, or a pattern such as `text/*`. Case and parameters do not matter.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub content_type: Option<String>,
    /// User metadata that the object must have: names without `x-amz-meta-`, in any case; values exactly.
    #[serde(skip_serializing_if = "BTreeMap::is_empty")]
    pub metadata: BTreeMap<String, String>,
}

/// A range of sizes, both ends included.
#[derive(Debug, Clone, PartialEq, Eq, Default, Serialize, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields, default)]
pub struct SizeRange {
    /// Smallest size, such as `1MiB`.
    #[serde(skip_serializing_if = "Option::is_none")]
    #[schemars(regex(pattern = SIZE_PATTERN))]
    pub min: Option<String>,
    /// Largest size, such as `5GiB`.
    #[serde(skip_serializing_if = "Option::is_none")]
    #[schemars(regex(pattern = SIZE_PATTERN))]
    pub max: Option<String>,
}

/// A move to a tier: by age (`after`) or by fill level of the hot disk (`whenFull`), one of the two.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
#[schemars(extend("oneOf" = json!([{ "required": ["after"] }, { "required": ["whenFull"] }])))]
#[schemars(extend("dependentRequired" = json!({ "since": ["after"] })))]
pub struct DocumentTransition {
    /// Name of a tier in `tiers`.
    pub to: String,
    /// Age at which the object moves, such as `30d`, `12h`, `90m` or `45s`. Exact: nothing is rounded to midnight.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schemars(regex(pattern = DURATION_PATTERN))]
    pub after: Option<String>,
    /// From when the age counts. Only with `after`; `creation` when left out.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub since: Option<DocumentSince>,
    /// Fill level of the hot disk at which the object may move, such as `85%`.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schemars(regex(pattern = PERCENT_PATTERN))]
    pub when_full: Option<String>,
}

/// The end of an object.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
pub struct DocumentExpiration {
    /// Age at which the object is deleted, such as `365d`.
    #[schemars(regex(pattern = DURATION_PATTERN))]
    pub after: String,
    /// From when the age counts; `creation` when left out.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub since: Option<DocumentSince>,
}

/// A move of noncurrent versions to a tier.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
pub struct DocumentNoncurrentTransition {
    /// Name of a tier in `tiers`.
    pub to: String,
    /// How long the version has been noncurrent when it moves, such as `30d`.
    #[schemars(regex(pattern = DURATION_PATTERN))]
    pub after: String,
    /// That many newer noncurrent versions of the key stay where they are; 0 when left out.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schemars(range(min = 1, max = 100))]
    pub newer_noncurrent_versions: Option<u32>,
}

/// The end of noncurrent versions.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
pub struct DocumentNoncurrentExpiration {
    /// How long the version has been noncurrent when it is deleted, such as `90d`.
    #[schemars(regex(pattern = DURATION_PATTERN))]
    pub after: String,
    /// That many newer noncurrent versions of the key are kept; 0 when left out.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schemars(range(min = 1, max = 100))]
    pub newer_noncurrent_versions: Option<u32>,
}

/// The end of an unfinished upload.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
pub struct DocumentAbort {
    /// Age of the upload at which it is aborted, such as `7d`.
    #[schemars(regex(pattern = DURATION_PATTERN))]
    pub after: String,
}

/// From when an age counts.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "camelCase")]
pub enum DocumentSince {
    /// When the object was first written.
    Creation,
    /// When its current content was written.
    Modification,
    /// When it was last read.
    LastAccess,
}

/// How cold objects lie in the tier.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "camelCase")]
pub enum DocumentLayout {
    /// Many objects in packs: few requests, deduplicated, no price for small objects.
    #[default]
    Packed,
    /// One remote object per object. Planned; refused in this version.
    Native,
}

/// The JSON Schema (draft 2020-12) of a policy document, for editors.
pub fn schema() -> Value {
    let mut schema = schemars::schema_for!(Document).to_value();
    without_null(&mut schema);
    schema
}

/// A field may be left out, but not be there without a value: the reader refuses that.
fn without_null(schema: &mut Value) {
    match schema {
        Value::Array(items) => items.iter_mut().for_each(without_null),
        Value::Object(map) => {
            if let Some(Value::Array(kinds)) = map.get_mut("type") {
                kinds.retain(|kind| kind != "null");
                if let [only] = kinds.as_slice() {
                    let only = only.clone();
                    map.insert("type".to_owned(), only);
                }
            }
            if let Some(Value::Array(choices)) = map.get_mut("anyOf") {
                choices.retain(|choice| choice["type"] != "null");
                if let [Value::Object(only)] = choices.as_slice() {
                    let only = only.clone();
                    map.remove("anyOf");
                    map.extend(only);
                }
            }
            map.values_mut().for_each(without_null);
        }
        _ => {}
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// The properties of the schema of one type, sorted.
    fn properties<'a>(schema: &'a Value, definition: &str) -> Vec<&'a str> {
        let node = if definition.is_empty() { schema } else { &schema["$defs"][definition] };
        assert_eq!(node["additionalProperties"], Value::Bool(false), "{definition:?} is open");
        let mut names: Vec<&str> = node["properties"].as_object().unwrap().keys().map(String::as_str).collect();
        names.sort_unstable();
        names
    }

    #[test]
    fn the_schema_has_exactly_the_fields_that_the_parser_reads() {
        let schema = schema();
        for (definition, fields) in crate::parse::all_fields() {
            let mut fields = fields.to_vec();
            fields.sort_unstable();
            assert_eq!(properties(&schema, definition), fields, "{definition:?}");
        }
    }

    #[test]
    fn the_schema_refuses_what_the_reader_refuses_in_a_transition_and_fields_without_a_value() {
        let schema = schema();
        assert!(!serde_json::to_string(&schema).unwrap().contains("null"));
        let transition = &schema["$defs"]["DocumentTransition"];
        assert_eq!(transition["oneOf"][1]["required"][0], "whenFull");
        assert_eq!(transition["dependentRequired"]["since"][0], "after");
        assert_eq!(schema["$defs"]["DocumentRule"]["properties"]["filter"]["$ref"], "#/$defs/DocumentFilter");
        assert_eq!(schema["$defs"]["SizeRange"]["properties"]["min"]["type"], "string");
    }

    #[test]
    fn the_schema_describes_every_field_and_closes_every_object() {
        let schema = schema();
        let text = serde_json::to_string(&schema).unwrap();
        for part in ["tidegate/v1", "LifecyclePolicy", "DeepColdArchive", "lastAccess", "native", "(d|h|m|s)$", "KiB"] {
            assert!(text.contains(part), "{part} is not in the schema");
        }
        let definitions = schema["$defs"].as_object().unwrap();
        for (name, definition) in definitions.iter().map(|(n, d)| (n.as_str(), d)).chain([("", &schema)]) {
            let Some(properties) = definition["properties"].as_object() else { continue };
            assert_eq!(definition["additionalProperties"], Value::Bool(false), "{name}");
            for (field, property) in properties {
                assert!(property["description"].is_string(), "{name}.{field} has no description");
            }
        }
    }
}
