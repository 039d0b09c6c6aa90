//! Does the simulation find anything? The engine forgets one precaution at a time (`tiering/src/mutants.rs`); each must be found.
#![allow(clippy::unwrap_used, clippy::panic)]

mod common;

use common::{ended, processors, start};
use std::sync::Mutex;
use std::time::Instant;
use tidegate_tiering::mutants::Mutant;

/// Seeds within which each is found. Most need some tens.
const LIMIT: u64 = 2000;

#[test]
fn every_precaution_that_is_forgotten_is_found_out() {
    let left: Mutex<Vec<Mutant>> = Mutex::new(Mutant::ALL.to_vec());
    let found = Mutex::new(Vec::new());
    std::thread::scope(|scope| {
        for _ in 0..processors() {
            scope.spawn(|| {
                loop {
                    let Some(mutant) = left.lock().unwrap().pop() else { break };
                    let began = Instant::now();
                    let args = [format!("--mutant={mutant:?}"), "--seed=1".into(), format!("--count={LIMIT}")];
                    let (_, failure) = ended(start(&args));
                    let text: String = failure.as_deref().unwrap_or("NOT FOUND").chars().take(200).collect();
                    println!("{:24} {:>8.1?}  {text}", format!("{mutant:?}"), began.elapsed());
                    found.lock().unwrap().push((mutant, failure));
                }
            });
        }
    });
    let found = found.into_inner().unwrap();
    assert_eq!(found.len(), Mutant::ALL.len());
    let missed: Vec<_> = found.iter().filter(|(_, failure)| failure.is_none()).map(|(m, _)| m).collect();
    assert!(missed.is_empty(), "not found by {LIMIT} seeds: {missed:?}");
}
