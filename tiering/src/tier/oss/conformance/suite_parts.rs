//! Steps that need what an earlier step answered: uploads in parts, pages of listings.

use super::Run;
use super::exchange::{Ask, Raw};
use super::suite::{bytes, head, put};
use crate::tier::error::TierError;
use crate::tier::metrics::Operation;
use reqwest::Method;

/// Smallest part but the last, in bytes (100 KiB).
const PART: usize = 100 << 10;
/// Length of the last part.
const LAST: usize = 5000;

fn part(name: &str, upload: &str, number: u32, len: usize) -> Ask {
    Ask::new(Operation::UploadPart, Method::PUT, Some(name))
        .query("partNumber", number)
        .query("uploadId", upload)
        .header("content-type", "application/octet-stream")
        .body(bytes(len))
}

fn complete(name: &str, upload: &str, parts: &[(u32, &str)]) -> Ask {
    let parts: String = parts
        .iter()
        .map(|(number, etag)| format!("<Part><PartNumber>{number}</PartNumber><ETag>{etag}</ETag></Part>"))
        .collect();
    Ask::new(Operation::CompleteMultipartUpload, Method::POST, Some(name))
        .query("uploadId", upload)
        .header("content-type", "application/xml")
        .body(format!("<CompleteMultipartUpload>{parts}</CompleteMultipartUpload>"))
}

fn abort(name: &str, upload: &str) -> Ask {
    Ask::new(Operation::AbortMultipartUpload, Method::DELETE, Some(name)).query("uploadId", upload)
}

impl Run<'_> {
    /// Uploads in parts.
    pub(super) async fn uploads(&mut self) -> Result<(), TierError> {
        self.upload_of_two_parts().await?;
        self.upload_of_small_parts().await?;
        self.upload_of_copied_parts().await
    }

    /// Begins an upload; `None` when the store did not give it an id.
    async fn initiate(&mut self, step: &'static str, name: &str) -> Result<Option<String>, TierError> {
        let ask = Ask::new(Operation::InitiateMultipartUpload, Method::POST, Some(name))
            .query("uploads", "")
            .header("x-oss-storage-class", "Standard")
            .header("content-type", "application/octet-stream");
        let document = |raw: &Raw| raw.document().and_then(|node| node.text_of("UploadId").map(str::to_owned));
        let id = self.step_finding(step, ask, document, "{upload}").await?;
        Ok(id.filter(|id| !id.is_empty()))
    }

    async fn upload_of_two_parts(&mut self) -> Result<(), TierError> {
        let name = self.name("parts/two");
        let Some(upload) = self.initiate("initiate", &name).await? else { return Ok(()) };
        let first = self.step("upload-part", part(&name, &upload, 1, PART)).await?.header("etag").to_owned();
        let last = self.step("upload-last-part", part(&name, &upload, 2, LAST)).await?.header("etag").to_owned();
        let parts = Ask::new(Operation::ListParts, Method::GET, Some(&name)).query("uploadId", &upload);
        self.step("list-parts", parts).await?;
        let uploads = Ask::new(Operation::ListMultipartUploads, Method::GET, None)
            .query("uploads", "")
            .query("encoding-type", "url")
            .query("prefix", self.key(&name));
        self.step("list-uploads", uploads).await?;
        let wrong = "\"00000000000000000000000000000000\"";
        self.step("complete-wrong-part", complete(&name, &upload, &[(1, &first), (2, wrong)])).await?;
        self.step("complete-wrong-order", complete(&name, &upload, &[(2, &last), (1, &first)])).await?;
        self.step("complete", complete(&name, &upload, &[(1, &first), (2, &last)])).await?;
        self.step("complete-again", complete(&name, &upload, &[(1, &first), (2, &last)])).await?;
        self.step("head-parts", head(&name)).await?;
        Ok(())
    }

    async fn upload_of_small_parts(&mut self) -> Result<(), TierError> {
        let name = self.name("parts/small");
        let Some(upload) = self.initiate("initiate-small", &name).await? else { return Ok(()) };
        let first = self.step("upload-small-part", part(&name, &upload, 1, 10)).await?.header("etag").to_owned();
        let last = self.step("upload-small-last-part", part(&name, &upload, 2, 10)).await?.header("etag").to_owned();
        self.step("complete-too-small", complete(&name, &upload, &[(1, &first), (2, &last)])).await?;
        self.step("abort", abort(&name, &upload)).await?;
        self.step("abort-again", abort(&name, &upload)).await?;
        self.step("upload-part-aborted", part(&name, &upload, 1, 10)).await?;
        Ok(())
    }

    async fn upload_of_copied_parts(&mut self) -> Result<(), TierError> {
        let (name, from) = (self.name("parts/copied"), self.name("parts/two"));
        let Some(upload) = self.initiate("initiate-copied", &name).await? else { return Ok(()) };
        let copy = Ask::new(Operation::UploadPartCopy, Method::PUT, Some(&name))
            .query("partNumber", 1)
            .query("uploadId", &upload)
            .header("x-oss-copy-source", self.copy_source(&from))
            .header("x-oss-copy-source-range", "bytes=100-299");
        self.step("upload-part-copy", copy).await?;
        let all = Ask::new(Operation::CompleteMultipartUpload, Method::POST, Some(&name))
            .query("uploadId", &upload)
            .header("x-oss-complete-all", "yes");
        self.step("complete-all", all).await?;
        self.step("get-copied", super::suite::get(&name)).await?;
        Ok(())
    }

    /// Pages, prefixes, and keys that need encoding.
    pub(super) async fn listings(&mut self) -> Result<(), TierError> {
        for (step, name) in [
            ("put-list-1", "list/a"),
            ("put-list-2", "list/b/one"),
            ("put-list-3", "list/b/two"),
            ("put-list-4", "list/c d+ü&"),
        ] {
            self.step(step, put(&self.name(name), bytes(3))).await?;
        }
        let folder = self.key(&self.name("list/"));
        let list = |max: u32| {
            Ask::new(Operation::ListObjectsV2, Method::GET, None)
                .query("list-type", 2)
                .query("encoding-type", "url")
                .query("prefix", &folder)
                .query("max-keys", max)
        };
        self.step("list", list(100)).await?;
        self.step("list-grouped", list(100).query("delimiter", "/")).await?;
        let after = self.key(&self.name("list/a"));
        self.step("list-start-after", list(100).query("start-after", after)).await?;
        let token =
            |raw: &Raw| raw.document().and_then(|node| node.text_of("NextContinuationToken").map(str::to_owned));
        let next = self.step_finding("list-page", list(3), token, "{token}").await?;
        if let Some(next) = next.filter(|token| !token.is_empty()) {
            self.step("list-next-page", list(3).query("continuation-token", next)).await?;
        }
        Ok(())
    }
}
