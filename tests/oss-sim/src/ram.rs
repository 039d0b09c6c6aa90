//! RAM policies of access keys: a subset (Effect Allow, Action, Resource with wildcards) that is enough to prove that a policy is
//! the least one. A key without a policy may do everything.

use crate::copy;
use crate::error::OssError;
use crate::request::Req;
use crate::sim::{Sim, lock};
use serde::Deserialize;

/// The account that owns everything here.
const ACCOUNT: &str = "1234567890123456";

/// A policy document.
#[derive(Debug, Clone, Deserialize)]
#[serde(rename_all = "PascalCase", deny_unknown_fields)]
pub struct Policy {
    version: String,
    statement: Vec<Statement>,
}

#[derive(Debug, Clone, Deserialize)]
#[serde(rename_all = "PascalCase", deny_unknown_fields)]
struct Statement {
    effect: String,
    action: OneOrMany,
    resource: OneOrMany,
}

#[derive(Debug, Clone, Deserialize)]
#[serde(untagged)]
enum OneOrMany {
    One(String),
    Many(Vec<String>),
}

impl OneOrMany {
    fn list(&self) -> &[String] {
        match self {
            OneOrMany::One(one) => std::slice::from_ref(one),
            OneOrMany::Many(many) => many,
        }
    }
}

impl Policy {
    /// Reads a document.
    ///
    /// # Errors
    /// What is wrong with it, or not simulated.
    pub fn parse(text: &str) -> Result<Policy, String> {
        let policy: Policy = serde_json::from_str(text).map_err(|e| e.to_string())?;
        policy.check()?;
        Ok(policy)
    }

    pub(crate) fn check(&self) -> Result<(), String> {
        if self.version != "1" {
            return Err(format!("Version {:?}: it must be \"1\"", self.version));
        }
        for statement in &self.statement {
            if statement.effect != "Allow" {
                return Err(format!("Effect {:?}: only Allow is simulated", statement.effect));
            }
            if let Some(wrong) = statement.resource.list().iter().find(|r| !r.starts_with("acs:oss:")) {
                return Err(format!("Resource {wrong:?}: it must start with acs:oss:"));
            }
        }
        Ok(())
    }

    fn allows(&self, action: &str, resource: &str) -> bool {
        let any = |list: &OneOrMany, text: &str| {
            list.list().iter().any(|pattern| matches(pattern.as_bytes(), text.as_bytes()))
        };
        self.statement.iter().any(|s| any(&s.action, action) && any(&s.resource, resource))
    }
}

/// Whether `text` fits `pattern`, in which `*` stands for any text and `?` for one character.
fn matches(pattern: &[u8], text: &[u8]) -> bool {
    match (pattern.split_first(), text.split_first()) {
        (None, None) => true,
        (Some((b'*', rest)), _) => (0..=text.len()).any(|skip| matches(rest, &text[skip..])),
        (Some((b'?', rest)), Some((_, more))) => matches(rest, more),
        (Some((want, rest)), Some((got, more))) => want == got && matches(rest, more),
        (Some(_), None) | (None, Some(_)) => false,
    }
}

/// The action that an operation needs on its own resource. `None`: nobody with a policy may do it here.
fn action_of(op: &str) -> Option<&'static str> {
    Some(match op {
        "PutObject" | "CopyObject" | "AppendObject" | "PutSymlink" => "oss:PutObject",
        "InitiateMultipartUpload" | "UploadPart" | "UploadPartCopy" | "CompleteMultipartUpload" => "oss:PutObject",
        "GetObject" | "HeadObject" | "GetObjectMeta" | "GetSymlink" => "oss:GetObject",
        "DeleteObject" => "oss:DeleteObject",
        "RestoreObject" => "oss:RestoreObject",
        "CleanRestoredObject" => "oss:CleanRestoredObject",
        "AbortMultipartUpload" => "oss:AbortMultipartUpload",
        "ListParts" => "oss:ListParts",
        "PutObjectTagging" => "oss:PutObjectTagging",
        "GetObjectTagging" => "oss:GetObjectTagging",
        "DeleteObjectTagging" => "oss:DeleteObjectTagging",
        "GetObjectACL" => "oss:GetObjectAcl",
        "PutObjectACL" => "oss:PutObjectAcl",
        "ListMultipartUploads" => "oss:ListMultipartUploads",
        "ListObjects" | "ListObjectsV2" | "HeadBucket" => "oss:ListObjects",
        "ListObjectVersions" => "oss:ListObjectVersions",
        "ListBuckets" => "oss:ListBuckets",
        "PutBucket" => "oss:PutBucket",
        "DeleteBucket" => "oss:DeleteBucket",
        "GetBucketInfo" => "oss:GetBucketInfo",
        "GetBucketLocation" => "oss:GetBucketLocation",
        "GetBucketStat" => "oss:GetBucketStat",
        "GetBucketAcl" => "oss:GetBucketAcl",
        "PutBucketAcl" => "oss:PutBucketAcl",
        "GetBucketVersioning" => "oss:GetBucketVersioning",
        "PutBucketVersioning" => "oss:PutBucketVersioning",
        "GetBucketLifecycle" => "oss:GetBucketLifecycle",
        "PutBucketLifecycle" => "oss:PutBucketLifecycle",
        "DeleteBucketLifecycle" => "oss:DeleteBucketLifecycle",
        "GetBucketArchiveDirectRead" => "oss:GetBucketArchiveDirectRead",
        "PutBucketArchiveDirectRead" => "oss:PutBucketArchiveDirectRead",
        _ => return None,
    })
}

/// The action that an operation on a named version needs.
fn action_of_version(op: &str) -> Option<&'static str> {
    Some(match op {
        "GetObject" | "HeadObject" | "GetObjectMeta" => "oss:GetObjectVersion",
        "DeleteObject" => "oss:DeleteObjectVersion",
        "RestoreObject" => "oss:RestoreObjectVersion",
        "PutObjectTagging" => "oss:PutObjectVersionTagging",
        "GetObjectTagging" => "oss:GetObjectVersionTagging",
        "DeleteObjectTagging" => "oss:DeleteObjectVersionTagging",
        other => action_of(other)?,
    })
}

/// Whether the caller may do `op`, as far as the head of the request tells. DeleteMultipleObjects names its objects in the
/// body and asks [`permit`] for each.
///
/// # Errors
/// 403 AccessDenied.
pub fn authorize(sim: &Sim, req: &Req, op: &str) -> Result<(), OssError> {
    if op == "DeleteMultipleObjects" || !has_policy(sim, req) {
        return Ok(());
    }
    let bucket = req.bucket.as_deref().unwrap_or("*");
    let action = match req.query.has("versionId") {
        true => action_of_version(op),
        false => action_of(op),
    };
    let action = action.ok_or_else(|| denied(op, bucket))?;
    permit(sim, req, action, (bucket, req.key.as_deref()))?;
    if req.headers.contains_key("x-oss-copy-source") {
        let source = copy::source(req)?;
        let action = if source.names_a_version() { "oss:GetObjectVersion" } else { "oss:GetObject" };
        let (bucket, key) = source.into_names();
        permit(sim, req, action, (&bucket, Some(&key)))?;
    }
    if req.headers.contains_key("x-oss-tagging") {
        permit(sim, req, "oss:PutObjectTagging", (bucket, req.key.as_deref()))?;
    }
    Ok(())
}

fn has_policy(sim: &Sim, req: &Req) -> bool {
    lock(&sim.policies).contains_key(&req.caller)
}

/// Whether the caller may do `action` on an object, or on the bucket when there is no key.
///
/// # Errors
/// 403 AccessDenied.
pub fn permit(sim: &Sim, req: &Req, action: &str, (bucket, key): (&str, Option<&str>)) -> Result<(), OssError> {
    let name = key.map_or_else(|| bucket.to_string(), |key| format!("{bucket}/{key}"));
    let resource = format!("acs:oss:oss-{}:{ACCOUNT}:{name}", sim.region);
    match lock(&sim.policies).get(&req.caller) {
        Some(policy) if !policy.allows(action, &resource) => Err(denied(action, &resource)),
        _ => Ok(()),
    }
}

fn denied(action: &str, resource: &str) -> OssError {
    OssError::access_denied("You have no right to access this object because of bucket acl.")
        .with("AuthAction", action)
        .with("AuthResource", resource)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn policy(action: &str, resource: &str) -> Policy {
        let text = format!(
            r#"{{"Version":"1","Statement":[{{"Effect":"Allow","Action":"{action}","Resource":["{resource}"]}}]}}"#
        );
        Policy::parse(&text).unwrap()
    }

    #[test]
    fn a_pattern_covers_what_is_below_it_and_nothing_beside_it() {
        let below = policy("oss:GetObject", "acs:oss:*:*:b/tide/*");
        let at = |name: &str| format!("acs:oss:oss-cn-hangzhou:1:{name}");
        assert!(below.allows("oss:GetObject", &at("b/tide/a/b")));
        for other in ["b/tid", "b/tidegate/a", "b", "c/tide/a"] {
            assert!(!below.allows("oss:GetObject", &at(other)), "{other}");
        }
        assert!(!below.allows("oss:PutObject", &at("b/tide/a")));
        assert!(policy("oss:*", "acs:oss:*:*:?").allows("oss:ListObjects", &at("b")));
        assert!(!policy("oss:ListObjects", "acs:oss:*:*:b").allows("oss:ListObjects", &at("b/a")));
    }

    #[test]
    fn what_is_not_simulated_is_refused_and_named() {
        for (text, word) in [
            (r#"{"Version":"1","Statement":[{"Effect":"Deny","Action":"a","Resource":"acs:oss:*"}]}"#, "Deny"),
            (r#"{"Version":"2","Statement":[]}"#, "Version"),
            (r#"{"Version":"1","Statement":[{"Effect":"Allow","Action":"a","Resource":"b"}]}"#, "Resource"),
            (
                r#"{"Version":"1","Statement":[{"Effect":"Allow","Action":"a","Resource":"acs:oss:*","Condition":{}}]}"#,
                "Condition",
            ),
        ] {
            let error = Policy::parse(text).unwrap_err();
            assert!(error.contains(word), "{word}: {error}");
        }
    }
}
