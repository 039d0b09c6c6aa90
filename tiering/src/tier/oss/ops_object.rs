//! Operations on one object, and deletion of many.

use super::body::CRC64;
use super::call::{Answer, Call};
use super::client::Client;
use super::encode;
use super::settings::StorageClass;
use super::xml;
use crate::tier::error::{TierError, TierErrorKind};
use crate::tier::metrics::Operation;
use crate::tier::{BodySource, Created, PutReceipt, RemoteMeta};
use bytes::Bytes;
use crc_fast::Digest;
use futures::stream::{BoxStream, StreamExt};
use md5::{Digest as _, Md5};
use reqwest::Method;
use std::ops::Range;
use std::sync::Arc;
use tokio::sync::OwnedSemaphorePermit;

/// Most names of one DeleteMultipleObjects.
pub const MAX_DELETE_NAMES: usize = 1000;

/// An ETag without its quotes.
pub(crate) fn etag(text: &str) -> Option<String> {
    let bare = text.trim().trim_matches('"');
    (!bare.is_empty()).then(|| bare.to_owned())
}

/// The version that was written. None when an attempt before may have written another: the deletion then looks for all.
fn version(answer: &Answer) -> Option<String> {
    if answer.repeated {
        return None;
    }
    Some(answer.header("x-oss-version-id")).filter(|v| !v.is_empty()).map(str::to_owned)
}

impl Client {
    /// PutObject: one request, at most 5 GiB. The store's CRC-64 has been compared when this returns.
    ///
    /// # Errors
    /// See [`TierError`].
    pub async fn put_object(&self, name: &str, body: Arc<dyn BodySource>) -> Result<PutReceipt, TierError> {
        let len = body.len();
        let call = Call::new(Operation::PutObject, Method::PUT, Some(name))
            .header("x-oss-storage-class", self.settings.storage_class.name())
            .source(body, 0..len);
        let answer = self.send(&self.limited(call)).await?;
        Ok(PutReceipt { etag: etag(answer.header("etag")), crc64: answer.crc64(), version_id: version(&answer) })
    }

    /// PutObject in class Standard with `x-oss-forbid-overwrite`, which buckets that keep versions ignore.
    ///
    /// # Errors
    /// See [`TierError`].
    pub async fn create_object(&self, name: &str, body: Arc<dyn BodySource>) -> Result<Created, TierError> {
        let len = body.len();
        let call = Call::new(Operation::PutObject, Method::PUT, Some(name))
            .header("x-oss-storage-class", StorageClass::Standard.name())
            .header("x-oss-forbid-overwrite", "true")
            .source(body, 0..len);
        match self.send(&self.limited(call)).await {
            Ok(_) => Ok(Created::New),
            Err(error) if error.details().code == "FileAlreadyExists" => Ok(Created::Exists),
            Err(error) => Err(error),
        }
    }

    /// GetObject of a range of bytes. The stream goes on where it broke, within the attempts that the settings allow, and
    /// fails when fewer bytes come. The CRC-64 is checked when the range is the whole object: the one that the store
    /// sends with a part of it is the whole object's.
    ///
    /// # Errors
    /// See [`TierError`]; `Invalid` for a range beyond the object's end. An empty range asks nothing of the store.
    pub async fn get_object(
        self: &Arc<Self>,
        name: &str,
        range: Range<u64>,
    ) -> Result<BoxStream<'static, Result<Bytes, TierError>>, TierError> {
        if range.start > range.end {
            let text = format!("range {}..{} ends before it starts", range.start, range.end);
            return Err(self.error(TierErrorKind::Invalid, (Operation::GetObject, name), text));
        }
        if range.start == range.end {
            return Ok(futures::stream::empty().boxed());
        }
        let mut download = Download {
            client: self.clone(),
            name: name.to_owned(),
            range: range.clone(),
            position: range.start,
            connection: None,
            digest: Digest::new(CRC64),
            whole_crc64: None,
            attempts: 1,
        };
        download.open().await?;
        let stream = futures::stream::try_unfold(download, |mut download| async move {
            Ok(download.next().await?.map(|piece| (piece, download)))
        });
        Ok(stream.boxed())
    }

    /// HeadObject.
    ///
    /// # Errors
    /// See [`TierError`].
    pub async fn head_object(&self, name: &str) -> Result<RemoteMeta, TierError> {
        let answer = self.send(&Call::new(Operation::HeadObject, Method::HEAD, Some(name))).await?;
        Ok(RemoteMeta {
            name: name.to_owned(),
            size: self.length(Operation::HeadObject, name, &answer)?,
            // The service leaves the header out of answers for some objects of the default class.
            class: xml::class_name(answer.header("x-oss-storage-class")),
            crc64: answer.crc64(),
            restore: xml::restore_state(answer.header("x-oss-restore")),
        })
    }

    /// GetObjectMeta: size and ETag only.
    ///
    /// # Errors
    /// See [`TierError`].
    pub async fn get_object_meta(&self, name: &str) -> Result<(u64, Option<String>), TierError> {
        let call = Call::new(Operation::GetObjectMeta, Method::HEAD, Some(name)).query("objectMeta", "");
        let answer = self.send(&call).await?;
        Ok((self.length(Operation::GetObjectMeta, name, &answer)?, etag(answer.header("etag"))))
    }

    fn length(&self, operation: Operation, name: &str, answer: &Answer) -> Result<u64, TierError> {
        answer
            .header("content-length")
            .trim()
            .parse()
            .map_err(|_| self.error(TierErrorKind::Corrupt, (operation, name), "the answer has no Content-Length"))
    }

    /// DeleteObject. A name that is not there counts as deleted.
    ///
    /// # Errors
    /// See [`TierError`].
    pub async fn delete_object(&self, name: &str) -> Result<(), TierError> {
        match self.send(&Call::new(Operation::DeleteObject, Method::DELETE, Some(name))).await {
            Err(error) if !error.is_not_found() => Err(error),
            _ => Ok(()),
        }
    }

    /// DeleteMultipleObjects: at most [`MAX_DELETE_NAMES`] names; returns those that the store says are gone.
    ///
    /// # Errors
    /// See [`TierError`]; `Invalid` for too many names.
    pub async fn delete_objects(&self, names: &[String]) -> Result<Vec<String>, TierError> {
        const OPERATION: Operation = Operation::DeleteMultipleObjects;
        if names.is_empty() {
            return Ok(Vec::new());
        }
        if names.len() > MAX_DELETE_NAMES {
            let text = format!("{} names, at most {MAX_DELETE_NAMES} are possible", names.len());
            return Err(self.error(TierErrorKind::Invalid, (OPERATION, ""), text));
        }
        let mut text = "<?xml version=\"1.0\" encoding=\"UTF-8\"?><Delete><Quiet>false</Quiet>".to_owned();
        for name in names {
            text.push_str(&format!("<Object><Key>{}</Key></Object>", xml::escape(&self.key(name))));
        }
        text.push_str("</Delete>");
        let call = Call::new(OPERATION, Method::POST, None)
            .query("delete", "")
            .query("encoding-type", "url")
            .header("content-md5", encode::base64(&Md5::digest(text.as_bytes())))
            .document(text);
        let answer = self.send(&call).await?;
        let bad = |why: String| self.error(TierErrorKind::Corrupt, (OPERATION, ""), why);
        let result: xml::DeleteResult = xml::read(&answer.body).map_err(bad)?;
        let prefix = self.prefix();
        let keys = result.deleted.iter().map(|d| xml::decode_key(&d.key, &result.encoding_type).map_err(bad));
        keys.map(|key| key.map(|k| k.strip_prefix(&prefix).unwrap_or(&k).to_owned())).collect()
    }

    /// CopyObject within the bucket, into this tier's class. A source in an archive class must be restored first.
    ///
    /// # Errors
    /// See [`TierError`].
    pub async fn copy_object(&self, from: &str, to: &str) -> Result<Option<String>, TierError> {
        let call = Call::new(Operation::CopyObject, Method::PUT, Some(to))
            .header("x-oss-copy-source", self.copy_source(from))
            .header("x-oss-storage-class", self.settings.storage_class.name());
        let answer = self.send(&self.limited(call)).await?;
        let result: xml::EtagResult = xml::read(&answer.body)
            .map_err(|why| self.error(TierErrorKind::Corrupt, (Operation::CopyObject, to), why))?;
        Ok(etag(&result.etag))
    }

    /// `/bucket/key`, encoded.
    pub(crate) fn copy_source(&self, name: &str) -> String {
        encode::path(&format!("/{}/{}", self.settings.bucket, self.key(name)))
    }

    /// The class that this client writes.
    pub fn storage_class(&self) -> StorageClass {
        self.settings.storage_class
    }
}

/// A GET under way.
struct Download {
    client: Arc<Client>,
    name: String,
    range: Range<u64>,
    position: u64,
    connection: Option<(reqwest::Response, OwnedSemaphorePermit)>,
    digest: Digest,
    /// The store's CRC-64, when the range is the whole object.
    whole_crc64: Option<u64>,
    attempts: u32,
}

impl Download {
    fn error(&self, kind: TierErrorKind, message: impl ToString) -> TierError {
        self.client.error(kind, (Operation::GetObject, &self.name), message)
    }

    /// Asks for what is left.
    async fn open(&mut self) -> Result<(), TierError> {
        let last = self.range.end.saturating_sub(1);
        let call = Call::new(Operation::GetObject, Method::GET, Some(&self.name))
            .header("range", format!("bytes={}-{last}", self.position))
            // Without it, a range that cannot be served is answered with the whole object.
            .header("x-oss-range-behavior", "standard");
        let mut answer = match self.client.send(&self.client.limited(call)).await {
            Err(error) if error.details().status == 416 => {
                let text = format!("the object is shorter than {} bytes", self.range.end);
                return Err(TierError::new(
                    TierErrorKind::Invalid,
                    crate::tier::error::ErrorDetails { message: text, ..error.details().clone() },
                ));
            }
            other => other?,
        };
        if let Ok(announced) = answer.header("content-length").trim().parse() {
            self.client.metrics.retrieved_bytes.inc_by(announced);
        }
        let content_range = answer.header("content-range").to_owned();
        let total = match answer.status.as_u16() {
            206 => self.check_range(&content_range)?,
            // The whole object, which is right when that is what is wanted.
            _ => {
                let len = self.client.length(Operation::GetObject, &self.name, &answer)?;
                if self.position != 0 || self.range.end != len {
                    let text = format!("the whole object ({len} bytes) came instead of a range of it");
                    return Err(self.error(TierErrorKind::Corrupt, text));
                }
                len
            }
        };
        if self.range == (0..total) {
            let crc64 = answer.crc64();
            if self.position > 0 && crc64 != self.whole_crc64 {
                return Err(self.error(TierErrorKind::Corrupt, "the object changed while it was read"));
            }
            self.whole_crc64 = crc64;
        }
        self.connection = answer.stream.take();
        Ok(())
    }

    /// Checks `bytes a-b/total` against what was asked for; returns `total`.
    fn check_range(&self, text: &str) -> Result<u64, TierError> {
        let parsed = text.trim().strip_prefix("bytes ").and_then(|rest| {
            let (range, total) = rest.split_once('/')?;
            let (first, last) = range.split_once('-')?;
            Some((first.parse::<u64>().ok()?, last.parse::<u64>().ok()?, total.parse::<u64>().ok()?))
        });
        let Some((first, last, total)) = parsed else {
            return Err(self.error(TierErrorKind::Corrupt, format!("Content-Range {text:?} cannot be read")));
        };
        if total < self.range.end {
            let text = format!("the object has {total} bytes, {} were asked for", self.range.end);
            return Err(self.error(TierErrorKind::Invalid, text));
        }
        if first != self.position || last.checked_add(1) != Some(self.range.end) {
            let text = format!("bytes {first}-{last} came instead of {}-{}", self.position, self.range.end - 1);
            return Err(self.error(TierErrorKind::Corrupt, text));
        }
        Ok(total)
    }

    /// The next piece; `None` at the end.
    async fn next(&mut self) -> Result<Option<Bytes>, TierError> {
        loop {
            if self.position == self.range.end {
                return self.finish().map(|()| None);
            }
            let reason = match self.chunk().await {
                Ok(piece) => return self.take(piece).map(Some),
                Err(reason) => reason,
            };
            self.connection = None;
            if self.attempts >= self.client.settings.max_attempts {
                let done = self.position.saturating_sub(self.range.start);
                let all = self.range.end.saturating_sub(self.range.start);
                return Err(self.error(TierErrorKind::Unavailable, format!("{reason} after {done} of {all} bytes")));
            }
            self.client.pause(self.attempts, std::time::Duration::ZERO).await;
            self.attempts += 1;
            self.open().await?;
        }
    }

    async fn chunk(&mut self) -> Result<Bytes, String> {
        let idle = self.client.idle();
        let Some((response, _)) = &mut self.connection else { return Err("the body was missing".to_owned()) };
        match tokio::time::timeout(idle, response.chunk()).await {
            Ok(Ok(Some(piece))) => Ok(piece),
            Ok(Ok(None)) => Err("the body ended".to_owned()),
            Ok(Err(error)) => Err(format!("the body broke ({error})")),
            Err(_) => Err("the body stalled".to_owned()),
        }
    }

    fn take(&mut self, piece: Bytes) -> Result<Bytes, TierError> {
        let len = piece.len() as u64;
        let left = self.range.end.saturating_sub(self.position);
        if len > left {
            return Err(self.error(TierErrorKind::Corrupt, "more bytes came than were asked for"));
        }
        self.position += len;
        self.digest.update(&piece);
        self.client.metrics.received_bytes.inc_by(len);
        Ok(piece)
    }

    fn finish(&mut self) -> Result<(), TierError> {
        self.connection = None;
        let ours = self.digest.finalize();
        match self.whole_crc64 {
            Some(theirs) if theirs != ours => {
                let text = format!("CRC-64 {ours} of what came differs from the store's {theirs}");
                Err(self.error(TierErrorKind::Corrupt, text))
            }
            _ => Ok(()),
        }
    }
}
