//! What buckets say, parsed once and kept as long as their records say the same.

use s3s::S3Result;
use std::collections::HashMap;
use std::sync::{Arc, PoisonError, RwLock};
use tidegate_tiering::engine::BucketInfo;

/// Buckets whose documents are kept parsed. A policy has at most 20 KiB, a CORS configuration 64.
const MAX_KEPT: usize = 1024;

/// What some documents of buckets say.
pub(crate) struct Parsed<T> {
    /// The names of the documents.
    from: &'static [&'static str],
    kept: RwLock<HashMap<String, Kept<T>>>,
}

struct Kept<T> {
    documents: Vec<Option<Vec<u8>>>,
    owner: Option<String>,
    value: Arc<T>,
}

impl<T> Parsed<T> {
    pub(crate) fn new(from: &'static [&'static str]) -> Self {
        Self { from, kept: RwLock::default() }
    }

    /// What a bucket says: as `parse` made it of the same documents and owner before, or makes it now.
    ///
    /// # Errors
    /// That of `parse`; nothing is kept then.
    pub(crate) fn of(&self, bucket: &BucketInfo, parse: impl FnOnce() -> S3Result<T>) -> S3Result<Arc<T>> {
        let settings = &bucket.settings;
        {
            let kept = self.kept.read().unwrap_or_else(PoisonError::into_inner);
            let is_same = |known: &&Kept<T>| {
                let documents = self.from.iter().zip(&known.documents);
                known.owner == settings.owner
                    && documents.into_iter().all(|(name, known)| settings.config.get(*name) == known.as_ref())
            };
            if let Some(known) = kept.get(&bucket.name).filter(is_same) {
                return Ok(Arc::clone(&known.value));
            }
        }
        let value = Arc::new(parse()?);
        let documents = self.from.iter().map(|name| settings.config.get(*name).cloned()).collect();
        let known = Kept { documents, owner: settings.owner.clone(), value: Arc::clone(&value) };
        let mut kept = self.kept.write().unwrap_or_else(PoisonError::into_inner);
        if kept.len() >= MAX_KEPT && !kept.contains_key(&bucket.name) {
            let any = kept.keys().next().cloned();
            any.map(|name| kept.remove(&name));
        }
        kept.insert(bucket.name.clone(), known);
        Ok(value)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use tidegate_tiering::clock::Timestamp;
    use tidegate_tiering::engine::BucketSettings;

    fn bucket(name: &str, document: Option<&[u8]>) -> BucketInfo {
        let config = document.map(|bytes| ("cors".to_owned(), bytes.to_vec())).into_iter().collect();
        let settings = BucketSettings { config, ..BucketSettings::default() };
        BucketInfo { name: name.into(), created: Timestamp(0), settings }
    }

    #[test]
    fn a_document_is_parsed_again_only_when_it_has_changed() {
        let parsed = Parsed::new(&["cors"]);
        let mut count = 0;
        let mut ask = |bucket: &BucketInfo| {
            parsed.of(bucket, || {
                count += 1;
                Ok(count)
            })
        };
        assert_eq!(*ask(&bucket("a", Some(b"1"))).unwrap(), 1);
        assert_eq!(*ask(&bucket("a", Some(b"1"))).unwrap(), 1);
        assert_eq!(*ask(&bucket("b", Some(b"1"))).unwrap(), 2);
        assert_eq!(*ask(&bucket("a", Some(b"2"))).unwrap(), 3);
        assert_eq!(*ask(&bucket("a", None)).unwrap(), 4);
        let mut other = bucket("a", None);
        other.settings.owner = Some("somebody".into());
        assert_eq!(*ask(&other).unwrap(), 5);
        for n in 0..2 * MAX_KEPT {
            ask(&bucket(&n.to_string(), None)).unwrap();
        }
        assert!(parsed.kept.read().unwrap().len() <= MAX_KEPT);
    }
}
