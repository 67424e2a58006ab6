//! The name of one call, which its access line, its audit line and a denial share.

use std::cell::Cell;
use std::fmt;
use std::sync::LazyLock;
use std::sync::atomic::{AtomicU64, Ordering};

/// Differs from that of every other call of the process, and most likely from those of other processes. Later calls may have
/// lower ones.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct CallId(u64);

/// So many ids a thread takes at once: for each by itself, threads would wait for each other.
const BLOCK: u64 = 256;

impl CallId {
    /// The id of the next call.
    pub(super) fn next() -> CallId {
        // The upper half is that of the process.
        static NEXT: LazyLock<AtomicU64> =
            LazyLock::new(|| AtomicU64::new(u64::from(uuid::Uuid::new_v4().as_fields().0) << 32));
        thread_local! {
            /// The next id, and how many this thread has from there on.
            static MINE: Cell<(u64, u64)> = const { Cell::new((0, 0)) };
        }
        let (id, left) = match MINE.get() {
            (_, 0) => (NEXT.fetch_add(BLOCK, Ordering::Relaxed), BLOCK),
            mine => mine,
        };
        MINE.set((id.wrapping_add(1), left - 1));
        CallId(id)
    }
}

impl fmt::Display for CallId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{:016x}", self.0)
    }
}

#[cfg(test)]
mod tests {
    #![expect(clippy::unwrap_used, reason = "a test may panic")]

    use std::collections::HashSet;
    use std::thread;

    use super::*;

    #[test]
    fn no_two_calls_have_one_id() {
        let some = || {
            (0..3 * BLOCK + 1)
                .map(|_| CallId::next().to_string())
                .collect::<Vec<_>>()
        };
        let threads: Vec<_> = (0..4).map(|_| thread::spawn(some)).collect();
        let ids: Vec<String> = threads.into_iter().flat_map(|thread| thread.join().unwrap()).collect();
        assert_eq!(ids.iter().collect::<HashSet<_>>().len(), ids.len());
    }
}
