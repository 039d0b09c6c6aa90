//! Keys of the namespace's tables. Bucket names hold no NUL, so a NUL ends them; numbers are big endian, so that the
//! order of bytes is the order of values.

use super::error::EngineError;
use super::types::VersionId;
use crate::clock::Timestamp;
use crate::meta::Table;
use std::ops::Bound;

/// A range of keys.
pub(crate) type KeyRange = (Bound<Vec<u8>>, Bound<Vec<u8>>);

/// `bucket NUL key`, in the tables Object and Access.
pub(crate) fn object(bucket: &str, key: &str) -> Vec<u8> {
    let mut out = Vec::with_capacity(bucket.len() + 1 + key.len());
    out.extend_from_slice(bucket.as_bytes());
    out.push(0);
    out.extend_from_slice(key.as_bytes());
    out
}

/// `bucket NUL key NUL inverted-id(16)` in the table Version: of a key, the newest comes first. All of a key stand before the next
/// key, as keys hold no NUL.
pub(crate) fn version(bucket: &str, key: &str, version: VersionId) -> Vec<u8> {
    let mut out = versions_of(&object(bucket, key));
    out.extend_from_slice(&(!version.0).to_be_bytes());
    out
}

/// What the keys of all versions of an object begin with.
pub(crate) fn versions_of(object: &[u8]) -> Vec<u8> {
    let mut out = Vec::with_capacity(object.len() + 1 + VERSION_LEN);
    out.extend_from_slice(object);
    out.push(0);
    out
}

/// Inverted ids of versions are 16 bytes.
const VERSION_LEN: usize = 16;

/// Takes a key of the table Version apart: `bucket NUL key`, and the version. None for the key of an object.
pub(crate) fn split_version(subject: &[u8]) -> Option<(&[u8], VersionId)> {
    let id_at = subject.len().checked_sub(VERSION_LEN)?;
    let (front, id) = subject.split_at(id_at);
    let object = front.strip_suffix(&[0])?;
    // An object's own key may end alike, but has one NUL only.
    (object.iter().filter(|&&b| b == 0).count() == 1)
        .then(|| id.try_into().ok().map(|id| (object, VersionId(!u128::from_be_bytes(id)))))
        .flatten()
}

/// The table that `subject` is a key of: Object or Version.
pub(crate) fn table_of(subject: &[u8]) -> Table {
    if split_version(subject).is_some() { Table::Version } else { Table::Object }
}

/// The key in the table Object of what `subject` is a version of.
pub(crate) fn object_of(subject: &[u8]) -> &[u8] {
    split_version(subject).map_or(subject, |(object, _)| object)
}

/// Takes the key of an object or of a version of it apart: bucket and key.
pub(crate) fn split_object(subject: &[u8]) -> Option<(&str, &str)> {
    let object = object_of(subject);
    let nul = object.iter().position(|&b| b == 0)?;
    Some((std::str::from_utf8(&object[..nul]).ok()?, std::str::from_utf8(&object[nul + 1..]).ok()?))
}

/// Refuses a key that nothing may be written to: a NUL ends keys in the table of versions.
pub(crate) fn check_new(key: &str) -> Result<(), EngineError> {
    match key.contains('\0') {
        true => Err(EngineError::InvalidArgument("the key holds a NUL character, which no key can have here".into())),
        false => Ok(()),
    }
}

/// `bucket NUL key NUL upload-id(32 hex)` in the table Upload.
pub(crate) fn upload(bucket: &str, key: &str, upload_id: &str) -> Vec<u8> {
    let mut out = object(bucket, key);
    out.push(0);
    out.extend_from_slice(upload_id.as_bytes());
    out
}

/// Takes an upload key apart: bucket, key, upload id.
pub(crate) fn split_upload(key: &[u8]) -> Option<(&str, &str, &str)> {
    let id_at = key.len().checked_sub(UPLOAD_ID_LEN)?;
    let (front, id) = key.split_at(id_at);
    let (bucket, object_key) = split_object(front.strip_suffix(&[0])?)?;
    Some((bucket, object_key, std::str::from_utf8(id).ok()?))
}

/// Upload ids are 32 hex digits.
pub(crate) const UPLOAD_ID_LEN: usize = 32;

/// `upload-id part-number(4)` in the table Part.
pub(crate) fn part(upload_id: &str, number: u32) -> Vec<u8> {
    let mut out = upload_id.as_bytes().to_vec();
    out.extend_from_slice(&number.to_be_bytes());
    out
}

/// What an entry of the due index is about.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
#[repr(u8)]
pub(crate) enum DueKind {
    /// The next action of a version: `kind time(8) subject`, where a subject is its key in the table Object or Version.
    Object = 1,
    /// The abort of an upload: `kind time(8) upload key`.
    Upload = 2,
    /// The idle order of hot versions: `kind last-use(8) subject`.
    Idle = 3,
    /// The order of hot versions that wait to be protected: `kind modified(8) subject`.
    Protect = 4,
}

/// A key of the table Due.
pub(crate) fn due(kind: DueKind, at: Timestamp, subject: &[u8]) -> Vec<u8> {
    let mut out = Vec::with_capacity(9 + subject.len());
    out.push(kind as u8);
    out.extend_from_slice(&at.millis().to_be_bytes());
    out.extend_from_slice(subject);
    out
}

/// Takes a due key apart: time and subject.
pub(crate) fn split_due(key: &[u8]) -> Option<(Timestamp, &[u8])> {
    let time = key.get(1..9)?;
    Some((Timestamp(u64::from_be_bytes(time.try_into().ok()?)), &key[9..]))
}

/// All of `kind` up to and including `until`.
pub(crate) fn due_until(kind: DueKind, until: Timestamp) -> KeyRange {
    let mut end = due(kind, until, &[]);
    end.extend_from_slice(&[0xff; 4]); // bucket names are ASCII: nothing sorts behind this at the same time
    (Bound::Included(vec![kind as u8]), Bound::Excluded(end))
}

/// `tier NUL pack-id(16)` in the tables RemotePack, Manifest (footers) and Thaw.
pub(crate) fn remote_pack(tier: &str, pack: u128) -> Vec<u8> {
    let mut out = tier.as_bytes().to_vec();
    out.push(0);
    out.extend_from_slice(&pack.to_be_bytes());
    out
}

/// All packs of a tier.
pub(crate) fn remote_packs_of(tier: &str) -> KeyRange {
    let mut front = tier.as_bytes().to_vec();
    front.push(0);
    prefix(&front)
}

/// Takes a remote pack key apart.
pub(crate) fn split_remote_pack(key: &[u8]) -> Option<(&str, u128)> {
    let id_at = key.len().checked_sub(16)?;
    let (front, id) = key.split_at(id_at);
    let tier = std::str::from_utf8(front.strip_suffix(&[0])?).ok()?;
    Some((tier, u128::from_be_bytes(id.try_into().ok()?)))
}

/// `target NUL id(16)` in the table Event: of a target, the oldest comes first.
pub(crate) fn event(target: &str, id: u128) -> Vec<u8> {
    let mut out = events_of(target);
    out.extend_from_slice(&id.to_be_bytes());
    out
}

/// What the keys of all events for a target begin with.
pub(crate) fn events_of(target: &str) -> Vec<u8> {
    [target.as_bytes(), b"\0"].concat()
}

/// Takes the key of an event apart: target and id.
pub(crate) fn split_event(key: &[u8]) -> Option<(&str, u128)> {
    split_remote_pack(key)
}

/// The key of a tier's fence in the table System: a counter (8 bytes, little endian).
pub(crate) fn fence(tier: &str) -> Vec<u8> {
    [b"fence/", tier.as_bytes()].concat()
}

/// The key in the table System of the time at which a pack was doomed (milliseconds, 8 bytes, little endian): it is kept for
/// recoveries to an earlier moment.
pub(crate) fn doomed(tier: &str, pack: u128) -> Vec<u8> {
    format!("doomed/{tier}/{pack:032x}").into_bytes()
}

/// The key in the table System of the latest epoch (8 bytes, little endian) of the packs that a namespace was made of.
pub(crate) const FROM_PACKS: &[u8] = b"recovery/from-packs";

/// The key of a job.
pub(crate) fn job(id: u128) -> Vec<u8> {
    id.to_be_bytes().to_vec()
}

/// Everything that starts with `prefix`.
pub(crate) fn prefix(prefix: &[u8]) -> KeyRange {
    (Bound::Included(prefix.to_vec()), prefix_end(prefix))
}

/// The exclusive end of everything that starts with `prefix`.
pub(crate) fn prefix_end(prefix: &[u8]) -> Bound<Vec<u8>> {
    let mut end = prefix.to_vec();
    while let Some(last) = end.pop() {
        if last < 0xff {
            end.push(last + 1);
            return Bound::Excluded(end);
        }
    }
    Bound::Unbounded
}

/// Fresh, time-ordered 128-bit ids: 48 bits of milliseconds, 80 random bits (the layout of a ULID).
pub(crate) fn fresh_id(now: Timestamp) -> u128 {
    let random: u128 = rand::random();
    (u128::from(now.millis()) << 80) | (random >> 48)
}

/// A fresh version id.
pub(crate) fn fresh_version(now: Timestamp) -> VersionId {
    VersionId(fresh_id(now))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn keys_come_apart_as_they_were_put_together() {
        assert_eq!(split_object(&object("b", "k/\u{e9}")), Some(("b", "k/\u{e9}")));
        // Ids with any bytes: an inverted id may hold NULs.
        for id in [0, 7, u128::MAX, !0xff00] {
            let subject = version("b", "k", VersionId(id));
            assert_eq!(split_version(&subject), Some((&b"b\0k"[..], VersionId(id))));
            assert_eq!((split_object(&subject), table_of(&subject)), (Some(("b", "k")), Table::Version));
        }
        for key in ["k", "", "0123456789abcdef", "k/0123456789abcdef"] {
            assert_eq!(table_of(&object("b", key)), Table::Object, "{key}");
        }
        let id = "0".repeat(UPLOAD_ID_LEN);
        assert_eq!(split_upload(&upload("b", "k", &id)), Some(("b", "k", id.as_str())));
        assert_eq!(split_remote_pack(&remote_pack("ia", 5)), Some(("ia", 5)));
        let key = due(DueKind::Object, Timestamp(9), b"b\0k");
        assert_eq!(split_due(&key), Some((Timestamp(9), &b"b\0k"[..])));
    }

    #[test]
    fn versions_of_a_key_stand_newest_first_and_before_the_next_key() {
        let mut keys = [
            version("b", "k\u{1}", VersionId(9)),
            version("b", "k", VersionId(1)),
            version("b", "k/", VersionId(3)),
            version("b", "k", VersionId(2)),
        ];
        keys.sort();
        let order: Vec<_> = keys.iter().map(|k| (split_object(k).unwrap().1, split_version(k).unwrap().1.0)).collect();
        assert_eq!(order, [("k", 2), ("k", 1), ("k\u{1}", 9), ("k/", 3)]);
        assert!(check_new("a\0b").is_err() && check_new("a b").is_ok());
    }

    #[test]
    fn a_due_range_holds_its_own_last_millisecond_and_not_the_next() {
        let (_, Bound::Excluded(end)) = due_until(DueKind::Object, Timestamp(9)) else { panic!("bounded") };
        assert!(due(DueKind::Object, Timestamp(9), b"zzz\0k") < end);
        assert!(due(DueKind::Object, Timestamp(10), b"a\0k") > end);
        assert!(due(DueKind::Upload, Timestamp(0), b"a\0k") > end);
    }

    #[test]
    fn a_prefix_of_all_ones_has_no_end() {
        assert_eq!(prefix_end(&[0xff, 0xff]), Bound::Unbounded);
        assert_eq!(prefix_end(&[1, 0xff]), Bound::Excluded(vec![2]));
    }
}
