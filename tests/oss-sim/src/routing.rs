//! From Host and path to bucket and key: virtual-hosted on aliyuncs.com, by CNAME, path style on IPs and localhost.

use crate::error::OssError;
use crate::request::decode;
use std::collections::BTreeMap;
use std::net::IpAddr;

/// Where a request goes.
#[derive(Debug, PartialEq, Eq)]
pub struct Target {
    /// The bucket, if one is named.
    pub bucket: Option<String>,
    /// The decoded key, if one is named.
    pub key: Option<String>,
}

/// Routes a request. `cname` maps lower-case host names to buckets.
///
/// # Errors
/// 403 SecondLevelDomainForbidden for path style on an aliyuncs host, 403 AccessDenied for another region's host, 404 for
/// an unknown domain, 400 for a key that is not UTF-8.
pub fn route(host: &str, path: &str, region: &str, cname: &BTreeMap<String, String>) -> Result<Target, OssError> {
    let name = host_name(host);
    let rest = path.strip_prefix('/').unwrap_or(path);
    if let Some(bucket) = cname.get(&name) {
        return target(Some(bucket.clone()), rest);
    }
    if let Some(front) = name.strip_suffix(".aliyuncs.com") {
        return on_aliyuncs(front, rest, region);
    }
    if name.parse::<IpAddr>().is_ok() || !name.contains('.') {
        let (bucket, key) = match rest.split_once('/') {
            Some((bucket, key)) => (bucket, key),
            None => (rest, ""),
        };
        let bucket = decode(bucket).filter(|b| !b.is_empty());
        return target(bucket, key);
    }
    Err(OssError::new(404, "NoSuchCname", "The domain name is not bound to a bucket.").with("Host", host))
}

/// The host without its port and brackets, in lower case.
fn host_name(host: &str) -> String {
    let host = host.trim().to_ascii_lowercase();
    if let Some(v6) = host.strip_prefix('[') {
        return v6.split(']').next().unwrap_or_default().to_string();
    }
    host.split(':').next().unwrap_or_default().to_string()
}

fn on_aliyuncs(front: &str, rest: &str, region: &str) -> Result<Target, OssError> {
    if let Some(found) = endpoint_region(front) {
        if !rest.is_empty() {
            return Err(OssError::new(403, "SecondLevelDomainForbidden", "Please use virtual hosted style to access."));
        }
        check_region(found, region)?;
        return Ok(Target { bucket: None, key: None });
    }
    let (bucket, endpoint) = front.split_once('.').unwrap_or((front, ""));
    match endpoint_region(endpoint) {
        Some(found) => {
            check_region(found, region)?;
            target(Some(bucket.to_string()), rest)
        }
        None => Err(OssError::new(400, "InvalidBucketName", "The host name is not one of an OSS bucket.")),
    }
}

/// The region that an endpoint's name (without `.aliyuncs.com`) stands for; `""` for the acceleration endpoints.
fn endpoint_region(endpoint: &str) -> Option<&str> {
    if endpoint == "oss-accelerate" || endpoint == "oss-accelerate-overseas" {
        return Some("");
    }
    if let Some(region) = endpoint.strip_suffix(".oss") {
        return (!region.contains('.')).then_some(region);
    }
    let region = endpoint.strip_prefix("s3.").unwrap_or(endpoint).strip_prefix("oss-")?;
    let region = region.strip_suffix("-internal").unwrap_or(region);
    (!region.is_empty() && !region.contains('.')).then_some(region)
}

fn check_region(found: &str, region: &str) -> Result<(), OssError> {
    if found.is_empty() || found == region {
        return Ok(());
    }
    Err(OssError::access_denied(
        "The bucket you are attempting to access must be addressed using the specified endpoint. Please send all future requests to this endpoint.",
    )
    .with("Endpoint", format!("oss-{region}.aliyuncs.com")))
}

fn target(bucket: Option<String>, key: &str) -> Result<Target, OssError> {
    let key = match key {
        "" => None,
        raw => Some(decode(raw).ok_or_else(|| {
            OssError::new(400, "InvalidObjectName", "The specified object is not valid: it is not UTF-8.")
        })?),
    };
    Ok(Target { bucket, key })
}

#[cfg(test)]
mod tests {
    use super::*;

    fn go(host: &str, path: &str) -> Result<(String, String), &'static str> {
        let cname = BTreeMap::from([("cold.example.com".to_string(), "mine".to_string())]);
        route(host, path, "cn-hangzhou", &cname)
            .map(|t| (t.bucket.unwrap_or_default(), t.key.unwrap_or_default()))
            .map_err(|e| e.code)
    }

    #[test]
    fn every_addressing_style_finds_bucket_and_key() {
        let ok = |b: &str, k: &str| Ok((b.to_string(), k.to_string()));
        assert_eq!(go("b.oss-cn-hangzhou.aliyuncs.com", "/a/b%20c"), ok("b", "a/b c"));
        assert_eq!(go("b.oss-cn-hangzhou-internal.aliyuncs.com", "/"), ok("b", ""));
        assert_eq!(go("b.cn-hangzhou.oss.aliyuncs.com", "/k"), ok("b", "k"));
        assert_eq!(go("b.oss-accelerate.aliyuncs.com", "/k"), ok("b", "k"));
        assert_eq!(go("b.s3.oss-cn-hangzhou.aliyuncs.com:80", "/k"), ok("b", "k"));
        assert_eq!(go("oss-cn-hangzhou.aliyuncs.com", "/"), ok("", ""));
        assert_eq!(go("Cold.Example.com:8080", "/a%2Fb"), ok("mine", "a/b"));
        assert_eq!(go("127.0.0.1:9000", "/b/a%2Fb+c"), ok("b", "a/b+c"));
        assert_eq!(go("[::1]:9000", "/b"), ok("b", ""));
        assert_eq!(go("localhost:9000", "/b/"), ok("b", ""));
        assert_eq!(go("localhost:9000", "/"), ok("", ""));
        assert_eq!(go("localhost:9000", "/b//k"), ok("b", "/k"));
    }

    #[test]
    fn wrong_places_are_refused_as_oss_does() {
        assert_eq!(go("oss-cn-hangzhou.aliyuncs.com", "/b/k"), Err("SecondLevelDomainForbidden"));
        assert_eq!(go("b.oss-cn-beijing.aliyuncs.com", "/k"), Err("AccessDenied"));
        assert_eq!(go("other.example.com", "/k"), Err("NoSuchCname"));
        assert_eq!(go("127.0.0.1", "/b/%FF"), Err("InvalidObjectName"));
    }
}
