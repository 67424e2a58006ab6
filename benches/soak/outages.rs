//! When backends were away, and what that explains.

use std::time::{Duration, Instant};

use parking_lot::Mutex;

use super::tally::Failure;

/// For how long a restart explains failures once the backend can be connected to again: connections are made anew, and
/// health checks take their time.
const AFTERMATH: Duration = Duration::from_secs(5);
/// UNAVAILABLE (grpc doc/statuscodes.md): the one status of a backend that is gone.
const UNAVAILABLE: u8 = 14;

/// The last one explains what it can.
pub(crate) struct Outages(Mutex<Last>);

enum Last {
    None,
    /// It goes on.
    Begun,
    /// It explains failures of calls that began by then.
    Until(Instant),
}

impl Outages {
    pub(crate) fn new() -> Outages {
        Outages(Mutex::new(Last::None))
    }

    pub(crate) fn begin(&self) {
        *self.0.lock() = Last::Begun;
    }

    /// It can be connected to again.
    pub(crate) fn end(&self) {
        *self.0.lock() = Last::Until(Instant::now() + AFTERMATH);
    }

    /// Whether a failure of a call that began then is what the gate must say when a backend is gone, at a time when one was.
    pub(crate) fn explain(&self, failure: &Failure, begun: Instant) -> Option<&'static str> {
        let was_away = match *self.0.lock() {
            Last::None => false,
            Last::Begun => true,
            Last::Until(end) => begun <= end,
        };
        let is_of_backend = failure.code == Some(UNAVAILABLE) && failure.text.contains("is not available");
        (was_away && is_of_backend).then_some("a backend restarts")
    }
}
