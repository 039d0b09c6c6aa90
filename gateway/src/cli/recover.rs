//! `tidegate recover`: a data directory from the cloud. Needs the configuration's tiers, and no server.

use super::args::Recover;
use super::serve::build_tiers;
use super::{Exit, Failure};
use crate::config::Config;
use crate::config::units::show_size;
use crate::output::{Output, render};
use indicatif::ProgressBar;
use serde_json::json;
use std::sync::Arc;
use tidegate_tiering::clock::{Clock, SystemClock};
use tidegate_tiering::meta::RebuildProgress;
use tidegate_tiering::recovery::{MissingObject, RecoverProgress, RecoverRequest, recover as run};

/// `tidegate recover`.
pub fn recover(config: &Config, options: &Recover, output: &Output) -> Result<Exit, Failure> {
    let clock: Arc<dyn Clock> = Arc::new(SystemClock::default());
    let tiers = build_tiers(config, &clock, None)?;
    let request = RecoverRequest {
        from: options.from.clone(),
        tiers: &tiers,
        deployment: options.deployment.clone(),
        data_dir: options.data_dir.clone().unwrap_or_else(|| config.data_dir.clone()),
        at: options.at,
        dry_run: options.dry_run,
        settings: config.engine_settings().meta,
        clock,
    };
    let runtime = tokio::runtime::Builder::new_multi_thread()
        .worker_threads(2)
        .enable_all()
        .build()
        .map_err(|e| Failure::new(format!("cannot start a runtime: {e}")))?;
    let shown = Progress::new(output);
    let mut progress = |at| shown.show(at);
    // Line by line: there may be as many as there are objects. A reader that went away changes nothing.
    let mut missing = |object: &MissingObject| {
        output.line(&json!({ "missing": object }), |_| render::missing(object));
    };
    let report = runtime.block_on(Box::pin(run(&request, &mut progress, &mut missing)));
    drop(shown);
    let report = report.map_err(Failure::new)?;
    output.line(&json!({ "report": report }), |_| render::recovered(&report));
    Ok(Exit::Ok)
}

/// Shows how far the making of a data directory is.
pub(super) struct Progress {
    bar: ProgressBar,
    spinner: ProgressBar,
}

impl Progress {
    pub(super) fn new(output: &Output) -> Self {
        Self { bar: output.progress("fetch"), spinner: output.waiting("recover") }
    }

    pub(super) fn show(&self, at: RecoverProgress) {
        match at {
            RecoverProgress::Planned { bytes, .. } => self.bar.set_length(bytes),
            RecoverProgress::Fetched { bytes } => self.bar.inc(bytes),
            RecoverProgress::Index(RebuildProgress::Snapshot { entries }) => {
                self.spinner.set_message(format!("index: snapshot, {entries} entries"));
            }
            RecoverProgress::Index(RebuildProgress::Journal { bytes }) => {
                self.spinner.set_message(format!("index: journal, at most {}", show_size(bytes)));
            }
            RecoverProgress::Examined { objects } => self.spinner.set_message(format!("{objects} objects looked at")),
        }
    }
}

impl Drop for Progress {
    fn drop(&mut self) {
        self.bar.finish_and_clear();
        self.spinner.finish_and_clear();
    }
}
