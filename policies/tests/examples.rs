//! The shipped examples are policies without a single finding, and fit the schema's types.

#![allow(clippy::unwrap_used, clippy::panic)]

use tidegate_policies::{Report, check, document::Document};

const EXAMPLES: [(&str, &str); 4] = [
    ("backup.yaml", include_str!("../examples/backup.yaml")),
    ("logs.yaml", include_str!("../examples/logs.yaml")),
    ("protected.yaml", include_str!("../examples/protected.yaml")),
    ("data-lake.yaml", include_str!("../examples/data-lake.yaml")),
];

#[test]
fn every_example_is_clean() {
    for (name, text) in EXAMPLES {
        let Report { policy, diagnostics } = check(name, text, &Default::default());
        assert!(diagnostics.is_empty(), "{}", diagnostics.iter().map(|d| format!("{d}\n")).collect::<String>());
        let policy = policy.unwrap();
        assert_eq!(format!("{}.yaml", policy.name()), name);
        assert!(!policy.rules().is_empty());
    }
}

#[test]
fn every_example_fits_the_types_that_the_schema_is_made_of() {
    for (name, text) in EXAMPLES {
        let document: Document = serde_saphyr::from_str(text).unwrap_or_else(|e| panic!("{name}: {e}"));
        // And what a tool writes from these types is a policy again.
        let json = serde_json::to_string_pretty(&document).unwrap();
        assert!(check(name, &json, &Default::default()).policy.is_some(), "{name}:\n{json}");
    }
}

/// Every key of `value` exists in the schema node that stands at the same place.
fn keys_exist(schema: &serde_json::Value, node: &serde_json::Value, value: &serde_json::Value, path: &str) {
    let node = match node["$ref"].as_str().or_else(|| node["anyOf"][0]["$ref"].as_str()) {
        Some(reference) => &schema["$defs"][reference.trim_start_matches("#/$defs/")],
        None => node,
    };
    match value {
        serde_json::Value::Object(map) => {
            for (key, value) in map {
                let property = &node["properties"][key];
                let open = &node["additionalProperties"];
                assert!(property.is_object() || open.is_object(), "{path}.{key} is not in the schema");
                keys_exist(schema, if property.is_object() { property } else { open }, value, &format!("{path}.{key}"));
            }
        }
        serde_json::Value::Array(items) => {
            items.iter().for_each(|item| keys_exist(schema, &node["items"], item, path));
        }
        _ => {}
    }
}

#[test]
fn every_key_of_the_examples_is_in_the_schema() {
    let schema = tidegate_policies::schema();
    for (name, text) in EXAMPLES {
        let value: serde_json::Value = serde_saphyr::from_str(text).unwrap();
        keys_exist(&schema, &schema, &value, name);
    }
}
