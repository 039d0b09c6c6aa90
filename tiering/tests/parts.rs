//! Uploads of very many parts, plain and encrypted with a client's key.
#![allow(clippy::unwrap_used)]

mod common;

use bytes::Bytes;
use common::Bed;
use futures::StreamExt;
use std::sync::Arc;
use tidegate_tiering::engine::{
    BodyExpectation, CompleteUpload, CompletedPart, CreateUpload, CustomerKey, Encryption, Engine, EngineError,
    ObjectAttributes, UploadPart, WriteCondition,
};
use tidegate_tiering::tier::memory::MemoryTier;

const PARTS: u32 = 10_000;

fn bytes_of(number: u32) -> Vec<u8> {
    // Lengths of all sorts, so that stretches begin anywhere within a block.
    (0..number % 37).map(|n| (number.wrapping_mul(31) + n) as u8).collect()
}

async fn upload(engine: &Engine, key: &str, customer: Option<&CustomerKey>) {
    let encryption = customer.map(Encryption::customer).transpose().unwrap();
    let attributes = ObjectAttributes { encryption, ..Default::default() };
    let create = CreateUpload { bucket: "bkt".into(), key: key.into(), attributes, checksum: None };
    let id = engine.create_upload(create).await.unwrap();
    let parts = futures::stream::iter(1..=PARTS).map(async |number| {
        let body = bytes_of(number);
        let expect =
            BodyExpectation { length: Some(body.len() as u64), customer_key: customer.cloned(), ..Default::default() };
        let part = UploadPart { bucket: "bkt".into(), key: key.into(), upload_id: id.clone(), number, expect };
        let body = futures::stream::iter([Ok(Bytes::from(body))]).boxed();
        let info = engine.upload_part(part, body).await.unwrap();
        CompletedPart { number, etag: info.etag, checksum: None }
    });
    let parts = parts.buffered(128).collect().await;
    let complete = CompleteUpload {
        bucket: "bkt".into(),
        key: key.into(),
        upload_id: id,
        parts,
        expect_checksum: None,
        expect_size: None,
        condition: WriteCondition::default(),
    };
    let written = engine.complete_upload(complete).await.unwrap();
    assert!(written.etag.ends_with("-10000"));
}

async fn read(engine: &Engine, key: &str, customer: Option<&CustomerKey>, range: std::ops::Range<u64>) -> Vec<u8> {
    let mut object = engine.open_object("bkt", key).unwrap();
    object.unlock(customer.cloned()).unwrap();
    let pieces: Vec<_> = object.read(range).await.unwrap().collect().await;
    pieces.into_iter().flat_map(|piece| piece.unwrap().to_vec()).collect()
}

#[tokio::test(flavor = "multi_thread")]
async fn ten_thousand_parts_make_an_object_that_is_read_anywhere_with_its_key_only() {
    let dir = tempfile::tempdir().unwrap();
    let mut bed = Bed::new(dir.path(), Arc::new(MemoryTier::new().unwrap()));
    bed.settings.limits.min_part_bytes = 0;
    let engine = bed.open().await;
    engine.create_bucket("bkt").await.unwrap();
    let whole: Vec<u8> = (1..=PARTS).flat_map(bytes_of).collect();
    let size = whole.len() as u64;
    let key = CustomerKey::new([5; 32]);
    for (name, customer) in [("plain", None), ("sealed", Some(&key))] {
        upload(&engine, name, customer).await;
        assert!(read(&engine, name, customer, 0..size).await == whole, "{name}");
        for (start, end) in [(0, 1), (17, 300), (size / 2, size / 2 + 5_000), (size - 1, size), (size, size)] {
            let expected = &whole[start as usize..end as usize];
            assert_eq!(read(&engine, name, customer, start..end).await, expected, "{name} {start}..{end}");
        }
        let object = engine.open_object("bkt", name).unwrap();
        let third = object.part_range(3_000).unwrap();
        assert_eq!(read(&engine, name, customer, third).await, bytes_of(3_000));
    }
    let sealed = engine.open_object("bkt", "sealed").unwrap();
    assert!(matches!(sealed.read(0..1).await, Err(EngineError::InvalidRequest(_))));
    engine.shutdown().await.unwrap();
}
