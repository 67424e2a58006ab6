//! The client's half of the answer: knows what was sent already, so that a rejection takes the form that is still
//! possible.

use std::future::poll_fn;
use std::sync::Arc;
use std::task::{Context, Poll, Waker};
use std::time::Duration;

use super::call_id::CallId;
use super::headers::NotGrpc;
use super::metered::Pace;
use super::outgoing::{Outgoing, SMALL};
use super::own::Status;
use super::right::Held;
use crate::clients::Reservation;
use crate::connection::Caller;
use crate::http2::{self, Closed, Stopped};
use crate::policy::method::Method;
use crate::status::{Code, Excess, Rejection, encode_message};
use bytes::Bytes;
use h2::server::SendResponse;
use h2::{Reason, SendStream};
use http::header::{CONTENT_TYPE, HeaderMap, HeaderValue};
use http::{Response, StatusCode};

const GRPC_STATUS: &str = "grpc-status";
const GRPC_MESSAGE: &str = "grpc-message";
/// HealthCheckResponse { status: SERVING } (grpc health.proto), framed.
const SERVING: Bytes = Bytes::from_static(b"\0\0\0\0\x02\x08\x01");
/// The same with NOT_SERVING.
const NOT_SERVING: Bytes = Bytes::from_static(b"\0\0\0\0\x02\x08\x02");

/// Bytes of an answer that go at a time where no more can be had: a DATA frame of the largest size.
const PIECE: u64 = http2::MAX_FRAME_SIZE as u64;

/// What was sent to the client so far.
pub(super) struct Answer {
    state: State,
    /// How long a client may take nothing at all; without it, for ever.
    patience: Option<Duration>,
    /// How fast the answer may go, where that is limited.
    pace: Option<Pace>,
    outgoing: Outgoing,
    /// What a backend may send meanwhile, where the client has to be waited for.
    behind: Reservation,
}

enum State {
    Nothing(SendResponse<Bytes>),
    Begun(SendStream<Bytes>),
    Done,
}

impl Answer {
    pub(super) fn new(respond: SendResponse<Bytes>, caller: &Arc<Caller>) -> Answer {
        Answer {
            behind: caller.purse.reservation(),
            outgoing: Outgoing::new(caller),
            state: State::Nothing(respond),
            patience: None,
            pace: None,
        }
    }

    /// Gives the client up when it takes nothing at all for so long.
    pub(super) fn wait_at_most(&mut self, patience: Duration) {
        self.patience = Some(patience);
    }

    /// What it has in any case: the rest of what the call takes.
    pub(super) fn set_least(&self, least: Reservation) {
        self.outgoing.set_least(least);
    }

    /// Reserves what a backend may send before the client takes any of it, and waits for other answers to end where that is
    /// not there.
    ///
    /// # Errors
    /// Where it takes too long.
    pub(super) async fn admit(&mut self, bytes: u64, patience: Duration) -> Result<(), Rejection> {
        let piece = bytes.min(PIECE);
        let all = bytes + piece;
        if self.behind.grow_to(all).is_err() {
            let more = all.saturating_sub(self.behind.bytes());
            Box::pin(self.behind.grow_when_free(more, patience)).await?;
        }
        if piece > SMALL as u64 {
            self.outgoing.set_least(self.behind.split(piece));
        }
        Ok(())
    }

    /// What is reserved already for the body.
    pub(super) fn prepay(&mut self, reservation: Reservation) {
        self.outgoing.prepay(reservation);
    }

    /// Sends the body no faster than this from now on.
    pub(super) fn pace(&mut self, pace: Pace) {
        self.pace = Some(pace);
    }

    /// Sends the response headers, which end the answer when `end_of_stream`.
    pub(super) fn head(&mut self, response: Response<()>, end_of_stream: bool) -> Result<(), Closed> {
        let State::Nothing(respond) = &mut self.state else {
            return Err(Closed);
        };
        let stream = respond.send_response(response, end_of_stream).map_err(|_| Closed)?;
        self.state = if end_of_stream {
            State::Done
        } else {
            State::Begun(stream)
        };
        Ok(())
    }

    /// Sends a piece of the body as the client's window allows. Where the client has to be waited for, that many bytes are
    /// reserved which a backend may send meanwhile.
    pub(super) async fn data(&mut self, mut chunk: Bytes, mut meanwhile: impl FnMut() -> u64) -> Result<(), Stopped> {
        if let Some(mut pace) = self.pace.take() {
            // Before the client is waited for: it does not stall meanwhile.
            tokio::select! {
                biased;
                () = pace.pass(chunk.len()) => self.pace = Some(pace),
                () = poll_fn(|cx| self.poll_closed(cx)) => return Err(Stopped::Closed),
            }
        }
        let State::Begun(stream) = &mut self.state else {
            return Err(Stopped::Closed);
        };
        let behind = &mut self.behind;
        let mut may_wait = || behind.grow_to(meanwhile()).is_ok();
        let outgoing = &mut self.outgoing;
        let send = async {
            while !chunk.is_empty() {
                match outgoing.piece(&mut chunk) {
                    Some(piece) => http2::send_within(self.patience, stream, piece, false, &mut may_wait).await?,
                    None if !may_wait() => return Err(Stopped::Unwanted),
                    None => {
                        // The stream may be reset meanwhile, and drops what it has.
                        let gone = http2::within(self.patience, outgoing.gone());
                        gone.await.ok_or(Stopped::Stalled)?;
                    }
                }
            }
            Ok(())
        };
        let sent = send.await;
        if sent == Err(Stopped::Stalled) {
            // What waits for it is let go of with the stream.
            stream.send_reset(Reason::CANCEL);
            self.state = State::Done;
        }
        sent
    }

    /// Sends the trailers, which end the answer.
    pub(super) fn trailers(&mut self, trailers: HeaderMap) -> Result<(), Closed> {
        match std::mem::replace(&mut self.state, State::Done) {
            State::Begun(mut stream) => stream.send_trailers(trailers).map_err(|_| Closed),
            State::Nothing(_) | State::Done => Err(Closed),
        }
    }

    /// Ready when the client has reset the stream, or its connection ended.
    pub(super) fn poll_closed(&mut self, cx: &mut Context<'_>) -> Poll<()> {
        match &mut self.state {
            State::Nothing(respond) => respond.poll_reset(cx).map(drop),
            State::Begun(stream) => stream.poll_reset(cx).map(drop),
            State::Done => Poll::Pending,
        }
    }

    /// Whether the client has reset the stream already, or its connection ended.
    pub(super) fn is_closed(&mut self) -> bool {
        self.poll_closed(&mut Context::from_waker(Waker::noop())).is_ready()
    }

    /// Answers with a status of the gate: trailers-only while nothing was sent, as trailers after that. HTTP 200 always:
    /// what clients make of other HTTP statuses differs (grpc doc/http-grpc-status-mapping.md).
    ///
    /// The request may still be running. h2 resets it with NO_ERROR once the answer is out and both halves are dropped,
    /// as RFC 9113, 8.1 wants.
    pub(super) fn reject(&mut self, rejection: &Rejection, call: CallId) {
        let mut status = status_headers(rejection.code() as u8, &rejection.grpc_message(call));
        let details = rejection.details();
        if let Some(details) = details.and_then(|details| HeaderValue::try_from(details).ok()) {
            status.insert("grpc-status-details-bin", details);
        }
        // A client that is gone hears nothing, which is nobody's fault.
        let _gone = match &self.state {
            State::Nothing(_) => {
                let mut response = Response::new(());
                *response.headers_mut() = status;
                response
                    .headers_mut()
                    .insert(CONTENT_TYPE, HeaderValue::from_static("application/grpc"));
                self.head(response, true)
            }
            State::Begun(_) => self.trailers(status),
            State::Done => Ok(()),
        };
    }

    /// Answers with a message, which comes with its prefix, and OK; or with another status alone. Gives the status.
    pub(super) async fn message(&mut self, result: Result<Bytes, Status>) -> Result<u8, Rejection> {
        let mut response = Response::new(());
        let (body, status) = match result {
            Ok(body) => (Some(body), status_headers(Code::Ok as u8, "")),
            Err(status) => (None, status_headers(status.code, &encode_message(&status.message))),
        };
        let code = grpc_status(&status).unwrap_or_default();
        if body.is_none() {
            *response.headers_mut() = status.clone();
        }
        let content_type = HeaderValue::from_static("application/grpc");
        response.headers_mut().insert(CONTENT_TYPE, content_type);
        self.head(response, body.is_none())?;
        if let Some(body) = body {
            self.data(body, || 0).await?;
            self.trailers(status)?;
        }
        Ok(code)
    }

    /// Answers a request that is no gRPC; gives the HTTP status.
    pub(super) fn not_grpc(&mut self, not_grpc: NotGrpc) -> StatusCode {
        let status = match not_grpc {
            NotGrpc::Method => StatusCode::METHOD_NOT_ALLOWED,
            NotGrpc::ContentType => StatusCode::UNSUPPORTED_MEDIA_TYPE,
        };
        let mut response = Response::new(());
        *response.status_mut() = status;
        let _gone = self.head(response, true);
        status
    }

    /// Answers `grpc.health.v1.Health`: the gate serves until it drains. Watch stays open until then, or until the client
    /// leaves, its connection does nothing else for too long, or its certificate is withdrawn: one that stayed longer would
    /// hold up every drain to its timeout, or keep a connection that nobody should have.
    pub(super) async fn health(&mut self, method: Method, caller: &Caller, held: &mut Held) -> Result<u8, Rejection> {
        let mut draining = caller.shared.draining.subscribe();
        if method != Method::HealthWatch {
            let status = if *draining.borrow() { NOT_SERVING } else { SERVING };
            return self.message(Ok(status)).await;
        }
        let mut watch = caller.watches.begin().ok_or_else(|| {
            let again = Duration::from_secs(1);
            Rejection::Limited(caller.peer.identity.clone(), Excess::Watches, again)
        })?;
        let mut response = Response::new(());
        let content_type = HeaderValue::from_static("application/grpc");
        response.headers_mut().insert(CONTENT_TYPE, content_type);
        self.head(response, false)?;
        if !*draining.borrow() {
            self.data(SERVING, || 0).await?;
            tokio::select! {
                // The sender outlives all calls.
                _ = draining.wait_for(|draining| *draining) => {}
                () = poll_fn(|cx| self.poll_closed(cx)) => return Err(Rejection::Cancelled),
                rejection = held.lost_certificate() => return Err(rejection),
                // Also at a drain, and where the certificate is withdrawn.
                () = watch.over() => {
                    held.check_certificate()?;
                    if !*caller.shared.draining.borrow() {
                        return Err(Rejection::Idle);
                    }
                }
            }
        }
        self.data(NOT_SERVING, || 0).await?;
        self.trailers(status_headers(Code::Ok as u8, ""))?;
        Ok(Code::Ok as u8)
    }
}

/// The trailers of a status; the message is percent-encoded already.
fn status_headers(code: u8, message: &str) -> HeaderMap {
    let mut headers = HeaderMap::with_capacity(3);
    headers.insert(GRPC_STATUS, HeaderValue::from(u16::from(code)));
    if !message.is_empty()
        && let Ok(message) = HeaderValue::from_str(message)
    {
        headers.insert(GRPC_MESSAGE, message);
    }
    headers
}

/// The status in headers or trailers; a value that is no number reads as Unknown (grpc doc/statuscodes.md).
pub(crate) fn grpc_status(headers: &HeaderMap) -> Option<u8> {
    let value = headers.get(GRPC_STATUS)?;
    Some(
        value
            .to_str()
            .ok()
            .and_then(|text| text.parse().ok())
            .unwrap_or(Code::Unknown as u8),
    )
}
