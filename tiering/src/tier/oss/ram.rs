//! The least RAM policy of a tier's key, generated from the operations that are used.
//!
//! [`rule`] is the one place that says which operation needs which action, where, and who uses it. Being a `match`, it does
//! not compile when an operation is added and nobody has thought about it. The simulator has a table of its own, which
//! shares no code with this one, so that a mistake in either shows in the tests.

use super::settings::OssSettings;
use crate::tier::error::TierError;
use crate::tier::metrics::Operation;
use serde::Serialize;

/// What a policy is to be enough for.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum RamPurpose {
    /// What the engine does with the tier: write, read, restore, delete, and the listings of `tidegate fsck`.
    Engine,
    /// `tidegate tier probe`.
    Probe,
    /// `tidegate tier conformance`.
    Conformance,
    /// All of that on a bucket that keeps versions.
    Versions,
}

use RamPurpose::{Conformance, Engine, Probe, Versions};

/// What an action is allowed on.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Scope {
    /// Objects below the tier's prefix.
    Objects,
    /// The bucket itself.
    Bucket,
}

/// What an operation needs, and who uses it.
struct Rule {
    actions: &'static [&'static str],
    scope: Scope,
    users: &'static [RamPurpose],
    /// Used by engine and probe with archive classes only.
    archive_only: bool,
}

const fn objects(actions: &'static [&'static str], users: &'static [RamPurpose]) -> Rule {
    Rule { actions, scope: Scope::Objects, users, archive_only: false }
}

const fn bucket(actions: &'static [&'static str], users: &'static [RamPurpose]) -> Rule {
    Rule { actions, scope: Scope::Bucket, users, archive_only: false }
}

/// The action names are those of the vendor's authorization tables; that of CleanRestoredObject is in none that we have, and
/// assumed to follow the pattern of the others (`docs/oss.md`, assumptions).
const fn rule(operation: Operation) -> Rule {
    const ALL: &[RamPurpose] = &[Engine, Probe, Conformance];
    match operation {
        Operation::PutObject => objects(&["oss:PutObject"], ALL),
        Operation::InitiateMultipartUpload | Operation::UploadPart | Operation::CompleteMultipartUpload => {
            objects(&["oss:PutObject"], &[Engine, Conformance])
        }
        Operation::GetObject | Operation::HeadObject => objects(&["oss:GetObject"], ALL),
        Operation::GetObjectMeta => objects(&["oss:GetObject"], &[Conformance]),
        Operation::DeleteObject => objects(&["oss:DeleteObject"], ALL),
        Operation::DeleteMultipleObjects => objects(&["oss:DeleteObject"], &[Conformance]),
        Operation::CopyObject | Operation::UploadPartCopy => {
            objects(&["oss:GetObject", "oss:PutObject"], &[Conformance])
        }
        Operation::AbortMultipartUpload => objects(&["oss:AbortMultipartUpload"], &[Engine, Conformance]),
        Operation::ListParts => objects(&["oss:ListParts"], &[Conformance]),
        Operation::ListMultipartUploads => bucket(&["oss:ListMultipartUploads"], ALL),
        Operation::ListObjectsV2 => bucket(&["oss:ListObjects"], ALL),
        Operation::ListObjectVersions => bucket(&["oss:ListObjectVersions"], &[Versions]),
        Operation::RestoreObject => Rule { archive_only: true, ..objects(&["oss:RestoreObject"], ALL) },
        Operation::CleanRestoredObject => objects(&["oss:CleanRestoredObject"], &[Conformance]),
        Operation::PutObjectTagging => objects(&["oss:PutObjectTagging"], &[Conformance]),
        Operation::GetObjectTagging => objects(&["oss:GetObjectTagging"], &[Conformance]),
        Operation::DeleteObjectTagging => objects(&["oss:DeleteObjectTagging"], &[Conformance]),
        Operation::GetBucketInfo => bucket(&["oss:GetBucketInfo"], &[Conformance]),
        Operation::GetBucketLifecycle => bucket(&["oss:GetBucketLifecycle"], &[Conformance]),
        Operation::PutBucketLifecycle => bucket(&["oss:PutBucketLifecycle"], &[]),
        // No request: whoever uses the URL sends a GetObject or PutObject in our name.
        Operation::PresignObject => objects(&[], &[]),
    }
}

/// What an operation needs besides where it names a version.
const fn of_version(operation: Operation) -> Option<&'static str> {
    match operation {
        Operation::DeleteObject => Some("oss:DeleteObjectVersion"),
        _ => None,
    }
}

/// A RAM policy document.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
#[serde(rename_all = "PascalCase")]
pub struct RamPolicy {
    /// Version of the policy language.
    version: &'static str,
    /// What is allowed.
    statement: Vec<RamStatement>,
}

/// One statement of a policy.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
#[serde(rename_all = "PascalCase")]
pub struct RamStatement {
    effect: &'static str,
    action: Vec<&'static str>,
    resource: Vec<String>,
}

impl RamPolicy {
    /// The least policy that is enough for `purposes` with the tier of `settings`.
    ///
    /// # Errors
    /// `Invalid` when the tier's prefix holds a character that a policy takes for a wildcard: it would allow more than
    /// was meant.
    pub fn least(settings: &OssSettings, purposes: &[RamPurpose]) -> Result<Self, TierError> {
        if settings.prefix.contains(['*', '?', '$']) {
            let text =
                format!("prefix {:?}: a RAM policy gives *, ? and $ a meaning; use another prefix", settings.prefix);
            return Err(TierError::invalid("settings", "", text));
        }
        let bucket = format!("acs:oss:*:*:{}", settings.bucket);
        let objects = match settings.prefix.trim_end_matches('/') {
            "" => format!("{bucket}/*"),
            prefix => format!("{bucket}/{prefix}/*"),
        };
        let archive = settings.storage_class.is_archive();
        let mut statement = Vec::new();
        for (scope, resource) in [(Scope::Objects, objects), (Scope::Bucket, bucket)] {
            let action = actions(scope, purposes, archive);
            if !action.is_empty() {
                statement.push(RamStatement { effect: "Allow", action, resource: vec![resource] });
            }
        }
        Ok(Self { version: "1", statement })
    }

    /// Every action that it allows, in its order.
    pub fn actions(&self) -> Vec<&'static str> {
        self.statement.iter().flat_map(|statement| statement.action.iter().copied()).collect()
    }
}

/// The actions of `scope`, each once, in the order of the operations.
fn actions(scope: Scope, purposes: &[RamPurpose], archive: bool) -> Vec<&'static str> {
    let mut all: Vec<&'static str> = Vec::new();
    for (operation, rule) in Operation::ALL.into_iter().map(|o| (o, rule(o))).filter(|(_, rule)| rule.scope == scope) {
        // The conformance run has archived objects of its own, whatever the tier's class.
        let used = |purpose: &RamPurpose| {
            rule.users.contains(purpose) && (archive || !rule.archive_only || *purpose == Conformance)
        };
        if purposes.iter().any(used) {
            let versions = of_version(operation).filter(|_| purposes.contains(&Versions));
            let needed = rule.actions.iter().copied().chain(versions);
            all.extend(needed.filter(|action| !all.contains(action)).collect::<Vec<_>>());
        }
    }
    all
}

/// The operations that `purpose` uses with a tier of an archive class; for the tests that watch what is really asked.
#[doc(hidden)]
pub fn operations_of(purpose: RamPurpose) -> Vec<&'static str> {
    Operation::ALL.into_iter().filter(|o| rule(*o).users.contains(&purpose)).map(Operation::name).collect()
}

#[cfg(test)]
mod tests {
    use super::super::settings::StorageClass;
    use super::*;

    fn settings(class: StorageClass, prefix: &str) -> OssSettings {
        let mut settings = OssSettings::new("oss-cn-hangzhou.aliyuncs.com", "cn-hangzhou", "example-cold");
        settings.storage_class = class;
        settings.prefix = prefix.to_owned();
        settings
    }

    fn resources(policy: &RamPolicy) -> Vec<&str> {
        policy.statement.iter().flat_map(|s| s.resource.iter().map(String::as_str)).collect()
    }

    #[test]
    fn objects_are_those_of_the_prefix_and_listings_are_of_the_bucket() {
        for (prefix, objects) in [
            ("tidegate/ia", "acs:oss:*:*:example-cold/tidegate/ia/*"),
            ("tidegate/ia/", "acs:oss:*:*:example-cold/tidegate/ia/*"),
            ("", "acs:oss:*:*:example-cold/*"),
        ] {
            let policy = RamPolicy::least(&settings(StorageClass::IA, prefix), &[Engine, Probe]).unwrap();
            assert_eq!(resources(&policy), [objects, "acs:oss:*:*:example-cold"]);
        }
    }

    #[test]
    fn restores_are_allowed_where_there_are_any_and_listings_where_they_are_used() {
        let actions =
            |class, purposes: &[RamPurpose]| RamPolicy::least(&settings(class, "p"), purposes).unwrap().actions();
        let engine = ["oss:PutObject", "oss:GetObject", "oss:DeleteObject", "oss:AbortMultipartUpload"];
        let mut online = engine.to_vec();
        online.extend(["oss:ListMultipartUploads", "oss:ListObjects"]);
        assert_eq!(actions(StorageClass::IA, &[Engine]), online);
        assert!(actions(StorageClass::Archive, &[Engine]).contains(&"oss:RestoreObject"));
        assert!(!actions(StorageClass::IA, &[Engine]).contains(&"oss:RestoreObject"));
        assert!(actions(StorageClass::IA, &[Probe]).contains(&"oss:ListObjects"));
        assert!(actions(StorageClass::IA, &[Conformance]).contains(&"oss:RestoreObject"));
        let versions = actions(StorageClass::IA, &[Engine, Versions]);
        assert!(versions.contains(&"oss:DeleteObjectVersion") && versions.contains(&"oss:ListObjectVersions"));
        assert_eq!(versions.len(), online.len() + 2);
        let all = actions(StorageClass::IA, &[Engine, Probe, Conformance]);
        assert!(all.iter().all(|action| !action.starts_with("oss:PutBucket")), "{all:?}");
    }

    #[test]
    fn a_prefix_that_a_policy_would_take_for_a_pattern_is_refused() {
        for prefix in ["a*", "a?b", "a$b"] {
            let error = RamPolicy::least(&settings(StorageClass::IA, prefix), &[Engine]).unwrap_err();
            assert!(error.to_string().contains(prefix), "{error}");
        }
    }
}
