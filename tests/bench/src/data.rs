//! Contents as a function of a seed and an object's number, made much faster than any server takes them.

use bytes::Bytes;

/// What bodies are made of.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Kind {
    /// Neither compressible nor repeated.
    Random,
    /// Log lines, about 3:1 under zstd.
    Text,
}

/// A counter through a mixer: every block is independent of the one before, so compilers make it fast.
fn mix(mut z: u64) -> u64 {
    z = (z ^ (z >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
    z = (z ^ (z >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
    z ^ (z >> 31)
}

/// The body of object `number`.
pub fn body(kind: Kind, seed: u64, number: u64, size: usize) -> Bytes {
    let start = mix(seed.wrapping_mul(0x9e37_79b9_7f4a_7c15) ^ number.wrapping_mul(0xd1b5_4a32_d192_ed03));
    match kind {
        Kind::Random => {
            let mut out = Vec::with_capacity(size + 8);
            let mut counter = start;
            while out.len() < size {
                counter = counter.wrapping_add(0x9e37_79b9_7f4a_7c15);
                out.extend_from_slice(&mix(counter).to_le_bytes());
            }
            out.truncate(size);
            Bytes::from(out)
        }
        Kind::Text => {
            let mut out = Vec::with_capacity(size + 160);
            let mut state = start;
            while out.len() < size {
                state = mix(state.wrapping_add(1));
                let (user, took, path) = (state % 10_000, (state >> 20) % 5_000, (state >> 40) % 300);
                let id = mix(state ^ 7);
                let line = format!(
                    "{{\"level\":\"info\",\"user\":\"u{user}\",\"took_ms\":{took},\"path\":\"/api/v1/items/{path}\",\"request\":\"{id:016x}\"}}\n"
                );
                out.extend_from_slice(line.as_bytes());
            }
            out.truncate(size);
            Bytes::from(out)
        }
    }
}

/// Versions of a body: each has `share` of the bytes of the one before edited in runs of `run` bytes, half of them
/// overwritten, a quarter inserted, a quarter deleted.
pub fn versions(seed: u64, size: usize, share: f64, run: usize, count: usize) -> Vec<Bytes> {
    let mut current = body(Kind::Random, seed, 0, size).to_vec();
    let mut all = vec![Bytes::from(current.clone())];
    let edits = ((size as f64 * share) as usize / run.max(1)).max(1);
    let mut state = mix(seed ^ 0x5eed);
    for version in 1..count {
        // Sorted cut points and one pass: an insertion costs no copy of the whole rest each time.
        let mut places: Vec<usize> = (0..edits)
            .map(|_| {
                state = mix(state.wrapping_add(1));
                (state % (current.len().saturating_sub(2 * run).max(1) as u64)) as usize
            })
            .collect();
        places.sort_unstable();
        let mut next = Vec::with_capacity(current.len() + edits * run / 4);
        let mut at = 0;
        for (number, place) in places.into_iter().enumerate() {
            if place < at {
                continue;
            }
            next.extend_from_slice(current.get(at..place).unwrap_or_default());
            let fresh = body(Kind::Random, seed ^ version as u64, number as u64 + 1, run);
            at = match number % 4 {
                0 | 2 => {
                    next.extend_from_slice(&fresh);
                    place + run
                }
                1 => {
                    next.extend_from_slice(&fresh);
                    place
                }
                _ => place + run,
            };
        }
        next.extend_from_slice(current.get(at..).unwrap_or_default());
        current = next;
        all.push(Bytes::from(current.clone()));
    }
    all
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn bodies_are_functions_of_seed_and_number_and_have_the_size_asked_for() {
        for kind in [Kind::Random, Kind::Text] {
            for size in [0, 1, 4095, 100_001] {
                assert_eq!(body(kind, 1, 2, size).len(), size);
                assert_eq!(body(kind, 1, 2, size), body(kind, 1, 2, size));
            }
            assert_ne!(body(kind, 1, 2, 100), body(kind, 1, 3, 100));
            assert_ne!(body(kind, 1, 2, 100), body(kind, 2, 2, 100));
        }
    }

    #[test]
    fn versions_differ_in_about_the_share_that_was_asked_for() {
        let all = versions(1, 4 << 20, 0.01, 4096, 3);
        assert_eq!(all.len(), 3);
        for pair in all.windows(2) {
            let [a, b] = pair else { continue };
            assert_ne!(a, b);
            assert!(a.len().abs_diff(b.len()) < 100_000);
        }
    }
}
