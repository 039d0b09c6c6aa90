//! S3's operations over real sockets and a real engine: statuses and headers as a client sees them.

use crate::support::*;
use crate::world::{World, world};
use base64::Engine as _;
use base64::engine::general_purpose::STANDARD as BASE64;
use sha2::{Digest, Sha256};

/// The check values of the algorithms' catalogues for `123456789`, in base64.
const CHECKSUMS: [(&str, &str); 5] = [
    ("x-amz-checksum-crc32", "y/Q5Jg=="),
    ("x-amz-checksum-crc32c", "4waSgw=="),
    ("x-amz-checksum-crc64nvme", "rosUhgp5mIg="),
    ("x-amz-checksum-sha1", "98O8HYCOBHMq32eZZczDTKeuNEE="),
    ("x-amz-checksum-sha256", "FeKw08M4keuw8e9gnsQZQgwg4yDOlMZfvIwzEkSOsiU="),
];

fn code(answer: &Response) -> String {
    between(&answer.text(), "<Code>", "</Code>")
}

fn between(text: &str, start: &str, end: &str) -> String {
    let rest = text.split_once(start).map_or("", |(_, rest)| rest);
    rest.split_once(end).map_or("", |(inside, _)| inside).to_owned()
}

#[tokio::test(flavor = "multi_thread")]
async fn a_restore_is_accepted_with_202_and_extended_with_200() {
    let world = world().await;
    let put = world.send("PUT", "/bucket/k", &[("x-amz-storage-class", "GLACIER")], b"cold").await;
    assert_eq!(put.status, 200, "{}", put.text());
    world.until("GET", "/bucket/k", |answer| answer.status == 403).await;
    let ask = b"<RestoreRequest><Days>2</Days></RestoreRequest>";
    let first = world.send("POST", "/bucket/k?restore", &[], ask).await;
    assert_eq!(first.status, 202, "{}", first.text());
    let restored = |answer: &Response| answer.headers["x-amz-restore"].contains("ongoing-request=\"false\"");
    world.until("HEAD", "/bucket/k", restored).await;
    let again = world.send("POST", "/bucket/k?restore", &[], ask).await;
    assert_eq!(again.status, 200, "{}", again.text());
    let got = world.send("GET", "/bucket/k", &[], b"").await;
    assert_eq!((got.text().as_str(), got.headers["x-amz-storage-class"].as_str()), ("cold", "GLACIER"));
}

async fn send_trailer(world: &World, method: &str, target: &str, trailer: &str, extra: &[(&str, &str)]) -> Response {
    let host = world.address.to_string();
    let body = format!("9\r\n123456789\r\n0\r\n{trailer}\r\n\r\n");
    let length = body.len().to_string();
    let mut headers = vec![("x-amz-decoded-content-length", "9"), ("Content-Length", &*length)];
    headers.extend(extra);
    let signed = world.signer(&host, "STREAMING-UNSIGNED-PAYLOAD-TRAILER").sign(method, target, &headers);
    exchange_at(world.address, &signed.head, body.as_bytes()).await
}

#[tokio::test(flavor = "multi_thread")]
async fn a_trailer_that_only_its_name_announces_is_verified_in_objects_and_parts() {
    let world = world().await;
    for (name, value) in CHECKSUMS {
        let (right, wrong) = (format!("{name}:{value}"), format!("{name}:{}", BASE64.encode([0; 4])));
        let announced = [("x-amz-trailer", name)];
        let answer = send_trailer(&world, "PUT", "/bucket/k", &right, &announced).await;
        assert_eq!((answer.status, answer.headers[name].as_str()), (200, value), "{}", answer.text());
        let got = world.send("GET", "/bucket/k", &[("x-amz-checksum-mode", "ENABLED")], b"").await;
        assert_eq!(got.headers[name], value);
        let answer = send_trailer(&world, "PUT", "/bucket/bad", &wrong, &announced).await;
        assert_eq!((answer.status, code(&answer).as_str()), (400, "BadDigest"));
        let answer = send_trailer(&world, "PUT", "/bucket/bad", "", &announced).await;
        assert_eq!(code(&answer), "MalformedTrailerError");
        assert_eq!(world.send("HEAD", "/bucket/bad", &[], b"").await.status, 404);

        let begun = world.send("POST", "/bucket/parts?uploads", &[], b"").await.text();
        let id = between(&begun, "<UploadId>", "</UploadId>");
        let target = format!("/bucket/parts?partNumber=1&uploadId={id}");
        let answer = send_trailer(&world, "PUT", &target, &right, &announced).await;
        assert_eq!((answer.status, answer.headers[name].as_str()), (200, value), "{}", answer.text());
        let answer = send_trailer(&world, "PUT", &target, &wrong, &announced).await;
        assert_eq!(code(&answer), "BadDigest");
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn trailers_that_contradict_are_refused() {
    let world = world().await;
    let trailer = "x-amz-checksum-crc32:y/Q5Jg==";
    let cases: [&[(&str, &str)]; 4] = [
        &[("x-amz-trailer", "x-amz-checksum-md5")],
        &[("x-amz-trailer", "x-amz-checksum-crc32"), ("x-amz-sdk-checksum-algorithm", "SHA1")],
        &[("x-amz-trailer", "x-amz-checksum-crc32"), ("x-amz-checksum-crc32", "y/Q5Jg==")],
        &[("x-amz-trailer", "x-amz-checksum-sha1")],
    ];
    for headers in cases {
        let answer = send_trailer(&world, "PUT", "/bucket/k", trailer, headers).await;
        assert_eq!(answer.status, 400, "{headers:?}");
    }
    let unread = world.send("PUT", "/bucket/k", &[("x-amz-trailer", "x-amz-checksum-crc32")], b"x").await;
    assert_eq!(code(&unread), "InvalidRequest");
    assert_eq!(world.send("HEAD", "/bucket/k", &[], b"").await.status, 404);
    let agreed = [("x-amz-trailer", "x-amz-checksum-crc32"), ("x-amz-sdk-checksum-algorithm", "CRC32")];
    assert_eq!(send_trailer(&world, "PUT", "/bucket/k", trailer, &agreed).await.status, 200);
}

/// s3s keeps the types of its stream errors to itself and `s3::body` goes by their texts: each is provoked here, and
/// a version of s3s that words them otherwise fails this test.
#[tokio::test(flavor = "multi_thread")]
async fn each_way_in_which_a_body_can_fail_has_its_code() {
    const CHUNKED: &str = "STREAMING-AWS4-HMAC-SHA256-PAYLOAD";
    let world = world().await;
    let host = world.address.to_string();
    // Small bodies are taken in before the call, large ones go through the pipe.
    for size in [1_000, 200_000] {
        let body = vec![b'b'; size];
        let chunked = |decoded: usize, change: &dyn Fn(Vec<u8>) -> Vec<u8>| {
            let decoded = decoded.to_string();
            let length = |len: usize| len.to_string();
            let signer = world.signer(&host, CHUNKED);
            let probe = signer.sign("PUT", "/bucket/k", &[]).chunks(&[&body]);
            let sent = length(change(probe).len());
            let headers = [("x-amz-decoded-content-length", &*decoded), ("Content-Length", &*sent)];
            let signed = signer.sign("PUT", "/bucket/k", &headers);
            (signed.head.clone(), change(signed.chunks(&[&body])))
        };
        let single = |payload: &str| {
            let length = size.to_string();
            let signed = world.signer(&host, payload).sign("PUT", "/bucket/k", &[("Content-Length", &length)]);
            (signed.head, body.clone())
        };
        let flip = |mut sent: Vec<u8>| {
            let middle = sent.len() / 2;
            sent[middle] ^= 1;
            sent
        };
        let cut = |mut sent: Vec<u8>| {
            sent.truncate(sent.len() / 2);
            sent
        };
        let unframed = |mut sent: Vec<u8>| {
            sent[0] = b'z';
            sent
        };
        let cases = [
            ("a bad signature of a chunk", chunked(size, &flip), "SignatureDoesNotMatch"),
            ("a body that ends inside a chunk", chunked(size, &cut), "IncompleteBody"),
            ("broken framing", chunked(size, &unframed), "InvalidRequest"),
            ("fewer bytes than announced", chunked(size + 1, &|sent| sent), "IncompleteBody"),
            ("more bytes than announced", chunked(size - 1, &|sent| sent), "IncompleteBody"),
            ("another body than was hashed", single(&hex::encode(Sha256::digest(b"x"))), "XAmzContentSHA256Mismatch"),
        ];
        for (what, (head, sent), expected) in cases {
            let answer = exchange_at(world.address, &head, &sent).await;
            assert_eq!(code(&answer), expected, "{what}, {size} bytes: {}", answer.text());
            assert_eq!(world.send("HEAD", "/bucket/k", &[], b"").await.status, 404, "{what}");
        }
        let (head, sent) = chunked(size, &|sent| sent);
        assert_eq!(exchange_at(world.address, &head, &sent).await.status, 200);
        assert_eq!(world.send("DELETE", "/bucket/k", &[], b"").await.status, 204);
    }
}

/// Over the pipe the error of the connection comes back wrapped by s3s.
#[tokio::test(flavor = "multi_thread")]
async fn a_stall_inside_a_chunk_or_a_hashed_body_is_told_as_a_stall() {
    use tokio::io::AsyncWriteExt;
    let world = world().await;
    let host = world.address.to_string();
    let hash = hex::encode(Sha256::digest(b"x"));
    for payload in ["STREAMING-AWS4-HMAC-SHA256-PAYLOAD", &hash] {
        let headers = [("x-amz-decoded-content-length", "100000"), ("Content-Length", "100100")];
        let signed = world.signer(&host, payload).sign("PUT", "/bucket/k", &headers);
        let mut stream = tokio::net::TcpStream::connect(world.address).await.unwrap();
        stream.write_all(signed.head.as_bytes()).await.unwrap();
        stream.write_all(format!("186a0;chunk-signature={hash}\r\nhalf").as_bytes()).await.unwrap();
        let answer = read_response(&mut stream, true).await.unwrap();
        assert_eq!(code(&answer), "RequestTimeout", "{}", answer.text());
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_range_that_means_nothing_gives_the_whole_object() {
    let world = world().await;
    world.send("PUT", "/bucket/k", &[], b"0123456789").await;
    let cases = [
        ("bytes=2-4", 206, "234"),
        ("bytes=7-", 206, "789"),
        ("bytes=-2", 206, "89"),
        ("bytes=5-2", 200, "0123456789"),
        ("bytes=0-1,3-4", 200, "0123456789"),
        ("items=1-2", 200, "0123456789"),
    ];
    for (range, status, text) in cases {
        let got = world.send("GET", "/bucket/k", &[("Range", range)], b"").await;
        assert_eq!((got.status, got.text().as_str()), (status, text), "{range}");
        let head = world.send("HEAD", "/bucket/k", &[("Range", range)], b"").await;
        assert_eq!(
            (head.status, head.headers["content-length"].as_str()),
            (status, &*text.len().to_string()),
            "{range}"
        );
        assert_eq!(head.headers.get("content-range"), got.headers.get("content-range"), "{range}");
    }
    let beyond = world.send("GET", "/bucket/k", &[("Range", "bytes=10-")], b"").await;
    assert_eq!((beyond.status, beyond.headers["content-range"].as_str()), (416, "bytes */10"));
    let host = world.address.to_string();
    let cases = [
        ("bytes=2-4", "SK", 206),
        ("bytes=5-2", "SK", 200),
        ("bytes=0-1,3-4", "SK", 200),
        // The request is asked again without its signature: never when that was wrong.
        ("bytes=5-2", "wrong", 403),
    ];
    for (range, secret, status) in cases {
        let signed = [("range", range)];
        let signer = Signer { signed: &signed, secret, ..world.signer(&host, "UNSIGNED-PAYLOAD") };
        for method in ["GET", "HEAD"] {
            let answer = exchange_at(world.address, &signer.sign(method, "/bucket/k", &[]).head, b"").await;
            assert_eq!(answer.status, status, "{method} with signed {range}: {}", answer.text());
        }
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn if_range_with_another_version_gives_the_whole_object() {
    let world = world().await;
    let put = world.send("PUT", "/bucket/k", &[], b"0123456789").await;
    let cases = [(put.headers["etag"].as_str(), 206, "23"), ("\"other\"", 200, "0123456789")];
    for (tag, status, text) in cases {
        let got = world.send("GET", "/bucket/k", &[("Range", "bytes=2-3"), ("If-Range", tag)], b"").await;
        assert_eq!((got.status, got.text().as_str()), (status, text), "{tag}");
        let head = world.send("HEAD", "/bucket/k", &[("Range", "bytes=2-3"), ("If-Range", tag)], b"").await;
        assert_eq!(head.status, status, "{tag}");
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn conditions_answer_with_the_statuses_and_headers_of_s3() {
    let world = world().await;
    let tag = world.send("PUT", "/bucket/k", &[], b"body").await.headers["etag"].clone();
    for method in ["GET", "HEAD"] {
        let same = world.send(method, "/bucket/k", &[("If-None-Match", &tag)], b"").await;
        assert_eq!((same.status, &same.headers["etag"], same.body.len()), (304, &tag, 0));
        assert!(same.headers.contains_key("last-modified") && !same.headers.contains_key("content-length"));
        let other = world.send(method, "/bucket/k", &[("If-Match", "\"other\"")], b"").await;
        assert_eq!(other.status, 412);
    }
    let missing = world.send("PUT", "/bucket/none", &[("If-Match", &tag)], b"x").await;
    assert_eq!((missing.status, code(&missing).as_str()), (404, "NoSuchKey"));
    let other = world.send("PUT", "/bucket/k", &[("If-Match", "\"other\"")], b"x").await;
    assert_eq!((other.status, code(&other).as_str()), (412, "PreconditionFailed"));
    let weak = format!("W/{tag}");
    for never in ["\"*\"", weak.as_str()] {
        for method in ["PUT", "DELETE"] {
            let refused = world.send(method, "/bucket/k", &[("If-Match", never)], b"").await;
            assert_eq!((refused.status, code(&refused).as_str()), (412, "PreconditionFailed"), "{method} {never}");
        }
    }
    assert_eq!(world.send("PUT", "/bucket/k", &[("If-Match", "*")], b"x").await.status, 200);
    let head = world.send("HEAD", "/bucket/none", &[], b"").await;
    assert_eq!((head.status, head.body.len()), (404, 0));
}

#[tokio::test(flavor = "multi_thread")]
async fn listings_encode_keys_and_a_page_of_none_is_empty_and_complete() {
    let world = world().await;
    for key in ["a%20b", "c%2Bd", "e/f"] {
        assert_eq!(world.send("PUT", &format!("/bucket/{key}"), &[], b"x").await.status, 200);
    }
    let target = "/bucket?delimiter=%2F&encoding-type=url&list-type=2";
    let text = world.send("GET", target, &[], b"").await.text();
    for wanted in ["<Key>a%20b</Key>", "<Key>c%2Bd</Key>", "<Prefix>e/</Prefix>", "<KeyCount>3</KeyCount>"] {
        assert!(text.contains(wanted), "{wanted}: {text}");
    }
    let text = world.send("GET", "/bucket?list-type=2&max-keys=0", &[], b"").await.text();
    assert!(text.contains("<IsTruncated>false</IsTruncated>") && text.contains("<KeyCount>0</KeyCount>"), "{text}");
    assert!(!text.contains("<Key>") && !text.contains("NextContinuationToken"), "{text}");
}

#[tokio::test(flavor = "multi_thread")]
async fn a_quiet_delete_names_only_what_failed() {
    let world = world().await;
    world.send("PUT", "/bucket/k", &[], b"x").await;
    let objects = "<Object><Key>k</Key></Object><Object><Key>v</Key><VersionId>7</VersionId></Object>";
    for (quiet, deleted) in [("false", true), ("true", false)] {
        let xml = format!("<Delete><Quiet>{quiet}</Quiet>{objects}</Delete>");
        let answer = world.send("POST", "/bucket?delete", &[], xml.as_bytes()).await;
        assert_eq!(answer.status, 200, "{}", answer.text());
        assert_eq!(answer.text().contains("<Deleted>"), deleted, "{}", answer.text());
        assert!(answer.text().contains("<Code>NoSuchVersion</Code>"), "{}", answer.text());
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn xml_that_is_not_what_was_signed_is_the_clients_error_and_does_nothing() {
    let world = world().await;
    world.send("PUT", "/bucket/k", &[], b"x").await;
    let host = world.address.to_string();
    let xml = b"<Delete><Object><Key>k</Key></Object></Delete>";
    let length = xml.len().to_string();
    for (signed, status, left) in [(&b"other"[..], 400, 200), (&xml[..], 200, 404)] {
        let hash = hex::encode(Sha256::digest(signed));
        let head = world.signer(&host, &hash).sign("POST", "/bucket?delete", &[("Content-Length", &length)]).head;
        let answer = exchange_at(world.address, &head, xml).await;
        assert_eq!(answer.status, status, "{}", answer.text());
        assert_eq!(world.send("HEAD", "/bucket/k", &[], b"").await.status, left);
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn an_upload_is_completed_with_the_checksum_that_was_promised_or_not_at_all() {
    let world = world().await;
    let ("x-amz-checksum-crc64nvme", value) = CHECKSUMS[2] else { unreachable!() };
    // No algorithm at the beginning: the parts and the completion name it.
    for (whole, status) in [(value, 200), ("AAAAAAAAAAA=", 400)] {
        let begun = world.send("POST", "/bucket/whole?uploads", &[], b"").await.text();
        let id = between(&begun, "<UploadId>", "</UploadId>");
        let mut xml = String::from("<CompleteMultipartUpload>");
        for (number, piece) in [(1, "12345"), (2, "6789")] {
            let target = format!("/bucket/whole?partNumber={number}&uploadId={id}");
            let algorithm = [("x-amz-sdk-checksum-algorithm", "CRC64NVME")];
            let part = world.send("PUT", &target, &algorithm, piece.as_bytes()).await;
            let tag = &part.headers["etag"];
            xml.push_str(&format!("<Part><PartNumber>{number}</PartNumber><ETag>{tag}</ETag></Part>"));
        }
        xml.push_str("</CompleteMultipartUpload>");
        let target = format!("/bucket/whole?uploadId={id}");
        let unverifiable = [("x-amz-checksum-crc32", "y/Q5Jg==")];
        let refused = world.send("POST", &target, &unverifiable, xml.as_bytes()).await;
        assert_eq!(refused.status, 400, "{}", refused.text());
        let answer = world.send("POST", &target, &[("x-amz-checksum-crc64nvme", whole)], xml.as_bytes()).await;
        assert_eq!(answer.status, status, "{}", answer.text());
    }
    let head = world.send("HEAD", "/bucket/whole", &[("x-amz-checksum-mode", "ENABLED")], b"").await;
    assert_eq!(head.headers["x-amz-checksum-crc64nvme"], value);
    assert_eq!(head.headers["x-amz-checksum-type"], "FULL_OBJECT");
    // A part under another algorithm than the upload's would leave the object without its checksum.
    let begun = world.send("POST", "/bucket/p?uploads", &[("x-amz-checksum-algorithm", "SHA256")], b"").await.text();
    let id = between(&begun, "<UploadId>", "</UploadId>");
    let target = format!("/bucket/p?partNumber=1&uploadId={id}");
    let answer = world.send("PUT", &target, &[("x-amz-sdk-checksum-algorithm", "CRC32")], b"x").await;
    assert_eq!((answer.status, code(&answer).as_str()), (400, "InvalidRequest"));
}

#[tokio::test(flavor = "multi_thread")]
async fn an_unfinished_upload_ends_with_its_bucket() {
    let world = world().await;
    let begun = world.send("POST", "/bucket/k?uploads", &[], b"").await.text();
    let id = between(&begun, "<UploadId>", "</UploadId>");
    assert_eq!(world.send("DELETE", "/bucket", &[], b"").await.status, 204);
    assert_eq!(world.send("PUT", "/bucket", &[], b"").await.status, 200);
    let gone = world.send("DELETE", &format!("/bucket/k?uploadId={id}"), &[], b"").await;
    assert_eq!(code(&gone), "NoSuchUpload");
}

/// A chunk with a signature can only be checked as a whole, so that its size is what memory it costs.
#[tokio::test(flavor = "multi_thread")]
async fn a_signed_chunk_that_is_too_large_is_refused_before_it_is_read() {
    let world = world().await;
    let host = world.address.to_string();
    for payload in ["STREAMING-AWS4-HMAC-SHA256-PAYLOAD", "STREAMING-UNSIGNED-PAYLOAD-TRAILER"] {
        let headers = [
            ("x-amz-decoded-content-length", "16777217"),
            ("Content-Length", "16777400"),
            ("x-amz-trailer", "x-amz-checksum-crc32"),
        ];
        let trailer = payload.ends_with("TRAILER");
        let signed = world.signer(&host, payload).sign("PUT", "/bucket/k", &headers[..2 + usize::from(trailer)]);
        let mut body = format!("1000001;chunk-signature={}\r\n", "f".repeat(64)).into_bytes();
        body.resize(1 << 20, b'x');
        let answer = exchange_at(world.address, &signed.head, &body).await;
        assert_eq!((answer.status, code(&answer).as_str()), (400, "InvalidRequest"));
        assert!(answer.text().contains("more than 16777216 bytes"), "{}", answer.text());
        assert_eq!(world.send("HEAD", "/bucket/k", &[], b"").await.status, 404);
    }
}
