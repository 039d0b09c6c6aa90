//! Tidegate's lifecycle rules: reading them, checking them, and deciding by them.
//!
//! Architecture invariant: everything here is pure. No clock, no disk, no network; `now` and the facts about an object come
//! in, decisions go out. Nothing here knows chunks, packs, jobs or HTTP.
//!
//! A policy is a YAML document (`docs/policies.md`). [`parse()`] and [`check()`] read it and report everything that is wrong
//! with it, each finding with its place and the way out. [`Policy::evaluate`] answers what is due for an object and when
//! to ask again, so that a scheduler does work only for what is due. [`Policy::explain`] says why.
//!
//! The order of precedence among rules is total and written down at [`Policy::evaluate`] and in `docs/policies.md`.
//!
//! | files | what |
//! |---|---|
//! | `document.rs`, `parse/` | the document and its JSON Schema; reading it with places |
//! | `check/` | what is wrong or pointless: contradictions, unreachable rules, transitions that only lose money |
//! | `policy.rs`, `filter.rs`, `class.rs`, `units.rs` | a policy in memory |
//! | `evaluate.rs`, `explain.rs` | decisions, and their reasons |
//! | `bucket.rs` | the lifecycle that S3 clients set for one bucket, joined with the policy |
//! | `price.rs`, `money.rs` | the price book; money is integers |
//!
//! A [`Policy`] is immutable and may be used from any thread. The layout `native` is part of the schema and refused by the
//! check: it is not built.

pub mod bucket;
mod check;
mod class;
mod diagnostic;
pub mod document;
mod evaluate;
mod explain;
mod filter;
mod money;
mod parse;
mod policy;
mod price;
mod units;

pub use class::Class;
pub use diagnostic::{Diagnostic, Severity};
pub use document::schema;
pub use explain::{ActionExplanation, ActionState, RuleExplanation, Trigger};
pub use filter::FilterField;
pub use money::Money;
pub use parse::{
    CheckOptions, ConfiguredTier, MAX_ACTIONS, MAX_DOCUMENT_BYTES, MAX_PAIRS, MAX_RULES, MAX_TIERS, Report, check,
    parse,
};
pub use policy::{Decision, Layout, ObjectFacts, Policy, Rule, RuleRef, Since, Tier, Verdict, Version};
pub use price::{ClassPrices, Estimate, GB, MONTH, PriceBook, Request, RetrievalPrices, RetrievalSpeed};
pub use units::DAY;

/// Milliseconds: since the Unix epoch for a time, or the length of a duration.
pub type Millis = u64;
