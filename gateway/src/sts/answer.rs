//! What STS answers, as XML.

use crate::users::session::{Session, TemporaryKeys};
use http::header::CONTENT_TYPE;
use http::{HeaderValue, Response, StatusCode};
use s3s::Body;

const NAMESPACE: &str = "https://sts.amazonaws.com/doc/2011-06-15/";

/// An error.
#[derive(Debug)]
pub(super) struct StsError {
    status: StatusCode,
    code: String,
    message: String,
}

impl StsError {
    /// One that is the caller's.
    pub(super) fn sender(code: impl Into<String>, status: StatusCode, message: impl Into<String>) -> Self {
        Self { status, code: code.into(), message: message.into() }
    }

    /// 400 with `ValidationError`.
    pub(super) fn validation(message: impl Into<String>) -> Self {
        Self::sender("ValidationError", StatusCode::BAD_REQUEST, message)
    }

    /// 403 with `AccessDenied`.
    pub(super) fn denied(message: impl Into<String>) -> Self {
        Self::sender("AccessDenied", StatusCode::FORBIDDEN, message)
    }

    /// What S3 calls `code`, in the words of STS.
    pub(super) fn of_s3(code: &str, message: &str, status: StatusCode) -> Self {
        let (code, status) = match code {
            "InvalidAccessKeyId" | "InvalidToken" => ("InvalidClientTokenId", StatusCode::FORBIDDEN),
            "ExpiredToken" => ("ExpiredToken", StatusCode::FORBIDDEN),
            "RequestTimeTooSkewed" => ("SignatureDoesNotMatch", StatusCode::FORBIDDEN),
            "InternalError" => ("InternalFailure", status),
            "SlowDown" => ("Throttling", status),
            other => (other, status),
        };
        let message = match (code, message) {
            ("InvalidClientTokenId", _) => "The security token included in the request is invalid.",
            ("SignatureDoesNotMatch", "") => {
                "The request signature we calculated does not match the signature you provided. Check your secret key and signing method."
            }
            (_, message) => message,
        };
        Self::sender(code, status, message)
    }

    pub(super) fn into_response(self, request_id: &str) -> Response<Body> {
        let kind = if self.status.is_server_error() { "Receiver" } else { "Sender" };
        let (code, message) = (escape(&self.code), escape(&self.message));
        let xml = format!(
            "<ErrorResponse xmlns=\"{NAMESPACE}\"><Error><Type>{kind}</Type><Code>{code}</Code><Message>{message}</Message></Error>\
             <RequestId>{request_id}</RequestId></ErrorResponse>"
        );
        respond(self.status, xml)
    }
}

/// Code and message of an error as S3 writes it.
pub(super) fn said_by_s3(xml: &[u8]) -> Option<(String, String)> {
    let text = std::str::from_utf8(xml).ok()?;
    let inside = |tag: &str| Some(text.split_once(&format!("<{tag}>"))?.1.split_once(&format!("</{tag}>"))?.0);
    let plain = |text: &str| {
        let text = text.replace("&lt;", "<").replace("&gt;", ">").replace("&quot;", "\"").replace("&apos;", "'");
        text.replace("&amp;", "&")
    };
    if !text.contains("<Error>") || text.contains("<ErrorResponse") {
        return None;
    }
    Some((inside("Code")?.to_owned(), inside("Message").map(plain).unwrap_or_default()))
}

/// An answer.
#[derive(Debug)]
pub(super) struct Answer {
    action: &'static str,
    result: String,
}

impl Answer {
    /// The keys of a session, and what stands behind them in the result.
    pub(super) fn session(action: &'static str, (session, keys): (&Session, &TemporaryKeys), more: &str) -> Self {
        let (access_key, secret, token) = (escape(&keys.access_key), escape(&keys.secret), escape(&keys.token));
        let expires = session.expires;
        let result = format!(
            "<Credentials><AccessKeyId>{access_key}</AccessKeyId><SecretAccessKey>{secret}</SecretAccessKey>\
             <SessionToken>{token}</SessionToken><Expiration>{expires}</Expiration></Credentials>{more}"
        );
        Self { action, result }
    }

    /// Plain elements.
    pub(super) fn of(action: &'static str, elements: &[(&str, &str)]) -> Self {
        Self { action, result: elements_of(elements) }
    }

    pub(super) fn into_response(self, request_id: &str) -> Response<Body> {
        let Self { action, result } = self;
        let xml = format!(
            "<{action}Response xmlns=\"{NAMESPACE}\"><{action}Result>{result}</{action}Result>\
             <ResponseMetadata><RequestId>{request_id}</RequestId></ResponseMetadata></{action}Response>"
        );
        respond(StatusCode::OK, xml)
    }
}

/// `<name>text</name>` of each.
pub(super) fn elements_of(elements: &[(&str, &str)]) -> String {
    elements.iter().map(|(name, text)| format!("<{name}>{}</{name}>", escape(text))).collect()
}

fn respond(status: StatusCode, xml: String) -> Response<Body> {
    let mut response = Response::new(Body::from(xml));
    *response.status_mut() = status;
    response.headers_mut().insert(CONTENT_TYPE, HeaderValue::from_static("text/xml"));
    response
}

fn escape(text: &str) -> String {
    text.replace('&', "&amp;").replace('<', "&lt;").replace('>', "&gt;").replace('"', "&quot;")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_error_of_s3_becomes_one_of_sts() {
        let xml =
            b"<?xml version=\"1.0\"?><Error><Code>InvalidAccessKeyId</Code><Message>a &lt;b&gt;</Message></Error>";
        let (code, message) = said_by_s3(xml).unwrap();
        assert_eq!((code.as_str(), message.as_str()), ("InvalidAccessKeyId", "a <b>"));
        let response = StsError::of_s3(&code, &message, StatusCode::FORBIDDEN).into_response("ID");
        let text = String::from_utf8(response.body().bytes().unwrap().to_vec()).unwrap();
        assert!(text.contains("<Type>Sender</Type><Code>InvalidClientTokenId</Code>"), "{text}");
        assert!(text.ends_with("<RequestId>ID</RequestId></ErrorResponse>"), "{text}");
        assert_eq!(said_by_s3(text.as_bytes()), None);
        assert_eq!(said_by_s3(b"<a/>"), None);
        let odd = StsError::sender("X", StatusCode::INTERNAL_SERVER_ERROR, "<&>").into_response("ID");
        let text = String::from_utf8(odd.body().bytes().unwrap().to_vec()).unwrap();
        assert!(text.contains("<Type>Receiver</Type>") && text.contains("&lt;&amp;&gt;"), "{text}");
    }
}
