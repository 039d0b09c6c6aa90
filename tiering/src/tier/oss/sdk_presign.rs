//! V1 signed URLs whose signature comes from `aliyun-oss-rust-sdk`, for the optional feature `oss-sdk`.
//!
//! Only the crate's signer is used, for the one kind of text that it signs rightly: a URL's, with at most one `x-oss-*` header
//! (with two it leaves a line break out). Time, escaping and the URL itself are ours: the crate reads the
//! real clock and knows virtual-hosted addresses only. Why this exists, and why it is off: ADR 0013.

use super::client::Client;
use super::credentials::Credentials;
use crate::tier::error::{TierError, TierErrorKind};
use crate::tier::metrics::Operation;
use aliyun_oss_rust_sdk::auth::AuthAPI;
use aliyun_oss_rust_sdk::oss::OSS;
use aliyun_oss_rust_sdk::request::{RequestBuilder, RequestType};
use std::time::Duration;

/// Longest validity, in seconds, the same as of our own URLs (seven days).
const MAX_SECONDS: u64 = 604_800;

/// What a URL is for. One `x-oss-*` header at most, by its type.
struct Wanted<'a> {
    method: RequestType,
    bucket: &'a str,
    key: &'a str,
    content_type: Option<&'a str>,
    header: Option<(&'a str, &'a str)>,
    query: &'a [(String, String)],
}

/// The signature of a URL that is valid until `expires_unix`, in seconds since the epoch.
fn signature(wanted: &Wanted<'_>, credentials: &Credentials, expires_unix: u64) -> String {
    // Its `Debug` shows the secret: it must not outlive this function or reach a log.
    let sdk = OSS::new(
        credentials.access_key_id.as_str(),
        credentials.access_key_secret.expose(),
        "unused.example.com",
        wanted.bucket,
    );
    let mut build = RequestBuilder::new();
    build.method = wanted.method.clone();
    build.content_type = wanted.content_type.map(str::to_owned);
    // In a URL the expiry stands in the place of the date.
    build.headers.insert("date".to_owned(), expires_unix.to_string());
    build.parameters.extend(wanted.query.iter().cloned());
    build.oss_headers.extend(wanted.header.map(|(name, value)| (name.to_owned(), value.to_owned())));
    sdk.sign(format!("/{}", wanted.key), &build)
}

/// The parameters of the signed URL, `wanted.query` included.
fn query(wanted: &Wanted<'_>, credentials: &Credentials, expires_unix: u64) -> Vec<(String, String)> {
    let mut query = wanted.query.to_vec();
    if let Some(token) = &credentials.security_token {
        query.push(("security-token".to_owned(), token.expose().to_owned()));
    }
    let signature =
        signature(&Wanted { query: &query, method: wanted.method.clone(), ..*wanted }, credentials, expires_unix);
    query.push(("Expires".to_owned(), expires_unix.to_string()));
    query.push(("OSSAccessKeyId".to_owned(), credentials.access_key_id.clone()));
    query.push(("Signature".to_owned(), signature));
    query
}

impl Client {
    /// A URL that reads `name` until `valid_for` is over, signed by the vendor-named crate with signature V1, whatever the
    /// tier's own signature version is.
    ///
    /// # Errors
    /// `Invalid` for more than seven days or less than one second, else what the source of the credentials says.
    pub async fn sdk_presign_get(&self, name: &str, valid_for: Duration) -> Result<String, TierError> {
        let key = self.key(name);
        let wanted = Wanted {
            method: RequestType::Get,
            bucket: &self.settings.bucket,
            key: &key,
            content_type: None,
            header: None,
            query: &[],
        };
        self.sdk_presign(name, &wanted, valid_for).await
    }

    /// A URL that writes `name`. The writer must send the headers that come with it.
    ///
    /// # Errors
    /// As [`Client::sdk_presign_get`].
    pub async fn sdk_presign_put(
        &self,
        name: &str,
        valid_for: Duration,
    ) -> Result<(String, Vec<(String, String)>), TierError> {
        let (key, class) = (self.key(name), self.settings.storage_class.name());
        let content_type = "application/octet-stream";
        let wanted = Wanted {
            method: RequestType::Put,
            bucket: &self.settings.bucket,
            key: &key,
            content_type: Some(content_type),
            header: Some(("x-oss-storage-class", class)),
            query: &[],
        };
        let headers = vec![
            ("content-type".to_owned(), content_type.to_owned()),
            ("x-oss-storage-class".to_owned(), class.to_owned()),
        ];
        Ok((self.sdk_presign(name, &wanted, valid_for).await?, headers))
    }

    async fn sdk_presign(&self, name: &str, wanted: &Wanted<'_>, valid_for: Duration) -> Result<String, TierError> {
        let seconds = valid_for.as_secs();
        if !(1..=MAX_SECONDS).contains(&seconds) {
            let text = format!("a URL is valid for 1 to {MAX_SECONDS} seconds, not {seconds}");
            return Err(self.error(TierErrorKind::Invalid, (Operation::PresignObject, name), text));
        }
        let credentials = self.credentials.get().await?;
        let expires = self.now().seconds().saturating_add(seconds);
        Ok(self.endpoint.url(Some(wanted.key), &query(wanted, &credentials, expires))?.to_string())
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::tier::oss::vectors::{credentials, vectors};

    #[test]
    fn every_presign_vector_of_signature_v1_comes_out_of_the_crate() {
        let list = vectors("oss_v1_presign");
        assert_eq!(list.len(), 2);
        let version = [("versionId".to_owned(), "versionId".to_owned())];
        for (vector, (key, expires, token)) in
            list.iter().zip([("key", 1_699_807_420, None), ("key+123", 1_699_808_204, Some("token"))])
        {
            let wanted = Wanted {
                method: RequestType::Get,
                bucket: "bucket",
                key,
                content_type: None,
                header: None,
                query: &version,
            };
            let query = query(&wanted, &credentials(vector, token), expires);
            let value = |name: &str| query.iter().find(|(k, _)| k == name).map(|(_, v)| v.clone());
            assert_eq!(value("Signature").as_deref(), vector["expected"].as_str());
            assert_eq!(value("Expires"), Some(expires.to_string()));
            assert_eq!(value("security-token").as_deref(), token);
        }
    }

    #[test]
    fn the_crate_still_signs_two_headers_wrongly_which_is_why_it_gets_one_at_most() {
        // The first header vector, whose text has three `x-oss-*` headers: the day this comes out right, the limit can go.
        let vector = &vectors("oss_v1_header")[0];
        let sdk = OSS::new("ak", vector["sk"].as_str().unwrap(), "unused.example.com", "examplebucket");
        let mut build = RequestBuilder::new().with_content_type("text/html");
        build.method = RequestType::Put;
        build.content_md5 = Some("eB5eJF1ptWaXm4bijSPyxw==".to_owned());
        build.headers.insert("date".to_owned(), "Wed, 28 Dec 2022 10:27:41 GMT".to_owned());
        for (name, value) in [
            ("x-oss-date", "Wed, 28 Dec 2022 10:27:41 GMT"),
            ("x-oss-meta-author", "alice"),
            ("x-oss-meta-magic", "abracadabra"),
        ] {
            build.oss_headers.insert(name.to_owned(), value.to_owned());
        }
        assert_ne!(sdk.sign("/nelson", &build), vector["expected"].as_str().unwrap());
    }
}
