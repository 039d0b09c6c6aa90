//! What the policy of a form allows.

use base64::Engine as _;
use base64::engine::general_purpose::STANDARD as BASE64;
use s3s::post_policy::{PostPolicy, PostPolicyCondition as Condition};
use s3s::{S3Error, S3Result, s3_error};
use tidegate_tiering::clock::Timestamp;

use super::fields::Fields;
use super::upload::Range;

/// Fields that a policy need not name: those that carry it, the file, and the button that sends the form.
const FREE: [&str; 6] = ["policy", "signature", "awsaccesskeyid", "x-amz-signature", "file", "submit"];

fn invalid(what: impl std::fmt::Display) -> S3Error {
    s3_error!(
        InvalidPolicyDocument,
        "The content of the form does not meet the conditions specified in the policy document: {what}."
    )
}

fn denied(what: impl std::fmt::Display) -> S3Error {
    s3_error!(AccessDenied, "Invalid according to Policy: {what}.")
}

/// The policy, with the time at which it ends.
fn read(base64: &str) -> S3Result<PostPolicy> {
    // Lines may be broken, as base64 of mails is.
    let packed: String = base64.chars().filter(|c| !c.is_ascii_whitespace()).collect();
    let json = BASE64.decode(packed).ok().and_then(|json| String::from_utf8(json).ok());
    let json = json.ok_or_else(|| invalid("the policy is not the base64 of UTF-8"))?;
    let policy = PostPolicy::from_json(&json).map_err(invalid)?;
    // s3s takes more forms of a time than S3.
    let value: serde_json::Value = serde_json::from_str(&json).map_err(invalid)?;
    let text = value.get("expiration").and_then(serde_json::Value::as_str).unwrap_or_default();
    if text.as_bytes().get(10) != Some(&b'T') || !text.ends_with('Z') {
        return Err(invalid("expiration must be a time such as 2026-01-02T03:04:05.000Z"));
    }
    Ok(policy)
}

/// Whether the form is what its policy allows; gives the sizes that the file may have.
///
/// # Errors
/// `InvalidPolicyDocument` for what is no policy, `AccessDenied` for what it does not allow.
pub(super) fn check(base64: &str, fields: &Fields, bucket: &str, now: Timestamp) -> S3Result<Range> {
    let policy = read(base64)?;
    if now.to_system_time() >= std::time::SystemTime::from(time::OffsetDateTime::from(policy.expiration.clone())) {
        return Err(denied("Policy expired"));
    }
    let value = |field: &str| if field == "bucket" { Some(bucket) } else { fields.get(field) };
    let mut range = Range::default();
    for condition in &policy.conditions {
        match condition {
            Condition::Eq { field, value: wanted } => {
                if value(field) != Some(wanted.as_str()) {
                    return Err(denied(format!("Policy Condition failed: [\"eq\", \"${field}\", \"{wanted}\"]")));
                }
            }
            Condition::StartsWith { field, prefix } => {
                if !value(field).is_some_and(|value| starts_with(field, value, prefix)) {
                    return Err(denied(format!(
                        "Policy Condition failed: [\"starts-with\", \"${field}\", \"{prefix}\"]"
                    )));
                }
            }
            Condition::ContentLengthRange { min, max } => {
                range = Range { min: range.min.max(*min), max: range.max.min(*max) };
            }
        }
    }
    let named = |name: &str| {
        policy.conditions.iter().any(|condition| match condition {
            Condition::Eq { field, .. } | Condition::StartsWith { field, .. } => field == name,
            Condition::ContentLengthRange { .. } => false,
        })
    };
    // A checksum of the file allows nothing.
    let is_free = |name: &str| ["x-ignore-", "x-amz-checksum-"].iter().any(|free| name.starts_with(free));
    let must = |name: &&str| !FREE.contains(name) && !is_free(name);
    if let Some(extra) = fields.names().chain(["bucket"]).filter(must).find(|name| !named(name)) {
        return Err(denied(format!("Extra input fields: {extra}")));
    }
    Ok(range)
}

/// A list of types may be given where one begins with the prefix: each must.
fn starts_with(field: &str, value: &str, prefix: &str) -> bool {
    match field {
        "content-type" => value.split(',').all(|one| one.trim_start().starts_with(prefix)),
        _ => value.starts_with(prefix),
    }
}
