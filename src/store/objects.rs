//! The object store, and the account of what is in it.

use std::ops::Range;
use std::path::PathBuf;
use std::sync::mpsc::Sender;
use std::sync::{Arc, Weak};

use object_store::path::Path;
use object_store::{GetOptions, GetRange, GetResult, MultipartUpload, ObjectStore, ObjectStoreExt, PutPayload};

use super::fault::Fault;
use super::housekeeping::Task;
use super::location;
use super::space::{BLOCK, Leaving, Mark, Meters, Reader, Room, Space, Waits};
use super::uploads::Uploads;

/// Folders that may have to be made for an object.
const FOLDERS: u64 = 3;

/// How often an object is begun anew whose folder was removed meanwhile, as it was empty.
const TRIES: usize = 16;

/// Objects by path. Clones share them.
#[derive(Clone, Debug)]
pub(super) struct Objects {
    store: Arc<dyn ObjectStore>,
    /// The folder of a store that is in one.
    root: Option<Arc<PathBuf>>,
    space: Arc<Space>,
    housekeeping: Sender<Task>,
}

/// An object that was found.
#[derive(Debug)]
pub(super) struct Found {
    pub(super) result: GetResult,
    /// To be kept while it is read.
    pub(super) reader: Arc<Reader>,
}

impl Objects {
    pub(super) fn new(
        store: Arc<dyn ObjectStore>,
        root: Option<PathBuf>,
        housekeeping: Sender<Task>,
        uploads: Weak<Uploads>,
    ) -> Self {
        Self {
            store,
            root: root.map(Arc::new),
            space: Arc::new(Space::new(housekeeping.clone(), uploads)),
            housekeeping,
        }
    }

    /// From now on at most `quota` bytes are kept; None for any number.
    pub(super) fn set_quota(&self, quota: Option<u64>, meters: Meters, waits: Waits) {
        if self.space.set_quota(quota, meters, waits) {
            // Fails only when the store is about to end.
            let _ended = self.housekeeping.send(Task::Survey(Arc::downgrade(&self.space)));
        }
    }

    /// Whether anything is ever removed to make room.
    pub(super) fn has_quota(&self) -> bool {
        self.space.has_quota()
    }

    /// Bytes of the object; None where it is not here. This is a use of it.
    pub(super) async fn size(&self, path: &Path) -> Result<Option<u64>, Fault> {
        if !self.space.touch(path) {
            return Ok(None);
        }
        match self.store.head(path).await {
            // It may have been marked meanwhile, and have left a moment later.
            Ok(_) if self.space.is_leaving(path) => Ok(None),
            Ok(meta) => {
                self.space.learn(path, meta.size);
                Ok(Some(meta.size))
            }
            Err(object_store::Error::NotFound { .. }) => Ok(None),
            Err(error) => Err(error.into()),
        }
    }

    /// Keeps the object for a while, as the caller is about to be told that it is here; false where it has just left.
    pub(super) fn keep_told(&self, path: &Path) -> bool {
        self.space.keep_told(path)
    }

    /// Keeps the object for a while, as the caller has sent it and it was here already; false where it has just left.
    pub(super) fn keep_sent(&self, path: &Path) -> bool {
        self.space.keep_sent(path)
    }

    /// The object, of which `range` is read; all of it without. None where it is not here. This is a use of it.
    pub(super) async fn get(&self, path: &Path, range: Option<Range<u64>>) -> Result<Option<Found>, Fault> {
        let Ok(mut reader) = self.space.reader(path) else {
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
        self.space.learn(path, result.meta.size);
        if !reader.is_counted() {
            // Nothing of its folder was known.
            let Ok(counted) = self.space.reader(path) else {
                return Ok(None);
            };
            reader = counted;
        }
        Ok(Some(Found { result, reader }))
    }

    /// This moment, for [`keeps_since`](Self::keeps_since).
    pub(super) fn mark(&self) -> Mark {
        self.space.mark()
    }

    /// Whether all that was used after `mark` is still there as far as this process knows, and needs no other use to stay for
    /// a while.
    pub(super) fn keeps_since(&self, mark: Mark) -> bool {
        self.space.keeps_since(mark)
    }

    /// Whether an object of `size` bytes can be here at all.
    ///
    /// # Errors
    /// [`Fault::OverQuota`].
    pub(super) fn check_size(&self, size: u64) -> Result<(), Fault> {
        match self.space.takes(size) {
            Ok(()) => Ok(()),
            Err(quota) => Err(Fault::OverQuota { size, quota }),
        }
    }

    /// Room for what the current caller sends, as yet none.
    pub(super) fn room(&self) -> Room {
        self.space.room()
    }

    /// Writes an object as a whole, or replaces it.
    pub(super) async fn put(&self, path: &Path, payload: PutPayload) -> Result<(), Fault> {
        let size = payload.content_length() as u64;
        self.check_size(size)?;
        let mut room = self.room();
        room.announce(size).await?;
        room.grow(size).await?;
        self.put_into(room, path, payload).await
    }

    /// The same, for what has its room already.
    pub(super) async fn put_into(&self, room: Room, path: &Path, payload: PutPayload) -> Result<(), Fault> {
        let size = payload.content_length() as u64;
        let (objects, to) = (self.clone(), path.clone());
        let write = async move {
            let mut last = None;
            for _ in 0..TRIES {
                match objects.store.put(&to, payload.clone()).await {
                    Ok(_) => return Ok(()),
                    Err(error) if is_not_found(&error) => last = Some(error),
                    Err(error) => {
                        objects.prune(to).await;
                        return Err(error);
                    }
                }
            }
            last.map_or(Ok(()), Err)
        };
        self.write(room, path, size, write).await
    }

    /// Begins an object that is written part by part. Folders that may have to be made for it are counted to its room.
    pub(super) async fn begin(&self, room: &mut Room, path: &Path) -> Result<Box<dyn MultipartUpload>, Fault> {
        room.grow(FOLDERS * BLOCK).await?;
        for _ in 1..TRIES {
            match self.store.put_multipart(path).await {
                Err(error) if is_not_found(&error) => {}
                begun => return Ok(begun?),
            }
        }
        Ok(self.store.put_multipart(path).await?)
    }

    /// Makes an object of the parts.
    pub(super) async fn complete(
        &self,
        room: Room,
        path: &Path,
        size: u64,
        mut parts: Box<dyn MultipartUpload>,
    ) -> Result<(), Fault> {
        let write = async move { parts.complete().await.map(drop) };
        self.write(room, path, size, write).await
    }

    /// Removes an object that nobody uses, if it still is what the caller takes it for. Only with a quota: without one
    /// nothing is ever removed but what is damaged.
    pub(super) async fn remove_if<F>(
        &self,
        path: &Path,
        check: impl FnOnce(Arc<dyn ObjectStore>) -> F,
    ) -> Result<(), Fault>
    where
        F: Future<Output = bool> + Send + 'static,
    {
        match self.space.dismiss(path) {
            Some(leaving) => self
                .remove(leaving, path, check(Arc::clone(&self.store)))
                .await
                .map(drop),
            None => Ok(()),
        }
    }

    /// Removes an object that `check` finds damaged, whoever uses it. What is being written in its place stays.
    pub(super) async fn remove_damaged<F>(
        &self,
        path: &Path,
        check: impl FnOnce(Arc<dyn ObjectStore>) -> F,
    ) -> Result<(), Fault>
    where
        F: Future<Output = bool> + Send + 'static,
    {
        let Some(leaving) = self.space.condemn(path) else {
            return Ok(());
        };
        let removed = self.remove(leaving, path, check(Arc::clone(&self.store))).await?;
        if let Some(meters) = self.space.meters().filter(|_| removed) {
            meters.damaged.inc();
        }
        Ok(())
    }

    /// Whether the object was removed.
    async fn remove(
        &self,
        leaving: Leaving,
        path: &Path,
        check: impl Future<Output = bool> + Send + 'static,
    ) -> Result<bool, Fault> {
        let (objects, path) = (self.clone(), path.clone());
        // A removal goes on when the call that wanted it is cancelled, and until it has ended nothing may be written there.
        let removed = tokio::spawn(async move {
            if !check.await {
                return Ok(false);
            }
            match objects.store.delete(&path).await {
                Ok(()) | Err(object_store::Error::NotFound { .. }) => leaving.removed(),
                Err(error) => return Err(error),
            }
            objects.prune(path).await;
            Ok(true)
        });
        ended(removed.await)
    }

    /// Removes the folders of an object that are empty.
    pub(super) async fn prune(&self, path: Path) {
        let Some(root) = self.root.clone() else {
            return;
        };
        let prune = move || location::prune(&root, &path);
        match tokio::runtime::Handle::try_current() {
            // Folders that stay are removed with the next object.
            Ok(runtime) => _ = runtime.spawn_blocking(prune).await,
            Err(_) => prune(),
        }
    }

    async fn write(
        &self,
        room: Room,
        path: &Path,
        size: u64,
        write: impl Future<Output = object_store::Result<()>> + Send + 'static,
    ) -> Result<(), Fault> {
        let (space, path) = (Arc::clone(&self.space), path.clone());
        // What was begun on the disk goes on when the call is cancelled, and so must its account.
        let written = tokio::spawn(async move {
            let hold = space.hold_place(&path).await;
            write.await?;
            if let Some(hold) = hold {
                space.stored(&hold, size, room);
            }
            Ok(())
        });
        ended(written.await)
    }
}

/// What a task gives. It ends otherwise only when the runtime is shutting down.
fn ended<T>(task: Result<object_store::Result<T>, tokio::task::JoinError>) -> Result<T, Fault> {
    match task {
        Ok(result) => Ok(result?),
        Err(error) => Err(object_store::Error::from(error).into()),
    }
}

/// Whether the system said ENOENT: a folder was removed meanwhile.
fn is_not_found(error: &object_store::Error) -> bool {
    super::fault::has_kind(error, &[std::io::ErrorKind::NotFound])
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
        let objects = Objects::new(Arc::clone(&store), None, housekeeping, Weak::new());
        let meters = meters();
        let waits = Waits {
            grace: std::time::Duration::ZERO,
            ..Waits::default()
        };
        objects.set_quota(Some(1 << 30), meters.clone(), waits);
        let space = &objects.space;
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

    #[tokio::test]
    async fn a_removal_outlives_its_call_and_what_is_written_meanwhile_stays() {
        let store: Arc<dyn ObjectStore> = Arc::new(InMemory::new());
        let (housekeeping, _tasks) = channel();
        let objects = Objects::new(Arc::clone(&store), None, housekeeping, Weak::new());
        let path = Path::from(format!("ac/_/2c/2c{:062}-5", 0));
        let payload = |text: &'static [u8]| PutPayload::from(Bytes::from_static(text));
        // Without a quota damaged objects are removed as well.
        objects.put(&path, payload(b"old")).await.unwrap();
        let (go, gone) = tokio::sync::oneshot::channel::<()>();
        let check = |_| async move { gone.await.is_ok() };
        let mut removal = Box::pin(objects.remove_damaged(&path, check));
        assert!(poll!(&mut removal).is_pending());
        // The caller goes away; the disk is still busy.
        drop(removal);
        assert_eq!(objects.size(&path).await.unwrap(), None);
        let mut put = std::pin::pin!(objects.put(&path, payload(b"new")));
        for _ in 0..10 {
            assert!(poll!(&mut put).is_pending());
            tokio::task::yield_now().await;
        }
        go.send(()).unwrap();
        put.await.unwrap();
        let found = store.get(&path).await.unwrap().bytes().await.unwrap();
        assert_eq!(found, "new");
    }
}
