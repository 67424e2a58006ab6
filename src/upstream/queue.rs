//! Who gets the next stream: a fair queue of the calls that wait for one, by client: a certificate, or an address without
//! one. More connections give no larger share.
//!
//! A client may hold no more streams than it leaves free: alone it gets half of them, two get a third each, and there is
//! always room for one more client. Within these bounds clients take turns, and the calls of one are served in order.

use std::collections::{BTreeMap, VecDeque};
use std::time::Instant;

use tokio::sync::oneshot;

use super::stream::Load;

/// The number of the party that a client is.
pub(super) type ClientId = u64;
/// The place of a call in the queue.
pub(super) type Ticket = u64;

/// The calls that wait. Its length is bounded by what clients may have open.
#[derive(Debug, Default)]
pub(super) struct Queue {
    clients: BTreeMap<ClientId, Client>,
    /// Clients with calls that wait, the next in turn first.
    turns: VecDeque<ClientId>,
    last: Ticket,
}

#[derive(Debug, Default)]
struct Client {
    open: usize,
    waiting: BTreeMap<Ticket, oneshot::Sender<Load>>,
    granted: Option<Instant>,
}

impl Queue {
    /// Whether no call waits.
    pub(super) fn is_empty(&self) -> bool {
        self.turns.is_empty()
    }

    /// Whether a new call of this client may go before the queue.
    pub(super) fn may_pass(&self, client: ClientId, free: usize) -> bool {
        match self.clients.get(&client) {
            Some(client) => client.waiting.is_empty() && client.open < free,
            None => free > 0,
        }
    }

    /// Counts a stream to a client.
    pub(super) fn open(&mut self, client: ClientId) {
        self.clients.entry(client).or_default().open += 1;
    }

    /// Counts it off.
    pub(super) fn close(&mut self, id: ClientId) {
        if let Some(client) = self.clients.get_mut(&id) {
            client.open = client.open.saturating_sub(1);
            self.forget(id);
        }
    }

    /// Puts a call at the end of its client's queue.
    pub(super) fn wait(&mut self, id: ClientId) -> (Ticket, oneshot::Receiver<Load>) {
        let (grant, granted) = oneshot::channel();
        self.last += 1;
        let client = self.clients.entry(id).or_default();
        if client.waiting.is_empty() {
            self.turns.push_back(id);
        }
        client.waiting.insert(self.last, grant);
        (self.last, granted)
    }

    /// Takes a call out that does not wait any more.
    pub(super) fn leave(&mut self, id: ClientId, ticket: Ticket) {
        let Some(client) = self.clients.get_mut(&id) else {
            return;
        };
        if client.waiting.remove(&ticket).is_some() && client.waiting.is_empty() {
            self.turns.retain(|turn| *turn != id);
            self.forget(id);
        }
    }

    /// When a waiting call of this client was last served.
    pub(super) fn granted(&self, client: ClientId) -> Option<Instant> {
        self.clients.get(&client)?.granted
    }

    /// The call whose turn it is, counted to its client.
    pub(super) fn next(&mut self, free: usize) -> Option<(ClientId, oneshot::Sender<Load>)> {
        let may = |id: &ClientId| self.clients.get(id).is_some_and(|client| client.open < free);
        let turn = self.turns.iter().position(may)?;
        let id = self.turns.remove(turn)?;
        let client = self.clients.get_mut(&id)?;
        let (_, grant) = client.waiting.pop_first()?;
        client.open += 1;
        client.granted = Some(Instant::now());
        if !client.waiting.is_empty() {
            self.turns.push_back(id);
        }
        Some((id, grant))
    }

    fn forget(&mut self, id: ClientId) {
        let is_gone = |client: &Client| client.open == 0 && client.waiting.is_empty();
        if self.clients.get(&id).is_some_and(is_gone) {
            self.clients.remove(&id);
        }
    }
}

#[cfg(test)]
mod tests {
    #![expect(clippy::unwrap_used, reason = "a test may panic")]
    use super::*;

    #[test]
    fn a_client_leaves_as_many_free_as_it_holds() {
        const STREAMS: usize = 90;
        let mut queue = Queue::default();
        let mut open = 0;
        for client in [1, 2] {
            while queue.may_pass(client, STREAMS - open) {
                queue.open(client);
                open += 1;
            }
        }
        // The first came when there was nobody else.
        assert_eq!((queue.clients[&1].open, queue.clients[&2].open), (45, 23));
        assert!(queue.may_pass(3, STREAMS - open) && !queue.may_pass(3, 0));
    }

    #[test]
    fn clients_take_turns_and_their_calls_are_served_in_order() {
        let mut queue = Queue::default();
        let mut waiting = Vec::new();
        for client in [1, 1, 1, 2, 3, 2] {
            waiting.push((client, queue.wait(client)));
        }
        assert!(!queue.may_pass(2, 10), "nobody overtakes a call of its own client");
        queue.leave(3, waiting[4].1.0);
        let turns: Vec<_> = std::iter::from_fn(|| queue.next(10).map(|(client, _)| client)).collect();
        assert_eq!(turns, [1, 2, 1, 2, 1]);
        assert!(queue.is_empty() && queue.granted(1).is_some() && queue.granted(3).is_none());
        for client in turns {
            queue.close(client);
        }
        assert!(queue.clients.is_empty());
    }

    #[test]
    fn who_holds_too_much_is_passed_over() {
        let mut queue = Queue::default();
        (0..5).for_each(|_| queue.open(1));
        let _waiting = (queue.wait(1), queue.wait(2));
        assert_eq!(queue.next(5).unwrap().0, 2);
        assert!(queue.next(5).is_none());
        queue.close(1);
        assert_eq!(queue.next(5).unwrap().0, 1);
    }
}
