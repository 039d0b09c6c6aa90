//! What is wrong with accounts and users: names, ids, keys, policies.

use super::accounts::{AccountSection, PolicySource};
use super::{Config, Problem};
use crate::auth::identity::{Account, FIRST_ACCOUNT};
use crate::server::AccessKey;
use crate::users::policy;
use crate::users::seal::SealKeys;
use std::collections::BTreeMap;
use tidegate_tiering::engine::MAX_NAME_BYTES;

/// The shortest secret of a user, in characters.
pub const MIN_SECRET: usize = 16;
/// The shortest and the longest access key, in characters (those of AWS have 16 to 128).
pub const ACCESS_KEY_LENGTHS: std::ops::RangeInclusive<usize> = 3..=128;

/// What is found, and what was seen before: keys and ids are of one account alone.
struct Found<'a> {
    file: &'a str,
    problems: &'a mut Vec<Problem>,
    /// Access key -> the field that has it.
    keys: BTreeMap<String, String>,
    /// Owner id -> account.
    ids: BTreeMap<String, String>,
    emails: BTreeMap<String, String>,
}

impl Found<'_> {
    fn add(&mut self, field: &str, message: impl Into<String>, help: &str) {
        self.problems.push(Problem::of_field(self.file, field, message, help));
    }
}

pub(super) fn check(file: &str, config: &Config, problems: &mut Vec<Problem>) {
    let mut found = Found { file, problems, keys: BTreeMap::new(), ids: BTreeMap::new(), emails: BTreeMap::new() };
    if let Some(Err(message)) = config.users.seal_key.as_ref().map(|key| SealKeys::parse(key.expose())) {
        // What is wrong is said without the text.
        let (what, help) = message.split_once("; ").unwrap_or((&message, ""));
        found.add("users.seal_key", what, help);
    }
    for (at, key) in config.s3.access_keys.iter().enumerate() {
        // Twice in this list: `s3` says so.
        found.keys.insert(key.access_key.clone(), format!("s3.access_keys[{at}]"));
    }
    if !config.accounts.contains_key(FIRST_ACCOUNT) {
        found.ids.insert(Account::named(FIRST_ACCOUNT).id, FIRST_ACCOUNT.to_owned());
    }
    for (name, account) in &config.accounts {
        let field = format!("accounts.{name}");
        check_name(&mut found, &field, name);
        check_account(&mut found, &field, name, account);
        for (user, section) in &account.users {
            let field = format!("{field}.users.{user}");
            check_name(&mut found, &field, user);
            check_keys(&mut found, &field, &section.access_keys);
            for (at, source) in section.policies.iter().enumerate() {
                check_policy(&mut found, &format!("{field}.policies[{at}]"), source);
            }
        }
    }
}

fn check_name(found: &mut Found<'_>, field: &str, name: &str) {
    if !is_name(name) {
        let help = format!("use 1 to {MAX_NAME_BYTES} letters, digits and + = , . @ _ -");
        found.add(field, format!("{name:?} cannot be a name"), &help);
    }
}

/// Whether accounts and users may be called so.
pub fn is_name(name: &str) -> bool {
    let fits = |b: u8| b.is_ascii_alphanumeric() || b"+=,.@_-".contains(&b);
    (1..=MAX_NAME_BYTES).contains(&name.len()) && name.bytes().all(fits)
}

/// Whether an owner may have this id.
pub fn is_id(id: &str) -> bool {
    id.len() == 64 && id.bytes().all(|b| b.is_ascii_digit() || (b'a'..=b'f').contains(&b))
}

fn check_account(found: &mut Found<'_>, field: &str, name: &str, account: &AccountSection) {
    check_keys(found, field, &account.access_keys);
    let id = account.id.clone().unwrap_or_else(|| Account::named(name).id);
    if !is_id(&id) {
        let help = "write 64 lower case hexadecimal digits, or leave it out to have one made of the name";
        found.add(&format!("{field}.id"), "this is no owner id", help);
    } else if let Some(other) = found.ids.insert(id, name.to_owned()) {
        let message = format!("the account {other} has the same id");
        found.add(&format!("{field}.id"), message, "give each account an id of its own");
    }
    if account.display_name.as_ref().is_some_and(|shown| shown.is_empty() || shown.chars().any(char::is_control)) {
        found.add(&format!("{field}.display_name"), "this cannot be shown", "write plain text, or leave it out");
    }
    if let Some(email) = &account.email {
        let field = format!("{field}.email");
        if !email.contains('@') || email.chars().any(|c| c.is_control() || c.is_whitespace()) {
            found.add(&field, "this is no e-mail address", "write one such as ops@example.com, or leave it out");
        } else if let Some(other) = found.emails.insert(email.to_ascii_lowercase(), name.to_owned()) {
            found.add(
                &field,
                format!("the account {other} has the same address"),
                "a grant by it must mean one account",
            );
        }
    }
}

fn check_keys(found: &mut Found<'_>, section: &str, keys: &[AccessKey]) {
    for (at, key) in keys.iter().enumerate() {
        let field = format!("{section}.access_keys[{at}]");
        if let Err((part, what, help)) = check_key(&key.access_key, key.secret_key.expose()) {
            found.add(&format!("{field}.{part}"), what, &help);
        }
        if let Some(other) = found.keys.get(&key.access_key) {
            let message = format!("{other} has the same access key");
            found.add(&format!("{field}.access_key"), message, "give each key an id of its own");
        } else {
            found.keys.insert(key.access_key.clone(), field);
        }
    }
}

/// What is wrong with a key of a user: which part, what, the way out.
///
/// # Errors
/// As said.
pub fn check_key(access_key: &str, secret: &str) -> Result<(), (&'static str, String, String)> {
    let plain = |b: u8| b.is_ascii_graphic() && !b"/,=\"<>&".contains(&b);
    if !ACCESS_KEY_LENGTHS.contains(&access_key.len()) || !access_key.bytes().all(plain) {
        let (least, most) = (ACCESS_KEY_LENGTHS.start(), ACCESS_KEY_LENGTHS.end());
        let help = format!("use {least} to {most} letters and digits");
        return Err(("access_key", "this cannot be an access key".to_owned(), help));
    }
    if access_key.starts_with(crate::users::seal::SESSION_PREFIX) {
        let what = format!("keys that begin with {} are those of sessions", crate::users::seal::SESSION_PREFIX);
        return Err(("access_key", what, "choose another".to_owned()));
    }
    if secret.chars().count() < MIN_SECRET {
        let help = format!("use at least {MIN_SECRET} characters, such as the output of: openssl rand -base64 30");
        return Err(("secret_key", "the secret is too short to keep anybody out".to_owned(), help));
    }
    if secret.chars().any(char::is_control) {
        return Err((
            "secret_key",
            "the secret has control characters".to_owned(),
            "write one line of text".to_owned(),
        ));
    }
    Ok(())
}

fn check_policy(found: &mut Found<'_>, field: &str, source: &PolicySource) {
    if let Err((part, message)) = policy::read(source) {
        let field = if part.is_empty() { field.to_owned() } else { format!("{field}.{part}") };
        found.add(&field, message, "a policy has one of canned (readonly, readwrite, writeonly), file and document");
    }
}
