//! `tidegate recover`: a data directory from the cloud. Needs the configuration's tiers, and no server.

use super::args::Recover;
use super::{Exit, Failure};
use crate::config::Config;
use crate::config::units::show_size;
use crate::output::{Output, render};
use serde_json::json;
use std::collections::BTreeMap;
use std::sync::Arc;
use tidegate_tiering::clock::{Clock, SystemClock};
use tidegate_tiering::meta::RebuildProgress;
use tidegate_tiering::recovery::{MissingObject, RecoverProgress, RecoverRequest, recover as run};
use tidegate_tiering::tier::{self, Tier};

/// `tidegate recover`.
pub fn recover(config: &Config, options: &Recover, output: &Output) -> Result<Exit, Failure> {
    let clock: Arc<dyn Clock> = Arc::new(SystemClock::default());
    let env = |name: &str| std::env::var(name).ok();
    let mut tiers: BTreeMap<String, Arc<dyn Tier>> = BTreeMap::new();
    for (name, settings) in &config.tiers {
        let tier = tier::build(name, settings, Arc::clone(&clock), &env, None)
            .map_err(|e| Failure::new(format!("tier {name}: {e}")))?;
        tiers.insert(name.clone(), tier);
    }
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
    let (bar, spinner) = (output.progress("fetch"), output.waiting("recover"));
    let mut progress = |at: RecoverProgress| match at {
        RecoverProgress::Planned { bytes, .. } => bar.set_length(bytes),
        RecoverProgress::Fetched { bytes } => bar.inc(bytes),
        RecoverProgress::Index(RebuildProgress::Snapshot { entries }) => {
            spinner.set_message(format!("index: snapshot, {entries} entries"));
        }
        RecoverProgress::Index(RebuildProgress::Journal { bytes }) => {
            spinner.set_message(format!("index: journal, at most {}", show_size(bytes)));
        }
        RecoverProgress::Examined { objects } => spinner.set_message(format!("{objects} objects looked at")),
    };
    // Line by line: there may be as many as there are objects. A reader that went away changes nothing.
    let mut missing = |object: &MissingObject| {
        output.line(&json!({ "missing": object }), |_| render::missing(object));
    };
    let report = runtime.block_on(Box::pin(run(&request, &mut progress, &mut missing)));
    bar.finish_and_clear();
    spinner.finish_and_clear();
    let report = report.map_err(Failure::new)?;
    output.line(&json!({ "report": report }), |_| render::recovered(&report));
    Ok(Exit::Ok)
}
