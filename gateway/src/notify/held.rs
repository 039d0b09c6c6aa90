//! Keys whose oldest event a target has refused. They are passed over for a while, as their later events must not overtake it.
//!
//! A queue is read in passes from its oldest event on. Whether a key is tried is decided where a pass begins: one whose wait ended in
//! the middle of it may have had older events passed over already.

use std::collections::HashMap;
use std::collections::hash_map::Entry;
use std::time::Duration;
use tidegate_tiering::clock::Timestamp;

/// Most keys that are held: each costs up to some 1.2 KiB.
const MOST: usize = 4096;
/// How long an event is refused before it is given up.
pub(super) const GIVE_UP: Duration = Duration::from_secs(24 * 3600);

/// Bucket and key.
pub(super) type Name = (String, String);

/// What becomes of an event that was refused.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Verdict {
    /// It is tried again later.
    Held,
    /// It was refused for too long.
    GivenUp,
    /// As many keys are held as may be.
    Full,
}

#[derive(Debug)]
struct Held {
    /// The event that was refused.
    id: u128,
    /// When it was refused first.
    since: Timestamp,
    not_before: Timestamp,
    failures: u32,
    /// It is tried in this pass.
    due: bool,
}

/// The keys that are held.
#[derive(Debug, Default)]
pub(super) struct HeldKeys(HashMap<Name, Held>);

impl HeldKeys {
    /// A pass begins. `complete`: the one before saw all that waited, so that keys which it could try and did not meet have no events
    /// any more.
    pub(super) fn begin(&mut self, now: Timestamp, complete: bool) {
        self.0.retain(|_, held| !(complete && held.due));
        for held in self.0.values_mut() {
            held.due = held.not_before <= now;
        }
    }

    /// None is held.
    pub(super) fn is_empty(&self) -> bool {
        self.0.is_empty()
    }

    /// Whether the events of a key are left alone in this pass.
    pub(super) fn passes_over(&self, name: &Name) -> bool {
        self.0.get(name).is_some_and(|held| !held.due)
    }

    /// The oldest event of a key arrived.
    pub(super) fn arrived(&mut self, name: &Name) {
        self.0.remove(name);
    }

    /// The oldest event of a key was refused. `rest`: when to try again after so many failures.
    pub(super) fn refused(&mut self, name: Name, id: u128, now: Timestamp, rest: impl Fn(u32) -> Timestamp) -> Verdict {
        let count = self.0.len();
        let first = || Held { id, since: now, not_before: rest(1), failures: 1, due: false };
        match self.0.entry(name) {
            Entry::Vacant(_) if count >= MOST => Verdict::Full,
            Entry::Vacant(place) => {
                place.insert(first());
                Verdict::Held
            }
            Entry::Occupied(mut place) => {
                let held = place.get_mut();
                if held.id != id {
                    *held = first();
                    return Verdict::Held;
                }
                held.due = false;
                if now.since(held.since) >= GIVE_UP {
                    // Held until the next pass, which finds the event gone and begins with the one behind it.
                    held.not_before = now;
                    return Verdict::GivenUp;
                }
                held.failures = held.failures.saturating_add(1);
                held.not_before = rest(held.failures);
                Verdict::Held
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn name(n: usize) -> Name {
        ("b".to_owned(), n.to_string())
    }

    #[test]
    fn a_key_is_tried_again_from_the_next_pass_on_after_its_wait() {
        let mut keys = HeldKeys::default();
        let rest = |failures: u32| Timestamp(100 * u64::from(failures));
        assert_eq!(keys.refused(name(1), 7, Timestamp(0), rest), Verdict::Held);
        assert!(keys.passes_over(&name(1)) && !keys.passes_over(&name(2)));
        keys.begin(Timestamp(99), true);
        assert!(keys.passes_over(&name(1)));
        keys.begin(Timestamp(100), true);
        assert!(!keys.passes_over(&name(1)));
        assert_eq!(keys.refused(name(1), 7, Timestamp(100), rest), Verdict::Held);
        keys.begin(Timestamp(199), true);
        assert!(keys.passes_over(&name(1)));
        keys.begin(Timestamp(200), true);
        keys.arrived(&name(1));
        assert!(keys.is_empty());
    }

    #[test]
    fn an_event_that_is_refused_for_too_long_is_given_up_and_its_key_goes_on_in_the_next_pass() {
        let mut keys = HeldKeys::default();
        let late = Timestamp(0).plus(GIVE_UP);
        let refuse = |keys: &mut HeldKeys, id, at| keys.refused(name(1), id, at, |_| at);
        assert_eq!(refuse(&mut keys, 7, Timestamp(0)), Verdict::Held);
        assert_eq!(refuse(&mut keys, 7, Timestamp(late.millis() - 1)), Verdict::Held);
        assert_eq!(refuse(&mut keys, 7, late), Verdict::GivenUp);
        // What is behind it must not go out before it has left the queue.
        assert!(keys.passes_over(&name(1)));
        keys.begin(late, true);
        // Another event: its time begins anew.
        assert_eq!(refuse(&mut keys, 8, late), Verdict::Held);
        keys.begin(late, true);
        // Due, and not met in a whole pass: it has no events any more.
        keys.begin(late, false);
        assert!(!keys.is_empty());
        keys.begin(late, true);
        assert!(keys.is_empty());
    }

    #[test]
    fn the_keys_are_bounded() {
        let mut keys = HeldKeys::default();
        let now = Timestamp(0);
        for n in 0..MOST {
            assert_eq!(keys.refused(name(n), 1, now, |_| now), Verdict::Held);
        }
        assert_eq!(keys.refused(name(MOST), 1, now, |_| now), Verdict::Full);
        assert_eq!(keys.refused(name(0), 1, now, |_| now), Verdict::Held);
    }
}
