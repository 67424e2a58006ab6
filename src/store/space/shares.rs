//! What each caller has of something that all share, so that none can have all of it.

use std::collections::HashMap;
use std::collections::hash_map::Entry;

use parking_lot::Mutex;

use super::part;

/// Bytes that callers have of the quota, each with a share.
#[derive(Debug)]
pub(super) struct Shares {
    rule: Rule,
    taken: Mutex<Taken>,
}

/// How much of the quota may be had, in percent.
#[derive(Clone, Copy, Debug)]
pub(super) struct Rule {
    /// By one caller.
    pub(super) own: u64,
    /// By one caller, for a single thing that is larger than that.
    pub(super) single: u64,
    /// By all of them. No caller gets more than what it leaves for others.
    pub(super) all: u64,
}

#[derive(Debug, Default)]
struct Taken {
    all: u64,
    by: HashMap<u128, u64>,
}

impl Shares {
    pub(super) fn new(rule: Rule) -> Self {
        Self {
            rule,
            taken: Mutex::default(),
        }
    }

    /// Takes so many bytes for a caller; false where that is more than its share.
    pub(super) fn take(&self, caller: u128, bytes: u64, quota: u64) -> bool {
        let mut taken = self.taken.lock();
        let before = taken.by.get(&caller).copied().unwrap_or_default();
        let own = before.saturating_add(bytes);
        let all = taken.all.saturating_add(bytes);
        let left = part(quota, self.rule.all).saturating_sub(all);
        let fair = own <= part(quota, self.rule.own) && own <= left;
        let single = before == 0 && all <= part(quota, self.rule.single);
        if !fair && !single {
            return false;
        }
        taken.all = all;
        taken.by.insert(caller, own);
        true
    }

    /// Gives back what was taken.
    pub(super) fn give_back(&self, caller: u128, bytes: u64) {
        let mut taken = self.taken.lock();
        taken.all = taken.all.saturating_sub(bytes);
        if let Entry::Occupied(mut own) = taken.by.entry(caller) {
            *own.get_mut() = own.get().saturating_sub(bytes);
            if *own.get() == 0 {
                own.remove();
            }
        }
    }
}

/// Seconds that a [`Recent`] looks back.
const SECONDS: usize = 64;

/// Bytes that are kept until some second, by caller and in all. Exact to a second, and nothing has to be given back.
#[derive(Debug, Default)]
pub(super) struct Recent(Mutex<Book>);

#[derive(Debug, Default)]
struct Book {
    all: Ring,
    by: HashMap<u128, Ring>,
}

#[derive(Debug)]
struct Ring {
    /// The last second that was looked at.
    now: u64,
    /// What ends in each of the next seconds, by their remainder.
    ends: [u64; SECONDS],
    sum: u64,
}

impl Default for Ring {
    fn default() -> Self {
        Self {
            now: 0,
            ends: [0; SECONDS],
            sum: 0,
        }
    }
}

impl Ring {
    /// Forgets what has ended by now.
    fn turn(&mut self, now: u64) {
        if now.saturating_sub(self.now) >= SECONDS as u64 {
            *self = Self { now, ..Self::default() };
            return;
        }
        while self.now < now {
            self.now += 1;
            let ended = std::mem::take(&mut self.ends[(self.now % SECONDS as u64) as usize]);
            self.sum = self.sum.saturating_sub(ended);
        }
    }

    fn add(&mut self, seconds: u64, bytes: u64) {
        let end = self.now + seconds.clamp(1, SECONDS as u64 - 1);
        self.ends[(end % SECONDS as u64) as usize] += bytes;
        self.sum += bytes;
    }
}

impl Recent {
    /// Takes so many bytes for so many seconds, at most a minute; false where a caller would have more than `own`, or all of
    /// them more than `all`. `now` in seconds.
    pub(super) fn take(&self, caller: u128, bytes: u64, (now, seconds): (u64, u64), (own, all): (u64, u64)) -> bool {
        let mut book = self.0.lock();
        let Book { all: everybody, by } = &mut *book;
        everybody.turn(now);
        let ring = by.entry(caller).or_default();
        ring.turn(now);
        if ring.sum + bytes > own || everybody.sum + bytes > all {
            return false;
        }
        ring.add(seconds, bytes);
        everybody.add(seconds, bytes);
        true
    }

    /// Forgets callers of whom nothing is kept any more.
    pub(super) fn forget(&self, now: u64) {
        let mut book = self.0.lock();
        book.by.retain(|_, ring| {
            ring.turn(now);
            ring.sum > 0
        });
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const QUOTA: u64 = 1000;
    const RULE: Rule = Rule {
        own: 25,
        single: 50,
        all: 75,
    };

    #[test]
    fn nobody_gets_more_than_a_share_and_who_comes_last_gets_one() {
        let shares = Shares::new(RULE);
        assert!(shares.take(1, 200, QUOTA));
        assert!(!shares.take(1, 51, QUOTA), "more than its share");
        assert!(shares.take(1, 50, QUOTA));
        assert!(shares.take(2, 250, QUOTA));
        // A third of what is left, whoever comes.
        for caller in 3..8 {
            let mut own = 0;
            while shares.take(caller, 1, QUOTA) {
                own += 1;
            }
            assert!(own > 0, "{caller}");
        }
        shares.give_back(1, 250);
        assert!(shares.take(1, 100, QUOTA));
    }

    #[test]
    fn a_single_large_thing_fits_where_nobody_else_has_much() {
        let shares = Shares::new(RULE);
        assert!(!shares.take(1, 501, QUOTA));
        assert!(shares.take(1, 500, QUOTA));
        assert!(!shares.take(1, 1, QUOTA));
        // Others still get something.
        assert!(!shares.take(2, 300, QUOTA));
        assert!(shares.take(2, 100, QUOTA));
        shares.give_back(1, 500);
        shares.give_back(2, 100);
        assert!(shares.take(2, 500, QUOTA));
        assert_eq!(shares.taken.lock().by.len(), 1);
    }

    #[test]
    fn what_is_kept_ends_by_the_second() {
        let recent = Recent::default();
        let limits = (100, 150);
        assert!(recent.take(1, 100, (1_000_000, 60), limits));
        assert!(!recent.take(1, 1, (1_000_059, 60), limits));
        assert!(recent.take(2, 50, (1_000_059, 60), limits));
        assert!(!recent.take(2, 1, (1_000_059, 60), limits), "all of them");
        assert!(recent.take(1, 100, (1_000_060, 60), limits));
        recent.forget(1_000_119);
        assert_eq!(recent.0.lock().by.len(), 1);
        recent.forget(2_000_000);
        assert!(recent.0.lock().by.is_empty());
        // A clock that stood still for long.
        assert!(recent.take(1, 100, (3_000_000, 60), limits));
    }
}
