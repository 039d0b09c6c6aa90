//! The ghost table: which chunks were evicted lately.

use crate::chunk::ChunkId;
use std::collections::{HashMap, VecDeque};

/// Remembers 64 bits of the last so many evicted ids, oldest out first. A false hit only means a better seat.
#[derive(Debug)]
pub(crate) struct Ghosts {
    order: VecDeque<u64>,
    /// How often a key stands in `order`.
    present: HashMap<u64, u32>,
    limit: usize,
}

impl Ghosts {
    pub fn new(limit: usize) -> Self {
        Self { order: VecDeque::new(), present: HashMap::new(), limit }
    }

    fn key(id: &ChunkId) -> u64 {
        let mut word = [0; 8];
        word.copy_from_slice(&id.0[16..24]);
        u64::from_le_bytes(word)
    }

    pub fn add(&mut self, id: &ChunkId) {
        if self.limit == 0 {
            return;
        }
        if self.order.len() >= self.limit
            && let Some(oldest) = self.order.pop_front()
            && let Some(n) = self.present.get_mut(&oldest)
        {
            *n -= 1;
            if *n == 0 {
                self.present.remove(&oldest);
            }
        }
        self.order.push_back(Self::key(id));
        *self.present.entry(Self::key(id)).or_insert(0) += 1;
    }

    pub fn contains(&self, id: &ChunkId) -> bool {
        self.present.contains_key(&Self::key(id))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_oldest_ghost_is_forgotten_and_a_repeated_one_stays_as_long_as_its_last_visit() {
        let id = |n: u64| ChunkId::of(&n.to_le_bytes());
        let mut ghosts = Ghosts::new(3);
        for n in [1, 2, 1, 3] {
            ghosts.add(&id(n));
        }
        assert!(ghosts.contains(&id(1)) && ghosts.contains(&id(2)) && ghosts.contains(&id(3)));
        ghosts.add(&id(4));
        assert!(ghosts.contains(&id(1)) && !ghosts.contains(&id(2)));
        ghosts.add(&id(5));
        assert!(!ghosts.contains(&id(1)));
        assert!(ghosts.order.len() == 3 && ghosts.present.len() == 3);
    }
}
