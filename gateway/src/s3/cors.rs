//! Which pages of other origins may use a bucket: the configuration, and what it says to a request.

use http::{HeaderMap, HeaderName, HeaderValue, header};
use s3s::dto::*;
use s3s::xml::{Deserializer, Serializer};
use s3s::{S3Request, S3Response, S3Result, s3_error};

use super::Gateway;
use super::error::from_engine;

/// The configuration's name among the settings of a bucket; its form there is S3's XML.
pub(crate) const NAME: &str = "cors";
/// S3's limits.
const MAX_RULES: usize = 100;
const MAX_ID_CHARS: usize = 255;
/// S3's limit on the whole: each preflight reads it.
const MAX_BYTES: usize = 64 << 10;
const METHODS: [&str; 5] = ["GET", "PUT", "HEAD", "POST", "DELETE"];

pub(super) async fn put(
    gateway: &Gateway,
    request: S3Request<PutBucketCorsInput>,
) -> S3Result<S3Response<PutBucketCorsOutput>> {
    let input = request.input;
    check(&input.cors_configuration.cors_rules)?;
    let mut xml = Vec::new();
    let mut serializer = Serializer::new(&mut xml);
    serializer.content("CORSConfiguration", &input.cors_configuration).map_err(|e| s3_error!(e, InternalError))?;
    if xml.len() > MAX_BYTES {
        return Err(s3_error!(
            MaxMessageLengthExceeded,
            "The CORS configuration has {} bytes; {MAX_BYTES} are allowed.",
            xml.len()
        ));
    }
    let change = |settings: &mut tidegate_tiering::engine::BucketSettings| {
        settings.config.insert(NAME.to_owned(), xml.clone());
        Ok(())
    };
    gateway.engine.configure_bucket(&input.bucket, change).await.map_err(from_engine)?;
    Ok(S3Response::new(PutBucketCorsOutput {}))
}

pub(super) async fn get(
    gateway: &Gateway,
    request: S3Request<GetBucketCorsInput>,
) -> S3Result<S3Response<GetBucketCorsOutput>> {
    let bucket = gateway.engine.bucket(&request.input.bucket).map_err(from_engine)?;
    match rules(&bucket.settings)? {
        Some(rules) => Ok(S3Response::new(GetBucketCorsOutput { cors_rules: Some(rules) })),
        None => Err(s3_error!(NoSuchCORSConfiguration, "The CORS configuration does not exist.")),
    }
}

pub(super) async fn delete(
    gateway: &Gateway,
    request: S3Request<DeleteBucketCorsInput>,
) -> S3Result<S3Response<DeleteBucketCorsOutput>> {
    let change = |settings: &mut tidegate_tiering::engine::BucketSettings| {
        settings.config.remove(NAME);
        Ok(())
    };
    gateway.engine.configure_bucket(&request.input.bucket, change).await.map_err(from_engine)?;
    Ok(S3Response::new(DeleteBucketCorsOutput {}))
}

/// The rules of a bucket, if it has any.
///
/// # Errors
/// What was stored is no configuration.
pub(crate) fn rules(settings: &tidegate_tiering::engine::BucketSettings) -> S3Result<Option<CORSRules>> {
    let Some(xml) = settings.config.get(NAME) else { return Ok(None) };
    let configuration = Deserializer::new(xml).named_element("CORSConfiguration", Deserializer::content);
    configuration
        .map(|configuration: CORSConfiguration| Some(configuration.cors_rules))
        .map_err(|e| s3_error!(e, InternalError))
}

fn check(rules: &CORSRules) -> S3Result<()> {
    if rules.is_empty() {
        return Err(s3_error!(MalformedXML, "A CORSConfiguration needs a CORSRule."));
    }
    if rules.len() > MAX_RULES {
        let count = rules.len();
        return Err(s3_error!(
            InvalidRequest,
            "The number of CORS rules should not exceed allowed limit of {MAX_RULES} rules; {count} were given."
        ));
    }
    let many = |text: &str| text.matches('*').count() > 1;
    for rule in rules {
        if rule.allowed_methods.is_empty() || rule.allowed_origins.is_empty() {
            return Err(s3_error!(MalformedXML, "A CORSRule needs an AllowedMethod and an AllowedOrigin."));
        }
        if let Some(method) = rule.allowed_methods.iter().find(|method| !METHODS.contains(&method.as_str())) {
            return Err(s3_error!(
                InvalidRequest,
                "Found unsupported HTTP method in CORS config. Unsupported method is {method}"
            ));
        }
        if let Some(origin) = rule.allowed_origins.iter().find(|origin| many(origin)) {
            return Err(s3_error!(InvalidRequest, "AllowedOrigin \"{origin}\" can not have more than one wildcard."));
        }
        if let Some(name) = rule.allowed_headers.iter().flatten().find(|name| many(name)) {
            return Err(s3_error!(InvalidRequest, "AllowedHeader \"{name}\" can not have more than one wildcard."));
        }
        if let Some(name) = rule.expose_headers.iter().flatten().find(|name| name.contains('*')) {
            return Err(s3_error!(
                InvalidRequest,
                "ExposeHeader \"{name}\" contains wildcard. We currently do not support wildcard for ExposeHeader."
            ));
        }
        if rule.id.as_ref().is_some_and(|id| id.chars().count() > MAX_ID_CHARS) {
            return Err(s3_error!(InvalidRequest, "The ID of a CORSRule has more than {MAX_ID_CHARS} characters."));
        }
        if rule.max_age_seconds.is_some_and(|seconds| seconds < 0) {
            return Err(s3_error!(MalformedXML, "MaxAgeSeconds is negative."));
        }
    }
    Ok(())
}

/// Whether `text` is `pattern`, in which one `*` may stand for anything.
fn fits(pattern: &str, text: &str) -> bool {
    match pattern.split_once('*') {
        None => pattern == text,
        Some((start, end)) => text.len() >= start.len() + end.len() && text.starts_with(start) && text.ends_with(end),
    }
}

/// What a page asks for.
pub(crate) struct Asked<'a> {
    pub(crate) origin: &'a str,
    pub(crate) method: &'a str,
    /// The names in `Access-Control-Request-Headers`, in lower case.
    pub(crate) headers: Vec<String>,
}

impl Asked<'_> {
    /// The first rule that allows it.
    pub(crate) fn allowed_by<'r>(&self, rules: &'r [CORSRule]) -> Option<&'r CORSRule> {
        rules.iter().find(|rule| {
            let header = |name: &String| {
                rule.allowed_headers.iter().flatten().any(|pattern| fits(&pattern.to_ascii_lowercase(), name))
            };
            rule.allowed_origins.iter().any(|pattern| fits(pattern, self.origin))
                && rule.allowed_methods.iter().any(|method| method == self.method)
                && self.headers.iter().all(header)
        })
    }

    /// What the answer tells the browser.
    pub(crate) fn told(&self, rule: &CORSRule) -> HeaderMap {
        let mut headers = HeaderMap::new();
        let mut tell = |name: HeaderName, value: &str| {
            if let Ok(value) = HeaderValue::from_str(value) {
                headers.insert(name, value);
            }
        };
        // Of the patterns that fit, one that is no more than the wildcard allows anybody, whose cookies stay out of it.
        let anybody = rule.allowed_origins.iter().find(|pattern| fits(pattern, self.origin)).is_some_and(|p| p == "*");
        tell(header::ACCESS_CONTROL_ALLOW_ORIGIN, if anybody { "*" } else { self.origin });
        if !anybody {
            tell(header::ACCESS_CONTROL_ALLOW_CREDENTIALS, "true");
        }
        tell(header::ACCESS_CONTROL_ALLOW_METHODS, &rule.allowed_methods.join(", "));
        if !self.headers.is_empty() {
            tell(header::ACCESS_CONTROL_ALLOW_HEADERS, &self.headers.join(", "));
        }
        if let Some(exposed) = rule.expose_headers.as_ref().filter(|exposed| !exposed.is_empty()) {
            tell(header::ACCESS_CONTROL_EXPOSE_HEADERS, &exposed.join(", "));
        }
        if let Some(seconds) = rule.max_age_seconds {
            tell(header::ACCESS_CONTROL_MAX_AGE, &seconds.to_string());
        }
        tell(header::VARY, "Origin, Access-Control-Request-Headers, Access-Control-Request-Method");
        headers
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn rule(methods: &[&str], origins: &[&str], headers: &[&str]) -> CORSRule {
        let list = |texts: &[&str]| texts.iter().map(|text| (*text).to_owned()).collect::<Vec<_>>();
        CORSRule {
            allowed_headers: Some(list(headers)),
            allowed_methods: list(methods),
            allowed_origins: list(origins),
            expose_headers: None,
            id: None,
            max_age_seconds: None,
        }
    }

    #[test]
    fn a_pattern_has_one_wildcard_that_stands_for_anything() {
        for (pattern, text, expected) in [
            ("*", "", true),
            ("*suffix", "foo.suffix", true),
            ("*suffix", "foo.suffix.get", false),
            ("start*end", "startend", true),
            ("start*end", "start1end", true),
            ("start*end", "start", false),
            ("ab*ba", "aba", false),
            ("prefix*", "prefix.bar", true),
            ("http://a", "http://A", false),
        ] {
            assert_eq!(fits(pattern, text), expected, "{pattern} {text}");
        }
    }

    #[test]
    fn the_first_rule_that_allows_all_of_it_decides() {
        let rules = [rule(&["GET"], &["*.a"], &["x-*"]), rule(&["PUT", "GET"], &["*"], &[])];
        let asked = |origin, method, headers: &[&str]| Asked {
            origin,
            method,
            headers: headers.iter().map(|name| (*name).to_owned()).collect(),
        };
        let first = asked("h.a", "GET", &["x-b"]);
        let told = first.told(first.allowed_by(&rules).unwrap());
        assert_eq!(told[header::ACCESS_CONTROL_ALLOW_ORIGIN], "h.a");
        assert_eq!(told[header::ACCESS_CONTROL_ALLOW_CREDENTIALS], "true");
        assert_eq!(told[header::ACCESS_CONTROL_ALLOW_HEADERS], "x-b");
        let second = asked("h.a", "PUT", &[]);
        let told = second.told(second.allowed_by(&rules).unwrap());
        assert_eq!(told[header::ACCESS_CONTROL_ALLOW_ORIGIN], "*");
        assert_eq!(told[header::ACCESS_CONTROL_ALLOW_METHODS], "PUT, GET");
        assert!(!told.contains_key(header::ACCESS_CONTROL_ALLOW_CREDENTIALS));
        assert!(asked("h.b", "PUT", &["x-b"]).allowed_by(&rules).is_none());
        assert!(asked("h.a", "DELETE", &[]).allowed_by(&rules).is_none());
    }

    #[test]
    fn what_s3_refuses_is_refused() {
        let good = rule(&["GET"], &["*"], &["*"]);
        assert!(check(&vec![good.clone(); 100]).is_ok());
        let exposes = CORSRule { expose_headers: Some(vec!["x-*".into()]), ..good.clone() };
        let cases = [
            (vec![], "MalformedXML"),
            (vec![good.clone(); 101], "InvalidRequest"),
            (vec![rule(&["PATCH"], &["*"], &[])], "InvalidRequest"),
            (vec![rule(&["get"], &["*"], &[])], "InvalidRequest"),
            (vec![rule(&["GET"], &["*a*"], &[])], "InvalidRequest"),
            (vec![rule(&["GET"], &["a"], &["*-*"])], "InvalidRequest"),
            (vec![rule(&[], &["a"], &[])], "MalformedXML"),
            (vec![rule(&["GET"], &[], &[])], "MalformedXML"),
            (vec![exposes], "InvalidRequest"),
            (vec![CORSRule { id: Some("i".repeat(256)), ..good }], "InvalidRequest"),
        ];
        for (rules, code) in cases {
            assert_eq!(check(&rules).unwrap_err().code().as_str(), code, "{rules:?}");
        }
    }
}
