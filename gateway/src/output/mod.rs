//! What commands print: tables for people, JSON for programs. A closed pipe is not an error.

pub mod render;
mod render_fsck;
mod render_recover;
mod render_scrub;
mod render_tier;
mod render_users;

use comfy_table::{ContentArrangement, Table, presets};
use indicatif::{ProgressBar, ProgressStyle};
use serde::Serialize;
use std::io::{IsTerminal, Write};

/// How to print. Cheap to clone.
#[derive(Debug, Clone)]
pub struct Output {
    json: bool,
}

impl Output {
    /// JSON or text.
    pub fn new(json: bool) -> Self {
        Self { json }
    }

    /// Prints `value` as JSON, or as the text that `text` makes of it.
    pub fn show<T: Serialize>(&self, value: &T, text: impl FnOnce(&T) -> String) {
        if self.json { self.json(value) } else { self.raw(&text(value)) }
    }

    /// Prints one of many values on one line. False: nobody reads any more.
    pub fn line<T: Serialize>(&self, value: &T, text: impl FnOnce(&T) -> String) -> bool {
        let mut line = if self.json { serde_json::to_string(value).unwrap_or_default() } else { text(value) };
        if !line.ends_with('\n') {
            line.push('\n');
        }
        std::io::stdout().write_all(line.as_bytes()).is_ok()
    }

    /// Prints `value` as JSON for people to read.
    pub fn json<T: Serialize>(&self, value: &T) {
        match serde_json::to_string_pretty(value) {
            Ok(text) => self.raw(&format!("{text}\n")),
            Err(e) => self.error(&format!("cannot be written as JSON: {e}")),
        }
    }

    /// Prints text as it is. A reader that went away (`| head`) is no failure.
    pub fn raw(&self, text: &str) {
        let mut out = std::io::stdout().lock();
        let _ = out.write_all(text.as_bytes()).and_then(|()| out.flush());
    }

    /// What a server says on standard output, which may be a file that is read while it runs: with `--json` one line.
    pub fn say<T: Serialize>(&self, value: &T, text: impl FnOnce(&T) -> String) {
        // Nobody reads any more: the server goes on.
        let _ = self.line(value, text) && std::io::stdout().flush().is_ok();
    }

    /// Tells something on standard error, beside the result.
    pub fn note(&self, text: &str) {
        let _ = std::io::stderr().write_all(text.as_bytes());
    }

    /// Prints an error to standard error, as JSON with `--json`.
    pub fn error(&self, message: &str) {
        let text =
            if self.json { serde_json::json!({ "error": message }).to_string() } else { format!("error: {message}") };
        let _ = writeln!(std::io::stderr(), "{text}");
    }

    /// A sign that work goes on of which nobody knows how long it takes, with the time so far; on a terminal only.
    pub fn waiting(&self, what: &'static str) -> ProgressBar {
        let bar = self.bar("{spinner} {prefix} {elapsed} {msg}", what);
        if !bar.is_hidden() {
            bar.enable_steady_tick(TICK);
        }
        bar
    }

    /// A bar for long work on a known number of bytes, on a terminal only.
    pub fn progress(&self, what: &'static str) -> ProgressBar {
        self.bar("{prefix} {wide_bar} {binary_bytes}/{binary_total_bytes} {binary_bytes_per_sec} {eta} {msg}", what)
    }

    fn bar(&self, template: &str, what: &'static str) -> ProgressBar {
        if self.json || !std::io::stderr().is_terminal() {
            return ProgressBar::hidden();
        }
        let style = ProgressStyle::with_template(template).unwrap_or_else(|_| ProgressStyle::default_bar());
        ProgressBar::new(0).with_style(style).with_prefix(what)
    }
}

/// How often a sign of work that tells nothing of its length moves.
const TICK: std::time::Duration = std::time::Duration::from_millis(120);

/// Below this many columns a table is not squeezed into the terminal: one that does not know its width tells 0, and columns
/// of single letters help nobody.
const NARROWEST: u16 = 40;

/// A table in the house's style: rules on a terminal, columns and spaces elsewhere, so that `awk` and `diff` work.
pub fn table<const N: usize>(head: [&str; N]) -> Table {
    let mut table = Table::new();
    if std::io::stdout().is_terminal() {
        table.load_style(presets::UTF8_FULL_CONDENSED);
        if table.width().is_some_and(|width| width >= NARROWEST) {
            table.set_content_arrangement(ContentArrangement::Dynamic);
        }
    } else {
        table.load_style(presets::NOTHING);
    }
    table.set_header(head);
    table
}
