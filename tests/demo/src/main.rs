//! The main job of Tidegate on real input: `cargo run --release -p demo`.
//!
//! Starts the OSS simulator and the real `tidegate`, uploads a tree of files twice over S3 (the second time with changes),
//! turns the clocks forward so that everything moves to IA and then to Archive by the example policy, reads from IA, is
//! refused by Archive, restores, reads everything back and compares every byte with the input. Any mismatch is an error.

mod cost;
mod input;
mod s3;
mod servers;

use clap::Parser;
use comfy_table::{Table, presets};
use futures::{StreamExt, TryStreamExt, stream};
use indicatif::{ProgressBar, ProgressStyle};
use input::{InputFile, Version};
use s3::S3;
use serde_json::Value;
use std::path::PathBuf;
use std::process::ExitCode;
use std::time::{Duration, Instant};

/// The bucket that the example policy speaks of.
const BUCKET: &str = "backups";
/// The example policy: IA after 14 days, Archive after 60.
const POLICY: &str = "policies/examples/backup.yaml";
const DAY: u64 = 86_400;
/// Days from the upload to the first and to the second turn of the clock: a day past each rule.
const TO_IA: u64 = 15;
const TO_ARCHIVE: u64 = 61;
/// Connections that upload and read.
const CONNECTIONS: usize = 16;
/// How often the clocks are turned by an hour for a thaw, and how long it is waited for after each.
const THAW_HOURS: usize = 20;
const THAW_LIMIT: Duration = Duration::from_secs(3);
/// Longest wait for all objects to move.
const MOVE_LIMIT: Duration = Duration::from_secs(60);

/// Shows the main job of Tidegate on real input.
#[derive(Parser)]
struct Arguments {
    /// Tree to upload [default: the sources in the Cargo home]
    #[arg(long, value_name = "DIR")]
    input: Option<PathBuf>,
    /// Most of the tree to take, in MiB
    #[arg(long, default_value_t = 48)]
    max_mib: u64,
    /// Most files to take
    #[arg(long, default_value_t = 3000)]
    max_files: usize,
    /// Keep the store, the simulated cloud and the logs
    #[arg(long)]
    keep: bool,
}

#[tokio::main]
async fn main() -> ExitCode {
    match run(Arguments::parse()).await {
        Ok(()) => ExitCode::SUCCESS,
        Err(message) => {
            eprintln!("demo: {message}");
            ExitCode::FAILURE
        }
    }
}

async fn run(arguments: Arguments) -> Result<(), String> {
    println!("Building tidegate and oss-sim ...");
    let binaries = servers::build().await?;
    let start = Instant::now();
    let root = arguments.input.map_or_else(input::cargo_sources, Ok)?;
    let files = input::collect(&root, arguments.max_mib << 20, arguments.max_files)?;
    let folder = tempfile::Builder::new().prefix("tidegate-demo-").tempdir();
    let mut folder = folder.map_err(|e| format!("cannot make a folder for the store: {e}"))?;
    // A failure leaves the logs behind; success removes all.
    folder.disable_cleanup(true);
    let shown = folder.path().display().to_string();
    let demo = Demo::start(&binaries, &folder, files).await;
    let done = match demo {
        Ok(demo) => demo.show().await,
        Err(e) => Err(e),
    };
    done.map_err(|e| format!("{e}\nThe store and the logs of both servers are in {shown}"))?;
    folder.disable_cleanup(arguments.keep);
    println!("\nDone in {:.0} s: every byte equal.", start.elapsed().as_secs_f64());
    Ok(())
}

struct Demo {
    world: servers::World,
    s3: S3,
    files: Vec<InputFile>,
    report: Vec<(String, String)>,
}

impl Demo {
    async fn start(
        binaries: &std::path::Path,
        folder: &tempfile::TempDir,
        files: Vec<InputFile>,
    ) -> Result<Demo, String> {
        let policy = servers::workspace().join(POLICY);
        let world = servers::World::start(binaries, folder.path(), &policy).await?;
        println!("tidegate serves S3 at {}, metrics at {}/metrics", world.endpoint, world.admin);
        let s3 = S3::new(&world.endpoint, servers::S3_KEY.0, servers::S3_KEY.1, servers::REGION)?;
        Ok(Demo { world, s3, files, report: Vec::new() })
    }

    async fn show(mut self) -> Result<(), String> {
        let path = format!("/{BUCKET}");
        let made = self.s3.call(reqwest::Method::PUT, &path, &[], &[], bytes::Bytes::new()).await?;
        made.ok("create the bucket")?;
        let sizes = self.upload_twice().await?;
        self.show_ia(&sizes).await?;
        self.show_archive(&sizes).await?;
        self.restore_and_compare(&sizes).await?;
        self.metrics().await?;
        self.costs(&sizes).await?;
        let mut table = Table::new();
        table.load_style(presets::UTF8_BORDERS_ONLY);
        for (what, how) in &self.report {
            table.add_row([what, how]);
        }
        println!("\n{table}");
        self.world.stop().await
    }

    fn note(&mut self, what: &str, how: String) {
        println!("  {what}: {how}");
        self.report.push((what.to_owned(), how));
    }

    /// Uploads both versions; the sizes of all objects.
    async fn upload_twice(&mut self) -> Result<Vec<u64>, String> {
        let mut sizes = Vec::new();
        for version in Version::ALL {
            let start = Instant::now();
            let bar = progress(&format!("upload of {}", version.folder()), self.files.len());
            let (s3, bar_of) = (&self.s3, &bar);
            let sent: Vec<u64> = stream::iter(self.files.clone())
                .map(|file| async move {
                    let body = file.content(version)?;
                    let size = body.len() as u64;
                    s3.put(BUCKET, &file.key(version), body).await?;
                    bar_of.inc(1);
                    Ok::<u64, String>(size)
                })
                .buffer_unordered(CONNECTIONS)
                .try_collect()
                .await?;
            bar.finish_and_clear();
            let bytes: u64 = sent.iter().sum();
            let how = format!("{} files, {} in {:.1} s", sent.len(), mib(bytes), start.elapsed().as_secs_f64());
            self.note(&format!("uploaded {}", version.folder()), how);
            sizes.extend(sent);
        }
        let stats = self.world.stats().await?;
        let (unique, stored) = (number(&stats, "/local/unique_bytes")?, number(&stats, "/local/stored_bytes")?);
        let logical: u64 = sizes.iter().sum();
        if number(&stats, "/logical_bytes")? != logical {
            return Err(format!("the server counts other bytes than the {logical} that were sent: {stats}"));
        }
        self.note("deduplicated", format!("{} -> {} ({:.2}:1)", mib(logical), mib(unique), ratio(logical, unique)));
        self.note("compressed", format!("{} -> {} ({:.2}:1)", mib(unique), mib(stored), ratio(unique, stored)));
        self.note("altogether", format!("{:.2}:1", ratio(logical, stored)));
        Ok(sizes)
    }

    /// Turns the clocks and waits until all objects are in `tier`.
    async fn move_to(&mut self, tier: &str, days: u64, sizes: &[u64]) -> Result<(), String> {
        let start = Instant::now();
        self.world.advance(days * DAY).await?;
        let all = sizes.len() as u64;
        let there = |stats: &Value| tier_stats(stats, tier).is_some_and(|t| t["objects"].as_u64() == Some(all));
        let stats = self.world.wait(&format!("all objects to be in {tier}"), MOVE_LIMIT, there).await?;
        let tier_now = tier_stats(&stats, tier).cloned().unwrap_or_default();
        let stored = tier_now["stored_bytes"].as_u64().unwrap_or_default();
        let packs = tier_now["packs"].as_u64().unwrap_or_default();
        let took = start.elapsed().as_secs_f64();
        self.note(&format!("moved to {tier}"), format!("{all} objects in {packs} packs, {}, {took:.1} s", mib(stored)));
        Ok(())
    }

    async fn show_ia(&mut self, sizes: &[u64]) -> Result<(), String> {
        println!("\nThe clocks go forward: {TO_IA} days after the upload ...");
        self.move_to("ia", TO_IA, sizes).await?;
        let lost = self.world.lose_local_packs().await?;
        self.note("local packs deleted", format!("{}: from here on the cloud has the only copy", mib(lost)));
        let file = self.largest()?;
        let key = file.key(Version::Second);
        let head = self.s3.head(BUCKET, &key).await?;
        if head.header("x-amz-storage-class") != "STANDARD_IA" {
            return Err(format!("{key} shows the class {:?}", head.header("x-amz-storage-class")));
        }
        let answer = self.s3.get(BUCKET, &key).await?.ok(&key)?;
        if answer.body != file.content(Version::Second)? {
            return Err(format!("{key} read from IA differs from the input"));
        }
        self.note("read from IA", format!("{key}, {}, equal", mib(answer.body.len() as u64)));
        Ok(())
    }

    async fn show_archive(&mut self, sizes: &[u64]) -> Result<(), String> {
        println!("\n... and {TO_ARCHIVE} days after the upload ...");
        self.move_to("archive", TO_ARCHIVE - TO_IA, sizes).await?;
        let key = self.largest()?.key(Version::First);
        let head = self.s3.head(BUCKET, &key).await?;
        if head.header("x-amz-storage-class") != "GLACIER" {
            return Err(format!("{key} shows the class {:?}", head.header("x-amz-storage-class")));
        }
        let answer = self.s3.get(BUCKET, &key).await?;
        if (answer.status.as_u16(), answer.code().as_str()) != (403, "InvalidObjectState") {
            return Err(format!("GET of the archived {key} was answered with {} {}", answer.status, answer.code()));
        }
        self.note("read from Archive", "403 InvalidObjectState: restore it first".to_owned());
        Ok(())
    }

    /// Restores everything, reads it back, compares every byte with the input.
    async fn restore_and_compare(&mut self, sizes: &[u64]) -> Result<(), String> {
        println!("\nRestore of everything ...");
        self.world.lose_local_packs().await?;
        let keys: Vec<String> = self.files.iter().flat_map(|f| Version::ALL.map(|v| f.key(v))).collect();
        let start = Instant::now();
        let s3 = &self.s3;
        let asked = stream::iter(&keys).map(|key| s3.restore(BUCKET, key)).buffer_unordered(CONNECTIONS);
        let accepted: Vec<_> = asked.try_collect().await?;
        let promised = accepted.iter().filter(|status| matches!(status.as_u16(), 200 | 202)).count();
        let first = keys.first().ok_or("there is no key")?;
        let state = self.s3.head(BUCKET, first).await?.header("x-amz-restore").to_owned();
        println!("  RestoreObject: {promised} of {} accepted; x-amz-restore: {state}", keys.len());
        if promised != keys.len() || !state.starts_with("ongoing-request=") {
            return Err(format!("not every restore was accepted: {accepted:?}"));
        }
        let all = sizes.len() as u64;
        self.thaw(all).await?;
        let state = self.s3.head(BUCKET, first).await?.header("x-amz-restore").to_owned();
        if !state.starts_with("ongoing-request=\"false\", expiry-date=") {
            return Err(format!("{first} is restored, but x-amz-restore says {state:?}"));
        }
        self.note("restored", format!("{all} objects in {:.1} s; {state}", start.elapsed().as_secs_f64()));
        let bar = progress("comparison with the input", keys.len());
        let (s3, bar_of) = (&self.s3, &bar);
        let pairs = self.files.iter().flat_map(|file| Version::ALL.map(|version| (file, version)));
        let compared: Vec<u64> = stream::iter(pairs)
            .map(|(file, version)| async move {
                let key = file.key(version);
                let answer = s3.get(BUCKET, &key).await?.ok(&key)?;
                if answer.body != file.content(version)? {
                    return Err(format!("{key} differs from the input"));
                }
                bar_of.inc(1);
                Ok(answer.body.len() as u64)
            })
            .buffer_unordered(CONNECTIONS)
            .try_collect()
            .await?;
        bar.finish_and_clear();
        let bytes: u64 = compared.iter().sum();
        if bytes != sizes.iter().sum::<u64>() {
            return Err(format!("{bytes} bytes came back, other than were sent"));
        }
        self.note("compared", format!("{} objects, {}: every byte equal", compared.len(), mib(bytes)));
        Ok(())
    }

    /// Turns the clocks until all objects are restored. By the hour, for a pack whose thaw was asked for only after the
    /// clocks had been turned takes its time from then on.
    async fn thaw(&mut self, all: u64) -> Result<(), String> {
        let restored = |stats: &Value| stats.pointer("/restored/objects").and_then(Value::as_u64) == Some(all);
        let mut last = Ok(());
        for _ in 0..THAW_HOURS {
            self.world.advance(3600).await?;
            last = self.world.wait("all objects to be restored", THAW_LIMIT, restored).await.map(drop);
            if last.is_ok() {
                break;
            }
        }
        last
    }

    /// Scrapes `/metrics` and shows the figures that an operator would look at first.
    async fn metrics(&mut self) -> Result<(), String> {
        let page = self.world.page("/metrics").await?;
        let lines: Vec<&str> = page.lines().filter(|line| line.starts_with("tidegate_")).collect();
        if lines.is_empty() {
            return Err("/metrics shows nothing of tidegate".to_owned());
        }
        let restored = "tidegate_objects{residency=\"restored\",tier=\"archive\"} ";
        let counted = lines.iter().find_map(|line| line.strip_prefix(restored)?.parse::<usize>().ok());
        let all = self.files.len() * Version::ALL.len();
        if counted != Some(all) {
            return Err(format!("/metrics counts {counted:?} restored objects, {all} were restored"));
        }
        println!("\n/metrics has {} series, among them:", lines.len());
        let shown = |line: &&&str| {
            !line.contains("_bucket{") && ["tier", "lag", "unique", "dirty"].iter().any(|w| line.contains(w))
        };
        for line in lines.iter().filter(shown).take(14) {
            println!("  {line}");
        }
        let status = std::fs::read_to_string(format!("/proc/{}/status", self.world.pid)).unwrap_or_default();
        if let Some(peak) = status.lines().find_map(|line| line.strip_prefix("VmHWM:")) {
            self.note("peak memory of tidegate", peak.trim().to_owned());
        }
        Ok(())
    }

    async fn costs(&mut self, sizes: &[u64]) -> Result<(), String> {
        println!("\nWhat the cloud bills (CNY, prices of {}):", cost::AS_OF);
        let packed = cost::of_ledger(&self.world.ledger().await?)?;
        let hours = |days: u64| (days * 24) as f64;
        let each = cost::one_object_each(sizes, hours(TO_ARCHIVE - TO_IA), 1.0);
        let stats = self.world.stats().await?;
        let archive = tier_stats(&stats, "archive").cloned().unwrap_or_default();
        let (packs, stored) = (archive["packs"].as_u64().unwrap_or(0), archive["stored_bytes"].as_u64().unwrap_or(0));
        let mean = stored.checked_div(packs).unwrap_or(0);
        let month = cost::archive_month(std::iter::repeat_n(mean, usize::try_from(packs).unwrap_or(0)));
        let month_each = cost::archive_month(sizes.iter().copied());
        let mut table = Table::new();
        table.load_style(presets::UTF8_FULL_CONDENSED).set_header([
            "",
            "packed (ledger)",
            "one object each (arithmetic)",
        ]);
        let money = |sum: f64| format!("{sum:.6}");
        table.add_row(["objects in the cloud".to_owned(), packs.to_string(), sizes.len().to_string()]);
        table.add_row(["requests".to_owned(), format!("{:.0}", packed.requests), format!("{:.0}", each.requests)]);
        table.add_row(["requests, CNY".to_owned(), money(packed.request_cost), money(each.request_cost)]);
        table.add_row(["storage, CNY".to_owned(), money(packed.storage_cost), money(each.storage_cost)]);
        table.add_row(["retrieval, CNY".to_owned(), money(packed.retrieval_cost), money(each.retrieval_cost)]);
        table.add_row(["altogether, CNY".to_owned(), money(packed.total()), money(each.total())]);
        table.add_row(["each month in Archive, CNY".to_owned(), money(month), money(month_each)]);
        println!("{table}");
        let saving = if packed.total() > 0.0 { each.total() / packed.total() } else { 0.0 };
        let how = format!("{} packed, {} one object each: {saving:.1}:1", money(packed.total()), money(each.total()));
        self.report.push(("cloud bill, CNY".to_owned(), how));
        Ok(())
    }

    fn largest(&self) -> Result<InputFile, String> {
        let size = |file: &&InputFile| std::fs::metadata(&file.path).map_or(0, |m| m.len());
        self.files.iter().max_by_key(size).cloned().ok_or_else(|| "there is no file".to_owned())
    }
}

fn tier_stats<'a>(stats: &'a Value, name: &str) -> Option<&'a Value> {
    stats.get("tiers")?.as_array()?.iter().find(|tier| tier["name"] == name)
}

fn number(stats: &Value, pointer: &str) -> Result<u64, String> {
    stats.pointer(pointer).and_then(Value::as_u64).ok_or_else(|| format!("no {pointer} in the stats: {stats}"))
}

fn mib(bytes: u64) -> String {
    format!("{:.1} MiB", bytes as f64 / (1u64 << 20) as f64)
}

fn ratio(before: u64, after: u64) -> f64 {
    if after == 0 { 1.0 } else { before as f64 / after as f64 }
}

fn progress(what: &str, count: usize) -> ProgressBar {
    let style = ProgressStyle::with_template("  {msg} {bar:40} {pos}/{len} {elapsed}");
    let bar = ProgressBar::new(count as u64).with_message(what.to_owned());
    if let Ok(style) = style { bar.with_style(style) } else { bar }
}
