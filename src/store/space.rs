//! What a store holds, how large it is and when it was last used; and the room that is left.
//!
//! Without a quota only what is being written or removed is known here. With one there is an index in memory, with about
//! 120 bytes for an object. It is a guide for what to remove, never the answer to whether something is there: that is the
//! disk's.
//!
//! An object leaves in three steps, so that nobody is promised what goes. Under the lock of its shard it is looked at once
//! more and marked as leaving: from then on it counts as gone, and who wants to write it waits. Then its file is removed.
//! Then the mark goes.
//!
//! What is in use or arriving stays out of the way of others: callers have [`Shares`] of it.

mod evict;
mod folders;
mod key;
mod leaving;
mod reader;
mod room;
mod shard;
mod shares;
mod survey;
mod turnover;

use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::sync::mpsc::Sender;
use std::sync::{Arc, OnceLock, Weak};
use std::time::{Duration, Instant, SystemTime, UNIX_EPOCH};

use object_store::path::Path;
use parking_lot::{Mutex, MutexGuard};
use prometheus::{IntCounter, IntGauge};
use tokio::sync::Notify;

use self::folders::Folders;
use self::key::{Key, Places};
use self::reader::Lingering;
use self::shard::{Entry, Shard};
use self::shares::{Recent, Rule, Shares};
use super::caller::Behalf;
use super::housekeeping::Task;
use super::uploads::Uploads;

pub(super) use self::evict::{Evicted, evict};
pub(super) use self::key::is_object;
pub(super) use self::leaving::Leaving;
pub(super) use self::reader::{Reader, Source};
pub(super) use self::room::{NoRoom, Room};
pub(super) use self::survey::survey;
pub(super) use self::turnover::Mark;

/// Shards, each with a lock of its own.
const SHARDS: usize = 64;

/// The unit of disks, in bytes.
pub(super) const BLOCK: u64 = 4096;

/// How much of the quota may be taken before something is removed, and what is left then, in percent.
const HIGH: u64 = 95;
const LOW: u64 = 90;

/// The largest object that is taken, in percent of the quota: one that is larger would evict most of what others use.
const LARGEST: u64 = 50;

/// What uploads may take before they are finished.
const ARRIVALS: Rule = Rule {
    own: 25,
    single: LARGEST,
    all: 75,
};

/// What can't be removed as it is being read.
const PINS: Rule = Rule {
    own: 12,
    single: 40,
    all: 40,
};

/// What can't be removed as somebody was told that it is there, by one caller and by all of them, in percent. Beyond it, it
/// is what goes last.
const TOLD: (u64, u64) = (25, 35);

/// How long what is being read can't be removed. It can be read on when it was.
const LONGEST_PIN: Duration = Duration::from_secs(60);

/// What readers may keep open that was removed, in percent of the quota.
const LINGERING: u64 = 12;

/// How old the last use of an object that is known to the disk may get.
const NOTE_AGE: u64 = 3600;

/// What a store tells.
#[derive(Clone, Debug)]
pub struct Meters {
    /// Bytes that it holds, in blocks of 4 KiB, without its folders; 0 without a quota.
    pub bytes: IntGauge,
    /// Bytes that it may hold; 0 without a quota.
    pub quota: IntGauge,
    /// Objects that were removed to make room.
    pub evicted: IntCounter,
    /// Their bytes.
    pub evicted_bytes: IntCounter,
    /// Objects that were removed since the disk did not keep them as they were written.
    pub damaged: IntCounter,
}

/// How long a store with a quota waits.
#[derive(Clone, Copy, Debug)]
pub(super) struct Waits {
    /// How long what was stored is kept in any case: who has pushed a blob goes on to name it. At most a minute.
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

/// The object is being removed.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Gone;

/// The index and the account of one store.
#[derive(Debug)]
pub(super) struct Space {
    quota: AtomicU64,
    /// Bytes of all objects.
    held: AtomicU64,
    /// Bytes of the folders that they are in.
    folder_bytes: AtomicU64,
    /// Bytes of uploads under way.
    arriving: AtomicU64,
    /// Objects have entries: from the first quota on.
    indexed: AtomicBool,
    shards: Vec<Mutex<Shard>>,
    places: Places,
    folders: Folders,
    arrivals: Shares,
    pins: Shares,
    told: Recent,
    lingering: Lingering,
    /// Nothing was removed that was used after this.
    removed_until: AtomicU64,
    /// Bytes that ever became the youngest.
    turnover: AtomicU64,
    /// Wakes who waits for room, or for an object that leaves.
    left: Notify,
    /// How often the quota was lowered, and wakes who must look whether it fits in still.
    lowered: (AtomicU64, Notify),
    begun: (Instant, u64),
    /// Where room is made.
    housekeeping: Sender<Task>,
    /// It was asked to, and has not come to it yet.
    asked: AtomicBool,
    /// The most that somebody waits for, in bytes.
    wanted: AtomicU64,
    told_how: OnceLock<(Meters, Waits)>,
    uploads: Weak<Uploads>,
}

/// An object that is written. It can't leave while this is there.
#[derive(Debug)]
pub(super) struct Hold {
    space: Arc<Space>,
    key: Key,
}

impl Space {
    /// Without a quota, until it gets one. Of `uploads`, those that were interrupted give room first.
    pub(super) fn new(housekeeping: Sender<Task>, uploads: Weak<Uploads>) -> Self {
        let since = SystemTime::now().duration_since(UNIX_EPOCH).unwrap_or_default();
        Self {
            quota: AtomicU64::new(u64::MAX),
            held: AtomicU64::new(0),
            folder_bytes: AtomicU64::new(0),
            arriving: AtomicU64::new(0),
            indexed: AtomicBool::new(false),
            shards: (0..SHARDS).map(|_| Mutex::default()).collect(),
            places: Places::default(),
            folders: Folders::default(),
            arrivals: Shares::new(ARRIVALS),
            pins: Shares::new(PINS),
            told: Recent::default(),
            lingering: Lingering::default(),
            removed_until: AtomicU64::new(0),
            turnover: AtomicU64::new(0),
            left: Notify::new(),
            lowered: (AtomicU64::new(0), Notify::new()),
            begun: (Instant::now(), millis(since)),
            housekeeping,
            asked: AtomicBool::new(false),
            wanted: AtomicU64::new(0),
            told_how: OnceLock::new(),
            uploads,
        }
    }

    /// From now on so many bytes may be held; None for any number. With the first quota the index begins, and true is given:
    /// what is there already must be found.
    pub(super) fn set_quota(&self, quota: Option<u64>, meters: Meters, waits: Waits) -> bool {
        let (meters, _) = self.told_how.get_or_init(|| (meters, waits));
        let gauge = |quota: u64| if quota == u64::MAX { 0 } else { signed(quota) };
        let new = quota.unwrap_or(u64::MAX);
        let old = self.quota.swap(new, Ordering::AcqRel);
        meters.quota.add(gauge(new) - gauge(old));
        let begins = quota.is_some() && !self.indexed.swap(true, Ordering::AcqRel);
        self.left.notify_waiters();
        if new < old {
            self.lowered.0.fetch_add(1, Ordering::AcqRel);
            self.lowered.1.notify_waiters();
        }
        if old != new && !self.asked.swap(true, Ordering::AcqRel) {
            // Interrupted uploads may have to go at once. Fails only when the store is about to end.
            let _ended = self.housekeeping.send(Task::Evict);
        }
        begins
    }

    pub(super) fn has_quota(&self) -> bool {
        self.quota() != u64::MAX
    }

    /// Whether an object of so many bytes can be here.
    ///
    /// # Errors
    /// The quota, where it is too small.
    pub(super) fn takes(&self, bytes: u64) -> Result<(), u64> {
        let quota = self.quota();
        match bytes > part(quota, LARGEST) {
            true => Err(quota),
            false => Ok(()),
        }
    }

    /// Whether the object is being removed, and so as good as gone.
    pub(super) fn is_leaving(&self, path: &Path) -> bool {
        let key = self.places.known(path);
        key.is_some_and(|key| self.shard(&key).is_leaving(&key))
    }

    /// Notes a use of an object; false where it is leaving, and so as good as gone.
    pub(super) fn touch(&self, path: &Path) -> bool {
        let Some(key) = self.places.known(path) else {
            return true;
        };
        let now = self.now();
        let mut shard = self.shard(&key);
        if shard.is_leaving(&key) {
            return false;
        }
        self.moved(shard.touch(&key, now));
        true
    }

    /// Takes an object of so many bytes into the index that was found without being known: by another process, or before
    /// the survey came to it.
    pub(super) fn learn(&self, path: &Path, bytes: u64) {
        if self.is_indexed()
            && let Some(key) = self.places.key(path)
        {
            let used = self.now();
            self.find(key, bytes, used, 0);
        }
    }

    /// Keeps an object for a while, as the current caller is about to be told that it is there; false where it has left.
    /// Beyond the caller's share, it is among those that go last.
    pub(super) fn keep_told(&self, path: &Path) -> bool {
        self.keep(path, |entry, now, grace| {
            let until = now + grace;
            // Who asks again at once takes for what is added only.
            let more = until.saturating_sub(entry.kept.max(now));
            if more <= grace / 60 {
                return;
            }
            let bytes = u128::from(entry.bytes()) * u128::from(more) / u128::from(grace);
            let bytes = u64::try_from(bytes).unwrap_or(u64::MAX);
            let quota = self.quota();
            let limits = (part(quota, TOLD.0), part(quota, TOLD.1));
            let time = (now / 1000, grace.div_ceil(1000));
            if self.told.take(Behalf::current().caller, bytes, time, limits) {
                entry.kept = until;
            }
        })
    }

    /// Keeps an object for a while that was sent once more; false where it has left.
    pub(super) fn keep_sent(&self, path: &Path) -> bool {
        self.keep(path, |entry, now, grace| entry.kept = entry.kept.max(now + grace))
    }

    fn keep(&self, path: &Path, change: impl FnOnce(&mut Entry, u64, u64)) -> bool {
        let Some(key) = self.places.known(path) else {
            return true;
        };
        let mut shard = self.shard(&key);
        if shard.is_leaving(&key) {
            return false;
        }
        if !self.is_indexed() {
            return true;
        }
        let (now, grace) = (self.now(), millis(self.waits().grace));
        let entry = shard.entries.get_mut(&key);
        entry.is_some_and(|entry| {
            change(entry, now, grace);
            true
        })
    }

    /// Keeps an object that is about to be written, once one of the same name has left. None for what is no object.
    pub(super) async fn hold_place(self: &Arc<Self>, path: &Path) -> Option<Hold> {
        let key = self.places.key(path)?;
        loop {
            let left = self.left.notified();
            let mut left = std::pin::pin!(left);
            left.as_mut().enable();
            if self.shard(&key).hold(key) {
                return Some(Hold {
                    space: Arc::clone(self),
                    key,
                });
            }
            left.await;
        }
    }

    /// Notes that the object was written. It stays for a while whatever happens.
    pub(super) fn stored(&self, hold: &Hold, bytes: u64, room: Room) {
        if self.is_indexed() {
            let now = self.now();
            let entry = Entry {
                used: now,
                kept: now + millis(self.waits().grace),
                noted: seconds(now),
                blocks: blocks(bytes),
            };
            let before = self.shard(&hold.key).entries.insert(hold.key, entry);
            if before.is_none() {
                self.folder_bytes
                    .fetch_add(self.folders.enter(&hold.key), Ordering::AcqRel);
            }
            self.account(entry.bytes(), before.map_or(0, |before| before.bytes()));
        }
        // What was room is an object now.
        drop(room);
        self.ask_for_room();
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

    /// Forgets callers who keep nothing any more.
    pub(super) fn forget_callers(&self) {
        self.told.forget(self.now() / 1000);
        for shard in &self.shards {
            shard.lock().shrink();
        }
    }

    /// Takes an object into the index unless it is there.
    fn find(&self, key: Key, bytes: u64, used: u64, noted: u32) {
        let entry = Entry {
            used,
            kept: 0,
            noted,
            blocks: blocks(bytes),
        };
        if self.shard(&key).find(key, entry) {
            self.folder_bytes.fetch_add(self.folders.enter(&key), Ordering::AcqRel);
            self.account(entry.bytes(), 0);
            self.ask_for_room();
        }
    }

    /// Takes room of the quota; false where there is none.
    fn take(&self, bytes: u64) -> bool {
        let fits = |arriving: u64| {
            let arriving = arriving.checked_add(bytes)?;
            let all = arriving.checked_add(self.kept_bytes())?;
            (all <= self.quota()).then_some(arriving)
        };
        let arriving = &self.arriving;
        arriving.fetch_update(Ordering::AcqRel, Ordering::Acquire, fits).is_ok()
    }

    /// All but what is arriving.
    fn kept_bytes(&self) -> u64 {
        let held = self.held.load(Ordering::Acquire);
        let folders = self.folder_bytes.load(Ordering::Acquire);
        held.saturating_add(folders).saturating_add(self.lingering.bytes())
    }

    fn taken(&self) -> u64 {
        self.kept_bytes().saturating_add(self.arriving.load(Ordering::Acquire))
    }

    fn ask_for_room(&self) {
        let taken = self.taken().saturating_add(self.wanted.load(Ordering::Acquire));
        if taken > part(self.quota(), HIGH) && !self.asked.swap(true, Ordering::AcqRel) {
            // Fails only when the store is about to end.
            let _ended = self.housekeeping.send(Task::Evict);
        }
    }

    fn account(&self, more: u64, less: u64) {
        self.moved(more);
        self.held.fetch_add(more, Ordering::AcqRel);
        self.held.fetch_sub(less, Ordering::AcqRel);
        if let Some(meters) = self.meters() {
            meters.bytes.add(signed(more) - signed(less));
        }
    }

    fn shard(&self, key: &Key) -> MutexGuard<'_, Shard> {
        self.shards[key.spread() % SHARDS].lock()
    }

    /// Bytes that may be held.
    fn quota(&self) -> u64 {
        self.quota.load(Ordering::Acquire)
    }

    fn is_indexed(&self) -> bool {
        self.indexed.load(Ordering::Acquire)
    }

    pub(super) fn meters(&self) -> Option<&Meters> {
        self.told_how.get().map(|(meters, _)| meters)
    }

    fn waits(&self) -> Waits {
        self.told_how.get().map(|(_, waits)| *waits).unwrap_or_default()
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
        if let Some(meters) = self.meters() {
            meters.quota.sub(match self.quota() {
                u64::MAX => 0,
                quota => signed(quota),
            });
        }
    }
}

impl Drop for Hold {
    fn drop(&mut self) {
        let now = self.space.now();
        let moved = self.space.shard(&self.key).let_go(self.key, now);
        self.space.moved(moved);
    }
}

/// So many percent.
fn part(quota: u64, percent: u64) -> u64 {
    match quota {
        u64::MAX => u64::MAX,
        quota => quota / 100 * percent,
    }
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
