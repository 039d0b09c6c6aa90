//! URLs that `aliyun-oss-rust-sdk` signs, by our wrapper and by itself, are accepted by the simulator. Needs the feature
//! `oss-sdk`, which `tests/run` switches on for this file alone.
#![cfg(feature = "oss-sdk")]
#![allow(clippy::unwrap_used)] // helpers of tests, which clippy does not know as such

use aliyun_oss_rust_sdk::oss::OSS;
use aliyun_oss_rust_sdk::request::RequestBuilder;
use aliyun_oss_rust_sdk::url::UrlApi;
use oss_sim::{AccessKey, Class, OssSim};
use std::sync::Arc;
use std::time::Duration;
use tidegate_tiering::clock::{Clock, SystemClock};
use tidegate_tiering::tier::oss::credentials::CredentialsSpec;
use tidegate_tiering::tier::oss::{OssSettings, OssTier, StorageClass};
use tidegate_tiering::tier::secret::Secret;
use tidegate_tiering::tier::{Tier, TierMetrics};

const BUCKET: &str = "cold-bucket";
const MINUTE: Duration = Duration::from_secs(60);

async fn simulator() -> oss_sim::Running {
    let sim = OssSim::builder().bucket(BUCKET, Class::Standard).access_key("ak", "sk").start().await.unwrap();
    let (id, secret) = ("temporary".into(), "sk".into());
    sim.sim().put_key(AccessKey { id, secret, token: Some("a token/+=".into()), expires: None });
    sim
}

fn tier(endpoint: &str, key: &str, token: Option<&str>) -> OssTier {
    let mut settings = OssSettings::new(endpoint, "cn-hangzhou", BUCKET);
    settings.prefix = "tide/x".into();
    settings.storage_class = StorageClass::IA;
    settings.credentials = CredentialsSpec::Static {
        access_key_id: key.into(),
        access_key_secret: Secret::new("sk"),
        security_token: token.map(Secret::new),
    };
    let clock: Arc<dyn Clock> = Arc::new(SystemClock::default());
    OssTier::new("cold", &settings, clock, &|_| None, TierMetrics::new("cold", None).unwrap()).unwrap()
}

#[tokio::test]
async fn urls_of_the_wrapper_read_and_write_until_they_expire() {
    let http = reqwest::Client::builder().no_proxy().build().unwrap();
    for (key, token) in [("ak", None), ("temporary", Some("a token/+="))] {
        let sim = simulator().await;
        let tier = tier(&sim.endpoint(), key, token);
        for name in ["plain", "p +%?#&ü/k", "x/../y"] {
            let (url, headers) = tier.client().sdk_presign_put(name, MINUTE).await.unwrap();
            let put = headers.iter().fold(http.put(&url).body("by url"), |put, (name, value)| put.header(name, value));
            let answer = put.send().await.unwrap();
            assert_eq!(answer.status(), 200, "{name}: {}", answer.text().await.unwrap());
            let bare = http.put(&url).body("without the headers").send().await.unwrap();
            assert_eq!(bare.status(), 403, "the headers are part of what was signed");
            let url = tier.client().sdk_presign_get(name, MINUTE).await.unwrap();
            assert_eq!(http.get(&url).send().await.unwrap().text().await.unwrap(), "by url");
            assert_eq!(tier.head(name).await.unwrap().class.as_deref(), Some("IA"));
            let other = url.replace("Signature=", "Signature=A");
            assert_eq!(http.get(&other).send().await.unwrap().status(), 403);
        }
        let url = tier.client().sdk_presign_get("plain", MINUTE).await.unwrap();
        sim.advance_seconds(120);
        assert_eq!(http.get(&url).send().await.unwrap().status(), 403);
    }
}

#[tokio::test]
async fn the_validity_has_bounds() {
    let tier = tier("http://127.0.0.1:1", "ak", None);
    for seconds in [0, 604_801] {
        let error = tier.client().sdk_presign_get("a", Duration::from_secs(seconds)).await.unwrap_err();
        assert!(error.to_string().contains(&seconds.to_string()), "{error}");
    }
}

#[tokio::test]
async fn urls_that_the_crate_makes_on_its_own_are_accepted_too() {
    let sim = simulator().await;
    // Its addresses are virtual-hosted: with the simulator as proxy they arrive as they are.
    let proxy = reqwest::Proxy::http(sim.endpoint()).unwrap();
    let http = reqwest::Client::builder().proxy(proxy).build().unwrap();
    let sdk = OSS::new("ak", "sk", "oss-cn-hangzhou.aliyuncs.com", BUCKET);
    let build = RequestBuilder::new().with_http().with_expire(60).with_content_type("text/plain");
    let url = sdk.sign_upload_url("folder/a b+c.txt", &build);
    let put = http.put(&url).header("content-type", "text/plain").body("theirs");
    let answer = put.send().await.unwrap();
    assert_eq!(answer.status(), 200, "{}", answer.text().await.unwrap());
    let build = RequestBuilder::new().with_http().with_expire(60);
    let url = sdk.sign_download_url("folder/a b+c.txt", &build);
    assert_eq!(http.get(&url).send().await.unwrap().text().await.unwrap(), "theirs");
}
