//! The real program, killed with SIGKILL: what was answered is there at the next start, bodies, uploads, restores under way,
//! the clock and the bill included.
#![allow(clippy::unwrap_used, clippy::panic)] // helpers of tests, which clippy does not know as such

mod common;

use common::{Answer, Target, call_at, compact};
use serde_json::Value;
use std::io::{BufRead, BufReader, Read, Write};
use std::net::{SocketAddr, TcpStream};
use std::path::Path;
use std::process::{Child, Command, Stdio};

/// The program on a data directory.
struct Program {
    child: Child,
    addr: SocketAddr,
    admin: SocketAddr,
}

impl Program {
    fn start(dir: &Path) -> Self {
        let mut child = Command::new(env!("CARGO_BIN_EXE_oss-sim"))
            .args(["--access-key", "ak:sk", "--bucket", "b", "--data-dir"])
            .arg(dir)
            .stdout(Stdio::piped())
            .spawn()
            .unwrap();
        let mut lines = BufReader::new(child.stdout.take().unwrap()).lines();
        let mut address = |front: &str| {
            let line = lines.next().unwrap().unwrap();
            line.strip_prefix(front).unwrap_or_else(|| panic!("{line}")).parse().unwrap()
        };
        let addr = address("listening on http://");
        let admin = address("admin on http://");
        Self { child, addr, admin }
    }

    fn kill(mut self) {
        self.child.kill().unwrap();
        self.child.wait().unwrap();
    }

    fn admin(&self, method: &str, path: &str, body: &str) -> Value {
        let mut socket = TcpStream::connect(self.admin).unwrap();
        let length = body.len();
        let head = format!(
            "{method} {path} HTTP/1.1\r\nHost: {}\r\nConnection: close\r\nContent-Length: {length}\r\n\r\n",
            self.admin
        );
        socket.write_all(format!("{head}{body}").as_bytes()).unwrap();
        let mut out = String::new();
        socket.read_to_string(&mut out).unwrap();
        serde_json::from_str(out.split("\r\n\r\n").nth(1).unwrap()).unwrap()
    }

    fn now(&self) -> u64 {
        self.admin("GET", "/clock", "")["now_ms"].as_u64().unwrap()
    }

    fn call(&self, method: &str, target: &str, headers: &[(&str, &str)], body: &[u8]) -> Answer {
        let to = Target { addr: self.addr, bucket: "b", secret: "sk" };
        call_at(&to, &compact(self.now()), (method, target), headers, body)
    }

    fn restore_state(&self, key: &str) -> Option<String> {
        self.call("HEAD", key, &[], b"").is(200).header("x-oss-restore").map(str::to_owned)
    }

    /// The lines of the bill that do not grow by themselves as time goes on.
    fn bill(&self) -> Vec<Value> {
        let lines = self.admin("GET", "/ledger", "");
        lines.as_array().unwrap().iter().filter(|l| l["unit"] != "byte_hours").cloned().collect()
    }
}

impl Drop for Program {
    fn drop(&mut self) {
        // Gone already when the test has killed it.
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}

#[test]
fn a_killed_simulator_goes_on_where_it_was() {
    let dir = tempfile::tempdir().unwrap();
    let sim = Program::start(dir.path());
    let body: Vec<u8> = (0..300_000u32).map(|n| (n * 7) as u8).collect();
    let cold = [("x-oss-storage-class", "ColdArchive")];
    let days = b"<RestoreRequest><Days>2</Days></RestoreRequest>";
    sim.call("PUT", "restored", &cold, &body).is(200);
    sim.call("POST", "restored?restore", &[], days).is(202);
    sim.admin("POST", "/clock/advance", "{\"seconds\":18060}");
    sim.call("PUT", "under-way", &cold, &body).is(200);
    sim.call("POST", "under-way?restore", &[], days).is(202);
    sim.call("PUT", "gone", &[("x-oss-storage-class", "IA")], &body).is(200);
    sim.call("DELETE", "gone", &[], b"").is(204);
    let id = sim.call("POST", "parts?uploads", &[], b"").is(200).node("UploadId").unwrap();
    let part = |n: u32| format!("parts?partNumber={n}&uploadId={id}");
    sim.call("PUT", &part(1), &[], &body).is(200);
    assert!(sim.restore_state("restored").unwrap().contains("expiry-date"));
    let (restored, bill, now) = (sim.restore_state("restored"), sim.bill(), sim.now());
    sim.kill();

    let sim = Program::start(dir.path());
    assert_eq!(sim.bill(), bill);
    assert!((now..now + 600_000).contains(&sim.now()), "the clock goes on from where it was");
    assert_eq!(sim.restore_state("restored"), restored);
    assert_eq!(sim.restore_state("under-way").as_deref(), Some("ongoing-request=\"true\""));
    assert!(sim.call("GET", "restored", &[], b"").is(200).body == body);
    sim.call("GET", "under-way", &[], b"").fails(403, "InvalidObjectState", "");
    sim.call("GET", "gone", &[], b"").fails(404, "NoSuchKey", "");
    sim.call("PUT", &part(2), &[], b"end").is(200);
    sim.call("POST", &format!("parts?uploadId={id}"), &[("x-oss-complete-all", "yes")], b"").is(200);
    assert!(sim.call("GET", "parts", &[], b"").is(200).body == [&body[..], b"end"].concat());
    sim.admin("POST", "/clock/advance", "{\"seconds\":18060}");
    assert!(sim.call("GET", "under-way", &[], b"").is(200).body == body, "the restore that was under way has ended");
    sim.kill();
}

#[test]
fn a_simulator_killed_during_writes_has_every_answered_one_whole() {
    let dir = tempfile::tempdir().unwrap();
    let mut answered = 0u32;
    for _ in 0..3 {
        let sim = Program::start(dir.path());
        let (addr, first) = (sim.addr, answered);
        let date = compact(sim.now());
        let writer = std::thread::spawn(move || {
            let to = Target { addr, bucket: "b", secret: "sk" };
            let mut done = first;
            // Until the connection breaks under it.
            while call_at(&to, &date, ("PUT", &format!("k{done}")), &[], &[done as u8; 50_000]).status == 200 {
                done += 1;
            }
            done
        });
        // A request is counted before its answer leaves: once the next one is counted, thirty were answered.
        while sim.admin("GET", "/requests", "").as_array().unwrap().iter().all(|r| r["count"].as_u64() < Some(31)) {
            std::thread::yield_now();
        }
        sim.kill();
        answered = writer.join().unwrap();
        assert!(answered >= first + 30);
    }
    let sim = Program::start(dir.path());
    for n in 0..answered {
        assert!(sim.call("GET", &format!("k{n}"), &[], b"").is(200).body == [n as u8; 50_000], "k{n}");
    }
    let objects = sim.admin("GET", "/objects?bucket=b", "");
    let count = objects.as_array().unwrap().len() as u32;
    // One more may have been stored whose answer the kill took away, in each round at most.
    assert!((answered..=answered + 1).contains(&count), "{count} objects, {answered} answered");
}
