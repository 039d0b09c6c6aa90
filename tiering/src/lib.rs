//! Tidegate's storage engine (being written).
pub mod chunk;
pub mod clock;
pub mod engine;
pub mod failpoint;
pub mod journal;
pub mod local;
pub mod meta;
pub mod pack;
pub mod tier;
