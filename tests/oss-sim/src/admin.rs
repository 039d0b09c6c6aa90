//! The administrator's JSON over HTTP, on its own listener: the clock, the bill, faults, objects, request counts.

use crate::blob::receive_document;
use crate::clock::iso;
use crate::faults::FaultPlan;
use crate::ram::Policy;
use crate::request::Query;
use crate::sim::{Sim, lock};
use bytes::Bytes;
use http::{Method, Request, Response, StatusCode};
use http_body_util::Full;
use hyper::body::Incoming;
use serde::Deserialize;
use serde_json::{Value, json};
use std::convert::Infallible;
use std::sync::Arc;

/// Largest request of an administrator.
const MAX_BODY: usize = 1 << 20;

#[derive(Debug, Deserialize)]
#[serde(deny_unknown_fields)]
struct Advance {
    #[serde(default)]
    seconds: u64,
    #[serde(default)]
    milliseconds: u64,
}

#[derive(Debug, Deserialize)]
#[serde(deny_unknown_fields)]
struct ClockSettings {
    skew_check: bool,
}

/// What an access key may do; everything without a policy.
#[derive(Debug, Deserialize)]
#[serde(deny_unknown_fields)]
struct KeyPolicy {
    access_key: String,
    policy: Option<Policy>,
}

type Answer = Result<Value, (StatusCode, String)>;

/// Serves one request.
///
/// # Errors
/// None.
pub async fn serve(sim: Arc<Sim>, request: Request<Incoming>) -> Result<Response<Full<Bytes>>, Infallible> {
    let (parts, body) = request.into_parts();
    let answer = match receive_document(body, MAX_BODY).await {
        Err(error) => Err((StatusCode::BAD_REQUEST, error.message)),
        Ok(body) => act(&sim, &parts.method, parts.uri.path(), parts.uri.query().unwrap_or_default(), &body),
    };
    let (status, value) = match answer {
        Ok(value) => (StatusCode::OK, value),
        Err((status, message)) => (status, json!({ "error": message })),
    };
    let mut response = Response::new(Full::new(Bytes::from(format!("{value}\n"))));
    *response.status_mut() = status;
    response.headers_mut().insert("content-type", http::HeaderValue::from_static("application/json"));
    Ok(response)
}

fn act(sim: &Sim, method: &Method, path: &str, query: &str, body: &[u8]) -> Answer {
    match (method.as_str(), path) {
        ("GET", "/clock") => Ok(clock(sim, sim.clock.now())),
        ("PUT", "/clock") => {
            let settings: ClockSettings = read(body)?;
            sim.clock.set_skew_check(settings.skew_check);
            Ok(clock(sim, sim.clock.now()))
        }
        ("POST", "/clock/advance") => {
            let by: Advance = read(body)?;
            let ms = by.seconds.saturating_mul(1000).saturating_add(by.milliseconds);
            Ok(clock(sim, sim.advance(ms)))
        }
        ("GET", "/ledger") => to_json(&sim.bill()),
        ("POST", "/ledger/reset") => {
            sim.reset_bill();
            Ok(json!({}))
        }
        ("GET", "/objects") => {
            let query = Query::parse(query).map_err(|e| (StatusCode::BAD_REQUEST, e.message))?;
            let bucket = query.get("bucket").ok_or((StatusCode::BAD_REQUEST, "give ?bucket=NAME".to_string()))?;
            to_json(&sim.objects(bucket))
        }
        ("GET", "/requests") => to_json(&sim.counts()),
        ("POST", "/requests/reset") => {
            lock(&sim.counts).clear();
            Ok(json!({}))
        }
        ("PUT", "/policies") => {
            let KeyPolicy { access_key, policy } = read(body)?;
            if let Some(policy) = &policy {
                policy.check().map_err(|why| (StatusCode::BAD_REQUEST, why))?;
            }
            sim.set_policy(&access_key, policy);
            Ok(json!({}))
        }
        ("GET", "/faults") => to_json(lock(&sim.faults).plan()),
        ("PUT", "/faults") => {
            let plan: FaultPlan = read(body)?;
            lock(&sim.faults).set(plan);
            Ok(json!({}))
        }
        ("DELETE", "/faults") => {
            lock(&sim.faults).set(FaultPlan::default());
            Ok(json!({}))
        }
        _ => Err((StatusCode::NOT_FOUND, format!("there is no {method} {path} here"))),
    }
}

fn clock(sim: &Sim, now: u64) -> Value {
    json!({ "now_ms": now, "now": iso(now), "skew_check": sim.clock.skew_check() })
}

fn read<'a, T: Deserialize<'a>>(body: &'a [u8]) -> Result<T, (StatusCode, String)> {
    serde_json::from_slice(body).map_err(|e| (StatusCode::BAD_REQUEST, e.to_string()))
}

fn to_json<T: serde::Serialize>(value: &T) -> Answer {
    serde_json::to_value(value).map_err(|e| (StatusCode::INTERNAL_SERVER_ERROR, e.to_string()))
}
