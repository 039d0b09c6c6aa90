//! Who may write to the cloud for a deployment. Each process that ships claims the next *term*: an object that is created
//! only if it is not there. The chain of claims has no branches, so of two stores with one past the one that claimed last
//! may write, and the other can find that out by two requests.

use super::{RecoveryError, fetch, list, local, names, write_file};
use crate::clock::{Clock, Timestamp};
use crate::mutants::{self, Mutant};
use crate::tier::Tier;
use bytes::Bytes;
use serde::{Deserialize, Serialize};
use std::path::Path;
use std::sync::Arc;

/// The file of a data directory that says which claims are its own.
const FILE: &str = "term.json";
const VERSION: u32 = 1;
/// How often a claim is tried again that another was quicker with.
const MAX_RACES: usize = 8;

/// A claim as it lies in the tier.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub(crate) struct ClaimRecord {
    pub version: u32,
    pub deployment: String,
    pub term: u64,
    /// 128 random bits in hexadecimal: whose claim it is.
    pub nonce: String,
    pub claimed: Timestamp,
    /// What for: `serve`, `recover` or `promote`.
    pub by: String,
    /// The machine, for people.
    pub host: String,
}

/// A claim of this data directory.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub(crate) struct Held {
    pub term: u64,
    pub nonce: String,
}

/// What the file holds.
#[derive(Debug, Clone, Default, Serialize, Deserialize)]
struct Mine {
    version: u32,
    /// The last claim that is known to have worked.
    held: Option<Held>,
    /// Where a recovery began: its claim's term, and the last record that came from the cloud.
    recovered: Option<(u64, u64)>,
    /// Those that were being made since: each may have worked.
    wanted: Vec<Held>,
}

impl Mine {
    fn load(dir: &Path) -> Result<Mine, RecoveryError> {
        let path = dir.join(FILE);
        let text = match std::fs::read_to_string(&path) {
            Ok(text) => text,
            Err(e) if e.kind() == std::io::ErrorKind::NotFound => return Ok(Mine::default()),
            Err(e) => return Err(local("read", &path, &e)),
        };
        serde_json::from_str(&text).map_err(|e| {
            let path = path.display();
            RecoveryError::Local(format!(
                "{path} is damaged ({e}): put it back from a backup, or move it away and restart, which says what else can be done"
            ))
        })
    }

    fn save(&self, dir: &Path) -> Result<(), RecoveryError> {
        let text = serde_json::to_vec(self).map_err(|e| RecoveryError::Local(e.to_string()))?;
        write_file(&dir.join(FILE), &text)
    }

    fn is_empty(&self) -> bool {
        self.held.is_none() && self.wanted.is_empty()
    }

    fn owns(&self, claim: &ClaimRecord) -> bool {
        self.held.iter().chain(&self.wanted).any(|h| h.term == claim.term && h.nonce == claim.nonce)
    }
}

/// The term after which what is shipped is this store's own, and the record that it goes on after.
pub(crate) fn base(dir: &Path) -> Result<(u64, u64), RecoveryError> {
    Ok(Mine::load(dir)?.recovered.unwrap_or_default())
}

/// Notes the last record that came from the cloud, once; returns what is noted.
pub(crate) fn note_base(dir: &Path, term: u64, last: u64) -> Result<u64, RecoveryError> {
    let mut mine = Mine::load(dir)?;
    let (_, noted) = *mine.recovered.get_or_insert((term, last));
    mine.save(dir)?;
    Ok(noted)
}

/// The last term that is known to have been claimed from here; 0 for none.
pub(crate) fn held_term(dir: &Path) -> Result<u64, RecoveryError> {
    Ok(Mine::load(dir)?.held.map_or(0, |held| held.term))
}

/// How a claim is made.
pub(crate) struct Claimant<'a> {
    pub tier: &'a dyn Tier,
    pub deployment: &'a str,
    pub data_dir: &'a Path,
    pub clock: &'a dyn Clock,
    pub by: &'static str,
}

impl Claimant<'_> {
    /// The claims that there are, and the last of them.
    async fn last(&self) -> Result<Option<ClaimRecord>, RecoveryError> {
        let folder = names::terms(self.deployment);
        let found = list(self.tier, &folder, None).await?;
        let number = |name: &str| name.strip_prefix(&folder).and_then(|n| n.parse::<u64>().ok());
        let Some((name, size)) = found.into_iter().rfind(|(n, _)| number(n).is_some()) else {
            return Ok(None);
        };
        read(self.tier, &name, size).await.map(Some)
    }

    /// Whether the last claim is this data directory's own; none when there is no claim.
    pub(crate) async fn holds_last(&self) -> Result<Option<bool>, RecoveryError> {
        let mine = Mine::load(self.data_dir)?;
        Ok(self.last().await?.map(|last| mine.owns(&last)))
    }

    /// Takes the next term. Without `force` only where the last one is this data directory's own.
    pub(crate) async fn claim(&self, force: bool) -> Result<Held, RecoveryError> {
        let mut mine = Mine::load(self.data_dir)?;
        for _ in 0..MAX_RACES {
            let last = self.last().await?;
            match &last {
                Some(last) if !force && mine.is_empty() => return Err(self.unknown(last)),
                Some(last) if !force && !mine.owns(last) => return Err(fenced(last)),
                None if mine.held.is_some() => {
                    return Err(RecoveryError::Refused(format!(
                        "the claims of this store are gone from the recovery tier ({}): is it the right tier, and is it mounted?",
                        names::terms(self.deployment)
                    )));
                }
                _ => {}
            }
            let term = last.map_or(1, |last| last.term.saturating_add(1));
            let held = Held { term, nonce: format!("{:032x}", rand::random::<u128>()) };
            // Before the claim: after a crash it must be known as one's own.
            mine.version = VERSION;
            mine.wanted.push(held.clone());
            mine.save(self.data_dir)?;
            self.create(&held).await?;
            // Also where the store says that it is new: not all can tell. What came first may be an earlier attempt of one's own.
            match verify(self.tier, self.deployment, &held).await {
                Ok(()) => {
                    mine.wanted.clear();
                    mine.held = Some(held.clone());
                    mine.save(self.data_dir)?;
                    return Ok(held);
                }
                Err(RecoveryError::Fenced(_)) => {}
                Err(other) => return Err(other),
            }
        }
        Err(RecoveryError::Refused("other stores claim this deployment all the time".to_owned()))
    }

    /// Claims of others cannot be told from one's own without the file.
    fn unknown(&self, last: &ClaimRecord) -> RecoveryError {
        let held = Held { term: last.term, nonce: last.nonce.clone() };
        let mine = Mine { version: VERSION, held: Some(held), ..Mine::default() };
        RecoveryError::Fenced(format!(
            "{} is not there, so nothing says that the claims in the recovery tier are this store's: the last one is term {}, of {}, by \
             `{}` on {}. Put the file back from a backup. Or, if that was this store and no other has taken its place since, \
             write this into it and restart: {}",
            self.data_dir.join(FILE).display(),
            last.term,
            last.claimed,
            last.by,
            last.host,
            serde_json::to_string(&mine).unwrap_or_default()
        ))
    }

    async fn create(&self, held: &Held) -> Result<(), RecoveryError> {
        let record = ClaimRecord {
            version: VERSION,
            deployment: self.deployment.to_owned(),
            term: held.term,
            nonce: held.nonce.clone(),
            claimed: self.clock.now(),
            by: self.by.to_owned(),
            host: rustix::system::uname().nodename().to_string_lossy().into_owned(),
        };
        let body = Bytes::from(serde_json::to_vec(&record).map_err(|e| RecoveryError::Local(e.to_string()))?);
        let name = names::term(self.deployment, held.term);
        self.tier.create(&name, Arc::new(body)).await?;
        Ok(())
    }
}

async fn read(tier: &dyn Tier, name: &str, size: u64) -> Result<ClaimRecord, RecoveryError> {
    let bytes = fetch(tier, name, size).await?;
    serde_json::from_slice(&bytes).map_err(|e| RecoveryError::Damaged(format!("the claim {name} does not decode: {e}")))
}

fn fenced(by: &ClaimRecord) -> RecoveryError {
    RecoveryError::Fenced(format!(
        "another store took this one's place at {} (term {}, by `{}` on {}); this one must not write to the cloud any more, and \
         what is written here would be lost: stop it, and serve from the other one",
        by.claimed, by.term, by.by, by.host
    ))
}

/// Whether `held` is still the last claim.
pub(crate) async fn verify(tier: &dyn Tier, deployment: &str, held: &Held) -> Result<(), RecoveryError> {
    if mutants::active(Mutant::WriteThoughFenced) {
        return Ok(());
    }
    let own = names::term(deployment, held.term);
    let folder = names::terms(deployment);
    // Its own claim is the first of them; a store that cannot create without replacing may have lost it to another.
    let before = names::term(deployment, held.term.saturating_sub(1));
    let found = list(tier, &folder, Some(&before)).await?;
    let Some((name, size)) = found.last() else {
        return Err(RecoveryError::Refused(format!("the claim {own} is gone from the recovery tier")));
    };
    let last = read(tier, name, *size).await?;
    if last.term == held.term && last.nonce == held.nonce { Ok(()) } else { Err(fenced(&last)) }
}
