//! One seed, one story: a workload, the virtual clock, a faulty cloud, crashes, upkeep and recoveries happen to a real engine in an
//! order that the seed chooses, and what is there afterwards is compared with a simple model. See ADR 21.
#![allow(missing_docs, clippy::unwrap_used, clippy::expect_used, clippy::panic)] // a test, which clippy.toml does not know as such

mod body;
mod changes;
mod check;
mod cloud;
#[path = "../../../tiering/tests/common/mod.rs"]
mod common;
#[allow(dead_code)] // shared with tests/power, which uses the rest
#[path = "../../../tiering/tests/common/cut.rs"]
mod cut;
mod finale;
mod gate;
mod life;
#[allow(dead_code)] // the same
#[path = "../../../tiering/tests/common/log.rs"]
mod log;
mod model;
mod ops;
mod plans;
mod recovery;
mod standby;
mod upkeep;
mod versions;
mod world;

pub use world::{Failure, Stats, run};
