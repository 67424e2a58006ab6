//! One blob on its way in.

use bytes::{Bytes, BytesMut};
use futures_util::FutureExt;
use object_store::path::Path;
use object_store::{MultipartUpload, PutPayload, UploadPart};
use tokio::runtime::Handle;

use super::digest::{BlobDigest, Hasher};
use super::fault::Fault;
use super::memory::{self, Reserve};
use super::objects::Objects;
use super::space::Room;

/// Bytes that are collected before they go to the object store. A blob of less is written in one
/// go, without a multipart upload and without an open file in between.
///
/// Stores in the cloud want parts of at least 5 MiB; this will have to come with the store then.
pub(super) const PART: usize = 512 << 10;

/// Pieces of fewer bytes are copied together. A client may send its bytes one by one, and each piece takes 80 bytes besides.
const SMALL: usize = 16 << 10;

/// A blob of which a prefix has arrived.
///
/// Nothing is visible before [`finish`](Self::finish) has compared size and hash; dropped before
/// that, it removes what it had written.
#[derive(Debug)]
pub(super) struct Upload {
    objects: Objects,
    path: Path,
    digest: BlobDigest,
    /// As large as what has been received. None only once the blob is finished.
    room: Option<Room>,
    /// Its size was told to the room.
    announced: bool,
    state: State,
}

struct State {
    hasher: Hasher,
    received: u64,
    /// Received, hashed, and not yet given to the object store.
    buffer: Vec<Bytes>,
    /// Small pieces that came behind it.
    tail: BytesMut,
    /// Bytes of both.
    buffered: usize,
    /// What is buffered or on its way, of the caller that began.
    reserved: Option<Box<dyn Reserve>>,
    multipart: Option<Box<dyn MultipartUpload>>,
    /// A part on its way. It lives here, not on the stack of a call: where the call is cancelled,
    /// the part is finished by whoever goes on.
    in_flight: Option<UploadPart>,
    /// A part was lost, so no more can come of this.
    broken: bool,
}

impl Upload {
    pub(super) fn new(objects: Objects, path: Path, digest: BlobDigest) -> Self {
        Self {
            room: Some(objects.room()),
            announced: false,
            objects,
            path,
            digest,
            state: State {
                hasher: Hasher::new(),
                received: 0,
                buffer: Vec::new(),
                tail: BytesMut::new(),
                buffered: 0,
                reserved: None,
                multipart: None,
                in_flight: None,
                broken: false,
            },
        }
    }

    /// Bytes that have arrived: the committed size of ByteStream.
    pub(super) fn received(&self) -> u64 {
        self.state.received
    }

    /// Bytes held in memory.
    pub(super) fn buffered(&self) -> usize {
        self.state.buffered
    }

    /// Whose it is.
    pub(super) fn caller(&self) -> u128 {
        self.room.as_ref().map_or(0, Room::caller)
    }

    /// Comes to its end when the store has become too small for it: it is over then. May be cancelled.
    pub(super) async fn revoked(&mut self) {
        match &mut self.room {
            Some(room) => room.revoked().await,
            None => std::future::pending().await,
        }
        self.state.broken = true;
    }

    /// Whether more bytes can make a blob of it.
    pub(super) fn is_usable(&self) -> bool {
        !self.state.broken
    }

    /// Takes the next bytes. May be cancelled: then either all of `data` has arrived or none.
    ///
    /// # Errors
    /// [`Fault::WrongSize`] where the blob gets longer than its digest says, and storage faults;
    /// both end the upload. [`Fault::NoRoom`], after which it may go on.
    pub(super) async fn push(&mut self, data: Bytes) -> Result<(), Fault> {
        if data.is_empty() {
            return Ok(());
        }
        self.settle().await?;
        let received = self.state.received + data.len() as u64;
        if received > self.digest.size() {
            self.state.broken = true;
            return Err(Fault::WrongSize {
                expected: self.digest,
                received,
            });
        }
        let Some(room) = &mut self.room else {
            return Ok(());
        };
        if !self.announced {
            room.announce(self.digest.size()).await?;
            self.announced = true;
        }
        room.grow(data.len() as u64).await?;
        // Where nothing more may be kept, it is written at once: so long its message is reserved anyway.
        let may_stay = self.state.reserve(data.len() as u64)?;
        let full = self.state.buffered + data.len() >= PART || !may_stay;
        let whole = received == self.digest.size() && self.state.multipart.is_none();
        if full && !whole && self.state.multipart.is_none() {
            self.state.multipart = Some(self.objects.begin(room, &self.path).await?);
        }

        self.state.hasher.update(&data);
        self.state.received = received;
        self.state.keep(data);
        if full && !whole {
            self.flush();
        }
        self.settle().await
    }

    /// Makes the blob visible, if it is the blob that was announced.
    ///
    /// # Errors
    /// [`Fault::WrongSize`] and [`Fault::WrongContent`]: nothing is left of it. Storage faults.
    pub(super) async fn finish(mut self) -> Result<(), Fault> {
        self.settle().await?;
        if self.state.received != self.digest.size() {
            return Err(Fault::WrongSize {
                expected: self.digest,
                received: self.state.received,
            });
        }
        let actual = self.state.hasher.clone().finish();
        if actual != self.digest {
            return Err(Fault::WrongContent {
                expected: self.digest,
                actual,
            });
        }
        if self.state.multipart.is_some() {
            self.flush();
            self.settle().await?;
        }
        let size = self.state.received;
        match (self.room.take(), self.state.multipart.take()) {
            (Some(room), Some(parts)) => self.objects.complete(room, &self.path, size, parts).await,
            (Some(room), None) => {
                let payload = self.take_buffer();
                self.objects.put_into(room, &self.path, payload).await
            }
            (None, _) => Ok(()),
        }
    }

    /// Gives what is buffered to the multipart upload.
    fn flush(&mut self) {
        if self.state.buffered == 0 {
            return;
        }
        let payload = self.take_buffer();
        if let Some(multipart) = &mut self.state.multipart {
            self.state.in_flight = Some(multipart.put_part(payload));
        }
    }

    fn take_buffer(&mut self) -> PutPayload {
        self.state.buffered = 0;
        self.state.end_tail();
        self.state.buffer.drain(..).collect()
    }

    /// Waits for the part on its way.
    async fn settle(&mut self) -> Result<(), Fault> {
        if self.state.broken {
            return Err(Fault::LostPart(self.digest));
        }
        if let Some(part) = &mut self.state.in_flight {
            let result = part.await;
            self.state.in_flight = None;
            self.state.release();
            self.state.broken = result.is_err();
            result?;
        }
        Ok(())
    }
}

impl State {
    /// Reserves bytes; false where no more may be kept.
    fn reserve(&mut self, bytes: u64) -> Result<bool, Fault> {
        let reserved = match &mut self.reserved {
            Some(reserved) => reserved,
            none => none.insert(memory::reservation()?),
        };
        Ok(reserved.grow(bytes))
    }

    /// Gives back what is not buffered any more.
    fn release(&mut self) {
        if let Some(reserved) = &mut self.reserved {
            let spare = reserved.bytes().saturating_sub(self.buffered as u64);
            reserved.shrink(spare);
        }
    }

    fn keep(&mut self, data: Bytes) {
        self.buffered += data.len();
        if data.len() >= SMALL {
            self.end_tail();
            self.buffer.push(data);
            return;
        }
        self.tail.extend_from_slice(&data);
        if self.tail.len() >= SMALL {
            self.end_tail();
        }
    }

    fn end_tail(&mut self) {
        if !self.tail.is_empty() {
            self.buffer.push(std::mem::take(&mut self.tail).freeze());
        }
    }
}

impl Drop for Upload {
    /// Removes what was written. Its room is given back when the disk has given back its bytes, not before.
    fn drop(&mut self) {
        let Some(mut multipart) = self.state.multipart.take() else {
            return;
        };
        let (in_flight, room) = (self.state.in_flight.take(), self.room.take());
        let reserved = self.state.reserved.take();
        let (objects, path) = (self.objects.clone(), self.path.clone());
        let end = async move {
            // It would write on. What it says does not matter any more.
            if let Some(part) = in_flight {
                let _lost = part.await;
            }
            let _gone = multipart.abort().await;
            objects.prune(path).await;
            drop((room, reserved));
        };
        match Handle::try_current() {
            Ok(runtime) => drop(runtime.spawn(end)),
            // Where no runtime is, all of it is done at once.
            Err(_) => _ = end.now_or_never(),
        }
    }
}

impl std::fmt::Debug for State {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("State")
            .field("received", &self.received)
            .field("buffered", &self.buffered)
            .field("broken", &self.broken)
            .finish_non_exhaustive()
    }
}
