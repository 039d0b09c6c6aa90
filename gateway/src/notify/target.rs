//! A webhook: one request.

use http::{HeaderMap, HeaderName, HeaderValue, header};
use std::fmt;
use std::time::Duration;

use crate::config::notifications::TargetSection;

/// Idle connections are dropped before most servers do it, which spares a failed request.
const POOL_IDLE: Duration = Duration::from_secs(45);
/// Of an answer, so much is read before its connection is given up rather than used again.
const MAX_ANSWER: usize = 64 << 10;
/// Headers that say what a request is, and are not to be set.
const OWN_HEADERS: [&str; 6] =
    ["content-type", "content-length", "host", "transfer-encoding", "connection", super::message::EVENT_ID];

/// What is wrong with the settings of a target.
#[derive(Debug)]
pub struct Wrong {
    /// The setting.
    pub setting: &'static str,
    /// What is wrong, without the secret itself.
    pub what: String,
    /// The way out.
    pub help: &'static str,
}

impl fmt::Display for Wrong {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}: {}; {}", self.setting, self.what, self.help)
    }
}

fn wrong(setting: &'static str, what: impl Into<String>, help: &'static str) -> Wrong {
    Wrong { setting, what: what.into(), help }
}

/// Why a target did not take an event.
#[derive(Debug)]
pub struct Refusal {
    /// For the log; names no URL.
    pub why: String,
    /// The target takes nothing at all: any other event would have been refused as well.
    pub down: bool,
}

/// A webhook that can be sent to.
pub struct Target {
    /// Its name.
    pub name: String,
    /// Its settings.
    pub settings: TargetSection,
    url: reqwest::Url,
    headers: HeaderMap,
    client: reqwest::Client,
}

impl fmt::Debug for Target {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Target").field("name", &self.name).finish_non_exhaustive()
    }
}

impl Target {
    /// Reads the certificates that the settings name, and connects to nothing.
    ///
    /// # Errors
    /// A setting that cannot work.
    pub fn new(name: &str, settings: &TargetSection) -> Result<Self, Wrong> {
        let url = url_of(settings.url.expose())?;
        let headers = headers_of(settings)?;
        let mut builder = reqwest::Client::builder()
            .user_agent(concat!("tidegate/", env!("CARGO_PKG_VERSION")))
            // An answer elsewhere is no delivery, and no server may choose where events go.
            .redirect(reqwest::redirect::Policy::none())
            .retry(reqwest::retry::never())
            .http1_only()
            .no_proxy()
            .tcp_nodelay(true)
            .pool_idle_timeout(POOL_IDLE)
            .pool_max_idle_per_host(settings.concurrency)
            .connect_timeout(settings.timeout)
            .timeout(settings.timeout);
        if let Some(path) = &settings.ca_file {
            let refuse = |what: String| {
                wrong("ca_file", format!("{}: {what}", path.display()), "name a file with PEM certificates")
            };
            let pem = std::fs::read(path).map_err(|e| refuse(e.to_string()))?;
            let list = reqwest::Certificate::from_pem_bundle(&pem).map_err(|e| refuse(e.to_string()))?;
            if list.is_empty() {
                return Err(refuse("there is no certificate in it".to_owned()));
            }
            builder = builder.tls_certs_merge(list);
        }
        let client = builder.build().map_err(|e| wrong("url", said(e), "correct the settings of the target"))?;
        Ok(Self { name: name.to_owned(), settings: settings.clone(), url, headers, client })
    }

    /// Sends one event; returns once the target has taken it.
    ///
    /// # Errors
    /// It did not answer in time, or not with 2xx.
    pub async fn send(&self, id: &str, body: Vec<u8>) -> Result<(), Refusal> {
        let request = self
            .client
            .post(self.url.clone())
            .headers(self.headers.clone())
            .header(header::CONTENT_TYPE, "application/json")
            .header(super::message::EVENT_ID, id)
            .body(body);
        let mut answer = request.send().await.map_err(|e| Refusal { why: said(e), down: true })?;
        let status = answer.status();
        let mut read = 0;
        while let Ok(Some(piece)) = answer.chunk().await {
            read += piece.len();
            if read > MAX_ANSWER {
                break;
            }
        }
        if status.is_success() {
            return Ok(());
        }
        let down = matches!(status.as_u16(), 401 | 403 | 408 | 429 | 502..=504);
        Err(Refusal { why: format!("it answered {status}"), down })
    }
}

fn url_of(text: &str) -> Result<reqwest::Url, Wrong> {
    let help = "write an address such as https://hooks.example.com/events";
    if text.is_empty() {
        return Err(wrong("url", "a target needs an address", help));
    }
    let url = reqwest::Url::parse(text).map_err(|e| wrong("url", format!("it is no URL: {e}"), help))?;
    if !matches!(url.scheme(), "http" | "https") || url.host_str().is_none_or(str::is_empty) {
        return Err(wrong("url", "it is neither http:// nor https:// with a host", help));
    }
    if !url.username().is_empty() || url.password().is_some() {
        let help = "give the token or the headers that the target wants in settings of their own";
        return Err(wrong("url", "it has a user or a password in it", help));
    }
    Ok(url)
}

fn headers_of(settings: &TargetSection) -> Result<HeaderMap, Wrong> {
    let mut headers = HeaderMap::new();
    let mut add = |setting, name: HeaderName, value: String| -> Result<(), Wrong> {
        let mut value = HeaderValue::try_from(value).map_err(|_| {
            wrong(setting, format!("the value of {name} has characters that no header has"), "correct it")
        })?;
        value.set_sensitive(true);
        headers.insert(name, value);
        Ok(())
    };
    if let Some(token) = &settings.token {
        if token.expose().is_empty() {
            return Err(wrong("token", "it is empty", "write the token, or leave the setting out"));
        }
        add("token", header::AUTHORIZATION, format!("Bearer {}", token.expose()))?;
    }
    for (name, value) in &settings.headers {
        let name = HeaderName::try_from(name.as_str())
            .map_err(|_| wrong("headers", format!("{name:?} is no name of a header"), "correct it"))?;
        let is_token = settings.token.is_some() && name == header::AUTHORIZATION;
        if OWN_HEADERS.contains(&name.as_str()) || is_token {
            return Err(wrong("headers", format!("{name} is set by Tidegate itself"), "leave it out"));
        }
        add("headers", name, value.expose().to_owned())?;
    }
    Ok(headers)
}

/// An error with its causes and without the URL.
fn said(error: reqwest::Error) -> String {
    let error = error.without_url();
    let mut text = error.to_string();
    let mut cause = std::error::Error::source(&error);
    while let Some(inner) = cause {
        text = format!("{text}: {inner}");
        cause = inner.source();
    }
    text
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::server::Secret;

    fn section(url: &str) -> TargetSection {
        TargetSection { url: Secret::new(url), ..TargetSection::default() }
    }

    #[test]
    fn settings_that_cannot_work_are_named_without_their_secrets() {
        let header = |name: &str, value: &str| TargetSection {
            headers: [(name.to_owned(), Secret::new(value))].into(),
            ..section("http://h/geheim")
        };
        let token = |token: &str| TargetSection { token: Some(Secret::new(token)), ..section("http://h/geheim") };
        let missing = TargetSection { ca_file: Some("/nowhere.pem".into()), ..section("https://h/geheim") };
        let cases = [
            (section(""), "url"),
            (section("geheim"), "url"),
            (section("ftp://h/geheim"), "url"),
            (section("https://user:geheim@h/"), "url"),
            (header("Content-Type", "geheim"), "headers"),
            (header("X-Tidegate-Event-Id", "geheim"), "headers"),
            (header("no name", "geheim"), "headers"),
            (header("X-Key", "geheim\n"), "headers"),
            (token("geheim\n"), "token"),
            (token(""), "token"),
            (missing, "ca_file"),
        ];
        for (settings, setting) in cases {
            let found = Target::new("t", &settings).unwrap_err();
            assert_eq!(found.setting, setting);
            assert!(!found.to_string().contains("geheim"), "{found}");
        }
        let good = TargetSection { token: Some(Secret::new("geheim")), ..section("https://h/geheim") };
        let shown = format!("{:?} {good:?}", Target::new("t", &good).unwrap());
        assert!(!shown.contains("geheim"), "{shown}");
    }
}
