//! A call on its way: the body up, the answer down, a reset of either side to the other, and once more on another
//! connection where the backend has certainly not seen it.

pub(super) mod fit;

use std::future::poll_fn;
use std::pin::{Pin, pin};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::task::{Context, Poll};

use bytes::{Bytes, BytesMut};
use h2::RecvStream;
use http::Response;
use http::header::{CONTENT_LENGTH, HeaderMap};

use super::answer::{Answer, grpc_status};
use super::body::{Stop, Upload, release};
use super::capabilities::{self, Told};
use super::fault::{Failure, Faults};
use super::headers;
use super::record::Record;
use super::right::Held;
use crate::http2;
use crate::policy::Permit;
use crate::status::{Code, Rejection};
use crate::upstream::{Backend, Body, Client, Head, Outbound};

/// How often a call is sent again at most.
pub(super) const RESENDS: usize = 3;

/// A call and the backend that it goes to.
pub(super) struct Exchange<'a> {
    /// The backend.
    pub(super) backend: &'a Arc<Backend>,
    /// Whose share of the streams is used.
    pub(super) client: Client<'a>,
    /// The request headers, fit for the backend.
    pub(super) headers: HeaderMap,
    /// What the caller is told of the capabilities, where the answer is edited.
    pub(super) told: Option<Told>,
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
        let mut refused = None;
        for _ in 0..=RESENDS {
            let is_empty = upload.is_empty();
            let headers = self.headers.clone();
            let send = self.backend.send(permit, self.client, headers, is_empty, refused);
            let sent = tokio::select! {
                biased;
                sent = send => sent,
                () = poll_fn(|cx| answer.poll_closed(cx)) => return Err(Rejection::Cancelled),
            };
            let outbound = sent.map_err(|(_, unreachable)| self.faults().unavailable(unreachable))?;
            let Outbound {
                permit: back,
                mut stream,
                place,
            } = outbound;
            refused = Some(place);
            permit = back;
            let Some((head, body)) = stream.split() else { break };
            let result = tokio::select! {
                biased;
                result = self.relay(head, (!is_empty).then_some(body), upload, answer, record) => result,
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
        Err(self.faults().unavailable(last))
    }

    async fn relay(
        &self,
        response: &mut Head,
        body: Option<Body<'_>>,
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
            // The answer first, here and below: what is left to do with the upload is done beside it.
            if let Poll::Ready(head) = Pin::new(&mut *response).poll(cx) {
                return Poll::Ready(head.map_err(|error| self.faults().failure(&error)));
            }
            if let Some(rejection) = poll_upload(&mut up, cx) {
                return Poll::Ready(Err(rejection.into()));
            }
            answer
                .poll_closed(cx)
                .map(|()| Err(Failure::Reject(Rejection::Cancelled)))
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
        let status = self.faults().check_head(&head)?;
        let (mut parts, mut body) = head.into_parts();
        headers::for_client(&mut parts.headers);
        fit::fit(&mut parts.headers);
        if body.is_end_stream() {
            let code = status.ok_or_else(|| self.faults().without_status())?;
            answer.head(Response::from_parts(parts, ()), true)?;
            return Ok(code);
        }
        match self.told {
            None => {
                answer.head(Response::from_parts(parts, ()), false)?;
                while let Some(chunk) = self.next(&mut body, answer).await? {
                    let length = chunk.len();
                    record.sent(length);
                    let window = self.backend.window();
                    answer.data(chunk, || pile(&mut body, window)).await?;
                    release(&mut body, length);
                }
                let (code, trailers) = self.trailers(&mut body).await?;
                answer.trailers(trailers)?;
                Ok(code)
            }
            Some(told) => {
                parts.headers.remove(CONTENT_LENGTH);
                // As it came, and as it is told.
                let most = 2 * capabilities::LONGEST as u64;
                let _kept = self.client.purse().reserve(most).map_err(Rejection::from)?;
                let mut message = BytesMut::new();
                while let Some(chunk) = self.next(&mut body, answer).await? {
                    release(&mut body, chunk.len());
                    if message.len() + chunk.len() > capabilities::LONGEST {
                        return Err(self
                            .faults()
                            .not_grpc("its capabilities are longer than 64 KiB", Code::Unknown)
                            .into());
                    }
                    message.extend_from_slice(&chunk);
                }
                let (code, trailers) = self.trailers(&mut body).await?;
                answer.head(Response::from_parts(parts, ()), false)?;
                if !message.is_empty() {
                    let edited = capabilities::tell(&message, told)
                        .map_err(|error| self.faults().not_grpc(&error.to_string(), Code::Unknown))?;
                    record.sent(edited.len());
                    answer.data(edited, || 0).await?;
                }
                answer.trailers(trailers)?;
                Ok(code)
            }
        }
    }

    /// The next piece of the answer, unless the client goes away first.
    async fn next(&self, body: &mut RecvStream, answer: &mut Answer) -> Result<Option<Bytes>, Failure> {
        poll_fn(|cx| {
            match body.poll_data(cx) {
                Poll::Ready(chunk) => Poll::Ready(
                    chunk
                        .transpose()
                        .map_err(|error| Failure::Reject(self.faults().unavailable(http2::plain(&error)))),
                ),
                // Only now: a client that is gone takes nothing of what there is.
                Poll::Pending => answer
                    .poll_closed(cx)
                    .map(|()| Err(Failure::Reject(Rejection::Cancelled))),
            }
        })
        .await
    }

    async fn trailers(&self, body: &mut RecvStream) -> Result<(u8, HeaderMap), Failure> {
        let trailers = body.trailers().await;
        let trailers = trailers.map_err(|error| self.faults().unavailable(http2::plain(&error)))?;
        let mut trailers = trailers.ok_or_else(|| self.faults().without_status())?;
        headers::for_client(&mut trailers);
        fit::fit(&mut trailers);
        let code = grpc_status(&trailers).ok_or_else(|| self.faults().without_status())?;
        Ok((code, trailers))
    }

    fn faults(&self) -> Faults<'_> {
        Faults(self.backend)
    }
}

/// Bytes of an answer that are here, or may come before the client has taken any.
fn pile(body: &mut RecvStream, window: u64) -> u64 {
    let here = body.flow_control().used_capacity() as u64;
    if body.is_end_stream() { here } else { here.max(window) }
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
