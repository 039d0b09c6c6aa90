//! The command line of users and accounts.

use crate::config::units::parse_duration;
use clap::{Args, Subcommand};
use std::path::PathBuf;
use std::time::Duration;

/// Users.
#[derive(Debug, Subcommand)]
pub enum UserCommand {
    /// Make a user and its access key; the secret is shown this once
    Add {
        /// The user
        #[command(flatten)]
        user: UserOf,
        /// What it may do
        #[command(flatten)]
        policies: PolicyOptions,
        /// The access key; without it one is made
        #[arg(long, value_name = "KEY", requires = "secret_file")]
        access_key: Option<String>,
        /// A file with the secret; without it one is made
        #[arg(long, value_name = "FILE")]
        secret_file: Option<PathBuf>,
    },
    /// All users
    List {
        /// Those of this account
        #[arg(long, value_name = "NAME")]
        account: Option<String>,
    },
    /// A user with its policies
    Show {
        /// The user
        #[command(flatten)]
        user: UserOf,
    },
    /// Refuse a user's keys and sessions until it is enabled
    Disable {
        /// The user
        #[command(flatten)]
        user: UserOf,
    },
    /// Take a disabled user's keys again
    Enable {
        /// The user
        #[command(flatten)]
        user: UserOf,
    },
    /// Replace a user's policies; without any, none are left
    Policy {
        /// The user
        #[command(flatten)]
        user: UserOf,
        /// What it may do
        #[command(flatten)]
        policies: PolicyOptions,
    },
    /// Give a user a new access key and secret; the secret is shown this once
    Rotate {
        /// The user
        #[command(flatten)]
        user: UserOf,
        /// How long the old key stays good, such as 1h; without it, it ends now, and its sessions with it
        #[arg(long, value_name = "DURATION", value_parser = parse_duration)]
        grace: Option<Duration>,
    },
    /// Remove a user with its keys; what its account owns stays
    Remove {
        /// The user
        #[command(flatten)]
        user: UserOf,
    },
}

/// Names a user.
#[derive(Debug, Args)]
pub struct UserOf {
    /// Name of the user
    pub name: String,
    /// Its account [default: tidegate]
    #[arg(long, value_name = "NAME")]
    pub account: Option<String>,
}

/// What a user may do.
#[derive(Debug, Default, Args)]
pub struct PolicyOptions {
    /// A policy document (JSON); may be given again
    #[arg(long, value_name = "FILE")]
    pub policy: Vec<PathBuf>,
    /// Read and list everything in the account
    #[arg(long)]
    pub readonly: bool,
    /// Do everything with buckets and objects of the account
    #[arg(long)]
    pub readwrite: bool,
    /// Upload only
    #[arg(long)]
    pub writeonly: bool,
}

/// Accounts.
#[derive(Debug, Subcommand)]
pub enum AccountCommand {
    /// Make an account
    Add {
        /// Name of the account
        name: String,
        /// Owner id, 64 hexadecimal digits; without it one is made of the name
        #[arg(long, value_name = "HEX")]
        id: Option<String>,
        /// What listings show [default: the name]
        #[arg(long, value_name = "TEXT")]
        display_name: Option<String>,
        /// E-mail address, by which grants may name it
        #[arg(long, value_name = "ADDRESS")]
        email: Option<String>,
    },
    /// All accounts
    List,
}
