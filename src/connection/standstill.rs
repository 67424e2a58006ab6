//! Notices a client that stands still in the middle of a frame, of a header block, of its preface or of a TLS record: it holds
//! what it has sent so far, and nothing else of its connection can come.
//!
//! Whoever reads the connection notes where it is when there is nothing more to read. The clock is looked at only while
//! that is the middle of something, and once in [`PATIENCE`].

mod records;

use std::pin::Pin;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU8, AtomicU32, AtomicU64, AtomicUsize, Ordering};
use std::task::{Context, Poll, ready};
use std::time::Duration;

use tokio::time::{Instant, Sleep};

pub(super) use records::Seen;

/// How long the middle of something may last without progress; noticed after twice as long at the latest.
const PATIENCE: Duration = Duration::from_secs(10);
/// Bytes in this time that are progress in a DATA frame or a TLS record. All else is short, and must be whole by then.
const LEAST: u64 = 1024;
/// Bytes of header blocks that are read before their calls are taken: h2 makes up to a hundred times as much of them, and an
/// honest client does not call a thousand times at once.
const MOST_BLOCKS: usize = 64 * 1024;

/// What a connection is in the middle of.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
#[repr(u8)]
pub(super) enum Midway {
    /// Nothing.
    #[default]
    No,
    /// A DATA frame, which may be long and the way slow.
    Data,
    /// Another frame, a header block, or the preface with its SETTINGS (RFC 9113, 3.4).
    Frame,
}

/// Where the reading of a connection is. Of one task, so that nobody waits for it.
#[derive(Debug, Default)]
pub(super) struct Progress {
    midway: AtomicU8,
    /// Counts frames; those of one header block as one.
    frames: AtomicU32,
    /// Bytes that were read of them.
    bytes: AtomicU64,
    in_record: AtomicU8,
    /// Bytes of TLS records.
    encrypted: AtomicU64,
    /// Bytes of header blocks since all calls were taken that had come.
    blocks: AtomicUsize,
    is_out_of_step: AtomicBool,
}

/// Progress at a time.
#[derive(Clone, Copy, Debug, Default)]
struct Mark {
    midway: Midway,
    frames: u32,
    bytes: u64,
    in_record: bool,
    encrypted: u64,
}

/// The watch on one connection.
#[derive(Debug)]
pub(super) struct Standstill {
    progress: Arc<Progress>,
    /// Progress when the clock was looked at, and until when there must be more.
    since: Option<Mark>,
    until: Option<Pin<Box<Sleep>>>,
}

impl Progress {
    /// Notes that nothing more can be read now.
    pub(super) fn waits(&self, midway: Midway, frames: u32, bytes: u64) {
        self.midway.store(midway as u8, Ordering::Relaxed);
        self.frames.store(frames, Ordering::Relaxed);
        self.bytes.store(bytes, Ordering::Relaxed);
    }

    /// Counts header blocks; whether calls should be taken before more is read.
    pub(super) fn count_blocks(&self, bytes: usize) -> bool {
        let blocks = self.blocks.load(Ordering::Relaxed) + bytes;
        self.blocks.store(blocks, Ordering::Relaxed);
        blocks > MOST_BLOCKS
    }

    /// Notes that all calls were taken that had come; whether reading waits for it.
    pub(super) fn has_taken_all(&self) -> bool {
        let blocks = self.blocks.load(Ordering::Relaxed);
        self.blocks.store(0, Ordering::Relaxed);
        blocks > MOST_BLOCKS
    }

    /// Notes that header blocks can't be read any more.
    pub(super) fn is_out_of_step(&self) {
        self.is_out_of_step.store(true, Ordering::Relaxed);
    }

    /// Ready when header blocks can't be read any more. Nobody is woken for it.
    pub(super) fn poll_out_of_step(&self) -> Poll<()> {
        match self.is_out_of_step.load(Ordering::Relaxed) {
            true => Poll::Ready(()),
            false => Poll::Pending,
        }
    }

    /// Notes where the reading of TLS records waits.
    fn waits_for_record(&self, in_record: bool, encrypted: u64) {
        self.in_record.store(u8::from(in_record), Ordering::Relaxed);
        self.encrypted.store(encrypted, Ordering::Relaxed);
    }

    fn mark(&self) -> Mark {
        let midway = self.midway.load(Ordering::Relaxed);
        let all = [Midway::Data, Midway::Frame];
        Mark {
            midway: all.into_iter().find(|one| *one as u8 == midway).unwrap_or_default(),
            frames: self.frames.load(Ordering::Relaxed),
            bytes: self.bytes.load(Ordering::Relaxed),
            in_record: self.in_record.load(Ordering::Relaxed) != 0,
            encrypted: self.encrypted.load(Ordering::Relaxed),
        }
    }
}

impl Mark {
    fn is_midway(self) -> bool {
        self.midway != Midway::No || self.in_record
    }

    /// What it has been in the middle of since `before`, without progress.
    fn stands_still_since(self, before: Mark) -> Option<&'static str> {
        let is_same = before.midway == self.midway && before.frames == self.frames;
        let moved = self.bytes.saturating_sub(before.bytes);
        match self.midway {
            Midway::Frame if is_same => return Some("a frame"),
            Midway::Data if is_same && moved < LEAST => return Some("a DATA frame"),
            Midway::Frame | Midway::Data | Midway::No => {}
        }
        let moved = self.encrypted.saturating_sub(before.encrypted);
        (before.in_record && self.in_record && moved < LEAST).then_some("a TLS record")
    }
}

impl Standstill {
    pub(super) fn new(progress: Arc<Progress>) -> Standstill {
        Standstill {
            progress,
            since: None,
            until: None,
        }
    }

    /// Ready when the client stands still, with what it is in the middle of. To be polled after all was read that there is.
    pub(super) fn poll(&mut self, cx: &mut Context<'_>) -> Poll<&'static str> {
        loop {
            let Some(since) = self.since else {
                let now = self.progress.mark();
                if !now.is_midway() {
                    // Nobody is woken for it: what changes that is read by the task that polls this.
                    return Poll::Pending;
                }
                self.since = Some(now);
                let until = Instant::now() + PATIENCE;
                match &mut self.until {
                    Some(sleep) => sleep.as_mut().reset(until),
                    None => self.until = Some(Box::pin(tokio::time::sleep_until(until))),
                }
                continue;
            };
            if let Some(until) = &mut self.until {
                ready!(until.as_mut().poll(cx));
            }
            self.since = None;
            if let Some(what) = self.progress.mark().stands_still_since(since) {
                return Poll::Ready(what);
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn who_moves_on_is_let_go_on_and_who_does_not_is_not() {
        // What is noted at the begin and at the end of the time, and whether that is to stand still.
        type Note = fn(&Progress);
        let cases: [(&str, Note, Note, bool); 9] = [
            (
                "between",
                |p| p.waits(Midway::No, 7, 9),
                |p| p.waits(Midway::No, 7, 9),
                false,
            ),
            (
                "a frame",
                |p| p.waits(Midway::Frame, 7, 9),
                |p| p.waits(Midway::Frame, 7, 9),
                true,
            ),
            (
                "a slow one",
                |p| p.waits(Midway::Frame, 7, 9),
                |p| p.waits(Midway::Frame, 7, 30_000),
                true,
            ),
            (
                "the next",
                |p| p.waits(Midway::Frame, 7, 9),
                |p| p.waits(Midway::Frame, 8, 9),
                false,
            ),
            (
                "its end",
                |p| p.waits(Midway::Frame, 7, 9),
                |p| p.waits(Midway::No, 7, 10),
                false,
            ),
            (
                "DATA",
                |p| p.waits(Midway::Data, 7, 9),
                |p| p.waits(Midway::Data, 7, 1000),
                true,
            ),
            (
                "slow DATA",
                |p| p.waits(Midway::Data, 7, 9),
                |p| p.waits(Midway::Data, 7, 2000),
                false,
            ),
            (
                "a record",
                |p| p.waits_for_record(true, 9),
                |p| p.waits_for_record(true, 1000),
                true,
            ),
            (
                "slow records",
                |p| p.waits_for_record(true, 9),
                |p| p.waits_for_record(true, 2000),
                false,
            ),
        ];
        for (name, before, after, expected) in cases {
            let progress = Progress::default();
            before(&progress);
            let mark = progress.mark();
            after(&progress);
            assert_eq!(progress.mark().stands_still_since(mark).is_some(), expected, "{name}");
        }
    }
}
