//! What connections have of the ledger for what their clients may send at any time.

use std::sync::Arc;
use std::sync::atomic::Ordering;

use super::Account;

/// Bytes of windows that were given to a client. They can't be taken back, since the client may use them at any time: they
/// count until this is dropped.
#[derive(Debug)]
pub struct WindowShare {
    account: Arc<Account>,
    bytes: u64,
}

impl WindowShare {
    /// None of an account.
    pub fn none(account: &Arc<Account>) -> WindowShare {
        WindowShare {
            account: Arc::clone(account),
            bytes: 0,
        }
    }

    /// Takes up to `most` bytes more, and nothing where that is no more than `least`: an eighth of what is left for windows,
    /// which have half of the limit at most, less what the party has already. With `modest`, only while more than half of
    /// that is left. Gives what was taken.
    pub fn take(&mut self, most: u64, least: u64, modest: bool) -> u64 {
        let ledger = &*self.account.ledger;
        let for_windows = ledger.limit() / 2;
        let held = self.account.held.load(Ordering::Relaxed);
        let mut taken = 0;
        let take = |given: u64| {
            let drawn = ledger.drawn.load(Ordering::Relaxed);
            let left = for_windows
                .saturating_sub(given)
                .min(ledger.limit().saturating_sub(drawn));
            taken = most.min(left.saturating_sub(held) / 8);
            let is_spare = !modest || left > for_windows / 2;
            (is_spare && taken > least).then_some(given + taken)
        };
        let given = ledger.windows.fetch_update(Ordering::Relaxed, Ordering::Relaxed, take);
        if given.is_err() {
            return 0;
        }
        ledger.drawn.fetch_add(taken, Ordering::Relaxed);
        self.account.held.fetch_add(taken, Ordering::Relaxed);
        self.bytes += taken;
        taken
    }
}

impl Drop for WindowShare {
    fn drop(&mut self) {
        let windows = &self.account.ledger.windows;
        windows.fetch_sub(self.bytes, Ordering::Relaxed);
        self.account.give_back(self.bytes);
        self.account.tell_who_waits();
    }
}
