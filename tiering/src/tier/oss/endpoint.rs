//! From an endpoint to URLs: virtual-hosted, CNAME and path style.

use super::encode;
use crate::tier::error::TierError;
use reqwest::Url;

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Style {
    VirtualHosted,
    Cname,
    Path,
}

/// Where a bucket is.
#[derive(Debug, Clone)]
pub(crate) struct Endpoint {
    /// `https://host[:port]`, the host with the bucket where the style demands it.
    origin: String,
    /// Host and port, for errors.
    pub host: String,
    bucket: String,
    style: Style,
}

impl Endpoint {
    /// Reads `endpoint`.
    pub(crate) fn new(endpoint: &str, bucket: &str, cname: bool) -> Result<Self, TierError> {
        let refuse = |why: &str| TierError::invalid("settings", "", format!("endpoint {endpoint:?}: {why}"));
        let text = if endpoint.contains("://") { endpoint.to_owned() } else { format!("https://{endpoint}") };
        let url = Url::parse(&text).map_err(|e| refuse(&e.to_string()))?;
        if !matches!(url.scheme(), "http" | "https") {
            return Err(refuse("only http and https are possible"));
        }
        if !matches!(url.path(), "" | "/") || url.query().is_some() || !url.username().is_empty() {
            return Err(refuse("give scheme, host and port only; the bucket is a setting of its own"));
        }
        let host = url.host_str().filter(|h| !h.is_empty()).ok_or_else(|| refuse("there is no host in it"))?;
        let is_ip = host.starts_with('[') || host.parse::<std::net::IpAddr>().is_ok();
        // The service itself refuses path style, but an address has no room for a bucket's name in front.
        let style = match (is_ip, cname, host) {
            (true, _, _) | (false, false, "localhost") => Style::Path,
            (false, true, _) => Style::Cname,
            (false, false, _) => Style::VirtualHosted,
        };
        if style == Style::VirtualHosted && host.starts_with(&format!("{bucket}.")) && host.ends_with(".aliyuncs.com") {
            return Err(refuse("it holds the bucket already; give the region's endpoint, or set cname for a domain"));
        }
        let host = if style == Style::VirtualHosted { format!("{bucket}.{host}") } else { host.to_owned() };
        let host = url.port().map_or(host.clone(), |port| format!("{host}:{port}"));
        Ok(Self { origin: format!("{}://{host}", url.scheme()), host, bucket: bucket.to_owned(), style })
    }

    /// The URL of `key`, or of the bucket, with `query` in its order.
    pub(crate) fn url(&self, key: Option<&str>, query: &[(String, String)]) -> Result<Url, TierError> {
        let name = key.unwrap_or_default();
        let refuse = |why: String| TierError::invalid("request", name, why);
        if matches!(name, "." | "..") || key == Some("") || name.len() > 1023 || name.starts_with(['/', '\\']) {
            return Err(refuse("a key is 1 to 1023 bytes long, is not . or .., and starts with no slash".to_owned()));
        }
        let mut text = self.origin.clone();
        text.push('/');
        if self.style == Style::Path {
            text.push_str(&self.bucket);
            text.push('/');
        }
        text.push_str(&encode::key_in_url(name));
        for (index, (name, value)) in query.iter().enumerate() {
            text.push(if index == 0 { '?' } else { '&' });
            text.push_str(&encode::strict(name));
            if !value.is_empty() {
                text.push('=');
                text.push_str(&encode::strict(value));
            }
        }
        let url = Url::parse(&text).map_err(|e| refuse(format!("no URL can be made of it: {e}")))?;
        if url.as_str() == text { Ok(url) } else { Err(refuse(format!("its URL would be changed to {url}"))) }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn url(endpoint: &str, cname: bool, key: &str) -> String {
        Endpoint::new(endpoint, "bkt", cname).unwrap().url(Some(key), &[]).unwrap().to_string()
    }

    #[test]
    fn the_bucket_stands_where_the_style_puts_it() {
        assert_eq!(url("oss-cn-hangzhou.aliyuncs.com", false, "a/b"), "https://bkt.oss-cn-hangzhou.aliyuncs.com/a/b");
        assert_eq!(url("http://cold.example.com:81", true, "a/b"), "http://cold.example.com:81/a/b");
        assert_eq!(url("http://127.0.0.1:9", false, "a/b"), "http://127.0.0.1:9/bkt/a/b");
        assert_eq!(url("http://127.0.0.1:9", true, "a/b"), "http://127.0.0.1:9/bkt/a/b");
        assert_eq!(url("http://[::1]:9", false, "a"), "http://[::1]:9/bkt/a");
        assert_eq!(url("http://localhost:9", false, "a"), "http://localhost:9/bkt/a");
        assert_eq!(url("http://localhost:9", true, "a"), "http://localhost:9/a");
    }

    #[test]
    fn every_key_arrives_as_it_is() {
        assert_eq!(url("h.example", true, "1234+-/ü?#&.txt"), "https://h.example/1234%2B-/%C3%BC%3F%23%26.txt");
        assert_eq!(url("h.example", true, "a//b"), "https://h.example/a//b");
        assert_eq!(url("h.example", true, "a/../b"), "https://h.example/a%2F..%2Fb");
        assert_eq!(url("h.example", true, "a%2e/b"), "https://h.example/a%252e/b");
    }

    #[test]
    fn keys_that_no_url_can_hold_are_refused() {
        let endpoint = Endpoint::new("h.example", "bkt", true).unwrap();
        for key in ["", ".", "..", "/a", &"x".repeat(1024)] {
            assert!(endpoint.url(Some(key), &[]).is_err(), "{key:?}");
        }
    }

    #[test]
    fn endpoints_with_more_than_a_host_are_refused() {
        for endpoint in ["ftp://h", "https://h/bucket", "https://u:p@h", "https://", "bkt.oss-cn-beijing.aliyuncs.com"]
        {
            assert!(Endpoint::new(endpoint, "bkt", false).is_err(), "{endpoint}");
        }
    }
}
