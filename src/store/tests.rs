//! The store through real gRPC clients, over a byte stream in memory.
#![expect(clippy::unwrap_used, reason = "tests")]

mod action_cache;
mod asset;
mod bombs;
mod bytestream;
mod cas;
mod connection;
mod disk;
mod durability;
mod quota;
mod resume;
mod shares;

use std::future::{Ready, ready};
use std::io;
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::task::{Context, Poll};

use bazel_remote_apis::build::bazel::remote::asset::v1::fetch_client::FetchClient;
use bazel_remote_apis::build::bazel::remote::asset::v1::push_client::PushClient;
use bazel_remote_apis::build::bazel::remote::execution::v2 as reapi;
use bazel_remote_apis::google::bytestream::byte_stream_client::ByteStreamClient;
use bazel_remote_apis::google::bytestream::{ReadRequest, WriteRequest};
use futures_util::stream;
use http::Uri;
use hyper_util::rt::TokioIo;
use prometheus::{IntCounter, IntGauge};
use reapi::action_cache_client::ActionCacheClient;
use reapi::capabilities_client::CapabilitiesClient;
use reapi::content_addressable_storage_client::ContentAddressableStorageClient;
use tokio::io::DuplexStream;
use tonic::Status;
use tonic::codegen::Service;
use tonic::transport::{Channel, Endpoint};

use super::digest::BlobDigest;
use super::memory::Everything;
use super::{Behalf, Meters, Store};

/// What a store with a quota tells, to nobody else.
pub(super) fn meters() -> Meters {
    let gauge = |name| IntGauge::new(name, "of a test").unwrap();
    let counter = |name| IntCounter::new(name, "of a test").unwrap();
    Meters {
        bytes: gauge("bytes"),
        quota: gauge("quota"),
        evicted: counter("evicted"),
        evicted_bytes: counter("evicted_bytes"),
        damaged: counter("damaged"),
    }
}

/// Clients of one connection.
struct Remote {
    cas: ContentAddressableStorageClient<Channel>,
    bytestream: ByteStreamClient<Channel>,
    action_cache: ActionCacheClient<Channel>,
    capabilities: CapabilitiesClient<Channel>,
    fetch: FetchClient<Channel>,
    push: PushClient<Channel>,
    channel: Channel,
    connections: Arc<AtomicUsize>,
    /// Whose calls they are, by what the gate says.
    behalf: Behalf,
}

impl Remote {
    async fn in_memory() -> Self {
        Self::connect(&Store::open("memory:").await.unwrap())
    }

    fn connect(store: &Store) -> Self {
        let connections = Arc::new(AtomicUsize::new(0));
        let connector = Connector {
            store: store.clone(),
            connections: Arc::clone(&connections),
        };
        let channel = Endpoint::from_static("http://store")
            .initial_stream_window_size(1 << 20)
            .initial_connection_window_size(4 << 20)
            .connect_with_connector_lazy(connector);
        Self {
            cas: ContentAddressableStorageClient::new(channel.clone()),
            bytestream: ByteStreamClient::new(channel.clone()),
            action_cache: ActionCacheClient::new(channel.clone()),
            capabilities: CapabilitiesClient::new(channel.clone()),
            fetch: FetchClient::new(channel.clone()),
            push: PushClient::new(channel.clone()),
            channel,
            connections,
            behalf: Behalf::default(),
        }
    }

    /// The same for somebody else.
    fn on_behalf(mut self, caller: u128) -> Self {
        self.behalf.caller = caller;
        self
    }

    /// A request as the gate sends it.
    fn request<T>(&self, message: T) -> tonic::Request<T> {
        let mut request = tonic::Request::new(message);
        let mut headers = std::mem::take(request.metadata_mut()).into_headers();
        self.behalf.write(&mut headers);
        *request.metadata_mut() = tonic::metadata::MetadataMap::from_headers(headers);
        request
    }

    /// Connections that were opened so far.
    fn connections(&self) -> usize {
        self.connections.load(Ordering::Relaxed)
    }

    /// Stores a blob of the default instance.
    async fn store(&mut self, data: &[u8]) -> reapi::Digest {
        let digest = digest(data);
        self.update("", data).await;
        digest
    }

    async fn update(&mut self, instance: &str, data: &[u8]) {
        let request = batch(instance, [(digest(data), data)]);
        let request = self.request(request);
        let response = self.cas.batch_update_blobs(request).await.unwrap();
        let responses = response.into_inner().responses;
        assert_eq!(responses.len(), 1);
        assert_eq!(responses[0].status.as_ref().unwrap().code, 0);
    }

    /// Which of the digests are missing.
    async fn missing(
        &mut self,
        instance: &str,
        digests: impl IntoIterator<Item = reapi::Digest>,
    ) -> Vec<reapi::Digest> {
        let request = reapi::FindMissingBlobsRequest {
            instance_name: instance.to_owned(),
            blob_digests: digests.into_iter().collect(),
            ..Default::default()
        };
        let request = self.request(request);
        let response = self.cas.find_missing_blobs(request).await.unwrap();
        response.into_inner().missing_blob_digests
    }

    async fn holds(&mut self, digest: &reapi::Digest) -> bool {
        self.missing("", [digest.clone()]).await.is_empty()
    }

    /// Reads all that a range has to give.
    async fn read(&mut self, name: &str, offset: i64, limit: i64) -> Result<Vec<u8>, Status> {
        let request = ReadRequest {
            resource_name: name.to_owned(),
            read_offset: offset,
            read_limit: limit,
        };
        let request = self.request(request);
        let mut pieces = self.bytestream.read(request).await?.into_inner();
        let mut data = Vec::new();
        while let Some(piece) = pieces.message().await? {
            data.extend(piece.data);
        }
        Ok(data)
    }

    /// Sends the messages and ends the stream.
    async fn write(&mut self, messages: Vec<WriteRequest>) -> Result<i64, Status> {
        let request = self.request(stream::iter(messages));
        let response = self.bytestream.write(request).await?;
        Ok(response.into_inner().committed_size)
    }
}

/// Opens connections to a store.
struct Connector {
    store: Store,
    connections: Arc<AtomicUsize>,
}

impl Service<Uri> for Connector {
    type Response = TokioIo<DuplexStream>;
    type Error = io::Error;
    type Future = Ready<Result<Self::Response, Self::Error>>;

    fn poll_ready(&mut self, _: &mut Context<'_>) -> Poll<Result<(), Self::Error>> {
        Poll::Ready(Ok(()))
    }

    fn call(&mut self, _: Uri) -> Self::Future {
        let (near, far) = tokio::io::duplex(256 << 10);
        self.connections.fetch_add(1, Ordering::Relaxed);
        tokio::spawn(self.store.clone().serve(far, Arc::new(Everything::default())));
        ready(Ok(TokioIo::new(near)))
    }
}

fn digest(data: &[u8]) -> reapi::Digest {
    BlobDigest::of(data).to_proto()
}

/// Bytes that do not repeat within a piece.
fn noise(len: usize) -> Vec<u8> {
    let mut state = 0x9e37_79b9_7f4a_7c15_u64;
    let mut data = Vec::with_capacity(len + 8);
    while data.len() < len {
        state ^= state << 13;
        state ^= state >> 7;
        state ^= state << 17;
        data.extend(state.to_le_bytes());
    }
    data.truncate(len);
    data
}

fn blob_name(digest: &reapi::Digest) -> String {
    format!("blobs/{}/{}", digest.hash, digest.size_bytes)
}

fn upload_name(uuid: &str, digest: &reapi::Digest) -> String {
    format!("uploads/{uuid}/{}", blob_name(digest))
}

/// The messages for `data` from `offset` on, in pieces of `piece` bytes, the last of which finishes.
fn pieces(name: &str, data: &[u8], offset: usize, piece: usize) -> Vec<WriteRequest> {
    let mut messages = Vec::new();
    let mut at = offset;
    for data in data[offset..].chunks(piece) {
        messages.push(message(name, at, data));
        at += data.len();
    }
    if messages.is_empty() {
        messages.push(message(name, at, b""));
    }
    messages.last_mut().unwrap().finish_write = true;
    messages
}

fn message(name: &str, offset: usize, data: &[u8]) -> WriteRequest {
    WriteRequest {
        resource_name: name.to_owned(),
        write_offset: i64::try_from(offset).unwrap(),
        finish_write: false,
        data: data.to_vec(),
    }
}

fn batch<'a>(
    instance: &str,
    blobs: impl IntoIterator<Item = (reapi::Digest, &'a [u8])>,
) -> reapi::BatchUpdateBlobsRequest {
    let request = |(digest, data): (reapi::Digest, &[u8])| reapi::batch_update_blobs_request::Request {
        digest: Some(digest),
        data: data.to_vec(),
        ..Default::default()
    };
    reapi::BatchUpdateBlobsRequest {
        instance_name: instance.to_owned(),
        requests: blobs.into_iter().map(request).collect(),
        ..Default::default()
    }
}
