//! The paths of the admin listener. Each handler translates; the engine works.

use super::error::{ApiError, ErrorBody};
use super::fsck;
pub use super::fsck::FsckLine;
use super::state::{AdminState, Readiness, Reloaded};
use crate::config::{tiers, units::parse_duration};
use actix_web::web::{Bytes, Data, Json, Path, Query};
use actix_web::{HttpResponse, web};
use futures::StreamExt;
use serde::{Deserialize, Serialize};
use std::convert::Infallible;
use std::sync::Arc;
use std::time::Duration;
use tidegate_tiering::clock::{Clock, Timestamp};
use tidegate_tiering::engine::{
    Engine, GcReport, GcRequest, ObjectStatusReport, PlanReport, PlanRequest, PromoteReport, ReindexProgress,
    RunDueReport, ScrubProgress, ScrubReport, ScrubRequest, SnapshotReport, StatsReport, TierPackReport, TierReport,
};
use tokio::sync::mpsc::error::TrySendError;

/// Lines of progress that may wait for a slow client; more are left out, the result never is.
pub(super) const PROGRESS_LINES: usize = 64;

pub(super) type State = Data<AdminState>;
type Answer<T> = Result<Json<T>, ApiError>;

/// What anybody who reaches the listener may see.
pub fn open(config: &mut web::ServiceConfig) {
    config
        .route("/metrics", web::get().to(metrics))
        .route("/livez", web::get().to(livez))
        .route("/readyz", web::get().to(readyz));
}

/// What shows details or changes something.
pub fn guarded(config: &mut web::ServiceConfig) {
    config
        .route("/stats", web::get().to(stats))
        .route("/object", web::get().to(object))
        .route("/policy", web::get().to(policy))
        .route("/policy/reload", web::post().to(reload))
        .route("/policy/progress", web::get().to(progress))
        .route("/plan", web::post().to(plan))
        .route("/tiers", web::get().to(list_tiers))
        .route("/tiers/{name}", web::get().to(tier))
        .route("/tiers/{name}/packs", web::get().to(tier_packs))
        .route("/tiers/{name}/probe", web::post().to(probe))
        .route("/gc", web::post().to(gc))
        .route("/scrub", web::post().to(scrub))
        .route("/fsck", web::post().to(fsck::fsck))
        .route("/snapshot", web::post().to(snapshot))
        .route("/promote", web::post().to(promote))
        .route("/run-due", web::post().to(run_due))
        .route("/clock", web::get().to(clock))
        .route("/clock/advance", web::post().to(advance))
        .configure(super::users::guarded);
}

async fn metrics(state: State) -> Result<HttpResponse, ApiError> {
    // While the store is being opened there is nothing to refresh; a failure must not hide the other metrics.
    if state.engine().is_ok()
        && let Err(error) = state.blocking(|engine| engine.refresh_metrics()).await
    {
        tracing::warn!(%error, "metrics of the store could not be refreshed");
    }
    let page = state.metrics().render().map_err(|e| ApiError::internal(e.to_string()))?;
    Ok(HttpResponse::Ok().content_type("text/plain; version=0.0.4; charset=utf-8").body(page))
}

async fn livez() -> &'static str {
    "ok\n"
}

async fn readyz(state: State) -> HttpResponse {
    let readiness: Readiness = state.readiness();
    let mut response = if readiness.ready { HttpResponse::Ok() } else { HttpResponse::ServiceUnavailable() };
    response.json(readiness)
}

async fn stats(state: State) -> Answer<StatsReport> {
    state.blocking(|engine| engine.stats()).await.map(Json)
}

/// Names an object.
#[derive(Debug, Clone, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct ObjectName {
    /// Bucket.
    pub bucket: String,
    /// Key.
    pub key: String,
}

async fn object(state: State, name: Query<ObjectName>) -> Answer<ObjectStatusReport> {
    let name = name.into_inner();
    state.blocking(move |engine| engine.object_status(&name.bucket, &name.key)).await.map(Json)
}

/// The policy in force.
#[derive(Debug, Clone, Serialize, Deserialize)]
pub struct PolicyAnswer {
    /// Its source; empty when there is none.
    pub text: String,
    /// How far the evaluation of existing objects has come.
    pub progress: ReindexProgress,
}

async fn policy(state: State) -> Answer<PolicyAnswer> {
    let engine = state.engine()?;
    Ok(Json(PolicyAnswer { text: engine.policy_text(), progress: engine.reindex_progress() }))
}

async fn reload(state: State) -> Answer<Reloaded> {
    state.reload_policy().await.map(Json)
}

async fn progress(state: State) -> Answer<ReindexProgress> {
    Ok(Json(state.engine()?.reindex_progress()))
}

async fn plan(state: State, body: Bytes) -> Answer<PlanReport> {
    let request: PlanRequest = parse_body(&body)?;
    state.blocking(move |engine| engine.plan(&request)).await.map(Json)
}

async fn list_tiers(state: State) -> Answer<Vec<TierReport>> {
    let work = |engine: Engine| engine.tier_names().iter().map(|name| engine.tier_report(name)).collect();
    let mut reports: Vec<TierReport> = state.blocking(work).await?;
    for report in &mut reports {
        complete(&state, report);
    }
    Ok(Json(reports))
}

fn complete(state: &AdminState, report: &mut TierReport) {
    if let Some(settings) = state.config().tiers.get(&report.name) {
        tiers::complete(report, settings);
    }
}

pub(super) fn known_tier(state: &AdminState, name: &str) -> Result<(), ApiError> {
    let tiers = &state.config().tiers;
    if tiers.contains_key(name) {
        return Ok(());
    }
    let known: Vec<&str> = tiers.keys().map(String::as_str).collect();
    Err(ApiError::not_found(format!("there is no tier {name:?}; configured: {}", known.join(", "))))
}

async fn tier(state: State, name: Path<String>) -> Answer<TierReport> {
    known_tier(&state, &name)?;
    let mut report = state.blocking(move |engine| engine.tier_report(&name)).await?;
    complete(&state, &mut report);
    Ok(Json(report))
}

/// Most packs of one page, and how many come when nothing is said.
pub const MAX_PACKS: usize = 10_000;

/// A page of the packs in a tier.
#[derive(Debug, Clone, Default, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct PacksPage {
    /// The last name of the page before.
    pub after: Option<String>,
    /// At most so many.
    pub max: Option<usize>,
}

async fn tier_packs(state: State, name: Path<String>, page: Query<PacksPage>) -> Answer<Vec<TierPackReport>> {
    known_tier(&state, &name)?;
    let max = page.max.unwrap_or(MAX_PACKS).min(MAX_PACKS);
    state.blocking(move |engine| engine.tier_packs(&name, page.after.as_deref(), max)).await.map(Json)
}

/// What a probe of a tier found.
#[derive(Debug, Clone, Serialize, Deserialize)]
pub struct ProbeAnswer {
    /// Name of the tier.
    pub tier: String,
    /// Every step did what it must do.
    pub ok: bool,
    /// Name of the object that was written and deleted.
    pub object: String,
    /// The steps in their order.
    pub steps: Vec<ProbeStepAnswer>,
}

/// One step of a probe.
#[derive(Debug, Clone, Serialize, Deserialize)]
pub struct ProbeStepAnswer {
    /// `write`, `head`, `read`, `range`, `list`, `restore`, `delete` or `gone`.
    pub step: String,
    /// It did what it must do.
    pub ok: bool,
    /// How long it took, in milliseconds.
    pub millis: f64,
    /// What was found, or what went wrong.
    pub message: String,
}

async fn probe(state: State, name: Path<String>) -> Answer<ProbeAnswer> {
    known_tier(&state, &name)?;
    let engine = state.engine()?;
    let shared = state.clone().into_inner();
    let name = name.into_inner();
    let answer = state.spawn(async move {
        let tier = engine.tier(&name)?;
        let report = tidegate_tiering::tier::probe::probe(tier.as_ref(), shared.clock()).await;
        let steps = report
            .steps
            .into_iter()
            .map(|s| ProbeStepAnswer { step: s.step.to_owned(), ok: s.ok, millis: s.millis, message: s.message })
            .collect();
        Ok(ProbeAnswer { tier: name, ok: report.ok, object: report.object, steps })
    });
    answer.await.map(Json)
}

async fn gc(state: State, body: Bytes) -> Answer<GcReport> {
    let request: GcRequest = parse_body(&body)?;
    let engine = state.engine()?;
    state.spawn(async move { engine.gc(request).await }).await.map(Json)
}

async fn snapshot(state: State) -> Answer<SnapshotReport> {
    let engine = state.engine()?;
    state.spawn(async move { engine.snapshot().await }).await.map(Json)
}

async fn promote(state: State) -> Answer<PromoteReport> {
    state.promote().await.map(Json)
}

async fn run_due(state: State) -> Answer<RunDueReport> {
    state.blocking(|engine| engine.run_due_now()).await.map(Json)
}

/// One line of the answer to `POST /scrub`: any number of `progress`, then one of the others.
#[derive(Debug, Clone, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum ScrubLine {
    /// How far it has come.
    Progress(ScrubProgress),
    /// What it found.
    Result(ScrubReport),
    /// Why it ended early.
    Error(ErrorBody),
}

/// Gives the right to scrub back, however the scrub ends.
struct Scrubbing(Arc<AdminState>);

impl Drop for Scrubbing {
    fn drop(&mut self) {
        self.0.scrubbed();
    }
}

async fn scrub(state: State, body: Bytes) -> Result<HttpResponse, ApiError> {
    let request: ScrubRequest = parse_body(&body)?;
    let engine = state.engine()?;
    if !state.may_scrub() {
        return Err(ApiError::busy("a scrub is running; wait for it"));
    }
    let scrubbing = Scrubbing(state.clone().into_inner());
    let (lines, to_client) = tokio::sync::mpsc::channel::<ScrubLine>(PROGRESS_LINES);
    state.detach(async move {
        let _scrubbing = scrubbing;
        let progress = lines.clone();
        let outcome = engine
            .scrub(request, move |at| {
                // Full: the client is slow, which must not slow the scrub. Closed: it is gone, and with it the wish.
                !matches!(progress.try_send(ScrubLine::Progress(at)), Err(TrySendError::Closed(_)))
            })
            .await;
        let last = match outcome {
            Ok(report) => {
                let ScrubReport { complete, chunks, damaged_total, repaired, lost, .. } = report;
                tracing::info!(complete, chunks, damaged_total, repaired, lost, "scrub ended");
                ScrubLine::Result(report)
            }
            Err(error) => {
                tracing::error!(%error, "scrub failed");
                ScrubLine::Error(ApiError::from(error).body())
            }
        };
        let _ = lines.send(last).await;
    });
    Ok(answer_lines(to_client))
}

/// An answer of JSON lines, as they come.
pub(super) fn answer_lines<T: Serialize + 'static>(mut lines: tokio::sync::mpsc::Receiver<T>) -> HttpResponse {
    let stream = futures::stream::poll_fn(move |context| lines.poll_recv(context)).map(|line| {
        let mut text = serde_json::to_vec(&line).unwrap_or_default();
        text.push(b'\n');
        Ok::<_, Infallible>(Bytes::from(text))
    });
    HttpResponse::Ok().content_type("application/x-ndjson").streaming(stream)
}

/// What the clock shows.
#[derive(Debug, Clone, Copy, Serialize, Deserialize)]
pub struct ClockAnswer {
    /// Now, in milliseconds since the epoch.
    pub now: Timestamp,
    /// How far it was moved since the start, in milliseconds; only known after moving it.
    pub offset_ms: Option<u64>,
}

async fn clock(state: State) -> Json<ClockAnswer> {
    Json(ClockAnswer { now: state.clock().now(), offset_ms: None })
}

/// By how much to move the clock: one of the two.
#[derive(Debug, Clone, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Advance {
    /// A duration such as `30d`.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub by: Option<String>,
    /// Milliseconds.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub ms: Option<u64>,
}

/// A hundred years: more is a mistake, and far from overflow.
const MAX_ADVANCE: Duration = Duration::from_secs(100 * 365 * 86_400);

async fn advance(state: State, body: Bytes) -> Answer<ClockAnswer> {
    if !state.config().debug.adjustable_clock {
        let message =
            "the clock of this server cannot be moved; debug.adjustable_clock: true allows it (never in production)";
        return Err(ApiError::forbidden(message));
    }
    let by = match parse_body(&body)? {
        Advance { by: Some(text), ms: None } => parse_duration(&text).map_err(ApiError::invalid)?,
        Advance { by: None, ms: Some(ms) } => Duration::from_millis(ms),
        _ => return Err(ApiError::invalid("give one of by (such as \"30d\") and ms")),
    };
    if by > MAX_ADVANCE {
        return Err(ApiError::invalid("the clock moves by at most 36500d at once"));
    }
    let offset = state.clock().advance(by).map_err(|e| ApiError::internal(format!("keep the clock's offset: {e}")))?;
    tracing::warn!(by_ms = by.as_millis(), now = %state.clock().now(), "the clock was moved");
    let offset_ms = u64::try_from(offset.as_millis()).ok();
    Ok(Json(ClockAnswer { now: state.clock().now(), offset_ms }))
}

/// An empty body means the defaults. The content type does not matter: `curl -d` sends none that is right.
pub(super) fn parse_body<T: serde::de::DeserializeOwned>(body: &[u8]) -> Result<T, ApiError> {
    let body = if body.iter().all(u8::is_ascii_whitespace) { b"{}" } else { body };
    serde_json::from_slice(body).map_err(|e| ApiError::invalid(format!("the body is not what is expected here: {e}")))
}
