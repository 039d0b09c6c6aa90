//! Who may sign requests: accounts and users of the configuration and of the journal, and sessions.
//!
//! Architecture invariant: a secret of the journal is sealed with a key that is never in it ([`seal`]). Nothing here writes a secret into
//! a log, an error or a `Debug`.
//!
//! Architecture invariant: a session is kept nowhere ([`session`]).

pub mod directory;
pub mod manage;
pub mod policy;
pub mod seal;
pub mod session;

use directory::{Account, Directory, Known, User};
use http::HeaderMap;
use percent_encoding::percent_decode_str;
use s3s::auth::{S3Auth, SecretKey};
use s3s::{S3Result, s3_error};
use seal::SealKeys;
use session::{Refused, Session};
use std::fmt;
use std::sync::{Arc, PoisonError, RwLock};
use tidegate_tiering::clock::{Clock, SystemClock, Timestamp};
use tidegate_tiering::engine::{Engine, EngineError, StoredUsers};

use crate::server::AccessKey;

/// Everybody who is known, as new as the namespace.
pub struct Users {
    known: Known,
    seal: Option<SealKeys>,
    engine: Option<Engine>,
    clock: Arc<dyn Clock>,
    /// Of which version of the namespace's table, and what it says.
    cached: RwLock<Option<(u64, Arc<Directory>)>>,
}

impl fmt::Debug for Users {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("Users")
    }
}

impl Users {
    /// The users of the configuration and of `engine`. Without a seal key, those of `engine` cannot sign in, and there are no sessions.
    pub fn new(known: Known, seal: Option<SealKeys>, engine: Engine) -> Self {
        let clock = engine.clock();
        Self { known, seal, engine: Some(engine), clock, cached: RwLock::default() }
    }

    /// Root keys and nobody else.
    pub fn fixed(keys: &[AccessKey]) -> Self {
        let known = Known { root_keys: keys.to_vec(), ..Known::default() };
        let clock = Arc::new(SystemClock::default());
        Self { known, seal: None, engine: None, clock, cached: RwLock::default() }
    }

    /// Everybody as of now.
    ///
    /// # Errors
    /// A failure of the index.
    pub fn directory(&self) -> Result<Arc<Directory>, EngineError> {
        // Before the table is read: what changes meanwhile is read again.
        let version = self.engine.as_ref().map_or(0, Engine::users_version);
        if let Some((of, directory)) = &*self.cached.read().unwrap_or_else(PoisonError::into_inner)
            && *of == version
        {
            return Ok(Arc::clone(directory));
        }
        let stored = self.engine.as_ref().map_or_else(|| Ok(StoredUsers::default()), Engine::users)?;
        let directory = Arc::new(Directory::new(&self.known, stored, self.seal.as_ref()));
        for warning in directory.warnings() {
            tracing::warn!("{warning}");
        }
        let mut cached = self.cached.write().unwrap_or_else(PoisonError::into_inner);
        // Another thread may have read a newer one.
        if cached.as_ref().is_none_or(|(of, _)| *of <= version) {
            *cached = Some((version, Arc::clone(&directory)));
        }
        Ok(directory)
    }

    /// The seal keys.
    pub fn seal(&self) -> Option<&SealKeys> {
        self.seal.as_ref()
    }

    /// Now.
    pub fn now(&self) -> Timestamp {
        self.clock.now()
    }
}

/// Who sent a request.
#[derive(Debug, Clone)]
pub struct Caller {
    /// The account.
    pub account: Arc<Account>,
    /// The user; none for the account itself.
    pub user: Option<Arc<User>>,
    /// The session, when it was signed with temporary keys.
    pub session: Option<Session>,
}

impl Users {
    /// Who signed with `access_key`, and showed `token`; the signature was found right before.
    ///
    /// # Errors
    /// `InvalidAccessKeyId`, `InvalidToken`, `ExpiredToken`.
    pub fn caller(&self, access_key: &str, token: Option<&str>) -> S3Result<Caller> {
        let directory = self.directory().map_err(crate::s3::error::from_engine)?;
        let now = self.now();
        let Some(token) = token else {
            // A session without its token is nobody, as with AWS.
            let key = directory.key(access_key, now).ok_or_else(unknown_key)?;
            return Ok(Caller { account: Arc::clone(&key.account), user: key.user.clone(), session: None });
        };
        let refused = |refused| match refused {
            Refused::Invalid => s3_error!(InvalidToken, "The provided token is malformed or otherwise invalid."),
            Refused::Expired => s3_error!(ExpiredToken, "The provided token has expired."),
        };
        let seal = self.seal.as_ref().ok_or_else(|| refused(Refused::Invalid))?;
        let session = Session::open(seal, access_key, token).map_err(refused)?;
        session.check(&directory, now).map_err(refused)?;
        let gone = || refused(Refused::Invalid);
        let account = directory.account(&session.account).ok_or_else(gone)?;
        let user = match &session.user {
            None => None,
            Some(name) => {
                let entry = directory.user(&account.name, name).filter(|entry| !entry.user.disabled);
                Some(Arc::clone(&entry.ok_or_else(gone)?.user))
            }
        };
        Ok(Caller { account: Arc::clone(account), user, session: Some(session) })
    }
}

/// The token that a request shows, in its headers or in the query of a presigned URL.
pub fn token_of(headers: &HeaderMap, query: Option<&str>) -> Option<String> {
    const NAME: &str = "x-amz-security-token";
    let in_header = || headers.get(NAME).map(|value| String::from_utf8_lossy(value.as_bytes()).into_owned());
    let mut pairs = query.unwrap_or_default().split('&').filter_map(|pair| pair.split_once('='));
    let in_query = pairs.find(|(name, _)| name.eq_ignore_ascii_case(NAME));
    in_query.map(|(_, value)| percent_decode_str(value).decode_utf8_lossy().into_owned()).or_else(in_header)
}

#[async_trait::async_trait]
impl S3Auth for Users {
    async fn get_secret_key(&self, access_key: &str) -> S3Result<SecretKey> {
        let directory = self.directory().map_err(crate::s3::error::from_engine)?;
        if let Some(key) = directory.key(access_key, self.now()) {
            return Ok(key.secret.clone());
        }
        // Whether the session is good is said by its token, which is looked at once the signature is right.
        let session = self.seal.as_ref().and_then(|seal| seal.session_secret(access_key));
        session.map(SecretKey::from).ok_or_else(unknown_key)
    }
}

fn unknown_key() -> s3s::S3Error {
    s3_error!(InvalidAccessKeyId, "The access key id is not known to this server.")
}
