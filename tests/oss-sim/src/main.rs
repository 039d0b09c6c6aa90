//! `oss-sim`: the simulator as a process. Prints `listening on http://ADDR`, then `admin on http://ADDR`.

use clap::Parser;
use oss_sim::{Class, OssSim};
use std::io::Write;
use std::net::SocketAddr;
use std::path::PathBuf;
use std::process::ExitCode;

/// A simulator of Alibaba Cloud OSS's native protocol.
#[derive(Debug, Parser)]
#[command(version)]
struct Args {
    /// Address for OSS requests; port 0 takes a free one
    #[arg(long, default_value = "127.0.0.1:0")]
    listen: SocketAddr,
    /// Address for the administrator's JSON
    #[arg(long, default_value = "127.0.0.1:0")]
    admin: SocketAddr,
    /// Keep the state here and continue what is there; in memory without
    #[arg(long)]
    data_dir: Option<PathBuf>,
    /// A bucket to make, with its storage class (Standard without)
    #[arg(long, value_name = "NAME[:CLASS]", value_parser = bucket)]
    bucket: Vec<(String, Class)>,
    /// An access key
    #[arg(long, value_name = "ID:SECRET", value_parser = pair(':'))]
    access_key: Vec<(String, String)>,
    /// Region, without the oss- prefix
    #[arg(long, default_value = "cn-hangzhou")]
    region: String,
    /// A custom domain and its bucket
    #[arg(long, value_name = "HOST=BUCKET", value_parser = pair('='))]
    cname: Vec<(String, String)>,
    /// Seed of request and upload ids
    #[arg(long, default_value_t = 0)]
    seed: u64,
    /// Accept requests whose date is more than 15 minutes off
    #[arg(long)]
    no_skew_check: bool,
}

fn bucket(text: &str) -> Result<(String, Class), String> {
    let (name, class) = text.split_once(':').unwrap_or((text, "Standard"));
    let class = Class::parse(class).ok_or_else(|| {
        let names: Vec<&str> = Class::ALL.iter().map(|c| c.name()).collect();
        format!("unknown storage class {class:?}; one of {}", names.join(", "))
    })?;
    Ok((name.to_string(), class))
}

fn pair(separator: char) -> impl Fn(&str) -> Result<(String, String), String> + Clone + Send + Sync {
    move |text| {
        text.split_once(separator)
            .map(|(a, b)| (a.to_string(), b.to_string()))
            .ok_or_else(|| format!("expected two parts separated by {separator:?}"))
    }
}

fn main() -> ExitCode {
    let args = Args::parse();
    let mut builder = OssSim::builder()
        .region(args.region)
        .seed(args.seed)
        .skew_check(!args.no_skew_check)
        .listen(args.listen)
        .admin_listen(args.admin);
    if let Some(dir) = args.data_dir {
        builder = builder.data_dir(dir);
    }
    for (name, class) in args.bucket {
        builder = builder.bucket(name, class);
    }
    for (id, secret) in args.access_key {
        builder = builder.access_key(id, secret);
    }
    for (host, bucket) in args.cname {
        builder = builder.cname(host, bucket);
    }
    let running = match builder.start_blocking() {
        Ok(running) => running,
        Err(error) => {
            eprintln!("oss-sim: cannot start: {error}");
            return ExitCode::FAILURE;
        }
    };
    let mut out = std::io::stdout();
    let lines = format!("listening on {}\nadmin on {}\n", running.endpoint(), running.admin_endpoint());
    if out.write_all(lines.as_bytes()).and_then(|()| out.flush()).is_err() {
        return ExitCode::FAILURE;
    }
    running.wait();
    ExitCode::SUCCESS
}
