//! A part of the index, under one lock.

use std::collections::{HashMap, HashSet};

use super::BLOCK;
use super::key::Key;

/// How old the last use of an object is, in milliseconds, when the next one moves it. Most uses are of what was used a moment
/// ago, and move nothing.
const MOVES_AFTER: u64 = 1000;

/// Objects, and what is happening to some of them. Times are in milliseconds since 1970.
#[derive(Debug, Default)]
pub(super) struct Shard {
    pub(super) entries: HashMap<Key, Entry>,
    /// Marked to be removed, and counted as gone.
    pub(super) leaving: HashSet<Key>,
    kept: HashMap<Key, Kept>,
}

/// What is known of an object.
#[derive(Clone, Copy, Debug)]
pub(super) struct Entry {
    /// When it was last used.
    pub(super) used: u64,
    /// The last use that the disk knows of, in seconds since 1970.
    pub(super) noted: u32,
    /// Its size in blocks.
    pub(super) blocks: u32,
}

/// Why an object can't leave.
#[derive(Debug, Default)]
struct Kept {
    /// How many read or write it.
    holds: u32,
    /// It was stored a moment ago.
    until: u64,
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

    /// Keeps an object; false where it is leaving.
    pub(super) fn hold(&mut self, key: Key) -> bool {
        if self.leaving.contains(&key) {
            return false;
        }
        self.kept.entry(key).or_default().holds += 1;
        true
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

    /// The end of a hold, which is a use: gives what that does.
    pub(super) fn let_go(&mut self, key: Key, now: u64) -> u64 {
        if let Some(kept) = self.kept.get_mut(&key) {
            kept.holds = kept.holds.saturating_sub(1);
            if kept.holds == 0 && kept.until <= now {
                self.kept.remove(&key);
            }
        }
        self.touch(&key, now)
    }

    pub(super) fn keep_until(&mut self, key: Key, until: u64) {
        self.kept.entry(key).or_default().until = until;
    }

    pub(super) fn is_kept(&self, key: &Key, now: u64) -> bool {
        let kept = self.kept.get(key);
        kept.is_some_and(|kept| kept.holds > 0 || kept.until > now)
    }

    pub(super) fn end_grace(&mut self, now: u64) {
        self.kept.retain(|_, kept| kept.holds > 0 || kept.until > now);
        // A storm of uploads must not cost memory for ever.
        if self.kept.len() < self.kept.capacity() / 4 {
            self.kept.shrink_to_fit();
        }
    }

    /// Marks an object as leaving, unless it is kept or was used after `until`; gives its bytes.
    pub(super) fn leave(&mut self, key: Key, until: u64, now: u64) -> Option<u64> {
        let used = self.entries.get(&key)?.used;
        if used > until || self.is_kept(&key, now) || !self.leaving.insert(key) {
            return None;
        }
        self.entries.get(&key).map(Entry::bytes)
    }

    /// The end of leaving. What could not be removed is not tried again soon.
    pub(super) fn left(&mut self, key: Key, removed: bool, now: u64) {
        self.leaving.remove(&key);
        if removed {
            self.entries.remove(&key);
        } else if let Some(entry) = self.entries.get_mut(&key) {
            entry.used = now;
        }
    }
}
