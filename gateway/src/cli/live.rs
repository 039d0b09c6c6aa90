//! Commands that ask the live server.

use super::args::{ClockCommand, Command, Fsck, ObjectCommand, PolicyCommand, Scrub, TierCommand};
use super::client::AdminClient;
use super::{Exit, Failure};
use crate::admin::Reloaded;
use crate::admin::api::{Advance, ClockAnswer, FsckLine, ObjectName, PolicyAnswer, ProbeAnswer, ScrubLine};
use crate::config::Config;
use crate::output::{Output, render};
use reqwest::Response;
use serde::de::DeserializeOwned;
use serde_json::json;
use tidegate_tiering::engine::{
    FsckEstimate, FsckReport, FsckRequest, GcReport, GcRequest, ObjectStatusReport, PlanReport, PlanRequest,
    PromoteReport, RunDueReport, ScrubProgress, ScrubReport, ScrubRequest, StatsReport, TierPackReport, TierReport,
};

/// Longest line of a streamed answer, in bytes: a check's result names thousands of findings.
const MAX_LINE_BYTES: usize = 256 * 1024 * 1024;

/// Runs `command` against the server of `config`.
pub fn run(command: Command, config: &Config, output: &Output) -> Result<Exit, Failure> {
    let runtime = tokio::runtime::Builder::new_current_thread()
        .enable_all()
        .build()
        .map_err(|e| Failure::new(format!("cannot start a runtime: {e}")))?;
    let client = AdminClient::connect(&config.admin_socket())?;
    runtime.block_on(Box::pin(ask(command, &client, output)))
}

async fn ask(command: Command, client: &AdminClient, output: &Output) -> Result<Exit, Failure> {
    match command {
        Command::Stats => {
            let report: StatsReport = client.get("/stats", "").await?;
            output.show(&report, render::stats);
        }
        Command::Object(ObjectCommand::Status { object }) => {
            let name = ObjectName { bucket: object.bucket, key: object.key };
            let query = format!("?bucket={}&key={}", encode(&name.bucket), encode(&name.key));
            let report: ObjectStatusReport = client.get("/object", &query).await?;
            output.show(&report, render::object_status);
        }
        Command::Policy(command) => return policy(command, client, output).await,
        Command::Tier(command) => return tier(command, client, output).await,
        Command::Gc { dry_run } => {
            let bar = output.waiting("gc");
            let report: Result<GcReport, Failure> = client.post("/gc", &GcRequest { dry_run }).await;
            bar.finish_and_clear();
            let report = report?;
            output.show(&report, render::gc);
        }
        Command::Scrub(options) => return scrub(options, client, output).await,
        Command::Fsck(options) => return fsck(options, client, output).await,
        Command::Clock(ClockCommand::Advance { by }) => {
            let ms = u64::try_from(by.as_millis()).unwrap_or(u64::MAX);
            let answer: ClockAnswer = client.post("/clock/advance", &Advance { by: None, ms: Some(ms) }).await?;
            output.show(&answer, |answer| format!("now {}\n", answer.now));
        }
        Command::User(command) => return super::users::user(command, client, output).await,
        Command::Account(command) => return super::users::account(command, client, output).await,
        Command::Promote { yes } => return promote(yes, client, output).await,
        Command::RunDue => {
            let report: RunDueReport = client.post("/run-due", &json!({})).await?;
            output.show(&report, |r| format!("{} objects were due, {} jobs are open\n", r.due, r.jobs_open));
        }
        // Dispatched before this; naming them keeps the match honest when a command is added.
        Command::Serve(_)
        | Command::Standby(_)
        | Command::Check
        | Command::Journal(_)
        | Command::Index(_)
        | Command::Recover(_)
        | Command::Completions { .. } => {
            return Err(Failure::usage("this command needs no server"));
        }
    }
    Ok(Exit::Ok)
}

async fn promote(yes: bool, client: &AdminClient, output: &Output) -> Result<Exit, Failure> {
    if !yes {
        let report: StatsReport = client.get("/stats", "").await?;
        let standby =
            report.standby.ok_or_else(|| Failure::new("this server is no standby: there is nothing to promote"))?;
        output.show(&standby, render::standby);
        return Err(Failure::usage(
            "this would fence the primary, whose writes that were not shipped are lost then, and make this server the primary: \
             add --yes to do it",
        ));
    }
    let bar = output.waiting("promote");
    let report: Result<PromoteReport, Failure> = client.post("/promote", &json!({})).await;
    bar.finish_and_clear();
    output.show(&report?, render::promoted);
    Ok(Exit::Ok)
}

async fn policy(command: PolicyCommand, client: &AdminClient, output: &Output) -> Result<Exit, Failure> {
    match command {
        PolicyCommand::Plan(plan) => {
            let horizon_ms = u64::try_from(plan.horizon.as_millis()).unwrap_or(u64::MAX);
            let request = PlanRequest { bucket: plan.bucket, prefix: plan.prefix, horizon_ms, limit: plan.limit };
            let bar = output.waiting("plan");
            let report: Result<PlanReport, Failure> = client.post("/plan", &request).await;
            bar.finish_and_clear();
            let report = report?;
            output.show(&report, render::plan);
        }
        PolicyCommand::Show => {
            let answer: PolicyAnswer = client.get("/policy", "").await?;
            output.show(&answer, render::policy);
        }
        PolicyCommand::Reload => {
            let reloaded: Reloaded = client.post("/policy/reload", &json!({})).await?;
            output.show(&reloaded, |r| {
                let warnings: String = r.warnings.iter().map(|w| format!("{w}\n")).collect();
                format!("{warnings}policy {} is in force\n", r.policy)
            });
        }
        PolicyCommand::Check { .. } | PolicyCommand::Schema => {
            return Err(Failure::usage("this command needs no server"));
        }
    }
    Ok(Exit::Ok)
}

async fn tier(command: TierCommand, client: &AdminClient, output: &Output) -> Result<Exit, Failure> {
    match command {
        TierCommand::List => {
            let reports: Vec<TierReport> = client.get("/tiers", "").await?;
            output.show(&reports, |reports| render::tiers(reports));
            Ok(Exit::Ok)
        }
        TierCommand::Packs { name } => {
            let path = format!("/tiers/{}/packs", encode(&name));
            let mut packs: Vec<TierPackReport> = Vec::new();
            loop {
                let query = packs.last().map(|last| format!("?after={}", encode(&last.name))).unwrap_or_default();
                let page: Vec<TierPackReport> = client.get(&path, &query).await?;
                if page.is_empty() {
                    break;
                }
                packs.extend(page);
            }
            output.show(&packs, |packs| render::packs(packs));
            Ok(Exit::Ok)
        }
        TierCommand::Probe { name } => {
            let names = match name {
                Some(name) => vec![name],
                None => {
                    let reports: Vec<TierReport> = client.get("/tiers", "").await?;
                    reports.into_iter().map(|r| r.name).collect()
                }
            };
            let mut reports = Vec::new();
            let bar = output.waiting("probe");
            for name in names {
                let report = client.post(&format!("/tiers/{}/probe", encode(&name)), &json!({})).await;
                let report: ProbeAnswer = report.inspect_err(|_| bar.finish_and_clear())?;
                reports.push(report);
            }
            bar.finish_and_clear();
            output.show(&reports, |reports| render::probes(reports));
            Ok(if reports.iter().all(|r| r.ok) { Exit::Ok } else { Exit::Problems })
        }
        TierCommand::RamPolicy { .. } | TierCommand::Conformance(_) => {
            Err(Failure::usage("this command needs no server"))
        }
    }
}

async fn scrub(options: Scrub, client: &AdminClient, output: &Output) -> Result<Exit, Failure> {
    let request = ScrubRequest { bytes_per_second: options.rate, restart: options.restart };
    let response = client.open("/scrub", &request).await?;
    let bar = output.progress("scrub");
    let mut result: Option<ScrubReport> = None;
    let mut begun = false;
    let line = |line| {
        match line {
            ScrubLine::Progress(at) => {
                bar.set_length(at.bytes_total);
                bar.set_position(at.bytes_done);
                if !std::mem::replace(&mut begun, true) {
                    // What an earlier scrub has done says nothing of this one's speed.
                    bar.reset_eta();
                }
                let ScrubProgress { packs_done, packs_total, damaged, repaired, .. } = at;
                bar.set_message(format!("{packs_done}/{packs_total} packs, {damaged} damaged, {repaired} repaired"));
            }
            ScrubLine::Result(report) => result = Some(report),
            ScrubLine::Error(error) => return Err(Failure::new(error.error)),
        }
        Ok(())
    };
    each_line(response, client, line).await.inspect_err(|_| bar.finish_and_clear())?;
    bar.finish_and_clear();
    let report = result.ok_or_else(|| Failure::new("the server ended the scrub without a result; see its log"))?;
    output.show(&report, render::scrub);
    Ok(if report.is_clean() { Exit::Ok } else { Exit::Problems })
}

async fn fsck(options: Fsck, client: &AdminClient, output: &Output) -> Result<Exit, Failure> {
    let Fsck { local, remote, tier: tiers, repair, estimate } = options;
    let request = FsckRequest { local, remote, tiers, repair, estimate };
    if !request.wants_remote() && !request.tiers.is_empty() {
        return Err(Failure::usage("--tier says which tiers --remote looks at; --local alone looks at none"));
    }
    let response = client.open("/fsck", &request).await?;
    let bar = output.waiting("fsck");
    let (mut costs, mut result): (Option<FsckEstimate>, Option<FsckReport>) = (None, None);
    let line = |line| {
        match line {
            FsckLine::Estimate(costs_of) => {
                if !estimate {
                    bar.suspend(|| output.note(&render::fsck_estimate(&costs_of)));
                }
                costs = Some(costs_of);
            }
            FsckLine::Progress(at) if at.total > 0 => bar.set_message(format!("{} {}/{}", at.stage, at.done, at.total)),
            FsckLine::Progress(at) => bar.set_message(format!("{} {}", at.stage, at.done)),
            FsckLine::Result(report) => result = Some(*report),
            FsckLine::Error(error) => return Err(Failure::new(error.error)),
        }
        Ok(())
    };
    each_line(response, client, line).await.inspect_err(|_| bar.finish_and_clear())?;
    bar.finish_and_clear();
    let no_result = || Failure::new("the server ended the check without a result; see its log");
    if estimate {
        output.show(&costs.ok_or_else(no_result)?, render::fsck_estimate);
        return Ok(Exit::Ok);
    }
    let report = result.ok_or_else(no_result)?;
    output.show(&report, render::fsck);
    Ok(if report.remaining == 0 { Exit::Ok } else { Exit::Problems })
}

/// Calls `visit` with every line of a streamed answer.
async fn each_line<T: DeserializeOwned>(
    mut response: Response,
    client: &AdminClient,
    mut visit: impl FnMut(T) -> Result<(), Failure>,
) -> Result<(), Failure> {
    let mut buffer: Vec<u8> = Vec::new();
    while let Some(piece) = response.chunk().await.map_err(|e| client.broken(&e))? {
        buffer.extend_from_slice(&piece);
        if buffer.len() > MAX_LINE_BYTES {
            return Err(Failure::new("the server's answer is too long"));
        }
        while let Some(end) = buffer.iter().position(|b| *b == b'\n') {
            let line: Vec<u8> = buffer.drain(..=end).collect();
            visit(serde_json::from_slice(&line).map_err(Failure::new)?)?;
        }
    }
    Ok(())
}

/// Percent-encodes everything but unreserved characters, for a query or one segment of a path.
pub(super) fn encode(text: &str) -> String {
    let mut out = String::with_capacity(text.len());
    for byte in text.bytes() {
        if byte.is_ascii_alphanumeric() || b"-._~".contains(&byte) {
            out.push(char::from(byte));
        } else {
            out.push_str(&format!("%{byte:02X}"));
        }
    }
    out
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn keys_survive_the_query() {
        assert_eq!(encode("a/b c&d=é"), "a%2Fb%20c%26d%3D%C3%A9");
    }
}
