//! Whom a statement speaks of.

use super::document::{PolicyError, malformed};
use super::json::Json;
use super::judge::Reach;
use crate::auth::identity::{Caller, Identity};

/// One entry of a `Principal`.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) enum Principal {
    Everyone,
    /// Account number or canonical id, as the policy has it.
    Account(String),
    /// A canonical user id.
    Canonical(String),
    /// One user's ARN; the account may be its number or its canonical id.
    Arn(String),
    /// A service or a federation: nobody of those is known here.
    Nobody,
}

const INVALID: &str = "Invalid principal in policy";

impl Principal {
    /// The entries of `Principal` or `NotPrincipal`.
    pub(super) fn read(json: &Json) -> Result<Vec<Self>, PolicyError> {
        let groups = match json {
            Json::Text(text) if text == "*" => return Ok(vec![Self::Everyone]),
            Json::Object(groups) if !groups.is_empty() => groups,
            _ => return Err(malformed(INVALID)),
        };
        let mut principals = Vec::new();
        for (kind, names) in groups {
            let names = match names {
                Json::Text(name) => vec![name],
                Json::List(list) => list
                    .iter()
                    .map(|name| match name {
                        Json::Text(name) => Ok(name),
                        _ => Err(malformed(INVALID)),
                    })
                    .collect::<Result<Vec<_>, _>>()?,
                _ => return Err(malformed(INVALID)),
            };
            if names.is_empty() {
                return Err(malformed(INVALID));
            }
            for name in names {
                principals.push(Self::named(kind, name)?);
            }
        }
        Ok(principals)
    }

    fn named(kind: &str, name: &str) -> Result<Self, PolicyError> {
        match kind {
            "AWS" if name == "*" => Ok(Self::Everyone),
            "AWS" if is_account(name) => Ok(Self::Account(name.to_owned())),
            "AWS" => Self::of_arn(name).ok_or_else(|| malformed(format!("{INVALID}: {name}"))),
            "CanonicalUser" if is_canonical(name) => Ok(Self::Canonical(name.to_ascii_lowercase())),
            "Service" | "Federated" if !name.is_empty() => Ok(Self::Nobody),
            _ => Err(malformed(format!("{INVALID}: {kind} {name}"))),
        }
    }

    fn of_arn(arn: &str) -> Option<Self> {
        let parts: Vec<_> = arn.splitn(6, ':').collect();
        let ["arn", "aws", service @ ("iam" | "sts"), "", account, resource] = parts[..] else { return None };
        if arn.contains(['*', '?']) {
            return None;
        }
        match (service, resource) {
            ("iam", "root") if !account.is_empty() => Some(Self::Account(account.to_owned())),
            // Without an account, the user is named by the canonical id.
            ("iam", user) if account.is_empty() => {
                user.strip_prefix("user/").filter(|id| !id.is_empty()).map(|id| Self::Canonical(id.to_owned()))
            }
            (_, resource) => {
                let (kind, name) = resource.split_once('/')?;
                let known = matches!(kind, "user" | "role" | "assumed-role" | "federated-user");
                (known && !name.is_empty()).then(|| Self::Arn(arn.to_owned()))
            }
        }
    }

    /// Whether the caller is meant, and how.
    fn reach(&self, caller: &Caller) -> Option<Reach> {
        if *self == Self::Everyone {
            return Some(Reach::Direct);
        }
        let identity = caller.identity()?;
        match self {
            Self::Everyone => Some(Reach::Direct),
            Self::Account(name) => is_named(identity, name).then_some(Reach::Account),
            Self::Canonical(id) => (identity.account.id == *id).then_some(Reach::Account),
            Self::Arn(arn) => is_arn_of(identity, arn).then_some(Reach::Direct),
            Self::Nobody => None,
        }
    }

    /// How the list means the caller: directly when any entry does.
    pub(super) fn reach_of(list: &[Self], caller: &Caller) -> Option<Reach> {
        list.iter().filter_map(|principal| principal.reach(caller)).max()
    }
}

fn is_account(name: &str) -> bool {
    (name.len() == 12 && name.bytes().all(|b| b.is_ascii_digit())) || is_canonical(name)
}

fn is_canonical(name: &str) -> bool {
    name.len() == 64 && name.bytes().all(|b| b.is_ascii_hexdigit())
}

fn is_named(identity: &Identity, account: &str) -> bool {
    identity.account.id == account || identity.account.number() == account
}

fn is_arn_of(identity: &Identity, arn: &str) -> bool {
    if identity.arn() == arn {
        return true;
    }
    let parts: Vec<_> = arn.splitn(6, ':').collect();
    let ["arn", "aws", "iam", "", account, resource] = parts[..] else { return false };
    let user = resource.strip_prefix("user/");
    identity.account.id == account && user.is_some() && identity.user.as_deref() == user
}
