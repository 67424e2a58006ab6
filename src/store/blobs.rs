//! Blobs in the object store: `cas/<instance>/<2 hex>/<hash>-<size>`.
//!
//! The disk is an input like any other: what is read as a whole is hashed on its way, and its last bytes go out only where
//! the hash is that of the name. A part of a blob can't be checked.

use std::collections::HashSet;
use std::io::{Read, Seek, SeekFrom};
use std::ops::Range;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};

use bytes::{Bytes, BytesMut};
use futures_util::stream::{self, BoxStream};
use futures_util::{StreamExt, TryStreamExt};
use object_store::path::Path;
use object_store::{GetResultPayload, ObjectStore, ObjectStoreExt};
use parking_lot::Mutex;

use super::caller::Behalf;
use super::digest::{BlobDigest, Hasher};
use super::fault::Fault;
use super::instance::Instance;
use super::objects::{Found, Objects};
use super::rarely::Rarely;
use super::space::{Reader, Source};
use super::upload::Upload;

/// Most bytes in one piece of a blob that is read, and so in one `ReadResponse`. Clients take
/// messages of 4 MiB; smaller ones keep the memory of a stream small.
pub(super) const PIECE: usize = 128 << 10;

/// The largest blob that is read once more before a caller that wants to push it again is told that it is here, in bytes.
const LARGEST_CHECK: u64 = 64 << 20;

/// Callers for whom that is done at a time, each for one blob. A message of 100 bytes asks for it: who asks for more is told
/// by its size that a blob is here, and waits for nobody.
const CHECKS: usize = 4;

/// The bytes of a blob, in pieces of at most [`PIECE`].
pub(super) type Pieces = BoxStream<'static, Result<Bytes, Fault>>;

/// All blobs of all instances.
#[derive(Clone, Debug)]
pub(super) struct Blobs {
    objects: Objects,
    /// Whether what is read from the disk is checked.
    verifies: Arc<AtomicBool>,
    /// For whom a blob is read at this time.
    checks: Arc<Mutex<HashSet<u128>>>,
}

impl Blobs {
    pub(super) fn new(objects: Objects) -> Self {
        Self {
            objects,
            verifies: Arc::new(AtomicBool::new(true)),
            checks: Arc::default(),
        }
    }

    /// From now on, whether what is read from the disk is checked.
    pub(super) fn set_verify(&self, verifies: bool) {
        self.verifies.store(verifies, Ordering::Relaxed);
    }

    /// Whether the whole blob is here. A file of another size is not the blob: it counts as
    /// missing, so that it is uploaded again. Where it is here it stays for a while: the caller is told so.
    pub(super) async fn holds(&self, instance: &Instance, digest: &BlobDigest) -> Result<bool, Fault> {
        if *digest == BlobDigest::EMPTY {
            return Ok(true);
        }
        let path = path(instance, digest);
        let size = self.objects.size(&path).await?;
        Ok(size.is_some_and(|size| whole(digest, size)) && self.objects.keep_told(&path))
    }

    /// The same, for a caller that would send the blob: one that is damaged is removed, and not here. As far as it is looked
    /// at: not every blob is, and not for everybody at once.
    pub(super) async fn holds_sound(&self, instance: &Instance, digest: &BlobDigest) -> Result<bool, Fault> {
        let holds = self.holds(instance, digest).await?;
        if !holds || digest.size() > LARGEST_CHECK {
            return Ok(holds);
        }
        match Turn::take(&self.checks) {
            Some(_turn) => self.holds_intact(instance, digest).await,
            None => Ok(holds),
        }
    }

    /// The same, for a caller that has sent the blob, and so as much as is read for it.
    async fn holds_intact(&self, instance: &Instance, digest: &BlobDigest) -> Result<bool, Fault> {
        let holds = self.holds(instance, digest).await?;
        if !holds || *digest == BlobDigest::EMPTY || !self.verifies.load(Ordering::Relaxed) {
            return Ok(holds);
        }
        let Some(pieces) = self.read(instance, digest, 0..digest.size()).await? else {
            return Ok(false);
        };
        match pieces.try_for_each(|_| std::future::ready(Ok(()))).await {
            Ok(()) => Ok(true),
            Err(Fault::Damaged(_) | Fault::Evicted(_)) => Ok(false),
            Err(fault) => Err(fault),
        }
    }

    /// The bytes of `range`, which lies within the blob, or None where the blob isn't here. Of the whole blob, the last
    /// bytes are [`Fault::Damaged`] where it is not what it was.
    pub(super) async fn read(
        &self,
        instance: &Instance,
        digest: &BlobDigest,
        range: Range<u64>,
    ) -> Result<Option<Pieces>, Fault> {
        if range.is_empty() {
            let here = self.holds(instance, digest).await?;
            return Ok(here.then(|| stream::empty().boxed()));
        }
        let Some(found) = self.find(instance, digest, range).await? else {
            return Ok(None);
        };
        let Found { result, reader } = found;
        let range = result.range;
        let is_whole = range == (0..digest.size());
        let (source, checked) = match result.payload {
            GetResultPayload::File(file, _) => (Source::File(file), is_whole && self.verifies.load(Ordering::Relaxed)),
            GetResultPayload::Stream(pieces) => (Source::Pieces(pieces), false),
        };
        reader.open(source);
        let reading = Reading {
            objects: self.objects.clone(),
            path: path(instance, digest),
            digest: *digest,
            reader,
            range,
            hasher: checked.then(Hasher::new),
            rest: Bytes::new(),
        };
        Ok(Some(stream::try_unfold(reading, Reading::next).boxed()))
    }

    /// The whole blob in memory, or None where it isn't here. The caller has checked the size.
    pub(super) async fn load(&self, instance: &Instance, digest: &BlobDigest) -> Result<Option<Bytes>, Fault> {
        if *digest == BlobDigest::EMPTY {
            return Ok(Some(Bytes::new()));
        }
        if digest.size() == 0 {
            return Ok(None);
        }
        let Some(mut pieces) = self.read(instance, digest, 0..digest.size()).await? else {
            return Ok(None);
        };
        let Some(first) = pieces.try_next().await? else {
            return Ok(None);
        };
        if first.len() as u64 == digest.size() {
            return Ok(Some(first));
        }
        let mut all = BytesMut::from(first);
        while let Some(piece) = pieces.try_next().await? {
            all.extend_from_slice(&piece);
        }
        Ok(Some(all.freeze()))
    }

    /// Stores a blob that is in memory.
    ///
    /// # Errors
    /// [`Fault::WrongContent`] where `data` is not what `digest` says: nothing is stored.
    pub(super) async fn store(&self, instance: &Instance, digest: &BlobDigest, data: Bytes) -> Result<(), Fault> {
        let mut hasher = Hasher::new();
        hasher.update(&data);
        let actual = hasher.finish();
        if actual != *digest {
            return Err(Fault::WrongContent {
                expected: *digest,
                actual,
            });
        }
        let path = path(instance, digest);
        if !self.holds_intact(instance, digest).await? || !self.objects.keep_sent(&path) {
            self.objects.put(&path, data.into()).await?;
        }
        Ok(())
    }

    /// Whether a blob of this size can be stored at all.
    ///
    /// # Errors
    /// [`Fault::OverQuota`].
    pub(super) fn check_size(&self, digest: &BlobDigest) -> Result<(), Fault> {
        self.objects.check_size(digest.size())
    }

    /// Begins a blob that arrives piece by piece.
    pub(super) fn upload(&self, instance: &Instance, digest: &BlobDigest) -> Upload {
        Upload::new(self.objects.clone(), path(instance, digest), *digest)
    }

    async fn find(&self, instance: &Instance, digest: &BlobDigest, range: Range<u64>) -> Result<Option<Found>, Fault> {
        let path = path(instance, digest);
        match self.objects.get(&path, Some(range)).await {
            Ok(found) => Ok(found.filter(|found| whole(digest, found.result.meta.size))),
            // A file so short that the range lies outside it is as good as none.
            Err(fault) => match self.objects.size(&path).await {
                Ok(Some(size)) if !whole(digest, size) => Ok(None),
                Ok(_) | Err(_) => Err(fault),
            },
        }
    }
}

/// A caller for whom a blob is read, until dropped.
struct Turn {
    checks: Arc<Mutex<HashSet<u128>>>,
    caller: u128,
}

impl Turn {
    fn take(checks: &Arc<Mutex<HashSet<u128>>>) -> Option<Self> {
        let caller = Behalf::current().caller;
        let mut taken = checks.lock();
        (taken.len() < CHECKS && taken.insert(caller)).then(|| Self {
            checks: Arc::clone(checks),
            caller,
        })
    }
}

impl Drop for Turn {
    fn drop(&mut self) {
        self.checks.lock().remove(&self.caller);
    }
}

/// A blob that is read, piece by piece.
struct Reading {
    objects: Objects,
    path: Path,
    digest: BlobDigest,
    reader: Arc<Reader>,
    range: Range<u64>,
    /// Where the whole is read, and checked.
    hasher: Option<Hasher>,
    /// Of what is in memory, which comes as one.
    rest: Bytes,
}

impl Reading {
    async fn next(mut self) -> Result<Option<(Bytes, Self)>, Fault> {
        if self.range.is_empty() {
            return Ok(None);
        }
        let piece = match self.reader.take() {
            Some(Source::File(file)) => self.next_of_file(file).await?,
            Some(Source::Pieces(pieces)) => self.next_in_memory(pieces).await?,
            None => return Err(Fault::Evicted(self.digest)),
        };
        self.range.start += piece.len() as u64;
        Ok(Some((piece, self)))
    }

    /// One read of 128 KiB keeps a blocking thread for about half a millisecond, and holds no more than that for a
    /// stream whose client is slow.
    async fn next_of_file(&mut self, mut file: std::fs::File) -> Result<Bytes, Fault> {
        let (start, left) = (self.range.start, self.range.end - self.range.start);
        let wanted = left.min(PIECE as u64);
        let (hasher, reader) = (self.hasher.take(), Arc::clone(&self.reader));
        let (last, digest) = (wanted == left, self.digest);
        let read = tokio::task::spawn_blocking(move || {
            let mut piece = Vec::with_capacity(PIECE.min(wanted as usize));
            file.seek(SeekFrom::Start(start))?;
            (&mut file).take(wanted).read_to_end(&mut piece)?;
            let is_complete = piece.len() as u64 == wanted;
            let (hasher, is_it) = match hasher {
                None => (None, true),
                Some(mut hasher) => {
                    hasher.update(&piece);
                    match last {
                        true => (None, hasher.finish() == digest),
                        false => (Some(hasher), true),
                    }
                }
            };
            // The reader is let go by whoever works with the file, not by the call, which may be gone.
            reader.give_back(Source::File(file));
            Ok::<_, std::io::Error>((piece, hasher, is_complete && is_it))
        });
        let fault = match read.await {
            Ok(Ok((piece, hasher, true))) => {
                self.hasher = hasher;
                return Ok(Bytes::from(piece));
            }
            Ok(Ok((_, _, false))) => Fault::Damaged(self.digest),
            Ok(Err(error)) => storage(error),
            Err(error) => return Err(storage(error)),
        };
        let (path, digest) = (self.path.clone(), self.digest);
        let check = |store| async move { is_damaged(store, path, digest).await };
        self.objects.remove_damaged(&self.path, check).await?;
        Err(fault)
    }

    async fn next_in_memory(
        &mut self,
        mut pieces: BoxStream<'static, object_store::Result<Bytes>>,
    ) -> Result<Bytes, Fault> {
        while self.rest.is_empty() {
            match pieces.next().await {
                Some(piece) => self.rest = piece?,
                None => return Err(Fault::Damaged(self.digest)),
            }
        }
        self.reader.give_back(Source::Pieces(pieces));
        Ok(self.rest.split_to(self.rest.len().min(PIECE)))
    }
}

/// Whether a file has not the digest of its name, or the disk can't read it. What can't be told now is not damaged.
async fn is_damaged(store: Arc<dyn ObjectStore>, path: Path, digest: BlobDigest) -> bool {
    let Ok(found) = store.get(&path).await else {
        return false;
    };
    let GetResultPayload::File(mut file, _) = found.payload else {
        return false;
    };
    let check = move || match Hasher::of_file(&mut file, |_| ()) {
        Ok(actual) => actual != digest,
        Err(error) => error.raw_os_error() == Some(rustix::io::Errno::IO.raw_os_error()),
    };
    let damaged = tokio::task::spawn_blocking(check).await.unwrap_or(false);
    if damaged {
        static SEEN: Rarely = Rarely::new();
        if let Some(times) = SEEN.due() {
            tracing::error!(target: "casgate::store", %path, times, "the disk has not kept a blob: it is removed");
        }
    }
    damaged
}

fn path(instance: &Instance, digest: &BlobDigest) -> Path {
    by_digest("cas", instance, digest)
}

/// Where the object for `digest` lies among those of one kind: in one of 256 directories, so that
/// none gets too large.
pub(super) fn by_digest(kind: &str, instance: &Instance, digest: &BlobDigest) -> Path {
    let hex = digest.hex();
    let file = format!("{hex}-{}", digest.size());
    Path::from_iter([kind, instance.segment(), &hex[..2], &file])
}

fn whole(digest: &BlobDigest, size: u64) -> bool {
    let whole = digest.size() == size;
    if !whole {
        static SEEN: Rarely = Rarely::new();
        if let Some(times) = SEEN.due() {
            tracing::warn!(%digest, size, times, "a stored blob has another size: it is not served");
        }
    }
    whole
}

fn storage(error: impl std::error::Error + Send + Sync + 'static) -> Fault {
    Fault::Storage(object_store::Error::Generic {
        store: "file",
        source: Box::new(error),
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_caller_has_one_blob_at_a_time_read_for_it() {
        let checks = Arc::default();
        let first = Turn::take(&checks);
        assert!(first.is_some());
        assert!(Turn::take(&checks).is_none());
        drop(first);
        assert!(Turn::take(&checks).is_some());
        checks.lock().extend(1..=CHECKS as u128);
        assert!(Turn::take(&checks).is_none(), "enough is read for others");
    }
}
