//! A walk through a tree of `Directory` messages in the CAS.

use std::collections::HashSet;

use bazel_remote_apis::build::bazel::remote::execution::v2 as reapi;
use prost::Message;

use super::blobs::Blobs;
use super::digest::BlobDigest;
use super::fault::Fault;
use super::instance::Instance;

/// Largest `Directory` that is read, in bytes. Clients don't take larger messages either.
const LARGEST: u64 = 4 << 20;

/// Most directories in one walk. The walk remembers the hash of each.
const MOST: usize = 1 << 19;

/// Visits every directory below a root once, parents before children.
///
/// Memory is bounded by 2^19 digests and one directory.
#[derive(Debug)]
pub(super) struct Walk {
    blobs: Blobs,
    instance: Instance,
    pending: Vec<BlobDigest>,
    seen: HashSet<[u8; 32]>,
}

/// One stop of a [`Walk`].
#[derive(Debug)]
pub(super) enum Stop {
    /// A directory that is here.
    Present(reapi::Directory),
    /// A directory that is not here, or whose parent names it by a malformed digest.
    Missing,
}

impl Walk {
    pub(super) fn new(blobs: Blobs, instance: Instance, root: BlobDigest) -> Self {
        Self {
            blobs,
            instance,
            pending: vec![root],
            seen: HashSet::from([root.hash()]),
        }
    }

    /// The next directory; None after the last.
    ///
    /// # Errors
    /// [`Fault::NotA`], [`Fault::TooLarge`] and [`Fault::TreeTooLarge`]; storage faults.
    pub(super) async fn next(&mut self) -> Result<Option<Stop>, Fault> {
        let Some(digest) = self.pending.pop() else {
            return Ok(None);
        };
        if digest.size() > LARGEST {
            return Err(Fault::TooLarge {
                digest,
                kind: "Directory",
                limit: LARGEST,
            });
        }
        let Some(bytes) = self.blobs.load(&self.instance, &digest).await? else {
            return Ok(Some(Stop::Missing));
        };
        let directory = reapi::Directory::decode(bytes).map_err(|_| Fault::NotA {
            digest,
            kind: "Directory",
        })?;
        for child in directory.directories.iter().rev() {
            // A child without a readable digest can't be here. It is met again as a blob of no
            // bytes whose hash is not that of no bytes.
            let digest = child.digest.as_ref();
            let child = BlobDigest::required(digest, "digest").unwrap_or(BlobDigest::NOWHERE);
            if self.seen.insert(child.hash()) {
                self.pending.push(child);
            }
        }
        if self.seen.len() > MOST {
            return Err(Fault::TreeTooLarge(MOST));
        }
        Ok(Some(Stop::Present(directory)))
    }
}
