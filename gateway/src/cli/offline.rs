//! Commands that need no server: checks, and those that take the lock of the store themselves.

use super::{Exit, Failure};
use crate::config::units::show_size;
use crate::config::{Config, PolicyError, Problem, check as check_config, read_policy};
use crate::output::{Output, render};
use serde_json::json;
use std::path::Path;
use tidegate_policies::{Diagnostic, Severity};
use tidegate_tiering::clock::SystemClock;
use tidegate_tiering::engine::{IndexRebuilt, JournalChange, JournalLine, describe_op};
use tidegate_tiering::meta;

/// `tidegate check`.
pub fn check(name: &str, config: &Config, output: &Output) -> Exit {
    let (problems, diagnostics) = check_config(name, config);
    show_problems(&problems, &diagnostics, output)
}

/// Prints findings; exit code 3 when one of them is an error.
pub fn show_problems(problems: &[Problem], diagnostics: &[Diagnostic], output: &Output) -> Exit {
    let errors = problems.len() + diagnostics.iter().filter(|d| d.severity == Severity::Error).count();
    let report = json!({ "ok": errors == 0, "problems": problems, "policy": diagnostics });
    output.show(&report, |_| {
        let mut text = String::new();
        for line in problems.iter().map(ToString::to_string).chain(diagnostics.iter().map(ToString::to_string)) {
            text.push_str(&line);
            text.push('\n');
        }
        text.push_str(&match errors {
            0 => "ok\n".to_owned(),
            1 => "1 problem\n".to_owned(),
            n => format!("{n} problems\n"),
        });
        text
    });
    if errors == 0 { Exit::Ok } else { Exit::Problems }
}

/// `tidegate policy check`: against the tiers of `config` when there is one.
pub fn check_policy(file: &Path, config: Option<&Config>, output: &Output) -> Result<Exit, Failure> {
    let found = match config {
        Some(config) => read_policy(config, file).map(|(_, _, warnings)| warnings),
        None => {
            let name = file.display().to_string();
            let text = std::fs::read_to_string(file)
                .map_err(|e| Failure::new(format!("the policy {name} cannot be read: {e}")))?;
            Ok(tidegate_policies::check(&name, &text, &tidegate_policies::CheckOptions::default()).diagnostics)
        }
    };
    match found {
        Ok(found) | Err(PolicyError::Wrong(found)) => Ok(show_problems(&[], &found, output)),
        Err(PolicyError::Unreadable(message)) => Err(Failure::new(message)),
    }
}

/// `tidegate journal dump`: record by record, as they are read. Takes no lock, for it only reads: beside a running server
/// it ends at some record near the end.
pub fn dump_journal(config: &Config, from: u64, limit: Option<u64>, output: &Output) -> Result<Exit, Failure> {
    need_store(config)?;
    let mut left = limit.unwrap_or(u64::MAX);
    let mut each = |record: meta::DumpedRecord| {
        if left == 0 {
            return;
        }
        left -= 1;
        let changes = record.ops.iter().map(|op| {
            let (table, key, value) = describe_op(op);
            JournalChange { table, key, value }
        });
        let line = JournalLine {
            sequence: record.seq,
            epoch: record.epoch,
            time: record.time,
            reason: record.reason.name().to_owned(),
            changes: changes.collect(),
        };
        if !output.line(&line, render::journal_line) {
            left = 0;
        }
    };
    meta::dump(&config.data_dir, from, &mut each).map_err(Failure::new)?;
    Ok(Exit::Ok)
}

/// `tidegate index rebuild`. Takes the lock; the error says who holds it.
pub fn rebuild_index(config: &Config, output: &Output) -> Result<Exit, Failure> {
    need_store(config)?;
    let bar = output.waiting("rebuild");
    let mut progress = |at: meta::RebuildProgress| match at {
        meta::RebuildProgress::Snapshot { entries } => {
            bar.set_message(format!("snapshot, {entries} entries"));
        }
        meta::RebuildProgress::Journal { bytes } => {
            bar.set_message(format!("journal, at most {}", show_size(bytes)));
        }
    };
    let settings = config.engine_settings();
    let clock = SystemClock::kept_in(config.clock_file()).map_err(|e| Failure::new(format!("the clock: {e}")))?;
    let made = meta::rebuild(&config.data_dir, &settings.meta, &clock, &mut progress);
    bar.finish_and_clear();
    let made = made.map_err(Failure::new)?;
    let notes = made.torn_tail.iter().map(|tail| format!("a torn tail of the journal was cut off: {tail:?}")).collect();
    let report = IndexRebuilt { snapshot: made.snapshot, records: made.records, last_sequence: made.last_seq, notes };
    output.show(&report, render::rebuild);
    Ok(Exit::Ok)
}

/// A mistyped directory must not be answered by making an empty store there.
fn need_store(config: &Config) -> Result<(), Failure> {
    if config.data_dir.is_dir() {
        return Ok(());
    }
    let dir = config.data_dir.display();
    Err(Failure::new(format!("there is no store at {dir}; name its data with --config FILE or --data-dir DIR")))
}
