//! What the kernel knows of the server: processor time, peak memory, bytes on disk.

use std::os::unix::fs::MetadataExt;
use std::path::Path;

/// Ticks of `/proc/PID/stat` in a second: `USER_HZ`, which is 100 on every Linux that this runs on.
const TICKS: f64 = 100.0;

/// Seconds of processor time, user and system, that process `pid` has used.
pub fn cpu_seconds(pid: u32) -> f64 {
    let stat = std::fs::read_to_string(format!("/proc/{pid}/stat")).unwrap_or_default();
    // The name in parentheses may hold spaces; fields are counted from behind it.
    let after = stat.rsplit_once(')').map_or("", |(_, rest)| rest);
    let fields: Vec<&str> = after.split_whitespace().collect();
    let ticks = |at: usize| fields.get(at).and_then(|f| f.parse::<f64>().ok()).unwrap_or(0.0);
    (ticks(11) + ticks(12)) / TICKS
}

/// Sets the peak memory of `pid` back to what it has now.
pub fn reset_peak(pid: u32) {
    // Fails for a process of another user; the peak is then that of its whole life, which is not less.
    std::fs::write(format!("/proc/{pid}/clear_refs"), "5").unwrap_or_default();
}

/// Peak resident memory in MiB.
pub fn peak_mib(pid: u32) -> f64 {
    let status = std::fs::read_to_string(format!("/proc/{pid}/status")).unwrap_or_default();
    let line = status.lines().find_map(|line| line.strip_prefix("VmHWM:"));
    line.and_then(|l| l.split_whitespace().next()).and_then(|n| n.parse::<f64>().ok()).unwrap_or(0.0) / 1024.0
}

/// Bytes allocated on disk below `folder`.
pub fn disk_bytes(folder: &Path) -> u64 {
    let mut total = 0;
    let mut folders = vec![folder.to_path_buf()];
    while let Some(folder) = folders.pop() {
        for entry in std::fs::read_dir(folder).into_iter().flatten().flatten() {
            match entry.metadata() {
                Ok(meta) if meta.is_dir() => folders.push(entry.path()),
                Ok(meta) => total += meta.blocks() * 512,
                Err(_) => {}
            }
        }
    }
    total
}

/// Drops the files below `dir` from the page cache, after writing back what is not written yet.
pub fn evict(dir: &Path) -> Result<(), String> {
    let failed = |path: &Path, e: std::io::Error| format!("cannot drop {} from the page cache: {e}", path.display());
    for entry in std::fs::read_dir(dir).map_err(|e| failed(dir, e))? {
        let entry = entry.map_err(|e| failed(dir, e))?;
        let path = entry.path();
        if entry.file_type().is_ok_and(|kind| kind.is_dir()) {
            evict(&path)?;
        } else if let Ok(file) = std::fs::File::open(&path) {
            // Sockets and files that are just gone do not matter.
            file.sync_data().map_err(|e| failed(&path, e))?;
            rustix::fs::fadvise(&file, 0, None, rustix::fs::Advice::DontNeed).map_err(|e| failed(&path, e.into()))?;
        }
    }
    Ok(())
}
