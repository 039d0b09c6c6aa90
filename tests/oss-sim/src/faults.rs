//! The fault plan: what goes wrong, how often, for which operations and keys. Seeded: the same plan and the same order of
//! requests give the same faults.

use serde::{Deserialize, Serialize};

/// The 503 codes of OSS; there is no `SlowDown`.
pub const CODES_503: [&str; 7] = [
    "DownloadTrafficRateLimitExceeded",
    "UploadTrafficRateLimitExceeded",
    "MetaOperationQpsLimitExceeded",
    "TotalQpsLimitExceeded",
    "ActiveRequestLimitExceeded",
    "CpuLimitExceeded",
    "ServiceUnavailable",
];

/// One way to go wrong.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(tag = "kind", rename_all = "snake_case", deny_unknown_fields)]
pub enum Fault {
    /// An error answer before anything is done.
    Error {
        /// HTTP status; 503 when absent.
        #[serde(default = "default_status")]
        status: u16,
        /// One of [`CODES_503`], `InternalError`, or `any` for a random 503 code.
        #[serde(default = "default_code")]
        code: String,
        /// `x-oss-qos-delay-time` in milliseconds.
        #[serde(default)]
        qos_delay_ms: Option<u64>,
    },
    /// The connection ends before the request has an effect.
    ResetBefore,
    /// The request takes effect, the answer is lost.
    ResetAfter,
    /// The connection ends in the middle of a GET's body.
    Torn,
    /// One byte of a body is wrong: of a GET's on its way down, of a write's on its way up (which is then stored).
    Flip,
    /// The request is held for this (real) time; the answer carries `x-oss-qos-delay-time`.
    Slow {
        /// Milliseconds.
        delay_ms: u64,
    },
    /// The server's clock is off for this request: 403 RequestTimeTooSkewed with its own Date.
    Skew {
        /// Seconds by which the server's Date is ahead.
        seconds: i64,
    },
    /// The restored copy expires while it is read: the body is torn and later reads are refused.
    ExpireRestore,
    /// A restore is accepted and takes longer than its documented time.
    SlowRestore {
        /// (Virtual) seconds longer.
        seconds: u64,
    },
}

impl Fault {
    /// Its name in a plan.
    pub fn name(&self) -> &'static str {
        match self {
            Fault::Error { .. } => "error",
            Fault::ResetBefore => "reset_before",
            Fault::ResetAfter => "reset_after",
            Fault::Torn => "torn",
            Fault::Flip => "flip",
            Fault::Slow { .. } => "slow",
            Fault::Skew { .. } => "skew",
            Fault::ExpireRestore => "expire_restore",
            Fault::SlowRestore { .. } => "slow_restore",
        }
    }

    /// Whether it can strike an operation at all: some are about bodies.
    fn concerns(&self, op: &str) -> bool {
        match self {
            Fault::Torn | Fault::ExpireRestore => op == "GetObject",
            Fault::SlowRestore { .. } => op == "RestoreObject",
            Fault::Flip => matches!(op, "GetObject" | "PutObject" | "UploadPart"),
            _ => true,
        }
    }
}

fn default_status() -> u16 {
    503
}

fn default_code() -> String {
    "any".to_string()
}

/// A fault and when it strikes.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct FaultRule {
    /// What happens.
    #[serde(flatten)]
    pub fault: Fault,
    /// Share of matching requests, 0 to 1; always when absent.
    #[serde(default = "always")]
    pub rate: f64,
    /// Only this operation (`PutObject`, `GetObject`, `UploadPart`, …).
    #[serde(default)]
    pub op: Option<String>,
    /// Only this bucket.
    #[serde(default)]
    pub bucket: Option<String>,
    /// Only keys that start so.
    #[serde(default)]
    pub key_prefix: Option<String>,
    /// Let this many matching requests pass first.
    #[serde(default)]
    pub skip: u64,
    /// Strike at most so often; no limit when absent.
    #[serde(default)]
    pub times: Option<u64>,
    /// How often it has struck.
    #[serde(default)]
    pub hits: u64,
}

fn always() -> f64 {
    1.0
}

impl FaultRule {
    /// A fault that strikes every request.
    pub fn new(fault: Fault) -> FaultRule {
        FaultRule { fault, rate: 1.0, op: None, bucket: None, key_prefix: None, skip: 0, times: None, hits: 0 }
    }

    /// The same, for a share of the requests.
    pub fn rate(mut self, rate: f64) -> FaultRule {
        self.rate = rate;
        self
    }

    /// The same, for one operation.
    pub fn op(mut self, op: impl Into<String>) -> FaultRule {
        self.op = Some(op.into());
        self
    }

    /// The same, for one bucket.
    pub fn bucket(mut self, name: impl Into<String>) -> FaultRule {
        self.bucket = Some(name.into());
        self
    }

    /// The same, for keys that start so.
    pub fn key_prefix(mut self, prefix: impl Into<String>) -> FaultRule {
        self.key_prefix = Some(prefix.into());
        self
    }

    /// The same, at most so often.
    pub fn times(mut self, times: u64) -> FaultRule {
        self.times = Some(times);
        self
    }

    fn matches(&self, op: &str, bucket: Option<&str>, key: Option<&str>) -> bool {
        self.fault.concerns(op)
            && self.op.as_deref().is_none_or(|o| o == op)
            && self.bucket.as_deref().is_none_or(|b| Some(b) == bucket)
            && self.key_prefix.as_deref().is_none_or(|p| key.is_some_and(|k| k.starts_with(p)))
            && self.times.is_none_or(|t| self.hits < t)
    }
}

/// What an administrator sets.
#[derive(Debug, Clone, Default, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct FaultPlan {
    /// Seed of the dice.
    #[serde(default)]
    pub seed: u64,
    /// Rules in order: the first that strikes wins.
    #[serde(default)]
    pub rules: Vec<FaultRule>,
}

/// A fault that strikes a request.
#[derive(Debug, Clone, PartialEq)]
pub struct Strike {
    /// What happens.
    pub fault: Fault,
    /// Place of its rule in the plan.
    rule: usize,
    /// A random number for its details.
    pub dice: u64,
}

/// The plan in force.
#[derive(Debug, Default)]
pub struct Faults {
    plan: FaultPlan,
    rolls: u64,
}

impl Faults {
    /// Puts a plan into force.
    pub fn set(&mut self, plan: FaultPlan) {
        self.plan = plan;
        self.rolls = 0;
    }

    /// The plan with its hits.
    pub fn plan(&self) -> &FaultPlan {
        &self.plan
    }

    fn roll(&mut self) -> u64 {
        self.rolls += 1;
        mix(self.plan.seed ^ self.rolls.wrapping_mul(0xD6E8_FEB8_6659_FD93))
    }

    /// What strikes this request, if anything.
    pub fn pick(&mut self, op: &str, bucket: Option<&str>, key: Option<&str>) -> Option<Strike> {
        for i in 0..self.plan.rules.len() {
            if !self.plan.rules[i].matches(op, bucket, key) {
                continue;
            }
            if self.plan.rules[i].skip > 0 {
                self.plan.rules[i].skip -= 1;
                continue;
            }
            let dice = self.roll();
            // 53 bits: every value is exact in a double.
            let share = (dice >> 11) as f64 / (1u64 << 53) as f64;
            if share < self.plan.rules[i].rate {
                self.plan.rules[i].hits += 1;
                return Some(Strike { fault: self.plan.rules[i].fault.clone(), rule: i, dice: mix(dice) });
            }
        }
        None
    }

    /// Takes a strike back that found nothing to harm: no body, or no restored copy.
    pub fn missed(&mut self, strike: &Strike) {
        if let Some(rule) = self.plan.rules.get_mut(strike.rule).filter(|rule| rule.fault == strike.fault) {
            rule.hits = rule.hits.saturating_sub(1);
        }
    }
}

/// SplitMix64's finalizer: a good mixer of 64 bits in three steps.
pub fn mix(seed: u64) -> u64 {
    let mut z = seed.wrapping_add(0x9E37_79B9_7F4A_7C15);
    z = (z ^ (z >> 30)).wrapping_mul(0xBF58_476D_1CE4_E5B9);
    z = (z ^ (z >> 27)).wrapping_mul(0x94D0_49BB_1331_11EB);
    z ^ (z >> 31)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_plan_is_read_from_json_and_strikes_at_its_rate() {
        let text = r#"{"seed":7,"rules":[
            {"kind":"error","code":"CpuLimitExceeded","qos_delay_ms":5,"op":"PutObject","times":1},
            {"kind":"reset_after","rate":0.1,"key_prefix":"x/"}]}"#;
        let mut faults = Faults::default();
        faults.set(serde_json::from_str(text).unwrap());
        assert!(matches!(
            faults.pick("PutObject", None, None),
            Some(Strike { fault: Fault::Error { status: 503, .. }, .. })
        ));
        assert_eq!(faults.pick("PutObject", None, Some("y/")), None);
        let hits = (0..10_000).filter(|_| faults.pick("GetObject", None, Some("x/1")).is_some()).count();
        assert!((900..1100).contains(&hits), "{hits}");
        assert_eq!(faults.plan().rules[1].hits, hits as u64);
    }

    #[test]
    fn the_same_seed_gives_the_same_faults() {
        let run = |seed| {
            let mut faults = Faults::default();
            let rule = FaultRule::new(Fault::ResetBefore).rate(0.5);
            faults.set(FaultPlan { seed, rules: vec![rule] });
            (0..64).map(|_| faults.pick("PutObject", None, None).is_some()).collect::<Vec<_>>()
        };
        assert_eq!(run(1), run(1));
        assert_ne!(run(1), run(2));
    }

    #[test]
    fn unknown_kinds_are_refused() {
        assert!(serde_json::from_str::<FaultPlan>(r#"{"rules":[{"kind":"nope"}]}"#).is_err());
    }
}
