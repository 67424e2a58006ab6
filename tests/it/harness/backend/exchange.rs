//! One call as a backend sees it, and what it may do with it.

use std::sync::Arc;

use bytes::Bytes;
use h2::server::SendResponse;
use h2::{Reason, RecvStream, SendStream};
use http::{HeaderMap, Request, Response};
use tokio::sync::mpsc::UnboundedSender;

use super::{Record, Seen};
use crate::harness::grpc;

/// How many bytes of a body are kept.
const KEPT: usize = 64 * 1024;

/// One call, for a behaviour to deal with.
pub(crate) struct Exchange {
    pub(crate) body: RecvStream,
    pub(crate) respond: SendResponse<Bytes>,
    /// Number of the stream in the backend's record.
    pub(crate) index: usize,
    record: Arc<Record>,
    orders: UnboundedSender<Order>,
}

/// What a behaviour may do to its connection.
pub(super) enum Order {
    GoAway,
    Close,
}

impl Exchange {
    pub(super) fn new(
        request: Request<RecvStream>,
        respond: SendResponse<Bytes>,
        connection: usize,
        record: &Arc<Record>,
        orders: &UnboundedSender<Order>,
    ) -> Exchange {
        let (parts, body) = request.into_parts();
        let mut seen = record.seen.lock();
        seen.push(Seen {
            connection,
            path: parts.uri.path_and_query().map_or_else(String::new, ToString::to_string),
            authority: parts.uri.authority().map_or_else(String::new, ToString::to_string),
            headers: parts.headers,
            ended: body.is_end_stream(),
            ..Seen::default()
        });
        Exchange {
            body,
            respond,
            index: seen.len() - 1,
            record: Arc::clone(record),
            orders: orders.clone(),
        }
    }

    /// The path that is asked for.
    pub(crate) fn path(&self) -> String {
        self.record.seen.lock()[self.index].path.clone()
    }

    fn note(&self, change: impl FnOnce(&mut Seen)) {
        if let Some(seen) = self.record.seen.lock().get_mut(self.index) {
            change(seen);
        }
    }

    /// The next piece of the body, its window given back.
    pub(crate) async fn read(&mut self) -> Option<Bytes> {
        match self.body.data().await {
            Some(Ok(chunk)) => {
                let _gone = self.body.flow_control().release_capacity(chunk.len());
                self.note(|seen| {
                    seen.received += chunk.len() as u64;
                    let room = KEPT.saturating_sub(seen.body.len()).min(chunk.len());
                    seen.body.extend_from_slice(&chunk[..room]);
                });
                Some(chunk)
            }
            Some(Err(error)) => {
                self.note(|seen| seen.reset = error.reason());
                None
            }
            None => {
                self.note(|seen| seen.ended = true);
                None
            }
        }
    }

    /// Reads the body to its end, or to a reset.
    pub(crate) async fn drain(&mut self) {
        while self.read().await.is_some() {}
    }

    /// Waits for a reset of a stream whose answer has not begun.
    pub(crate) async fn until_reset(&mut self) {
        let reset = std::future::poll_fn(|cx| self.respond.poll_reset(cx)).await;
        self.note(|seen| seen.reset = reset.ok());
    }

    /// The same for an answer that has begun.
    pub(crate) async fn until_answer_reset(&self, answer: &mut SendStream<Bytes>) {
        let reset = std::future::poll_fn(|cx| answer.poll_reset(cx)).await;
        self.note(|seen| seen.reset = reset.ok());
    }

    /// Begins an answer.
    pub(crate) fn begin(&mut self) -> SendStream<Bytes> {
        self.respond.send_response(head(), false).unwrap()
    }

    /// Answers with one message and OK, unless the call was reset.
    pub(crate) async fn answer(&mut self, message: Bytes) {
        let Ok(mut answer) = self.respond.send_response(head(), false) else {
            return;
        };
        if send(&mut answer, message).await {
            let _gone = answer.send_trailers(status(0, ""));
        }
    }

    /// Answers with headers that are trailers as well.
    pub(crate) fn trailers_only(&mut self, code: u8, message: &str) {
        let mut response = head();
        response.headers_mut().extend(status(code, message));
        let _gone = self.respond.send_response(response, true);
    }

    /// Resets the stream.
    pub(crate) fn reset(mut self, reason: Reason) {
        self.respond.send_reset(reason);
    }

    /// Begins the graceful end of the connection: streams that run go on.
    pub(crate) fn go_away(&self) {
        let _gone = self.orders.send(Order::GoAway);
    }

    /// Ends the connection as it is.
    pub(crate) fn close(&self) {
        let _gone = self.orders.send(Order::Close);
    }
}

/// Reads the request, and answers with an empty message.
pub(crate) async fn unary(mut exchange: Exchange) {
    exchange.drain().await;
    exchange.answer(grpc::frame(b"")).await;
}

/// Sends every piece of the request back as it comes.
pub(crate) async fn echo(mut exchange: Exchange) {
    let mut answer = exchange.begin();
    while let Some(chunk) = exchange.read().await {
        if !send(&mut answer, chunk).await {
            return;
        }
    }
    let _gone = answer.send_trailers(status(0, ""));
}

/// Answers nothing, and waits for the reset.
pub(crate) async fn silent(mut exchange: Exchange) {
    exchange.until_reset().await;
}

/// The head of a gRPC answer.
pub(crate) fn head() -> Response<()> {
    let mut response = Response::new(());
    let grpc = http::HeaderValue::from_static("application/grpc");
    response.headers_mut().insert(http::header::CONTENT_TYPE, grpc);
    response
}

/// The trailers of a gRPC answer.
pub(crate) fn status(code: u8, message: &str) -> HeaderMap {
    let mut headers = HeaderMap::new();
    headers.insert("grpc-status", u16::from(code).into());
    if !message.is_empty() {
        headers.insert("grpc-message", message.parse().unwrap());
    }
    headers
}

/// Sends a chunk under flow control; false when the other side is gone.
pub(crate) async fn send(stream: &mut SendStream<Bytes>, mut chunk: Bytes) -> bool {
    while !chunk.is_empty() {
        stream.reserve_capacity(chunk.len());
        if stream.capacity() == 0 {
            match std::future::poll_fn(|cx| stream.poll_capacity(cx)).await {
                Some(Ok(_)) => continue,
                Some(Err(_)) | None => return false,
            }
        }
        let part = chunk.split_to(chunk.len().min(stream.capacity()));
        if stream.send_data(part, false).is_err() {
            return false;
        }
    }
    true
}
