//! The calls: GetSessionToken, AssumeRole, GetCallerIdentity.

use super::answer::{Answer, StsError, elements_of};
use crate::users::directory::Key;
use crate::users::session::{self, Session};
use crate::users::{Signer, Users, policy, token_of};
use http::StatusCode;
use s3s::{Body, S3Request};
use std::ops::RangeInclusive;
use std::time::Duration;

/// The form of a call.
pub(super) struct Form(Vec<(String, String)>);

impl Form {
    pub(super) fn parse(body: &[u8]) -> Self {
        let text = String::from_utf8_lossy(body);
        let plain = |text: &str| {
            let spaced = text.replace('+', " ");
            percent_encoding::percent_decode_str(&spaced).decode_utf8_lossy().into_owned()
        };
        let pairs = text.split('&').filter(|pair| !pair.is_empty());
        Self(pairs.map(|pair| pair.split_once('=').unwrap_or((pair, ""))).map(|(n, v)| (plain(n), plain(v))).collect())
    }

    pub(super) fn get(&self, name: &str) -> Option<&str> {
        self.0.iter().find(|(n, _)| n == name).map(|(_, value)| value.as_str())
    }

    /// What is asked for and would not happen must be refused.
    fn refuse(&self, names: &[&str]) -> Result<(), StsError> {
        let asked = |name: &str| self.0.iter().any(|(n, _)| n == name || n.starts_with(&format!("{name}.")));
        match names.iter().find(|name| asked(name)) {
            Some(name) => Err(StsError::validation(format!("{name} is not supported: leave it out."))),
            None => Ok(()),
        }
    }

    fn duration(&self, allowed: RangeInclusive<u64>, default: u64) -> Result<Duration, StsError> {
        let Some(text) = self.get("DurationSeconds") else { return Ok(Duration::from_secs(default)) };
        let seconds = text.parse::<u64>().ok().filter(|seconds| allowed.contains(seconds));
        seconds.map(Duration::from_secs).ok_or_else(|| {
            StsError::validation(format!(
                "1 validation error detected: Value '{text}' at 'durationSeconds' failed to satisfy constraint: Member must be between {} and {}",
                allowed.start(),
                allowed.end()
            ))
        })
    }
}

const LEAST_SECONDS: u64 = 900;
/// A session of GetSessionToken for a user: 36 hours at most, 12 unless asked.
const TOKEN_SECONDS: (u64, u64) = (129_600, 43_200);
/// For an account itself, whatever is asked.
const ROOT_SECONDS: u64 = 3600;
/// A session of AssumeRole: 12 hours at most, one unless asked.
const ROLE_SECONDS: (u64, u64) = (43_200, 3600);
/// Longest session policy, in characters.
const MAX_POLICY: usize = 2048;

/// Answers a call.
pub(super) fn answer(users: &Users, request: &S3Request<Body>, form: &Form) -> Result<Answer, StsError> {
    let Some(credentials) = &request.credentials else {
        let message = "Request is missing Authentication Token";
        return Err(StsError::sender("MissingAuthenticationToken", StatusCode::FORBIDDEN, message));
    };
    if request.service.as_deref() != Some("sts") {
        let message = "Credential should be scoped to correct service: 'sts'.";
        return Err(StsError::sender("SignatureDoesNotMatch", StatusCode::FORBIDDEN, message));
    }
    let token = token_of(&request.headers, request.uri.query());
    let of_s3 = |e: s3s::S3Error| {
        let status = e.status_code().unwrap_or(StatusCode::INTERNAL_SERVER_ERROR);
        StsError::of_s3(e.code().as_str(), e.message().unwrap_or_default(), status)
    };
    let caller = users.signer(&credentials.access_key, token.as_deref()).map_err(of_s3)?;
    if let Some(version) = form.get("Version").filter(|version| *version != "2011-06-15") {
        let message =
            format!("Could not find operation {} for version {version}", form.get("Action").unwrap_or_default());
        return Err(StsError::sender("InvalidAction", StatusCode::BAD_REQUEST, message));
    }
    match form.get("Action") {
        Some("GetCallerIdentity") => Ok(caller_identity(&caller, &credentials.access_key)),
        Some(action @ ("GetSessionToken" | "AssumeRole")) => {
            if caller.session.is_some() {
                return Err(StsError::denied(format!("Cannot call {action} with session credentials")));
            }
            let directory = users.directory().map_err(|e| of_s3(crate::s3::error::from_engine(e)))?;
            let parent = directory.key(&credentials.access_key, users.now());
            let parent = parent.ok_or_else(|| StsError::of_s3("InvalidAccessKeyId", "", StatusCode::FORBIDDEN))?;
            let parent = (credentials.access_key.as_str(), parent);
            if action == "GetSessionToken" {
                session_token(users, parent, form)
            } else {
                assume_role(users, parent, form)
            }
        }
        Some(action) => {
            let message = format!("Could not find operation {action} for version 2011-06-15");
            Err(StsError::sender("InvalidAction", StatusCode::BAD_REQUEST, message))
        }
        None => Err(StsError::sender("MissingAction", StatusCode::BAD_REQUEST, "The form has no Action.")),
    }
}

fn caller_identity(caller: &Signer, access_key: &str) -> Answer {
    let identity = &caller.identity;
    let number = identity.account.number();
    let of_role = caller.session.as_ref().and_then(|session| session.name.as_deref());
    let (arn, id) = match of_role {
        None => (identity.arn(), identity.user_id()),
        Some(name) => (role_arn(&number, identity.user.as_deref(), name), format!("{access_key}:{name}")),
    };
    Answer::of("GetCallerIdentity", &[("Arn", &arn), ("UserId", &id), ("Account", &number)])
}

fn role_arn(number: &str, user: Option<&str>, session: &str) -> String {
    format!("arn:aws:sts::{number}:assumed-role/{}/{session}", user.unwrap_or("root"))
}

fn session_token(users: &Users, (access_key, key): (&str, &Key), form: &Form) -> Result<Answer, StsError> {
    form.refuse(&["SerialNumber", "TokenCode"])?;
    let (most, default) = TOKEN_SECONDS;
    let mut duration = form.duration(LEAST_SECONDS..=most, default)?;
    if key.user.is_none() {
        duration = duration.min(Duration::from_secs(ROOT_SECONDS));
    }
    let user = key.user.as_ref().map(|user| user.name.clone());
    let (session, keys) = issue(users, (access_key, key), (user, None, None), duration)?;
    Ok(Answer::session("GetSessionToken", (&session, &keys), ""))
}

fn assume_role(users: &Users, (access_key, key): (&str, &Key), form: &Form) -> Result<Answer, StsError> {
    form.refuse(&["SerialNumber", "TokenCode", "PolicyArns", "Tags", "TransitiveTagKeys", "ProvidedContexts"])?;
    let (most, default) = ROLE_SECONDS;
    let duration = form.duration(LEAST_SECONDS..=most, default)?;
    let missing = |name: &str| StsError::validation(format!("1 validation error detected: {name} must not be null"));
    let arn = form.get("RoleArn").ok_or_else(|| missing("roleArn"))?;
    let name = form.get("RoleSessionName").ok_or_else(|| missing("roleSessionName"))?;
    let fits = |b: u8| b.is_ascii_alphanumeric() || b"+=,.@_-".contains(&b);
    if !(2..=64).contains(&name.len()) || !name.bytes().all(fits) {
        return Err(StsError::validation(format!(
            "1 validation error detected: Value '{name}' at 'roleSessionName' failed to satisfy constraint: Member must satisfy regular \
             expression pattern: [\\w+=,.@-]*, with 2 to 64 characters"
        )));
    }
    let role = role(arn, key).ok_or_else(|| {
        StsError::denied(format!(
            "Access to {arn} is denied: a user may assume itself (arn:aws:iam::ACCOUNT:user/NAME or :role/NAME), a root key also each user of its account"
        ))
    })?;
    if let Some(user) = &role {
        let directory = users
            .directory()
            .map_err(|e| StsError::of_s3("InternalError", &e.to_string(), StatusCode::INTERNAL_SERVER_ERROR))?;
        if directory.user(&key.owner.name, user).is_none_or(|entry| entry.user.disabled) {
            return Err(StsError::denied(format!(
                "Access to {arn} is denied: there is no such user, or it is disabled"
            )));
        }
    }
    let policy = form.get("Policy").filter(|policy| !policy.is_empty());
    if let Some(policy) = policy {
        let malformed = |what: String| StsError::sender("MalformedPolicyDocument", StatusCode::BAD_REQUEST, what);
        if policy.chars().count() > MAX_POLICY {
            return Err(malformed(format!("the session policy has more than {MAX_POLICY} characters")));
        }
        policy::parse(policy).map_err(malformed)?;
    }
    let limits = (role.clone(), Some(name.to_owned()), policy.map(str::to_owned));
    let (session, keys) = issue(users, (access_key, key), limits, duration)?;
    let arn = role_arn(&key.owner.account.number(), role.as_deref(), name);
    let id = format!("{}:{name}", keys.access_key);
    let mut more =
        format!("<AssumedRoleUser>{}</AssumedRoleUser>", elements_of(&[("AssumedRoleId", &id), ("Arn", &arn)]));
    if let Some(policy) = policy {
        let percent = (policy.chars().count() * 100).div_ceil(MAX_POLICY).to_string();
        more += &elements_of(&[("PackedPolicySize", &percent)]);
    }
    Ok(Answer::session("AssumeRole", (&session, &keys), &more))
}

/// Whom a role names, when the key may take it: a user, or none for the account itself.
fn role(arn: &str, key: &Key) -> Option<Option<String>> {
    let (account, resource) = arn.strip_prefix("arn:aws:iam::")?.split_once(':')?;
    let owner = &key.owner;
    if ![&owner.name, &owner.account.id, &owner.account.number()].iter().any(|own| *own == account) {
        return None;
    }
    let wanted = match resource {
        "root" => None,
        _ => Some(resource.strip_prefix("user/").or_else(|| resource.strip_prefix("role/"))?.to_owned()),
    };
    let may = key.user.as_ref().is_none_or(|user| wanted.as_deref() == Some(user.name.as_str()));
    may.then_some(wanted)
}

/// User, session name and policy of a session.
type Limits = (Option<String>, Option<String>, Option<String>);

fn issue(
    users: &Users,
    (access_key, key): (&str, &Key),
    (user, name, policy): Limits,
    duration: Duration,
) -> Result<(Session, session::TemporaryKeys), StsError> {
    let issued = users.now();
    let session = Session {
        parent: access_key.to_owned(),
        tag: session::tag(key.secret.expose()),
        account: key.owner.name.clone(),
        user,
        name,
        issued,
        expires: issued.plus(duration),
        policy,
    };
    let keys = users.seal().and_then(|seal| session.issue(seal)).ok_or_else(|| {
        let message = "This server has no seal key, without which there are no sessions.";
        StsError::sender("ServiceUnavailable", StatusCode::SERVICE_UNAVAILABLE, message)
    })?;
    Ok((session, keys))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_form_is_read_as_browsers_and_sdks_write_it() {
        let form = Form::parse(b"Action=AssumeRole&Policy=%7B%22a%22+%3A+1%7D&Empty&Tags.member.1.Key=k&&A=1&A=2");
        assert_eq!(form.get("Action"), Some("AssumeRole"));
        assert_eq!(form.get("Policy"), Some("{\"a\" : 1}"));
        assert_eq!((form.get("Empty"), form.get("A"), form.get("B")), (Some(""), Some("1"), None));
        assert!(form.refuse(&["Tags"]).is_err() && form.refuse(&["Tag", "SerialNumber"]).is_ok());
    }

    #[test]
    fn a_duration_is_within_its_bounds() {
        let of = |text: &str| Form::parse(format!("DurationSeconds={text}").as_bytes()).duration(900..=3600, 1000);
        assert_eq!(of("900").unwrap(), Duration::from_secs(900));
        assert_eq!(Form::parse(b"").duration(900..=3600, 1000).unwrap(), Duration::from_secs(1000));
        for wrong in ["899", "3601", "", "-1", "9e2"] {
            assert!(of(wrong).is_err(), "{wrong}");
        }
    }
}
