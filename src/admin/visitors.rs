//! The open connections of monitors. A new one always gets in: whoever has asked for nothing for the longest time goes for
//! it, of the address that has the most.

use std::collections::HashMap;
use std::net::IpAddr;
use std::sync::Arc;
use std::time::Instant;

use parking_lot::Mutex;
use tokio::sync::Notify;

/// The connections that are open.
#[derive(Debug)]
pub(super) struct Visitors {
    most: usize,
    book: Mutex<Book>,
}

#[derive(Debug, Default)]
struct Book {
    next: u64,
    entries: HashMap<u64, Entry>,
}

#[derive(Debug)]
struct Entry {
    address: IpAddr,
    /// When it asked for something, or came.
    last: Instant,
    leave: Arc<Notify>,
}

/// A connection that is counted until this is dropped.
#[derive(Debug)]
pub(super) struct Visitor {
    visitors: Arc<Visitors>,
    number: u64,
    leave: Arc<Notify>,
}

impl Visitors {
    pub(super) fn new(most: usize) -> Visitors {
        Visitors {
            most,
            book: Mutex::default(),
        }
    }

    /// Counts a connection; another one is told to leave where there are too many.
    pub(super) fn enter(self: &Arc<Visitors>, address: IpAddr) -> Visitor {
        let mut book = self.book.lock();
        if book.entries.len() >= self.most
            && let Some(number) = book.first_to_leave()
            && let Some(entry) = book.entries.remove(&number)
        {
            entry.leave.notify_one();
        }
        let number = book.next;
        book.next += 1;
        let leave = Arc::new(Notify::new());
        let entry = Entry {
            address,
            last: Instant::now(),
            leave: Arc::clone(&leave),
        };
        book.entries.insert(number, entry);
        Visitor {
            visitors: Arc::clone(self),
            number,
            leave,
        }
    }
}

impl Book {
    fn first_to_leave(&self) -> Option<u64> {
        let mut of_address: HashMap<IpAddr, usize> = HashMap::new();
        for entry in self.entries.values() {
            *of_address.entry(entry.address).or_default() += 1;
        }
        let most = of_address.values().max()?;
        let crowd = self
            .entries
            .iter()
            .filter(|(_, entry)| of_address.get(&entry.address) == Some(most));
        crowd
            .min_by_key(|(number, entry)| (entry.last, **number))
            .map(|(number, _)| *number)
    }
}

impl Visitor {
    /// Notes that it asks for something.
    pub(super) fn asks(&self) {
        if let Some(entry) = self.visitors.book.lock().entries.get_mut(&self.number) {
            entry.last = Instant::now();
        }
    }

    /// Ends when it has to make room.
    pub(super) async fn told_to_leave(&self) {
        self.leave.notified().await;
    }
}

impl Drop for Visitor {
    fn drop(&mut self) {
        self.visitors.book.lock().entries.remove(&self.number);
    }
}

#[cfg(test)]
mod tests {
    use futures_util::FutureExt;

    use super::*;

    fn has_to_go(visitor: &Visitor) -> bool {
        visitor.told_to_leave().now_or_never().is_some()
    }

    #[test]
    fn who_has_asked_for_nothing_for_the_longest_time_goes_of_those_who_are_many() {
        let visitors = Arc::new(Visitors::new(4));
        let enter = |last: u8| visitors.enter([192, 0, 2, last].into());
        let alone = enter(1);
        let crowd = [enter(2), enter(2), enter(2)];
        crowd[0].asks();
        let fifth = enter(3);
        assert!(has_to_go(&crowd[1]) && !has_to_go(&alone) && !has_to_go(&crowd[0]));
        let sixth = enter(3);
        assert!(has_to_go(&crowd[2]) && !has_to_go(&crowd[0]) && !has_to_go(&fifth));
        drop((alone, crowd, fifth, sixth));
        assert!(visitors.book.lock().entries.is_empty());
    }
}
