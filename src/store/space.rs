//! What a store with a quota holds, how large it is and when it was last used; and the room that is left.
//!
//! The index is in memory, with about 100 bytes for an object. It is a guide for what to remove, never the answer to whether
//! something is there: that is the disk's.
//!
//! An object leaves in three steps, so that nobody is promised what goes. Under the lock of its shard it is looked at once
//! more and marked as leaving: from then on it counts as gone, and who wants to write it waits. Then its file is removed.
//! Then the mark goes.

mod evict;
mod key;
mod shard;
mod survey;
mod turnover;

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::sync::mpsc::Sender;
use std::time::{Duration, Instant, SystemTime, UNIX_EPOCH};

use object_store::path::Path;
use parking_lot::{Mutex, MutexGuard};
use prometheus::{IntCounter, IntGauge};
use tokio::sync::Notify;

use self::key::{Key, Places};
use self::shard::{Entry, Shard};
use super::housekeeping::Task;

pub(super) use self::evict::{Evicted, evict};
pub(super) use self::survey::survey;
pub(super) use self::turnover::Mark;

/// Shards, each with a lock of its own.
const SHARDS: usize = 64;

/// The unit of disks, in bytes.
const BLOCK: u64 = 4096;

/// How much of the quota may be taken before something is removed, and what is left then, in percent.
const HIGH: u64 = 95;
const LOW: u64 = 90;

/// How old the last use of an object that is known to the disk may get.
const NOTE_AGE: u64 = 3600;

/// What a store with a quota tells.
#[derive(Clone, Debug)]
pub struct Meters {
    /// Bytes that it holds, in blocks of 4 KiB.
    pub bytes: IntGauge,
    /// Bytes that it may hold.
    pub quota: IntGauge,
    /// Objects that were removed to make room.
    pub evicted: IntCounter,
    /// Their bytes.
    pub evicted_bytes: IntCounter,
}

/// How long a store with a quota waits.
#[derive(Clone, Copy, Debug)]
pub(super) struct Waits {
    /// How long what was stored is kept in any case: who has pushed a blob goes on to name it.
    pub(super) grace: Duration,
    /// How long an upload waits for room.
    pub(super) patience: Duration,
}

impl Default for Waits {
    fn default() -> Self {
        Self {
            grace: Duration::from_secs(60),
            patience: Duration::from_secs(10),
        }
    }
}

/// Everything that is in use is as large as the quota: nothing can be removed.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct NoRoom;

/// The object is being removed.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Gone;

/// The index and the account of one store.
#[derive(Debug)]
pub(super) struct Space {
    quota: AtomicU64,
    /// Bytes of all objects.
    held: AtomicU64,
    /// Bytes of uploads under way.
    arriving: AtomicU64,
    shards: Vec<Mutex<Shard>>,
    places: Places,
    /// Nothing was removed that was used after this.
    removed_until: AtomicU64,
    /// Bytes that ever became the youngest.
    turnover: AtomicU64,
    /// Wakes who waits for room, or for an object that leaves.
    left: Notify,
    begun: (Instant, u64),
    /// Where room is made.
    housekeeping: Sender<Task>,
    /// It was asked to, and has not come to it yet.
    asked: AtomicBool,
    meters: Meters,
    waits: Waits,
}

/// An object that is read or written. It can't leave while this is there.
#[derive(Debug)]
pub(super) struct Hold {
    space: Arc<Space>,
    key: Key,
}

/// Room that an upload has taken. What became of it is either an object or nothing.
#[derive(Debug)]
pub(super) struct Room {
    space: Arc<Space>,
    bytes: u64,
}

impl Space {
    /// Nothing is known to be held yet.
    pub(super) fn new(quota: Option<u64>, meters: Meters, housekeeping: Sender<Task>, waits: Waits) -> Self {
        let since = SystemTime::now().duration_since(UNIX_EPOCH).unwrap_or_default();
        let space = Self {
            quota: AtomicU64::new(u64::MAX),
            held: AtomicU64::new(0),
            arriving: AtomicU64::new(0),
            shards: (0..SHARDS).map(|_| Mutex::default()).collect(),
            places: Places::default(),
            removed_until: AtomicU64::new(0),
            turnover: AtomicU64::new(0),
            left: Notify::new(),
            begun: (Instant::now(), millis(since)),
            housekeeping,
            asked: AtomicBool::new(false),
            meters,
            waits,
        };
        space.set_quota(quota);
        space
    }

    /// From now on so many bytes may be held; None for any number.
    pub(super) fn set_quota(&self, quota: Option<u64>) {
        let gauge = |quota: u64| if quota == u64::MAX { 0 } else { signed(quota) };
        let new = quota.unwrap_or(u64::MAX);
        let old = self.quota.swap(new, Ordering::AcqRel);
        self.meters.quota.add(gauge(new) - gauge(old));
        self.left.notify_waiters();
        self.ask_for_room();
    }

    /// Bytes that may be held.
    pub(super) fn quota(&self) -> u64 {
        self.quota.load(Ordering::Acquire)
    }

    /// Notes a use of an object; false where it is leaving, and so as good as gone.
    pub(super) fn touch(&self, path: &Path) -> bool {
        let Some(key) = self.places.known(path) else {
            return true;
        };
        let now = self.now();
        let mut shard = self.shard(&key);
        if shard.leaving.contains(&key) {
            return false;
        }
        self.moved(shard.touch(&key, now));
        true
    }

    /// Takes an object of so many bytes into the index that was found without being known: by another process, or before
    /// the survey came to it.
    pub(super) fn learn(&self, path: &Path, bytes: u64) {
        if let Some(key) = self.places.key(path) {
            let used = self.now();
            self.find(key, bytes, used, 0);
        }
    }

    /// Keeps an object while it is read; None where nothing of its folder is known.
    ///
    /// # Errors
    /// [`Gone`] where it is leaving.
    pub(super) fn hold(self: &Arc<Self>, path: &Path) -> Result<Option<Hold>, Gone> {
        // Who only reads must not be able to have folders remembered that are not there.
        let key = self.places.known(path);
        key.map(|key| self.hold_key(key).ok_or(Gone)).transpose()
    }

    fn hold_key(self: &Arc<Self>, key: Key) -> Option<Hold> {
        self.shard(&key).hold(key).then(|| Hold {
            space: Arc::clone(self),
            key,
        })
    }

    /// Keeps an object that is about to be written, once one of the same name has left. None for what is no object.
    pub(super) async fn hold_place(self: &Arc<Self>, path: &Path) -> Option<Hold> {
        let key = self.places.key(path)?;
        loop {
            let left = self.left.notified();
            let mut left = std::pin::pin!(left);
            left.as_mut().enable();
            if let Some(hold) = self.hold_key(key) {
                return Some(hold);
            }
            left.await;
        }
    }

    /// Room for an upload, as yet none.
    pub(super) fn room(self: &Arc<Self>) -> Room {
        Room {
            space: Arc::clone(self),
            bytes: 0,
        }
    }

    /// Notes that the object was written. It stays for a while whatever happens.
    pub(super) fn stored(&self, hold: &Hold, bytes: u64, room: Option<Room>) {
        let now = self.now();
        let entry = Entry {
            used: now,
            noted: seconds(now),
            blocks: blocks(bytes),
        };
        let mut shard = self.shard(&hold.key);
        let before = shard.entries.insert(hold.key, entry);
        shard.keep_until(hold.key, now + millis(self.waits.grace));
        drop(shard);
        self.account(entry.bytes(), before.map_or(0, |before| before.bytes()));
        // What was room is an object now.
        drop(room);
        self.ask_for_room();
    }

    /// Marks an object as leaving; None where somebody reads or writes it. It leaves when this is dropped.
    pub(super) fn dismiss(&self, path: &Path) -> Option<Leaving<'_>> {
        let key = self.places.known(path)?;
        self.leave(key, u64::MAX)
    }

    /// The same, unless it was used after `until`.
    fn leave(&self, key: Key, until: u64) -> Option<Leaving<'_>> {
        let now = self.now();
        let bytes = self.shard(&key).leave(key, until, now)?;
        Some(Leaving {
            space: self,
            key,
            bytes,
            removed: false,
        })
    }

    /// Objects whose last use the disk should hear of, with that use. They count as told.
    pub(super) fn uses_to_note(&self) -> Vec<(Path, SystemTime)> {
        let mut uses = Vec::new();
        for shard in &self.shards {
            let mut keys = Vec::new();
            for (key, entry) in &mut shard.lock().entries {
                let used = seconds(entry.used);
                if u64::from(used.saturating_sub(entry.noted)) >= NOTE_AGE {
                    entry.noted = used;
                    keys.push((*key, entry.used));
                }
            }
            let time = |used| UNIX_EPOCH + Duration::from_millis(used);
            uses.extend(keys.iter().map(|(key, used)| (self.places.path(key), time(*used))));
        }
        uses
    }

    /// Forgets of what was stored a while ago that it must be kept.
    pub(super) fn end_grace(&self) {
        let now = self.now();
        for shard in &self.shards {
            shard.lock().end_grace(now);
        }
    }

    /// Takes an object into the index unless it is there.
    fn find(&self, key: Key, bytes: u64, used: u64, noted: u32) {
        let blocks = blocks(bytes);
        if self.shard(&key).find(key, Entry { used, noted, blocks }) {
            self.account(u64::from(blocks) * BLOCK, 0);
            self.ask_for_room();
        }
    }

    fn take(&self, bytes: u64) -> bool {
        let fits = |arriving: u64| {
            let arriving = arriving.checked_add(bytes)?;
            let all = arriving.checked_add(self.held.load(Ordering::Acquire))?;
            (all <= self.quota()).then_some(arriving)
        };
        let arriving = &self.arriving;
        arriving.fetch_update(Ordering::AcqRel, Ordering::Acquire, fits).is_ok()
    }

    fn taken(&self) -> u64 {
        let held = self.held.load(Ordering::Acquire);
        held.saturating_add(self.arriving.load(Ordering::Acquire))
    }

    fn ask_for_room(&self) {
        if self.taken() > part(self.quota(), HIGH) && !self.asked.swap(true, Ordering::AcqRel) {
            // Fails only when the store is about to end.
            let _ended = self.housekeeping.send(Task::Evict);
        }
    }

    fn account(&self, more: u64, less: u64) {
        self.moved(more);
        self.held.fetch_add(more, Ordering::AcqRel);
        self.held.fetch_sub(less, Ordering::AcqRel);
        self.meters.bytes.add(signed(more) - signed(less));
    }

    fn shard(&self, key: &Key) -> MutexGuard<'_, Shard> {
        self.shards[key.spread() % SHARDS].lock()
    }

    /// Milliseconds since 1970, by a clock that does not jump.
    fn now(&self) -> u64 {
        let (begun, at) = self.begun;
        at + millis(begun.elapsed())
    }
}

impl Drop for Space {
    fn drop(&mut self) {
        self.account(0, self.held.load(Ordering::Acquire));
        self.meters.quota.sub(match self.quota() {
            u64::MAX => 0,
            quota => signed(quota),
        });
    }
}

impl Drop for Hold {
    fn drop(&mut self) {
        let now = self.space.now();
        let moved = self.space.shard(&self.key).let_go(self.key, now);
        self.space.moved(moved);
    }
}

impl Room {
    /// Takes room for so many bytes more, and waits a while where there is none. May be cancelled.
    pub(super) async fn grow(&mut self, bytes: u64) -> Result<(), NoRoom> {
        let deadline = tokio::time::Instant::now() + self.space.waits.patience;
        loop {
            let left = self.space.left.notified();
            let mut left = std::pin::pin!(left);
            left.as_mut().enable();
            if self.space.take(bytes) {
                self.bytes += bytes;
                self.space.ask_for_room();
                return Ok(());
            }
            self.space.ask_for_room();
            if tokio::time::timeout_at(deadline, left).await.is_err() {
                return Err(NoRoom);
            }
        }
    }
}

impl Drop for Room {
    fn drop(&mut self) {
        self.space.arriving.fetch_sub(self.bytes, Ordering::AcqRel);
        self.space.left.notify_waiters();
    }
}

/// An object that leaves.
#[derive(Debug)]
pub(super) struct Leaving<'a> {
    space: &'a Space,
    key: Key,
    bytes: u64,
    removed: bool,
}

impl Leaving<'_> {
    /// Its file is gone: so is the object. Without this, it stays.
    pub(super) fn removed(mut self) {
        self.removed = true;
    }
}

impl Drop for Leaving<'_> {
    fn drop(&mut self) {
        let now = self.space.now();
        self.space.shard(&self.key).left(self.key, self.removed, now);
        if self.removed {
            self.space.account(0, self.bytes);
        }
        self.space.left.notify_waiters();
    }
}

/// So many percent.
fn part(quota: u64, percent: u64) -> u64 {
    quota / 100 * percent
}

fn blocks(bytes: u64) -> u32 {
    u32::try_from(bytes.div_ceil(BLOCK)).unwrap_or(u32::MAX)
}

fn millis(duration: Duration) -> u64 {
    u64::try_from(duration.as_millis()).unwrap_or(u64::MAX)
}

fn seconds(millis: u64) -> u32 {
    u32::try_from(millis / 1000).unwrap_or(u32::MAX)
}

fn signed(bytes: u64) -> i64 {
    i64::try_from(bytes).unwrap_or(i64::MAX)
}
