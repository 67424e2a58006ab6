//! A stream to a backend, and its place among the others.

use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};

use super::pool::Shared;
use super::queue::ClientId;

/// Counts a call to its connection and to its client, until dropped.
#[derive(Debug)]
pub struct Load {
    pub(super) pool: Arc<Shared>,
    pub(super) slot: usize,
    /// The calls of the connection.
    pub(super) calls: Arc<AtomicUsize>,
    pub(super) client: ClientId,
}

impl Drop for Load {
    fn drop(&mut self) {
        self.calls.fetch_sub(1, Ordering::Relaxed);
        self.pool.release(self.client);
    }
}
