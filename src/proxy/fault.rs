//! What a backend did wrong, in the words of a [`Rejection`].

use http::header::{CONTENT_TYPE, HeaderMap};
use http::{Response, StatusCode};

use super::answer::grpc_status;
use super::headers;
use crate::http2::{self, Closed, Stopped};
use crate::status::{Code, Rejection};
use crate::upstream::Backend;

/// How a try ended without an answer for the client.
pub(super) enum Failure {
    /// For good.
    Reject(Rejection),
    /// The backend has certainly not seen the call.
    Unprocessed(String),
}

impl From<Rejection> for Failure {
    fn from(rejection: Rejection) -> Failure {
        Failure::Reject(rejection)
    }
}

impl From<Closed> for Rejection {
    /// The client takes no more of its answer.
    fn from(_: Closed) -> Rejection {
        Rejection::Cancelled
    }
}

impl From<Stopped> for Rejection {
    fn from(stopped: Stopped) -> Rejection {
        match stopped {
            Stopped::Closed => Rejection::Cancelled,
            Stopped::Stalled => Rejection::Stalled,
            Stopped::Unwanted => Rejection::Memory,
        }
    }
}

impl From<Stopped> for Failure {
    fn from(stopped: Stopped) -> Failure {
        Failure::Reject(stopped.into())
    }
}

impl From<Closed> for Failure {
    fn from(closed: Closed) -> Failure {
        Failure::Reject(closed.into())
    }
}

/// Words for the faults of one backend.
#[derive(Clone, Copy)]
pub(super) struct Faults<'a>(pub(super) &'a Backend);

impl Faults<'_> {
    /// It could not be reached, or broke off.
    pub(super) fn unavailable(self, reason: impl ToString) -> Rejection {
        Rejection::Unavailable {
            backend: self.0.name().to_owned(),
            reason: reason.to_string(),
        }
    }

    /// It answered, but not as a gRPC server does.
    pub(super) fn not_grpc(self, reason: &str, code: Code) -> Rejection {
        Rejection::NotGrpc {
            backend: self.0.name().to_owned(),
            reason: reason.to_owned(),
            code,
        }
    }

    /// It ended its answer too early.
    pub(super) fn without_status(self) -> Rejection {
        self.unavailable("it ended its answer without a status")
    }

    /// The request failed before an answer came.
    pub(super) fn failure(self, error: &h2::Error) -> Failure {
        if http2::is_unprocessed(error) {
            Failure::Unprocessed(http2::plain(error))
        } else {
            Failure::Reject(self.unavailable(http2::plain(error)))
        }
    }

    /// Checks the head of an answer, and gives the status where the head has it already.
    ///
    /// An answer that is no gRPC gets the status of the gRPC mapping (grpc doc/http-grpc-status-mapping.md), but for
    /// 401 and 403: whoever the backend does not know is the gate and not the caller.
    pub(super) fn check_head<T>(self, head: &Response<T>) -> Result<Option<u8>, Rejection> {
        let status = grpc_status(head.headers());
        let is_grpc = head.headers().get(CONTENT_TYPE).is_some_and(headers::is_grpc);
        if head.status() == StatusCode::OK && (status.is_some() || is_grpc) {
            return Ok(status);
        }
        let code = match head.status().as_u16() {
            404 => Code::Unimplemented,
            429 | 502 | 503 | 504 => Code::Unavailable,
            _ => Code::Unknown,
        };
        let content_type = content_type(head.headers());
        let reason = format!("HTTP status {}, content type `{content_type}`", head.status().as_u16());
        Err(self.not_grpc(&reason, code))
    }
}

fn content_type(headers: &HeaderMap) -> &str {
    let value = headers.get(CONTENT_TYPE).and_then(|value| value.to_str().ok());
    value.unwrap_or("none")
}
