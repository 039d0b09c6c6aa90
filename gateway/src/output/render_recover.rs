//! Reports of what survives the disk as text for people: protection, shipping, recovery.

use super::render::pairs;
use crate::config::units::{show_duration, show_size};
use std::time::Duration;
use tidegate_tiering::engine::{PromoteReport, ProtectStats, RecoveryStats, StandbyStats};
use tidegate_tiering::recovery::{Examined, FromPacksReport, MissingObject, OddPack, RecoverReport, Rejoined};

/// The lines of `tidegate stats` about protection.
pub fn protection(stats: &ProtectStats) -> String {
    let lag = match stats.pending.objects {
        0 => "nothing waits".to_owned(),
        n => {
            let age = show_duration(Duration::from_millis(stats.lag_ms));
            format!("{n} objects, {}, the oldest for {age}", show_size(stats.pending.bytes))
        }
    };
    let tiers = if stats.tiers.is_empty() { "off".to_owned() } else { stats.tiers.join(", ") };
    pairs(vec![("protection in", tiers), ("protection lag", lag)])
}

/// The lines of `tidegate stats` about shipping.
pub fn recovery(stats: &RecoveryStats) -> String {
    let lag = match stats.lag_records {
        0 => "nothing waits".to_owned(),
        n => format!("{n} records, {}", show_duration(Duration::from_millis(stats.lag_ms))),
    };
    let mut rows = vec![
        ("recovery tier", format!("{}, term {}, up to record {}", stats.tier, stats.term, stats.shipped_sequence)),
        ("recovery lag", lag),
        ("recovery snapshot", stats.last_snapshot.map_or("none".to_owned(), |at| at.to_string())),
    ];
    if let Some(by) = &stats.fenced {
        rows.push(("recovery fenced", by.clone()));
    } else if let Some(error) = &stats.last_error {
        rows.push(("recovery error", error.clone()));
    }
    pairs(rows)
}

/// The lines of `tidegate stats` about following.
pub fn standby(stats: &StandbyStats) -> String {
    let lag = match (stats.caught_up, stats.lag_ms) {
        (_, u64::MAX) => "not known yet".to_owned(),
        (true, ms) => format!("at most {}", show_duration(Duration::from_millis(ms))),
        (false, ms) => format!("not caught up yet, {}", show_duration(Duration::from_millis(ms))),
    };
    let mut rows = vec![
        ("standby of", format!("tier {}, up to record {}", stats.from, stats.applied_sequence)),
        ("standby lag", lag),
    ];
    if let Some(error) = &stats.last_error {
        rows.push(("standby error", error.clone()));
    }
    pairs(rows)
}

/// `tidegate promote`.
pub fn promoted(report: &PromoteReport) -> String {
    let until = report.until.map_or("of an earlier start".to_owned(), |at| format!("of {at}"));
    let mut rows =
        vec![("term", report.term.to_string()), ("last record", format!("{} ({until})", report.last_sequence))];
    if let Some(gap) = &report.gap {
        rows.push(("lost", gap.clone()));
    }
    rows.push(("RTO", show_duration(Duration::from_millis(report.took_ms))));
    format!("{}this server is the primary now and takes writes\n", pairs(rows))
}

/// What became of a primary that rejoined.
pub fn rejoined(report: &Rejoined) -> String {
    let aside = report.aside.display();
    let part = if report.complete { "" } else { " (its journal did not go back far enough to list all)" };
    let lost = match &report.list {
        Some(list) => format!(
            "{} changes that were acknowledged here are not in the history{part}: they are listed in {}",
            report.lost,
            list.display()
        ),
        None => format!("nothing that was acknowledged here is missing in the history{part}"),
    };
    format!("rejoined; the old namespace is in {aside}\n{lost}")
}

/// One line for an object without bytes.
pub fn missing(object: &MissingObject) -> String {
    let MissingObject { bucket, key, size, modified, .. } = object;
    format!("missing  s3://{bucket}/{key}  {size} bytes  modified {modified}")
}

/// One line for a pack of which something is to be said.
pub fn odd_pack(pack: &OddPack) -> String {
    let OddPack { tier, name, bytes, why } = pack;
    format!("pack     {tier}  {name}  {bytes} bytes  {why}")
}

/// What is there and what is not, where it is not nothing.
fn more(found: &Examined) -> impl Iterator<Item = (&'static str, String)> {
    let more = [
        ("unknown objects", found.unknown_objects),
        ("restored, cold again", found.restored_again_cold),
        ("restore jobs", found.restore_jobs),
        ("uploads under way", found.uploads),
        ("parts lost", found.missing_parts),
        ("unreadable records", found.unreadable_records),
    ];
    more.into_iter().filter(|(_, n)| *n > 0).map(|(name, n)| (name, n.to_string()))
}

/// `tidegate recover --from-packs`.
pub fn from_packs(report: &FromPacksReport) -> String {
    let found = &report.found;
    let mut rows = vec![
        ("deployment", report.deployment.clone()),
        ("packs", format!("{}, {}, in {}", report.packs, show_size(report.pack_bytes), report.tiers.join(", "))),
        ("fetched", show_size(report.fetched_bytes)),
    ];
    let packs = [
        ("archived packs", report.archived_packs),
        ("being restored", report.thaws),
        ("unreadable packs", report.unreadable_packs),
        ("packs without manifests", report.packs_without_manifests),
        ("of them not needed", report.packs_left),
        ("older versions", report.older_versions),
    ];
    rows.extend(packs.into_iter().filter(|(_, n)| *n > 0).map(|(name, n)| (name, n.to_string())));
    if report.finished {
        rows.push(("buckets", found.buckets.to_string()));
        rows.push(("objects", format!("{}, {}", found.objects, show_size(found.bytes))));
        rows.push(("missing objects", format!("{}, {}", found.missing_objects, show_size(found.missing_bytes))));
        rows.extend(more(found));
    }
    for list in report.missing_list.iter().chain(&report.packs_list) {
        rows.push(("listed in", list.display().to_string()));
    }
    rows.push(("took", show_duration(Duration::from_millis(report.took_ms))));
    let mut text = pairs(rows);
    for note in &report.notes {
        text.push_str(&format!("note: {note}\n"));
    }
    if !report.finished {
        text.push_str("archived packs are being restored, which takes hours; run the same command again then\n");
        return text;
    }
    text.push_str(
        "objects are as they were when they were moved; deletions, and changes since, are not known: some may be back\n",
    );
    if report.archived_packs > 0 {
        text.push_str(
            "what archived packs tell of is not back; with --thaw, into another directory, it comes back as well\n",
        );
    }
    if report.packs_left + report.archived_packs + report.unreadable_packs > 0 {
        text.push_str("the packs that are named stay in their tiers until somebody deletes them there\n");
    }
    text.push_str(&match (report.dry_run, report.term) {
        (true, _) => "dry run: nothing was made, nobody was fenced\n".to_owned(),
        (false, 0) => format!("recovered into {}; make sure that the old server is off\n", report.data_dir.display()),
        (false, term) => {
            format!("recovered into {} (term {term}); start the server on it\n", report.data_dir.display())
        }
    });
    text
}

/// `tidegate recover`.
pub fn recovered(report: &RecoverReport) -> String {
    let found = &report.found;
    let mut rows = vec![
        ("deployment", report.deployment.clone()),
        ("state of", format!("{} (record {})", report.until, report.last_sequence)),
        ("fetched", format!("{} objects, {}", report.fetched_objects, show_size(report.fetched_bytes))),
        ("buckets", found.buckets.to_string()),
        ("objects", format!("{}, {}", found.objects, show_size(found.bytes))),
        ("packs in tiers", format!("{}, {} of them missing", found.packs, found.missing_packs)),
        ("missing objects", format!("{}, {}", found.missing_objects, show_size(found.missing_bytes))),
    ];
    rows.extend(more(found));
    if !found.empty_tiers.is_empty() {
        let tiers = found.empty_tiers.join(", ");
        rows.push(("tiers without packs", format!("{tiers}: are they the right ones, and mounted?")));
    }
    if !found.unknown_tiers.is_empty() {
        rows.push(("tiers not configured", found.unknown_tiers.join(", ")));
    }
    if let Some(list) = &report.missing_list {
        rows.push(("listed in", list.display().to_string()));
    }
    rows.push(("took", show_duration(Duration::from_millis(report.took_ms))));
    let mut text = pairs(rows);
    for note in &report.notes {
        text.push_str(&format!("note: {note}\n"));
    }
    text.push_str(&match report.dry_run {
        true => "dry run: nothing was made, nobody was fenced\n".to_owned(),
        false => {
            format!("recovered into {} (term {}); start the server on it\n", report.data_dir.display(), report.term)
        }
    });
    text
}
