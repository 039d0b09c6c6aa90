//! A policy, read and checked.

use super::actions::is_known;
use super::condition::Condition;
use super::json::Json;
use super::pattern::Pattern;
use super::principal::Principal;

/// Why a text is not a policy; the text names the field.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("{0}")]
pub struct PolicyError(String);

pub(super) fn malformed(message: impl Into<String>) -> PolicyError {
    PolicyError(message.into())
}

/// What a statement does to the requests that it means.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Effect {
    /// They may go on.
    Allow,
    /// They may not, whatever else allows them.
    Deny,
}

/// The entries of `X` or `NotX`.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) enum Only<T> {
    These(Vec<T>),
    Others(Vec<T>),
}

impl<T> Only<T> {
    /// Whether the field means what `fits` finds in the list.
    pub(super) fn holds(&self, fits: impl FnMut(&T) -> bool) -> bool {
        match self {
            Self::These(list) => list.iter().any(fits),
            Self::Others(list) => !list.iter().any(fits),
        }
    }
}

#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct Statement {
    pub(super) effect: Effect,
    /// `None` in the policies of users, who are whom they speak of.
    pub(super) principal: Option<Only<Principal>>,
    /// In lower case: letters of either case are the same in actions.
    pub(super) action: Only<Pattern>,
    pub(super) resource: Only<Pattern>,
    pub(super) conditions: Vec<Condition>,
}

impl Statement {
    /// Whether it would let in everybody but some.
    pub(super) fn is_about_others(&self) -> bool {
        self.effect == Effect::Allow && matches!(self.principal, Some(Only::Others(_)))
    }
}

/// A policy: of a bucket, of a user, or of a session.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct PolicyDocument {
    pub(super) statements: Vec<Statement>,
}

impl PolicyDocument {
    /// Reads the policy that `bucket` is to have.
    ///
    /// # Errors
    /// What is wrong, as PutBucketPolicy says it.
    pub fn of_bucket(text: &str, bucket: &str) -> Result<Self, PolicyError> {
        let policy = Self::stored(text, bucket)?;
        if policy.statements.iter().any(Statement::is_about_others) {
            return Err(malformed("Allow with NotPrincipal is not allowed: it would let in everybody else"));
        }
        Ok(policy)
    }

    /// Reads the policy that `bucket` has. It may be of a time when `Allow` with `NotPrincipal` was taken: such a statement allows
    /// nothing.
    ///
    /// # Errors
    /// What is wrong.
    pub fn stored(text: &str, bucket: &str) -> Result<Self, PolicyError> {
        Self::read(text, Some(bucket))
    }

    /// Reads the policy of a user or of a session: it has no principals, and may name any action and resource.
    ///
    /// # Errors
    /// What is wrong.
    pub fn of_identity(text: &str) -> Result<Self, PolicyError> {
        Self::read(text, None)
    }

    fn read(text: &str, bucket: Option<&str>) -> Result<Self, PolicyError> {
        if !text.trim_start().starts_with('{') {
            return Err(malformed("Policies must be valid JSON and the first byte must be '{'"));
        }
        let json =
            serde_json::from_str(text).map_err(|e| malformed(format!("This policy contains invalid Json: {e}")))?;
        let Json::Object(members) = json else { return Err(malformed("The policy is not an object")) };
        let mut version_2012 = false;
        let mut statements = None;
        for (name, value) in &members {
            match (name.as_str(), value) {
                ("Version", Json::Text(version)) if version == "2012-10-17" => version_2012 = true,
                ("Version", Json::Text(version)) if version == "2008-10-17" => {}
                ("Version", _) => return Err(malformed("The policy must contain a valid version string")),
                ("Id", Json::Text(_)) => {}
                ("Statement", value) => statements = Some(value),
                ("Id", _) => return Err(malformed("Id must be a text")),
                (other, _) => return Err(malformed(format!("Unknown field {other}"))),
            }
        }
        let statements = match statements {
            Some(Json::List(list)) if !list.is_empty() => list.iter().collect(),
            Some(statement @ Json::Object(_)) => vec![statement],
            Some(_) => return Err(malformed("Statement must be an object or a list of objects")),
            None => return Err(malformed("Missing required field Statement")),
        };
        let reader = Reader { bucket, variables: version_2012 };
        let statements: Vec<_> = statements.into_iter().map(|one| reader.statement(one)).collect::<Result<_, _>>()?;
        Ok(Self { statements })
    }
}

struct Reader<'b> {
    bucket: Option<&'b str>,
    /// Only the version of 2012 has variables; before, `${` means itself.
    variables: bool,
}

impl Reader<'_> {
    fn statement(&self, json: &Json) -> Result<Statement, PolicyError> {
        let Json::Object(members) = json else { return Err(malformed("A Statement must be an object")) };
        let (mut effect, mut principal, mut action, mut resource) = (None, None, None, None);
        let mut conditions = Vec::new();
        let twice = |name: &str| Err(malformed(format!("A Statement has {name} besides its opposite")));
        for (name, value) in members {
            match name.as_str() {
                "Sid" if matches!(value, Json::Text(_)) => {}
                "Effect" => effect = Some(read_effect(value)?),
                "Principal" | "NotPrincipal" | "Action" | "NotAction" | "Resource" | "NotResource" => {
                    let others = name.starts_with("Not");
                    let taken = match name.trim_start_matches("Not") {
                        "Principal" => principal.replace(only(others, Principal::read(value)?)).is_some(),
                        "Action" => action.replace(only(others, self.actions(value)?)).is_some(),
                        _ => resource.replace(only(others, self.resources(value)?)).is_some(),
                    };
                    if taken {
                        return twice(name);
                    }
                }
                "Condition" => conditions = Condition::read_all(value, self.bucket.is_some(), self.variables)?,
                "Sid" => return Err(malformed("Sid must be a text")),
                other => return Err(malformed(format!("Unknown field {other}"))),
            }
        }
        let missing = |name: &str| malformed(format!("Missing required field {name}"));
        match (&principal, self.bucket) {
            (None, Some(_)) => return Err(missing("Principal")),
            (Some(_), None) => return Err(malformed("The policy of a user must not have a Principal")),
            _ => {}
        }
        Ok(Statement {
            effect: effect.ok_or_else(|| missing("Effect"))?,
            principal,
            action: action.ok_or_else(|| missing("Action"))?,
            resource: resource.ok_or_else(|| missing("Resource"))?,
            conditions,
        })
    }

    fn actions(&self, json: &Json) -> Result<Vec<Pattern>, PolicyError> {
        let actions = texts(json, "Action")?;
        let read = |action: &String| {
            let known = if self.bucket.is_some() {
                is_known(action)
            } else {
                action == "*"
                    || action.split_once(':').is_some_and(|(service, name)| !service.is_empty() && !name.is_empty())
            };
            if !known {
                return Err(malformed(format!("Policy has invalid action: {action}")));
            }
            Pattern::new(&action.to_ascii_lowercase(), true, false).map_err(malformed)
        };
        actions.iter().map(read).collect()
    }

    fn resources(&self, json: &Json) -> Result<Vec<Pattern>, PolicyError> {
        let resources = texts(json, "Resource")?;
        resources
            .iter()
            .map(|resource| {
                let invalid = |why: &str| malformed(format!("Policy has invalid resource: {resource}{why}"));
                let pattern =
                    Pattern::new(resource, true, self.variables).map_err(|why| invalid(&format!(" ({why})")))?;
                if let Some(bucket) = self.bucket {
                    if !is_of_bucket(&pattern, resource, bucket) {
                        return Err(invalid(""));
                    }
                } else if resource != "*" && !resource.starts_with("arn:") {
                    return Err(invalid(""));
                }
                Ok(pattern)
            })
            .collect()
    }
}

/// Whether a resource can be the bucket or an object in it.
fn is_of_bucket(pattern: &Pattern, resource: &str, bucket: &str) -> bool {
    if resource == "*" {
        return true;
    }
    if !resource.starts_with("arn:aws:s3:") {
        return false;
    }
    let arn = format!("arn:aws:s3:::{bucket}");
    let of_bucket = pattern.before('/').unwrap_or_else(|| pattern.clone());
    of_bucket.may_match(&arn)
}

fn only<T>(others: bool, list: Vec<T>) -> Only<T> {
    if others { Only::Others(list) } else { Only::These(list) }
}

fn read_effect(json: &Json) -> Result<Effect, PolicyError> {
    match json {
        Json::Text(text) if text == "Allow" => Ok(Effect::Allow),
        Json::Text(text) if text == "Deny" => Ok(Effect::Deny),
        _ => Err(malformed("Invalid effect: Effect must be Allow or Deny")),
    }
}

/// One text, or a list of at least one.
pub(super) fn texts(json: &Json, field: &str) -> Result<Vec<String>, PolicyError> {
    let wrong = || malformed(format!("{field} must be a text or a list of texts"));
    match json {
        Json::Text(text) => Ok(vec![text.clone()]),
        Json::List(list) if !list.is_empty() => list
            .iter()
            .map(|one| match one {
                Json::Text(text) => Ok(text.clone()),
                _ => Err(wrong()),
            })
            .collect(),
        _ => Err(wrong()),
    }
}
