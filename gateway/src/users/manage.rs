//! What operators change: accounts and users of the journal.

use super::Users;
use super::directory::{Directory, Entry, Owner, belongs_to};
use super::policy::{MAX_DOCUMENT_BYTES, MAX_POLICIES, Named};
use super::seal::Purpose;
use crate::auth::identity::{Account, FIRST_ACCOUNT};
use crate::config::{access_key, check_accounts};
use crate::server::Secret;
use serde::{Deserialize, Serialize};
use std::sync::Arc;
use std::time::Duration;
use tidegate_tiering::clock::Timestamp;
use tidegate_tiering::engine::{Engine, EngineError, StoredAccount, StoredKey, StoredPolicy, StoredUser, UserChange};

/// Most keys of a user that are good at once: that in use, and those that a grace is left.
const MAX_KEYS: usize = 4;
/// The longest grace of a key that was replaced.
pub const MAX_GRACE: Duration = Duration::from_secs(90 * 86_400);

const NAME_HELP: &str = "use 1 to 64 letters, digits and + = , . @ _ -";

/// Why a change was not made.
#[derive(Debug, thiserror::Error)]
pub enum UserError {
    /// It makes no sense.
    #[error("{0}")]
    Invalid(String),
    /// There is nothing of that name.
    #[error("{0}")]
    NotFound(String),
    /// Not on this server, or not now.
    #[error("{0}")]
    Unavailable(String),
    /// What the engine says.
    #[error(transparent)]
    Engine(#[from] EngineError),
}

/// A user to be made.
#[derive(Debug, Clone, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct NewUser {
    /// The account; none means the default one.
    pub account: Option<String>,
    /// The name.
    pub name: String,
    /// What it may do.
    #[serde(default)]
    pub policies: Vec<PolicyText>,
    /// The access key; none has one made.
    pub access_key: Option<String>,
    /// The secret; none has one made.
    pub secret: Option<SecretText>,
}

/// A policy on its way.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct PolicyText {
    /// Its name.
    pub name: String,
    /// The document.
    pub document: String,
}

impl From<Named> for PolicyText {
    fn from(policy: Named) -> Self {
        Self { name: policy.name, document: policy.document }
    }
}

/// A secret on its way between the command line and the server: serialized in plain, never shown.
#[derive(Clone, Serialize, Deserialize)]
#[serde(transparent)]
pub struct SecretText(String);

impl SecretText {
    /// Wraps it.
    pub fn new(text: impl Into<String>) -> Self {
        Self(text.into())
    }

    /// The text.
    pub fn expose(&self) -> &str {
        &self.0
    }
}

impl std::fmt::Debug for SecretText {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str("<redacted>")
    }
}

/// A key that was made, with the secret that is shown this once.
#[derive(Debug, Clone, Serialize, Deserialize)]
pub struct NewKey {
    /// The account.
    pub account: String,
    /// The user.
    pub user: String,
    /// The access key.
    pub access_key: String,
    /// The secret.
    pub secret_key: SecretText,
    /// Until when older keys are good, where they are.
    pub old_keys_end: Option<Timestamp>,
}

/// An account to be made.
#[derive(Debug, Clone, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct NewAccount {
    /// The name.
    pub name: String,
    /// The owner id; none has one made of the name.
    pub id: Option<String>,
    /// What is shown; none means the name.
    pub display_name: Option<String>,
    /// The e-mail address.
    pub email: Option<String>,
}

fn invalid<T>(message: impl Into<String>) -> Result<T, UserError> {
    Err(UserError::Invalid(message.into()))
}

/// In what `change` answers, that the user went away meanwhile.
fn vanished() -> EngineError {
    EngineError::InvalidArgument("the user was removed meanwhile".to_owned())
}

impl Users {
    fn writable(&self) -> Result<&Engine, UserError> {
        let none = || UserError::Unavailable("this server keeps no users".to_owned());
        let engine = self.engine.as_ref().ok_or_else(none)?;
        if engine.standby_lag().is_some() {
            return Err(UserError::Unavailable(
                "this is a standby, which is read-only: change users on the primary".to_owned(),
            ));
        }
        Ok(engine)
    }

    /// A user that may be changed.
    fn existing(&self, account: &str, name: &str) -> Result<(&Engine, Entry), UserError> {
        let engine = self.writable()?;
        let directory = self.directory()?;
        let entry = known_user(&directory, account, name)?.clone();
        if entry.created.is_none() {
            return invalid(format!(
                "the user {account}/{name} stands in the configuration: change it there, and start the server again"
            ));
        }
        Ok((engine, entry))
    }

    /// Makes an account.
    ///
    /// # Errors
    /// A name, id or address that cannot be one or is taken.
    pub async fn add_account(&self, new: NewAccount) -> Result<Owner, UserError> {
        let engine = self.writable()?;
        let NewAccount { name, id, display_name, email } = new;
        if !check_accounts::is_name(&name) {
            return invalid(format!("{name:?} cannot be the name of an account: {NAME_HELP}"));
        }
        let named = Account::named(&name);
        let (id, display_name) = (id.unwrap_or(named.id), display_name.unwrap_or(named.display_name));
        let account = Account { id, display_name, email };
        if !check_accounts::is_id(&account.id) {
            return invalid("an owner id has 64 lower case hexadecimal digits");
        }
        let email = |one: &Account| one.email.as_ref().map(|email| email.to_ascii_lowercase());
        for other in self.directory()?.owners() {
            if other.name == name {
                return invalid(format!("there is an account {name} already"));
            }
            if other.account.id == account.id {
                return invalid(format!("the account {} has this owner id", other.name));
            }
            if email(&account).is_some_and(|own| email(&other.account) == Some(own)) {
                return invalid(format!("the account {} has this e-mail address", other.name));
            }
        }
        let Account { id, display_name, email } = account.clone();
        engine.add_account(&name, StoredAccount { created: self.now(), id, display_name, email }).await?;
        Ok(Owner { name, account: Arc::new(account), configured: false })
    }

    /// Makes a user.
    ///
    /// # Errors
    /// An account that is not there, a name or key that is taken, a secret that is too short, a policy that cannot be read.
    pub async fn add(&self, new: NewUser) -> Result<NewKey, UserError> {
        let engine = self.writable()?;
        let NewUser { account, name, policies, access_key, secret } = new;
        let account = account.unwrap_or_else(|| FIRST_ACCOUNT.to_owned());
        let directory = self.directory()?;
        known_account(&directory, &account)?;
        if !check_accounts::is_name(&name) {
            return invalid(format!("{name:?} cannot be the name of a user: {NAME_HELP}"));
        }
        if directory.user(&account, &name).is_some() {
            return invalid(format!("there is a user {name} in the account {account} already"));
        }
        let policies = stored_policies(policies)?;
        let made = self.new_key(&directory, (&account, &name), access_key, secret)?;
        let now = self.now();
        let user = StoredUser { created: now, changed: now, disabled: false, keys: vec![made.1], policies };
        let there = EngineError::InvalidArgument(format!("there is a user {name} in the account {account} already"));
        let change = |old: Option<StoredUser>| match old {
            Some(_) => Err(EngineError::InvalidArgument(there.to_string())),
            None => Ok(UserChange::Put(user.clone())),
        };
        engine.change_user(&account, &name, change).await?;
        Ok(made.0)
    }

    /// A key with a secret, sealed and to be shown.
    fn new_key(
        &self,
        directory: &Directory,
        (account, user): (&str, &str),
        access_key: Option<String>,
        secret: Option<SecretText>,
    ) -> Result<(NewKey, StoredKey), UserError> {
        let no_key = || UserError::Unavailable("there is no seal key to seal the secret with".to_owned());
        let seal = self.seal().ok_or_else(no_key)?;
        let generated = access_key::generate();
        let access_key = access_key.unwrap_or(generated.access_key);
        let secret = secret.map_or(generated.secret_key, |secret| Secret::new(secret.0));
        if let Err((part, what, help)) = check_accounts::check_key(&access_key, secret.expose()) {
            return invalid(format!("{part}: {what}; {help}"));
        }
        if directory.has_key(&access_key) {
            return invalid(format!("the access key {access_key} is taken: choose another"));
        }
        let sealed = seal.seal(Purpose::Secret, &belongs_to(account, user, &access_key), secret.expose());
        let stored = StoredKey {
            access_key: access_key.clone(),
            created: self.now(),
            ends: None,
            sealed: sealed.ok_or_else(no_key)?,
        };
        let made = NewKey {
            account: account.to_owned(),
            user: user.to_owned(),
            access_key,
            secret_key: SecretText::new(secret.expose()),
            old_keys_end: None,
        };
        Ok((made, stored))
    }

    /// Gives a user a new key. Older ones are good for `grace`, or not at all.
    ///
    /// # Errors
    /// A user that is not there or stands in the configuration; too many keys within their grace.
    pub async fn rotate(&self, account: &str, name: &str, grace: Option<Duration>) -> Result<NewKey, UserError> {
        if grace.is_some_and(|grace| grace > MAX_GRACE) {
            return invalid("an old key may be good for at most 90d");
        }
        let (engine, _) = self.existing(account, name)?;
        let directory = self.directory()?;
        let (mut made, key) = self.new_key(&directory, (account, name), None, None)?;
        let now = self.now();
        let ends = grace.map(|grace| now.plus(grace));
        let change = |old: Option<StoredUser>| {
            let mut user = old.ok_or_else(vanished)?;
            user.changed = now;
            user.keys.retain(|key| ends.is_some() && key.ends.is_none_or(|at| now < at));
            for old in &mut user.keys {
                old.ends = old.ends.into_iter().chain(ends).min();
            }
            if user.keys.len() >= MAX_KEYS {
                return Err(EngineError::InvalidArgument(format!(
                    "the user has {MAX_KEYS} keys within their grace: wait for the first to end, or rotate without a grace"
                )));
            }
            user.keys.push(key.clone());
            Ok(UserChange::Put(user))
        };
        engine.change_user(account, name, change).await?;
        made.old_keys_end = ends;
        Ok(made)
    }

    /// Takes a user's keys and sessions out of use, or gives them back.
    ///
    /// # Errors
    /// A user that is not there or stands in the configuration.
    pub async fn disable(&self, account: &str, name: &str, disabled: bool) -> Result<(), UserError> {
        self.change(account, name, |user| user.disabled = disabled).await
    }

    /// Gives a user other policies.
    ///
    /// # Errors
    /// As [`Users::disable`]; a policy that cannot be read.
    pub async fn set_policies(&self, account: &str, name: &str, policies: Vec<PolicyText>) -> Result<(), UserError> {
        let policies = stored_policies(policies)?;
        self.change(account, name, |user| user.policies.clone_from(&policies)).await
    }

    async fn change(&self, account: &str, name: &str, apply: impl Fn(&mut StoredUser)) -> Result<(), UserError> {
        let (engine, _) = self.existing(account, name)?;
        let now = self.now();
        let change = |old: Option<StoredUser>| {
            let mut user = old.ok_or_else(vanished)?;
            user.keys.retain(|key| key.ends.is_none_or(|at| now < at));
            user.changed = now;
            apply(&mut user);
            Ok(UserChange::Put(user))
        };
        Ok(engine.change_user(account, name, change).await?)
    }

    /// Removes a user with its keys. What it owns stays the account's.
    ///
    /// # Errors
    /// As [`Users::disable`].
    pub async fn remove(&self, account: &str, name: &str) -> Result<(), UserError> {
        let (engine, _) = self.existing(account, name)?;
        let change = |old: Option<StoredUser>| old.map(|_| UserChange::Remove).ok_or_else(vanished);
        Ok(engine.change_user(account, name, change).await?)
    }
}

fn stored_policies(policies: Vec<PolicyText>) -> Result<Vec<StoredPolicy>, UserError> {
    if policies.len() > MAX_POLICIES {
        return invalid(format!("a user has at most {MAX_POLICIES} policies"));
    }
    for policy in &policies {
        if policy.document.len() > MAX_DOCUMENT_BYTES {
            return invalid(format!("the policy {} has more than {MAX_DOCUMENT_BYTES} bytes", policy.name));
        }
        super::policy::parse(&policy.document)
            .map_err(|e| UserError::Invalid(format!("the policy {}: {e}", policy.name)))?;
    }
    Ok(policies.into_iter().map(|policy| StoredPolicy { name: policy.name, document: policy.document }).collect())
}

/// The account of this name.
///
/// # Errors
/// There is none; those that there are.
pub fn known_account<'a>(directory: &'a Directory, name: &str) -> Result<&'a Owner, UserError> {
    let none = || {
        let names: Vec<_> = directory.owners().map(|owner| owner.name.as_str()).collect();
        UserError::NotFound(format!("there is no account {name:?}; known: {}", names.join(", ")))
    };
    directory.owner(name).map(AsRef::as_ref).ok_or_else(none)
}

/// The user of this name.
///
/// # Errors
/// There is none.
pub fn known_user<'a>(directory: &'a Directory, account: &str, name: &str) -> Result<&'a Entry, UserError> {
    known_account(directory, account)?;
    let none = || UserError::NotFound(format!("there is no user {name:?} in the account {account}"));
    directory.user(account, name).ok_or_else(none)
}
