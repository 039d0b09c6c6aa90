//! The seal key: what secrets of users and tokens of sessions are encrypted with. It is kept apart from the namespace, which is
//! copied to a tier and to standbys.
//!
//! Of each key three others are made, one for each purpose. A sealed text is `version (1), key id (4), nonce (12), AES-256-GCM of the
//! text, tag (16)`; what it belongs to is authenticated with it, so that it is good nowhere else.

use aws_lc_rs::aead::{AES_256_GCM, Aad, LessSafeKey, NONCE_LEN, Nonce, UnboundKey};
use aws_lc_rs::hmac;
use base64::Engine as _;
use base64::engine::general_purpose::STANDARD_NO_PAD;
use rand::RngExt;
use sha2::{Digest, Sha256};
use std::fmt;
use std::path::Path;

use crate::config::access_key::write_private;

/// Name of the file in the data directory that has the keys, where the configuration names none.
pub const FILE_NAME: &str = "seal-key";
/// Most keys of a file: one seals, the others open what was sealed before.
const MAX_KEYS: usize = 16;
const VERSION: u8 = 1;
const ID_LEN: usize = 4;
/// Version, key id and nonce.
const HEAD_LEN: usize = 1 + ID_LEN + NONCE_LEN;
/// How access keys of sessions begin, as those of AWS do.
pub const SESSION_PREFIX: &str = "ASIA";
/// Letters of the key's id in the access key of a session, and random ones behind them.
const SESSION_ID_LETTERS: usize = 4;
const SESSION_RANDOM_LETTERS: usize = 12;
/// As long as a secret of AWS.
const SECRET_LETTERS: usize = 40;
const BASE32: &[u8; 32] = b"ABCDEFGHIJKLMNOPQRSTUVWXYZ234567";

/// Why a sealed text could not be opened.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
pub enum OpenError {
    /// It was sealed with a key that is not there.
    #[error("it was sealed with another seal key")]
    OtherKey,
    /// It is no sealed text, was changed, or belongs to something else.
    #[error("it is damaged, or sealed for something else")]
    Damaged,
}

/// What a text is sealed for.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Purpose {
    /// The secret of an access key.
    Secret,
    /// A session token.
    Token,
}

struct SealKey {
    id: [u8; ID_LEN],
    secrets: LessSafeKey,
    tokens: LessSafeKey,
    sessions: hmac::Key,
}

/// The keys: the first one seals, all of them open.
pub struct SealKeys(Vec<SealKey>);

impl fmt::Debug for SealKeys {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "SealKeys({})", self.0.len())
    }
}

impl SealKeys {
    /// Reads the keys out of the text of a file: one a line, 64 hexadecimal digits each. Empty lines and those that begin with `#` are left out.
    ///
    /// # Errors
    /// What is wrong with it, and the way out; nothing of the text is repeated.
    pub fn parse(text: &str) -> Result<Self, String> {
        let lines = text.lines().map(str::trim).enumerate();
        let lines = lines.filter(|(_, line)| !line.is_empty() && !line.starts_with('#'));
        let mut keys = Vec::new();
        for (at, line) in lines {
            let bytes = from_hex(line).ok_or_else(|| {
                format!("line {} is not a key of 64 hexadecimal digits; make one with: openssl rand -hex 32", at + 1)
            })?;
            keys.push(SealKey::new(&bytes).ok_or_else(|| "the key cannot be used".to_owned())?);
        }
        match keys.len() {
            0 => Err("there is no key in it; make one with: openssl rand -hex 32".to_owned()),
            1..=MAX_KEYS => Ok(Self(keys)),
            many => Err(format!("there are {many} keys in it; keep at most {MAX_KEYS}")),
        }
    }

    /// The keys of `data_dir`; none when there are none and none may be made. Call it with `make` only while nothing else serves `data_dir`.
    ///
    /// # Errors
    /// The file cannot be read or written, or has another form.
    pub fn of_directory(data_dir: &Path, make: bool) -> Result<Option<Self>, String> {
        let path = data_dir.join(FILE_NAME);
        let shown = path.display();
        match std::fs::read_to_string(&path) {
            Ok(text) => Self::parse(&text).map(Some).map_err(|e| {
                format!("{shown}: {e}. Bring it back from a backup; or move it away to have a new one made, and give new secrets to all users")
            }),
            Err(e) if e.kind() == std::io::ErrorKind::NotFound && !make => Ok(None),
            Err(e) if e.kind() == std::io::ErrorKind::NotFound => {
                let bytes: [u8; 32] = rand::rng().random();
                let text = format!(
                    "# Seals the secrets of users. Keep a copy apart from this directory: without it, users need new secrets.\n{}\n",
                    to_hex(&bytes)
                );
                write_private(data_dir, FILE_NAME, &text).map_err(|e| format!("cannot write {shown}: {e}"))?;
                Self::parse(&text).map(Some)
            }
            Err(e) => Err(format!("cannot read {shown}: {e}")),
        }
    }

    /// Seals `plain` for what `belongs_to` names; none when the cipher refuses, which it never does for such lengths.
    pub fn seal(&self, purpose: Purpose, belongs_to: &str, plain: &str) -> Option<Vec<u8>> {
        let key = self.0.first()?;
        let nonce: [u8; NONCE_LEN] = rand::rng().random();
        let mut text = plain.as_bytes().to_vec();
        let aad = Aad::from(belongs_to.as_bytes());
        key.cipher(purpose).seal_in_place_append_tag(Nonce::assume_unique_for_key(nonce), aad, &mut text).ok()?;
        Some([&[VERSION][..], &key.id, &nonce, &text].concat())
    }

    /// Opens what was sealed for `belongs_to`.
    ///
    /// # Errors
    /// [`OpenError`].
    pub fn open(&self, purpose: Purpose, belongs_to: &str, sealed: &[u8]) -> Result<String, OpenError> {
        let (head, text) = sealed.split_at_checked(HEAD_LEN).ok_or(OpenError::Damaged)?;
        let (id, nonce) = head[1..].split_at(ID_LEN);
        if head[0] != VERSION {
            return Err(OpenError::Damaged);
        }
        let key = self.0.iter().find(|key| key.id == id).ok_or(OpenError::OtherKey)?;
        let nonce = Nonce::try_assume_unique_for_key(nonce).map_err(|_| OpenError::Damaged)?;
        let mut text = text.to_vec();
        let opened = key.cipher(purpose).open_in_place(nonce, Aad::from(belongs_to.as_bytes()), &mut text);
        let plain = opened.map_err(|_| OpenError::Damaged)?;
        String::from_utf8(plain.to_vec()).map_err(|_| OpenError::Damaged)
    }

    /// An access key for a new session.
    pub fn new_session(&self) -> Option<String> {
        let key = self.0.first()?;
        let mut rng = rand::rng();
        let random = (0..SESSION_RANDOM_LETTERS).map(|_| char::from(BASE32[rng.random_range(0..BASE32.len())]));
        Some(format!("{SESSION_PREFIX}{}{}", key.letters(), random.collect::<String>()))
    }

    /// The secret of a session, which follows from its access key; none for one that is no session of these keys.
    pub fn session_secret(&self, access_key: &str) -> Option<String> {
        let rest = access_key.strip_prefix(SESSION_PREFIX)?;
        let fits = rest.len() == SESSION_ID_LETTERS + SESSION_RANDOM_LETTERS;
        let key = self.0.iter().find(|key| fits && rest.starts_with(&key.letters()))?;
        let tag = hmac::sign(&key.sessions, access_key.as_bytes());
        let mut secret = STANDARD_NO_PAD.encode(tag);
        secret.truncate(SECRET_LETTERS);
        Some(secret)
    }
}

impl SealKey {
    fn new(bytes: &[u8; 32]) -> Option<Self> {
        let root = hmac::Key::new(hmac::HMAC_SHA256, bytes);
        let derive = |purpose: &str| hmac::sign(&root, purpose.as_bytes());
        let cipher = |purpose| Some(LessSafeKey::new(UnboundKey::new(&AES_256_GCM, derive(purpose).as_ref()).ok()?));
        let digest = Sha256::digest(derive("tidegate seal key id 1").as_ref());
        Some(Self {
            id: digest[..ID_LEN].try_into().ok()?,
            secrets: cipher("tidegate secrets 1")?,
            tokens: cipher("tidegate tokens 1")?,
            sessions: hmac::Key::new(hmac::HMAC_SHA256, derive("tidegate sessions 1").as_ref()),
        })
    }

    fn cipher(&self, purpose: Purpose) -> &LessSafeKey {
        match purpose {
            Purpose::Secret => &self.secrets,
            Purpose::Token => &self.tokens,
        }
    }

    /// The first 20 bits of the id.
    fn letters(&self) -> String {
        let bits = u32::from_be_bytes(self.id);
        (0..SESSION_ID_LETTERS).map(|at| char::from(BASE32[(bits >> (27 - 5 * at)) as usize & 31])).collect()
    }
}

fn from_hex(text: &str) -> Option<[u8; 32]> {
    let mut bytes = [0; 32];
    if text.len() != 64 || !text.is_ascii() {
        return None;
    }
    for (byte, digits) in bytes.iter_mut().zip(text.as_bytes().chunks(2)) {
        *byte = u8::from_str_radix(std::str::from_utf8(digits).ok()?, 16).ok()?;
    }
    text.bytes().all(|b| b.is_ascii_hexdigit()).then_some(bytes)
}

/// Lower case hexadecimal digits.
pub fn to_hex(bytes: &[u8]) -> String {
    bytes.iter().map(|byte| format!("{byte:02x}")).collect()
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::os::unix::fs::PermissionsExt;

    fn keys(digits: &[&str]) -> SealKeys {
        SealKeys::parse(&digits.iter().map(|d| format!("{}\n", d.repeat(32))).collect::<String>()).unwrap()
    }

    #[test]
    fn what_was_sealed_is_opened_by_its_key_for_its_purpose_only() {
        let one = keys(&["01"]);
        let sealed = one.seal(Purpose::Secret, "a/u/AK", "hunter2").unwrap();
        assert!(!sealed.windows(7).any(|w| w == b"hunter2"));
        assert_eq!(one.open(Purpose::Secret, "a/u/AK", &sealed).unwrap(), "hunter2");
        assert_eq!(one.open(Purpose::Secret, "a/u/OTHER", &sealed), Err(OpenError::Damaged));
        assert_eq!(one.open(Purpose::Token, "a/u/AK", &sealed), Err(OpenError::Damaged));
        assert_eq!(keys(&["02"]).open(Purpose::Secret, "a/u/AK", &sealed), Err(OpenError::OtherKey));
        // A new key in front of the old one: that opens what there is, and seals no more.
        let both = keys(&["02", "01"]);
        assert_eq!(both.open(Purpose::Secret, "a/u/AK", &sealed).unwrap(), "hunter2");
        let newer = both.seal(Purpose::Secret, "a/u/AK", "x").unwrap();
        assert_eq!(one.open(Purpose::Secret, "a/u/AK", &newer), Err(OpenError::OtherKey));
        for at in 0..sealed.len() {
            let mut changed = sealed.clone();
            changed[at] ^= 1;
            assert!(one.open(Purpose::Secret, "a/u/AK", &changed).is_err(), "byte {at}");
        }
        assert_eq!(one.open(Purpose::Secret, "a/u/AK", &sealed[..HEAD_LEN]), Err(OpenError::Damaged));
    }

    #[test]
    fn the_secret_of_a_session_follows_from_its_access_key() {
        let (one, both) = (keys(&["01"]), keys(&["02", "01"]));
        let session = one.new_session().unwrap();
        assert_eq!(session.len(), 20);
        let secret = one.session_secret(&session).unwrap();
        assert_eq!(secret.len(), SECRET_LETTERS);
        assert_eq!(both.session_secret(&session).unwrap(), secret);
        assert_ne!(one.session_secret(&one.new_session().unwrap()).unwrap(), secret);
        assert_eq!(keys(&["02"]).session_secret(&session), None);
        assert_eq!(one.session_secret("ASIA"), None);
        assert_eq!(one.session_secret(&session[..19]), None);
    }

    #[test]
    fn a_file_of_keys_is_made_once_for_its_owner_only() {
        let dir = tempfile::tempdir().unwrap();
        assert!(SealKeys::of_directory(dir.path(), false).unwrap().is_none());
        let made = SealKeys::of_directory(dir.path(), true).unwrap().unwrap();
        let sealed = made.seal(Purpose::Secret, "x", "s").unwrap();
        let again = SealKeys::of_directory(dir.path(), true).unwrap().unwrap();
        assert_eq!(again.open(Purpose::Secret, "x", &sealed).unwrap(), "s");
        let mode = std::fs::metadata(dir.path().join(FILE_NAME)).unwrap().permissions().mode();
        assert_eq!(mode & 0o777, 0o600);
    }

    #[test]
    fn a_wrong_file_is_refused_without_being_repeated() {
        for (text, word) in [("", "no key"), ("# only\n\n", "no key"), ("zz", "line 1"), (&"0".repeat(63), "line 1")] {
            let error = SealKeys::parse(text).unwrap_err();
            assert!(error.contains(word) && error.contains("openssl rand"), "{error}");
        }
        let error = SealKeys::parse(&format!("{}\nsecret", "00".repeat(32))).unwrap_err();
        assert!(error.contains("line 2") && !error.contains("secret"), "{error}");
        assert!(SealKeys::parse(&format!("{}\n", "00".repeat(32)).repeat(17)).is_err());
    }

    #[test]
    fn sealed_bytes_are_as_documented() {
        let key = keys(&["01"]);
        let plain = key.open(Purpose::Secret, SAMPLE_OF, &hex::decode(SAMPLE).unwrap());
        assert_eq!(plain.unwrap(), "hunter2hunter2");
    }

    /// As in docs/formats.md.
    const SAMPLE_OF: &str = "tidegate\0bob\0AKIDBOB";
    const SAMPLE: &str =
        "018e65497a000102030405060708090a0befeffdd3103730a68b0b50b15de234faa34fb7fd8305fb70a8bc70e60959";
}
