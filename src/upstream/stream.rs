//! A stream to a backend, and its place among the others.
//!
//! Servers end a connection on which streams are opened and reset faster than they look at them (h2 after 20 of them), and
//! the connection is shared: a client that cancels must not be able to bring that about. So a stream that is given up
//! before its answer began stays open until the server has seen it, and such streams are reset one by one.

use std::pin::Pin;
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::task::{Context, Poll, ready};
use std::time::{Duration, Instant};

use bytes::Bytes;
use h2::client::ResponseFuture;
use h2::{Reason, RecvStream, SendStream};
use http::Response;
use parking_lot::Mutex;
use tokio::runtime::Handle;

use super::callers::Ticket;
use super::pool::Shared;
use super::queue::ClientId;
use crate::http2::{self, Closed, FirstWindow};

/// By this age a server has certainly taken notice of a stream.
const SEEN_AFTER: Duration = Duration::from_millis(250);
/// Pause between resets of younger streams of one connection.
const RESET_PAUSE: Duration = Duration::from_millis(10);
/// So many resets may be made up for at once.
const RESET_BURST: u32 = 8;

/// A stream that was opened. It counts to its connection and to its client until it has ended.
#[derive(Debug)]
pub struct Sent {
    /// Taken when it is dropped.
    parts: Option<Parts>,
    /// Says whose it is, where a backend is to know.
    ticket: Option<Ticket>,
}

/// The answer of a stream, to come.
#[derive(Debug)]
pub struct Head {
    response: ResponseFuture,
    has_come: bool,
}

/// The request body of a stream.
pub(crate) struct Body<'a> {
    stream: &'a mut SendStream<Bytes>,
    first: &'a FirstWindow,
}

#[derive(Debug)]
struct Parts {
    head: Head,
    body: SendStream<Bytes>,
    opened: Instant,
    load: Load,
}

/// Counts a call to its connection and to its client, until dropped.
#[derive(Debug)]
pub(super) struct Load {
    pub(super) pool: Arc<Shared>,
    pub(super) slot: usize,
    /// The calls of the connection.
    pub(super) calls: Arc<Calls>,
    pub(super) client: ClientId,
}

/// The calls of one connection.
#[derive(Debug, Default)]
pub(super) struct Calls {
    open: AtomicUsize,
    first: FirstWindow,
    /// When the next young stream may be reset.
    next_reset: Mutex<Option<Instant>>,
}

impl Sent {
    pub(super) fn new(response: ResponseFuture, body: SendStream<Bytes>, load: Load) -> Sent {
        let head = Head {
            response,
            has_come: false,
        };
        Sent {
            parts: Some(Parts {
                head,
                body,
                opened: Instant::now(),
                load,
            }),
            ticket: None,
        }
    }

    /// Keeps the number of the call while it is open.
    pub(super) fn keep(&mut self, ticket: Option<Ticket>) {
        self.ticket = ticket;
    }

    /// Both halves: the answer, and the request body with what is known of its window.
    pub(crate) fn split(&mut self) -> Option<(&mut Head, Body<'_>)> {
        let parts = self.parts.as_mut()?;
        let body = Body {
            stream: &mut parts.body,
            first: &parts.load.calls.first,
        };
        Some((&mut parts.head, body))
    }
}

impl Body<'_> {
    /// Sends the first chunk; see [`FirstWindow::send`].
    pub(crate) async fn send_first(&mut self, chunk: Bytes, end_of_stream: bool) -> Result<(), Closed> {
        self.first.send(self.stream, chunk, end_of_stream).await
    }

    /// Sends another; see [`http2::send`].
    pub(crate) async fn send(&mut self, chunk: Bytes, end_of_stream: bool) -> Result<(), Closed> {
        http2::send(self.stream, chunk, end_of_stream).await
    }
}

impl Drop for Sent {
    /// The client may be gone: what is left to do is done by a task. There are no more of them than streams that a
    /// connection takes, since each counts as an open call until its end.
    fn drop(&mut self) {
        let Some(mut parts) = self.parts.take() else { return };
        if parts.head.has_come || parts.opened.elapsed() >= SEEN_AFTER {
            return parts.give_up();
        }
        // Without a runtime the program is ending, and all of its connections.
        if let Ok(runtime) = Handle::try_current() {
            runtime.spawn(parts.reset_when_seen());
        }
    }
}

impl Future for Head {
    type Output = Result<Response<RecvStream>, h2::Error>;

    fn poll(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<Self::Output> {
        let head = ready!(Pin::new(&mut self.response).poll(cx));
        self.has_come = true;
        Poll::Ready(head)
    }
}

impl Parts {
    async fn reset_when_seen(mut self) {
        let seen = self.opened + SEEN_AFTER;
        let turn = self.load.calls.next_reset();
        let _head_or_time = tokio::time::timeout_at(seen.max(turn).into(), &mut self.head).await;
        self.give_up();
    }

    /// Dropping both halves resets the stream, where it has not ended. But what waits to be sent would stay until the backend
    /// reads.
    fn give_up(&mut self) {
        if !self.head.has_come {
            self.body.send_reset(Reason::CANCEL);
        }
    }
}

impl Calls {
    /// How many are open.
    pub(super) fn open(&self) -> usize {
        self.open.load(Ordering::Relaxed)
    }

    pub(super) fn add(&self) {
        self.open.fetch_add(1, Ordering::Relaxed);
    }

    pub(super) fn remove(&self) {
        self.open.fetch_sub(1, Ordering::Relaxed);
    }

    /// When it is the turn of one more young stream to be reset.
    fn next_reset(&self) -> Instant {
        let now = Instant::now();
        let mut next = self.next_reset.lock();
        let turn = next.map_or(now, |next| next.max(now));
        *next = Some(turn + RESET_PAUSE);
        // Earlier by the burst: that many pauses may be skipped.
        turn.checked_sub(RESET_PAUSE * RESET_BURST).unwrap_or(now).max(now)
    }
}

impl Drop for Load {
    fn drop(&mut self) {
        self.calls.remove();
        self.pool.release(self.client);
    }
}
