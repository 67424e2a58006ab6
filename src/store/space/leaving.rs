//! Objects on their way out.

use std::sync::Arc;
use std::sync::atomic::Ordering;

use object_store::path::Path;

use super::Space;
use super::key::Key;

/// An object that leaves. It belongs into the work that removes its file: what is written in its place waits until this is
/// dropped.
#[derive(Debug)]
pub(in crate::store) struct Leaving {
    space: Arc<Space>,
    pub(super) key: Key,
    pub(super) bytes: u64,
    removed: bool,
}

impl Space {
    /// Marks an object as leaving; None where somebody reads or writes it, or relies on it.
    pub(in crate::store) fn dismiss(self: &Arc<Self>, path: &Path) -> Option<Leaving> {
        let key = self.places.known(path)?;
        self.leave(key, u64::MAX)
    }

    /// Marks an object as leaving that is not what it was: whoever reads it or relies on it. None where it is being written
    /// anew.
    pub(in crate::store) fn condemn(self: &Arc<Self>, path: &Path) -> Option<Leaving> {
        let key = self.places.key(path)?;
        let bytes = self.shard(&key).condemn(key)?;
        // Who relies on what was used before must look again.
        self.removed_until.fetch_max(self.now(), Ordering::AcqRel);
        Some(self.leaving(key, bytes))
    }

    /// The same as [`dismiss`](Self::dismiss), unless it was used after `until`.
    pub(super) fn leave(self: &Arc<Self>, key: Key, until: u64) -> Option<Leaving> {
        let now = self.now();
        let bytes = self.shard(&key).leave(key, until, now)?;
        Some(self.leaving(key, bytes))
    }

    fn leaving(self: &Arc<Self>, key: Key, bytes: u64) -> Leaving {
        Leaving {
            space: Arc::clone(self),
            key,
            bytes,
            removed: false,
        }
    }
}

impl Leaving {
    /// Its file is gone: so is the object. Without this, it stays.
    pub(in crate::store) fn removed(mut self) {
        self.removed = true;
    }
}

impl Drop for Leaving {
    fn drop(&mut self) {
        let space = &self.space;
        let now = space.now();
        let left = space.shard(&self.key).left(self.key, self.removed, now);
        if let Some((bytes, readers)) = left {
            space
                .folder_bytes
                .fetch_sub(space.folders.leave(&self.key), Ordering::AcqRel);
            // The disk has its bytes until the last reader ends.
            space.linger(bytes, readers);
            space.account(0, bytes);
        }
        space.left.notify_waiters();
    }
}
