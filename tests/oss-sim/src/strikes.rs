//! What a fault does to one exchange: the error it answers with, the damage to the answer's body, the effect on a restore.

use crate::auth;
use crate::error::OssError;
use crate::faults::{CODES_503, Fault, Strike};
use crate::model::Version;
use crate::request::{Reply, ReplyBody, Req};
use crate::send::Damage;
use crate::sim::Sim;

/// The error that a fault answers with, before anything is done. Adds its headers to `extra`.
pub fn refused(req: &Req, strike: &Strike, extra: &mut Vec<(String, String)>) -> Option<OssError> {
    match &strike.fault {
        Fault::Error { status, code, qos_delay_ms } => {
            extra.extend(qos_delay_ms.map(|ms| ("x-oss-qos-delay-time".to_string(), ms.to_string())));
            Some(injected(*status, code, strike.dice))
        }
        Fault::Skew { seconds } => {
            Some(auth::too_skewed(req.now, req.now.saturating_add_signed(seconds.saturating_mul(1000))))
        }
        _ => None,
    }
}

fn injected(status: u16, code: &str, dice: u64) -> OssError {
    let any = CODES_503[(dice % CODES_503.len() as u64) as usize];
    let code = match code {
        "any" => any,
        "InternalError" => "InternalError",
        named => CODES_503.into_iter().find(|c| *c == named).unwrap_or("ServiceUnavailable"),
    };
    OssError::new(status, code, "Please reduce your request rate.").ec("0004-00000302")
}

/// What becomes of the body of a GET's answer.
pub fn damage(sim: &Sim, req: &Req, strike: &Strike, result: &Result<Reply, OssError>) -> Damage {
    let Ok(ReplyBody::Stored { span, .. }) = result.as_ref().map(|reply| &reply.body) else { return Damage::default() };
    if span.len == 0 {
        return Damage::default();
    }
    let at = strike.dice % span.len;
    match strike.fault {
        Fault::Torn => Damage { torn_at: Some(at), flip_at: None },
        Fault::Flip => Damage { torn_at: None, flip_at: Some(at) },
        Fault::ExpireRestore if expire(sim, req) => Damage { torn_at: Some(span.len / 2), flip_at: None },
        _ => Damage::default(),
    }
}

/// Whether a fault other than a damaged request body had an effect: those that need something to harm may find nothing.
pub fn had_effect(sim: &Sim, req: &Req, strike: &Strike, result: &Result<Reply, OssError>, damage: Damage) -> bool {
    match strike.fault {
        Fault::Torn | Fault::Flip | Fault::ExpireRestore => damage.torn_at.is_some() || damage.flip_at.is_some(),
        Fault::SlowRestore { seconds } => result.as_ref().is_ok_and(|r| r.status == 202) && hold_up(sim, req, seconds),
        _ => true,
    }
}

/// Ends the restored copy that a request reads; false when there is none.
fn expire(sim: &Sim, req: &Req) -> bool {
    change_restore(sim, req, |v| {
        let readable = v.restore.as_mut().filter(|r| r.is_readable(req.now));
        readable.map(|restore| restore.expires_at = req.now).is_some()
    })
}

/// Makes the restore that a request has begun take longer.
fn hold_up(sim: &Sim, req: &Req, seconds: u64) -> bool {
    let ms = seconds.saturating_mul(1000);
    change_restore(sim, req, |v| {
        let ongoing = v.restore.as_mut().filter(|r| r.is_ongoing(req.now));
        let held = ongoing.map(|restore| {
            restore.ready_at = restore.ready_at.saturating_add(ms);
            restore.expires_at = restore.expires_at.saturating_add(ms);
        });
        held.is_some()
    })
}

fn change_restore(sim: &Sim, req: &Req, change: impl FnOnce(&mut Version) -> bool) -> bool {
    let mut store = sim.store();
    let Ok(id) = store.find(req).map(|version| version.id) else { return false };
    let (bucket, key) = (req.bucket.as_deref().unwrap_or_default(), req.key.as_deref().unwrap_or_default());
    let mut changed = false;
    // It was found under the same lock.
    let _ = store.update(bucket, key, id, |version| changed = change(version));
    changed
}
