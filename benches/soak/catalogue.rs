//! What honest clients push and pull, and what they know of it: whether it must be there.

use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::{Duration, Instant};

use bazel_remote_apis::build::bazel::remote::execution::v2 as reapi;
use parking_lot::Mutex;

use crate::noise::{Blob, Random, digest};

/// Blobs of one instance.
pub(crate) struct Catalogue {
    pub(crate) instance: &'static str,
    begun: Instant,
    /// For how long what was pushed stays for certain; `None` for ever.
    keeps: Option<Duration>,
    items: Mutex<Vec<Arc<Item>>>,
    /// Where blobs of a backend that forgets come from, and when the next one may be pushed.
    fresh: Mutex<(Random, Instant)>,
}

/// A blob and its names.
pub(crate) struct Item {
    pub(crate) blob: Blob,
    pub(crate) digest: reapi::Digest,
    /// When the last push of each was acknowledged: nanoseconds from the beginning; 0 for never.
    marks: [AtomicU64; 2],
}

/// What may be pushed of an item.
#[derive(Clone, Copy, Debug)]
pub(crate) enum Part {
    Blob = 0,
    Action = 1,
}

/// How much may be pushed to a backend that forgets, in bytes a second. What it was given within a minute must fit into its
/// quota.
const FRESH_RATE: f64 = 1.5 * 1024.0 * 1024.0;
/// Items at a time.
const ITEMS: usize = 400;

impl Catalogue {
    /// Some hundred blobs, a few of them large. With a backend that forgets, others take their place as time goes on.
    pub(crate) fn new(instance: &'static str, keeps: Option<Duration>) -> Catalogue {
        let mut random = Random(instance.len() as u64);
        Catalogue {
            instance,
            begun: Instant::now(),
            keeps,
            items: Mutex::new((0..ITEMS).map(|_| Arc::new(Item::new(&mut random))).collect()),
            fresh: Mutex::new((random, Instant::now())),
        }
    }

    /// Any one of them.
    pub(crate) fn pick(&self, random: &mut Random) -> Arc<Item> {
        let items = self.items.lock();
        Arc::clone(&items[random.next() as usize % items.len()])
    }

    /// One that a call may carry with others.
    pub(crate) fn pick_small(&self, random: &mut Random) -> Arc<Item> {
        loop {
            let item = self.pick(random);
            if item.blob.size <= SMALL {
                return item;
            }
        }
    }

    /// One to push: another one each time, where the backend forgets; and `None` if it was given enough for now.
    pub(crate) fn to_push(&self, random: &mut Random) -> Option<Arc<Item>> {
        if self.keeps.is_none() {
            return Some(self.pick(random));
        }
        let mut fresh = self.fresh.lock();
        let (source, next) = &mut *fresh;
        if Instant::now() < *next {
            return None;
        }
        let item = Arc::new(Item::new(source));
        *next = Instant::now() + Duration::from_secs_f64(item.blob.size as f64 / FRESH_RATE);
        drop(fresh);
        let mut items = self.items.lock();
        let place = random.next() as usize % items.len();
        items[place] = Arc::clone(&item);
        Some(item)
    }

    /// Notes that a push was acknowledged.
    pub(crate) fn stored(&self, item: &Item, part: Part) {
        let now = self.begun.elapsed().as_nanos() as u64;
        item.marks[part as usize].store(now.max(1), Ordering::Relaxed);
    }

    /// Whether a call that begins now must find this.
    pub(crate) fn must_have(&self, item: &Item, part: Part) -> bool {
        let is_fresh = |part: Part| match (item.marks[part as usize].load(Ordering::Relaxed), self.keeps) {
            (0, _) => false,
            (_, None) => true,
            (at, Some(keeps)) => self.begun.elapsed() < Duration::from_nanos(at) + keeps,
        };
        is_fresh(Part::Blob) && is_fresh(part)
    }
}

/// Largest blob in a batch.
const SMALL: usize = 32 << 10;

impl Item {
    /// Nine of ten are small; the others have up to 6 MiB.
    fn new(random: &mut Random) -> Item {
        let largest = if random.next().is_multiple_of(10) {
            6 << 20
        } else {
            SMALL
        };
        let blob = Blob {
            seed: random.next(),
            size: 1 + random.next() as usize % largest,
        };
        Item {
            blob,
            digest: digest(&blob.bytes()),
            marks: Default::default(),
        }
    }

    /// The digest of an action whose result it is.
    pub(crate) fn action(&self) -> reapi::Digest {
        digest(&self.blob.seed.to_le_bytes())
    }
}
