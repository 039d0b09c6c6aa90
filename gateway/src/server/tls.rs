//! The certificate of the TLS listener: read, checked, and read again when its files change.
//!
//! A new certificate counts for new connections; those that are open keep theirs. What is wrong with a new one is said in the log, and
//! the old one stays.

use prometheus::{IntCounterVec, IntGauge, Opts, Registry};
use rustls::crypto::aws_lc_rs;
use rustls::pki_types::pem::PemObject;
use rustls::pki_types::{CertificateDer, PrivateKeyDer};
use rustls::server::{ClientHello, ResolvesServerCert, ServerConfig};
use rustls::sign::CertifiedKey;
use serde::{Deserialize, Serialize};
use std::net::SocketAddr;
use std::os::unix::fs::MetadataExt;
use std::path::{Path, PathBuf};
use std::sync::{Arc, Mutex, PoisonError, RwLock};
use std::time::Duration;
use tidegate_tiering::clock::Clock;

use super::validity;

/// How often the files are looked at.
const LOOK_EVERY: Duration = Duration::from_secs(5);
/// Looks after which a certificate that ends soon is warned of again: a day.
const LOOKS_PER_WARNING: u64 = 17_280;
/// A certificate that ends within this time is warned of.
const SOON_SECONDS: u64 = 30 * 86_400;
/// Largest file of certificates or keys: far above any chain.
const MAX_FILE_BYTES: u64 = 1024 * 1024;

/// TLS of a listener.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct TlsSettings {
    /// Address and port of TLS, beside the plain listener. Without it, the plain listener's address speaks TLS alone.
    #[serde(default)]
    pub listen: Option<SocketAddr>,
    /// PEM file of the certificate and its chain, the server's own first.
    pub cert_file: PathBuf,
    /// PEM file of the private key.
    pub key_file: PathBuf,
    /// The oldest version of TLS that is spoken.
    #[serde(default)]
    pub min_version: MinVersion,
}

/// The oldest version of TLS that is spoken.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Serialize, Deserialize)]
pub enum MinVersion {
    /// TLS 1.2 and 1.3.
    #[default]
    #[serde(rename = "1.2")]
    Tls12,
    /// TLS 1.3 only.
    #[serde(rename = "1.3")]
    Tls13,
}

/// Why a certificate cannot be used.
#[derive(Debug, thiserror::Error)]
pub enum TlsError {
    /// A file cannot be read.
    #[error("{0} cannot be read: {1}; name the PEM files with tls.cert_file and tls.key_file")]
    Unreadable(PathBuf, String),
    /// A file has not what it should have.
    #[error("{0} has no {1}: {2}")]
    Pem(PathBuf, &'static str, String),
    /// Certificate and key do not fit, or the certificate is not understood.
    #[error("the certificate in {0} cannot be used with the key in {1}: {2}")]
    Unfit(PathBuf, PathBuf, String),
    /// The certificate's time is over.
    #[error("the certificate in {0} ended at {1} (seconds since the epoch)")]
    Ended(PathBuf, u64),
    /// A metric's name is taken.
    #[error("cannot register the metrics of TLS: {0}")]
    Metrics(#[from] prometheus::Error),
}

/// What is shown to new connections.
#[derive(Debug)]
struct Current(RwLock<Arc<CertifiedKey>>);

impl ResolvesServerCert for Current {
    fn resolve(&self, _: ClientHello<'_>) -> Option<Arc<CertifiedKey>> {
        Some(Arc::clone(&self.0.read().unwrap_or_else(PoisonError::into_inner)))
    }
}

/// What tells one content of the two files from another without reading them.
#[derive(Debug, Clone, PartialEq, Eq)]
struct Stamp([Option<FileStamp>; 2]);

/// Device, inode, time of the change in seconds and nanoseconds, size.
type FileStamp = (u64, u64, i64, i64, u64);

impl Stamp {
    fn of(settings: &TlsSettings) -> Self {
        let look = |path: &Path| {
            // Links are followed: certificates are often swapped by one.
            let found = std::fs::metadata(path).ok()?;
            Some((found.dev(), found.ino(), found.mtime(), found.mtime_nsec(), found.size()))
        };
        Self([look(&settings.cert_file), look(&settings.key_file)])
    }
}

/// The certificate in use, and the way to a newer one.
#[derive(Debug)]
pub struct Certificates {
    settings: TlsSettings,
    clock: Arc<dyn Clock>,
    current: Arc<Current>,
    config: Arc<ServerConfig>,
    seen: Mutex<Stamp>,
    ends: IntGauge,
    reloads: IntCounterVec,
}

impl Certificates {
    /// Reads the certificate and registers its metrics.
    ///
    /// # Errors
    /// The files cannot be read or used, or a metric's name is taken.
    pub fn load(settings: TlsSettings, clock: Arc<dyn Clock>, registry: &Registry) -> Result<Arc<Self>, TlsError> {
        let ends = IntGauge::new(
            "tidegate_tls_certificate_expiry_timestamp_seconds",
            "When the certificate in use ends, in seconds since the epoch.",
        )?;
        registry.register(Box::new(ends.clone()))?;
        let reloads = IntCounterVec::new(
            Opts::new("tidegate_tls_reloads_total", "Times that a changed certificate was read, by result."),
            &["result"],
        )?;
        registry.register(Box::new(reloads.clone()))?;
        for result in ["ok", "failed"] {
            reloads.with_label_values(&[result]);
        }
        let seen = Mutex::new(Stamp::of(&settings));
        let (key, until) = read(&settings)?;
        let current = Arc::new(Current(RwLock::new(Arc::new(key))));
        let config = Arc::new(server_config(&settings, Arc::clone(&current))?);
        ends.set(i64::try_from(until).unwrap_or(i64::MAX));
        let this = Self { settings, clock, current, config, seen, ends, reloads };
        this.warn();
        Ok(Arc::new(this))
    }

    /// What the files of `settings` are worth, without using them.
    ///
    /// # Errors
    /// They cannot be read or used.
    pub fn check(settings: &TlsSettings) -> Result<(), TlsError> {
        read(settings).map(drop)
    }

    pub(crate) fn config(&self) -> Arc<ServerConfig> {
        Arc::clone(&self.config)
    }

    /// Reads the files again; what is wrong is logged, and the certificate in use stays. True when a certificate was taken.
    pub fn reload(&self) -> bool {
        *self.seen.lock().unwrap_or_else(PoisonError::into_inner) = Stamp::of(&self.settings);
        let now = self.clock.now().seconds();
        let read = read(&self.settings).and_then(|(key, until)| match until <= now {
            true => Err(TlsError::Ended(self.settings.cert_file.clone(), until)),
            false => Ok((key, until)),
        });
        match read {
            Ok((key, until)) => {
                *self.current.0.write().unwrap_or_else(PoisonError::into_inner) = Arc::new(key);
                self.ends.set(i64::try_from(until).unwrap_or(i64::MAX));
                self.reloads.with_label_values(&["ok"]).inc();
                tracing::info!(file = %self.settings.cert_file.display(), until, "the TLS certificate was read again");
                self.warn();
                true
            }
            Err(error) => {
                self.reloads.with_label_values(&["failed"]).inc();
                tracing::error!(%error, "the new TLS certificate is refused; the one in use stays");
                false
            }
        }
    }

    fn warn(&self) {
        let until = u64::try_from(self.ends.get()).unwrap_or(0);
        let now = self.clock.now().seconds();
        if until <= now {
            tracing::error!(until, "the TLS certificate has ended: clients refuse it");
        } else if until - now <= SOON_SECONDS {
            tracing::warn!(until, days = (until - now) / 86_400, "the TLS certificate ends soon");
        }
    }

    /// Looks at the files for ever.
    pub async fn watch(self: Arc<Self>) {
        let mut turns = tokio::time::interval(LOOK_EVERY);
        let mut looks = 0_u64;
        loop {
            turns.tick().await;
            let same = *self.seen.lock().unwrap_or_else(PoisonError::into_inner) == Stamp::of(&self.settings);
            if !same {
                self.reload();
            }
            looks = looks.wrapping_add(1);
            if looks.is_multiple_of(LOOKS_PER_WARNING) {
                self.warn();
            }
        }
    }
}

fn server_config(settings: &TlsSettings, current: Arc<Current>) -> Result<ServerConfig, TlsError> {
    let versions: &[&rustls::SupportedProtocolVersion] = match settings.min_version {
        MinVersion::Tls12 => &[&rustls::version::TLS13, &rustls::version::TLS12],
        MinVersion::Tls13 => &[&rustls::version::TLS13],
    };
    let mut config = ServerConfig::builder_with_provider(Arc::new(aws_lc_rs::default_provider()))
        .with_protocol_versions(versions)
        .map_err(|e| unfit(settings, e.to_string()))?
        .with_no_client_auth()
        .with_cert_resolver(current);
    config.alpn_protocols = vec![b"h2".to_vec(), b"http/1.1".to_vec()];
    Ok(config)
}

fn unfit(settings: &TlsSettings, what: String) -> TlsError {
    TlsError::Unfit(settings.cert_file.clone(), settings.key_file.clone(), what)
}

/// Certificate and key, and when the certificate ends (seconds since the epoch).
fn read(settings: &TlsSettings) -> Result<(CertifiedKey, u64), TlsError> {
    let (cert, key) = (file(&settings.cert_file)?, file(&settings.key_file)?);
    let pem = |path: &Path, what, e: String| TlsError::Pem(path.to_owned(), what, e);
    let chain = CertificateDer::pem_slice_iter(&cert)
        .collect::<Result<Vec<_>, _>>()
        .map_err(|e| pem(&settings.cert_file, "certificate", e.to_string()))?;
    let Some(leaf) = chain.first() else {
        return Err(pem(&settings.cert_file, "certificate", "no CERTIFICATE section was found".into()));
    };
    let until =
        validity::not_after(leaf).ok_or_else(|| unfit(settings, "the time at which it ends cannot be read".into()))?;
    // Without the parser's words, which might show a piece of the key.
    let key = PrivateKeyDer::from_pem_slice(&key)
        .map_err(|_| pem(&settings.key_file, "private key", "no PRIVATE KEY section was found".into()))?;
    let certified = CertifiedKey::from_der(chain, key, &aws_lc_rs::default_provider())
        .map_err(|e| unfit(settings, e.to_string()))?;
    Ok((certified, until))
}

fn file(path: &Path) -> Result<Vec<u8>, TlsError> {
    let unreadable = |e: String| TlsError::Unreadable(path.to_owned(), e);
    let length = std::fs::metadata(path).map_err(|e| unreadable(e.to_string()))?.len();
    if length > MAX_FILE_BYTES {
        return Err(unreadable(format!("it has {length} bytes, and the limit is {MAX_FILE_BYTES}")));
    }
    std::fs::read(path).map_err(|e| unreadable(e.to_string()))
}
