//! One request from the socket to the answer: route, authenticate, roll the dice of the fault plan, dispatch, bill, answer.

use crate::blob;
use crate::clock::http_date;
use crate::error::OssError;
use crate::faults::{CODES_503, Fault};
use crate::request::{Query, Reply, ReplyBody, Req, header};
use crate::send::{Damage, Source, stream};
use crate::sim::{Sim, lock};
use crate::{auth, bucket, copy, extras, get, list, multipart, objects, ram, restore, routing};
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
pub struct Payload(Option<Incoming>);

impl Payload {
    /// The body itself.
    ///
    /// # Errors
    /// 500 when it was taken before.
    pub fn take(&mut self) -> Result<Incoming, OssError> {
        self.0.take().ok_or_else(|| OssError::internal("the body was read twice"))
    }

    /// The body as a document of at most `limit` bytes.
    ///
    /// # Errors
    /// 400 when it is longer or does not arrive.
    pub async fn document(&mut self, limit: usize) -> Result<Vec<u8>, OssError> {
        blob::receive_document(self.take()?, limit).await
    }

    async fn drain(&mut self, expects_continue: bool) {
        let Some(mut incoming) = self.0.take().filter(|_| !expects_continue) else { return };
        let all = async {
            let mut read = 0;
            while let Some(Ok(frame)) = incoming.frame().await {
                read += frame.data_ref().map_or(0, |d| d.len() as u64);
                if read > DRAIN {
                    break;
                }
            }
        };
        // A client that stalls is answered without waiting for it.
        let _ = tokio::time::timeout(DRAIN_TIME, all).await;
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
    let mut payload = Payload(Some(incoming));
    let mut answer = Answer {
        request_id: sim.request_id(),
        host: header(&parts.headers, "host").unwrap_or_default(),
        is_head: parts.method == Method::HEAD,
        started: now,
        damage: Damage::default(),
        extra: Vec::new(),
    };
    let expects_continue = parts.headers.contains_key("expect");
    let result = match parse(&sim, parts, now) {
        Err(error) => {
            sim.account("Rejected", &Err(error.clone()));
            Err(error)
        }
        Ok(req) => {
            let op = operation(&req);
            match ram::authorize(&sim, &req, op) {
                Ok(()) => run(&sim, &req, op, &mut payload, &mut answer).await?,
                Err(error) => {
                    sim.account(op, &Err(error.clone()));
                    Err(error)
                }
            }
        }
    };
    if result.is_err() {
        payload.drain(expects_continue).await;
    }
    Ok(answer.finish(&sim, result))
}

/// Reads and authenticates.
fn parse(sim: &Sim, parts: http::request::Parts, now: u64) -> Result<Req, OssError> {
    let host = header(&parts.headers, "host").unwrap_or_default();
    let target = routing::route(&host, parts.uri.path(), &sim.region, &sim.cname)?;
    let query = Query::parse(parts.uri.query().unwrap_or_default())?;
    let caller = String::new();
    let (method, headers) = (parts.method, parts.headers);
    let mut req = Req { method, bucket: target.bucket, key: target.key, query, headers, host, now, caller };
    let keys = lock(&sim.keys).clone();
    req.caller = auth::check(&req, &keys, &sim.clock, &sim.region)?;
    Ok(req)
}

type Outcome = Result<Reply, OssError>;

/// Applies faults around the operation itself.
async fn run(
    sim: &Sim,
    req: &Req,
    op: &'static str,
    payload: &mut Payload,
    answer: &mut Answer,
) -> Result<Outcome, Reset> {
    let fault = lock(&sim.faults).pick(op, req.bucket.as_deref(), req.key.as_deref());
    let mut lost = false;
    match &fault {
        Some((Fault::ResetBefore, _)) => {
            *lock(&sim.counts).entry((op.to_string(), 0)).or_default() += 1;
            return Err(Reset);
        }
        Some((Fault::Error { status, code, qos_delay_ms }, dice)) => {
            let error = injected(*status, code, *dice);
            answer.extra.extend(qos_delay_ms.map(|ms| ("x-oss-qos-delay-time".to_string(), ms.to_string())));
            let result = Err(error);
            sim.account(op, &result);
            return Ok(result);
        }
        Some((Fault::Skew { seconds }, _)) => {
            let server = req.now.saturating_add_signed(seconds.saturating_mul(1000));
            let result = Err(auth::too_skewed(req.now, server));
            sim.account(op, &result);
            return Ok(result);
        }
        Some((Fault::Slow { delay_ms }, _)) => {
            answer.extra.push(("x-oss-qos-delay-time".to_string(), delay_ms.to_string()));
            tokio::time::sleep(Duration::from_millis(*delay_ms)).await;
        }
        Some((Fault::ResetAfter, _)) => lost = true,
        _ => {}
    }
    let mut result = Box::pin(dispatch(sim, req, op, payload)).await;
    if let Err(error) = sim.store().check() {
        result = Err(error);
    }
    sim.account(op, &result);
    if lost {
        return Err(Reset);
    }
    if let (Some((fault, dice)), Ok(reply)) = (&fault, &result) {
        answer.damage = damage(sim, req, fault, *dice, reply);
    }
    Ok(result)
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

fn damage(sim: &Sim, req: &Req, fault: &Fault, dice: u64, reply: &Reply) -> Damage {
    let ReplyBody::Stored { span, .. } = &reply.body else { return Damage::default() };
    if span.len == 0 {
        return Damage::default();
    }
    let at = dice % span.len;
    match fault {
        Fault::Torn => Damage { torn_at: Some(at), flip_at: None },
        Fault::Flip => Damage { torn_at: None, flip_at: Some(at) },
        Fault::ExpireRestore => {
            let mut store = sim.store();
            let Ok(version) = store.find(req) else { return Damage::default() };
            if !version.restore.as_ref().is_some_and(|r| r.is_readable(req.now)) {
                return Damage::default();
            }
            let (id, key) = (version.id, req.key.clone().unwrap_or_default());
            let end = |v: &mut crate::model::Version| {
                if let Some(restore) = &mut v.restore {
                    restore.expires_at = req.now;
                }
            };
            // It was found under the same lock.
            let _ = store.update(req.bucket.as_deref().unwrap_or_default(), &key, id, end);
            Damage { torn_at: Some(span.len / 2), flip_at: None }
        }
        _ => Damage::default(),
    }
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
