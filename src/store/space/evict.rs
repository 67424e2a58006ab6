//! Makes room: what was not used for the longest time goes first.

use std::sync::Arc;
use std::sync::atomic::Ordering;
use std::time::{Duration, Instant};

use object_store::path::Path;

use crate::store::rarely::Rarely;

use super::{LOW, Space, part};

/// What became of an attempt to make room.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(in crate::store) struct Evicted {
    /// Objects that went.
    pub(in crate::store) objects: u64,
    /// Their bytes.
    pub(in crate::store) bytes: u64,
    /// Bytes that should have gone beside these: what is there is in use.
    pub(in crate::store) short: u64,
    /// How long the youngest of them had not been used, in seconds.
    pub(in crate::store) age: u64,
}

/// Most objects in a row that can't be removed, after which nothing else is tried for now.
const FAILURES: u32 = 16;

/// Gives up what is not needed until the low mark is reached; objects by `remove`. Nothing where there is room.
///
/// Interrupted uploads that nobody came back to go first, and where objects are not enough, all of them.
pub(in crate::store) fn evict<E: std::fmt::Display>(
    space: &Arc<Space>,
    remove: impl Fn(&Path) -> Result<(), E>,
) -> Evicted {
    space.asked.store(false, Ordering::Release);
    let mut evicted = Evicted::default();
    space.trim_uploads();
    space.wait_for_revoked();
    let taken = space.taken().saturating_add(space.wanted.swap(0, Ordering::AcqRel));
    if taken <= part(space.quota(), super::HIGH) {
        return evicted;
    }
    let need = taken.saturating_sub(part(space.quota(), LOW));
    let need = need.saturating_sub(space.give_up(None, space.waits().grace, need));
    evict_objects(space, need, remove, &mut evicted);
    let short = need.saturating_sub(evicted.bytes);
    if short > 0 {
        evicted.short = short.saturating_sub(space.give_up(None, Duration::ZERO, short));
    }
    evicted
}

/// How long uploads that a lowered quota is too small for may take to end.
const REVOKING: Duration = Duration::from_secs(2);

impl Space {
    /// Waits until no more is arriving than may be, so that nothing goes for what has no room in any case.
    fn wait_for_revoked(&self) {
        let end = Instant::now() + REVOKING;
        while self.arriving.load(Ordering::Acquire) > part(self.quota(), super::ARRIVALS.all) && Instant::now() < end {
            std::thread::sleep(Duration::from_millis(10));
        }
    }
}

fn evict_objects<E: std::fmt::Display>(
    space: &Arc<Space>,
    need: u64,
    remove: impl Fn(&Path) -> Result<(), E>,
    evicted: &mut Evicted,
) {
    let Some(until) = last_to_go(space, need) else {
        return;
    };
    // Before the first one goes: who relies on one must not learn of it too late.
    space.removed_until.fetch_max(until, Ordering::AcqRel);
    let now = space.now();
    evicted.age = now.saturating_sub(until) / 1000;
    let mut failures = 0;
    for shard in &space.shards {
        let keys: Vec<_> = {
            let shard = shard.lock();
            let old = shard.entries.iter().filter(|(_, entry)| entry.used <= until);
            old.map(|(key, _)| *key).collect()
        };
        for key in keys {
            if evicted.bytes >= need || failures >= FAILURES {
                return;
            }
            let Some(leaving) = space.leave(key, until) else {
                continue;
            };
            let bytes = leaving.bytes;
            let path = space.places.path(&key);
            match remove(&path) {
                Ok(()) => {
                    leaving.removed();
                    failures = 0;
                    evicted.objects += 1;
                    evicted.bytes += bytes;
                    if let Some(meters) = space.meters() {
                        meters.evicted.inc();
                        meters.evicted_bytes.inc_by(bytes);
                    }
                }
                Err(error) => {
                    static SEEN: Rarely = Rarely::new();
                    failures += 1;
                    if let Some(times) = SEEN.due() {
                        tracing::warn!(target: "casgate::store", %path, %error, times, "can't be removed to make room");
                    }
                }
            }
        }
    }
}

/// The last use of the youngest object that has to go; None where none has to, or can.
///
/// It takes 16 bytes for each object for a moment, which is less than any list in order would take all the time.
fn last_to_go(space: &Space, need: u64) -> Option<u64> {
    if need == 0 {
        return None;
    }
    let now = space.now();
    let mut uses: Vec<(u64, u64)> = Vec::new();
    for shard in &space.shards {
        let shard = shard.lock();
        let free = shard
            .entries
            .iter()
            .filter(|(key, entry)| !shard.is_kept(key, entry, now));
        uses.extend(free.map(|(_, entry)| (entry.used, entry.bytes())));
    }
    uses.sort_unstable();
    let mut bytes = 0;
    let last = uses.iter().find(|(_, size)| {
        bytes += size;
        bytes >= need
    });
    last.or(uses.last()).map(|(used, _)| *used)
}
