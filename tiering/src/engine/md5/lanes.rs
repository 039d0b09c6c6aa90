//! MD5 (RFC 1321) of up to eight messages in lockstep: lane *i* of every vector belongs to message *i*.
//!
//! The vectors are arrays that the compiler keeps in vector registers. The same code is compiled for AVX-512VL, which has
//! rotations and three-operand logic, and for AVX2; without either, messages are hashed one by one. Measured on one core with
//! eight messages: AVX-512VL 5.4 GB/s in all, AVX2 2.0 GB/s; one message alone 0.7 GB/s.

use bytes::Bytes;
use std::array::from_fn;

/// Messages side by side: a vector of 256 bits.
pub(super) const LANES: usize = 8;

/// Bytes of a block.
const BLOCK: usize = 64;

type Vector = [u32; LANES];

/// State of one message.
#[derive(Debug, Clone)]
pub(super) struct Hash {
    state: [u32; 4],
    /// Bytes so far.
    length: u64,
    /// The start of a block that is not whole yet.
    rest: [u8; BLOCK],
}

impl Default for Hash {
    fn default() -> Self {
        Self { state: [0x6745_2301, 0xefcd_ab89, 0x98ba_dcfe, 0x1032_5476], length: 0, rest: [0; BLOCK] }
    }
}

impl Hash {
    fn rest_len(&self) -> usize {
        // Below 64.
        (self.length % BLOCK as u64) as usize
    }

    /// Adds bytes.
    pub(super) fn update(&mut self, bytes: &[u8]) {
        let bytes = self.begin(bytes);
        let (blocks, tail) = bytes.as_chunks::<BLOCK>();
        md5::block_api::compress(&mut self.state, blocks);
        self.end(bytes.len(), tail);
    }

    /// Completes the block that is not whole, if `bytes` can, and gives what is left of them: after that, whole blocks
    /// come, or nothing.
    fn begin<'a>(&mut self, bytes: &'a [u8]) -> &'a [u8] {
        let have = self.rest_len();
        if have == 0 {
            return bytes;
        }
        let (head, bytes) = bytes.split_at(bytes.len().min(BLOCK - have));
        self.rest[have..have + head.len()].copy_from_slice(head);
        self.length = self.length.wrapping_add(head.len() as u64);
        if have + head.len() == BLOCK {
            md5::block_api::compress(&mut self.state, &[self.rest]);
        }
        bytes
    }

    /// Counts `length` bytes as hashed, but for `tail`, less than a block.
    fn end(&mut self, length: usize, tail: &[u8]) {
        self.length = self.length.wrapping_add(length as u64);
        self.rest[..tail.len()].copy_from_slice(tail);
    }

    /// The digest.
    pub(super) fn finish(mut self) -> [u8; 16] {
        let bits = self.length.wrapping_mul(8);
        let mut padding = [0; 2 * BLOCK];
        padding[0] = 0x80;
        let have = self.rest_len();
        let zeros = if have < BLOCK - 8 { BLOCK - 8 - have } else { 2 * BLOCK - 8 - have };
        padding[zeros..zeros + 8].copy_from_slice(&bits.to_le_bytes());
        self.update(&padding[..zeros + 8]);
        let words = self.state.map(u32::to_le_bytes);
        from_fn(|i| words[i / 4][i % 4])
    }
}

/// Adds to each message its bytes.
pub(super) fn update(work: &mut [(Hash, Bytes)]) {
    let unit = Unit::of_this_machine();
    for group in work.chunks_mut(LANES) {
        update_group(group, unit);
    }
}

fn update_group(group: &mut [(Hash, Bytes)], unit: Unit) {
    // Of each message, what is left to hash.
    let mut left: Vec<(&mut Hash, &[u8])> = group
        .iter_mut()
        .map(|(hash, bytes)| {
            let rest = hash.begin(bytes);
            (hash, rest)
        })
        .collect();
    loop {
        let mut active: Vec<_> = left.iter_mut().filter(|(_, bytes)| bytes.len() >= BLOCK).collect();
        if active.len() < unit.worth_it() {
            break;
        }
        let blocks = active.iter().map(|(_, bytes)| bytes.len() / BLOCK).min().unwrap_or(0);
        let count = active.len();
        // Lanes without a message repeat the first one's; what they give is not looked at.
        let data: [&[[u8; BLOCK]]; LANES] =
            from_fn(|lane| &active[if lane < count { lane } else { 0 }].1.as_chunks().0[..blocks]);
        let mut state: [Vector; 4] = from_fn(|word| from_fn(|lane| active.get(lane).map_or(0, |m| m.0.state[word])));
        unit.run(&mut state, &data);
        for (lane, (hash, bytes)) in active.iter_mut().enumerate() {
            hash.state = from_fn(|word| state[word][lane]);
            hash.length = hash.length.wrapping_add((blocks * BLOCK) as u64);
            *bytes = &bytes[blocks * BLOCK..];
        }
    }
    for (hash, bytes) in left {
        hash.update(bytes);
    }
}

/// What the processor can do.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Unit {
    #[cfg(target_arch = "x86_64")]
    Avx512,
    #[cfg(target_arch = "x86_64")]
    Avx2,
    Scalar,
}

impl Unit {
    fn of_this_machine() -> Self {
        #[cfg(target_arch = "x86_64")]
        {
            if is_x86_feature_detected!("avx512f") && is_x86_feature_detected!("avx512vl") {
                return Self::Avx512;
            }
            if is_x86_feature_detected!("avx2") {
                return Self::Avx2;
            }
        }
        Self::Scalar
    }

    /// With fewer messages than this, one by one is as fast: all lanes together cost as much as so many messages alone.
    fn worth_it(self) -> usize {
        match self {
            #[cfg(target_arch = "x86_64")]
            Self::Avx512 => 2,
            #[cfg(target_arch = "x86_64")]
            Self::Avx2 => 4,
            Self::Scalar => usize::MAX,
        }
    }

    #[allow(unsafe_code)]
    fn run(self, state: &mut [Vector; 4], data: &[&[[u8; BLOCK]]; LANES]) {
        match self {
            // SAFETY: the processor was asked for these features.
            #[cfg(target_arch = "x86_64")]
            Self::Avx512 => unsafe { run_avx512(state, data) },
            // SAFETY: the processor was asked for this feature.
            #[cfg(target_arch = "x86_64")]
            Self::Avx2 => unsafe { run_avx2(state, data) },
            Self::Scalar => run(state, data),
        }
    }
}

#[cfg(target_arch = "x86_64")]
#[target_feature(enable = "avx2,avx512f,avx512vl")]
fn run_avx512(state: &mut [Vector; 4], data: &[&[[u8; BLOCK]]; LANES]) {
    run(state, data);
}

#[cfg(target_arch = "x86_64")]
#[target_feature(enable = "avx2")]
fn run_avx2(state: &mut [Vector; 4], data: &[&[[u8; BLOCK]]; LANES]) {
    run(state, data);
}

/// All blocks; every lane has as many as the first.
#[inline(always)]
fn run(state: &mut [Vector; 4], data: &[&[[u8; BLOCK]]; LANES]) {
    for block in 0..data[0].len() {
        let mut words = [[0; LANES]; 16];
        for (lane, blocks) in data.iter().enumerate() {
            for (word, bytes) in words.iter_mut().zip(blocks[block].as_chunks::<4>().0) {
                word[lane] = u32::from_le_bytes(*bytes);
            }
        }
        rounds(state, &words);
    }
}

#[inline(always)]
fn add(a: Vector, b: Vector) -> Vector {
    from_fn(|i| a[i].wrapping_add(b[i]))
}

/// The sine table of RFC 1321.
const SINES: [u32; 64] = [
    0xd76a_a478,
    0xe8c7_b756,
    0x2420_70db,
    0xc1bd_ceee,
    0xf57c_0faf,
    0x4787_c62a,
    0xa830_4613,
    0xfd46_9501,
    0x6980_98d8,
    0x8b44_f7af,
    0xffff_5bb1,
    0x895c_d7be,
    0x6b90_1122,
    0xfd98_7193,
    0xa679_438e,
    0x49b4_0821,
    0xf61e_2562,
    0xc040_b340,
    0x265e_5a51,
    0xe9b6_c7aa,
    0xd62f_105d,
    0x0244_1453,
    0xd8a1_e681,
    0xe7d3_fbc8,
    0x21e1_cde6,
    0xc337_07d6,
    0xf4d5_0d87,
    0x455a_14ed,
    0xa9e3_e905,
    0xfcef_a3f8,
    0x676f_02d9,
    0x8d2a_4c8a,
    0xfffa_3942,
    0x8771_f681,
    0x6d9d_6122,
    0xfde5_380c,
    0xa4be_ea44,
    0x4bde_cfa9,
    0xf6bb_4b60,
    0xbebf_bc70,
    0x289b_7ec6,
    0xeaa1_27fa,
    0xd4ef_3085,
    0x0488_1d05,
    0xd9d4_d039,
    0xe6db_99e5,
    0x1fa2_7cf8,
    0xc4ac_5665,
    0xf429_2244,
    0x432a_ff97,
    0xab94_23a7,
    0xfc93_a039,
    0x655b_59c3,
    0x8f0c_cc92,
    0xffef_f47d,
    0x8584_5dd1,
    0x6fa8_7e4f,
    0xfe2c_e6e0,
    0xa301_4314,
    0x4e08_11a1,
    0xf753_7e82,
    0xbd3a_f235,
    0x2ad7_d2bb,
    0xeb86_d391,
];

/// The four rounds of one block. Every step names its constants, so that nothing is looked up or branched on.
#[inline(always)]
fn rounds(state: &mut [Vector; 4], words: &[Vector; 16]) {
    let [mut a, mut b, mut c, mut d] = *state;
    let f = |x: u32, y: u32, z: u32| z ^ (x & (y ^ z));
    let g = |x: u32, y: u32, z: u32| y ^ (z & (x ^ y));
    let h = |x: u32, y: u32, z: u32| x ^ y ^ z;
    let i = |x: u32, y: u32, z: u32| y ^ (x | !z);
    macro_rules! step {
        ($mix:ident, $step:expr, $word:expr, $turn:expr) => {{
            let mixed: Vector = from_fn(|n| $mix(b[n], c[n], d[n]));
            let sum = add(add(a, mixed), add(words[$word], [SINES[$step]; LANES]));
            (a, d, c) = (d, c, b);
            b = add(b, from_fn(|n| sum[n].rotate_left($turn)));
        }};
    }
    macro_rules! four {
        ($mix:ident, $step:expr, [$w0:expr, $w1:expr, $w2:expr, $w3:expr], [$t0:expr, $t1:expr, $t2:expr, $t3:expr]) => {
            step!($mix, $step, $w0, $t0);
            step!($mix, $step + 1, $w1, $t1);
            step!($mix, $step + 2, $w2, $t2);
            step!($mix, $step + 3, $w3, $t3);
        };
    }
    four!(f, 0, [0, 1, 2, 3], [7, 12, 17, 22]);
    four!(f, 4, [4, 5, 6, 7], [7, 12, 17, 22]);
    four!(f, 8, [8, 9, 10, 11], [7, 12, 17, 22]);
    four!(f, 12, [12, 13, 14, 15], [7, 12, 17, 22]);
    four!(g, 16, [1, 6, 11, 0], [5, 9, 14, 20]);
    four!(g, 20, [5, 10, 15, 4], [5, 9, 14, 20]);
    four!(g, 24, [9, 14, 3, 8], [5, 9, 14, 20]);
    four!(g, 28, [13, 2, 7, 12], [5, 9, 14, 20]);
    four!(h, 32, [5, 8, 11, 14], [4, 11, 16, 23]);
    four!(h, 36, [1, 4, 7, 10], [4, 11, 16, 23]);
    four!(h, 40, [13, 0, 3, 6], [4, 11, 16, 23]);
    four!(h, 44, [9, 12, 15, 2], [4, 11, 16, 23]);
    four!(i, 48, [0, 7, 14, 5], [6, 10, 15, 21]);
    four!(i, 52, [12, 3, 10, 1], [6, 10, 15, 21]);
    four!(i, 56, [8, 15, 6, 13], [6, 10, 15, 21]);
    four!(i, 60, [4, 11, 2, 9], [6, 10, 15, 21]);
    *state = [add(state[0], a), add(state[1], b), add(state[2], c), add(state[3], d)];
}

#[cfg(test)]
mod tests {
    use super::*;
    use md5::{Digest, Md5};

    #[test]
    fn every_unit_that_this_machine_has_gives_the_digests_of_the_reference() {
        let mut units = vec![Unit::Scalar];
        #[cfg(target_arch = "x86_64")]
        {
            units.extend(is_x86_feature_detected!("avx2").then_some(Unit::Avx2));
            units.extend((Unit::of_this_machine() == Unit::Avx512).then_some(Unit::Avx512));
        }
        for unit in units {
            for count in 1..=LANES {
                let bodies: Vec<Bytes> =
                    (0..count).map(|n| (0..1_000 + n * 777).map(|i| (i * 31 + n * 7) as u8).collect()).collect();
                let mut work: Vec<_> = bodies.iter().map(|b| (Hash::default(), b.slice(..b.len() / 3))).collect();
                update_group(&mut work, unit);
                for (part, body) in work.iter_mut().zip(&bodies) {
                    part.1 = body.slice(body.len() / 3..);
                }
                update_group(&mut work, unit);
                for ((hash, _), body) in work.into_iter().zip(bodies) {
                    let want: [u8; 16] = Md5::digest(&body).into();
                    assert_eq!(hash.finish(), want, "{unit:?}, {count} bodies");
                }
            }
        }
    }

    #[test]
    fn the_padding_is_right_around_the_end_of_a_block() {
        for len in 0..200 {
            let body: Vec<u8> = (0..len).collect();
            let mut hash = Hash::default();
            hash.update(&body);
            let want: [u8; 16] = Md5::digest(&body).into();
            assert_eq!(hash.finish(), want, "{len} bytes");
        }
    }

    #[test]
    fn lanes_run_without_a_vector_unit_give_the_same() {
        let block = [[7; BLOCK]];
        let data = [&block[..]; LANES];
        let start = Hash::default().state;
        let mut state = start.map(|word| [word; LANES]);
        Unit::Scalar.run(&mut state, &data);
        let mut alone = start;
        md5::block_api::compress(&mut alone, &block);
        assert_eq!(state.map(|word| word[LANES - 1]), alone);
    }
}
