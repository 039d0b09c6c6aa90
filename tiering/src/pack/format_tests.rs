use super::*;
use crate::meta::Table;
use proptest::prelude::*;

fn sample() -> (PackHeader, FrameHeader, &'static [u8]) {
    let payload = b"hello";
    let header = PackHeader { id: PackId(*b"0123456789abcdef"), class: PackClass::Hot, created_ms: 1_767_225_600_000 };
    let frame =
        FrameHeader { kind: FrameKind::Chunk, codec: Codec::Raw, raw_len: 5, stored_len: 5, id: ChunkId::of(payload) };
    (header, frame, payload)
}

fn sample_pack() -> Vec<u8> {
    let (header, frame, payload) = sample();
    let mut pack = header.encode().to_vec();
    pack.extend_from_slice(&frame.encode());
    pack.extend_from_slice(payload);
    pack.extend(encode_footer(header.id, &[FooterEntry::of(&frame, HEADER_LEN as u32)]).unwrap());
    pack
}

/// Version 1, byte by byte. This sample must stay readable for ever: never change it, add one for a new version.
#[rustfmt::skip]
const SAMPLE_V1: &str = concat!(
    "54475041434b310a", // header: "TGPACK1\n"
    "01000000", // version 1, class 0 (hot), reserved
    "30313233343536373839616263646566", // pack id
    "00a8da769b010000", // created, ms
    "eae39070", // CRC-32 of the 36 bytes before
    "54474652", // frame: "TGFR"
    "01000000", // kind 1, codec 0, flags
    "0500000005000000", // raw length 5, stored length 5
    "ea8f163db38682925e4491c5e58d4bb3506ef8c14eb78a86e908c5624a67200f", // BLAKE3 of "hello"
    "7a686522", // CRC-32 of the 48 bytes before
    "68656c6c6f", // "hello"
    "ea8f163db38682925e4491c5e58d4bb3506ef8c14eb78a86e908c5624a67200f", // footer entry: id
    "280000000500000005000000", // offset 40, stored length, raw length
    "01000000", // kind 1, codec 0, reserved
    "0100000030000000", // trailer: 1 entry, 48 bytes of entries
    "b2f3d355", // CRC-32 of the entries
    "30313233343536373839616263646566", // pack id
    "0a85f1f0", // CRC-32 of the 28 bytes before
    "5447504b454e440a", // "TGPKEND\n"
);

#[test]
fn the_sample_pack_of_version_1_stays_as_it_is() {
    let pack = sample_pack();
    assert_eq!(hex::encode(&pack), SAMPLE_V1);
}

/// Version 2, byte by byte, as version 1 above: a chunk, and a frame that tells of bucket `b` and of its object `k`.
#[rustfmt::skip]
const SAMPLE_V2: &str = concat!(
    "54475041434b310a", // header: "TGPACK1\n"
    "02000300", // version 2, class 3 (remote), reserved
    "30313233343536373839616263646566", // pack id
    "00a8da769b010000", // created, ms
    "35091980", // CRC-32 of the 36 bytes before
    "54474652", // frame: "TGFR"
    "01000000", // kind 1, codec 0, flags
    "0500000005000000", // raw length 5, stored length 5
    "ea8f163db38682925e4491c5e58d4bb3506ef8c14eb78a86e908c5624a67200f", // BLAKE3 of "hello"
    "7a686522", // CRC-32 of the 48 bytes before
    "68656c6c6f", // "hello"
    "54474652", // frame: "TGFR"
    "03000000", // kind 3, codec 0, flags
    "7300000073000000", // raw length 115, stored length 115
    "510fc658733638b542362c647c8fff42b771b5b23fa0c61ddb618cda18da1413", // BLAKE3 of what follows
    "d0cefc6a", // CRC-32 of the 48 bytes before
    "0201010002000000", // operation: table Bucket, writes, key of 1 byte, value of 2
    "62", // key: "b"
    "0101", // value: record of version 1, created at 1
    "030103005d000000", // operation: table Object, writes, key of 3 bytes, value of 93
    "62006b", // key: "b", NUL, "k"
    "02", // value: record of version 2, cold in tier "ia", without restore job, places in the due index and manifest
    "0705203564343134303261626334623261373662393731396439313130313763353932010200000000000000000000",
    "000001ea8f163db38682925e4491c5e58d4bb3506ef8c14eb78a86e908c5624a67200f05010269610000000000",
    "ea8f163db38682925e4491c5e58d4bb3506ef8c14eb78a86e908c5624a67200f", // footer entry: id
    "280000000500000005000000", // offset 40, stored length, raw length
    "01000000", // kind 1, codec 0, reserved
    "510fc658733638b542362c647c8fff42b771b5b23fa0c61ddb618cda18da1413", // footer entry: id
    "610000007300000073000000", // offset 97, stored length, raw length
    "03000000", // kind 3, codec 0, reserved
    "0200000060000000", // trailer: 2 entries, 96 bytes of entries
    "664a7743", // CRC-32 of the entries
    "30313233343536373839616263646566", // pack id
    "b208ce62", // CRC-32 of the 28 bytes before
    "5447504b454e440a", // "TGPKEND\n"
);

#[test]
fn the_sample_pack_of_version_2_stays_as_it_is_and_tells_of_its_object() {
    let pack = Bytes::from(hex::decode(SAMPLE_V2).unwrap());
    let (hot, hello, payload) = sample();
    let header = PackHeader { class: PackClass::Remote, ..hot };
    let (id, entries) = decode_footer(&pack).unwrap();
    assert_eq!((PackHeader::decode(&pack).unwrap(), id), (header, header.id));
    let at = entries[1].offset as usize;
    let (telling, frame) = decode_frame(&pack.slice(at..at + FRAME_HEADER_LEN + 115)).unwrap();
    assert_eq!((telling, telling.kind), (entries[1].header(), FrameKind::Manifests));
    let raw = frame.verify(&telling.id).unwrap();
    let mut told = Vec::new();
    crate::engine::manifests::each_told(&raw, |table, key, value| {
        told.push((table, key.to_vec(), value.len()));
        Ok::<(), crate::engine::EngineError>(())
    })
    .unwrap();
    assert_eq!(told, [(Table::Bucket, b"b".to_vec(), 2), (Table::Object, b"b\0k".to_vec(), 93)]);
    let mut again = header.encode().to_vec();
    for (header, payload) in [(hello, payload), (telling, &raw[..])] {
        again.extend_from_slice(&header.encode());
        again.extend_from_slice(payload);
    }
    again.extend(encode_footer(id, &entries).unwrap());
    assert_eq!(hex::encode(again), SAMPLE_V2);
}

#[test]
fn a_pack_of_a_version_to_come_is_refused_by_number() {
    let mut bytes = hex::decode(SAMPLE_V2).unwrap();
    bytes[8] = 3;
    let crc = crc32fast::hash(&bytes[..36]);
    bytes[36..40].copy_from_slice(&crc.to_le_bytes());
    let error = PackHeader::decode(&bytes).unwrap_err().to_string();
    assert!(error.contains("format version 3, this program reads up to 2"), "{error}");
}

#[test]
fn a_pack_goes_round() {
    let (header, frame, payload) = sample();
    let pack = Bytes::from(sample_pack());
    assert_eq!(PackHeader::decode(&pack).unwrap(), header);
    let (id, entries) = decode_footer(&pack).unwrap();
    assert_eq!(id, header.id);
    assert_eq!(entries, [FooterEntry::of(&frame, HEADER_LEN as u32)]);
    let at = entries[0].offset as usize;
    let (h, f) = decode_frame(&pack.slice(at..at + FRAME_HEADER_LEN + 5)).unwrap();
    assert_eq!(h, frame);
    assert_eq!(f.verify(&h.id).unwrap(), payload);
}

#[test]
fn a_changed_byte_anywhere_in_a_pack_is_noticed() {
    let good = sample_pack();
    let frame_end = HEADER_LEN + FRAME_HEADER_LEN + 5;
    for at in 0..good.len() {
        for bit in [1u8, 0x80] {
            let mut bad = good.clone();
            bad[at] ^= bit;
            let bad = Bytes::from(bad);
            let noticed = if at < HEADER_LEN {
                PackHeader::decode(&bad).is_err()
            } else if at < frame_end {
                decode_frame(&bad.slice(HEADER_LEN..frame_end)).and_then(|(h, f)| f.verify(&h.id)).is_err()
            } else {
                decode_footer(&bad).is_err()
            };
            assert!(noticed, "byte {at} bit {bit}");
        }
    }
}

#[test]
fn every_truncation_of_a_frame_or_footer_is_noticed() {
    let good = Bytes::from(sample_pack());
    let frame_end = HEADER_LEN + FRAME_HEADER_LEN + 5;
    for end in HEADER_LEN..frame_end {
        assert!(decode_frame(&good.slice(HEADER_LEN..end)).is_err());
    }
    for end in 0..good.len() {
        assert!(decode_footer(&good[..end]).is_err());
    }
}

#[test]
fn ids_of_packs_sort_by_creation() {
    let ids: Vec<PackId> = (0..100).map(|i| PackId::fresh(1_000 + i / 10)).collect();
    assert!(ids.windows(2).all(|w| w[0] < w[1]));
    assert_eq!(ids[3].to_string().parse::<PackId>().unwrap(), ids[3]);
}

proptest! {
    #[test]
    fn footers_go_round(entries in prop::collection::vec(
        (any::<[u8; 32]>(), any::<u32>(), 0..(1u32 << 24), 0..(1u32 << 24), any::<bool>(), any::<bool>()), 0..50)
    ) {
        let entries: Vec<FooterEntry> = entries
            .into_iter()
            .map(|(id, offset, stored_len, raw_len, node, zstd)| FooterEntry {
                id: ChunkId(id),
                offset,
                stored_len,
                raw_len,
                kind: if node { FrameKind::ManifestNode } else { FrameKind::Chunk },
                codec: if zstd { Codec::Zstd } else { Codec::Raw },
            })
            .collect();
        let id = PackId([7; 16]);
        let mut bytes = b"anything before".to_vec();
        bytes.extend(encode_footer(id, &entries).unwrap());
        prop_assert_eq!(decode_footer(&bytes).unwrap(), (id, entries));
    }
}
