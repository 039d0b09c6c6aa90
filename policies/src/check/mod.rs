//! Checks across fields and across rules, on a draft whose fields are fine by themselves.

use crate::diagnostic::Sink;
use crate::parse::{CheckOptions, Draft};

/// Runs all checks; the findings go to `sink`.
pub(crate) fn draft(_draft: &Draft, _options: &CheckOptions, _sink: &mut Sink) {}
