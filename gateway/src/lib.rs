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
//!
//! Architecture invariant: nothing here opens sled or a pack file, or speaks to a cold tier. Commands that need the live
//! server ask it over its admin socket; the others go through the engine, which takes the lock.

pub mod admin;
pub mod cli;
pub mod config;
pub mod logging;
pub mod output;
pub mod s3;
pub mod server;

/// The version of this program.
pub const VERSION: &str = env!("CARGO_PKG_VERSION");
