//! One request from the socket to the answer: route, authenticate, roll the dice of the fault plan, dispatch, bill, answer.

use crate::blob;
use crate::clock::http_date;
use crate::error::OssError;
use crate::faults::{Fault, Strike};
use crate::record::Exchange;
use crate::request::{Query, Reply, ReplyBody, Req, header};
use crate::send::{Damage, Source, stream};
use crate::sim::{Sim, lock};
use crate::{auth, bucket, copy, extras, get, list, multipart, objects, ram, restore, routing, strikes};
use bytes::Bytes;
use http::{HeaderName, HeaderValue, Method, Request, Response};
use http_body_util::combinators::UnsyncBoxBody;
use http_body_util::{BodyExt, Full, StreamBody};
use hyper::body::Incoming;
use std::io;
use std::sync::Arc;
use std::time::Duration;

/// The body type of all answers.
pub type OutBody = UnsyncBoxBody<Bytes, io::Error>;

/// How much of an unread request body is read away before an error is answered, so that the client sees the answer rather
/// than a reset connection.
const DRAIN: u64 = 16 << 20;
const DRAIN_TIME: Duration = Duration::from_secs(5);

/// The body of a request, until an operation takes it.
#[derive(Debug)]
pub struct Payload {
    incoming: Option<Incoming>,
    /// The fault plan's number for a byte that is damaged on its way in.
    flip: Option<u64>,
    flipped: bool,
}

impl Payload {
    /// The body itself.
    ///
    /// # Errors
    /// 500 when it was taken before.
    pub fn take(&mut self) -> Result<Incoming, OssError> {
        self.incoming.take().ok_or_else(|| OssError::internal("the body was read twice"))
    }

    /// Which byte of a body of `len` bytes is to be damaged, if any.
    pub fn damaged_at(&mut self, len: u64) -> Option<u64> {
        let at = self.flip.filter(|_| len > 0).map(|dice| dice % len);
        self.flipped |= at.is_some();
        at
    }

    /// The body as a document of at most `limit` bytes.
    ///
    /// # Errors
    /// 400 when it is longer or does not arrive.
    pub async fn document(&mut self, limit: usize) -> Result<Vec<u8>, OssError> {
        blob::receive_document(self.take()?, limit).await
    }

    /// Reads the rest away; true when the client broke it off.
    async fn drain(&mut self, expects_continue: bool) -> bool {
        let Some(mut incoming) = self.incoming.take().filter(|_| !expects_continue) else { return false };
        let all = async {
            let mut read = 0;
            while let Some(frame) = incoming.frame().await {
                let Ok(frame) = frame else { return true };
                read += frame.data_ref().map_or(0, |d| d.len() as u64);
                if read > DRAIN {
                    break;
                }
            }
            false
        };
        // A client that stalls is answered without waiting for it.
        tokio::time::timeout(DRAIN_TIME, all).await.unwrap_or(false)
    }
}

/// The connection ends without an answer.
#[derive(Debug)]
pub struct Reset;

impl std::fmt::Display for Reset {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str("connection reset by the fault plan")
    }
}

impl std::error::Error for Reset {}

/// Serves one request.
///
/// # Errors
/// [`Reset`] when the fault plan ends the connection.
pub async fn serve(sim: Arc<Sim>, request: Request<Incoming>) -> Result<Response<OutBody>, Reset> {
    let now = sim.clock.now();
    crate::lifecycle::catch_up(&sim, now);
    let (parts, incoming) = request.into_parts();
    let mut payload = Payload { incoming: Some(incoming), flip: None, flipped: false };
    let mut answer = Answer {
        request_id: sim.request_id(),
        host: header(&parts.headers, "host").unwrap_or_default(),
        is_head: parts.method == Method::HEAD,
        started: now,
        damage: Damage::default(),
        extra: Vec::new(),
    };
    let expects_continue = parts.headers.contains_key("expect");
    let (result, mut exchange) = match parse(&sim, parts, now) {
        Err(error) => {
            let result = Err(error);
            sim.account("Rejected", &result);
            let exchange = Exchange::of("Rejected", (None, None), &result);
            (result, exchange)
        }
        Ok(mut req) => {
            let op = operation(&req);
            match admit(&sim, &mut req, op) {
                Ok(()) => run(&sim, &req, op, &mut payload, &mut answer).await,
                Err(error) => {
                    let result = Err(error);
                    sim.account(op, &result);
                    let exchange = Exchange::of(op, (req.bucket.as_deref(), req.key.as_deref()), &result);
                    (result, exchange)
                }
            }
        }
    };
    if result.is_err() && exchange.answered {
        exchange.broken_off |= payload.drain(expects_continue).await;
    }
    let answered = exchange.answered;
    sim.record(exchange);
    if !answered {
        return Err(Reset);
    }
    Ok(answer.finish(&sim, result))
}

/// Reads the head.
fn parse(sim: &Sim, parts: http::request::Parts, now: u64) -> Result<Req, OssError> {
    let host = header(&parts.headers, "host").unwrap_or_default();
    let target = routing::route(&host, parts.uri.path(), &sim.region, &sim.cname)?;
    let query = Query::parse(parts.uri.query().unwrap_or_default())?;
    let (method, headers, caller) = (parts.method, parts.headers, String::new());
    Ok(Req { method, bucket: target.bucket, key: target.key, query, headers, host, now, caller })
}

type Outcome = Result<Reply, OssError>;

/// Whether the caller is who it says, and may do this.
fn admit(sim: &Sim, req: &mut Req, op: &str) -> Result<(), OssError> {
    let keys = lock(&sim.keys).clone();
    req.caller = auth::check(req, &keys, &sim.clock, &sim.region)?;
    ram::authorize(sim, req, op)
}

/// Applies faults around the operation itself, accounts for what came of it.
async fn run(
    sim: &Sim,
    req: &Req,
    op: &'static str,
    payload: &mut Payload,
    answer: &mut Answer,
) -> (Outcome, Exchange) {
    let place = (req.bucket.as_deref(), req.key.as_deref());
    let strike = lock(&sim.faults).pick(op, place.0, place.1);
    let fault = strike.as_ref().map(|strike| &strike.fault);
    let name = fault.map(Fault::name);
    if fault == Some(&Fault::ResetBefore) {
        sim.count(op, 0, None);
        let exchange = Exchange { answered: false, fault: name, ..Exchange::reset(op, place) };
        return (Err(OssError::internal("reset")), exchange);
    }
    let result = match strike.as_ref().and_then(|strike| strikes::refused(req, strike, &mut answer.extra)) {
        Some(error) => Err(error),
        None => perform(sim, req, op, payload, (strike.as_ref(), answer)).await,
    };
    let harmed = match &strike {
        None => false,
        Some(strike) => {
            answer.damage = strikes::damage(sim, req, strike, &result);
            payload.flipped || strikes::had_effect(sim, req, strike, &result, answer.damage)
        }
    };
    if let Some(strike) = strike.as_ref().filter(|_| !harmed) {
        lock(&sim.faults).missed(strike);
    }
    sim.account(op, &result);
    let answered = fault != Some(&Fault::ResetAfter);
    let exchange = Exchange { answered, fault: name.filter(|_| harmed), ..Exchange::of(op, place, &result) };
    (result, exchange)
}

/// The operation, held up or given a damaged body when the plan says so.
async fn perform(
    sim: &Sim,
    req: &Req,
    op: &'static str,
    payload: &mut Payload,
    (strike, answer): (Option<&Strike>, &mut Answer),
) -> Outcome {
    match strike {
        Some(Strike { fault: Fault::Slow { delay_ms }, .. }) => {
            answer.extra.push(("x-oss-qos-delay-time".to_string(), delay_ms.to_string()));
            tokio::time::sleep(Duration::from_millis(*delay_ms)).await;
        }
        Some(Strike { fault: Fault::Flip, dice, .. }) => payload.flip = Some(*dice),
        _ => {}
    }
    let result = Box::pin(dispatch(sim, req, op, payload)).await;
    sim.store().check().and(result)
}

/// The name of the operation, as in the vendor's API.
pub fn operation(req: &Req) -> &'static str {
    let has = |name: &str| req.query.has(name);
    let copies = req.headers.contains_key("x-oss-copy-source");
    match (req.method.as_str(), req.bucket.is_some(), req.key.is_some()) {
        ("GET", false, _) => "ListBuckets",
        ("PUT", true, true) if has("uploadId") && copies => "UploadPartCopy",
        ("PUT", true, true) if has("uploadId") => "UploadPart",
        ("PUT", true, true) if has("tagging") => "PutObjectTagging",
        ("PUT", true, true) if has("symlink") => "PutSymlink",
        ("PUT", true, true) if has("acl") => "PutObjectACL",
        ("PUT", true, true) if copies => "CopyObject",
        ("PUT", true, true) => "PutObject",
        ("GET", true, true) if has("uploadId") => "ListParts",
        ("GET", true, true) if has("tagging") => "GetObjectTagging",
        ("GET", true, true) if has("symlink") => "GetSymlink",
        ("GET", true, true) if has("acl") => "GetObjectACL",
        ("GET" | "HEAD", true, true) if has("objectMeta") => "GetObjectMeta",
        ("GET", true, true) => "GetObject",
        ("HEAD", true, true) => "HeadObject",
        ("DELETE", true, true) if has("uploadId") => "AbortMultipartUpload",
        ("DELETE", true, true) if has("tagging") => "DeleteObjectTagging",
        ("DELETE", true, true) => "DeleteObject",
        ("POST", true, true) if has("uploads") => "InitiateMultipartUpload",
        ("POST", true, true) if has("uploadId") => "CompleteMultipartUpload",
        ("POST", true, true) if has("append") => "AppendObject",
        ("POST", true, true) if has("restore") => "RestoreObject",
        ("POST", true, true) if has("cleanRestoredObject") => "CleanRestoredObject",
        ("POST", true, false) if has("delete") => "DeleteMultipleObjects",
        ("HEAD", true, false) => "HeadBucket",
        (method, true, false) => bucket_operation(method, req),
        _ => "Unknown",
    }
}

fn bucket_operation(method: &str, req: &Req) -> &'static str {
    const SUBRESOURCES: &[(&str, [&str; 3])] = &[
        ("versioning", ["GetBucketVersioning", "PutBucketVersioning", "Unknown"]),
        ("lifecycle", ["GetBucketLifecycle", "PutBucketLifecycle", "DeleteBucketLifecycle"]),
        ("bucketArchiveDirectRead", ["GetBucketArchiveDirectRead", "PutBucketArchiveDirectRead", "Unknown"]),
        ("acl", ["GetBucketAcl", "PutBucketAcl", "Unknown"]),
        ("bucketInfo", ["GetBucketInfo", "Unknown", "Unknown"]),
        ("location", ["GetBucketLocation", "Unknown", "Unknown"]),
        ("stat", ["GetBucketStat", "Unknown", "Unknown"]),
        ("uploads", ["ListMultipartUploads", "Unknown", "Unknown"]),
        ("versions", ["ListObjectVersions", "Unknown", "Unknown"]),
    ];
    /// Subresources of buckets that exist at OSS and not here.
    const OTHERS: &[&str] = &[
        "logging",
        "website",
        "referer",
        "cors",
        "policy",
        "encryption",
        "inventory",
        "replication",
        "worm",
        "tagging",
        "requestPayment",
        "qosInfo",
        "transferAcceleration",
        "cname",
        "style",
        "resourceGroup",
        "accessmonitor",
    ];
    let column = match method {
        "GET" => 0,
        "PUT" => 1,
        "DELETE" => 2,
        _ => return "Unknown",
    };
    if let Some((_, names)) = SUBRESOURCES.iter().find(|(name, _)| req.query.has(name)) {
        return names[column];
    }
    if OTHERS.iter().any(|name| req.query.has(name)) {
        return "Unknown";
    }
    match (method, req.query.get("list-type")) {
        ("GET", Some("2")) => "ListObjectsV2",
        ("GET", _) => "ListObjects",
        ("PUT", _) => "PutBucket",
        _ => "DeleteBucket",
    }
}

async fn dispatch(sim: &Sim, req: &Req, op: &str, payload: &mut Payload) -> Outcome {
    match op {
        "PutObject" => objects::put_object(sim, req, payload).await,
        "GetObject" => get::get_object(sim, req),
        "HeadObject" => get::head_object(sim, req),
        "GetObjectMeta" => get::object_meta(sim, req),
        "DeleteObject" => objects::delete_object(sim, req),
        "DeleteMultipleObjects" => objects::delete_many(sim, req, payload).await,
        "CopyObject" => copy::copy_object(sim, req),
        "AppendObject" => extras::append_object(sim, req, payload).await,
        "RestoreObject" => {
            let document = payload.document(64 * 1024).await?;
            restore::restore_object(sim, req, &document)
        }
        "CleanRestoredObject" => restore::clean_restored(sim, req),
        "InitiateMultipartUpload" => multipart::initiate(sim, req),
        "UploadPart" => multipart::upload_part(sim, req, payload).await,
        "UploadPartCopy" => multipart::upload_part_copy(sim, req),
        "CompleteMultipartUpload" => multipart::complete(sim, req, payload).await,
        "AbortMultipartUpload" => multipart::abort(sim, req),
        "ListParts" => multipart::list_parts(sim, req),
        "ListMultipartUploads" => multipart::list_uploads(sim, req),
        "ListObjectsV2" => list::list_v2(sim, req),
        "ListObjects" => list::list_v1(sim, req),
        "ListObjectVersions" => list::list_versions(sim, req),
        "ListBuckets" => list::list_buckets(sim, req),
        "PutObjectTagging" => extras::put_tagging(sim, req, payload).await,
        "GetObjectTagging" => extras::get_tagging(sim, req),
        "DeleteObjectTagging" => extras::delete_tagging(sim, req),
        "PutSymlink" => extras::put_symlink(sim, req),
        "GetSymlink" => extras::get_symlink(sim, req),
        "GetObjectACL" | "GetBucketAcl" => bucket::get_acl(sim, req),
        "PutObjectACL" => sim.store().find(req).map(|v| Reply::empty(200).class(v.class)),
        "PutBucket" => bucket::put_bucket(sim, req, payload).await,
        "DeleteBucket" => bucket::delete_bucket(sim, req),
        "HeadBucket" => bucket::head_bucket(sim, req),
        "PutBucketAcl" => bucket::put_acl(sim, req),
        "GetBucketInfo" => bucket::info(sim, req),
        "GetBucketLocation" => bucket::location(sim, req),
        "GetBucketStat" => bucket::stat(sim, req),
        "PutBucketVersioning" => bucket::put_versioning(sim, req, payload).await,
        "GetBucketVersioning" => bucket::get_versioning(sim, req),
        "PutBucketArchiveDirectRead" => bucket::put_direct_read(sim, req, payload).await,
        "GetBucketArchiveDirectRead" => bucket::get_direct_read(sim, req),
        "PutBucketLifecycle" => bucket::put_lifecycle(sim, req, payload).await,
        "GetBucketLifecycle" => bucket::get_lifecycle(sim, req),
        "DeleteBucketLifecycle" => bucket::delete_lifecycle(sim, req),
        _ => Err(OssError::not_simulated(&format!("{} of this resource in the simulator", req.method))),
    }
}

/// What the answer needs besides the result.
#[derive(Debug)]
struct Answer {
    request_id: String,
    host: String,
    is_head: bool,
    started: u64,
    damage: Damage,
    extra: Vec<(String, String)>,
}

impl Answer {
    fn finish(self, sim: &Sim, result: Outcome) -> Response<OutBody> {
        let now = sim.clock.now();
        let mut headers: Vec<(String, String)> = vec![
            ("server".into(), "AliyunOSS".into()),
            ("x-oss-request-id".into(), self.request_id.clone()),
            ("x-oss-server-time".into(), now.saturating_sub(self.started).min(60_000).to_string()),
            ("date".into(), http_date(now)),
        ];
        headers.extend(self.extra.iter().cloned());
        let (status, body) = match result {
            Ok(reply) => {
                headers.extend(reply.headers);
                let status = http::StatusCode::from_u16(reply.status).unwrap_or(http::StatusCode::OK);
                (status, self.body(reply.body))
            }
            Err(error) => {
                headers.push(("x-oss-ec".into(), error.ec.into()));
                headers.push(("content-type".into(), "application/xml".into()));
                for (name, value) in &error.headers {
                    headers.retain(|(n, _)| n != name);
                    headers.push(((*name).into(), value.clone()));
                }
                if self.is_head {
                    headers.push(("x-oss-err".into(), error.head_header(&self.request_id, &self.host)));
                    (error.status_code(), empty())
                } else {
                    (error.status_code(), full(Bytes::from(error.document(&self.request_id, &self.host))))
                }
            }
        };
        let mut response = Response::new(body);
        *response.status_mut() = status;
        for (name, value) in headers {
            // A stored value that HTTP cannot carry is left out rather than failing the whole answer.
            let name = HeaderName::from_bytes(name.as_bytes());
            let value = HeaderValue::from_bytes(value.as_bytes());
            if let (Ok(name), Ok(value)) = (name, value) {
                response.headers_mut().append(name, value);
            }
        }
        response
    }

    fn body(&self, body: ReplyBody) -> OutBody {
        match body {
            ReplyBody::Bytes(bytes) if !self.is_head => full(bytes),
            ReplyBody::Stored { body, span, gzip } if !self.is_head => {
                let source = Source { body: body.slice(span), at: 0, len: span.len, damage: self.damage };
                StreamBody::new(stream(source, gzip)).boxed_unsync()
            }
            _ => empty(),
        }
    }
}

fn full(bytes: Bytes) -> OutBody {
    Full::new(bytes).map_err(|never| match never {}).boxed_unsync()
}

fn empty() -> OutBody {
    full(Bytes::new())
}
