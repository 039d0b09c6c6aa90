use super::*;
use proptest::prelude::*;
use std::collections::HashMap;

fn id(n: u64) -> ChunkId {
    ChunkId::of(&n.to_le_bytes())
}

fn place(n: u32) -> Location {
    Location {
        slot: n % (MAX_SLOT + 1),
        offset: n.wrapping_mul(77),
        stored_len: n & 0xff_ffff,
        kind: if n.is_multiple_of(3) { FrameKind::ManifestNode } else { FrameKind::Chunk },
        codec: if n.is_multiple_of(2) { Codec::Zstd } else { Codec::Raw },
        freq: (n % 4) as u8,
        colour: n.is_multiple_of(5),
        cached: n.is_multiple_of(7),
        spared: false,
        doubted: n.is_multiple_of(11),
    }
}

#[test]
fn places_go_round_through_their_11_bytes() {
    for n in [0, 1, 2, 3, 5, 7, 1_000_003, u32::MAX] {
        assert_eq!(Location::from_bits(&place(n).pack_bits()), place(n));
    }
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(40))]
    #[test]
    fn the_index_behaves_as_a_hash_map(ops in prop::collection::vec((0u8..5, 0u64..400, any::<u32>()), 1..3_000)) {
        let index = ChunkIndex::new();
        let mut model: HashMap<ChunkId, Location> = HashMap::new();
        for (op, key, value) in ops {
            // All in one shard, so that its table is exercised.
            let mut key = id(key);
            key.0[0] = 9;
            let mut guard = index.lock(&key);
            match op {
                0..=2 => match guard.find(&key) {
                    Some(at) => { guard.store(at, place(value)); model.insert(key, place(value)); }
                    None => { guard.insert(&key, place(value)).unwrap(); model.insert(key, place(value)); }
                },
                _ => prop_assert_eq!(guard.remove(&key), model.remove(&key)),
            }
            drop(guard);
            prop_assert_eq!(index.get(&key), model.get(&key).copied());
        }
        prop_assert_eq!(index.len(), model.len() as u64);
        for (key, value) in &model {
            prop_assert_eq!(index.get(key), Some(*value));
        }
        let guard = index.lock_shard(9);
        let listed: HashMap<ChunkId, Location> = (0..guard.len()).map(|at| (guard.id(at), guard.location(at))).collect();
        prop_assert_eq!(listed, model);
    }
}

#[test]
fn ids_that_differ_only_outside_the_hashed_bytes_are_told_apart() {
    let index = ChunkIndex::new();
    let mut ids = Vec::new();
    for n in 0..40u8 {
        let mut key = id(1);
        key.0[31] ^= n;
        index.lock(&key).insert(&key, place(u32::from(n))).unwrap();
        ids.push(key);
    }
    for (n, key) in ids.iter().enumerate() {
        assert_eq!(index.get(key), Some(place(n as u32)));
    }
    for key in &ids[..20] {
        index.lock(key).remove(key).unwrap();
    }
    assert!(ids[..20].iter().all(|k| index.get(k).is_none()) && ids[20..].iter().all(|k| index.get(k).is_some()));
}

#[test]
fn a_million_chunks_take_less_than_fifty_bytes_each_and_emptying_gives_memory_back() {
    let index = ChunkIndex::new();
    for n in 0..1_000_000u64 {
        let key = id(n);
        index.lock(&key).insert(&key, place(n as u32)).unwrap();
    }
    let each = index.bytes() as f64 / 1_000_000.0;
    // Half a segment of each shard is unused: up to 2.5 bytes a chunk at this size, next to none at 16 million.
    assert!(each < 50.0, "{each} bytes a chunk");
    for n in 0..1_000_000u64 {
        let key = id(n);
        assert_eq!(index.lock(&key).remove(&key), Some(place(n as u32)));
    }
    assert!(index.is_empty() && index.bytes() < 5_000_000, "{}", index.bytes());
}
