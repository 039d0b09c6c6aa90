//! A tier of type `s3` on a real S3 server: this one, which checks signatures and keys as strictly as any.

use crate::world::world;
use serde_json::json;
use std::sync::Arc;
use tidegate_tiering::clock::SystemClock;
use tidegate_tiering::tier::{TierSettings, build, contract, probe};

/// More than two parts of an upload, which such a tier begins above 8 MiB.
const LARGE: u64 = (17 << 20) + 5;

#[tokio::test(flavor = "multi_thread")]
async fn a_tier_of_type_s3_keeps_the_contract_on_a_real_server() {
    let world = world().await;
    let settings = |prefix: &str, secret: &str| -> TierSettings {
        serde_json::from_value(json!({
            "type": "s3",
            "endpoint": format!("http://{}", world.address),
            "bucket": "bucket",
            "prefix": prefix,
            "access_key_id": "AK",
            "secret_access_key": secret,
        }))
        .unwrap()
    };
    let clock = || Arc::new(SystemClock::default());
    for prefix in ["", "cold/packs"] {
        let tier = build("cluster", &settings(prefix, "SK"), clock(), &|_| None, None).unwrap();
        contract::run(tier.as_ref(), "c", LARGE).await.unwrap();
        contract::creates_once(tier.as_ref(), "c").await.unwrap();
        tier.delete("c/created").await.unwrap();
        let report = probe::probe(tier.as_ref(), clock().as_ref()).await;
        assert!(report.ok, "{report:?}");
    }
    let stranger = build("cluster", &settings("", "wrong"), clock(), &|_| None, None).unwrap();
    let report = probe::probe(stranger.as_ref(), clock().as_ref()).await;
    assert!(!report.ok && !format!("{report:?}").contains("wrong"), "{report:?}");
}
