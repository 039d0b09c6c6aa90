//! Reading the filter of a rule.

use super::MAX_PAIRS;
use super::fields::{Fields, entries, join, text};
use super::node::Node;
use crate::diagnostic::{Place, Sink};
use crate::filter::{Filter, Pattern};
use crate::units::{format_size, parse_size};

pub(crate) const FILTER_FIELDS: &[&str] =
    &["bucket", "prefix", "suffix", "glob", "tags", "size", "contentType", "metadata"];
pub(crate) const SIZE_FIELDS: &[&str] = &["min", "max"];

/// The filter and the place of its largest size. `None` when a part could not be read.
pub(crate) fn read(node: &Node, path: &str, sink: &mut Sink) -> Option<(Filter, Place)> {
    let fields = Fields::read(node, path, FILTER_FIELDS, sink)?;
    let mut ok = true;
    let mut filter = Filter {
        bucket: bucket(&fields, sink, &mut ok),
        prefix: key_part(&fields, "prefix", sink, &mut ok),
        suffix: key_part(&fields, "suffix", sink, &mut ok),
        glob: pattern(&fields, "glob", Pattern::for_keys, sink, &mut ok),
        content_type: pattern(&fields, "contentType", Pattern::for_content_types, sink, &mut ok),
        tags: pairs(&fields, "tags", sink, &mut ok),
        metadata: pairs(&fields, "metadata", sink, &mut ok),
        ..Filter::default()
    };
    for (name, _) in &mut filter.metadata {
        name.make_ascii_lowercase();
        if let Some(bare) = name.strip_prefix("x-amz-meta-") {
            *name = bare.to_owned();
        }
    }
    let max_at = size(&fields, &mut filter, sink, &mut ok);
    ok.then_some((filter, max_at))
}

fn bucket(fields: &Fields<'_>, sink: &mut Sink, ok: &mut bool) -> Option<String> {
    fields.get("bucket")?;
    let Some((at, name)) = fields.text("bucket", sink) else {
        *ok = false;
        return None;
    };
    let letters = name.bytes().all(|b| b.is_ascii_lowercase() || b.is_ascii_digit() || b == b'-' || b == b'.');
    if !letters || !(3..=63).contains(&name.len()) {
        let help = "name one bucket: 3 to 63 lower-case letters, digits, `-` and `.`; without `bucket` a rule is about \
                    all buckets";
        let message = format!("{name:?} is not a bucket name, so the rule would never match");
        sink.error(at, &fields.path_of("bucket"), message, help);
        *ok = false;
    }
    Some(name.to_owned())
}

fn key_part(fields: &Fields<'_>, field: &str, sink: &mut Sink, ok: &mut bool) -> Option<String> {
    fields.get(field)?;
    let Some((at, part)) = fields.text(field, sink) else {
        *ok = false;
        return None;
    };
    if part.contains('*') {
        let help = "a wildcard belongs into `glob`; here it is the letter `*`";
        sink.warning(at, &fields.path_of(field), format!("`*` in a {field} has no special meaning"), help);
    } else if field == "prefix" && part.starts_with('/') {
        let help = "keys rarely begin with `/`; remove it unless yours do";
        sink.warning(at, &fields.path_of(field), "this prefix begins with `/`", help);
    }
    Some(part.to_owned())
}

fn pattern(
    fields: &Fields<'_>,
    field: &str,
    compile: impl Fn(&str) -> Result<Pattern, globset::Error>,
    sink: &mut Sink,
    ok: &mut bool,
) -> Option<Pattern> {
    fields.get(field)?;
    let Some((at, text)) = fields.text(field, sink) else {
        *ok = false;
        return None;
    };
    if text.is_empty() {
        let help = "remove the line to match everything";
        sink.error(at, &fields.path_of(field), "an empty pattern never matches", help);
        *ok = false;
    }
    match compile(text) {
        Ok(pattern) => Some(pattern),
        Err(error) => {
            let help = "`*` is any text up to a `/`, `**` any folders, `?` one letter, [abc] one of these, {a,b} one of \
                        these words; `\\` before a letter takes its meaning away";
            let message = format!("{text:?} is not a valid pattern: {}", error.kind());
            sink.error(at, &fields.path_of(field), message, help);
            *ok = false;
            None
        }
    }
}

fn pairs(fields: &Fields<'_>, field: &str, sink: &mut Sink, ok: &mut bool) -> Vec<(String, String)> {
    let Some(node) = fields.get(field) else { return Vec::new() };
    let path = fields.path_of(field);
    let Some(found) = entries(node, &path, sink) else {
        *ok = false;
        return Vec::new();
    };
    if found.len() > MAX_PAIRS {
        let message = format!("{} conditions are too many, the limit is {MAX_PAIRS}", found.len());
        sink.error(node.at, &path, message, "an object has at most 10 tags; keep the ones that decide");
        *ok = false;
        return Vec::new();
    }
    let mut pairs = Vec::with_capacity(found.len());
    for entry in found {
        match text(&entry.node, &join(&path, &entry.key), sink) {
            Some(value) => pairs.push((entry.key.clone(), value.to_owned())),
            None => *ok = false,
        }
    }
    pairs
}

/// Fills in the size range; returns the place of the largest size.
fn size(fields: &Fields<'_>, filter: &mut Filter, sink: &mut Sink, ok: &mut bool) -> Place {
    let Some(node) = fields.get("size") else { return fields.at };
    let path = fields.path_of("size");
    let Some(range) = Fields::read(node, &path, SIZE_FIELDS, sink) else {
        *ok = false;
        return fields.at;
    };
    let min = range.parsed("min", sink, parse_size);
    let max = range.parsed("max", sink, parse_size);
    *ok &= min.is_some() == range.get("min").is_some() && max.is_some() == range.get("max").is_some();
    if let (Some((_, min)), Some((at, max))) = (&min, &max)
        && min > max
    {
        let message = format!(
            "the largest size {} is below the smallest, {}, so the rule would never match",
            format_size(*max),
            format_size(*min)
        );
        sink.error(*at, &range.path_of("max"), message, "swap the two, or remove one");
        *ok = false;
    }
    filter.min_size = min.map(|(_, m)| m);
    filter.max_size = max.as_ref().map(|(_, m)| *m);
    max.map_or(range.at, |(at, _)| at)
}
