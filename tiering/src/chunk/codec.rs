//! Adaptive compression of single chunks.
//!
//! A histogram of 4 KiB spread over the chunk tells random-looking data (encrypted, compressed, media) for a
//! microsecond or two; only the rest is given to zstd, and its result is kept only when it saves at least 1/16.

use bytes::Bytes;
use serde::{Deserialize, Serialize};
use std::cell::RefCell;
use std::io;
use zstd::bulk::{Compressor, Decompressor};
use zstd::zstd_safe::WriteBuf;

/// How a chunk's bytes are stored. The numbers are on disk: never reuse one.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize)]
#[repr(u8)]
pub enum Codec {
    /// As they are.
    Raw = 0,
    /// One zstd frame.
    Zstd = 1,
}

impl Codec {
    /// The codec of a stored number.
    pub const fn from_u8(n: u8) -> Option<Self> {
        match n {
            0 => Some(Self::Raw),
            1 => Some(Self::Zstd),
            _ => None,
        }
    }
}

/// A chunk as it is stored.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Stored {
    /// How `bytes` came about.
    pub codec: Codec,
    /// The stored bytes; for [`Codec::Raw`] the very buffer that was given.
    pub bytes: Bytes,
}

/// Below this many bytes a zstd frame's own overhead eats the gain.
const MIN_COMPRESS: usize = 128;
/// Chunks shorter than the sample are given to zstd at once.
const MIN_PROBE: usize = PROBE_STRETCHES * PROBE_STRETCH;
/// The probe looks at this many stretches, evenly spread...
const PROBE_STRETCHES: usize = 8;
/// ...of this many bytes.
const PROBE_STRETCH: usize = 512;

thread_local! {
    static COMPRESSOR: RefCell<Option<(i32, Compressor<'static>)>> = const { RefCell::new(None) };
    static DECOMPRESSOR: RefCell<Option<Decompressor<'static>>> = const { RefCell::new(None) };
}

/// Compresses `raw` when it pays. An error inside zstd counts as "does not pay".
pub fn compress(raw: &Bytes, level: i32) -> Stored {
    let mut out = Vec::new();
    match compress_into(raw, level, &mut out) {
        Codec::Raw => Stored { codec: Codec::Raw, bytes: raw.clone() },
        Codec::Zstd => Stored { codec: Codec::Zstd, bytes: Bytes::from(out) },
    }
}

/// As [`compress`], into a buffer that the caller reuses. With [`Codec::Raw`] as answer, `out` holds nothing of use:
/// store `raw` itself.
pub fn compress_into(raw: &[u8], level: i32, out: &mut Vec<u8>) -> Codec {
    out.clear();
    if raw.len() < MIN_COMPRESS || looks_random(raw) {
        return Codec::Raw;
    }
    out.reserve(zstd::zstd_safe::compress_bound(raw.len()));
    let done = COMPRESSOR.with(|cell| -> io::Result<usize> {
        let mut slot = cell.try_borrow_mut().map_err(io::Error::other)?;
        if slot.as_ref().is_none_or(|(l, _)| *l != level) {
            *slot = Some((level, Compressor::new(level)?));
        }
        match slot.as_mut() {
            Some((_, compressor)) => compressor.compress_to_buffer(raw, out),
            None => Err(io::Error::other("no compressor")),
        }
    });
    match done {
        Ok(n) if n < raw.len() - raw.len() / 16 => Codec::Zstd,
        _ => Codec::Raw,
    }
}

/// The raw bytes of a stored chunk: exactly `raw_len` of them, never more memory than that.
///
/// # Errors
/// `InvalidData` when the stored bytes are no zstd frame or do not give exactly `raw_len` bytes.
pub fn decompress(codec: Codec, stored: &Bytes, raw_len: usize) -> io::Result<Bytes> {
    match codec {
        Codec::Raw if stored.len() == raw_len => Ok(stored.clone()),
        Codec::Raw => Err(invalid(format!("raw chunk of {} bytes where {raw_len} were announced", stored.len()))),
        Codec::Zstd => {
            let mut out = Vec::with_capacity(raw_len);
            decompress_zstd(stored, &mut out, raw_len)?;
            Ok(Bytes::from(out))
        }
    }
}

/// As [`decompress`] of a zstd frame, into memory that the caller has: all of `out` is the raw chunk.
///
/// # Errors
/// As [`decompress`].
pub fn decompress_into(stored: &[u8], out: &mut [u8]) -> io::Result<()> {
    let raw_len = out.len();
    decompress_zstd(stored, out, raw_len)
}

fn decompress_zstd<B: WriteBuf + ?Sized>(stored: &[u8], out: &mut B, raw_len: usize) -> io::Result<()> {
    let n = DECOMPRESSOR.with(|cell| -> io::Result<usize> {
        let mut slot = cell.try_borrow_mut().map_err(io::Error::other)?;
        if slot.is_none() {
            *slot = Some(Decompressor::new()?);
        }
        match slot.as_mut() {
            Some(d) => d.decompress_to_buffer(stored, out).map_err(|e| invalid(e.to_string())),
            None => Err(io::Error::other("no decompressor")),
        }
    })?;
    if n == raw_len {
        Ok(())
    } else {
        Err(invalid(format!("zstd chunk gave {n} bytes where {raw_len} were announced")))
    }
}

fn invalid(what: String) -> io::Error {
    io::Error::new(io::ErrorKind::InvalidData, what)
}

/// True when the byte histogram of a sample is as flat as that of random bytes.
///
/// The sum of squared counts of n random bytes is about n + n(n-1)/256; a sample with 7.8 bits of (collision) entropy
/// per byte lies some 15% above. Data of flat bytes with long repeats inside one chunk is missed: rare, and
/// deduplication catches the repeats that are longer than a chunk.
fn looks_random(raw: &[u8]) -> bool {
    if raw.len() < MIN_PROBE {
        return false;
    }
    // Two tables: increments of one byte value in a row would wait for each other.
    let mut counts = [[0u16; 256]; 2];
    let stride = (raw.len() - PROBE_STRETCH) / (PROBE_STRETCHES - 1);
    for i in 0..PROBE_STRETCHES {
        for pair in raw[i * stride..i * stride + PROBE_STRETCH].as_chunks::<2>().0 {
            counts[0][pair[0] as usize] += 1;
            counts[1][pair[1] as usize] += 1;
        }
    }
    let squares: u64 = counts[0].iter().zip(&counts[1]).map(|(a, b)| u64::from(a + b) * u64::from(a + b)).sum();
    let n = (PROBE_STRETCHES * PROBE_STRETCH) as u64;
    let random = n + n * (n - 1) / 256;
    squares < random + random * 15 / 100
}

#[cfg(test)]
mod tests {
    use super::*;

    fn random(len: usize) -> Bytes {
        let mut out = vec![0; len];
        blake3::Hasher::new().update(b"codec").finalize_xof().fill(&mut out);
        Bytes::from(out)
    }

    fn text(len: usize) -> Bytes {
        Bytes::from((0u32..).flat_map(|i| format!("line {i} of the log\n").into_bytes()).take(len).collect::<Vec<u8>>())
    }

    #[test]
    fn text_is_compressed_and_comes_back() {
        for len in [1_000, 40_000, 130_000] {
            let raw = text(len);
            let stored = compress(&raw, 1);
            assert_eq!(stored.codec, Codec::Zstd);
            assert!(stored.bytes.len() < len / 2);
            assert_eq!(decompress(stored.codec, &stored.bytes, len).unwrap(), raw);
        }
    }

    #[test]
    fn random_and_tiny_chunks_are_stored_as_they_are_without_a_copy() {
        for raw in [random(32 << 10), random(4 << 10), random(3_000), random(9_000), text(100), Bytes::new()] {
            let stored = compress(&raw, 1);
            assert_eq!(stored.codec, Codec::Raw);
            assert_eq!(stored.bytes.as_ptr(), raw.as_ptr());
            assert_eq!(decompress(Codec::Raw, &stored.bytes, raw.len()).unwrap(), raw);
        }
    }

    #[test]
    fn a_wrong_announced_length_is_an_error_and_never_more_memory() {
        let raw = text(10_000);
        let stored = compress(&raw, 1);
        assert!(decompress(Codec::Zstd, &stored.bytes, 9_999).is_err());
        assert!(decompress(Codec::Zstd, &stored.bytes, 10_001).is_err());
        assert!(decompress(Codec::Zstd, &raw, 10_000).is_err());
        assert!(decompress(Codec::Raw, &raw, 9_999).is_err());
    }

    #[test]
    fn base64_of_random_bytes_is_not_taken_for_random() {
        use base64::Engine;
        let raw = Bytes::from(base64::engine::general_purpose::STANDARD.encode(random(30_000)));
        assert_eq!(compress(&raw, 1).codec, Codec::Zstd);
    }
}
