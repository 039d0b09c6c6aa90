//! Logs: to standard error, as text or JSON, filtered by level. Spans carry request ids; secrets are never logged
//! because their types do not show them.

use crate::config::{LogFormat, LogSettings};
use std::io::IsTerminal;
use tracing_subscriber::EnvFilter;

/// Crates below us that have much to say at `info` about what is ours to report.
const QUIET: &str =
    "actix_server=warn,actix_http=warn,hyper=warn,hyper_util=warn,reqwest=warn,sled=warn,h2=warn,rustls=warn";

/// The filter of `settings`. A level without a dot or comma applies to everything but the libraries below us.
///
/// # Errors
/// The level is not one, in words.
pub fn filter(settings: &LogSettings) -> Result<EnvFilter, String> {
    let level = settings.level.as_deref().unwrap_or("info");
    let plain = ["error", "warn", "info", "debug", "trace", "off"].contains(&level.to_ascii_lowercase().as_str());
    if !plain && !level.contains(['=', ',']) {
        return Err(format!("{level:?} is not a level"));
    }
    let directives = if plain { format!("{level},{QUIET}") } else { level.to_owned() };
    EnvFilter::builder().parse(&directives).map_err(|e| format!("{level:?} is not a filter of logs ({e})"))
}

/// Starts logging for this process.
///
/// # Errors
/// The level is not one, or logging was started before.
pub fn start(settings: &LogSettings) -> Result<(), String> {
    let filter = filter(settings)?;
    let builder = tracing_subscriber::fmt().with_env_filter(filter).with_writer(std::io::stderr);
    let started = match settings.format {
        LogFormat::Text => builder.with_ansi(std::io::stderr().is_terminal()).try_init(),
        LogFormat::Json => builder.json().flatten_event(true).with_current_span(true).with_span_list(false).try_init(),
    };
    started.map_err(|e| e.to_string())
}

#[cfg(test)]
mod tests {
    use super::*;

    fn settings(level: &str) -> LogSettings {
        LogSettings { format: LogFormat::Text, level: Some(level.to_owned()) }
    }

    #[test]
    fn levels_and_filters_are_accepted_and_other_words_are_not() {
        for good in ["error", "INFO", "debug", "info,tidegate_tiering=debug", "warn,tidegate_gateway::admin=trace"] {
            assert!(filter(&settings(good)).is_ok(), "{good}");
        }
        for bad in ["loud", "", "info,=,x=loud"] {
            assert!(filter(&settings(bad)).is_err(), "{bad}");
        }
    }
}
