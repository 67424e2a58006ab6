//! A walk through a tree of `Directory` messages in the CAS.

use std::collections::HashSet;
use std::sync::Arc;
use std::time::{Duration, Instant};

use bytes::Bytes;
use moka::sync::Cache;
use tokio::sync::{OwnedSemaphorePermit, Semaphore};

use super::blobs::Blobs;
use super::caller::Behalf;
use super::digest::BlobDigest;
use super::fault::Fault;
use super::instance::Instance;
use super::memory::{self, Memory, Reserve};
use crate::wire::TooMuch;
use crate::wire::tree::{self, DigestOf, Kind};

/// Largest `Directory` that is read, in bytes. Clients don't take larger messages either.
const LARGEST: u64 = 4 << 20;

/// Most directories in one walk. The walk remembers the hash of each.
const MOST: usize = 1 << 19;

/// Most bytes of directories in one walk.
const MOST_BYTES: u64 = 256 << 20;

/// How deep directories may lie: paths of most systems have 4096 bytes, half of them slashes.
const DEEPEST: u32 = 2048;

/// How long a walk may take.
const LONGEST: Duration = Duration::from_secs(120);

/// Walks of one caller at a time. Others of the same caller wait.
const AT_ONCE: usize = 4;

/// What a walk remembers of a directory, in bytes; it is reserved for so many at a time.
const REMEMBERED: u64 = 128;
const STEP: usize = 1024;

/// The turns of all callers.
#[derive(Clone, Debug)]
pub(super) struct Turns(Cache<u128, Arc<Semaphore>>);

impl Turns {
    pub(super) fn new() -> Self {
        // Longer than any walk: a caller that is forgotten has none.
        let cache = Cache::builder().time_to_idle(2 * LONGEST).max_capacity(100_000);
        Self(cache.build())
    }

    /// A turn of the caller of the call that runs.
    pub(super) async fn take(&self) -> Result<OwnedSemaphorePermit, Fault> {
        let turns = self
            .0
            .get_with(Behalf::current().caller, || Arc::new(Semaphore::new(AT_ONCE)));
        // It is never closed.
        turns.acquire_owned().await.map_err(|_| Fault::NoMemory)
    }
}

/// Visits every directory below a root once, parents before children.
///
/// Memory is bounded by 2^19 digests and one directory.
#[derive(Debug)]
pub(super) struct Walk {
    blobs: Blobs,
    instance: Instance,
    pending: Vec<(BlobDigest, u32)>,
    seen: HashSet<[u8; 32]>,
    bytes: u64,
    begun: Instant,
    memory: Arc<dyn Memory>,
    /// Reserved for what is remembered.
    room: Box<dyn Reserve>,
    _turn: OwnedSemaphorePermit,
}

/// One stop of a [`Walk`].
#[derive(Debug)]
pub(super) enum Stop {
    /// A directory that is here, as it stands in the CAS.
    Present(BlobDigest, Bytes),
    /// A directory that is not here, or whose parent names it by a malformed digest.
    Missing,
}

impl Walk {
    /// # Errors
    /// [`Fault::NoMemory`].
    pub(super) fn new(
        blobs: Blobs,
        instance: Instance,
        root: BlobDigest,
        turn: OwnedSemaphorePermit,
    ) -> Result<Self, Fault> {
        let memory = memory::of_caller()?;
        Ok(Self {
            blobs,
            instance,
            pending: vec![(root, 0)],
            seen: HashSet::from([root.hash()]),
            bytes: 0,
            begun: Instant::now(),
            room: memory.reservation(),
            memory,
            _turn: turn,
        })
    }

    /// What may be kept for whoever walks.
    pub(super) fn memory(&self) -> &dyn Memory {
        &*self.memory
    }

    /// The next directory; None after the last.
    ///
    /// # Errors
    /// [`Fault::NotA`], [`Fault::TooLarge`], [`Fault::TreeTooLarge`] and [`Fault::NoMemory`]; storage faults.
    pub(super) async fn next(&mut self) -> Result<Option<Stop>, Fault> {
        let Some((digest, depth)) = self.pending.pop() else {
            return Ok(None);
        };
        if digest.size() > LARGEST {
            return Err(Fault::TooLarge {
                digest,
                kind: "Directory",
                limit: LARGEST,
            });
        }
        self.bytes = self.bytes.saturating_add(digest.size());
        if self.bytes > MOST_BYTES || depth > DEEPEST || self.begun.elapsed() > LONGEST {
            return Err(Fault::TreeTooLarge);
        }
        let Some(bytes) = self.blobs.load(&self.instance, &digest).await? else {
            return Ok(Some(Stop::Missing));
        };
        let first = self.pending.len();
        let noted = tree::read(Kind::Directory, &bytes, |entry| match entry.is_directory {
            true => self.note(entry.digest.as_ref(), depth + 1),
            false => Ok(()),
        });
        noted.map_err(|stopped| match stopped {
            Stopped::NoDirectory => Fault::NotA {
                digest,
                kind: "Directory",
            },
            Stopped::Fault(fault) => fault,
        })?;
        // The first child comes next.
        if let Some(children) = self.pending.get_mut(first..) {
            children.reverse();
        }
        Ok(Some(Stop::Present(digest, bytes)))
    }

    /// Notes a directory, unless it was met before.
    fn note(&mut self, digest: Option<&DigestOf<'_>>, depth: u32) -> Result<(), Stopped> {
        // A child without a readable digest can't be here. It is met again as a blob of no bytes whose hash is not that of
        // no bytes.
        let child = digest.and_then(BlobDigest::named).unwrap_or(BlobDigest::NOWHERE);
        if !self.seen.insert(child.hash()) {
            return Ok(());
        }
        if self.seen.len() > MOST {
            return Err(Stopped::Fault(Fault::TreeTooLarge));
        }
        if self.seen.len().is_multiple_of(STEP) && !self.room.grow(REMEMBERED * STEP as u64) {
            return Err(Stopped::Fault(Fault::NoMemory));
        }
        self.pending.push((child, depth));
        Ok(())
    }
}

/// Why a directory is not read to its end.
enum Stopped {
    NoDirectory,
    Fault(Fault),
}

impl From<TooMuch> for Stopped {
    fn from(_: TooMuch) -> Self {
        Stopped::NoDirectory
    }
}
