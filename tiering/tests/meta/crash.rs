//! Processes that are killed, or kill themselves at failpoints.

use super::*;

const CHILD_DIR: &str = "TIDEGATE_TEST_META_CHILD";
const CHILD_FAILPOINT: &str = "TIDEGATE_TEST_META_FAILPOINT";

/// Not a test of its own: the process that the next test kills.
#[test]
fn child_commits_until_killed() {
    let Ok(dir) = std::env::var(CHILD_DIR) else { return };
    let (store, _) = open(Path::new(&dir));
    let store = Arc::new(store);
    if let Ok(failpoint) = std::env::var(CHILD_FAILPOINT) {
        let (name, nth) = failpoint.split_once(':').unwrap();
        tidegate_tiering::failpoint::set(name, nth.parse().unwrap());
        let store = Arc::clone(&store);
        std::thread::spawn(move || while store.snapshot_now().is_ok() {});
    }
    let writers: Vec<_> = (0..4)
        .map(|w| {
            let store = Arc::clone(&store);
            std::thread::spawn(move || {
                for i in 0.. {
                    let batch = put(&format!("w{w}-{i:06}"), "v").put(Table::Due, format!("w{w}-{i:06}"), "d");
                    store.commit_blocking(batch).unwrap();
                    println!("ack w{w}-{i:06}");
                }
            })
        })
        .collect();
    writers.into_iter().for_each(|w| w.join().unwrap());
}

/// Runs the child on `dir` until it ends or has acknowledged `until` commits; returns what it acknowledged.
fn run_child(dir: &Path, failpoint: Option<&str>, until: usize) -> Vec<String> {
    use std::io::{BufRead, BufReader};
    let mut command = std::process::Command::new(std::env::current_exe().unwrap());
    command.args(["crash::child_commits_until_killed", "--exact", "--nocapture"]).env(CHILD_DIR, dir);
    if let Some(failpoint) = failpoint {
        command.env(CHILD_FAILPOINT, failpoint);
    }
    let (out, null) = (std::process::Stdio::piped(), std::process::Stdio::null());
    let mut child = command.stdout(out).stderr(null).spawn().unwrap();
    let lines = BufReader::new(child.stdout.take().unwrap()).lines().map_while(Result::ok);
    let mut acks: Vec<String> = Vec::new();
    for line in lines {
        // The last line may be cut short.
        acks.extend(line.split("ack ").nth(1).filter(|k| k.len() == 9).map(str::to_owned));
        if acks.len() == until {
            child.kill().unwrap();
        }
    }
    child.wait().unwrap();
    acks
}

/// Opens what the child left and compares.
fn check_after_crash(dir: &Path, acks: &[String]) -> OpenReport {
    let (store, report) = open(dir);
    assert!(matches!(report.recovery, Recovery::Replayed { .. } | Recovery::Rebuilt { .. }), "{report:?}");
    for key in acks {
        assert_eq!(value(&store, key).as_deref(), Some("v"), "{key} was acknowledged");
    }
    let all = contents(&store);
    for (table, key) in all.keys() {
        let other = if *table == Table::Object { Table::Due } else { Table::Object };
        assert!(all.contains_key(&(other, key.clone())), "half of a batch: {table:?} {key:?}");
    }
    store.close().unwrap();
    // The journal alone must say the same as the index that was brought up to date.
    rebuild(dir, &small(), clock().as_ref(), &mut |_| {}).unwrap();
    let (store, _) = open(dir);
    assert_eq!(contents(&store), all);
    store.close().unwrap();
    report
}

#[test]
fn nothing_acknowledged_is_lost_by_kill_and_no_batch_is_halved() {
    let dir = tempfile::tempdir().unwrap();
    for round in 0..3 {
        let acks = run_child(dir.path(), None, 700 + 300 * round);
        let report = check_after_crash(dir.path(), &acks);
        println!("round {round}: {} acknowledged, {:?}", acks.len(), report.recovery);
    }
}

#[test]
fn a_crash_after_each_durable_step_loses_nothing() {
    let dir = tempfile::tempdir().unwrap();
    let commits = ["journal.before_write", "journal.after_write", "journal.after_sync", "meta.after_apply"];
    let snapshots = ["snapshot.before_rename", "snapshot.after_rename", "snapshot.after_retire"];
    let cases = commits.iter().map(|name| (name, 150)).chain(snapshots.iter().map(|name| (name, 4)));
    for (name, nth) in cases {
        let acks = run_child(dir.path(), Some(&format!("{name}:{nth}")), usize::MAX);
        let report = check_after_crash(dir.path(), &acks);
        println!("{name}: {} acknowledged, {:?}", acks.len(), report.recovery);
    }
}
