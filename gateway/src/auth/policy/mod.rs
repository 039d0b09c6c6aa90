//! The policy language of S3: documents, principals, patterns, conditions, and what a document says to one request.
//!
//! A document is checked wholly when it is parsed, so that judging a request cannot fail.

mod actions;
mod condition;
mod document;
mod json;
mod judge;
mod pattern;
mod principal;
mod public;

#[cfg(test)]
mod tests;

pub use condition::{Context, Key};
pub use document::{Effect, PolicyDocument, PolicyError};
pub use judge::{Ask, Reach, Verdict};
pub use pattern::wildcard;
