//! `tidegate recover`: a data directory from the cloud. Needs the configuration's tiers, and no server.

use super::args::Recover;
use super::serve::build_tiers;
use super::{Exit, Failure};
use crate::config::Config;
use crate::config::units::show_size;
use crate::output::{Output, render};
use indicatif::ProgressBar;
use serde_json::json;
use std::collections::BTreeMap;
use std::path::PathBuf;
use std::sync::Arc;
use tidegate_tiering::clock::{Clock, SystemClock};
use tidegate_tiering::meta::RebuildProgress;
use tidegate_tiering::recovery::{
    FromPacks, MissingObject, News, RecoverProgress, RecoverRequest, recover as run, recover_from_packs,
};
use tidegate_tiering::tier::Tier;

/// What both ways of recovering need.
struct World {
    clock: Arc<dyn Clock>,
    tiers: BTreeMap<String, Arc<dyn Tier>>,
    data_dir: PathBuf,
    runtime: tokio::runtime::Runtime,
    shown: Progress,
}

/// `tidegate recover`.
pub fn recover(config: &Config, options: &Recover, output: &Output) -> Result<Exit, Failure> {
    let clock: Arc<dyn Clock> = Arc::new(SystemClock::default());
    let tiers = build_tiers(config, &clock, None)?;
    let runtime = tokio::runtime::Builder::new_multi_thread()
        .worker_threads(2)
        .enable_all()
        .build()
        .map_err(|e| Failure::new(format!("cannot start a runtime: {e}")))?;
    let data_dir = options.data_dir.clone().unwrap_or_else(|| config.data_dir.clone());
    let shown = Progress::new(output);
    let world = World { clock, tiers, data_dir, runtime, shown };
    match &options.from {
        Some(from) => world.shipped(config, (from, options), output),
        None => world.packs(config, options, output),
    }
}

/// Line by line: there may be as many as there are objects. A reader that went away changes nothing.
fn say_missing(output: &Output, object: &MissingObject) {
    output.line(&json!({ "missing": object }), |_| render::missing(object));
}

impl World {
    fn shipped(&self, config: &Config, (from, options): (&str, &Recover), output: &Output) -> Result<Exit, Failure> {
        let request = RecoverRequest {
            from: from.to_owned(),
            tiers: &self.tiers,
            deployment: options.deployment.clone(),
            data_dir: self.data_dir.clone(),
            at: options.at,
            dry_run: options.dry_run,
            settings: config.engine_settings().meta,
            clock: Arc::clone(&self.clock),
        };
        let mut progress = |at: RecoverProgress| self.shown.show(at);
        let mut missing = |object: &MissingObject| say_missing(output, object);
        let report = self.runtime.block_on(Box::pin(run(&request, &mut progress, &mut missing)));
        let report = report.map_err(Failure::new)?;
        self.shown.clear();
        output.line(&json!({ "report": report }), |_| render::recovered(&report));
        Ok(Exit::Ok)
    }

    fn packs(&self, config: &Config, options: &Recover, output: &Output) -> Result<Exit, Failure> {
        let request = FromPacks {
            tiers: &self.tiers,
            only: options.tier.clone(),
            recovery: config.recovery.as_ref().map(|recovery| recovery.tier.clone()),
            deployment: options.deployment.clone(),
            data_dir: self.data_dir.clone(),
            dry_run: options.dry_run,
            thaw: options.thaw,
            settings: config.engine_settings().meta,
            clock: Arc::clone(&self.clock),
        };
        let mut tell = |news: News<'_>| match news {
            News::Progress(at) => self.shown.show(at),
            News::Missing(object) => say_missing(output, object),
            News::Pack(pack) => {
                output.line(&json!({ "pack": pack }), |_| render::odd_pack(pack));
            }
        };
        let report = self.runtime.block_on(Box::pin(recover_from_packs(&request, &mut tell)));
        let report = report.map_err(Failure::new)?;
        self.shown.clear();
        output.line(&json!({ "report": report }), |_| render::from_packs(&report));
        Ok(Exit::Ok)
    }
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
            RecoverProgress::Packs { done, of } => self.spinner.set_message(format!("{done} of {of} packs asked")),
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

impl Progress {
    fn clear(&self) {
        self.bar.finish_and_clear();
        self.spinner.finish_and_clear();
    }
}

impl Drop for Progress {
    fn drop(&mut self) {
        self.clear();
    }
}
