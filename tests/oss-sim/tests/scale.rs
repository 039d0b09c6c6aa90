//! Many objects: a page of a list costs its own length, not the bucket's. Run with `--ignored` and OBJECTS=1000000 for the
//! full size (in release); the default size only shows that time per page does not follow the number of objects.

mod common;

use common::{builder, client};
use std::io::{Read, Write};
use std::time::Instant;

/// Copies are the cheapest way to make objects: no body travels. The requests are pipelined on one connection.
#[test]
#[ignore = "slow without optimisation; OBJECTS sets the size"]
fn pages_take_the_same_time_in_large_buckets() {
    let objects: usize = std::env::var("OBJECTS").ok().and_then(|n| n.parse().ok()).unwrap_or(20_000);
    let sim = builder().start_blocking().unwrap();
    let c = client(&sim);
    c.put("source", b"x", &[]).is(200);
    let started = Instant::now();
    let date = "Fri, 01 Mar 2024 00:30:00 GMT";
    let sign = |method: &str, oss: &str, resource: &str| {
        use base64::Engine;
        use hmac::{KeyInit, Mac};
        let mut mac = hmac::Hmac::<sha1::Sha1>::new_from_slice(b"sk").unwrap();
        mac.update(format!("{method}\n\n\n{date}\n{oss}{resource}").as_bytes());
        base64::engine::general_purpose::STANDARD.encode(mac.finalize().into_bytes())
    };
    for batch in 0..objects.div_ceil(500) {
        let mut socket = std::net::TcpStream::connect(sim.addr()).unwrap();
        let mut text = String::new();
        let last = ((batch + 1) * 500).min(objects);
        for n in batch * 500..last {
            let key = format!("k/{:02x}/{n:08}", n % 256);
            let signature = sign("PUT", "x-oss-copy-source:/b/source\n", &format!("/b/{key}"));
            let close = if n + 1 == last { "Connection: close\r\n" } else { "" };
            text.push_str(&format!(
                "PUT /b/{key} HTTP/1.1\r\nHost: {}\r\nDate: {date}\r\nContent-Length: 0\r\nx-oss-copy-source: /b/source\r\n\
                 Authorization: OSS ak:{signature}\r\n{close}\r\n",
                sim.addr()
            ));
        }
        let mut out = Vec::new();
        let mut reader = socket.try_clone().unwrap();
        let drain = std::thread::spawn(move || {
            reader.read_to_end(&mut out).unwrap();
            out
        });
        socket.write_all(text.as_bytes()).unwrap();
        let answers = String::from_utf8(drain.join().unwrap()).unwrap();
        assert_eq!(answers.matches("HTTP/1.1 200 OK").count(), last - batch * 500);
    }
    println!("{objects} objects in {:?}", started.elapsed());
    let page = Instant::now();
    for _ in 0..20 {
        let text = c.get("?list-type=2&max-keys=1000&prefix=k%2F80%2F").is(200).text();
        assert!(text.contains("<Key>k/80/00000128</Key>"));
    }
    let grouped = c.get("?delimiter=%2F&list-type=2&prefix=k%2F").is(200).text();
    assert_eq!(grouped.matches("<CommonPrefixes>").count(), 100);
    println!("20 pages in {:?}", page.elapsed());
    assert!(page.elapsed().as_secs() < 10);
    let bill = Instant::now();
    assert!(!sim.ledger().is_empty());
    println!("bill in {:?}", bill.elapsed());
}
