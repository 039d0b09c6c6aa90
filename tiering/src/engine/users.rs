//! Accounts and users as they are kept in the namespace: plain records. What they mean, and what is behind the sealed bytes, is for
//! whoever asks.
//!
//! Keys of the table User begin with what they are: `a NUL account`, `u NUL account NUL user`, `k NUL access-key`. The last
//! ones make an access key belong to one user.

use super::Engine;
use super::error::EngineError;
use super::record::Record;
use crate::clock::Timestamp;
use crate::meta::{AppliedOp, Batch, CommitObserver, Expect, MetaError, MetaStore, Reason, Table, prefix_range};
use serde::{Deserialize, Serialize};
use std::collections::BTreeSet;
use std::fmt;
use std::sync::atomic::{AtomicU64, Ordering};

/// How often a change is tried again after another one of the same user won.
const MAX_RACES: usize = 32;

/// Most accounts, and most users of all accounts together: all of them are held in memory, and read anew after each change.
pub const MAX_USERS: usize = 10_000;
/// Longest name of an account or a user, in bytes.
pub const MAX_NAME_BYTES: usize = 64;

const ACCOUNT: &[u8] = b"a\0";
const USER: &[u8] = b"u\0";
const ACCESS_KEY: &[u8] = b"k\0";

/// An account.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct StoredAccount {
    /// When it was made.
    pub created: Timestamp,
    /// The canonical id of the owner: 64 hexadecimal digits.
    pub id: String,
    /// What listings show beside the id.
    pub display_name: String,
    /// The e-mail address, where one is known.
    pub email: Option<String>,
}

impl Record for StoredAccount {
    const NAME: &'static str = "account";
}

/// A user of an account.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct StoredUser {
    /// When it was made.
    pub created: Timestamp,
    /// When it was last changed.
    pub changed: Timestamp,
    /// None of its keys is good.
    pub disabled: bool,
    /// Its access keys, the newest last.
    pub keys: Vec<StoredKey>,
    /// What it may do.
    pub policies: Vec<StoredPolicy>,
}

impl Record for StoredUser {
    const NAME: &'static str = "user";
}

/// An access key.
#[derive(Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct StoredKey {
    /// The access key id.
    pub access_key: String,
    /// When it was made.
    pub created: Timestamp,
    /// From when on it is good no more.
    pub ends: Option<Timestamp>,
    /// The secret, sealed.
    pub sealed: Vec<u8>,
}

impl fmt::Debug for StoredKey {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Self { access_key, created, ends, sealed } = self;
        let sealed = format!("{} bytes", sealed.len());
        f.debug_struct("StoredKey")
            .field("access_key", access_key)
            .field("created", created)
            .field("ends", ends)
            .field("sealed", &sealed)
            .finish()
    }
}

/// A policy of a user.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct StoredPolicy {
    /// Its name within the user.
    pub name: String,
    /// The document.
    pub document: String,
}

/// Whose an access key is.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
struct KeyOwner {
    account: String,
    user: String,
}

impl Record for KeyOwner {
    const NAME: &'static str = "access key";
}

/// What a change of a user asks for.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum UserChange {
    /// The user as it is to be.
    Put(StoredUser),
    /// It is to go, with its keys.
    Remove,
}

/// Everything in the table.
#[derive(Debug, Clone, Default)]
pub struct StoredUsers {
    /// Accounts by name.
    pub accounts: Vec<(String, StoredAccount)>,
    /// Users: account, name, record.
    pub users: Vec<(String, String, StoredUser)>,
}

/// Counts the changes of the table, so that whoever keeps it in memory knows when to read it again.
#[derive(Debug, Default)]
pub(crate) struct UsersVersion(AtomicU64);

impl CommitObserver for UsersVersion {
    fn applied(&self, _seq: u64, ops: &[AppliedOp]) {
        if ops.iter().any(|one| one.op.table == Table::User) {
            self.0.fetch_add(1, Ordering::AcqRel);
        }
    }
}

impl Engine {
    /// Grows with every change of accounts and users. What is read after this is at least as new.
    pub fn users_version(&self) -> u64 {
        self.core.users.0.load(Ordering::Acquire)
    }

    /// All accounts and users of the namespace. Records that do not decode are reported and left out.
    ///
    /// # Errors
    /// A failure of the index; [`EngineError::Corrupt`] when there are more than [`MAX_USERS`].
    pub fn users(&self) -> Result<StoredUsers, EngineError> {
        let core = &self.core;
        let page = |prefix| core.meta.scan(Table::User, prefix_range(prefix), MAX_USERS + 1, false);
        let mut all = StoredUsers::default();
        for (key, value) in page(ACCOUNT)? {
            if let Some(account) = core.usable(Table::User, &key, StoredAccount::decode(&value)) {
                all.accounts.push((text(&key[ACCOUNT.len()..]), account));
            }
        }
        for (key, value) in page(USER)? {
            let name = split_user(&key).ok_or_else(|| EngineError::Corrupt("a user without an account".to_owned()));
            let decoded = name.and_then(|name| Ok((name, StoredUser::decode(&value)?)));
            if let Some(((account, user), record)) = core.usable(Table::User, &key, decoded) {
                all.users.push((account, user, record));
            }
        }
        if all.accounts.len() > MAX_USERS || all.users.len() > MAX_USERS {
            return Err(EngineError::Corrupt(format!("there are more than {MAX_USERS} accounts or users")));
        }
        Ok(all)
    }

    /// Makes an account.
    ///
    /// # Errors
    /// [`EngineError::InvalidArgument`] when there is one of this name, or for a name or id that cannot be one.
    pub async fn add_account(&self, name: &str, account: StoredAccount) -> Result<(), EngineError> {
        check_name("account", name)?;
        if account.id.len() != 64 || !account.id.bytes().all(|b| b.is_ascii_digit() || (b'a'..=b'f').contains(&b)) {
            return Err(EngineError::InvalidArgument("an owner id has 64 lower case hexadecimal digits".to_owned()));
        }
        self.has_room(ACCOUNT)?;
        let key = [ACCOUNT, name.as_bytes()].concat();
        let batch = Batch::new(Reason::Account).expect(Expect::Absent(Table::User, key.clone())).put(
            Table::User,
            key,
            account.encode()?,
        );
        match self.core.meta.commit(batch).await {
            Err(MetaError::Conflict { .. }) => {
                Err(EngineError::InvalidArgument(format!("there is an account {name} already")))
            }
            other => Ok(other.map(drop)?),
        }
    }

    /// Changes a user in one record of the journal: `change` is given what there is, and may be asked again when somebody else
    /// changed it meanwhile.
    ///
    /// # Errors
    /// What `change` says; [`EngineError::InvalidArgument`] for an access key that another user has, or a name that cannot be one.
    pub async fn change_user(
        &self,
        account: &str,
        user: &str,
        change: impl Fn(Option<StoredUser>) -> Result<UserChange, EngineError>,
    ) -> Result<(), EngineError> {
        check_name("account", account)?;
        check_name("user", user)?;
        let key = [USER, account.as_bytes(), b"\0", user.as_bytes()].concat();
        for _ in 0..MAX_RACES {
            let stored = self.core.meta.get(Table::User, &key)?;
            let old = stored.as_deref().map(StoredUser::decode).transpose()?;
            let before: BTreeSet<String> = access_keys(old.as_ref());
            let mut batch = Batch::new(Reason::User);
            batch = batch.expect(match &stored {
                Some(value) => Expect::Equals(Table::User, key.clone(), value.to_vec()),
                None => Expect::Absent(Table::User, key.clone()),
            });
            if stored.is_none() {
                self.has_room(USER)?;
            }
            let (record, after) = match change(old)? {
                UserChange::Put(new) => {
                    let after = access_keys(Some(&new));
                    (Some(new), after)
                }
                UserChange::Remove => (None, BTreeSet::new()),
            };
            for gone in before.difference(&after) {
                batch = batch.delete(Table::User, key_of(gone));
            }
            let owner = KeyOwner { account: account.to_owned(), user: user.to_owned() }.encode()?;
            for new in after.difference(&before) {
                batch =
                    batch.expect(Expect::Absent(Table::User, key_of(new))).put(Table::User, key_of(new), owner.clone());
            }
            batch = match &record {
                Some(record) => batch.put(Table::User, key.clone(), record.encode()?),
                None => batch.delete(Table::User, key.clone()),
            };
            match self.core.meta.commit(batch).await {
                Err(MetaError::Conflict { .. }) => self.refuse_taken(&after, &owner)?,
                other => return Ok(other.map(drop)?),
            }
        }
        Err(EngineError::Conflict)
    }

    /// An error when one of the keys is somebody else's.
    fn refuse_taken(&self, wanted: &BTreeSet<String>, owner: &[u8]) -> Result<(), EngineError> {
        for access_key in wanted {
            let taken = self.core.meta.get(Table::User, &key_of(access_key))?;
            if taken.is_some_and(|by| by.as_ref() != owner) {
                return Err(EngineError::InvalidArgument(format!(
                    "the access key {access_key} is taken: choose another"
                )));
            }
        }
        Ok(())
    }

    fn has_room(&self, prefix: &[u8]) -> Result<(), EngineError> {
        let there = self.core.meta.scan(Table::User, prefix_range(prefix), MAX_USERS, false)?;
        if there.len() < MAX_USERS {
            return Ok(());
        }
        Err(EngineError::InvalidArgument(format!("there are {MAX_USERS} already: remove some")))
    }
}

/// Names are parts of keys, of ARNs and of what is typed.
fn check_name(what: &str, name: &str) -> Result<(), EngineError> {
    let fits = |b: u8| b.is_ascii_alphanumeric() || b"+=,.@_-".contains(&b);
    if (1..=MAX_NAME_BYTES).contains(&name.len()) && name.bytes().all(fits) {
        return Ok(());
    }
    Err(EngineError::InvalidArgument(format!(
        "{name:?} is no name for {what}s: use 1 to {MAX_NAME_BYTES} letters, digits and + = , . @ _ -"
    )))
}

fn access_keys(user: Option<&StoredUser>) -> BTreeSet<String> {
    user.into_iter().flat_map(|user| &user.keys).map(|key| key.access_key.clone()).collect()
}

fn key_of(access_key: &str) -> Vec<u8> {
    [ACCESS_KEY, access_key.as_bytes()].concat()
}

fn split_user(key: &[u8]) -> Option<(String, String)> {
    let rest = key.strip_prefix(USER)?;
    let nul = rest.iter().position(|b| *b == 0)?;
    Some((text(&rest[..nul]), text(&rest[nul + 1..])))
}

fn text(bytes: &[u8]) -> String {
    String::from_utf8_lossy(bytes).into_owned()
}

/// A value of the table as people read it.
pub(crate) fn describe(key: &[u8], value: &[u8]) -> Result<String, EngineError> {
    Ok(match key.first() {
        Some(b'a') => format!("{:?}", StoredAccount::decode(value)?),
        Some(b'u') => format!("{:?}", StoredUser::decode(value)?),
        _ => format!("{:?}", KeyOwner::decode(value)?),
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    fn key() -> StoredKey {
        StoredKey { access_key: "AK".into(), created: Timestamp(1), ends: Some(Timestamp(3)), sealed: vec![1, 2, 255] }
    }

    #[test]
    fn records_are_as_documented() {
        let account = StoredAccount {
            created: Timestamp(1),
            id: "ab".repeat(32),
            display_name: "Al".into(),
            email: Some("a@b".into()),
        };
        let id = hex::encode("ab".repeat(32));
        assert_eq!(hex::encode(account.encode().unwrap()), format!("010140{id}02416c0103614062"));
        let policies = vec![StoredPolicy { name: "p".into(), document: "{}".into() }];
        let user =
            StoredUser { created: Timestamp(1), changed: Timestamp(2), disabled: true, keys: vec![key()], policies };
        let expected = concat!(
            "01",         // version
            "0102",       // created, changed
            "01",         // disabled
            "01",         // one key
            "02414b",     // its id
            "01",         // created
            "0103",       // ends at 3
            "030102ff",   // sealed: three bytes
            "01",         // one policy
            "0170027b7d"  // name and document
        );
        assert_eq!(hex::encode(user.encode().unwrap()), expected);
        assert_eq!(StoredUser::decode(&hex::decode(expected).unwrap()).unwrap(), user);
        let owner = KeyOwner { account: "a".into(), user: "u".into() };
        assert_eq!(hex::encode(owner.encode().unwrap()), "0101610175");
        assert_eq!(split_user(b"u\0a\0b"), Some(("a".into(), "b".into())));
    }

    #[test]
    fn a_sealed_secret_is_not_shown() {
        assert!(!format!("{:?}", key()).contains("255"));
    }
}
