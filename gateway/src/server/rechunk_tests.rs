use super::*;
use proptest::prelude::*;

const SPLIT: usize = 8;
const REFUSE: usize = 40;

/// What a plain reader of a whole body finds.
#[derive(Debug, PartialEq, Eq)]
enum Outcome {
    /// The data and what follows the last chunk.
    Whole(Vec<u8>, Vec<u8>),
    /// The body ended before the last chunk's header.
    Ended(Vec<u8>),
    Incomplete,
    Malformed,
    TooLarge,
}

/// Reads a body all at once; also gives the size of the largest unsigned chunk.
fn read(mut body: &[u8], refuse: usize) -> (Outcome, usize) {
    let (mut data, mut largest) = (Vec::new(), 0);
    let outcome = loop {
        let Some(end) = body.iter().position(|byte| *byte == b'\n') else {
            break if body.len() > MAX_LINE { Outcome::Malformed } else { Outcome::Ended(data) };
        };
        if end >= MAX_LINE {
            break Outcome::Malformed;
        }
        let Some((size, signed)) = parse(&body[..=end]) else { break Outcome::Malformed };
        body = &body[end + 1..];
        if size == 0 {
            break Outcome::Whole(data, body.to_vec());
        }
        if signed && size > refuse {
            break Outcome::TooLarge;
        }
        if !signed {
            largest = largest.max(size);
        }
        if body.len() < size {
            break Outcome::Incomplete;
        }
        data.extend_from_slice(&body[..size]);
        body = &body[size..];
        match body {
            [b'\r', b'\n', ..] => body = &body[2..],
            [] | [b'\r'] => break Outcome::Incomplete,
            _ => break Outcome::Malformed,
        }
    };
    (outcome, largest)
}

/// Sends `body` in pieces of these sizes, over and over, and gives what comes out; `None` when a chunk was refused.
fn rechunked(body: &[u8], sizes: &[usize]) -> Option<Vec<u8>> {
    let (mut framing, mut out, mut at) = (Framing::new(SPLIT, REFUSE), Vec::new(), 0);
    for size in sizes.iter().cycle() {
        if at == body.len() {
            break;
        }
        let end = body.len().min(at + size);
        let mut input = Bytes::copy_from_slice(&body[at..end]);
        at = end;
        while !input.is_empty() || framing.insert.is_some() {
            out.extend_from_slice(&framing.next(&mut input).ok()?);
        }
    }
    out.extend_from_slice(&framing.end().unwrap_or_default());
    Some(out)
}

fn check(body: &[u8], sizes: &[usize]) {
    let (plain, _) = read(body, REFUSE);
    match rechunked(body, sizes) {
        None => assert_eq!(plain, Outcome::TooLarge),
        Some(out) => {
            let (outcome, largest) = read(&out, usize::MAX);
            assert_eq!(outcome, plain, "{} became {}", body.escape_ascii(), out.escape_ascii());
            assert!(largest <= SPLIT || outcome == Outcome::Malformed, "a chunk of {largest}");
        }
    }
}

fn frame(chunks: &[(Vec<u8>, bool)], trailer: &str) -> Vec<u8> {
    let mut body = Vec::new();
    let signature = format!(";chunk-signature={}", "f".repeat(64));
    for (data, signed) in chunks {
        let extension = if *signed { &signature } else { "" };
        body.extend_from_slice(format!("{:x}{extension}\r\n", data.len()).as_bytes());
        body.extend_from_slice(data);
        body.extend_from_slice(b"\r\n");
    }
    body.extend_from_slice(b"0\r\n");
    body.extend_from_slice(trailer.as_bytes());
    body
}

fn chunks() -> impl Strategy<Value = Vec<(Vec<u8>, bool)>> {
    let data = prop_oneof![
        proptest::collection::vec(any::<u8>(), 1..60),
        proptest::collection::vec(prop_oneof![Just(b'\r'), Just(b'\n'), Just(b'0'), Just(b';')], 1..60),
    ];
    proptest::collection::vec((data, proptest::bool::weighted(0.2)), 0..6)
}

proptest! {
    #[test]
    fn a_body_reads_as_before_however_it_is_cut(
        chunks in chunks(),
        sizes in proptest::collection::vec(1_usize..50, 1..8),
    ) {
        check(&frame(&chunks, "x-amz-checksum-crc32:AAAAAA==\r\n\r\n"), &sizes);
    }

    #[test]
    fn a_broken_body_is_as_broken_as_before(
        chunks in chunks(),
        sizes in proptest::collection::vec(1_usize..50, 1..8),
        (at, byte, cut) in (any::<prop::sample::Index>(), any::<u8>(), any::<bool>()),
    ) {
        let mut body = frame(&chunks, "\r\n");
        let at = at.index(body.len());
        if cut { body.truncate(at) } else { body[at] = byte }
        check(&body, &sizes);
    }

    #[test]
    fn bytes_without_framing_go_through(
        body in proptest::collection::vec(prop_oneof![Just(b'\r'), Just(b'\n'), Just(b'1'), Just(b';'), any::<u8>()], 0..200),
        sizes in proptest::collection::vec(1_usize..50, 1..8),
    ) {
        check(&body, &sizes);
    }
}

#[test]
fn large_chunks_become_several_and_all_else_stays() {
    let cases: [(&str, &str); 7] = [
        ("8\r\n12345678\r\n0\r\n\r\n", "8\r\n12345678\r\n0\r\n\r\n"),
        ("9\r\n123456789\r\n0\r\n\r\n", "8\r\n12345678\r\n1\r\n9\r\n0\r\n\r\n"),
        ("0009\r\n123456789\r\n0\r\n\r\n", "8\r\n12345678\r\n1\r\n9\r\n0\r\n\r\n"),
        // s3s takes what follows the digits for nothing
        ("9zz\r\n123456789\r\n0\r\n\r\n", "8\r\n12345678\r\n1\r\n9\r\n0\r\n\r\n"),
        ("9;a=b\r\n123456789\r\n0\r\n\r\n", "9;a=b\r\n123456789\r\n0\r\n\r\n"),
        ("0\r\n9\r\n123456789\r\n", "0\r\n9\r\n123456789\r\n"),
        ("9", "9"),
    ];
    for (body, expected) in cases {
        for size in [1, 2, 3, 100] {
            let out = rechunked(body.as_bytes(), &[size]).unwrap();
            assert_eq!(out.escape_ascii().to_string(), expected.as_bytes().escape_ascii().to_string());
        }
    }
}

#[test]
fn a_header_that_never_ends_is_not_held() {
    for size in [1, 100, 5000] {
        let body = [vec![b'1'; 5000], b"\r\n".to_vec()].concat();
        assert_eq!(rechunked(&body, &[size]).unwrap(), body);
    }
    let mut framing = Framing::new(SPLIT, REFUSE);
    for _ in 0..5000 {
        framing.next(&mut Bytes::from_static(b"1")).unwrap();
        assert!(framing.line.len() <= MAX_LINE);
    }
}
