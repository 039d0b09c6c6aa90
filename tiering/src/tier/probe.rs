//! Finding out what a tier can really do.

use super::contract::read;
use super::{Capabilities, RestorePriority, Tier, TierError};
use crate::clock::Clock;
use bytes::Bytes;
use serde::Serialize;
use std::sync::Arc;
use std::time::Instant;

/// One step of a probe.
#[derive(Debug, Clone, PartialEq, Serialize)]
pub struct ProbeStep {
    /// `write`, `head`, `read`, `range`, `list`, `restore`, `delete` or `gone`.
    pub step: &'static str,
    /// It did what it must do.
    pub ok: bool,
    /// How long it took, in milliseconds.
    pub millis: f64,
    /// What was found, or what went wrong.
    pub message: String,
}

/// What a probe found.
#[derive(Debug, Clone, PartialEq, Serialize)]
pub struct ProbeReport {
    /// Every step did what it must do.
    pub ok: bool,
    /// When the probe began.
    pub started: String,
    /// Name of the object that was written and deleted.
    pub object: String,
    /// What the configuration says.
    pub capabilities: Capabilities,
    /// The steps in their order.
    pub steps: Vec<ProbeStep>,
}

/// Bytes of the object that is written.
const PROBE_BYTES: usize = 1024;

struct Probe<'a> {
    tier: &'a dyn Tier,
    name: String,
    body: Bytes,
    /// The version that was written, where the store keeps versions.
    version: Option<String>,
    steps: Vec<ProbeStep>,
}

async fn step(
    steps: &mut Vec<ProbeStep>,
    step: &'static str,
    work: impl Future<Output = Result<String, String>>,
) -> bool {
    let started = Instant::now();
    let result = work.await;
    let millis = started.elapsed().as_secs_f64() * 1000.0;
    let ok = result.is_ok();
    let message = result.unwrap_or_else(|why| why);
    steps.push(ProbeStep { step, ok, millis, message });
    ok
}

impl Probe<'_> {
    async fn step(&mut self, name: &'static str, work: impl Future<Output = Result<String, String>>) -> bool {
        step(&mut self.steps, name, work).await
    }
}

/// Writes a small object, looks at it, reads it whole and in part where that needs no restore, asks for a restore where
/// there are any, and deletes it. Costs a handful of requests; in a class with a minimum duration, also that duration for
/// one object of the smallest billable size. A failed step does not end the probe, except that nothing is read when
/// nothing was written; the object is always deleted.
pub async fn probe(tier: &dyn Tier, clock: &dyn Clock) -> ProbeReport {
    let now = clock.now();
    let salt: u64 = rand::random();
    let name = format!("tidegate-probe/{}-{salt:016x}", now.millis());
    let body: Bytes = (0..PROBE_BYTES).map(|i| (salt.rotate_left(i as u32 % 64) as u8) ^ (i as u8)).collect();
    let capabilities = tier.capabilities();
    let mut probe = Probe { tier, name: name.clone(), body, version: None, steps: Vec::new() };
    if probe.write().await {
        probe.look().await;
        probe.restore(capabilities).await;
        probe.read(capabilities).await;
    }
    probe.delete().await;
    let ok = probe.steps.iter().all(|step| step.ok);
    ProbeReport { ok, started: now.to_string(), object: name, capabilities, steps: probe.steps }
}

fn text(error: TierError) -> String {
    error.to_string()
}

impl Probe<'_> {
    async fn write(&mut self) -> bool {
        let (tier, name, body) = (self.tier, self.name.clone(), self.body.clone());
        let version = &mut self.version;
        let work = async {
            let receipt = tier.put(&name, Arc::new(body)).await.map_err(text)?;
            let mut found = match receipt.crc64 {
                Some(crc64) => format!("{PROBE_BYTES} bytes, CRC-64 {crc64} confirmed"),
                None => format!("{PROBE_BYTES} bytes, no checksum from the store"),
            };
            *version = receipt.version_id;
            if let Some(version) = version {
                found += &format!("; the bucket keeps versions (this is {version}), deletions will name them");
            }
            Ok(found)
        };
        step(&mut self.steps, "write", work).await
    }

    async fn look(&mut self) {
        let (tier, name) = (self.tier, self.name.clone());
        let head = async {
            let meta = tier.head(&name).await.map_err(text)?;
            if meta.size != PROBE_BYTES as u64 {
                return Err(format!("{} bytes are there, {PROBE_BYTES} were written", meta.size));
            }
            Ok(format!("class {}", meta.class.as_deref().unwrap_or("not told")))
        };
        self.step("head", head).await;
        let name = self.name.clone();
        let list = async {
            let found = tier.list(&name, None, 2).await.map_err(text)?;
            if found.len() == 1 { Ok("found".to_owned()) } else { Err(format!("{} objects found", found.len())) }
        };
        self.step("list", list).await;
    }

    async fn restore(&mut self, capabilities: Capabilities) {
        if !capabilities.restore {
            return;
        }
        let (tier, name) = (self.tier, self.name.clone());
        let work = async move {
            let receipt = tier.restore(&name, 1, RestorePriority::Standard).await.map_err(text)?;
            Ok(format!("{receipt:?}"))
        };
        self.step("restore", work).await;
    }

    async fn read(&mut self, capabilities: Capabilities) {
        let (tier, name, body) = (self.tier, self.name.clone(), self.body.clone());
        if !capabilities.online {
            let work = async move {
                match tier.get(&name, 0..1).await {
                    Err(error) if error.is_frozen() => Ok("archived, as it must be".to_owned()),
                    Err(error) => Err(error.to_string()),
                    Ok(_) => Err("the object can be read without a restore; is its class right?".to_owned()),
                }
            };
            self.step("read", work).await;
            return;
        }
        for (step, range) in [("read", 0..PROBE_BYTES), ("range", 100..200)] {
            let (name, wanted) = (name.clone(), body.slice(range.clone()));
            let work = async move {
                let got = read(tier, &name, range.start as u64..range.end as u64).await.map_err(text)?;
                if got == wanted {
                    Ok(format!("{} bytes, equal", got.len()))
                } else {
                    Err("other bytes came".to_owned())
                }
            };
            self.step(step, work).await;
        }
    }

    async fn delete(&mut self) {
        let (tier, name) = (self.tier, self.name.clone());
        let version = self.version.take();
        let deleted = async {
            match &version {
                Some(version) => tier.delete_version(&name, version).await,
                None => tier.delete(&name).await,
            }
            .map(|()| "done".to_owned())
            .map_err(text)
        };
        if !self.step("delete", deleted).await {
            return;
        }
        let name = self.name.clone();
        let gone = async {
            match tier.head(&name).await {
                Err(error) if error.is_not_found() => Ok("gone".to_owned()),
                Err(error) => Err(error.to_string()),
                Ok(_) => Err("it is still there".to_owned()),
            }
        };
        self.step("gone", gone).await;
    }
}

#[cfg(test)]
mod tests {
    use super::super::memory::{MemoryTier, Moment};
    use super::super::{Operation, TierErrorKind};
    use super::*;
    use crate::clock::SystemClock;

    #[tokio::test]
    async fn a_probe_of_a_healthy_tier_is_all_ok_and_leaves_nothing() {
        let tier = MemoryTier::new().unwrap();
        let report = probe(&tier, &SystemClock::default()).await;
        assert!(report.ok, "{report:?}");
        let steps: Vec<&str> = report.steps.iter().map(|s| s.step).collect();
        assert_eq!(steps, ["write", "head", "list", "read", "range", "delete", "gone"]);
        assert!(tier.list("", None, 10).await.unwrap().is_empty());
        assert!(serde_json::to_string(&report).unwrap().contains("\"online\":true"));
    }

    #[tokio::test]
    async fn a_step_that_fails_is_told_and_the_object_is_deleted_all_the_same() {
        let tier = MemoryTier::new().unwrap();
        tier.set_hook(|operation, _, moment| {
            (operation == Operation::GetObject && moment == Moment::Before)
                .then(|| TierError::plain(TierErrorKind::Denied, "GetObject", "", "no permission"))
        });
        let report = probe(&tier, &SystemClock::default()).await;
        assert!(!report.ok);
        let read = report.steps.iter().find(|s| s.step == "read").unwrap();
        assert!(!read.ok && read.message.contains("no permission"));
        assert!(tier.list("", None, 10).await.unwrap().is_empty());
    }
}
