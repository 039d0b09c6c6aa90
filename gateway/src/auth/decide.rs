//! The decision, in its order. `docs/access.md` tells it in words; `tests` compares it with an evaluator that was written from
//! those words alone.

use std::sync::Arc;

use super::acl::{Acl, Permission};
use super::identity::{Caller, Identity};
use super::needs::{Governed, governed};
use super::policy::{Ask, PolicyDocument, Reach, Verdict};
use super::settings::{OwnershipControls, PublicAccessBlock};

/// What a bucket says about who may do what in it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct BucketFacts {
    /// The account that owns it.
    pub owner: String,
    /// Who owns the objects.
    pub controls: OwnershipControls,
    /// Its access control list; `None` is the owner's alone.
    pub acl: Option<Acl>,
    /// Its policy.
    pub policy: Option<Arc<PolicyDocument>>,
    /// Whether the public may be let in.
    pub block: PublicAccessBlock,
}

impl BucketFacts {
    /// Whether the bucket's list alone lets the caller write objects.
    pub fn list_lets_write(&self, caller: &Caller) -> bool {
        let with_public = !self.block.ignore_public_acls;
        let list = self.acl.as_ref().filter(|_| self.controls.ownership.has_acls());
        list.is_some_and(|list| list.reach(caller, Permission::Write, with_public).is_some())
    }
}

/// What an object says about who may do what with it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct ObjectFacts {
    /// The account that owns it.
    pub owner: String,
    /// Its access control list; `None` is the owner's alone.
    pub acl: Option<Acl>,
}

/// Whether it may be done.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Decision {
    /// Something allows it, and nothing denies it.
    Allowed,
    /// Nothing allows it.
    NotAllowed,
    /// The session's policy does not allow it, whatever else does.
    OutsideSession,
    /// A statement denies it.
    Denied,
}

/// The actions that the root of the owner's account always may: else a policy could lock everybody out for ever.
const NEVER_LOCKED: [&str; 3] = ["s3:GetBucketPolicy", "s3:PutBucketPolicy", "s3:DeleteBucketPolicy"];

/// The actions that no policy of a bucket gives to another account, as S3.
const OF_THE_OWNER: [&str; 4] =
    ["s3:GetBucketPolicy", "s3:PutBucketPolicy", "s3:DeleteBucketPolicy", "s3:GetBucketPolicyStatus"];

/// Decides about what belongs to no bucket, or to one that does not exist yet: the caller's own policies say.
pub fn decide_alone(ask: &Ask<'_>) -> Decision {
    let Some(identity) = ask.caller.identity() else { return Decision::NotAllowed };
    let own = own_policies(identity, ask);
    match own {
        Own { denied: true, .. } => Decision::Denied,
        Own { within_session: false, .. } => Decision::OutsideSession,
        Own { allowed: true, .. } => Decision::Allowed,
        _ => Decision::NotAllowed,
    }
}

/// Decides about a bucket, or about an object in it. `object` is called when it matters whose the object is; it gives `None`
/// for one that does not exist.
///
/// # Errors
/// What `object` failed with.
pub fn decide<E>(
    bucket: &BucketFacts,
    ask: &Ask<'_>,
    object: impl FnOnce() -> Result<Option<ObjectFacts>, E>,
) -> Result<Decision, E> {
    let identity = ask.caller.identity();
    let is_owner_root = identity.is_some_and(|identity| identity.user.is_none() && identity.account.id == bucket.owner);
    let of_bucket = bucket.policy.as_ref().map_or(Verdict::default(), |policy| policy.judge(ask));
    if of_bucket.denied && !(is_owner_root && NEVER_LOCKED.contains(&ask.action)) {
        return Ok(Decision::Denied);
    }
    let own = identity.map_or(Own::NOBODY, |identity| own_policies(identity, ask));
    if own.denied {
        return Ok(Decision::Denied);
    }
    if !own.within_session {
        return Ok(Decision::OutsideSession);
    }
    let object = if needs_object(bucket, ask.action) { object()? } else { None };
    let owner = object.as_ref().map_or(&bucket.owner, |object| &object.owner);
    let is_same = ask.caller.is_of(owner);
    let by_policy = of_bucket.allowed.filter(|_| {
        // The bucket's owner can give only what is the bucket owner's.
        *owner == bucket.owner
            // The policy itself stays in the owner's account: a policy for everybody would be everybody's to change.
            && (!OF_THE_OWNER.contains(&ask.action) || ask.caller.is_of(&bucket.owner))
            && !(bucket.block.restrict_public_buckets && policy_is_public(bucket) && !ask.caller.is_of(&bucket.owner))
    });
    let by_acl = by_acl(bucket, object.as_ref(), ask);
    let allowed = match identity {
        None => by_policy.is_some() || by_acl.is_some(),
        Some(Identity { user: None, .. }) if is_same => {
            by_policy.is_some() || by_acl.is_some() || owner_keeps(bucket, object.as_ref(), ask.action)
        }
        Some(_) if is_same => own.allowed || by_policy == Some(Reach::Direct) || by_acl == Some(Reach::Direct),
        // The other account's side is the caller's policies, of which root needs none.
        Some(_) => own.allowed && (by_policy.is_some() || by_acl.is_some()),
    };
    Ok(if allowed { Decision::Allowed } else { Decision::NotAllowed })
}

fn policy_is_public(bucket: &BucketFacts) -> bool {
    bucket.policy.as_ref().is_some_and(|policy| policy.is_public())
}

/// Whether it matters whose the object is: not where the bucket's owner owns all of them, nor for an action that makes or
/// deletes one.
fn needs_object(bucket: &BucketFacts, action: &str) -> bool {
    bucket.controls.ownership.has_acls() && is_about_an_object(action)
}

fn is_about_an_object(action: &str) -> bool {
    match governed(action) {
        Governed::Object(_) => true,
        Governed::Bucket(_) => false,
        Governed::No => matches!(
            action,
            "s3:GetObjectTagging"
                | "s3:GetObjectVersionTagging"
                | "s3:GetObjectRetention"
                | "s3:GetObjectLegalHold"
                | "s3:RestoreObject"
        ),
    }
}

/// What access control lists permit, where they count.
fn by_acl(bucket: &BucketFacts, object: Option<&ObjectFacts>, ask: &Ask<'_>) -> Option<Reach> {
    if !bucket.controls.ownership.has_acls() {
        return None;
    }
    let with_public = !bucket.block.ignore_public_acls;
    match governed(ask.action) {
        Governed::Bucket(permission) => bucket.acl.as_ref()?.reach(ask.caller, permission, with_public),
        Governed::Object(permission) => object?.acl.as_ref()?.reach(ask.caller, permission, with_public),
        Governed::No => None,
    }
}

/// Whether the owner's root needs no grant. An owner may have taken grants from itself, to read or write nothing by mistake; the
/// list itself stays in its hands.
fn owner_keeps(bucket: &BucketFacts, object: Option<&ObjectFacts>, action: &str) -> bool {
    if !bucket.controls.ownership.has_acls() {
        return true;
    }
    let is_of_list = |permission| matches!(permission, Permission::ReadAcp | Permission::WriteAcp);
    match governed(action) {
        Governed::Bucket(permission) => is_of_list(permission) || bucket.acl.is_none(),
        Governed::Object(permission) => is_of_list(permission) || object.is_none_or(|object| object.acl.is_none()),
        Governed::No => true,
    }
}

/// What the caller's own policies say.
#[derive(Clone, Copy)]
struct Own {
    denied: bool,
    allowed: bool,
    within_session: bool,
}

impl Own {
    const NOBODY: Self = Self { denied: false, allowed: false, within_session: true };
}

fn own_policies(identity: &Identity, ask: &Ask<'_>) -> Own {
    let session = identity.session.as_ref().map(|session| session.judge(ask));
    let mut own = Own {
        denied: session.is_some_and(|session| session.denied),
        allowed: identity.user.is_none(),
        within_session: session.is_none_or(|session| session.allowed.is_some()),
    };
    for policy in &identity.policies {
        let verdict = policy.judge(ask);
        own.denied |= verdict.denied;
        own.allowed |= verdict.allowed.is_some();
    }
    own
}
