//! Logs: to standard error, as text or JSON, filtered by level. Spans carry request ids; secrets are never logged
//! because their types do not show them.

use crate::config::{LogFormat, LogSettings};
use std::io::IsTerminal;
use tracing_subscriber::EnvFilter;

/// Crates below us that have much to say about what is ours to report. s3s says nothing: it logs every refused request
/// as an error, which our own line about the request tells better, and whole requests with their signatures at `debug`.
const QUIET: &str =
    "s3s=off,actix_server=warn,actix_http=warn,hyper=warn,hyper_util=warn,reqwest=warn,sled=warn,h2=warn,rustls=warn";

/// The filter of `settings`: a level for everything but the libraries below us, or a list of directives, which may name
/// those libraries too.
///
/// # Errors
/// The level is not one, in words.
pub fn filter(settings: &LogSettings) -> Result<EnvFilter, String> {
    let level = settings.level.as_deref().unwrap_or("info");
    let plain = ["error", "warn", "info", "debug", "trace", "off"].contains(&level.to_ascii_lowercase().as_str());
    if !plain && !level.contains(['=', ',']) {
        return Err(format!("{level:?} is not a level"));
    }
    // Of two directives for one target the later holds.
    EnvFilter::builder()
        .parse(format!("{QUIET},{level}"))
        .map_err(|e| format!("{level:?} is not a filter of logs ({e})"))
}

/// Starts logging for this process.
///
/// # Errors
/// The level is not one, or logging was started before.
pub fn start(settings: &LogSettings) -> Result<(), String> {
    let filter = filter(settings)?;
    // What cannot be logged (a log on a full disk) would be said on standard error, which is the log, and a failure of that
    // is a panic: of the request whose line it was.
    let builder =
        tracing_subscriber::fmt().with_env_filter(filter).with_writer(std::io::stderr).log_internal_errors(false);
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

    #[test]
    fn the_libraries_below_are_quiet_until_they_are_named() {
        let shown = |level: &str| {
            let text = filter(&settings(level)).unwrap().to_string();
            text.split(',').map(str::to_owned).collect::<Vec<_>>()
        };
        for level in ["info", "debug", "info,tidegate_gateway=debug"] {
            let directives = shown(level);
            assert!(directives.contains(&"s3s=off".to_owned()), "{directives:?}");
            assert!(directives.contains(&"actix_server=warn".to_owned()), "{directives:?}");
        }
        let named = shown("info,s3s=error");
        assert!(named.contains(&"s3s=error".to_owned()) && !named.contains(&"s3s=off".to_owned()), "{named:?}");
    }
}
