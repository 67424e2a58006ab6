//! Connections of which nothing is known yet: they have not sent a whole ClientHello, or wait for their handshake.
//!
//! A newcomer always gets in; another one has to go for it where there are too many. First those that have sent nothing,
//! of those the oldest: an honest client sends its ClientHello at once, so that it is not here for longer than its way takes.

use std::collections::{BTreeSet, HashMap};

use super::address::{Address, Network};

/// However few there may be, one address may have so many.
const LEAST: usize = 4;

/// A stranger among others: who has sent nothing comes before who has, and who is here for longer before who came later.
type Place = (bool, u64);

/// The strangers, each known by a number that grows.
#[derive(Debug, Default)]
pub(super) struct Strangers {
    addresses: HashMap<Address, BTreeSet<Place>>,
    networks: HashMap<Network, BTreeSet<Place>>,
    /// The networks by how many they have.
    sizes: BTreeSet<(usize, Network)>,
    number: usize,
}

impl Strangers {
    /// Who has to go so that one more of this address may be here, of `most` in all; `None` where there is room.
    ///
    /// An address has no more than is left, and an IPv6 network of 48 bits no more than twice of it: whatever some have,
    /// there is always something left for others.
    pub(super) fn in_the_way(&self, address: Address, most: usize) -> Option<u64> {
        let left = most.saturating_sub(self.number);
        let first = |places: Option<&BTreeSet<Place>>, share: usize| {
            let places = places.filter(|places| places.len() >= share.max(LEAST))?;
            places.first().map(|(_, number)| *number)
        };
        first(self.addresses.get(&address), left)
            .or_else(|| first(self.networks.get(&address.network()), 2 * left))
            .or_else(|| if left == 0 { self.first_of_largest() } else { None })
    }

    fn first_of_largest(&self) -> Option<u64> {
        let (_, network) = self.sizes.last()?;
        let (_, number) = self.networks.get(network)?.first()?;
        Some(*number)
    }

    /// Who is to go first of all, or of one address.
    pub(super) fn first(&self, of: Option<Address>) -> Option<u64> {
        match of {
            None => self.first_of_largest(),
            Some(address) => self.addresses.get(&address)?.first().map(|(_, number)| *number),
        }
    }

    pub(super) fn enter(&mut self, address: Address, number: u64) {
        self.put(address, (false, number));
    }

    /// Notes that one has sent something.
    pub(super) fn speak(&mut self, address: Address, number: u64) {
        if self.take(address, (false, number)) {
            self.put(address, (true, number));
        }
    }

    /// Whether one was still here; it is not any more.
    pub(super) fn leave(&mut self, address: Address, number: u64) -> bool {
        self.take(address, (false, number)) || self.take(address, (true, number))
    }

    fn put(&mut self, address: Address, place: Place) {
        self.number += 1;
        self.addresses.entry(address).or_default().insert(place);
        let network = address.network();
        let places = self.networks.entry(network).or_default();
        self.sizes.remove(&(places.len(), network));
        places.insert(place);
        self.sizes.insert((places.len(), network));
    }

    fn take(&mut self, address: Address, place: Place) -> bool {
        let Some(places) = self.addresses.get_mut(&address) else {
            return false;
        };
        if !places.remove(&place) {
            return false;
        }
        if places.is_empty() {
            self.addresses.remove(&address);
        }
        let network = address.network();
        if let Some(places) = self.networks.get_mut(&network) {
            self.sizes.remove(&(places.len(), network));
            places.remove(&place);
            if places.is_empty() {
                self.networks.remove(&network);
            } else {
                self.sizes.insert((places.len(), network));
            }
        }
        self.number -= 1;
        true
    }
}

#[cfg(test)]
mod tests {
    #![expect(clippy::unwrap_used, reason = "a test may panic")]
    use super::*;

    fn address(text: &str) -> Address {
        Address::of(text.parse().unwrap())
    }

    /// Lets one more in; gives who had to go.
    fn enter(strangers: &mut Strangers, at: Address, number: u64, most: usize) -> Option<u64> {
        let gone = strangers.in_the_way(at, most);
        if let Some(gone) = gone {
            let found = strangers.addresses.iter().find_map(|(at, places)| {
                let is_here = places.iter().any(|(_, number)| *number == gone);
                is_here.then_some(*at)
            });
            assert!(strangers.leave(found.unwrap(), gone));
        }
        strangers.enter(at, number);
        gone
    }

    #[test]
    fn who_has_sent_nothing_goes_first_and_then_the_oldest() {
        let (mut strangers, at) = (Strangers::default(), address("192.0.2.1"));
        for number in 0..8 {
            assert_eq!(enter(&mut strangers, at, number, 16), None);
        }
        strangers.speak(at, 0);
        strangers.speak(at, 2);
        // It has all that is left, and makes room for its own newcomers.
        let gone: Vec<_> = (8..15)
            .map(|number| enter(&mut strangers, at, number, 16).unwrap())
            .collect();
        assert_eq!(gone, [1, 3, 4, 5, 6, 7, 8]);
        for number in 9..15 {
            strangers.speak(at, number);
        }
        assert_eq!(enter(&mut strangers, at, 15, 16), Some(0));
    }

    #[test]
    fn many_of_few_networks_leave_room_for_others() {
        let mut strangers = Strangers::default();
        let mut next = 0..;
        // A flood from each address of twelve, and from 4,000 networks of 64 bits within one of 48.
        for round in 0..4000 {
            for host in 1..=12 {
                enter(
                    &mut strangers,
                    address(&format!("192.0.2.{host}")),
                    next.next().unwrap(),
                    1000,
                );
            }
            let number = next.next().unwrap();
            enter(
                &mut strangers,
                address(&format!("2001:db8:0:{round:x}::1")),
                number,
                1000,
            );
        }
        assert!(strangers.number < 990, "{}", strangers.number);
        // Of a newcomer from elsewhere nobody goes, nor it itself while the flood goes on.
        let honest = address("198.51.100.1");
        let number = next.next().unwrap();
        assert_eq!(enter(&mut strangers, honest, number, 1000), None);
        for round in 0..4000 {
            let at = address(&format!("2001:db8:0:{round:x}::1"));
            assert_ne!(enter(&mut strangers, at, next.next().unwrap(), 1000), Some(number));
        }
    }

    #[test]
    fn where_it_is_full_the_oldest_of_the_largest_network_goes() {
        let mut strangers = Strangers::default();
        for number in 0..100_u64 {
            let at = address(&format!("192.0.2.{}", number % 50));
            enter(&mut strangers, at, number, 100);
        }
        strangers.enter(address("192.0.2.7"), 100);
        assert_eq!(enter(&mut strangers, address("198.51.100.1"), 101, 100), Some(7));
    }

    #[test]
    fn nothing_is_left_of_who_is_gone() {
        let mut strangers = Strangers::default();
        for number in 0..100 {
            let at = address(&format!("2001:db8:{}::1", number % 7));
            strangers.enter(at, number);
            if number % 2 == 0 {
                strangers.speak(at, number);
            }
        }
        for number in 0..100 {
            let at = address(&format!("2001:db8:{}::1", number % 7));
            assert!(strangers.leave(at, number) && !strangers.leave(at, number));
        }
        let Strangers {
            addresses,
            networks,
            sizes,
            number,
        } = strangers;
        assert!(addresses.is_empty() && networks.is_empty() && sizes.is_empty() && number == 0);
    }
}
