//! `tidegate user` and `tidegate account`.

use super::args_users::{AccountCommand, PolicyOptions, UserCommand, UserOf};
use super::client::AdminClient;
use super::live::encode;
use super::{Exit, Failure};
use crate::admin::users::{AccountReport, Change, Rotate, UserName, UserReport};
use crate::config::accounts::Canned;
use crate::output::{Output, render};
use crate::users::manage::{NewAccount, NewKey, NewUser, PolicyText, SecretText};
use crate::users::policy::Named;
use std::path::Path;

/// Longest file with a secret, in bytes.
const MAX_SECRET_BYTES: u64 = 4096;

pub(super) async fn account(command: AccountCommand, client: &AdminClient, output: &Output) -> Result<Exit, Failure> {
    match command {
        AccountCommand::Add { name, id, display_name, email } => {
            let made: AccountReport = client.post("/accounts", &NewAccount { name, id, display_name, email }).await?;
            output.show(&made, |made| render::accounts(std::slice::from_ref(made)));
        }
        AccountCommand::List => {
            let accounts: Vec<AccountReport> = client.get("/accounts", "").await?;
            output.show(&accounts, |accounts| render::accounts(accounts));
        }
    }
    Ok(Exit::Ok)
}

pub(super) async fn user(command: UserCommand, client: &AdminClient, output: &Output) -> Result<Exit, Failure> {
    match command {
        UserCommand::Add { user, policies, access_key, secret_file } => {
            let UserOf { name, account } = user;
            let policies = policies_of(&policies)?;
            let given = secret_file.is_some();
            let secret = secret_file.as_deref().map(secret_of).transpose()?;
            let new = NewUser { account, name, policies, access_key, secret };
            let made: NewKey = client.post("/users", &new).await?;
            output.show(&made, |made| render::new_key(made, given));
        }
        UserCommand::List { account } => {
            let query = account.map(|account| format!("?account={}", encode(&account))).unwrap_or_default();
            let users: Vec<UserReport> = client.get("/users", &query).await?;
            output.show(&users, |users| render::users(users));
        }
        UserCommand::Show { user } => {
            let account = user.account.map(|account| format!("&account={}", encode(&account))).unwrap_or_default();
            let query = format!("?name={}{account}", encode(&user.name));
            let user: UserReport = client.get("/user", &query).await?;
            output.show(&user, render::user);
        }
        UserCommand::Disable { user } => change(user, Some(true), None, (client, output)).await?,
        UserCommand::Enable { user } => change(user, Some(false), None, (client, output)).await?,
        UserCommand::Policy { user, policies } => {
            let policies = policies_of(&policies)?;
            change(user, None, Some(policies), (client, output)).await?;
        }
        UserCommand::Rotate { user, grace } => {
            let grace = grace.map(|grace| format!("{}ms", grace.as_millis()));
            let made: NewKey = client.post("/user/rotate", &Rotate { user: name_of(user), grace }).await?;
            output.show(&made, |made| render::new_key(made, false));
        }
        UserCommand::Remove { user } => {
            let gone: UserName = client.post("/user/remove", &name_of(user)).await?;
            output.show(&gone, |gone| format!("the user {} was removed\n", gone.name));
        }
    }
    Ok(Exit::Ok)
}

async fn change(
    user: UserOf,
    disabled: Option<bool>,
    policies: Option<Vec<PolicyText>>,
    (client, output): (&AdminClient, &Output),
) -> Result<(), Failure> {
    let changed: UserReport = client.post("/user/change", &Change { user: name_of(user), disabled, policies }).await?;
    output.show(&changed, render::user);
    Ok(())
}

fn name_of(user: UserOf) -> UserName {
    UserName { account: user.account, name: user.name }
}

fn policies_of(options: &PolicyOptions) -> Result<Vec<PolicyText>, Failure> {
    let canned = [
        (options.readonly, Canned::ReadOnly),
        (options.readwrite, Canned::ReadWrite),
        (options.writeonly, Canned::WriteOnly),
    ];
    let canned = canned.into_iter().filter(|(wanted, _)| *wanted).map(|(_, canned)| Ok(Named::canned(canned)));
    let files = options
        .policy
        .iter()
        .map(|file| Named::of_file(file).map_err(|e| Failure { exit: Exit::Problems, message: e }));
    canned.chain(files).map(|policy| policy.map(PolicyText::from)).collect()
}

/// The first line of a file.
fn secret_of(file: &Path) -> Result<SecretText, Failure> {
    let shown = file.display();
    let unreadable = |e: std::io::Error| Failure::new(format!("{shown} cannot be read: {e}"));
    if std::fs::metadata(file).map_err(unreadable)?.len() > MAX_SECRET_BYTES {
        return Err(Failure::new(format!(
            "{shown} has more than {MAX_SECRET_BYTES} bytes: it is no file with a secret"
        )));
    }
    let text = std::fs::read_to_string(file).map_err(unreadable)?;
    Ok(SecretText::new(text.trim_end_matches(['\r', '\n'])))
}
