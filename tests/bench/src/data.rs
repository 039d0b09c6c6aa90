//! Contents as a function of a seed and an object's number, made much faster than any server takes them.

use bytes::Bytes;

/// What bodies are made of.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Kind {
    /// Neither compressible nor repeated.
    Random,
    /// Log lines whose messages are words of a Zipf-like vocabulary, about 3:1 under zstd.
    Text,
    /// Access-log lines, one line like the other but for numbers and an id of 16 random digits; about 5:1.
    Log,
}

/// A counter through a mixer: every block is independent of the one before, so compilers make it fast.
fn mix(mut z: u64) -> u64 {
    z = (z ^ (z >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
    z = (z ^ (z >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
    z ^ (z >> 31)
}

fn start(seed: u64, number: u64) -> u64 {
    mix(seed.wrapping_mul(0x9e37_79b9_7f4a_7c15) ^ number.wrapping_mul(0xd1b5_4a32_d192_ed03))
}

/// The body of a random object, without end.
pub fn random(seed: u64, number: u64) -> Random {
    Random { counter: start(seed, number) }
}

/// Random bytes that are made when they are asked for.
pub struct Random {
    counter: u64,
}

impl Random {
    /// The next `size` bytes; more may follow only when that is a multiple of 8.
    pub fn take(&mut self, size: usize) -> Bytes {
        let mut out = Vec::with_capacity(size + 8);
        while out.len() < size {
            self.counter = self.counter.wrapping_add(0x9e37_79b9_7f4a_7c15);
            out.extend_from_slice(&mix(self.counter).to_le_bytes());
        }
        out.truncate(size);
        Bytes::from(out)
    }
}

/// The body of object `number`.
pub fn body(kind: Kind, seed: u64, number: u64, size: usize) -> Bytes {
    match kind {
        Kind::Random => random(seed, number).take(size),
        Kind::Text => lines(start(seed, number), size, message_line),
        Kind::Log => lines(start(seed, number), size, access_line),
    }
}

/// As many lines as `size` bytes hold, the last one cut off. `line` appends one, made from the state given to it.
fn lines(start: u64, size: usize, line: fn(u64, &mut Vec<u8>)) -> Bytes {
    let mut out = Vec::with_capacity(size + 512);
    let mut state = start;
    while out.len() < size {
        state = mix(state.wrapping_add(1));
        line(state, &mut out);
    }
    out.truncate(size);
    Bytes::from(out)
}

fn access_line(state: u64, out: &mut Vec<u8>) {
    let (user, took, path) = (state % 10_000, (state >> 20) % 5_000, (state >> 40) % 300);
    let id = mix(state ^ 7);
    let line = format!(
        "{{\"level\":\"info\",\"user\":\"u{user}\",\"took_ms\":{took},\"path\":\"/api/v1/items/{path}\",\"request\":\"{id:016x}\"}}\n"
    );
    out.extend_from_slice(line.as_bytes());
}

fn message_line(state: u64, out: &mut Vec<u8>) {
    const LEVELS: [&str; 5] = ["INFO", "INFO", "WARN", "DEBUG", "ERROR"];
    let level = LEVELS[(state % 5) as usize];
    let (at, id, host) = (1_790_000_000_000 + (state >> 30), mix(state ^ 3) >> 16, (state >> 8) % 32);
    let head =
        format!("{{\"at\":{at},\"level\":\"{level}\",\"id\":\"{id:012x}\",\"host\":\"node-{host:02}\",\"message\":\"");
    out.extend_from_slice(head.as_bytes());
    let words = words();
    for i in 0..6 + (state >> 16) % 18 {
        if i > 0 {
            out.push(b' ');
        }
        // The product of two uniform numbers leans towards the small ranks, about as words of a language do.
        let r = mix(state ^ (i + 1).wrapping_mul(0x9e37_79b9_7f4a_7c15));
        let rank = ((r & 0xffff) * ((r >> 16) & 0xffff)) >> 20;
        out.extend_from_slice(words[rank as usize % words.len()].as_bytes());
    }
    out.extend_from_slice(b"\"}\n");
}

/// The vocabulary: 4,096 words of one to four syllables.
fn words() -> &'static [String] {
    const SYLLABLES: [&str; 20] = [
        "al", "be", "con", "da", "er", "fi", "gra", "hy", "in", "ja", "ko", "lu", "men", "no", "or", "pi", "re", "sti",
        "tu", "ve",
    ];
    static WORDS: std::sync::OnceLock<Vec<String>> = std::sync::OnceLock::new();
    WORDS.get_or_init(|| {
        let word = |n: u64| -> String {
            let r = mix(n);
            (0..1 + r % 4).map(|i| SYLLABLES[((r >> (8 * (i + 1))) % 20) as usize]).collect()
        };
        (0..4096).map(word).collect()
    })
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
        for kind in [Kind::Random, Kind::Text, Kind::Log] {
            for size in [0, 1, 4095, 100_001] {
                assert_eq!(body(kind, 1, 2, size).len(), size);
                assert_eq!(body(kind, 1, 2, size), body(kind, 1, 2, size));
            }
            assert_ne!(body(kind, 1, 2, 100), body(kind, 1, 3, 100));
            assert_ne!(body(kind, 1, 2, 100), body(kind, 2, 2, 100));
        }
    }

    #[test]
    fn a_body_made_in_pieces_is_the_body_made_at_once() {
        let mut stream = random(3, 4);
        let pieces: Vec<u8> = [8, 64, 1024, 5].iter().flat_map(|n| stream.take(*n)).collect();
        assert_eq!(pieces, body(Kind::Random, 3, 4, 1101));
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
