//! MD5 and S3's checksums of a body, computed while it passes and compared before anything is committed.

use super::error::EngineError;
use super::md5::Md5Stream;
use super::types::{BodyExpectation, Checksum, ChecksumAlgorithm};
use base64::Engine as _;
use base64::engine::general_purpose::STANDARD as BASE64;
use bytes::Bytes;
use md5::{Digest as _, Md5};

impl ChecksumAlgorithm {
    /// The name of its header, for messages.
    pub const fn header(self) -> &'static str {
        match self {
            Self::Crc32 => "x-amz-checksum-crc32",
            Self::Crc32c => "x-amz-checksum-crc32c",
            Self::Crc64Nvme => "x-amz-checksum-crc64nvme",
            Self::Sha1 => "x-amz-checksum-sha1",
            Self::Sha256 => "x-amz-checksum-sha256",
        }
    }

    /// Whether the value of a whole can be had from the values of its parts.
    pub const fn is_crc(self) -> bool {
        matches!(self, Self::Crc32 | Self::Crc32c | Self::Crc64Nvme)
    }
}

enum Running {
    Crc(crc_fast::Digest, usize),
    Sha1(sha1::Sha1),
    Sha256(sha2::Sha256),
}

/// One running checksum.
pub(crate) struct Checksummer {
    algorithm: ChecksumAlgorithm,
    running: Running,
}

impl Checksummer {
    pub(crate) fn new(algorithm: ChecksumAlgorithm) -> Self {
        use crc_fast::{CrcAlgorithm, Digest};
        let running = match algorithm {
            ChecksumAlgorithm::Crc32 => Running::Crc(Digest::new(CrcAlgorithm::Crc32IsoHdlc), 4),
            ChecksumAlgorithm::Crc32c => Running::Crc(Digest::new(CrcAlgorithm::Crc32Iscsi), 4),
            ChecksumAlgorithm::Crc64Nvme => Running::Crc(Digest::new(CrcAlgorithm::Crc64Nvme), 8),
            ChecksumAlgorithm::Sha1 => Running::Sha1(sha1::Sha1::default()),
            ChecksumAlgorithm::Sha256 => Running::Sha256(sha2::Sha256::default()),
        };
        Self { algorithm, running }
    }

    pub(crate) fn update(&mut self, bytes: &[u8]) {
        match &mut self.running {
            Running::Crc(digest, _) => digest.update(bytes),
            Running::Sha1(digest) => digest.update(bytes),
            Running::Sha256(digest) => digest.update(bytes),
        }
    }

    /// The raw value, big endian as S3 has it.
    pub(crate) fn finish(self) -> Vec<u8> {
        match self.running {
            Running::Crc(digest, len) => digest.finalize().to_be_bytes()[8 - len..].to_vec(),
            Running::Sha1(digest) => digest.finalize().to_vec(),
            Running::Sha256(digest) => digest.finalize().to_vec(),
        }
    }
}

/// All digests that one body needs.
pub(crate) struct BodyDigest {
    md5: Md5Of,
    checksums: Vec<Checksummer>,
    size: u64,
    expect: BodyExpectation,
}

/// Who computes a body's MD5.
pub(crate) enum Md5Of {
    /// The thread that has the body: for one that comes in one piece.
    Here(Md5),
    /// The threads for it, beside.
    Beside(Md5Stream),
}

/// What a body turned out to be, after all expectations held.
pub(crate) struct Verified {
    pub size: u64,
    pub md5: [u8; 16],
    pub checksum: Option<Checksum>,
}

impl BodyExpectation {
    /// Compares a body that is in memory and is not stored: the XML of a request.
    ///
    /// # Errors
    /// [`EngineError::BadDigest`], [`EngineError::Body`] for another length.
    pub fn check(self, body: &Bytes) -> Result<(), EngineError> {
        let mut digest = BodyDigest::new(self, Md5Of::Here(Md5::new()));
        digest.update(body);
        digest.verify().map(drop)
    }
}

impl BodyDigest {
    pub(crate) fn new(expect: BodyExpectation, md5: Md5Of) -> Self {
        let mut algorithms: Vec<ChecksumAlgorithm> = expect.compute.into_iter().collect();
        algorithms.extend(expect.checksums.iter().map(|(a, _)| *a));
        algorithms.sort_by_key(|a| *a as u8);
        algorithms.dedup();
        let checksums = algorithms.into_iter().map(Checksummer::new).collect();
        Self { md5, checksums, size: 0, expect }
    }

    pub(crate) fn update(&mut self, bytes: &Bytes) {
        match &mut self.md5 {
            Md5Of::Here(md5) => md5.update(bytes),
            Md5Of::Beside(md5) => md5.update(bytes.clone()),
        }
        for checksum in &mut self.checksums {
            checksum.update(bytes);
        }
        self.size = self.size.saturating_add(bytes.len() as u64);
    }

    /// Compares with everything that was announced; the first difference is the error.
    pub(crate) fn verify(self) -> Result<Verified, EngineError> {
        let Self { md5, checksums, size, mut expect } = self;
        if let Some(length) = expect.length.filter(|l| *l != size) {
            return Err(super::types::BodyError::Incomplete(format!("{size} of {length} bytes came")).into());
        }
        let md5: [u8; 16] = match md5 {
            Md5Of::Here(md5) => md5.finalize().into(),
            Md5Of::Beside(md5) => md5.finish(),
        };
        if let Some(expected) = expect.md5.filter(|e| *e != md5) {
            return Err(bad("Content-MD5", BASE64.encode(expected), BASE64.encode(md5)));
        }
        let values: Vec<(ChecksumAlgorithm, String)> =
            checksums.into_iter().map(|c| (c.algorithm, BASE64.encode(c.finish()))).collect();
        let mut expected = std::mem::take(&mut expect.checksums);
        if let Some(trailers) = expect.trailers.take() {
            expected.extend(trailers());
        }
        let mut kept = expect.compute;
        for (algorithm, want) in expected {
            let Some((_, have)) = values.iter().find(|(a, _)| *a == algorithm) else {
                return Err(EngineError::InvalidArgument(format!(
                    "the trailer {} was not announced in x-amz-trailer",
                    algorithm.header()
                )));
            };
            if *have != want {
                return Err(bad(algorithm.header(), want, have.clone()));
            }
            kept.get_or_insert(algorithm);
        }
        let checksum = kept.and_then(|algorithm| {
            values.into_iter().find(|(a, _)| *a == algorithm).map(|(algorithm, value)| Checksum {
                algorithm,
                value,
                composite: false,
            })
        });
        Ok(Verified { size, md5, checksum })
    }
}

pub(crate) fn bad(what: &'static str, expected: String, computed: String) -> EngineError {
    EngineError::BadDigest { what, expected, computed }
}

/// MD5-of-MD5s-N: the ETag of a multipart object, from the parts' ETags in hex.
pub(crate) fn multipart_etag<'a>(etags: impl Iterator<Item = &'a str>) -> Result<String, EngineError> {
    let mut md5 = Md5::default();
    let mut count = 0u32;
    for etag in etags {
        md5.update(hex::decode(etag).map_err(|e| EngineError::Corrupt(format!("a part's ETag is not hex: {e}")))?);
        count = count.saturating_add(1);
    }
    Ok(format!("{}-{count}", hex::encode(md5.finalize())))
}

/// The composite checksum of parts: the checksum of their concatenated raw values, with `-N`.
pub(crate) fn composite_checksum(algorithm: ChecksumAlgorithm, parts: &[Checksum]) -> Result<Checksum, EngineError> {
    let mut whole = Checksummer::new(algorithm);
    for part in parts {
        let raw = BASE64
            .decode(&part.value)
            .map_err(|e| EngineError::Corrupt(format!("a part's checksum is not base64: {e}")))?;
        whole.update(&raw);
    }
    Ok(Checksum { algorithm, value: format!("{}-{}", BASE64.encode(whole.finish()), parts.len()), composite: true })
}

/// The checksum of a whole body from its parts' CRCs, without reading it again. CRCs combine; SHAs do not.
pub(crate) fn combined_crc(
    algorithm: ChecksumAlgorithm,
    parts: &[(Checksum, u64)],
) -> Result<Option<Checksum>, EngineError> {
    use crc_fast::CrcAlgorithm;
    let (crc, len) = match algorithm {
        ChecksumAlgorithm::Crc32 => (CrcAlgorithm::Crc32IsoHdlc, 4),
        ChecksumAlgorithm::Crc32c => (CrcAlgorithm::Crc32Iscsi, 4),
        ChecksumAlgorithm::Crc64Nvme => (CrcAlgorithm::Crc64Nvme, 8),
        ChecksumAlgorithm::Sha1 | ChecksumAlgorithm::Sha256 => return Ok(None),
    };
    let mut whole: Option<u64> = None;
    for (part, size) in parts {
        let raw = BASE64
            .decode(&part.value)
            .map_err(|e| EngineError::Corrupt(format!("a part's checksum is not base64: {e}")))?;
        let value = raw.iter().fold(0u64, |acc, byte| (acc << 8) | u64::from(*byte));
        whole = Some(match whole {
            None => value,
            Some(before) => crc_fast::checksum_combine(crc, before, value, *size),
        });
    }
    Ok(whole.map(|value| Checksum {
        algorithm,
        value: BASE64.encode(&value.to_be_bytes()[8 - len..]),
        composite: false,
    }))
}

#[cfg(test)]
mod tests {
    use super::*;

    const ALL: [(ChecksumAlgorithm, &str); 5] = [
        // "123456789": the check values of the algorithms' catalogues, in base64.
        (ChecksumAlgorithm::Crc32, "y/Q5Jg=="),
        (ChecksumAlgorithm::Crc32c, "4waSgw=="),
        (ChecksumAlgorithm::Crc64Nvme, "rosUhgp5mIg="),
        (ChecksumAlgorithm::Sha1, "98O8HYCOBHMq32eZZczDTKeuNEE="),
        (ChecksumAlgorithm::Sha256, "FeKw08M4keuw8e9gnsQZQgwg4yDOlMZfvIwzEkSOsiU="),
    ];

    #[test]
    fn checksums_match_the_catalogues_check_values() {
        for (algorithm, want) in ALL {
            let mut sum = Checksummer::new(algorithm);
            sum.update(b"1234");
            sum.update(b"56789");
            let have = BASE64.encode(sum.finish());
            assert_eq!(have, want, "{}", algorithm.header());
            let mut whole = Checksummer::new(algorithm);
            whole.update(b"123456789");
            assert_eq!(BASE64.encode(whole.finish()), have);
        }
    }

    #[test]
    fn combined_crcs_equal_the_crc_of_the_whole() {
        for algorithm in [ChecksumAlgorithm::Crc32, ChecksumAlgorithm::Crc32c, ChecksumAlgorithm::Crc64Nvme] {
            let sum = |bytes: &'static [u8]| {
                let expect = BodyExpectation { compute: Some(algorithm), ..Default::default() };
                let mut digest = BodyDigest::new(expect, Md5Of::Here(Md5::default()));
                digest.update(&Bytes::from_static(bytes));
                digest.verify().unwrap().checksum.unwrap()
            };
            let parts = [(sum(b"hello "), 6), (sum(b"wor"), 3), (sum(b"ld"), 2)];
            assert_eq!(combined_crc(algorithm, &parts).unwrap().unwrap(), sum(b"hello world"));
        }
    }

    #[test]
    fn a_wrong_md5_length_or_checksum_is_named_with_both_values() {
        let check = |expect: BodyExpectation| {
            let mut digest = BodyDigest::new(expect, Md5Of::Here(Md5::default()));
            digest.update(&Bytes::from_static(b"hello"));
            digest.verify().err().map(|e| e.to_string()).unwrap_or_default()
        };
        assert!(check(BodyExpectation { length: Some(6), ..Default::default() }).contains("5 of 6 bytes"));
        assert!(check(BodyExpectation { md5: Some([0; 16]), ..Default::default() }).contains("Content-MD5"));
        let wrong = vec![(ChecksumAlgorithm::Crc32, "AAAAAA==".to_owned())];
        assert!(check(BodyExpectation { checksums: wrong, ..Default::default() }).contains("NhCmhg=="));
    }

    #[test]
    fn the_etag_of_a_multipart_object_is_the_md5_of_md5s() {
        let part = hex::encode(Md5::digest(b"hello"));
        let mut md5 = Md5::default();
        md5.update(Md5::digest(b"hello"));
        md5.update(Md5::digest(b"hello"));
        let want = format!("{}-2", hex::encode(md5.finalize()));
        assert_eq!(multipart_etag([part.as_str(), part.as_str()].into_iter()).unwrap(), want);
    }
}
