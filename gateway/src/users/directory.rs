//! Who there is: the accounts and users of the configuration and of the journal, with their secrets opened, in memory.

use super::policy::Named;
use super::seal::{OpenError, Purpose, SealKeys};
use crate::config::accounts::{AccountSection, DEFAULT_ACCOUNT, derived_id};
use crate::server::AccessKey;
use s3s::auth::SecretKey;
use std::collections::{BTreeMap, HashMap};
use std::sync::Arc;
use tidegate_tiering::clock::Timestamp;
use tidegate_tiering::engine::{StoredAccount, StoredKey, StoredUser, StoredUsers};

/// Names that one warning has; more are counted.
const NAMED: usize = 20;

/// An account.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Account {
    /// The name.
    pub name: String,
    /// The canonical id of the owner.
    pub id: String,
    /// What is shown beside it.
    pub display_name: String,
    /// The e-mail address.
    pub email: Option<String>,
    /// It stands in the configuration.
    pub configured: bool,
}

impl Account {
    fn of_section(name: &str, section: &AccountSection) -> Self {
        Self {
            name: name.to_owned(),
            id: section.id.clone().unwrap_or_else(|| derived_id(name)),
            display_name: section.display_name.clone().unwrap_or_else(|| name.to_owned()),
            email: section.email.clone(),
            configured: true,
        }
    }

    fn stored(name: String, account: StoredAccount) -> Self {
        let StoredAccount { id, display_name, email, .. } = account;
        Self { name, id, display_name, email, configured: false }
    }

    /// The twelve digits by which AWS's own tools know an account; they follow from the id.
    pub fn number(&self) -> String {
        let front = u64::from_str_radix(self.id.get(..15).unwrap_or_default(), 16).unwrap_or_default();
        format!("{:012}", front % 1_000_000_000_000)
    }
}

/// A user.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct User {
    /// The name.
    pub name: String,
    /// None of its keys is good.
    pub disabled: bool,
    /// What it may do.
    pub policies: Vec<Policy>,
}

/// What a user may do: as it was written, and as it is evaluated.
pub type Policy = Named;

/// An access key that can be signed with.
#[derive(Debug, Clone)]
pub struct Key {
    /// The account.
    pub account: Arc<Account>,
    /// The user; none for a root key.
    pub user: Option<Arc<User>>,
    /// The secret.
    pub secret: SecretKey,
    ends: Option<Timestamp>,
}

/// A user with what operators see of it.
#[derive(Debug, Clone)]
pub struct Entry {
    /// The account's name.
    pub account: String,
    /// The user.
    pub user: Arc<User>,
    /// When it was made; none for one of the configuration.
    pub created: Option<Timestamp>,
    /// Its keys: id, when it was made and ends, whether its secret could be opened.
    pub keys: Vec<EntryKey>,
}

/// A key as operators see it.
#[derive(Debug, Clone)]
pub struct EntryKey {
    /// The access key.
    pub access_key: String,
    /// When it was made; none for one of the configuration.
    pub created: Option<Timestamp>,
    /// From when on it is not good.
    pub ends: Option<Timestamp>,
    /// Its secret could be opened.
    pub sealed_well: bool,
}

/// What is known from the configuration.
#[derive(Debug, Clone, Default)]
pub struct Known {
    /// The sections by account.
    pub accounts: BTreeMap<String, AccountSection>,
    /// Root keys of the default account.
    pub root_keys: Vec<AccessKey>,
}

/// Everybody.
#[derive(Debug, Default)]
pub struct Directory {
    accounts: BTreeMap<String, Arc<Account>>,
    users: BTreeMap<(String, String), Entry>,
    keys: HashMap<String, Key>,
    warnings: Vec<String>,
}

/// What a key of the journal is sealed for.
pub(super) fn belongs_to(account: &str, user: &str, access_key: &str) -> String {
    format!("{account}\0{user}\0{access_key}")
}

impl Directory {
    /// Of the configuration and the journal. What stands in both is as the configuration says.
    pub fn new(known: &Known, stored: StoredUsers, seal: Option<&SealKeys>) -> Self {
        let mut all = Self::default();
        all.add_known(known);
        for (name, account) in stored.accounts {
            all.add_stored_account(name, account);
        }
        let mut sealed = Vec::new();
        for (account, name, user) in stored.users {
            all.add_stored_user(&account, &name, user, seal, &mut sealed);
        }
        if !sealed.is_empty() {
            let more = sealed.len().saturating_sub(NAMED);
            let more = if more > 0 { format!(" and {more} more") } else { String::new() };
            let names = sealed.iter().take(NAMED).cloned().collect::<Vec<_>>().join(", ");
            all.warnings.push(format!(
                "secrets of these users cannot be unsealed, so that they cannot sign in: {names}{more}; bring the seal key back, or give \
                 each a new secret by `tidegate user rotate`"
            ));
        }
        all
    }

    fn add_known(&mut self, known: &Known) {
        let default = AccountSection::default();
        let first = known.accounts.get(DEFAULT_ACCOUNT).unwrap_or(&default);
        let others = known.accounts.iter().filter(|(name, _)| *name != DEFAULT_ACCOUNT);
        for (name, section) in std::iter::once((&DEFAULT_ACCOUNT.to_owned(), first)).chain(others) {
            let account = Arc::new(Account::of_section(name, section));
            self.accounts.insert(name.clone(), Arc::clone(&account));
            let own = section.access_keys.iter();
            let root = known.root_keys.iter().filter(|_| name == DEFAULT_ACCOUNT);
            for key in own.chain(root) {
                self.add_key(key, &account, None);
            }
            for (user, section) in &section.users {
                let policies = section.policies.iter().filter_map(|source| super::policy::read(source).ok()).collect();
                let user = Arc::new(User { name: user.clone(), disabled: false, policies });
                for key in &section.access_keys {
                    self.add_key(key, &account, Some(&user));
                }
                let keys = section.access_keys.iter().map(|key| EntryKey {
                    access_key: key.access_key.clone(),
                    created: None,
                    ends: None,
                    sealed_well: true,
                });
                let keys = keys.collect();
                let entry = Entry { account: name.clone(), user: Arc::clone(&user), created: None, keys };
                self.users.insert((name.clone(), user.name.clone()), entry);
            }
        }
    }

    fn add_key(&mut self, key: &AccessKey, account: &Arc<Account>, user: Option<&Arc<User>>) {
        let secret = key.secret_key.expose().into();
        let key_of = Key { account: Arc::clone(account), user: user.cloned(), secret, ends: None };
        self.keys.insert(key.access_key.clone(), key_of);
    }

    fn add_stored_account(&mut self, name: String, account: StoredAccount) {
        let same_id = self.accounts.values().find(|other| other.id == account.id && other.name != name);
        if let Some(other) = same_id {
            let other = &other.name;
            self.warnings.push(format!(
                "the account {name} has the owner id of the account {other}, and is left out: give {other} another id in the configuration"
            ));
        } else if !self.accounts.contains_key(&name) {
            self.accounts.insert(name.clone(), Arc::new(Account::stored(name, account)));
        }
    }

    fn add_stored_user(
        &mut self,
        account: &str,
        name: &str,
        stored: StoredUser,
        seal: Option<&SealKeys>,
        sealed: &mut Vec<String>,
    ) {
        let place = (account.to_owned(), name.to_owned());
        let Some(owner) = self.accounts.get(account).cloned() else {
            self.warnings.push(format!(
                "the user {name} is of the account {account}, which there is not: put it back into the configuration, or remove the user"
            ));
            return;
        };
        if self.users.contains_key(&place) {
            self.warnings.push(format!(
                "the user {account}/{name} stands in the configuration and in the journal; the former counts: take it out there, or \
                 remove it while it is not configured"
            ));
            return;
        }
        let StoredUser { created, disabled, keys, policies, .. } = stored;
        let policies = policies.into_iter().map(|p| Named { name: p.name, document: p.document }).collect();
        let user = Arc::new(User { name: name.to_owned(), disabled, policies });
        let mut shown = Vec::new();
        for StoredKey { access_key, created, ends, sealed: secret } in keys {
            let opened = seal.ok_or(OpenError::OtherKey);
            let opened = opened.and_then(|s| s.open(Purpose::Secret, &belongs_to(account, name, &access_key), &secret));
            let sealed_well = opened.is_ok();
            if let Ok(secret) = opened {
                let key = Key { account: Arc::clone(&owner), user: Some(Arc::clone(&user)), secret: secret.into(), ends };
                // One of the configuration stays: it was there first, and is checked at the start.
                self.keys.entry(access_key.clone()).or_insert(key);
            }
            shown.push(EntryKey { access_key, created: Some(created), ends, sealed_well });
        }
        if shown.iter().any(|key| !key.sealed_well) {
            sealed.push(format!("{account}/{name}"));
        }
        self.users.insert(place, Entry { account: account.to_owned(), user, created: Some(created), keys: shown });
    }

    /// A key that is good now.
    pub fn key(&self, access_key: &str, now: Timestamp) -> Option<&Key> {
        let good = |key: &&Key| {
            key.ends.is_none_or(|ends| now < ends) && key.user.as_ref().is_none_or(|user| !user.disabled)
        };
        self.keys.get(access_key).filter(good)
    }

    /// Whether a key of this id is known at all.
    pub fn has_key(&self, access_key: &str) -> bool {
        self.keys.contains_key(access_key)
    }

    /// An account by its name.
    pub fn account(&self, name: &str) -> Option<&Arc<Account>> {
        self.accounts.get(name)
    }

    /// All accounts by name.
    pub fn accounts(&self) -> impl Iterator<Item = &Arc<Account>> {
        self.accounts.values()
    }

    /// A user.
    pub fn user(&self, account: &str, name: &str) -> Option<&Entry> {
        self.users.get(&(account.to_owned(), name.to_owned()))
    }

    /// All users by account and name.
    pub fn users(&self) -> impl Iterator<Item = &Entry> {
        self.users.values()
    }

    /// What an operator should know.
    pub fn warnings(&self) -> &[String] {
        &self.warnings
    }
}
