//! Dry runs: what is asked, the actions to come, and their bill.

use super::Amount;
use crate::clock::Timestamp;
use serde::{Deserialize, Serialize};

/// Asks what the policy will do. Has no side effect and costs nothing.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields, default)]
pub struct PlanRequest {
    /// Only this bucket.
    pub bucket: Option<String>,
    /// Only keys that start with this.
    pub prefix: String,
    /// How far to look ahead, in milliseconds.
    pub horizon_ms: u64,
    /// At most this many actions are listed; the totals count all.
    pub limit: usize,
}

impl Default for PlanRequest {
    /// Thirty days ahead, 1,000 actions.
    fn default() -> Self {
        Self { bucket: None, prefix: String::new(), horizon_ms: 30 * 86_400_000, limit: 1000 }
    }
}

/// What the policy will do.
#[derive(Debug, Clone, Default, PartialEq, Serialize, Deserialize)]
#[serde(default)]
pub struct PlanReport {
    /// When the plan was made.
    pub now: Timestamp,
    /// Up to when it looks.
    pub until: Timestamp,
    /// The first actions, by time.
    pub actions: Vec<PlannedAction>,
    /// There are more actions than were listed.
    pub truncated: bool,
    /// Sums by rule and decision.
    pub rules: Vec<PlannedRule>,
    /// All transitions.
    pub transitions: Amount,
    /// All expirations.
    pub expirations: Amount,
    /// All bodies that are brought to a tier and stay hot.
    pub protections: Amount,
    /// What it costs, where the price book knows the tiers.
    pub cost: Option<PlanCost>,
}

/// One action to come. The order is that of time, then of names.
#[derive(Debug, Clone, Default, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize)]
#[serde(default)]
pub struct PlannedAction {
    /// When.
    pub when: Timestamp,
    /// Bucket.
    pub bucket: String,
    /// Key.
    pub key: String,
    /// Logical bytes.
    pub size: u64,
    /// `transition to ia`, `expire`, ...
    pub decision: String,
    /// Id of the rule.
    pub rule: String,
}

/// What one rule does within the horizon.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(default)]
pub struct PlannedRule {
    /// Id of the rule.
    pub rule: String,
    /// `transition to ia`, `expire`, ...
    pub decision: String,
    /// Objects.
    pub objects: u64,
    /// Their logical bytes.
    pub bytes: u64,
}

/// What a plan costs.
#[derive(Debug, Clone, Default, PartialEq, Serialize, Deserialize)]
#[serde(default)]
pub struct PlanCost {
    /// The price book's, such as `CNY`.
    pub currency: String,
    /// Requests, once.
    pub requests: f64,
    /// Reading what moves on from one tier to a colder one, once.
    pub retrieval: f64,
    /// The rest of minimum durations of what leaves a tier early, once.
    pub early_deletion: f64,
    /// A month's storage of what moves or expires, where it is now: on the hot disk by the book's `hot`.
    pub storage_month_before: f64,
    /// The same after the plan; what expired costs nothing any more.
    pub storage_month_after: f64,
}
