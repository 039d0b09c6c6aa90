//! Runs one workload and measures it.

use crate::client::{Connection, Target};
use crate::data::{self, Kind};
use crate::measure;
use crate::payload::Payload;
use crate::suite::{Action, Workload};
use bytes::Bytes;
use hyper::Method;
use serde::{Deserialize, Serialize};
use std::path::PathBuf;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::{Duration, Instant};

/// Size of a part.
const PART: u64 = 16 << 20;
/// Size of a ranged read.
const RANGE: u64 = 64 << 10;
/// Folders of a workload's keys.
const FOLDERS: u64 = 64;
/// Of so many reads, one is compared byte by byte.
const VERIFY_EVERY: u64 = 16;

/// What is the same for all workloads of a run.
#[derive(Debug, Clone)]
pub struct Run {
    /// The server.
    pub target: Arc<Target>,
    /// Its process.
    pub pid: u32,
    /// Where it keeps its data.
    pub data_dir: PathBuf,
    /// Seed of all contents.
    pub seed: u64,
    /// Factor on the number of operations.
    pub scale: f64,
}

/// What a workload gave.
#[derive(Debug, Clone, Serialize, Deserialize)]
pub struct Outcome {
    /// Who was measured.
    pub label: String,
    /// Name of the workload.
    pub workload: String,
    /// Operations a second.
    pub ops_per_s: f64,
    /// Megabytes (10^6) a second.
    pub mb_per_s: f64,
    /// Median latency in milliseconds.
    pub p50_ms: f64,
    /// 99th percentile in milliseconds.
    pub p99_ms: f64,
    /// Processor seconds of the server per GB (10^9).
    pub cpu_s_per_gb: f64,
    /// Processor seconds of the server per 1,000 operations.
    pub cpu_s_per_kop: f64,
    /// Peak memory of the server in MiB.
    pub peak_mib: f64,
    /// Bytes on disk for each logical byte written; 0 for reads.
    pub disk_per_byte: f64,
    /// Operations that failed, with wrong bytes among them.
    pub errors: u64,
    /// The first failure.
    pub first_error: Option<String>,
}

struct Job {
    run: Run,
    workload: Workload,
    operations: u64,
    objects: u64,
    next: AtomicU64,
    upload: String,
    versions: Vec<Bytes>,
}

#[derive(Default)]
struct Tally {
    latencies: Vec<f64>,
    bytes: u64,
    errors: u64,
    first_error: Option<String>,
    tags: Vec<(u64, String)>,
}

impl Job {
    fn key(&self, number: u64) -> String {
        format!("{}/{:03}/{number:08}", self.workload.prefix, number % FOLDERS)
    }

    /// The prefix keeps workloads from sharing content.
    fn salt(&self) -> u64 {
        self.workload.prefix.bytes().fold(self.run.seed, |s, b| s.wrapping_mul(31).wrapping_add(u64::from(b)))
    }

    fn body(&self, number: u64) -> Bytes {
        data::body(self.workload.kind, self.salt(), number, self.workload.size)
    }

    /// One operation: the bytes moved, and the ETag of a part. `prepared` is what is sent, or what a read must give.
    async fn step(&self, connection: &mut Connection, number: u64, prepared: Payload) -> Result<(u64, String), String> {
        let sent = prepared.len();
        let object = number % self.objects.max(1);
        match self.workload.action {
            Action::Put | Action::Versions { .. } => {
                connection.call(Method::PUT, &self.key(number), "", prepared).await.map(|_| (sent, String::new()))
            }
            Action::Multipart => {
                let query = format!("partNumber={}&uploadId={}", number + 1, self.upload);
                let answer = connection.call(Method::PUT, "mp/object", &query, prepared).await?;
                let tag = answer.headers.get("etag").and_then(|v| v.to_str().ok()).unwrap_or_default();
                Ok((sent, tag.to_owned()))
            }
            Action::Head => {
                connection.call(Method::HEAD, &self.key(object), "", prepared).await.map(|_| Default::default())
            }
            Action::Get | Action::Range => {
                let expected = match prepared {
                    Payload::Whole(bytes) if !bytes.is_empty() => Some(bytes),
                    _ => None,
                };
                let read = connection.read(&self.key(object), self.range(number), expected).await?;
                Ok((read, String::new()))
            }
            Action::List | Action::Folders => Err("listings go page by page".to_owned()),
        }
    }

    /// First and last byte of a ranged read.
    fn range(&self, number: u64) -> Option<(u64, u64)> {
        let first = (number.wrapping_mul(0x9e37_79b9) % (self.workload.size as u64 / RANGE).max(1)) * RANGE;
        (self.workload.action == Action::Range).then_some((first, first + RANGE - 1))
    }

    /// What an operation sends, or (of some reads) must get.
    fn prepare(&self, number: u64) -> Payload {
        let random = self.workload.kind == Kind::Random;
        let whole = match self.workload.action {
            Action::Put if random => {
                return Payload::Made(data::random(self.salt(), number), self.workload.size as u64);
            }
            Action::Multipart => {
                return Payload::Made(data::random(self.run.seed, number + (1 << 40)), PART);
            }
            Action::Put => self.body(number),
            Action::Versions { .. } => self.versions.get(number as usize).cloned().unwrap_or_default(),
            Action::Get | Action::Range if number.is_multiple_of(VERIFY_EVERY) => {
                let whole = self.body(number % self.objects.max(1));
                self.range(number).map_or(whole.clone(), |(first, last)| whole.slice(first as usize..=last as usize))
            }
            _ => Bytes::new(),
        };
        Payload::Whole(whole)
    }

    async fn work(self: Arc<Self>) -> Tally {
        let mut tally = Tally::default();
        let mut connection = Connection::new(self.run.target.clone());
        loop {
            let number = self.next.fetch_add(1, Ordering::Relaxed);
            if number >= self.operations {
                return tally;
            }
            let prepared = self.prepare(number);
            let start = Instant::now();
            let done = self.step(&mut connection, number, prepared).await;
            tally.add(
                start.elapsed(),
                done.map(|(bytes, tag)| if tag.is_empty() { (bytes, None) } else { (bytes, Some((number + 1, tag))) }),
            );
        }
    }

    /// Pages of 1,000 keys, over and over; or the folders, which are one page.
    async fn list(self: Arc<Self>) -> Tally {
        let folders = self.workload.action == Action::Folders;
        let delimiter = if folders { "delimiter=%2F&" } else { "" };
        let mut tally = Tally::default();
        let mut connection = Connection::new(self.run.target.clone());
        let mut token = String::new();
        for _ in 0..self.operations {
            let start = Instant::now();
            let more = if token.is_empty() { String::new() } else { format!("continuation-token={}&", escape(&token)) };
            let query = format!("{more}{delimiter}list-type=2&max-keys=1000&prefix={}%2F", self.workload.prefix);
            let page = connection.call(Method::GET, "", &query, Payload::EMPTY).await;
            let done = page.and_then(|answer| {
                let text = String::from_utf8_lossy(&answer.body).into_owned();
                let found = text.matches("<CommonPrefixes>").count() as u64;
                if folders && found != FOLDERS.min(self.objects) {
                    return Err(format!("{found} folders"));
                }
                token = between(&text, "<NextContinuationToken>", "</NextContinuationToken>").unwrap_or_default();
                Ok((answer.body.len() as u64, None))
            });
            tally.add(start.elapsed(), done);
        }
        tally
    }
}

impl Tally {
    fn add(&mut self, took: Duration, done: Result<(u64, Option<(u64, String)>), String>) {
        match done {
            Ok((bytes, tag)) => {
                self.latencies.push(took.as_secs_f64() * 1000.0);
                self.bytes += bytes;
                self.tags.extend(tag);
            }
            Err(message) => {
                self.errors += 1;
                self.first_error.get_or_insert(message);
            }
        }
    }

    fn merge(&mut self, other: Tally) {
        self.latencies.extend(other.latencies);
        self.bytes += other.bytes;
        self.errors += other.errors;
        self.tags.extend(other.tags);
        if self.first_error.is_none() {
            self.first_error = other.first_error;
        }
    }

    fn quantile(&self, q: f64) -> f64 {
        let at = (self.latencies.len() as f64 * q) as usize;
        self.latencies.get(at.min(self.latencies.len().saturating_sub(1))).copied().unwrap_or(0.0)
    }
}

/// Runs `workload` and measures it.
pub async fn run(run: &Run, label: &str, workload: Workload) -> Result<Outcome, String> {
    let scaled = |n: u64| ((n as f64 * run.scale).ceil() as u64).max(1);
    let (mut operations, mut objects) = (scaled(workload.operations), scaled(workload.objects));
    let mut connection = Connection::new(run.target.clone());
    let mut versions = Vec::new();
    let mut upload = String::new();
    match workload.action {
        Action::Versions { edit } => {
            (operations, objects) = (workload.operations, workload.objects);
            let size = (workload.size as f64 * run.scale.min(1.0)) as usize;
            versions = data::versions(run.seed ^ edit as u64, size, 0.01, edit, 6);
        }
        Action::Multipart => {
            let begun = connection.call(Method::POST, "mp/object", "uploads=", Payload::EMPTY).await?;
            let text = String::from_utf8_lossy(&begun.body).into_owned();
            upload = between(&text, "<UploadId>", "</UploadId>").ok_or("no UploadId")?;
        }
        _ => {}
    }
    let job = Job { run: run.clone(), workload, operations, objects, next: AtomicU64::new(0), upload, versions };
    let job = Arc::new(job);
    if workload.evicted {
        measure::evict(&run.data_dir)?;
    }
    let disk = measure::disk_bytes(&run.data_dir);
    measure::reset_peak(run.pid);
    let (cpu, start) = (measure::cpu_seconds(run.pid), Instant::now());
    let mut tally = Tally::default();
    if matches!(workload.action, Action::List | Action::Folders) {
        tally = job.clone().list().await;
    } else {
        let workers: Vec<_> = (0..workload.connections).map(|_| tokio::spawn(job.clone().work())).collect();
        for worker in workers {
            tally.merge(worker.await.map_err(|e| format!("a worker failed: {e}"))?);
        }
    }
    if workload.action == Action::Multipart {
        complete(&mut connection, &job.upload, &mut tally.tags).await?;
    }
    let (took, cpu) = (start.elapsed().as_secs_f64(), measure::cpu_seconds(run.pid) - cpu);
    tally.latencies.sort_by(f64::total_cmp);
    let writes = matches!(workload.action, Action::Put | Action::Multipart | Action::Versions { .. });
    let grown = measure::disk_bytes(&run.data_dir).saturating_sub(disk);
    Ok(Outcome {
        label: label.to_owned(),
        workload: workload.name.to_owned(),
        ops_per_s: tally.latencies.len() as f64 / took,
        mb_per_s: tally.bytes as f64 / 1e6 / took,
        p50_ms: tally.quantile(0.5),
        p99_ms: tally.quantile(0.99),
        cpu_s_per_gb: if tally.bytes > 0 { cpu / (tally.bytes as f64 / 1e9) } else { 0.0 },
        cpu_s_per_kop: cpu * 1000.0 / tally.latencies.len().max(1) as f64,
        peak_mib: measure::peak_mib(run.pid),
        disk_per_byte: if writes && tally.bytes > 0 { grown as f64 / tally.bytes as f64 } else { 0.0 },
        errors: tally.errors,
        first_error: tally.first_error,
    })
}

async fn complete(connection: &mut Connection, upload: &str, tags: &mut [(u64, String)]) -> Result<(), String> {
    tags.sort_unstable();
    let parts: String = tags
        .iter()
        .map(|(number, tag)| {
            let tag = tag.trim_matches('"');
            format!("<Part><PartNumber>{number}</PartNumber><ETag>&quot;{tag}&quot;</ETag></Part>")
        })
        .collect();
    let body = format!(
        "<CompleteMultipartUpload xmlns=\"http://s3.amazonaws.com/doc/2006-03-01/\">{parts}</CompleteMultipartUpload>"
    );
    let query = format!("uploadId={upload}");
    connection.call(Method::POST, "mp/object", &query, Payload::Whole(Bytes::from(body))).await.map(drop)
}

fn between(text: &str, start: &str, end: &str) -> Option<String> {
    let (_, rest) = text.split_once(start)?;
    rest.split_once(end).map(|(inner, _)| inner.replace("&amp;", "&").replace("&#x3D;", "=").replace("&#61;", "="))
}

/// Escapes a query value as signatures want it.
fn escape(text: &str) -> String {
    let keep = |b: u8| b.is_ascii_alphanumeric() || b"-_.~".contains(&b);
    text.bytes().map(|b| if keep(b) { char::from(b).to_string() } else { format!("%{b:02X}") }).collect()
}
