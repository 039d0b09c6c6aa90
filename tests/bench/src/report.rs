//! The table: all servers of a run side by side, and ours as a ratio of each other one.

use crate::load::Outcome;
use comfy_table::{Table, presets};

/// Prints one table for what was done and one for what it took. `ours` is the label that the ratios are about.
pub fn print(outcomes: &[Outcome], ours: &str) {
    let mut labels: Vec<&str> = Vec::new();
    let mut workloads: Vec<&str> = Vec::new();
    for outcome in outcomes {
        if !labels.contains(&outcome.label.as_str()) {
            labels.push(&outcome.label);
        }
        if !workloads.contains(&outcome.workload.as_str()) {
            workloads.push(&outcome.workload);
        }
    }
    let mut table = Table::new();
    let columns = [
        "workload",
        "server",
        "op/s",
        "MB/s",
        "p50 ms",
        "p99 ms",
        "CPU s/GB",
        "CPU s/1,000 op",
        "peak MiB",
        "disk/logical",
        "op/s",
        "CPU",
    ];
    table.load_style(presets::UTF8_FULL_CONDENSED).set_header(columns);
    for workload in workloads {
        let of = |label: &str| outcomes.iter().find(|o| o.workload == workload && o.label == label);
        let own = of(ours);
        // Ours in terms of the other: above 1 more is done, below 1 less processor is spent.
        let ratio = |o: &Outcome, figure: fn(&Outcome) -> f64| match own {
            Some(own) if o.label != ours && figure(o) > 0.0 => format!("{:.2}x {}", figure(own) / figure(o), o.label),
            _ => String::new(),
        };
        for o in labels.iter().filter_map(|label| of(label)) {
            let disk = if o.disk_per_byte > 0.0 { format!("{:.2}", o.disk_per_byte) } else { String::new() };
            table.add_row([
                o.workload.clone(),
                o.label.clone(),
                format!("{:.0}", o.ops_per_s),
                format!("{:.1}", o.mb_per_s),
                format!("{:.2}", o.p50_ms),
                format!("{:.2}", o.p99_ms),
                format!("{:.2}", o.cpu_s_per_gb),
                format!("{:.3}", o.cpu_s_per_kop),
                format!("{:.0}", o.peak_mib),
                disk,
                ratio(o, |o| o.ops_per_s),
                ratio(o, |o| o.cpu_s_per_kop),
            ]);
        }
    }
    println!("{table}");
    for o in outcomes.iter().filter(|o| o.errors > 0) {
        println!("{} on {}: {} errors: {}", o.workload, o.label, o.errors, o.first_error.as_deref().unwrap_or("?"));
    }
}
