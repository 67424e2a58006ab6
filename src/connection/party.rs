//! Those who call: a certificate, or an address without one, with all connections and on all threads together.
//!
//! What a rule lets a caller take is counted here, so that neither more connections nor a new one give more of it.

use std::collections::{BTreeMap, HashMap};
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::time::{Duration, Instant};

use parking_lot::Mutex;

use super::caller::Peer;
use super::census::Address;
use super::meter::Meter;
use crate::clients::{Account, Ledger};
use crate::policy::identity::Identity;
use crate::policy::{Policy, RuleId, Standing};

/// Parties that are remembered without a connection; beyond it those are forgotten that would be next.
const MOST_REMEMBERED: usize = 10_000;
/// And for how long at most.
const LONGEST: Duration = Duration::from_secs(3600);

/// Everybody who has a connection, and those who had one and took much.
#[derive(Debug)]
pub struct Parties {
    ledger: Arc<Ledger>,
    book: Mutex<Book>,
}

#[derive(Debug, Default)]
struct Book {
    last: u64,
    entries: HashMap<Key, Entry>,
    /// Those without a connection, by when they can be forgotten.
    gone: BTreeMap<(Instant, u64), Key>,
}

#[derive(Debug)]
struct Entry {
    party: Arc<Party>,
    connections: usize,
    /// Its place in `gone`.
    until: Option<Instant>,
}

/// How parties are told apart.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
enum Key {
    /// By the key of the certificate, which stays the same when it is renewed for it.
    Certificate([u8; 32]),
    Address(Address),
}

/// One who calls.
#[derive(Debug)]
pub struct Party {
    number: u64,
    calls: AtomicUsize,
    account: Arc<Account>,
    meters: Mutex<HashMap<Arc<str>, Arc<Meter>>>,
}

/// An open call of a party, until dropped.
#[derive(Debug)]
pub struct PartyCall<'a>(&'a Party);

/// A connection of a party, until dropped.
#[derive(Debug)]
pub struct Member {
    parties: Arc<Parties>,
    key: Key,
    party: Arc<Party>,
}

impl Parties {
    /// Nobody yet; what is kept for them will be of this ledger.
    pub fn new(ledger: Arc<Ledger>) -> Parties {
        Parties {
            ledger,
            book: Mutex::default(),
        }
    }

    /// Counts a connection to its party.
    pub(super) fn join(self: &Arc<Parties>, peer: &Peer) -> Member {
        self.join_as(match &peer.identity {
            Identity::Certificate(certificate) => Key::Certificate(certificate.spki_sha256),
            Identity::Anonymous => Key::Address(Address::of(peer.address.ip())),
        })
    }

    fn join_as(self: &Arc<Parties>, key: Key) -> Member {
        let ledger = &self.ledger;
        let mut book = self.book.lock();
        book.forget(Instant::now());
        book.last += 1;
        let Book { last, entries, gone } = &mut *book;
        let entry = entries.entry(key).or_insert_with(|| Entry {
            party: Arc::new(Party {
                number: *last,
                calls: AtomicUsize::new(0),
                account: ledger.account(),
                meters: Mutex::default(),
            }),
            connections: 0,
            until: None,
        });
        entry.connections += 1;
        if let Some(until) = entry.until.take() {
            gone.remove(&(until, entry.party.number));
        }
        Member {
            parties: Arc::clone(self),
            key,
            party: Arc::clone(&entry.party),
        }
    }

    fn leave(&self, key: Key) {
        let mut book = self.book.lock();
        let Book { entries, gone, .. } = &mut *book;
        let Some(entry) = entries.get_mut(&key) else { return };
        entry.connections -= 1;
        if entry.connections > 0 {
            return;
        }
        let memory = entry.party.memory();
        if memory.is_zero() {
            entries.remove(&key);
            return;
        }
        let until = Instant::now() + memory.min(LONGEST);
        entry.until = Some(until);
        gone.insert((until, entry.party.number), key);
        book.forget(Instant::now());
    }
}

impl Book {
    /// Forgets whose time is over, and those who are too many.
    fn forget(&mut self, now: Instant) {
        while let Some(first) = self.gone.first_entry()
            && (first.key().0 <= now || self.gone.len() > MOST_REMEMBERED)
        {
            if let Some((_, key)) = self.gone.pop_first() {
                self.entries.remove(&key);
            }
        }
    }
}

impl Party {
    /// A number that no other party has, nor had.
    pub fn number(&self) -> u64 {
        self.number
    }

    /// Counts an open call; `None` where there are `most` of them already.
    pub fn call(&self, most: usize) -> Option<PartyCall<'_>> {
        let more = |calls: usize| (calls < most).then_some(calls + 1);
        let counted = self.calls.fetch_update(Ordering::Relaxed, Ordering::Relaxed, more);
        counted.ok().map(|_| PartyCall(self))
    }

    /// What it has taken, by each rule that may allow its calls and limits them. Of a rule that is as it was, by its name
    /// and its limits, the count goes on; else it begins anew.
    pub(super) fn meters(&self, policy: &Policy, standing: &Standing) -> Vec<(RuleId, Arc<Meter>)> {
        let mut meters = self.meters.lock();
        let mut found = Vec::new();
        for (id, rule) in standing.limited(policy) {
            let meter = meters
                .entry(Arc::clone(&rule.name))
                .or_insert_with(|| Arc::new(Meter::new(rule.quota)));
            if meter.quota() != rule.quota {
                *meter = Arc::new(Meter::new(rule.quota));
            }
            found.push((id, Arc::clone(meter)));
        }
        // Rules that are gone, of which a party may have seen many by now.
        if meters.len() > found.len() {
            meters.retain(|name, _| {
                policy
                    .rules()
                    .iter()
                    .any(|rule| rule.name == *name && !rule.quota.is_empty())
            });
        }
        found
    }

    /// What it has of the memory that is kept for clients.
    pub fn account(&self) -> &Arc<Account> {
        &self.account
    }

    /// How long it must be remembered.
    fn memory(&self) -> Duration {
        if !self.account.is_empty() {
            // An upload that was interrupted, or a line that waits: a new connection must not begin a second share.
            return LONGEST;
        }
        let meters = self.meters.lock();
        meters
            .values()
            .map(|meter| meter.quota().memory())
            .max()
            .unwrap_or_default()
    }
}

impl Member {
    /// Whose connection it is.
    pub fn party(&self) -> &Arc<Party> {
        &self.party
    }
}

impl Drop for PartyCall<'_> {
    fn drop(&mut self) {
        self.0.calls.fetch_sub(1, Ordering::Relaxed);
    }
}

impl Drop for Member {
    fn drop(&mut self) {
        self.parties.leave(self.key);
    }
}

#[cfg(test)]
mod tests {
    #![expect(clippy::unwrap_used, reason = "a test may panic")]
    use super::*;
    use crate::policy::quota::{Quota, Rate};

    fn parties() -> Arc<Parties> {
        let gauge = prometheus::IntGauge::new("bytes", "Bytes.").unwrap();
        Arc::new(Parties::new(Ledger::new(1 << 20, gauge)))
    }

    fn limited(party: &Party, rate: &str) {
        let quota = Quota {
            rate: Some(Rate::parse(rate, None).unwrap()),
            ..Quota::default()
        };
        party.meters.lock().insert("rule".into(), Arc::new(Meter::new(quota)));
    }

    #[test]
    fn a_party_is_one_over_its_connections_and_is_forgotten_when_nothing_is_left_to_make_up_for() {
        let parties = parties();
        let one = parties.join_as(Key::Certificate([1; 32]));
        let more = parties.join_as(Key::Certificate([1; 32]));
        let other = parties.join_as(Key::Certificate([2; 32]));
        let number = one.party().number();
        assert!(number == more.party().number() && number != other.party().number());
        limited(one.party(), "1/h");
        drop((one, more, other));
        {
            let book = parties.book.lock();
            assert_eq!((book.entries.len(), book.gone.len()), (1, 1));
        }
        let back = parties.join_as(Key::Certificate([1; 32]));
        assert_eq!(back.party().number(), number);
        assert!(parties.book.lock().gone.is_empty());
        drop(back);
        parties.book.lock().forget(Instant::now() + LONGEST);
        assert!(parties.book.lock().entries.is_empty());
    }

    #[test]
    fn no_more_parties_are_remembered_than_there_is_room_for() {
        let parties = parties();
        let stays = parties.join_as(Key::Certificate([0xff; 32]));
        for number in 0..MOST_REMEMBERED + 50 {
            let mut key = [0; 32];
            key[..8].copy_from_slice(&number.to_le_bytes());
            limited(parties.join_as(Key::Certificate(key)).party(), "1/h");
        }
        let book = parties.book.lock();
        assert_eq!(
            (book.entries.len(), book.gone.len()),
            (MOST_REMEMBERED + 1, MOST_REMEMBERED)
        );
        drop(book);
        drop(stays);
    }
}
