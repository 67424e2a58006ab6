//! Streams of `grpc.health.v1.Health/Watch`: they need no right, so that they may neither be many nor keep a connection that
//! does nothing else.

use std::sync::atomic::{AtomicUsize, Ordering};

use tokio::sync::watch;

/// Streams that a connection may have. A client that balances calls has one for each service that it asks about.
const MOST: usize = 16;

/// The streams of one connection.
#[derive(Debug)]
pub struct Watches {
    open: AtomicUsize,
    over: watch::Sender<bool>,
}

/// One of them, counted until dropped.
#[derive(Debug)]
pub struct Watch<'a> {
    watches: &'a Watches,
    over: watch::Receiver<bool>,
}

impl Default for Watches {
    fn default() -> Watches {
        Watches {
            open: AtomicUsize::new(0),
            over: watch::Sender::new(false),
        }
    }
}

impl Watches {
    /// Counts one more; `None` where there are too many.
    pub fn begin(&self) -> Option<Watch<'_>> {
        let more = |open: usize| (open < MOST).then_some(open + 1);
        let counted = self.open.fetch_update(Ordering::Relaxed, Ordering::Relaxed, more);
        counted.ok().map(|_| Watch {
            watches: self,
            over: self.over.subscribe(),
        })
    }

    /// Ends them all, since their connection is to end.
    pub(super) fn end(&self) {
        self.over.send_if_modified(|over| !std::mem::replace(over, true));
    }
}

impl Watch<'_> {
    /// Ends when the watch has to.
    pub async fn over(&mut self) {
        // The sender is in `watches`.
        let _over = self.over.wait_for(|over| *over).await;
    }
}

impl Drop for Watch<'_> {
    fn drop(&mut self) {
        self.watches.open.fetch_sub(1, Ordering::Relaxed);
    }
}

#[cfg(test)]
mod tests {
    #![expect(clippy::unwrap_used, reason = "a test may panic")]
    use futures_util::FutureExt;

    use super::*;

    #[test]
    fn there_are_so_many_and_all_end_with_their_connection() {
        let watches = Watches::default();
        let mut open: Vec<_> = (0..MOST).map(|_| watches.begin().unwrap()).collect();
        assert!(watches.begin().is_none());
        open.pop();
        let mut last = watches.begin().unwrap();
        assert!(last.over().now_or_never().is_none());
        watches.end();
        watches.end();
        assert!(last.over().now_or_never().is_some());
    }
}
