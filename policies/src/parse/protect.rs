//! Reading the protections: which buckets' bodies are in a tier as well.

use super::decode::target;
use super::draft::{At, DraftProtection};
use super::fields::Fields;
use super::filter::{is_bucket_name, pattern};
use super::node::Node;
use crate::diagnostic::Sink;
use crate::filter::Pattern;
use crate::policy::Tier;

pub(crate) const PROTECTION_FIELDS: &[&str] = &["bucket", "to", "status"];

pub(super) fn read(node: &Node, path: &str, tiers: &[At<Tier>], sink: &mut Sink) -> Option<DraftProtection> {
    let fields = Fields::read(node, path, PROTECTION_FIELDS, sink)?;
    let status = fields.word("status", &[("enabled", true), ("disabled", false)], sink);
    let tier = target(&fields, tiers, sink);
    let help = "add `bucket:` with a bucket's name or a pattern such as \"media-*\"";
    let node = fields.required("bucket", help, sink)?;
    let mut ok = true;
    let bucket = pattern(&fields, "bucket", Pattern::for_keys, sink, &mut ok).filter(|_| ok)?;
    if bucket.literal && !is_bucket_name(&bucket.text) {
        let help =
            "name a bucket (3 to 63 lower-case letters, digits, `-` and `.`), or write a pattern such as \"media-*\"";
        let message = format!("{:?} is not a bucket name, so nothing would be protected", bucket.text);
        sink.error(node.at, &fields.path_of("bucket"), message, help);
        return None;
    }
    let bucket = At { at: node.at, value: bucket };
    Some(DraftProtection {
        path: path.to_owned(),
        bucket,
        tier: tier?,
        enabled: status.is_none_or(|(_, enabled)| enabled),
    })
}
