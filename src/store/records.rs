//! Small messages in the object store: action results and assets.

use std::sync::Arc;

use object_store::path::Path;
use object_store::{ObjectStore, ObjectStoreExt};
use prost::Message;

use super::fault::Fault;

/// Largest record that is read, in bytes: what a request can carry.
const LARGEST: u64 = super::LARGEST_MESSAGE as u64;

/// Messages by path. A record is replaced as a whole or not at all.
#[derive(Clone, Debug)]
pub(super) struct Records {
    objects: Arc<dyn ObjectStore>,
}

impl Records {
    pub(super) fn new(objects: Arc<dyn ObjectStore>) -> Self {
        Self { objects }
    }

    /// The record at `path`. One that can't be read is none: the caller makes it anew.
    pub(super) async fn read<M: Message + Default>(&self, path: &Path) -> Result<Option<M>, Fault> {
        let found = match self.objects.get(path).await {
            Ok(found) => found,
            Err(object_store::Error::NotFound { .. }) => return Ok(None),
            Err(error) => return Err(error.into()),
        };
        if found.meta.size > LARGEST {
            tracing::warn!(%path, size = found.meta.size, "a record is too large: it is ignored");
            return Ok(None);
        }
        if found.meta.size == 0 {
            return Ok(Some(M::default()));
        }
        let bytes = found.bytes().await?;
        match M::decode(bytes) {
            Ok(record) => Ok(Some(record)),
            Err(error) => {
                tracing::warn!(%path, %error, "a record is damaged: it is ignored");
                Ok(None)
            }
        }
    }

    /// Writes the record at `path`, or replaces it.
    pub(super) async fn write<M: Message>(&self, path: &Path, record: &M) -> Result<(), Fault> {
        let bytes = record.encode_to_vec();
        self.objects.put(path, bytes.into()).await?;
        Ok(())
    }
}
