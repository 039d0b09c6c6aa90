//! Runs `sim` in processes of its own: the engine's failpoints and mutants are a process's.
#![allow(dead_code, clippy::unwrap_used, clippy::panic)] // each test file uses its part

use std::collections::BTreeMap;
use std::process::{Child, Command, Stdio};

/// How many run side by side.
pub fn processors() -> u64 {
    std::thread::available_parallelism().map_or(2, |n| n.get() as u64)
}

pub fn start(args: &[String]) -> Child {
    Command::new(env!("CARGO_BIN_EXE_sim")).args(args).stdout(Stdio::piped()).stderr(Stdio::null()).spawn().unwrap()
}

/// What a run printed: sums by name, and the first failure.
pub fn ended(child: Child) -> (BTreeMap<String, u64>, Option<String>) {
    let output = child.wait_with_output().unwrap();
    let text = String::from_utf8_lossy(&output.stdout).into_owned();
    let mut sums = BTreeMap::new();
    for (name, count) in text.lines().filter_map(|line| line.split_once('=')) {
        if let Ok(count) = count.parse() {
            sums.insert(name.to_owned(), count);
        }
    }
    let failure = text.lines().find(|line| line.starts_with("FAILED")).map(str::to_owned);
    let failure = failure.or_else(|| (!output.status.success()).then(|| format!("{}: {text}", output.status)));
    (sums, failure)
}

/// Stories of the seeds from `first` on, on all processors.
pub fn stories(first: u64, count: u64, more: &[String]) -> (BTreeMap<String, u64>, Vec<String>) {
    let lanes = processors().min(count.max(1));
    let children: Vec<Child> = (0..lanes)
        .map(|lane| {
            let share = count / lanes + u64::from(lane < count % lanes);
            let args = [format!("--seed={}", first + lane), format!("--count={share}"), format!("--every={lanes}")];
            start(&[&args[..], more].concat())
        })
        .collect();
    let (mut sums, mut failures) = (BTreeMap::new(), Vec::new());
    for (more, failure) in children.into_iter().map(ended) {
        more.into_iter().for_each(|(name, count)| *sums.entry(name).or_insert(0) += count);
        failures.extend(failure);
    }
    (sums, failures)
}
