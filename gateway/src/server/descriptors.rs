//! File descriptors: how many this process may have open, and how many it may come to need.

use rustix::process::{Resource, Rlimit, getrlimit, setrlimit};

/// A connection's socket, and the duplicate by which a silent connection is ended.
const PER_CONNECTION: u64 = 2;

/// For everything that is not counted one by one: the journal, the index, snapshots, connections to tiers, the admin
/// listener, event queues of the runtimes.
const OTHERS: u64 = 512;

/// Raises the soft limit to the hard one, which needs no right. Gives the limit that then holds; `None` is no limit.
///
/// The usual soft limit of 1024 is for programs that call `select`, and would be used up by 500 connections.
pub fn raise_limit() -> Option<u64> {
    let now = getrlimit(Resource::Nofile);
    if now.current == now.maximum {
        return now.current;
    }
    match setrlimit(Resource::Nofile, Rlimit { current: now.maximum, maximum: now.maximum }) {
        Ok(()) => now.maximum,
        Err(error) => {
            tracing::warn!(%error, limit = now.current, "the limit of open files stays as it is");
            now.current
        }
    }
}

/// Descriptors that are open when `connections` are, with `packs` files of packs.
pub fn needed(connections: usize, packs: usize) -> u64 {
    let count = |n: usize| u64::try_from(n).unwrap_or(u64::MAX);
    count(connections).saturating_mul(PER_CONNECTION).saturating_add(count(packs)).saturating_add(OTHERS)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_soft_limit_becomes_the_hard_one() {
        let before = getrlimit(Resource::Nofile);
        let low = Rlimit { current: Some(before.maximum.unwrap_or(4096).min(1024)), maximum: before.maximum };
        setrlimit(Resource::Nofile, low).unwrap();
        assert_eq!(raise_limit(), before.maximum);
        assert_eq!(getrlimit(Resource::Nofile).current, before.maximum);
    }

    #[test]
    fn each_connection_counts_twice() {
        assert_eq!(needed(8192, 512), 2 * 8192 + 512 + OTHERS);
        assert_eq!(needed(usize::MAX, 1), u64::MAX);
    }
}
