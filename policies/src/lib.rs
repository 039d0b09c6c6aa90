//! PLACEHOLDER until the policies are merged.
#![allow(missing_docs)]
use std::fmt;

#[derive(Debug, Clone, Default)]
pub struct Policy;
#[derive(Debug, Clone)]
pub struct Tier {
    pub name: String,
}
impl Policy {
    pub fn none() -> Self {
        Self
    }
    pub fn name(&self) -> &str {
        "none"
    }
    pub fn tiers(&self) -> &[Tier] {
        &[]
    }
}

#[derive(Debug, Clone, Copy, PartialEq, Eq, serde::Serialize)]
#[serde(rename_all = "lowercase")]
pub enum Severity {
    Error,
    Warning,
}
#[derive(Debug, Clone, PartialEq, Eq, serde::Serialize)]
pub struct Diagnostic {
    pub severity: Severity,
    pub file: String,
    pub line: u64,
    pub column: u64,
    pub field: String,
    pub message: String,
    pub help: String,
}
impl fmt::Display for Diagnostic {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}:{}:{}: {}: {}", self.file, self.line, self.column, self.field, self.message)
    }
}
pub fn parse(_source_name: &str, _text: &str) -> Result<Policy, Vec<Diagnostic>> {
    Ok(Policy)
}
pub fn schema() -> serde_json::Value {
    serde_json::json!({})
}
