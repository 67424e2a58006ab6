//! The embedded store of the real program, and clients that push to it in the clear.

use std::net::{IpAddr, SocketAddr};
use std::path::{Path, PathBuf};
use std::time::Duration;

use bazel_remote_apis::build::bazel::remote::asset::v1::fetch_client::FetchClient;
use bazel_remote_apis::build::bazel::remote::asset::v1::push_client::PushClient;
use bazel_remote_apis::build::bazel::remote::asset::v1::{FetchBlobRequest, PushBlobRequest};
use bazel_remote_apis::build::bazel::remote::execution::v2 as reapi;
use bazel_remote_apis::google::bytestream::byte_stream_client::ByteStreamClient;
use bazel_remote_apis::google::bytestream::{ReadRequest, WriteRequest};
use futures_util::stream;
use reapi::action_cache_client::ActionCacheClient;
use reapi::batch_update_blobs_request::Request as Update;
use reapi::content_addressable_storage_client::ContentAddressableStorageClient;
use tokio::sync::mpsc;
use tonic::Status;
use tonic::transport::{Channel, Endpoint};

use super::gate::{Config, Gate};
pub(crate) use super::noise::{Blob, Random, digest, hash};

/// The real program with a store in this folder, and what connects to it in the clear. `keys` are further keys of the store,
/// `commands` run in a shell before it.
pub(crate) async fn program(folder: &Path, keys: &str, commands: &str) -> (Gate, Clients) {
    program_with(folder, keys, commands, "").await
}

/// The same with further keys of the configuration.
pub(crate) async fn program_with(folder: &Path, keys: &str, commands: &str, top: &str) -> (Gate, Clients) {
    let mut config = Config::to_endpoint("unix:/nowhere");
    config.top.push_str("\nlog = { format = \"json\" }\n");
    config.top.push_str(top);
    config.backends = format!("[backends.store]\nstore = \"file:{}\"\n{keys}\n", folder.display());
    let more = &mut config.more_listeners;
    more.push_str("[[listen]]\naddress = \"127.0.0.1:0\"\ntls = false\n");
    config.rule("all", "\"anonymous\"", &["pull", "push"], None);
    let gate = Gate::spawn_after(commands, config).await;
    let clients = Clients::of(gate.clear_address().await);
    (gate, clients)
}

/// An upload that is open. Dropped, it breaks off.
pub(crate) struct Open {
    call: tokio::task::JoinHandle<Result<(), Status>>,
    _messages: mpsc::Sender<WriteRequest>,
}

impl Drop for Open {
    fn drop(&mut self) {
        self.call.abort();
    }
}

/// A name that was given to a blob or a directory.
#[derive(Clone, Debug)]
pub(crate) struct Named {
    pub(crate) name: u64,
    pub(crate) kind: Kind,
    pub(crate) blob: Blob,
}

/// What names it.
#[derive(Clone, Copy, Debug)]
pub(crate) enum Kind {
    ActionResult,
    BlobAsset,
}

/// Bytes in one message of an upload.
const PIECE: usize = 64 << 10;

/// Clients of one connection.
pub(crate) struct Clients {
    address: SocketAddr,
    cas: ContentAddressableStorageClient<Channel>,
    bytes: ByteStreamClient<Channel>,
    actions: ActionCacheClient<Channel>,
    fetch: FetchClient<Channel>,
    push: PushClient<Channel>,
}

impl Clients {
    pub(crate) fn of(address: SocketAddr) -> Clients {
        Clients::from(address, None)
    }

    /// The same from another address, which is another caller.
    pub(crate) fn elsewhere(&self, from: IpAddr) -> Clients {
        Clients::from(self.address, Some(from))
    }

    fn from(address: SocketAddr, from: Option<IpAddr>) -> Clients {
        let endpoint = Endpoint::from_shared(format!("http://{address}")).unwrap();
        let channel = endpoint.local_address(from).connect_lazy();
        Clients {
            address,
            cas: ContentAddressableStorageClient::new(channel.clone()).max_decoding_message_size(8 << 20),
            bytes: ByteStreamClient::new(channel.clone()),
            actions: ActionCacheClient::new(channel.clone()),
            fetch: FetchClient::new(channel.clone()),
            push: PushClient::new(channel),
        }
    }

    /// The same over a connection of its own.
    pub(crate) fn another(&self) -> Clients {
        Clients::of(self.address)
    }

    pub(crate) async fn missing(&mut self, blobs: &[Blob]) -> Vec<reapi::Digest> {
        let request = reapi::FindMissingBlobsRequest {
            blob_digests: blobs.iter().map(|blob| digest(&blob.bytes())).collect(),
            ..Default::default()
        };
        let answer = self.cas.find_missing_blobs(request).await.unwrap();
        answer.into_inner().missing_blob_digests
    }

    pub(crate) async fn check_blob(&mut self, blob: Blob) {
        let read = self.read(blob).await.unwrap();
        assert!(read == blob.bytes(), "{blob:?} has other bytes");
    }

    pub(crate) async fn read(&mut self, blob: Blob) -> Result<Vec<u8>, Status> {
        let digest = digest(&blob.bytes());
        let request = ReadRequest {
            resource_name: format!("blobs/{}/{}", digest.hash, digest.size_bytes),
            ..Default::default()
        };
        let mut pieces = self.bytes.read(request).await?.into_inner();
        let mut read = Vec::new();
        while let Some(piece) = pieces.message().await? {
            read.extend(piece.data);
        }
        Ok(read)
    }

    /// Begins an upload and sends all but its last byte, as far as that is taken, with these headers. It breaks off with what
    /// is given back.
    pub(crate) async fn begin(&self, blob: Blob, headers: &[(&'static str, String)]) -> Open {
        let data = blob.bytes();
        let digest = digest(&data);
        let name = format!("uploads/{}/blobs/{}/{}", blob.seed, digest.hash, digest.size_bytes);
        let (sender, receiver) = mpsc::channel(1);
        let messages = stream::unfold(receiver, |mut receiver: mpsc::Receiver<WriteRequest>| async {
            receiver.recv().await.map(|message| (message, receiver))
        });
        let mut request = tonic::Request::new(messages);
        for (header, value) in headers {
            request.metadata_mut().insert(*header, value.parse().unwrap());
        }
        let mut bytes = self.bytes.clone();
        let call = tokio::spawn(async move { bytes.write(request).await.map(drop) });
        let mut at = 0;
        for piece in data[..data.len() - 1].chunks(PIECE) {
            let message = WriteRequest {
                resource_name: name.clone(),
                write_offset: at,
                finish_write: false,
                data: piece.to_vec(),
            };
            at += piece.len() as i64;
            // What is not taken at once is more than the caller may have.
            let sent = tokio::time::timeout(Duration::from_millis(500), sender.send(message)).await;
            if !matches!(sent, Ok(Ok(()))) {
                break;
            }
        }
        Open {
            call,
            _messages: sender,
        }
    }

    pub(crate) async fn check_name(&mut self, named: &Named) {
        let blob = Some(digest(&named.blob.bytes()));
        assert_eq!(self.find_name(named).await.unwrap(), blob, "{named:?}");
    }

    /// The digest of what is named.
    pub(crate) async fn find_name(&mut self, named: &Named) -> Result<Option<reapi::Digest>, Status> {
        Ok(match named.kind {
            Kind::ActionResult => {
                let request = reapi::GetActionResultRequest {
                    action_digest: Some(action(named.name)),
                    ..Default::default()
                };
                let result = self.actions.get_action_result(request).await?.into_inner();
                result.stdout_digest
            }
            Kind::BlobAsset => {
                let request = FetchBlobRequest {
                    uris: vec![uri(named.name)],
                    ..Default::default()
                };
                self.fetch.fetch_blob(request).await?.into_inner().blob_digest
            }
        })
    }

    /// Small blobs in one call: the code of each.
    pub(crate) async fn batch(&mut self, blobs: &[Blob]) -> Result<Vec<i32>, Status> {
        let update = |blob: &Blob| {
            let data = blob.bytes();
            Update {
                digest: Some(digest(&data)),
                data,
                ..Default::default()
            }
        };
        let request = reapi::BatchUpdateBlobsRequest {
            requests: blobs.iter().map(update).collect(),
            ..Default::default()
        };
        let answer = self.cas.batch_update_blobs(request).await?.into_inner();
        let codes = answer
            .responses
            .into_iter()
            .map(|one| one.status.unwrap_or_default().code);
        Ok(codes.collect())
    }

    pub(crate) async fn write(&mut self, blob: Blob) -> Result<(), Status> {
        let data = blob.bytes();
        let digest = digest(&data);
        let name = format!("uploads/{}/blobs/{}/{}", blob.seed, digest.hash, digest.size_bytes);
        let last = data.len().div_ceil(PIECE) - 1;
        let pieces: Vec<_> = data
            .chunks(PIECE)
            .enumerate()
            .map(|(index, piece)| WriteRequest {
                resource_name: name.clone(),
                write_offset: (index * PIECE) as i64,
                finish_write: index == last,
                data: piece.to_vec(),
            })
            .collect();
        let answer = self.bytes.write(stream::iter(pieces)).await?;
        assert_eq!(answer.into_inner().committed_size, digest.size_bytes);
        Ok(())
    }

    pub(crate) async fn name(&mut self, named: &Named) -> Result<(), Status> {
        let blob = Some(digest(&named.blob.bytes()));
        match named.kind {
            Kind::ActionResult => {
                let request = reapi::UpdateActionResultRequest {
                    action_digest: Some(action(named.name)),
                    action_result: Some(reapi::ActionResult {
                        stdout_digest: blob,
                        ..Default::default()
                    }),
                    ..Default::default()
                };
                self.actions.update_action_result(request).await.map(drop)
            }
            Kind::BlobAsset => {
                let request = PushBlobRequest {
                    uris: vec![uri(named.name)],
                    blob_digest: blob,
                    ..Default::default()
                };
                self.push.push_blob(request).await.map(drop)
            }
        }
    }
}

fn action(name: u64) -> reapi::Digest {
    digest(&name.to_le_bytes())
}

fn uri(name: u64) -> String {
    format!("urn:casgate:test:{name}")
}

/// Every file below a folder.
pub(crate) fn files(folder: &Path) -> Vec<PathBuf> {
    let mut found = Vec::new();
    let mut folders = vec![folder.to_owned()];
    while let Some(folder) = folders.pop() {
        // Before the first blob there is no folder, and files come and go.
        for entry in std::fs::read_dir(folder).into_iter().flatten().flatten() {
            match entry.file_type() {
                Ok(kind) if kind.is_dir() => folders.push(entry.path()),
                _ => found.push(entry.path()),
            }
        }
    }
    found
}

/// Those that are not finished.
pub(crate) fn unfinished(folder: &Path) -> Vec<PathBuf> {
    let mut files = files(folder);
    files.retain(|file| file.to_str().unwrap().contains('#'));
    files
}
