//! Two accounts of the same requests: the engine's own, from its metrics, and the service's, from the simulator's record and
//! its bill. What each side can know:
//!
//! - An answer is known to both, by its status and code.
//! - A request without an answer is known to both as such. Whether it had its effect (and is on the bill) before the
//!   connection broke is known to the service alone; that is the one thing taken from its record.
//! - The bill has what was answered with success, and nothing else.

#![allow(dead_code, clippy::unwrap_used, clippy::expect_used)] // each test file uses its part

use oss_sim::{Class, Code, Exchange, Line};
use std::collections::BTreeMap;

/// The one code of 503 that comes without a wish for a delay in a plan, as from a service that is down rather than busy.
pub const DOWN: &str = "ServiceUnavailable";

/// A tier of the run: its name, its bucket, the class of all that is in it.
#[derive(Debug, Clone, Copy)]
pub struct Place {
    pub tier: &'static str,
    pub bucket: &'static str,
    pub class: Class,
}

/// Number of requests by tier, operation and outcome.
pub type Account = BTreeMap<(String, String, String), u64>;

/// The engine's account.
pub fn ours(registry: &prometheus::Registry) -> Account {
    let mut all = Account::new();
    for family in registry.gather().iter().filter(|f| f.name() == "tidegate_tier_requests_total") {
        for metric in family.get_metric() {
            let label = |name: &str| metric.get_label().iter().find(|l| l.name() == name).unwrap().value().to_owned();
            let count = metric.get_counter().get_value() as u64;
            if count > 0 {
                all.insert((label("tier"), label("operation"), label("outcome")), count);
            }
        }
    }
    all
}

/// A counter of one tier.
pub fn counter(registry: &prometheus::Registry, name: &str, tier: Option<&str>) -> u64 {
    let families = registry.gather();
    let metrics = families.iter().filter(|f| f.name() == name).flat_map(|f| f.get_metric());
    let of_tier = |m: &&prometheus::proto::Metric| match tier {
        Some(tier) => m.get_label().iter().any(|l| l.name() == "tier" && l.value() == tier),
        None => true,
    };
    metrics.filter(of_tier).map(|m| m.get_counter().get_value() as u64).sum()
}

/// What a client should make of an exchange; written from the documents, not from the client.
fn outcome(exchange: &Exchange) -> &'static str {
    if exchange.broken_off {
        return "local";
    }
    if !exchange.answered {
        return "no_answer";
    }
    let write = matches!(exchange.operation, "PutObject" | "UploadPart");
    match (exchange.status, exchange.code.as_str()) {
        (200..300, _) if write && exchange.fault == Some("flip") => "corrupt",
        (200..300, _) => "ok",
        (404, "NoSuchKey" | "NoSuchUpload") => "not_found",
        (403, "InvalidObjectState") => "frozen",
        (403, _) => "denied",
        (503, code) if code != DOWN => "throttled",
        (500.., _) => "unavailable",
        _ => "invalid",
    }
}

/// The service's account, in the engine's words.
pub fn theirs(exchanges: &[Exchange], places: &[Place]) -> Account {
    let mut all = Account::new();
    for exchange in exchanges {
        let place = places.iter().find(|p| Some(p.bucket) == exchange.bucket.as_deref()).expect("a bucket of the run");
        let key = (place.tier.to_owned(), exchange.operation.to_owned(), outcome(exchange).to_owned());
        *all.entry(key).or_default() += 1;
    }
    all
}

/// The lines of the bill that count requests.
type Requests = BTreeMap<(Code, Class), u64>;

fn add(bill: &mut Requests, operation: &str, class: Class, count: u64) {
    // Lists and deletes are of PUT type.
    let get = operation.starts_with("Get") || operation.starts_with("Head");
    *bill.entry((if get { Code::GetRequest } else { Code::PutRequest }, class)).or_default() += count;
}

/// The bill as the engine reckons it from its own account, with what was done without an answer from the service's record.
pub fn reckoned(ours: &Account, exchanges: &[Exchange], places: &[Place]) -> Requests {
    let mut bill = Requests::new();
    for ((tier, operation, outcome), count) in ours {
        if outcome == "ok" || outcome == "corrupt" {
            let place = places.iter().find(|p| p.tier == tier).expect("a tier of the run");
            // A list is about the bucket and not about objects of a class.
            let class = if operation.starts_with("List") { Class::Standard } else { place.class };
            add(&mut bill, operation, class, *count);
        }
    }
    for exchange in exchanges.iter().filter(|e| !e.answered) {
        for (class, count) in &exchange.billed {
            add(&mut bill, exchange.operation, *class, *count);
        }
    }
    bill
}

/// The bill as the service wrote it.
pub fn billed(lines: &[Line]) -> Requests {
    let requests = lines.iter().filter(|l| matches!(l.code, Code::GetRequest | Code::PutRequest));
    requests.map(|l| ((l.code, l.class), l.quantity as u64)).collect()
}

/// Bytes read from a class that has a price for reading: as billed, and as reckoned.
pub fn retrieved(lines: &[Line], exchanges: &[Exchange], registry: &prometheus::Registry, place: Place) -> (u64, u64) {
    let line = lines.iter().find(|l| l.code == Code::RetrievalData && l.class == place.class);
    let lost: u64 =
        exchanges.iter().filter(|e| !e.answered && e.bucket.as_deref() == Some(place.bucket)).map(|e| e.bytes).sum();
    let known = counter(registry, "tidegate_tier_retrieved_bytes_total", Some(place.tier));
    (line.map_or(0, |l| l.quantity as u64), known + lost)
}
