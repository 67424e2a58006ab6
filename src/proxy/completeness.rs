//! Whether everything below a directory is there, and what was found whole a moment ago.

use std::collections::HashSet;
use std::sync::Arc;
use std::time::Duration;

use bazel_remote_apis::build::bazel::remote::execution::v2 as reapi;
use bazel_remote_apis::google::bytestream::{ReadRequest, ReadResponse};
use moka::future::Cache;
use prost::Message;

use super::message::framed;
use super::own::{Failed, OwnCalls, Status};
use crate::policy::Uris;
use crate::policy::method::{Method, Service};
use crate::reference_storage::is_digest;
use crate::status::{Code, Rejection};

/// How long a tree that was found whole is taken for whole. Servers keep what was asked for a moment ago.
const FRESH: Duration = Duration::from_secs(60);
/// Trees that are remembered at most, each with about 200 bytes.
const MOST_TREES: u64 = 10_000;
/// Digests in one FindMissingBlobs: with about 80 bytes each, well below gRPC's 4 MiB.
const FIND_BATCH: usize = 10_000;
/// Bytes and digests of directories in one BatchReadBlobs.
const READ_BATCH_BYTES: i64 = 1 << 20;
const READ_BATCH: usize = 512;
/// The longest directory that is read, in bytes.
const LONGEST_DIRECTORY: i64 = 64 << 20;
/// Digests that a walk remembers at most, each with about 50 bytes.
const MOST_DIGESTS: usize = 1 << 20;

/// The trees that were found whole. A tree that is asked for by several at once is walked once.
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
    let walked = known.0.try_get_with(tree, Walk::new(calls).run(root)).await;
    walked.map_err(|failed: Arc<Failed>| (*failed).clone())
}

/// A walk through one tree.
struct Walk<'a> {
    calls: &'a OwnCalls<'a>,
    /// What was met, and whether as a directory: a file may have the bytes of one.
    seen: HashSet<(bool, Key)>,
    directories: Vec<reapi::Digest>,
    files: Vec<reapi::Digest>,
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
            batches: true,
        }
    }

    async fn run(mut self, root: &reapi::Digest) -> Result<(), Failed> {
        self.directories.push(root.clone());
        while !self.directories.is_empty() {
            let batch = self.next_batch();
            let found = match batch.as_slice() {
                [one] if !self.batches || one.size_bytes > READ_BATCH_BYTES => vec![self.read(one).await?],
                _ => self.read_batch(batch).await?,
            };
            for directory in found {
                self.meet(directory)?;
                if self.files.len() >= FIND_BATCH {
                    self.find().await?;
                }
            }
        }
        while !self.files.is_empty() {
            self.find().await?;
        }
        Ok(())
    }

    /// Directories for one call: at least one, more while they fit.
    fn next_batch(&mut self) -> Vec<reapi::Digest> {
        let most = if self.batches { READ_BATCH } else { 1 };
        let mut bytes = 0;
        let mut batch = Vec::new();
        while let Some(next) = self.directories.last() {
            bytes += next.size_bytes;
            if batch.len() == most || !batch.is_empty() && bytes > READ_BATCH_BYTES {
                break;
            }
            batch.extend(self.directories.pop());
        }
        batch
    }

    async fn read_batch(&mut self, digests: Vec<reapi::Digest>) -> Result<Vec<reapi::Directory>, Failed> {
        let request = reapi::BatchReadBlobsRequest {
            instance_name: self.calls.instance(Service::Cas)?,
            digests: digests.clone(),
            ..Default::default()
        };
        let answer = self
            .calls
            .unary::<reapi::BatchReadBlobsResponse>(Method::BatchReadBlobs, Uris::default(), framed(&request))
            .await;
        let (answer, _) = match answer {
            Err(Failed::Status(status)) if status.code == Code::Unimplemented as u8 => {
                self.batches = false;
                self.directories.extend(digests);
                return Ok(Vec::new());
            }
            other => other?,
        };
        let mut wanted: HashSet<Key> = digests.iter().filter_map(key).collect();
        let mut found = Vec::new();
        for response in answer.responses {
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
            if response
                .digest
                .as_ref()
                .and_then(key)
                .is_some_and(|key| wanted.remove(&key))
            {
                found.push(directory(&response.data)?);
            }
        }
        if wanted.is_empty() { Ok(found) } else { Err(gone()) }
    }

    async fn read(&self, digest: &reapi::Digest) -> Result<reapi::Directory, Failed> {
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
        let mut bytes = Vec::new();
        while let Some(message) = messages.next().await? {
            let response = ReadResponse::decode(message).map_err(|_| gone())?;
            bytes.extend_from_slice(&response.data);
            if i64::try_from(bytes.len()).is_ok_and(|length| length > digest.size_bytes) {
                return Err(gone());
            }
        }
        match messages.status().await?.ok() {
            Ok(()) => directory(&bytes),
            Err(Failed::Status(status)) if status.code == Code::NotFound as u8 => Err(gone()),
            Err(failed) => Err(failed),
        }
    }

    /// Notes what a directory names, each digest once.
    fn meet(&mut self, directory: reapi::Directory) -> Result<(), Failed> {
        let files = directory.files.into_iter().map(|file| (false, file.digest));
        let directories = directory
            .directories
            .into_iter()
            .map(|directory| (true, directory.digest));
        for (is_directory, digest) in files.chain(directories) {
            // One without a digest can't be fetched by anybody.
            let digest = digest.ok_or_else(gone)?;
            if self.seen.insert((is_directory, key(&digest).ok_or_else(gone)?)) {
                if is_directory {
                    self.directories.push(digest);
                } else {
                    self.files.push(digest);
                }
            }
        }
        if self.seen.len() > MOST_DIGESTS {
            return Err(Rejection::TooLarge("it has more than 2^20 files and directories").into());
        }
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
        let (answer, _) = self
            .calls
            .unary::<reapi::FindMissingBlobsResponse>(Method::FindMissingBlobs, Uris::default(), framed(&request))
            .await?;
        if answer.missing_blob_digests.is_empty() {
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

fn directory(bytes: &[u8]) -> Result<reapi::Directory, Failed> {
    reapi::Directory::decode(bytes).map_err(|_| gone())
}

/// `None` for a digest that is none of SHA-256.
fn key(digest: &reapi::Digest) -> Option<Key> {
    if !is_digest(digest) {
        return None;
    }
    let (high, low) = digest.hash.split_at_checked(32)?;
    let half = |text| u128::from_str_radix(text, 16).ok();
    Some((half(high)?, half(low)?, digest.size_bytes))
}
