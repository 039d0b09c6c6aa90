//! No secret reaches a log, whatever the level: everything that the client and its libraries say while keys of every source are
//! fetched, used, refused and renewed. A file of its own, for the subscriber is the whole process's.
#![allow(clippy::unwrap_used)] // helpers of tests, which clippy does not know as such

mod wire;

use bytes::Bytes;
use std::io::Write;
use std::sync::{Arc, Mutex};
use std::time::Duration;
use tidegate_tiering::clock::{Clock, SystemClock};
use tidegate_tiering::tier::oss::{OssSettings, OssTier, SignatureVersion};
use tidegate_tiering::tier::{Tier, TierMetrics};
use wire::{Recorded, Reply, Server};

/// What was logged.
#[derive(Clone, Default)]
struct Log(Arc<Mutex<Vec<u8>>>);

impl Write for Log {
    fn write(&mut self, bytes: &[u8]) -> std::io::Result<usize> {
        self.0.lock().unwrap().extend_from_slice(bytes);
        Ok(bytes.len())
    }

    fn flush(&mut self) -> std::io::Result<()> {
        Ok(())
    }
}

const GRANT: &str = r#"{"Code":"Success","AccessKeyId":"granted","AccessKeySecret":"SECRET-GRANTED","SecurityToken":"SECRET-TOKEN","Expiration":"2099-01-01T00:00:00Z"}"#;

/// Everything that gives keys, and the store: writes are refused as with a stale key first.
fn answer(number: usize, request: &Recorded) -> Reply {
    match request.target.as_str() {
        "/latest/api/token" => Reply::new(200).body("SECRET-METADATA"),
        target if target.contains("/security-credentials/") || target.contains("SECRET-IN-URI") => {
            Reply::new(200).body(GRANT)
        }
        target if target == "/" || target.contains("Action=") => {
            Reply::new(200).body(format!(r#"{{"Credentials":{GRANT}}}"#))
        }
        _ if number.is_multiple_of(2) => {
            let text = "<Error><Code>SignatureDoesNotMatch</Code><Message>m</Message>\
                        <StringToSign>x-oss-security-token:SECRET-TOKEN</StringToSign></Error>";
            Reply::new(403).body(text)
        }
        _ => Reply::new(200),
    }
}

#[tokio::test]
async fn no_secret_of_any_source_is_logged_at_any_level() {
    let log = Log::default();
    let to = log.clone();
    tracing_subscriber::fmt().with_max_level(tracing::Level::TRACE).with_writer(move || to.clone()).init();
    let server = Server::start(answer).await;
    let folder = tempfile::tempdir().unwrap();
    let token = folder.path().join("oidc");
    std::fs::write(&token, "SECRET-OIDC").unwrap();
    let (address, file) = (&server.address, token.display());
    let fixed = r#"{"source":"static","access_key_id":"id","access_key_secret":"SECRET-STATIC","security_token":"SECRET-TOKEN"}"#;
    let sources = [
        fixed.to_owned(),
        format!(r#"{{"source":"uri","uri":"{address}/?key=SECRET-IN-URI"}}"#),
        format!(r#"{{"source":"ecs_role","role":"r","endpoint":"{address}"}}"#),
        format!(r#"{{"source":"assume_role","role_arn":"r","sts_endpoint":"{address}","base":{fixed}}}"#),
        format!(
            r#"{{"source":"rrsa","role_arn":"r","provider_arn":"p","token_file":"{file}","sts_endpoint":"{address}"}}"#
        ),
        r#"{"source":"uri","uri":"http://127.0.0.1:1/?key=SECRET-IN-URI"}"#.to_owned(),
    ];
    let clock: Arc<dyn Clock> = Arc::new(SystemClock::default());
    for source in &sources {
        for signature in [SignatureVersion::V4, SignatureVersion::V1] {
            let mut settings = OssSettings::new(address, "cn-hangzhou", "bucket");
            settings.credentials = serde_json::from_str(source).unwrap();
            settings.signature = signature;
            settings.max_attempts = 1;
            let metrics = TierMetrics::new("cold", None).unwrap();
            let tier = OssTier::new("cold", &settings, clock.clone(), &|_| None, metrics).unwrap();
            for _ in 0..2 {
                let outcome = tier.put("a", Arc::new(Bytes::from_static(b"x"))).await;
                tracing::info!(?outcome, ?tier, ?settings, "what an operator might log");
            }
            let url = tier.client().presign_get("a", Duration::from_secs(60)).await;
            tracing::info!(signed = url.is_ok(), "a URL");
        }
    }
    let text = String::from_utf8_lossy(&log.0.lock().unwrap()).into_owned();
    assert!(text.contains("what an operator might log") && text.contains("TRACE"), "{} bytes were logged", text.len());
    let told: Vec<&str> = text.lines().filter(|line| line.contains("SECRET-")).collect();
    assert!(told.is_empty(), "{told:#?}");
}
