//! The one ledger of the memory that is kept for clients.
//!
//! - The [`Ledger`] has the limit (`limits.memory`) and the sum.
//! - An [`Account`] is what one party has of it, on all of its connections: a certificate, or an address without one.
//! - A [`Purse`] belongs to one connection. It draws from its account in coarse steps, so that a call, whose thread serves
//!   no other part of the purse, writes nothing that threads share.
//! - A [`Reservation`] is what one holder has of a purse, until it is dropped.
//!
//! # Shares
//! A party may draw as long as twice what it has then, and what all others have, stay within the limit. So one party has
//! half at most, a second one a quarter, and there is something left for the next one. Besides, each purse has
//! [`FLOOR`] bytes that no limit takes away: whoever has a connection gets its small calls served. They are the base of a
//! connection, which the limits for connections bound.
//!
//! # Order
//! Nothing that waits for memory may hold what others need to end. A message is reserved whole before it is kept, or is
//! refused; see [`Reservation::grow_when_free`].

mod window;

use std::fmt;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, AtomicUsize, Ordering};
use std::time::Duration;

use parking_lot::Mutex;
use prometheus::IntGauge;
use tokio::sync::{Notify, OwnedSemaphorePermit, Semaphore};

use crate::status::Rejection;

pub use window::WindowShare;

/// Bytes that each purse has whatever is left, from its first reservation on: many small calls, or the first message of
/// one.
pub const FLOOR: u64 = 64 * 1024;
/// A purse draws so many bytes at a time, or more where one reservation needs more.
const STEP: u64 = 64 * 1024;
/// A purse that has so many bytes more than it needs gives back all but [`STEP`] of them.
const MOST_SPARE: u64 = 256 * 1024;
/// Reservations of one party that may wait at a time.
const MOST_WAITING: usize = 1000;
/// Requests of one connection that may wait at a time. Each has its part of the connection's window meanwhile, which those
/// need that do not wait.
const MOST_REQUESTS: usize = 6;
/// How soon one that waits tries again.
const AGAIN: Duration = Duration::from_millis(100);

/// Walks of one party at a time.
const WALKS: usize = 4;

/// The memory that is kept for all clients together.
#[derive(Debug)]
pub struct Ledger {
    /// The limit where the configuration has none.
    default: u64,
    limit: AtomicU64,
    /// Bytes that accounts have drawn, windows included, without the floors.
    drawn: AtomicU64,
    /// Bytes of `drawn` that are windows.
    windows: AtomicU64,
    /// Shows the bytes that purses have, floors included and windows not.
    gauge: IntGauge,
}

/// What one party has of the ledger.
#[derive(Debug)]
pub struct Account {
    ledger: Arc<Ledger>,
    /// Bytes that are drawn, windows included, without the floors.
    held: AtomicU64,
    /// Turns to walk through a tree.
    walks: Arc<Semaphore>,
    /// Its reservations that wait.
    waiting: AtomicUsize,
    /// Tells the first of them that something was given back.
    freed: Notify,
}

/// What one connection has of its account.
#[derive(Debug)]
pub struct Purse {
    account: Arc<Account>,
    /// Bytes of its reservations.
    used: AtomicU64,
    /// Bytes that it may reserve without asking its account.
    drawn: AtomicU64,
    /// Held by whoever changes `drawn`.
    turn: Mutex<()>,
    /// Requests of the connection that wait.
    requests: AtomicUsize,
}

/// Bytes that are kept for somebody. They are given back when it is dropped.
pub struct Reservation {
    purse: Arc<Purse>,
    bytes: u64,
}

/// No more memory may be kept for this party now.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
#[error("no more may be kept for this caller")]
pub struct Full;

impl From<Full> for Rejection {
    fn from(_: Full) -> Rejection {
        Rejection::Memory
    }
}

impl Ledger {
    /// A ledger whose limit is so many bytes where the configuration has none. The gauge shows what is reserved.
    pub fn new(default: u64, gauge: IntGauge) -> Arc<Ledger> {
        Arc::new(Ledger {
            default,
            limit: AtomicU64::new(default),
            drawn: AtomicU64::new(0),
            windows: AtomicU64::new(0),
            gauge,
        })
    }

    /// Sets the limit of a configuration, in bytes. What is kept already stays.
    pub fn set_limit(&self, limit: Option<u64>) {
        self.limit.store(limit.unwrap_or(self.default), Ordering::Relaxed);
    }

    /// The limit, in bytes.
    pub fn limit(&self) -> u64 {
        self.limit.load(Ordering::Relaxed)
    }

    /// The account of a party that has nothing yet.
    pub fn account(self: &Arc<Ledger>) -> Arc<Account> {
        Arc::new(Account {
            ledger: Arc::clone(self),
            held: AtomicU64::new(0),
            walks: Arc::new(Semaphore::new(WALKS)),
            waiting: AtomicUsize::new(0),
            freed: Notify::new(),
        })
    }
}

impl Account {
    /// The purse of a connection of this party.
    pub fn purse(self: &Arc<Account>) -> Arc<Purse> {
        Arc::new(Purse {
            account: Arc::clone(self),
            used: AtomicU64::new(0),
            drawn: AtomicU64::new(0),
            turn: Mutex::new(()),
            requests: AtomicUsize::new(0),
        })
    }

    /// Waits for a turn to walk through a tree, of which a party has four: a walk is many calls to a backend.
    pub async fn turn_to_walk(&self) -> Result<OwnedSemaphorePermit, Full> {
        // It is never closed.
        Arc::clone(&self.walks).acquire_owned().await.map_err(|_| Full)
    }

    fn tell_who_waits(&self) {
        if self.waiting.load(Ordering::Relaxed) > 0 {
            self.freed.notify_one();
        }
    }

    /// Whether anything is kept for the party beyond the floors of its connections.
    pub fn is_empty(&self) -> bool {
        self.held.load(Ordering::Relaxed) == 0
    }

    /// Draws bytes, unless that is more than the party's share. None at all can always be had.
    fn draw(&self, bytes: u64) -> Result<(), Full> {
        if bytes == 0 {
            return Ok(());
        }
        let ledger = &*self.ledger;
        let held = self.held.fetch_add(bytes, Ordering::Relaxed).saturating_add(bytes);
        let limit = ledger.limit();
        let draw = |drawn: u64| {
            let drawn = drawn.saturating_add(bytes);
            // What the party has counts twice: as much is left to others.
            (drawn.saturating_add(held) <= limit).then_some(drawn)
        };
        match ledger.drawn.fetch_update(Ordering::Relaxed, Ordering::Relaxed, draw) {
            Ok(_) => Ok(()),
            Err(_) => {
                self.held.fetch_sub(bytes, Ordering::Relaxed);
                Err(Full)
            }
        }
    }

    fn give_back(&self, bytes: u64) {
        if bytes > 0 {
            self.held.fetch_sub(bytes, Ordering::Relaxed);
            self.ledger.drawn.fetch_sub(bytes, Ordering::Relaxed);
        }
    }
}

impl Purse {
    /// An empty reservation.
    pub fn reservation(self: &Arc<Purse>) -> Reservation {
        Reservation {
            purse: Arc::clone(self),
            bytes: 0,
        }
    }

    /// A reservation of so many bytes.
    ///
    /// # Errors
    /// [`Full`].
    pub fn reserve(self: &Arc<Purse>, bytes: u64) -> Result<Reservation, Full> {
        let mut reservation = self.reservation();
        reservation.grow(bytes)?;
        Ok(reservation)
    }

    /// Whose purse it is.
    pub fn account(&self) -> &Arc<Account> {
        &self.account
    }

    /// Takes bytes, which [`Purse::give_back`] must get back.
    fn take(&self, bytes: u64) -> Result<(), Full> {
        // In one order for all threads, here and in `shrink`: of two at a time, one sees what the other did.
        let used = self.used.fetch_add(bytes, Ordering::SeqCst).saturating_add(bytes);
        if used <= self.drawn.load(Ordering::SeqCst) {
            return Ok(());
        }
        self.draw().inspect_err(|Full| {
            self.used.fetch_sub(bytes, Ordering::SeqCst);
        })
    }

    /// Draws what is used and not drawn yet.
    #[cold]
    fn draw(&self) -> Result<(), Full> {
        let _turn = self.turn.lock();
        let drawn = self.drawn.load(Ordering::SeqCst);
        // The floor is there in any case.
        let base = drawn.max(FLOOR);
        let missing = self.used.load(Ordering::SeqCst).saturating_sub(base);
        let step = missing.next_multiple_of(STEP);
        // The last bytes of a share are no round number.
        let taken = match self.account.draw(step) {
            Ok(()) => Ok(step),
            Err(Full) => self.account.draw(missing).map(|()| missing),
        };
        self.set_drawn(base + taken.unwrap_or(0));
        taken.map(drop)
    }

    /// Sets `drawn`, of which no more than before plus what was drawn from the account is new.
    fn set_drawn(&self, drawn: u64) {
        let before = self.drawn.swap(drawn, Ordering::SeqCst);
        self.account.ledger.gauge.add(signed(drawn) - signed(before));
    }

    fn give_back(&self, bytes: u64) {
        let used = self.used.fetch_sub(bytes, Ordering::SeqCst).saturating_sub(bytes);
        let is_waited_for = self.account.waiting.load(Ordering::Relaxed) > 0;
        let spare = self.drawn.load(Ordering::SeqCst).saturating_sub(used.max(FLOOR));
        if spare > MOST_SPARE || is_waited_for {
            self.shrink();
        }
    }

    /// Gives back to the account what is drawn and not used, but for a step.
    #[cold]
    fn shrink(&self) {
        let _turn = self.turn.lock();
        let drawn = self.drawn.load(Ordering::SeqCst);
        let kept = || {
            let used = self.used.load(Ordering::SeqCst);
            used.max(FLOOR).next_multiple_of(STEP).min(drawn)
        };
        if kept() < drawn {
            self.set_drawn(kept());
            // Who took something meanwhile did so of what was there before.
            let kept = kept();
            self.set_drawn(kept);
            self.account.give_back(drawn - kept);
        }
        self.account.tell_who_waits();
    }
}

impl Drop for Purse {
    fn drop(&mut self) {
        let drawn = *self.drawn.get_mut();
        self.account.give_back(drawn.saturating_sub(FLOOR));
        self.account.ledger.gauge.sub(signed(drawn));
        self.account.tell_who_waits();
    }
}

impl Reservation {
    /// Bytes that it has.
    pub fn bytes(&self) -> u64 {
        self.bytes
    }

    /// Takes so many bytes more.
    ///
    /// # Errors
    /// [`Full`]; it has what it had, then.
    pub fn grow(&mut self, more: u64) -> Result<(), Full> {
        if more > 0 {
            self.purse.take(more)?;
            self.bytes += more;
        }
        Ok(())
    }

    /// Makes it at least so large.
    ///
    /// # Errors
    /// As [`Reservation::grow`].
    pub fn grow_to(&mut self, bytes: u64) -> Result<(), Full> {
        self.grow(bytes.saturating_sub(self.bytes))
    }

    /// The same, but waits so long for others to end. The caller must hold no memory that others wait for.
    ///
    /// # Errors
    /// [`Full`], where the time is over, or where 1,000 others of this party wait already.
    pub async fn grow_when_free(&mut self, bytes: u64, patience: Duration) -> Result<(), Full> {
        if self.grow(bytes).is_ok() {
            return Ok(());
        }
        let purse = Arc::clone(&self.purse);
        let account = &purse.account;
        let _waiting = Waiting::at(account)?;
        let grow = async {
            loop {
                if self.grow(bytes).is_ok() {
                    // There may be something for the next one as well.
                    return account.tell_who_waits();
                }
                // What other parties give back tells nobody: a crowd that waits must cost them nothing.
                let _in_vain = tokio::time::timeout(AGAIN, account.freed.notified()).await;
            }
        };
        tokio::time::timeout(patience, grow).await.map_err(|_| Full)
    }

    /// The same for a request whose bytes stay in the client's window meanwhile.
    ///
    /// # Errors
    /// As [`Reservation::grow_when_free`], or where 6 others of the connection wait already.
    pub async fn grow_request(&mut self, bytes: u64, patience: Duration) -> Result<(), Full> {
        if self.grow(bytes).is_ok() {
            return Ok(());
        }
        let purse = Arc::clone(&self.purse);
        let _place = Request::at(&purse)?;
        self.grow_when_free(bytes, patience).await
    }

    /// Gives so many bytes back, or all where it has fewer.
    pub fn shrink(&mut self, bytes: u64) {
        let bytes = bytes.min(self.bytes);
        if bytes > 0 {
            self.bytes -= bytes;
            self.purse.give_back(bytes);
        }
    }

    /// Makes it at most so large.
    pub fn shrink_to(&mut self, bytes: u64) {
        self.shrink(self.bytes.saturating_sub(bytes));
    }

    /// Takes so many of its bytes off, or all where it has fewer, as a reservation of their own.
    pub fn split(&mut self, bytes: u64) -> Reservation {
        let bytes = bytes.min(self.bytes);
        self.bytes -= bytes;
        Reservation {
            purse: Arc::clone(&self.purse),
            bytes,
        }
    }
}

impl Drop for Reservation {
    fn drop(&mut self) {
        self.shrink(self.bytes);
    }
}

impl fmt::Debug for Reservation {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Reservation")
            .field("bytes", &self.bytes)
            .finish_non_exhaustive()
    }
}

/// Counts one that waits, until dropped.
struct Waiting<'a>(&'a Account);

impl<'a> Waiting<'a> {
    fn at(account: &'a Account) -> Result<Waiting<'a>, Full> {
        let more = |waiting: usize| (waiting < MOST_WAITING).then_some(waiting + 1);
        let counted = account.waiting.fetch_update(Ordering::Relaxed, Ordering::Relaxed, more);
        counted.map_err(|_| Full)?;
        Ok(Waiting(account))
    }
}

impl Drop for Waiting<'_> {
    fn drop(&mut self) {
        self.0.waiting.fetch_sub(1, Ordering::Relaxed);
    }
}

/// Counts a request that waits, until dropped.
struct Request<'a>(&'a Purse);

impl<'a> Request<'a> {
    fn at(purse: &'a Purse) -> Result<Request<'a>, Full> {
        let more = |requests: usize| (requests < MOST_REQUESTS).then_some(requests + 1);
        let counted = purse.requests.fetch_update(Ordering::Relaxed, Ordering::Relaxed, more);
        counted.map(|_| Request(purse)).map_err(|_| Full)
    }
}

impl Drop for Request<'_> {
    fn drop(&mut self) {
        self.0.requests.fetch_sub(1, Ordering::Relaxed);
    }
}

fn signed(bytes: u64) -> i64 {
    i64::try_from(bytes).unwrap_or(i64::MAX)
}

#[cfg(test)]
mod tests;
