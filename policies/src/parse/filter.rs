//! Reading the filter of a rule.

use super::MAX_PAIRS;
use super::fields::{Fields, entries, join, text};
use super::node::Node;
use crate::diagnostic::{Place, Sink};
use crate::filter::{Filter, Pattern, slashes};
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
    repeated_metadata(&fields, &filter, sink, &mut ok);
    let max_at = size(&fields, &mut filter, sink, &mut ok);
    if ok {
        ok = keys_can_match(&fields, &filter, sink);
    }
    ok.then_some((filter, max_at))
}

/// Names of user metadata in different letters are one name.
fn repeated_metadata(fields: &Fields<'_>, filter: &Filter, sink: &mut Sink, ok: &mut bool) {
    let names: Vec<&str> = filter.metadata.iter().map(|(name, _)| name.as_str()).collect();
    let twice = names.iter().enumerate().find(|(i, name)| names.iter().take(*i).any(|earlier| earlier == *name));
    if let Some((_, name)) = twice {
        let message =
            format!("`{name}` is given twice: case and `x-amz-meta-` make no difference in names of metadata");
        sink.error(fields.key_at("metadata"), &fields.path_of("metadata"), message, "keep one of the two");
        *ok = false;
    }
}

/// False when `glob` excludes whatever `prefix` or `suffix` lets pass. Only what the texts show plainly is proven.
fn keys_can_match(fields: &Fields<'_>, filter: &Filter, sink: &mut Sink) -> bool {
    let Some(glob) = &filter.glob else { return true };
    let Some((begin, end)) = glob.fixed_ends() else { return true };
    let apart = |a: &str, b: &str| !a.starts_with(b) && !b.starts_with(a);
    let (prefix, suffix) = (filter.prefix.as_deref().unwrap_or(""), filter.suffix.as_deref().unwrap_or(""));
    let at_prefix = apart(begin, prefix) || glob.folders().is_some_and(|folders| slashes(prefix) > folders);
    let at_suffix = !end.ends_with(suffix) && !suffix.ends_with(end);
    let (field, text) = match (at_prefix, at_suffix) {
        (true, _) => ("prefix", prefix),
        (false, true) => ("suffix", suffix),
        (false, false) => return true,
    };
    let message =
        format!("no key fits both the {field} {text:?} and the glob {:?}, so the rule would never match", glob.text);
    let help = match field {
        "prefix" => {
            format!("the glob is about the whole key: write the {field} into it, such as \"{text}**\", or remove one")
        }
        _ => format!("the glob is about the whole key: write the {field} into it, such as \"**{text}\", or remove one"),
    };
    sink.error(fields.key_at("glob"), &fields.path_of("glob"), message, help);
    false
}

/// Whether a bucket can have this name.
pub(super) fn is_bucket_name(name: &str) -> bool {
    let letters = name.bytes().all(|b| b.is_ascii_lowercase() || b.is_ascii_digit() || b == b'-' || b == b'.');
    letters && (3..=63).contains(&name.len())
}

fn bucket(fields: &Fields<'_>, sink: &mut Sink, ok: &mut bool) -> Option<String> {
    fields.get("bucket")?;
    let Some((at, name)) = fields.text("bucket", sink) else {
        *ok = false;
        return None;
    };
    if !is_bucket_name(name) {
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

pub(super) fn pattern(
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
