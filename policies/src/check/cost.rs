//! Transitions that can only lose money.
//!
//! All sums are lower bounds for the transition and upper bounds for staying, per GB: only what loses for every object is
//! refused. Retrieval, traffic and the multipart requests of large packs are left out; what the book does not know is
//! counted as nothing.

use crate::Millis;
use crate::class::Class;
use crate::diagnostic::Sink;
use crate::money::Money;
use crate::parse::{Action, At, DraftRule};
use crate::policy::{Goal, Layout, Since, Tier, Timer};
use crate::price::{GB, MONTH, PriceBook, Request, storage_at};
use crate::units::{DAY, MAX_DURATION, format_duration, format_size};

/// The largest pack, which needs the fewest PUTs a GB.
const LARGEST_PACK: u64 = 64 << 20;

/// One stop on the way of an object.
struct Stop<'a> {
    tier: &'a Tier,
    class: Class,
    after: Millis,
    since: Since,
}

/// The end of a stay.
#[derive(Clone, Copy)]
struct Stay<'a> {
    length: Millis,
    next: Goal,
    /// The other rule that ends it.
    by: Option<&'a str>,
}

/// Checks all transitions of one rule. `covering` are the other rules in force that match whatever it matches.
pub(super) fn rule(rule: &DraftRule, covering: &[&DraftRule], tiers: &[At<Tier>], prices: &PriceBook, sink: &mut Sink) {
    for action in &rule.timers {
        let Some(stop) = stop(&action.what, tiers) else { continue };
        let stay = longest_stay(rule, covering, &action.what);
        let before = stop_before(rule, &stop, tiers);
        transition(action, &stop, before.as_ref(), stay, prices, sink);
    }
    if rule.layout.value == Layout::Native {
        small_objects(rule, tiers, prices, sink);
    }
}

fn stop<'a>(timer: &Timer, tiers: &'a [At<Tier>]) -> Option<Stop<'a>> {
    let Goal::Tier(index) = timer.goal else { return None };
    let tier = &tiers.get(index)?.value;
    // A tier that nobody bills by class has no price to lose.
    Some(Stop { tier, class: tier.class?, after: timer.after, since: timer.since })
}

/// The longest that an object can stay where `timer` puts it before the same rule, or one that covers it, moves it on or
/// expires it.
fn longest_stay<'a>(rule: &DraftRule, covering: &[&'a DraftRule], timer: &Timer) -> Option<Stay<'a>> {
    let own = rule.timers.iter().map(|a| (&a.what, None));
    let others = covering.iter().flat_map(|r| r.timers.iter().map(|a| (&a.what, Some(r.id.value.as_str()))));
    own.chain(others)
        .filter(|(t, _)| t.goal > timer.goal && t.goes_with(timer))
        .filter_map(|(t, by)| {
            // Not after it: a contradiction, reported elsewhere.
            let length = t.after.checked_sub(timer.after).filter(|length| *length > 0)?;
            Some(Stay { length, next: t.goal, by })
        })
        .min_by_key(|stay| (stay.length, stay.next))
}

/// The billed stop that the object leaves for `stop`, when the rule says so.
fn stop_before<'a>(rule: &DraftRule, stop: &Stop<'_>, tiers: &'a [At<Tier>]) -> Option<Stop<'a>> {
    rule.timers
        .iter()
        .map(|a| &a.what)
        .filter(|t| t.since == stop.since && t.after < stop.after && matches!(t.goal, Goal::Tier(_)))
        .max_by_key(|t| t.after)
        .and_then(|t| self::stop(t, tiers))
}

/// What a GB costs with a transition and without it.
struct Comparison {
    put: Money,
    billed: Millis,
    storage: Money,
    without: Money,
}

impl Comparison {
    fn with(&self) -> Money {
        self.put + self.storage
    }
}

/// Compares a stay of `stay` at `stop` with staying before it. `None` when a storage price is not known.
fn compare(stop: &Stop<'_>, before: Option<&Stop<'_>>, stay: Millis, prices: &PriceBook) -> Option<Comparison> {
    let billed = stay.max(prices.min_duration(stop.class));
    let without = match before {
        None => storage_at(prices.hot?, GB, stay),
        Some(before) => {
            // Leaving `before` early may cost the rest of its minimum anyway: only what staying adds counts.
            let there = stop.after.saturating_sub(before.after);
            let minimum = prices.min_duration(before.class);
            let added = there.saturating_add(stay).max(minimum).saturating_sub(there.max(minimum));
            prices.storage(before.class, GB, added)?
        }
    };
    Some(Comparison {
        put: prices.requests(stop.class, Request::Put, GB / LARGEST_PACK).unwrap_or(Money::ZERO),
        billed,
        storage: prices.storage(stop.class, GB, billed)?,
        without,
    })
}

fn transition(
    action: &Action<Timer>,
    stop: &Stop<'_>,
    before: Option<&Stop<'_>>,
    stay: Option<Stay<'_>>,
    prices: &PriceBook,
    sink: &mut Sink,
) {
    let minimum = prices.min_duration(stop.class);
    // Leaving the hot disk for good, or for longer than the minimum, frees the disk: that is what it is for.
    if before.is_none() && stay.is_none_or(|stay| stay.length >= minimum) {
        return;
    }
    // For good, anything cheaper pays in the end.
    let price = |class| prices.class(class).storage;
    if let (None, Some(before)) = (stay, before)
        && price(stop.class).zip(price(before.class)).is_some_and(|(here, there)| here < there)
    {
        return;
    }
    let Some(sums) = compare(stop, before, stay.map_or(MONTH.max(minimum), |stay| stay.length), prices) else {
        unknown(action, stop, "the storage price", prices, sink);
        return;
    };
    if sums.with() <= sums.without {
        if prices.class(stop.class).put.is_none() {
            unknown(action, stop, "the price of PUT", prices, sink);
        }
        return;
    }
    let PriceBook { currency, as_of, .. } = prices;
    let name = &stop.tier.name;
    let by = stay.and_then(|stay| stay.by).map_or(String::new(), |rule| format!(" by the rule `{rule}`"));
    let stays = match stay {
        None => "to stay".to_owned(),
        Some(Stay { length, next: Goal::Expire, .. }) => format!("to expire {} later{by}", format_duration(length)),
        Some(Stay { length, .. }) => format!("to move on {} later{by}", format_duration(length)),
    };
    let compared = match before {
        None => "staying on the hot disk".to_owned(),
        Some(before) => format!("staying in `{}` ({})", before.tier.name, before.class),
    };
    let message = format!(
        "moving to `{name}` ({}) {stays} can only lose money: {} {currency} per GB ({} for the {} that are billed, {} for PUT) against {} \
         {currency} for {compared} (prices of {as_of})",
        stop.class,
        sums.with(),
        sums.storage,
        format_duration(sums.billed),
        sums.put,
        sums.without,
    );
    sink.error(action.at, &action.path, message, way_out(stop, before, stay, prices));
}

/// The shortest stay in whole days that pays, or to do without the transition.
fn way_out(stop: &Stop<'_>, before: Option<&Stop<'_>>, stay: Option<Stay<'_>>, prices: &PriceBook) -> String {
    let name = &stop.tier.name;
    // A year beyond the minimum shows every stay that pays; the book may name any minimum, so the search has an end.
    let most = (prices.min_duration(stop.class) / DAY + 365).min(MAX_DURATION / DAY);
    let pays = |days: &u64| compare(stop, before, days * DAY, prices).is_some_and(|c| c.with() <= c.without);
    match stay.and_then(|stay| (stay.length / DAY + 1..=most).find(pays).map(|days| (days, stay.next))) {
        Some((days, goal)) => {
            let next = if goal == Goal::Expire { "expire" } else { "move on" };
            let until = format_duration(stop.after.saturating_add(days * DAY));
            format!("remove this transition, or keep objects in `{name}` for at least {days}d ({next} after {until})")
        }
        None => "remove this transition: no stay there is cheaper".to_owned(),
    }
}

/// A class whose price is missing is not checked, and the writer should know.
fn unknown(action: &Action<Timer>, stop: &Stop<'_>, what: &str, prices: &PriceBook, sink: &mut Sink) {
    let message = format!(
        "whether moving to `{}` pays is not checked in full: {what} of {} is not in the price book of {}",
        stop.tier.name, stop.class, prices.as_of
    );
    sink.warning(action.at, &action.path, message, "add the price to the price book in the gateway's configuration");
}

/// One remote object per object: below the smallest billed size each pays for bytes that it does not have.
fn small_objects(rule: &DraftRule, tiers: &[At<Tier>], prices: &PriceBook, sink: &mut Sink) {
    let (Some(largest), Some(hot)) = (rule.filter.max_size.filter(|m| *m > 0), prices.hot) else { return };
    for action in &rule.timers {
        let Some(stop) = stop(&action.what, tiers) else { continue };
        let floor = prices.class(stop.class).min_bytes;
        let Some(price) = prices.class(stop.class).storage.filter(|_| largest < floor) else { continue };
        // The largest object that matches is the best case.
        let billed = price.scale(u128::from(floor), u128::from(largest));
        if billed < hot {
            continue;
        }
        let put = prices.requests(stop.class, Request::Put, GB / largest).unwrap_or(Money::ZERO);
        let PriceBook { currency, as_of, .. } = prices;
        let message = format!(
            "objects of at most {} are billed as {} each in {}: {billed} {currency} per GB and month and {put} for PUT, against {hot} \
             on the hot disk (prices of {as_of})",
            format_size(largest),
            format_size(floor),
            stop.class,
        );
        let help = "write `layout: packed`, which puts small objects together, or raise `size.max`";
        sink.error(rule.max_size_at, &format!("{}.filter.size.max", rule.path), message, help);
        return;
    }
}
