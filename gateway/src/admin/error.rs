//! Errors of the admin API: a status, a kind for programs, a message for people.

use actix_web::http::StatusCode;
use actix_web::{HttpResponse, ResponseError};
use serde::{Deserialize, Serialize};
use std::fmt;
use tidegate_tiering::engine::EngineError;

/// What the body of an error says.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct ErrorBody {
    /// One of a few words: `not_found`, `invalid`, `unauthorized`, `forbidden`, `busy`, `unavailable`, `tier`, `policy`,
    /// `internal`.
    pub kind: String,
    /// What went wrong, and the way out.
    pub error: String,
}

/// The kind of an error of the policy's file.
pub const POLICY: &str = "policy";

/// An error of the admin API.
#[derive(Debug)]
pub struct ApiError {
    status: StatusCode,
    kind: &'static str,
    message: String,
}

impl ApiError {
    /// 400: the request makes no sense.
    pub fn invalid(message: impl Into<String>) -> Self {
        Self { status: StatusCode::BAD_REQUEST, kind: "invalid", message: message.into() }
    }

    /// 400: the policy's file is wrong or cannot be read.
    pub fn policy(message: impl Into<String>) -> Self {
        Self { status: StatusCode::BAD_REQUEST, kind: POLICY, message: message.into() }
    }

    /// 401: no token, or a wrong one.
    pub fn unauthorized(message: impl Into<String>) -> Self {
        Self { status: StatusCode::UNAUTHORIZED, kind: "unauthorized", message: message.into() }
    }

    /// 403: the configuration does not allow this.
    pub fn forbidden(message: impl Into<String>) -> Self {
        Self { status: StatusCode::FORBIDDEN, kind: "forbidden", message: message.into() }
    }

    /// 404: there is no such path.
    pub fn not_found(message: impl Into<String>) -> Self {
        Self { status: StatusCode::NOT_FOUND, kind: "not_found", message: message.into() }
    }

    /// 409: the same work is being done.
    pub fn busy(message: impl Into<String>) -> Self {
        Self { status: StatusCode::CONFLICT, kind: "busy", message: message.into() }
    }

    /// 503: not now.
    pub fn unavailable(message: impl Into<String>) -> Self {
        Self { status: StatusCode::SERVICE_UNAVAILABLE, kind: "unavailable", message: message.into() }
    }

    /// 500: a failure of ours.
    pub fn internal(message: impl Into<String>) -> Self {
        Self { status: StatusCode::INTERNAL_SERVER_ERROR, kind: "internal", message: message.into() }
    }

    /// The body as it is sent.
    pub fn body(&self) -> ErrorBody {
        ErrorBody { kind: self.kind.to_owned(), error: self.message.clone() }
    }
}

impl From<EngineError> for ApiError {
    fn from(error: EngineError) -> Self {
        let message = error.to_string();
        match error {
            EngineError::NoSuchBucket(_) | EngineError::NoSuchKey { .. } | EngineError::NoSuchUpload(_) => {
                Self::not_found(message)
            }
            EngineError::InvalidArgument(_) | EngineError::InvalidRequest(_) => Self::invalid(message),
            EngineError::Conflict => Self::busy(message),
            EngineError::SlowDown(_) | EngineError::Unavailable(_) => Self::unavailable(message),
            EngineError::Tier { .. } => Self { status: StatusCode::BAD_GATEWAY, kind: "tier", message },
            _ => Self::internal(message),
        }
    }
}

impl fmt::Display for ApiError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.message)
    }
}

impl ResponseError for ApiError {
    fn status_code(&self) -> StatusCode {
        self.status
    }

    fn error_response(&self) -> HttpResponse {
        let mut response = HttpResponse::build(self.status);
        if self.status == StatusCode::UNAUTHORIZED {
            response.insert_header(("www-authenticate", "Bearer"));
        }
        response.json(self.body())
    }
}
