//! The log on standard error. No thread that serves calls ever waits for whoever reads it: lines go through a bounded
//! queue to a thread of their own, and what does not fit is dropped and counted.

mod queue;

use std::sync::Arc;
use std::sync::atomic::AtomicU64;

use tracing_appender::non_blocking::{NonBlockingBuilder, WorkerGuard};
use tracing_subscriber::EnvFilter;

use crate::config::file::LogFormat;
use crate::snapshot::LogPlan;

use queue::{Bounds, queue};

/// How many lines may wait: seconds of a busy gate.
pub const LINES: usize = 16 * 1024;
/// How many bytes may wait. A line has 500, but one with names that a client chose has thousands.
const BYTES: usize = 8 << 20;

/// A log that is written. Dropping it writes what still waits, for a second at most: a reader that has stopped reading
/// can't keep the program from ending.
#[derive(Debug)]
#[must_use = "dropping it ends the log"]
pub struct Log {
    dropped: Arc<AtomicU64>,
    _writer: WorkerGuard,
}

impl Log {
    /// Begins to log to standard error, for the whole process.
    pub fn start(plan: &LogPlan) -> Log {
        let bounds = Bounds {
            lines: LINES,
            bytes: BYTES,
        };
        let (queue, writer, dropped) = queue(bounds, std::io::stderr(), |exit| {
            NonBlockingBuilder::default()
                .lossy(true)
                .buffered_lines_limit(LINES)
                .thread_name("casgate-log")
                .finish(exit)
        });
        let filter = EnvFilter::try_new(&plan.filter).unwrap_or_default();
        let builder = tracing_subscriber::fmt().with_env_filter(filter).with_writer(queue);
        let installed = match plan.format {
            LogFormat::Text => builder
                .with_ansi(std::io::IsTerminal::is_terminal(&std::io::stderr()))
                .try_init(),
            LogFormat::Json => builder.json().flatten_event(true).try_init(),
        };
        // In tests another one may be there already; it serves as well.
        drop(installed);
        Log {
            dropped,
            _writer: writer,
        }
    }

    /// Counts the lines that did not fit.
    pub fn dropped(&self) -> Arc<AtomicU64> {
        Arc::clone(&self.dropped)
    }
}
