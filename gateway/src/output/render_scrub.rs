//! What `tidegate scrub` found, as text.

use super::render::{finish, lossy, notes, unreadable};
use super::table;
use crate::config::units::show_size;
use std::fmt::Write;
use tidegate_tiering::engine::{ScrubReport, ScrubStats};

/// The line of `tidegate stats`.
pub(super) fn scrub_state(scrub: &ScrubStats) -> String {
    let last = scrub.last_complete.map_or("never came to an end".to_owned(), |at| {
        format!("last came to its end {at}, {} damaged, {} lost", scrub.last_damaged, scrub.last_lost)
    });
    match scrub.pass_started {
        None => last,
        Some(started) => {
            let state = if scrub.running { "running" } else { "interrupted" };
            let (done, total) = (show_size(scrub.bytes_done), show_size(scrub.bytes_total));
            format!("{state} since {started}, {done} of {total}, {} damaged; {last}", scrub.damaged)
        }
    }
}

/// `tidegate scrub`.
pub fn scrub(report: &ScrubReport) -> String {
    let mut text = String::new();
    if !report.damaged.is_empty() {
        let mut damaged = table(["chunk", "pack", "repaired", "detail"]);
        for chunk in &report.damaged {
            damaged.add_row([
                chunk.chunk.clone(),
                chunk.pack.clone(),
                if chunk.repaired { "yes" } else { "no" }.to_owned(),
                chunk.detail.clone(),
            ]);
        }
        text += &finish(damaged, &[2]);
    }
    let _ = writeln!(
        text,
        "{} packs, {} chunks, {} read: {} damaged, {} repaired, {} lost",
        report.packs,
        report.chunks,
        show_size(report.bytes),
        report.damaged_total,
        report.repaired,
        report.lost
    );
    if report.rewritten > 0 {
        let _ = writeln!(text, "{} packs were copied, their headers or footers were damaged", report.rewritten);
    }
    if report.resumed {
        let _ = writeln!(text, "this went on with the scrub that was begun {}", report.started);
    }
    text += &lossy(&report.lossy, report.lossy_total);
    if report.unreadable_total > 0 {
        let _ = writeln!(text, "{} could not be read, which may hide more:", report.unreadable_total);
        text += &unreadable(&report.unreadable);
    }
    text + &notes(&report.notes)
}

#[cfg(test)]
mod tests {
    use super::*;
    use tidegate_tiering::engine::{DamagedChunk, Unreadable};

    #[test]
    fn damage_is_listed() {
        let chunk = DamagedChunk { chunk: "abcd".into(), detail: "digest".into(), ..DamagedChunk::default() };
        let text = scrub(&ScrubReport { damaged: vec![chunk], damaged_total: 1, lost: 1, ..ScrubReport::default() });
        assert!(text.contains("abcd") && text.contains("1 damaged, 0 repaired, 1 lost"), "{text}");
        let found = Unreadable { what: "bkt / k".into(), detail: "rotten".into() };
        let notes = vec!["not known".into()];
        let text =
            scrub(&ScrubReport { unreadable: vec![found], unreadable_total: 1, notes, ..ScrubReport::default() });
        assert!(text.contains("1 could not be read") && text.contains("bkt / k: rotten"), "{text}");
        assert!(text.contains("note: not known"), "{text}");
    }
}
