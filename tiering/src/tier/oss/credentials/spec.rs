//! How the configuration names a source, and the source from it.

use super::super::settings::OssSettings;
use super::super::transport::http_client;
use super::chain::Chain;
use super::metadata::{CredentialsUri, EcsRole};
use super::profiles::{CliConfig, CredentialsFile};
use super::sts::{AssumeRoleProvider, RrsaProvider, StsEndpoint};
use super::{Context, Credentials, CredentialsProvider, Environment, FixedCredentials, VARIABLES};
use crate::clock::Clock;
use crate::tier::error::TierError;
use crate::tier::secret::Secret;
use serde::Deserialize;
use std::path::PathBuf;
use std::sync::Arc;
use std::time::Duration;

/// Bounds of the life of a role's credentials, in seconds; the upper one may be lowered by the role itself.
const DURATION: std::ops::RangeInclusive<u32> = 900..=43_200;

/// A role to take on.
#[derive(Debug, Clone, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct AssumeRole {
    /// `acs:ram::<account>:role/<name>`.
    pub role_arn: String,
    /// Shown in the audit log.
    #[serde(default = "default_session_name")]
    pub session_name: String,
    /// What the role's owner demands of callers from other accounts.
    #[serde(default)]
    pub external_id: Option<String>,
    /// Life of the credentials in seconds, 900 to 43,200.
    #[serde(default = "default_duration")]
    pub duration_seconds: u32,
    /// A policy, as JSON, that narrows the role's.
    #[serde(default)]
    pub policy: Option<String>,
    /// Host of the token service, or a URL; `sts.aliyuncs.com` by default.
    #[serde(default)]
    pub sts_endpoint: Option<String>,
    /// Whose key signs the request for the role.
    #[serde(default)]
    pub base: Box<CredentialsSpec>,
}

/// A role for a pod of a Kubernetes cluster (RRSA). What is left out comes from the variables that the cluster sets.
#[derive(Debug, Clone, Default, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct RolesAnywhere {
    /// `ALIBABA_CLOUD_ROLE_ARN`.
    #[serde(default)]
    pub role_arn: Option<String>,
    /// `ALIBABA_CLOUD_OIDC_PROVIDER_ARN`.
    #[serde(default)]
    pub provider_arn: Option<String>,
    /// `ALIBABA_CLOUD_OIDC_TOKEN_FILE`; read again for each refresh.
    #[serde(default)]
    pub token_file: Option<PathBuf>,
    /// `ALIBABA_CLOUD_ROLE_SESSION_NAME`.
    #[serde(default)]
    pub session_name: Option<String>,
    /// Life of the credentials in seconds, 900 to 43,200.
    #[serde(default = "default_duration")]
    pub duration_seconds: u32,
    /// Host of the token service, or a URL; by default as the variables say, else `sts.aliyuncs.com`.
    #[serde(default)]
    pub sts_endpoint: Option<String>,
}

pub(super) fn default_session_name() -> String {
    "tidegate".to_owned()
}

pub(super) fn default_duration() -> u32 {
    3600
}

/// Which source a tier uses.
#[derive(Debug, Clone, Deserialize)]
#[serde(tag = "source", rename_all = "snake_case", deny_unknown_fields)]
pub enum CredentialsSpec {
    /// The vendor's order: environment, RRSA, CLI configuration, credentials file, ECS role, credentials URI. The first
    /// one that is set up is used; when it fails, the next ones are not tried in its place.
    Default {},
    /// Written in the configuration; with a token, a temporary key that somebody else renews.
    Static {
        /// Key id.
        access_key_id: String,
        /// Key secret.
        access_key_secret: Secret,
        /// Token of a temporary key.
        #[serde(default)]
        security_token: Option<Secret>,
    },
    /// Variables `ALIBABA_CLOUD_ACCESS_KEY_ID`, `ALIBABA_CLOUD_ACCESS_KEY_SECRET` and `ALIBABA_CLOUD_SECURITY_TOKEN`, or
    /// `OSS_ACCESS_KEY_ID`, `OSS_ACCESS_KEY_SECRET` and `OSS_SESSION_TOKEN`.
    Env {},
    /// A role, taken on with another key.
    AssumeRole(AssumeRole),
    /// A role of a pod (AssumeRoleWithOIDC).
    Rrsa(RolesAnywhere),
    /// The configuration of the vendor's command-line tool.
    CliConfig {
        /// `~/.aliyun/config.json` by default.
        #[serde(default)]
        path: Option<PathBuf>,
        /// Profile; the file's current one by default.
        #[serde(default)]
        profile: Option<String>,
    },
    /// The vendor's credentials file.
    CredentialsFile {
        /// `~/.alibabacloud/credentials` by default.
        #[serde(default)]
        path: Option<PathBuf>,
        /// Section; `default` by default.
        #[serde(default)]
        profile: Option<String>,
    },
    /// The role of the ECS instance.
    EcsRole {
        /// Its name; asked for when it is missing.
        #[serde(default)]
        role: Option<String>,
        /// Do not fall back to the older protocol without a token.
        #[serde(default)]
        disable_v1: bool,
        /// `http://100.100.100.200` by default.
        #[serde(default)]
        endpoint: Option<String>,
    },
    /// A URL that answers with credentials.
    Uri {
        /// The URL. A secret: it may hold a token.
        uri: Secret,
    },
}

impl Default for CredentialsSpec {
    fn default() -> Self {
        CredentialsSpec::Default {}
    }
}

/// Makes the source that the settings name.
///
/// # Errors
/// `Denied` when a variable is missing that the source needs, `Invalid` for a wrong setting.
pub(crate) fn build(
    settings: &OssSettings,
    clock: &Arc<dyn Clock>,
    env: Environment<'_>,
) -> Result<Box<dyn CredentialsProvider>, TierError> {
    let direct = OssSettings { proxy: None, ca_file: None, source_address: None, ..settings.clone() };
    let variables = VARIABLES
        .iter()
        .filter_map(|name| Some((*name, Secret::new(env(name).filter(|v| !v.trim().is_empty())?))))
        .collect();
    let context = Context {
        http: http_client(settings)?,
        direct: http_client(&direct)?,
        clock: clock.clone(),
        timeout: Duration::from_millis(settings.connect_timeout_ms.saturating_add(settings.read_timeout_ms)),
        variables: Arc::new(variables),
    };
    from_spec(&settings.credentials, &context)
}

pub(super) fn from_spec(spec: &CredentialsSpec, context: &Context) -> Result<Box<dyn CredentialsProvider>, TierError> {
    Ok(match spec {
        CredentialsSpec::Default {} => Box::new(Chain::new(context.clone())),
        CredentialsSpec::Static { access_key_id, access_key_secret, security_token } => {
            let credentials = Credentials {
                access_key_id: access_key_id.clone(),
                access_key_secret: access_key_secret.clone(),
                security_token: security_token.clone(),
                expires: None,
            };
            Box::new(FixedCredentials::new("configuration", credentials))
        }
        CredentialsSpec::Env {} => Box::new(FixedCredentials::from_environment(&|n| context.variable(n))?),
        CredentialsSpec::AssumeRole(role) => {
            check_duration(role.duration_seconds)?;
            let base = from_spec(&role.base, context)?;
            let sts = StsEndpoint::new(context, role.sts_endpoint.as_deref())?;
            Box::new(AssumeRoleProvider::new(context.clone(), sts, role.clone(), base))
        }
        CredentialsSpec::Rrsa(role) => {
            check_duration(role.duration_seconds)?;
            Box::new(RrsaProvider::new(context.clone(), role)?)
        }
        CredentialsSpec::CliConfig { path, profile } => {
            Box::new(CliConfig::new(context.clone(), path.clone(), profile.clone())?)
        }
        CredentialsSpec::CredentialsFile { path, profile } => {
            Box::new(CredentialsFile::new(context.clone(), path.clone(), profile.clone())?)
        }
        CredentialsSpec::EcsRole { role, disable_v1, endpoint } => {
            Box::new(EcsRole::new(context.clone(), role.clone(), *disable_v1, endpoint.as_deref()))
        }
        CredentialsSpec::Uri { uri } => Box::new(CredentialsUri::new(context.clone(), uri.clone())),
    })
}

fn check_duration(seconds: u32) -> Result<(), TierError> {
    if DURATION.contains(&seconds) {
        return Ok(());
    }
    Err(TierError::invalid("settings", "", format!("duration_seconds {seconds}: 900 to 43200 are allowed")))
}
