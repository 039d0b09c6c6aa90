//! Roles from the token service: AssumeRole, signed, and AssumeRoleWithOIDC, which needs no key.

use super::super::{date, encode};
use super::spec::{AssumeRole, RolesAnywhere, default_session_name};
use super::{Context, Credentials, CredentialsProvider, Temporary, denied, failed};
use crate::tier::error::{TierError, TierErrorKind};
use async_trait::async_trait;
use reqwest::Url;
use serde::Deserialize;
use std::path::PathBuf;

const VERSION: &str = "2015-04-01";
const DEFAULT_HOST: &str = "sts.aliyuncs.com";
/// An error's message is cut after this many characters.
const MAX_MESSAGE: usize = 300;

/// Where the token service is.
#[derive(Debug, Clone)]
pub(super) struct StsEndpoint(Url);

impl StsEndpoint {
    /// The endpoint that is set, or what the variables say, or the central one.
    pub(super) fn new(context: &Context, set: Option<&str>) -> Result<Self, TierError> {
        let text = match (set.map(str::to_owned), context.variable("ALIBABA_CLOUD_STS_ENDPOINT")) {
            (Some(text), _) | (None, Some(text)) => text,
            (None, None) => match context.variable("ALIBABA_CLOUD_STS_REGION") {
                Some(region) if context.flag("ALIBABA_CLOUD_VPC_ENDPOINT_ENABLED") => {
                    format!("sts-vpc.{region}.aliyuncs.com")
                }
                Some(region) => format!("sts.{region}.aliyuncs.com"),
                None => DEFAULT_HOST.to_owned(),
            },
        };
        let full = if text.contains("://") { text.clone() } else { format!("https://{text}") };
        Url::parse(&full)
            .map(Self)
            .map_err(|e| TierError::invalid("settings", "", format!("sts_endpoint {text:?}: {e}")))
    }
}

fn sorted_query(parameters: &[(String, String)]) -> String {
    let mut pairs: Vec<(String, String)> =
        parameters.iter().map(|(k, v)| (encode::strict(k), encode::strict(v))).collect();
    pairs.sort_unstable();
    pairs.into_iter().map(|(k, v)| format!("{k}={v}")).collect::<Vec<_>>().join("&")
}

/// The text that an RPC call of signature version 1.0 signs.
fn string_to_sign(method: &str, parameters: &[(String, String)]) -> String {
    format!("{method}&%2F&{}", encode::strict(&sorted_query(parameters)))
}

fn sign(string_to_sign: &str, secret: &str) -> String {
    encode::base64(&encode::hmac_sha1(format!("{secret}&").as_bytes(), string_to_sign.as_bytes()))
}

fn parameter(name: &str, value: impl ToString) -> (String, String) {
    (name.to_owned(), value.to_string())
}

fn common(context: &Context, action: &str) -> Vec<(String, String)> {
    vec![
        parameter("Action", action),
        parameter("Format", "JSON"),
        parameter("Version", VERSION),
        parameter("Timestamp", date::iso(context.clock.now())),
        parameter("SignatureNonce", format!("{:032x}", rand::random::<u128>())),
    ]
}

#[derive(Deserialize)]
#[serde(rename_all = "PascalCase")]
struct Granted {
    credentials: Temporary,
}

#[derive(Default, Deserialize)]
#[serde(rename_all = "PascalCase", default)]
struct Refused {
    code: String,
    message: String,
    request_id: String,
}

fn judge(source: &str, status: u16, body: &[u8]) -> Result<Credentials, TierError> {
    if status == 200 {
        let granted: Granted =
            serde_json::from_slice(body).map_err(|_| denied(source, "the answer holds no credentials"))?;
        return granted.credentials.into_credentials(source);
    }
    let refused: Refused = serde_json::from_slice(body).unwrap_or_default();
    // These messages repeat the text that was signed, and a security token is part of it.
    let message = match refused.code.as_str() {
        "SignatureDoesNotMatch" | "IncompleteSignature" => "the key's secret is wrong".to_owned(),
        _ => refused.message.chars().take(MAX_MESSAGE).collect(),
    };
    let text = format!("status {status}, code {}, request id {}: {message}", refused.code, refused.request_id);
    let temporary = status >= 500 || status == 429 || refused.code.starts_with("Throttling");
    let kind = if temporary { TierErrorKind::Unavailable } else { TierErrorKind::Denied };
    Err(failed(kind, source, text))
}

/// Takes on a role with another source's key.
#[derive(Debug)]
pub(super) struct AssumeRoleProvider {
    context: Context,
    endpoint: StsEndpoint,
    role: AssumeRole,
    base: Box<dyn CredentialsProvider>,
}

impl AssumeRoleProvider {
    pub(super) fn new(
        context: Context,
        endpoint: StsEndpoint,
        role: AssumeRole,
        base: Box<dyn CredentialsProvider>,
    ) -> Self {
        Self { context, endpoint, role, base }
    }
}

#[async_trait]
impl CredentialsProvider for AssumeRoleProvider {
    fn source(&self) -> &'static str {
        "AssumeRole"
    }

    async fn fetch(&self) -> Result<Credentials, TierError> {
        let key = self.base.fetch().await?;
        let mut parameters = common(&self.context, "AssumeRole");
        parameters.push(parameter("AccessKeyId", &key.access_key_id));
        parameters.push(parameter("SignatureMethod", "HMAC-SHA1"));
        parameters.push(parameter("SignatureVersion", "1.0"));
        parameters.push(parameter("RoleArn", &self.role.role_arn));
        parameters.push(parameter("RoleSessionName", &self.role.session_name));
        parameters.push(parameter("DurationSeconds", self.role.duration_seconds));
        if let Some(token) = &key.security_token {
            parameters.push(parameter("SecurityToken", token.expose()));
        }
        if let Some(policy) = &self.role.policy {
            parameters.push(parameter("Policy", policy));
        }
        if let Some(id) = &self.role.external_id {
            parameters.push(parameter("ExternalId", id));
        }
        let signature = sign(&string_to_sign("POST", &parameters), key.access_key_secret.expose());
        parameters.push(parameter("Signature", signature));
        // In the body: a query may end up in the logs of a proxy.
        let request = self
            .context
            .http
            .post(self.endpoint.0.clone())
            .header("content-type", "application/x-www-form-urlencoded")
            .body(sorted_query(&parameters));
        let (status, body) = self.context.exchange(self.source(), request, self.context.timeout).await?;
        judge(self.source(), status, &body)
    }
}

/// Takes on a role with the token that Kubernetes gives to a pod.
#[derive(Debug)]
pub(super) struct RrsaProvider {
    context: Context,
    endpoint: StsEndpoint,
    role_arn: String,
    provider_arn: String,
    token_file: PathBuf,
    session_name: String,
    duration_seconds: u32,
}

impl RrsaProvider {
    pub(super) fn new(context: Context, role: &RolesAnywhere) -> Result<Self, TierError> {
        let need = |set: Option<String>, field: &str, variable: &str| {
            let missing = || denied("RRSA", format!("neither {field} nor the variable {variable} is set"));
            set.or_else(|| context.variable(variable)).ok_or_else(missing)
        };
        let token_file = role.token_file.as_ref().map(|p| p.display().to_string());
        Ok(Self {
            role_arn: need(role.role_arn.clone(), "role_arn", "ALIBABA_CLOUD_ROLE_ARN")?,
            provider_arn: need(role.provider_arn.clone(), "provider_arn", "ALIBABA_CLOUD_OIDC_PROVIDER_ARN")?,
            token_file: need(token_file, "token_file", "ALIBABA_CLOUD_OIDC_TOKEN_FILE")?.into(),
            session_name: role
                .session_name
                .clone()
                .or_else(|| context.variable("ALIBABA_CLOUD_ROLE_SESSION_NAME"))
                .unwrap_or_else(default_session_name),
            duration_seconds: role.duration_seconds,
            endpoint: StsEndpoint::new(&context, role.sts_endpoint.as_deref())?,
            context,
        })
    }
}

#[async_trait]
impl CredentialsProvider for RrsaProvider {
    fn source(&self) -> &'static str {
        "RRSA"
    }

    async fn fetch(&self) -> Result<Credentials, TierError> {
        let path = self.token_file.display();
        let token = tokio::fs::read_to_string(&self.token_file)
            .await
            .map_err(|e| denied(self.source(), format!("cannot read the token file {path}: {e}")))?;
        if token.trim().is_empty() {
            return Err(denied(self.source(), format!("the token file {path} is empty")));
        }
        let mut url = self.endpoint.0.clone();
        url.set_query(Some(&sorted_query(&common(&self.context, "AssumeRoleWithOIDC"))));
        let form = [
            parameter("RoleArn", &self.role_arn),
            parameter("OIDCProviderArn", &self.provider_arn),
            parameter("OIDCToken", token.trim()),
            parameter("RoleSessionName", &self.session_name),
            parameter("DurationSeconds", self.duration_seconds),
        ];
        let request = self
            .context
            .http
            .post(url)
            .header("content-type", "application/x-www-form-urlencoded")
            .body(sorted_query(&form));
        let (status, body) = self.context.exchange(self.source(), request, self.context.timeout).await?;
        judge(self.source(), status, &body)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_rpc_vector_gives_its_string_and_signature() {
        let list = crate::tier::oss::vectors::vectors("rpc_v1");
        assert_eq!(list.len(), 2);
        for vector in list {
            let name = vector["name"].as_str().unwrap();
            let mut parameters = vec![
                parameter("AccessKeyId", vector["ak"].as_str().unwrap()),
                parameter("SignatureMethod", "HMAC-SHA1"),
                parameter("SignatureVersion", "1.0"),
            ];
            if name.starts_with("KMS") {
                parameters.push(parameter("Action", "CreateKey"));
                parameters.push(parameter("Format", "json"));
                parameters.push(parameter("Timestamp", "2016-03-28T03:13:08Z"));
                parameters.push(parameter("Version", "2016-01-20"));
            } else {
                parameters.push(parameter("Action", "DescribeRegions"));
                parameters.push(parameter("Format", "XML"));
                parameters.push(parameter("SignatureNonce", "3ee8c1b8-83d3-44af-a94f-4e0ad82fd6cf"));
                parameters.push(parameter("Timestamp", "2016-02-23T12:46:24Z"));
                parameters.push(parameter("Version", "2014-05-26"));
            }
            let text = string_to_sign("GET", &parameters);
            assert_eq!(text, vector["string_to_sign"].as_str().unwrap());
            assert_eq!(sign(&text, vector["sk"].as_str().unwrap()), vector["expected"].as_str().unwrap());
        }
    }

    #[test]
    fn a_refusal_never_repeats_what_was_signed() {
        let body = br#"{"Code":"SignatureDoesNotMatch","Message":"server string to sign is: psst","RequestId":"R"}"#;
        let error = judge("AssumeRole", 400, body).unwrap_err();
        assert_eq!(error.kind(), TierErrorKind::Denied);
        assert!(!error.to_string().contains("psst") && error.to_string().contains("request id R"), "{error}");
        assert_eq!(judge("AssumeRole", 503, b"").unwrap_err().kind(), TierErrorKind::Unavailable);
    }
}
