//! S3-compatible stores that answer ranged reads with the whole object, always or once.
#![allow(clippy::unwrap_used, clippy::panic)] // helpers of tests, which clippy does not know as such

mod wire;

use futures::TryStreamExt;
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};
use tidegate_tiering::tier::object::{ObjectTier, S3Settings};
use tidegate_tiering::tier::{Tier, TierError, TierMetrics};
use wire::{Recorded, Reply, Server};

const BODY: &[u8] = b"0123456789";

fn tier(server: &Server) -> ObjectTier {
    let settings =
        format!(r#"{{"endpoint":"{}","bucket":"b","access_key_id":"i","secret_access_key":"s"}}"#, server.address);
    let settings: S3Settings = serde_json::from_str(&settings).unwrap();
    ObjectTier::s3("s", &settings, &|_| None, TierMetrics::new("s", None).unwrap()).unwrap()
}

fn whole() -> Reply {
    Reply::new(200).header("last-modified", "Wed, 01 Jan 2025 00:00:00 GMT").header("etag", "\"e\"").body(BODY)
}

fn ranged(request: &Recorded) -> bool {
    !request.header("range").is_empty()
}

fn answer(request: &Recorded) -> Reply {
    let range = request.header("range").strip_prefix("bytes=").and_then(|r| r.split_once('-'));
    let Some((start, end)) = range else { return whole() };
    let (start, end): (usize, usize) = (start.parse().unwrap(), end.parse().unwrap());
    let reply = Reply { status: 206, body: BODY[start..=end].to_vec(), ..whole() };
    reply.header("content-range", format!("bytes {start}-{end}/{}", BODY.len()))
}

async fn read(tier: &ObjectTier) -> Result<Vec<u8>, TierError> {
    let pieces: Vec<_> = tier.get("k", 2..5).await?.try_collect().await?;
    Ok(pieces.concat())
}

/// How many requests asked for a range, and how many did not, since the last look.
fn asked(server: &Server, before: &mut usize) -> (usize, usize) {
    let requests = server.requests();
    let new = &requests[*before..];
    *before = requests.len();
    let ranges = new.iter().filter(|r| ranged(r)).count();
    (ranges, new.len() - ranges)
}

#[tokio::test]
async fn one_odd_answer_does_not_make_a_tier_read_whole_objects_for_ever() {
    let odd = Arc::new(AtomicUsize::new(1));
    let left = Arc::clone(&odd);
    let server = Server::start(move |_, request| {
        let one = |left: usize| left.checked_sub(1);
        let odd = ranged(request) && left.fetch_update(Ordering::Relaxed, Ordering::Relaxed, one).is_ok();
        if odd { whole() } else { answer(request) }
    })
    .await;
    let (tier, mut seen) = (tier(&server), 0);
    for _ in 0..10 {
        assert_eq!(read(&tier).await.unwrap(), b"234");
    }
    assert_eq!(asked(&server, &mut seen), (9, 2), "two whole reads, then ranges again");
    // As many in a row as there may be: the first ranged answer ends it.
    odd.store(3, Ordering::Relaxed);
    for _ in 0..20 {
        assert_eq!(read(&tier).await.unwrap(), b"234");
    }
    assert_eq!(asked(&server, &mut seen), (3 + 10, 3 + 1 + 2 + 4));
}

#[tokio::test]
async fn a_store_without_ranges_is_asked_for_one_now_and_then() {
    let server = Server::start(|_, _| whole()).await;
    let (tier, mut seen) = (tier(&server), 0);
    for _ in 0..200 {
        assert_eq!(read(&tier).await.unwrap(), b"234");
    }
    assert_eq!(asked(&server, &mut seen), (8, 200));
}

#[tokio::test]
async fn a_whole_read_that_fails_teaches_nothing() {
    let server = Server::start(|number, request| match number {
        0 => whole(),
        1 => Reply { body: BODY[..4].to_vec(), ..whole() },
        _ => answer(request),
    })
    .await;
    let (tier, mut seen) = (tier(&server), 0);
    assert!(read(&tier).await.is_err());
    asked(&server, &mut seen);
    assert_eq!(read(&tier).await.unwrap(), b"234");
    assert_eq!(asked(&server, &mut seen), (1, 0));
}
