//! Tidegate's gateway: the S3 endpoint.

pub mod s3;
pub mod server;
