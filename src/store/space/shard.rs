//! A part of the index, under one lock.

use std::collections::{HashMap, HashSet};
use std::sync::{Arc, Weak};

use super::key::Key;
use super::reader::Reader;
use super::{BLOCK, LONGEST_PIN, millis};

/// How old the last use of an object is, in milliseconds, when the next one moves it. Most uses are of what was used a moment
/// ago, and move nothing.
const MOVES_AFTER: u64 = 1000;

/// Objects, and what is happening to some of them. Times are in milliseconds since 1970.
#[derive(Debug, Default)]
pub(super) struct Shard {
    pub(super) entries: HashMap<Key, Entry>,
    /// Marked to be removed, and counted as gone.
    leaving: HashSet<Key>,
    uses: HashMap<Key, Use>,
}

/// What is known of an object.
#[derive(Clone, Copy, Debug)]
pub(super) struct Entry {
    /// When it was last used.
    pub(super) used: u64,
    /// Until when it stays in any case: somebody has stored it a moment ago, or was told that it is there.
    pub(super) kept: u64,
    /// The last use that the disk knows of, in seconds since 1970.
    pub(super) noted: u32,
    /// Its size in blocks.
    pub(super) blocks: u32,
}

/// What is done with an object.
#[derive(Debug, Default)]
struct Use {
    /// How many write it.
    writers: u32,
    readers: Vec<Reading>,
}

/// One who reads. Never made an `Arc` of under the lock: the end of a reader needs it.
#[derive(Debug)]
struct Reading {
    reader: Weak<Reader>,
    /// Until when it keeps the object.
    pins_until: u64,
}

impl Entry {
    pub(super) fn bytes(&self) -> u64 {
        u64::from(self.blocks) * BLOCK
    }
}

impl Shard {
    /// Takes an object in unless it is there, or on its way out.
    pub(super) fn find(&mut self, key: Key, entry: Entry) -> bool {
        if self.leaving.contains(&key) || self.entries.contains_key(&key) {
            return false;
        }
        self.entries.insert(key, entry);
        true
    }

    pub(super) fn is_leaving(&self, key: &Key) -> bool {
        self.leaving.contains(key)
    }

    /// Keeps an object that is written; false where it is leaving.
    pub(super) fn hold(&mut self, key: Key) -> bool {
        if self.leaving.contains(&key) {
            return false;
        }
        self.uses.entry(key).or_default().writers += 1;
        true
    }

    /// The end of a hold, which is a use: gives what that does.
    pub(super) fn let_go(&mut self, key: Key, now: u64) -> u64 {
        if let Some(uses) = self.uses.get_mut(&key) {
            uses.writers = uses.writers.saturating_sub(1);
        }
        self.end_use(&key);
        self.touch(&key, now)
    }

    /// The begin of a read, which is a use: gives what that does. None where the object is leaving.
    pub(super) fn read(&mut self, key: Key, reader: &Arc<Reader>, now: u64) -> Option<u64> {
        if self.leaving.contains(&key) {
            return None;
        }
        let pins = if reader.is_pinned() { millis(LONGEST_PIN) } else { 0 };
        self.uses.entry(key).or_default().readers.push(Reading {
            reader: Arc::downgrade(reader),
            pins_until: now + pins,
        });
        Some(self.touch(&key, now))
    }

    /// The end of a read, which is a use: gives what that does.
    pub(super) fn end_read(&mut self, key: Key, now: u64) -> u64 {
        if let Some(uses) = self.uses.get_mut(&key) {
            uses.readers.retain(|reading| reading.reader.strong_count() > 0);
        }
        self.end_use(&key);
        self.touch(&key, now)
    }

    fn end_use(&mut self, key: &Key) {
        let uses = self.uses.get(key);
        if uses.is_some_and(|uses| uses.writers == 0 && uses.readers.is_empty()) {
            self.uses.remove(key);
        }
    }

    /// Notes a use of an object; gives the bytes that moved behind others by it.
    pub(super) fn touch(&mut self, key: &Key, now: u64) -> u64 {
        let Some(entry) = self.entries.get_mut(key) else {
            return 0;
        };
        let before = std::mem::replace(&mut entry.used, now);
        if now.saturating_sub(before) >= MOVES_AFTER {
            entry.bytes()
        } else {
            0
        }
    }

    /// Whether an object can't be removed to make room.
    pub(super) fn is_kept(&self, key: &Key, entry: &Entry, now: u64) -> bool {
        let in_use = |uses: &Use| {
            let pins = |reading: &Reading| reading.pins_until > now && reading.reader.strong_count() > 0;
            uses.writers > 0 || uses.readers.iter().any(pins)
        };
        entry.kept > now || self.uses.get(key).is_some_and(in_use)
    }

    /// A storm must not cost memory for ever.
    pub(super) fn shrink(&mut self) {
        if self.uses.len() < self.uses.capacity() / 4 {
            self.uses.shrink_to_fit();
        }
    }

    /// Marks an object as leaving, unless it is kept or was used after `until`; gives its bytes.
    pub(super) fn leave(&mut self, key: Key, until: u64, now: u64) -> Option<u64> {
        let entry = *self.entries.get(&key)?;
        if entry.used > until || self.is_kept(&key, &entry, now) || !self.leaving.insert(key) {
            return None;
        }
        Some(entry.bytes())
    }

    /// Marks an object as leaving, unless it is written; gives its bytes, none where it is not known.
    pub(super) fn condemn(&mut self, key: Key) -> Option<u64> {
        let written = self.uses.get(&key).is_some_and(|uses| uses.writers > 0);
        if written || !self.leaving.insert(key) {
            return None;
        }
        Some(self.entries.get(&key).map_or(0, Entry::bytes))
    }

    /// The end of leaving. Gives the bytes of an object that was removed, and who reads it still. What could not be removed
    /// is not tried again soon.
    pub(super) fn left(&mut self, key: Key, removed: bool, now: u64) -> Option<(u64, Vec<Weak<Reader>>)> {
        self.leaving.remove(&key);
        if removed {
            let entry = self.entries.remove(&key)?;
            let uses = self.uses.get_mut(&key);
            let readers = uses.map(|uses| std::mem::take(&mut uses.readers)).unwrap_or_default();
            self.end_use(&key);
            let readers = readers.into_iter().map(|reading| reading.reader);
            return Some((entry.bytes(), readers.collect()));
        }
        if let Some(entry) = self.entries.get_mut(&key) {
            entry.used = now;
        }
        None
    }
}
