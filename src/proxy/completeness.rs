//! Whether everything below a directory is there, and what was found whole a moment ago.

use std::collections::{HashMap, HashSet};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Duration;

use bazel_remote_apis::build::bazel::remote::execution::v2 as reapi;
use bazel_remote_apis::google::bytestream::{ReadRequest, ReadResponse};
use moka::future::Cache;

use super::message::framed;
use super::own::{Failed, OwnCalls, Status};
use crate::clients::Reservation;
use crate::policy::Uris;
use crate::policy::method::{Method, Service};
use crate::reference_storage::is_digest;
use crate::status::{Code, Rejection};
use crate::wire::tree::{self, DigestOf, Entry, Kind};
use crate::wire::{self, TooMuch};

/// How long a tree that was found whole is taken for whole. Servers keep what was asked for a moment ago.
const FRESH: Duration = Duration::from_secs(60);
/// Trees that are remembered at most, each with about 200 bytes.
const MOST_TREES: u64 = 10_000;
/// Digests in one FindMissingBlobs: with about 80 bytes each, well below gRPC's 4 MiB.
const FIND_BATCH: usize = 10_000;
/// Bytes and digests of directories in one BatchReadBlobs.
const READ_BATCH_BYTES: i64 = 1 << 20;
const READ_BATCH: usize = 512;
/// The longest directory that is read, in bytes; none of it but its digests is kept.
const LONGEST_DIRECTORY: i64 = 64 << 20;
/// Bytes of directories that a walk reads at most.
const MOST_BYTES: i64 = 256 << 20;
/// How deep directories may lie: paths of most systems have 4096 bytes, half of them slashes.
const DEEPEST: u32 = 2048;
/// How long a walk may take.
const LONGEST_WALK: Duration = Duration::from_secs(120);
/// What is kept of a digest that was met, in bytes; it is reserved for so many at a time.
const MET: u64 = 256;
const STEP: usize = 1024;
/// Digests that a walk remembers at most.
const MOST_DIGESTS: usize = 1 << 20;

/// The trees that were found whole. A tree that is asked for by several at once is walked once; that it is not whole, or can't
/// be walked, is said to the one who walked only.
#[derive(Debug)]
pub struct Known(Cache<Tree, ()>);

#[derive(Clone, Debug, PartialEq, Eq, Hash)]
struct Tree {
    backend: [u8; 32],
    instance: String,
    root: Key,
}

/// A SHA-256 digest in less memory than its text.
type Key = (u128, u128, i64);

impl Known {
    /// Nothing is known yet.
    pub fn new() -> Known {
        let cache = Cache::builder().max_capacity(MOST_TREES).time_to_live(FRESH);
        Known(cache.build())
    }
}

impl Default for Known {
    fn default() -> Known {
        Known::new()
    }
}

/// Checks that all blobs below a root directory are there.
///
/// # Errors
/// NOT_FOUND where one is missing; or why that can't be told.
pub(super) async fn check(calls: &OwnCalls<'_>, known: &Known, root: &reapi::Digest) -> Result<(), Failed> {
    let tree = Tree {
        backend: calls.backend(Service::Cas)?.fingerprint(),
        instance: calls.instance(Service::Cas)?,
        root: key(root).ok_or_else(gone)?,
    };
    let has_walked = AtomicBool::new(false);
    let walk = || async {
        has_walked.store(true, Ordering::Relaxed);
        let _turn = calls
            .client
            .purse()
            .account()
            .turn_to_walk()
            .await
            .map_err(Rejection::from)?;
        let walked = tokio::time::timeout(LONGEST_WALK, Walk::new(calls).run(root)).await;
        walked.unwrap_or_else(|_| Err(Rejection::TooLarge("to look for all of its blobs took more than 120 s").into()))
    };
    match known.0.try_get_with(tree.clone(), walk()).await {
        Ok(()) => Ok(()),
        Err(failed) if has_walked.load(Ordering::Relaxed) => Err(Arc::<Failed>::unwrap_or_clone(failed)),
        // Somebody else's walk, with headers of his own that the backend may not like.
        Err(_) => {
            walk().await?;
            known.0.insert(tree, ()).await;
            Ok(())
        }
    }
}

/// A walk through one tree.
struct Walk<'a> {
    calls: &'a OwnCalls<'a>,
    /// What was met, and whether as a directory: a file may have the bytes of one.
    seen: HashSet<(bool, Key)>,
    directories: Vec<Below>,
    files: Vec<reapi::Digest>,
    /// Reserved for what was met.
    room: Reservation,
    /// Bytes of the directories that were asked for.
    bytes: i64,
    /// Whether the server has BatchReadBlobs.
    batches: bool,
}

impl<'a> Walk<'a> {
    fn new(calls: &'a OwnCalls<'a>) -> Walk<'a> {
        Walk {
            calls,
            seen: HashSet::new(),
            directories: Vec::new(),
            files: Vec::new(),
            room: calls.client.purse().reservation(),
            bytes: 0,
            batches: true,
        }
    }

    async fn run(mut self, root: &reapi::Digest) -> Result<(), Failed> {
        self.directories.push(Below {
            digest: root.clone(),
            depth: 0,
        });
        while !self.directories.is_empty() {
            let batch = self.next_batch();
            match batch.as_slice() {
                [one] if !self.batches || one.digest.size_bytes > READ_BATCH_BYTES => self.read(one).await?,
                _ => self.read_batch(batch).await?,
            }
            while self.files.len() >= FIND_BATCH {
                self.find().await?;
            }
        }
        while !self.files.is_empty() {
            self.find().await?;
        }
        Ok(())
    }

    /// Directories for one call: at least one, more while they fit.
    fn next_batch(&mut self) -> Vec<Below> {
        let most = if self.batches { READ_BATCH } else { 1 };
        let mut bytes = 0;
        let mut batch = Vec::new();
        while let Some(next) = self.directories.last() {
            bytes += next.digest.size_bytes;
            if batch.len() == most || !batch.is_empty() && bytes > READ_BATCH_BYTES {
                break;
            }
            batch.extend(self.directories.pop());
        }
        batch
    }

    async fn read_batch(&mut self, batch: Vec<Below>) -> Result<(), Failed> {
        let request = reapi::BatchReadBlobsRequest {
            instance_name: self.calls.instance(Service::Cas)?,
            digests: batch.iter().map(|below| below.digest.clone()).collect(),
            ..Default::default()
        };
        let answer = self
            .calls
            .unary::<reapi::BatchReadBlobsResponse>(Method::BatchReadBlobs, Uris::default(), framed(&request))
            .await;
        let answer = match answer {
            Err(Failed::Status(status)) if status.code == Code::Unimplemented as u8 => {
                self.batches = false;
                self.directories.extend(batch);
                return Ok(());
            }
            other => other?,
        };
        let wanted = batch
            .iter()
            .filter_map(|below| Some((key(&below.digest)?, below.depth)));
        let mut wanted: HashMap<Key, u32> = wanted.collect();
        for response in answer.message.responses {
            let status = response.status.unwrap_or_default();
            match u8::try_from(status.code) {
                Ok(code) if code == Code::Ok as u8 => {}
                Ok(code) if code == Code::NotFound as u8 => return Err(gone()),
                code => {
                    return Err(Failed::Status(Status {
                        code: code.unwrap_or(Code::Unknown as u8),
                        message: status.message,
                    }));
                }
            }
            let digest = response.digest.as_ref().and_then(key);
            if let Some(depth) = digest.and_then(|key| wanted.remove(&key)) {
                let bytes = &response.data;
                tree::read(Kind::Directory, bytes, |entry| self.meet(entry, depth)).map_err(Stop::why)?;
            }
        }
        if wanted.is_empty() { Ok(()) } else { Err(gone()) }
    }

    async fn read(&mut self, Below { digest, depth }: &Below) -> Result<(), Failed> {
        if digest.size_bytes > LONGEST_DIRECTORY {
            return Err(Rejection::TooLarge("a directory has more than 64 MiB").into());
        }
        let instance = self.calls.instance(Service::Cas)?;
        let slash = if instance.is_empty() { "" } else { "/" };
        let request = ReadRequest {
            resource_name: format!("{instance}{slash}blobs/{}/{}", digest.hash, digest.size_bytes),
            ..Default::default()
        };
        let mut messages = self.calls.call(Method::Read, Uris::default(), framed(&request)).await?;
        let length = u64::try_from(digest.size_bytes).unwrap_or_default();
        let mut directory = tree::Reader::new(Kind::Directory, length, |entry| self.meet(entry, *depth));
        while let Some(message) = messages.next().await? {
            let response: ReadResponse = wire::decode(message).map_err(|_| gone())?;
            directory.push(&response.data).map_err(Stop::why)?;
        }
        match messages.status().await?.ok() {
            Ok(()) => directory.finish().map_err(Stop::why),
            Err(Failed::Status(status)) if status.code == Code::NotFound as u8 => Err(gone()),
            Err(failed) => Err(failed),
        }
    }

    /// Notes what a directory names, each digest once.
    fn meet(&mut self, entry: Entry<'_>, depth: u32) -> Result<(), Stop> {
        // One without a digest can't be fetched by anybody.
        let digest = entry.digest.as_ref().ok_or_else(gone)?;
        if !self.seen.insert((entry.is_directory, key_of(digest).ok_or_else(gone)?)) {
            return Ok(());
        }
        let too_large = |what| Err(Failed::from(Rejection::TooLarge(what)).into());
        if self.seen.len().is_multiple_of(STEP) {
            let met = self.room.grow(MET * STEP as u64);
            met.map_err(|full| Failed::from(Rejection::from(full)))?;
        }
        if self.seen.len() > MOST_DIGESTS {
            return too_large("it has more than 2^20 files and directories");
        }
        let digest = reapi::Digest {
            hash: digest.hash.to_owned(),
            size_bytes: digest.size_bytes,
        };
        if !entry.is_directory {
            self.files.push(digest);
            return Ok(());
        }
        self.bytes = self.bytes.saturating_add(digest.size_bytes);
        if self.bytes > MOST_BYTES {
            return too_large("its directories have more than 256 MiB");
        }
        if depth >= DEEPEST {
            return too_large("its directories are nested more than 2048 times");
        }
        let depth = depth + 1;
        self.directories.push(Below { digest, depth });
        Ok(())
    }

    /// Asks for as many files as one call takes.
    async fn find(&mut self) -> Result<(), Failed> {
        let rest = self.files.len().saturating_sub(FIND_BATCH);
        let request = reapi::FindMissingBlobsRequest {
            instance_name: self.calls.instance(Service::Cas)?,
            blob_digests: self.files.split_off(rest),
            ..Default::default()
        };
        let answer = self
            .calls
            .unary::<reapi::FindMissingBlobsResponse>(Method::FindMissingBlobs, Uris::default(), framed(&request))
            .await?;
        if answer.message.missing_blob_digests.is_empty() {
            Ok(())
        } else {
            Err(gone())
        }
    }
}

fn gone() -> Failed {
    Failed::Status(Status::not_found(
        "the name is known, but blobs of the artifact are gone: push it again",
    ))
}

/// A directory that is to be read, and how deep it lies.
struct Below {
    digest: reapi::Digest,
    depth: u32,
}

/// Why the reading of a directory ends.
enum Stop {
    /// It is none: as good as gone.
    Unreadable,
    Failed(Failed),
}

impl Stop {
    fn why(self) -> Failed {
        match self {
            Stop::Unreadable => gone(),
            Stop::Failed(failed) => failed,
        }
    }
}

impl From<TooMuch> for Stop {
    fn from(_: TooMuch) -> Stop {
        Stop::Unreadable
    }
}

impl From<Failed> for Stop {
    fn from(failed: Failed) -> Stop {
        Stop::Failed(failed)
    }
}

/// `None` for a digest that is none of SHA-256.
fn key(digest: &reapi::Digest) -> Option<Key> {
    key_of(&DigestOf {
        hash: &digest.hash,
        size_bytes: digest.size_bytes,
    })
}

fn key_of(digest: &DigestOf<'_>) -> Option<Key> {
    if !is_digest(digest.hash, digest.size_bytes) {
        return None;
    }
    let (high, low) = digest.hash.split_at_checked(32)?;
    let half = |text| u128::from_str_radix(text, 16).ok();
    Some((half(high)?, half(low)?, digest.size_bytes))
}
