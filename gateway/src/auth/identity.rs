//! Who asks: accounts, their users, and where they are found by access key.

use sha2::{Digest, Sha256};
use std::sync::Arc;

use super::policy::PolicyDocument;

/// An owner of buckets and objects.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Account {
    /// The canonical user id: 64 hex digits. Records of buckets and objects name their owner by it.
    pub id: String,
    /// What listings and access control lists show beside the id.
    pub display_name: String,
    /// The address by which a grant may name the account.
    pub email: Option<String>,
}

/// The name of the account that all configured keys belong to when no accounts are configured.
pub const FIRST_ACCOUNT: &str = "tidegate";

impl Account {
    /// The account called `name`, with the id that always belongs to this name.
    pub fn named(name: &str) -> Self {
        Self {
            id: hex(&Sha256::digest(format!("tidegate account {name}"))),
            display_name: name.to_owned(),
            email: None,
        }
    }

    /// The account number that ARNs use: 12 digits, which follow from the id.
    pub fn number(&self) -> String {
        let digest = Sha256::digest(self.id.as_bytes());
        let number = digest.iter().take(8).fold(0_u64, |number, byte| (number << 8) | u64::from(*byte));
        format!("{:012}", number % 1_000_000_000_000)
    }
}

fn hex(bytes: &[u8]) -> String {
    bytes.iter().map(|byte| format!("{byte:02x}")).collect()
}

/// Who asks, as the signature of the request has shown.
#[derive(Debug, Clone)]
pub struct Identity {
    /// The account that the access key belongs to.
    pub account: Arc<Account>,
    /// The user's name. `None` for the account's root key, which may do everything within the account.
    pub user: Option<String>,
    /// The user's own policies. Root has none and needs none.
    pub policies: Vec<Arc<PolicyDocument>>,
    /// The policy of a temporary key: it can only take away.
    pub session: Option<Arc<PolicyDocument>>,
}

impl Identity {
    /// The root of an account.
    pub fn root(account: Arc<Account>) -> Self {
        Self { account, user: None, policies: Vec::new(), session: None }
    }

    /// The ARN that policies name this identity by.
    pub fn arn(&self) -> String {
        let number = self.account.number();
        match &self.user {
            None => format!("arn:aws:iam::{number}:root"),
            Some(user) => format!("arn:aws:iam::{number}:user/{user}"),
        }
    }

    /// What `aws:userid` is for this identity.
    pub fn user_id(&self) -> String {
        self.user.clone().unwrap_or_else(|| self.account.number())
    }
}

/// Who sent a request.
#[derive(Debug, Clone)]
pub enum Caller {
    /// The request is not signed.
    Anonymous,
    /// The request is signed.
    Known(Arc<Identity>),
}

impl Caller {
    /// The identity, when the request is signed.
    pub fn identity(&self) -> Option<&Identity> {
        match self {
            Self::Anonymous => None,
            Self::Known(identity) => Some(identity),
        }
    }

    /// Whether the caller belongs to the account with this canonical id.
    pub fn is_of(&self, account: &str) -> bool {
        self.identity().is_some_and(|identity| identity.account.id == account)
    }
}

/// Where access keys and accounts are found.
pub trait IdentitySource: Send + Sync {
    /// Who signs with this access key; `None` when nobody does.
    fn identity(&self, access_key: &str) -> Option<Arc<Identity>>;

    /// The account with this canonical id.
    fn account(&self, id: &str) -> Option<Arc<Account>>;

    /// The account with this email address.
    fn account_by_email(&self, email: &str) -> Option<Arc<Account>>;

    /// The account that owns whatever names no owner.
    fn first_account(&self) -> Arc<Account>;
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn ids_and_numbers_of_accounts_stay_what_they_are() {
        let account = Account::named("tidegate");
        assert_eq!(account.id, "cbe8a84262e461e046b6357c1ceb4a01daa90a8fe31f0c79454cec040e65d6d7");
        assert_eq!(account.number(), "010462910722");
    }

    #[test]
    fn arns_name_the_root_and_the_users() {
        let mut identity = Identity::root(Arc::new(Account::named("tidegate")));
        let number = identity.account.number();
        assert_eq!(identity.arn(), format!("arn:aws:iam::{number}:root"));
        assert_eq!(identity.user_id(), number);
        identity.user = Some("ann".into());
        assert_eq!(identity.arn(), format!("arn:aws:iam::{number}:user/ann"));
    }
}
