//! A standby becomes the primary: take what was shipped, fence who ships, take what was shipped meanwhile, and decide which
//! record is the last that is not its own. The rest is done to the closed directory (`recovery/standby.rs`).

use super::{Core, Failed, Follow, FollowEnd, Work};
use crate::clock::Timestamp;
use crate::engine::error::EngineError;
use crate::failpoint;
use crate::meta::MetaStore;
use crate::recovery::RecoveryError;
use crate::recovery::claim::{Claimant, held_term};
use crate::recovery::standby::{StandbyPhase, State};
use serde::{Deserialize, Serialize};
use std::sync::Arc;
use std::time::Duration;

/// How often the tier is asked again once the primary is fenced.
const ATTEMPTS: u32 = 10;
const BETWEEN: Duration = Duration::from_millis(500);

/// What a promotion came to.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(default)]
pub struct PromoteReport {
    /// The term that was claimed.
    pub term: u64,
    /// The last record that came from the primary before.
    pub last_sequence: u64,
    /// When it was written, where the process has seen it come: later changes are lost.
    pub until: Option<Timestamp>,
    /// What was shipped and could not be taken, because pieces before it are not there: it is lost.
    pub gap: Option<String>,
    /// From the command to the first moment in which writes were taken, in milliseconds.
    pub took_ms: u64,
}

fn failed(e: &RecoveryError) -> EngineError {
    match e {
        RecoveryError::Refused(_) => EngineError::InvalidArgument(e.to_string()),
        _ => EngineError::Unavailable(e.to_string()),
    }
}

/// A primary that cannot write a record must not take the place of one that can.
fn check_room(core: &Core) -> Result<(), RecoveryError> {
    let (free, least) = (core.local.budget().free_bytes(), core.settings.meta.least_free_bytes);
    // 0: the system does not say.
    if free == 0 || free >= least {
        return Ok(());
    }
    Err(RecoveryError::Local(format!(
        "{free} bytes are free on the disk of {}, and a primary needs {least} (journal.least_free_bytes): nobody was fenced; make room \
         and ask again",
        core.settings.data_dir.display()
    )))
}

impl crate::engine::Engine {
    /// Decides that this standby becomes the primary, and fences the one before. [`Engine::follow_ended`] resolves then: the
    /// engine is to be closed, the directory finished, and opened as any other. With `resume`, only a promotion that a crash
    /// cut short goes on, if its claim is still the last one.
    ///
    /// [`Engine::follow_ended`]: crate::engine::Engine::follow_ended
    ///
    /// # Errors
    /// `InvalidArgument` when this is no standby; `Unavailable` when the tier does not answer: ask again.
    pub async fn promote(&self, resume: bool) -> Result<PromoteReport, EngineError> {
        let Some(follow) = self.core.follow.clone() else {
            return Err(EngineError::InvalidArgument(
                "this server is no standby: there is nothing to promote".to_owned(),
            ));
        };
        follow.promote(&self.core, resume).await.map_err(|e| failed(&e))
    }
}

impl Follow {
    async fn promote(&self, core: &Arc<Core>, resume: bool) -> Result<PromoteReport, RecoveryError> {
        // Nothing is followed from here on but by this.
        let mut work = self.work.lock().await;
        if let Some(end) = self.end.borrow().clone() {
            return Err(RecoveryError::Refused(match end {
                FollowEnd::Promoted => "the promotion is on its way".to_owned(),
                FollowEnd::StartOver(why) => format!("the standby is made anew, ask again after that: {why}"),
            }));
        }
        let dir = &core.settings.data_dir;
        let mut state =
            State::load(dir)?.ok_or_else(|| RecoveryError::Local(format!("{} is no standby's", dir.display())))?;
        let claimant = Claimant {
            tier: self.tier.as_ref(),
            deployment: &core.deployment,
            data_dir: dir,
            clock: core.clock.as_ref(),
            by: "promote",
        };
        let owned = claimant.holds_last().await? == Some(true);
        if resume && !owned {
            state.phase = StandbyPhase::Following;
            state.save(dir)?;
            return Err(RecoveryError::Refused(
                "the promotion that was cut short had not claimed the term yet, or another store claimed it since: this stays a \
                 standby"
                    .to_owned(),
            ));
        }
        if !resume {
            // Before anybody is fenced: a tier that does not answer promotes nobody.
            match self.look(core, &mut work).await {
                Ok(()) | Err(Failed::Gap(_)) => {}
                Err(e) => return Err(e.into()),
            }
            check_room(core)?;
            state.phase = StandbyPhase::Promoting;
            state.save(dir)?;
            failpoint::hit("promote.after_intent");
        }
        // Also where the last claim is its own: of one that a crash cut short it is not noted that it worked.
        claimant.claim(!owned).await?;
        failpoint::hit("promote.after_claim");
        let gap = self.last_look(core, &mut work).await?;
        state.phase = StandbyPhase::Finishing;
        state.last = Some(core.meta.last_seq());
        state.save(dir)?;
        failpoint::hit("promote.after_decision");
        self.end.send_replace(Some(FollowEnd::Promoted));
        let until = self.newest.load(std::sync::atomic::Ordering::Acquire);
        Ok(PromoteReport {
            term: held_term(dir)?,
            last_sequence: core.meta.last_seq(),
            until: (until > 0).then_some(Timestamp(until)),
            gap,
            took_ms: 0,
        })
    }

    /// What was shipped before the claim. The primary is fenced: giving up at once would leave nobody who may write. Returns
    /// the gap, where one stays.
    async fn last_look(&self, core: &Arc<Core>, work: &mut Work) -> Result<Option<String>, RecoveryError> {
        let mut attempt = 0;
        loop {
            match self.look(core, work).await {
                Ok(()) => return Ok(None),
                Err(Failed::Gap(what)) if attempt >= ATTEMPTS => return Ok(Some(what)),
                Err(e) if attempt >= ATTEMPTS || self.end.borrow().is_some() => return Err(e.into()),
                Err(_) => attempt += 1,
            }
            tokio::time::sleep(BETWEEN).await;
        }
    }
}
