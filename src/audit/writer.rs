//! The threads that write, one for each audit log that a configuration has opened.

use std::fs::{File, OpenOptions};
use std::io::{self, Write};
use std::os::unix::fs::OpenOptionsExt;
use std::path::{Path, PathBuf};
use std::sync::atomic::Ordering;
use std::sync::mpsc::{Receiver, RecvTimeoutError, Sender};
use std::sync::{Arc, Weak};
use std::thread::JoinHandle;
use std::time::{Duration, Instant};

use parking_lot::Mutex;
use tokio::sync::oneshot;

use super::AuditPlan;
use super::queue::{Message, State};

/// How long a thread waits before it tries a file again that could not be written.
const RETRY: Duration = Duration::from_secs(1);
/// Bytes that are written at a time: on a slow disk, each write takes its time.
const BUFFER: usize = 1 << 20;

/// All threads that write, also those of earlier configurations: what they have was acknowledged.
#[derive(Debug, Default)]
pub struct Writers(Mutex<Vec<Running>>);

#[derive(Debug)]
struct Running {
    thread: JoinHandle<u64>,
    lines: Weak<Sender<Message>>,
    state: Arc<State>,
    path: PathBuf,
}

impl Writers {
    /// Has all threads write what they have, and waits for them; gives how many lines are lost, which are counted and
    /// logged. To be called when no call is left.
    pub fn finish(&self, patience: Duration) -> u64 {
        let end = Instant::now() + patience;
        let running = std::mem::take(&mut *self.0.lock());
        for writer in &running {
            if let Some(lines) = writer.lines.upgrade() {
                let _ended = lines.send(Message::End);
            }
        }
        running.into_iter().map(|writer| writer.finish(end)).sum()
    }
}

impl Running {
    fn finish(self, end: Instant) -> u64 {
        while !self.thread.is_finished() && Instant::now() < end {
            std::thread::sleep(Duration::from_millis(5));
        }
        let path = self.path.display();
        if !self.thread.is_finished() {
            let lost = self.state.lines.load(Ordering::Relaxed);
            self.state.counters.lost.inc_by(lost);
            tracing::error!(target: "casgate::audit", %path, lines = lost, "the audit log was not written in time: lines are lost");
            return lost.max(1);
        }
        // It has counted and logged what it lost. A thread that panicked has lost what it had.
        self.thread.join().unwrap_or(1)
    }
}

/// Opens the file and starts its thread.
pub(super) fn start(
    plan: &AuditPlan,
    receiver: Receiver<Message>,
    lines: Weak<Sender<Message>>,
    state: Arc<State>,
    writers: &Writers,
) -> io::Result<()> {
    let mut log = Log {
        out: Some(open(&plan.file)?),
        path: plan.file.clone(),
        sync: plan.sync,
        unwritten: Vec::new(),
        told: Vec::new(),
        lines: 0,
        state: Arc::clone(&state),
    };
    let thread = std::thread::Builder::new()
        .name("casgate-audit".to_owned())
        .spawn(move || log.run(&receiver))?;
    let mut writers = writers.0.lock();
    // Those of configurations before, whose last call has ended.
    writers.retain(|writer| !writer.thread.is_finished());
    writers.push(Running {
        thread,
        lines,
        state,
        path: plan.file.clone(),
    });
    Ok(())
}

struct Log {
    out: Option<File>,
    path: PathBuf,
    sync: bool,
    unwritten: Vec<u8>,
    /// Whom to tell when that is written.
    told: Vec<oneshot::Sender<()>>,
    /// How many lines that is.
    lines: u64,
    state: Arc<State>,
}

impl Log {
    /// Writes until there is nothing more to come; gives how many lines are lost.
    fn run(&mut self, messages: &Receiver<Message>) -> u64 {
        loop {
            let wait = if self.unwritten.is_empty() {
                Duration::MAX
            } else {
                RETRY
            };
            let mut is_over = false;
            match messages.recv_timeout(wait) {
                Ok(message) => {
                    is_over |= self.take(message);
                    // What else waits is written with it.
                    while self.unwritten.len() < BUFFER
                        && let Ok(message) = messages.try_recv()
                    {
                        is_over |= self.take(message);
                    }
                }
                Err(RecvTimeoutError::Timeout) => {}
                Err(RecvTimeoutError::Disconnected) => is_over = true,
            }
            let failed = self.write().err();
            self.note(failed.as_ref());
            if is_over {
                return self.give_up(failed);
            }
            if failed.is_some() {
                // Nothing is gained by trying for each line that comes.
                std::thread::sleep(RETRY);
            }
        }
    }

    /// Whether it is told to end.
    fn take(&mut self, message: Message) -> bool {
        match message {
            Message::Write(bytes, lines, told) => {
                self.unwritten.extend_from_slice(&bytes);
                self.lines += lines;
                self.told.extend(told);
                false
            }
            Message::End => true,
        }
    }

    fn note(&self, failed: Option<&io::Error>) {
        let path = self.path.display();
        let was_failing = self.state.failing.swap(failed.is_some(), Ordering::Relaxed);
        match failed {
            Some(error) => {
                self.state.counters.failures.inc();
                if !was_failing {
                    tracing::error!(target: "casgate::audit", %path, %error, "the audit log can't be written");
                }
            }
            None if was_failing => {
                tracing::info!(target: "casgate::audit", %path, "the audit log is written again");
            }
            None => {}
        }
    }

    fn give_up(&self, failed: Option<io::Error>) -> u64 {
        if let Some(error) = failed {
            let path = self.path.display();
            tracing::error!(target: "casgate::audit", %path, %error, lines = self.lines, "lines of the audit log are lost");
            self.state.counters.lost.inc_by(self.lines);
        }
        self.lines
    }

    /// Writes what waits, whole lines only: after a failure the file is opened again, and all that did not get through is
    /// tried again.
    fn write(&mut self) -> io::Result<()> {
        if self.unwritten.is_empty() {
            return Ok(());
        }
        // Who waits for a line that is late is told that it is not there, and its call is refused.
        self.told.retain(|told| !told.is_closed());
        let mut file = match self.out.take() {
            Some(file) => file,
            None => {
                let mut file = open(&self.path)?;
                // The line before may have been cut off.
                file.write_all(b"\n")?;
                file
            }
        };
        let result = file.write_all(&self.unwritten).and_then(|()| match self.sync {
            true => file.sync_data(),
            false => Ok(()),
        });
        if let Err(error) = result {
            // Calls that wait are not let through by a line that comes later.
            self.told.clear();
            return Err(error);
        }
        self.out = Some(file);
        let written = self.unwritten.len() as u64;
        self.state.waiting.fetch_sub(written, Ordering::Relaxed);
        self.state.lines.fetch_sub(self.lines, Ordering::Relaxed);
        self.unwritten.clear();
        self.unwritten.shrink_to(BUFFER);
        self.lines = 0;
        for told in self.told.drain(..) {
            let _gone = told.send(());
        }
        Ok(())
    }
}

fn open(path: &Path) -> io::Result<File> {
    // Who pushed what is not for everybody.
    OpenOptions::new().append(true).create(true).mode(0o640).open(path)
}
