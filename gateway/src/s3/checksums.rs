//! Checksums between S3's headers and the engine.

use base64::Engine as _;
use base64::engine::general_purpose::STANDARD as BASE64;
use http::HeaderMap;
use s3s::dto;
use s3s::{S3Result, TrailingHeaders, s3_error};
use tidegate_tiering::engine::{BodyExpectation, Checksum, ChecksumAlgorithm, TrailerChecksums};

/// Every algorithm with its header.
const HEADERS: [(ChecksumAlgorithm, &str); 5] = [
    (ChecksumAlgorithm::Crc32, "x-amz-checksum-crc32"),
    (ChecksumAlgorithm::Crc32c, "x-amz-checksum-crc32c"),
    (ChecksumAlgorithm::Crc64Nvme, "x-amz-checksum-crc64nvme"),
    (ChecksumAlgorithm::Sha1, "x-amz-checksum-sha1"),
    (ChecksumAlgorithm::Sha256, "x-amz-checksum-sha256"),
];

/// S3's name of an algorithm.
pub(crate) fn name(algorithm: ChecksumAlgorithm) -> &'static str {
    match algorithm {
        ChecksumAlgorithm::Crc32 => dto::ChecksumAlgorithm::CRC32,
        ChecksumAlgorithm::Crc32c => dto::ChecksumAlgorithm::CRC32C,
        ChecksumAlgorithm::Crc64Nvme => dto::ChecksumAlgorithm::CRC64NVME,
        ChecksumAlgorithm::Sha1 => dto::ChecksumAlgorithm::SHA1,
        ChecksumAlgorithm::Sha256 => dto::ChecksumAlgorithm::SHA256,
    }
}

/// S3's name of a checksum's type.
pub(crate) fn type_name(composite: bool) -> dto::ChecksumType {
    let name = if composite { dto::ChecksumType::COMPOSITE } else { dto::ChecksumType::FULL_OBJECT };
    dto::ChecksumType::from_static(name)
}

/// The algorithm of that name.
///
/// # Errors
/// `InvalidRequest` for a name that S3 does not know.
pub(crate) fn by_name(text: &str) -> S3Result<ChecksumAlgorithm> {
    HEADERS
        .into_iter()
        .map(|(algorithm, _)| algorithm)
        .find(|known| name(*known).eq_ignore_ascii_case(text))
        .ok_or_else(|| {
            s3_error!(
                InvalidRequest,
                "The checksum algorithm {text} is unknown; choose CRC32, CRC32C, CRC64NVME, SHA1 or SHA256."
            )
        })
}

/// A value as five fields of S3's responses.
#[derive(Default)]
pub(crate) struct Fields {
    pub crc32: Option<String>,
    pub crc32c: Option<String>,
    pub crc64nvme: Option<String>,
    pub sha1: Option<String>,
    pub sha256: Option<String>,
    pub kind: Option<dto::ChecksumType>,
}

impl Fields {
    pub(crate) fn new(checksum: Option<&Checksum>) -> Self {
        let mut fields = Self::default();
        let Some(checksum) = checksum else { return fields };
        let field = match checksum.algorithm {
            ChecksumAlgorithm::Crc32 => &mut fields.crc32,
            ChecksumAlgorithm::Crc32c => &mut fields.crc32c,
            ChecksumAlgorithm::Crc64Nvme => &mut fields.crc64nvme,
            ChecksumAlgorithm::Sha1 => &mut fields.sha1,
            ChecksumAlgorithm::Sha256 => &mut fields.sha256,
        };
        *field = Some(checksum.value.clone());
        fields.kind = Some(type_name(checksum.composite));
        fields
    }
}

/// The checksum that an input of s3s gives in its five fields: [`of_fields`] of them. A macro, because the inputs share no
/// trait.
macro_rules! given {
    ($input:expr) => {
        $crate::s3::checksums::of_fields([
            $input.checksum_crc32.as_ref(),
            $input.checksum_crc32c.as_ref(),
            $input.checksum_crc64nvme.as_ref(),
            $input.checksum_sha1.as_ref(),
            $input.checksum_sha256.as_ref(),
        ])
    };
}
pub(crate) use given;

/// Puts a checksum into the five fields of an output of s3s; gives its type, for the outputs that show it.
macro_rules! show {
    ($output:expr, $checksum:expr) => {{
        let fields = $crate::s3::checksums::Fields::new($checksum);
        $output.checksum_crc32 = fields.crc32;
        $output.checksum_crc32c = fields.crc32c;
        $output.checksum_crc64nvme = fields.crc64nvme;
        $output.checksum_sha1 = fields.sha1;
        $output.checksum_sha256 = fields.sha256;
        fields.kind
    }};
}
pub(crate) use show;

/// What PutObject and UploadPart say about their bodies: [`Announced`] of the input's fields.
macro_rules! announced {
    ($input:expr, $headers:expr, $trailing:expr, $max_bytes:expr) => {
        $crate::s3::checksums::Announced {
            headers: $headers,
            content_length: $input.content_length,
            content_md5: $input.content_md5.as_deref(),
            checksum: $crate::s3::checksums::given!($input)?,
            algorithm: $crate::s3::checksums::sdk_algorithm($headers).or($input.checksum_algorithm),
            trailing: $trailing,
            max_bytes: $max_bytes,
        }
    };
}
pub(crate) use announced;

/// SDKs name the algorithm in a header of their own. It is asked for first: without `x-amz-checksum-algorithm` s3s gives
/// the trailer's algorithm, which would hide that the two contradict each other.
pub(crate) fn sdk_algorithm(headers: &HeaderMap) -> Option<dto::ChecksumAlgorithm> {
    let value = headers.get("x-amz-sdk-checksum-algorithm")?.to_str().ok()?;
    (!value.is_empty()).then(|| dto::ChecksumAlgorithm::from(value.to_owned()))
}

/// The one checksum among the five fields of a request, if any.
///
/// # Errors
/// `InvalidRequest` when there are several; `BadDigest` for a value that is no base64 of a value of that algorithm.
pub(crate) fn of_fields(fields: [Option<&String>; 5]) -> S3Result<Option<(ChecksumAlgorithm, String)>> {
    let mut given = HEADERS.into_iter().zip(fields).filter_map(|((algorithm, _), value)| Some((algorithm, value?)));
    let Some((algorithm, value)) = given.next() else { return Ok(None) };
    if given.next().is_some() {
        return Err(s3_error!(InvalidRequest, "Only one x-amz-checksum- value may be given."));
    }
    check_value(algorithm, value)?;
    Ok(Some((algorithm, value.clone())))
}

/// Composite values (`<base64>-<parts>`) pass too: CompleteMultipartUpload sends them.
fn check_value(algorithm: ChecksumAlgorithm, value: &str) -> S3Result<()> {
    let expected = match algorithm {
        ChecksumAlgorithm::Crc32 | ChecksumAlgorithm::Crc32c => 4,
        ChecksumAlgorithm::Crc64Nvme => 8,
        ChecksumAlgorithm::Sha1 => 20,
        ChecksumAlgorithm::Sha256 => 32,
    };
    let plain = value.split_once('-').map_or(value, |(plain, _)| plain);
    match BASE64.decode(plain) {
        Ok(bytes) if bytes.len() == expected => Ok(()),
        _ => Err(s3_error!(
            BadDigest,
            "The {} checksum {value:?} is not the base64 of {expected} bytes.",
            name(algorithm)
        )),
    }
}

/// What the `x-amz-checksum-` headers of a request with XML are about.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum ChecksumsOf {
    /// The XML.
    Body,
    /// The object that CompleteMultipartUpload makes.
    Object,
}

/// What the headers of a request say about the XML in its body.
///
/// # Errors
/// `InvalidDigest`, `InvalidRequest`.
pub(crate) fn of_xml(headers: &HeaderMap, about: ChecksumsOf) -> S3Result<BodyExpectation> {
    let text = |name: &str| headers.get(name)?.to_str().ok().filter(|text| !text.is_empty()).map(str::to_owned);
    let fields = HEADERS.map(|(_, name)| text(name).filter(|_| about == ChecksumsOf::Body));
    Ok(BodyExpectation {
        md5: text("content-md5").as_deref().map(md5).transpose()?,
        checksums: of_fields(fields.each_ref().map(Option::as_ref))?.into_iter().collect(),
        ..Default::default()
    })
}

/// What a request says about its body.
pub(crate) struct Announced<'a> {
    pub headers: &'a HeaderMap,
    pub content_length: Option<i64>,
    pub content_md5: Option<&'a str>,
    pub checksum: Option<(ChecksumAlgorithm, String)>,
    pub algorithm: Option<dto::ChecksumAlgorithm>,
    pub trailing: Option<&'a TrailingHeaders>,
    pub max_bytes: u64,
}

impl Announced<'_> {
    /// What the engine must verify.
    ///
    /// # Errors
    /// `MissingContentLength`, `EntityTooLarge`, `InvalidDigest`, `InvalidRequest`.
    pub(crate) fn expectation(self) -> S3Result<BodyExpectation> {
        let length = self.length()?;
        self.expectation_of(Some(length))
    }

    /// The same for a body whose length shows when it ends, bounded by who sends it on.
    ///
    /// # Errors
    /// As [`expectation`](Self::expectation).
    pub(crate) fn expectation_without_length(self) -> S3Result<BodyExpectation> {
        self.expectation_of(None)
    }

    fn expectation_of(self, length: Option<u64>) -> S3Result<BodyExpectation> {
        if let Some(length) = length.filter(|length| *length > self.max_bytes) {
            return Err(s3_error!(
                EntityTooLarge,
                "The body has {length} bytes; {} are allowed in one request. Use a multipart upload.",
                self.max_bytes
            ));
        }
        let md5 = self.content_md5.map(md5).transpose()?;
        let compute = self.computed()?;
        let trailers = self.trailing.map(|trailing| trailer_checksums(trailing.clone()));
        Ok(BodyExpectation {
            length,
            md5,
            checksums: self.checksum.into_iter().collect(),
            trailers,
            compute,
            default: Some(ChecksumAlgorithm::Crc64Nvme),
            customer_key: None,
        })
    }

    /// The algorithm to compute while the body passes: the trailer's, whose value comes too late to ask for it, or one
    /// that is named without a value. Beside a value in the headers the name only describes that value.
    fn computed(&self) -> S3Result<Option<ChecksumAlgorithm>> {
        let announced = trailer_algorithm(self.headers)?;
        let named = self.algorithm.as_ref().map(|algorithm| by_name(algorithm.as_str())).transpose()?;
        let Some(announced) = announced else { return Ok(named.filter(|_| self.checksum.is_none())) };
        if self.trailing.is_none() {
            return Err(s3_error!(
                InvalidRequest,
                "x-amz-trailer needs x-amz-content-sha256 to be STREAMING-UNSIGNED-PAYLOAD-TRAILER or \
                 STREAMING-AWS4-HMAC-SHA256-PAYLOAD-TRAILER: without it no trailer is read."
            ));
        }
        if self.checksum.is_some() {
            return Err(s3_error!(InvalidRequest, "Give the checksum in a header or in a trailer, not in both."));
        }
        if let Some(named) = named.filter(|named| *named != announced) {
            return Err(s3_error!(
                InvalidRequest,
                "x-amz-sdk-checksum-algorithm is {}, but x-amz-trailer names {}.",
                name(named),
                name(announced)
            ));
        }
        Ok(Some(announced))
    }

    /// The length of the decoded body. s3s puts it into Content-Length, unless the request was sent chunked.
    fn length(&self) -> S3Result<u64> {
        let decoded =
            self.headers.get("x-amz-decoded-content-length").and_then(|value| value.to_str().ok()?.parse().ok());
        let plain = self.content_length.and_then(|length| u64::try_from(length).ok());
        decoded.or(plain).ok_or_else(|| s3_error!(MissingContentLength, "The request must say Content-Length."))
    }
}

/// The algorithm of the trailer that `x-amz-trailer` announces.
///
/// # Errors
/// `InvalidRequest` for what is no checksum: S3 takes no other trailer.
fn trailer_algorithm(headers: &HeaderMap) -> S3Result<Option<ChecksumAlgorithm>> {
    let Some(value) = headers.get("x-amz-trailer") else { return Ok(None) };
    let text = String::from_utf8_lossy(value.as_bytes());
    HEADERS
        .into_iter()
        .find(|(_, known)| known.eq_ignore_ascii_case(text.trim()))
        .map(|(algorithm, _)| Some(algorithm))
        .ok_or_else(|| s3_error!(InvalidRequest, "x-amz-trailer is {text:?}; it must name one x-amz-checksum- header."))
}

fn md5(text: &str) -> S3Result<[u8; 16]> {
    BASE64
        .decode(text)
        .ok()
        .and_then(|bytes| bytes.try_into().ok())
        .ok_or_else(|| s3_error!(InvalidDigest, "Content-MD5 is not the base64 of 16 bytes."))
}

fn trailer_checksums(trailing: TrailingHeaders) -> TrailerChecksums {
    Box::new(move || {
        let Some(headers) = trailing.take() else { return Vec::new() };
        HEADERS
            .into_iter()
            .filter_map(|(algorithm, name)| Some((algorithm, headers.get(name)?.to_str().ok()?.trim().to_owned())))
            .collect()
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    fn announced<'a>(headers: &'a HeaderMap, length: Option<i64>) -> Announced<'a> {
        Announced {
            headers,
            content_length: length,
            content_md5: None,
            checksum: None,
            algorithm: None,
            trailing: None,
            max_bytes: 100,
        }
    }

    #[test]
    fn the_length_must_be_announced_and_within_the_limit() {
        let headers = HeaderMap::new();
        assert_eq!(announced(&headers, Some(7)).expectation().unwrap().length, Some(7));
        let code = |result: S3Result<BodyExpectation>| result.err().unwrap().code().as_str().to_owned();
        assert_eq!(code(announced(&headers, None).expectation()), "MissingContentLength");
        assert_eq!(code(announced(&headers, Some(101)).expectation()), "EntityTooLarge");
        let mut chunked = HeaderMap::new();
        chunked.insert("x-amz-decoded-content-length", 5.into());
        assert_eq!(announced(&chunked, None).expectation().unwrap().length, Some(5));
    }

    #[test]
    fn content_md5_must_be_the_base64_of_16_bytes() {
        assert_eq!(md5("1B2M2Y8AsgTpgAmY7PhCfg==").unwrap()[..2], [0xd4, 0x1d]);
        for bad in ["", "x", "AAAA", "not base64!"] {
            assert_eq!(md5(bad).unwrap_err().code().as_str(), "InvalidDigest", "{bad}");
        }
    }

    #[test]
    fn one_checksum_of_the_right_size_is_taken() {
        let crc = "AAAAAA==".to_owned();
        let given = of_fields([Some(&crc), None, None, None, None]).unwrap();
        assert_eq!(given, Some((ChecksumAlgorithm::Crc32, crc.clone())));
        assert!(of_fields([Some(&crc), Some(&crc), None, None, None]).is_err());
        assert!(of_fields([None, None, Some(&crc), None, None]).is_err());
        let composite = "AAAAAA==-3".to_owned();
        assert!(of_fields([Some(&composite), None, None, None, None]).is_ok());
        assert_eq!(of_fields([None; 5]).unwrap(), None);
    }

    #[test]
    fn an_algorithm_alone_asks_to_compute() {
        let headers = HeaderMap::new();
        let algorithm = dto::ChecksumAlgorithm::from_static("SHA256");
        let alone = Announced { algorithm: Some(algorithm.clone()), ..announced(&headers, Some(1)) };
        assert_eq!(alone.expectation().unwrap().compute, Some(ChecksumAlgorithm::Sha256));
        let value = BASE64.encode([0_u8; 32]);
        let both = Announced {
            algorithm: Some(algorithm),
            checksum: Some((ChecksumAlgorithm::Sha256, value)),
            ..announced(&headers, Some(1))
        };
        let both = both.expectation().unwrap();
        assert_eq!((both.compute, both.checksums.len()), (None, 1));
        assert!(by_name("CRC16").is_err());
    }

    #[test]
    fn the_trailers_name_says_which_algorithm_to_compute() {
        let trailer = |text: &str| {
            let mut headers = HeaderMap::new();
            headers.insert("x-amz-trailer", text.parse().unwrap());
            trailer_algorithm(&headers)
        };
        for (algorithm, name) in HEADERS {
            assert_eq!(trailer(name).unwrap(), Some(algorithm));
            assert_eq!(trailer(&format!(" {} ", name.to_uppercase())).unwrap(), Some(algorithm));
        }
        for bad in ["", "x-amz-checksum-md5", "x-amz-meta-a", "x-amz-checksum-crc32,x-amz-checksum-sha1"] {
            assert_eq!(trailer(bad).unwrap_err().code().as_str(), "InvalidRequest", "{bad}");
        }
        let mut headers = HeaderMap::new();
        headers.insert("x-amz-trailer", "x-amz-checksum-sha1".parse().unwrap());
        // Announced, but the body is not sent in chunks: the trailer would silently go unread.
        assert!(announced(&headers, Some(1)).expectation().is_err());
    }
}
