//! Tidegate's gateway: the S3 endpoint, the configuration, the command line, the admin listener and the logs around the
//! engine of `tidegate-tiering`.
//!
//! | module | what it is |
//! |---|---|
//! | [`config`] | the YAML document: reading, defaults, checks |
//! | [`cli`] | the command line: `serve` and everything else |
//! | [`admin`] | the admin listener: metrics, health, JSON API |
//! | [`output`] | tables and JSON for people and programs |
//! | [`logging`] | logs |
//! | [`server`] | the S3 endpoint: HTTP |
//! | [`s3`] | the S3 endpoint: operations |
//! | [`auth`] | who asks, and whether they may |
//! | [`users`] | accounts, users and sessions |
//! | `sts` | temporary keys |
//! | [`notify`] | sends events to webhooks |
//!
//! Architecture invariant: nothing here opens sled or a pack file, or speaks to a cold tier: `tidegate-tiering` does. Commands
//! that need the live server ask it over its admin socket. Of the others, `index rebuild` takes the store's lock, and
//! `journal dump` only reads.
//!
//! Architecture invariant: one file turns the engine's errors into S3's ([`s3::error`]).
//!
//! Requests share nothing but the engine, counters and metrics, so there is nothing to lock here. `docs/ARCHITECTURE.md` follows one request of
//! each kind through the files.

pub mod admin;
pub mod auth;
pub mod cli;
pub mod config;
pub mod logging;
pub mod notify;
pub mod output;
pub mod s3;
pub mod server;
mod sts;
pub mod users;

/// The version of this program.
pub const VERSION: &str = env!("CARGO_PKG_VERSION");
