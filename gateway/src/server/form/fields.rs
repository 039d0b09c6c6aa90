//! The parts of a form up to its file (RFC 7578).

use bytes::{Bytes, BytesMut};
use futures::StreamExt;
use http::{HeaderMap, HeaderName, HeaderValue, header};
use memchr::memmem::Finder;
use s3s::dto::Tagging;
use s3s::stream::ByteStream;
use s3s::{S3Error, S3Result, s3_error};

use super::super::request::{BodyFailure, RequestContext};
use super::super::signer::IN_QUERY;
use super::invalid;

/// S3's limit on all that comes before the file.
const MAX_BYTES_BEFORE_FILE: usize = 20 * 1024;
/// RFC 2046, 5.1.1.
const MAX_BOUNDARY: usize = 70;

/// A form that is being read.
pub(super) struct Parts<S> {
    pub(super) source: S,
    pub(super) buffer: BytesMut,
    /// A line end, two hyphens and the boundary.
    pub(super) delimiter: Finder<'static>,
    left: usize,
}

/// The fields in front of the file, by their names in lower case, and the file's name.
pub(super) struct Fields {
    fields: Vec<(String, String)>,
    file_name: String,
}

fn malformed(what: &str) -> S3Error {
    s3_error!(MalformedPOSTRequest, "The body is no form that is encoded as multipart/form-data: {what}.")
}

fn boundary(headers: &HeaderMap) -> Option<String> {
    let text = headers.get(header::CONTENT_TYPE)?.to_str().ok()?;
    let value = parameter(text, "boundary")?;
    (1..=MAX_BOUNDARY).contains(&value.len()).then_some(value)
}

/// The value of a parameter of a header such as `form-data; name="key"; filename="a b"`.
fn parameter(text: &str, wanted: &str) -> Option<String> {
    let mut rest = text.split_once(';')?.1;
    loop {
        let (name, value) = rest.split_once('=')?;
        let (value, after) = match value.trim_start().strip_prefix('"') {
            Some(quoted) => unquote(quoted)?,
            None => {
                let (value, after) = value.split_once(';').unwrap_or((value, ""));
                (value.trim().to_owned(), after)
            }
        };
        if name.trim().eq_ignore_ascii_case(wanted) {
            return Some(value);
        }
        rest = after.trim_start().strip_prefix(';').unwrap_or(after);
    }
}

/// Text up to its closing quote, and what follows. Browsers write a quote as `%22`, others as `\"`; a backslash before anything else
/// stands for itself, as in paths of Windows.
fn unquote(quoted: &str) -> Option<(String, &str)> {
    let mut value = String::new();
    let mut chars = quoted.char_indices().peekable();
    while let Some((at, c)) = chars.next() {
        match c {
            '"' => return Some((value, &quoted[at + 1..])),
            '\\' if chars.peek().is_some_and(|(_, next)| *next == '"') => {
                value.push('"');
                chars.next();
            }
            other => value.push(other),
        }
    }
    None
}

impl<S: ByteStream<Item = Result<Bytes, s3s::StdError>> + Unpin> Parts<S> {
    pub(super) fn of(headers: &HeaderMap, source: S) -> S3Result<Self> {
        let boundary = boundary(headers).ok_or_else(|| malformed("Content-Type names no boundary"))?;
        let delimiter = Finder::new(format!("\r\n--{boundary}").as_bytes()).into_owned();
        // The first delimiter may begin the body.
        Ok(Self { source, buffer: BytesMut::from(&b"\r\n"[..]), delimiter, left: MAX_BYTES_BEFORE_FILE })
    }

    async fn more(&mut self, context: &RequestContext) -> S3Result<()> {
        match self.source.next().await {
            Some(Ok(piece)) => {
                self.buffer.extend_from_slice(&piece);
                Ok(())
            }
            Some(Err(_)) => {
                Err(crate::s3::error::body_failure(context.body_failure().unwrap_or(BodyFailure::Incomplete)))
            }
            None => Err(malformed("it ends too early")),
        }
    }

    /// What stands before `needle`; both are taken out.
    async fn until(&mut self, needle: &Finder<'static>, context: &RequestContext) -> S3Result<Bytes> {
        loop {
            if let Some(at) = needle.find(&self.buffer) {
                self.left = self.left.checked_sub(at).ok_or_else(too_much)?;
                let before = self.buffer.split_to(at).freeze();
                let _ = self.buffer.split_to(needle.needle().len());
                return Ok(before);
            }
            if self.buffer.len() > self.left.saturating_add(needle.needle().len()) {
                return Err(too_much());
            }
            self.more(context).await?;
        }
    }

    /// The fields in front of the file; what is left is the file and what follows it.
    pub(super) async fn fields(&mut self, context: &RequestContext) -> S3Result<Fields> {
        let (line, head_end) = (Finder::new(b"\r\n"), Finder::new(b"\r\n\r\n"));
        let delimiter = self.delimiter.clone();
        let mut fields = Vec::new();
        self.until(&delimiter, context).await?;
        loop {
            while self.buffer.len() < 2 {
                self.more(context).await?;
            }
            if self.buffer.starts_with(b"--") {
                return Err(s3_error!(
                    IncorrectNumberOfFilesInPostRequest,
                    "The form has no field with the name file: it must be there once, as the last."
                ));
            }
            // White space may follow a boundary. What begins the next head stays, so that an empty one has its end.
            self.until(&line, context).await?;
            let mut head = BytesMut::from(&b"\r\n"[..]);
            head.unsplit(std::mem::take(&mut self.buffer));
            self.buffer = head;
            let head = self.until(&head_end, context).await?;
            let head = std::str::from_utf8(&head).map_err(|_| malformed("the head of a part is not UTF-8"))?;
            let disposition = head
                .lines()
                .filter_map(|line| line.split_once(':'))
                .find(|(name, _)| name.trim().eq_ignore_ascii_case("content-disposition"))
                .map(|(_, value)| value)
                .ok_or_else(|| malformed("a part has no Content-Disposition"))?;
            let name = parameter(disposition, "name").ok_or_else(|| malformed("a part has no name"))?;
            let name = name.to_ascii_lowercase();
            if name == "file" {
                let file_name = parameter(disposition, "filename").unwrap_or_default();
                return Ok(Fields { fields, file_name });
            }
            let value = self.until(&delimiter, context).await?;
            let value = std::str::from_utf8(&value).map_err(|_| malformed("a field is not UTF-8"))?;
            if fields.iter().any(|(other, _)| *other == name) {
                return Err(invalid(format!("The form has the field {name} more than once.")));
            }
            fields.push((name, value.to_owned()));
        }
    }
}

fn too_much() -> S3Error {
    s3_error!(
        MaxPostPreDataLengthExceededError,
        "What comes before the file has more than {MAX_BYTES_BEFORE_FILE} bytes."
    )
}

/// Fields that become headers of the same name.
const HEADERS: [&str; 7] = [
    "cache-control",
    "content-disposition",
    "content-encoding",
    "content-language",
    "content-md5",
    "content-type",
    "expires",
];

/// The same among those that begin with `x-amz-`: others would make another operation of the PUT, or another body.
const AMZ_HEADERS: [&str; 11] = [
    "x-amz-checksum-",
    "x-amz-grant-",
    "x-amz-meta-",
    "x-amz-object-lock-",
    "x-amz-sdk-checksum-algorithm",
    "x-amz-security-token",
    "x-amz-server-side-encryption",
    "x-amz-storage-class",
    "x-amz-tagging",
    "x-amz-website-redirect-location",
    "x-amz-acl",
];

impl Fields {
    pub(super) fn get(&self, name: &str) -> Option<&str> {
        self.fields.iter().find(|(field, _)| field == name).map(|(_, value)| value.as_str())
    }

    pub(super) fn set(&mut self, name: &str, value: String) {
        if let Some(field) = self.fields.iter_mut().find(|(field, _)| field == name) {
            field.1 = value;
        }
    }

    pub(super) fn names(&self) -> impl Iterator<Item = &str> {
        self.fields.iter().map(|(name, _)| name.as_str())
    }

    /// The key, with the file's name where it asks for it.
    pub(super) fn key(&self) -> S3Result<String> {
        let name = self.file_name.rsplit(['/', '\\']).next().unwrap_or_default();
        self.get("key").map(|key| key.replace("${filename}", name)).filter(|key| !key.is_empty()).ok_or_else(|| {
            invalid("Bucket POST must contain a field named 'key'. If it is specified, please check the order of the fields.")
        })
    }

    /// The headers of the PutObject.
    pub(super) fn headers(&self, host: &str) -> S3Result<HeaderMap> {
        let mut headers = HeaderMap::new();
        let mut put = |name: &str, value: &str| {
            let value = HeaderValue::from_bytes(value.as_bytes());
            let (Ok(name), Ok(value)) = (HeaderName::try_from(name), value) else {
                return Err(invalid(format!("The value of the field {name} cannot be a header's.")));
            };
            headers.insert(name, value);
            Ok(())
        };
        put("host", host)?;
        for (name, value) in &self.fields {
            match name.as_str() {
                "acl" => put("x-amz-acl", value)?,
                "tagging" => put("x-amz-tagging", &tags(value)?)?,
                name if HEADERS.contains(&name) || AMZ_HEADERS.iter().any(|start| name.starts_with(start)) => {
                    put(name, value)?;
                }
                _ => {}
            }
        }
        Ok(headers)
    }
}

/// The XML of the field `tagging` as the header has it.
fn tags(xml: &str) -> S3Result<String> {
    use s3s::xml::Deserialize as _;
    let mut deserializer = s3s::xml::Deserializer::new(xml.trim().as_bytes());
    let tagging = Tagging::deserialize(&mut deserializer)
        .map_err(|_| s3_error!(MalformedXML, "The field tagging is not the XML of a Tagging."))?;
    let encode = |text: &str| percent_encoding::utf8_percent_encode(text, IN_QUERY).to_string();
    let pair = |tag: &s3s::dto::Tag| {
        let text = |part: &Option<String>| encode(part.as_deref().unwrap_or_default());
        format!("{}={}", text(&tag.key), text(&tag.value))
    };
    Ok(tagging.tag_set.iter().map(pair).collect::<Vec<_>>().join("&"))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn parameters_are_read_as_browsers_write_them() {
        let text = r#" form-data; name="file"; filename="C:\dir\a \"b\".txt""#;
        assert_eq!(parameter(text, "name").as_deref(), Some("file"));
        assert_eq!(parameter(text, "FILENAME").as_deref(), Some(r#"C:\dir\a "b".txt"#));
        assert_eq!(parameter("multipart/form-data; boundary=ab-c", "boundary").as_deref(), Some("ab-c"));
        for text in ["form-data", "form-data; name", "form-data; name=\"open", ""] {
            assert_eq!(parameter(text, "name"), None, "{text}");
        }
    }

    #[test]
    fn no_field_makes_another_operation_of_the_put() {
        let pairs =
            [("key", "k"), ("x-amz-copy-source", "/b/k"), ("x-amz-meta-a", "1"), ("acl", "private"), ("range", "x")];
        let fields = pairs.map(|(name, value)| (name.to_owned(), value.to_owned())).to_vec();
        let headers = Fields { fields, file_name: String::new() }.headers("h").unwrap();
        let mut names: Vec<_> = headers.keys().map(HeaderName::as_str).collect();
        names.sort_unstable();
        assert_eq!(names, ["host", "x-amz-acl", "x-amz-meta-a"]);
    }

    #[test]
    fn tags_come_from_xml() {
        let xml = "<Tagging><TagSet><Tag><Key>a b</Key><Value>1&amp;2</Value></Tag></TagSet></Tagging>";
        assert_eq!(tags(xml).unwrap(), "a%20b=1%262");
        assert_eq!(tags("<Tagging>").unwrap_err().code().as_str(), "MalformedXML");
    }
}
