//! What a standby that was promoted is worth: once, beside the first requests, it is looked which bytes were on the disks of
//! the primary before and nowhere else. A recovery does the same before it ends.

use super::Core;
use super::error::EngineError;
use super::examine::{Examination, Examined};
use crate::recovery::RecoveryError;
use crate::recovery::local as failed_at;
use crate::recovery::standby::{PROMOTED_MISSING, Promoted};
use std::fs::File;
use std::io::{BufWriter, Write};
use std::sync::Arc;
use std::time::Duration;

/// How long to wait after a failure.
const PAUSE: Duration = Duration::from_secs(30);

impl Core {
    /// Starts the examination when one is due.
    pub(crate) fn start_examination(self: &Arc<Self>) -> Result<(), EngineError> {
        let promoted =
            Promoted::load(&self.settings.data_dir).map_err(|e| EngineError::InvalidArgument(e.to_string()))?;
        let Some(promoted) = promoted.filter(|promoted| promoted.examined.is_none()) else { return Ok(()) };
        let core = Arc::clone(self);
        self.jobs.spawn(async move { core.examine_promoted(promoted).await });
        Ok(())
    }

    async fn examine_promoted(self: Arc<Self>, promoted: Promoted) {
        while !self.stop.is_cancelled() && !self.is_fenced() {
            let (core, runtime) = (Arc::clone(&self), self.runtime.clone());
            // On a thread of its own: it reads local packs, and what hears of the findings is bound to one thread.
            let task = self.runtime.spawn_blocking(move || {
                runtime.block_on(async {
                    tokio::select! {
                        found = core.what_came() => found.map(Some),
                        () = core.stop.cancelled() => Ok(None),
                    }
                })
            });
            let outcome = task.await.unwrap_or_else(|e| Err(RecoveryError::Local(format!("examine: {e}"))));
            let saved = outcome.and_then(|found| match found {
                Some(found) => {
                    tracing::info!(?found, "the promoted namespace was examined");
                    Promoted { examined: Some(found), ..promoted.clone() }.save(&self.settings.data_dir)
                }
                None => Ok(()),
            });
            match saved {
                Ok(()) => return,
                // Nothing waits there: the next start looks again.
                Err(error) if self.settings.driven => {
                    tracing::warn!(%error, "the promoted namespace was not examined");
                    return;
                }
                Err(error) => tracing::warn!(%error, "the promoted namespace was not examined; it will be tried again"),
            }
            tokio::select! {
                () = self.stop.cancelled() => {}
                () = tokio::time::sleep(PAUSE) => {}
            }
        }
    }

    async fn what_came(&self) -> Result<Examined, RecoveryError> {
        let path = self.settings.data_dir.join(PROMOTED_MISSING);
        let failed = |e: std::io::Error| failed_at("write", &path, &e);
        let mut out = BufWriter::new(File::create(&path).map_err(failed)?);
        let mut lost = |object: &super::examine::MissingObject| {
            let line = serde_json::to_string(object).map_err(|e| RecoveryError::Local(e.to_string()))?;
            writeln!(out, "{line}").map_err(failed)
        };
        let mut examination = Examination::new(&self.meta, &self.tiers, &self.deployment, true);
        examination.local = Some(&self.local);
        examination.run(&mut lost, &mut |_| {}).await?;
        out.flush().and_then(|()| out.get_ref().sync_all()).map_err(failed)?;
        Ok(examination.found)
    }
}
