//! Assets: names of blobs and of directories, at `asset/<instance>/<kind>/<2 hex>/<hash>`.

use std::time::{SystemTime, UNIX_EPOCH};

use bazel_remote_apis::build::bazel::remote::asset::v1::Qualifier;
use bazel_remote_apis::build::bazel::remote::execution::v2 as reapi;
use bazel_remote_apis::google::protobuf::Timestamp;
use object_store::path::Path;

use super::Cache;
use super::caller::Behalf;
use super::digest::{BlobDigest, Hasher};
use super::fault::Fault;
use super::instance::Instance;
use crate::wire::Kept::Bytes;
use crate::wire::shapes::{FEW, bounded, digest, qualifiers};

/// What an asset names. The same URI may name a blob and a directory: they are two assets.
#[derive(Clone, Copy, Debug)]
pub(super) enum Kind {
    Blob,
    Directory,
}

/// The names in one request: at least one URI, and qualifiers as a set.
#[derive(Debug)]
pub(super) struct Names {
    uris: Vec<String>,
    /// Sorted: qualifiers may come in any order (remote_asset.proto, `Qualifier`).
    qualifiers: Vec<Qualifier>,
}

/// What is stored under one name.
#[derive(Clone, PartialEq, prost::Message)]
pub(super) struct Asset {
    #[prost(string, tag = "1")]
    pub(super) uri: String,
    #[prost(message, repeated, tag = "2")]
    pub(super) qualifiers: Vec<Qualifier>,
    #[prost(message, optional, tag = "3")]
    pub(super) digest: Option<reapi::Digest>,
    #[prost(message, optional, tag = "4")]
    pub(super) pushed_at: Option<Timestamp>,
    #[prost(message, optional, tag = "5")]
    pub(super) expire_at: Option<Timestamp>,
}

bounded! {
    ASSET: Asset, FEW, [(1, Bytes), qualifiers(2), digest(3)];
}

impl Names {
    /// Checks the names of a request.
    ///
    /// # Errors
    /// [`Fault::Field`]. BuildStream asks without a URI to learn whether the service is there, and
    /// takes INVALID_ARGUMENT for yes, so this comes before any other check of a request.
    pub(super) fn parse(uris: Vec<String>, mut qualifiers: Vec<Qualifier>) -> Result<Self, Fault> {
        let fault = |field, reason| Err(Fault::Field { field, reason });
        if uris.is_empty() {
            return fault("uris", "name at least one URI");
        }
        if uris.iter().any(String::is_empty) {
            return fault("uris", "a URI can't be empty");
        }
        qualifiers.sort_by(|a, b| (&a.name, &a.value).cmp(&(&b.name, &b.value)));
        if qualifiers.windows(2).any(|pair| pair[0].name == pair[1].name) {
            return fault("qualifiers", "names must be unique");
        }
        Ok(Self { uris, qualifiers })
    }

    fn path(&self, instance: &Instance, kind: Kind, uri: &str) -> Path {
        let mut hasher = Hasher::new();
        let mut update = |text: &str| {
            hasher.update(&(text.len() as u64).to_be_bytes());
            hasher.update(text.as_bytes());
        };
        update(uri);
        for qualifier in &self.qualifiers {
            update(&qualifier.name);
            update(&qualifier.value);
        }
        let hex = hasher.finish().hex();
        let kind = match kind {
            Kind::Blob => "blob",
            Kind::Directory => "directory",
        };
        Path::from_iter(["asset", instance.segment(), kind, &hex[..2], &hex])
    }
}

impl Cache {
    /// Stores `digest` under each of the names, in place of what was there.
    pub(super) async fn push_asset(
        &self,
        instance: &Instance,
        kind: Kind,
        names: Names,
        digest: &BlobDigest,
        expire_at: Option<Timestamp>,
    ) -> Result<(), Fault> {
        let pushed_at = Some(now());
        for uri in &names.uris {
            let asset = Asset {
                uri: uri.clone(),
                qualifiers: names.qualifiers.clone(),
                digest: Some(digest.to_proto()),
                pushed_at,
                expire_at,
            };
            let path = names.path(instance, kind, uri);
            self.records.write(&path, &asset).await?;
        }
        Ok(())
    }

    /// The first of the names that has an asset which is alive, was pushed at `oldest` or later,
    /// and of which all is here: the blob, or the directory with everything below it. Without a look at that where the call
    /// trusts assets. Nothing is ever fetched from elsewhere.
    ///
    /// # Errors
    /// [`Fault::NoAsset`]; storage faults.
    pub(super) async fn fetch_asset(
        &self,
        instance: &Instance,
        kind: Kind,
        names: Names,
        oldest: Option<Timestamp>,
    ) -> Result<Asset, Fault> {
        let now = now();
        for uri in &names.uris {
            let path = names.path(instance, kind, uri);
            let Some((asset, _)) = self.records.read::<Asset>(&path).await? else {
                continue;
            };
            let expired = asset.expire_at.is_some_and(|end| order(end) <= order(now));
            let pushed = asset.pushed_at.unwrap_or_default();
            let too_old = oldest.is_some_and(|oldest| order(pushed) < order(oldest));
            let digest = BlobDigest::required(asset.digest.as_ref(), "digest");
            let Ok(digest) = digest else { continue };
            if expired || too_old {
                continue;
            }
            // Where the blobs are in another store, only that one can tell.
            let whole = Behalf::current().trusts_assets
                || match kind {
                    Kind::Blob => self.blobs.holds(instance, &digest).await?,
                    Kind::Directory => self.holds_tree(instance, &digest).await?,
                };
            if whole {
                return Ok(asset);
            }
            self.records.forget(&path, &asset).await?;
        }
        Err(Fault::NoAsset(names.uris.join("`, `")))
    }
}

/// What one asset's timestamps are compared by. Nanoseconds outside a second never get here from
/// well-behaved clients, and only shift the instant of those that send them.
fn order(time: Timestamp) -> i128 {
    i128::from(time.seconds) * 1_000_000_000 + i128::from(time.nanos)
}

fn now() -> Timestamp {
    let since = SystemTime::now().duration_since(UNIX_EPOCH).unwrap_or_default();
    Timestamp {
        seconds: i64::try_from(since.as_secs()).unwrap_or(i64::MAX),
        nanos: since.subsec_nanos().cast_signed(),
    }
}
