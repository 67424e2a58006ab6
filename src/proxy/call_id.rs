//! The name of one call, which its access line, its audit line and a denial share.

use std::fmt;
use std::sync::LazyLock;
use std::sync::atomic::{AtomicU64, Ordering};

/// Differs from that of every other call of the process, and most likely from those of other processes.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct CallId(u64);

impl CallId {
    /// The id of the next call.
    pub(super) fn next() -> CallId {
        // The upper half is that of the process.
        static NEXT: LazyLock<AtomicU64> =
            LazyLock::new(|| AtomicU64::new(u64::from(uuid::Uuid::new_v4().as_fields().0) << 32));
        CallId(NEXT.fetch_add(1, Ordering::Relaxed))
    }
}

impl fmt::Display for CallId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{:016x}", self.0)
    }
}
