//! Keys that end: refused by the store, not renewed by their source, rotated every few seconds under load.
#![allow(clippy::unwrap_used, clippy::panic)] // helpers of tests, which clippy does not know as such

mod wire;

use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::{Duration, Instant};
use tidegate_tiering::clock::{Clock, ManualClock, SystemClock};
use tidegate_tiering::tier::oss::credentials::CredentialsSpec;
use tidegate_tiering::tier::oss::{OssSettings, OssTier};
use tidegate_tiering::tier::{Operation, Outcome, TierErrorKind, TierMetrics};
use wire::keys::{HOUR, grant, key_of, put, spec, store, tier};
use wire::{Reply, Server};

#[tokio::test]
async fn a_key_that_the_store_refuses_is_fetched_anew_once_it_can_be_and_told_when_it_cannot() {
    // The store knows the second key only, as after a rotation that nobody announced.
    let store = Server::start(|_, request| match request.header("x-oss-security-token") {
        "token-2" => Reply::new(200),
        _ => Reply::new(403).body("<Error><Code>SecurityTokenExpired</Code><EC>0002-00000007</EC></Error>"),
    })
    .await;
    let issued = Arc::new(AtomicU64::new(0));
    let counter = issued.clone();
    let service = Server::start(move |_, _| {
        Reply::new(200).body(grant(&(counter.fetch_add(1, Ordering::SeqCst) + 1).to_string(), HOUR))
    })
    .await;
    let text = format!(r#"{{"source":"uri","uri":"{}"}}"#, service.address);
    let (renewed, _) = tier(&store.address, spec(&text), &|_| None);
    put(&renewed).await.unwrap();
    assert_eq!((issued.load(Ordering::SeqCst), store.requests().len()), (2, 2));
    // Nobody renews a token that stands in the configuration.
    let fixed =
        spec(r#"{"source":"static","access_key_id":"id","access_key_secret":"hush","security_token":"token-1"}"#);
    let error = put(&tier(&store.address, fixed, &|_| None).0).await.unwrap_err();
    assert_eq!((error.kind(), store.requests().len()), (TierErrorKind::Denied, 3));
    assert!(error.to_string().contains("SecurityTokenExpired") && !error.to_string().contains("token-1"), "{error}");
}

#[tokio::test]
async fn a_source_that_fails_leaves_the_valid_key_in_use_and_counts() {
    let store = store().await;
    let service = Server::start(|number, _| match number {
        0 => Reply::new(200).body(grant("first", Duration::from_secs(30))),
        _ => Reply::new(500),
    })
    .await;
    let text = format!(r#"{{"source":"uri","uri":"{}"}}"#, service.address);
    let mut settings = OssSettings::new(&store.address, "cn-hangzhou", "bucket");
    settings.credentials = spec(&text);
    settings.max_attempts = 1;
    let clock = Arc::new(ManualClock::new(SystemClock::default().now()));
    let registry = prometheus::Registry::new();
    let metrics = TierMetrics::new("cold", Some(&registry)).unwrap();
    let tier = OssTier::new("cold", &settings, clock.clone(), &|_| None, metrics).unwrap();
    let failures = || {
        let families = registry.gather();
        let family = families.iter().find(|f| f.name() == "tidegate_tier_credential_failures_total").unwrap();
        family.get_metric()[0].get_counter().get_value() as u64
    };
    put(&tier).await.unwrap();
    assert_eq!(failures(), 0);
    clock.advance(Duration::from_secs(20));
    put(&tier).await.unwrap();
    assert_eq!((key_of(&store).as_str(), failures()), ("first", 1), "in use, and visible");
    clock.advance(Duration::from_secs(15));
    let error = put(&tier).await.unwrap_err();
    assert!(error.kind() == TierErrorKind::Unavailable && error.to_string().contains("status 500"), "{error}");
}

/// A service of each kind whose keys live four seconds; `answer` gives the next one. Returns how a tier names it.
async fn short_lived(kind: &str, answer: impl Fn() -> String + Send + Sync + 'static) -> CredentialsSpec {
    let granting = match kind {
        "uri" => Server::start(move |_, _| Reply::new(200).body(answer())).await,
        "ecs_role" => {
            Server::start(move |_, request| match request.method.as_str() {
                "PUT" => Reply::new(200).body("metadata-token"),
                _ => Reply::new(200).body(answer()),
            })
            .await
        }
        _ => Server::start(move |_, _| Reply::new(200).body(format!(r#"{{"Credentials":{}}}"#, answer()))).await,
    };
    let address = granting.address;
    spec(&match kind {
        "uri" => format!(r#"{{"source":"uri","uri":"{address}"}}"#),
        "ecs_role" => format!(r#"{{"source":"ecs_role","role":"r","endpoint":"{address}"}}"#),
        _ => format!(
            r#"{{"source":"assume_role","role_arn":"r","sts_endpoint":"{address}","base":{{"source":"static",
                "access_key_id":"base","access_key_secret":"s"}}}}"#
        ),
    })
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn keys_that_live_four_seconds_rotate_under_load_without_a_failed_request() {
    // The store refuses a key from the second on that its id names.
    let store = Server::start(|_, request| {
        let token = request.header("x-oss-security-token");
        let expires: u64 = token.rsplit_once('-').unwrap().1.parse().unwrap();
        if SystemClock::default().now().seconds() < expires {
            return Reply::new(200);
        }
        Reply::new(403).body("<Error><Code>SecurityTokenExpired</Code><EC>0002-00000007</EC></Error>")
    })
    .await;
    // All three at a time: the load is the sum.
    let kinds = ["uri", "ecs_role", "assume_role"].map(|kind| rotates(kind, store.address.clone()));
    futures::future::join_all(kinds).await;
}

async fn rotates(kind: &'static str, store: String) {
    let issued = Arc::new(AtomicU64::new(0));
    let counter = issued.clone();
    let next = move || {
        let number = counter.fetch_add(1, Ordering::SeqCst);
        let life = Duration::from_secs(4);
        let expires = SystemClock::default().now().plus(life);
        grant(&format!("{number}-{}", expires.seconds()), life)
    };
    let (tier, metrics) = tier(&store, short_lived(kind, next).await, &|_| None);
    let tier = Arc::new(tier);
    let deadline = Instant::now() + Duration::from_secs(8);
    let workers = (0..8).map(|_| {
        let tier = tier.clone();
        tokio::spawn(async move {
            let mut done = 0u64;
            while Instant::now() < deadline {
                put(&tier).await.unwrap();
                done += 1;
                tokio::time::sleep(Duration::from_millis(5)).await;
            }
            done
        })
    });
    let done: u64 = futures::future::join_all(workers).await.into_iter().map(Result::unwrap).sum();
    let rotations = issued.load(Ordering::SeqCst);
    println!("{kind}: {done} requests, {rotations} keys");
    assert!(done > 100, "{kind}: {done} requests");
    assert!((3..=14).contains(&rotations), "{kind}: {rotations} keys in 8 seconds: one refresh at a time");
    assert_eq!(metrics.count(Operation::PutObject, Outcome::Ok), done, "{kind}");
    assert_eq!(metrics.credential_failures.get(), 0, "{kind}");
}
