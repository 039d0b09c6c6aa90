//! Access control lists: who has which of five permissions on a bucket or an object.

use super::identity::Caller;
use super::policy::Reach;

/// What a grant permits.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Permission {
    /// All of the others.
    FullControl,
    /// To list a bucket, or to read an object.
    Read,
    /// To write and delete objects in a bucket.
    Write,
    /// To read the list itself.
    ReadAcp,
    /// To change the list itself.
    WriteAcp,
}

impl Permission {
    const ALL: [(Self, &'static str); 5] = [
        (Self::FullControl, "FULL_CONTROL"),
        (Self::Read, "READ"),
        (Self::Write, "WRITE"),
        (Self::ReadAcp, "READ_ACP"),
        (Self::WriteAcp, "WRITE_ACP"),
    ];

    /// S3's name.
    pub fn name(self) -> &'static str {
        Self::ALL.into_iter().find(|(one, _)| *one == self).map_or("", |(_, name)| name)
    }

    /// The one that S3 calls `name`.
    pub fn by_name(name: &str) -> Option<Self> {
        Self::ALL.into_iter().find(|(_, known)| *known == name).map(|(one, _)| one)
    }
}

/// Whom a grant is for.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Grantee {
    /// An account, by its canonical id.
    Account(String),
    /// Everybody, signed or not.
    AllUsers,
    /// Everybody who signs.
    AuthenticatedUsers,
    /// S3's log delivery, which nobody is here.
    LogDelivery,
}

/// What the names of groups begin with.
const GROUPS: &str = "http://acs.amazonaws.com/groups/";

impl Grantee {
    const GROUPS: [(Self, &'static str); 3] = [
        (Self::AllUsers, "global/AllUsers"),
        (Self::AuthenticatedUsers, "global/AuthenticatedUsers"),
        (Self::LogDelivery, "s3/LogDelivery"),
    ];

    /// The URI of a group; `None` for an account.
    pub fn uri(&self) -> Option<String> {
        Self::GROUPS.iter().find(|(group, _)| group == self).map(|(_, name)| format!("{GROUPS}{name}"))
    }

    /// The group with this URI.
    pub fn by_uri(uri: &str) -> Option<Self> {
        let name = uri.strip_prefix(GROUPS)?;
        Self::GROUPS.into_iter().find(|(_, known)| *known == name).map(|(group, _)| group)
    }

    /// Whether it is a group that anybody can join.
    pub fn is_public(&self) -> bool {
        matches!(self, Self::AllUsers | Self::AuthenticatedUsers)
    }
}

/// One line of a list.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Grant {
    /// For whom.
    pub grantee: Grantee,
    /// What.
    pub permission: Permission,
}

impl Grant {
    fn of_account(id: &str, permission: Permission) -> Self {
        Self { grantee: Grantee::Account(id.to_owned()), permission }
    }
}

/// An access control list. What has none is its owner's alone.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Acl(pub Vec<Grant>);

/// S3's limit on the grants of a list.
pub const MAX_GRANTS: usize = 100;

impl Acl {
    /// The list of what has none.
    pub fn private(owner: &str) -> Self {
        Self(vec![Grant::of_account(owner, Permission::FullControl)])
    }

    /// The list that S3 calls `name`; `None` when there is no such list.
    pub fn canned(name: &str, owner: &str, bucket_owner: &str) -> Option<Self> {
        let group = |grantee, permission| Grant { grantee, permission };
        // Groups come before the owner, as clients have learned to read them.
        let mut grants = match name {
            "private" | "bucket-owner-read" | "bucket-owner-full-control" => vec![],
            "public-read" => vec![group(Grantee::AllUsers, Permission::Read)],
            "public-read-write" => {
                vec![group(Grantee::AllUsers, Permission::Read), group(Grantee::AllUsers, Permission::Write)]
            }
            "authenticated-read" => vec![group(Grantee::AuthenticatedUsers, Permission::Read)],
            "log-delivery-write" => {
                vec![group(Grantee::LogDelivery, Permission::Write), group(Grantee::LogDelivery, Permission::ReadAcp)]
            }
            _ => return None,
        };
        grants.extend(Self::private(owner).0);
        match name {
            _ if owner == bucket_owner => {}
            "bucket-owner-read" => grants.push(Grant::of_account(bucket_owner, Permission::Read)),
            "bucket-owner-full-control" => grants.push(Grant::of_account(bucket_owner, Permission::FullControl)),
            _ => {}
        }
        Some(Self(grants))
    }

    /// Whether it lets in the public.
    pub fn is_public(&self) -> bool {
        self.0.iter().any(|grant| grant.grantee.is_public())
    }

    /// Whether it gives the owner everything and nobody else anything.
    pub fn is_private(&self, owner: &str) -> bool {
        *self == Self::private(owner)
    }

    /// How the list permits something to the caller: as one of a group, or by the account.
    pub fn reach(&self, caller: &Caller, permission: Permission, with_public: bool) -> Option<Reach> {
        let grants =
            self.0.iter().filter(|grant| grant.permission == permission || grant.permission == Permission::FullControl);
        grants
            .filter_map(|grant| match &grant.grantee {
                Grantee::Account(id) => caller.is_of(id).then_some(Reach::Account),
                Grantee::AllUsers => with_public.then_some(Reach::Direct),
                Grantee::AuthenticatedUsers => (with_public && caller.identity().is_some()).then_some(Reach::Direct),
                Grantee::LogDelivery => None,
            })
            .max()
    }

    /// As records keep it: `FULL_CONTROL:<id> READ:global/AllUsers`.
    pub fn to_text(&self) -> String {
        let text = |grant: &Grant| {
            let grantee = match &grant.grantee {
                Grantee::Account(id) => id.as_str(),
                group => Grantee::GROUPS.iter().find(|(one, _)| one == group).map_or("", |(_, name)| *name),
            };
            format!("{}:{grantee}", grant.permission.name())
        };
        self.0.iter().map(text).collect::<Vec<_>>().join(" ")
    }

    /// Reads what [`Acl::to_text`] wrote; `None` when it is something else.
    pub fn from_text(text: &str) -> Option<Self> {
        let grant = |word: &str| {
            let (permission, grantee) = word.split_once(':')?;
            let group = Grantee::GROUPS.into_iter().find(|(_, name)| *name == grantee).map(|(group, _)| group);
            let grantee = group.unwrap_or_else(|| Grantee::Account(grantee.to_owned()));
            Some(Grant { grantee, permission: Permission::by_name(permission)? })
        };
        text.split_whitespace().map(grant).collect::<Option<_>>().map(Self)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::auth::identity::{Account, Identity};
    use std::sync::Arc;

    fn root(name: &str) -> Caller {
        Caller::Known(Arc::new(Identity::root(Arc::new(Account::named(name)))))
    }

    #[test]
    fn lists_are_kept_as_words() {
        let acl = Acl::canned("public-read", "a1", "b2").unwrap();
        assert_eq!(acl.to_text(), "READ:global/AllUsers FULL_CONTROL:a1");
        for name in ["private", "public-read-write", "authenticated-read", "bucket-owner-read", "log-delivery-write"] {
            let acl = Acl::canned(name, "a1", "b2").unwrap();
            assert_eq!(Acl::from_text(&acl.to_text()), Some(acl), "{name}");
        }
        assert_eq!(Acl::from_text(""), Some(Acl::default()));
        assert_eq!(Acl::from_text("READ"), None);
        assert_eq!(Acl::from_text("EAT:a1"), None);
    }

    #[test]
    fn canned_lists_permit_what_their_names_say() {
        use Permission as P;
        let owner = Account::named("own").id;
        let bucket_owner = Account::named("bucket").id;
        let cases = [
            ("private", "other", P::Read, None),
            ("private", "own", P::WriteAcp, Some(Reach::Account)),
            ("public-read", "other", P::Read, Some(Reach::Direct)),
            ("public-read", "other", P::Write, None),
            ("public-read-write", "", P::Write, Some(Reach::Direct)),
            ("authenticated-read", "other", P::Read, Some(Reach::Direct)),
            ("authenticated-read", "", P::Read, None),
            ("bucket-owner-read", "bucket", P::Read, Some(Reach::Account)),
            ("bucket-owner-read", "bucket", P::WriteAcp, None),
            ("bucket-owner-full-control", "bucket", P::WriteAcp, Some(Reach::Account)),
        ];
        for (name, who, permission, expected) in cases {
            let caller = if who.is_empty() { Caller::Anonymous } else { root(who) };
            let acl = Acl::canned(name, &owner, &bucket_owner).unwrap();
            assert_eq!(acl.reach(&caller, permission, true), expected, "{name} {who} {permission:?}");
            let direct = expected == Some(Reach::Direct);
            assert_eq!(
                acl.reach(&caller, permission, false),
                expected.filter(|_| !direct),
                "{name} without the public"
            );
        }
        assert_eq!(Acl::canned("public", &owner, &owner), None);
    }
}
