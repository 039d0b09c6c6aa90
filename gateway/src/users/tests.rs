use super::directory::{Directory, Known};
use super::manage::{NewAccount, NewUser, PolicyText, SecretText, UserError};
use super::policy::Named;
use super::seal::SealKeys;
use super::session::{Session, tag};
use super::{Keys, Users, token_of};
use crate::auth::identity::IdentitySource;
use crate::config::accounts::{AccountSection, Canned, UserSection};
use crate::server::{AccessKey, Secret};
use http::HeaderMap;
use s3s::auth::S3Auth;
use std::collections::BTreeMap;
use std::sync::Arc;
use std::time::Duration;
use tidegate_tiering::clock::{ManualClock, Timestamp};
use tidegate_tiering::engine::{Components, Engine, EngineSettings, StoredAccount, StoredUser, StoredUsers};

struct Bed {
    users: Users,
    engine: Engine,
    clock: Arc<ManualClock>,
    _folder: tempfile::TempDir,
}

fn seal() -> SealKeys {
    SealKeys::parse(&"01".repeat(32)).unwrap()
}

fn key(access_key: &str, secret: &str) -> AccessKey {
    AccessKey { access_key: access_key.into(), secret_key: Secret::new(secret) }
}

fn known() -> Known {
    let user = UserSection { access_keys: vec![key("CAROL", "the secret of carol")], ..UserSection::default() };
    let alice = AccountSection {
        access_keys: vec![key("ALICE", "the secret of alice")],
        email: Some("alice@example.com".into()),
        users: BTreeMap::from([("carol".to_owned(), user)]),
        ..AccountSection::default()
    };
    Known {
        accounts: BTreeMap::from([("alice".to_owned(), alice)]),
        root_keys: vec![key("ROOT", "the secret of root")],
    }
}

async fn bed() -> Bed {
    let folder = tempfile::tempdir().unwrap();
    let mut settings = EngineSettings { data_dir: folder.path().to_owned(), ..Default::default() };
    settings.disk.free_floor = 0;
    let clock = Arc::new(ManualClock::new(Timestamp(1_000_000)));
    let components = Components {
        clock: Arc::clone(&clock) as _,
        tiers: BTreeMap::new(),
        classes: BTreeMap::from([("STANDARD".to_owned(), "hot".to_owned())]),
        policy: tidegate_policies::Policy::none(),
        policy_text: String::new(),
        registry: prometheus::Registry::new(),
    };
    let engine = Engine::open(settings, components).await.unwrap();
    let users = Users::new(known(), Some(seal()), engine.clone());
    Bed { users, engine, clock, _folder: folder }
}

fn new_user(name: &str) -> NewUser {
    let policies = vec![PolicyText::from(Named::canned(Canned::ReadWrite))];
    NewUser { account: None, name: name.into(), policies, access_key: None, secret: None }
}

fn code<T>(result: s3s::S3Result<T>) -> String {
    result.err().map(|error| error.code().as_str().to_owned()).unwrap_or_default()
}

async fn secret_of(users: Users, access_key: &str) -> (Users, Option<String>) {
    let users = Arc::new(users);
    let secret = Keys(Arc::clone(&users)).get_secret_key(access_key).await.ok().map(|key| key.expose().to_owned());
    (Arc::try_unwrap(users).unwrap(), secret)
}

#[tokio::test(flavor = "multi_thread")]
async fn keys_of_everybody_have_their_secrets_and_identities() {
    let Bed { users, .. } = &bed().await;
    let made = users.add(new_user("bob")).await.unwrap();
    let signer = users.signer(&made.access_key, None).unwrap();
    assert_eq!((signer.identity.user.as_deref(), signer.identity.policies.len()), (Some("bob"), 1));
    assert_eq!(signer.identity.account.id, users.first_account().id);
    let carol = users.signer("CAROL", None).unwrap().identity;
    assert_eq!((carol.user.as_deref(), carol.account.display_name.as_str()), (Some("carol"), "alice"));
    let root = users.signer("ROOT", None).unwrap().identity;
    assert_eq!((root.user.as_deref(), root.account.display_name.as_str()), (None, "tidegate"));
    assert_eq!(code(users.signer("NOBODY", None)), "InvalidAccessKeyId");
    assert_eq!(users.account_by_email("ALICE@example.com").unwrap().id, carol.account.id);
    assert_eq!(users.account(&carol.account.id).unwrap().display_name, "alice");
    assert!(users.account("x").is_none());
}

#[tokio::test(flavor = "multi_thread")]
async fn s3s_is_given_the_secret_that_was_made() {
    let Bed { users, engine, .. } = bed().await;
    let made = users.add(new_user("bob")).await.unwrap();
    let (users, secret) = secret_of(users, &made.access_key).await;
    assert_eq!(secret.as_deref(), Some(made.secret_key.expose()));
    let (users, root) = secret_of(users, "ROOT").await;
    assert_eq!(root.as_deref(), Some("the secret of root"));
    users.disable("tidegate", "bob", true).await.unwrap();
    let (_, gone) = secret_of(users, &made.access_key).await;
    assert_eq!(gone, None);
    // Another seal key opens nothing, and a warning says whose.
    let other = Users::new(known(), SealKeys::parse(&"02".repeat(32)).ok(), engine);
    let directory = other.directory().unwrap();
    assert!(directory.warnings().iter().any(|warning| warning.contains("tidegate/bob")), "{:?}", directory.warnings());
    assert!(other.signer("ROOT", None).is_ok());
}

#[tokio::test(flavor = "multi_thread")]
async fn keys_that_were_replaced_end() {
    let Bed { users, clock, .. } = &bed().await;
    let first = users.add(new_user("bob")).await.unwrap();
    let second = users.rotate("tidegate", "bob", Some(Duration::from_secs(60))).await.unwrap();
    assert!(users.signer(&first.access_key, None).is_ok() && users.signer(&second.access_key, None).is_ok());
    // A later grace does not lengthen an earlier one.
    let third = users.rotate("tidegate", "bob", Some(Duration::from_secs(600))).await.unwrap();
    clock.advance(Duration::from_secs(60));
    assert_eq!(code(users.signer(&first.access_key, None)), "InvalidAccessKeyId");
    assert!(users.signer(&second.access_key, None).is_ok());
    for _ in 0..2 {
        users.rotate("tidegate", "bob", Some(Duration::from_secs(600))).await.unwrap();
    }
    let error = users.rotate("tidegate", "bob", Some(Duration::from_secs(600))).await.unwrap_err().to_string();
    assert!(error.contains("4 keys"), "{error}");
    let last = users.rotate("tidegate", "bob", None).await.unwrap();
    assert_eq!(code(users.signer(&third.access_key, None)), "InvalidAccessKeyId");
    assert!(users.signer(&last.access_key, None).is_ok());
    users.remove("tidegate", "bob").await.unwrap();
    assert_eq!(code(users.signer(&last.access_key, None)), "InvalidAccessKeyId");
    // Its key is free again.
    let (access_key, secret) = (Some(last.access_key.clone()), Some(SecretText::new("another long secret")));
    users.add(NewUser { access_key, secret, ..new_user("ann") }).await.unwrap();
}

#[tokio::test(flavor = "multi_thread")]
async fn what_cannot_be_is_refused_and_racing_writers_have_one_winner() {
    let Bed { users, .. } = &bed().await;
    let word = |word: &'static str| {
        move |result: Result<_, UserError>| {
            let error = result.unwrap_err().to_string();
            assert!(error.contains(word), "{error} has no {word}");
        }
    };
    word("cannot be the name")(users.add(new_user("a b")).await.map(drop));
    word("no account")(users.add(NewUser { account: Some("x".into()), ..new_user("a") }).await.map(drop));
    word("configuration")(users.rotate("alice", "carol", None).await.map(drop));
    word("already")(users.add(NewUser { account: Some("alice".into()), ..new_user("carol") }).await.map(drop));
    let wrong = PolicyText { name: "p".into(), document: "{}".into() };
    word("the policy p")(users.add(NewUser { policies: vec![wrong], ..new_user("a") }).await.map(drop));
    let secret = || Some(SecretText::new("another long secret"));
    let taken = |access_key: &str| NewUser { access_key: Some(access_key.into()), secret: secret(), ..new_user("a") };
    word("taken")(users.add(taken("CAROL")).await.map(drop));
    word("sessions")(users.add(taken("ASIASOMETHING")).await.map(drop));
    let races = (0..8).map(|n| {
        users.add(NewUser { access_key: Some("SAME".into()), secret: secret(), ..new_user(&format!("u{n}")) })
    });
    let won = futures::future::join_all(races).await.into_iter().filter(Result::is_ok).count();
    assert_eq!(won, 1);
    let dora =
        |id: Option<&str>| NewAccount { name: "dora".into(), id: id.map(Into::into), display_name: None, email: None };
    word("64")(users.add_account(dora(Some("x"))).await.map(drop));
    let made = users.add_account(dora(None)).await.unwrap();
    word("already")(users.add_account(dora(None)).await.map(drop));
    let email = Some("Alice@example.com".to_owned());
    word("e-mail")(users.add_account(NewAccount { name: "erin".into(), email, ..dora(None) }).await.map(drop));
    assert_eq!(users.account(&made.account.id).unwrap().display_name, "dora");
}

fn session_of(users: &Users, access_key: &str, secret: &str, policy: Option<&str>) -> Session {
    let key = users.signer(access_key, None).unwrap();
    Session {
        parent: access_key.into(),
        tag: tag(secret),
        account: "tidegate".into(),
        user: key.identity.user.clone(),
        name: None,
        issued: users.now(),
        expires: users.now().plus(Duration::from_secs(900)),
        policy: policy.map(Into::into),
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_session_is_good_with_its_token_until_its_time_or_its_parent_ends() {
    let Bed { users, clock, .. } = &bed().await;
    let made = users.add(new_user("bob")).await.unwrap();
    let policy = Canned::ReadOnly.document();
    let session = session_of(users, &made.access_key, made.secret_key.expose(), Some(&policy));
    let keys = session.issue(&seal()).unwrap();
    let signer = users.signer(&keys.access_key, Some(&keys.token)).unwrap();
    assert_eq!((signer.identity.user.as_deref(), signer.identity.policies.len()), (Some("bob"), 1));
    assert!(signer.identity.session.is_some());
    assert_eq!(code(users.signer(&keys.access_key, None)), "InvalidAccessKeyId");
    assert_eq!(code(users.signer(&made.access_key, Some(&keys.token))), "InvalidToken");
    assert_eq!(code(users.signer(&keys.access_key, Some("x"))), "InvalidToken");
    users.disable("tidegate", "bob", true).await.unwrap();
    assert_eq!(code(users.signer(&keys.access_key, Some(&keys.token))), "InvalidToken");
    users.disable("tidegate", "bob", false).await.unwrap();
    assert!(users.signer(&keys.access_key, Some(&keys.token)).is_ok());
    clock.advance(Duration::from_secs(900));
    assert_eq!(code(users.signer(&keys.access_key, Some(&keys.token))), "ExpiredToken");
    // A key of the same id with another secret is another parent.
    let foreign = session_of(users, &made.access_key, "another secret", None).issue(&seal()).unwrap();
    assert_eq!(code(users.signer(&foreign.access_key, Some(&foreign.token))), "InvalidToken");
    // A user cannot have become another by its token, the account can.
    let of_other =
        |parent: &str, secret: &str| Session { user: Some("bob".into()), ..session_of(users, parent, secret, None) };
    let by_root = of_other("ROOT", "the secret of root").issue(&seal()).unwrap();
    assert_eq!(users.signer(&by_root.access_key, Some(&by_root.token)).unwrap().identity.user.as_deref(), Some("bob"));
    let ann = users.add(new_user("ann")).await.unwrap();
    let by_ann = of_other(&ann.access_key, ann.secret_key.expose()).issue(&seal()).unwrap();
    assert_eq!(code(users.signer(&by_ann.access_key, Some(&by_ann.token))), "InvalidToken");
}

#[test]
fn what_stands_in_the_journal_and_does_not_fit_is_said() {
    let user = StoredUser {
        created: Timestamp(1),
        changed: Timestamp(1),
        disabled: false,
        keys: Vec::new(),
        policies: vec![tidegate_tiering::engine::StoredPolicy { name: "p".into(), document: "?".into() }],
    };
    let account =
        |id: &str| StoredAccount { created: Timestamp(1), id: id.into(), display_name: "x".into(), email: None };
    let alices = crate::auth::identity::Account::named("alice").id;
    let stored = StoredUsers {
        accounts: vec![("evil".into(), account(&alices)), ("good".into(), account(&"0".repeat(64)))],
        users: vec![
            ("alice".into(), "carol".into(), user.clone()),
            ("gone".into(), "u".into(), user.clone()),
            ("good".into(), "v".into(), user),
        ],
    };
    let directory = Directory::new(&known(), stored, None);
    let said = directory.warnings().join("\n");
    for words in ["account evil has the owner id", "alice/carol stands in", "account gone", "good/v cannot sign in"] {
        assert!(said.contains(words), "{words}: {said}");
    }
    assert!(directory.owner("evil").is_none() && directory.owner("good").is_some());
    assert!(directory.user("good", "v").unwrap().user.disabled);
}

#[test]
fn a_token_comes_in_a_header_or_in_the_query() {
    let mut headers = HeaderMap::new();
    assert_eq!(token_of(&headers, Some("a=1")), None);
    headers.insert("x-amz-security-token", "in-header".parse().unwrap());
    assert_eq!(token_of(&headers, None).as_deref(), Some("in-header"));
    assert_eq!(token_of(&headers, Some("X-Amz-Security-Token=a%2Fb")).as_deref(), Some("a/b"));
}
