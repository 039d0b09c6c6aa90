//! The decoders of everything that is read from disk, for the fuzz targets in `fuzz/` and the test that runs them over the
//! committed corpus. Only with the feature `fuzzing`; nothing of the product uses it.
//!
//! Bytes behind a checksum would never be reached by chance. So the first byte of an input chooses between the file as it is,
//! and bytes that get the right checksums here.

use crate::chunk::{Codec, codec};
use crate::engine::fuzzing as engine;
use crate::journal::{self, SEGMENT_HEADER_BYTES, SegmentHeader, parse_ops, segment_name};
use crate::meta::fuzzing as meta;
use crate::pack::format::{FRAME_HEADER_LEN, HEADER_LEN, PackHeader, TRAILER_LEN, Trailer, decode_frame};
use crate::pack::reader::{read_sealed, scan};
use crate::pack::{PackClass, PackId};
use bytes::Bytes;
use std::fs::File;
use std::io::{self, Write};
use std::path::{Path, PathBuf};

/// A target: how its folder in the corpus is called, and what decodes an input.
pub type Target = (&'static str, fn(&[u8]));

/// All targets.
pub const TARGETS: [Target; 5] =
    [("journal", journal), ("pack", pack), ("snapshot", snapshot), ("record", record), ("policy", policy)];

/// A folder of this process, in memory where there is one.
fn scratch() -> PathBuf {
    let memory = Path::new("/dev/shm");
    let root = if memory.is_dir() { memory.to_owned() } else { std::env::temp_dir() };
    root.join(format!("tidegate-fuzz-{}-{:?}", std::process::id(), std::thread::current().id()))
}

/// Gives `work` a folder with one file; the folder goes afterwards.
fn with_file(name: &str, bytes: &[u8], work: impl FnOnce(&Path) -> io::Result<()>) {
    let folder = scratch();
    let run = || {
        std::fs::create_dir_all(&folder)?;
        let path = folder.join(name);
        File::create(&path)?.write_all(bytes)?;
        work(&path)
    };
    // Without a place for files nothing is tried: a corpus that ran nowhere is noticed by its test, which writes there too.
    let _ = run();
    let _ = std::fs::remove_dir_all(&folder);
}

/// Cuts `len` bytes off, as far as there are any.
fn take<'a>(data: &mut &'a [u8], len: usize) -> &'a [u8] {
    let (head, rest) = data.split_at(len.min(data.len()));
    *data = rest;
    head
}

fn byte(data: &mut &[u8]) -> u8 {
    take(data, 1).first().copied().unwrap_or_default()
}

/// Segments of the journal: 0 a file as it is, else records with the right checksums, and a torn end.
pub fn journal(mut data: &[u8]) {
    let mut file = Vec::new();
    if byte(&mut data) == 0 {
        file.extend_from_slice(data);
    } else {
        file.extend_from_slice(&SegmentHeader { first_seq: 1, epoch: 1, created_ms: 0 }.to_bytes());
        let mut seq = 1;
        while data.len() > 3 {
            let (ops, len) = (byte(&mut data), usize::from(byte(&mut data)) << 2 | usize::from(byte(&mut data)) & 3);
            let body = take(&mut data, len);
            journal::sealed_record(&mut file, seq, u32::from(ops), body);
            seq += 1;
            let _ = parse_ops(body, u32::from(ops));
        }
        file.extend_from_slice(data);
    }
    let first = file.first_chunk::<SEGMENT_HEADER_BYTES>().and_then(|head| SegmentHeader::parse(head).ok());
    let first = first.map_or(1, |header| header.first_seq);
    with_file(&segment_name(first), &file, |path| {
        let folder = path.parent().unwrap_or(path);
        let mut visit = |header: &journal::RecordHeader, body: &[u8]| {
            let _ = parse_ops(body, header.ops);
            Ok(())
        };
        let _ = journal::read_from(folder, first, &mut visit);
        Ok(())
    });
}

/// Packs: 0 a file as it is, sealed and as one that was open; 1 a frame with the right checksum; 2 a footer with the right
/// checksums behind a header; else a compressed chunk.
pub fn pack(mut data: &[u8]) {
    match byte(&mut data) {
        0 => pack_file(data),
        1 => {
            let mut frame = data.to_vec();
            if let Some((head, rest)) = frame.split_first_chunk_mut::<FRAME_HEADER_LEN>() {
                head[..4].copy_from_slice(b"TGFR");
                head[6..8].fill(0);
                head[12..16].copy_from_slice(&u32::try_from(rest.len()).unwrap_or(u32::MAX).to_le_bytes());
                let crc = crc32fast::hash(&head[..FRAME_HEADER_LEN - 4]);
                head[FRAME_HEADER_LEN - 4..].copy_from_slice(&crc.to_le_bytes());
            }
            if let Ok((header, frame)) = decode_frame(&Bytes::from(frame)) {
                let _ = frame.verify(&header.id);
            }
        }
        2 => {
            let id = PackId([7; 16]);
            let mut file = PackHeader { id, class: PackClass::Hot, created_ms: 0 }.encode().to_vec();
            file.extend_from_slice(data);
            let count = u32::try_from(data.len() / 48).unwrap_or(u32::MAX);
            let mut trailer = Vec::with_capacity(TRAILER_LEN);
            for number in [count, count.saturating_mul(48), crc32fast::hash(&data[data.len() % 48..])] {
                trailer.extend_from_slice(&number.to_le_bytes());
            }
            trailer.extend_from_slice(&id.0);
            trailer.extend_from_slice(&crc32fast::hash(&trailer).to_le_bytes());
            trailer.extend_from_slice(b"TGPKEND\n");
            let _ = Trailer::decode(&trailer).and_then(|t| t.decode_entries(&data[data.len() % 48..]).map(drop));
            file.extend_from_slice(&trailer);
            pack_file(&file);
        }
        codec => {
            let raw_len = usize::from(byte(&mut data)) << 16 | usize::from(byte(&mut data)) << 8;
            let codec = Codec::from_u8(codec & 1).unwrap_or(Codec::Zstd);
            if let Ok(raw) = codec::decompress(codec, &Bytes::copy_from_slice(data), raw_len) {
                assert_eq!(raw.len(), raw_len);
            }
        }
    }
}

fn pack_file(bytes: &[u8]) {
    let named = bytes.first_chunk::<HEADER_LEN>().and_then(|head| PackHeader::decode(head).ok());
    let id = named.map_or(PackId([7; 16]), |header| header.id);
    with_file("one.pack", bytes, |path| {
        let file = File::open(path)?;
        let _ = read_sealed(&file, id);
        if let Ok(found) = scan(&file, id) {
            // What it takes for whole frames lies in the file, one behind the other.
            let mut end = HEADER_LEN as u64;
            for entry in &found.entries {
                assert!(u64::from(entry.offset) >= end);
                end = u64::from(entry.offset) + entry.header().frame_len();
            }
            assert!(end <= found.valid_end && found.valid_end <= bytes.len().max(HEADER_LEN) as u64);
        }
        Ok(())
    });
}

/// Snapshots: 0 one of the namespace as it is, 1 one whose blocks get the right checksums; else one of the chunk index.
pub fn snapshot(mut data: &[u8]) {
    match byte(&mut data) {
        0 => with_file("one.snap", data, |path| {
            meta::read_snapshot(path);
            Ok(())
        }),
        1 => {
            let mut blocks = Vec::new();
            while data.len() > 3 {
                let (count, len) =
                    (byte(&mut data), usize::from(byte(&mut data)) << 2 | usize::from(byte(&mut data)) & 3);
                blocks.push((u32::from(count), take(&mut data, len)));
            }
            with_file("one.snap", &meta::sealed_snapshot(&blocks), |path| {
                meta::read_snapshot(path);
                Ok(())
            });
        }
        _ => with_file("index.snap", data, |path| {
            crate::local::read_index_snapshot(path.parent().unwrap_or(path));
            Ok(())
        }),
    }
}

/// Stored records, by the first byte: the values of the namespace's tables, their keys, and manifest nodes.
pub fn record(mut data: &[u8]) {
    engine::decode_value(byte(&mut data), data);
}

/// A lifecycle policy.
pub fn policy(data: &[u8]) {
    if let Ok(text) = std::str::from_utf8(data) {
        let _ = tidegate_policies::parse("policy.yaml", text);
    }
}

#[cfg(test)]
#[path = "fuzzing_tests.rs"]
mod tests;
