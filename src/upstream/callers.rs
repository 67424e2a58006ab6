//! Whose calls those are that go to the embedded store: what it keeps for them is of their callers' memory.
//!
//! The way to the store is HTTP/2 as to any backend, and all callers of a thread share a connection. So each call has a
//! number in a header, which no client can set, and which stands here while the call is open.

use std::collections::HashMap;
use std::pin::Pin;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Duration;

use http::{HeaderMap, HeaderName, HeaderValue};
use parking_lot::Mutex;

use crate::clients::{Purse, Reservation};
use crate::store::memory::{self, Memory, Reserve};

const HEADER: HeaderName = HeaderName::from_static("casgate-caller");
/// The numbers of a thread follow each other at this distance: the rest is that of the thread.
const THREADS: u64 = 1 << 16;

/// The callers of the calls that are open.
#[derive(Debug)]
pub(super) struct Callers {
    threads: Vec<OfThread>,
    /// Of calls that have no caller: checks.
    nobody: Arc<Purse>,
}

/// The calls of one thread: a lock that only the store shares with it.
#[derive(Debug, Default)]
struct OfThread {
    last: AtomicU64,
    open: Mutex<HashMap<u64, Arc<Purse>>>,
}

/// The number of an open call, until dropped.
#[derive(Debug)]
pub(super) struct Ticket {
    callers: Arc<Callers>,
    number: u64,
}

impl Callers {
    /// Of so many threads.
    pub(super) fn new(threads: usize, nobody: Arc<Purse>) -> Arc<Callers> {
        Arc::new(Callers {
            threads: (0..threads).map(|_| OfThread::default()).collect(),
            nobody,
        })
    }

    /// Notes whose the next call of a thread is, and says so in its headers.
    pub(super) fn note(
        self: &Arc<Callers>,
        worker: usize,
        purse: &Arc<Purse>,
        headers: &mut HeaderMap,
    ) -> Option<Ticket> {
        let thread = self.threads.get(worker)?;
        let last = thread.last.fetch_add(1, Ordering::Relaxed);
        let number = last.wrapping_mul(THREADS).wrapping_add(worker as u64);
        thread.open.lock().insert(number, Arc::clone(purse));
        headers.insert(HEADER, HeaderValue::from(number));
        Some(Ticket {
            callers: Arc::clone(self),
            number,
        })
    }

    fn thread(&self, number: u64) -> Option<&OfThread> {
        self.threads.get(usize::try_from(number % THREADS).ok()?)
    }

    fn purse(&self, headers: &HeaderMap) -> Option<Arc<Purse>> {
        let number = headers.get(HEADER)?.to_str().ok()?.parse().ok()?;
        self.thread(number)?.open.lock().get(&number).cloned()
    }
}

impl memory::Callers for Callers {
    fn memory(&self, headers: &HeaderMap) -> Arc<dyn Memory> {
        let purse = self.purse(headers);
        Arc::new(Of(purse.unwrap_or_else(|| Arc::clone(&self.nobody))))
    }
}

impl Drop for Ticket {
    fn drop(&mut self) {
        if let Some(thread) = self.callers.thread(self.number) {
            thread.open.lock().remove(&self.number);
        }
    }
}

/// The memory of a purse, as the store wants it.
#[derive(Debug)]
struct Of(Arc<Purse>);

impl Memory for Of {
    fn reservation(&self) -> Box<dyn Reserve> {
        Box::new(self.0.reservation())
    }
}

impl Reserve for Reservation {
    fn bytes(&self) -> u64 {
        Reservation::bytes(self)
    }

    fn grow(&mut self, more: u64) -> bool {
        Reservation::grow(self, more).is_ok()
    }

    fn grow_when_free(&mut self, more: u64, patience: Duration) -> Pin<Box<dyn Future<Output = bool> + Send + '_>> {
        Box::pin(async move { Reservation::grow_request(self, more, patience).await.is_ok() })
    }

    fn shrink(&mut self, bytes: u64) {
        Reservation::shrink(self, bytes);
    }
}

#[cfg(test)]
mod tests {
    #![expect(clippy::unwrap_used, reason = "a test may panic")]
    use prometheus::IntGauge;

    use super::memory::Callers as _;
    use super::*;
    use crate::clients::Ledger;

    #[test]
    fn a_call_has_the_memory_of_its_caller_while_it_is_open_and_no_header_of_a_client_gives_any() {
        let of = |bytes| Ledger::new(bytes, IntGauge::new("bytes", "Bytes.").unwrap());
        let callers = Callers::new(2, of(0).account().purse());
        let ledger = of(1 << 30);
        let purse = ledger.account().purse();
        let mut headers = HeaderMap::new();
        // What a client says is replaced.
        headers.insert(HEADER, HeaderValue::from_static("7"));
        let has_much = |headers: &HeaderMap| callers.memory(headers).reservation().grow(1 << 20);
        assert!(!has_much(&headers) && !has_much(&HeaderMap::new()));
        let ticket = callers.note(1, &purse, &mut headers).unwrap();
        assert!(has_much(&headers));
        drop(ticket);
        assert!(!has_much(&headers));
        assert!(callers.note(2, &purse, &mut headers).is_none());
    }
}
