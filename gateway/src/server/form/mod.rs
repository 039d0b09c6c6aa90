//! PostObject: a browser's upload by an HTML form.
//!
//! The form becomes the PutObject that its fields describe, with the file as its body, signed anew with the key whose signature the
//! form's policy bears: so one path decides on rights, checks headers and stores. s3s has PostObject too, and holds the whole
//! file in memory.

mod fields;
mod policy;
mod sign;
mod upload;

use http::{HeaderMap, HeaderValue, Method, StatusCode, header};
use s3s::auth::S3Auth;
use s3s::host::S3Host;
use s3s::stream::ByteStream;
use s3s::{Body, S3Error, S3Result, s3_error};
use std::sync::Arc;
use tidegate_tiering::clock::{Clock, SystemClock};

use super::request::RequestContext;
use super::settings::S3Settings;
use super::signer::{IN_PATH, IN_QUERY, Signer};
use crate::s3::access::Domains;
use fields::{Fields, Parts};
use sign::Claim;
use upload::{Range, Upload};

/// In the extensions of a PutObject that was a form: how long the file is, shows when it ends.
#[derive(Debug, Clone, Copy)]
pub(crate) struct FromForm;

/// What forms are checked with.
pub(crate) struct Forms {
    auth: Arc<dyn S3Auth>,
    domains: Domains,
    max_body_bytes: u64,
}

/// What the form wants to hear when the file is stored.
pub(crate) struct Wish {
    redirect: Option<String>,
    status: StatusCode,
    bucket: String,
    key: String,
    location: String,
}

/// The subresources that a POST to S3 may name: it is no form then, whatever type its body or its object is of.
const SUBRESOURCES: [&str; 5] = ["delete", "restore", "select", "uploadId", "uploads"];

/// Whether the type of a request is that of forms.
fn has_type_of_forms(method: &Method, headers: &HeaderMap) -> bool {
    let starts = |value: &HeaderValue| {
        value.as_bytes().get(..19).is_some_and(|start| start.eq_ignore_ascii_case(b"multipart/form-data"))
    };
    *method == Method::POST && headers.get(header::CONTENT_TYPE).is_some_and(starts)
}

/// Whether a request is a form.
pub(crate) fn is_form(method: &Method, uri: &http::Uri, headers: &HeaderMap) -> bool {
    let mut names = uri.query().unwrap_or_default().split('&').map(|pair| pair.split('=').next().unwrap_or_default());
    has_type_of_forms(method, headers) && !names.any(|name| SUBRESOURCES.contains(&name))
}

/// Keeps s3s from taking what is no form for one: to it every POST of that type is. With a tab at its end the header is no type any more to the
/// parser of s3s, and the same to a signature, which leaves white space around a value out.
pub(crate) fn hide_type(method: &Method, headers: &mut HeaderMap) {
    if !has_type_of_forms(method, headers) {
        return;
    }
    let hidden = headers.get(header::CONTENT_TYPE).map(|value| [value.as_bytes(), b"\t"].concat());
    if let Some(hidden) = hidden.and_then(|hidden| HeaderValue::from_bytes(&hidden).ok()) {
        headers.insert(header::CONTENT_TYPE, hidden);
    }
}

fn invalid(message: impl Into<String>) -> S3Error {
    S3Error::with_message(s3s::S3ErrorCode::InvalidArgument, message.into())
}

impl Forms {
    pub(crate) fn new(settings: &S3Settings, auth: Arc<dyn S3Auth>) -> Self {
        Self { auth, domains: Domains::new(&settings.domains), max_body_bytes: settings.max_body_bytes }
    }

    /// The PutObject that the form is. Reads the form up to its file.
    ///
    /// # Errors
    /// What is wrong with form, policy or signature.
    pub(crate) async fn put<
        S: ByteStream<Item = Result<bytes::Bytes, s3s::StdError>> + Unpin + Send + Sync + 'static,
    >(
        &self,
        (head, tls): (&http::Request<Body>, bool),
        body: S,
        context: Arc<RequestContext>,
    ) -> S3Result<(http::Request<Body>, Wish)> {
        let host = head.headers().get(header::HOST).and_then(|host| host.to_str().ok()).unwrap_or_default();
        let (bucket, in_host) = self.bucket(host, head.uri().path())?;
        let mut parts = Parts::of(head.headers(), body)?;
        let mut fields = parts.fields(&context).await?;
        let key = fields.key()?;
        fields.set("key", key.clone());
        let signed = self.signed(&fields, &bucket, &context).await?;
        let range = signed.as_ref().map_or_else(Range::default, |(_, range)| *range).at_most(self.max_body_bytes);
        let shown = percent_encoding::utf8_percent_encode(&key, IN_PATH).to_string();
        let path = if in_host { format!("/{shown}") } else { format!("/{bucket}/{shown}") };
        let mut request = http::Request::new(Body::empty());
        *request.method_mut() = Method::PUT;
        *request.uri_mut() = path.parse().map_err(|_| s3_error!(InvalidURI))?;
        *request.headers_mut() = fields.headers(host)?;
        // What conditions of policies ask for is said by the request that the browser sent.
        for name in [header::REFERER, header::USER_AGENT] {
            if let Some(value) = head.headers().get(&name) {
                request.headers_mut().insert(name, value.clone());
            }
        }
        // s3s wants one where the body is not signed, and compares it with nothing; the file is no longer than the form.
        let length = head.headers().get(header::CONTENT_LENGTH).cloned().unwrap_or(HeaderValue::from_static("0"));
        request.headers_mut().insert(header::CONTENT_LENGTH, length);
        if let Some((signer, _)) = &signed {
            // Its size is not known before its end, nor is its digest.
            let payload = HeaderValue::from_static("UNSIGNED-PAYLOAD");
            signer.sign(&mut request, payload, SystemClock::default().now())?;
        }
        context.set_form();
        let file: s3s::stream::DynByteStream = Box::pin(Upload::new(parts, range, context));
        *request.body_mut() = Body::from(file);
        request.extensions_mut().insert(FromForm);
        let status = match fields.get("success_action_status") {
            Some("200") => StatusCode::OK,
            Some("201") => StatusCode::CREATED,
            _ => StatusCode::NO_CONTENT,
        };
        let redirect = fields.get("success_action_redirect").or_else(|| fields.get("redirect"));
        // A redirect that is no URL is ignored, as in S3.
        let is_url =
            |url: &&str| url.parse::<http::Uri>().is_ok_and(|uri| uri.scheme().is_some() && uri.host().is_some());
        let redirect = redirect.filter(is_url).map(str::to_owned);
        let location = format!("{}://{host}{path}", if tls { "https" } else { "http" });
        Ok((request, Wish { redirect, status, bucket, key, location }))
    }

    /// The bucket, and whether the host names it.
    fn bucket(&self, host: &str, path: &str) -> S3Result<(String, bool)> {
        let path = percent_encoding::percent_decode_str(path)
            .decode_utf8()
            .map_err(|_| s3_error!(InvalidURI, "The path is not valid UTF-8 in percent-encoding."))?;
        let path = path.trim_start_matches('/');
        let in_host = self.domains.parse_host_header(host)?.bucket().map(str::to_owned);
        let (bucket, rest) = match &in_host {
            Some(bucket) => (bucket.as_str(), path),
            None => path.split_once('/').unwrap_or((path, "")),
        };
        if bucket.is_empty() || !rest.is_empty() {
            return Err(s3_error!(
                MethodNotAllowed,
                "A form is sent to the URL of a bucket; the key is a field of it."
            ));
        }
        Ok((bucket.to_owned(), in_host.is_some()))
    }

    /// Who has signed the policy, and what it says about the file's size; `None` for a form without a policy, which nobody has signed.
    async fn signed(
        &self,
        fields: &Fields,
        bucket: &str,
        context: &RequestContext,
    ) -> S3Result<Option<(Signer, Range)>> {
        let Some(policy) = fields.get("policy") else {
            let names = ["x-amz-signature", "signature", "awsaccesskeyid", "x-amz-credential"];
            return match names.iter().any(|name| fields.get(name).is_some()) {
                true => Err(invalid("The form has a signature and no policy that it could be of.")),
                false => Ok(None),
            };
        };
        let claim = Claim::of(fields)?;
        let secret = self.auth.get_secret_key(claim.access_key()).await?;
        context.set_signed(claim.signed());
        let signer = claim.verified(policy, secret)?;
        let range = policy::check(policy, fields, bucket, SystemClock::default().now())?;
        Ok(Some((signer, range)))
    }
}

impl Wish {
    /// The answer to the form, from that to the PutObject.
    pub(crate) fn answer(self, stored: http::Response<Body>) -> http::Response<Body> {
        if !stored.status().is_success() {
            return stored;
        }
        let (mut parts, _) = stored.into_parts();
        let etag = parts.headers.get(header::ETAG).and_then(|etag| etag.to_str().ok()).unwrap_or_default().to_owned();
        let mut body = Body::empty();
        let location = if let Some(url) = &self.redirect {
            parts.status = StatusCode::SEE_OTHER;
            let encode = |text: &str| percent_encoding::utf8_percent_encode(text, IN_QUERY).to_string();
            let joint = if url.contains('?') { '&' } else { '?' };
            format!("{url}{joint}bucket={}&key={}&etag={}", encode(&self.bucket), encode(&self.key), encode(&etag))
        } else {
            parts.status = self.status;
            if self.status == StatusCode::CREATED {
                body = self.told(&etag);
                parts.headers.insert(header::CONTENT_TYPE, HeaderValue::from_static("application/xml"));
            }
            self.location
        };
        parts.headers.remove(header::CONTENT_LENGTH);
        if let Ok(location) = HeaderValue::try_from(location) {
            parts.headers.insert(header::LOCATION, location);
        }
        http::Response::from_parts(parts, body)
    }

    fn told(&self, etag: &str) -> Body {
        use s3s::xml::Serialize as _;
        let (location, bucket, key) = (&self.location, &self.bucket, &self.key);
        let told = s3s::dto::PostResponse { location, bucket, key, etag };
        let mut xml = Vec::with_capacity(256);
        let mut serializer = s3s::xml::Serializer::new(&mut xml);
        let written = serializer.decl().and_then(|()| told.serialize(&mut serializer));
        if let Err(error) = written {
            tracing::error!(%error, "an answer to a form could not be written");
        }
        Body::from(bytes::Bytes::from(xml))
    }
}
