//! The way of lines from calls to the thread that writes.

use std::io;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU64, AtomicUsize, Ordering};
use std::sync::mpsc::{Sender, channel};
use std::time::Duration;

use prometheus::IntCounter;
use tokio::sync::oneshot;

use super::writer::{self, Writers};
use super::{AuditPlan, Line};
use crate::config::file::OnFailure;

/// Calls under way that will write lines.
const PLACES: usize = 64 * 1024;
/// Bytes of lines that may wait for the disk.
const MOST_WAITING: u64 = 32 << 20;
/// How long a call waits for the line that begins it.
const PATIENCE: Duration = Duration::from_secs(10);

/// Counts of what went wrong.
#[derive(Clone, Debug)]
pub struct Counters {
    /// Lines that were not written.
    pub lost: IntCounter,
    /// Attempts to write that failed.
    pub failures: IntCounter,
}

/// The way to the thread that writes, which ends when this and all places are dropped and all is written.
#[derive(Debug)]
pub struct Audit {
    lines: Arc<Sender<Message>>,
    state: Arc<State>,
    on_failure: OnFailure,
}

/// What the thread is told.
#[derive(Debug)]
pub(super) enum Message {
    /// To write so many lines, and to say when that is done.
    Write(Vec<u8>, u64, Option<oneshot::Sender<()>>),
    /// To end when all that came before is written.
    End,
}

#[derive(Debug)]
pub(super) struct State {
    places: AtomicUsize,
    /// Bytes that wait, and lines.
    pub(super) waiting: AtomicU64,
    pub(super) lines: AtomicU64,
    pub(super) failing: AtomicBool,
    pub(super) counters: Counters,
}

/// A place in the log for the lines of one call, given back when it is dropped.
#[derive(Debug)]
pub struct Place {
    lines: Arc<Sender<Message>>,
    state: Arc<State>,
    on_failure: OnFailure,
    has_begun: AtomicBool,
}

/// The audit log can't be written now.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
#[error("the audit log of the gate can't be written, and nothing may be changed until it can")]
pub struct Failing;

impl Audit {
    /// Opens the file and starts the thread, which is one of `writers` then.
    ///
    /// # Errors
    /// When the file can't be opened.
    pub fn open(plan: &AuditPlan, counters: Counters, writers: &Writers) -> io::Result<Audit> {
        let (lines, receiver) = channel();
        let lines = Arc::new(lines);
        let state = Arc::new(State {
            places: AtomicUsize::new(PLACES),
            waiting: AtomicU64::new(0),
            lines: AtomicU64::new(0),
            failing: AtomicBool::new(false),
            counters,
        });
        writer::start(plan, receiver, Arc::downgrade(&lines), Arc::clone(&state), writers)?;
        Ok(Audit {
            lines,
            state,
            on_failure: plan.on_failure,
        })
    }

    /// A place for the lines of a call; `None` where they will be lost, and are counted as that.
    ///
    /// # Errors
    /// When nothing may be changed without a line.
    pub fn place(&self) -> Result<Option<Place>, Failing> {
        let is_failing = self.state.failing.load(Ordering::Relaxed);
        if is_failing && self.on_failure == OnFailure::Refuse {
            return Err(Failing);
        }
        let places = &self.state.places;
        let taken = places.fetch_update(Ordering::Relaxed, Ordering::Relaxed, |places| places.checked_sub(1));
        match (taken, self.on_failure) {
            (Ok(_), _) => Ok(Some(Place {
                lines: Arc::clone(&self.lines),
                state: Arc::clone(&self.state),
                on_failure: self.on_failure,
                has_begun: AtomicBool::new(false),
            })),
            (Err(_), OnFailure::Refuse) => Err(Failing),
            (Err(_), OnFailure::Count) => {
                self.state.counters.lost.inc();
                Ok(None)
            }
        }
    }
}

impl Place {
    /// Writes the lines that begin a call, and waits until they are in the file where nothing may be changed without.
    ///
    /// # Errors
    /// When they are not there in time: then the call must not go on.
    pub async fn begin(&self, lines: &[Line]) -> Result<(), Failing> {
        self.has_begun.store(true, Ordering::Relaxed);
        if self.on_failure == OnFailure::Count {
            self.hand_over(lines, None);
            return Ok(());
        }
        let (written, told) = oneshot::channel();
        if !self.hand_over(lines, Some(written)) {
            return Err(Failing);
        }
        match tokio::time::timeout(PATIENCE, told).await {
            Ok(Ok(())) => Ok(()),
            Ok(Err(_)) | Err(_) => Err(Failing),
        }
    }

    /// Whether lines have begun the call.
    pub fn has_begun(&self) -> bool {
        self.has_begun.load(Ordering::Relaxed)
    }

    /// Writes the last line of a call.
    pub fn end(&self, line: &Line) {
        self.hand_over(std::slice::from_ref(line), None);
    }

    /// Whether they are on their way to the file; otherwise they are lost, and counted.
    fn hand_over(&self, lines: &[Line], written: Option<oneshot::Sender<()>>) -> bool {
        let mut bytes = Vec::new();
        let state = &self.state;
        let lost = || {
            state.counters.lost.inc_by(lines.len() as u64);
            false
        };
        for line in lines {
            if serde_json::to_writer(&mut bytes, line).is_err() {
                return lost();
            }
            bytes.push(b'\n');
        }
        let length = bytes.len() as u64;
        let count = lines.len() as u64;
        let waiting = state.waiting.fetch_add(length, Ordering::Relaxed);
        state.lines.fetch_add(count, Ordering::Relaxed);
        let has_room = waiting.saturating_add(length) <= MOST_WAITING;
        if !has_room || self.lines.send(Message::Write(bytes, count, written)).is_err() {
            state.waiting.fetch_sub(length, Ordering::Relaxed);
            state.lines.fetch_sub(count, Ordering::Relaxed);
            return lost();
        }
        true
    }
}

impl Drop for Place {
    fn drop(&mut self) {
        self.state.places.fetch_add(1, Ordering::Relaxed);
    }
}
