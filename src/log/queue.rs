//! The lines that wait for whoever reads the log: so many at most, and so many bytes.

use std::io::{self, Write};
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, AtomicUsize, Ordering};

use tracing_subscriber::fmt::MakeWriter;

/// What waits.
#[derive(Debug, Default)]
struct Waiting {
    lines: AtomicUsize,
    bytes: AtomicUsize,
    /// Lines that did not fit.
    dropped: Arc<AtomicU64>,
}

/// Bounds of what waits.
#[derive(Clone, Copy, Debug)]
pub(super) struct Bounds {
    pub(super) lines: usize,
    pub(super) bytes: usize,
}

/// The way into a queue, for `inner`, which never waits.
#[derive(Clone, Debug)]
pub(super) struct Entry<W> {
    inner: W,
    bounds: Bounds,
    waiting: Arc<Waiting>,
}

/// The way out, to the `inner` that is written to.
#[derive(Debug)]
pub(super) struct Exit<W> {
    inner: W,
    waiting: Arc<Waiting>,
}

/// Both ends of a queue that `make` makes of its exit, and the count of lines that did not fit.
pub(super) fn queue<O, W, R>(
    bounds: Bounds,
    out: O,
    make: impl FnOnce(Exit<O>) -> (W, R),
) -> (Entry<W>, R, Arc<AtomicU64>) {
    let waiting = Arc::<Waiting>::default();
    let exit = Exit {
        inner: out,
        waiting: Arc::clone(&waiting),
    };
    let (inner, rest) = make(exit);
    let dropped = Arc::clone(&waiting.dropped);
    let entry = Entry { inner, bounds, waiting };
    (entry, rest, dropped)
}

impl<W: Write> Write for Entry<W> {
    /// Takes a line, or drops it: in either case as a whole.
    fn write(&mut self, line: &[u8]) -> io::Result<usize> {
        if line.is_empty() {
            return Ok(0);
        }
        let Waiting { lines, bytes, dropped } = &*self.waiting;
        let is_one_more = lines.fetch_add(1, Ordering::Relaxed) < self.bounds.lines;
        let is_room = bytes
            .fetch_add(line.len(), Ordering::Relaxed)
            .saturating_add(line.len())
            <= self.bounds.bytes;
        if is_one_more && is_room && self.inner.write(line).is_ok() {
            return Ok(line.len());
        }
        lines.fetch_sub(1, Ordering::Relaxed);
        bytes.fetch_sub(line.len(), Ordering::Relaxed);
        dropped.fetch_add(1, Ordering::Relaxed);
        Ok(line.len())
    }

    fn flush(&mut self) -> io::Result<()> {
        self.inner.flush()
    }
}

impl<'a, W: Write + Clone + 'a> MakeWriter<'a> for Entry<W> {
    type Writer = Entry<W>;

    fn make_writer(&'a self) -> Entry<W> {
        self.clone()
    }
}

impl<W: Write> Write for Exit<W> {
    /// Writes a line, which comes as a whole.
    fn write(&mut self, line: &[u8]) -> io::Result<usize> {
        let written = self.inner.write_all(line);
        self.waiting.lines.fetch_sub(1, Ordering::Relaxed);
        self.waiting.bytes.fetch_sub(line.len(), Ordering::Relaxed);
        written.map(|()| line.len())
    }

    fn flush(&mut self) -> io::Result<()> {
        self.inner.flush()
    }
}

#[cfg(test)]
mod tests {
    #![expect(clippy::unwrap_used, reason = "a test may panic")]
    use std::sync::mpsc::{Sender, channel};

    use super::*;

    #[derive(Clone)]
    struct Channel(Sender<Vec<u8>>);

    impl Write for Channel {
        fn write(&mut self, line: &[u8]) -> io::Result<usize> {
            self.0.send(line.to_vec()).map_err(io::Error::other)?;
            Ok(line.len())
        }

        fn flush(&mut self) -> io::Result<()> {
            Ok(())
        }
    }

    #[test]
    fn lines_and_their_bytes_are_bounded_and_what_is_written_makes_room() {
        let (sender, receiver) = channel();
        let bounds = Bounds { lines: 3, bytes: 100 };
        let (mut entry, mut exit, dropped) = queue(bounds, Vec::new(), |exit| (Channel(sender), exit));
        for length in [0, 60, 41, 38, 1, 1] {
            assert_eq!(entry.write(&vec![b'x'; length]).unwrap(), length);
        }
        // The second by its bytes, the last by its number.
        assert_eq!(dropped.load(Ordering::Relaxed), 2);
        assert_eq!(exit.write(&receiver.recv().unwrap()).unwrap(), 60);
        assert_eq!(entry.write(&[b'y'; 60]).unwrap(), 60);
        assert_eq!(dropped.load(Ordering::Relaxed), 2);
        assert_eq!(
            receiver.try_iter().map(|line| line.len()).collect::<Vec<_>>(),
            [38, 1, 60]
        );
    }
}
