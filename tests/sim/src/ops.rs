//! The story itself: what is drawn from the deck, one card after the other.

use super::body::{any_body, large_body};
use super::cloud::weather;
use super::gate::Cut;
use super::plans::{BUCKET, Plan};
use super::world::World;
use std::time::Duration;
use tidegate_tiering::clock::Clock;
use tidegate_tiering::engine::{EngineError, WriteCondition};

/// What can be next. To add something: a card, its weight, and its line in [`World::play`].
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Card {
    Put,
    PutSealed,
    PutIf,
    Delete,
    Remove,
    Retag,
    Configure,
    Copy,
    BeginUpload,
    Upload,
    Get,
    Restore,
    BringBack,
    Several,
    ReadOn,
    DuringGc,
    Time,
    Weather,
    Schedule,
    Ship,
    Gc,
    Evict,
    Snapshot,
    Scrub,
    Restart,
    Crash,
    LoseDisk,
    Standby,
    Compare,
}

const DECK: &[(u64, Card)] = &[
    (22, Card::Put),
    (2, Card::PutSealed),
    (4, Card::PutIf),
    (8, Card::Delete),
    (6, Card::Remove),
    (3, Card::Retag),
    (4, Card::Configure),
    (9, Card::Copy),
    (4, Card::BeginUpload),
    (13, Card::Upload),
    (9, Card::Get),
    (7, Card::Restore),
    (2, Card::BringBack),
    (9, Card::Several),
    (1, Card::ReadOn),
    (4, Card::DuringGc),
    (13, Card::Time),
    (4, Card::Weather),
    (20, Card::Schedule),
    (7, Card::Ship),
    (5, Card::Gc),
    (4, Card::Evict),
    (4, Card::Snapshot),
    (1, Card::Scrub),
    (2, Card::Restart),
    (2, Card::Crash),
    (2, Card::LoseDisk),
    (2, Card::Standby),
    (3, Card::Compare),
];

impl World {
    /// The whole of it.
    pub fn tell(&mut self) -> Result<(), String> {
        self.open()?;
        let cards = 40 + self.dice.below(60);
        for _ in 0..cards {
            if self.is_dead() {
                self.after_a_crash()?;
            }
            self.clock.advance(Duration::from_millis(1 + self.dice.below(5_000)));
            if self.engine().bucket(BUCKET).is_err() {
                self.make_bucket()?;
                continue;
            }
            let card = self.draw();
            self.play(card)?;
        }
        if self.is_dead() {
            self.after_a_crash()?;
        }
        self.finale()
    }

    fn make_bucket(&mut self) -> Result<(), String> {
        let engine = self.engine();
        match self.process().run(engine.create_bucket(BUCKET)) {
            Err(EngineError::BucketExists(_)) | Ok(()) => {
                self.model.bucket = Some(self.seq());
                if self.dice.below(2) == 0 { self.configure() } else { Ok(()) }
            }
            Err(_) if self.is_dead() => Ok(()),
            Err(e) => Err(format!("make the bucket: {e}")),
        }
    }

    /// A new process after the end of one, which may find that its disk is gone as well.
    pub fn after_a_crash(&mut self) -> Result<(), String> {
        self.crashed()?;
        if self.settings.recovery.is_some() && self.model.shipped > self.branch && self.dice.below(6) == 0 {
            return self.lose_disk(None);
        }
        self.open()
    }

    fn draw(&mut self) -> Card {
        let mut at = self.dice.below(DECK.iter().map(|(weight, _)| weight).sum());
        for (weight, card) in DECK {
            match at.checked_sub(*weight) {
                Some(rest) => at = rest,
                None => return *card,
            }
        }
        Card::Compare
    }

    fn play(&mut self, card: Card) -> Result<(), String> {
        self.count(match card {
            Card::Time | Card::Weather | Card::Compare => "turns of time and weather, and comparisons",
            Card::Schedule | Card::Ship | Card::Snapshot | Card::Scrub => "turns of background work",
            Card::Gc | Card::Evict | Card::DuringGc | Card::ReadOn => "collections",
            Card::Restart => "restarts",
            Card::Crash | Card::LoseDisk | Card::Standby => "ends on purpose",
            _ => "operations",
        });
        match card {
            Card::Configure => self.configure(),
            Card::BringBack => self.bring_back(),
            Card::Several => self.several(),
            Card::ReadOn => self.read_on(),
            Card::DuringGc => self.during_gc(),
            Card::Time => self.time_goes_on(),
            Card::Weather => {
                let all = [(0, 0), (0, 0), (30, 0), (200, 0), (1000, 0), (0, 400)];
                let (failing, damaged) = all[self.dice.below(6) as usize];
                self.cloud.set_weather(weather(failing, damaged));
                self.note(format!("of a thousand requests {failing} fail, and {damaged} reads come damaged"));
                Ok(())
            }
            Card::Schedule | Card::Ship | Card::Gc | Card::Evict | Card::Snapshot => {
                let work = self.work(match card {
                    Card::Schedule => 0,
                    Card::Ship => 1,
                    Card::Gc => 2,
                    Card::Evict => 3,
                    _ => 4,
                });
                self.perform(Vec::new(), Some(work), None)?;
                if matches!(card, Card::Gc | Card::Evict) && self.dice.below(4) == 0 {
                    // Before anything else has synced what it wrote.
                    self.process().life.die();
                }
                Ok(())
            }
            Card::Scrub => self.scrub(),
            Card::Restart => self.restart(),
            Card::Crash => {
                self.process().life.die();
                Ok(())
            }
            Card::Standby => self.stand_by(),
            Card::LoseDisk => self.lose_disk_of_a_running_store(),
            Card::Compare => self.compare(),
            _ => {
                let Some(plan) = self.plan(card) else { return Ok(()) };
                self.alone(plan)
            }
        }
    }

    fn plan(&mut self, card: Card) -> Option<Plan> {
        let key = self.any_key();
        match card {
            Card::Put => {
                let bytes = any_body(&mut self.dice);
                Some(self.put(&key, bytes))
            }
            Card::PutSealed => {
                let bytes = any_body(&mut self.dice);
                Some(self.put_with(&key, bytes, (true, WriteCondition::default())))
            }
            Card::PutIf => Some(self.put_if(&key)),
            Card::Delete => Some(self.delete(&key)),
            Card::Remove => self.remove_any(),
            Card::Retag => {
                let at = self.existing()?;
                self.retag(&at)
            }
            Card::Copy => {
                let from = self.existing()?;
                let to = if self.dice.below(3) == 0 { from.key.clone() } else { key };
                self.copy(&from, &to)
            }
            Card::BeginUpload => Some(self.begin_upload(&key)),
            Card::Upload => self.go_on_with_upload(),
            Card::Get => {
                let at = self.existing()?;
                self.get(&at)
            }
            _ => {
                let archived = self.archived();
                let chosen = archived.get(self.dice.below(archived.len() as u64 + 1) as usize).cloned();
                let at = chosen.or_else(|| self.existing())?;
                Some(self.restore(&at))
            }
        }
    }

    /// An operation by itself; now and then the client goes away in the middle of it, or the process ends there.
    fn alone(&mut self, plan: Plan) -> Result<(), String> {
        match self.dice.below(16) {
            0 => {
                let nth = 1 + self.dice.below(8);
                self.perform(vec![plan], None, Some(Cut::Dies(nth)))
            }
            1 => {
                let places = ["journal.before_write", "journal.after_write", "journal.after_sync"];
                let place = places[self.dice.below(3) as usize];
                let behind = ["h/barrier", "h/other"].into_iter().find(|key| plan.keys.iter().all(|its| its != key));
                self.perform(vec![plan], None, Some(Cut::Leaves(place)))?;
                self.settle_doubts(behind.unwrap_or("h/third"))
            }
            _ => self.perform(vec![plan], None, None),
        }
    }

    /// What a client that went away has asked for may still be done; behind a later commit, to another key, it is known.
    fn settle_doubts(&mut self, behind: &str) -> Result<(), String> {
        if self.is_dead() {
            return Ok(());
        }
        let barrier = self.put(behind, any_body_of(0));
        self.perform(vec![barrier], None, None)?;
        if self.is_dead() { Ok(()) } else { self.compare() }
    }

    /// Some operations side by side, none with another's key, and perhaps some background work.
    pub fn several(&mut self) -> Result<(), String> {
        let writes = [Card::Put, Card::Put, Card::Delete, Card::Copy, Card::Upload, Card::Remove, Card::Retag];
        let cards = [&writes[..], &[Card::Get, Card::Restore]].concat();
        let mut plans: Vec<Plan> = Vec::new();
        for _ in 0..1 + self.dice.below(3) {
            let card = cards[self.dice.below(cards.len() as u64) as usize];
            let Some(plan) = self.plan(card) else { continue };
            if plans.iter().all(|other| other.keys.iter().all(|key| !plan.keys.contains(key))) {
                plans.push(plan);
            }
        }
        let beside = (self.dice.below(3) != 0).then(|| {
            let which = [0, 0, 0, 1, 2, 3, 4][self.dice.below(7) as usize];
            self.work(which)
        });
        let cut = (self.dice.below(12) == 0).then(|| Cut::Dies(1 + self.dice.below(20)));
        self.perform(plans, beside, cut)
    }

    /// Versions and rules, by themselves: it is known what the rules have done up to here.
    fn configure(&mut self) -> Result<(), String> {
        if !self.versions || self.is_dead() {
            return Ok(());
        }
        self.compare()?;
        let plan = self.settings_change();
        let cut = (self.dice.below(8) == 0).then(|| Cut::Dies(1 + self.dice.below(6)));
        self.perform(vec![plan], None, cut)
    }

    /// Archived objects are restored, and a collection comes while they are.
    fn bring_back(&mut self) -> Result<(), String> {
        for at in self.archived().into_iter().take(4) {
            let plan = self.restore(&at);
            self.perform(vec![plan], None, None)?;
        }
        for which in [0, 0, 2, 0, 1, 0] {
            if self.is_dead() {
                return Ok(());
            }
            let work = self.work(which);
            self.perform(Vec::new(), Some(work), None)?;
            self.clock.advance(Duration::from_secs(5 * 3600));
        }
        if self.is_dead() { Ok(()) } else { self.compare() }
    }

    /// Hours to weeks; and somebody looks whether something is due.
    fn time_goes_on(&mut self) -> Result<(), String> {
        let hours = [1, 5, 24, 24 * 5, 24 * 11, 24 * 31][self.dice.below(6) as usize];
        self.clock.advance(Duration::from_secs(3600 * hours));
        self.note(format!("{hours} hours go by: {}", self.clock.now()));
        Ok(())
    }

    /// A large object is being read when it is deleted and its room is reclaimed: the read goes on.
    fn read_on(&mut self) -> Result<(), String> {
        let bytes = large_body(&mut self.dice);
        let put = self.put("h/large", std::sync::Arc::clone(&bytes));
        self.perform(vec![put], None, None)?;
        if self.is_dead() {
            return Ok(());
        }
        self.read_through_a_collection("h/large", &bytes)
    }
}

fn any_body_of(seed: u64) -> std::sync::Arc<Vec<u8>> {
    any_body(&mut super::common::Dice(seed))
}
