//! Bodies that share chunks, some of them compressible, and their ETags; and the key that some are sealed with.

use super::common::{Dice, noise};
use super::plans::BUCKET;
use md5::{Digest, Md5};
use std::sync::{Arc, LazyLock};
use tidegate_tiering::engine::{CustomerKey, Engine, EngineError, ObjectHandle, VersionRef};

/// What bodies are cut from.
static LONG: LazyLock<Vec<Vec<u8>>> = LazyLock::new(|| (0..3).map(|n| noise(n, 120_000)).collect());

/// Pieces of a few long strings.
pub fn any_body(dice: &mut Dice) -> Arc<Vec<u8>> {
    let pieces = [0, 1, 1, 1, 2, 3][dice.below(6) as usize];
    let mut out = Vec::new();
    for _ in 0..pieces {
        let most = [60, 2_000, 6_000, 20_000, 40_000][dice.below(5) as usize];
        let len = 1 + dice.below(most) as usize;
        if dice.below(5) == 0 {
            out.extend(std::iter::repeat_n(dice.below(3) as u8, len));
        } else {
            let long = &LONG[dice.below(3) as usize];
            let from = dice.below(20) as usize * 2_000;
            out.extend_from_slice(&long[from..from + len]);
        }
    }
    Arc::new(out)
}

/// More than a read has at hand (two batches of 1 MiB), in chunks of its own.
pub fn large_body(dice: &mut Dice) -> Arc<Vec<u8>> {
    Arc::new(noise(3 + dice.below(1 << 20), 2_600_000))
}

pub fn etag(bytes: &[u8]) -> String {
    hex::encode(Md5::digest(bytes))
}

/// The ETag of an object of parts, from theirs.
pub fn etag_of_parts<'a>(etags: impl Iterator<Item = &'a str>) -> String {
    let (mut all, mut count) = (Md5::new(), 0);
    for etag in etags {
        all.update(hex::decode(etag).unwrap());
        count += 1;
    }
    format!("{}-{count}", hex::encode(all.finalize()))
}

/// The client's key.
pub fn secret() -> CustomerKey {
    CustomerKey::new([7; 32])
}

/// A version, with the key if it needs one.
pub fn open(engine: &Engine, key: &str, version: VersionRef) -> Result<ObjectHandle, EngineError> {
    let mut handle = engine.open_version(BUCKET, key, version)?;
    if handle.info().attributes.encryption.is_some() {
        handle.unlock(Some(secret()))?;
    }
    Ok(handle)
}
