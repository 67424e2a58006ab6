//! Whether all that a name stands for is here.

use std::collections::HashSet;
use std::time::Duration;

use bazel_remote_apis::build::bazel::remote::execution::v2 as reapi;
use futures_util::{StreamExt, TryStreamExt, stream};

use super::Cache;
use super::cas::AT_ONCE;
use super::digest::BlobDigest;
use super::fault::Fault;
use super::instance::Instance;
use super::memory::{self, Reserve};
use super::rarely::Rarely;
use super::space::Mark;
use super::walk::{Stop, Walk};
use crate::wire::TooMuch;
use crate::wire::tree::{self, Entry, Kind};

/// Most bytes of `Tree` messages that are read to check one result. A result with more is never given
/// out: nobody could say whether it is complete, and whoever may write results could have a reader's
/// call take any amount of work.
const LARGEST_TREES: u64 = 64 << 20;

/// Most files of one result or one tree.
const MOST_FILES: usize = 1 << 20;

/// What is remembered of a file, in bytes; it is reserved for so many at a time.
const REMEMBERED: u64 = 96;
const STEP: usize = 1024;

/// Trees that were found whole a moment ago, and when that was looked for.
pub(super) type WholeTrees = moka::future::Cache<(Instance, BlobDigest), Mark>;

/// How long they are remembered. Another process on the same directory may remove something.
const FRESH: Duration = Duration::from_secs(60);
/// How many are remembered.
const MOST_TREES: u64 = 10_000;

pub(super) fn no_trees() -> WholeTrees {
    let cache = WholeTrees::builder().max_capacity(MOST_TREES).time_to_live(FRESH);
    cache.build()
}

impl Cache {
    /// Whether everything that a result names is here. Each blob of it is used by that.
    pub(super) async fn is_complete(&self, instance: &Instance, result: &reapi::ActionResult) -> Result<bool, Fault> {
        let mut wanted = Wanted::new()?;
        for file in &result.output_files {
            wanted.file(file.digest.as_ref())?;
        }
        wanted.stream(result.stdout_digest.as_ref())?;
        wanted.stream(result.stderr_digest.as_ref())?;
        let mut met = HashSet::new();
        for directory in &result.output_directories {
            // The same directory under another path is the same again.
            if !met.insert((directory.tree_digest.as_ref(), directory.root_directory_digest.as_ref())) {
                continue;
            }
            if !self.want_tree(instance, directory, &mut wanted).await? {
                return Ok(false);
            }
            if !self.want_root(instance, directory, &mut wanted).await? {
                return Ok(false);
            }
        }
        self.holds_all(instance, wanted).await
    }

    /// Whether a directory and everything below it is here. Each blob of it is used by that.
    ///
    /// A tree that was found whole is believed to be for a minute, or until its turn to be removed has come a little nearer.
    pub(super) async fn holds_tree(&self, instance: &Instance, root: &BlobDigest) -> Result<bool, Fault> {
        let tree = (instance.clone(), *root);
        let found = self.whole_trees.get(&tree).await;
        if found.is_some_and(|mark| self.objects.keeps_since(mark)) {
            return Ok(true);
        }
        let mark = self.objects.mark();
        let mut wanted = Wanted::new()?;
        let whole =
            self.want_directory(instance, *root, &mut wanted).await? && self.holds_all(instance, wanted).await?;
        if whole {
            self.whole_trees.insert(tree, mark).await;
        }
        Ok(whole)
    }

    async fn holds_all(&self, instance: &Instance, wanted: Wanted) -> Result<bool, Fault> {
        if wanted.malformed {
            return Ok(false);
        }
        stream::iter(wanted.digests)
            .map(|digest| async move { self.blobs.holds(instance, &digest).await })
            .buffer_unordered(AT_ONCE)
            .try_all(|here| async move { here })
            .await
    }

    /// Adds the files of an output directory that comes as a `Tree`; false where the tree itself
    /// isn't here.
    async fn want_tree(
        &self,
        instance: &Instance,
        directory: &reapi::OutputDirectory,
        wanted: &mut Wanted,
    ) -> Result<bool, Fault> {
        let Some(digest) = &directory.tree_digest else {
            // Without a tree there has to be a root directory.
            return Ok(directory.root_directory_digest.is_some());
        };
        let Ok(digest) = BlobDigest::parse(digest, "tree_digest") else {
            return Ok(false);
        };
        wanted.tree_bytes = wanted.tree_bytes.saturating_add(digest.size());
        if wanted.tree_bytes > LARGEST_TREES {
            static SEEN: Rarely = Rarely::new();
            if let Some(times) = SEEN.due() {
                tracing::warn!(%digest, times, "trees are too large to be checked: their action result is a miss");
            }
            return Ok(false);
        }
        let Some(mut pieces) = self.blobs.read(instance, &digest, 0..digest.size()).await? else {
            return Ok(false);
        };
        let mut tree = tree::Reader::new(Kind::Tree, digest.size(), |entry| wanted.entry(&entry));
        loop {
            let read = match pieces.try_next().await {
                Ok(Some(piece)) => tree.push(&piece),
                Ok(None) => return tree.finish().map_or_else(Stopped::whole, |()| Ok(true)),
                Err(Fault::Damaged(_)) => return Ok(false),
                Err(fault) => return Err(fault),
            };
            if let Err(stopped) = read {
                return stopped.whole();
            }
        }
    }

    /// Adds the files of an output directory that comes as `Directory` messages; false where one
    /// of these isn't here.
    async fn want_root(
        &self,
        instance: &Instance,
        directory: &reapi::OutputDirectory,
        wanted: &mut Wanted,
    ) -> Result<bool, Fault> {
        let Some(root) = &directory.root_directory_digest else {
            return Ok(true);
        };
        match BlobDigest::parse(root, "root_directory_digest") {
            Ok(root) => self.want_directory(instance, root, wanted).await,
            Err(_) => Ok(false),
        }
    }

    /// Adds the files below a directory; false where one of the directories isn't here.
    async fn want_directory(&self, instance: &Instance, root: BlobDigest, wanted: &mut Wanted) -> Result<bool, Fault> {
        let turn = self.turns.take().await?;
        let mut walk = Walk::new(self.blobs.clone(), instance.clone(), root, turn)?;
        loop {
            match walk.next().await {
                Ok(Some(Stop::Present(_, directory))) => {
                    let read = tree::read(Kind::Directory, &directory, |entry| wanted.entry(&entry));
                    if let Err(stopped) = read {
                        return stopped.whole();
                    }
                }
                Ok(None) => return Ok(true),
                Ok(Some(Stop::Missing))
                | Err(Fault::Damaged(_) | Fault::NotA { .. } | Fault::TooLarge { .. } | Fault::TreeTooLarge) => {
                    return Ok(false);
                }
                Err(fault) => return Err(fault),
            }
        }
    }
}

/// The blobs that have to be here.
struct Wanted {
    digests: HashSet<BlobDigest>,
    /// Size of the trees that were read to find them.
    tree_bytes: u64,
    /// One was asked for in a way that no blob can fulfil.
    malformed: bool,
    /// Reserved for the digests.
    room: Box<dyn Reserve>,
}

impl Wanted {
    fn new() -> Result<Self, Fault> {
        Ok(Self {
            digests: HashSet::new(),
            tree_bytes: 0,
            malformed: false,
            room: memory::reservation()?,
        })
    }

    fn file(&mut self, digest: Option<&reapi::Digest>) -> Result<(), Fault> {
        self.add(BlobDigest::required(digest, "digest").ok())
    }

    /// A file that a directory names.
    fn entry(&mut self, entry: &Entry<'_>) -> Result<(), Stopped> {
        match entry.is_directory {
            true => Ok(()),
            false => Ok(self.add(entry.digest.as_ref().and_then(BlobDigest::named))?),
        }
    }

    fn add(&mut self, digest: Option<BlobDigest>) -> Result<(), Fault> {
        let Some(digest) = digest else {
            self.malformed = true;
            return Ok(());
        };
        if self.digests.insert(digest)
            && self.digests.len().is_multiple_of(STEP)
            && !self.room.grow(REMEMBERED * STEP as u64)
        {
            return Err(Fault::NoMemory);
        }
        match self.digests.len() <= MOST_FILES {
            true => Ok(()),
            false => Err(Fault::TreeTooLarge),
        }
    }

    /// Standard output or error: some clients send an empty message where there is none.
    fn stream(&mut self, digest: Option<&reapi::Digest>) -> Result<(), Fault> {
        match digest.filter(|digest| **digest != reapi::Digest::default()) {
            Some(given) => self.file(Some(given)),
            None => Ok(()),
        }
    }
}

/// Why a tree is not read to its end.
enum Stopped {
    /// It is none.
    NoTree,
    Fault(Fault),
}

impl Stopped {
    /// Whether it is whole, which it is not as far as anybody can tell.
    fn whole(self) -> Result<bool, Fault> {
        match self {
            Stopped::NoTree | Stopped::Fault(Fault::TreeTooLarge) => Ok(false),
            Stopped::Fault(fault) => Err(fault),
        }
    }
}

impl From<TooMuch> for Stopped {
    fn from(_: TooMuch) -> Self {
        Stopped::NoTree
    }
}

impl From<Fault> for Stopped {
    fn from(fault: Fault) -> Self {
        Stopped::Fault(fault)
    }
}
