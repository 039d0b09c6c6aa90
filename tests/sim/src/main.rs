//! `sim`: stories one after the other, or one again.
#![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic)] // a test, which clippy.toml does not know as such

use clap::Parser;
use std::collections::BTreeMap;
use std::panic::AssertUnwindSafe;
use std::sync::{Arc, Mutex};
use std::time::{Duration, Instant};
use tidegate_tiering::mutants::{Mutant, choose};

/// Simulates the whole engine: workload, clock, faulty cloud, crashes, upkeep, recovery. Each seed is one story.
#[derive(Debug, Parser)]
struct Args {
    /// The first seed.
    #[arg(long, default_value_t = 1)]
    seed: u64,
    /// So many seeds, one after the other.
    #[arg(long, default_value_t = 1)]
    count: u64,
    /// Only every nth of them.
    #[arg(long, default_value_t = 1)]
    every: u64,
    /// Stop after so many seconds.
    #[arg(long)]
    seconds: Option<u64>,
    /// Let the engine forget this precaution.
    #[arg(long)]
    mutant: Option<String>,
    /// Print what happens.
    #[arg(long)]
    verbose: bool,
    /// Print a digest of each story.
    #[arg(long)]
    digest: bool,
    /// Print what the engine logs.
    #[arg(long)]
    logs: bool,
}

fn main() {
    let args = Args::parse();
    if args.logs {
        tracing_subscriber::fmt().with_writer(std::io::stderr).init();
    }
    choose(args.mutant.as_deref().map(|name| Mutant::named(name).unwrap_or_else(|| panic!("no mutant {name}"))));
    let (started, mut total) = (Instant::now(), BTreeMap::new());
    let mut seeds = 0u64;
    for n in 0..args.count {
        if args.seconds.is_some_and(|limit| started.elapsed() > Duration::from_secs(limit)) {
            break;
        }
        let seed = args.seed.wrapping_add(n * args.every);
        match tell(seed, &args) {
            Ok(stats) => stats.into_iter().for_each(|(name, count)| *total.entry(name).or_insert(0) += count),
            Err(what) => {
                println!("FAILED seed {seed}: {what}");
                println!("again: cargo run -p sim -- --seed {seed} --verbose");
                std::process::exit(1);
            }
        }
        seeds += 1;
    }
    println!("seeds={seeds}");
    for (name, count) in total {
        println!("{name}={count}");
    }
}

/// Runs one story; a panic is a failure like any other.
fn tell(seed: u64, args: &Args) -> Result<BTreeMap<&'static str, u64>, String> {
    let story: Arc<Mutex<Vec<String>>> = Arc::default();
    let told = std::panic::catch_unwind(AssertUnwindSafe(|| sim::run(seed, &story)));
    let lines = story.lock().map(|lines| lines.clone()).unwrap_or_else(|e| e.into_inner().clone());
    if args.verbose {
        lines.iter().for_each(|line| println!("  {line}"));
    }
    if args.digest {
        // How many steps a life had is not all the seed's: names are random, and with them the order of some work.
        let told: Vec<_> = lines.iter().filter(|line| !line.contains(" ends after ")).map(String::as_str).collect();
        println!("digest {seed} {}", blake3::hash(told.join("\n").as_bytes()));
    }
    match told {
        Ok(outcome) => outcome.map_err(|failure| failure.what),
        Err(panic) => {
            let text = panic.downcast_ref::<String>().cloned();
            let text = text.or_else(|| panic.downcast_ref::<&str>().map(|s| (*s).to_owned()));
            Err(format!("a panic: {}", text.unwrap_or_default()))
        }
    }
}
