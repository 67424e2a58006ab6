//! The places for connections in a pool, and which of them the next call takes.

use std::sync::Arc;
use std::time::Instant;

use bytes::Bytes;
use h2::client::SendRequest;

use super::Unreachable;
use super::stream::Calls;

/// A connection with this many calls or more lets the next one be opened for short calls. Fewer connections mean more frames
/// in one system call.
const SHARE_UP_TO: usize = 100;
/// Calls that a connection takes at most, whatever its server allows: it bounds what the gate keeps of them.
const HIGHEST_LIMIT: usize = 1000;

/// How much a call moves.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Size {
    /// A few frames up, which share a connection well, whatever comes back.
    Short,
    /// An upload of blobs: they are in each other's way on one connection.
    Bulk,
}

/// The connections of a pool.
#[derive(Debug)]
pub(super) struct Slots {
    slots: Vec<Slot>,
    /// So many are used first; the others only when these are full.
    usual: usize,
}

/// A place for one connection after the other.
#[derive(Debug)]
pub(super) struct Slot {
    pub(super) link: Link,
    /// Counts the calls of the connection, and tells it from those before and after.
    pub(super) calls: Arc<Calls>,
    /// How many calls it takes, as the server said last.
    limit: Option<usize>,
}

#[derive(Debug)]
pub(super) enum Link {
    Idle,
    Dialing,
    Open(SendRequest<Bytes>),
    /// The pool is gone, and no connection will come any more.
    Closed,
    Down {
        since: Instant,
        retry_at: Instant,
        /// Whether an attempt is under way.
        is_dialing: bool,
        error: Unreachable,
    },
}

impl Slots {
    pub(super) fn new(usual: usize, most: usize) -> Slots {
        let slot = || Slot {
            link: Link::Idle,
            calls: Arc::default(),
            limit: None,
        };
        Slots {
            slots: std::iter::repeat_with(slot).take(most.max(usual)).collect(),
            usual,
        }
    }

    pub(super) fn get_mut(&mut self, slot: usize) -> Option<&mut Slot> {
        self.slots.get_mut(slot)
    }

    pub(super) fn any_open(&self) -> bool {
        self.slots.iter().any(|slot| matches!(slot.link, Link::Open(_)))
    }

    /// Streams that can be had: those of connections that would have to be made first are counted.
    pub(super) fn free(&self) -> usize {
        let (any_open, limit) = (self.any_open(), self.likely_limit());
        let usable = self.slots.iter().filter(|slot| slot.is_usable(any_open));
        usable.map(|slot| slot.room(limit)).sum()
    }

    /// Whether a connection has no more calls than it takes.
    pub(super) fn is_within_limit(&self, slot: usize) -> bool {
        let slot = self.slots.get(slot);
        slot.is_some_and(|slot| slot.limit.is_none_or(|limit| slot.open_calls() <= limit))
    }

    /// Whether there is a place for the next call.
    pub(super) fn has_room(&self) -> bool {
        self.choose(Size::Short).is_some()
    }

    /// Takes the place for the next call, and counts the call to it.
    pub(super) fn pick(&self, size: Size) -> Option<(usize, Arc<Calls>)> {
        let (index, slot) = self.choose(size)?;
        Some((index, slot.count()))
    }

    /// The same where the connection is open already; gives the connection as well.
    pub(super) fn pick_open(&self, size: Size) -> Option<(usize, Arc<Calls>, SendRequest<Bytes>)> {
        let (index, slot) = self.choose(size)?;
        let Link::Open(sender) = &slot.link else { return None };
        Some((index, slot.count(), sender.clone()))
    }

    /// Of the usual ones the first with few calls, where it is for a short one, else the one with the fewest; then the first of
    /// the others.
    fn choose(&self, size: Size) -> Option<(usize, &Slot)> {
        let (any_open, limit) = (self.any_open(), self.likely_limit());
        let has_room = |(_, slot): &(usize, &Slot)| slot.is_usable(any_open) && slot.room(limit) > 0;
        let is_known = self.slots.iter().any(|slot| slot.limit.is_some());
        let usual = if is_known { self.usual } else { 1 };
        let usual = || self.slots.iter().enumerate().take(usual).filter(has_room);
        let more = || {
            let others = self.slots.iter().enumerate().skip(self.usual);
            others.filter(|_| any_open).find(has_room)
        };
        usual()
            .find(|(_, slot)| size == Size::Short && slot.open_calls() < SHARE_UP_TO)
            .or_else(|| usual().min_by_key(|(_, slot)| slot.open_calls()))
            .or_else(more)
    }

    /// How many calls a connection will take that was never there: as many as the others. Before the first is open, one
    /// makes the connection, and the rest wait in the queue for what the server says.
    fn likely_limit(&self) -> usize {
        self.slots.iter().find_map(|slot| slot.limit).unwrap_or(1)
    }

    pub(super) fn set(&mut self, slot: usize, link: Link) {
        if let Some(slot) = self.slots.get_mut(slot).filter(|slot| !slot.is_closed()) {
            slot.link = link;
        }
    }

    pub(super) fn all(&mut self, change: impl Fn(&mut Slot)) {
        self.slots.iter_mut().for_each(change);
    }

    /// Puts a connection into its place, unless nobody wants it any more; gives the count of its calls.
    pub(super) fn open(&mut self, slot: usize, sender: SendRequest<Bytes>, limit: usize) -> Option<Arc<Calls>> {
        let slot = self.slots.get_mut(slot).filter(|slot| !slot.is_closed())?;
        slot.link = Link::Open(sender);
        slot.limit = Some(limit.min(HIGHEST_LIMIT));
        Some(Arc::clone(&slot.calls))
    }

    /// Notes what the server of a connection allows now.
    pub(super) fn limit(&mut self, slot: usize, calls: &Arc<Calls>, limit: usize) {
        if let Some(slot) = self.slots.get_mut(slot)
            && Arc::ptr_eq(&slot.calls, calls)
        {
            slot.limit = Some(limit.min(HIGHEST_LIMIT));
        }
    }

    /// Makes room for another connection.
    pub(super) fn discard(&mut self, slot: usize, calls: &Arc<Calls>) {
        if let Some(slot) = self.slots.get_mut(slot)
            && Arc::ptr_eq(&slot.calls, calls)
            && matches!(slot.link, Link::Open(_))
        {
            slot.renew(Link::Idle);
        }
    }
}

impl Slot {
    pub(super) fn open_calls(&self) -> usize {
        self.calls.open()
    }

    /// Counts one more call to the connection.
    fn count(&self) -> Arc<Calls> {
        self.calls.add();
        Arc::clone(&self.calls)
    }

    fn room(&self, likely_limit: usize) -> usize {
        self.limit.unwrap_or(likely_limit).saturating_sub(self.open_calls())
    }

    pub(super) fn is_closed(&self) -> bool {
        matches!(self.link, Link::Closed)
    }

    /// Leaves the calls to the connection that was here.
    pub(super) fn renew(&mut self, link: Link) {
        self.link = link;
        self.calls = Arc::default();
    }

    /// Where there are connections, one that can't be had is left alone until it is time to try again.
    fn is_usable(&self, any_open: bool) -> bool {
        match &self.link {
            Link::Closed => false,
            Link::Idle | Link::Dialing | Link::Open(_) => true,
            Link::Down {
                retry_at, is_dialing, ..
            } => !any_open || !is_dialing && Instant::now() >= *retry_at,
        }
    }
}
