//! Reports as text for people. Every function is pure: a report in, text out.

use super::table;
use crate::admin::api::{PolicyAnswer, ProbeAnswer};
use crate::config::units::{show_duration, show_size};
use comfy_table::{CellAlignment, Table};
use std::fmt::Write;
use std::time::Duration;
use tidegate_tiering::engine::{
    Amount, EventQueueStats, GcReport, IndexRebuilt, JournalLine, LossyBody, ObjectStatusReport, PlanReport, Residency,
    Retention, StatsReport, TierPackReport, TierReport, Unreadable,
};

pub use super::render_fsck::{fsck, fsck_estimate};
use super::render_recover;
pub use super::render_recover::{from_packs, missing, odd_pack, promoted, recovered, rejoined, standby};
use super::render_scrub;
pub use super::render_scrub::scrub;
pub use super::render_tier::{conformance, conformance_plan};
pub use super::render_users::{accounts, new_key, user, users};

/// `right` names the columns of numbers.
pub(super) fn finish(mut table: Table, right: &[usize]) -> String {
    for column in right {
        if let Some(column) = table.column_mut(*column) {
            column.set_cell_alignment(CellAlignment::Right);
        }
    }
    // Without borders comfy-table pads the ends of lines.
    let mut text: String = table.lines().map(|line| format!("{}\n", line.trim_end())).collect();
    text.push('\n');
    text
}

pub(super) fn pairs(rows: Vec<(&str, String)>) -> String {
    let width = rows.iter().map(|(name, _)| name.len()).max().unwrap_or(0);
    rows.into_iter().map(|(name, value)| format!("{name:width$}  {value}\n")).collect()
}

fn amount(amount: Amount) -> [String; 2] {
    [amount.objects.to_string(), show_size(amount.bytes)]
}

/// What there is only at times: buckets whose lifecycle changed, versions that are not visible.
fn walks_and_versions(report: &StatsReport) -> String {
    let mut text = String::new();
    if let Some(walks) = &report.lifecycle_walks {
        let bucket = walks.bucket.as_deref().unwrap_or("-");
        text += &pairs(vec![(
            "lifecycle changed",
            format!("bucket {bucket}: {} objects read, {} buckets wait", walks.done, walks.waiting),
        )]);
    }
    if report.noncurrent.objects > 0 || report.delete_markers > 0 {
        let Amount { objects, bytes } = report.noncurrent;
        text += &pairs(vec![
            ("noncurrent versions", format!("{objects} of {}", show_size(bytes))),
            ("delete markers", report.delete_markers.to_string()),
        ]);
    }
    text
}

/// `tidegate stats`.
pub fn stats(report: &StatsReport) -> String {
    let mut residency = table(["", "objects", "logical"]);
    let all = Amount { objects: report.objects, bytes: report.logical_bytes };
    let rows = [("hot", report.hot), ("protected", report.protected), ("cold", report.cold)];
    for (name, value) in rows.into_iter().chain([("restored", report.restored), ("all", all)]) {
        let [objects, bytes] = amount(value);
        residency.add_row([name.to_owned(), objects, bytes]);
    }
    let mut text = report.test_day_seconds.map_or_else(String::new, |seconds| {
        format!("TEST SETTINGS: a day of all lifecycle rules lasts {seconds} seconds\n\n")
    });
    text += &finish(residency, &[1, 2]);
    let (local, disk) = (&report.local, report.disk);
    text += &pairs(vec![
        ("buckets", report.buckets.to_string()),
        ("unfinished uploads", report.uploads.to_string()),
        ("chunks", format!("{} of {}", local.unique_chunks, show_size(local.unique_bytes))),
        ("deduplication", format!("{:.2}x", local.dedup_ratio)),
        ("compression", format!("{:.2}x, to {}", local.compression_ratio, show_size(local.stored_bytes))),
        (
            "packs",
            format!("{} of {}, {} dead", local.pack_files, show_size(local.pack_bytes), show_size(local.dead_bytes)),
        ),
        ("disk", format!("{} used of {}", show_size(disk.used_bytes), show_size(disk.max_bytes))),
        ("disk free", format!("{}, floor {}", show_size(disk.free_bytes), show_size(disk.free_floor_bytes))),
        ("oldest due action", late(report.oldest_due_lag_ms)),
        ("scrub", render_scrub::scrub_state(&report.scrub)),
    ]);
    text += &walks_and_versions(report);
    if let Some(protect) = &report.protect {
        text += &render_recover::protection(protect);
    }
    if let Some(recovery) = &report.recovery {
        text += &render_recover::recovery(recovery);
    }
    if let Some(following) = &report.standby {
        text += &standby(following);
    }
    text += &notifications(report);
    text.push('\n');
    if !report.tiers.is_empty() {
        let mut tiers = table(["tier", "objects", "logical", "packs", "stored", "dead"]);
        for tier in &report.tiers {
            tiers.add_row([
                tier.name.clone(),
                tier.objects.to_string(),
                show_size(tier.logical_bytes),
                tier.packs.to_string(),
                show_size(tier.stored_bytes),
                show_size(tier.dead_bytes),
            ]);
        }
        text += &finish(tiers, &[1, 2, 3, 4, 5]);
    }
    if !report.jobs.is_empty() {
        let mut jobs = table(["job", "state", "count"]);
        for job in &report.jobs {
            jobs.add_row([job.kind.clone(), job.state.clone(), job.count.to_string()]);
        }
        text += &finish(jobs, &[2]);
    }
    text
}

/// What waits for the targets of notifications.
fn notifications(report: &StatsReport) -> String {
    let line = |queue: &EventQueueStats| {
        let age = show_duration(Duration::from_millis(queue.oldest_age_ms));
        let waits = if queue.queued == 0 { String::new() } else { format!(", the oldest for {age}") };
        let gone = if queue.configured { "" } else { ", the configuration does not name it" };
        let lost = if queue.dropped == 0 { String::new() } else { format!(", {} LOST", queue.dropped) };
        format!("{}: {} events wait{waits}{gone}{lost}", queue.target, queue.queued)
    };
    pairs(report.notifications.iter().map(|queue| ("notifications", line(queue))).collect())
}

fn late(ms: u64) -> String {
    if ms == 0 { "nothing is late".to_owned() } else { format!("{} late", show_duration(Duration::from_millis(ms))) }
}

fn residency(residency: &Residency) -> String {
    match residency {
        Residency::Hot => "hot: on local disks".to_owned(),
        Residency::Cold { tier } => format!("cold: in tier {tier}"),
        Residency::Protected { tier } => format!("protected: on local disks, and in tier {tier}"),
        Residency::Restored { tier, until } => format!("restored: in tier {tier}, and locally until {until}"),
    }
}

/// `tidegate object status`.
pub fn object_status(report: &ObjectStatusReport) -> String {
    let mut rows = vec![
        ("object", format!("s3://{}/{}", report.bucket, report.key)),
        ("version", report.version.clone()),
        ("size", format!("{} ({} bytes)", show_size(report.size), report.size)),
        ("etag", report.etag.clone()),
        ("modified", report.last_modified.to_string()),
        ("declared class", report.declared_class.clone()),
        ("class shown", report.class_shown.clone()),
        ("residency", residency(&report.residency)),
        ("chunks", format!("{}, {} of them local", report.chunks, report.local_chunks)),
    ];
    if let Some(Retention { mode, until }) = report.retention {
        rows.push(("retention", format!("until {until} ({})", mode.as_str())));
    }
    if report.legal_hold {
        rows.push(("legal hold", "on".to_owned()));
    }
    if report.restore_ongoing {
        rows.push(("restore", "running".to_owned()));
    }
    if let Some(job) = &report.job {
        let error = job.last_error.as_ref().map(|e| format!(", last error: {e}")).unwrap_or_default();
        let again = job.next_attempt.map(|t| format!(", next attempt {t}")).unwrap_or_default();
        rows.push(("job", format!("{} {}, {} attempts{again}{error}", job.kind, job.state, job.attempts)));
    }
    rows.push((
        "next",
        match &report.next {
            None => "nothing, as things stand".to_owned(),
            Some(next) => match &next.rule {
                Some(rule) => format!("{} at {} by rule {rule}", next.decision, next.when),
                None => format!("{} at {}", next.decision, next.when),
            },
        },
    ));
    let mut text = pairs(rows);
    text.push('\n');
    if !report.packs.is_empty() {
        let mut packs = table(["pack", "where", "chunks"]);
        for pack in &report.packs {
            let place = pack.tier.clone().unwrap_or_else(|| "local".to_owned());
            packs.add_row([pack.name.clone(), place, pack.chunks.to_string()]);
        }
        text += &finish(packs, &[2]);
    }
    if !report.explanation.is_empty() {
        let mut rules = table(["rule", "matches", "why"]);
        for rule in &report.explanation {
            let matches = if rule.matches { "yes" } else { "no" };
            rules.add_row([rule.rule.as_str(), matches, rule.reason.as_str()]);
        }
        text += &finish(rules, &[]);
    }
    text
}

/// `tidegate policy plan`.
pub fn plan(report: &PlanReport) -> String {
    let mut text = String::new();
    if !report.actions.is_empty() {
        let mut actions = table(["when", "action", "object", "size", "rule"]);
        for action in &report.actions {
            actions.add_row([
                action.when.to_string(),
                action.decision.clone(),
                format!("s3://{}/{}", action.bucket, action.key),
                show_size(action.size),
                action.rule.clone(),
            ]);
        }
        text += &finish(actions, &[3]);
        if report.truncated {
            text += "(more; --limit shows them)\n\n";
        }
    }
    if !report.rules.is_empty() {
        let mut rules = table(["rule", "action", "objects", "logical"]);
        for rule in &report.rules {
            rules.add_row([rule.rule.clone(), rule.decision.clone(), rule.objects.to_string(), show_size(rule.bytes)]);
        }
        text += &finish(rules, &[2, 3]);
    }
    let (moved, expired) = (report.transitions, report.expirations);
    let _ = writeln!(
        text,
        "until {}: {} objects ({}) move, {} objects ({}) expire",
        report.until,
        moved.objects,
        show_size(moved.bytes),
        expired.objects,
        show_size(expired.bytes)
    );
    if report.protections.objects > 0 {
        let (objects, size) = (report.protections.objects, show_size(report.protections.bytes));
        let _ = writeln!(text, "{objects} objects ({size}) are protected: uploaded, and still hot");
    }
    if let Some(cost) = &report.cost {
        let _ = writeln!(
            text,
            "cost: {:.4} {} for requests, {:.4} for retrieval, {:.4} for early deletion; storage {:.4} -> {:.4} a month",
            cost.requests,
            cost.currency,
            cost.retrieval,
            cost.early_deletion,
            cost.storage_month_before,
            cost.storage_month_after
        );
    }
    text
}

/// `tidegate policy show`.
pub fn policy(answer: &PolicyAnswer) -> String {
    let mut text = if answer.text.is_empty() { "# no policy is in force\n".to_owned() } else { answer.text.clone() };
    if !text.ends_with('\n') {
        text.push('\n');
    }
    if answer.progress.running {
        let _ = writeln!(text, "# evaluating existing objects: {} of {}", answer.progress.done, answer.progress.total);
    }
    text
}

/// `tidegate tier list`.
pub fn tiers(reports: &[TierReport]) -> String {
    let mut tiers = table(["tier", "type", "target", "class", "reads", "objects", "stored", "state"]);
    for report in reports {
        let reads = match (report.online, report.restore) {
            (true, _) => "online",
            (false, true) => "after a restore",
            (false, false) => "never",
        };
        tiers.add_row([
            report.name.clone(),
            report.kind.clone(),
            report.target.clone(),
            report.class.clone().unwrap_or_else(|| "-".to_owned()),
            reads.to_owned(),
            report.stats.objects.to_string(),
            show_size(report.stats.stored_bytes),
            report.last_error.clone().unwrap_or_else(|| "ok".to_owned()),
        ]);
    }
    finish(tiers, &[5, 6])
}

/// `tidegate tier packs`.
pub fn packs(reports: &[TierPackReport]) -> String {
    let mut packs = table(["pack", "state", "size", "chunks", "created", "CRC-64"]);
    for report in reports {
        packs.add_row([
            report.name.clone(),
            report.state.clone(),
            show_size(report.bytes),
            report.chunks.to_string(),
            report.created.to_string(),
            report.crc64.map_or_else(|| "-".to_owned(), |crc| crc.to_string()),
        ]);
    }
    finish(packs, &[2, 3])
}

/// `tidegate tier probe`.
pub fn probes(reports: &[ProbeAnswer]) -> String {
    let mut steps = table(["tier", "step", "outcome", "ms", "detail"]);
    for report in reports {
        for step in &report.steps {
            steps.add_row([
                report.tier.clone(),
                step.step.clone(),
                if step.ok { "ok" } else { "failed" }.to_owned(),
                format!("{:.1}", step.millis),
                step.message.clone(),
            ]);
        }
    }
    finish(steps, &[3])
}

/// `tidegate gc`.
pub fn gc(report: &GcReport) -> String {
    let would = if report.dry_run { "would be " } else { "" };
    let mut text = pairs(vec![
        ("packs looked at", report.packs.to_string()),
        ("dead chunks", format!("{} of {}", report.dead_chunks, show_size(report.dead_bytes))),
        ("packs", format!("{} {would}deleted, {} {would}compacted", report.packs_deleted, report.packs_compacted)),
        ("space", format!("{} {would}given back", show_size(report.freed_bytes))),
        ("kept for now", show_size(report.kept_bytes)),
        ("remote packs", format!("{} {would}queued for deletion", report.remote_packs_doomed)),
    ]);
    if report.unreadable_total > 0 {
        let kept = show_size(report.doubted_bytes);
        let _ = writeln!(
            text,
            "{} could not be read; for their sake {kept} of chunks and {} remote packs are kept:",
            report.unreadable_total, report.remote_packs_kept
        );
        text += &unreadable(&report.unreadable);
    }
    text += &lossy(&report.lossy, report.lossy_total);
    text + &notes(&report.notes)
}

pub(super) fn unreadable(named: &[Unreadable]) -> String {
    named.iter().fold(String::new(), |text, found| text + &format!("  {}: {}\n", found.what, found.detail))
}

pub(super) fn notes(notes: &[String]) -> String {
    notes.iter().fold(String::new(), |text, note| text + &format!("note: {note}\n"))
}

/// Which bodies cannot be read in full.
pub(super) fn lossy(named: &[LossyBody], total: u64) -> String {
    let mut text = String::new();
    if total > 0 {
        let _ = writeln!(text, "{total} cannot be read in full; upload the same bytes again, or delete them:");
        for body in named {
            let _ = writeln!(text, "  {}: {} chunks are lost", body.what, body.chunks);
        }
    }
    text
}

/// `tidegate index rebuild`.
pub fn rebuild(report: &IndexRebuilt) -> String {
    let start = match report.snapshot {
        Some(sequence) => format!("the snapshot at record {sequence}"),
        None => "the beginning of the journal".to_owned(),
    };
    let mut text = format!(
        "the index was made anew from {start} and {} records, up to {}\n",
        report.records, report.last_sequence
    );
    for note in &report.notes {
        let _ = writeln!(text, "note: {note}");
    }
    text
}

/// One record of `tidegate journal dump`: a line for it, and one for each change.
pub fn journal_line(line: &JournalLine) -> String {
    let mut text = format!("{} epoch {} {} {}\n", line.sequence, line.epoch, line.time, line.reason);
    for change in &line.changes {
        let _ = writeln!(text, "  {} {}: {}", change.table, change.key, change.value);
    }
    text
}

#[cfg(test)]
mod tests {
    use super::*;
    use tidegate_tiering::clock::Timestamp;
    use tidegate_tiering::engine::{
        JobReport, NextAction, PackReport, PlanCost, PlannedAction, RetentionMode, RuleExplanation, TierStats,
    };

    #[test]
    fn packs_are_listed_with_their_state() {
        let pack =
            TierPackReport { name: "packs/d/1/a.pack".into(), state: "live".into(), bytes: 2048, ..Default::default() };
        let text = packs(&[pack]);
        assert!(text.contains("packs/d/1/a.pack") && text.contains("live"), "{text}");
    }

    #[test]
    fn stats_show_every_tier_and_what_is_late() {
        let report = StatsReport {
            objects: 3,
            logical_bytes: 3 << 20,
            hot: Amount { objects: 2, bytes: 1 << 20 },
            oldest_due_lag_ms: 90_000,
            tiers: vec![TierStats { name: "ia".into(), objects: 1, stored_bytes: 2 << 20, ..TierStats::default() }],
            ..StatsReport::default()
        };
        let text = stats(&report);
        let line =
            |start: &str| text.lines().find(|l| l.trim_start().starts_with(start)).unwrap_or_default().to_owned();
        assert_eq!(line("all").split_whitespace().collect::<Vec<_>>(), ["all", "3", "3.00", "MiB"]);
        assert!(line("oldest due action").ends_with("1m 30s late"), "{text}");
        assert!(line("ia").contains("2.00 MiB"), "{text}");
        assert!(text.lines().all(|l| !l.ends_with(' ')), "{text:?}");
    }

    #[test]
    fn an_object_status_says_where_why_and_what_next() {
        let report = ObjectStatusReport {
            bucket: "b".into(),
            key: "k".into(),
            version: "0".repeat(32),
            size: 5,
            etag: "e".into(),
            last_modified: Timestamp(0),
            content_type: None,
            tags: Vec::new(),
            checksum: None,
            parts: 0,
            retention: Some(Retention { mode: RetentionMode::Compliance, until: Timestamp(2000) }),
            legal_hold: true,
            declared_class: "STANDARD".into(),
            class_shown: "STANDARD_IA".into(),
            residency: Residency::Cold { tier: "ia".into() },
            restore_ongoing: false,
            chunks: 2,
            local_chunks: 1,
            packs: vec![PackReport { tier: Some("ia".into()), name: "p/1".into(), chunks: 2 }],
            next: Some(NextAction { when: Timestamp(1000), decision: "expire".into(), rule: Some("old".into()) }),
            explanation: vec![RuleExplanation { rule: "old".into(), matches: true, reason: "waits".into() }],
            job: Some(JobReport { kind: "transition".into(), last_error: Some("no".into()), ..JobReport::default() }),
        };
        let text = object_status(&report);
        for part in [
            "s3://b/k",
            "cold: in tier ia",
            "until 1970-01-01T00:00:02.000Z (COMPLIANCE)",
            "legal hold",
            "expire at 1970-01-01T00:00:01.000Z by rule old",
            "2, 1 of them local",
            "last error: no",
            "waits",
        ] {
            assert!(text.contains(part), "{part}: {text}");
        }
    }

    #[test]
    fn a_plan_has_sums_and_cost() {
        let action =
            PlannedAction { decision: "transition to ia".into(), rule: "r".into(), ..PlannedAction::default() };
        let report = PlanReport {
            actions: vec![action],
            truncated: true,
            transitions: Amount { objects: 7, bytes: 1024 },
            cost: Some(PlanCost { currency: "CNY".into(), requests: 0.5, ..PlanCost::default() }),
            ..PlanReport::default()
        };
        let text = plan(&report);
        assert!(text.contains("7 objects (1.00 KiB) move") && text.contains("0.5000 CNY"), "{text}");
        assert!(text.contains("--limit"), "{text}");
        assert!(plan(&PlanReport::default()).contains("0 objects (0 B) move"));
    }

    #[test]
    fn a_dry_run_says_would() {
        let report = GcReport { dry_run: true, freed_bytes: 1024, ..GcReport::default() };
        assert!(gc(&report).contains("1.00 KiB would be given back"));
        assert!(gc(&GcReport { dry_run: false, ..report }).contains("1.00 KiB given back"));
    }
}
