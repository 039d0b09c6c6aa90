//! The requests, in their order. Each is there because the client, or the simulator that proves the client, depends on its
//! answer; `docs/oss.md` has the table of what is checked by which step.
//!
//! Every name is below the run's own folder. Bodies are the same in every run, so that digests can be compared.

use super::Run;
use super::exchange::{Ask, Auth};
use crate::tier::error::TierError;
use crate::tier::metrics::Operation;
use crate::tier::oss::encode;
use crate::tier::oss::settings::{SignatureVersion, StorageClass};
use bytes::Bytes;
use md5::{Digest as _, Md5};
use reqwest::Method;

/// Length of the object that most steps read, in bytes.
const PLAIN: usize = 1000;
/// A body that the service compresses for whoever accepts it: text of more than 1 KiB.
const LINE: &str = "one line of text that compresses well\n";
const LINES: usize = 60;

/// `len` bytes, the same in every run.
pub(super) fn bytes(len: usize) -> Bytes {
    (0..len).map(|i| (i % 251) as u8).collect()
}

/// A write of class Standard, the cheapest for what is deleted at once.
pub(super) fn put(name: &str, body: impl Into<Bytes>) -> Ask {
    put_class(name, body, StorageClass::Standard)
}

pub(super) fn put_class(name: &str, body: impl Into<Bytes>, class: StorageClass) -> Ask {
    Ask::new(Operation::PutObject, Method::PUT, Some(name))
        .header("content-type", "application/octet-stream")
        .header("x-oss-storage-class", class.name())
        .body(body)
}

pub(super) fn get(name: &str) -> Ask {
    Ask::new(Operation::GetObject, Method::GET, Some(name))
}

pub(super) fn head(name: &str) -> Ask {
    Ask::new(Operation::HeadObject, Method::HEAD, Some(name))
}

pub(super) fn delete(name: &str) -> Ask {
    Ask::new(Operation::DeleteObject, Method::DELETE, Some(name))
}

impl Run<'_> {
    /// All steps.
    pub(super) async fn suite(&mut self) -> Result<(), TierError> {
        self.bucket().await?;
        self.writes().await?;
        self.refused_writes().await?;
        self.reads().await?;
        self.ranges().await?;
        self.names().await?;
        self.copies().await?;
        self.tags().await?;
        self.uploads().await?;
        self.listings().await?;
        self.archive().await?;
        self.cold_archive().await?;
        self.signatures().await?;
        self.urls().await?;
        self.deletes().await
    }

    /// Settings of the bucket are only read; what is different from bucket to bucket is not compared.
    async fn bucket(&mut self) -> Result<(), TierError> {
        let info = Ask::new(Operation::GetBucketInfo, Method::GET, None).query("bucketInfo", "").leaves(&["Name"]);
        self.step("bucket-info", info).await?;
        Ok(())
    }

    async fn writes(&mut self) -> Result<(), TierError> {
        let plain = self.name("plain");
        let body = bytes(PLAIN);
        let md5 = encode::base64(&Md5::digest(&body));
        let crc64 = crc_fast::checksum(super::super::body::CRC64, &body);
        self.step("put", put(&plain, body.clone()).header("x-oss-meta-purpose", "conformance")).await?;
        self.step("put-right-md5", put(&plain, body.clone()).header("content-md5", md5)).await?;
        let checked = put(&plain, body.clone())
            .header("x-oss-hash-crc64ecma", crc64)
            .header("x-oss-meta-purpose", "conformance")
            .header("x-oss-traffic-limit", 8_388_608);
        self.step("put-right-crc64", checked).await?;
        self.step("put-empty", put(&self.name("empty"), Bytes::new())).await?;
        self.step("put-ia", put_class(&self.name("ia"), bytes(10), StorageClass::IA)).await?;
        self.step("head-ia", head(&self.name("ia"))).await?;
        self.step(
            "put-fresh-without-overwriting",
            put(&self.name("fresh"), bytes(1)).header("x-oss-forbid-overwrite", "true"),
        )
        .await?;
        let text = put(&self.name("text"), LINE.repeat(LINES));
        let text = Ask { call: with_header(text.call, "content-type", "text/plain"), ..text };
        self.step("put-text", text).await?;
        Ok(())
    }

    async fn refused_writes(&mut self) -> Result<(), TierError> {
        let plain = self.name("plain");
        let other = || put(&plain, bytes(10));
        let wrong_md5 = encode::base64(&Md5::digest(b"something else"));
        self.step("put-wrong-md5", other().header("content-md5", wrong_md5)).await?;
        self.step("put-wrong-crc64", other().header("x-oss-hash-crc64ecma", 1)).await?;
        self.step("put-without-overwriting", other().header("x-oss-forbid-overwrite", "true")).await?;
        self.step("put-if-none-match", other().header("if-none-match", "*")).await?;
        self.step("put-if-match", other().header("if-match", "\"0\"")).await?;
        self.step("put-traffic-limit-too-low", other().header("x-oss-traffic-limit", 1000)).await?;
        let unknown = Ask { call: with_header(other().call, "x-oss-storage-class", "Glacier"), ..other() };
        self.step("put-unknown-class", unknown).await?;
        Ok(())
    }

    async fn reads(&mut self) -> Result<(), TierError> {
        let (plain, text, missing) = (self.name("plain"), self.name("text"), self.name("missing"));
        self.step("head", head(&plain)).await?;
        let meta = Ask::new(Operation::GetObjectMeta, Method::HEAD, Some(&plain)).query("objectMeta", "");
        self.step("object-meta", meta).await?;
        self.step("get", get(&plain)).await?;
        self.step("get-empty", get(&self.name("empty"))).await?;
        let etag = format!("\"{}\"", hex::encode_upper(Md5::digest(bytes(PLAIN))));
        self.step("get-if-none-match-same", get(&plain).header("if-none-match", &etag)).await?;
        self.step("get-if-match-other", get(&plain).header("if-match", "\"0\"")).await?;
        self.step("get-text-identity", get(&text)).await?;
        self.step("get-text-gzip", get(&text).header("accept-encoding", "gzip")).await?;
        self.step("get-missing", get(&missing)).await?;
        self.step("head-missing", head(&missing)).await?;
        Ok(())
    }

    async fn ranges(&mut self) -> Result<(), TierError> {
        let plain = self.name("plain");
        let range = |text: &str| get(&plain).header("range", format!("bytes={text}"));
        let standard = |text: &str| range(text).header("x-oss-range-behavior", "standard");
        self.step("range", standard("100-199")).await?;
        self.step("range-to-the-end", standard("900-")).await?;
        self.step("range-of-the-last", standard("-10")).await?;
        self.step("range-past-the-end", standard("900-5000")).await?;
        self.step("range-past-the-end-legacy", range("900-5000")).await?;
        self.step("range-outside", standard("5000-6000")).await?;
        self.step("range-outside-legacy", range("5000-6000")).await?;
        Ok(())
    }

    /// Keys that URLs, signatures and documents could spoil.
    async fn names(&mut self) -> Result<(), TierError> {
        let special = self.name("special/a b+c%25?#&<>ü.txt");
        self.step("put-special-name", put(&special, bytes(20))).await?;
        self.step("get-special-name", get(&special)).await?;
        // Its slashes go percent-encoded, or an URL parser would resolve the segment.
        let dots = self.name("special/x/../y");
        self.step("put-dot-segment", put(&dots, bytes(30))).await?;
        self.step("get-dot-segment", get(&dots)).await?;
        Ok(())
    }

    async fn copies(&mut self) -> Result<(), TierError> {
        let (plain, missing, to) = (self.name("plain"), self.name("missing"), self.name("copy"));
        let copy = |source: String| {
            Ask::new(Operation::CopyObject, Method::PUT, Some(&to))
                .header("x-oss-copy-source", source)
                .header("x-oss-storage-class", "Standard")
        };
        self.step("copy", copy(self.copy_source(&plain))).await?;
        self.step("head-copy", head(&to)).await?;
        self.step("copy-missing", copy(self.copy_source(&missing))).await?;
        Ok(())
    }

    async fn tags(&mut self) -> Result<(), TierError> {
        let plain = self.name("plain");
        let tagging = |operation, method| Ask::new(operation, method, Some(&plain)).query("tagging", "");
        let document = "<Tagging><TagSet><Tag><Key>colour</Key><Value>a &amp; b</Value></Tag></TagSet></Tagging>";
        let set = tagging(Operation::PutObjectTagging, Method::PUT).header("content-type", "application/xml");
        self.step("put-tags", set.body(document)).await?;
        self.step("get-tags", tagging(Operation::GetObjectTagging, Method::GET)).await?;
        self.step("head-tagged", head(&plain)).await?;
        self.step("delete-tags", tagging(Operation::DeleteObjectTagging, Method::DELETE)).await?;
        self.step("get-no-tags", tagging(Operation::GetObjectTagging, Method::GET)).await?;
        Ok(())
    }

    async fn signatures(&mut self) -> Result<(), TierError> {
        let plain = self.name("plain");
        self.step("wrong-secret", get(&plain).auth(Auth::WrongSecret)).await?;
        self.step("unknown-key", get(&plain).auth(Auth::UnknownKey)).await?;
        self.step("wrong-token", get(&plain).auth(Auth::WrongToken)).await?;
        self.step("skewed-clock", get(&plain).auth(Auth::Skewed)).await?;
        self.step("anonymous", get(&plain).auth(Auth::Anonymous)).await?;
        self.step("head-wrong-secret", head(&plain).auth(Auth::WrongSecret)).await?;
        if self.signature() == SignatureVersion::V4 {
            self.step("wrong-region", get(&plain).auth(Auth::WrongRegion)).await?;
        } else {
            self.skip("wrong-region", "signature v1 has no region");
        }
        Ok(())
    }

    async fn urls(&mut self) -> Result<(), TierError> {
        let by_url = self.name("by-url");
        self.step("url-put", put(&by_url, bytes(40)).auth(Auth::Url)).await?;
        self.step("url-get", get(&by_url).auth(Auth::Url)).await?;
        self.step("url-get-expired", get(&by_url).auth(Auth::ExpiredUrl)).await?;
        Ok(())
    }

    async fn deletes(&mut self) -> Result<(), TierError> {
        let key = |name: &str| crate::tier::oss::xml::escape(&self.key(name));
        let document = format!(
            "<Delete><Quiet>false</Quiet><Object><Key>{}</Key></Object><Object><Key>{}</Key></Object></Delete>",
            key(&self.name("copy")),
            key(&self.name("missing"))
        );
        let many = || {
            Ask::new(Operation::DeleteMultipleObjects, Method::POST, None)
                .query("delete", "")
                .query("encoding-type", "url")
                .header("content-type", "application/xml")
                .body(document.clone())
        };
        let md5 = encode::base64(&Md5::digest(document.as_bytes()));
        self.step("delete-many-without-md5", many()).await?;
        self.step_hiding("delete-many", many().header("content-md5", md5.clone()), (&md5, "{md5}")).await?;
        let plain = self.name("plain");
        self.step("delete", delete(&plain)).await?;
        self.step("head-deleted", head(&plain)).await?;
        self.step("delete-missing", delete(&plain)).await?;
        Ok(())
    }
}

/// `call` with another value of a header that it has.
fn with_header(mut call: crate::tier::oss::call::Call, name: &str, value: &str) -> crate::tier::oss::call::Call {
    call.headers.retain(|(n, _)| n != name);
    call.header(name, value)
}
