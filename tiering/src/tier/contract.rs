//! What every tier must do: one suite, run by each implementation's tests.

use super::{BodySource, Created, RestorePriority, RestoreReceipt, Tier, TierError, TierErrorKind};
use bytes::{Bytes, BytesMut};
use futures::stream::{BoxStream, StreamExt, TryStreamExt};
use std::ops::Range;
use std::sync::Arc;

/// A body that is computed from a seed, in pieces: long without being held.
#[derive(Debug, Clone, Copy)]
pub struct SeededBody {
    /// Different seeds give different bytes.
    pub seed: u64,
    /// Length in bytes.
    pub len: u64,
}

impl SeededBody {
    const PIECE: u64 = 64 << 10;

    fn byte(seed: u64, at: u64) -> u8 {
        // SplitMix64 of the position: every byte can be had alone.
        let mut z = seed.wrapping_add((at / 8).wrapping_mul(0x9E37_79B9_7F4A_7C15));
        z = (z ^ (z >> 30)).wrapping_mul(0xBF58_476D_1CE4_E5B9);
        z = (z ^ (z >> 27)).wrapping_mul(0x94D0_49BB_1331_11EB);
        (z ^ (z >> 31)).to_le_bytes()[(at % 8) as usize]
    }

    /// The bytes of `range`.
    pub fn bytes(&self, range: Range<u64>) -> Bytes {
        range.map(|at| Self::byte(self.seed, at)).collect::<Vec<u8>>().into()
    }
}

impl BodySource for SeededBody {
    fn len(&self) -> u64 {
        self.len
    }

    fn open(&self, range: Range<u64>) -> BoxStream<'static, std::io::Result<Bytes>> {
        let body = *self;
        let starts = (range.start..range.end).step_by(Self::PIECE as usize);
        futures::stream::iter(starts.map(move |at| Ok(body.bytes(at..(at + Self::PIECE).min(range.end))))).boxed()
    }
}

/// Reads a range whole.
///
/// # Errors
/// What the tier says.
pub async fn read(tier: &dyn Tier, name: &str, range: Range<u64>) -> Result<Bytes, TierError> {
    let mut all = BytesMut::new();
    let mut stream = tier.get(name, range).await?;
    while let Some(piece) = stream.try_next().await? {
        all.extend_from_slice(&piece);
    }
    Ok(all.freeze())
}

fn claim(holds: bool, what: &str) -> Result<(), String> {
    if holds { Ok(()) } else { Err(what.to_owned()) }
}

fn told<T>(result: Result<T, TierError>, what: &str) -> Result<T, String> {
    result.map_err(|e| format!("{what}: {e}"))
}

/// Runs the whole suite on an online tier that is empty below `folder`.
///
/// # Errors
/// The first claim that does not hold, in words.
pub async fn run(tier: &dyn Tier, folder: &str, large: u64) -> Result<(), String> {
    bodies_come_back(tier, folder, large).await?;
    ranges_are_exact(tier, folder).await?;
    what_is_not_there_is_told(tier, folder).await?;
    listings_are_complete(tier, folder).await?;
    broken_bodies_leave_nothing(tier, folder).await?;
    odd_names_are_kept_apart(tier, folder).await?;
    let receipt = told(tier.restore(&format!("{folder}/list/00"), 1, RestorePriority::Standard).await, "restore")?;
    claim(tier.capabilities().restore || receipt == RestoreReceipt::NotNeeded, "an online tier needs no restore")?;
    for meta in told(tier.list(&format!("{folder}/"), None, 1000).await, "list")? {
        told(tier.delete(&meta.name).await, "delete")?;
    }
    let left = told(tier.list(&format!("{folder}/"), None, 10).await, "list")?;
    claim(left.is_empty(), "everything that was deleted is gone")
}

async fn bodies_come_back(tier: &dyn Tier, folder: &str, large: u64) -> Result<(), String> {
    for len in [0, 1, 1000, large] {
        let name = format!("{folder}/body/{len}");
        let body = SeededBody { seed: 1, len };
        let receipt = told(tier.put(&name, Arc::new(body)).await, "put")?;
        claim(!tier.capabilities().server_checksum || receipt.crc64.is_some(), "the promised checksum is returned")?;
        told(tier.put(&name, Arc::new(body)).await, "a second put of the same bytes")?;
        let meta = told(tier.head(&name).await, "head")?;
        claim(meta.size == len && meta.name == name, "head tells name and length")?;
        let got = told(read(tier, &name, 0..len).await, "get")?;
        claim(got == body.bytes(0..len), "a body comes back as it was")?;
    }
    Ok(())
}

async fn ranges_are_exact(tier: &dyn Tier, folder: &str) -> Result<(), String> {
    let name = format!("{folder}/ranges");
    let body = SeededBody { seed: 2, len: 10_000 };
    told(tier.put(&name, Arc::new(body)).await, "put")?;
    for range in [0..1, 0..10_000, 9_999..10_000, 17..4_711, 0..0, 500..500] {
        let got = told(read(tier, &name, range.clone()).await, "range")?;
        claim(got == body.bytes(range), "a range is exactly its bytes")?;
    }
    #[allow(clippy::reversed_empty_ranges)]
    for range in [0..10_001, 10_000..10_001, 20_000..20_001, 5..4] {
        let error = read(tier, &name, range).await.err().ok_or("a range beyond the end is an error")?;
        claim(error.kind() == TierErrorKind::Invalid, &format!("a range beyond the end is invalid: {error}"))?;
    }
    Ok(())
}

async fn what_is_not_there_is_told(tier: &dyn Tier, folder: &str) -> Result<(), String> {
    let name = format!("{folder}/absent");
    for error in [tier.head(&name).await.err(), tier.get(&name, 0..1).await.err()] {
        claim(error.is_some_and(|e| e.is_not_found()), "a missing name is not found")?;
    }
    told(tier.delete(&name).await, "delete of a missing name")
}

/// What a store does that can create without replacing. A bucket of OSS that keeps versions cannot.
///
/// # Errors
/// The first claim that does not hold, in words.
pub async fn creates_once(tier: &dyn Tier, folder: &str) -> Result<(), String> {
    let name = format!("{folder}/created");
    let (first, second) = (Bytes::from_static(b"first"), Bytes::from_static(b"second"));
    claim(told(tier.create(&name, Arc::new(first.clone())).await, "create")? == Created::New, "a free name is taken")?;
    claim(told(tier.create(&name, Arc::new(second)).await, "create")? == Created::Exists, "a name is taken once")?;
    claim(told(read(tier, &name, 0..5).await, "get")? == first, "what was there stays")
}

async fn listings_are_complete(tier: &dyn Tier, folder: &str) -> Result<(), String> {
    let names: Vec<String> = (0..25).map(|n| format!("{folder}/list/{n:02}")).collect();
    for name in names.iter().rev() {
        told(tier.put(name, Arc::new(Bytes::from(name.clone()))).await, "put")?;
    }
    let prefix = format!("{folder}/list/");
    let list = |prefix: String, after: Option<String>, max| async move {
        let got = told(tier.list(&prefix, after.as_deref(), max).await, "list")?;
        Ok::<Vec<String>, String>(got.into_iter().map(|m| m.name).collect())
    };
    claim(list(prefix.clone(), None, 100).await? == names, "a listing has every name in order")?;
    claim(list(prefix.clone(), None, 7).await? == names[..7], "a listing stops at its bound")?;
    claim(list(prefix.clone(), Some(names[6].clone()), 7).await? == names[7..14], "a listing goes on")?;
    claim(list(format!("{folder}/list/1"), None, 100).await? == names[10..20], "a prefix may end inside a name")?;
    claim(list(prefix, None, 0).await?.is_empty(), "none asked for, none given")?;
    let one = told(tier.list(&names[3], None, 10).await, "list")?;
    claim(one.len() == 1 && one[0].size == names[3].len() as u64, "a listing tells sizes")
}

struct Broken(u64);

impl BodySource for Broken {
    fn len(&self) -> u64 {
        self.0
    }

    fn open(&self, range: Range<u64>) -> BoxStream<'static, std::io::Result<Bytes>> {
        let first = SeededBody { seed: 3, len: self.0 }.bytes(range.start..range.end.min(range.start + 100));
        futures::stream::iter([Ok(first), Err(std::io::Error::other("the disk is broken"))]).boxed()
    }
}

async fn broken_bodies_leave_nothing(tier: &dyn Tier, folder: &str) -> Result<(), String> {
    let name = format!("{folder}/broken");
    let error = tier.put(&name, Arc::new(Broken(300_000))).await.err().ok_or("a broken body is an error")?;
    claim(error.kind() == TierErrorKind::Local, &format!("a broken body is our own error: {error}"))?;
    let error = tier.head(&name).await.err().ok_or("a broken body leaves no object")?;
    claim(error.is_not_found(), &format!("a broken body leaves no object: {error}"))
}

async fn odd_names_are_kept_apart(tier: &dyn Tier, folder: &str) -> Result<(), String> {
    let names = ["plus+sign", "percent%2F", "space in it", "ümlaut", "q?x=1&y", "quote\"'<>"];
    let names: Vec<String> = names.iter().map(|n| format!("{folder}/odd/{n}")).collect();
    for name in &names {
        told(tier.put(name, Arc::new(Bytes::from(name.clone()))).await, "put of an odd name")?;
    }
    for name in &names {
        let got = told(read(tier, name, 0..name.len() as u64).await, "get of an odd name")?;
        claim(got == name.as_bytes(), &format!("{name} has its own bytes"))?;
    }
    let mut listed = told(tier.list(&format!("{folder}/odd/"), None, 100).await, "list")?;
    let mut names = names;
    names.sort();
    listed.sort_by(|a, b| a.name.cmp(&b.name));
    claim(listed.into_iter().map(|m| m.name).eq(names), "odd names are listed as they are")
}

#[cfg(test)]
mod tests {
    use super::super::memory::{MemoryTier, Moment};
    use super::super::object::{DirectorySettings, ObjectTier, S3Settings};
    use super::super::{Operation, TierMetrics};
    use super::*;

    #[tokio::test]
    async fn memory_keeps_the_contract() {
        run(&MemoryTier::new().unwrap(), "c", 3 << 20).await.unwrap();
    }

    fn directory(path: &std::path::Path) -> ObjectTier {
        let metrics = TierMetrics::new("d", None).unwrap();
        ObjectTier::directory("d", &DirectorySettings { path: path.join("cold") }, metrics).unwrap()
    }

    #[tokio::test]
    async fn a_directory_keeps_the_contract() {
        let folder = tempfile::tempdir().unwrap();
        run(&directory(folder.path()), "c", (3 << 20) + 7).await.unwrap();
    }

    #[tokio::test]
    async fn names_that_would_leave_the_directory_are_refused() {
        let folder = tempfile::tempdir().unwrap();
        let tier = directory(folder.path());
        for name in ["../x", "a/../../x", "/etc/x", ""] {
            let error = tier.put(name, Arc::new(Bytes::from_static(b"x"))).await.unwrap_err();
            assert_eq!(error.kind(), TierErrorKind::Invalid, "{name}: {error}");
        }
    }

    #[tokio::test]
    async fn a_directory_that_is_away_is_unavailable_and_nothing_is_written_in_its_place() {
        let folder = tempfile::tempdir().unwrap();
        let tier = directory(folder.path());
        let (path, away) = (folder.path().join("cold"), folder.path().join("away"));
        tier.put("a/b", Arc::new(Bytes::from_static(b"x"))).await.unwrap();
        std::fs::rename(&path, &away).unwrap();
        for empty in [false, true] {
            if empty {
                std::fs::create_dir(&path).unwrap();
            }
            let errors = [
                tier.put("a/c", Arc::new(Bytes::from_static(b"y"))).await.err(),
                tier.head("a/b").await.err(),
                tier.get("a/b", 0..1).await.err(),
                tier.delete("a/b").await.err(),
                tier.list("", None, 10).await.err(),
            ];
            for error in errors.into_iter().map(Option::unwrap) {
                assert_eq!(error.kind(), TierErrorKind::Unavailable, "{error}");
                assert!(error.to_string().contains("mounted"), "{error}");
            }
        }
        std::fs::remove_dir(&path).unwrap();
        std::fs::rename(&away, &path).unwrap();
        assert_eq!(read(&tier, "a/b", 0..1).await.unwrap(), "x");
    }

    #[tokio::test]
    async fn deleting_a_name_removes_what_a_killed_write_left_of_it() {
        let folder = tempfile::tempdir().unwrap();
        let tier = directory(folder.path());
        tier.put("a/b", Arc::new(Bytes::from_static(b"x"))).await.unwrap();
        let left = folder.path().join("cold/a/b#1");
        let other = folder.path().join("cold/a/bc#1");
        std::fs::write(&left, b"half").unwrap();
        std::fs::write(&other, b"half").unwrap();
        tier.delete("a/b").await.unwrap();
        assert!(!left.exists() && other.exists());
    }

    #[tokio::test]
    async fn hooks_fail_calls_before_and_after_their_effect() {
        let tier = MemoryTier::new().unwrap();
        let fail_at = |moment: Moment| {
            move |operation: Operation, _: &str, now: Moment| {
                (operation == Operation::PutObject && now == moment)
                    .then(|| TierError::plain(TierErrorKind::Unavailable, "PutObject", "", "hook"))
            }
        };
        tier.set_hook(fail_at(Moment::Before));
        assert!(tier.put("a", Arc::new(Bytes::from_static(b"x"))).await.is_err());
        assert!(tier.head("a").await.unwrap_err().is_not_found());
        tier.set_hook(fail_at(Moment::After));
        assert!(tier.put("a", Arc::new(Bytes::from_static(b"x"))).await.is_err());
        tier.clear_hook();
        assert_eq!(tier.head("a").await.unwrap().size, 1);
    }

    #[test]
    fn archive_classes_and_half_keys_of_an_s3_store_are_refused() {
        let settings = |text: &str| serde_json::from_str::<S3Settings>(text).unwrap();
        let build = |s: &S3Settings| ObjectTier::s3("s", s, &|_| None, TierMetrics::new("s", None).unwrap());
        let archive = settings(r#"{"endpoint":"http://h","bucket":"b","storage_class":"GLACIER"}"#);
        assert!(build(&archive).unwrap_err().to_string().contains("cannot restore"));
        let half = settings(r#"{"endpoint":"http://h","bucket":"b","access_key_id":"i"}"#);
        assert!(build(&half).unwrap_err().to_string().contains("belong together"));
        let none = settings(r#"{"endpoint":"http://h","bucket":"b"}"#);
        assert_eq!(build(&none).unwrap_err().kind(), TierErrorKind::Denied);
    }
}
