//! `POST /fsck`: a check whose answer comes as it goes on.

use super::api::{PROGRESS_LINES, State, answer_lines, known_tier, parse_body};
use super::error::{ApiError, ErrorBody};
use super::state::AdminState;
use crate::config::tiers::price_class;
use actix_web::HttpResponse;
use actix_web::web::Bytes;
use serde::{Deserialize, Serialize};
use std::sync::Arc;
use tidegate_tiering::engine::{FsckEstimate, FsckProgress, FsckReport, FsckRequest};

/// One line of the answer to `POST /fsck`: `estimate`, then any number of `progress`, then one of the others. After an estimate that
/// was all that was asked for, nothing comes.
#[derive(Debug, Clone, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum FsckLine {
    /// What it costs.
    Estimate(FsckEstimate),
    /// How far it has come.
    Progress(FsckProgress),
    /// What it found.
    Result(Box<FsckReport>),
    /// Why it ended early.
    Error(ErrorBody),
}

/// Gives the right to check back, however the check ends.
struct Checking(Arc<AdminState>);

impl Drop for Checking {
    fn drop(&mut self) {
        self.0.checked();
    }
}

pub(super) async fn fsck(state: State, body: Bytes) -> Result<HttpResponse, ApiError> {
    let request: FsckRequest = parse_body(&body)?;
    request.tiers.iter().try_for_each(|name| known_tier(&state, name))?;
    let engine = state.engine()?;
    let (asked, shared) = (request.clone(), state.clone().into_inner());
    let class = move |name: &str| shared.config().tiers.get(name).and_then(price_class);
    let estimate = state.blocking(move |engine| engine.fsck_estimate(&asked, class)).await?;
    let (lines, to_client) = tokio::sync::mpsc::channel::<FsckLine>(PROGRESS_LINES);
    // There is room: it is the first.
    let _ = lines.try_send(FsckLine::Estimate(estimate.clone()));
    if request.estimate {
        return Ok(answer_lines(to_client));
    }
    if !state.may_check() {
        return Err(ApiError::busy("a check is running; wait for it"));
    }
    let checking = Checking(state.clone().into_inner());
    state.detach(async move {
        let _checking = checking;
        let progress = lines.clone();
        let tell = move |at| {
            // Full or closed: the client is slow or gone, which must not slow the check.
            let _ = progress.try_send(FsckLine::Progress(at));
        };
        let last = match engine.fsck(&request, estimate, tell).await {
            Ok(report) => {
                tracing::info!(repair = report.repair, remaining = report.remaining, "fsck ended");
                FsckLine::Result(Box::new(report))
            }
            Err(error) => {
                tracing::error!(%error, "fsck failed");
                FsckLine::Error(ApiError::from(error).body())
            }
        };
        let _ = lines.send(last).await;
    });
    Ok(answer_lines(to_client))
}
