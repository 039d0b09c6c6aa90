//! RestoreObject and CleanRestoredObject: what each class takes, how long it lasts, and what a second call gets.

use crate::clock::{DAY, HOUR, MINUTE, http_date};
use crate::error::OssError;
use crate::ledger::Code;
use crate::model::{Class, Version};
use crate::request::{Reply, Req};
use crate::sim::Sim;
use crate::xml;
use serde::{Deserialize, Serialize};

/// Longest life of a restored Archive object, repeated calls included.
const ARCHIVE_MAX_DAYS: u64 = 7;
/// Longest life of a restored ColdArchive or DeepColdArchive object.
const COLD_MAX_DAYS: u64 = 365;

/// Priority of a restore, from slow to fast.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize)]
pub enum Tier {
    /// 5 to 12 hours (ColdArchive only).
    Bulk,
    /// 2 to 5 hours; DeepColdArchive up to 48.
    Standard,
    /// Up to an hour; DeepColdArchive up to 12.
    Expedited,
}

impl Tier {
    /// The name on the wire.
    pub fn name(self) -> &'static str {
        match self {
            Tier::Bulk => "Bulk",
            Tier::Standard => "Standard",
            Tier::Expedited => "Expedited",
        }
    }

    fn parse(name: &str) -> Option<Tier> {
        [Tier::Bulk, Tier::Standard, Tier::Expedited].into_iter().find(|t| t.name() == name)
    }
}

/// How long a restore takes, in milliseconds: the upper end of the documented range.
pub fn duration(class: Class, tier: Tier) -> u64 {
    match (class, tier) {
        (Class::Standard | Class::IA, _) => 0,
        (Class::Archive, _) => MINUTE,
        (Class::ColdArchive, Tier::Expedited) => HOUR,
        (Class::ColdArchive, Tier::Standard) => 5 * HOUR,
        (Class::ColdArchive, Tier::Bulk) | (Class::DeepColdArchive, Tier::Expedited) => 12 * HOUR,
        (Class::DeepColdArchive, Tier::Standard | Tier::Bulk) => 48 * HOUR,
    }
}

/// The last restore of a version.
#[derive(Debug, Clone, Serialize, Deserialize)]
pub struct Restore {
    /// When it was asked for.
    pub requested: u64,
    /// Its priority.
    pub tier: Tier,
    /// From when the object can be read.
    pub ready_at: u64,
    /// Until when.
    pub expires_at: u64,
}

impl Restore {
    /// Asked for and not yet done.
    pub fn is_ongoing(&self, now: u64) -> bool {
        now < self.ready_at
    }

    /// Done and not yet expired.
    pub fn is_readable(&self, now: u64) -> bool {
        self.ready_at <= now && now < self.expires_at
    }

    /// `x-oss-restore` at `now`: absent once expired.
    pub fn header(&self, now: u64) -> Option<String> {
        if self.is_ongoing(now) {
            Some("ongoing-request=\"true\"".to_string())
        } else if self.is_readable(now) {
            Some(format!("ongoing-request=\"false\", expiry-date=\"{}\"", http_date(self.expires_at)))
        } else {
            None
        }
    }

    /// Milliseconds for which a temporary replica existed within `from..until`.
    pub fn replica_ms(&self, from: u64, until: u64) -> u64 {
        self.expires_at.min(until).saturating_sub(self.ready_at.max(from))
    }
}

/// What a request asks for.
#[derive(Debug, PartialEq, Eq)]
struct Wish {
    days: u64,
    tier: Tier,
}

/// Reads the optional document. `class` decides which nodes and values are allowed.
fn parse_wish(document: &[u8], class: Class) -> Result<Wish, OssError> {
    let mut wish = Wish { days: 1, tier: Tier::Standard };
    if document.iter().all(u8::is_ascii_whitespace) {
        return Ok(wish);
    }
    let root = xml::parse(document).map_err(|e| OssError::malformed_xml(&e))?;
    if root.name != "RestoreRequest" {
        return Err(OssError::malformed_xml("the root node is not RestoreRequest"));
    }
    for node in &root.children {
        match node.name.as_str() {
            "Days" => wish.days = parse_days(&node.text, class)?,
            // Archive has one speed; the node is ignored there.
            "JobParameters" if class == Class::Archive => {}
            "JobParameters" => {
                if let Some(name) = node.text_of("Tier") {
                    wish.tier = Tier::parse(name.trim())
                        .filter(|t| !(class == Class::DeepColdArchive && *t == Tier::Bulk))
                        .ok_or_else(|| bad_tier(name))?;
                }
            }
            other => {
                return Err(OssError::malformed_xml(&format!("unsupported node {other}")).ec("0016-00000709"));
            }
        }
    }
    Ok(wish)
}

fn parse_days(text: &str, class: Class) -> Result<u64, OssError> {
    let most = if class == Class::Archive { ARCHIVE_MAX_DAYS } else { COLD_MAX_DAYS };
    text.trim().parse::<u64>().ok().filter(|d| (1..=most).contains(d)).ok_or_else(|| {
        OssError::invalid_argument(format!("Days must be between 1 and {most} for {}.", class.name()), "Days", text)
    })
}

fn bad_tier(name: &str) -> OssError {
    OssError::invalid_argument("The restore tier is not supported for this storage class.", "Tier", name)
        .ec("0016-00000703")
}

fn not_supported() -> OssError {
    OssError::new(400, "OperationNotSupported", "The operation is not supported for this resource")
        .with("Detail", "RestoreObject operation does not support this object storage class")
}

fn in_progress() -> OssError {
    OssError::new(409, "RestoreAlreadyInProgress", "The restore operation is in progress.")
}

/// What becomes of a version: its new restore, the status, and whether a retrieval is charged.
#[derive(Debug)]
struct Outcome {
    restore: Restore,
    status: u16,
    retrieval: bool,
}

/// The state machine, without effects.
fn decide(class: Class, last: Option<&Restore>, wish: &Wish, now: u64) -> Result<Outcome, OssError> {
    let fresh = |tier: Tier, days: u64| {
        let ready_at = now + duration(class, tier);
        Restore { requested: now, tier, ready_at, expires_at: ready_at + days * DAY }
    };
    match last {
        Some(r) if r.is_ongoing(now) => {
            if class == Class::Archive || wish.tier <= r.tier {
                return Err(in_progress());
            }
            let mut faster = fresh(wish.tier, wish.days);
            // Raising the priority never makes it later.
            faster.ready_at = faster.ready_at.min(r.ready_at);
            faster.expires_at = faster.ready_at + wish.days * DAY;
            Ok(Outcome { restore: faster, status: 202, retrieval: true })
        }
        Some(r) if r.is_readable(now) => {
            let mut longer = r.clone();
            longer.expires_at = if class == Class::Archive {
                (r.expires_at + DAY).min(r.ready_at + ARCHIVE_MAX_DAYS * DAY)
            } else {
                r.expires_at.max(now + wish.days * DAY)
            };
            Ok(Outcome { restore: longer, status: 200, retrieval: false })
        }
        _ => Ok(Outcome { restore: fresh(wish.tier, wish.days), status: 202, retrieval: true }),
    }
}

/// RestoreObject.
///
/// # Errors
/// As the vendor's table says; see `docs/oss.md`.
pub fn restore_object(sim: &Sim, req: &Req, document: &[u8]) -> Result<Reply, OssError> {
    let (bucket, key) = (req.bucket()?, req.key()?);
    let mut store = sim.store();
    let version = store.find(req)?.clone();
    if !version.class.is_frozen() {
        return Err(not_supported());
    }
    let wish = parse_wish(document, version.class)?;
    let outcome = decide(version.class, version.restore.as_deref(), &wish, req.now)?;
    if outcome.retrieval {
        store.settle_replica(&version, req.now);
        charge_retrieval(&mut store, &version, outcome.restore.tier);
    }
    let tier = outcome.restore.tier;
    store.update(bucket, key, version.id, |v| v.restore = Some(Box::new(outcome.restore)))?;
    let mut reply = Reply::empty(outcome.status).class(version.class);
    if version.class >= Class::ColdArchive {
        reply.set("x-oss-object-restore-priority", tier.name());
    }
    store.name_version(bucket, version.id, &mut reply);
    Ok(reply)
}

fn charge_retrieval(store: &mut crate::store::Store, version: &Version, tier: Tier) {
    let size = u128::from(version.size);
    if version.class == Class::Archive {
        store.charge(Code::RetrievalData, version.class, None, size);
        return;
    }
    store.charge(Code::RetrievalDataCold, version.class, Some(tier), size);
    store.charge(Code::DataRetrievalRequest, version.class, Some(tier), 1);
}

/// CleanRestoredObject: drops the restored copy.
///
/// # Errors
/// 409 when there is none, or not yet.
pub fn clean_restored(sim: &Sim, req: &Req) -> Result<Reply, OssError> {
    let (bucket, key) = (req.bucket()?, req.key()?);
    let mut store = sim.store();
    let version = store.find(req)?.clone();
    if !version.class.is_frozen() {
        return Err(not_supported());
    }
    let Some(restore) = version.restore.as_deref().filter(|r| r.header(req.now).is_some()) else {
        return Err(OssError::new(409, "ArchiveRestoreFileStale", "The restored copy of the object does not exist."));
    };
    if restore.is_ongoing(req.now) {
        return Err(OssError::new(409, "ArchiveRestoreNotFinished", "The restore of the object is not finished."));
    }
    store.settle_replica(&version, req.now);
    store.update(bucket, key, version.id, |v| v.restore = None)?;
    Ok(Reply::empty(204).class(version.class))
}

#[cfg(test)]
mod tests {
    use super::*;

    const T0: u64 = 1_700_000_000_000;

    fn wish(days: u64, tier: Tier) -> Wish {
        Wish { days, tier }
    }

    #[test]
    fn each_class_and_tier_takes_its_documented_time() {
        let table = [
            (Class::Archive, Tier::Standard, MINUTE),
            (Class::ColdArchive, Tier::Expedited, HOUR),
            (Class::ColdArchive, Tier::Standard, 5 * HOUR),
            (Class::ColdArchive, Tier::Bulk, 12 * HOUR),
            (Class::DeepColdArchive, Tier::Expedited, 12 * HOUR),
            (Class::DeepColdArchive, Tier::Standard, 48 * HOUR),
        ];
        for (class, tier, time) in table {
            let r = decide(class, None, &wish(2, tier), T0).unwrap();
            assert_eq!((r.status, r.retrieval), (202, true));
            let r = r.restore;
            assert!(r.is_ongoing(T0 + time - 1) && !r.is_readable(T0 + time - 1), "{class:?} {tier:?}");
            assert!(r.is_readable(T0 + time) && r.is_readable(T0 + time + 2 * DAY - 1));
            assert!(!r.is_readable(T0 + time + 2 * DAY) && r.header(T0 + time + 2 * DAY).is_none());
        }
    }

    #[test]
    fn a_running_restore_refuses_the_same_tier_and_takes_a_higher_one() {
        let first = decide(Class::ColdArchive, None, &wish(1, Tier::Bulk), T0).unwrap().restore;
        let e = decide(Class::ColdArchive, Some(&first), &wish(1, Tier::Bulk), T0 + HOUR).unwrap_err();
        assert_eq!((e.status, e.code, e.ec), (409, "RestoreAlreadyInProgress", "0026-00000011"));
        let up = decide(Class::ColdArchive, Some(&first), &wish(1, Tier::Expedited), T0 + HOUR).unwrap();
        assert_eq!((up.status, up.restore.ready_at), (202, T0 + 2 * HOUR));
        let late = decide(Class::ColdArchive, Some(&first), &wish(1, Tier::Standard), T0 + 11 * HOUR).unwrap();
        assert_eq!(late.restore.ready_at, T0 + 12 * HOUR, "raising never delays");
        let archive = decide(Class::Archive, None, &wish(1, Tier::Standard), T0).unwrap().restore;
        assert!(decide(Class::Archive, Some(&archive), &wish(1, Tier::Expedited), T0 + 1).is_err());
    }

    #[test]
    fn a_restored_archive_object_gains_a_day_per_call_up_to_seven() {
        let mut r = decide(Class::Archive, None, &wish(5, Tier::Standard), T0).unwrap().restore;
        let ready = r.ready_at;
        for days in [6, 7, 7] {
            let next = decide(Class::Archive, Some(&r), &wish(5, Tier::Standard), ready + 1).unwrap();
            assert_eq!((next.status, next.retrieval), (200, false));
            r = next.restore;
            assert_eq!(r.expires_at, ready + days * DAY);
        }
    }

    #[test]
    fn an_expired_restore_starts_again_from_the_beginning() {
        let r = decide(Class::ColdArchive, None, &wish(1, Tier::Expedited), T0).unwrap().restore;
        let again = decide(Class::ColdArchive, Some(&r), &wish(1, Tier::Expedited), r.expires_at).unwrap();
        assert_eq!((again.status, again.retrieval), (202, true));
    }

    #[test]
    fn documents_are_read_strictly() {
        let ok =
            b"<RestoreRequest><Days>3</Days><JobParameters><Tier>Expedited</Tier></JobParameters></RestoreRequest>";
        assert_eq!(parse_wish(ok, Class::ColdArchive).unwrap(), wish(3, Tier::Expedited));
        assert_eq!(parse_wish(ok, Class::Archive).unwrap(), wish(3, Tier::Standard), "Archive ignores the tier");
        assert_eq!(parse_wish(b"", Class::Archive).unwrap(), wish(1, Tier::Standard));
        let bulk = b"<RestoreRequest><Days>3</Days><JobParameters><Tier>Bulk</Tier></JobParameters></RestoreRequest>";
        assert_eq!(parse_wish(bulk, Class::DeepColdArchive).unwrap_err().ec, "0016-00000703");
        let glacier = b"<RestoreRequest><Days>3</Days><GlacierJobParameters/></RestoreRequest>";
        assert_eq!(parse_wish(glacier, Class::ColdArchive).unwrap_err().ec, "0016-00000709");
        for (days, class) in [(0, Class::Archive), (8, Class::Archive), (366, Class::DeepColdArchive)] {
            let text = format!("<RestoreRequest><Days>{days}</Days></RestoreRequest>");
            assert_eq!(parse_wish(text.as_bytes(), class).unwrap_err().status, 400, "{days} {class:?}");
        }
    }
}
