//! Small messages in the object store: action results and assets.
//!
//! Each is in an envelope, for a disk may give back less than was written, or something else, and a message that was cut is
//! often a message still: a result without its exit code is a success. The envelope is a version, the length of the message
//! (8 bytes, little endian), the message, and the SHA-256 of all of that and of the path, so that no record can stand for
//! another one either.

use std::sync::Arc;

use bytes::{BufMut, Bytes, BytesMut};
use object_store::path::Path;
use object_store::{ObjectStore, ObjectStoreExt};
use prost::Message;

use super::digest::Hasher;
use super::fault::Fault;
use super::memory::{self, Reserve};
use super::objects::{Found, Objects};
use super::rarely::Rarely;
use crate::wire::{self, Bounded};

/// Largest record that is read, in bytes: what a request can carry.
pub(super) const LARGEST: u64 = (super::LARGEST_MESSAGE + HEAD + TAIL) as u64;

/// What every record begins with. No protobuf message does, and so no record of a store from before there were envelopes.
const VERSION: [u8; 4] = [0, b'c', b'r', 1];

/// Bytes before the message and behind it.
const HEAD: usize = VERSION.len() + 8;
const TAIL: usize = 32;

/// Messages by path. A record is replaced as a whole or not at all.
#[derive(Clone, Debug)]
pub(super) struct Records {
    objects: Objects,
}

impl Records {
    pub(super) fn new(objects: Objects) -> Self {
        Self { objects }
    }

    /// The record at `path`. One that is not as it was written is removed, and is none: the caller makes it anew.
    ///
    /// What it takes in memory is reserved first, and stays so until the reservation is dropped.
    pub(super) async fn read<M: Bounded>(&self, path: &Path) -> Result<Option<(M, Box<dyn Reserve>)>, Fault> {
        let Some(Found { result: found, reader }) = self.objects.get(path, None).await? else {
            return Ok(None);
        };
        let message = match found.meta.size <= LARGEST {
            true => open(path, found.bytes().await?).and_then(|message| wire::measure(message).ok()),
            false => None,
        };
        drop(reader);
        let record = match message {
            Some(message) => {
                let room = memory::reserve_when_free(message.cost().memory).await?;
                message.decode().ok().map(|record| (record, room))
            }
            None => None,
        };
        if record.is_none() {
            self.remove_damaged::<M>(path).await?;
        }
        Ok(record)
    }

    /// Removes the record at `path`, which names what is gone, unless another one was written there meanwhile. Nothing
    /// without a quota: what is gone then may still come.
    pub(super) async fn forget<M: Message>(&self, path: &Path, record: &M) -> Result<(), Fault> {
        if !self.objects.has_quota() {
            return Ok(());
        }
        let (at, same) = (path.clone(), seal(path, record));
        let check = |store: Arc<dyn ObjectStore>| async move {
            match store.get(&at).await {
                Ok(found) => found.bytes().await.is_ok_and(|bytes| bytes == same),
                Err(_) => false,
            }
        };
        self.objects.remove_if(path, check).await
    }

    /// Writes the record at `path`, or replaces it.
    pub(super) async fn write<M: Message>(&self, path: &Path, record: &M) -> Result<(), Fault> {
        self.objects.put(path, seal(path, record).into()).await?;
        Ok(())
    }

    async fn remove_damaged<M: Bounded>(&self, path: &Path) -> Result<(), Fault> {
        let at = path.clone();
        let check = |store: Arc<dyn ObjectStore>| async move {
            let Ok(found) = store.get(&at).await else {
                return false;
            };
            let damaged = match found.meta.size <= LARGEST {
                true => match found.bytes().await {
                    Ok(bytes) => open(&at, bytes).is_none_or(|message| wire::decode::<M>(message).is_err()),
                    Err(_) => false,
                },
                false => true,
            };
            if damaged {
                static SEEN: Rarely = Rarely::new();
                if let Some(times) = SEEN.due() {
                    tracing::error!(target: "casgate::store", path = %at, times, "a record is none, or the disk has not kept it: it is removed");
                }
            }
            damaged
        };
        self.objects.remove_damaged(path, check).await
    }
}

/// The envelope with a record.
fn seal(path: &Path, record: &impl Message) -> Bytes {
    let length = record.encoded_len();
    let mut bytes = BytesMut::with_capacity(HEAD + length + TAIL);
    bytes.put_slice(&VERSION);
    bytes.put_u64_le(length as u64);
    // Fails only where there is too little room.
    let _fits = record.encode(&mut bytes);
    let sum = sum(path, &bytes);
    bytes.put_slice(&sum);
    bytes.freeze()
}

/// The message in an envelope; None where it is not as it was written.
pub(super) fn open(path: &Path, bytes: Bytes) -> Option<Bytes> {
    let end = bytes.len().checked_sub(TAIL).filter(|end| *end >= HEAD)?;
    let length = bytes.get(VERSION.len()..HEAD)?.try_into().ok()?;
    let is_whole = bytes.starts_with(&VERSION)
        && u64::from_le_bytes(length) == (end - HEAD) as u64
        && bytes.get(end..)? == sum(path, bytes.get(..end)?);
    is_whole.then(|| bytes.slice(HEAD..end))
}

fn sum(path: &Path, bytes: &[u8]) -> [u8; TAIL] {
    let mut hasher = Hasher::new();
    hasher.update(&(path.as_ref().len() as u64).to_le_bytes());
    hasher.update(path.as_ref().as_bytes());
    hasher.update(bytes);
    hasher.finish().hash()
}

#[cfg(test)]
mod tests {
    use bazel_remote_apis::build::bazel::remote::execution::v2 as reapi;

    use super::*;

    #[test]
    fn nothing_but_what_was_written_is_a_record() {
        let path = Path::from("ac/_/ab/abcd-3");
        let record = reapi::ActionResult {
            exit_code: 1,
            stdout_raw: b"hello".to_vec(),
            ..Default::default()
        };
        let sealed = seal(&path, &record);
        assert_eq!(open(&path, sealed.clone()), Some(record.encode_to_vec().into()));
        assert_eq!(open(&Path::from("ac/_/ab/abcd-4"), sealed.clone()), None);
        for cut in 0..sealed.len() {
            assert_eq!(open(&path, sealed.slice(..cut)), None, "cut to {cut}");
            assert_eq!(open(&path, sealed.slice(cut + 1..)), None, "without the first {cut}");
            for bit in 0..8 {
                let mut flipped = sealed.to_vec();
                flipped[cut] ^= 1 << bit;
                assert_eq!(open(&path, flipped.into()), None, "bit {bit} of {cut}");
            }
        }
        let mut longer = sealed.to_vec();
        longer.push(0);
        assert_eq!(open(&path, longer.into()), None);
        // As they were before there were envelopes, and what a disk makes of a file that it has lost.
        assert_eq!(open(&path, record.encode_to_vec().into()), None);
        assert_eq!(open(&path, vec![0; sealed.len()].into()), None);
        assert_eq!(
            open(&path, seal(&path, &reapi::ActionResult::default())),
            Some(Bytes::new())
        );
    }
}
