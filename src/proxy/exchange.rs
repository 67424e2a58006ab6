//! A call on its way: the body up, the answer down, a reset of either side to the other, and once more on another
//! connection where the backend has certainly not seen it.

use std::future::poll_fn;
use std::pin::{Pin, pin};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::task::{Context, Poll};

use bytes::{Bytes, BytesMut};
use h2::client::ResponseFuture;
use h2::{RecvStream, SendStream};
use http::header::{CONTENT_LENGTH, CONTENT_TYPE, HeaderMap};
use http::{Response, StatusCode};

use super::answer::{Answer, grpc_status};
use super::body::{Stop, Upload};
use super::capabilities::{self, May};
use super::headers;
use super::record::Record;
use super::right::Held;
use crate::http2::{self, Closed};
use crate::policy::Permit;
use crate::status::{Code, Rejection};
use crate::upstream::{Backend, Outbound};

/// How often a call is sent again at most.
const RESENDS: usize = 3;

/// A call and the backend that it goes to.
pub(super) struct Exchange<'a> {
    /// The backend.
    pub(super) backend: &'a Arc<Backend>,
    /// The thread whose connections are used.
    pub(super) worker: usize,
    /// The request headers, fit for the backend.
    pub(super) headers: HeaderMap,
    /// What the caller is told of the capabilities, where the answer is edited.
    pub(super) told: Option<May>,
}

/// How a try ended without an answer for the client.
enum Failure {
    /// For good.
    Reject(Rejection),
    /// The backend has certainly not seen the call.
    Unprocessed(String),
}

impl From<Closed> for Failure {
    /// The client takes no more of its answer.
    fn from(_: Closed) -> Failure {
        Failure::Reject(Rejection::Cancelled)
    }
}

impl From<Rejection> for Failure {
    fn from(rejection: Rejection) -> Failure {
        Failure::Reject(rejection)
    }
}

impl Exchange<'_> {
    /// Runs the call; gives the gRPC status that the client got. `held` ends the call when its right is lost.
    pub(super) async fn run(
        &self,
        mut permit: Permit,
        upload: &mut Upload,
        answer: &mut Answer,
        record: &mut Record,
        held: &mut Held,
    ) -> Result<u8, Rejection> {
        let mut last = String::new();
        for _ in 0..=RESENDS {
            let is_empty = upload.is_empty();
            let sent = self
                .backend
                .send(permit, self.worker, self.headers.clone(), is_empty)
                .await;
            let outbound = sent.map_err(|(_, unreachable)| self.unavailable(unreachable.0))?;
            let Outbound {
                permit: back,
                response,
                mut body,
                load: _load,
            } = outbound;
            permit = back;
            let result = tokio::select! {
                biased;
                result = self.relay(response, (!is_empty).then_some(&mut body), upload, answer, record) => result,
                rejection = held.lost(&permit) => Err(Failure::Reject(rejection)),
            };
            match result {
                Ok(code) => return Ok(code),
                Err(Failure::Reject(rejection)) => return Err(rejection),
                Err(Failure::Unprocessed(reason)) => {
                    last = reason;
                    if !upload.rewind() {
                        break;
                    }
                    self.backend.count_resent();
                }
            }
        }
        Err(self.unavailable(last))
    }

    async fn relay(
        &self,
        mut response: ResponseFuture,
        body: Option<&mut SendStream<Bytes>>,
        upload: &mut Upload,
        answer: &mut Answer,
        record: &mut Record,
    ) -> Result<u8, Failure> {
        let answer_begun = AtomicBool::new(false);
        let up = async {
            match body {
                Some(body) => upload.forward(body, &answer_begun).await,
                None => Ok(()),
            }
        };
        let mut up = Some(pin!(up));
        let head = poll_fn(|cx| {
            if answer.poll_closed(cx).is_ready() {
                return Poll::Ready(Err(Failure::Reject(Rejection::Cancelled)));
            }
            if let Some(rejection) = poll_upload(&mut up, cx) {
                return Poll::Ready(Err(rejection.into()));
            }
            Pin::new(&mut response)
                .poll(cx)
                .map(|head| head.map_err(|error| self.failure(&error)))
        })
        .await?;
        answer_begun.store(true, Ordering::Relaxed);
        let mut down = pin!(self.down(head, answer, record));
        poll_fn(|cx| {
            // The answer first: one that is complete stands, whatever becomes of the rest of the request.
            if let Poll::Ready(result) = down.as_mut().poll(cx) {
                return Poll::Ready(result);
            }
            match poll_upload(&mut up, cx) {
                Some(rejection) => Poll::Ready(Err(rejection.into())),
                None => Poll::Pending,
            }
        })
        .await
    }

    async fn down(&self, head: Response<RecvStream>, answer: &mut Answer, record: &mut Record) -> Result<u8, Failure> {
        let (mut parts, mut body) = head.into_parts();
        let status = grpc_status(&parts.headers);
        self.check_grpc(parts.status, &parts.headers, status)?;
        headers::for_client(&mut parts.headers);
        if body.is_end_stream() {
            let code = status.ok_or_else(|| self.without_status())?;
            answer.head(Response::from_parts(parts, ()), true)?;
            return Ok(code);
        }
        match self.told {
            None => {
                answer.head(Response::from_parts(parts, ()), false)?;
                while let Some(chunk) = self.next(&mut body, answer).await? {
                    let length = chunk.len();
                    record.sent(length);
                    answer.data(chunk).await?;
                    release(&mut body, length);
                }
                let (code, trailers) = self.trailers(&mut body).await?;
                answer.trailers(trailers)?;
                Ok(code)
            }
            Some(may) => {
                parts.headers.remove(CONTENT_LENGTH);
                let mut message = BytesMut::new();
                while let Some(chunk) = self.next(&mut body, answer).await? {
                    release(&mut body, chunk.len());
                    if message.len() + chunk.len() > capabilities::LONGEST {
                        return Err(self
                            .not_grpc("its capabilities are longer than 64 KiB", Code::Unknown)
                            .into());
                    }
                    message.extend_from_slice(&chunk);
                }
                let (code, trailers) = self.trailers(&mut body).await?;
                answer.head(Response::from_parts(parts, ()), false)?;
                if !message.is_empty() {
                    let told = capabilities::tell(&message, may)
                        .map_err(|error| self.not_grpc(&error.to_string(), Code::Unknown))?;
                    record.sent(told.len());
                    answer.data(told).await?;
                }
                answer.trailers(trailers)?;
                Ok(code)
            }
        }
    }

    /// The next piece of the answer, unless the client goes away first.
    async fn next(&self, body: &mut RecvStream, answer: &mut Answer) -> Result<Option<Bytes>, Failure> {
        poll_fn(|cx| {
            if answer.poll_closed(cx).is_ready() {
                return Poll::Ready(Err(Failure::Reject(Rejection::Cancelled)));
            }
            body.poll_data(cx).map(|chunk| {
                chunk
                    .transpose()
                    .map_err(|error| Failure::Reject(self.unavailable(error.to_string())))
            })
        })
        .await
    }

    async fn trailers(&self, body: &mut RecvStream) -> Result<(u8, HeaderMap), Failure> {
        let trailers = body.trailers().await;
        let trailers = trailers.map_err(|error| self.unavailable(error.to_string()))?;
        let mut trailers = trailers.ok_or_else(|| self.without_status())?;
        headers::for_client(&mut trailers);
        let code = grpc_status(&trailers).ok_or_else(|| self.without_status())?;
        Ok((code, trailers))
    }

    /// An answer that is no gRPC gets the status of the gRPC mapping (grpc doc/http-grpc-status-mapping.md), but for
    /// 401 and 403: whoever the backend does not know is the gate and not the caller.
    fn check_grpc(&self, status: StatusCode, headers: &HeaderMap, grpc: Option<u8>) -> Result<(), Rejection> {
        if status == StatusCode::OK && (grpc.is_some() || headers.get(CONTENT_TYPE).is_some_and(headers::is_grpc)) {
            return Ok(());
        }
        let code = match status.as_u16() {
            404 => Code::Unimplemented,
            429 | 502 | 503 | 504 => Code::Unavailable,
            _ => Code::Unknown,
        };
        let content_type = headers
            .get(CONTENT_TYPE)
            .and_then(|value| value.to_str().ok())
            .unwrap_or("none");
        Err(self.not_grpc(
            &format!("HTTP status {}, content type `{content_type}`", status.as_u16()),
            code,
        ))
    }

    fn failure(&self, error: &h2::Error) -> Failure {
        if http2::is_unprocessed(error) {
            Failure::Unprocessed(error.to_string())
        } else {
            Failure::Reject(self.unavailable(error.to_string()))
        }
    }

    fn without_status(&self) -> Rejection {
        self.unavailable("it ended its answer without a status".to_owned())
    }

    fn unavailable(&self, reason: String) -> Rejection {
        Rejection::Unavailable {
            backend: self.backend.name().to_owned(),
            reason,
        }
    }

    fn not_grpc(&self, reason: &str, code: Code) -> Rejection {
        Rejection::NotGrpc {
            backend: self.backend.name().to_owned(),
            reason: reason.to_owned(),
            code,
        }
    }
}

/// Moves the upload on. It is over when it is complete, and when the backend takes no more: then the answer says why.
fn poll_upload<F>(up: &mut Option<Pin<&mut F>>, cx: &mut Context<'_>) -> Option<Rejection>
where
    F: Future<Output = Result<(), Stop>>,
{
    let poll = up.as_mut()?.as_mut().poll(cx);
    let Poll::Ready(result) = poll else { return None };
    *up = None;
    match result {
        Ok(()) | Err(Stop::BackendClosed) => None,
        Err(Stop::Reject(rejection)) => Some(rejection),
    }
}

fn release(body: &mut RecvStream, bytes: usize) {
    // Fails only when the stream is gone, and then there is no window to give back.
    let _gone = body.flow_control().release_capacity(bytes);
}
