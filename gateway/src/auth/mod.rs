//! Who asks, and whether they may: identities, policies, access control lists, and the order in which they decide.
//!
//! Architecture invariant: nothing here reads a clock, the store or the network. The facts come in, the decision goes out;
//! `s3::authority` gathers the facts.

pub mod acl;
pub mod decide;
pub mod identity;
pub mod needs;
pub mod policy;
pub mod settings;
#[cfg(test)]
mod tests;
