//! What a tier has, name by name, and what the namespace has there, record by record: two streams in the order of names, a page
//! of each in memory at a time.

use crate::engine::doom::RemotePack;
use crate::engine::transition::split_name;
use crate::engine::{Core, EngineError, keys};
use crate::meta::{MetaStore, Table};
use crate::pack::PackId;
use crate::tier::{RemoteVersion, Tier, TierErrorKind};
use std::collections::VecDeque;
use std::ops::Bound;
use std::sync::Arc;

/// Names of one page: ten requests of a store that gives a thousand at a time, one walk of a directory. Some 2 MB.
const PAGE: usize = 10_000;

/// Records of one page.
const RECORDS: usize = 1_000;

/// Versions of one name that are looked at; more are counted.
const MAX_VERSIONS: usize = 100;

/// Everything below which packs are.
pub(super) const PACKS: &str = "packs/";

/// One name of a tier.
#[derive(Debug, Default)]
pub(super) struct Listed {
    pub name: String,
    /// Its versions, newest first; one where the tier keeps none.
    pub versions: Vec<RemoteVersion>,
    /// How many there are.
    pub count: u64,
    /// The bytes of all of them.
    pub bytes: u64,
}

impl Listed {
    fn take(&mut self, version: RemoteVersion) {
        self.count += 1;
        self.bytes = self.bytes.saturating_add(version.size);
        if self.versions.len() < MAX_VERSIONS {
            self.versions.push(version);
        }
    }
}

/// A listing of a tier's packs.
pub(super) struct Listing {
    tier: Arc<dyn Tier>,
    name: String,
    versions: bool,
    page: VecDeque<RemoteVersion>,
    last: Option<RemoteVersion>,
    ended: bool,
    /// Why versions are not listed though they are kept.
    pub note: Option<String>,
}

impl Listing {
    pub fn new(name: &str, tier: Arc<dyn Tier>, versions: bool) -> Self {
        let (page, last, ended, note) = (VecDeque::new(), None, false, None);
        Self { tier, name: name.to_owned(), versions, page, last, ended, note }
    }

    /// Whether every version comes, as far as is known yet.
    pub fn has_versions(&self) -> bool {
        self.versions
    }

    /// The next name with all its versions.
    ///
    /// # Errors
    /// Of the tier; a listing that is not in the order of names, of which nothing could be concluded.
    pub async fn next(&mut self) -> Result<Option<Listed>, EngineError> {
        let Some(first) = self.pop().await? else { return Ok(None) };
        let mut listed = Listed { name: first.name.clone(), ..Listed::default() };
        listed.take(first);
        loop {
            if self.page.is_empty() {
                self.fetch().await?;
            }
            match self.page.front() {
                Some(next) if next.name == listed.name => {}
                Some(next) if next.name < listed.name => {
                    let text = format!("tier {}: {:?} is listed behind {:?}", self.name, next.name, listed.name);
                    return Err(EngineError::Corrupt(text));
                }
                _ => return Ok(Some(listed)),
            }
            if let Some(version) = self.pop().await? {
                listed.take(version);
            }
        }
    }

    async fn pop(&mut self) -> Result<Option<RemoteVersion>, EngineError> {
        if self.page.is_empty() {
            self.fetch().await?;
        }
        Ok(self.page.pop_front())
    }

    async fn fetch(&mut self) -> Result<(), EngineError> {
        if self.ended {
            return Ok(());
        }
        let page = self.fetch_page(PACKS).await?;
        self.ended = page.len() < PAGE;
        self.last = page.last().cloned().or(self.last.take());
        self.page.extend(page);
        Ok(())
    }

    async fn fetch_page(&mut self, prefix: &str) -> Result<Vec<RemoteVersion>, EngineError> {
        let failed = |source| EngineError::Tier { tier: self.name.clone(), source };
        if self.versions {
            match self.tier.list_versions(prefix, self.last.as_ref(), PAGE).await {
                Ok(Some(page)) => return Ok(page),
                Ok(None) => {}
                Err(e) if e.kind() == TierErrorKind::Denied && self.last.is_none() => {
                    self.note = Some(format!("versions and markers were not listed ({e})"));
                }
                Err(e) => return Err(failed(e)),
            }
            self.versions = false;
        }
        let after = self.last.as_ref().map(|last| last.name.as_str());
        let page = self.tier.list(prefix, after, PAGE).await.map_err(failed)?;
        let (version, latest, marker) = (String::new(), true, false);
        let plain = |o: crate::tier::RemoteMeta| RemoteVersion {
            name: o.name,
            version: version.clone(),
            size: o.size,
            latest,
            marker,
        };
        Ok(page.into_iter().map(plain).collect())
    }

    /// Whether anything is still under exactly this name.
    pub async fn is_there(&self, name: &str) -> Result<bool, EngineError> {
        let failed = |source| EngineError::Tier { tier: self.name.clone(), source };
        if self.versions {
            let found = self.tier.list_versions(name, None, 1).await.map_err(failed)?;
            return Ok(found.unwrap_or_default().iter().any(|v| v.name == name));
        }
        match self.tier.head(name).await {
            Ok(_) => Ok(true),
            Err(e) if e.is_not_found() => Ok(false),
            Err(e) => Err(failed(e)),
        }
    }
}

/// Records of a tier's packs that can be read, in the order of their beginnings.
pub(super) struct Records<'a> {
    core: &'a Core,
    start: Option<Bound<Vec<u8>>>,
    end: Bound<Vec<u8>>,
    page: VecDeque<RemotePack>,
}

impl<'a> Records<'a> {
    pub fn new(core: &'a Core, tier: &str) -> Self {
        let (start, end) = keys::remote_packs_of(tier);
        Self { core, start: Some(start), end, page: VecDeque::new() }
    }

    /// The next record, if its name is `upto` or sorts before it.
    pub fn pop_upto(&mut self, upto: Option<&str>) -> Result<Option<RemotePack>, EngineError> {
        while self.page.is_empty()
            && let Some(start) = self.start.take()
        {
            let page = self.core.meta.scan(Table::RemotePack, (start, self.end.clone()), RECORDS, false)?;
            self.start = page.last().filter(|_| page.len() == RECORDS).map(|(key, _)| Bound::Excluded(key.clone()));
            // What does not decode is found when the tables are looked at.
            self.page.extend(page.iter().filter_map(|(key, value)| RemotePack::read(key, value).ok()));
        }
        let wanted = self.page.front().is_some_and(|next| upto.is_none_or(|name| next.record.name.as_str() <= name));
        Ok(if wanted { self.page.pop_front() } else { None })
    }
}

/// Whose an object below [`PACKS`] is, by its name alone.
#[derive(Debug, PartialEq, Eq)]
pub(super) enum Whose {
    /// Another deployment's.
    Foreign,
    /// In this deployment's folder, but no pack.
    Stray,
    /// A pack of this deployment.
    Pack { epoch: u64, pack: PackId },
}

/// Reads a name; `folder` is this deployment's.
pub(super) fn whose(folder: &str, name: &str) -> Whose {
    if name.strip_prefix(folder).and_then(|rest| rest.strip_prefix('/')).is_none() {
        return Whose::Foreign;
    }
    split_name(folder, name).map_or(Whose::Stray, |(epoch, pack)| Whose::Pack { epoch, pack })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_name_tells_whose_it_is_and_what_only_looks_alike_is_stray() {
        let id = "0".repeat(31) + "a";
        let pack: PackId = id.parse().unwrap();
        assert_eq!(whose("packs/d", &format!("packs/d/00000007/{id}.pack")), Whose::Pack { epoch: 7, pack });
        for name in ["packs/d/7/{}.pack", "packs/d/+0000007/{}.pack", "packs/d/00000007/{}", "packs/d/x/{}.pack"] {
            assert_eq!(whose("packs/d", &name.replace("{}", &id)), Whose::Stray, "{name}");
        }
        let upper = id.to_uppercase();
        assert_eq!(whose("packs/d", &format!("packs/d/00000007/{upper}.pack")), Whose::Stray);
        assert_eq!(whose("packs/d", "packs/d/"), Whose::Stray);
        assert_eq!(whose("packs/d", &format!("packs/dd/00000007/{id}.pack")), Whose::Foreign);
        assert_eq!(whose("packs/d", "packs/x"), Whose::Foreign);
    }
}
