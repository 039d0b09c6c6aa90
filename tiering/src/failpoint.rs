//! Named places where a crash test kills the process: after each durable step. Off unless [`set`] was called, and then
//! a [`hit`] costs one relaxed atomic load. A simulation may [`listen`] instead: it is told of each place, on the thread that
//! comes there, and may hold that thread up while something else happens.
//!
//! The tempting alternative, returning an error from the place, tests the error paths and not the crash: destructors
//! would run and buffers would be flushed.

use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::sync::{Arc, Mutex, PoisonError, RwLock};

static ARMED: AtomicBool = AtomicBool::new(false);
static HITS_LEFT: AtomicU64 = AtomicU64::new(0);
static NAME: Mutex<String> = Mutex::new(String::new());
static LISTENER: RwLock<Option<Listener>> = RwLock::new(None);

/// Told of each place that is come to.
pub type Listener = Arc<dyn Fn(&str) + Send + Sync>;

/// Tells `listener` of each place from now on, or nobody. No failpoint is armed from then on.
pub fn listen(listener: Option<Listener>) {
    set("", 1);
    ARMED.store(listener.is_some(), Ordering::SeqCst);
    *LISTENER.write().unwrap_or_else(PoisonError::into_inner) = listener;
}

/// Arms the failpoint `name`: its `nth` hit (counted from 1; 0 counts as 1) aborts the process. One failpoint is armed
/// at a time; a later call replaces an earlier one.
pub fn set(name: &str, nth: u64) {
    let mut current = NAME.lock().unwrap_or_else(PoisonError::into_inner);
    name.clone_into(&mut current);
    HITS_LEFT.store(nth.max(1), Ordering::SeqCst);
    ARMED.store(!name.is_empty(), Ordering::SeqCst);
}

/// Arms a failpoint given as `name` or `name:nth`, the form that the command line takes.
///
/// # Errors
/// When the part after the colon is not a number.
pub fn set_from_text(text: &str) -> Result<(), String> {
    let (name, nth) = match text.rsplit_once(':') {
        Some((name, nth)) => {
            (name, nth.parse().map_err(|_| format!("failpoint `{text}`: `{nth}` is not a count (use name:count)"))?)
        }
        None => (text, 1),
    };
    set(name, nth);
    Ok(())
}

/// Aborts the process when the failpoint `name` is armed and this is its nth hit.
#[inline]
pub fn hit(name: &str) {
    if ARMED.load(Ordering::Relaxed) {
        hit_armed(name);
    }
}

#[cold]
fn hit_armed(name: &str) {
    let listener = LISTENER.read().unwrap_or_else(PoisonError::into_inner).clone();
    if let Some(listener) = listener {
        return listener(name);
    }
    let armed = *NAME.lock().unwrap_or_else(PoisonError::into_inner) == name;
    if armed && HITS_LEFT.fetch_sub(1, Ordering::SeqCst) == 1 {
        // Not exit(): a crash runs no destructors and flushes nothing.
        std::process::abort();
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_unarmed_or_differently_named_failpoint_does_nothing() {
        hit("nowhere");
        set("somewhere.else", 1);
        hit("nowhere");
        set("", 1);
        hit("somewhere.else");
    }

    #[test]
    fn a_count_that_is_no_number_is_refused() {
        assert!(set_from_text("pack.sealed:many").unwrap_err().contains("many"));
    }
}
