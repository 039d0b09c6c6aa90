//! Versions that wait for a job (a transition, a protection, its end) or are in one. In memory only: the due index is the durable queue, a claim just
//! keeps the scheduler from handing one version out twice. Bounded; a full table makes the scheduler pass on to what
//! else is due instead of waiting.

use super::types::VersionId;
use crate::clock::Timestamp;
use std::collections::{BTreeMap, HashMap, VecDeque};
use std::time::Duration;

/// What a job does with its versions.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub(crate) enum Work {
    /// They become cold.
    Move,
    /// Their bodies are brought to a tier as well; they stay hot.
    Protect,
    /// They become hot only.
    Release,
    /// They stay as they are, and the tier is told what locks them.
    Tell,
}

/// What a job does, and the tier that it does it with: what waits for one pack.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord)]
pub(crate) struct Aim {
    pub work: Work,
    pub tier: String,
}

impl Aim {
    pub(crate) fn new(work: Work, tier: &str) -> Self {
        Self { work, tier: tier.to_owned() }
    }
}

impl std::fmt::Display for Aim {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        let what = match self.work {
            Work::Move => "transition to",
            Work::Protect => "protection in",
            Work::Release => "release from",
            Work::Tell => "telling of locks to",
        };
        write!(f, "{what} {}", self.tier)
    }
}

/// A version that is to move, or to be protected or released.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Claim {
    /// Its key in the table Object.
    pub subject: Vec<u8>,
    pub version: VersionId,
    pub size: u64,
    /// Bytes by which the hot disks can shrink once that is done: its size, or 0 when they could before, or never can.
    pub frees: u64,
    /// How full the hot disk was (percent) when a fill level wanted it; none when it was due.
    pub fill: Option<u8>,
}

#[derive(Debug, Default)]
struct Queue {
    waiting: VecDeque<Claim>,
    bytes: u64,
    /// When the oldest began to wait.
    since: Timestamp,
    running: usize,
    failures: u32,
    not_before: Timestamp,
    /// When it was last served, in jobs: tiers take turns.
    served: u64,
    /// Versions in a job, after one failed and a version may be to blame; doubled by each success, until it is no less than `members`.
    cap: Option<usize>,
    /// Versions that a job begins with otherwise, as last said.
    members: usize,
    /// Versions whose packs in a colder class are being thawed, and when to look again.
    thawing: VecDeque<(Timestamp, Claim)>,
}

impl Queue {
    /// Versions whose thaw is to be looked at again wait in line like all others.
    fn wake_thawing(&mut self, now: Timestamp) {
        while let Some((_, claim)) = self.thawing.pop_front_if(|(at, _)| *at <= now) {
            if self.waiting.is_empty() {
                self.since = now;
            }
            self.bytes = self.bytes.saturating_add(claim.size);
            self.waiting.push_back(claim);
        }
    }

    /// Takes versions from the front: up to `members`, until they have `bytes`.
    fn take(&mut self, members: usize, bytes: u64) -> Vec<Claim> {
        let (mut group, mut sum) = (Vec::new(), 0u64);
        while group.len() < members
            && sum < bytes
            && let Some(claim) = self.waiting.pop_front()
        {
            sum = sum.saturating_add(claim.size);
            self.bytes = self.bytes.saturating_sub(claim.size);
            group.push(claim);
        }
        group
    }
}

/// How long one queue is.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct QueueLength {
    pub aim: Aim,
    pub waiting: usize,
    pub running: usize,
    pub thawing: usize,
    /// Failures in a row.
    pub failures: u32,
}

/// When a group is worth a job.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Grouping {
    pub bytes: u64,
    pub members: usize,
    pub linger: Duration,
    /// The same for protections and releases: the age of what is on one disk only is at stake.
    pub protect_linger: Duration,
    /// Jobs of each kind of work: long transitions must not hold up protections.
    pub workers: usize,
}

/// How a job failed.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Failure {
    pub now: Timestamp,
    /// First and longest wait.
    pub min: Duration,
    pub max: Duration,
    /// The tier is to blame, not a version.
    pub of_tier: bool,
}

/// Share of the table that the versions waiting for one tier may take: a tier that is down must leave room for others.
const TIER_SHARE: usize = 4;

/// Versions that cannot be moved and are remembered; beyond that the oldest are tried again at once.
const MAX_RESTING: usize = 100_000;

/// All claims, by what is to be done.
#[derive(Debug, Default)]
pub(crate) struct Claims {
    /// What is waiting or moving, and what each of it frees.
    held: HashMap<Vec<u8>, u64>,
    /// The sum over `held`.
    freeing: u64,
    /// What the versions freed that have moved since the start. Only differences of it mean something.
    moved: u64,
    /// Versions that failed by themselves: until when they are left alone, and how often they failed.
    resting: HashMap<Vec<u8>, (Timestamp, u32)>,
    jobs: u64,
    queues: BTreeMap<Aim, Queue>,
}

impl Claims {
    /// Claims a version for a job; false when it is claimed already or the table is full.
    pub(crate) fn claim(&mut self, aim: &Aim, claim: Claim, now: Timestamp, max: usize) -> bool {
        let rests = self.resting.get(&claim.subject).is_some_and(|(until, _)| now < *until);
        let crowded = |q: &Queue| q.waiting.len() + q.thawing.len() >= max.div_ceil(TIER_SHARE);
        if rests || self.held.len() >= max || self.held.contains_key(&claim.subject) {
            return false;
        }
        if self.queues.get(aim).is_some_and(crowded) {
            return false;
        }
        self.held.insert(claim.subject.clone(), claim.frees);
        self.freeing = self.freeing.saturating_add(claim.frees);
        let queue = self.queues.entry(aim.clone()).or_default();
        if queue.waiting.is_empty() {
            queue.since = now;
        }
        queue.bytes = queue.bytes.saturating_add(claim.size);
        queue.waiting.push_back(claim);
        true
    }

    /// The next group that is full or has lingered long enough; the caller runs it and calls [`Claims::finish`].
    pub(crate) fn next_group(&mut self, now: Timestamp, rule: Grouping) -> Option<(Aim, Vec<Claim>)> {
        self.queues.values_mut().for_each(|q| q.wake_thawing(now));
        let running = |work: Work| self.queues.iter().filter(|(a, _)| a.work == work).map(|(_, q)| q.running).sum();
        let full = [Work::Move, Work::Protect, Work::Release, Work::Tell].map(|work| (work, running(work)));
        let full = full.map(|(work, running): (Work, usize)| (work, running >= rule.workers));
        let ready = self.queues.iter_mut().filter(|(aim, q)| {
            let linger = if aim.work == Work::Move { rule.linger } else { rule.protect_linger };
            let ripe = q.bytes >= rule.bytes || q.waiting.len() >= rule.members || now.since(q.since) >= linger;
            !q.waiting.is_empty() && q.not_before <= now && ripe && !full.contains(&(aim.work, true))
        });
        // In turns, or a busy tier would keep all workers.
        let (aim, queue) = ready.min_by_key(|(_, q)| (q.running, q.served))?;
        self.jobs += 1;
        queue.served = self.jobs;
        queue.members = rule.members;
        let group = queue.take(queue.cap.unwrap_or(rule.members).min(rule.members), rule.bytes);
        queue.running += 1;
        Some((aim.clone(), group))
    }

    /// More versions for a job that runs and whose pack has so many bytes of room; none while jobs are kept small to find the
    /// version that fails.
    pub(crate) fn more(&mut self, aim: &Aim, members: usize, bytes: u64) -> Vec<Claim> {
        let queue = self.queues.get_mut(aim).filter(|q| q.cap.is_none());
        queue.map_or_else(Vec::new, |q| q.take(members, bytes))
    }

    /// Ends a job. After a failure its versions wait again, and the tier rests: twice as long each time, bounded. Unless
    /// the tier is to blame, the next jobs are half as large each time, until the version that fails is alone and is
    /// left alone.
    pub(crate) fn finish(&mut self, aim: &Aim, group: Vec<Claim>, failed: Option<Failure>) {
        let Some(queue) = self.queues.get_mut(aim) else { return };
        queue.running = queue.running.saturating_sub(1);
        match failed {
            None => {
                queue.failures = 0;
                queue.cap = queue.cap.and_then(|cap| cap.checked_mul(2)).filter(|cap| *cap < queue.members);
                for claim in &group {
                    self.let_go(&claim.subject);
                    self.resting.remove(&claim.subject);
                    self.moved = self.moved.wrapping_add(claim.frees);
                }
            }
            Some(Failure { now, min, max, of_tier }) => {
                queue.not_before = now.plus(backoff(queue.failures, min, max));
                queue.failures = queue.failures.saturating_add(1);
                if !of_tier {
                    // The job may have grown beyond what it began with.
                    queue.cap = Some((group.len().min(queue.members) / 2).max(1));
                    if group.len() == 1 {
                        self.rest(group, now, (min, max));
                        return;
                    }
                }
                for claim in group.into_iter().rev() {
                    queue.bytes = queue.bytes.saturating_add(claim.size);
                    queue.waiting.push_front(claim);
                }
            }
        }
    }

    /// Puts versions off until `at`; they stay claimed. Called with what a job hands back, before [`Claims::finish`]
    /// for the rest.
    pub(crate) fn postpone(&mut self, aim: &Aim, claims: Vec<Claim>, at: Timestamp) {
        let queue = self.queues.entry(aim.clone()).or_default();
        queue.thawing.extend(claims.into_iter().map(|claim| (at, claim)));
    }

    /// Leaves versions alone that failed by themselves: longer each time, bounded. The due index finds them again.
    pub(crate) fn rest(&mut self, claims: Vec<Claim>, now: Timestamp, (min, max): (Duration, Duration)) {
        for claim in claims {
            self.let_go(&claim.subject);
            if self.resting.len() >= MAX_RESTING {
                self.resting.retain(|_, (until, _)| now < *until);
            }
            if self.resting.len() >= MAX_RESTING {
                self.resting.clear();
            }
            let failures = self.resting.get(&claim.subject).map_or(0, |(_, failures)| *failures);
            let until = now.plus(backoff(failures, min, max));
            self.resting.insert(claim.subject, (until, failures.saturating_add(1)));
        }
    }

    fn let_go(&mut self, subject: &[u8]) {
        self.freeing = self.freeing.saturating_sub(self.held.remove(subject).unwrap_or(0));
    }

    /// What has moved, to be compared with a later [`Claims::on_its_way`].
    pub(crate) fn moved(&self) -> u64 {
        self.moved
    }

    /// Bytes by which the hot disks will shrink without another claim: what is claimed, and what has moved since `moved` and
    /// no sweep can have evicted.
    pub(crate) fn on_its_way(&self, moved: u64) -> u64 {
        self.freeing.saturating_add(self.moved.wrapping_sub(moved))
    }

    /// Lets a tier try again at once (an operator's wish, a clock that was moved).
    pub(crate) fn retry_now(&mut self) {
        self.resting.values_mut().for_each(|(until, _)| *until = Timestamp(0));
        for queue in self.queues.values_mut() {
            queue.not_before = Timestamp(0);
            queue.thawing.iter_mut().for_each(|(at, _)| *at = Timestamp(0));
        }
    }

    /// Whether a version is waiting or moving.
    pub(crate) fn holds(&self, subject: &[u8]) -> bool {
        self.held.contains_key(subject)
    }

    /// Of each queue.
    pub(crate) fn lengths(&self) -> Vec<QueueLength> {
        let length = |(aim, q): (&Aim, &Queue)| QueueLength {
            aim: aim.clone(),
            waiting: q.waiting.len(),
            running: q.running,
            thawing: q.thawing.len(),
            failures: q.failures,
        };
        self.queues.iter().map(length).collect()
    }
}

/// `min` doubled `failures` times, at most `max`.
pub(crate) fn backoff(failures: u32, min: Duration, max: Duration) -> Duration {
    min.saturating_mul(1u32.checked_shl(failures.min(20)).unwrap_or(u32::MAX)).min(max)
}

#[cfg(test)]
mod tests {
    use super::*;

    const RULE: Grouping = Grouping {
        bytes: 100,
        members: 3,
        linger: Duration::from_secs(60),
        protect_linger: Duration::from_secs(1),
        workers: 1,
    };

    fn to(tier: &str) -> Aim {
        Aim::new(Work::Move, tier)
    }

    fn claim(n: u8, size: u64) -> Claim {
        Claim { subject: vec![n], version: VersionId(u128::from(n)), size, frees: size, fill: None }
    }

    #[test]
    fn a_small_group_lingers_and_a_full_one_goes_at_once() {
        let mut claims = Claims::default();
        assert!(claims.claim(&to("ia"), claim(1, 10), Timestamp(0), 10));
        assert!(!claims.claim(&to("ia"), claim(1, 10), Timestamp(0), 10), "claimed twice");
        assert!(claims.next_group(Timestamp(59_999), RULE).is_none());
        assert!(claims.claim(&to("ia"), claim(2, 95), Timestamp(1), 10));
        let (tier, group) = claims.next_group(Timestamp(1), RULE).unwrap();
        assert_eq!((tier.tier.as_str(), group.len()), ("ia", 2));
        assert!(claims.claim(&to("ia"), claim(3, 500), Timestamp(1), 10));
        assert!(claims.next_group(Timestamp(1), RULE).is_none(), "one worker");
        claims.finish(&to("ia"), group, None);
        assert_eq!(claims.next_group(Timestamp(1), RULE).unwrap().1, vec![claim(3, 500)]);
        assert!(!claims.holds(&[1]) && claims.holds(&[3]));
    }

    #[test]
    fn a_failed_group_waits_again_in_order_and_longer_each_time() {
        let mut claims = Claims::default();
        let (min, max) = (Duration::from_secs(1), Duration::from_secs(3));
        claims.claim(&to("ia"), claim(1, 100), Timestamp(0), 10);
        claims.claim(&to("ia"), claim(2, 100), Timestamp(0), 10);
        let mut now = Timestamp(0);
        for wait in [1_000, 2_000, 3_000, 3_000] {
            let (tier, group) = claims.next_group(now, RULE).unwrap();
            assert_eq!(group, vec![claim(1, 100)]);
            claims.finish(&tier, group, Some(Failure { now, min, max, of_tier: true }));
            assert!(claims.next_group(Timestamp(now.0 + wait - 1), RULE).is_none());
            now = Timestamp(now.0 + wait);
        }
        assert!(claims.holds(&[1]));
    }

    #[test]
    fn a_version_that_waits_for_a_thaw_stays_claimed_and_comes_back_in_time() {
        let mut claims = Claims::default();
        claims.claim(&to("deep"), claim(1, 100), Timestamp(0), 10);
        claims.claim(&to("deep"), claim(2, 100), Timestamp(0), 10);
        let (_, group) = claims.next_group(Timestamp(0), RULE).unwrap();
        claims.postpone(&to("deep"), group, Timestamp(500));
        claims.finish(&to("deep"), Vec::new(), None);
        assert_eq!(claims.lengths()[0].thawing, 1);
        assert_eq!(claims.next_group(Timestamp(499), RULE).unwrap().1, vec![claim(2, 100)], "others go on");
        claims.finish(&to("deep"), vec![claim(2, 100)], None);
        assert!(claims.next_group(Timestamp(499), RULE).is_none());
        assert!(claims.holds(&[1]));
        assert_eq!(claims.next_group(Timestamp(500), RULE).unwrap().1, vec![claim(1, 100)]);
    }

    #[test]
    fn a_version_that_fails_by_itself_is_found_by_halving_and_left_alone() {
        let mut claims = Claims::default();
        let (min, max) = (Duration::from_secs(1), Duration::from_secs(2));
        let rule = Grouping { members: 4, bytes: 1_000, linger: Duration::ZERO, ..RULE };
        for n in 0..4 {
            assert!(claims.claim(&to("ia"), claim(n, 1), Timestamp(0), 100));
        }
        let (mut now, mut moved) = (Timestamp(0), Vec::new());
        while let Some((tier, group)) = claims.next_group(now, rule) {
            let bad = group.iter().any(|c| c.subject == [1]);
            if !bad {
                moved.extend(group.iter().map(|c| c.subject[0]));
            }
            claims.finish(&tier, group, bad.then_some(Failure { now, min, max, of_tier: false }));
            now = now.plus(max);
        }
        moved.sort_unstable();
        assert_eq!(moved, [0, 2, 3]);
        assert!(!claims.holds(&[1]));
        claims.rest(vec![claim(1, 1)], now, (min, max));
        assert!(!claims.claim(&to("ia"), claim(1, 1), now, 100), "it rests");
        assert!(claims.claim(&to("ia"), claim(1, 1), now.plus(max), 100), "and is tried again");
    }

    #[test]
    fn a_job_that_has_grown_is_halved_too_and_grows_no_more_until_the_culprit_is_alone() {
        for members in [1, 4] {
            let mut claims = Claims::default();
            let (min, max) = (Duration::from_secs(1), Duration::from_secs(2));
            let rule = Grouping { members, bytes: 1_000, linger: Duration::ZERO, ..RULE };
            for n in 0..40 {
                assert!(claims.claim(&to("ia"), claim(n, 1), Timestamp(0), 1_000));
            }
            let (mut now, mut moved, mut jobs) = (Timestamp(0), Vec::new(), 0);
            while let Some((tier, mut group)) = claims.next_group(now, rule) {
                jobs += 1;
                assert!(jobs < 100, "it never ends");
                group.extend(claims.more(&tier, rule.members, 1_000));
                group.extend(claims.more(&tier, rule.members, 1_000));
                let bad = group.iter().any(|c| c.subject == [5]);
                if !bad {
                    moved.extend(group.iter().map(|c| c.subject[0]));
                }
                claims.finish(&tier, group, bad.then_some(Failure { now, min, max, of_tier: false }));
                now = now.plus(max);
            }
            moved.sort_unstable();
            assert_eq!(moved, (0..40).filter(|n| *n != 5).collect::<Vec<_>>());
            assert!(!claims.holds(&[5]));
        }
    }

    #[test]
    fn tiers_take_turns_and_one_that_is_down_leaves_room() {
        let mut claims = Claims::default();
        let rule = Grouping { members: 1, bytes: 1_000, linger: Duration::ZERO, ..RULE };
        for n in 0..10 {
            claims.claim(&to("a"), claim(n, 1), Timestamp(0), 16);
        }
        assert_eq!(claims.lengths()[0].waiting, 4, "a quarter of the table");
        assert!(claims.claim(&to("b"), claim(100, 1), Timestamp(0), 16));
        let mut served = String::new();
        for _ in 0..3 {
            let (tier, group) = claims.next_group(Timestamp(0), rule).unwrap();
            served.push_str(&tier.tier);
            claims.finish(&tier, group, None);
        }
        assert_eq!(served, "aba");
    }

    #[test]
    fn what_is_claimed_or_has_just_moved_is_on_its_way_and_what_failed_by_itself_is_not() {
        let mut claims = Claims::default();
        let rule = Grouping { members: 1, bytes: 1_000, linger: Duration::ZERO, ..RULE };
        for n in 0..3 {
            claims.claim(&to("ia"), claim(n, 10), Timestamp(0), 100);
        }
        let before = claims.moved();
        assert_eq!(claims.on_its_way(before), 30);
        let (tier, group) = claims.next_group(Timestamp(0), rule).unwrap();
        assert_eq!(claims.on_its_way(before), 30, "it is in a job");
        claims.finish(&tier, group, None);
        assert_eq!((claims.on_its_way(before), claims.on_its_way(claims.moved())), (30, 20));
        let (tier, group) = claims.next_group(Timestamp(0), rule).unwrap();
        let (now, min, max) = (Timestamp(0), Duration::ZERO, Duration::from_secs(1));
        claims.finish(&tier, group, Some(Failure { now, min, max, of_tier: false }));
        assert_eq!(claims.on_its_way(claims.moved()), 10, "it rests");
    }

    #[test]
    fn protections_linger_for_a_shorter_time_and_have_workers_of_their_own() {
        let mut claims = Claims::default();
        let protect = Aim::new(Work::Protect, "ia");
        claims.claim(&to("ia"), claim(1, 500), Timestamp(0), 10);
        claims.claim(&protect, claim(2, 10), Timestamp(0), 10);
        assert_eq!(claims.next_group(Timestamp(0), RULE).unwrap().0, to("ia"));
        assert!(claims.next_group(Timestamp(999), RULE).is_none(), "others may come");
        assert_eq!(claims.next_group(Timestamp(1_000), RULE).unwrap(), (protect.clone(), vec![claim(2, 10)]));
        claims.claim(&protect, claim(3, 500), Timestamp(1_000), 10);
        assert!(claims.next_group(Timestamp(1_000), RULE).is_none(), "one worker of each kind");
        claims.finish(&protect, vec![claim(2, 10)], None);
        assert_eq!(claims.next_group(Timestamp(1_000), RULE).unwrap().1, vec![claim(3, 500)]);
    }

    #[test]
    fn a_full_table_refuses_and_says_so() {
        let mut claims = Claims::default();
        assert!(claims.claim(&to("ia"), claim(1, 1), Timestamp(0), 1));
        assert!(!claims.claim(&to("ia"), claim(2, 1), Timestamp(0), 1));
    }
}
