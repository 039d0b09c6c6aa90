//! What belongs to one request: its id, its operation, why its body failed.

use std::fmt;
use std::hash::{BuildHasher, Hasher, RandomState};
use std::net::IpAddr;
use std::sync::atomic::{AtomicBool, AtomicU8, AtomicU64, Ordering};
use std::sync::{Arc, OnceLock};

use super::metrics::Operation;
use crate::auth::identity::Identity;
use tidegate_tiering::engine::{Asks, Origin};

/// A request id as clients see it: 16 hex digits.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct RequestId(u64);

impl fmt::Display for RequestId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{:016X}", self.0)
    }
}

/// Gives request ids: unique within a process, and different from run to run.
#[derive(Debug)]
pub struct RequestIds {
    start: u64,
    given: AtomicU64,
}

/// The odd constant of the SplitMix64 generator (Steele, Lea, Flood 2014): stepping by it visits every 64-bit value.
const STEP: u64 = 0x9E37_79B9_7F4A_7C15;

impl Default for RequestIds {
    /// Starts at a random place.
    fn default() -> Self {
        Self { start: random(), given: AtomicU64::new(0) }
    }
}

impl RequestIds {
    /// The next id.
    pub fn next(&self) -> RequestId {
        let n = self.given.fetch_add(1, Ordering::Relaxed);
        // SplitMix64's finalizer is a bijection, so that distinct counts give distinct ids.
        let mut z = self.start.wrapping_add(n.wrapping_mul(STEP));
        z = (z ^ (z >> 30)).wrapping_mul(0xBF58_476D_1CE4_E5B9);
        z = (z ^ (z >> 27)).wrapping_mul(0x94D0_49BB_1331_11EB);
        RequestId(z ^ (z >> 31))
    }
}

/// A random number from the standard library's hasher keys: unique, not secret.
pub(crate) fn random() -> u64 {
    RandomState::new().build_hasher().finish()
}

/// Why a request body could not be taken to its end.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
#[repr(u8)]
pub enum BodyFailure {
    /// The client closed the connection or sent less than it announced.
    Incomplete = 1,
    /// The client sent nothing for too long.
    Stalled = 2,
    /// `x-amz-content-sha256` does not fit the body.
    Sha256Mismatch = 3,
    /// The signature of a chunk or of the trailer is wrong.
    SignatureMismatch = 4,
    /// The chunked framing is broken.
    Malformed = 5,
    /// A trailer that `x-amz-trailer` announced did not come.
    MissingTrailer = 6,
    /// A signed chunk is larger than is taken.
    SignedChunkTooLarge = 7,
    /// `Content-MD5` or a checksum does not fit the XML.
    BadDigest = 8,
    /// The XML has a CDATA section.
    Cdata = 9,
    /// The XML is larger than is taken.
    XmlTooLarge = 10,
    /// The file of a form is larger than its policy or the server allows.
    FileTooLarge = 11,
    /// The file of a form is smaller than its policy allows.
    FileTooSmall = 12,
    /// A form ends in the middle of its file.
    FormCut = 13,
}

impl BodyFailure {
    fn from_code(code: u8) -> Option<Self> {
        [
            Self::Incomplete,
            Self::Stalled,
            Self::Sha256Mismatch,
            Self::SignatureMismatch,
            Self::Malformed,
            Self::MissingTrailer,
            Self::SignedChunkTooLarge,
            Self::BadDigest,
            Self::Cdata,
            Self::XmlTooLarge,
            Self::FileTooLarge,
            Self::FileTooSmall,
            Self::FormCut,
        ]
        .into_iter()
        .find(|failure| *failure as u8 == code)
    }
}

/// A version of TLS that is spoken here.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum TlsVersion {
    /// 1.2
    Tls12,
    /// 1.3
    Tls13,
}

impl TlsVersion {
    /// That of a connection whose handshake is done.
    pub(crate) fn of(connection: &rustls::ServerConnection) -> Self {
        match connection.protocol_version() {
            Some(rustls::ProtocolVersion::TLSv1_3) => Self::Tls13,
            _ => Self::Tls12,
        }
    }

    /// As policies compare it.
    pub(crate) fn number(self) -> &'static str {
        match self {
            Self::Tls12 => "1.2",
            Self::Tls13 => "1.3",
        }
    }
}

/// Shared between the HTTP side and the S3 side of one request, by way of the request's extensions.
#[derive(Debug)]
pub struct RequestContext {
    id: RequestId,
    peer: Option<IpAddr>,
    tls: Option<TlsVersion>,
    identity: OnceLock<Arc<Identity>>,
    operation: AtomicU8,
    failure: AtomicU8,
    form: AtomicBool,
}

impl Asks for RequestContext {
    fn origin(&self) -> Origin {
        let principal =
            self.identity().map_or_else(|| "Anonymous".to_owned(), |known| format!("AWS:{}", known.user_id()));
        let address = self.peer.map(|peer| peer.to_canonical().to_string()).unwrap_or_default();
        Origin { principal, address, request: self.id.to_string() }
    }

    fn is_form(&self) -> bool {
        self.form.load(Ordering::Relaxed)
    }
}

impl RequestContext {
    /// For a new request.
    pub fn new(id: RequestId) -> Self {
        Self {
            id,
            peer: None,
            tls: None,
            identity: OnceLock::new(),
            operation: AtomicU8::new(Operation::Unknown as u8),
            failure: AtomicU8::new(0),
            form: AtomicBool::new(false),
        }
    }

    /// For a request that came from this address, over this version of TLS or without any.
    pub fn from_peer(self, peer: Option<IpAddr>, tls: Option<TlsVersion>) -> Self {
        Self { peer, tls, ..self }
    }

    /// The address that the connection comes from.
    pub fn peer(&self) -> Option<IpAddr> {
        self.peer
    }

    /// The version of TLS of the connection; none without TLS.
    pub fn tls(&self) -> Option<TlsVersion> {
        self.tls
    }

    /// Who signed the request, once the signature was found right.
    pub fn identity(&self) -> Option<&Arc<Identity>> {
        self.identity.get()
    }

    /// Notes who signed the request; what was noted first stays.
    pub fn set_identity(&self, identity: Arc<Identity>) {
        let _ = self.identity.set(identity);
    }

    /// The request's id.
    pub fn id(&self) -> RequestId {
        self.id
    }

    /// The operation, once the request was understood.
    pub fn operation(&self) -> Operation {
        Operation::from_code(self.operation.load(Ordering::Relaxed))
    }

    /// Notes the operation.
    pub fn set_operation(&self, operation: Operation) {
        self.operation.store(operation as u8, Ordering::Relaxed);
    }

    /// Notes that the request is a form.
    pub fn set_form(&self) {
        self.form.store(true, Ordering::Relaxed);
    }

    /// Why the body failed, if it did.
    pub fn body_failure(&self) -> Option<BodyFailure> {
        BodyFailure::from_code(self.failure.load(Ordering::Acquire))
    }

    /// Notes why the body failed; the first reason stays, later ones are its consequences.
    pub fn fail_body(&self, failure: BodyFailure) {
        let _ = self.failure.compare_exchange(0, failure as u8, Ordering::AcqRel, Ordering::Relaxed);
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::collections::HashSet;

    #[test]
    fn ids_have_16_hex_digits_and_do_not_repeat() {
        let ids = RequestIds::default();
        let seen: HashSet<String> = (0..10_000).map(|_| ids.next().to_string()).collect();
        assert_eq!(seen.len(), 10_000);
        assert!(seen.iter().all(|id| id.len() == 16 && id.bytes().all(|b| b.is_ascii_hexdigit())));
    }

    #[test]
    fn the_first_reason_of_a_failed_body_stays() {
        let context = RequestContext::new(RequestIds::default().next());
        assert_eq!(context.body_failure(), None);
        context.fail_body(BodyFailure::Stalled);
        context.fail_body(BodyFailure::Malformed);
        assert_eq!(context.body_failure(), Some(BodyFailure::Stalled));
    }
}
