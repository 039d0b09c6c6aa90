//! Whether a policy lets in everybody, as S3 understands "public".

use super::document::{Effect, Only, PolicyDocument, Statement};
use super::principal::Principal;

/// Keys whose values, once they are fixed, keep strangers out.
const LIMITING: [&str; 12] = [
    "aws:principalaccount",
    "aws:principalarn",
    "aws:principalorgid",
    "aws:sourceaccount",
    "aws:sourcearn",
    "aws:sourceip",
    "aws:sourceowner",
    "aws:sourcevpc",
    "aws:sourcevpce",
    "aws:userid",
    "aws:username",
    "s3:dataaccesspointarn",
];

impl PolicyDocument {
    /// Whether some statement allows something to everybody, without a condition that fixes who or from where.
    pub fn is_public(&self) -> bool {
        self.statements.iter().any(Statement::is_public)
    }
}

impl Statement {
    fn is_public(&self) -> bool {
        let everybody = match &self.principal {
            Some(Only::These(list)) => list.contains(&Principal::Everyone),
            // Those of users have none, and what allows something names whom.
            None | Some(Only::Others(_)) => false,
        };
        let limited = |condition: &super::condition::Condition| {
            LIMITING.contains(&condition.key.name()) && condition.fixes_values()
        };
        self.effect == Effect::Allow && everybody && !self.conditions.iter().any(limited)
    }
}
