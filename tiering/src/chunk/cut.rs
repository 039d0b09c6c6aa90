//! Content-defined cutting: FastCDC (2020, normalisation level 1), streaming and without copies.
//!
//! The cut points are a function of the body alone. The `fastcdc` crate gives the gear tables, the masks and the
//! reference that the tests compare with; the scan stands here because it must be resumable. The tempting alternative,
//! collecting `max` bytes before each cut and calling the crate, copies every byte or scans many twice.

use bytes::{Bytes, BytesMut};
use fastcdc::v2020::{Normalization, get_gear_with_seed, select_masks};
use serde::{Deserialize, Serialize};

/// How bodies are cut and compressed. Changing it only costs deduplication against what was stored before.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct ChunkSettings {
    /// Shortest chunk in bytes, except the last of a body; even, 64 to 1 MiB.
    pub min: u32,
    /// Chunk length aimed at, in bytes; even, 256 to 4 MiB.
    pub avg: u32,
    /// Longest chunk in bytes; even, 1 KiB to 8 MiB.
    pub max: u32,
    /// zstd level, 1 to 19.
    pub zstd_level: i32,
}

impl Default for ChunkSettings {
    /// 8, 48 and 128 KiB, zstd level 2: chosen by `examples/chunk_sizes.rs`, see `docs/performance.md`.
    fn default() -> Self {
        Self { min: 8 << 10, avg: 48 << 10, max: 128 << 10, zstd_level: 2 }
    }
}

impl ChunkSettings {
    /// Checks the ranges that the fields' documentation gives.
    ///
    /// # Errors
    /// A sentence that names the field and what it may be.
    pub fn validate(&self) -> Result<(), String> {
        let ranges = [
            ("min", self.min, 64, 1 << 20),
            ("avg", self.avg, 256, 4 << 20),
            // Below MAX_CHUNK_LEN, so that every chunk fits the 24-bit lengths of the index, compressed or not.
            ("max", self.max, 1 << 10, 8 << 20),
        ];
        for (name, value, low, high) in ranges {
            if value < low || value > high || value % 2 != 0 {
                return Err(format!("chunk.{name} is {value}: an even number of bytes from {low} to {high} is needed"));
            }
        }
        if !(self.min < self.avg && self.avg < self.max) {
            return Err(format!("chunk sizes must rise: min {} < avg {} < max {}", self.min, self.avg, self.max));
        }
        if !(1..=19).contains(&self.zstd_level) {
            return Err(format!("chunk.zstd_level is {}: 1 to 19 is needed", self.zstd_level));
        }
        Ok(())
    }
}

/// Gear tables and masks.
struct Gear {
    gear: [u64; 256],
    gear_ls: [u64; 256],
}

fn tables() -> &'static Gear {
    static TABLES: std::sync::OnceLock<Gear> = std::sync::OnceLock::new();
    TABLES.get_or_init(|| {
        let (gear, gear_ls) = get_gear_with_seed(0);
        let mut tables = Gear { gear: [0; 256], gear_ls: [0; 256] };
        tables.gear.copy_from_slice(&gear[..256]);
        tables.gear_ls.copy_from_slice(&gear_ls[..256]);
        tables
    })
}

/// A streaming cutter of one body. Feed it with [`push`](Self::push), take chunks with
/// [`next_chunk`](Self::next_chunk) until it gives none, and take the rest with [`finish`](Self::finish).
/// Holds at most one chunk plus the last input.
pub struct Cutter {
    tables: &'static Gear,
    min: usize,
    avg: usize,
    max: usize,
    masks_small: (u64, u64),
    masks_large: (u64, u64),
    /// Input not yet scanned to its end.
    input: Bytes,
    /// Start of the current chunk that came with earlier inputs.
    carry: Carry,
    /// Bytes of the current chunk that the scan has passed; even.
    scanned: usize,
    hash: u64,
}

/// One earlier input is kept as it came (a body in one piece is never copied); two or more are joined.
enum Carry {
    Whole(Bytes),
    Joined(BytesMut),
}

impl Carry {
    fn len(&self) -> usize {
        match self {
            Carry::Whole(b) => b.len(),
            Carry::Joined(b) => b.len(),
        }
    }

    fn byte(&self, at: usize) -> u8 {
        match self {
            Carry::Whole(b) => b[at],
            Carry::Joined(b) => b[at],
        }
    }

    fn take(&mut self) -> Carry {
        std::mem::replace(self, Carry::Whole(Bytes::new()))
    }
}

impl Cutter {
    /// A cutter at the start of a body. Settings that [`ChunkSettings::validate`] refuses give useless cuts, not errors.
    pub fn new(settings: &ChunkSettings) -> Self {
        let (small, large) = select_masks(settings.avg as usize, Normalization::Level1);
        Self {
            tables: tables(),
            min: settings.min as usize,
            avg: settings.avg as usize,
            max: settings.max as usize,
            masks_small: (small, small << 1),
            masks_large: (large, large << 1),
            input: Bytes::new(),
            carry: Carry::Whole(Bytes::new()),
            scanned: 0,
            hash: 0,
        }
    }

    /// Gives more of the body. Call [`next_chunk`](Self::next_chunk) until it gives none before the next push; what an
    /// early push finds unscanned is joined by copying.
    pub fn push(&mut self, data: Bytes) {
        if self.input.is_empty() {
            self.input = data;
        } else if !data.is_empty() {
            let mut joined = BytesMut::with_capacity(self.input.len() + data.len());
            joined.extend_from_slice(&self.input);
            joined.extend_from_slice(&data);
            self.input = joined.freeze();
        }
    }

    /// The next complete chunk, or none when more input is needed.
    pub fn next_chunk(&mut self) -> Option<Bytes> {
        if self.input.is_empty() {
            return None;
        }
        match self.scan() {
            Some(length) => Some(self.emit(length)),
            None => {
                let rest = std::mem::take(&mut self.input);
                self.keep(&rest, rest.len());
                None
            }
        }
    }

    /// The last chunk, or none when the body ended with a cut (or was empty). The cutter is then at the start of a new
    /// body.
    pub fn finish(&mut self) -> Option<Bytes> {
        debug_assert!(self.input.is_empty(), "take all chunks before finish");
        self.scanned = 0;
        self.hash = 0;
        let last = match self.carry.take() {
            Carry::Whole(b) => b,
            Carry::Joined(b) => b.freeze(),
        };
        (!last.is_empty()).then_some(last)
    }

    /// Scans the current chunk (carry, then input) on from where it stopped; the chunk's length when a cut was found.
    ///
    /// Pairs of bytes, as the reference does it: the last odd byte of a body is never tested there, so a byte at an
    /// even place is tested only once its successor is known.
    fn scan(&mut self) -> Option<usize> {
        let carried = self.carry.len();
        let available = carried + self.input.len();
        // The reference never cuts a rest of up to `min` bytes.
        if available <= self.min {
            return None;
        }
        let mut at = self.scanned.max(self.min);
        let limit = available.min(self.max) & !1;
        // The pair that lies across the join, and (after a tiny first input) pairs inside the carry.
        while at < carried.min(limit) {
            let pair = [self.byte(at), self.byte(at + 1)];
            if let Some(cut) = self.scan_pairs(&pair, at) {
                return Some(cut);
            }
            at += 2;
        }
        for (end, _) in [(self.avg, "small"), (self.max, "large")] {
            let end = end.min(limit);
            if at < end {
                let piece = self.input.slice(at - carried..end - carried);
                if let Some(cut) = self.scan_pairs(&piece, at) {
                    return Some(cut);
                }
                at = end;
            }
        }
        self.scanned = at;
        (at >= self.max).then_some(self.max)
    }

    fn byte(&self, at: usize) -> u8 {
        let carried = self.carry.len();
        if at < carried { self.carry.byte(at) } else { self.input[at - carried] }
    }

    /// Scans whole pairs that start at `at` of the chunk and all lie on one side of `avg`.
    fn scan_pairs(&mut self, pairs: &[u8], at: usize) -> Option<usize> {
        let (mask, mask_ls) = if at < self.avg { self.masks_small } else { self.masks_large };
        let mut hash = self.hash;
        let (gear, gear_ls) = (&self.tables.gear, &self.tables.gear_ls);
        for (i, pair) in pairs.as_chunks::<2>().0.iter().enumerate() {
            hash = (hash << 2).wrapping_add(gear_ls[pair[0] as usize]);
            if hash & mask_ls == 0 {
                return Some(at + 2 * i);
            }
            hash = hash.wrapping_add(gear[pair[1] as usize]);
            if hash & mask == 0 {
                return Some(at + 2 * i + 1);
            }
        }
        self.hash = hash;
        None
    }

    /// Cuts the first `length` bytes of carry and input off.
    fn emit(&mut self, length: usize) -> Bytes {
        self.scanned = 0;
        self.hash = 0;
        let carried = self.carry.len();
        if carried == 0 {
            return self.input.split_to(length);
        }
        if length >= carried {
            let part = self.input.split_to(length - carried);
            let n = part.len();
            self.keep(&part, n);
            return match self.carry.take() {
                Carry::Whole(b) => b,
                Carry::Joined(b) => b.freeze(),
            };
        }
        // The cut lies before the pair across the join: at most the odd last byte of the carry stays over.
        let mut whole = match self.carry.take() {
            Carry::Whole(b) => b,
            Carry::Joined(b) => b.freeze(),
        };
        let chunk = whole.split_to(length);
        self.carry = Carry::Whole(whole);
        chunk
    }

    /// Appends `part` to the carry. `hint` bytes of room are taken beyond it when a new buffer is needed.
    fn keep(&mut self, part: &Bytes, hint: usize) {
        if part.is_empty() {
            return;
        }
        match &mut self.carry {
            Carry::Whole(first) if first.is_empty() => self.carry = Carry::Whole(part.clone()),
            Carry::Whole(first) => {
                let mut joined = BytesMut::with_capacity((first.len() + part.len() + hint).min(self.max));
                joined.extend_from_slice(first);
                joined.extend_from_slice(part);
                self.carry = Carry::Joined(joined);
            }
            Carry::Joined(joined) => joined.extend_from_slice(part),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    fn random(len: usize, seed: u64) -> Vec<u8> {
        let mut out = vec![0; len];
        blake3::Hasher::new().update(&seed.to_le_bytes()).finalize_xof().fill(&mut out);
        out
    }

    fn reference(body: &[u8], s: &ChunkSettings) -> Vec<usize> {
        fastcdc::v2020::FastCDC::new(body, s.min as usize, s.avg as usize, s.max as usize).map(|c| c.length).collect()
    }

    fn cut(pieces: &[&[u8]], s: &ChunkSettings) -> Vec<Bytes> {
        let mut cutter = Cutter::new(s);
        let mut out = Vec::new();
        for piece in pieces {
            cutter.push(Bytes::copy_from_slice(piece));
            while let Some(chunk) = cutter.next_chunk() {
                out.push(chunk);
            }
        }
        out.extend(cutter.finish());
        out
    }

    const SMALL: ChunkSettings = ChunkSettings { min: 64, avg: 256, max: 1024, zstd_level: 1 };

    proptest! {
        #![proptest_config(ProptestConfig::with_cases(200))]
        #[test]
        fn cuts_are_those_of_the_reference_however_the_body_arrives(
            len in 0usize..20_000, seed in any::<u64>(), spread in 1u32..256, steps in prop::collection::vec(1usize..700, 1..40)
        ) {
            // A small alphabet gives long runs without a cut; a large one gives many cuts.
            let body: Vec<u8> = random(len, seed).iter().map(|b| (u32::from(*b) % spread) as u8).collect();
            let mut pieces = Vec::new();
            let (mut rest, mut turn) = (&body[..], 0);
            while !rest.is_empty() {
                let n = steps[turn % steps.len()].min(rest.len());
                let (piece, more) = rest.split_at(n);
                pieces.push(piece);
                rest = more;
                turn += 1;
            }
            let chunks = cut(&pieces, &SMALL);
            let lengths: Vec<usize> = chunks.iter().map(Bytes::len).collect();
            prop_assert_eq!(lengths, reference(&body, &SMALL));
            prop_assert_eq!(chunks.concat(), body);
        }
    }

    #[test]
    fn single_byte_pushes_give_the_cuts_of_the_whole() {
        let body = random(9_001, 7);
        let pieces: Vec<&[u8]> = body.chunks(1).collect();
        let lengths: Vec<usize> = cut(&pieces, &SMALL).iter().map(Bytes::len).collect();
        assert_eq!(lengths, reference(&body, &SMALL));
    }

    #[test]
    fn default_settings_cut_a_large_body_as_the_reference_does() {
        let s = ChunkSettings::default();
        s.validate().unwrap();
        let body = random(3_000_001, 3);
        let pieces: Vec<&[u8]> = body.chunks(65_537).collect();
        let lengths: Vec<usize> = cut(&pieces, &s).iter().map(Bytes::len).collect();
        assert_eq!(lengths, reference(&body, &s));
    }

    #[test]
    fn chunks_inside_one_input_are_not_copied() {
        let body = Bytes::from(random(1 << 20, 5));
        let range = body.as_ptr() as usize..body.as_ptr() as usize + body.len();
        let mut cutter = Cutter::new(&ChunkSettings::default());
        cutter.push(body.clone());
        let mut n = 0;
        while let Some(chunk) = cutter.next_chunk() {
            assert!(range.contains(&(chunk.as_ptr() as usize)));
            n += 1;
        }
        let last = cutter.finish().unwrap();
        assert!(range.contains(&(last.as_ptr() as usize)));
        assert!(n > 10);
        assert_eq!(cutter.finish(), None);
    }

    #[test]
    fn a_body_of_up_to_min_bytes_is_one_chunk_and_an_empty_body_none() {
        assert_eq!(cut(&[&random(64, 1)], &SMALL).len(), 1);
        assert!(cut(&[], &SMALL).is_empty());
    }

    #[test]
    fn odd_or_falling_sizes_are_refused_with_the_field_named() {
        assert!(ChunkSettings { min: 65, ..SMALL }.validate().unwrap_err().contains("chunk.min"));
        assert!(ChunkSettings { avg: 1024, ..SMALL }.validate().unwrap_err().contains("rise"));
        assert!(ChunkSettings { zstd_level: 40, ..SMALL }.validate().unwrap_err().contains("zstd_level"));
    }
}
