//! Blobs in the object store: `cas/<instance>/<2 hex>/<hash>-<size>`.

use std::fs::File;
use std::io::{Read, Seek, SeekFrom};
use std::ops::Range;

use bytes::Bytes;
use futures_util::StreamExt;
use futures_util::stream::{self, BoxStream};
use object_store::GetResultPayload;
use object_store::path::Path;

use super::digest::{BlobDigest, Hasher};
use super::fault::Fault;
use super::instance::Instance;
use super::objects::{Found, Objects};
use super::rarely::Rarely;
use super::space::Hold;
use super::upload::Upload;

/// Most bytes in one piece of a blob that is read, and so in one `ReadResponse`. Clients take
/// messages of 4 MiB; smaller ones keep the memory of a stream small.
pub(super) const PIECE: usize = 256 << 10;

/// The bytes of a blob, in pieces of at most [`PIECE`].
pub(super) type Pieces = BoxStream<'static, Result<Bytes, Fault>>;

/// All blobs of all instances.
#[derive(Clone, Debug)]
pub(super) struct Blobs {
    objects: Objects,
}

impl Blobs {
    pub(super) fn new(objects: Objects) -> Self {
        Self { objects }
    }

    /// Whether the whole blob is here. A file of another size is not the blob: it counts as
    /// missing, so that it is uploaded again.
    pub(super) async fn holds(&self, instance: &Instance, digest: &BlobDigest) -> Result<bool, Fault> {
        if *digest == BlobDigest::EMPTY {
            return Ok(true);
        }
        let size = self.objects.size(&path(instance, digest)).await?;
        Ok(size.is_some_and(|size| whole(digest, size)))
    }

    /// The bytes of `range`, which lies within the blob, or None where the blob isn't here.
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
        let Found { result, hold } = found;
        let range = result.range;
        Ok(Some(match result.payload {
            GetResultPayload::File(file, _) => from_file(*digest, file, range, hold),
            GetResultPayload::Stream(pieces) => from_stream(pieces, hold),
        }))
    }

    /// The whole blob in memory, or None where it isn't here. The caller has checked the size.
    pub(super) async fn load(&self, instance: &Instance, digest: &BlobDigest) -> Result<Option<Bytes>, Fault> {
        if *digest == BlobDigest::EMPTY {
            return Ok(Some(Bytes::new()));
        }
        if digest.size() == 0 {
            return Ok(None);
        }
        match self.find(instance, digest, 0..digest.size()).await? {
            Some(found) => Ok(Some(found.result.bytes().await?)),
            None => Ok(None),
        }
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
        if !self.holds(instance, digest).await? {
            self.objects.put(&path(instance, digest), data.into()).await?;
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

/// Reads a file in pieces. One read of a quarter of a megabyte keeps a blocking thread for well under a
/// millisecond, and holds no more than that for a stream whose client is slow.
fn from_file(digest: BlobDigest, file: File, range: Range<u64>, hold: Option<Hold>) -> Pieces {
    let state = Some((file, range, hold));
    stream::try_unfold(state, move |state| async move {
        let Some((mut file, range, hold)) = state else {
            return Ok(None);
        };
        let wanted = (range.end - range.start).min(PIECE as u64);
        if wanted == 0 {
            return Ok(None);
        }
        let read = tokio::task::spawn_blocking(move || {
            let mut piece = Vec::with_capacity(PIECE.min(wanted as usize));
            file.seek(SeekFrom::Start(range.start))?;
            (&mut file).take(wanted).read_to_end(&mut piece)?;
            Ok::<_, std::io::Error>((file, piece))
        });
        let (file, piece) = match read.await {
            Ok(Ok(read)) => read,
            Ok(Err(error)) => return Err(storage(error)),
            Err(error) => return Err(storage(error)),
        };
        if piece.len() as u64 != wanted {
            return Err(Fault::Damaged(digest));
        }
        let rest = range.start + wanted..range.end;
        Ok(Some((Bytes::from(piece), Some((file, rest, hold)))))
    })
    .boxed()
}

/// Cuts what a store streams into pieces: the memory store gives a blob as one.
fn from_stream(pieces: BoxStream<'static, object_store::Result<Bytes>>, hold: Option<Hold>) -> Pieces {
    let state = (pieces, Bytes::new(), hold);
    stream::try_unfold(state, |(mut pieces, mut rest, hold)| async move {
        while rest.is_empty() {
            match pieces.next().await {
                Some(piece) => rest = piece?,
                None => return Ok(None),
            }
        }
        let piece = rest.split_to(rest.len().min(PIECE));
        Ok(Some((piece, (pieces, rest, hold))))
    })
    .boxed()
}

fn storage(error: impl std::error::Error + Send + Sync + 'static) -> Fault {
    Fault::Storage(object_store::Error::Generic {
        store: "file",
        source: Box::new(error),
    })
}
