//! What the log has of handshakes that fail: a line each, as long as those of an address are few. A thousand of them in a
//! minute become a count, so that strangers can't fill the disk, nor hide one line among many.

use std::collections::HashMap;
use std::sync::Arc;
use std::time::{Duration, Instant};

use parking_lot::Mutex;

use super::census::Address;
use crate::live::Shared;

/// For how long those of an address are counted together.
const MINUTE: Duration = Duration::from_secs(60);
/// How often it is looked whether a minute is over.
const LOOK: Duration = Duration::from_secs(5);
/// Lines of an address in a minute, before they are counted only.
const FIRST: u32 = 3;
/// Lines of all addresses in a minute.
const FIRST_OF_ALL: u32 = 300;
/// Addresses that are told apart; more are counted together.
const MOST: usize = 1024;

/// The handshakes that failed within the last minute.
#[derive(Debug, Default)]
pub(super) struct Refusals(Mutex<Book>);

#[derive(Debug, Default)]
struct Book {
    /// `None` for all for which there was no room.
    addresses: HashMap<Option<Address>, Failed>,
    /// Lines of all of them since then.
    lines: u32,
    since: Option<Instant>,
}

/// Those of one address since a time.
#[derive(Debug)]
struct Failed {
    since: Instant,
    lines: u32,
    unsaid: u64,
    last: &'static str,
}

/// Several that were not logged one by one.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
struct Several {
    address: Option<Address>,
    times: u64,
    last: &'static str,
}

impl Refusals {
    /// Counts one, by the reason as metrics name it; whether it is to be logged by itself.
    pub(super) fn count(&self, address: Address, reason: &'static str) -> bool {
        self.0.lock().count(address, reason, Instant::now())
    }

    /// Logs what was counted only, for ever.
    pub(super) async fn sum_up(&self) {
        loop {
            tokio::time::sleep(LOOK).await;
            let over = self.0.lock().over(Instant::now());
            for Several { address, times, last } in over {
                let peer = address.map_or_else(|| "other addresses".to_owned(), |address| address.to_string());
                tracing::warn!(target: "casgate::tls", peer, times, last, "more handshakes failed within a minute");
            }
        }
    }
}

/// Logs handshakes that failed and were counted only, for ever.
pub async fn sum_up(shared: Arc<Shared>) {
    shared.census.refusals().sum_up().await;
}

impl Book {
    fn count(&mut self, address: Address, reason: &'static str, now: Instant) -> bool {
        if self
            .since
            .is_none_or(|since| now.saturating_duration_since(since) >= MINUTE)
        {
            (self.since, self.lines) = (Some(now), 0);
        }
        let key = Some(address);
        let has_room = self.addresses.len() < MOST || self.addresses.contains_key(&key);
        let failed = self.addresses.entry(key.filter(|_| has_room)).or_insert(Failed {
            since: now,
            lines: 0,
            unsaid: 0,
            last: reason,
        });
        failed.last = reason;
        if failed.lines < FIRST && self.lines < FIRST_OF_ALL {
            failed.lines += 1;
            self.lines += 1;
            return true;
        }
        failed.unsaid += 1;
        false
    }

    /// Takes those out whose minute is over; gives what is to be said of them.
    fn over(&mut self, now: Instant) -> Vec<Several> {
        let is_over = |failed: &Failed| now.saturating_duration_since(failed.since) >= MINUTE;
        let over = self.addresses.extract_if(|_, failed| is_over(failed));
        let several = over.map(|(address, failed)| Several {
            address,
            times: failed.unsaid,
            last: failed.last,
        });
        several.filter(|several| several.times > 0).collect()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn address(number: u32) -> Address {
        Address::of(std::net::Ipv4Addr::from(number).into())
    }

    #[test]
    fn a_thousand_of_one_address_become_a_count_and_few_stay_as_they_are() {
        let (mut book, begun) = (Book::default(), Instant::now());
        let said = (0..1000).filter(|_| book.count(address(1), "timeout", begun)).count();
        assert_eq!(said, 3);
        assert!(book.count(address(2), "no-alpn", begun));
        assert!(book.over(begun + MINUTE / 2).is_empty());
        let several = Several {
            address: Some(address(1)),
            times: 997,
            last: "timeout",
        };
        assert_eq!(book.over(begun + MINUTE), [several]);
        assert!(book.addresses.is_empty());
        assert!(book.count(address(1), "timeout", begun + MINUTE));
    }

    #[test]
    fn addresses_without_end_take_little_memory_and_few_lines() {
        let (mut book, begun) = (Book::default(), Instant::now());
        let said = (0..100_000)
            .filter(|number| book.count(address(*number), "closed", begun))
            .count();
        assert_eq!(said, 300);
        assert_eq!(book.addresses.len(), MOST + 1);
        let others = book
            .over(begun + MINUTE)
            .into_iter()
            .find(|several| several.address.is_none());
        assert_eq!(others.map(|several| several.times), Some(100_000 - MOST as u64));
    }
}
