//! What goes wrong while a call is under way.

use super::*;
use std::path::PathBuf;

fn directory(path: &std::path::Path) -> ObjectTier {
    let metrics = TierMetrics::new("d", None).unwrap();
    ObjectTier::directory("d", &DirectorySettings { path: path.join("cold") }, metrics).unwrap()
}

/// What an unmounted share looks like: the folder is away, and an empty one stands in its place.
fn unmount(path: &std::path::Path) {
    std::fs::rename(path.join("cold"), path.join("away")).unwrap();
    std::fs::create_dir(path.join("cold")).unwrap();
}

/// A body during which the share goes away.
struct Unmounting(PathBuf);

impl BodySource for Unmounting {
    fn len(&self) -> u64 {
        1
    }

    fn open(&self, _: Range<u64>) -> BoxStream<'static, std::io::Result<Bytes>> {
        let path = self.0.clone();
        let piece = async move {
            unmount(&path);
            Ok(Bytes::from_static(b"x"))
        };
        futures::stream::once(piece).boxed()
    }
}

fn is_away(error: &TierError) {
    assert_eq!(error.kind(), TierErrorKind::Unavailable, "{error}");
    assert!(error.to_string().contains("mounted"), "{error}");
}

#[tokio::test]
async fn a_put_during_which_the_directory_goes_away_fails_though_its_bytes_were_written() {
    let folder = tempfile::tempdir().unwrap();
    let tier = directory(folder.path());
    is_away(&tier.put("a/b", Arc::new(Unmounting(folder.path().to_owned()))).await.unwrap_err());
    assert!(folder.path().join("cold/a").exists(), "the store itself noticed nothing");
    assert!(!folder.path().join("cold/a/b").exists(), "nothing stays on the wrong disk");
}

#[tokio::test]
async fn a_directory_that_is_empty_at_the_start_and_should_not_be_is_away_until_it_is_mounted() {
    let folder = tempfile::tempdir().unwrap();
    directory(folder.path()).put("packs/d/a", Arc::new(Bytes::from_static(b"x"))).await.unwrap();
    unmount(folder.path());
    let tier = directory(folder.path());
    tier.expect("packs/d");
    is_away(&tier.get("packs/d/a", 0..1).await.map(drop).unwrap_err());
    is_away(&tier.put("packs/d/b", Arc::new(Bytes::from_static(b"y"))).await.unwrap_err());
    is_away(&tier.delete("packs/d/a").await.unwrap_err());
    std::fs::remove_dir(folder.path().join("cold")).unwrap();
    std::fs::rename(folder.path().join("away"), folder.path().join("cold")).unwrap();
    assert_eq!(tier.head("packs/d/a").await.unwrap().size, 1);
    assert!(tier.head("packs/d/b").await.unwrap_err().is_not_found());
    // From now on it is known by itself again.
    unmount(folder.path());
    is_away(&tier.head("packs/d/a").await.unwrap_err());
}

#[tokio::test]
async fn a_deletion_or_a_listing_during_which_the_directory_goes_away_proves_nothing() {
    for operation in [Operation::DeleteObject, Operation::ListObjectsV2] {
        let folder = tempfile::tempdir().unwrap();
        let tier = directory(folder.path());
        let work = async {
            unmount(folder.path());
            Ok(())
        };
        is_away(&tier.counted(operation, work).await.unwrap_err());
    }
}

#[test]
fn whole_reads_double_with_each_odd_answer_in_a_row_and_end_with_the_first_ranged_one() {
    let whole = Whole::default();
    let run = || std::iter::from_fn(|| whole.take().then_some(())).count();
    let mut runs = Vec::new();
    for _ in 0..10 {
        whole.worked();
        runs.push(run());
    }
    assert_eq!(runs, [1, 2, 4, 8, 16, 32, 64, 128, 256, 256]);
    whole.worked();
    whole.not_needed();
    assert_eq!(run(), 0);
    whole.worked();
    assert_eq!(run(), 1);
}

#[tokio::test]
async fn a_directory_and_memory_create_without_replacing() {
    let folder = tempfile::tempdir().unwrap();
    crate::tier::contract::creates_once(&directory(folder.path()), "c").await.unwrap();
    crate::tier::contract::creates_once(&crate::tier::memory::MemoryTier::new().unwrap(), "c").await.unwrap();
}
