//! Signatures of version 2 of buckets.
//!
//! In path style SDKs ask for `/bucket` and sign `/bucket/`, which is what a bucket is in virtual-hosted style, and S3 takes it; other
//! clients sign the path as they send it. s3s knows the latter only. So where a signature is that of the path with a slash, the slash
//! is put in; who signed, and whether rightly, s3s finds out as ever.

use base64::Engine as _;
use base64::engine::general_purpose::STANDARD as BASE64;
use hmac::{Hmac, KeyInit, Mac};
use http::{HeaderMap, Request, Uri, header};
use s3s::Body;
use s3s::auth::S3Auth;
use s3s::host::S3Host;
use sha1::Sha1;

use crate::s3::access::Domains;

/// Parameters of requests for buckets that version 2 signs, in its order.
const SIGNED: [&str; 28] = [
    "accelerate",
    "acl",
    "analytics",
    "cors",
    "defaultObjectAcl",
    "delete",
    "inventory",
    "lifecycle",
    "location",
    "logging",
    "metrics",
    "notification",
    "object-lock",
    "policy",
    "replication",
    "requestPayment",
    "response-cache-control",
    "response-content-disposition",
    "response-content-encoding",
    "response-content-language",
    "response-content-type",
    "response-expires",
    "tagging",
    "torrent",
    "uploads",
    "versioning",
    "versions",
    "website",
];

/// What a request says about its signature.
struct Claim {
    access_key: String,
    signature: String,
    /// The line of the date: of a presigned URL it is the end of its time.
    date: String,
}

/// Ends the path of a bucket with a slash where its signature has one.
pub(crate) async fn end_with_slash(auth: &dyn S3Auth, domains: &Domains, request: &mut Request<Body>) {
    if let Some(uri) = with_slash(auth, domains, request).await {
        *request.uri_mut() = uri;
    }
}

async fn with_slash(auth: &dyn S3Auth, domains: &Domains, request: &Request<Body>) -> Option<Uri> {
    let path = request.uri().path();
    path.strip_prefix('/').filter(|bucket| !bucket.is_empty() && !bucket.contains('/'))?;
    let query = parameters(request.uri());
    let claim = Claim::of(request.headers(), &query)?;
    let host = request.headers().get(header::HOST).map_or(Some(""), |host| host.to_str().ok())?;
    if domains.parse_host_header(host).ok()?.bucket().is_some() {
        return None;
    }
    let secret = auth.get_secret_key(&claim.access_key).await.ok()?;
    let text = text_to_sign(request, &query, &claim.date);
    let mac = Hmac::<Sha1>::new_from_slice(secret.expose().as_bytes()).ok()?.chain_update(text);
    mac.verify_slice(&BASE64.decode(claim.signature).ok()?).ok()?;
    let query = request.uri().query().map(|query| format!("?{query}")).unwrap_or_default();
    Uri::try_from(format!("{path}/{query}")).ok()
}

/// Names and values, decoded.
fn parameters(uri: &Uri) -> Vec<(String, String)> {
    let plain =
        |text: &str| percent_encoding::percent_decode_str(&text.replace('+', " ")).decode_utf8_lossy().into_owned();
    let pairs = uri.query().unwrap_or_default().split('&').filter(|pair| !pair.is_empty());
    pairs
        .map(|pair| pair.split_once('=').unwrap_or((pair, "")))
        .map(|(name, value)| (plain(name), plain(value)))
        .collect()
}

fn parameter<'q>(query: &'q [(String, String)], name: &str) -> Option<&'q str> {
    query.iter().find(|(known, _)| known == name).map(|(_, value)| value.as_str())
}

fn line<'h>(headers: &'h HeaderMap, name: &str) -> &'h str {
    headers.get(name).and_then(|value| value.to_str().ok()).unwrap_or_default()
}

impl Claim {
    fn of(headers: &HeaderMap, query: &[(String, String)]) -> Option<Self> {
        let in_header = line(headers, "authorization").strip_prefix("AWS ").and_then(|rest| rest.split_once(':'));
        if let Some((access_key, signature)) = in_header {
            let date = if headers.contains_key("x-amz-date") { "" } else { line(headers, "date") };
            return Some(Self { access_key: access_key.into(), signature: signature.into(), date: date.into() });
        }
        let of = |name| parameter(query, name).map(str::to_owned);
        Some(Self { access_key: of("AWSAccessKeyId")?, signature: of("Signature")?, date: of("Expires")? })
    }
}

fn text_to_sign(request: &Request<Body>, query: &[(String, String)], date: &str) -> String {
    let headers = request.headers();
    let (digest, kind) = (line(headers, "content-md5"), line(headers, "content-type"));
    let mut text = format!("{}\n{digest}\n{kind}\n{date}\n", request.method());
    let mut names: Vec<&str> = headers.keys().map(|name| name.as_str()).filter(|n| n.starts_with("x-amz-")).collect();
    names.sort_unstable();
    for name in names {
        let values = headers.get_all(name).iter().map(|value| value.to_str().unwrap_or_default().trim());
        text.push_str(&format!("{name}:{}\n", values.collect::<Vec<_>>().join(",")));
    }
    text.push_str(request.uri().path());
    let mut mark = "/?";
    for name in SIGNED {
        if let Some(value) = parameter(query, name) {
            text.push_str(mark);
            text.push_str(name);
            if !value.is_empty() {
                text.push('=');
                text.push_str(value);
            }
            mark = "&";
        }
    }
    if mark == "/?" {
        text.push('/');
    }
    text
}

#[cfg(test)]
mod tests {
    use super::*;
    use s3s::auth::SimpleAuth;

    fn request(authorization: Option<&str>, uri: &str) -> Request<Body> {
        let mut request = Request::get(uri).header("host", "127.0.0.1:9000").header("x-amz-meta-b", " 2 ");
        request = request.header("date", "Tue, 27 Mar 2007 19:36:42 +0000").header("x-amz-meta-a", "1");
        if let Some(authorization) = authorization {
            request = request.header("authorization", authorization);
        }
        request.body(Body::empty()).unwrap()
    }

    /// The path that s3s is given for a request whose signature is of `signed`.
    async fn path(signed: &str, uri: &str) -> String {
        let text = format!("GET\n\n\nTue, 27 Mar 2007 19:36:42 +0000\nx-amz-meta-a:1\nx-amz-meta-b:2\n{signed}");
        let mac = Hmac::<Sha1>::new_from_slice(b"secret").unwrap().chain_update(text);
        let signature = BASE64.encode(mac.finalize().into_bytes());
        let mut request = request(Some(&format!("AWS KEY:{signature}")), uri);
        let domains = Domains::new(&["s3.lan".into()]);
        end_with_slash(&SimpleAuth::from_single("KEY", "secret"), &domains, &mut request).await;
        request.uri().to_string()
    }

    #[tokio::test]
    async fn a_bucket_gets_the_slash_that_its_signature_has() {
        assert_eq!(path("/bucket/", "/bucket").await, "/bucket/");
        assert_eq!(path("/bucket/?acl", "/bucket?acl").await, "/bucket/?acl");
        assert_eq!(path("/bucket/?uploads", "/bucket?prefix=a%20b&uploads=").await, "/bucket/?prefix=a%20b&uploads=");
        assert_eq!(path("/bucket", "/bucket").await, "/bucket", "signed as it was sent");
        assert_eq!(path("/bucket/", "/bucket/key").await, "/bucket/key");
        assert_eq!(path("/other/", "/bucket").await, "/bucket");
    }

    #[tokio::test]
    async fn a_presigned_url_of_a_bucket_gets_it_too() {
        let mac = Hmac::<Sha1>::new_from_slice(b"secret").unwrap();
        let mac = mac.chain_update("GET\n\n\n1175139620\nx-amz-meta-a:1\nx-amz-meta-b:2\n/bucket/");
        let signature = BASE64.encode(mac.finalize().into_bytes()).replace('+', "%2B").replace('=', "%3D");
        let query = format!("AWSAccessKeyId=KEY&Expires=1175139620&Signature={}", signature.replace('/', "%2F"));
        let mut asked = request(None, &format!("/bucket?{query}"));
        let domains = Domains::new(&[]);
        end_with_slash(&SimpleAuth::from_single("KEY", "secret"), &domains, &mut asked).await;
        assert_eq!(asked.uri().to_string(), format!("/bucket/?{query}"));
    }

    #[tokio::test]
    async fn a_key_in_virtual_hosted_style_stays_as_it_is() {
        let mac = Hmac::<Sha1>::new_from_slice(b"secret").unwrap();
        let mac = mac.chain_update("GET\n\n\nTue, 27 Mar 2007 19:36:42 +0000\nx-amz-meta-a:1\nx-amz-meta-b:2\n/key/");
        let mut asked = request(Some(&format!("AWS KEY:{}", BASE64.encode(mac.finalize().into_bytes()))), "/key");
        asked.headers_mut().insert("host", http::HeaderValue::from_static("bucket.s3.lan"));
        end_with_slash(&SimpleAuth::from_single("KEY", "secret"), &Domains::new(&["s3.lan".into()]), &mut asked).await;
        assert_eq!(asked.uri().to_string(), "/key");
    }
}
