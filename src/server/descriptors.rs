//! How many files the process may have open, and how many of them are for clients.

use rustix::process::{Resource, Rlimit, getrlimit, setrlimit};

use crate::snapshot::Snapshot;
use crate::snapshot::backends::Target;

/// For listeners, logs, monitoring, and files that a reload reads.
const OWN: usize = 96;
/// For the runtime of one thread.
const PER_THREAD: usize = 8;
/// For the files that one embedded store reads and writes at once.
const PER_STORE: usize = 256;

/// Raises the soft limit to the hard one. The soft one is low, 1024 for most, only for programs that use select(2).
pub(super) fn raise() {
    let Rlimit { current, maximum } = getrlimit(Resource::Nofile);
    if current != maximum {
        let all = Rlimit {
            current: maximum,
            maximum,
        };
        if let Err(error) = setrlimit(Resource::Nofile, all) {
            tracing::warn!(target: "casgate::serve", %error, "the limit for open files can't be raised");
        }
    }
}

/// How many connections of clients fit beside all that the gate itself opens.
pub(crate) fn room(snapshot: &Snapshot, threads: usize) -> usize {
    let limit = getrlimit(Resource::Nofile).current;
    let files = limit.map_or(usize::MAX, |files| usize::try_from(files).unwrap_or(usize::MAX));
    let backends = snapshot.backends.iter().map(|backend| match &*backend.endpoints {
        [Target::Store(_)] => PER_STORE,
        // An old connection may still be closing while its successor is there. One more is for the health check.
        endpoints => endpoints.len() * (2 * threads.saturating_mul(backend.connections)).saturating_add(1),
    });
    let reserve = OWN + threads * PER_THREAD + backends.sum::<usize>();
    // A sixteenth more may be open for a moment. However few files there are, some callers must get in.
    (files.saturating_sub(reserve) / 17 * 16).max(files / 4)
}
