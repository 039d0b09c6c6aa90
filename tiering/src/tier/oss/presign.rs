//! Signed URLs, for those who have no key.

use super::client::Client;
use super::credentials::Credentials;
use super::settings::SignatureVersion;
use super::{sign_v1, sign_v4};
use crate::clock::Timestamp;
use crate::tier::error::{TierError, TierErrorKind};
use crate::tier::metrics::Operation;
use std::time::Duration;

impl Client {
    /// A URL that reads `name` until `valid_for` is over.
    ///
    /// # Errors
    /// `Invalid` for more than seven days or less than one second, else what the source of the credentials says.
    pub async fn presign_get(&self, name: &str, valid_for: Duration) -> Result<String, TierError> {
        self.presign("GET", name, valid_for, &[]).await
    }

    /// A URL that writes `name`. The writer must send the headers that come with it.
    ///
    /// # Errors
    /// As [`Client::presign_get`].
    pub async fn presign_put(
        &self,
        name: &str,
        valid_for: Duration,
    ) -> Result<(String, Vec<(String, String)>), TierError> {
        let headers = vec![
            ("content-type".to_owned(), "application/octet-stream".to_owned()),
            ("x-oss-storage-class".to_owned(), self.settings.storage_class.name().to_owned()),
        ];
        Ok((self.presign("PUT", name, valid_for, &headers).await?, headers))
    }

    async fn presign(
        &self,
        method: &str,
        name: &str,
        valid_for: Duration,
        headers: &[(String, String)],
    ) -> Result<String, TierError> {
        let seconds = valid_for.as_secs();
        if !(1..=sign_v4::MAX_EXPIRES_SECONDS).contains(&seconds) {
            let text = format!("a URL is valid for 1 to {} seconds, not {seconds}", sign_v4::MAX_EXPIRES_SECONDS);
            return Err(self.error(TierErrorKind::Invalid, (Operation::PresignObject, name), text));
        }
        let credentials = self.credentials.get().await?;
        self.presign_at(method, name, headers, (&credentials, self.now(), seconds))
    }

    /// A URL that was signed by `credentials` at a point in time and is valid for so many seconds from then.
    pub(crate) fn presign_at(
        &self,
        method: &str,
        name: &str,
        headers: &[(String, String)],
        (credentials, now, seconds): (&Credentials, Timestamp, u64),
    ) -> Result<String, TierError> {
        let key = self.key(name);
        let what = sign_v4::Signed {
            method,
            bucket: Some(&self.settings.bucket),
            key: Some(&key),
            query: &[],
            headers,
            additional: &[],
        };
        let query = match self.settings.signature {
            SignatureVersion::V4 => sign_v4::presign_query(&what, self.scope(), credentials, now, seconds).0,
            SignatureVersion::V1 => sign_v1::presign_query(&what, credentials, now.seconds().saturating_add(seconds)),
        };
        Ok(self.endpoint.url(Some(&key), &query)?.to_string())
    }
}
