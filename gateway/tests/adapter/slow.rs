//! Clients that send slowly must not keep others from being served.

use crate::support::*;
use crate::world::world_with;
use tidegate_gateway::server::{S3Settings, descriptors};
use tokio::io::AsyncWriteExt;

/// Threads for blocking work that actix gives to all workers together if it is not told otherwise.
const ACTIX_THREADS: usize = 512;

#[tokio::test(flavor = "multi_thread")]
async fn many_slow_uploads_do_not_stop_another() {
    descriptors::raise_limit();
    let world = world_with(S3Settings { workers: 1, body_read_timeout_seconds: 60, ..settings() }).await;
    let slow = ACTIX_THREADS / std::thread::available_parallelism().map_or(1, usize::from) + 16;
    let host = world.address.to_string();
    let mut held = Vec::new();
    for number in 0..slow {
        let mut stream = tokio::net::TcpStream::connect(world.address).await.unwrap();
        let head = sign(&host, "PUT", &format!("/bucket/slow{number}"), &[("Content-Length", "10000000")], "SK");
        stream.write_all(head.as_bytes()).await.unwrap();
        // The announced length alone decides that a thread is needed.
        stream.write_all(&vec![b's'; 1_000]).await.unwrap();
        held.push(stream);
    }
    let answer = world.send("PUT", "/bucket/fresh", &[], &vec![b'f'; 400_000]).await;
    assert_eq!(answer.status, 200, "{}", answer.text());
    assert_eq!(world.send("GET", "/bucket/fresh", &[], b"").await.body.len(), 400_000);
}
