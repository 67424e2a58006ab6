//! Small messages in the object store: action results and assets.

use bytes::Bytes;
use object_store::ObjectStoreExt;
use object_store::path::Path;
use prost::Message;

use super::fault::Fault;
use super::objects::{Found, Objects};
use super::rarely::Rarely;

/// Largest record that is read, in bytes: what a request can carry.
const LARGEST: u64 = super::LARGEST_MESSAGE as u64;

/// Messages by path. A record is replaced as a whole or not at all.
#[derive(Clone, Debug)]
pub(super) struct Records {
    objects: Objects,
}

impl Records {
    pub(super) fn new(objects: Objects) -> Self {
        Self { objects }
    }

    /// The record at `path`. One that can't be read is none: the caller makes it anew.
    pub(super) async fn read<M: Message + Default>(&self, path: &Path) -> Result<Option<M>, Fault> {
        let Some(Found { result: found, .. }) = self.objects.get(path, None).await? else {
            return Ok(None);
        };
        if found.meta.size > LARGEST {
            static SEEN: Rarely = Rarely::new();
            if let Some(times) = SEEN.due() {
                tracing::warn!(%path, size = found.meta.size, times, "a record is too large: it is ignored");
            }
            return Ok(None);
        }
        if found.meta.size == 0 {
            return Ok(Some(M::default()));
        }
        let bytes = found.bytes().await?;
        match M::decode(bytes) {
            Ok(record) => Ok(Some(record)),
            Err(error) => {
                static SEEN: Rarely = Rarely::new();
                if let Some(times) = SEEN.due() {
                    tracing::warn!(%path, %error, times, "a record is damaged: it is ignored");
                }
                Ok(None)
            }
        }
    }

    /// Removes the record at `path`, which names what is gone, unless another one was written there meanwhile. Nothing
    /// without a quota: what is gone then may still come.
    pub(super) async fn forget<M: Message>(&self, path: &Path, record: &M) -> Result<(), Fault> {
        let same = |bytes: Bytes| bytes == record.encode_to_vec();
        let check = |store: std::sync::Arc<dyn object_store::ObjectStore>| async move {
            match store.get(path).await {
                Ok(found) => found.bytes().await.is_ok_and(same),
                Err(_) => false,
            }
        };
        self.objects.remove_if(path, check).await
    }

    /// Writes the record at `path`, or replaces it.
    pub(super) async fn write<M: Message>(&self, path: &Path, record: &M) -> Result<(), Fault> {
        let bytes = record.encode_to_vec();
        self.objects.put(path, bytes.into()).await?;
        Ok(())
    }
}
