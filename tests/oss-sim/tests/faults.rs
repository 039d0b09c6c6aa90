//! The fault plan, and the administrator's HTTP.

#![allow(clippy::unwrap_used)]

mod common;

use common::{client, start};
use oss_sim::{CODES_503, Fault, FaultPlan, FaultRule, Running};
use std::io::{Read, Write};

fn plan(sim: &Running, rule: FaultRule) {
    sim.set_faults(FaultPlan { seed: 1, rules: vec![rule] });
}

#[test]
fn each_503_code_comes_with_its_delay_and_without_effect() {
    let sim = start();
    let c = client(&sim);
    for code in CODES_503 {
        let fault = Fault::Error { status: 503, code: code.into(), qos_delay_ms: Some(42) };
        plan(&sim, FaultRule::new(fault).op("PutObject").key_prefix("x/").times(1));
        c.put("y", b"1", &[]).is(200);
        let answer = c.put("x/k", b"1", &[]);
        answer.fails(503, code, "");
        assert_eq!(answer.header("x-oss-qos-delay-time"), Some("42"));
        c.get("x/k").fails(404, "NoSuchKey", "");
        assert_eq!(sim.faults().rules[0].hits, 1);
    }
}

#[test]
fn a_reset_before_leaves_nothing_and_a_reset_after_leaves_the_effect() {
    let sim = start();
    let c = client(&sim);
    plan(&sim, FaultRule::new(Fault::ResetBefore).op("PutObject"));
    assert_eq!(c.put("k", b"1", &[]).status, 0);
    c.get("k").fails(404, "NoSuchKey", "");
    plan(&sim, FaultRule::new(Fault::ResetAfter).op("PutObject"));
    assert_eq!(c.put("k", b"2", &[]).status, 0);
    assert_eq!(c.get("k").is(200).body, b"2");
}

#[test]
fn bodies_are_torn_and_flipped() {
    let sim = start();
    let c = client(&sim);
    let body = vec![b'a'; 1_000_000];
    c.put("k", &body, &[]).is(200);
    plan(&sim, FaultRule::new(Fault::Torn));
    let torn = c.get("k");
    assert!(torn.cut && torn.body.len() < body.len());
    c.put("short", b"ab", &[]).is(200);
    for _ in 0..50 {
        let torn = c.get("short");
        assert!(torn.status == 200 && torn.cut && torn.body.len() < 2, "the head came: {torn:?}");
    }
    plan(&sim, FaultRule::new(Fault::Flip));
    let flipped = c.get("k").is(200);
    assert_eq!(flipped.body.len(), body.len());
    assert_eq!(flipped.body.iter().filter(|b| **b != b'a').count(), 1);
    sim.clear_faults();
    assert!(c.get("k").body == body, "the stored body is whole");
}

#[test]
fn a_byte_that_is_wrong_on_its_way_up_is_stored_and_shown_by_the_checksums() {
    let sim = start();
    let c = client(&sim);
    let body = vec![b'a'; 100_000];
    plan(&sim, FaultRule::new(Fault::Flip).op("PutObject"));
    let put = c.put("k", &body, &[]).is(200);
    assert_ne!(put.header("x-oss-hash-crc64ecma"), Some(oss_sim::crc64(&body).to_string().as_str()));
    let crc = oss_sim::crc64(&body).to_string();
    c.put("announced", &body, &[("x-oss-hash-crc64ecma", &crc)]).fails(400, "InvalidCRC64", "");
    assert_eq!(sim.faults().rules[0].hits, 2);
    c.put("empty", b"", &[]).is(200);
    assert_eq!(sim.faults().rules[0].hits, 2, "no byte, no strike");
    let stored = c.get("k").is(200).body;
    assert_eq!(stored.iter().filter(|b| **b != b'a').count(), 1);
    assert_eq!(put.header("x-oss-hash-crc64ecma"), Some(oss_sim::crc64(&stored).to_string().as_str()));
}

#[test]
fn a_restore_takes_longer_than_it_should() {
    let sim = start();
    let c = client(&sim);
    c.put("k", b"x", &[("x-oss-storage-class", "Archive")]).is(200);
    plan(&sim, FaultRule::new(Fault::SlowRestore { seconds: 600 }));
    c.call("POST", "k?restore", &[], b"").is(202);
    sim.advance_seconds(60);
    c.call("POST", "k?restore", &[], b"").fails(409, "RestoreAlreadyInProgress", "");
    assert_eq!(sim.faults().rules[0].hits, 1, "a refused restore is not held up");
    c.get("k").fails(403, "InvalidObjectState", "");
    sim.advance_seconds(600);
    c.get("k").is(200);
}

#[test]
fn faults_about_bodies_and_restores_count_only_where_there_is_one() {
    let sim = start();
    let c = client(&sim);
    c.put("warm", b"x", &[]).is(200);
    for fault in [Fault::Torn, Fault::Flip, Fault::ExpireRestore] {
        plan(&sim, FaultRule::new(fault).times(1));
        c.get("none").fails(404, "NoSuchKey", "");
        assert_eq!(sim.faults().rules[0].hits, 0);
    }
    c.get("warm").is(200);
    assert_eq!(sim.faults().rules[0].hits, 0, "nothing was restored");
}

#[test]
fn each_request_is_recorded_with_what_became_of_it() {
    let sim = common::builder().record_exchanges().start_blocking().unwrap();
    let c = client(&sim);
    c.put("k", b"12345", &[("x-oss-storage-class", "IA")]).is(200);
    plan(&sim, FaultRule::new(Fault::ResetBefore).times(1));
    c.call("DELETE", "k", &[], b"");
    plan(&sim, FaultRule::new(Fault::ResetAfter).times(1));
    c.get("k");
    let wrong = common::Client { secret: "wrong", ..client(&sim) };
    wrong.call("HEAD", "k", &[], b"").is(403);
    c.put("short", b"abc", &[("content-length", "10")]).fails(400, "RequestTimeout", "");
    let (all, left_out) = sim.exchanges();
    assert_eq!(left_out, 0);
    let short: Vec<_> = all.iter().map(|e| (e.operation, e.status, e.answered, e.broken_off, e.fault)).collect();
    assert_eq!(
        short,
        [
            ("PutObject", 200, true, false, None),
            ("DeleteObject", 0, false, false, Some("reset_before")),
            ("GetObject", 200, false, false, Some("reset_after")),
            ("HeadObject", 403, true, false, None),
            ("PutObject", 400, true, true, None),
        ]
    );
    let billed: Vec<_> = all.iter().map(|e| (e.get_type, e.billed.clone(), e.bytes)).collect();
    let once = vec![(oss_sim::Class::IA, 1)];
    assert_eq!(billed[0], (false, once.clone(), 0));
    assert_eq!(billed[1], (false, vec![], 0));
    assert_eq!(billed[2], (true, once, 5), "done, and billed, without an answer");
    assert!(billed[3..].iter().all(|(_, billed, _)| billed.is_empty()), "what is refused costs nothing");
}

#[test]
fn a_skewed_server_says_so_with_its_own_date() {
    let sim = start();
    plan(&sim, FaultRule::new(Fault::Skew { seconds: 3600 }));
    let answer = client(&sim).get("k");
    answer.fails(403, "RequestTimeTooSkewed", "");
    assert_eq!(answer.header("date"), Some("Fri, 01 Mar 2024 01:30:00 GMT"));
}

#[test]
fn a_restore_expires_while_it_is_read() {
    let sim = start();
    let c = client(&sim);
    c.put("k", &vec![1; 500_000], &[("x-oss-storage-class", "Archive")]).is(200);
    c.call("POST", "k?restore", &[], b"").is(202);
    sim.advance_seconds(60);
    plan(&sim, FaultRule::new(Fault::ExpireRestore).times(1));
    assert!(c.get("k").cut);
    c.get("k").fails(403, "InvalidObjectState", "0016-00000404");
    c.call("POST", "k?restore", &[], b"").is(202);
}

fn admin(sim: &Running, method: &str, path: &str, body: &str) -> String {
    let addr = sim.admin_endpoint().replace("http://", "");
    let mut socket = std::net::TcpStream::connect(&addr).unwrap();
    let length = body.len();
    let head =
        format!("{method} {path} HTTP/1.1\r\nHost: {addr}\r\nConnection: close\r\nContent-Length: {length}\r\n\r\n");
    socket.write_all(format!("{head}{body}").as_bytes()).unwrap();
    let mut out = String::new();
    socket.read_to_string(&mut out).unwrap();
    out
}

#[test]
fn the_administrator_moves_the_clock_and_reads_everything() {
    let sim = start();
    client(&sim).put("k", b"1", &[]).is(200);
    assert!(admin(&sim, "POST", "/clock/advance", "{\"seconds\":60}").contains("2024-03-01T00:31:00.000Z"));
    assert!(admin(&sim, "GET", "/clock", "").contains("\"now_ms\":1709253060000"));
    assert!(admin(&sim, "GET", "/ledger", "").contains("\"code\":\"PutRequest\""));
    assert!(admin(&sim, "GET", "/objects?bucket=b", "").contains("\"key\":\"k\""));
    assert!(admin(&sim, "GET", "/requests", "").contains("\"operation\":\"PutObject\""));
    assert!(admin(&sim, "PUT", "/faults", "{\"rules\":[{\"kind\":\"torn\"}]}").contains("200 OK"));
    assert!(admin(&sim, "GET", "/faults", "").contains("\"kind\":\"torn\""));
    assert!(admin(&sim, "PUT", "/faults", "{\"rules\":[{\"kind\":\"x\"}]}").contains("400 Bad Request"));
    assert!(admin(&sim, "DELETE", "/faults", "").contains("200 OK"));
    assert!(admin(&sim, "POST", "/ledger/reset", "").contains("200 OK"));
    assert!(admin(&sim, "GET", "/ledger", "").ends_with("[]\n"));
    assert!(admin(&sim, "GET", "/nothing", "").contains("404"));
}
