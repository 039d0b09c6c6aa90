//! Load on a running S3 server, measured. `tests/bench/run` starts the servers and calls this.

mod client;
mod data;
mod load;
mod measure;
mod payload;
mod report;
mod suite;

use clap::{Parser, Subcommand};
use std::io::Write;
use std::path::PathBuf;
use std::process::ExitCode;
use std::sync::Arc;

/// Measures S3 servers.
#[derive(Parser)]
struct Arguments {
    #[command(subcommand)]
    command: Command,
}

#[derive(Subcommand)]
enum Command {
    /// Run the suite against one server and append what was measured to a file
    Run(Target),
    /// Print what was measured as a table
    Report {
        /// File that `run` wrote
        file: PathBuf,
        /// The label that ratios are about
        #[arg(long, default_value = "tidegate")]
        ours: String,
    },
}

#[derive(clap::Args)]
struct Target {
    /// Address, such as 127.0.0.1:9000
    #[arg(long)]
    address: String,
    /// Access key
    #[arg(long)]
    access: String,
    /// Secret key
    #[arg(long)]
    secret: String,
    /// Region
    #[arg(long, default_value = "us-east-1")]
    region: String,
    /// Bucket; it must exist
    #[arg(long, default_value = "bench")]
    bucket: String,
    /// Process of the server
    #[arg(long)]
    pid: u32,
    /// Folder of the server's data
    #[arg(long)]
    data_dir: PathBuf,
    /// Name of the server in the table
    #[arg(long)]
    label: String,
    /// File that gets one JSON line for each workload
    #[arg(long)]
    output: PathBuf,
    /// Factor on the number of operations
    #[arg(long, default_value_t = 1.0)]
    scale: f64,
    /// Only workloads whose name contains this
    #[arg(long, default_value = "")]
    only: String,
    /// Seed of all contents
    #[arg(long, default_value_t = 1)]
    seed: u64,
}

#[tokio::main]
async fn main() -> ExitCode {
    let done = match Arguments::parse().command {
        Command::Run(target) => run(target).await,
        Command::Report { file, ours } => report_file(&file, &ours),
    };
    match done {
        Ok(()) => ExitCode::SUCCESS,
        Err(message) => {
            eprintln!("s3bench: {message}");
            ExitCode::FAILURE
        }
    }
}

fn report_file(file: &std::path::Path, ours: &str) -> Result<(), String> {
    let text = std::fs::read_to_string(file).map_err(|e| format!("cannot read {}: {e}", file.display()))?;
    let outcomes: Result<Vec<load::Outcome>, _> = text.lines().map(serde_json::from_str).collect();
    report::print(&outcomes.map_err(|e| format!("{}: {e}", file.display()))?, ours);
    Ok(())
}

async fn run(target: Target) -> Result<(), String> {
    let Target { address, access, secret, region, bucket, pid, data_dir, .. } = target;
    let connection = Arc::new(client::Target { address, access, secret, region, bucket });
    let run = load::Run { target: connection, pid, data_dir, seed: target.seed, scale: target.scale };
    let file = std::fs::OpenOptions::new().create(true).append(true).open(&target.output);
    let mut file = file.map_err(|e| format!("cannot write {}: {e}", target.output.display()))?;
    let mut errors = 0;
    for workload in suite::SUITE.iter().filter(|w| w.name.contains(&target.only)) {
        let outcome = load::run(&run, &target.label, *workload).await?;
        eprintln!(
            "{} {}: {:.0} op/s, {:.1} MB/s, p99 {:.2} ms, {} errors",
            outcome.label, outcome.workload, outcome.ops_per_s, outcome.mb_per_s, outcome.p99_ms, outcome.errors
        );
        errors += outcome.errors;
        let line = serde_json::to_string(&outcome).map_err(|e| e.to_string())?;
        writeln!(file, "{line}").map_err(|e| format!("cannot write the measurements: {e}"))?;
    }
    if errors > 0 { Err(format!("{errors} operations failed")) } else { Ok(()) }
}
