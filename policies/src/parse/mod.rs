//! Reading and checking a policy document.

mod decode;
mod draft;
mod fields;
mod filter;
mod node;
mod noncurrent;
mod protect;

use crate::class::Class;
use crate::diagnostic::{Diagnostic, Place, Severity, Sink};
use crate::policy::Policy;
use crate::price::PriceBook;
pub(crate) use draft::{Action, At, Draft, DraftProtection, DraftRule};

/// Largest document, in bytes.
pub const MAX_DOCUMENT_BYTES: usize = 1 << 20;
/// Most tiers in the chain.
pub const MAX_TIERS: usize = 16;
/// Most rules in a document, and most protections; OSS and S3 set the same limit for rules.
pub const MAX_RULES: usize = 1000;
/// Most transitions in a rule.
pub const MAX_ACTIONS: usize = 64;
/// Most tags or metadata conditions in a filter.
pub const MAX_PAIRS: usize = 64;

/// A tier as the gateway's configuration has it, for checking a policy against it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct ConfiguredTier {
    /// Its name.
    pub name: String,
    /// Its storage class, when it has one.
    pub class: Option<Class>,
}

/// What a policy is checked against.
#[derive(Debug, Clone, Default)]
pub struct CheckOptions {
    /// The prices for the cost checks.
    pub prices: PriceBook,
    /// The tiers that exist. `None` when the configuration is not at hand: names are then taken as they are.
    pub configured_tiers: Option<Vec<ConfiguredTier>>,
}

/// What came of a check: the policy when it has no errors, and everything that was found.
#[derive(Debug, Clone)]
pub struct Report {
    /// The compiled policy; `None` when there is an error.
    pub policy: Option<Policy>,
    /// Errors and warnings in the order of the text.
    pub diagnostics: Vec<Diagnostic>,
}

/// Reads and checks `text` with the default price book. `source_name` is named in the findings.
///
/// # Errors
/// All findings, when at least one of them is an error. Warnings of an accepted policy are only in [`check()`].
pub fn parse(source_name: &str, text: &str) -> Result<Policy, Vec<Diagnostic>> {
    let report = check(source_name, text, &CheckOptions::default());
    report.policy.ok_or(report.diagnostics)
}

/// Reads and checks `text` against `options`. `source_name` is named in the findings.
pub fn check(source_name: &str, text: &str, options: &CheckOptions) -> Report {
    let mut sink = Sink::new(source_name);
    let draft = read(text, options, &mut sink);
    let policy = draft.filter(|_| !sink.has_errors()).map(Draft::compile);
    let diagnostics = sink.finish();
    debug_assert!(policy.is_none() || diagnostics.iter().all(|d| d.severity == Severity::Warning));
    Report { policy, diagnostics }
}

fn read(text: &str, options: &CheckOptions, sink: &mut Sink) -> Option<Draft> {
    if text.len() > MAX_DOCUMENT_BYTES {
        let message = format!("the document has {} bytes, the limit is {MAX_DOCUMENT_BYTES}", text.len());
        sink.error(Place { line: 1, column: 1 }, "", message, "merge rules, or check that this is the right file");
        return None;
    }
    let root = node::read(text, sink)?;
    let draft = decode::document(&root, sink)?;
    crate::check::draft(&draft, options, sink);
    Some(draft)
}

/// The fields that the reader knows, by the schema's name of the type ("" for the document).
#[cfg(test)]
pub(crate) fn all_fields() -> [(&'static str, &'static [&'static str]); 12] {
    [
        ("", decode::DOCUMENT_FIELDS),
        ("Metadata", decode::METADATA_FIELDS),
        ("DocumentTier", decode::TIER_FIELDS),
        ("DocumentProtection", protect::PROTECTION_FIELDS),
        ("DocumentRule", decode::RULE_FIELDS),
        ("DocumentTransition", decode::TRANSITION_FIELDS),
        ("DocumentExpiration", decode::EXPIRATION_FIELDS),
        ("DocumentNoncurrentTransition", noncurrent::TRANSITION_FIELDS),
        ("DocumentNoncurrentExpiration", noncurrent::EXPIRATION_FIELDS),
        ("DocumentAbort", decode::ABORT_FIELDS),
        ("DocumentFilter", filter::FILTER_FIELDS),
        ("SizeRange", filter::SIZE_FIELDS),
    ]
}
