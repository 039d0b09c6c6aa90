//! The access key that `serve` makes when none is configured: kept in the data directory, so that a restart has the
//! same one, and printed only when it is made.

use crate::server::{AccessKey, Secret};
use rand::RngExt;
use serde::{Deserialize, Serialize};
use std::io::Write;
use std::os::unix::fs::OpenOptionsExt;
use std::path::Path;

/// Name of the file in the data directory.
pub const FILE_NAME: &str = "access-key.json";

/// Letters of generated keys: those that no shell, URL or YAML treats specially.
const LETTERS: &[u8] = b"ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz0123456789";

#[derive(Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
struct Stored {
    access_key: String,
    secret_key: String,
}

/// The access key of `data_dir`, and whether it was made just now. Call it only while nothing else serves `data_dir`.
///
/// # Errors
/// The file cannot be read or written, or has another form.
pub fn load_or_generate(data_dir: &Path) -> Result<(AccessKey, bool), String> {
    let path = data_dir.join(FILE_NAME);
    let shown = path.display();
    match std::fs::read_to_string(&path) {
        Ok(text) => {
            let stored: Stored = serde_json::from_str(&text).map_err(|e| {
                format!("{shown} is not an access key ({e}); delete it to have a new one made, or set s3.access_keys")
            })?;
            Ok((AccessKey { access_key: stored.access_key, secret_key: Secret::new(stored.secret_key) }, false))
        }
        Err(e) if e.kind() == std::io::ErrorKind::NotFound => {
            let key = generate();
            write(data_dir, &key).map_err(|e| format!("cannot write {shown}: {e}"))?;
            Ok((key, true))
        }
        Err(e) => Err(format!("cannot read {shown}: {e}")),
    }
}

/// A new access key.
pub fn generate() -> AccessKey {
    let mut rng = rand::rng();
    let mut letters = |count: usize| -> String {
        (0..count).map(|_| char::from(LETTERS[rng.random_range(0..LETTERS.len())])).collect()
    };
    // 20 and 40 letters, as AWS gives them: some clients check.
    AccessKey { access_key: letters(20).to_uppercase(), secret_key: Secret::new(letters(40)) }
}

fn write(data_dir: &Path, key: &AccessKey) -> std::io::Result<()> {
    let stored = Stored { access_key: key.access_key.clone(), secret_key: key.secret_key.expose().to_owned() };
    let text = serde_json::to_string_pretty(&stored)?;
    write_private(data_dir, FILE_NAME, &format!("{text}\n"))
}

/// Whole or not at all: a new file with mode 0600, synced, then renamed.
pub(crate) fn write_private(data_dir: &Path, name: &str, text: &str) -> std::io::Result<()> {
    let fresh = data_dir.join(format!("{name}.new"));
    match std::fs::remove_file(&fresh) {
        Err(e) if e.kind() != std::io::ErrorKind::NotFound => return Err(e),
        _ => {}
    }
    let mut file = std::fs::OpenOptions::new().write(true).create_new(true).mode(0o600).open(&fresh)?;
    file.write_all(text.as_bytes())?;
    file.sync_all()?;
    std::fs::rename(&fresh, data_dir.join(name))?;
    std::fs::File::open(data_dir)?.sync_all()
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::os::unix::fs::PermissionsExt;

    #[test]
    fn a_generated_key_is_kept_for_the_next_start_and_readable_by_its_owner_only() {
        let dir = tempfile::tempdir().unwrap();
        let (first, made) = load_or_generate(dir.path()).unwrap();
        assert!(made);
        assert_eq!((first.access_key.len(), first.secret_key.expose().len()), (20, 40));
        let mode = std::fs::metadata(dir.path().join(FILE_NAME)).unwrap().permissions().mode();
        assert_eq!(mode & 0o777, 0o600);
        let (second, made) = load_or_generate(dir.path()).unwrap();
        assert!(!made);
        assert_eq!(second.access_key, first.access_key);
        assert_eq!(second.secret_key, first.secret_key);
    }

    #[test]
    fn a_damaged_key_file_is_an_error_that_names_the_way_out() {
        let dir = tempfile::tempdir().unwrap();
        std::fs::write(dir.path().join(FILE_NAME), "{").unwrap();
        let error = load_or_generate(dir.path()).unwrap_err();
        assert!(error.contains("access-key.json") && error.contains("delete it"), "{error}");
    }
}
