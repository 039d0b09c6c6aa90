//! The bill against sums done by hand, and state that survives a restart.

#![allow(clippy::unwrap_used)]

mod common;

use common::{DAY, START, builder, client, start};
use oss_sim::{Class, Code, Line, Running};

const HOUR: u64 = 3600;
const KIB: f64 = 1024.0;

fn amount(lines: &[Line], code: Code, class: Class) -> f64 {
    lines.iter().filter(|l| l.code == code && l.class == class).map(|l| l.quantity).sum()
}

fn bill(sim: &Running, code: Code, class: Class) -> f64 {
    amount(&sim.ledger(), code, class)
}

#[test]
fn storage_is_size_times_hours_with_the_floor_of_64_kib() {
    let sim = start();
    let c = client(&sim);
    c.put("s", &[0; 1000], &[]).is(200);
    c.put("ia-small", &[0; 1000], &[("x-oss-storage-class", "IA")]).is(200);
    c.put("ia-big", &[0; 100_000], &[("x-oss-storage-class", "IA")]).is(200);
    c.put("ca", &[0; 10], &[("x-oss-storage-class", "ColdArchive")]).is(200);
    c.put("da", &[0; 10], &[("x-oss-storage-class", "DeepColdArchive")]).is(200);
    sim.advance_seconds(10 * HOUR);
    assert_eq!(bill(&sim, Code::Storage, Class::Standard), 1000.0 * 10.0);
    assert_eq!(bill(&sim, Code::ChargedDatasize, Class::IA), (64.0 * KIB + 100_000.0) * 10.0);
    assert_eq!(bill(&sim, Code::ChargedDatasizeCA, Class::ColdArchive), 64.0 * KIB * 10.0);
    assert_eq!(bill(&sim, Code::ChargedDatasizeDeepCA, Class::DeepColdArchive), 64.0 * KIB * 10.0);
    c.call("DELETE", "s", &[], b"").is(204);
    sim.advance_seconds(5 * HOUR);
    assert_eq!(bill(&sim, Code::Storage, Class::Standard), 1000.0 * 10.0, "closed at the delete");
    sim.reset_ledger();
    sim.advance_seconds(HOUR);
    assert_eq!(bill(&sim, Code::ChargedDatasizeCA, Class::ColdArchive), 64.0 * KIB, "a new bill begins at its reset");
}

#[test]
fn leaving_a_class_early_costs_the_missing_hours() {
    let sim = start();
    let c = client(&sim);
    for class in ["IA", "Archive", "ColdArchive", "DeepColdArchive"] {
        c.put(class, &[0; 100_000], &[("x-oss-storage-class", class)]).is(200);
    }
    sim.advance_seconds(10 * DAY);
    for class in ["IA", "Archive", "ColdArchive", "DeepColdArchive"] {
        c.call("DELETE", class, &[], b"").is(204);
    }
    let missing = |days: f64| 100_000.0 * days * 24.0;
    assert_eq!(bill(&sim, Code::LessthanMonthDatasize, Class::IA), missing(20.0));
    assert_eq!(bill(&sim, Code::LessthanMonthDatasize, Class::Archive), missing(50.0));
    assert_eq!(bill(&sim, Code::EarlyDeletionCA, Class::ColdArchive), missing(170.0));
    assert_eq!(bill(&sim, Code::EarlyDeletionDeepCA, Class::DeepColdArchive), missing(170.0));
}

#[test]
fn the_clock_of_the_minimum_differs_by_class_after_a_conversion() {
    let sim = start();
    let c = client(&sim);
    c.put("k", &[0; 100_000], &[]).is(200);
    let rule = |days: u64, class: &str| {
        format!(
            "<LifecycleConfiguration><Rule><Prefix></Prefix><Status>Enabled</Status><Transition><Days>{days}</Days>\
             <StorageClass>{class}</StorageClass></Transition></Rule></LifecycleConfiguration>"
        )
    };
    c.call("PUT", "?lifecycle", &[], rule(20, "IA").as_bytes()).is(200);
    // Made at 00:30; the runs are at midnight, so the 20 days are over at the run 20 d 23.5 h after it.
    sim.advance_seconds(21 * DAY);
    assert_eq!(sim.objects("b")[0].class, Class::IA);
    c.call("PUT", "?lifecycle", &[], rule(24, "ColdArchive").as_bytes()).is(200);
    sim.advance_seconds(4 * DAY);
    assert_eq!(sim.objects("b")[0].class, Class::ColdArchive);
    // IA counts from Last-Modified: 24 d 23.5 h of 30 d are over, 120.5 h are missing.
    assert_eq!(bill(&sim, Code::LessthanMonthDatasize, Class::IA), 100_000.0 * 120.5);
    assert_eq!(bill(&sim, Code::PutRequest, Class::IA), 1.0);
    assert_eq!(bill(&sim, Code::PutRequest, Class::ColdArchive), 1.0);
    c.call("DELETE", "k", &[], b"").is(204);
    // ColdArchive counts from the conversion, half an hour ago.
    assert_eq!(bill(&sim, Code::EarlyDeletionCA, Class::ColdArchive), 100_000.0 * (180.0 * 24.0 - 0.5));
}

#[test]
fn overwriting_and_converting_are_early_deletions_too() {
    let sim = start();
    let c = client(&sim);
    c.put("k", &[0; 100_000], &[("x-oss-storage-class", "IA")]).is(200);
    sim.advance_seconds(DAY);
    c.put("k", b"", &[("x-oss-copy-source", "/b/k")]).is(200);
    assert_eq!(bill(&sim, Code::LessthanMonthDatasize, Class::IA), 100_000.0 * 29.0 * 24.0);
    assert_eq!(bill(&sim, Code::RetrievalData, Class::IA), 100_000.0);
}

#[test]
fn restores_are_billed_by_bytes_jobs_and_replica_hours() {
    let sim = start();
    let c = client(&sim);
    c.put("ca", &[0; 1000], &[("x-oss-storage-class", "ColdArchive")]).is(200);
    c.put("ar", &[0; 1000], &[("x-oss-storage-class", "Archive")]).is(200);
    let days = b"<RestoreRequest><Days>2</Days></RestoreRequest>";
    c.call("POST", "ca?restore", &[], days).is(202);
    c.call("POST", "ar?restore", &[], days).is(202);
    sim.advance_seconds(5 * HOUR + DAY);
    assert_eq!(bill(&sim, Code::TempStorageCAStd, Class::ColdArchive), 1000.0 * 24.0);
    sim.advance_seconds(30 * DAY);
    let lines = sim.ledger();
    assert_eq!(amount(&lines, Code::TempStorageCAStd, Class::ColdArchive), 1000.0 * 48.0);
    assert_eq!(amount(&lines, Code::TempStorageCAStd, Class::Archive), 0.0);
    assert_eq!(amount(&lines, Code::RetrievalDataCold, Class::ColdArchive), 1000.0);
    assert_eq!(amount(&lines, Code::DataRetrievalRequest, Class::ColdArchive), 1.0);
    assert_eq!(amount(&lines, Code::RetrievalData, Class::Archive), 1000.0);
}

#[test]
fn requests_are_billed_by_type_and_class_and_only_when_they_succeed() {
    let sim = start();
    let c = client(&sim);
    c.put("k", b"0123456789", &[("x-oss-storage-class", "IA")]).is(200);
    c.put("k", b"x", &[("content-md5", "bad")]).is(400);
    c.get("k").is(200);
    c.call("GET", "k", &[("range", "bytes=0-3")], b"").is(206);
    c.call("HEAD", "k", &[], b"").is(200);
    c.get("none").is(404);
    c.get("?list-type=2").is(200);
    c.call("DELETE", "k", &[], b"").is(204);
    assert_eq!(bill(&sim, Code::PutRequest, Class::IA), 2.0, "the write and the delete");
    assert_eq!(bill(&sim, Code::GetRequest, Class::IA), 3.0);
    assert_eq!(bill(&sim, Code::PutRequest, Class::Standard), 1.0, "the list");
    assert_eq!(bill(&sim, Code::GetRequest, Class::Standard), 0.0, "a miss costs nothing");
    assert_eq!(bill(&sim, Code::RetrievalData, Class::IA), 14.0);
    let put = sim.requests().into_iter().find(|r| r.operation == "PutObject" && r.status == 400).unwrap();
    assert_eq!(put.count, 1);
}

#[test]
fn deleting_many_is_billed_by_key_and_a_304_like_an_answer() {
    use base64::Engine;
    let sim = start();
    let c = client(&sim);
    let etag = c.put("a", b"1", &[("x-oss-storage-class", "IA")]).is(200).header("etag").unwrap().to_string();
    c.put("b", b"2", &[]).is(200);
    assert_eq!(c.call("GET", "a", &[("if-none-match", &etag)], b"").status, 304);
    assert_eq!(bill(&sim, Code::GetRequest, Class::IA), 1.0);
    assert_eq!(bill(&sim, Code::RetrievalData, Class::IA), 0.0, "no byte was read");
    sim.reset_ledger();
    let document =
        b"<Delete><Object><Key>a</Key></Object><Object><Key>b</Key></Object><Object><Key>none</Key></Object></Delete>";
    let md5 = base64::engine::general_purpose::STANDARD.encode(<md5::Md5 as md5::Digest>::digest(document));
    c.call("POST", "?delete", &[("content-md5", &md5)], document).is(200);
    assert_eq!(bill(&sim, Code::PutRequest, Class::IA), 1.0);
    assert_eq!(bill(&sim, Code::PutRequest, Class::Standard), 2.0, "one of the bucket's class, one that was not there");
}

#[test]
fn a_direct_read_of_an_archive_has_its_own_line() {
    let sim = start();
    let c = client(&sim);
    c.put("k", &[0; 1000], &[("x-oss-storage-class", "Archive")]).is(200);
    let on = b"<ArchiveDirectReadConfiguration><Enabled>true</Enabled></ArchiveDirectReadConfiguration>";
    c.call("PUT", "?bucketArchiveDirectRead", &[], on).is(200);
    c.call("GET", "k", &[("range", "bytes=0-99")], b"").is(206);
    assert_eq!(bill(&sim, Code::RetrievalDataArchiveDirect, Class::Archive), 100.0);
    c.call("POST", "k?restore", &[], b"").is(202);
    sim.advance_seconds(60);
    c.get("k").is(200);
    assert_eq!(
        bill(&sim, Code::RetrievalDataArchiveDirect, Class::Archive),
        100.0,
        "a restored copy is no direct read"
    );
    assert_eq!(bill(&sim, Code::RetrievalData, Class::Archive), 1000.0, "the restore");
}

#[test]
fn an_archive_reached_by_a_rule_counts_its_minimum_from_the_upload() {
    let sim = start();
    let c = client(&sim);
    c.put("k", &[0; 100_000], &[]).is(200);
    let rule = b"<LifecycleConfiguration><Rule><Prefix></Prefix><Status>Enabled</Status><Transition><Days>20</Days>\
                 <StorageClass>Archive</StorageClass></Transition></Rule></LifecycleConfiguration>";
    c.call("PUT", "?lifecycle", &[], rule).is(200);
    sim.advance_seconds(21 * DAY);
    assert_eq!(sim.objects("b")[0].class, Class::Archive);
    c.call("DELETE", "k", &[], b"").is(204);
    assert_eq!(bill(&sim, Code::LessthanMonthDatasize, Class::Archive), 100_000.0 * (60.0 - 21.0) * 24.0);
}

#[test]
fn parts_are_billed_until_the_upload_ends() {
    let sim = start();
    let c = client(&sim);
    let id = c.call("POST", "k?uploads", &[], b"").node("UploadId").unwrap();
    c.put(&format!("k?partNumber=1&uploadId={id}"), &[0; 500], &[]).is(200);
    sim.advance_seconds(2 * HOUR);
    assert_eq!(bill(&sim, Code::Storage, Class::Standard), 1000.0);
    c.call("DELETE", &format!("k?uploadId={id}"), &[], b"").is(204);
    sim.advance_seconds(2 * HOUR);
    assert_eq!(bill(&sim, Code::Storage, Class::Standard), 1000.0);
}

#[test]
fn state_bill_and_clock_survive_a_restart_with_a_data_directory() {
    let dir = tempfile::tempdir().unwrap();
    let open = || builder().data_dir(dir.path()).start_blocking().unwrap();
    let sim = open();
    let c = client(&sim);
    let body: Vec<u8> = (0..600_000u32).map(|n| n as u8).collect();
    c.put("k", &body, &[("x-oss-storage-class", "ColdArchive"), ("x-oss-meta-a", "1")]).is(200);
    c.put("copy-source", &body, &[]).is(200);
    c.put("copied", b"", &[("x-oss-copy-source", "/b/copy-source")]).is(200);
    c.call("DELETE", "copy-source", &[], b"").is(204);
    c.put("gone", &body, &[]).is(200);
    c.call("DELETE", "gone", &[], b"").is(204);
    let id = c.call("POST", "m?uploads", &[], b"").node("UploadId").unwrap();
    c.put(&format!("m?partNumber=1&uploadId={id}"), &body, &[]).is(200);
    c.call("POST", "k?restore", &[], b"").is(202);
    sim.advance_seconds(HOUR);
    let before = sim.ledger();
    sim.shutdown();

    let sim = open();
    let c = client(&sim);
    assert_eq!(sim.now_ms(), START + HOUR * 1000);
    assert_eq!(sim.ledger(), before);
    assert_eq!(c.call("HEAD", "k", &[], b"").header("x-oss-restore"), Some("ongoing-request=\"true\""));
    sim.advance_seconds(4 * HOUR);
    let got = c.get("k").is(200);
    assert!(got.body == body && got.header("x-oss-meta-a") == Some("1"));
    assert!(c.get("copied").is(200).body == body, "a copy shares the file of its deleted source");
    c.call("POST", &format!("m?uploadId={id}"), &[("x-oss-complete-all", "yes")], b"").is(200);
    assert!(c.get("m").is(200).body == body);
    for key in ["k", "copied", "m"] {
        c.call("DELETE", key, &[], b"").is(204);
    }
    let files = || {
        let folders = std::fs::read_dir(dir.path()).unwrap().map(|e| e.unwrap().path()).filter(|p| p.is_dir());
        folders.map(|f| std::fs::read_dir(f).unwrap().count()).sum::<usize>()
    };
    assert_eq!(files(), 0, "no body is left without a user");
}

#[test]
fn a_torn_last_line_of_the_log_is_dropped() {
    use std::io::Write;
    let dir = tempfile::tempdir().unwrap();
    let open = || builder().data_dir(dir.path()).start_blocking().unwrap();
    let sim = open();
    client(&sim).put("k", b"body", &[]).is(200);
    sim.shutdown();
    let log = dir.path().join("state.jsonl");
    std::fs::File::options().append(true).open(&log).unwrap().write_all(b"{\"Version\":[\"b\",").unwrap();
    let sim = open();
    assert_eq!(client(&sim).get("k").is(200).body, b"body");
    sim.shutdown();
    std::fs::File::options().append(true).open(&log).unwrap().write_all(b"nonsense\n").unwrap();
    let error = builder().data_dir(dir.path()).start_blocking().unwrap_err();
    assert!(error.to_string().contains("state.jsonl, line"), "{error}");
}
