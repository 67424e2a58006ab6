//! How often a client resets calls that it had made: often for a build that is interrupted, without end for an attack
//! (CVE-2023-44487, "rapid reset"). h2 counts only resets of streams that were not accepted yet.

use std::time::Instant;

use parking_lot::Mutex;
use tokio::sync::Notify;

use crate::snapshot::limits::Limits;

/// A bucket of tokens: each reset takes one.
#[derive(Debug)]
pub(super) struct Resets {
    bucket: Mutex<Bucket>,
    empty: Notify,
}

#[derive(Debug)]
struct Bucket {
    /// How many were taken and not yet given back.
    taken: f64,
    since: Instant,
}

impl Resets {
    pub(super) fn new() -> Resets {
        Resets {
            bucket: Mutex::new(Bucket {
                taken: 0.0,
                since: Instant::now(),
            }),
            empty: Notify::new(),
        }
    }

    /// Counts one.
    pub(super) fn count(&self, limits: &Limits) {
        if !self.bucket.lock().take(Instant::now(), limits) {
            self.empty.notify_one();
        }
    }

    /// Ends when there were too many.
    pub(super) async fn too_many(&self) {
        self.empty.notified().await;
    }
}

impl Bucket {
    fn take(&mut self, now: Instant, limits: &Limits) -> bool {
        let given_back = now.saturating_duration_since(self.since).as_secs_f64() * f64::from(limits.resets_per_second);
        self.since = now;
        self.taken = (self.taken - given_back).max(0.0) + 1.0;
        self.taken <= f64::from(limits.resets_at_once)
    }
}

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use super::*;

    #[test]
    fn bursts_are_free_and_floods_are_not() {
        let second = Duration::from_secs(1);
        let limits = Limits {
            connections: None,
            connections_per_address: 1,
            handshakes: 4,
            first_request_timeout: second,
            idle_timeout: second,
            anonymous_idle_timeout: second,
            resets_at_once: 1000,
            stall_timeout: Duration::from_secs(1),
            calls_per_connection: 1000,
            calls_per_certificate: 10_000,
            memory: None,
            resets_per_second: 100,
            control_frames_at_once: 100,
            control_frames_per_second: 1,
        };
        let begun = Instant::now();
        let mut bucket = Bucket {
            taken: 0.0,
            since: begun,
        };
        // A build of 500 calls that is interrupted once in five seconds, for ever.
        for round in 0..100 {
            assert!((0..500).all(|_| bucket.take(begun + 5 * round * second, &limits)));
        }
        let later = begun + 1000 * second;
        assert!((0..1000).all(|_| bucket.take(later, &limits)));
        assert!(!bucket.take(later, &limits));
    }
}
