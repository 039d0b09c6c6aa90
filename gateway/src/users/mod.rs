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

use directory::{Directory, Known, Owner};
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

use crate::auth::identity::{Account, FIRST_ACCOUNT, Identity, IdentitySource};
use crate::config::accounts::AccountSection;

/// Everybody who is known, as new as the namespace.
pub struct Users {
    known: Known,
    seal: Option<SealKeys>,
    engine: Option<Engine>,
    clock: Arc<dyn Clock>,
    /// The account that owns whatever names no owner.
    first: Arc<Account>,
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
        let first = first_of(&known);
        Self { known, seal, engine: Some(engine), clock, first, cached: RwLock::default() }
    }

    /// Nobody but those who are known.
    pub fn fixed(known: Known) -> Self {
        let clock = Arc::new(SystemClock::default());
        let first = first_of(&known);
        Self { known, seal: None, engine: None, clock, first, cached: RwLock::default() }
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
        let mut cached = self.cached.write().unwrap_or_else(PoisonError::into_inner);
        // Another thread may have read a newer one, or the same.
        if cached.as_ref().is_none_or(|(of, _)| *of < version) {
            let said = cached.as_ref().map(|(_, before)| before.warnings()).unwrap_or_default();
            for warning in directory.warnings().iter().filter(|warning| !said.contains(warning)) {
                tracing::warn!("{warning}");
            }
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

/// Who signed a request.
#[derive(Debug, Clone)]
pub struct Signer {
    /// Who it is for S3.
    pub identity: Arc<Identity>,
    /// The session, when it was signed with temporary keys.
    pub session: Option<Session>,
}

impl Users {
    /// Who signed with `access_key`, and showed `token`; the signature was found right before.
    ///
    /// # Errors
    /// `InvalidAccessKeyId`, `InvalidToken`, `ExpiredToken`.
    pub fn signer(&self, access_key: &str, token: Option<&str>) -> S3Result<Signer> {
        let directory = self.directory().map_err(crate::s3::error::from_engine)?;
        let now = self.now();
        let Some(token) = token else {
            // A session without its token is nobody, as with AWS.
            let key = directory.key(access_key, now).ok_or_else(unknown_key)?;
            return Ok(Signer { identity: Arc::clone(&key.identity), session: None });
        };
        let refused = |refused| match refused {
            Refused::Invalid => s3_error!(InvalidToken, "The provided token is malformed or otherwise invalid."),
            Refused::Expired => s3_error!(ExpiredToken, "The provided token has expired."),
        };
        let seal = self.seal.as_ref().ok_or_else(|| refused(Refused::Invalid))?;
        let session = Session::open(seal, access_key, token).map_err(refused)?;
        let identity = session.identity(&directory, now).map_err(refused)?;
        Ok(Signer { identity: Arc::new(identity), session: Some(session) })
    }
}

/// What needs no token: sessions are found by [`Users::signer`] alone.
impl IdentitySource for Users {
    fn identity(&self, access_key: &str) -> Option<Arc<Identity>> {
        self.signer(access_key, None).ok().map(|signer| signer.identity)
    }

    fn account(&self, id: &str) -> Option<Arc<Account>> {
        let directory = self.directory().ok()?;
        directory.owners().find(|owner| owner.account.id == id).map(|owner| Arc::clone(&owner.account))
    }

    fn account_by_email(&self, email: &str) -> Option<Arc<Account>> {
        let directory = self.directory().ok()?;
        let is_it = |account: &Account| account.email.as_deref().is_some_and(|own| own.eq_ignore_ascii_case(email));
        directory.owners().find(|owner| is_it(&owner.account)).map(|owner| Arc::clone(&owner.account))
    }

    fn first_account(&self) -> Arc<Account> {
        Arc::clone(&self.first)
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

/// For s3s.
pub(crate) struct Keys(pub(crate) Arc<Users>);

#[async_trait::async_trait]
impl S3Auth for Keys {
    async fn get_secret_key(&self, access_key: &str) -> S3Result<SecretKey> {
        let directory = self.0.directory().map_err(crate::s3::error::from_engine)?;
        if let Some(key) = directory.key(access_key, self.0.now()) {
            return Ok(key.secret.clone());
        }
        // Whether the session is good is said by its token, which is looked at once the signature is right.
        let session = self.0.seal.as_ref().and_then(|seal| seal.session_secret(access_key));
        session.map(SecretKey::from).ok_or_else(unknown_key)
    }
}

fn first_of(known: &Known) -> Arc<Account> {
    let default = AccountSection::default();
    Owner::of_section(FIRST_ACCOUNT, known.accounts.get(FIRST_ACCOUNT).unwrap_or(&default)).account
}

fn unknown_key() -> s3s::S3Error {
    s3_error!(InvalidAccessKeyId, "The access key id is not known to this server.")
}

#[cfg(test)]
mod tests;
