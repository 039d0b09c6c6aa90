//! The vendor's two files: the command-line tool's configuration and the credentials file. Both are read again for each
//! refresh, and both may name another source.

use super::spec::{AssumeRole, CredentialsSpec, RolesAnywhere, default_duration, default_session_name, from_spec};
use super::{Context, Credentials, CredentialsProvider, denied};
use crate::tier::error::TierError;
use crate::tier::secret::Secret;
use async_trait::async_trait;
use serde::Deserialize;
use std::collections::HashMap;
use std::path::PathBuf;

/// Longest chain of profiles that name each other.
const MAX_CHAIN: u32 = 8;
/// Longest file, in bytes.
const MAX_FILE_BYTES: u64 = 1 << 20;

fn place(context: &Context, set: Option<PathBuf>, variable: &str, below_home: &str) -> Result<PathBuf, TierError> {
    set.or_else(|| context.variable(variable).map(PathBuf::from))
        .or_else(|| context.variable("HOME").map(|home| PathBuf::from(home).join(below_home)))
        .ok_or_else(|| TierError::invalid("settings", "", "credentials: give path, HOME is not set"))
}

async fn read(source: &str, path: &PathBuf) -> Result<String, TierError> {
    let shown = path.display();
    let cannot = |e: std::io::Error| denied(source, format!("cannot read {shown}: {e}"));
    if tokio::fs::metadata(path).await.map_err(cannot)?.len() > MAX_FILE_BYTES {
        return Err(denied(source, format!("{shown} is longer than {MAX_FILE_BYTES} bytes")));
    }
    tokio::fs::read_to_string(path).await.map_err(cannot)
}

/// `~/.aliyun/config.json`.
#[derive(Debug)]
pub(super) struct CliConfig {
    context: Context,
    path: PathBuf,
    profile: Option<String>,
}

#[derive(Deserialize)]
struct CliFile {
    #[serde(default)]
    current: String,
    #[serde(default)]
    profiles: Vec<CliProfile>,
}

#[derive(Clone, Default, Deserialize)]
#[serde(default)]
struct CliProfile {
    name: String,
    mode: String,
    access_key_id: String,
    access_key_secret: String,
    sts_token: String,
    ram_role_arn: String,
    ram_session_name: String,
    ram_role_name: String,
    external_id: String,
    policy: String,
    expired_seconds: u32,
    sts_region: String,
    source_profile: String,
    oidc_provider_arn: String,
    oidc_token_file: String,
}

fn filled(text: &str) -> Option<String> {
    Some(text.to_owned()).filter(|t| !t.is_empty())
}

impl CliProfile {
    fn key(&self) -> CredentialsSpec {
        CredentialsSpec::Static {
            access_key_id: self.access_key_id.clone(),
            access_key_secret: Secret::new(self.access_key_secret.clone()),
            security_token: filled(&self.sts_token).map(Secret::new),
        }
    }

    fn duration(&self) -> u32 {
        if self.expired_seconds == 0 { default_duration() } else { self.expired_seconds }
    }

    fn sts_endpoint(&self) -> Option<String> {
        filled(&self.sts_region).map(|region| format!("sts.{region}.aliyuncs.com"))
    }

    fn role(&self, base: CredentialsSpec) -> CredentialsSpec {
        CredentialsSpec::AssumeRole(AssumeRole {
            role_arn: self.ram_role_arn.clone(),
            session_name: filled(&self.ram_session_name).unwrap_or_else(default_session_name),
            external_id: filled(&self.external_id),
            duration_seconds: self.duration(),
            policy: filled(&self.policy),
            sts_endpoint: self.sts_endpoint(),
            base: Box::new(base),
        })
    }
}

impl CliConfig {
    pub(super) fn new(context: Context, path: Option<PathBuf>, profile: Option<String>) -> Result<Self, TierError> {
        let path = place(&context, path, "ALIBABA_CLOUD_CONFIG_FILE", ".aliyun/config.json")?;
        let profile = profile.or_else(|| context.variable("ALIBABA_CLOUD_PROFILE"));
        Ok(Self { context, path, profile })
    }

    pub(super) fn path(&self) -> &PathBuf {
        &self.path
    }

    fn spec(&self, file: &CliFile, name: &str, depth: u32) -> Result<CredentialsSpec, TierError> {
        let shown = self.path.display();
        if depth > MAX_CHAIN {
            return Err(denied(self.source(), format!("{shown}: more than {MAX_CHAIN} profiles name each other")));
        }
        let profile = file
            .profiles
            .iter()
            .find(|p| p.name == name)
            .ok_or_else(|| denied(self.source(), format!("{shown} has no profile {name:?}")))?;
        match profile.mode.as_str() {
            "AK" | "StsToken" | "" => Ok(profile.key()),
            "RamRoleArn" => Ok(profile.role(profile.key())),
            "ChainableRamRoleArn" => Ok(profile.role(self.spec(file, &profile.source_profile, depth + 1)?)),
            "EcsRamRole" => {
                Ok(CredentialsSpec::EcsRole { role: filled(&profile.ram_role_name), disable_v1: false, endpoint: None })
            }
            "OIDC" => Ok(CredentialsSpec::Rrsa(RolesAnywhere {
                role_arn: filled(&profile.ram_role_arn),
                provider_arn: filled(&profile.oidc_provider_arn),
                token_file: filled(&profile.oidc_token_file).map(PathBuf::from),
                session_name: filled(&profile.ram_session_name),
                duration_seconds: profile.duration(),
                sts_endpoint: profile.sts_endpoint(),
            })),
            other => Err(denied(
                self.source(),
                format!(
                    "{shown}: profile {name:?} has mode {other:?}; AK, StsToken, RamRoleArn, ChainableRamRoleArn, \
                     EcsRamRole and OIDC are possible"
                ),
            )),
        }
    }
}

#[async_trait]
impl CredentialsProvider for CliConfig {
    fn source(&self) -> &'static str {
        "CLI configuration"
    }

    async fn fetch(&self) -> Result<Credentials, TierError> {
        let text = read(self.source(), &self.path).await?;
        let file: CliFile = serde_json::from_str(&text).map_err(|e| {
            // Line and column only: the message may quote a secret.
            let place = format!("line {} column {}", e.line(), e.column());
            denied(self.source(), format!("{} cannot be read at {place}", self.path.display()))
        })?;
        let name = self.profile.clone().or_else(|| filled(&file.current)).unwrap_or_else(|| "default".to_owned());
        from_spec(&self.spec(&file, &name, 1)?, &self.context)?.fetch().await
    }
}

/// `~/.alibabacloud/credentials`.
#[derive(Debug)]
pub(super) struct CredentialsFile {
    context: Context,
    path: PathBuf,
    profile: String,
}

/// The keys of section `wanted` of an INI file; `None` when there is no such section.
fn section(text: &str, wanted: &str) -> Option<HashMap<String, String>> {
    let mut found: Option<HashMap<String, String>> = None;
    let mut inside = false;
    for line in text.lines().map(str::trim) {
        if line.is_empty() || line.starts_with(['#', ';']) {
            continue;
        }
        if let Some(name) = line.strip_prefix('[').and_then(|l| l.strip_suffix(']')) {
            inside = name.trim() == wanted;
            if inside {
                found.get_or_insert_with(HashMap::new);
            }
        } else if let (true, Some((key, value))) = (inside, line.split_once('='))
            && let Some(map) = &mut found
        {
            map.insert(key.trim().to_owned(), value.trim().to_owned());
        }
    }
    found
}

impl CredentialsFile {
    pub(super) fn new(context: Context, path: Option<PathBuf>, profile: Option<String>) -> Result<Self, TierError> {
        let path = place(&context, path, "ALIBABA_CLOUD_CREDENTIALS_FILE", ".alibabacloud/credentials")?;
        let profile =
            profile.or_else(|| context.variable("ALIBABA_CLOUD_PROFILE")).unwrap_or_else(|| "default".to_owned());
        Ok(Self { context, path, profile })
    }

    pub(super) fn path(&self) -> &PathBuf {
        &self.path
    }

    fn spec(&self, text: &str) -> Result<CredentialsSpec, TierError> {
        let shown = format!("{} section [{}]", self.path.display(), self.profile);
        let keys = section(text, &self.profile)
            .ok_or_else(|| denied(self.source(), format!("{shown}: there is no such section")))?;
        let get = |name: &str| keys.get(name).filter(|v| !v.is_empty()).cloned();
        let need = |name: &str| get(name).ok_or_else(|| denied(self.source(), format!("{shown}: {name} is missing")));
        let key = || {
            Ok::<_, TierError>(CredentialsSpec::Static {
                access_key_id: need("access_key_id")?,
                access_key_secret: Secret::new(need("access_key_secret")?),
                security_token: get("security_token").map(Secret::new),
            })
        };
        match get("type").as_deref().unwrap_or("access_key") {
            "access_key" | "sts" => key(),
            "ecs_ram_role" => {
                Ok(CredentialsSpec::EcsRole { role: get("role_name"), disable_v1: false, endpoint: None })
            }
            "ram_role_arn" => Ok(CredentialsSpec::AssumeRole(AssumeRole {
                role_arn: need("role_arn")?,
                session_name: get("role_session_name").unwrap_or_else(default_session_name),
                external_id: get("external_id"),
                duration_seconds: default_duration(),
                policy: get("policy"),
                sts_endpoint: None,
                base: Box::new(key()?),
            })),
            other => Err(denied(
                self.source(),
                format!("{shown}: type {other:?}; access_key, sts, ram_role_arn and ecs_ram_role are possible"),
            )),
        }
    }
}

#[async_trait]
impl CredentialsProvider for CredentialsFile {
    fn source(&self) -> &'static str {
        "credentials file"
    }

    async fn fetch(&self) -> Result<Credentials, TierError> {
        let text = read(self.source(), &self.path).await?;
        from_spec(&self.spec(&text)?, &self.context)?.fetch().await
    }
}
