//! Access control lists as requests bring them and answers show them.

use http::HeaderMap;
use s3s::dto::{self, AccessControlPolicy, Grantee as DtoGrantee, Permission as DtoPermission, Type};
use s3s::{S3Error, S3ErrorCode, S3Request, S3Result, s3_error};
use tidegate_tiering::engine::{ObjectAttributes, Retention};

use super::admit::{Admitted, caller_of};
use super::authority::Authority;
use super::{Gateway, lock};
use crate::auth::acl::{Acl, Grant, Grantee, MAX_GRANTS, Permission};
use crate::auth::decide::BucketFacts;
use crate::auth::identity::{Caller, IdentitySource};
use crate::auth::settings::Ownership;

/// The headers that bring grants.
const GRANT_HEADERS: [(&str, Permission); 5] = [
    ("x-amz-grant-full-control", Permission::FullControl),
    ("x-amz-grant-read", Permission::Read),
    ("x-amz-grant-write", Permission::Write),
    ("x-amz-grant-read-acp", Permission::ReadAcp),
    ("x-amz-grant-write-acp", Permission::WriteAcp),
];

/// The list that the headers of a request bring: a canned one or grants; `None` when there are none.
///
/// # Errors
/// `InvalidArgument`, `InvalidRequest`, `UnresolvableGrantByEmailAddress`.
pub(crate) fn of_headers(
    headers: &HeaderMap,
    identities: &dyn IdentitySource,
    owner: &str,
    bucket_owner: &str,
) -> S3Result<Option<Acl>> {
    let canned = headers.get("x-amz-acl").map(|value| String::from_utf8_lossy(value.as_bytes()).into_owned());
    let mut grants = Vec::new();
    for (name, permission) in GRANT_HEADERS {
        for value in headers.get_all(name) {
            let text = value.to_str().map_err(|_| s3_error!(InvalidArgument, "{name} is not text."))?;
            for word in text.split(',').filter(|word| !word.trim().is_empty()) {
                grants.push(Grant { grantee: grantee_of_word(name, word, identities)?, permission });
            }
        }
    }
    match canned {
        Some(_) if !grants.is_empty() => {
            Err(s3_error!(InvalidRequest, "Specifying both Canned ACLs and Header Grants is not allowed"))
        }
        Some(name) => Acl::canned(&name, owner, bucket_owner)
            .map(Some)
            .ok_or_else(|| s3_error!(InvalidArgument, "x-amz-acl is {name}, which is no access control list of S3.")),
        None if grants.is_empty() => Ok(None),
        None => checked(Acl(grants)).map(Some),
    }
}

/// `id="..."`, `uri="..."` or `emailAddress="..."`.
fn grantee_of_word(header: &str, word: &str, identities: &dyn IdentitySource) -> S3Result<Grantee> {
    let (kind, value) = word
        .split_once('=')
        .ok_or_else(|| s3_error!(InvalidArgument, "{header}: a grantee is written as id=, uri= or emailAddress=."))?;
    let value = value.trim().trim_matches('"');
    match kind.trim() {
        "id" => account(value, identities),
        "uri" => group(value),
        "emailAddress" => by_email(value, identities),
        other => Err(s3_error!(InvalidArgument, "{header}: {other} is none of id, uri and emailAddress.")),
    }
}

fn account(id: &str, identities: &dyn IdentitySource) -> S3Result<Grantee> {
    let known = identities.account(id).ok_or_else(|| s3_error!(InvalidArgument, "Invalid id: no account has it."))?;
    Ok(Grantee::Account(known.id.clone()))
}

fn group(uri: &str) -> S3Result<Grantee> {
    Grantee::by_uri(uri).ok_or_else(|| s3_error!(InvalidArgument, "Invalid group uri: {uri}"))
}

fn by_email(email: &str, identities: &dyn IdentitySource) -> S3Result<Grantee> {
    let known = identities.account_by_email(email).ok_or_else(|| {
        s3_error!(
            UnresolvableGrantByEmailAddress,
            "The e-mail address you provided does not match any account on record."
        )
    })?;
    Ok(Grantee::Account(known.id.clone()))
}

fn checked(acl: Acl) -> S3Result<Acl> {
    if acl.0.len() > MAX_GRANTS {
        return Err(s3_error!(InvalidArgument, "The list has {} grants; {MAX_GRANTS} are allowed.", acl.0.len()));
    }
    Ok(acl)
}

/// The list that an XML body brings.
///
/// # Errors
/// `MalformedACLError`; `AccessDenied` when it names another owner; those of [`of_headers`].
fn of_xml(policy: AccessControlPolicy, identities: &dyn IdentitySource, owner: &str) -> S3Result<Acl> {
    let malformed = |what: &str| S3Error::with_message(S3ErrorCode::MalformedACLError, what.to_owned());
    let named = policy.owner.and_then(|owner| owner.id);
    match named {
        Some(named) if named == owner => {}
        Some(_) => {
            return Err(s3_error!(AccessDenied, "Access Denied: an access control list cannot change the owner."));
        }
        None => return Err(malformed("The AccessControlPolicy has no Owner with an ID.")),
    }
    let grants = policy.grants.ok_or_else(|| malformed("The AccessControlPolicy has no AccessControlList."))?;
    let read = |grant: dto::Grant| {
        let grantee = grant.grantee.ok_or_else(|| malformed("A Grant has no Grantee."))?;
        let name = grant.permission.ok_or_else(|| malformed("A Grant has no Permission."))?;
        let permission =
            Permission::by_name(name.as_str()).ok_or_else(|| malformed("The Permission of a Grant is unknown."))?;
        let grantee = match grantee {
            DtoGrantee { id: Some(id), .. } => account(&id, identities)?,
            DtoGrantee { uri: Some(uri), .. } => group(&uri)?,
            DtoGrantee { email_address: Some(email), .. } => by_email(&email, identities)?,
            _ => return Err(malformed("A Grantee has neither ID, nor URI, nor EmailAddress.")),
        };
        Ok(Grant { grantee, permission })
    };
    checked(Acl(grants.into_iter().map(read).collect::<S3Result<_>>()?))
}

/// The list that PutBucketAcl or PutObjectAcl brings, in headers or in its body.
///
/// # Errors
/// Those of [`of_headers`]; `UnexpectedContent` for both, `MissingSecurityHeader` for neither.
pub(crate) fn of_put(
    headers: &HeaderMap,
    body: Option<AccessControlPolicy>,
    identities: &dyn IdentitySource,
    (owner, bucket_owner): (&str, &str),
) -> S3Result<Acl> {
    match (of_headers(headers, identities, owner, bucket_owner)?, body) {
        (Some(_), Some(_)) => Err(s3_error!(UnexpectedContent, "This request does not support content")),
        (Some(acl), None) => Ok(acl),
        (None, Some(policy)) => of_xml(policy, identities, owner),
        (None, None) => {
            Err(s3_error!(MissingSecurityHeader, "Your request was missing a required header: x-amz-acl or a grant"))
        }
    }
}

/// Whether there is anything to set: where lists are off, S3 takes none but the one that is there anyway, and not by the name `private`.
///
/// # Errors
/// `AccessControlListNotSupported`.
pub(crate) fn settable(bucket: &BucketFacts, headers: &HeaderMap) -> S3Result<()> {
    let is_private = headers.get("x-amz-acl").is_some_and(|value| value.as_bytes() == b"private");
    if is_private && !bucket.controls.ownership.has_acls() {
        return Err(not_supported());
    }
    Ok(())
}

fn not_supported() -> S3Error {
    s3_error!(
        AccessControlListNotSupported,
        "The bucket does not allow ACLs: its object ownership is BucketOwnerEnforced."
    )
}

/// Whether a list may be set in a bucket; gives it as it is kept, `None` for the owner's alone.
///
/// # Errors
/// `AccessControlListNotSupported` where lists are off; `AccessDenied` where public ones are blocked.
pub(crate) fn admissible(bucket: &BucketFacts, acl: Acl, owner: &str) -> S3Result<Option<String>> {
    if acl.is_private(owner) {
        return Ok(None);
    }
    if !bucket.controls.ownership.has_acls() {
        return Err(not_supported());
    }
    if bucket.block.block_public_acls && acl.is_public() {
        return Err(s3_error!(AccessDenied, "Access Denied: the bucket's public access block refuses public ACLs."));
    }
    Ok(Some(acl.to_text()))
}

/// Who owns a new object, its access control list and its lock, as records keep them.
pub(crate) struct OfNew {
    pub(crate) owner: Option<String>,
    pub(crate) acl: Option<String>,
    retention: Option<Retention>,
    legal_hold: Option<bool>,
}

impl OfNew {
    /// Of the object that a request writes.
    ///
    /// # Errors
    /// As [`OfNew::read`].
    pub(crate) fn of_request<T>(gateway: &Gateway, request: &S3Request<T>) -> S3Result<Self> {
        let bucket = Admitted::of(request)?;
        Self::read(&gateway.authority, &bucket, &caller_of(&request.extensions), &request.headers)
    }

    /// The attributes with them.
    pub(crate) fn put_into(self, attributes: ObjectAttributes) -> ObjectAttributes {
        let Self { owner, acl, retention, legal_hold } = self;
        ObjectAttributes { owner, acl, retention, legal_hold, ..attributes }
    }

    /// Of an object that `caller` writes with these headers.
    ///
    /// # Errors
    /// Those of [`of_headers`], [`admissible`] and [`lock::of_headers`].
    pub(crate) fn read(
        authority: &Authority,
        bucket: &BucketFacts,
        caller: &Caller,
        headers: &HeaderMap,
    ) -> S3Result<Self> {
        let is_given = headers.get("x-amz-acl").is_some_and(|value| value.as_bytes() == b"bucket-owner-full-control");
        let writer = match (bucket.controls.ownership, caller.identity()) {
            (Ownership::BucketOwnerEnforced, _) | (_, None) => &bucket.owner,
            (Ownership::BucketOwnerPreferred, Some(_)) if is_given => &bucket.owner,
            (_, Some(identity)) => &identity.account.id,
        };
        // Where the bucket's owner owns everything, another writer's private list would keep that owner out.
        let listed_for = caller.identity().map_or(&bucket.owner, |identity| &identity.account.id);
        let acl = match bucket.controls.ownership.has_acls() {
            false if is_given => None,
            false => of_headers(headers, authority.identities(), listed_for, &bucket.owner)?,
            true => of_headers(headers, authority.identities(), writer, &bucket.owner)?,
        };
        let acl = acl.map(|acl| admissible(bucket, acl, writer)).transpose()?.flatten();
        let (retention, legal_hold) = lock::of_headers(headers)?;
        Ok(Self { owner: authority.recorded(writer), acl, retention, legal_hold })
    }
}

/// A list as answers show it.
pub(crate) fn shown(authority: &Authority, acl: Option<&Acl>, owner: &str) -> Vec<dto::Grant> {
    let private;
    let acl = match acl {
        Some(acl) => acl,
        None => {
            private = Acl::private(owner);
            &private
        }
    };
    let show = |grant: &Grant| {
        let grantee = match &grant.grantee {
            Grantee::Account(id) => {
                let dto::Owner { id, display_name } = authority.shown(id);
                DtoGrantee {
                    id,
                    display_name,
                    email_address: None,
                    uri: None,
                    type_: Type::from_static(Type::CANONICAL_USER),
                }
            }
            group => DtoGrantee {
                id: None,
                display_name: None,
                email_address: None,
                uri: group.uri(),
                type_: Type::from_static(Type::GROUP),
            },
        };
        dto::Grant { grantee: Some(grantee), permission: Some(DtoPermission::from_static(grant.permission.name())) }
    };
    acl.0.iter().map(show).collect()
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::users::Users;
    use crate::users::directory::Known;

    fn read(pairs: &[(&'static str, &str)]) -> Result<Option<String>, String> {
        let identities = Users::fixed(Known::default());
        let id = identities.first_account().id.clone();
        let mut headers = HeaderMap::new();
        for (name, value) in pairs {
            headers.append(*name, value.replace("{id}", &id).parse().unwrap());
        }
        of_headers(&headers, &identities, "me", "boss")
            .map(|acl| acl.map(|acl| acl.to_text().replace(&id, "{id}")))
            .map_err(|error| error.code().as_str().to_owned())
    }

    #[test]
    fn headers_bring_a_canned_list_or_grants() {
        let all = r#"uri="http://acs.amazonaws.com/groups/global/AllUsers""#;
        let both = format!(r#"id="{{id}}", {all}"#);
        type Headers<'a> = &'a [(&'static str, &'a str)];
        let cases: [(Headers<'_>, Result<Option<&str>, &str>); 9] = [
            (&[], Ok(None)),
            (&[("x-amz-acl", "bucket-owner-read")], Ok(Some("FULL_CONTROL:me READ:boss"))),
            (&[("x-amz-acl", "secret")], Err("InvalidArgument")),
            (&[("x-amz-grant-read", &both)], Ok(Some("READ:{id} READ:global/AllUsers"))),
            (&[("x-amz-grant-write-acp", "id={id}")], Ok(Some("WRITE_ACP:{id}"))),
            (&[("x-amz-grant-read", "id=0123")], Err("InvalidArgument")),
            (&[("x-amz-grant-read", "uri=http://x/")], Err("InvalidArgument")),
            (&[("x-amz-grant-read", "emailAddress=a@b.test")], Err("UnresolvableGrantByEmailAddress")),
            (&[("x-amz-grant-read", all), ("x-amz-acl", "private")], Err("InvalidRequest")),
        ];
        for (headers, expected) in cases {
            assert_eq!(read(headers), expected.map(|acl| acl.map(str::to_owned)).map_err(str::to_owned), "{headers:?}");
        }
    }
}
