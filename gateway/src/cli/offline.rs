//! Commands that need no server: checks, and those that take the lock of the store themselves.

use super::{Exit, Failure};
use crate::config::{Config, PolicyError, Problem, check as check_config, read_policy};
use crate::output::{Output, render};
use serde_json::json;
use std::path::Path;
use tidegate_policies::{Diagnostic, Severity};
use tidegate_tiering::engine::{Engine, JournalDumpRequest};

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

/// `tidegate journal dump`: one line per record, as it is read.
pub fn dump_journal(config: &Config, from: u64, limit: Option<usize>, output: &Output) -> Result<Exit, Failure> {
    need_store(config)?;
    let request = JournalDumpRequest { from, limit: limit.unwrap_or(usize::MAX) };
    Engine::dump_journal(&config.store, &request, |line| output.line(&line, render::journal_line))
        .map_err(Failure::new)?;
    Ok(Exit::Ok)
}

/// `tidegate index rebuild`.
pub fn rebuild_index(config: &Config, output: &Output) -> Result<Exit, Failure> {
    need_store(config)?;
    let bar = output.progress("rebuild", false);
    let report = Engine::rebuild_index(&config.store, |at| {
        bar.set_message(at.phase);
        if at.total > 0 {
            bar.set_length(at.total);
        }
        bar.set_position(at.done);
    });
    bar.finish_and_clear();
    output.show(&report.map_err(Failure::new)?, render::rebuild);
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
