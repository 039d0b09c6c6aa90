//! OSS's errors: status, code, message, EC, and the XML document (or, for HEAD, the two headers) that carries them.

use crate::xml::Writer;
use base64::Engine;
use http::StatusCode;

/// One error answer. Extra nodes go into the document in the given order.
#[derive(Debug, Clone)]
pub struct OssError {
    /// HTTP status.
    pub status: u16,
    /// The `<Code>`.
    pub code: &'static str,
    /// The `<Message>`.
    pub message: String,
    /// The EC, the fine-grained code of the vendor's help pages.
    pub ec: &'static str,
    /// Further nodes of the document.
    pub extra: Vec<(&'static str, String)>,
    /// Further response headers.
    pub headers: Vec<(&'static str, String)>,
}

/// The EC of errors for which the vendor's pages give none.
const EC_UNKNOWN: &str = "0016-00000000";

impl OssError {
    /// An error without extras. The EC is looked up by code.
    pub fn new(status: u16, code: &'static str, message: impl Into<String>) -> OssError {
        OssError { status, code, message: message.into(), ec: ec_of(code), extra: Vec::new(), headers: Vec::new() }
    }

    /// The same error with another EC.
    pub fn ec(mut self, ec: &'static str) -> OssError {
        self.ec = ec;
        self
    }

    /// The same error with one more node.
    pub fn with(mut self, name: &'static str, value: impl Into<String>) -> OssError {
        self.extra.push((name, value.into()));
        self
    }

    /// The same error with one more response header.
    pub fn header(mut self, name: &'static str, value: impl Into<String>) -> OssError {
        self.headers.push((name, value.into()));
        self
    }

    /// The status as hyper wants it.
    pub fn status_code(&self) -> StatusCode {
        StatusCode::from_u16(self.status).unwrap_or(StatusCode::INTERNAL_SERVER_ERROR)
    }

    /// The XML document.
    pub fn document(&self, request_id: &str, host: &str) -> String {
        let mut xml = Writer::new("Error");
        xml.text("Code", self.code);
        xml.text("Message", &self.message);
        xml.text("RequestId", request_id);
        xml.text("HostId", host);
        for (name, value) in &self.extra {
            xml.text(name, value);
        }
        xml.text("EC", self.ec);
        xml.text("RecommendDoc", &format!("https://api.aliyun.com/troubleshoot?q={}", self.ec));
        xml.finish()
    }

    /// The value of `x-oss-err`: the document in base64, since a HEAD answer has no body.
    pub fn head_header(&self, request_id: &str, host: &str) -> String {
        base64::engine::general_purpose::STANDARD.encode(self.document(request_id, host))
    }

    /// 404 NoSuchKey.
    pub fn no_such_key(key: &str) -> OssError {
        OssError::new(404, "NoSuchKey", "The specified key does not exist.").with("Key", key)
    }

    /// 404 NoSuchBucket.
    pub fn no_such_bucket(bucket: &str) -> OssError {
        OssError::new(404, "NoSuchBucket", "The specified bucket does not exist.").with("BucketName", bucket)
    }

    /// 404 NoSuchUpload.
    pub fn no_such_upload(id: &str) -> OssError {
        OssError::new(
            404,
            "NoSuchUpload",
            "The specified upload does not exist. The upload ID may be invalid, or the upload may have been aborted or completed.",
        )
        .with("UploadId", id)
    }

    /// 400 InvalidArgument about one argument.
    pub fn invalid_argument(message: impl Into<String>, name: &str, value: &str) -> OssError {
        OssError::new(400, "InvalidArgument", message).with("ArgumentName", name).with("ArgumentValue", value)
    }

    /// 400 MalformedXML.
    pub fn malformed_xml(detail: &str) -> OssError {
        OssError::new(
            400,
            "MalformedXML",
            "The XML you provided was not well-formed or did not validate against our published schema.",
        )
        .with("ErrorDetail", detail)
    }

    /// 403 AccessDenied.
    pub fn access_denied(message: impl Into<String>) -> OssError {
        OssError::new(403, "AccessDenied", message)
    }

    /// 403 InvalidObjectState: the object is frozen, or still being restored.
    pub fn frozen(key: &str) -> OssError {
        OssError::new(403, "InvalidObjectState", "The operation is not valid for the object's state.")
            .with("ObjectName", key)
    }

    /// 412 PreconditionFailed.
    pub fn precondition(header: &str) -> OssError {
        OssError::new(412, "PreconditionFailed", "At least one of the pre-conditions you specified did not hold.")
            .with("Condition", header)
    }

    /// 405 for a method on a resource that does not know it.
    pub fn method_not_allowed(method: &str) -> OssError {
        OssError::new(405, "MethodNotAllowed", "The specified method is not allowed against this resource.")
            .with("Method", method)
    }

    /// 501 for what this simulator does not simulate; the name says what.
    pub fn not_simulated(what: &str) -> OssError {
        OssError::new(501, "NotImplemented", "A header you provided implies functionality that is not implemented.")
            .with("Header", what)
    }

    /// 500 InternalError, for failures of the simulator's own disk.
    pub fn internal(detail: impl std::fmt::Display) -> OssError {
        OssError::new(500, "InternalError", format!("We encountered an internal error: {detail}"))
    }
}

impl From<std::io::Error> for OssError {
    fn from(error: std::io::Error) -> OssError {
        OssError::internal(error)
    }
}

fn ec_of(code: &str) -> &'static str {
    match code {
        "NoSuchBucket" => "0015-00000101",
        "BucketAlreadyExists" => "0015-00000104",
        "BucketNotEmpty" => "0015-00000301",
        "NoSuchKey" => "0026-00000001",
        "RestoreAlreadyInProgress" => "0026-00000011",
        "PositionNotEqualToLength" => "0026-00000016",
        "InvalidObjectState" => "0016-00000404",
        "OperationNotSupported" => "0016-00000702",
        "ArchiveRestoreFileStale" => "0016-00000718",
        "ArchiveRestoreNotFinished" => "0016-00000719",
        "MalformedXML" => "0016-00000608",
        "SignatureDoesNotMatch" => "0002-00000040",
        "SecurityTokenExpired" => "0002-00000007",
        "InvalidSecurityToken" => "0002-00000008",
        "InvalidAccessKeyId" => "0002-00000902",
        "RequestTimeTooSkewed" => "0002-00000504",
        "AccessDenied" => "0003-00000001",
        "SecondLevelDomainForbidden" => "0003-00000905",
        _ => EC_UNKNOWN,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_document_has_the_nodes_that_clients_read() {
        let text = OssError::no_such_key("a&b").document("5C3D9175B6FC201293AD0001", "b.host");
        assert!(
            text.starts_with("<?xml version=\"1.0\" encoding=\"UTF-8\"?>\n<Error><Code>NoSuchKey</Code>"),
            "{text}"
        );
        assert!(text.contains("<Key>a&amp;b</Key><EC>0026-00000001</EC><RecommendDoc>https://"), "{text}");
        assert!(text.contains("<RequestId>5C3D9175B6FC201293AD0001</RequestId><HostId>b.host</HostId>"), "{text}");
    }
}
