//! Places where a crash test may kill the process. Costs one relaxed atomic load while none is set.

use std::sync::Mutex;
use std::sync::atomic::{AtomicBool, Ordering};

static ARMED: AtomicBool = AtomicBool::new(false);
static TARGET: Mutex<Option<(String, u32)>> = Mutex::new(None);

/// Arms the failpoint `name`: its `nth` hit (1 is the first) aborts the process.
pub fn set(name: &str, nth: u32) {
    let mut target = TARGET.lock().unwrap_or_else(std::sync::PoisonError::into_inner);
    *target = Some((name.to_owned(), nth.max(1)));
    ARMED.store(true, Ordering::Relaxed);
}

/// Marks a place. Aborts the process when [`set`] named it and this is the hit that was asked for.
pub fn hit(name: &'static str) {
    if ARMED.load(Ordering::Relaxed) {
        count_down(name);
    }
}

#[cold]
fn count_down(name: &'static str) {
    let mut target = TARGET.lock().unwrap_or_else(std::sync::PoisonError::into_inner);
    if let Some((wanted, left)) = target.as_mut().filter(|(wanted, _)| wanted == name) {
        *left -= 1;
        if *left == 0 {
            // Not a panic: nothing may run after this point, no destructor and no flush.
            tracing::error!(failpoint = %wanted, "aborting at a failpoint");
            std::process::abort();
        }
    }
}
