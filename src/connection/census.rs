//! Every open connection of clients: how many there are, from where, which of them do nothing, and of which nothing is known.
//!
//! The lock is taken when a connection comes and when it goes, never for a call.

mod address;
mod slots;
mod strangers;

use std::collections::HashMap;
use std::net::IpAddr;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU64, AtomicUsize, Ordering};
use std::time::{Duration, Instant};

use parking_lot::Mutex;
use tokio::sync::Notify;

pub(super) use address::Address;
pub(super) use slots::Slot;
use slots::Slots;
use strangers::Strangers;

use super::refusals::Refusals;
use crate::metrics::{Action, Limit, Metrics};
use crate::snapshot::limits::{Limits, MOST_CONNECTIONS};

/// How long a new connection waits for the end of one that was told to leave. No others are taken meanwhile.
const PATIENCE: Duration = Duration::from_millis(100);
/// How often one limit is logged at most.
const LOG_INTERVAL: Duration = Duration::from_secs(10);

/// The open connections.
#[derive(Debug)]
pub struct Census {
    /// How many connections the open files of the process leave room for.
    room: usize,
    handshakes: Arc<Slots>,
    clock: Clock,
    metrics: Arc<Metrics>,
    book: Mutex<Book>,
    /// Tells that a connection has left.
    left: Notify,
    refusals: Refusals,
    logged: Mutex<[Logged; Limit::ALL.len()]>,
}

/// Why a connection can't come in.
#[derive(Clone, Copy, Debug)]
struct Full {
    limit: Limit,
    /// Whether others were told to leave already.
    some_leave: bool,
}

/// When a limit was logged, and how often it bit since.
#[derive(Clone, Copy, Debug, Default)]
struct Logged {
    last: Option<Instant>,
    unsaid: u64,
}

#[derive(Debug, Default)]
struct Book {
    next: u64,
    connections: HashMap<u64, Arc<Entry>>,
    addresses: HashMap<Address, AtAddress>,
    strangers: Strangers,
    leaving: usize,
}

#[derive(Debug, Default)]
struct AtAddress {
    connections: usize,
    leaving: usize,
}

/// Tells milliseconds since the begin of the census.
#[derive(Clone, Copy, Debug)]
struct Clock(Instant);

#[derive(Debug)]
struct Entry {
    address: Address,
    clock: Clock,
    calls: AtomicUsize,
    has_called: AtomicBool,
    /// Whether its client has shown a certificate that is accepted.
    is_known: AtomicBool,
    /// The end of the last call, or the begin of the connection, by the clock.
    idle_since: AtomicU64,
    leaving: AtomicBool,
    leave: Notify,
}

/// A connection that is counted until this is dropped.
#[derive(Debug)]
pub struct Ticket {
    census: Arc<Census>,
    number: u64,
    entry: Arc<Entry>,
}

/// A call of a connection, counted until dropped.
#[derive(Debug)]
pub(super) struct Open {
    entry: Arc<Entry>,
}

impl Census {
    /// A census with room for so many connections, by the open files of the process.
    pub fn new(limits: &Limits, room: usize, metrics: Arc<Metrics>) -> Census {
        Census {
            room,
            handshakes: Arc::new(Slots::new(limits.handshakes)),
            clock: Clock(Instant::now()),
            metrics,
            book: Mutex::default(),
            left: Notify::new(),
            refusals: Refusals::default(),
            logged: Mutex::default(),
        }
    }

    /// Counts a connection in, as a stranger at first; `None` when there are too many. One is told to leave where that makes
    /// room, and is waited for, so that more of them can't come faster than others leave.
    pub async fn admit(self: &Arc<Census>, address: IpAddr, limits: &Limits) -> Option<Ticket> {
        let address = Address::of(address);
        let patience = tokio::time::sleep(PATIENCE);
        tokio::pin!(patience);
        loop {
            let full = match self.enter(address, limits) {
                Ok(ticket) => return Some(ticket),
                Err(full) => full,
            };
            if full.limit == Limit::Connections && full.some_leave {
                tokio::select! {
                    () = self.left.notified() => continue,
                    () = &mut patience => {}
                }
            }
            self.count(full.limit, Action::Refused);
            return None;
        }
    }

    fn enter(self: &Arc<Census>, address: Address, limits: &Limits) -> Result<Ticket, Full> {
        let mut book = self.book.lock();
        let of_address = limits.connections_per_address;
        self.make_room(&mut book, Limit::ConnectionsPerAddress, of_address, Some(address))?;
        let most = self.connections(limits);
        self.make_room(&mut book, Limit::Connections, most, None)?;
        // The other half is for those who are known.
        if let Some(stranger) = book.strangers.in_the_way(address, most / 2) {
            book.tell_to_leave(stranger);
            self.count(Limit::Strangers, Action::Closed);
        }
        let entry = Arc::new(Entry {
            address,
            clock: self.clock,
            calls: AtomicUsize::new(0),
            has_called: AtomicBool::new(false),
            is_known: AtomicBool::new(false),
            idle_since: AtomicU64::new(self.clock.now()),
            leaving: AtomicBool::new(false),
            leave: Notify::new(),
        });
        let number = book.next;
        book.next += 1;
        book.connections.insert(number, Arc::clone(&entry));
        book.addresses.entry(address).or_default().connections += 1;
        book.strangers.enter(address, number);
        Ok(Ticket {
            census: Arc::clone(self),
            number,
            entry,
        })
    }

    /// What is logged of handshakes that failed.
    pub(super) fn refusals(&self) -> &Refusals {
        &self.refusals
    }

    /// How many connections may be open.
    pub fn connections(&self, limits: &Limits) -> usize {
        limits.connections.unwrap_or(MOST_CONNECTIONS).min(self.room)
    }

    /// Makes room for one connection within a limit, where another one can leave for it.
    fn make_room(&self, book: &mut Book, limit: Limit, most: usize, of: Option<Address>) -> Result<(), Full> {
        let (open, leaving) = book.count(of);
        let is_within_slack = open < most + slack(most);
        if is_within_slack && open - leaving < most {
            return Ok(());
        }
        if is_within_slack && book.tell_one_to_leave(of) {
            self.count(limit, Action::Closed);
            return Ok(());
        }
        Err(Full {
            limit,
            some_leave: leaving > 0,
        })
    }

    /// Counts that a limit bit, and logs it now and then.
    pub(crate) fn count(&self, limit: Limit, action: Action) {
        self.metrics.limited(limit, action);
        let mut logged = self.logged.lock();
        let Some(log) = logged.get_mut(limit as usize) else {
            return;
        };
        log.unsaid += 1;
        if log.last.is_some_and(|last| last.elapsed() < LOG_INTERVAL) {
            return;
        }
        log.last = Some(Instant::now());
        let times = std::mem::take(&mut log.unsaid);
        tracing::warn!(
            target: "casgate::limits",
            limit = limit.name(),
            action = action.name(),
            times,
            "a limit was reached"
        );
    }
}

impl Clock {
    fn now(self) -> u64 {
        u64::try_from(self.0.elapsed().as_millis()).unwrap_or(u64::MAX)
    }
}

impl Book {
    /// How many connections are open, of an address or in all, and how many of them were told to leave.
    fn count(&self, of: Option<Address>) -> (usize, usize) {
        match of {
            None => (self.connections.len(), self.leaving),
            Some(address) => {
                let at = self.addresses.get(&address);
                at.map_or((0, 0), |at| (at.connections, at.leaving))
            }
        }
    }

    /// Tells a connection to leave: a stranger, or the one that has been idle for the longest time, without a certificate
    /// before those with one; false when all are busy.
    fn tell_one_to_leave(&mut self, of: Option<Address>) -> bool {
        if let Some(stranger) = self.strangers.first(of) {
            return self.tell_to_leave(stranger);
        }
        let idle = self.connections.iter().filter(|(_, entry)| {
            of.is_none_or(|address| entry.address == address)
                && entry.calls.load(Ordering::Relaxed) == 0
                && !entry.leaving.load(Ordering::Relaxed)
        });
        // Of several since the same millisecond, the one that came first.
        let first = idle.min_by_key(|(number, entry)| {
            let is_known = entry.is_known.load(Ordering::Relaxed);
            (is_known, entry.idle_since.load(Ordering::Relaxed), **number)
        });
        let Some((number, _)) = first else {
            return false;
        };
        let number = *number;
        self.tell_to_leave(number)
    }

    fn tell_to_leave(&mut self, number: u64) -> bool {
        let Some(entry) = self.connections.get(&number) else {
            return false;
        };
        entry.leaving.store(true, Ordering::Relaxed);
        entry.leave.notify_one();
        self.leaving += 1;
        if let Some(at) = self.addresses.get_mut(&entry.address) {
            at.leaving += 1;
        }
        // Nobody is told twice.
        self.strangers.leave(entry.address, number);
        true
    }
}

impl Ticket {
    /// Whose connections this one is counted with.
    pub(super) fn address(&self) -> Address {
        self.entry.address
    }

    /// Notes that its client has sent something, though no whole ClientHello yet.
    pub(super) fn has_spoken(&self) {
        let mut book = self.census.book.lock();
        book.strangers.speak(self.entry.address, self.number);
    }

    /// Waits for a slot for the handshake of a client that has sent a whole ClientHello.
    pub(super) async fn handshake(&self) -> Option<Slot> {
        let slot = self.census.handshakes.take(self.entry.address).await;
        self.is_no_stranger();
        slot
    }

    /// Notes that its client is not waited for among strangers any more.
    pub(super) fn is_no_stranger(&self) {
        let mut book = self.census.book.lock();
        book.strangers.leave(self.entry.address, self.number);
    }

    /// Notes that its client has shown a certificate that is accepted.
    pub(super) fn is_known(&self) {
        self.entry.is_known.store(true, Ordering::Relaxed);
    }

    /// Counts a call.
    pub(super) fn call(&self) -> Open {
        self.entry.calls.fetch_add(1, Ordering::Relaxed);
        self.entry.has_called.store(true, Ordering::Relaxed);
        Open {
            entry: Arc::clone(&self.entry),
        }
    }

    /// Notes that a call has begun that is no work, however long it stays.
    pub(super) fn is_asked(&self) {
        self.entry.has_called.store(true, Ordering::Relaxed);
        self.entry.idle_since.store(self.entry.clock.now(), Ordering::Relaxed);
    }

    /// Tells whether calls are open.
    pub(super) fn has_calls(&self) -> impl Fn() -> bool + use<> {
        let entry = Arc::clone(&self.entry);
        move || entry.calls.load(Ordering::Relaxed) > 0
    }

    /// For how long there has been no call; `None` while there is one.
    pub(super) fn idle(&self) -> Option<Duration> {
        let since = self.entry.idle_since.load(Ordering::Relaxed);
        let is_idle = self.entry.calls.load(Ordering::Relaxed) == 0;
        is_idle.then(|| Duration::from_millis(self.entry.clock.now().saturating_sub(since)))
    }

    /// Whether there was a call.
    pub(super) fn has_called(&self) -> bool {
        self.entry.has_called.load(Ordering::Relaxed)
    }

    /// Ends when this connection must make room for another one.
    pub(super) async fn told_to_leave(&self) {
        self.entry.leave.notified().await;
    }

    /// The output of a step before the first call, unless this connection must make room.
    pub(super) async fn unless_told_to_leave<F: Future>(&self, step: F) -> Option<F::Output> {
        tokio::select! {
            output = step => Some(output),
            () = self.told_to_leave() => None,
        }
    }

    /// Counts that a limit bit.
    pub(super) fn count(&self, limit: Limit, action: Action) {
        self.census.count(limit, action);
    }
}

impl Drop for Ticket {
    fn drop(&mut self) {
        let mut book = self.census.book.lock();
        book.connections.remove(&self.number);
        let left = usize::from(self.entry.leaving.load(Ordering::Relaxed));
        book.leaving -= left;
        book.strangers.leave(self.entry.address, self.number);
        if let Some(at) = book.addresses.get_mut(&self.entry.address) {
            at.connections -= 1;
            at.leaving -= left;
            if at.connections == 0 {
                book.addresses.remove(&self.entry.address);
            }
        }
        drop(book);
        self.census.left.notify_one();
    }
}

impl Drop for Open {
    fn drop(&mut self) {
        self.entry.idle_since.store(self.entry.clock.now(), Ordering::Relaxed);
        self.entry.calls.fetch_sub(1, Ordering::Relaxed);
    }
}

/// How many connections more than allowed may be open while idle ones, which were told so, leave.
fn slack(most: usize) -> usize {
    most / 16 + 1
}

#[cfg(test)]
mod tests;
