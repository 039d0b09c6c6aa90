//! How fast a scrub may read.

use std::time::Duration;

/// Most and least bytes of a step: enough to be worth a call, few enough that the rate holds within a second.
const MOST: u64 = 4 << 20;
const LEAST: u64 = 64 << 10;

/// Keeps a reader to a rate. What it was slower than the rate is not made up for later: clients would notice the burst.
#[derive(Debug)]
pub(super) struct Pace {
    /// Bytes in a second; 0: no limit.
    rate: u64,
    waited: Duration,
}

impl Pace {
    pub(super) fn new(rate: u64) -> Self {
        Self { rate, waited: Duration::ZERO }
    }

    /// Bytes that one step reads: a quarter of a second's.
    pub(super) fn step_bytes(&self) -> u64 {
        if self.rate == 0 { MOST } else { (self.rate / 4).clamp(LEAST, MOST) }
    }

    /// How long to wait after a step of `bytes` that took `took`.
    pub(super) fn wait(&mut self, bytes: u64, took: Duration) -> Duration {
        if self.rate == 0 {
            return Duration::ZERO;
        }
        let nanos = u128::from(bytes) * 1_000_000_000 / u128::from(self.rate);
        let due = Duration::from_nanos(u64::try_from(nanos).unwrap_or(u64::MAX));
        let wait = due.saturating_sub(took);
        self.waited = self.waited.saturating_add(wait);
        wait
    }

    /// All waits so far, in milliseconds.
    pub(super) fn waited_ms(&self) -> u64 {
        u64::try_from(self.waited.as_millis()).unwrap_or(u64::MAX)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn steps_and_waits_make_the_rate_and_a_slow_step_gives_no_credit() {
        let mut pace = Pace::new(1 << 20);
        assert_eq!(pace.step_bytes(), 256 << 10);
        assert_eq!(pace.wait(256 << 10, Duration::from_millis(50)), Duration::from_millis(200));
        assert_eq!(pace.wait(256 << 10, Duration::from_secs(9)), Duration::ZERO);
        assert_eq!(pace.wait(256 << 10, Duration::ZERO), Duration::from_millis(250));
        assert_eq!(pace.waited_ms(), 450);
        assert_eq!((Pace::new(1).step_bytes(), Pace::new(u64::MAX).step_bytes()), (LEAST, MOST));
        let mut free = Pace::new(0);
        assert_eq!((free.wait(1 << 40, Duration::ZERO), free.step_bytes()), (Duration::ZERO, MOST));
        assert_eq!(Pace::new(1).wait(u64::MAX, Duration::ZERO), Duration::from_nanos(u64::MAX));
    }
}
