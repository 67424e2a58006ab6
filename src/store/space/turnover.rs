//! How far the order in which objects leave has moved on.

use std::sync::atomic::Ordering;

use super::{Space, part};

/// How much of the quota may move behind what was used, in percent, until that must be used again to stay. Far less than what
/// is there: at once all that exceeds [`LOW`](super::LOW) is removed.
const LITTLE: u64 = 5;

/// A moment in the life of a store.
#[derive(Clone, Copy, Debug, Default)]
pub(in crate::store) struct Mark {
    time: u64,
    turnover: u64,
}

impl Space {
    /// This moment.
    pub(in crate::store) fn mark(&self) -> Mark {
        Mark {
            // What moves in between counts as after the mark, as it must.
            turnover: self.turnover.load(Ordering::Acquire),
            time: self.now(),
        }
    }

    /// Whether all that was used after `mark` is still there, and safe without another use.
    ///
    /// A time alone can't tell: a store that nobody used for a night is renewed in a minute of the morning.
    pub(in crate::store) fn keeps_since(&self, mark: Mark) -> bool {
        let moved = self.turnover.load(Ordering::Acquire).saturating_sub(mark.turnover);
        self.removed_until.load(Ordering::Acquire) < mark.time && moved < part(self.quota(), LITTLE)
    }

    /// Notes that so many bytes became the youngest.
    pub(super) fn moved(&self, bytes: u64) {
        // Most uses move nothing, and the number is shared by all of them.
        if bytes > 0 {
            self.turnover.fetch_add(bytes, Ordering::AcqRel);
        }
    }
}

#[cfg(test)]
mod tests {
    #![expect(clippy::unwrap_used, reason = "tests")]
    use std::sync::mpsc::channel;
    use std::sync::{Arc, Weak};

    use object_store::path::Path;

    use super::*;
    use crate::store::space::{BLOCK, Waits, evict};
    use crate::store::tests::meters;

    const QUOTA: u64 = 1000 * BLOCK;

    fn space() -> Arc<Space> {
        let space = Space::new(channel().0, Weak::new());
        assert!(space.set_quota(Some(QUOTA), meters(), Waits::default()));
        Arc::new(space)
    }

    fn path(number: u64) -> Path {
        Path::from(format!("cas/_/{:02x}/{number:064x}-5", 0))
    }

    /// Takes in objects of one block each that were used at `used`.
    fn fill(space: &Space, numbers: std::ops::Range<u64>, used: u64) {
        for number in numbers {
            space.find(space.places.key(&path(number)).unwrap(), 1, used, 0);
        }
    }

    #[test]
    fn what_was_used_is_safe_until_a_little_of_the_quota_is_renewed() {
        let space = space();
        let now = space.now();
        let mark = space.mark();
        assert!(space.keeps_since(mark));
        // Nothing was ever removed, and yet what was used at the mark may be the next to go.
        fill(&space, 0..49, now);
        assert!(space.keeps_since(mark));
        fill(&space, 49..50, now);
        assert!(!space.keeps_since(mark));
        assert!(space.keeps_since(space.mark()));
    }

    #[test]
    fn uses_of_what_is_old_move_what_was_used_to_the_front() {
        let space = space();
        let old = space.now() - 3_600_000;
        fill(&space, 0..100, old);
        let mark = space.mark();
        for number in 0..100 {
            assert_eq!(space.keeps_since(mark), number < 50, "{number}");
            assert!(space.touch(&path(number)));
        }
        // Again at once: nothing moves.
        let mark = space.mark();
        for number in 0..100 {
            assert!(space.touch(&path(number)));
        }
        assert!(space.keeps_since(mark));
    }

    #[test]
    fn what_was_removed_is_not_safe() {
        let space = space();
        let mark = space.mark();
        let later = mark.time + 1;
        fill(&space, 0..960, later);
        let fresh = Mark {
            turnover: space.mark().turnover,
            ..mark
        };
        assert!(space.keeps_since(fresh));
        evict(&space, |_| Ok::<_, String>(()));
        assert!(!space.keeps_since(fresh));
    }

    #[test]
    fn a_disk_that_removes_nothing_is_not_asked_for_everything() {
        let space = space();
        fill(&space, 0..960, 1);
        let tried = std::cell::Cell::new(0);
        let evicted = evict(&space, |_| {
            tried.set(tried.get() + 1);
            Err("EIO")
        });
        assert_eq!((evicted.objects, tried.get()), (0, 16));
        assert!(evicted.short > 0);
    }
}
