//! Who reads an object: it stays for that, up to a point, and can be read to its end when it was removed.

use std::collections::VecDeque;
use std::fs::File;
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Weak};

use bytes::Bytes;
use futures_util::stream::BoxStream;
use object_store::path::Path;
use parking_lot::Mutex;

use super::key::Key;
use super::{Gone, LINGERING, Space, part};
use crate::store::caller::Behalf;

/// What an object is read from.
pub(in crate::store) enum Source {
    /// A file, open.
    File(File),
    /// What is in memory.
    Pieces(BoxStream<'static, object_store::Result<Bytes>>),
}

/// Somebody who reads an object. While it is pinned by this, it can't be removed: for a minute, as far as the
/// caller's share of pins goes. When it was removed, it is read on from the open file, which takes its bytes of the disk
/// until then; where that gets too much, the file is closed.
#[derive(Debug)]
pub(in crate::store) struct Reader {
    /// None where there is no quota, and so nothing to be removed.
    place: Option<(Arc<Space>, Key)>,
    caller: u128,
    /// Of the caller's share.
    pinned: u64,
    state: Mutex<State>,
}

#[derive(Default)]
struct State {
    source: Option<Source>,
    /// It must not be read any more.
    closed: bool,
    /// The object was removed.
    removed: Option<Arc<Removed>>,
}

/// Bytes of the disk that an object has which was removed, until the last of its readers ends.
#[derive(Debug)]
struct Removed {
    bytes: u64,
    all: Arc<AtomicU64>,
}

impl Drop for Removed {
    fn drop(&mut self) {
        self.all.fetch_sub(self.bytes, Ordering::AcqRel);
    }
}

/// Objects that were removed and are still read, the oldest first.
#[derive(Debug, Default)]
pub(super) struct Lingering {
    bytes: Arc<AtomicU64>,
    readers: Mutex<VecDeque<(u64, Vec<Weak<Reader>>)>>,
}

impl Lingering {
    pub(super) fn bytes(&self) -> u64 {
        self.bytes.load(Ordering::Acquire)
    }
}

impl Space {
    /// Somebody is about to read an object. This is a use of it.
    ///
    /// # Errors
    /// [`Gone`] where it is leaving.
    pub(in crate::store) fn reader(self: &Arc<Self>, path: &Path) -> Result<Arc<Reader>, Gone> {
        let nobody = || {
            Arc::new(Reader {
                place: None,
                caller: 0,
                pinned: 0,
                state: Mutex::default(),
            })
        };
        // Who only reads must not be able to have folders remembered that are not there.
        let Some(key) = self.places.known(path) else {
            return Ok(nobody());
        };
        if !self.is_indexed() {
            return match self.shard(&key).is_leaving(&key) {
                true => Err(Gone),
                false => Ok(nobody()),
            };
        }
        let caller = Behalf::current().caller;
        let size = key.size().unwrap_or(0);
        let now = self.now();
        let pinned = if self.pins.take(caller, size, self.quota()) {
            size
        } else {
            0
        };
        let reader = Arc::new(Reader {
            place: Some((Arc::clone(self), key)),
            caller,
            pinned,
            state: Mutex::default(),
        });
        // Not within the match: who ends there asks for the lock as well.
        let read = self.shard(&key).read(key, &reader, now);
        match read {
            Some(moved) => {
                self.moved(moved);
                Ok(reader)
            }
            None => Err(Gone),
        }
    }

    /// Counts an object that was removed for as long as these read it. Where all of that gets too much, readers are closed:
    /// the oldest of the caller who has the most.
    pub(super) fn linger(&self, bytes: u64, readers: Vec<Weak<Reader>>) {
        let open: Vec<_> = readers.iter().filter_map(Weak::upgrade).collect();
        if open.is_empty() {
            return;
        }
        let lingering = &self.lingering;
        lingering.bytes.fetch_add(bytes, Ordering::AcqRel);
        let removed = Arc::new(Removed {
            bytes,
            all: Arc::clone(&lingering.bytes),
        });
        for reader in open {
            let mut state = reader.state.lock();
            if !state.closed {
                state.removed = Some(Arc::clone(&removed));
            }
        }
        drop(removed);
        let mut list = lingering.readers.lock();
        list.push_back((bytes, readers));
        list.retain(|(_, readers)| readers.iter().any(|reader| reader.strong_count() > 0));
        while lingering.bytes() > part(self.quota(), LINGERING) {
            let Some(next) = greediest(&list).and_then(|place| list.remove(place)) else {
                break;
            };
            next.1
                .iter()
                .filter_map(Weak::upgrade)
                .for_each(|reader| reader.close());
        }
    }
}

/// The oldest object of the caller whose readers keep the most open.
fn greediest(list: &VecDeque<(u64, Vec<Weak<Reader>>)>) -> Option<usize> {
    let callers: Vec<Option<u128>> = list
        .iter()
        .map(|(_, readers)| Some(readers.iter().find_map(Weak::upgrade)?.caller))
        .collect();
    let mut sums = std::collections::HashMap::<_, u64>::new();
    for ((bytes, _), caller) in list.iter().zip(&callers) {
        *sums.entry(*caller).or_default() += bytes;
    }
    let most = sums.into_iter().max_by_key(|(_, bytes)| *bytes)?.0;
    callers.iter().position(|caller| *caller == most)
}

impl Reader {
    /// Whether the account knows of it, as far as there is one.
    pub(in crate::store) fn is_counted(&self) -> bool {
        self.place.is_some()
    }

    /// What it reads from, from now on.
    pub(in crate::store) fn open(&self, source: Source) {
        self.give_back(source);
    }

    /// Takes the source, to read from it; None where it was closed.
    pub(in crate::store) fn take(&self) -> Option<Source> {
        self.state.lock().source.take()
    }

    /// Gives the source back; it is closed where it must not be read any more.
    pub(in crate::store) fn give_back(&self, source: Source) {
        let mut state = self.state.lock();
        if !state.closed {
            state.source = Some(source);
        }
    }

    /// Whether it keeps the object for a while.
    pub(super) fn is_pinned(&self) -> bool {
        self.pinned > 0
    }

    fn close(&self) {
        let mut state = self.state.lock();
        state.closed = true;
        let (source, removed) = (state.source.take(), state.removed.take());
        drop(state);
        drop(source);
        drop(removed);
    }
}

impl Drop for Reader {
    fn drop(&mut self) {
        let Some((space, key)) = &self.place else {
            return;
        };
        // The file first: it has the bytes of the disk.
        drop(self.state.get_mut().source.take());
        if self.pinned > 0 {
            space.pins.give_back(self.caller, self.pinned);
        }
        let now = space.now();
        let moved = space.shard(key).end_read(*key, now);
        space.moved(moved);
        if self.state.get_mut().removed.take().is_some() {
            space.left.notify_waiters();
        }
    }
}

impl std::fmt::Debug for State {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("State")
            .field("closed", &self.closed)
            .field("removed", &self.removed)
            .finish_non_exhaustive()
    }
}
