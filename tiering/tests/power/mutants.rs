//! Does the test find anything? Each mutant is a store that forgets one precaution; it is made of the recorded log, by leaving
//! out or moving what the precaution is. The cuts must find every one of them.

use super::common::{Dice, seed};
use super::log::Event;
use super::run::Run;
use std::time::{Duration, Instant};

/// A mutant that is not found within this time and by so many cuts has got through. Most are found by some tens of cuts; the time
/// alone would say more about the machine.
const LIMIT: (Duration, u64) = (Duration::from_secs(90), 3_000);

fn between<'a>(name: &'a str, prefix: &str, suffix: &str) -> Option<&'a str> {
    name.strip_prefix(prefix)?.strip_suffix(suffix)
}

/// Without the ends of these syncs nothing is known of what they covered.
fn without_sync(events: &[Event], of: impl Fn(&str) -> bool) -> Vec<Event> {
    events.iter().filter(|e| !matches!(e, Event::SyncEnds(_, name) if of(name))).cloned().collect()
}

/// Operations that end as soon as they have written something.
fn acknowledged_early(events: &[Event]) -> Vec<Event> {
    let mut out: Vec<Event> = Vec::new();
    for event in events {
        let journal =
            |e: &Event| matches!(e, Event::SyncBegins(_, name) if between(name, "data/journal/", ".seg").is_some());
        match event {
            Event::OpEnds(n) => {
                let begun = out.iter().rposition(|e| matches!(e, Event::OpBegins(m) if m == n)).unwrap_or(0);
                let before = out.iter().rposition(journal).unwrap_or(begun).max(begun + 1);
                out.insert(before.min(out.len()), event.clone());
            }
            other => out.push(other.clone()),
        }
    }
    out
}

/// Packs whose frames were copied from others: their header says so.
fn compaction_targets(events: &[Event]) -> Vec<&str> {
    let main = |e| match e {
        &Event::Write(ref name, 0, ref bytes) if name.starts_with("data/packs/") && bytes.get(10) == Some(&2) => {
            Some(name.as_str())
        }
        _ => None,
    };
    events.iter().filter_map(main).collect()
}

type Mutant = (&'static str, fn(&[Event]) -> Vec<Event>);

const MUTANTS: &[Mutant] = &[
    ("the journal is not synced", |e| without_sync(e, |n| between(n, "data/journal/", ".seg").is_some())),
    ("the name of a new segment is not synced", |e| without_sync(e, |n| n == "data/journal")),
    ("a new segment is named before its header is synced", |e| {
        without_sync(e, |n| between(n, "data/journal/", ".seg.tmp").is_some())
    }),
    ("packs are not synced", |e| without_sync(e, |n| n.starts_with("data/packs/"))),
    ("names of packs are not synced", |e| without_sync(e, |n| n == "data/packs")),
    ("copies are not synced before the pack they come from is deleted", |e| {
        let targets = compaction_targets(e);
        without_sync(e, |n| targets.contains(&n))
    }),
    ("old segments are deleted before the snapshot is synced", |e| {
        without_sync(e, |n| between(n, "data/snapshots/", ".snap.tmp").is_some())
    }),
    ("old segments are deleted before the snapshot's name is synced", |e| without_sync(e, |n| n == "data/snapshots")),
    ("the deployment's id is not synced", |e| without_sync(e, |n| n == "data/deployment.tmp")),
    ("folders are not synced", |e| without_sync(e, |n| n == "data" || n.is_empty())),
    ("operations are acknowledged before the journal is synced", acknowledged_early),
];

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_store_that_forgets_a_precaution_is_found_out() {
    let (first, _) = seed();
    println!("TIDEGATE_SEED={first}");
    let mut runs = vec![Run::record(first).await];
    let mut dice = Dice(first);
    for (name, mutate) in MUTANTS {
        let started = Instant::now();
        let (mut cuts, mut walk) = (0u64, 0);
        'found: loop {
            if walk == runs.len() {
                runs.push(Run::record(first.wrapping_add(walk as u64)).await);
            }
            let mutant = runs[walk].mutant(mutate);
            for point in mutant.points(&mut dice) {
                cuts += 1;
                if let Err(failure) = mutant.cut(point, &mut dice, false).await {
                    println!("{name}: found after {cuts} cuts, {:?}: {}", started.elapsed(), first_line(&failure));
                    break 'found;
                }
                let over = started.elapsed() >= LIMIT.0 && cuts >= LIMIT.1;
                assert!(!over, "TIDEGATE_SEED={first}: {name}: not found by {cuts} cuts");
            }
            walk += 1;
        }
    }
}

fn first_line(text: &str) -> String {
    text.lines().next().unwrap_or_default().chars().take(300).collect()
}
