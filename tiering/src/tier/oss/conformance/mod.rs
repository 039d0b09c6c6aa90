//! The conformance recorder: the same requests to a real bucket as to the simulator, and where their answers differ.
//!
//! The simulator's answers ship with the program (`expected.json`); a test records them anew and compares. A run writes below a
//! fresh folder of the tier's prefix, removes everything there when it ends, and only reads the bucket's settings.
//!
//! Architecture invariant: every name of a step is made by `Run::name`, so no request can touch another key.

mod answer;
mod cleanup;
mod exchange;
mod report;
mod suite;
mod suite_archive;
mod suite_parts;
mod tree;

pub use answer::{Answer, Difference};
pub use report::{
    ConformanceCleanup, ConformancePlan, ConformanceRecord, ConformanceReport, ConformanceStep, Outcome, RawAnswer,
    RecordedStep,
};

use super::client::Client;
use super::settings::{OssSettings, SignatureVersion};
use super::{OssTier, credentials::Environment};
use crate::clock::Clock;
use crate::tier::error::TierError;
use crate::tier::metrics::{Operation, TierMetrics};
use answer::Normaliser;
use exchange::{Ask, Raw};
use std::collections::{BTreeMap, BTreeSet};
use std::sync::{Arc, Mutex, PoisonError};

/// The simulator's answers, as `tiering/tests/conformance.rs` recorded them.
const EXPECTED: &str = include_str!("expected.json");
/// Folder of all runs, below the tier's prefix.
const FOLDER: &str = "tidegate-conformance";
/// Name of the fact that the bucket keeps versions, or has kept them.
const VERSIONING: &str = "versioning";

/// A run against the bucket of one tier.
#[derive(Debug)]
pub struct Conformance {
    tier: String,
    client: Arc<Client>,
    clock: Arc<dyn Clock>,
    /// Below the tier's prefix, with its slash.
    folder: String,
    /// Names that were written, for a clean-up that may not list.
    written: Mutex<BTreeSet<String>>,
}

impl Conformance {
    /// A run against the tier called `tier`. Asks nobody anything yet.
    ///
    /// # Errors
    /// `Invalid` for wrong settings, `Denied` when the environment is to hold a key and does not.
    pub fn new(
        tier: &str,
        settings: &OssSettings,
        clock: Arc<dyn Clock>,
        env: Environment<'_>,
    ) -> Result<Self, TierError> {
        let oss = OssTier::new(tier, settings, clock.clone(), env, TierMetrics::new(tier, None)?)?;
        let salt: u64 = rand::random();
        let folder = format!("{FOLDER}/{}-{salt:016x}/", clock.now().millis());
        let client = Arc::clone(oss.client());
        Ok(Self { tier: tier.to_owned(), client, clock, folder, written: Mutex::default() })
    }

    /// What a run will do and cost.
    pub fn plan(&self) -> ConformancePlan {
        let settings = &self.client.settings;
        ConformancePlan::new(&self.tier, &settings.bucket, &self.client.key(&self.folder), &expected())
    }

    /// Runs the suite until its end or until `stop` is ready, and removes what it wrote in any case.
    pub async fn run(&self, stop: impl Future<Output = ()>) -> (ConformanceReport, ConformanceRecord) {
        let started = self.clock.now().to_string();
        let mut run = Run::new(self);
        let (facts, warnings) = self.facts().await;
        let ended = {
            let suite = std::pin::pin!(run.suite());
            let stop = std::pin::pin!(stop);
            match futures::future::select(suite, stop).await {
                futures::future::Either::Left((Ok(()), _)) => None,
                futures::future::Either::Left((Err(error), _)) => Some(error.to_string()),
                futures::future::Either::Right(_) => Some("stopped before the end".to_owned()),
            }
        };
        let record = ConformanceRecord::new(run.steps);
        let cleanup = self.clean(facts.contains_key(VERSIONING)).await;
        let mut report = ConformanceReport::new(&expected(), &record, &run.skipped);
        report.tier = self.tier.clone();
        report.host = self.client.endpoint.host.clone();
        report.bucket = self.client.settings.bucket.clone();
        report.prefix = self.client.key(&self.folder);
        report.started = started;
        report.facts = facts;
        report.warnings = warnings;
        report.error = ended;
        report.cleanup = cleanup;
        (report.judged(), record)
    }

    /// What the bucket says of itself, and what of that Tidegate does not want.
    async fn facts(&self) -> (BTreeMap<String, String>, Vec<String>) {
        let mut facts = BTreeMap::new();
        let mut warnings = Vec::new();
        match self.client.bucket_info().await {
            Ok(info) => {
                if !info.versioning.is_empty() {
                    warnings.push(format!(
                        "versioning of the bucket is {}: answers name versions, and what is deleted is deleted by its version, \
                         which the key must be allowed to do",
                        info.versioning
                    ));
                    facts.insert(VERSIONING.to_owned(), info.versioning);
                }
                facts.insert("location".to_owned(), info.location);
                facts.insert("storage class".to_owned(), info.storage_class);
                facts.insert("redundancy".to_owned(), info.redundancy);
            }
            Err(error) => warnings.push(format!("the bucket's settings are not known: {error}")),
        }
        match self.client.bucket_lifecycle().await {
            Ok(None) => {
                facts.insert("lifecycle rules".to_owned(), "none".to_owned());
            }
            Ok(Some(document)) => {
                let rules = tree::Node::parse(document.as_bytes()).map_or(0, |node| node.children.len());
                facts.insert("lifecycle rules".to_owned(), rules.to_string());
                warnings.push(format!(
                    "the bucket has {rules} lifecycle rules: none may move or delete what is below the tier's prefix"
                ));
            }
            Err(error) => warnings.push(format!("the bucket's lifecycle rules are not known: {error}")),
        }
        (facts, warnings)
    }

    fn note(&self, name: &str) {
        self.written.lock().unwrap_or_else(PoisonError::into_inner).insert(name.to_owned());
    }
}

/// The answers that the simulator gives. An unreadable file would be one that no test has seen: nothing is expected then.
fn expected() -> ConformanceRecord {
    serde_json::from_str(EXPECTED).unwrap_or_default()
}

/// The suite under way.
struct Run<'a> {
    of: &'a Conformance,
    normal: Normaliser,
    steps: Vec<RecordedStep>,
    skipped: BTreeMap<String, String>,
}

impl<'a> Run<'a> {
    fn new(of: &'a Conformance) -> Self {
        let normal = Normaliser::new(&of.client.settings.bucket, &of.client.key(&of.folder), &of.folder);
        Self { of, normal, steps: Vec::new(), skipped: BTreeMap::new() }
    }

    /// The name, below the tier's prefix, of what the suite calls `name`.
    fn name(&self, name: &str) -> String {
        format!("{}{name}", self.of.folder)
    }

    /// The key of a name.
    fn key(&self, name: &str) -> String {
        self.of.client.key(name)
    }

    fn copy_source(&self, name: &str) -> String {
        self.of.client.copy_source(name)
    }

    fn signature(&self) -> SignatureVersion {
        self.of.client.settings.signature
    }

    fn skip(&mut self, step: &str, why: &str) {
        self.skipped.insert(step.to_owned(), why.to_owned());
    }

    /// Sends one request and records its answer.
    async fn step(&mut self, step: &'static str, ask: Ask) -> Result<Raw, TierError> {
        if let Some(name) = writes(&ask) {
            self.of.note(name);
        }
        let raw = self.of.client.ask(&ask).await?;
        self.record(step, &ask, &raw);
        Ok(raw)
    }

    /// The same, where the request holds a text that is different in each run.
    async fn step_hiding(
        &mut self,
        step: &'static str,
        ask: Ask,
        hide: (&str, &'static str),
    ) -> Result<Raw, TierError> {
        self.normal.hide(hide.0, hide.1);
        self.step(step, ask).await
    }

    /// The same, where the answer holds such a text; returns it.
    async fn step_finding(
        &mut self,
        step: &'static str,
        ask: Ask,
        find: impl Fn(&Raw) -> Option<String>,
        place: &'static str,
    ) -> Result<Option<String>, TierError> {
        let raw = self.of.client.ask(&ask).await?;
        let found = find(&raw);
        if let Some(found) = &found {
            self.normal.hide(found, place);
        }
        self.record(step, &ask, &raw);
        Ok(found)
    }

    fn record(&mut self, step: &'static str, ask: &Ask, raw: &Raw) {
        let (request, answer) = (self.normal.request(ask), self.normal.answer(ask, raw));
        let writes = writes(ask).map(|name| self.normal.text(name));
        let raw = Some(RawAnswer::new(raw, &answer));
        self.steps.push(RecordedStep { step: step.to_owned(), request, writes, answer, raw });
    }
}

/// The name that a request writes, or tries to.
fn writes(ask: &Ask) -> Option<&str> {
    let operation = ask.call.operation;
    let writes = matches!(operation, Operation::PutObject | Operation::CopyObject | Operation::CompleteMultipartUpload);
    ask.call.name.as_deref().filter(|_| writes)
}
