//! Whether all that a name stands for is here.

use std::collections::HashSet;
use std::time::Duration;

use bazel_remote_apis::build::bazel::remote::execution::v2 as reapi;
use futures_util::{StreamExt, TryStreamExt, stream};
use prost::Message;

use super::Cache;
use super::cas::AT_ONCE;
use super::digest::BlobDigest;
use super::fault::Fault;
use super::instance::Instance;
use super::rarely::Rarely;
use super::space::Mark;
use super::walk::{Stop, Walk};

/// Most bytes of `Tree` messages that are read to check one result. A result with more is never given
/// out: nobody could say whether it is complete, and whoever may write results could have a reader's
/// call take any amount of work.
const LARGEST_TREES: u64 = 64 << 20;

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
        let mut wanted = Wanted::default();
        for file in &result.output_files {
            wanted.file(file.digest.as_ref());
        }
        wanted.stream(result.stdout_digest.as_ref());
        wanted.stream(result.stderr_digest.as_ref());
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
        let mut wanted = Wanted::default();
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
        // Trees are decoded as a whole, so not many at a time.
        let Ok(_turn) = self.trees.acquire().await else {
            return Ok(false);
        };
        let bytes = match self.blobs.load(instance, &digest).await {
            Ok(Some(bytes)) => bytes,
            Ok(None) | Err(Fault::Damaged(_)) => return Ok(false),
            Err(fault) => return Err(fault),
        };
        let Ok(tree) = reapi::Tree::decode(bytes) else {
            return Ok(false);
        };
        for directory in tree.root.iter().chain(&tree.children) {
            for file in &directory.files {
                wanted.file(file.digest.as_ref());
            }
        }
        Ok(true)
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
        let mut walk = Walk::new(self.blobs.clone(), instance.clone(), root);
        loop {
            match walk.next().await {
                Ok(Some(Stop::Present(directory))) => {
                    for file in &directory.files {
                        wanted.file(file.digest.as_ref());
                    }
                }
                Ok(None) => return Ok(true),
                Ok(Some(Stop::Missing))
                | Err(Fault::Damaged(_) | Fault::NotA { .. } | Fault::TooLarge { .. } | Fault::TreeTooLarge(_)) => {
                    return Ok(false);
                }
                Err(fault) => return Err(fault),
            }
        }
    }
}

/// The blobs that have to be here.
#[derive(Default)]
struct Wanted {
    digests: HashSet<BlobDigest>,
    /// Size of the trees that were read to find them.
    tree_bytes: u64,
    /// One was asked for in a way that no blob can fulfil.
    malformed: bool,
}

impl Wanted {
    fn file(&mut self, digest: Option<&reapi::Digest>) {
        match BlobDigest::required(digest, "digest") {
            Ok(digest) => {
                self.digests.insert(digest);
            }
            Err(_) => self.malformed = true,
        }
    }

    /// Standard output or error: some clients send an empty message where there is none.
    fn stream(&mut self, digest: Option<&reapi::Digest>) {
        let given = digest.filter(|digest| **digest != reapi::Digest::default());
        if given.is_some() {
            self.file(given);
        }
    }
}
