//! The command line: low-level arguments ([`args`]) become an [`Invocation`], and that is done.

pub mod args;
pub mod args_users;
mod client;
mod live;
mod offline;
mod recover;
mod s3_url;
mod serve;
mod standby;
mod tier;
mod users;

pub use serve::Addresses;

use crate::config::{Config, Problem};
use crate::output::Output;
use args::{Arguments, Command, PolicyCommand, TierCommand};
use clap::{CommandFactory, Parser};
use std::process::ExitCode;

/// How a command ended; the numbers are promised to scripts.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
#[repr(u8)]
pub enum Exit {
    /// Done.
    Ok = 0,
    /// Failed.
    Failure = 1,
    /// The command line is wrong (clap says so itself).
    Usage = 2,
    /// The configuration or a policy is wrong, or a probe, a scrub, an fsck or a conformance run found problems.
    Problems = 3,
    /// No server answers at the admin socket.
    Unreachable = 4,
}

impl From<Exit> for ExitCode {
    fn from(exit: Exit) -> Self {
        ExitCode::from(exit as u8)
    }
}

/// A failure with the exit code that it means.
#[derive(Debug)]
pub struct Failure {
    /// The code.
    pub exit: Exit,
    /// What went wrong, and the way out.
    pub message: String,
}

impl Failure {
    fn new(message: impl ToString) -> Self {
        Self { exit: Exit::Failure, message: message.to_string() }
    }

    fn usage(message: impl ToString) -> Self {
        Self { exit: Exit::Usage, message: message.to_string() }
    }
}

impl From<Problem> for Failure {
    fn from(problem: Problem) -> Self {
        Failure { exit: Exit::Problems, message: problem.to_string() }
    }
}

/// What is to be done, with everything resolved that the command line and the environment say.
pub struct Invocation {
    /// What to do.
    pub command: Command,
    /// The configuration.
    pub config: Config,
    /// What to call the configuration in messages.
    pub config_name: String,
    /// Whether a configuration file was named.
    pub has_file: bool,
    /// How to print.
    pub output: Output,
}

/// The whole program.
pub fn main() -> ExitCode {
    let arguments = Arguments::parse().with_environment(std::env::var_os("TIDEGATE_CONFIG"));
    let output = Output::new(arguments.json);
    match run(arguments, &output) {
        Ok(exit) => exit.into(),
        Err(failure) => {
            output.error(&failure.message);
            failure.exit.into()
        }
    }
}

fn run(arguments: Arguments, output: &Output) -> Result<Exit, Failure> {
    if arguments.config.is_some() && arguments.data_dir.is_some() && !arguments.command.makes_its_directory() {
        return Err(Failure::usage("the argument --data-dir cannot be used with --config here"));
    }
    // These need no configuration, and must work when it is broken.
    match &arguments.command {
        Command::Completions { shell } => {
            let mut script = Vec::new();
            clap_complete::generate(*shell, &mut Arguments::command(), "tidegate", &mut script);
            output.raw(&String::from_utf8_lossy(&script));
            return Ok(Exit::Ok);
        }
        Command::Policy(PolicyCommand::Schema) => {
            output.json(&tidegate_policies::schema());
            return Ok(Exit::Ok);
        }
        Command::Policy(PolicyCommand::Check { file: Some(file) }) if arguments.config.is_none() => {
            return offline::check_policy(file, None, output);
        }
        Command::Check if arguments.config.is_some() => {}
        Command::Check => {
            return Err(Failure::usage("check needs --config FILE, or TIDEGATE_CONFIG in the environment"));
        }
        _ => {}
    }
    let invocation = match build(arguments, output) {
        Ok(invocation) => invocation,
        Err((true, problem)) => return Ok(offline::show_problems(&[problem], &[], output)),
        Err((false, problem)) => return Err(problem.into()),
    };
    dispatch(invocation)
}

/// From what was typed to what is meant. The flag of the error says that the command was `check`.
fn build(arguments: Arguments, output: &Output) -> Result<Invocation, (bool, Problem)> {
    let Arguments { config, mut data_dir, json: _, mut command } = arguments;
    if let Command::Recover(options) = &mut command {
        // The directory to make; the configuration is asked for its tiers.
        options.data_dir = data_dir.take();
    }
    // The standby's directory; the configuration is asked for all else.
    let own_dir = matches!(command, Command::Standby(_)).then(|| data_dir.take_if(|_| config.is_some())).flatten();
    let checking = matches!(command, Command::Check);
    // Where all variables must be set. Elsewhere an unset one is empty: the secrets of the server are not needed to talk to it,
    // nor those of one tier to ask another, so that their absence must not stand in the way.
    let strict = match &command {
        Command::Check | Command::Serve(_) | Command::Standby(_) => Some(String::new()),
        Command::Tier(TierCommand::Conformance(options)) => Some(format!("tiers.{}.", options.tier)),
        Command::Recover(_) => Some("tiers.".to_owned()),
        _ => None,
    };
    let lookup = |name: &str, path: &str| {
        let needed = strict.as_deref().is_some_and(|below| path.starts_with(below));
        std::env::var(name).ok().or_else(|| (!needed).then(String::new))
    };
    let env: crate::config::Env<'_> = &lookup;
    let (name, loaded) = match &config {
        Some(path) => (path.display().to_string(), Config::load(path, env)),
        None => ("(built-in configuration)".to_owned(), Config::without_file(data_dir, env)),
    };
    let mut loaded = loaded.map_err(|problem| (checking, problem))?;
    if let Some(dir) = own_dir {
        loaded.data_dir = dir;
    }
    let has_file = config.is_some();
    Ok(Invocation { command, config: loaded, config_name: name, has_file, output: output.clone() })
}

fn dispatch(invocation: Invocation) -> Result<Exit, Failure> {
    let Invocation { command, config, config_name, has_file, output } = invocation;
    match command {
        Command::Serve(options) => serve::serve(config, &config_name, (&options, None), &output),
        Command::Standby(options) => {
            let following = standby::Following { from: options.from, deployment: options.deployment };
            serve::serve(config, &config_name, (&options.serve, Some(following)), &output)
        }
        Command::Check => Ok(offline::check(&config_name, &config, &output)),
        Command::Policy(PolicyCommand::Check { file }) => {
            let file = file.or_else(|| config.policy.clone());
            let Some(file) = file else {
                return Err(Failure::usage(
                    "name the policy: tidegate policy check FILE (the configuration names none)",
                ));
            };
            offline::check_policy(&file, has_file.then_some(&config), &output)
        }
        Command::Journal(args::JournalCommand::Dump { from, limit }) => {
            offline::dump_journal(&config, from, limit, &output)
        }
        Command::Index(args::IndexCommand::Rebuild) => offline::rebuild_index(&config, &output),
        Command::Recover(options) => recover::recover(&config, &options, &output),
        Command::Tier(TierCommand::RamPolicy { tier, conformance, versions }) => {
            tier::ram_policy(&config, &tier, (conformance, versions), &output)
        }
        Command::Tier(TierCommand::Conformance(options)) => tier::conformance(&config, &options, &output),
        live => live::run(live, &config, &output),
    }
}
