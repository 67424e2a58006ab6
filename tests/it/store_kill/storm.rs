//! Clients that push until they can't, and clients that look for what was pushed.

use std::net::SocketAddr;

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
use tonic::Status;
use tonic::transport::{Channel, Endpoint};

use super::acknowledged::{Blob, Kind, Log, Named, Random, digest};

/// Bytes in one message of an upload.
const PIECE: usize = 64 << 10;

/// Clients of one connection.
pub(super) struct Clients {
    address: SocketAddr,
    cas: ContentAddressableStorageClient<Channel>,
    bytes: ByteStreamClient<Channel>,
    actions: ActionCacheClient<Channel>,
    fetch: FetchClient<Channel>,
    push: PushClient<Channel>,
}

impl Clients {
    pub(super) fn of(address: SocketAddr) -> Clients {
        let channel = Endpoint::from_shared(format!("http://{address}"))
            .unwrap()
            .connect_lazy();
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
    pub(super) fn another(&self) -> Clients {
        Clients::of(self.address)
    }

    /// All that was acknowledged is there, and what was not is whole or not there. How many of the latter are.
    pub(super) async fn check(&mut self, log: &Log) -> usize {
        let missing = self.missing(&log.blobs).await;
        assert!(missing.is_empty(), "acknowledged, and gone: {missing:?}");
        for blob in &log.blobs {
            self.check_blob(*blob).await;
        }
        for named in &log.names {
            self.check_name(named).await;
        }
        let missing = self.missing(&log.unanswered).await;
        for blob in &log.unanswered {
            let data = blob.bytes();
            if !missing.contains(&digest(&data)) {
                self.check_blob(*blob).await;
            }
        }
        log.unanswered.len() - missing.len()
    }

    async fn missing(&mut self, blobs: &[Blob]) -> Vec<reapi::Digest> {
        let request = reapi::FindMissingBlobsRequest {
            blob_digests: blobs.iter().map(|blob| digest(&blob.bytes())).collect(),
            ..Default::default()
        };
        let answer = self.cas.find_missing_blobs(request).await.unwrap();
        answer.into_inner().missing_blob_digests
    }

    async fn check_blob(&mut self, blob: Blob) {
        let data = blob.bytes();
        let digest = digest(&data);
        let request = ReadRequest {
            resource_name: format!("blobs/{}/{}", digest.hash, digest.size_bytes),
            ..Default::default()
        };
        let mut pieces = self.bytes.read(request).await.unwrap().into_inner();
        let mut read = Vec::new();
        while let Some(piece) = pieces.message().await.unwrap() {
            read.extend(piece.data);
        }
        assert!(read == data, "{blob:?} has other bytes");
    }

    async fn check_name(&mut self, named: &Named) {
        let blob = Some(digest(&named.blob.bytes()));
        let found = match named.kind {
            Kind::ActionResult => {
                let request = reapi::GetActionResultRequest {
                    action_digest: Some(action(named.name)),
                    ..Default::default()
                };
                let result = self.actions.get_action_result(request).await.unwrap().into_inner();
                result.stdout_digest
            }
            Kind::BlobAsset => {
                let request = FetchBlobRequest {
                    uris: vec![uri(named.name)],
                    ..Default::default()
                };
                self.fetch.fetch_blob(request).await.unwrap().into_inner().blob_digest
            }
        };
        assert_eq!(found, blob, "{named:?}");
    }

    /// Small blobs in one call. Each of them is acknowledged for itself.
    async fn batch(&mut self, blobs: &[Blob]) -> Result<(), Status> {
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
        assert_eq!(codes.collect::<Vec<_>>(), vec![0; blobs.len()]);
        Ok(())
    }

    async fn write(&mut self, blob: Blob) -> Result<(), Status> {
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

    async fn name(&mut self, named: &Named) -> Result<(), Status> {
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

/// Pushes until the other end is gone.
pub(super) async fn push(mut clients: Clients, seed: u64) -> Log {
    let mut random = Random(seed);
    let mut log = Log::default();
    loop {
        if random.next().is_multiple_of(3) {
            let blob = Blob {
                seed: random.next(),
                size: (1 << 20) + (random.next() % (5 << 20)) as usize,
            };
            match clients.write(blob).await {
                Ok(()) => log.blobs.push(blob),
                Err(_) => {
                    log.unanswered.push(blob);
                    return log;
                }
            }
        } else {
            let count = 1 + random.next() % 6;
            let blobs: Vec<_> = (0..count)
                .map(|_| Blob {
                    seed: random.next(),
                    size: 1 + (random.next() % 60_000) as usize,
                })
                .collect();
            if clients.batch(&blobs).await.is_err() {
                log.unanswered.extend(blobs);
                return log;
            }
            log.blobs.extend(blobs);
        }
        let kinds = [Kind::ActionResult, Kind::BlobAsset];
        let named = Named {
            name: random.next(),
            kind: kinds[(random.next() % 2) as usize],
            blob: log.blobs[log.blobs.len() - 1],
        };
        if clients.name(&named).await.is_err() {
            return log;
        }
        log.names.push(named);
    }
}

fn action(name: u64) -> reapi::Digest {
    digest(&name.to_le_bytes())
}

fn uri(name: u64) -> String {
    format!("urn:casgate:test:{name}")
}
