//! What a client's key (SSE-C) costs: PUT and GET of bodies with a key beside the same without, in turns, by the whole engine.
//!
//! `cargo bench -p tidegate-tiering --bench encryption [-- MIB [DIR]]` (default: bodies of 64 MiB; some 1 GB of disk). Bodies are random,
//! so that neither side has less to store.

// A bench that cannot go on may stop.
#![allow(clippy::unwrap_used, missing_docs)]

mod common;

use bytes::Bytes;
use common::BUCKET;
use futures::StreamExt;
use std::path::PathBuf;
use std::time::{Duration, Instant};
use tidegate_tiering::engine::{BodyExpectation, CustomerKey, Engine};

const ROUNDS: usize = 7;
/// As the endpoint gives them.
const PIECE: usize = 256 << 10;

fn main() {
    let arguments: Vec<String> = std::env::args().skip(1).filter(|a| !a.starts_with('-')).collect();
    let mib: usize = arguments.first().map_or(64, |text| text.parse().unwrap());
    let base = arguments.get(1).map_or_else(|| PathBuf::from(env!("CARGO_TARGET_TMPDIR")), PathBuf::from);
    let dir = tempfile::tempdir_in(base).unwrap();
    let runtime = tokio::runtime::Builder::new_multi_thread().enable_all().build().unwrap();
    let key = CustomerKey::new([7; 32]);
    let mut took = [const { Vec::new() }; 4];
    runtime.block_on(async {
        let engine = common::open(dir.path().to_owned()).await;
        for round in 0..ROUNDS {
            for (side, key) in [(0, None), (1, Some(&key))] {
                let name = format!("{side}/{round}");
                took[side].push(put(&engine, &name, random(mib << 20, round * 2 + side), key).await);
                took[side + 2].push(get(&engine, &name, key).await);
            }
        }
        engine.shutdown().await.unwrap();
    });
    let speed = |of: usize| {
        let mut all = took[of].clone();
        all.sort_unstable();
        (mib << 20) as f64 / 1e6 / all[all.len() / 2].as_secs_f64()
    };
    for (name, of) in [("PUT", 0), ("GET", 2)] {
        let (plain, sealed) = (speed(of), speed(of + 1));
        println!("{name} of {mib} MiB: plain {plain:.0} MB/s, with a key {sealed:.0} MB/s, {:.2}x", sealed / plain);
    }
}

fn random(len: usize, seed: usize) -> Bytes {
    let mut out = vec![0; len];
    blake3::Hasher::new().update(&seed.to_le_bytes()).finalize_xof().fill(&mut out);
    out.into()
}

async fn put(engine: &Engine, name: &str, body: Bytes, key: Option<&CustomerKey>) -> Duration {
    let expect = BodyExpectation { length: Some(body.len() as u64), customer_key: key.cloned(), ..Default::default() };
    let pieces: Vec<_> =
        (0..body.len()).step_by(PIECE).map(|at| Ok(body.slice(at..body.len().min(at + PIECE)))).collect();
    let began = Instant::now();
    common::put(engine, name.to_owned(), expect, futures::stream::iter(pieces).boxed()).await.unwrap();
    began.elapsed()
}

async fn get(engine: &Engine, name: &str, key: Option<&CustomerKey>) -> Duration {
    let began = Instant::now();
    let mut object = engine.open_object(BUCKET, name).unwrap();
    object.unlock(key.cloned()).unwrap();
    let size = object.info().size;
    let mut body = object.read(0..size).await.unwrap();
    let mut seen = 0;
    while let Some(piece) = body.next().await {
        seen += piece.unwrap().len() as u64;
    }
    assert_eq!(seen, size);
    began.elapsed()
}
