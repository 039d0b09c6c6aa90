//! What can be known about a configuration without side effects.

use super::tiers::price_class;
use super::{Config, HOT, Problem, SECONDS_PER_DAY};
use crate::admin::MAX_SOCKET_PATH;
use crate::server::tls::Certificates;
use crate::server::{AccessKey, Secret};
use std::path::Path;
use std::sync::Arc;
use tidegate_policies::{CheckOptions, ConfiguredTier, Diagnostic, Policy};
use tidegate_tiering::clock::{Clock, SystemClock};
use tidegate_tiering::tier::{self, TierSettings};

/// The storage classes of S3 that a client may ask for.
pub const S3_CLASSES: [&str; 8] = [
    "STANDARD",
    "REDUCED_REDUNDANCY",
    "STANDARD_IA",
    "ONEZONE_IA",
    "INTELLIGENT_TIERING",
    "GLACIER_IR",
    "GLACIER",
    "DEEP_ARCHIVE",
];

/// Largest name of a tier, in bytes: it is a metric label and part of remote names.
const MAX_TIER_NAME: usize = 63;

/// Everything that is wrong with `config`, and the policy's findings. Reads files, changes nothing, asks no network.
pub fn check(file: &str, config: &Config) -> (Vec<Problem>, Vec<Diagnostic>) {
    let mut problems = Vec::new();
    check_tiers(file, config, &mut problems);
    check_stores(file, config, &mut problems);
    check_classes(file, config, &mut problems);
    check_recovery(file, config, &mut problems);
    check_data_dir(file, config, &mut problems);
    check_s3(file, config, &mut problems);
    super::check_accounts::check(file, config, &mut problems);
    super::notifications::check(file, config, &mut problems);
    for (field, message) in config.store.problems() {
        // "must be at least 1" is a way out as it is.
        let (what, help) = message.split_once(": ").unwrap_or(("this value cannot work", &message));
        problems.push(Problem::of_field(file, &field, what, help));
    }
    check_admin(file, config, &mut problems);
    if !(1..=SECONDS_PER_DAY).contains(&config.lifecycle.seconds_per_day) {
        let help = format!("write a number from 1 to {SECONDS_PER_DAY}, or leave it out");
        problems.push(Problem::of_field(file, SHORT_DAY, "no rule can count in days of this length", help));
    }
    if let Err(message) = crate::logging::filter(&config.log) {
        let help = "write error, warn, info, debug or trace, or a filter such as info,tidegate_tiering=debug";
        problems.push(Problem::of_field(file, "log.level", message, help));
    }
    let diagnostics = match &config.policy {
        None => Vec::new(),
        Some(path) => match read_policy(config, path) {
            Ok((_, _, warnings)) => warnings,
            Err(PolicyError::Unreadable(message)) => {
                let help = "name an existing file, or remove the setting to keep everything hot";
                problems.push(Problem::of_field(file, "policy", message, help));
                Vec::new()
            }
            Err(PolicyError::Wrong(found)) => found,
        },
    };
    for problem in &mut problems {
        (problem.line, problem.column) = config.places.get(&problem.field).unwrap_or_default();
    }
    (problems, diagnostics)
}

const SHORT_DAY: &str = "lifecycle.seconds_per_day";

/// The setting that is for tests only, if there is one: `serve` refuses it unless it is told otherwise.
pub fn test_settings(file: &str, config: &Config) -> Option<Problem> {
    let seconds = config.lifecycle.test_day()?;
    let message = format!("days of {seconds} seconds are for tests only: objects would expire early, for good");
    let help = "remove the setting, or start a test server with: tidegate serve --allow-test-settings";
    let mut problem = Problem::of_field(file, SHORT_DAY, message, help);
    (problem.line, problem.column) = config.places.get(SHORT_DAY).unwrap_or_default();
    Some(problem)
}

fn check_tiers(file: &str, config: &Config, problems: &mut Vec<Problem>) {
    for name in config.tiers.keys() {
        let field = format!("tiers.{name}");
        let fits = |c: char| c.is_ascii_lowercase() || c.is_ascii_digit() || c == '-' || c == '_';
        if name == HOT {
            let help = "hot is the local store itself; give the tier another name";
            problems.push(Problem::of_field(file, &field, "this name is taken", help));
        } else if name.is_empty() || name.len() > MAX_TIER_NAME || !name.chars().all(fits) {
            let help = "use 1 to 63 lower case letters, digits, - and _";
            problems.push(Problem::of_field(file, &field, format!("{name:?} is not a name for a tier"), help));
        }
    }
}

/// What a tier itself refuses: `serve` would end there. Nothing is asked of a store.
fn check_stores(file: &str, config: &Config, problems: &mut Vec<Problem>) {
    let env = |name: &str| std::env::var(name).ok();
    let clock: Arc<dyn Clock> = Arc::new(SystemClock::default());
    for (name, settings) in &config.tiers {
        // It would be made.
        if matches!(settings, TierSettings::Directory(_)) {
            continue;
        }
        let Err(error) = tier::build(name, settings, Arc::clone(&clock), &env, None) else { continue };
        let message = error.details().message.clone();
        // Where the message begins with a setting that stands in the text, that is the place.
        let first = message.split([' ', ':']).next().unwrap_or_default();
        let of_setting = format!("tiers.{name}.{first}");
        let field = if config.places.has(&of_setting) { of_setting } else { format!("tiers.{name}") };
        let help = "correct this setting, or remove it where it has a default";
        problems.push(Problem::of_field(file, &field, message, help));
    }
}

fn check_classes(file: &str, config: &Config, problems: &mut Vec<Problem>) {
    let known = || {
        let mut names: Vec<&str> = vec![HOT];
        names.extend(config.tiers.keys().map(String::as_str));
        names.join(", ")
    };
    for (class, tier) in &config.classes {
        let field = format!("classes.{class}");
        if !S3_CLASSES.contains(&class.as_str()) {
            let help = format!("known: {}", S3_CLASSES.join(", "));
            problems.push(Problem::of_field(file, &field, format!("{class:?} is not a storage class of S3"), help));
        } else if tier != HOT && !config.tiers.contains_key(tier) {
            let help = format!("add it below tiers, or name one that exists: {}", known());
            problems.push(Problem::of_field(file, &field, format!("there is no tier {tier:?}"), help));
        } else if class == "STANDARD" && tier != HOT {
            let help = "write STANDARD: hot, and let a policy move what is cold";
            let message = "every object that names no class would leave the local disks at once";
            problems.push(Problem::of_field(file, &field, message, help));
        }
    }
}

fn check_recovery(file: &str, config: &Config, problems: &mut Vec<Problem>) {
    if let Some((name, want)) = config.standby.problem() {
        let field = format!("standby.{name}");
        problems.push(Problem::of_field(file, &field, "this value cannot work", format!("write {want}")));
    }
    let Some(recovery) = &config.recovery else { return };
    if !config.tiers.contains_key(&recovery.tier) {
        let known: Vec<&str> = config.tiers.keys().map(String::as_str).collect();
        let help = format!("add it below tiers, or name one that exists: {}", known.join(", "));
        let message = format!("there is no tier {:?}", recovery.tier);
        problems.push(Problem::of_field(file, "recovery.tier", message, help));
    }
    if let Some((name, want)) = recovery.problem() {
        let field = format!("recovery.{name}");
        problems.push(Problem::of_field(file, &field, "this value cannot work", format!("write {want}")));
    }
}

fn check_s3(file: &str, config: &Config, problems: &mut Vec<Problem>) {
    let mut settings = config.s3.clone();
    if settings.access_keys.is_empty() {
        // `serve` makes one, which is not to be done here.
        settings.access_keys.push(AccessKey { access_key: "generated".into(), secret_key: Secret::new("generated") });
    }
    if let Some(message) = settings.problem() {
        let (what, help) = message.split_once(": ").unwrap_or((&message, ""));
        // It begins with the setting.
        let (name, what) = what.split_once(' ').unwrap_or(("", what));
        problems.push(Problem::of_field(file, &format!("s3.{name}"), what, help));
    }
    if let Some(Err(error)) = config.s3.tls.as_ref().map(Certificates::check) {
        let help = "name the PEM files of a certificate and of the key that belongs to it";
        problems.push(Problem::of_field(file, "s3.tls", error.to_string(), help));
    }
}

fn check_admin(file: &str, config: &Config, problems: &mut Vec<Problem>) {
    if config.admin.token.as_ref().is_some_and(|t| t.expose().len() < 16) {
        let help = "use at least 16 characters, such as the output of: openssl rand -hex 24";
        problems.push(Problem::of_field(file, "admin.token", "the token is too short to keep anybody out", help));
    }
    // Port 0 takes a free one each time.
    if config.admin.listen == config.s3.listen && config.admin.listen.port() != 0 {
        // The one that stands in the text.
        let field = if config.places.has("admin.listen") { "admin.listen" } else { "s3.listen" };
        let message = format!("S3 requests and the admin listener cannot both have {}", config.admin.listen);
        problems.push(Problem::of_field(file, field, message, "give each a port of its own"));
    }
    let length = config.admin_socket().as_os_str().len();
    if length > MAX_SOCKET_PATH {
        let field = if config.admin.socket.is_some() { "admin.socket" } else { "data_dir" };
        let message = format!("the path of the admin socket has {length} bytes, the system takes {MAX_SOCKET_PATH}");
        problems.push(Problem::of_field(file, field, message, "set admin.socket to a shorter path"));
    }
}

/// The nearest existing ancestor must be a directory that we may write to.
fn check_data_dir(file: &str, config: &Config, problems: &mut Vec<Problem>) {
    let mut problem = |message: String, help: &str| problems.push(Problem::of_field(file, "data_dir", message, help));
    if config.data_dir.as_os_str().is_empty() {
        return problem("the path is empty".to_owned(), "name the directory of the store");
    }
    let absolute = match std::path::absolute(&config.data_dir) {
        Ok(path) => path,
        Err(e) => return problem(format!("cannot be resolved: {e}"), "name the directory of the store"),
    };
    let Some(existing) = absolute.ancestors().find(|p| p.exists()) else { return };
    if !existing.is_dir() {
        return problem(format!("{} is not a directory", existing.display()), "name a directory");
    }
    if let Err(message) = writable(existing) {
        problem(message, "give the user that runs tidegate the right to write there, or name another directory");
    }
}

/// Asks the kernel, with the effective user: root's rights, groups, ACLs and read-only mounts are all in the answer.
fn writable(dir: &Path) -> Result<(), String> {
    use rustix::fs::{Access, AtFlags, CWD, accessat};
    accessat(CWD, dir, Access::WRITE_OK | Access::EXEC_OK, AtFlags::EACCESS)
        .map_err(|e| format!("{} cannot be written to: {}", dir.display(), std::io::Error::from(e)))
}

/// Why there is no policy.
#[derive(Debug)]
pub enum PolicyError {
    /// The file cannot be read.
    Unreadable(String),
    /// The text is wrong; at least one finding is an error.
    Wrong(Vec<Diagnostic>),
}

impl std::fmt::Display for PolicyError {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        match self {
            Self::Unreadable(message) => f.write_str(message),
            Self::Wrong(found) => {
                let texts: Vec<String> = found.iter().map(ToString::to_string).collect();
                f.write_str(&texts.join("\n"))
            }
        }
    }
}

/// Reads the policy at `path` and checks it against the tiers of `config`: the policy, its text, its warnings.
///
/// # Errors
/// The file cannot be read, the text is wrong, or it names tiers that are not configured.
pub fn read_policy(config: &Config, path: &Path) -> Result<(Policy, String, Vec<Diagnostic>), PolicyError> {
    let name = path.display().to_string();
    let text = std::fs::read_to_string(path)
        .map_err(|e| PolicyError::Unreadable(format!("the policy {name} cannot be read: {e}")))?;
    let configured_tiers = config
        .tiers
        .iter()
        .map(|(name, settings)| ConfiguredTier { name: name.clone(), class: price_class(settings) })
        .collect();
    let options = CheckOptions { configured_tiers: Some(configured_tiers), prices: config.prices.clone() };
    let report = tidegate_policies::check(&name, &text, &options);
    match report.policy {
        Some(policy) => Ok((policy, text, report.diagnostics)),
        None => Err(PolicyError::Wrong(report.diagnostics)),
    }
}
