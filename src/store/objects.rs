//! The object store, and the account of what is in it where it has a quota.

use std::ops::Range;
use std::sync::mpsc::Sender;
use std::sync::{Arc, OnceLock};

use object_store::path::Path;
use object_store::{GetOptions, GetRange, GetResult, MultipartUpload, ObjectStore, ObjectStoreExt, PutPayload};

use super::fault::Fault;
use super::housekeeping::Task;
use super::space::{Hold, Mark, Meters, Room, Space, Waits};

/// Objects by path. Clones share them.
#[derive(Clone, Debug)]
pub(super) struct Objects {
    store: Arc<dyn ObjectStore>,
    space: Arc<OnceLock<Arc<Space>>>,
    housekeeping: Sender<Task>,
}

/// An object that was found. It stays while this is there.
#[derive(Debug)]
pub(super) struct Found {
    pub(super) result: GetResult,
    pub(super) hold: Option<Hold>,
}

/// Room for what arrives; without a quota there is always some.
#[derive(Debug)]
pub(super) struct Bounded(Option<Room>);

impl Objects {
    pub(super) fn new(store: Arc<dyn ObjectStore>, housekeeping: Sender<Task>) -> Self {
        Self {
            store,
            space: Arc::default(),
            housekeeping,
        }
    }

    /// From now on at most `quota` bytes are kept; None for any number.
    pub(super) fn set_quota(&self, quota: Option<u64>, meters: Meters, waits: Waits) {
        if let Some(space) = self.space.get() {
            return space.set_quota(quota);
        }
        if quota.is_none() {
            return;
        }
        let space = Arc::new(Space::new(quota, meters, self.housekeeping.clone(), waits));
        let survey = Task::Survey(Arc::downgrade(&space));
        if self.space.set(space).is_ok() {
            // Fails only when the store is about to end.
            let _ended = self.housekeeping.send(survey);
        }
    }

    /// Bytes of the object; None where it is not here. This is a use of it.
    pub(super) async fn size(&self, path: &Path) -> Result<Option<u64>, Fault> {
        let space = self.space.get();
        if space.is_some_and(|space| !space.touch(path)) {
            return Ok(None);
        }
        match self.store.head(path).await {
            Ok(meta) => {
                if let Some(space) = space {
                    space.learn(path, meta.size);
                }
                Ok(Some(meta.size))
            }
            Err(object_store::Error::NotFound { .. }) => Ok(None),
            Err(error) => Err(error.into()),
        }
    }

    /// The object, of which `range` is read; all of it without. None where it is not here. This is a use of it.
    pub(super) async fn get(&self, path: &Path, range: Option<Range<u64>>) -> Result<Option<Found>, Fault> {
        let space = self.space.get();
        let Ok(mut hold) = space.map_or(Ok(None), |space| space.hold(path)) else {
            return Ok(None);
        };
        let options = GetOptions {
            range: range.map(GetRange::Bounded),
            ..GetOptions::default()
        };
        let result = match self.store.get_opts(path, options).await {
            Ok(result) => result,
            Err(object_store::Error::NotFound { .. }) => return Ok(None),
            Err(error) => return Err(error.into()),
        };
        if let Some(space) = space {
            space.learn(path, result.meta.size);
            if hold.is_none() {
                hold = space.hold(path).unwrap_or_default();
            }
        }
        Ok(Some(Found { result, hold }))
    }

    /// This moment, for [`keeps_since`](Self::keeps_since).
    pub(super) fn mark(&self) -> Mark {
        self.space.get().map_or_else(Mark::default, |space| space.mark())
    }

    /// Whether all that was used after `mark` is still there as far as this process knows, and needs no other use to stay for
    /// a while.
    pub(super) fn keeps_since(&self, mark: Mark) -> bool {
        self.space.get().is_none_or(|space| space.keeps_since(mark))
    }

    /// Whether an object of `size` bytes can be here at all.
    ///
    /// # Errors
    /// [`Fault::OverQuota`].
    pub(super) fn check_size(&self, size: u64) -> Result<(), Fault> {
        match self.space.get().map(|space| space.quota()) {
            Some(quota) if size > quota => Err(Fault::OverQuota { size, quota }),
            _ => Ok(()),
        }
    }

    /// Room for what arrives, as yet none.
    pub(super) fn room(&self) -> Bounded {
        Bounded(self.space.get().map(Space::room))
    }

    /// Writes an object as a whole, or replaces it.
    pub(super) async fn put(&self, path: &Path, payload: PutPayload) -> Result<(), Fault> {
        let size = payload.content_length() as u64;
        self.check_size(size)?;
        let mut room = self.room();
        room.grow(size).await?;
        self.put_into(room, path, payload).await
    }

    /// The same, for what has its room already.
    pub(super) async fn put_into(&self, room: Bounded, path: &Path, payload: PutPayload) -> Result<(), Fault> {
        let size = payload.content_length() as u64;
        let (store, to) = (Arc::clone(&self.store), path.clone());
        let write = async move { store.put(&to, payload).await.map(drop) };
        self.write(room, path, size, write).await
    }

    /// Begins an object that is written part by part.
    pub(super) async fn begin(&self, path: &Path) -> Result<Box<dyn MultipartUpload>, Fault> {
        Ok(self.store.put_multipart(path).await?)
    }

    /// Makes an object of the parts.
    pub(super) async fn complete(
        &self,
        room: Bounded,
        path: &Path,
        size: u64,
        mut parts: Box<dyn MultipartUpload>,
    ) -> Result<(), Fault> {
        let write = async move { parts.complete().await.map(drop) };
        self.write(room, path, size, write).await
    }

    /// Removes an object that nobody uses, if it still is what the caller takes it for. Only with a quota: without one
    /// nothing is ever removed.
    pub(super) async fn remove_if<F>(
        &self,
        path: &Path,
        check: impl FnOnce(Arc<dyn ObjectStore>) -> F,
    ) -> Result<(), Fault>
    where
        F: Future<Output = bool>,
    {
        let Some(leaving) = self.space.get().and_then(|space| space.dismiss(path)) else {
            return Ok(());
        };
        if check(Arc::clone(&self.store)).await {
            self.store.delete(path).await?;
            leaving.removed();
        }
        Ok(())
    }

    async fn write(
        &self,
        room: Bounded,
        path: &Path,
        size: u64,
        write: impl Future<Output = object_store::Result<()>> + Send + 'static,
    ) -> Result<(), Fault> {
        let Some(space) = self.space.get().map(Arc::clone) else {
            return Ok(write.await?);
        };
        let path = path.clone();
        // What was begun on the disk goes on when the call is cancelled, and so must its account.
        let written = tokio::spawn(async move {
            let hold = space.hold_place(&path).await;
            write.await?;
            if let Some(hold) = hold {
                space.stored(&hold, size, room.0);
            }
            Ok::<_, object_store::Error>(())
        });
        match written.await {
            Ok(written) => Ok(written?),
            // The runtime is shutting down.
            Err(error) => Err(object_store::Error::from(error).into()),
        }
    }
}

impl Bounded {
    /// Takes room for so many bytes more, and waits a while where there is none. May be cancelled.
    ///
    /// # Errors
    /// [`Fault::NoRoom`].
    pub(super) async fn grow(&mut self, bytes: u64) -> Result<(), Fault> {
        match &mut self.0 {
            Some(room) => room.grow(bytes).await.map_err(|_| Fault::NoRoom),
            None => Ok(()),
        }
    }
}

#[cfg(test)]
mod tests {
    #![expect(clippy::unwrap_used, reason = "tests")]
    use std::sync::mpsc::channel;

    use bytes::Bytes;
    use futures_util::{FutureExt, poll};
    use object_store::memory::InMemory;

    use super::*;
    use crate::store::tests::meters;

    #[tokio::test]
    async fn an_object_that_leaves_is_gone_already_and_its_successor_waits_until_it_is() {
        let store: Arc<dyn ObjectStore> = Arc::new(InMemory::new());
        let (housekeeping, _tasks) = channel();
        let objects = Objects::new(Arc::clone(&store), housekeeping);
        let meters = meters();
        let waits = Waits {
            grace: std::time::Duration::ZERO,
            ..Waits::default()
        };
        objects.set_quota(Some(1 << 30), meters.clone(), waits);
        let space = objects.space.get().unwrap();
        let hash = "2cf24dba5fb0a30e26e83b2ac5b9e29e1b161e5c1fa7425e73043362938b9824";
        let path = Path::from(format!("cas/_/2c/{hash}-5"));
        let payload = || PutPayload::from(Bytes::from_static(b"hello"));
        objects.put(&path, payload()).await.unwrap();
        assert_eq!(objects.size(&path).await.unwrap(), Some(5));
        let found = objects.get(&path, None).await.unwrap().unwrap();
        assert!(space.dismiss(&path).is_none(), "it is read");
        drop(found);

        let leaving = space.dismiss(&path).unwrap();
        assert!(space.dismiss(&path).is_none());
        assert_eq!(objects.size(&path).await.unwrap(), None);
        assert!(objects.get(&path, None).await.unwrap().is_none());
        let mut put = std::pin::pin!(objects.put(&path, payload()));
        for _ in 0..10 {
            assert!(poll!(&mut put).is_pending());
            tokio::task::yield_now().await;
        }
        store.delete(&path).await.unwrap();
        leaving.removed();
        put.await.unwrap();
        assert_eq!(objects.size(&path).await.unwrap(), Some(5));
        assert!(store.head(&path).now_or_never().unwrap().is_ok());
        assert_eq!(meters.bytes.get(), 4096);
    }
}
