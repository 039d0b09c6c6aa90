//! The command line as it is typed. [`super::Invocation`] is what the rest sees.

use super::args_users::{AccountCommand, UserCommand};
use super::s3_url::S3Url;
use crate::config::units::{parse_duration, parse_quantity};
use clap::{Args, Parser, Subcommand};
use std::ffi::OsString;
use std::path::PathBuf;
use std::time::Duration;
use tidegate_tiering::clock::Timestamp;
use time::OffsetDateTime;
use time::format_description::well_known::Rfc3339;

/// Exit codes, as `--help` shows them.
const EXIT_CODES: &str = "Exit codes:
  0  done
  1  failed
  2  the command line is wrong
  3  the configuration or a policy is wrong, or a probe, a scrub, an fsck or a conformance run found problems
  4  no server answers at the admin socket";

/// S3 in, deduplicated on disk, cold to the cloud by rule, and back.
#[derive(Debug, Parser)]
#[command(name = "tidegate", version, after_help = EXIT_CODES)]
pub struct Arguments {
    /// Configuration file (YAML) [env: TIDEGATE_CONFIG, unless --data-dir is given]
    #[arg(long, short, global = true, value_name = "FILE")]
    pub config: Option<PathBuf>,
    /// Data directory, in place of a configuration file
    #[arg(long, global = true, value_name = "DIR")]
    pub data_dir: Option<PathBuf>,
    /// Print JSON
    #[arg(long, global = true)]
    pub json: bool,
    /// What to do
    #[command(subcommand)]
    pub command: Command,
}

impl Arguments {
    /// Takes the configuration that the environment names when the command line names none, nor a data directory.
    pub fn with_environment(mut self, config: Option<OsString>) -> Self {
        // A recovery names the directory that it makes, not the one that it asks.
        if self.config.is_none() && (self.data_dir.is_none() || self.command.makes_its_directory()) {
            self.config = config.filter(|file| !file.is_empty()).map(PathBuf::from);
        }
        self
    }
}

/// What to do.
#[derive(Debug, Subcommand)]
pub enum Command {
    /// Run the server
    Serve(Serve),
    /// Check the configuration and the policy; changes nothing
    Check,
    /// Lifecycle policies
    #[command(subcommand)]
    Policy(PolicyCommand),
    /// Objects
    #[command(subcommand)]
    Object(ObjectCommand),
    /// Cold tiers
    #[command(subcommand)]
    Tier(TierCommand),
    /// Give the space of dead chunks back
    Gc {
        /// Only say what would be done
        #[arg(long)]
        dry_run: bool,
    },
    /// Read every local chunk, verify its digest, repair what a tier or another local pack has
    ///
    /// Goes on where the last scrub was interrupted. When this command is ended, so is the scrub, and the next one goes on.
    Scrub(Scrub),
    /// Compare the namespace, the local packs and what the tiers list; changes nothing without --repair
    ///
    /// With neither --local nor --remote: both. Says first what the listings cost.
    Fsck(Fsck),
    /// The journal
    #[command(subcommand)]
    Journal(JournalCommand),
    /// The index
    #[command(subcommand)]
    Index(IndexCommand),
    /// Build a data directory from the namespace that was shipped to a tier, or from packs alone; the disk may be gone
    ///
    /// Whoever shipped there before is fenced: it must not write to the cloud any more. An interrupted recovery goes on when it is
    /// asked for again. --data-dir names the directory to make; without it, it is the configuration's.
    Recover(Recover),
    /// Run a read-only server that follows what another one ships to a tier, and can take its place (promote)
    ///
    /// --data-dir names its directory; without it, it is the configuration's. It may be new, a standby's, or that of a primary whose
    /// place another server took: what it had acknowledged and nobody else has is listed then.
    Standby(Standby),
    /// Make the running standby the primary: fences the one before, and takes writes
    Promote {
        /// Do it; without this it is only said what would be done
        #[arg(long)]
        yes: bool,
    },
    /// Users: who may sign requests, with which policies
    #[command(subcommand)]
    User(UserCommand),
    /// Accounts: owners of buckets and objects
    #[command(subcommand)]
    Account(AccountCommand),
    /// What is stored: logical, deduplicated, compressed, per tier
    Stats,
    /// The clock of a server with debug.adjustable_clock
    #[command(subcommand, hide = true)]
    Clock(ClockCommand),
    /// Run everything that is due now, and wait for it
    #[command(hide = true)]
    RunDue,
    /// Print a completion script
    Completions {
        /// The shell
        shell: clap_complete::Shell,
    },
}

impl Command {
    /// Whether --data-dir names the directory to make, and the configuration is asked for all else.
    pub fn makes_its_directory(&self) -> bool {
        matches!(self, Self::Recover(_) | Self::Standby(_))
    }
}

/// What to check.
#[derive(Debug, Default, Args)]
pub struct Fsck {
    /// Check records, chunks, local packs, the due index and parts of uploads
    #[arg(long)]
    pub local: bool,
    /// Check that the tiers have what the records say, and nothing else; lists them, which is billed
    #[arg(long)]
    pub remote: bool,
    /// Only this tier; may be given again
    #[arg(long, value_name = "NAME")]
    pub tier: Vec<String>,
    /// Do what is decidable: entries of the due index, parts of ended uploads, orphans in tiers
    #[arg(long)]
    pub repair: bool,
    /// Only say what it costs: asks no tier
    #[arg(long, visible_alias = "dry-run")]
    pub estimate: bool,
}

/// How to scrub.
#[derive(Debug, Default, Args)]
pub struct Scrub {
    /// Bytes to read in a second at most, such as 50MiB; 0: as fast as the disk gives [default: store.scrub.bytes_per_second]
    #[arg(long, value_name = "SIZE", value_parser = parse_rate)]
    pub rate: Option<u64>,
    /// Begin anew, although an earlier scrub was interrupted
    #[arg(long)]
    pub restart: bool,
}

fn parse_rate(text: &str) -> Result<u64, String> {
    parse_quantity("bytes_per_second", text.strip_suffix("/s").unwrap_or(text))
}

/// Run the server.
#[derive(Debug, Default, Args)]
pub struct Serve {
    /// Write the addresses (JSON) to this file once requests are served
    #[arg(long, value_name = "FILE")]
    pub ready_file: Option<PathBuf>,
    /// Accept settings that are for tests only, such as lifecycle.seconds_per_day
    #[arg(long)]
    pub allow_test_settings: bool,
    /// Abort the process at the NTH hit of a failpoint (tests)
    #[arg(long, value_name = "NAME[:NTH]", hide = true, value_parser = parse_failpoint)]
    pub failpoint: Option<(String, u64)>,
}

/// Lifecycle policies.
#[derive(Debug, Subcommand)]
pub enum PolicyCommand {
    /// Check a policy file, against the tiers of the configuration when there is one
    Check {
        /// The policy; the configured one when left out
        file: Option<PathBuf>,
    },
    /// Print the JSON Schema of policies, for editors
    Schema,
    /// Show what the running policy will move and expire, and when; changes nothing
    Plan(Plan),
    /// Show the policy that the running server has in force
    Show,
    /// Make the running server read its policy file again
    Reload,
}

/// What to plan.
#[derive(Debug, Args)]
pub struct Plan {
    /// Only this bucket
    #[arg(long)]
    pub bucket: Option<String>,
    /// Only keys that start with this
    #[arg(long, default_value = "")]
    pub prefix: String,
    /// How far to look ahead
    #[arg(long, default_value = "30d", value_parser = parse_duration)]
    pub horizon: Duration,
    /// List at most this many actions; the sums count all
    #[arg(long, default_value_t = 100)]
    pub limit: usize,
}

/// Objects.
#[derive(Debug, Subcommand)]
pub enum ObjectCommand {
    /// Where an object is, why, and what happens to it next
    Status {
        /// s3://bucket/key
        object: S3Url,
    },
}

/// Cold tiers.
#[derive(Debug, Subcommand)]
pub enum TierCommand {
    /// List the tiers
    List,
    /// List the packs that the namespace has in a tier: what must be there, and nothing else
    Packs {
        /// The tier
        name: String,
    },
    /// Write, read, restore where it can, and delete a small object; costs a few requests
    Probe {
        /// The tier; all when left out
        name: Option<String>,
    },
    /// Print the least RAM policy that the key of an OSS tier needs (JSON)
    RamPolicy {
        /// The tier
        #[arg(long, value_name = "NAME")]
        tier: String,
        /// Also allow what `tier conformance` does
        #[arg(long)]
        conformance: bool,
        /// For a bucket that keeps versions
        #[arg(long)]
        versions: bool,
    },
    /// Ask the bucket of an OSS tier what the simulator was asked, and show where the answers differ; needs no server
    ///
    /// Says first what it will write and what that costs at most. Writes below a fresh folder of the tier's prefix and removes
    /// everything there at the end, also after a failure or Ctrl-C. Settings of the bucket are only read.
    Conformance(Conformance),
}

/// What to do about conformance.
#[derive(Debug, Args)]
pub struct Conformance {
    /// The tier
    #[arg(long, value_name = "NAME")]
    pub tier: String,
    /// Keep all answers as they came in this file (JSON)
    #[arg(long, value_name = "FILE")]
    pub record: Option<PathBuf>,
    /// Only say what would be written and what it costs
    #[arg(long)]
    pub dry_run: bool,
}

/// What to recover.
#[derive(Debug, Args)]
pub struct Recover {
    /// The tier that the namespace was shipped to (recovery.tier)
    #[arg(long, value_name = "TIER", required_unless_present = "from_packs", conflicts_with = "from_packs")]
    pub from: Option<String>,
    /// From the packs in the tiers alone: what had been moved, as it was then; deletions since are not known
    #[arg(long)]
    pub from_packs: bool,
    /// With --from-packs: only packs in this tier; may be given again
    #[arg(long, value_name = "NAME", requires = "from_packs", conflicts_with = "from")]
    pub tier: Vec<String>,
    /// With --from-packs: ask for the restore of archived packs, which costs money; run it again when they can be read
    #[arg(long, requires = "from_packs", conflicts_with_all = ["from", "dry_run"])]
    pub thaw: bool,
    /// The state at this time (RFC 3339, such as 2026-01-31T12:00:00Z); the latest when left out
    #[arg(long, value_name = "TIME", value_parser = parse_time, conflicts_with = "from_packs")]
    pub at: Option<Timestamp>,
    /// The deployment, when there are several
    #[arg(long, value_name = "ID")]
    pub deployment: Option<String>,
    /// Say what would come back and list what would be missing; fences nobody and leaves nothing
    #[arg(long)]
    pub dry_run: bool,
    /// Taken from --data-dir.
    #[arg(skip)]
    pub data_dir: Option<PathBuf>,
}

/// What to follow.
#[derive(Debug, Args)]
pub struct Standby {
    /// The tier that the namespace is shipped to (the primary's recovery.tier)
    #[arg(long, value_name = "TIER")]
    pub from: String,
    /// The deployment, when the tier has the namespaces of several
    #[arg(long, value_name = "ID")]
    pub deployment: Option<String>,
    /// As of `serve`.
    #[command(flatten)]
    pub serve: Serve,
}

/// The journal.
#[derive(Debug, Subcommand)]
pub enum JournalCommand {
    /// Print the records of the journal
    Dump {
        /// First sequence number
        #[arg(long, default_value_t = 0)]
        from: u64,
        /// At most this many records
        #[arg(long)]
        limit: Option<u64>,
    },
}

/// The index.
#[derive(Debug, Subcommand)]
pub enum IndexCommand {
    /// Build the index of objects anew from snapshot and journal; the server must not run
    ///
    /// The index of chunks is no part of it: each start reads it from its own file and from the packs.
    Rebuild,
}

/// The clock.
#[derive(Debug, Subcommand)]
pub enum ClockCommand {
    /// Move the clock forward
    Advance {
        /// How far, such as 30d
        #[arg(value_parser = parse_duration)]
        by: Duration,
    },
}

fn parse_time(text: &str) -> Result<Timestamp, String> {
    let parsed =
        OffsetDateTime::parse(text, &Rfc3339).map_err(|e| format!("{e}; write it like 2026-01-31T12:00:00Z"))?;
    let ms = parsed.unix_timestamp_nanos().div_euclid(1_000_000);
    u64::try_from(ms).map(Timestamp).map_err(|_| "the time is before 1970".to_owned())
}

fn parse_failpoint(text: &str) -> Result<(String, u64), String> {
    let (name, nth) = match text.rsplit_once(':') {
        None => (text, 1),
        Some((name, nth)) => {
            (name, nth.parse().ok().filter(|n| *n > 0).ok_or("the part behind : must be a number from 1")?)
        }
    };
    if name.is_empty() { Err("the name is empty".to_owned()) } else { Ok((name.to_owned(), nth)) }
}

#[cfg(test)]
mod tests {
    use super::*;
    use clap::CommandFactory;

    fn parse(line: &str) -> Result<Arguments, clap::Error> {
        Arguments::try_parse_from(line.split_whitespace())
    }

    #[test]
    fn the_definition_is_sound() {
        Arguments::command().debug_assert();
    }

    #[test]
    fn every_command_is_understood() {
        for line in [
            "tidegate serve",
            "tidegate serve --config f.yaml --ready-file r --failpoint pack_synced:3",
            "tidegate serve --data-dir /d",
            "tidegate check --config f.yaml",
            "tidegate policy check p.yaml",
            "tidegate policy schema",
            "tidegate policy plan --horizon 365d --bucket b --prefix x/ --limit 5 --json",
            "tidegate object status s3://b/a/key --json",
            "tidegate tier list",
            "tidegate tier packs ia --json",
            "tidegate tier probe ia",
            "tidegate tier ram-policy --tier ia --conformance",
            "tidegate tier conformance --tier ia --record answers.json --json",
            "tidegate tier conformance --tier ia --dry-run",
            "tidegate gc --dry-run",
            "tidegate scrub",
            "tidegate fsck",
            "tidegate fsck --local --remote --tier ia --tier deep --repair --json",
            "tidegate fsck --dry-run",
            "tidegate journal dump --from 10 --limit 5",
            "tidegate index rebuild",
            "tidegate recover --from ia --config f.yaml --data-dir /new --at 2026-01-31T12:00:00Z --dry-run --json",
            "tidegate standby --from ia --config f.yaml --data-dir /new --ready-file r",
            "tidegate promote --yes",
            "tidegate stats --data-dir /d --json",
            "tidegate clock advance 30d",
            "tidegate completions bash",
        ] {
            assert!(parse(line).is_ok(), "{line}: {}", parse(line).unwrap_err());
        }
    }

    #[test]
    fn wrong_lines_are_refused_with_the_word_that_is_wrong() {
        for (line, word) in [
            ("tidegate", "Usage"),
            ("tidegate recover --data-dir d", "--from"),
            ("tidegate recover --from ia --at yesterday", "2026-01-31T12:00:00Z"),
            ("tidegate object status b/k", "s3://"),
            ("tidegate object status s3://b", "s3://"),
            ("tidegate policy plan --horizon 30", "such as 30s"),
            ("tidegate serve --failpoint x:0", "from 1"),
            ("tidegate completions tcl", "tcl"),
            ("tidegate tier conformance ia", "ia"),
            ("tidegate tier ram-policy", "--tier"),
        ] {
            let error = parse(line).unwrap_err().to_string();
            assert!(error.contains(word), "{line}: {error}");
        }
    }

    #[test]
    fn the_command_line_outranks_the_environment() {
        let config = |line: &str, env: &str| parse(line).unwrap().with_environment(Some(env.into())).config;
        assert_eq!(config("tidegate stats", "e.yaml"), Some("e.yaml".into()));
        assert_eq!(config("tidegate stats --config f.yaml", "e.yaml"), Some("f.yaml".into()));
        assert_eq!(config("tidegate stats --data-dir /d", "e.yaml"), None);
        assert_eq!(config("tidegate stats", ""), None);
    }

    #[test]
    fn a_failpoint_has_a_name_and_a_count() {
        assert_eq!(parse_failpoint("a"), Ok(("a".to_owned(), 1)));
        assert_eq!(parse_failpoint("a:7"), Ok(("a".to_owned(), 7)));
        assert!(parse_failpoint("").is_err() && parse_failpoint("a:b").is_err());
    }
}
