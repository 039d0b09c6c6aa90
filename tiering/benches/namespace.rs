//! Paths that touch no body, in a namespace of many keys: pages of listings, listings with a delimiter, HEAD, deletions of 1,000
//! keys. Not a criterion bench: the namespace is filled once, and the spread of single calls is what is asked for.
//!
//! `cargo bench -p tidegate-tiering --bench namespace [-- KEYS [DIR]]` (default: 1,000,000 keys in a temporary directory; some
//! 500 MB of disk). Keys are `logs/<1,000 folders>/<object>`; a folder has KEYS / 1,000 of them.

// A bench that cannot go on may stop.
#![allow(clippy::unwrap_used, missing_docs)]

mod common;

use common::BUCKET;
use futures::StreamExt;
use std::hint::black_box;
use std::path::PathBuf;
use std::time::{Duration, Instant};
use tidegate_tiering::engine::{BodyExpectation, DeleteRequest, Engine, ListObjects, ListPage};

const FOLDERS: usize = 1_000;
/// Requests under way while the namespace is filled.
const WRITERS: usize = 256;

fn main() {
    let arguments: Vec<String> = std::env::args().skip(1).filter(|a| !a.starts_with('-')).collect();
    let keys: usize = arguments.first().map_or(1_000_000, |text| text.parse().unwrap());
    let base = arguments.get(1).map_or_else(|| PathBuf::from(env!("CARGO_TARGET_TMPDIR")), PathBuf::from);
    let dir = tempfile::tempdir_in(base).unwrap();
    let runtime = tokio::runtime::Builder::new_multi_thread().enable_all().build().unwrap();
    runtime.block_on(async {
        let engine = common::open(dir.path().to_owned()).await;
        fill(&engine, keys).await;
        listings(&engine, keys);
        heads(&engine, keys);
        measure("the record of the bucket", 20_000, |_| engine.bucket(BUCKET).unwrap().name.len());
        deletions(&engine, keys).await;
        engine.shutdown().await.unwrap();
    });
}

fn key(n: usize) -> String {
    format!("logs/{:04}/{:09}", n % FOLDERS, n / FOLDERS)
}

async fn fill(engine: &Engine, keys: usize) {
    let began = Instant::now();
    let puts = futures::stream::iter(0..keys).map(|n| {
        let expect = BodyExpectation { length: Some(0), ..Default::default() };
        common::put(engine, key(n), expect, futures::stream::empty().boxed())
    });
    let written = puts.buffer_unordered(WRITERS).fold(0usize, async |n, put| n + usize::from(put.is_ok())).await;
    assert_eq!(written, keys);
    let seconds = began.elapsed().as_secs_f64();
    println!("{keys} keys in {FOLDERS} folders: {seconds:.1} s, {:.0} a second", keys as f64 / seconds);
}

fn page(engine: &Engine, prefix: &str, delimiter: bool, after: Option<String>) -> ListPage {
    let list = ListObjects {
        bucket: BUCKET.to_owned(),
        prefix: prefix.to_owned(),
        delimiter: delimiter.then(|| "/".to_owned()),
        after,
        max_keys: 1_000,
    };
    engine.list_objects(&list).unwrap()
}

fn listings(engine: &Engine, keys: usize) {
    let calls = 200;
    let from = |n: usize| Some(key(n.wrapping_mul(7_368_787) % keys));
    measure("a page of 1,000 keys, anywhere", calls, |n| page(engine, "", false, from(n)).objects.len());
    measure("the root, with delimiter: 1 common prefix over all keys", calls, |_| {
        page(engine, "", true, None).common_prefixes.len()
    });
    measure("1,000 folders, with delimiter", calls, |_| page(engine, "logs/", true, None).common_prefixes.len());
    measure("one folder, with delimiter", calls, |n| {
        page(engine, &format!("logs/{:04}/", n % FOLDERS), true, None).objects.len()
    });
}

fn heads(engine: &Engine, keys: usize) {
    measure("HEAD", 20_000, |n| {
        engine.open_object(BUCKET, &key(n.wrapping_mul(7_368_787) % keys)).unwrap().info().key.len()
    });
    measure("HEAD of what is not there", 20_000, |n| {
        usize::from(engine.open_object(BUCKET, &format!("logs/{n}")).is_err())
    });
}

async fn deletions(engine: &Engine, keys: usize) {
    let mut took = Vec::new();
    for batch in 0..(keys / 10_000).clamp(1, 50) {
        let some = (batch * 1_000..(batch + 1) * 1_000).filter(|n| *n < keys);
        let some: Vec<_> = some.map(|n| (key(n), DeleteRequest::default())).collect();
        let began = Instant::now();
        let answers = engine.delete_objects(BUCKET, &some).await.unwrap();
        took.push(began.elapsed());
        assert!(answers.iter().all(|answer| answer.as_ref().is_ok_and(|deleted| deleted.existed)));
    }
    report("delete 1,000 keys, durable", took);
}

fn measure(name: &str, calls: usize, mut call: impl FnMut(usize) -> usize) {
    let mut took = Vec::with_capacity(calls);
    for n in 0..calls {
        let began = Instant::now();
        black_box(call(n));
        took.push(began.elapsed());
    }
    report(name, took);
}

fn report(name: &str, mut took: Vec<Duration>) {
    took.sort_unstable();
    let at = |share: f64| took[((took.len() - 1) as f64 * share) as usize].as_secs_f64() * 1e3;
    println!("{name}: p50 {:.4} ms, p99 {:.4} ms, most {:.4} ms ({} calls)", at(0.5), at(0.99), at(1.0), took.len());
}
