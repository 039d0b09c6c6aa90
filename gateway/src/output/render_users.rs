//! Accounts and users as text.

use super::render::{finish, pairs};
use super::table;
use crate::admin::users::{AccountReport, KeyReport, UserReport};
use crate::users::manage::NewKey;
use std::fmt::Write;

/// `tidegate account list`.
pub fn accounts(reports: &[AccountReport]) -> String {
    let mut accounts = table(["account", "shown as", "e-mail", "number", "from", "owner id"]);
    for report in reports {
        accounts.add_row([
            report.name.clone(),
            report.display_name.clone(),
            report.email.clone().unwrap_or_else(|| "-".to_owned()),
            report.number.clone(),
            report.source.name().to_owned(),
            report.id.clone(),
        ]);
    }
    finish(accounts, &[])
}

/// `tidegate user list`.
pub fn users(reports: &[UserReport]) -> String {
    let mut users = table(["account", "user", "state", "from", "access keys", "policies"]);
    for report in reports {
        let names: Vec<_> = report.policies.iter().map(|policy| policy.name.as_str()).collect();
        users.add_row([
            report.account.clone(),
            report.name.clone(),
            if report.disabled { "disabled" } else { "enabled" }.to_owned(),
            report.source.name().to_owned(),
            report.access_keys.iter().map(key).collect::<Vec<_>>().join(", "),
            if names.is_empty() { "-".to_owned() } else { names.join(", ") },
        ]);
    }
    finish(users, &[])
}

fn key(key: &KeyReport) -> String {
    match (key.state.as_str(), key.ends) {
        ("active", None) => key.access_key.clone(),
        ("active", Some(ends)) => format!("{} (until {ends})", key.access_key),
        ("sealed", _) => format!("{} (its secret cannot be unsealed)", key.access_key),
        (state, _) => format!("{} ({state})", key.access_key),
    }
}

/// `tidegate user show`.
pub fn user(report: &UserReport) -> String {
    let mut text = pairs(vec![
        ("user", report.name.clone()),
        ("account", report.account.clone()),
        ("ARN", report.arn.clone()),
        ("state", if report.disabled { "disabled" } else { "enabled" }.to_owned()),
        ("from", report.source.name().to_owned()),
        ("created", report.created.map_or_else(|| "-".to_owned(), |at| at.to_string())),
        ("access keys", report.access_keys.iter().map(key).collect::<Vec<_>>().join(", ")),
    ]);
    if report.policies.is_empty() {
        text.push_str("no policy: it may do what bucket policies and ACLs grant it\n");
    }
    for policy in &report.policies {
        let _ = writeln!(text, "policy {}:\n{}", policy.name, policy.document.trim_end());
    }
    text
}

/// What `tidegate user add` and `rotate` made; a secret that was given is not repeated.
pub fn new_key(made: &NewKey, given: bool) -> String {
    let mut rows = vec![("user", format!("{}/{}", made.account, made.user)), ("access key", made.access_key.clone())];
    if !given {
        rows.push(("secret key", made.secret_key.expose().to_owned()));
    }
    let mut text = pairs(rows);
    if let Some(ends) = made.old_keys_end {
        let _ = writeln!(text, "older keys are good until {ends}");
    }
    if !given {
        text.push_str("(the secret is shown only this once)\n");
    }
    text
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::users::manage::SecretText;
    use tidegate_tiering::clock::Timestamp;

    #[test]
    fn a_new_secret_is_shown_and_a_given_one_is_not() {
        let made = NewKey {
            account: "a".into(),
            user: "u".into(),
            access_key: "AK".into(),
            secret_key: SecretText::new("hunter2"),
            old_keys_end: Some(Timestamp(0)),
        };
        let shown = new_key(&made, false);
        assert!(shown.contains("hunter2") && shown.contains("until 1970-01-01"), "{shown}");
        assert!(!new_key(&made, true).contains("hunter2"));
        assert!(!format!("{made:?}").contains("hunter2"));
    }
}
