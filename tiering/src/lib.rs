//! Tidegate's storage engine (being written).
pub mod clock;
pub mod failpoint;
pub mod journal;
pub mod meta;
