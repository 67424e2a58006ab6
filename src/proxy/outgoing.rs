//! What HTTP/2 has of an answer or a request, and has not sent: each piece is reserved until it is sent, or dropped with its
//! stream, also when its call has ended long before.

use std::future::poll_fn;
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::task::Poll;

use bytes::Bytes;
use futures_util::task::AtomicWaker;
use parking_lot::Mutex;

use crate::clients::Reservation;
use crate::connection::Caller;

/// Pieces of fewer bytes are not counted while their connection takes what it is given: they are gone with its next turn.
/// And as much of a stream goes in any case, one piece after the other, so that nothing waits for memory for ever.
pub(super) const SMALL: usize = 4 * 1024;

/// The way of one body out.
pub(super) struct Outgoing {
    caller: Arc<Caller>,
    waiting: Arc<Waiting>,
    /// What is reserved already for pieces to come.
    prepaid: Reservation,
}

/// Pieces of one body that HTTP/2 has.
#[derive(Default)]
struct Waiting {
    pieces: AtomicUsize,
    gone: AtomicWaker,
    /// What a piece takes where no more can be had.
    least: Mutex<Option<Reservation>>,
}

/// A piece, until it is sent.
struct Piece {
    bytes: Bytes,
    waiting: Arc<Waiting>,
    reservation: Option<Reservation>,
    /// Whether that is the least that the body has, for its next piece.
    is_least: bool,
}

impl Outgoing {
    pub(super) fn new(caller: &Arc<Caller>) -> Outgoing {
        Outgoing {
            caller: Arc::clone(caller),
            waiting: Arc::default(),
            prepaid: caller.purse.reservation(),
        }
    }

    /// Gives it what it has in any case: [`SMALL`] bytes, or more.
    pub(super) fn set_least(&self, least: Reservation) {
        *self.waiting.least.lock() = Some(least);
    }

    /// Gives it what is reserved already for pieces to come.
    pub(super) fn prepay(&mut self, reservation: Reservation) {
        self.prepaid = reservation;
    }

    /// The next piece to hand to HTTP/2, taken off the chunk: all of it where that can be reserved, else little. `None` where
    /// what it has of this body must go first; see [`Outgoing::gone`].
    pub(super) fn piece(&mut self, chunk: &mut Bytes) -> Option<Bytes> {
        if chunk.len() < SMALL && !self.caller.is_behind() {
            return Some(std::mem::take(chunk));
        }
        let bytes = chunk.len() as u64;
        let reserved = if self.prepaid.bytes() >= bytes {
            Ok(self.prepaid.split(bytes))
        } else {
            self.caller.purse.reserve(bytes)
        };
        if let Ok(reservation) = reserved {
            return Some(self.keep(std::mem::take(chunk), Some(reservation), false));
        }
        let least = self.waiting.least.lock().take();
        if least.is_none() && self.waiting.pieces.load(Ordering::Acquire) > 0 {
            return None;
        }
        let most = least.as_ref().map_or(SMALL as u64, Reservation::bytes);
        let most = usize::try_from(most).unwrap_or(SMALL).max(SMALL);
        Some(self.keep(chunk.split_to(chunk.len().min(most)), least, true))
    }

    /// Ends when HTTP/2 has nothing of this body.
    pub(super) async fn gone(&self) {
        poll_fn(|cx| {
            self.waiting.gone.register(cx.waker());
            match self.waiting.pieces.load(Ordering::Acquire) {
                0 => Poll::Ready(()),
                _ => Poll::Pending,
            }
        })
        .await;
    }

    fn keep(&self, mut bytes: Bytes, reservation: Option<Reservation>, is_least: bool) -> Bytes {
        if bytes.len() <= SMALL {
            // Lets go of the buffer that it came in, which may be much larger.
            bytes = Bytes::copy_from_slice(&bytes);
        }
        self.waiting.pieces.fetch_add(1, Ordering::AcqRel);
        Bytes::from_owner(Piece {
            bytes,
            waiting: Arc::clone(&self.waiting),
            reservation,
            is_least,
        })
    }
}

impl AsRef<[u8]> for Piece {
    fn as_ref(&self) -> &[u8] {
        &self.bytes
    }
}

impl Drop for Piece {
    fn drop(&mut self) {
        if self.is_least {
            *self.waiting.least.lock() = self.reservation.take();
        }
        if self.waiting.pieces.fetch_sub(1, Ordering::AcqRel) == 1 {
            self.waiting.gone.wake();
        }
    }
}
