//! What is recorded, compared and announced.

use super::answer::{Answer, Difference};
use super::exchange::Raw;
use serde::{Deserialize, Serialize};
use std::collections::{BTreeMap, BTreeSet};
use tidegate_policies::{Class, PriceBook, Request, RetrievalSpeed};

/// Version of [`ConformanceRecord`].
const FORMAT: u32 = 1;
/// Longest body that a record keeps, in bytes.
const MAX_BODY: usize = 16 << 10;
/// Codes whose documents repeat what was signed, a temporary key's token included.
const SECRET_CODES: &[&str] = &["SignatureDoesNotMatch"];
/// Elements that do, whatever the code of their document.
const SIGNED_TEXTS: &[&str] = &["StringToSign", "StringToSignBytes", "CanonicalRequest"];

/// The answers of one run, in their order.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct ConformanceRecord {
    /// Version of this format.
    pub format: u32,
    /// The steps.
    pub steps: Vec<RecordedStep>,
}

/// One request and its answer.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct RecordedStep {
    /// Name of the step.
    pub step: String,
    /// The request, in one line, without its signature.
    pub request: String,
    /// The object that it writes, or tries to.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub writes: Option<String>,
    /// What is compared.
    pub answer: Answer,
    /// The answer as it came.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub raw: Option<RawAnswer>,
}

/// An answer as it came.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct RawAnswer {
    /// HTTP status.
    pub status: u16,
    /// All headers, in their order.
    pub headers: Vec<(String, String)>,
    /// The body, when it is text of at most 16 KiB that repeats no secret; else what it is.
    pub body: String,
}

impl RawAnswer {
    pub(super) fn new(raw: &Raw, answer: &Answer) -> Self {
        let signed = raw.document().is_some_and(|node| SIGNED_TEXTS.iter().any(|name| node.text_of(name).is_some()));
        let secret = signed || SECRET_CODES.contains(&answer.code.as_str());
        let headers = raw
            .headers
            .iter()
            .filter(|(name, _)| !secret || name.as_str() != "x-oss-err")
            .map(|(name, value)| (name.to_string(), String::from_utf8_lossy(value.as_bytes()).into_owned()))
            .collect();
        let body = match std::str::from_utf8(&raw.body) {
            _ if secret => "(left out: it repeats what was signed)".to_owned(),
            Ok(text) if text.len() <= MAX_BODY && !text.contains('\0') => text.to_owned(),
            _ => format!("({} bytes)", raw.body.len()),
        };
        Self { status: raw.status, headers, body }
    }
}

impl ConformanceRecord {
    pub(super) fn new(steps: Vec<RecordedStep>) -> Self {
        Self { format: FORMAT, steps }
    }

    /// Without the answers as they came: what ships with the program.
    pub fn without_raw(mut self) -> Self {
        for step in &mut self.steps {
            step.raw = None;
        }
        self
    }
}

/// What came of a step.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum Outcome {
    /// The store answers as the simulator does.
    Same,
    /// It does not.
    Different,
    /// It was not asked.
    Skipped,
}

/// One step, compared.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct ConformanceStep {
    /// Name of the step.
    pub step: String,
    /// The request in one line.
    pub request: String,
    /// What came of it.
    pub outcome: Outcome,
    /// Where the answers differ.
    pub differences: Vec<Difference>,
    /// Why it was not asked.
    #[serde(default, skip_serializing_if = "String::is_empty")]
    pub why: String,
}

/// What the clean-up did.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct ConformanceCleanup {
    /// Names that were deleted, or were not there any more.
    pub deleted: usize,
    /// Versions and markers that were deleted, in a bucket that keeps versions.
    #[serde(default)]
    pub versions: usize,
    /// Uploads that were aborted.
    pub aborted: usize,
    /// Keys that are still there; or may be, when they could be neither deleted nor listed.
    pub left: Vec<String>,
    /// What went wrong.
    pub errors: Vec<String>,
}

/// A run, compared.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct ConformanceReport {
    /// Every step was asked, or skipped for a reason, none is different, and nothing is left.
    pub ok: bool,
    /// Name of the tier.
    pub tier: String,
    /// Host that was asked.
    pub host: String,
    /// The bucket.
    pub bucket: String,
    /// What all keys of the run started with.
    pub prefix: String,
    /// When it began.
    pub started: String,
    /// Steps whose answers are the same.
    pub same: usize,
    /// Steps whose answers are not.
    pub different: usize,
    /// Steps that were not asked.
    pub skipped: usize,
    /// What the bucket says of itself.
    pub facts: BTreeMap<String, String>,
    /// What of the bucket's settings Tidegate does not want.
    pub warnings: Vec<String>,
    /// The steps in their order.
    pub steps: Vec<ConformanceStep>,
    /// What the clean-up did.
    pub cleanup: ConformanceCleanup,
    /// Why the run ended before its end.
    pub error: Option<String>,
}

impl ConformanceReport {
    /// Compares what was recorded with what is expected.
    pub(super) fn new(
        expected: &ConformanceRecord,
        got: &ConformanceRecord,
        skipped: &BTreeMap<String, String>,
    ) -> Self {
        let find = |name: &str| got.steps.iter().find(|step| step.step == name);
        let compare = |wanted: &RecordedStep| {
            let (step, request) = (wanted.step.clone(), wanted.request.clone());
            match (find(&step), skipped.get(&step)) {
                (Some(got), _) => {
                    let differences = wanted.answer.differences(&got.answer);
                    let outcome = if differences.is_empty() { Outcome::Same } else { Outcome::Different };
                    ConformanceStep { step, request, outcome, differences, why: String::new() }
                }
                (None, why) => {
                    let why = why.cloned().unwrap_or_else(|| "an earlier step did not give what it needs".to_owned());
                    ConformanceStep { step, request, outcome: Outcome::Skipped, differences: Vec::new(), why }
                }
            }
        };
        let steps: Vec<ConformanceStep> = expected.steps.iter().map(compare).collect();
        let count = |outcome| steps.iter().filter(|step| step.outcome == outcome).count();
        let (same, different) = (count(Outcome::Same), count(Outcome::Different));
        Self { same, different, skipped: count(Outcome::Skipped), steps, ..Self::default() }
    }

    /// With its verdict.
    pub(super) fn judged(mut self) -> Self {
        let clean = self.cleanup.left.is_empty() && self.cleanup.errors.is_empty();
        self.ok = self.error.is_none() && self.different == 0 && self.same > 0 && clean;
        self
    }
}

/// What a run will do, said before it does it.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub struct ConformancePlan {
    /// Name of the tier.
    pub tier: String,
    /// The bucket.
    pub bucket: String,
    /// What all keys of the run start with.
    pub prefix: String,
    /// How many objects are written, all small.
    pub objects: u64,
    /// How many requests, the clean-up included, when none has to be repeated.
    pub requests: u64,
    /// Upper bound of the cost, in the price book's currency.
    pub cost: String,
    /// The currency.
    pub currency: String,
    /// Date of the prices.
    pub prices_as_of: String,
}

impl ConformancePlan {
    /// For the requests of `suite`.
    pub(super) fn new(tier: &str, bucket: &str, prefix: &str, suite: &ConformanceRecord) -> Self {
        let count = |steps: &mut dyn Iterator<Item = &RecordedStep>| {
            steps.filter_map(|step| step.writes.as_deref()).collect::<BTreeSet<&str>>().len() as u64
        };
        let tried = count(&mut suite.steps.iter());
        let objects = count(&mut suite.steps.iter().filter(|step| step.answer.status == 200));
        // Beside the steps: two settings of the bucket, and the clean-up, which lists three times and deletes each name.
        let requests = (suite.steps.len() as u64).saturating_add(5).saturating_add(tried);
        let book = PriceBook::default();
        // One object of each; every request, and as many again to delete what a bucket with versions keeps, at the price of the
        // dearest of these classes; a class without a price counts nothing.
        let billed = requests.saturating_mul(2);
        let classes = [Class::Ia, Class::Archive, Class::ColdArchive];
        let dearest = classes.iter().filter_map(|c| book.requests(*c, Request::Put, billed)).max().unwrap_or_default();
        let kept = classes.iter().filter_map(|c| book.early_deletion(*c, 1, 0));
        let restored = [
            (Class::Archive, RetrievalSpeed::Normal),
            (Class::ColdArchive, RetrievalSpeed::Bulk),
            (Class::ColdArchive, RetrievalSpeed::Normal),
        ];
        let restored = restored.iter().filter_map(|(c, speed)| book.retrieval(*c, *speed, 100, 1));
        let cost = kept.chain(restored).fold(dearest, |sum, money| sum + money);
        // Up to the next ten-thousandth.
        let tenths = cost.nanos().div_ceil(100_000);
        Self {
            tier: tier.to_owned(),
            bucket: bucket.to_owned(),
            prefix: prefix.to_owned(),
            objects,
            requests,
            cost: format!("{}.{:04}", tenths / 10_000, tenths % 10_000),
            currency: book.currency,
            prices_as_of: book.as_of,
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn step(name: &str, status: u16) -> RecordedStep {
        let answer = Answer {
            status,
            code: String::new(),
            ec: String::new(),
            headers: BTreeMap::new(),
            bytes: String::new(),
            document: Vec::new(),
        };
        RecordedStep { step: name.to_owned(), request: "GET x".to_owned(), writes: None, answer, raw: None }
    }

    #[test]
    fn steps_are_compared_by_name_and_a_missing_one_is_not_taken_for_the_same() {
        let expected = ConformanceRecord::new(vec![step("a", 200), step("b", 200), step("c", 200), step("d", 200)]);
        let got = ConformanceRecord::new(vec![step("b", 500), step("a", 200)]);
        let skipped = BTreeMap::from([("c".to_owned(), "no region".to_owned())]);
        let report = ConformanceReport::new(&expected, &got, &skipped).judged();
        assert_eq!((report.ok, report.same, report.different, report.skipped), (false, 1, 1, 2));
        assert_eq!(report.steps[1].differences[0].what, "status");
        assert_eq!(report.steps[2].why, "no region");
        assert!(report.steps[3].why.contains("earlier step"));
    }

    #[test]
    fn what_is_left_behind_is_a_failure_even_when_all_answers_are_the_same() {
        let record = ConformanceRecord::new(vec![step("a", 200)]);
        let report = || ConformanceReport::new(&record, &record, &BTreeMap::new());
        assert!(report().judged().ok);
        let cleanup = ConformanceCleanup { left: vec!["k".into()], ..ConformanceCleanup::default() };
        assert!(!ConformanceReport { cleanup, ..report() }.judged().ok);
        assert!(!ConformanceReport { error: Some("stopped".into()), ..report() }.judged().ok);
    }

    #[test]
    fn what_was_signed_is_not_kept_whatever_the_code_of_the_answer() {
        use crate::tier::oss::encode;
        use bytes::Bytes;
        use reqwest::header::{HeaderMap, HeaderValue};
        for (element, kept) in [("StringToSign", false), ("CanonicalRequest", false), ("Key", true)] {
            let document = format!("<Error><Code>AccessDenied</Code><{element}>psst</{element}></Error>");
            let mut headers = HeaderMap::new();
            headers.insert("x-oss-err", HeaderValue::from_str(&encode::base64(document.as_bytes())).unwrap());
            let answer = Answer { code: "AccessDenied".to_owned(), ..step("a", 403).answer };
            let of_head = RawAnswer::new(&Raw { status: 403, headers, body: Bytes::new() }, &answer);
            assert_eq!(of_head.headers.len(), usize::from(kept), "{element}");
            let raw = Raw { status: 403, headers: HeaderMap::new(), body: Bytes::from(document) };
            assert_eq!(RawAnswer::new(&raw, &answer).body.contains("psst"), kept, "{element}");
        }
    }

    #[test]
    fn the_cost_is_small_and_not_nothing() {
        let write = |name: &str, status| RecordedStep { writes: Some(name.to_owned()), ..step("put", status) };
        let suite = ConformanceRecord::new(vec![write("a", 200), write("a", 200), write("b", 400), step("get", 200)]);
        let plan = ConformancePlan::new("ia", "b", "p/", &suite);
        assert_eq!((plan.objects, plan.requests), (1, 11));
        let cost: f64 = plan.cost.parse().unwrap();
        assert!(cost > 0.0 && cost < 0.05, "{}", plan.cost);
    }
}
