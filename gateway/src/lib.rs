//! Tidegate's gateway: the S3 endpoint, the configuration, the command line, the admin listener and the logs around the
//! engine of `tidegate-tiering`.

pub mod config;
pub mod logging;
pub mod server;
