//! Commands about a tier that need its configuration only: no server, no store.

use super::args::Conformance as Options;
use super::{Exit, Failure};
use crate::config::Config;
use crate::output::{Output, render};
use std::path::Path;
use std::sync::Arc;
use tidegate_tiering::clock::SystemClock;
use tidegate_tiering::tier::TierSettings;
use tidegate_tiering::tier::oss::conformance::{Conformance, ConformanceRecord};
use tidegate_tiering::tier::oss::{OssSettings, RamPolicy, RamPurpose};

/// The settings of an OSS tier.
fn oss<'a>(config: &'a Config, name: &str) -> Result<&'a OssSettings, Failure> {
    match config.tiers.get(name) {
        Some(TierSettings::Oss(settings)) => Ok(settings),
        Some(_) => {
            Err(Failure::new(format!("tier {name:?} is not of type oss, and nothing else is known to this command")))
        }
        None => {
            let known: Vec<&str> = config.tiers.keys().map(String::as_str).collect();
            Err(Failure::new(format!(
                "there is no tier {name:?}; configured: {}. Name the configuration with --config FILE",
                known.join(", ")
            )))
        }
    }
}

/// `tidegate tier ram-policy`: the document as RAM takes it, with and without `--json`.
pub fn ram_policy(
    config: &Config,
    tier: &str,
    (conformance, versions): (bool, bool),
    output: &Output,
) -> Result<Exit, Failure> {
    let mut purposes = vec![RamPurpose::Engine, RamPurpose::Probe];
    purposes.extend(conformance.then_some(RamPurpose::Conformance));
    purposes.extend(versions.then_some(RamPurpose::Versions));
    let policy = RamPolicy::least(oss(config, tier)?, &purposes).map_err(Failure::new)?;
    output.json(&policy);
    Ok(Exit::Ok)
}

/// `tidegate tier conformance`.
pub fn conformance(config: &Config, options: &Options, output: &Output) -> Result<Exit, Failure> {
    let settings = oss(config, &options.tier)?;
    let env = |name: &str| std::env::var(name).ok();
    let run =
        Conformance::new(&options.tier, settings, Arc::new(SystemClock::default()), &env).map_err(Failure::new)?;
    let plan = run.plan();
    if options.dry_run {
        output.show(&plan, render::conformance_plan);
        return Ok(Exit::Ok);
    }
    if let Some(file) = &options.record {
        // Found out before anything is written to the bucket and paid for.
        std::fs::File::options().create(true).append(true).open(file).map_err(|e| unwritable(file, &e))?;
    }
    // To standard error, so that the report alone is on standard output.
    output.note(&render::conformance_plan(&plan));
    let runtime = tokio::runtime::Builder::new_current_thread()
        .enable_all()
        .build()
        .map_err(|e| Failure::new(format!("cannot start a runtime: {e}")))?;
    let (report, record) = runtime.block_on(Box::pin(run.run(stopped())));
    output.show(&report, render::conformance);
    if let Some(file) = &options.record {
        keep(file, &record)?;
    }
    Ok(match (report.ok, report.error.is_some()) {
        (true, _) => Exit::Ok,
        (false, true) => Exit::Failure,
        (false, false) => Exit::Problems,
    })
}

/// Ready when somebody asks the process to end: the clean-up must run all the same.
async fn stopped() {
    use tokio::signal::unix::{SignalKind, signal};
    let end = |kind| async move {
        match signal(kind) {
            Ok(mut signal) => {
                signal.recv().await;
            }
            // Without a handler the signal ends the process, as it does any other.
            Err(_) => std::future::pending().await,
        }
    };
    tokio::select! {
        () = end(SignalKind::interrupt()) => {}
        () = end(SignalKind::terminate()) => {}
        // The terminal went away, as when a connection to the machine breaks.
        () = end(SignalKind::hangup()) => {}
    }
}

fn keep(file: &Path, record: &ConformanceRecord) -> Result<(), Failure> {
    let mut text = serde_json::to_vec_pretty(record).map_err(Failure::new)?;
    text.push(b'\n');
    std::fs::write(file, text).map_err(|e| unwritable(file, &e))
}

fn unwritable(file: &Path, why: &std::io::Error) -> Failure {
    Failure::new(format!("the record {} cannot be written: {why}", file.display()))
}
