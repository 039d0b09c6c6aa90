//! Power cuts. A workload runs on the real engine while every step of every durable file is recorded; then, for crash points
//! before, at and after every sync and in between, the disk is made that a cut may leave: all that was synced, and of the rest any
//! part, in any order, torn at sectors (`common/cut.rs`). The engine opens it, and what it shows is compared: everything that was
//! acknowledged, nothing by halves, no wrong byte.
//!
//! `TIDEGATE_SEED=n` repeats a walk: its operations and its dice. Threads and the system's scheduling are as they are, so the
//! image of a failure is kept too, and its path is printed. Without it fresh seeds run for about 20 seconds
//! (`TIDEGATE_POWER_SECONDS`).
#![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic)] // helpers of tests, which clippy.toml does not cover

#[path = "../common/mod.rs"]
mod common;
#[path = "../common/cut.rs"]
mod cut;
mod faults;
#[path = "../common/log.rs"]
mod log;
mod mutants;
mod run;
mod work;

use common::{Dice, seed};
use run::{Run, budget};
use std::time::{Duration, Instant};

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_power_cut_at_any_moment_loses_nothing_that_was_acknowledged() {
    let (first, only) = seed();
    let (started, budget) = (Instant::now(), budget(Duration::from_secs(20)));
    let (mut seed, mut cuts, mut walks) = (first, 0, 0);
    loop {
        println!("TIDEGATE_SEED={seed}");
        let run = Run::record(seed).await;
        let mut dice = Dice(seed);
        for point in run.points(&mut dice) {
            if let Err(failure) = run.cut(point, &mut dice, true).await {
                panic!("TIDEGATE_SEED={seed}, {failure}");
            }
            cuts += 1;
            if !only && started.elapsed() > budget {
                break;
            }
        }
        walks += 1;
        if only || started.elapsed() > budget {
            break;
        }
        seed = seed.wrapping_add(1);
    }
    println!("{cuts} cuts in {walks} walks, {:?}", started.elapsed());
}
