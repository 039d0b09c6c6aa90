//! The log of a data directory: one JSON record per line and change, compacted at each start. A torn last line (the process
//! was killed while writing it) is dropped: that change was never answered.

use crate::blob::Blobs;
use crate::ledger::Code;
use crate::model::{Bucket, BucketMeta, Class, Part, Upload, Version};
use crate::restore::Tier;
use crate::store::Store;
use serde::{Deserialize, Serialize};
use std::borrow::Cow;
use std::collections::HashMap;
use std::fs::File;
use std::io::{self, BufRead, BufReader, BufWriter, Write};
use std::path::{Path, PathBuf};

type Text<'a> = Cow<'a, str>;

/// One change.
#[derive(Debug, Serialize, Deserialize)]
pub(crate) enum Record<'a> {
    Bucket(Text<'a>, Box<BucketMeta>),
    BucketGone(Text<'a>),
    /// A new version; one of the same number is replaced.
    Version(Text<'a>, Text<'a>, Box<Version>),
    /// The same version with another content of its record.
    Changed(Text<'a>, Text<'a>, Box<Version>),
    VersionGone(Text<'a>, Text<'a>, u64),
    Upload(Text<'a>, Text<'a>, Text<'a>, Box<Upload>),
    UploadGone(Text<'a>, Text<'a>, Text<'a>),
    Part(Text<'a>, Text<'a>, Text<'a>, u16, Box<Part>),
    Charge(Code, Class, Option<Tier>, u128),
    LedgerReset(u64),
    Clock(u64),
    LifecycleRan(u64),
    LastVersion(u64),
}

impl<'a> Record<'a> {
    pub(crate) fn bucket(name: &'a str, meta: &BucketMeta) -> Record<'a> {
        Record::Bucket(name.into(), Box::new(meta.clone()))
    }

    pub(crate) fn version(bucket: &'a str, key: &'a str, version: &Version) -> Record<'a> {
        Record::Version(bucket.into(), key.into(), Box::new(version.clone()))
    }

    pub(crate) fn changed(bucket: &'a str, key: &'a str, version: &Version) -> Record<'a> {
        Record::Changed(bucket.into(), key.into(), Box::new(version.clone()))
    }

    pub(crate) fn upload(bucket: &'a str, key: &'a str, id: &'a str, upload: &Upload) -> Record<'a> {
        Record::Upload(bucket.into(), key.into(), id.into(), Box::new(upload.clone()))
    }

    pub(crate) fn part(bucket: &'a str, key: &'a str, id: &'a str, number: u16, part: &Part) -> Record<'a> {
        Record::Part(bucket.into(), key.into(), id.into(), number, Box::new(part.clone()))
    }
}

/// The open log.
#[derive(Debug)]
pub(crate) struct Log {
    file: File,
}

impl Log {
    /// Appends one record by one write, so that a killed process tears at most the last line.
    pub(crate) fn append(&mut self, record: &Record<'_>) -> io::Result<()> {
        let mut line = serde_json::to_vec(record)?;
        line.push(b'\n');
        self.file.write_all(&line)
    }
}

fn log_path(dir: &Path) -> PathBuf {
    dir.join("state.jsonl")
}

/// Reads the state of a directory, removes bodies that nothing names, and begins a compacted log. Returns the store and the
/// stored clock offset.
pub(crate) fn open(dir: &Path, blobs: &Blobs) -> io::Result<(Store, Option<u64>)> {
    let mut store = Store::default();
    let mut offset = None;
    match File::open(log_path(dir)) {
        Ok(file) => replay(file, &mut store, &mut offset)?,
        Err(error) if error.kind() == io::ErrorKind::NotFound => {}
        Err(error) => return Err(error),
    }
    let mut known = HashMap::new();
    for bucket in store.buckets.values_mut() {
        for version in bucket.objects.values_mut().flatten() {
            version.body.resolve(blobs, &mut known);
        }
        for part in bucket.uploads.values_mut().flat_map(|u| u.parts.values_mut()) {
            part.body.resolve(blobs, &mut known);
        }
    }
    blobs.sweep(&known)?;
    let fresh = dir.join("state.jsonl.new");
    write_snapshot(&fresh, &store, offset)?;
    std::fs::rename(&fresh, log_path(dir))?;
    store.log = Some(Log { file: File::options().append(true).open(log_path(dir))? });
    Ok((store, offset))
}

fn replay(file: File, store: &mut Store, offset: &mut Option<u64>) -> io::Result<()> {
    let mut reader = BufReader::new(file);
    let (mut line, mut number) = (Vec::new(), 0usize);
    loop {
        line.clear();
        number += 1;
        if reader.read_until(b'\n', &mut line)? == 0 || line.last() != Some(&b'\n') {
            return Ok(());
        }
        let record = serde_json::from_slice(&line).map_err(|e| {
            io::Error::new(io::ErrorKind::InvalidData, format!("state.jsonl, line {number}: {e}; restore or remove it"))
        })?;
        apply(record, store, offset);
    }
}

fn apply(record: Record<'_>, store: &mut Store, offset: &mut Option<u64>) {
    match record {
        Record::Bucket(name, meta) => match store.buckets.get_mut(&*name) {
            Some(bucket) => bucket.meta = *meta,
            None => {
                store.buckets.insert(name.into_owned(), Bucket::new(*meta));
            }
        },
        Record::BucketGone(name) => {
            store.buckets.remove(&*name);
        }
        Record::Version(name, key, version) => {
            store.last_version = store.last_version.max(version.id);
            if let Some(bucket) = store.buckets.get_mut(&*name) {
                let versions = bucket.objects.entry(key.into_owned()).or_default();
                versions.retain(|v| v.id != version.id);
                versions.push(*version);
            }
        }
        Record::Changed(name, key, version) => {
            let versions = store.buckets.get_mut(&*name).and_then(|b| b.objects.get_mut(&*key));
            if let Some(old) = versions.and_then(|v| v.iter_mut().find(|v| v.id == version.id)) {
                *old = *version;
            }
        }
        Record::VersionGone(name, key, id) => {
            if let Some(bucket) = store.buckets.get_mut(&*name)
                && let Some(versions) = bucket.objects.get_mut(&*key)
            {
                versions.retain(|v| v.id != id);
                if versions.is_empty() {
                    bucket.objects.remove(&*key);
                }
            }
        }
        Record::Upload(name, key, id, upload) => {
            if let Some(bucket) = store.buckets.get_mut(&*name) {
                bucket.uploads.insert((key.into_owned(), id.into_owned()), *upload);
            }
        }
        Record::UploadGone(name, key, id) => {
            if let Some(bucket) = store.buckets.get_mut(&*name) {
                bucket.uploads.remove(&(key.into_owned(), id.into_owned()));
            }
        }
        Record::Part(name, key, id, number, part) => {
            let bucket = store.buckets.get_mut(&*name);
            if let Some(upload) = bucket.and_then(|b| b.uploads.get_mut(&(key.into_owned(), id.into_owned()))) {
                upload.parts.insert(number, *part);
            }
        }
        Record::Charge(code, class, tier, amount) => store.ledger.add(code, class, tier, amount),
        Record::LedgerReset(at) => store.ledger.reset(at),
        Record::Clock(at) => *offset = Some(at),
        Record::LifecycleRan(at) => store.lifecycle_ran = at,
        Record::LastVersion(id) => store.last_version = store.last_version.max(id),
    }
}

fn write_snapshot(path: &Path, store: &Store, offset: Option<u64>) -> io::Result<()> {
    let mut out = BufWriter::new(File::create(path)?);
    let mut put = |record: &Record<'_>| -> io::Result<()> {
        serde_json::to_writer(&mut out, record)?;
        out.write_all(b"\n")
    };
    put(&Record::LedgerReset(store.ledger.from))?;
    for ((code, class, tier), amount) in store.ledger.amounts() {
        put(&Record::Charge(code, class, tier, amount))?;
    }
    if let Some(offset) = offset {
        put(&Record::Clock(offset))?;
    }
    put(&Record::LifecycleRan(store.lifecycle_ran))?;
    put(&Record::LastVersion(store.last_version))?;
    for (name, bucket) in &store.buckets {
        put(&Record::bucket(name, &bucket.meta))?;
        for (key, version) in bucket.objects.iter().flat_map(|(k, vs)| vs.iter().map(move |v| (k, v))) {
            put(&Record::version(name, key, version))?;
        }
        for ((key, id), upload) in &bucket.uploads {
            put(&Record::upload(name, key, id, upload))?;
        }
    }
    out.into_inner().map_err(io::IntoInnerError::into_error)?.sync_all()
}
