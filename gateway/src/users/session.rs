//! Sessions: temporary keys that nobody keeps. The token says everything and is sealed; the secret follows from the access key.

use super::directory::Directory;
use super::seal::{Purpose, SealKeys};
use crate::auth::identity::Identity;
use base64::Engine as _;
use base64::engine::general_purpose::URL_SAFE_NO_PAD;
use serde::{Deserialize, Serialize};
use sha2::{Digest, Sha256};
use std::sync::Arc;
use tidegate_tiering::clock::Timestamp;

/// Longest token that is looked at, in bytes: far above what one with the longest session policy has.
const MAX_TOKEN_BYTES: usize = 16 * 1024;
/// Bytes of a digest that stand for a parent's secret.
const TAG_BYTES: usize = 16;

/// What a token says.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Session {
    /// The key that asked for it. When that one is not good any more, nor is the session.
    pub parent: String,
    /// Stands for the parent's secret: a key that was given another ends its sessions.
    pub tag: String,
    /// The account.
    pub account: String,
    /// The user; none for the account itself.
    pub user: Option<String>,
    /// The name of the session, when a role was assumed.
    pub name: Option<String>,
    /// When it was made.
    pub issued: Timestamp,
    /// From when on it is not good.
    pub expires: Timestamp,
    /// What it is limited to, besides what its user may do.
    pub policy: Option<String>,
}

/// Keys of a new session.
pub struct TemporaryKeys {
    /// The access key.
    pub access_key: String,
    /// The secret.
    pub secret: String,
    /// The token that each request has to carry.
    pub token: String,
}

/// Why a token is refused.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Refused {
    /// It was never good here, or not for this key, or what it rests on is gone.
    Invalid,
    /// Its time is over.
    Expired,
}

/// Stands for a secret without telling it.
pub fn tag(secret: &str) -> String {
    super::seal::to_hex(&Sha256::digest(format!("tidegate session parent\0{secret}"))[..TAG_BYTES])
}

fn belongs_to(access_key: &str) -> String {
    format!("tidegate session\0{access_key}")
}

impl Session {
    /// Makes the keys.
    pub fn issue(&self, seal: &SealKeys) -> Option<TemporaryKeys> {
        let access_key = seal.new_session()?;
        let secret = seal.session_secret(&access_key)?;
        let plain = serde_json::to_string(self).ok()?;
        let token = URL_SAFE_NO_PAD.encode(seal.seal(Purpose::Token, &belongs_to(&access_key), &plain)?);
        Some(TemporaryKeys { access_key, secret, token })
    }

    /// Reads the token of the session with this access key.
    ///
    /// # Errors
    /// [`Refused::Invalid`].
    pub fn open(seal: &SealKeys, access_key: &str, token: &str) -> Result<Self, Refused> {
        if token.len() > MAX_TOKEN_BYTES {
            return Err(Refused::Invalid);
        }
        let sealed = URL_SAFE_NO_PAD.decode(token).map_err(|_| Refused::Invalid)?;
        let plain = seal.open(Purpose::Token, &belongs_to(access_key), &sealed).map_err(|_| Refused::Invalid)?;
        serde_json::from_str(&plain).map_err(|_| Refused::Invalid)
    }

    /// Who it is for S3, if it is still good.
    ///
    /// # Errors
    /// [`Refused`].
    pub fn identity(&self, directory: &Directory, now: Timestamp) -> Result<Identity, Refused> {
        if now >= self.expires {
            return Err(Refused::Expired);
        }
        let parent = directory.key(&self.parent, now).ok_or(Refused::Invalid)?;
        let same = parent.owner.name == self.account && tag(parent.secret.expose()) == self.tag;
        // A key of the account may have asked for one of its users.
        let of_user = parent.user.is_none() || parent.user.as_ref().map(|user| &user.name) == self.user.as_ref();
        if !same || !of_user {
            return Err(Refused::Invalid);
        }
        let policy = self.policy.as_deref().map(super::policy::parse).transpose().map_err(|_| Refused::Invalid)?;
        let whole = match &self.user {
            None => &parent.identity,
            Some(name) => {
                let entry = directory.user(&self.account, name).filter(|entry| !entry.user.disabled);
                &entry.ok_or(Refused::Invalid)?.user.identity
            }
        };
        Ok(Identity { session: policy.map(Arc::new), ..Identity::clone(whole) })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn session() -> Session {
        Session {
            parent: "AK".into(),
            tag: tag("secret"),
            account: "a".into(),
            user: Some("u".into()),
            name: None,
            issued: Timestamp(1),
            expires: Timestamp(2),
            policy: Some("{}".into()),
        }
    }

    #[test]
    fn a_token_is_good_for_its_access_key_alone() {
        let seal = SealKeys::parse(&"01".repeat(32)).unwrap();
        let (one, two) = (session().issue(&seal).unwrap(), session().issue(&seal).unwrap());
        assert_eq!(Session::open(&seal, &one.access_key, &one.token).unwrap(), session());
        assert_eq!(Session::open(&seal, &two.access_key, &one.token), Err(Refused::Invalid));
        assert_eq!(Session::open(&seal, &one.access_key, &one.token[1..]), Err(Refused::Invalid));
        assert_eq!(Session::open(&seal, &one.access_key, ""), Err(Refused::Invalid));
        assert_eq!(Session::open(&seal, &one.access_key, &"A".repeat(MAX_TOKEN_BYTES + 1)), Err(Refused::Invalid));
        let other = SealKeys::parse(&"02".repeat(32)).unwrap();
        assert_eq!(Session::open(&other, &one.access_key, &one.token), Err(Refused::Invalid));
        assert!(!one.token.contains("secret") && !format!("{:?}", session()).contains("\"secret\""));
    }
}
