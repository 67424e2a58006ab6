//! How much a connection may make the gate hold for calls that have no right.

use std::sync::atomic::{AtomicUsize, Ordering};

/// Bytes that are left.
#[derive(Debug)]
pub struct Budget(AtomicUsize);

/// What one call has of a budget, given back when it is dropped.
#[derive(Debug)]
pub struct Share<'a> {
    budget: &'a Budget,
    bytes: usize,
}

impl Budget {
    /// A budget of so many bytes.
    pub fn new(bytes: usize) -> Budget {
        Budget(AtomicUsize::new(bytes))
    }

    /// The share of a call, empty at first.
    pub fn share(&self) -> Share<'_> {
        Share { budget: self, bytes: 0 }
    }
}

impl Share<'_> {
    /// Makes the share so large in all, unless it is already; false where there is not so much left.
    pub fn grow(&mut self, bytes: usize) -> bool {
        let more = bytes.saturating_sub(self.bytes);
        let left = &self.budget.0;
        let taken = left.fetch_update(Ordering::Relaxed, Ordering::Relaxed, |left| left.checked_sub(more));
        if taken.is_ok() {
            self.bytes += more;
        }
        taken.is_ok()
    }
}

impl Drop for Share<'_> {
    fn drop(&mut self) {
        self.budget.0.fetch_add(self.bytes, Ordering::Relaxed);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn calls_share_what_there_is_and_give_it_back() {
        let budget = Budget::new(10);
        let (mut one, mut other) = (budget.share(), budget.share());
        assert!(one.grow(6) && one.grow(4) && !one.grow(11));
        assert!(other.grow(4) && !other.grow(5));
        drop(one);
        assert!(other.grow(10) && !other.grow(11));
    }
}
