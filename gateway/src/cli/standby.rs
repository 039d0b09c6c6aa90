//! `tidegate standby`: the directory is made ready, an engine follows in it, and what ends that engine says what comes next.

use super::recover::Progress;
use super::serve::{Ended, Role, Serving, build_tiers, stopped};
use super::{Exit, Failure};
use crate::config::Config;
use crate::output::render;
use std::sync::Arc;
use std::time::Duration;
use tidegate_tiering::clock::Clock;
use tidegate_tiering::engine::FollowEnd;
use tidegate_tiering::recovery::{
    Prepared, RecoveryError, StandbyPhase, StandbyRequest, StandbySettings, finish_promotion, prepare_standby,
    restart_standby,
};

/// What to follow.
#[derive(Debug, Clone)]
pub struct Following {
    /// The tier.
    pub from: String,
    /// The deployment, when the tier has several.
    pub deployment: Option<String>,
}

impl Following {
    /// Whether the configuration allows it. Nothing is made before.
    pub(super) fn check(&self, config: &Config) -> Result<(), Failure> {
        if !config.tiers.contains_key(&self.from) {
            let known: Vec<&str> = config.tiers.keys().map(String::as_str).collect();
            let message = format!("there is no tier {:?}; configured: {}", self.from, known.join(", "));
            return Err(Failure::new(message));
        }
        if config.recovery.as_ref().is_none_or(|recovery| recovery.tier != self.from) {
            let settings = StandbySettings { from: self.from.clone(), ..config.standby.clone() };
            return Err(Failure { exit: Exit::Problems, message: settings.needs_recovery() });
        }
        Ok(())
    }
}

/// How long to wait before a tier is asked again.
const PAUSE: Duration = Duration::from_secs(5);

/// Follows until it is stopped; once promoted, serves as any primary.
pub(super) async fn run(server: &mut Serving<'_>, following: &Following) -> Result<(), Failure> {
    let settings = StandbySettings { from: following.from.clone(), ..server.state.config().standby.clone() };
    let mut again = false;
    loop {
        let prepared = tokio::select! {
            prepared = Box::pin(prepare(server, following, again)) => prepared?,
            () = stopped(server.stop.clone()) => return Ok(()),
        };
        again = true;
        if let Some(rejoined) = &prepared.rejoined {
            server.output.say(rejoined, render::rejoined);
        }
        let data_dir = server.state.config().data_dir.clone();
        let ended = match prepared.phase {
            StandbyPhase::Finishing => Ended::Follow(FollowEnd::Promoted),
            phase => {
                let (settings, resume) = (settings.clone(), phase == StandbyPhase::Promoting);
                server.serve(Role::Standby { settings, resume }).await?
            }
        };
        match ended {
            Ended::Stopped => return Ok(()),
            Ended::Follow(FollowEnd::StartOver(why)) => {
                tracing::warn!(why, "the standby is made anew");
                restart_standby(&data_dir, server.clock.as_ref()).map_err(Failure::new)?;
            }
            Ended::Follow(FollowEnd::Promoted) => {
                finish_promotion(&data_dir, server.clock.as_ref()).map_err(Failure::new)?;
                return server.serve(Role::Primary).await.map(drop);
            }
        }
    }
}

/// Makes the directory ready. A tier that fails is asked again once the standby has run: it is wanted, and was right before.
async fn prepare(server: &Serving<'_>, following: &Following, again: bool) -> Result<Prepared, Failure> {
    let config = server.state.config();
    let clock: Arc<dyn Clock> = Arc::clone(&server.clock) as _;
    let tiers = build_tiers(config, &clock, None)?;
    let request = StandbyRequest {
        from: following.from.clone(),
        tiers: &tiers,
        deployment: following.deployment.clone(),
        data_dir: config.data_dir.clone(),
        settings: config.engine_settings().meta,
        clock,
    };
    loop {
        let progress = Progress::new(server.output);
        match prepare_standby(&request, &mut |at| progress.show(at)).await {
            Err(RecoveryError::Tier(error)) if again => {
                tracing::warn!(%error, "the standby could not be made anew; it will be tried again");
            }
            other => return other.map_err(Failure::new),
        }
        tokio::time::sleep(PAUSE).await;
    }
}
