use super::*;
use crate::engine::fuzzing::sample_values;
use crate::meta::{Batch, JournaledStore, MetaSettings, MetaStore, NoData, Reason, Table};
use std::sync::Arc;
use std::time::{Duration, Instant};

fn corpus(target: &str) -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("../fuzz/corpus").join(target)
}

#[test]
fn every_decoder_takes_the_committed_corpus_and_each_of_its_inputs_cut_short() {
    for (name, target) in TARGETS {
        let mut inputs = 0;
        for entry in std::fs::read_dir(corpus(name)).unwrap() {
            let bytes = std::fs::read(entry.unwrap().path()).unwrap();
            let began = Instant::now();
            target(&bytes);
            for cut in [0, 1, 2, bytes.len() / 3, bytes.len() / 2, bytes.len().saturating_sub(1)] {
                target(&bytes[..cut.min(bytes.len())]);
            }
            assert!(began.elapsed() < Duration::from_secs(20), "{name}: an input takes too long");
            inputs += 1;
        }
        assert!(inputs >= 5, "{name}: {inputs} inputs");
    }
}

/// Gives a sample, whole, torn and with a bit flipped, to its target; and writes all three to the corpus if that is wanted.
fn keep(name: &str, sample: &str, parts: &[&[u8]]) {
    let bytes = parts.concat();
    let mut torn = bytes.clone();
    torn.truncate(bytes.len() * 2 / 3);
    let mut flipped = bytes.clone();
    let at = flipped.len() / 2;
    flipped[at] ^= 0x20;
    let (_, target) = TARGETS.iter().find(|(known, _)| *known == name).unwrap();
    for (ending, bytes) in [("", bytes), ("-torn", torn), ("-flipped", flipped)] {
        target(&bytes);
        if std::env::var_os("TIDEGATE_WRITE_CORPUS").is_some() {
            std::fs::create_dir_all(corpus(name)).unwrap();
            std::fs::write(corpus(name).join(format!("{sample}{ending}")), bytes).unwrap();
        }
    }
}

fn only(dir: &Path, ending: &str) -> Vec<u8> {
    let mut found = std::fs::read_dir(dir).unwrap().map(|e| e.unwrap().path());
    let path = found.find(|p| p.extension().is_some_and(|e| e == ending)).unwrap();
    std::fs::read(path).unwrap()
}

/// What real stores make today. With `TIDEGATE_WRITE_CORPUS` set it replaces this part of `fuzz/corpus`, after a format has changed.
#[test]
fn every_decoder_takes_what_real_stores_make() {
    let dir = tempfile::tempdir().unwrap();
    let clock = Arc::new(crate::clock::ManualClock::new(crate::clock::Timestamp(1_800_000_000_000)));
    let settings = MetaSettings { segment_bytes: 4096, fill_ahead_bytes: 0, ..MetaSettings::default() };
    let (store, _) = JournaledStore::open(dir.path(), settings, Arc::new(NoData), Vec::new(), clock).unwrap();
    for (n, (table, value)) in sample_values().into_iter().enumerate() {
        keep("record", &format!("value-{n}"), &[&[table], &value]);
        let key = format!("bkt\0key-{n}").into_bytes();
        store.commit_blocking(Batch::new(Reason::System).put(Table::Object, key, value)).unwrap();
    }
    store.snapshot_now().unwrap();
    store.close().unwrap();
    keep("journal", "segment", &[&[0], &only(&dir.path().join("journal"), "seg")]);
    keep("journal", "sealed", &[&[1, 1, 4, 0, 1, 1, 1, 0, 1, 0, 0, 0, b'k', b'v', 0, 0, 0, 0]]);
    keep("snapshot", "namespace", &[&[0], &only(&dir.path().join("snapshots"), "snap")]);
    keep("snapshot", "sealed", &[&[1, 1, 3, 0, 1, 1, 1, 0, 1, 0, 0, 0, b'k', b'v', 0, 0]]);

    let packs = tempfile::tempdir().unwrap();
    let (local, _) = crate::local::testing::open(packs.path());
    crate::local::testing::put_all(&local, 0..6);
    local.sync().unwrap();
    keep("pack", "open", &[&[0], &only(packs.path(), "open")]);
    local.begin_scrub().unwrap(); // seals
    let sealed = only(packs.path(), "pack");
    keep("pack", "sealed", &[&[0], &sealed]);
    keep("pack", "frame", &[&[1], &sealed[HEADER_LEN..HEADER_LEN + 700]]);
    keep("pack", "footer", &[&[2], &sealed[sealed.len() - TRAILER_LEN - 96..sealed.len() - TRAILER_LEN]]);
    keep("pack", "zstd", &[&[3, 1, 0], &codec::compress(&Bytes::from(vec![7; 65_536]), 1).bytes]);
    local.save_index().unwrap();
    keep("snapshot", "chunks", &[&[2], &only(packs.path(), "snap")]);

    let example = include_str!("../../docs/policies.md");
    let policies = example.split("```yaml\n").skip(1).map(|rest| rest.split("```").next().unwrap_or_default());
    for (n, text) in policies.enumerate() {
        keep("policy", &format!("documented-{n}"), &[text.as_bytes()]);
    }
    keep("policy", "aliases", &[b"a: &a [1, 2]\nb: &b [*a, *a]\nc: [*b, *b]\n"]);
    keep("policy", "deep", &["[".repeat(2_000).as_bytes()]);
}
