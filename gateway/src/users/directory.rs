//! Who there is: the accounts and users of the configuration and of the journal, with their secrets opened, in memory.

use super::policy::Named;
use super::seal::{OpenError, Purpose, SealKeys};
use crate::auth::identity::{Account, FIRST_ACCOUNT, Identity};
use crate::config::accounts::{AccountSection, UserSection};
use crate::server::{AccessKey, S3Settings};
use s3s::auth::SecretKey;
use std::collections::{BTreeMap, HashMap};
use std::sync::Arc;
use tidegate_tiering::clock::Timestamp;
use tidegate_tiering::engine::{StoredAccount, StoredKey, StoredUser, StoredUsers};

/// Names that one warning has; more are counted.
const NAMED: usize = 20;

/// An account, and the name that operators know it by.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Owner {
    /// The name.
    pub name: String,
    /// What S3 knows of it.
    pub account: Arc<Account>,
    /// It stands in the configuration.
    pub configured: bool,
}

impl Owner {
    /// As the configuration says.
    pub fn of_section(name: &str, section: &AccountSection) -> Self {
        let named = Account::named(name);
        let account = Account {
            id: section.id.clone().unwrap_or(named.id),
            display_name: section.display_name.clone().unwrap_or(named.display_name),
            email: section.email.clone(),
        };
        Self { name: name.to_owned(), account: Arc::new(account), configured: true }
    }

    fn stored(name: String, account: StoredAccount) -> Self {
        let StoredAccount { id, display_name, email, .. } = account;
        Self { name, account: Arc::new(Account { id, display_name, email }), configured: false }
    }
}

/// A user.
#[derive(Debug, Clone)]
pub struct User {
    /// The name.
    pub name: String,
    /// None of its keys is good.
    pub disabled: bool,
    /// What it may do, as it was written.
    pub policies: Vec<Named>,
    /// Who it is for S3.
    pub identity: Arc<Identity>,
}

impl User {
    /// Also names the policies that cannot be read. What they deny would be allowed: the user is disabled then.
    fn new(name: &str, owner: &Owner, policies: Vec<Named>) -> (Self, Vec<String>) {
        let (mut read, mut wrong) = (Vec::new(), Vec::new());
        for policy in &policies {
            match super::policy::parse(&policy.document) {
                Ok(document) => read.push(Arc::new(document)),
                Err(e) => wrong.push(format!("{}: {e}", policy.name)),
            }
        }
        let account = Arc::clone(&owner.account);
        let identity = Identity { account, user: Some(name.to_owned()), policies: read, session: None };
        let disabled = !wrong.is_empty();
        (Self { name: name.to_owned(), disabled, policies, identity: Arc::new(identity) }, wrong)
    }
}

/// An access key that can be signed with.
#[derive(Debug, Clone)]
pub struct Key {
    /// The account.
    pub owner: Arc<Owner>,
    /// The user; none for a root key.
    pub user: Option<Arc<User>>,
    /// Who signs with it.
    pub identity: Arc<Identity>,
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

impl Known {
    /// The root keys and nobody else.
    pub fn of(settings: &S3Settings) -> Self {
        Self { accounts: BTreeMap::new(), root_keys: settings.access_keys.clone() }
    }
}

/// Everybody.
#[derive(Debug, Default)]
pub struct Directory {
    owners: BTreeMap<String, Arc<Owner>>,
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
            if !all.add_stored_user(&account, &name, user, seal) {
                sealed.push(format!("{account}/{name}"));
            }
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
        let first = known.accounts.get(FIRST_ACCOUNT).unwrap_or(&default);
        let others = known.accounts.iter().filter(|(name, _)| *name != FIRST_ACCOUNT);
        let all = others.map(|(name, section)| (name.as_str(), section));
        for (name, section) in std::iter::once((FIRST_ACCOUNT, first)).chain(all) {
            let owner = Arc::new(Owner::of_section(name, section));
            self.owners.insert(name.to_owned(), Arc::clone(&owner));
            let root = Arc::new(Identity::root(Arc::clone(&owner.account)));
            let first_keys = known.root_keys.iter().filter(|_| name == FIRST_ACCOUNT);
            for key in section.access_keys.iter().chain(first_keys) {
                self.add_key(key, &owner, (None, &root));
            }
            for (user, section) in &section.users {
                self.add_known_user(&owner, user, section);
            }
        }
    }

    fn add_known_user(&mut self, owner: &Arc<Owner>, name: &str, section: &UserSection) {
        // What is wrong with one was refused at the start; a file may have changed since.
        let policies: Result<Vec<_>, _> = section.policies.iter().map(super::policy::read).collect();
        let readable = policies.is_ok();
        if let Err((field, problem)) = &policies {
            let of = &owner.name;
            self.warnings.push(format!(
                "the user {of}/{name} cannot sign in, as what its policies deny would be allowed: {field}: {problem}"
            ));
        }
        let user = Arc::new(User::new(name, owner, policies.unwrap_or_default()).0);
        let mut keys = Vec::new();
        for key in section.access_keys.iter().filter(|_| readable) {
            self.add_key(key, owner, (Some(&user), &user.identity));
            keys.push(EntryKey { access_key: key.access_key.clone(), created: None, ends: None, sealed_well: true });
        }
        let entry = Entry { account: owner.name.clone(), user, created: None, keys };
        self.users.insert((owner.name.clone(), name.to_owned()), entry);
    }

    fn add_key(&mut self, key: &AccessKey, owner: &Arc<Owner>, (user, identity): (Option<&Arc<User>>, &Arc<Identity>)) {
        let secret = key.secret_key.expose().into();
        let (owner, identity) = (Arc::clone(owner), Arc::clone(identity));
        let key_of = Key { owner, user: user.cloned(), identity, secret, ends: None };
        self.keys.insert(key.access_key.clone(), key_of);
    }

    fn add_stored_account(&mut self, name: String, account: StoredAccount) {
        let same_id = self.owners.values().find(|other| other.account.id == account.id && other.name != name);
        if let Some(other) = same_id {
            let other = &other.name;
            self.warnings.push(format!(
                "the account {name} has the owner id of the account {other}, and is left out: give {other} another id in the configuration"
            ));
        } else if !self.owners.contains_key(&name) {
            self.owners.insert(name.clone(), Arc::new(Owner::stored(name, account)));
        }
    }

    /// Adds a user of the journal; false when a secret of it could not be opened.
    fn add_stored_user(&mut self, account: &str, name: &str, stored: StoredUser, seal: Option<&SealKeys>) -> bool {
        let place = (account.to_owned(), name.to_owned());
        let Some(owner) = self.owners.get(account).cloned() else {
            self.warnings.push(format!(
                "the user {name} is of the account {account}, which there is not: put it back into the configuration"
            ));
            return true;
        };
        if self.users.contains_key(&place) {
            self.warnings.push(format!(
                "the user {account}/{name} stands in the configuration and in the journal; the former counts: take it out there to have \
                 the other"
            ));
            return true;
        }
        let StoredUser { created, disabled, keys, policies, .. } = stored;
        let policies = policies.into_iter().map(|p| Named { name: p.name, document: p.document }).collect();
        let (user, wrong) = User::new(name, &owner, policies);
        for wrong in wrong {
            self.warnings.push(format!(
                "the user {account}/{name} cannot sign in, because a policy of it cannot be read: {wrong}; give it others by \
                 `tidegate user policy`"
            ));
        }
        let user = Arc::new(User { disabled: disabled || user.disabled, ..user });
        let mut shown = Vec::new();
        for StoredKey { access_key, created, ends, sealed } in keys {
            let opened = seal.ok_or(OpenError::OtherKey);
            let opened = opened.and_then(|s| s.open(Purpose::Secret, &belongs_to(account, name, &access_key), &sealed));
            let sealed_well = opened.is_ok();
            if let Ok(secret) = opened {
                let (owner, identity) = (Arc::clone(&owner), Arc::clone(&user.identity));
                let key = Key { owner, user: Some(Arc::clone(&user)), identity, secret: secret.into(), ends };
                // One of the configuration stays.
                self.keys.entry(access_key.clone()).or_insert(key);
            }
            shown.push(EntryKey { access_key, created: Some(created), ends, sealed_well });
        }
        let all_opened = shown.iter().all(|key| key.sealed_well);
        self.users.insert(place, Entry { account: account.to_owned(), user, created: Some(created), keys: shown });
        all_opened
    }

    /// A key that is good now.
    pub fn key(&self, access_key: &str, now: Timestamp) -> Option<&Key> {
        let good =
            |key: &&Key| key.ends.is_none_or(|ends| now < ends) && key.user.as_ref().is_none_or(|user| !user.disabled);
        self.keys.get(access_key).filter(good)
    }

    /// Whether a key of this id is known at all.
    pub fn has_key(&self, access_key: &str) -> bool {
        self.keys.contains_key(access_key)
    }

    /// An account by its name.
    pub fn owner(&self, name: &str) -> Option<&Arc<Owner>> {
        self.owners.get(name)
    }

    /// All accounts by name.
    pub fn owners(&self) -> impl Iterator<Item = &Arc<Owner>> {
        self.owners.values()
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
