//! What a policy says to one request.

use super::condition::Context;
use super::document::{Effect, Only, PolicyDocument, Statement};
use super::principal::Principal;
use crate::auth::identity::Caller;

/// One action that a caller asks for.
pub struct Ask<'a> {
    /// Who asks.
    pub caller: &'a Caller,
    /// For what, such as `s3:GetObject`.
    pub action: &'a str,
    /// On what: an ARN.
    pub resource: &'a str,
    /// The values of condition keys.
    pub context: &'a dyn Context,
}

/// How a statement that allows means the caller.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub enum Reach {
    /// By the account: it depends on the account whom of its users it lets.
    Account,
    /// By name, or as everyone.
    Direct,
}

/// What a policy says.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub struct Verdict {
    /// A statement denies it.
    pub denied: bool,
    /// A statement allows it.
    pub allowed: Option<Reach>,
}

impl PolicyDocument {
    /// What the policy says; a denial ends the search.
    pub fn judge(&self, ask: &Ask<'_>) -> Verdict {
        let mut verdict = Verdict::default();
        let action = ask.action.to_ascii_lowercase();
        for statement in &self.statements {
            let Some(reach) = statement.reach(ask, &action) else { continue };
            match statement.effect {
                Effect::Deny => return Verdict { denied: true, allowed: None },
                Effect::Allow => verdict.allowed = verdict.allowed.max(Some(reach)),
            }
        }
        verdict
    }
}

impl Statement {
    fn reach(&self, ask: &Ask<'_>, action: &str) -> Option<Reach> {
        let reach = match &self.principal {
            _ if self.is_about_others() => None,
            None => Some(Reach::Direct),
            Some(Only::These(list)) => Principal::reach_of(list, ask.caller),
            Some(Only::Others(list)) => Principal::reach_of(list, ask.caller).is_none().then_some(Reach::Direct),
        }?;
        let means = self.action.holds(|pattern| pattern.matches(action, ask.context))
            && self.resource.holds(|resource| resource.matches(ask.resource, ask.context))
            && self.conditions.iter().all(|condition| condition.holds(ask.context));
        means.then_some(reach)
    }
}
