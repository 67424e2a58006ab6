//! Room for what arrives.

use std::sync::Arc;
use std::sync::atomic::Ordering;
use std::time::Duration;

use super::Space;
use crate::store::caller::Behalf;

/// Why there is no room.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(in crate::store) enum NoRoom {
    /// Everything that is in use is as large as the quota: nothing can be removed.
    Quota,
    /// The caller has its share of what arrives.
    Share,
}

/// Room that an upload has taken. What became of it is either an object or nothing.
#[derive(Debug)]
pub(in crate::store) struct Room {
    space: Arc<Space>,
    caller: u128,
    /// All that is to come.
    announced: u64,
    /// Of the caller's share: the same, so that what has begun can be finished; nothing where there was no quota.
    share: u64,
    /// Of the quota: what has come.
    bytes: u64,
    /// How often the quota had been lowered when the share was taken.
    lowered: u64,
}

impl Space {
    /// Room for an upload of the current caller, as yet none.
    pub(in crate::store) fn room(self: &Arc<Self>) -> Room {
        Room {
            space: Arc::clone(self),
            caller: Behalf::current().caller,
            announced: 0,
            share: 0,
            bytes: 0,
            lowered: self.lowered.0.load(Ordering::Acquire),
        }
    }

    /// Gives up interrupted uploads that are more than the store keeps.
    pub(super) fn trim_uploads(&self) {
        if let Some(uploads) = self.uploads.upgrade() {
            uploads.trim();
        }
    }

    /// Gives up interrupted uploads that nobody came back to for so long, the oldest first, until so many bytes were given
    /// back; of one caller only, where it is told. How many bytes that were.
    pub(super) fn give_up(&self, caller: Option<u128>, idle: Duration, bytes: u64) -> u64 {
        let uploads = self.uploads.upgrade();
        uploads.map_or(0, |uploads| uploads.give_up(caller, idle, bytes))
    }
}

impl Room {
    /// Whose it is.
    pub(in crate::store) fn caller(&self) -> u128 {
        self.caller
    }

    /// Takes so many bytes of the caller's share for what is about to arrive, and waits a while where there are none. May be
    /// cancelled.
    ///
    /// # Errors
    /// [`NoRoom`].
    pub(in crate::store) async fn announce(&mut self, bytes: u64) -> Result<(), NoRoom> {
        let space = Arc::clone(&self.space);
        let take = |room: &mut Self| {
            let quota = space.quota();
            if quota != u64::MAX && !space.arrivals.take(room.caller, bytes, quota) {
                // What the caller has left behind makes way for what it brings now, and then what others have.
                let given = space.give_up(Some(room.caller), Duration::ZERO, 1);
                if given == 0 {
                    space.give_up(None, space.waits().grace, 1);
                }
                return false;
            }
            room.announced += bytes;
            room.share += if quota == u64::MAX { 0 } else { bytes };
            true
        };
        self.wait(NoRoom::Share, take).await
    }

    /// Takes room of the quota for so many bytes more, and waits a while where there is none. May be cancelled.
    ///
    /// # Errors
    /// [`NoRoom`].
    pub(in crate::store) async fn grow(&mut self, bytes: u64) -> Result<(), NoRoom> {
        let space = Arc::clone(&self.space);
        let take = |room: &mut Self| {
            let taken = space.take(bytes);
            match taken {
                true => room.bytes += bytes,
                // What is free may be little, and still be more than what is always left free.
                false => _ = space.wanted.fetch_max(bytes, Ordering::AcqRel),
            }
            space.ask_for_room();
            taken
        };
        self.wait(NoRoom::Quota, take).await
    }

    /// Comes to its end when the quota was lowered, and what was announced is more than a share of it now. May be cancelled.
    pub(in crate::store) async fn revoked(&mut self) {
        let space = Arc::clone(&self.space);
        let (times, wakes) = &space.lowered;
        loop {
            let lowered = wakes.notified();
            let mut lowered = std::pin::pin!(lowered);
            lowered.as_mut().enable();
            let now = times.load(Ordering::Acquire);
            if self.lowered != now {
                self.lowered = now;
                space.arrivals.give_back(self.caller, self.share);
                self.share = 0;
                if !space.arrivals.take(self.caller, self.announced, space.quota()) {
                    return;
                }
                self.share = self.announced;
            }
            lowered.await;
        }
    }

    async fn wait(&mut self, without: NoRoom, take: impl Fn(&mut Self) -> bool) -> Result<(), NoRoom> {
        let space = Arc::clone(&self.space);
        let deadline = tokio::time::Instant::now() + space.waits().patience;
        loop {
            let left = space.left.notified();
            let mut left = std::pin::pin!(left);
            left.as_mut().enable();
            if take(self) {
                return Ok(());
            }
            if tokio::time::timeout_at(deadline, left).await.is_err() {
                return Err(without);
            }
        }
    }
}

impl Drop for Room {
    fn drop(&mut self) {
        self.space.arriving.fetch_sub(self.bytes, Ordering::AcqRel);
        self.space.arrivals.give_back(self.caller, self.share);
        self.space.left.notify_waiters();
    }
}
