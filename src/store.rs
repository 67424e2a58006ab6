//! The embedded backend: a small Remote Execution API cache over the `object_store` crate.
//!
//! The gate treats it like any other backend: it opens a byte stream and speaks HTTP/2 with prior
//! knowledge, so nothing gets past the policy. Any number of connections may share a [`Store`].
//!
//! # What it serves
//! ContentAddressableStorage, ByteStream, ActionCache, Capabilities (API 2.0 to 2.3), and Remote
//! Asset Fetch and Push, all with SHA-256 and without compression. Everything else is
//! UNIMPLEMENTED. Fetch never goes to the network.
//!
//! # What it promises
//! - A blob becomes visible as a whole, once its size and SHA-256 are those of its digest. A client
//!   that vanishes in the middle leaves nothing that anybody could see.
//! - What was acknowledged stays: with `file:` it survives `kill -9`, and as file and directory are
//!   synced before the answer, also a loss of power (as far as the disk keeps its word). What
//!   `memory:` holds ends with the process.
//! - An interrupted upload can be resumed (QueryWriteStatus, then Write at that offset) for an hour
//!   within the same process, over any connection.
//! - Unfinished files go when their upload is given up, or when the store is opened next.
//! - What is kept for a call is reserved with its caller ([`memory`]): a quarter of a megabyte on the way out; on the way
//!   in half a megabyte and one message. `memory:` apart, no blob is ever held whole, except those in batches and
//!   directories.
//! - An instance sees nothing of another one: not even that a blob exists there.
//!
//! - With a quota, what was not used for the longest time is removed to stay below it; never what is being written, or was
//!   stored a moment ago. A name is found only with all that it stands for.
//! - What somebody reads, was told to be here or has not finished stays within the share of a caller ([`Behalf`]), so that
//!   nobody has all of the quota by it. What is complete has no shares.
//! - A full store or disk is RESOURCE_EXHAUSTED for uploads; reads go on.
//! - What the disk gives back is not believed: whole blobs are hashed while they are read, and records have a checksum. What
//!   is not as it was written is DATA_LOSS or a miss, and is removed. A part of a blob can't be checked.
//! - A directory is one store in a process, by whatever path it is opened.
//!
//! Without a quota nothing is ever removed but what is damaged.
//!
//! # Layout
//! ```text
//! casgate.lock                              held by every process that uses the directory
//! cas/<instance>/<2 hex>/<hash>-<size>      blobs
//! ac/<instance>/<2 hex>/<hash>-<size>       ActionResult messages, each in an envelope with a checksum
//! asset/<instance>/<kind>/<2 hex>/<hash>    assets, the same, by the hash of URI and qualifiers
//! ```

mod action_cache;
mod asset;
mod blobs;
mod bytestream;
mod caller;
mod capabilities;
mod cas;
mod completeness;
mod digest;
mod fault;
mod housekeeping;
mod instance;
mod location;
pub mod memory;
mod name;
mod objects;
mod opened;
mod rarely;
mod records;
mod remote_asset;
mod requests;
mod result;
mod space;
#[cfg(test)]
mod tests;
mod upload;
mod uploads;
mod verify;
mod walk;

use std::fs::File;
use std::sync::Arc;
use std::time::{Duration, Instant};

use bazel_remote_apis::build::bazel::remote::asset::v1 as asset_v1;
use bazel_remote_apis::build::bazel::remote::execution::v2 as reapi;
use bazel_remote_apis::google::bytestream as bytestream_v1;
use hyper::server::conn::http2;
use hyper_util::rt::{TokioExecutor, TokioIo};
use hyper_util::service::TowerToHyperService;
use tokio::io::{AsyncRead, AsyncWrite};
use tonic::service::Routes;

use self::blobs::Blobs;
use self::caller::OnBehalf;
use self::completeness::WholeTrees;
use self::fault::Fault;
use self::location::Location;
use self::memory::{Callers, Reserving};
use self::objects::Objects;
use self::records::Records;
use self::space::Waits;
use self::uploads::Uploads;
use self::walk::Turns;

pub use self::caller::Behalf;
pub use self::location::{OpenError, folder, found};
pub use self::space::Meters;
pub use self::verify::{Damage, Progress, Report, verify};

/// Largest message that is taken, in bytes. Clients send up to 4 MiB and what is around it.
const LARGEST_MESSAGE: usize = 16 << 20;

/// Flow-control windows of a connection and of its streams (RFC 9113, section 5.2), in bytes.
///
/// That of a connection never limits: a caller whose uploads wait holds back those streams, and nobody else's.
const CONNECTION_WINDOW: u32 = (1 << 31) - 1;
const STREAM_WINDOW: u32 = 64 << 10;
const FRAME: u32 = 256 << 10;

/// What the store keeps of a read whose client does not take it, in bytes: a piece of which HTTP/2 has sent a part, and one
/// more.
pub const READ_BYTES: u32 = 2 * blobs::PIECE as u32;

/// Streams at a time. Bazel stalls at a limit, and a connection of the gate carries many clients.
const STREAMS: u32 = 4096;

/// Most bytes that wait to be sent on one stream.
const SEND_BUFFER: usize = 1 << 20;

/// The part of the quota that interrupted uploads may take, as its divisor.
const PARKED: u64 = 8;

/// How often a connection looks for uploads that nobody came back for.
const TICK: Duration = Duration::from_secs(60);

/// An opened store. Clones share it.
#[derive(Clone, Debug)]
pub struct Store {
    cache: Arc<Cache>,
    routes: Routes,
}

impl Store {
    /// Opens the store that `url` names: `file:/absolute/directory` (percent-encoded where needed)
    /// or `memory:`. The directory is created if it isn't there. A directory that this process has open already, by whatever
    /// name, is the same store: it has one account.
    ///
    /// Needs a tokio runtime, of which it uses a blocking thread.
    ///
    /// # Errors
    /// [`OpenError`]: an unknown scheme, a path that is not absolute, or a directory that can't be
    /// created or written to.
    pub async fn open(url: &str) -> Result<Self, OpenError> {
        let owned = url.to_owned();
        let opening = tokio::task::spawn_blocking(move || opened::open(&owned));
        match opening.await {
            Ok(store) => store,
            // The runtime is shutting down, or the thread panicked.
            Err(error) => Err(OpenError::Interrupted(error.into())),
        }
    }

    fn at(location: Location) -> Self {
        let housekeeping = housekeeping::start(Arc::clone(&location.objects), location.sweep);
        let root = location.root.clone();
        let uploads = Arc::default();
        let objects = Objects::new(location.objects, root, housekeeping, Arc::downgrade(&uploads));
        let cache = Arc::new(Cache {
            blobs: Blobs::new(objects.clone()),
            records: Records::new(objects.clone()),
            objects,
            uploads,
            turns: Turns::new(),
            whole_trees: completeness::no_trees(),
            _lock: location.lock,
        });
        let routes = routes(&cache);
        Self { cache, routes }
    }

    /// From now on the store keeps at most `quota` bytes, and removes what was not used for the longest time to stay below;
    /// None for as much as the disk takes. What it holds is found out at the first quota, while it serves.
    pub fn set_quota(&self, quota: Option<u64>, meters: Meters) {
        self.limit(quota, meters, Waits::default());
    }

    /// From now on, whether whole blobs are checked while they are read.
    pub fn set_verify_reads(&self, verifies: bool) {
        self.cache.blobs.set_verify(verifies);
    }

    fn limit(&self, quota: Option<u64>, meters: Meters, waits: Waits) {
        // First, so that these make way before objects do.
        self.cache.uploads.set_limit(quota.map(|quota| quota / PARKED));
        self.cache.objects.set_quota(quota, meters, waits);
    }

    /// Serves one HTTP/2 connection (prior knowledge, RFC 9113, section 3.3) until the peer closes
    /// it. Calls run as tasks of the current tokio runtime.
    ///
    /// What is kept for a call is reserved with its caller, of those that are given.
    pub async fn serve<IO>(self, io: IO, callers: Arc<dyn Callers>)
    where
        IO: AsyncRead + AsyncWrite + Unpin + Send + 'static,
    {
        let service = Reserving {
            routes: TowerToHyperService::new(OnBehalf(self.routes)),
            callers,
        };
        let connection = http2::Builder::new(TokioExecutor::new())
            .initial_connection_window_size(CONNECTION_WINDOW)
            .initial_stream_window_size(STREAM_WINDOW)
            .max_frame_size(FRAME)
            .max_concurrent_streams(STREAMS)
            .max_send_buf_size(SEND_BUFFER)
            // One connection carries many clients: those that cancel must not end it for the rest.
            .max_local_error_reset_streams(None)
            .max_pending_accept_reset_streams(STREAMS as usize)
            .auto_date_header(false)
            .serve_connection(TokioIo::new(io), service);
        let mut connection = std::pin::pin!(connection);
        let mut tick = tokio::time::interval(TICK);
        loop {
            tokio::select! {
                result = &mut connection => {
                    if let Err(error) = result {
                        tracing::debug!(%error, "a connection to the store broke");
                    }
                    return;
                }
                _ = tick.tick() => self.cache.uploads.expire(Instant::now()),
            }
        }
    }
}

/// What all services work on.
#[derive(Debug)]
struct Cache {
    objects: Objects,
    blobs: Blobs,
    records: Records,
    uploads: Arc<Uploads>,
    /// Whose turn it is to walk through trees.
    turns: Turns,
    whole_trees: WholeTrees,
    _lock: Option<File>,
}

fn routes(cache: &Arc<Cache>) -> Routes {
    use asset_v1::{fetch_server::FetchServer, push_server::PushServer};
    use bytestream_v1::byte_stream_server::ByteStreamServer;
    use reapi::action_cache_server::ActionCacheServer;
    use reapi::capabilities_server::CapabilitiesServer;
    use reapi::content_addressable_storage_server::ContentAddressableStorageServer;

    /// One service of the cache, with its message limit.
    macro_rules! service {
        ($server:ident) => {
            $server::from_arc(Arc::clone(cache)).max_decoding_message_size(LARGEST_MESSAGE)
        };
    }
    Routes::new(service!(ContentAddressableStorageServer))
        .add_service(service!(ByteStreamServer))
        .add_service(service!(ActionCacheServer))
        .add_service(service!(CapabilitiesServer))
        .add_service(service!(FetchServer))
        .add_service(service!(PushServer))
        .prepare()
}

/// Takes SHA-256, by number or unnamed (remote_execution.proto, `DigestFunction`).
fn check_digest_function(value: i32) -> Result<(), Fault> {
    use reapi::digest_function::Value;
    match Value::try_from(value) {
        Ok(Value::Unknown | Value::Sha256) => Ok(()),
        _ => Err(Fault::DigestFunction(value)),
    }
}
