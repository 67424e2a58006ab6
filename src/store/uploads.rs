//! Uploads that are running, and those that were interrupted and may go on.

use std::collections::HashMap;
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::{Duration, Instant};

use bytes::Bytes;

use super::fault::Fault;
use super::name::UploadName;
use super::upload::Upload;

/// How long an interrupted upload is kept. Clients come back within minutes or never.
pub(super) const IDLE: Duration = Duration::from_secs(3600);

/// Most interrupted uploads that are kept. Each may hold a file open.
const MOST: usize = 256;

/// Most memory that interrupted uploads may hold, in bytes.
const MOST_BYTES: usize = 16 << 20;

/// The uploads of one store. Interrupted ones live as long as the process, are forgotten after
/// [`IDLE`], and those of the caller who has the most make room for new ones beyond 256 of them, 16 MiB of memory, or a limit
/// for the disk.
#[derive(Debug, Default)]
pub(super) struct Uploads {
    table: Mutex<Table>,
}

#[derive(Debug, Default)]
struct Table {
    /// Most bytes of all interrupted uploads; None for any number.
    limit: Option<u64>,
    running: HashMap<UploadName, Arc<AtomicU64>>,
    parked: HashMap<UploadName, Parked>,
}

#[derive(Debug)]
struct Parked {
    upload: Upload,
    since: Instant,
}

impl Uploads {
    /// From now on interrupted uploads may take so many bytes of the disk; None for any number. What is more goes by
    /// [`trim`](Self::trim).
    pub(super) fn set_limit(&self, limit: Option<u64>) {
        self.table().limit = limit;
    }

    /// Gives up what is beyond the limits.
    pub(super) fn trim(&self) {
        let forgotten = self.table().trim();
        drop(forgotten);
    }

    /// Gives up interrupted uploads that nobody came back to for `idle`, the oldest first, until so many bytes were received
    /// of them; of one caller only, where it is told. How many bytes that were.
    pub(super) fn give_up(&self, caller: Option<u128>, idle: Duration, bytes: u64) -> u64 {
        let now = Instant::now();
        let mut forgotten = Vec::new();
        let mut given = 0;
        let mut table = self.table();
        while given < bytes {
            let is_meant = |parked: &Parked| {
                let theirs = caller.is_none_or(|caller| parked.upload.caller() == caller);
                theirs && now.saturating_duration_since(parked.since) >= idle
            };
            let Some(upload) = table.remove_oldest(is_meant) else {
                break;
            };
            given += upload.upload.received();
            forgotten.push(upload);
        }
        drop(table);
        drop(forgotten);
        given
    }

    /// Starts an upload at offset 0, or goes on with an interrupted one. Two clients that start
    /// the same one at 0 do not disturb each other.
    ///
    /// # Errors
    /// [`Fault::WriteOffset`] where the upload does not stand at `offset`, [`Fault::UploadBusy`]
    /// where it runs elsewhere.
    pub(super) fn begin(
        self: &Arc<Self>,
        name: &UploadName,
        offset: i64,
        start: impl FnOnce() -> Upload,
    ) -> Result<Session, Fault> {
        let forgotten;
        let mut table = self.table();
        let upload = if offset == 0 {
            forgotten = table.parked.remove(name);
            start()
        } else {
            forgotten = None;
            table.take(name, offset)?
        };
        let committed = Arc::new(AtomicU64::new(upload.received()));
        table.running.insert(name.clone(), Arc::clone(&committed));
        drop(table);
        // Dropping an upload removes a file: not under the lock.
        drop(forgotten);
        Ok(Session {
            uploads: Arc::clone(self),
            name: name.clone(),
            upload: Some(upload),
            committed,
        })
    }

    /// Bytes committed to an upload that is running or interrupted; None where it is unknown.
    pub(super) fn committed(&self, name: &UploadName) -> Option<u64> {
        let table = self.table();
        let running = table.running.get(name);
        let running = running.map(|committed| committed.load(Ordering::Acquire));
        running.or_else(|| table.parked.get(name).map(|parked| parked.upload.received()))
    }

    /// Whether a stream feeds the upload.
    #[cfg(test)]
    pub(super) fn is_running(&self, name: &UploadName) -> bool {
        self.table().running.contains_key(name)
    }

    /// Forgets interrupted uploads that have been idle for [`IDLE`] at `now`.
    pub(super) fn expire(&self, now: Instant) {
        let idle = |parked: &mut Parked| now.saturating_duration_since(parked.since) >= IDLE;
        let forgotten: Vec<_> = self.table().parked.extract_if(|_, parked| idle(parked)).collect();
        drop(forgotten);
    }

    fn park(&self, name: UploadName, upload: Upload) {
        let parked = Parked {
            upload,
            since: Instant::now(),
        };
        let mut table = self.table();
        let before = table.parked.insert(name, parked);
        let forgotten = table.trim();
        drop(table);
        drop((before, forgotten));
    }

    /// A panic elsewhere leaves the table whole: nothing is done halfway under the lock.
    fn table(&self) -> MutexGuard<'_, Table> {
        self.table.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl Table {
    fn take(&mut self, name: &UploadName, offset: i64) -> Result<Upload, Fault> {
        let committed = match self.parked.get(name) {
            Some(parked) => parked.upload.received(),
            None if self.running.contains_key(name) => {
                return Err(Fault::UploadBusy(name.uuid.clone()));
            }
            None => 0,
        };
        if u64::try_from(offset) != Ok(committed) {
            return Err(Fault::WriteOffset { offset, committed });
        }
        match self.parked.remove(name) {
            Some(parked) => Ok(parked.upload),
            None => Err(Fault::WriteOffset { offset, committed }),
        }
    }

    /// Takes out what is beyond the limits: the oldest of the caller who has the most.
    fn trim(&mut self) -> Vec<Parked> {
        let mut forgotten = Vec::new();
        while self.is_over_limit() {
            let mut callers = HashMap::<u128, (u64, usize)>::new();
            for parked in self.parked.values() {
                let (bytes, number) = callers.entry(parked.upload.caller()).or_default();
                *bytes += parked.upload.received();
                *number += 1;
            }
            let by_number = self.parked.len() > MOST;
            let most = callers.into_iter().max_by_key(|(_, (bytes, number))| match by_number {
                true => *number as u64,
                false => *bytes,
            });
            let Some((most, _)) = most else { break };
            let Some(oldest) = self.remove_oldest(|parked| parked.upload.caller() == most) else {
                break;
            };
            forgotten.push(oldest);
        }
        forgotten
    }

    fn remove_oldest(&mut self, is_meant: impl Fn(&Parked) -> bool) -> Option<Parked> {
        let meant = self.parked.iter().filter(|(_, parked)| is_meant(parked));
        let oldest = meant.min_by_key(|(_, parked)| parked.since);
        let name = oldest.map(|(name, _)| name.clone())?;
        self.parked.remove(&name)
    }

    fn is_over_limit(&self) -> bool {
        let bytes: usize = self.parked.values().map(|parked| parked.upload.buffered()).sum();
        let received: u64 = self.parked.values().map(|parked| parked.upload.received()).sum();
        self.parked.len() > MOST || bytes > MOST_BYTES || self.limit.is_some_and(|limit| received > limit)
    }
}

/// An upload while a stream feeds it. Dropped unfinished, it waits to be resumed.
#[derive(Debug)]
pub(super) struct Session {
    uploads: Arc<Uploads>,
    name: UploadName,
    /// None only once it is finished.
    upload: Option<Upload>,
    committed: Arc<AtomicU64>,
}

impl Session {
    /// Bytes committed so far.
    pub(super) fn committed(&self) -> u64 {
        self.committed.load(Ordering::Acquire)
    }

    /// Takes the next bytes, which belong at `offset`.
    ///
    /// # Errors
    /// [`Fault::WriteOffset`], and those of [`Upload::push`].
    pub(super) async fn push(&mut self, offset: i64, data: Vec<u8>) -> Result<(), Fault> {
        let committed = self.committed();
        let Some(upload) = &mut self.upload else {
            return Ok(());
        };
        if u64::try_from(offset) != Ok(committed) {
            return Err(Fault::WriteOffset { offset, committed });
        }
        upload.push(Bytes::from(data)).await?;
        self.committed.store(upload.received(), Ordering::Release);
        Ok(())
    }

    /// Comes to its end when the store has become too small for it. May be cancelled.
    pub(super) async fn revoked(&mut self) {
        match &mut self.upload {
            Some(upload) => upload.revoked().await,
            None => std::future::pending().await,
        }
    }

    /// Makes the blob visible.
    ///
    /// # Errors
    /// Those of [`Upload::finish`]; nothing is left of the upload then.
    pub(super) async fn finish(mut self) -> Result<(), Fault> {
        match self.upload.take() {
            Some(upload) => upload.finish().await,
            None => Ok(()),
        }
    }
}

impl Drop for Session {
    fn drop(&mut self) {
        let mut table = self.uploads.table();
        let mine = table.running.get(&self.name);
        if mine.is_some_and(|committed| Arc::ptr_eq(committed, &self.committed)) {
            table.running.remove(&self.name);
        }
        drop(table);
        let upload = self.upload.take();
        let worth = |upload: &Upload| upload.is_usable() && upload.received() > 0;
        if let Some(upload) = upload.filter(worth) {
            self.uploads.park(self.name.clone(), upload);
        }
    }
}
