//! Handshakes at once: each keeps memory, and its client may never go on with it.
//!
//! Who has sent a whole ClientHello waits here for a slot. No address has more than a quarter of those that it could have,
//! and an IPv6 network of 48 bits no more than half, so that there is something left for others; those who wait get theirs
//! in turns by address. Who stands still with a slot that somebody else waits for loses it after [`STUCK`].

use std::collections::{BTreeMap, BTreeSet, HashMap, VecDeque};
use std::sync::Arc;
use std::time::{Duration, Instant};

use parking_lot::Mutex;
use tokio::sync::{Notify, oneshot};

use super::address::{Address, Network};

/// How long a handshake may take while another one waits for its slot: several round trips to the other end of the world.
const STUCK: Duration = Duration::from_secs(2);
/// How often who waits looks for one that is stuck.
const LOOK: Duration = Duration::from_millis(250);

/// The slots.
#[derive(Debug)]
pub(super) struct Slots(Mutex<State>);

#[derive(Debug, Default)]
struct State {
    free: usize,
    next: u64,
    held: BTreeMap<u64, Holder>,
    addresses: HashMap<Address, BTreeSet<u64>>,
    networks: HashMap<Network, usize>,
    /// Addresses of those who wait, in the order of their turns.
    line: VecDeque<Address>,
    waiting: HashMap<Address, VecDeque<oneshot::Sender<Slot>>>,
}

#[derive(Debug)]
struct Holder {
    address: Address,
    since: Instant,
    cut: Arc<Notify>,
}

/// A slot, held until dropped.
#[derive(Debug)]
pub(in crate::connection) struct Slot {
    slots: Arc<Slots>,
    number: u64,
    cut: Arc<Notify>,
}

impl Slots {
    pub(super) fn new(most: usize) -> Slots {
        Slots(Mutex::new(State {
            free: most,
            ..State::default()
        }))
    }

    /// Waits for a slot.
    pub(super) async fn take(self: &Arc<Slots>, address: Address) -> Option<Slot> {
        let mut granted = {
            let mut state = self.0.lock();
            if !state.waiting.contains_key(&address) && state.may_have_one(address) {
                return Some(state.give(self, address));
            }
            state.wait(address)
        };
        loop {
            match tokio::time::timeout(LOOK, &mut granted).await {
                Ok(slot) => return slot.ok(),
                Err(_) => self.0.lock().cut_one_that_is_stuck(address, Instant::now()),
            }
        }
    }

    fn release(self: &Arc<Slots>, number: u64) {
        let grants = {
            let mut state = self.0.lock();
            state.take_back(number);
            state.grants(self)
        };
        for (waiter, slot) in grants {
            // Of one that does not wait any more it goes to the next when it is dropped, which takes the lock again.
            let _gone = waiter.send(slot);
        }
    }
}

impl State {
    fn may_have_one(&self, address: Address) -> bool {
        let of_address = self.addresses.get(&address).map_or(0, BTreeSet::len);
        let of_network = self.networks.get(&address.network()).copied().unwrap_or(0);
        let is_fair = match address {
            Address::V4(_) => true,
            Address::V6(_) => of_network < self.free,
        };
        3 * of_address < self.free && is_fair
    }

    fn give(&mut self, slots: &Arc<Slots>, address: Address) -> Slot {
        let number = self.next;
        self.next += 1;
        self.free -= 1;
        let cut = Arc::new(Notify::new());
        let holder = Holder {
            address,
            since: Instant::now(),
            cut: Arc::clone(&cut),
        };
        self.held.insert(number, holder);
        self.addresses.entry(address).or_default().insert(number);
        *self.networks.entry(address.network()).or_default() += 1;
        Slot {
            slots: Arc::clone(slots),
            number,
            cut,
        }
    }

    fn take_back(&mut self, number: u64) {
        let Some(Holder { address, .. }) = self.held.remove(&number) else {
            return;
        };
        self.free += 1;
        if let Some(numbers) = self.addresses.get_mut(&address) {
            numbers.remove(&number);
            if numbers.is_empty() {
                self.addresses.remove(&address);
            }
        }
        let network = address.network();
        if let Some(count) = self.networks.get_mut(&network) {
            *count -= 1;
            if *count == 0 {
                self.networks.remove(&network);
            }
        }
    }

    fn wait(&mut self, address: Address) -> oneshot::Receiver<Slot> {
        let (grant, granted) = oneshot::channel();
        let waiting = self.waiting.entry(address).or_insert_with(|| {
            self.line.push_back(address);
            VecDeque::new()
        });
        // Those who have left meanwhile are not kept.
        waiting.retain(|waiter| !waiter.is_closed());
        waiting.push_back(grant);
        granted
    }

    /// Gives what is free to those who wait, each address in its turn.
    fn grants(&mut self, slots: &Arc<Slots>) -> Vec<(oneshot::Sender<Slot>, Slot)> {
        let mut grants = Vec::new();
        for _ in 0..self.line.len() {
            if self.free == 0 {
                break;
            }
            let Some(address) = self.line.pop_front() else { break };
            let may_have_one = self.may_have_one(address);
            let Some(waiting) = self.waiting.get_mut(&address) else {
                continue;
            };
            while waiting.front().is_some_and(oneshot::Sender::is_closed) {
                waiting.pop_front();
            }
            let waiter = if may_have_one { waiting.pop_front() } else { None };
            if waiting.is_empty() {
                self.waiting.remove(&address);
            } else {
                self.line.push_back(address);
            }
            if let Some(waiter) = waiter {
                grants.push((waiter, self.give(slots, address)));
            }
        }
        grants
    }

    /// Cuts off who has had a slot for too long that keeps this address from having one: the oldest of its own, or of all
    /// where none is free.
    fn cut_one_that_is_stuck(&mut self, address: Address, now: Instant) {
        let of_address = self.addresses.get(&address).and_then(BTreeSet::first).copied();
        let of_all = if self.free == 0 || matches!(address, Address::V6(_)) {
            self.held.first_key_value().map(|(number, _)| *number)
        } else {
            None
        };
        for number in of_address.into_iter().chain(of_all) {
            if let Some(holder) = self.held.get_mut(&number)
                && now.saturating_duration_since(holder.since) >= STUCK
            {
                holder.cut.notify_one();
                return;
            }
        }
    }
}

impl Slot {
    /// Ends when the slot is to be given up, though the handshake is not over.
    pub(in crate::connection) async fn is_wanted(&self) {
        self.cut.notified().await;
    }
}

impl Drop for Slot {
    fn drop(&mut self) {
        self.slots.release(self.number);
    }
}

#[cfg(test)]
mod tests {
    #![expect(clippy::unwrap_used, reason = "a test may panic")]
    use futures_util::FutureExt;

    use super::*;

    fn address(text: &str) -> Address {
        Address::of(text.parse().unwrap())
    }

    fn take(slots: &Arc<Slots>, address: Address) -> Option<Slot> {
        slots.take(address).now_or_never().flatten()
    }

    #[tokio::test]
    async fn there_is_something_left_whoever_takes() {
        let slots = Arc::new(Slots::new(512));
        let mut held = Vec::new();
        let first = address("192.0.2.1");
        held.extend(std::iter::from_fn(|| take(&slots, first)));
        assert_eq!(held.len(), 128, "a quarter");
        for host in 2..=12 {
            let at = address(&format!("192.0.2.{host}"));
            held.extend(std::iter::from_fn(|| take(&slots, at)));
        }
        for net in 0..2000 {
            let at = address(&format!("2001:db8:0:{net:x}::1"));
            held.extend(take(&slots, at));
        }
        assert!(take(&slots, address("198.51.100.1")).is_some(), "{}", held.len());
        assert!(take(&slots, address("2001:db8:1::1")).is_some(), "{}", held.len());
    }

    #[tokio::test]
    async fn who_waits_gets_one_in_turns_by_address() {
        let slots = Arc::new(Slots::new(4));
        let (one, other) = (address("192.0.2.1"), address("192.0.2.2"));
        let mut held = vec![take(&slots, one).unwrap()];
        held.push(take(&slots, other).unwrap());
        let mut waiting: Vec<_> = [one, one, other]
            .into_iter()
            .map(|address| Box::pin(slots.take(address)))
            .collect();
        assert!(waiting.iter_mut().all(|waiting| waiting.now_or_never().is_none()));
        // One that has left is passed over.
        drop(waiting.remove(0));
        held.clear();
        let first = waiting.remove(0).now_or_never().flatten();
        let second = waiting.remove(0).now_or_never().flatten();
        assert!(first.is_some() && second.is_some());
        drop((first, second));
        let state = slots.0.lock();
        assert!(state.free == 4 && state.held.is_empty() && state.addresses.is_empty());
        assert!(state.networks.is_empty() && state.waiting.is_empty() && state.line.is_empty());
    }

    #[tokio::test]
    async fn who_stands_still_loses_it_only_where_somebody_waits() {
        let slots = Arc::new(Slots::new(4));
        let at = address("192.0.2.1");
        let held = take(&slots, at).unwrap();
        assert!(held.is_wanted().now_or_never().is_none());
        slots.0.lock().cut_one_that_is_stuck(at, Instant::now());
        assert!(held.is_wanted().now_or_never().is_none(), "it has just begun");
        slots.0.lock().cut_one_that_is_stuck(at, Instant::now() + STUCK);
        assert!(held.is_wanted().now_or_never().is_some());
    }
}
