//! The body of a request, in front of gRPC: what a message will take is reserved when its prefix comes, as a whole. So no
//! call that waits for memory holds half a message, for whose other half another one waits. What its message will be decoded
//! to is counted while it comes, and reserved as well; a message that has more entries than one of its kind may have is
//! refused before it is decoded.

use std::pin::Pin;
use std::sync::Arc;
use std::task::{Context, Poll, ready};

use bytes::{Buf, Bytes};
use http_body::{Body, Frame, SizeHint};
use parking_lot::Mutex;
use tonic::Status;

use super::{Memory, PATIENCE, Reserve};
use crate::store::fault::Fault;
use crate::store::requests::Kind;
use crate::store::{LARGEST_MESSAGE, STREAM_WINDOW};
use crate::wire::{Counter, TooMuch, Walk};

/// A body whose messages are reserved.
pub(in crate::store) struct Reserved<B> {
    body: B,
    memory: Arc<dyn Memory>,
    kept: Kept,
    messages: Messages,
    /// Bytes that came, as far as the window of a stream: so much may wait here.
    received: u64,
    /// Bytes that are reserved.
    reserved: u64,
    /// What came and waits for memory.
    waiting: Option<(Bytes, Wait)>,
}

/// What is reserved for a request. Its call has a copy, since what it is decoded to stays longer than the body.
pub(in crate::store) type Kept = Arc<Mutex<Vec<Box<dyn Reserve>>>>;

type Wait = Pin<Box<dyn Future<Output = Option<Box<dyn Reserve>>> + Send>>;

/// Where messages begin (grpc PROTOCOL-HTTP2, "Length-Prefixed-Message").
#[derive(Debug, Default)]
struct Messages {
    head: [u8; 5],
    filled: usize,
    /// Bytes of the message that are to come.
    left: u64,
    /// The longest so far. gRPC keeps its buffer for the next one.
    longest: u64,
    /// The most that one was decoded to so far, in bytes.
    dearest: u64,
    /// What kind they are.
    kind: Option<Kind>,
    /// Of the message that is coming.
    count: Option<(Walk, Counter)>,
}

impl<B> Reserved<B> {
    /// The body of a request whose messages are of this kind; without one they are none that anybody decodes.
    pub(super) fn new(body: B, memory: Arc<dyn Memory>, kind: Option<Kind>) -> (Self, Kept) {
        let kept = Kept::default();
        let body = Self {
            body,
            memory,
            kept: Arc::clone(&kept),
            messages: Messages {
                kind,
                ..Messages::default()
            },
            received: 0,
            reserved: 0,
            waiting: None,
        };
        (body, kept)
    }

    /// Reserves what is to be kept from here on.
    ///
    /// # Errors
    /// How much has to be waited for.
    fn reserve(&mut self, chunk: &Bytes) -> Result<(), u64> {
        self.received = (self.received + chunk.len() as u64).min(STREAM_WINDOW.into());
        // A longer one will be refused.
        let messages = &self.messages;
        let needed = messages.longest.min(LARGEST_MESSAGE as u64) + messages.dearest + self.received;
        let more = needed.saturating_sub(self.reserved);
        if more == 0 {
            return Ok(());
        }
        let mut kept = self.kept.lock();
        if kept.is_empty() {
            kept.push(self.memory.reservation());
        }
        if !kept.first_mut().is_some_and(|first| first.grow(more)) {
            return Err(more);
        }
        self.reserved = needed;
        Ok(())
    }

    /// Waits for so many bytes. No more than the window of the stream comes meanwhile.
    fn wait(&self, more: u64) -> Wait {
        let memory = Arc::clone(&self.memory);
        Box::pin(async move {
            let mut reservation = memory.reservation();
            let is_there = reservation.grow_when_free(more, PATIENCE).await;
            is_there.then_some(reservation)
        })
    }
}

impl<B> Body for Reserved<B>
where
    B: Body<Data = Bytes> + Unpin,
    B::Error: Into<Box<dyn std::error::Error + Send + Sync>>,
{
    type Data = Bytes;
    type Error = Box<dyn std::error::Error + Send + Sync>;

    fn poll_frame(self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<Option<Result<Frame<Bytes>, Self::Error>>> {
        let this = self.get_mut();
        if this.waiting.is_none() {
            let frame = match ready!(Pin::new(&mut this.body).poll_frame(cx)) {
                None => return Poll::Ready(None),
                Some(Err(error)) => return Poll::Ready(Some(Err(error.into()))),
                Some(Ok(frame)) => frame,
            };
            let chunk = match frame.into_data() {
                Ok(chunk) => chunk,
                Err(trailers) => return Poll::Ready(Some(Ok(trailers))),
            };
            if let Err(error) = this.messages.pass(&chunk) {
                return Poll::Ready(Some(Err(Status::invalid_argument(error.to_string()).into())));
            }
            match this.reserve(&chunk) {
                Ok(()) => return Poll::Ready(Some(Ok(Frame::data(chunk)))),
                Err(more) => this.waiting = Some((chunk, this.wait(more))),
            }
        }
        let Some((_, wait)) = &mut this.waiting else {
            return Poll::Pending;
        };
        let reservation = ready!(wait.as_mut().poll(cx));
        let waited = this.waiting.take();
        let (Some(reservation), Some((chunk, _))) = (reservation, waited) else {
            return Poll::Ready(Some(Err(Status::from(Fault::NoMemory).into())));
        };
        this.reserved += reservation.bytes();
        this.kept.lock().push(reservation);
        Poll::Ready(Some(Ok(Frame::data(chunk))))
    }

    fn is_end_stream(&self) -> bool {
        self.waiting.is_none() && self.body.is_end_stream()
    }

    fn size_hint(&self) -> SizeHint {
        SizeHint::default()
    }
}

impl Messages {
    /// Takes the next bytes.
    ///
    /// # Errors
    /// When a message must not be decoded.
    fn pass(&mut self, mut bytes: &[u8]) -> Result<(), TooMuch> {
        while !bytes.is_empty() {
            if self.left > 0 {
                let passed = usize::try_from(self.left).unwrap_or(usize::MAX).min(bytes.len());
                self.left -= passed as u64;
                if let Some((walk, counter)) = &mut self.count {
                    walk.push(bytes.get(..passed).unwrap_or_default(), counter)?;
                    self.dearest = self.dearest.max(counter.cost().memory);
                }
                bytes.advance(passed);
                continue;
            }
            let missing = (self.head.len() - self.filled).min(bytes.len());
            let (now, rest) = bytes.split_at(missing);
            if let Some(place) = self.head.get_mut(self.filled..self.filled + missing) {
                place.copy_from_slice(now);
            }
            self.filled += missing;
            bytes = rest;
            if self.filled == self.head.len() {
                let [flag, a, b, c, d] = self.head;
                self.left = u32::from_be_bytes([a, b, c, d]).into();
                self.longest = self.longest.max(self.left);
                self.filled = 0;
                // A compressed one is refused.
                let kind = self.kind.filter(|_| flag == 0);
                let counter = kind.map(|kind| Counter::new(kind.shape, kind.bound, self.left));
                self.count = counter.transpose()?.map(|counter| (Walk::new(self.left), counter));
            }
        }
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    #![expect(clippy::unwrap_used, reason = "a test may panic")]
    use super::*;

    #[test]
    fn the_longest_message_is_known_from_its_prefix_on_however_it_comes() {
        let mut bytes = Vec::new();
        for length in [3_u32, 0, 700, 20] {
            bytes.push(0);
            bytes.extend(length.to_be_bytes());
            bytes.resize(bytes.len() + length as usize, 0xff);
        }
        for piece in [1, 2, 7, bytes.len()] {
            let mut messages = Messages::default();
            for piece in bytes.chunks(piece) {
                messages.pass(piece).unwrap();
            }
            assert_eq!((messages.longest, messages.left, messages.filled), (700, 0, 0));
        }
        let mut messages = Messages::default();
        messages.pass(&[0, 0, 0xff, 0, 0]).unwrap();
        assert_eq!((messages.longest, messages.left), (0xff_0000, 0xff_0000));
    }
}
