//! Tidegate's storage engine (being written).
pub mod chunk;
pub mod clock;
pub mod failpoint;
pub mod local;
pub mod pack;
