//! The policies of users: where they come from, and that they can be read.

use crate::auth::policy::PolicyDocument;
use crate::config::accounts::{Canned, PolicySource};
use std::path::Path;

/// Longest document of a policy, in bytes.
pub const MAX_DOCUMENT_BYTES: usize = 20_480;
/// Most policies of a user.
pub const MAX_POLICIES: usize = 10;

/// A policy by its name, as it is kept.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Named {
    /// The name within the user.
    pub name: String,
    /// The document.
    pub document: String,
}

impl Named {
    /// One that is built in.
    pub fn canned(canned: Canned) -> Self {
        Self { name: canned.name().to_owned(), document: canned.document() }
    }

    /// That of a file, named after it.
    ///
    /// # Errors
    /// It cannot be read, or is no policy.
    pub fn of_file(path: &Path) -> Result<Self, String> {
        let shown = path.display();
        let length = std::fs::metadata(path).map_err(|e| format!("{shown} cannot be read: {e}"))?.len();
        if length > MAX_DOCUMENT_BYTES as u64 {
            return Err(format!("{shown} has {length} bytes; a policy has at most {MAX_DOCUMENT_BYTES}"));
        }
        let document = std::fs::read_to_string(path).map_err(|e| format!("{shown} cannot be read: {e}"))?;
        let name = path.file_stem().map_or_else(|| "policy".to_owned(), |stem| stem.to_string_lossy().into_owned());
        parse(&document).map_err(|e| format!("{shown}: {e}"))?;
        Ok(Self { name, document })
    }
}

/// The policy that a configuration names.
///
/// # Errors
/// Which part of the source is wrong (none: the source itself), and what it is.
pub fn read(source: &PolicySource) -> Result<Named, (&'static str, String)> {
    match source {
        PolicySource { canned: Some(canned), file: None, document: None } => Ok(Named::canned(*canned)),
        PolicySource { canned: None, file: Some(path), document: None } => {
            Named::of_file(path).map_err(|e| ("file", e))
        }
        PolicySource { canned: None, file: None, document: Some(document) } => {
            let document = document.to_string();
            parse(&document).map_err(|e| ("document", e))?;
            Ok(Named { name: "document".to_owned(), document })
        }
        _ => Err(("", "it is not clear which policy is meant".to_owned())),
    }
}

/// The document of a user or a session, read.
///
/// # Errors
/// What is wrong with it.
pub fn parse(document: &str) -> Result<PolicyDocument, String> {
    PolicyDocument::of_identity(document).map_err(|e| e.to_string())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_is_built_in_can_be_read() {
        for canned in [Canned::ReadOnly, Canned::ReadWrite, Canned::WriteOnly] {
            parse(&canned.document()).unwrap();
        }
    }

    #[test]
    fn a_source_names_one_policy() {
        let canned = Some(Canned::ReadOnly);
        let document = Some(serde_json::json!({ "Statement": [] }));
        assert_eq!(read(&PolicySource { canned, ..Default::default() }).unwrap().name, "readonly");
        assert_eq!(read(&PolicySource::default()).unwrap_err().0, "");
        assert_eq!(read(&PolicySource { canned, document: document.clone(), file: None }).unwrap_err().0, "");
        assert_eq!(read(&PolicySource { document, ..Default::default() }).unwrap_err().0, "document");
        let file = Some("/nowhere/policy.json".into());
        let (part, message) = read(&PolicySource { file, ..Default::default() }).unwrap_err();
        assert!(part == "file" && message.contains("/nowhere/policy.json"), "{message}");
    }
}
