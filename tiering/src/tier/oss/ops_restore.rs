//! Restores of archived objects.

use super::call::Call;
use super::client::Client;
use super::settings::StorageClass;
use crate::tier::error::TierError;
use crate::tier::metrics::Operation;
use crate::tier::{RestorePriority, RestoreReceipt};
use reqwest::Method;

/// Longest period of a restored copy, in days: of class Archive, and of the colder ones.
const MAX_DAYS_ARCHIVE: u32 = 7;
const MAX_DAYS_COLDER: u32 = 365;

/// The document that asks for a restore. The service has no priorities for class Archive and refuses the element; it has
/// no Bulk for DeepColdArchive, whose slowest is Standard.
fn document(class: StorageClass, days: u32, priority: RestorePriority) -> String {
    let max = if class == StorageClass::Archive { MAX_DAYS_ARCHIVE } else { MAX_DAYS_COLDER };
    let days = days.clamp(1, max);
    let tier = match (class, priority) {
        (StorageClass::ColdArchive, RestorePriority::Bulk) => Some("Bulk"),
        (StorageClass::ColdArchive | StorageClass::DeepColdArchive, RestorePriority::Expedited) => Some("Expedited"),
        (StorageClass::ColdArchive | StorageClass::DeepColdArchive, _) => Some("Standard"),
        _ => None,
    };
    let parameters = tier.map(|t| format!("<JobParameters><Tier>{t}</Tier></JobParameters>")).unwrap_or_default();
    format!(
        "<?xml version=\"1.0\" encoding=\"UTF-8\"?><RestoreRequest><Days>{days}</Days>{parameters}</RestoreRequest>"
    )
}

impl Client {
    /// RestoreObject of an object of `class`. Days beyond what the class allows (7, or 365) are cut to it.
    ///
    /// # Errors
    /// See [`TierError`].
    pub async fn restore_object(
        &self,
        name: &str,
        class: StorageClass,
        days: u32,
        priority: RestorePriority,
    ) -> Result<RestoreReceipt, TierError> {
        let call = Call::new(Operation::RestoreObject, Method::POST, Some(name))
            .query("restore", "")
            .document(document(class, days, priority))
            .once();
        match self.send(&call).await {
            Ok(answer) if answer.status.as_u16() == 202 => Ok(RestoreReceipt::Started),
            Ok(_) => Ok(RestoreReceipt::AlreadyRestored),
            Err(error) if error.details().code == "RestoreAlreadyInProgress" => Ok(RestoreReceipt::AlreadyRunning),
            Err(error) if error.details().code == "OperationNotSupported" => Ok(RestoreReceipt::NotNeeded),
            Err(error) => Err(error),
        }
    }

    /// CleanRestoredObject: drops the restored copy before its time. An object without one counts as done.
    ///
    /// # Errors
    /// See [`TierError`]; `Invalid` while the restore is still running.
    pub async fn clean_restored_object(&self, name: &str) -> Result<(), TierError> {
        let call = Call::new(Operation::CleanRestoredObject, Method::POST, Some(name)).query("cleanRestoredObject", "");
        match self.send(&call).await {
            Err(error) if error.details().code != "ArchiveRestoreFileStale" => Err(error),
            _ => Ok(()),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn each_class_gets_the_days_and_priorities_that_it_knows() {
        let body = |class, days, priority| document(class, days, priority);
        assert!(!body(StorageClass::Archive, 3, RestorePriority::Expedited).contains("JobParameters"));
        assert!(body(StorageClass::Archive, 30, RestorePriority::Bulk).contains("<Days>7</Days>"));
        assert!(body(StorageClass::ColdArchive, 30, RestorePriority::Bulk).contains("<Tier>Bulk</Tier>"));
        assert!(body(StorageClass::DeepColdArchive, 0, RestorePriority::Bulk).contains("<Tier>Standard</Tier>"));
        assert!(body(StorageClass::DeepColdArchive, 0, RestorePriority::Expedited).contains("<Days>1</Days>"));
    }
}
