//! A thousand stories, and those that have found something before. `TIDEGATE_SIM_SEEDS=n` runs so many.
#![allow(clippy::unwrap_used, clippy::panic)]

mod common;

use common::{ended, start, stories};
use std::collections::BTreeMap;
use std::time::Instant;

#[test]
fn a_thousand_stories_end_as_the_model_says() {
    let count = std::env::var("TIDEGATE_SIM_SEEDS").map_or(1000, |text| text.parse().unwrap());
    let started = Instant::now();
    let (sums, failures) = stories(1, count, &[]);
    println!("{:?}: {sums:#?}", started.elapsed());
    assert!(failures.is_empty(), "{}", failures.join("\n"));
    assert_eq!(sums.get("seeds"), Some(&count));
    if count >= 100 {
        // Otherwise this tests nothing.
        for name in [
            "kills",
            "power cuts",
            "recoveries",
            "promotions",
            "marks",
            "snapshots",
            "restarts",
            "cold",
            "protected",
            "restored",
            "lost",
            "noncurrent",
            "markers",
        ] {
            assert!(sums.get(name).is_some_and(|n| *n >= count / 20), "{name}: {:?}", sums.get(name));
        }
    }
}

#[test]
fn stories_that_found_something_once() {
    let list = std::fs::read_to_string(concat!(env!("CARGO_MANIFEST_DIR"), "/regressions")).unwrap();
    for seed in list.lines().filter_map(|line| line.split_whitespace().next()).filter(|word| *word != "#") {
        let (_, failure) = ended(start(&[format!("--seed={seed}")]));
        assert_eq!(failure, None);
    }
}

/// Not all of a run is the seed's: names have random ids, and threads run as the system likes.
#[test]
fn most_seeds_tell_the_same_story_again() {
    const SEEDS: u64 = 40;
    let digests = || -> BTreeMap<u64, String> {
        let output = start(&["--seed=1".into(), format!("--count={SEEDS}"), "--digest".into()]).wait_with_output();
        let text = String::from_utf8(output.unwrap().stdout).unwrap();
        let digest = |line: &str| {
            let mut words = line.strip_prefix("digest ")?.split(' ');
            Some((words.next()?.parse().ok()?, words.next()?.to_owned()))
        };
        text.lines().filter_map(digest).collect()
    };
    let (first, second) = (digests(), digests());
    let same = first.iter().filter(|(seed, digest)| second.get(seed) == Some(digest)).count();
    println!("{same} of {SEEDS} seeds told the same story twice");
    assert!(same as u64 >= SEEDS / 2, "{same} of {SEEDS}");
}
