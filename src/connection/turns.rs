//! What the handshakes of strangers take of a thread: one step of one of them, and then it is the turn of whatever else the
//! thread has to do.
//!
//! A step is a signature or the check of a chain, several hundred microseconds. However many handshakes there are, a call
//! waits for one step of them each time that it has something to do. The addresses that wait have their turns one after the
//! other, so that one with many handshakes does not hold up one with few.

use std::collections::{HashMap, VecDeque};
use std::pin::Pin;
use std::sync::Arc;
use std::task::{Context, Poll, ready};

use parking_lot::Mutex;
use tokio::sync::{Notify, oneshot};

use super::census::Address;

/// The turns of one thread.
#[derive(Debug, Default)]
pub struct Turns {
    line: Mutex<Line>,
    asked: Notify,
}

#[derive(Debug, Default)]
struct Line {
    addresses: VecDeque<Address>,
    waiting: HashMap<Address, VecDeque<oneshot::Sender<Turn>>>,
}

/// A turn, until dropped.
type Turn = oneshot::Sender<()>;

/// A handshake that goes on in its turns only.
#[derive(Debug)]
pub(super) struct InTurns<'a, F> {
    handshake: F,
    turns: &'a Turns,
    address: Address,
    asked: Option<oneshot::Receiver<Turn>>,
}

impl Turns {
    /// Gives turns for ever. To be run beside all else that the thread does.
    pub async fn give(self: Arc<Turns>) {
        loop {
            let Some(waiter) = self.line.lock().next() else {
                self.asked.notified().await;
                continue;
            };
            let (turn, over) = oneshot::channel();
            if waiter.send(turn).is_ok() {
                // Nothing is ever sent: the other half is dropped.
                let _over = over.await;
            }
            tokio::task::yield_now().await;
        }
    }

    /// Has a handshake of this address go on in its turns only.
    pub(super) fn take<F: Future + Unpin>(&self, address: Address, handshake: F) -> InTurns<'_, F> {
        InTurns {
            handshake,
            turns: self,
            address,
            asked: None,
        }
    }

    fn ask(&self, address: Address) -> oneshot::Receiver<Turn> {
        let (give, given) = oneshot::channel();
        let mut line = self.line.lock();
        let Line { addresses, waiting } = &mut *line;
        let waiting = waiting.entry(address).or_insert_with(|| {
            addresses.push_back(address);
            VecDeque::new()
        });
        waiting.push_back(give);
        drop(line);
        self.asked.notify_one();
        given
    }
}

impl Line {
    fn next(&mut self) -> Option<oneshot::Sender<Turn>> {
        loop {
            let address = self.addresses.pop_front()?;
            let waiting = self.waiting.get_mut(&address)?;
            let waiter = waiting.pop_front();
            if waiting.is_empty() {
                self.waiting.remove(&address);
            } else {
                self.addresses.push_back(address);
            }
            if let Some(waiter) = waiter
                && !waiter.is_closed()
            {
                return Some(waiter);
            }
        }
    }
}

impl<F: Future + Unpin> Future for InTurns<'_, F> {
    type Output = F::Output;

    fn poll(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<F::Output> {
        let this = &mut *self;
        let asked = this.asked.get_or_insert_with(|| this.turns.ask(this.address));
        // Without a turn nobody gives any more, which is the end of the thread.
        let _turn = ready!(Pin::new(asked).poll(cx));
        this.asked = None;
        Pin::new(&mut this.handshake).poll(cx)
    }
}

#[cfg(test)]
mod tests {
    #![expect(clippy::unwrap_used, reason = "a test may panic")]
    use std::cell::RefCell;
    use std::rc::Rc;

    use super::*;

    fn address(text: &str) -> Address {
        Address::of(text.parse().unwrap())
    }

    #[tokio::test]
    async fn addresses_take_turns_and_other_work_is_done_between_them() {
        let turns = Arc::new(Turns::default());
        let (one, other) = (address("192.0.2.1"), address("192.0.2.2"));
        let done = Rc::new(RefCell::new(Vec::new()));
        let local = tokio::task::LocalSet::new();
        let step = |name: &'static str| {
            let done = Rc::clone(&done);
            Box::pin(async move { done.borrow_mut().push(name) })
        };
        for (address, name) in [(one, "one"), (one, "one"), (one, "one"), (other, "other")] {
            let (turns, step) = (Arc::clone(&turns), step(name));
            local.spawn_local(async move { turns.take(address, step).await });
        }
        // It waits for nobody else.
        let gone = turns.ask(one);
        drop(gone);
        local.spawn_local({
            let done = Rc::clone(&done);
            async move {
                while done.borrow().len() < 8 {
                    done.borrow_mut().push("a call");
                    tokio::task::yield_now().await;
                }
            }
        });
        let giving = Arc::clone(&turns).give();
        local
            .run_until(async {
                tokio::select! {
                    () = giving => {}
                    () = async { while done.borrow().len() < 8 { tokio::task::yield_now().await } } => {}
                }
            })
            .await;
        let done = done.borrow();
        let at = |name: &str| done.iter().position(|done| *done == name).unwrap();
        let steps: Vec<_> = done.iter().filter(|name| **name != "a call").collect();
        assert_eq!(steps.get(..2), Some(&[&"one", &"other"][..]), "{done:?}");
        assert!(at("a call") < at("other"), "{done:?}");
    }
}
