//! Who asks, and whether they may: identities, policies, access control lists, and the order in which they decide.
//!
//! Architecture invariant: nothing here reads a clock, the store or the network. The facts come in, the decision goes out;
//! `s3::access` gathers the facts.

pub mod identity;
pub mod policy;
