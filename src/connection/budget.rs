//! How much a connection may make the gate hold for calls that have no right.

use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};

use crate::clients::{Purse, Reservation};

/// Bytes that are left.
#[derive(Debug)]
pub struct Budget {
    left: AtomicUsize,
    /// Whose memory it is.
    purse: Arc<Purse>,
}

/// What one call has of a budget, given back when it is dropped.
#[derive(Debug)]
pub struct Share<'a> {
    budget: &'a Budget,
    bytes: usize,
    reservation: Reservation,
}

impl Budget {
    /// A budget of so many bytes, of this purse.
    pub fn new(bytes: usize, purse: &Arc<Purse>) -> Budget {
        Budget {
            left: AtomicUsize::new(bytes),
            purse: Arc::clone(purse),
        }
    }

    /// The share of a call, empty at first.
    pub fn share(&self) -> Share<'_> {
        Share {
            budget: self,
            bytes: 0,
            reservation: self.purse.reservation(),
        }
    }
}

impl Share<'_> {
    /// Makes the share so large in all, unless it is already; false where there is not so much left.
    pub fn grow(&mut self, bytes: usize) -> bool {
        let more = bytes.saturating_sub(self.bytes);
        let left = &self.budget.left;
        let taken = left.fetch_update(Ordering::Relaxed, Ordering::Relaxed, |left| left.checked_sub(more));
        if taken.is_err() {
            return false;
        }
        self.bytes += more;
        self.reservation.grow(more as u64).is_ok()
    }

    /// Makes it at most so large in all, and gives what is reserved for that.
    pub fn settle(&mut self, bytes: usize) -> Reservation {
        let less = self.bytes.saturating_sub(bytes);
        self.bytes -= less;
        self.budget.left.fetch_add(less, Ordering::Relaxed);
        self.reservation.shrink_to(bytes as u64);
        self.reservation.split(bytes as u64)
    }
}

impl Drop for Share<'_> {
    fn drop(&mut self) {
        self.budget.left.fetch_add(self.bytes, Ordering::Relaxed);
    }
}

#[cfg(test)]
mod tests {
    #![expect(clippy::unwrap_used, reason = "a test may panic")]
    use super::*;

    #[test]
    fn calls_share_what_there_is_and_give_it_back() {
        let gauge = prometheus::IntGauge::new("bytes", "Bytes.").unwrap();
        let purse = crate::clients::Ledger::new(0, gauge).account().purse();
        let budget = Budget::new(10, &purse);
        let (mut one, mut other) = (budget.share(), budget.share());
        assert!(one.grow(6) && one.grow(4) && !one.grow(11));
        assert!(other.grow(4) && !other.grow(5));
        drop(one);
        assert!(other.grow(10) && !other.grow(11));
        // Nor more than their caller may have in all.
        let large = Budget::new(1 << 20, &purse);
        assert!(large.share().grow(30_000) && !large.share().grow(70_000));
    }
}
