//! Uploads in parts.

use super::body::combine_crc64;
use super::call::Call;
use super::client::Client;
use super::ops_object::etag;
use super::settings::MAX_PARTS;
use super::xml;
use crate::tier::error::{TierError, TierErrorKind};
use crate::tier::metrics::Operation;
use crate::tier::{BodySource, PutReceipt};
use futures::stream::StreamExt;
use reqwest::Method;
use std::ops::Range;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};

/// Pages that a listing of uploads or parts may have: 100,000 uploads, ten times the parts of one upload.
const MAX_PAGES: usize = 100;
/// Granularity of a part size that was raised, in bytes.
const MIB: u64 = 1 << 20;

/// One part at the store.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Part {
    /// 1 to 10,000.
    pub number: u32,
    /// Its ETag, without quotes.
    pub etag: String,
    /// Its length in bytes.
    pub size: u64,
    /// Its CRC-64.
    pub crc64: Option<u64>,
}

/// An unfinished upload.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct UnfinishedUpload {
    /// Name below the tier's prefix.
    pub name: String,
    /// The store's id of the upload.
    pub upload_id: String,
}

/// Size of the parts of a body of `len` bytes: `wanted`, or what keeps it within 10,000 parts.
fn part_size(len: u64, wanted: u64) -> u64 {
    let needed = len.div_ceil(MAX_PARTS);
    if needed <= wanted { wanted } else { needed.div_ceil(MIB).saturating_mul(MIB) }
}

fn ranges(len: u64, part: u64) -> Vec<(u32, Range<u64>)> {
    (0..len.div_ceil(part))
        .zip(1u32..)
        .map(|(index, number)| {
            let start = index.saturating_mul(part);
            (number, start..start.saturating_add(part).min(len))
        })
        .collect()
}

impl Client {
    /// Writes `body` in parts, several at a time, each streamed from the body and checked by its CRC-64; the CRC-64 of the
    /// whole is checked at the end. A failed upload is aborted.
    ///
    /// # Errors
    /// See [`TierError`].
    pub async fn put_multipart(&self, name: &str, body: Arc<dyn BodySource>) -> Result<PutReceipt, TierError> {
        let upload_id = match self.initiate_multipart(name).await {
            // It may have been applied, and nobody would know the upload's id: the name is ours alone, so whatever
            // upload is under it is that one.
            Err(error) if error.is_retryable() => {
                self.abort_all(name).await?;
                self.initiate_multipart(name).await?
            }
            other => other?,
        };
        let result = self.send_parts(name, &upload_id, body).await;
        if result.is_err()
            && let Err(error) = self.abort_multipart(name, &upload_id).await
        {
            tracing::warn!(name, %error, "cannot abort a failed upload; the deletion of the name will");
        }
        result
    }

    async fn send_parts(
        &self,
        name: &str,
        upload_id: &str,
        body: Arc<dyn BodySource>,
    ) -> Result<PutReceipt, TierError> {
        let len = body.len();
        let size = part_size(len, self.settings.part_size_bytes);
        // After a failure no further part is begun, but those on their way are waited for. To drop them would let one reach the
        // store behind the abort, where it stays and is billed, and would lose it from the account of requests.
        let failed = AtomicBool::new(false);
        let sends = ranges(len, size).into_iter().map(|(number, range)| {
            let (body, failed) = (body.clone(), &failed);
            async move {
                if failed.load(Ordering::Relaxed) {
                    return Ok(None);
                }
                let sent = self.upload_part(name, upload_id, number, (body, range)).await;
                failed.fetch_or(sent.is_err(), Ordering::Relaxed);
                sent.map(Some)
            }
        });
        let sent: Vec<Result<Option<Part>, TierError>> =
            futures::stream::iter(sends).buffer_unordered(self.settings.part_concurrency).collect().await;
        let parts: Result<Vec<Option<Part>>, TierError> = sent.into_iter().collect();
        let mut parts: Vec<Part> = parts?.into_iter().flatten().collect();
        parts.sort_by_key(|part| part.number);
        self.complete_multipart(name, upload_id, &parts).await
    }

    /// InitiateMultipartUpload; returns the upload's id.
    ///
    /// # Errors
    /// See [`TierError`].
    pub async fn initiate_multipart(&self, name: &str) -> Result<String, TierError> {
        const OPERATION: Operation = Operation::InitiateMultipartUpload;
        let call = Call::new(OPERATION, Method::POST, Some(name))
            .query("uploads", "")
            .header("x-oss-storage-class", self.settings.storage_class.name())
            .header("content-type", "application/octet-stream")
            .once();
        let answer = self.send(&call).await?;
        let result: xml::InitiateMultipartUploadResult =
            xml::read(&answer.body).map_err(|why| self.error(TierErrorKind::Corrupt, (OPERATION, name), why))?;
        Ok(result.upload_id)
    }

    /// UploadPart of a range of a body.
    ///
    /// # Errors
    /// See [`TierError`].
    pub async fn upload_part(
        &self,
        name: &str,
        upload_id: &str,
        number: u32,
        piece: (Arc<dyn BodySource>, Range<u64>),
    ) -> Result<Part, TierError> {
        let (body, range) = piece;
        let size = range.end.saturating_sub(range.start);
        let call = Call::new(Operation::UploadPart, Method::PUT, Some(name))
            .query("partNumber", number)
            .query("uploadId", upload_id)
            .source(body, range);
        let answer = self.send(&self.limited(call)).await?;
        let Some(etag) = etag(answer.header("etag")) else {
            return Err(self.error(TierErrorKind::Corrupt, (Operation::UploadPart, name), "the answer has no ETag"));
        };
        Ok(Part { number, etag, size, crc64: answer.sent_crc64 })
    }

    /// UploadPartCopy of `range` of `from`, an object of the same tier.
    ///
    /// # Errors
    /// See [`TierError`].
    pub async fn upload_part_copy(
        &self,
        name: &str,
        upload_id: &str,
        number: u32,
        piece: (&str, Range<u64>),
    ) -> Result<Part, TierError> {
        const OPERATION: Operation = Operation::UploadPartCopy;
        let (from, range) = piece;
        let Some(last) = range.end.checked_sub(1).filter(|last| *last >= range.start) else {
            return Err(self.error(TierErrorKind::Invalid, (OPERATION, name), "an empty range cannot be copied"));
        };
        let call = Call::new(OPERATION, Method::PUT, Some(name))
            .query("partNumber", number)
            .query("uploadId", upload_id)
            .header("x-oss-copy-source", self.copy_source(from))
            .header("x-oss-copy-source-range", format!("bytes={}-{last}", range.start));
        let answer = self.send(&self.limited(call)).await?;
        let bad = |why: String| self.error(TierErrorKind::Corrupt, (OPERATION, name), why);
        let result: xml::EtagResult = xml::read(&answer.body).map_err(bad)?;
        let etag = etag(&result.etag).ok_or_else(|| bad("the answer has no ETag".to_owned()))?;
        Ok(Part { number, etag, size: range.end - range.start, crc64: None })
    }

    /// CompleteMultipartUpload; `parts` in the order of their numbers. When all parts have a CRC-64, the whole is checked.
    ///
    /// # Errors
    /// See [`TierError`].
    pub async fn complete_multipart(
        &self,
        name: &str,
        upload_id: &str,
        parts: &[Part],
    ) -> Result<PutReceipt, TierError> {
        const OPERATION: Operation = Operation::CompleteMultipartUpload;
        let mut text = "<?xml version=\"1.0\" encoding=\"UTF-8\"?><CompleteMultipartUpload>".to_owned();
        for part in parts {
            let etag = xml::escape(&part.etag);
            text.push_str(&format!("<Part><PartNumber>{}</PartNumber><ETag>\"{etag}\"</ETag></Part>", part.number));
        }
        text.push_str("</CompleteMultipartUpload>");
        let call = Call::new(OPERATION, Method::POST, Some(name)).query("uploadId", upload_id).document(text);
        let ours = parts.iter().try_fold(0, |sum, part| Some(combine_crc64(sum, part.crc64?, part.size)));
        let answer = match self.send(&call).await {
            // An earlier attempt may have been applied though its answer was lost: then the object is there.
            Err(error) if error.details().code == "NoSuchUpload" => {
                let size = parts.iter().fold(0u64, |sum, part| sum.saturating_add(part.size));
                return match self.head_object(name).await {
                    Ok(meta) if meta.size == size && ours.is_some() && meta.crc64 == ours => {
                        Ok(PutReceipt { etag: None, crc64: meta.crc64, version_id: None })
                    }
                    _ => Err(error),
                };
            }
            other => other?,
        };
        let theirs = answer.crc64();
        if let (Some(ours), Some(theirs)) = (ours, theirs)
            && ours != theirs
        {
            let text = format!("the store computed CRC-64 {theirs} of the whole, the parts combine to {ours}");
            return Err(self.error(TierErrorKind::Corrupt, (OPERATION, name), text));
        }
        let result: xml::EtagResult =
            xml::read(&answer.body).map_err(|why| self.error(TierErrorKind::Corrupt, (OPERATION, name), why))?;
        let version = Some(answer.header("x-oss-version-id")).filter(|v| !v.is_empty()).map(str::to_owned);
        Ok(PutReceipt { etag: etag(&result.etag), crc64: theirs, version_id: version })
    }

    /// AbortMultipartUpload. An upload that is not there counts as aborted.
    ///
    /// # Errors
    /// See [`TierError`].
    pub async fn abort_multipart(&self, name: &str, upload_id: &str) -> Result<(), TierError> {
        let call = Call::new(Operation::AbortMultipartUpload, Method::DELETE, Some(name)).query("uploadId", upload_id);
        match self.send(&call).await {
            Err(error) if !error.is_not_found() => Err(error),
            _ => Ok(()),
        }
    }

    /// Aborts every unfinished upload of exactly `name`.
    ///
    /// # Errors
    /// See [`TierError`].
    pub async fn abort_all(&self, name: &str) -> Result<(), TierError> {
        for upload in self.list_uploads(name).await?.into_iter().filter(|upload| upload.name == name) {
            self.abort_multipart(name, &upload.upload_id).await?;
        }
        Ok(())
    }

    /// ListMultipartUploads: all unfinished uploads of names that start with `prefix`, page by page.
    ///
    /// # Errors
    /// See [`TierError`]; `Corrupt` when the store gives more than 100 pages.
    pub async fn list_uploads(&self, prefix: &str) -> Result<Vec<UnfinishedUpload>, TierError> {
        const OPERATION: Operation = Operation::ListMultipartUploads;
        let bad = |why: String| self.error(TierErrorKind::Corrupt, (OPERATION, prefix), why);
        let own_prefix = self.prefix();
        let mut all = Vec::new();
        let mut markers: Option<(String, String)> = None;
        for _ in 0..MAX_PAGES {
            let mut call = Call::new(OPERATION, Method::GET, None)
                .query("uploads", "")
                .query("encoding-type", "url")
                .query("max-uploads", 1000)
                .query("prefix", self.key(prefix));
            if let Some((key, id)) = &markers {
                call = call.query("key-marker", key).query("upload-id-marker", id);
            }
            let answer = self.send(&call).await?;
            let page: xml::ListMultipartUploadsResult = xml::read(&answer.body).map_err(bad)?;
            for upload in page.upload {
                let key = xml::decode_key(&upload.key, &page.encoding_type).map_err(bad)?;
                let name = key.strip_prefix(&own_prefix).unwrap_or(&key).to_owned();
                all.push(UnfinishedUpload { name, upload_id: upload.upload_id });
            }
            if !page.is_truncated {
                return Ok(all);
            }
            let key = xml::decode_key(&page.next_key_marker, &page.encoding_type).map_err(bad)?;
            markers = Some((key, page.next_upload_id_marker));
        }
        Err(bad(format!("the listing of uploads does not end within {MAX_PAGES} pages")))
    }

    /// ListParts: all parts of an unfinished upload, page by page.
    ///
    /// # Errors
    /// See [`TierError`]; `Corrupt` when the store gives more than 100 pages.
    pub async fn list_parts(&self, name: &str, upload_id: &str) -> Result<Vec<Part>, TierError> {
        const OPERATION: Operation = Operation::ListParts;
        let bad = |why: String| self.error(TierErrorKind::Corrupt, (OPERATION, name), why);
        let mut all = Vec::new();
        let mut marker: Option<String> = None;
        for _ in 0..MAX_PAGES {
            let mut call =
                Call::new(OPERATION, Method::GET, Some(name)).query("uploadId", upload_id).query("max-parts", 1000);
            if let Some(marker) = &marker {
                call = call.query("part-number-marker", marker);
            }
            let page: xml::ListPartsResult = xml::read(&self.send(&call).await?.body).map_err(bad)?;
            for part in page.part {
                let etag = etag(&part.etag).ok_or_else(|| bad(format!("part {} has no ETag", part.part_number)))?;
                let crc64 = part.hash_crc64ecma.trim().parse().ok();
                all.push(Part { number: part.part_number, etag, size: part.size, crc64 });
            }
            if !page.is_truncated {
                return Ok(all);
            }
            marker = Some(page.next_part_number_marker);
        }
        Err(bad(format!("the listing of parts does not end within {MAX_PAGES} pages")))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn parts_cover_the_body_and_never_exceed_ten_thousand() {
        for (len, wanted) in [(1, 10), (10, 10), (11, 10), (5 << 40, 16 << 20), (48 << 40, 100 << 10)] {
            let size = part_size(len, wanted);
            let list = ranges(len, size);
            assert!(list.len() as u64 <= MAX_PARTS, "{len}");
            assert_eq!(list[0], (1, 0..size.min(len)));
            assert!(list.windows(2).all(|w| w[0].1.end == w[1].1.start && w[0].0 + 1 == w[1].0));
            assert_eq!(list.last().unwrap().1.end, len);
        }
    }
}
