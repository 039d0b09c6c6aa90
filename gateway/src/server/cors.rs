//! Requests of pages of other origins: the preflight, which is answered without a signature, and what is told beside an answer.

use http::{HeaderMap, Method, Request, header};
use s3s::dto::CORSRule;
use s3s::host::S3Host;
use s3s::{Body, S3Error, S3Result};
use tidegate_tiering::engine::{Engine, EngineError};

use super::settings::S3Settings;
use crate::s3::access::Domains;
use crate::s3::cors::{Asked, NAME, rules};
use crate::s3::error::from_engine;
use crate::s3::parsed::Parsed;

/// The rules of all buckets.
pub(crate) struct Cors {
    engine: Engine,
    domains: Domains,
    parsed: Parsed<Option<Vec<CORSRule>>>,
}

fn text<'h>(headers: &'h HeaderMap, name: &header::HeaderName) -> Option<&'h str> {
    headers.get(name)?.to_str().ok().filter(|value| !value.is_empty())
}

fn bad_request(message: &'static str) -> S3Error {
    crate::s3::error::custom("BadRequest", http::StatusCode::BAD_REQUEST, message)
}

fn forbidden(message: &'static str) -> S3Error {
    crate::s3::error::custom("AccessForbidden", http::StatusCode::FORBIDDEN, message)
}

impl Cors {
    pub(crate) fn new(settings: &S3Settings, engine: Engine) -> Self {
        Self { engine, domains: Domains::new(&settings.domains), parsed: Parsed::new(&[NAME]) }
    }

    fn bucket(&self, request: &Request<Body>) -> Option<String> {
        let host = text(request.headers(), &header::HOST).unwrap_or_default();
        if let Some(bucket) = self.domains.parse_host_header(host).ok()?.bucket() {
            return Some(bucket.to_owned());
        }
        let first = request.uri().path().trim_start_matches('/').split('/').next()?;
        let bucket = percent_encoding::percent_decode_str(first).decode_utf8().ok()?;
        (!bucket.is_empty()).then(|| bucket.into_owned())
    }

    /// The answer to an `OPTIONS`.
    pub(crate) fn preflight(&self, request: &Request<Body>) -> S3Result<http::Response<Body>> {
        let headers = request.headers();
        let origin = text(headers, &header::ORIGIN)
            .ok_or_else(|| bad_request("Insufficient information. Origin request header needed."))?;
        let method = text(headers, &header::ACCESS_CONTROL_REQUEST_METHOD)
            .filter(|method| ["GET", "PUT", "HEAD", "POST", "DELETE"].contains(method))
            .ok_or_else(|| {
                bad_request("Invalid Access-Control-Request-Method: GET, PUT, HEAD, POST or DELETE is needed.")
            })?;
        let listed = headers.get_all(header::ACCESS_CONTROL_REQUEST_HEADERS);
        let listed = listed.iter().filter_map(|value| value.to_str().ok()).flat_map(|value| value.split(','));
        let asked = listed.map(|name| name.trim().to_ascii_lowercase()).filter(|name| !name.is_empty()).collect();
        let asked = Asked { origin, method, headers: asked };
        let bucket = self.bucket(request).ok_or_else(|| forbidden("CORSResponse: Bucket not found"))?;
        let bucket = self.engine.bucket(&bucket).map_err(|error| match error {
            EngineError::NoSuchBucket(_) => forbidden("CORSResponse: Bucket not found"),
            other => from_engine(other),
        })?;
        let rules = self.parsed.of(&bucket, || rules(&bucket.settings))?;
        let rules =
            rules.as_ref().as_ref().ok_or_else(|| forbidden("CORSResponse: CORS is not enabled for this bucket."))?;
        let rule = asked.allowed_by(rules).ok_or_else(|| {
            forbidden(
                "CORSResponse: This CORS request is not allowed. This is usually because the evalution of Origin, request method / \
                 Access-Control-Request-Method or Access-Control-Request-Headers are not whitelisted by the resource's CORS spec.",
            )
        })?;
        let mut answer = http::Response::new(Body::empty());
        *answer.headers_mut() = asked.told(rule);
        Ok(answer)
    }

    /// What the answer to a page's request tells its browser; nothing to all others. Also beside an error: without it the page could
    /// not read which.
    pub(crate) fn beside(&self, request: &Request<Body>) -> Option<HeaderMap> {
        let origin = text(request.headers(), &header::ORIGIN)?;
        let method = match text(request.headers(), &header::ACCESS_CONTROL_REQUEST_METHOD) {
            Some(method) => method,
            None if *request.method() == Method::OPTIONS => return None,
            None => request.method().as_str(),
        };
        let bucket = self.engine.bucket(&self.bucket(request)?).ok()?;
        let rules = self.parsed.of(&bucket, || rules(&bucket.settings)).ok()?;
        let asked = Asked { origin, method, headers: Vec::new() };
        asked.allowed_by(rules.as_ref().as_ref()?).map(|rule| asked.told(rule))
    }
}
