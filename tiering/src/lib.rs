//! Tidegate's storage engine (being written).
pub mod clock;
pub mod engine;
pub mod failpoint;
pub mod tier;
