//! What a client pays for frames that move no call on, and what it earns by those that do.
//!
//! Such frames are cheap to send and not to read, and h2 limits none of them by rate. But honest clients send many: one or two
//! WINDOW_UPDATEs and a PING (gRPC's estimate of the bandwidth) for each DATA frame that they get, a RST_STREAM for each call
//! that they cancel. So the calls and the bytes that go either way earn them, and only what comes on top is a rate.

use std::time::Instant;

use crate::http2::heads::{self, Head};
use crate::snapshot::limits::Limits;

/// Most clients send one or two frames for 16 KiB, some for 4 KiB.
const BYTES_FOR_ONE: usize = 1024;
/// Frames that each DATA frame to the client earns besides: two WINDOW_UPDATEs, a PING, and one to spare.
const ANSWER: i64 = 4;
/// Frames that each call earns: some WINDOW_UPDATEs, a RST_STREAM, and the DATA frame that only ends the request.
const CALL: i64 = 16;
/// What a stream costs that casgate must reset: more than the call has earned.
const RESET: i64 = 20;
/// What a frame costs that all streams are looked through for: SETTINGS may change all windows, GOAWAY may end them.
const FOR_ALL_STREAMS: i64 = 10;
/// What a PING costs that answers none, of which h2 writes a line to the log. casgate itself asks twice a minute at most.
const FALSE_ANSWER: i64 = 100;
/// DATA of less bytes moves nothing: the length of a gRPC message alone is 5.
const LEAST_DATA: usize = 16;
/// The longest padding, which is not told from payload here. gRPC does not pad.
const PADDING: usize = 256;
/// What may be earned in advance: WINDOW_UPDATEs come when the client has read what was sent long ago. Enough for windows of
/// half a gigabyte.
const MOST_EARNED: i64 = 100_000;

/// The account of a connection: frames that its client may still send.
#[derive(Debug)]
pub(super) struct Account {
    left: i64,
    most: i64,
    /// When it was last filled up.
    since: Instant,
    /// The last stream that the client has opened.
    newest: u32,
    /// PINGs to the client that it has not answered.
    pings: u32,
}

impl Account {
    pub(super) fn new(limits: &Limits, now: Instant) -> Account {
        let left = i64::from(limits.control_frames_at_once);
        Account {
            left,
            most: left + MOST_EARNED,
            since: now,
            newest: 0,
            pings: 0,
        }
    }

    /// Counts a frame of the client; false when it has nothing left, unless [`Account::fill`] gives it something.
    pub(super) fn read(&mut self, head: Head) -> bool {
        match head.kind {
            // Also where it ends a stream: those that were reset may be ended again and again.
            heads::DATA if is_tiny(head) => self.left -= 1,
            heads::DATA => self.earn(head.length / BYTES_FOR_ONE),
            heads::HEADERS if head.stream > self.newest => {
                self.newest = head.stream;
                self.left += CALL;
            }
            heads::PING if head.has(heads::ACK) => {
                self.left -= if self.pings > 0 { 1 } else { FALSE_ANSWER };
                self.pings = self.pings.saturating_sub(1);
            }
            heads::SETTINGS if !head.has(heads::ACK) => self.left -= FOR_ALL_STREAMS,
            heads::GOAWAY => self.left -= FOR_ALL_STREAMS,
            _ => self.left -= 1,
        }
        self.left = self.left.min(self.most);
        self.left >= 0
    }

    /// Counts a frame to the client.
    pub(super) fn written(&mut self, head: Head) {
        match head.kind {
            heads::DATA => {
                self.left += ANSWER;
                self.earn(head.length / BYTES_FOR_ONE);
            }
            heads::PING if !head.has(heads::ACK) => self.pings += 1,
            // The end of an answer whose request goes on is no fault of the client (RFC 9113, 8.1).
            heads::RST_STREAM if head.reason != u32::from(h2::Reason::NO_ERROR) => self.left -= RESET,
            _ => {}
        }
        self.left = self.left.min(self.most);
    }

    /// Gives what the time since the last time is worth; false when that is not enough. To be called when there is nothing
    /// left only, so that the clock is seldom read.
    pub(super) fn fill(&mut self, now: Instant, limits: &Limits) -> bool {
        let passed = now.saturating_duration_since(self.since).as_secs_f64();
        // Not more than fits: a float becomes the nearest number.
        let worth = (passed * f64::from(limits.control_frames_per_second)) as i64;
        let at_once = i64::from(limits.control_frames_at_once);
        self.left = self.left.saturating_add(worth).min(at_once);
        self.most = at_once + MOST_EARNED;
        self.since = now;
        self.left >= 0
    }

    fn earn(&mut self, frames: usize) {
        // Of a length of 24 bits.
        self.left += i64::try_from(frames).unwrap_or_default();
    }
}

fn is_tiny(data: Head) -> bool {
    let least = if data.has(heads::PADDED) {
        LEAST_DATA + PADDING
    } else {
        LEAST_DATA
    };
    data.length < least
}

#[cfg(test)]
mod tests;
