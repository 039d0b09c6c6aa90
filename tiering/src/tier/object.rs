//! Tiers on directories and S3-compatible stores, through the `object_store` crate.

mod setup;

pub use setup::{DirectorySettings, S3Settings};

use super::error::{ErrorDetails, TierError, TierErrorKind};
use super::folder::Folder;
use super::metrics::{Operation, Outcome, TierMetrics};
use super::transfer::{Cut, Gather};
use super::{
    BodySource, Capabilities, Created, PutReceipt, RemoteMeta, RestorePriority, RestoreReceipt, RestoreState, Tier,
};
use async_trait::async_trait;
use bytes::{Bytes, BytesMut};
use futures::stream::{BoxStream, StreamExt, TryStreamExt};
use object_store::path::Path;
use object_store::{
    Attribute, Attributes, GetOptions, GetRange, ObjectMeta, ObjectStore, ObjectStoreExt, PutMode, PutMultipartOptions,
    PutOptions,
};
use std::collections::BTreeMap;
use std::ops::Range;
use std::sync::Arc;
use std::sync::atomic::{AtomicU32, Ordering};
use std::time::Instant;

/// Bytes that a write to a directory holds in memory at a time.
const DIRECTORY_PIECE: u64 = 1 << 20;
/// Most parts of an upload to an S3-compatible store.
const S3_PARTS: u64 = 10_000;

/// How many reads are to be made whole before a ranged one is tried again. After each odd answer in a row twice as many as
/// before: one answer of a proxy that was restarting costs one read, a store that knows no ranges a wasted request now
/// and then. Counted, not timed: a tier that nobody reads needs no answer.
#[derive(Debug, Default)]
struct Whole {
    left: AtomicU32,
    next: AtomicU32,
}

/// Most reads that are made whole in a row.
const MAX_WHOLE: u32 = 256;

impl Whole {
    /// Whether this read is one of them.
    fn take(&self) -> bool {
        self.left.fetch_update(Ordering::Relaxed, Ordering::Relaxed, |left| left.checked_sub(1)).is_ok()
    }

    /// After an odd answer, a whole read gave what was asked for.
    fn worked(&self) {
        let next = self.next.load(Ordering::Relaxed).saturating_mul(2).clamp(1, MAX_WHOLE);
        self.next.store(next, Ordering::Relaxed);
        self.left.store(next, Ordering::Relaxed);
    }

    /// A ranged read was answered as one.
    fn not_needed(&self) {
        self.next.store(0, Ordering::Relaxed);
        self.left.store(0, Ordering::Relaxed);
    }
}

/// A tier on an [`ObjectStore`].
#[derive(Debug)]
pub struct ObjectTier {
    name: String,
    host: String,
    store: Arc<dyn ObjectStore>,
    /// Ends with a slash when it is not empty.
    prefix: String,
    class: Option<String>,
    /// Folder of a directory tier.
    folder: Option<Folder>,
    piece: u64,
    /// Listings come in the order of names.
    sorted: bool,
    /// Reads from the beginning of objects, while the store answers ranged ones wrongly.
    whole: Arc<Whole>,
    metrics: TierMetrics,
}

impl ObjectTier {
    /// A tier on any store that lists in the order of names.
    pub(crate) fn on(name: &str, store: Arc<dyn ObjectStore>, metrics: TierMetrics) -> Self {
        Self {
            name: name.to_owned(),
            host: store.to_string(),
            store,
            prefix: String::new(),
            class: None,
            folder: None,
            piece: DIRECTORY_PIECE,
            sorted: true,
            whole: Arc::default(),
            metrics,
        }
    }

    /// The tier's name in the configuration.
    pub fn name(&self) -> &str {
        &self.name
    }

    fn error(&self, kind: TierErrorKind, call: (Operation, &str), message: impl ToString) -> TierError {
        let details = ErrorDetails {
            operation: call.0.name(),
            name: call.1.to_owned(),
            host: self.host.clone(),
            message: message.to_string(),
            ..ErrorDetails::default()
        };
        TierError::new(kind, details)
    }

    fn convert(&self, call: (Operation, &str), error: &object_store::Error) -> TierError {
        use object_store::Error as E;
        let text = error.to_string();
        let kind = match error {
            E::NotFound { .. } => TierErrorKind::NotFound,
            _ if text.contains("InvalidObjectState") => TierErrorKind::Frozen,
            E::PermissionDenied { .. } | E::Unauthenticated { .. } => TierErrorKind::Denied,
            E::InvalidPath { .. }
            | E::NotSupported { .. }
            | E::NotImplemented { .. }
            | E::AlreadyExists { .. }
            | E::Precondition { .. }
            | E::NotModified { .. }
            | E::UnknownConfigurationKey { .. } => TierErrorKind::Invalid,
            _ if text.contains("SlowDown") => TierErrorKind::Throttled { delay: std::time::Duration::ZERO },
            _ => TierErrorKind::Unavailable,
        };
        self.error(kind, call, text)
    }

    fn path(&self, call: (Operation, &str)) -> Result<Path, TierError> {
        let full = format!("{}{}", self.prefix, call.1);
        let path = Path::parse(&full).map_err(|e| self.error(TierErrorKind::Invalid, call, e))?;
        // The parser forgives outer slashes, which would let two names share an object.
        if path.as_ref() == full && !call.1.is_empty() {
            return Ok(path);
        }
        Err(self.error(TierErrorKind::Invalid, call, "a name is not empty and neither starts nor ends with a slash"))
    }

    async fn counted<T>(
        &self,
        operation: Operation,
        work: impl Future<Output = Result<T, TierError>>,
    ) -> Result<T, TierError> {
        let started = Instant::now();
        let result = match self.away(operation).await {
            Some(away) => Err(away),
            None => match work.await {
                // It may have gone away meanwhile, and then nothing is found.
                Err(error) if error.is_not_found() => Err(self.away(operation).await.unwrap_or(error)),
                // Or what is written, deleted or listed is in another place: a write makes the folders that it misses.
                Ok(done) if !matches!(operation, Operation::GetObject | Operation::HeadObject) => {
                    self.away(operation).await.map_or(Ok(done), Err)
                }
                other => other,
            },
        };
        let outcome = result.as_ref().map_or_else(Outcome::from, |_| Outcome::Ok);
        self.metrics.observe(operation, outcome, started.elapsed());
        result
    }

    /// The error of a directory tier whose folder is not there.
    async fn away(&self, operation: Operation) -> Option<TierError> {
        let why = self.folder.as_ref()?.problem().await?;
        Some(self.error(TierErrorKind::Unavailable, (operation, ""), why))
    }

    fn attributes(&self) -> Attributes {
        let mut attributes = Attributes::new();
        if let Some(class) = &self.class {
            attributes.insert(Attribute::StorageClass, class.clone().into());
        }
        attributes
    }

    async fn write(&self, name: &str, body: &dyn BodySource) -> Result<PutReceipt, TierError> {
        const CALL: Operation = Operation::PutObject;
        let path = self.path((CALL, name))?;
        let convert = |e: object_store::Error| self.convert((CALL, name), &e);
        let len = body.len();
        let mut stream = body.open(0..len);
        let mut gather = Gather { stream: &mut stream, rest: BytesMut::new(), left: len, name };
        let piece = self.piece.max(len.div_ceil(S3_PARTS));
        let result = if len <= piece {
            let payload = gather.next(len).await?;
            gather.finish().await?;
            let options = PutOptions { attributes: self.attributes(), ..PutOptions::default() };
            self.store.put_opts(&path, payload, options).await.map_err(convert)?
        } else {
            let options = PutMultipartOptions { attributes: self.attributes(), ..PutMultipartOptions::default() };
            let mut upload = self.store.put_multipart_opts(&path, options).await.map_err(convert)?;
            let sent = async {
                while gather.left > 0 {
                    let payload = gather.next(piece).await?;
                    upload.put_part(payload).await.map_err(convert)?;
                }
                gather.finish().await
            };
            match sent.await {
                Ok(()) => upload.complete().await.map_err(convert)?,
                Err(error) => {
                    if let Err(abort) = upload.abort().await {
                        tracing::warn!(tier = self.name, name, error = %abort, "cannot abort a failed upload");
                    }
                    return Err(error);
                }
            }
        };
        self.metrics.sent_bytes.inc_by(len);
        let stored = self.store.head(&path).await.map_err(convert)?.size;
        if stored != len {
            let text = format!("{len} bytes were sent, the store has {stored}");
            return Err(self.error(TierErrorKind::Corrupt, (CALL, name), text));
        }
        let etag = result.e_tag.map(|t| t.trim_matches('"').to_owned());
        Ok(PutReceipt { etag, crc64: None, version_id: result.version })
    }

    async fn read(
        &self,
        name: &str,
        range: Range<u64>,
    ) -> Result<BoxStream<'static, Result<Bytes, TierError>>, TierError> {
        const CALL: Operation = Operation::GetObject;
        let path = self.path((CALL, name))?;
        let short = |size: u64| {
            let text = format!("the object has {size} bytes, {} were asked for", range.end);
            self.error(TierErrorKind::Invalid, (CALL, name), text)
        };
        let mut whole = self.whole.take();
        let mut answered = self.ask(&path, (!whole).then(|| range.clone())).await;
        let odd = !whole && answered.as_ref().is_err_and(is_not_partial);
        if odd {
            tracing::warn!(
                tier = self.name,
                "the store answers a ranged read with another status than 206; it is read whole"
            );
            whole = true;
            answered = self.ask(&path, None).await;
        } else if !whole && answered.is_ok() {
            self.whole.not_needed();
        }
        let result = match answered {
            Ok(result) => result,
            // Stores answer a range beyond the end in many ways, most of which look like a failure of the store.
            Err(error) => match self.store.head(&path).await {
                Ok(meta) if meta.size < range.end => return Err(short(meta.size)),
                _ => return Err(self.convert((CALL, name), &error)),
            },
        };
        let fits = if whole { result.range.start == 0 && result.range.end >= range.end } else { result.range == range };
        if !fits {
            return Err(short(result.meta.size));
        }
        let place = self.error(TierErrorKind::Unavailable, (CALL, name), "the body ended early").details().clone();
        let cut = Cut {
            skip: if whole { range.start } else { 0 },
            left: range.end - range.start,
            forgives_more: whole,
            received: self.metrics.received_bytes.clone(),
            place,
        };
        // Only what has come shows that reading whole is a way out. The last piece is enough: who has all asks for no more.
        let learns = odd.then(|| Arc::clone(&self.whole));
        let start = (result.into_stream(), cut, learns);
        let stream = futures::stream::try_unfold(start, |(mut stream, mut cut, mut learns)| async move {
            loop {
                let Some(piece) = stream.next().await.filter(|_| cut.left > 0 || !cut.forgives_more) else {
                    return cut.end().map(|()| None);
                };
                let piece = cut.take(piece.map_err(|e| cut.broken(e.to_string()))?)?;
                if let Some(whole) = learns.take_if(|_| cut.left == 0) {
                    whole.worked();
                }
                if !piece.is_empty() {
                    return Ok(Some((piece, (stream, cut, learns))));
                }
            }
        });
        Ok(stream.boxed())
    }

    async fn ask(&self, path: &Path, range: Option<Range<u64>>) -> object_store::Result<object_store::GetResult> {
        let options = GetOptions { range: range.map(GetRange::Bounded), ..GetOptions::default() };
        self.store.get_opts(path, options).await
    }

    fn meta(&self, object: ObjectMeta, class: Option<String>) -> Option<RemoteMeta> {
        let name = object.location.as_ref().strip_prefix(&self.prefix)?.to_owned();
        Some(RemoteMeta { name, size: object.size, class, crc64: None, restore: RestoreState::None })
    }

    /// Removes what a write to a directory left when it was killed: `object_store` writes to `<name>#<number>` first.
    fn sweep(&self, name: &str) -> std::io::Result<()> {
        let Some(folder) = &self.folder else { return Ok(()) };
        let target = folder.path().join(name);
        let (Some(parent), Some(file)) = (target.parent(), target.file_name().and_then(|f| f.to_str())) else {
            return Ok(());
        };
        let entries = match std::fs::read_dir(parent) {
            Err(error) if error.kind() == std::io::ErrorKind::NotFound => return Ok(()),
            other => other?,
        };
        for entry in entries {
            let entry = entry?;
            let staged =
                entry.file_name().to_str().and_then(|f| f.strip_prefix(file)?.strip_prefix('#').map(str::to_owned));
            if staged.is_some_and(|n| !n.is_empty() && n.bytes().all(|b| b.is_ascii_digit())) {
                std::fs::remove_file(entry.path())?;
            }
        }
        Ok(())
    }

    async fn names(&self, prefix: &str, after: Option<&str>, max: usize) -> Result<Vec<RemoteMeta>, TierError> {
        const CALL: Operation = Operation::ListObjectsV2;
        let full = format!("{}{prefix}", self.prefix);
        // The crate lists folders, not prefixes of names.
        let folder = full.rsplit_once('/').map(|(folder, _)| folder).filter(|f| !f.is_empty());
        let invalid = |e: object_store::path::Error| self.error(TierErrorKind::Invalid, (CALL, prefix), e);
        let folder = folder.map(Path::parse).transpose().map_err(invalid)?;
        let offset = after.map(|name| Path::parse(format!("{}{name}", self.prefix))).transpose().map_err(invalid)?;
        let mut stream = match &offset {
            Some(offset) => self.store.list_with_offset(folder.as_ref(), offset),
            None => self.store.list(folder.as_ref()),
        };
        let mut found: BTreeMap<String, RemoteMeta> = BTreeMap::new();
        while let Some(object) = stream.try_next().await.map_err(|e| self.convert((CALL, prefix), &e))? {
            let Some(meta) = self.meta(object, None) else { continue };
            if !meta.name.starts_with(prefix) || after.is_some_and(|after| meta.name.as_str() <= after) {
                if self.sorted && meta.name.as_str() > prefix && !meta.name.starts_with(prefix) {
                    break;
                }
                continue;
            }
            found.insert(meta.name.clone(), meta);
            if self.sorted && found.len() >= max {
                break;
            }
            if found.len() > max {
                found.pop_last();
            }
        }
        Ok(found.into_values().take(max).collect())
    }
}

/// Whether a store answered a ranged read as if no range had been asked for. `rclone serve s3` does: 200, with
/// `Content-Range` and the range's bytes. The crate says so in words only; `tests/e2e` asks the real one.
fn is_not_partial(error: &object_store::Error) -> bool {
    error.to_string().contains("non-partial response")
}

#[async_trait]
impl Tier for ObjectTier {
    fn capabilities(&self) -> Capabilities {
        Capabilities {
            online: true,
            restore: false,
            server_checksum: false,
            min_billable_bytes: 0,
            min_duration_days: 0,
        }
    }

    async fn put(&self, name: &str, body: Arc<dyn BodySource>) -> Result<PutReceipt, TierError> {
        let written = self.counted(Operation::PutObject, self.write(name, body.as_ref())).await;
        if written.is_err()
            && self.away(Operation::PutObject).await.is_some()
            && let Ok(path) = self.path((Operation::PutObject, name))
        {
            // The share went away under it: what stands at this path is on another disk, and nobody will look for it there.
            let _ = self.store.delete(&path).await;
        }
        written
    }

    async fn create(&self, name: &str, body: Arc<dyn BodySource>) -> Result<Created, TierError> {
        const CALL: Operation = Operation::PutObject;
        let path = self.path((CALL, name))?;
        let work = async {
            let len = body.len();
            let mut stream = body.open(0..len);
            let mut gather = Gather { stream: &mut stream, rest: BytesMut::new(), left: len, name };
            let payload = gather.next(len).await?;
            gather.finish().await?;
            match self.store.put_opts(&path, payload, PutOptions::from(PutMode::Create)).await {
                Ok(_) => {
                    self.metrics.sent_bytes.inc_by(len);
                    Ok(Created::New)
                }
                Err(object_store::Error::AlreadyExists { .. } | object_store::Error::Precondition { .. }) => {
                    Ok(Created::Exists)
                }
                Err(error) => Err(self.convert((CALL, name), &error)),
            }
        };
        self.counted(CALL, work).await
    }

    async fn get(
        &self,
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
        self.counted(Operation::GetObject, self.read(name, range)).await
    }

    async fn head(&self, name: &str) -> Result<RemoteMeta, TierError> {
        const CALL: Operation = Operation::HeadObject;
        let path = self.path((CALL, name))?;
        let work = async {
            let options = GetOptions { head: true, ..GetOptions::default() };
            let result = self.store.get_opts(&path, options).await.map_err(|e| self.convert((CALL, name), &e))?;
            let class = result.attributes.get(&Attribute::StorageClass).map(|c| c.as_ref().to_owned());
            self.meta(result.meta, class)
                .ok_or_else(|| self.error(TierErrorKind::Corrupt, (CALL, name), "another object answered"))
        };
        self.counted(CALL, work).await
    }

    async fn delete(&self, name: &str) -> Result<(), TierError> {
        const CALL: Operation = Operation::DeleteObject;
        let path = self.path((CALL, name))?;
        let work = async {
            match self.store.delete(&path).await {
                Ok(()) | Err(object_store::Error::NotFound { .. }) => {}
                Err(error) => return Err(self.convert((CALL, name), &error)),
            }
            self.sweep(name).map_err(|e| self.error(TierErrorKind::Unavailable, (CALL, name), e))
        };
        self.counted(CALL, work).await
    }

    async fn list(&self, prefix: &str, start_after: Option<&str>, max: usize) -> Result<Vec<RemoteMeta>, TierError> {
        if max == 0 {
            return Ok(Vec::new());
        }
        self.counted(Operation::ListObjectsV2, self.names(prefix, start_after, max)).await
    }

    fn expect(&self, folder: &str) {
        if let Some(mine) = &self.folder {
            mine.expect(folder);
        }
    }

    async fn restore(&self, _name: &str, _days: u32, _priority: RestorePriority) -> Result<RestoreReceipt, TierError> {
        Ok(RestoreReceipt::NotNeeded)
    }
}

#[cfg(test)]
#[path = "object_tests.rs"]
mod tests;
