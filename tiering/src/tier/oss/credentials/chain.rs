//! The vendor's default order of sources.

use super::metadata::{CredentialsUri, EcsRole};
use super::profiles::{CliConfig, CredentialsFile};
use super::spec::{RolesAnywhere, default_duration};
use super::sts::RrsaProvider;
use super::{Context, Credentials, CredentialsProvider, FixedCredentials, denied};
use crate::tier::error::TierError;
use crate::tier::secret::Secret;
use async_trait::async_trait;

/// Environment, RRSA, CLI configuration, credentials file, ECS role, credentials URI. The first one that is set up decides:
/// when it fails, its error is the answer. (The vendor's clients go on to the next one, and then work under another
/// identity than the operator set up, or fail with the last source's error instead of the one that matters.) Only the ECS
/// role is tried without being set up, because nothing on the machine tells whether there is one.
#[derive(Debug)]
pub(super) struct Chain {
    context: Context,
}

impl Chain {
    pub(super) fn new(context: Context) -> Self {
        Self { context }
    }

    fn configured(&self) -> Result<Option<Box<dyn CredentialsProvider>>, TierError> {
        let context = &self.context;
        let set = |name: &str| context.variable(name).is_some();
        if set("ALIBABA_CLOUD_ACCESS_KEY_ID") || set("OSS_ACCESS_KEY_ID") {
            return Ok(Some(Box::new(FixedCredentials::from_environment(&|n| context.variable(n))?)));
        }
        if set("ALIBABA_CLOUD_OIDC_TOKEN_FILE") && set("ALIBABA_CLOUD_ROLE_ARN") {
            let role = RolesAnywhere { duration_seconds: default_duration(), ..RolesAnywhere::default() };
            return Ok(Some(Box::new(RrsaProvider::new(context.clone(), &role)?)));
        }
        if !context.flag("ALIBABA_CLOUD_CLI_PROFILE_DISABLED")
            && let Ok(source) = CliConfig::new(context.clone(), None, None)
            && (set("ALIBABA_CLOUD_CONFIG_FILE") || source.path().exists())
        {
            return Ok(Some(Box::new(source)));
        }
        if let Ok(source) = CredentialsFile::new(context.clone(), None, None)
            && (set("ALIBABA_CLOUD_CREDENTIALS_FILE") || source.path().exists())
        {
            return Ok(Some(Box::new(source)));
        }
        if !context.flag("ALIBABA_CLOUD_ECS_METADATA_DISABLED") && set("ALIBABA_CLOUD_ECS_METADATA") {
            return Ok(Some(Box::new(EcsRole::new(context.clone(), None, false, None))));
        }
        if let Some(uri) = context.variable("ALIBABA_CLOUD_CREDENTIALS_URI") {
            return Ok(Some(Box::new(CredentialsUri::new(context.clone(), Secret::new(uri)))));
        }
        Ok(None)
    }
}

#[async_trait]
impl CredentialsProvider for Chain {
    fn source(&self) -> &'static str {
        "default chain"
    }

    async fn fetch(&self) -> Result<Credentials, TierError> {
        if let Some(source) = self.configured()? {
            return source.fetch().await;
        }
        let nothing = "nothing is set up: no variables, no RRSA, no CLI configuration, no credentials file, no URI";
        if self.context.flag("ALIBABA_CLOUD_ECS_METADATA_DISABLED") {
            return Err(denied(self.source(), nothing));
        }
        let role = EcsRole::new(self.context.clone(), None, false, None);
        role.fetch().await.map_err(|e| denied(self.source(), format!("{nothing}; and {}", e.details().message)))
    }
}
