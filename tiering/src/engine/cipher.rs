//! Bodies that are encrypted with a key that the client brings with each request (SSE-C) and that is kept nowhere.
//!
//! The cipher sits between the digests, which see what the client sent, and the cutter, which sees ciphertext; and on the way out
//! behind the verified chunks. AES-256 in counter mode keeps length and offsets, so ranges cost what they always cost. That the
//! ciphertext is the right one is said by the chunks' BLAKE3, which every read verifies. Each body, a part that is sent again
//! included, has a salt and so a key of its own: no two bodies ever share a keystream. See `docs/adr/0027-customer-keys.md`.

use super::error::EngineError;
use super::record::ObjectRecord;
use super::types::{BodyOut, Encryption};
use aws_lc_rs::cipher::{AES_256, EncryptingKey, EncryptionContext, UnboundCipherKey};
use aws_lc_rs::iv::FixedLength;
use aws_lc_rs::{constant_time, hkdf};
use base64::Engine as _;
use base64::engine::general_purpose::STANDARD as BASE64;
use bytes::Bytes;
use futures::StreamExt;
use md5::{Digest as _, Md5};
use std::ops::Range;
use std::sync::Arc;
use zeroize::Zeroizing;

/// Bytes of a block of AES.
const BLOCK: u64 = 16;

/// What keys are derived for: one purpose never gives away another's key.
const FOR_BODY: &[u8] = b"tidegate sse-c 1 body";
const FOR_ETAG: &[u8] = b"tidegate sse-c 1 etag";
const FOR_VERIFIER: &[u8] = b"tidegate sse-c 1 verifier";

/// Makes the key of one body its own: random, stored beside it.
pub(crate) type Salt = [u8; 16];

/// A client's key. It shows itself nowhere and is wiped when the last request that uses it is done.
#[derive(Clone)]
pub struct CustomerKey(Arc<Zeroizing<[u8; 32]>>);

impl CustomerKey {
    /// Takes the 32 bytes of a key.
    pub fn new(key: [u8; 32]) -> Self {
        Self(Arc::new(Zeroizing::new(key)))
    }

    /// Reads the base64 of a key, as S3's headers have it; none when it is not that of 32 bytes.
    pub fn from_base64(text: &str) -> Option<Self> {
        let mut key = Zeroizing::new([0; 33]);
        let length = BASE64.decode_slice(text, &mut key[..]).ok()?;
        let key: &[u8; 32] = key.get(..length)?.try_into().ok()?;
        Some(Self::new(*key))
    }

    /// The MD5 of the key, which S3 asks for and shows beside it. It is not stored.
    pub fn md5(&self) -> [u8; 16] {
        Md5::digest(&self.0[..]).into()
    }

    /// HKDF-SHA256 of the key, with the salt.
    fn derive(&self, salt: &Salt, purpose: &[u8]) -> Result<Zeroizing<[u8; 32]>, EngineError> {
        let mut derived = Zeroizing::new([0; 32]);
        let extracted = hkdf::Salt::new(hkdf::HKDF_SHA256, salt).extract(&self.0[..]);
        let purpose = [purpose];
        extracted
            .expand(&purpose, hkdf::HKDF_SHA256)
            .and_then(|expanded| expanded.fill(&mut derived[..]))
            .map_err(|_| EngineError::Internal("derive a key".into()))?;
        Ok(derived)
    }
}

/// A salt that no other body has.
pub(crate) fn fresh_salt() -> Result<Salt, EngineError> {
    let mut salt = [0; 16];
    aws_lc_rs::rand::fill(&mut salt).map_err(|_| EngineError::Internal("no random numbers".into()))?;
    Ok(salt)
}

impl Encryption {
    /// With this key, and a salt of its own.
    ///
    /// # Errors
    /// The system gives no random numbers.
    pub fn customer(key: &CustomerKey) -> Result<Self, EngineError> {
        let salt = fresh_salt()?;
        Ok(Self::Customer { verifier: *key.derive(&salt, FOR_VERIFIER)?, salt })
    }

    /// Whether `key` is the key.
    ///
    /// # Errors
    /// [`EngineError::WrongKey`].
    pub fn check(&self, key: &CustomerKey) -> Result<(), EngineError> {
        let Self::Customer { verifier, salt } = self;
        let have = key.derive(salt, FOR_VERIFIER)?;
        constant_time::verify_slices_are_equal(verifier, &have[..]).map_err(|_| EngineError::WrongKey)
    }
}

/// Whether `key` fits what an object needs.
///
/// # Errors
/// [`EngineError::InvalidRequest`] for a key that is missing, or that nothing was encrypted with; [`EngineError::WrongKey`].
pub(crate) fn check_key(encryption: Option<&Encryption>, key: Option<&CustomerKey>) -> Result<(), EngineError> {
    let invalid = |message: &str| Err(EngineError::InvalidRequest(message.to_owned()));
    match (encryption, key) {
        (None, None) => Ok(()),
        (Some(encryption), Some(key)) => encryption.check(key),
        (Some(_), None) => invalid(
            "the object was stored with a key of the client's own (SSE-C): send it in the \
             x-amz-server-side-encryption-customer- headers",
        ),
        (None, Some(_)) => invalid(
            "the object was not stored with a key of the client's own (SSE-C): leave the \
             x-amz-server-side-encryption-customer- headers out",
        ),
    }
}

/// Whether `key` fits an upload's parts; they must all come with its key.
///
/// # Errors
/// [`EngineError::InvalidRequest`], as S3 says for a part whatever is wrong with the key.
pub(crate) fn check_part_key(encryption: Option<&Encryption>, key: Option<&CustomerKey>) -> Result<(), EngineError> {
    let invalid = |message: &str| Err(EngineError::InvalidRequest(message.to_owned()));
    match (encryption, key) {
        (Some(_), None) => {
            invalid("the upload was begun with a key of the client's own (SSE-C): send the same key with each part")
        }
        (None, Some(_)) => {
            invalid("the upload was begun without a key of the client's own (SSE-C): send its parts without one")
        }
        _ => match check_key(encryption, key) {
            Err(EngineError::WrongKey) => invalid("the key is not the one that the upload was begun with"),
            other => other,
        },
    }
}

/// What one body is encrypted with: AES-256-CTR, whose counter begins at 0.
struct Keystream(EncryptingKey);

impl Keystream {
    fn new(key: &CustomerKey, salt: &Salt) -> Result<Self, EngineError> {
        let key = key.derive(salt, FOR_BODY)?;
        UnboundCipherKey::new(&AES_256, &key[..]).and_then(EncryptingKey::ctr).map(Self).map_err(|_| failed())
    }

    /// Encrypts or decrypts the bytes that stand at `at` of the body.
    fn apply(&self, at: u64, bytes: &mut [u8]) -> Result<(), EngineError> {
        let (mut block, skip) = (at / BLOCK, usize::try_from(at % BLOCK).map_err(|_| failed())?);
        let mut rest = bytes;
        if skip > 0 {
            // The rest of a block that was begun: counter mode begins with whole ones only.
            let mut whole = [0; BLOCK as usize];
            let (head, tail) = rest.split_at_mut(rest.len().min(whole.len() - skip));
            let place = &mut whole[skip..skip + head.len()];
            place.copy_from_slice(head);
            self.blocks(block, &mut whole)?;
            head.copy_from_slice(&whole[skip..skip + head.len()]);
            (block, rest) = (block + 1, tail);
        }
        if rest.is_empty() { Ok(()) } else { self.blocks(block, rest) }
    }

    fn blocks(&self, first: u64, bytes: &mut [u8]) -> Result<(), EngineError> {
        let counter = FixedLength::from(&u128::from(first).to_be_bytes());
        self.0.less_safe_encrypt(bytes, EncryptionContext::Iv128(counter)).map(drop).map_err(|_| failed())
    }
}

fn failed() -> EngineError {
    EngineError::Internal("the cipher failed".into())
}

/// Encrypts a new body, piece by piece.
pub(crate) struct Sealer {
    keystream: Keystream,
    etag_key: Zeroizing<[u8; 32]>,
    at: u64,
}

impl Sealer {
    pub(crate) fn new(key: &CustomerKey, salt: &Salt) -> Result<Self, EngineError> {
        Ok(Self { keystream: Keystream::new(key, salt)?, etag_key: key.derive(salt, FOR_ETAG)?, at: 0 })
    }

    /// For a new object: what its record says, and what encrypts it. Nothing without a key.
    pub(crate) fn of_object(key: Option<&CustomerKey>) -> Result<(Option<Encryption>, Option<Self>), EngineError> {
        let Some(key) = key else { return Ok((None, None)) };
        let encryption = Encryption::customer(key)?;
        let Encryption::Customer { salt, .. } = &encryption;
        let sealer = Self::new(key, salt)?;
        Ok((Some(encryption), Some(sealer)))
    }

    pub(crate) fn seal(&mut self, plain: &[u8]) -> Result<Bytes, EngineError> {
        let mut sealed = plain.to_vec();
        self.keystream.apply(self.at, &mut sealed)?;
        self.at = self.at.checked_add(sealed.len() as u64).ok_or_else(failed)?;
        Ok(sealed.into())
    }

    /// The ETag: it stands in listings, where it must not tell the MD5 of what only the key should open.
    pub(crate) fn etag(&self, md5: &[u8; 16]) -> [u8; 16] {
        let hash = blake3::keyed_hash(&self.etag_key, md5);
        let mut etag = [0; 16];
        etag.copy_from_slice(&hash.as_bytes()[..16]);
        etag
    }
}

/// Decrypts a body on its way out, piece by piece.
pub(crate) struct Opener {
    key: CustomerKey,
    /// Where each stretch with a key of its own lies, in order: the parts, or the whole.
    stretches: Vec<(Range<u64>, Salt)>,
    current: Option<(usize, Keystream)>,
    at: u64,
}

impl Opener {
    /// For the bytes of `record` from `at` on; nothing when it is not encrypted.
    ///
    /// # Errors
    /// As [`check_key`]; [`EngineError::Corrupt`] for a part without its salt.
    pub(crate) fn new(record: &ObjectRecord, key: Option<&CustomerKey>, at: u64) -> Result<Option<Self>, EngineError> {
        check_key(record.attributes.encryption.as_ref(), key)?;
        let (Some(Encryption::Customer { salt, .. }), Some(key)) = (&record.attributes.encryption, key) else {
            return Ok(None);
        };
        let mut stretches = Vec::with_capacity(record.parts.len().max(1));
        let mut start = 0u64;
        for part in &record.parts {
            let missing = || EngineError::Corrupt(format!("part {} is encrypted and has no salt", part.number));
            let end = start.saturating_add(part.size);
            stretches.push((start..end, part.nonce.ok_or_else(missing)?));
            start = end;
        }
        if stretches.is_empty() {
            stretches.push((0..record.size, *salt));
        }
        Ok(Some(Self { key: key.clone(), stretches, current: None, at }))
    }

    /// Decrypts what `body` gives.
    pub(crate) fn open(mut self, body: BodyOut) -> BodyOut {
        body.map(move |piece| piece.and_then(|sealed| self.piece(&sealed))).boxed()
    }

    fn piece(&mut self, sealed: &[u8]) -> Result<Bytes, EngineError> {
        let mut plain = sealed.to_vec();
        let mut rest = plain.as_mut_slice();
        while !rest.is_empty() {
            let at = self.at;
            let (keystream, stretch) = self.stretch()?;
            let left = usize::try_from(stretch.end - at).unwrap_or(usize::MAX);
            let (now, later) = rest.split_at_mut(left.min(rest.len()));
            keystream.apply(at - stretch.start, now)?;
            self.at = at.saturating_add(now.len() as u64);
            rest = later;
        }
        Ok(plain.into())
    }

    /// The stretch that the next byte lies in.
    fn stretch(&mut self) -> Result<(&Keystream, Range<u64>), EngineError> {
        let beyond = || EngineError::Corrupt("a body is longer than its record says".into());
        let number = self.stretches.partition_point(|(stretch, _)| stretch.end <= self.at);
        let (stretch, salt) = self.stretches.get(number).ok_or_else(beyond)?;
        let keystream = match self.current.take() {
            Some((of, keystream)) if of == number => keystream,
            _ => Keystream::new(&self.key, salt)?,
        };
        let (_, keystream) = self.current.insert((number, keystream));
        Ok((keystream, stretch.clone()))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn key(byte: u8) -> CustomerKey {
        CustomerKey::new([byte; 32])
    }

    #[test]
    fn any_stretch_of_a_body_is_decrypted_as_in_the_whole() {
        let keystream = Keystream::new(&key(1), &[2; 16]).unwrap();
        let plain: Vec<u8> = (0..200u8).collect();
        let mut sealed = plain.clone();
        keystream.apply(0, &mut sealed).unwrap();
        assert_ne!(sealed, plain);
        for start in 0..70 {
            for end in [start, start + 1, start + 15, start + 16, start + 17, start + 40, 200] {
                let mut piece = sealed[start..end].to_vec();
                keystream.apply(start as u64, &mut piece).unwrap();
                assert_eq!(piece, plain[start..end], "{start}..{end}");
            }
        }
    }

    /// The values come from another implementation (Python's hmac, and openssl).
    #[test]
    fn what_is_stored_is_as_documented() {
        let Encryption::Customer { verifier, .. } = sample();
        assert_eq!(hex::encode(verifier), "fe0a2c5cefcb253ea3c4d77e99b62f49669ca35dc91033b34238b1817fb7e2a8");
        let mut sealer = Sealer::new(&key(0x11), &[0x22; 16]).unwrap();
        let sealed = [sealer.seal(b"hel").unwrap(), sealer.seal(b"lo world, hello tide").unwrap()].concat();
        assert_eq!(hex::encode(sealed), "363bf9a6d15fbcfe51e879eeda3214ca77ad82c32349bc");
    }

    /// What a record has of an object that was stored with the key 0x11 and the salt 0x22.
    fn sample() -> Encryption {
        let salt = [0x22; 16];
        Encryption::Customer { verifier: *key(0x11).derive(&salt, FOR_VERIFIER).unwrap(), salt }
    }

    #[test]
    fn only_the_key_itself_fits() {
        let encryption = sample();
        assert!(check_key(Some(&encryption), Some(&key(0x11))).is_ok());
        assert!(matches!(check_key(Some(&encryption), Some(&key(0x12))), Err(EngineError::WrongKey)));
        assert!(matches!(check_key(Some(&encryption), None), Err(EngineError::InvalidRequest(_))));
        assert!(matches!(check_key(None, Some(&key(1))), Err(EngineError::InvalidRequest(_))));
        assert!(check_key(None, None).is_ok());
        for (encryption, key) in
            [(Some(&encryption), Some(&key(0x12))), (Some(&encryption), None), (None, Some(&key(1)))]
        {
            assert!(matches!(check_part_key(encryption, key), Err(EngineError::InvalidRequest(_))));
        }
    }

    #[test]
    fn two_bodies_of_one_key_share_nothing_that_is_stored() {
        let (first, one) = Sealer::of_object(Some(&key(1))).unwrap();
        let (second, two) = Sealer::of_object(Some(&key(1))).unwrap();
        let (mut one, mut two) = (one.unwrap(), two.unwrap());
        assert_ne!(first, second);
        assert_ne!(one.seal(&[0; 64]).unwrap(), two.seal(&[0; 64]).unwrap());
        assert_ne!(one.etag(&[7; 16]), two.etag(&[7; 16]));
    }
}
