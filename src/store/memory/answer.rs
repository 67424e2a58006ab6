//! The body of an answer: what is handed to HTTP/2 is reserved until that has sent it, or has given the stream up.

use std::pin::Pin;
use std::sync::Arc;
use std::task::{Context, Poll, ready};

use bytes::Bytes;
use http::HeaderMap;
use http_body::{Body, Frame, SizeHint};
use tonic::Status;

use super::{CALLER, Memory, PATIENCE, Reserve, Room};
use crate::store::fault::Fault;

/// Frames of fewer bytes are not reserved: a stream has at most one, and no more than its headers take.
const SMALL: usize = 4 * 1024;

/// An answer whose frames are reserved.
pub(in crate::store) struct Answer {
    body: tonic::body::Body,
    memory: Arc<dyn Memory>,
    /// Whether its frames are reserved by whoever serves the store.
    is_paid: bool,
    /// Until the first frame: a message that is kept is encoded as a whole.
    room: Option<Room>,
    /// What waits for memory.
    waiting: Option<(Bytes, Wait)>,
    has_ended: bool,
}

type Wait = Pin<Box<dyn Future<Output = Option<Box<dyn Reserve>>> + Send>>;

/// A frame on its way out.
struct Kept {
    bytes: Bytes,
    _reservation: Box<dyn Reserve>,
}

impl AsRef<[u8]> for Kept {
    fn as_ref(&self) -> &[u8] {
        &self.bytes
    }
}

fn kept(bytes: Bytes, reservation: Box<dyn Reserve>) -> Bytes {
    Bytes::from_owner(Kept {
        bytes,
        _reservation: reservation,
    })
}

impl Answer {
    pub(super) fn new(body: tonic::body::Body, memory: Arc<dyn Memory>, room: Option<Room>, is_paid: bool) -> Self {
        Self {
            body,
            memory,
            is_paid,
            room,
            waiting: None,
            has_ended: false,
        }
    }

    fn wait(&self, bytes: u64) -> Wait {
        let memory = Arc::clone(&self.memory);
        Box::pin(async move {
            let mut reservation = memory.reservation();
            let is_there = reservation.grow_when_free(bytes, PATIENCE).await;
            is_there.then_some(reservation)
        })
    }
}

impl Body for Answer {
    type Data = Bytes;
    type Error = Status;

    fn poll_frame(self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<Option<Result<Frame<Bytes>, Status>>> {
        let this = self.get_mut();
        if this.has_ended {
            return Poll::Ready(None);
        }
        if this.waiting.is_none() {
            // What a stream of messages does is done for the same caller.
            let body = Pin::new(&mut this.body);
            let polled = CALLER.sync_scope(Arc::clone(&this.memory), || body.poll_frame(cx));
            let frame = match ready!(polled) {
                Some(Ok(frame)) => frame,
                end => return Poll::Ready(end),
            };
            let chunk = match frame.into_data() {
                Ok(chunk) if chunk.len() >= SMALL && !this.is_paid => chunk,
                Ok(chunk) => return Poll::Ready(Some(Ok(Frame::data(chunk)))),
                Err(trailers) => return Poll::Ready(Some(Ok(trailers))),
            };
            this.room = None;
            let bytes = chunk.len() as u64;
            let mut reservation = this.memory.reservation();
            if reservation.grow(bytes) {
                return Poll::Ready(Some(Ok(Frame::data(kept(chunk, reservation)))));
            }
            this.waiting = Some((chunk, this.wait(bytes)));
        }
        let Some((_, wait)) = &mut this.waiting else {
            return Poll::Pending;
        };
        let reservation = ready!(wait.as_mut().poll(cx));
        let waited = this.waiting.take();
        if let (Some(reservation), Some((bytes, _))) = (reservation, waited) {
            return Poll::Ready(Some(Ok(Frame::data(kept(bytes, reservation)))));
        }
        this.has_ended = true;
        let mut trailers = HeaderMap::new();
        let status = Status::from(Fault::NoMemory);
        let told = status.add_header(&mut trailers).map(|()| Frame::trailers(trailers));
        Poll::Ready(Some(told))
    }

    fn is_end_stream(&self) -> bool {
        self.has_ended || self.waiting.is_none() && self.body.is_end_stream()
    }

    fn size_hint(&self) -> SizeHint {
        SizeHint::default()
    }
}
