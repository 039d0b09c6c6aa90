//! Many objects: a page of a list costs its own length, not the bucket's. `OSS_SIM_OBJECTS` sets how many; `tests/run --full`
//! makes it a million.
#![allow(clippy::unwrap_used)] // helpers of tests, which clippy does not know as such

mod common;

use common::{Client, builder, client};
use oss_sim::{Class, Code, Running};
use std::io::{Read, Write};
use std::net::{Shutdown, TcpStream};
use std::time::Instant;

/// Objects when nothing else is said: made in seconds without optimisation, and fifty times the longest page.
const OBJECTS: usize = 50_000;

/// Requests on one connection.
const BATCH: usize = 500;

/// A V1 signature of a copy of `/b/source`, which is the cheapest way to make an object: no body travels.
fn signature(date: &str, key: &str) -> String {
    use base64::Engine;
    use hmac::{KeyInit, Mac};
    let mut mac = hmac::Hmac::<sha1::Sha1>::new_from_slice(b"sk").unwrap();
    mac.update(format!("PUT\n\n\n{date}\nx-oss-copy-source:/b/source\n/b/{key}").as_bytes());
    base64::engine::general_purpose::STANDARD.encode(mac.finalize().into_bytes())
}

fn key(number: usize) -> String {
    format!("k/{:02x}/{number:08}", number % 256)
}

/// Copies, pipelined on one connection.
fn copy_batch(sim: &Running, numbers: std::ops::Range<usize>) {
    let date = "Fri, 01 Mar 2024 00:30:00 GMT";
    let count = numbers.len();
    let mut text = String::new();
    for number in numbers {
        let key = key(number);
        text.push_str(&format!(
            "PUT /b/{key} HTTP/1.1\r\nHost: {}\r\nDate: {date}\r\nContent-Length: 0\r\nx-oss-copy-source: /b/source\r\n\
             Authorization: OSS ak:{}\r\n\r\n",
            sim.addr(),
            signature(date, &key)
        ));
    }
    let mut socket = TcpStream::connect(sim.addr()).unwrap();
    let mut reader = socket.try_clone().unwrap();
    let drain = std::thread::spawn(move || {
        let mut out = Vec::new();
        reader.read_to_end(&mut out).unwrap();
        out
    });
    socket.write_all(text.as_bytes()).unwrap();
    socket.shutdown(Shutdown::Write).unwrap();
    let answers = String::from_utf8(drain.join().unwrap()).unwrap();
    assert_eq!(answers.matches("HTTP/1.1 200 OK").count(), count);
}

/// Lists everything below `prefix`; how many keys there are and in how many pages.
fn list_all(client: &Client<'_>, prefix: &str) -> (usize, u64) {
    let (mut keys, mut pages, mut after) = (0, 0, String::new());
    loop {
        let start =
            if after.is_empty() { String::new() } else { format!("&start-after={}", common::encode(&after, "")) };
        let text = client.get(&format!("?list-type=2&max-keys=1000&prefix={prefix}{start}")).is(200).text();
        keys += text.matches("<Key>").count();
        pages += 1;
        if !text.contains("<IsTruncated>true") {
            return (keys, pages);
        }
        let last = text.rsplit("<Key>").next().unwrap();
        after = last[..last.find("</Key>").unwrap()].to_owned();
    }
}

/// Peak memory of this process, the clients included, in MiB.
fn peak_memory() -> u64 {
    let status = std::fs::read_to_string("/proc/self/status").unwrap_or_default();
    let line = status.lines().find_map(|l| l.strip_prefix("VmHWM:")).unwrap_or("0");
    line.trim().trim_end_matches(" kB").parse::<u64>().unwrap_or(0) / 1024
}

#[test]
fn a_page_looks_at_its_own_keys_only_however_many_there_are() {
    let objects = std::env::var("OSS_SIM_OBJECTS").map_or(OBJECTS, |n| n.parse().unwrap());
    let sim = builder().start_blocking().unwrap();
    let c = client(&sim);
    c.put("source", b"x", &[]).is(200);
    let started = Instant::now();
    for first in (0..objects).step_by(BATCH) {
        copy_batch(&sim, first..(first + BATCH).min(objects));
    }
    let made = started.elapsed();
    let pages_took = Instant::now();
    let (keys, pages) = list_all(&c, "k%2F8");
    assert_eq!(keys, (0..objects).filter(|n| n % 256 / 16 == 8).count());
    // Of each page: its keys, and the one that shows whether there is more.
    assert!(sim.keys_looked_at() <= keys as u64 + pages, "{} for {keys} keys", sim.keys_looked_at());
    let before = sim.keys_looked_at();
    let grouped = c.get("?delimiter=%2F&list-type=2&max-keys=1000&prefix=k%2F").is(200).text();
    assert_eq!(grouped.matches("<CommonPrefixes>").count(), 256.min(objects));
    assert!(sim.keys_looked_at() - before <= 257, "a group is passed over at once");
    let pages_took = pages_took.elapsed();
    let bill_took = Instant::now();
    let puts = sim.ledger().into_iter().find(|l| l.code == Code::PutRequest && l.class == Class::Standard);
    // The copies, their source, and the lists.
    assert_eq!(puts.map(|l| l.quantity), Some((objects + 1) as f64 + pages as f64 + 1.0));
    println!(
        "{objects} objects in {made:?}, {} pages in {pages_took:?}, the bill in {:?}, peak memory {} MiB",
        pages + 1,
        bill_took.elapsed(),
        peak_memory()
    );
}
