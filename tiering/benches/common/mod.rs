//! An engine without tiers and rules, with one bucket.

use std::path::PathBuf;
use std::sync::Arc;
use tidegate_tiering::clock::SystemClock;
use tidegate_tiering::engine::{
    BodyExpectation, BodyIn, Components, Engine, EngineError, EngineSettings, ObjectAttributes, PutObject,
    WriteCondition, Written,
};

pub const BUCKET: &str = "bucket";
const POLICY: &str = "
apiVersion: tidegate/v1
kind: LifecyclePolicy
metadata: { name: none }
rules: []
";

/// Keeps its data in `dir`.
pub async fn open(dir: PathBuf) -> Engine {
    let components = Components {
        clock: Arc::new(SystemClock::default()),
        tiers: [].into(),
        classes: [("STANDARD".to_owned(), "hot".to_owned())].into(),
        policy: tidegate_policies::parse("none", POLICY).unwrap(),
        policy_text: POLICY.to_owned(),
        registry: prometheus::Registry::new(),
    };
    let engine = Engine::open(EngineSettings { data_dir: dir, ..Default::default() }, components).await.unwrap();
    engine.create_bucket(BUCKET).await.unwrap();
    engine
}

pub async fn put(engine: &Engine, key: String, expect: BodyExpectation, body: BodyIn) -> Result<Written, EngineError> {
    let (attributes, condition) = (ObjectAttributes::default(), WriteCondition::default());
    engine.put_object(PutObject { bucket: BUCKET.to_owned(), key, attributes, expect, condition }, body).await
}
