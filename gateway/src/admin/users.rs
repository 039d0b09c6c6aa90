//! Accounts and users: what `tidegate user` and `tidegate account` ask.

use super::api::{State, parse_body};
use super::error::ApiError;
use crate::auth::identity::FIRST_ACCOUNT;
use crate::config::units::parse_duration;
use crate::users::directory::{Entry, Owner};
use crate::users::manage::{NewAccount, NewKey, NewUser, PolicyText, UserError, known_account, known_user};
use actix_web::web::{self, Bytes, Json, Query};
use serde::{Deserialize, Serialize};
use tidegate_tiering::clock::Timestamp;

type Answer<T> = Result<Json<T>, ApiError>;

/// The paths.
pub fn guarded(config: &mut web::ServiceConfig) {
    config
        .route("/accounts", web::get().to(accounts))
        .route("/accounts", web::post().to(add_account))
        .route("/users", web::get().to(list))
        .route("/users", web::post().to(add))
        .route("/user", web::get().to(show))
        .route("/user/rotate", web::post().to(rotate))
        .route("/user/change", web::post().to(change))
        .route("/user/remove", web::post().to(remove));
}

impl From<UserError> for ApiError {
    fn from(error: UserError) -> Self {
        match error {
            UserError::Invalid(message) => Self::invalid(message),
            UserError::NotFound(message) => Self::not_found(message),
            UserError::Unavailable(message) => Self::unavailable(message),
            UserError::Engine(error) => error.into(),
        }
    }
}

/// Where a user or an account stands.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum Source {
    /// In the configuration.
    Config,
    /// In the journal.
    Journal,
}

impl Source {
    /// The word for it.
    pub fn name(self) -> &'static str {
        match self {
            Self::Config => "config",
            Self::Journal => "journal",
        }
    }
}

/// An account.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct AccountReport {
    /// The name.
    pub name: String,
    /// The canonical id.
    pub id: String,
    /// The twelve digits in ARNs.
    pub number: String,
    /// What listings show.
    pub display_name: String,
    /// The e-mail address.
    pub email: Option<String>,
    /// Where it stands.
    pub source: Source,
}

impl AccountReport {
    fn of(owner: &Owner) -> Self {
        let account = &owner.account;
        Self {
            name: owner.name.clone(),
            id: account.id.clone(),
            number: account.number(),
            display_name: account.display_name.clone(),
            email: account.email.clone(),
            source: if owner.configured { Source::Config } else { Source::Journal },
        }
    }
}

/// A user.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct UserReport {
    /// The account's name.
    pub account: String,
    /// The name.
    pub name: String,
    /// What policies name it by.
    pub arn: String,
    /// None of its keys is good.
    pub disabled: bool,
    /// Where it stands.
    pub source: Source,
    /// When it was made, when it is one of the journal.
    pub created: Option<Timestamp>,
    /// Its keys.
    pub access_keys: Vec<KeyReport>,
    /// Its policies.
    pub policies: Vec<PolicyText>,
}

/// A key, without its secret.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct KeyReport {
    /// The id.
    pub access_key: String,
    /// `active`, `disabled`, `ended`, or `sealed` when the secret cannot be unsealed.
    pub state: String,
    /// When it was made.
    pub created: Option<Timestamp>,
    /// When it ends or ended.
    pub ends: Option<Timestamp>,
}

impl UserReport {
    fn of(entry: &Entry, now: Timestamp) -> Self {
        let user = &entry.user;
        let keys = entry.keys.iter().map(|key| {
            let state = match key {
                key if !key.sealed_well => "sealed",
                key if key.ends.is_some_and(|ends| now >= ends) => "ended",
                _ if user.disabled => "disabled",
                _ => "active",
            };
            let (access_key, state) = (key.access_key.clone(), state.to_owned());
            KeyReport { access_key, state, created: key.created, ends: key.ends }
        });
        Self {
            account: entry.account.clone(),
            name: user.name.clone(),
            arn: user.identity.arn(),
            disabled: user.disabled,
            source: if entry.created.is_some() { Source::Journal } else { Source::Config },
            created: entry.created,
            access_keys: keys.collect(),
            policies: user.policies.iter().cloned().map(PolicyText::from).collect(),
        }
    }
}

/// Names a user.
#[derive(Debug, Clone, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct UserName {
    /// The account; none means the default one.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub account: Option<String>,
    /// The user.
    pub name: String,
}

impl UserName {
    fn account(&self) -> &str {
        self.account.as_deref().unwrap_or(FIRST_ACCOUNT)
    }
}

/// Which users are asked for.
#[derive(Debug, Clone, Default, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Which {
    /// Those of this account; none means all.
    pub account: Option<String>,
}

/// Asks for a new key.
#[derive(Debug, Clone, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Rotate {
    /// Whose.
    pub user: UserName,
    /// How long older keys stay good, such as `1h`; none ends them now.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub grace: Option<String>,
}

/// Asks for a change; what is none stays.
#[derive(Debug, Clone, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Change {
    /// Whose.
    pub user: UserName,
    /// Whether it is disabled.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub disabled: Option<bool>,
    /// Its policies.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub policies: Option<Vec<PolicyText>>,
}

async fn accounts(state: State) -> Answer<Vec<AccountReport>> {
    let directory = state.users()?.directory()?;
    Ok(Json(directory.owners().map(|owner| AccountReport::of(owner)).collect()))
}

async fn add_account(state: State, body: Bytes) -> Answer<AccountReport> {
    let new: NewAccount = parse_body(&body)?;
    let users = state.users()?;
    let owner = state.doing(async move { users.add_account(new).await }).await?;
    tracing::info!(account = owner.name, "an account was made");
    Ok(Json(AccountReport::of(&owner)))
}

async fn list(state: State, which: Query<Which>) -> Answer<Vec<UserReport>> {
    let users = state.users()?;
    let (directory, now) = (users.directory()?, users.now());
    if let Some(account) = &which.account {
        known_account(&directory, account)?;
    }
    let wanted = |entry: &&Entry| which.account.as_ref().is_none_or(|account| *account == entry.account);
    Ok(Json(directory.users().filter(wanted).map(|entry| UserReport::of(entry, now)).collect()))
}

async fn show(state: State, user: Query<UserName>) -> Answer<UserReport> {
    report(&state, &user)
}

fn report(state: &State, user: &UserName) -> Answer<UserReport> {
    let users = state.users()?;
    let directory = users.directory()?;
    Ok(Json(UserReport::of(known_user(&directory, user.account(), &user.name)?, users.now())))
}

async fn add(state: State, body: Bytes) -> Answer<NewKey> {
    let new: NewUser = parse_body(&body)?;
    let users = state.users()?;
    let key = state.doing(async move { users.add(new).await }).await?;
    tracing::info!(account = key.account, user = key.user, access_key = key.access_key, "a user was made");
    Ok(Json(key))
}

async fn rotate(state: State, body: Bytes) -> Answer<NewKey> {
    let Rotate { user, grace } = parse_body(&body)?;
    let grace = grace.as_deref().map(parse_duration).transpose().map_err(ApiError::invalid)?;
    let users = state.users()?;
    let key = state.doing(async move { users.rotate(user.account(), &user.name, grace).await }).await?;
    tracing::info!(account = key.account, user = key.user, access_key = key.access_key, "a user has a new key");
    Ok(Json(key))
}

async fn change(state: State, body: Bytes) -> Answer<UserReport> {
    let Change { user, disabled, policies } = parse_body(&body)?;
    let (users, name) = (state.users()?, user.clone());
    let changing = async move {
        if let Some(policies) = policies {
            users.set_policies(user.account(), &user.name, policies).await?;
        }
        match disabled {
            Some(disabled) => users.disable(user.account(), &user.name, disabled).await,
            None => Ok(()),
        }
    };
    state.doing(changing).await?;
    tracing::info!(account = name.account(), user = name.name, ?disabled, "a user was changed");
    report(&state, &name)
}

async fn remove(state: State, body: Bytes) -> Answer<UserName> {
    let user: UserName = parse_body(&body)?;
    let (users, name) = (state.users()?, user.clone());
    state.doing(async move { users.remove(name.account(), &name.name).await }).await?;
    tracing::info!(account = user.account(), user = user.name, "a user was removed");
    Ok(Json(user))
}
