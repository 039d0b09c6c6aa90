//! The configuration: one YAML document, all of it optional, read into plain data.
//!
//! [`Config::read`] understands the text, `check` looks at what it refers to. Nothing here opens, creates or connects
//! to anything: that is for `serve`.

pub mod access_key;
pub mod accounts;
mod check;
pub mod check_accounts;
mod error;
pub mod notifications;
mod places;
mod reader;
mod store;
mod tier_place;
pub mod tiers;
pub mod units;

pub use check::{PolicyError, check, read_policy, test_settings};
pub use error::Problem;
pub use reader::Env;
pub use store::{ChunkSection, DurabilityName, HotSection, JournalSection, RelaxedSync, StoreSettings};

use crate::server::{S3Settings, Secret};
use accounts::{AccountSection, UsersSection};
use notifications::NotificationsSection;
use serde::Deserialize;
use std::collections::BTreeMap;
use std::net::SocketAddr;
use std::path::{Path, PathBuf};
use tidegate_policies::PriceBook;
use tidegate_tiering::engine::{EngineSettings, LifecycleSettings};
use tidegate_tiering::recovery::{RecoverySettings, StandbySettings};
use tidegate_tiering::tier::TierSettings;

/// Largest configuration: far above any real one, far below what would hurt.
const MAX_CONFIG_BYTES: u64 = 1024 * 1024;

/// The name that stands for "no tier" in `classes`.
pub const HOT: &str = "hot";

/// Everything that can be set.
#[derive(Debug, Clone, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub struct Config {
    /// Root of the store. Default `./tidegate-data`.
    pub data_dir: PathBuf,
    /// The S3 endpoint.
    pub s3: S3Settings,
    /// Owners of buckets and objects, and their users, by name.
    pub accounts: BTreeMap<String, AccountSection>,
    /// What concerns all users.
    pub users: UsersSection,
    /// The admin listener.
    pub admin: AdminSettings,
    /// The storage engine.
    pub store: StoreSettings,
    /// Shipping of the namespace to a tier; nothing is shipped without it.
    pub recovery: Option<RecoverySettings>,
    /// How `tidegate standby` follows.
    pub standby: StandbySettings,
    /// The tiers, by name.
    pub tiers: BTreeMap<String, TierSettings>,
    /// S3 storage class -> name of a tier, or `hot`.
    pub classes: BTreeMap<String, String>,
    /// File of the lifecycle policy.
    pub policy: Option<PathBuf>,
    /// What `policy check` and `policy plan` count with: numbers that are left out are the default book's.
    pub prices: PriceBook,
    /// How the rules of lifecycles are read.
    pub lifecycle: LifecycleSection,
    /// Whom buckets may have told of their events.
    pub notifications: NotificationsSection,
    /// Logs.
    pub log: LogSettings,
    /// For tests and demonstrations.
    pub debug: DebugSettings,
    /// Where the settings stand in the text.
    #[serde(skip)]
    places: places::Places,
}

impl Default for Config {
    fn default() -> Self {
        Self {
            data_dir: PathBuf::from("./tidegate-data"),
            s3: S3Settings::default(),
            accounts: BTreeMap::new(),
            users: UsersSection::default(),
            admin: AdminSettings::default(),
            store: StoreSettings::default(),
            recovery: None,
            standby: StandbySettings::default(),
            tiers: BTreeMap::new(),
            classes: BTreeMap::from([("STANDARD".to_owned(), HOT.to_owned())]),
            policy: None,
            prices: PriceBook::default(),
            lifecycle: LifecycleSection::default(),
            notifications: NotificationsSection::default(),
            log: LogSettings::default(),
            debug: DebugSettings::default(),
            places: places::Places::default(),
        }
    }
}

/// The admin listener.
#[derive(Debug, Clone, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub struct AdminSettings {
    /// TCP address of `/metrics`, `/livez`, `/readyz` (and of the API when there is a token). Default 127.0.0.1:9320.
    pub listen: SocketAddr,
    /// Unix socket of the whole API, made with mode 0600. Default `admin.sock` in `data_dir`.
    pub socket: Option<PathBuf>,
    /// Bearer token that opens the API on TCP; without it, the API is on the socket only.
    pub token: Option<Secret>,
}

impl Default for AdminSettings {
    fn default() -> Self {
        Self { listen: SocketAddr::from(([127, 0, 0, 1], 9320)), socket: None, token: None }
    }
}

/// How the rules of lifecycles are read.
#[derive(Debug, Clone, Copy, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub struct LifecycleSection {
    /// Length of a day of all rules, in seconds. Any other than 86,400 is for tests only, and refused unless the server is
    /// started with `--allow-test-settings`.
    pub seconds_per_day: u64,
}

/// Seconds of a real day.
const SECONDS_PER_DAY: u64 = 24 * 60 * 60;

impl Default for LifecycleSection {
    fn default() -> Self {
        Self { seconds_per_day: SECONDS_PER_DAY }
    }
}

impl LifecycleSection {
    /// The length of a day in seconds, when it is shortened for tests.
    pub fn test_day(&self) -> Option<u64> {
        (self.seconds_per_day != SECONDS_PER_DAY).then_some(self.seconds_per_day)
    }
}

/// How logs are written (to standard error).
#[derive(Debug, Clone, Default, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub struct LogSettings {
    /// `text` or `json`.
    pub format: LogFormat,
    /// `error`, `warn`, `info` (default), `debug`, `trace`, or a filter such as `info,tidegate_tiering=debug`.
    pub level: Option<String>,
}

/// The form of log lines.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum LogFormat {
    /// For people.
    #[default]
    Text,
    /// One JSON object a line.
    Json,
}

/// For tests and demonstrations only.
#[derive(Debug, Clone, Copy, Default, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub struct DebugSettings {
    /// Lets `POST /clock/advance` move the clock forward, so that years of lifecycle pass in seconds. There is no way back.
    pub adjustable_clock: bool,
}

impl Config {
    /// Understands `text`; `file` is named in errors, `env` looks up `${NAME}`.
    ///
    /// # Errors
    /// The first thing that is wrong, with its place and the way out.
    pub fn read(file: &str, text: &str, env: Env<'_>) -> Result<Config, Problem> {
        let context = reader::Context::new(env);
        let only_comments =
            text.lines().all(|l| l.trim().is_empty() || l.trim_start().starts_with('#') || l.trim() == "---");
        let mut config = if only_comments {
            Config::default()
        } else {
            serde_saphyr::with_deserializer_from_str(text, |de| Config::deserialize(reader::Layer::new(de, &context)))
                .map_err(|e| {
                let path = context.path();
                tier_place::find(file, text, &path, env).unwrap_or_else(|| Problem::of_yaml(file, &path, &e))
            })?
        };
        config.s3.storage_classes = config.classes.keys().cloned().collect();
        config.places = places::Places::of(text);
        Ok(config)
    }

    /// Reads the file at `path`.
    ///
    /// # Errors
    /// The file cannot be read, or is wrong.
    pub fn load(path: &Path, env: Env<'_>) -> Result<Config, Problem> {
        let name = path.display().to_string();
        let unreadable = |e: std::io::Error| {
            Problem::of_field(&name, "", format!("cannot be read: {e}"), "name an existing file with --config FILE")
        };
        let length = std::fs::metadata(path).map_err(unreadable)?.len();
        if length > MAX_CONFIG_BYTES {
            let message = format!("has {length} bytes; the limit is {MAX_CONFIG_BYTES}");
            return Err(Problem::of_field(&name, "", message, "check that this is the right file"));
        }
        let text = std::fs::read_to_string(path).map_err(unreadable)?;
        Config::read(&name, &text, env)
    }

    /// The configuration of `serve` without a file: a store, a directory as its tier, and nothing else.
    ///
    /// # Errors
    /// Only when the settings of a directory tier change their form.
    pub fn without_file(data_dir: Option<PathBuf>, env: Env<'_>) -> Result<Config, Problem> {
        let data_dir = data_dir.unwrap_or_else(|| PathBuf::from("./tidegate-data"));
        // A JSON string is a YAML string, so any path survives.
        let quote = |p: &Path| serde_json::Value::from(p.to_string_lossy().replace("${", "$${")).to_string();
        let text = format!(
            "data_dir: {}\ntiers:\n  cold:\n    type: directory\n    path: {}\nclasses:\n  STANDARD: hot\n  STANDARD_IA: cold\n",
            quote(&data_dir),
            quote(&data_dir.join("cold-tier")),
        );
        let mut config = Config::read("(built-in configuration)", &text, env)?;
        // Nobody sees that text.
        config.places = places::Places::default();
        Ok(config)
    }

    /// The engine's settings.
    pub fn engine_settings(&self) -> EngineSettings {
        let recovery = self.recovery.clone();
        let lifecycle = LifecycleSettings {
            day_ms: self.lifecycle.test_day().map(|seconds| seconds.saturating_mul(1000)),
            tiers: self.tiers.iter().map(|(name, tier)| (name.clone(), tiers::price_class(tier))).collect(),
        };
        let targets = self.notifications.targets.iter();
        let notifications = targets.map(|(name, target)| (name.clone(), target.max_queued)).collect();
        let store = self.store.engine(self.data_dir.clone());
        EngineSettings { prices: self.prices.clone(), recovery, lifecycle, notifications, ..store }
    }

    /// The file that keeps how far the clock was moved.
    pub fn clock_file(&self) -> PathBuf {
        self.data_dir.join("clock-offset")
    }

    /// Where the admin socket is.
    pub fn admin_socket(&self) -> PathBuf {
        self.admin.socket.clone().unwrap_or_else(|| self.data_dir.join("admin.sock"))
    }
}

#[cfg(test)]
mod tests;
